"""Reading NEMS recordings: bytes in, signals, epochs and meta out. Knows nothing of NAT4.

A recording is a gzipped tar (or a plain one) with one folder in it, or that folder: a JSON,
an ``epoch.csv`` and a data file (``csv`` or ``h5``) for each signal. Archives are read in
one pass, in whatever order their members come, and nothing is ever extracted.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .errors import ReleaseError

MAX_MEMBERS = 10_000
"""A recording of more files than this is refused."""

MAX_SMALL_MEMBER = 256 * 2**20
"""JSON, epochs and HDF5 files are held in memory while read, up to this many bytes."""

MAX_CSV_MEMBER = 64 * 2**30
"""A raster's CSV is streamed, up to this many bytes."""

MAX_CSV_LINE = 64 * 2**20
"""A line of CSV (a sample of all channels) may have this many bytes."""

_BLOCK = 8 * 2**20
_VALUE = 25  # bytes of one value written with "%.18e", with the comma or newline after it
_ZERO = b"0.000000000000000000e+00"
_FIXED = re.compile(rb"[0-9]\.[0-9]{18}e[+-][0-9]{2}|nan {21}")

Kind = Literal["raster", "points", "tiles"]


@dataclass(frozen=True)
class Raster:
    """A samples x channels table of float32 with its zeros left out (compressed rows).

    Spike counts are mostly zeros: the 88,950 x 849 values of A1 take 40 MB so, not 300.
    """

    n_channels: int
    row_starts: NDArray[np.int64]
    channels: NDArray[np.int32]
    values: NDArray[np.float32]

    @property
    def n_samples(self) -> int:
        """Number of samples (rows)."""
        return len(self.row_starts) - 1

    def dense(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples ``start`` to ``stop`` of all channels, (samples, channels)."""
        table = np.zeros((stop - start, self.n_channels), np.float32)
        bounds = self.row_starts[start : stop + 1]
        kept = slice(bounds[0], bounds[-1])
        rows = np.repeat(np.arange(stop - start), np.diff(bounds))
        table[rows, self.channels[kept]] = self.values[kept]
        return table


@dataclass(frozen=True)
class Signal:
    """One signal of a recording.

    Attributes
    ----------
    name : str
    kind : {"raster", "points", "tiles"}
        What ``data`` is: a `Raster`; a dict of event times in s by channel; or a dict of
        (channels, samples) arrays by epoch name.
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
    """A NEMS recording: its name, its signals by name, and its meta data."""

    name: str
    signals: dict[str, Signal]
    meta: dict[str, Any]


def read(
    source: Path | bytes, *, signals: Collection[str] | None = None, label: str | None = None
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
    parts: dict[tuple[str, str], Any] = {}
    names = set()
    with _explained(label):
        for member, stream, size in _members(source, label):
            parsed = _parse_name(member)
            if parsed is None:
                continue
            recording, signal, part = parsed
            if signals is not None and signal not in signals and part != "meta.json":
                continue
            if (signal, part) in parts:
                raise ReleaseError(f"{label} holds {member} twice")
            names.add(recording)
            with _explained(f"{member} in {label}"):
                parts[signal, part] = _READERS[part](stream, size)
        if not parts:
            raise ReleaseError(f"{label} holds no NEMS recording (no <recording>.<signal>.json)")
        if len(names) > 1:
            raise ReleaseError(f"{label} holds more than one recording: {', '.join(sorted(names))}")
    meta = parts.pop(("", "meta.json"), {})
    found = {}
    for name in sorted({signal for signal, _ in parts}):
        signal_parts = {part: value for (signal, part), value in parts.items() if signal == name}
        with _explained(f"signal {name!r} of {label}"):
            found[name] = _signal(name, signal_parts)
    for name in signals or ():
        if name not in found:
            raise ReleaseError(f"{label} has no signal {name!r}; it holds: {', '.join(found)}")
    return Recording(names.pop(), found, meta)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what libraries say of broken input into a ReleaseError that names the file."""
    try:
        yield
    except (ReleaseError, FileNotFoundError):
        raise
    except (EOFError, zlib.error, tarfile.TarError) as error:
        raise ReleaseError(f"{where} is damaged or cut short: {error}") from error
    except RecursionError as error:
        raise ReleaseError(f"{where} is nested too deeply to be read") from error
    except (ValueError, KeyError, TypeError, OverflowError, pd.errors.ParserError) as error:
        raise ReleaseError(f"{where}: {error}") from error
    except OSError as error:
        if error.errno is not None:  # a real fault of the disk, not of the file's content
            raise
        raise ReleaseError(f"{where} is damaged or cut short: {error}") from error


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


def _members(source: Path | bytes, label: str) -> Iterator[tuple[str, IO[bytes], int]]:
    if isinstance(source, Path) and source.is_dir():
        yield from _folder_members(source, label)
    else:
        yield from _tar_members(source, label)


def _folder_members(folder: Path, label: str) -> Iterator[tuple[str, IO[bytes], int]]:
    for inside in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        files = sorted(p for p in inside.iterdir() if _parse_name(p.name))
        if files:
            break
    else:
        return
    if len(files) > MAX_MEMBERS:
        raise ReleaseError(f"{label} holds more than {MAX_MEMBERS} files")
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise ReleaseError(f"{file.name} in {label} is not a plain file")
        with file.open("rb") as stream:
            yield file.name, stream, file.stat().st_size


def _tar_members(source: Path | bytes, label: str) -> Iterator[tuple[str, IO[bytes], int]]:
    from isal import igzip_threaded

    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        # Decompression runs in a thread of its own, beside the parsing.
        with (
            igzip_threaded.open(file) if gzipped else file as stream,
            tarfile.open(fileobj=stream, mode="r|", bufsize=2**20) as tar,
        ):
            for count, member in enumerate(tar):
                if count >= MAX_MEMBERS:
                    raise ReleaseError(f"{label} holds more than {MAX_MEMBERS} members")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ReleaseError(f"{member.name!r} in {label} is not a plain file")
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise ReleaseError(f"{label} holds a file with the unsafe name {member.name!r}")
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                yield member.name, content, member.size


def _small(stream: IO[bytes], size: int) -> bytes:
    if size > MAX_SMALL_MEMBER:
        raise ReleaseError(f"claims {size:,} bytes; at most {MAX_SMALL_MEMBER:,} are read")
    return stream.read()


def _read_json(stream: IO[bytes], size: int) -> dict[str, Any]:
    try:
        content = json.loads(_small(stream, size))
    except ValueError as error:
        raise ReleaseError(f"is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ReleaseError("is not a JSON object")
    return content


def _read_epochs(stream: IO[bytes], size: int) -> pd.DataFrame:
    table = pd.read_csv(
        io.BytesIO(_small(stream, size)),
        dtype={"name": str, "start": np.float64, "end": np.float64},
        keep_default_na=False,
        float_precision="round_trip",
    )
    missing = {"name", "start", "end"} - set(table.columns)
    if missing:
        raise ReleaseError(f"has no column {', '.join(sorted(missing))}")
    epochs = table[["name", "start", "end"]]
    times = epochs[["start", "end"]].to_numpy()
    if not np.isfinite(times).all() or (times[:, 1] < times[:, 0]).any():
        raise ReleaseError("has an epoch that ends before it starts, or at no time")
    return epochs


def _read_h5(stream: IO[bytes], size: int) -> dict[str, NDArray[Any]]:
    import h5py

    arrays = {}
    try:
        with h5py.File(io.BytesIO(_small(stream, size)), "r") as file:
            for name in file:
                # Nothing but plain datasets: a link could point to any file of this machine.
                if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                    raise ReleaseError(f"{name!r} is a link, not a dataset")
                dataset = file[name]
                if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                    raise ReleaseError(f"{name!r} is not a plain dataset")
                if dataset.dtype.kind not in "fiu" or dataset.shape is None:
                    raise ReleaseError(f"{name!r} holds {dataset.dtype}, not numbers")
                if dataset.size * dataset.dtype.itemsize > MAX_SMALL_MEMBER:
                    raise ReleaseError(f"{name!r} claims {dataset.size:,} values")
                arrays[name] = dataset[()].astype(np.float64, copy=False)
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise ReleaseError(f"is not a readable HDF5 file: {error}") from error
    return arrays


def read_raster(stream: IO[bytes], size: int) -> Raster:
    """Read a samples x channels CSV of numbers as a `Raster`, in blocks of a few MB.

    Text written with ``%.18e`` has 25 bytes a value, so that zeros are found by comparing
    bytes and only the other values are parsed; any other block goes to pandas' C parser.
    """
    if size > MAX_CSV_MEMBER:
        raise ReleaseError(f"claims {size:,} bytes; at most {MAX_CSV_MEMBER:,} are read")
    head = b""
    while b"\n" not in head and (more := stream.read(2**16)):
        head += more
        _check_line(head)
    if not head:
        raise ReleaseError("is empty")
    n_channels = head.partition(b"\n")[0].count(b",") + 1
    eight_zero_rows = (b",".join([_ZERO] * n_channels) + b"\n") * 8
    parts: list[_Rows] = []
    for block in _whole_lines(stream, head, len(eight_zero_rows)):
        parts.append(
            parse_fixed_width(block, n_channels, eight_zero_rows)
            or parse_general(block, n_channels)
        )
    counts, channels, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    if np.isinf(values).any():
        raise ReleaseError("holds an infinite value")
    return Raster(n_channels, np.concatenate([[0], np.cumsum(counts)]), channels, values)


# Of each row the number of values that are not zero; of each such value its channel, itself.
_Rows = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


def _check_line(line: bytes) -> None:
    if len(line) > MAX_CSV_LINE:
        raise ReleaseError(f"has a line longer than {MAX_CSV_LINE:,} bytes")


def _whole_lines(stream: IO[bytes], head: bytes, multiple: int) -> Iterator[bytes]:
    """The stream in blocks of whole lines; fixed-width text is cut without being copied."""
    block_bytes = max(1, _BLOCK // multiple) * multiple
    rest = head
    while more := stream.read(max(block_bytes - len(rest), 2**16)):
        block = rest + more
        end = block.rfind(b"\n") + 1
        rest = block[end:]
        _check_line(rest)
        if end:
            yield block[:end]
    if rest:
        yield rest


def parse_fixed_width(block: bytes, n_channels: int, eight_zero_rows: bytes) -> _Rows | None:
    """Parse lines whose values all have the width that ``%.18e`` gives; else None."""
    line_bytes = _VALUE * n_channels
    if len(block) % line_bytes:
        block = block.replace(b"nan", b"nan".ljust(_VALUE - 1))
        if len(block) % line_bytes:
            return None
    n_rows = len(block) // line_bytes
    if n_rows % 8:  # so that rows can be compared as 64-bit words
        block += eight_zero_rows[: (8 - n_rows % 8) * line_bytes]
    words = np.frombuffer(block, np.uint64).reshape(-1, _VALUE * n_channels)
    different = np.flatnonzero(words != np.frombuffer(eight_zero_rows, np.uint64))
    # A word of eight bytes touches one value or two.
    touched = np.union1d(different * 8 // _VALUE, (different * 8 + 7) // _VALUE)
    texts = np.frombuffer(block, np.uint8).reshape(-1, _VALUE)[touched]
    ends = np.where(touched % n_channels == n_channels - 1, ord("\n"), ord(","))
    if (texts[:, -1] != ends).any():
        return None
    values = _parse_texts(np.ascontiguousarray(texts[:, :-1]))
    if values is None:
        return None
    kept = values != 0
    rows, channels = np.divmod(touched[kept], n_channels)
    return np.bincount(rows, minlength=n_rows)[:n_rows], channels.astype(np.int32), values[kept]


def _parse_texts(texts: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """Parse (n, 24) characters, each distinct text once; None if one is not fixed-width."""
    words = texts.view(np.uint64)
    mixed = words @ np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 1], np.uint64)
    _, first, which = np.unique(mixed, return_index=True, return_inverse=True)
    if (words[first][which] != words).any():  # two texts share a hash: parse all of them
        first = which = np.arange(len(texts))
    distinct = [text.tobytes() for text in texts[first]]
    if not all(_FIXED.fullmatch(text) for text in distinct):
        return None
    with np.errstate(over="ignore"):
        return np.array([float(text) for text in distinct], np.float64).astype(np.float32)[which]


def parse_general(block: bytes, n_channels: int) -> _Rows:
    """Parse lines of comma-separated numbers of any width."""
    n_rows = block.count(b"\n") + (not block.endswith(b"\n"))
    if block.count(b",") != n_rows * (n_channels - 1):
        raise ReleaseError(f"has a line that does not have {n_channels} columns")
    try:
        table = pd.read_csv(
            io.BytesIO(block),
            header=None,
            names=range(n_channels),
            index_col=False,
            dtype=np.float64,
            keep_default_na=False,
            na_values=["nan"],
            quoting=3,
            skip_blank_lines=False,
            float_precision="round_trip",
        ).to_numpy()
    except (ValueError, pd.errors.ParserError) as error:
        raise ReleaseError(f"holds something that is not a number: {error}") from error
    if len(table) != n_rows:
        raise ReleaseError(f"has {len(table)} lines where {n_rows} were counted")
    rows, channels = np.nonzero(table)
    with np.errstate(over="ignore"):
        values = table[rows, channels].astype(np.float32)
    return np.bincount(rows, minlength=n_rows), channels.astype(np.int32), values


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
        raise ReleaseError("has no JSON beside its data")
    if "epoch.csv" not in parts:
        raise ReleaseError("has no epochs (.epoch.csv)")
    about = parts["json"]
    channels, fs = about.get("chans"), about.get("fs")
    if not isinstance(channels, list) or not all(isinstance(c, str) for c in channels):
        raise ReleaseError("its JSON has no list of channel names (chans)")
    if len(set(channels)) != len(channels):
        raise ReleaseError("its JSON names a channel twice")
    if isinstance(fs, bool) or not isinstance(fs, int | float) or not 0 < fs < math.inf:
        raise ReleaseError(f"its JSON has no sampling rate (fs: {fs!r})")
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
        raise ReleaseError(f"its data file (.{'csv' if kind == 'raster' else 'h5'}) is missing")
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


def _last_sample(segments: Any) -> int | None:
    """End of the last of the JSON's ``segments``, [[first, last], ...] in samples."""
    try:
        return int(max(stop for _, stop in segments))
    except (TypeError, ValueError, OverflowError):
        return None


def _check_raster(raster: Raster, channels: list[str]) -> None:
    if raster.n_channels != len(channels):
        raise ReleaseError(
            f"its CSV has {raster.n_channels} columns, its JSON {len(channels)} channels"
        )


def _check_points(points: dict[str, NDArray[np.float64]], channels: list[str]) -> None:
    if missing := [channel for channel in channels if channel not in points]:
        raise ReleaseError(f"its HDF5 file has no event times of {', '.join(missing[:5])}")
    for channel in channels:
        times = points[channel]
        if times.ndim != 1:
            raise ReleaseError(f"event times of {channel} are not a list of times")
        if not (np.isfinite(times).all() and (times >= 0).all()):
            raise ReleaseError(f"an event time of {channel} is NaN, infinite or negative")


def _check_tiles(tiles: dict[str, NDArray[np.float64]], channels: list[str]) -> None:
    for epoch, tile in tiles.items():
        if tile.ndim != 2 or tile.shape[0] != len(channels):
            raise ReleaseError(
                f"tile {epoch!r} has shape {tile.shape}, not ({len(channels)} channels, samples)"
            )


_CHECKS: dict[Kind, Callable[[Any, list[str]], None]] = {
    "raster": _check_raster,
    "points": _check_points,
    "tiles": _check_tiles,
}
