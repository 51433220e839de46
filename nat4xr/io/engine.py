"""Any NEMS recording as an xarray Dataset: the engine ``"nems"`` of ``xarray.open_dataset``."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray, CachingFileManager
from xarray.core import indexing

from nat4xr_engine import NemsBackendEntrypoint

from ..errors import ReleaseError
from . import nems
from .raster import Raster

BLOCK = 2**22
"""Values of a raster that are unpacked at a time: 16 MB."""

_ATTRIBUTE = re.compile("[A-Za-z][A-Za-z0-9_]*")
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # in the text of an attribute


def open_recording(path: str | os.PathLike[str], *, chunks: Any = None) -> xr.Dataset:
    """Open a NEMS recording, of this release or any other, as a lazy Dataset.

    The same as ``xr.open_dataset(path, engine="nems")``. An archive can only be read from end to
    end: opening it passes over the values of rasters, which are read when first asked for, and
    are kept until the Dataset is closed or gone. All else is in memory once it is open.

    Parameters
    ----------
    path : path-like
        A ``.tgz``, ``.tar.gz`` or ``.tar`` file, or the folder unpacked from it.
    chunks : int, dict, "auto" or None, optional
        As for ``xr.open_dataset``: ``"auto"`` gives dask arrays, None arrays that are read
        when their values are asked for.

    Returns
    -------
    xarray.Dataset
        With a variable for each signal, here called ``resp``, whose channels have their names
        along ``resp_channel``:

        - a raster: ``resp`` (time, resp_channel), float32. Signals of the same sampling rate and
          length share ``time``, in s; any others have ``resp_time``.
        - a point process: ``resp`` (resp_event), the times of all events in s, channel after
          channel, and ``resp_row_size`` (resp_channel), the number of events of each (the
          contiguous ragged array of the CF conventions).
        - a tiled signal: ``resp`` (resp_tile, resp_channel, resp_time), with the epoch of each
          tile along ``resp_tile``. Tiles of several lengths stand one after another, ``resp``
          (resp_sample, resp_channel), with ``resp_row_size`` (resp_tile) samples each.

        And ``epoch_name``, ``epoch_start`` and ``epoch_end`` (epoch), in s; a signal with epochs
        of its own has them as ``resp_epoch_name`` and so on. What the recording's meta data hold
        is in the attributes, as JSON where it is neither text nor a number; those of a signal
        are the JSON in its attribute ``meta``.

    Raises
    ------
    TypeError
        ``path`` is not a path.
    ReleaseError
        The recording is broken; the message names the file and what is wrong with it.
    FileNotFoundError
        There is no such file or folder.

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


def recording_dataset(path: Path, unwanted: Collection[str]) -> xr.Dataset:
    """Open a recording lazily, without the variables that are not wanted."""
    recording = nems.read(path, rasters=False)
    arrays = {}
    for name, signal in recording.signals.items():
        if signal.kind == "raster":
            shape = (signal.data.n_samples, signal.data.n_channels)
            manager = CachingFileManager(_ParsedRaster, path, name, shape)
            arrays[name] = _RasterArray(manager, shape)
    variables = [*_signal_variables(recording.signals, arrays), *_epochs(recording.signals)]
    _check_names(variables, recording.signals, path.name)
    wanted = {name: variable for name, variable in variables if name not in unwanted}
    ds = xr.Dataset(wanted, attrs=_attrs(recording))
    ds.set_close(partial(_close, [array.manager for array in arrays.values()]))
    return ds


def _signal_variables(
    signals: Mapping[str, nems.Signal], arrays: Mapping[str, _RasterArray]
) -> Iterator[tuple[str, xr.Variable]]:
    """The signals with their channels and times."""
    time_dims = _shared_dims(
        {name: (signals[name].fs, arrays[name].shape[0]) for name in arrays}, "time"
    )
    for name, signal in signals.items():
        channel = f"{name}_channel"
        if signal.kind == "raster":
            lazy = indexing.LazilyIndexedArray(arrays[name])
            attrs = {"signal_type": "RasterizedSignal"}
            made = {name: xr.Variable((time_dims[name], channel), lazy, attrs)}
        else:
            made = _points(signal) if signal.kind == "points" else _tiles(signal)
        made[name].attrs["sampling_rate"] = signal.fs
        if signal.meta:
            made[name].attrs["meta"] = json.dumps(signal.meta)
        yield from made.items()
        yield channel, _names(channel, signal.channels, f"channel of {name}")
    for dim, name in {dim: name for name, dim in time_dims.items()}.items():
        n_samples, fs = arrays[name].shape[0], signals[name].fs
        yield dim, _times(dim, n_samples, fs, "start of the recording")


def _epochs(signals: Mapping[str, nems.Signal]) -> Iterator[tuple[str, xr.Variable]]:
    """The table of epochs, and one more for each signal whose epochs are others."""
    tables = {name: signal.epochs for name, signal in signals.items()}
    keys = {name: (*t["name"], *t["start"], *t["end"]) for name, t in tables.items()}
    for dim, name in {dim: name for name, dim in _shared_dims(keys, "epoch").items()}.items():
        yield f"{dim}_name", _names(dim, tables[name]["name"], "name of the epoch")
        yield f"{dim}_start", _seconds(dim, tables[name]["start"], "start of the epoch")
        yield f"{dim}_end", _seconds(dim, tables[name]["end"], "end of the epoch")


def _shared_dims(keys: Mapping[str, Hashable], base: str) -> dict[str, str]:
    """The dim of each signal: ``base`` for what most of them share, else a dim of the signal's."""
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
    """The number of elements of each row of a contiguous ragged array."""
    attrs = {"long_name": long_name, "sample_dimension": sample_dim}
    return xr.Variable(dim, np.array(sizes, np.int64), attrs)


def _points(signal: nems.Signal) -> dict[str, xr.Variable]:
    name = signal.name
    times = [signal.data[channel] for channel in signal.channels]
    events = f"{name}_event"
    values = _seconds(events, np.concatenate([np.empty(0), *times]), "time, channel after channel")
    values.attrs["signal_type"] = "PointProcess"
    sizes = [len(t) for t in times]
    rows = _row_size(f"{name}_channel", events, sizes, "number of events of the channel")
    return {name: values, f"{name}_row_size": rows}


def _tiles(signal: nems.Signal) -> dict[str, xr.Variable]:
    name, n_channels = signal.name, len(signal.channels)
    tile, channel = f"{name}_tile", f"{name}_channel"
    sizes = [values.shape[1] for values in signal.data.values()]
    made = {tile: _names(tile, signal.data, "epoch that the tile stands for")}
    attrs = {"signal_type": "TiledSignal"}
    if len(set(sizes)) > 1:
        sample = f"{name}_sample"
        values = np.concatenate([values.T for values in signal.data.values()])
        made[name] = xr.Variable((sample, channel), values, attrs)
        made[f"{name}_row_size"] = _row_size(tile, sample, sizes, "number of samples of the tile")
    else:
        time, n_samples = f"{name}_time", sizes[0] if sizes else 0
        values = np.array([*signal.data.values()]).reshape(len(sizes), n_channels, n_samples)
        made[name] = xr.Variable((tile, channel, time), values, attrs)
        made[time] = _times(time, n_samples, signal.fs, "start of the tile")
    return made


def _attrs(recording: nems.Recording) -> dict[str, Any]:
    """The recording's meta data as attributes that a netCDF file can hold."""
    attrs: dict[str, Any] = {"recording": recording.name}
    rest = {}
    for name, value in recording.meta.items():
        # xarray takes "coordinates" for its own; "meta" holds what has no place elsewhere.
        if not _ATTRIBUTE.fullmatch(name) or name in ("coordinates", "meta", "recording"):
            rest[name] = value
        elif isinstance(value, int | float) and abs(value) < 2**63:
            attrs[name] = value + 0  # netCDF has no booleans
        elif isinstance(value, str) and not _UNWRITABLE.search(value):
            attrs[name] = value
        else:
            attrs[name] = json.dumps(value)
    return attrs | ({"meta": json.dumps(rest)} if rest else {})


def _check_names(
    variables: list[tuple[str, xr.Variable]], signals: Iterable[str], label: str
) -> None:
    counts = Counter(name for name, _ in variables)
    dims = {dim for _, variable in variables for dim in variable.dims}
    for name in signals:
        if counts[name] > 1 or name in dims:
            raise ReleaseError(
                f"signal {name!r} of {label} has the name of a dimension or table that the "
                "Dataset of the recording needs"
            )


def _close(managers: list[CachingFileManager[_ParsedRaster]]) -> None:
    for manager in managers:
        manager.close()


class _ParsedRaster:
    """The values of a raster, read from the recording: what `CachingFileManager` keeps open."""

    def __init__(self, path: Path, name: str, shape: tuple[int, int]) -> None:
        self.values: Raster = nems.read(path, signals=(name,)).signals[name].data
        if (self.values.n_samples, self.values.n_channels) != shape:
            raise ReleaseError(f"{path.name} has changed since it was opened")

    def close(self) -> None:
        """Do nothing: the memory goes when nobody refers to it any more."""


class _RasterArray(BackendArray):
    """A raster that is read when first asked for; by its path it can be pickled."""

    def __init__(self, manager: CachingFileManager[_ParsedRaster], shape: tuple[int, int]) -> None:
        self.manager = manager
        self.shape = shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._unpack
        )

    def _unpack(self, key: tuple[Any, Any]) -> NDArray[np.float32]:
        """Values at slices (whose steps xarray makes positive) or single positions."""
        raster = self.manager.acquire().values
        n_samples, n_channels = self.shape
        samples = range(n_samples)[key[0]]
        if isinstance(samples, int):
            return np.asarray(raster.dense(samples, samples + 1)[0, key[1]])
        values = np.empty((len(samples), *np.empty(n_channels)[key[1]].shape), np.float32)
        at_a_time = max(1, BLOCK // (n_channels * samples.step))
        for i in range(0, len(samples), at_a_time):
            some = samples[i : i + at_a_time]
            table = raster.dense(some[0], some[-1] + 1)
            values[i : i + len(some)] = table[:: some.step, key[1]]
        return values
