"""No exception of the Docker SDK gets past the adapter's edge unjudged.

REVIEWED is the judgement on every class; one that a new release adds fails `test_all_are_reviewed`
until somebody has looked at it.
"""

from __future__ import annotations

import http.client
import inspect
import json
from collections.abc import Iterator
from typing import Any

import docker.errors
import pytest
import requests
import requests.exceptions
import urllib3.exceptions

from tintype.adapters.docker_errors import FOREIGN, translate, translated
from tintype.core.errors import (
    Internal,
    NotFound,
    Refused,
    TintypeError,
    Unavailable,
    WrongState,
)

REVIEWED: dict[str, type[TintypeError]] = {
    "docker.errors.APIError": Unavailable,  # without a status; see BY_STATUS
    "docker.errors.BuildError": Refused,
    "docker.errors.ContainerError": Refused,
    "docker.errors.ContextAlreadyExists": Refused,
    "docker.errors.ContextException": Refused,
    "docker.errors.ContextNotFound": Refused,
    "docker.errors.DeprecatedMethod": Internal,
    "docker.errors.DockerException": Unavailable,
    "docker.errors.ImageLoadError": Refused,
    "docker.errors.ImageNotFound": NotFound,
    "docker.errors.InvalidArgument": Internal,
    "docker.errors.InvalidConfigFile": Refused,
    "docker.errors.InvalidRepository": Internal,
    "docker.errors.InvalidVersion": Refused,
    "docker.errors.MissingContextParameter": Refused,
    "docker.errors.NotFound": NotFound,
    "docker.errors.NullResource": Internal,
    "docker.errors.StreamParseError": Unavailable,
    "docker.errors.TLSParameterError": Refused,
    "requests.exceptions.ChunkedEncodingError": Unavailable,
    "requests.exceptions.ConnectTimeout": Unavailable,
    "requests.exceptions.ConnectionError": Unavailable,
    "requests.exceptions.ContentDecodingError": Unavailable,
    "requests.exceptions.HTTPError": Unavailable,
    "requests.exceptions.InvalidHeader": Internal,
    "requests.exceptions.InvalidJSONError": Unavailable,
    "requests.exceptions.InvalidProxyURL": Refused,
    "requests.exceptions.InvalidSchema": Refused,
    "requests.exceptions.InvalidURL": Refused,
    "requests.exceptions.JSONDecodeError": Unavailable,
    "requests.exceptions.MissingSchema": Refused,
    "requests.exceptions.ProxyError": Unavailable,
    "requests.exceptions.ReadTimeout": Unavailable,
    "requests.exceptions.RequestException": Unavailable,
    "requests.exceptions.RetryError": Unavailable,
    "requests.exceptions.SSLError": Unavailable,
    "requests.exceptions.StreamConsumedError": Internal,
    "requests.exceptions.Timeout": Unavailable,
    "requests.exceptions.TooManyRedirects": Refused,
    "requests.exceptions.URLRequired": Internal,
    "requests.exceptions.UnrewindableBodyError": Internal,
}

# What the engine says, and whether it is final: seen on Docker Engine 20.10.24.
BY_STATUS: list[tuple[int, str, type[TintypeError]]] = [
    (400, "invalid reference format", Refused),
    (403, "authorization denied by plugin", Refused),
    (404, "No such container: web", NotFound),
    (404, "no such image: web:1", NotFound),
    (408, "", Unavailable),
    (409, "Container 2bfb2c84 is not running", WrongState),
    (429, "slow down", Unavailable),
    (500, "write /data/tmp: no space left on device", Unavailable),
    (500, "max depth exceeded", Refused),
    (503, "", Unavailable),
]


def classes() -> Iterator[type[Exception]]:
    """Every exception of the two modules, and every subclass of one of them wherever it is."""
    waiting: list[type] = [
        value
        for module in (docker.errors, requests.exceptions)
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    seen = set[type]()
    while waiting:
        each = waiting.pop()
        # Of our own tests' subclasses and of warnings, which nobody raises, nothing is to be said.
        foreign = each.__module__.startswith(("docker.", "requests."))
        if each not in seen and foreign and issubclass(each, Exception):
            seen.add(each)
            waiting += each.__subclasses__()
            if not issubclass(each, Warning):
                yield each


def qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


EVERY = sorted(classes(), key=qualified)


def instance(kind: type[Exception]) -> Exception:
    """Make one with a text for each argument that it insists on."""
    if issubclass(kind, json.JSONDecodeError):
        return kind("text", "document", 0)
    wanted: list[Any] = [
        "text"
        for each in list(inspect.signature(kind.__init__).parameters.values())[1:]
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    error = kind(*wanted or ["text"])
    if isinstance(error, docker.errors.NotFound):
        error.response = answer(404)
    return error


def answer(status: int, text: str = "") -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response._content = json.dumps({"message": text}).encode()
    return response


def test_all_are_reviewed() -> None:
    assert {qualified(kind) for kind in EVERY} == set(REVIEWED)


@pytest.mark.parametrize("kind", EVERY, ids=qualified)
def test_judged_as_reviewed(kind: type[Exception]) -> None:
    error = instance(kind)

    assert isinstance(error, FOREIGN)
    assert type(translate(error)) is REVIEWED[qualified(kind)]


@pytest.mark.parametrize(("status", "text", "expected"), BY_STATUS)
def test_an_answer_is_judged_by_its_status(
    status: int, text: str, expected: type[TintypeError]
) -> None:
    with pytest.raises(docker.errors.APIError) as raised:
        docker.errors.create_api_error_from_http_exception(
            requests.HTTPError("text", response=answer(status, text))
        )

    error = translate(raised.value)

    assert type(error) is expected
    assert text in str(error)


def test_a_conflict_is_what_the_caller_says() -> None:
    error = docker.errors.APIError("text", answer(409), "image is in use")

    assert type(translate(error, Unavailable)) is Unavailable


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory"),
        PermissionError(13, "Permission denied"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b""),
        urllib3.exceptions.ProtocolError("Connection broken"),
        urllib3.exceptions.HTTPError("text"),
    ],
    ids=repr,
)
def test_a_broken_connection_is_unavailable(error: Exception) -> None:
    assert type(translate(error)) is Unavailable


def test_what_the_sdk_wraps_is_looked_at() -> None:
    wrapped = docker.errors.DockerException("Error while fetching server API version")
    wrapped.__cause__ = docker.errors.APIError("text", answer(403), "denied by plugin")

    assert type(translate(wrapped)) is Refused


def test_a_stranger_is_our_defect() -> None:
    assert type(translate(ZeroDivisionError("division by zero"))) is Internal


def test_only_foreign_errors_are_translated() -> None:
    with pytest.raises(ZeroDivisionError), translated():
        _ = 1 // 0
    with pytest.raises(Unavailable) as raised, translated():
        raise ConnectionRefusedError
    assert isinstance(raised.value.__cause__, ConnectionRefusedError)
