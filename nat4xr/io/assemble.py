"""Combine the recordings of one area: sounds, cells, trials, and their labels.

The grid stim x rep is mostly empty, and would take 6 GB for A1 as a dense array. Therefore
`AreaData` stores the values that exist, and makes dense blocks of a few sounds at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from .. import __version__, schema
from ..errors import ReleaseError, explained
from ..schema import BIN_S, MISSING_COUNT, N_REPEATS, N_VAL
from . import labels, limits, nems, notes, registry
from .notes import Notes
from .raster import Raster
from .release import AreaFiles, auditory_flags
from .trials import Trials, find_trials, read_sites, samples_per_bin, sound_epochs, val_bins


@dataclass(frozen=True)
class AreaData:
    """The content of an area. It makes the two large variables for a few sounds at a time.

    Attributes
    ----------
    header : xarray.Dataset
        Coordinates, attributes, ``spectrogram`` and ``n_reps``.
    rates : Raster
        The signal ``resp`` of the population recording.
    onsets : numpy.ndarray of int
        The onset of each sound in ``rates``, in bins.
    val_counts : numpy.ndarray of uint16
        Spikes per bin of each presentation of the val sounds, (rep, stim, time, neuron).
    lengths : numpy.ndarray of int, optional
        The number of bins of each sound in ``rates``. Default: that of ``time``.
    cuts : sequence of Cut
        The val trials that were cut short.
    notes : Notes
        What was left out or repaired.
    """

    header: xr.Dataset
    rates: Raster
    onsets: NDArray[np.int64]
    val_counts: NDArray[np.uint16]
    lengths: NDArray[np.int64] | None = None
    cuts: Sequence[Cut] = ()
    notes: Notes = field(default_factory=Notes)

    def counts_fit_a_byte(self) -> bool:
        """Whether every bin of every trial holds a whole number of spikes, at most 254."""
        if self.val_counts.max(initial=0) > 254:
            return False
        for sound in np.flatnonzero(self.header["subset"].values == "est").tolist():
            counts = self.rates.values[self.rates.within(*self._bounds(sound))]
            counts = counts[~np.isnan(counts)]
            if ((counts != np.rint(counts)) | (counts < 0) | (counts > 254)).any():
                return False
        return True

    def psth(self, stims: slice) -> NDArray[np.float32]:
        """Return spikes per bin averaged over presentations, (stim, time, neuron)."""
        sounds = range(len(self.onsets))[stims]
        n_time = self.header.sizes["time"]
        block = np.zeros((len(sounds), n_time, self.rates.n_channels), np.float32)
        for values, sound in zip(block, sounds, strict=True):
            _samples(self.rates, *self._bounds(sound), values)
        return block

    def _bounds(self, sound: int) -> tuple[int, int]:
        length = self.header.sizes["time"] if self.lengths is None else self.lengths[sound]
        return self.onsets[sound], self.onsets[sound] + length

    @cached_property
    def _bytes(self) -> Raster:
        """The signal ``resp`` in bytes, which only fit the counts of est sounds."""
        values = np.where(np.isnan(self.rates.values), MISSING_COUNT, self.rates.values)
        with np.errstate(invalid="ignore"):
            return replace(self.rates, values=values.astype(np.uint8))

    def response(self, stims: slice, rep: int, dtype: Any = np.float32) -> NDArray[Any] | None:
        """Return spikes per bin of one repeat, (stim, time, neuron), or None if there are none.

        NaN (in bytes: `MISSING_COUNT`) where nothing was presented. Est sounds were presented once,
        so their PSTH in the population recording is their only trial.
        """
        missing, rates = (
            (np.nan, self.rates) if dtype == np.float32 else (MISSING_COUNT, self._bytes)
        )
        n_reps = self.header.variables["n_reps"].values[stims]
        if not (n_reps > rep).any():
            return None
        is_val = self.header.variables["subset"].values == "val"
        number = np.cumsum(is_val) - 1
        n_time = self.header.sizes["time"]
        block = np.zeros((len(n_reps), n_time, self.rates.n_channels), dtype)
        for values, sound in zip(block, range(stims.start, stims.stop), strict=False):
            if is_val[sound]:
                values[:] = self.val_counts[rep, number[sound]]
            elif rep == 0:
                _samples(rates, *self._bounds(sound), values, missing)
        np.moveaxis(block, 1, 2)[n_reps <= rep] = missing
        for cut in self.cuts:
            if cut.rep == rep and stims.start <= cut.stim < stims.stop:
                block[cut.stim - stims.start, cut.first_bin :, cut.neurons] = missing
        return block


class Cut(NamedTuple):
    """A val trial that was cut short. The cells have no response from ``first_bin`` on."""

    stim: int
    rep: int
    first_bin: int
    neurons: NDArray[np.int64]


class _Sounds(NamedTuple):
    """The sounds of the population recording."""

    names: list[str]
    is_val: NDArray[np.bool_]
    onsets: NDArray[np.int64]  # in samples of `resp`
    lengths: NDArray[np.int64]  # in samples of `resp`, at most n_time
    stim_onsets: NDArray[np.int64]  # in samples of `stim`
    stim_lengths: NDArray[np.int64]
    n_time: int


class _Coverage(NamedTuple):
    """The number of trials of each cell, and the spikes in its val trials."""

    n_reps: NDArray[np.int64]  # (stim, neuron)
    trials_cell_id: list[str]
    val_counts: NDArray[np.uint16]  # (rep, stim, time, neuron)
    cuts: list[Cut]


def assemble(area: str, files: AreaFiles, *, progressbar: bool = False) -> AreaData:
    """Read the files of an area, and label their content.

    If a file is broken, or two of them contradict each other, this raises a ReleaseError.
    """
    noted = Notes()
    population = nems.read(
        files.population, signals=("stim", "resp"), label=files.population.name, dtype=np.float32
    )
    resp = population.signals["resp"]
    sounds = _find_sounds(population, noted)
    title = f"Reading the sites of {area}"
    sites = read_sites(files, title, progressbar=progressbar, noted=noted)
    coverage = _count_val_trials(files.sites.name, resp, sounds, sites, noted)
    header = _header(area, files, population, sounds, coverage)
    return AreaData(
        header, resp.data, sounds.onsets, coverage.val_counts, sounds.lengths, coverage.cuts, noted
    )


def _find_sounds(population: nems.Recording, noted: Notes) -> _Sounds:
    """Find the sounds in the epochs of ``stim`` and ``resp``, which must have the same sounds.

    The length of a trial is the most common length of a sound. If ``stim`` has no epochs, those of
    ``resp`` are used.
    """
    stim, resp = population.signals["stim"], population.signals["resp"]
    if not stim.epochs["name"].str.startswith("STIM_").any():
        stim = replace(stim, epochs=resp.epochs)
    with explained(population.label):
        if resp.listed is not None and resp.listed != resp.channels:
            raise ValueError(
                f"signal 'resp' has {len(resp.channels)} channels, but {len(resp.listed)} names"
            )
        if resp.inner or stim.inner:
            raise ValueError("signals 'stim' and 'resp' do not have two dimensions")
        if len(set(resp.channels)) < len(resp.channels):
            raise ValueError("signal 'resp' has two channels with the same name")
        labels.check_names(resp.channels)
        epochs = _sounds(resp, population.label, noted)
        # Problems of both signals are only noted once, for `resp`.
        stim_epochs = _sounds(stim, population.label, Notes()).set_index("name")
        names = epochs["name"].tolist()
        if set(stim_epochs.index) != set(names):
            raise ValueError("signals 'stim' and 'resp' do not have the same sounds")
        n_time = int(epochs["length"].mode().iloc[-1])
        noted.add(notes.CUT, population.label, (epochs["length"] < n_time).sum())
        noted.add(notes.LONG, population.label, (epochs["length"] > n_time).sum())
    stim_epochs = stim_epochs.loc[names]
    is_val = np.array([labels.is_val(name) for name in names])
    _check_grid(population.label, N_REPEATS, is_val.sum(), n_time, len(resp.channels))
    _check_grid(population.label, 1, len(names), n_time, len(stim.channels))
    return _Sounds(
        names,
        is_val,
        epochs["onset"].to_numpy(),
        epochs["length"].clip(upper=n_time).to_numpy(),
        stim_epochs["onset"].to_numpy(),
        stim_epochs["length"].clip(upper=n_time).to_numpy(),
        n_time,
    )


def _count_val_trials(
    label: str,
    resp: nems.Signal,
    sounds: _Sounds,
    sites: Iterable[nems.Recording],
    noted: Notes,
) -> _Coverage:
    """Count the spikes in the val trials of all sites."""
    cells, n_time, is_val = resp.channels, sounds.n_time, sounds.is_val
    val_number, n_val = np.cumsum(is_val) - 1, int(is_val.sum())
    recorded = _recorded(resp.data, sounds)
    n_reps = recorded.astype(np.int64)
    n_reps[is_val] = 0
    trials_cell_id = dict.fromkeys(cells, "")
    column = {cell: number for number, cell in enumerate(cells)}
    positions = []
    cuts: list[Cut] = []
    for recording in sites:
        site = recording.signals["resp"]
        with explained(recording.label):
            matches = labels.match_cells(cells, site.channels)
        unknown = sorted(set(site.channels) - set(matches.values()))
        noted.add(notes.UNKNOWN_CELLS, recording.label, len(unknown), unknown)
        if not matches:  # none of the cells of this site is in the population recording
            continue
        trials = find_trials(site, sounds.names, n_time * BIN_S, recording.label, noted)
        with explained(recording.label):
            for cell, site_cell in matches.items():
                if trials_cell_id[cell]:
                    raise ValueError(f"has trials of cell {cell}, but so has another site")
                trials_cell_id[cell] = site_cell
            columns = np.array([column[cell] for cell in matches])
            presented = np.bincount(trials.stim[trials.stim >= 0], minlength=len(is_val))
            if presented[is_val].max(initial=0) > np.iinfo(np.int8).max:
                raise ValueError(f"a sound was presented {presented[is_val].max()} times")
            n_reps[np.ix_(is_val, columns)] = presented[is_val, np.newaxis]
            rep, stim, time, neuron = val_bins(
                site, trials, is_val, dict(zip(matches.values(), columns.tolist(), strict=True))
            )
            cuts += _cuts(trials, is_val, samples_per_bin(site.fs), columns)
        position = ((rep * n_val + val_number[stim]) * n_time + time) * len(cells) + neuron
        fits = position.max(initial=0) < 2**31
        positions.append(position.astype(np.int32) if fits else position)
    _note_missing(label, trials_cell_id, noted)
    shape = (max(N_REPEATS, int(n_reps.max(initial=0))), n_val, n_time, len(cells))
    _check_grid(label, *shape)
    n_reps *= recorded  # sounds that the population recording leaves out for a cell
    counts = _histogram(label, positions, shape)
    return _Coverage(n_reps, list(trials_cell_id.values()), counts, cuts)


def _cuts(
    trials: Trials, is_val: NDArray[np.bool_], samples_a_bin: int, neurons: NDArray[np.int64]
) -> list[Cut]:
    """Find the val trials of a site that were cut short."""
    of_val = (trials.stim >= 0) & is_val[trials.stim]
    rows = np.flatnonzero(of_val & (trials.length < trials.n_samples))
    first_bin = trials.length // samples_a_bin
    return [
        Cut(int(trials.stim[row]), int(trials.rep[row]), int(first_bin[row]), neurons)
        for row in rows
    ]


def _note_missing(label: str, trials_cell_id: dict[str, str], noted: Notes) -> None:
    """Add a note on the sites in which no cell has trials."""
    sites = labels.cell_labels(list(trials_cell_id), "")["site"].tolist()
    with_trials = {site for site, name in zip(sites, trials_cell_id.values(), strict=True) if name}
    missing = sorted(set(sites) - with_trials - {""})
    noted.add(notes.MISSING, label, len(missing), missing)


def _histogram(
    label: str, positions: list[NDArray[Any]], shape: tuple[int, ...]
) -> NDArray[np.uint16]:
    """Count how often each position occurs."""
    counts = np.zeros(shape, np.uint16)
    for of_site in positions:
        np.add.at(counts.reshape(-1), of_site, np.uint16(1))
    if counts.sum(dtype=np.int64) != sum(map(len, positions)):  # a count overflowed
        raise ReleaseError(f"{label}: more than 65,535 spikes in a bin of 10 ms")
    return counts


def _header(
    area: str,
    files: AreaFiles,
    population: nems.Recording,
    sounds: _Sounds,
    coverage: _Coverage,
) -> xr.Dataset:
    """Make the labels, the attributes and the two small variables."""
    stim, resp = population.signals["stim"], population.signals["resp"]
    n_time = sounds.n_time
    spectrogram = np.zeros((len(sounds.names), n_time, len(stim.channels)), stim.data.dtype)
    ends = sounds.stim_onsets + sounds.stim_lengths
    for values, start, stop in zip(spectrogram, sounds.stim_onsets, ends, strict=True):
        _samples(stim.data, start, stop, values)
    flags = auditory_flags(files.table, resp.channels)
    n_rep = max(N_REPEATS, coverage.n_reps.max(initial=0))
    header = xr.Dataset(
        {
            "spectrogram": schema.variable("spectrogram", spectrogram.swapaxes(1, 2)),
            "n_reps": schema.variable("n_reps", coverage.n_reps),
        },
        {
            **sound_coords(sounds.names),
            **cell_coords(area, resp.channels, flags, coverage.trials_cell_id),
            "rep": schema.variable("rep", np.arange(n_rep)),
            "time": schema.time_axis(n_time, schema.BIN_MS, _sound_times(resp.epochs)),
            "freq": schema.variable(
                "freq", np.geomspace(*schema.FREQ_RANGE_HZ, len(stim.channels))
            ),
        },
        dataset_attrs(area, population.meta),
    )
    for variable in header.data_vars.values():
        variable.attrs |= schema.simulated_attr(header)
    return header


def sound_coords(stims: list[str]) -> dict[str, xr.Variable]:
    """Make the coordinates along ``stim``: the names, and labels parsed from them."""
    values = {"stim": np.array(stims, np.str_), **labels.sound_labels(stims)}
    return {name: schema.variable(name, values[name]) for name in schema.SOUND_COORDS}


def cell_coords(
    area: str, cells: list[str], auditory: list[bool], trials_cell_id: list[str]
) -> dict[str, xr.Variable]:
    """Make the coordinates along ``neuron``: ids, labels parsed from them, and other labels."""
    values = {
        "neuron": np.array(cells, np.str_),
        **labels.cell_labels(cells, area),
        "auditory": np.array(auditory, bool),
        "trials_cell_id": np.array(trials_cell_id, np.str_),
    }
    return {name: schema.variable(name, values[name]) for name in schema.CELL_COORDS}


def dataset_attrs(area: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Make the attributes of an area's Dataset."""
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


def _sound_times(epochs: pd.DataFrame) -> dict[str, float]:
    """Find when the sound is on, in s from trial onset, between the silences before and after."""
    sounds = epochs[epochs["name"].str.startswith("STIM_")].sort_values("start")
    times = {}
    for name, silence, edge in (
        ("sound_on", "PreStimSilence", "end"),
        ("sound_off", "PostStimSilence", "start"),
    ):
        silences = epochs[epochs["name"] == silence].sort_values("start")
        same_onset_or_end = "start" if edge == "end" else "end"
        difference = np.subtract.outer(
            sounds[same_onset_or_end].to_numpy(), silences[same_onset_or_end].to_numpy()
        )
        sound, silent = np.nonzero(np.abs(difference) < BIN_S / 2)
        if not len(sound):
            return {}
        onset = sounds["start"].iloc[sound[0]]
        times[name] = round(float(silences[edge].iloc[silent[0]] - onset), 6)
    return times


def _sounds(signal: nems.Signal, label: str, noted: Notes) -> pd.DataFrame:
    """Find the sounds of a population signal: name, onset and length in samples."""
    if signal.kind != "raster" or not np.isclose(signal.fs * BIN_S, 1):
        raise ValueError(f"signal {signal.name!r} is not a raster with a sampling rate of 100 Hz")
    epochs = sound_epochs(signal, label, noted)
    if not len(epochs):
        raise ValueError(f"the epochs of signal {signal.name!r} have no sounds (STIM_...)")
    limits.check("sounds", len(epochs))
    if epochs["name"].duplicated().any():
        raise ValueError(f"the epochs of signal {signal.name!r} contain a sound twice")
    assert signal.n_samples is not None  # a raster counts its samples
    ends = np.minimum(epochs["onset"] + epochs["length"], signal.n_samples)
    return epochs.assign(length=ends - epochs["onset"])


def _check_grid(label: str, n_reps: int, n_stims: int, n_time: int, n_channels: int) -> None:
    """Raise an error if the dense array would take too many gigabytes."""
    with explained(f"{label}: {n_channels:,} channels, and sounds of {n_time:,} bins"):
        limits.check("val_bins", n_reps * max(N_VAL, n_stims) * n_time * n_channels)


def _samples(
    raster: Raster, start: int, stop: int, out: NDArray[Any], missing: float = np.nan
) -> None:
    """Write the samples of a sound to a table of zeros, (time, channel).

    Where the sound was cut short, they are missing.
    """
    raster.dense(start, stop, out[: stop - start])
    out[stop - start :] = missing


def _recorded(raster: Raster, sounds: _Sounds) -> NDArray[np.bool_]:
    """Whether any sample of a sound is not NaN, (sound, channel)."""
    if not np.isnan(raster.values).any():
        return np.ones((len(sounds.names), raster.n_channels), bool)
    bounds = zip(sounds.onsets, sounds.onsets + sounds.lengths, strict=True)
    return np.stack([~np.isnan(raster.dense(*bound)).all(axis=0) for bound in bounds])
