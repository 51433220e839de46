"""The converted files: each made once from the release, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import pooch
from isal import isal_zlib

from .. import __version__
from . import ragged, registry
from .assemble import assemble
from .files import lock_of, read_small, refuse_in_the_way, written
from .netcdf import NETCDF_LOCK, open_with_labels, write_area
from .release import AreaFiles, find_area

SCHEMA = 1
"""Raised when the content of the converted files changes; files of another schema are kept."""


def area_file(
    area: str, path: str | os.PathLike[str] | None, *, download: bool, progressbar: bool
) -> Path:
    """Return the converted file of an area at 10 ms, made first if needed."""

    def write(files: AreaFiles, target: Path) -> None:
        data = assemble(area, files, progressbar=progressbar)
        data.notes.warn(area)
        write_area(data, target)

    return _converted_file(area, path, "", write, download=download, progressbar=progressbar)


def spikes_file(
    area: str, path: str | os.PathLike[str] | None, *, download: bool, progressbar: bool
) -> Path:
    """Return the converted file of an area's spike times, made first if needed."""

    def write(files: AreaFiles, target: Path) -> None:
        converted = area_file(area, path, download=False, progressbar=progressbar)
        with open_with_labels(converted) as header:
            ragged.write_spikes(header, files, target, progressbar)

    return _converted_file(area, path, "_spikes", write, download=download, progressbar=progressbar)


def _converted_file(
    area: str,
    path: str | os.PathLike[str] | None,
    kind: str,
    write: Callable[[AreaFiles, Path], None],
    *,
    download: bool,
    progressbar: bool,
) -> Path:
    """A converted file that is whole and current.

    It stands in the data folder, or in the cache folder if the data folder is read-only.
    """
    folder = registry.data_dir(path)
    candidates = converted_paths(area, kind, folder)
    files = find_area(area, folder)
    fingerprint = files.fingerprint() if isinstance(files, AreaFiles) else None
    for file in candidates:
        if is_whole(file, fingerprint):
            return file
    if isinstance(files, list):
        if not download:
            error = registry.missing_error(area, files, folder)
            damaged = ", ".join(str(file) for file in candidates if file.exists())
            raise FileNotFoundError(f"{damaged} is damaged. {error}") if damaged else error
        registry.fetch(area, path, progressbar=progressbar)
        return _converted_file(area, path, kind, write, download=False, progressbar=progressbar)
    file = path_to_write(area, kind, folder)
    refuse_in_the_way(file, _record_of(file))
    with lock_of(file):
        # Another process may have made it meanwhile.
        if not is_whole(file, fingerprint):
            with written(file) as part:
                write(files, part)
                record = _record_of(part)
                record.write_text(json.dumps(_record(part, fingerprint)))
                # If the file does not follow, its record does not fit: it is converted again.
                os.replace(record, _record_of(file))
    return file


def converted_paths(area: str, kind: str, folder: Path) -> tuple[Path, Path]:
    """Return where a converted file may stand: in the data folder, or in the cache folder."""
    name = f"{area}{kind}_nat4xr-v{SCHEMA}.nc"
    return folder / name, Path(pooch.os_cache("nat4xr")) / _digest(folder) / name


def path_to_write(area: str, kind: str, folder: Path) -> Path:
    """Return which of the two paths can be written to; its folder is made."""
    paths = converted_paths(area, kind, folder)
    file = paths[0] if _is_writable(folder) else paths[1]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"neither {folder} nor {file.parent} can be written to ({error.strerror}): "
            "set NAT4XR_DATA_DIR to a folder that can be, or change the permissions"
        ) from error
    return file


def token_of(file: Path) -> str:
    """Return a text that tells dask whether two converted files have the same content."""
    return f"{file.resolve()}-{_record_of(file).read_text()}"


def is_whole(file: Path, fingerprint: str | None) -> bool:
    """Whether a converted file is what was once written, from sources that are still the same.

    Sources that are gone (``fingerprint`` None) are taken to be the same.
    """
    try:
        record = json.loads(read_small(_record_of(file)))
        return bool(
            file.is_file()  # a pipe or a device would keep whoever reads it waiting
            and record["bytes"] == file.stat().st_size
            and (fingerprint is None or record["sources"] == fingerprint)
            and record["crc32"] == _crc32(file)
            and _holds_its_data(file)
        )
    # RuntimeError: as h5py says it of a file that is none of ours, or json of one nested deeply.
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return False


def _holds_its_data(file: Path) -> bool:
    """Whether all data of a converted file are in itself: HDF5 would read any file it points to."""
    with NETCDF_LOCK, h5py.File(file) as content:
        for name in content:
            if not isinstance(content.get(name, getlink=True), h5py.HardLink):
                return False
            variable = content[name]
            if not isinstance(variable, h5py.Dataset) or variable.external or variable.is_virtual:
                return False
    return True


def _crc32(file: Path) -> int:
    checksum = 0
    buffer = bytearray(2**18)
    with file.open("rb", buffering=0) as stream:
        while n_bytes := stream.readinto(buffer):
            checksum = isal_zlib.crc32(memoryview(buffer)[:n_bytes], checksum)
    return checksum


def _digest(folder: Path) -> str:
    """A short name for a folder: what stands in for it under the cache folder."""
    return hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]


def _record_of(file: Path) -> Path:
    """The small JSON beside a converted file that tells whether it is whole."""
    return file.with_suffix(".json")


def _record(file: Path, fingerprint: str | None) -> dict[str, object]:
    return {
        "bytes": file.stat().st_size,
        "crc32": _crc32(file),
        "sources": fingerprint,
        "written_by": f"nat4xr {__version__}",
    }


def _is_writable(folder: Path) -> bool:
    try:
        probe = folder / f".nat4xr.{os.getpid()}.part"
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread's is called so too
    except OSError:
        return False
    return True
