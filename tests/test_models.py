"""The reference models: what networks promise, what a fit promises, what comes out of both."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import nat4xr  # noqa: E402
from nat4xr.models import (  # noqa: E402
    MODELS,
    AdapTrans,
    Fitted,
    Network,
    adaptation,
    fit,
    gradient_strf,
    kernel,
    load,
    predict,
    run,
    training,
)

N_EST, N_VAL, N_FREQ, N_TIME, N_NEURONS = 12, 3, 6, 40, 4

every_network = pytest.mark.parametrize(
    ("model", "prefilter"), [(model, front) for model in MODELS for front in (None, "adaptrans")]
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Arrays as small as these are slower with more, and much slower where others compute too."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def network(
    model: str, prefilter: str | None = None, n_neurons: int = N_NEURONS, **sizes: Any
) -> Network:
    torch.manual_seed(0)
    mean_rate = torch.full((n_neurons,), 0.1)
    sizes = {**MODELS[model], **sizes}
    return Network(model, prefilter, mean_rate, N_FREQ, 0.01, **sizes).eval()


def sounds(n_time: int = N_TIME) -> "torch.Tensor":
    return torch.rand(2, 1, N_FREQ, n_time, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def ds() -> xr.Dataset:
    """Sounds of which band 2, 3 bins ago, drives the cells, the others more than the first."""
    rng = np.random.default_rng(0)
    n_stims = N_VAL + N_EST
    spectrogram = xr.DataArray(
        rng.gamma(1, 1, (n_stims, N_FREQ, N_TIME)).astype(np.float32),
        {
            "stim": [f"STIM_{i}.wav" for i in range(n_stims)],
            "subset": ("stim", ["val"] * N_VAL + ["est"] * N_EST),
            "freq": np.geomspace(200, 20000, N_FREQ),
            "time": np.arange(N_TIME) * 0.01,
        },
        ("stim", "freq", "time"),
    )
    gain = xr.DataArray(
        np.linspace(0.5, 2, N_NEURONS),
        {"neuron": [f"ARM029a-0{i}-1" for i in range(N_NEURONS)]},
        "neuron",
    )
    drive = np.log1p(spectrogram).isel(freq=2, drop=True).shift(time=3, fill_value=0)
    rate = (gain * drive).transpose("stim", "time", "neuron").astype(np.float32)
    ds = xr.Dataset({"spectrogram": spectrogram, "psth": rate}, attrs={"simulated": 1})
    return ds.assign_coords(animal=("neuron", ["ARM"] * N_NEURONS))


def quick(
    ds: xr.Dataset, model: str = "ln", prefilter: str | None = None, **options: Any
) -> Fitted:
    options = {"max_epochs": 3, "batch_size": 4, "device": "cpu", "progressbar": False} | options
    return fit(ds, model, prefilter, **options)


def same_weights(one: Fitted, other: Fitted) -> bool:
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- networks ----------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("n_time", [1, 37, 260])
def test_rates_are_as_long_as_the_sound_and_never_negative(
    model: str, prefilter: str | None, n_time: int
) -> None:
    rates = network(model, prefilter)(10 * sounds(n_time))
    assert rates.shape == (2, N_NEURONS, n_time)
    assert (rates >= 0).all()


@every_network
def test_the_future_changes_nothing_before_it(model: str, prefilter: str | None) -> None:
    model_, before = network(model, prefilter), sounds()
    after = before.clone()
    after[..., 20:] = 1 - after[..., 20:]
    change = (model_(after) - model_(before)).abs().amax((0, 1))
    assert change[:20].max() < 1e-6
    assert change[20:].min() > 1e-6


@every_network
def test_a_sound_is_predicted_alike_whatever_follows_it(model: str, prefilter: str | None) -> None:
    whole, part = network(model, prefilter)(sounds()), network(model, prefilter)(sounds()[..., :25])
    torch.testing.assert_close(whole[..., :25], part, atol=1e-5, rtol=1e-4)


@every_network
def test_parameters_per_neuron_do_not_depend_on_the_number_of_neurons(
    model: str, prefilter: str | None
) -> None:
    one, five = network(model, prefilter, 1), network(model, prefilter, 5)
    assert one.n_parameters_per_neuron == five.n_parameters_per_neuron == one.n_parameters
    assert five.n_parameters > one.n_parameters


def test_parameters_are_counted_as_by_hand() -> None:
    assert network("ln").n_parameters_per_neuron == 25 * N_FREQ + 2
    assert network("ln", "adaptrans").n_parameters_per_neuron == 2 * 25 * N_FREQ + 2 + 3 * N_FREQ
    assert network("ln", separable=True).n_parameters_per_neuron == 25 + N_FREQ + 2
    convolutions = (1 + 10 + 10) * 10 * 3 * 8 + 3 * 10
    dense = 10 * N_FREQ * 90 + 90
    assert network("cnn").n_parameters_per_neuron == convolutions + dense + 90 + 4


def test_a_gru_has_three_quarters_of_the_weights_of_an_lstm() -> None:
    lstm, gru = (network("statenet", cell=cell).core.recurrent for cell in ("lstm", "gru"))
    n_lstm, n_gru = (sum(p.numel() for p in layer.parameters()) for layer in (lstm, gru))
    assert 4 * n_gru == 3 * n_lstm


def test_the_encoder_of_statenet_sees_only_the_present_and_neighbouring_bands() -> None:
    x = sounds().requires_grad_()
    core = network("statenet").core
    seen = []
    core.norm.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    core(x)
    first_place = seen[0][0, 20, : MODELS["statenet"]["filters"]]
    (gradient,) = torch.autograd.grad(first_place.sum(), x)
    band, time = torch.nonzero(gradient[0, 0], as_tuple=True)
    assert band.unique().tolist() == [0, 1, 2, 3]
    assert time.unique().tolist() == [20]


def test_attention_sees_no_further_back_than_its_window() -> None:
    windowed, before = network("transformer", window=5, layers=2), sounds()
    after = before.clone()
    after[..., 10] = 1 - after[..., 10]
    change = (windowed(after) - windowed(before)).abs().amax((0, 1))
    assert (torch.nonzero(change > 1e-7).ravel() == torch.arange(10, 10 + 2 * 4 + 1)).all()


def test_separable_kernels_have_rank_one() -> None:
    kernels = network("ln", separable=True).readout.kernel()
    assert kernels.shape == (N_NEURONS, N_FREQ, 25)
    assert (torch.linalg.matrix_rank(kernels) == 1).all()


def test_adaptrans_responds_to_a_step_up_by_on_and_to_a_step_down_by_off() -> None:
    step = torch.zeros(1, 1, 1, 120)
    step[..., 20:70] = 1
    on, off = AdapTrans(1, 0.01)(step)[0, :, 0].detach()
    assert on.argmax() == 20
    assert (on[20:69].diff() < 0).all()  # it adapts,
    assert 0 < on[69] < 0.5 * on[20]  # but not altogether
    assert (on[:20] == 0).all()
    assert (on[70:] == 0).all()
    assert off.argmax() == 70
    assert (off[70:119].diff() < 0).all()
    assert (off[:70] == 0).all()


def test_adaptrans_weighs_the_recent_past_exponentially() -> None:
    front, x = AdapTrans(N_FREQ, 0.01), sounds(60)
    with torch.no_grad():
        front.log_tau.copy_(torch.linspace(0.03, 0.1, N_FREQ).log())
        on, off = front(x).unbind(1)
    keep = torch.exp(-0.01 / front.log_tau.detach().exp())[:, None]
    mean, weight = torch.zeros(2, N_FREQ, 1), torch.sigmoid(torch.tensor(1.0))
    for t in range(60):
        now = x[:, 0, :, t : t + 1]
        torch.testing.assert_close(on[..., t : t + 1], (now - weight * mean).relu())
        torch.testing.assert_close(off[..., t : t + 1], (weight * mean - now).relu())
        # The mean over one second, without what is older, is all but that over the whole past.
        mean = keep * mean + (1 - keep) * now / (1 - keep**100)


# --- fitting -----------------------------------------------------------------------------------


@every_network
def test_the_same_seed_gives_the_same_weights_twice(
    ds: xr.Dataset, model: str, prefilter: str | None
) -> None:
    once, twice = (quick(ds, model, prefilter, max_epochs=2) for _ in range(2))
    assert same_weights(once, twice)
    assert once.history.identical(twice.history)
    assert not same_weights(once, quick(ds, model, prefilter, max_epochs=2, seed=1))


def test_a_fit_leaves_the_random_numbers_of_the_caller_alone(ds: xr.Dataset) -> None:
    before = torch.get_rng_state()
    quick(ds, "statenet")
    assert torch.equal(torch.get_rng_state(), before)


@every_network
def test_the_val_sounds_are_never_touched(
    ds: xr.Dataset, model: str, prefilter: str | None
) -> None:
    is_est = ds["subset"] == "est"
    spoiled = ds.assign(
        spectrogram=ds["spectrogram"].where(is_est, 1e6), psth=ds["psth"].where(is_est)
    )
    assert same_weights(quick(ds, model, prefilter), quick(spoiled, model, prefilter))


def test_every_est_sound_matters(ds: xr.Dataset) -> None:
    """So that the test above could fail."""
    whole = quick(ds)
    for i in range(N_VAL, N_VAL + N_EST):
        spoiled = ds.assign(psth=ds["psth"].where(ds["stim"] != ds["stim"][i], 5))
        assert not quick(spoiled).history.equals(whole.history)


def test_the_sounds_set_aside_are_the_same_whatever_their_order() -> None:
    names = np.array([f"STIM_{i}.wav" for i in range(40)])
    aside = training._set_aside(names)
    assert aside.sum() == 4
    assert set(names[::-1][training._set_aside(names[::-1])]) == set(names[aside])


@pytest.mark.parametrize("loss", ["poisson", "mse"])
def test_bins_that_were_not_recorded_do_not_count(loss: str) -> None:
    rng = np.random.default_rng(0)
    rate, counts = rng.gamma(1, 1, (2, 3, N_NEURONS, 5))
    recorded = rng.random(counts.shape) < 0.5
    each = rate - counts * np.log(rate + 1e-6) if loss == "poisson" else (rate - counts) ** 2
    with_gaps = torch.tensor(np.where(recorded, counts, np.nan))
    value = training.masked_loss(torch.tensor(rate), with_gaps, loss)
    assert float(value) == pytest.approx(each[recorded].mean())


def test_a_cell_without_data_takes_no_part_in_a_fit(ds: xr.Dataset) -> None:
    gaps = ds.assign(psth=ds["psth"].where(ds["neuron"] != ds["neuron"][1]))
    start, end = (quick(gaps, "cnn", weight_decay=0.0, max_epochs=n) for n in (0, 3))
    moved = (end.network.readout.weight != start.network.readout.weight).any(1).ravel()
    assert moved.tolist() == [True, False, True, True]
    assert predict(end, gaps).notnull().all()


def test_a_fit_predicts_val_sounds_better_than_their_mean_rate(ds: xr.Dataset) -> None:
    fitted = quick(ds, "ln", max_epochs=60, learning_rate=1e-2)
    val = ds.sel(stim=ds["subset"] == "val")
    assert (nat4xr.metrics.fve(predict(fitted, val), val["psth"]) > 0.3).all()


def test_the_weights_with_the_smallest_loss_on_the_sounds_set_aside_are_kept(
    ds: xr.Dataset,
) -> None:
    fitted = quick(ds, "cnn", max_epochs=100, patience=5, learning_rate=2e-2)
    stop_loss = fitted.history["stop_loss"]
    assert stop_loss.sizes["epoch"] - int(stop_loss.argmin("epoch")) == 6
    est = ds.isel(stim=ds["subset"].values == "est")
    aside = est.isel(stim=training._set_aside(est["stim"].values))
    rates = torch.tensor(predict(fitted, aside).values)
    loss = training.masked_loss(rates, torch.tensor(aside["psth"].values), "poisson")
    assert float(loss) == pytest.approx(float(stop_loss.min()), rel=1e-5)


@pytest.mark.parametrize("model", ["statenet", "transformer"])  # those with dropout
def test_an_interrupted_fit_goes_on_to_the_same_weights(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    uninterrupted = quick(ds, model, max_epochs=14)
    file = tmp_path / "checkpoint"
    one_epoch, epochs = training._Training.one_epoch, []

    def interrupted(self: Any, *parts: Any) -> None:
        epochs.append(len(self.losses))
        if len(epochs) == 12:
            raise KeyboardInterrupt
        one_epoch(self, *parts)

    monkeypatch.setattr(training._Training, "one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick(ds, model, max_epochs=14, checkpoint=file)
    epochs.clear()
    resumed = quick(ds, model, max_epochs=14, checkpoint=file)
    assert epochs == [10, 11, 12, 13]
    assert same_weights(resumed, uninterrupted)
    assert resumed.history.identical(uninterrupted.history)
    epochs.clear()
    assert same_weights(quick(ds, model, max_epochs=14, checkpoint=file), uninterrupted)
    assert not epochs


def test_the_checkpoint_of_another_fit_is_refused(ds: xr.Dataset, tmp_path: Path) -> None:
    quick(ds, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="checkpoint of a fit with other options or data"):
        quick(ds, seed=1, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="checkpoint of a fit with other options or data"):
        quick(ds.assign(psth=2 * ds["psth"]), checkpoint=tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "rnn"}, "model must be one of"),
        ({"prefilter": "ic"}, "prefilter must be None or 'adaptrans'"),
        ({"loss": "mae"}, "loss must be 'poisson' or 'mse'"),
        ({"model": "cnn", "sizes": {"hidden": 3}}, "sizes of 'cnn' are"),
    ],
)
def test_unknown_options_are_refused(ds: xr.Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(ds, **options)


def test_a_dataset_that_cannot_be_fitted_is_refused(ds: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="lacks 'spectrogram'"):
        quick(ds.drop_vars("spectrogram"))
    with pytest.raises(ValueError, match="two est sounds or more; ds has 0"):
        quick(ds.isel(stim=slice(N_VAL)))


# --- what comes out ----------------------------------------------------------------------------


@every_network
def test_a_saved_model_predicts_the_same_when_it_is_loaded(
    ds: xr.Dataset, tmp_path: Path, model: str, prefilter: str | None
) -> None:
    fitted = quick(ds, model, prefilter, max_epochs=1)
    fitted.save(tmp_path / "fitted.safetensors")
    loaded = load(tmp_path / "fitted.safetensors")
    assert loaded.config == fitted.config
    assert loaded.history.identical(fitted.history)
    assert predict(loaded, ds).identical(predict(fitted, ds))


def test_the_configuration_says_what_was_fitted_to_what(ds: xr.Dataset) -> None:
    config = quick(ds, "statenet", "adaptrans", seed=3).config
    assert (config["model"], config["prefilter"], config["seed"]) == ("statenet", "adaptrans", 3)
    assert config["nat4xr_version"] == nat4xr.__version__
    assert config["neurons"] == ds["neuron"].values.tolist()
    assert config["simulated"] == 1
    other_data = quick(ds.assign(psth=2 * ds["psth"]), "statenet", "adaptrans", seed=3).config
    assert other_data["fingerprint"] != config["fingerprint"]


def test_files_of_others_are_not_taken_for_models(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no model that nat4xr has saved"):
        load(tmp_path / "other.safetensors")


def test_predictions_carry_the_labels_of_sounds_and_cells(ds: xr.Dataset) -> None:
    fitted = quick(ds)
    pred = predict(fitted, ds)
    assert pred.dims == ("stim", "time", "neuron")
    assert set(pred.coords) == {"stim", "subset", "time", "neuron", "animal"}
    assert pred.attrs["simulated"] == 1
    backwards = ds.isel(neuron=slice(None, None, -1), stim=[4, 1]).chunk({"stim": 1})
    assert predict(fitted, backwards).equals(pred.isel(stim=[4, 1]))


def test_other_frequency_bands_or_time_bins_are_refused(ds: xr.Dataset) -> None:
    fitted = quick(ds)
    with pytest.raises(ValueError, match="other frequency bands or time bins"):
        predict(fitted, ds.isel(freq=slice(3)))
    with pytest.raises(ValueError, match="other frequency bands or time bins"):
        predict(fitted, ds.isel(time=slice(None, None, 2)))


def test_ln_finds_the_band_and_the_lag_that_drive_a_cell(ds: xr.Dataset) -> None:
    fitted = quick(ds, "ln", max_epochs=60, learning_rate=1e-2)
    kernels = kernel(fitted)
    assert kernels.dims == ("neuron", "freq", "lag")
    peak = kernels.argmax(("freq", "lag"))
    assert (peak["freq"] == 2).all()
    assert (kernels["lag"][peak["lag"]] == 0.03).all()


def test_the_gradient_strf_of_ln_is_its_kernel_scaled(ds: xr.Dataset) -> None:
    fitted = quick(ds, "ln")
    kernels, gradients = kernel(fitted), gradient_strf(fitted, ds)
    ratio = gradients / kernels
    assert (ratio > 0).all()
    np.testing.assert_allclose(ratio / ratio.isel(freq=0, lag=0), 1, rtol=1e-3)


@every_network
def test_gradient_strfs_are_labelled_and_of_the_cells_that_were_asked_for(
    ds: xr.Dataset, model: str, prefilter: str | None
) -> None:
    fitted = quick(ds, model, prefilter, max_epochs=1)
    whole, part = (gradient_strf(fitted, some, n_lags=7) for some in (ds, ds.isel(neuron=[3, 1])))
    assert whole.dims == ("neuron", "freq", "lag")
    assert whole.sizes == {"neuron": N_NEURONS, "freq": N_FREQ, "lag": 7}
    assert part.identical(whole.isel(neuron=[3, 1]))
    assert part["animal"].values.tolist() == ["ARM", "ARM"]
    assert (abs(whole) > 0).any(("freq", "lag")).all()


def test_adaptrans_gives_kernels_for_on_and_off_and_its_time_constants(ds: xr.Dataset) -> None:
    fitted = quick(ds, "ln", "adaptrans")
    assert kernel(fitted).dims == ("neuron", "polarity", "freq", "lag")
    parameters = adaptation(fitted)
    assert parameters["tau"].dims == ("freq",)
    assert (parameters["tau"] > 0).all()
    assert ((parameters["weight"] > 0) & (parameters["weight"] < 1)).all()


def test_what_a_model_does_not_have_is_refused(ds: xr.Dataset) -> None:
    fitted = quick(ds, "cnn", max_epochs=1)
    with pytest.raises(ValueError, match="only 'ln' has kernels"):
        kernel(fitted)
    with pytest.raises(ValueError, match="no AdapTrans in front"):
        adaptation(fitted)
    with pytest.raises(ValueError, match="n_lags must be from 1 to the 40"):
        gradient_strf(fitted, ds, n_lags=41)


def test_plot_draws_what_was_learnt(ds: xr.Dataset) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    fitted = quick(ds)
    for kernels in (kernel(fitted), gradient_strf(fitted, ds)):
        mesh = nat4xr.plot.strf(kernels.isel(neuron=0), ax=figure.Figure().subplots())
        assert mesh.get_array().shape == (N_FREQ, 25)


# --- the benchmark -----------------------------------------------------------------------------


def test_predictions_of_an_outside_model_are_scored_by_the_same_function(
    simulated_release: Path,
) -> None:
    """As docs/models.md shows it, for a tensor (batch, neuron, time)."""
    ds = nat4xr.open_area("PEG", simulated_release)
    val = ds.sel(subset="val")
    ours = predict(quick(ds, "ln", max_epochs=1), val)
    tensor = torch.tensor(ours.transpose("stim", "neuron", "time").values)
    theirs = xr.DataArray(
        tensor.detach().cpu().numpy(),
        dims=("stim", "neuron", "time"),
        coords={"stim": val["stim"].values, "neuron": val["neuron"].values},
    )
    result = nat4xr.benchmark.evaluate(theirs, ds)
    assert result.identical(nat4xr.benchmark.evaluate(ours, ds))


def test_run_keeps_all_results_and_marks_them_as_simulated(
    simulated_release: Path, tmp_path: Path
) -> None:
    ds = nat4xr.open_area("PEG", simulated_release)
    options = {"max_epochs": 2, "device": "cpu", "progressbar": False}
    table = run(ds, "ln", "adaptrans", seeds=2, out=tmp_path, **options)
    prefix = "SIMULATED-PEG-ln+adaptrans"
    kept = {f"{prefix}-{rest}" for rest in ("scores.nc", "learning.png", "leaderboard.csv")}
    kept |= {f"{prefix}-seed{i}.{kind}" for i in range(2) for kind in ("nc", "safetensors")}
    assert {file.name for file in tmp_path.iterdir()} == kept

    row = table.set_index("backbone").loc["ln+adaptrans"]
    assert row["simulated"]
    assert row["n_seeds"] == 2
    assert row["params_per_neuron"] == 2 * 450 + 2 + 3 * 18
    with xr.open_dataset(tmp_path / f"{prefix}-scores.nc") as scores:
        assert scores["cc_norm"].dims == ("seed", "neuron")
        assert scores.attrs["simulated"] == 1
        means = 100 * scores["cc_norm"].mean("neuron")
        assert row["cc_norm"] == pytest.approx(float(means.mean()), abs=0.06)
        assert row["cc_norm_sd"] == pytest.approx(float(means.std(ddof=1)), abs=0.006)
    fitted = load(tmp_path / f"{prefix}-seed1.safetensors")
    with xr.open_dataarray(tmp_path / f"{prefix}-seed1.nc") as pred:
        assert pred.attrs["simulated"] == 1
        np.testing.assert_array_equal(pred, predict(fitted, ds.sel(subset="val")))


# --- torch is optional -------------------------------------------------------------------------


def in_a_new_process(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_torch_is_imported_only_when_a_model_is_used() -> None:
    code = "import sys, nat4xr.models; dir(nat4xr.models); print('torch' in sys.modules)"
    assert in_a_new_process(code) == "False\n"


def test_without_torch_the_error_names_what_to_install() -> None:
    code = """
import sys
sys.modules["torch"] = None
import nat4xr.models
try:
    nat4xr.models.fit
except ImportError as error:
    print(error)
"""
    message = in_a_new_process(code)
    assert "torch" in message
    assert "nat4xr[models]" in message
