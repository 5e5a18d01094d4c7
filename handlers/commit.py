"""From a commit request to a captured container: look, check, freeze, commit, thaw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tintype.core.errors import (
    Forbidden,
    Invalid,
    NotFound,
    StillFrozen,
    Unavailable,
    Violation,
    WrongState,
)
from tintype.core.events import SNAPSHOT_PROGRESS, Event
from tintype.core.ports import CaptureOptions, Container, ContainerState, Services
from tintype.core.snapshot import CAPTURE, RESERVE, UPLOAD, Copy, Snapshot, image_id_for

PROJECT_LABEL = "tintype.project_id"
"""Container label that names the owning project; a container without it belongs to everybody."""

ALLOWED_STATES = (ContainerState.RUNNING, ContainerState.STOPPED, ContainerState.PAUSED)
"""As the Zun spec has them; Nova's createImage allows the same."""


def accept(event: Event, services: Services) -> Iterator[Event]:
    """Check a commit request against the container and the stores; decide the image ids."""
    now = services.clock.now().isoformat()
    snapshot = Snapshot.begin(event, host=services.host, created_at=now)
    names = _stores(snapshot, services)
    wanted_host = snapshot.request.get("host")
    if wanted_host not in (None, services.host):
        raise NotFound(f"host: {wanted_host!r} is not served here, this is {services.host!r}")
    container = services.engine.inspect(snapshot.request["container"])
    check_owner(container, event)
    check_state(container)
    first_id = snapshot.request.get("image_id") or image_id_for(snapshot.request_id)
    yield snapshot.step(
        RESERVE,
        engine_container_id=container.engine_id,
        container_uuid=container.uuid,
        container_name=container.name,
        container_config=dict(container.config),
        container_labels=dict(container.labels),
        base_image=container.image,
        base_image_id=container.image_id,
        excluded_volumes=tuple(container.volumes),
        copies=tuple(Copy(name, first_id) for name in names),
    )


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
    check_state(container)
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


def check_state(container: Container) -> None:
    """Raise WrongState unless the container can be snapshotted."""
    if container.state not in ALLOWED_STATES:
        allowed = ", ".join(ALLOWED_STATES)
        raise WrongState(
            f"container {container.name!r} is neither of {allowed}: start it, or wait until it has "
            "settled"
        )


def check_owner(container: Container, event: Event) -> None:
    """Raise Forbidden unless the container is the requester's own, or the requester an admin."""
    owner = container.labels.get(PROJECT_LABEL)
    if owner is None or event.requester.is_admin or owner == event.requester.project_id:
        return
    raise Forbidden(f"container {container.name!r} belongs to another project")


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
