"""What is known of one restore: a container that is made of a snapshot's image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

from tintype.core.events import (
    RESTORE_ACCEPTED,
    RESTORE_PROGRESS,
    SCHEMA_VERSION,
    Event,
    derived_id,
)
from tintype.core.jobs import Job, loaded

LOAD = "restore.load"
CREATE = "restore.create"
START = "restore.start"
FINISH = "restore.finish"
ABORT = "restore.abort"
SWEEP = "restore.sweep"

_AFTER_CREATION = frozenset({START, FINISH, ABORT, SWEEP})


@dataclass(frozen=True, slots=True)
class Source:
    """The image that a container is made of."""

    store: str
    """Name of the store."""
    image_id: str
    repository: str | None = None
    """Where in the store, if that has repositories."""
    name: str | None = None
    tag: str | None = None
    snapshot_id: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    """Hash of the archive as it was sent, hexadecimal; None for an image that is not of ours."""
    sha512: str | None = None
    """The same in SHA-512, as the store itself has it."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """What a snapshot has written down of its container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore(Job):
    """One restore, from the request on."""

    source: Source | None = None
    """None until the image was found."""
    engine_image_id: str | None = None
    """Digest of the loaded image."""
    wanted: Mapping[str, Any] = field(default_factory=dict)
    """The container to be made: the fields of `tintype.core.engine.NewContainer`."""
    missing_volumes: tuple[str, ...] = ()
    """Mount points whose data is in no image, and for which the request names nothing."""
    warnings: tuple[str, ...] = ()
    """What the requester should know although nothing failed."""
    started: bool = False

    ABORT: ClassVar[str] = ABORT
    PROGRESS: ClassVar[str] = RESTORE_PROGRESS
    ACCEPTANCE: ClassVar[str] = RESTORE_ACCEPTED
    SUBJECT: ClassVar[str] = "restore_id"

    @classmethod
    def load(cls, step: Event) -> Self:
        """Read the restore that a step carries."""
        data = loaded(step)
        data["source"] = data["source"] and Source(**data["source"])
        for name in ("missing_volumes", "warnings"):
            data[name] = tuple(data[name])
        return cls(**data)

    def step(self, step_type: str, *, attempt: int = 1, **changes: Any) -> Event:
        """Return the step that goes on from here.

        What the environment is to hold may be secret, and steps are on disk for as long as the
        journal remembers the request: those that come after the container is made have none of it.
        """
        step = super(Restore, self).step(step_type, attempt=attempt, **changes)
        if step_type not in _AFTER_CREATION:
            return step
        bare = {name: _without_env(step.payload[name]) for name in ("request", "wanted")}
        return replace(step, payload={**step.payload, **bare})

    @property
    def subject_id(self) -> str:
        """Id of the restore."""
        return restore_id_for(self.request_id)

    def warned(self, *warnings: str) -> Self:
        """Return the restore with further warnings, each once."""
        new = [words[:2000] for words in warnings if words[:2000] not in self.warnings]
        return replace(self, warnings=(*self.warnings, *new))

    def public(self, status: str) -> dict[str, Any]:
        """Return what the outside may see, under the contract's names."""
        source = self.source
        return {
            "schema_version": SCHEMA_VERSION,
            "request_id": self.request_id,
            "restore_id": self.subject_id,
            **self.whose(),
            "host": self.host,
            "snapshot_id": source.snapshot_id if source else self.request.get("snapshot_id"),
            "store": source.store if source else self.request.get("store"),
            "image_id": source.image_id if source else self.request.get("image_id"),
            "image_name": source.name if source else self.request.get("image"),
            "tag": source.tag if source else None,
            "container_uuid": self.container_uuid,
            "container_name": self.container_name or self.request.get("name"),
            "engine_container_id": self.engine_container_id,
            "status": status,
            "phase": self.phase,
            "bytes_done": None,
            "bytes_total": source.size_bytes if source else None,
            "sha256": source.sha256 if source else None,
            "missing_volumes": list(self.missing_volumes),
            "warnings": list(self.warnings),
            "started": self.started,
            "duration_ms": None,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "metadata": dict(self.request.get("metadata", {})),
            "fault": None if self.fault is None else asdict(self.fault),
        }


def restore_id_for(request_id: str) -> str:
    """Return the id of the restore that a request asks for."""
    return derived_id(request_id, "restore")


def _without_env(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "env"}
