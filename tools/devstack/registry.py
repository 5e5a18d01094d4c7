"""Two container registries (Docker distribution) on loopback: an open one, and one that is locked.

To the open one, on a loopback address, engines speak plain HTTP. The other has TLS, with a
certificate of an authority of the stack's own, and asks for a password.
"""

from __future__ import annotations

import http.client
import secrets
import ssl
from collections.abc import Iterable
from pathlib import Path

from devstack.certificates import Certificates
from devstack.layout import write_text
from devstack.packages import missing
from devstack.passwords import htpasswd
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
LOCK = """\
  tls:
    certificate: {certificate}
    key: {key}
auth:
  htpasswd:
    realm: tintype
    path: {htpasswd}
"""
USER = "tintype"


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
        return [Daemon(self.layout, self.name, argv, self._ready)]

    def start(self) -> None:
        """Start the registry unless it runs."""
        write_text(self.home / "config.yml", self._configuration())
        super().start()

    def env(self) -> dict[str, str]:
        """Return the registry's host and port, as an image name begins with it."""
        return {"TINTYPE_TEST_REGISTRY": self.where()}

    def where(self) -> str:
        """Return the registry's host and port."""
        return f"{LOOPBACK}:{self.port()}"

    def _configuration(self) -> str:
        return CONFIGURATION.format(data=self.home / "data", address=self.where())

    def _ready(self) -> bool:
        return _status(http.client.HTTPConnection(LOOPBACK, self.port(), timeout=5.0)) == 200


class SecureRegistry(Registry):
    """A registry with TLS that lets in who knows the password."""

    name = "secure-registry"
    ports = ("secure-registry",)

    @property
    def certificates(self) -> Certificates:
        """Return its certificate and who has signed it."""
        return Certificates(self.layout, self.name)

    def packages(self) -> Iterable[str]:
        """Return what is missing of docker-registry and the makers of its secrets."""
        programs = {"openssl": "openssl", "htpasswd": "apache2-utils"}
        return [*super().packages(), *missing(programs)]

    def prepare(self) -> None:
        """Make certificates and a password, once."""
        self.certificates.make()
        if not self._users.exists():
            write_text(self._users, htpasswd(USER, self._password()))

    def env(self) -> dict[str, str]:
        """Return where it is and what it takes to get in."""
        return {
            "TINTYPE_TEST_SECURE_REGISTRY": self.where(),
            "TINTYPE_TEST_SECURE_REGISTRY_CAFILE": str(self.certificates.authority),
            "TINTYPE_TEST_SECURE_REGISTRY_USER": USER,
            "TINTYPE_TEST_SECURE_REGISTRY_PASSWORD": self._password(),
        }

    @property
    def _users(self) -> Path:
        return self.home / "htpasswd"

    def _password(self) -> str:
        path = self.home / "password"
        if not path.exists():
            write_text(path, secrets.token_urlsafe(16))
        return path.read_text(encoding="ascii")

    def _configuration(self) -> str:
        made = self.certificates
        lock = LOCK.format(certificate=made.certificate, key=made.key, htpasswd=self._users)
        return super()._configuration() + lock

    def _ready(self) -> bool:
        trusted = ssl.create_default_context(cafile=str(self.certificates.authority))
        port = self.port()
        connection = http.client.HTTPSConnection(LOOPBACK, port, timeout=5.0, context=trusted)
        return _status(connection) == 401


def _status(connection: http.client.HTTPConnection) -> int:
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
