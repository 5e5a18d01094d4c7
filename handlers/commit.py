"""From a container to a capture: freeze, commit, thaw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tintype.core.engine import Capture, CaptureOptions, ContainerState
from tintype.core.errors import StillFrozen, Unavailable
from tintype.core.events import SNAPSHOT_PROGRESS, Event
from tintype.core.policy import Policy
from tintype.core.ports import Services
from tintype.core.resolution import check_state
from tintype.core.snapshot import CAPTURE, RELEASE, UPLOAD, Snapshot
from tintype.handlers import hooks


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
    hooks.check_patience(snapshot, event.attempt)
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
    options = options_of(snapshot, services.policy, pause=pause)
    taken = services.engine.capture(container, snapshot.request_id, options)
    yield snapshot.warned(*_remarks(taken, options)).step(
        RELEASE if snapshot.hook_open else UPLOAD,
        phase="uploading",
        pause_intended=0,
        capture_ref=taken.ref,
        engine_image_id=taken.digest,
        layers=tuple(taken.layers),
        squashed=taken.squashed,
        paused_ms=taken.paused_ms,
        bytes_total=taken.size_bytes,
    )


def _thaw_after_kill(engine_id: str, services: Services) -> None:
    """Thaw what a killed run may have left frozen. Raises StillFrozen."""
    try:
        services.engine.thaw(engine_id)
    except Unavailable as error:
        raise StillFrozen(f"container {engine_id[:12]} may be frozen: {error}") from error


def options_of(snapshot: Snapshot, policy: Policy, *, pause: bool) -> CaptureOptions:
    """Return how the request and the operator want the container to be captured."""
    request = snapshot.request
    most_ms = request.get("max_pause_ms", policy.max_pause_ms) if pause else None
    return CaptureOptions(
        pause=pause,
        message=request.get("message", ""),
        author=request.get("author", ""),
        labels=dict(request.get("labels", {})),
        changes=tuple(request.get("changes", ())),
        unset_env=snapshot.unset_env,
        squash=request.get("squash", False),
        max_layers=policy.max_layers,
        max_pause_ms=None if most_ms is None else int(most_ms),  # JSON's integers may be 3.0
        keep_overrun=policy.keep_overrun,
    )


def _remarks(taken: Capture, options: CaptureOptions) -> Iterator[str]:
    """Yield what the requester should know of a capture that is otherwise than asked for."""
    if taken.overran:
        yield (
            f"the container ran again after {options.max_pause_ms} ms, before its"
            " file system was read: what it wrote from then on may be in the image"
        )
    if taken.squashed and not options.squash:
        yield f"the image would have more than {options.max_layers} layers: all are in one"
