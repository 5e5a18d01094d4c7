"""The steps of all jobs: which job a step is of, and which steps end one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from tintype.core import removal, restore, snapshot
from tintype.core.errors import TintypeError
from tintype.core.events import (
    COMMIT_REQUEST,
    RESTORE_CANCEL,
    RESTORE_ERROR,
    RESTORE_REQUEST,
    SNAPSHOT_ERROR,
    Event,
    Requester,
    derived_id,
)
from tintype.core.jobs import ACCEPTED, Fault, Job, printable
from tintype.core.ports import Work
from tintype.core.removal import Removal
from tintype.core.restore import Restore
from tintype.core.snapshot import Snapshot

REQUESTS: Mapping[str, type[Job]] = {COMMIT_REQUEST: Snapshot, RESTORE_REQUEST: Restore}
"""What each request asks for."""

CLEANUP = frozenset(
    {
        snapshot.FINISH,
        snapshot.ABORT,
        snapshot.SWEEP,
        snapshot.ROTATE,
        restore.FINISH,
        restore.ABORT,
        restore.SWEEP,
        removal.REMOVE,
    }
)
"""Steps that end a job: run past any deadline, and again until they succeed."""

UNREADABLE = "unreadable"
"""Type of a step whose row in the journal another version wrote, or damage; `text` is what is
there, `subject_id` the id of what it was about."""

ENTRIES = frozenset({snapshot.RESERVE, restore.LOAD})
"""Steps with which a job takes one of the places for work at the same time."""


def job_of(step: Event, *, host: str, now: str) -> Job:
    """Return the job behind any step, the request itself included."""
    if step.type in REQUESTS:
        return REQUESTS[step.type].begin(step, host=host, created_at=now)
    if step.type.startswith("restore."):
        return Restore.load(step)
    return Removal.load(step) if step.type == removal.REMOVE else Snapshot.load(step)


def subject_id_of(request_id: str, step_type: str) -> str:
    """Return the id of what a request asks for by which this step begins."""
    if step_type == RESTORE_REQUEST:
        return restore.restore_id_for(request_id)
    is_removal = step_type == removal.REMOVE
    return request_id if is_removal else snapshot.snapshot_id_for(request_id)


def rejection(
    key: str,
    payload: Any,
    requester: Requester,
    error: TintypeError,
    *,
    request_id: str,
    host: str,
    now: str,
    event_type: str = COMMIT_REQUEST,
) -> Event:
    """Answer a message that was not taken in: one of a restore, or of a snapshot.

    Its ids come from `key`, the message's fingerprint, so that the answer cannot be mistaken for
    that of another message with the same request id.
    """
    given = payload if isinstance(payload, Mapping) else {}
    fault = replace(Fault.of(error, ACCEPTED), image_deleted=False)
    common = {
        "requester": requester,
        "request_id": request_id,
        "host": host,
        "created_at": now,
        "finished_at": now,
        "fault": fault,
    }
    if event_type in (RESTORE_REQUEST, RESTORE_CANCEL):
        return _refused_restore(key, given, common)
    return _refused_snapshot(key, given, common)


def answer_to_unusable(work: Work, error: TintypeError, *, host: str, now: str) -> Event | None:
    """Return the outcome of a request whose step cannot be used; None where nobody waits for one.

    So it is of a step of another version, or of a damaged one, whose type may be anything.
    """
    event_type = _request_type(work)
    if event_type is None:
        return None
    return rejection(
        work.request_id,
        None,
        work.step.requester,
        error,
        request_id=work.request_id,
        host=host,
        now=now,
        event_type=event_type,
    )


def _request_type(work: Work) -> str | None:
    """Return the type of the request that a step is of; None: of none, as an image's removal."""
    step, request_id = work.step, work.request_id
    if step.type == UNREADABLE:
        subject_id = step.payload["subject_id"]
        is_removal = subject_id == request_id
        of_restore = subject_id == restore.restore_id_for(request_id)
    else:
        is_removal = step.type == removal.REMOVE
        of_restore = step.type.startswith("restore.") or step.type == RESTORE_REQUEST
    if is_removal:
        return None
    return RESTORE_REQUEST if of_restore else COMMIT_REQUEST


def _refused_snapshot(key: str, given: Mapping[Any, Any], common: Mapping[str, Any]) -> Event:
    blank = Snapshot(
        request={"image_name": "", "tag": ""},
        snapshot_id=derived_id(key, "snapshot"),
        **common,
    )
    event_id = derived_id(key, SNAPSHOT_ERROR)
    told = {
        "event_id": event_id,
        "container_name": printable(given.get("container")),
        "image_name": printable(given.get("image_name")),
        "tag": printable(given.get("tag")),
        "duration_ms": 0,
    }
    payload = blank.public("error") | told
    return Event(SNAPSHOT_ERROR, payload, blank.requester, event_id)


def _refused_restore(key: str, given: Mapping[Any, Any], common: Mapping[str, Any]) -> Event:
    blank = Restore(request={}, **common)
    event_id = derived_id(key, RESTORE_ERROR)
    told = {
        "event_id": event_id,
        "restore_id": derived_id(key, "restore"),
        "container_name": printable(given.get("name")),
        "image_name": printable(given.get("image")),
        "duration_ms": 0,
        "fault": asdict(replace(common["fault"], image_deleted=None)),
    }
    payload = blank.public("error") | told
    return Event(RESTORE_ERROR, payload, blank.requester, event_id)
