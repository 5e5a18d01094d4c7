"""What is known of one piece of work, from its request on: grown step by step, journaled whole.

Handlers keep no state, so a step event carries all of it. A snapshot, a restore and the removal of
an image are such jobs; what the runner asks of any of them stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

from tintype.core.errors import TimedOut, TintypeError
from tintype.core.events import SCHEMA_VERSION, Event, Requester, derived_id

ACCEPTED = "accepted"
"""The first phase: until the work is announced."""

LOCK_FIELD = "engine_container_id"
"""Payload field whose value is the container that a step has to itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a job failed, or waits."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One piece of work."""

    request: Mapping[str, Any]
    """The validated payload of the request, `request_id` included."""
    requester: Requester
    request_id: str
    host: str
    created_at: str
    phase: str = ACCEPTED
    engine_container_id: str | None = None
    container_uuid: str | None = None
    container_name: str | None = None
    finished_at: str | None = None
    fault: Fault | None = None
    last_failure: str | None = None
    """Why the last attempt failed that was followed by another."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How often each step has failed in each way: `<step>/<error>` -> count."""

    ABORT: ClassVar[str]
    """The step that undoes what was begun, and tells of the failure."""
    PROGRESS: ClassVar[str]
    """Type of the events that tell how it goes on."""
    ACCEPTANCE: ClassVar[str]
    """Type of the event that tells routers that this host has taken the request."""
    SUBJECT: ClassVar[str]
    """Field by which events name what comes of the request, beside `request_id`."""

    @classmethod
    def begin(cls, event: Event, *, host: str, created_at: str) -> Self:
        """Return the job that a request asks for."""
        return cls(
            request=dict(event.payload),
            requester=event.requester,
            request_id=str(event.payload["request_id"]),
            host=host,
            created_at=created_at,
        )

    @classmethod
    def load(cls, step: Event) -> Self:
        """Read the job that a step carries."""
        return cls(**loaded(step))

    @property
    def subject_id(self) -> str:
        """Id of what comes of the request."""
        raise NotImplementedError

    def public(self, status: str) -> dict[str, Any]:
        """Return what the outside may see, under the contract's names."""
        raise NotImplementedError

    def step(self, step_type: str, *, attempt: int = 1, **changes: Any) -> Event:
        """Return the step that goes on from here; `attempt` is what its first run counts as."""
        payload = asdict(replace(self, **changes))
        del payload["requester"]
        return Event(step_type, payload, self.requester, attempt=attempt)

    def failed(self, step_type: str, error: TintypeError) -> Self:
        """Return the job after a step has failed, with the fault."""
        way = f"{step_type}/{type(error).__name__}"
        fault = Fault.of(error, self.phase)
        if isinstance(error, TimedOut) and self.last_failure:
            words = f"{fault.message}; the last failure: {self.last_failure}"
            fault = replace(fault, message=words[:2000])
        return replace(
            self,
            fault=fault,
            last_failure=fault.message,
            failures={**self.failures, way: self.failures.get(way, 0) + 1},
        )

    def exhausted(self, step_type: str, error: TintypeError) -> bool:
        """Tell whether a step has failed in this way as often as it may."""
        count = self.failures.get(f"{step_type}/{type(error).__name__}", 0)
        return error.attempts_allowed is not None and count >= error.attempts_allowed

    def after(self, step_type: str, error: TintypeError) -> Event:
        """Return what follows when a step has failed for good, which `failed` has noted."""
        return self.step(self.ABORT)

    def event(self, event_type: str, *, status: str, key: str = "", **extra: Any) -> Event:
        """Return an event that tells the bus how the job stands.

        `key` tells repeated events of one type apart.
        """
        parts = (self.request_id, event_type, key) if key else (self.request_id, event_type)
        event_id = derived_id(*parts)
        payload = {"event_id": event_id, **self.public(status), **extra}
        return Event(event_type, payload, self.requester, event_id)

    @property
    def acceptance_id(self) -> str:
        """Id of the event that this host has taken the request."""
        return derived_id(self.request_id, self.ACCEPTANCE)

    def accepted(self) -> Event:
        """Return the event that tells routers that this host has taken the request."""
        event_id = self.acceptance_id
        payload = {
            "event_id": event_id,
            "schema_version": SCHEMA_VERSION,
            "request_id": self.request_id,
            self.SUBJECT: self.subject_id,
            "host": self.host,
            **self.whose(),
        }
        return Event(self.ACCEPTANCE, payload, self.requester, event_id)

    def whose(self) -> dict[str, str | None]:
        """Return on whose behalf it is done, under the contract's names."""
        return {
            "project_id": self.requester.project_id,
            "tenant_id": self.requester.project_id,
            "user_id": self.requester.user_id,
        }


def loaded(step: Event) -> dict[str, Any]:
    """Return the fields of the job that a step carries, those that every job has made whole."""
    data = {**step.payload, "requester": step.requester}
    if data["fault"] is not None:
        data["fault"] = Fault(**data["fault"])
    return data


def printable(value: Any) -> str | None:
    """Return a hostile string cut short and without lone surrogates; None for anything else."""
    if not isinstance(value, str):
        return None
    return value[:255].encode("utf-8", "replace").decode("utf-8")
