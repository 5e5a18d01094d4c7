"""The router: finds the host of each request, sends it there, and answers when no host does.

Its memory are the dispatches and the index, which all routers of one index share. So any number of
routers take requests off one queue, and any of them goes on with what another left.

A host that does not take its request in time is given up: the router answers in its stead. That the
host does not come back with the snapshot later is the other half of the bargain, kept by
`handlers.commit.check_in_time`: it begins nothing before the broker has its word that it took the
request, and nothing if that was not before `accept_by`. The router waits for `grace` beyond that,
and only gives up while it hears everything that is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from tintype.core.dispatch import Dispatch, Dispatches, DispatchState
from tintype.core.errors import (
    Cancelled,
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    TimedOut,
    TintypeError,
    Unavailable,
    Unroutable,
    WrongState,
)
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    CONTAINER_DELETE,
    CONTAINER_DELETE_START,
    EXISTS_REQUEST,
    OUTCOMES,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_EXISTS,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_START,
    Event,
    Message,
    Requester,
    fingerprint,
    is_lifecycle,
)
from tintype.core.index import ContainerRecord, Index, Sighting, SnapshotRecord, unwrapped
from tintype.core.intake import (
    ANSWERED,
    CANCELLED,
    Validator,
    check,
    conflict,
    deadline_of,
    kept,
    message_print,
    request_id_of,
    request_of,
    request_print,
)
from tintype.core.ownership import may_use
from tintype.core.ports import Admission, Handler, Services
from tintype.core.resolution import choose
from tintype.core.snapshot import (
    ABORT,
    ACCEPTED,
    Copy,
    Fault,
    Snapshot,
    rejection,
    snapshot_id_for,
)

LOG = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
"""How long a router has a dispatch to itself; another goes on with it then."""

SOON = timedelta(seconds=1)
"""After this a dispatch that could not go on is looked at again."""

ROUTER = Requester(is_admin=True)
"""Who a router is to agents."""


class Courier(Protocol):
    """The router's ways onto the bus. Thread-safe; each returns once the broker has confirmed."""

    def to_host(self, host: str, event: Event, expires: timedelta) -> None:
        """Put an event into a host's queue for so long; raise Unroutable when it has none."""

    def to_agents(self, event: Event) -> None:
        """Send an event to the agents of all hosts; it is fine if there are none."""

    def tell(self, event: Event) -> None:
        """Publish an event to everybody."""

    def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a router waits for what."""

    host: timedelta
    """For a host to take a request."""
    unknown: timedelta
    """For a container to be told of before a request for it is refused: the index may lag."""
    grace: timedelta
    """For a host's word to arrive: clocks differ, and events queue."""
    deadline: timedelta
    """For a request without a deadline to end."""
    cancel: timedelta = timedelta(days=1)
    """For a host to fetch a cancellation."""


class Hearing(Protocol):
    """What a router knows of its own ears. Never raises."""

    def caught_up(self) -> bool:
        """Tell whether nothing waits to be heard now."""

    def complete(self) -> bool:
        """Tell whether all that hosts have said was heard: no interruption for a while, either."""


@dataclass(frozen=True, slots=True)
class Router:
    """Takes requests and events off the bus."""

    index: Index
    dispatches: Dispatches
    courier: Courier
    validate: Validator
    requester_of: Callable[[Any], Requester]
    """Reads a message's context, which may be anything."""
    services: Services
    """What `abort` is given: stores that are no host's own, and no engine."""
    abort: Handler
    """Undoes and answers a request: `handlers.cleanup.abort`."""
    patience: Patience
    hearing: Hearing

    # Requests

    def on_request(self, message: Message) -> None:
        """Take a message off the topic of requests, or answer and keep it. Raises Unavailable."""
        try:
            self.take(message)
        except (Invalid, Refused) as error:
            self._reject(message, error)

    def on_garbage(self, reason: str, message: Mapping[str, Any]) -> None:
        """Keep something that was not even a message."""
        LOG.warning("dead letter: %s", reason)
        self.dispatches.reject(fingerprint(reason, message), reason, message)

    def take(self, message: Message) -> None:
        """Send a request on, or park it. Raises Invalid, Refused, Unavailable."""
        kind = message.event_type
        if kind not in ANSWERED:
            known = ", ".join(map(repr, ANSWERED))
            raise Invalid(f"event_type: expected one of {known}, got {kind!r:.100}")
        check(self.validate(kind, message.payload))
        requester = self.requester_of(message.context)
        if kind == COMMIT_REQUEST:
            self._take_request(request_of(message, requester))
        else:
            self._take_cancel(message, requester)

    def _take_request(self, request: Event) -> None:
        if "accept_by" in request.payload:
            raise Invalid("/accept_by: expected nothing, for only routers set it")
        now = self.services.clock.now()
        deadline = deadline_of(request, now, self.patience.deadline)
        fresh = Dispatch(request.id, request_print(request), request, now, deadline, now + LEASE)
        admission = self.dispatches.admit(fresh)
        if admission is Admission.CONFLICT:
            raise conflict(request.id)
        dispatch = fresh if admission is Admission.NEW else self.dispatches.get(request.id)
        if dispatch is not None and dispatch.state is DispatchState.PARKED:
            self._route(dispatch, now, ask=True)

    def _take_cancel(self, message: Message, requester: Requester) -> None:
        request_id = message.payload["request_id"].lower()
        dispatch, snapshot = self.dispatches.get(request_id), self.index.snapshot(request_id)
        if dispatch is not None:
            project_id, host = dispatch.request.requester.project_id, dispatch.host
        elif snapshot is not None:
            project_id, host = snapshot.payload["project_id"], snapshot.payload["host"]
        else:
            raise NotFound(f"/request_id: no request {request_id} is known")
        if not may_use(project_id, requester):
            raise Forbidden(f"/request_id: {request_id} is another project's")
        reason = message.payload.get("reason") or CANCELLED
        if (
            dispatch is not None
            and dispatch.state is DispatchState.PARKED
            and self._give_up(dispatch, Cancelled(reason))
        ):
            return
        fault = snapshot and snapshot.payload["fault"]
        if fault and fault["code"] == Cancelled.code:
            return  # the same once more
        if host is None or (dispatch is not None and dispatch.state is DispatchState.ENDED):
            raise WrongState(f"/request_id: {request_id} has ended already")
        try:
            self._cancel(host, request_id, reason)
        except Unroutable as error:
            raise Refused(f"host {host!r} cannot be told to stop {request_id}: {error}") from error

    def _cancel(self, host: str, request_id: str, reason: str, **fields: Any) -> None:
        """Have a host stop a request; whether it may be stopped was looked at here."""
        payload = {"request_id": request_id, "reason": reason, **fields}
        cancel = Event(COMMIT_CANCEL, payload, ROUTER)
        self.courier.to_host(host, cancel, self.patience.cancel)

    def _reject(self, message: Message, error: TintypeError) -> None:
        LOG.warning("dead letter: %s", error)
        key = message_print(message)
        self.dispatches.reject(key, str(error), kept(message))
        if message.event_type in ANSWERED:
            self.courier.tell(
                rejection(
                    key,
                    message.payload,
                    self.requester_of(message.context),
                    error,
                    request_id=request_id_of(message),
                    host=self.services.host,
                    now=self.services.clock.now().isoformat(),
                )
            )

    # Dispatches

    def sweep(self) -> int:
        """Go on with all that is due; return how many that were. Raises Unavailable."""
        now = self.services.clock.now()
        due = self.dispatches.claim(now, LEASE)
        for dispatch in due:
            try:
                self._advance(dispatch, now)
            except Unavailable as error:
                LOG.warning("request %s: %s", dispatch.request_id, error)
        return len(due)

    def _advance(self, dispatch: Dispatch, now: datetime) -> None:
        if dispatch.state is DispatchState.ENDED:
            self._answer(dispatch, now)
        elif dispatch.state is DispatchState.PARKED:
            self._route(dispatch, now)
        elif dispatch.attempts == 0:
            self._inquire(dispatch, now)
        else:
            accepted = dispatch.state is DispatchState.ACCEPTED
            until = dispatch.deadline if accepted else dispatch.accept_by
            words = "end" if accepted else "take"
            silent = TimedOut(f"host {dispatch.host!r} did not {words} the request by {until}")
            self._give_up_unless_heard(dispatch, silent, now)

    def _inquire(self, dispatch: Dispatch, now: datetime) -> None:
        """Ask a silent host once before it is given up: its word may have got lost on the way."""
        asked = replace(dispatch, attempts=1, due=now + self.patience.grace)
        if self.dispatches.replace(asked, dispatch.state):
            question = Event(EXISTS_REQUEST, {"container": dispatch.container_uuid}, ROUTER)
            try:
                self.courier.to_host(str(dispatch.host), question, self.patience.grace)
            except Unroutable as error:
                LOG.info("request %s: %s", dispatch.request_id, error)

    def _route(self, dispatch: Dispatch, now: datetime, *, ask: bool = False) -> None:
        """Send a parked request to its host, once that is known; `ask` agents while it is not."""
        give_up = min(dispatch.deadline, dispatch.accept_by or dispatch.deadline)
        if now >= give_up:
            where = f"host {dispatch.host!r}" if dispatch.host else "any host"
            late = TimedOut(f"the request could not be brought to {where} by {give_up}")
            self._give_up_unless_heard(dispatch, late, now)
            return
        try:
            record = choose(
                self.index.find(dispatch.request.payload["container"]), dispatch.request
            )
        except (NotFound, WrongState) as error:
            if now >= dispatch.received_at + self.patience.unknown and self.hearing.caught_up():
                self._give_up(dispatch, error)
                return
            # A container that was just made or started may not have been told of yet.
            if ask:
                self._ask(dispatch.request.payload["container"])
            self._park(dispatch, now + SOON)
        except Refused as error:
            self._give_up(dispatch, error)
        else:
            self._send(dispatch, record, now)

    def _send(self, dispatch: Dispatch, record: ContainerRecord, now: datetime) -> None:
        """Bring a request into its host's queue. What it is to look like is recorded before."""
        accept_by = dispatch.accept_by or min(now + self.patience.host, dispatch.deadline)
        known = replace(dispatch, host=record.host, container_uuid=record.uuid, accept_by=accept_by)
        if not self.dispatches.replace(known, DispatchState.PARKED):
            return  # another router was quicker, or it was cancelled
        expires = max(accept_by - now, SOON) + self.patience.grace
        try:
            self.courier.to_host(str(record.host), _forwarded(known), expires)
        except Unavailable as error:
            LOG.warning("request %s waits: %s", dispatch.request_id, error)
            self._park(known, now + SOON)
            return
        sent = replace(known, state=DispatchState.SENT, due=accept_by + self.patience.grace)
        self.dispatches.replace(sent, DispatchState.PARKED)

    def _park(self, dispatch: Dispatch, due: datetime) -> None:
        self.dispatches.replace(replace(dispatch, due=due), DispatchState.PARKED)

    def _give_up_unless_heard(self, dispatch: Dispatch, error: TintypeError, now: datetime) -> None:
        """Give a silent host up, but only when it is sure to be silent."""
        if self.hearing.complete():
            self._give_up(dispatch, error)
        else:
            self.dispatches.replace(replace(dispatch, due=now + SOON), dispatch.state)

    def _give_up(self, dispatch: Dispatch, error: TintypeError) -> bool:
        """End a request with an error; False when something else became of it meanwhile."""
        now = self.services.clock.now()
        fault = Fault.of(error, ACCEPTED)
        ended = replace(
            dispatch, state=DispatchState.ENDED, fault=fault, due=now + LEASE, attempts=0
        )
        if not self.dispatches.replace(ended, dispatch.state):
            return False
        LOG.warning("request %s: %s", dispatch.request_id, error)
        self._answer(ended, now)
        return True

    def _answer(self, dispatch: Dispatch, now: datetime) -> None:
        """Delete the image, tell the error and have the host forget the request.

        What fails is tried again by the next sweep: the fault stays until it is told.
        """
        wait = SOON * 2 ** min(dispatch.attempts, 6)
        attempt = replace(dispatch, attempts=dispatch.attempts + 1, due=now + wait)
        self.dispatches.replace(attempt, DispatchState.ENDED)
        try:
            if dispatch.host is not None:
                self._withdraw(dispatch)
            for event in self.abort(self._undoing(attempt), self.services):
                if event.type in OUTCOMES:
                    self.courier.tell(event)
                else:
                    LOG.error("request %s: left behind in a store", dispatch.request_id)
        except Unavailable as error:
            LOG.warning("request %s is still to be answered: %s", dispatch.request_id, error)
            return
        self.dispatches.replace(replace(attempt, fault=None), DispatchState.ENDED)

    def _withdraw(self, dispatch: Dispatch) -> None:
        assert dispatch.host is not None
        assert dispatch.fault is not None
        try:
            self._cancel(
                dispatch.host, dispatch.request_id, dispatch.fault.message[:1000], answered=True
            )
        except Unroutable:
            LOG.info("host %s has no queue, and so no request to withdraw", dispatch.host)

    def _undoing(self, dispatch: Dispatch) -> Event:
        """Return the step that undoes what a host may have begun, as far as it was heard of."""
        begun = Snapshot.begin(
            dispatch.request,
            host=dispatch.host or self.services.host,
            created_at=dispatch.received_at.isoformat(),
        )
        known = self.index.snapshot(dispatch.request_id)
        copies = () if known is None else _copies(known.payload)
        record = dispatch.container_uuid and self.index.container(dispatch.container_uuid)
        return replace(
            begun,
            fault=dispatch.fault,
            container_uuid=dispatch.container_uuid,
            container_name=record.name if record else None,
            copies=copies,
        ).step(ABORT, attempt=dispatch.attempts)

    # Events

    def on_event(self, message: Message) -> None:
        """Take a notification into the index; most are about other things. Raises Unavailable."""
        kind = message.event_type
        if is_lifecycle(kind):
            message = replace(message, payload=unwrapped(message.payload))
            if self._is_valid(message):
                self._container_event(message)
        elif isinstance(kind, str) and kind in _ABOUT_SNAPSHOTS and self._is_valid(message):
            self._snapshot_event(message)

    def _is_valid(self, message: Message) -> bool:
        try:
            check(self.validate(message.event_type, message.payload))
        except Invalid as error:
            LOG.warning("dead letter: %s: %s", message.event_type, error)
            self.dispatches.reject(message_print(message), str(error), kept(message))
            return False
        return True

    def _container_event(self, message: Message) -> None:
        sighting = Sighting.read(message, self.services.clock.now())
        if sighting is not None:
            self.index.sight([sighting])
        if message.event_type == CONTAINER_DELETE_START:
            self._announce_deletion(message)
        elif message.event_type == CONTAINER_DELETE and sighting is not None:
            for dispatch in self.dispatches.of_container(sighting.uuid):
                self._stop_for_deletion(dispatch)

    def _announce_deletion(self, message: Message) -> None:
        """Tell the host: it may want a snapshot first, and must not go on with others."""
        uuid = str(message.payload.get("container_uuid") or message.payload["uuid"]).lower()
        record = self.index.container(uuid)
        host = message.payload.get("host") or (record and record.host)
        if not host:
            LOG.info("the deletion of container %s concerns no known host", uuid)
            return
        told = {**message.payload, "container_uuid": uuid, "event_id": message_print(message)}
        if message.payload.get("event_id") or message.message_id:
            told["event_id"] = message.payload.get("event_id") or message.message_id
        event = Event(CONTAINER_DELETE_START, told, self.requester_of(message.context))
        try:
            self.courier.to_host(host, event, self.patience.host)
        except Unroutable as error:
            LOG.warning("host %s is not told of the deletion of %s: %s", host, uuid, error)

    def _stop_for_deletion(self, dispatch: Dispatch) -> None:
        reason = f"container {dispatch.container_uuid} was deleted"
        if dispatch.state is DispatchState.PARKED and self._give_up(dispatch, Cancelled(reason)):
            return
        if dispatch.host is not None:
            try:
                self._cancel(dispatch.host, dispatch.request_id, reason)
            except Unroutable as error:
                LOG.warning("request %s: %s", dispatch.request_id, error)

    def _snapshot_event(self, message: Message) -> None:
        payload, kind = message.payload, message.event_type
        request_id = str(payload["request_id"])
        if payload["snapshot_id"] != snapshot_id_for(request_id):
            return  # the answer to a message that was refused, whatever request it named
        if kind != COMMIT_ACCEPTED:
            self.index.note([SnapshotRecord.read(message)])
        if kind in OUTCOMES or (kind == SNAPSHOT_EXISTS and payload["finished_at"] is not None):
            self.dispatches.heard(request_id, DispatchState.ENDED, self.services.clock.now())
        elif kind in (COMMIT_ACCEPTED, SNAPSHOT_START):
            dispatch = self.dispatches.get(request_id)
            if dispatch is not None:
                due = dispatch.deadline + self.patience.grace
                self.dispatches.heard(request_id, DispatchState.ACCEPTED, due)

    # The index

    def ask_for_everything(self) -> None:
        """Have all agents tell of all containers and snapshots. Raises Unavailable."""
        self._ask(None)

    def _ask(self, ident: str | None) -> None:
        payload = {} if ident is None else {"container": ident}
        self.courier.to_agents(Event(EXISTS_REQUEST, payload, ROUTER))


_ABOUT_SNAPSHOTS = frozenset(
    {
        COMMIT_ACCEPTED,
        SNAPSHOT_START,
        SNAPSHOT_PROGRESS,
        SNAPSHOT_END,
        SNAPSHOT_ERROR,
        SNAPSHOT_EXISTS,
    }
)


def _forwarded(dispatch: Dispatch) -> Event:
    """Return the request as its host is to see it."""
    assert dispatch.accept_by is not None
    payload = {
        **dispatch.request.payload,
        "container": dispatch.container_uuid,
        "host": dispatch.host,
        "deadline": dispatch.deadline.isoformat(),
        "accept_by": dispatch.accept_by.isoformat(),
    }
    return replace(dispatch.request, payload=payload)


def _copies(payload: Mapping[str, Any]) -> tuple[Copy, ...]:
    """Return the images that a host has told of: reserved, for else it would not have."""
    stores: Sequence[Mapping[str, Any]] = payload["stores"]
    return tuple(Copy(copy["name"], copy["image_id"], reserved=True) for copy in stores)
