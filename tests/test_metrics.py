"""nat4xr.metrics: reference values, the statistics they promise, labels, NaN, laziness."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nat4xr import metrics
from nat4xr.index import set_labels

from .support import DATA

WITH_PRED: dict[str, Callable[[xr.DataArray, xr.DataArray], xr.DataArray]] = {
    "corrcoef": lambda pred, response: metrics.corrcoef(pred, response.mean("rep")),
    "fve": lambda pred, response: metrics.fve(pred, response.mean("rep")),
    "coherence": lambda pred, response: metrics.coherence(pred, response.mean("rep")),
    "cc_norm_schoppe": metrics.cc_norm,
    "cc_norm_hsu": lambda pred, response: metrics.cc_norm(pred, response, method="hsu"),
}
WITHOUT_PRED = {
    name: getattr(metrics, name)
    for name in ("signal_power", "noise_power", "snr", "cc_max", "corrcoef_max", "ttrc")
}
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
    with np.load(DATA / "metrics_reference.npz") as arrays:
        return xr.Dataset(
            {
                "pred": (("stim", "neuron", "time"), arrays["prediction"]),
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
    ("name", "tolerance"),
    [
        ("corrcoef", 1e-9),
        ("fve", 1e-9),
        ("signal_power", 1e-9),
        ("noise_power", 1e-9),
        ("snr", 1e-9),
        ("cc_norm_schoppe", 1e-9),
        # deepSTRF takes the first 126 splits in lexicographic order, nat4xr random ones.
        ("cc_norm_hsu", 0.01),
        ("cc_max", 0.01),
    ],
)
def test_agrees_with_deepstrf(reference: xr.Dataset, name: str, tolerance: float) -> None:
    ours = METRICS[name](reference.pred, reference.response)
    np.testing.assert_allclose(ours, reference[f"expected_{name}"], rtol=0, atol=tolerance)


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
    by_stimulus = [np.corrcoef(one)[pairs].mean() for one in response.isel(neuron=0).values]
    np.testing.assert_allclose(metrics.ttrc(response), [np.mean(by_stimulus)])


def test_presentations_without_a_spike_do_not_count_in_trial_to_trial_correlation(response) -> None:
    silent = xr.concat([response, 0 * response.isel(rep=[0])], dim="rep")
    xr.testing.assert_allclose(metrics.ttrc(silent), metrics.ttrc(response))


def test_few_presentations_are_split_in_every_way() -> None:
    _, response = simulated(stims=3, reps=6, neurons=1)
    ceilings = []
    for one in response.isel(neuron=0).values:
        halves = [
            (one[list(first)].mean(0), one[list(set(range(6)) - set(first))].mean(0))
            for first in combinations(range(6), 3)
        ]
        half = np.mean([np.corrcoef(*pair)[0, 1] for pair in halves])
        ceilings.append(np.sqrt(2 / (1 + np.sqrt(1 / half**2))))
    np.testing.assert_allclose(metrics.cc_max(response), [np.mean(ceilings)])
    xr.testing.assert_identical(metrics.cc_max(response, seed=1), metrics.cc_max(response, seed=2))


def test_many_presentations_are_split_at_random_and_reproducibly() -> None:
    _, response = simulated(reps=20)
    one, same, other = (metrics.cc_max(response, seed=seed) for seed in (1, 1, 2))
    xr.testing.assert_identical(one, same)
    assert (one != other).all()
    np.testing.assert_allclose(one, other, atol=0.02)


def test_half_splits_in_which_one_half_is_silent_do_not_count() -> None:
    # Two presentations alike, two silent: of three splits, two have a spike in both halves.
    spikes, silent = [0.0, 3, 1, 0, 2], [0.0] * 5
    response = xr.DataArray([[spikes, spikes, silent, silent]], dims=("stim", "rep", "time"))
    assert metrics.cc_max(response) == pytest.approx(1)


def test_the_last_of_an_odd_number_of_presentations_is_not_split(response) -> None:
    odd = response.isel(rep=slice(7))
    xr.testing.assert_allclose(metrics.cc_max(odd), metrics.cc_max(odd.isel(rep=slice(6))))


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


def test_signal_power_is_unbiased(known) -> None:
    rate, response = known
    assert_unbiased(metrics.signal_power(response), float(rate.var("time", ddof=1).mean()))


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


def test_the_ceiling_is_how_well_the_true_rate_correlates(known) -> None:
    rate, response = known
    reached = metrics.corrcoef(rate, response.mean("rep"))
    np.testing.assert_allclose(metrics.cc_max(response).mean(), reached.mean(), atol=0.005)


def test_the_ceiling_of_strung_sounds_is_how_well_the_true_rate_correlates(known) -> None:
    rate, _ = known
    rate = rate + xr.DataArray(np.linspace(0, 1, 18), dims="stim")
    counts = np.random.default_rng(0).poisson(rate.values[:, None, :, None], (18, 20, 150, SEEDS))
    response = xr.DataArray(counts, dims=("stim", "rep", "time", "neuron"))
    reached = metrics.corrcoef(rate, response.mean("rep"))
    assert_unbiased(metrics.corrcoef_max(response), float(reached.mean()))
    assert metrics.cc_max(response).mean() < reached.mean() - 0.005


def test_the_ceiling_of_strung_sounds_counts_sounds_that_were_presented_twice() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1, 1, (5, 1, 50)), (5, 6, 50)).astype(np.float32)
    counts[1, 4:] = np.nan  # fewer presentations
    counts[2, 1:] = np.nan  # one
    counts[3, 2, 40:] = np.nan  # a presentation cut short
    psth, noise = [], []
    for sound in (0, 1, 3, 4):
        for t in range(40 if sound == 3 else 50):
            some = [float(x) for x in counts[sound, :, t] if not np.isnan(x)]
            psth.append(np.mean(some))
            noise.append(np.var(some, ddof=1) / len(some))
    expected = np.sqrt(1 - np.mean(noise) / np.var(psth, ddof=1))
    ceiling = metrics.corrcoef_max(xr.DataArray(counts, dims=("stim", "rep", "time")))
    assert float(ceiling) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["schoppe", "hsu"])
def test_the_true_rate_scores_one(known, method: str) -> None:
    rate, response = known
    scores = metrics.cc_norm(rate, response, method=method)
    assert float(scores.mean()) == pytest.approx(1, abs=0.003)
    assert float(scores.std()) < 0.03


def test_the_true_rate_scores_more_where_mean_rates_differ_between_sounds(known) -> None:
    rate, _ = known
    rate = rate + xr.DataArray(np.linspace(0, 1, 18), dims="stim")
    counts = np.random.default_rng(0).poisson(rate.values[:, None, :, None], (18, 20, 150, SEEDS))
    scores = metrics.cc_norm(rate, xr.DataArray(counts, dims=("stim", "rep", "time", "neuron")))
    # As the notes of cc_norm say: variance over all bins against variance within stimuli.
    expected = np.sqrt(float(rate.var(ddof=1) / rate.var("time", ddof=1).mean()))
    assert expected > 1.3
    assert_unbiased(scores, expected)


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
    each = xr.concat([metrics.signal_power(cut.isel(stim=[i])) for i in range(6)], "stim")
    weights = xr.DataArray([50, *[100] * 5], dims="stim")
    expected = (each * weights).sum("stim") / weights.sum()
    xr.testing.assert_allclose(metrics.signal_power(cut), expected)


@every_ceiling
def test_a_bin_that_one_presentation_lacks_does_not_count(response, metric) -> None:
    damaged = response.copy(deep=True)
    damaged[{"rep": 3, "time": slice(90, None)}] = np.nan
    xr.testing.assert_allclose(metric(damaged), metric(response.isel(time=slice(90))))


@pytest.mark.parametrize("name", [*WITHOUT_PRED, "cc_norm_schoppe", "cc_norm_hsu"])
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
    "name", [name for name in METRICS if name not in ("signal_power", "noise_power")]
)
def test_a_response_without_variance_has_no_score(rate, response, name: str, value) -> None:
    assert METRICS[name](rate, xr.full_like(response, value, dtype=float)).isnull().all()


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_response_without_variance_has_no_power(response, value: float) -> None:
    constant = xr.full_like(response, value, dtype=float)
    np.testing.assert_array_equal(metrics.signal_power(constant), 0)
    np.testing.assert_array_equal(metrics.noise_power(constant), 0)


@pytest.mark.parametrize("name", ["snr", "cc_norm_schoppe", "cc_norm_hsu", "cc_max"])
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
    for name in ("snr", "cc_norm_schoppe", "cc_norm_hsu", "cc_max", "corrcoef_max"):
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
    assert metrics.cc_max(response).isnull()


# --- any small recording -------------------------------------------------------------------------

Recording = tuple[xr.DataArray, xr.DataArray]

RANGES = dict.fromkeys(["corrcoef", "ttrc"], (-1, 1)) | {"fve": (-np.inf, 1)}
RANGES |= dict.fromkeys(["coherence", "cc_max", "corrcoef_max"], (0, 1))
# An odd number of presentations is split without the last, so that their order matters there.
SPLIT = ("cc_max", "cc_norm_hsu")


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


def covariance(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / (len(a) - 1)


def variance(a: Sequence[Fraction]) -> Fraction:
    return covariance(a, a)


def over_root(a: Fraction, squared: Fraction) -> float:
    return float(a) / math.sqrt(squared) if squared > 0 else math.nan


def weighted_mean(values: list[tuple[int, Fraction]]) -> Fraction | float:
    return sum(n * v for n, v in values) / sum(n for n, _ in values) if values else math.nan


def by_formula(pred: np.ndarray, psth: np.ndarray, response: np.ndarray) -> dict[str, float]:
    """The metrics of one cell as their docstrings define them, in exact fractions."""
    expected = dict.fromkeys(
        ["corrcoef", "fve", "corrcoef_max", "cc_norm_schoppe", "snr"], math.nan
    )

    valid = ~(np.isnan(pred) | np.isnan(psth))
    p, y = ([Fraction(float(v)) for v in values[valid]] for values in (pred, psth))
    if len(y) > 1:
        expected["corrcoef"] = over_root(covariance(p, y), variance(p) * variance(y))
        if variance(y):
            errors = sum((a - b) ** 2 for a, b in zip(p, y, strict=True))
            expected["fve"] = float(1 - errors / (variance(y) * (len(y) - 1)))

    signals, noises, pairs = [], [], []  # (bins, value) of each stimulus
    strung, noise = [], []  # of each bin
    both = []  # prediction and PSTH
    for stim, reps in enumerate(response):
        presented = reps[~np.isnan(reps).all(1)]
        bins = np.flatnonzero(~np.isnan(presented).any(0))
        r = [[Fraction(float(v)) for v in rep[bins]] for rep in presented]
        n, n_bins = len(r), len(bins)
        if n < 2:
            continue
        by_bin = list(zip(*r, strict=True))
        y = [sum(some) / n for some in by_bin]
        strung += y
        noise += [variance(some) / n for some in by_bin]
        if n_bins < 2:
            continue
        mean_power = sum(map(variance, r)) / n
        signal = (n * variance(y) - mean_power) / (n - 1)
        signals.append((n_bins, signal))
        noises.append((n_bins, mean_power - signal))
        both += [(pred[stim, t], v) for t, v in zip(bins, y, strict=True)]
        varying = list(combinations([rep for rep in r if variance(rep)], 2))
        if varying:
            cc = [over_root(covariance(a, b), variance(a) * variance(b)) for a, b in varying]
            pairs.append((n_bins, sum(cc) / len(cc)))

    if len(strung) > 1 and variance(strung):
        share = 1 - sum(noise) / len(noise) / variance(strung)
        expected["corrcoef_max"] = math.sqrt(share) if share > 0 else math.nan
    signal, noise = weighted_mean(signals), weighted_mean(noises)
    if signal > 0 and noise > 0:
        expected["snr"] = float(signal / noise)
    both = [(Fraction(float(p)), y) for p, y in both if not np.isnan(p)]
    if signal > 0 and len(both) > 1:
        p, y = zip(*both, strict=True)
        expected["cc_norm_schoppe"] = over_root(covariance(p, y), variance(p) * signal)
    return expected | {
        "signal_power": float(signal),
        "noise_power": float(noise),
        "ttrc": float(weighted_mean(pairs)),
    }


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


@given(recordings())
@settings(max_examples=35)
def test_any_value_is_that_of_its_formula(recording: Recording) -> None:
    pred, response = recording
    cells = zip(
        pred.transpose("neuron", ...).values,
        response.mean("rep").transpose("neuron", ...).values,
        response.transpose("neuron", ...).values,
        strict=True,
    )
    values = [by_formula(*cell) for cell in cells]
    expected = {name: ("neuron", [value[name] for value in values]) for name in values[0]}
    assert_same_but_for_rounding(scores(recording), xr.Dataset(expected), recording)


@given(recordings())
@settings(max_examples=25)
def test_any_value_is_finite_or_nan_and_in_its_range(recording: Recording) -> None:
    for name, value in scores(recording).items():
        assert not np.isinf(value).any(), name
        lowest, highest = RANGES.get(str(name), (-np.inf, np.inf))
        known = value.dropna("neuron")
        assert ((known >= lowest - 1e-9) & (known <= highest + 1e-9)).all(), name


@given(recordings(), st.data())
@settings(max_examples=12)
def test_the_value_of_a_cell_does_not_depend_on_the_others(recording: Recording, data) -> None:
    one = data.draw(st.integers(0, recording[0].sizes["neuron"] - 1))
    alone = tuple(array.isel(neuron=[one]) for array in recording)
    assert_same_but_for_rounding(scores(alone), scores(recording).isel(neuron=[one]), recording)


@given(recordings(), st.data())
@settings(max_examples=8)
def test_the_order_of_stimuli_and_of_presentations_changes_nothing(recording, data) -> None:
    pred, response = recording
    expected = scores(recording)
    order = data.draw(st.permutations(range(response.sizes["stim"])))
    turned = pred.isel(stim=order), response.isel(stim=order)
    assert_same_but_for_rounding(scores(turned), expected, recording)
    order = data.draw(st.permutations(range(response.sizes["rep"])))
    turned = pred, response.isel(rep=order)
    assert_same_but_for_rounding(scores(turned), expected.drop_vars(SPLIT), recording)


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
    squared = name in ("signal_power", "noise_power")
    assert scores.attrs["units"] == ("(spikes per bin)^2" if squared else "1")


@every_metric
def test_dims_may_come_in_any_order(rate, response, metric) -> None:
    turned = metric(
        rate.transpose("neuron", "time", "stim"),
        response.transpose("time", "neuron", "rep", "stim"),
    )
    xr.testing.assert_allclose(turned, metric(rate, response), rtol=1e-12)


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
        xr.testing.assert_allclose(lazy.compute(), metric(rate, response), rtol=1e-12)
        assert lazy.compute().attrs == lazy.attrs


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


@pytest.mark.parametrize("dim", ["stim", "rep", "time"])
@every_ceiling
def test_a_missing_dim_of_the_response_is_named(response, metric, dim: str) -> None:
    with pytest.raises(ValueError, match=f"response needs the dims .*'{dim}' is missing"):
        metric(response.isel({dim: 0}))


def test_an_empty_selection_is_named(rate, response) -> None:
    with pytest.raises(ValueError, match="response is empty: its dim 'stim'"):
        metrics.cc_norm(rate, response.isel(stim=[]))


def test_predictions_of_other_cells_are_refused(rate, response) -> None:
    with pytest.raises(ValueError, match="neuron"):
        metrics.cc_norm(rate.isel(neuron=[1, 0, 2, 3]), response)


def test_a_dataset_is_refused(response) -> None:
    with pytest.raises(TypeError, match=r"response must be an xarray\.DataArray, not Dataset"):
        metrics.snr(response.to_dataset(name="response"))


def test_unknown_methods_are_refused(rate, response) -> None:
    with pytest.raises(ValueError, match="'schoppe' or 'hsu', not 'sahani'"):
        metrics.cc_norm(rate, response, method="sahani")


def test_no_splits_are_refused(response) -> None:
    with pytest.raises(ValueError, match="splits must be at least 1"):
        metrics.cc_max(response, splits=0)
