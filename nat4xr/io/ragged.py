"""Write spike times as a contiguous ragged array.

The file follows section 9.3.3 of the CF conventions. Its instances are the *trials*. A trial is one
presentation of a sound at a site, which all cells of the site hear together. The spikes of a trial
are stored together, ordered by cell and time, with the number of the cell. With this layout there
is one row per presentation (a row for each trial of each cell would be 40 times as many), and the
spikes of the whole population in a trial are one slice. The attribute ``featureType`` of CF is left
out, because it is only defined for places on Earth.

The rows are sorted by subset (val first), site, repeat and sound, so that a block of the response
can be read in few pieces. ``trial_position`` gives the order of the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from .. import schema
from ..errors import ReleaseError
from ..schema import BIN_S
from . import labels, nems
from .netcdf import text_encoding, write_netcdf
from .release import AreaFiles
from .trials import Trials, find_trials, read_sites, spike_samples, spike_times


def write_spikes(header: xr.Dataset, files: AreaFiles, target: Path, progressbar: bool) -> None:
    """Convert the spikes of the site recordings, with the labels of the area's converted file."""
    sites, left_out = _read_all_sites(header, files, progressbar)
    ds = _ragged_array(header, sites)
    ds.attrs["cells_left_out"] = ", ".join(left_out)
    stored: dict[str, Any] = {"_FillValue": None}
    if ds.sizes["spike"]:
        stored["chunksizes"] = (min(schema.SPIKES_PER_CHUNK, ds.sizes["spike"]),)
    encoding: dict[Any, dict[str, Any]] = {
        name: dict(stored) for name, v in ds.data_vars.items() if v.dims == ("spike",)
    }
    # Compressing the times too would save a quarter of the file and take four times as long.
    encoding["spike_neuron"] |= {"zlib": True, "complevel": 1, "shuffle": True}
    write_netcdf(ds, target, encoding | text_encoding(ds))


def _read_all_sites(
    header: xr.Dataset, files: AreaFiles, progressbar: bool
) -> tuple[list[_Site], list[str]]:
    """Read the sites with cells of the area, and list the cells that the area does not have."""
    sites: dict[str, _Site] = {}
    left_out: list[str] = []
    title = f"Reading the spikes of {header.attrs['area']}"
    for recording in read_sites(files, title, progressbar=progressbar):
        signal = recording.signals["resp"]
        matches = labels.match_cells(header["neuron"].values.tolist(), signal.channels)
        if not matches:
            left_out += signal.channels  # none of the cells of this site is in the area
            continue
        site = _read_site(signal, header, matches, recording.name)
        if site.name in sites:
            raise ReleaseError(
                f"{files.sites.name}: {recording.name} is a second recording of site {site.name!r}"
            )
        sites[site.name] = site
    if not sites:
        raise ReleaseError(f"{files.sites.name} has none of the cells in {files.population.name}")
    left_out += [cell for site in sites.values() for cell in site.left_out]
    return list(sites.values()), left_out


def _ragged_array(header: xr.Dataset, sites: list[_Site]) -> xr.Dataset:
    """Concatenate the trials and spikes of all sites."""
    parts = [site.part(subset) for subset in ("val", "est") for site in sites]
    trials = pd.concat([rows for rows, _ in parts], ignore_index=True)
    spikes = pd.concat([columns for _, columns in parts], ignore_index=True)
    n_spikes = trials["n_spikes"].to_numpy()
    n_outside = np.sum([site.n_outside for site in sites], axis=0)
    values = {
        "spike_time": spikes["time"].to_numpy(),
        "spike_sample": spikes["sample"].to_numpy(),
        "spike_neuron": spikes["neuron"].to_numpy(),
        "n_spikes": n_spikes,
        "first_spike": np.cumsum(n_spikes) - n_spikes,
        "neuron_number": np.arange(header.sizes["neuron"]),
        "n_outside": n_outside,
        "trial_stim": header["stim"].values[trials["stim"]],
        "trial_rep": trials["rep"].to_numpy(),
        "trial_site": trials["site"].to_numpy(np.str_),
        "trial_position": trials["position"].to_numpy(),
        "trial_onset": trials["onset"].to_numpy(),
    }
    variables = {name: schema.variable(name, values[name]) for name in values}
    variables["spike_time"].attrs |= {"trial_duration": header.sizes["time"] * BIN_S} | {
        name: value for name, value in header["time"].attrs.items() if name.startswith("sound_")
    }
    if (trials["duration"] < header.sizes["time"] * BIN_S).any():
        variables["trial_duration"] = schema.variable("trial_duration", trials["duration"])
    variables["n_spikes"].attrs["sample_dimension"] = "spike"
    for name in schema.SPIKE_VARIABLES:
        variables[name].attrs |= schema.simulated_attr(header)
    labelled = {
        name: coord.variable
        for name, coord in header.coords.items()
        if coord.dims in (("stim",), ("neuron",))
    }
    ds = xr.Dataset(variables, labelled, header.attrs).set_coords(
        [name for name in variables if name.startswith("trial_")]
    )
    ds.attrs["comment"] = (
        "contiguous ragged array (CF conventions, section 9.3.3): trial i has the n_spikes[i] "
        "spikes from first_spike[i] on"
    )
    return ds


@dataclass(frozen=True)
class _Site:
    """The trials and spikes of a site in the order of the file, and what is not in it."""

    name: str
    trials: pd.DataFrame
    spikes: pd.DataFrame
    n_outside: NDArray[np.int64]
    left_out: list[str]

    def part(self, subset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the trials and spikes of one subset; val comes first."""
        is_val = self.trials["is_val"]
        end_of_val = self.trials.loc[is_val, "n_spikes"].sum()
        if subset == "val":
            return self.trials[is_val], self.spikes[:end_of_val]
        return self.trials[~is_val], self.spikes[end_of_val:]


def _read_site(
    signal: nems.Signal, header: xr.Dataset, matches: dict[str, str], label: str
) -> _Site:
    """Sort the spikes of a site into its trials; `matches` are those of `labels.match_cells`."""
    samples_per_ms = round(signal.fs / 1000)
    if not np.isclose(samples_per_ms * 1000, signal.fs):
        raise ReleaseError(
            f"{label}: the sampling rate {signal.fs:g} Hz is not a multiple of 1000 Hz"
        )
    stims, cells = header["stim"].values.tolist(), header["neuron"].values.tolist()
    trials = find_trials(signal, stims, header.sizes["time"] * BIN_S, label)
    numbers = pd.Index(cells).get_indexer(list(matches)).astype(np.int16)
    name = _site_name(header, numbers, label)

    known = np.flatnonzero(trials.stim >= 0)
    n_outside = np.zeros(len(cells), np.int64)
    parts = [(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int16))]
    for number, cell in zip(numbers, matches.values(), strict=True):
        times = spike_times(signal, cell)
        samples = spike_samples(times, signal.fs)
        trial, spike = trials.locate(known, samples)
        in_a_trial = np.zeros(len(times), bool)
        in_a_trial[spike] = True
        n_outside[number] = len(signal.data[cell]) - in_a_trial.sum()
        offset = samples[spike] - trials.onset[trial]
        parts.append((trial, times[spike], offset, np.full(len(trial), number)))
    trial, t, offset, neuron = (np.concatenate(columns) for columns in zip(*parts, strict=True))

    rows = _trial_rows(trials, known, header, signal, name)
    row = np.full(len(trials.stim), -1)
    row[rows["position"]] = np.arange(len(rows))
    rows["n_spikes"] = np.bincount(row[trial], minlength=len(rows))
    # The sort is stable, so spikes within a trial stay in order of cell and time.
    order = np.argsort(row[trial].astype(np.min_scalar_type(len(rows))), kind="stable")
    spikes = pd.DataFrame(
        {
            "time": ((t * signal.fs - trials.onset[trial]) / signal.fs).astype(np.float32),
            "sample": (offset // samples_per_ms).astype(np.int32),
            "neuron": neuron,
        }
    )
    left_out = sorted(set(signal.channels) - set(matches.values()))
    return _Site(name, rows, spikes.iloc[order], n_outside, left_out)


def _site_name(header: xr.Dataset, numbers: NDArray[np.int16], label: str) -> str:
    """Return the site of the cells. Cells of several sites are an error."""
    names = sorted(set(header["site"].values[numbers].tolist())) or [label]
    if len(names) > 1:
        raise ReleaseError(f"{label} has cells of several sites: {', '.join(names)}")
    return str(names[0])


def _trial_rows(
    trials: Trials, known: NDArray[np.int64], header: xr.Dataset, signal: nems.Signal, site: str
) -> pd.DataFrame:
    """Make one row for each trial of a known sound, in the order of the file."""
    rows = pd.DataFrame(
        {
            "is_val": header["subset"].values[trials.stim[known]] == "val",
            "site": site,
            "rep": trials.rep[known],
            "stim": trials.stim[known],
            "position": known,
            "onset": trials.onset[known] / signal.fs,
            "duration": trials.length[known] / signal.fs,
        }
    )
    return rows.sort_values(["is_val", "rep", "stim"], ascending=[False, True, True])
