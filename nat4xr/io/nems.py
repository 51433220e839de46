"""Reading NEMS recordings: bytes in, signals, epochs and meta out. Knows nothing of NAT4.

A recording is a gzipped tar (or a plain one) with one folder in it, or that folder: a JSON,
an ``epoch.csv`` and a data file (``csv`` or ``h5``) for each signal. Archives are read in
one pass, in whatever order their members come, and nothing is ever extracted.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import ReleaseError, explained, shown
from .raster import Raster, fill, measure_raster, read_raster
from .tables import MAX_ROWS, MAX_TABLE, parse_numbers, read_table

MAX_MEMBERS = 1000
"""A recording of more files and folders than this is refused; a real one has some 20."""

MAX_RECORDING = 64 * 2**30
"""The files of a recording are streamed, up to this many bytes in all."""

MAX_JSON = 4 * 2**20
"""JSON can take a hundred times its size in memory: it may have this many bytes in all."""

MAX_NAME = 255
"""Channels and epochs with names of more characters are refused: arrays pad all to the longest."""

MAX_HDF5 = 256 * 2**20
"""An HDF5 file may have this many bytes, and hold as many."""

MAX_DATASETS, MAX_CHUNKS = 2**12, 2**14
"""An HDF5 file may have this many datasets and chunks; a real one has a tenth of either."""

MAX_TIME, MAX_FS = 1e9, 1e9
"""Times in s and rates in Hz beyond these are refused: the number of a sample is an integer."""

MAX_SEARCH = 4 * 2**30
"""Of an archive that may be a recording, this many bytes are searched for proof that it is."""

_HEADERS = 2**14  # bytes that may stand between two files of an archive: names, mostly
_DIGITS_IN_HEADERS = re.compile(rb"[0-9]{256}")  # Python before 3.11.10 takes their square in time
_GLOBAL_HEADERS = 100  # which tarfile copies for each file
_TAIL = 2**20  # zeros that may stand at the end of an archive
Kind = Literal["raster", "points", "tiles"]
Stream = Any  # a binary file: read(n), readinto(buffer), seek(n)


@dataclass(frozen=True)
class Signal:
    """One signal of a recording.

    Attributes
    ----------
    name : str
    kind : {"raster", "points", "tiles"}
        What ``data`` is: a `Raster` (or its `RasterShape`, see `read`); a dict of event times
        in s by channel; or a dict of (channels, samples) arrays by epoch name.
    channels : list of str
    fs : float
        Sampling rate in Hz.
    epochs : pandas.DataFrame
        Columns ``name``, ``start`` and ``end``, in s.
    n_samples : int or None
        Length of the recording in samples, where the file says it.
    meta : dict
    """

    name: str
    kind: Kind
    channels: list[str]
    fs: float
    epochs: pd.DataFrame
    n_samples: int | None
    meta: dict[str, Any]
    data: Any = field(repr=False)


@dataclass(frozen=True)
class Recording:
    """A NEMS recording: its name, its signals by name, its meta data; its label in messages."""

    name: str
    signals: dict[str, Signal]
    meta: dict[str, Any]
    label: str


def read(
    source: Path | bytes,
    *,
    signals: Collection[str] | None = None,
    label: str | None = None,
    rasters: bool = True,
    most: int = MAX_RECORDING,
) -> Recording:
    """Read a NEMS recording.

    Parameters
    ----------
    source : pathlib.Path or bytes
        A ``.tgz``, ``.tar.gz`` or ``.tar`` file, its bytes, or the unpacked folder (which may
        be wrapped in one more folder).
    signals : collection of str, optional
        Which signals to read. Default: all.
    label : str, optional
        What to call the source in error messages. Default: its file name.
    rasters : bool, optional
        False passes over the values of rasters: their ``data`` is a `RasterShape`.
    most : int, optional
        The bytes that the files may have in all.

    Returns
    -------
    Recording

    Raises
    ------
    ReleaseError
        The recording is broken; the message names the file and what is wrong with it.
    FileNotFoundError
        There is no such file or folder.
    """
    label = label or (source.name if isinstance(source, Path) else "recording")
    readers = _READERS if rasters else _READERS | {"csv": measure_raster}
    parts: dict[tuple[str, str], Any] = {}
    names = set()
    total = n_json = n_epochs = 0
    with explained(label), closing(_members(source)) as members:
        for member, stream, size in members:
            total += size
            if total > most:
                raise ValueError(f"claims more than {most:,} bytes")
            parsed = _parse_name(member)
            if parsed is None:
                continue
            recording, signal, part = parsed
            if not (recording + signal).isprintable():
                raise ValueError(f"holds a file with the unsafe name {member!r}")
            if signals is not None and signal not in signals and part != "meta.json":
                continue
            if part != "meta.json":  # which may bear another name than the signals
                names.add(recording)
            if len(names) > 1:
                raise ValueError(f"holds more than one recording: {', '.join(sorted(names))}")
            if (signal, part) in parts:
                raise ValueError(f"holds {shown(member)} twice")
            n_json += size if part.endswith("json") else 0
            if n_json > MAX_JSON:
                raise ValueError(f"holds more than {MAX_JSON:,} bytes of JSON")
            with explained(f"{shown(member)} in {label}"):
                parts[signal, part] = readers[part](stream, size)
            n_epochs += len(parts[signal, part]) if part == "epoch.csv" else 0
            if n_epochs > MAX_ROWS:
                raise ValueError(f"holds more than {MAX_ROWS:,} epochs")
        if not names:
            raise ValueError("holds no NEMS recording (no <recording>.<signal>.json)")
    meta = parts.pop(("", "meta.json"), {})
    found = {}
    for name in sorted({signal for signal, _ in parts}):
        signal_parts = {part: value for (signal, part), value in parts.items() if signal == name}
        with explained(f"signal {name!r} of {label}"):
            found[name] = _signal(name, signal_parts)
    for name in signals or ():
        if name not in found:
            raise ReleaseError(f"{label}: has no signal {name!r}; it holds: {', '.join(found)}")
    return Recording(names.pop(), found, meta, label)


def is_recording(path: Path) -> bool:
    """Whether a file or folder is a NEMS recording, told from as little of it as will do.

    The proof is the JSON of a signal. An archive that holds other files is known by the first of
    them; in a recording much data may come before the first JSON.
    """
    try:
        if path.is_dir():
            return _is_recording_folder(path)
        if not is_archive_name(path.name) or not path.is_file():
            return False
        searched = 0
        with explained(path.name), closing(_tar_members(path)) as members:
            for member, stream, size in members:
                parsed = _parse_name(member)
                searched += size
                if parsed and parsed[2] == "json":
                    return _describes_signal(_read_json(stream, size))
                hidden = member.rpartition("/")[2].startswith(".")
                if searched > MAX_SEARCH or not (parsed or hidden):
                    return False
    except (OSError, ValueError, RecursionError):
        pass
    return False


def is_archive_name(name: str) -> bool:
    """Whether a file is called as an archive that may hold a recording."""
    return name.lower().endswith((".tgz", ".tar.gz", ".tar"))


def _is_recording_folder(folder: Path, *, wrapped: bool = True) -> bool:
    with os.scandir(folder) as entries:  # which may be very many, in a folder of something else
        names = {entry.name for entry in islice(entries, 1000) if not entry.name.startswith(".")}
    if len(names) == 1 and wrapped and (inside := folder / names.pop()).is_dir():
        return _is_recording_folder(inside, wrapped=False)
    for name in names:
        parsed = _parse_name(name)
        if parsed and parsed[2] == "json" and name.removesuffix("json") + "epoch.csv" in names:
            with (folder / name).open("rb") as stream:
                return _describes_signal(_read_json(stream, (folder / name).stat().st_size))
    return False


def _describes_signal(about: dict[str, Any]) -> bool:
    return isinstance(about.get("chans"), list) and isinstance(about.get("fs"), int | float)


def _parse_name(member: str) -> tuple[str, str, str] | None:
    """``<recording>.<signal>.<part>`` -> its three parts; None for other files."""
    name = member.rpartition("/")[2]
    if name.startswith("."):  # the Finder's droppings
        return None
    for part in ("epoch.csv", "meta.json", "json", "csv", "h5"):
        if name.endswith("." + part):
            stem = name.removesuffix("." + part)
            if part == "meta.json":
                return stem, "", part
            recording, _, signal = stem.rpartition(".")
            return (recording, signal, part) if recording and signal else None
    return None


def _members(source: Path | bytes) -> Generator[tuple[str, Stream, int]]:
    """The files of a recording: name, content and size."""
    if isinstance(source, Path) and source.is_dir():
        yield from _folder_members(source)
    else:
        yield from _tar_members(source)


def _folder_members(folder: Path) -> Generator[tuple[str, Stream, int]]:
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files: list[Path] = []
    for place in (folder, *inside):
        found = sorted(p for p in place.iterdir() if _parse_name(p.name))
        if found and files:
            places = f"{shown(files[0].parent.name)}, {shown(place.name)}"
            raise ValueError(f"holds files of a recording in more than one folder: {places}")
        if found and place != folder and place.is_symlink():
            raise ValueError(f"{shown(place.name)} is a link")
        files += found
    if len(files) > MAX_MEMBERS:
        raise ValueError(f"holds more than {MAX_MEMBERS:,} files")
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise ValueError(f"{shown(file.name)} is not a plain file")
        with file.open("rb") as stream:
            yield file.name, stream, file.stat().st_size


def _tar_members(source: Path | bytes) -> Generator[tuple[str, Stream, int]]:
    from isal import igzip

    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with igzip.open(file) if gzipped else file as stream:
            bounded = _Bounded(stream)
            with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as tar:
                for member in _plain_files(tar, bounded):
                    stream.seek(member.offset_data)
                    yield member.name, _Section(stream, member.size), member.size
            bounded.end = bounded.tell() + _TAIL
            while rest := bounded.read(2**16):  # on to the end, where gzip has its checksum
                if rest.strip(b"\0"):  # tarfile takes a broken header for the end
                    raise ValueError("holds something that is no file")


def _plain_files(tar: tarfile.TarFile, bounded: _Bounded) -> Iterator[tarfile.TarInfo]:
    """The members of a tar that are not folders, refusing what is no plain file."""
    last = -1
    for count, member in enumerate(iter(tar.next, None), 1):
        tar.members.clear()  # type: ignore[attr-defined]  # or all would be held
        if count > MAX_MEMBERS:
            raise ValueError(f"holds more than {MAX_MEMBERS:,} files")
        if len(tar.pax_headers) > _GLOBAL_HEADERS:
            raise ValueError(f"has more than {_GLOBAL_HEADERS} global headers")
        # A header may claim what sends tarfile back to where it was.
        if member.size < 0 or member.offset <= last:
            raise ValueError(f"{member.name!r} claims {member.size:,} bytes")
        last = member.offset
        bounded.end = member.offset_data + _HEADERS
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise ValueError(f"{member.name!r} is not a plain file")
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise ValueError(f"holds a file with the unsafe name {member.name!r}")
        bounded.end += member.size
        yield member


class _Bounded:
    """A stream for tarfile, which would hold what claims to be a header whatever its size."""

    def __init__(self, stream: Stream):
        self._stream, self.end = stream, _HEADERS
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size < 0 or self.tell() + size > self.end:
            raise ValueError("holds more between its files than tar headers")
        content: bytes = self._stream.read(size)
        if _DIGITS_IN_HEADERS.search(content):
            raise ValueError("has a number of more than 255 digits in a header")
        return content


class _Section(io.RawIOBase):
    """The next bytes of a stream; tarfile's own reader of members copies them twice."""

    def __init__(self, stream: Stream, size: int):
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer)[: self._left] as wanted:
            n_read: int = self._stream.readinto(wanted)
            if wanted and not n_read:
                raise EOFError("the archive ends inside a file")
        self._left -= n_read
        return n_read


def _content(stream: Stream, size: int, most: int) -> bytes:
    if size > most:
        raise ValueError(f"claims {size:,} bytes; at most {most:,} are read")
    content = bytearray(size)
    del content[fill(stream, memoryview(content)) :]
    return bytes(content)


def _read_json(stream: Stream, size: int) -> dict[str, Any]:
    try:
        content = json.loads(_content(stream, size, MAX_JSON))
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    return content


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if len(name) > MAX_NAME:
            raise ValueError(f"holds a name of {len(name):,} characters: {name[:20]!r}...")


def _read_epochs(stream: Stream, size: int) -> pd.DataFrame:
    table = read_table(_content(stream, size, MAX_TABLE), ["name", "start", "end"])
    _check_names(table["name"])
    epochs = pd.DataFrame(
        {
            "name": pd.Series(table["name"], dtype=str),
            # pandas writes a time that is not known as nothing.
            "start": np.array(parse_numbers([t or "nan" for t in table["start"]]), np.float64),
            "end": np.array(parse_numbers([t or "nan" for t in table["end"]]), np.float64),
        }
    )
    return epochs


def _read_h5(stream: Stream, size: int) -> dict[str, NDArray[Any]]:
    import h5py

    arrays = {}
    total = n_chunks = 0
    try:
        with h5py.File(io.BytesIO(_content(stream, size, MAX_HDF5)), "r") as file:
            if len(file) > MAX_DATASETS:
                raise ValueError(f"holds more than {MAX_DATASETS:,} datasets")
            _check_names(file)
            for name in file:
                # Nothing but plain datasets: a link could point to any file of this machine.
                if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{name!r} is a link, not a dataset")
                dataset = file[name]
                if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                    raise ValueError(f"{name!r} is not a plain dataset")
                if dataset.dtype.kind not in "fiu" or dataset.shape is None:
                    raise ValueError(f"{name!r} holds {dataset.dtype}, not numbers")
                # HDF5 reads whole chunks, which can be larger than their dataset.
                total += 8 * max(dataset.size, math.prod(dataset.chunks or ()))
                if total > MAX_HDF5:
                    raise ValueError(f"claims more than {MAX_HDF5:,} bytes of numbers")
                n_chunks += dataset.id.get_num_chunks() if dataset.chunks else 0
                if n_chunks > MAX_CHUNKS:
                    raise ValueError(f"holds more than {MAX_CHUNKS:,} chunks")
                arrays[name] = _read_dataset(dataset).astype(np.float64, copy=False)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"is not a readable HDF5 file: {error}") from error
    return arrays


def _read_dataset(dataset: Any) -> NDArray[Any]:
    """Read a dataset, refusing chunks that are larger than it says: HDF5 inflates them whole."""
    from h5py import h5t, h5z
    from isal import isal_zlib

    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if set(filters) - {h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_DEFLATE}:
        raise ValueError(f"{dataset.name!r} is compressed in an unknown way")
    if filters.count(h5z.FILTER_DEFLATE) > 1:
        raise ValueError(f"{dataset.name!r} is compressed twice")
    if h5z.FILTER_DEFLATE not in filters:
        return np.asarray(dataset[()])
    # What NEMS writes is not inflated twice; anything else is left to HDF5.
    stored, dtype, shape = dataset.id.get_type(), dataset.dtype, dataset.chunks
    plain = len(filters) == 1 and stored == h5t.py_create(dtype)
    values = np.full(dataset.shape, dataset.fillvalue, dtype)
    most = math.prod(shape) * stored.get_size() + 16  # and a checksum
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)  # to ask for one after another takes the square in time
    for offset in (chunk.chunk_offset for chunk in chunks):
        mask, content = dataset.id.read_direct_chunk(offset)
        inflate = isal_zlib.decompressobj()
        inflated = inflate.decompress(content, most)
        if mask or len(inflated) == most or not inflate.eof:
            raise ValueError(f"a chunk of {dataset.name!r} holds more than it may")
        if plain:
            chunk = np.frombuffer(inflated, dtype).reshape(shape)
            place = values[tuple(slice(i, i + n) for i, n in zip(offset, shape, strict=True))]
            place[:] = chunk[tuple(slice(n) for n in place.shape)]
    return values if plain else np.asarray(dataset[()])


_READERS = {
    "json": _read_json,
    "meta.json": _read_json,
    "epoch.csv": _read_epochs,
    "csv": read_raster,
    "h5": _read_h5,
}


_NO_EPOCHS = pd.DataFrame({"name": pd.Series(dtype=str), "start": [], "end": []})


def _signal(name: str, parts: dict[str, Any]) -> Signal:
    """One signal from its JSON, epochs and data, checked against each other."""
    if "json" not in parts:
        raise ValueError("has no JSON beside its data")
    about = parts["json"]
    channels, fs = about.get("chans"), about.get("fs")
    if channels is None:  # NEMS does not ask for names
        channels = _channel_names(name, parts)
    if not isinstance(channels, list) or not all(isinstance(c, str) for c in channels):
        raise ValueError("its JSON has no list of channel names (chans)")
    _check_names(channels)
    if len(set(channels)) != len(channels):
        raise ValueError("its JSON names a channel twice")
    if isinstance(fs, bool) or not isinstance(fs, int | float) or not 0 < fs < MAX_FS:
        raise ValueError(f"its JSON has no sampling rate (fs: {fs!r})")
    # Older files do not say what they are: they are rasters.
    signal_type = str(about.get("signal_type", "RasterizedSignal"))
    kind: Kind = (
        "points"
        if "PointProcess" in signal_type
        else "tiles"
        if "TiledSignal" in signal_type
        else "raster"
    )
    data = parts.get("csv" if kind == "raster" else "h5")
    if data is None:
        raise ValueError(f"its data file (.{'csv' if kind == 'raster' else 'h5'}) is missing")
    _CHECKS[kind](data, channels)
    n_samples = data.n_samples if kind == "raster" else _last_sample(about.get("segments"))
    meta = about.get("meta")
    return Signal(
        name,
        kind,
        channels,
        float(fs),
        parts.get("epoch.csv", _NO_EPOCHS),
        n_samples,
        meta if isinstance(meta, dict) else {},
        data,
    )


def _channel_names(name: str, parts: dict[str, Any]) -> list[str] | None:
    """Names for the channels of a signal whose JSON gives none."""
    if "csv" in parts:
        return [f"{name}{number}" for number in range(parts["csv"].n_channels)]
    return sorted(parts["h5"]) if "h5" in parts else None


def _last_sample(segments: Any) -> int | None:
    """End of the last of the JSON's ``segments``, [[first, last], ...] in samples."""
    try:
        return int(max(stop for _, stop in segments))
    except (TypeError, ValueError, OverflowError):
        return None


def _check_raster(raster: Raster, channels: list[str]) -> None:
    if raster.n_channels != len(channels):
        raise ValueError(
            f"its CSV has {raster.n_channels} columns, its JSON {len(channels)} channels"
        )


def _check_points(points: dict[str, NDArray[np.float64]], channels: list[str]) -> None:
    if missing := [channel for channel in channels if channel not in points]:
        raise ValueError(
            f"its HDF5 file has no event times of {', '.join(map(shown, missing[:5]))}"
        )
    for channel in channels:
        times = points[channel]
        if times.ndim != 1:
            raise ValueError(f"event times of {channel!r} are not a list of times")


def _check_tiles(tiles: dict[str, NDArray[np.float64]], channels: list[str]) -> None:
    for epoch, tile in tiles.items():
        if tile.ndim != 2 or tile.shape[0] != len(channels):
            raise ValueError(
                f"tile {epoch!r} has shape {tile.shape}, not ({len(channels)} channels, samples)"
            )


_CHECKS: dict[Kind, Callable[[Any, list[str]], None]] = {
    "raster": _check_raster,
    "points": _check_points,
    "tiles": _check_tiles,
}
