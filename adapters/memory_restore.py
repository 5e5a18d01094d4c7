"""The restore side of the engine in memory: images loaded, containers made of them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from tintype.adapters.memory_archive import MemoryImage, read_image
from tintype.adapters.memory_events import MemoryEvents
from tintype.core.engine import (
    RESTORE_INSTANCE_LABEL,
    RESTORE_OWNER_LABEL,
    Container,
    ContainerState,
    EngineAction,
    NewContainer,
    container_uuid,
)
from tintype.core.errors import NameTaken, NotFound, Refused

INSTANCE = "memory"
REPOSITORY = f"tintype-restore/{INSTANCE}"
CAPTURE_LABEL = "tintype.capture."

# Docker's own rules for the names of containers and volumes, and for restart policies.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_POLICY = re.compile(r"no|always|unless-stopped|on-failure(:[0-9]+)?")
_ALIVE = (ContainerState.RUNNING, ContainerState.PAUSED)


class Made(Protocol):
    """A container that the engine keeps."""

    described: Container
    files: dict[str, bytes]

    @property
    def state(self) -> ContainerState:
        """The state it is in now."""

    @state.setter
    def state(self, state: ContainerState) -> None: ...


AnyMade = TypeVar("AnyMade", bound=Made)


class MemoryRestore(Generic[AnyMade]):
    """Loads images and makes containers among those of an engine in memory."""

    def __init__(
        self,
        by_id: dict[str, AnyMade],
        make: Callable[[Container, dict[str, bytes], MemoryEvents, dict[str, str], int], AnyMade],
        events: MemoryEvents,
        lock: AbstractContextManager[object],
        fail: Callable[[str], None],
    ) -> None:
        """Take what the engine keeps its containers by; the lock must be reentrant."""
        self.images: dict[str, MemoryImage] = {}
        """Every loaded image by its digest."""
        self.tags: dict[str, str] = {}
        """Digest of the image by each of its names."""
        self.volumes: dict[str, Mapping[str, str]] = {}
        """Labels of the named volumes by name."""
        self.networks = {"bridge", "host", "none"}
        """Names of the networks."""
        self.folders: set[str] = set()
        """Folders that the host has."""
        self._by_id = by_id
        self._make = make
        self._events = events
        self._lock = lock
        self._fail = fail

    def restored_ref(self, owner: str) -> str:
        """Return the name that an archive must have for `load` on behalf of `owner`."""
        return f"{REPOSITORY}:{owner}"

    def load(self, owner: str, archive: Iterable[bytes]) -> str:
        """Keep the image of a docker-archive; return its digest."""
        self._fail("load")
        name, image = read_image(b"".join(archive))
        reference = f"{REPOSITORY}:{owner}"
        if name != reference:
            raise Refused(f"the archive's image is {name} and not {reference}")
        with self._lock:
            self.images[image.digest] = image
            self.tags[name] = image.digest
        return image.digest

    def create(self, owner: str, image: str, wanted: NewContainer) -> Container:
        """Make a container, not started; the one that was made for `owner` before is returned."""
        self._fail("create")
        with self._lock:
            made = self._restored(owner)
            if made is not None:
                return made.described
            described = self._described(owner, image, wanted)
            for name in filter(_is_volume, wanted.volumes.values()):
                self.volumes.setdefault(name, {})
            base = self.images[image]
            env = {**base.env, **wanted.env}
            self._by_id[described.engine_id] = self._make(
                described, dict(base.files), self._events, env, base.layers
            )
            self._events.append(EngineAction.CREATE, described)
            return described

    def _described(self, owner: str, image: str, wanted: NewContainer) -> Container:
        """Return the container as the engine will describe it, or raise what forbids it."""
        if image not in self.images:
            raise NotFound(f"no such image: {image}")
        base = self.images[image]
        self._judge(wanted)
        engine_id = secrets.token_hex(32)
        marks = {RESTORE_OWNER_LABEL: owner, RESTORE_INSTANCE_LABEL: INSTANCE}
        # As on Docker: an image cannot make its container look like one that is only for a capture.
        disarmed = {name: "" for name in base.labels if name.startswith(CAPTURE_LABEL)}
        return Container(
            engine_id=engine_id,
            uuid=container_uuid(wanted.name, engine_id),
            name=wanted.name,
            state=ContainerState.OTHER,
            image=image,
            image_id=image,
            config=_config(base.config, wanted),
            labels={**base.labels, **wanted.labels, **disarmed, **marks},
            volumes=tuple(sorted({*(base.config.get("Volumes") or {}), *wanted.volumes})),
            env_names=tuple(sorted({*base.env, *wanted.env})),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _judge(self, wanted: NewContainer) -> None:
        if not _NAME.fullmatch(wanted.name):
            raise Refused(f"invalid container name {wanted.name!r}")
        if not _POLICY.fullmatch(wanted.restart_policy):
            raise Refused(f"invalid restart policy {wanted.restart_policy!r}")
        if wanted.network is not None and wanted.network not in self.networks:
            raise NotFound(f"network {wanted.network} not found")
        for target, source in wanted.volumes.items():
            self._judge_mount(target, source)
        if any(each.described.name == wanted.name for each in self._by_id.values()):
            raise NameTaken(f"the name {wanted.name!r} is in use by another container")

    def _judge_mount(self, target: str, source: str) -> None:
        if not target.startswith("/"):
            raise Refused(f"mount path {target!r} must be absolute")
        if _is_volume(source) and not _NAME.fullmatch(source):
            raise Refused(f"invalid volume name {source!r}")
        if not _is_volume(source) and source not in self.folders:
            raise Refused(f"bind source path does not exist: {source}")

    def restored(self, owner: str) -> Container | None:
        """Return the container that was made for `owner`; None: there is none."""
        self._fail("restored")
        with self._lock:
            made = self._restored(owner)
            return None if made is None else made.described

    def _restored(self, owner: str) -> AnyMade | None:
        marks = {(RESTORE_OWNER_LABEL, owner), (RESTORE_INSTANCE_LABEL, INSTANCE)}
        for made in self._by_id.values():
            image = self.images.get(made.described.image_id)
            # The labels may be there by the doing of an image, committed from a restored container.
            own = image is not None and image.labels.get(RESTORE_OWNER_LABEL) != owner
            if own and marks <= set(made.described.labels.items()):
                return made
        return None

    def start(self, engine_id: str) -> None:
        """Start a container; one that runs is fine."""
        self._fail("start")
        with self._lock:
            made = self._by_id.get(engine_id)
            if made is None:
                raise NotFound(f"no container {engine_id!r} on this host")
            if made.state is ContainerState.PAUSED:
                raise Refused("cannot start a paused container, try unpause instead")
            if made.state is not ContainerState.RUNNING:
                self._take_ports(made)
                made.state = ContainerState.RUNNING

    def _take_ports(self, made: AnyMade) -> None:
        alive = [each for each in self._by_id.values() if each.state in _ALIVE]
        taken = {port for each in alive for port in _host_ports(each.described)}
        if both := taken & _host_ports(made.described):
            raise Refused(f"port is already allocated: {', '.join(sorted(both))}")

    def withdraw(self, owner: str) -> None:
        """Remove the owner's container, and the name of its image."""
        self._fail("withdraw")
        with self._lock:
            while (made := self._restored(owner)) is not None:
                self._remove(made)
            self._untag(f"{REPOSITORY}:{owner}")

    def _remove(self, made: AnyMade) -> None:
        made.state = ContainerState.OTHER
        del self._by_id[made.described.engine_id]
        self._events.append(EngineAction.DESTROY, made.described)

    def _untag(self, reference: str) -> None:
        """Remove a name, and the image with its last one, unless a container was made from it."""
        digest = self.tags.get(reference)
        if digest is None:
            return
        others = [name for name, image in self.tags.items() if image == digest]
        if len(others) > 1:
            del self.tags[reference]
        elif digest not in self._used():
            del self.tags[reference]
            del self.images[digest]

    def _used(self) -> set[str]:
        return {each.described.image_id for each in self._by_id.values()}

    def tidy(self, live: Collection[str]) -> None:
        """Remove loaded images that no container uses, and whose owners are not `live`."""
        self._fail("tidy")
        with self._lock:
            used = self._used()
            for name, digest in list(self.tags.items()):
                repository, _, owner = name.rpartition(":")
                if repository == REPOSITORY and owner not in live and digest not in used:
                    self._untag(name)

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return the labels of a named volume; None: there is none."""
        self._fail("volume_labels")
        return self.volumes.get(name)


def _host_ports(container: Container) -> set[str]:
    """Return the host's ports that a container takes: `tcp/8080`."""
    published: Mapping[str, str] = container.config.get("published_ports", {})
    ports = {port: host.rpartition(":")[2] for port, host in published.items()}
    return {f"{port.partition('/')[2] or 'tcp'}/{host}" for port, host in ports.items() if host}


def _is_volume(source: str) -> bool:
    return not source.startswith("/")


def _config(image: Mapping[str, Any], wanted: NewContainer) -> dict[str, Any]:
    """Return a container's `config`: the image's, with what is wanted over it."""
    command, entrypoint = _process(image, wanted)
    policy, _, retries = wanted.restart_policy.partition(":")
    exposed = {*(image.get("ExposedPorts") or {}), *wanted.ports}
    return {
        "command": command,
        "entrypoint": entrypoint,
        "working_dir": wanted.working_dir or image.get("WorkingDir") or "",
        "user": wanted.user or image.get("User") or "",
        "exposed_ports": sorted(exposed),
        "published_ports": dict(sorted(wanted.ports.items())),
        "restart_policy": {"name": policy, "maximum_retry_count": int(retries or 0)},
    }


def _process(
    image: Mapping[str, Any], wanted: NewContainer
) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """Return command and entrypoint: another entrypoint drops the image's command."""
    command, entrypoint = wanted.command, wanted.entrypoint
    if not entrypoint and not command:
        command = image.get("Cmd")
    if entrypoint is None:
        entrypoint = image.get("Entrypoint")
    if not command and not entrypoint:
        raise Refused("no command specified")
    return command and list(command), entrypoint and list(entrypoint)
