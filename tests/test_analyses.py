"""The analyses of the page on populations find what is true of simulated data.

Each test runs the code of one section of the page, and of the cell that draws the truth.
"""

import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nat4xr
from benchmarks.analyses import PAGE, recipes

pytest.importorskip("matplotlib")
spearmanr = pytest.importorskip("scipy.stats").spearmanr
pytest.importorskip("sklearn")

CHANCE = 1 / 18  # of the val sounds

Run = Callable[[str], SimpleNamespace]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analyses") / "release"
    return nat4xr.simulate(folder, scale=0.06, sound_scale=0.1, progressbar=False)


@pytest.fixture(scope="module")
def run(release: Path) -> Iterator[Run]:
    """Run the page's imports and one of its sections, once; what the code set is what it gives."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    codes = recipes(truth=True)
    results: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch, mpl.rc_context({"backend": "agg"}):
        patch.setenv("NAT4XR_DATA_DIR", str(release))

        def run_section(title: str) -> SimpleNamespace:
            if title not in results:
                names: dict[str, Any] = {}
                exec(compile(codes[title], f"{PAGE.name}: {title}", "exec"), names)
                results[title] = names
            return SimpleNamespace(**results[title])

        yield run_section
    plt.close("all")
    results.clear()
    gc.collect()  # files are closed here, not while a later test reads another


def correlation(one: Any, other: Any) -> float:
    one, other = np.ravel(one), np.ravel(other)
    known = np.isfinite(one) & np.isfinite(other)
    return float(np.corrcoef(one[known], other[known])[0, 1])


def test_each_section_draws_a_figure_with_named_axes_beside_the_truth(run: Run) -> None:
    for title in recipes(truth=True):
        axes = run(title).fig.axes
        for ax in axes:
            assert ax.get_ylabel(), title
        drawn = [line for ax in axes for line in (*ax.lines, *ax.collections)]
        assert any(line.get_linestyle() != "-" for line in drawn), title


def test_signal_and_noise_correlations_of_pairs_are_true(run: Run) -> None:
    part = run("Signal and noise correlations")
    for name in ("signal_correlation", "noise_correlation"):
        error = (part.pairs[name] - part.true[name]).dropna("pair")
        assert abs(error.mean()) < 0.02
    assert correlation(part.pairs.signal_correlation, part.true.signal_correlation) > 0.9
    assert correlation(part.pairs.noise_correlation, part.true.noise_correlation) > 0.4
    assert part.pairs.noise_correlation.mean() > 0.05


def test_fano_factors_and_the_shared_gain_are_true(run: Run) -> None:
    part = run("Fano factor and shared gain")
    true = part.true_fano.transpose(*part.fano.dims).values
    ratio = part.fano / np.where(part.fano.notnull(), true, np.nan)
    assert abs(ratio.median() - 1) < 0.02
    during = part.fano.sel(time=slice(0.25, 1.2)).mean()
    assert during > part.fano.isel(time=0).mean() + 0.03
    assert correlation(part.shared_gain, part.true_gain) > 0.6


def test_decoding_improves_with_cells_up_to_what_the_true_rates_allow(run: Run) -> None:
    part = run("Decoding sounds")
    accuracy, ideal = part.accuracy.mean(1), part.ideal.mean(1)
    assert accuracy[0] > 1.5 * CHANCE
    assert (np.diff(accuracy) > -0.02).all()
    assert accuracy[-1] > 0.9
    assert (ideal - accuracy > -0.02).all()


def test_distances_between_sounds_are_those_of_the_true_rates(run: Run) -> None:
    part = run("Representational similarity")
    for area in ("A1", "PEG"):
        assert spearmanr(part.measured[area], part.true[area]).statistic > 0.9
    measured, true = part.similarity(part.measured), part.similarity(part.true)
    assert (abs(measured - true).max() < 0.15).all()
    assert (measured.loc["nonlinear STRF"] > measured.loc["spectrogram"]).all()


def test_cross_validated_dimensionality_is_that_of_the_true_rates(run: Run) -> None:
    part = run("Dimensionality")
    assert part.dimensionality == pytest.approx(part.true_dimensionality, rel=0.15)
    biased = part.pca.explained_variance_
    assert biased.sum() ** 2 / (biased**2).sum() > 1.2 * part.true_dimensionality


@pytest.mark.usefixtures("run")  # which sets the data folder
def test_cells_that_ignore_the_sounds_have_no_dimensionality() -> None:
    code = recipes(truth=False)["Dimensionality"]
    names: dict[str, Any] = {}
    exec(code.replace("auditory=True", "auditory=False"), names)
    assert np.isnan(names["dimensionality"])


def test_ceilings_in_parts_of_the_trial_are_true(run: Run) -> None:
    part = run("Ceilings over the trial")
    measured = {name: values.fillna(0).median("neuron") for name, values in part.measured.items()}
    for ax, values in zip(part.axes, measured.values(), strict=True):
        true = [line.get_segments()[0][0, 1] for line in ax.collections]
        assert np.allclose(values, true, rtol=0.25, atol=0.02)
        assert values.sel(window="offset") < 0.8 * values.sel(window="onset")


def test_latencies_are_true_to_a_bin(run: Run) -> None:
    part = run("Latencies by area")
    error = (part.latency - part.true).dropna("neuron")
    assert error.size > 40
    assert (abs(error) < 0.0101).mean() > 0.7
    assert abs(error.median()) < 1e-9


def test_the_tuning_table_puts_cells_in_the_true_order(run: Run) -> None:
    part = run("A tuning table")
    octaves = np.log2(part.table.best_frequency / part.true.best_frequency.values)
    assert abs(octaves).median() < 0.5
    for name, least in {"best_frequency": 0.9, "latency": 0.6, "on_off": 0.6}.items():
        assert spearmanr(part.table[name], part.true[name]).statistic > least


def test_cells_without_drive_have_no_tuning(run: Run) -> None:
    part = run("A tuning table")
    est = nat4xr.open_area("A1", subset="est").sel(auditory=False)
    x = part.preprocess.log_minmax(est.spectrogram)
    model = part.strf.fit(x, est.psth, n_lags=10, folds=3)
    assert est.sizes["neuron"] >= 3
    assert (model.score.max("penalty") < 0.02).all()


def test_gains_drift_and_adapt_as_the_true_ones(run: Run) -> None:
    part = run("Gain over the session")
    true = part.gains(part.true, ["minute", "neuron"]).unstack().rolling(5, center=True).mean()
    assert correlation(part.by_minute, true) > 0.85
    after = part.after.to_numpy()
    true_after = part.gains(part.true, part.drive).to_numpy()
    assert np.polyfit(range(6), after, 1)[0] < -0.01
    assert abs(after - true_after).max() < 0.04


def test_spike_trains_are_told_apart_as_those_of_the_true_rates(run: Run) -> None:
    part = run("Distances between spike trains")
    measured, again = part.measured.mean(0), part.again.mean(0)
    assert abs(measured - again).max() < 0.04
    assert measured[0] < 1.6 * CHANCE  # the rates are constant for 10 ms
    assert measured[-2] > 2 * CHANCE


def test_distances_between_spike_trains_are_those_of_elephant(run: Run) -> None:
    dissimilarity = pytest.importorskip("elephant.spike_train_dissimilarity")
    import neo
    import quantities as pq

    part = run("Distances between spike trains")
    trains = part.trains.isel(neuron=0, stim=0)
    times = nat4xr.spike_trains(part.spikes, trains.neuron.item(), trains.stim.item())
    theirs = dissimilarity.van_rossum_distance(
        [neo.SpikeTrain(t, units="s", t_stop=10) for t in times], time_constant=10 * pq.ms
    )
    padded = np.pad(trains.values, ((0, 0), (0, 500)))  # for the exponentials to end
    smooth = part.lfilter([1], [1, -np.exp(-1 / 10)], padded)
    ours = part.pairwise_distances(smooth) * np.sqrt(2 / 10)
    assert correlation(ours, theirs) > 0.99


def test_layers_of_a_network_are_compared_as_the_page_says(run: Run) -> None:
    pytest.importorskip("torch")
    (snippet,) = re.findall(r"^```python\n(fitted.*?)^```$", PAGE.read_text(), re.M | re.S)
    part = run("Representational similarity")
    quick = 'fit(est, "cnn1dx2", max_epochs=1, progressbar=False)'
    assert 'fit(est, "cnn1dx2")' in snippet
    names = vars(part) | {"est": part.est.sel(site="ARM029a"), "val": part.val.sel(site="ARM029a")}
    assert 'fit(est, "cnn1dx2")' in snippet
    exec(snippet.replace('fit(est, "cnn1dx2")', quick), names)
    assert len(names["layers"]) == len(names["fitted"].network.core)
    for i in names["layers"]:
        assert np.isfinite(names["stages"][f"layer {i}"]).all()
