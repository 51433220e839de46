"""The converted file of an area: written once, whole or not at all; opened lazily."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import h5py
import netCDF4
import numpy as np
import pooch
import xarray as xr
from isal import isal_zlib
from numpy.typing import NDArray
from xarray.backends import NetCDF4DataStore
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from . import __version__, registry
from .assemble import assemble
from .index import set_labels
from .labels import simulated_attr
from .release import AreaFiles, check_options, find_area

SCHEMA = 1
"""Raised when the content of the converted files changes; files of another schema are left be."""

# A chunk on disk holds one repeat. The 18 val sounds come first and share a chunk, so that the
# later repeats, which only they have, are one chunk a group of cells; the rest is never written.
DISK_CHUNKS = {"stim": 18, "rep": 1, "neuron": 128}

# A dask chunk of response is 46 MB in A1 and PEG, and never more than 128 MB. That all sounds are
# in one chunk keeps chunks regular, as zarr needs them, when sounds are selected. Those of the
# spectrogram are small because .where with a condition on cells gives it a dim of cells.
DASK_CHUNKS = {"stim": 1620, "rep": 1, "freq": 2, "time": -1, "neuron": 128}


class _NetcdfLock:
    """xarray's lock of the netCDF library, made reentrant.

    The library is not made for threads. xarray guards what reads a file with a lock, but not all
    of what opens and writes one, which can be guarded only by a lock that the same thread can
    take again.
    """

    def __init__(self) -> None:
        self._own, self._depth = RLock(), 0

    def acquire(self, blocking: bool = True) -> bool:
        if not self._own.acquire(blocking):
            return False
        if not self._depth and not NETCDF4_PYTHON_LOCK.acquire(blocking):
            self._own.release()
            return False
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            NETCDF4_PYTHON_LOCK.release()
        self._own.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> str:
        return "NETCDF_LOCK"  # of each process its own


NETCDF_LOCK = _NetcdfLock()


def open_area(
    area: str,
    path: str | os.PathLike[str] | None = None,
    *,
    subset: Literal["all", "est", "val"] = "all",
    dt_ms: float = 10.0,
    chunks: Any = {},  # noqa: B006 (never changed; xarray's own spelling)
    download: bool = True,
    progressbar: bool = True,
) -> xr.Dataset:
    """Open the recordings of one area as a labelled Dataset.

    On first use the area's files are fetched from Zenodo and converted to one netCDF file in
    the data folder. From then on that file is opened, lazily, in milliseconds.

    Parameters
    ----------
    area : {"A1", "PEG"}
        Primary or secondary auditory cortex.
    path : path-like, optional
        The data folder, to which the release is fetched or in which its files were placed by
        hand. Default: the environment variable ``NAT4XR_DATA_DIR``, or else the user's cache
        folder.
    subset : {"all", "est", "val"}, optional
        ``"est"``: the sounds presented once, for fitting; ``"val"``: those presented 20 times
        at every site, for testing.
    dt_ms : float, optional
        Width of the time bins in ms: 1, 2, 5, or a multiple of 10 that divides 1500. Coarser
        bins than 10 ms are sums, of the spectrogram means. Finer ones are counted from the
        spike times of the site recordings, of est sounds too, so that cells without trials
        are NaN there, ``psth`` included; the spectrogram is held.
    chunks : dict, int, "auto" or None, optional
        Dask chunks, as for `xarray.open_dataset`; dims that a dict leaves out have chunks that
        suit the file. None: lazy arrays without dask.
    download : bool, optional
        Whether to fetch files that are missing.
    progressbar : bool, optional
        Whether to show the progress of fetching and converting.

    Returns
    -------
    xarray.Dataset
        ``response`` (stim, rep, time, neuron), float32: spikes per bin of each presentation,
        NaN where there was none. ``psth`` (stim, time, neuron), float32: spikes per bin averaged
        over presentations, as published. ``spectrogram`` (stim, freq, time), float32: gammatone
        magnitudes as published. ``n_reps`` (stim, neuron), int8: presentations held in
        ``response``. ``.sel`` takes every label of the sounds and of the cells.

    Raises
    ------
    ValueError
        There is no such area, subset or bin width, or ``chunks`` name no dim of the Dataset.
    ReleaseError
        A file of the release is broken.
    DownloadError
        A file could not be fetched.
    FileNotFoundError
        A file is missing, and ``download`` is False.
    OSError
        The converted file cannot be written, or the name of the data folder is not UTF-8.

    References
    ----------
    Data: David and Pennington (2023), https://doi.org/10.5281/zenodo.8044773. Described in
    Pennington and David (2023), https://doi.org/10.1371/journal.pcbi.1011110.

    Examples
    --------
    Here and below, of a small simulated release:

    >>> import nat4xr
    >>> ds = nat4xr.open_area("A1")
    >>> val = ds.sel(subset="val", animal="TNC", auditory=True)
    >>> dict(val.response.mean("rep").sizes)
    {'stim': 18, 'time': 150, 'neuron': 5}
    """
    check_options(area, subset)
    if dt_ms != 10:
        from .spikes import open_rebinned  # which builds on this module

        return open_rebinned(
            area,
            path,
            subset=subset,
            dt_ms=dt_ms,
            chunks=chunks,
            download=download,
            progressbar=progressbar,
        )
    file = converted_file(area, path, "", _write_area, download=download, progressbar=progressbar)
    ds = open_converted(file, chunks)
    if subset == "all":
        return ds
    selected = ds.sel(subset=subset)
    selected.set_close(ds._close)
    return selected


def converted_file(
    area: str,
    path: str | os.PathLike[str] | None,
    kind: str,
    write: Callable[[str, AreaFiles, Path, bool], None],
    *,
    download: bool,
    progressbar: bool,
) -> Path:
    """The converted file of an area, made first if there is none that is whole and current.

    It stands in the data folder, or under the cache folder where that is read-only.

    Parameters
    ----------
    area : {"A1", "PEG"}
    path : path or None
        The data folder, as for `registry.data_dir`.
    kind : str
        What the file holds, as part of its name.
    write : callable
        ``write(area, files, target, progressbar)`` writes it.
    download, progressbar : bool
        As for `open_area`.

    Returns
    -------
    pathlib.Path
    """
    folder = registry.data_dir(path)
    places = converted_places(area, kind, folder)
    files = find_area(area, folder)
    fingerprint = files.fingerprint() if isinstance(files, AreaFiles) else None
    for file in places:
        if is_whole(file, fingerprint):
            return file
    if isinstance(files, list):
        if not download:
            error = registry.missing_error(area, files, folder)
            damaged = ", ".join(str(file) for file in places if file.exists())
            raise FileNotFoundError(f"{damaged} is damaged. {error}") if damaged else error
        registry.fetch(area, path, progressbar=progressbar)
        return converted_file(area, path, kind, write, download=False, progressbar=progressbar)
    file = place_to_write(area, kind, folder)
    registry.refuse_in_the_way(file, _record_of(file))
    with registry.lock_of(file):
        # Another process may have made it meanwhile.
        if not is_whole(file, fingerprint):
            with _moved_into_place(file, fingerprint) as part:
                write(area, files, part, progressbar)
    return file


def converted_places(area: str, kind: str, folder: Path) -> tuple[Path, Path]:
    """Where a converted file may stand: in the data folder, or else under the cache folder."""
    name = f"{area}{kind}_nat4xr-v{SCHEMA}.nc"
    return folder / name, Path(pooch.os_cache("nat4xr")) / _digest(folder) / name


def place_to_write(area: str, kind: str, folder: Path) -> Path:
    """That of the two places which can be written to; its folder is made."""
    places = converted_places(area, kind, folder)
    file = places[0] if _is_writable(folder) else places[1]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"neither {folder} nor {file.parent} can be written to ({error.strerror}): "
            "set NAT4XR_DATA_DIR to a folder that can be, or change the permissions"
        ) from error
    return file


def open_converted(file: Path, chunks: Any) -> xr.Dataset:
    """Open a converted file: labels in memory and indexed, data lazy."""
    opened = open_with_labels(file)
    coords = opened.coords
    data = opened.drop_vars(coords)[["response", "psth", "spectrogram", "n_reps"]]
    if chunks is not None:
        if isinstance(chunks, Mapping):
            chunks = {d: size for d, size in DASK_CHUNKS.items() if d in data.dims} | dict(chunks)
        data = data.chunk(chunks, token=_token(file))
    for variable in data.values():
        # A later export packs nothing: what a user computed might not fit a byte.
        variable.encoding |= {"dtype": variable.dtype}
        variable.encoding["original_shape"] = _AnyShape(variable.shape)
        if variable.dtype == np.float32:
            variable.encoding["_FillValue"] = np.float32(np.nan)
    ds = set_labels(data.assign_coords(coords))
    ds.set_close(opened._close)  # not opened.close, which is pickled with all that was opened
    return ds


class _AnyShape(tuple[int, ...]):
    """A shape that is equal to every shape of as many dims.

    xarray exports a selection without the chunk sizes of its source when the shape has changed,
    and the netCDF library then chooses chunks that take twenty times as long to write. They do
    not fit, though, where a dim was dropped.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and len(self) == len(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


def text_encoding(ds: xr.Dataset) -> dict[Hashable, dict[str, Any]]:
    """How the text of a converted file is written: as characters.

    A file with strings of variable length, when it is opened twice at a time, crashes the
    process: https://github.com/Unidata/netcdf-c/issues/2510.
    """
    return {
        name: {"dtype": "S1", "zlib": True}
        for name, variable in ds.variables.items()
        if variable.dtype.kind in "OU"
    }


def open_with_labels(file: Path) -> xr.Dataset:
    """Open a converted file: coordinates in memory, text as numpy's strings; the rest lazy."""
    with NETCDF_LOCK:
        ds = xr.open_dataset(file, engine="netcdf4", chunks=None, lock=NETCDF_LOCK)
        coords = {}
        for name, coord in ds.coords.items():
            values = coord.values.astype(str) if coord.dtype.kind in "OU" else coord.values
            coords[name] = (coord.dims, values, coord.attrs)
    labelled = ds.assign_coords(coords)
    labelled.set_close(ds._close)
    return labelled


def write_netcdf(ds: xr.Dataset, target: Path, encoding: dict[Hashable, dict[str, Any]]) -> None:
    """``ds.to_netcdf``, also while other threads use the netCDF library."""
    with NETCDF_LOCK:
        store = NetCDF4DataStore.open(target, "w", lock=NETCDF_LOCK)
        try:
            ds.dump_to_store(store, encoding=encoding)
        finally:
            store.close()


def _write_area(area: str, files: AreaFiles, target: Path, progressbar: bool) -> None:
    """Convert an area of the release to a netCDF file."""
    data = assemble(area, files, progressbar=progressbar)
    compression = {"zlib": True, "complevel": 1, "shuffle": True}
    encoding = text_encoding(data.header) | dict.fromkeys(["spectrogram", "n_reps"], compression)
    write_netcdf(data.header, target, encoding)
    n_reps, n_stims = data.header.sizes["rep"], data.header.sizes["stim"]
    with NETCDF_LOCK, netCDF4.Dataset(target, "a") as file:
        # On disk a trial's counts are bytes, a quarter of the size; xarray reads float32.
        count: tuple[str, Any] = (
            ("u1", 255) if data.counts_fit_a_byte() else ("f4", np.float32(np.nan))
        )
        _add_variable(
            file,
            "response",
            ("stim", "rep", "time", "neuron"),
            *count,
            {"long_name": "spikes per bin", "units": "1"} | simulated_attr(data.header),
        )
        _add_variable(
            file,
            "psth",
            ("stim", "time", "neuron"),
            "f4",
            np.float32(np.nan),
            {"long_name": "spikes per bin, mean over presentations", "units": "1"}
            | simulated_attr(data.header),
        )
    n_cores = min(2, os.cpu_count() or 1)  # more would hold more blocks
    with h5py.File(target, "r+") as file, ThreadPoolExecutor(n_cores) as cores:
        response, psth = file["response"], file["psth"]
        count_chunk, psth_chunk = (np.zeros(v.chunks, v.dtype) for v in (response, psth))

        def compressed(first: int) -> list[tuple[h5py.Dataset, tuple[int, ...], bytes]]:
            """The chunks of some sounds, and where they belong."""
            stims = slice(first, first + DISK_CHUNKS["stim"])
            chunks: list[tuple[h5py.Dataset, tuple[int, ...], bytes]] = [
                (psth, (first, 0, neuron), chunk)
                for neuron, chunk in _compress(data.psth(stims), psth_chunk)
            ]
            for rep in range(n_reps):
                if (block := data.response(stims, rep)) is not None:
                    chunks += [
                        (response, (first, rep, 0, neuron), chunk)
                        for neuron, chunk in _compress(block, count_chunk[:, 0])
                    ]
            return chunks

        for chunks in cores.map(compressed, range(0, n_stims, DISK_CHUNKS["stim"])):
            for variable, offset, chunk in chunks:
                variable.id.write_direct_chunk(offset, chunk)


def _add_variable(
    file: netCDF4.Dataset,
    name: str,
    dims: tuple[str, ...],
    dtype: str,
    fill_value: Any,
    attrs: dict[str, Any],
) -> None:
    sizes = [len(file.dimensions[dim]) for dim in dims]
    variable = file.createVariable(
        name,
        dtype,
        dims,
        zlib=True,
        shuffle=False,  # as it makes counts larger: a quarter, in psth
        chunksizes=[min(DISK_CHUNKS.get(d, n), n) for d, n in zip(dims, sizes, strict=True)],
        fill_value=fill_value,
    )
    variable.setncatts(attrs)


def _compress(block: NDArray[np.float32], empty: NDArray[Any]) -> Iterator[tuple[int, bytes]]:
    """A (stim, time, neuron) block in chunks like an empty one, deflated as HDF5 does it."""
    n_neurons = empty.shape[-1]
    for neuron in range(0, block.shape[-1], n_neurons):
        part = block[..., neuron : neuron + n_neurons]
        if empty.dtype == np.uint8:
            part = np.where(np.isnan(part), 255, part)
        chunk = np.zeros_like(empty)
        chunk[: part.shape[0], :, : part.shape[2]] = part
        # HDF5 would compress with zlib, which takes five times as long.
        yield neuron, isal_zlib.compress(chunk, 1)


def is_whole(file: Path, fingerprint: str | None) -> bool:
    """Whether a converted file is what was once written, from sources that are still the same.

    Sources that are gone (``fingerprint`` None) are taken to be the same.
    """
    try:
        record = json.loads(registry.read_small(_record_of(file)))
        return bool(
            file.is_file()  # a pipe or a device would keep whoever reads it waiting
            and record["bytes"] == file.stat().st_size
            and (fingerprint is None or record["sources"] == fingerprint)
            and record["crc32"] == _crc32(file)
            and _holds_its_data(file)
        )
    # RuntimeError: as h5py says it of a file that is none of ours, or json of one nested deeply.
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return False


def _holds_its_data(file: Path) -> bool:
    """Whether all data of a converted file are in itself: HDF5 would read any file it points to."""
    with NETCDF_LOCK, h5py.File(file) as content:
        for name in content:
            if not isinstance(content.get(name, getlink=True), h5py.HardLink):
                return False
            variable = content[name]
            if not isinstance(variable, h5py.Dataset) or variable.external or variable.is_virtual:
                return False
    return True


def _crc32(file: Path) -> int:
    checksum = 0
    buffer = bytearray(2**18)
    with file.open("rb", buffering=0) as stream:
        while n_bytes := stream.readinto(buffer):
            checksum = isal_zlib.crc32(memoryview(buffer)[:n_bytes], checksum)
    return checksum


def _token(file: Path) -> str:
    """What tells dask that two files hold the same."""
    return f"{file.resolve()}-{_record_of(file).read_text()}"


def _digest(folder: Path) -> str:
    """A short name for a folder: what stands in for it under the cache folder."""
    return hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]


def _record_of(file: Path) -> Path:
    """The small JSON beside a converted file that tells whether it is whole."""
    return file.with_suffix(".json")


@contextmanager
def _moved_into_place(file: Path, fingerprint: str | None) -> Iterator[Path]:
    """A temporary name to write to; what was written gets its own name when it is whole."""
    record_part = file.with_name(f".{file.name}.{os.getpid()}.json.part")
    with temporary_part(file) as part:
        try:
            yield part
            record = {
                "bytes": part.stat().st_size,
                "crc32": _crc32(part),
                "sources": fingerprint,
                "written_by": f"nat4xr {__version__}",
            }
            record_part.write_text(json.dumps(record))
            # A record that does not fit its file makes it be written again, so that the order
            # in which the two are moved does not matter.
            os.replace(part, file)
            os.replace(record_part, _record_of(file))
        finally:
            record_part.unlink(missing_ok=True)


@contextmanager
def temporary_part(file: Path) -> Iterator[Path]:
    """A temporary name beside a converted file, whose lock is held; nothing is left there."""
    for stale in file.parent.glob(f".{file.name}.*.part"):  # of a process that was killed
        stale.unlink()
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
    except FileNotFoundError:  # a source is gone
        raise
    except (OSError, RuntimeError) as error:  # either, where HDF5 meets a disk that is full
        if not isinstance(error, OSError) and type(error) is not RuntimeError:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            culprit = Path(os.fsdecode(error.filename))
            if not culprit.name.startswith(f".{file.name}."):
                raise OSError(f"{culprit} could not be read: {error.strerror}") from error
        free = shutil.disk_usage(file.parent).free
        raise OSError(f"{file} could not be written ({free:,} bytes are free): {error}") from error
    finally:
        if part.exists():
            # HDF5 does not let go of a file that it could not write: its space is given back.
            os.truncate(part, 0)
            part.unlink()


def _is_writable(folder: Path) -> bool:
    try:
        probe = folder / f".nat4xr.{os.getpid()}.part"
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread's is called so too
    except OSError:
        return False
    return True
