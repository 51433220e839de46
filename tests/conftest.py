"""Shared fixtures: the releases that tests read, and a Zenodo that serves them."""

import hashlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from hypothesis import settings

DATA = Path(__file__).parent / "data"

# The same examples in each run, however slow the machine; but others each night.
settings.register_profile("nat4xr", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "nat4xr"))


def skip_but_in_ci(reason: str) -> None:
    """Skip a test that only root can do; where tests must be complete, and we are root, fail."""
    if os.environ.get("CI") == "true" and hasattr(os, "geteuid") and os.geteuid() == 0:
        pytest.fail(f"not tested: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def nems0_release() -> Path:
    """A small release written by NEMS0 itself, with its own reading in ``reference.npz``."""
    return DATA / "release"


class Request(NamedTuple):
    name: str  # of the file, or "record"
    target: str  # as it stands in the request line
    user_agent: str


class ReleaseServer(ThreadingHTTPServer):
    """Serves a folder on loopback as Zenodo serves the record, and keeps a log of the requests.

    `instead[name]` lists answers that are given once each before the name is served as it should
    be: functions of the request handler.
    """

    daemon_threads = True
    record = "/api/records/8044773"

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _ReleaseHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.folder = folder
        self.log: list[Request] = []
        self.instead: dict[str, list[Callable[[BaseHTTPRequestHandler], None]]] = defaultdict(list)

    def record_json(self) -> bytes:
        files = [
            {
                "key": file.name,
                "size": file.stat().st_size,
                "checksum": f"md5:{hashlib.md5(file.read_bytes()).hexdigest()}",
            }
            for file in sorted(self.folder.iterdir())
            if file.is_file()
        ]
        return json.dumps({"id": 8044773, "files": files}).encode()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that go away: some are killed on purpose."""


class _ReleaseHandler(BaseHTTPRequestHandler):
    server: ReleaseServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        name = "record" if path == self.server.record else path.split("/")[-2]
        self.server.log.append(Request(name, self.path, self.headers["User-Agent"]))
        if self.server.instead[name]:
            self.server.instead[name].pop(0)(self)
        elif name == "record":
            self.answer(self.server.record_json(), "application/json")
        elif path == f"{self.server.record}/files/{name}/content":
            self.answer((self.server.folder / name).read_bytes())
        else:
            self.send_error(404)

    def answer(self, body: bytes, content_type: str = "application/octet-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def release_server(nems0_release: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    """A Zenodo on loopback that nat4xr fetches from; it serves the NEMS0 release."""
    with ReleaseServer(nems0_release) as server:
        monkeypatch.setenv("NAT4XR_ZENODO_URL", server.url)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
