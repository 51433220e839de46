"""The files of the release, the data folder, and the entries of the Zenodo record.

This package does not contain the sizes and checksums of the files. They are read from the Zenodo
record on first contact, and saved in the data folder as ``registry.json``. From then on, every file
is checked against them.
"""

import hashlib
import json
import os
import re
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import quoted
from .writing import expanded

CREATORS = "Stephen V. David and Jacob R. Pennington"
RECORD = "8044773"
DOI = f"10.5281/zenodo.{RECORD}"
VERSION = "1.1.0"
LICENSE = "CC-BY-4.0"
REFERENCES = (
    "Pennington, J. R. and David, S. V. (2023), PLOS Comput. Biol. 19(5): e1011110, "
    "https://doi.org/10.1371/journal.pcbi.1011110"
)

AREAS = ("A1", "PEG")

FILES: dict[str, tuple[str, ...]] = {
    "A1": ("A1_NAT4_ozgf.fs100.ch18.tgz", "A1_single_sites.zip", "A1_pred_correlation.csv"),
    "PEG": ("PEG_NAT4_ozgf.fs100.ch18.tgz", "PEG_single_sites.zip", "PEG_pred_correlation.csv"),
    "wav": ("wav.zip",),
}
"""The file names of the release, by the part of it that they make up."""

PIN = "registry.json"


def part_named(name: str, kind: Literal["area", "part"] = "area") -> str:
    """Return the name of an area, or of any part of the release, that was given in any case.

    If there is no such area or part, this raises a ValueError.

    >>> part_named("peg"), part_named("WAV", "part")
    ('PEG', 'wav')
    """
    names = AREAS if kind == "area" else tuple(FILES)
    for known in names:
        if str(name).lower() == known.lower():
            return known
    raise ValueError(f"there is no {kind} {name!r}: choose one of {', '.join(map(repr, names))}")


class Entry(NamedTuple):
    """The entry of the record for one file: its size in bytes and its md5 in hexadecimal."""

    size: int
    md5: str


def data_dir(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds the release, which need not exist.

    It is `path`, else the environment variable ``NAT4XR_DATA_DIR``, else the user's cache folder.
    ``~`` is the home folder. If there is no such home folder, or its name is not UTF-8, this raises
    an OSError.

    >>> from nat4xr.io.registry import data_dir
    >>> data_dir("data/NAT4").as_posix()
    'data/NAT4'
    """
    name = path or os.environ.get("NAT4XR_DATA_DIR") or cache_dir()
    choose = "choose another with path= or the environment variable NAT4XR_DATA_DIR."
    if name is None:
        raise OSError(f"There is no home folder for a default data folder: {choose}")
    try:
        folder = expanded(name)
    except OSError:
        raise OSError(
            f"The data folder {os.fspath(name)!r} belongs to a user who does not exist: {choose}"
        ) from None
    whole = os.path.abspath(folder)
    try:
        whole.encode()
    except UnicodeEncodeError:  # netCDF could not write there
        raise OSError(
            f"The name of the data folder, {whole!r}, is not UTF-8: rename it, or {choose}"
        ) from None
    return folder


def cache_dir() -> Path | None:
    """Return the user's cache folder of this package; None if the user has no home folder."""
    import platformdirs

    try:
        folder = Path(platformdirs.user_cache_dir("nat4xr"))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # older libraries leave a "~" in it


def pinned(folder: Path) -> dict[str, Entry]:
    """Return the sizes and checksums that the record stated on first contact, by file name.

    They are empty if the record was never read, or ``registry.json`` cannot be read.
    """
    try:
        return entries_of((folder / PIN).read_bytes())
    except (OSError, ValueError):
        return {}


def flaw(file: Path, entry: Entry) -> str | None:
    """Say what is wrong with a file, such as ``"is missing"``; None if nothing is wrong."""
    if not file.exists():
        return "is missing"
    if not file.is_file():
        return "is not a file"
    if (size := file.stat().st_size) != entry.size:
        return f"has {size} bytes where the record says {entry.size}"
    if (md5 := md5_of(file)) != entry.md5:
        return f"has md5 {md5} where the record says {entry.md5}"
    return None


def md5_of(file: Path) -> str:
    """Return the md5 of a file in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def missing_error(part: str, missing: list[str], folder: Path) -> FileNotFoundError:
    """Make the error for files of a part of the release that must not be downloaded.

    >>> print(missing_error("wav", ["wav.zip"], Path("data")))
    wav.zip not found in data: there is no such folder. Fetch with:
        nat4xr fetch wav --path data
    """
    where = folder if folder.is_dir() else f"{folder}: there is no such folder"
    return FileNotFoundError(
        f"{', '.join(missing)} not found in {where}. Fetch with:\n    {command_of(part, folder)}"
    )


def command_of(part: str, folder: Path) -> str:
    """The command that downloads a part into a folder."""
    where = "" if folder == data_dir() else f" --path {quoted(folder)}"
    return f"nat4xr fetch {part}{where}"


def entries_of(record: bytes) -> dict[str, Entry]:
    """Read the entries of the files from the JSON of a record, or raise a ValueError."""
    try:
        listed = {file["key"]: file for file in json.loads(record)["files"]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError("the answer is not the JSON of a Zenodo record with files") from error
    entries = {}
    # Only known names: a record must not choose where files go on this machine.
    for name in chain.from_iterable(FILES.values()):
        if name in listed:
            size, checksum = listed[name].get("size"), listed[name].get("checksum")
            if not isinstance(size, int) or not re.fullmatch("md5:[0-9a-f]{32}", str(checksum)):
                raise ValueError(
                    f"the record states no size and md5 of {name} "
                    f"(size {size!r:.40}, checksum {checksum!r:.40})"
                )
            entries[name] = Entry(size, checksum.removeprefix("md5:"))
    return entries
