"""Reading NEMS recordings: bytes in, signals, epochs and meta data out. Knows nothing of NAT4.

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
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import explained, shown
from . import limits
from .raster import (
    Raster,
    fill,
    measure_hdf5_raster,
    measure_raster,
    read_hdf5_raster,
    read_raster,
)
from .tables import parse_numbers, read_header, read_table

MAX_NAME = 1000
"""Channels and epochs with names of more characters are refused: arrays pad all to the longest."""

MAX_FS = 1e9
"""Rates in Hz beyond this are refused: the number of a sample is an integer."""

# Further views of a signal, as of a jackknife, are files such as 01.<recording>.<signal>.csv.
_VIEW = re.compile(r"[0-9]{2,}\.(.+\..+)", re.DOTALL)
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
        in s by channel; or a dict of (channels, ..., samples) arrays by epoch name.
    channels : list of str
        The name of each channel of the data. Where the JSON has no names, or not as many as the
        data have channels, they are numbered.
    listed : list of str or None
        The names of the channels in the JSON.
    fs : float
        Sampling rate in Hz.
    epochs : pandas.DataFrame
        Columns ``name``, ``start`` and ``end``, in s. No rows if the signal has no epochs file.
    epoch_columns : dict of str to numpy.ndarray
        The further columns of the epochs: of bool, int or float, or else of str.
    n_samples : int or None
        Length of the recording in samples, where the file says it.
    segments : list
        What the JSON holds under ``segments``; more than one if parts of the recording were cut
        out of the values, but not of the times of the epochs.
    inner : tuple of int
        The size of the further dims of a raster, between channel and time.
    meta : object
        What the JSON holds under ``meta``.
    normalization : dict
        ``normalization``, ``norm_baseline`` and ``norm_gain`` of the JSON, where it has them.
    """

    name: str
    kind: Kind
    channels: list[str]
    listed: list[str] | None
    fs: float
    epochs: pd.DataFrame
    epoch_columns: dict[str, NDArray[Any]]
    n_samples: int | None
    segments: list[Any]
    inner: tuple[int, ...]
    meta: Any
    normalization: dict[str, Any]
    data: Any = field(repr=False)


@dataclass(frozen=True)
class Recording:
    """A NEMS recording.

    Attributes
    ----------
    name : str
    signals : dict of str to Signal
    meta : dict
    label : str
        What messages call it.
    n_views : dict of str to int
        How many views there are of signals that have several. The first is read.
    """

    name: str
    signals: dict[str, Signal]
    meta: dict[str, Any]
    label: str
    n_views: dict[str, int] = field(default_factory=dict)


def read(
    source: Path | bytes,
    *,
    signals: Collection[str] | None = None,
    label: str | None = None,
    rasters: bool = True,
    dtype: Any = None,
    limit: str = "recording_bytes",
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
    dtype : numpy.dtype, optional
        Type of the values of rasters, ``float32`` or ``float64``. Default: the type that the file
        says; numbers in text are ``float64``.
    limit : str, optional
        Which of the `limits` holds for the bytes of all files.

    Returns
    -------
    Recording

    Raises
    ------
    ReleaseError
        If the recording is broken; the message names the file and what is wrong with it.
    FileNotFoundError
        If there is no such file or folder.
    """
    label = label or (source.name if isinstance(source, Path) else "recording")
    with explained(label):
        parts, meta = _read_parts(source, signals, label, rasters, dtype, limit)
        n_views = Counter(view[1] for stem in parts if (view := _view_of(stem, parts)))
        found: dict[str, Signal] = {}
        recordings: dict[str, str] = {}
        views: dict[str, int] = {}
        for stem in sorted(parts):
            recording, name = _split_stem(stem, parts[stem].get("json"))
            if _view_of(stem, parts) or not (signals is None or name in signals):
                continue
            if name in found:
                both = ", ".join(sorted({recordings[name], recording}))
                raise ValueError(f"holds more than one recording: {both}")
            with explained(f"signal {name!r} of {label}"):
                found[name] = _signal(name, stem, parts[stem], label, rasters, dtype)
            recordings[name] = recording
            if n_views[stem]:
                views[name] = 1 + n_views[stem]
        for name in signals or ():
            if name not in found:
                raise ValueError(f"has no signal {name!r}; it holds: {', '.join(found)}")
        if not found:
            raise ValueError("holds no NEMS recording (no <recording>.<signal>.json)")
    [(recording, _)] = Counter(recordings.values()).most_common(1)
    return Recording(recording, found, meta, label, views)


def is_part(name: str) -> bool:
    """Whether a file is called as one of the files of a recording."""
    return _parse_name(name) is not None


def is_archive_name(name: str) -> bool:
    """Whether a file is called as an archive that may hold a recording."""
    return name.lower().endswith((".tgz", ".tar.gz", ".tar"))


def _read_parts(
    source: Path | bytes,
    signals: Collection[str] | None,
    label: str,
    rasters: bool,
    dtype: Any,
    limit: str,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Read the files of each signal, by ``<recording>.<signal>``, and the meta data."""
    parts: dict[str, dict[str, Any]] = {}
    meta: dict[str, Any] | None = None
    folders = set()
    total = n_json = n_epochs = 0
    with closing(_members(source)) as members:
        for member, stream, size in members:
            total += size
            limits.check(limit, total)
            parsed = _parse_name(member)
            if parsed is None:
                continue
            stem, part = parsed
            if not stem.isprintable():
                raise ValueError(f"holds a file with the unsafe name {member!r}")
            n_json += size if part.endswith("json") else 0
            limits.check("json_bytes", n_json)
            if part == "meta.json":
                if meta is not None:
                    raise ValueError(f"holds {shown(member)} twice")
                with explained(f"{shown(member)} in {label}"):
                    meta = _read_meta(_content(stream, size, "json_bytes"))
                continue
            if signals is not None and not any(stem.endswith(f".{name}") for name in signals):
                continue
            folders.add(member.rpartition("/")[0])
            if len(folders) > 1:
                places = ", ".join(shown(folder) for folder in sorted(folders))
                raise ValueError(f"holds files of a recording in more than one folder: {places}")
            files = parts.setdefault(stem, {})
            if part in files:
                raise ValueError(f"holds {shown(member)} twice")
            with explained(f"{shown(member)} in {label}"):
                files[part] = _read_part(part, stream, size, rasters, dtype)
            n_epochs += len(files[part][0]) if part == "epoch.csv" else 0
            limits.check("epochs", n_epochs)
    return parts, meta or {}


def _parse_name(member: str) -> tuple[str, str] | None:
    """``<recording>.<signal>`` and what the file holds of it; None for other files.

    The meta data have the name ``<recording>.meta.json``.
    """
    name = member.rpartition("/")[2]
    if name.startswith("."):  # what macOS leaves behind
        return None
    for part in ("epoch.csv", "meta.json", "json", "csv", "h5"):
        if name.endswith("." + part):
            stem = name.removesuffix("." + part)
            if part == "epoch.csv" and "." not in stem:  # the values of a signal called "epoch"
                stem, part = f"{stem}.epoch", "csv"
            recording, _, signal = stem.rpartition(".")
            return (stem, part) if part == "meta.json" or (recording and signal) else None
    return None


def _split_stem(stem: str, about: dict[str, Any] | None) -> tuple[str, str]:
    """Split ``<recording>.<signal>``: either may have dots in it, and the JSON knows."""
    name = (about or {}).get("name")
    if not isinstance(name, str) or not name or not stem.endswith(f".{name}"):
        name = stem.rpartition(".")[2]
    return stem.removesuffix(f".{name}"), name


def _view_of(stem: str, stems: Collection[str]) -> re.Match[str] | None:
    """Whether this is a further view of a signal, whose ``<recording>.<signal>`` is group 1."""
    view = _VIEW.fullmatch(stem)
    return view if view and view[1] in stems else None


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
    limits.check("recording_files", len(files))
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
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in _plain_files(tar):
                    if member.issparse():
                        yield member.name, tar.extractfile(member), member.size
                    else:
                        stream.seek(member.offset_data)
                        yield member.name, _Section(stream, member.size), member.size
            while rest := stream.read(2**16):  # on to the end, where gzip has its checksum
                if rest.strip(b"\0"):  # tarfile takes a broken header for the end
                    raise ValueError("holds something that is no file")


def _plain_files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of a tar, without what else it holds: folders, labels of volumes, links."""
    for count, member in enumerate(iter(tar.next, None), 1):
        tar.members.clear()  # type: ignore[attr-defined]  # or all would be held
        limits.check("recording_files", count)
        if member.size < 0:
            raise ValueError(f"{member.name!r} claims {member.size:,} bytes")
        if member.isreg():
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise ValueError(f"holds a file with the unsafe name {member.name!r}")
            yield member
        elif not member.isdir() and _parse_name(member.name):
            raise ValueError(f"{member.name!r} is not a plain file")


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


def _content(stream: Stream, size: int, limit: str) -> bytes:
    limits.check(limit, size)
    content = bytearray(size)
    del content[fill(stream, memoryview(content)) :]
    return bytes(content)


def _read_part(part: str, stream: Stream, size: int, rasters: bool, dtype: Any) -> Any:
    """Read a file of a signal; HDF5 is only parsed once the JSON has said what it holds."""
    if part == "csv":
        text_type = np.float32 if dtype == np.float32 else np.float64
        return (read_raster if rasters else measure_raster)(stream, size, text_type)
    if part == "epoch.csv":
        return _read_epochs(_content(stream, size, "table_bytes"))
    if part == "json":
        return _read_json(_content(stream, size, "json_bytes"))
    return _content(stream, size, "hdf5_bytes")


def _read_json(content: bytes) -> dict[str, Any]:
    about = _parse_json(content)
    if not isinstance(about, dict):
        raise ValueError("is not a JSON object")
    return about


def _read_meta(content: bytes) -> dict[str, Any]:
    meta = _parse_json(content)
    return meta if isinstance(meta, dict) else {} if meta is None else {"meta": meta}


def _parse_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if len(name) > MAX_NAME:
            raise ValueError(f"holds a name of {len(name):,} characters: {name[:20]!r}...")


def _read_epochs(content: bytes) -> tuple[pd.DataFrame, dict[str, NDArray[Any]]]:
    """The names and times of epochs, and their further columns that have a name."""
    required = ["name", "start", "end"]
    header = Counter(read_header(content))
    further = [name for name, n in header.items() if name and n == 1 and name not in required]
    table = read_table(content, [*required, *further])
    names = {name: name for name in table["name"]}
    _check_names(names)
    epochs = pd.DataFrame(
        {
            # There are few distinct names, so the column refers to one copy of each.
            "name": pd.Series([names[name] for name in table["name"]], dtype=str),
            # pandas writes a time that is not known as nothing.
            "start": np.array(parse_numbers([t or "nan" for t in table["start"]]), np.float64),
            "end": np.array(parse_numbers([t or "nan" for t in table["end"]]), np.float64),
        }
    )
    return epochs, {name: _as_array(table[name]) for name in further}


def _as_array(texts: list[str]) -> NDArray[Any]:
    """A column of a table as bool, int or float if all of its texts are such, or else as str."""
    if set(texts) <= {"True", "False"}:
        return np.array([text == "True" for text in texts])
    try:
        numbers = parse_numbers([text or "nan" for text in texts])
    except ValueError:
        _check_names(set(texts))
        return np.array(texts, np.str_)
    try:
        return np.array([int(text) for text in texts], np.int64)
    except (ValueError, OverflowError):
        return np.array(numbers, np.float64)


@contextmanager
def _opened_hdf5(content: bytes, names: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """Open the datasets of an HDF5 file, in which nothing may point to another file.

    Of those in groups only the ones that have one of the `names`, such as ``"group/dataset"``.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            limits.check("hdf5_datasets", len(file))
            _check_names(file)
            datasets = {}
            in_groups = [name for name in names if "/" in name and _has_dataset(file, name)]
            for name in dict.fromkeys([*file, *in_groups]):
                _refuse_link(file, name)
                if not isinstance(dataset := file[name], h5py.Dataset):
                    continue  # a group, of which NEMS has no use
                if dataset.is_virtual or dataset.external:
                    raise ValueError(f"{name!r} holds values of another file")
                if dataset.dtype.kind not in "biuf" or not dataset.shape:
                    raise ValueError(f"{name!r} holds {dataset.dtype}, not a list of numbers")
                datasets[name] = dataset
            yield datasets
    except (OSError, RuntimeError) as error:
        raise ValueError(f"is not a readable HDF5 file: {error}") from error


def _has_dataset(file: Any, name: str) -> bool:
    """Whether a file has a dataset in a group, such as ``"group/dataset"``, and no link to one."""
    *groups, last = name.split("/")
    for group in groups:
        if group in ("", ".") or file.get(group, getlink=True) is None:
            return False
        _refuse_link(file, group)
        file = file[group]
        if not hasattr(file, "keys"):  # a dataset
            return False
    if last in ("", ".") or file.get(last, getlink=True) is None:
        return False
    _refuse_link(file, last)
    return True


def _refuse_link(file: Any, name: str) -> None:
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} is a link, not a dataset")


def _read_arrays(content: bytes, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read the datasets of an HDF5 file: floats as float64, integers and bool as they are."""
    with _opened_hdf5(content, names) as datasets:
        # HDF5 reads whole chunks, which can be larger than their dataset.
        sizes = [max(d.size, math.prod(d.chunks or ())) for d in datasets.values()]
        limits.check("hdf5_bytes", 8 * sum(sizes))
        return {name: _native(dataset[()]) for name, dataset in datasets.items()}


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """The values as float64 if they are floats, and in the byte order of this machine."""
    dtype = np.float64 if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
    return values.astype(dtype, copy=False)


def _signal(
    name: str, stem: str, files: dict[str, Any], label: str, rasters: bool, dtype: Any
) -> Signal:
    """One signal from its JSON, epochs and data, checked against each other."""
    if "json" not in files:
        raise ValueError("has no JSON beside its data")
    about = files["json"]
    fs = about.get("fs")
    if isinstance(fs, bool) or not isinstance(fs, int | float) or not 0 < fs < MAX_FS:
        raise ValueError(f"its JSON has no sampling rate (fs: {fs!r})")
    kind = _kind(about)
    extension = "h5" if kind != "raster" or "h5" in files else "csv"
    if extension not in files:
        extension = "h5" if kind != "raster" else "csv"
        raise ValueError(f"its data file (.{extension}) is missing")
    if kind == "raster" and {"csv", "h5"} <= set(files):
        raise ValueError("has its values in a .csv and in a .h5 file")
    listed = _listed(about)
    epochs, epoch_columns = files.get("epoch.csv") or _read_epochs(b"name,start,end\n")
    with explained(f"{shown(f'{stem}.{extension}')} in {label}"):
        inner: tuple[int, ...] = ()
        data = files[extension]
        if kind == "raster":
            if extension == "h5":
                data, inner = _hdf5_raster(data, rasters)
            data = _as_type(data, dtype or _declared_dtype(about))
        else:
            data = _read_arrays(data, [*(listed or ()), *epochs["name"].unique()])
    channels: list[str]
    if kind == "raster":
        if extension == "csv" and not data.n_channels:
            data = _without_samples(data, listed or [])
        channels = _channels(name, listed, data.n_channels // max(1, math.prod(inner)))
    elif kind == "points":
        channels = [c for c in dict.fromkeys(listed or ()) if c in data]
        channels += sorted(set(data) - set(channels))
        _check_points(data)
    else:
        channels = _channels(name, listed, _n_channels_of_tiles(data, listed))
        declared = _declared_dtype(about)
        data = {epoch: tile.astype(declared or tile.dtype) for epoch, tile in data.items()}
    norm = ("normalization", "norm_baseline", "norm_gain")
    return Signal(
        name=name,
        kind=kind,
        channels=channels,
        listed=listed,
        fs=float(fs),
        epochs=epochs,
        epoch_columns=epoch_columns,
        n_samples=data.n_samples if kind == "raster" else _last_sample(about.get("segments")),
        segments=about["segments"] if isinstance(about.get("segments"), list) else [],
        inner=inner,
        meta=about.get("meta"),
        normalization={key: about[key] for key in norm if about.get(key) is not None},
        data=data,
    )


def _kind(about: dict[str, Any]) -> Kind:
    """What a signal is; older files do not say it: they are rasters."""
    signal_type = str(about.get("signal_type"))
    if "PointProcess" in signal_type:
        return "points"
    return "tiles" if "TiledSignal" in signal_type else "raster"


def _listed(about: dict[str, Any]) -> list[str] | None:
    """The names of channels in the JSON, which NEMS does not ask for."""
    names = about.get("chans")
    if names is None:
        return None
    if not isinstance(names, list):
        raise ValueError("its JSON has no list of channel names (chans)")
    listed = [name if isinstance(name, str) else json.dumps(name) for name in names]
    _check_names(listed)
    return listed


def _channels(name: str, listed: list[str] | None, n_channels: int) -> list[str]:
    """Name the channels of a raster or of tiles."""
    if listed is not None and len(listed) == n_channels:
        return listed
    if listed is not None and n_channels == 1:  # as masks are left, that were made of responses
        return [name]
    return [f"{name}{number}" for number in range(n_channels)]


def _declared_dtype(about: dict[str, Any]) -> np.dtype[Any] | None:
    """The type of the values that the JSON declares, which only newer files do."""
    try:
        dtype = np.dtype(about["dtype"])
    except (KeyError, TypeError):
        return None
    return dtype if about["dtype"] is not None and dtype.kind in "biuf" else None


def _hdf5_raster(content: bytes, values: bool) -> tuple[Any, tuple[int, ...]]:
    """Read a raster, or its size only, and tell the size of its dims between channel and time."""
    with _opened_hdf5(content) as datasets:
        if "raster" not in datasets:
            raise ValueError("has no dataset 'raster'")
        dataset = datasets["raster"]
        raster = (read_hdf5_raster if values else measure_hdf5_raster)(dataset)
        return raster, dataset.shape[1:-1]


def _as_type(raster: Any, dtype: Any) -> Any:
    """The raster with values of a type, or of its own; no value may change but by rounding."""
    dtype = np.dtype(dtype or raster.dtype)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):  # which netCDF cannot hold
        dtype = np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    if not isinstance(raster, Raster):
        return replace(raster, dtype=dtype)
    if dtype == raster.dtype:
        return raster
    with np.errstate(over="ignore", invalid="ignore"):
        values = raster.values.astype(dtype)
    if dtype.kind == "f":
        changed = np.isinf(values) & (dtype.itemsize < raster.dtype.itemsize)
    else:
        changed = values != raster.values
    if changed.any():
        raise ValueError(f"holds a value that {dtype} cannot hold: {raster.values[changed][0]}")
    return replace(raster, values=values)


def _without_samples(raster: Any, channels: list[str]) -> Any:
    """A table of blank lines, which has as many samples as lines only if it has no channels."""
    if not channels:
        return raster
    if isinstance(raster, Raster):
        return Raster(len(channels), raster.starts[:1], raster.channels, raster.values)
    return replace(raster, n_samples=0, n_channels=len(channels))


def _last_sample(segments: Any) -> int | None:
    """End of the last of the JSON's ``segments``, [[first, last], ...] in samples."""
    try:
        return int(max(stop for _, stop in segments))
    except (TypeError, ValueError, OverflowError):
        return None


def _check_points(points: dict[str, NDArray[Any]]) -> None:
    for channel, times in points.items():
        if times.ndim != 1:
            raise ValueError(f"event times of {channel!r} are not a list of times")


def _n_channels_of_tiles(tiles: dict[str, NDArray[Any]], listed: list[str] | None) -> int:
    shapes = {tile.shape[:-1] for tile in tiles.values()}
    if not shapes:
        return len(listed or ())
    if len(shapes) > 1 or not (shape := shapes.pop()):
        raise ValueError("its tiles do not all have the same channels")
    return int(shape[0])
