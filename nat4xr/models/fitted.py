"""Fitted models: predict with them, save them and load them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import xarray as xr
from torch import Tensor, nn

from ..io.writing import expanded, written
from .networks import Network

__all__ = ["Fitted", "load", "predict"]

_BATCH_SIZE = 32  # sounds per batch


@dataclass(frozen=True, repr=False)
class Fitted:
    """A fitted model, as :func:`fit` and :func:`load` return it.

    Attributes
    ----------
    network : torch.nn.Module
        A :class:`Network`, or a copy of your own module if you passed one to :func:`fit`. It is on
        the CPU and in evaluation mode.
    config : dict
        The model and its options, the names of the cells, the scaling of the spectrogram, the
        package version, the fingerprint of the data, and whether the data were simulated.
    history : xarray.Dataset
        The learning curve: ``fit_loss`` (epoch), the loss on the fitted sounds, and ``stop_loss``
        (epoch), the loss on the sounds set aside, both float64. The coordinates are
        ``learning_rate`` (epoch) and ``part`` (epoch), the part of the network that learns:
        ``"all"`` or ``"readout"``.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
    >>> fitted.name, fitted.config["loss"], fitted.history.sizes["epoch"]
    ('ln', 'mse', 1)
    """

    network: Any
    config: dict[str, Any]
    history: xr.Dataset

    def __repr__(self) -> str:
        config, history = self.config, self.history
        n_parameters = sum(p.numel() for p in self.network.parameters())
        area = f"{config['area']} cells" if config["area"] else "cells"
        simulated = " (SIMULATED data)" if config["simulated"] else ""
        outcome = "not trained"
        if history.sizes["epoch"]:
            best = float(history["stop_loss"].min())
            outcome = f"{history.sizes['epoch']} epochs; {config['loss']} {best:.4g} on sounds"
            outcome += " set aside"
        return (
            f"<nat4xr.models.Fitted {self.name}: {n_parameters:,} parameters>\n"
            f"{len(config['neurons'])} {area}, {config['n_stims']} est sounds{simulated}\n"
            f"recipe {config['recipe']!r}, seed {config['seed']}, {outcome}"
        )

    @property
    def name(self) -> str:
        """The names of the model and of its front end, such as ``"statenet+adaptrans"``."""
        return "+".join(filter(None, [self.config["model"], self.config["prefilter"]]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, configuration and learning curve into a safetensors file.

        Parameters
        ----------
        path : path-like
            The file to write. If it exists, it is replaced. Its folder must exist.

        Examples
        --------
        >>> import nat4xr
        >>> ds = nat4xr.open_area("PEG")
        >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
        >>> fitted.save("ln.safetensors")
        >>> nat4xr.models.load("ln.safetensors").name
        'ln'
        """
        about = json.dumps({"config": self.config, "history": self.history.to_dict()})
        weights = self.network.state_dict()
        metadata = {"nat4xr": about, "sha256": checksum(weights, about)}
        with written(path) as part:
            part.write_bytes(safetensors.torch.save(weights, metadata))


def load(path: str | os.PathLike[str], network: nn.Module | None = None) -> Fitted:
    """Read a fitted model that :meth:`Fitted.save` wrote.

    Parameters
    ----------
    path : path-like
        The file to read.
    network : torch.nn.Module, optional
        If you fitted your own module, a module of the same sizes. It is copied.

    Returns
    -------
    Fitted
        The saved model, which makes the same predictions as before.

    Raises
    ------
    ValueError
        If the file is damaged, if it does not come from :meth:`Fitted.save`, or if its weights do
        not fit into `network`.
    FileNotFoundError
        If the file does not exist.

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
    content = expanded(path).read_bytes()
    try:
        weights = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged, or is not a safetensors file: {error}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__", {})
    if "nat4xr" not in metadata:
        raise ValueError(f"{path} does not contain a model that nat4xr has saved")
    if metadata.get("sha256") != checksum(weights, metadata["nat4xr"]):
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    about = json.loads(metadata["nat4xr"])
    config = about["config"]
    if config["sizes"] is not None:
        network = network_of(config, torch.ones(len(config["neurons"])))
    elif network is None:
        raise ValueError(
            f"{path} contains the weights of your own module {config['model']}: pass such a "
            f"module too, load(path, {config['model']}(...))"
        )
    else:
        network = deepcopy(network)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit into this module: {error}") from error
    return Fitted(network.cpu().eval(), config, xr.Dataset.from_dict(about["history"]))


def predict(fitted: Fitted, ds: xr.Dataset) -> xr.DataArray:
    """Predict the responses of the fitted cells to all sounds of a Dataset.

    Cells of `ds` that the model was not fitted to are left out, with a warning.

    Parameters
    ----------
    fitted : Fitted
        What :func:`fit` or :func:`load` returned.
    ds : xarray.Dataset
        What :func:`nat4xr.open_area` returns, or a selection of it. It needs ``spectrogram``
        (stim, freq, time), and ``psth`` (stim, time, neuron) for the labels of the cells.

    Returns
    -------
    xarray.DataArray
        Spikes per bin, dims (stim, time, neuron), float32, with all labels of `ds`. The attrs
        contain the name of the model, and whether any of the data were simulated.

    Raises
    ------
    ValueError
        If `ds` lacks a variable, has other frequency bands or time bins than the fit, or has none
        of the cells that the model was fitted to. To predict other cells, first fit read-outs to
        them: ``fit(ds, init=fitted, freeze="core")``.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
    >>> pred = nat4xr.models.predict(fitted, ds.sel(subset="val"))
    >>> dict(pred.sizes), bool((pred >= 0).all())
    ({'stim': 18, 'time': 150, 'neuron': 8}, True)
    """
    check(ds)
    config = fitted.config
    if ds["freq"].values.tolist() != config["freq"] or bin_s(ds) != config["bin_s"]:
        raise ValueError(
            f"{fitted.name} was fitted to other frequency bands or time bins than those of ds"
        )
    output = {name: i for i, name in enumerate(config["neurons"])}
    is_fitted = np.array([name in output for name in ds["neuron"].values.tolist()], bool)
    if not is_fitted.all():
        other = ds["neuron"].values[~is_fitted]
        message = (
            f"{fitted.name} was not fitted to {other.size} of {is_fitted.size} cells "
            f"({other[0]}, ...). To predict them, fit read-outs to them: "
            "nat4xr.models.fit(ds, init=fitted, freeze='core')"
        )
        if not is_fitted.any():
            raise ValueError(message)
        warnings.warn(f"{message}. They are left out.", UserWarning, stacklevel=2)
    like = ds["psth"].isel(neuron=is_fitted).transpose("stim", "time", "neuron")
    outputs = [output[name] for name in like["neuron"].values.tolist()]
    rates = in_batches(fitted.network, as_input(ds["spectrogram"], config))[:, outputs]
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


# --- functions that `fit` also uses ------------------------------------------------------------


def network_of(config: dict[str, Any], mean_rate: Tensor) -> Network:
    return Network(
        config["model"],
        config["prefilter"],
        mean_rate,
        len(config["freq"]),
        config["bin_s"],
        **config["sizes"],
    )


def in_batches(network: nn.Module, inputs: Tensor) -> Tensor:
    """Compute the output of a network in evaluation mode, without gradients."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(batch) for batch in torch.split(inputs, _BATCH_SIZE)])


def as_input(spectrogram: xr.DataArray, config: dict[str, Any]) -> Tensor:
    """Compress and scale the spectrogram to the input of a network, (stim, 1, freq, time)."""
    scaling = config["scaling"]
    offset, span = (np.array(scaling[name])[:, None] for name in ("offset", "range"))
    values = spectrogram.transpose("stim", "freq", "time").values
    compressed = np.log1p(scaling["gain"] * values)
    return torch.tensor((compressed - offset) / span, dtype=torch.float32)[:, None]


def check(ds: xr.Dataset) -> None:
    if not isinstance(ds, xr.Dataset):
        raise TypeError(
            "ds must be a Dataset as nat4xr.open_area returns it, not of the type "
            f"{type(ds).__name__}"
        )
    for name in ("spectrogram", "psth", "subset", "freq"):
        if name not in ds.variables:
            raise ValueError(
                f"ds must be a Dataset as nat4xr.open_area returns it, but it lacks {name!r}"
            )
    for dim in ("stim", "time", "freq"):
        if dim not in ds["spectrogram"].dims:
            raise ValueError(f"the spectrogram of ds has no dim {dim!r}: select {dim} by a list")
    if ds.sizes["time"] < 2:
        raise ValueError("ds has a single time bin, so its bin width is not known")


def bin_s(ds: xr.Dataset) -> float:
    return float(np.diff(ds["time"].values[:2]).round(6)[0])


def checksum(weights: Mapping[str, Tensor], about: str = "") -> str:
    content = safetensors.torch.save({name: weights[name].contiguous() for name in weights})
    return hashlib.sha256(content + about.encode()).hexdigest()
