"""Find the files of the release in a folder, and the site recordings and flags in them."""

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

SUBSETS = ("all", "est", "val")


@dataclass(frozen=True)
class AreaFiles:
    """The paths of the three files of an area.

    Attributes
    ----------
    population : pathlib.Path
        The population recording: its ``.tgz``, or the unpacked folder.
    sites : pathlib.Path
        The zip of the site recordings, or a folder with them.
    table : pathlib.Path
        The CSV with the flag ``sig_auditory`` of each cell.
    """

    population: Path
    sites: Path
    table: Path

    def fingerprint(self) -> str:
        """Return a digest of the names, sizes and modification times of all files."""
        return _fingerprint(self.population, self.sites, self.table)


def fingerprints(area: str, folder: Path) -> dict[str, str]:
    """Return the fingerprints of those files of an area that exist, by their published names."""
    parts = {name: _find(folder, name) for name in FILES[area]}
    return {name: _fingerprint(part) for name, part in parts.items() if part is not None}


def _fingerprint(*parts: Path) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for file in sorted(files_below(part)) if part.is_dir() else [part]:
            status = file.stat()
            name = file.relative_to(part.parent).as_posix()
            line = f"{name}\n{status.st_size}\n{status.st_mtime_ns}\n"
            digest.update(os.fsencode(line))  # the name may not be UTF-8
    return digest.hexdigest()[:16]


def check_subset(subset: str) -> None:
    """Raise an error for a subset that does not exist."""
    if subset not in SUBSETS:
        raise ValueError(f"subset must be 'all', 'est' or 'val', not {subset!r}")


def check_folder(path: str | os.PathLike[str] | None, part: str) -> None:
    """Raise an error if the data folder is a file, or if a given path does not exist."""
    folder = data_dir(path)
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file: pass the folder that contains it")
    if path is not None and not os.path.lexists(folder):
        raise missing_error(part, list(FILES[part]), folder)


def find_area(area: str, folder: Path) -> AreaFiles | list[str]:
    """Find the files of an area, either as published or unpacked by hand.

    Returns the names of the missing files if there are any. If it is not clear which of several
    folders was unpacked, or if a folder contains a link, this raises a ReleaseError.
    """
    paths = [_find(folder, name) for name in FILES[area]]
    for path in paths:
        if path is not None and path.is_dir():
            files_below(path)
    missing = [name for name, path in zip(FILES[area], paths, strict=True) if path is None]
    return missing or AreaFiles(*(path for path in paths if path is not None))


def _find(folder: Path, name: str) -> Path | None:
    """Find a published file, or the folder that was unpacked from it."""
    if (folder / name).is_file():
        return folder / name
    stem = name.removesuffix(".tgz").removesuffix(".zip")
    if stem == name:  # the CSV
        return None
    # The folder in a population archive has the name of the recording, such as A1_NAT4.
    prefix = stem.partition("_ozgf")[0]
    for unpacked in (f"{stem}.tar.gz", f"{stem}.tar", stem, prefix):
        if (folder / unpacked).is_file() or (folder / unpacked).is_dir():
            return folder / unpacked
    if prefix == stem or not folder.is_dir():
        return None
    others = sorted(p for p in folder.glob(f"{prefix}*") if p.is_dir())
    if len(others) > 1:
        names = ", ".join(p.name for p in others)
        raise ReleaseError(
            f"{folder} contains several folders that may be {stem}: {names}; remove all but one"
        )
    return others[0] if others else None


def files_below(part: Path) -> list[Path]:
    """List the files below an unpacked folder.

    Links are errors, because changes of their targets would not be noticed.
    """
    files: list[Path] = []
    folders = [part]
    while folders:
        for path in folders.pop().iterdir():
            is_folder = path.is_dir()
            if path.is_symlink() or not (is_folder or path.is_file()):
                inside = shown(path.relative_to(part).as_posix())
                raise ReleaseError(
                    f"{part.name}: {inside} is a link, or not a plain file: replace it by the file "
                    "itself, or remove it"
                )
            (folders if is_folder else files).append(path)
    return files


@contextmanager
def opened_zip(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip. Too many files in it are an error."""
    with zipfile.ZipFile(file) as archive:
        limits.check("zip_files", len(archive.infolist()))
        yield archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read a file of a zip, at most the number of bytes that it declares."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def site_recordings(sites: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Yield a label for error messages and the source of each site recording.

    `sites` is the zip of ``.tgz``, ``.tar.gz`` or ``.tar`` files, or a folder of them or of
    unpacked recordings, which may be wrapped in one more folder. If the zip is broken, or there is
    no site recording, this raises a ReleaseError.
    """
    with explained(sites.name):
        empty = True
        for label, source in _in_folder(sites) if sites.is_dir() else _in_zip(sites):
            empty = False
            yield label, source
        if empty:
            raise ValueError("contains no site recording (.tgz)")


def count_sites(sites: Path) -> int:
    """Return the number of site recordings that `site_recordings` will yield."""
    with explained(sites.name):
        if sites.is_dir():
            return sum(1 for _ in _in_folder(sites))
        with opened_zip(sites) as archive:
            return sum(map(_is_site, archive.namelist()))


def _is_site(name: str) -> bool:
    """Whether a file of a zip is a site recording, by its name."""
    return is_archive_name(name) and not _is_hidden(name.rpartition("/")[2])


def _is_hidden(name: str) -> bool:
    """Whether a file is hidden, like those that macOS adds to archives."""
    return name.startswith((".", "__MACOSX"))


def _in_folder(sites: Path) -> Iterator[tuple[str, Path | bytes]]:
    inside = _visible(sites)
    if len(inside) == 1 and inside[0].is_dir() and not any(inside[0].glob("*.json")):
        inside = _visible(inside[0])
    return ((shown(p.name), p) for p in inside if p.is_dir() or is_archive_name(p.name))


def _visible(folder: Path) -> list[Path]:
    """List a folder without hidden files."""
    return [p for p in sorted(folder.iterdir()) if not _is_hidden(p.name)]


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
    """Return the flag ``sig_auditory`` of each cell. If a cell has no row, warn and return False.

    If the table is broken, or lacks the column ``cellid`` or ``sig_auditory``, this raises a
    ReleaseError.
    """
    with explained(table.name):
        limits.check("table_bytes", table.stat().st_size)
        rows = read_table(table.read_bytes(), ["cellid", "sig_auditory"])
        flags: dict[str, bool] = {}
        cells_of_rows = map(str.strip, rows["cellid"])
        for cell_id, text in zip(cells_of_rows, rows["sig_auditory"], strict=True):
            flag = _FLAGS.get(text.strip().lower())
            if flag is None:
                raise ValueError(
                    f"has the value {text!r} for sig_auditory of {cell_id}, not True or False"
                )
            if flags.setdefault(cell_id, flag) != flag:
                raise ValueError(f"has two different values for sig_auditory of {cell_id}")
        listed = match_cells(cell_ids, flags)
    if lacking := len(cell_ids) - len(listed):
        warnings.warn(
            f"{table} has no row for {lacking} of {len(cell_ids)} cells, which therefore count as "
            "not auditory: the file may be incomplete",
            stacklevel=2,
        )
    return [flags[listed[cell_id]] if cell_id in listed else False for cell_id in cell_ids]


_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
    # Missing values, as pandas and others write them, count like missing rows.
    **dict.fromkeys(("", "nan", "na", "n/a", "none", "null"), False),
}
