"""The port `Engine` in memory: containers are dictionaries of files, captures genuine archives."""

from __future__ import annotations

import itertools
import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tintype.adapters.memory_container import MemoryContainer, image_config, layers_of
from tintype.adapters.memory_events import MemoryEvents
from tintype.adapters.memory_layouts import Layout, build, digest_of
from tintype.adapters.memory_restore import MemoryRestore
from tintype.core.dockerfile import require_changes
from tintype.core.engine import (
    CaptureOptions,
    Container,
    ContainerState,
    EngineAction,
    EngineEvent,
    Execution,
    NewContainer,
    Usage,
    container_uuid,
)
from tintype.core.errors import Interrupted, NotFound, PausedTooLong, Refused, WrongState
from tintype.core.events import is_uuid
from tintype.core.scrub import check_scrubbable

CHUNK_SIZE = 64 * 1024
"""Bytes per chunk that `MemoryCapture.read` yields."""

_CAPTURABLE = (ContainerState.RUNNING, ContainerState.STOPPED, ContainerState.PAUSED)


@dataclass(frozen=True, slots=True)
class MemoryCapture:
    """An archive, kept until it is discarded."""

    ref: str
    digest: str
    layers: Sequence[str]
    size_bytes: int
    paused_ms: int
    squashed: bool
    overran: bool
    _engine: MemoryEngine

    @contextmanager
    def read(self) -> Iterator[Iterator[bytes]]:
        """Stream the archive. Raises NotFound once it was discarded."""
        archive = self._engine.archive(self.ref)
        yield (archive[at : at + CHUNK_SIZE] for at in range(0, len(archive), CHUNK_SIZE))


@dataclass(slots=True)
class _Freeze:
    """What became of an attempt to freeze a container."""

    ours: bool = False
    overran: bool = False
    milliseconds: int = 0


class MemoryEngine:
    """An engine whose containers a test or a dry run puts there with `add`."""

    def __init__(
        self, fail: Callable[[str], None] = lambda _method: None, *, layout: Layout = "classic"
    ) -> None:
        """Start empty; captures are archives of this layout.

        `fail` is called with the name of each method of the port before it does anything, with
        `read` before a capture is streamed, and with `commit` while the container is frozen; what
        it raises comes out.
        """
        self.by_id: dict[str, MemoryContainer] = {}
        """Every container by its engine id, to be changed at will."""
        self.actions: list[tuple[str, str]] = []
        """Each ("pause" or "unpause", engine id) that this engine did by itself, in order."""
        self.executed: list[tuple[str, str]] = []
        """Each command that was executed, after the engine id."""
        self.free_bytes: int | None = None
        """What `usage` says of free space."""
        self.can_squash = True
        """False: as an engine with containerd's image store."""
        self._layout = layout
        self._fail = fail
        self._lock = threading.RLock()
        self._events = MemoryEvents()
        self._captures: dict[str, tuple[str, MemoryCapture, bytes]] = {}
        self._numbers = itertools.count(1)
        self.restore = MemoryRestore(self.by_id, MemoryContainer, self._events, self._lock, fail)
        """What this engine knows of images, volumes, networks and folders of its host."""

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
        env: Mapping[str, str] | None = None,
        published: Mapping[str, str] | None = None,
        base_layers: int = 1,
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
            image_id=digest_of(image.encode()),
            config={
                "command": ["sleep", "infinity"],
                "entrypoint": None,
                "working_dir": "",
                "user": "",
                "exposed_ports": sorted(published or {}),
                "published_ports": dict(sorted((published or {}).items())),
                "restart_policy": {"name": "no", "maximum_retry_count": 0},
            },
            labels=dict(labels or {}),
            volumes=tuple(sorted(volumes)),
            env_names=tuple(sorted(env or {})),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        made = MemoryContainer(
            described, dict(files or {}), self._events, dict(env or {}), base_layers
        )
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
        """Return all containers, in any state; without `config`, `env_names` and `volumes`."""
        self._fail("containers")
        return [replace(each, config={}, env_names=(), volumes=()) for each in self._every()]

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

    def check_capture(self, engine_id: str, options: CaptureOptions) -> None:
        """Raise what `capture` would before it does anything."""
        self._fail("check_capture")
        with self._lock:
            self._check_options(self._capturable(engine_id), options)

    def _check_options(self, made: MemoryContainer, options: CaptureOptions) -> None:
        require_changes(options.changes)
        self._must_squash(made, options)
        check_scrubbable(image_config(made, "", options, 1)["config"], options.unset_env)

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> MemoryCapture:
        """Keep the container's files as they are now."""
        self._fail("capture")
        engine_id = container.engine_id
        with self._lock:
            self._check_options(self._capturable(engine_id), options)
        limit = options.max_pause_ms
        with self._frozen(engine_id, limit) if options.pause else nullcontext(_Freeze()) as freeze:
            self._fail("commit")
            with self._lock:
                made = self._capturable(engine_id)
                squash = self._must_squash(made, options)
                ref = f"tintype-capture/memory:{owner}.{next(self._numbers)}"
                own, layers = layers_of(made, squash=squash)
                config = image_config(made, owner, options, len(layers))
        if freeze.overran and not options.keep_overrun:
            raise PausedTooLong(
                f"container {engine_id[:12]} had to run again after {limit} ms (max_pause_ms),"
                " before its file system was read"
            )
        built = build(ref, config, layers, self._layout)
        size = own + len(made.described.image)
        paused_ms = freeze.milliseconds
        capture = MemoryCapture(
            ref, built.digest, built.layers, size, paused_ms, squash, freeze.overran, self
        )
        with self._lock:
            self._captures[ref] = owner, capture, built.data
        return capture

    def _must_squash(self, made: MemoryContainer, options: CaptureOptions) -> bool:
        squash = options.squash or made.base_layers + 1 > options.max_layers
        if squash and not self.can_squash:
            raise Refused("/squash: this engine cannot make one layer of all")
        return squash

    @contextmanager
    def _frozen(self, engine_id: str, limit_ms: int | None) -> Iterator[_Freeze]:
        """Keep a running container frozen, for so long at most.

        What is neither an error nor Interrupted is the end of the process: that thaws nothing.
        """
        began = time.monotonic()
        freeze = _Freeze(ours=self._freeze(engine_id))

        def thaw(*, overran: bool) -> None:
            with self._lock:
                if freeze.ours and not freeze.milliseconds:
                    self._thaw(engine_id)
                    freeze.overran = overran
                    freeze.milliseconds = math.ceil((time.monotonic() - began) * 1000)

        timer = threading.Timer((limit_ms or 0) / 1000, thaw, kwargs={"overran": True})
        if limit_ms is not None:
            timer.start()
        killed = False
        try:
            yield freeze
        except BaseException as cut:
            killed = not isinstance(cut, Exception | Interrupted)
            raise
        finally:
            timer.cancel()
            if not killed:
                thaw(overran=False)

    def _freeze(self, engine_id: str) -> bool:
        with self._lock:
            container = self._capturable(engine_id)
            if container.state is not ContainerState.RUNNING:
                return False
            container.state = ContainerState.PAUSED
            self.actions.append(("pause", engine_id))
            return True

    def _known(self, engine_id: str) -> MemoryContainer:
        if engine_id not in self.by_id:
            raise NotFound(f"no container {engine_id!r} on this host")
        return self.by_id[engine_id]

    def _capturable(self, engine_id: str) -> MemoryContainer:
        container = self._known(engine_id)
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

    def usage(self, engine_id: str) -> Usage:
        """Return what the container's `sizes` say, or what its files take."""
        self._fail("usage")
        with self._lock:
            made = self._known(engine_id)
            own = sum(map(len, made.files.values()))
            whole = own + len(made.described.image)
            return made.sizes or Usage(own, whole, made.base_layers, self.free_bytes)

    def execute(self, engine_id: str, command: str, seconds: float) -> Execution:
        """Do with the command what the container's `run` does; it takes no time."""
        self._fail("execute")
        del seconds
        with self._lock:
            made = self._known(engine_id)
            if made.state is not ContainerState.RUNNING:
                raise WrongState(f"container {engine_id[:12]} is {made.state}")
            self.executed.append((engine_id, command))
        return made.run(command)

    def check(self) -> None:
        """Do nothing: this engine always answers, unless `fail` says otherwise."""
        self._fail("check")

    def close(self) -> None:
        """Do nothing: there are no connections."""
        self._fail("close")

    def restored_ref(self, owner: str) -> str:
        """Return the name that an archive must have for `load` on behalf of `owner`."""
        return self.restore.restored_ref(owner)

    def load(self, owner: str, archive: Iterable[bytes]) -> str:
        """Load a docker-archive; return its image's digest. See `MemoryRestore.load`."""
        return self.restore.load(owner, archive)

    def create(self, owner: str, image: str, wanted: NewContainer) -> Container:
        """Make a container from a loaded image, not started. See `MemoryRestore.create`."""
        return self.restore.create(owner, image, wanted)

    def restored(self, owner: str) -> Container | None:
        """Return the container that was made for `owner`; None: there is none."""
        return self.restore.restored(owner)

    def start(self, engine_id: str) -> None:
        """Start a container; one that runs is fine. Raises NotFound, Refused, Unavailable."""
        self.restore.start(engine_id)

    def withdraw(self, owner: str) -> None:
        """Remove the container and the image that a restore on behalf of `owner` has made."""
        self.restore.withdraw(owner)

    def tidy(self, live: Collection[str]) -> None:
        """Remove loaded images that no container uses, and whose owners are not `live`."""
        self.restore.tidy(live)

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return the labels of a named volume; None: there is none."""
        return self.restore.volume_labels(name)
