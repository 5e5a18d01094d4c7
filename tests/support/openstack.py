"""Fixtures for the real Keystone and Glance of the development stack (`tools/stack.py`).

A test that needs them fails where they are not: one that is skipped says nothing.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from openstack.connection import Connection

from tintype.adapters.glance import GlanceStore
from tintype.adapters.openstack_access import GlanceSettings, Patience, connect
from tintype.core.errors import Unavailable
from tintype.core.ports import ImageSpec

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


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """The stack's Keystone and Glance; what a test leaves there is removed after it."""
    cloud = Cloud(_settings("SERVICE"), _settings("ALICE"), _settings("BOB"))
    yield cloud
    cloud.clean()


@pytest.fixture
def glance(cloud: Cloud) -> GlanceStore:
    """A store in the stack's Glance, as the service's user."""
    return cloud.store()


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
