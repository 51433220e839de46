"""Writing files whole or not at all, and locking them."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

MAX_SMALL = 2**22
"""Bytes of a file that `read_small` reads at most; the record of Zenodo has some 10 kB."""


@contextmanager
def written(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file or folder beside its final place, and move it there once it is whole.

    Parameters
    ----------
    target : path-like
        The file or folder to write. ``~`` is the home folder. What is already there is replaced.

    Yields
    ------
    pathlib.Path
        A path with the same name in a temporary folder beside `target`. The folder goes whether
        or not writing succeeds; what a killed process left for the same target goes, too.

    Raises
    ------
    FileNotFoundError
        If the folder that `target` should stand in does not exist.
    OSError
        If the file cannot be written; the message says how much space is free.

    Examples
    --------
    >>> with written("scores.txt") as part:
    ...     _ = part.write_text("0.5")
    >>> Path("scores.txt").read_text()
    '0.5'
    """
    target = Path(target).expanduser().absolute()
    with unfinished(target) as part:
        yield part
        if target.is_dir() and not target.is_symlink():
            # A folder (such as a zarr store) cannot be replaced in one step.
            shutil.move(target, part.parent / "replaced")
        os.replace(part, target)


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Lend a path in a temporary folder beside `target`, as `written` does, and remove it."""
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{target} cannot be written: there is no folder {target.parent}; make it first"
        )
    _remove_leftovers(target)
    try:
        folder = Path(tempfile.mkdtemp(f".{_writer()}.part", f".{target.name}.", target.parent))
    except OSError as error:
        raise OSError(error.errno, f"{target} cannot be written: {error.strerror}") from error
    part = folder / target.name
    try:
        yield part
    except FileNotFoundError:
        raise  # it is a file that was to be read that is missing
    except (OSError, RuntimeError) as error:  # HDF5 raises either on a full disk
        if not isinstance(error, OSError) and type(error) is not RuntimeError:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            culprit = Path(os.fsdecode(error.filename))
            if folder not in (culprit, *culprit.parents) and culprit != target:
                raise OSError(f"{culprit} could not be read: {error.strerror}") from error
        free = shutil.disk_usage(target.parent).free
        raise OSError(
            f"{target} could not be written ({free:,} bytes of space are free): {error}"
        ) from error
    finally:
        _remove(folder)


def _writer() -> str:
    """Name the present process, as part of a file name."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of processes of this machine that are no longer alive."""
    host = f".{socket.gethostname()}-"
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        _, found, writer = folder.name.rpartition(host)
        pid = writer.removesuffix(".part")
        if found and pid.isdecimal() and not _is_alive(int(pid)):
            _remove(folder)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def _remove(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            # HDF5 keeps a file open that it could not write: empty it to free its space.
            os.truncate(file, 0)
    shutil.rmtree(folder, ignore_errors=True)


def refuse_in_the_way(*files: Path) -> None:
    """Raise an OSError if a folder or special file stands where a file is to be written."""
    for file in files:
        if file.exists() and not file.is_file():
            raise OSError(f"{file} is not a file: remove it")


def lock_of(file: Path) -> FileLock:
    """Return the lock to hold while writing a file.

    Parameters
    ----------
    file : pathlib.Path
        The file to write. The lock stands beside it, and any user who may write there may take it.

    Returns
    -------
    filelock.FileLock
        Not yet held.

    Raises
    ------
    OSError
        If something else stands in its place, or if it cannot be written to.
    """
    lock = file.with_name(f".{file.name.removeprefix('.')}.lock")
    if lock.is_symlink():  # old versions of filelock empty the file that it links to
        raise OSError(f"{lock} is a link: remove it")
    refuse_in_the_way(lock)
    try:
        lock.touch()
    except PermissionError as error:
        if not lock.exists():
            raise
        raise OSError(
            f"{lock} belongs to another user: ask them to allow you to write to it (chmod g+w), or "
            "remove it while nobody uses the folder"
        ) from error
    # filelock would close a lock that it makes to other users, whatever the umask.
    return FileLock(lock, mode=lock.stat().st_mode & 0o777)


def read_small(file: Path) -> bytes:
    """Read a small file that this package once wrote.

    Parameters
    ----------
    file : pathlib.Path

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        If it does not exist or cannot be read.
    ValueError
        If it is not a plain file (a pipe would block the reader), or is too large.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not a file")
    with file.open("rb") as stream:
        content = stream.read(MAX_SMALL + 1)
    if len(content) > MAX_SMALL:
        raise ValueError(f"{file} is larger than {MAX_SMALL:,} bytes")
    return content
