"""Read rasters, which are tables of samples x channels, and store them without their zeros."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import limits

_BLOCK = 2 * 2**20
_FLOAT64 = np.dtype(np.float64)
# A value in the format "%.18e" has 24 characters, and is followed by a comma or a newline.
_ZERO = b"0.000000000000000000e+00"
_VALUE_BYTES = len(_ZERO) + 1
_TEXT = np.dtype((np.void, len(_ZERO)))  # numpy copies it faster than bytes or words
_WORDS = np.dtype(("<u8", 3))
_ZERO_WORDS = np.frombuffer(_ZERO, "<u8")
_NAN = b"nan".ljust(len(_ZERO))
_NAN_WORDS = np.frombuffer(_NAN, "<u8")
_POWERS_OF_10 = np.array([float(f"1e{exponent - 18}") for exponent in range(-99, 100)])
_BOM = b"\xef\xbb\xbf"


Stream = Any  # a binary file with readinto(buffer)


@dataclass(frozen=True)
class Raster:
    """A samples x channels table without its zeros.

    Spike counts are mostly zeros: the 88,950 x 849 values of A1 take 55 MB in this form, and 300 MB
    as a dense float32 table.

    Attributes
    ----------
    n_channels : int
    starts : numpy.ndarray of int
        The position of the first value of each sample, followed by the number of values.
    channels : numpy.ndarray of uint16
        The channel of each value, in the order of samples.
    values : numpy.ndarray
        The values that are not zero. Any numbers, or bool.
    """

    n_channels: int
    starts: NDArray[np.int64]
    channels: NDArray[np.uint16]
    values: NDArray[Any]

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.starts) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.values.dtype

    def within(self, start: int, stop: int) -> slice:
        """Return the positions of the values of samples ``start`` to ``stop``."""
        return slice(self.starts[start], self.starts[stop])

    def dense(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return samples ``start`` to ``stop`` as a dense table, (samples, channels).

        With `out`, a table of zeros in C order, the values are written to it.
        """
        if out is None:
            out = np.zeros((stop - start, self.n_channels), self.dtype)
        kept = self.within(start, stop)
        first = np.arange(stop - start) * self.n_channels
        n_values = np.diff(self.starts[start : stop + 1])
        out.reshape(-1)[np.repeat(first, n_values) + self.channels[kept]] = self.values[kept]
        return out


@dataclass(frozen=True)
class RasterShape:
    """The size and type of a `Raster` whose values were not read."""

    n_samples: int
    n_channels: int
    dtype: np.dtype[Any]


def read_raster(stream: Stream, size: int, dtype: Any = np.float64) -> Raster:
    """Read a samples x channels CSV of numbers as a `Raster`, in blocks of a few MB.

    In the format ``%.18e``, each value takes 25 bytes. Zeros are then found by comparing bytes, and
    only the other values are parsed. Blocks in another format are parsed value by value, which
    takes twenty times as long. Blank lines are ignored, except in a table that only consists of
    blank lines. Such a table has one sample per line, and no channels. `size`, the size of the file
    in bytes, is not used. The values become ``float64`` or ``float32``.
    """
    dtype = np.dtype(dtype)
    head, blank_lines = _first_line(stream)
    if not head:
        return _joined([], 0, blank_lines, dtype)
    n_channels = _n_columns(head)
    _check_shape(0, n_channels)
    with closing(_whole_lines(stream, head, n_channels)) as blocks:
        parts = (_parse(block, n_channels, dtype) for block in blocks)
        return _joined(parts, n_channels, 0, dtype)


def _parse(block: bytearray, n_channels: int, dtype: np.dtype[Any]) -> Raster:
    """Parse whole lines of text."""
    return (
        parse_fixed_width(block, n_channels, dtype)
        or parse_fixed_width(bytearray(b"\n").join([*_lines(block), b""]), n_channels, dtype)
        or parse_general(block, n_channels, dtype)
    )


def read_hdf5_raster(dataset: Any) -> Raster:
    """Read a dataset (channel, ..., time) of numbers or bool as a `Raster`, in blocks of samples.

    Dims between channel and time are flattened into the channels.
    """
    shape = measure_hdf5_raster(dataset)
    chunk = dataset.chunks[-1] if dataset.chunks else 1
    n_samples = max(1, _BLOCK // max(1, shape.n_channels))
    at_a_time = min(max(1, n_samples // chunk) * chunk, max(1, 2**27 // max(1, shape.n_channels)))

    def blocks() -> Iterator[Raster]:
        for start in range(0, shape.n_samples, at_a_time):
            block = dataset[..., start : start + at_a_time].astype(shape.dtype, copy=False)
            table = block.reshape(shape.n_channels, block.shape[-1]).T.reshape(-1)
            positions = np.flatnonzero(table)
            yield _raster(block.shape[-1], shape.n_channels, positions, table[positions])

    return _joined(blocks(), shape.n_channels, 0, shape.dtype)


def measure_hdf5_raster(dataset: Any) -> RasterShape:
    """Return the size of a dataset that `read_hdf5_raster` would read."""
    n_samples, n_channels = dataset.shape[-1], math.prod(dataset.shape[:-1])
    _check_shape(n_samples, n_channels)
    limits.check("hdf5_values", n_samples * n_channels)
    return RasterShape(n_samples, n_channels, dataset.dtype.newbyteorder("="))


def _joined(
    parts: Iterable[Raster], n_channels: int, n_samples: int, dtype: np.dtype[Any]
) -> Raster:
    """Concatenate rasters along the samples, after ``n_samples`` samples without values."""
    starts = [np.zeros(1 + n_samples, np.int64)]
    channels, values = bytearray(), bytearray()  # a list of arrays would take twice the memory
    n_values = 0
    for part in parts:
        starts.append(n_values + part.starts[1:])
        channels += part.channels.data
        values += part.values.data
        n_values += len(part.values)
        n_samples += part.n_samples
        _check_shape(n_samples, n_channels)
        limits.check("values", n_values)
    return Raster(
        n_channels,
        np.concatenate(starts),
        np.frombuffer(channels, _channel_dtype(n_channels)),
        np.frombuffer(values, dtype),
    )


def _raster(
    n_samples: int, n_channels: int, positions: NDArray[np.intp], values: NDArray[Any]
) -> Raster:
    """Make a raster from values and their sorted positions in the flattened table."""
    first = np.arange(n_samples + 1) * n_channels
    starts = np.searchsorted(positions, first)
    channels = positions - np.repeat(first[:-1], np.diff(starts))
    return Raster(n_channels, starts, channels.astype(_channel_dtype(n_channels)), values)


def _channel_dtype(n_channels: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if n_channels <= 2**16 else np.uint32


def _first_line(stream: Stream) -> tuple[bytes, int]:
    """Read until the end of the first line that is not blank.

    Returns
    -------
    head : bytes
        This line and any bytes that were read after it. Empty if all lines are blank.
    n_blank : int
        The number of blank lines before it.
    """
    head, n_blank = b"", 0
    while b"\n" not in head and (more := stream.read(2**16)):
        head = head + more if head or n_blank else more.removeprefix(_BOM)
        n_blank += head.count(b"\n", 0, len(head) - len(head.lstrip(b"\r\n")))
        head = head.lstrip(b"\r\n")
        _check_line(len(head))
        _check_shape(n_blank, 0)
    return head, n_blank


def _n_columns(head: bytes) -> int:
    return head.partition(b"\n")[0].count(b",") + 1


def measure_raster(stream: Stream, size: int, dtype: Any = np.float64) -> RasterShape:
    """Count the samples and channels of a CSV without parsing its values."""
    dtype = np.dtype(dtype)
    head, n_samples = _first_line(stream)
    if not head:
        return RasterShape(n_samples, 0, dtype)
    n_channels, n_samples = _n_columns(head), 0
    with closing(_whole_lines(stream, head, n_channels)) as blocks:
        for block in blocks:
            width = _VALUE_BYTES * n_channels
            n_lines = block.count(b"\n")
            if len(block) == n_lines * width and block[width - 1 :: width] == b"\n" * n_lines:
                n_samples += n_lines  # all lines have the fixed width, so none is blank
            else:
                n_samples += len(_lines(block))
            _check_shape(n_samples, n_channels)
    return RasterShape(n_samples, n_channels, dtype)


def _lines(block: bytearray) -> list[bytearray]:
    """Return the lines that are not blank."""
    return [line for line in block.split(b"\n") if line.strip()]


def _check_shape(n_samples: int, n_channels: int) -> None:
    limits.check("channels", n_channels)
    limits.check("samples", n_samples)


def _check_line(n_bytes: int) -> None:
    limits.check("line_bytes", n_bytes)


def _whole_lines(stream: Stream, head: bytes, n_channels: int) -> Generator[bytearray]:
    """Yield blocks of whole lines, and read the next block on another core meanwhile.

    A block is only valid until the next one is asked for: two buffers serve all blocks, and stay in
    the processor's cache.
    """
    line_bytes = _VALUE_BYTES * n_channels
    size = max(1, _BLOCK // line_bytes) * line_bytes

    def read(buffer: bytearray, rest: bytes) -> tuple[bytearray, int]:
        if len(rest) > len(buffer) // 2:
            buffer = bytearray(2 * len(rest))
        buffer[: len(rest)] = rest
        return buffer, len(rest) + fill(stream, memoryview(buffer)[len(rest) :])

    with ThreadPoolExecutor(1) as other_core:
        spare = bytearray(size)
        buffer, n_bytes = read(bytearray(size), head)
        while True:
            full = n_bytes == len(buffer)
            end = buffer.rfind(b"\n", 0, n_bytes) + 1 if full else n_bytes
            rest = bytes(buffer[end:n_bytes])
            _check_line(len(rest))
            following = other_core.submit(read, spare, rest) if full else None
            if end:
                yield buffer if end == len(buffer) else buffer[:end]
            if following is None:
                return
            spare, (buffer, n_bytes) = buffer, following.result()


def fill(stream: Stream, buffer: memoryview) -> int:
    """Read until the buffer is full or the stream ends, and return the number of bytes read."""
    n_read = 0
    while n := stream.readinto(buffer[n_read:]):
        n_read += n
    return n_read


def parse_fixed_width(
    block: bytearray, n_channels: int, dtype: np.dtype[Any] = _FLOAT64
) -> Raster | None:
    """Parse whole lines in which all values have the format ``%.18e``. They are overwritten.

    Returns None, and leaves the lines as they are, if a value has another width or is not a number.
    """
    line_bytes = _VALUE_BYTES * n_channels
    if len(block) % line_bytes:
        block = block.replace(b"nan", _NAN)
        if len(block) % line_bytes:
            return None
    n_samples = len(block) // line_bytes
    # In the format "%.18e", only zero begins with the digit 0.
    first = np.frombuffer(block, np.uint8)[::_VALUE_BYTES].copy()
    positions = np.flatnonzero(first != ord("0"))
    texts: Any = np.ndarray(len(first), _TEXT, block, strides=(_VALUE_BYTES,))
    originals = texts[positions]
    values = _parse_words(originals.view(_WORDS), dtype)
    if values is None:
        return None
    # After all other values are replaced by zeros, the text must be that of a table of zeros.
    texts[positions] = np.void(_ZERO)
    if block != _zero_lines(n_samples, n_channels):
        texts[positions] = originals
        return None
    return _raster(n_samples, n_channels, positions, values)


@lru_cache(maxsize=2)
def _zero_lines(n_samples: int, n_channels: int) -> bytes:
    return (b",".join([_ZERO] * n_channels) + b"\n") * n_samples


def _parse_words(words: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Parse values of 24 characters, (value, word). Returns None if one is not a number."""
    head, middle, tail = words.T
    digit = head - _ZERO_WORDS[0]
    values: NDArray[Any] = digit.astype(dtype)
    is_digit = (digit <= 9) & (middle == _ZERO_WORDS[1]) & (tail == _ZERO_WORDS[2])
    others = np.flatnonzero(~is_digit)
    if not others.size:
        return values
    head, middle, tail = (word[others] for word in (head, middle, tail))
    # The characters of each word, in the order of a text, are its bytes from the lowest on.
    first_digits = (head & 0xFF) | (head >> 8 & ~np.uint64(0xFF)) | ord("0") << 56
    last_digits = (tail & 0xFFFFFFFF) | (tail >> 16 & 0xFFFF << 32) | 0x3030 << 48
    sign = tail >> 40 & 0xFF
    is_number = _are_digits(first_digits) & _are_digits(middle) & _are_digits(last_digits)
    is_number &= ((head >> 8 & 0xFF) == ord(".")) & ((tail >> 32 & 0xFF) == ord("e"))
    is_number &= (sign == ord("+")) | (sign == ord("-"))
    if not (is_number.all() or (words[others[~is_number]] == _NAN_WORDS).all()):
        return None
    exact = np.ones(others.size, bool)
    if dtype == np.float32:
        # The integer of all 19 digits fits into 64 bits.
        last, exponent = np.divmod(_eight_digits(last_digits) // 100, 100)
        integer = _eight_digits(first_digits) // 10 * 10**12 + _eight_digits(middle) * 10**4 + last
        power = np.where(sign == ord("-"), -exponent.astype(np.int64), exponent.astype(np.int64))
        # Three roundings, by less than 2**-51 together.
        number = integer * _POWERS_OF_10[99 + np.where(is_number, power, 0)]
        lowest = _as_type(number * (1 - 2**-50), dtype)
        with np.errstate(over="ignore"):
            highest = (number * (1 + 2**-50)).astype(dtype)
        values[others] = lowest
        exact = (lowest != highest) | ~is_number
    texts = words[others[exact]].view("S24").reshape(-1)
    values[others[exact]] = _as_type(texts.astype(np.float64), dtype)
    return values


def _are_digits(word: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether all eight characters of each word are digits."""
    above = word + np.uint64(0x4646464646464646)  # sets the highest bit of bytes above "9"
    below = word - np.uint64(0x3030303030303030)  # sets it in bytes below "0"
    result: NDArray[np.bool_] = ((word | above | below) & np.uint64(0x8080808080808080)) == 0
    return result


def _eight_digits(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the integers whose eight digits are the characters of each word."""
    word = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) * np.uint64(2561) >> np.uint64(8)
    word = (word & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(6553601) >> np.uint64(16)
    return (word & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(42949672960001) >> np.uint64(32)


def _as_type(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert values to float64 or float32. If a value becomes infinite, this is an error."""
    if dtype == np.float64:
        return values
    with np.errstate(over="ignore"):
        converted: NDArray[Any] = values.astype(dtype)
    if np.isinf(converted).any():
        raise ValueError(f"contains a value that is infinite, or too large for {dtype}")
    return converted


_MISSING = set(
    b",#N/A,#N/A N/A,#NA,-1.#IND,-1.#QNAN,1.#IND,1.#QNAN,<NA>,N/A,NA,NULL,None,n/a,null".split(b",")
)
"""What pandas, too, reads as NaN, beside what Python does."""


def _number(text: bytearray) -> float:
    try:
        return float(text)
    except ValueError:
        content = bytes(text).strip().strip(b'"')
        return math.nan if content in _MISSING else float(content)


def parse_general(block: bytearray, n_channels: int, dtype: np.dtype[Any] = _FLOAT64) -> Raster:
    """Parse lines of comma-separated numbers of any width, as pandas does, and skip blank lines."""
    lines = _lines(block)
    if any(line.count(b",") != n_channels - 1 for line in lines):
        raise ValueError(f"has a line that does not have {n_channels} columns")
    if b"_" in block:  # Python would accept it in a number
        raise ValueError("contains something that is not a number: an underscore")
    try:
        table = np.array([_number(text) for line in lines for text in line.split(b",")])
    except ValueError as error:
        raise ValueError(f"contains something that is not a number: {error}") from error
    positions = np.flatnonzero(table)
    return _raster(len(lines), n_channels, positions, _as_type(table[positions], dtype))
