"""Download the release from Zenodo."""

import os
import time
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import pooch
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError
from urllib3.util import Retry

from .. import __version__
from ..errors import DownloadError, quoted
from ..extras import tqdm
from .registry import (
    DOI,
    FILES,
    PIN,
    RECORD,
    Entry,
    command_of,
    data_dir,
    entries_of,
    flaw,
    part_named,
    pinned,
)
from .writing import locked, unfinished, written

LOCK = "nat4xr-download"

USER_AGENT = f"nat4xr/{__version__} (+https://doi.org/{DOI})"
CONNECT_TIMEOUT = 10.0  # in s
STALL_TIMEOUT = 30.0  # longest time without data, in s
RETRIES = 3
BACKOFF = 0.5  # time before the first retry in s, doubled for each further retry
RETRY_AFTER_MAX = 60  # longest time that a server can request before a retry, in s
MAX_REDIRECTS = 5
# All attempts for a file may take PATIENCE, plus the time for its size at MIN_SPEED.
PATIENCE = 60.0  # in s
MIN_SPEED = 10_000  # in bytes/s
MAX_RECORD = 2**20  # largest size of the record in bytes; the real one has about 10,000


def fetch(
    part: str, path: str | os.PathLike[str] | None = None, *, progressbar: bool = True
) -> list[Path]:
    """Download one part of the release, unless the data folder already has it.

    The files come from Zenodo record 8044773, or from a mirror whose root is in the environment
    variable ``NAT4XR_ZENODO_URL``. Each file is checked against the size and md5 in the record,
    and is moved into the data folder only if they match. Files that you placed there by hand are
    checked in the same way. If all files are there, nothing is sent over the network.

    Parameters
    ----------
    part : {"A1", "PEG", "wav"}
        ``"A1"`` (108 MB) or ``"PEG"`` (50 MB), the recordings of one area, or ``"wav"``, the
        source sounds.
    path : path-like, optional
        The data folder, which is made if it does not exist. Default: as for `open_area`.
    progressbar : bool, default: True
        Whether to show the progress of each download.

    Returns
    -------
    list of pathlib.Path
        The files of the part, in the order of ``FILES[part]``.

    Raises
    ------
    ValueError
        If `part` is not one of the values above.
    DownloadError
        If a file cannot be downloaded completely, or the folder cannot be written to. The message
        says what happened and what to try.
    OSError
        If the name of the data folder is not UTF-8, or a file in it cannot be read.

    Warns
    -----
    UserWarning
        If a file in the folder differs from the file of the release, and is replaced.

    Examples
    --------
    >>> import nat4xr
    >>> nat4xr.fetch("PEG")  # doctest: +SKIP
    [PosixPath('/home/me/.cache/nat4xr/PEG_NAT4_ozgf.fs100.ch18.tgz'), ...]
    >>> nat4xr.fetch("V1")
    Traceback (most recent call last):
    ...
    ValueError: there is no part 'V1': choose one of 'A1', 'PEG', 'wav'
    """
    part = part_named(part, "part")
    folder = data_dir(path)
    files = {name: folder / name for name in FILES[part]}

    # This comes before the lock, so that a complete folder can be used without write permission.
    pin = pinned(folder)
    if all(name in pin and flaw(file, pin[name]) is None for name, file in files.items()):
        return list(files.values())

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"The data folder {folder} cannot be written to ({error.strerror}): choose another "
            "with path= or the environment variable NAT4XR_DATA_DIR."
        ) from error
    # If several processes fetch at the same time, one downloads and the others wait.
    with locked(folder / LOCK), _session() as session:
        pin = pinned(folder)
        if not all(name in pin for name in files):
            pin = _fetch_record(session, folder, FILES[part])
        for name, file in files.items():
            wrong = flaw(file, pin[name])
            if wrong is None:
                continue
            if file.exists():
                warnings.warn(f"{file} {wrong}: downloading it again.", stacklevel=2)
            _fetch_file(session, part, file, pin, progressbar)
    return list(files.values())


def _root_url() -> tuple[str, tuple[str, str] | None]:
    """The root URL of Zenodo or its mirror, and the user name and password that it contained."""
    url = (os.environ.get("NAT4XR_ZENODO_URL") or "https://zenodo.org").rstrip("/")
    scheme, _, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    root = f"{scheme}://{host}{slash}{path}" if at else url
    name, _, password = user.partition(":")
    return root, (unquote(name), unquote(password)) if at else None


def _record_url() -> str:
    return f"{_root_url()[0]}/api/records/{RECORD}"


def _fetch_record(
    session: requests.Session, folder: Path, wanted: tuple[str, ...]
) -> dict[str, Entry]:
    """Download the record, and save it if it lists the files of the part."""
    try:
        with written(folder / PIN) as part:
            entries = _download_record(session, part)
            if missing := [name for name in wanted if name not in entries]:
                raise DownloadError(f"the record lists no {', '.join(missing)}")
    except OSError as error:
        raise _failure(_record_url(), error, folder, wanted) from _cause(error)
    return entries


def _fetch_file(
    session: requests.Session, part: str, file: Path, pin: dict[str, Entry], progressbar: bool
) -> None:
    """Download a file of the release, and move it into place if it has the pinned md5."""
    url = f"{_record_url()}/files/{file.name}/content"
    size, md5 = pin[file.name]
    try:
        with written(file) as unfinished_file:
            _download(session, url, unfinished_file, f"md5:{md5}", size, progressbar)
    except OSError as error:
        cause = _cause(error)
        if cause is None or isinstance(cause, ValueError):  # the server sent something else
            _check_unchanged(session, part, file.parent, pin)
        raise _failure(url, error, file.parent, (file.name,)) from cause


def _check_unchanged(
    session: requests.Session, part: str, folder: Path, pin: dict[str, Entry]
) -> None:
    """Raise a DownloadError if the record can be read and is no longer what was pinned."""
    try:
        with unfinished(folder / PIN) as new:
            now = _download_record(session, new)
    except OSError:
        return
    changes = [
        f"{name}: {_described(pin.get(name))}, now {_described(now.get(name))}"
        for name in chain.from_iterable(FILES.values())
        if pin.get(name) != now.get(name)
    ]
    if changes:
        raise DownloadError(
            f"The record {_record_url()} has changed since {folder / PIN} was written:\n    "
            + "\n    ".join(changes)
            + "\nYour files are as they were. To accept the new release, remove the old record and "
            f"fetch again:\n    rm {quoted(folder / PIN)} && {command_of(part, folder)}"
        )


def _described(entry: Entry | None) -> str:
    return f"{entry.size:,} bytes, md5 {entry.md5}" if entry else "not listed"


def _download_record(session: requests.Session, target: Path) -> dict[str, Entry]:
    """Download the record's JSON and read it."""
    _download(session, _record_url(), target, None, None, progressbar=False)
    try:
        return entries_of(target.read_bytes())
    except ValueError as error:
        raise DownloadError(str(error)) from error


def _download(
    session: requests.Session,
    url: str,
    target: Path,
    known_hash: str | None,
    size: int | None,
    progressbar: bool,
) -> None:
    """Let Pooch download one file and verify it."""
    seconds = PATIENCE + (MAX_RECORD if size is None else size) / MIN_SPEED
    downloader = partial(
        _stream,
        session=session,
        size=size,
        end=time.monotonic() + seconds,
        attempts=count(),
        progressbar=progressbar,
    )
    pup = pooch.create(
        path=target.parent,
        base_url=_root_url()[0],
        registry={target.name: known_hash},
        urls={target.name: url},
        retry_if_failed=RETRIES,
    )
    try:
        pup.fetch(target.name, downloader=downloader)
    except (requests.RequestException, ValueError) as error:
        raise DownloadError(_reason(error)) from error


def _stream(
    url: str,
    output_file: str,
    _pooch: pooch.Pooch,
    *,
    session: requests.Session,
    size: int | None,
    end: float,
    attempts: Iterator[int],
    progressbar: bool,
) -> None:
    """Download one file for Pooch, which tries again after a ValueError or RequestException."""
    name = url.split("/")[-2]
    received = 0
    os.unlink(output_file)  # Pooch made it readable for its owner only, but folders are shared
    with (
        _open(session, url) as response,
        open(output_file, "xb") as out,
        tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=not progressbar) as bar,
    ):
        # Some servers declare a .tgz as gzip-encoded, although they send the file itself. If they
        # do not declare its length either, every second attempt does not decode it.
        is_encoded = response.headers.get("Content-Length") != str(size) and next(attempts) % 2 == 0
        while chunk := _read(response, is_encoded):
            received += len(chunk)
            if received > (limit := MAX_RECORD if size is None else size):
                raise ValueError(f"wrong length: got more than the {limit} bytes of the record")
            if time.monotonic() > end:
                raise DownloadError(
                    f"too slow: received {received:,} bytes at less than {MIN_SPEED:,} per second"
                )
            out.write(chunk)
            bar.update(len(chunk))
    if size is not None and received < size:
        raise ValueError(f"wrong length: got {received} bytes, but the record says {size}")


def _read(response: requests.Response, is_encoded: bool) -> bytes:
    """Read the bytes that have arrived; `iter_content` would wait for a whole chunk."""
    try:
        chunk: bytes = response.raw.read1(2**16, decode_content=is_encoded)
    except HTTPError as error:
        raise requests.ConnectionError(error) from error
    return chunk


def _open(session: requests.Session, url: str) -> requests.Response:
    """Open a response, and raise if it is an error; the session has already retried."""
    try:
        response = session.get(url, stream=True, timeout=(CONNECT_TIMEOUT, STALL_TIMEOUT))
    except requests.RequestException as error:
        raise DownloadError(_reason(error)) from error
    html = "html" in response.headers.get("Content-Type", "").lower()
    if response.status_code == 200 and not html:
        return response
    response.close()
    if response.status_code == 200:
        raise DownloadError("received an HTML page instead (from a login page or a proxy?)")
    hint = {
        403: " (it refuses this client or network)",
        404: " (is NAT4XR_ZENODO_URL right, if it is set?)",
        429: " (wait a few minutes)",
    }.get(response.status_code, "")
    raise DownloadError(f"the server answered {response.status_code} {response.reason}{hint}")


class _Retry(Retry):
    """A Retry that waits as long as the server asks, within bounds, and ignores invalid times."""

    def parse_retry_after(self, retry_after: str) -> float:
        try:
            return super().parse_retry_after(retry_after)
        except (InvalidHeader, ValueError, OverflowError):
            return 0


def _examine_redirect(response: requests.Response, **_options: Any) -> None:
    """Refuse redirects from https to http."""
    if not response.is_redirect:
        return
    target = urljoin(response.url, response.headers["Location"])
    if response.url.startswith("https:") and not target.startswith("https:"):
        raise DownloadError("it was redirected from https to an address without https")


def _session() -> requests.Session:
    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    session.auth = _root_url()[1]
    session.hooks["response"].append(_examine_redirect)
    # identity: a body that is compressed in transit would not have the length of the file.
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    retries = _Retry(
        total=RETRIES,
        other=0,  # errors of TLS and the like, where a retry does not help
        backoff_factor=BACKOFF,
        status_forcelist=(408, 425, 429, 500, 502, 503, 504, *range(520, 528)),
        retry_after_max=RETRY_AFTER_MAX,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries))
    return session


def _reason(error: Exception) -> str:
    """Describe why a download failed."""
    cause = _innermost(error)
    match error:
        case DownloadError():
            return str(error)
        case requests.TooManyRedirects():
            return f"it was redirected more than {MAX_REDIRECTS} times"
        case requests.exceptions.SSLError():
            return (
                f"the TLS connection failed ({cause}); if you need your own certificates, set "
                "REQUESTS_CA_BUNDLE"
            )
        case requests.exceptions.ProxyError():
            return f"the proxy failed ({cause}); see the variables HTTP_PROXY and HTTPS_PROXY"
        case requests.ConnectTimeout():
            return f"no connection within {CONNECT_TIMEOUT:g} s"
        case requests.RequestException() if isinstance(cause, ReadTimeoutError):
            return f"the server stalled: no data for {STALL_TIMEOUT:g} s"
        case requests.RequestException():
            return f"the connection failed ({cause})"
        case _:
            return str(error).rstrip(".")


def _failure(url: str, error: OSError, folder: Path, wanted: tuple[str, ...]) -> DownloadError:
    """Make an error that says what failed, why, and what to try."""
    return DownloadError(
        f"{url} could not be downloaded: {error}.\n"
        "Try again; set NAT4XR_ZENODO_URL to the root of a mirror; choose another folder with "
        f"path= or NAT4XR_DATA_DIR; or download {', '.join(wanted)} by hand from "
        f"https://doi.org/{DOI} into {folder}\n"
        "To try nat4xr without the data, simulate some: nat4xr demo, or nat4xr.simulate"
    )


def _cause(error: OSError) -> BaseException | None:
    """Return the cause to show. A DownloadError is skipped, because a new one replaces it."""
    return error.__cause__ if isinstance(error, DownloadError) else error


def _innermost(error: Any) -> Any:
    """Find the error that requests and urllib3 wrapped."""
    inner = getattr(error, "reason", None) or (error.args[-1] if error.args else None)
    return _innermost(inner) if isinstance(inner, Exception) else error
