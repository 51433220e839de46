"""Pairs of cells and latencies, against small examples and the truth of a simulated release."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr

import nat4xr


def response_of(values: Any, sites: list[str]) -> xr.DataArray:
    """A response (stim, rep, time, neuron) with the labels that pairs needs."""
    return xr.DataArray(
        np.asarray(values, dtype=np.float32),
        dims=("stim", "rep", "time", "neuron"),
        coords={
            "neuron": [f"{site}-{i}" for i, site in enumerate(sites)],
            "site": ("neuron", sites),
            "depth": ("neuron", np.arange(len(sites))),
        },
    )


def random_response(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.0, shape)


# --- pairs ---------------------------------------------------------------------------------------


def test_pairs_are_those_within_sites_and_keep_the_labels_of_both_cells() -> None:
    response = response_of(random_response(2, 3, 4, 5), ["b", "a", "b", "b", "c"])
    both = nat4xr.pairs(response)
    assert both.site.values.tolist() == ["b", "b", "b"]
    assert both.neuron_1.values.tolist() == ["b-0", "b-0", "b-2"]
    assert both.neuron_2.values.tolist() == ["b-2", "b-3", "b-3"]
    assert both.depth_1.values.tolist() == [0, 0, 2]
    assert both.depth_2.values.tolist() == [2, 3, 3]


def test_the_labels_of_an_area_stay_with_their_cells(simulated_release: Path) -> None:
    ds = nat4xr.open_area("A1", simulated_release, subset="val", progressbar=False)
    both = nat4xr.pairs(ds.response)
    for which in ("1", "2"):
        cells = ds.sel(neuron=both[f"neuron_{which}"].values)
        for label in ("electrode", "unit_in_electrode", "auditory", "trials_cell_id"):
            np.testing.assert_array_equal(both[f"{label}_{which}"], cells[label])
        for label in ("site", "area", "animal", "session", "recording"):
            np.testing.assert_array_equal(both[label], cells[label])
    assert both.attrs == {"simulated": 1}


def test_correlations_are_those_of_their_definitions() -> None:
    signal = random_response(3, 1, 5, 2, seed=1) + 2.0 * random_response(3, 1, 5, 1, seed=2)
    values = random_response(3, 4, 5, 2) + signal
    both = nat4xr.pairs(response_of(values, ["a", "a"]))
    mean = values.mean(1)
    one, other = np.moveaxis((values - mean[:, None]).sum(2), -1, 0)
    noise = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
    np.testing.assert_allclose(both.noise_correlation, [noise])
    assert both.n_trials.values.tolist() == [12]

    # The noise in the means, sound by sound, as a covariance of all their bins.
    bins = np.moveaxis(mean, -1, 0).reshape(2, -1)
    bins = bins - bins.mean(1, keepdims=True)
    taken_off = np.zeros((2, 2))
    centre = np.eye(15) - 1 / 15
    for i in range(2):
        for j in range(2):
            covariance = np.zeros((15, 15))
            for s in range(3):
                part = slice(5 * s, 5 * s + 5)
                covariance[part, part] = np.cov(values[s, :, :, i].T, values[s, :, :, j].T)[:5, 5:]
            taken_off[i, j] = np.trace(centre @ covariance / 4)
    covariance = bins @ bins.T - taken_off
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    np.testing.assert_allclose(both.signal_correlation, [expected])


def test_trials_that_a_cell_of_the_site_lacks_count_for_none() -> None:
    values = random_response(2, 4, 5, 3).astype(float)
    values[0, 3, 2:, 0] = np.nan  # cut short
    values[1, 1:, :, 1] = np.nan  # leaves a single trial of this sound
    both = nat4xr.pairs(response_of(values, ["a"] * 3))
    whole = nat4xr.pairs(response_of(values[:1, :3], ["a"] * 3))
    xr.testing.assert_allclose(both, whole)
    assert both.n_trials.values.tolist() == [3, 3, 3]


def test_a_cell_without_trials_takes_none_from_the_others() -> None:
    values = random_response(2, 4, 5, 3).astype(float)
    values[..., 1] = np.nan
    both = nat4xr.pairs(response_of(values, ["a"] * 3))
    assert both.n_trials.values.tolist() == [0, 8, 0]
    assert np.isnan(both.noise_correlation).values.tolist() == [True, False, True]


def test_one_sound_and_counts_without_time_have_pairs_too() -> None:
    response = response_of(random_response(2, 6, 5, 2), ["a", "a"])
    counts = nat4xr.pairs(response.sum("time"))
    np.testing.assert_allclose(counts.noise_correlation, nat4xr.pairs(response).noise_correlation)
    one, other = response.isel(stim=0).sum("time").values.T
    assert float(nat4xr.pairs(response.isel(stim=0)).noise_correlation[0]) == pytest.approx(
        np.corrcoef(one, other)[0, 1]
    )


def test_sounds_that_were_presented_once_tell_nothing() -> None:
    both = nat4xr.pairs(response_of(random_response(5, 1, 4, 2), ["a", "a"]))
    assert both.isnull()[["noise_correlation", "signal_correlation"]].all().to_array().all()
    assert both.n_trials.values.tolist() == [0]


def test_pairs_are_lazy_and_come_out_the_same(simulated_release: Path, no_compute: None) -> None:
    import dask

    ds = nat4xr.open_area("A1", simulated_release, subset="val", progressbar=False)
    lazy = nat4xr.pairs(ds.response)
    assert lazy.noise_correlation.chunks is not None
    with dask.config.set(scheduler="synchronous"):
        xr.testing.assert_allclose(lazy.compute(), nat4xr.pairs(ds.response.compute()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda r: r.drop_vars("site"), "site"),
        (lambda r: r.assign_coords(site=("neuron", ["", ""])), "site"),
        (lambda r: r.isel(neuron=0), r"\brep\b.*neuron"),
        (lambda r: r.expand_dims(model=2), "'model'"),
    ],
)
def test_what_has_no_pairs_is_refused(wrong: Any, message: str) -> None:
    response = response_of(random_response(2, 3, 4, 2), ["a", "a"])
    with pytest.raises(ValueError, match=message):
        nat4xr.pairs(wrong(response))


# --- latency -------------------------------------------------------------------------------------


def rate_of(*rates: list[float]) -> xr.DataArray:
    """Rates (neuron, time) in bins of 10 ms; the sound begins in the third."""
    time = ("time", np.arange(len(rates[0])) / 100, {"sound_on": 0.02})
    return xr.DataArray([*rates], dims=("neuron", "time"), coords={"time": time})


def test_latency_is_the_time_to_half_of_the_peak() -> None:
    latency = nat4xr.latency(rate_of([1, 1, 1, 3, 5, 2], [0, 0, 4, 1, 0, 0]))
    np.testing.assert_allclose(latency, [0.01, 0.0], atol=1e-12)
    assert latency.attrs["units"] == "s"


def test_cells_that_do_not_rise_out_of_their_scatter_have_no_latency() -> None:
    latency = nat4xr.latency(rate_of([1, 3, 2, 4, 2, 1], [5, 5, 4, 3, 2, 1], [np.nan] * 6))
    assert np.isnan(latency).all()


def test_few_cells_that_ignore_the_sounds_have_a_latency() -> None:
    # The mean over 360 trials of cells that fire 3 spikes/s, in bins of 10 ms.
    rates = np.random.default_rng(0).poisson(0.03 * 360, (1000, 150)) / 360
    time = ("time", np.arange(150) / 100, {"sound_on": 0.25})
    response = xr.DataArray(rates, dims=("neuron", "time"), coords={"time": time})
    assert nat4xr.latency(response).notnull().mean() < 0.02


def test_a_response_after_the_window_is_not_one_to_the_onset() -> None:
    late = rate_of([0, 0, 0, 0, 0, 7, 7, 7])
    assert np.isnan(nat4xr.latency(late, window_s=0.03)).all()
    np.testing.assert_allclose(nat4xr.latency(late, window_s=0.04), [0.03])


def test_latency_averages_over_sounds_and_the_trials_there_were(simulated_release: Path) -> None:
    ds = nat4xr.open_area("A1", simulated_release, subset="val", progressbar=False)
    lazy = nat4xr.latency(ds.response)
    assert lazy.chunks is not None
    of_averages = nat4xr.latency(ds.psth.where(ds.n_reps > 0).mean("stim"))
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), of_averages.compute().drop_attrs())


@pytest.mark.parametrize("part", [slice(0.02, None), slice(None, 0.01)])
def test_latency_needs_time_before_and_after_the_onset(part: slice) -> None:
    with pytest.raises(ValueError, match="sound_on"):
        nat4xr.latency(rate_of([0, 0, 1, 2]).sel(time=part))


# --- against the truth of a simulated release ----------------------------------------------------


class Simulated(NamedTuple):
    ds: xr.Dataset
    truth: xr.Dataset


@pytest.fixture(scope="module")
def peg(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Eighty cells at eleven sites."""
    folder = tmp_path_factory.mktemp("peg")
    nat4xr.simulate(folder, areas=["PEG"], scale=0.2, sound_scale=1e-3, progressbar=False)
    ds = nat4xr.open_area("PEG", folder, subset="val", progressbar=False).load()
    with xr.open_dataset(folder / "truth.nc") as truth:
        return Simulated(ds, truth.sel(stim=ds.stim.values, neuron=ds.neuron.values).load())


def test_noise_correlations_are_those_that_the_true_gains_make(peg: Simulated) -> None:
    both = nat4xr.pairs(peg.ds.response)
    truth = peg.truth
    rate = truth.rate.sum("time") * (
        truth.shared_gain * truth.private_gain * truth.drift * truth.adaptation
    )
    gain = (rate - rate.mean("rep")).transpose("stim", "rep", "neuron")
    # Poisson counts add their mean to the variance, less what the mean over trials takes.
    variance = (gain**2).sum(["stim", "rep"]) + rate.sum(["stim", "rep"]) * 19 / 20
    one, other = (gain.sel(neuron=both[name].values).values for name in ("neuron_1", "neuron_2"))
    scale = [variance.sel(neuron=both[name].values).values for name in ("neuron_1", "neuron_2")]
    expected = (one * other).sum((0, 1)) / np.sqrt(scale[0] * scale[1])
    error = 1 / np.sqrt(18 * 19)
    z = (both.noise_correlation.values - expected) / error
    assert both.sizes["pair"] > 200
    assert abs(z.mean()) < 0.2
    assert z.std() == pytest.approx(1, abs=0.15)
    assert both.noise_correlation.mean() > 0.05


def test_signal_correlations_are_those_of_the_true_rates(peg: Simulated) -> None:
    clear = nat4xr.metrics.snr(peg.ds.response) > 0.05
    both = nat4xr.pairs(peg.ds.response.isel(neuron=clear.values))
    rate = peg.truth.rate.stack(bin=["stim", "time"])
    rate = rate - rate.mean("bin")
    one, other = (rate.sel(neuron=both[name].values).values for name in ("neuron_1", "neuron_2"))
    expected = (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))
    difference = both.signal_correlation.values - expected
    assert both.sizes["pair"] > 30
    assert abs(difference.mean()) < 0.02
    assert difference.std() < 0.05


def test_latencies_are_those_of_the_true_rates_within_a_bin(peg: Simulated) -> None:
    rate = peg.truth.rate.assign_coords(time=peg.ds.time)
    auditory = peg.ds.auditory.values
    measured, true = (nat4xr.latency(x).values for x in (peg.ds.response, rate))
    assert np.isfinite(true[auditory]).all()
    assert np.isfinite(measured[auditory]).mean() > 0.85
    assert np.isfinite(measured[~auditory]).mean() < 0.2
    difference = (measured - true)[np.isfinite(measured) & auditory]
    assert (abs(difference) < 0.011).mean() > 0.85
    assert abs(np.median(difference)) < 0.001
