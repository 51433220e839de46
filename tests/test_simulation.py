"""Simulated releases, which these tests read with plain tarfile, zipfile, h5py and pandas."""

import gzip
import io
import json
import re
import sys
import tarfile
import wave
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from benchmarks.realism import REAL_SNR, distributions
from nat4xr.simulation import _cells, _sound_names, simulate

AREAS = ["A1", "PEG"]
POPULATION = "{}_NAT4_ozgf.fs100.ch18.tgz"
PADDED_SITE = "TNC013a"
GAINS = ["shared_gain", "private_gain", "drift", "adaptation"]
POISSON = dict.fromkeys(GAINS, 0)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("linear"))


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("adaptive"), areas=["PEG"], model="adaptive")


@pytest.fixture(scope="module")
def poisson(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("poisson"), **POISSON)


@pytest.fixture(scope="module")
def truth(release) -> xr.Dataset:
    with xr.open_dataset(release / "truth.nc") as dataset:
        return dataset.load()


def members_of(file) -> dict[str, bytes]:
    """The members of a recording in their order, named without the recording."""
    content = {}
    with tarfile.open(fileobj=io.BytesIO(file), mode="r:gz") as tar:
        for member in tar:
            folder, name = member.name.split("/")
            assert name.startswith(folder + ".")
            content[name.removeprefix(folder + ".")] = tar.extractfile(member).read()
    return content


def table(text: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(text))


def samples(text: bytes) -> np.ndarray:
    return np.loadtxt(io.BytesIO(text), delimiter=",", ndmin=2)


def population(folder: Path, area: str) -> SimpleNamespace:
    files = members_of((folder / POPULATION.format(area)).read_bytes())
    return SimpleNamespace(
        files=files,
        meta=json.loads(files["meta.json"]),
        cells=json.loads(files["resp.json"])["chans"],
        epochs=table(files["resp.epoch.csv"]),
        resp=samples(files["resp.csv"]),
        stim=samples(files["stim.csv"]),
    )


def sites(folder: Path, area: str) -> dict[str, SimpleNamespace]:
    found = {}
    with zipfile.ZipFile(folder / f"{area}_single_sites.zip") as archive:
        for name in archive.namelist():
            files = members_of(archive.read(name))
            header = json.loads(files["resp.json"])
            epochs = table(files["resp.epoch.csv"])
            with h5py.File(io.BytesIO(files["resp.h5"])) as h5:
                spikes = {chan: dataset[:] for chan, dataset in h5.items()}
            found[header["recording"]] = SimpleNamespace(
                archive=name,
                files=files,
                header=header,
                epochs=epochs,
                trials=epochs[epochs.name.str.startswith("STIM_")].reset_index(drop=True),
                spikes=spikes,
            )
    return found


def sounds(epochs: pd.DataFrame) -> list[str]:
    return epochs.name[epochs.name.str.startswith("STIM_")].tolist()


def binned(times: np.ndarray, start: float) -> np.ndarray:
    """Spikes in each 10 ms of one trial, by the rule of the format's own software."""
    sample = np.floor(times * 1000).astype(int) - round(start * 1000)
    return np.bincount(sample[(sample >= 0) & (sample < 1500)] // 10, minlength=150)


def canonical(cell: str) -> tuple[str, int, int]:
    site, electrode, unit = cell.split("-")
    return site, int(electrode), int(unit)


# The layout


def test_a_release_holds_the_published_files_and_the_truth(release, nems0_release):
    published = {file.name for file in nems0_release.iterdir()} - {"reference.npz"}
    assert {file.name for file in release.iterdir()} == published | {"truth.nc"}


@pytest.mark.parametrize("area", AREAS)
def test_a_population_recording_is_laid_out_as_nems0_writes_it(release, nems0_release, area):
    ours, theirs = population(release, area), population(nems0_release, area)
    assert list(ours.files) == list(theirs.files)
    for signal in ("stim", "resp", "mask_est"):
        header, published = (
            json.loads(recording.files[f"{signal}.json"]) for recording in (ours, theirs)
        )
        assert list(header) == list(published)
        varying = {"chans"} if signal == "resp" else set()
        same = set(header) - varying
        assert {k: header[k] for k in same} == {k: published[k] for k in same}
    kinds = [
        epochs.name.str.replace(r"STIM_.*", "STIM", regex=True).tolist()
        for epochs in (ours.epochs, theirs.epochs)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("area", AREAS)
def test_a_site_recording_is_laid_out_as_nems0_writes_it(release, nems0_release, area):
    theirs = next(iter(sites(nems0_release, area).values()))
    for name, ours in sites(release, area).items():
        assert re.fullmatch(rf"{area}_single_sites/{area}_{name}_[0-9a-f]{{40}}\.tgz", ours.archive)
        assert list(ours.files) == list(theirs.files)
        assert list(ours.header) == list(theirs.header)
        same = set(ours.header) - {"chans", "recording", "segments", "meta"}
        assert {k: ours.header[k] for k in same} == {k: theirs.header[k] for k in same}
        assert ours.header["meta"] == {"siteid": name}
        assert ours.epochs.columns.tolist() == theirs.epochs.columns.tolist()
        n = 5 * 4  # rows of four trials
        kinds = [e.name[:n].str.replace(r"STIM_.*", "STIM", regex=True).tolist()
                 for e in (ours.epochs, theirs.epochs)]  # fmt: skip
        assert kinds[0] == kinds[1]


def test_spike_times_are_gzipped_float64_seconds_a_dataset_a_channel(release):
    for site in sites(release, "A1").values():
        assert sorted(site.spikes) == sorted(site.header["chans"])
        with h5py.File(io.BytesIO(site.files["resp.h5"])) as h5:
            for dataset in h5.values():
                assert (dataset.dtype, dataset.compression) == (np.float64, "gzip")
        end_s = site.header["segments"][0][1] / 1000
        for times in site.spikes.values():
            assert np.all(np.diff(times) >= 0)
            assert 0 <= times[0] < times[-1] < end_s
            np.testing.assert_array_equal(np.rint(times * 30_000) / 30_000, times)


@pytest.mark.parametrize("area", AREAS)
def test_the_text_of_every_sample_is_what_savetxt_writes(release, area):
    files = population(release, area).files
    for signal in ("stim", "resp", "mask_est"):
        text = files[f"{signal}.csv"]
        file = io.BytesIO()
        np.savetxt(file, samples(text), delimiter=",")
        assert text == file.getvalue()


def test_population_epochs_are_val_then_est_each_of_a_second_and_a_half(release, nems0_release):
    recording, published = population(release, "A1"), population(nems0_release, "A1")
    names = sounds(recording.epochs)
    assert names[:18] == sounds(published.epochs)[:18]
    assert len(names) == len(set(names)) == 18 + 12
    assert all(re.fullmatch(r"STIM_cat\d+_rec\d+_\w+_excerpt\d+\.wav", n) for n in names[18:])
    starts = recording.epochs[recording.epochs.name.str.startswith("STIM_")].start
    np.testing.assert_array_equal(starts, 1.5 * np.arange(30))
    mask = samples(recording.files["mask_est.csv"])
    np.testing.assert_array_equal(mask[:, 0], np.repeat([0, 1], [18 * 150, 12 * 150]))


def test_the_cell_table_has_a_row_a_cell_in_order_and_the_auditory_flag(release, truth):
    for area in AREAS:
        rows = pd.read_csv(release / f"{area}_pred_correlation.csv", index_col=0)
        assert rows.cellid.tolist() == population(release, area).cells
        assert rows.sig_auditory.dtype == bool
        np.testing.assert_array_equal(rows.sig_auditory, truth.auditory[truth.area == area])


def test_the_spectrogram_is_silent_around_the_sound_and_positive_in_it(release):
    stim = population(release, "A1").stim.reshape(30, 150, 18)
    assert not stim[:, :25].any()
    assert not stim[:, 125:].any()
    assert stim.min() == 0
    assert np.all(stim[:, 25:125].any(axis=(1, 2)))


# Trials


def test_each_site_presents_val_sounds_20_times_and_est_sounds_once_in_its_own_order(release):
    orders = []
    for site in sites(release, "A1").values():
        names = site.trials.name.tolist()
        orders.append(names)
        for name, n in Counter(names).items():
            assert n == (20 if name.startswith("STIM_00cat") else 1)
        first_est = next(i for i, name in enumerate(names) if name.startswith("STIM_cat"))
        assert first_est < len(names) - 12
    assert len({tuple(order) for order in orders}) == len(orders)


def test_trial_onsets_are_whole_milliseconds_off_the_10_ms_grid(release):
    for site in sites(release, "PEG").values():
        onsets_ms = site.trials.start.to_numpy() * 1000
        np.testing.assert_allclose(onsets_ms, np.rint(onsets_ms), atol=1e-6)
        gaps = np.diff(np.rint(onsets_ms)) - 1500
        assert (gaps.min(), gaps.max()) >= (1, 40)
        assert gaps.max() <= 50
        assert np.mean(np.rint(onsets_ms) % 10 != 0) > 0.8


def test_cells_also_fire_between_trials(release):
    site = next(iter(sites(release, "A1").values()))
    times = np.concatenate(list(site.spikes.values()))
    trial = np.searchsorted(site.trials.start, times, side="right") - 1
    assert np.any(times - site.trials.start.to_numpy()[trial] > 1.5)


@pytest.mark.parametrize("area", AREAS)
def test_the_population_recording_is_binned_from_the_sites_spikes(release, area):
    recording = population(release, area)
    names = sounds(recording.epochs)
    columns = {canonical(cell): i for i, cell in enumerate(recording.cells)}
    n_checked = 0
    for site in sites(release, area).values():
        for chan, times in site.spikes.items():
            total = np.zeros((len(names), 150))
            for trial in site.trials.itertuples():
                total[names.index(trial.name)] += binned(times, trial.start)
            total[:18] /= 20
            expected = recording.resp[:, columns[canonical(chan)]].reshape(-1, 150)
            np.testing.assert_array_equal(total, expected)
            n_checked += 1
    assert n_checked == len(recording.cells) - (area == "A1")


# Names


def test_one_tnc_site_writes_its_electrodes_with_one_more_zero(release):
    in_population = {c for c in population(release, "A1").cells if c.startswith(PADDED_SITE)}
    in_archive = set(sites(release, "A1")[PADDED_SITE].spikes)
    assert in_population
    assert in_archive == {re.sub(r"-(\d\d)-", r"-0\1-", cell) for cell in in_population}


def test_all_other_sites_write_the_names_of_the_population_recording(release):
    for area in AREAS:
        cells = set(population(release, area).cells)
        for name, site in sites(release, area).items():
            assert name == PADDED_SITE or cells.issuperset(site.spikes)


def test_exactly_one_a1_cell_has_no_trials_but_a_population_channel(release):
    for area, n_without in (("A1", 1), ("PEG", 0)):
        recording = population(release, area)
        recorded = {canonical(c) for site in sites(release, area).values() for c in site.spikes}
        without = [cell for cell in recording.cells if canonical(cell) not in recorded]
        assert len(without) == n_without
        assert without == recording.meta["simulated"]["cells_without_trials"]


def test_some_sound_files_differ_from_their_epoch_in_letter_case_alone(release):
    names = [n.removeprefix("STIM_") for n in sounds(population(release, "A1").epochs)]
    with zipfile.ZipFile(release / "wav.zip") as archive:
        files = [name.removeprefix("wav/") for name in archive.namelist()]
    assert files != names
    assert [name.lower() for name in files] == [name.lower() for name in names]


# Counts


def test_the_default_keeps_several_sites_animals_and_both_kinds_of_cell(release):
    a1, peg = (population(release, area).meta["simulated"] for area in AREAS)
    assert (a1["cells"], a1["auditory"], a1["est"]) == (17, 16, 12)
    assert (peg["cells"], peg["auditory"], peg["sites"]) == (8, 7, 2)
    assert a1["cells_by_animal"] == {"ARM": 3, "CRD": 2, "DRX": 6, "TNC": 6}


@pytest.mark.parametrize("area", AREAS)
def test_every_meta_file_says_how_the_release_was_simulated(release, area):
    recording = population(release, area)
    mark = recording.meta["simulated"]
    shared = {key: mark[key] for key in ("by", "seed", "scale", "sound_scale", "model")}
    assert shared.pop("by").startswith("nat4xr ")
    assert shared == {"seed": 0, "scale": 0.02, "sound_scale": 0.02, "model": "linear"}
    archives = sites(release, area)
    for site in archives.values():
        assert json.loads(site.files["meta.json"])["simulated"].items() <= mark.items()
    assert mark["cells"] == len(recording.cells)
    assert mark["sites"] == len(archives)
    assert (mark["val"], mark["repeats"]) == (18, 20)
    assert mark["cells_by_animal"] == Counter(cell[:3] for cell in recording.cells)


def test_full_size_has_the_published_counts():
    a1, peg = (_cells(area, 1.0, seed=0) for area in AREAS)
    assert (len(a1), len(peg)) == (849, 398)
    assert (sum(c.auditory for c in a1), sum(c.auditory for c in peg)) == (777, 339)
    per_site = Counter(cell.site for cell in a1)
    assert (len(per_site), len({cell.site for cell in peg})) == (22, 11)
    by_animal = Counter(cell.site[:3] for cell in a1)
    assert by_animal == {"ARM": 165, "CRD": 36, "DRX": 244, "TNC": 404}
    assert {cell.site[:3] for cell in peg} == {"ARM"}
    largest = [("DRX006b", 95), ("DRX008b", 86), ("DRX007a", 63), ("TNC018a", 60), ("TNC017a", 57)]
    assert per_site.most_common(5) == largest
    assert [c.cell_id for c in a1[:3]] == ["ARM029a-04-1", "ARM029a-07-6", "ARM029a-07-7"]
    assert all(cell.auditory for cell in a1[:3])
    assert len({cell.cell_id for cell in a1 + peg}) == 849 + 398


@pytest.mark.parametrize("scale", [1e-9, 0.02, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_scale_has_the_padded_site_and_the_cell_without_trials(scale, seed):
    cells = _cells("A1", scale, seed)
    assert any(cell.trials_cell_id.startswith(f"{PADDED_SITE}-0") for cell in cells)
    assert sum(cell.trials_cell_id == "" for cell in cells) == 1
    per_site = Counter(cell.site for cell in cells if cell.trials_cell_id)
    assert set(per_site) == {cell.site for cell in cells}
    assert len(cells) >= 9
    assert {"ARM", "DRX", "TNC"} <= {site[:3] for site in per_site}


def test_sounds_and_cells_may_outnumber_the_published_ones():
    assert len(set(_sound_names(3 * 575))) == 18 + 3 * 575
    for area, n_published in (("A1", 849), ("PEG", 398)):
        assert len({cell.cell_id for cell in _cells(area, 3.0, seed=0)}) == 3 * n_published


# The truth


def test_the_truth_is_labelled_by_the_releases_own_cells_and_sounds(release, truth):
    recordings = {area: population(release, area) for area in AREAS}
    assert truth.rate.dims == ("stim", "time", "neuron")
    assert truth.rate.dtype == np.float32
    assert truth.stim.values.tolist() == sounds(recordings["A1"].epochs)
    for area, recording in recordings.items():
        assert truth.neuron[truth.area == area].values.tolist() == recording.cells
    np.testing.assert_allclose(truth.time, np.arange(150) / 100)
    np.testing.assert_allclose(truth.freq[[0, -1]], [200, 20_000])
    assert truth.kernel.dims == ("neuron", "freq", "lag")


def test_the_truth_may_be_opened_several_times_at_once(release):
    # Strings of variable length would crash Python: https://github.com/Unidata/netcdf-c/issues/2510
    with h5py.File(release / "truth.nc") as file:
        texts = {name: h5py.check_string_dtype(file[name].dtype) for name in file}
    assert [name for name, text in texts.items() if text and text.length is None] == []


def test_linear_rates_follow_from_the_kernels_and_the_published_spectrogram(release, truth):
    x = np.log1p(population(release, "PEG").stim.reshape(30, 150, 18))
    for neuron in truth.neuron[truth.area == "PEG"].values:
        cell = truth.sel(neuron=neuron)
        drive = np.array(
            [
                sum(np.convolve(x[i, :, f], cell.kernel[f])[:150] for f in range(18))
                for i in range(30)
            ]
        )
        rate = float(cell.gain) * np.log1p(np.exp(float(cell.offset) + drive))
        np.testing.assert_allclose(cell.rate, rate, rtol=1e-3, atol=1e-6)


def test_adaptive_rates_follow_from_the_shared_features_and_the_published_spectrogram(adaptive):
    truth = xr.load_dataset(adaptive / "truth.nc")
    x = np.log1p(population(adaptive, "PEG").stim.reshape(30, 150, 18))
    past = np.zeros_like(x)
    step = 1 - np.exp(-0.01 / truth.adaptation_tau.values)
    for t in range(1, 150):
        past[:, t] = past[:, t - 1] + step * (x[:, t - 1] - past[:, t - 1])
    change = x - truth.adaptation_weight.values * past
    channels = np.stack([np.maximum(change, 0), np.maximum(-change, 0)])
    lagged = np.stack(
        [np.pad(channels, ((0, 0), (0, 0), (lag, 0), (0, 0)))[:, :, :150] for lag in range(25)]
    )
    hidden = np.log1p(np.exp(np.einsum("lpstf,hpfl->sth", lagged, truth.hidden_kernel) - 2))
    drive = hidden @ truth.readout.values.T + truth.offset.values
    rate = truth.gain.values * np.log1p(np.exp(drive))
    np.testing.assert_allclose(truth.rate, rate, rtol=1e-3, atol=1e-6)


def test_without_gains_averages_scatter_about_the_true_rates_as_poisson_counts_do(poisson):
    truth = xr.load_dataset(poisson / "truth.nc")
    for area in np.unique(truth.area):
        rate = truth.rate[:, :, truth.area == area].values
        psth = population(poisson, area).resp.reshape(rate.shape)
        n_trials = np.repeat([20, 1], [18, 12])[:, None, None]
        # Over 250 ms, in which even slow cells are expected to fire in 20 trials.
        expected, observed = ((n_trials * x).reshape(30, 6, 25, -1).sum(2) for x in (rate, psth))
        for part in (slice(0, 18), slice(18, 30)):
            total = expected[part].sum()
            assert abs(observed[part].sum() - total) < 3 * np.sqrt(total)
        z = (observed[:18] - expected[:18]) / np.sqrt(expected[:18])
        assert z.var() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("model", ["release", "adaptive"])
def test_each_trial_is_a_poisson_count_about_the_true_rate_times_the_true_gains(model, request):
    folder = request.getfixturevalue(model)
    truth = xr.load_dataset(folder / "truth.nc")
    trials = trials_of(folder, truth)
    assert trials.deviation.mean() == pytest.approx(1, abs=0.1)
    # The gains are needed to say so, as they stand: sound by sound, repeat by repeat.
    rates_alone = ((trials.spikes - trials.rate) ** 2 / trials.rate).mean()
    assert rates_alone > 1.2


def trials_of(folder: Path, truth: xr.Dataset) -> pd.DataFrame:
    """A row a trial of each cell, in the order of the session, with its gains."""
    cells = {canonical(cell): cell for cell in truth.neuron.values}
    in_trial = truth.rate.sum("time")
    rows = []
    for area in np.unique(truth.area):
        for name, site in sites(folder, area).items():
            rep = site.trials.groupby("name").cumcount().to_numpy()
            at = {"stim": xr.DataArray(site.trials.name, dims="trial"),
                  "rep": xr.DataArray(rep, dims="trial")}  # fmt: skip
            for chan, times in site.spikes.items():
                cell = truth[GAINS].sel(neuron=cells[canonical(chan)]).sel(at)
                rate = in_trial.sel(neuron=cells[canonical(chan)], stim=at["stim"])
                spikes = [binned(times, start).sum() for start in site.trials.start]
                gains = {cause: cell[cause].values for cause in GAINS}
                expected = rate.values * np.prod(list(gains.values()), axis=0)
                rows.append(
                    pd.DataFrame(
                        {
                            "site": name,
                            "cell": cells[canonical(chan)],
                            "stim": site.trials.name,
                            "start": site.trials.start,
                            "spikes": spikes,
                            "rate": rate.values,
                            "deviation": (spikes - expected) ** 2 / expected,
                            **gains,
                        }
                    )
                )
    return pd.concat(rows, ignore_index=True)


def test_gains_are_1_on_average_and_those_that_are_turned_off_are_1_everywhere(truth, poisson):
    is_val = truth.stim.str.startswith("STIM_00cat")
    presented = truth.rep < xr.where(is_val, 20, 1)
    with xr.open_dataset(poisson / "truth.nc") as off:
        for cause in GAINS:
            gain = truth[cause]
            assert gain.dims == ("stim", "rep", "neuron")
            assert (gain.notnull() == presented).all()
            np.testing.assert_allclose(gain.mean(["stim", "rep"]), 1, rtol=1e-5)
            assert (gain.std(["stim", "rep"]) > 0).all()
            xr.testing.assert_equal(off[cause], xr.ones_like(gain).where(presented))


@pytest.mark.parametrize("cause", GAINS)
def test_each_gain_can_be_turned_off_by_itself(tmp_path, truth, cause):
    simulate(tmp_path, areas=["PEG"], **{cause: 0})
    with xr.open_dataset(tmp_path / "truth.nc") as other:
        assert other[cause].max() == other[cause].min() == 1
        rest = ["rate", *(gain for gain in GAINS if gain != cause)]
        xr.testing.assert_equal(other[rest].load(), truth[rest].sel(neuron=other.neuron))


def test_gains_are_shared_within_a_site_as_far_as_tuning_is(truth):
    log = np.log(truth.shared_gain).stack(trial=["stim", "rep"]).dropna("trial")
    tuning = np.sqrt((truth.kernel**2).sum("lag"))
    tuning = tuning / np.sqrt((tuning**2).sum("freq")).where(truth.auditory, 1)
    site_of = [cell.split("-")[0] for cell in truth.neuron.values]
    error = 1 / np.sqrt(log.sizes["trial"])
    deviations = []
    for site in set(site_of):
        cells = [i for i, other in enumerate(site_of) if other == site and truth.auditory[i]]
        measured = np.corrcoef(log.isel(neuron=cells).transpose("neuron", "trial").values)
        vectors = tuning.isel(neuron=cells).values
        expected = (1 + vectors @ vectors.T) / 2
        deviations.extend((measured - expected)[np.triu_indices(len(cells), 1)] / error)
    assert len(deviations) > 20
    assert np.abs(deviations).max() < 4
    # What cells of different sites share is chance.
    all_pairs = np.corrcoef(log.transpose("neuron", "trial").values)
    elsewhere = np.not_equal.outer(site_of, site_of)
    assert np.abs(all_pairs[elsewhere]).mean() < 2 * error


def test_drift_is_slow_and_adaptation_follows_the_trials_before(release, truth):
    for _, cell in trials_of(release, truth).groupby("cell"):
        start, drift = cell.start.to_numpy(), cell.drift.to_numpy()
        assert np.abs(np.diff(np.log(drift))).max() < 0.02
        drive = (cell.rate / cell.rate[cell.stim.str.startswith("STIM_00cat")].mean()).to_numpy()
        fatigue = [
            sum(drive[m] * np.exp(-(start[n] - start[m]) / 3) for m in range(max(0, n - 10), n))
            for n in range(len(cell))
        ]
        gain = np.exp(-0.1 * np.array(fatigue))
        np.testing.assert_allclose(cell.adaptation, gain / gain.mean(), rtol=1e-4)


def test_sounds_differ_in_how_much_they_drive_a_cell_unless_that_is_turned_off(truth, tmp_path):
    simulate(tmp_path, areas=["PEG"], sound_contrast=0)

    def share_between_sounds(truth: xr.Dataset) -> float:
        during = truth.rate.sel(time=slice(0.3, 1.24), neuron=truth.auditory)
        between = during.mean("time").var("stim")
        return float((between / (between + during.var("time").mean("stim"))).median())

    with xr.open_dataset(tmp_path / "truth.nc") as alike:
        differing = truth.sel(neuron=alike.neuron)
        assert share_between_sounds(differing) > 1.5 * share_between_sounds(alike)


@pytest.fixture(scope="module")
def distributions_of_peg(tmp_path_factory) -> dict[str, list[float]]:
    """All cells and val sounds, but a single est sound, as they are measured on val."""
    folder = tmp_path_factory.mktemp("full")
    simulate(folder, areas=["PEG"], scale=1, sound_scale=1e-3, progressbar=False)
    return distributions(folder, "PEG")


def test_rates_and_signal_to_noise_are_distributed_as_those_of_real_cells(distributions_of_peg):
    peg = distributions_of_peg
    np.testing.assert_allclose(peg["SNR of auditory cells"], REAL_SNR, rtol=0.2)
    assert peg["rate, median (spikes/s)"] == pytest.approx([3.4], abs=0.3)
    assert peg["rate, standard deviation of its logarithm"] == pytest.approx([1.05], abs=0.1)


def test_trials_vary_and_vary_together_as_those_of_real_cells_do(distributions_of_peg):
    peg = distributions_of_peg
    assert 1.2 < peg["Fano factor"][2] < 1.8
    (mean,), (similar,), (different,) = (
        peg[f"noise correlation, {what}"] for what in ("mean", "similar tuning", "different tuning")
    )
    assert 0.05 < mean < 0.1
    assert different + 0.03 < similar


def test_the_population_answers_the_onset_and_some_cells_the_end_of_sounds(distributions_of_peg):
    peg = distributions_of_peg
    first, last = peg["peak of the population rate, after sound on (s)"]
    assert 0.0199 < first < last < 0.0401
    (share,) = peg["share of cells with a response to the end of sounds"]
    assert 0.03 < share < 0.3


def test_only_auditory_cells_are_driven_by_the_sounds(truth):
    driven = truth.rate.std(["stim", "time"]) > 0
    np.testing.assert_array_equal(driven, truth.auditory)
    assert not truth.auditory.all()


def test_rates_are_from_0_to_300_spikes_per_s(truth):
    assert truth.rate.min() >= 0
    assert 100 * truth.rate[:18].max() <= 300.5


def test_a_cell_has_the_same_rates_at_every_scale(truth, tmp_path):
    simulate(tmp_path, scale=0.04, sound_scale=0.01, areas=["PEG"])
    with xr.open_dataset(tmp_path / "truth.nc") as other:
        both = np.intersect1d(truth.neuron[truth.auditory], other.neuron[other.auditory])
        assert both.size > 3
        assert set(other.stim.values) <= set(truth.stim.values)
        same = truth.rate.sel(stim=other.stim, neuron=both)
        xr.testing.assert_equal(
            other.rate.sel(neuron=both).drop_vars("area"), same.drop_vars("area")
        )


# The sounds


def test_wav_files_are_one_second_mono_16_bit_at_44100_hz_and_unclipped(release):
    with zipfile.ZipFile(release / "wav.zip") as archive:
        for name in archive.namelist():
            with wave.open(io.BytesIO(archive.read(name))) as wav:
                assert wav.getparams()[:4] == (1, 2, 44_100, 44_100)
                pressure = np.frombuffer(wav.readframes(44_100), "<i2")
            assert pressure.any()
            assert np.abs(pressure).max() < 32_767


def test_wav_files_have_the_power_of_the_published_spectrogram(release):
    stim = population(release, "A1").stim.reshape(30, 150, 18)[:, 25:125]
    with zipfile.ZipFile(release / "wav.zip") as archive:
        for envelopes, name in zip(stim, archive.namelist(), strict=True):
            with wave.open(io.BytesIO(archive.read(name))) as wav:
                pressure = np.frombuffer(wav.readframes(44_100), "<i2").astype(float)
            # In frames of 50 ms, over which the carriers' own fluctuations average out.
            power = (pressure.reshape(20, -1) ** 2).mean(1)
            expected = (envelopes.reshape(20, 5, 18) ** 2).sum((1, 2))
            assert np.corrcoef(power, expected)[0, 1] > 0.8


# Writing


def test_the_same_arguments_give_the_same_bytes(release, tmp_path):
    again = simulate(tmp_path / "again")
    for file in release.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_another_seed_gives_other_cells_sounds_and_spikes(release, tmp_path):
    simulate(tmp_path, areas=["PEG"], seed=1)
    one, other = population(release, "PEG"), population(tmp_path, "PEG")
    assert one.cells != other.cells
    assert not np.array_equal(one.stim, other.stim)


def test_archives_carry_no_time_of_writing(release):
    file = release / POPULATION.format("A1")
    assert file.read_bytes()[4:8] == b"\0\0\0\0"
    with gzip.open(file) as unzipped, tarfile.open(fileobj=unzipped) as tar:
        assert {member.mtime for member in tar} == {0}


def test_only_the_areas_asked_for_are_written(adaptive):
    assert not list(adaptive.glob("A1*"))
    assert (adaptive / "PEG_single_sites.zip").exists()


def test_areas_can_be_given_in_any_case(tmp_path):
    simulate(tmp_path, areas="peg", scale=0.01)
    assert (tmp_path / "PEG_single_sites.zip").exists()


def test_an_existing_release_is_never_overwritten(tmp_path):
    (tmp_path / "A1_single_sites.zip").write_bytes(b"the real thing")
    with pytest.raises(FileExistsError, match=r"A1_single_sites\.zip.*another folder"):
        simulate(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["A1_single_sites.zip"]


@pytest.mark.parametrize("progressbar", [True, False])
def test_progress_is_shown_to_its_end_unless_it_is_turned_off(tmp_path, capsys, progressbar):
    simulate(tmp_path, areas=["PEG"], progressbar=progressbar)
    shown = capsys.readouterr().err
    assert ("PEG" in shown) == ("100%" in shown) == progressbar


def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch):
    def disk_full(*args, **kwargs):
        raise OSError("No space left on device")

    module = sys.modules["nat4xr.simulation"]  # nat4xr.simulate itself is the function
    monkeypatch.setattr(module, "_write_population", disk_full)
    with pytest.raises(OSError, match="No space left"):
        simulate(tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    simulate(tmp_path, areas=["PEG"], scale=0.01)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"areas": ["A2"]}, "no area 'A2': .*'A1', 'PEG'"),
        ({"areas": []}, "areas is empty"),
        ({"model": "deep"}, r"\['linear', 'adaptive'\], not 'deep'"),
        ({"scale": 0}, "scales must be positive"),
        ({"sound_scale": -1.0}, "scales must be positive"),
        ({"scale": float("nan")}, "scales must be positive"),
        ({"seed": -1}, "seed .*-1"),
        ({"drift": -0.1}, r"drift must be 0 or more, not -0\.1"),
        ({"shared_gain": float("inf")}, "shared_gain must be 0 or more"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        simulate(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()
