"""An HTTP server on a unix socket that says what a test wants an engine to say."""

from __future__ import annotations

import contextlib
import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Answer = Callable[["Request"], None]
VERSION = "1.41"


class Request(BaseHTTPRequestHandler):
    """One request, with the ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: FakeEngine

    def handle_any(self) -> None:
        """Read the body and leave the rest to the test's answer for this path."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        version, path = _split(self.path.partition("?")[0])
        self.server.versions.add(version)
        self.server.seen.append(f"{self.command} {path}")
        for pattern, answer in self.server.answers.items():
            if re.fullmatch(pattern, f"{self.command} {path}"):
                return answer(self)
        return self.json(404, {"message": f"nothing at {path}"})

    do_GET = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def handle(self) -> None:
        """Serve a connection, whose client may go away at any time."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def json(self, status: int, document: Any) -> None:
        """Answer with a document."""
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_chunks(self) -> None:
        """Answer 200, and a body of chunks is to come."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-tar")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        """Send one chunk; the empty one ends the body."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def stall(self) -> None:
        """Say nothing until the client has gone, or the test ends."""
        self.connection.settimeout(0.05)
        while not self.server.over.is_set():
            try:
                if not self.connection.recv(1):
                    self.server.left.set()
                    break
            except TimeoutError:
                continue
        self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        """Keep quiet."""

    def address_string(self) -> str:
        """A unix socket's client has no address."""
        return "unix"


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The server: `answers` maps patterns of "GET /path" to what is to be done."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, answers: dict[str, Answer], version: str) -> None:
        """Listen at `path`, and speak that version of the API."""
        self.answers: dict[str, Answer] = {
            "GET /version": lambda request: request.json(200, {"ApiVersion": version}),
            **answers,
        }
        self.seen: list[str] = []
        self.versions: set[str] = set()
        """Versions of the API that were asked for; empty where none is."""
        self.left = threading.Event()
        """A client has gone while it was being kept waiting."""
        self.over = threading.Event()
        self.url = f"unix://{path}"
        super().__init__(str(path), Request)


@contextmanager
def fake_engine(
    folder: Path, answers: dict[str, Answer], version: str = VERSION
) -> Iterator[FakeEngine]:
    """Run a fake engine for as long as the context lasts."""
    with FakeEngine(folder / "docker.sock", answers, version) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def _split(path: str) -> tuple[str, str]:
    """Return the version of the API in a path, and the rest."""
    match = re.match(r"/v([\d.]+)(/.*)", path)
    return (match[1], match[2]) if match else ("", path)
