"""The Docker Engine's HTTP API over its socket: enough for a ping, an image and a container."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from devstack.layout import StackError


class EngineError(StackError):
    """The engine refused a call; `status` is the HTTP status it gave."""

    def __init__(self, docker_host: str, status: int, message: str) -> None:
        """Keep the status for callers that expect some refusals."""
        super().__init__(f"engine {docker_host}: {status} {message}")
        self.status = status


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        """Remember the path; connect at the first request."""
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connect(docker_host: str, timeout: float = 60.0) -> http.client.HTTPConnection:
    """Return a connection to an engine named as in DOCKER_HOST (unix:// or plain tcp://)."""
    address = urlsplit(docker_host)
    if address.scheme == "unix":
        return UnixConnection(address.path, timeout)
    if address.scheme in ("tcp", "http") and address.hostname:
        return http.client.HTTPConnection(address.hostname, address.port or 2375, timeout=timeout)
    raise StackError(f"cannot talk to an engine at {docker_host!r}: unix:// or tcp:// wanted")


def call(
    docker_host: str,
    method: str,
    path: str,
    body: object = None,
    *,
    raw: bytes | None = None,
) -> bytes:
    """Make one call, with a JSON body or a raw tar, and return the whole answer.

    Raises EngineError with the engine's own message when it refuses, StackError when it is away.
    """
    connection = connect(docker_host)
    payload = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    kind = "application/json" if raw is None else "application/x-tar"
    try:
        connection.request(method, path, payload, {"Content-Type": kind})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise StackError(f"engine {docker_host}: {error}") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise EngineError(docker_host, response.status, _message(answer))
    return answer


def call_json(docker_host: str, method: str, path: str, body: object = None) -> Any:
    """Make one call and return the decoded answer."""
    return json.loads(call(docker_host, method, path, body))


def answers(docker_host: str) -> bool:
    """Return whether an engine answers a ping there within two seconds."""
    try:
        connection = connect(docker_host, timeout=2.0)
        connection.request("GET", "/_ping")
        status = connection.getresponse().status
        connection.close()
    except (OSError, StackError, http.client.HTTPException):
        return False
    return status == 200


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode("utf-8", "replace")
