"""Errors about the files of the release, and helpers for their messages."""

import errno
import lzma
import os
import shlex
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import list2cmdline
from typing import Any

from isal import isal_zlib

# The errors that libraries raise for damaged content.
_DAMAGE: tuple[Any, ...] = (
    EOFError,
    isal_zlib.error,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class ReleaseError(ValueError):
    """A file of the release is damaged, or is not the file that belongs in its place."""


class DownloadError(OSError):
    """A file of the release could not be downloaded completely."""


def shown(name: str) -> str:
    r"""Return a name from a file in a form that is safe to print on a terminal.

    >>> print(shown("A1_NAT4.tgz"), shown("\x1b[2J"))
    A1_NAT4.tgz '\x1b[2J'
    """
    return name if name.isprintable() else repr(name)


def quoted(path: str | os.PathLike[str]) -> str:
    """Return a path as an argument of a command, for the shell of this system.

    >>> quoted("data")
    'data'
    """
    path = os.fspath(path)
    return list2cmdline([path]) if os.name == "nt" else shlex.quote(path)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn errors about broken input into a ReleaseError that names the input as `where`."""
    try:
        yield
    except (ReleaseError, FileNotFoundError):
        raise
    except _DAMAGE as error:
        raise ReleaseError(f"{where} is damaged or cut short: {error}") from error
    except RecursionError as error:
        raise ReleaseError(f"{where} is nested too deeply to be read") from error
    except (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ReleaseError(f"{where}: {error}") from error
    except OSError as error:
        # A seek to an impossible position is EINVAL; other error numbers come from the disk.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise ReleaseError(f"{where} is damaged or cut short: {error}") from error
