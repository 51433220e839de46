"""Tidy pandas tables of cells, sounds and trials."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from ..bins import check_spikes
from ..spikes import session_trials


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


def trials(spikes: xr.Dataset) -> pd.DataFrame:
    """List the trials of all sites, each in the order in which they were presented.

    Parameters
    ----------
    spikes : Dataset
        From `nat4xr.open_spikes`, whole or selected.

    Returns
    -------
    pandas.DataFrame
        A row a trial, at a site of the cells that are selected, of a sound that is selected:
        ``site``, and the columns of `nat4xr.session_trials`, ``position`` among them.

    Raises
    ------
    ValueError
        If `spikes` is not from `nat4xr.open_spikes`, or none of its cells has trials.

    Examples
    --------
    >>> import nat4xr
    >>> table = nat4xr.bridges.trials(nat4xr.open_spikes("A1", subset="val"))
    >>> table.groupby("site").size().head(2)
    site
    ARM029a    360
    CRD016d    360
    dtype: int64
    """
    check_spikes(spikes)
    there = set(spikes["trial_site"].values)
    sites = [site for site in pd.unique(np.atleast_1d(spikes["site"].values)) if site in there]
    if not sites:
        raise ValueError("none of the selected cells has trials")
    tables = {site: session_trials(spikes, site) for site in sites}
    together: pd.DataFrame = pd.concat(tables, names=["site"]).reset_index()
    return together


def check_dims(obj: xr.Dataset | xr.DataArray, *dims: str) -> None:
    """Refuse an object that lacks a dim, as after the selection of a single name."""
    for dim in dims:
        if dim not in obj.dims:
            raise ValueError(f"there is no dim {dim!r}: .sel({dim}=[name]), with a list, keeps it")


def _table(obj: xr.Dataset | xr.DataArray, dim: str) -> pd.DataFrame:
    check_dims(obj, dim)
    ds = obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name=obj.name or "value")
    columns = {
        name: ds[name].values for name in (*ds.coords, *ds.data_vars) if ds[name].dims == (dim,)
    }
    index = columns.pop(dim, None)
    return pd.DataFrame(columns, index=None if index is None else pd.Index(index, name=dim))
