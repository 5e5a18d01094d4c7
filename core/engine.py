"""The port `Engine`: the container engine of this host, and what it says of containers.

Methods raise only what `tintype.core.errors` names; `Unavailable` from any of them means that the
same call may be made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from tintype.core.events import is_uuid


class ContainerState(StrEnum):
    """A container's state in the words of the spec (Zun's), not the engine's."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    OTHER = "Other"
    """Created, restarting, removing, dead: nothing that can be snapshotted."""


@dataclass(frozen=True, slots=True)
class Container:
    """What a snapshot needs to know of a container."""

    engine_id: str
    uuid: str
    """Zun's uuid for a container named `zun-<uuid>`, else the engine's id."""
    name: str
    state: ContainerState
    image: str
    """Reference the container was made from, as its creator wrote it."""
    image_id: str
    """Digest of that image's configuration."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """For a restore: command, entrypoint, working_dir, user, exposed_ports, restart_policy."""
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    """Mount points whose data a commit does not hold."""
    created_at: str = ""
    """When it was made, ISO 8601; empty where the engine does not say."""


ZUN_PREFIX = "zun-"
"""Zun names a container after its uuid, and labels nothing (zun/container/docker/driver.py)."""


def container_uuid(name: str, engine_id: str) -> str:
    """Return Zun's uuid for a container named `zun-<uuid>`, else the engine's id."""
    uuid = name.removeprefix(ZUN_PREFIX)
    zuns = uuid != name and is_uuid(uuid) and uuid == uuid.lower()
    return uuid if zuns else engine_id


class EngineAction(StrEnum):
    """What has happened to a container, in the engine's words (moby's `events.Action`)."""

    CREATE = "create"
    START = "start"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    DIE = "die"
    """Its main process has ended, asked to or not."""
    RENAME = "rename"
    UPDATE = "update"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """One event of the engine about a container."""

    action: EngineAction
    engine_id: str
    at: int
    """When, nanoseconds since 1970 by the engine's clock; the resume point of `Engine.watch`."""
    name: str
    image: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """As the engine's event has them: mixed with its own attributes, some of which win."""
    exit_code: int | None = None
    """Of a `die`."""


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How a container is to be captured."""

    pause: bool
    """Freeze the container while its file system is read."""
    message: str = ""
    author: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Capture(Protocol):
    """A container's file system at one instant, held until it is discarded.

    A `docker commit` may be behind it, or layers read straight from the engine's storage.
    """

    @property
    def ref(self) -> str:
        """Name by which `Engine.reopen` finds this capture after a restart."""

    @property
    def digest(self) -> str:
        """Digest of the image configuration, `sha256:...`."""

    @property
    def layers(self) -> Sequence[str]:
        """Diff ids, lowest layer first."""

    @property
    def size_bytes(self) -> int:
        """Size of the unpacked layers: an estimate of what `read` will yield."""

    @property
    def paused_ms(self) -> int:
        """How long the container was frozen for this capture, milliseconds."""

    def read(self) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the image as a docker-archive tar. Its content is not to be trusted unchecked."""


class Engine(Protocol):
    """The container engine of this host."""

    def inspect(self, ident: str) -> Container:
        """Return the container with this uuid, engine id (or a unique start of it) or name.

        Raises NotFound, or Refused where a name stands for several.
        """

    def containers(self) -> Sequence[Container]:
        """Return all containers, in any state; without `config` and `volumes`."""

    def watch(self, since: int, seconds: float) -> AbstractContextManager[Iterator[EngineEvent]]:
        """Stream what happens to containers from `since` (nanoseconds, inclusive) on.

        What the engine still remembers comes first (the Docker Engine: its last 256 events), then
        what happens, for `seconds`; then the stream ends. Raises Unavailable when the engine ends
        it earlier, or cannot be reached.
        """

    def thaw(self, engine_id: str) -> None:
        """Let a frozen container run; nothing happens to one that is gone or runs."""

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> Capture:
        """Capture the container on behalf of the request `owner`.

        The container is frozen for no longer than needed, thawed whatever happens, and never
        thawed when somebody else froze it. Raises StillFrozen when that failed; after any other
        error (NotFound, Refused, Unavailable) it is not frozen by us.
        """

    def reopen(self, ref: str, *, paused_ms: int = 0) -> Capture | None:
        """Return a capture made before, or None when it is no more."""

    def discard(self, owner: str) -> None:
        """Remove every capture made for `owner`; none left is fine."""

    def owners(self) -> frozenset[str]:
        """Return the owners of all captures that this Tintype made and that still exist."""

    def check(self) -> None:
        """Raise Unavailable unless the engine answers."""

    def close(self) -> None:
        """Release connections."""
