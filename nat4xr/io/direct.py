"""Read the large variables of a converted file without the netCDF library.

That library serves one thread at a time, and inflates with zlib. Here any number of threads and
processes read chunks from their places in the file, and inflate them with ISA-L, which takes a
third of the time.
"""

from __future__ import annotations

import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core.indexing import IndexingSupport, explicit_indexing_adapter

from .writing import NO_LOCKS, crc32_of, status_of


class Source(NamedTuple):
    """A file, its status when it was opened first, and the CRC-32 of its content."""

    path: str
    status: tuple[int, ...]
    crc32: int


def open_unchanged(opener: Callable[[str], Any], source: Source) -> Any:
    """Open a file, and raise an OSError if its content is not that of the source."""
    file = Path(source.path)
    try:
        content = opener(source.path)
        if status_of(file) == source.status or crc32_of(file) == source.crc32:
            return content
        content.close()
    except FileNotFoundError:
        raise OSError(f"{file} has been removed since it was opened: {_OPEN_AGAIN}") from None
    except OSError as error:
        raise OSError(f"{file} cannot be opened ({error.strerror or error}): {_UNLOCK}") from error
    raise OSError(f"{file} has been replaced since it was opened: {_OPEN_AGAIN}")


_OPEN_AGAIN = "open the area again (nat4xr.open_area or open_spikes)"
_UNLOCK = f"if another process is writing to it, wait for it to end; {NO_LOCKS}"


class DirectArray(BackendArray):
    """A variable of an HDF5 file that is compressed by zlib alone.

    Floats are read as they are. Bytes become float32, with NaN for bytes that equal `missing`.
    Chunks that were never written are `missing`.
    """

    def __init__(
        self,
        file: DirectFile,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        missing: Any,
    ):
        self._file, self._name, self._missing = file, name, missing
        self.shape = shape
        self.dtype = np.dtype(np.float32) if dtype == np.uint8 else dtype

    def __getitem__(self, key: Any) -> Any:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._values)

    def _values(self, key: tuple[Any, ...]) -> NDArray[Any]:
        positions = [np.arange(size)[k] for size, k in zip(self.shape, key, strict=True)]
        stored = self._stored([p.reshape(-1) for p in positions])
        values = stored if stored.dtype != np.uint8 else self._as_float(stored)
        return values.reshape([size for p in positions for size in p.shape])

    def _stored(self, positions: list[NDArray[np.intp]]) -> NDArray[Any]:
        """Read values as they are stored, at the given positions along each dim."""
        chunks = self._file.chunks(self._name)
        result = np.empty([p.size for p in positions], chunks.dtype)
        for pieces in product(*map(_pieces, positions, chunks.shape)):
            numbers, inside, into = zip(*pieces, strict=True)
            chunk = self._file.read(chunks, numbers)
            result[_outer(into)] = self._missing if chunk is None else chunk[_outer(inside)]
        return result

    def _as_float(self, stored: NDArray[np.uint8]) -> NDArray[np.float32]:
        counts = stored.astype(np.float32)
        flat, stored = counts.reshape(-1), stored.reshape(-1)
        for first in range(0, flat.size, 2**18):  # a few pages at a time, which is faster
            part = slice(first, first + 2**18)
            np.copyto(flat[part], np.nan, where=stored[part] == self._missing)
        return counts


class DirectFile:
    """An HDF5 file, of which threads and processes can read chunks at the same time.

    It is opened when it is first used. It has no locks on systems with forks, because a fork while
    a thread holds one would leave it locked in the child.
    """

    def __init__(self, source: Source):
        self._source = source
        self._stream: io.FileIO | None = None
        self._turn = Lock()
        self._chunks: dict[str, _Chunks] = {}

    def __reduce__(self) -> Any:
        return DirectFile, (self._source,)

    def stream(self) -> io.FileIO:
        """Return the open file."""
        stream = self._stream
        if stream is None or stream.closed:
            stream = self._stream = open_unchanged(io.FileIO, self._source)
        return stream

    def close(self) -> None:
        """Close the file. It is opened again if it is used again."""
        if self._stream is not None:
            self._stream.close()

    __del__ = close

    def chunks(self, name: str) -> _Chunks:
        """Find the chunks of a variable."""
        if name not in self._chunks:
            import h5py

            content = io.BytesIO(self._bytes(0, self._source.status[1]))
            with h5py.File(content, "r") as file:
                self._chunks |= {n: _chunks(data) for n, data in file.items() if data.compression}
        return self._chunks[name]

    def read(self, chunks: _Chunks, numbers: tuple[int, ...]) -> NDArray[Any] | None:
        """Read the chunk with these numbers along the dims; None if it was never written."""
        if numbers not in chunks.places:
            return None
        for recent, values in tuple(chunks.recent):
            if recent == numbers:
                return values
        first, n_bytes = chunks.places[numbers]
        try:
            content = isal_zlib.decompress(self._bytes(first, n_bytes), bufsize=chunks.n_bytes)
            values = np.frombuffer(content, chunks.dtype).reshape(chunks.shape)
        except (isal_zlib.error, ValueError) as error:  # type: ignore[misc]
            raise OSError(f"{self._source.path} is damaged: {_OPEN_AGAIN}") from error
        chunks.recent.append((numbers, values))
        return values

    def _bytes(self, first: int, n_bytes: int) -> bytes:
        stream = self.stream()
        if hasattr(os, "pread"):
            return os.pread(stream.fileno(), n_bytes, first)
        with self._turn:  # Windows
            stream.seek(first)
            return stream.read(n_bytes)


_RECENT = 40
"""Enough chunks for a cell and all sounds, so that loops over cells inflate each chunk once."""


class _Chunks(NamedTuple):
    """The chunks of a variable, and their places in the file: first byte and number of bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    places: dict[tuple[int, ...], tuple[int, int]]
    recent: deque[tuple[tuple[int, ...], NDArray[Any]]]  # chunks that were read last

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _chunks(dataset: Any) -> _Chunks:
    places = {}

    def add(chunk: Any) -> None:
        numbers = tuple(a // b for a, b in zip(chunk.chunk_offset, dataset.chunks, strict=True))
        places[numbers] = (chunk.byte_offset, chunk.size)

    dataset.id.chunk_iter(add)
    return _Chunks(dataset.dtype, dataset.chunks, places, deque(maxlen=_RECENT))


def _pieces(positions: NDArray[np.intp], size: int) -> Iterator[tuple[int, Any, Any]]:
    """Split positions along a dim by chunk.

    Yields the number of the chunk, and the positions in the chunk and in the result.
    """
    numbers = positions // size
    for number in np.unique(numbers).tolist():
        into = np.flatnonzero(numbers == number)
        yield number, _as_slice(positions[into] - number * size), _as_slice(into)


def _as_slice(positions: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    first, n = int(positions[0]), len(positions)
    return slice(first, first + n) if (np.diff(positions) == 1).all() else positions


def _outer(positions: tuple[Any, ...]) -> Any:
    """Return an index that takes the positions along each dim independently."""
    if all(isinstance(p, slice) for p in positions):
        return positions
    return np.ix_(*(np.arange(p.start, p.stop) if isinstance(p, slice) else p for p in positions))
