"""What is known of one snapshot: grown step by step, journaled whole with each step.

Handlers keep no state, so a step event carries all of it. `public` is the part that events, the
REST service and the command line show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from tintype.core.errors import StillFrozen, TimedOut, TintypeError
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_REQUEST,
    SCHEMA_VERSION,
    SNAPSHOT_ERROR,
    Event,
    Requester,
    derived_id,
)

RESERVE = "snapshot.reserve"
CAPTURE = "snapshot.capture"
UPLOAD = "snapshot.upload"
FINISH = "snapshot.finish"
ABORT = "snapshot.abort"
SWEEP = "snapshot.sweep"
ROTATE = "snapshot.rotate"

IMAGE_SERVICE = "glance"
"""The store whose images can be reserved beforehand, by whoever asks for the snapshot."""

ACCEPTED = "accepted"
"""The first phase: until the image is reserved, and with it the start announced."""

CLEANUP = frozenset({FINISH, ABORT, SWEEP, ROTATE})
"""Steps that end a request: run past any deadline, and again until they succeed."""

LOCK_FIELD = "engine_container_id"
"""Payload field whose value is the container that a step has to itself."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The snapshot's image in one store."""

    name: str
    """Name of the store."""
    image_id: str
    generation: int = 0
    """Counts the image ids used up before this one."""
    reserved: bool = False
    """Known to be ours: created by us, or handed to us queued."""
    status: str = "queued"
    location: str | None = None
    digest: str | None = None
    size_bytes: int | None = None
    spent: tuple[str, ...] = ()
    """Image ids that the store can no longer use, still to be deleted."""

    def next_generation(self, request_id: str) -> Self:
        """Return a copy with a fresh image id; the present one, if it is ours, is to be deleted."""
        generation = self.generation + 1
        return replace(
            self,
            image_id=image_id_for(request_id, generation),
            generation=generation,
            reserved=False,
            spent=(*self.spent, self.image_id) if self.reserved else self.spent,
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a snapshot failed, or waits."""

    code: int
    exception: str
    message: str
    retryable: bool
    phase: str
    image_deleted: bool | None = None
    """Whether no image is left in any store; None while the snapshot goes on."""

    @classmethod
    def of(cls, error: TintypeError, phase: str) -> Self:
        """Describe an error to the requester."""
        return cls(error.code, type(error).__name__, str(error)[:2000], error.retryable, phase)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot, from the request on."""

    request: Mapping[str, Any]
    """The validated payload of the request, `request_id` included."""
    requester: Requester
    request_id: str
    snapshot_id: str
    host: str
    created_at: str
    phase: str = ACCEPTED
    engine_container_id: str | None = None
    container_uuid: str | None = None
    container_name: str | None = None
    container_config: Mapping[str, Any] = field(default_factory=dict)
    container_labels: Mapping[str, str] = field(default_factory=dict)
    base_image: str | None = None
    base_image_id: str | None = None
    excluded_volumes: tuple[str, ...] = ()
    pause_intended: int = 0
    """The attempt at `snapshot.capture` that is to freeze the container; 0: none. Journaled before
    it does: a later attempt that still finds this here knows that the earlier one was killed."""
    copies: tuple[Copy, ...] = ()
    capture_ref: str | None = None
    engine_image_id: str | None = None
    layers: tuple[str, ...] = ()
    paused_ms: int | None = None
    bytes_total: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    rotating: tuple[Mapping[str, str], ...] = ()
    """Older images (`store`, `image_id`) that this one makes superfluous: those that were told."""
    finished_at: str | None = None
    fault: Fault | None = None
    last_failure: str | None = None
    """Why the last attempt failed that was followed by another."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How often each step has failed in each way: `<step>/<error>` -> count."""

    @classmethod
    def begin(cls, event: Event, *, host: str, created_at: str) -> Self:
        """Return the snapshot that a commit request asks for."""
        request_id = str(event.payload["request_id"])
        return cls(
            request=dict(event.payload),
            requester=event.requester,
            request_id=request_id,
            snapshot_id=snapshot_id_for(request_id),
            host=host,
            created_at=created_at,
        )

    @classmethod
    def load(cls, step: Event) -> Self:
        """Read the snapshot that a step carries."""
        data = dict(step.payload)
        data["requester"] = step.requester
        data["copies"] = tuple(
            Copy(**{**copy, "spent": tuple(copy["spent"])}) for copy in data["copies"]
        )
        data["layers"] = tuple(data["layers"])
        data["excluded_volumes"] = tuple(data["excluded_volumes"])
        data["rotating"] = tuple(data.get("rotating", ()))
        if data["fault"] is not None:
            data["fault"] = Fault(**data["fault"])
        return cls(**data)

    @property
    def image_name(self) -> str:
        """Name of the image to be."""
        return str(self.request["image_name"])

    @property
    def tag(self) -> str:
        """Tag of the image to be."""
        return str(self.request.get("tag", "latest"))

    @property
    def image_id(self) -> str | None:
        """Id of the image in the first store, or the one it is to get."""
        return self.copies[0].image_id if self.copies else self.request.get("image_id")

    def step(self, step_type: str, *, attempt: int = 1, **changes: Any) -> Event:
        """Return the step that goes on from here; `attempt` is what its first run counts as."""
        payload = asdict(replace(self, **changes))
        del payload["requester"]
        return Event(step_type, payload, self.requester, attempt=attempt)

    def failed(self, step_type: str, error: TintypeError) -> Self:
        """Return the snapshot after a step has failed, with the fault."""
        way = f"{step_type}/{type(error).__name__}"
        fault = Fault.of(error, self.phase)
        early = isinstance(error, TimedOut)
        if early and self.last_failure:
            words = f"{fault.message}; the last failure: {self.last_failure}"
            fault = replace(fault, message=words[:2000])
        # A capture that failed has thawed the container, and says so when it could not. The
        # deadline is looked at before a step does anything, so it proves nothing.
        frozen = early or isinstance(error, StillFrozen)
        return replace(
            self,
            fault=fault,
            last_failure=fault.message,
            failures={**self.failures, way: self.failures.get(way, 0) + 1},
            pause_intended=self.pause_intended if frozen else 0,
        )

    def exhausted(self, step_type: str, error: TintypeError) -> bool:
        """Tell whether a step has failed in this way as often as it may."""
        count = self.failures.get(f"{step_type}/{type(error).__name__}", 0)
        return error.attempts_allowed is not None and count >= error.attempts_allowed

    def with_copy(self, changed: Copy) -> Self:
        """Return the snapshot with one store's copy replaced."""
        copies = tuple(changed if copy.name == changed.name else copy for copy in self.copies)
        return replace(self, copies=copies)

    def event(self, event_type: str, *, status: str, key: str = "", **extra: Any) -> Event:
        """Return an event that tells the bus how the snapshot stands.

        `key` tells repeated events of one type apart.
        """
        parts = (self.request_id, event_type, key) if key else (self.request_id, event_type)
        event_id = derived_id(*parts)
        payload = {"event_id": event_id, **self.public(status), **extra}
        return Event(event_type, payload, self.requester, event_id)

    def accepted(self) -> Event:
        """Return the event that tells routers that this host has taken the request."""
        event_id = accepted_id(self.request_id)
        payload = {
            "event_id": event_id,
            "schema_version": SCHEMA_VERSION,
            "request_id": self.request_id,
            "snapshot_id": self.snapshot_id,
            "host": self.host,
            "project_id": self.requester.project_id,
            "tenant_id": self.requester.project_id,
            "user_id": self.requester.user_id,
        }
        return Event(COMMIT_ACCEPTED, payload, self.requester, event_id)

    def public(self, status: str) -> dict[str, Any]:
        """Return what the outside may see, under the contract's names."""
        return {
            "schema_version": SCHEMA_VERSION,
            "request_id": self.request_id,
            "snapshot_id": self.snapshot_id,
            "project_id": self.requester.project_id,
            "tenant_id": self.requester.project_id,
            "user_id": self.requester.user_id,
            "container_uuid": self.container_uuid,
            "container_name": self.container_name,
            "host": self.host,
            "engine_container_id": self.engine_container_id,
            "image_id": self.image_id,
            "image_name": self.image_name,
            "tag": self.tag,
            "stores": [_public_copy(copy) for copy in self.copies],
            "base_image": self.base_image,
            "status": status,
            "phase": self.phase,
            "bytes_done": None,
            "bytes_total": self.bytes_total,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "paused_ms": self.paused_ms,
            "duration_ms": None,
            "layers": list(self.layers),
            "excluded_volumes": list(self.excluded_volumes),
            "scrubbed_env": [],
            "rotated_images": [],
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "metadata": dict(self.request.get("metadata", {})),
            "fault": None if self.fault is None else asdict(self.fault),
        }


def _public_copy(copy: Copy) -> dict[str, Any]:
    shown = ("name", "image_id", "location", "digest", "size_bytes", "status")
    return {name: getattr(copy, name) for name in shown}


def _printable(value: Any) -> str | None:
    """Return a hostile string cut short and without lone surrogates; None for anything else."""
    if not isinstance(value, str):
        return None
    return value[:255].encode("utf-8", "replace").decode("utf-8")


def accepted_id(request_id: str) -> str:
    """Return the id of the event that a host has taken this request."""
    return derived_id(request_id, COMMIT_ACCEPTED)


def snapshot_id_for(request_id: str) -> str:
    """Return the id of the snapshot that a request asks for."""
    return derived_id(request_id, "snapshot")


def image_id_for(request_id: str, generation: int = 0) -> str:
    """Return the image id of a request that brings none."""
    return derived_id(request_id, "image", str(generation))


def of_step(step: Event, *, host: str, now: str) -> Snapshot:
    """Return the snapshot behind any step, the request itself included."""
    if step.type == COMMIT_REQUEST:
        return Snapshot.begin(step, host=host, created_at=now)
    return Snapshot.load(step)


def rejection(
    key: str,
    payload: Any,
    requester: Requester,
    error: TintypeError,
    *,
    request_id: str,
    host: str,
    now: str,
) -> Event:
    """Answer a message that was not taken in.

    Its ids come from `key`, the message's fingerprint, so that the answer cannot be mistaken for
    that of another message with the same request id.
    """
    given = payload if isinstance(payload, Mapping) else {}
    named = {name: _printable(given.get(name)) for name in ("container", "image_name", "tag")}
    event_id = derived_id(key, SNAPSHOT_ERROR)
    fault = replace(Fault.of(error, ACCEPTED), image_deleted=False)
    blank = Snapshot(
        request={"image_name": "", "tag": ""},
        requester=requester,
        request_id=request_id,
        snapshot_id=derived_id(key, "snapshot"),
        host=host,
        created_at=now,
        finished_at=now,
        fault=fault,
    )
    payload_out = blank.public("error") | {
        "event_id": event_id,
        "container_name": named["container"],
        "image_name": named["image_name"],
        "tag": named["tag"],
        "duration_ms": 0,
    }
    return Event(SNAPSHOT_ERROR, payload_out, requester, event_id)
