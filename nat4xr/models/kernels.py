"""What a fitted model has learnt, as labelled arrays that :mod:`nat4xr.plot` draws."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from .networks import AdapTrans, Readout, SeparableReadout
from .training import Fitted, as_input

__all__ = ["adaptation", "gradient_strf", "kernel"]


def kernel(fitted: Fitted) -> xr.DataArray:
    """The kernels of an LN model.

    Parameters
    ----------
    fitted : Fitted
        An LN model.

    Returns
    -------
    xarray.DataArray
        Dims (neuron, freq, lag), lag in s; with AdapTrans (neuron, polarity, freq, lag), polarity
        ``"on"`` and ``"off"``. Per unit of the scaled spectrogram, before the softplus.

    Raises
    ------
    ValueError
        For other models, which have none: :func:`gradient_strf` is for all.
    """
    config = fitted.config
    if config["model"] != "ln":
        raise ValueError(f"only 'ln' has kernels; for {fitted.name!r} there is gradient_strf")
    readout: Readout | SeparableReadout = fitted.network.readout
    weights = readout.kernel().detach().numpy()
    polarity = ["on", "off"] if config["prefilter"] == "adaptrans" else ["both"]
    shape = len(weights), len(polarity), len(config["freq"]), weights.shape[-1]
    kernels = _labelled(fitted, weights.reshape(shape), ("neuron", "polarity", "freq", "lag"))
    kernels = kernels.assign_coords(neuron=config["neurons"], polarity=polarity)
    kernels.attrs["long_name"] = "kernel"
    return kernels if len(polarity) > 1 else kernels.squeeze("polarity", drop=True)


def gradient_strf(
    fitted: Fitted, ds: xr.Dataset, *, n_lags: int = 25, seed: int = 0
) -> xr.DataArray:
    r"""What a small change of the spectrogram does to the predicted rate, on average.

    .. math:: k_i(f, l) = \left\langle \frac{\partial r_i(t)}{\partial s_f(t - l)} \right\rangle

    over one time :math:`t` of each sound, drawn at random from those with `n_lags` bins of past:
    the linear model that is nearest to the fitted one, for these sounds.

    Parameters
    ----------
    fitted : Fitted
        Any model.
    ds : xarray.Dataset
        The sounds to average over, and the cells: all or some of those that were fitted. It takes
        a backward pass through all sounds for each cell.
    n_lags : int, default: 25
        Length of the kernels in time bins; lag 0 is the present bin.
    seed : int, default: 0
        Seed of the times.

    Returns
    -------
    xarray.DataArray
        Dims (neuron, freq, lag), lag in s; spikes per bin per unit of the scaled spectrogram.

    Raises
    ------
    ValueError
        If the sounds are shorter than `n_lags`, or a cell was not fitted.
    """
    n_stims, n_time = ds.sizes["stim"], ds.sizes["time"]
    if not 1 <= n_lags <= n_time:
        raise ValueError(f"n_lags must be from 1 to the {n_time} time bins, not {n_lags}")
    unknown = set(ds["neuron"].values.tolist()) - set(fitted.config["neurons"])
    if unknown:
        raise ValueError(f"{fitted.name} was not fitted to {sorted(unknown)[0]!r}")
    cells = [fitted.config["neurons"].index(name) for name in ds["neuron"].values]

    sounds = as_input(ds["spectrogram"], fitted.config).requires_grad_()
    stim = torch.arange(n_stims)
    time = torch.tensor(np.random.default_rng(seed).integers(n_lags - 1, n_time, n_stims))
    rates = fitted.network(sounds)[stim, :, time]
    lagged = time[:, None] - torch.arange(n_lags)
    strfs = []
    for cell in cells:
        (gradient,) = torch.autograd.grad(rates[:, cell].sum(), sounds, retain_graph=True)
        strfs.append(gradient[stim[:, None], 0, :, lagged].mean(0).T)  # (freq, lag)
    kernels = _labelled(fitted, torch.stack(strfs).numpy(), ("neuron", "freq", "lag"))
    kernels = kernels.assign_coords(ds["psth"].isel(stim=0, time=0, drop=True).coords)
    kernels.attrs["long_name"] = "gradient of the predicted spikes per bin"
    return kernels


def adaptation(fitted: Fitted) -> xr.Dataset:
    """The parameters of AdapTrans.

    Parameters
    ----------
    fitted : Fitted
        A model with AdapTrans in front.

    Returns
    -------
    xarray.Dataset
        ``tau`` (freq), the time constant in s, and ``weight`` (polarity, freq), from 0 to 1.

    Raises
    ------
    ValueError
        If there is no AdapTrans in front.
    """
    front = fitted.network.prefilter
    if not isinstance(front, AdapTrans):
        raise ValueError(f"{fitted.name} has no AdapTrans in front")
    tau = front.log_tau.exp().detach().numpy()
    weight = front.weight_logit.sigmoid().detach().numpy()
    freq = ("freq", fitted.config["freq"], {"long_name": "centre frequency", "units": "Hz"})
    return xr.Dataset(
        {
            "tau": ("freq", tau, {"long_name": "time constant of adaptation", "units": "s"}),
            "weight": (("polarity", "freq"), weight, {"long_name": "weight of the recent past"}),
        },
        {"freq": freq, "polarity": ["on", "off"]},
        {"model": fitted.name, "simulated": fitted.config["simulated"]},
    )


def _labelled(fitted: Fitted, values: np.ndarray, dims: tuple[str, ...]) -> xr.DataArray:
    config = fitted.config
    lag = np.round(np.arange(values.shape[-1]) * config["bin_s"], 6)
    coords = {
        "freq": ("freq", config["freq"], {"long_name": "centre frequency", "units": "Hz"}),
        "lag": ("lag", lag, {"long_name": "time since the input", "units": "s"}),
    }
    attrs = {"model": fitted.name, "simulated": config["simulated"]}
    return xr.DataArray(values, coords, dims, "kernel", attrs)
