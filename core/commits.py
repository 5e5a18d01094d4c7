"""Commits over REST: a request is promised once its image is reserved and the bus has it.

Three services are asked one after another: the index, the image service and the bus. Each may fail,
and this process may die between any two of them. So what is about to be promised is recorded first
(`core.reservation`): whoever comes next, the caller with the same request or a router that tidies
up, finds there what to go on with or to undo.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tintype.core.errors import (
    Forbidden,
    ImageIdSpent,
    InProgress,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    WrongState,
)
from tintype.core.events import COMMIT_CANCEL, COMMIT_REQUEST, Event, Requester, derived_id
from tintype.core.images import ImageSpec, ImageStatus, ImageStore
from tintype.core.index import ContainerRecord, Index, SnapshotRecord
from tintype.core.intake import Validator, check, conflict, request_print
from tintype.core.ports import Clock, Publisher
from tintype.core.reservation import LEASE, Reservation, Reservations, ReservationState
from tintype.core.resolution import check_state, pick
from tintype.core.snapshot import IMAGE_SERVICE, Snapshot

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How often the answer of another attempt is looked for."""

HEADER_KEY = "Idempotency-Key:"
"""Begins the keys that come from the header, so that no `request_id` can be one."""

SHOW, COMMIT, CANCEL = "container:show", "container:commit", "snapshot:cancel"
"""What a caller may or may not do, in the policy's words."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what he may do."""

    requester: Requester
    may: Callable[[str, str | None], bool]
    """Tells whether he may do something to what belongs to a project (None: to nobody)."""
    images: ImageStore | None = None
    """The image service, with his own token; None where there is none."""


@dataclass(frozen=True, slots=True)
class Commits:
    """Takes commit requests over REST. Threads may share it."""

    index: Index
    reservations: Reservations
    publisher: Publisher
    """To the topic of requests. Thread-safe."""
    clock: Clock
    validate: Validator
    default_stores: Sequence[str] = ()
    """Where images go whose request names no store; none: each host has its own default."""
    patience: float = 5.0
    """Seconds for which the answer of the same request, sent just before, is waited for."""

    def submit(
        self, caller: Caller, payload: Mapping[str, Any], idempotency_key: str | None = None
    ) -> Reservation:
        """Promise a snapshot. The same request under the same key gets the first promise again.

        Raises Invalid, RequestConflict, NotFound, Forbidden, WrongState, Refused (an ambiguous
        name), and what reserving the image raises: TooLarge, Unauthorized, Unavailable. After any
        error nothing is promised, and no image is left.
        """
        check(self.validate(COMMIT_REQUEST, payload))
        if "accept_by" in payload:
            raise Invalid.at("/accept_by", "nothing, for only routers set it", "a moment")
        key, first_id = _ids_of(caller.requester, payload, idempotency_key)
        asked = {name: value for name, value in payload.items() if name != "request_id"}
        asked_print = request_print(Event(COMMIT_REQUEST, asked, caller.requester))
        known = self.reservations.get(key)
        if known is not None and (_is_kept(known, asked_print) or self._settle(known)):
            return known
        if known is None and self._is_told(first_id):
            raise conflict(first_id)  # it came by the bus: its image is not to be touched from here
        # An earlier attempt may be on the bus with the container that the name meant then.
        means = asked["container"] if known is None else known.container_uuid
        record = self._choose(caller, means, asked.get("host"))
        request = self._request(asked, record)
        wanted = Reservation(
            key=key,
            first_id=first_id,
            fingerprint=asked_print,
            container_uuid=record.uuid,
            image_id=asked.get("image_id"),
            holder=str(uuid.uuid4()),
            lease=self.clock.now() + LEASE,
            reserves=self._reserves(caller, request, again=known is not None),
        )
        mine = self._open(wanted)
        if mine.state is not ReservationState.KEPT:
            self._promise(caller, mine, request, record, fresh=known is None)
        return mine

    def cancel(self, caller: Caller, snapshot: SnapshotRecord) -> None:
        """Have a snapshot stopped. Raises WrongState when it has ended, Forbidden, Unavailable."""
        snapshot_id = snapshot.payload["snapshot_id"]
        if not caller.may(CANCEL, snapshot.payload["project_id"]):
            raise Forbidden(f"your roles do not allow you to cancel snapshot {snapshot_id}")
        if snapshot.payload["finished_at"] is not None:
            raise WrongState(
                f"snapshot {snapshot_id} has ended: to be rid of it, delete its image"
                f" {snapshot.payload['image_id']}"
            )
        payload = {"request_id": snapshot.request_id}
        event_id = str(uuid.uuid4())
        self.publisher.publish(Event(COMMIT_CANCEL, payload, caller.requester, event_id))
        if not snapshot.told and caller.images is not None:
            # The cancellation may overtake the request, and find nothing to stop. Without its image
            # the request stops by itself.
            caller.images.discard(snapshot.payload["image_id"])

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
        image_id = request.get("image_id")
        if image_id is not None:
            _check_reserved(caller.images, image_id, caller.requester, again=again)
        return image_id is None

    # The promise

    def _is_told(self, request_id: str) -> bool:
        """Tell whether any host or router has said something of a request."""
        snapshot = self.index.snapshot(request_id)
        return snapshot is not None and snapshot.told

    def _settle(self, known: Reservation) -> bool:
        """Keep what an attempt has published that did not live to say so; False if it has not."""
        is_open = known.state is ReservationState.OPEN
        # One that was withdrawn goes on if no image went with it: no confirm came, but it arrived.
        published = (is_open or not known.reserves) and self._is_told(known.request_id)
        if published and is_open:
            self.reservations.replace(replace(known, state=ReservationState.KEPT))
        return published

    def _open(self, wanted: Reservation) -> Reservation:
        """Record what is about to be promised, or return what was promised before."""
        give_up = time.monotonic() + self.patience
        while True:
            now = self.clock.now()
            stored = self.reservations.open(replace(wanted, lease=now + LEASE), now)
            if _is_kept(stored, wanted.fingerprint) or stored.holder == wanted.holder:
                return stored
            if time.monotonic() >= give_up:
                raise InProgress(
                    f"/request_id: {stored.first_id} is just being answered; send it again for"
                    " the answer"
                )
            time.sleep(LOOK_SECONDS)

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
        """Record what was promised. It holds even if that fails: the bus has the request.

        Raises Unavailable when it was taken back, since publishing took longer than the lease.
        """
        now = self.clock.now().isoformat()
        begun = Snapshot.begin(request, host=record.host or "", created_at=now)
        known = replace(
            begun,
            container_uuid=record.uuid,
            container_name=record.name,
            engine_container_id=record.facts.get("engine_id"),
        )
        event_id = derived_id(mine.request_id, "promised")
        seen = {
            "event_id": event_id,
            **known.public("queued"),
            "image_id": mine.promised_image_id,
        }
        try:
            if self._record_kept(mine):
                self.index.note([SnapshotRecord.promised(seen)])
                return
        except Unavailable as error:
            LOG.warning("request %s is promised, but not recorded: %s", mine.request_id, error)
            return
        # So its image is gone, and the request on the bus is cancelled by that.
        raise Unavailable("it took too long, and was taken back; send the request again")

    def _record_kept(self, mine: Reservation) -> bool:
        """Record that an attempt is published; False if somebody has taken it back meanwhile."""
        if self.reservations.replace(replace(mine, state=ReservationState.KEPT)):
            return True
        stored = self.reservations.get(mine.key)
        kept = (ReservationState.KEPT, mine.attempt)
        return stored is not None and (stored.state, stored.attempt) == kept

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


def find_container(
    index: Index, caller: Caller, ident: str, host: str | None = None
) -> ContainerRecord:
    """Return the container that a caller means; what he may not see is not there for him.

    Raises NotFound, Refused (an ambiguous name), Unavailable.
    """
    seen = index.find(ident, lambda record: caller.may(SHOW, record.project_id))
    return pick(seen, ident, host, lambda record: True)


def _ids_of(
    requester: Requester, payload: Mapping[str, Any], idempotency_key: str | None
) -> tuple[str, str]:
    """Return under which key a request is kept, and its id on the bus: one not given is drawn.

    Not made of the header: another project that guesses it could use the id up.
    """
    given = payload.get("request_id")
    if given is not None and idempotency_key not in (None, given):
        raise Invalid.at("/request_id", "the Idempotency-Key, or only one of both", "another")
    request_id = str(uuid.uuid4()) if given is None else str(given).lower()
    if given is not None or idempotency_key is None:
        return request_id, request_id
    who = (requester.project_id or "", requester.user_id or "")
    return HEADER_KEY + derived_id(*who, idempotency_key), request_id


def _is_kept(known: Reservation, asked_print: str) -> bool:
    """Tell whether this very request was promised. Raises RequestConflict if another one was."""
    if known.fingerprint != asked_print:
        raise conflict(known.first_id)
    return known.state is ReservationState.KEPT


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
