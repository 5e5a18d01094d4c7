"""What the Docker Engine says of a container, as a `core.ports.Container`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.core.events import is_uuid
from tintype.core.ports import Container, ContainerState

ZUN_PREFIX = "zun-"
"""Zun names a container after its uuid, and labels nothing (zun/container/docker/driver.py)."""

_STATES = {
    "running": ContainerState.RUNNING,
    "exited": ContainerState.STOPPED,
    "paused": ContainerState.PAUSED,
}


def container_of(attrs: Mapping[str, Any]) -> Container:
    """Return the container that `GET /containers/{id}/json` answered with."""
    name, config = attrs["Name"].lstrip("/"), attrs["Config"]
    uuid = name.removeprefix(ZUN_PREFIX)
    return Container(
        engine_id=attrs["Id"],
        uuid=uuid if uuid != name and is_uuid(uuid) else attrs["Id"],
        name=name,
        state=_STATES.get(attrs["State"]["Status"], ContainerState.OTHER),
        image=config["Image"],
        image_id=attrs["Image"],
        config=_restore_config(config, attrs["HostConfig"]),
        labels=config["Labels"] or {},
        volumes=_mount_points(attrs),
    )


def _restore_config(config: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, Any]:
    policy = host["RestartPolicy"]
    return {
        "command": config["Cmd"],
        "entrypoint": config["Entrypoint"],
        "working_dir": config["WorkingDir"],
        "user": config["User"],
        "exposed_ports": sorted(config.get("ExposedPorts") or {}),
        "restart_policy": {
            "name": policy["Name"] or "no",  # empty when its creator named none
            "maximum_retry_count": policy["MaximumRetryCount"],
        },
    }


def _mount_points(attrs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return where anything is mounted, a tmpfs too: none of it is in the container's own layer."""
    mounts = {each["Destination"] for each in attrs["Mounts"]}
    # A tmpfs made by --tmpfs is not among the mounts.
    return tuple(sorted(mounts | set(attrs["HostConfig"].get("Tmpfs") or {})))
