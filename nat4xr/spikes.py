"""Spike times: every spike of every trial, and responses counted from them at any bin width.

The file is a contiguous ragged array (CF conventions, section 9.3.3) whose instances are the
*trials*: one presentation of a sound at a site, heard by all cells of the site at once. The
spikes of a trial stand together, by cell and time, and each says which cell fired it. There are
so only as many rows as there were presentations (a row for each cell's trial would be 40 times
as many), sound, repeat and onset are said once, and a population's trial is one slice. CF's
``featureType`` is left out, as its features are places on Earth.

Rows are sorted by subset (val first), site, repeat and sound, so that a block of the response
is read in few pieces; ``trial_position`` gives the order of the session.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from . import bins, labels, nems
from .assemble import BIN_S, find_trials, read_sites, spike_samples
from .bins import TrialTable, bin_spikes
from .errors import ReleaseError
from .index import set_labels
from .release import AreaFiles, check_options
from .store import (
    DASK_CHUNKS,
    converted_file,
    open_area,
    open_with_labels,
    text_encoding,
    write_netcdf,
)

__all__ = ["bin_spikes", "open_spikes", "session_trials", "spike_trains", "spikes_by_site"]

SPIKES_A_CHUNK = 2**15
"""Spikes in a chunk on disk."""

TRIAL_COORDS = {
    "trial_stim": {"long_name": "sound presented"},
    "trial_rep": {"long_name": "presentation of the sound at the site, from 0"},
    "trial_site": {"long_name": "recording site"},
    "trial_position": {"long_name": "place of the trial in the order of the session, from 0"},
    "trial_onset": {"long_name": "trial onset in the session", "units": "s"},
}


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
        On conversion, of cells and sounds that the population recording does not have.

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

    def write(area: str, files: AreaFiles, target: Path, progressbar: bool) -> None:
        header = open_area(area, path, chunks=None, download=False, progressbar=progressbar)
        write_spikes(header, files, target, progressbar)

    file = converted_file(area, path, "_spikes", write, download=download, progressbar=progressbar)
    spikes = set_labels(open_with_labels(file))
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
    cells = pd.DataFrame(
        {
            "site": np.atleast_1d(spikes["site"].values),
            "without_trials": table.site_of == table.n_sites,
            "trials": n_trials,
            "spikes": n_spikes,
            "outside": np.atleast_1d(spikes["n_outside"].values),
            "rate": n_spikes / (np.where(n_trials, n_trials, np.nan) * table.length_ms / 1000),
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


def open_rebinned(
    area: str,
    path: str | os.PathLike[str] | None,
    *,
    subset: Literal["all", "est", "val"],
    dt_ms: float,
    chunks: Any,
    download: bool,
    progressbar: bool,
) -> xr.Dataset:
    """Open an area at another bin width than 10 ms: what `open_area` does then.

    Finer bins are counted from the spike times, coarser ones are sums of the 10 ms bins.
    """
    bins.check_width(dt_ms, bins.BIN_WIDTHS_MS)
    width = int(dt_ms)
    ds = open_area(area, path, chunks=None, download=download, progressbar=progressbar)
    trial_ms = ds.sizes["time"] * bins.BIN_MS
    bins.check_width(width, [w for w in bins.BIN_WIDTHS_MS if trial_ms % w == 0])
    if width < bins.BIN_MS:
        spikes = open_spikes(area, path, download=download, progressbar=progressbar)
        variables, defaults = bins.finer(ds, spikes, width), bins.FINE_CHUNKS
    else:
        variables, defaults = bins.coarser(ds, width), DASK_CHUNKS
    time = bins.time_axis(width, trial_ms, ds["time"].attrs)
    rebinned = ds.drop_dims("time").assign_coords(time=time).assign(variables)[list(ds.data_vars)]
    if subset != "all":
        rebinned = rebinned.sel(subset=subset)
    if chunks is not None:
        if isinstance(chunks, Mapping):
            if unknown := set(chunks) - set(rebinned.dims):
                raise ValueError(
                    f"chunks of {unknown}: the dims are {', '.join(map(str, rebinned.dims))}"
                )
            chunks = defaults | dict(chunks)
        rebinned = rebinned.assign(
            {name: array.variable.chunk(chunks) for name, array in rebinned.data_vars.items()}
        )
    return rebinned


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


def write_spikes(header: xr.Dataset, files: AreaFiles, target: Path, progressbar: bool) -> None:
    """Convert the spikes of the site recordings, labelled as the area's converted file is."""
    sites: dict[str, _Site] = {}
    title = f"Reading the spikes of {header.attrs['area']}"
    left_out = []
    for recording in read_sites(files, title, progressbar=progressbar):
        signal = recording.signals["resp"]
        if not labels.match_cells(header["neuron"].values.tolist(), signal.channels):
            left_out += signal.channels  # a site of which no cell was published
            continue
        site = _read_site(signal, header, recording.name)
        if site.name in sites:
            raise ReleaseError(f"{recording.name} is a second recording of site {site.name!r}")
        sites[site.name] = site
    if not sites:
        raise ReleaseError(f"{files.sites.name} holds no cell of {files.population.name}")
    left_out += [cell for site in sites.values() for cell in site.left_out]
    if left_out:
        warnings.warn(
            f"{len(left_out)} cells of the site recordings are not in the population recording, "
            f"and their spikes are left out: {', '.join(left_out)}",
            stacklevel=2,
        )
    parts = [site.part(subset) for subset in ("val", "est") for site in sites.values()]
    trials = pd.concat([rows for rows, _ in parts], ignore_index=True)
    spikes = pd.concat([columns for _, columns in parts], ignore_index=True)
    n_spikes = trials["n_spikes"].to_numpy(np.int32)
    n_outside = np.sum([site.n_outside for site in sites.values()], axis=0, dtype=np.int32)

    sound = {k: v for k, v in header["time"].attrs.items() if k.startswith("sound_")}
    trial_values = {
        "trial_stim": header["stim"].values[trials["stim"]],
        "trial_rep": _narrow(trials["rep"].to_numpy()),
        "trial_site": trials["site"].to_numpy(np.str_),
        "trial_position": trials["position"].to_numpy(np.int32),
        "trial_onset": trials["onset"].to_numpy(),
    }
    ds = xr.Dataset(
        {
            "spike_time": (
                "spike",
                spikes["time"].to_numpy(),
                {
                    "long_name": "spike time from trial onset",
                    "units": "s",
                    "trial_duration": header.sizes["time"] * BIN_S,
                    **sound,
                },
            ),
            "spike_sample": (
                "spike",
                spikes["sample"].to_numpy(),
                {
                    "long_name": "spike time from trial onset in whole ms, by the format's rule",
                    "units": "ms",
                    "comment": "floor(t * fs) - round(onset * fs): what bins are counted from",
                },
            ),
            "spike_neuron": (
                "spike",
                spikes["neuron"].to_numpy(),
                {"long_name": "cell that fired the spike: its neuron_number"},
            ),
            "n_spikes": (
                "trial",
                n_spikes,
                {
                    "long_name": "spikes of all cells in the trial",
                    "units": "1",
                    "sample_dimension": "spike",
                },
            ),
            "first_spike": (
                "trial",
                np.cumsum(n_spikes, dtype=np.int32) - n_spikes,
                {"long_name": "position along spike of the first spike of the trial"},
            ),
            "neuron_number": (
                "neuron",
                np.arange(header.sizes["neuron"], dtype=np.int16),
                {"long_name": "what stands for the cell in spike_neuron"},
            ),
            "n_outside": (
                "neuron",
                n_outside,
                {"long_name": "spikes of the cell outside every trial, left out", "units": "1"},
            ),
        },
        {
            name: coord.variable
            for name, coord in header.coords.items()
            if coord.dims in (("stim",), ("neuron",))
        }
        | {name: ("trial", trial_values[name], attrs) for name, attrs in TRIAL_COORDS.items()},
        header.attrs
        | {
            "comment": "contiguous ragged array (CF conventions, section 9.3.3): trial i has the "
            "n_spikes[i] spikes from first_spike[i] on",
            "cells_left_out": ", ".join(left_out),
        },
    )
    for variable in ds.data_vars.values():
        variable.attrs |= labels.simulated_attr(header)
    compressed: dict[str, Any] = {"zlib": True, "shuffle": True, "_FillValue": None}
    if len(spikes):
        compressed["chunksizes"] = (min(SPIKES_A_CHUNK, len(spikes)),)
    encoding = {name: compressed for name, v in ds.data_vars.items() if v.dims == ("spike",)}
    write_netcdf(ds, target, encoding | text_encoding(ds))


@dataclass(frozen=True)
class _Site:
    """Trials and spikes of a site as they stand in the file, and what does not."""

    name: str
    trials: pd.DataFrame
    spikes: pd.DataFrame
    n_outside: NDArray[np.int64]
    left_out: list[str]

    def part(self, subset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Trials and spikes of one subset; val comes first."""
        is_val = self.trials["is_val"]
        end_of_val = self.trials.loc[is_val, "n_spikes"].sum()
        if subset == "val":
            return self.trials[is_val], self.spikes[:end_of_val]
        return self.trials[~is_val], self.spikes[end_of_val:]


def _read_site(signal: nems.Signal, header: xr.Dataset, label: str) -> _Site:
    samples_a_ms = round(signal.fs / 1000)
    if not np.isclose(samples_a_ms * 1000, signal.fs):
        raise ReleaseError(f"sampling rate {signal.fs:g} Hz of {label} is no multiple of 1000")
    stims, cells = header["stim"].values.tolist(), header["neuron"].values.tolist()
    found = find_trials(signal, stims, header.sizes["time"] * BIN_S, label)
    matches = labels.match_cells(cells, signal.channels)
    number = {cell: i for i, cell in enumerate(cells)}
    numbers = np.array([number[cell] for cell in matches], np.int16)
    names = set(header["site"].values[numbers]) or {label}
    if len(names) > 1:
        raise ReleaseError(f"{label} holds cells of several sites: {', '.join(sorted(names))}")
    name = str(names.pop())

    times = [np.sort(signal.data[cell]) for cell in matches.values()]
    neuron = np.repeat(numbers, [len(t) for t in times])
    t = np.concatenate([np.empty(0), *times])
    sample = spike_samples(t, signal.fs)
    trial, place = found.locate(sample)
    inside = trial >= 0
    inside[inside] = found.stim[trial[inside]] >= 0
    n_outside = np.bincount(neuron[~inside], minlength=len(cells))
    t, neuron, trial, place = t[inside], neuron[inside], trial[inside], place[inside]

    known = np.flatnonzero(found.stim >= 0)
    if len(known) < len(found.stim):
        sounds = signal.epochs["name"][signal.epochs["name"].str.startswith("STIM_")]
        unknown = sorted(set(sounds) - set(stims))
        warnings.warn(
            f"{label} presents sounds that the population recording does not have, and their "
            f"trials are left out: {', '.join(unknown)}",
            stacklevel=2,
        )
    trials = pd.DataFrame(
        {
            "is_val": header["subset"].values[found.stim[known]] == "val",
            "site": name,
            "rep": found.rep[known],
            "stim": found.stim[known],
            "position": known,
            "onset": found.onset[known] / signal.fs,
        }
    ).sort_values(["is_val", "rep", "stim"], ascending=[False, True, True])
    row = np.full(len(found.stim), -1)
    row[trials["position"]] = np.arange(len(trials))
    trials["n_spikes"] = np.bincount(row[trial], minlength=len(trials))
    # Stable, so that within a trial the spikes stay in order of cell and time.
    order = np.argsort(row[trial].astype(np.min_scalar_type(len(trials))), kind="stable")
    spikes = pd.DataFrame(
        {
            "time": ((t * signal.fs - found.onset[trial]) / signal.fs).astype(np.float32),
            "sample": _narrow(place // samples_a_ms),
            "neuron": neuron,
        }
    )
    left_out = sorted(set(signal.channels) - set(matches.values()))
    return _Site(name, trials, spikes.iloc[order], n_outside, left_out)


def _narrow(values: NDArray[np.int64]) -> NDArray[Any]:
    """As int16, which what is published fits, or else as int32."""
    return values.astype(np.int16 if values.max(initial=0) < 2**15 else np.int32)
