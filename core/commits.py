"""Commits over REST: a request is promised once its image is reserved and the bus has it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tintype.core.dockerfile import require_changes
from tintype.core.errors import Forbidden, ImageIdSpent, Invalid, NotFound, Refused, Unavailable
from tintype.core.events import COMMIT_REQUEST, Event, Requester
from tintype.core.images import ImageSpec, ImageStatus, ImageStore
from tintype.core.index import ContainerRecord, SnapshotRecord
from tintype.core.intake import conflict
from tintype.core.promises import Caller, Promises, check_stoppable, find_container
from tintype.core.reservation import Reservation, ReservationState
from tintype.core.resolution import check_state
from tintype.core.snapshot import IMAGE_SERVICE, Snapshot

LOG = logging.getLogger(__name__)

COMMIT, CANCEL = "container:commit", "snapshot:cancel"
"""What a caller may or may not do, in the policy's words."""


@dataclass(frozen=True, slots=True)
class Commits(Promises):
    """Takes commit requests over REST. Threads may share it."""

    default_stores: Sequence[str] = ()
    """Where images go whose request names no store; none: each host has its own default."""

    def submit(
        self, caller: Caller, payload: Mapping[str, Any], idempotency_key: str | None = None
    ) -> Reservation:
        """Promise a snapshot. The same request under the same key gets the first promise again.

        Raises Invalid, RequestConflict, NotFound, Forbidden, WrongState, Refused (an ambiguous
        name), and what reserving the image raises: TooLarge, Unauthorized, Unavailable. After any
        error nothing is promised, and no image is left.
        """
        asked = self.asked(caller, COMMIT_REQUEST, payload, idempotency_key)
        require_changes(asked.fields.get("changes", ()))
        known = asked.known
        if known is not None and asked.answered:
            return known
        # An earlier attempt may be on the bus with the container that the name meant then.
        means = known.container_uuid if known is not None else None
        record = self._choose(caller, means or asked.fields["container"], asked.fields.get("host"))
        request = self._request(asked.fields, record)
        wanted = self.wanted(
            asked,
            COMMIT_REQUEST,
            container_uuid=record.uuid,
            image_id=request.get("image_id"),
            dry_run=request.get("dry_run", False),
            reserves=self._reserves(caller, request, again=known is not None),
        )
        mine = self.open(wanted)
        if mine.state is not ReservationState.KEPT:
            self._promise(caller, mine, request, record, fresh=known is None)
        return mine

    def cancel(self, caller: Caller, snapshot: SnapshotRecord) -> None:
        """Have a snapshot stopped. Raises WrongState when it has ended, Forbidden, Unavailable."""
        payload = snapshot.payload
        hint = f"to be rid of it, delete its image {payload['image_id']}"
        what = f"snapshot {payload['snapshot_id']}"
        check_stoppable(caller, CANCEL, what, snapshot, hint)
        self.stop(caller, COMMIT_REQUEST, snapshot)
        if not snapshot.told and caller.images is not None and payload["image_id"] is not None:
            # The cancellation may overtake the request, and find nothing to stop. Without its image
            # the request stops by itself.
            caller.images.discard(payload["image_id"])

    # What is asked for

    def _choose(self, caller: Caller, ident: str, host: str | None) -> ContainerRecord:
        record = find_container(self.index, caller, ident, host)
        if not caller.may(COMMIT, record.project_id):
            raise Forbidden(f"your roles do not allow you to snapshot {ident!r}")
        check_state(ident, record.state)
        return record

    def _request(self, asked: Mapping[str, Any], record: ContainerRecord) -> dict[str, Any]:
        """Return the request as the bus is to see it, but for its ids."""
        request = {**asked, "container": record.uuid}
        if self.default_stores:
            request.setdefault("stores", list(self.default_stores))
        return request

    def _reserves(self, caller: Caller, request: Mapping[str, Any], *, again: bool) -> bool:
        """Tell whether an image is to be reserved; check the one that the caller has reserved.

        `again`: the request was sent before, and may be filling that image now.
        """
        if caller.images is None or IMAGE_SERVICE not in request.get("stores", ()):
            return False
        if request.get("dry_run"):
            return False  # it makes no image
        image_id = request.get("image_id")
        if image_id is not None:
            _check_reserved(caller.images, image_id, caller.requester, again=again)
        return image_id is None

    # The promise

    def _promise(
        self,
        caller: Caller,
        mine: Reservation,
        request: Mapping[str, Any],
        record: ContainerRecord,
        *,
        fresh: bool,
    ) -> None:
        """Reserve the image and publish the request, or leave nothing of both.

        `fresh`: nobody has tried under this key before.
        """
        payload = {**request, "request_id": mine.request_id}
        published = made = False
        try:
            mine = _cleared(caller, mine)
            if mine.reserves:
                payload["image_id"] = mine.promised_image_id
                made = True
                made = _reserve(caller, mine, payload, record, fresh=fresh)
                if not made:
                    raise conflict(mine.first_id)
            if self.clock.now() >= mine.lease:
                raise Unavailable("the image service took too long; send the request again")
            event = Event(COMMIT_REQUEST, payload, caller.requester, mine.request_id)
            self.publisher.publish(event)
            published = True
        except ImageIdSpent as error:
            made = False  # nothing is there that is ours
            raise Unavailable(f"{error}; send the request again") from error
        finally:
            if not published:
                self._withdraw(caller, mine, made=made)
        self._keep(mine, event, record)

    def _keep(self, mine: Reservation, request: Event, record: ContainerRecord) -> None:
        """Record what was promised. Raises Unavailable when it was taken back."""
        now = self.clock.now().isoformat()
        begun = Snapshot.begin(request, host=record.host or "", created_at=now)
        known = replace(
            begun,
            container_uuid=record.uuid,
            container_name=record.name,
            engine_container_id=record.facts.get("engine_id"),
        )
        self.keep(mine, known, image_id=mine.told_image_id)

    def _withdraw(self, caller: Caller, mine: Reservation, *, made: bool) -> None:
        """Take an attempt back, if it is still this one's, and delete its image.

        What fails here is left to the routers (`core.tidier`).
        """
        withdrawn = mine.withdrawn(made=made)
        try:
            if self.reservations.replace(withdrawn) and made:
                self.reservations.replace(_cleared(caller, withdrawn))
        except (Unavailable, Refused) as error:
            LOG.warning("request %s: its image is left to the routers: %s", mine.key, error)


def _cleared(caller: Caller, mine: Reservation) -> Reservation:
    """Delete what attempts have left; return the reservation without it."""
    if caller.images is None:
        return mine
    for image_id in mine.leftovers:
        caller.images.discard(image_id)
    return replace(mine, leftovers=())


def _check_reserved(
    images: ImageStore, image_id: str, requester: Requester, *, again: bool
) -> None:
    """Refuse the id of an image that does not wait for data of the caller's project."""
    try:
        image = images.describe(image_id)
    except NotFound:
        got = "no such image"
    else:
        mine = image.owner in (None, requester.project_id)
        if mine and (again or image.status is ImageStatus.QUEUED):
            return
        got = f"one that is {image.status}" if mine else "no such image"
    raise Invalid.at("/image_id", "an image of yours that waits for data", got)


def _reserve(
    caller: Caller,
    mine: Reservation,
    payload: Mapping[str, Any],
    record: ContainerRecord,
    *,
    fresh: bool,
) -> bool:
    """Create the image on the caller's behalf; the agent adds what only it knows.

    False: the id is another request's, and what is there is not ours to delete.
    """
    assert caller.images is not None
    project_id = caller.requester.project_id
    spec = ImageSpec(
        id=mine.promised_image_id,
        name=payload["image_name"],
        tag=payload.get("tag", "latest"),
        owner=project_id,
        visibility=payload.get("visibility", "private"),
        properties={
            "image_type": "snapshot",
            "instance_uuid": record.uuid,
            "snapshot_request_id": mine.request_id,
        },
    )
    image = caller.images.reserve(spec)
    begun = fresh and image.status is not ImageStatus.QUEUED
    return not begun and image.owner in (None, project_id)
