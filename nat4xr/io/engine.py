"""Open NEMS recordings as Datasets. This is the engine ``"nems"`` of ``xarray.open_dataset``."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray, CachingFileManager
from xarray.core import indexing

from nat4xr_engine import NemsBackendEntrypoint, local_path

from ..errors import ReleaseError, explained, shown
from ..extras import require
from . import nems
from .raster import Raster
from .writing import crc32_of

BLOCK = 2**22
"""Number of raster values that are unpacked at a time; they take 32 MB."""

_ATTRIBUTE = re.compile("[A-Za-z][A-Za-z0-9_]*")
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # characters that netCDF attributes cannot contain


def open_recording(path: str | os.PathLike[str] | IO[bytes], *, chunks: Any = None) -> xr.Dataset:
    """Open any recording of NEMS or NEMS0 as a lazy Dataset.

    This does the same as ``xr.open_dataset(path, engine="nems")``. The values of rasters are read
    when they are first used, and stay in memory until the Dataset is closed or deleted. Everything
    else is read when the recording is opened.

    Parameters
    ----------
    path : path-like, str or binary file
        A ``.tgz``, ``.tar.gz`` or ``.tar`` file, the folder unpacked from it, the URL of such a
        file (``https://``, ``file://``, or another protocol of fsspec), or such a file opened in
        binary mode. URLs and open files are read completely, and their content stays in memory.
    chunks : int, dict, "auto" or None, optional
        As for ``xr.open_dataset``: ``"auto"`` gives dask arrays, and None gives arrays that are
        read when their values are used.

    Returns
    -------
    xarray.Dataset
        It has a variable for each signal, with the names of the channels along
        ``<signal>_channel``. For a signal ``resp``, this depends on the kind of the signal:

        - A raster is ``resp`` (time, resp_channel), float64, or of the type in the file (bool,
          integers, float32). Signals with the same sampling rate and length share ``time`` in s;
          others have ``resp_time``. Further dims between channel and time are called
          ``resp_dim_1`` and so on.
        - A point process is ``resp`` (resp_event), the times of all events in s, one channel after
          another, and ``resp_row_size`` (resp_channel), the number of events in each channel. This
          is the contiguous ragged array of the CF conventions. Times are not changed. The
          attribute ``comment`` says if any of them are unsorted, negative, infinite or NaN.
        - A tiled signal is ``resp`` (resp_tile, resp_channel, resp_time), with the epoch of each
          tile along ``resp_tile``. If the tiles have different lengths, they are concatenated:
          ``resp`` (resp_sample, resp_channel), with the number of samples of each tile in
          ``resp_row_size`` (resp_tile).

        The epochs are ``epoch_name``, ``epoch_start`` and ``epoch_end`` (epoch), in s, and a
        variable for each further column. If a signal has different epochs, these are called
        ``resp_epoch_name`` and so on. If the name of a signal is also that of a dim or another
        variable, such as ``time``, the signal is called ``time_signal``.

        The meta data of the recording are in the attributes, and those of a signal in its attribute
        ``meta``. Values that are neither text nor numbers are JSON. The attributes
        ``normalization``, ``norm_baseline`` and ``norm_gain`` of a signal describe how NEMS scaled
        it; the scaling is not undone. ``segments`` says if parts of the signal were cut out.

    Warns
    -----
    UserWarning
        If a signal has several views (as for a jackknife), because only the first one is read, or
        if the number of channel names is wrong, because the channels are then numbered.

    Raises
    ------
    TypeError
        If ``path`` is neither a path nor a binary file.
    ReleaseError
        If the recording is broken, or was replaced after it was opened. The message names the file
        and the problem.
    FileNotFoundError
        If the file or folder does not exist.

    References
    ----------
    CF conventions, section 9.3.3, https://cfconventions.org/cf-conventions/cf-conventions.html

    Examples
    --------
    >>> import nat4xr
    >>> from nat4xr.io.registry import data_dir
    >>> rec = nat4xr.open_recording(data_dir() / "A1_NAT4_ozgf.fs100.ch18.tgz")
    >>> rec.resp.dims
    ('time', 'resp_channel')
    >>> first = rec.resp.sel(resp_channel="ARM029a-07-6", time=slice(0, 1.495))
    >>> first.sizes["time"]
    150
    >>> epochs = rec[["epoch_name", "epoch_start", "epoch_end"]].to_dataframe()
    >>> epochs[epochs.epoch_name.str.contains("geese")].epoch_start.tolist()
    [0.0]
    """
    ds: xr.Dataset = xr.open_dataset(path, engine=NemsBackendEntrypoint, chunks=chunks)
    return ds


def recording_dataset(source: Any, unwanted: Collection[str]) -> xr.Dataset:
    """Open a recording lazily, without the variables in `unwanted`."""
    file = _located(source)
    recording = nems.read(file.source, rasters=False, label=file.label)
    file = file.with_checksums()
    arrays = {
        name: _RasterArray(file, signal)
        for name, signal in recording.signals.items()
        if signal.kind == "raster"
    }
    _warn(recording)
    signals, others = _signal_variables(recording.signals, arrays)
    others |= dict(_epochs(recording.signals))
    names = _free_names(signals, others)
    variables = {names[name]: variable for name, variable in signals.items()} | others
    wanted = {name: variable for name, variable in variables.items() if name not in unwanted}
    ds = xr.Dataset(wanted, attrs=_attrs(recording))
    ds.set_close(partial(_close, [array.manager for array in arrays.values()]))
    return ds


class _File(NamedTuple):
    """The source of a recording, and the state of its files when it was opened."""

    source: Path | bytes
    label: str
    state: tuple[tuple[str, int, int], ...]
    checksums: tuple[int, ...] = ()

    def with_checksums(self) -> _File:
        """Add the checksums, because a replaced file may have the same size and time."""
        if not isinstance(self.source, Path):
            return self
        checksums = _checksums(self.source)
        self.check_unchanged()
        return self._replace(checksums=checksums)

    def check_unchanged(self) -> None:
        if isinstance(self.source, Path) and (
            _state(self.source) != self.state
            or (self.checksums and _checksums(self.source) != self.checksums)
        ):
            raise ReleaseError(
                f"{self.source} was replaced or changed after it was opened: open it again"
            )


def _located(source: Any) -> _File:
    """Find a local recording, or read one from a URL or an open file into memory."""
    if (path := local_path(source)) is not None:
        with explained(path.name):
            return _File(path, path.name, _state(path))
    if isinstance(source, bytes):
        return _File(source, "recording", ())
    if isinstance(source, str):
        return _File(_download(source), shown(source.rpartition("/")[2]), ())
    if not hasattr(source, "read"):
        raise TypeError(f"engine 'nems' opens files, folders and URLs, not {type(source).__name__}")
    name = getattr(source, "name", "recording")
    if source.seekable():
        source.seek(0)
    content = source.read()
    if not isinstance(content, bytes):
        raise TypeError(f"{name} was not opened in binary mode: open it with 'rb'")
    return _File(content, shown(os.path.basename(name)) if isinstance(name, str) else "file", ())


def _download(address: str) -> bytes:
    if address.startswith(("http://", "https://")):
        require("aiohttp", "remote")
    filesystem, path = require("fsspec.core", "remote").url_to_fs(address)
    content: bytes = filesystem.cat_file(path)
    return content


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and modification times of a file, or of all files in a folder."""
    states = [(str(file), file.stat()) for file in _files(path)]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in states)


def _checksums(path: Path) -> tuple[int, ...]:
    """Return the CRC-32 of a file, or of each file of the recording in a folder."""
    files = [file for file in _files(path) if file == path or nems.is_part(file.name)]
    return tuple(crc32_of(file) for file in files)


def _files(path: Path) -> list[Path]:
    """Return the file itself, or the files in a folder and in its subfolders."""
    if not path.is_dir():
        return [path]
    inside = sorted(path.iterdir())
    folders = [folder for folder in inside if folder.is_dir()]
    files = [*inside, *(file for folder in folders for file in sorted(folder.iterdir()))]
    return [file for file in files if not file.is_dir()]


def _warn(recording: nems.Recording) -> None:
    """Warn about what is left out or repaired."""
    if recording.n_views:
        names = ", ".join(f"{name} ({n})" for name, n in recording.n_views.items())
        warnings.warn(
            f"{recording.label} has several views of these signals, and only the first is read: "
            f"{names}",
            stacklevel=2,
        )
    for name, signal in recording.signals.items():
        n_listed = len(signal.channels if signal.listed is None else signal.listed)
        if signal.kind != "points" and n_listed != len(signal.channels) != 1:
            warnings.warn(
                f"{recording.label} has {len(signal.channels)} channels of {name!r}, but "
                f"{n_listed} names for them: the channels are numbered instead",
                stacklevel=2,
            )


def _signal_variables(
    signals: Mapping[str, nems.Signal], arrays: Mapping[str, _RasterArray]
) -> tuple[dict[str, xr.Variable], dict[str, xr.Variable]]:
    """Make the variables of the signals, by name, and those of their channels, times and rows."""
    time_dims = _shared_dims(
        {name: (signals[name].fs, arrays[name].shape[0]) for name in arrays}, "time"
    )
    variables: dict[str, xr.Variable] = {}
    others: dict[str, xr.Variable] = {}
    for name, signal in signals.items():
        channels = signal.channels
        if signal.kind == "raster":
            inner = [f"{name}_dim_{number}" for number in range(1, 1 + len(signal.inner))]
            lazy = indexing.LazilyIndexedArray(arrays[name])
            dims = (time_dims[name], f"{name}_channel", *inner)
            variables[name] = xr.Variable(dims, lazy, {"signal_type": "RasterizedSignal"})
        elif signal.kind == "points":
            channels = [*dict.fromkeys([*(signal.listed or ()), *channels])]
            variables[name], more = _points(signal, channels)
            others |= more
        else:
            variables[name], more = _tiles(signal)
            others |= more
        variables[name].attrs |= {"sampling_rate": signal.fs, **_normalization(signal)}
        if signal.meta:
            variables[name].attrs["meta"] = json.dumps(signal.meta)
        if len(signal.segments) > 1:
            variables[name].attrs["segments"] = json.dumps(signal.segments)
        others[f"{name}_channel"] = _names(f"{name}_channel", channels, f"channel of {name}")
    for dim, name in {dim: name for name, dim in time_dims.items()}.items():
        n_samples, fs = arrays[name].shape[0], signals[name].fs
        others[dim] = _times(dim, n_samples, fs, "start of the recording")
    return variables, others


def _free_names(
    signals: Mapping[str, xr.Variable], others: Mapping[str, xr.Variable]
) -> dict[str, str]:
    """Choose the name of each signal: ``<name>_signal`` if the name is already in use."""
    variables = [*signals.values(), *others.values()]
    taken = set(others) | {str(dim) for variable in variables for dim in variable.dims}
    names: dict[str, str] = {}
    for name in signals:
        free = name
        while free in taken or (free != name and free in signals):
            free += "_signal"
        names[name] = free
        taken.add(free)
    return names


def _normalization(signal: nems.Signal) -> dict[str, Any]:
    """Return the scaling of a signal as attributes, with plain numbers instead of matrices."""
    attrs: dict[str, Any] = {}
    for key, value in signal.normalization.items():
        if isinstance(value, str):
            attrs[key] = value
        elif signal.normalization.get("normalization") != "none":
            try:
                numbers = np.asarray(value, np.float64).reshape(-1)
                attrs[key] = numbers if numbers.size > 1 else float(numbers[0])
            except (TypeError, ValueError, IndexError):
                attrs[key] = json.dumps(value)
    return attrs


def _epochs(signals: Mapping[str, nems.Signal]) -> Iterator[tuple[str, xr.Variable]]:
    """Yield the columns of the epochs, and those of each signal that has different epochs."""
    keys = {
        name: (signal.epochs.to_csv(), *map(repr, signal.epoch_columns.items()))
        for name, signal in signals.items()
        if len(signal.epochs)
    }
    keys = keys or {name: () for name in signals}
    for dim, name in {dim: name for name, dim in _shared_dims(keys, "epoch").items()}.items():
        table = signals[name].epochs
        yield f"{dim}_name", _names(dim, table["name"], "name of the epoch")
        yield f"{dim}_start", _seconds(dim, table["start"], "start of the epoch")
        yield f"{dim}_end", _seconds(dim, table["end"], "end of the epoch")
        for column, values in signals[name].epoch_columns.items():
            attrs = {"long_name": f"column {column!r} of the epochs"}
            yield f"{dim}_{column.replace('/', '_')}", xr.Variable(dim, values, attrs)


def _shared_dims(keys: Mapping[str, Hashable], base: str) -> dict[str, str]:
    """Choose the dim of each signal: `base` for the most common key, or else ``<name>_<base>``."""
    dims = {key: base for key, _ in Counter(keys.values()).most_common(1)}
    for name, key in keys.items():
        dims.setdefault(key, f"{name}_{base}")
    return {name: dims[key] for name, key in keys.items()}


def _names(dim: str, names: Iterable[str], long_name: str) -> xr.Variable:
    return xr.Variable(dim, np.array(list(names), np.str_), {"long_name": long_name})


def _seconds(dim: str, values: Any, long_name: str) -> xr.Variable:
    attrs = {"long_name": long_name, "units": "s"}
    return xr.Variable(dim, np.asarray(values, np.float64), attrs)


def _times(dim: str, n_samples: int, fs: float, origin: str) -> xr.Variable:
    return _seconds(dim, np.arange(n_samples) / fs, f"time from {origin}")


def _row_size(dim: str, sample_dim: str, sizes: list[int], long_name: str) -> xr.Variable:
    """Make the variable with the number of elements in each row of a contiguous ragged array."""
    attrs = {"long_name": long_name, "sample_dimension": sample_dim}
    return xr.Variable(dim, np.array(sizes, np.int64), attrs)


def _points(signal: nems.Signal, channels: list[str]) -> tuple[xr.Variable, dict[str, xr.Variable]]:
    name = signal.name
    times = [signal.data.get(channel, np.empty(0, np.int64)) for channel in channels]
    if any(t.dtype.kind == "f" for t in times) or not any(map(len, times)):
        times = [t.astype(np.float64) for t in times]
    events = f"{name}_event"
    attrs = {"long_name": "time, channel after channel", "units": "s"}
    values = xr.Variable(events, np.concatenate([np.empty(0, int), *times]), attrs)
    values = values.astype(times[0].dtype if times else np.float64)
    values.attrs["signal_type"] = "PointProcess"
    if comment := _oddities(times):
        values.attrs["comment"] = comment
    sizes = [len(t) for t in times]
    rows = _row_size(f"{name}_channel", events, sizes, "number of events of the channel")
    return values, {f"{name}_row_size": rows}


def _oddities(times: list[NDArray[Any]]) -> str:
    """Describe unusual event times, for an attribute."""
    all_times = np.concatenate([np.empty(0), *times])
    counts = {
        "NaN": np.isnan(all_times).sum(),
        "infinite": np.isinf(all_times).sum(),
        "negative": (all_times < 0).sum(),
    }
    parts = [f"{n} of {len(all_times)} event times are {kind}" for kind, n in counts.items() if n]
    unsorted = sum(bool((t[1:] < t[:-1]).any()) for t in times)
    if unsorted:
        parts.append(f"event times of {unsorted} of {len(times)} channels are not in order")
    return "; ".join(parts)


def _tiles(signal: nems.Signal) -> tuple[xr.Variable, dict[str, xr.Variable]]:
    name, tiles = signal.name, [*signal.data.values()]
    tile = f"{name}_tile"
    others = {tile: _names(tile, signal.data, "epoch that the tile stands for")}
    sizes = [values.shape[-1] for values in tiles]
    inner = tiles[0].shape[:-1] if tiles else (len(signal.channels),)
    dims = [f"{name}_channel", *(f"{name}_dim_{n}" for n in range(1, len(inner)))]
    attrs = {"signal_type": "TiledSignal"}
    if len(set(sizes)) > 1:
        sample = f"{name}_sample"
        values = np.concatenate([np.moveaxis(values, -1, 0) for values in tiles])
        rows = _row_size(tile, sample, sizes, "number of samples of the tile")
        return xr.Variable((sample, *dims), values, attrs), others | {f"{name}_row_size": rows}
    time, n_samples = f"{name}_time", sizes[0] if sizes else 0
    values = np.stack(tiles) if tiles else np.empty((0, *inner, n_samples))
    others[time] = _times(time, n_samples, signal.fs, "start of the tile")
    return xr.Variable((tile, *dims, time), values, attrs), others


def _attrs(recording: nems.Recording) -> dict[str, Any]:
    """Convert the meta data of the recording to attributes that netCDF can store."""
    attrs: dict[str, Any] = {"recording": recording.name}
    rest = {}
    for name, value in recording.meta.items():
        # xarray uses "coordinates" itself, and "meta" is for names that cannot be attributes.
        if not _ATTRIBUTE.fullmatch(name) or name in ("coordinates", "meta", "recording"):
            rest[name] = value
        elif isinstance(value, int | float) and abs(value) < 2**63:
            attrs[name] = value + 0  # netCDF has no booleans
        elif isinstance(value, str) and not _UNWRITABLE.search(value):
            attrs[name] = value
        else:
            attrs[name] = json.dumps(value)
    return attrs | ({"meta": json.dumps(rest)} if rest else {})


def _close(managers: list[CachingFileManager[_ParsedRaster]]) -> None:
    for manager in managers:
        manager.close()


class _ParsedRaster:
    """The values of a raster, which `CachingFileManager` keeps like an open file."""

    def __init__(
        self, file: _File, name: str, channels: tuple[str, ...], n_samples: int, mode: str
    ) -> None:
        file.check_unchanged()
        recording = nems.read(file.source, signals=(name,), label=file.label)
        file.check_unchanged()
        signal = recording.signals[name]
        is_same = signal.kind == "raster" and tuple(signal.channels) == channels
        if not is_same or signal.data.n_samples != n_samples:
            raise ReleaseError(f"{file.label} was replaced after it was opened: open it again")
        self.values: Raster = signal.data

    def close(self) -> None:
        """Do nothing, because the memory is freed with the last reference."""


class _RasterArray(BackendArray):
    """A raster that is read when its values are first used. It is pickled by its path."""

    def __init__(self, file: _File, signal: nems.Signal) -> None:
        identity = (signal.name, tuple(signal.channels), signal.data.n_samples)
        # Without a mode, an unpickled manager would not open anything.
        self.manager = CachingFileManager(_ParsedRaster, file, *identity, mode="r")
        self.inner = (len(signal.channels), *signal.inner)
        self.shape = (signal.data.n_samples, *self.inner)
        self.dtype = signal.data.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._unpack
        )

    def _unpack(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Return values at slices (xarray makes their steps positive) or single positions."""
        raster = self.manager.acquire().values
        samples, inner = range(self.shape[0])[key[0]], key[1:]
        if isinstance(samples, int):
            return np.asarray(self._dense(raster, samples, samples + 1)[(0, *inner)])
        shape = np.empty(self.inner, bool)[inner].shape
        values = np.empty((len(samples), *shape), self.dtype)
        at_a_time = max(1, BLOCK // max(1, math.prod(self.inner) * samples.step))
        for i in range(0, len(samples), at_a_time):
            block = samples[i : i + at_a_time]
            table = self._dense(raster, block[0], block[-1] + 1)
            values[i : i + len(block)] = table[(slice(None, None, block.step), *inner)]
        return values

    def _dense(self, raster: Raster, start: int, stop: int) -> NDArray[Any]:
        return raster.dense(start, stop).reshape(stop - start, *self.inner)
