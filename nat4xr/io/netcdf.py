"""Reading and writing netCDF files of this package, also beside other threads."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import RLock
from typing import Any

import h5py
import netCDF4
import numpy as np
import xarray as xr
from isal import isal_zlib
from numpy.typing import NDArray
from xarray.backends import NetCDF4DataStore
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from ..schema import DISK_CHUNKS, FIELDS, attrs_of, simulated_attr
from .assemble import AreaData


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


def write_area(data: AreaData, target: Path) -> None:
    """Write an area's converted file."""
    compression = {"zlib": True, "complevel": 1, "shuffle": True}
    encoding = text_encoding(data.header) | dict.fromkeys(["spectrogram", "n_reps"], compression)
    write_netcdf(data.header, target, encoding)
    # On disk a trial's counts are bytes, a quarter of the size; xarray reads float32.
    count: tuple[str, Any] = ("u1", 255) if data.counts_fit_a_byte() else ("f4", np.float32(np.nan))
    attrs = simulated_attr(data.header)
    with NETCDF_LOCK, netCDF4.Dataset(target, "a") as file:
        _add_variable(file, "response", *count, attrs)
        _add_variable(file, "psth", "f4", np.float32(np.nan), attrs)
    _write_chunks(data, target)


def _add_variable(
    file: netCDF4.Dataset, name: str, dtype: str, fill_value: Any, attrs: dict[str, Any]
) -> None:
    dims = FIELDS[name].dims
    sizes = [len(file.dimensions[dim]) for dim in dims]
    variable = file.createVariable(
        name,
        dtype,
        dims,
        zlib=True,
        shuffle=False,  # shuffled counts would take more space: a quarter more, in psth
        chunksizes=[min(DISK_CHUNKS.get(d, n), n) for d, n in zip(dims, sizes, strict=True)],
        fill_value=fill_value,
    )
    variable.setncatts(attrs_of(name) | attrs)


def _write_chunks(data: AreaData, target: Path) -> None:
    """Write ``response`` and ``psth`` chunk by chunk, compressed on two cores."""
    n_cores = min(2, os.cpu_count() or 1)  # more would hold more blocks
    with h5py.File(target, "r+") as file, ThreadPoolExecutor(n_cores) as cores:
        response, psth = file["response"], file["psth"]
        count_chunk, psth_chunk = (np.zeros(v.chunks, v.dtype) for v in (response, psth))

        def compressed(first: int) -> list[tuple[h5py.Dataset, tuple[int, ...], bytes]]:
            """The chunks of some sounds, and their offsets."""
            stims = slice(first, first + DISK_CHUNKS["stim"])
            chunks: list[tuple[h5py.Dataset, tuple[int, ...], bytes]] = [
                (psth, (first, 0, neuron), chunk)
                for neuron, chunk in _compress(data.psth(stims), psth_chunk)
            ]
            for rep in range(data.header.sizes["rep"]):
                if (block := data.response(stims, rep)) is not None:
                    chunks += [
                        (response, (first, rep, 0, neuron), chunk)
                        for neuron, chunk in _compress(block, count_chunk[:, 0])
                    ]
            return chunks

        firsts = range(0, data.header.sizes["stim"], DISK_CHUNKS["stim"])
        for chunks in cores.map(compressed, firsts):
            for variable, offset, chunk in chunks:
                variable.id.write_direct_chunk(offset, chunk)


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
