"""The trials of a site recording, and the spikes in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import ReleaseError, explained
from ..extras import tqdm
from ..schema import BIN_S
from . import labels, limits, nems, notes
from .notes import Notes
from .release import AreaFiles, count_sites, site_recordings

MAX_TIME = 1e9
"""Epochs and spikes at this many seconds or later lie outside any recording."""


@dataclass(frozen=True)
class Trials:
    """The presentations of one site, in the order of the session.

    Trials may overlap. A spike in the overlap belongs to both trials.

    Attributes
    ----------
    stim : numpy.ndarray of int
        Index of the sound in the list given to `find_trials`; -1 for other sounds.
    rep : numpy.ndarray of int
        Number of earlier presentations of the sound.
    onset : numpy.ndarray of int
        Onset in samples of the recording.
    length : numpy.ndarray of int
        Length in samples, which is less than ``n_samples`` if the trial was cut short.
    n_samples : int
        Length of a whole trial in samples.
    """

    stim: NDArray[np.int64]
    rep: NDArray[np.int64]
    onset: NDArray[np.int64]
    length: NDArray[np.int64]
    n_samples: int

    def locate(
        self, trials: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the spikes, given by their samples in ascending order, in some of the trials.

        Returns the indices of a trial and of a spike, for each spike in each trial.
        """
        onset = self.onset[trials]
        first, last = np.searchsorted(samples, [onset, onset + self.length[trials]])
        n_spikes = last - first
        spike = np.arange(n_spikes.sum()) + np.repeat(last - np.cumsum(n_spikes), n_spikes)
        return np.repeat(trials, n_spikes), spike


def read_sites(
    files: AreaFiles, title: str = "", *, progressbar: bool = False, noted: Notes | None = None
) -> Iterator[nems.Recording]:
    """Read the site recordings of an area one after another, without their meta data."""
    noted = Notes() if noted is None else noted
    n_sites = count_sites(files.sites) if progressbar else None
    sites = tqdm(site_recordings(files.sites), title, n_sites, disable=not progressbar)
    n_spikes = 0
    digests = set()
    for label, source in sites:
        recording = nems.read(source, signals=("resp",), label=label, limit="site_bytes")
        resp = recording.signals["resp"]
        if resp.kind != "points":
            raise ReleaseError(
                f"{label}: signal 'resp' has no spike times: it is not a PointProcess"
            )
        n_spikes += sum(times.size for times in resp.data.values())
        with explained(files.sites.name):
            limits.check("spikes", n_spikes)
        with explained(label):
            labels.check_names(resp.channels)
        if (digest := _digest(resp)) in digests:
            noted.add(notes.COPIES, label)
            continue
        digests.add(digest)
        of_no_time = sum((~_is_time(times)).sum() for times in resp.data.values())
        noted.add(notes.NO_TIME, label, of_no_time)
        yield replace(recording, meta={}, signals={"resp": replace(resp, meta={})})


def _digest(resp: nems.Signal) -> bytes:
    """Return a digest of spikes and trials, which is the same for an archive and its folder."""
    digest = hashlib.sha256(repr((resp.fs, resp.n_samples)).encode())
    digest.update("\n".join(resp.epochs["name"].tolist()).encode(errors="replace"))
    digest.update(resp.epochs[["start", "end"]].to_numpy().tobytes())
    for channel in resp.channels:
        digest.update(f"\n{channel} {resp.data[channel].size} ".encode(errors="replace"))
        digest.update(resp.data[channel].tobytes())
    return digest.digest()


def _is_time(times: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (times >= 0) & (times < MAX_TIME)  # NaN is neither


def find_trials(
    signal: nems.Signal, stims: list[str], trial_s: float, label: str, noted: Notes | None = None
) -> Trials:
    """Find the presentations of the sounds `stims` at a site, in the epochs of its spike times.

    Trials that were cut short keep their length. Longer trials are cut to `trial_s`. A difference
    of one sample is due to rounding, and is ignored. `label` is the name of the recording in
    messages. Notes on what is left out or repaired are added to `noted`.
    """
    noted = Notes() if noted is None else noted
    with explained(label):
        epochs = sound_epochs(signal, label, noted)
    number = {stim: i for i, stim in enumerate(stims)}
    names = epochs["name"].tolist()
    stim = np.array([number.get(name, -1) for name in names], np.int64)
    onset, length = epochs["onset"].to_numpy(), epochs["length"].to_numpy()
    n_samples = round(trial_s * signal.fs)
    noted.add(notes.CUT, label, ((length < n_samples - 1) & (stim >= 0)).sum())
    noted.add(notes.LONG, label, ((length > n_samples + 1) & (stim >= 0)).sum())
    length = np.where(length < n_samples - 1, length, n_samples)
    ends = np.maximum.accumulate(onset + length)
    noted.add(notes.OVERLAPPING, label, (onset[1:] < ends[:-1]).sum())
    unknown = sorted(set(names) - set(number))
    noted.add(notes.UNKNOWN_SOUNDS, label, len(unknown), unknown)
    rep = epochs.groupby("sound").cumcount().to_numpy().astype(np.int64)
    return Trials(stim, rep, onset, length, n_samples)


def spike_times(signal: nems.Signal, cell: str) -> NDArray[np.float64]:
    """Return the spike times of a cell in s, sorted, without negative values and NaN."""
    times = signal.data[cell]
    return np.sort(times[_is_time(times)])


def spike_samples(times: NDArray[np.float64], fs: float) -> NDArray[np.int64]:
    """Return the sample of each spike by the rule of NEMS: floor(t * fs), in float64."""
    return np.floor(times * fs).astype(np.int64)


def samples_per_bin(fs: float) -> int:
    """Return the number of samples in a bin of 10 ms."""
    n_samples = round(fs * BIN_S)
    if n_samples < 1 or not np.isclose(n_samples, fs * BIN_S):
        raise ValueError(f"has a sampling rate of {fs:g} Hz, which does not fit bins of 10 ms")
    return n_samples


def val_bins(
    site: nems.Signal, trials: Trials, is_val: NDArray[np.bool_], columns: dict[str, int]
) -> tuple[NDArray[np.int64], ...]:
    """Return rep, stim, time bin and neuron of each spike in a val trial."""
    samples_a_bin = samples_per_bin(site.fs)
    val = np.flatnonzero((trials.stim >= 0) & is_val[trials.stim])
    spikes = [(np.empty(0, np.int64),) * 3]
    for cell, neuron in columns.items():
        samples = spike_samples(spike_times(site, cell), site.fs)
        trial, spike = trials.locate(val, samples)
        spikes.append((trial, samples[spike] - trials.onset[trial], np.full(len(trial), neuron)))
    trial, sample, neurons = (np.concatenate(parts) for parts in zip(*spikes, strict=True))
    return trials.rep[trial], trials.stim[trial], sample // samples_a_bin, neurons


def sound_epochs(signal: nems.Signal, label: str, noted: Notes) -> pd.DataFrame:
    """Find the epochs that are sounds, in order of time.

    Returns one row per presentation, with ``name``, the number ``sound`` of the name, and ``onset``
    and ``length`` in samples. `label` is the name of the recording in messages. Notes on epochs
    that are left out are added to `noted`.
    """
    sound, names = pd.factorize(signal.epochs["name"])  # text is slow to select and compare
    is_sound = np.array([name.startswith("STIM_") for name in names], bool)
    labels.check_sounds(names[is_sound].tolist())
    epochs = signal.epochs.assign(sound=sound)[is_sound[sound]]
    last = MAX_TIME if signal.n_samples is None else (signal.n_samples + 1) / signal.fs
    start, end = epochs["start"].to_numpy(), epochs["end"].to_numpy()
    inside = (np.abs(start) < MAX_TIME) & (end <= min(last, MAX_TIME))  # NaN is neither
    start, end = np.round(np.where(inside, [start, end], 0) * signal.fs).astype(np.int64)
    inside &= (start >= 0) & (end > start)
    noted.add(notes.OUTSIDE, label, (~inside).sum())
    epochs = epochs.assign(onset=start, length=end - start)[inside]
    epochs = epochs.sort_values("start", kind="stable")
    again = epochs.duplicated(["sound", "onset", "length"])
    noted.add(notes.TWICE, label, again.sum())
    once: pd.DataFrame = epochs.loc[~again, ["name", "sound", "onset", "length"]]
    return once.reset_index(drop=True)
