"""What a registry answers and what goes wrong on the way to it, in Tintype's words.

Messages are written here. No URL stands in them: addresses of uploads and of redirected downloads
hold secrets. Of foreign texts only the registry's own is passed on, cut short.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import requests.exceptions
import urllib3.exceptions

from tintype.core.errors import Internal, NotFound, Refused, TintypeError, TooLarge, Unavailable

FOREIGN = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
"""What an `except` must name to catch all that a call may raise; a RequestException is an OSError.
"""

_DETAIL_CHARS = 300
_DETAIL_BYTES = 64 * 1024
_RULES: tuple[tuple[type[Exception], type[TintypeError], str], ...] = (
    (requests.exceptions.SSLError, Unavailable, "no trusted TLS connection: see [registry] cafile"),
    (requests.exceptions.ConnectTimeout, Unavailable, "it cannot be reached in time"),
    (requests.exceptions.ConnectionError, Unavailable, "it cannot be reached"),
    (requests.exceptions.Timeout, Unavailable, "it does not answer in time"),
    (requests.exceptions.ChunkedEncodingError, Unavailable, "it broke off"),
    (requests.exceptions.InvalidHeader, Unavailable, "its answer makes no sense"),
    (requests.exceptions.InvalidJSONError, Internal, "Tintype made a call that cannot be made"),
    (requests.exceptions.StreamConsumedError, Internal, "an answer was read twice"),
    (requests.exceptions.InvalidURL, Refused, "it sends its clients to no usable address"),
    (requests.exceptions.InvalidSchema, Refused, "it sends its clients to no usable address"),
    (requests.exceptions.MissingSchema, Refused, "it sends its clients to no usable address"),
    (requests.exceptions.RequestException, Unavailable, "the call failed"),
    (urllib3.exceptions.HTTPError, Unavailable, "it broke off"),
    (http.client.HTTPException, Unavailable, "it broke off"),
    (OSError, Unavailable, "it cannot be reached, or [registry] cafile cannot be read"),
)
"""Most specific first; the last three are for what requests lets through."""

_BY_STATUS: dict[int, tuple[type[TintypeError], str]] = {
    401: (Refused, "does not accept Tintype's credentials"),
    403: (Refused, "does not let Tintype do that"),
    404: (NotFound, "knows no such image or repository"),
    405: (Refused, "does not support that"),
    408: (Unavailable, "waited too long for us"),
    413: (TooLarge, "takes nothing as large as that"),
    416: (Unavailable, "has lost a part of the upload"),
    429: (Unavailable, "is busy"),
}
"""What an HTTP status of a registry means; of the others, 5xx is Unavailable, the rest Refused."""

LOST_BLOB = "BLOB_UNKNOWN"
"""In the words of a registry that has lost what a manifest names: MANIFEST_BLOB_UNKNOWN, or this.
"""

_PASSING = ("BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "MANIFEST_BLOB_UNKNOWN")
"""Codes of the distribution specification for what another upload mends, whatever the status."""


@contextmanager
def translated(domain: str) -> Iterator[None]:
    """Let foreign exceptions out of the block as Tintype's own."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error, domain) from error


def translate(error: Exception, domain: str) -> TintypeError:
    """Return the Tintype error that stands for a foreign exception."""
    for kind, ours, words in _RULES:
        if isinstance(error, kind):
            return ours(f"registry {domain}: {words} ({type(error).__name__})")
    raise TypeError(f"{type(error).__name__} is none of the classes in FOREIGN") from error


def refusal(response: requests.Response, domain: str, wanted: str) -> TintypeError:
    """Return the error for an answer other than the one that was wanted; reads its body."""
    status, detail = response.status_code, _detail(response)
    kind, words = _BY_STATUS.get(
        status, (Unavailable if status >= 500 else Refused, "gave an answer that was not expected")
    )
    if any(f"{code}:" in detail for code in _PASSING):
        kind, words = Unavailable, "has lost a part of the upload"
    text = f"{wanted}: registry {domain} {words} (HTTP {status})"
    after = response.headers.get("Retry-After", "")
    if kind is Unavailable and after:
        text += f", try again after {after[:40]}" + (" s" if after.isdigit() else "")
    return kind(f"{text}: {detail}" if detail else text)


def body_of(response: requests.Response, limit: int, domain: str) -> bytes:
    """Read an answer of at most `limit` bytes and close it. Raises Unavailable for a longer one."""
    with response, translated(domain):
        body: bytes = response.raw.read(limit + 1, decode_content=True)
    if len(body) > limit:
        raise Unavailable(f"registry {domain} gave an answer of more than {limit} bytes")
    return body


def document_of(response: requests.Response, limit: int, domain: str) -> dict[str, Any]:
    """Read an answer that is a JSON object. Raises Unavailable for one that is none."""
    try:
        document = json.loads(body_of(response, limit, domain))
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"registry {domain} gave an answer that is not JSON") from error
    if not isinstance(document, dict):
        raise Unavailable(f"registry {domain} gave an answer that is no JSON object")
    return document


def _detail(response: requests.Response) -> str:
    """Return the registry's own words: `errors` of the distribution API, where there are some."""
    try:
        with response:
            body = response.raw.read(_DETAIL_BYTES, decode_content=True)
        errors = json.loads(body)["errors"]
        words = [f"{one.get('code')}: {one.get('message')}" for one in errors]
    except (*FOREIGN, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    text = "; ".join(words)[:_DETAIL_CHARS]
    return "".join(character if character.isprintable() else "?" for character in text)
