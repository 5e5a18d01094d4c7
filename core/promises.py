"""Promises: what the REST service gives for a request, the same one for the same request again.

The index and the bus are asked one after another, and for a commit the image service between them.
Each may fail, and this process may die between any two of them. So what is about to be promised is
recorded first (`core.reservation`): whoever comes next, the caller with the same request or a
router that tidies up, finds there what to go on with or to undo.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tintype.core.errors import Forbidden, InProgress, Invalid, NotFound, Unavailable, WrongState
from tintype.core.events import Event, Requester, derived_id, is_uuid
from tintype.core.images import ImageStore
from tintype.core.index import ContainerRecord, Index, JobRecord, SnapshotRecord
from tintype.core.intake import Validator, check, conflict, request_print
from tintype.core.jobs import Job
from tintype.core.ports import Clock, Publisher
from tintype.core.reservation import LEASE, Reservation, Reservations, ReservationState
from tintype.core.resolution import pick
from tintype.core.routes import ROUTES

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How often the answer of another attempt is looked for."""

HEADER_KEY = "Idempotency-Key:"
"""Begins the keys that come from the header, so that no `request_id` can be one."""

SHOW_CONTAINER, SHOW_SNAPSHOT = "container:show", "snapshot:show"
"""What a caller may see, in the policy's words."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what he may do."""

    requester: Requester
    may: Callable[[str, str | None], bool]
    """Tells whether he may do something to what belongs to a project (None: to nobody)."""
    images: ImageStore | None = None
    """The image service, with his own token; None where there is none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller has asked for, and whether he did so before."""

    fields: Mapping[str, Any]
    """The request, without its id."""
    key: str
    """Under which it is kept."""
    first_id: str
    """Its id on the bus, unless it was withdrawn before."""
    fingerprint: str
    known: Reservation | None
    """What is kept of it."""
    answered: bool
    """Whether it is promised already."""


@dataclass(frozen=True, slots=True)
class Promises:
    """What all requests over REST have in common. Threads may share it."""

    index: Index
    reservations: Reservations
    publisher: Publisher
    """To the topic of requests. Thread-safe."""
    clock: Clock
    validate: Validator
    patience: float = 5.0
    """Seconds for which the answer of the same request, sent just before, is waited for."""

    def asked(
        self,
        caller: Caller,
        event_type: str,
        payload: Mapping[str, Any],
        idempotency_key: str | None,
    ) -> Asked:
        """Read a request, and look what is known under its key. Raises Invalid, RequestConflict."""
        check(self.validate(event_type, payload))
        if "accept_by" in payload:
            raise Invalid.at("/accept_by", "nothing, for only routers set it", "a moment")
        key, first_id = _ids_of(caller.requester, payload, idempotency_key)
        fields = {name: value for name, value in payload.items() if name != "request_id"}
        fingerprint = request_print(Event(event_type, fields, caller.requester))
        known = self.reservations.get(key)
        answered = known is not None and (_is_kept(known, fingerprint) or self._settle(known))
        if known is None and self._is_told(event_type, first_id):
            raise conflict(first_id)  # it came by the bus: nothing of it is to be touched from here
        return Asked(fields, key, first_id, fingerprint, known, answered)

    def wanted(self, asked: Asked, event_type: str, **fields: Any) -> Reservation:
        """Return what is to be recorded before a request is promised."""
        return Reservation(
            key=asked.key,
            first_id=asked.first_id,
            fingerprint=asked.fingerprint,
            request_type=event_type,
            holder=str(uuid.uuid4()),
            lease=self.clock.now() + LEASE,
            **fields,
        )

    def open(self, wanted: Reservation) -> Reservation:
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

    def keep(self, mine: Reservation, job: Job, **promised: Any) -> None:
        """Record what was promised. It holds even if that fails: the bus has the request.

        `promised` is what is known of the job that the job itself does not show. Raises Unavailable
        when it was taken back, since publishing took longer than the lease.
        """
        event_id = derived_id(mine.request_id, "promised")
        seen = {"event_id": event_id, **job.public("queued"), **promised}
        try:
            if self._record_kept(mine):
                self.index.note([ROUTES[mine.request_type].record.promised(seen)])
                return
        except Unavailable as error:
            LOG.warning("request %s is promised, but not recorded: %s", mine.request_id, error)
            return
        # So its image, if it has one, is gone, and the request on the bus is cancelled by that.
        raise Unavailable("it took too long, and was taken back; send the request again")

    def stop(self, caller: Caller, event_type: str, record: JobRecord) -> None:
        """Publish that a job in hand is to stop. Raises Unavailable."""
        cancel = ROUTES[event_type].cancel
        payload = {"request_id": record.request_id}
        self.publisher.publish(Event(cancel, payload, caller.requester, str(uuid.uuid4())))

    def _is_told(self, event_type: str, request_id: str) -> bool:
        """Tell whether any host or router has said something of a request."""
        record = ROUTES[event_type].known(self.index, request_id)
        return record is not None and record.told

    def _settle(self, known: Reservation) -> bool:
        """Keep what an attempt has published that did not live to say so; False if it has not."""
        is_open = known.state is ReservationState.OPEN
        # One that was withdrawn goes on if no image went with it: no confirm came, but it arrived.
        published = (is_open or not known.reserves) and self._is_told(
            known.request_type, known.request_id
        )
        if published and is_open:
            self.reservations.replace(replace(known, state=ReservationState.KEPT))
        return published

    def _record_kept(self, mine: Reservation) -> bool:
        """Record that an attempt is published; False if somebody has taken it back meanwhile."""
        if self.reservations.replace(replace(mine, state=ReservationState.KEPT)):
            return True
        stored = self.reservations.get(mine.key)
        kept = (ReservationState.KEPT, mine.attempt)
        return stored is not None and (stored.state, stored.attempt) == kept


def find_container(
    index: Index, caller: Caller, ident: str, host: str | None = None
) -> ContainerRecord:
    """Return the container that a caller means; what he may not see is not there for him.

    Raises NotFound, Refused (an ambiguous name), Unavailable.
    """
    seen = index.find(ident, lambda record: caller.may(SHOW_CONTAINER, record.project_id))
    return pick(seen, ident, host, lambda record: True)


def find_snapshot(index: Index, caller: Caller, ident: str) -> SnapshotRecord:
    """Return the snapshot that a caller means, by its own id or its request's. Raises NotFound."""
    found = index.find_snapshot(ident.lower()) if is_uuid(ident) else None
    if found is None or not caller.may(SHOW_SNAPSHOT, found.payload["project_id"]):
        raise NotFound(f"no snapshot {ident!r} is known")
    return found


def check_stoppable(caller: Caller, rule: str, what: str, record: JobRecord, hint: str) -> None:
    """Raise Forbidden, or WrongState when a job has ended; `what` and `hint` are told."""
    if not caller.may(rule, record.payload["project_id"]):
        raise Forbidden(f"your roles do not allow you to cancel {what}")
    if record.ended:
        raise WrongState(f"{what} has ended: {hint}")


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


def _is_kept(known: Reservation, fingerprint: str) -> bool:
    """Tell whether this very request was promised. Raises RequestConflict if another one was."""
    if known.fingerprint != fingerprint:
        raise conflict(known.first_id)
    return known.state is ReservationState.KEPT
