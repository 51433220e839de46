"""Reading CSV tables that have a header, strictly: a line that does not fit it is an error."""

import csv
import io
from collections.abc import Sequence


def read_table(content: bytes, columns: Sequence[str]) -> dict[str, list[str]]:
    r"""Read some columns of a table as text.

    Parameters
    ----------
    content : bytes
        UTF-8 text. Columns come in any order, and there may be others.
    columns : sequence of str

    Returns
    -------
    dict of str to list of str
        The fields of each column, a field a row.

    Raises
    ------
    ValueError
        A column is missing or there twice, or a row has more or fewer fields than the header.

    Examples
    --------
    >>> read_table(b"end,name\n1.5,a\n3,b", ["name", "end"])
    {'name': ['a', 'b'], 'end': ['1.5', '3']}
    """
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    try:
        header = next(rows, [])
        for column in columns:
            if header.count(column) != 1:
                wrong = "twice a" if column in header else "no"
                raise ValueError(f"has {wrong} column {column}")
        places = [header.index(column) for column in columns]
        table: dict[str, list[str]] = {column: [] for column in columns}
        for row in rows:
            if row and len(row) != len(header):  # nothing is a blank line
                raise ValueError(
                    f"has a line of {len(row)} fields under a header of {len(header)}: "
                    f"line {rows.line_num}"
                )
            if row:
                for fields, place in zip(table.values(), places, strict=True):
                    fields.append(row[place])
    except csv.Error as error:
        raise ValueError(f"is not CSV: {error}, line {rows.line_num}") from error
    return table


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
    for text in texts:
        if "_" in text or not text.isascii():
            raise ValueError(f"holds something that is not a number: {text!r}")
    return [float(text) for text in texts]
