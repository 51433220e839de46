"""Finding the files of the release in a folder, and what is in them; reads no recording."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .errors import ReleaseError
from .labels import match_cells
from .registry import FILES

MAX_SITE_ARCHIVE = 2**30
"""The archive of one site may have this many bytes; a real one has about 5 million."""


@dataclass(frozen=True)
class AreaFiles:
    """Where an area's three parts of the release stand.

    Attributes
    ----------
    population : pathlib.Path
        Population recording: its ``.tgz``, or the unpacked folder.
    sites : pathlib.Path
        Zip of the site recordings, or a folder with them.
    table : pathlib.Path
        CSV with the flag ``sig_auditory`` of each cell.
    """

    population: Path
    sites: Path
    table: Path

    def fingerprint(self) -> str:
        """Digest of the names, sizes and modification times of all files."""
        digest = hashlib.sha256()
        for part in (self.population, self.sites, self.table):
            for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
                status = file.stat()
                if not file.is_dir():
                    name = file.relative_to(part.parent).as_posix()
                    digest.update(f"{name}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]


def find_area(area: str, folder: Path) -> AreaFiles | list[str]:
    """Find an area's files as published, or as unpacked by hand.

    Parameters
    ----------
    area : {"A1", "PEG"}
    folder : pathlib.Path

    Returns
    -------
    AreaFiles or list of str
        The names of the missing files, if any is missing.
    """
    found = [_find(folder, name) for name in FILES[area]]
    missing = [name for name, file in zip(FILES[area], found, strict=True) if file is None]
    return missing or AreaFiles(*(file for file in found if file is not None))


def _find(folder: Path, name: str) -> Path | None:
    """A published file, or the folder that was unpacked from it."""
    if (folder / name).is_file():
        return folder / name
    stem = name.removesuffix(".tgz").removesuffix(".zip")
    if stem == name:  # the CSV
        return None
    for unpacked in (folder / f"{stem}.tar.gz", folder / stem):
        if unpacked.exists():
            return unpacked
    # The folder inside a population archive bears the recording's name, such as A1_NAT4.
    prefix = stem.partition("_ozgf")[0]
    if prefix == stem or not folder.is_dir():
        return None
    return next((p for p in sorted(folder.glob(f"{prefix}*")) if p.is_dir()), None)


def site_recordings(sites: Path) -> Iterator[tuple[str, Path | bytes]]:
    """The site recordings one by one: a label for error messages, and where to read it.

    Parameters
    ----------
    sites : pathlib.Path
        The zip of ``.tgz`` files, or a folder of ``.tgz`` files or of unpacked recordings,
        which may be wrapped in one more folder.

    Yields
    ------
    str, pathlib.Path or bytes

    Raises
    ------
    ReleaseError
        The zip is broken, or there is no site recording.
    """
    if sites.is_dir():
        inside = [p for p in sorted(sites.iterdir()) if not p.name.startswith(".")]
        if len(inside) == 1 and inside[0].is_dir() and not any(inside[0].glob("*.json")):
            inside = [p for p in sorted(inside[0].iterdir()) if not p.name.startswith(".")]
        recordings = [p for p in inside if p.is_dir() or p.name.endswith((".tgz", ".tar.gz"))]
        yield from ((p.name, p) for p in recordings)
        empty = not recordings
    else:
        try:
            with zipfile.ZipFile(sites) as archive:
                members = [
                    member
                    for member in archive.infolist()
                    if member.filename.endswith((".tgz", ".tar.gz"))
                    and not member.filename.rpartition("/")[2].startswith(".")
                ]
                names = [member.filename for member in members]
                empty = not members
                if len(set(names)) < len(names):
                    raise ReleaseError(f"{sites.name} holds a site's archive twice")
                for member in members:
                    label = f"{member.filename.rpartition('/')[2]} in {sites.name}"
                    yield label, _content(archive, member, label)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise ReleaseError(f"{sites.name} is damaged or cut short: {error}") from error
    if empty:
        raise ReleaseError(f"{sites.name} holds no site recording (.tgz)")


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, label: str) -> bytes:
    if member.file_size > MAX_SITE_ARCHIVE:
        raise ReleaseError(f"{label} claims {member.file_size:,} bytes")
    if member.flag_bits & 1:
        raise ReleaseError(f"{label} is encrypted")
    return archive.read(member)


def auditory_flags(table: Path, cell_ids: list[str]) -> list[bool]:
    """The flag ``sig_auditory`` of each cell; False where the table has no row.

    Parameters
    ----------
    table : pathlib.Path
        CSV with columns ``cellid`` and ``sig_auditory``.
    cell_ids : list of str

    Returns
    -------
    list of bool

    Raises
    ------
    ReleaseError
        The table is broken, or lacks one of the two columns.
    """
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ReleaseError(f"{table.name} is not a readable CSV: {error}") from error
    for column in ("cellid", "sig_auditory"):
        if column not in rows.columns:
            raise ReleaseError(f"{table.name} has no column {column}")
    meaning = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    flags: dict[str, bool] = {}
    for cell_id, text in zip(rows["cellid"], rows["sig_auditory"], strict=True):
        flag = meaning.get(str(text).strip().lower())
        if flag is None:
            raise ReleaseError(f"{table.name}: sig_auditory of {cell_id} is {text!r}")
        if flags.setdefault(cell_id, flag) != flag:
            raise ReleaseError(f"{table.name}: sig_auditory of {cell_id} is given twice")
    listed = match_cells(cell_ids, flags)
    return [flags[listed[cell_id]] if cell_id in listed else False for cell_id in cell_ids]
