"""Handlers: stateless functions from an event to what follows from it.

`table` is the whole wiring. Other packages add handlers by entry points in the group
`tintype.handlers`, named after the event type; one that names a type of ours replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from tintype.core import restore as restores
from tintype.core.events import (
    COMMIT_REQUEST,
    CONTAINER_CREATE,
    CONTAINER_DELETE_START,
    CONTAINER_EXISTS,
    CONTAINER_SCHEDULE,
    CONTAINER_STOP,
    RESTORE_REQUEST,
    is_about_restore,
)
from tintype.core.ports import Handler
from tintype.core.removal import REMOVE
from tintype.core.snapshot import (
    ABORT,
    CAPTURE,
    FINISH,
    PREFLIGHT,
    PREPARE,
    PUBLISH,
    RELEASE,
    RESERVE,
    ROTATE,
    SWEEP,
    UPLOAD,
)
from tintype.handlers import (
    acceptance,
    cleanup,
    commit,
    hooks,
    preflight,
    remove,
    restore,
    trigger,
    upload,
)

BUILT_IN: Mapping[str, Handler] = {
    COMMIT_REQUEST: acceptance.accept,
    PREFLIGHT: preflight.preflight,
    RESERVE: upload.reserve,
    PREPARE: hooks.prepare,
    CAPTURE: commit.capture,
    RELEASE: hooks.release,
    UPLOAD: upload.upload,
    PUBLISH: upload.publish,
    FINISH: cleanup.finish,
    ABORT: cleanup.abort,
    SWEEP: cleanup.sweep,
    ROTATE: cleanup.make_room,
    REMOVE: remove.remove,
    RESTORE_REQUEST: restore.accept,
    restores.LOAD: restore.load,
    restores.CREATE: restore.create,
    restores.START: restore.start,
    restores.FINISH: restore.finish,
    restores.ABORT: restore.abort,
    restores.SWEEP: restore.sweep,
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
    told = [name for name in added if _is_told(name)]
    if told:
        # What has a handler is a step, and never reaches the bus.
        raise ValueError(f"tintype.handlers: {', '.join(told)} are for the bus, not for handlers")
    return {**BUILT_IN, **added}


def _is_told(event_type: str) -> bool:
    """Tell whether events of this type say how a snapshot or restore stands, or what came of it."""
    return event_type.startswith("image.snapshot.") or is_about_restore(event_type)
