"""The ports: all that the core knows of engines, image stores, journals and buses.

Each has a real adapter and an in-memory twin in `tintype.adapters`, and both pass the same contract
suite (tests/contract). Methods raise only what `tintype.core.errors` names; `Unavailable` from any
of them means that the same call may be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from tintype.core.engine import Engine
from tintype.core.errors import Invalid, Refused
from tintype.core.events import Event
from tintype.core.images import ImageStore
from tintype.core.ownership import Ownership
from tintype.core.policy import Policy
from tintype.core.rules import Rule


class Clock(Protocol):
    """Time, so that a test need not wait for it."""

    def now(self) -> datetime:
        """Return the time, with UTC as its zone."""


class Admission(StrEnum):
    """What the journal made of a request."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Cancellation:
    """That a request is to stop, and why."""

    reason: str
    answered: bool = False
    """Somebody else has told its outcome already: end without a word."""


@dataclass(frozen=True, slots=True)
class Work:
    """A request whose next step a worker has claimed."""

    request_id: str
    step: Event
    deadline: datetime
    cancelled: Cancellation | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be used, kept for a person to look at."""

    id: int
    received_at: str
    reason: str
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event that is to be published."""

    id: int
    event: Event
    created_at: str


class Journal(Protocol):
    """The only memory of work in hand. Every method is one transaction on durable storage."""

    def admit(
        self,
        request_id: str,
        fingerprint: str,
        step: Event,
        deadline: datetime,
        latest: Event | None = None,
        *,
        not_before: datetime | None = None,
    ) -> Admission:
        """Take a request in; the same again is a DUPLICATE, its id with another body a CONFLICT.

        `latest` is what `latest` shows of it until something happens; its first step does not
        run before `not_before`.
        """

    def cancel(self, request_id: str, cancellation: Cancellation) -> bool:
        """Have a request stopped at its next step; False when it is unknown or has its outcome.

        A request that waits, for a time or a place or its container, becomes runnable for it.
        True also for one that was cancelled before, whatever has become of it.

        With `answered`, an outcome that the broker has not confirmed leaves the outbox: somebody
        else has told one. If it was a good one, the `undo` that was recorded with it is the next
        step. And an unknown id is spent: whatever is admitted under it later is a DUPLICATE, for it
        may come after its cancellation.
        """

    def holding(self, engine_id: str) -> Sequence[str]:
        """Return the ids of the requests that have this container in hand, oldest first."""

    def reject(
        self, key: str, reason: str, message: Mapping[str, Any], answer: Event | None
    ) -> bool:
        """Keep a message as dead letter and answer it; False when `key` was rejected before."""

    def claim(self, now: datetime, places: int | None = None) -> Work | None:
        """Hand the oldest runnable step to a worker and count the attempt.

        Requests for one container run one after another. At most `places` snapshots and restores
        are in hand at once: one takes its place with a step of `tintype.core.steps.ENTRIES` and
        keeps it to its outcome, through all waiting. None: nothing is runnable now.
        """

    def next_due(self) -> datetime | None:
        """Return when the next postponed step becomes runnable; None: none waits."""

    def record(
        self,
        work: Work,
        events: Sequence[Event],
        step: Event | None,
        *,
        undo: Event | None = None,
    ) -> None:
        """Record events for the outbox and the next step together; no step: the request is done.

        The outcome of a request whose outcome somebody else has told is remembered, but not told.
        If it is a good one, the step `undo` is recorded instead of everything: the others were
        told that nothing came of it.
        """

    def postpone(self, work: Work, until: datetime, step: Event | None = None) -> None:
        """Give a step back, not to run before `until`; `step` is what has become of it.

        One that was cancelled meanwhile does not wait, unless it is cleaning up.
        """

    def recover(self) -> int:
        """Make steps that were running when the process died runnable; return how many."""

    def note(self, event: Event) -> None:
        """Remember a progress event as the snapshot's latest; of no consequence when lost."""

    def latest(self, ident: str) -> Event | None:
        """Return the latest event of the request, snapshot or restore with this id."""

    def snapshots(self) -> Sequence[Event]:
        """Return the latest event of every snapshot that has one, oldest request first."""

    def live(self) -> frozenset[str]:
        """Return the ids of all requests that are not done."""

    def dead_letters(self) -> Sequence[DeadLetter]:
        """Return all dead letters, oldest first."""

    def prune(self, before: datetime) -> int:
        """Forget requests done, and dead letters kept, before then; return how many.

        A request that is forgotten would run again if it were sent again. Confirmed events about
        containers, which come by the thousand, are forgotten after an hour in any case.
        """

    def close(self) -> None:
        """Release the storage."""


class Outbox(Protocol):
    """The recorded events that the bus has not confirmed yet, oldest first."""

    def pending(self, limit: int) -> Sequence[OutboxRow]:
        """Return at most `limit` unconfirmed events."""

    def confirm(self, rows: Sequence[OutboxRow]) -> None:
        """Mark events as taken by the broker."""

    def confirmed_at(self, event_id: str) -> datetime | None:
        """Return when the broker took an event; None: not yet, or it is forgotten."""


@dataclass(frozen=True, slots=True)
class Known:
    """A container that the bus was told of."""

    payload: Mapping[str, Any]
    """What was told last."""
    since: str
    """When it was first told of, ISO 8601."""


class WatchLog(Protocol):
    """How far the engine's events were told. Shares its transactions with the outbox."""

    def resume_point(self) -> int | None:
        """Return the `at` of the last engine event that was told; None: there is none yet."""

    def known(self) -> Mapping[str, Known]:
        """Return the containers told of and not told deleted, by engine id."""

    def observe(
        self,
        events: Sequence[Event],
        told: Mapping[str, Mapping[str, Any] | None],
        resume_point: int | None = None,
    ) -> None:
        """Put events into the outbox and remember what they tell, together.

        `told`: engine id -> payload, or None for a container that is gone.
        """

    def ticked_at(self) -> datetime | None:
        """Return until when schedules were looked at; None: never."""

    def tick(self, events: Sequence[Event], at: datetime) -> None:
        """Put what schedules ask for into the outbox, and remember that they were looked at."""


class Publisher(Protocol):
    """A way onto the bus that tells the truth about delivery."""

    def publish(self, event: Event) -> None:
        """Return once the broker has taken responsibility; raise Unavailable otherwise."""

    def close(self) -> None:
        """Release connections."""


def _no_cron(expression: str, after: datetime) -> datetime:
    raise Invalid(f"cron expressions are not read here: {expression!r} after {after}")


Checkpoint = Callable[[], None]
"""Called between chunks of long work; raises Cancelled, TimedOut or Interrupted to stop it."""


@dataclass(frozen=True, slots=True)
class Services:
    """The ports a handler is given, and nothing else."""

    engine: Engine
    stores: Mapping[str, ImageStore]
    clock: Clock
    host: str
    """Name of this host, as it stands in events and topics."""
    default_stores: Sequence[str]
    """Where images go whose request names no store."""
    ownership: Ownership = field(default_factory=Ownership)
    """Whose containers are."""
    progress: Callable[[Event], None] = lambda event: None
    """Best effort, at most one a second for a request."""
    checkpoint: Checkpoint = lambda: None
    cron: Callable[[str, datetime], datetime] = _no_cron
    """The first time after a moment that a cron expression (UTC) names. Raises Invalid."""
    rules: Sequence[Rule] = ()
    """Configured rules: what asks for snapshots beside containers' own labels."""
    confirmed_at: Callable[[str], datetime | None] = lambda event_id: None
    """When the bus confirmed the recorded event with this id, waited for a moment; None: not yet.
    """
    policy: Policy = field(default_factory=Policy)
    """What the operator allows, and where the limits are."""
    poll_seconds: float = 5.0
    """How often a running upload looks whether its image was deleted."""

    def store(self, name: str, repository: str | None = None) -> ImageStore:
        """Return a store, as it is seen in one of its repositories.

        Raises Refused for one that is not configured here any more.
        """
        if name not in self.stores:
            raise Refused(f"the store {name!r} is not configured here any more")
        return self.stores[name].at(repository)


Handler = Callable[[Event, Services], Iterable[Event]]
"""A stateless function from an event to what follows from it."""
