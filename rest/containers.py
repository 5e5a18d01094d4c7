"""`/v1/containers`: what there is to snapshot, and the call that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import falcon

from tintype.core.commits import Commits, find_container
from tintype.core.errors import Invalid
from tintype.core.index import CONTAINER_FIELDS, ContainerRecord, Index
from tintype.core.reservation import KEY_LENGTH, is_idempotency_key
from tintype.rest.identity import Identify
from tintype.rest.lists import Listing
from tintype.rest.reading import json_object, parameters

LISTING = Listing(
    kind="container",
    filters=("name", "host", "state"),
    sorts=("uuid", *CONTAINER_FIELDS),
    newest_first=False,
)


@dataclass(frozen=True, slots=True)
class Containers:
    """`GET /v1/containers`."""

    identify: Identify
    index: Index

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Answer with a page of the caller's containers."""
        response.media = LISTING.answer(
            request,
            self.identify(request),
            self.index.list_containers,
            shown,
            lambda record: record.uuid,
        )


@dataclass(frozen=True, slots=True)
class Container:
    """`GET /v1/containers/{ident}`."""

    identify: Identify
    index: Index

    def on_get(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Answer with one container, by uuid, engine id or name."""
        caller = self.identify(request)
        given = parameters(request, ("host",))
        response.media = shown(find_container(self.index, caller, ident, given.get("host")))


@dataclass(frozen=True, slots=True)
class Commit:
    """`POST /v1/containers/{ident}/commit`."""

    identify: Identify
    commits: Commits
    most_bytes: int

    def on_post(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Promise a snapshot: answer 202 with all ids; the snapshot has only begun."""
        caller = self.identify(request)
        payload = _payload(request, ident, self.most_bytes)
        promise = self.commits.submit(caller, payload, _idempotency_key(request))
        response.status = falcon.HTTP_202
        response.location = f"{request.root_path}/v1/snapshots/{promise.answer['snapshot_id']}"
        response.media = dict(promise.answer)


def shown(record: ContainerRecord) -> dict[str, Any]:
    """Return what a caller sees of a container."""
    facts = record.facts
    return {
        "uuid": record.uuid,
        "name": record.name,
        "host": record.host,
        "state": facts.get("state"),
        "image": facts.get("image"),
        "project_id": record.project_id,
        "user_id": facts.get("user_id"),
        "labels": facts.get("labels", {}),
        "engine_container_id": facts.get("engine_id"),
        "created_at": facts.get("created_at"),
    }


def _payload(request: falcon.Request, ident: str, most_bytes: int) -> dict[str, Any]:
    """Merge path, body and query: the spec's body `{"image-name": ...}`, zunclient's query."""
    given = parameters(request, ("repository", "tag"))
    payload: dict[str, Any] = {}
    for name, value in json_object(request, most_bytes).items():
        field = name.replace("-", "_")
        if field in payload:
            pointer = name[:200].replace("~", "~0").replace("/", "~1")
            raise Invalid.at(f"/{pointer}", "each field once, with - or with _", "both")
        payload[field] = value
    if "container" in payload:
        raise Invalid.at("/container", "nothing, for the path names it", "it")
    for parameter, field in (("repository", "image_name"), ("tag", "tag")):
        if parameter in given and payload.setdefault(field, given[parameter]) != given[parameter]:
            raise Invalid.at(f"?{parameter}", f"the same as {field} in the body", "another")
    return {**payload, "container": ident}


def _idempotency_key(request: falcon.Request) -> str | None:
    """Return the header of IETF's draft-ietf-httpapi-idempotency-key-header, as it stands."""
    key = request.get_header("Idempotency-Key")
    if key is not None and not is_idempotency_key(key):
        raise Invalid(f"Idempotency-Key: expected 1 to {KEY_LENGTH} printable ASCII characters")
    return key
