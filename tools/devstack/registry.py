"""A container registry (Docker distribution) on loopback, where engines ask for no TLS."""

from __future__ import annotations

import http.client
from collections.abc import Iterable

from devstack.layout import write_text
from devstack.packages import missing
from devstack.ports import LOOPBACK
from devstack.process import Daemon
from devstack.service import Service

CONFIGURATION = """\
version: 0.1
log:
  level: info
storage:
  filesystem:
    rootdirectory: {data}
  delete:
    enabled: true
http:
  addr: {address}
"""


class Registry(Service):
    """A registry that stores in a folder and lets everybody in."""

    name = "registry"
    ports = ("registry",)

    def packages(self) -> Iterable[str]:
        """Return docker-registry if it is missing."""
        return missing({"docker-registry": "docker-registry"})

    def daemons(self) -> list[Daemon]:
        """Return the registry."""
        argv = ("docker-registry", "serve", str(self.home / "config.yml"))
        return [Daemon(self.layout, self.name, argv, lambda: _status(self.port()) == 200)]

    def start(self) -> None:
        """Start the registry unless it runs."""
        text = CONFIGURATION.format(data=self.home / "data", address=self.where())
        write_text(self.home / "config.yml", text)
        super().start()

    def env(self) -> dict[str, str]:
        """Return the registry's host and port, as an image name begins with it."""
        return {"TINTYPE_TEST_REGISTRY": self.where()}

    def where(self) -> str:
        """Return the registry's host and port."""
        return f"{LOOPBACK}:{self.port()}"


def _status(port: int) -> int:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5.0)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
