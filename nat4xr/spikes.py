"""Spike times: open every spike of every trial, and summarise them.

`nat4xr.io.ragged` describes the layout of the file and the reasons for it.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from . import bins
from .bins import TrialTable, bin_spikes
from .index import set_labels
from .io import cache
from .io.netcdf import open_with_labels
from .io.registry import part_named
from .io.release import check_folder, check_subset
from .schema import TRIAL_COORDS

__all__ = ["bin_spikes", "open_spikes", "session_trials", "spike_trains", "spikes_by_site"]


def open_spikes(
    area: str,
    path: str | os.PathLike[str] | None = None,
    *,
    subset: Literal["all", "est", "val"] = "all",
    download: bool = True,
    progressbar: bool = True,
) -> xr.Dataset:
    """Open the spike times of one area: every spike of every trial, for est and val sounds.

    The first call converts them to a netCDF file next to that of `open_area`. Later calls open
    that file lazily. ``.load()`` reads all of it into memory, at 8 bytes per spike.

    Parameters
    ----------
    area : {"A1", "PEG"}
        Primary or secondary auditory cortex.
    path : path-like, optional
        The data folder, as for `open_area`.
    subset : {"all", "est", "val"}, default: "all"
        Which sounds to open the spikes of.
    download : bool, default: True
        Whether to download missing files.
    progressbar : bool, default: True
        Whether to show the progress of downloads and of the conversion.

    Returns
    -------
    xarray.Dataset
        A contiguous ragged array (CF conventions, section 9.3.3): trial ``i`` has
        ``n_spikes[i]`` spikes, and ``first_spike[i]`` is the position of the first one.

        - ``spike_time`` (spike), float32: time in s from trial onset, accurate to 0.1 µs.
        - ``spike_sample`` (spike): the same time in whole ms by the rule of NEMS,
          ``floor(t * 1000) - round(onset * 1000)`` in float64. `bin_spikes` counts from it, so
          that bins of any width are exact; ``spike_time`` could round across an edge.
        - ``spike_neuron`` (spike): the cell, given by its ``neuron_number`` (neuron).
        - ``trial_stim``, ``trial_rep``, ``trial_site``, ``trial_position``, ``trial_onset``
          (trial): the sound, its repeat, the site, the position of the trial in the session
          (from 0), and its onset in s from the start of the session.
        - ``trial_duration`` (trial): duration in s; present only if a trial was cut short.
        - ``n_outside`` (neuron): the number of the cell's spikes that lie outside all trials.
          They are not in ``spike_time``.
        - All label coordinates of `open_area` along ``stim`` and ``neuron``.

        The attribute ``cells_left_out`` names the cells of the site recordings that the
        population recording does not have.

    Raises
    ------
    ValueError
        If `area` or `subset` is not one of the values above.
    ReleaseError
        If a file of the release is damaged.
    DownloadError
        If a file cannot be downloaded.
    FileNotFoundError
        If a file is missing and `download` is False, or the folder `path` does not exist.

    Warns
    -----
    UserWarning
        If anything in the files was left out or repaired. The conversion warns once for each
        kind of repair.

    Notes
    -----
    You can select along ``trial``, ``stim`` and ``neuron`` before you call `bin_spikes`,
    `spike_trains` or `session_trials`. Do not select along ``spike``, because ``first_spike``
    would then point to the wrong spikes.

    Examples
    --------
    >>> import nat4xr
    >>> spikes = nat4xr.open_spikes("A1")

    The spikes of all cells of a site in one trial:

    >>> trial = spikes.isel(trial=0)
    >>> in_trial = slice(int(trial.first_spike), int(trial.first_spike + trial.n_spikes))
    >>> times = spikes.spike_time[in_trial]
    >>> cells = spikes.neuron[spikes.spike_neuron[in_trial]]
    >>> bool((times >= 0).all() and (times <= 1.5).all())
    True
    >>> set(cells.site.values) == {trial.trial_site.item()}
    True
    """
    area = part_named(area)
    check_subset(subset)
    check_folder(path, area)
    file = cache.spikes_file(area, path, download=download, progressbar=progressbar)
    spikes = set_labels(open_with_labels(*file))
    return spikes if subset == "all" else _select_subset(spikes, subset)


def spike_trains(spikes: xr.Dataset, neuron: str, stim: str) -> list[NDArray[np.float32]]:
    """Return the spike times of one cell in each presentation of one sound.

    Parameters
    ----------
    spikes : xarray.Dataset
        What `open_spikes` returns, or a selection of it.
    neuron : str
        Cell id.
    stim : str
        Name of the sound.

    Returns
    -------
    list of numpy.ndarray
        One array per repeat, with ascending times in s from trial onset, as matplotlib's
        ``eventplot`` takes them. The list is empty if the cell has no trials.

    Raises
    ------
    KeyError
        If there is no such cell or sound.

    Examples
    --------
    >>> import nat4xr
    >>> spikes = nat4xr.open_spikes("A1")
    >>> geese = "STIM_00cat172_rec1_geese_excerpt1.wav"
    >>> trains = nat4xr.spike_trains(spikes, "ARM029a-07-6", geese)
    >>> len(trains), trains[0].dtype
    (20, dtype('float32'))
    """
    for dim, name in (("neuron", neuron), ("stim", stim)):
        if dim in spikes.dims:
            spikes = spikes.sel({dim: [name]})
        elif spikes[dim].item() != name:
            raise KeyError(f"no {dim} {name!r}: only {spikes[dim].item()!r} was selected")
    table = TrialTable.of(spikes)
    rows = np.flatnonzero((table.stim == 0) & (table.site == table.site_of[0]))
    trial, time, number = table.read(rows, spikes["spike_time"].variable, table.spike_neuron)
    trial, time = trial[number == table.number[0]], time[number == table.number[0]]
    return [time[trial == row] for row in rows[np.argsort(table.rep[rows])]]


def session_trials(spikes: xr.Dataset, site: str) -> pd.DataFrame:
    """List the trials of a site in the order in which they were presented.

    Parameters
    ----------
    spikes : xarray.Dataset
        What `open_spikes` returns, or a selection of it.
    site : str
        Recording site, such as ``"ARM029a"``.

    Returns
    -------
    pandas.DataFrame
        One row per trial of the selected sounds, indexed by its ``position`` in the session
        (from 0). Columns: ``stim``; ``subset``; ``rep`` (int), how often the sound had been
        presented before; and ``onset`` (float64), in s from the start of the session.

    Raises
    ------
    KeyError
        If there is no such site.
    ValueError
        If `spikes` does not come from `open_spikes`.

    Examples
    --------
    >>> import nat4xr
    >>> spikes = nat4xr.open_spikes("A1")
    >>> trials = nat4xr.session_trials(spikes, "ARM029a")
    >>> trials.columns.to_list(), trials.onset.is_monotonic_increasing
    (['stim', 'subset', 'rep', 'onset'], True)

    To study adaptation or drift, count each cell's spikes in each trial, in session order:

    >>> counts = nat4xr.bin_spikes(spikes.sel(site="ARM029a"), dt_ms=1500).squeeze("time")
    >>> in_order = counts.sel(stim=trials.stim.to_xarray(), rep=trials.rep.to_xarray())
    >>> in_order.dims
    ('position', 'neuron')
    """
    bins.check_spikes(spikes)
    sites = spikes["trial_site"].values
    if site not in sites:
        raise KeyError(f"no site {site!r}: the sites are {', '.join(np.unique(sites))}")
    subset = dict(
        zip(*(np.atleast_1d(spikes[name].values) for name in ("stim", "subset")), strict=True)
    )
    here = sites == site
    trials = pd.DataFrame(
        {name.removeprefix("trial_"): spikes[name].values[here] for name in TRIAL_COORDS}
    )
    trials["subset"] = trials["stim"].map(subset)
    in_order = trials[trials["stim"].isin(subset)].set_index("position").sort_index()
    return in_order[["stim", "subset", "rep", "onset"]]


def spikes_by_site(spikes: xr.Dataset) -> pd.DataFrame:
    """Count the cells, trials and spikes of each site.

    Parameters
    ----------
    spikes : xarray.Dataset
        What `open_spikes` returns, or a selection of it.

    Returns
    -------
    pandas.DataFrame
        One row per site: the number of ``neurons`` and of neurons ``without_trials``; of
        ``trials``; of ``spikes`` in trials and ``outside`` them; and ``rate``, the spikes per
        second of trial, averaged over cells.

    Examples
    --------
    >>> import nat4xr
    >>> from nat4xr.spikes import spikes_by_site
    >>> spikes_by_site(nat4xr.open_spikes("A1", subset="val"))[["neurons", "trials"]]
             neurons  trials
    site
    ARM029a        3     360
    CRD016d        2     360
    DRX006b        6     360
    TNC013a        2     360
    TNC018a        4     360
    """
    table = TrialTable.of(spikes)
    selected = (table.stim >= 0) & (table.site >= 0)
    _, number = table.read(np.flatnonzero(selected), table.spike_neuron)
    n_spikes = np.bincount(number, minlength=table.number.max(initial=0) + 1)[table.number]
    # A cell without trials has the number after the last site.
    n_trials = np.bincount(table.site[selected], minlength=table.n_sites + 1)[table.site_of]
    duration_ms = np.bincount(
        table.site[selected], table.duration_ms[selected], minlength=table.n_sites + 1
    )[table.site_of]
    cells = pd.DataFrame(
        {
            "site": np.atleast_1d(spikes["site"].values),
            "without_trials": table.site_of == table.n_sites,
            "trials": n_trials,
            "spikes": n_spikes,
            "outside": np.atleast_1d(spikes["n_outside"].values),
            "rate": n_spikes / np.where(duration_ms, duration_ms / 1000, np.nan),
        }
    )
    return cells.groupby("site").agg(
        neurons=("site", "size"),
        without_trials=("without_trials", "sum"),
        trials=("trials", "max"),
        spikes=("spikes", "sum"),
        outside=("outside", "sum"),
        rate=("rate", "mean"),
    )


def _select_subset(spikes: xr.Dataset, subset: str) -> xr.Dataset:
    """Select one subset, whose trials are contiguous in the file, and so are their spikes."""
    stims = spikes["stim"].values[spikes["subset"].values == subset]
    rows = np.flatnonzero(np.isin(spikes["trial_stim"].values, stims))
    trials = slice(rows[0], rows[-1] + 1) if len(rows) else slice(0)
    spikes = spikes.sel(subset=subset).isel(trial=trials)
    first, n_spikes = spikes["first_spike"].variable, spikes["n_spikes"].values
    start = first.values.min(initial=np.iinfo(np.int32).max) if len(rows) else 0
    return spikes.isel(spike=slice(start, start + n_spikes.sum())).assign(
        first_spike=first.copy(data=first.values - start)
    )
