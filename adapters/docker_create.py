"""The body of `POST /containers/create` for a container that is wanted of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.core.engine import NewContainer
from tintype.core.errors import Refused


def creation_of(image: str, wanted: NewContainer, marks: Mapping[str, str]) -> dict[str, Any]:
    """Return the body, with `marks` for labels of ours; what is left out is as the image has it."""
    body: dict[str, Any] = {
        "Image": image,
        "Cmd": wanted.command,
        "Entrypoint": wanted.entrypoint,
        "Env": [f"{name}={value}" for name, value in wanted.env.items()],
        "WorkingDir": wanted.working_dir,
        "User": wanted.user,
        "Labels": {**wanted.labels, **marks},
        "ExposedPorts": {port: {} for port in wanted.ports},
        "HostConfig": _host_config(wanted),
    }
    return {key: value for key, value in body.items() if value is not None}


def _host_config(wanted: NewContainer) -> dict[str, Any]:
    policy, _, retries = wanted.restart_policy.partition(":")
    return {
        "PortBindings": {port: [_binding(host)] for port, host in wanted.ports.items()},
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": _count(retries)},
        # Of a mount, unlike a bind, the engine makes no folder on the host.
        "Mounts": [_mount(target, source) for target, source in wanted.volumes.items()],
        "NetworkMode": wanted.network or "default",
    }


def _binding(host: str) -> dict[str, str]:
    address, _, port = host.rpartition(":")
    return {"HostIp": address.strip("[]"), "HostPort": port}


def _count(retries: str) -> int:
    if retries and not retries.isdecimal():
        raise Refused(f"restart_policy: expected on-failure:<retries>, got {retries!r} retries")
    return int(retries or 0)


def _mount(target: str, source: str) -> dict[str, str]:
    kind = "bind" if source.startswith("/") else "volume"
    return {"Type": kind, "Source": source, "Target": target}
