"""How much there is of a container on a Docker Engine, and how much room beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import docker

from tintype.adapters.docker_client import LazyClient, open_stream
from tintype.adapters.docker_errors import translated
from tintype.core.engine import Usage

CONTAINERD_STORE = "io.containerd.snapshotter.v1"
"""The driver type that an engine tells whose images are containerd's (moby's daemon/info.go)."""

_THIS_MACHINE = "http+docker://localhost"
"""What the SDK calls the engine at a unix socket, wherever that is."""


def usage_of(calls: LazyClient, engine_id: str, timeout: float) -> Usage:
    """Return what a snapshot of the container would take. Raises NotFound, Unavailable.

    The engine walks through what the container has written: `timeout` seconds are for that.
    """
    path, size = f"/containers/{engine_id}/json", {"size": "1"}
    with open_stream(calls, path, timeout, size) as response, translated():
        attrs = response.json()
        client = calls.get()
        return Usage(
            size_rw_bytes=attrs.get("SizeRw") or 0,
            size_rootfs_bytes=attrs.get("SizeRootFs") or 0,
            layers=len(layers_of(client, attrs["Image"])),
            free_bytes=_free(client),
        )


def layers_of(client: docker.APIClient, image: str) -> list[str]:
    """Return an image's diff ids, lowest layer first."""
    attrs = client.inspect_image(image)  # type: ignore[no-untyped-call]  # stubs
    layers: list[str] = attrs["RootFS"].get("Layers") or []
    return layers


def has_containerd_store(info: Mapping[str, Any]) -> bool:
    """Tell whether the engine that says this of itself keeps its images with containerd."""
    return ["driver-type", CONTAINERD_STORE] in [list(each) for each in info["DriverStatus"] or ()]


def _free(client: docker.APIClient) -> int | None:
    """Return the bytes left for images; None where that is another machine's, or hidden."""
    if client.base_url != _THIS_MACHINE:
        return None
    info = client.info()
    if has_containerd_store(info):  # images are not in the engine's folder
        return None
    try:
        return shutil.disk_usage(info["DockerRootDir"]).free
    except OSError:
        return None
