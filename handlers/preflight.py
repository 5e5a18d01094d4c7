"""What a snapshot would take, and whether there is that much: before anything is done.

It is looked at for a dry run, and where the operator has set a limit: the engine has to look at
every file that the container has written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tintype.core.engine import Container, Usage
from tintype.core.errors import Invalid, Refused, TintypeError, TooLarge
from tintype.core.events import SNAPSHOT_PREFLIGHT, Event
from tintype.core.policy import Policy, looks_secret
from tintype.core.ports import Services
from tintype.core.snapshot import RESERVE, Copy, Snapshot
from tintype.handlers import commit, hooks
from tintype.handlers.routed import check_in_time


def preflight(event: Event, services: Services) -> Iterator[Event]:
    """Answer a dry run; of any other request, refuse what is too large, and let the rest go on."""
    services.checkpoint()
    snapshot = Snapshot.load(event)
    check_in_time(snapshot, services)
    container = services.engine.inspect(str(snapshot.engine_container_id))
    usage = services.engine.usage(container.engine_id)
    if snapshot.request.get("dry_run"):
        yield _answer(snapshot, container, usage, services)
        return
    if words := _over_hard_limit(usage, services.policy):
        raise TooLarge(words)
    if words := _over_soft_limit(usage, services.policy):
        snapshot = snapshot.warned(words)
    yield _with_room(snapshot, usage, services).step(RESERVE)


def _with_room(snapshot: Snapshot, usage: Usage, services: Services) -> Snapshot:
    """Return the snapshot without the stores that have no room for it.

    Raises TooLarge when none has.
    """
    rooms, _ = _rooms(snapshot, services)
    for copy in snapshot.copies:
        words = _too_little_room(copy, rooms[copy.name], usage)
        if words is None:
            continue
        error = TooLarge(words)
        snapshot = snapshot.without(copy, error)
        if all(each.fault for each in snapshot.copies):
            raise error
    return snapshot


def _answer(snapshot: Snapshot, container: Container, usage: Usage, services: Services) -> Event:
    """Return the event that answers a dry run: no image is made, so it has none."""
    finished = services.clock.now()
    began = datetime.fromisoformat(snapshot.created_at)
    rooms, silent = _rooms(snapshot, services)
    soft = _over_soft_limit(usage, services.policy)
    warned = snapshot.warned(*filter(None, [soft]))
    problems = [*silent, *_problems(snapshot, usage, rooms, services)]
    done = replace(warned, copies=(), finished_at=finished.isoformat())
    return done.event(
        SNAPSHOT_PREFLIGHT,
        status="preflight",
        duration_ms=int((finished - began).total_seconds() * 1000),
        preflight={
            **_report(snapshot, container, usage, rooms, services),
            "problems": problems,
        },
    )


def _report(
    snapshot: Snapshot,
    container: Container,
    usage: Usage,
    rooms: Mapping[str, int | None],
    services: Services,
) -> dict[str, Any]:
    policy = services.policy
    secret = set(looks_secret(container.env_names)) - set(snapshot.unset_env)
    run = hooks.obstacle(container.labels, container.state, services) is None
    return {
        "size_rw_bytes": usage.size_rw_bytes,
        "size_rootfs_bytes": usage.size_rootfs_bytes,
        "estimated_bytes": _estimate(usage),
        "free_bytes": usage.free_bytes,
        "layers": _layers(usage),
        "max_layers": policy.max_layers,
        "squash_needed": _squash_needed(usage, policy),
        "excluded_volumes": list(container.volumes),
        "secret_looking_env": sorted(secret),
        "scrubbed_env": sorted(set(snapshot.unset_env) & set(container.env_names)),
        "hooks": list(hooks.named(container.labels)) if run else [],
        "stores": [
            {"name": copy.name, "room_bytes": rooms[copy.name], "repository": copy.repository}
            for copy in snapshot.copies
        ],
        "soft_limit_bytes": policy.soft_limit_bytes,
        "hard_limit_bytes": policy.hard_limit_bytes,
    }


def _problems(
    snapshot: Snapshot, usage: Usage, rooms: Mapping[str, int | None], services: Services
) -> Iterator[str]:
    """Yield what would make the snapshot fail, in words."""
    policy = services.policy
    told = [_obstacle(snapshot, services)]
    told += [_over_hard_limit(usage, policy), _over_free_space(snapshot, usage, policy)]
    told += [_too_little_room(copy, rooms[copy.name], usage) for copy in snapshot.copies]
    yield from filter(None, told)


def _obstacle(snapshot: Snapshot, services: Services) -> str | None:
    """Return why the engine would not capture the container as it is asked to."""
    options = commit.options_of(snapshot, services.policy, pause=False)
    try:
        services.engine.check_capture(str(snapshot.engine_container_id), options)
    except (Invalid, Refused) as error:
        return str(error)
    return None


def _estimate(usage: Usage) -> int:
    """Return about how large the archive is: all files of the container and of its image."""
    return usage.size_rootfs_bytes


def _layers(usage: Usage) -> int:
    """Return how many layers the image would have: its base's, and the container's own."""
    return usage.layers + 1


def _squash_needed(usage: Usage, policy: Policy) -> bool:
    return _layers(usage) > policy.max_layers


def _over_hard_limit(usage: Usage, policy: Policy) -> str | None:
    return _over(usage, policy.hard_limit_bytes, "hard_limit_mib")


def _over_soft_limit(usage: Usage, policy: Policy) -> str | None:
    return _over(usage, policy.soft_limit_bytes, "soft_limit_mib")


def _over(usage: Usage, limit: int | None, option: str) -> str | None:
    if limit is None or _estimate(usage) <= limit:
        return None
    return (
        f"the image would have about {_estimate(usage)} bytes, more than the {limit} of"
        f" [commit] {option}"
    )


def _over_free_space(snapshot: Snapshot, usage: Usage, policy: Policy) -> str | None:
    """Return that the engine's disk is too small: it keeps the capture, and stages the archive.

    For one layer of all it keeps everything twice.
    """
    squash = snapshot.request.get("squash", False) or _squash_needed(usage, policy)
    needed = usage.size_rw_bytes + usage.size_rootfs_bytes * (2 if squash else 1)
    if usage.free_bytes is None or usage.free_bytes >= needed:
        return None
    return (
        f"the engine has {usage.free_bytes} bytes free, and needs about {needed} for a while to"
        " make and read the image"
    )


def _too_little_room(copy: Copy, room: int | None, usage: Usage) -> str | None:
    if room is None or room >= _estimate(usage):
        return None
    return (
        f"{copy.name}: there is room for {max(0, room)} bytes, and the image would have about"
        f" {_estimate(usage)}"
    )


def _rooms(snapshot: Snapshot, services: Services) -> tuple[dict[str, int | None], list[str]]:
    """Return how many bytes each store may still take, and which stores could not be asked.

    None: it does not say. One that is away is waited for when the image is reserved.
    """
    rooms: dict[str, int | None] = {}
    silent = []
    for copy in snapshot.copies:
        rooms[copy.name] = None
        try:
            store = services.store(copy.name, copy.repository)
            rooms[copy.name] = store.room(snapshot.requester.project_id)
        except TintypeError as error:
            silent.append(f"{copy.name}: could not be asked how much room there is: {error}")
    return rooms, silent
