"""Commands that a container's labels name, run in it before and after it is captured.

Both may run more than once, after a crash or a failure in passing; once the first was begun the
second follows, whatever becomes of the snapshot.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tintype.core.engine import ContainerState, Execution
from tintype.core.errors import HookFailed, Refused, TintypeError, Unavailable
from tintype.core.events import Event
from tintype.core.jobs import ACCEPTED
from tintype.core.ports import Services
from tintype.core.snapshot import ABORT, CAPTURE, PREPARE, UPLOAD, Snapshot

LOG = logging.getLogger(__name__)

PREFIX = "tintype.hook."
"""What the labels begin with."""

PRE = "pre-commit"
POST = "post-commit"

ATTEMPTS = 3
"""How often an engine that fails in passing is asked to run a command, and to capture a container
that waits for its second one."""

OUTPUT_LENGTH = 4096
"""Characters of a command's output that events carry."""


def named(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return which commands a container's labels name, in the order in which they run."""
    return tuple(name for name in (PRE, POST) if labels.get(PREFIX + name, "").strip())


def obstacle(labels: Mapping[str, str], state: ContainerState, services: Services) -> str | None:
    """Return why the commands that the labels name are not run, in words; None: they are."""
    if not named(labels):
        return None
    labelled = ", ".join(PREFIX + name for name in named(labels))
    if not services.policy.hooks:
        return f"{labelled}: not run, the host's operator has not turned [commit] hooks on"
    if state is not ContainerState.RUNNING:
        return f"{labelled}: not run, the container is {state}"
    return None


def entry(snapshot: Snapshot, services: Services) -> Event:
    """Return the step that begins the capture: the container's own command where it has one."""
    wanted = services.policy.hooks and named(snapshot.container_labels)
    return snapshot.step(PREPARE if wanted else CAPTURE, phase=ACCEPTED, capture_ref=None)


def prepare(event: Event, services: Services) -> Iterator[Event]:
    """Run the command before the capture. If it fails, so does the snapshot.

    That it is begun is a step of its own, so that after a kill the second command is not forgotten.
    """
    services.checkpoint()
    snapshot = Snapshot.load(event)
    if not snapshot.hook_open:
        state = services.engine.inspect(str(snapshot.engine_container_id)).state
        if words := obstacle(snapshot.container_labels, state, services):
            yield snapshot.warned(words).step(CAPTURE)
        else:
            yield snapshot.step(PREPARE, hook_open=True, hooks=())
        return
    if PRE in named(snapshot.container_labels):
        snapshot, error = _run(PRE, snapshot, services, last=event.attempt >= ATTEMPTS)
        if error is not None:
            LOG.warning("request %s: %s", snapshot.request_id, error)
            yield snapshot.failed(PREPARE, error).step(ABORT)
            return
    yield snapshot.step(CAPTURE)


def release(event: Event, services: Services) -> Iterator[Event]:
    """Run the command after the capture. If it fails, the image is good all the same."""
    services.checkpoint()
    snapshot = closed(Snapshot.load(event), services, last=event.attempt >= ATTEMPTS)
    yield snapshot.step(UPLOAD)


def closed(snapshot: Snapshot, services: Services, *, last: bool) -> Snapshot:
    """Return the snapshot after the second command, which was run if there is one.

    Raises Unavailable, unless it is the `last` attempt.
    """
    if POST in named(snapshot.container_labels):
        snapshot, error = _run(POST, snapshot, services, last=last)
        if error is not None:
            LOG.warning("request %s: %s", snapshot.request_id, error)
            snapshot = snapshot.warned(str(error))
    return replace(snapshot, hook_open=False)


def check_patience(snapshot: Snapshot, attempt: int) -> None:
    """Raise Refused for a capture that has failed so often that the container is to wait no longer.

    What its first command has stopped goes on after the second only.
    """
    if snapshot.hook_open and attempt > ATTEMPTS:
        raise Refused(
            f"not captured in {ATTEMPTS} attempts, while the container waits for its {POST}"
            f" command; the last failure: {snapshot.last_failure or 'the service was ended'}"
        )


def _run(
    name: str, snapshot: Snapshot, services: Services, *, last: bool
) -> tuple[Snapshot, HookFailed | None]:
    """Run a command; return the snapshot with what became of it, and whether it failed."""
    command = snapshot.container_labels[PREFIX + name]
    seconds = services.policy.hook_seconds
    try:
        execution = services.engine.execute(str(snapshot.engine_container_id), command, seconds)
    except Unavailable as error:
        if not last:
            raise
        return snapshot, _not_run(name, error)
    except Refused as error:
        return snapshot, _not_run(name, error)
    ran = {
        "name": name,
        "exit_code": execution.exit_code,
        "timed_out": execution.timed_out,
        "output": _printable(execution.output),
    }
    after = replace(snapshot, hooks=(*snapshot.hooks, ran))
    return after, _failure(name, execution, seconds)


def _not_run(name: str, error: TintypeError) -> HookFailed:
    return HookFailed(f"{PREFIX}{name}: the command could not be run: {error}")


def _failure(name: str, execution: Execution, seconds: float) -> HookFailed | None:
    if execution.timed_out:
        return HookFailed(f"{PREFIX}{name}: the command took longer than {seconds:g} s")
    if execution.exit_code is None:
        return HookFailed(f"{PREFIX}{name}: the command ended without an exit code")
    if execution.exit_code != 0:
        return HookFailed(f"{PREFIX}{name}: the command ended with {execution.exit_code}")
    return None


def _printable(output: str) -> str:
    return output[:OUTPUT_LENGTH].encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
