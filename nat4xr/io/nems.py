"""Read recordings of NEMS: signals, epochs and meta data.

A recording is a tar archive, gzipped or not, with one folder in it, or the unpacked folder. For
each signal, the folder contains a JSON, an ``epoch.csv`` and a data file (``csv`` or ``h5``).
Archives are read in one pass, with members in any order, and nothing is extracted.
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
from isal import isal_zlib
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
"""Longest name of a channel or epoch. Longer ones are errors, because arrays pad all names."""

MAX_FS = 1e9
"""Largest sampling rate in Hz. Numbers of samples must fit into integers."""

# Further views of a signal, as for a jackknife, are in files such as 01.<recording>.<signal>.csv.
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
        The kind of ``data``: a `Raster` (or a `RasterShape`, see `read`), a dict of event times in
        s by channel, or a dict of (channels, ..., samples) arrays by epoch name.
    channels : list of str
        The names of the channels in the data. They are numbered if the JSON has no names, or
        another number of names.
    listed : list of str or None
        The names of the channels in the JSON.
    fs : float
        Sampling rate in Hz.
    epochs : pandas.DataFrame
        Columns ``name``, ``start`` and ``end``, in s. It has no rows if there is no epochs file.
    epoch_columns : dict of str to numpy.ndarray
        The other columns of the epochs, which are bool, int, float or str.
    n_samples : int or None
        Length of the recording in samples, if it is known.
    segments : list
        The entry ``segments`` of the JSON. It has more than one element if parts of the recording
        were cut out. Times of epochs still include these parts.
    inner : tuple of int
        The sizes of the dims of a raster between channel and time.
    meta : object
        The entry ``meta`` of the JSON.
    normalization : dict
        The entries ``normalization``, ``norm_baseline`` and ``norm_gain`` of the JSON, if any.
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
        The name of the recording in messages.
    n_views : dict of str to int
        The number of views of each signal that has several. Only the first is read.
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
        The name of the source in error messages. Default: its file name.
    rasters : bool, default: True
        Whether to read the values of rasters. Otherwise, their ``data`` is a `RasterShape`.
    dtype : numpy.dtype, optional
        Type of the values of rasters, ``float32`` or ``float64``. Default: the type in the file;
        numbers in text are ``float64``.
    limit : str, default: "recording_bytes"
        The key in `limits` that applies to the bytes of all files.

    Returns
    -------
    Recording

    Raises
    ------
    ReleaseError
        If the recording is broken. The message names the file and the problem.
    FileNotFoundError
        If the file or folder does not exist.
    """
    label = label or (source.name if isinstance(source, Path) else "recording")
    with explained(label):
        parts, meta = _read_parts(source, signals, label, rasters, dtype, limit)
        n_views = Counter(view[1] for stem in parts if (view := _view_of(stem, parts)))
        signals_read: dict[str, Signal] = {}
        recordings: dict[str, str] = {}
        views: dict[str, int] = {}
        for stem in sorted(parts):
            recording, name = _split_stem(stem, parts[stem].get("json"))
            if _view_of(stem, parts) or not (signals is None or name in signals):
                continue
            if name in signals_read:
                both = ", ".join(sorted({recordings[name], recording}))
                raise ValueError(f"contains more than one recording: {both}")
            with explained(f"signal {name!r} of {label}"):
                signals_read[name] = _signal(name, stem, parts[stem], label, rasters, dtype)
            recordings[name] = recording
            if n_views[stem]:
                views[name] = 1 + n_views[stem]
        for name in signals or ():
            if name not in signals_read:
                raise ValueError(f"has no signal {name!r}, but only {', '.join(signals_read)}")
        if not signals_read:
            raise ValueError("contains no NEMS recording (no <recording>.<signal>.json)")
    [(recording, _)] = Counter(recordings.values()).most_common(1)
    return Recording(recording, signals_read, meta, label, views)


def is_part(name: str) -> bool:
    """Whether the name of a file is that of a file of a recording."""
    return _parse_name(name) is not None


def is_archive_name(name: str) -> bool:
    """Whether the name of a file is that of an archive, which may contain a recording."""
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
                raise ValueError(f"contains a file with the unsafe name {member!r}")
            n_json += size if part.endswith("json") else 0
            limits.check("json_bytes", n_json)
            if part == "meta.json":
                if meta is not None:
                    raise ValueError(f"contains {shown(member)} twice")
                with explained(f"{shown(member)} in {label}"):
                    meta = _read_meta(_content(stream, size, "json_bytes"))
                continue
            if signals is not None and not any(stem.endswith(f".{name}") for name in signals):
                continue
            folders.add(member.rpartition("/")[0])
            if len(folders) > 1:
                names = ", ".join(shown(folder) for folder in sorted(folders))
                raise ValueError(f"contains files of a recording in more than one folder: {names}")
            files = parts.setdefault(stem, {})
            if part in files:
                raise ValueError(f"contains {shown(member)} twice")
            with explained(f"{shown(member)} in {label}"):
                files[part] = _read_part(part, stream, size, rasters, dtype)
            n_epochs += len(files[part][0]) if part == "epoch.csv" else 0
            limits.check("epochs", n_epochs)
    return parts, meta or {}


def _parse_name(member: str) -> tuple[str, str] | None:
    """Split a name into ``<recording>.<signal>`` and the kind of the file; None for other files.

    The file with the meta data is called ``<recording>.meta.json``.
    """
    name = member.rpartition("/")[2]
    if name.startswith("."):  # a file that macOS adds
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
    """Split ``<recording>.<signal>`` by the name in the JSON, because both may contain dots."""
    name = (about or {}).get("name")
    if not isinstance(name, str) or not name or not stem.endswith(f".{name}"):
        name = stem.rpartition(".")[2]
    return stem.removesuffix(f".{name}"), name


def _view_of(stem: str, stems: Collection[str]) -> re.Match[str] | None:
    """Match a further view of a signal. Group 1 is the ``<recording>.<signal>`` of the signal."""
    view = _VIEW.fullmatch(stem)
    return view if view and view[1] in stems else None


def _members(source: Path | bytes) -> Generator[tuple[str, Stream, int]]:
    """Yield the name, the content and the size of each file of a recording."""
    if isinstance(source, Path) and source.is_dir():
        yield from _folder_members(source)
    else:
        yield from _tar_members(source)


def _folder_members(folder: Path) -> Generator[tuple[str, Stream, int]]:
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files: list[Path] = []
    for parent in (folder, *inside):
        in_parent = sorted(p for p in parent.iterdir() if _parse_name(p.name))
        if in_parent and files:
            names = f"{shown(files[0].parent.name)}, {shown(parent.name)}"
            raise ValueError(f"contains files of a recording in more than one folder: {names}")
        if in_parent and parent != folder and parent.is_symlink():
            raise ValueError(f"{shown(parent.name)} is a link")
        files += in_parent
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
            while rest := stream.read(2**16):  # until the checksum of gzip at the end
                if rest.strip(b"\0"):  # tarfile stops at a broken header
                    raise ValueError("contains data that do not belong to any file")


def _plain_files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar, without folders, links and other members."""
    for count, member in enumerate(iter(tar.next, None), 1):
        tar.members.clear()  # type: ignore[attr-defined]  # would keep all members in memory
        limits.check("recording_files", count)
        if member.size < 0:
            raise ValueError(f"{member.name!r} claims {member.size:,} bytes")
        if member.isreg():
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise ValueError(f"contains a file with the unsafe name {member.name!r}")
            yield member
        elif not member.isdir() and _parse_name(member.name):
            raise ValueError(f"{member.name!r} is not a plain file")


class _Section(io.RawIOBase):
    """A part of a stream, as a file. It copies less than the member files of tarfile."""

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
    """Read a file of a signal. HDF5 is parsed later, because this depends on the JSON."""
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
            raise ValueError(f"contains a name of {len(name):,} characters: {name[:20]!r}...")


def _read_epochs(content: bytes) -> tuple[pd.DataFrame, dict[str, NDArray[Any]]]:
    """Read the names and times of epochs, and all other columns that have a name."""
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
            # pandas writes an unknown time as an empty field.
            "start": np.array(parse_numbers([t or "nan" for t in table["start"]]), np.float64),
            "end": np.array(parse_numbers([t or "nan" for t in table["end"]]), np.float64),
        }
    )
    return epochs, {name: _as_array(table[name]) for name in further}


def _as_array(texts: list[str]) -> NDArray[Any]:
    """Convert a column of a table to bool, int or float if possible, or else to str."""
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
    """Open the datasets of an HDF5 file. Links and references to other files are errors.

    Datasets in groups are only opened if they are in `names`, as ``"group/dataset"``.
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
                    continue  # a group, which NEMS does not use
                if dataset.is_virtual or dataset.external:
                    raise ValueError(f"{name!r} contains values of another file")
                if dataset.dtype.kind not in "biuf" or not dataset.shape:
                    raise ValueError(f"{name!r} contains {dataset.dtype}, not a list of numbers")
                datasets[name] = dataset
            yield datasets
    except (OSError, RuntimeError) as error:
        raise ValueError(f"is not a readable HDF5 file: {error}") from error


def _has_dataset(file: Any, name: str) -> bool:
    """Whether a file has the dataset ``"group/dataset"``. A link to a dataset is an error."""
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
    """Read the datasets of an HDF5 file. Floats become float64; integers and bool are kept."""
    with _opened_hdf5(content, names) as datasets:
        # HDF5 reads whole chunks, which can be larger than their dataset.
        sizes = [max(d.size, math.prod(d.chunks or ())) for d in datasets.values()]
        limits.check("hdf5_bytes", 8 * sum(sizes))
        return {name: _native(_values(dataset)) for name, dataset in datasets.items()}


def _values(dataset: Any) -> Any:
    times = _gzipped_times(dataset)
    return dataset[()] if times is None else times


def _gzipped_times(dataset: Any) -> NDArray[np.float64] | None:
    """Read a list of float64 in gzipped chunks, as NEMS writes them, in half the time of HDF5.

    None if it is stored in another way, or if a chunk is missing or damaged.
    """
    from h5py import h5d, h5t, h5z

    stored = dataset.id.get_create_plist()
    filters = [stored.get_filter(i)[0] for i in range(stored.get_nfilters())]
    is_list = dataset.ndim == 1 and dataset.id.get_type().equal(h5t.IEEE_F64LE)
    if not is_list or stored.get_layout() != h5d.CHUNKED or filters != [h5z.FILTER_DEFLATE]:
        return None
    [size] = stored.get_chunk()
    chunks = []
    for first in range(0, dataset.size, size):
        stream = isal_zlib.decompressobj()
        try:
            not_gzipped, chunk = dataset.id.read_direct_chunk((first,))
            chunks.append(stream.decompress(chunk, 8 * size + 1))
        except (OSError, RuntimeError, isal_zlib.error):  # type: ignore[misc]
            return None
        if not_gzipped or not stream.eof or len(chunks[-1]) != 8 * size:
            return None
    return np.frombuffer(bytearray().join(chunks), "<f8")[: dataset.size]


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """Convert floats to float64, and all values to the byte order of this machine."""
    dtype = np.float64 if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
    return values.astype(dtype, copy=False)


def _signal(
    name: str, stem: str, files: dict[str, Any], label: str, rasters: bool, dtype: Any
) -> Signal:
    """Make a signal from its JSON, epochs and data, and check that they are consistent."""
    if "json" not in files:
        raise ValueError("has data, but no JSON")
    about = files["json"]
    fs = about.get("fs")
    if isinstance(fs, bool) or not isinstance(fs, int | float) or not 0 < fs < MAX_FS:
        raise ValueError(f"its JSON has no valid sampling rate (fs: {fs!r})")
    kind = _kind(about)
    extension = "h5" if kind != "raster" or "h5" in files else "csv"
    if extension not in files:
        extension = "h5" if kind != "raster" else "csv"
        raise ValueError(f"its data file (.{extension}) is missing")
    if kind == "raster" and {"csv", "h5"} <= set(files):
        raise ValueError("has both a .csv file and a .h5 file with its values: remove one of them")
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
    """Return the kind of a signal. Older files do not state it: they are rasters."""
    signal_type = str(about.get("signal_type"))
    if "PointProcess" in signal_type:
        return "points"
    return "tiles" if "TiledSignal" in signal_type else "raster"


def _listed(about: dict[str, Any]) -> list[str] | None:
    """Return the names of the channels in the JSON, which are optional."""
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
    if listed is not None and n_channels == 1:  # NEMS leaves all names of cells in a mask's JSON
        return [name]
    return [f"{name}{number}" for number in range(n_channels)]


def _declared_dtype(about: dict[str, Any]) -> np.dtype[Any] | None:
    """Return the type of the values in the JSON, which only newer files have."""
    try:
        dtype = np.dtype(about["dtype"])
    except (KeyError, TypeError):
        return None
    return dtype if about["dtype"] is not None and dtype.kind in "biuf" else None


def _hdf5_raster(content: bytes, values: bool) -> tuple[Any, tuple[int, ...]]:
    """Read a raster or only its size; also return the sizes of dims between channel and time."""
    with _opened_hdf5(content) as datasets:
        if "raster" not in datasets:
            raise ValueError("has no dataset 'raster'")
        dataset = datasets["raster"]
        raster = (read_hdf5_raster if values else measure_hdf5_raster)(dataset)
        return raster, dataset.shape[1:-1]


def _as_type(raster: Any, dtype: Any) -> Any:
    """Convert the values of a raster. A change by more than rounding is an error."""
    dtype = np.dtype(dtype or raster.dtype)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):  # netCDF does not have other floats
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
        raise ValueError(f"contains a value that does not fit {dtype}: {raster.values[changed][0]}")
    return replace(raster, values=values)


def _without_samples(raster: Any, channels: list[str]) -> Any:
    """Set the size of a table of blank lines. Lines only count as samples without channels."""
    if not channels:
        return raster
    if isinstance(raster, Raster):
        return Raster(len(channels), raster.starts[:1], raster.channels, raster.values)
    return replace(raster, n_samples=0, n_channels=len(channels))


def _last_sample(segments: Any) -> int | None:
    """Return the end of the last segment, from ``segments``, [[first, last], ...], in samples."""
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
