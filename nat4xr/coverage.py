"""Coverage: which cells heard which sounds."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pandas as pd
import xarray as xr

T = TypeVar("T", xr.Dataset, xr.DataArray)


def drop_unrecorded(obj: T) -> T:
    """Drop cells, sounds and repeats that have no response.

    A selection along one dim can leave elements without data along the others. If you select the
    val sounds, some cells may have no val trials; if you select a few cells, some sounds may not
    have been played to them; and est sounds have only the first repeat. This function keeps the
    cells, sounds and repeats that have at least one response in the selection.

    Parameters
    ----------
    obj : Dataset or DataArray
        A Dataset with ``n_reps`` (stim, neuron), the number of presentations, or with
        ``response``, which is NaN where there was no presentation. Or a DataArray with at least
        one of the dims ``stim``, ``rep`` and ``neuron``, which is NaN where there was no
        presentation.

    Returns
    -------
    Dataset or DataArray
        ``obj`` without these cells, sounds and repeats. Dask arrays stay lazy. To find out what
        was recorded, the function reads ``n_reps``, which is small, or else ``response``.

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
    # One pass is enough: the rows that are dropped have no responses that could keep a column.
    kept = {dim: recorded.any([other for other in dims if other != dim]).values for dim in dims}
    return obj.isel({dim: np.flatnonzero(keep) for dim, keep in kept.items() if not keep.all()})


def count_cells(ds: xr.Dataset, by: str = "site") -> pd.DataFrame:
    """Count cells, and the sounds to which they have a response, by any label of the cells.

    Parameters
    ----------
    ds : Dataset
        What `open_area` returns, or a selection of it; it needs ``n_reps`` (stim, neuron).
    by : str, default: "site"
        Label of the cells to group by, such as ``"site"`` or ``"animal"``.

    Returns
    -------
    pandas.DataFrame
        One row per group: the number of ``cells`` and of ``auditory`` cells, and for each subset
        (``val %``, ``est %``) the percentage of sounds to which a cell has a response, averaged
        over cells.

    Raises
    ------
    TypeError
        If `ds` is not a Dataset.
    ValueError
        If `by` is not a label of the cells.

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
        raise ValueError(f"by must be a label of the cells, such as 'site' or 'animal', not {by!r}")
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
    """Whether there is a response, along stim, rep, neuron and any further dims."""
    if isinstance(obj, xr.DataArray):
        return obj.notnull()
    if "n_reps" in obj:
        return obj["n_reps"] > (obj["rep"] if "rep" in obj.coords else 0)
    if "response" in obj:
        return obj["response"].notnull()
    raise ValueError(
        "drop_unrecorded needs n_reps or response to know which cell heard which sound; "
        f"the Dataset has {', '.join(map(str, obj.data_vars)) or 'no variables'}"
    )
