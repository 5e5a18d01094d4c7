"""The door: a message off the bus is checked, journaled and thereby accepted, or it is answered.

Runs inside the listener's callback, so it does nothing slow: no engine, no HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tintype.core.errors import (
    Invalid,
    RequestConflict,
    TintypeError,
    Violation,
)
from tintype.core.events import (
    COMMIT_REQUEST,
    SNAPSHOT_PROGRESS,
    Event,
    Message,
    Requester,
    derived_id,
    fingerprint,
    is_uuid,
)
from tintype.core.ports import Admission, Clock, Journal
from tintype.core.snapshot import Snapshot, rejection

LOG = logging.getLogger(__name__)

Validator = Callable[[str, Any], Sequence[Violation]]
"""Checks a payload against the schema of its event type."""


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

    def on_message(self, message: Message) -> None:
        """Take a message, or answer and keep it. Raises Unavailable when neither can be stored."""
        try:
            self.take(message)
        except Invalid as error:
            self._reject(message, error)

    def on_garbage(self, reason: str, message: Mapping[str, Any]) -> None:
        """Keep something that was not even a message."""
        LOG.warning("dead letter: %s", reason)
        self.journal.reject(fingerprint(reason, message), reason, message, None)

    def take(self, message: Message) -> str:
        """Journal a request and return its id; a repeated one changes nothing.

        Raises Invalid for a message that is not an acceptable request, RequestConflict for one
        whose request id was used for another.
        """
        if message.event_type != COMMIT_REQUEST:
            raise Invalid(
                f"event_type: expected {COMMIT_REQUEST!r}, got {message.event_type!r:.100}"
            )
        violations = self.validate(message.event_type, message.payload)
        if violations:
            raise Invalid("; ".join(map(str, violations)), violations)
        requester = self.requester_of(message.context)
        request_id = _request_id(message)
        payload = {**message.payload, "request_id": request_id}
        step = Event(message.event_type, payload, requester)
        print_ = fingerprint(step.type, payload, requester.project_id, requester.user_id)
        now = self.clock.now()
        snapshot = Snapshot.begin(step, host=self.host, created_at=now.isoformat())
        accepted = snapshot.event(SNAPSHOT_PROGRESS, status="queued")
        deadline = self._deadline(payload, now)
        admission = self.journal.admit(request_id, print_, step, deadline, accepted)
        if admission is Admission.CONFLICT:
            raise RequestConflict(
                f"/request_id: {request_id} was used before for another request; send a new id"
            )
        if admission is Admission.NEW:
            self.wake()
        return request_id

    def _deadline(self, payload: Mapping[str, Any], now: datetime) -> datetime:
        if "deadline" in payload:
            return datetime.fromisoformat(payload["deadline"])
        return now + self.default_deadline

    def _reject(self, message: Message, error: TintypeError) -> None:
        """Keep the message; answer it when it was meant as a request."""
        key = fingerprint(
            message.message_id, message.timestamp, message.event_type, message.payload
        )
        answer = None
        if message.event_type == COMMIT_REQUEST:
            answer = rejection(
                key,
                message.payload,
                self.requester_of(message.context),
                error,
                request_id=_request_id(message),
                host=self.host,
                now=self.clock.now().isoformat(),
            )
        LOG.warning("dead letter: %s", error)
        kept = {
            "event_type": message.event_type,
            "publisher_id": message.publisher_id,
            "message_id": message.message_id,
            "timestamp": message.timestamp,
            "payload": message.payload,
        }
        self.journal.reject(key, str(error), kept, answer)
        self.wake()


def _request_id(message: Message) -> str:
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
