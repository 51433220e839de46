"""Tidy pandas tables of cells and of sounds."""

from __future__ import annotations

import pandas as pd
import xarray as xr


def cells(obj: xr.Dataset | xr.DataArray) -> pd.DataFrame:
    """List the cells, with all their labels and everything that has one value a cell.

    ``Dataset.to_dataframe()`` keeps the names alone: labels are no part of its index.

    Parameters
    ----------
    obj : Dataset or DataArray
        With the dim ``neuron``: from `nat4xr.open_area` or `nat4xr.open_spikes`, or the result
        of an analysis, such as ``nat4xr.metrics.snr(ds.response)``.

    Returns
    -------
    pandas.DataFrame
        A row a cell, by its ``neuron``: a column for each label, then one for each variable
        along ``neuron`` alone. Other variables are left out, and not computed.

    Raises
    ------
    ValueError
        If there is no dim ``neuron``.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("A1")
    >>> nat4xr.bridges.cells(ds).groupby("animal").size()
    animal
    ARM    3
    CRD    2
    DRX    6
    TNC    6
    dtype: int64
    >>> table = nat4xr.bridges.cells(nat4xr.metrics.snr(ds.sel(subset="val").response))
    >>> table.loc["ARM029a-04-1", ["site", "snr"]].index.to_list()
    ['site', 'snr']
    """
    return _table(obj, "neuron")


def sounds(obj: xr.Dataset | xr.DataArray) -> pd.DataFrame:
    """List the sounds, with all their labels and everything that has one value a sound.

    Parameters
    ----------
    obj : Dataset or DataArray
        With the dim ``stim``.

    Returns
    -------
    pandas.DataFrame
        A row a sound, by its ``stim``, as `cells` has a row a cell.

    Raises
    ------
    ValueError
        If there is no dim ``stim``.

    Examples
    --------
    >>> import nat4xr
    >>> table = nat4xr.bridges.sounds(nat4xr.open_area("A1"))
    >>> table.loc["STIM_00cat172_rec1_geese_excerpt1.wav", ["subset", "sound"]].to_list()
    ['val', 'geese']
    """
    return _table(obj, "stim")


def _table(obj: xr.Dataset | xr.DataArray, dim: str) -> pd.DataFrame:
    if dim not in obj.dims:
        raise ValueError(f"there is no dim {dim!r}: .sel({dim}=[name]), with a list, keeps it")
    ds = obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name=obj.name or "value")
    columns = {
        name: ds[name].values for name in (*ds.coords, *ds.data_vars) if ds[name].dims == (dim,)
    }
    index = columns.pop(dim, None)
    return pd.DataFrame(columns, index=None if index is None else pd.Index(index, name=dim))
