"""The trials of a site recording, and the spikes in them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..errors import ReleaseError, explained
from ..schema import BIN_S
from . import labels, nems
from .release import AreaFiles, count_sites, site_recordings

MAX_SITE = 2**31
"""The files of a site recording may have this many bytes; those of a real one have millions."""

MAX_SPIKES = 2**27
"""This many spikes of all sites are held at most; A1 has some 10 million."""


@dataclass(frozen=True)
class Trials:
    """The presentations of one site, in the order in which they took place.

    Attributes
    ----------
    stim : numpy.ndarray of int
        Number of the sound among the sounds asked about; -1 for another sound.
    rep : numpy.ndarray of int
        How often the sound had been presented before.
    onset : numpy.ndarray of int
        In samples of the recording.
    n_samples : int
        Length of a trial.
    """

    stim: NDArray[np.int64]
    rep: NDArray[np.int64]
    onset: NDArray[np.int64]
    n_samples: int

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The trial in which each sample lies (-1: in none), and its place in that trial."""
        trial = np.searchsorted(self.onset, samples, side="right") - 1
        place = samples - self.onset[trial]
        trial[place >= self.n_samples] = -1
        return trial, place


def read_sites(
    files: AreaFiles, title: str = "", *, progressbar: bool = False
) -> Iterator[nems.Recording]:
    """The site recordings of an area one after another, without their meta data."""
    n_sites = count_sites(files.sites) if progressbar else None
    sites = tqdm(site_recordings(files.sites), title, n_sites, disable=not progressbar)
    n_spikes = 0
    for label, source in sites:
        recording = nems.read(source, signals=("resp",), label=label, most=MAX_SITE)
        resp = recording.signals["resp"]
        if resp.kind != "points":
            raise ReleaseError(f"{label}: signal 'resp' holds no spike times")
        n_spikes += sum(times.size for times in resp.data.values())
        if n_spikes > MAX_SPIKES:
            raise ReleaseError(f"{files.sites.name}: holds more than {MAX_SPIKES:,} spikes")
        with explained(label):
            labels.check_names(resp.channels)
        # All sites are held at once, and meta data of megabytes can take a hundred times as much.
        yield replace(recording, meta={}, signals={"resp": replace(resp, meta={})})


def find_trials(signal: nems.Signal, stims: list[str], trial_s: float, label: str) -> Trials:
    """The presentations of a site, from its epochs.

    Trials that overlap by a sample or more are refused. By less they may, as times are rounded to
    samples: one that two trials share so belongs to the later.

    Parameters
    ----------
    signal : nems.Signal
        The site's spike times, with the epochs of the session.
    stims : list of str
        The sounds asked about.
    trial_s : float
        Length of a trial in s.
    label : str
        What to call the recording in error messages.

    Returns
    -------
    Trials
    """
    with explained(label):
        epochs = sound_epochs(signal).drop_duplicates()
        n_samples = round(trial_s * signal.fs)
        onset = np.round(epochs["start"].to_numpy() * signal.fs).astype(np.int64)
        length = np.round(epochs["end"].to_numpy() * signal.fs).astype(np.int64) - onset
        whole = (abs(length - n_samples) <= 1) | ~epochs["name"].isin(stims).to_numpy()
        if not whole.all():
            cut = ", ".join(f"{e.name} at {e.start:g} s" for e in epochs[~whole].itertuples())
            warnings.warn(
                f"{label}: left out trials that do not last {trial_s:g} s: {cut}", stacklevel=2
            )
            epochs, onset = epochs[whole], onset[whole]
        if not len(epochs):
            raise ValueError(f"has no trial that lasts {trial_s:g} s")
        start, end = signal.fs * epochs["start"].to_numpy(), signal.fs * epochs["end"].to_numpy()
        overlap = np.minimum(end, start + n_samples)[:-1] - start[1:]
        if (overlap > 0.999).any():  # samples; a whole one is not quite 1 in float64
            raise ValueError("has trials that overlap")
    number = {stim: i for i, stim in enumerate(stims)}
    stim = epochs["name"].map(number).fillna(-1).to_numpy().astype(np.int64)
    rep = epochs.groupby("name").cumcount().to_numpy().astype(np.int64)
    return Trials(stim, rep, onset, n_samples)


def spike_samples(times: NDArray[np.float64], fs: float) -> NDArray[np.int64]:
    """Sample of each spike by the format's own rule: floor(t * fs), in float64."""
    return np.floor(times * fs).astype(np.int64)


def val_bins(
    site: nems.Signal, trials: Trials, is_val: NDArray[np.bool_], columns: dict[str, int]
) -> tuple[NDArray[np.int64], ...]:
    """The bin of each spike in a val trial: its rep, stim, time and neuron."""
    samples_a_bin = round(site.fs * BIN_S)
    if samples_a_bin < 1 or not np.isclose(samples_a_bin, site.fs * BIN_S):
        raise ValueError(f"sampling rate {site.fs:g} Hz does not divide into bins of 10 ms")
    val = np.flatnonzero((trials.stim >= 0) & is_val[trials.stim])
    # As Trials.locate does it, but most spikes are in est trials, and are passed over.
    ends = np.minimum(trials.onset + trials.n_samples, np.append(trials.onset[1:], 2**62))
    found = [(np.empty(0, np.int64),) * 3]
    for cell, neuron in columns.items():
        samples = spike_samples(site.data[cell], site.fs)
        if (samples[1:] < samples[:-1]).any():
            samples.sort()
        first, last = np.searchsorted(samples, [trials.onset[val], ends[val]])
        n_spikes = last - first
        trial = np.repeat(val, n_spikes)
        spike = np.arange(len(trial)) + np.repeat(last - np.cumsum(n_spikes), n_spikes)
        found.append((trial, samples[spike] - trials.onset[trial], np.full(len(trial), neuron)))
    trial, place, neurons = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return trials.rep[trial], trials.stim[trial], place // samples_a_bin, neurons


def sound_epochs(signal: nems.Signal) -> pd.DataFrame:
    """The epochs that are sounds, in order of time."""
    epochs = signal.epochs[signal.epochs["name"].str.startswith("STIM_")]
    epochs = epochs.sort_values("start", kind="stable")
    if not len(epochs):
        raise ValueError(f"signal {signal.name!r} has no sound (STIM_...) epochs")
    labels.check_sounds(epochs["name"].unique().tolist())
    if not (epochs["end"] >= epochs["start"]).all():  # nor is NaN
        raise ValueError("has a sound that ends before it starts, or at no time")
    last = math.inf if signal.n_samples is None else (signal.n_samples + 1) / signal.fs
    outside = epochs[(epochs["start"] < 0) | (epochs["end"] > last)]
    if len(outside):
        name, start, end = outside.iloc[0][["name", "start", "end"]]
        raise ValueError(f"epoch {name} ({start:g} to {end:g} s) lies outside the recording")
    return epochs
