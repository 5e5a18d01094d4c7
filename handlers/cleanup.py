"""The end of every snapshot: leave nothing behind, and tell the bus how it went."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial

from tintype.core.errors import NotFound, TimedOut, TintypeError, Unavailable
from tintype.core.events import SNAPSHOT_END, SNAPSHOT_ERROR, Event, derived_id
from tintype.core.images import ImageStatus, ImageStore
from tintype.core.ports import Services
from tintype.core.snapshot import ABORT, FINISH, ROTATE, SWEEP, Copy, Snapshot
from tintype.handlers import hooks, rotate
from tintype.handlers.routed import given_up, routers_deadline

LOG = logging.getLogger(__name__)

QUIET_ATTEMPTS = 3
"""How often the cleaning-up of a failed snapshot is tried before the bus hears of the failure. What
is still left then is swept up afterwards, however long it takes."""


def finish(event: Event, services: Services) -> Iterator[Event]:
    """Clean the host and announce the image. A host that cannot be cleaned now is swept later.

    Older images of its series are only named here. They are deleted when the end is certain: else
    one who undoes the new image after a crash, as late as that may be, would leave none at all.
    """
    if given_up(Snapshot.load(event), services):
        late = TimedOut("its router has given the request up by now: the deadline has passed")
        yield Snapshot.load(event).failed(FINISH, late).step(ABORT)
        return
    snapshot = _finished(Snapshot.load(event), services)
    outdated = rotate.outdated(snapshot, services)
    snapshot, left = _without_lost(snapshot, services)
    left += _clean_engine(snapshot, services)
    yield snapshot.event(
        SNAPSHOT_END,
        status="active",
        duration_ms=_duration_ms(snapshot),
        rotated_images=[dict(image) for image in outdated],
    )
    if outdated:
        yield snapshot.step(ROTATE, rotating=outdated)
    elif left:
        yield snapshot.step(SWEEP)


def make_room(event: Event, services: Services) -> Iterator[Event]:
    """Delete the images that the new one makes superfluous, and what `sweep` would."""
    snapshot, left = _without_lost(Snapshot.load(event), services)
    left += _clean_engine(snapshot, services)
    try:
        if _told_in_time(snapshot, services):
            left += rotate.delete(snapshot, services)
    except Unavailable as error:
        left.append(error)
    _settle(snapshot, left)
    yield from ()


def _told_in_time(snapshot: Snapshot, services: Services) -> bool:
    """Tell whether the new image is there to stay: a router may yet say that there is none.

    It does unless it hears of the end by the deadline, and deletes the image. Raises Unavailable
    while the bus may still take the end in time.
    """
    deadline = routers_deadline(snapshot)
    if deadline is None:
        return True
    told_at = services.confirmed_at(derived_id(snapshot.request_id, SNAPSHOT_END))
    if told_at is None and services.clock.now() < deadline:
        raise Unavailable("the bus has not taken the word yet that the image is there")
    if told_at is not None and told_at < deadline:
        return True
    LOG.warning("request %s: not rotated, its end was not told in time", snapshot.request_id)
    return False


def abort(event: Event, services: Services) -> Iterator[Event]:
    """Undo a failed snapshot and announce the failure, with the truth about the images.

    The container's own second command comes first; that it was run is a step of its own.
    """
    if Snapshot.load(event).hook_open and event.attempt <= QUIET_ATTEMPTS:
        yield _closed(Snapshot.load(event), services).step(ABORT)
        return
    snapshot = _finished(Snapshot.load(event), services)
    assert snapshot.fault is not None
    images_left = _clean_stores(snapshot, services)
    engine_left = _clean_engine(snapshot, services)
    left = images_left + engine_left
    if event.attempt <= QUIET_ATTEMPTS:
        _try_again(left)
    snapshot = replace(snapshot, fault=replace(snapshot.fault, image_deleted=not images_left))
    yield snapshot.event(SNAPSHOT_ERROR, status="error", duration_ms=_duration_ms(snapshot))
    if left or snapshot.hook_open:
        yield snapshot.step(SWEEP)


def sweep(event: Event, services: Services) -> Iterator[Event]:
    """Remove what was left when the bus was told: until it succeeds, or is refused for good."""
    snapshot = Snapshot.load(event)
    if snapshot.fault is None:
        snapshot, left = _without_lost(snapshot, services)
    else:
        left = _clean_stores(snapshot, services)
    left += _clean_engine(snapshot, services)
    if snapshot.hook_open:
        yield _closed(snapshot, services).step(SWEEP)
        return
    _settle(snapshot, left)


def _settle(snapshot: Snapshot, left: list[TintypeError]) -> None:
    """Raise Unavailable to try again what may pass; log what is refused for good."""
    _try_again(left)
    for refusal in left:
        LOG.error("request %s: left behind for good: %s", snapshot.request_id, refusal)


def release(step: Event, services: Services) -> None:
    """Let the container of a step run that the stopping service cannot wait for.

    The next start captures it again.
    """
    container_id = step.payload.get("engine_container_id")
    if container_id is not None and step.payload.get("pause_intended"):
        services.engine.thaw(container_id)


def _clean_engine(snapshot: Snapshot, services: Services) -> list[TintypeError]:
    """Thaw what we may have frozen and remove captures; return what could not be done."""
    container_id = snapshot.engine_container_id
    if container_id is None:
        return []
    chores: list[Callable[[], None]] = [lambda: services.engine.discard(snapshot.request_id)]
    if snapshot.pause_intended:
        chores.insert(0, lambda: services.engine.thaw(container_id))
    return _undone(chores)


def _closed(snapshot: Snapshot, services: Services) -> Snapshot:
    """Run the container's own second command: in a frozen container none runs.

    Raises Unavailable.
    """
    if snapshot.pause_intended:
        services.engine.thaw(str(snapshot.engine_container_id))
        snapshot = replace(snapshot, pause_intended=0)
    return hooks.closed(snapshot, services, last=False)


def _without_lost(snapshot: Snapshot, services: Services) -> tuple[Snapshot, list[TintypeError]]:
    """Delete the images of the stores that were given up; return what could not be done, too."""
    left: list[TintypeError] = []
    for copy in snapshot.copies:
        if copy.fault is not None:
            failures = _undone([partial(_discard_copy, snapshot, copy, services)])
            told = replace(copy.fault, image_deleted=not failures)
            snapshot = snapshot.with_copy(replace(copy, fault=told))
            left += failures
    return snapshot, left


def _clean_stores(snapshot: Snapshot, services: Services) -> list[TintypeError]:
    """Delete the images of a failed snapshot; return what could not be done.

    A dry run makes none, and leaves one that was reserved to whoever reserved it.
    """
    if snapshot.request.get("dry_run"):
        return []
    copies = snapshot.copies or _copies_asked_for(snapshot, services)
    return _undone([partial(_discard_copy, snapshot, copy, services) for copy in copies])


def _copies_asked_for(snapshot: Snapshot, services: Services) -> list[Copy]:
    """Return what the requester reserved for a request that was refused before anything began."""
    image_id = snapshot.request.get("image_id")
    if image_id is None:
        return []
    names = snapshot.request.get("stores") or services.default_stores
    return [Copy(name, image_id) for name in names if name in services.stores]


def _discard_copy(snapshot: Snapshot, copy: Copy, services: Services) -> None:
    store = services.store(copy.name, copy.repository)
    for image_id in copy.spent:
        store.discard(image_id)
    if copy.reserved or _waits_for_us(snapshot, copy, store):
        store.discard(copy.image_id)


def _waits_for_us(snapshot: Snapshot, copy: Copy, store: ImageStore) -> bool:
    """Tell whether an image not known to be ours may be deleted: it must never be another's.

    Not even one with an id made from the request's: a request that is sent once more after the
    journal has forgotten it, or by somebody else to another host, has the image of the first.
    """
    image = store.describe(copy.image_id)
    project = snapshot.requester.project_id
    given = copy.image_id == snapshot.request.get("image_id")
    ours = image.owner == project or (not given and None in (image.owner, project))
    return image.status is ImageStatus.QUEUED and ours


def _try_again(left: list[TintypeError]) -> None:
    """Raise Unavailable when there is something left that may still be removed."""
    passing = [str(error) for error in left if error.retryable]
    if passing:
        raise Unavailable(f"not cleaned up yet: {'; '.join(passing)}")


def _undone(chores: list[Callable[[], None]]) -> list[TintypeError]:
    """Do every chore, whatever becomes of the others; return the failures."""
    left: list[TintypeError] = []
    for chore in chores:
        try:
            chore()
        except NotFound:
            continue
        except TintypeError as error:
            left.append(error)
    return left


def _finished(snapshot: Snapshot, services: Services) -> Snapshot:
    return replace(snapshot, finished_at=services.clock.now().isoformat(), phase="cleanup")


def _duration_ms(snapshot: Snapshot) -> int:
    assert snapshot.finished_at is not None
    began = datetime.fromisoformat(snapshot.created_at)
    return int((datetime.fromisoformat(snapshot.finished_at) - began).total_seconds() * 1000)
