"""Fixtures for the real Keystone and Glance of the development stack (`tools/stack.py`).

A test that needs them fails where they are not: one that is skipped says nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from keystoneauth1.session import Session
from openstack.connection import Connection

from tintype.adapters.glance import GlanceStore
from tintype.adapters.openstack_access import GlanceSettings, Patience, connect
from tintype.core.errors import Unavailable
from tintype.core.images import ImageSpec

BRIEF = Patience(connect=5, read=30, upload=60, settle=1, poll=0.05)
"""Patience for a Glance on this very machine."""


@dataclass(frozen=True)
class Cloud:
    """The stack's Keystone and Glance, and who may log in there."""

    service: GlanceSettings
    alice: GlanceSettings
    """Member of the project alpha."""
    bob: GlanceSettings
    """Member of the project beta."""
    carol: GlanceSettings
    """Reader of the project alpha."""
    admin: GlanceSettings
    """Administrator of Keystone and of all else."""
    _connections: list[Connection] = field(default_factory=list)
    _images: list[str] = field(default_factory=list)

    def connection(self, person: GlanceSettings) -> Connection:
        """Log somebody in; closed when the test ends."""
        connection = connect(person, BRIEF)
        self._connections.append(connection)
        return connection

    def store(self, settings: GlanceSettings | None = None, **changes: Any) -> GlanceStore:
        """Return a store for the service's user, with some settings changed; closed at the end."""
        return GlanceStore(
            self.connection(replace(settings or self.service, **changes)), patience=BRIEF
        )

    def token(self, person: GlanceSettings) -> str:
        """Log somebody in and return a fresh token."""
        return str(self.connection(person).session.get_token())

    def revoke(self, token: str) -> None:
        """Let Keystone accept a token no longer, as its owner can; services may remember it."""
        answer = requests.delete(
            f"{self.service.auth_url}/auth/tokens",
            headers={"X-Auth-Token": token, "X-Subject-Token": token},
            timeout=BRIEF.read,
        )
        answer.raise_for_status()

    def project_id(self, person: GlanceSettings) -> str:
        """Return the id of somebody's project."""
        return str(self.connection(person).session.get_project_id())

    def spec(self, *, owner: str | None = None, **properties: str) -> ImageSpec:
        """Return a new image, to be deleted when the test ends."""
        image = ImageSpec(str(uuid.uuid4()), "web-snapshot", "v1", owner, properties=properties)
        self._images.append(image.id)
        return image

    def clean(self) -> None:
        """Delete the images and close the connections of a test."""
        store = self.store()
        for image_id in self._images:
            _discard(store, image_id)
        for connection in self._connections:
            connection.close()


@dataclass(frozen=True)
class LimitedGlance:
    """A second Glance with the images of the first, which minds quotas and remembers no token."""

    url: str
    dave: GlanceSettings
    """Member of a project of his own, which is new and has no images; he comes to this Glance."""
    project_id: str
    """Of that project."""
    _admin: Session

    def limit(self, resource: str, most: int) -> None:
        """Give dave's project a quota (`image_count_total`, or `image_size_total` in MiB).

        It may have one already; -1 is no limit.
        """
        keystone = self.dave.auth_url
        own = f"{keystone}/limits?resource_name={resource}&project_id={self.project_id}"
        for limit in self._admin.get(own).json()["limits"]:
            change = {"limit": {"resource_limit": most}}
            self._admin.patch(f"{keystone}/limits/{limit['id']}", json=change)
            return
        defaults = f"{keystone}/registered_limits?resource_name={resource}"
        (default,) = self._admin.get(defaults).json()["registered_limits"]
        limit = {
            "project_id": self.project_id,
            "service_id": default["service_id"],
            "region_id": default["region_id"],
            "resource_name": resource,
            "resource_limit": most,
        }
        self._admin.post(f"{keystone}/limits", json={"limits": [limit]})


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """The stack's Keystone and Glance; what a test leaves there is removed after it."""
    cloud = everybody()
    yield cloud
    cloud.clean()


def everybody() -> Cloud:
    """Return the stack's Keystone and Glance; `clean` closes what was opened there."""
    return Cloud(*map(_settings, ("SERVICE", "ALICE", "BOB", "CAROL", "ADMIN")))


@pytest.fixture
def glance(cloud: Cloud) -> GlanceStore:
    """A store in the stack's Glance, as the service's user."""
    return cloud.store()


@pytest.fixture(scope="session")
def limited_glance_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Glance that minds quotas, started when the first test asks for it."""
    log = tmp_path_factory.mktemp("glance") / "log"
    # It chooses a free port, and logs which.
    command = [*shlex.split(_variable("LIMITED_GLANCE")), "--bind=127.0.0.1:0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the process serves, and return its URL."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        told = re.search(r"Listening at: (\S+)", log.read_text())
        if told and requests.get(told[1], timeout=120).ok:
            return told[1]
        time.sleep(0.1)
    return pytest.fail(f"the limited Glance does not serve:\n{log.read_text()[-2000:]}")


@pytest.fixture
def limited_glance(cloud: Cloud, limited_glance_url: str) -> Iterator[LimitedGlance]:
    """A Glance that minds quotas, and a project for them, which is removed after the test."""
    admin = cloud.connection(cloud.admin).session
    keystone, name = cloud.admin.auth_url, f"gamma-{uuid.uuid4().hex}"
    password = uuid.uuid4().hex
    dave = replace(
        cloud.alice,
        username=name,
        password=password,
        project_name=name,
        endpoint_override=limited_glance_url,
    )

    def make(kind: str, **about: str) -> str:
        answer = admin.post(f"{keystone}/{kind}s", json={kind: {"name": name, **about}})
        return str(answer.json()[kind]["id"])

    project, user = make("project"), make("user", password=password)
    (role,) = admin.get(f"{keystone}/roles?name=member").json()["roles"]
    admin.put(f"{keystone}/projects/{project}/users/{user}/roles/{role['id']}")
    yield LimitedGlance(limited_glance_url, dave, project, admin)
    admin.delete(f"{keystone}/users/{user}")
    admin.delete(f"{keystone}/projects/{project}")


def _discard(store: GlanceStore, image_id: str) -> None:
    """Delete an image; a Glance on SQLite answers 500 to two writes at once."""
    for pause in (0.1, 0.5, 2.0):
        try:
            return store.discard(image_id)
        except Unavailable:
            time.sleep(pause)
    return store.discard(image_id)


def _settings(person: str) -> GlanceSettings:
    return GlanceSettings(
        auth_url=_variable("KEYSTONE_URL"),
        username=_variable(f"{person}_USER"),
        password=_variable(f"{person}_PASSWORD"),
        project_name=_variable(f"{person}_PROJECT"),
        endpoint_override=_variable("GLANCE_URL"),
    )


def _variable(name: str) -> str:
    value = os.environ.get(f"TINTYPE_TEST_{name}")
    if not value:
        pytest.fail(f"TINTYPE_TEST_{name} is not set: tools/stack.py up; eval its `env`")
    return value
