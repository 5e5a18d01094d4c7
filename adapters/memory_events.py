"""The log of the engine in memory: what happened to its containers, and what happens."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from tintype.adapters.docker_container import OWN_ATTRIBUTES
from tintype.core.engine import Container, ContainerState, EngineAction, EngineEvent
from tintype.core.errors import Unavailable

REMEMBERED = 256
"""Events that the log keeps, as many as the Docker Engine's."""

KILLED = 137
"""Exit code of a process that was killed."""

_STOPPED = (ContainerState.STOPPED, ContainerState.OTHER)
_ON_THE_WAY = {
    ContainerState.RUNNING: (EngineAction.START,),
    ContainerState.PAUSED: (EngineAction.START, EngineAction.PAUSE),
    ContainerState.STOPPED: (EngineAction.START, EngineAction.DIE),
    ContainerState.OTHER: (),
}
"""What happens to a container that does not run on its way into a state."""


def actions_between(before: ContainerState, after: ContainerState) -> tuple[EngineAction, ...]:
    """Return what an engine says of a container that came from one state into another."""
    if before is after or (before in _STOPPED and after is ContainerState.OTHER):
        return ()
    if before in _STOPPED:
        return _ON_THE_WAY[after]
    if after in _STOPPED:
        return (EngineAction.DIE,)
    return (EngineAction.PAUSE if after is ContainerState.PAUSED else EngineAction.UNPAUSE,)


class MemoryEvents:
    """The last events, and those who watch for more."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._log: deque[EngineEvent] = deque(maxlen=REMEMBERED)
        self._at = 0
        self._watchers: list[SimpleQueue[EngineEvent | None]] = []

    def append(self, action: EngineAction, container: Container, exit_code: int = KILLED) -> None:
        """Log an event and show it to all who watch; no two have the same time."""
        died = action is EngineAction.DIE
        # As on the real engine, whose events mix the labels with attributes of their own.
        code = container.labels.get("exitCode", str(exit_code))
        with self._lock:
            self._at = max(self._at + 1, time.time_ns())
            event = EngineEvent(
                action=action,
                engine_id=container.engine_id,
                at=self._at,
                name=container.name,
                image=container.image,
                labels={k: v for k, v in container.labels.items() if k not in OWN_ATTRIBUTES},
                exit_code=int(code) if died and code.isdecimal() else None,
            )
            self._log.append(event)
            for watcher in self._watchers:
                watcher.put(event)

    def lose_connection(self) -> None:
        """Break off every stream that is open now."""
        with self._lock:
            for watcher in self._watchers:
                watcher.put(None)

    @contextmanager
    def watch(self, since: int, seconds: float) -> Iterator[Iterator[EngineEvent]]:
        """Stream what the log has from `since` on, then what happens, for `seconds`."""
        ends = time.monotonic() + seconds
        watcher: SimpleQueue[EngineEvent | None] = SimpleQueue()
        with self._lock:
            for event in self._log:
                if event.at >= since:
                    watcher.put(event)
            self._watchers.append(watcher)
        try:
            yield _until(ends, watcher)
        finally:
            with self._lock:
                self._watchers.remove(watcher)


def _until(ends: float, watcher: SimpleQueue[EngineEvent | None]) -> Iterator[EngineEvent]:
    while True:
        try:
            event = watcher.get(timeout=max(0, ends - time.monotonic()))
        except Empty:
            return
        if event is None:
            raise Unavailable("the connection to the engine is lost")
        yield event
