"""The port `Engine` in memory: containers are dictionaries of files, captures genuine archives."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import secrets
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from tintype.adapters.memory_events import KILLED, MemoryEvents, actions_between
from tintype.core.engine import (
    CaptureOptions,
    Container,
    ContainerState,
    EngineAction,
    EngineEvent,
    container_uuid,
)
from tintype.core.errors import NotFound, Refused, WrongState
from tintype.core.events import is_uuid

CHUNK_SIZE = 64 * 1024
"""Bytes per chunk that `MemoryCapture.read` yields."""

_CAPTURABLE = (ContainerState.RUNNING, ContainerState.STOPPED, ContainerState.PAUSED)


@dataclass(slots=True)
class MemoryContainer:
    """A container: what is known of it, and its files by absolute path."""

    described: Container
    files: dict[str, bytes] = field(default_factory=dict)
    events: MemoryEvents = field(default_factory=MemoryEvents)
    """Where its changes are logged."""

    @property
    def state(self) -> ContainerState:
        """The state it is in now; another one is logged."""
        return self.described.state

    @state.setter
    def state(self, state: ContainerState) -> None:
        self.change(state)

    def change(self, state: ContainerState, exit_code: int = KILLED) -> None:
        """Bring it into a state; the exit code is of its main process, should that end here."""
        actions = actions_between(self.described.state, state)
        self.described = replace(self.described, state=state)
        for action in actions:
            self.events.append(action, self.described, exit_code)


@dataclass(frozen=True, slots=True)
class MemoryCapture:
    """An archive, kept until it is discarded."""

    ref: str
    digest: str
    layers: Sequence[str]
    size_bytes: int
    paused_ms: int
    _engine: MemoryEngine

    @contextmanager
    def read(self) -> Iterator[Iterator[bytes]]:
        """Stream the archive. Raises NotFound once it was discarded."""
        archive = self._engine.archive(self.ref)
        yield (archive[at : at + CHUNK_SIZE] for at in range(0, len(archive), CHUNK_SIZE))


class MemoryEngine:
    """An engine whose containers a test or a dry run puts there with `add`."""

    def __init__(self, fail: Callable[[str], None] = lambda _method: None) -> None:
        """Start empty.

        `fail` is called with the name of each method of the port before it does anything, with
        `read` before a capture is streamed, and with `commit` while the container is frozen; what
        it raises comes out.
        """
        self.by_id: dict[str, MemoryContainer] = {}
        """Every container by its engine id, to be changed at will."""
        self.actions: list[tuple[str, str]] = []
        """Each ("pause" or "unpause", engine id) that this engine did by itself, in order."""
        self._fail = fail
        self._lock = threading.RLock()
        self._events = MemoryEvents()
        self._captures: dict[str, tuple[str, MemoryCapture, bytes]] = {}
        self._numbers = itertools.count(1)

    def add(
        self,
        name: str,
        state: ContainerState = ContainerState.RUNNING,
        *,
        files: Mapping[str, bytes] | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        image: str = "busybox:latest",
        engine_id: str | None = None,
    ) -> Container:
        """Make a container and bring it into a state.

        It has an id of 64 hex digits unless one is given.
        """
        engine_id = engine_id or secrets.token_hex(32)
        described = Container(
            engine_id=engine_id,
            uuid=container_uuid(name, engine_id),
            name=name,
            state=ContainerState.OTHER,
            image=image,
            image_id=_digest(image.encode()),
            config={
                "command": ["sleep", "infinity"],
                "entrypoint": None,
                "working_dir": "",
                "user": "",
                "exposed_ports": [],
                "restart_policy": {"name": "no", "maximum_retry_count": 0},
            },
            labels=dict(labels or {}),
            volumes=tuple(sorted(volumes)),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        made = MemoryContainer(described, dict(files or {}), self._events)
        with self._lock:
            self.by_id[engine_id] = made
            self._events.append(EngineAction.CREATE, described)
            made.state = state
        return made.described

    def stop(self, engine_id: str, exit_code: int = 0) -> None:
        """Let a container's main process end by itself."""
        with self._lock:
            self.by_id[engine_id].change(ContainerState.STOPPED, exit_code)

    def rename(self, engine_id: str, name: str) -> None:
        """Give a container another name."""
        with self._lock:
            made = self.by_id[engine_id]
            uuid = container_uuid(name, engine_id)
            made.described = replace(made.described, name=name, uuid=uuid)
            self._events.append(EngineAction.RENAME, made.described)

    def remove(self, engine_id: str) -> None:
        """Remove a container; one that runs is killed before."""
        with self._lock:
            made = self.by_id[engine_id]
            made.state = ContainerState.OTHER
            del self.by_id[engine_id]
            self._events.append(EngineAction.DESTROY, made.described)

    def lose_connection(self) -> None:
        """Make every `watch` that is going on raise Unavailable."""
        self._events.lose_connection()

    def inspect(self, ident: str) -> Container:
        """Return the container with this uuid, name, engine id, or unique start of an id."""
        self._fail("inspect")
        every = self._every()
        names = {f"zun-{ident.lower()}", ident} if is_uuid(ident) else {ident}
        found = (
            [each for each in every if each.engine_id == ident]
            or [each for each in every if each.name in names]
            or [each for each in every if ident and each.engine_id.startswith(ident)]
        )
        if not found:
            raise NotFound(f"no container {ident!r} on this host")
        if len(found) > 1:
            candidates = ", ".join(sorted(each.name for each in found))
            raise Refused(f"{ident!r} stands for several containers: {candidates}")
        return found[0]

    def _every(self) -> list[Container]:
        with self._lock:
            return [each.described for each in self.by_id.values()]

    def containers(self) -> Sequence[Container]:
        """Return all containers, in any state; without `config` and `volumes`."""
        self._fail("containers")
        return [replace(each, config={}, volumes=()) for each in self._every()]

    @contextmanager
    def watch(self, since: int, seconds: float) -> Iterator[Iterator[EngineEvent]]:
        """Stream what happened to containers from `since` on, then what happens, for `seconds`."""
        self._fail("watch")
        with self._events.watch(since, seconds) as events:
            yield events

    def thaw(self, engine_id: str) -> None:
        """Let a frozen container run; nothing happens to one that is gone or runs."""
        self._fail("thaw")
        self._thaw(engine_id)

    def _thaw(self, engine_id: str) -> None:
        with self._lock:
            container = self.by_id.get(engine_id)
            if container is not None and container.state is ContainerState.PAUSED:
                container.state = ContainerState.RUNNING
                self.actions.append(("unpause", engine_id))

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> MemoryCapture:
        """Keep the container's files as they are now."""
        self._fail("capture")
        engine_id = container.engine_id
        began = time.monotonic()
        frozen = self._freeze(engine_id) if options.pause else False
        try:
            self._fail("commit")
            with self._lock:
                ref = f"tintype-capture/memory:{owner}.{next(self._numbers)}"
                archive, digest, layers, size = _archive(
                    self._capturable(engine_id), ref, owner, options
                )
        finally:
            if frozen:
                self._thaw(engine_id)
        paused_ms = math.ceil((time.monotonic() - began) * 1000) if frozen else 0
        capture = MemoryCapture(ref, digest, layers, size, paused_ms, self)
        with self._lock:
            self._captures[ref] = owner, capture, archive
        return capture

    def _freeze(self, engine_id: str) -> bool:
        with self._lock:
            container = self._capturable(engine_id)
            if container.state is not ContainerState.RUNNING:
                return False
            container.state = ContainerState.PAUSED
            self.actions.append(("pause", engine_id))
            return True

    def _capturable(self, engine_id: str) -> MemoryContainer:
        container = self.by_id.get(engine_id)
        if container is None:
            raise NotFound(f"no container {engine_id!r} on this host")
        if container.state not in _CAPTURABLE:
            raise WrongState(f"container {engine_id[:12]} is {container.state}")
        return container

    def archive(self, ref: str) -> bytes:
        """Return a capture's archive. Raises NotFound once it was discarded."""
        self._fail("read")
        with self._lock:
            if ref not in self._captures:
                raise NotFound(f"no capture {ref}")
            return self._captures[ref][2]

    def reopen(self, ref: str, *, paused_ms: int = 0) -> MemoryCapture | None:
        """Return a capture made before, or None when it is no more."""
        self._fail("reopen")
        with self._lock:
            found = self._captures.get(ref)
        return replace(found[1], paused_ms=paused_ms) if found else None

    def discard(self, owner: str) -> None:
        """Forget every capture made for `owner`; none left is fine."""
        self._fail("discard")
        with self._lock:
            kept = {ref: held for ref, held in self._captures.items() if held[0] != owner}
            self._captures = kept

    def owners(self) -> frozenset[str]:
        """Return the owners of all captures that still exist."""
        self._fail("owners")
        with self._lock:
            return frozenset(owner for owner, _, _ in self._captures.values())

    def check(self) -> None:
        """Do nothing: this engine always answers, unless `fail` says otherwise."""
        self._fail("check")

    def close(self) -> None:
        """Do nothing: there are no connections."""
        self._fail("close")


def _archive(
    container: MemoryContainer, ref: str, owner: str, options: CaptureOptions
) -> tuple[bytes, str, tuple[str, ...], int]:
    """Return a docker-archive of the container, its digest, diff ids and unpacked size."""
    described = container.described
    volumes = tuple(f"{path.rstrip('/')}/" for path in described.volumes)
    own = {path: data for path, data in container.files.items() if not path.startswith(volumes)}
    layers = [_tar({"etc/image": described.image.encode()}), _tar(own)]
    diff_ids = tuple(_digest(layer) for layer in layers)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "author": options.author,
        "comment": options.message,
        "config": {
            "Cmd": described.config["command"],
            "Labels": {**described.labels, **options.labels, "tintype.request_id": owner},
        },
        "history": [{"created_by": "base"}, {"author": options.author, "comment": options.message}],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    document = json.dumps(config).encode()
    digest = _digest(document)
    files = {f"{_digest(layer)[7:]}/layer.tar": layer for layer in layers}
    name = f"{digest[7:]}.json"
    manifest = [{"Config": name, "RepoTags": [ref], "Layers": list(files)}]
    files |= {name: document, "manifest.json": json.dumps(manifest).encode()}
    size = sum(len(data) for data in own.values()) + len(described.image)
    return _tar(files), digest, diff_ids, size


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
