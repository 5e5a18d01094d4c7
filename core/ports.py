"""The ports: all that the core knows of engines, image stores, journals and buses.

Each has a real adapter and an in-memory twin in `tintype.adapters`, and both pass the same contract
suite (tests/contract). Methods raise only what `tintype.core.errors` names; `Unavailable` from any
of them means that the same call may be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from tintype.core.archive import ArchiveSummary
from tintype.core.errors import Invalid
from tintype.core.events import Event, is_uuid
from tintype.core.ownership import Ownership
from tintype.core.rules import Rule


class ContainerState(StrEnum):
    """A container's state in the words of the spec (Zun's), not the engine's."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    OTHER = "Other"
    """Created, restarting, removing, dead: nothing that can be snapshotted."""


@dataclass(frozen=True, slots=True)
class Container:
    """What a snapshot needs to know of a container."""

    engine_id: str
    uuid: str
    """Zun's uuid for a container named `zun-<uuid>`, else the engine's id."""
    name: str
    state: ContainerState
    image: str
    """Reference the container was made from, as its creator wrote it."""
    image_id: str
    """Digest of that image's configuration."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """For a restore: command, entrypoint, working_dir, user, exposed_ports, restart_policy."""
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    """Mount points whose data a commit does not hold."""
    created_at: str = ""
    """When it was made, ISO 8601; empty where the engine does not say."""


ZUN_PREFIX = "zun-"
"""Zun names a container after its uuid, and labels nothing (zun/container/docker/driver.py)."""


def container_uuid(name: str, engine_id: str) -> str:
    """Return Zun's uuid for a container named `zun-<uuid>`, else the engine's id."""
    uuid = name.removeprefix(ZUN_PREFIX)
    zuns = uuid != name and is_uuid(uuid) and uuid == uuid.lower()
    return uuid if zuns else engine_id


class EngineAction(StrEnum):
    """What has happened to a container, in the engine's words (moby's `events.Action`)."""

    CREATE = "create"
    START = "start"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    DIE = "die"
    """Its main process has ended, asked to or not."""
    RENAME = "rename"
    UPDATE = "update"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """One event of the engine about a container."""

    action: EngineAction
    engine_id: str
    at: int
    """When, nanoseconds since 1970 by the engine's clock; the resume point of `Engine.watch`."""
    name: str
    image: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """As the engine's event has them: mixed with its own attributes, some of which win."""
    exit_code: int | None = None
    """Of a `die`."""


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How a container is to be captured."""

    pause: bool
    """Freeze the container while its file system is read."""
    message: str = ""
    author: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Capture(Protocol):
    """A container's file system at one instant, held until it is discarded.

    A `docker commit` may be behind it, or layers read straight from the engine's storage.
    """

    @property
    def ref(self) -> str:
        """Name by which `Engine.reopen` finds this capture after a restart."""

    @property
    def digest(self) -> str:
        """Digest of the image configuration, `sha256:...`."""

    @property
    def layers(self) -> Sequence[str]:
        """Diff ids, lowest layer first."""

    @property
    def size_bytes(self) -> int:
        """Size of the unpacked layers: an estimate of what `read` will yield."""

    @property
    def paused_ms(self) -> int:
        """How long the container was frozen for this capture, milliseconds."""

    def read(self) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the image as a docker-archive tar. Its content is not to be trusted unchecked."""


class Engine(Protocol):
    """The container engine of this host."""

    def inspect(self, ident: str) -> Container:
        """Return the container with this uuid, engine id (or a unique start of it) or name.

        Raises NotFound, or Refused where a name stands for several.
        """

    def containers(self) -> Sequence[Container]:
        """Return all containers, in any state; without `config` and `volumes`."""

    def watch(self, since: int, seconds: float) -> AbstractContextManager[Iterator[EngineEvent]]:
        """Stream what happens to containers from `since` (nanoseconds, inclusive) on.

        What the engine still remembers comes first (the Docker Engine: its last 256 events), then
        what happens, for `seconds`; then the stream ends. Raises Unavailable when the engine ends
        it earlier, or cannot be reached.
        """

    def thaw(self, engine_id: str) -> None:
        """Let a frozen container run; nothing happens to one that is gone or runs."""

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> Capture:
        """Capture the container on behalf of the request `owner`.

        The container is frozen for no longer than needed, thawed whatever happens, and never
        thawed when somebody else froze it. Raises StillFrozen when that failed; after any other
        error (NotFound, Refused, Unavailable) it is not frozen by us.
        """

    def reopen(self, ref: str, *, paused_ms: int = 0) -> Capture | None:
        """Return a capture made before, or None when it is no more."""

    def discard(self, owner: str) -> None:
        """Remove every capture made for `owner`; none left is fine."""

    def owners(self) -> frozenset[str]:
        """Return the owners of all captures that this Tintype made and that still exist."""

    def check(self) -> None:
        """Raise Unavailable unless the engine answers."""

    def close(self) -> None:
        """Release connections."""


class ImageStatus(StrEnum):
    """An image's status in Glance's words."""

    QUEUED = "queued"
    SAVING = "saving"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image as it is reserved, before it has data."""

    id: str
    name: str
    tag: str
    owner: str | None
    """Project that the image belongs to; None: the service's own."""
    visibility: str = "private"
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as a store has it."""

    id: str
    status: ImageStatus
    location: str
    size_bytes: int | None = None
    sha512: str | None = None
    owner: str | None = None
    """Project that it belongs to, where the store knows projects."""
    created_at: str | None = None
    """When it was reserved, ISO 8601, UTC."""


class ImageStore(Protocol):
    """A place that keeps images: `queued`, then `saving`, then `active`."""

    @property
    def name(self) -> str:
        """The store's name in requests and events."""

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; an image with this id that is there already is returned.

        Raises ImageIdSpent (deleted before, or stuck), TooLarge (quota), Refused, Unavailable.
        """

    def describe(self, image_id: str) -> StoredImage:
        """Return the image. Raises NotFound when it was deleted."""

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Send the data of a queued image, one chunk at a time.

        What `body` raises comes out as it is, and leaves no image that looks whole. Raises
        NotFound (deleted meanwhile), TooLarge, ImageIdSpent, Unavailable.
        """

    def complete(
        self,
        image_id: str,
        sent: ArchiveSummary,
        properties: Mapping[str, str],
        *,
        tag: str | None = None,
    ) -> StoredImage:
        """Compare what the store holds with what was sent and add what the image lacks.

        It may have been reserved by somebody who knew less of it. Idempotent. Raises
        CorruptUpload, NotFound, Unavailable.
        """

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""

    def find(self, owner: str | None, properties: Mapping[str, str]) -> Sequence[StoredImage]:
        """Return the active images of a project that have all these properties, newest first.

        None: whoever owns them. Raises Unavailable, Refused.
        """

    def download(self, image_id: str) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the data of an active image. Raises NotFound, Unavailable."""

    def check(self) -> None:
        """Raise Unavailable unless the store answers."""

    def close(self) -> None:
        """Release connections."""


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

        `latest` is what `snapshot` shows of it until something happens; its first step does not
        run before `not_before`.
        """

    def cancel(self, request_id: str, cancellation: Cancellation) -> bool:
        """Have a request stopped at its next step; False when it is unknown or has its outcome.

        A request that waits, for a time or a place or its container, becomes runnable for it.
        True also for one that was cancelled before, whatever has become of it.

        With `answered`, an outcome that the broker has not confirmed leaves the outbox: somebody
        else has told one. And an unknown id is spent: whatever is admitted under it later is a
        DUPLICATE, for it may come after its cancellation.
        """

    def holding(self, engine_id: str) -> Sequence[str]:
        """Return the ids of the requests that have this container in hand, oldest first."""

    def reject(
        self, key: str, reason: str, message: Mapping[str, Any], answer: Event | None
    ) -> bool:
        """Keep a message as dead letter and answer it; False when `key` was rejected before."""

    def claim(self, now: datetime, places: int | None = None) -> Work | None:
        """Hand the oldest runnable step to a worker and count the attempt.

        Requests for one container run one after another. At most `places` snapshots are in hand at
        once: one takes its place with the step `snapshot.reserve` and keeps it to its outcome,
        through all waiting. None: nothing is runnable now.
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
        told that there is no image.
        """

    def postpone(self, work: Work, until: datetime, step: Event | None = None) -> None:
        """Give a step back, not to run before `until`; `step` is what has become of it.

        One that was cancelled meanwhile does not wait, unless it is cleaning up.
        """

    def recover(self) -> int:
        """Make steps that were running when the process died runnable; return how many."""

    def note(self, event: Event) -> None:
        """Remember a progress event as the snapshot's latest; of no consequence when lost."""

    def snapshot(self, ident: str) -> Event | None:
        """Return the latest event of the snapshot or request with this id."""

    def snapshots(self) -> Sequence[Event]:
        """Return the latest event of every request that has one, oldest request first."""

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
    poll_seconds: float = 5.0
    """How often a running upload looks whether its image was deleted."""


Handler = Callable[[Event, Services], Iterable[Event]]
"""A stateless function from an event to what follows from it."""
