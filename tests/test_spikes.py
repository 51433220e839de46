"""Spike times, and areas at other bin widths."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import dask
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import nat4xr
from nat4xr import bins, schema
from nat4xr.io import nems
from nat4xr.io.assemble import read_sites
from nat4xr.io.release import find_area
from nat4xr.spikes import (
    bin_spikes,
    open_spikes,
    session_trials,
    spike_trains,
    spikes_by_site,
)

from .support import old_xarray_cannot_select_nothing
from .support.releases import (
    EST,
    POPULATION,
    SOUNDS,
    VAL,
    Site,
    tiny_psth,
    tiny_release,
    tiny_sites,
    trial_counts,
    write,
)

GEESE = "STIM_00cat172_rec1_geese_excerpt1.wav"
PADDED = "TNC013a-22-3"  # TNC013a-022-3 in its site recording


@pytest.fixture(scope="module")
def release(nems0_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of(nems0_release, tmp_path_factory.mktemp("nems0"))


@pytest.fixture(scope="module")
def reference(release: Path) -> dict[str, np.ndarray]:
    return dict(np.load(release / "reference.npz"))


@pytest.fixture(scope="module")
def spikes(release: Path) -> xr.Dataset:
    return open_spikes("A1", release, progressbar=False)


@pytest.fixture(scope="module")
def simulated(simulated_release: Path) -> xr.Dataset:
    """Spikes between the trials, and a cell without trials."""
    return open_spikes("A1", simulated_release, progressbar=False)


@pytest.fixture
def no_computing() -> Iterator[None]:
    """Dask may build graphs, and compute nothing."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("computed before anyone asked")

    with dask.config.set(scheduler=refuse):
        yield


@pytest.fixture
def trials_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trials each reading of spikes takes."""
    counts: list[int] = []
    read = bins.TrialTable.read

    def counting(self: bins.TrialTable, trials: np.ndarray, *variables: xr.Variable):
        counts.append(len(trials))
        return read(self, trials, *variables)

    monkeypatch.setattr(bins.TrialTable, "read", counting)
    return counts


def copy_of(release: Path, folder: Path) -> Path:
    for file in release.iterdir():
        if file.suffix != ".nc":
            shutil.copy(file, folder)
    return folder


def raw_trials(release: Path) -> Iterator[tuple[str, nems.Signal, pd.DataFrame]]:
    """Of each site of A1 its name, its spike times and its trials in order of time."""
    for recording in read_sites(find_area("A1", release)):
        signal = recording.signals["resp"]
        trials = signal.epochs[signal.epochs["name"].str.startswith("STIM_")].sort_values("start")
        yield signal.channels[0].partition("-")[0], signal, trials.reset_index(drop=True)


def summed(array: xr.DataArray, n: int) -> xr.DataArray:
    """The sum of every n bins; NaN where one of them is."""
    return array.coarsen(time=n).construct(time=("time", "bin")).sum("bin", skipna=False)


def assert_same(one: xr.DataArray, other: xr.DataArray) -> None:
    """Equal values, NaN included, and equal labels; in the order of dims of the one."""
    xr.testing.assert_equal(one.load(), other.transpose(*one.dims).load())


# The spikes ------------------------------------------------------------------------------


def test_every_spike_of_every_trial_is_there_with_its_time(release, spikes):
    for site, signal, trials in raw_trials(release):
        neuron = spikes.sel(site=site).neuron.values[0]
        times = signal.data[spikes.trials_cell_id.sel(neuron=neuron).item()]
        for stim, presentations in trials.groupby("name"):
            trains = spike_trains(spikes, neuron, stim)
            assert len(trains) == len(presentations)
            for train, (_, trial) in zip(trains, presentations.iterrows(), strict=True):
                own = times[(times >= trial["start"]) & (times < trial["end"])]
                np.testing.assert_allclose(train, own - trial["start"], atol=1e-6)


def test_samples_are_counted_by_the_formats_own_rule(release, spikes):
    spikes = spikes.load()
    for site, signal, trials in raw_trials(release):
        onsets = np.round(trials["start"] * signal.fs).astype(int)
        expected = []
        for times in signal.data.values():
            samples = np.floor(times * signal.fs).astype(int)
            place = samples - onsets.to_numpy()[np.searchsorted(onsets, samples, "right") - 1]
            expected.extend(place[place < 1500])
        here = np.repeat(spikes.trial_site.values == site, spikes.n_spikes)
        assert sorted(spikes.spike_sample.values[here]) == sorted(expected)


def test_a_spikes_time_lies_in_its_sample(spikes):
    late = spikes.spike_time.astype(float) * 1000 - spikes.spike_sample
    assert late.min() > -2e-4
    assert late.max() < 1 + 2e-4


def test_spikes_of_a_trial_stand_together_by_cell_and_time(spikes):
    row = np.repeat(np.arange(spikes.sizes["trial"]), spikes.n_spikes)
    order = np.lexsort((spikes.spike_time, spikes.spike_neuron, row))
    assert spikes.n_spikes.attrs["sample_dimension"] == "spike"
    assert spikes.n_spikes.sum() == spikes.sizes["spike"]
    np.testing.assert_array_equal(spikes.first_spike[1:], np.cumsum(spikes.n_spikes)[:-1])
    np.testing.assert_array_equal(order, np.arange(spikes.sizes["spike"]))


def test_a_spike_belongs_to_a_cell_of_its_trials_site(spikes):
    sites = spikes.site.values[spikes.spike_neuron.values]
    assert (sites == np.repeat(spikes.trial_site.values, spikes.n_spikes)).all()


def test_trials_tell_the_order_of_the_session(release, spikes):
    for site, _, trials in raw_trials(release):
        table = session_trials(spikes, site)
        assert table.index.to_list() == list(range(len(trials)))
        assert table["stim"].to_list() == trials["name"].to_list()
        np.testing.assert_allclose(table["onset"], trials["start"], atol=1e-9)
        assert table["rep"].to_list() == trials.groupby("name").cumcount().to_list()
        assert (table["subset"] == "val").sum() == 18 * 20


def test_a_site_that_is_not_there_is_a_key_error_that_lists_those_that_are(spikes):
    with pytest.raises(KeyError, match=r"no site 'DRX000a': .*ARM031a, DRX007a, TNC013a"):
        session_trials(spikes, "DRX000a")


def test_sounds_and_cells_bear_the_labels_of_the_area(release, spikes):
    area = nat4xr.open_area("A1", release)
    for name, coord in area.coords.items():
        if name not in ("rep", "time", "freq"):
            xr.testing.assert_identical(spikes[name].variable, coord.variable)
    selected = spikes.sel(subset="val", animal="TNC", auditory=True)
    assert selected.sizes["stim"] == 18
    assert set(selected.animal.values) == {"TNC"}


def test_the_dataset_says_where_the_data_come_from(release, spikes):
    area = nat4xr.open_area("A1", release)
    assert area.attrs.items() <= spikes.attrs.items()


@pytest.mark.parametrize("subset", ["est", "val"])
def test_a_subset_is_opened_with_its_own_spikes_alone(release, spikes, subset):
    part = open_spikes("A1", release, subset=subset)
    assert set(part.subset.values) == {subset}
    assert set(part.trial_stim.values) == set(part.stim.values)
    assert part.sizes["spike"] == part.n_spikes.sum() == part.n_spikes[-1] + part.first_spike[-1]
    assert_same(
        bin_spikes(part, 10), bin_spikes(spikes, 10).sel(subset=subset, rep=part_reps(part))
    )


def part_reps(part: xr.Dataset) -> list[int]:
    return sorted(set(part.trial_rep.values))


def test_spikes_are_converted_once(release, spikes, monkeypatch):
    monkeypatch.setattr("nat4xr.io.ragged.read_sites", None)
    xr.testing.assert_identical(open_spikes("A1", release), spikes)


def test_opening_reads_no_spikes(release):
    spikes = open_spikes("A1", release)
    lazy = [name for name, v in spikes.variables.items() if "spike" in v.dims and not v._in_memory]
    assert lazy == ["spike_time", "spike_sample", "spike_neuron"]


def test_plain_xarray_opens_the_converted_file_in_equal_chunks(
    nems0_release, tmp_path, monkeypatch
):
    monkeypatch.setattr("nat4xr.schema.SPIKES_PER_CHUNK", 100)
    release = copy_of(nems0_release, tmp_path)
    open_spikes("A1", release, progressbar=False)
    (file,) = release.glob("A1_spikes_nat4xr-v*.nc")
    with xr.open_dataset(file, chunks={}) as ds:
        assert ds.chunks["spike"][0] == 100


def test_other_areas_and_subsets_are_refused(release):
    with pytest.raises(ValueError, match=r"'A2'.*'A1', 'PEG'"):
        open_spikes("A2", release)
    with pytest.raises(ValueError, match="not 'test'"):
        open_spikes("A1", release, subset="test")


def test_missing_files_are_not_downloaded_when_told_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"A1_single_sites\.zip"):
        open_spikes("A1", tmp_path, download=False)


def test_an_exported_ragged_array_reads_back_with_plain_xarray(spikes, tmp_path):
    spikes.to_netcdf(tmp_path / "spikes.nc")
    spikes.to_zarr(tmp_path / "spikes.zarr", consolidated=False, zarr_format=2)
    unindexed = spikes.drop_indexes([*spikes.xindexes])
    for back in (
        xr.open_dataset(tmp_path / "spikes.nc"),
        xr.open_zarr(tmp_path / "spikes.zarr", consolidated=False),
    ):
        xr.testing.assert_identical(back.drop_indexes([*back.xindexes]).load(), unindexed.load())


# One cell --------------------------------------------------------------------------------


def test_trains_come_in_the_order_of_the_repeats(spikes):
    trains = spike_trains(spikes, PADDED, GEESE)
    counts = bin_spikes(spikes, 1500).sel(neuron=PADDED, stim=GEESE).squeeze("time")
    assert [len(train) for train in trains] == counts.values.tolist()
    assert all((np.diff(train) > 0).all() for train in trains)


def test_a_cell_or_sound_that_is_not_there_is_a_key_error(spikes):
    with pytest.raises(KeyError, match="ARM000a-1-1"):
        spike_trains(spikes, "ARM000a-1-1", GEESE)
    with pytest.raises(KeyError, match=r"STIM_cat\.wav"):
        spike_trains(spikes, PADDED, "STIM_cat.wav")


def test_a_cell_without_trials_has_no_trains_and_no_responses(simulated):
    cell = without_trials(simulated)
    assert spike_trains(simulated, cell, GEESE) == []
    assert bin_spikes(simulated, 10).sel(neuron=cell).isnull().all()


def without_trials(ds: xr.Dataset) -> str:
    (cell,) = ds.neuron.values[ds.trials_cell_id.values == ""]
    return cell


# Bins ------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", ["A1", "PEG"])
def test_bins_of_10_ms_are_those_of_nems0(release, reference, area):
    val = bin_spikes(open_spikes(area, release, subset="val", progressbar=False), 10)
    val = val.sel(stim=reference["all_stims"][:18], neuron=reference[f"{area}_cells"])
    np.testing.assert_array_equal(val, reference[f"{area}_trials"])


@pytest.mark.parametrize("area", ["A1", "PEG"])
def test_est_spikes_are_those_of_the_population_recording(release, reference, area):
    est = bin_spikes(open_spikes(area, release, subset="est", progressbar=False), 10)
    est = est.sel(stim=reference["all_stims"][18:], neuron=reference[f"{area}_cells"])
    np.testing.assert_array_equal(est.squeeze("rep"), reference[f"{area}_psth"][18:])


@pytest.mark.parametrize("fine", [1, 2, 5])
def test_wider_bins_are_sums_of_narrower_ones(spikes, fine):
    for coarse in (10, 50):
        expected = summed(bin_spikes(spikes, fine), coarse // fine)
        np.testing.assert_array_equal(bin_spikes(spikes, coarse), expected)


def test_every_spike_is_counted_once(spikes):
    assert int(bin_spikes(spikes, 3).sum()) == spikes.sizes["spike"]


def test_bins_follow_a_selection_of_cells_sounds_and_trials(spikes):
    whole = bin_spikes(spikes, 10)
    selected = spikes.sel(animal=["DRX", "TNC"], subset="val").isel(
        neuron=slice(None, None, -1), stim=[3, 0, 7], trial=slice(None, None, -1)
    )
    expected = whole.sel(neuron=selected.neuron.values, stim=selected.stim.values)
    assert_same(bin_spikes(selected, 10), expected)


def test_presentations_that_were_selected_away_are_nan(spikes):
    early = spikes.isel(trial=spikes.trial_rep < 5)
    assert_same(bin_spikes(early, 10), bin_spikes(spikes, 10).isel(rep=slice(5)))
    first = spikes.isel(trial=(spikes.trial_position > 0) | (spikes.trial_site != "ARM031a"))
    gone = bin_spikes(first, 10).isnull() & bin_spikes(spikes, 10).notnull()
    assert int(gone.sum()) == 3 * 150


def test_one_cell_and_one_sound_selected_as_scalars_are_no_dims(spikes):
    one = bin_spikes(spikes.sel(neuron=PADDED, stim=GEESE), 10)
    assert one.dims == ("rep", "time")
    assert one.site.item() == "TNC013a"
    assert_same(one, bin_spikes(spikes, 10).sel(neuron=PADDED, stim=GEESE))


def test_spikes_selected_by_themselves_are_refused(spikes):
    with pytest.raises(ValueError, match="never along spike"):
        bin_spikes(spikes.isel(spike=slice(100)), 10)


@pytest.mark.parametrize("width", [0, -1, 7, 1.5, 3000, float("nan")])
def test_a_width_that_does_not_divide_the_trial_is_refused(spikes, width):
    with pytest.raises(ValueError, match=r"dt_ms must be one of 1, 2, 3, 4, 5, 6, 10, .*1500, not"):
        bin_spikes(spikes, width)


@pytest.mark.usefixtures("no_computing")
def test_bins_are_counted_when_they_are_asked_for(spikes, trials_read):
    response = bin_spikes(spikes, 1)
    assert isinstance(response.data, dask.array.Array)
    response.sel(animal="TNC").mean("rep")
    assert trials_read == []


def test_a_chunk_reads_the_trials_it_needs(spikes, trials_read):
    val, site = slice(18), positions(spikes.site == "DRX007a")
    bin_spikes(spikes, 1).isel(stim=val, neuron=site, rep=3).compute()
    assert trials_read == [18]


def positions(mask: xr.DataArray) -> slice:
    first, last = np.flatnonzero(mask)[[0, -1]]
    return slice(first, last + 1)


# Areas at other bin widths ---------------------------------------------------------------


@pytest.mark.parametrize("width", schema.BIN_WIDTHS_MS)
def test_an_area_opens_at_any_bin_width(release, width):
    ds = nat4xr.open_area("A1", release, dt_ms=width)
    assert ds.time.attrs["bin_width"] == width / 1000
    assert (ds.time.attrs["sound_on"], ds.time.attrs["sound_off"]) == (0.25, 1.25)
    np.testing.assert_array_equal(ds.time, np.arange(1500 // width) * width / 1000)
    for name in ("response", "psth", "spectrogram"):
        assert ds[name].sizes["time"] == 1500 // width
        assert ds[name].dtype == np.float32
        assert isinstance(ds[name].data, dask.array.Array)


def test_bin_widths_are_1_2_5_and_the_multiples_of_10_that_divide_the_trial():
    assert schema.BIN_WIDTHS_MS == (1, 2, 5, 10, 20, 30, 50, 60, 100, 150, 250, 300, 500, 750, 1500)


@pytest.mark.parametrize("width", [0, 3, 10.5, 40, 3000])
def test_another_bin_width_is_refused_with_those_allowed(tmp_path, width):
    with pytest.raises(ValueError, match=r"dt_ms must be one of 1, 2, 5, 10, 20, 30, .*1500, not"):
        nat4xr.open_area("A1", tmp_path, dt_ms=width)


@pytest.mark.parametrize("area", ["A1", "PEG"])
def test_bins_of_1_ms_sum_to_the_default_dataset(release, area):
    default = nat4xr.open_area(area, release).load()
    fine = nat4xr.open_area(area, release, dt_ms=1)
    np.testing.assert_array_equal(summed(fine.response, 10), default.response)
    xr.testing.assert_identical(fine.n_reps.load(), default.n_reps)
    np.testing.assert_array_equal(fine.time[::10], default.time)
    # Twentieths of spikes: equal but for rounding.
    np.testing.assert_allclose(summed(fine.psth, 10), default.psth, atol=1e-6)
    for name in default.coords.keys() - {"time"}:
        xr.testing.assert_identical(fine[name].variable, default[name].variable)


def test_finer_psth_is_the_mean_over_repeats(release):
    ds = nat4xr.open_area("A1", release, dt_ms=5)
    np.testing.assert_allclose(ds.psth, ds.response.mean("rep"), rtol=1e-6)


def test_finer_spectrogram_is_held_and_says_so(release):
    default = nat4xr.open_area("A1", release).spectrogram
    fine = nat4xr.open_area("A1", release, dt_ms=2).spectrogram
    np.testing.assert_array_equal(fine, np.repeat(default.values, 5, axis=-1))
    assert "held over the finer bins" in fine.attrs["comment"]


@pytest.mark.parametrize("chunks", [{}, None])
def test_coarser_bins_are_sums_of_the_default_ones(release, chunks):
    default = nat4xr.open_area("A1", release).load()
    coarse = nat4xr.open_area("A1", release, dt_ms=50, chunks=chunks).load()
    np.testing.assert_array_equal(coarse.response, summed(default.response, 5))
    np.testing.assert_allclose(coarse.psth, summed(default.psth, 5), rtol=1e-6)
    xr.testing.assert_identical(coarse.n_reps, default.n_reps)


def test_coarser_spectrogram_is_averaged_and_says_so(release):
    default = nat4xr.open_area("A1", release).spectrogram
    coarse = nat4xr.open_area("A1", release, dt_ms=50).spectrogram
    np.testing.assert_allclose(coarse, summed(default, 5) / 5, rtol=1e-6)
    assert "mean of the published values" in coarse.attrs["comment"]


def test_widths_from_spikes_and_widths_from_bins_agree(release):
    from_spikes = nat4xr.open_area("A1", release, dt_ms=2)
    from_bins = nat4xr.open_area("A1", release, dt_ms=50)
    np.testing.assert_array_equal(summed(from_spikes.response, 25), from_bins.response)


def test_a_cell_without_trials_has_no_finer_responses(simulated_release):
    default = nat4xr.open_area("A1", simulated_release).load()
    cell = without_trials(default)
    fine = nat4xr.open_area("A1", simulated_release, dt_ms=5).sel(neuron=cell).load()
    assert fine.response.isnull().all()
    assert fine.psth.isnull().all()
    assert (fine.n_reps == 0).all()
    coarse = nat4xr.open_area("A1", simulated_release, dt_ms=50).response.sel(neuron=cell)
    np.testing.assert_array_equal(coarse, summed(default.response.sel(neuron=cell), 5))
    assert coarse.sel(subset="est", rep=0).notnull().all()


def test_what_the_population_recording_leaves_out_stays_nan(tmp_path):
    sites = tiny_sites()
    psth = tiny_psth(sites)
    left_out = {"stim": [SOUNDS.index(VAL[1]), SOUNDS.index(EST[0])], "neuron": 1}
    psth[left_out["stim"], :, left_out["neuron"]] = np.nan
    release = write(tiny_release(sites, psth=psth), tmp_path)
    default = nat4xr.open_area("A1", release, progressbar=False).load()
    fine = nat4xr.open_area("A1", release, dt_ms=1, progressbar=False).load()
    assert fine.response.isel(left_out).isnull().all()
    assert fine.psth.isel(left_out).isnull().all()
    np.testing.assert_array_equal(summed(fine.response, 10), default.response)
    xr.testing.assert_identical(fine.n_reps, default.n_reps)


def test_repeats_may_be_more_and_fewer_than_20(tmp_path):
    sites = tiny_sites(repeats=3)
    first = sites["ARM029a"]
    sites["ARM029a"] = Site(first.spikes, [trial for trial in first.trials if trial[0] != VAL[0]])
    release = write(tiny_release(sites), tmp_path)
    fine = nat4xr.open_area("A1", release, dt_ms=1, progressbar=False)
    counts = trial_counts(sites)
    np.testing.assert_array_equal(
        summed(fine.response.sel(stim=VAL, rep=[0, 1, 2]), 10), counts[:2, :3]
    )
    assert fine.n_reps.sel(stim=VAL[0]).values.tolist() == [0, 0, 3]
    assert fine.psth.sel(stim=VAL[0], site="ARM029a").isnull().all()


@pytest.mark.usefixtures("no_computing")
@pytest.mark.parametrize("width", [1, 20])
def test_other_widths_are_computed_when_they_are_asked_for(release, width, trials_read):
    ds = nat4xr.open_area("A1", release, subset="val", dt_ms=width, progressbar=False)
    ds.sel(animal="TNC").response.mean("rep")
    assert trials_read == []


@pytest.mark.parametrize("chunks", [{}, None])
def test_as_many_trials_are_read_as_are_asked_for(release, spikes, chunks, trials_read):
    val = nat4xr.open_area("A1", release, subset="val", dt_ms=1, chunks=chunks)
    val.response.isel(neuron=positions(spikes.site == "DRX007a"), rep=3).load()
    assert trials_read == [18]


@pytest.mark.parametrize("width", [5, 50])
def test_without_dask_they_are_lazy_as_well(release, width):
    ds = nat4xr.open_area("A1", release, dt_ms=width, chunks=None)
    assert not ds.response.variable._in_memory
    assert not ds.psth.variable._in_memory
    with_dask = nat4xr.open_area("A1", release, dt_ms=width)
    xr.testing.assert_identical(ds.load(), with_dask.load())


@pytest.mark.parametrize(
    "key",
    [
        {"stim": 3, "rep": 0, "time": 7, "neuron": 2},
        {"stim": slice(20, 3, -4), "neuron": slice(None, None, -1), "time": slice(5, None, 7)},
        {"stim": [4, 4, 1], "rep": [19, 0], "time": [-1, 0], "neuron": [-1, 2, 2]},
        pytest.param({"stim": [], "rep": slice(0)}, marks=old_xarray_cannot_select_nothing),
        {
            "stim": xr.DataArray([2, 25, 2], dims="pair"),
            "neuron": xr.DataArray([0, 8, 1], dims="pair"),
        },
    ],
    ids=["scalars", "slices", "lists", "nothing", "pointwise"],
)
@pytest.mark.parametrize("name", ["response", "psth"])
@pytest.mark.parametrize("width", [5, 50])
def test_any_selection_is_that_of_the_loaded_array(release, width, name, key):
    array = nat4xr.open_area("A1", release, dt_ms=width, chunks=None)[name]
    key = {dim: positions for dim, positions in key.items() if dim in array.dims}
    xr.testing.assert_identical(array.isel(key).load(), array.copy().load().isel(key))


def test_chunks_are_the_users_to_choose(release):
    ds = nat4xr.open_area("A1", release, dt_ms=5, chunks={"neuron": 4, "stim": -1})
    assert ds.response.chunksizes["neuron"] == (4, 4, 1)
    assert ds.response.chunksizes["stim"] == (30,)


def test_what_was_rebinned_goes_to_workers_by_name(release):
    ds = nat4xr.open_area("A1", release, subset="val", dt_ms=5)
    received = pickle.loads(pickle.dumps(ds))
    xr.testing.assert_identical(received.load(), ds.load())


@pytest.mark.parametrize("width", [5, 50])
def test_what_was_rebinned_exports_and_reads_back_with_plain_xarray(release, tmp_path, width):
    ds = nat4xr.open_area("A1", release, dt_ms=width).sel(subset="val", animal=["ARM", "TNC"])
    ds.to_netcdf(tmp_path / "ds.nc")
    ds.to_zarr(tmp_path / "ds.zarr", consolidated=False, zarr_format=2)
    unindexed = ds.drop_indexes([*ds.xindexes]).load()
    for back in (
        xr.open_dataset(tmp_path / "ds.nc"),
        xr.open_zarr(tmp_path / "ds.zarr", consolidated=False),
    ):
        xr.testing.assert_identical(back.drop_indexes([*back.xindexes]).load(), unindexed)


# What does not fit -----------------------------------------------------------------------


def test_spikes_outside_every_trial_are_counted(simulated_release, simulated):
    for site, signal, trials in raw_trials(simulated_release):
        starts = np.round(trials["start"].to_numpy() * signal.fs).astype(int)
        for neuron, found, n_outside in zip(
            *(
                simulated.sel(site=site)[name].values
                for name in ("neuron", "trials_cell_id", "n_outside")
            ),
            strict=True,
        ):
            samples = np.floor(signal.data.get(found, np.empty(0)) * signal.fs).astype(int)
            inside = ((samples >= starts[:, None]) & (samples < starts[:, None] + 1500)).any(0)
            assert n_outside == (~inside).sum(), neuron
    assert simulated.n_outside.sum() > 0


def test_sites_are_summed_up(simulated_release, simulated):
    table = spikes_by_site(simulated)
    assert table["without_trials"].sum() == 1
    for site, signal, trials in raw_trials(simulated_release):
        row = table.loc[site]
        assert row["trials"] == len(trials)
        assert row["spikes"] + row["outside"] == sum(len(t) for t in signal.data.values())
        cells = row["neurons"] - row["without_trials"]
        assert row["rate"] == pytest.approx(row["spikes"] / (cells * len(trials) * 1.5))


def test_the_summary_follows_a_selection(spikes):
    geese = spikes_by_site(spikes.sel(stim=GEESE, animal="DRX"))
    counts = bin_spikes(spikes, 1500).sel(stim=GEESE, animal="DRX")
    assert geese.index.to_list() == ["DRX007a"]
    assert geese["trials"].item() == 20
    assert geese["spikes"].item() == counts.sum()


def test_a_cell_that_the_population_recording_does_not_have_is_reported(tmp_path):
    sites = tiny_sites()
    known = tiny_release(sites)
    sites["ARM029a"].spikes["ARM029a-99-1"] = [0.1, 0.2]
    release = write(tiny_release(sites) | {POPULATION: known[POPULATION]}, tmp_path)
    with pytest.warns(UserWarning, match=r"lacks are left out \(1\): .*: ARM029a-99-1"):
        spikes = open_spikes("A1", release, progressbar=False)
    assert "ARM029a-99-1" not in spikes.neuron
    assert open_spikes("A1", release).attrs["cells_left_out"] == "ARM029a-99-1"
    assert open_spikes("A1", write(known, tmp_path), progressbar=False).cells_left_out == ""


def test_a_sound_that_the_population_recording_does_not_have_is_reported(tmp_path):
    sites = tiny_sites()
    trials = [
        ("STIM_cat999_rec1_other_excerpt1.wav" if sound == EST[0] else sound, onset)
        for sound, onset in sites["ARM029a"].trials
    ]
    known = tiny_release(sites)
    sites["ARM029a"] = Site(sites["ARM029a"].spikes, trials)
    release = write(tiny_release(sites) | {POPULATION: known[POPULATION]}, tmp_path)
    with pytest.warns(UserWarning, match=r"ARM029a.*: STIM_cat999_rec1_other_excerpt1"):
        spikes = open_spikes("A1", release, progressbar=False)
    positions = set(session_trials(spikes, "ARM029a").index)
    (missing,) = set(range(len(trials))) - positions
    assert sorted(trials, key=lambda trial: trial[1])[missing][0].startswith("STIM_cat999")
    # Its spikes lie outside every trial; at finer bins the response is not to be had.
    at_site = spikes.sel(site="ARM029a")
    in_trials = spikes.n_spikes.isel(trial=spikes.trial_site == "ARM029a").sum()
    n_all = sum(len(times) for times in sites["ARM029a"].spikes.values())
    assert at_site.n_outside.sum() + in_trials == n_all
    fine = nat4xr.open_area("A1", release, dt_ms=5).sel(stim=EST[0], site="ARM029a")
    assert fine.response.isnull().all()
    assert (fine.n_reps == 0).all()


def test_a_site_in_two_recordings_is_refused(tmp_path):
    sites = tiny_sites()
    (cell, times), (other, other_times) = sites["ARM029a"].spikes.items()
    trials = sites["ARM029a"].trials
    halves = {"ARM029a": Site({cell: times}, trials), "x": Site({other: other_times}, trials)}
    release = write(tiny_release(halves), tmp_path)
    with pytest.raises(nat4xr.ReleaseError, match="second recording of site 'ARM029a'"):
        open_spikes("A1", release, progressbar=False)


def test_a_release_without_spikes_is_no_error(tmp_path):
    silent = {name: Site({cell: [] for cell in site.spikes}, site.trials)
              for name, site in tiny_sites().items()}  # fmt: skip
    spikes = open_spikes("A1", write(tiny_release(silent), tmp_path), progressbar=False)
    assert spikes.sizes["spike"] == 0
    assert bin_spikes(spikes, 10).sum() == 0
    assert [len(train) for train in spike_trains(spikes, "ARM029a-04-1", VAL[0])] == [0] * 20
    assert (spikes_by_site(spikes)["rate"] == 0).all()


@pytest.mark.reliability
def test_a_release_whose_sites_hold_none_of_its_cells_is_refused(tmp_path):
    release = tiny_release(cells=["ARM030a-04-1", "ARM030a-07-6", "TNC014a-22-3"])
    with (
        pytest.raises(nat4xr.ReleaseError, match=r"A1_single_sites.zip .*A1_NAT4"),
        pytest.warns(UserWarning, match="A1_single_sites.zip: ARM030a, TNC014a|lacks"),
    ):
        open_spikes("A1", write(release, tmp_path), progressbar=False)


def test_a_width_that_does_not_divide_a_shorter_trial_is_refused(tmp_path):
    release = write(tiny_release(), tmp_path)  # of trials of 200 ms
    with pytest.raises(ValueError, match="dt_ms must be one of 1, 2, 5, 10, 20, 50, 100, not 30"):
        nat4xr.open_area("A1", release, dt_ms=30, progressbar=False)


def test_converted_files_hold_no_strings_of_variable_length(release, spikes):
    # With these, to open a file twice at a time crashes libnetcdf.
    for name in ("A1_nat4xr-v1.nc", "A1_spikes_nat4xr-v1.nc"):
        with netCDF4.Dataset(release / name) as file:
            text = [v.dtype for v in file.variables.values() if v.dtype.kind not in "fiu"]
        assert text
        assert set(text) == {np.dtype("S1")}


def test_sounds_of_any_length_are_counted(tmp_path, monkeypatch):
    """Those of NAT4 have 1500 samples of 1 ms: these have more than two bytes can count."""
    monkeypatch.setattr("tests.support.releases.TRIAL_S", 40.0)
    monkeypatch.setattr("tests.support.releases.N_TIME", 4000)
    times = [0.0005, 32.7675, 32.7685, 39.9995]
    sites = {
        "ARM029a": Site({"ARM029a-04-1": times}, [(s, 40.0 * i) for i, s in enumerate(SOUNDS)])
    }
    release = write(tiny_release(sites), tmp_path)
    spikes = open_spikes("A1", release, progressbar=False)
    np.testing.assert_array_equal(spikes.spike_sample, [0, 32767, 32768, 39999])
    fine = bin_spikes(spikes, 1).sel(stim=VAL[0], rep=0, neuron="ARM029a-04-1")
    np.testing.assert_array_equal(np.flatnonzero(fine), spikes.spike_sample)


def test_trials_are_listed_of_the_sounds_that_are_selected(spikes):
    one = session_trials(spikes.sel(stim=VAL[0]), "ARM031a")
    pd.testing.assert_frame_equal(one, session_trials(spikes.sel(stim=[VAL[0]]), "ARM031a"))
    assert set(one["stim"]) == {VAL[0]}
    none = session_trials(spikes.isel(stim=[]), "ARM031a")
    assert list(none.columns) == list(one.columns)
    assert none.empty


def test_trains_of_a_selected_cell_and_sound_are_those_of_the_whole(spikes):
    cell = spikes.neuron.values[0]
    one = spikes.sel(neuron=cell, stim=VAL[0])
    for ours, whole in zip(
        spike_trains(one, cell, VAL[0]), spike_trains(spikes, cell, VAL[0]), strict=True
    ):
        np.testing.assert_array_equal(ours, whole)
    with pytest.raises(KeyError, match=f"no neuron 'x': .*{cell}"):
        spike_trains(one, "x", VAL[0])


@pytest.mark.parametrize(
    "function", [lambda ds: bin_spikes(ds, 10), lambda ds: session_trials(ds, "x")]
)
def test_what_is_not_from_open_spikes_is_refused(release, function):
    with pytest.raises(ValueError, match=r"nat4xr\.open_spikes"):
        function(nat4xr.open_area("A1", release, progressbar=False))
