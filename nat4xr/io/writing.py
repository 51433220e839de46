"""Write files completely or not at all, and lock them."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from isal import isal_zlib

from ..errors import DownloadError

ABANDONED = 24 * 3600.0
"""What another machine was writing is removed after this many seconds without a change."""


class WriteError(OSError):
    """A file could not be written, or a file that is needed for it could not be read."""


NO_LOCKS = (
    "if the file system has no locks, set the environment variable HDF5_USE_FILE_LOCKING to FALSE "
    "before Python starts"
)

_DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))

_UNFINISHED: set[str] = set()  # names of the temporary folders of this process


@contextmanager
def written(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file or folder under a temporary path, and move it to `target` when it is complete.

    If there is an error or an interrupt (Ctrl-C), an existing `target` does not change. Two
    processes or threads may write the same target at the same time: the last one to finish replaces
    the file of the other. If `target` is a folder, pipe or device, or if it cannot be written, this
    raises an OSError, which says how much space is free.

    Yields a path with the same name in a temporary folder beside `target`, which must be in an
    existing folder. The temporary folder is removed whether or not writing succeeds. If the process
    is killed, it is removed by the next one that writes to the same folder (a day later, if that
    runs on another machine).

    >>> with written("scores.txt") as part:
    ...     _ = part.write_text("0.5")
    >>> Path("scores.txt").read_text()
    '0.5'
    """
    target = expanded(target).absolute()
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a file"
        raise OSError(f"{target} is {kind}: remove it or choose another name")
    with unfinished(target) as part:
        yield part
        os.replace(part, target)


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Provide a path in a temporary folder beside `target`, and remove this folder at the end."""
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{target} cannot be written: there is no folder {target.parent}; make it first"
        )
    _remove_leftovers(target.parent)
    suffix = f".{secrets.token_hex(4)}.{socket.gethostname()}-{os.getpid()}.part"
    stem = os.fsdecode(os.fsencode(target.name)[: 250 - len(suffix)])
    folder = target.parent / f".{stem}{suffix}"
    _UNFINISHED.add(folder.name)
    try:
        folder.mkdir(0o700)
        yield folder / target.name
    except (FileNotFoundError, DownloadError, WriteError):
        raise  # a source is missing, or the message already names the file
    except (OSError, RuntimeError) as error:  # HDF5 raises either on a full disk
        if not isinstance(error, OSError) and type(error) is not RuntimeError:
            raise
        raise _failure(error, target, folder) from error
    finally:
        _remove(folder)
        _UNFINISHED.discard(folder.name)


def _failure(error: OSError | RuntimeError, target: Path, folder: Path) -> WriteError:
    """Make an error that says why a file could not be written, or its source not be read."""
    disk_full = isinstance(error, OSError) and error.errno in _DISK_FULL
    # If a copy fills the disk, the error names the source.
    if isinstance(error, OSError) and error.filename is not None and not disk_full:
        culprit = Path(os.fsdecode(error.filename))
        if folder not in (culprit, *culprit.parents) and culprit != target:
            return WriteError(f"{culprit} could not be read: {error.strerror}")
    if isinstance(error, PermissionError) and error.filename2 is not None:
        return WriteError(
            f"{target} could not be replaced ({error.strerror}): if it belongs to another user, "
            "ask them to remove it, or choose another folder"
        )
    if isinstance(error, OSError) and error.filename == str(folder):
        return WriteError(
            f"{target} could not be written ({error.strerror}): change the permissions of "
            f"{target.parent}, or choose another folder"
        )
    free = shutil.disk_usage(target.parent).free
    reason = error.strerror if isinstance(error, OSError) and disk_full else error
    message = f"{target} could not be written ({free:,} bytes of space are free): {reason}"
    if isinstance(error, PermissionError):  # the folder is writable, so this is a lock of HDF5
        message += f"; {NO_LOCKS}"
    return WriteError(message)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary folders that other processes have abandoned."""
    for leftover in folder.glob(".*.part"):
        with suppress(OSError):  # another process removes it, or it belongs to another user
            if _is_abandoned(leftover):
                _remove(leftover)


def _is_abandoned(folder: Path) -> bool:
    """Whether a folder is a temporary folder of this package, and its process has ended."""
    writer = re.fullmatch(r"\..*\.[^.]{8}\.(.*)-([0-9]+)\.part", folder.name, re.DOTALL)
    if not writer or not folder.is_dir():
        return False
    host, pid = writer[1], int(writer[2])
    if host == socket.gethostname() and pid == os.getpid():
        return folder.name not in _UNFINISHED
    # On Windows, signal 0 would end the process.
    if host == socket.gethostname() and os.name != "nt":
        return not _is_alive(pid)
    changed = max(file.lstat().st_mtime for file in (folder, *folder.rglob("*")))
    return time.time() - changed > ABANDONED


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # a process of another user
        return True
    return True


def _remove(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            with suppress(OSError):
                # HDF5 keeps a file open that it could not write: empty it to free its space.
                os.truncate(file, 0)
    shutil.rmtree(folder, ignore_errors=True)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder in place of ``~``, or raise an OSError without one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise OSError(
            f"the home folder in {os.fspath(path)!r} does not exist: write out the whole path"
        ) from None


def made_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, unless it exists, and return its path, with the home folder in place of ``~``.

    If it cannot be made, for instance because there is a file with this name, this raises an
    OSError.
    """
    folder = expanded(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"{folder} is not a folder, or not in one: remove the file or choose another name"
        ) from None
    return folder


_LOCKS: weakref.WeakSet[FileIO] = weakref.WeakSet()


def locked(file: Path) -> FileIO:
    """Wait for the lock of a file and acquire it. Close the returned file to release the lock.

    The lock is another file beside it, which is not removed. It prevents processes from doing the
    same work twice. Results are also right without it, because every file is written completely or
    not at all. Therefore no error is raised if the file system has no locks or the lock cannot be
    opened. (With a context manager written in Python, an interrupt could prevent the release.)

    >>> with locked(Path("scores.txt")):
    ...     _ = Path("scores.txt").write_text("0.5")
    """
    from filelock import lock_descriptor

    lock = _open_lock(file.with_name(f".{file.name.removeprefix('.')}.lock"))
    if lock is None:
        return FileIO(os.devnull)
    try:
        lock_descriptor(lock.fileno())
    except OSError:
        pass
    except BaseException:
        lock.close()
        raise
    return lock


def _open_lock(file: Path) -> FileIO | None:
    """Open the file of a lock. Another user may own it, and another process may just make it."""
    for mode in ("r+", "x", "r+", "r"):
        with suppress(OSError):
            lock = FileIO(file, mode)
            _LOCKS.add(lock)
            return lock
    return None


def _close_locks() -> None:
    """Close the locks of other threads in a child process, which would otherwise keep them."""
    for lock in list(_LOCKS):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def crc32_of(file: Path) -> int:
    """Return the CRC-32 of a file."""
    checksum = 0
    buffer = bytearray(2**18)
    with file.open("rb", buffering=0) as stream:
        while n_bytes := stream.readinto(buffer):
            checksum = isal_zlib.crc32(memoryview(buffer)[:n_bytes], checksum)
    return checksum


def status_of(file: Path | int) -> tuple[int, ...]:
    """Return properties by which a change of a file is noticed: inode, size, time of change.

    The file is given by its path or, if it is open, by its descriptor.
    """
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns
