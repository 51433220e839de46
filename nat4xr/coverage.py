"""Which cell heard which sound."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pandas as pd
import xarray as xr

T = TypeVar("T", xr.Dataset, xr.DataArray)


def drop_unrecorded(obj: T) -> T:
    """Drop cells, sounds and repeats without any response among what is left.

    After a selection along one dim the others can hold elements without any data: of the val
    sounds alone, the cells whose val trials were not published; of a few cells, the sounds that
    were not played to them; of the est sounds, all repeats but the first. A cell, a sound and a
    repeat stay if there is at least one response in it.

    Parameters
    ----------
    obj : Dataset or DataArray
        A Dataset with ``n_reps`` (stim, neuron), the number of presentations held, which are
        those with the lowest ``rep``; without it, with ``response``, NaN where there was no
        presentation. Or such a ``response`` itself: any DataArray with ``stim``, ``rep``,
        ``neuron`` or several of them.

    Returns
    -------
    Dataset or DataArray
        ``obj`` without these cells, sounds and repeats. Dask arrays stay lazy, but for ``n_reps``
        (small), or for ``response`` (large) where there is no ``n_reps``, which is read once.

    Raises
    ------
    ValueError
        If a Dataset has neither ``n_reps`` nor ``response``.

    Examples
    --------
    >>> import nat4xr, xarray as xr
    >>> ds = xr.Dataset(
    ...     {"n_reps": (("stim", "neuron"), [[20, 0, 20], [1, 1, 1]])},
    ...     coords={"stim": ["val", "est"], "neuron": ["a", "b", "c"]},
    ... )
    >>> nat4xr.drop_unrecorded(ds.sel(stim=["val"])).neuron.values.tolist()
    ['a', 'c']
    """
    recorded = _recorded(obj)
    dims = [dim for dim in ("stim", "rep", "neuron") if dim in recorded.dims]
    recorded = recorded.any([dim for dim in recorded.dims if dim not in dims]).compute()
    # Once is enough: a row that goes held no response that could keep a column, and vice versa.
    kept = {dim: recorded.any([other for other in dims if other != dim]).values for dim in dims}
    return obj.isel({dim: np.flatnonzero(keep) for dim, keep in kept.items() if not keep.all()})


def count_cells(ds: xr.Dataset, by: str = "site") -> pd.DataFrame:
    """Count cells and what they heard, by any label of the cells.

    Parameters
    ----------
    ds : Dataset
        With ``n_reps`` (stim, neuron), whole or selected.
    by : str, optional
        Label of the cells to group by, such as ``"site"`` or ``"animal"``.

    Returns
    -------
    pandas.DataFrame
        A row a group: ``cells``, ``auditory`` cells, and for each subset of the sounds
        (``val %``, ``est %``) the share that a cell has a response to, in percent, mean over
        cells.

    Raises
    ------
    ValueError
        `by` is no label of the cells.

    Examples
    --------
    >>> import nat4xr
    >>> nat4xr.count_cells(nat4xr.open_area("A1"), "animal")
            cells  auditory  val %  est %
    animal
    ARM         3         3  100.0  100.0
    CRD         2         2  100.0  100.0
    DRX         6         6   83.3  100.0
    TNC         6         5  100.0  100.0
    """
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"count_cells takes a Dataset with n_reps, not a {type(ds).__name__}")
    if by not in ds.coords or not set(ds[by].dims) <= {"neuron"}:
        raise ValueError(f"by is a label of the cells, such as 'site' or 'animal', not {by!r}")
    n_stims, n_cells = (ds.sizes.get(dim, 1) for dim in ("stim", "neuron"))
    label, auditory = (np.broadcast_to(ds[n].values, n_cells) for n in (by, "auditory"))
    subsets = np.broadcast_to(ds["subset"].values, n_stims)
    cells = pd.DataFrame({by: label, "cells": 1, "auditory": auditory})
    n_reps = ds["n_reps"].transpose("stim", "neuron", missing_dims="ignore").values
    recorded = n_reps.reshape(n_stims, n_cells) > 0
    for subset in pd.unique(subsets):
        share = recorded[subsets == subset].mean(axis=0)
        cells[f"{subset} %"] = 100 * share
    how = {name: "mean" if name.endswith("%") else "sum" for name in cells.columns[1:]}
    return cells.groupby(by).agg(how).round(1)


def _recorded(obj: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Whether there is a response; along stim, rep, neuron and perhaps more."""
    if isinstance(obj, xr.DataArray):
        return obj.notnull()
    if "n_reps" in obj:
        return obj["n_reps"] > (obj["rep"] if "rep" in obj.coords else 0)
    if "response" in obj:
        return obj["response"].notnull()
    raise ValueError(
        "drop_unrecorded needs n_reps or response to see which cell heard which sound; "
        f"the Dataset has {', '.join(map(str, obj.data_vars)) or 'no variables'}"
    )
