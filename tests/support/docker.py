"""Fixtures for the real Docker Engine at DOCKER_HOST (`tools/stack.py env` prints it).

A test that needs it fails where it is not: a suite that skips what it cannot reach says nothing.
"""

from __future__ import annotations

import gc
import io
import os
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import docker.errors
import pytest
from docker import DockerClient
from docker.models.containers import Container

from tests import archives
from tintype.adapters.docker_engine import DockerEngine
from tintype.core.engine import ContainerState

IMAGES = Path(__file__).parents[2] / "tools" / "images.py"
PATIENCE = 120
"""Seconds for a single call of the engine: the machine may be busy."""


class Containers:
    """Makes containers on one engine, and removes them in the end."""

    def __init__(self, client: DockerClient, image: str) -> None:
        """Take the engine, and the image to use unless a test names another."""
        self.client = client
        self.image = image
        self._made: list[Container] = []

    def __call__(
        self,
        state: ContainerState = ContainerState.RUNNING,
        *,
        name: str | None = None,
        files: Mapping[str, bytes] | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        image: str | None = None,
        **settings: Any,
    ) -> Container:
        """Make a container with files, volumes that nobody else has, and bring it into a state.

        `settings` are further ones of the SDK's `create`.
        """
        made = self.client.containers.create(
            image or self.image,
            settings.pop("command", ["/bin/busybox", "sleep", "1000"]),
            name=name or f"tintype-test-{secrets.token_hex(6)}",
            labels=dict(labels or {}),
            volumes=list(volumes),
            **{"network_mode": "none", "init": False, **settings},
        )
        self._made.append(made)
        if state is not ContainerState.OTHER:
            made.start()
            for path, data in (files or {}).items():
                write(made, path, data)
        if state is ContainerState.STOPPED:
            made.kill()
            made.wait(timeout=PATIENCE)
        elif state is ContainerState.PAUSED:
            made.pause()
        made.reload()
        return made

    def clean(self) -> None:
        """Remove what was made, with its volumes."""
        for made in self._made:
            try:
                made.remove(force=True, v=True)
            except docker.errors.NotFound:
                continue


def write(container: Container, path: str, data: bytes) -> None:
    """Put a file into a container."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(path.lstrip("/"))
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    assert container.put_archive("/", buffer.getvalue())


def load_layered(client: DockerClient, image: str, tag: str, layers: int) -> None:
    """Make an image named `tag` with so many layers, the lowest being all of another image."""
    made = client.containers.create(image, ["none"])
    try:
        chunks: Any = made.export()  # bytes; the stubs say str
        lowest = b"".join(chunks)
    finally:
        made.remove()
    others = [archives.layer({f"layer/{number}": b"x"}) for number in range(1, layers)]
    client.images.load(archives.classic([lowest, *others], tags=[tag]).to_bytes())


def fill(container: Container, megabytes: int) -> None:
    """Write data into a running container that does not compress."""
    code, output = container.exec_run(
        ["/bin/busybox", "dd", "if=/dev/urandom", "of=/fill", "bs=1M", f"count={megabytes}"]
    )
    assert code == 0, output


def state_of(container: Container) -> str:
    """Return the engine's word for the container's state now."""
    container.reload()
    return str(container.status)


def ensure_busybox(url: str) -> str:
    """Make the busybox image on the engine at `url` and return its name."""
    made = subprocess.run(
        [sys.executable, str(IMAGES)],
        env={**os.environ, "DOCKER_HOST": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="session")
def engine_url() -> str:
    """Address of a real engine."""
    url = os.environ.get("DOCKER_HOST")
    if not url:
        pytest.fail('no Docker Engine: DOCKER_HOST is not set; eval "$(tools/stack.py env)"')
    return url


@pytest.fixture(scope="session")
def docker_client(engine_url: str) -> Iterator[DockerClient]:
    """The SDK's client of that engine, to arrange and to look."""
    client = DockerClient(engine_url, timeout=PATIENCE)
    yield client
    client.close()


@pytest.fixture(scope="session")
def busybox(engine_url: str) -> str:
    """Name of a small image on that engine."""
    return ensure_busybox(engine_url)


@pytest.fixture
def container(
    docker_client: DockerClient, busybox: str, docker_engine: DockerEngine
) -> Iterator[Containers]:
    """Makes containers; they are gone after the test."""
    del docker_engine  # set up before, cleaned after: an image in use would stay
    containers = Containers(docker_client, busybox)
    yield containers
    containers.clean()


@pytest.fixture
def docker_engine(engine_url: str) -> Iterator[DockerEngine]:
    """The adapter on that engine, with an instance and thus captures of its own."""
    engine = DockerEngine(engine_url, instance=secrets.token_hex(4))
    yield engine
    for owner in engine.owners():
        engine.discard(owner)
    assert not engine.owners()
    engine.close()


class Connect(Protocol):
    """Makes an adapter on the engine at an address."""

    def __call__(self, url: str, **settings: Any) -> DockerEngine:
        """Return it, with the instance `i` and these settings."""


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes adapters on engines that come and go; closed after the test.

    The SDK forgets to close a unix socket on which connecting failed. It is left to the garbage
    collector, which would warn of it in somebody else's test.
    """
    with ExitStack() as stack:
        yield lambda url, **settings: stack.enter_context(
            closing(DockerEngine(url, instance="i", **settings))
        )
    gc.collect()
