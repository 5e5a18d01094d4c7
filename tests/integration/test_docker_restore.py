"""What is particular to the Docker Engine in making containers of archives."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from docker import DockerClient

from tests.support.docker import Connect, Containers
from tests.support.dockerd import Dockerd
from tests.support.fake_docker import Request, fake_engine
from tests.support.image_archive import SLEEP, image_archive
from tintype.adapters.docker_engine import DockerEngine
from tintype.core.archive import ArchiveStream
from tintype.core.engine import CaptureOptions, ContainerState, NewContainer
from tintype.core.errors import CorruptDownload, NameTaken, Refused, TintypeError, Unavailable

CHUNK = 64 * 1024
LOADED = {"stream": "Loaded image: tintype-restore/i:owner\n"}
NO_SPACE = "Error processing tar file(exit status 1): write /x: no space left on device"
# What the fixture `connect` collects.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
ARCHIVE = [b"a" * 512, b"b" * 512, b"c" * 512]


@pytest.fixture(scope="module")
def other_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """An engine that has no image."""
    own = Dockerd(tmp_path_factory.mktemp("other"))
    own.start()
    yield own
    own.stop()


@pytest.fixture
def other_client(other_engine: Dockerd) -> Iterator[DockerClient]:
    """The SDK's client of that engine; its containers and images are gone after the test."""
    with closing(docker.DockerClient(other_engine.url, timeout=120)) as client:
        yield client
        for made in client.containers.list(all=True):
            made.remove(force=True, v=True)
        for image in client.images.list(all=True):
            client.images.remove(str(image.id), force=True)


def new_name() -> str:
    return f"tintype-test-{secrets.token_hex(6)}"


def chunks(data: bytes) -> Iterator[bytes]:
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))


def saved(client: DockerClient, image: str, reference: str) -> ArchiveStream:
    """Return what `docker save` has of an image, under another name."""
    return ArchiveStream(client.api.get_image(image, chunk_size=CHUNK), reference)


def test_a_snapshot_runs_on_an_engine_that_has_nothing_of_it(
    container: Containers,
    docker_client: DockerClient,
    other_engine: Dockerd,
    other_client: DockerClient,
    connect: Connect,
) -> None:
    """Several layers, committed and saved by docker itself; one takes a file away."""
    made = container(files={"/app": b"1", "/removed": b"1"})
    first = made.commit(new_name(), "1")
    made = container(image=first.tags[0], files={"/app": b"2"})
    assert made.exec_run("/bin/busybox rm /removed").exit_code == 0
    second = made.commit(new_name(), "1", conf={"Cmd": SLEEP, "Env": ["A=1"]})
    assert other_client.images.list(all=True) == []
    engine = connect(other_engine.url)
    try:
        image = engine.load(
            "owner", saved(docker_client, second.tags[0], engine.restored_ref("owner"))
        )
    finally:
        container.clean()
        for each in (second, first):
            docker_client.images.remove(str(each.id), force=True)

    restored = engine.create("owner", image, NewContainer(new_name(), network="none"))
    engine.start(restored.engine_id)

    assert image == second.id
    assert engine.inspect(restored.name).state is ContainerState.RUNNING
    running = other_client.containers.get(restored.engine_id)
    assert running.exec_run("/bin/busybox cat /app").output == b"2"
    assert running.exec_run("/bin/busybox test -e /removed").exit_code == 1
    assert b"A=1\n" in running.exec_run("/bin/busybox env").output
    engine.withdraw("owner")
    assert other_client.images.list(all=True) == []


def test_an_image_of_the_user_below_a_loaded_one_survives(
    container: Containers, docker_client: DockerClient, docker_engine: DockerEngine
) -> None:
    """The engine takes untagged parents away with an image, unless it is told not to."""
    base = container().commit(new_name(), "1")
    child = container(image=base.tags[0]).commit(new_name(), "1")
    owner = str(uuid.uuid4())
    image = docker_engine.load(
        owner, saved(docker_client, child.tags[0], docker_engine.restored_ref(owner))
    )
    assert image == child.id
    container.clean()
    for name in (*child.tags, *base.tags):
        docker_client.images.remove(name, noprune=True)

    docker_engine.tidy(())

    assert docker_client.images.get(str(base.id)).tags == []
    docker_client.images.remove(str(base.id))
    with pytest.raises(docker.errors.ImageNotFound):
        docker_client.images.get(image)


def test_an_image_stays_as_long_as_a_capture_lies_over_it(
    docker_engine: DockerEngine, docker_client: DockerClient
) -> None:
    """Without its name it would be left for ever: the engine removes no parents with a capture."""
    owner = str(uuid.uuid4())
    archive = image_archive(docker_engine.restored_ref(owner))
    image = docker_engine.load(owner, chunks(archive.to_bytes()))
    made = docker_engine.create(owner, image, NewContainer(new_name(), network="none"))
    docker_engine.start(made.engine_id)
    docker_engine.capture(made, owner, CaptureOptions(pause=True))

    docker_engine.withdraw(owner)
    docker_engine.tidy(())

    assert docker_client.images.get(image).tags == [docker_engine.restored_ref(owner)]
    docker_engine.discard(owner)
    docker_engine.tidy(())
    with pytest.raises(docker.errors.ImageNotFound):
        docker_client.images.get(image)


def test_two_instances_leave_each_other_alone(
    docker_client: DockerClient, docker_engine: DockerEngine, connect: Connect, engine_url: str
) -> None:
    owner, neighbour = str(uuid.uuid4()), connect(engine_url)
    made = {}
    for engine in (docker_engine, neighbour):
        data = image_archive(engine.restored_ref(owner)).to_bytes()
        image = engine.load(owner, chunks(data))
        made[engine] = engine.create(owner, image, NewContainer(new_name(), network="none"))
    unused = "unused"
    image = neighbour.load(unused, chunks(image_archive(neighbour.restored_ref(unused)).to_bytes()))
    try:
        docker_engine.withdraw(owner)
        docker_engine.tidy(())

        assert docker_engine.restored(owner) is None
        assert neighbour.restored(owner) == made[neighbour]
        assert docker_client.images.get(image).id == image
    finally:
        neighbour.withdraw(owner)
        neighbour.withdraw(unused)


def test_an_anonymous_volume_goes_with_its_container(
    docker_engine: DockerEngine, docker_client: DockerClient
) -> None:
    owner = str(uuid.uuid4())
    archive = image_archive(docker_engine.restored_ref(owner), config={"Volumes": {"/data": {}}})
    image = docker_engine.load(owner, chunks(archive.to_bytes()))
    made = docker_engine.create(owner, image, NewContainer(new_name(), network="none"))
    [mount] = docker_client.containers.get(made.engine_id).attrs["Mounts"]
    assert docker_engine.volume_labels(mount["Name"]) is not None

    docker_engine.withdraw(owner)

    assert docker_engine.volume_labels(mount["Name"]) is None


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"entrypoint": ["/no/such/program"]}, "no such file or directory"),
        ({"entrypoint": ["no-such-program"]}, "executable file not found"),
        ({"user": "nobody-of-that-name"}, "unable to find user"),
        ({"user": "0:no-such-group"}, "unable to find group"),
        ({"volumes": {"/bin/busybox": "/etc"}}, "not a directory"),
        ({"working_dir": "/bin/busybox"}, "not a directory"),
        ({"ports": {"80/tcp": "192.0.2.1:8080"}, "network": "NETWORK"}, "cannot assign requested"),
    ],
    ids=lambda each: str(each) if isinstance(each, str) else "",
)
def test_what_cannot_run_is_refused_in_the_engine_s_words(
    docker_engine: DockerEngine, docker_client: DockerClient, wanted: dict[str, Any], words: str
) -> None:
    owner = str(uuid.uuid4())
    archive = image_archive(docker_engine.restored_ref(owner))
    image = docker_engine.load(owner, chunks(archive.to_bytes()))
    network = docker_client.networks.create(new_name())
    wanted = {**wanted, "network": network.name if "network" in wanted else "none"}
    try:
        with pytest.raises(Refused, match=words):
            docker_engine.start(
                docker_engine.create(owner, image, NewContainer(new_name(), **wanted)).engine_id
            )
    finally:
        docker_engine.withdraw(owner)
        network.remove()


# A process that is killed

LOADING = """
import sys, time
from tintype.adapters.docker_engine import DockerEngine
data = open(sys.argv[2], "rb").read()
def source():
    for at in range(0, int(sys.argv[3]), 65536):
        yield data[at : at + 65536]
    print("handed over", flush=True)
    time.sleep(int(sys.argv[4]))
print(DockerEngine(sys.argv[1], instance="i").load("owner", source()), flush=True)
"""
WITHDRAWING = """
import sys
from tintype.adapters.docker_engine import DockerEngine
engine = DockerEngine(sys.argv[1], instance="i")
engine.check()
print("begins", flush=True)
engine.withdraw("owner")
"""


@contextlib.contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a script that has said its first word, and kill it in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        try:
            yield running
        finally:
            running.kill()


def eventually(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize("part", [0.1, 0.9, 1.0])
def test_a_process_killed_while_it_loads(
    other_engine: Dockerd,
    other_client: DockerClient,
    connect: Connect,
    tmp_path: Path,
    part: float,
) -> None:
    engine = connect(other_engine.url)
    archive = image_archive(engine.restored_ref("owner")).to_bytes()
    (tmp_path / "archive").write_bytes(archive)
    handed = int(len(archive) * part)

    with process(LOADING, other_engine.url, tmp_path / "archive", handed, 1000):
        pass

    eventually(lambda: not list(staged(other_client)))
    assert other_client.images.list(all=True) == []
    assert engine.load("owner", chunks(archive))
    engine.tidy(())
    assert other_client.images.list(all=True) == []


def staged(client: DockerClient) -> Iterable[Path]:
    """Return what the engine is unpacking."""
    return (Path(client.info()["DockerRootDir"]) / "tmp").glob("docker-import-*")


def test_the_engine_finishes_what_nobody_waits_for(
    other_engine: Dockerd, other_client: DockerClient, connect: Connect
) -> None:
    """The last moment at which a process can be killed: all is sent, and the answer not read."""
    engine = connect(other_engine.url)
    archive = image_archive(engine.restored_ref("owner")).to_bytes()
    head = f"POST /images/load HTTP/1.1\r\nHost: docker\r\nContent-Length: {len(archive)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(other_engine.url.removeprefix("unix://"))
        connection.sendall(head.encode() + archive)

    eventually(lambda: bool(other_client.images.list(all=True)))

    engine.tidy(["owner"])
    assert other_client.images.list(all=True) != []
    engine.tidy(())
    assert other_client.images.list(all=True) == []


@pytest.mark.parametrize("delay", [0, 0.01, 0.05, 0.2])
def test_a_process_killed_while_it_withdraws(
    other_engine: Dockerd, other_client: DockerClient, connect: Connect, delay: float
) -> None:
    engine = connect(other_engine.url)
    archive = image_archive(engine.restored_ref("owner")).to_bytes()
    image = engine.load("owner", chunks(archive))
    made = engine.create("owner", image, NewContainer(new_name(), network="none"))
    engine.start(made.engine_id)

    with process(WITHDRAWING, other_engine.url):
        time.sleep(delay)

    def withdrawn() -> bool:
        with contextlib.suppress(Unavailable):  # the engine is still removing it
            engine.withdraw("owner")
            return True
        return False

    eventually(withdrawn)
    assert engine.restored("owner") is None
    assert other_client.containers.list(all=True) == []
    assert other_client.images.list(all=True) == []


# What the engine may say


def read_chunk(request: Request) -> bytes:
    """Read one chunk of a request's body; the last one is empty."""
    size = int(request.rfile.readline(), 16)
    data = request.rfile.read(size)
    assert request.rfile.readline() == b"\r\n"
    return data


def answer_of(*lines: object) -> Callable[[Request], None]:
    """Take all of an archive and say these lines."""

    def answer(request: Request) -> None:
        while read_chunk(request):
            pass
        request.begin_chunks()
        for line in lines:
            request.chunk(
                (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\r\n"
            )
        request.chunk(b"")

    return answer


def error(words: str) -> dict[str, Any]:
    return {"errorDetail": {"message": words}, "error": words}


@pytest.mark.parametrize(
    ("lines", "raised", "words"),
    [
        ([LOADED, error("invalid diffID")], Refused, "invalid diffID"),
        ([error("invalid diffID"), LOADED], Refused, "invalid diffID"),
        ([{"error": "only this"}], Refused, "only this"),
        ([{"errorDetail": {"code": 1}}], Refused, "not loaded"),
        ([error(NO_SPACE)], Unavailable, "no space left"),
        ([error("fork/exec: cannot allocate memory")], Unavailable, "cannot allocate memory"),
        ([{"status": "Loading layer"}, {"stream": "Good bye"}], Refused, "nothing was loaded"),
        ([], Refused, "nothing was loaded"),
        ([{"stream": f"Loaded image ID: sha256:{'0' * 64}\n"}], Refused, "and not tintype-restore"),
        ([{"stream": "Loaded image: user/image:1\n"}], Refused, "user/image:1 and not"),
        ([b"<html>"], Unavailable, "unreadable"),
        ([b"[]"], Unavailable, "unreadable"),
        ([LOADED], Unavailable, "is gone"),
    ],
)
def test_what_the_engine_says_of_an_archive(
    tmp_path: Path, connect: Connect, lines: list[object], raised: type[TintypeError], words: str
) -> None:
    with fake_engine(tmp_path, {"POST /images/load": answer_of(*lines)}) as fake:
        with pytest.raises(raised, match=words) as seen:
            connect(fake.url).load("owner", ARCHIVE)

        assert type(seen.value) is raised


def test_an_engine_that_names_the_image_more_fully(tmp_path: Path, connect: Connect) -> None:
    """Others have a registry's name before it, as Podman's `localhost/`."""
    answers = {
        "POST /images/load": answer_of(
            {"stream": "Loaded image: localhost/tintype-restore/i:owner"}
        ),
        "GET /images/.*": lambda request: request.json(200, {"Id": "sha256:1"}),
    }
    with fake_engine(tmp_path, answers) as fake:
        assert connect(fake.url).load("owner", ARCHIVE) == "sha256:1"


def test_an_engine_that_refuses_before_it_reads(tmp_path: Path, connect: Connect) -> None:
    def refuse(request: Request) -> None:
        request.json(400, {"message": "not today"})
        request.close_connection = True

    with (
        fake_engine(tmp_path, {"POST /images/load": refuse}) as fake,
        pytest.raises(Refused, match="not today"),
    ):
        connect(fake.url).load("owner", ARCHIVE)


def test_an_engine_that_breaks_off_its_answer(tmp_path: Path, connect: Connect) -> None:
    def break_off(request: Request) -> None:
        while read_chunk(request):
            pass
        request.begin_chunks()
        request.chunk(json.dumps(LOADED).encode() + b"\r\n")
        request.close_connection = True

    with (
        fake_engine(tmp_path, {"POST /images/load": break_off}) as fake,
        pytest.raises(Unavailable),
    ):
        connect(fake.url).load("owner", ARCHIVE)


@pytest.mark.parametrize("size", [1, 4 << 20], ids=["while it answers", "while it reads"])
def test_an_engine_that_falls_silent(tmp_path: Path, connect: Connect, size: int) -> None:
    def stall(request: Request) -> None:
        if size == 1:
            while read_chunk(request):
                pass
            request.begin_chunks()
        fake.over.wait()

    with fake_engine(tmp_path, {"POST /images/load": stall}) as fake, pytest.raises(Unavailable):
        connect(fake.url, stream_timeout=1).load("owner", [bytes(size)] * 2)


def test_an_engine_that_is_slow_to_read_is_waited_for(tmp_path: Path, connect: Connect) -> None:
    """The time for connecting is shorter, and urllib3 would take it for that of sending."""

    def dawdle(request: Request) -> None:
        time.sleep(2)
        answer_of(LOADED)(request)

    answers = {
        "POST /images/load": dawdle,
        "GET /images/.*": lambda request: request.json(200, {"Id": "sha256:1"}),
    }
    with fake_engine(tmp_path, answers) as fake:
        engine = connect(fake.url, connect_timeout=1, stream_timeout=60)

        assert engine.load("owner", [bytes(4 << 20)] * 2) == "sha256:1"


def test_an_archive_passes_without_being_kept(tmp_path: Path, connect: Connect) -> None:
    answers = {
        "POST /images/load": answer_of(LOADED),
        "GET /images/.*": lambda request: request.json(200, {"Id": "sha256:1"}),
    }
    with fake_engine(tmp_path, answers) as fake:
        engine = connect(fake.url)
        tracemalloc.start()
        try:
            engine.load("owner", (bytes(CHUNK) for _ in range(1024)))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak < 100 * CHUNK


def test_the_last_chunk_waits_for_the_source_to_end(tmp_path: Path, connect: Connect) -> None:
    """An engine may load what is whole, though the request broke off behind it."""
    received: list[bytes] = []

    def listen(request: Request) -> None:
        with contextlib.suppress(ValueError, ConnectionError):
            while data := read_chunk(request):
                received.append(data)
        request.close_connection = True
        fake.left.set()

    def source() -> Iterator[bytes]:
        yield from ARCHIVE
        raise CorruptDownload("other bytes")

    with fake_engine(tmp_path, {"POST /images/load": listen}) as fake:
        with pytest.raises(CorruptDownload):
            connect(fake.url).load("owner", source())
        assert fake.left.wait(60)

    assert received == ARCHIVE[:-1]


def test_a_name_that_is_just_being_given(tmp_path: Path, connect: Connect) -> None:
    """The engine reserves it before there is a container, for a call nobody waits for any more."""
    answers = {
        "GET /containers/json": lambda request: request.json(200, []),
        "POST /containers/create": lambda request: request.json(409, {"message": "Conflict."}),
    }
    wanted = NewContainer("name")
    with fake_engine(tmp_path, answers) as fake:
        with pytest.raises(Unavailable, match="just being made"):
            connect(fake.url).create("owner", "sha256:1", wanted)
        holder = {"Id": "other", "Config": {"Labels": None}}
        fake.answers["GET /containers/name/json"] = lambda request: request.json(200, holder)
        with pytest.raises(NameTaken, match="'name' is in use by container other"):
            connect(fake.url).create("owner", "sha256:1", wanted)


@pytest.mark.parametrize(
    ("words", "raised"),
    [
        ("driver failed: Bind for 0.0.0.0:80 failed: port is already allocated", Refused),
        ("listen tcp4 0.0.0.0:80: bind: address already in use", Refused),
        ("OCI runtime create failed: unable to start: no space left on device", Unavailable),
        ("OCI runtime create failed: cannot allocate memory", Unavailable),
        ("something went wrong", Unavailable),
    ],
)
def test_what_the_engine_says_of_a_start(
    tmp_path: Path, connect: Connect, words: str, raised: type[TintypeError]
) -> None:
    answers = {"POST /containers/1/start": lambda request: request.json(500, {"message": words})}
    with fake_engine(tmp_path, answers) as fake:
        with pytest.raises(raised, match=words) as seen:
            connect(fake.url).start("1")

        assert type(seen.value) is raised
