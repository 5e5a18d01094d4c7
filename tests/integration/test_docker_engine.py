"""What is particular to the Docker Engine: its images, its tags, its layers."""

from __future__ import annotations

import contextlib
import secrets
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import docker.errors
import pytest
from docker import DockerClient
from docker.models.containers import Container

from tests.support.docker import Containers, state_of
from tintype.adapters.docker_engine import DockerEngine
from tintype.core.engine import CaptureOptions, ContainerState
from tintype.core.errors import NotFound, Refused

PLAIN = CaptureOptions(pause=True)


def new_owner() -> str:
    return str(uuid.uuid4())


def has_image(client: DockerClient, image_id: str) -> bool:
    with contextlib.suppress(docker.errors.ImageNotFound):
        client.images.get(image_id)
        return True
    return False


@pytest.fixture
def tag(docker_client: DockerClient) -> Iterator[str]:
    """A name for a user's image, which is gone after the test.

    To be asked for before `container`: an image in use would only lose its name.
    """
    name = f"tintype-test/user-{secrets.token_hex(4)}:1"
    yield name
    with contextlib.suppress(docker.errors.ImageNotFound):
        docker_client.images.remove(name, force=True)


def captured(engine: DockerEngine, made: Container, owner: str) -> str:
    """Capture a container and return the image's id."""
    return engine.capture(engine.inspect(str(made.id)), owner, PLAIN).digest


def test_nothing_is_left_of_a_capture(
    docker_engine: DockerEngine, container: Containers, docker_client: DockerClient
) -> None:
    owner = new_owner()
    image_id = captured(docker_engine, container(), owner)
    assert has_image(docker_client, image_id)

    docker_engine.discard(owner)

    assert not has_image(docker_client, image_id)


def test_the_whole_configuration_is_committed(
    docker_engine: DockerEngine, container: Containers, docker_client: DockerClient
) -> None:
    made = container(stop_signal="SIGUSR1", volumes=["/data"])
    plain = made.commit()
    ours = docker_client.images.get(captured(docker_engine, made, new_owner()))
    docker_client.images.remove(str(plain.id))

    labels = set(ours.attrs["Config"].pop("Labels"))
    assert labels == {"tintype.request_id", "tintype.instance"}
    plain.attrs["Config"].pop("Labels")
    assert ours.attrs["Config"] == plain.attrs["Config"]
    assert ours.attrs["Config"]["StopSignal"] == "SIGUSR1"


def test_a_tmpfs_is_listed_with_the_volumes(
    docker_engine: DockerEngine, container: Containers
) -> None:
    made = container(volumes=["/data"], tmpfs={"/run": ""})

    assert docker_engine.inspect(str(made.id)).volumes == ("/data", "/run")


def test_a_tag_that_the_user_gave_survives(
    tag: str, docker_engine: DockerEngine, container: Containers, docker_client: DockerClient
) -> None:
    owner = new_owner()
    image = docker_client.images.get(captured(docker_engine, container(), owner))
    assert image.tag(tag)

    docker_engine.discard(owner)

    image.reload()
    assert image.tags == [tag]
    assert docker_engine.owners() == frozenset()


def test_an_untagged_image_of_the_user_survives(
    tag: str, docker_engine: DockerEngine, container: Containers, docker_client: DockerClient
) -> None:
    """By default the engine removes untagged parents together with an image."""
    base = container().commit(*tag.split(":"))
    made = container(image=tag)
    owner = new_owner()
    captured(docker_engine, made, owner)
    made.remove(force=True)
    docker_client.images.remove(tag, noprune=True)
    assert has_image(docker_client, str(base.id))

    docker_engine.discard(owner)

    try:
        assert has_image(docker_client, str(base.id))
    finally:
        docker_client.images.remove(str(base.id))


@pytest.mark.parametrize("state", [ContainerState.RUNNING, ContainerState.STOPPED])
def test_an_image_that_a_container_was_made_from_stays_until_it_is_gone(
    docker_engine: DockerEngine,
    container: Containers,
    docker_client: DockerClient,
    state: ContainerState,
) -> None:
    owner = new_owner()
    image_id = captured(docker_engine, container(), owner)
    user = container(state, image=image_id)

    docker_engine.discard(owner)

    assert docker_engine.owners() == {owner}
    docker_client.images.remove(str(user.commit().id))  # it can still be committed
    user.remove(force=True)
    docker_engine.discard(owner)
    assert docker_engine.owners() == frozenset()
    assert not has_image(docker_client, image_id)


def test_another_tintype_s_captures_are_left_alone(
    docker_engine: DockerEngine, engine_url: str, container: Containers
) -> None:
    owner = new_owner()
    capture = docker_engine.capture(docker_engine.inspect(str(container().id)), owner, PLAIN)
    other = DockerEngine(engine_url, instance=secrets.token_hex(4))

    assert other.owners() == frozenset()
    other.discard(owner)

    assert docker_engine.reopen(capture.ref) is not None
    other.close()


@pytest.mark.parametrize("seconds", [0, 0.5], ids=["before-the-commit", "in-the-commit"])
def test_a_container_removed_while_it_is_frozen_ends_as_not_found(
    docker_engine: DockerEngine, container: Containers, seconds: float
) -> None:
    made = container()
    fill(made, megabytes=200)
    described = docker_engine.inspect(str(made.id))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(docker_engine.capture, described, new_owner(), PLAIN)
        wait_until_paused(made)
        time.sleep(seconds)
        made.remove(force=True)
        failure = running.exception()

    # A commit that has begun is finished, and whole: it holds on to the container's layer.
    assert failure is None or isinstance(failure, Refused)
    with pytest.raises(NotFound):
        docker_engine.capture(described, new_owner(), PLAIN)


def test_a_container_that_its_user_thaws_stays_thawed(
    docker_engine: DockerEngine, container: Containers
) -> None:
    made = container()
    fill(made, megabytes=200)
    described = docker_engine.inspect(str(made.id))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(docker_engine.capture, described, new_owner(), PLAIN)
        wait_until_paused(made)
        made.unpause()
        assert running.result().digest

    assert state_of(made) == "running"


def fill(made: Container, megabytes: int) -> None:
    """Write so much into a container that its commit takes a while."""
    command = f"/bin/busybox dd if=/dev/urandom of=/filler bs=1048576 count={megabytes}"
    assert made.exec_run(command).exit_code == 0


def wait_until_paused(made: Container) -> None:
    while state_of(made) != "paused":
        pass
