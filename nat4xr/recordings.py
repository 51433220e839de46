"""Cut epochs out of the signals of any NEMS recording."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .io.engine import BLOCK

__all__ = ["epochs"]

_KINDS = ("RasterizedSignal", "PointProcess", "TiledSignal")
_ENDS = re.compile("_(channel|event|tile|sample)$")


def epochs(recording: xr.Dataset, name: str) -> xr.Dataset:
    """Cut all occurrences of an epoch out of all signals of a recording, lazily.

    This does what ``signal.extract_epoch(name)`` of NEMS does. It leaves out occurrences that
    overlap an earlier one of the same name, start before 0 or after the end of the recording, or
    have no valid time. Onsets and ends are rounded to samples.

    Parameters
    ----------
    recording : xarray.Dataset
        What `open_recording` returns. You can select channels of rasters before or after this
        call; select channels of event times and of tiles after it.
    name : str
        The name of an epoch. If no epoch has that name, it is taken as a regular expression, and
        all epochs match whose names begin with it, such as ``"STIM_"``.

    Returns
    -------
    xarray.Dataset
        Each signal (for example ``resp``) as a dask array (occurrence, resp_channel, time), in
        order of time. If an occurrence is shorter than the longest one, or extends beyond the
        end of the recording, the rest is NaN (False if the signal is bool).

        - A raster keeps its dtype, except that integers become float64.
        - For a point process, the values are the numbers of events in each sample, float64. The
          sample of an event is ``floor(t * fs)``, counted from ``round(start * fs)``.
        - For a tiled signal, the values are the tile of each occurrence, and 0 where no epoch
          has a tile.

        ``time`` is in s from the onset. The columns of the epochs are coordinates along
        ``occurrence``: ``epoch_name``, ``epoch_start``, ``epoch_end`` and any others. Signals
        with the same sampling rate share the dim ``time``, and signals with the same epochs share
        ``occurrence``; other signals have dims with their own prefix, such as ``resp_time`` and
        ``resp_occurrence``. If there are several rates, ``time`` belongs to the signals that have
        this dim in the recording.

    Warns
    -----
    UserWarning
        If occurrences were left out. The message says how many.

    Raises
    ------
    TypeError
        If ``recording`` is not a Dataset.
    KeyError
        If no epoch has such a name. The message lists the names.
    ValueError
        If ``recording`` has no signals, or if a selection of samples or channels no longer fits
        its epochs.

    References
    ----------
    NEMS, https://github.com/LBHB/NEMS: ``RasterizedSignal.extract_epoch``

    Examples
    --------
    >>> import nat4xr
    >>> from nat4xr.io.registry import data_dir
    >>> rec = nat4xr.open_recording(data_dir() / "A1_NAT4_ozgf.fs100.ch18.tgz")
    >>> resp = nat4xr.epochs(rec, "STIM_00cat").resp
    >>> resp.dims, resp.sizes["occurrence"]
    (('occurrence', 'resp_channel', 'time'), 18)
    >>> mean = resp.mean("occurrence")  # a PSTH over sounds
    """
    if not isinstance(recording, xr.Dataset):
        raise TypeError(
            "recording must be the Dataset that open_recording returns, not a "
            f"{type(recording).__name__}: select a signal afterwards, as in epochs(rec, name).resp"
        )
    signals = {
        str(variable): _signal(recording, str(variable))
        for variable, values in recording.data_vars.items()
        if values.attrs.get("signal_type") in _KINDS
    }
    if not signals:
        raise ValueError("recording has no signals: it is not what open_recording returns")
    names = _matching(recording, {signal.table for signal in signals.values()}, name)
    kept = {variable: _Kept(recording, signal, names) for variable, signal in signals.items()}
    _warn(name, list(kept.values()))
    occurrence = _dims(
        signals,
        {variable: (signals[variable].table, tuple(k.rows)) for variable, k in kept.items()},
        "occurrence",
        [variable for variable, signal in signals.items() if signal.table == "epoch"],
    )
    time = _dims(
        signals,
        {variable: (signals[variable].fs, k.n_samples) for variable, k in kept.items()},
        "time",
        [variable for variable in signals if recording[variable].dims[0] == "time"],
    )
    result = xr.Dataset(attrs=recording.attrs)
    for variable, signal in signals.items():
        bounds, n_samples = kept[variable].bounds, kept[variable].n_samples
        array, inner, attrs = _CUTS[signal.kind](recording, signal, bounds, n_samples)
        dims = (occurrence[variable], *inner, time[variable])
        result[variable] = xr.Variable(dims, array, attrs)
        labels = {c: v.variable for c, v in recording.coords.items() if {*v.dims} <= {*inner}}
        result = result.assign_coords(labels)
        seconds = {"long_name": "time from the onset of the epoch", "units": "s"}
        axis = xr.Variable(time[variable], np.arange(n_samples) / signal.fs, seconds)
        result = result.assign_coords({time[variable]: axis})
        prefix = occurrence[variable].removesuffix("occurrence")
        for column, values in recording.variables.items():
            if values.dims == (signal.table,):
                label = f"{prefix}epoch{str(column).removeprefix(signal.table)}"
                row = values[kept[variable].rows]
                coord = xr.Variable(occurrence[variable], row.values, row.attrs)
                result = result.assign_coords({label: coord})
    return result


@dataclass(frozen=True)
class _Signal:
    """The parts of a recording that belong to a signal.

    Attributes
    ----------
    variable : str
        The variable that holds its values.
    base : str
        The name of the signal, which is the prefix of its dims.
    kind : {"RasterizedSignal", "PointProcess", "TiledSignal"}
    fs : float
        Sampling rate in Hz.
    table : str
        The dim of its epochs.
    first, stop : int or None
        For a raster, the range of samples of the recording that it contains.
    """

    variable: str
    base: str
    kind: str
    fs: float
    table: str
    first: int
    stop: int | None


def _signal(recording: xr.Dataset, variable: str) -> _Signal:
    values = recording[variable]
    kind, fs = values.attrs["signal_type"], float(values.attrs["sampling_rate"])
    ends = [dim for dim in (*values.dims, *values.coords) if _ENDS.search(str(dim))]
    base = _ENDS.sub("", str(ends[0])) if ends else variable
    table = f"{base}_epoch" if f"{base}_epoch_name" in recording else "epoch"
    if f"{table}_name" not in recording:
        raise ValueError("recording has no epochs: pass the whole Dataset, and select afterwards")
    if "segments" in values.attrs:
        raise ValueError(
            f"parts were cut out of {variable!r} before it was saved (see its attribute segments): "
            "the times of its epochs do not fit its samples"
        )
    first, stop = 0, None
    if kind == "RasterizedSignal":
        times = recording[values.dims[0]].values
        first = round(float(times[0]) * fs) if len(times) else 0
        stop = first + len(times)
        if not np.allclose(times, np.arange(first, stop) / fs, atol=0.01 / fs):
            raise ValueError(
                f"the samples of {variable!r} are no longer consecutive at {fs:g} Hz: cut out the "
                "epochs first, and select afterwards"
            )
    return _Signal(variable, base, kind, fs, table, first, stop)


def _matching(recording: xr.Dataset, tables: set[str], name: str) -> set[str]:
    """The names of the epochs to cut out: the name itself, or all that match it."""
    names = {str(n) for table in tables for n in recording[f"{table}_name"].values}
    matches = {name} if name in names else {n for n in names if re.match(name, n)}
    if not matches:
        listed = ", ".join(sorted(names)[:20]) + (", ..." if len(names) > 20 else "")
        raise KeyError(f"no epoch has the name {name!r} or matches it; the names are {listed}")
    return matches


class _Kept:
    """The occurrences that are cut out of a signal.

    Attributes
    ----------
    rows : numpy.ndarray of int
        Their rows in the table of epochs, in order of time.
    bounds : numpy.ndarray of int
        The first and last sample of each, counted from the first sample of the signal.
    n_samples : int
        The length of the longest occurrence.
    n_outside, n_overlapping : int
        How many occurrences are left out because they lie outside the recording, or overlap.
    """

    def __init__(self, recording: xr.Dataset, signal: _Signal, names: set[str]) -> None:
        table = signal.table
        called = np.isin(recording[f"{table}_name"].values, [*names])
        starts, ends = recording[f"{table}_start"].values, recording[f"{table}_end"].values
        first, last = (_samples(times, signal.fs) for times in (starts, ends))
        inside = called & np.isfinite(first) & np.isfinite(last) & (last >= first)
        inside &= first >= signal.first
        if signal.stop is not None:
            inside &= first < signal.stop
        rows = np.flatnonzero(inside)
        rows = rows[np.lexsort((last[rows], first[rows]))]
        end: dict[str, float] = {}
        kept = []
        for row, name in zip(rows, recording[f"{table}_name"].values[rows], strict=True):
            if first[row] >= end.get(name, -np.inf):
                kept.append(row)
                end[name] = last[row]
        self.rows = np.array(kept, int)
        self.bounds = np.stack([first, last], axis=-1)[self.rows].astype(int) - signal.first
        self.n_samples = int(np.diff(self.bounds).max(initial=0))
        self.n_outside = int(called.sum() - inside.sum())
        self.n_overlapping = len(rows) - len(kept)


def _samples(times: NDArray[np.float64], fs: float) -> NDArray[np.float64]:
    """Times in samples, rounded as NEMS does; NaN for numbers too large for an array."""
    samples = np.round(times * fs)
    return np.where(np.abs(samples) < 2**53, samples, np.nan)


def _warn(name: str, kept: list[_Kept]) -> None:
    outside, overlapping = (
        max(getattr(k, n) for k in kept) for n in ("n_outside", "n_overlapping")
    )
    if outside or overlapping:
        warnings.warn(
            f"{outside + overlapping} occurrences of {name!r} are left out: {outside} lie outside "
            f"the recording or have no valid time, {overlapping} overlap an earlier one",
            stacklevel=3,
        )


def _dims(
    signals: dict[str, _Signal], keys: dict[str, Any], name: str, first: list[str]
) -> dict[str, str]:
    """The dim of each signal: ``name`` if it has the key of the first, else a prefixed name."""
    dims = {keys[[*first, *signals][0]]: name}
    for variable, signal in signals.items():
        dims.setdefault(keys[variable], f"{signal.base}_{name}")
    return {variable: dims[keys[variable]] for variable in signals}


Cut = tuple[Any, tuple[str, ...], dict[str, Any]]  # an array, its dims in the middle, attributes


def _cut_raster(
    recording: xr.Dataset, signal: _Signal, bounds: NDArray[np.int64], n_samples: int
) -> Cut:
    """Cut pieces out of the samples, with NaN or False behind the shorter ones."""
    variable = recording.variables[signal.variable]
    inner = tuple(map(str, variable.dims[1:]))
    if variable.dtype.kind in "iu":
        variable = variable.astype(np.float64)
    if variable.chunks is None:
        at_a_time = max(1, BLOCK // max(1, int(np.prod(variable.shape[1:]))))
        variable = variable.chunk({variable.dims[0]: at_a_time, **dict.fromkeys(inner, -1)})
    fill = False if variable.dtype == bool else np.nan
    pieces = []
    for first, last in bounds:
        piece = variable.data[first:last]
        missing = n_samples - piece.shape[0]
        if missing:
            widths = [(0, missing)] + [(0, 0)] * len(inner)
            piece = da.pad(piece, widths, constant_values=fill)
        pieces.append(da.moveaxis(piece, 0, -1).rechunk({-1: -1}))
    shape = (0, *variable.shape[1:], n_samples)
    if not pieces:
        return da.empty(shape, dtype=variable.dtype), inner, dict(variable.attrs)
    array = da.stack(pieces)
    return array, inner, dict(variable.attrs)


def _cut_points(
    recording: xr.Dataset, signal: _Signal, bounds: NDArray[np.int64], n_samples: int
) -> Cut:
    """Count the events in each sample."""
    times = _rows(recording, signal, "channel")
    samples = [np.floor(np.sort(t[np.isfinite(t)]) * signal.fs) for t in times]
    array = _by_occurrence(partial(_count, samples), bounds, (len(times),), n_samples)
    attrs = {"long_name": "number of events", "signal_type": "RasterizedSignal"}
    return array, (f"{signal.base}_channel",), attrs | {"sampling_rate": signal.fs}


def _count(
    samples: list[NDArray[np.float64]], values: NDArray[np.float64], first: int, last: int
) -> None:
    for counts, of_channel in zip(values, samples, strict=True):
        i, j = np.searchsorted(of_channel, [first, last])
        counts[:] = np.bincount((of_channel[i:j] - first).astype(int), minlength=last - first)


def _cut_tiles(
    recording: xr.Dataset, signal: _Signal, bounds: NDArray[np.int64], n_samples: int
) -> Cut:
    """Put the tiles at the samples of their epochs."""
    variable = recording[signal.variable]
    ends = (f"{signal.base}_tile", f"{signal.base}_sample", f"{signal.base}_time")
    inner = tuple(str(dim) for dim in variable.dims if dim not in ends)
    if f"{signal.base}_sample" in variable.dims:
        tiles = [np.moveaxis(tile, 0, -1) for tile in _rows(recording, signal, "tile")]
    else:
        tiles = [*variable.transpose(ends[0], *inner, ends[2]).values]
    names = recording[f"{signal.base}_tile"].values.tolist()
    table = recording[f"{signal.table}_name"].values
    first, last = (
        _samples(recording[f"{signal.table}_{x}"].values, signal.fs) for x in ("start", "end")
    )
    placed = [
        (int(first[row]), int(last[row]), tile)
        for name, tile in zip(names, tiles, strict=True)
        for row in np.flatnonzero((table == name) & (first >= 0) & (last >= first))
    ]
    shape = tiles[0].shape[:-1] if tiles else tuple(recording.sizes[dim] for dim in inner)
    array = _by_occurrence(partial(_place, placed), bounds, shape, n_samples)
    return array, inner, dict(variable.attrs) | {"signal_type": "RasterizedSignal"}


def _place(
    placed: list[tuple[int, int, NDArray[Any]]], values: NDArray[np.float64], first: int, last: int
) -> None:
    values[:] = 0
    for start, stop, tile in placed:
        stop = min(stop, start + tile.shape[-1], last)
        begin = max(start, first)
        if begin < stop:
            values[..., begin - first : stop - first] = tile[..., begin - start : stop - start]


_CUTS: dict[str, Callable[[xr.Dataset, _Signal, NDArray[np.int64], int], Cut]] = {
    "RasterizedSignal": _cut_raster,
    "PointProcess": _cut_points,
    "TiledSignal": _cut_tiles,
}


def _rows(recording: xr.Dataset, signal: _Signal, dim: str) -> list[NDArray[Any]]:
    """The rows of a ragged array."""
    sizes = recording[f"{signal.base}_row_size"].values
    values = recording[signal.variable].values
    if sizes.sum() != len(values) or recording.sizes[f"{signal.base}_{dim}"] != len(sizes):
        raise ValueError(
            f"{signal.variable!r} no longer has all events or samples of its rows: cut out the "
            "epochs first, and select afterwards"
        )
    return np.split(values, np.cumsum(sizes)[:-1]) if len(sizes) else []


def _by_occurrence(
    fill: Callable[[NDArray[np.float64], int, int], None],
    bounds: NDArray[np.int64],
    shape: tuple[int, ...],
    n_samples: int,
) -> Any:
    """Make a dask array (occurrence, ..., time); ``fill`` makes one occurrence of it."""

    def block(bounds: NDArray[np.int64]) -> NDArray[np.float64]:
        values = np.full((len(bounds), *shape, n_samples), np.nan)
        for occurrence, (first, last) in zip(values, bounds, strict=True):
            fill(occurrence[..., : last - first], first, last)
        return values

    at_a_time = max(1, BLOCK // max(1, int(np.prod(shape)) * n_samples))
    chunks = da.from_array(bounds, chunks=(at_a_time, 2))
    new = [1 + i for i in range(len(shape) + 1)]
    sizes = (chunks.chunks[0], *((n,) for n in (*shape, n_samples)))
    meta = np.empty((0,) * len(sizes))
    return chunks.map_blocks(block, drop_axis=1, new_axis=new, chunks=sizes, meta=meta)
