"""Simulate releases in the published layout, with spikes drawn from a known encoding model.

A simulated release has the peculiarities of the published one: trials are in random order and start
between the edges of 10 ms bins, spikes occur between trials, one site has zero-padded electrode
numbers, one cell has no trials, and the names of some sound files differ from the epochs in letter
case. In addition, ``truth.nc`` contains the rates from which the spikes were drawn, their gains on
each trial, and the parameters of the model.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import wave
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import h5py
import netCDF4
import numpy as np
import numpy.typing as npt
import xarray as xr

from . import __version__
from .extras import tqdm
from .io.netcdf import text_encoding
from .io.registry import part_named
from .io.writing import made_folder, unfinished
from .schema import SILENCE_S, SOUND_S, time_axis

__all__ = ["simulate"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# --------------------------------------------------------------------------------------
# What was recorded: sites, cells and sounds
# --------------------------------------------------------------------------------------

# Number of cells at each site. Small releases only have the first sites of this list, so the sites
# with peculiarities come first. A release lists its sites in alphabetical order.
# fmt: off
_SITES = {
    "A1": {
        "ARM029a": 37, "DRX006b": 95, "TNC013a": 22, "TNC018a": 60, "CRD016d": 22,
        "DRX007a": 63, "DRX008b": 86, "TNC017a": 57, "ARM030a": 21, "ARM031a": 50,
        "ARM032a": 44, "ARM033a": 13, "CRD017c": 14, "TNC008a": 19, "TNC009a": 15,
        "TNC010a": 17, "TNC012a": 11, "TNC014a": 41, "TNC015a": 34, "TNC016a": 34,
        "TNC020a": 40, "TNC021a": 54,
    },
    "PEG": {
        "ARM019a": 78, "ARM021b": 58, "ARM017a": 47, "ARM018a": 30, "ARM022b": 32,
        "ARM023a": 8, "ARM024a": 46, "ARM025a": 28, "ARM026b": 22, "ARM027a": 23,
        "ARM028b": 26,
    },
}
# fmt: on
_FEWEST_SITES = {"A1": 3, "PEG": 2}
_CELLS_PER_SITE = 3  # the lowest average number
_AUDITORY = {"A1": 777 / 849, "PEG": 339 / 398}
_FIRST_CELLS = {"ARM029a": ((4, 1), (7, 6), (7, 7))}  # (electrode, unit), all auditory
_PADDED_SITE = "TNC013a"  # in its archive, electrode 22 is written as 022
_CELL_WITHOUT_TRIALS_SITE = "DRX006b"  # the archive lacks the last cell of this site

_VAL_SOUNDS = (
    "00cat172_rec1_geese_excerpt1",
    "00cat221_rec1_laughing_excerpt1",
    "00cat232_rec1_man_speaking_excerpt1",
    "00cat28_rec1_bigband_bbc-big-band_american-patrol_0sec_excerpt1",
    "00cat337_rec1_siren_excerpt1",
    "00cat401_rec1_walking_with_heels_excerpt1",
    "00cat414_rec1_woman_speaking_excerpt1",
    "00cat516_rec1_stream_excerpt1",
    "00cat634_rec1_drumming-jazz_various-artists_fusion-drum-solo_0sec_excerpt1",
    "00cat668_rec1_ferret_fights_Athena-Violet001_excerpt1",
    "00cat668_rec3_ferret_kits_51p9-8-10-11-12-13-14_excerpt1",
    "00cat668_rec7_ferret_oxford_male_chopped_excerpt1",
    "00cat669_rec11_marmoset_twitter_excerpt1",
    "00cat669_rec2_marmoset_chirp_excerpt1",
    "00cat669_rec4_marmoset_phee_2_excerpt1",
    "00cat78_rec1_chimes_in_the_wind_excerpt1",
    "00cat83_rec1_cicadas_excerpt1",
    "00cat92_rec1_country_song_excerpt1",
)
_N_VAL, _N_REPEATS, _N_EST = len(_VAL_SOUNDS), 20, 575
# Words for the names of est sounds. The names of sound files are in lower case.
# fmt: off
_EST_WORDS = (
    "rain", "Door_slam", "dog_bark", "violin", "crowd", "True_story", "engine", "whistle",
    "typing", "piano", "river", "frog", "Glass_breaking", "owl", "train_passing", "footsteps",
    "applause", "cello_suite", "thunder", "zipper", "waterfall", "goat", "coffee_machine",
    "Church_bell", "snoring", "helicopter", "flute", "sawing", "wind",
)
# fmt: on

_N_FREQ, _N_LAGS = 18, 25
_FREQ_HZ = np.geomspace(200, 20_000, _N_FREQ)
_BIN_MS, _N_BINS = 10, 150
_TRIAL_MS = _BIN_MS * _N_BINS
_SOUND = slice(25, 125)  # the bins of a trial in which the sound is on
_N_SOUND = _SOUND.stop - _SOUND.start
_WAV_HZ = 44_100
_SPIKE_SAMPLES_PER_MS = 30
_SPIKE_HZ = 1000 * _SPIKE_SAMPLES_PER_MS
_FATIGUE_MS, _FATIGUE_TRIALS = 3000, 10  # time constant, and number of trials summed


@dataclass(frozen=True)
class _Cell:
    cell_id: str
    trials_cell_id: str  # the name in the site archive; "" if it is missing there
    site: str
    number: int  # within the site; larger releases add cells in this order
    auditory: bool


def _rng(seed: int, *key: object) -> np.random.Generator:
    """Return an independent random generator for each key."""
    return np.random.default_rng([seed, *"/".join(map(str, key)).encode()])


def _cells_per_site(area: str, scale: float) -> dict[str, int]:
    """Distribute the cells: one to each site, and the others in proportion to its full size."""
    full = _SITES[area]
    n_cells = max(round(scale * sum(full.values())), _CELLS_PER_SITE * _FEWEST_SITES[area])
    sites = list(full)[: n_cells // _CELLS_PER_SITE]
    quota = np.array([full[site] - 1 for site in sites], dtype=float)
    quota *= (n_cells - len(sites)) / quota.sum()
    extra = np.floor(quota).astype(int)
    most_short = np.argsort(extra - quota, kind="stable")
    extra[most_short[: n_cells - len(sites) - extra.sum()]] += 1
    return {site: 1 + int(n) for site, n in sorted(zip(sites, extra, strict=True))}


def _electrodes_and_units(site: str, n_cells: int, seed: int) -> list[tuple[int, int]]:
    n_electrodes = 128 if site.startswith("DRX") else 64
    pairs = list(_FIRST_CELLS.get(site, ()))[:n_cells]
    last_unit = dict(pairs)
    lowest = max(last_unit, default=0) + 1
    for number in range(len(pairs), n_cells):
        rng = _rng(seed, "cell id", site, number)
        electrode, skipped = int(rng.integers(lowest, n_electrodes + 1)), int(rng.integers(3))
        last_unit[electrode] = last_unit.get(electrode, skipped) + 1
        pairs.append((electrode, last_unit[electrode]))
    return pairs


def _cells(area: str, scale: float, seed: int) -> list[_Cell]:
    """Return the cells of an area in the order of the population recording."""
    units: list[tuple[str, int, int, int]] = []  # site, electrode, unit, number
    for site, n_cells in _cells_per_site(area, scale).items():
        pairs = _electrodes_and_units(site, n_cells, seed)
        units += sorted((site, *pair, number) for number, pair in enumerate(pairs))

    def rank(i: int) -> float:
        site, electrode, unit, number = units[i]
        if (electrode, unit) in _FIRST_CELLS.get(site, ()):
            return 0.0
        return float(_rng(seed, "auditory", site, number).random())

    n_auditory = round(_AUDITORY[area] * len(units))
    auditory = set(sorted(range(len(units)), key=rank)[:n_auditory])
    missing = max((i for i, u in enumerate(units) if u[0] == _CELL_WITHOUT_TRIALS_SITE), default=-1)
    cells = []
    for i, (site, electrode, unit, number) in enumerate(units):
        digits = 3 if site == _PADDED_SITE else 2
        trials_cell_id = "" if i == missing else f"{site}-{electrode:0{digits}d}-{unit}"
        cell_id = f"{site}-{electrode:02d}-{unit}"
        cells.append(_Cell(cell_id, trials_cell_id, site, number, i in auditory))
    return cells


def _sound_names(n_est: int) -> list[str]:
    """Return the names of the val sounds, then those of the est sounds."""

    def est_name(i: int) -> str:
        category = 1 + 131 * i % 700  # 131 and 700 are coprime: no number repeats in 700 sounds
        word = _EST_WORDS[i % len(_EST_WORDS)]
        return f"cat{category}_rec{1 + i // 700}_{word}_excerpt{1 + i % 2}"

    return [*_VAL_SOUNDS, *(est_name(i) for i in range(n_est))]


# --------------------------------------------------------------------------------------
# The sounds
# --------------------------------------------------------------------------------------


def _smoother(n: int, width: float) -> Floats:
    """Return the matrix that turns white noise into smooth noise of unit variance."""
    steps = np.arange(n)
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))


def _envelopes(name: str, seed: int, contrast: float) -> Floats:
    """Draw the magnitudes (freq, bin of the sound) of one sound."""
    rng = _rng(seed, "sound", name)
    slowness = np.exp(rng.uniform(np.log(2), np.log(12)))  # 20 to 120 ms
    over_freq = _smoother(_N_FREQ, rng.uniform(0.7, 3.0))
    over_time = _smoother(_N_SOUND, slowness)
    modulation = over_freq @ rng.standard_normal((_N_FREQ, _N_SOUND)) @ over_time.T
    spectrum = _smoother(_N_FREQ, 3) @ rng.standard_normal(_N_FREQ)
    envelopes = np.exp(contrast * spectrum[:, None] + 1.2 * modulation)
    if rng.random() < 0.6:  # bursts with gaps, as in calls and footsteps
        envelopes *= _smoother(_N_SOUND, 2 * slowness) @ rng.standard_normal(_N_SOUND) > -0.4
    return np.asarray(envelopes)


def _spectrograms(names: Sequence[str], seed: int, contrast: float) -> Floats:
    """Return the spectrograms (freq, stim, time): the envelopes with silence before and after."""
    spectrograms = np.zeros((_N_FREQ, len(names), _N_BINS))
    for i, name in enumerate(names):
        spectrograms[:, i, _SOUND] = _envelopes(name, seed, contrast)
    return spectrograms


def _carriers(seed: int) -> npt.NDArray[np.float32]:
    """Return a tone and a noise in each band (2, freq, sample), with a period of 1 s."""
    rng = _rng(seed, "carriers")
    tones = np.sin(2 * np.pi * np.rint(_FREQ_HZ)[:, None] * np.arange(_WAV_HZ) / _WAV_HZ)
    half_band = (_FREQ_HZ[1] / _FREQ_HZ[0]) ** 0.5
    hz = np.arange(_WAV_HZ // 2 + 1)
    noises = np.empty_like(tones)
    for noise, centre in zip(noises, _FREQ_HZ, strict=True):
        inside = (hz > centre / half_band) & (hz < centre * half_band)
        noise[:] = np.fft.irfft(inside * np.exp(2j * np.pi * rng.random(hz.size)), _WAV_HZ)
        noise *= np.sqrt(0.5) / noise.std()
    return np.stack([tones, noises]).astype(np.float32)


def _waveform(
    envelopes: Floats, carrier: npt.NDArray[np.float32], shift: int
) -> npt.NDArray[np.int16]:
    centres = (np.arange(_N_SOUND) + 0.5) * _WAV_HZ * _BIN_MS / 1000
    fine = np.stack([np.interp(np.arange(_WAV_HZ), centres, e) for e in envelopes])
    pressure = np.einsum("ft,ft->t", fine.astype(np.float32), np.roll(carrier, shift, axis=1))
    # All sounds have the same gain, so that their levels differ as their spectrograms do.
    return np.asarray(np.clip(40 * pressure, -32_767, 32_767)).astype(np.int16)


# --------------------------------------------------------------------------------------
# The encoding models
# --------------------------------------------------------------------------------------


def _softplus(x: Floats) -> Floats:
    return np.logaddexp(0, x)


def _filter(x: Floats, spectral: Floats, temporal: Floats) -> Floats:
    """Apply a separable causal kernel to x (freq, stim, time): (stim, time)."""
    bins = np.arange(_N_BINS)
    lag = bins - bins[:, None]  # from the bin of the input to the bin of the output
    inside = (lag >= 0) & (lag < len(temporal))
    smear = np.where(inside, temporal[np.where(inside, lag, 0)], 0)
    return np.asarray(np.tensordot(spectral, x, 1) @ smear)


def _draw_tuning(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw a spectral (freq) and a temporal (lag) profile; one cell in eight is an OFF cell."""
    band, lag = np.arange(_N_FREQ), np.arange(_N_LAGS)
    best, spread = rng.uniform(0, _N_FREQ - 1), rng.uniform(0.8, 2.5)
    peak, width = rng.uniform(0.8, 3), rng.uniform(0.6, 1.5)
    inhibition = rng.uniform(0.3, 0.9) * (rng.random() < 0.6)
    early = np.exp(-0.5 * ((lag - peak) / width) ** 2)
    late = np.exp(-0.5 * ((lag - peak - 3 * width) / (2 * width)) ** 2)
    # An OFF cell is first inhibited and later excited, so it fires when the input ends.
    temporal = early - inhibition * late if rng.random() < 0.875 else 0.6 * late - early
    return np.exp(-0.5 * ((band - best) / spread) ** 2), temporal


def _spread(drive: Floats) -> float:
    # Only over the val sounds, which all releases have, so that a cell is the same at every scale.
    return float(drive[:_N_VAL, _SOUND].std())


class _Linear:
    """An encoding model, which determines how the sounds drive a cell."""

    weights_name = "kernel"
    weights_dims: tuple[str, ...] = ("freq", "lag")
    n_tuning = _N_FREQ

    def __init__(self, spectrograms: Floats, seed: int) -> None:
        self.x = np.log1p(spectrograms)
        self.shared: dict[str, xr.Variable] = {}  # parameters that all cells share

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        """Draw the weights of a cell, its drive (stim, time), and its tuning, a unit vector."""
        spectral, temporal = _draw_tuning(rng)
        drive = _filter(self.x, spectral, temporal)
        size = rng.uniform(1.2, 3.0) / _spread(drive)
        tuning = spectral / np.linalg.norm(spectral)
        return size * np.outer(spectral, temporal), size * drive, tuning


class _Adaptive:
    """An encoding model in which cells read out features of adapted sounds."""

    weights_name = "readout"
    weights_dims = ("hidden",)
    n_hidden = n_tuning = 24

    def __init__(self, spectrograms: Floats, seed: int) -> None:
        rng = _rng(seed, "adaptive")
        tau_ms, weight = rng.uniform(40, 250, _N_FREQ), rng.uniform(0.8, 1.0, _N_FREQ)
        x = np.log1p(spectrograms)
        mean = np.zeros_like(x[..., 0])
        change = np.empty_like(x)
        for t in range(_N_BINS):
            change[..., t] = x[..., t] - weight[:, None] * mean
            mean += (1 - np.exp(-_BIN_MS / tau_ms))[:, None] * (x[..., t] - mean)
        on, off = np.maximum(change, 0), np.maximum(-change, 0)
        kernels = np.empty((self.n_hidden, 2, _N_FREQ, _N_LAGS))
        self.hidden = np.empty((*x.shape[1:], self.n_hidden))
        for j in range(self.n_hidden):
            polarity = np.array(
                [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)][rng.choice(3, p=[0.7, 0.1, 0.2])]
            )
            spectral, temporal = _draw_tuning(rng)
            drive = _filter(polarity[0] * on + polarity[1] * off, spectral, temporal)
            size = 3 / _spread(drive)
            kernels[j] = size * polarity[:, None, None] * np.outer(spectral, temporal)
            self.hidden[..., j] = _softplus(size * drive - 2)
        kernel_dims = ("hidden", "polarity", "freq", "lag")
        self.shared = {
            "polarity": xr.Variable("polarity", ["on", "off"]),
            "adaptation_tau": xr.Variable("freq", tau_ms / 1000, {"units": "s"}),
            "adaptation_weight": xr.Variable("freq", weight),
            "hidden_kernel": xr.Variable(kernel_dims, kernels),
        }

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        readout = np.zeros(self.n_hidden)
        chosen = rng.choice(self.n_hidden, 4, replace=False)
        readout[chosen] = rng.uniform(0.5, 1.0, 4) * np.where(rng.random(4) < 0.25, -1, 1)
        drive = self.hidden @ readout
        size = rng.uniform(1.2, 3.0) / _spread(drive)
        return size * readout, size * drive, readout / np.linalg.norm(readout)


_Model = _Linear | _Adaptive
_MODELS: dict[str, Callable[[Floats, int], _Model]] = {"linear": _Linear, "adaptive": _Adaptive}


class _Encoding(NamedTuple):
    rate: npt.NDArray[np.float32]  # (stim, time), expected spikes per bin
    weights: Floats
    tuning: Floats  # its cosine with that of another cell is their similarity; 0 if not auditory
    offset: float
    gain: float


def _encode(model: _Model, cell: _Cell, seed: int) -> _Encoding:
    rng = _rng(seed, "encoding", cell.site, cell.number)
    mean_rate = 0.034 * np.exp(1.05 * rng.standard_normal())  # per 10 ms; the median is 3.4 Hz
    offset = rng.uniform(-2.0, 0.0)
    weights, drive, tuning = (int(cell.auditory) * x for x in model.draw(rng))
    rate = _softplus(offset + drive)
    # The gain only depends on the val sounds, which all releases have. The peak rate during these
    # is at most 300 Hz.
    gain = min(mean_rate / rate[:_N_VAL].mean(), 3 / rate[:_N_VAL].max())
    # Half precision halves truth.nc. Rates are rounded before the spikes are drawn, so that the
    # truth is exact.
    half = (gain * rate).astype(np.float16).astype(np.float32)
    return _Encoding(half, weights, tuning, offset, gain)


# --------------------------------------------------------------------------------------
# Trials and spikes
# --------------------------------------------------------------------------------------


class _Trials(NamedTuple):
    """The trials of a site in the order in which they were presented."""

    stim: Ints
    rep: Ints  # number of earlier presentations of the sound
    onset_ms: Ints


def _present(n_est: int, rng: np.random.Generator) -> _Trials:
    val, est = np.repeat(np.arange(_N_VAL), _N_REPEATS), _N_VAL + np.arange(n_est)
    stim = rng.permutation(np.concatenate([val, est]))
    gaps_ms = rng.integers(1, 51, stim.size - 1)
    rep = np.zeros_like(stim)
    for sound in range(_N_VAL):
        rep[stim == sound] = np.arange(_N_REPEATS)
    return _Trials(stim, rep, np.concatenate([[0], np.cumsum(_TRIAL_MS + gaps_ms)]))


class _Gains(NamedTuple):
    """Factors of a cell's rate (trial,), whose averages over the session are 1."""

    shared_gain: Floats
    private_gain: Floats
    drift: Floats
    adaptation: Floats


_CAUSES = {
    "shared_gain": "gain shared within the site",
    "private_gain": "gain of the cell alone",
    "drift": "drift over the session",
    "adaptation": "adaptation to the trials before",
}


def _slow_drift(trials: _Trials, rng: np.random.Generator) -> Floats:
    """Draw a slow drift over the session: a sum of cosines of one, two and three half periods."""
    session = (trials.onset_ms + _TRIAL_MS / 2) / (trials.onset_ms[-1] + _TRIAL_MS)
    cosines = np.cos(np.pi * np.outer(session, [1, 2, 3]))
    return np.asarray(np.sqrt(2 / 3) * cosines @ rng.standard_normal(3))


def _fatigue(rate: npt.NDArray[np.float32], trials: _Trials) -> Floats:
    """Sum the relative responses to earlier trials, with weights that decay over seconds."""
    per_trial = rate.mean(1, dtype=np.float64)
    drive = per_trial[trials.stim] / per_trial[:_N_VAL].mean()
    fatigue = np.zeros(drive.size)
    for back in range(1, _FATIGUE_TRIALS + 1):
        since_ms = trials.onset_ms[back:] - trials.onset_ms[:-back]
        fatigue[back:] += drive[:-back] * np.exp(-since_ms / _FATIGUE_MS)
    return fatigue


def _draw_gains(
    encoding: _Encoding,
    trials: _Trials,
    site_noise: Floats,
    sizes: Mapping[str, float],
    rng: np.random.Generator,
) -> _Gains:
    logs = {
        # Half of the noise of the site (trial, 1 + tuning) is the same for all cells.
        "shared_gain": site_noise @ (np.sqrt(0.5) * np.array([1, *encoding.tuning])),
        "private_gain": rng.standard_normal(trials.stim.size),
        "drift": _slow_drift(trials, rng),
        "adaptation": -_fatigue(encoding.rate, trials),
    }
    gains = {cause: np.exp(sizes[cause] * log) for cause, log in logs.items()}
    return _Gains(**{cause: gain / gain.mean() for cause, gain in gains.items()})


def _fire(
    rate: npt.NDArray[np.float32], gain: Floats, trials: _Trials, rng: np.random.Generator
) -> Floats:
    """Draw Poisson spike times in s. The rate is constant in a bin, and between trials."""
    per_bin = _BIN_MS * _SPIKE_SAMPLES_PER_MS
    counts = rng.poisson(gain[:, None] * rate[trials.stim]).ravel()
    fired = np.flatnonzero(counts)
    trial, time_bin = np.divmod(np.repeat(fired, counts[fired]), _N_BINS)
    onset = trials.onset_ms * _SPIKE_SAMPLES_PER_MS
    inside = onset[trial] + per_bin * time_bin + rng.integers(0, per_bin, trial.size)

    trial_length = per_bin * _N_BINS
    gaps = np.diff(onset) - trial_length
    in_gaps = rng.poisson(gain[:-1] * rate[0, 0] / per_bin * gaps)
    trial = np.repeat(np.arange(gaps.size), in_gaps)
    between = onset[trial] + trial_length + rng.integers(0, gaps[trial])
    return np.sort(np.concatenate([inside, between])) / _SPIKE_HZ


def _count(times: Floats, trials: _Trials, n_stims: int) -> Ints:
    """Count spikes (stim, time) over all presentations by the format's own binning rule."""
    sample = np.floor(times * 1000).astype(np.int64)
    trial = np.searchsorted(trials.onset_ms, sample, side="right") - 1
    time_bin = (sample - trials.onset_ms[trial]) // _BIN_MS
    kept = time_bin < _N_BINS
    index = trials.stim[trial[kept]] * _N_BINS + time_bin[kept]
    return np.bincount(index, minlength=n_stims * _N_BINS).reshape(n_stims, _N_BINS)


# --------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------


class _Release(NamedTuple):
    """The data that all files of a release share."""

    names: Sequence[str]  # the names of the sounds
    spectrograms: Floats
    stim_csv: str
    model: _Model
    seed: int
    variability: Mapping[str, float]  # standard deviations of the log gains, by cause
    about: dict[str, Any]


_Done = Callable[[int], object]  # called with the number of parts that were written


class _Stream(io.RawIOBase):
    """A readable file made of blocks of bytes, so that no signal is in memory as text."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks = iter(blocks)
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest:
            self.rest = memoryview(next(self.blocks, b""))
        n = min(len(buffer), len(self.rest))
        buffer[:n], self.rest = self.rest[:n], self.rest[n:]
        return n


class _Member(NamedTuple):
    name: str
    size: int
    blocks: Iterable[bytes]


def _whole(name: str, content: bytes | str) -> _Member:
    content = content.encode() if isinstance(content, str) else content
    return _Member(name, len(content), [content])


def _write_tgz(file: IO[bytes], members: Iterable[_Member]) -> None:
    # Without times and machine names, the same seed gives the same bytes.
    with (
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size = member.size
            tar.addfile(info, io.BufferedReader(_Stream(member.blocks), 1 << 20))


def _write_zip_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # ZipInfo has a fixed date; zipfile would give a plain name the current date.
    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _signal_json(
    name: str, recording: str, chans: Sequence[str], fs: int, n: int, kind: str, **meta: str
) -> str:
    signal = {
        "name": name,
        "chans": list(chans),
        "fs": fs,
        "meta": meta,
        "recording": recording,
        "segments": [[0, n]],
        "signal_type": f"<class 'nems0.signal.{kind}'>",
        "normalization": "none",
        "norm_baseline": [[0]],
        "norm_gain": [[1]],
    }
    return json.dumps(signal)


def _epochs_csv(names: Iterable[str], onsets_s: Iterable[float], *, trials: bool) -> str:
    rows = ["name,start,end"]
    duration, on, off = _TRIAL_MS / 1000, 0.25, 1.25
    for name, start in zip(names, onsets_s, strict=True):
        rows.append(f"PreStimSilence,{start!r},{start + on!r}")
        rows.append(f"STIM_{name}.wav,{start!r},{start + duration!r}")
        rows.append(f"REFERENCE,{start!r},{start + duration!r}")
        if trials:
            rows.append(f"TRIAL,{start!r},{start + duration!r}")
        rows.append(f"PostStimSilence,{start + off!r},{start + duration!r}")
    return "\n".join(rows) + "\n"


def _csv(samples: Floats) -> str:
    """Format samples (time, channel) in the CSV of NEMS."""
    row = ",".join(["%.18e"] * samples.shape[1]) + "\n"
    return "".join(row % tuple(values) for values in samples.tolist())


_TEXT_BYTES = len("0.000000000000000000e+00")


def _counts_csv(counts: npt.NDArray[np.uint16], n_val_rows: int) -> Iterator[bytes]:
    """Format spike counts (time, cell) as :func:`_csv` does, with val averaged over repeats.

    Almost all values are zero, and the others have few distinct values. Therefore it is much faster
    to copy blocks of zeros, and then to paste the text of the other values.
    """
    n_rows, n_cells = max(1, 1_000_000 // (counts.shape[1] * _TEXT_BYTES)), counts.shape[1]
    zeros = np.frombuffer(_csv(np.zeros((n_rows, n_cells))).encode(), np.uint8)
    zeros = zeros.reshape(n_rows, n_cells, _TEXT_BYTES + 1)
    for part, n_averaged in ((counts[:n_val_rows], _N_REPEATS), (counts[n_val_rows:], 1)):
        distinct = [f"{n / n_averaged:.18e}".encode() for n in range(int(part.max()) + 1)]
        texts = np.frombuffer(b"".join(distinct), np.uint8).reshape(-1, _TEXT_BYTES)
        for start in range(0, len(part), n_rows):
            block = part[start : start + n_rows]
            text = zeros[: len(block)].copy()
            row, cell = np.nonzero(block)
            text[row, cell, :_TEXT_BYTES] = texts[block[row, cell]]
            yield text.tobytes()


def _write_population(
    path: Path,
    meta: dict[str, Any],
    release: _Release,
    counts: npt.NDArray[np.uint16],
    done: _Done,
) -> None:
    recording, names = meta["siteid"], release.names
    n, n_val_rows = len(counts), _N_VAL * _N_BINS
    epochs = _epochs_csv(names, (1.5 * np.arange(len(names))).tolist(), trials=False)
    resp_csv = _Member("csv", (_TEXT_BYTES + 1) * counts.size, _counts_csv(counts, n_val_rows))
    mask = (np.arange(n) >= n_val_rows).astype(float)[:, None]
    signals: dict[str, tuple[Sequence[str], _Member]] = {
        "stim": ([f"ch{i:02d}" for i in range(_N_FREQ)], _whole("csv", release.stim_csv)),
        "resp": (meta["cellid"], resp_csv),
        "mask_est": (["mask_est"], _whole("csv", _csv(mask))),
    }
    members = [_whole("meta.json", json.dumps(meta))]
    for name, (chans, csv) in signals.items():
        header = _signal_json(name, recording, chans, 1000 // _BIN_MS, n, "RasterizedSignal")
        members.append(csv._replace(name=f"{name}.csv"))
        members.append(_whole(f"{name}.json", header))
        members.append(_whole(f"{name}.epoch.csv", epochs))
    prefix = f"{recording}/{recording}."
    with open(path, "wb") as file:
        _write_tgz(file, (m._replace(name=prefix + m.name) for m in members))
    done(counts.shape[1])


def _site_tgz(
    site: str, meta: dict[str, Any], names: Sequence[str], trials: _Trials, h5: bytes
) -> bytes:
    file, prefix = io.BytesIO(), f"{site}/{site}."
    end_ms = int(trials.onset_ms[-1]) + _TRIAL_MS
    header = _signal_json("resp", site, meta["cellid"], 1000, end_ms, "PointProcess", siteid=site)
    epochs = _epochs_csv(
        [names[i] for i in trials.stim], (trials.onset_ms / 1000).tolist(), trials=True
    )
    members = [
        _whole(prefix + "meta.json", json.dumps(meta)),
        _whole(prefix + "resp.h5", h5),
        _whole(prefix + "resp.json", header),
        _whole(prefix + "resp.epoch.csv", epochs),
    ]
    _write_tgz(file, members)
    return file.getvalue()


def _write_wavs(path: Path, release: _Release, done: _Done) -> None:
    carriers = _carriers(release.seed)
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(release.names):
            rng = _rng(release.seed, "waveform", name)
            carrier, shift = carriers[rng.integers(2)], int(rng.integers(_WAV_HZ))
            file = io.BytesIO()
            with wave.open(file, "wb") as wav:
                wav.setparams((1, 2, _WAV_HZ, 0, "NONE", ""))
                samples = _waveform(release.spectrograms[:, i, _SOUND], carrier, shift)
                wav.writeframes(samples.astype("<i2").tobytes())
            spelling = name.lower() if name.startswith("cat") else name
            _write_zip_member(archive, f"wav/{spelling}.wav", file.getvalue())
            done(1)


@contextmanager
def _open_truth(
    path: Path, release: _Release, cells: dict[str, list[_Cell]]
) -> Iterator[Callable[[_Encoding, _Trials, _Gains], None]]:
    """Write ``truth.nc`` cell by cell, because its rates take half a gigabyte at full size."""
    model = release.model
    flat = [(area, cell) for area, members in cells.items() for cell in members]
    sizes = {"stim": len(release.names), "time": _N_BINS, "neuron": len(flat)}
    sizes["rep"] = _N_REPEATS
    weights: list[Floats] = []
    offset: list[float] = []
    gain: list[float] = []
    with netCDF4.Dataset(path, "w") as file:
        for dim, size in sizes.items():
            file.createDimension(dim, size)

        def create(name: str, *dims: str, **attrs: str) -> Any:
            chunks = [1 if dim == "neuron" else sizes[dim] for dim in dims]
            variable = file.createVariable(
                name, "f4", dims, compression="zlib", complevel=1, chunksizes=chunks
            )
            variable.setncatts(attrs)
            return variable

        rate = create(
            "rate", "stim", "time", "neuron", long_name="expected spikes per bin", units="1"
        )
        gains = [
            create(cause, "stim", "rep", "neuron", long_name=f"factor of the rate: {meaning}")
            for cause, meaning in _CAUSES.items()
        ]

        def write(encoding: _Encoding, trials: _Trials, factors: _Gains) -> None:
            rate[:, :, len(gain)] = encoding.rate
            for variable, factor in zip(gains, factors, strict=True):
                by_repeat = np.full((sizes["stim"], _N_REPEATS), np.nan)
                by_repeat[trials.stim, trials.rep] = factor
                variable[:, :, len(gain)] = by_repeat
            weights.append(encoding.weights)
            offset.append(encoding.offset)
            gain.append(encoding.gain)

        yield write
    sound_times = {"sound_on": SILENCE_S, "sound_off": SILENCE_S + SOUND_S}
    lag = np.arange(_N_LAGS) * _BIN_MS / 1000
    parameters = xr.Dataset(
        {
            model.weights_name: (("neuron", *model.weights_dims), np.stack(weights)),
            "offset": ("neuron", offset),
            "gain": ("neuron", gain, {"long_name": "gain, spikes per bin"}),
            **model.shared,
        },
        coords={
            "stim": [f"STIM_{name}.wav" for name in release.names],
            "rep": np.arange(_N_REPEATS),
            "time": time_axis(_N_BINS, _BIN_MS, sound_times),
            "neuron": [cell.cell_id for _, cell in flat],
            "area": ("neuron", [area for area, _ in flat]),
            "auditory": ("neuron", [cell.auditory for _, cell in flat]),
            "freq": ("freq", _FREQ_HZ, {"long_name": "centre frequency", "units": "Hz"}),
            "lag": ("lag", lag, {"long_name": "time since the input", "units": "s"}),
        },
        attrs={
            "title": "True firing rates of a simulated NAT4 release",
            "simulated": json.dumps(release.about),
        },
    )
    encoding = text_encoding(parameters)
    parameters.to_netcdf(path, mode="a", engine="netcdf4", encoding=encoding)


def _correlation(rate: npt.NDArray[np.float32], counts: Ints) -> str:
    """Return the correlation of the true rate with the val PSTH; "" if one of them is constant."""
    true, recorded = rate[:_N_VAL].ravel(), counts[:_N_VAL].ravel()
    is_defined = true.std() > 0 and recorded.std() > 0
    return f"{np.corrcoef(true, recorded)[0, 1]:.4f}" if is_defined else ""


def _write_area(
    folder: Path,
    area: str,
    cells: Sequence[_Cell],
    release: _Release,
    write_truth: Callable[[_Encoding, _Trials, _Gains], None],
    done: _Done,
) -> Callable[[], None]:
    """Write the sites and the table of an area; return a function for its population recording."""
    names, seed = release.names, release.seed
    n_est = len(names) - _N_VAL
    counts = np.empty((len(names) * _N_BINS, len(cells)), np.uint16)
    table = [",cellid,truth_test,sig_auditory"]
    sites = list(dict.fromkeys(cell.site for cell in cells))
    with zipfile.ZipFile(folder / f"{area}_single_sites.zip", "w") as archive:
        for site in sites:
            trials = _present(n_est, _rng(seed, "trials", site))
            noise_shape = (trials.stim.size, 1 + release.model.n_tuning)
            site_noise = _rng(seed, "site noise", site).standard_normal(noise_shape)
            file = io.BytesIO()
            with h5py.File(file, "w") as h5:
                for i, cell in enumerate(cells):
                    if cell.site != site:
                        continue
                    encoding = _encode(release.model, cell, seed)
                    rng = _rng(seed, "spikes", site, cell.number)
                    gains = _draw_gains(encoding, trials, site_noise, release.variability, rng)
                    times = _fire(encoding.rate, np.prod(gains, axis=0), trials, rng)
                    if cell.trials_cell_id:
                        h5.create_dataset(cell.trials_cell_id, data=times, compression="gzip")
                    binned = _count(times, trials, len(names))
                    counts[:, i] = binned.ravel()
                    correlation = _correlation(encoding.rate, binned)
                    table.append(f"{i},{cell.cell_id},{correlation},{cell.auditory}")
                    write_truth(encoding, trials, gains)
                    done(1)
            chans = [c.trials_cell_id for c in cells if c.site == site and c.trials_cell_id]
            meta = {"siteid": site, "cellid": chans, "simulated": release.about}
            tgz = _site_tgz(site, meta, names, trials, file.getvalue())
            digest = hashlib.sha1(tgz, usedforsecurity=False).hexdigest()
            _write_zip_member(archive, f"{area}_single_sites/{area}_{site}_{digest}.tgz", tgz)
    (folder / f"{area}_pred_correlation.csv").write_text("\n".join(table) + "\n")
    totals = {
        "cells": len(cells),
        "auditory": sum(cell.auditory for cell in cells),
        "sites": len(sites),
        "est": n_est,
        "val": _N_VAL,
        "repeats": _N_REPEATS,
        "cells_without_trials": [cell.cell_id for cell in cells if not cell.trials_cell_id],
        "cells_by_animal": dict(Counter(cell.site[:3] for cell in cells)),
    }
    ids = [cell.cell_id for cell in cells]
    about = {**release.about, **totals}
    meta = {"siteid": f"{area}_NAT4", "cellid": ids, "simulated": about}
    population = folder / f"{area}_NAT4_ozgf.fs100.ch18.tgz"
    return partial(_write_population, population, meta, release, counts, done)


def simulate(
    path: str | os.PathLike[str],
    *,
    areas: Sequence[str] = ("A1", "PEG"),
    scale: float = 0.02,
    sound_scale: float | None = None,
    model: str = "linear",
    sound_contrast: float = 1.0,
    shared_gain: float = 0.2,
    private_gain: float = 0.15,
    drift: float = 0.15,
    adaptation: float = 0.1,
    seed: int = 0,
    progressbar: bool = True,
) -> Path:
    r"""Write a simulated release in the layout of the published one, and its truth.

    Parameters
    ----------
    path : path-like
        Folder to write into. It is made if it does not exist.
    areas : sequence of str, default: ("A1", "PEG")
        ``"A1"``, ``"PEG"`` or both.
    scale : float, default: 0.02
        Number of cells as a fraction of the published 849 (A1) and 398 (PEG); it can exceed 1. At
        1, the numbers of cells, sites, animals and auditory cells are the published ones. Small
        releases have only a few of the sites, and at least 9 (A1) or 6 (PEG) cells.
    sound_scale : float, optional
        Number of est sounds as a fraction of the published 575; it can exceed 1. Default:
        `scale`, but at most 1. There are always 18 val sounds with 20 repeats.
    model : {"linear", "adaptive"}, default: "linear"
        The encoding model (see Notes).
    sound_contrast : float, default: 1.0
        Standard deviation, over sounds, of the log magnitude in a band. If it is large, sounds
        differ much in how strongly they drive a cell. If it is 0, sounds only differ in their
        time course.
    shared_gain : float, default: 0.2
        Standard deviation, over trials, of the log gain that cells of a site share, which causes
        noise correlations. Set this or any of the next three parameters to 0 to turn it off.
    private_gain : float, default: 0.15
        Standard deviation, over trials, of a log gain that is independent in each cell, which
        makes spike counts over-dispersed.
    drift : float, default: 0.15
        Standard deviation, over trials, of a log gain that drifts slowly over the session,
        independently in each cell.
    adaptation : float, default: 0.1
        Strength of the decrease of a cell's gain after each trial (see Notes).
    seed : int, default: 0
        Seed of the random numbers, at least 0. The same arguments give the same bytes. A cell or
        sound that is in two releases of different scales is the same in both, except that a cell
        may be auditory in only one of them, because the fraction of auditory cells is fixed.
    progressbar : bool, default: True
        Whether to show progress.

    Returns
    -------
    pathlib.Path
        The folder, which contains all files of a release and ``truth.nc``. The latter has these
        float32 variables, and the parameters of the model:

        - ``rate`` (stim, time, neuron): expected spikes per 10 ms bin;
        - ``shared_gain``, ``private_gain``, ``drift`` and ``adaptation`` (stim, rep, neuron): the
          factors of this rate on each trial.

    Raises
    ------
    FileExistsError
        If the folder already contains files of a release. They are never overwritten.
    ValueError
        If an area or the model is unknown, if a scale is not positive, or if another number is
        negative.

    Notes
    -----
    A sound consists of tones or noise in 18 bands, which are log-spaced from 200 Hz to 20 kHz. Each
    band has a slow random envelope :math:`s_f(t)`. The envelopes are the published spectrogram.
    The sound lasts from 0.25 to 1.25 s of the 1.5 s trial.

    **Rates.** In both models, the expected number of spikes of an auditory cell :math:`i` in 10 ms
    is

    .. math:: r_i(t) = g_i \, \log(1 + e^{o_i + z_i(t)})

    The other cells fire at a constant rate. The factor :math:`g_i` is such that the mean rates of
    the cells during the val sounds have a log-normal distribution, with a median of 3.4 spikes/s
    and a standard deviation of the logarithm of 1.05, and that the peak rate is at most 300
    spikes/s. In the *linear* model,

    .. math:: z_i(t) = \sum_{f,l} k_i(f, l) \, \log(1 + s_f(t - l))

    with a separable kernel :math:`k_i` of 25 lags of 10 ms. It is a Gaussian over log-frequency,
    and has an early peak in time, which is followed by inhibition in some cells. In one of eight
    cells, inhibition comes first, so that the cell fires when a sound ends. In the *adaptive*
    model, an exponentially weighted mean :math:`m_f` of the past (time constant 40 to 250 ms) is
    subtracted from each band :math:`x_f = \log(1 + s_f)`, and increases and decreases are
    separated: :math:`\mathrm{on}_f(t) = [x_f(t) - w_f m_f(t - 1)]_+`,
    :math:`\mathrm{off}_f(t) = [w_f m_f(t - 1) - x_f(t)]_+`. Kernels :math:`K_j` of the same kind
    and a softplus turn these into 24 features, which all cells share:
    :math:`h_j = \log(1 + e^{K_j * (\mathrm{on}, \mathrm{off}) - 2})`. Then
    :math:`z_i = \sum_j a_{ij} h_j`, with four features in each cell.

    **Trials.** Let sound :math:`s_n` begin at :math:`t_n` in trial :math:`n` of the session. The
    spikes in this trial are drawn from a Poisson process of the rate

    .. math:: G_{in} \, r_i(t), \qquad
              G_{in} \propto e^{\sigma_s u_{in}} \, e^{\sigma_p v_{in}} \, e^{\sigma_d w_i(t_n)} \,
              e^{-\alpha a_{in}}

    which is constant in each bin. The four factors are `shared_gain`, `private_gain`, `drift` and
    `adaptation` in ``truth.nc``, and :math:`\sigma_s`, :math:`\sigma_p`, :math:`\sigma_d` and
    :math:`\alpha` are the parameters of these names. The average of each factor over the session
    is 1, so that :math:`r_i` is the average rate.

    - Shared gain: :math:`u_{in} = (c_n + \mathbf{x}_i \cdot \mathbf{y}_n) / \sqrt{2}`. The scalar
      :math:`c_n` and the vector :math:`\mathbf{y}_n` are standard normal, and the same for all
      cells of the site. The unit vector :math:`\mathbf{x}_i` is the tuning of the cell: the
      Gaussian over frequency, or the readout of the features. It is 0 for cells that are not
      auditory. The correlation of :math:`u` between two cells is half of 1 plus the cosine of the
      angle between their tunings.
    - Private gain: :math:`v_{in}` is standard normal.
    - Drift: :math:`w_i` is a sum of cosines of one, two and three half periods in the session,
      with normal amplitudes.
    - Adaptation: :math:`a_{in} = \sum_m e^{-(t_n - t_m) / \tau} \, \bar r_i(s_m) / \bar r_i`, where
      the sum is over the ten previous trials :math:`m`, :math:`\bar r_i(s)` is the mean rate during
      sound :math:`s`, :math:`\bar r_i` is the mean rate during the val sounds, and :math:`\tau` is
      3 s.

    The column `truth_test` of the cell table is the correlation of the true rate with the val PSTH.
    Each ``meta.json`` contains the parameters of the simulation under ``simulated``.

    References
    ----------
    Rançon U, Masquelier T, Cottereau BR (2024). A general model unifying the adaptive, transient
    and sustained properties of ON and OFF auditory neural responses. PLOS Comput. Biol.
    20:e1012288. doi:10.1371/journal.pcbi.1012288. (The ON and OFF responses of the *adaptive* model
    are similar to those of AdapTrans. The time constants and weights are random.)

    Pennington JR, David SV (2023). A convolutional neural network provides a generalizable model
    of natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol.
    19:e1011110. doi:10.1371/journal.pcbi.1011110. (The published recordings.)

    Examples
    --------
    >>> import nat4xr, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     release = nat4xr.simulate(folder, areas=["PEG"], scale=0.01)
    ...     for file in sorted(release.iterdir()):
    ...         print(file.name)
    PEG_NAT4_ozgf.fs100.ch18.tgz
    PEG_pred_correlation.csv
    PEG_single_sites.zip
    truth.nc
    wav.zip
    """
    areas = list(dict.fromkeys(map(part_named, [areas] if isinstance(areas, str) else areas)))
    if not areas:
        raise ValueError("areas is empty: choose 'A1', 'PEG' or both")
    if model not in _MODELS:
        raise ValueError(f"model must be one of {list(_MODELS)}, not {model!r}")
    if sound_scale is None:
        sound_scale = min(scale, 1.0)
    if not (0 < scale < np.inf and 0 < sound_scale < np.inf):
        raise ValueError(f"scales must be positive, not scale={scale}, sound_scale={sound_scale}")
    spreads = {
        "sound_contrast": sound_contrast,
        "shared_gain": shared_gain,
        "private_gain": private_gain,
        "drift": drift,
        "adaptation": adaptation,
    }
    for name, value in spreads.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be 0 or more, not {value}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    path = made_folder(path)
    release_names = ("A1_", "PEG_", "wav.zip", "truth.nc")
    existing = sorted(f.name for f in path.iterdir() if f.name.startswith(release_names))
    if existing:
        raise FileExistsError(
            f"{path} already contains files of a release ({', '.join(existing)}): choose another "
            "folder, or remove these files first"
        )

    names = _sound_names(max(1, round(sound_scale * _N_EST)))
    spectrograms = _spectrograms(names, seed, sound_contrast)
    release = _Release(
        names=names,
        spectrograms=spectrograms,
        stim_csv=_csv(spectrograms.reshape(_N_FREQ, -1).T),
        model=_MODELS[model](spectrograms, seed),
        seed=seed,
        variability={cause: spreads[cause] for cause in _Gains._fields},
        about={
            "by": f"nat4xr {__version__}",
            "seed": seed,
            "scale": scale,
            "sound_scale": sound_scale,
            "model": model,
            **spreads,
        },
    )
    cells = {area: _cells(area, scale, seed) for area in areas}
    # Files are moved to their final names at the end, so that these never belong to partial files.
    with unfinished(path / "truth.nc") as truth:
        folder = truth.parent
        bar = tqdm(
            desc=f"Simulating {' and '.join(areas)}",
            # Each cell is two parts: its spikes, and its column in the population recording.
            total=len(names) + 2 * sum(map(len, cells.values())),
            unit="part",
            disable=not progressbar,
        )
        # Compressing the sounds and population recordings takes half the time, so other threads
        # write these.
        with (
            bar,
            ThreadPoolExecutor(2) as writer,
            _open_truth(truth, release, cells) as write_truth,
        ):
            written = [writer.submit(_write_wavs, folder / "wav.zip", release, bar.update)]
            for area in areas:
                write_population = _write_area(
                    folder, area, cells[area], release, write_truth, bar.update
                )
                written.append(writer.submit(write_population))
            for part in written:
                part.result()
        for file in sorted(folder.iterdir()):
            os.replace(file, path / file.name)
    return path
