"""`/v1/containers`: what there is to snapshot, and the call that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import falcon

from tintype.core.commits import Commits
from tintype.core.errors import Invalid
from tintype.core.index import CONTAINER_FIELDS, ContainerRecord, Index
from tintype.core.promises import find_container
from tintype.rest.identity import Identify
from tintype.rest.lists import Listing
from tintype.rest.reading import fields, idempotency_key, parameters

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
        promise = self.commits.submit(caller, payload, idempotency_key(request))
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
    payload = fields(request, most_bytes, named_by_path=("container",))
    for parameter, field in (("repository", "image_name"), ("tag", "tag")):
        if parameter in given and payload.setdefault(field, given[parameter]) != given[parameter]:
            raise Invalid.at(f"?{parameter}", f"the same as {field} in the body", "another")
    return {**payload, "container": ident}
