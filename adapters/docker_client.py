"""The Docker SDK's client, made when it is first needed, and the streaming that it lacks."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import docker
import docker.errors
import requests

from tintype.adapters.docker_errors import translated
from tintype.adapters.send_once import SendOnce, SourceFailed
from tintype.core.errors import Unavailable

_log = logging.getLogger(__name__)

READ_SIZE = 1 << 20
"""Bytes asked of the engine at once while an image streams; small reads cost CPU."""


class _Client(docker.APIClient):
    """The SDK's client with a time limit of its own for connecting."""

    def __init__(self, base_url: str | None, connect_timeout: int, call_timeout: int) -> None:
        self._connect_timeout = connect_timeout  # first: the base class connects
        super().__init__(base_url, timeout=call_timeout)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request; the time given by the SDK or by us is for each wait for an answer."""
        options["timeout"] = (self._connect_timeout, options.get("timeout") or self.timeout)
        return super().send(request, **options)


class LazyClient:
    """A client for several threads that reaches for the engine at its first use.

    The SDK's constructor asks the engine for its API version, so a service whose engine is away
    could otherwise not start.
    """

    def __init__(self, base_url: str | None, connect_timeout: int, call_timeout: int) -> None:
        """Remember how to connect; times in seconds."""
        self._settings = (base_url, connect_timeout, call_timeout)
        self._lock = threading.Lock()
        self._client: _Client | None = None

    def get(self) -> docker.APIClient:
        """Return the client, connecting if need be. Raises what the SDK raises."""
        with self._lock:
            if self._client is None:
                self._client = _Client(*self._settings)
            return self._client

    def close(self) -> None:
        """Release connections; the next use makes new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


@contextmanager
def open_stream(
    lazy_client: LazyClient,
    path: str,
    timeout: float,
    params: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    **body: Any,
) -> Iterator[requests.Response]:
    """Ask for what streams; leaving the context closes the connection.

    `body` is what `requests` takes as one: `json`, or `data` with its `headers`.

    `timeout` seconds without a byte, before or in the stream, end it with Unavailable, as long as
    its reads are translated. The SDK's own streaming calls switch the socket's timeout off once the
    answer has begun.
    """
    with translated():
        client = lazy_client.get()
        url = f"{client.base_url}/v{client.api_version}{path}"
        response = client.request(method, url, params=params, stream=True, timeout=timeout, **body)
    try:
        with translated():
            _raise_for_status(response)
        yield response
    finally:
        response.close()


@contextmanager
def image_stream(
    lazy_client: LazyClient, reference: str, timeout: float
) -> Iterator[Iterator[bytes]]:
    """Stream an image as `docker save` has it; see `open_stream`."""
    with open_stream(lazy_client, f"/images/{reference}/get", timeout) as response:
        yield read_chunks(response)


def untag(client: docker.APIClient, reference: str) -> None:
    """Take a name of ours off an image, and remove the image that has no other; none is fine.

    An image that a container was made from keeps its name. Raises what the SDK raises.
    """
    try:
        # noprune: an untagged image below ours is not ours.
        client.remove_image(reference, noprune=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if error.status_code != HTTPStatus.CONFLICT:
            raise
        _log.warning("the image %s stays: %s", reference, error.explanation)


def send(
    lazy_client: LazyClient, path: str, params: Mapping[str, str], data: SendOnce, timeout: float
) -> list[dict[str, Any]]:
    """Send a tar while it comes; return the lines of JSON that are answered, to the last one.

    What getting `data` raises comes out as it is. `timeout` is the longest silence, seconds, on
    either side. The SDK reads such an answer to nobody. Raises Unavailable, Refused.
    """
    lines: list[bytes] = []
    with suppress(SourceFailed), translated():
        client = lazy_client.get()
        url = f"{client.base_url}/v{client.api_version}{path}"
        headers = {"Content-Type": "application/x-tar"}
        request = requests.Request("POST", url, headers, data=data, params=dict(params))
        settings = client.merge_environment_settings(url, {}, True, None, None)
        # Not by our own `send`: while it sends, urllib3 takes the time limit for connecting, which
        # is short there; the engine, whose disk may be slow, may take its time for what it has got.
        with requests.Session.send(
            client, client.prepare_request(request), timeout=timeout, **settings
        ) as response:
            _raise_for_status(response)
            lines = [line for line in response.iter_lines() if line]
    if data.failure is not None:
        raise data.failure
    return [_document(line) for line in lines]


def _document(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise Unavailable(f"container engine: an unreadable answer, {line[:80]!r}") from error
    if not isinstance(document, dict):
        raise Unavailable(f"container engine: an unreadable answer, {line[:80]!r}")
    return document


def read_chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield what is answered, in large chunks. Raises Unavailable."""
    # Only the reads are translated: what the consumer of a chunk raises is not the engine's.
    while True:
        with translated():
            chunk: bytes = response.raw.read(READ_SIZE)
        if not chunk:
            return
        yield chunk


def _raise_for_status(response: requests.Response) -> None:
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        docker.errors.create_api_error_from_http_exception(error)
