"""Restores over REST: a request is promised once the bus has it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tintype.core.errors import Forbidden, Unavailable
from tintype.core.events import RESTORE_REQUEST, Event
from tintype.core.index import RestoreRecord, SnapshotRecord
from tintype.core.promises import Caller, Promises, check_stoppable, find_snapshot
from tintype.core.reservation import Reservation, ReservationState
from tintype.core.restore import Restore
from tintype.core.routes import check_has_place, check_restorable

LOG = logging.getLogger(__name__)

CREATE, CANCEL = "restore:create", "restore:cancel"
"""What a caller may or may not do, in the policy's words."""


@dataclass(frozen=True, slots=True)
class Restores(Promises):
    """Takes restore requests over REST. Threads may share it."""

    only_host: str | None = None
    """The host that there is, where there is one alone."""

    def submit(
        self, caller: Caller, payload: Mapping[str, Any], idempotency_key: str | None = None
    ) -> Reservation:
        """Promise a container. The same request under the same key gets the first promise again.

        Raises Invalid, RequestConflict, NotFound (no such snapshot, or none that he may see),
        Forbidden, WrongState (there is no image of it), Unavailable. After any error nothing is
        promised.
        """
        asked = self.asked(caller, RESTORE_REQUEST, payload, idempotency_key)
        if asked.known is not None and asked.answered:
            return asked.known
        snapshot = self._snapshot(caller, asked.fields)
        request = self._request(asked.fields, snapshot)
        snapshot_id = request.get("snapshot_id")
        mine = self.open(self.wanted(asked, RESTORE_REQUEST, snapshot_id=snapshot_id))
        if mine.state is not ReservationState.KEPT:
            self._promise(caller, mine, request, snapshot)
        return mine

    def cancel(self, caller: Caller, restore: RestoreRecord) -> None:
        """Have a restore stopped. Raises WrongState when it has ended, Forbidden, Unavailable."""
        payload = restore.payload
        hint = f"to be rid of it, delete its container {payload['container_name']}"
        check_stoppable(caller, CANCEL, f"restore {payload['restore_id']}", restore, hint)
        self.stop(caller, RESTORE_REQUEST, restore)

    def _snapshot(self, caller: Caller, asked: Mapping[str, Any]) -> SnapshotRecord | None:
        """Return the snapshot that is to be restored; None: the request names an image."""
        ident = asked.get("snapshot_id")
        found = None if ident is None else find_snapshot(self.index, caller, ident)
        owner = caller.requester.project_id if found is None else found.payload["project_id"]
        if not caller.may(CREATE, owner):
            raise Forbidden("your roles do not allow you to restore it")
        if found is not None:
            check_restorable(found)
        return found

    def _request(self, asked: Mapping[str, Any], snapshot: SnapshotRecord | None) -> dict[str, Any]:
        """Return the request as the bus is to see it, but for its id."""
        request = dict(asked)
        if self.only_host is not None:
            request.setdefault("host", self.only_host)
        if snapshot is not None:
            request["snapshot_id"] = snapshot.payload["snapshot_id"]
        check_has_place(request)
        return request

    def _promise(
        self,
        caller: Caller,
        mine: Reservation,
        request: Mapping[str, Any],
        snapshot: SnapshotRecord | None,
    ) -> None:
        """Publish the request and record that; if the bus does not take it, it may be sent anew."""
        payload = {**request, "request_id": mine.request_id}
        event = Event(RESTORE_REQUEST, payload, caller.requester, mine.request_id)
        published = False
        try:
            self.publisher.publish(event)
            published = True
        finally:
            if not published:
                self._withdraw(mine)
        host = request.get("host") or (snapshot.payload["host"] if snapshot else "")
        begun = Restore.begin(event, host=host, created_at=self.clock.now().isoformat())
        image = snapshot.payload if snapshot is not None else begun.public("queued")
        told = {name: image[name] for name in ("image_id", "image_name", "tag")}
        self.keep(mine, begun, **told)

    def _withdraw(self, mine: Reservation) -> None:
        """Take an attempt back. If that fails, its lease ends: the same request may try then."""
        try:
            self.reservations.replace(mine.withdrawn(made=False))
        except Unavailable as error:
            LOG.warning("request %s: not taken back yet: %s", mine.key, error)
