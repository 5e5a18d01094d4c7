"""The index: what is known of all containers, snapshots and restores, from events alone.

Events come late, twice and in any order, from our agents and from other services. So what an event
says is a `Sighting`: facts, each true at one moment. A container's record keeps the latest fact of
each kind, whatever the order in which they came; a deletion holds until an engine says later that
the container exists. Merging is commutative, associative and idempotent, which is all that makes
any permutation end in the same index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol, Self

from tintype.core.engine import ContainerState
from tintype.core.events import (
    CONTAINER_CREATE,
    CONTAINER_DELETE,
    CONTAINER_EXISTS,
    CONTAINER_PAUSE,
    CONTAINER_RENAME,
    CONTAINER_START,
    CONTAINER_STOP,
    CONTAINER_UNPAUSE,
    CONTAINER_UPDATE,
    OUTCOMES,
    SNAPSHOT_EXISTS,
    Message,
    canonical,
    fingerprint,
    unwrapped,
)
from tintype.core.moments import moment

Version = tuple[str, str, str]
"""When a fact was true (UTC, fixed width), who says so (event id), and what it says.

Compared in this order: two events of one moment are told apart by their ids, and the same id with
two contents by these, so that no order of arrival ever matters.
"""

FACTS = (
    "host",
    "engine_id",
    "name",
    "state",
    "image",
    "project_id",
    "user_id",
    "labels",
    "created_at",
)
"""What a record holds of a container, beside its uuid."""

_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "uuid": ("container_uuid", "uuid"),
    "host": ("host",),
    "engine_id": ("engine_container_id", "container_id"),
    "name": ("container_name", "name"),
    "state": ("state", "status"),
    "image": ("base_image", "image"),
    "project_id": ("project_id", "tenant_id"),
    "user_id": ("user_id",),
    "labels": ("labels",),
    "created_at": ("created_at",),
}
"""Our names, then those of other services (Zun's container object), of each field."""

_STATE_AFTER: Mapping[str, ContainerState] = {
    CONTAINER_START: ContainerState.RUNNING,
    CONTAINER_UNPAUSE: ContainerState.RUNNING,
    CONTAINER_PAUSE: ContainerState.PAUSED,
    CONTAINER_STOP: ContainerState.STOPPED,
}
"""What an event means for the state when it does not name one."""

TOLD_OF = frozenset(
    {
        CONTAINER_EXISTS,
        CONTAINER_CREATE,
        CONTAINER_START,
        CONTAINER_PAUSE,
        CONTAINER_UNPAUSE,
        CONTAINER_STOP,
        CONTAINER_RENAME,
        CONTAINER_UPDATE,
        CONTAINER_DELETE,
    }
)
"""Events that say how a container is. Those that announce a change (`.start`) say nothing yet."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one event says of one container."""

    uuid: str
    at: str
    """The moment at which it was so, as `moment` writes it."""
    event_id: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Some of FACTS: what the event names; strings, and a dict for `labels`."""
    deleted: bool = False
    exists: bool = False
    """Told by `container.exists`: the engine had it at that moment."""

    @classmethod
    def read(cls, message: Message, now: datetime) -> Self | None:
        """Read a notification whose payload has passed its schema; None when it is of no use.

        `now` stands for the moment of an event that names none.
        """
        if message.event_type not in TOLD_OF or not isinstance(message.payload, Mapping):
            return None
        payload = unwrapped(message.payload)
        found = {name: _first(payload, _SPELLINGS[name]) for name in _SPELLINGS}
        uuid = found.pop("uuid")
        if not isinstance(uuid, str):
            return None
        if found["state"] is None:
            found["state"] = _STATE_AFTER.get(message.event_type)
        told_at = moment(payload.get("occurred_at")) or moment(message.timestamp)
        event_id = payload.get("event_id") or message.message_id
        return cls(
            uuid=uuid.lower(),
            at=told_at or moment(now) or "",
            event_id=str(event_id or fingerprint(message.event_type, payload, message.timestamp)),
            facts={name: _fact(name, value) for name, value in found.items() if value is not None},
            deleted=message.event_type == CONTAINER_DELETE,
            exists=message.event_type == CONTAINER_EXISTS,
        )


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """What is known of one container."""

    uuid: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)
    """The version of each fact."""
    deleted_at: str | None = None
    """When it was deleted, at the latest told; kept as a tombstone against late events."""
    exists_at: str | None = None
    """When `container.exists` told of it last. No other event revives: only this one is asked of an
    engine, which may have been wrong before (it came up without its disk)."""
    heard_at: str = ""
    """The latest moment that any event told of."""

    def merged(self, sighting: Sighting) -> Self:
        """Return the record with what the sighting adds."""
        facts, versions = dict(self.facts), dict(self.versions)
        for name, value in sighting.facts.items():
            version = (sighting.at, sighting.event_id, canonical(value).decode("ascii"))
            if name not in versions or version > versions[name]:
                facts[name], versions[name] = value, version
        return replace(
            self,
            facts=facts,
            versions=versions,
            deleted_at=_later(self.deleted_at, sighting.at if sighting.deleted else None),
            exists_at=_later(self.exists_at, sighting.at if sighting.exists else None),
            heard_at=max(self.heard_at, sighting.at),
        )

    @property
    def deleted(self) -> bool:
        """Whether it was deleted, and was not told to exist after that."""
        return self.deleted_at is not None and (self.exists_at or "") <= self.deleted_at

    @property
    def host(self) -> str | None:
        """Host that it is on."""
        return self.facts.get("host")

    @property
    def name(self) -> str | None:
        """Its name."""
        return self.facts.get("name")

    @property
    def state(self) -> ContainerState:
        """Its state in the words of the spec."""
        try:
            return ContainerState(self.facts.get("state", ""))
        except ValueError:
            return ContainerState.OTHER

    @property
    def project_id(self) -> str | None:
        """Project that owns it; None: nobody's in particular."""
        return self.facts.get("project_id")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """How one snapshot or restore stands: its latest event."""

    request_id: str
    rank: tuple[bool, str, str]
    """Orders the events about one request: an outcome is above all else, then time, then id."""
    payload: Mapping[str, Any]

    @classmethod
    def read(cls, message: Message) -> Self:
        """Read a notification about one whose payload has passed its schema."""
        payload: Mapping[str, Any] = message.payload
        again = message.event_type == SNAPSHOT_EXISTS
        ended = message.event_type in OUTCOMES or (again and payload["finished_at"] is not None)
        # Told again on demand, an unfinished snapshot may have got further since.
        at = payload["finished_at"] if ended else "" if again else message.timestamp
        return cls(
            str(payload["request_id"]), (ended, moment(at) or "", payload["event_id"]), payload
        )

    @classmethod
    def promised(cls, payload: Mapping[str, Any]) -> Self:
        """Return what is known before any event: the request is on its way to its host."""
        return cls(str(payload["request_id"]), (False, "", ""), payload)

    @property
    def told(self) -> bool:
        """Whether any event said so; else it is only promised, and no host has it yet."""
        return self.rank[2] != ""

    @property
    def ended(self) -> bool:
        """Whether it has its outcome."""
        return self.payload["finished_at"] is not None

    def latest(self, other: Self) -> Self:
        """Return the one of two that counts; of equal rank, not the first one but the greater."""
        return max(self, other, key=lambda record: (record.rank, canonical(record.payload)))


class SnapshotRecord(JobRecord):
    """How one snapshot stands: its latest `image.snapshot.*`."""

    __slots__ = ()


class RestoreRecord(JobRecord):
    """How one restore stands: its latest `container.restore.*`."""

    __slots__ = ()


PAGE_MOST = 1000
"""Records that one page may have."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which records are wanted, in which order, and from where on."""

    sort: str
    """Field that orders them; the id orders those that are equal in it."""
    limit: int
    descending: bool = False
    marker: str | None = None
    """Id of the last record of the page before: a container's uuid, or the job's own id."""
    project_id: str | None = None
    """Only what belongs to this project. None: all."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """Field -> the value that it must have."""


CONTAINER_FIELDS = ("name", "host", "state", "created_at")
"""What containers can be filtered and, with `uuid`, sorted by."""

SNAPSHOT_FIELDS = (
    "container_uuid",
    "container_name",
    "host",
    "image_id",
    "image_name",
    "status",
    "created_at",
)
"""What snapshots can be filtered and, with `snapshot_id`, sorted by."""

RESTORE_FIELDS = (
    "snapshot_id",
    "image_id",
    "image_name",
    "container_uuid",
    "container_name",
    "host",
    "status",
    "created_at",
)
"""What restores can be filtered and, with `restore_id`, sorted by."""


class Index(Protocol):
    """The read model of containers, snapshots and restores.

    Raises Unavailable only. The one exception: lists raise NotFound for a marker that is not known.
    A field that they cannot be sorted or filtered by is a defect of the caller: ValueError.
    """

    def sight(self, sightings: Sequence[Sighting]) -> None:
        """Merge what events say into the records, in one transaction."""

    def note(self, records: Sequence[SnapshotRecord | RestoreRecord]) -> None:
        """Keep the latest of what is known of snapshots and restores, in one transaction."""

    def find(
        self, ident: str, usable: Callable[[ContainerRecord], bool] = lambda record: True
    ) -> Sequence[ContainerRecord]:
        """Return the living containers that `ident` may stand for, best kind of match first only.

        Of the usable ones alone: nobody hides a container by the name that he gives to his own.
        A uuid or an engine id matches before a name, a name before the start of an engine id. A
        start counts from 12 characters, Docker's short id: a shorter one is only a name.
        """

    def container(self, uuid: str) -> ContainerRecord | None:
        """Return what is known of a container, deleted or not."""

    def containers(self) -> Sequence[ContainerRecord]:
        """Return all living containers, by uuid."""

    def list_containers(self, query: Query) -> Sequence[ContainerRecord]:
        """Return a page of living containers; a marker that is not known raises NotFound."""

    def snapshot(self, request_id: str) -> SnapshotRecord | None:
        """Return how a snapshot stands."""

    def find_snapshot(self, ident: str) -> SnapshotRecord | None:
        """Return the snapshot with this id, or of the request with this id."""

    def snapshots(self) -> Sequence[SnapshotRecord]:
        """Return all snapshots, by request id."""

    def list_snapshots(self, query: Query) -> Sequence[SnapshotRecord]:
        """Return a page of snapshots; a marker that is not known raises NotFound."""

    def restore(self, request_id: str) -> RestoreRecord | None:
        """Return how a restore stands."""

    def find_restore(self, ident: str) -> RestoreRecord | None:
        """Return the restore with this id, or of the request with this id."""

    def restores(self) -> Sequence[RestoreRecord]:
        """Return all restores, by request id."""

    def list_restores(self, query: Query) -> Sequence[RestoreRecord]:
        """Return a page of restores; a marker that is not known raises NotFound."""

    def heard_at(self) -> str | None:
        """Return the latest moment that any record was told of; None: the index is empty."""

    def prune(self, before: datetime) -> int:
        """Forget containers not heard of, and what has ended, before then; return how many."""

    def close(self) -> None:
        """Release connections."""


def _later(one: str | None, other: str | None) -> str | None:
    return max(filter(None, (one, other)), default=None)


def _first(payload: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((payload[name] for name in names if payload.get(name) is not None), None)


def _fact(name: str, value: Any) -> Any:
    if name == "labels":
        pairs = value.items() if isinstance(value, Mapping) else ()
        return {str(key): str(text) for key, text in pairs}
    if name == "created_at":
        return moment(value) or str(value)
    return str(value)
