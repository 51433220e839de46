"""What the release consists of, and fetching it from Zenodo.

The sizes and checksums of the files are nowhere in this package: they are what the Zenodo record
itself says on first contact, kept in the data folder as ``registry.json``. Every file is held to
them from then on.
"""

import json
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote, urljoin

import pooch
import requests
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3.exceptions import InvalidHeader, ReadTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry

from .. import __version__
from ..errors import DownloadError
from .files import MAX_SMALL, lock_of, read_small, refuse_in_the_way

CREATORS = "Stephen V. David and Jacob R. Pennington"
RECORD = "8044773"
DOI = f"10.5281/zenodo.{RECORD}"
VERSION = "1.1.0"
LICENSE = "CC-BY-4.0"
REFERENCES = (
    "Pennington, J. R. and David, S. V. (2023), PLOS Comput. Biol. 19(5): e1011110, "
    "https://doi.org/10.1371/journal.pcbi.1011110"
)

FILES: dict[str, tuple[str, ...]] = {
    "A1": ("A1_NAT4_ozgf.fs100.ch18.tgz", "A1_single_sites.zip", "A1_pred_correlation.csv"),
    "PEG": ("PEG_NAT4_ozgf.fs100.ch18.tgz", "PEG_single_sites.zip", "PEG_pred_correlation.csv"),
    "wav": ("wav.zip",),
}
"""The file names of the release, by the part of it that they make up."""

PIN = "registry.json"
STAGING = ".nat4xr-download"

USER_AGENT = f"nat4xr/{__version__} (+https://doi.org/{DOI})"
CONNECT_TIMEOUT = 10.0  # s
STALL_TIMEOUT = 30.0  # s without a byte
RETRIES = 3
BACKOFF = 0.5  # s, doubled from retry to retry
RETRY_AFTER_MAX = 60.0  # s that a server may ask to wait before a retry
MAX_REDIRECTS = 5
MAX_SIZE = 2**40  # bytes of a file of the release, by its record


class Entry(NamedTuple):
    """What the record says of one file: its size in bytes and its md5 in hexadecimal."""

    size: int
    md5: str


def data_dir(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds the release.

    Parameters
    ----------
    path : path-like, optional
        The folder, if it is to be none of the defaults. ``~`` is the home folder.

    Returns
    -------
    pathlib.Path
        `path`, else the environment variable ``NAT4XR_DATA_DIR``, else the user's cache folder.
        It need not exist.

    Raises
    ------
    OSError
        If its name is not UTF-8, or not one that a folder can have.

    Examples
    --------
    >>> from nat4xr.io.registry import data_dir
    >>> data_dir("data/NAT4").as_posix()
    'data/NAT4'
    """
    folder = Path(path or os.environ.get("NAT4XR_DATA_DIR") or pooch.os_cache("nat4xr"))
    choose = "choose another with path= or the environment variable NAT4XR_DATA_DIR."
    try:
        folder = folder.expanduser()
    except RuntimeError:
        raise OSError(
            f"The data folder {str(folder)!r} is in the home folder of nobody: {choose}"
        ) from None
    whole = os.path.abspath(folder)
    if "\0" in whole:
        raise OSError(f"The name of the data folder, {whole!r}, holds a NUL: {choose}")
    try:
        whole.encode()
    except UnicodeEncodeError:  # and netCDF could not write there
        raise OSError(
            f"The name of the data folder, {whole!r}, is not UTF-8: rename it, or {choose}"
        ) from None
    return folder


def fetch(
    part: str, path: str | os.PathLike[str] | None = None, *, progressbar: bool = True
) -> list[Path]:
    """Download one part of the release, unless it is there and whole already.

    The files come from Zenodo record 8044773, or from the mirror whose root the environment
    variable ``NAT4XR_ZENODO_URL`` names. Each is checked against the size and md5 that the record
    states, and takes its place in the folder only when it is whole. Files put there by hand are
    checked in the same way. With everything in place no network is touched.

    Parameters
    ----------
    part : {"A1", "PEG", "wav"}
        ``"A1"`` (108 MB) or ``"PEG"`` (50 MB), the recordings of one area, or ``"wav"``, the
        source sounds.
    path : path-like, optional
        The data folder; by default see `data_dir`.
    progressbar : bool, optional
        Show the progress of each download.

    Returns
    -------
    list of pathlib.Path
        The files of the part, in the order of ``FILES[part]``.

    Raises
    ------
    ValueError
        If there is no such part.
    DownloadError
        If a file cannot be had whole, or the folder not be written to; the message says what
        happened and what to try.
    OSError
        If the name of the data folder is not UTF-8, or a file in it cannot be read.

    Warns
    -----
    UserWarning
        If a file in the folder is not the file of the release and is therefore replaced.

    Examples
    --------
    >>> import nat4xr
    >>> nat4xr.fetch("PEG")  # doctest: +SKIP
    [PosixPath('/home/me/.cache/nat4xr/PEG_NAT4_ozgf.fs100.ch18.tgz'), ...]
    >>> nat4xr.fetch("V1")
    Traceback (most recent call last):
    ...
    ValueError: The release has no part 'V1': choose one of 'A1', 'PEG', 'wav'.
    """
    if part not in FILES:
        valid = ", ".join(map(repr, FILES))
        raise ValueError(f"The release has no part {part!r}: choose one of {valid}.")
    folder = data_dir(path)
    files = {name: folder / name for name in FILES[part]}

    # Before the lock, so that a folder that cannot be written to serves whoever may read it.
    pin = pinned(folder)
    if all(name in pin and flaw(file, pin[name]) is None for name, file in files.items()):
        return list(files.values())

    record_url = f"{_root_url()[0]}/api/records/{RECORD}"
    with _staging(folder) as staging, _session() as session:
        pin = pinned(folder)
        if not all(name in pin for name in files):
            downloader = partial(_download_record, session=session, names=FILES[part])
            _get(record_url, None, folder / PIN, staging, downloader, FILES[part])
            pin = pinned(folder)
        for name, file in files.items():
            wrong = flaw(file, pin[name])
            if wrong is None:
                continue
            if file.exists():
                warnings.warn(f"{file} {wrong}: downloading it anew.", stacklevel=2)
            downloader = partial(
                _download_file, session=session, size=pin[name].size, progressbar=progressbar
            )
            url = f"{record_url}/files/{name}/content"
            _get(url, f"md5:{pin[name].md5}", file, staging, downloader, (name,))
    return list(files.values())


def pinned(folder: Path) -> dict[str, Entry]:
    """Return what the record said of the release's files on first contact.

    Parameters
    ----------
    folder : pathlib.Path
        The data folder.

    Returns
    -------
    dict of str to Entry
        By file name; empty if the record was never asked, or if its pin cannot be read.
    """
    try:
        return _entries(read_small(folder / PIN))
    except (OSError, ValueError):
        return {}


def flaw(file: Path, entry: Entry) -> str | None:
    """Say what keeps a file from being whole.

    Parameters
    ----------
    file : pathlib.Path
        The file on disk.
    entry : Entry
        What the record says of it.

    Returns
    -------
    str or None
        A predicate of the file, such as ``"is missing"``; None if it is whole.
    """
    if not file.exists():
        return "is missing"
    if not file.is_file():
        return "is not a file"
    if (size := file.stat().st_size) != entry.size:
        return f"has {size} bytes where the record says {entry.size}"
    if (md5 := pooch.file_hash(file, alg="md5")) != entry.md5:
        return f"has md5 {md5} where the record says {entry.md5}"
    return None


def missing_error(part: str, missing: list[str], folder: Path) -> FileNotFoundError:
    """Build the error for files that are needed, are not there and must not be downloaded.

    Parameters
    ----------
    part : str
        The part of the release: ``"A1"``, ``"PEG"`` or ``"wav"``.
    missing : list of str
        The names of the missing files.
    folder : pathlib.Path
        Where they were looked for.

    Returns
    -------
    FileNotFoundError
        It says which files are missing, where, and which command fetches them.

    Examples
    --------
    >>> print(missing_error("wav", ["wav.zip"], Path("data")))
    wav.zip not found in data, which is no folder. Fetch with:
        nat4xr fetch wav --path data
    """
    command = f"nat4xr fetch {part}"
    if folder != data_dir():
        command += f" --path {shlex.quote(str(folder))}"
    where = folder if folder.is_dir() else f"{folder}, which is no folder"
    return FileNotFoundError(
        f"{', '.join(missing)} not found in {where}. Fetch with:\n    {command}"
    )


def _root_url() -> tuple[str, tuple[str, str] | None]:
    """Where Zenodo is, without the name and password for it, which nobody need see; and those."""
    url = (os.environ.get("NAT4XR_ZENODO_URL") or "https://zenodo.org").rstrip("/")
    scheme, _, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    root = f"{scheme}://{host}{slash}{path}" if at else url
    name, _, password = user.partition(":")
    return root, (unquote(name), unquote(password)) if at else None


def _entries(record: bytes) -> dict[str, Entry]:
    """Read the release's files out of a record's JSON; a ValueError says what is wrong with it."""
    try:
        listed = {file["key"]: file for file in json.loads(record)["files"]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError("what came is not the JSON of a Zenodo record with files") from error
    entries = {}
    # Only names known beforehand: a record must not choose where on this machine files go.
    for name in chain.from_iterable(FILES.values()):
        if name in listed:
            size, checksum = listed[name].get("size"), listed[name].get("checksum")
            valid = type(size) is int and 0 <= size < MAX_SIZE
            if not valid or not re.fullmatch("md5:[0-9a-f]{32}", str(checksum)):
                raise ValueError(
                    f"the record states no size and md5 of {name} "
                    f"(size {size!r:.40}, checksum {checksum!r:.40})"
                )
            entries[name] = Entry(size, checksum.removeprefix("md5:"))
    return entries


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Lend the folder to this process alone, with an empty place in it for unfinished files."""
    staging = folder / STAGING
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_in_the_way(folder / PIN)
            stack.enter_context(lock_of(staging))
            # Whoever holds the lock may clear away what a killed process left. What is not
            # cleared away must not be taken for files that were downloaded.
            if staging.is_symlink():
                staging.unlink()
            elif staging.is_dir():
                shutil.rmtree(staging)
            elif staging.exists():
                raise OSError(f"{staging} is not a folder: remove it")
            staging.mkdir()
        except OSError as error:
            why = error.strerror or error
            raise DownloadError(
                f"The data folder {folder} cannot be written to ({why}): choose another "
                "with path= or the environment variable NAT4XR_DATA_DIR."
            ) from error
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        yield staging


def _get(
    url: str,
    known_hash: str | None,
    target: Path,
    staging: Path,
    downloader: partial[None],
    wanted: tuple[str, ...],
) -> None:
    """Let Pooch download and verify one file, and put it in its place when it is whole."""
    pup = pooch.create(
        path=staging,
        base_url=_root_url()[0],
        registry={target.name: known_hash},
        urls={target.name: url},
        retry_if_failed=RETRIES,
    )
    try:
        os.replace(pup.fetch(target.name, downloader=downloader), target)
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"{url} could not be downloaded: {_reason(error)}.\n"
            "Try again; or set NAT4XR_ZENODO_URL to the root of a mirror; or download "
            f"{', '.join(wanted)} by hand from https://doi.org/{DOI} into {target.parent}"
        ) from (error.__cause__ if isinstance(error, DownloadError) else error)


def _download_file(
    url: str,
    output_file: str,
    _pooch: pooch.Pooch,
    *,
    session: requests.Session,
    size: int,
    progressbar: bool,
) -> None:
    """Download one file of the release for Pooch, which begins again on a ValueError."""
    name = url.split("/")[-2]
    received = 0
    with (
        _open(session, url) as response,
        _create(output_file) as out,
        tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=not progressbar) as bar,
    ):
        for chunk in response.iter_content(2**16):
            received += len(chunk)
            if received > size:
                raise ValueError(f"wrong length: more came than the {size} bytes of the record")
            out.write(chunk)
            bar.update(len(chunk))
    if received < size:
        raise ValueError(f"wrong length: {received} bytes came, the record says {size}")


def _download_record(
    url: str,
    output_file: str,
    _pooch: pooch.Pooch,
    *,
    session: requests.Session,
    names: tuple[str, ...],
) -> None:
    """Download the record's JSON for Pooch, if it holds what the release needs."""
    with _open(session, url) as response:
        record = b"".join(islice(response.iter_content(2**16), MAX_SMALL // 2**16))
    entries = _entries(record)
    if missing := [name for name in names if name not in entries]:
        raise DownloadError(f"the record lists no {', '.join(missing)}")
    with _create(output_file) as out:
        out.write(record)


def _open(session: requests.Session, url: str) -> requests.Response:
    """Get a response whose body is worth reading; here a failure is final, the session retried."""
    try:
        response = session.get(url, stream=True, timeout=(CONNECT_TIMEOUT, STALL_TIMEOUT))
    except requests.RequestException as error:
        raise DownloadError(_reason(error)) from error
    html = "html" in response.headers.get("Content-Type", "").lower()
    if response.status_code == 200 and not html:
        return response
    response.close()
    if response.status_code == 200:
        raise DownloadError("an HTML page came in its place (from a login page or a proxy?)")
    hint = {
        403: " (it refuses this client or network)",
        404: " (is NAT4XR_ZENODO_URL right, if it is set?)",
        429: " (wait some minutes)",
    }.get(response.status_code, "")
    raise DownloadError(f"the server answered {response.status_code} {response.reason}{hint}")


def _create(output_file: str) -> BinaryIO:
    # Pooch's temporary file is readable by its owner alone, but data folders are shared.
    os.unlink(output_file)
    return open(output_file, "xb")


class _Retry(Retry):
    """Waits as long as the server asks for, within bounds, and says so."""

    def parse_retry_after(self, retry_after: str) -> float:
        try:
            return super().parse_retry_after(retry_after)
        except (InvalidHeader, ValueError, OverflowError):  # no number and no date
            return 0  # so that it waits as if nothing had been asked

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        seconds = super().get_retry_after(response)
        if not seconds:
            return seconds
        seconds = min(seconds, RETRY_AFTER_MAX)
        pooch.get_logger().info("The server asks for a pause: waiting %.0f s.", seconds)
        return seconds


def _examine_redirect(response: requests.Response, **_options: Any) -> None:
    """Refuse to be led away from TLS; and leave unread what comes with a redirect."""
    if not response.is_redirect:
        return
    response.close()
    target = urljoin(response.url, response.headers["Location"])
    if response.url.startswith("https:") and not target.startswith("https:"):
        raise DownloadError("it was redirected from https to an address without")


def _session() -> requests.Session:
    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    session.auth = _root_url()[1]
    session.hooks["response"].append(_examine_redirect)
    # identity: a body that is compressed on its way would not have the length of the file.
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    retries = _Retry(
        total=RETRIES,
        other=0,  # TLS and the like, which no retry will mend
        backoff_factor=BACKOFF,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    return session


def _reason(error: Exception) -> str:
    """Put into words why a download failed."""
    cause = _innermost(error)
    match error:
        case DownloadError():
            return str(error)
        case requests.TooManyRedirects():
            return f"it was redirected more than {MAX_REDIRECTS} times"
        case requests.exceptions.SSLError():
            return (
                f"the TLS connection failed ({cause}); certificates of your own are named by "
                "REQUESTS_CA_BUNDLE"
            )
        case requests.exceptions.ProxyError():
            return f"the proxy failed ({cause}); see the variables HTTP_PROXY and HTTPS_PROXY"
        case requests.ConnectTimeout():
            return f"no connection within {CONNECT_TIMEOUT:g} s"
        case requests.RequestException() if isinstance(cause, ReadTimeoutError):
            return f"the server stalled: nothing came for {STALL_TIMEOUT:g} s"
        case requests.RequestException():
            return f"the connection failed ({cause})"
        case OSError():
            return (
                f"it could not be written ({error.strerror}); free some space, or choose another "
                "folder with path= or NAT4XR_DATA_DIR"
            )
        case _:
            return str(error).rstrip(".")


def _innermost(error: Any) -> Any:
    """Dig out the error that requests and urllib3 wrapped."""
    inner = getattr(error, "reason", None) or (error.args[-1] if error.args else None)
    return _innermost(inner) if isinstance(inner, Exception) else error
