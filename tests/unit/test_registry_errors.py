"""What a registry answers, and what goes wrong on the way, means something on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import requests
import urllib3.exceptions

from tests.support.fake_registry import FakeRegistry, running
from tintype.adapters.registry_api import RegistryApi
from tintype.adapters.registry_errors import FOREIGN, translate, translated
from tintype.core.errors import (
    Internal,
    NotFound,
    Refused,
    TintypeError,
    TooLarge,
    Unavailable,
)

REVIEWED: dict[type[TintypeError], str] = {
    Refused: "InvalidURL InvalidSchema MissingSchema InvalidProxyURL",
    Internal: "InvalidJSONError JSONDecodeError StreamConsumedError",
    Unavailable: """RequestException HTTPError ConnectionError ProxyError SSLError Timeout
        ConnectTimeout ReadTimeout URLRequired TooManyRedirects ChunkedEncodingError
        ContentDecodingError InvalidHeader RetryError UnrewindableBodyError""",
}
"""What becomes of each of requests' exceptions; written by going through them one by one."""


def descendants(kind: type[Exception]) -> Iterator[type[Exception]]:
    """Yield a class and all below it that are of the same library."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.startswith(("requests", "urllib3")):
            yield from descendants(child)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry in this process."""
    with running() as registry:
        yield registry


@pytest.mark.parametrize(
    "kind", sorted(set(descendants(requests.RequestException)), key=lambda kind: kind.__name__)
)
def test_every_exception_of_requests_was_thought_about(kind: type[Exception]) -> None:
    (expected,) = [ours for ours, names in REVIEWED.items() if kind.__name__ in names.split()]
    error = translate(kind.__new__(kind), "r")
    assert type(error) is expected
    assert str(error).startswith("registry r: ")


@pytest.mark.parametrize(
    "kind", sorted(set(descendants(urllib3.exceptions.HTTPError)), key=lambda kind: kind.__name__)
)
def test_what_requests_lets_through_may_be_tried_again(kind: type[Exception]) -> None:
    assert type(translate(kind.__new__(kind), "r")) is Unavailable


def test_no_url_gets_into_a_message() -> None:
    secret = requests.ConnectionError("https://storage/blob?signature=my-secret")
    with pytest.raises(Unavailable) as raised, translated("r"):
        raise secret
    assert "my-secret" not in str(raised.value)
    assert raised.value.__cause__ is secret


def test_what_is_no_foreign_error_passes() -> None:
    with pytest.raises(ValueError, match="own"), translated("r"):
        raise ValueError("own")
    assert not issubclass(ValueError, FOREIGN)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, Refused, "not expected"),
        (401, Refused, "credentials"),
        (403, Refused, "does not let Tintype"),
        (404, NotFound, "knows no such"),
        (405, Refused, "does not support"),
        (408, Unavailable, "waited too long"),
        (413, TooLarge, "as large as that"),
        (416, Unavailable, "lost a part"),
        (429, Unavailable, "is busy"),
        (500, Unavailable, "not expected"),
        (503, Unavailable, "not expected"),
        (507, Unavailable, "not expected"),
        (201, Refused, "not expected"),
    ],
)
def test_a_status_says_who_must_act(
    registry: FakeRegistry, status: int, kind: type[TintypeError], words: str
) -> None:
    registry.answers["GET /v2/x"] = lambda call: call.error(
        status, "CODE", "its own\nwords", WWW_Authenticate='Basic realm="r"', Retry_After="17"
    )
    access = replace(registry.access, username="me", password="secret")
    with closing(RegistryApi(registry.domain, access)) as api, pytest.raises(kind) as raised:
        api.call("GET", "/v2/x", scope="", wanted="reading x", good={200})
    assert type(raised.value) is kind
    text = str(raised.value)
    assert text.startswith(f"reading x: registry {registry.domain} ")
    assert words in text
    assert text.endswith("CODE: its own?words")
    assert ("try again after 17 s" in text) == (kind is Unavailable)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"errors": [1]}', b"\xff", b"[" * 9999]
)
def test_an_error_in_no_known_form_has_no_more_words(registry: FakeRegistry, body: bytes) -> None:
    registry.answers["GET /v2/x"] = lambda call: call.answer(502, body)
    with (
        closing(RegistryApi(registry.domain, registry.access)) as api,
        pytest.raises(Unavailable, match=r"\(HTTP 502\)$"),
    ):
        api.call("GET", "/v2/x", scope="", wanted="reading x", good={200})
