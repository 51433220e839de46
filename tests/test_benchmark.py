"""nat4xr.benchmark: the published protocol and results; the STRF baseline on simulated releases."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import nat4xr
from nat4xr import benchmark, metrics, preprocess, strf
from nat4xr.index import LabelIndex, set_labels

CELLS = ["ARM029a-04-1", "ARM029a-07-6", "DRX006b-12-1", "DRX006b-14-1", "TNC013a-22-3"]
STIMS = [
    "STIM_00cat172_rec1_geese_excerpt1.wav",
    "STIM_00cat92_rec1_country_song_excerpt1.wav",
    "STIM_00cat83_rec1_cicadas_excerpt1.wav",
    "STIM_cat10_rec1_rain_excerpt1.wav",
    "STIM_cat11_rec1_owl_excerpt1.wav",
]
N_VAL, REPS, BINS = 3, 8, 50


def recorded(*, area: str = "A1", simulated: int = 0) -> xr.Dataset:
    """A few cells in the layout of NAT4: the fourth is not auditory, the fifth has no trials."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1, 0.5, (5, 1, BINS, 5)), (5, REPS, BINS, 5)).astype("f4")
    counts[N_VAL:, 1:] = np.nan
    counts[:N_VAL, ..., 4] = np.nan
    response = xr.DataArray(
        counts,
        dims=("stim", "rep", "time", "neuron"),
        coords={
            "stim": STIMS,
            "subset": ("stim", ["val"] * N_VAL + ["est"] * 2),
            "time": np.arange(BINS) / 100,
            "neuron": CELLS,
            "site": ("neuron", [cell[:7] for cell in CELLS]),
            "auditory": ("neuron", [True, True, True, False, True]),
            "area": ("neuron", [area] * 5),
        },
    )
    n_reps = response.notnull().any("time").sum("rep").astype(np.int8)
    return set_labels(
        xr.Dataset({"response": response, "n_reps": n_reps}, attrs={"simulated": simulated})
    )


@pytest.fixture
def ds() -> xr.Dataset:
    return recorded()


@pytest.fixture
def pred(ds: xr.Dataset) -> xr.DataArray:
    """A prediction of every sound and cell: the truth with some noise."""
    noise = np.random.default_rng(1).normal(size=(5, BINS, 5))
    return ds.response.mean("rep").fillna(0) + 0.3 * noise


# --- the published results -----------------------------------------------------------------------


def test_the_published_results_are_those_of_the_table() -> None:
    table = """
    | A1 | StateNet | LSTM, population | 40,271 | 46.6 / 65.1 | s42003-025-08858-3 |
    | A1 | 2D-CNN | AdapTrans, population | not given | 46.4 / 64.5 | journal.pcbi.1012288 |
    | A1 | Transformer | population | 28,437 | 46.6 / 64.4 | s42003-025-08858-3 |
    | PEG | Transformer | population | 28,437 | 39.7 / 55.5 | s42003-025-08858-3 |
    | PEG | 2D-CNN | AdapTrans, population | not given | 39.2 / 55.2 | journal.pcbi.1012288 |
    | PEG | StateNet | LSTM, population | 40,271 | 38.9 / 54.7 | s42003-025-08858-3 |
    """
    rows = [re.split(r" *\| *| / ", line.strip(" |")) for line in table.strip().splitlines()]
    published = benchmark.published()
    assert len(published) == len(rows)
    for (_, ours), (area, backbone, remarks, params, raw, norm, doi) in zip(
        published.iterrows(), rows, strict=True
    ):
        assert [area, backbone, remarks] == [ours[c] for c in ("area", "backbone", "remarks")]
        assert ours["doi"].endswith(doi)
        assert ("pcbi.1011110" in ours["doi"]) == (backbone == "2D-CNN")
        assert [float(raw), float(norm)] == [ours["cc_raw"], ours["cc_norm"]]
        if params == "not given":
            assert np.isnan(ours["params_per_neuron"])
        else:
            assert ours["params_per_neuron"] == int(params.replace(",", ""))


# --- the protocol --------------------------------------------------------------------------------


def test_ccraw_is_the_correlation_with_the_mean_over_val_trials(pred, ds) -> None:
    result = benchmark.evaluate(pred, ds)
    for i in range(3):
        psth = ds.response.values[:N_VAL, ..., i].mean(1)
        expected = np.corrcoef(pred.values[:N_VAL, :, i].ravel(), psth.ravel())[0, 1]
        assert float(result.cc_raw[i]) == pytest.approx(expected)


def test_ccnorm_is_schoppes_over_the_val_trials(pred, ds) -> None:
    result = benchmark.evaluate(pred, ds)
    val, three = slice(N_VAL), slice(3)
    expected = metrics.cc_norm(pred[val, :, three], ds.response[val, ..., three])
    np.testing.assert_allclose(result.cc_norm, expected)


def test_auditory_cells_with_val_trials_are_scored(pred, ds) -> None:
    assert benchmark.evaluate(pred, ds).neuron.values.tolist() == CELLS[:3]
    assert benchmark.evaluate(pred, ds, cells="all").neuron.values.tolist() == CELLS[:4]


def test_the_result_sums_up(pred, ds) -> None:
    result = benchmark.evaluate(pred, ds)
    expected: dict[str, Any] = {"area": "A1", "cells": "auditory", "simulated": 0}
    expected |= {"n_stims": N_VAL, "n_cells": 3, "n_cc_raw": 3, "n_cc_norm": 3, "n_r_ceiling": 3}
    for name in ("cc_raw", "cc_norm", "r_ceiling"):
        expected[f"{name}_mean"] = pytest.approx(float(result[name].mean()))
        expected[f"{name}_median"] = pytest.approx(float(result[name].median()))
    assert {key: result.attrs[key] for key in expected} == expected
    assert "pooled" in result.attrs["cc_norm"]


SCORED = {
    "cc_raw": lambda pred, response: metrics.corrcoef(pred, response.mean("rep")),
    "cc_norm": metrics.cc_norm,
    "r_ceiling": metrics.r_ceiling,
}


@pytest.mark.parametrize("name", SCORED)
def test_standard_errors_are_those_of_the_jackknife_over_sounds(pred, ds, name: str) -> None:
    result = benchmark.evaluate(pred, ds)
    val = pred[:N_VAL, :, :3], ds.response[:N_VAL, ..., :3]
    by_cell = metrics.jackknife(SCORED[name], *val)
    np.testing.assert_allclose(result[name], by_cell.value)
    np.testing.assert_allclose(result[f"{name}_se"], by_cell.standard_error)
    for kind in ("mean", "median"):
        over_cells = metrics.jackknife(lambda *a: getattr(SCORED[name](*a), kind)("neuron"), *val)  # noqa: B023
        assert result.attrs[f"{name}_{kind}_se"] == pytest.approx(float(over_cells.standard_error))


def test_a_sound_that_a_cell_never_heard_does_not_count_in_its_errors(pred, ds) -> None:
    deaf = (ds.stim == STIMS[1]) & (ds.neuron == CELLS[0])
    partly = benchmark.evaluate(pred, ds.assign(response=ds.response.where(~deaf)))
    without = benchmark.evaluate(pred.isel(stim=[0, 2]), ds)
    for name in ("cc_raw", "cc_norm", "r_ceiling"):
        for part in (name, f"{name}_se"):
            assert float(partly[part][0]) == pytest.approx(float(without[part][0]))


def test_the_result_says_that_data_are_simulated(pred) -> None:
    result = benchmark.evaluate(pred, recorded(simulated=1))
    assert result.attrs["simulated"] == 1
    assert "SIMULATED" in result.attrs["title"]
    assert {score.attrs["simulated"] for score in result.data_vars.values()} == {1}


def test_the_result_has_the_labels_of_the_cells_and_can_be_saved(pred, ds, tmp_path) -> None:
    result = benchmark.evaluate(pred, ds)
    assert isinstance(result.xindexes["site"], LabelIndex)
    assert result.sel(site="DRX006b").neuron.values.tolist() == [CELLS[2]]
    result.to_netcdf(tmp_path / "scores.nc")
    with xr.open_dataset(tmp_path / "scores.nc") as saved:
        xr.testing.assert_identical(
            saved.load().drop_indexes("neuron"), result.drop_indexes([*result.xindexes])
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda pred: pred.isel(stim=slice(N_VAL)),
        lambda pred: pred[::-1, :, ::-1],
        lambda pred: pred.transpose("neuron", "stim", "time"),
        lambda pred: pred.isel(neuron=[3, 2, 0, 1]),
        lambda pred: xr.DataArray(
            pred.values, {"stim": pred.stim.values, "neuron": pred.neuron.values}, pred.dims
        ),
        lambda pred: pred.drop_indexes([*pred.xindexes]),
        lambda pred: pred.assign_coords(neuron=[f"{c}" for c in CELLS], model="mine"),
        lambda pred: pred.chunk(stim=2, neuron=2),
        lambda pred: 7 * pred - 3,
    ],
    ids=["val alone", "reversed", "transposed", "cells in another order", "names alone",
         "no index", "other labels", "dask", "other units"],
)  # fmt: skip
def test_predictions_may_come_in_any_form(
    pred, ds, change: Callable[[xr.DataArray], xr.DataArray]
) -> None:
    changed = change(pred.drop_indexes(["subset", "site", "area", "auditory"]))
    xr.testing.assert_allclose(benchmark.evaluate(changed, ds), benchmark.evaluate(pred, ds))


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.sel(subset="val"),
        lambda ds: ds.chunk(stim=2, rep=1, neuron=2),
        lambda ds: ds.drop_indexes([*ds.xindexes]),
    ],
    ids=["val alone", "dask", "no index"],
)
def test_recordings_may_come_in_any_form(pred, ds, change) -> None:
    xr.testing.assert_allclose(benchmark.evaluate(pred, change(ds)), benchmark.evaluate(pred, ds))


def test_what_is_passed_in_stays_as_it_is(pred, ds) -> None:
    before = pred.copy(deep=True), ds.copy(deep=True)
    benchmark.evaluate(pred, ds)
    xr.testing.assert_identical(pred, before[0])
    xr.testing.assert_identical(ds, before[1])


def test_cells_that_are_not_predicted_are_left_out(pred, ds) -> None:
    whole = benchmark.evaluate(pred, ds)
    for some in (pred.isel(neuron=[2, 0]), pred.where(pred.neuron != CELLS[1])):
        result = benchmark.evaluate(some, ds)
        assert result.attrs["n_cells"] == 2
        xr.testing.assert_equal(result, whole.isel(neuron=[0, 2]))


def test_sounds_that_are_not_predicted_are_left_out_and_counted(pred, ds) -> None:
    result = benchmark.evaluate(pred.isel(stim=[4, 2, 0]), ds)
    assert result.attrs["n_stims"] == 2
    xr.testing.assert_equal(result, benchmark.evaluate(pred, ds.isel(stim=[0, 2])))


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_prediction_without_variance_scores_zero(pred, ds, value: float) -> None:
    constant = pred.where(pred.neuron != CELLS[1], value)
    result = benchmark.evaluate(constant, ds)
    assert result.cc_raw[1] == 0
    assert result.cc_norm[1] == 0
    assert result.attrs["cc_raw_mean"] == pytest.approx(float(result.cc_raw.sum()) / 3)


def test_a_cell_without_a_spike_has_no_score_and_lowers_no_mean(pred, ds) -> None:
    silent = ds.assign(response=ds.response.where(ds.neuron != CELLS[0], 0))
    result = benchmark.evaluate(pred, silent)
    assert np.isnan(result.cc_raw[0])
    assert np.isnan(result.cc_norm[0])
    assert result.attrs["cc_norm_mean"] == pytest.approx(float(result.cc_norm[1:].mean()))


# --- the leaderboard -----------------------------------------------------------------------------


def result_of(area: str, cc_norm: float, simulated: int = 0) -> xr.Dataset:
    return xr.Dataset(
        {"cc_raw": ("neuron", [0.4, 0.5]), "cc_norm": ("neuron", [cc_norm - 0.1, cc_norm + 0.1])},
        attrs={"area": area, "n_stims": 18, "simulated": simulated},
    )


def test_a_result_takes_its_place_among_the_published_ones_of_its_area() -> None:
    table = benchmark.leaderboard({"mine": result_of("A1", 0.647)})
    assert table["backbone"].tolist() == ["StateNet", "mine", "2D-CNN", "Transformer"]
    mine = table.iloc[1]
    assert (mine["cc_raw"], mine["cc_norm"]) == (45.0, 64.7)
    assert (mine["n_stims"], mine["n_cells"]) == (18, 2)


def test_simulated_results_are_told_apart() -> None:
    table = benchmark.leaderboard(
        {"mine": result_of("A1", 0.7), "on simulated data": result_of("A1", 0.9, simulated=1)}
    )
    assert table["simulated"].tolist() == [True, False, False, False, False]


def test_results_of_both_areas_are_sorted_by_area() -> None:
    table = benchmark.leaderboard({"a": result_of("PEG", 0.9), "b": result_of("A1", 0.1)})
    assert table["area"].tolist() == ["A1"] * 4 + ["PEG"] * 4
    assert table["backbone"].tolist()[3:5] == ["b", "a"]


def test_a_single_result_needs_no_name() -> None:
    assert "this model" in benchmark.leaderboard(result_of("A1", 0.5))["backbone"].tolist()


# --- two models ----------------------------------------------------------------------------------


def test_the_difference_of_two_models_is_paired(pred, ds) -> None:
    other = ds.response.mean("rep").fillna(0)
    a, b = benchmark.evaluate(other, ds), benchmark.evaluate(pred, ds)
    difference = benchmark.compare(a, b)
    for name in SCORED:
        np.testing.assert_allclose(difference[name], a[name] - b[name])
        without = a[f"{name}_jackknife"] - b[f"{name}_jackknife"]
        error = np.sqrt((N_VAL - 1) * without.var("left_out"))
        np.testing.assert_allclose(difference[f"{name}_se"], error)
        mean = without.mean("neuron")
        mean_error = float(np.sqrt((N_VAL - 1) * mean.var()))
        assert difference.attrs[f"{name}_mean_se"] == pytest.approx(mean_error)
        # Of the eight flips of the signs of three sounds, two are the most extreme.
        assert difference.attrs[f"{name}_mean_p"] == pytest.approx(0.25)


def many_sounds(n: int, seed: int) -> tuple[xr.DataArray, xr.Dataset]:
    """True rates of three cells to as many sounds as asked for, and responses to them."""
    rng = np.random.default_rng(seed)
    stims = [f"STIM_00cat{i}_rec1_x_excerpt1.wav" for i in range(n)]
    rate = xr.DataArray(
        rng.gamma(1, 0.3, (n, 100, 3)),
        {"stim": stims, "neuron": CELLS[:3]},
        ("stim", "time", "neuron"),
    )
    response = rng.poisson(rate.values[:, None], (n, 10, 100, 3))
    coords = {
        "stim": stims,
        "neuron": CELLS[:3],
        "subset": ("stim", ["val"] * n),
        "auditory": ("neuron", [True] * 3),
        "area": ("neuron", ["A1"] * 3),
    }
    ds = xr.Dataset(
        {
            "response": (("stim", "rep", "time", "neuron"), response),
            "n_reps": (("stim", "neuron"), np.full((n, 3), 10)),
        },
        coords,
        {"simulated": 1},
    )
    return rate, set_labels(ds)


def test_a_better_model_is_better_by_more_than_chance() -> None:
    rate, ds = many_sounds(18, seed=0)
    noise = np.random.default_rng(1).normal(size=rate.shape)
    better, worse = (benchmark.evaluate(rate + scale * noise, ds) for scale in (0.1, 0.2))
    difference = benchmark.compare(better, worse)
    assert difference.attrs["cc_norm_mean"] > 4 * difference.attrs["cc_norm_mean_se"]
    assert difference.attrs["cc_norm_mean_p"] < 0.001
    # The error of the difference is smaller than that of either: most of it is common.
    assert difference.attrs["cc_raw_mean_se"] < worse.attrs["cc_raw_mean_se"]
    reverse = benchmark.compare(worse, better)
    assert reverse.attrs["cc_norm_mean"] == -difference.attrs["cc_norm_mean"]
    assert reverse.attrs["cc_norm_mean_p"] == difference.attrs["cc_norm_mean_p"]


def test_models_that_are_as_good_differ_by_no_more_than_chance() -> None:
    p = []
    for seed in range(20):
        rate, ds = many_sounds(12, seed)
        noise = np.random.default_rng(seed + 100).normal(size=(2, *rate.shape))
        results = [benchmark.evaluate(rate + 0.2 * one, ds) for one in noise]
        p.append(benchmark.compare(*results).attrs["cc_norm_mean_p"])
    assert sum(value < 0.05 for value in p) <= 3
    assert 0.3 < np.mean(p) < 0.7


def test_models_scored_on_other_sounds_or_areas_are_not_compared(pred, ds) -> None:
    result = benchmark.evaluate(pred, ds)
    with pytest.raises(ValueError, match="different sounds"):
        benchmark.compare(result, benchmark.evaluate(pred.isel(stim=[0, 1]), ds))
    with pytest.raises(ValueError, match="area"):
        benchmark.compare(result, benchmark.evaluate(pred, recorded(area="PEG")))
    with pytest.raises(TypeError, match="b must be what"):
        benchmark.compare(result, ds)


def test_the_leaderboard_has_errors_and_says_which_ccnorm_it_is(pred, ds) -> None:
    result = benchmark.evaluate(pred, ds)
    table = benchmark.leaderboard({"mine": result}).set_index("backbone")
    row = table.loc["mine"]
    assert row["cc_norm_se"] == pytest.approx(100 * result.attrs["cc_norm_mean_se"], abs=0.051)
    assert row["r_ceiling"] == pytest.approx(100 * result.attrs["r_ceiling_median"], abs=0.051)
    assert row["n_cc_norm"] == 3
    assert "pooled" in row["cc_norm_is"]


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.isel(stim=[3, 4]), r"none of the 3 val sounds \(such as 'STIM_00cat172"),
        (lambda p: p.isel(neuron=[3, 4]), "none of the 3 auditory cells with val trials"),
        (lambda p: p.drop_vars("neuron"), "coordinate 'neuron'"),
        (lambda p: p.isel(stim=[0, 0, 1]), "has the stim 'STIM_00cat172.*' twice"),
        (lambda p: p.isel(time=slice(20)), "20 time bins .* 50 of ds"),
        (lambda p: p.assign_coords(time=p.time / 2), "time bins"),
        (lambda p: p.isel(neuron=0), "needs the dims stim, time and neuron"),
        (lambda p: p.where(p.time < 0.3), "not a number in 60 bins of 'ARM029a-04-1'.*in 3 cells"),
        (lambda p: p.where(p.time < 0.3, np.inf), "not a number in 60 bins"),
        (lambda p: p * np.nan, "NaN for every val sound and cell"),
        (lambda p: p.isel(neuron=[]), "nothing to score: 3 auditory cells .* 0 neuron names"),
    ],
)  # fmt: skip
def test_predictions_that_cannot_be_scored_are_refused(pred, ds, change, message: str) -> None:
    bare = xr.DataArray(pred.values, {d: pred[d].values for d in pred.dims}, pred.dims)
    with pytest.raises(ValueError, match=message):
        benchmark.evaluate(change(bare), ds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.sel(subset="est"), "ds has no val sound with repeated trials"),
        (lambda ds: ds.drop_vars("n_reps"), "lacks 'n_reps'"),
        (lambda ds: ds.drop_attrs(), r"ds.attrs\['simulated'\]"),
    ],
)
def test_recordings_that_cannot_be_scored_against_are_refused(pred, ds, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark.evaluate(pred, change(ds))


def test_two_areas_at_once_are_refused(pred, ds) -> None:
    area = ("neuron", ["A1", "A1", "PEG", "PEG", "PEG"])
    both = set_labels(ds.drop_indexes(ds.xindexes.get_all_coords("area")).assign_coords(area=area))
    with pytest.raises(ValueError, match="cells of A1 and PEG: evaluate one area at a time"):
        benchmark.evaluate(pred, both)


def test_unknown_cells_are_refused(pred, ds) -> None:
    with pytest.raises(ValueError, match="cells must be 'auditory' or 'all', not 'deaf'"):
        benchmark.evaluate(pred, ds, cells="deaf")


def test_datasets_are_refused_as_predictions(pred, ds) -> None:
    with pytest.raises(TypeError, match=r"pred must be an xarray\.DataArray, not Dataset"):
        benchmark.evaluate(pred.to_dataset(name="pred"), ds)


# --- a simulated release, of which the truth is known --------------------------------------------


class Release(NamedTuple):
    ds: xr.Dataset
    truth: xr.Dataset
    linear: xr.Dataset
    nonlinear: xr.Dataset
    spectrogram: xr.DataArray


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Sixteen A1 cells with linear-nonlinear Poisson spikes, 115 est sounds; models fitted."""
    folder = nat4xr.simulate(
        tmp_path_factory.mktemp("simulated"), areas=["A1"], scale=0.02, sound_scale=0.2
    )
    ds = nat4xr.open_area("A1", folder, download=False, progressbar=False)
    with xr.open_dataset(folder / "truth.nc") as truth:
        truth = truth.load()
    spectrogram = preprocess.log_minmax(ds.spectrogram)
    est = spectrogram.sel(subset="est"), ds.psth.sel(subset="est").compute()
    linear, nonlinear = (strf.fit(*est, nonlinearity=n) for n in (None, "isotonic"))
    return Release(ds, truth, linear, nonlinear, spectrogram)


def within_standard_error(values: xr.DataArray, truth: float) -> bool:
    error = float(values.std(ddof=1)) / np.sqrt(values.size)
    return abs(float(values.mean()) - truth) < 3 * error


def test_the_baseline_recovers_the_simulated_kernels(release) -> None:
    truth = release.truth.kernel.isel(neuron=release.truth.auditory.values)
    fitted = release.linear.kernel.sel(neuron=truth.neuron.values)
    np.testing.assert_allclose(fitted.lag, truth.lag)
    similarity = [
        np.corrcoef(one.ravel(), other.ravel())[0, 1]
        for one, other in zip(fitted.values, truth.values, strict=True)
    ]
    # From 115 sounds of 1.5 s, each heard once; the lowest is a cell of 0.4 spikes/s.
    assert np.median(similarity) > 0.65
    assert min(similarity) > 0.35


def test_a_perfect_prediction_scores_as_much_as_there_is_to_score(release) -> None:
    result = benchmark.evaluate(release.truth.rate, release.ds)
    assert within_standard_error(result.cc_norm, 1)
    assert result.attrs["cc_norm_mean"] == pytest.approx(1, abs=0.02)


def test_a_shuffled_prediction_scores_zero(release) -> None:
    rng = np.random.default_rng(0)
    shuffled = release.truth.rate.copy(deep=True)
    for i in range(shuffled.sizes["neuron"]):
        for s in range(shuffled.sizes["stim"]):
            shuffled[s, :, i] = rng.permutation(shuffled.values[s, :, i])
    shuffled = shuffled.assign_coords(stim=np.roll(shuffled.stim.values, 1))
    result = benchmark.evaluate(shuffled, release.ds)
    assert within_standard_error(result.cc_norm, 0)
    assert result.attrs["cc_norm_mean"] == pytest.approx(0, abs=0.05)


def test_the_baseline_comes_near_the_ceiling_and_nearer_with_a_nonlinearity(release) -> None:
    val = release.spectrogram.sel(subset="val")
    linear, nonlinear = (
        benchmark.evaluate(strf.predict(model, val), release.ds)
        for model in (release.linear, release.nonlinear)
    )
    perfect = benchmark.evaluate(release.truth.rate, release.ds)
    assert linear.attrs["cc_norm_mean"] > 0.7
    assert nonlinear.attrs["cc_norm_mean"] > linear.attrs["cc_norm_mean"] + 0.05
    assert (perfect.cc_raw > linear.cc_raw).all()
    assert (perfect.cc_raw > nonlinear.cc_raw).all()


def test_cells_that_do_not_listen_are_not_predicted(release) -> None:
    deaf = release.linear.sel(auditory=False)
    assert deaf.sizes["neuron"] > 0
    assert (deaf.score.max("penalty") < 0.001).all()
    listening = release.linear.sel(auditory=True).score.max("penalty")
    assert (listening > deaf.score.max()).all()
    assert listening.median() > 0.02


def test_the_leaderboard_says_that_the_release_is_simulated(release) -> None:
    result = benchmark.evaluate(release.truth.rate, release.ds)
    table = benchmark.leaderboard({"the truth": result})
    assert table.loc[table["backbone"] == "the truth", "simulated"].tolist() == [True]
    assert table["area"].unique().tolist() == ["A1"]


@pytest.mark.parametrize("results", [{}, [1], {"theirs": benchmark.published()}])
def test_a_leaderboard_of_anything_else_is_refused(results: Any) -> None:
    with pytest.raises(TypeError, match="must be what evaluate returned"):
        benchmark.leaderboard(results)


def test_the_baseline_draws_into_figures_of_its_own(
    simulated_release: Path, tmp_path: Path
) -> None:
    figure, ax = plt.subplots()
    ax.set_xscale("log")
    benchmark.run_strf(nat4xr.open_area("PEG", simulated_release, progressbar=False), tmp_path)
    assert not ax.has_data()
    assert plt.get_fignums() == [figure.number]
    plt.close(figure)


def test_the_baseline_learns_nothing_from_val_sounds(
    simulated_release: Path, tmp_path: Path
) -> None:
    ds = nat4xr.open_area("PEG", simulated_release, progressbar=False).load()
    louder = ds.assign(
        spectrogram=ds.spectrogram * xr.where(ds.subset == "val", np.float32(10), np.float32(1))
    )
    models = []
    for name, given in (("as it is", ds), ("louder", louder)):
        benchmark.run_strf(given, tmp_path / name)
        models.append(xr.load_dataset(tmp_path / name / "SIMULATED-PEG-strf-model.nc"))
    xr.testing.assert_identical(*models)
