"""Kernels and receptive fields of fitted models, as labelled arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .fitted import Fitted, as_input
from .networks import AdapTrans

__all__ = ["adaptation", "dynamic_strf", "gradient_strf", "kernel", "strf_subspace"]

_GRADIENTS_AT_ONCE = 256


def kernel(fitted: Fitted) -> xr.DataArray:
    """Return the kernels of an LN model.

    Parameters
    ----------
    fitted : Fitted
        An LN model.

    Returns
    -------
    xarray.DataArray
        Dims (neuron, freq, lag), float32, with the lag in s. With AdapTrans, dims (neuron,
        polarity, freq, lag), where the polarity is ``"on"`` or ``"off"``. The unit is the input of
        the output nonlinearity per unit of the scaled spectrogram.

    Raises
    ------
    ValueError
        If the model is not an LN model. Use :func:`dynamic_strf` for other models.

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
        raise ValueError(f"only 'ln' has kernels: use dynamic_strf for {fitted.name!r}")
    weights = fitted.network.readout.kernel().detach().numpy()
    polarity = ["on", "off"] if config["prefilter"] == "adaptrans" else ["both"]
    kernels = _labelled(fitted, weights, ("neuron", "polarity", "freq", "lag"))
    kernels = kernels.assign_coords(neuron=config["neurons"], polarity=polarity)
    kernels.attrs["long_name"] = "kernel"
    return kernels if len(polarity) > 1 else kernels.squeeze("polarity", drop=True)


def gradient_strf(
    fitted: Fitted, ds: xr.Dataset, *, n_lags: int = 25, seed: int = 0
) -> xr.DataArray:
    r"""Average the gradient of the predicted rate over sounds, as a linear summary of a model.

    .. math:: k_i(f, l) = \left\langle \frac{\partial r_i(t)}{\partial s_f(t - l)} \right\rangle

    The average is over one time bin :math:`t` of each sound, which is drawn at random from the bins
    whose lags all lie within the sound. The receptive field changes with the sound, and opposite
    changes cancel in this average. :func:`dynamic_strf` returns the receptive field at each time.

    Parameters
    ----------
    fitted : Fitted
        Any model.
    ds : xarray.Dataset
        The sounds to average over, and the cells, all of which must have been fitted. The
        ``spectrogram`` (stim, freq, time) must have the frequency bands and the bin width of the
        fit. The function makes one backward pass through all sounds for each cell.
    n_lags : int, default: 25
        Length of the kernels in time bins; lag 0 is the present bin.
    seed : int, default: 0
        Seed of the random choice of time bins.

    Returns
    -------
    xarray.DataArray
        Dims (neuron, freq, lag), float32, with the lag in s and all labels of the cells in `ds`.
        The unit is spikes per bin per unit of the scaled spectrogram.

    Raises
    ------
    ValueError
        If `n_lags` is less than 1 or more than the number of time bins of a sound, or if a cell
        was not fitted.

    References
    ----------
    Keshishian M, Akbari H, Khalighinejad B, Herrero JL, Mehta AD, Mesgarani N (2020). Estimating
    and interpreting nonlinear receptive field of sensory neural responses with deep neural network
    models. eLife 9:e53445. doi:10.7554/eLife.53445.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "cnn1d", max_epochs=1, progressbar=False)
    >>> strfs = nat4xr.models.gradient_strf(fitted, ds.sel(subset="val", site="ARM019a"))
    >>> strfs.dims, strfs.sizes["lag"]
    (('neuron', 'freq', 'lag'), 25)
    """
    cells = _cells(fitted, ds, n_lags)
    n_stims, n_time = ds.sizes["stim"], ds.sizes["time"]
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
    kernels.attrs["long_name"] = "mean gradient of the predicted spikes per bin"
    return kernels


def dynamic_strf(fitted: Fitted, ds: xr.Dataset, *, n_lags: int = 25) -> xr.DataArray:
    r"""Compute the receptive field of each cell at each time, as the gradient of its rate.

    .. math:: k_i(t, f, l) = \frac{\partial r_i(t)}{\partial s_f(t - l)}

    Parameters
    ----------
    fitted : Fitted
        Any model.
    ds : xarray.Dataset
        The sounds, and the cells, all of which must have been fitted. The ``spectrogram`` (stim,
        freq, time) must have the frequency bands and the bin width of the fit. The function makes
        one backward pass for each cell, sound and time bin, so select few of them.
    n_lags : int, default: 25
        Length of the kernels in time bins; lag 0 is the present bin.

    Returns
    -------
    xarray.DataArray
        Dims (neuron, stim, time, freq, lag), float32, with the lag in s and all labels of `ds`.
        The unit is spikes per bin per unit of the scaled spectrogram. Lags that reach before the
        first bin of a sound are NaN.

    Raises
    ------
    ValueError
        If `n_lags` is less than 1 or more than the number of time bins of a sound, or if a cell
        was not fitted.

    References
    ----------
    Keshishian M, Akbari H, Khalighinejad B, Herrero JL, Mehta AD, Mesgarani N (2020). Estimating
    and interpreting nonlinear receptive field of sensory neural responses with deep neural network
    models. eLife 9:e53445. doi:10.7554/eLife.53445

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "cnn1dx2", max_epochs=1, progressbar=False)
    >>> few = ds.sel(subset="val").isel(stim=[0], neuron=[3])
    >>> strfs = nat4xr.models.dynamic_strf(fitted, few)
    >>> strfs.dims
    ('neuron', 'stim', 'time', 'freq', 'lag')
    """
    cells = _cells(fitted, ds, n_lags)
    n_time = ds.sizes["time"]

    def rates(sound: Tensor) -> Tensor:
        predicted: Tensor = fitted.network(sound[None, None])[0, cells]
        return predicted

    gradients = torch.func.jacrev(rates, chunk_size=_GRADIENTS_AT_ONCE)
    time = torch.arange(n_time)[:, None]
    past = time - torch.arange(n_lags)
    strfs = np.empty((len(cells), ds.sizes["stim"], n_time, ds.sizes["freq"], n_lags), np.float32)
    with _batched_gradients():
        for i, sound in enumerate(as_input(ds["spectrogram"], fitted.config)[:, 0]):
            jacobian = gradients(sound).detach()  # (cell, time, freq, time of the sound)
            lagged = jacobian[:, time, :, past.clamp_min(0)]  # (time, lag, cell, freq)
            lagged[past < 0] = torch.nan
            strfs[:, i] = lagged.permute(2, 0, 3, 1)
    dims = ("neuron", "stim", "time", "freq", "lag")
    kernels = _labelled(fitted, strfs, dims).assign_coords(ds["psth"].coords)
    kernels.attrs["long_name"] = "gradient of the predicted spikes per bin"
    return kernels


@contextmanager
def _batched_gradients() -> Iterator[None]:
    """Use only implementations of layers whose gradients torch.func can batch, to save time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop|TF32 acceleration")
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield


def strf_subspace(strfs: xr.DataArray, *, n_components: int = 5) -> xr.Dataset:
    """Find the principal components of the dynamic STRFs of each cell.

    The components are computed over all sounds and times, without subtracting the mean, so that
    the receptive fields of an LN model have a single component.

    Parameters
    ----------
    strfs : xarray.DataArray
        What :func:`dynamic_strf` returns (neuron, stim, time, freq, lag), or a selection of it.
        Time bins that contain NaN are left out.
    n_components : int, default: 5
        Number of components.

    Returns
    -------
    xarray.Dataset
        Two float32 variables with the labels of the cells. Components are numbered from 1.

        - ``kernel`` (neuron, component, freq, lag): the components. The sum of squares of each
          component is 1, and its sign is such that it contributes positively to the mean STRF.
        - ``variance_explained`` (neuron, component): the fraction of the sum of squares of all
          dynamic STRFs that lies along the component.

    Raises
    ------
    ValueError
        If a dim is missing, if all time bins contain NaN, or if `n_components` is less than 1, or
        more than the number of bands times lags or the number of time bins.

    References
    ----------
    Wingert JC, Parida S, Norman-Haignere SV, David SV (2026). Convolutional neural network models
    describe the encoding subspace of local circuits in auditory cortex. Nat. Neurosci.
    doi:10.1038/s41593-026-02216-0

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> fitted = nat4xr.models.fit(ds, "ln", max_epochs=1, progressbar=False)
    >>> few = ds.sel(subset="val").isel(stim=[0], neuron=[3])
    >>> subspace = nat4xr.models.strf_subspace(nat4xr.models.dynamic_strf(fitted, few))
    >>> subspace["variance_explained"].values.round(3)[0, :2].tolist()
    [1.0, 0.0]
    """
    dims = ("neuron", "stim", "time", "freq", "lag")
    if missing := sorted(set(dims) - set(strfs.dims)):
        raise ValueError(f"strfs needs the dims {dims}, but lacks {missing}")
    strfs = strfs.transpose(*dims)
    values = strfs.values.reshape(
        strfs.sizes["neuron"], -1, strfs.sizes["freq"] * strfs.sizes["lag"]
    )
    values = values[:, ~np.isnan(values).any((0, 2))].astype(np.float64)
    most = min(values.shape[1:])
    if most == 0:
        raise ValueError(f"no time bin has all {strfs.sizes['lag']} lags")
    if not 1 <= n_components <= most:
        raise ValueError(f"n_components must be from 1 to {most}, not {n_components}")
    squares, components = np.linalg.eigh(values.transpose(0, 2, 1) @ values)  # ascending
    squares, components = squares[:, ::-1], components[:, :, ::-1].transpose(0, 2, 1)
    total = squares.sum(1, keepdims=True)
    components = components[:, :n_components]
    signs = np.sign(np.einsum("ncp,np->nc", components, values.mean(1)))
    components = components * np.where(signs < 0, -1, 1)[..., None]
    shape = (-1, n_components, strfs.sizes["freq"], strfs.sizes["lag"])
    share = (squares / np.where(total > 0, total, 1))[:, :n_components].clip(0)
    coords = strfs.isel(stim=0, time=0, drop=True).coords
    return xr.Dataset(
        {
            "kernel": (
                ("neuron", "component", "freq", "lag"),
                components.reshape(shape).astype(np.float32),
                {"long_name": "principal component of dynamic STRFs"},
            ),
            "variance_explained": (
                ("neuron", "component"),
                share.astype(np.float32),
                {"long_name": "share of the sum of squares"},
            ),
        },
        coords,
        {name: strfs.attrs[name] for name in ("model", "simulated") if name in strfs.attrs},
    ).assign_coords(component=np.arange(1, n_components + 1))


def adaptation(fitted: Fitted) -> xr.Dataset:
    """Return the fitted parameters of AdapTrans.

    Parameters
    ----------
    fitted : Fitted
        A model with AdapTrans as its front end.

    Returns
    -------
    xarray.Dataset
        Two float32 variables: ``tau`` (polarity, freq), the time constants of ``"on"`` and
        ``"off"`` in s, and ``weight`` (freq), from 0 to 1.

    Raises
    ------
    ValueError
        If the front end of the model is not AdapTrans.

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
        raise ValueError(f"the front end of {fitted.name} is not AdapTrans")
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


def _cells(fitted: Fitted, ds: xr.Dataset, n_lags: int) -> list[int]:
    """Return the outputs of the network that belong to the cells of a Dataset."""
    n_time = ds.sizes["time"]
    if not 1 <= n_lags <= n_time:
        raise ValueError(f"n_lags must be from 1 to the {n_time} time bins, not {n_lags}")
    output = {name: i for i, name in enumerate(fitted.config["neurons"])}
    names = ds["neuron"].values.tolist()
    if unknown := [name for name in names if name not in output]:
        raise ValueError(f"{fitted.name} was not fitted to {unknown[0]!r}")
    return [output[name] for name in names]


def _labelled(fitted: Fitted, values: np.ndarray, dims: tuple[str, ...]) -> xr.DataArray:
    config = fitted.config
    lag = np.round(np.arange(values.shape[-1]) * config["bin_s"], 6)
    coords = {
        "freq": ("freq", config["freq"], {"long_name": "centre frequency", "units": "Hz"}),
        "lag": ("lag", lag, {"long_name": "time since the input", "units": "s"}),
    }
    attrs = {"model": fitted.name, "simulated": config["simulated"]}
    return xr.DataArray(values, coords, dims, "kernel", attrs)
