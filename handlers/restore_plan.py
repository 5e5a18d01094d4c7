"""The container that a restore makes: what the snapshot has recorded, and what the request wants.

What a commit writes into the image itself (command, entrypoint, environment, working directory,
user, labels, exposed ports) is not repeated from the snapshot's record: the image knows it better,
for the request of the snapshot may have changed it there. The record has what no image can hold.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tintype.core.engine import RESTORE_LABEL, ZUN_PREFIX, NewContainer
from tintype.core.errors import Forbidden, Invalid, NameTaken, NotFound, Refused
from tintype.core.events import Requester
from tintype.core.ports import Services
from tintype.core.restore import Restore, Source

NAME_LENGTH = 200
"""Characters of a recorded name that are kept for the new one."""

ITEMS_READ = 1000
"""How many items of a recorded list or object are believed."""

INTERNAL_LABELS = (
    RESTORE_LABEL,
    "tintype.capture.",
    "tintype.request_id",
    "tintype.instance",
)
"""What the labels begin with by which Tintype knows what it has made."""

DEFAULT_NETWORK = "default"
"""What Docker calls the network of a container that names none; no network has that name."""

SAFE_NETWORKS = frozenset({"bridge", DEFAULT_NETWORK, "none"})
"""Networks that every project may use: a container in another sees what is there."""

HOST_NETWORK = "host"
"""The network that is the host's own: what listens there listens on the host."""

Read = TypeVar("Read")

_NAME_REST = re.compile(r"[^a-zA-Z0-9_.-]")
_PORT = re.compile(r"[0-9]{1,5}/(tcp|udp|sctp)")
_HOST_SIDE = re.compile(r"((\[[0-9a-fA-F:.]+\]|[0-9.]+):)?([0-9]{1,5}(-[0-9]{1,5})?)?")
_POLICIES = frozenset({"no", "always", "unless-stopped", "on-failure"})


@dataclass(frozen=True, slots=True)
class Plan:
    """A container to be made, and what its requester should know of it."""

    wanted: NewContainer
    missing_volumes: tuple[str, ...] = ()
    """Mount points whose data is in no image, and for which the request names nothing."""
    warnings: tuple[str, ...] = ()


def plan(restore: Restore, source: Source, services: Services) -> Plan:
    """Return the container that a request wants made of an image. Raises Invalid, Refused."""
    request = restore.request
    warnings: list[str] = []
    volumes = dict(request.get("volumes", {}))
    outside = _recorded(source, "excluded_volumes", _names, warnings) or []
    missing = [point for point in outside if not _covered(point, volumes)]
    warnings += [f"/volumes: the data of {point} is not in the image; map it" for point in missing]
    warnings += _scrubbed(source, request, warnings)
    ports = request.get("ports")
    if ports is None:
        ports = _recorded(source, "container_published_ports", _ports, warnings) or {}
    restart_policy = request.get("restart_policy") or _recorded(
        source, "container_restart_policy", _policy, warnings
    )
    network = request.get("network")
    wanted = NewContainer(
        name=request.get("name") or default_name(source, restore.request_id),
        command=request.get("command"),
        entrypoint=request.get("entrypoint"),
        env=dict(request.get("env", {})),
        working_dir=request.get("working_dir"),
        user=request.get("user"),
        labels=_labels(restore, services),
        ports=dict(ports),
        restart_policy=restart_policy or "no",
        volumes=volumes,
        network=None if network == DEFAULT_NETWORK else network,
    )
    return Plan(wanted, tuple(missing), tuple(warnings))


def _scrubbed(source: Source, request: Mapping[str, Any], warnings: list[str]) -> list[str]:
    """Return a warning for each variable that the image has lost, and the request does not give."""
    names = _recorded(source, "scrubbed_env", _names, warnings) or []
    lost = [name for name in names if name not in request.get("env", {})]
    return [f"/env: {name} was taken out of the image; give it by env" for name in lost]


def check_allowed(wanted: NewContainer, requester: Requester, services: Services) -> None:
    """Raise unless the requester may have this container made here, now.

    Raises Forbidden (volumes, networks), Invalid, Unavailable.
    """
    safe = wanted.network is None or wanted.network in SAFE_NETWORKS
    if not safe and not _may_join(str(wanted.network), requester):
        names = ", ".join(sorted(SAFE_NETWORKS))
        raise Forbidden(f"/network: {wanted.network!r} is for administrators; others have {names}")
    for mount_point, source in wanted.volumes.items():
        _check_volume(mount_point, source, requester, services)


def default_name(source: Source, request_id: str) -> str:
    """Return the name of a container whose request gives none.

    It is not the old one, for the old container may be there, and never one of Zun's, which would
    be taken for the container that Zun knows.
    """
    image_name = (source.name or "").rpartition("/")[2]
    base = source.properties.get("container_name") or image_name
    base = _NAME_REST.sub("-", base.removeprefix(ZUN_PREFIX))[:NAME_LENGTH].lstrip("_.-")
    return f"{base or 'restored'}-{request_id[:8]}"


def _is_trusted(requester: Requester) -> bool:
    """Tell whether a request is an administrator's, or from where there are no projects at all."""
    return requester.is_admin or requester.project_id is None


def _may_join(network: str, requester: Requester) -> bool:
    return requester.is_admin or (_is_trusted(requester) and network != HOST_NETWORK)


def check_name(name: str, services: Services) -> None:
    """Raise NameTaken, before anything is loaded, for what the engine would raise it in the end."""
    try:
        holder = services.engine.inspect(name)
    except (NotFound, Refused):
        return
    if holder.name == name:
        raise NameTaken(f"/name: {name!r} is in use by container {holder.engine_id[:12]}")


def _labels(restore: Restore, services: Services) -> dict[str, str]:
    """Return the labels to add to the image's: the request's, and whose the container is."""
    labels = dict(restore.request.get("labels", {}))
    ownership, requester = services.ownership, restore.requester
    owners = (ownership.project_label, ownership.user_label)
    for name in labels:
        if name in owners or name.startswith(INTERNAL_LABELS):
            pointer = name.replace("~", "~0").replace("/", "~1")
            raise Invalid.at(f"/labels/{pointer}", "a label that is not Tintype's own", repr(name))
    if requester.project_id is not None:
        labels[ownership.project_label] = requester.project_id
        labels[ownership.user_label] = requester.user_id or ""
    return labels


# Volumes


def _covered(point: str, volumes: Mapping[str, str]) -> bool:
    """Tell whether something is mounted at a mount point, or above it."""
    return any(point == each or _below(point, each) for each in volumes)


def _below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder.rstrip('/')}/")


def _is_plain(path: str) -> bool:
    """Tell whether a path is absolute and has no `.`, `..` or superfluous slash in it."""
    return path.startswith("/") and not path.startswith("//") and posixpath.normpath(path) == path


def _check_volume(mount_point: str, source: str, requester: Requester, services: Services) -> None:
    """Raise unless a volume may be mounted, as far as paths and labels tell."""
    pointer = f"/volumes/{mount_point.replace('~', '~0').replace('/', '~1')}"
    if not _is_plain(mount_point) or mount_point == "/":
        raise Invalid.at(pointer, "a mount point below /, absolute, without . or ..", mount_point)
    if not source.startswith("/"):
        _check_named_volume(pointer, source, requester, services)
    elif not _is_plain(source):
        raise Invalid.at(pointer, "a folder of the host, absolute, without . or ..", source)
    elif not _may_bind(source, requester, services):
        raise Forbidden(
            f"{pointer}: {source} is none of the folders that containers may be given here"
            " ([restore] bind_folders)"
        )


def _may_bind(folder: str, requester: Requester, services: Services) -> bool:
    """Tell whether a container may be given a folder of the host.

    Whoever has a folder in a container can put a symbolic link to anywhere into it, which the
    engine follows when it mounts what is below, at every start. So a project is given no more than
    the folders that are listed.
    """
    allowed = [posixpath.normpath(each) for each in services.policy.bind_folders]
    below = _is_trusted(requester) and any(_below(folder, each) for each in allowed)
    return folder in allowed or below


def _check_named_volume(pointer: str, name: str, requester: Requester, services: Services) -> None:
    """Raise Forbidden for a volume of another project.

    The engine knows no owners: a volume is whose project its label names. One without the label
    may hold anybody's data, and one that does not exist would have no label: both are for those
    who see everything.
    """
    if requester.is_admin:
        return
    labels = services.engine.volume_labels(name)
    owner = services.ownership.owner_of(labels or {}).project_id
    if owner != requester.project_id:
        label = services.ownership.project_label
        raise Forbidden(
            f"{pointer}: volume {name!r} is not this project's: it has no label"
            f" {label}={requester.project_id}"
        )


# What the snapshot has recorded


def _recorded(
    source: Source, name: str, parse: Callable[[Any], Read], warnings: list[str]
) -> Read | None:
    """Return what a property of the image says, which others may have changed; None: nothing."""
    text = source.properties.get(name)
    if text is None:
        return None
    try:
        return parse(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError):
        warnings.append(f"the image's property {name} cannot be read and was left out")
        return None


def _names(value: Any) -> list[str]:
    """Read a list of short texts."""
    usable = isinstance(value, list) and len(value) <= ITEMS_READ
    if not usable or not all(isinstance(each, str) and len(each) <= 4096 for each in value):
        raise ValueError
    return value  # type: ignore[no-any-return]  # checked above


def _ports(value: Any) -> dict[str, str]:
    """Read published ports."""
    if not isinstance(value, dict) or len(value) > ITEMS_READ:
        raise ValueError
    for port, host in value.items():
        if not _PORT.fullmatch(port) or not _HOST_SIDE.fullmatch(host):
            raise ValueError
    return value


def _policy(value: Any) -> str:
    """Read a restart policy; return it in Docker's words."""
    name, count = value["name"], int(value.get("maximum_retry_count") or 0)
    if name not in _POLICIES or count < 0:
        raise ValueError
    return f"{name}:{count}" if name == "on-failure" and count else str(name)
