"""The port `Engine`: the container engine of this host, and what it says of containers.

Methods raise only what `tintype.core.errors` names; `Unavailable` from any of them means that the
same call may be made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    """For a restore: command, entrypoint, working_dir, user, exposed_ports, published_ports,
    restart_policy."""
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    """Mount points whose data a commit does not hold."""
    env_names: Sequence[str] = ()
    """Names of its environment variables; what they hold stays with the engine."""
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
    changes: Sequence[str] = ()
    """Dockerfile instructions for the image's configuration, as `docker commit --change` has."""
    unset_env: Collection[str] = ()
    """Environment variables that are to be taken out of the image when it is sent: where that
    cannot be done, nothing is captured."""
    squash: bool = False
    """Make one layer of all."""
    max_layers: int = 125
    """An image with more layers than this is squashed unasked."""
    max_pause_ms: int | None = None
    """The container runs again after this time, whether its file system is read or not."""
    keep_overrun: bool = False
    """Keep what was captured when that happened, instead of raising PausedTooLong."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot of a container would take."""

    size_rw_bytes: int
    """What the container has written (the engine's SizeRw)."""
    size_rootfs_bytes: int
    """All of its file system (the engine's SizeRootFs)."""
    layers: int
    """Layers of its base image."""
    free_bytes: int | None = None
    """Space left where the engine keeps images; None where it is not to be seen from here."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How a command in a container went."""

    exit_code: int | None
    """None: it still ran when its time was over, or left no code."""
    output: str
    """The beginning of what it wrote, stdout and stderr together, in about its order."""
    timed_out: bool = False


RESTORE_LABEL = "tintype.restore."
"""What the labels begin with that mark a container which a restore has made."""
RESTORE_OWNER_LABEL = f"{RESTORE_LABEL}request_id"
RESTORE_INSTANCE_LABEL = f"{RESTORE_LABEL}instance"


def inherited(labels: Mapping[str, str]) -> dict[str, str]:
    """Return those of a container's labels that its image is to have.

    What marks a restored container says nothing of others that are made of its image.
    """
    return {name: text for name, text in labels.items() if not name.startswith(RESTORE_LABEL)}


@dataclass(frozen=True, slots=True)
class NewContainer:
    """A container to be made from an image; None: as the image has it."""

    name: str
    command: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the image's."""
    working_dir: str | None = None
    user: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Added to the image's."""
    ports: Mapping[str, str] = field(default_factory=dict)
    """Published ports: container's (`80/tcp`) -> the host's (`8080`, `127.0.0.1:8080`, or empty
    for a free one)."""
    restart_policy: str = "no"
    """`no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`."""
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Mount point -> the volume's name, or a folder of the host, absolute."""
    network: str | None = None
    """The engine's network that it joins; None: the engine's default."""


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

    @property
    def squashed(self) -> bool:
        """Whether all is in one layer now, asked for or not."""

    @property
    def overran(self) -> bool:
        """Whether the container ran again before its file system was read."""

    def read(self) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the image as a docker-archive tar. Its content is not to be trusted unchecked."""


class Engine(Protocol):
    """The container engine of this host."""

    def inspect(self, ident: str) -> Container:
        """Return the container with this uuid, engine id (or a unique start of it) or name.

        Raises NotFound, or Refused where a name stands for several.
        """

    def containers(self) -> Sequence[Container]:
        """Return all containers, in any state; without `config`, `env_names` and `volumes`."""

    def watch(self, since: int, seconds: float) -> AbstractContextManager[Iterator[EngineEvent]]:
        """Stream what happens to containers from `since` (nanoseconds, inclusive) on.

        What the engine still remembers comes first (the Docker Engine: its last 256 events), then
        what happens, for `seconds`; then the stream ends. Raises Unavailable when the engine ends
        it earlier, or cannot be reached.
        """

    def thaw(self, engine_id: str) -> None:
        """Let a frozen container run; nothing happens to one that is gone or runs."""

    def check_capture(self, engine_id: str, options: CaptureOptions) -> None:
        """Raise what `capture` would before it does anything: Invalid, Refused, Unavailable.

        Nothing is frozen or made. What stands in the way of the options says which one: `/squash`,
        `/unset_env`, `/changes`.
        """

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> Capture:
        """Capture the container on behalf of the request `owner`.

        The container is frozen for no longer than needed, thawed whatever happens, and never
        thawed when somebody else froze it. Raises StillFrozen when that failed; after any other
        error (NotFound, Refused, Unavailable) it is not frozen by us. Raises PausedTooLong when
        `max_pause_ms` was reached, Invalid for a change that the engine does not take, Refused for
        what this engine cannot do and for variables that cannot be taken out of the image.
        """

    def reopen(self, ref: str, *, paused_ms: int = 0) -> Capture | None:
        """Return a capture made before, or None when it is no more."""

    def discard(self, owner: str) -> None:
        """Remove every capture made for `owner`; none left is fine."""

    def owners(self) -> frozenset[str]:
        """Return the owners of all captures that this Tintype made and that still exist."""

    def usage(self, engine_id: str) -> Usage:
        """Return what a snapshot of the container would take. Raises NotFound, Unavailable.

        The engine looks at every file that the container has written.
        """

    def execute(self, engine_id: str, command: str, seconds: float) -> Execution:
        """Run a command by the container's own `/bin/sh -c`, for `seconds` at most.

        Raises NotFound, Unavailable, Refused where the container does not run or has no shell.
        """

    def restored_ref(self, owner: str) -> str:
        """Return the name (`name:tag`) that an archive must have for `load` on behalf of `owner`.

        It is nobody else's, so that no image of the engine loses its name to a restore.
        """

    def load(self, owner: str, archive: Iterable[bytes]) -> str:
        """Load a docker-archive named `restored_ref(owner)`; return its image's digest.

        The same again is fine. What `archive` raises comes out as it is, and leaves no image.
        Raises Refused for an image that the engine will not have, Unavailable.
        """

    def create(self, owner: str, image: str, wanted: NewContainer) -> Container:
        """Make a container from a loaded image (its digest), not started.

        The same again returns the container made before. Raises NameTaken, Refused, NotFound (the
        image or network is no more), Unavailable.
        """

    def restored(self, owner: str) -> Container | None:
        """Return the container that was made for `owner`; None: there is none."""

    def start(self, engine_id: str) -> None:
        """Start a container; one that runs is fine. Raises NotFound, Refused, Unavailable."""

    def withdraw(self, owner: str) -> None:
        """Remove the container and the image that a restore on behalf of `owner` has made."""

    def tidy(self, live: Collection[str]) -> None:
        """Remove loaded images that no container uses, and whose owners are not `live`."""

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return the labels of a named volume; None: there is none."""

    def check(self) -> None:
        """Raise Unavailable unless the engine answers."""

    def close(self) -> None:
        """Release connections."""
