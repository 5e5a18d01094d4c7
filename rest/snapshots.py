"""`/v1/snapshots`: how snapshots stand, and how to stop one."""

from __future__ import annotations

from dataclasses import dataclass

import falcon

from tintype.core.commits import Caller, Commits
from tintype.core.errors import NotFound
from tintype.core.events import is_uuid
from tintype.core.index import SNAPSHOT_FIELDS, Index, SnapshotRecord
from tintype.rest.containers import project_seen
from tintype.rest.identity import Identify
from tintype.rest.paging import next_page
from tintype.rest.reading import flag, parameters, query_of

SORTS = ("snapshot_id", *SNAPSHOT_FIELDS)
PARAMETERS = (*SNAPSHOT_FIELDS[:-1], "sort_key", "sort_dir", "limit", "marker", "all_projects")


@dataclass(frozen=True, slots=True)
class Snapshots:
    """`GET /v1/snapshots`."""

    identify: Identify
    index: Index

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Answer with a page of the caller's snapshots, the newest first."""
        caller = self.identify(request)
        given = parameters(request, PARAMETERS)
        query = query_of(
            given,
            filters=SNAPSHOT_FIELDS[:-1],
            sorts=SORTS,
            project_id=project_seen(caller, "snapshot", everybodys=flag(given, "all_projects")),
            newest_first=True,
        )
        found = self.index.list_snapshots(query)
        page = {"snapshots": [dict(record.payload) for record in found]}
        last = found[-1].payload["snapshot_id"] if len(found) == query.limit else None
        response.media = page | next_page(request, last)


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
