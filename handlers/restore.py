"""From a restore request to a running container: find, load, create, start; or undo all of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import datetime

from tintype.core.archive import ArchiveStream
from tintype.core.engine import Container, ContainerState, NewContainer
from tintype.core.errors import (
    CorruptArchive,
    Forbidden,
    NotFound,
    NotRestorable,
    Refused,
    TimedOut,
    TintypeError,
    Unavailable,
)
from tintype.core.events import RESTORE_END, RESTORE_ERROR, RESTORE_PROGRESS, RESTORE_START, Event
from tintype.core.jobs import ACCEPTED
from tintype.core.ownership import may_use
from tintype.core.packed import unpacked, verified
from tintype.core.ports import Services
from tintype.core.restore import ABORT, CREATE, FINISH, LOAD, START, SWEEP, Restore, Source
from tintype.handlers import restore_image, restore_plan, routed

LOG = logging.getLogger(__name__)

QUIET_ATTEMPTS = 3
"""How often the undoing of a failed restore is tried before the bus hears of the failure."""


def accept(event: Event, services: Services) -> Iterator[Event]:
    """Find the image and plan the container: what can be refused is refused before any work.

    Nothing is made yet, so a container that is there for this request is of an earlier life of it,
    which the journal has forgotten: it must not be undone with this one.
    """
    created_at = services.clock.now().isoformat()
    restore = Restore.begin(event, host=services.host, created_at=created_at)
    routed.check_acceptable(restore, services)
    earlier = services.engine.restored(restore.request_id)
    if earlier is not None:
        raise Refused(
            f"/request_id: container {earlier.name!r} was made for this request long ago; send a"
            " new id"
        )
    source = restore_image.find(restore, services)
    plan = restore_plan.plan(restore, source, services)
    restore_plan.check_name(plan.wanted.name, services)
    restore_plan.check_allowed(plan.wanted, restore.requester, services)
    if routed.accept_by_of(restore) is not None:
        yield restore.accepted()
    yield restore.warned(*plan.warnings).step(
        LOAD,
        source=source,
        wanted=asdict(plan.wanted),
        container_name=plan.wanted.name,
        missing_volumes=plan.missing_volumes,
    )


def load(event: Event, services: Services) -> Iterator[Event]:
    """Announce the restore; then stream the image from its store into the engine."""
    services.checkpoint()
    restore = Restore.load(event)
    if restore.phase == ACCEPTED:
        routed.check_in_time(restore, services)
        restore = replace(restore, phase="downloading")
        yield restore.event(RESTORE_START, status="loading")
        yield restore.step(LOAD)
        return
    engine_image_id = _load(restore, services)
    yield restore.step(CREATE, phase="creating", engine_image_id=engine_image_id)


def _load(restore: Restore, services: Services) -> str:
    """Load the image; return its digest on the engine.

    Raises NotRestorable for what came whole, and is no archive that can be loaded; what may have
    been damaged on its way is CorruptDownload or CorruptArchive. What the archive is made of goes
    to the engine only once all of it has come and was verified.
    """
    source, owner = _source(restore), restore.request_id
    store = services.stores.get(source.store)
    if store is None:
        raise Refused(f"the store {source.store!r} is not configured here any more")
    with store.at(source.repository).download(source.image_id) as chunks:
        passing = _verified(_watched(chunks, restore, services), source)
        archive = ArchiveStream(unpacked(passing), services.engine.restored_ref(owner))
        try:
            return services.engine.load(owner, archive)
        except CorruptArchive as error:
            if not (source.sha512 or source.sha256):
                raise
            for _ in passing:
                pass
            raise NotRestorable(f"image {source.image_id}: {error}") from error


def _source(restore: Restore) -> Source:
    assert restore.source is not None
    return restore.source


def _verified(chunks: Iterable[bytes], source: Source) -> Iterator[bytes]:
    """Pass the chunks on; raise CorruptDownload at their end unless they are what was stored."""
    return verified(
        chunks, size_bytes=source.size_bytes, sha256=source.sha256, sha512=source.sha512
    )


def _watched(chunks: Iterable[bytes], restore: Restore, services: Services) -> Iterator[bytes]:
    """Pass chunks on, telling progress, and stop when the request is gone."""
    received = 0
    for chunk in chunks:
        services.checkpoint()
        yield chunk
        received += len(chunk)
        services.progress(
            restore.event(
                RESTORE_PROGRESS, status="loading", key=f"load/{received}", bytes_done=received
            )
        )


def create(event: Event, services: Services) -> Iterator[Event]:
    """Make the container as it was planned; a killed run may have made it already.

    What is allowed is looked at again: much may have changed while the image was loaded.
    """
    services.checkpoint()
    restore = Restore.load(event)
    wanted = NewContainer(**restore.wanted)
    restore_plan.check_allowed(wanted, restore.requester, services)
    container = services.engine.create(restore.request_id, str(restore.engine_image_id), wanted)
    _check_owner(container, restore, services)
    start = bool(restore.request.get("start", True))
    yield restore.step(
        START if start else FINISH,
        phase="starting" if start else "cleanup",
        engine_container_id=container.engine_id,
        container_uuid=container.uuid,
        container_name=container.name,
    )


def _check_owner(container: Container, restore: Restore, services: Services) -> None:
    """Raise Forbidden when the image's own labels make the container somebody else's.

    They can where the request names no project, whose label would go before them.
    """
    owner = services.ownership.owner_of(container.labels).project_id
    if not may_use(owner, restore.requester):
        raise Forbidden(
            f"the image's label {services.ownership.project_label} makes the container another"
            " project's: restore it in the name of a project"
        )


def start(event: Event, services: Services) -> Iterator[Event]:
    """Start the container, once: one that a killed run has started may have ended by now."""
    services.checkpoint()
    restore = Restore.load(event)
    engine_id = str(restore.engine_container_id)
    services.progress(restore.event(RESTORE_PROGRESS, status="loading", key="starting"))
    ended = event.attempt > 1 and (
        services.engine.inspect(engine_id).state is ContainerState.STOPPED
    )
    if not ended:
        services.engine.start(engine_id)
    yield restore.step(FINISH, phase="cleanup", started=True)


def finish(event: Event, services: Services) -> Iterator[Event]:
    """Announce the container, unless the request's router has said by now that there is none."""
    restore = Restore.load(event)
    if routed.given_up(restore, services):
        late = TimedOut("its router has given the request up by now: the deadline has passed")
        yield restore.failed(FINISH, late).step(ABORT)
        return
    restore = _finished(restore, services)
    yield restore.event(RESTORE_END, status="active", duration_ms=_duration_ms(restore))


def abort(event: Event, services: Services) -> Iterator[Event]:
    """Undo a failed restore and announce the failure."""
    restore = _finished(Restore.load(event), services)
    assert restore.fault is not None
    left = _withdraw(restore, services)
    if left is not None and left.retryable and event.attempt <= QUIET_ATTEMPTS:
        raise left
    yield restore.event(RESTORE_ERROR, status="error", duration_ms=_duration_ms(restore))
    if left is not None:
        yield restore.step(SWEEP)


def sweep(event: Event, services: Services) -> Iterator[Event]:
    """Remove what was left when the bus was told: until it succeeds, or is refused for good."""
    restore = Restore.load(event)
    left = _withdraw(restore, services)
    if left is not None and left.retryable:
        raise left
    if left is not None:
        LOG.error("request %s: left behind for good: %s", restore.request_id, left)
    yield from ()


def _withdraw(restore: Restore, services: Services) -> TintypeError | None:
    """Remove what was made, unless nothing was begun; return what went wrong."""
    if restore.source is None:
        return None
    try:
        services.engine.withdraw(restore.request_id)
    except NotFound:
        return None
    except (Refused, Unavailable) as error:
        return error
    return None


def _finished(restore: Restore, services: Services) -> Restore:
    return replace(restore, finished_at=services.clock.now().isoformat(), phase="cleanup")


def _duration_ms(restore: Restore) -> int:
    assert restore.finished_at is not None
    began = datetime.fromisoformat(restore.created_at)
    return int((datetime.fromisoformat(restore.finished_at) - began).total_seconds() * 1000)
