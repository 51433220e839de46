"""What regressions take: samples with their labels, and sounds set aside for validation."""

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
    """Split the est sounds into sounds to fit and sounds to validate on.

    Val sounds are in neither part: they are for the final test.

    Parameters
    ----------
    ds : Dataset
        With the labels of `nat4xr.open_area`.
    fraction : float, default: 0.1
        How many of the est sounds are for validation.
    seed : int, default: 0
        Another seed draws other sounds.

    Returns
    -------
    train, validation : Dataset
        Parts of ``ds``, lazy as it is, sounds in its order, without the repeats that no est
        sound has: of ``response``, 20 times less to load. Which sounds are in which part
        follows from the names of the est sounds, `fraction` and `seed` alone: it is the same for
        any order, any cells, either area, and on any machine.

    Raises
    ------
    KeyError
        If there is no est sound.
    ValueError
        If a part would be empty, or there is no dim ``stim``.

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
            f"fraction={fraction} of {names.size} est sounds leaves none to fit or to validate on"
        )
    # By hash, as the streams of random generators may change from version to version.
    drawn = sorted(
        names.tolist(), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()
    )
    validation = np.isin(names, drawn[:n_validation])
    return (
        est.isel(stim=np.flatnonzero(~validation)),
        est.isel(stim=np.flatnonzero(validation)),
    )


def drop_empty_repeats(ds: xr.Dataset) -> xr.Dataset:
    """Drop the repeats that no sound has, but for the first."""
    if "n_reps" not in ds or "rep" not in ds.dims:
        return ds
    n_reps = int(ds["n_reps"].max()) if ds["n_reps"].size else 0
    held = np.flatnonzero(ds["rep"].values < n_reps)
    return ds.isel(rep=held if held.size else slice(1))


def design_matrix(
    ds: xr.Dataset, n_lags: int = 25
) -> tuple[NDArray[Any], NDArray[Any], pd.DataFrame]:
    """Make the samples that scikit-learn's regressions take, a sample a time bin.

    Parameters
    ----------
    ds : Dataset
        With ``spectrogram`` (stim, freq, time) and ``psth`` (stim, time and neuron). Compress
        the spectrogram first: ``ds.assign(spectrogram=nat4xr.preprocess.log_minmax(...))``.
    n_lags : int, default: 25
        Number of time bins that predict a response, the present one included.

    Returns
    -------
    X : numpy.ndarray
        (sample, freq * lag), float32: the predictors of `nat4xr.strf.lagged`. A model's ``coef_``
        reshaped to (neuron, freq, lag) is so a kernel like those of `nat4xr.strf.fit`.
    y : numpy.ndarray
        (sample, neuron), float32: the responses, ``psth``, spikes per bin.
    labels : pandas.DataFrame
        Of each sample ``stim``, ``time`` and the labels of the sound, all as columns.
        ``groups=labels["stim"]`` keeps the bins of a sound together in scikit-learn's
        ``GroupKFold``: neighbouring bins are no independent samples.

        Bins in which any of the cells has no response (NaN) are left out.

    Raises
    ------
    ValueError
        If in every bin some cell has no response, there is no dim ``stim``, ``time`` or ``freq``,
        or ``n_lags`` is below 1.

    Notes
    -----
    All of it is in memory: float32, 593 sounds of 150 bins with 18 bands and 25 lags take 160 MB.

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
            "in every bin some cell has no response: select cells and sounds that were recorded "
            "together, as by nat4xr.drop_unrecorded"
        )
    spectrogram = ds["spectrogram"].transpose("stim", "freq", "time").compute()
    X = lagged(spectrogram, n_lags).values[kept].reshape(np.count_nonzero(kept), -1)
    stim, time = np.nonzero(kept)
    of_sound = {
        name: coord.values[stim] for name, coord in ds.coords.items() if coord.dims == ("stim",)
    }
    labels = pd.DataFrame({"stim": of_sound.pop("stim", stim), "time": ds["time"].values[time]})
    return X, response[kept], labels.assign(**{str(k): v for k, v in of_sound.items()})
