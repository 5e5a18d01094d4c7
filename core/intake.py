"""The door: a message off the bus is checked, journaled and thereby accepted, or it is answered.

Runs inside the listener's callback, so it does nothing slow: no engine, no HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from tintype.core.errors import (
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    RequestConflict,
    TintypeError,
    Violation,
    WrongState,
)
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    CONTAINER_DELETE_START,
    EXISTS_REQUEST,
    RESTORE_CANCEL,
    RESTORE_REQUEST,
    Event,
    Message,
    Requester,
    derived_id,
    fingerprint,
    is_about_restore,
    is_uuid,
)
from tintype.core.ownership import may_use
from tintype.core.ports import Admission, Cancellation, Clock, Journal
from tintype.core.steps import REQUESTS, rejection

LOG = logging.getLogger(__name__)

Validator = Callable[[str, Any], Sequence[Violation]]
"""Checks a payload against the schema of its event type."""

Taker = Callable[[Message, Requester], None]
"""Takes a valid message of one type, on behalf of whoever sent it."""

CANCELS = (COMMIT_CANCEL, RESTORE_CANCEL)
"""Messages that stop a request, whatever that is for."""

ANSWERED = (*REQUESTS, *CANCELS)
"""Messages that are answered when they cannot be taken; their senders wait for something."""

CANCELLED = "cancelled on request"
"""Reason of a cancellation that gives none."""

LONGEST = timedelta(days=365)
"""No request is worked on for longer: a deadline at the end of time leaves no room after it."""

VOID_PATIENCE = timedelta(seconds=10)
"""How long a request that came too late waits for its router's word that it is answered."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What messages that are no requests ask of the agent. None of these waits for anything."""

    cancel: Callable[[str, Cancellation], bool]
    """Stops a request; False when it is unknown or has its outcome."""
    ask: Callable[[str | None], None]
    """Has one container told of, or all and all snapshots."""
    deleting: Callable[[str, str, str, Requester], bool]
    """Notes that a container (uuid) is about to be deleted: event id, moment, by whom."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes messages into the journal."""

    journal: Journal
    validate: Validator
    requester_of: Callable[[Any], Requester]
    """Reads a message's context, which may be anything."""
    clock: Clock
    host: str
    default_deadline: timedelta
    wake: Callable[[], None]
    """Called when there is something new to do or to publish."""
    calls: Calls

    def on_message(self, message: Message) -> None:
        """Take a message, or answer and keep it. Raises Unavailable when neither can be stored."""
        try:
            self.take(message)
        except (Invalid, Refused) as error:
            self._reject(message, error)

    def on_garbage(self, reason: str, message: Mapping[str, Any]) -> None:
        """Keep something that was not even a message."""
        LOG.warning("dead letter: %s", reason)
        self.journal.reject(fingerprint(reason, message), reason, message, None)

    def take(self, message: Message) -> None:
        """Take a message; a repeated one changes nothing.

        Raises Invalid for one that can never be taken, RequestConflict for a request whose id was
        used for another, Refused for a cancellation that comes too late or from a stranger.
        """
        takers: Mapping[str, Taker] = {
            COMMIT_REQUEST: self._take_request,
            RESTORE_REQUEST: self._take_request,
            COMMIT_CANCEL: self._take_cancel,
            RESTORE_CANCEL: self._take_cancel,
            EXISTS_REQUEST: self._take_question,
            CONTAINER_DELETE_START: self._take_deletion,
        }
        taker = taker_of(message, takers, self.validate)
        taker(message, self.requester_of(message.context))

    def _take_request(self, message: Message, requester: Requester) -> None:
        request = request_of(message, requester)
        now = self.clock.now()
        job = REQUESTS[request.type].begin(request, host=self.host, created_at=now.isoformat())
        accept_by = request.payload.get("accept_by")
        late = accept_by is not None and now >= datetime.fromisoformat(accept_by)
        admission = self.journal.admit(
            job.request_id,
            request_print(request),
            request,
            deadline_of(request, now, self.default_deadline),
            job.event(job.PROGRESS, status="queued"),
            # Its router has most likely given it up, and says so in one of the next messages.
            not_before=now + VOID_PATIENCE if late else None,
        )
        if admission is Admission.CONFLICT:
            raise conflict(job.request_id)
        if admission is Admission.NEW:
            self.wake()

    def _take_cancel(self, message: Message, requester: Requester) -> None:
        request_id = message.payload["request_id"].lower()
        latest = self._latest(request_id)
        answered = requester.is_admin and message.payload.get("answered", False)
        reason = message.payload.get("reason") or CANCELLED
        if answered and latest is not None and not self._is_of(latest, requester):
            LOG.warning("request %s was answered, but not this project's", request_id)
            return
        if latest is not None and not may_use(latest.requester.project_id, requester):
            raise Forbidden(f"/request_id: {request_id} is another project's")
        if self.calls.cancel(request_id, Cancellation(reason, answered)) or answered:
            return
        if latest is None:
            raise NotFound(f"/request_id: no request {request_id} is known on host {self.host}")
        raise WrongState(f"/request_id: {request_id} has ended already")

    def _is_of(self, latest: Event, requester: Requester) -> bool:
        """Tell whether a router that has answered means this request: its id may be another's.

        A router names no project for a request that came without one, and got ours here.
        """
        project_id = requester.project_id
        if project_id is None:
            project_id = self.requester_of(None).project_id
        return latest.requester.project_id in (requester.project_id, project_id)

    def _take_question(self, message: Message, _: Requester) -> None:
        self.calls.ask(message.payload.get("container"))

    def _take_deletion(self, message: Message, requester: Requester) -> None:
        payload = message.payload
        uuid = str(payload.get("container_uuid") or payload["uuid"]).lower()
        event_id = payload.get("event_id") or message.message_id
        at = payload.get("occurred_at") or self.clock.now().isoformat()
        if not self.calls.deleting(uuid, event_id or message_print(message), at, requester):
            LOG.info("the deletion of container %s, unknown here, is not looked at", uuid)

    def _reject(self, message: Message, error: TintypeError) -> None:
        """Keep the message; answer it when it was meant as a request."""
        LOG.warning("dead letter: %s", error)
        requester = self.requester_of(message.context)
        meant = replace(message, event_type=self._meant(message))
        answer = answer_to(meant, requester, error, self.host, self.clock.now())
        self.journal.reject(message_print(message), str(error), kept(message), answer)
        self.wake()

    def _meant(self, message: Message) -> Any:
        """Return as what a message is to be answered: a cancellation as that of what it names.

        What cancels a snapshot cancels a restore as well, and the other way round.
        """
        if message.event_type not in CANCELS:
            return message.event_type
        latest = self._latest(request_id_of(message))
        if latest is None:
            return message.event_type
        return RESTORE_CANCEL if is_about_restore(latest.type) else COMMIT_CANCEL

    def _latest(self, request_id: str) -> Event | None:
        """Return how a request stands; None where that is the id of a snapshot or restore."""
        latest = self.journal.latest(request_id)
        if latest is None or latest.payload["request_id"] != request_id:
            return None
        return latest


# What an agent and a router do alike


def taker_of(message: Message, takers: Mapping[str, Taker], validate: Validator) -> Taker:
    """Return what takes a message of this type. Raises Invalid for another, or a bad payload."""
    kind = message.event_type
    taker = takers.get(kind) if isinstance(kind, str) else None
    if taker is None:
        known = ", ".join(map(repr, takers))
        raise Invalid(f"event_type: expected one of {known}, got {kind!r:.100}")
    check(validate(kind, message.payload))
    return taker


def answer_to(
    message: Message, requester: Requester, error: TintypeError, host: str, now: datetime
) -> Event | None:
    """Return the answer to a message that was not taken; None where nobody waits for one."""
    if message.event_type not in ANSWERED:
        return None
    return rejection(
        message_print(message),
        message.payload,
        requester,
        error,
        request_id=request_id_of(message),
        host=host,
        now=now.isoformat(),
        event_type=message.event_type,
    )


def check(violations: Sequence[Violation]) -> None:
    """Raise Invalid when there are some."""
    if violations:
        raise Invalid("; ".join(map(str, violations)), violations)


def request_of(message: Message, requester: Requester) -> Event:
    """Return the request in a message that has passed its schema, with its id."""
    payload = {**message.payload, "request_id": request_id_of(message)}
    return Event(message.event_type, payload, requester, payload["request_id"])


def request_print(request: Event) -> str:
    """Return what tells one request from another with the same id.

    When it came, by way of which router, makes no difference.
    """
    asked = {name: value for name, value in request.payload.items() if name != "accept_by"}
    who = request.requester
    return fingerprint(request.type, asked, who.project_id, who.user_id)


def conflict(request_id: str) -> RequestConflict:
    """Return the error for a request id that was used for another request."""
    return RequestConflict(
        f"/request_id: {request_id} was used before for another request; send a new id"
    )


def deadline_of(request: Event, now: datetime, default: timedelta) -> datetime:
    """Return when a request is to be given up."""
    text = request.payload.get("deadline")
    wanted = now + default if text is None else datetime.fromisoformat(text)
    return min(wanted, now + LONGEST)


def message_print(message: Message) -> str:
    """Return what tells one message from another."""
    return fingerprint(message.message_id, message.timestamp, message.event_type, message.payload)


def kept(message: Message) -> dict[str, Any]:
    """Return a message as a dead letter."""
    return {
        "event_type": message.event_type,
        "publisher_id": message.publisher_id,
        "message_id": message.message_id,
        "timestamp": message.timestamp,
        "payload": message.payload,
    }


def request_id_of(message: Message) -> str:
    """Return the id under which a request is known: its own, else one made of the message's."""
    given = message.payload.get("request_id") if isinstance(message.payload, Mapping) else None
    for candidate in (given, message.message_id):
        if is_uuid(candidate):
            return str(candidate).lower()
    return derived_id(
        fingerprint(
            message.message_id,
            message.publisher_id,
            message.timestamp,
            message.event_type,
            message.payload,
        )
    )
