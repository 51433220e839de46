"""Reading CSV tables that have a header, strictly: a line that does not fit it is an error."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from . import limits


def read_table(content: bytes, columns: Sequence[str]) -> dict[str, list[str]]:
    r"""Read some columns of a table as text.

    Parameters
    ----------
    content : bytes
        UTF-8 text, with or without a byte order mark. Columns come in any order, and there may be
        others. Blank lines and spaces around the names of columns do not matter.
    columns : sequence of str

    Returns
    -------
    dict of str to list of str
        The fields of each column, a field a row.

    Raises
    ------
    ValueError
        A column is missing or there twice, a row has more or fewer fields than the header, or
        there are too many rows.

    Examples
    --------
    >>> read_table(b"end,name\n1.5,a\n3,b", ["name", "end"])
    {'name': ['a', 'b'], 'end': ['1.5', '3']}
    """
    most = limits.most("table_rows")
    reader = _reader(content)
    try:
        header = _next_header(reader)
        for column in columns:
            if header.count(column) != 1:
                wrong = "twice a" if column in header else "no"
                raise ValueError(f"has {wrong} column {column}")
        rows = list(islice(reader, most + 1))
    except csv.Error as error:
        raise ValueError(f"is not CSV: {error}, line {reader.line_num}") from error
    if len(rows) > most:
        limits.check("table_rows", len(rows))
    if set(map(len, rows)) - {len(header)}:
        rows = _without_blank_lines(content)
    places = {column: header.index(column) for column in columns}
    return {column: [row[place] for row in rows] for column, place in places.items()}


def _without_blank_lines(content: bytes) -> list[list[str]]:
    """Read the rows again, looking at each: all that are not blank must fit the header."""
    reader = _reader(content)
    header = _next_header(reader)
    rows = []
    for row in reader:
        if len(row) == len(header):
            rows.append(row)
        elif _holds_text(row):
            raise ValueError(
                f"has a line of {len(row)} fields under a header of {len(header)}: "
                f"line {reader.line_num}"
            )
    return rows


def read_header(content: bytes) -> list[str]:
    r"""Read the names of a table's columns.

    Parameters
    ----------
    content : bytes
        As for `read_table`.

    Returns
    -------
    list of str

    Examples
    --------
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
    """Parse decimal numbers, refusing what Python alone takes for one.

    Parameters
    ----------
    texts : sequence of str

    Returns
    -------
    list of float

    Raises
    ------
    ValueError
        A text is no number.

    Examples
    --------
    >>> parse_numbers(["1.5", "2e0"])
    [1.5, 2.0]
    """
    together = "".join(texts)
    if "_" in together or not together.isascii():
        wrong = next(text for text in texts if "_" in text or not text.isascii())
        raise ValueError(f"holds something that is not a number: {wrong!r}")
    return [float(text) for text in texts]
