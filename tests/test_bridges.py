"""Bridges to other tools. Each test uses the tool, and is skipped if it is not installed."""

import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import nat4xr
from nat4xr import bridges
from nat4xr.bridges._session import read_session
from nat4xr.bridges.learning import drop_empty_repeats
from nat4xr.errors import quoted

GEESE = "STIM_00cat172_rec1_geese_excerpt1.wav"
SITE = "DRX006b"  # with a cell that has no trials
WITHOUT_TRIALS = "DRX006b-125-3"


@pytest.fixture
def ds(simulated_release: Path) -> xr.Dataset:
    return nat4xr.open_area("A1", simulated_release, progressbar=False)


@pytest.fixture
def spikes(simulated_release: Path) -> xr.Dataset:
    return nat4xr.open_spikes("A1", simulated_release, progressbar=False)


@pytest.mark.parametrize(
    ("function", "package", "extra"),
    [
        ("torch_dataset", "torch", "torch"),
        ("to_pynapple", "pynapple", "pynapple"),
        ("to_nwb", "pynwb", "nwb"),
    ],
)
def test_a_missing_tool_is_an_import_error_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, function: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"nat4xr.bridges._{extra}", raising=False)
    with pytest.raises(ImportError) as error:
        getattr(bridges, function)
    command = f'{shlex.quote(sys.executable)} -m pip install "nat4xr[{extra}]"'
    assert str(error.value).endswith(command)


@pytest.mark.parametrize(("system", "shown"), [("posix", "'a b'"), ("nt", '"a b"')])
def test_paths_in_commands_are_quoted_for_the_system(
    monkeypatch: pytest.MonkeyPatch, system: str, shown: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.name", system)
        command = quoted("a b")
    assert command == shown


def test_the_tools_are_not_imported_before_their_functions_are_asked_for() -> None:
    code = (
        "import sys, nat4xr; nat4xr.bridges.cells; "
        "sys.exit(any(tool in sys.modules for tool in ('torch', 'pynapple', 'pynwb', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- pandas -------------------------------------------------------------------------------------


def test_cells_has_a_row_a_cell_and_every_label(ds):
    table = bridges.cells(ds)
    assert table.index.name == "neuron"
    assert table.index.to_list() == ds.neuron.values.tolist()
    labels = {name for name, coord in ds.coords.items() if coord.dims == ("neuron",)}
    assert set(table.columns) == labels - {"neuron"}
    for name in table.columns:
        np.testing.assert_array_equal(table[name], ds[name])
    assert table["auditory"].dtype == bool


def test_cells_of_a_result_has_its_values_beside_the_labels(ds):
    snr = nat4xr.metrics.snr(ds.sel(subset="val").response)
    table = bridges.cells(snr)
    np.testing.assert_array_equal(table["snr"], snr)
    assert table.loc[WITHOUT_TRIALS, "site"] == SITE


def test_sounds_has_a_row_a_sound_and_every_label(ds, spikes):
    table = bridges.sounds(ds)
    assert table.loc[GEESE].to_dict() == {
        "category": 172,
        "excerpt": 1,
        "sound": "geese",
        "subset": "val",
    }
    pd.testing.assert_frame_equal(table, bridges.sounds(spikes))


def test_a_table_of_what_has_no_such_dim_is_refused(ds):
    with pytest.raises(ValueError, match="'neuron'"):
        bridges.cells(ds.isel(neuron=0))


def test_trials_has_a_row_a_trial_of_the_sites_that_are_selected(spikes):
    table = bridges.trials(spikes.sel(site=["ARM029a", SITE], subset="val"))
    assert table["site"].drop_duplicates().to_list() == ["ARM029a", SITE]
    there = table[table["site"] == SITE].drop(columns="site").set_index("position")
    pd.testing.assert_frame_equal(
        there, nat4xr.session_trials(spikes.sel(subset="val"), SITE), check_index_type=False
    )


# --- scikit-learn -------------------------------------------------------------------------------


def test_a_ridge_regression_on_the_design_matrix_is_strf_fit(ds):
    linear_model = pytest.importorskip("sklearn.linear_model")
    est = ds.sel(subset="est", site=SITE)
    model = nat4xr.strf.fit(est.spectrogram, est.psth, n_lags=8, penalties=[0.1])
    X, y, _ = bridges.design_matrix(est, n_lags=8)
    ridge = linear_model.Ridge(0.1 * model.penalty.attrs["alpha"])
    ridge.fit(X.astype(float), y.astype(float))
    np.testing.assert_allclose(
        ridge.coef_.reshape(model.kernel.shape), model.kernel, atol=1e-4 * abs(model.kernel).max()
    )


def test_the_labels_of_samples_keep_the_bins_of_a_sound_in_one_fold(ds):
    model_selection = pytest.importorskip("sklearn.model_selection")
    X, y, labels = bridges.design_matrix(ds.sel(site=SITE), n_lags=2)
    assert len(X) == len(y) == len(labels) == ds.sizes["stim"] * ds.sizes["time"]
    folds = model_selection.GroupKFold(5).split(X, y, groups=labels["stim"])
    for train, test in folds:
        assert not set(labels["stim"].iloc[train]) & set(labels["stim"].iloc[test])


def test_samples_and_their_labels_belong_together(ds):
    est = ds.sel(subset="est")
    _, y, labels = bridges.design_matrix(est, n_lags=1)
    row = 7 * est.sizes["time"] + 31
    assert labels.loc[row, "stim"] == est.stim[7]
    assert labels.loc[row, "time"] == est.time[31]
    assert labels.loc[row, "sound"] == est.sound[7]
    np.testing.assert_array_equal(y[row], est.psth.isel(stim=7, time=31))


def test_bins_in_which_a_cell_has_no_response_are_no_samples(ds):
    whole = ds.sel(subset="est", site=SITE).load()
    gappy = whole.assign(psth=whole.psth.copy())
    gappy.psth[2, 10:20, 1] = np.nan
    X, y, labels = bridges.design_matrix(gappy, n_lags=3)
    assert len(X) == len(labels) == whole.sizes["stim"] * whole.sizes["time"] - 10
    assert np.isfinite(y).all()
    all_X, _, all_labels = bridges.design_matrix(whole, n_lags=3)
    left_out = (all_labels["stim"] == whole.stim[2].item()) & all_labels["time"].between(0.1, 0.195)
    np.testing.assert_array_equal(X, all_X[~left_out])


def test_no_common_bin_is_an_error(ds):
    nothing = ds.assign(psth=ds.psth * np.nan)
    with pytest.raises(ValueError, match="drop_unrecorded"):
        bridges.design_matrix(nothing)


# --- splits -------------------------------------------------------------------------------------


def test_the_parts_of_a_split_are_all_est_sounds_each_once(ds):
    train, validation = bridges.split_est(ds, fraction=0.25)
    est = ds.sel(subset="est").stim.values.tolist()
    assert validation.sizes["stim"] == 3
    assert sorted([*train.stim.values, *validation.stim.values]) == sorted(est)
    assert train.stim.values.tolist() == [name for name in est if name in train.stim.values]


def test_a_split_depends_on_names_and_seed_alone(ds, simulated_release):
    (_, one), (_, again) = (bridges.split_est(ds, fraction=0.25, seed=3) for _ in range(2))
    _, reversed_ = bridges.split_est(ds.isel(stim=slice(None, None, -1)), fraction=0.25, seed=3)
    _, other = bridges.split_est(ds, fraction=0.25, seed=4)
    assert one.stim.values.tolist() == again.stim.values.tolist()
    assert set(one.stim.values) == set(reversed_.stim.values)
    assert set(one.stim.values) != set(other.stim.values)
    # The same on every machine, and in every version to come.
    assert {name.split("_", 1)[1] for name in one.stim.values} == {
        "cat263_rec1_dog_bark_excerpt1.wav",
        "cat349_rec1_typing_excerpt1.wav",
        "cat480_rec1_piano_excerpt2.wav",
    }


def test_a_split_is_lazy_and_keeps_the_labels(ds):
    train, _ = bridges.split_est(ds, fraction=0.25)
    assert train.response.chunks
    assert train.sel(site=SITE).sizes["neuron"] == 6
    assert train.sizes["rep"] == 1  # what est sounds have


@pytest.mark.parametrize("fraction", [0, 0.01, 1, 2])
def test_a_split_with_an_empty_part_is_refused(ds, fraction):
    with pytest.raises(ValueError, match="fraction"):
        bridges.split_est(ds, fraction=fraction)


def test_a_split_of_a_single_sound_says_how_to_keep_the_dim(ds):
    with pytest.raises(ValueError, match=r"\.sel\(stim=\[name\]\)"):
        bridges.split_est(ds.isel(stim=20))


def test_repeats_in_another_order_keep_those_with_a_response(ds):
    est = ds.sel(subset="est").isel(rep=slice(None, None, -1))
    assert drop_empty_repeats(est).rep.values.tolist() == [0]


def test_a_cell_without_trials_keeps_one_repeat(ds):
    val = ds.sel(subset="val").sel(neuron=[WITHOUT_TRIALS])
    assert drop_empty_repeats(val).sizes["rep"] == 1


# --- PyTorch ------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_an_item_is_stimulus_responses_and_valid_mask_of_a_sound(torch, ds):
    sounds = bridges.torch_dataset(ds)
    assert isinstance(sounds, torch.utils.data.Dataset)
    assert len(sounds) == ds.sizes["stim"]
    position = sounds.stims.index(GEESE)
    stim, response, valid = sounds[position]
    own = ds.sel(stim=GEESE)
    assert stim.dtype == response.dtype == torch.float32
    np.testing.assert_array_equal(stim[0], own.spectrogram.transpose("freq", "time"))
    np.testing.assert_array_equal(response, own.response.transpose("neuron", "rep", "time"))
    np.testing.assert_array_equal(valid, own.response.transpose("neuron", "rep", "time").notnull())
    assert not valid[sounds.neurons.index(WITHOUT_TRIALS)].any()


def test_repeats_that_no_sound_has_are_left_out(torch, ds):
    _, response, valid = bridges.torch_dataset(ds.sel(subset="est"))[0]
    assert response.shape == (ds.sizes["neuron"], 1, ds.sizes["time"])
    assert valid.any()


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("chunks", [{}, None])
def test_workers_read_what_the_main_process_reads(torch, simulated_release, context, chunks):
    ds = nat4xr.open_area("A1", simulated_release, chunks=chunks, progressbar=False)
    sounds = bridges.torch_dataset(ds.sel(subset="est"))
    first = sounds[0]  # the file is open, and dask's threads run, before workers start
    ds.sel(subset="val").psth.sum().compute()
    loader = torch.utils.data.DataLoader(
        sounds, batch_size=5, num_workers=1, multiprocessing_context=context
    )
    batches = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    for batch, parts, one in zip(batches, zip(*sounds, strict=True), first, strict=True):
        torch.testing.assert_close(batch, torch.stack(parts), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(batch[0], one, rtol=0, atol=0, equal_nan=True)


def test_items_are_held_without_the_repeats_that_were_not_presented(torch, ds):
    sounds = bridges.torch_dataset(ds)
    n_presented = int(ds.n_reps.max("neuron").sum()) * ds.sizes["neuron"] * ds.sizes["time"]
    held = 4 * n_presented + ds.spectrogram.nbytes
    assert len(pickle.dumps(sounds)) < held + 100_000 < 0.8 * ds.response.nbytes
    torch.testing.assert_close(pickle.loads(pickle.dumps(sounds))[3], sounds[3], equal_nan=True)


def test_waveforms_are_another_stimulus(torch, ds, simulated_release):
    waveforms = nat4xr.open_waveforms(simulated_release, stims=ds, progressbar=False)
    val = ds.sel(subset="val")
    sounds = bridges.torch_dataset(val, stimulus=waveforms.isel(stim=slice(None, None, -1)))
    stim, _, _ = sounds[2]
    assert stim.shape == (1, 66150)
    np.testing.assert_array_equal(stim[0], waveforms.sel(stim=val.stim.values[2]))


def test_a_stimulus_that_lacks_sounds_is_refused(torch, ds):
    with pytest.raises(KeyError, match="no stim"):
        bridges.torch_dataset(ds, stimulus=ds.sel(subset="est").spectrogram)


def test_what_is_no_stimulus_or_no_sound_is_refused(torch, ds):
    with pytest.raises(TypeError, match="must be a DataArray, not Dataset"):
        bridges.torch_dataset(ds, stimulus=ds[["spectrogram"]])
    with pytest.raises(ValueError, match="no sounds"):
        bridges.torch_dataset(ds.isel(stim=[]))


def test_a_cell_without_trials_is_never_valid(torch, ds):
    _, response, valid = bridges.torch_dataset(ds.sel(subset="val").sel(neuron=[WITHOUT_TRIALS]))[0]
    assert response.shape == (1, 1, ds.sizes["time"])
    assert not valid.any()


def test_a_loop_over_the_items_ends(torch, ds):
    sounds = bridges.torch_dataset(ds.isel(stim=slice(2)))
    assert len(list(sounds)) == 2
    with pytest.raises(IndexError, match="item 2"):
        sounds[2]
    with pytest.raises(ValueError, match="'neuron'"):
        bridges.torch_dataset(ds.isel(neuron=0))


# --- sessions: pynapple and NWB -----------------------------------------------------------------


def trains(spikes: xr.Dataset, neuron: str) -> np.ndarray:
    """All spikes of a cell at times of the session, put together trial by trial."""
    trials = nat4xr.session_trials(spikes, SITE)
    of_sound = {name: nat4xr.spike_trains(spikes, neuron, name) for name in set(trials["stim"])}
    return np.concatenate(
        [of_sound[t.stim][t.rep].astype(float) + t.onset for t in trials.itertuples()]
    )


def test_a_session_of_one_sound_has_its_trials_and_of_none_is_refused(spikes):
    one = read_session(spikes.sel(stim=GEESE), SITE)
    assert len(one.trials) == 20
    with pytest.raises(ValueError, match=f"none of the selected sounds was presented at .*{SITE}"):
        read_session(spikes.isel(stim=[]), SITE)


def test_a_pynapple_group_has_the_spikes_of_the_session_and_the_labels(spikes):
    nap = pytest.importorskip("pynapple")
    units, trials = bridges.to_pynapple(spikes, SITE)
    assert isinstance(units, nap.TsGroup)
    at_site = spikes.sel(site=SITE)
    with_trials = at_site.neuron.values[at_site.trials_cell_id.values != ""].tolist()
    assert units["neuron"].to_list() == with_trials
    assert WITHOUT_TRIALS not in with_trials
    for name in ("animal", "electrode", "auditory"):
        assert units[name].to_list() == at_site.sel(neuron=with_trials)[name].values.tolist()
    for i, neuron in enumerate(with_trials):
        np.testing.assert_allclose(units[i].times(), trains(spikes, neuron), atol=1e-6)
    assert len(trials) == len(nat4xr.session_trials(spikes, SITE))


def test_pynapple_trials_tell_sound_and_repeat(spikes):
    pytest.importorskip("pynapple")
    units, trials = bridges.to_pynapple(spikes, SITE)
    second = trials[(trials["stim"] == GEESE) & (trials["rep"] == 1)]
    neuron = units["neuron"].iloc[0]
    expected = nat4xr.spike_trains(spikes, neuron, GEESE)[1]
    np.testing.assert_allclose(
        units[0].restrict(second).times() - second.start[0], expected, atol=1e-6
    )


def test_trials_that_touch_stay_apart_in_pynapple(spikes):
    pytest.importorskip("pynapple")
    position = spikes.trial_position.where(spikes.trial_site == SITE)
    touching = spikes.assign_coords(
        trial_onset=spikes.trial_onset.where(spikes.trial_site != SITE, 1.5 * position)
    )
    _, trials = bridges.to_pynapple(touching, SITE)
    assert trials["stim"].to_list() == nat4xr.session_trials(spikes, SITE)["stim"].to_list()


def test_sessions_follow_a_selection(spikes):
    pytest.importorskip("pynapple")
    val = spikes.sel(subset="val").sel(site=SITE, auditory=True)
    units, trials = bridges.to_pynapple(val, SITE)
    assert set(trials["subset"]) == {"val"}
    assert set(units["auditory"]) == {True}
    with pytest.raises(KeyError, match="no site"):
        bridges.to_pynapple(spikes, "DRX999z")
    with pytest.raises(ValueError, match="has trials"):
        bridges.to_pynapple(spikes.sel(neuron=[WITHOUT_TRIALS]), SITE)


@pytest.fixture
def nwb_file(spikes, tmp_path) -> Path:
    pytest.importorskip("pynwb")
    path = tmp_path / f"{SITE}.nwb"
    bridges.to_nwb(spikes, SITE, path)
    return path


def test_an_nwb_file_has_units_trials_and_electrodes(spikes, nwb_file):
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(nwb_file, "r") as io:
        file = io.read()
        units, trials = file.units.to_dataframe(), file.trials.to_dataframe()
        electrodes = file.electrodes.to_dataframe()
    cells = bridges.cells(spikes.sel(site=SITE)).query("trials_cell_id != ''")
    assert units["neuron"].to_list() == cells.index.to_list()
    for name in ("animal", "site", "electrode", "unit_in_electrode", "auditory"):
        assert units[name].to_list() == cells[name].to_list()
    for unit in units.itertuples():
        np.testing.assert_allclose(unit.spike_times, trains(spikes, unit.neuron), atol=1e-6)
        assert unit.electrodes["electrode"].to_list() == [unit.electrode]
        np.testing.assert_array_equal(unit.obs_intervals, trials[["start_time", "stop_time"]])
    session = nat4xr.session_trials(spikes, SITE)
    for name in ("stim", "subset", "rep"):
        assert trials[name].to_list() == session[name].to_list()
    np.testing.assert_array_equal(trials["start_time"], session["onset"])
    assert set(electrodes["electrode"]) == set(cells["electrode"])
    assert set(electrodes["group_name"]) == {SITE}


def test_the_nwb_file_of_simulated_data_says_so(nwb_file):
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(nwb_file, "r") as io:
        file = io.read()
        assert file.session_description.startswith("SIMULATED")
        assert file.identifier.startswith("simulated")
        assert file.subject.subject_id == "DRX"
        assert file.experimenter is None


def test_the_nwb_file_of_recordings_names_who_recorded(nems0_release, tmp_path):
    pynwb = pytest.importorskip("pynwb")
    release = shutil.copytree(nems0_release, tmp_path / "release")
    spikes = nat4xr.open_spikes("PEG", release, progressbar=False)
    site = spikes.trial_site.values[0]
    bridges.to_nwb(spikes, site, tmp_path / "site.nwb")
    with pynwb.NWBHDF5IO(tmp_path / "site.nwb", "r") as io:
        file = io.read()
        assert file.experimenter == ("David, Stephen V.", "Pennington, Jacob R.")
        assert file.related_publications == ("https://doi.org/10.1371/journal.pcbi.1011110",)
        assert "CC-BY-4.0" in file.notes


def test_nwbinspector_finds_nothing_worse_than_a_suggestion(nwb_file):
    nwbinspector = pytest.importorskip("nwbinspector")
    found = list(nwbinspector.inspect_nwbfile(nwb_file))
    suggestion = nwbinspector.Importance.BEST_PRACTICE_SUGGESTION
    worse = [message for message in found if message.importance != suggestion]
    assert not worse, worse
    # It did look: the start of the session is not published.
    assert "check_session_start_time_old_date" in {m.check_function_name for m in found}


def test_an_nwb_file_obeys_the_schema(nwb_file):
    from pynwb import validate

    assert not validate(path=nwb_file)


# --- object storage -----------------------------------------------------------------------------


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """A bucket of an S3 server on loopback, and the options that lead to it."""
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    options: dict[str, object] = {"endpoint_url": f"http://{host}:{port}"}
    s3fs.S3FileSystem(**options).mkdir("nat4")
    yield options
    running.stop()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("where", ["memory", "s3"])
def test_an_area_in_object_storage_is_the_area(ds, where, request):
    pytest.importorskip("zarr")
    url = f"{where}://nat4/A1.zarr"
    options = request.getfixturevalue("s3") if where == "s3" else None
    part = ds.sel(site=SITE)
    part.to_zarr(url, storage_options=options, mode="w")
    there = nat4xr.set_labels(xr.open_zarr(url, storage_options=options))
    assert there.response.chunks
    xr.testing.assert_identical(there.load(), part.load())
    assert there.sel(subset="val", auditory=True).sizes["stim"] == 18
