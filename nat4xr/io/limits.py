"""Limits on the size of files and of their contents."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

VARIABLE = "NAT4XR_LIMITS"
"""The name of the environment variable that multiplies all limits."""


class Limit(NamedTuple):
    """A limit on the size of something.

    Attributes
    ----------
    most : int
        Larger sizes raise an error.
    largest : int
        The size in the largest file that we know, or an estimate of it.
    what : str
        What is counted.
    """

    most: int
    largest: int
    what: str


LIMITS = {
    "zip_files": Limit(20_000, 593, "files in a zip"),
    "site_archive": Limit(2**28, 6_000_000, "bytes of a site's archive"),
    "sound_file": Limit(2**26, 88_244, "bytes of a sound file"),
    "recording_files": Limit(10_000, 20, "files and folders in a recording"),
    "recording_bytes": Limit(2**36, 1_960_000_000, "bytes of all files of a recording"),
    "site_bytes": Limit(2**31, 50_000_000, "bytes of all files of a site's recording"),
    "json_bytes": Limit(2**25, 500_000, "bytes of JSON in a recording"),
    "epochs": Limit(2**22, 12_000, "epochs of all signals of a recording"),
    "table_bytes": Limit(2**26, 1_000_000, "bytes of a table of cells or epochs"),
    "table_rows": Limit(2**20, 12_000, "rows of a table of cells or epochs"),
    "line_bytes": Limit(2**22, 53_200, "bytes of a line of a raster"),
    "channels": Limit(2**16, 2_128, "channels of a raster"),
    "samples": Limit(2**26, 1_000_000, "samples of a raster"),
    "values": Limit(2**28, 8_000_000, "values of a raster other than zero"),
    "hdf5_bytes": Limit(2**32, 40_000_000, "bytes of an HDF5 file, or of the numbers in it"),
    "hdf5_datasets": Limit(2**16, 2_128, "datasets of an HDF5 file"),
    "hdf5_values": Limit(2**32, 75_518_550, "values of a raster in HDF5"),
    "sounds": Limit(2**15, 593, "sounds of a population recording"),
    "val_bins": Limit(2**29, 45_846_000, "bins of all val trials and cells"),
    "spikes": Limit(2**28, 12_000_000, "spikes of all sites"),
}
"""All limits by name. Each is at least ten times the size in the largest known file."""


def most(name: str) -> int:
    """Return a limit of `LIMITS`, multiplied by the environment variable ``NAT4XR_LIMITS``.

    If that is not a positive number, this raises a ValueError.

    >>> most("zip_files")
    20000
    """
    text = os.environ.get(VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ValueError(f"the environment variable {VARIABLE} is {text!r}, not a positive number")
    return int(LIMITS[name].most * factor)


def check(name: str, amount: int) -> None:
    """Raise a ValueError if an amount is over a limit of `LIMITS`; it says how to raise the limit.

    >>> check("zip_files", 593)
    >>> check("zip_files", 30_000)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: 30,000 files in a zip are over the limit of 20,000 (zip_files): ...
    """
    if amount > (limit := most(name)):
        factor = math.ceil(amount / LIMITS[name].most)
        raise ValueError(
            f"{amount:,} {LIMITS[name].what} are over the limit of {limit:,} ({name}): if the file "
            f"is right, set the environment variable {VARIABLE}={factor}, which multiplies all "
            "limits"
        )
