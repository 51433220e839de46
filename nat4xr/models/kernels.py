"""What a fitted model has learnt, as labelled arrays that :mod:`nat4xr.plot` draws."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from .fitted import Fitted, as_input
from .networks import AdapTrans

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
        ``"on"`` and ``"off"``. float32, before the nonlinearity, per unit of the scaled
        spectrogram.

    Raises
    ------
    ValueError
        For other models, which have none: :func:`gradient_strf` is for all.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
    >>> dict(nat4xr.models.kernel(fitted).sizes)
    {'neuron': 8, 'freq': 18, 'lag': 25}
    """
    config = fitted.config
    if config["model"] != "ln":
        raise ValueError(f"only 'ln' has kernels; for {fitted.name!r} there is gradient_strf")
    weights = fitted.network.readout.kernel().detach().numpy()
    polarity = ["on", "off"] if config["prefilter"] == "adaptrans" else ["both"]
    kernels = _labelled(fitted, weights, ("neuron", "polarity", "freq", "lag"))
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
        a backward pass through all sounds for each cell. Its ``spectrogram`` (stim, freq, time)
        has the frequency bands and the bin width of the fit.
    n_lags : int, default: 25
        Length of the kernels in time bins; lag 0 is the present bin.
    seed : int, default: 0
        Seed of the times.

    Returns
    -------
    xarray.DataArray
        Dims (neuron, freq, lag), lag in s; spikes per bin per unit of the scaled spectrogram,
        float32, with every label of the cells in `ds`.

    Raises
    ------
    ValueError
        If `n_lags` is less than 1 or more than the time bins of a sound, or a cell was not fitted.

    References
    ----------
    Keshishian M, Akbari H, Khalighinejad B, Herrero JL, Mehta AD, Mesgarani N (2020). Estimating
    and interpreting nonlinear receptive field of sensory neural responses with deep neural network
    models. eLife 9:e53445. doi:10.7554/eLife.53445. There the receptive field of each time is
    looked at, here their mean.

    Rançon U, Masquelier T, Cottereau BR (2025). Temporal recurrence as a general mechanism to
    explain neural responses in the auditory system. Commun. Biol. 8:1456.
    doi:10.1038/s42003-025-08858-3. There the gradient is that in silence.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "statenet", max_epochs=1, progressbar=False)
    >>> strfs = nat4xr.models.gradient_strf(fitted, ds.sel(subset="val", site="ARM019a"))
    >>> strfs.dims, strfs.sizes["lag"]
    (('neuron', 'freq', 'lag'), 25)
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
        ``tau`` (polarity, freq), the time constants in s of ``"on"`` and ``"off"``, and ``weight``
        (freq), from 0 to 1; float32.

    Raises
    ------
    ValueError
        If there is no AdapTrans in front.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", "adaptrans", max_epochs=1, progressbar=False)
    >>> nat4xr.models.adaptation(fitted)["tau"].dims
    ('polarity', 'freq')
    """
    front = fitted.network.prefilter
    if not isinstance(front, AdapTrans):
        raise ValueError(f"{fitted.name} has no AdapTrans in front")
    tau, weight = front.tau().detach().numpy(), front.weight().detach().numpy()
    freq = ("freq", fitted.config["freq"], {"long_name": "centre frequency", "units": "Hz"})
    return xr.Dataset(
        {
            "tau": (("polarity", "freq"), tau, {"long_name": "time constant", "units": "s"}),
            "weight": ("freq", weight, {"long_name": "weight of past (ON) or present (OFF)"}),
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
