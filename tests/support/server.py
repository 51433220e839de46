"""A Zenodo on loopback."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit


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
