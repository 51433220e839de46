"""The reference models: properties of networks, of fits, and of their results."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from torch.nn import functional  # noqa: E402

import nat4xr.cli  # noqa: E402
from nat4xr.models import (  # noqa: E402
    MODELS,
    AdapTrans,
    Fitted,
    Network,
    adaptation,
    dynamic_strf,
    fit,
    gradient_strf,
    kernel,
    load,
    mse,
    nmse,
    poisson,
    predict,
    run,
    steps,
    strf_subspace,
    training,
)
from nat4xr.models.networks import (  # noqa: E402
    CausalConv2d,
    ChannelNorm,
    Dense,
    Lags,
    Readout,
)

N_EST, N_VAL, N_FREQ, N_TIME, N_NEURONS = 12, 3, 8, 40, 4

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
    ds: xr.Dataset, model: Any = None, prefilter: str | None = None, **options: Any
) -> Fitted:
    options = {"max_epochs": 3, "batch_size": 4, "device": "cpu", "progressbar": False} | options
    if model is None and "init" not in options:
        model = "ln"
    if model == "transformer":  # smaller, as it is slow
        options = {"sizes": {"width": 8, "window": 5, "heads": 1, "feedforward": 4}} | options
    return fit(ds, model, prefilter, **options)


def same_weights(one: Fitted, other: Fitted) -> bool:
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- networks ----------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("n_time", [1, 37, 130])
def test_rates_are_as_long_as_the_sound(model: str, prefilter: str | None, n_time: int) -> None:
    rates = network(model, prefilter)(10 * sounds(n_time))
    assert rates.shape == (2, N_NEURONS, n_time)
    if MODELS[model]["output"] != "linear":
        assert (rates >= 0).all()


@pytest.mark.parametrize("output", ["softplus", "dexp"])
def test_every_model_can_have_rates_above_0(output: str) -> None:
    for model in MODELS:
        assert (network(model, output=output)(30 * sounds() - 15) >= 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_rates_start_near_the_mean_rate(model: str) -> None:
    assert 0.03 < float(network(model)(sounds()).detach().mean()) < 0.4


@every_network
def test_the_future_changes_nothing_before_it(model: str, prefilter: str | None) -> None:
    model_, before = network(model, prefilter), sounds()
    after = before.clone()
    after[..., 20:] = 1 - after[..., 20:]
    change = (model_(after) - model_(before)).abs().amax((0, 1))
    assert change[:20].max() < 1e-6
    assert change[20:].min() > 1e-6


@pytest.mark.parametrize("model", ["cnn-deepstrf", "statenet", "transformer"])
def test_normalisation_is_causal_while_it_is_fitted_too(model: str) -> None:
    model_, before = network(model), sounds()
    for module in model_.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    after = before.clone()
    after[:, :, :, 20:] = 5
    torch.testing.assert_close(model_(after)[..., :20], model_(before)[..., :20])
    other_batch = torch.cat([before[:1], after[1:]])
    torch.testing.assert_close(model_(other_batch)[0], model_(before)[0])


@pytest.mark.parametrize("model", [model for model in MODELS if model != "statenet"])
def test_what_comes_before_a_sound_is_silence(model: str) -> None:
    model_, silence = network(model), torch.zeros(2, 1, N_FREQ, 60)
    if (
        model == "cnn"
    ):  # each layer is padded, so that with biases, silence is not 0 above the first
        for layer in model_.core:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.zeros_(layer.bias)
    after_silence = model_(torch.cat([silence, sounds()], -1))[..., 60:]
    torch.testing.assert_close(after_silence, model_(sounds()), atol=1e-5, rtol=1e-4)


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


@pytest.mark.parametrize(
    ("model", "prefilter", "n_parameters"),
    [
        ("statenet", None, 40_271),
        ("transformer", None, 28_437),
        ("cnn", None, 21_455),
        ("cnn-deepstrf", None, 15_481),
        ("cnn-deepstrf", "adaptrans", 15_745),
    ],
)
def test_parameters_are_as_many_as_published(
    model: str, prefilter: str | None, n_parameters: int
) -> None:
    assert Network(model, prefilter, torch.ones(1), 18, 0.01).n_parameters == n_parameters
    eight = Network(model, prefilter, torch.ones(8), 18, 0.01)
    assert eight.n_parameters_per_neuron == n_parameters


def test_parameters_are_counted_as_by_hand() -> None:
    level_and_dexp, gaussian = 1 + 4, 2
    assert network("ln", rank=3).n_parameters_per_neuron == 3 * (gaussian + 25) + level_and_dexp
    kernels = 6 * (gaussian + 25)
    assert network("ln-pop", channels=6).n_parameters_per_neuron == kernels + 6 + level_and_dexp
    kernels, dense = 100 * (gaussian + 25), 100 * 120
    assert network("cnn1d").n_parameters_per_neuron == kernels + dense + 120 + level_and_dexp
    layers = 70 * (gaussian + 15) + 70 * 80 + 80 * 10 + (80 + 1) * 100
    assert network("cnn1dx2").n_parameters_per_neuron == layers + 100 + level_and_dexp


def test_a_gru_has_three_quarters_of_the_weights_of_an_lstm() -> None:
    lstm, gru = (network("statenet", cell=cell).core.recurrent for cell in ("lstm", "gru"))
    n_lstm, n_gru = (sum(p.numel() for p in layer.parameters()) for layer in (lstm, gru))
    assert 4 * n_gru == 3 * n_lstm


def test_the_encoder_of_statenet_sees_only_the_present_and_neighbouring_bands() -> None:
    x = sounds().requires_grad_()
    core = network("statenet").core
    encoded = []
    core.norm.register_forward_hook(lambda _module, inputs, _output: encoded.append(inputs[0]))
    core(x)
    second_place = encoded[0][0, :, 1, 20]  # (batch, channel, place, time)
    (gradient,) = torch.autograd.grad(second_place.sum(), x)
    band, time = torch.nonzero(gradient[0, 0], as_tuple=True)
    assert band.unique().tolist() == [2, 3, 4, 5, 6]
    assert time.unique().tolist() == [20]


def test_attention_sees_no_further_back_than_its_window() -> None:
    windowed, before = network("transformer", window=5), sounds()
    after = before.clone()
    after[..., 10] = 1 - after[..., 10]
    change = (windowed(after) - windowed(before)).abs().amax((0, 1))
    assert (torch.nonzero(change > 1e-7).ravel() == torch.arange(10, 15)).all()


def test_attention_is_that_of_torch() -> None:
    core = network("transformer").core
    theirs = torch.nn.TransformerEncoderLayer(48, 2, 32, batch_first=True)
    names = {"self_attn.in_proj_": "query_key_value.", "self_attn.out_proj.": "attended."}
    names |= {"linear1.": "feedforward.0.", "linear2.": "feedforward.2."}
    names |= {"norm1.": "norms.0.", "norm2.": "norms.1."}
    ours = core.layers[1]
    weights = {
        f"{their_name}{end}": ours.state_dict()[f"{our_name}{end}"]
        for their_name, our_name in names.items()
        for end in ("weight", "bias")
    }
    load_weights(theirs, weights)
    x = torch.randn(3, 41, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize("prefilter", [None, "adaptrans"])
def test_kernels_have_their_rank(prefilter: str | None) -> None:
    kernels = network("ln", prefilter, rank=2).readout.kernel()
    assert kernels.shape == (N_NEURONS, 2 if prefilter else 1, N_FREQ, 25)
    assert (torch.linalg.matrix_rank(kernels) == 2).all()


@pytest.mark.parametrize("model", ["cnn-deepstrf", "statenet"])
def test_a_network_refuses_fewer_bands_than_it_needs(model: str) -> None:
    with pytest.raises(ValueError, match="into 4 bands"):
        Network(model, None, torch.ones(1), n_freq=4, bin_s=0.01)


@pytest.fixture(scope="module", params=["tests/data", "../shared"])
def reference(request: pytest.FixtureRequest) -> dict[str, "torch.Tensor"]:
    """Weights and outputs of deepSTRF 0.1.0's own modules, for a short and for long sounds."""
    file = Path(__file__).parents[1] / request.param / "models_reference.npz"
    if not file.exists():
        pytest.skip(f"{request.param} is not there")
    return {name: torch.tensor(values) for name, values in np.load(file).items()}


def load_weights(module: "torch.nn.Module", weights: dict[str, "torch.Tensor"]) -> None:
    own = module.state_dict()
    assert own.keys() == weights.keys()
    module.load_state_dict({name: value.view_as(own[name]) for name, value in weights.items()})


def test_statenet_is_the_authors(reference: dict[str, "torch.Tensor"]) -> None:
    names = {
        "core.weight": "encoder_layers.0.weights",
        "core.bias": "encoder_layers.0.biases",
        "core.norm.weight": "encoder_layers.1.ln.weight",
        "core.norm.bias": "encoder_layers.1.ln.bias",
        "readout.weight": "readout.fc.weight",
        "readout.bias": "readout.fc.bias",
    }
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        names[f"core.recurrent.{name}_l0"] = f"rnn.{name}_l0"
    ours = Network("statenet", None, torch.ones(5), 18, 0.01).eval()
    load_weights(ours, {name: reference[f"statenet/{other}"] for name, other in names.items()})
    theirs = reference["statenet/output"][:, :, 0]
    torch.testing.assert_close(ours(reference["input"]), theirs, atol=1e-5, rtol=0)


def test_adaptrans_is_the_authors(reference: dict[str, "torch.Tensor"]) -> None:
    ours = AdapTrans(18, 0.01)
    d_on, d_off, p = (reference[f"adaptrans/{name}"] for name in ("d_on", "d_off", "p"))
    load_weights(ours, {"d": torch.stack([d_on, d_off]), "p": p})
    theirs = reference["adaptrans/output"]
    torch.testing.assert_close(ours(reference["input"]), theirs, atol=1e-5, rtol=0)
    decay = torch.exp(-0.01 / ours.tau().detach())
    a_on_off = torch.stack([reference["adaptrans/a_on"], reference["adaptrans/a_off"]])
    torch.testing.assert_close(decay, a_on_off)
    torch.testing.assert_close(ours.weight().detach(), reference["adaptrans/w"])


def test_the_2d_cnn_of_deepstrf_is_the_authors(reference: dict[str, "torch.Tensor"]) -> None:
    """Its present sizes and output; the published count is of others."""
    names = {"output.raw_base": "readout.activation._raw_b"}
    names["output.raw_slope"] = "readout.activation._raw_beta"
    for end in ("weight", "bias"):
        names |= {f"core.11.{end}": f"readout.fc.0.{end}", f"readout.{end}": f"readout.fc.2.{end}"}
        for layer in (1, 4, 7):
            names[f"core.{layer}.{end}"] = f"core.{layer}.{end}"
            names[f"core.{layer + 1}.{end}"] = f"core.{layer + 1}.ln.{end}"
    sizes = {"lags": 9, "dense": 20, "output": "softplus"}
    ours = Network("cnn-deepstrf", None, torch.ones(5), 18, 0.01, **sizes).eval()
    load_weights(ours, {name: reference[f"cnn_deepstrf/{other}"] for name, other in names.items()})
    theirs = reference["cnn_deepstrf/output"][:, :, 0]
    torch.testing.assert_close(ours(reference["input"]), theirs, atol=1e-5, rtol=0)


def causal_filter(layer: Lags, x: "torch.Tensor") -> "torch.Tensor":
    padded = functional.pad(x, (layer.kernel_size[0] - 1, 0))
    return functional.conv1d(padded, layer.weight, groups=len(layer.weight))


def dense(layer: Dense | Readout, x: "torch.Tensor") -> "torch.Tensor":
    return torch.einsum("of,bft->bot", layer.weight, x) + layer.bias[:, None]


def convolution(layer: CausalConv2d, x: "torch.Tensor") -> "torch.Tensor":
    """The bands are padded by one on both sides, and the time by seven bins of the past."""
    return functional.conv2d(functional.pad(x, (7, 0, 1, 1)), layer.weight, layer.bias)


@pytest.mark.parametrize(
    ("make", "plain", "shape"),
    [
        (lambda: Lags(6, 15), causal_filter, (4, 6, 40)),
        (lambda: Dense(6, 5), dense, (4, 6, 40)),
        (lambda: Readout(6, 5), dense, (4, 6, 40)),
        (lambda: CausalConv2d(2, 3, 3, 8), convolution, (4, 2, 18, 40)),
    ],
    ids=["Lags", "Dense", "Readout", "CausalConv2d"],
)
def test_a_layer_in_its_fast_layout_equals_the_plain_one(
    make: Callable[[], Any], plain: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    layer = make().double()
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    learnt = [x, *layer.parameters()]
    outputs = layer(x), plain(layer, x)
    torch.testing.assert_close(*outputs)
    gradients = (torch.autograd.grad(output.square().sum(), learnt) for output in outputs)
    torch.testing.assert_close(*gradients)


def test_normalisation_by_moments_equals_layer_normalisation() -> None:
    layer = ChannelNorm(10)
    torch.nn.init.uniform_(layer.weight)
    torch.nn.init.uniform_(layer.bias)
    for shape in ((2, 10, 6, 30), (2, 10, 30)):
        x = 5 + torch.randn(shape)
        torch.testing.assert_close(layer.by_moments(x), layer(x), rtol=0, atol=1e-5)


def test_the_gradient_of_the_squared_error_is_the_closed_form() -> None:
    rate = torch.rand(3, 4, 20, dtype=torch.float64, requires_grad=True)
    counts = torch.rand_like(rate)
    counts[0, 1] = torch.nan
    (gradient,) = torch.autograd.grad(3 * mse(rate, counts), rate)
    expected = 3 * 2 * (rate.detach() - counts).nan_to_num(0) / (11 * 20)
    torch.testing.assert_close(gradient, expected)


def test_adaptrans_responds_to_a_step_as_the_closed_form_says() -> None:
    """A step up at bin 20 and down at bin 70, of two bands with different parameters."""
    step = torch.zeros(1, 1, 2, 130)
    step[..., 20:70] = 1
    front = AdapTrans(2, 0.01)
    with torch.no_grad():
        front.d.copy_(torch.tensor([[0.2, 0.4], [0.3, 0.6]]))
        front.p.copy_(torch.tensor([0.5, 1.0]))
        on, off = front(step)[0]
    a_on, a_off = 1 / (1 + torch.tensor([[0.2, 0.4], [0.3, 0.6]]) ** 2).double()
    w = (1 / (1 + torch.tensor([0.5, 1.0]) ** 2).double())[:, None]

    def mean(a: "torch.Tensor", since: "torch.Tensor") -> "torch.Tensor":
        """The weight of the last bins, this many, among the last hundred."""
        return (1 - a[:, None] ** since) / (1 - a[:, None] ** 100)

    t = torch.arange(50)
    torch.testing.assert_close(on[:, 20:70].double(), 1 - w * mean(a_on, t), atol=1e-5, rtol=0)
    sustained = (mean(a_off, t) - w).clamp_min(0)  # while the sound goes on
    torch.testing.assert_close(off[:, 20:70].double(), sustained, atol=1e-5, rtol=0)
    after = mean(a_off, t + 50) - mean(a_off, t)
    torch.testing.assert_close(off[:, 70:120].double(), after, atol=1e-5, rtol=0)
    assert (on[:, :20] == 0).all()
    assert (off[:, :20] == 0).all()
    assert (on[:, 70:] == 0).all()


def test_before_the_first_bin_adaptrans_sees_the_value_of_the_first_bin() -> None:
    constant = torch.full((1, 1, 1, 50), 2.0)
    on, off = AdapTrans(1, 0.01)(constant)[0, :, 0].detach()
    torch.testing.assert_close(on, torch.full((50,), 0.5))
    torch.testing.assert_close(off, torch.full((50,), 0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "rnn"}, "rnn"),
        ({"prefilter": "ic"}, "ic"),
        ({"hidden": 3}, "hidden"),
        ({"cell": "rnn"}, "rnn"),
        ({"output": "relu"}, "relu"),
    ],
)
def test_a_network_refuses_what_it_does_not_know_by_name(
    options: dict[str, Any], message: str
) -> None:
    options = {"model": "statenet", "prefilter": None} | options
    with pytest.raises(ValueError, match=f"not .*'{message}'"):
        Network(mean_rate=torch.ones(1), n_freq=18, bin_s=0.01, **options)


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
    aside = training._set_aside(names, 0.1, 0)
    assert aside.sum() == 4
    assert set(names[::-1][training._set_aside(names[::-1], 0.1, 0)]) == set(names[aside])


@pytest.mark.parametrize("loss", [mse, nmse, poisson])
def test_bins_that_were_not_recorded_do_not_count(loss: Any) -> None:
    rng = np.random.default_rng(0)
    rate, counts = rng.gamma(1, 1, (2, 3, N_NEURONS, 5))
    recorded = rng.random(counts.shape) < 0.5
    if loss is poisson:
        expected = (rate - counts * np.log(rate + 1e-6))[recorded].mean()
    else:
        expected = ((rate - counts) ** 2)[recorded].mean()
        expected /= (counts[recorded] ** 2).mean() if loss is nmse else 1
    rates = torch.tensor(rate, requires_grad=True)
    value = loss(rates, torch.tensor(np.where(recorded, counts, np.nan)))
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert (rates.grad[torch.tensor(~recorded)] == 0).all()
    assert rates.grad.isfinite().all()


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
    aside = est.isel(stim=training._set_aside(est["stim"].values, 0.1, 0))
    loss = mse(torch.tensor(predict(fitted, aside).values), torch.tensor(aside["psth"].values))
    assert float(loss) == pytest.approx(float(stop_loss.min()), rel=1e-5)


def test_an_interrupted_fit_keeps_the_options_of_the_optimiser_on_this_device(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "checkpoint"
    quick(ds, max_epochs=3, checkpoint=file)
    made = []

    def fused(network: Any, learning_rate: float, *, on_gpu: bool) -> Any:
        made.append(torch.optim.Adam(network.parameters(), learning_rate, fused=True))
        return made[-1]

    monkeypatch.setattr(training, "adam", fused)
    quick(ds, max_epochs=6, checkpoint=file)
    assert [group["fused"] for group in made[-1].param_groups] == [True]


@pytest.mark.parametrize("model", ["ln", "transformer"])  # the latter has dropout
def test_an_interrupted_fit_goes_on_to_the_same_weights(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    uninterrupted = quick(ds, model, max_epochs=14)
    file = tmp_path / "checkpoint"
    run_epoch, epochs = training._Training.run_epoch, []

    def interrupted(self: Any, *parts: Any) -> None:
        epochs.append(len(self.losses))
        if len(epochs) == 12:
            raise KeyboardInterrupt
        run_epoch(self, *parts)

    monkeypatch.setattr(training._Training, "run_epoch", interrupted)
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
    with pytest.raises(ValueError, match="other options or data"):
        quick(ds, seed=1, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="other options or data"):
        quick(ds.assign(psth=2 * ds["psth"]), checkpoint=tmp_path / "checkpoint")


def test_the_checkpoint_of_other_responses_to_the_same_sounds_is_refused(
    ds: xr.Dataset, tmp_path: Path
) -> None:
    """With the same names and as many spikes."""
    quick(ds, checkpoint=tmp_path / "checkpoint")
    for later in (
        ds.assign(psth=ds["psth"].roll(time=7)),
        ds.assign(spectrogram=ds["spectrogram"].roll(stim=1)),
    ):
        with pytest.raises(ValueError, match="other options or data"):
            quick(later, checkpoint=tmp_path / "checkpoint")


def test_the_checkpoint_of_another_loss_or_module_with_the_same_name_is_refused(
    ds: xr.Dataset, tmp_path: Path
) -> None:
    losses: list[Any] = [
        lambda predicted, counts: ((predicted - counts) ** 2).nanmean(),
        lambda predicted, counts: (predicted - counts).abs().nanmean(),
    ]

    class Larger(Mine):
        def __init__(self) -> None:
            super().__init__()
            self.more = torch.nn.Parameter(torch.zeros(3))

    Larger.__name__ = "Mine"
    frozen = Mine()
    next(frozen.parameters()).requires_grad_(False)

    def smooth(rate: torch.Tensor, counts: torch.Tensor, weight: float) -> torch.Tensor:
        return mse(rate, counts) + weight * rate.diff(dim=-1).abs().mean()

    for name, fits in {
        "loss": [{"loss": loss} for loss in losses],
        "penalty": [{"loss": partial(smooth, weight=weight)} for weight in (0.001, 0.002)],
        "module": [{"model": Mine()}, {"model": Larger()}],
        "frozen": [{"model": Mine()}, {"model": frozen}],
        "dropout": [
            {"model": torch.nn.Sequential(Mine(), torch.nn.Dropout(p))} for p in (0.1, 0.8)
        ],
    }.items():
        file = tmp_path / name
        quick(ds, **fits[0], checkpoint=file)
        quick(ds, **fits[0], checkpoint=file)
        with pytest.raises(ValueError, match=f"{file} .* other options or data"):
            quick(ds, **fits[1], checkpoint=file)


def test_a_fit_with_a_partial_function_continues_by_an_equal_one(
    ds: xr.Dataset, tmp_path: Path
) -> None:
    def scaled(rate: torch.Tensor, counts: torch.Tensor, factor: float) -> torch.Tensor:
        return factor * mse(rate, counts)

    for _ in range(2):
        fitted = quick(ds, loss=partial(scaled, factor=2.0), checkpoint=tmp_path / "checkpoint")
    assert fitted.config["loss"] == "partial"


def test_a_short_fit_of_several_starts_has_a_checkpoint(ds: xr.Dataset, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    fitted = quick(ds, n_init=2, max_epochs=3, checkpoint=file)
    assert same_weights(quick(ds, n_init=2, max_epochs=3, checkpoint=file), fitted)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"n_init": 0}, "n_init .* not 0"),
        ({}, {"batch_size": 0}, "batch_size .* not 0"),
        ({}, {"max_epochs": 2.5}, "max_epochs .* not 2.5"),
        ({"psth": np.nan}, {}, "psth .* NaN for all"),
        ({"spectrogram": np.nan}, {}, "spectrogram .* NaN"),
        ({}, {"loss": lambda rate, counts: (rate - counts) ** 2}, "scalar"),
    ],
)
def test_a_fit_that_cannot_start_says_why(
    ds: xr.Dataset, change: dict[str, float], options: dict[str, Any], message: str
) -> None:
    broken = ds.assign({name: ds[name] * value for name, value in change.items()})
    with pytest.raises(ValueError, match=message):
        quick(broken, **options)


def test_numbers_of_numpy_are_options_of_a_fit(ds: xr.Dataset) -> None:
    options = {"seed": 2, "batch_size": 4, "max_epochs": 2}
    by_numpy = {name: np.int64(number) for name, number in options.items()}
    assert same_weights(quick(ds, **by_numpy), quick(ds, **options))


def test_a_checkpoint_in_the_home_folder_is_continued(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    epochs: list[int] = []
    for _ in range(2):
        quick(ds, checkpoint="~/checkpoint", monitor=lambda n, *_: epochs.append(n))
    assert epochs == sorted(set(epochs))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_a_checkpoint_that_cannot_be_written_stops_a_fit_at_its_start(
    ds: xr.Dataset, tmp_path: Path
) -> None:
    epochs: list[int] = []
    for file in (tmp_path, tmp_path / "missing" / "checkpoint"):
        with pytest.raises(OSError, match=str(file)):
            quick(ds, checkpoint=file, monitor=lambda n, *_: epochs.append(n))
    assert not epochs


def test_a_damaged_checkpoint_is_named(ds: xr.Dataset, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    quick(ds, checkpoint=file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content, content[:1000], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{file} is damaged"):
            quick(ds, checkpoint=file)


def test_a_file_that_several_write_is_always_whole(ds: xr.Dataset, tmp_path: Path) -> None:
    file, fits = tmp_path / "fitted", [quick(ds, max_epochs=1, seed=seed) for seed in range(3)]

    def save_often(fitted: Fitted) -> None:
        for _ in range(20):
            fitted.save(file)
            assert load(file).name == "ln"  # its checksum holds

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save_often, fits))
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_checkpoint_that_does_not_fit_leaves_nothing_behind(
    simulated_release: Path, tmp_path: Path
) -> None:
    code = f"""
import resource, signal, nat4xr
ds = nat4xr.open_area("PEG", {str(simulated_release)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    file = {str(tmp_path / "checkpoint")!r}
    nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False, checkpoint=file)
except OSError as error:
    print(file in str(error), "space" in str(error))
"""
    assert in_a_new_process(code) == "True True\n"
    assert not list(tmp_path.iterdir())


# --- recipes, and what a user brings -----------------------------------------------------------


class Mine(torch.nn.Module):
    """A model of a user: the weighted sum of all bands of the present bin."""

    def __init__(self, n_neurons: int = N_NEURONS) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(n_neurons, N_FREQ))

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        return torch.einsum("bcft,nf->bnt", x, self.weights)


def test_a_module_of_the_user_is_fitted_saved_and_predicts(ds: xr.Dataset, tmp_path: Path) -> None:
    mine = Mine()
    fitted = quick(ds, mine, max_epochs=20)
    assert (mine.weights == 0).all()  # it was copied
    assert fitted.name == "Mine"
    assert float(fitted.history["fit_loss"][-1]) < float(fitted.history["fit_loss"][0])
    fitted.save(tmp_path / "mine")
    assert predict(load(tmp_path / "mine", mine), ds).identical(predict(fitted, ds))
    assert (
        gradient_strf(fitted, ds, n_lags=3)
        .isel(lag=slice(1, None))
        .equals(xr.zeros_like(gradient_strf(fitted, ds, n_lags=3).isel(lag=slice(1, None))))
    )
    with pytest.raises(ValueError, match=r"mine .*Mine\("):
        load(tmp_path / "mine")
    with pytest.raises(ValueError, match=str(tmp_path / "mine")):
        load(tmp_path / "mine", Mine(3))


def test_a_module_that_returns_another_shape_is_refused(ds: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"Mine .*\(1, 4, 40\), not \(1, 3, 40\)"):
        quick(ds, Mine(3))


def test_a_loss_of_the_user_is_minimised(ds: xr.Dataset) -> None:
    def mean_absolute_error(rate: "torch.Tensor", counts: "torch.Tensor") -> "torch.Tensor":
        return (rate - counts).abs().nanmean()

    fitted = quick(ds, loss=mean_absolute_error, max_epochs=20)
    assert fitted.config["loss"] == "mean_absolute_error"
    losses = fitted.history["fit_loss"]
    assert losses[-1] < losses[0]
    ours = quick(ds, loss=lambda rate, counts: ((rate - counts) ** 2).nanmean())
    assert same_weights(ours, quick(ds, loss="mse"))


def test_the_monitor_is_called_after_each_epoch(ds: xr.Dataset) -> None:
    calls: list[tuple[int, float, float]] = []

    def monitor(epoch: int, fit_loss: float, stop_loss: float, network: Any) -> None:
        assert network(sounds()).shape == (2, N_NEURONS, N_TIME)
        calls.append((epoch, fit_loss, stop_loss))

    history = quick(ds, monitor=monitor).history
    rows = zip(history["epoch"], history["fit_loss"], history["stop_loss"], strict=True)
    assert calls == [(int(epoch), float(fit), float(stop)) for epoch, fit, stop in rows]


def test_a_loss_that_is_not_finite_is_an_error(ds: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="'poisson' is not finite in epoch 1"):
        quick(ds, "statenet", loss="poisson", learning_rate=1.0)
    quick(ds, "statenet", loss="poisson", sizes={"output": "softplus"})


def test_the_best_of_several_initial_weights_goes_on(ds: xr.Dataset) -> None:
    first = quick(ds, "cnn1d", max_epochs=10)
    best = quick(ds, "cnn1d", max_epochs=10, n_init=4)
    assert best.history["stop_loss"].min() < first.history["stop_loss"].min()
    assert best.history.sizes["epoch"] == 10
    longer = quick(ds, "cnn1d", max_epochs=12, n_init=4)
    assert longer.history.isel(epoch=slice(10)).equals(best.history)


def test_an_interrupted_fit_does_not_try_other_weights_again(
    ds: xr.Dataset, tmp_path: Path
) -> None:
    options = {
        "n_init": 3,
        "max_epochs": 12,
        "recipe": "lab",
        "checkpoint": tmp_path / "checkpoint",
    }
    whole = quick(ds, "cnn1d", **options)
    assert same_weights(quick(ds, "cnn1d", **options), whole)


def test_the_recipe_of_the_lab(ds: xr.Dataset) -> None:
    fitted = quick(ds, "cnn1d", recipe="lab", n_init=2, max_epochs=11)
    spectrogram = ds["spectrogram"].isel(stim=slice(N_VAL, None))
    compressed = np.log1p(10 * spectrogram)
    by_band = compressed.min(("stim", "time"))
    scaling = fitted.config["scaling"]
    np.testing.assert_allclose(scaling["offset"], by_band, rtol=1e-6)
    np.testing.assert_allclose(scaling["range"], compressed.max(("stim", "time")) - by_band)
    assert fitted.config["loss"] == "nmse"
    history = fitted.history.set_xindex("part")
    assert np.unique(history["learning_rate"]).tolist() == [1e-4, 1e-3]
    assert history["part"].values.tolist() == ["all"] * 22 + ["readout"] * 22
    together = float(history["stop_loss"].sel(part="all").min())
    assert history["stop_loss"][22] == pytest.approx(together, rel=0.02)  # it goes on from there
    est = ds.isel(stim=ds["subset"].values == "est")
    aside = est.isel(stim=training._set_aside(est["stim"].values, 0.2, 0))
    rates, counts = predict(fitted, aside).values, aside["psth"].values
    assert float(nmse(torch.tensor(rates), torch.tensor(counts))) <= together


def test_the_recipe_of_deepstrf(ds: xr.Dataset) -> None:
    one, two = (quick(ds, recipe="deepstrf", seed=seed) for seed in (0, 1))
    compressed = np.log1p(ds["spectrogram"].isel(stim=slice(N_VAL, None)))
    assert one.config["scaling"]["offset"] == pytest.approx([float(compressed.min())])
    assert one.config["loss"] == "mse"
    assert one.config["learning_rate"] == [1e-3]
    assert not one.history.equals(two.history)


# --- transfer ----------------------------------------------------------------------------------


def test_a_core_serves_cells_that_it_has_not_seen(ds: xr.Dataset) -> None:
    first, second = ds.isel(neuron=[0, 1]), ds.isel(neuron=[3, 2])
    core = quick(first, "cnn1d", "adaptrans", max_epochs=40, learning_rate=1e-2)
    fitted = quick(second, init=core, freeze="core", max_epochs=60, learning_rate=1e-2)
    assert fitted.name == "cnn1d+adaptrans"
    before, after = core.network.state_dict(), fitted.network.state_dict()
    shared = [name for name in before if name.startswith(("prefilter.", "core."))]
    assert shared
    assert all(torch.equal(before[name], after[name]) for name in shared)
    val = second.isel(stim=ds["subset"].values == "val")
    pred = predict(fitted, val)
    assert pred["neuron"].values.tolist() == val["neuron"].values.tolist()
    assert (nat4xr.metrics.fve(pred, val["psth"]) > 0.3).all()


def test_a_transferred_core_sees_sounds_scaled_as_before(ds: xr.Dataset) -> None:
    core = quick(ds, "cnn1d", recipe="lab", n_init=1)
    louder = ds.assign(spectrogram=3 * ds["spectrogram"])
    assert quick(louder, init=core, freeze="core").config["scaling"] == core.config["scaling"]


def test_with_a_frozen_core_each_cell_is_fitted_by_itself(ds: xr.Dataset) -> None:
    core = quick(ds.isel(neuron=[0]), "cnn1d")
    three = ds.isel(neuron=[1, 2, 3])
    # As if learnt before, so that read-outs do not depend on how many are drawn at random.
    start = quick(three, init=core, freeze="core", max_epochs=1)
    together = quick(three, init=start, freeze="core", max_epochs=30, learning_rate=1e-2)
    alone = quick(ds.isel(neuron=[2]), init=start, freeze="core", max_epochs=30, learning_rate=1e-2)
    for name, value in alone.network.state_dict().items():
        if name.startswith(("readout.", "output.")):
            torch.testing.assert_close(
                together.network.state_dict()[name][[1]], value, atol=1e-3, rtol=1e-2
            )


def test_a_silent_cell_does_not_end_the_fit_of_the_others(ds: xr.Dataset) -> None:
    """Though its normalised error, alone, is infinite."""
    core = quick(ds, "cnn1d", max_epochs=1)
    silent = ds.assign(psth=ds["psth"].where(ds["neuron"] != ds["neuron"][0], 0))
    options = {"init": core, "freeze": "core", "loss": "nmse", "max_epochs": 40, "patience": 5}
    fitted = quick(silent, learning_rate=1e-2, **options)
    losses = fitted.history["stop_loss"]
    assert losses.sizes["epoch"] - int(losses.argmin("epoch")) in (1, 6)
    assert losses.max() < 2
    assert losses[-1] < losses[0]


def test_a_fit_that_goes_on_from_another_starts_with_its_predictions(ds: xr.Dataset) -> None:
    fitted = quick(ds, "transformer", max_epochs=2)
    on = quick(ds.isel(neuron=[2, 0]), init=fitted, max_epochs=0)
    assert predict(on, ds.isel(neuron=[2, 0])).equals(predict(fitted, ds.isel(neuron=[2, 0])))


def test_predicting_cells_that_were_not_fitted_says_how_to(ds: xr.Dataset) -> None:
    fitted = quick(ds.isel(neuron=[0, 1]))
    with pytest.raises(ValueError, match=r"2 of 2 cells \(ARM029a-02-1.*freeze='core'"):
        predict(fitted, ds.isel(neuron=[2, 3]))
    with pytest.warns(UserWarning, match="2 of 4 cells .*freeze='core'.*left out"):
        pred = predict(fitted, ds)
    assert pred["neuron"].values.tolist() == ds["neuron"].values[:2].tolist()


def test_what_init_says_is_not_said_again(ds: xr.Dataset) -> None:
    fitted = quick(ds)
    for options in ({"model": "cnn"}, {"sizes": {"rank": 1}}, {"prefilter": "adaptrans"}):
        with pytest.raises(ValueError, match="init"):
            quick(ds, **{"model": None, "init": fitted, **options})
    with pytest.raises(ValueError, match="other frequency bands"):
        quick(ds.isel(freq=slice(4)), None, init=fitted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "rnn"}, "rnn"),
        ({"prefilter": "ic"}, "ic"),
        ({"loss": "mae"}, "mae"),
        ({"recipe": "mine"}, "mine"),
        ({"freeze": "readout"}, "readout"),
        ({"model": "cnn", "sizes": {"hidden": 3}}, "hidden"),
    ],
)
def test_unknown_options_are_refused(ds: xr.Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(ds, **options)


def test_a_dataset_that_cannot_be_fitted_is_refused(ds: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="lacks 'spectrogram'"):
        quick(ds.drop_vars("spectrogram"))
    with pytest.raises(ValueError, match="has 0"):
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


def test_a_damaged_file_is_named(ds: xr.Dataset, tmp_path: Path) -> None:
    file = tmp_path / "fitted.safetensors"
    quick(ds).save(file)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # in a weight
    for damaged in (content, content[:-4], content[:50], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{file} is damaged"):
            load(file)


def test_the_repr_of_a_fitted_model_is_three_lines(ds: xr.Dataset) -> None:
    lines = repr(quick(ds, "cnn1d", "adaptrans", seed=3)).splitlines()
    assert len(lines) == 3
    assert "cnn1d+adaptrans" in lines[0]
    assert "4 cells, 12 est sounds (SIMULATED data)" in lines[1]
    assert "seed 3" in lines[2]
    assert max(len(line) for line in lines) < 80


def test_files_of_others_are_not_taken_for_models(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="nat4xr has saved"):
        load(tmp_path / "other.safetensors")


def test_predictions_carry_the_labels_of_sounds_and_cells(ds: xr.Dataset) -> None:
    fitted = quick(ds)
    pred = predict(fitted, ds)
    assert pred.dims == ("stim", "time", "neuron")
    assert set(pred.coords) == {"stim", "subset", "time", "neuron", "animal"}
    assert pred.attrs["simulated"] == 1
    part = {"neuron": [3, 0], "stim": [4, 1]}  # in another order
    assert predict(fitted, ds.isel(part).chunk({"stim": 1})).equals(pred.isel(part))


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


@pytest.mark.parametrize("model", [*MODELS, "gru"])
def test_a_dynamic_strf_is_the_gradient_at_each_time(ds: xr.Dataset, model: str) -> None:
    if model == "gru":
        fitted = quick(ds, "statenet", sizes={"cell": "gru"}, max_epochs=1)
    else:
        fitted = quick(ds, model, max_epochs=1)
    part = ds.isel(stim=[5, 2], neuron=[3, 1])
    strfs = dynamic_strf(fitted, part, n_lags=7)
    assert strfs.dims == ("neuron", "stim", "time", "freq", "lag")
    assert strfs["animal"].values.tolist() == ["ARM", "ARM"]
    assert strfs["subset"].values.tolist() == ["est", "val"]
    assert (strfs.isnull() == (strfs["lag"] > strfs["time"] + 1e-9)).all()

    sounds = training.as_input(part["spectrogram"], fitted.config).requires_grad_()
    for time in (3, 20, N_TIME - 1):
        rate = fitted.network(sounds)[1, 1, time]  # of the second sound, and cell 1
        (gradient,) = torch.autograd.grad(rate, sounds)
        lags = strfs.isel(neuron=1, stim=1, time=time).dropna("lag")
        past = gradient[1, 0, :, time - lags.sizes["lag"] + 1 : time + 1].flip(-1)
        np.testing.assert_allclose(lags, past, atol=1e-6, rtol=1e-3)


def test_dynamic_strfs_do_not_depend_on_how_many_are_computed_at_once(
    ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = quick(ds, "statenet", max_epochs=1)
    at_once = dynamic_strf(fitted, ds.isel(stim=[0]), n_lags=5)
    monkeypatch.setattr("nat4xr.models.kernels._GRADIENTS_AT_ONCE", 7)
    xr.testing.assert_allclose(dynamic_strf(fitted, ds.isel(stim=[0]), n_lags=5), at_once)


def test_the_receptive_fields_of_ln_lie_along_its_kernel(ds: xr.Dataset) -> None:
    fitted = quick(ds)
    subspace = strf_subspace(dynamic_strf(fitted, ds.isel(stim=slice(3))), n_components=3)
    np.testing.assert_allclose(subspace["variance_explained"][:, 0], 1, rtol=1e-5)
    first = subspace["kernel"].sel(component=1)
    np.testing.assert_allclose((first**2).sum(("freq", "lag")), 1, rtol=1e-5)
    np.testing.assert_allclose(xr.corr(first, kernel(fitted), ("freq", "lag")), 1, rtol=1e-4)
    assert subspace["animal"].values.tolist() == ["ARM"] * N_NEURONS


def test_the_subspace_is_that_of_the_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    coords = {"neuron": ["a", "b"], "freq": [1.0, 2.0], "lag": [0.0, 0.01, 0.02]}
    dims = ("neuron", "stim", "time", "freq", "lag")
    strfs = xr.DataArray(rng.normal(1, 1, (2, 4, 5, 2, 3)), coords, dims)
    with_gaps = strfs.where((strfs["lag"] <= 0.01 * strfs["time"] + 1e-9), np.nan)
    subspace = strf_subspace(with_gaps.transpose(*dims[::-1]), n_components=6)
    for cell in range(2):
        complete = strfs.isel(neuron=cell, time=slice(2, None)).values.reshape(12, 6)
        _, scale, axes = np.linalg.svd(complete, full_matrices=False)
        components = subspace["kernel"].values[cell].reshape(6, 6)
        np.testing.assert_allclose(abs((components * axes).sum(1)), 1, rtol=1e-5)
        assert (components @ complete.mean(0) >= 0).all()
        shares = subspace["variance_explained"].values[cell]
        np.testing.assert_allclose(shares, scale**2 / (scale**2).sum(), rtol=1e-4)


def test_a_subspace_needs_complete_dynamic_strfs(ds: xr.Dataset) -> None:
    strfs = dynamic_strf(quick(ds), ds.isel(stim=[0]), n_lags=3)
    with pytest.raises(ValueError, match="'time'"):
        strf_subspace(strfs.isel(time=5))
    with pytest.raises(ValueError, match="all 3 lags"):
        strf_subspace(strfs.isel(time=[0, 1]))
    with pytest.raises(ValueError, match="n_components must be from 1 to 24, not 25"):
        strf_subspace(strfs, n_components=25)


def test_adaptrans_gives_kernels_for_on_and_off_and_its_time_constants(ds: xr.Dataset) -> None:
    fitted = quick(ds, "ln", "adaptrans")
    assert kernel(fitted).dims == ("neuron", "polarity", "freq", "lag")
    parameters = adaptation(fitted)
    assert parameters["tau"].dims == ("polarity", "freq")
    assert parameters["weight"].dims == ("freq",)
    assert (parameters["tau"] > 0).all()
    assert ((parameters["weight"] > 0) & (parameters["weight"] < 1)).all()


def test_what_a_model_does_not_have_is_refused(ds: xr.Dataset) -> None:
    fitted = quick(ds, "cnn", max_epochs=1)
    with pytest.raises(ValueError, match="only 'ln' has kernels"):
        kernel(fitted)
    with pytest.raises(ValueError, match="not AdapTrans"):
        adaptation(fitted)
    with pytest.raises(ValueError, match="n_lags must be from 1 to the 40"):
        gradient_strf(fitted, ds, n_lags=41)


def test_plot_draws_what_was_learnt(ds: xr.Dataset) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    fitted = quick(ds)
    for kernels in (kernel(fitted), gradient_strf(fitted, ds)):
        mesh = nat4xr.plot.strf(kernels.isel(neuron=0), ax=figure.Figure().subplots())
        assert mesh.get_array().shape == (N_FREQ, 25)


def test_the_command_line_offers_all_models() -> None:
    assert list(MODELS) == nat4xr.cli.NETWORKS


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
    fit_parameters = fit(ds, "ln", "adaptrans", **options).network.n_parameters_per_neuron
    prefix = "SIMULATED-PEG-ln+adaptrans"
    kept = {f"{prefix}-{rest}" for rest in ("scores.nc", "learning.png", "leaderboard.csv")}
    kept |= {f"{prefix}-seed{i}.{kind}" for i in range(2) for kind in ("nc", "safetensors")}
    assert {file.name for file in tmp_path.iterdir()} == kept

    row = table.set_index("backbone").loc["ln+adaptrans"]
    assert row["simulated"]
    assert row["n_seeds"] == 2
    assert row["params_per_neuron"] == fit_parameters
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


# --- on a GPU ----------------------------------------------------------------------------------

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@on_a_gpu
@pytest.mark.parametrize("loss", ["mse", "nmse", "poisson"])
@every_network
def test_recorded_steps_fit_the_same_weights_as_plain_steps(
    ds: xr.Dataset,
    model: str,
    prefilter: str | None,
    loss: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: dict[str, Any] = {"output": "softplus"}
    if model == "transformer":
        sizes["dropout"] = 0  # recorded steps draw other random numbers
    options = {"sizes": sizes, "loss": loss, "device": "cuda", "batch_size": 3, "max_epochs": 6}
    recorded = quick(ds, model, prefilter, **options)
    monkeypatch.setattr(training, "GraphedStep", lambda step, batch_size: step)
    plain = quick(ds, model, prefilter, **options)
    for name, weights in plain.network.state_dict().items():
        torch.testing.assert_close(
            recorded.network.state_dict()[name], weights, rtol=0.01, atol=1e-3
        )
    for curve in ("fit_loss", "stop_loss"):
        np.testing.assert_allclose(recorded.history[curve], plain.history[curve], rtol=1e-3)


@on_a_gpu
def test_all_but_the_first_full_batches_are_recorded(
    ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_sounds = []

    def counted(network: Any, objective: Any, optimizer: Any, *others: Any) -> Any:
        step = steps.plain_step(network, objective, optimizer, *others)
        return lambda batch: n_sounds.append(len(batch)) or step(batch)

    monkeypatch.setattr(training, "plain_step", counted)
    quick(ds, "cnn1d", device="cuda", batch_size=3, max_epochs=4)
    # Eleven sounds: three full batches and one of two. The fourth full batch is recorded.
    assert n_sounds == [3, 3, 3, 2, 3, 2, 2, 2]


@on_a_gpu
def test_a_fit_on_a_gpu_continues_and_transfers(ds: xr.Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": "cuda", "batch_size": 3, "learning_rate": [1e-2, 1e-3]}
    whole = quick(ds, "cnn1d", max_epochs=15, **options)

    def interrupt(epoch: int, *_: Any) -> None:
        if epoch == 12:
            raise KeyboardInterrupt

    file = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        quick(ds, "cnn1d", max_epochs=15, checkpoint=file, monitor=interrupt, **options)
    continued = quick(ds, "cnn1d", max_epochs=15, checkpoint=file, **options)
    np.testing.assert_allclose(
        continued.history["stop_loss"], whole.history["stop_loss"], rtol=0.01
    )
    transferred = quick(ds, init=continued, freeze="core", max_epochs=15, **options)
    assert transferred.history["stop_loss"][-1] <= continued.history["stop_loss"].min() * 1.01


@on_a_gpu
def test_networks_and_losses_of_your_own_are_not_recorded(
    ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NotRecorded:
        def __init__(self, *_: Any) -> None:
            raise AssertionError("recorded")

    monkeypatch.setattr(training, "GraphedStep", NotRecorded)
    module = torch.nn.Sequential(network("cnn1d"))
    quick(ds, module, device="cuda", max_epochs=1)
    quick(ds, "cnn1d", loss=lambda rate, counts: mse(rate, counts), device="cuda", max_epochs=1)
    with pytest.raises(AssertionError, match="recorded"):
        quick(ds, "cnn1d", device="cuda", max_epochs=1)


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
