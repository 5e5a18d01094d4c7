"""What the Docker Engine says of a container, as a `core.engine.Container`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tintype.core.engine import Container, ContainerState, container_uuid

OWN_ATTRIBUTES = frozenset({"name", "image", "exitCode", "execDuration", "oldName"})
"""What the engine itself adds to the labels in the events that we take.

From moby's daemon/events.go, monitor.go and rename.go. A label of such a name is lost: it cannot
be told from the engine's own.
"""

_STATES = {
    "running": ContainerState.RUNNING,
    "exited": ContainerState.STOPPED,
    "paused": ContainerState.PAUSED,
}


def container_of(attrs: Mapping[str, Any]) -> Container:
    """Return the container that `GET /containers/{id}/json` answered with."""
    name, config = attrs["Name"].lstrip("/"), attrs["Config"]
    return Container(
        engine_id=attrs["Id"],
        uuid=container_uuid(name, attrs["Id"]),
        name=name,
        state=_STATES.get(attrs["State"]["Status"], ContainerState.OTHER),
        image=config["Image"],
        image_id=attrs["Image"],
        config=_restore_config(config, attrs["HostConfig"]),
        labels=config["Labels"] or {},
        volumes=_mount_points(attrs),
        env_names=_env_names(config.get("Env") or ()),
        created_at=_whole_seconds(attrs.get("Created") or ""),
    )


def listed_container(attrs: Mapping[str, Any]) -> Container:
    """Return a container as an entry of `GET /containers/json` has it: no config, env or volumes.

    Its image is an id where the reference that its creator wrote stands for another image by now.
    """
    name = listed_name(attrs)
    return Container(
        engine_id=attrs["Id"],
        uuid=container_uuid(name, attrs["Id"]),
        name=name,
        state=_STATES.get(attrs["State"], ContainerState.OTHER),
        image=attrs["Image"],
        image_id=attrs["ImageID"],
        labels=attrs["Labels"] or {},
        created_at=datetime.fromtimestamp(attrs["Created"], UTC).isoformat(),
    )


def listed_name(attrs: Mapping[str, Any]) -> str:
    """Return the own name of a listed container, which others may have linked under more names.

    An alias has the name of the one that links before it: `/other/alias`. The engine's id stands
    for the name of a container that has just lost it, on its way out.
    """
    own = [name[1:] for name in attrs["Names"] or () if name.count("/") == 1]
    return own[0] if own else str(attrs["Id"])


def _whole_seconds(text: str) -> str:
    """Return a time in UTC without the fraction that only `inspect` tells; empty stays empty."""
    if not text:
        return ""
    # Python reads as much of the engine's nanoseconds as it knows.
    return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="seconds")


def _restore_config(config: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, Any]:
    policy = host["RestartPolicy"]
    return {
        "command": config["Cmd"],
        "entrypoint": config["Entrypoint"],
        "working_dir": config["WorkingDir"],
        "user": config["User"],
        "exposed_ports": sorted(config.get("ExposedPorts") or {}),
        "published_ports": _published(host.get("PortBindings") or {}),
        "restart_policy": {
            "name": policy["Name"] or "no",  # empty when its creator named none
            "maximum_retry_count": policy["MaximumRetryCount"],
        },
    }


def _published(bindings: Mapping[str, Sequence[Mapping[str, str]] | None]) -> dict[str, str]:
    """Return the host's side of each published port: `8080`, `127.0.0.1:8080`, empty if any.

    Of a port that was published several times only the first is told.
    """
    return {port: _host_side(each[0]) for port, each in sorted(bindings.items()) if each}


def _host_side(binding: Mapping[str, str]) -> str:
    address, port = binding.get("HostIp", ""), binding.get("HostPort", "")
    if not address:
        return port
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _env_names(env: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({each.partition("=")[0] for each in env}))


def _mount_points(attrs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return where anything is mounted, a tmpfs too: none of it is in the container's own layer."""
    mounts = {each["Destination"] for each in attrs["Mounts"]}
    # A tmpfs made by --tmpfs is not among the mounts.
    return tuple(sorted(mounts | set(attrs["HostConfig"].get("Tmpfs") or {})))
