"""May it be? A commit request against its container, its stores and the operator's policy.

All that can be told without work is told here; what the schema refuses does not come this far.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from tintype.core.dockerfile import env_names, instruction, require_changes
from tintype.core.engine import Container
from tintype.core.errors import Forbidden, Invalid, Refused, Violation
from tintype.core.events import Event, is_uuid
from tintype.core.images import ImageStore
from tintype.core.ownership import may_use
from tintype.core.ports import Services
from tintype.core.resolution import check_state
from tintype.core.snapshot import (
    ABORT,
    PREFLIGHT,
    RESERVE,
    Copy,
    Snapshot,
    image_id_for,
)
from tintype.handlers import commit, hooks
from tintype.handlers.routed import accept_by_of, check_acceptable

LOG = logging.getLogger(__name__)

NOT_EXPANDED = frozenset({"CMD", "ENTRYPOINT", "HEALTHCHECK", "ONBUILD"})
"""Instructions in which the engine leaves `$NAME` as it stands (moby's builder/dockerfile)."""

IMAGE_TAG = "tintype-"
"""What the tag begins with, before the image's id, that every image has in a repository."""

_REFERENCE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)")


def accept(event: Event, services: Services) -> Iterator[Event]:
    """Check a commit request; decide where the image goes, and under which ids.

    What is refused once the container is known is told with its ids, for whoever waits for an
    outcome of that container; but not to one who may not use it.
    """
    now = services.clock.now()
    snapshot = Snapshot.begin(event, host=services.host, created_at=now.isoformat())
    check_acceptable(snapshot, services)
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
        accepted = _checked(snapshot, container, services)
    except (Invalid, Refused) as error:
        LOG.warning("request %s: %s: %s", snapshot.request_id, type(error).__name__, error)
        yield snapshot.failed(event.type, error).step(ABORT)
        return
    if accept_by_of(snapshot) is not None:
        yield accepted.accepted()
    measured = snapshot.request.get("dry_run") or services.policy.has_limits
    yield accepted.step(PREFLIGHT if measured else RESERVE)


def _checked(snapshot: Snapshot, container: Container, services: Services) -> Snapshot:
    """Return the snapshot with all that is decided of it. Raises Invalid, Refused."""
    request = snapshot.request
    copies = _copies(snapshot, services)
    check_state(container.name, container.state)
    _check_expiry(request, services)
    if request.get("max_pause_ms") is not None and not request.get("pause", True):
        raise Invalid.at("/max_pause_ms", "none where `pause` is false", "one")
    changes: Sequence[str] = request.get("changes", ())
    require_changes(changes)
    present = {*container.env_names, *env_names(changes)}
    unset_env = services.policy.scrubbed(present, request.get("unset_env", ()))
    _check_scrubbed(changes, frozenset(unset_env))
    accepted = replace(
        snapshot,
        container_config=dict(container.config),
        container_labels=dict(container.labels),
        base_image=container.image,
        base_image_id=container.image_id,
        excluded_volumes=tuple(container.volumes),
        unset_env=unset_env,
        copies=copies,
    )
    if not request.get("dry_run"):  # whose answer names all that stands in its way
        options = commit.options_of(accepted, services.policy, pause=False)
        services.engine.check_capture(container.engine_id, options)
    return accepted.warned(*_warnings(accepted, container, present, services))


def _copies(snapshot: Snapshot, services: Services) -> tuple[Copy, ...]:
    """Return where the image goes: the stores asked for, and the places in them."""
    names = tuple(snapshot.request.get("stores") or services.default_stores)
    for index, name in enumerate(names):
        if name not in services.stores:
            known = ", ".join(sorted(services.stores))
            raise Invalid.at(f"/stores/{index}", f"a store configured here ({known})", repr(name))
    stores = [services.stores[name] for name in names]
    _check_visibility(snapshot.request, stores)
    image_id = snapshot.request.get("image_id") or image_id_for(snapshot.request_id)
    wanted = snapshot.request.get("repository")
    repositories = [_repository(store, snapshot.image_name, wanted) for store in stores]
    if wanted is not None and not any(repositories):
        raise Invalid.at(
            "/repository", f"none: {', '.join(names)} have no repositories", repr(wanted)
        )
    if any(repositories):
        _check_tag(snapshot.tag)
    return tuple(
        Copy(name, image_id, repository)
        for name, repository in zip(names, repositories, strict=True)
    )


def _check_tag(tag: str) -> None:
    """Raise Invalid for a tag by which a store with repositories knows an image of another id."""
    if is_uuid(tag.removeprefix(IMAGE_TAG)) and tag.startswith(IMAGE_TAG):
        raise Invalid.at("/tag", f"a tag that is not `{IMAGE_TAG}` and a UUID", repr(tag))


def _check_visibility(request: Mapping[str, Any], stores: Iterable[ImageStore]) -> None:
    wanted = request.get("visibility")
    for store in stores:
        if wanted is not None and wanted not in store.visibilities:
            possible = ", ".join(sorted(store.visibilities)) or "none"
            expected = f"one that the store {store.name!r} knows ({possible})"
            raise Invalid.at("/visibility", expected, repr(wanted))


def _repository(store: ImageStore, image_name: str, wanted: str | None) -> str | None:
    """Return the image's place in a store; None in one that has no repositories.

    A repository that is wanted is for those of the request's stores that have some.
    """
    if wanted is not None and not _has_repositories(store, image_name):
        return None
    return store.repository_for(image_name, wanted)


def _has_repositories(store: ImageStore, image_name: str) -> bool:
    try:
        return store.repository_for(image_name, None) is not None
    except Invalid:
        # It has, but none of its own for this name.
        return True


def _check_expiry(request: Mapping[str, Any], services: Services) -> None:
    text = request.get("expires_at")
    if text is None:
        return
    if datetime.fromisoformat(text) <= services.clock.now():
        raise Invalid.at("/expires_at", "a time to come", repr(text))
    if not services.policy.janitor:
        raise Refused(
            "/expires_at: images are not removed when they expire on this host, whose operator has"
            " turned [janitor] enabled off; leave expires_at out"
        )


def _check_scrubbed(changes: Sequence[str], scrubbed: frozenset[str]) -> None:
    """Raise Invalid for changes that put into the image what is to be taken out of it."""
    faults = []
    for number, change in enumerate(changes):
        for name in sorted(scrubbed.intersection(env_names([change]))):
            expected = f"no value for {name}, which is to be taken out of the image"
            faults.append(Violation(f"/changes/{number}", expected, "one"))
        for name in sorted(scrubbed.intersection(_references(change))):
            expected = f"no reference to {name}, which is to be taken out of the image"
            faults.append(Violation(f"/changes/{number}", expected, "one"))
    if faults:
        raise Invalid("; ".join(map(str, faults)), faults)


def _references(change: str) -> set[str]:
    """Return the names of the variables whose values the engine may put into an instruction.

    Quotes and backslashes that keep it from that are not looked at: better one name too many.
    """
    name, rest = instruction(change)
    return set() if name in NOT_EXPANDED else set(_REFERENCE.findall(rest))


def _warnings(
    snapshot: Snapshot, container: Container, present: set[str], services: Services
) -> Iterator[str]:
    missing = [name for name in snapshot.request.get("unset_env", ()) if name not in present]
    if missing:
        yield f"/unset_env: the container has no {', '.join(sorted(missing))}"
    if obstacle := hooks.obstacle(container.labels, container.state, services):
        yield obstacle
