"""The converted files. Each is made once from the release, and then reused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from . import registry
from .direct import Chunks, find_chunks
from .netcdf import open_with_labels, write_area
from .release import AreaFiles, find_area, fingerprints
from .writing import crc32_of, locked, written

SCHEMA = 1
"""Version of the content of the converted files. Files of other versions are left alone."""


class Converted(NamedTuple):
    """A complete converted file: its path, the CRC-32 of its content, and its chunks if known."""

    path: Path
    crc32: int
    chunks: dict[str, Chunks] | None


def area_file(
    area: str, path: str | os.PathLike[str] | None, *, download: bool, progressbar: bool
) -> Converted:
    """Return the converted file of an area at 10 ms. Make it if it does not exist."""

    def write(files: AreaFiles, target: Path) -> None:
        from .assemble import assemble  # only a conversion needs this import

        data = assemble(area, files, progressbar=progressbar)
        data.notes.warn(area)
        write_area(data, target)

    return _converted_file(area, path, "", write, download=download, progressbar=progressbar)


def spikes_file(
    area: str, path: str | os.PathLike[str] | None, *, download: bool, progressbar: bool
) -> Converted:
    """Return the converted file of the spike times of an area. Make it if it does not exist."""

    def write(files: AreaFiles, target: Path) -> None:
        from .ragged import write_spikes

        converted = area_file(area, path, download=False, progressbar=progressbar)
        with open_with_labels(*converted) as header:
            write_spikes(header, files, target, progressbar)

    return _converted_file(area, path, "_spikes", write, download=download, progressbar=progressbar)


def _converted_file(
    area: str,
    path: str | os.PathLike[str] | None,
    kind: str,
    write: Callable[[AreaFiles, Path], None],
    *,
    download: bool,
    progressbar: bool,
) -> Converted:
    """Return a converted file that is complete and matches its sources.

    It is in the data folder, or in the cache folder if the data folder is read-only.
    """
    folder = registry.data_dir(path)
    candidates = converted_paths(area, kind, folder)
    sources = fingerprints(area, folder)
    for file in candidates:
        if (converted := converted_if_whole(file, sources)) is not None:
            return converted
    files = find_area(area, folder)
    if isinstance(files, list):
        if not download:
            error = registry.missing_error(area, files, folder)
            unusable = ", ".join(str(file) for file in candidates if file.exists())
            raise (
                FileNotFoundError(f"{unusable} is damaged, or was made from other files. {error}")
                if unusable
                else error
            )
        from .download import fetch

        fetch(area, path, progressbar=progressbar)
        return _converted_file(area, path, kind, write, download=False, progressbar=progressbar)
    file = path_to_write(area, kind, folder)
    with locked(file):
        # Another process may have made the file in the meantime.
        converted = converted_if_whole(file, sources)
        if converted is None:
            with written(file) as part:
                write(files, part)
                crc32, chunks = crc32_of(part), find_chunks(part)
                record = {
                    "bytes": part.stat().st_size,
                    "crc32": crc32,
                    # They are only right for the content with this checksum.
                    "chunks": {str(crc32): {name: c.to_json() for name, c in chunks.items()}},
                    "sources": sources,
                    "written_by": f"nat4xr {__version__}",
                }
                with written(_record_of(file)) as record_part:
                    record_part.write_text(json.dumps(record))
                # The record is written first. If the file is not, the record does not match, and
                # the next call converts again.
            converted = Converted(file.absolute(), crc32, chunks)
    return converted


def _chunks_in(record: dict[str, Any]) -> dict[str, Chunks] | None:
    """Return the chunks of the file to which a record belongs, if the record has them."""
    chunks = record.get("chunks", {}).get(str(record["crc32"]))
    if chunks is None:  # an older record
        return None
    return {name: Chunks.from_json(found) for name, found in chunks.items()}


def converted_paths(area: str, kind: str, folder: Path) -> list[Path]:
    """Return the possible paths of a converted file: in the data folder and the cache folder."""
    name = f"{area}{kind}_nat4xr-v{SCHEMA}.nc"
    cache = registry.cache_dir()
    return [folder / name, *([cache / _digest(folder) / name] if cache else [])]


def path_to_write(area: str, kind: str, folder: Path) -> Path:
    """Return the first path that can be written to, and make its folder."""
    first, *others = converted_paths(area, kind, folder)
    if _is_writable(folder):
        return first
    remedy = "set NAT4XR_DATA_DIR to a writable folder, or change the permissions"
    if not others:
        raise OSError(f"{folder} cannot be written to, and there is no home folder: {remedy}")
    (file,) = others
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"neither {folder} nor {file.parent} can be written to ({error.strerror}): {remedy}"
        ) from error
    return file


def converted_if_whole(file: Path, sources: dict[str, str]) -> Converted | None:
    """Return a converted file if it is complete and matches its sources.

    `sources` are the fingerprints of the sources that exist. If another process is changing the
    file, this raises a BlockingIOError.
    """
    try:
        record = json.loads(_record_of(file).read_bytes())
        whole = (
            record["bytes"] == file.stat().st_size
            and all(record["sources"].get(name) == digest for name, digest in sources.items())
            and record["crc32"] == crc32_of(file)
        )
        if whole:
            return Converted(file.absolute(), int(record["crc32"]), _chunks_in(record))
        _refuse_while_written(file)
        return None
    except BlockingIOError:
        raise
    # All errors except OSError mean that the record is damaged.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _refuse_while_written(file: Path) -> None:
    """Raise a BlockingIOError if another process has a file open for writing."""
    import h5py

    try:
        h5py.File(file).close()
    except BlockingIOError:
        raise BlockingIOError(
            f"{file} is open for writing in another process: close it there first"
        ) from None


def _digest(folder: Path) -> str:
    """Return a short name for a data folder, which is used in the cache folder."""
    return hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]


def _record_of(file: Path) -> Path:
    """Return the path of the small JSON that is used to check a converted file."""
    return file.with_suffix(".json")


def _is_writable(folder: Path) -> bool:
    try:
        probe = folder / f".nat4xr.{os.getpid()}.part"
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread may have used the same name
    except OSError:
        return False
    return True
