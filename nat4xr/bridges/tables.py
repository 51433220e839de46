"""Tidy pandas tables of cells, sounds and trials."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from ..bins import check_spikes
from ..spikes import session_trials


def cells(obj: xr.Dataset | xr.DataArray) -> pd.DataFrame:
    """List the cells with all their labels, and all variables that have one value per cell.

    Parameters
    ----------
    obj : Dataset or DataArray
        An object with the dim ``neuron``, such as `nat4xr.open_area` and `nat4xr.open_spikes`
        return, or the result of an analysis, such as ``nat4xr.metrics.snr(ds.response)``.

    Returns
    -------
    pandas.DataFrame
        One row per cell, indexed by ``neuron``. It has one column for each label, then one for
        each variable whose only dim is ``neuron``. Other variables are left out and not computed.

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
    """List the sounds with all their labels, and all variables that have one value per sound.

    Parameters
    ----------
    obj : Dataset or DataArray
        An object with the dim ``stim``, as for `cells`.

    Returns
    -------
    pandas.DataFrame
        One row per sound, indexed by ``stim``. It has one column for each label, then one for
        each variable whose only dim is ``stim``.

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
    """List the trials of all sites, one site after another, in the order of presentation.

    Parameters
    ----------
    spikes : Dataset
        What `nat4xr.open_spikes` returns, or a selection of it.

    Returns
    -------
    pandas.DataFrame
        One row per trial of a selected sound at the site of a selected cell. The columns are
        ``site`` and those of `nat4xr.session_trials`, which include ``position``.

    Raises
    ------
    ValueError
        If `spikes` does not come from `nat4xr.open_spikes`, or none of its cells has trials.

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
    with_trials = set(spikes["trial_site"].values)
    selected = pd.unique(np.atleast_1d(spikes["site"].values))
    sites = [site for site in selected if site in with_trials]
    if not sites:
        raise ValueError("none of the selected cells has trials")
    tables = {site: session_trials(spikes, site) for site in sites}
    table: pd.DataFrame = pd.concat(tables, names=["site"]).reset_index()
    return table


def check_dims(obj: xr.Dataset | xr.DataArray, *dims: str) -> None:
    """Raise an error if a dim is missing, which happens after a selection by a single name."""
    for dim in dims:
        if dim not in obj.dims:
            raise ValueError(
                f"the dim {dim!r} is missing: select by a list to keep it, .sel({dim}=[name])"
            )


def _table(obj: xr.Dataset | xr.DataArray, dim: str) -> pd.DataFrame:
    check_dims(obj, dim)
    ds = obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name=obj.name or "value")
    columns = {
        name: ds[name].values for name in (*ds.coords, *ds.data_vars) if ds[name].dims == (dim,)
    }
    index = columns.pop(dim, None)
    return pd.DataFrame(columns, index=None if index is None else pd.Index(index, name=dim))
