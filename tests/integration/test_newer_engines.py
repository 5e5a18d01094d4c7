"""Engines of version 25 and later: another layout of archives, and perhaps containerd's store.

What is snapshotted on one is restored on the others, this machine's older one among them.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import Container

from tests.support.docker import PATIENCE, ensure_busybox
from tests.support.search import unpacked_members
from tests.support.work import work_through
from tintype.adapters.clock import SystemClock
from tintype.adapters.directory import DirectoryStore
from tintype.adapters.docker_engine import DockerEngine
from tintype.core.engine import CaptureOptions
from tintype.core.errors import Refused
from tintype.core.events import COMMIT_REQUEST, RESTORE_REQUEST, Event, Requester
from tintype.core.ports import Services

# The SDK drops the sockets of its `exec_run` and leaves them to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

SECRET = f"hunter2-{secrets.token_hex(12)}"
ADMIN = Requester("project-a", is_admin=True)
ENGINES = ("engine_url", "newer_engine_url", "containerd_engine_url")
NEWER = ENGINES[1:]


class Host:
    """A host with one engine, and the images of all hosts."""

    def __init__(self, url: str, images: Path) -> None:
        self.client = DockerClient(url, timeout=PATIENCE)
        self.engine = DockerEngine(url, instance=secrets.token_hex(4))
        self.store = DirectoryStore(images)
        self.services = Services(
            engine=self.engine,
            stores={"directory": self.store},
            clock=SystemClock(),
            host="here",
            default_stores=("directory",),
        )
        self.busybox = ensure_busybox(url)

    def container(self) -> Container:
        """Return a running container that knows a secret and has a file."""
        made = self.client.containers.run(
            self.busybox,
            ["/bin/busybox", "sleep", "1000"],
            environment={"DB_PASSWORD": SECRET, "MODE": "production"},
            labels={"app": "web"},
            network_mode="none",
            detach=True,
        )
        code, output = made.exec_run(["/bin/sh", "-c", "echo first > /file && rm /etc/group"])
        assert code == 0, output
        return made

    def do(self, request: str, **payload: Any) -> dict[str, Any]:
        """Work a request through; return the payload of what is told last."""
        asked = {"request_id": str(uuid.uuid4()), **payload}
        *_, last = work_through(Event(request, asked, ADMIN), self.services)
        return dict(last.payload)

    def images(self) -> set[str]:
        """Return all images of the engine, by their tags or ids."""
        return {name for image in self.client.images.list() for name in image.tags or [image.id]}

    def close(self) -> None:
        """Release the connections."""
        self.engine.close()
        self.client.close()


@pytest.fixture
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Makes hosts by the fixture that has their engine's address."""
    made: list[Host] = []

    def make(fixture: str) -> Host:
        made.append(Host(request.getfixturevalue(fixture), tmp_path))
        return made[-1]

    yield make
    for host in made:
        host.close()


def archive_of(host: Host, image_id: str) -> bytes:
    with host.store.download(image_id) as chunks:
        return b"".join(chunks)


@pytest.mark.parametrize("fixture", NEWER)
def test_the_archive_has_the_oci_layout_and_no_secret(hosts: Any, fixture: str) -> None:
    host = hosts(fixture)
    web = host.container()
    before = host.images()
    try:
        end = host.do(
            COMMIT_REQUEST,
            container=web.id,
            image_name="web",
            message="kept",
            unset_env=["DB_PASSWORD"],
        )
        assert host.images() == before
    finally:
        web.remove(force=True)
    assert end["status"] == "active"
    assert end["scrubbed_env"] == ["DB_PASSWORD"]
    members = unpacked_members(archive_of(host, end["image_id"]))
    assert "index.json" in members
    assert any(name.startswith("blobs/sha256/") for name in members)
    assert [name for name, data in members.items() if SECRET.encode() in data] == []
    assert any(b"MODE=production" in data for data in members.values())  # the search can find


@pytest.mark.parametrize("there", ENGINES)
@pytest.mark.parametrize("here", ENGINES)
def test_what_one_engine_saves_the_others_restore(hosts: Any, here: str, there: str) -> None:
    first, second = hosts(here), hosts(there)
    web = first.container()
    name = f"again-{secrets.token_hex(4)}"
    try:
        image = first.do(COMMIT_REQUEST, container=web.id, image_name="web")
    finally:
        web.remove(force=True)
    before = second.images()
    end = second.do(RESTORE_REQUEST, image_id=image["image_id"], name=name)
    assert end["status"] == "active", end
    again = second.client.containers.get(name)
    try:
        code, output = again.exec_run(["/bin/sh", "-c", "cat /file; test ! -e /etc/group"])
        assert (code, output) == (0, b"first\n")
        assert {"MODE=production", f"DB_PASSWORD={SECRET}"} <= set(again.attrs["Config"]["Env"])
        assert again.labels["app"] == "web"
    finally:
        again.remove(force=True)
        second.engine.tidy(())
    assert second.images() == before


def test_a_newer_engine_makes_one_layer(hosts: Any) -> None:
    host = hosts("newer_engine_url")
    web = host.container()
    try:
        end = host.do(COMMIT_REQUEST, container=web.id, image_name="web", squash=True)
    finally:
        web.remove(force=True)
    assert end["squashed"]
    assert len(end["layers"]) == 1
    assert "index.json" in unpacked_members(archive_of(host, end["image_id"]))


def test_an_engine_with_containerds_store_says_that_it_cannot_squash(hosts: Any) -> None:
    host = hosts("containerd_engine_url")
    web = host.container()
    before = host.images()
    try:
        found = host.engine.inspect(web.id)
        with pytest.raises(Refused, match="squash"):
            host.engine.capture(found, "owner", CaptureOptions(pause=True, squash=True))
        assert host.images() == before
        web.reload()
        assert web.status == "running"
    finally:
        web.remove(force=True)
