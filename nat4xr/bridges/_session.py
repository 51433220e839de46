"""A recording site as one session: trains over all its trials, at times of the session."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from ..bins import TrialTable
from ..spikes import session_trials
from .tables import cells


class Session(NamedTuple):
    """Cells with trials, their spike times in s of the session, and the trials."""

    cells: pd.DataFrame  # a row a cell, by neuron: its labels
    trains: list[NDArray[np.float64]]  # of each cell, ascending
    trials: pd.DataFrame  # in the order of the session: start, stop, stim, subset, rep


def read_session(spikes: xr.Dataset, site: str) -> Session:
    """Read the trials of a site from what `open_spikes` gives, whole or selected.

    Raises
    ------
    KeyError
        There is no such site.
    ValueError
        None of the selected cells of the site has trials, or none of the selected sounds was
        presented there; or `spikes` is not from `open_spikes`.
    """
    trials = session_trials(spikes, site)
    if trials.empty:
        raise ValueError(f"none of the selected sounds was presented at site {site!r}")
    length = spikes["spike_time"].attrs["trial_duration"]
    trials = trials.assign(start=trials["onset"], stop=trials["onset"] + length)

    table = cells(spikes[["neuron_number"]])
    table = table[(table["site"] == site) & (table["trials_cell_id"] != "")]
    if table.empty:
        raise ValueError(f"none of the selected cells of site {site!r} has trials")
    number = table.pop("neuron_number")

    rows = np.flatnonzero(
        (spikes["trial_site"].values == site) & np.isin(spikes["trial_stim"].values, trials["stim"])
    )
    found = TrialTable.of(spikes)
    trial, time, neuron = found.read(rows, spikes["spike_time"].variable, found.spike_neuron)
    in_session = spikes["trial_onset"].values[trial] + time.astype(np.float64)
    trains = [np.sort(in_session[neuron == n]) for n in number]
    return Session(table, trains, trials[["start", "stop", "stim", "subset", "rep"]])
