"""What cells have to do with each other, and when each begins to respond.

Functions of labelled responses that return labelled values: of each pair of cells, of each cell.
"""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .schema import simulated_attr

__all__ = ["latency", "pairs"]

Array = NDArray[Any]

# The labels that cells of a site have in common.
_SITE_LABELS = ("site", "area", "animal", "session", "recording")

# A rise by less than so many standard deviations of the bins before the sound is no response.
_MIN_RISE = 3


def pairs(response: xr.DataArray) -> xr.Dataset:
    r"""Signal and noise correlation of each two cells that were recorded at the same time.

    Cells are paired within a site, never across sites. Of the trials of a site those count that
    all of its cells have whole, and of the sounds those with two such trials or more.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, dims rep, neuron, and stim and time where there are several; NaN where there
        was no presentation. With a coordinate ``site`` along ``neuron``.

    Returns
    -------
    xarray.Dataset
        Dim pair, lazy where `response` is:

        - ``noise_correlation`` (float64): over trials, of the spikes in all time bins given, less
          their mean over the trials of the same sound.
        - ``signal_correlation`` (float64): over sounds and time bins, of the responses without
          noise. NaN where a cell has no more signal power than noise explains.
        - ``n_trials`` (int64): the trials that count.

        Each label of the cells is there twice, ``neuron_1`` and ``neuron_2``; those of their
        site, ``site``, ``area``, ``animal``, ``session`` and ``recording``, once. Both correlations
        are NaN where a cell has no trials.

    Raises
    ------
    ValueError
        If a dim is missing or too many, or there is no ``site``.

    Notes
    -----
    With :math:`r_{isn}(t)` the response of cell :math:`i` in trial :math:`n` of the :math:`N_s` of
    sound :math:`s`, :math:`y_{is}(t)` its mean over trials, and :math:`c_{isn}` the sum over time
    of :math:`r_{isn} - y_{is}`, the noise correlation is

    .. math:: \frac{C_{ij}}{\sqrt{C_{ii} C_{jj}}}, \qquad C_{ij} = \sum_{s,n} c_{isn} c_{jsn}

    Its standard error is about :math:`1 / \sqrt{\sum_s (N_s - 1)}`, 0.05 for 18 sounds of 20
    trials. Poisson noise, which cells do not share, lowers it, most where there are few spikes:
    compare it between cells of similar rates and windows of one length only.

    The signal correlation is the same fraction with the covariance of :math:`y_{is}(t)` over sounds
    and bins, less the part of it that is noise. The noise in :math:`y_{is}(t)` has the covariance
    of the trials over :math:`N_s`; this is also how `nat4xr.metrics.signal_power` takes it off a
    variance. The estimate is not biased by noise correlations, as that of the plain averages is,
    and can exceed 1 in cells of little signal.

    A Dask array is computed site by site.

    References
    ----------
    Cohen MR, Kohn A (2011). Measuring and interpreting neuronal correlations. Nat. Neurosci.
    14:811-819. doi:10.1038/nn.2842

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("A1", subset="val").sel(auditory=True)
    >>> both = nat4xr.pairs(ds.response)
    >>> both.neuron_1.values.tolist()[:3], both.neuron_2.values.tolist()[:3]
    (['ARM029a-04-1', 'ARM029a-04-1', 'ARM029a-07-6'],
     ['ARM029a-07-6', 'ARM029a-07-7', 'ARM029a-07-7'])
    >>> by_site = both.noise_correlation.groupby("site").mean().compute()
    >>> by_site.site.values.tolist()
    ['ARM029a', 'CRD016d', 'DRX006b', 'TNC013a', 'TNC018a']

    Correlations of a part of the trial, here of the onset of the sound:

    >>> onset = nat4xr.pairs(ds.response.sel(time=slice(0.25, 0.35)))
    """
    response = _with_dims(response)
    if "site" not in response.coords or response["site"].dims != ("neuron",):
        raise ValueError(
            "pairs needs a coordinate 'site' along neuron, to tell which cells were recorded at "
            "the same time; nat4xr.set_labels(response, like=ds) gives one"
        )
    sites = response["site"].values
    named = dict.fromkeys(sites[sites != ""].tolist())
    if not named:
        raise ValueError("pairs needs cells whose site is known; response has none")
    cells = [np.flatnonzero(sites == site) for site in named]
    both = np.concatenate(
        [members[np.array(np.triu_indices(members.size, 1))] for members in cells], 1
    )
    result = xr.concat([_pairs_of_site(response.isel(neuron=members)) for members in cells], "pair")
    result = result.assign_coords(_labels_of_pairs(response, *both))
    for name, text in _LONG_NAMES.items():
        result[name].attrs = {"long_name": text, "units": "1"}
    result.attrs = simulated_attr(response)
    return result


_LONG_NAMES = {
    "noise_correlation": "noise correlation of spike counts",
    "signal_correlation": "signal correlation, noise taken off",
    "n_trials": "trials that both cells have",
}


def _with_dims(response: xr.DataArray) -> xr.DataArray:
    """Add the dims along which there is one element, and check the others."""
    if not isinstance(response, xr.DataArray):
        raise TypeError(f"response must be an xarray.DataArray, not {type(response).__name__}")
    single = [dim for dim in ("stim", "time") if dim not in response.dims]
    response = response.expand_dims(single)
    dims = ("stim", "rep", "time", "neuron")
    if set(response.dims) != set(dims):
        raise ValueError(
            f"response needs rep and neuron, and may have stim and time, not {response.dims}"
        )
    return response.transpose(*dims)


def _pairs_of_site(response: xr.DataArray) -> xr.Dataset:
    bare = response.drop_vars(list(response.coords))
    n_pairs = comb(response.sizes["neuron"], 2)
    noise, signal, n_trials = xr.apply_ufunc(
        _correlate_cells,
        bare,
        input_core_dims=[["stim", "rep", "time", "neuron"]],
        output_core_dims=[["pair"]] * 3,
        dask="parallelized",
        output_dtypes=[float, float, int],
        dask_gufunc_kwargs={"allow_rechunk": True, "output_sizes": {"pair": n_pairs}},
    )
    return xr.Dataset(
        {"noise_correlation": noise, "signal_correlation": signal, "n_trials": n_trials}
    )


def _correlate_cells(response: Array) -> tuple[Array, Array, Array]:
    """Noise and signal correlation, and trials, of each two cells (stim, rep, time, neuron)."""
    n_cells, n_bins = response.shape[-1], response.shape[2]
    whole = ~np.any(np.isnan(response), axis=2)  # stim, rep, neuron
    recorded: Array = np.any(whole, axis=(0, 1))
    shared: Array = np.all(whole[:, :, recorded], axis=2)
    noise = np.zeros((n_cells, n_cells))  # of counts
    noise_of_means = np.zeros((n_cells, n_cells))
    means, n_trials = [np.zeros((0, n_cells))], 0
    enough = np.flatnonzero(shared.sum(1) >= 2)
    for stim in enough:
        trials = response[stim, shared[stim]].astype(np.float64)
        n = len(trials)
        mean = trials.mean(0)
        bins = (trials - mean).reshape(-1, n_cells)
        counts = (trials - mean).sum(1)
        noise += counts.T @ counts
        # What the noise of bins adds to the scatter of the means, and what it adds to their mean.
        noise_of_means += bins.T @ bins / (n - 1) / n
        noise_of_means -= counts.T @ counts / (n - 1) / n / (n_bins * enough.size)
        means.append(mean)
        n_trials += n
    signal = np.concatenate(means)
    signal = signal - signal.mean(0) if len(signal) else signal
    one, other = np.triu_indices(n_cells, 1)
    both = recorded[one] & recorded[other]
    return (
        _normalised(noise)[one, other],
        _normalised(signal.T @ signal - noise_of_means)[one, other],
        np.where(both, n_trials, 0),
    )


def _normalised(covariance: Array) -> Array:
    """Correlations; NaN where a variance is not positive."""
    variance = covariance.diagonal()
    scale = np.sqrt(np.where(variance > 0, variance, np.nan))
    return np.asarray(covariance / np.outer(scale, scale))


def _labels_of_pairs(response: xr.DataArray, one: Array, other: Array) -> dict[str, xr.Variable]:
    labels = {}
    for name, coord in response.coords.items():
        if coord.dims != ("neuron",):
            continue
        if name in _SITE_LABELS:
            labels[str(name)] = xr.Variable("pair", coord.values[one], coord.attrs)
            continue
        for suffix, cells in (("1", one), ("2", other)):
            labels[f"{name}_{suffix}"] = xr.Variable("pair", coord.values[cells], coord.attrs)
    return labels


def latency(response: xr.DataArray, *, window_s: float = 0.1) -> xr.DataArray:
    r"""How long after a sound begins each cell begins to respond.

    The rate of a cell, averaged over sounds and trials, rises above its mean before the sound. The
    latency is the time from sound onset to the first bin that reaches half of the highest rise
    within the window.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin or rates, with dim time, and stim, rep and neuron where there are several.
        ``time.attrs["sound_on"]`` tells when sounds begin.
    window_s : float, default: 0.1
        How long after sound onset to look for the response, in s.

    Returns
    -------
    xarray.DataArray
        Latency in s, float64, dims (neuron), lazy where `response` is. It is that of the left edge
        of the bin: a spike is up to a bin width later. NaN where no bin of the window is above the
        mean before the sound by 3 standard deviations of the bins before it.

    Raises
    ------
    ValueError
        If there is no ``time`` coordinate, or no bin before or after the sound begins.

    Notes
    -----
    Bins of 10 ms tell fast cells from slow ones, but no more. For finer latencies open with
    ``dt_ms=2``, and average over all val sounds at least.

    Examples
    --------
    >>> import nat4xr
    >>> val = nat4xr.open_area("A1", subset="val").sel(auditory=True)
    >>> latency = nat4xr.latency(val.response).compute()
    >>> bool(0.01 <= latency.median() <= 0.05)
    True
    """
    if not isinstance(response, xr.DataArray):
        raise TypeError(f"response must be an xarray.DataArray, not {type(response).__name__}")
    if "time" not in response.dims or "time" not in response.coords:
        raise ValueError("latency needs a dim 'time' with its coordinate")
    averaged = [dim for dim in ("stim", "rep") if dim in response.dims]
    n_trials = response.count(averaged)
    rate = response.sum(averaged) / n_trials.where(n_trials > 0)
    time = response["time"]
    since = (time - time.attrs.get("sound_on", np.nan)).drop_attrs()
    half_bin = float(time.diff("time").median()) / 2 if time.size > 1 else 0.0
    before = (since < -half_bin).values
    within = ((since >= -half_bin) & (since < window_s - half_bin)).values
    if not before.any() or not within.any():
        raise ValueError(
            "latency needs times before and after sound onset, which is read from "
            "response.time.attrs['sound_on']"
        )
    silence = rate.isel(time=before)
    rise = rate.isel(time=within) - silence.mean("time", skipna=False)
    peak = rise.max("time")
    first = since.isel(time=within).where(rise >= peak / 2).min("time")
    responds = (peak > 0) & (peak >= _MIN_RISE * silence.std("time", skipna=False))
    result: xr.DataArray = first.where(responds).astype(np.float64).rename("latency")
    result.attrs = {"long_name": "latency from sound onset", "units": "s"}
    result.attrs |= simulated_attr(response)
    return result
