"""Handlers: stateless functions from an event to what follows from it.

`table` is the whole wiring. Other packages add handlers by entry points in the group
`tintype.handlers`, named after the event type; one that names a type of ours replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from tintype.core.events import (
    COMMIT_REQUEST,
    CONTAINER_CREATE,
    CONTAINER_DELETE_START,
    CONTAINER_EXISTS,
    CONTAINER_SCHEDULE,
    CONTAINER_STOP,
)
from tintype.core.ports import Handler
from tintype.core.snapshot import ABORT, CAPTURE, FINISH, RESERVE, ROTATE, SWEEP, UPLOAD
from tintype.handlers import cleanup, commit, trigger, upload

BUILT_IN: Mapping[str, Handler] = {
    COMMIT_REQUEST: commit.accept,
    RESERVE: upload.reserve,
    CAPTURE: commit.capture,
    UPLOAD: upload.upload,
    FINISH: cleanup.finish,
    ABORT: cleanup.abort,
    SWEEP: cleanup.sweep,
    ROTATE: cleanup.make_room,
}


TRIGGERS: Mapping[str, Handler] = {
    CONTAINER_STOP: trigger.react,
    CONTAINER_DELETE_START: trigger.react,
    CONTAINER_SCHEDULE: trigger.scheduled,
    CONTAINER_CREATE: trigger.mistakes,
    CONTAINER_EXISTS: trigger.mistakes,
}
"""What events about containers ask for, beside being told."""


def table() -> dict[str, Handler]:
    """Return the handler of each event type, installed extensions included."""
    added = {point.name: point.load() for point in entry_points(group="tintype.handlers")}
    told = [name for name in added if name.startswith("image.snapshot.")]
    if told:
        # What has a handler is a step, and never reaches the bus.
        raise ValueError(f"tintype.handlers: {', '.join(told)} are for the bus, not for handlers")
    return {**BUILT_IN, **added}
