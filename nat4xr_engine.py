"""The engine ``"nems"`` of ``xarray.open_dataset``, as xarray finds it.

xarray imports this module whenever it looks for an engine, also for files of other formats. It
stands outside the package so that this imports nothing of nat4xr and registers no accessor: that
happens once a NEMS recording is opened, or nat4xr is imported.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import xarray as xr
from xarray.backends import BackendEntrypoint

_ARCHIVES = (".tgz", ".tar.gz", ".tar")
_SIGNAL = re.compile(r"(?P<stem>[^.].*\..+?)\.(?P<part>epoch\.csv|json|csv|h5)", re.DOTALL)
_SMALL = 2**20  # larger files are not read while guessing
_FILES = 100  # of an archive or folder, this many are looked at


class NemsBackendEntrypoint(BackendEntrypoint):
    """The engine ``"nems"`` of ``xarray.open_dataset``; see `nat4xr.open_recording`."""

    description = "Open NEMS recordings (.tgz, .tar.gz, .tar, or a folder)"
    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def open_dataset(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None
    ) -> xr.Dataset:
        """Open a recording lazily.

        Parameters
        ----------
        filename_or_obj : path-like, str or binary file
            As `path` of `nat4xr.open_recording`.
        drop_variables : str or iterable of str, optional
            Variables to leave out.

        Returns
        -------
        xarray.Dataset
            As `nat4xr.open_recording` returns it.

        Raises
        ------
        TypeError
            If ``filename_or_obj`` is neither a path nor a binary file.
        ReleaseError
            If the recording is broken.
        FileNotFoundError
            If there is no such file or folder.
        """
        from nat4xr.io.engine import recording_dataset

        if isinstance(drop_variables, str):
            drop_variables = [drop_variables]
        return recording_dataset(filename_or_obj, frozenset(drop_variables or ()))

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether this is a NEMS recording, by its name and by little of its content.

        Parameters
        ----------
        filename_or_obj : object
            What ``xarray.open_dataset`` was given.

        Returns
        -------
        bool
            True for a local archive or folder, or a binary file, that holds a recording.
        """
        try:
            path = local_path(filename_or_obj)
            if path is not None:
                if path.is_dir():
                    return _is_folder(path)
                if not path.name.lower().endswith(_ARCHIVES) or not path.is_file():
                    return False
                with path.open("rb") as file:
                    return _is_archive(file)
            if hasattr(filename_or_obj, "read") and filename_or_obj.seekable():
                position = filename_or_obj.tell()  # where another engine may have left it
                filename_or_obj.seek(0)
                try:
                    return _is_archive(filename_or_obj)
                finally:
                    filename_or_obj.seek(position)
        except (OSError, EOFError, ValueError, TypeError, RecursionError, AttributeError,
                tarfile.TarError, zlib.error):  # fmt: skip
            pass
        return False


def local_path(obj: Any) -> Path | None:
    """Return the local file or folder that something names, or None if it names none.

    Parameters
    ----------
    obj : object
        A path, or an address such as ``"file:///data/site.tgz"``.

    Returns
    -------
    pathlib.Path or None
    """
    name = os.fspath(obj) if isinstance(obj, str | os.PathLike) else None
    if not isinstance(name, str):
        return None
    if name.startswith("file://"):
        from fsspec.implementations.local import LocalFileSystem

        name = str(LocalFileSystem._strip_protocol(name))
        if not os.path.exists(name):
            name = unquote(name)
    elif re.match("[A-Za-z][A-Za-z0-9+]*(://|::)", name):
        return None
    return Path(os.path.expanduser(name)).absolute()


def _is_archive(file: IO[bytes]) -> bool:
    """Whether a tar holds a recording, told from its first files.

    The JSON of a signal tells it. A large file may come before the first JSON: it is not read on,
    but looked at.
    """
    head = file.read(512)
    gzipped = head[:2] == b"\x1f\x8b"
    if not gzipped and head[257:262] != b"ustar":
        return False
    file.seek(0)
    with (
        gzip.GzipFile(fileobj=file) if gzipped else nullcontext(file) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in islice(tar, _FILES):
            name = member.name.rpartition("/")[2]
            if member.isreg() and not name.startswith(".") and not name.endswith(".meta.json"):
                signal = _SIGNAL.fullmatch(name)
                if signal is None:
                    return False
                if member.size > _SMALL or signal["part"] == "json":
                    content = tar.extractfile(member)
                    return content is not None and _tells(signal["part"], content)
            elif member.size > _SMALL:
                return False
    return False


def _is_folder(folder: Path, *, wrapped: bool = True) -> bool:
    """Whether a folder holds a recording, perhaps in the one folder that it has inside."""
    with os.scandir(folder) as entries:  # which may be very many, in a folder of something else
        files = {e.name: e for e in islice(entries, 10 * _FILES) if not e.name.startswith(".")}
    if len(files) == 1 and wrapped and (inside := folder / next(iter(files))).is_dir():
        return _is_folder(inside, wrapped=False)
    for name, entry in files.items():
        signal = _SIGNAL.fullmatch(name)
        if signal is None or signal["part"] != "json" or not entry.is_file():
            continue
        if f"{signal['stem']}.csv" in files or f"{signal['stem']}.h5" in files:
            with (folder / name).open("rb") as file:
                return _tells("json", file)
    return False


def _tells(part: str, file: IO[bytes]) -> bool:
    """Whether a file of a signal is what its name says."""
    if part == "json":
        about = json.loads(file.read(8 * _SMALL))
        is_named = isinstance(about, dict) and isinstance(about.get("chans"), list | None)
        return is_named and isinstance(about.get("fs"), int | float)
    line = file.read(2**16).partition(b"\n")[0]
    if part == "csv":
        return all(map(_is_number, line.split(b",")[:-1] or [line]))
    return line.startswith(b"\x89HDF") if part == "h5" else b"start" in line


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
