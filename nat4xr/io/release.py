"""Finding the files of the release in a folder, and what is in them; reads no recording."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ReleaseError, explained, shown
from . import limits
from .labels import match_cells
from .nems import is_archive_name
from .registry import FILES, data_dir, missing_error
from .tables import read_table

AREAS = ("A1", "PEG")
SUBSETS = ("all", "est", "val")


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
        return _fingerprint(self.population, self.sites, self.table)


def fingerprints(area: str, folder: Path) -> dict[str, str]:
    """Return the fingerprint of each of an area's files, by its published name.

    Parameters
    ----------
    area : {"A1", "PEG"}
    folder : pathlib.Path

    Returns
    -------
    dict of str to str
        Without the files that are missing.
    """
    parts = {name: _find(folder, name) for name in FILES[area]}
    return {name: _fingerprint(part) for name, part in parts.items() if part is not None}


def _fingerprint(*parts: Path) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for file in sorted(files_below(part)) if part.is_dir() else [part]:
            status = file.stat()
            name = file.relative_to(part.parent).as_posix()
            line = f"{name}\n{status.st_size}\n{status.st_mtime_ns}\n"
            digest.update(os.fsencode(line))  # a name need not be UTF-8
    return digest.hexdigest()[:16]


def check_options(area: str, subset: str = "all") -> None:
    """Refuse areas and subsets that the release does not have."""
    if area not in AREAS:
        raise ValueError(f"there is no area {area!r}; the release holds {' and '.join(AREAS)}")
    if subset not in SUBSETS:
        raise ValueError(f"subset is 'all', 'est' or 'val', not {subset!r}")


def check_folder(path: str | os.PathLike[str] | None, part: str) -> None:
    """Refuse a data folder that is a file, or that was named and is not there: it was mistyped."""
    folder = data_dir(path)
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file: give the folder that holds it")
    if path is not None and not os.path.lexists(folder):
        raise missing_error(part, list(FILES[part]), folder)


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

    Raises
    ------
    ReleaseError
        It is not clear which folder was unpacked, or one holds a link.
    """
    found = [_find(folder, name) for name in FILES[area]]
    for part in found:
        if part is not None and part.is_dir():
            files_below(part)
    missing = [name for name, file in zip(FILES[area], found, strict=True) if file is None]
    return missing or AreaFiles(*(file for file in found if file is not None))


def _find(folder: Path, name: str) -> Path | None:
    """A published file, or the folder that was unpacked from it."""
    if (folder / name).is_file():
        return folder / name
    stem = name.removesuffix(".tgz").removesuffix(".zip")
    if stem == name:  # the CSV
        return None
    # The folder inside a population archive bears the recording's name, such as A1_NAT4.
    prefix = stem.partition("_ozgf")[0]
    for unpacked in (f"{stem}.tar.gz", f"{stem}.tar", stem, prefix):
        if (folder / unpacked).is_file() or (folder / unpacked).is_dir():
            return folder / unpacked
    if prefix == stem or not folder.is_dir():
        return None
    others = sorted(p for p in folder.glob(f"{prefix}*") if p.is_dir())
    if len(others) > 1:
        names = ", ".join(p.name for p in others)
        raise ReleaseError(f"{folder} holds several folders that may be {stem}: {names}")
    return others[0] if others else None


def files_below(part: Path) -> list[Path]:
    """The files below an unpacked folder; links are refused, as changes behind one go unnoticed."""
    files: list[Path] = []
    folders = [part]
    while folders:
        for path in folders.pop().iterdir():
            is_folder = path.is_dir()
            if path.is_symlink() or not (is_folder or path.is_file()):
                inside = shown(path.relative_to(part).as_posix())
                raise ReleaseError(
                    f"{part.name}: {inside} is a link, or no plain file; "
                    "put there what it stands for, or remove it"
                )
            (folders if is_folder else files).append(path)
    return files


@contextmanager
def opened_zip(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; one that holds too many files is refused."""
    with zipfile.ZipFile(file) as archive:
        limits.check("zip_files", len(archive.infolist()))
        yield archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read a file of a zip: no more of it than its size says."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def site_recordings(sites: Path) -> Iterator[tuple[str, Path | bytes]]:
    """The site recordings one by one: a label for error messages, and where to read it.

    Parameters
    ----------
    sites : pathlib.Path
        The zip of ``.tgz``, ``.tar.gz`` or ``.tar`` files, or a folder of them or of unpacked
        recordings, which may be wrapped in one more folder.

    Yields
    ------
    str, pathlib.Path or bytes

    Raises
    ------
    ReleaseError
        The zip is broken, or there is no site recording.
    """
    with explained(sites.name):
        empty = True
        for label, source in _in_folder(sites) if sites.is_dir() else _in_zip(sites):
            empty = False
            yield label, source
        if empty:
            raise ValueError("holds no site recording (.tgz)")


def count_sites(sites: Path) -> int:
    """How many site recordings `site_recordings` will find."""
    with explained(sites.name):
        if sites.is_dir():
            return sum(1 for _ in _in_folder(sites))
        with opened_zip(sites) as archive:
            return sum(map(_is_site, archive.namelist()))


def _is_site(name: str) -> bool:
    """Whether a file of a zip is a site recording, by its name."""
    return is_archive_name(name) and not _is_left_behind(name.rpartition("/")[2])


def _is_left_behind(name: str) -> bool:
    """Whether a file is one that macOS leaves behind."""
    return name.startswith((".", "__MACOSX"))


def _in_folder(sites: Path) -> Iterator[tuple[str, Path | bytes]]:
    inside = _visible(sites)
    if len(inside) == 1 and inside[0].is_dir() and not any(inside[0].glob("*.json")):
        inside = _visible(inside[0])
    return ((shown(p.name), p) for p in inside if p.is_dir() or is_archive_name(p.name))


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, without what macOS leaves behind."""
    return [p for p in sorted(folder.iterdir()) if not _is_left_behind(p.name)]


def _in_zip(sites: Path) -> Iterator[tuple[str, Path | bytes]]:
    with opened_zip(sites) as archive:
        for member in archive.infolist():
            if not _is_site(member.filename):
                continue
            label = f"{shown(member.filename.rpartition('/')[2])} in {sites.name}"
            with explained(label):
                limits.check("site_archive", member.file_size)
                content = read_member(archive, member)
            yield label, content


def auditory_flags(table: Path, cell_ids: list[str]) -> list[bool]:
    """The flag ``sig_auditory`` of each cell; False, with a warning, where there is no row.

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
    with explained(table.name):
        limits.check("table_bytes", table.stat().st_size)
        rows = read_table(table.read_bytes(), ["cellid", "sig_auditory"])
        flags: dict[str, bool] = {}
        cells_of_rows = map(str.strip, rows["cellid"])
        for cell_id, text in zip(cells_of_rows, rows["sig_auditory"], strict=True):
            flag = _FLAGS.get(text.strip().lower())
            if flag is None:
                raise ValueError(f"sig_auditory of {cell_id!r} is {text!r}")
            if flags.setdefault(cell_id, flag) != flag:
                raise ValueError(f"sig_auditory of {cell_id!r} is given twice, and differs")
        listed = match_cells(cell_ids, flags)
    if lacking := len(cell_ids) - len(listed):
        warnings.warn(
            f"{table} has no row for {lacking} of {len(cell_ids)} cells, which count as not "
            "auditory: was it cut?",
            stacklevel=2,
        )
    return [flags[listed[cell_id]] if cell_id in listed else False for cell_id in cell_ids]


_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
    # As pandas and others write what is missing: like a row that is missing.
    **dict.fromkeys(("", "nan", "na", "n/a", "none", "null"), False),
}
