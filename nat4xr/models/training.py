"""Fit a network to the est sounds."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import __version__
from ..extras import tqdm
from ..io.writing import expanded, written
from ..schema import check_not_empty
from .fitted import Fitted, as_input, bin_s, check, checksum, in_batches, network_of
from .losses import LOSSES, Loss
from .networks import MODELS, Network, check_options
from .steps import GraphedStep, Step, adam, plain_step

__all__ = ["RECIPES", "fit"]

Monitor = Callable[[int, float, float, nn.Module], object]

RECIPES: dict[str, dict[str, Any]] = {
    "nat4xr": {
        "gain": 1, "per_band": False, "loss": "mse", "learning_rate": [2e-3], "n_init": 1,
        "set_aside": 0.1, "patience": 30, "fine_tune": False,
    },
    "lab": {
        "gain": 10, "per_band": True, "loss": "nmse", "learning_rate": [1e-3, 1e-4], "n_init": 10,
        "set_aside": 0.2, "patience": 20, "fine_tune": True,
    },
    "deepstrf": {
        "gain": 1, "per_band": False, "loss": "mse", "learning_rate": [1e-3], "n_init": 1,
        "set_aside": 0.2, "patience": 50, "fine_tune": False,
    },
}  # fmt: skip
"""The recipes of :func:`fit`, which contain the defaults of its options."""

_MAX_GRADIENT = 1.0
_INIT_EPOCHS = 10
_CHECKPOINT_EPOCHS = 10


# --- fitting -----------------------------------------------------------------------------------


def fit(
    ds: xr.Dataset,
    model: str | nn.Module | None = None,
    prefilter: str | None = None,
    *,
    recipe: str = "nat4xr",
    init: Fitted | None = None,
    freeze: str | None = None,
    sizes: Mapping[str, Any] | None = None,
    seed: int = 0,
    loss: str | Loss | None = None,
    learning_rate: float | Sequence[float] | None = None,
    batch_size: int = 16,
    max_epochs: int = 300,
    patience: int | None = None,
    n_init: int | None = None,
    device: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    monitor: Monitor | None = None,
    progressbar: bool = True,
) -> Fitted:
    """Fit a population model to the est sounds, for all cells at once.

    A part of the est sounds is set aside to decide when to stop. The val sounds are never used.

    Parameters
    ----------
    ds : xarray.Dataset
        What :func:`nat4xr.open_area` returns, or a selection of it. The fit uses ``spectrogram``
        (stim, freq, time) and ``psth`` (stim, time, neuron). Bins that are NaN in ``psth`` are
        left out.
    model : str or torch.nn.Module, default: "statenet"
        A name in ``MODELS`` (see :class:`Network`), or your own module, which is copied. The
        module must map spectrograms (batch, 1, freq, time) to spikes per bin (batch, neuron,
        time), with the cells in the order of `ds`.
    prefilter : {None, "adaptrans"}, optional
        The front end of the network: ``"adaptrans"`` is :class:`AdapTrans`.
    recipe : {"nat4xr", "lab", "deepstrf"}, default: "nat4xr"
        How the spectrogram is scaled and how the network is fitted (see Notes). The recipe sets the
        defaults of the options below.
    init : Fitted, optional
        A fitted model to start from, instead of `model`, `prefilter` and `sizes`. The fit starts
        with its front end, its core and its scaling of the spectrogram. Cells that it was fitted
        to start with their read-outs, and other cells start with new ones.
    freeze : {None, "core"}, optional
        ``"core"`` only fits the read-outs and output nonlinearities, for each cell separately.
        Together with `init`, this transfers a core to other cells, sites or areas.
    sizes : mapping, optional
        Sizes that replace those of ``MODELS[model]``, such as ``{"rank": 1}`` for LN.
    seed : int, default: 0
        Seed of the initial weights, the order of the sounds, and dropout. On a CPU, the same
        arguments give the same weights; on a GPU, they give nearly the same weights.
    loss : {"mse", "nmse", "poisson"} or callable, optional
        The loss to minimise: :func:`mse`, :func:`nmse`, :func:`poisson`, or your own function,
        which takes the rate and the counts (batch, neuron, time) and returns a scalar. The counts
        are NaN in bins that were not recorded.
    learning_rate : float or sequence of float, optional
        Learning rate of Adam. The values of a sequence are used one after another: when `patience`
        ends the fit with one value, it continues from the best weights with the next value.
    batch_size : int, default: 16
        Number of sounds in a batch.
    max_epochs : int, default: 300
        Largest number of epochs with each learning rate.
    patience : int, optional
        The fit stops when the loss on the sounds set aside has not decreased for this number of
        epochs. The weights with the smallest loss are kept.
    n_init : int, optional
        Number of initial weights to try. Each is fitted for 10 epochs, and the fit continues with
        the one that has the smallest loss on the sounds set aside.
    device : str, optional
        Device of PyTorch, such as ``"cpu"`` or ``"cuda:1"``. Default: the GPU, if there is one.
    checkpoint : path-like, optional
        File in which the state of the fit is saved after every tenth epoch and at the end. If the
        file exists, the fit continues from it. On a CPU, the result is the same as that of an
        uninterrupted fit.
    monitor : callable, optional
        Function to call after each epoch. Its arguments are the number of the epoch (from 1), the
        loss on the fitted sounds, the loss on the sounds set aside, and the network.
    progressbar : bool, default: True
        Whether to show progress.

    Returns
    -------
    Fitted
        The network, its configuration and the learning curve.

    Raises
    ------
    ValueError
        If an option is unknown, if `ds` lacks a variable or has fewer than two est sounds, if `ds`
        and `init` differ in frequency bands or time bins, if your module returns a wrong shape, if
        the loss is not finite, or if the checkpoint is damaged or belongs to another fit.

    Notes
    -----
    ==============================  =============  ==================  =============
    recipe                          ``"nat4xr"``   ``"lab"``           ``"deepstrf"``
    ==============================  =============  ==================  =============
    compression of the spectrogram  log(1 + x)     log(1 + 10 x)       log(1 + x)
    its scaling from 0 to 1         all bands      each band           all bands
    loss                            mse            nmse                mse
    learning rate                   0.002          0.001, then 0.0001  0.001
    est sounds set aside            10 %           20 %                20 %
    choice of these sounds          always same    always same         by seed
    patience                        30             20                  50
    initial weights tried           1              10                  1
    read-outs fitted at the end     no             yes                 no
    ==============================  =============  ==================  =============

    ``"lab"`` follows the paper of the data set, and ``"deepstrf"`` the published benchmark, as far
    as their methods are described. All three have the same batch size and largest number of
    epochs. At the end of ``"lab"``, the core is frozen, and the read-out of each cell is fitted
    again.

    While the core is frozen, each cell keeps the weights with which its loss on the sounds set
    aside is smallest.

    ``config["fingerprint"]`` is the SHA-256 of the est sounds, the cells, and their responses.

    References
    ----------
    Pennington JR, David SV (2023). A convolutional neural network provides a generalizable model of
    natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol. 19:e1011110.
    doi:10.1371/journal.pcbi.1011110

    Rançon U, Masquelier T, Cottereau BR (2025). Temporal recurrence as a general mechanism to
    explain neural responses in the auditory system. Commun. Biol. 8:1456.
    doi:10.1038/s42003-025-08858-3

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=2, progressbar=False)
    >>> fitted.history.sizes["epoch"], fitted.network.n_parameters_per_neuron
    (2, 113)

    Fit a core to one site, then transfer it to the cells of another site:

    >>> site, other = ds.sel(site="ARM019a"), ds.sel(site="ARM021b")
    >>> core = nat4xr.models.fit(site, "cnn1d", max_epochs=1, progressbar=False)
    >>> fitted = nat4xr.models.fit(
    ...     other, init=core, freeze="core", max_epochs=1, progressbar=False
    ... )
    >>> nat4xr.models.predict(fitted, other.sel(subset="val")).sizes["neuron"]
    4
    """
    if freeze not in (None, "core"):
        raise ValueError(f"freeze must be None or 'core', not {freeze!r}")
    options = _options(
        recipe, loss=loss, learning_rate=learning_rate, patience=patience, n_init=n_init
    )
    architecture = _architecture(model, prefilter, sizes, init)
    is_module = architecture["sizes"] is None
    parts = ["readout"] if freeze else ["all", "readout"] if options["fine_tune"] else ["all"]
    if is_module and "readout" in parts:
        raise ValueError(
            "the read-outs of your own module cannot be fitted separately: leave out "
            "freeze='core' or recipe='lab'"
        )
    batch_size = _whole("batch_size", batch_size, 1)
    max_epochs = _whole("max_epochs", max_epochs, 0)
    options["n_init"] = _whole("n_init", options["n_init"], 1)
    seed = _whole("seed", seed, 0)
    if is_module and options["n_init"] > 1:
        raise ValueError("n_init must be 1, because your own module comes with its initial weights")
    check(ds)
    file = None if checkpoint is None else _checkpoint_file(checkpoint)
    est = ds[["spectrogram", "psth"]].isel(stim=ds["subset"].values == "est").compute()
    if est.sizes["stim"] < 2:
        raise ValueError(f"a fit needs at least two est sounds, but ds has {est.sizes['stim']}")
    check_not_empty(est, "ds")

    config = {
        **architecture,
        "recipe": recipe,
        "seed": seed,
        "loss": _name_of(options["loss"]),
        "learning_rate": np.atleast_1d(options["learning_rate"]).tolist(),
        "batch_size": batch_size,
        "n_init": options["n_init"],
        "freeze": freeze,
        "init": init and checksum(init.network.state_dict()),
        "neurons": est["neuron"].values.tolist(),
        "freq": est["freq"].values.tolist(),
        "bin_s": bin_s(est),
        "n_stims": est.sizes["stim"],
        "fingerprint": _fingerprint(est),
        "area": str(ds.attrs.get("area", "")),
        "simulated": int(ds.attrs.get("simulated", 0)),
        "nat4xr_version": __version__,
    }
    if init is None:
        config["scaling"] = _scaling(est["spectrogram"], options["gain"], options["per_band"])
    elif all(config[name] == init.config[name] for name in ("freq", "bin_s")):
        config["scaling"] = init.config["scaling"]
    else:
        raise ValueError("init was fitted to other frequency bands or time bins than those of ds")

    sounds = as_input(est["spectrogram"], config)
    counts = torch.tensor(est["psth"].transpose("stim", "neuron", "time").values).float()
    split_seed = seed if recipe == "deepstrf" else 0
    stopping = torch.tensor(_set_aside(est["stim"].values, options["set_aside"], split_seed))
    if not sounds.isfinite().all():
        raise ValueError("the spectrogram of an est sound in ds contains NaN or infinite values")
    if counts[~stopping].isnan().all():
        raise ValueError("the psth of ds is NaN for all est sounds, so there is nothing to fit")
    mean_rate = counts[~stopping].nanmean((0, 2)).nan_to_num(0).clamp_min(1e-3)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = _Data(
        *(sounds[~stopping].to(where), counts[~stopping].to(where)),
        *(sounds[stopping].to(where), counts[stopping].to(where)),
    )
    objective = LOSSES.get(options["loss"], options["loss"])
    stages = [(part, rate) for part in parts for rate in config["learning_rate"]]

    def new_training() -> _Training:
        if is_module:
            network: Any = deepcopy(init.network if init else model)
            network.to(where)
            _check_shape(network, data, config["model"])
        else:
            network = network_of(config, mean_rate).to(where)
            if init is not None:
                _start_from(init, network, config["neurons"])
        return _Training(network, data, objective, config, stages)

    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        if file is not None and file.exists():
            training = new_training()
            training.resume(file)
        elif options["n_init"] > 1:
            n_epochs = min(_INIT_EPOCHS, max_epochs)
            training = _best_start(new_training, options["n_init"], n_epochs)
        else:
            training = new_training()
        with tqdm(
            desc=f"{config['model']}, seed {seed}",
            initial=len(training.losses),
            total=max_epochs * len(stages),
            unit="epoch",
            disable=not progressbar,
        ) as bar:
            continues = training.continues(max_epochs, options["patience"])
            while continues:
                training.run_epoch()
                n_epochs, (fit_loss, stop_loss) = len(training.losses), training.losses[-1]
                continues = training.continues(max_epochs, options["patience"])
                if file is not None and (n_epochs % _CHECKPOINT_EPOCHS == 0 or not continues):
                    training.save(file)
                if monitor is not None:
                    monitor(n_epochs, fit_loss, stop_loss, training.network)
                bar.set_postfix_str(f"loss {stop_loss:.4f}", refresh=False)
                bar.update()
        if file is not None and not file.exists():  # the first epochs were the last
            training.save(file)
    training.network.load_state_dict(training.best)
    return Fitted(training.network.cpu().eval(), config, training.history())


def _options(recipe: str, **given: Any) -> dict[str, Any]:
    """Fill in the options that were not given from the recipe."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {list(RECIPES)}, not {recipe!r}")
    options = RECIPES[recipe] | {name: value for name, value in given.items() if value is not None}
    if not callable(options["loss"]) and options["loss"] not in LOSSES:
        raise ValueError(f"loss must be one of {list(LOSSES)} or callable, not {options['loss']!r}")
    return options


def _whole(name: str, value: Any, smallest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < smallest:
        raise ValueError(f"{name} must be a whole number of at least {smallest}, not {value!r}")
    return int(value)


def _name_of(loss: str | Loss) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


def _checkpoint_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a checkpoint. If it cannot be written, the fit should not start."""
    file = expanded(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file}: there is no folder {file.parent}; make it first")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder: choose the name of a file for a checkpoint")
    return file


def _best_start(new_training: Callable[[], _Training], n_init: int, n_epochs: int) -> _Training:
    """Fit several initial weights for a few epochs, and return the best of these fits.

    The others are dropped one by one, because each takes memory of the GPU.
    """

    def start() -> _Training:
        training = new_training()
        for _ in range(n_epochs):
            training.run_epoch()
        return training

    return min((start() for _ in range(n_init)), key=lambda training: training.smallest)


@dataclass
class _Data:
    """The sounds and spike counts that are fitted, and those that are set aside."""

    fit_sounds: Tensor
    fit_counts: Tensor
    stop_sounds: Tensor
    stop_counts: Tensor


class _Training:
    """The state of a fit, which consists of stages.

    Each stage has a learning rate and a part of the network that learns. If the whole network
    learns, the weights with the smallest loss on the sounds set aside are kept. If only the
    read-outs learn, this is done for each cell separately.
    """

    def __init__(
        self,
        network: nn.Module,
        data: _Data,
        objective: Loss,
        config: dict[str, Any],
        stages: list[tuple[str, float]],
    ) -> None:
        self.network, self.data, self.objective, self.config = network, data, objective, config
        self.stages = stages
        self.has_own_loss = objective not in LOSSES.values()
        self.shuffle = torch.Generator().manual_seed(config["seed"])
        self.losses: list[tuple[float, float]] = []  # fit_loss and stop_loss of each epoch
        self.stage_of_epoch: list[int] = []
        self.best = deepcopy(network.state_dict())
        self.your_own = self.describe_your_own()
        self.start(0)

    def describe_your_own(self) -> dict[str, Any]:
        """Return what tells your modules and losses apart, as the configuration only names them."""
        about = {"module": "", "loss": 0.0}
        if self.config["sizes"] is None:
            learns = [parameter.requires_grad for parameter in self.network.parameters()]
            about["module"] = f"{self.network} {learns}"
        if self.has_own_loss:
            counts = self.data.stop_counts
            rates = 0.6 + 0.4 * torch.arange(counts.numel(), device=counts.device).sin()
            loss = self.objective(rates.view(counts.shape), counts)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise ValueError(f"the loss {self.config['loss']!r} must return a scalar tensor")
            about["loss"] = float(loss)
        return about

    def start(self, stage: int) -> None:
        """Start a stage with the best weights so far."""
        self.stage = stage
        self.part, learning_rate = self.stages[stage]
        self.network.load_state_dict(self.best)
        self.learning = self.network
        self.fit_inputs, self.stop_inputs = self.data.fit_sounds, self.data.stop_sounds
        if self.part == "readout":
            network: Any = self.network
            core = nn.Sequential(network.prefilter, network.core)
            self.learning = nn.Sequential(network.readout, network.output)
            self.fit_inputs = in_batches(core, self.fit_inputs)
            self.stop_inputs = in_batches(core, self.stop_inputs)
        on_gpu = self.fit_inputs.is_cuda
        self.optimizer = adam(self.learning, learning_rate, on_gpu=on_gpu)
        max_gradient = _MAX_GRADIENT if self.part == "all" else None
        self.step: Step = plain_step(
            self.learning,
            self.objective,
            self.optimizer,
            self.fit_inputs,
            self.data.fit_counts,
            max_gradient,
        )
        # Your own module or loss may do other operations in each step.
        if on_gpu and type(self.network) is Network and not self.has_own_loss:
            self.step = GraphedStep(self.step, self.config["batch_size"])
        self.smallest, self.best_loss = self.stop_loss()
        self.n_waited = 0

    def continues(self, max_epochs: int, patience: int) -> bool:
        """Whether there is another epoch. If a stage has ended, start the next one."""
        while self.n_waited >= patience or self.stage_of_epoch.count(self.stage) >= max_epochs:
            if self.stage + 1 == len(self.stages):
                return False
            self.start(self.stage + 1)
        return True

    def run_epoch(self) -> None:
        n_sounds, device = len(self.fit_inputs), self.fit_inputs.device
        order = torch.randperm(n_sounds, generator=self.shuffle).to(device)
        total = torch.zeros((), device=device)
        self.learning.train()
        for batch in torch.split(order, self.config["batch_size"]):
            total += self.step(batch) * len(batch)
        stop_loss, losses_to_compare = self.stop_loss()
        self.losses.append((float(total) / n_sounds, stop_loss))
        self.stage_of_epoch.append(self.stage)
        if not np.isfinite(self.losses[-1]).all():
            raise ValueError(
                f"the loss {self.config['loss']!r} is not finite in epoch {len(self.losses)}: try "
                "a smaller learning_rate. For 'poisson', rates must be above 0, which "
                "sizes={'output': 'softplus'} ensures"
            )
        self.keep_best(losses_to_compare)
        self.n_waited = 0 if stop_loss < self.smallest else self.n_waited + 1
        self.smallest = min(stop_loss, self.smallest)

    def stop_loss(self) -> tuple[float, Tensor]:
        """Return the loss on the sounds set aside, and the losses by which to keep weights.

        The latter are the same loss if the whole network learns, or else the loss of each cell.
        """
        rates, counts = in_batches(self.learning, self.stop_inputs), self.data.stop_counts
        loss = self.objective(rates, counts)
        if self.part == "all":
            return float(loss), loss
        if not self.has_own_loss:
            return float(loss), torch.func.vmap(self.objective, in_dims=1)(rates, counts)
        cells = range(counts.shape[1])  # your own loss may not work with vmap
        losses = [self.objective(rates[:, [i]], counts[:, [i]]) for i in cells]
        return float(loss), torch.stack(losses)

    def keep_best(self, loss: Tensor) -> None:
        is_better = loss < self.best_loss
        if self.part == "readout":
            for name, value in self.network.state_dict().items():
                if name.startswith(("readout.", "output.")):  # their first dim is the cells
                    self.best[name][is_better] = value[is_better]
        elif is_better:
            self.best = deepcopy(self.network.state_dict())
        self.best_loss = torch.minimum(self.best_loss, loss)

    def history(self) -> xr.Dataset:
        fit_loss, stop_loss = zip(*self.losses, strict=True) if self.losses else ((), ())
        stages = [self.stages[stage] for stage in self.stage_of_epoch]
        return xr.Dataset(
            {
                "fit_loss": ("epoch", list(fit_loss), {"long_name": "loss on the fitted sounds"}),
                "stop_loss": ("epoch", list(stop_loss), {"long_name": "loss on sounds set aside"}),
            },
            {
                "epoch": np.arange(1, len(self.losses) + 1),
                "part": (
                    "epoch",
                    [part for part, _ in stages],
                    {"long_name": "part of the network that learns"},
                ),
                "learning_rate": (
                    "epoch",
                    [rate for _, rate in stages],
                    {"long_name": "learning rate"},
                ),
            },
            {"loss": self.config["loss"], "simulated": self.config["simulated"]},
        )

    _SAVED = ("losses", "stage_of_epoch", "best", "best_loss", "smallest", "n_waited")

    def save(self, file: Path) -> None:
        state = {
            "config": json.dumps(self.config),
            "stage": self.stage,
            "your_own": self.your_own,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            **{name: getattr(self, name) for name in self._SAVED},
        }
        content = io.BytesIO()
        torch.save(state, content)
        digest = hashlib.sha256(content.getbuffer()).digest()
        with written(file) as part:
            part.write_bytes(digest + content.getvalue())

    def resume(self, file: Path) -> None:
        content = file.read_bytes()
        digest, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError(
                f"{file} is damaged, or is not a checkpoint: remove it to start the fit again"
            )
        device = self.data.fit_sounds.device
        state = torch.load(io.BytesIO(content), device, weights_only=True)
        of_another_fit = (
            f"{file} is the checkpoint of a fit with other options or data: remove it, or "
            "choose another file"
        )
        shapes, saved_shapes = (
            {name: weights.shape for name, weights in of.items()}
            for of in (self.network.state_dict(), state["best"])
        )
        saved_own, own = state["your_own"], self.your_own
        if (
            state["config"] != json.dumps(self.config)
            or shapes != saved_shapes
            or saved_own["module"] != own["module"]
            or not np.isclose(saved_own["loss"], own["loss"], rtol=1e-4, equal_nan=True)
        ):
            raise ValueError(of_another_fit)
        self.best = state["best"]
        self.start(state["stage"])
        if not torch.allclose(self.best_loss, state["best_loss"], rtol=0.01, equal_nan=True):
            raise ValueError(of_another_fit)
        self.network.load_state_dict(state["network"])
        # The options of the optimiser depend on the device, which may be another one.
        options = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": options})
        for name in self._SAVED:
            setattr(self, name, state[name])
        self.shuffle.set_state(state["shuffle"].cpu())
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())


# --- networks ----------------------------------------------------------------------------------


def _architecture(
    model: str | nn.Module | None,
    prefilter: str | None,
    sizes: Mapping[str, Any] | None,
    init: Fitted | None,
) -> dict[str, Any]:
    """Return the configuration of the network. ``sizes`` is None for the user's own module."""
    if init is not None:
        if any(option is not None for option in (model, prefilter, sizes)):
            raise ValueError("init defines the model, prefilter and sizes: leave these out")
        return {name: init.config[name] for name in ("model", "prefilter", "sizes")}
    if isinstance(model, nn.Module):
        if any(option is not None for option in (prefilter, sizes)):
            raise ValueError(
                "prefilter and sizes are only for models that are given by name: leave them out"
            )
        return {"model": type(model).__name__, "prefilter": None, "sizes": None}
    model = "statenet" if model is None else model
    sizes = dict(sizes or {})
    check_options(model, prefilter, sizes)
    return {"model": model, "prefilter": prefilter, "sizes": {**MODELS[model], **sizes}}


def _start_from(init: Fitted, network: nn.Module, neurons: list[str]) -> None:
    """Copy the front end, the core, and the read-outs of cells that `init` was fitted to."""
    row = {name: i for i, name in enumerate(init.config["neurons"])}
    to_rows = [i for i, name in enumerate(neurons) if name in row]
    from_rows = [row[neurons[i]] for i in to_rows]
    state = network.state_dict()
    for name, value in init.network.state_dict().items():
        if name.startswith(("readout.", "output.")):
            state[name][to_rows] = value[from_rows].to(state[name].device)
        else:
            state[name] = value
    network.load_state_dict(state)


def _check_shape(network: nn.Module, data: _Data, name: str) -> None:
    expected = tuple(data.stop_counts.shape)
    shape = tuple(in_batches(network, data.stop_sounds).shape)
    if shape != expected:
        raise ValueError(
            f"for spectrograms of the shape {tuple(data.stop_sounds.shape)}, {name} must return "
            f"spikes per bin (batch, neuron, time) of the shape {expected}, not {shape}"
        )


# --- data --------------------------------------------------------------------------------------


def _scaling(spectrogram: xr.DataArray, gain: float, per_band: bool) -> dict[str, Any]:
    """Return the parameters by which `as_input` scales the sounds to the range from 0 to 1."""
    values = spectrogram.transpose("freq", "stim", "time").values
    compressed = np.log1p(gain * values.reshape(len(values) if per_band else 1, -1))
    low, high = compressed.min(1), compressed.max(1)
    span = np.where(high > low, high - low, 1)
    return {"gain": gain, "offset": low.tolist(), "range": span.tolist()}


def _set_aside(names: NDArray[np.str_], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose the est sounds to set aside. The choice does not depend on their order."""
    drawn = np.random.default_rng(seed).permutation(np.sort(names))
    return np.isin(names, drawn[: max(1, round(share * names.size))])


def _fingerprint(est: xr.Dataset) -> str:
    """Return the SHA-256 of the sounds, the cells, and their responses."""
    digest = hashlib.sha256()
    names = [*est["neuron"].values.tolist(), *est["stim"].values.tolist()]
    digest.update(json.dumps(names).encode())
    for name, dims in (
        ("spectrogram", ("stim", "freq", "time")),
        ("psth", ("stim", "neuron", "time")),
    ):
        values = est[name].transpose(*dims).values
        digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.hexdigest()
