"""Read and write the netCDF files of this package safely in threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

import dask
import netCDF4
import numpy as np
import xarray as xr
from isal import isal_zlib
from numpy.typing import NDArray
from xarray.backends import CachingFileManager, NetCDF4DataStore
from xarray.backends.locks import HDF5_LOCK, NETCDFC_LOCK, SerializableLock
from xarray.core.indexing import LazilyIndexedArray

from ..schema import DISK_CHUNKS, EXPORT_CHUNKS, FIELDS, MISSING_COUNT, attrs_of, simulated_attr
from .direct import Chunks, DirectArray, DirectFile, Source, open_unchanged
from .writing import crc32_of, status_of, written

if TYPE_CHECKING:
    import h5py

    from .assemble import AreaData

T = TypeVar("T")


class _NetcdfLock(type(RLock())):  # type: ignore[misc]
    """A lock for the netCDF library, which is not thread-safe.

    The lock is reentrant. It is written in C, so an interrupt cannot leave it locked after
    ``with``.
    """

    def __reduce__(self) -> str:
        return "NETCDF_LOCK"  # each process has its lock


NETCDF_LOCK = _NetcdfLock()

# Make xarray use this lock instead of its two locks for netCDF and HDF5.
for _lock in (NETCDFC_LOCK, HDF5_LOCK):
    with _lock.lock:
        _lock.lock = SerializableLock._locks[_lock.token] = NETCDF_LOCK

_held: list[Any] = []


def _before_fork() -> None:
    """Wait until no other thread uses the libraries, which would stay locked in the child."""
    h5py = sys.modules.get("h5py._objects")
    _held[:] = [NETCDF_LOCK, *([h5py.phil] if h5py else [])]
    for lock in _held:
        lock.acquire()


def _after_fork() -> None:
    for lock in reversed(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )


def alone(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function while no other thread uses the netCDF library, and return its value.

    The function must not compute anything with dask, because the threads of dask may need the
    library, and it must not call `alone`.
    """
    try:
        with NETCDF_LOCK:
            return function(*args, **options)
    finally:
        while NETCDF_LOCK._is_owned():  # an interrupt in xarray may leave it locked
            NETCDF_LOCK.release()


def text_encoding(ds: xr.Dataset) -> dict[Hashable, dict[str, Any]]:
    """Return the encoding of text in a converted file, which is stored as single characters.

    Strings of variable length would crash the process if the file were opened twice at the same
    time: https://github.com/Unidata/netcdf-c/issues/2510.
    """
    return {
        name: {"dtype": "S1", "zlib": True}
        for name, variable in ds.variables.items()
        if variable.dtype.kind in "OU"
    }


def open_with_labels(
    file: Path, crc32: int | None = None, chunks: dict[str, Chunks] | None = None
) -> xr.Dataset:
    """Open a converted file. Its coordinates are loaded, with text as numpy strings.

    The file is opened again after unpickling, or after xarray had to close it because too many
    files were open. If its content has changed, this raises an OSError. `crc32` is the CRC-32 of
    the file and `chunks` are its chunks, if they are known.
    """
    crc32 = crc32_of(file) if crc32 is None else crc32
    source = Source(str(file.absolute()), status_of(file), crc32)
    # h5py has a lock of its own: whoever holds the lock of netCDF must not wait for it.
    direct = DirectFile(source, chunks)
    if direct.chunks:
        direct.opened()  # now, because another file may take its place later
    return alone(_open_with_labels, source, direct)


def _open_with_labels(source: Source, direct: DirectFile) -> xr.Dataset:
    manager: Any = CachingFileManager(_open_netcdf, source, mode="r", lock=NETCDF_LOCK)
    store: Any = _Store(manager, direct)
    ds = xr.open_dataset(store, chunks=None)
    coords = {}
    for name, coord in ds.coords.items():
        values = coord.values.astype(str) if coord.dtype.kind in "OU" else coord.values
        coords[name] = (coord.dims, values, coord.attrs)
    labelled = ds.assign_coords(coords)
    labelled.set_close(ds._close)
    return labelled


def _open_netcdf(source: Source, mode: Any) -> netCDF4.Dataset:
    content: netCDF4.Dataset = open_unchanged(netCDF4.Dataset, source)
    return content


class _Store(NetCDF4DataStore):
    """A converted file, whose large variables are read without the netCDF library."""

    def __init__(self, manager: Any, direct: DirectFile):
        super().__init__(manager, mode="r", lock=NETCDF_LOCK)  # type: ignore[no-untyped-call]
        self._direct = direct

    def close(self, **options: Any) -> None:
        super().close(**options)  # type: ignore[no-untyped-call]
        self._direct.close()

    def open_store_variable(self, name: str, var: Any) -> xr.Variable:
        variable: xr.Variable = super().open_store_variable(name, var)
        if name == "response":
            variable.encoding["chunksizes"] = _chunk_sizes(variable.sizes, EXPORT_CHUNKS)
        if name not in self._direct.chunks:
            return variable
        missing = variable.encoding["_FillValue"] = variable.attrs.pop("_FillValue")
        data = DirectArray(self._direct, name, variable.shape, variable.dtype, missing)
        lazy = LazilyIndexedArray(data)
        return xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding)


def to_netcdf(obj: xr.Dataset | xr.DataArray, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a Dataset or DataArray to a netCDF file, safely.

    This does what xarray's method of the same name does, with two differences. It is safe while
    other threads use the netCDF library (when dask computes, or threads open files), where
    xarray's method can crash Python. And if it is interrupted, it leaves no incomplete file.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        What to write. Lazy data are written piece by piece.
    path : path-like
        The file; ``~`` is the home folder. An existing file is replaced, even while it is open.
    **options
        Passed to :py:meth:`xarray.Dataset.to_netcdf`, such as ``encoding``.

    Raises
    ------
    FileNotFoundError
        If the folder of the file does not exist.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import nat4xr
    >>> val = nat4xr.open_area("A1", subset="val")
    >>> nat4xr.to_netcdf(val.psth, "psth.nc")
    """
    with written(path) as part:
        write_locked(obj, part, **options)


def write_locked(obj: xr.Dataset | xr.DataArray, file: Path, **options: Any) -> None:
    """Write a netCDF file in place, safely while other threads use the netCDF library."""
    if "distributed" in sys.modules and sys.modules["distributed"].futures_of(obj):
        obj = obj.compute()  # the threads below cannot use data in the workers of a cluster
    # First everything except dask chunks is written, then each chunk with the lock.
    with dask.config.set(scheduler="synchronous"):
        chunks: Any = alone(obj.to_netcdf, file, compute=False, **options)
    chunks.compute(scheduler="threads")


def write_netcdf(
    ds: xr.Dataset,
    target: Path,
    encoding: dict[Hashable, dict[str, Any]],
    empty: Mapping[str, tuple[str, Any]] = {},
) -> None:
    """Write a Dataset without dask arrays, safely while other threads use the netCDF library.

    Parameters
    ----------
    ds : xarray.Dataset
    target : pathlib.Path
    encoding : dict
        As for :py:meth:`xarray.Dataset.to_netcdf`.
    empty : mapping of str to (str, object), optional
        The dtype and fill value of variables of the schema whose values are written later.
    """
    alone(_write_netcdf, ds, target, encoding, empty)


def _write_netcdf(
    ds: xr.Dataset,
    target: Path,
    encoding: dict[Hashable, dict[str, Any]],
    empty: Mapping[str, tuple[str, Any]],
) -> None:
    file = netCDF4.Dataset(target, "w")
    _unclosed.append(file)
    try:
        ds.dump_to_store(NetCDF4DataStore(file, lock=NETCDF_LOCK), encoding=encoding)
        for name, (dtype, fill_value) in empty.items():
            _add_variable(file, name, dtype, fill_value, simulated_attr(ds))
    finally:
        file.close()
    _unclosed.remove(file)


_unclosed: list[netCDF4.Dataset] = []
"""Files that are being written, or could not be, for example because the disk is full.

If Python collected one that could not be closed, the netCDF library would write to it again, and
could crash.
"""


def write_area(data: AreaData, target: Path) -> None:
    """Write the converted file of an area."""
    compression = {"zlib": True, "complevel": 1, "shuffle": True}
    encoding = text_encoding(data.header) | dict.fromkeys(["spectrogram", "n_reps"], compression)
    # Counts are stored as bytes, which take a quarter of the space, and read as float32.
    rate: tuple[str, Any] = ("f4", np.float32(np.nan))
    count = ("u1", MISSING_COUNT) if data.counts_fit_a_byte() else rate
    write_netcdf(data.header, target, encoding, empty={"response": count, "psth": rate})
    _write_chunks(data, target)


def _add_variable(
    file: netCDF4.Dataset, name: str, dtype: str, fill_value: Any, attrs: dict[str, Any]
) -> None:
    dims = FIELDS[name].dims
    sizes = {dim: len(file.dimensions[dim]) for dim in dims}
    variable = file.createVariable(
        name,
        dtype,
        dims,
        zlib=True,
        complevel=1,  # exports inherit it; higher levels only take longer over zeros and NaN
        shuffle=False,  # shuffling would make counts larger: psth by a quarter
        chunksizes=_chunk_sizes(sizes, DISK_CHUNKS),
        fill_value=fill_value,
    )
    variable.setncatts(attrs_of(name) | attrs)


def _chunk_sizes(sizes: Mapping[Any, int], chunks: Mapping[str, int]) -> tuple[int, ...]:
    """Return the sizes of chunks, which span the dims that `chunks` does not name."""
    return tuple(min(chunks.get(dim, size), size) for dim, size in sizes.items())


def _write_chunks(data: AreaData, target: Path) -> None:
    """Write ``response`` and ``psth`` chunk by chunk, and compress them on two cores."""
    n_cores = min(2, os.cpu_count() or 1)  # more cores would need more memory
    import h5py

    with h5py.File(target, "r+") as file, ThreadPoolExecutor(n_cores) as cores:
        response, psth = file["response"], file["psth"]
        count_chunk, psth_chunk = (np.zeros(v.chunks, v.dtype) for v in (response, psth))

        def compressed(first: int) -> list[tuple[h5py.Dataset, tuple[int, ...], bytes]]:
            """Compress the chunks of a few sounds, and return them with their offsets."""
            stims = slice(first, first + DISK_CHUNKS["stim"])
            chunks: list[tuple[h5py.Dataset, tuple[int, ...], bytes]] = [
                (psth, (first, 0, neuron), chunk)
                for neuron, chunk in _compress(data.psth(stims), psth_chunk)
            ]
            for rep in range(data.header.sizes["rep"]):
                if (block := data.response(stims, rep, response.dtype)) is not None:
                    chunks += [
                        (response, (first, rep, 0, neuron), chunk)
                        for neuron, chunk in _compress(block, count_chunk[:, 0])
                    ]
            return chunks

        firsts = range(0, data.header.sizes["stim"], DISK_CHUNKS["stim"])
        for chunks in cores.map(compressed, firsts):
            for variable, offset, chunk in chunks:
                variable.id.write_direct_chunk(offset, chunk)


def _compress(block: NDArray[Any], empty: NDArray[Any]) -> Iterator[tuple[int, bytes]]:
    """Split a block (stim, time, neuron) into chunks, and compress them for HDF5."""
    n_neurons = empty.shape[-1]
    for neuron in range(0, block.shape[-1], n_neurons):
        part = block[..., neuron : neuron + n_neurons]
        chunk = np.zeros_like(empty)
        chunk[: part.shape[0], :, : part.shape[2]] = part
        # HDF5 itself would use zlib, which takes five times as long.
        yield neuron, isal_zlib.compress(chunk, 1)
