"""Fitting a network to the est sounds, predicting with it, and keeping it in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from .. import __version__
from ..preprocess import log_minmax
from .networks import MODELS, Network

__all__ = ["Fitted", "fit", "load", "predict"]

# Every tenth est sound, drawn once and for all, tells when to stop.
_STOPPING_SHARE = 0.1
_MAX_GRADIENT = 1.0
_CHECKPOINT_EPOCHS = 10


@dataclass(frozen=True)
class Fitted:
    """A fitted model: what :func:`fit` and :func:`load` return.

    Attributes
    ----------
    network : Network
        The ``torch.nn.Module``, on the CPU and in evaluation mode.
    config : dict
        How it was made: model and options, names of the cells, scaling of the spectrogram, package
        version, fingerprint of the data, and whether those were simulated.
    history : xarray.Dataset
        The learning curve: ``fit_loss`` and ``stop_loss`` (epoch), float64, mean losses per bin on
        the sounds that are fitted and on those set aside.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
    >>> fitted.name, fitted.config["loss"], fitted.history.sizes["epoch"]
    ('ln', 'mse', 1)
    """

    network: Network
    config: dict[str, Any]
    history: xr.Dataset

    @property
    def name(self) -> str:
        """Model and front end, such as ``"statenet+adaptrans"``."""
        return "+".join(filter(None, [self.config["model"], self.config["prefilter"]]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, configuration and learning curve into a safetensors file.

        Parameters
        ----------
        path : path-like
            The file; replaced if it is there. Its folder must exist.

        Examples
        --------
        >>> import nat4xr
        >>> ds = nat4xr.open_area("PEG")
        >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
        >>> fitted.save("ln.safetensors")
        >>> nat4xr.models.load("ln.safetensors").name
        'ln'
        """
        about = {"config": self.config, "history": self.history.to_dict()}
        part = Path(f"{os.fspath(path)}.part")
        save_file(self.network.state_dict(), part, {"nat4xr": json.dumps(about)})
        part.replace(path)


def load(path: str | os.PathLike[str]) -> Fitted:
    """Read a fitted model that :meth:`Fitted.save` wrote.

    Parameters
    ----------
    path : path-like
        The file. One of another format raises a ``SafetensorError``.

    Returns
    -------
    Fitted
        The model as it was saved: it predicts the same.

    Raises
    ------
    ValueError
        If the file does not come from :meth:`Fitted.save`.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
    >>> fitted.save("ln.safetensors")
    >>> loaded = nat4xr.models.load("ln.safetensors")
    >>> nat4xr.models.predict(loaded, ds).equals(nat4xr.models.predict(fitted, ds))
    True
    """
    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {}).get("nat4xr", "null"))
        if about is None:
            raise ValueError(f"{os.fspath(path)} holds no model that nat4xr has saved")
        state = {name: file.get_tensor(name) for name in list(file.keys())}
    network = _network(about["config"])
    network.load_state_dict(state)
    return Fitted(network.eval(), about["config"], xr.Dataset.from_dict(about["history"]))


def fit(
    ds: xr.Dataset,
    model: str = "statenet",
    prefilter: str | None = None,
    *,
    seed: int = 0,
    loss: Literal["poisson", "mse"] | None = None,
    sizes: Mapping[str, Any] | None = None,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    batch_size: int = 16,
    max_epochs: int = 300,
    patience: int = 30,
    device: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progressbar: bool = True,
) -> Fitted:
    """Fit a population model to the est sounds, for all cells at once.

    A tenth of the est sounds, the same whatever the seed, is set aside to tell when to stop. The
    val sounds are not looked at.

    Parameters
    ----------
    ds : xarray.Dataset
        As :func:`nat4xr.open_area` returns it, or a selection; its ``spectrogram`` (stim, freq,
        time) and ``psth`` (stim, time, neuron) are used. Bins that are NaN in ``psth`` do not
        count.
    model : {"ln", "cnn", "statenet", "transformer"}, default: "statenet"
        Which network; see :class:`Network`.
    prefilter : {None, "adaptrans"}, optional
        ``"adaptrans"`` puts :class:`AdapTrans` in front.
    seed : int, default: 0
        Seed of the initial weights, the order of the sounds, and dropout. On a CPU, the same
        arguments give the same weights; on a GPU, nearly so.
    loss : {"poisson", "mse"}, optional
        Negative log-likelihood of Poisson spike counts (but for a constant), or squared error.
        Default: ``"mse"`` for LN, and ``"poisson"`` for the others.
    sizes : mapping, optional
        Sizes other than those of ``MODELS[model]``, such as ``{"cell": "gru"}`` for StateNet or
        ``{"separable": True}`` for LN.
    learning_rate, weight_decay : float, default: 2e-3 and 1e-2
        Step size and weight decay of AdamW. Only the weights of core and read-out decay.
    batch_size : int, default: 16
        Sounds a step.
    max_epochs : int, default: 300
        Passes through the sounds, at most.
    patience : int, default: 30
        Passes without a smaller loss, on the sounds set aside, after which the fit ends. The
        weights of the smallest loss are kept.
    device : str, optional
        Such as ``"cpu"`` or ``"cuda:1"``. Default: the GPU, if there is one.
    checkpoint : path-like, optional
        File in which the fit is kept after every tenth pass and at its end, and from which it
        goes on if the file is there: to the same weights as if it had not been interrupted.
    progressbar : bool, default: True
        Show the progress.

    Returns
    -------
    Fitted
        Network, configuration and learning curve.

    Raises
    ------
    ValueError
        If an option is unknown, `ds` lacks something or has fewer than two est sounds, or the
        checkpoint is of another fit.

    Notes
    -----
    The spectrogram is compressed by :func:`nat4xr.preprocess.log_minmax`, with the range of the
    est sounds. ``config["fingerprint"]`` is a SHA-256 of the names of cells and est sounds and
    the number of spikes: NAT4 data have no fingerprint of their own.

    References
    ----------
    Loshchilov I, Hutter F (2019). Decoupled weight decay regularization. International Conference
    on Learning Representations. arXiv:1711.05101. (AdamW. The papers of the models are named by
    :class:`Network`, that of the front end by :class:`AdapTrans`.)

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=2, progressbar=False)
    >>> fitted.history.sizes["epoch"], fitted.network.n_parameters_per_neuron
    (2, 452)
    >>> nat4xr.models.predict(fitted, ds.sel(subset="val")).sizes
    Frozen({'stim': 18, 'time': 150, 'neuron': 8})
    """
    sizes = dict(sizes or {})
    if model not in MODELS:
        raise ValueError(f"model must be one of {list(MODELS)}, not {model!r}")
    if prefilter not in (None, "adaptrans"):
        raise ValueError(f"prefilter must be None or 'adaptrans', not {prefilter!r}")
    # A model that is far from the truth does better with squared errors; see docs/models.md.
    loss = loss or ("mse" if model == "ln" else "poisson")
    if loss not in ("poisson", "mse"):
        raise ValueError(f"loss must be 'poisson' or 'mse', not {loss!r}")
    if unknown := sizes.keys() - MODELS[model].keys():
        raise ValueError(f"sizes of {model!r} are {list(MODELS[model])}, not {sorted(unknown)}")
    _check(ds)
    est = ds[["spectrogram", "psth"]].isel(stim=ds["subset"].values == "est").compute()
    if est.sizes["stim"] < 2:
        raise ValueError(f"a fit needs two est sounds or more; ds has {est.sizes['stim']}")

    scaling = log_minmax(est["spectrogram"]).attrs
    counts = torch.tensor(est["psth"].transpose("stim", "neuron", "time").values).float()
    stopping = torch.tensor(_set_aside(est["stim"].values))
    mean_rate = counts[~stopping].nanmean((0, 2)).nan_to_num(0).clamp_min(1e-3)
    config = {
        "model": model,
        "prefilter": prefilter,
        "sizes": {**MODELS[model], **sizes},
        "seed": seed,
        "loss": loss,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "neurons": est["neuron"].values.tolist(),
        "freq": est["freq"].values.tolist(),
        "bin_s": _bin_s(est),
        "scaling": [scaling["scaling_offset"], scaling["scaling_range"]],
        "nat4xr_version": __version__,
        "fingerprint": _fingerprint(est),
        "simulated": int(ds.attrs.get("simulated", 0)),
    }
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    sounds = as_input(est["spectrogram"], config)
    fit_part = sounds[~stopping].to(where), counts[~stopping].to(where)
    stop_part = sounds[stopping].to(where), counts[stopping].to(where)
    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        training = _Training(_network(config, mean_rate).to(where), config)
        if checkpoint is not None and Path(checkpoint).exists():
            training.resume(Path(checkpoint))
        with tqdm(
            desc=f"{model}, seed {seed}",
            initial=len(training.losses),
            total=max_epochs,
            unit="epoch",
            disable=not progressbar,
        ) as bar:
            while not training.over(max_epochs, patience):
                training.one_epoch(fit_part, stop_part)
                n_epochs = len(training.losses)
                if checkpoint is not None and (
                    n_epochs % _CHECKPOINT_EPOCHS == 0 or training.over(max_epochs, patience)
                ):
                    training.save(Path(checkpoint))
                bar.set_postfix_str(f"loss {training.losses[-1][1]:.4f}", refresh=False)
                bar.update()
    training.network.load_state_dict(training.best)
    return Fitted(training.network.cpu().eval(), config, training.history())


def predict(fitted: Fitted, ds: xr.Dataset) -> xr.DataArray:
    """Predict the responses of the fitted cells to all sounds of a Dataset.

    Parameters
    ----------
    fitted : Fitted
        What :func:`fit` or :func:`load` returned.
    ds : xarray.Dataset
        As :func:`nat4xr.open_area` returns it, or a selection: with ``spectrogram`` (stim, freq,
        time), and ``psth`` (stim, time, neuron) for the labels of the cells.

    Returns
    -------
    xarray.DataArray
        Spikes per bin, dims (stim, time, neuron), float32, with every label of `ds`; its attrs
        name the model, and say whether simulated data were involved.

    Raises
    ------
    ValueError
        If `ds` lacks something, or has other frequency bands or time bins.
    KeyError
        If `ds` lacks a cell that was fitted.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
    >>> pred = nat4xr.models.predict(fitted, ds.sel(subset="val"))
    >>> dict(pred.sizes), bool((pred >= 0).all())
    ({'stim': 18, 'time': 150, 'neuron': 8}, True)
    """
    _check(ds)
    config = fitted.config
    if ds["freq"].values.tolist() != config["freq"] or _bin_s(ds) != config["bin_s"]:
        raise ValueError(
            f"{fitted.name} was fitted to other frequency bands or time bins than those of ds"
        )
    like = ds["psth"].sel(neuron=config["neurons"]).transpose("stim", "time", "neuron")
    sounds = as_input(ds["spectrogram"], config)
    with torch.inference_mode():
        rates = torch.cat([fitted.network(some) for some in torch.split(sounds, 32)])
    prediction = like.copy(data=rates.transpose(1, 2).numpy()).rename("prediction")
    prediction.attrs = {
        "long_name": f"spikes per bin predicted by {fitted.name}",
        "units": "1",
        "model": fitted.name,
        "seed": config["seed"],
        "nat4xr_version": config["nat4xr_version"],
        "fingerprint": config["fingerprint"],
        "simulated": max(config["simulated"], int(ds.attrs.get("simulated", 0))),
    }
    return prediction


def as_input(spectrogram: xr.DataArray, config: dict[str, Any]) -> Tensor:
    """The spectrogram, compressed and scaled, as networks take it (stim, 1, freq, time)."""
    offset, span = config["scaling"]
    compressed = np.log1p(spectrogram.transpose("stim", "freq", "time").values)
    return torch.tensor((compressed - offset) / span, dtype=torch.float32)[:, None]


class _Training:
    """A fit under way: all that has to be kept for it to go on after an interruption."""

    def __init__(self, network: Network, config: dict[str, Any]) -> None:
        self.network, self.config = network, config
        decaying = [*network.core.parameters(), *network.readout.parameters()]
        others = [*network.prefilter.parameters(), *network.output.parameters()]
        groups: list[dict[str, Any]] = [{"params": decaying}]
        groups.append({"params": others, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(
            groups, lr=config["learning_rate"], weight_decay=config["weight_decay"]
        )
        self.shuffle = torch.Generator().manual_seed(config["seed"])
        self.losses: list[tuple[float, float]] = []  # of each epoch: fit, stop
        self.best = deepcopy(network.state_dict())

    def over(self, max_epochs: int, patience: int) -> bool:
        return len(self.losses) >= max_epochs or self.n_waited >= patience

    @property
    def n_waited(self) -> int:
        """Epochs since the one with the smallest loss on the sounds set aside."""
        stop_losses = np.nan_to_num([stop for _, stop in self.losses], nan=np.inf)
        return len(stop_losses) - 1 - int(stop_losses.argmin()) if self.losses else 0

    def one_epoch(self, fit: tuple[Tensor, Tensor], stop: tuple[Tensor, Tensor]) -> None:
        sounds, counts = fit
        order = torch.randperm(len(sounds), generator=self.shuffle).to(sounds.device)
        total = torch.zeros((), device=sounds.device)
        self.network.train()
        for some in torch.split(order, self.config["batch_size"]):
            loss = masked_loss(self.network(sounds[some]), counts[some], self.config["loss"])
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), _MAX_GRADIENT)
            self.optimizer.step()
            total += loss.detach() * len(some)
        self.network.eval()
        with torch.no_grad():
            stop_loss = masked_loss(self.network(stop[0]), stop[1], self.config["loss"])
        self.losses.append((float(total) / len(sounds), float(stop_loss)))
        if not self.n_waited:
            self.best = deepcopy(self.network.state_dict())

    def history(self) -> xr.Dataset:
        fit_loss, stop_loss = zip(*self.losses, strict=True) if self.losses else ((), ())
        epoch = np.arange(1, len(self.losses) + 1)
        return xr.Dataset(
            {
                "fit_loss": ("epoch", list(fit_loss), {"long_name": "loss on the fitted sounds"}),
                "stop_loss": ("epoch", list(stop_loss), {"long_name": "loss on sounds set aside"}),
            },
            {"epoch": epoch},
            {"loss": self.config["loss"], "simulated": self.config["simulated"]},
        )

    def save(self, file: Path) -> None:
        state = {
            "config": json.dumps(self.config),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "best": self.best,
            "shuffle": self.shuffle.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        part = file.with_name(f"{file.name}.part")
        torch.save(state, part)
        part.replace(file)

    def resume(self, file: Path) -> None:
        state = torch.load(file, "cpu", weights_only=True)
        if state["config"] != json.dumps(self.config):
            raise ValueError(
                f"{file} is the checkpoint of a fit with other options or data: "
                "remove it, or name another file"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.best = state["losses"], state["best"]
        self.shuffle.set_state(state["shuffle"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"])


def masked_loss(rate: Tensor, counts: Tensor, kind: str) -> Tensor:
    """Mean loss over the bins that were recorded, those not NaN in counts."""
    recorded = ~counts.isnan()
    counts = counts.nan_to_num(0)
    each = rate - counts * (rate + 1e-6).log() if kind == "poisson" else (rate - counts) ** 2
    return (each * recorded).sum() / recorded.sum().clamp_min(1)


def _network(config: dict[str, Any], mean_rate: Tensor | None = None) -> Network:
    return Network(
        config["model"],
        config["prefilter"],
        torch.ones(len(config["neurons"])) if mean_rate is None else mean_rate,
        len(config["freq"]),
        config["bin_s"],
        **config["sizes"],
    )


def _check(ds: xr.Dataset) -> None:
    for name in ("spectrogram", "psth", "subset", "freq"):
        if name not in ds.variables:
            raise ValueError(f"ds must be as nat4xr.open_area returns it, but lacks {name!r}")


def _bin_s(ds: xr.Dataset) -> float:
    return float(np.diff(ds["time"].values[:2]).round(6)[0])


def _set_aside(names: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Which est sounds tell when to stop: the same ones whatever their order."""
    drawn = np.random.default_rng(0).permutation(np.sort(names))
    return np.isin(names, drawn[: max(1, round(_STOPPING_SHARE * names.size))])


def _fingerprint(est: xr.Dataset) -> str:
    n_spikes = float(est["psth"].sum(dtype=np.float64))
    names = [*est["neuron"].values.tolist(), *est["stim"].values.tolist()]
    return hashlib.sha256(json.dumps([names, n_spikes]).encode()).hexdigest()
