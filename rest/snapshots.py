"""`/v1/snapshots`: how snapshots stand, and how to stop one."""

from __future__ import annotations

from dataclasses import dataclass

import falcon

from tintype.core.commits import Caller, Commits
from tintype.core.errors import NotFound
from tintype.core.events import is_uuid
from tintype.core.index import SNAPSHOT_FIELDS, Index, SnapshotRecord
from tintype.rest.identity import Identify
from tintype.rest.lists import Listing
from tintype.rest.reading import parameters

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
        response.media = dict(self._find(caller, ident).payload)

    def on_delete(self, request: falcon.Request, response: falcon.Response, ident: str) -> None:
        """Have the snapshot stopped: answer 202 with how it stands; its outcome is an event."""
        caller = self.identify(request)
        parameters(request, ())
        snapshot = self._find(caller, ident)
        self.commits.cancel(caller, snapshot)
        response.status = falcon.HTTP_202
        response.media = dict(snapshot.payload)

    def _find(self, caller: Caller, ident: str) -> SnapshotRecord:
        found = self.index.find_snapshot(ident.lower()) if is_uuid(ident) else None
        if found is None or not caller.may("snapshot:show", found.payload["project_id"]):
            raise NotFound(f"no snapshot {ident!r} is known")
        return found
