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
from tintype.core.events import Event


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
        self, image_id: str, sent: ArchiveSummary, properties: Mapping[str, str]
    ) -> StoredImage:
        """Compare what the store holds with what was sent and add the last properties.

        Idempotent. Raises CorruptUpload, NotFound, Unavailable.
        """

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""

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
class Work:
    """A request whose next step a worker has claimed."""

    request_id: str
    step: Event
    deadline: datetime


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
    ) -> Admission:
        """Take a request in; the same again is a DUPLICATE, its id with another body a CONFLICT.

        `latest` is what `snapshot` shows of it until something happens.
        """

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

    def record(self, work: Work, events: Sequence[Event], step: Event | None) -> None:
        """Record events for the outbox and the next step together; no step: the request is done."""

    def postpone(self, work: Work, until: datetime, step: Event | None = None) -> None:
        """Give a step back, not to run before `until`; `step` is what has become of it."""

    def recover(self) -> int:
        """Make steps that were running when the process died runnable; return how many."""

    def note(self, event: Event) -> None:
        """Remember a progress event as the snapshot's latest; of no consequence when lost."""

    def snapshot(self, ident: str) -> Event | None:
        """Return the latest event of the snapshot or request with this id."""

    def live(self) -> frozenset[str]:
        """Return the ids of all requests that are not done."""

    def dead_letters(self) -> Sequence[DeadLetter]:
        """Return all dead letters, oldest first."""

    def prune(self, before: datetime) -> int:
        """Forget requests done, and dead letters kept, before then; return how many.

        A request that is forgotten would run again if it were sent again.
        """

    def close(self) -> None:
        """Release the storage."""


class Outbox(Protocol):
    """The recorded events that the bus has not confirmed yet, oldest first."""

    def pending(self, limit: int) -> Sequence[OutboxRow]:
        """Return at most `limit` unconfirmed events."""

    def confirm(self, row: OutboxRow) -> None:
        """Mark an event as taken by the broker."""


class Publisher(Protocol):
    """A way onto the bus that tells the truth about delivery."""

    def publish(self, event: Event) -> None:
        """Return once the broker has taken responsibility; raise Unavailable otherwise."""

    def close(self) -> None:
        """Release connections."""


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
    progress: Callable[[Event], None] = lambda event: None
    """Best effort, at most one a second for a request."""
    checkpoint: Checkpoint = lambda: None
    poll_seconds: float = 5.0
    """How often a running upload looks whether its image was deleted."""


Handler = Callable[[Event, Services], Iterable[Event]]
"""A stateless function from an event to what follows from it."""
