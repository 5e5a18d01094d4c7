"""The router's ways onto the bus in memory: twin of RabbitCourier, for tests and dry runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from tintype.core.errors import Unroutable
from tintype.core.events import Event


class MemoryCourier:
    """A core.dispatcher.Courier that keeps what it is given."""

    def __init__(self, fail: Callable[[str], None] = lambda method: None) -> None:
        """Start without hosts.

        `fail` is called first with every method's name, and what it raises comes out.
        """
        self.hosts: dict[str, list[Event]] = {}
        """The queue of every host that has one; a host is there once it is put here."""
        self.asked: list[Event] = []
        """What was sent to all agents."""
        self.told: list[Event] = []
        """What was published to everybody."""
        self._fail = fail
        self._lock = threading.Lock()

    def to_host(self, host: str, event: Event, expires: timedelta) -> None:
        """Put an event into a host's queue, where it stays however long."""
        del expires
        self._fail("to_host")
        with self._lock:
            if host not in self.hosts:
                raise Unroutable(f"no queue for host {host!r}")
            self.hosts[host].append(event)

    def to_agents(self, event: Event) -> None:
        """Keep what is sent to all agents."""
        self._fail("to_agents")
        with self._lock:
            self.asked.append(event)

    def tell(self, event: Event) -> None:
        """Keep what is published."""
        self._fail("tell")
        with self._lock:
            self.told.append(event)

    def close(self) -> None:
        """Do nothing: there are no connections."""
        self._fail("close")
