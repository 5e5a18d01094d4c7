"""What is known of one snapshot: grown step by step, journaled whole with each step.

`public` is the part that events, the REST service and the command line show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

from tintype.core.errors import (
    Cancelled,
    CorruptArchive,
    Internal,
    Refused,
    StillFrozen,
    TimedOut,
    TintypeError,
    Unavailable,
)
from tintype.core.events import (
    COMMIT_ACCEPTED,
    SCHEMA_VERSION,
    SNAPSHOT_PROGRESS,
    Event,
    derived_id,
)
from tintype.core.jobs import Fault, Job, loaded

RESERVE = "snapshot.reserve"
PREFLIGHT = "snapshot.preflight"
PREPARE = "snapshot.prepare"
"""The container's own command before it is captured."""
CAPTURE = "snapshot.capture"
RELEASE = "snapshot.release"
"""The container's own command after it was captured."""
UPLOAD = "snapshot.upload"
PUBLISH = "snapshot.publish"
"""Its own tag for the image, in stores that have repositories, when every store has its data."""
FINISH = "snapshot.finish"
ABORT = "snapshot.abort"
SWEEP = "snapshot.sweep"
ROTATE = "snapshot.rotate"

IMAGE_SERVICE = "glance"
"""The store whose images can be reserved beforehand, by whoever asks for the snapshot."""

LOST = "error"
"""Status of a copy whose store was given up, while another has the image."""

_OF_ONE_STORE = frozenset({RESERVE, UPLOAD, PUBLISH})
"""Steps that work on one store's copy, the first that is not done."""

_OF_ALL_STORES = (TimedOut, Internal, StillFrozen, CorruptArchive)
"""Failures of such a step that no other store would be spared."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The snapshot's image in one store."""

    name: str
    """Name of the store."""
    image_id: str
    repository: str | None = None
    """Where in the store, if that has repositories."""
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
    fault: Fault | None = None
    """Why this store was given up."""
    published: bool = False
    """Whether the image is found under its own tag, in a store that has repositories."""

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Self:
        """Read a copy out of a step's payload."""
        fault = data.get("fault") and Fault(**data["fault"])
        return cls(**{**data, "spent": tuple(data["spent"]), "fault": fault})

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

    def done(self, step_type: str) -> bool:
        """Tell whether this step has nothing more to do for it."""
        if step_type == PUBLISH:
            return self.repository is None or self.published or self.fault is not None
        return self.status != "queued" or (step_type == RESERVE and self.reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Job):
    """One snapshot, from the request on."""

    snapshot_id: str
    container_config: Mapping[str, Any] = field(default_factory=dict)
    container_labels: Mapping[str, str] = field(default_factory=dict)
    base_image: str | None = None
    base_image_id: str | None = None
    excluded_volumes: tuple[str, ...] = ()
    unset_env: tuple[str, ...] = ()
    """Names of the environment variables to be taken out of the image. The container need not have
    all of them: a build argument stands in the image's history alone."""
    scrubbed_env: tuple[str, ...] = ()
    """Those that were taken out."""
    pause_intended: int = 0
    """The attempt at `snapshot.capture` that is to freeze the container; 0: none. Journaled before
    it does: a later attempt that still finds this here knows that the earlier one was killed."""
    hook_open: bool = False
    """The container's own command before the capture has begun, so that the one after must run."""
    hooks: tuple[Mapping[str, Any], ...] = ()
    """How the container's own commands went: name, exit_code, timed_out, output."""
    warnings: tuple[str, ...] = ()
    """What the requester should know although nothing failed."""
    copies: tuple[Copy, ...] = ()
    capture_ref: str | None = None
    engine_image_id: str | None = None
    layers: tuple[str, ...] = ()
    squashed: bool = False
    paused_ms: int | None = None
    bytes_total: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    rotating: tuple[Mapping[str, str], ...] = ()
    """Older images (`store`, `image_id`) that this one makes superfluous: those that were told."""

    ABORT: ClassVar[str] = ABORT
    PROGRESS: ClassVar[str] = SNAPSHOT_PROGRESS
    ACCEPTANCE: ClassVar[str] = COMMIT_ACCEPTED
    SUBJECT: ClassVar[str] = "snapshot_id"

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
        data = loaded(step)
        data["copies"] = tuple(map(Copy.load, data["copies"]))
        for name in _TUPLES:
            data[name] = tuple(data.get(name, ()))  # an older release has fewer
        return cls(**data)

    @property
    def subject_id(self) -> str:
        """Id of the snapshot."""
        return self.snapshot_id

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
        """Id of the image in the first store that was not given up, or the one it is to get."""
        kept = [copy for copy in self.copies if copy.fault is None] or self.copies
        return kept[0].image_id if kept else self.request.get("image_id")

    def in_hand(self, step_type: str) -> Copy | None:
        """Return the copy that this step is about: the first with something to do; None: none."""
        if step_type not in _OF_ONE_STORE:
            return None
        return next((copy for copy in self.copies if not copy.done(step_type)), None)

    def failed(self, step_type: str, error: TintypeError) -> Self:
        """Return the snapshot after a step has failed, with the fault."""
        # Not super(): a dataclass with slots is another class than the one this was written in.
        job = Job.failed(self, step_type, error)
        # A capture that failed has thawed the container, and says so when it could not. Deadline
        # and cancellation are looked at before a step does anything, so they prove nothing.
        frozen = isinstance(error, (TimedOut, Cancelled, StillFrozen))
        return replace(job, pause_intended=self.pause_intended if frozen else 0)

    def after(self, step_type: str, error: TintypeError) -> Event:
        """Return what follows a final failure: one store is given up, or the snapshot is undone."""
        copy = self.in_hand(step_type)
        ones = isinstance(error, (Refused, Unavailable)) and not isinstance(error, _OF_ALL_STORES)
        others = [each for each in self.copies if each != copy and each.fault is None]
        if copy is None or not ones or not others:
            return self.step(ABORT)
        return self.without(copy, error).step(step_type, fault=None)

    def without(self, copy: Copy, error: TintypeError) -> Self:
        """Return the snapshot with one store given up."""
        fault = Fault.of(error, self.phase)
        lost = replace(copy, status=LOST, location=None, digest=None, size_bytes=None, fault=fault)
        return self.with_copy(lost).warned(f"the store {copy.name!r} has no image: {error}")

    def with_copy(self, changed: Copy) -> Self:
        """Return the snapshot with one store's copy replaced."""
        copies = tuple(changed if copy.name == changed.name else copy for copy in self.copies)
        return replace(self, copies=copies)

    def warned(self, *warnings: str) -> Self:
        """Return the snapshot with further warnings, each once."""
        new = [words[:2000] for words in warnings if words[:2000] not in self.warnings]
        return replace(self, warnings=(*self.warnings, *new))

    def public(self, status: str) -> dict[str, Any]:
        """Return what the outside may see, under the contract's names."""
        return {
            "schema_version": SCHEMA_VERSION,
            "request_id": self.request_id,
            "snapshot_id": self.snapshot_id,
            **self.whose(),
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
            "squashed": self.squashed,
            "excluded_volumes": list(self.excluded_volumes),
            "scrubbed_env": list(self.scrubbed_env),
            "hooks": [dict(hook) for hook in self.hooks],
            "warnings": list(self.warnings),
            "rotated_images": [],
            "preflight": None,
            "expires_at": self.request.get("expires_at"),
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "metadata": dict(self.request.get("metadata", {})),
            "fault": None if self.fault is None else asdict(self.fault),
        }


_TUPLES = (
    "excluded_volumes",
    "unset_env",
    "scrubbed_env",
    "hooks",
    "warnings",
    "layers",
    "rotating",
)
"""Fields that JSON makes lists of."""


def _public_copy(copy: Copy) -> dict[str, Any]:
    shown = ("name", "image_id", "repository", "location", "digest", "size_bytes", "status")
    fault = None if copy.fault is None else asdict(copy.fault)
    return {name: getattr(copy, name) for name in shown} | {"fault": fault}


def snapshot_id_for(request_id: str) -> str:
    """Return the id of the snapshot that a request asks for."""
    return derived_id(request_id, "snapshot")


def image_id_for(request_id: str, generation: int = 0) -> str:
    """Return the image id of a request that brings none."""
    return derived_id(request_id, "image", str(generation))
