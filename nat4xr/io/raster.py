"""Rasters: tables of samples x channels, read from text and held without their zeros."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CHANNELS = 2**14
"""A raster of more channels than this is refused."""

MAX_SAMPLES = 2**22
"""A raster of more samples than this is refused; A1 has 88,950."""

MAX_VALUES = 2**28
"""A raster may have this many values other than zero: they are held."""

_BLOCK = 2 * 2**20
_WORDS = ("head", "middle", "tail")
# A value written with "%.18e" has 24 characters, which are handled as three words, and is
# followed by a comma or a newline.
_VALUE = np.dtype({"names": _WORDS, "formats": ["<u8"] * 3, "offsets": [0, 8, 16], "itemsize": 25})
_ZERO = b"0.000000000000000000e+00"
_ZERO_WORDS = np.frombuffer(_ZERO, "<u8")
_NAN = b"nan".ljust(len(_ZERO))
_NAN_WORDS = np.frombuffer(_NAN, "<u8")
_DIGITS = [0, *range(2, 20), 22, 23]


Stream = Any  # a binary file with readinto(buffer)


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
    while n_bytes := fill(stream, memoryview(buffer)):
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
        n_bytes = len(rest) + fill(stream, memoryview(buffer)[len(rest) :])
        full = n_bytes == len(buffer)
        end = buffer.rfind(b"\n", 0, n_bytes) + 1 if full else n_bytes
        rest = bytes(buffer[end:n_bytes])
        _check_line(len(rest))
        if end:
            yield buffer if end == len(buffer) else buffer[:end]
        if not full:
            return


def fill(stream: Stream, buffer: memoryview) -> int:
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
