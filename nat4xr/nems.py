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
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .errors import ReleaseError, explained, shown
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

MAX_CHANNELS = 2**14
"""A raster of more channels than this is refused."""

MAX_SAMPLES = 2**22
"""A raster of more samples than this is refused; A1 has 88,950."""

MAX_VALUES = 2**28
"""A raster may have this many values other than zero: they are held."""

MAX_TIME, MAX_FS = 1e9, 1e9
"""Times in s and rates in Hz beyond these are refused: the number of a sample is an integer."""

MAX_SEARCH = 4 * 2**30
"""Of an archive that may be a recording, this many bytes are searched for proof that it is."""

_BLOCK = 2 * 2**20
_HEADERS = 2**14  # bytes that may stand between two files of an archive: names, mostly
_DIGITS_IN_HEADERS = re.compile(rb"[0-9]{256}")  # Python before 3.11.10 takes their square in time
_GLOBAL_HEADERS = 100  # which tarfile copies for each file
_TAIL = 2**20  # zeros that may stand at the end of an archive
_WORDS = ("head", "middle", "tail")
# A value written with "%.18e" has 24 characters, which are handled as three words, and is
# followed by a comma or a newline.
_VALUE = np.dtype({"names": _WORDS, "formats": ["<u8"] * 3, "offsets": [0, 8, 16], "itemsize": 25})
_ZERO = b"0.000000000000000000e+00"
_ZERO_WORDS = np.frombuffer(_ZERO, "<u8")
_NAN = b"nan".ljust(len(_ZERO))
_NAN_WORDS = np.frombuffer(_NAN, "<u8")
_DIGITS = [0, *range(2, 20), 22, 23]

Kind = Literal["raster", "points", "tiles"]
Stream = Any  # a binary file: read(n), readinto(buffer), seek(n)


@dataclass(frozen=True)
class Raster:
    """A samples x channels table of float32 with its zeros left out.

    Spike counts are mostly zeros: the 88,950 x 849 values of A1 take 55 MB so, not 300.

    Attributes
    ----------
    n_channels : int
    starts : numpy.ndarray of int
        Where the values of each sample start, and where those of the last end.
    channels : numpy.ndarray of uint16
        The channel of each value that is not zero, sample by sample.
    values : numpy.ndarray of float32
    """

    n_channels: int
    starts: NDArray[np.int64]
    channels: NDArray[np.uint16]
    values: NDArray[np.float32]

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.starts) - 1

    def within(self, start: int, stop: int) -> slice:
        """Which of the values lie in samples ``start`` to ``stop``."""
        return slice(self.starts[start], self.starts[stop])

    def dense(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples ``start`` to ``stop`` of all channels, (samples, channels)."""
        table = np.zeros((stop - start, self.n_channels), np.float32)
        kept = self.within(start, stop)
        sample = np.repeat(np.arange(stop - start), np.diff(self.starts[start : stop + 1]))
        table[sample, self.channels[kept]] = self.values[kept]
        return table


@dataclass(frozen=True)
class RasterShape:
    """The size of a `Raster` whose values were not read."""

    n_samples: int
    n_channels: int


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
    del content[_fill(stream, memoryview(content)) :]
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
    if (abs(epochs[["start", "end"]].to_numpy()) >= MAX_TIME).any():
        raise ValueError(f"has an epoch at {MAX_TIME:g} s or later")
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


def read_raster(stream: Stream, size: int) -> Raster:
    """Read a samples x channels CSV of numbers as a `Raster`, in blocks of a few MB.

    Text written with ``%.18e`` has 25 bytes a value, so that zeros are found by comparing
    bytes and only the other values are parsed. Any other block is parsed value by value, twenty
    times as slowly.
    """
    head = b""
    while b"\n" not in head and (more := stream.read(2**16)):
        head += more
        _check_line(len(head))
    if not head:
        raise ValueError("is empty")
    n_channels = head.partition(b"\n")[0].count(b",") + 1
    _check_shape(0, n_channels)
    n_samples, starts = 0, [np.zeros(1, np.int64)]
    channels, values = bytearray(), bytearray()  # grow in place, where a list is held twice
    for block in _whole_lines(stream, head, n_channels):
        table = parse_fixed_width(block, n_channels) or parse_general(block, n_channels)
        if np.isinf(table.values).any():
            raise ValueError("holds an infinite value")
        starts.append(starts[-1][-1] + table.starts[1:])
        channels += table.channels.data
        values += table.values.data
        n_samples += table.n_samples
        _check_shape(n_samples, n_channels)
        if starts[-1][-1] > MAX_VALUES:
            raise ValueError(f"has more than {MAX_VALUES:,} values other than zero")
    return Raster(
        n_channels,
        np.concatenate(starts),
        np.frombuffer(channels, np.uint16),
        np.frombuffer(values, np.float32),
    )


def _raster(
    n_samples: int, n_channels: int, positions: NDArray[np.intp], values: NDArray[np.float32]
) -> Raster:
    """A raster of values that lie at positions of the flattened table, in order."""
    first = np.arange(n_samples + 1) * n_channels
    starts = np.searchsorted(positions, first)
    channels = positions - np.repeat(first[:-1], np.diff(starts))
    return Raster(n_channels, starts, channels.astype(np.uint16), values)


def measure_raster(stream: Stream, size: int) -> RasterShape:
    """Count the samples and channels of a CSV, passing over its values."""
    buffer = bytearray(_BLOCK)
    n_lines = n_commas = 0
    last = None
    while n_bytes := _fill(stream, memoryview(buffer)):
        if not n_lines:
            end = buffer.find(b"\n", 0, n_bytes)
            n_commas += buffer.count(b",", 0, n_bytes if end < 0 else end)
        n_lines += buffer.count(b"\n", 0, n_bytes)
        _check_shape(n_lines, n_commas + 1)
        last = buffer[n_bytes - 1]
    if last is None:
        raise ValueError("is empty")
    return RasterShape(n_lines + (last != ord("\n")), n_commas + 1)


def _check_shape(n_samples: int, n_channels: int) -> None:
    if n_channels > MAX_CHANNELS:
        raise ValueError(f"has more than {MAX_CHANNELS:,} columns")
    if n_samples > MAX_SAMPLES:
        raise ValueError(f"has more than {MAX_SAMPLES:,} samples")


def _check_line(n_bytes: int) -> None:
    if n_bytes > 64 * MAX_CHANNELS:
        raise ValueError(f"has a line of more than {64 * MAX_CHANNELS:,} bytes")


def _whole_lines(stream: Stream, head: bytes, n_channels: int) -> Iterator[bytearray]:
    """The stream in blocks of whole lines, each good until the next is asked for.

    One buffer serves all blocks of fixed-width text: it stays in the processor's cache.
    """
    line_bytes = _VALUE.itemsize * n_channels
    buffer = bytearray(max(1, _BLOCK // line_bytes) * line_bytes)
    rest = head
    while True:
        if len(rest) > len(buffer) // 2:
            buffer = bytearray(max(2 * len(rest), len(buffer)))
        buffer[: len(rest)] = rest
        n_bytes = len(rest) + _fill(stream, memoryview(buffer)[len(rest) :])
        full = n_bytes == len(buffer)
        end = buffer.rfind(b"\n", 0, n_bytes) + 1 if full else n_bytes
        rest = bytes(buffer[end:n_bytes])
        _check_line(len(rest))
        if end:
            yield buffer if end == len(buffer) else buffer[:end]
        if not full:
            return


def _fill(stream: Stream, buffer: memoryview) -> int:
    """Read until the buffer is full or the stream ends; return the number of bytes."""
    n_read = 0
    while n := stream.readinto(buffer[n_read:]):
        n_read += n
    return n_read


def parse_fixed_width(block: bytearray, n_channels: int) -> Raster | None:
    """Parse lines whose values all have the width that ``%.18e`` gives them.

    Parameters
    ----------
    block : bytearray
        Whole lines. They are overwritten while being checked.
    n_channels : int

    Returns
    -------
    Raster or None
        None, and ``block`` as it was, if a value has another width or is no number.
    """
    line_bytes = _VALUE.itemsize * n_channels
    if len(block) % line_bytes:
        block = block.replace(b"nan", _NAN)
        if len(block) % line_bytes:
            return None
    n_samples = len(block) // line_bytes
    text: Any = np.frombuffer(block, _VALUE)
    # "%.18e" writes zero, and no other number, with a zero in front.
    positions = np.flatnonzero(np.frombuffer(block, np.uint8)[:: _VALUE.itemsize] != ord("0"))
    words = [text[word][positions] for word in _WORDS]
    values = _parse_words(*words)
    if values is None:
        return None
    # With zeros in their place there must be zeros and separators left, to the byte.
    for word, zero in zip(_WORDS, _ZERO_WORDS, strict=True):
        text[word][positions] = zero
    if block != _zero_lines(n_samples, n_channels):
        for word, original in zip(_WORDS, words, strict=True):
            text[word][positions] = original
        return None
    return _raster(n_samples, n_channels, positions, values)


@lru_cache(maxsize=2)
def _zero_lines(n_samples: int, n_channels: int) -> bytes:
    return (b",".join([_ZERO] * n_channels) + b"\n") * n_samples


def _parse_words(
    head: NDArray[np.uint64], middle: NDArray[np.uint64], tail: NDArray[np.uint64]
) -> NDArray[np.float32] | None:
    """Parse values of 24 characters, given in three words; None if one is no number."""
    zero_head, zero_middle, zero_tail = _ZERO_WORDS
    digit = head - zero_head
    values: NDArray[np.float32] = digit.astype(np.float32)
    others = np.flatnonzero((digit > 9) | (middle != zero_middle) | (tail != zero_tail))
    texts = np.stack([head[others], middle[others], tail[others]], axis=1)
    # The rest often has few distinct values (val averages are multiples of 1/20): parse each once.
    mixed = texts @ np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 1], np.uint64)
    _, first, which = np.unique(mixed, return_index=True, return_inverse=True)
    if (texts[first][which] != texts).any():  # two share a hash
        first = which = np.arange(len(texts))
    distinct = texts[first]
    characters = distinct.view(np.uint8)
    is_nan = (distinct == _NAN_WORDS).all(axis=1)
    is_number = (characters[:, _DIGITS] - ord("0") <= 9).all(axis=1)
    is_number &= (characters[:, [1, 20]] == (ord("."), ord("e"))).all(axis=1)
    is_number &= np.isin(characters[:, 21], (ord("+"), ord("-")))
    if not (is_number | is_nan).all():
        return None
    with np.errstate(over="ignore"):
        parsed = distinct.view("S24").reshape(-1).astype(np.float64).astype(np.float32)
    values[others] = parsed[which]
    return values


def parse_general(block: bytes | bytearray, n_channels: int) -> Raster:
    """Parse lines of comma-separated numbers of any width."""
    lines = bytes(block).removesuffix(b"\n").split(b"\n")
    if any(line.count(b",") != n_channels - 1 for line in lines):
        raise ValueError(f"has a line that does not have {n_channels} columns")
    if b"_" in block:  # which Python allows in a number
        raise ValueError("holds something that is not a number: an underscore")
    try:
        table = np.array([float(text) for line in lines for text in line.split(b",")])
    except ValueError as error:
        raise ValueError(f"holds something that is not a number: {error}") from error
    positions = np.flatnonzero(table)
    with np.errstate(over="ignore"):
        values = table[positions].astype(np.float32)
    return _raster(len(lines), n_channels, positions, values)


_READERS = {
    "json": _read_json,
    "meta.json": _read_json,
    "epoch.csv": _read_epochs,
    "csv": read_raster,
    "h5": _read_h5,
}


def _signal(name: str, parts: dict[str, Any]) -> Signal:
    """One signal from its JSON, epochs and data, checked against each other."""
    if "json" not in parts:
        raise ValueError("has no JSON beside its data")
    if "epoch.csv" not in parts:
        raise ValueError("has no epochs (.epoch.csv)")
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
        parts["epoch.csv"],
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
        if not ((times >= 0) & (times < MAX_TIME)).all():
            raise ValueError(f"an event time of {channel!r} is NaN, infinite or negative")


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
