"""From the recordings of one area to its Dataset: sounds, cells, trials, and their labels.

Dense, the grid stim x rep is mostly empty and A1 would take 6 GB: `AreaData` holds what
there is and makes dense blocks of it, a few sounds at a time.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from . import __version__, labels, nems, registry
from .errors import ReleaseError, explained
from .release import AreaFiles, auditory_flags, count_sites, site_recordings

MAX_GRID = 2**28
"""So many bins of all val trials and cells are held at most; A1 has 46 million."""

MAX_SOUNDS = 2**14
"""A population recording of more sounds than this is refused; A1 has 593."""

MAX_SITE = 2**31
"""The files of a site recording may have this many bytes; those of a real one have millions."""

MAX_SPIKES = 2**27
"""So many spikes of all sites are held at most; A1 has some 10 million."""

N_VAL, N_REPEATS = 18, 20
"""Val sounds, and presentations of each at a site, by the design of the experiment."""

BIN_S = 0.01
"""Width in s of the bins of the population recording."""

CELL_COORDS = {
    "neuron": "cell id of NEMS",
    "cell_id": "cell id of NEMS",
    "area": "auditory cortical area",
    "site": "recording site: animal, recording number, session letter",
    "animal": "ferret",
    "session": "session letter of the site",
    "recording": "recording number of the site",
    "electrode": "electrode number",
    "unit_in_electrode": "unit number in its electrode",
    "auditory": "whether the cell responds to sound (sig_auditory of the release)",
    "trials_cell_id": "cell id under which the site recording holds the trials",
}
SOUND_COORDS = {
    "stim": "epoch name of the sound in NEMS",
    "subset": "est: presented once, for fitting; val: presented 20 times, for testing",
    "category": "category number of the sound",
    "sound": "what is heard",
    "excerpt": "excerpt number in its source recording",
}


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


@dataclass(frozen=True)
class AreaData:
    """All of an area; the two big variables are made a few sounds at a time.

    Attributes
    ----------
    header : xarray.Dataset
        Coordinates, attributes, ``spectrogram`` and ``n_reps``.
    rates : nems.Raster
        The population recording's ``resp``, with the onset sample of each sound in ``onsets``.
    val_counts : numpy.ndarray of uint16
        Spikes per bin of each presentation of the val sounds, (rep, stim, time, neuron).
    """

    header: xr.Dataset
    rates: nems.Raster
    onsets: NDArray[np.int64]
    val_counts: NDArray[np.uint16]

    def counts_fit_a_byte(self) -> bool:
        """Whether every bin of every trial holds a whole number of spikes, at most 254."""
        if self.val_counts.max(initial=0) > 254:
            return False
        n_time = self.header.sizes["time"]
        for onset in self.onsets[self.header["subset"].values == "est"]:
            counts = self.rates.values[self.rates.within(onset, onset + n_time)]
            counts = counts[~np.isnan(counts)]
            if ((counts != np.rint(counts)) | (counts < 0) | (counts > 254)).any():
                return False
        return True

    def psth(self, stims: slice) -> NDArray[np.float32]:
        """Spikes per bin averaged over presentations, (stim, time, neuron)."""
        onsets, n_time = self.onsets[stims], self.header.sizes["time"]
        block = np.empty((len(onsets), n_time, self.rates.n_channels), np.float32)
        for values, onset in zip(block, onsets, strict=True):
            values[:] = self.rates.dense(onset, onset + n_time)
        return block

    def response(self, stims: slice, rep: int) -> NDArray[np.float32] | None:
        """Spikes per bin of one repeat, (stim, time, neuron); None if there was no such repeat.

        NaN where nothing was presented. An est sound was presented once, so that its PSTH in
        the population recording is its only trial.
        """
        n_reps = self.header.variables["n_reps"].values[stims]
        if not (n_reps > rep).any():
            return None
        is_val = self.header.variables["subset"].values == "val"
        number = np.cumsum(is_val) - 1
        n_time = self.header.sizes["time"]
        block = np.empty((len(n_reps), n_time, self.rates.n_channels), np.float32)
        for values, sound in zip(block, range(stims.start, stims.stop), strict=False):
            if is_val[sound]:
                values[:] = self.val_counts[rep, number[sound]]
            elif rep == 0:
                values[:] = self.rates.dense(self.onsets[sound], self.onsets[sound] + n_time)
        np.moveaxis(block, 1, 2)[n_reps <= rep] = np.nan
        return block


def assemble(area: str, files: AreaFiles, *, progressbar: bool = False) -> AreaData:
    """Read an area's files and label what they hold.

    Parameters
    ----------
    area : {"A1", "PEG"}
    files : AreaFiles
    progressbar : bool, optional
        Show how many sites have been read.

    Returns
    -------
    AreaData

    Raises
    ------
    ReleaseError
        A file is broken, or two of them contradict each other.
    """
    name = files.population.name
    in_vain = Event()
    with ThreadPoolExecutor(1) as other_core:
        recordings = read_sites(files, f"Reading the sites of {area}", progressbar=progressbar)
        sites = other_core.submit(deque, takewhile(lambda _: not in_vain.is_set(), recordings))
        try:
            population = nems.read(files.population, signals=("stim", "resp"), label=name)
        except BaseException:
            in_vain.set()  # the sites that are left are not waited for
            raise
    stim, resp = population.signals["stim"], population.signals["resp"]
    cells = resp.channels
    with explained(name):
        labels.check_names(cells)
        stims, onsets, n_time = _sounds(resp)
        stim_names, stim_onsets, stim_time = _sounds(stim)
        if set(stim_names) != set(stims) or stim_time != n_time:
            raise ValueError("signals 'stim' and 'resp' do not have the same sounds")
        stim_place = {name: place for place, name in enumerate(stim_names)}
        stim_onsets = stim_onsets[[stim_place[stim] for stim in stims]]

    is_val = np.array([labels.is_val(stim) for stim in stims])
    val_number, n_val = np.cumsum(is_val) - 1, int(is_val.sum())
    _check_grid(name, N_REPEATS, n_val, n_time, len(cells))
    _check_grid(name, 1, len(stims), n_time, len(stim.channels))
    n_reps = _unmissed(resp.data, onsets, n_time).astype(np.int64)
    n_reps[is_val] = 0
    trials_cell_id = dict.fromkeys(cells, "")
    column = {cell: number for number, cell in enumerate(cells)}
    bins = []
    unread = sites.result()
    while unread:
        recording = unread.popleft()  # so that it is not held any longer
        site = recording.signals["resp"]
        with explained(recording.label):
            matches = labels.match_cells(cells, site.channels)
        if not matches:  # a site of which no cell was published
            continue
        trials = find_trials(site, stims, n_time * BIN_S, recording.label)
        with explained(recording.label):
            for cell, found in matches.items():
                if trials_cell_id[cell]:
                    raise ValueError(f"cell {cell} has trials at another site as well")
                trials_cell_id[cell] = found
            columns = [column[cell] for cell in matches]
            presented = np.bincount(trials.stim[trials.stim >= 0], minlength=len(stims))
            if presented[is_val].max(initial=0) > np.iinfo(np.int8).max:
                raise ValueError(f"a sound was presented {presented[is_val].max()} times")
            n_reps[np.ix_(is_val, np.array(columns, int))] = presented[is_val, np.newaxis]
            rep, stim_number, time, neuron = _val_bins(
                site, trials, is_val, dict(zip(matches.values(), columns, strict=True))
            )
        position = ((rep * n_val + val_number[stim_number]) * n_time + time) * len(cells) + neuron
        bins.append(position.astype(np.int32))  # as MAX_GRID allows
    shape = (max(N_REPEATS, n_reps.max(initial=0)), n_val, n_time, len(cells))
    _check_grid(name, *shape)
    val_counts = np.zeros(shape, np.uint16)
    for positions in bins:
        np.add.at(val_counts.reshape(-1), positions, np.uint16(1))
    if val_counts.sum(dtype=np.int64) != sum(map(len, bins)):  # a count began anew at 0
        raise ReleaseError(f"{files.sites.name}: more than 65,535 spikes in a bin of 10 ms")
    # A pair that the population recording leaves out is left out.
    n_reps[is_val] *= _unmissed(resp.data, onsets[is_val], n_time)

    header = xr.Dataset(
        {
            "spectrogram": (
                ("stim", "freq", "time"),
                np.stack([stim.data.dense(on, on + n_time).T for on in stim_onsets]),
                {"long_name": "gammatone spectrogram (ozgf), linear magnitude as published"},
            ),
            "n_reps": (
                ("stim", "neuron"),
                n_reps.astype(np.int8),
                {"long_name": "presentations held in response", "units": "1"},
            ),
        },
        {
            **sound_coords(stims),
            **cell_coords(area, cells, auditory_flags(files.table, cells), trials_cell_id),
            "rep": (
                "rep",
                np.arange(max(N_REPEATS, n_reps.max(initial=0))),
                {"long_name": "presentation of the sound at the site, from 0"},
            ),
            "time": ("time", np.arange(n_time) / resp.fs, _time_attrs(resp.epochs)),
            "freq": (
                "freq",
                np.geomspace(200, 20000, len(stim.channels)),
                {"long_name": "nominal centre frequency of the band", "units": "Hz"},
            ),
        },
        dataset_attrs(area, population.meta),
    )
    for variable in header.data_vars.values():
        variable.attrs |= labels.simulated_attr(header)
    return AreaData(header, resp.data, onsets, val_counts)


def sound_coords(stims: list[str]) -> dict[str, xr.Variable]:
    """Coordinates along ``stim``: the names and what they say."""
    values = {"stim": np.array(stims, np.str_), **labels.sound_labels(stims)}
    return _coords("stim", values, SOUND_COORDS)


def cell_coords(
    area: str, cells: list[str], auditory: list[bool], trials_cell_id: dict[str, str]
) -> dict[str, xr.Variable]:
    """Coordinates along ``neuron``: the ids, what they say, and what the release adds."""
    values = {
        "neuron": np.array(cells, np.str_),
        **labels.cell_labels(cells, area),
        "auditory": np.array(auditory, bool),
        "trials_cell_id": np.array([trials_cell_id[cell] for cell in cells], np.str_),
    }
    return _coords("neuron", values, CELL_COORDS)


def _coords(dim: str, values: labels.Labels, long_names: dict[str, str]) -> dict[str, xr.Variable]:
    coords = {}
    for name, long_name in long_names.items():
        attrs = {"long_name": long_name}
        if values[name].dtype == np.int16:
            attrs["comment"] = "-1 where the name does not say it"
        elif name not in (dim, "cell_id", "subset", "area", "auditory"):
            attrs["comment"] = "empty where there is none"
        coords[name] = xr.Variable(dim, values[name], attrs)
    return coords


def dataset_attrs(area: str, meta: dict[str, Any]) -> dict[str, Any]:
    """What is to be known of an area's data as a whole."""
    attrs: dict[str, Any] = {
        "title": f"NAT4: responses of ferret auditory cortex ({area}) to natural sounds",
        "area": area,
        "source": f"https://doi.org/{registry.DOI} (version {registry.VERSION})",
        "creator": registry.CREATORS,
        "license": registry.LICENSE,
        "references": registry.REFERENCES,
        "nat4xr_version": __version__,
        "simulated": 0,
    }
    if simulated := meta.get("simulated"):
        attrs |= {
            "title": f"SIMULATED data in the layout of NAT4 ({area}): not recordings",
            "source": "nat4xr.simulate",
            "simulated": 1,
            "simulation": json.dumps(simulated),
        }
        del attrs["creator"], attrs["license"]
    return attrs


def _time_attrs(epochs: pd.DataFrame) -> dict[str, Any]:
    """Attributes of the time axis; when the sound is on follows from the silences around it."""
    attrs: dict[str, Any] = {
        "long_name": "time from trial onset",
        "comment": "left edge of the bin",
        "units": "s",
        "bin_width": BIN_S,
    }
    sounds = epochs[epochs["name"].str.startswith("STIM_")].sort_values("start")
    before = epochs[epochs["name"] == "PreStimSilence"].sort_values("start")
    after = epochs[epochs["name"] == "PostStimSilence"].sort_values("start")
    if len(before) and len(after):
        attrs["sound_on"] = round(float(before["end"].iloc[0] - sounds["start"].iloc[0]), 6)
        attrs["sound_off"] = round(float(after["start"].iloc[0] - sounds["start"].iloc[0]), 6)
    return attrs


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
        epochs = _sound_epochs(signal).drop_duplicates()
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


def _val_bins(
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


def _sound_epochs(signal: nems.Signal) -> pd.DataFrame:
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


def _sounds(signal: nems.Signal) -> tuple[list[str], NDArray[np.int64], int]:
    """The sounds of a population signal, their onsets in samples, and their length."""
    if signal.kind != "raster" or not np.isclose(signal.fs * BIN_S, 1):
        raise ValueError(f"signal {signal.name!r} is not a raster of 100 Hz")
    epochs = _sound_epochs(signal)
    names = epochs["name"].tolist()
    if len(names) > MAX_SOUNDS:
        raise ValueError(f"signal {signal.name!r} has more than {MAX_SOUNDS:,} sounds")
    if len(set(names)) < len(names):
        raise ValueError(f"signal {signal.name!r} presents a sound twice")
    onsets = np.round(epochs["start"].to_numpy() * signal.fs).astype(np.int64)
    lengths = np.round((epochs["end"] - epochs["start"]).to_numpy() * signal.fs).astype(np.int64)
    n_time = int(lengths[0])
    if n_time < 1 or (lengths != n_time).any():
        raise ValueError(f"the sounds of signal {signal.name!r} do not all last equally long")
    if (np.diff(onsets) < n_time).any():
        raise ValueError(f"the sounds of signal {signal.name!r} overlap")
    assert signal.n_samples is not None  # a raster counts its samples
    if onsets[-1] + n_time > signal.n_samples:
        raise ValueError(f"signal {signal.name!r} ends within its last sound")
    return names, onsets, n_time


def _check_grid(label: str, n_reps: int, n_stims: int, n_time: int, n_channels: int) -> None:
    """Refuse what would take gigabytes once its zeros are written out."""
    if n_reps * max(N_VAL, n_stims) * n_time * n_channels > MAX_GRID:
        raise ReleaseError(
            f"{label}: {n_channels:,} channels, and sounds of {n_time:,} bins, are more than can "
            "be held"
        )


def _unmissed(raster: nems.Raster, onsets: NDArray[np.int64], n_time: int) -> NDArray[np.bool_]:
    """Where any sample of a sound is a number, (sound, channel)."""
    if not np.isnan(raster.values).any():
        return np.ones((len(onsets), raster.n_channels), bool)
    return np.stack([~np.isnan(raster.dense(on, on + n_time)).all(axis=0) for on in onsets])
