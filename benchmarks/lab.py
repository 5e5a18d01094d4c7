"""The development stack as a benchmark sees it, and what a run makes and clears away there."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kombu
from openstack.connection import Connection
from openstack.exceptions import HttpException, ResourceNotFound
from processes import BenchError

from tintype.adapters.openstack_access import GlanceSettings, connect

FOLDER = Path(os.environ.get("TINTYPE_STACK_DIR") or Path(__file__).resolve().parents[1] / ".stack")

NEEDED = (
    "DOCKER_HOST", "TINTYPE_TEST_AMQP_URL", "TINTYPE_TEST_GLANCE_URL", "TINTYPE_TEST_KEYSTONE_URL",
)  # fmt: skip


def until(condition: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Wait until `condition` holds. Raises BenchError when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Stack:
    """Where the services are, and this run's name: all that it makes carries it."""

    env: Mapping[str, str]
    run: str = field(default_factory=lambda: f"tintype-bench-{uuid.uuid4().hex[:8]}")

    @classmethod
    def find(cls) -> Stack:
        """Return the stack of this checkout. Raises BenchError where a service is not up."""
        file = FOLDER / "env.json"
        env = json.loads(file.read_text()) if file.exists() else {}
        missing = [name for name in NEEDED if name not in env]
        if missing:
            raise BenchError(f"{file}: no {', '.join(missing)}; python3 tools/stack.py up")
        return cls(env)

    @property
    def engine_url(self) -> str:
        """Address of the Docker Engine."""
        return self.env["DOCKER_HOST"]

    @property
    def glance(self) -> GlanceSettings:
        """How the service's user reaches Glance."""
        return GlanceSettings(
            auth_url=self.env["TINTYPE_TEST_KEYSTONE_URL"],
            username=self.env["TINTYPE_TEST_SERVICE_USER"],
            password=self.env["TINTYPE_TEST_SERVICE_PASSWORD"],
            project_name=self.env["TINTYPE_TEST_SERVICE_PROJECT"],
            endpoint_override=self.env["TINTYPE_TEST_GLANCE_URL"],
        )

    @property
    def bus_url(self) -> str:
        """Transport URL of this run's virtual host."""
        parts = urlsplit(self.env["TINTYPE_TEST_AMQP_URL"])
        return parts._replace(path=f"/{self.run}").geturl()

    def kombu(self) -> kombu.Connection:
        """Return a plain connection to this run's virtual host."""
        return kombu.Connection(self.bus_url.replace("rabbit://", "amqp://", 1))

    @contextmanager
    def virtual_host(self) -> Iterator[None]:
        """Make this run's virtual host; queues and exchanges go with it in the end."""
        user = str(urlsplit(self.bus_url).username)
        self._ctl("add_vhost", self.run)
        try:
            self._ctl("set_permissions", "-p", self.run, user, ".*", ".*", ".*")
            yield
        finally:
            self._ctl("delete_vhost", self.run)

    def _ctl(self, *arguments: str) -> None:
        command = [*shlex.split(self.env["TINTYPE_TEST_RABBITMQCTL"]), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, start_new_session=True
        )
        if done.returncode:
            raise BenchError(f"rabbitmqctl {arguments}: {done.stderr or done.stdout}")


class Images:
    """The images that a run has in Glance: found by the run's name."""

    def __init__(self, stack: Stack) -> None:
        """Prepare; nothing is sent yet."""
        self.connection: Connection = connect(stack.glance)
        self._name = stack.run

    def create(self) -> str:
        """Create an image without data, and return its id."""
        image = self.connection.image.create_image(
            self._name, container_format="docker", disk_format="raw"
        )
        return str(image.id)

    def token(self) -> str:
        """Return a token for a client that is none of ours."""
        return str(self.connection.session.get_token())

    def check(self, least_bytes: int) -> int:
        """Return the size of the one active image. Raises BenchError unless there is one."""
        found = [(image.status, image.size) for image in self._all()]
        if len(found) != 1 or found[0][0] != "active" or found[0][1] < least_bytes:
            raise BenchError(f"one active image of {least_bytes} bytes at least, not {found}")
        return int(found[0][1])

    def remove(self) -> None:
        """Delete them all; Glance on SQLite now and then answers 500 to two writes at once."""
        for image in self._all():
            for pause in (0.2, 1.0, 5.0):
                try:
                    self.connection.image.delete_image(image, ignore_missing=True)
                    break
                except ResourceNotFound:
                    break
                except HttpException:
                    time.sleep(pause)

    def _all(self) -> list[Any]:
        return list(self.connection.image.images(name=self._name))
