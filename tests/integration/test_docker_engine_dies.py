"""A Docker Engine that is killed at its work, and comes back."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import docker
import pytest

from tests.support.docker import Connect, Containers, ensure_busybox
from tests.support.dockerd import Dockerd
from tintype.core.archive import ArchiveStream
from tintype.core.engine import CaptureOptions, ContainerState
from tintype.core.errors import Unavailable

PLAIN = CaptureOptions(pause=True)
# What the fixture `connect` collects.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def options() -> Sequence[str]:
    """How the engine is to be started; a test may parametrise it."""
    return ()


@pytest.fixture
def dockerd(tmp_path_factory: pytest.TempPathFactory, options: Sequence[str]) -> Iterator[Dockerd]:
    own = Dockerd(tmp_path_factory.mktemp("engine"), *options)
    own.start()
    yield own
    own.stop()


@pytest.fixture
def filled(dockerd: Dockerd) -> Iterator[str]:
    """Id of a running container on that engine with 300 MB of its own."""
    client = docker.DockerClient(dockerd.url, timeout=120)
    containers = Containers(client, ensure_busybox(dockerd.url))
    made = containers()
    command = "/bin/busybox dd if=/dev/urandom of=/filler bs=1048576 count=300"
    assert made.exec_run(command).exit_code == 0
    yield str(made.id)
    client.close()


def test_an_engine_killed_while_it_streams(connect: Connect, dockerd: Dockerd, filled: str) -> None:
    engine = connect(dockerd.url)
    owner = str(uuid.uuid4())
    capture = engine.capture(engine.inspect(filled), owner, PLAIN)

    with capture.read() as chunks:
        next(chunks)
        dockerd.kill()
        with pytest.raises(Unavailable):
            list(chunks)
    dockerd.start()

    again = engine.reopen(capture.ref)
    assert again is not None
    with again.read() as chunks:
        stream = ArchiveStream(chunks, "snapshot:1")
        assert sum(map(len, stream)) > 300 * 1024 * 1024
    assert stream.summary.config_digest == capture.digest
    engine.discard(owner)
    assert engine.owners() == frozenset()


def test_an_engine_killed_while_it_is_watched(connect: Connect, dockerd: Dockerd) -> None:
    with closing(docker.DockerClient(dockerd.url, timeout=120)) as client:
        made = Containers(client, ensure_busybox(dockerd.url))(ContainerState.OTHER)
    engine = connect(dockerd.url)

    with engine.watch(0, 600) as events:
        assert next(events).engine_id == made.id
        dockerd.kill()
        with pytest.raises(Unavailable):
            next(events)
    with pytest.raises(Unavailable), engine.watch(0, 600):
        pass
    dockerd.start()

    with engine.watch(0, 0.5) as events:
        # What happened before is forgotten: hence `containers`.
        assert list(events) == []
    assert [each.engine_id for each in engine.containers()] == [made.id]


def test_an_engine_killed_while_it_makes_one_layer(
    connect: Connect, dockerd: Dockerd, filled: str
) -> None:
    engine, owner = connect(dockerd.url), str(uuid.uuid4())
    options = CaptureOptions(pause=True, squash=True)
    with closing(docker.DockerClient(dockerd.url, timeout=120)) as client:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(engine.capture, engine.inspect(filled), owner, options)
            while len(client.containers.list(all=True)) < 2:
                pass
            dockerd.kill()
            with pytest.raises(Unavailable):
                running.result(timeout=60)
        dockerd.start()
        assert len(client.containers.list(all=True)) == 2
        assert engine.owners() == {owner}

        engine.discard(owner)

        assert engine.owners() == frozenset()
        assert [each.id for each in client.containers.list(all=True)] == [filled]
        assert [each.tags for each in client.images.list()] == [["tintype-test/busybox:latest"]]


def runs(dockerd: Dockerd, engine_id: str) -> bool:
    """Tell whether the container's processes really run: none can be started in a frozen one."""
    with closing(docker.DockerClient(dockerd.url, timeout=20)) as client:
        return client.containers.get(engine_id).exec_run("/bin/busybox true").exit_code == 0


@pytest.mark.parametrize(
    ("options", "state"),
    [((), ContainerState.STOPPED), (("--live-restore",), ContainerState.RUNNING)],
    ids=["containers-die-with-it", "live-restore"],
)
def test_an_engine_killed_while_it_commits(
    state: ContainerState, connect: Connect, dockerd: Dockerd, filled: str
) -> None:
    engine = connect(dockerd.url, thaw_delays=(0, 0.1))
    container, owner = engine.inspect(filled), str(uuid.uuid4())

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.capture, container, owner, PLAIN)
        while engine.inspect(filled).state is not ContainerState.PAUSED:
            pass
        dockerd.kill()
        with pytest.raises(Unavailable, match="STILL FROZEN"):
            running.result(timeout=60)
    dockerd.start()

    engine.thaw(filled)
    assert engine.inspect(filled).state is state
    if state is ContainerState.RUNNING:
        assert runs(dockerd, filled)
    assert engine.owners() == frozenset()
    again = engine.capture(engine.inspect(filled), owner, PLAIN)
    assert again.size_bytes > 300 * 1024 * 1024
    engine.discard(owner)


def test_a_container_is_thawed_by_an_engine_that_comes_back_in_time(
    connect: Connect, dockerd: Dockerd, filled: str
) -> None:
    engine = connect(dockerd.url, thaw_delays=(0, *[0.5] * 60))
    container = engine.inspect(filled)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.capture, container, str(uuid.uuid4()), PLAIN)
        while engine.inspect(filled).state is not ContainerState.PAUSED:
            pass
        dockerd.kill()
        restart = threading.Thread(target=dockerd.start)
        restart.start()
        failure = running.exception(timeout=120)
        restart.join()

    assert isinstance(failure, Unavailable)
    assert "FROZEN" not in str(failure)
    assert engine.inspect(filled).state in (ContainerState.RUNNING, ContainerState.STOPPED)
