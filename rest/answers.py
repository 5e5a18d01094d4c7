"""Answers that are errors, in OpenStack's form: `{"errors": [{"status": 404, ...}]}`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import falcon

from tintype.core.errors import Invalid, TintypeError, Unavailable, Violation

LOG = logging.getLogger(__name__)

RETRY_SECONDS = 5
"""When to try again what was unavailable."""

INDEX_AWAY = "the index is away, or fails"

REQUEST_ID = "openstack.request_id"
"""Where oslo.middleware puts the request's id."""


def answer_error(
    request: falcon.Request, response: falcon.Response, error: Exception, _: dict[str, Any]
) -> None:
    """Answer one of our own errors."""
    assert isinstance(error, TintypeError)
    response.status = error.code
    if isinstance(error, Unavailable):
        response.set_header("Retry-After", str(RETRY_SECONDS))
        LOG.warning("%s: %s", request.path[:200], error)
    violations = error.violations if isinstance(error, Invalid) else ()
    code = type(error).__name__
    response.media = error_body(request, error.code, code, _told(error), violations)


def _told(error: TintypeError) -> str:
    """Return what a caller hears of an error: of a database that is away not even its address."""
    return INDEX_AWAY if str(error).startswith("database:") else str(error)


def serialize_http_error(
    request: falcon.Request, response: falcon.Response, error: falcon.HTTPError
) -> None:
    """Answer falcon's errors (no such path, wrong method, a defect) in the same form."""
    detail = error.description or error.title or ""
    response.media = error_body(request, error.status_code, type(error).__name__, detail)


def unavailable(
    environ: dict[str, Any], start_response: Callable[..., Any], detail: str
) -> list[bytes]:
    """Answer 503 where falcon is not asked yet."""
    headers = [("Content-Type", "application/json"), *retry_after(environ)]
    start_response("503 Service Unavailable", headers)
    return [json.dumps(plain_error(environ, 503, "Unavailable", detail)).encode()]


def retry_after(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the header that says when to try again; Zun's clients would break at it (rest.zun)."""
    zuns = "HTTP_OPENSTACK_API_VERSION" in environ
    return [] if zuns else [("Retry-After", str(RETRY_SECONDS))]


def plain_error(environ: dict[str, Any], status: int, code: str, detail: str) -> dict[str, Any]:
    """Return the body of an answer that is not falcon's."""
    return {"errors": [_error(status, code, detail, environ.get(REQUEST_ID))]}


def error_body(
    request: falcon.Request,
    status: int,
    code: str,
    detail: str,
    violations: Sequence[Violation] = (),
) -> dict[str, Any]:
    """Return the body: one error, or one for each violation with its JSON pointer."""
    request_id = request.env.get(REQUEST_ID)
    if not violations:
        return {"errors": [_error(status, code, detail, request_id)]}
    return {
        "errors": [
            {**_error(status, code, str(each), request_id), "pointer": each.pointer}
            for each in violations
        ]
    }


def _error(status: int, code: str, detail: str, request_id: str | None) -> dict[str, Any]:
    """Return one error. Its title is the detail, as in Zun: its clients show nothing else."""
    return {
        "status": status,
        "code": code,
        "title": detail,
        "detail": detail,
        "request_id": request_id,
    }
