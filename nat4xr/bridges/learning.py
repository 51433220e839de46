"""Samples for regressions, and a split of the est sounds for validation."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from ..strf import lagged
from .tables import check_dims


def split_est(
    ds: xr.Dataset, *, fraction: float = 0.1, seed: int = 0
) -> tuple[xr.Dataset, xr.Dataset]:
    """Split the est sounds into a set for fitting and a set for validation.

    The val sounds are in neither set: they are for the final test.

    Parameters
    ----------
    ds : Dataset
        What `nat4xr.open_area` returns, or a selection of it.
    fraction : float, default: 0.1
        Fraction of the est sounds to use for validation.
    seed : int, default: 0
        Seed of the random choice of sounds.

    Returns
    -------
    train, validation : Dataset
        Two parts of ``ds``, which are lazy if ``ds`` is. Sounds keep their order. The repeats that
        no est sound has are dropped, so that ``response`` is 20 times smaller. The split depends
        only on the names of the est sounds, `fraction` and `seed`, so it is the same for any
        order of the sounds, any cells, both areas, and on any machine.

    Raises
    ------
    KeyError
        If there are no est sounds.
    ValueError
        If one of the sets would be empty, or if there is no dim ``stim``.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("A1")
    >>> train, validation = nat4xr.bridges.split_est(ds, fraction=0.25)
    >>> train.sizes["stim"], validation.sizes["stim"]
    (9, 3)
    """
    check_dims(ds, "stim")
    est = drop_empty_repeats(ds.sel(subset="est"))
    names = est["stim"].values
    n_validation = round(fraction * names.size)
    if not 0 < n_validation < names.size:
        raise ValueError(
            f"fraction={fraction} of {names.size} est sounds leaves no sounds for fitting or none "
            "for validation"
        )
    # Hashes, because the streams of random generators may change from version to version.
    drawn = sorted(
        names.tolist(), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()
    )
    validation = np.isin(names, drawn[:n_validation])
    return (
        est.isel(stim=np.flatnonzero(~validation)),
        est.isel(stim=np.flatnonzero(validation)),
    )


def drop_empty_repeats(ds: xr.Dataset) -> xr.Dataset:
    """Drop the repeats that no sound has; the first repeat is always kept."""
    if "n_reps" not in ds or "rep" not in ds.dims:
        return ds
    n_reps = int(ds["n_reps"].max()) if ds["n_reps"].size else 0
    kept = np.flatnonzero(ds["rep"].values < n_reps)
    return ds.isel(rep=kept if kept.size else slice(1))


def design_matrix(
    ds: xr.Dataset, n_lags: int = 25
) -> tuple[NDArray[Any], NDArray[Any], pd.DataFrame]:
    """Make samples for the regressions of scikit-learn, one sample per time bin.

    Bins in which any cell has no response (NaN) are left out.

    Parameters
    ----------
    ds : Dataset
        With ``spectrogram`` (stim, freq, time) and ``psth`` (stim, time and optionally neuron).
        Compress the spectrogram first:
        ``ds.assign(spectrogram=nat4xr.preprocess.log_minmax(...))``.
    n_lags : int, default: 25
        Number of time bins that predict a response, including the present one.

    Returns
    -------
    X : numpy.ndarray
        The predictors, (sample, freq * lag), float32, as `nat4xr.strf.lagged` makes them. If you
        reshape the ``coef_`` of a model to (neuron, freq, lag), you get a kernel like those of
        `nat4xr.strf.fit`.
    y : numpy.ndarray
        The responses, (sample, neuron), float32: ``psth`` in spikes per bin.
    labels : pandas.DataFrame
        One row per sample, with the columns ``stim``, ``time`` and the labels of the sound. Pass
        ``groups=labels["stim"]`` to scikit-learn's ``GroupKFold`` to keep the bins of a sound in
        one fold, because neighbouring bins are not independent samples.

    Raises
    ------
    ValueError
        If every bin lacks the response of some cell, if a dim ``stim``, ``time`` or ``freq`` is
        missing, or if ``n_lags`` is less than 1.

    Notes
    -----
    All samples are in memory: 593 sounds of 150 bins with 18 bands and 25 lags take 160 MB.

    Examples
    --------
    >>> import nat4xr
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import GroupKFold, cross_val_score
    >>> ds = nat4xr.open_area("A1", subset="est").sel(site="ARM029a")
    >>> X, y, labels = nat4xr.bridges.design_matrix(ds, n_lags=10)
    >>> X.shape, y.shape
    ((1800, 180), (1800, 3))
    >>> folds = GroupKFold(3)
    >>> scores = cross_val_score(Ridge(10), X, y, groups=labels["stim"], cv=folds)
    >>> scores.shape
    (3,)
    """
    check_dims(ds, "stim", "time", "freq")
    psth = ds["psth"]
    if "neuron" not in psth.dims:
        psth = psth.expand_dims("neuron")
    response = psth.transpose("stim", "time", "neuron").values
    kept = ~np.isnan(response).any(axis=2)
    if not kept.any():
        raise ValueError(
            "in every bin, some cell has no response: select cells and sounds that were recorded "
            "together, for example with nat4xr.drop_unrecorded"
        )
    spectrogram = ds["spectrogram"].transpose("stim", "freq", "time").compute()
    X = lagged(spectrogram, n_lags).values[kept].reshape(np.count_nonzero(kept), -1)
    stim, time = np.nonzero(kept)
    of_sound = {
        name: coord.values[stim] for name, coord in ds.coords.items() if coord.dims == ("stim",)
    }
    labels = pd.DataFrame({"stim": of_sound.pop("stim", stim), "time": ds["time"].values[time]})
    return X, response[kept], labels.assign(**{str(k): v for k, v in of_sound.items()})
