"""Downloading the release from a local HTTP server."""

import base64
import contextlib
import email.utils
import gzip
import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pooch
import pytest

import nat4xr
from nat4xr.io import download
from nat4xr.io.download import fetch
from nat4xr.io.registry import FILES, data_dir, missing_error, pinned

from .support import DATA
from .support.server import ReleaseServer

Answer = Callable[[BaseHTTPRequestHandler], None]

CERTIFICATE = DATA / "tls" / "127.0.0.1.pem"
defaults = dict(vars(download))  # before they are hurried

PEG_TGZ, PEG_ZIP, PEG_CSV = FILES["PEG"]
FETCH = "import sys, nat4xr.io.download as r; sys.stdin.readline(); r.fetch(*sys.argv[1:])"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    # Pooch waits for seconds between its attempts.
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _s: None), raising=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "NAT4 données"
    monkeypatch.setenv("NAT4XR_DATA_DIR", str(folder))
    return folder


def names(server: ReleaseServer) -> list[str]:
    return [request.name for request in server.log]


def listing(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def assert_whole(part: str, folder: Path, release: Path) -> None:
    """The folder holds the part byte for byte, and no debris."""
    for name in FILES[part]:
        assert (folder / name).read_bytes() == (release / name).read_bytes()
    ours = {"registry.json", ".nat4xr-download.lock"}
    assert listing(folder) <= {name for part in FILES.values() for name in part} | ours


# --- answers that a server may give -------------------------------------------------------------


def body_of(request: BaseHTTPRequestHandler) -> bytes:
    name = request.path.split("/")[-2]
    if name == "records":
        return request.server.record_json()
    return (request.server.folder / name).read_bytes()


def send(
    request: BaseHTTPRequestHandler, body: bytes, length: int, kind: str = "application/json"
) -> None:
    request.send_response(200)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(length))
    request.end_headers()
    request.wfile.write(body)
    request.wfile.flush()


def status(code: int, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def content(body: bytes, kind: str = "application/json") -> Answer:
    return lambda request: send(request, body, len(body), kind)


def cut(request: BaseHTTPRequestHandler) -> None:
    body = body_of(request)
    send(request, body[: len(body) // 2], len(body))


def shortened(request: BaseHTTPRequestHandler) -> None:
    body = body_of(request)[:-1]
    send(request, body, len(body))


def lengthened(request: BaseHTTPRequestHandler) -> None:
    body = body_of(request) + b"\0"
    send(request, body, len(body))


def garbled(request: BaseHTTPRequestHandler) -> None:
    body = body_of(request)
    send(request, body[:-1] + bytes([body[-1] ^ 1]), len(body))


def slow(request: BaseHTTPRequestHandler) -> None:
    body = body_of(request)
    send(request, b"", len(body))
    for start in range(0, len(body), len(body) // 8):
        time.sleep(0.1)
        request.wfile.write(body[start : start + len(body) // 8])
        request.wfile.flush()


class Hold:
    """Sends all but the last byte, and then nothing until it is released."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        send(request, body[:-1], len(body))
        self.reached.set()
        self.released.wait(30)


@pytest.fixture
def hold() -> Hold:
    hold = Hold()
    yield hold
    hold.released.set()


# --- how long it is waited for ------------------------------------------------------------------


def test_a_slow_network_is_waited_for_and_a_dead_one_not_for_ever() -> None:
    assert 5 <= defaults["CONNECT_TIMEOUT"] <= 60
    assert 10 <= defaults["STALL_TIMEOUT"] <= 120
    assert 30 <= defaults["RETRY_AFTER_MAX"] <= 300
    assert 0.1 <= defaults["BACKOFF"] <= 5
    assert 2 <= defaults["RETRIES"] <= 10


# --- what is fetched, and when ------------------------------------------------------------------


@pytest.mark.parametrize("part", FILES)
def test_a_part_is_fetched_whole(
    part: str, release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    assert fetch(part) == [folder / name for name in FILES[part]]
    assert_whole(part, folder, nems0_release)
    assert names(release_server) == ["record", *FILES[part]]


def test_requests_name_the_package(release_server: ReleaseServer, folder: Path) -> None:
    fetch("PEG")
    agent = f"nat4xr/{nat4xr.__version__} (+https://doi.org/10.5281/zenodo.8044773)"
    assert {request.user_agent for request in release_server.log} == {agent}


def test_what_is_there_and_whole_is_not_fetched_again(
    release_server: ReleaseServer, folder: Path
) -> None:
    first = fetch("PEG")
    release_server.log.clear()
    assert fetch("PEG") == first
    assert release_server.log == []


def test_with_everything_in_place_nothing_is_written(
    release_server: ReleaseServer, folder: Path
) -> None:
    fetch("PEG")
    (folder / ".nat4xr-download.lock").unlink()
    fetch("PEG")
    assert listing(folder) == {*FILES["PEG"], "registry.json"}


def test_the_record_is_asked_once_for_all_parts(
    release_server: ReleaseServer, folder: Path
) -> None:
    fetch("PEG")
    fetch("wav")
    assert names(release_server).count("record") == 1


def test_only_the_missing_file_is_fetched(release_server: ReleaseServer, folder: Path) -> None:
    fetch("PEG")
    (folder / PEG_ZIP).unlink()
    release_server.log.clear()
    fetch("PEG")
    assert names(release_server) == [PEG_ZIP]


def test_files_placed_by_hand_are_checked_against_the_record(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    folder.mkdir()
    for name in FILES["PEG"]:
        (folder / name).write_bytes((nems0_release / name).read_bytes())
    fetch("PEG")
    assert names(release_server) == ["record"]


@pytest.mark.reliability
def test_a_file_that_differs_is_replaced_with_a_warning(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    fetch("PEG")
    damaged = bytearray((folder / PEG_ZIP).read_bytes())
    damaged[100] ^= 1
    (folder / PEG_ZIP).write_bytes(damaged)
    with pytest.warns(UserWarning, match=rf"{PEG_ZIP} has md5 \w+.*the record says \w+"):
        fetch("PEG")
    assert_whole("PEG", folder, nems0_release)


def test_a_file_that_differs_is_kept_until_the_new_one_is_whole(
    release_server: ReleaseServer, folder: Path
) -> None:
    fetch("wav")
    (folder / "wav.zip").write_bytes(b"mine")
    release_server.instead["wav.zip"] = [status(404)]
    with (
        pytest.warns(UserWarning, match="has 4 bytes"),
        pytest.raises(nat4xr.DownloadError),
    ):
        fetch("wav")
    assert (folder / "wav.zip").read_bytes() == b"mine"


def test_files_have_the_permissions_of_any_new_file(
    release_server: ReleaseServer, folder: Path
) -> None:
    fetch("wav")
    (folder / "new").touch()
    modes = {(folder / name).stat().st_mode for name in ("new", "wav.zip", "registry.json")}
    assert len(modes) == 1


def test_a_part_can_be_given_in_any_case(release_server: ReleaseServer, folder: Path) -> None:
    assert fetch("WAV") == [folder / "wav.zip"]


def test_an_unknown_part_lists_the_valid_ones(folder: Path) -> None:
    with pytest.raises(ValueError, match="no part 'V1': choose one of 'A1', 'PEG', 'wav'"):
        fetch("V1")


@pytest.mark.parametrize("progressbar", [True, False])
def test_the_progress_bar_names_the_file_and_can_be_turned_off(
    progressbar: bool,
    release_server: ReleaseServer,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fetch("wav", progressbar=progressbar)
    assert ("wav.zip: 100%" in capsys.readouterr().err) == progressbar


# --- where --------------------------------------------------------------------------------------


def test_the_path_argument_comes_before_the_environment(
    release_server: ReleaseServer, folder: Path, tmp_path: Path
) -> None:
    assert fetch("wav", tmp_path / "here") == [tmp_path / "here" / "wav.zip"]
    assert not folder.exists()


def test_the_data_folder_is_the_users_cache_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAT4XR_DATA_DIR", raising=False)
    assert data_dir() == pooch.os_cache("nat4xr")


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAT4XR_DATA_DIR", "~/NAT4")
    assert data_dir() == Path.home() / "NAT4"
    assert data_dir("~/other") == Path.home() / "other"


@pytest.mark.reliability
@pytest.mark.parametrize("use", [fetch, nat4xr.open_area])
def test_the_home_folder_of_nobody_is_a_clear_error(use: Callable[..., object]) -> None:
    with pytest.raises(OSError, match=r"~nosuchuser/NAT4.*path= or .*NAT4XR_DATA_DIR"):
        use("A1", "~nosuchuser/NAT4")


def test_a_folder_that_cannot_be_written_to_is_a_download_error(
    release_server: ReleaseServer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(nat4xr.DownloadError, match=r"cannot be written to .*NAT4XR_DATA_DIR"):
        fetch("wav", tmp_path / "file" / "data")


def test_a_folder_that_is_in_the_way_is_a_download_error(
    release_server: ReleaseServer, folder: Path
) -> None:
    (folder / "registry.json").mkdir(parents=True)
    with pytest.raises(nat4xr.DownloadError, match=r"registry\.json is a folder: remove it"):
        fetch("wav", folder)


@pytest.mark.reliability
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_lock_can_be_taken_by_whoever_the_umask_allows_to_write(
    umask: int, mode: int, release_server: ReleaseServer, folder: Path
) -> None:
    before = os.umask(umask)
    try:
        fetch("wav")
    finally:
        os.umask(before)
    assert (folder / ".nat4xr-download.lock").stat().st_mode & 0o777 == mode


def test_a_missing_file_is_reported_with_the_command_that_fetches_it(folder: Path) -> None:
    error = missing_error("PEG", [PEG_TGZ, PEG_CSV], folder)
    assert isinstance(error, FileNotFoundError)
    assert f"{PEG_TGZ}, {PEG_CSV} not found in {folder}" in str(error)
    assert str(error).endswith("nat4xr fetch PEG")


def test_the_command_names_a_folder_that_is_not_the_default(folder: Path, tmp_path: Path) -> None:
    error = missing_error("A1", [FILES["A1"][0]], tmp_path / "my data")
    assert str(error).endswith(f"nat4xr fetch A1 --path '{tmp_path / 'my data'}'")


# --- the record ---------------------------------------------------------------------------------


def test_the_pin_holds_what_the_record_said(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    fetch("wav")
    assert set(pinned(folder)) == {name for part in FILES.values() for name in part}
    assert pinned(folder)["wav.zip"].size == (nems0_release / "wav.zip").stat().st_size


@pytest.fixture
def newer(release_server: ReleaseServer, folder: Path, nems0_release: Path, tmp_path: Path) -> Path:
    """The folder of a server that has changed one file and lost another since the first fetch."""
    fetch("PEG")
    release_server.folder = tmp_path / "newer"
    release_server.folder.mkdir()
    for name in FILES["PEG"]:
        (release_server.folder / name).write_bytes((nems0_release / name).read_bytes())
    with (release_server.folder / PEG_CSV).open("ab") as file:
        file.write(b"\n")
    return release_server.folder


def test_the_pin_holds_against_a_record_that_changed_and_the_error_says_how(
    newer: Path, folder: Path, nems0_release: Path
) -> None:
    (folder / PEG_CSV).unlink()
    with pytest.raises(nat4xr.DownloadError) as caught:
        fetch("PEG")
    old, new = ((path / PEG_CSV).read_bytes() for path in (nems0_release, newer))
    for part in (
        rf"{PEG_CSV}: {len(old)} bytes, md5 {hashlib.md5(old).hexdigest()}",
        rf"now {len(new)} bytes, md5 {hashlib.md5(new).hexdigest()}",
        r"wav\.zip: .* bytes, md5 \w+, now not listed",
        rf"\n    rm '{re.escape(str(folder))}/registry\.json' && nat4xr fetch PEG$",
    ):
        assert re.search(part, str(caught.value))
    assert PEG_TGZ not in str(caught.value)
    assert not (folder / PEG_CSV).exists()
    assert pinned(folder)[PEG_CSV].size == len(old)


def test_the_command_of_that_error_accepts_the_newer_release(
    newer: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / PEG_CSV).unlink()
    with pytest.raises(nat4xr.DownloadError) as caught:
        fetch("PEG")
    command = str(caught.value).splitlines()[-1]
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert (folder / PEG_CSV).read_bytes() == (newer / PEG_CSV).read_bytes()


@pytest.mark.parametrize("answer", [status(404), status(410)], ids=["404", "410"])
def test_a_file_that_the_record_no_longer_lists_is_named(
    answer: Answer, newer: Path, folder: Path, release_server: ReleaseServer
) -> None:
    (newer / PEG_ZIP).unlink()
    (folder / PEG_ZIP).unlink()
    release_server.instead[PEG_ZIP] = [answer]
    with pytest.raises(nat4xr.DownloadError, match=rf"(?s){PEG_ZIP}: .*now not listed.*&& nat4xr"):
        fetch("PEG")


@pytest.mark.parametrize("damage", [b"", b'{"files": [', b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_pin_that_cannot_be_read_is_asked_for_again(
    damage: bytes, release_server: ReleaseServer, folder: Path
) -> None:
    fetch("wav")
    (folder / "registry.json").write_bytes(damage)
    release_server.log.clear()
    fetch("wav")
    assert names(release_server) == ["record"]


def test_a_pin_made_of_part_of_the_release_is_completed(
    release_server: ReleaseServer, folder: Path, nems0_release: Path, tmp_path: Path
) -> None:
    (tmp_path / "wav.zip").write_bytes((nems0_release / "wav.zip").read_bytes())
    release_server.folder = tmp_path
    fetch("wav")
    release_server.folder = nems0_release
    fetch("PEG")
    assert_whole("PEG", folder, nems0_release)


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"not JSON", "not the JSON of a Zenodo record"),
        (b'{"status": 404}', "not the JSON of a Zenodo record"),
        (b'{"files": {"key": "wav.zip"}}', "not the JSON of a Zenodo record"),
        (b'{"files": []}', "lists no wav.zip"),
        (b'{"files": [{"key": "wav.zip"}]}', "no size and md5 of wav.zip"),
        (
            b'{"files": [{"key": "wav.zip", "size": 9, "checksum": "sha1:00"}]}',
            "no size and md5 of wav.zip",
        ),
        *(
            (
                b'{"files": [{"key": "wav.zip", "size": %s, "checksum": "md5:%s"}]}'
                % (size, b"0" * 32),
                "no size and md5 of wav.zip",
            )
            for size in (b"1.5", b"1e999", b"null")
        ),
    ],
)
def test_a_record_of_another_shape_is_a_download_error_and_is_not_pinned(
    record: bytes, message: str, release_server: ReleaseServer, folder: Path
) -> None:
    release_server.instead["record"] = [content(record)] * 9
    with pytest.raises(nat4xr.DownloadError, match=message):
        fetch("wav")
    assert not (folder / "registry.json").exists()


@pytest.mark.reliability
def test_names_in_the_record_are_never_used_as_paths(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    record = json.loads(release_server.record_json())
    for key in ("../evil", "/tmp/evil", "registry.json"):
        record["files"].append({"key": key, "size": 4, "checksum": "md5:" + "0" * 32})
    release_server.instead["record"] = [content(json.dumps(record).encode())]
    fetch("PEG")
    assert names(release_server) == ["record", *FILES["PEG"]]
    assert listing(folder.parent) == {folder.name}
    assert_whole("PEG", folder, nems0_release)


# --- how bodies are sent --------------------------------------------------------------------------


def in_chunks(size: int, **headers: str) -> Answer:
    """Send the body in chunks of HTTP/1.1, with any encoding that the headers name."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        encoding = headers.get("Content_Encoding")
        body = {None: bytes, "gzip": gzip.compress, "deflate": zlib.compress}[encoding](body)
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.wfile.write(b"0\r\n\r\n")
        request.close_connection = True

    return answer


def until_it_closes(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(body_of(request))
    request.close_connection = True


def called_gzip_as_it_is_one(request: BaseHTTPRequestHandler) -> None:
    """As Apache sends a .tgz: not encoded again, though it says so."""
    body = body_of(request)
    request.send_response(200)
    request.send_header("Content-Encoding", "x-gzip")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def called_gzip_without_a_length(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Encoding", "gzip")
    request.end_headers()
    request.wfile.write(body_of(request))
    request.close_connection = True


@pytest.mark.parametrize(
    "answer",
    [
        in_chunks(7),
        in_chunks(100_000),
        in_chunks(7, Content_Encoding="gzip"),
        in_chunks(7, Content_Encoding="deflate"),
        until_it_closes,
    ],
    ids=["small chunks", "a large chunk", "gzip", "deflate", "until the connection closes"],
)
def test_a_body_may_be_sent_in_any_way(
    answer: Answer, release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    for name in ("record", *FILES["PEG"]):
        release_server.instead[name] = [answer]
    fetch("PEG")
    assert names(release_server) == ["record", *FILES["PEG"]]
    assert_whole("PEG", folder, nems0_release)


def test_a_tgz_that_is_called_gzip_encoded_is_kept_as_it_is(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    release_server.instead[PEG_TGZ] = [called_gzip_as_it_is_one]
    fetch("PEG")
    assert names(release_server) == ["record", *FILES["PEG"]]
    assert_whole("PEG", folder, nems0_release)


@pytest.mark.parametrize("name", ["record", PEG_TGZ, "PEG_single_sites.zip"])
def test_a_body_that_is_called_gzip_encoded_and_has_no_length_is_kept_as_it_is(
    name: str, release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    release_server.instead[name] = 4 * [called_gzip_without_a_length]
    fetch("PEG")
    assert names(release_server).count(name) == 2
    assert_whole("PEG", folder, nems0_release)


# --- a network that fails for a while -----------------------------------------------------------


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["record", "wav.zip"])
@pytest.mark.parametrize(
    "fault",
    [*map(status, (408, 429, 500, 502, 503, 504, 520, 522, 524)), cut],
    ids=["408", "429", "500", "502", "503", "504", "520", "522", "524", "cut"],
)
def test_a_passing_fault_is_overcome(
    fault: Answer, name: str, release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    release_server.instead[name] = [fault, fault]
    fetch("wav")
    assert names(release_server).count(name) == 3
    assert_whole("wav", folder, nems0_release)


@pytest.mark.reliability
@pytest.mark.parametrize("fault", [shortened, lengthened, garbled])
def test_a_file_that_came_wrong_is_fetched_again(
    fault: Answer, release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    release_server.instead["wav.zip"] = [fault]
    fetch("wav")
    assert_whole("wav", folder, nems0_release)


def test_a_connection_dropped_before_the_answer_is_tried_again(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    release_server.instead["record"] = [lambda request: None]
    fetch("wav")
    assert names(release_server) == ["record", "record", "wav.zip"]
    assert_whole("wav", folder, nems0_release)


@pytest.mark.reliability
def test_retry_after_is_honoured(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    asked = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(time.monotonic())
        (status(429, Retry_After="1") if len(asked) == 1 else content(body_of(request)))(request)

    release_server.instead["wav.zip"] = [answer, answer]
    fetch("wav")
    assert asked[1] - asked[0] >= 1
    assert_whole("wav", folder, nems0_release)


@pytest.mark.reliability
def test_retry_after_is_bounded(
    release_server: ReleaseServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RETRY_AFTER_MAX", 0.01)
    release_server.instead["wav.zip"] = [status(429, Retry_After="36000")]
    fetch("wav")
    assert names(release_server) == ["record", "wav.zip", "wav.zip"]


@pytest.mark.reliability
@pytest.mark.parametrize("asked", ["1.5", "soon", "-1", ""])
def test_retry_after_that_is_no_time_is_ignored(
    asked: str,
    release_server: ReleaseServer,
    folder: Path,
    nems0_release: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "RETRY_AFTER_MAX", 0.05)  # some are more than any machine waits
    release_server.instead["wav.zip"] = [status(429, Retry_After=asked)]
    fetch("wav")
    assert names(release_server) == ["record", "wav.zip", "wav.zip"]
    assert_whole("wav", folder, nems0_release)


@pytest.mark.reliability
def test_retry_after_may_be_a_date(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    asked = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(time.time())
        date = email.utils.formatdate(int(asked[0]) + 2, usegmt=True)
        again = len(asked) == 1
        (status(503, Retry_After=date) if again else content(body_of(request)))(request)

    release_server.instead["wav.zip"] = [answer, answer]
    fetch("wav")
    assert asked[1] >= int(asked[0]) + 2
    assert_whole("wav", folder, nems0_release)


@pytest.mark.reliability
def test_a_redirect_is_followed(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    elsewhere = f"{release_server.url}/api/records/8044773/files/{PEG_CSV}/content"
    release_server.instead[PEG_CSV] = [status(302, Location=elsewhere)]
    fetch("PEG")
    assert names(release_server) == ["record", *FILES["PEG"], PEG_CSV]
    assert_whole("PEG", folder, nems0_release)


@pytest.mark.reliability
def test_a_slow_server_is_waited_for(
    release_server: ReleaseServer,
    folder: Path,
    nems0_release: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In all it takes longer than the time-out, which is for silence alone.
    monkeypatch.setattr(download, "STALL_TIMEOUT", 0.6)
    release_server.instead["wav.zip"] = [slow]
    fetch("wav")
    assert names(release_server) == ["record", "wav.zip"]
    assert_whole("wav", folder, nems0_release)


@pytest.mark.reliability
def test_a_stalled_connection_is_begun_again(
    release_server: ReleaseServer,
    folder: Path,
    nems0_release: Path,
    hold: Hold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "STALL_TIMEOUT", 0.5)
    release_server.instead["wav.zip"] = [hold]
    fetch("wav")
    assert hold.reached.is_set()
    assert_whole("wav", folder, nems0_release)


@pytest.mark.reliability
def test_proxies_are_honoured(
    release_server: ReleaseServer,
    folder: Path,
    nems0_release: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", release_server.url)
    monkeypatch.setenv("NAT4XR_ZENODO_URL", "http://zenodo.invalid")
    fetch("wav")
    assert [request.target for request in release_server.log] == [
        "http://zenodo.invalid/api/records/8044773",
        "http://zenodo.invalid/api/records/8044773/files/wav.zip/content",
    ]
    assert_whole("wav", folder, nems0_release)


# --- a network that fails for good --------------------------------------------------------------


def test_the_error_says_what_failed_and_what_to_try(
    release_server: ReleaseServer, folder: Path
) -> None:
    release_server.instead["wav.zip"] = [status(404)]
    with pytest.raises(OSError, match="could not be downloaded") as caught:
        fetch("wav")
    assert type(caught.value) is nat4xr.DownloadError
    for part in (
        f"{release_server.url}/api/records/8044773/files/wav.zip/content",
        "404",
        "Try again",
        "NAT4XR_ZENODO_URL",
        "wav.zip by hand from https://doi.org/10.5281/zenodo.8044773",
        str(folder),
        "nat4xr demo",
    ):
        assert part in str(caught.value)


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(500), "the server answered 500"),
        (status(429), "the server answered 429 .*minutes"),
        (cut, "the connection failed .*IncompleteRead"),
        (shortened, r"wrong length: .*\d+ bytes, .* \d+"),
        (lengthened, r"wrong length: .*more than the \d+ bytes"),
        (garbled, "MD5 hash .*expected md5:[0-9a-f]{32} but got [0-9a-f]{32}"),
        (status(302, Location="content"), "redirected more than 5 times"),
    ],
    ids=["500", "429", "cut", "shortened", "lengthened", "garbled", "redirect-loop"],
)
def test_a_lasting_fault_is_a_download_error_after_some_attempts(
    fault: Answer, message: str, release_server: ReleaseServer, folder: Path
) -> None:
    release_server.instead["wav.zip"] = [fault] * 99
    with pytest.raises(nat4xr.DownloadError, match=message):
        fetch("wav")
    assert 4 <= names(release_server).count("wav.zip") <= 6
    assert listing(folder) == {"registry.json", ".nat4xr-download.lock"}


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["record", "wav.zip"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(403), "the server answered 403 .*refuses this client"),
        (status(403, Retry_After="1"), "the server answered 403 .*refuses this client"),
        (status(404), "the server answered 404 .*NAT4XR_ZENODO_URL"),
        (status(204), "the server answered 204"),
        (content(b"<html>Log in</html>", "text/html; charset=utf-8"), "an HTML page"),
    ],
    ids=["403", "403 later", "404", "204", "html"],
)
def test_what_no_retry_will_mend_is_asked_for_once(
    fault: Answer, message: str, name: str, release_server: ReleaseServer, folder: Path
) -> None:
    release_server.instead[name] = [fault] * 99
    with pytest.raises(nat4xr.DownloadError, match=message):
        fetch("wav")
    assert names(release_server).count(name) == 1


def test_a_server_that_stalls_each_time_is_given_up(
    release_server: ReleaseServer, folder: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL_TIMEOUT", 0.3)
    monkeypatch.setattr(download, "RETRIES", 1)
    release_server.instead["wav.zip"] = [hold] * 99
    with pytest.raises(nat4xr.DownloadError, match=r"0\.3 s"):
        fetch("wav")
    assert names(release_server).count("wav.zip") == 2


@pytest.mark.parametrize("name", ["record", "wav.zip"])
def test_a_server_that_sends_byte_after_byte_is_given_up(
    name: str, release_server: ReleaseServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        send(request, b"", len(body))
        with contextlib.suppress(OSError):
            for i in range(1000):
                request.wfile.write(body[i : i + 1])
                request.wfile.flush()
                time.sleep(0.01)

    monkeypatch.setattr(download, "PATIENCE", 0.2)
    monkeypatch.setattr(download, "MIN_SPEED", 1e9)
    release_server.instead[name] = [drip]
    with pytest.raises(nat4xr.DownloadError, match=r"too slow: .*\d+ bytes"):
        fetch("wav")
    assert names(release_server).count(name) == 1
    assert not (folder / "wav.zip").exists()


def test_no_server_at_all_is_a_download_error(
    folder: Path, release_server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_server.shutdown()
    release_server.server_close()
    with pytest.raises(nat4xr.DownloadError, match="Connection refused"):
        fetch("wav")


@pytest.mark.reliability
def test_tls_that_is_refused_is_a_download_error(
    release_server: ReleaseServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAT4XR_ZENODO_URL", release_server.url.replace("http:", "https:"))
    with pytest.raises(nat4xr.DownloadError, match="the TLS connection failed"):
        fetch("wav")


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("127.0.0.1:9", "Connection refused"),
        ("[::1", "not a valid host|Invalid|Failed to parse"),
        ("127.0.0.1:99999", "99999"),
    ],
)
def test_a_password_in_the_address_of_a_mirror_is_not_shown(
    host: str,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NAT4XR_ZENODO_URL", f"http://user:s%40cret@{host}/zenodo")
    with pytest.raises(nat4xr.DownloadError, match=message) as caught:
        fetch("wav")
    said = "".join(traceback.format_exception(caught.value)) + capsys.readouterr().err
    assert "cret" not in said
    assert "user" not in said
    assert f"http://{host}/zenodo/api/records/8044773" in said


def test_a_password_in_the_address_of_a_mirror_is_used(
    release_server: ReleaseServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        sent.append(request.headers["Authorization"])
        content(body_of(request))(request)

    url = release_server.url.replace("http://", "http://user:s%40cret@")
    monkeypatch.setenv("NAT4XR_ZENODO_URL", url)
    release_server.instead["wav.zip"] = [answer]
    fetch("wav")
    assert sent == ["Basic " + base64.b64encode(b"user:s@cret").decode()]


@pytest.fixture
def tls_server(release_server: ReleaseServer, monkeypatch: pytest.MonkeyPatch) -> ReleaseServer:
    """The server over TLS, with a certificate that nobody signed; logs connections, too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    accept = release_server.get_request
    release_server.connections = 0

    def counted() -> tuple[Any, Any]:
        release_server.connections += 1
        connection, address = accept()
        return context.wrap_socket(connection, True, do_handshake_on_connect=False), address

    monkeypatch.setattr(release_server, "get_request", counted)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # as some networks have them
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "STALL_TIMEOUT", 2)
    release_server.url = release_server.url.replace("http:", "https:")
    monkeypatch.setenv("NAT4XR_ZENODO_URL", release_server.url)
    return release_server


@pytest.mark.reliability
def test_a_certificate_that_nobody_signed_is_refused_and_not_asked_again(
    tls_server: ReleaseServer, folder: Path
) -> None:
    with pytest.raises(nat4xr.DownloadError, match=r"TLS .*self.signed.*REQUESTS_CA_BUNDLE"):
        fetch("wav")
    assert tls_server.connections == 1
    assert tls_server.log == []


def test_a_certificate_that_is_trusted_is_taken(
    tls_server: ReleaseServer, folder: Path, nems0_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    fetch("wav")
    assert_whole("wav", folder, nems0_release)


@pytest.mark.reliability
def test_a_redirect_away_from_tls_is_refused(
    tls_server: ReleaseServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    with ReleaseServer(tls_server.folder) as plain:
        tls_server.instead["record"] = [status(302, Location=plain.url + plain.record)]
        with pytest.raises(nat4xr.DownloadError, match="redirected from https to an address with"):
            fetch("wav")
        assert plain.log == []
    assert names(tls_server) == ["record"]


@pytest.mark.reliability
@pytest.mark.parametrize("part_of_tls", [False, True])
def test_a_server_that_takes_connections_and_says_nothing_is_given_up(
    part_of_tls: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RETRIES", 1)
    monkeypatch.setattr(download, "STALL_TIMEOUT", 0.2)
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        scheme = "https" if part_of_tls else "http"
        monkeypatch.setenv("NAT4XR_ZENODO_URL", f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(nat4xr.DownloadError, match=r"0\.2 s|timed out"):
            fetch("wav")


@pytest.mark.reliability
def test_a_server_that_takes_no_connection_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RETRIES", 1)
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 0.2)
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # whom it does not take; what comes next is not answered at all
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        monkeypatch.setenv("NAT4XR_ZENODO_URL", f"http://127.0.0.1:{full.getsockname()[1]}")
        with pytest.raises(nat4xr.DownloadError, match=r"no connection within 0\.2 s"):
            fetch("wav")


def test_a_proxy_that_is_not_there_is_a_download_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NAT4XR_ZENODO_URL", "http://zenodo.invalid")
    with pytest.raises(nat4xr.DownloadError, match=r"the proxy failed .*Connection refused"):
        fetch("wav")


def test_a_mirror_that_is_no_url_is_a_download_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAT4XR_ZENODO_URL", "zenodo")
    with pytest.raises(nat4xr.DownloadError, match="Invalid URL 'zenodo/api/records/8044773'"):
        fetch("wav")


# --- a machine that fails -----------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_state_and_no_debris(
    release_server: ReleaseServer, folder: Path
) -> None:
    resource = pytest.importorskip("resource")
    fetch("wav")
    (folder / "wav.zip").write_bytes(b"old")
    before = listing(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow beyond
    try:
        with (
            pytest.warns(UserWarning, match="has 3 bytes"),
            pytest.raises(
                nat4xr.DownloadError,
                match=r"wav\.zip could not be written .*bytes of space are free",
            ),
        ):
            fetch("wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "wav.zip").read_bytes() == b"old"
    assert listing(folder) == before


def start_fetch(part: str, folder: Path) -> subprocess.Popen[str]:
    """A process that is about to fetch, and does so once it is sent a line."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, part, str(folder)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("name", ["record", *FILES["PEG"]])
def test_a_killed_fetch_leaves_nothing_that_is_taken_for_data(
    name: str, release_server: ReleaseServer, folder: Path, nems0_release: Path, hold: Hold
) -> None:
    release_server.instead[name] = [hold]
    with start_fetch("PEG", folder) as process:
        process.stdin.write("\n")
        process.stdin.flush()
        assert hold.reached.wait(30)
        process.kill()
    assert list(folder.glob(".*.part"))
    for file in folder.glob("PEG_*"):
        assert file.read_bytes() == (nems0_release / file.name).read_bytes()
    fetch("PEG")
    assert_whole("PEG", folder, nems0_release)


def test_processes_that_fetch_at_once_fetch_each_file_once(
    release_server: ReleaseServer, folder: Path, nems0_release: Path
) -> None:
    release_server.instead["record"] = [slow]
    release_server.instead[PEG_TGZ] = [slow]
    processes = [start_fetch("PEG", folder) for _ in range(2)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
    assert names(release_server) == ["record", *FILES["PEG"]]
    assert_whole("PEG", folder, nems0_release)
