"""The Docker SDK's exceptions in Tintype's words.

Foreign exceptions come from five layers: the SDK, requests, urllib3, http.client and the socket.
tests/unit/test_translate_docker.py holds the reviewed list of them and fails on a new one.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests.exceptions
import urllib3.exceptions

from tintype.core.errors import Internal, NotFound, Refused, TintypeError, Unavailable, WrongState

FOREIGN: tuple[type[Exception], ...] = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)
"""Everything that a call of the SDK may raise; what is none of these is a defect of ours."""

_RULES: tuple[tuple[type[Exception], type[TintypeError]], ...] = (
    # Nothing but a wrong call of ours can cause these.
    (docker.errors.DeprecatedMethod, Internal),
    (docker.errors.InvalidArgument, Internal),
    (docker.errors.InvalidRepository, Internal),
    (docker.errors.NullResource, Internal),
    (requests.exceptions.InvalidHeader, Internal),
    (requests.exceptions.StreamConsumedError, Internal),
    (requests.exceptions.UnrewindableBodyError, Internal),
    (requests.exceptions.URLRequired, Internal),
    # Somebody has to mend the configuration, or the image.
    (docker.errors.BuildError, Refused),
    (docker.errors.ContainerError, Refused),
    (docker.errors.ContextAlreadyExists, Refused),
    (docker.errors.ContextException, Refused),
    (docker.errors.ContextNotFound, Refused),
    (docker.errors.ImageLoadError, Refused),
    (docker.errors.InvalidConfigFile, Refused),
    (docker.errors.InvalidVersion, Refused),
    (docker.errors.MissingContextParameter, Refused),
    (docker.errors.TLSParameterError, Refused),
    (requests.exceptions.InvalidProxyURL, Refused),
    (requests.exceptions.InvalidSchema, Refused),
    (requests.exceptions.InvalidURL, Refused),
    (requests.exceptions.MissingSchema, Refused),
    (requests.exceptions.TooManyRedirects, Refused),
    # The rest is an engine that is away, slow, or broke off.
    *((kind, Unavailable) for kind in FOREIGN),
)
"""Most specific first. Answers with an HTTP status are judged by the status instead."""

_PREFIX: dict[type[Exception], str] = {
    requests.exceptions.ConnectionError: "the container engine does not answer, is it running and"
    " is its address ([engine] url, DOCKER_HOST) right?"
}
"""What says more than `container engine`."""

_FINAL = ("max depth exceeded",)
"""Words in a 500 that trying again does not change: an image has at most 125 layers."""


@contextmanager
def translated(conflict: type[TintypeError] = WrongState) -> Iterator[None]:
    """Raise what comes out of the block as one of Tintype's errors; `conflict` is for a 409."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error, conflict) from error


def translate(error: Exception, conflict: type[TintypeError] = WrongState) -> TintypeError:
    """Return Tintype's error for a foreign one; `conflict` says what a 409 means here."""
    if isinstance(error, requests.exceptions.HTTPError):  # docker.errors.APIError is one
        return _by_status(error, conflict)
    if type(error) is docker.errors.DockerException and isinstance(error.__cause__, FOREIGN):
        # The SDK wraps whatever goes wrong while it asks for the engine's API version.
        return translate(error.__cause__, conflict)
    for kind, ours in _RULES:
        if isinstance(error, kind):
            return ours(f"{_PREFIX.get(type(error), 'container engine')}: {error}")
    return Internal(f"{type(error).__name__}: {error}")


def _by_status(error: requests.exceptions.HTTPError, conflict: type[TintypeError]) -> TintypeError:
    status = error.response.status_code if error.response is not None else 500
    words = getattr(error, "explanation", None) or str(error)
    kind: type[TintypeError] = Unavailable
    if status == http.client.NOT_FOUND:
        kind = NotFound
    elif status == http.client.CONFLICT:
        kind = conflict
    elif status in (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS):
        kind = Unavailable
    elif status < http.client.INTERNAL_SERVER_ERROR or any(f in words.lower() for f in _FINAL):
        kind = Refused
    return kind(f"container engine: {words}")
