"""nat4xr.metrics: reference values, statistical properties, labels, NaN, laziness."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nat4xr import metrics
from nat4xr.index import set_labels

from .support import DATA

CORRELATED = {
    "corrcoef": metrics.corrcoef,
    "corrcoef, separate": partial(metrics.corrcoef, sounds="separate"),
    "fve": metrics.fve,
    "coherence": metrics.coherence,
}
WITH_PRED = {
    name: lambda pred, response, metric=metric: metric(pred, response.mean("rep"))
    for name, metric in CORRELATED.items()
} | {
    "cc_norm": metrics.cc_norm,
    "cc_norm, separate": partial(metrics.cc_norm, sounds="separate"),
    "cc_norm, hsu": partial(metrics.cc_norm, method="hsu"),
    "cc_norm, hsu, separate": partial(metrics.cc_norm, method="hsu", sounds="separate"),
    "r_ceiling": metrics.r_ceiling,
    "r2_er": metrics.r2_er,
}
WITHOUT_PRED = {
    "cc_max, hsu": partial(metrics.cc_max, method="hsu"),
    "cc_max, hsu, separate": partial(metrics.cc_max, method="hsu", sounds="separate"),
    "trial_snr": metrics.trial_snr,
    "response_p": partial(metrics.response_p, shifts=50),
}
for name in ("signal_power", "noise_power", "snr", "cc_max", "ttrc"):
    WITHOUT_PRED[name] = getattr(metrics, name)
    WITHOUT_PRED[f"{name}, separate"] = partial(getattr(metrics, name), sounds="separate")
# Every metric as a function of prediction and response.
METRICS = WITH_PRED | {
    name: lambda pred, response, metric=metric: metric(response)
    for name, metric in WITHOUT_PRED.items()
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
every_ceiling = pytest.mark.parametrize("metric", WITHOUT_PRED.values(), ids=WITHOUT_PRED)


@pytest.fixture(scope="module")
def reference() -> xr.Dataset:
    """Ragged responses with NaN, predictions, and the values that deepSTRF 0.1.0 gives them."""
    return from_file(DATA / "metrics_reference.npz")


@pytest.fixture(scope="module")
def scores_reference() -> xr.Dataset:
    """Rates and SNR as in the recordings, and the scores of predictions and of the true rates.

    CCnorm over pooled sounds, and r_ceiling as NEMS0's own code computes it.
    """
    path = Path(__file__).parents[2] / "shared" / "scores_reference.npz"
    if not path.exists():
        pytest.skip("no scores_reference.npz")
    return from_file(path)


def from_file(path: Path) -> xr.Dataset:
    with np.load(path) as arrays:
        return xr.Dataset(
            {
                "pred": (("stim", "neuron", "time"), arrays["prediction"]),
                "rate": (("stim", "neuron", "time"), arrays.get("rate", arrays["prediction"])),
                "response": (("stim", "neuron", "rep", "time"), arrays["response"]),
            }
            | {name: ("neuron", arrays[name]) for name in arrays if name.startswith("expected_")}
        )


def simulated(
    *, stims: int = 6, reps: int = 8, bins: int = 100, neurons: int = 4, seed: int = 0
) -> tuple[xr.DataArray, xr.DataArray]:
    """Poisson rates in the layout of NAT4, and responses to them."""
    rng = np.random.default_rng(seed)
    rate = xr.DataArray(
        rng.gamma(1, 0.5, (stims, bins, neurons)),
        dims=("stim", "time", "neuron"),
        coords={
            "stim": [f"STIM_{i}.wav" for i in range(stims)],
            "subset": ("stim", ["val"] * stims),
            "time": np.arange(bins) / 100,
            "neuron": [f"ARM029a-{i:02}-1" for i in range(neurons)],
            "animal": ("neuron", ["ARM"] * neurons),
            "electrode": ("neuron", np.arange(neurons)),
        },
    )
    rate = set_labels(rate)
    response = rate.expand_dims(rep=reps, axis=1)
    counts = rng.poisson(response).astype(np.float32)
    return rate, response.copy(data=counts).assign_attrs(units="spikes per bin")


@pytest.fixture
def rate() -> xr.DataArray:
    return simulated()[0]


@pytest.fixture
def response() -> xr.DataArray:
    return simulated()[1]


# --- the values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("corrcoef", "corrcoef"),
        ("fve", "fve"),
        ("signal_power, separate", "signal_power"),
        ("noise_power, separate", "noise_power"),
        ("snr, separate", "snr"),
    ],
)
def test_agrees_with_deepstrf(reference: xr.Dataset, name: str, expected: str) -> None:
    ours = METRICS[name](reference.pred, reference.response)
    np.testing.assert_allclose(ours, reference[f"expected_{expected}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["corrcoef", "signal_power", "cc_norm", "r_ceiling"])
def test_agrees_with_the_published_scores(scores_reference: xr.Dataset, name: str) -> None:
    ds = scores_reference
    ours = METRICS[name](ds.pred, ds.response)
    np.testing.assert_allclose(ours, ds[f"expected_{name}"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["cc_norm", "r_ceiling"])
def test_the_true_rates_score_as_published_scores_would(scores_reference, name: str) -> None:
    ds = scores_reference
    ours = METRICS[name](ds.rate, ds.response)
    np.testing.assert_allclose(ours, ds[f"expected_{name}_rate"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("sounds", ["pooled", "separate"])
@pytest.mark.parametrize("method", ["schoppe", "hsu"])
@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "scored in part"])
def test_the_normalised_correlation_is_the_correlation_over_the_ceiling(
    reference, method: str, sounds: str, gaps: bool
) -> None:
    pred, response = reference.pred, reference.response
    if gaps:
        pred = pred.where((np.arange(150) > 25) & (reference.pred > reference.pred.min("time")))
    scored = response.where(pred.notnull())
    valid = ~(scored.isnull() & scored.notnull().any("time")).any("rep")
    expected = metrics.corrcoef(pred, scored.mean("rep").where(valid), sounds=sounds)
    expected = expected / metrics.cc_max(scored, method=method, sounds=sounds)
    np.testing.assert_allclose(
        metrics.cc_norm(pred, response, method=method, sounds=sounds), expected, rtol=1e-12
    )


def test_correlation_ignores_gain_and_offset_of_the_prediction(rate, response) -> None:
    psth = response.mean("rep")
    xr.testing.assert_allclose(
        metrics.corrcoef(5 * rate - 2, psth), metrics.corrcoef(rate, psth), rtol=1e-12
    )


def test_fve_charges_for_gain_and_offset(rate) -> None:
    np.testing.assert_allclose(metrics.fve(rate, rate), 1)
    variance = rate.var(("stim", "time"))
    np.testing.assert_allclose(metrics.fve(rate + 0.1, rate), 1 - 0.1**2 / variance)


def test_fve_of_the_mean_rate_is_zero(rate) -> None:
    constant = xr.zeros_like(rate) + rate.mean(("stim", "time"))
    np.testing.assert_allclose(metrics.fve(constant, rate), 0, atol=1e-12)


def test_trial_to_trial_correlation_is_the_mean_over_all_pairs() -> None:
    _, response = simulated(stims=3, reps=5, neurons=1)
    pairs = np.triu_indices(5, 1)
    trials = response.isel(neuron=0).transpose("rep", "stim", "time").values
    pooled = np.corrcoef(trials.reshape(5, -1))[pairs].mean()
    by_stimulus = [np.corrcoef(trials[:, stim])[pairs].mean() for stim in range(3)]
    np.testing.assert_allclose(metrics.ttrc(response), [pooled])
    np.testing.assert_allclose(metrics.ttrc(response, sounds="separate"), [np.mean(by_stimulus)])


@pytest.mark.parametrize("sounds", ["pooled", "separate"])
def test_presentations_without_a_spike_correlate_with_none(response, sounds: str) -> None:
    silent = xr.concat([response, 0 * response.isel(rep=[0])], dim="rep")
    # Of the 36 pairs of 9 presentations, 28 are those of the 8 that are not silent.
    expected = metrics.ttrc(response, sounds=sounds) * 28 / 36
    xr.testing.assert_allclose(metrics.ttrc(silent, sounds=sounds), expected)


def test_r_ceiling_is_that_of_its_definition() -> None:
    rate, response = simulated(stims=3, reps=5, neurons=1, bins=30)
    response[0, 4:] = np.nan  # a sound presented less often
    response[1, 2, 20:] = np.nan  # a presentation cut short
    response[2, 1] = np.nan  # one that did not take place
    response[:, 0] = 0  # one without a spike
    rate[1, :5] = np.nan  # bins that are not scored
    trials = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 2, 3, 4]]
    x = np.stack([response.values[s, trials[s], :, 0] for s in range(3)], 1).reshape(4, -1)
    rows = np.concatenate([rate.values[:, :, 0].reshape(1, -1), x])
    rows = rows[:, np.isfinite(rows[0])]

    def correlation(a: int, b: int) -> float:
        both = np.isfinite(rows[a]) & np.isfinite(rows[b])
        pair = rows[a, both], rows[b, both]
        return np.corrcoef(*pair)[0, 1] if np.ptp(pair[0]) and np.ptp(pair[1]) else 0.0

    between = np.mean([correlation(a, b) for a, b in combinations(range(1, 5), 2)])
    assert between > 0.01
    expected = np.mean([correlation(0, a) for a in range(1, 5)]) / np.sqrt(between)
    np.testing.assert_allclose(metrics.r_ceiling(rate, response), [expected])


def test_the_correlation_between_trials_in_r_ceiling_is_at_least_one_percent() -> None:
    pred, noise = (
        xr.DataArray(x, dims=("stim", "time"))
        for x in np.random.default_rng(0).normal(size=(2, 2, 50))
    )
    response = xr.concat([pred + 3 * noise, pred - 3 * noise], dim="rep")
    assert metrics.ttrc(response) < 0.01
    trials = response.transpose("rep", "stim", "time").values.reshape(2, -1)
    single = [np.corrcoef(pred.values.ravel(), trial)[0, 1] for trial in trials]
    assert metrics.r_ceiling(pred, response) == pytest.approx(np.mean(single) / 0.1)


def test_the_snr_of_trials_is_that_of_its_definition() -> None:
    _, response = simulated(stims=2, reps=4, neurons=1)
    response[0, 1] = 0
    response[1, 3] = np.nan
    of_sounds = []
    for trials in (response.values[0, :, :, 0], response.values[1, :3, :, 0]):
        dot = trials @ trials.T
        others = [np.delete(dot[n], n).mean() / dot[n, n] for n in range(len(dot)) if dot[n, n]]
        of_sounds.append(np.mean(others))
    np.testing.assert_allclose(metrics.trial_snr(response), [np.mean(of_sounds)])


@pytest.mark.parametrize("sounds", ["pooled", "separate"])
def test_few_presentations_are_split_in_every_way(sounds: str) -> None:
    _, response = simulated(stims=3, reps=6, neurons=1)
    trials = response.isel(neuron=0).transpose("rep", "stim", "time").values
    if sounds == "separate":
        trials = trials - trials.mean((0, 2), keepdims=True)
    halves = [
        (trials[list(first)].mean(0), trials[list(set(range(6)) - set(first))].mean(0))
        for first in combinations(range(6), 3)
    ]
    if sounds == "separate":
        halves = [tuple(half - half.mean(1, keepdims=True) for half in pair) for pair in halves]
    half = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in halves])
    expected = np.sqrt(2 / (1 + np.sqrt(1 / half**2)))
    ceiling = partial(metrics.cc_max, response, method="hsu", sounds=sounds)
    np.testing.assert_allclose(ceiling(), [expected])
    xr.testing.assert_identical(ceiling(seed=1), ceiling(seed=2))


def test_many_presentations_are_split_at_random_and_reproducibly() -> None:
    _, response = simulated(reps=20)
    one, same, other = (metrics.cc_max(response, method="hsu", seed=seed) for seed in (1, 1, 2))
    xr.testing.assert_identical(one, same)
    assert (one != other).all()
    np.testing.assert_allclose(one, other, atol=0.02)


def test_half_splits_in_which_one_half_is_silent_do_not_count() -> None:
    # Two presentations alike, two silent: of three splits, two have a spike in both halves.
    spikes, silent = [0.0, 3, 1, 0, 2], [0.0] * 5
    response = xr.DataArray([[spikes, spikes, silent, silent]], dims=("stim", "rep", "time"))
    assert metrics.cc_max(response, method="hsu") == pytest.approx(1)


def test_the_last_of_an_odd_number_of_presentations_is_not_split(response) -> None:
    odd = response.isel(rep=slice(7))
    ceilings = (metrics.cc_max(r, method="hsu") for r in (odd, odd.isel(rep=slice(6))))
    xr.testing.assert_allclose(*ceilings)


def test_coherence_is_scipys_for_one_long_stimulus() -> None:
    from scipy.signal import coherence, lfilter

    pred, noise = np.random.default_rng(0).normal(size=(2, 2048))
    psth = lfilter([1, 0.5], [1, -0.3], pred) + noise
    _, expected = coherence(pred, psth, nperseg=256)
    ours = metrics.coherence(*(xr.DataArray([x], dims=("stim", "time")) for x in (pred, psth)))
    assert 0.3 < float(ours) < 0.9
    assert float(ours) == pytest.approx(expected[1:].mean())


def test_coherence_sees_through_a_delay_where_correlation_does_not() -> None:
    psth = simulated(stims=40, neurons=1)[0]
    delayed = psth.roll(time=1, roll_coords=False)
    assert abs(float(metrics.corrcoef(delayed, psth).squeeze())) < 0.1
    assert float(metrics.coherence(delayed, psth).squeeze()) > 0.9


# --- the statistics ------------------------------------------------------------------------------

SEEDS = 50


@pytest.fixture(scope="module")
def known() -> tuple[xr.DataArray, xr.DataArray]:
    """One rate, and 50 independent simulations of its responses, side by side as cells."""
    rng = np.random.default_rng(1)
    rate = rng.gamma(1, 0.3, (18, 150))
    counts = rng.poisson(rate[:, None, :, None], (18, 20, 150, SEEDS)).astype(np.float32)
    return (
        xr.DataArray(rate, dims=("stim", "time")),
        xr.DataArray(counts, dims=("stim", "rep", "time", "neuron")),
    )


def assert_unbiased(estimates: xr.DataArray, truth: float) -> None:
    """The mean over seeds is within 3 standard errors of the truth, and these are small."""
    error = float(estimates.std(ddof=1)) / np.sqrt(SEEDS)
    assert error < 0.02 * abs(truth)
    assert float(estimates.mean()) == pytest.approx(truth, abs=3 * error)


@pytest.fixture(scope="module")
def unequal() -> tuple[xr.DataArray, xr.DataArray]:
    """The same of sounds that differ in mean rate, presented 20 times to 4 times.

    Trials of a cell share a gain, so that noise is correlated within them.
    """
    rng = np.random.default_rng(2)
    rate = rng.gamma(1, 0.3, (18, 150)) * np.linspace(0.2, 2, 18)[:, None]
    gain = rng.gamma(20, 1 / 20, (18, 20, 1, SEEDS))
    counts = rng.poisson(gain * rate[:, None, :, None]).astype(np.float32)
    for stim in range(18):
        counts[stim, 20 - stim // 2 * 2 :] = np.nan
    return (
        xr.DataArray(rate, dims=("stim", "time")),
        xr.DataArray(counts, dims=("stim", "rep", "time", "neuron")),
    )


def test_signal_power_is_unbiased(known) -> None:
    rate, response = known
    assert_unbiased(metrics.signal_power(response), float(rate.var(ddof=1)))
    within = float(rate.var("time", ddof=1).mean())
    assert_unbiased(metrics.signal_power(response, sounds="separate"), within)


def test_signal_power_is_unbiased_where_sounds_differ_in_rate_and_repeats(unequal) -> None:
    rate, response = unequal
    assert_unbiased(metrics.signal_power(response), float(rate.var(ddof=1)))
    within = float(rate.var("time", ddof=1).mean())
    assert_unbiased(metrics.signal_power(response, sounds="separate"), within)


def test_signal_power_of_two_noisy_presentations_is_unbiased_and_sometimes_negative() -> None:
    rate = np.full((18, 150), 0.1)
    rate[:, ::2] = 0.13
    counts = np.random.default_rng(0).poisson(rate[:, None, :, None], (18, 2, 150, SEEDS))
    power = metrics.signal_power(xr.DataArray(counts, dims=("stim", "rep", "time", "neuron")))
    assert (power < 0).any()
    standard_error = float(power.std()) / np.sqrt(SEEDS)
    assert float(power.mean()) == pytest.approx(rate[0].var(ddof=1), abs=3 * standard_error)


def test_noise_power_of_poisson_spikes_is_their_mean(known) -> None:
    rate, response = known
    assert_unbiased(metrics.noise_power(response), float(rate.mean()))


every_kind = pytest.mark.parametrize(
    ("method", "sounds"), [(m, s) for m in ("schoppe", "hsu") for s in ("pooled", "separate")]
)


@every_kind
def test_the_ceiling_is_how_well_the_true_rate_correlates(known, method: str, sounds: str) -> None:
    rate, response = known
    reached = metrics.corrcoef(rate, response.mean("rep"), sounds=sounds)
    ceiling = metrics.cc_max(response, method=method, sounds=sounds)
    assert_unbiased(ceiling, float(reached.mean()))


@every_kind
@pytest.mark.parametrize("data", ["known", "unequal"])
@pytest.mark.parametrize("part", [slice(None), slice(30, 90)], ids=["whole", "a part"])
def test_the_true_rate_scores_one(
    data: str, method: str, sounds: str, part: slice, request
) -> None:
    rate, response = request.getfixturevalue(data)
    scored = rate.where(rate.time.isin(np.arange(150)[part]))
    scores = metrics.cc_norm(
        scored.assign_coords(time=rate.time), response, method=method, sounds=sounds
    )
    assert_unbiased(scores, 1)


def test_r_ceiling_of_the_true_rate_is_one(known) -> None:
    rate, response = known
    assert_unbiased(metrics.r_ceiling(rate, response), 1)


@pytest.mark.parametrize("reps", [2, 5, 20])
def test_r2_er_is_unbiased(unequal, reps: int) -> None:
    rate, _ = unequal
    rng = np.random.default_rng(reps)
    noise = rng.normal(0, float(rate.std()), rate.shape)
    response = rng.poisson(rate.values[:, None, :, None], (18, reps, 150, 2 * SEEDS))
    response = xr.DataArray(response, dims=("stim", "rep", "time", "neuron"))
    for pred in (rate, rate + noise, rate + 3 * noise):
        truth = np.corrcoef(pred.values.ravel(), rate.values.ravel())[0, 1] ** 2
        estimate = metrics.r2_er(pred, response)
        error = float(estimate.std(ddof=1)) / np.sqrt(2 * SEEDS)
        assert error < 0.02
        assert float(estimate.mean()) == pytest.approx(truth, abs=3 * error)


def test_r2_er_of_an_unrelated_prediction_is_zero_and_sometimes_negative(known) -> None:
    rate, response = known
    estimate = metrics.r2_er(rate.roll(stim=1, time=50), response.isel(rep=slice(2)))
    assert (estimate < 0).any()
    assert (metrics.corrcoef(rate.roll(stim=1, time=50), response.mean("rep")) ** 2 > 0).all()
    chance = np.corrcoef(rate.values.ravel(), rate.roll(stim=1, time=50).values.ravel())[0, 1] ** 2
    assert float(estimate.mean()) == pytest.approx(
        chance, abs=3 * float(estimate.std()) / SEEDS**0.5
    )


@pytest.mark.parametrize("method", ["schoppe", "hsu"])
def test_a_shuffled_prediction_scores_zero(known, method: str) -> None:
    rate, response = known
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(150), (SEEDS, 1)), axis=1)
    shuffled = rate.isel(time=xr.DataArray(orders, dims=("neuron", "time")))
    scores = metrics.cc_norm(shuffled, response, method=method)
    assert float(scores.mean()) == pytest.approx(0, abs=3 * float(scores.std()) / np.sqrt(SEEDS))
    assert float(scores.std()) < 0.03


def test_unrelated_signals_have_a_coherence_of_one_over_the_number_of_stimuli() -> None:
    pred, psth = (simulated(stims=50, seed=seed)[0] for seed in (1, 2))
    np.testing.assert_allclose(metrics.coherence(pred, psth), 1 / 50, atol=0.01)


# --- is there a response? ------------------------------------------------------------------------


def undriven(rate: float, *, reps: int = 5, cells: int = 300, burst: int = 1) -> xr.DataArray:
    """Cells that ignore the sounds; each spike is followed by others in the bins after it."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rate / 100 / burst, (6, reps, 100, cells))
    counts = sum(np.roll(counts, shift, axis=2) for shift in range(burst))
    return xr.DataArray(counts, dims=("stim", "rep", "time", "neuron"))


@pytest.mark.parametrize(("rate", "burst"), [(2, 1), (20, 1), (20, 4)])
def test_p_values_of_cells_that_ignore_the_sounds_are_uniform(rate: float, burst: int) -> None:
    p = np.sort(metrics.response_p(undriven(rate, burst=burst), shifts=99))
    distance = (np.arange(300) + 0.5) / 300 - p
    # Of uniform values, 1 in 1,000 samples exceeds this distance. Few spikes make ties, which
    # raise p.
    assert distance.max() < 1.95 / np.sqrt(300)
    assert rate < 20 or distance.min() > -1.95 / np.sqrt(300)


def test_a_response_to_the_sounds_has_a_small_p_value() -> None:
    rng = np.random.default_rng(0)
    rate = np.where(abs(np.arange(100) - 40) < 5, 0.3, 0.05)[:, None]
    driven = undriven(0).copy(data=rng.poisson(rate, (6, 5, 100, 300)))
    p = metrics.response_p(driven, shifts=99)
    assert (p == 0.01).mean() > 0.7


def test_p_values_are_reproducible_and_shifts_are_as_many_as_asked_for(response) -> None:
    noise = undriven(5, cells=4)
    once, again, other = (metrics.response_p(noise, shifts=20, seed=seed) for seed in (1, 1, 2))
    xr.testing.assert_identical(once, again)
    assert (once != other).any()
    assert ((once * 21) % 1 < 1e-9).all()
    assert (metrics.response_p(response, shifts=20) == 1 / 21).all()


@pytest.mark.parametrize("rate", [1, 5, 20])
def test_half_of_the_cells_that_ignore_the_sounds_have_no_ceiling(rate: float) -> None:
    ceiling = metrics.cc_max(undriven(rate, reps=20))
    assert 0.35 < float(ceiling.isnull().mean()) < 0.65


# --- uncertainty ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cc_norm", "r_ceiling", "r2_er"])
def test_the_jackknife_error_is_that_of_other_sounds(metric: str) -> None:
    rng = np.random.default_rng(0)
    n_cells = 400  # each of which hears other sounds
    rate = rng.gamma(1, 0.3, (18, 50, n_cells))
    pred = rate + rng.normal(0, 0.3, rate.shape)
    response = rng.poisson(rate[:, None], (18, 10, 50, n_cells))
    score = metrics.jackknife(
        getattr(metrics, metric),
        xr.DataArray(pred, dims=("stim", "time", "neuron")),
        xr.DataArray(response, dims=("stim", "rep", "time", "neuron")),
    )
    spread = float(score.value.std(ddof=1))
    assert float(score.standard_error.mean()) == pytest.approx(spread, rel=0.1)


def test_a_jackknife_is_lazy_and_keeps_labels(rate, response, no_compute) -> None:
    lazy = metrics.jackknife(metrics.cc_norm, rate.chunk(neuron=2), response.chunk(neuron=2))
    assert dask.is_dask_collection(lazy)
    assert set(lazy.coords) == {"neuron", "animal", "electrode"}


def test_a_jackknife_leaves_out_sounds_that_were_never_heard(rate, response) -> None:
    partly = response.where(response.stim != response.stim[2])
    without = np.delete(np.arange(6), 2)
    expected = metrics.jackknife(
        metrics.cc_norm, rate.isel(stim=without), response.isel(stim=without)
    )
    xr.testing.assert_allclose(metrics.jackknife(metrics.cc_norm, rate, partly), expected)


def test_a_jackknife_needs_two_sounds(rate, response) -> None:
    with pytest.raises(ValueError, match="'stim' has a single label"):
        metrics.jackknife(metrics.cc_norm, rate.isel(stim=[0]), response.isel(stim=[0]))


# --- what was not recorded -----------------------------------------------------------------------


@every_metric
def test_repeats_that_never_took_place_change_nothing(rate, response, metric) -> None:
    # Beside a stimulus with more presentations, whose other repeats are padding.
    padded = response.pad(rep=(0, 3)).isel(rep=[8, 0, 1, 2, 9, 3, 4, 5, 6, 7, 10])
    xr.testing.assert_allclose(metric(rate, padded), metric(rate, response), rtol=1e-12)


@every_metric
def test_stimuli_that_were_never_presented_change_nothing(rate, response, metric) -> None:
    partly = response.where(response.stim != response.stim[2])
    without = np.delete(np.arange(response.sizes["stim"]), 2)
    xr.testing.assert_allclose(
        metric(rate, partly), metric(rate.isel(stim=without), response.isel(stim=without))
    )


@every_metric
def test_a_cell_without_data_is_nan_and_leaves_the_others_alone(rate, response, metric) -> None:
    lost = response.where(response.electrode != 1)
    scores = metric(rate, lost)
    assert scores.isnull().values.tolist() == [False, True, False, False]
    xr.testing.assert_allclose(scores[[0, 2, 3]], metric(rate, response)[[0, 2, 3]], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in METRICS if name != "coherence"])
def test_bins_missing_at_the_end_of_a_stimulus_shorten_it(rate, response, name: str) -> None:
    cut = response.where(response.time < 0.795)
    short = slice(80)
    xr.testing.assert_allclose(
        METRICS[name](rate, cut), METRICS[name](rate.isel(time=short), response.isel(time=short))
    )


def test_stimuli_count_by_their_valid_time_bins(response) -> None:
    cut = response.where((response.time < 0.495) | (response.stim != response.stim[0]))
    power = partial(metrics.signal_power, sounds="separate")
    each = xr.concat([power(cut.isel(stim=[i])) for i in range(6)], "stim")
    weights = xr.DataArray([50, *[100] * 5], dims="stim")
    expected = (each * weights).sum("stim") / weights.sum()
    xr.testing.assert_allclose(power(cut), expected)


@every_ceiling
def test_a_bin_that_one_presentation_lacks_does_not_count(response, metric) -> None:
    damaged = response.copy(deep=True)
    damaged[{"rep": 3, "time": slice(90, None)}] = np.nan
    xr.testing.assert_allclose(metric(damaged), metric(response.isel(time=slice(90))))


@pytest.mark.parametrize("name", [*WITHOUT_PRED, "cc_norm", "cc_norm, hsu"])
def test_one_repeat_tells_nothing_about_noise(rate, response, name: str) -> None:
    assert METRICS[name](rate, response.isel(rep=[0])).isnull().all()


@pytest.mark.parametrize("method", ["schoppe", "hsu"])
def test_normalised_correlation_leaves_out_stimuli_presented_once(rate, response, method) -> None:
    once = response.where((response.rep == 0) | (response.stim != response.stim[0]))
    several = slice(1, None)
    xr.testing.assert_allclose(
        metrics.cc_norm(rate, once, method=method),
        metrics.cc_norm(rate.isel(stim=several), response.isel(stim=several), method=method),
    )


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize("name", [name for name in WITH_PRED if name != "fve"])
def test_a_prediction_without_variance_has_no_score(rate, response, name: str, value) -> None:
    assert METRICS[name](xr.full_like(rate, value), response).isnull().all()


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize(
    "name", [name for name in METRICS if "power" not in name and name != "trial_snr"]
)
def test_a_response_without_variance_has_no_score(rate, response, name: str, value) -> None:
    assert METRICS[name](rate, xr.full_like(response, value, dtype=float)).isnull().all()


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_response_without_variance_has_no_power(response, value: float) -> None:
    constant = xr.full_like(response, value, dtype=float)
    np.testing.assert_array_equal(metrics.signal_power(constant), 0)
    np.testing.assert_array_equal(metrics.noise_power(constant), 0)


@pytest.mark.parametrize("name", ["snr", "cc_norm", "cc_norm, hsu", "cc_max"])
def test_a_negative_signal_power_gives_nan(name: str) -> None:
    # Each presentation is the opposite of the other: less in common than chance would have it.
    response = xr.DataArray([[[0.0, 1, 0, 1], [1, 0, 1, 0.5]]], dims=("stim", "rep", "time"))
    pred = xr.DataArray([[0.0, 1, 2, 3]], dims=("stim", "time"))
    assert metrics.signal_power(response) < 0
    assert METRICS[name](pred, response).isnull()


def test_one_stimulus_has_no_coherence(rate) -> None:
    assert metrics.coherence(rate.isel(stim=[0]), rate.isel(stim=[0])).isnull().all()


def test_stimuli_of_one_time_bin_have_no_coherence(rate) -> None:
    assert metrics.coherence(rate.isel(time=[0]), rate.isel(time=[0])).isnull().all()


# Below, rounding alone would give a sign to what is zero, and divide by it.


@pytest.mark.parametrize("reps", [2, 5, 12, 20])
def test_a_cell_that_spiked_once_in_all_has_no_signal_power_and_no_score(reps: int) -> None:
    response = xr.DataArray(np.zeros((1, reps, 5)), dims=("stim", "rep", "time"))
    response[0, 0, 1] = 1
    pred = xr.DataArray([[0.0, 1, 2, 0, 1]], dims=("stim", "time"))
    assert metrics.signal_power(response) == 0
    for name in ("snr", "cc_norm", "cc_norm, hsu", "cc_max", "cc_max, hsu"):
        assert METRICS[name](pred, response).isnull(), name


@pytest.mark.parametrize("reps", [2, 8, 20])
def test_presentations_that_are_all_alike_have_no_noise_power_and_no_ratio(reps: int) -> None:
    response = xr.DataArray([[[0.0, 2, 1, 0, 3]] * reps], dims=("stim", "rep", "time"))
    assert metrics.noise_power(response) == 0
    assert metrics.snr(response).isnull()


def test_halves_without_correlation_have_no_ceiling() -> None:
    response = xr.DataArray(
        [[[1, 1, 1, 0, 1, 0], [0, 0, 0, 1, 2, 0]]], dims=("stim", "rep", "time")
    )
    assert metrics.cc_max(response, method="hsu").isnull()


# --- any small recording -------------------------------------------------------------------------

Recording = tuple[xr.DataArray, xr.DataArray]

RANGES: dict[str, tuple[float, float]] = {"corrcoef": (-1, 1), "ttrc": (-1, 1), "fve": (-np.inf, 1)}
RANGES |= {"coherence": (0, 1), "cc_max": (0, 1), "trial_snr": (0, np.inf), "response_p": (0, 1)}
# Where the order of presentations matters: with an odd number, the last is not split; and where
# sounds were not presented equally often, only the first presentations are paired.
ORDERED = [name for name in METRICS if "hsu" in name] + ["ttrc", "r_ceiling"]


@st.composite
def recordings(draw: Callable[[st.SearchStrategy], object]) -> Recording:
    """A prediction and a response: short, sparse, ragged, constant, huge or tiny.

    Values are small multiples of 1/4 times powers of two, in single precision too: no decision,
    such as whether a variance is zero, hangs on how they were rounded.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stims, reps, bins, cells = shape = [draw(st.integers(1, most)) for most in (4, 5, 12, 3)]
    rates = rng.choice([0, 0.05, 0.3, 1, 5], (stims, 1, 1, cells))
    response = rng.poisson(np.broadcast_to(rates, shape))
    pred = rng.integers(-8, 9, (stims, bins, cells)) / 4 + draw(st.sampled_from([0, 1000]))

    kind = draw(st.sampled_from(["noisy", "all alike", "one not silent", "one constant", "flat"]))
    if kind == "all alike":
        response[:] = response[:, :1]
    elif kind == "one not silent":
        response[:, 1:] = 0
    elif kind == "one constant":
        response[:, 0] = 2
    elif kind == "flat":
        response[..., 0] = 1
        pred[..., 0] = 0.25
    if draw(st.booleans()):
        pred[rng.random(pred.shape) < 0.2] = np.nan
    for lost in draw(st.sets(st.sampled_from(["presentations", "bins", "values"]))):
        sizes = {"presentations": (stims, reps, 1, cells), "bins": (stims, 1, bins, 1)}
        response = np.where(rng.random(sizes.get(lost, shape)) < 0.2, np.nan, response)

    dtype, other = (draw(st.sampled_from([np.float32, np.float64])) for _ in range(2))
    scale, other_scale = (2.0 ** draw(st.sampled_from([0, 100, -100])) for _ in range(2))
    if not (response.dtype.kind == "i" and draw(st.booleans())):  # integers stay some
        response = (response * scale).astype(dtype)
    return (
        xr.DataArray((pred * other_scale).astype(other), dims=("stim", "time", "neuron")),
        xr.DataArray(response, dims=("stim", "rep", "time", "neuron")),
    )


Numbers = Sequence[Decimal]
ZERO = Decimal(0)


def covariance(a: Numbers, b: Numbers) -> Decimal:
    mean_a, mean_b = sum(a, ZERO) / len(a), sum(b, ZERO) / len(b)
    return sum(((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)), ZERO) / (
        len(a) - 1
    )


def variance(a: Numbers) -> Decimal:
    value = covariance(a, a)
    return value if value > sum(x * x for x in a) * Decimal("1e-40") else ZERO


def correlation(a: Numbers, b: Numbers) -> Decimal:
    product = variance(a) * variance(b)
    return covariance(a, b) / product.sqrt() if product else ZERO


def decimals(values: np.ndarray) -> list[Decimal]:
    return [Decimal(float(value)) for value in values]


class Sound(NamedTuple):
    pred: list[Decimal]
    trials: dict[int, list[Decimal]]  # by the number of the repeat

    @property
    def psth(self) -> list[Decimal]:
        return [sum(bins, ZERO) / len(bins) for bins in zip(*self.trials.values(), strict=True)]

    def deviation(self, rep: int, divisor: int) -> list[Decimal]:
        """A trial less the PSTH, over sqrt(divisor); zeros for one that did not take place."""
        root, psth = Decimal(divisor).sqrt(), self.psth
        return [(r - y) / root for r, y in zip(self.trials.get(rep, psth), psth, strict=True)]


def heard(pred: np.ndarray, response: np.ndarray) -> list[Sound]:
    """The bins that count, of each sound that was presented twice."""
    sounds = []
    for p, reps in zip(pred, response, strict=True):
        reps = np.where(np.isnan(p), np.nan, reps)
        presented = np.flatnonzero(~np.isnan(reps).all(1))
        bins = ~np.isnan(reps[presented]).any(0)
        if len(presented) > 1 and bins.any():
            sounds.append(Sound(decimals(p[bins]), {n: decimals(reps[n, bins]) for n in presented}))
    return sounds


def moments(sounds: list[Sound], reps: int) -> dict[str, Decimal]:
    """The terms of the equations, over the bins of these sounds."""
    p, y = (
        [v for sound in sounds for v in values(sound)]
        for values in (lambda s: s.pred, lambda s: s.psth)
    )
    degrees = [len(sound.trials) - 1 for sound in sounds]
    of_single, of_mean = (
        [
            [v for sound, n in zip(sounds, divisors, strict=True) for v in sound.deviation(rep, n)]
            for rep in range(reps)
        ]
        for divisors in (degrees, [n * (n + 1) for n in degrees])
    )
    terms = {
        "var_y": variance(y),
        "signal": variance(y) - sum(map(variance, of_mean), ZERO),
        "noise": sum(map(variance, of_single), ZERO),
        "var_p": variance(p),
        "cov": covariance(p, y),
        "noise_of_cov": sum((covariance(p, d) ** 2 for d in of_mean), ZERO),
    }
    small = sum(v * v for v in y) / len(y) * Decimal("1e-12")
    return {
        name: ZERO if abs(term) <= small and name in ("signal", "noise") else term
        for name, term in terms.items()
    }


def by_formula(pred: np.ndarray, response: np.ndarray, pooled: bool) -> dict[str, float]:
    """The metrics of one cell as their docstrings define them, all but exactly."""
    values = dict.fromkeys(
        ["signal_power", "noise_power", "snr", "cc_max", "ttrc", "cc_norm", "r2_er"], math.nan
    )
    for scored in (False, True):
        p = pred if scored else np.zeros(pred.shape)
        sounds = heard(p, response)
        groups = [sounds] if pooled else [[sound] for sound in sounds]
        sizes = [sum(len(sound.pred) for sound in group) for group in groups]
        counted = [
            (n, moments(group, len(response[0])))
            for n, group in zip(sizes, groups, strict=True)
            if n > 1
        ]
        if not counted:
            continue
        bins = sum(n for n, _ in counted)
        mean = {name: sum(n * m[name] for n, m in counted) / bins for name in counted[0][1]}
        signal = mean["signal"]
        if not scored:
            values["signal_power"], values["noise_power"] = float(signal), float(mean["noise"])
            if signal > 0 and mean["noise"] > 0:
                values["snr"] = float(signal / mean["noise"])
            if signal > 0:
                values["cc_max"] = math.sqrt(signal / mean["var_y"])
            values["ttrc"] = mean_correlation(groups, sizes)
        elif signal > 0 and mean["var_p"]:
            values["cc_norm"] = float(mean["cov"] / (mean["var_p"] * signal).sqrt())
            explained = mean["cov"] ** 2 - mean["noise_of_cov"]
            values["r2_er"] = float(explained / (mean["var_p"] * signal))
    return values


def mean_correlation(groups: list[list[Sound]], sizes: list[int]) -> float:
    means, varies = [], False
    for group in groups:
        least = min(len(sound.trials) for sound in group)
        trials = [
            [v for sound in group for v in list(sound.trials.values())[n]] for n in range(least)
        ]
        varies |= any(len(trial) > 1 and variance(trial) for trial in trials)
        pairs = list(combinations(trials, 2))
        several = len(trials[0]) > 1
        means.append(sum(correlation(*pair) for pair in pairs) / len(pairs) if several else ZERO)
    mean = sum(n * m for n, m in zip(sizes, means, strict=True)) / sum(sizes)
    return float(mean) if varies else math.nan


def beside_psth(pred: np.ndarray, psth: np.ndarray) -> dict[str, float]:
    values = {"corrcoef": math.nan, "fve": math.nan}
    valid = ~(np.isnan(pred) | np.isnan(psth))
    p, y = decimals(pred[valid]), decimals(psth[valid])
    if len(y) > 1:
        if variance(p) and variance(y):
            values["corrcoef"] = float(correlation(p, y))
        if variance(y):
            errors = sum((a - b) ** 2 for a, b in zip(p, y, strict=True))
            values["fve"] = float(1 - errors / (variance(y) * (len(y) - 1)))
    return values


def scores(recording: Recording) -> xr.Dataset:
    return xr.Dataset({name: metric(*recording) for name, metric in METRICS.items()})


def assert_same_but_for_rounding(actual: xr.Dataset, expected: xr.Dataset, of: Recording) -> None:
    """To 1e-9: of the value, or of 1, or for powers of the largest squared response."""
    squared = float(np.nan_to_num(of[1]).astype(float).max()) ** 2
    for name in expected:
        atol = 1e-9 * (squared if "power" in str(name) else 1)
        np.testing.assert_allclose(
            actual[name], expected[name], rtol=1e-9, atol=atol, err_msg=str(name)
        )


@pytest.mark.reliability
@given(recordings())
@settings(max_examples=12)
def test_any_value_is_that_of_its_formula(recording: Recording) -> None:
    pred, response = recording
    cells = [
        array.transpose("neuron", ...).values for array in (pred, response.mean("rep"), response)
    ]
    expected: dict[str, list[float]] = defaultdict(list)
    with localcontext(prec=50, Emax=9999, Emin=-9999):
        for p, y, r in zip(*cells, strict=True):
            pooled, separate = by_formula(p, r, True), by_formula(p, r, False)
            del separate["r2_er"]
            separate = {f"{name}, separate": value for name, value in separate.items()}
            for name, value in (beside_psth(p, y) | pooled | separate).items():
                expected[name].append(value)
    values = xr.Dataset({name: ("neuron", of_cells) for name, of_cells in expected.items()})
    assert_same_but_for_rounding(scores(recording), values, recording)


@given(recordings())
@settings(max_examples=12)
def test_any_value_is_finite_or_nan_and_in_its_range(recording: Recording) -> None:
    for name, value in scores(recording).items():
        assert not np.isinf(value).any(), name
        lowest, highest = RANGES.get(str(name).split(",")[0], (-np.inf, np.inf))
        known = value.dropna("neuron")
        assert ((known >= lowest - 1e-9) & (known <= highest + 1e-9)).all(), name


@given(recordings(), st.data())
@settings(max_examples=12)
def test_the_value_of_a_cell_does_not_depend_on_the_others(recording: Recording, data) -> None:
    one = data.draw(st.integers(0, recording[0].sizes["neuron"] - 1))
    alone = tuple(array.isel(neuron=[one]) for array in recording)
    assert_same_but_for_rounding(scores(alone), scores(recording).isel(neuron=[one]), recording)


@given(recordings(), st.data())
@settings(max_examples=5)
def test_the_order_of_stimuli_and_of_presentations_changes_nothing(recording, data) -> None:
    pred, response = recording
    expected = scores(recording)
    order = data.draw(st.permutations(range(response.sizes["stim"])))
    turned = pred.isel(stim=order), response.isel(stim=order)
    assert_same_but_for_rounding(scores(turned), expected, recording)
    order = data.draw(st.permutations(range(response.sizes["rep"])))
    turned = pred, response.isel(rep=order)
    assert_same_but_for_rounding(scores(turned), expected.drop_vars(ORDERED), recording)


@given(recordings(), st.data())
@settings(max_examples=2)
def test_any_chunks_give_the_same(recording: Recording, data) -> None:
    lazy = tuple(
        array.chunk({dim: data.draw(st.integers(1, size)) for dim, size in array.sizes.items()})
        for array in recording
    )
    with dask.config.set(scheduler="synchronous"):
        assert_same_but_for_rounding(scores(lazy).compute(), scores(recording), recording)


# --- labels and layout ---------------------------------------------------------------------------


@every_metric
def test_every_label_of_the_cells_is_kept(rate, response, metric) -> None:
    scores = metric(rate, response)
    assert scores.dims == ("neuron",)
    assert scores.dtype == np.float64
    assert set(scores.coords) == {"neuron", "animal", "electrode"}
    assert scores.sel(animal="ARM", electrode=[1, 2]).equals(scores[1:3])


@pytest.mark.parametrize("name", METRICS)
def test_results_say_what_they_are(rate, response, name: str) -> None:
    scores = METRICS[name](rate, response)
    assert name.startswith(scores.name)
    assert scores.attrs["long_name"]
    squared = scores.name in ("signal_power", "noise_power")
    assert scores.attrs["units"] == ("(spikes per bin)^2" if squared else "1")


@every_metric
def test_dims_may_come_in_any_order(rate, response, metric) -> None:
    turned = metric(
        rate.transpose("neuron", "time", "stim"),
        response.transpose("time", "neuron", "rep", "stim"),
    )
    xr.testing.assert_allclose(turned, metric(rate, response), rtol=1e-12)


@pytest.mark.parametrize("metric", WITH_PRED.values(), ids=WITH_PRED)
def test_predictions_are_matched_by_the_names_of_sounds_and_cells(rate, response, metric) -> None:
    turned = metric(rate.isel(stim=slice(None, None, -1), neuron=[2, 0, 3, 1]), response)
    xr.testing.assert_allclose(turned, metric(rate, response), rtol=1e-12)


@pytest.mark.parametrize("metric", WITH_PRED.values(), ids=WITH_PRED)
@pytest.mark.parametrize(("dim", "what"), [("neuron", "2 cells"), ("stim", "2 sounds")])
def test_predictions_for_other_cells_or_sounds_are_refused(
    rate, response, metric, dim: str, what: str
) -> None:
    with pytest.raises(ValueError, match=f"pred has {what} and .* 2 are the same"):
        metric(rate.isel({dim: [1, 0]}), response)


@every_metric
def test_a_single_cell_needs_no_neuron_dim(rate, response, metric) -> None:
    score = metric(rate.isel(neuron=2), response.isel(neuron=2))
    assert score.dims == ()
    assert score.neuron == "ARM029a-02-1"
    xr.testing.assert_allclose(
        score.reset_coords(drop=True),
        metric(rate, response).isel(neuron=2).reset_coords(drop=True),
        rtol=1e-12,
    )


@pytest.mark.parametrize("metric", WITH_PRED.values(), ids=WITH_PRED)
def test_several_predictions_are_scored_at_once(rate, response, metric) -> None:
    models = xr.concat([rate, rate**2], dim="model")
    scores = metric(models, response)
    assert set(scores.dims) == {"model", "neuron"}
    xr.testing.assert_allclose(scores.isel(model=1), metric(rate**2, response))


@every_metric
def test_single_precision_costs_nothing_but_the_rounding_of_the_input(metric) -> None:
    rate, response = simulated()
    rate = rate.astype(np.float32)
    double = metric(rate.astype(np.float64), response.astype(np.float64))
    xr.testing.assert_allclose(metric(rate, response), double, rtol=1e-6)


@every_metric
def test_what_is_passed_in_stays_as_it_is(rate, response, metric) -> None:
    response = response.where((response.rep > 2) | (response.stim != response.stim[0]))
    before = rate.copy(deep=True), response.copy(deep=True)
    metric(rate, response)
    xr.testing.assert_identical(rate, before[0])
    xr.testing.assert_identical(response, before[1])


def test_predictions_that_know_the_names_alone_are_accepted(rate, response) -> None:
    bare = xr.DataArray(rate.values, dims=rate.dims, coords={"neuron": rate.neuron.values})
    xr.testing.assert_identical(metrics.cc_norm(bare, response), metrics.cc_norm(rate, response))


# --- laziness ------------------------------------------------------------------------------------


@every_metric
def test_dask_in_dask_out(rate, response, metric, no_compute) -> None:
    scores = metric(rate.chunk(stim=2, time=30), response.chunk(stim=2, rep=1, time=30, neuron=3))
    assert dask.is_dask_collection(scores)
    assert dask.is_dask_collection(metric(rate, response.chunk(rep=1)))


@every_metric
@pytest.mark.parametrize("chunk_size", ["128MiB", "1kiB"])
def test_chunks_do_not_change_the_result(rate, response, metric, chunk_size: str) -> None:
    response = response.where((response.rep > 2) | (response.stim != response.stim[0]))
    with dask.config.set({"array.chunk-size": chunk_size, "scheduler": "synchronous"}):
        lazy = metric(rate.chunk(stim=2, time=30), response.chunk(stim=4, rep=3, time=30, neuron=3))
        computed = lazy.compute()
    xr.testing.assert_allclose(computed, metric(rate, response), rtol=1e-12)
    assert computed.attrs == lazy.attrs


def test_chunks_stay_small_when_repeats_are_gathered(response) -> None:
    with dask.config.set({"array.chunk-size": "10kiB"}):
        assert max(metrics.signal_power(response.chunk(rep=1)).chunksizes["neuron"]) < 4


def test_memory_does_not_grow_to_a_double_precision_copy() -> None:
    import tracemalloc

    _, response = simulated(stims=20, reps=20, neurons=20)
    tracemalloc.start()
    metrics.cc_max(response)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < response.nbytes


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", ["stim", "time"])
@pytest.mark.parametrize("name", ["corrcoef", "fve", "coherence"])
def test_a_missing_dim_of_the_prediction_is_named(rate, name: str, dim: str) -> None:
    with pytest.raises(ValueError, match=f"pred needs the dims .*'{dim}' is missing"):
        getattr(metrics, name)(rate.isel({dim: 0}), rate)


@pytest.mark.parametrize("name", ["corrcoef", "fve"])
def test_trials_in_place_of_the_psth_are_named(rate, response, name: str) -> None:
    with pytest.raises(ValueError, match=r"'rep'.*mean\('rep'\)"):
        getattr(metrics, name)(rate, response)


@pytest.mark.parametrize("dim", ["stim", "rep", "time"])
@every_ceiling
def test_a_missing_dim_of_the_response_is_named(response, metric, dim: str) -> None:
    with pytest.raises(ValueError, match=f"response needs the dims .*'{dim}' is missing"):
        metric(response.isel({dim: 0}))


def test_a_dataset_is_refused(response) -> None:
    with pytest.raises(TypeError, match=r"response must be an xarray\.DataArray, not Dataset"):
        metrics.snr(response.to_dataset(name="response"))


def test_unknown_methods_are_refused(rate, response) -> None:
    with pytest.raises(ValueError, match="'schoppe' or 'hsu', not 'sahani'"):
        metrics.cc_norm(rate, response, method="sahani")


def test_no_splits_are_refused(response) -> None:
    with pytest.raises(ValueError, match="splits must be at least 1"):
        metrics.cc_max(response, splits=0)
