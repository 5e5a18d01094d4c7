"""What is known of one removal: an image that has expired, or that nobody waits for any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self

from tintype.core.events import (
    SCHEMA_VERSION,
    SNAPSHOT_REMOVED,
    Event,
    Requester,
    derived_id,
)
from tintype.core.jobs import Job

REMOVE = "image.remove"

REMOVAL_TIME = timedelta(days=1)
"""A removal that has not succeeded for as long is given up, and planned anew."""


class Reason(StrEnum):
    """Why an image is to go."""

    EXPIRED = "expired"
    """The moment that its request named has passed."""
    ORPHANED = "orphaned"
    """It was never filled, and its request has ended."""
    ROTATED = "rotated"
    """Its container has newer ones enough."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that is to go, and why."""

    store: str
    image_id: str
    reason: str
    """A `Reason`, as a word."""
    repository: str | None = None
    image_name: str | None = None
    tag: str | None = None
    project_id: str | None = None
    container_uuid: str | None = None
    image_request_id: str | None = None
    """The request of the snapshot that it is of."""
    expires_at: str | None = None
    image_created_at: str | None = None
    newer: Sequence[Sequence[str | None]] = ()
    """The images that make one superfluous: repository and id of each. Not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal(Job):
    """One removal, from its plan on."""

    image: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the `Candidate`."""

    ABORT: ClassVar[str] = REMOVE
    PROGRESS: ClassVar[str] = SNAPSHOT_REMOVED
    ACCEPTANCE: ClassVar[str] = SNAPSHOT_REMOVED
    SUBJECT: ClassVar[str] = "image_id"

    @classmethod
    def of(cls, candidate: Candidate, *, host: str, created_at: str) -> Self:
        """Return the removal of an image; at most one a day, as what is refused may be allowed."""
        return cls(
            request={},
            requester=Requester(candidate.project_id),
            request_id=removal_id(candidate, host, created_at),
            host=host,
            created_at=created_at,
            image=asdict(candidate),
        )

    @property
    def subject_id(self) -> str:
        """Id of the image."""
        return self.candidate.image_id

    @property
    def candidate(self) -> Candidate:
        """The image that is to go."""
        return Candidate(**self.image)

    def is_overdue(self, now: datetime) -> bool:
        """Tell whether it has been tried for long enough."""
        return now >= datetime.fromisoformat(self.created_at) + REMOVAL_TIME

    def public(self, status: str) -> dict[str, Any]:
        """Return what the outside may see, under the contract's names."""
        image = {name: value for name, value in self.image.items() if name != "newer"}
        return {
            "schema_version": SCHEMA_VERSION,
            **image,
            "request_id": self.request_id,
            **self.whose(),
            "host": self.host,
            "status": status,
            "created_at": self.created_at,
        }

    def begun(self) -> Event:
        """Return the step that removes it."""
        return self.step(REMOVE)

    def removed(self) -> Event:
        """Return the event that tells that the image is gone."""
        return self.event(SNAPSHOT_REMOVED, status="removed")


def removal_id(candidate: Candidate, host: str, created_at: str) -> str:
    """Return the id of an image's removal that is decided on the day of this moment (ISO 8601)."""
    where = (candidate.store, candidate.repository or "", candidate.image_id)
    return derived_id("removal", host, *where, created_at[:10])
