"""Correlations between pairs of cells, and the latency of each cell.

The functions take labelled responses and return labelled values, one per pair or one per cell.
"""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .schema import check_array, check_not_empty, simulated_attr

__all__ = ["latency", "pairs"]

Array = NDArray[Any]

# The cells of a site have the same values of these labels.
_SITE_LABELS = ("site", "area", "animal", "session", "recording")

# A response must rise this many standard deviations above the bins before the sound.
_MIN_RISE = 4


def pairs(response: xr.DataArray) -> xr.Dataset:
    r"""Compute signal and noise correlations of all pairs of simultaneously recorded cells.

    Two cells form a pair if they belong to the same site. A trial is used if none of the cells of
    the site has a NaN in it, and a sound is used if it has at least two such trials.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin, with dims rep and neuron, and optionally stim and time; NaN where there was
        no presentation. It needs a coordinate ``site`` along ``neuron``.

    Returns
    -------
    xarray.Dataset
        These variables along the dim ``pair``, which are lazy if `response` is:

        - ``noise_correlation`` (float64): the correlation over trials of the two cells' spike
          counts. The mean count for each sound is subtracted first. Counts are over all time bins
          in `response`.
        - ``signal_correlation`` (float64): the correlation over sounds and time bins of the two
          cells' mean responses, corrected for noise. NaN if noise alone explains the variance of
          one of the two mean responses.
        - ``n_trials`` (int64): the number of trials used.

        Both correlations are NaN if one of the two cells has no trials. Each label of the cells
        gives two coordinates, such as ``neuron_1`` and ``neuron_2``. The labels that the cells of
        a site share (``site``, ``area``, ``animal``, ``session`` and ``recording``) give only one.

    Raises
    ------
    ValueError
        If a dim is missing, unknown or empty, or if there is no coordinate ``site``.

    Notes
    -----
    Let :math:`r_{isn}(t)` be the response of cell :math:`i` in trial :math:`n` of sound :math:`s`,
    which has :math:`N_s` trials. Let :math:`y_{is}(t)` be its mean over trials, and
    :math:`c_{isn}` the sum of :math:`r_{isn} - y_{is}` over time. Then the noise correlation is

    .. math:: \frac{C_{ij}}{\sqrt{C_{ii} C_{jj}}}, \qquad C_{ij} = \sum_{s,n} c_{isn} c_{jsn}

    Its standard error is about :math:`1 / \sqrt{\sum_s (N_s - 1)}`, which is 0.05 for 18 sounds of
    20 trials. Poisson noise is independent in each cell and lowers the noise correlation, most of
    all when there are few spikes. Therefore only compare cells of similar rates, and windows of
    equal length.

    The signal correlation is the same fraction, where :math:`C_{ij}` is the covariance of
    :math:`y_{is}(t)` over sounds and bins, minus its expected value from noise alone (the
    covariance over trials, divided by :math:`N_s`). `nat4xr.metrics.signal_power` corrects a
    variance in the same way. Noise correlations do not bias this estimate, as they would bias the
    correlation of the mean responses. It can exceed 1 if cells have little signal.

    Dask arrays are computed one site at a time.

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

    The correlations in a part of the trial, here the onset of the sound:

    >>> onset = nat4xr.pairs(ds.response.sel(time=slice(0.25, 0.35)))
    """
    response = _with_dims(response)
    if "site" not in response.coords or response["site"].dims != ("neuron",):
        raise ValueError(
            "pairs needs a coordinate 'site' along neuron, to know which cells were recorded "
            "together: nat4xr.set_labels(response, like=ds) adds it"
        )
    sites = response["site"].values
    named = dict.fromkeys(sites[sites != ""].tolist())
    if not named:
        raise ValueError("pairs needs cells whose site is known, but no cell of response has one")
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
    "signal_correlation": "signal correlation, corrected for noise",
    "n_trials": "trials that both cells have",
}


def _with_dims(response: xr.DataArray) -> xr.DataArray:
    """Add the dims ``stim`` and ``time`` if they are missing, and check the others."""
    check_array(response, "response", "rep", "neuron")
    single = [dim for dim in ("stim", "time") if dim not in response.dims]
    response = response.expand_dims(single)
    check_not_empty(response, "response")
    dims = ("stim", "rep", "time", "neuron")
    if set(response.dims) != set(dims):
        raise ValueError(
            "response needs the dims rep and neuron, may have stim and time, and must have no "
            f"other: its dims are {response.dims}"
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
    """Return noise correlation, signal correlation and number of trials of each pair of cells."""
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
        # Noise adds to the scatter of the means over trials, and also to their overall mean.
        noise_of_means += bins.T @ bins / (n - 1) / n
        noise_of_means -= counts.T @ counts / (n - 1) / n / (n_bins * enough.size)
        means.append(mean)
        n_trials += n
    signal = np.concatenate(means)
    signal = signal - signal.mean(0) if len(signal) else signal
    first, second = np.triu_indices(n_cells, 1)
    both_recorded = recorded[first] & recorded[second]
    return (
        _normalised(noise)[first, second],
        _normalised(signal.T @ signal - noise_of_means)[first, second],
        np.where(both_recorded, n_trials, 0),
    )


def _normalised(covariance: Array) -> Array:
    """Turn covariances into correlations, with NaN where a variance is not positive."""
    variance = covariance.diagonal()
    scale = np.sqrt(np.where(variance > 0, variance, np.nan))
    return np.asarray(covariance / np.outer(scale, scale))


def _labels_of_pairs(response: xr.DataArray, first: Array, second: Array) -> dict[str, xr.Variable]:
    labels = {}
    for name, coord in response.coords.items():
        if coord.dims != ("neuron",):
            continue
        if name in _SITE_LABELS:
            labels[str(name)] = xr.Variable("pair", coord.values[first], coord.attrs)
            continue
        for suffix, cells in (("1", first), ("2", second)):
            labels[f"{name}_{suffix}"] = xr.Variable("pair", coord.values[cells], coord.attrs)
    return labels


def latency(response: xr.DataArray, *, window_s: float = 0.1) -> xr.DataArray:
    r"""Measure the latency of each cell's response to the onset of the sound.

    The rate of each cell is averaged over sounds and trials. Its rise is its difference from the
    mean rate before the sound. The latency is the time from sound onset to the first bin in which
    the rise is at least half of the largest rise in the window.

    Parameters
    ----------
    response : xarray.DataArray
        Spikes per bin or rates, with the dim time, and optionally stim, rep and neuron. The attrs
        of ``time`` must contain ``sound_on``, the onset of the sounds in s.
    window_s : float, default: 0.1
        Length of the window after sound onset in which to look for the response, in s.

    Returns
    -------
    xarray.DataArray
        Latency in s, float64, dims (neuron), lazy if `response` is. It refers to the left edge of
        the bin, so the spikes come up to one bin width later. NaN if no rise in the window reaches
        4 standard deviations of the rate in the bins before the sound.

    Raises
    ------
    ValueError
        If there is no coordinate ``time``, there are no bins before or after sound onset, or a dim
        is empty.

    Notes
    -----
    Bins of 10 ms can separate fast cells from slow ones, but no more. For finer latencies open the
    area with ``dt_ms=2``, and average over at least all val sounds.

    Noise alone gives a latency to some of the cells that ignore the sounds. Of simulated cells with
    3 spikes per second, these are 1 % with 360 trials (20 of each of 18 sounds) and bins of 10 ms,
    6 % with 20 trials, and 5 % with bins of 2 ms; of cells with 0.2 spikes per second, 6 %.

    Examples
    --------
    >>> import nat4xr
    >>> val = nat4xr.open_area("A1", subset="val").sel(auditory=True)
    >>> latency = nat4xr.latency(val.response).compute()
    >>> bool(0.01 <= latency.median() <= 0.05)
    True
    """
    check_array(response, "response", "time")
    check_not_empty(response, "response")
    if "time" not in response.coords:
        raise ValueError("latency needs a dim 'time' that has a coordinate")
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
            "latency needs time bins before and after sound onset, which it reads from "
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
