"""Read CSV tables with a header. A line that does not fit the header is an error."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from . import limits


def read_table(content: bytes, columns: Sequence[str]) -> dict[str, list[str]]:
    r"""Read some columns of a table as text: the fields of each column, one per row.

    The content is UTF-8 text, with or without a byte order mark. The columns may be in any order,
    and there may be others. Blank lines and spaces around column names are ignored. If a column is
    missing or appears twice, if a row has more or fewer fields than the header, or if there are too
    many rows, this raises a ValueError.

    >>> read_table(b"end,name\n1.5,a\n3,b", ["name", "end"])
    {'name': ['a', 'b'], 'end': ['1.5', '3']}
    """
    most = limits.most("table_rows")
    reader = _reader(content)
    try:
        header = _next_header(reader)
        for column in columns:
            if header.count(column) != 1:
                number = "more than one" if column in header else "no"
                raise ValueError(f"has {number} column {column}")
        rows = list(islice(reader, most + 1))
    except csv.Error as error:
        raise ValueError(f"is not CSV: {error}, line {reader.line_num}") from error
    if len(rows) > most:
        limits.check("table_rows", len(rows))
    if set(map(len, rows)) - {len(header)}:
        rows = _without_blank_lines(content)
    positions = {column: header.index(column) for column in columns}
    return {column: [row[position] for row in rows] for column, position in positions.items()}


def _without_blank_lines(content: bytes) -> list[list[str]]:
    """Read the rows again without blank lines. All other rows must fit the header."""
    reader = _reader(content)
    header = _next_header(reader)
    rows = []
    for row in reader:
        if len(row) == len(header):
            rows.append(row)
        elif _holds_text(row):
            raise ValueError(
                f"has {len(row)} fields in line {reader.line_num}, but {len(header)} in the header"
            )
    return rows


def read_header(content: bytes) -> list[str]:
    r"""Read the names of the columns of a table, as `read_table` takes it.

    >>> read_header(b"end, name\n1.5,a\n")
    ['end', 'name']
    """
    return _next_header(_reader(content))


def _reader(content: bytes) -> Any:
    return csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)


def _next_header(reader: Iterator[list[str]]) -> list[str]:
    return [name.strip() for name in next(filter(_holds_text, reader), [])]


def _holds_text(row: Sequence[str]) -> bool:
    """Whether a row is more than a blank line."""
    return any(field.strip() for field in row)


def parse_numbers(texts: Sequence[str]) -> list[float]:
    """Parse decimal numbers, or raise a ValueError.

    Underscores and non-ASCII digits, which Python allows, are errors.

    >>> parse_numbers(["1.5", "2e0"])
    [1.5, 2.0]
    """
    joined = "".join(texts)
    if "_" in joined or not joined.isascii():
        wrong = next(text for text in texts if "_" in text or not text.isascii())
        raise ValueError(f"contains something that is not a number: {wrong!r}")
    return [float(text) for text in texts]
