"""The Docker SDK's client, made when it is first needed, and the streaming that it lacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests

from tintype.adapters.docker_errors import translated

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
    lazy_client: LazyClient, path: str, timeout: float, params: Mapping[str, str] | None = None
) -> Iterator[requests.Response]:
    """Ask for what streams; leaving the context closes the connection.

    `timeout` seconds without a byte, before or in the stream, end it with Unavailable, as long as
    its reads are translated. The SDK's own streaming calls switch the socket's timeout off once the
    answer has begun.
    """
    with translated():
        client = lazy_client.get()
        url = f"{client.base_url}/v{client.api_version}{path}"
        response = client.get(url, params=params, stream=True, timeout=timeout)
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
        yield _chunks(response)


def _chunks(response: requests.Response) -> Iterator[bytes]:
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
