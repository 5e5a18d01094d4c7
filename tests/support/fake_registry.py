"""A registry in this process, on loopback, that can be told to misbehave.

It keeps to the OCI distribution specification as far as the store makes use of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tintype.adapters.registry_access import Place, RegistryAccess

Answer = Callable[["Call"], None]


@dataclass(frozen=True)
class Seen:
    """One request that came."""

    method: str
    path: str
    authorization: str | None
    body: bytes = field(repr=False)


class Call(BaseHTTPRequestHandler):
    """One request, with the ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: FakeRegistry

    def handle_any(self) -> None:
        """Read the body, and answer as the test or the specification has it."""
        self.server.before_body(self)
        self.body = b"".join(self._body())
        self.server.seen.append(
            Seen(self.command, self.path, self.headers.get("Authorization"), self.body)
        )
        for pattern, answer in self.server.answers.items():
            if re.fullmatch(pattern, f"{self.command} {urlsplit(self.path).path}"):
                return answer(self)
        return self.as_specified()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def as_specified(self) -> None:
        """Answer as a registry does that is all right."""
        if not self.server.lets_in(self):
            return None
        path = urlsplit(self.path).path
        for pattern, method in _ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                return getattr(self, method)(*match.groups())
        return self.error(404, "NAME_UNKNOWN")

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer with a status; `_` in the names of headers stands for `-`."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str, message: str = "no", **headers: str) -> None:
        """Answer with an error in the specification's form."""
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.answer(status, body, Content_Type="application/json", **headers)

    def _root(self) -> None:
        self.answer(200, b"{}")

    def _catalog(self) -> None:
        self._list("repositories", sorted(self.server.repositories))

    def _tags(self, name: str) -> None:
        if name not in self.server.repositories:
            return self.error(404, "NAME_UNKNOWN")
        return self._list("tags", sorted(self.server.repositories[name]))

    def _list(self, key: str, names: list[str]) -> None:
        """Answer with a page, and where the next one is."""
        query = parse_qs(urlsplit(self.path).query)
        later = [name for name in names if name > query.get("last", [""])[0]]
        page = later[: self.server.page]
        headers = {"Content-Type": "application/json"}
        if len(later) > len(page):
            link = self.server.link.format(path=urlsplit(self.path).path, last=page[-1])
            headers["Link"] = f'<{link}>; rel="next"'
        self.answer(200, json.dumps({key: page}).encode(), **headers)

    def _manifest(self, name: str, reference: str) -> None:
        digest = self.server.repositories.get(name, {}).get(reference, reference)
        if (name, digest) not in self.server.manifests:
            return self.error(404, "MANIFEST_UNKNOWN")
        kind, body = self.server.manifests[name, digest]
        return self.answer(200, body, Content_Type=kind, Docker_Content_Digest=digest)

    def _put_manifest(self, name: str, reference: str) -> None:
        digest = self.server.put_manifest(name, reference, self.headers["Content-Type"], self.body)
        self.answer(201, Docker_Content_Digest=digest, Location=f"/v2/{name}/manifests/{digest}")

    def _delete_manifest(self, name: str, digest: str) -> None:
        if self.server.manifests.pop((name, digest), None) is None:
            return self.error(404, "MANIFEST_UNKNOWN")
        tags = self.server.repositories[name]
        self.server.repositories[name] = {tag: of for tag, of in tags.items() if of != digest}
        return self.answer(202)

    def _blob(self, name: str, digest: str) -> None:
        del name
        if digest not in self.server.blobs:
            return self.error(404, "BLOB_UNKNOWN")
        return self.answer(200, self.server.blobs[digest])

    def _begin(self, name: str) -> None:
        upload = f"u{len(self.server.seen)}"
        self.server.uploads[upload] = b""
        self.answer(202, Location=f"/v2/{name}/blobs/uploads/{upload}?_state=secret")

    def _append(self, name: str, upload: str) -> None:
        self.server.uploads[upload] += self.body
        self.answer(202, Location=f"/v2/{name}/blobs/uploads/{upload}?_state=secret2")

    def _finish(self, name: str, upload: str) -> None:
        data = self.server.uploads.pop(upload) + self.body
        (wanted,) = parse_qs(urlsplit(self.path).query)["digest"]
        if digest_of(data) != wanted:
            return self.error(400, "DIGEST_INVALID")
        self.server.blobs[wanted] = data
        self.server.repositories.setdefault(name, {})
        return self.answer(201, Docker_Content_Digest=wanted, Location=f"/v2/{name}/blobs/x")

    def _cancel(self, name: str, upload: str) -> None:
        del name
        self.server.uploads.pop(upload, None)
        self.answer(204)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def handle(self) -> None:
        """Serve a connection, whose client may go away at any time."""
        with contextlib.suppress(ConnectionError, ValueError):  # ValueError: a chunk cut off
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


_NAME = r"/v2/([a-z0-9/._-]+)"
_ROUTES = (
    ("GET /v2/", "_root"),
    ("GET /v2/_catalog", "_catalog"),
    (rf"GET {_NAME}/tags/list", "_tags"),
    (rf"(?:GET|HEAD) {_NAME}/manifests/(.+)", "_manifest"),
    (rf"PUT {_NAME}/manifests/(.+)", "_put_manifest"),
    (rf"DELETE {_NAME}/manifests/(.+)", "_delete_manifest"),
    (rf"POST {_NAME}/blobs/uploads/", "_begin"),
    (rf"PATCH {_NAME}/blobs/uploads/(.+)", "_append"),
    (rf"PUT {_NAME}/blobs/uploads/(.+)", "_finish"),
    (rf"DELETE {_NAME}/blobs/uploads/(.+)", "_cancel"),
    (rf"(?:GET|HEAD) {_NAME}/blobs/(sha256:.+)", "_blob"),
)


class FakeRegistry(ThreadingHTTPServer):
    """The registry: what it holds, what came, and what it is to answer instead."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port of loopback."""
        super().__init__(("127.0.0.1", 0), Call)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.repositories: dict[str, dict[str, str]] = {}
        """Repository -> tag -> digest."""
        self.uploads: dict[str, bytes] = {}
        self.page = 1000
        self.link = "{path}?n=2&last={last}"
        """Where it says that a list goes on."""
        self.seen: list[Seen] = []
        self.answers: dict[str, Answer] = {}
        """Pattern of `METHOD /path` -> what is answered instead of what is right."""
        self.before_body: Callable[[Call], None] = lambda call: None
        """What is done when a request's headers have come."""
        self.lets_in: Callable[[Call], bool] = lambda call: True
        """Whether a request may be served; else this has answered it."""

    @property
    def domain(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"

    @property
    def access(self) -> RegistryAccess:
        """The operator's word for it."""
        return RegistryAccess(
            home=Place(self.domain, "snaps"), docker_config="/nowhere", read_seconds=30
        )

    def put_manifest(self, name: str, reference: str, kind: str, body: bytes) -> str:
        """Store a manifest and return its digest."""
        digest = digest_of(body)
        self.manifests[name, digest] = kind, body
        tags = self.repositories.setdefault(name, {})
        if reference != digest:
            tags[reference] = digest
        return digest

    def put_blob(self, data: bytes) -> str:
        """Store a blob and return its digest."""
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def calls(self, pattern: str) -> list[Seen]:
        """Return the requests whose `METHOD /path` fits the pattern."""
        return [one for one in self.seen if re.fullmatch(pattern, f"{one.method} {one.path}")]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


@contextmanager
def running() -> Iterator[FakeRegistry]:
    """Run a registry for a while."""
    registry = FakeRegistry()
    thread = threading.Thread(target=registry.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        registry.shutdown()
        registry.server_close()
        thread.join()


def digest_of(data: bytes) -> str:
    """Return a blob's digest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
