"""Spike times: every spike of every trial, and questions about them.

How the file is laid out, and why, is said in `nat4xr.io.ragged`.
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
from .io.release import check_folder, check_options
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
    """Open the spike times of one area: every spike of every trial, est sounds included.

    On first use they are converted to a netCDF file beside that of `open_area`; from then on
    that file is opened, lazily. ``.load()`` holds all of it in memory, 8 bytes a spike.

    Parameters
    ----------
    area : {"A1", "PEG"}
    path : path-like, optional
        Folder of the release, as for `open_area`.
    subset : {"all", "est", "val"}, optional
        The spikes of which sounds.
    download : bool, optional
        Whether missing files may be fetched.
    progressbar : bool, optional
        Show how far downloads and the conversion are.

    Returns
    -------
    xarray.Dataset
        A contiguous ragged array (CF conventions, section 9.3.3): trial ``i`` has
        ``n_spikes[i]`` spikes, and ``first_spike[i]`` is the position of the first.

        - ``spike_time`` (spike): s from trial onset, float32, good to 0.1 µs.
        - ``spike_sample`` (spike): the same in whole ms by the format's own rule,
          ``floor(t * 1000) - round(onset * 1000)`` in float64. Bins of any width are exact
          when counted from it (`bin_spikes`); times would round across their edges.
        - ``spike_neuron`` (spike): the cell, as its ``neuron_number`` (neuron).
        - ``trial_stim``, ``trial_rep``, ``trial_site``, ``trial_position``, ``trial_onset``
          (trial): the sound, its repeat, the site, the place in the order of the session
          (from 0), and the onset in s of the session, from which ``spike_time`` counts.
        - ``trial_duration`` (trial): s; only if a trial was cut short.
        - ``n_outside`` (neuron): the cell's spikes outside every trial, which are left out.
        - Along ``stim`` and ``neuron`` all label coordinates of `open_area`.

        The attribute ``cells_left_out`` names the cells of the site recordings that the
        population recording does not have.

    Raises
    ------
    ValueError
        There is no such area or subset.
    ReleaseError
        A file of the release is broken.
    FileNotFoundError
        Files are missing and `download` is False.

    Warns
    -----
    UserWarning
        On first use, once for each kind of thing in the files that was left out or repaired.

    Notes
    -----
    Select along ``trial``, ``stim`` and ``neuron`` as you like: the functions of this module
    follow. Do not select along ``spike``: ``first_spike`` would point elsewhere.

    Examples
    --------
    >>> import nat4xr
    >>> spikes = nat4xr.open_spikes("A1")

    What the cells of a site fired in one trial:

    >>> trial = spikes.isel(trial=0)
    >>> own = slice(int(trial.first_spike), int(trial.first_spike + trial.n_spikes))
    >>> times, cells = spikes.spike_time[own], spikes.neuron[spikes.spike_neuron[own]]
    >>> bool((times >= 0).all() and (times <= 1.5).all())
    True
    >>> set(cells.site.values) == {trial.trial_site.item()}
    True
    """
    check_options(area, subset)
    check_folder(path, area)
    file = cache.spikes_file(area, path, download=download, progressbar=progressbar)
    spikes = set_labels(open_with_labels(*file))
    return spikes if subset == "all" else _select_subset(spikes, subset)


def spike_trains(spikes: xr.Dataset, neuron: str, stim: str) -> list[NDArray[np.float32]]:
    """Spike times of one cell in each presentation of one sound.

    Parameters
    ----------
    spikes : xarray.Dataset
        From `open_spikes`, whole or selected.
    neuron : str
        Cell id.
    stim : str
        Name of the sound.

    Returns
    -------
    list of numpy.ndarray
        By repeat, the times in s from trial onset, ascending: what matplotlib's ``eventplot``
        takes. No arrays if the cell has no trials.

    Raises
    ------
    KeyError
        There is no such cell or sound.

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
            raise KeyError(f"no {dim} {name!r}: {spikes[dim].item()!r} alone was selected")
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
        From `open_spikes`, whole or selected.
    site : str
        Recording site, such as ``"ARM029a"``.

    Returns
    -------
    pandas.DataFrame
        A row a trial of the sounds that are selected, by its ``position`` in the session (from
        0): ``stim``, ``subset``, ``rep`` (int: how often the sound had been presented before),
        ``onset`` (float64, s of the session).

    Raises
    ------
    KeyError
        There is no such site.
    ValueError
        `spikes` is not from `open_spikes`.

    Examples
    --------
    >>> import nat4xr
    >>> spikes = nat4xr.open_spikes("A1")
    >>> trials = nat4xr.session_trials(spikes, "ARM029a")
    >>> trials.columns.to_list(), trials.onset.is_monotonic_increasing
    (['stim', 'subset', 'rep', 'onset'], True)

    For adaptation and drift: each cell's spikes in each trial, in the order of the session.

    >>> counts = nat4xr.bin_spikes(spikes.sel(site="ARM029a"), dt_ms=1500).squeeze("time")
    >>> in_order = counts.sel(stim=trials.stim.to_xarray(), rep=trials.rep.to_xarray())
    >>> in_order.dims
    ('position', 'neuron')
    """
    bins.check_spikes(spikes)
    sites = spikes["trial_site"].values
    if site not in sites:
        raise KeyError(f"no site {site!r}: there are {', '.join(np.unique(sites))}")
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
    """Count cells, trials and spikes of each site.

    Parameters
    ----------
    spikes : xarray.Dataset
        From `open_spikes`, whole or selected.

    Returns
    -------
    pandas.DataFrame
        A row a site: ``neurons`` and those ``without_trials``; ``trials``; ``spikes`` in
        trials and ``outside`` them; ``rate``, spikes per s of trial, mean over cells.

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
    """One subset: its rows stand together, and so do their spikes."""
    stims = spikes["stim"].values[spikes["subset"].values == subset]
    rows = np.flatnonzero(np.isin(spikes["trial_stim"].values, stims))
    own = slice(rows[0], rows[-1] + 1) if len(rows) else slice(0)
    spikes = spikes.sel(subset=subset).isel(trial=own)
    first, n_spikes = spikes["first_spike"].variable, spikes["n_spikes"].values
    start = first.values.min(initial=np.iinfo(np.int32).max) if len(rows) else 0
    return spikes.isel(spike=slice(start, start + n_spikes.sum())).assign(
        first_spike=first.copy(data=first.values - start)
    )
