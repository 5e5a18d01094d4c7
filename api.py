"""The REST service: a WSGI application that publishes requests like any other service.

For now the loopback door of `tintype serve`: no authentication, so nobody but this machine's users
may reach it. docs/adr/0006 says what it grows into.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import falcon

from tintype import __version__
from tintype.core.errors import Invalid, NotFound, TintypeError, Unavailable
from tintype.core.events import COMMIT_REQUEST, Event, Requester, is_uuid
from tintype.core.ports import Container
from tintype.core.resolution import check_state
from tintype.core.snapshot import image_id_for, snapshot_id_for
from tintype.schemas import validate

MAX_BODY_BYTES = 1024 * 1024
"""No commit request needs more."""


class Commit:
    """`POST /v1/containers/{ident}/commit`: ask for a snapshot."""

    def __init__(
        self, publish: Callable[[Event], None], find_container: Callable[[str], Container]
    ) -> None:
        self._publish = publish
        self._find_container = find_container

    def on_post(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Publish the request and answer 202 with all ids; the snapshot has only begun."""
        payload = _commit_payload(request, ident)
        violations = validate(COMMIT_REQUEST, payload)
        if violations:
            raise Invalid("; ".join(map(str, violations)), violations)
        container = self._find_container(ident)
        check_state(container.name, container.state)
        request_id = payload["request_id"]
        self._publish(Event(COMMIT_REQUEST, payload, Requester(), request_id))
        snapshot_id = snapshot_id_for(request_id)
        response.status = falcon.HTTP_202
        response.location = f"/v1/snapshots/{snapshot_id}"
        response.media = {
            "uuid": container.uuid,
            "image_id": payload.get("image_id") or image_id_for(request_id),
            "snapshot_id": snapshot_id,
            "request_id": request_id,
        }


class Snapshots:
    """`GET /v1/snapshots/{ident}`: how a snapshot stands."""

    def __init__(self, find: Callable[[str], Event | None]) -> None:
        self._find = find

    def on_get(self, _: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Answer with the snapshot's latest event, by snapshot id or request id."""
        event = self._find(ident)
        if event is None:
            raise NotFound(f"snapshot {ident!r} is not known here")
        response.media = dict(event.payload)


class Versions:
    """`GET /`: what is served here."""

    def on_get(self, _: falcon.Request, response: falcon.Response) -> None:
        """Answer in the form of OpenStack's version discovery."""
        response.media = {
            "name": "tintype",
            "version": __version__,
            "versions": [
                {"id": "v1", "status": "CURRENT", "links": [{"rel": "self", "href": "/v1"}]}
            ],
        }


class Health:
    """`GET /healthcheck`: whether all that a snapshot needs is there."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def on_get(self, _: falcon.Request, response: falcon.Response) -> None:
        """Answer 200, or 503 with the part that is away."""
        self._check()
        response.media = {"status": "ok"}


class Door:
    """What happens to every request before it is looked at.

    It gets an id, which stands on every answer. Web pages are kept out, since there is no
    authentication: a page in a browser on this machine can send requests to loopback; browsers then
    name the page's origin, and a page that rebinds its own name sends that name as the host.
    """

    def process_request(self, request: falcon.Request, response: falcon.Response) -> None:
        """Draw the id, and refuse what a browser sends on behalf of a page."""
        request.context.id = f"req-{uuid.uuid4()}"
        response.set_header("X-Openstack-Request-Id", request.context.id)
        if request.get_header("Origin") is not None or not _is_loopback(request.host):
            raise falcon.HTTPForbidden(description="this door is for this machine's own users")


def create_app(
    publish: Callable[[Event], None],
    find_container: Callable[[str], Container],
    find_snapshot: Callable[[str], Event | None],
    check: Callable[[], None],
) -> falcon.App[falcon.Request, falcon.Response]:
    """Return the WSGI application.

    `publish` and `find_container` raise what core.errors names; `check` raises Unavailable.
    """
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App(middleware=Door())
    app.add_error_handler(TintypeError, _answer_error)
    app.set_error_serializer(_serialize_http_error)
    app.add_route("/", Versions())
    app.add_route("/v1", Versions())
    app.add_route("/healthcheck", Health(check))
    app.add_route("/v1/containers/{ident}/commit", Commit(publish, find_container))
    app.add_route("/v1/snapshots/{ident}", Snapshots(find_snapshot))
    return app


def _commit_payload(request: falcon.Request, ident: str) -> dict[str, Any]:
    """Merge path, body and query: the spec's body `{"image-name": ...}`, zunclient's query."""
    body = _json_object(request)
    payload = {name.replace("-", "_"): value for name, value in body.items()}
    for parameter, name in (("repository", "image_name"), ("tag", "tag")):
        value = request.get_param(parameter)
        if value is not None:
            payload.setdefault(name, value)
    payload["container"] = ident
    payload.setdefault("request_id", str(uuid.uuid4()))
    if is_uuid(payload["request_id"]):
        payload["request_id"] = payload["request_id"].lower()
    return payload


def _json_object(request: falcon.Request) -> dict[str, Any]:
    body = request.bounded_stream.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        raise falcon.HTTPContentTooLarge(description=f"the body exceeds {MAX_BODY_BYTES} bytes")
    if not body:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Invalid(f"(document): expected an object, got {type(document).__name__}")
    return document


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _answer_error(
    request: falcon.Request, response: falcon.Response, error: Exception, _: dict[str, Any]
) -> None:
    """Answer one of our own errors in OpenStack's form."""
    assert isinstance(error, TintypeError)
    response.status = error.code
    if isinstance(error, Unavailable):
        response.set_header("Retry-After", "5")
    response.media = _error_body(request, error.code, type(error).__name__, str(error))


def _serialize_http_error(
    request: falcon.Request, response: falcon.Response, error: falcon.HTTPError
) -> None:
    """Answer falcon's errors (no such path, wrong method, a defect) in the same form."""
    response.media = _error_body(
        request, error.status_code, type(error).__name__, error.description or error.title or ""
    )


def _error_body(request: falcon.Request, status: int, code: str, detail: str) -> dict[str, Any]:
    title = falcon.code_to_http_status(status).partition(" ")[2]
    request_id = request.context.get("id")
    error = {"status": status, "code": code, "title": title, "detail": detail}
    return {"errors": [{**error, "request_id": request_id}]}
