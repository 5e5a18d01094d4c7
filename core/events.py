"""Events: what comes in from the bus, what goes out, and the steps between.

A handler takes an event and returns events. An event that a handler exists for is the request's
next step; every other goes to the bus. Ids are derived, never drawn, so that a step that runs twice
after a crash emits the same ids and consumers can drop the second.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = "1.0"
"""Version of all payloads; a minor bump only adds fields."""

NAMESPACE = uuid.UUID("3ce2a4c5-6f1b-5d0e-9a4e-7d2f8a10c9b1")
"""Namespace of every derived id. Changing it would break deduplication of work in hand."""

COMMIT_REQUEST = "container.commit.request"
COMMIT_CANCEL = "container.commit.cancel"
COMMIT_ACCEPTED = "container.commit.accepted"
"""Told by an agent that has taken a request which a router sent to it."""
RESTORE_REQUEST = "container.restore.request"
RESTORE_CANCEL = "container.restore.cancel"
RESTORE_ACCEPTED = "container.restore.accepted"
"""Told by an agent that has taken a restore which a router sent to it."""
RESTORE_START = "container.restore.start"
RESTORE_PROGRESS = "container.restore.progress"
RESTORE_END = "container.restore.end"
RESTORE_ERROR = "container.restore.error"
EXISTS_REQUEST = "container.exists.request"
"""Asks agents to tell of their containers, with `container.exists`."""
CONTAINER_EXISTS = "container.exists"
CONTAINER_CREATE = "container.create.end"
CONTAINER_START = "container.start.end"
CONTAINER_PAUSE = "container.pause.end"
CONTAINER_UNPAUSE = "container.unpause.end"
CONTAINER_STOP = "container.stop.end"
CONTAINER_RENAME = "container.rename.end"
CONTAINER_UPDATE = "container.update.end"
CONTAINER_DELETE_START = "container.delete.start"
"""Told by a service that is about to delete; an engine says nothing beforehand."""
CONTAINER_DELETE = "container.delete.end"
CONTAINER_SCHEDULE = "container.schedule"
"""The step by which a handler is asked what schedules want; never on the bus."""
SNAPSHOT_START = "image.snapshot.start"
SNAPSHOT_PROGRESS = "image.snapshot.progress"
SNAPSHOT_END = "image.snapshot.end"
SNAPSHOT_ERROR = "image.snapshot.error"
SNAPSHOT_EXISTS = "image.snapshot.exists"
"""How a snapshot stands, told on demand: triggers nothing, ends nothing."""

SNAPSHOT_PREFLIGHT = "image.snapshot.preflight"
"""What a snapshot would take, and what stands in its way: the answer to a dry run."""
SNAPSHOT_REMOVED = "image.snapshot.removed"
"""An image of a snapshot was removed, since it had expired or nobody waited for it any more."""

ENDS = frozenset({SNAPSHOT_END, SNAPSHOT_PREFLIGHT, RESTORE_END})
"""Outcomes of requests that succeeded."""

OUTCOMES = ENDS | {SNAPSHOT_ERROR, RESTORE_ERROR}
"""Every request is answered by exactly one of these."""


@dataclass(frozen=True, slots=True)
class Requester:
    """On whose behalf a message was sent, as its context said. Never holds a token."""

    project_id: str | None = None
    user_id: str | None = None
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, or shall happen."""

    type: str
    payload: Mapping[str, Any]
    requester: Requester = field(default_factory=Requester)
    id: str = ""
    """Unique and derived; empty for a step, which nobody outside sees."""
    attempt: int = 1
    """How often this very step has been begun, this time included. Above 1 an earlier run failed
    or was killed at an unknown point."""


@dataclass(frozen=True, slots=True)
class Message:
    """A notification as it came off a bus: nothing in it has been checked."""

    event_type: Any
    payload: Any
    context: Any = None
    message_id: Any = None
    publisher_id: Any = None
    timestamp: Any = None


def derived_id(*parts: str) -> str:
    """Return the UUID that stands for these parts, the same one every time."""
    return str(uuid.uuid5(NAMESPACE, "/".join(parts)))


_LIFECYCLE = re.compile(
    r"container\.(?:exists|(?:create|start|pause|unpause|stop|rename|update|delete)\.(?:start|end))"
)


def is_lifecycle(event_type: object) -> bool:
    """Tell whether events of this type are about what happens to a container."""
    return isinstance(event_type, str) and _LIFECYCLE.fullmatch(event_type) is not None


def is_about_snapshot(event_type: str) -> bool:
    """Tell whether events of this type say how a snapshot stands."""
    return event_type.startswith("image.snapshot.") and event_type != SNAPSHOT_REMOVED


def is_about_restore(event_type: str) -> bool:
    """Tell whether events of this type say how a restore stands."""
    return event_type in {RESTORE_START, RESTORE_PROGRESS, RESTORE_END, RESTORE_ERROR}


def unwrapped(payload: Any) -> Any:
    """Return the fields inside a versioned object (`zun_object.data`), as OpenStack wraps them.

    What is wrapped twice is unwrapped twice, so that unwrapping again changes nothing.
    """
    while (inner := _object_data(payload)) is not None:
        payload = inner
    return payload


def _object_data(payload: Any) -> Mapping[str, Any] | None:
    for key, value in payload.items() if isinstance(payload, Mapping) else ():
        if isinstance(key, str) and key.endswith("_object.data") and isinstance(value, Mapping):
            return value
    return None


def is_uuid(value: object) -> bool:
    """Tell whether `value` is a UUID in its usual 36-character form."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False


def canonical(value: Any) -> bytes:
    """Return JSON in which equal documents are equal bytes, for fingerprints.

    Lone surrogates can arrive on the bus and have no UTF-8 form, hence ASCII. A document nested too
    deeply to be walked, or with keys that JSON does not have, is represented by its beginning.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)
    except (RecursionError, TypeError):
        text = json.dumps(reprlib.repr(value))
    return text.encode("ascii")


def fingerprint(*values: Any) -> str:
    """Return a hash of JSON-like values: equal content, equal fingerprint."""
    return hashlib.sha256(canonical(list(values))).hexdigest()


def event_line(event: Event) -> str:
    """Return an event as a line of JSON: what `tintype serve` prints and `tintype invoke` reads."""
    return json.dumps(
        {"type": event.type, "requester": asdict(event.requester), "payload": dict(event.payload)}
    )
