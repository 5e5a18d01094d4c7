"""`/v1/snapshots`: how snapshots stand, how to stop one, and how to restore one."""

from __future__ import annotations

from dataclasses import dataclass

import falcon

from tintype.core.commits import Commits
from tintype.core.index import SNAPSHOT_FIELDS, Index
from tintype.core.promises import find_snapshot
from tintype.core.restores import Restores
from tintype.rest.identity import Identify
from tintype.rest.lists import Listing
from tintype.rest.reading import fields, idempotency_key, parameters
from tintype.rest.restores import IMAGE_NAMES, promise

LISTING = Listing(
    kind="snapshot",
    filters=("container_uuid", "container_name", "host", "image_id", "image_name", "status"),
    sorts=("snapshot_id", *SNAPSHOT_FIELDS),
    newest_first=True,
)


@dataclass(frozen=True, slots=True)
class Snapshots:
    """`GET /v1/snapshots`."""

    identify: Identify
    index: Index

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Answer with a page of the caller's snapshots, the newest first."""
        response.media = LISTING.answer(
            request,
            self.identify(request),
            self.index.list_snapshots,
            lambda record: record.payload,
            lambda record: str(record.payload["snapshot_id"]),
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`GET` and `DELETE /v1/snapshots/{ident}`."""

    identify: Identify
    index: Index
    commits: Commits

    def on_get(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Answer with the snapshot's latest event, by snapshot id or request id."""
        caller = self.identify(request)
        parameters(request, ())
        response.media = dict(find_snapshot(self.index, caller, ident).payload)

    def on_delete(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Have the snapshot stopped: answer 202 with how it stands; its outcome is an event."""
        caller = self.identify(request)
        parameters(request, ())
        snapshot = find_snapshot(self.index, caller, ident)
        self.commits.cancel(caller, snapshot)
        response.status = falcon.HTTP_202
        response.media = dict(snapshot.payload)


@dataclass(frozen=True, slots=True)
class RestoreSnapshot:
    """`POST /v1/snapshots/{ident}/restore`."""

    identify: Identify
    restores: Restores
    most_bytes: int

    def on_post(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Promise a container that is made of the snapshot: answer 202 with all ids."""
        caller = self.identify(request)
        parameters(request, ())
        given = fields(request, self.most_bytes, named_by_path=IMAGE_NAMES)
        find_snapshot(self.restores.index, caller, ident)  # 404 before anything else is wrong
        payload = {**given, "snapshot_id": ident}
        promise(request, response, self.restores.submit(caller, payload, idempotency_key(request)))
