"""From a commit request to a captured container: look, check, freeze, commit, thaw."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from tintype.core.engine import CaptureOptions, ContainerState
from tintype.core.errors import (
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    StillFrozen,
    TimedOut,
    Unavailable,
    Violation,
)
from tintype.core.events import SNAPSHOT_PROGRESS, Event
from tintype.core.ownership import may_use
from tintype.core.ports import Services
from tintype.core.resolution import check_state
from tintype.core.snapshot import (
    ABORT,
    CAPTURE,
    RESERVE,
    UPLOAD,
    Copy,
    Snapshot,
    accepted_id,
    image_id_for,
)

LOG = logging.getLogger(__name__)


def accept(event: Event, services: Services) -> Iterator[Event]:
    """Check a commit request against the container and the stores; decide the image ids.

    A request that came from a router is void once the time to take it is over: the router answers.
    What is refused once the container is known is told with its ids, for whoever waits for an
    outcome of that container; but not to one who may not use it.
    """
    now = services.clock.now()
    snapshot = Snapshot.begin(event, host=services.host, created_at=now.isoformat())
    accept_by = _accept_by(snapshot)
    if accept_by is not None and now >= accept_by:
        raise _not_in_time(accept_by)
    wanted_host = snapshot.request.get("host")
    if wanted_host not in (None, services.host):
        raise NotFound(f"host: {wanted_host!r} is not served here, this is {services.host!r}")
    container = services.engine.inspect(snapshot.request["container"])
    if not may_use(services.ownership.owner_of(container.labels).project_id, event.requester):
        raise Forbidden(f"container {container.name!r} belongs to another project")
    snapshot = replace(
        snapshot,
        engine_container_id=container.engine_id,
        container_uuid=container.uuid,
        container_name=container.name,
    )
    try:
        names = _stores(snapshot, services)
        check_state(container.name, container.state)
    except (Invalid, Refused) as error:
        LOG.warning("request %s: %s: %s", snapshot.request_id, type(error).__name__, error)
        yield snapshot.failed(event.type, error).step(ABORT)
        return
    if accept_by is not None:
        yield snapshot.accepted()
    first_id = snapshot.request.get("image_id") or image_id_for(snapshot.request_id)
    yield snapshot.step(
        RESERVE,
        container_config=dict(container.config),
        container_labels=dict(container.labels),
        base_image=container.image,
        base_image_id=container.image_id,
        excluded_volumes=tuple(container.volumes),
        copies=tuple(Copy(name, first_id) for name in names),
    )


def check_in_time(snapshot: Snapshot, services: Services) -> None:
    """Make sure that the router knows, and knew in time, that this host has taken its request.

    It gives up a host that it has not heard of, and answers itself; whatever comes later must not
    bring the snapshot back. So nothing is begun before the broker has the word, and nothing at all
    if it came too late. Raises Unavailable (not yet) and TimedOut.
    """
    accept_by = _accept_by(snapshot)
    if accept_by is None:
        return
    confirmed_at = services.confirmed_at(accepted_id(snapshot.request_id))
    if confirmed_at is None and services.clock.now() < accept_by:
        raise Unavailable("the bus has not taken the word yet that this host has the request")
    if confirmed_at is None or confirmed_at >= accept_by:
        raise _not_in_time(accept_by)


def _accept_by(snapshot: Snapshot) -> datetime | None:
    text = snapshot.request.get("accept_by")
    return None if text is None else datetime.fromisoformat(text)


def _not_in_time(accept_by: datetime) -> TimedOut:
    return TimedOut(f"the host did not take the request by {accept_by.isoformat()}")


def capture(event: Event, services: Services) -> Iterator[Event]:
    """Capture the container, frozen for as short as the engine can do it.

    The intent to freeze is a step of its own, so that a container that a killed run left frozen is
    told from one that its user froze.
    """
    services.checkpoint()
    snapshot = Snapshot.load(event)
    assert snapshot.engine_container_id is not None
    if snapshot.pause_intended and event.attempt > snapshot.pause_intended:
        _thaw_after_kill(snapshot.engine_container_id, services)
    if event.attempt > 1:
        # Every attempt that failed may have left a whole image on the engine.
        services.engine.discard(snapshot.request_id)
    container = services.engine.inspect(snapshot.engine_container_id)
    check_state(container.name, container.state)
    pause = bool(snapshot.request.get("pause", True)) and container.state is ContainerState.RUNNING
    intended = event.attempt if pause else 0
    phase = "pausing" if pause else "committing"
    if snapshot.pause_intended != intended:
        yield snapshot.step(CAPTURE, attempt=event.attempt, pause_intended=intended, phase=phase)
        return
    freezing = replace(snapshot, phase=phase)
    services.progress(freezing.event(SNAPSHOT_PROGRESS, status="saving", key=phase))
    taken = services.engine.capture(container, snapshot.request_id, _options(snapshot, pause))
    yield snapshot.step(
        UPLOAD,
        phase="uploading",
        pause_intended=0,
        capture_ref=taken.ref,
        engine_image_id=taken.digest,
        layers=tuple(taken.layers),
        paused_ms=taken.paused_ms,
        bytes_total=taken.size_bytes,
    )


def _thaw_after_kill(engine_id: str, services: Services) -> None:
    """Thaw what a killed run may have left frozen. Raises StillFrozen."""
    try:
        services.engine.thaw(engine_id)
    except Unavailable as error:
        raise StillFrozen(f"container {engine_id[:12]} may be frozen: {error}") from error


def _stores(snapshot: Snapshot, services: Services) -> tuple[str, ...]:
    names = tuple(snapshot.request.get("stores") or services.default_stores)
    for index, name in enumerate(names):
        if name not in services.stores:
            known = ", ".join(sorted(services.stores))
            wrong = Violation(f"/stores/{index}", f"a store configured here ({known})", repr(name))
            raise Invalid(str(wrong), [wrong])
    return names


def _options(snapshot: Snapshot, pause: bool) -> CaptureOptions:
    return CaptureOptions(
        pause=pause,
        message=snapshot.request.get("message", ""),
        author=snapshot.request.get("author", ""),
        labels=dict(snapshot.request.get("labels", {})),
    )
