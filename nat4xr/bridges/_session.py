"""The session of a recording site: its trials, and spike times from the start of the session."""

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
    """The cells that have trials, their spike times in s from session start, and the trials."""

    cells: pd.DataFrame  # the labels; one row per cell, indexed by neuron
    trains: list[NDArray[np.float64]]  # the sorted spike times of each cell
    trials: pd.DataFrame  # start, stop, stim, subset and rep, in the order of the session


def read_session(spikes: xr.Dataset, site: str) -> Session:
    """Read the trials of a site from what `open_spikes` returns, or from a selection of it.

    It raises a KeyError if there is no site of this name, and a ValueError if none of its selected
    cells has trials, if none of the selected sounds was presented at it, or if `spikes` does not
    come from `open_spikes`.
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
    trial_table = TrialTable.of(spikes)
    trial, time, neuron = trial_table.read(
        rows, spikes["spike_time"].variable, trial_table.spike_neuron
    )
    in_session = spikes["trial_onset"].values[trial] + time.astype(np.float64)
    trains = [np.sort(in_session[neuron == n]) for n in number]
    return Session(table, trains, trials[["start", "stop", "stim", "subset", "rep"]])
