"""What comes in: JSON bodies and query parameters, refused by name where they are wrong."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import falcon

from tintype.core.errors import Invalid, Violation
from tintype.core.index import Query

LIMIT_DEFAULT, LIMIT_MOST = 100, 1000
"""Records on a page."""

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
        raise _wrong("", "JSON", str(error)) from error
    if not isinstance(document, dict):
        raise _wrong("", "an object", type(document).__name__)
    return document


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
            raise _wrong(f"?{name}", _one_of(known) if known else "no parameters", repr(name))
        if isinstance(value, list):
            raise _wrong(f"?{name}", "one value", f"{len(value)}")
        found[name] = value
    return found


def query_of(
    given: Mapping[str, str],
    *,
    filters: Collection[str],
    sorts: Collection[str],
    project_id: str | None,
    newest_first: bool,
) -> Query:
    """Return the page that parameters ask for. Raises Invalid."""
    sort = _chosen(given, "sort_key", "created_at", sorts)
    order = _chosen(given, "sort_dir", "desc" if newest_first else "asc", ("asc", "desc"))
    return Query(
        sort=sort,
        limit=_limit(given),
        descending=order == "desc",
        marker=given.get("marker"),
        project_id=project_id,
        filters={name: given[name] for name in filters if name in given},
    )


def flag(given: Mapping[str, str], name: str) -> bool:
    """Return a parameter that is true or false. Raises Invalid."""
    text = given.get(name, "false")
    if text.lower() not in TRUTH:
        raise _wrong(f"?{name}", "true or false", repr(text))
    return TRUTH[text.lower()]


def _chosen(given: Mapping[str, str], name: str, default: str, choices: Collection[str]) -> str:
    value = given.get(name, default)
    if value not in choices:
        raise _wrong(f"?{name}", _one_of(choices), repr(value))
    return value


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", str(LIMIT_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= LIMIT_MOST):
        raise _wrong("?limit", f"a whole number from 1 to {LIMIT_MOST}", repr(text))
    return int(text)


def _one_of(names: Collection[str]) -> str:
    return f"one of {', '.join(sorted(names))}"


def _wrong(pointer: str, expected: str, got: str) -> Invalid:
    violation = Violation(pointer, expected, got[:200])
    return Invalid(str(violation), [violation])
