"""What comes in: JSON bodies and query parameters, refused by name where they are wrong."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import falcon

from tintype.core.errors import Invalid
from tintype.core.reservation import KEY_LENGTH, is_idempotency_key

TRUTH = {"true": True, "1": True, "false": False, "0": False}


def json_object(request: falcon.Request, most_bytes: int) -> dict[str, Any]:
    """Return the request's body; none is an empty object. Raises Invalid and falcon's errors."""
    body = _bytes(request, most_bytes)
    if not body:
        return {}
    kind = (request.content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise falcon.HTTPUnsupportedMediaType(
            description=f"expected a body of application/json, got {kind or 'no Content-Type'}"
        )
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid.at("", "JSON", str(error)[:200]) from error
    if not isinstance(document, dict):
        raise Invalid.at("", "an object", type(document).__name__)
    return document


def fields(
    request: falcon.Request, most_bytes: int, *, named_by_path: Collection[str] = ()
) -> dict[str, Any]:
    """Return a body's fields, which may be written with dashes; none that the path names already.

    Raises Invalid and falcon's errors.
    """
    found: dict[str, Any] = {}
    for name, value in json_object(request, most_bytes).items():
        field = name.replace("-", "_")
        if field in found:
            pointer = name[:200].replace("~", "~0").replace("/", "~1")
            raise Invalid.at(f"/{pointer}", "each field once, with - or with _", "both")
        found[field] = value
    for field in named_by_path:
        if field in found:
            raise Invalid.at(f"/{field}", "nothing, for the path names it", "it")
    return found


def idempotency_key(request: falcon.Request) -> str | None:
    """Return the header of IETF's draft-ietf-httpapi-idempotency-key-header, as it stands."""
    key = request.get_header("Idempotency-Key")
    if key is not None and not is_idempotency_key(key):
        raise Invalid(f"Idempotency-Key: expected 1 to {KEY_LENGTH} printable ASCII characters")
    return key


def _bytes(request: falcon.Request, most: int) -> bytes:
    # A chunked body has no length: servers that end it themselves say so (uWSGI does not).
    chunked = request.content_length is None and request.env.get("wsgi.input_terminated")
    if not chunked and "HTTP_TRANSFER_ENCODING" in request.env:
        raise falcon.HTTPLengthRequired(description="send a Content-Length, not a chunked body")
    stream = request.stream if chunked else request.bounded_stream
    body: bytes = stream.read(most + 1)
    if len(body) > most:
        raise falcon.HTTPContentTooLarge(description=f"the body exceeds {most} bytes")
    return body


def parameters(request: falcon.Request, known: Collection[str]) -> dict[str, str]:
    """Return the query's parameters. Raises Invalid for one that is unknown, or there twice."""
    found = {}
    for name, value in request.params.items():
        if name not in known:
            expected = one_of(known) if known else "no parameters"
            raise Invalid.at(f"?{name[:200]}", expected, repr(name)[:200])
        if isinstance(value, list):
            raise Invalid.at(f"?{name}", "one value", f"{len(value)}")
        found[name] = value
    return found


def flag(given: Mapping[str, str], name: str) -> bool:
    """Return a parameter that is true or false. Raises Invalid."""
    text = given.get(name, "false")
    if text.lower() not in TRUTH:
        raise Invalid.at(f"?{name}", "true or false", repr(text)[:200])
    return TRUTH[text.lower()]


def one_of(names: Collection[str]) -> str:
    """Return what is expected where any of these names may stand."""
    return f"one of {', '.join(sorted(names))}"
