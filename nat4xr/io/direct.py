"""Read the large variables of a converted file without the netCDF library.

That library serves one thread at a time, and inflates with zlib. Here any number of threads and
processes read chunks from their places in the file, and inflate them with ISA-L, which takes about
half the time.
"""

from __future__ import annotations

import errno
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
        remedy = _CLOSE if error.errno == errno.EMFILE else _UNLOCK
        raise OSError(f"{file} cannot be opened ({error.strerror or error}): {remedy}") from error
    raise OSError(f"{file} has been replaced since it was opened: {_OPEN_AGAIN}")


_OPEN_AGAIN = "open the area again (nat4xr.open_area or open_spikes)"
_CLOSE = "close Datasets that are no longer needed"
_UNLOCK = f"if another process is writing to it, wait for it to end; {NO_LOCKS}"


class DirectArray(BackendArray):
    """A variable in `DirectFile.chunks`.

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
        chunks = self._file.chunks[self._name]
        result = np.empty([p.size for p in positions], chunks.dtype)
        for pieces in product(*map(_pieces, positions, chunks.shape)):
            numbers, inside, into = zip(*pieces, strict=True)
            chunk = self._file.read(self._name, numbers)
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
    """A converted file, of which threads and processes can read chunks at the same time.

    Reading takes no lock (except on Windows, where processes are not forked), because a fork while
    a thread holds one would leave it locked in the child.

    Attributes
    ----------
    chunks : dict of str to Chunks
        The variables that can be read: floats and bytes that are compressed by zlib alone.
    """

    def __init__(self, source: Source, chunks: dict[str, Chunks] | None = None):
        self._source = source
        self._stream: tuple[_Stream, tuple[int, ...]] | None = None  # with its status
        self._turn = Lock()
        self.chunks = find_chunks(self.opened()) if chunks is None else chunks
        self._recent = {
            name: deque[tuple[Any, NDArray[Any]]](maxlen=found.n_per_cell)
            for name, found in self.chunks.items()
        }

    def __reduce__(self) -> Any:
        return DirectFile, (self._source, self.chunks)

    def opened(self) -> _Stream:
        """Return the open file. If it was closed or written to, it is opened and checked again."""
        if self._stream is not None:
            opened, status = self._stream
            if not opened.closed and status_of(opened.fileno()) == status:
                return opened
        stream: _Stream = open_unchanged(_Stream, self._source)
        self._stream = stream, status_of(stream.fileno())
        return stream

    def close(self) -> None:
        """Close the file, and forget its content. It is opened again if it is used again."""
        for recent in self._recent.values():
            recent.clear()
        if self._stream is not None:
            self._stream[0].close()

    def read(self, name: str, numbers: tuple[int, ...]) -> NDArray[Any] | None:
        """Read the chunk with these numbers along the dims; None if it was never written."""
        chunks, recent = self.chunks[name], self._recent[name]
        if numbers not in chunks.places:
            return None
        for known, kept in tuple(recent):
            if known == numbers:
                return kept
        content = self._bytes(*chunks.places[numbers])
        try:
            inflated = isal_zlib.decompress(content, bufsize=chunks.n_bytes)
            values = np.frombuffer(inflated, chunks.dtype).reshape(chunks.shape)
        except (isal_zlib.error, ValueError) as error:  # type: ignore[misc]
            raise OSError(f"{self._source.path} is damaged: {_OPEN_AGAIN}") from error
        recent.append((numbers, values))
        return values

    def _bytes(self, first: int, n_bytes: int) -> bytes:
        stream = self.opened()
        if hasattr(os, "pread"):
            return os.pread(stream.fileno(), n_bytes, first)
        with self._turn:  # Windows
            stream.seek(first)
            return stream.read(n_bytes)


class _Stream(io.FileIO):
    __del__ = io.FileIO.close  # without a warning


class Chunks(NamedTuple):
    """The chunks of a variable, and their places in the file: first byte and number of bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    places: dict[tuple[int, ...], tuple[int, int]]

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Chunks:
        """Make them from what `to_json` returned."""
        places = {tuple(numbers): (first, n) for *numbers, first, n in found["places"]}
        return cls(np.dtype(found["dtype"]), tuple(found["shape"]), places)

    def to_json(self) -> dict[str, Any]:
        """Return them as lists and text."""
        places = [[*numbers, *place] for numbers, place in self.places.items()]
        return {"dtype": self.dtype.str, "shape": self.shape, "places": places}

    @property
    def n_bytes(self) -> int:
        """Size of a chunk when it is inflated."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def n_per_cell(self) -> int:
        """Number of chunks with the values of a cell. Its dim is the last.

        If as many are kept, loops over cells inflate each chunk once.
        """
        return len({numbers[:-1] for numbers in self.places})


def find_chunks(file: io.FileIO | Path) -> dict[str, Chunks]:
    """Find the chunks of all variables of a file that are compressed by zlib alone."""
    import h5py

    with h5py.File(file, "r") as content:
        return {name: _chunks_of(data) for name, data in content.items() if _is_direct(data)}


def _is_direct(dataset: Any) -> bool:
    zlib_alone = dataset.compression == "gzip" and not (dataset.shuffle or dataset.fletcher32)
    return zlib_alone and dataset.dtype in (np.float32, np.uint8)


def _chunks_of(dataset: Any) -> Chunks:
    places = {}

    def add(chunk: Any) -> None:
        numbers = tuple(a // b for a, b in zip(chunk.chunk_offset, dataset.chunks, strict=True))
        places[numbers] = (chunk.byte_offset, chunk.size)

    dataset.id.chunk_iter(add)
    return Chunks(dataset.dtype, dataset.chunks, places)


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
