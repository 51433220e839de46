"""The engine ``"nems"`` of ``xarray.open_dataset``, as xarray finds it.

xarray imports this module whenever it looks for an engine, also for files of other formats. It
stands outside the package so that this imports nothing of nat4xr and registers no accessor: that
happens once a NEMS recording is opened, or nat4xr is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

_ARCHIVES = (".tgz", ".tar.gz", ".tar")
_JSON_OF_SIGNAL = re.compile(r"[^.].*\..+\.json")


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
        filename_or_obj : path-like
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
            If ``filename_or_obj`` is not a path.
        ReleaseError
            If the recording is broken.
        FileNotFoundError
            If there is no such file or folder.
        """
        from nat4xr.io.engine import recording_dataset

        path = _path(filename_or_obj)
        if path is None:
            raise TypeError(
                f"engine 'nems' opens files and folders, not {type(filename_or_obj).__name__}"
            )
        if isinstance(drop_variables, str):
            drop_variables = [drop_variables]
        return recording_dataset(path, frozenset(drop_variables or ()))

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether this is a NEMS recording, by its content.

        Parameters
        ----------
        filename_or_obj : object
            What ``xarray.open_dataset`` was given.

        Returns
        -------
        bool
            True for an archive or folder that holds a recording.
        """
        path = _path(filename_or_obj)
        if path is None or not _may_be_recording(path):
            return False
        from nat4xr.io.nems import is_recording

        return is_recording(path)


def _path(obj: Any) -> Path | None:
    name = os.fspath(obj) if isinstance(obj, str | os.PathLike) else None
    return Path(os.path.expanduser(name)).absolute() if isinstance(name, str) else None


def _may_be_recording(path: Path) -> bool:
    """Whether it is worth importing nat4xr to look inside."""
    try:
        if not path.is_dir():
            return path.name.lower().endswith(_ARCHIVES) and path.is_file()
        with os.scandir(path) as entries:
            visible = [e for e in islice(entries, 1000) if not e.name.startswith(".")]
        only_folder = len(visible) == 1 and visible[0].is_dir()
        return only_folder or any(_JSON_OF_SIGNAL.fullmatch(entry.name) for entry in visible)
    except OSError:
        return False
