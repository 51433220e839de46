"""What can go wrong with the release, in words for its user."""

import errno
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isal import isal_zlib

# What libraries raise on content that is damaged.
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
    """A file of the release is broken or is not what the release should hold."""


class DownloadError(OSError):
    """A file of the release could not be downloaded whole."""


def shown(name: str) -> str:
    r"""A name of something foreign, so that no terminal takes it for a command.

    Parameters
    ----------
    name : str

    Returns
    -------
    str

    Examples
    --------
    >>> print(shown("A1_NAT4.tgz"), shown("\x1b[2J"))
    A1_NAT4.tgz '\x1b[2J'
    """
    return name if name.isprintable() else repr(name)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what is said of broken input into a ReleaseError that names the input.

    Parameters
    ----------
    where : str
        What is being read, for people.
    """
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
        # Seeking to where a file cannot be is EINVAL; what else has a number is the disk's fault.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise ReleaseError(f"{where} is damaged or cut short: {error}") from error
