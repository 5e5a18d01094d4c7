"""What every service of the stack can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from devstack.layout import Layout
from devstack.ports import port
from devstack.process import Daemon


class Service(ABC):
    """One service: installed, prepared, started and stopped, each step repeatable."""

    name: ClassVar[str]
    #: Services that must run before this one starts.
    needs: ClassVar[tuple[str, ...]] = ()
    #: Names of the loopback ports it listens on.
    ports: ClassVar[tuple[str, ...]] = ()

    def __init__(self, layout: Layout) -> None:
        """Describe the service of this stack; touch nothing yet."""
        self.layout = layout

    @property
    def home(self) -> Path:
        """Return the folder of the service."""
        return self.layout.home(self.name)

    def port(self, name: str = "") -> int:
        """Return one of the service's ports, by default the one named like the service."""
        return port(self.layout, name or self.name)

    def packages(self) -> Iterable[str]:
        """Return the Debian packages that are missing on this machine."""
        return ()

    def prepare(self) -> None:  # noqa: B027 (most services have nothing to do)
        """Do what can be done before the services it needs are up: install, create tables."""

    @abstractmethod
    def daemons(self) -> list[Daemon]:
        """Return the processes of the service in the order in which they start."""

    @abstractmethod
    def env(self) -> dict[str, str]:
        """Return the variables by which the tests find the service."""

    @abstractmethod
    def where(self) -> str:
        """Return the address of the service."""

    def start(self) -> None:
        """Start the service unless it runs, and wait until it serves."""
        for daemon in self.daemons():
            daemon.start()

    def stop(self) -> None:
        """Stop the service, keeping its data; do nothing when it does not run."""
        for daemon in reversed(self.daemons()):
            daemon.stop()

    def kill(self) -> None:
        """Crash the service (SIGKILL), for tests of what happens then."""
        for daemon in reversed(self.daemons()):
            daemon.kill()

    def pids(self) -> list[int]:
        """Return the pids of the processes that run."""
        return [pid for pid in (daemon.pid() for daemon in self.daemons()) if pid]

    def running(self) -> bool:
        """Return whether all processes of the service run."""
        return len(self.pids()) == len(self.daemons())
