"""How every Engine makes containers of archives, run on the twin and on a real Docker Engine."""

from __future__ import annotations

import contextlib
import io
import secrets
import socket
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import docker.errors
import pytest
from docker import DockerClient

from tests import archives
from tests.support.docker import PATIENCE
from tests.support.image_archive import (
    SLEEP,
    Layout,
    digest_of,
    image_archive,
    layer,
    reconfigure,
)
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.memory_engine import MemoryEngine
from tintype.core.archive import ArchiveStream
from tintype.core.engine import (
    CaptureOptions,
    Container,
    ContainerState,
    Engine,
    EngineAction,
    NewContainer,
)
from tintype.core.errors import (
    CorruptDownload,
    Interrupted,
    NameTaken,
    NotFound,
    Refused,
    Unavailable,
)

CHUNK = 64 * 1024
OWNER_LABEL = "tintype.restore.request_id"
INSTANCE_LABEL = "tintype.restore.instance"
LAYOUTS: tuple[Layout, ...] = ("classic", "oci")


class World(Protocol):
    """An engine, and what others do to it."""

    network: str
    """A network on which ports can be published."""

    @property
    def engine(self) -> Engine:
        """The engine."""

    def has_image(self, digest: str) -> bool:
        """Whether the engine has an image, under whatever name."""

    def names(self, image: str) -> Sequence[str]:
        """Return an image's names."""

    def files(self, container: Container) -> dict[str, bytes]:
        """Return the files below /app in a container that may run or not."""

    def run(self, image: str) -> Container:
        """Let somebody else make a container from an image."""

    def commit(self, container: Container) -> str:
        """Let somebody else make an image of a container; return its digest."""

    def tag(self, image: str) -> None:
        """Let somebody else name an image."""

    def stop(self, container: Container) -> None:
        """Stop a container the hard way."""

    def rename(self, container: Container, name: str) -> None:
        """Give a container another name."""

    def remove(self, container: Container) -> None:
        """Remove a container."""

    def make_volume(self, labels: Mapping[str, str]) -> str:
        """Make a named volume and return its name."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder on the engine's host."""

    def environment(self, container: Container) -> Mapping[str, str]:
        """Return a container's environment variables."""


@dataclass
class MemoryWorld:
    """The twin."""

    twin: MemoryEngine = field(default_factory=MemoryEngine)
    network: str = "bridge"

    @property
    def engine(self) -> Engine:
        return self.twin

    def has_image(self, digest: str) -> bool:
        return digest in self.twin.restore.images

    def names(self, image: str) -> Sequence[str]:
        return [name for name, digest in self.twin.restore.tags.items() if digest == image]

    def files(self, container: Container) -> dict[str, bytes]:
        files = self.twin.by_id[container.engine_id].files
        return {path: data for path, data in files.items() if path.startswith("/app/")}

    def environment(self, container: Container) -> Mapping[str, str]:
        return self.twin.by_id[container.engine_id].env

    def run(self, image: str) -> Container:
        made = self.twin.add(f"test-{secrets.token_hex(6)}", image=image)
        base = self.twin.restore.images[image]
        described = replace(made, image_id=image, labels=base.labels)
        self.twin.by_id[made.engine_id].described = described
        return described

    def commit(self, container: Container) -> str:
        base = self.twin.restore.images[container.image_id]
        config = {**base.config, "Labels": container.labels}
        digest = f"sha256:{secrets.token_hex(32)}"
        self.twin.restore.images[digest] = replace(base, digest=digest, config=config)
        return digest

    def tag(self, image: str) -> None:
        self.twin.restore.tags[f"test:{secrets.token_hex(6)}"] = image

    def stop(self, container: Container) -> None:
        self.twin.stop(container.engine_id)

    def rename(self, container: Container, name: str) -> None:
        self.twin.rename(container.engine_id, name)

    def remove(self, container: Container) -> None:
        self.twin.remove(container.engine_id)

    def make_volume(self, labels: Mapping[str, str]) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self.twin.restore.volumes[name] = labels
        return name

    def make_folder(self, folder: Path) -> None:
        self.twin.restore.folders.add(str(folder))


@dataclass
class DockerWorld:
    """A real Docker Engine."""

    engine: Engine
    client: DockerClient
    network: str
    made: list[str] = field(default_factory=list)
    tagged: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)

    def has_image(self, digest: str) -> bool:
        with contextlib.suppress(docker.errors.ImageNotFound):
            self.client.images.get(digest)
            return True
        return False

    def names(self, image: str) -> Sequence[str]:
        return self.client.images.get(image).tags

    def files(self, container: Container) -> dict[str, bytes]:
        exported: Iterator[bytes] = self.client.api.export(container.engine_id)
        data = b"".join(exported)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {f"/{each.name}": content(tar, each) for each in tar if in_app(each)}

    def environment(self, container: Container) -> Mapping[str, str]:
        attrs = self.client.containers.get(container.engine_id).attrs
        return dict(each.split("=", 1) for each in attrs["Config"]["Env"])

    def run(self, image: str) -> Container:
        made = self.client.containers.run(image, detach=True, network_mode="none")
        self.made.append(str(made.id))
        return self.engine.inspect(str(made.id))

    def commit(self, container: Container) -> str:
        name = f"tintype-test/user-{secrets.token_hex(6)}"
        image = self.client.containers.get(container.engine_id).commit(name, "1")
        self.tagged.append(f"{name}:1")
        return str(image.id)

    def tag(self, image: str) -> None:
        name = f"tintype-test/user-{secrets.token_hex(6)}"
        assert self.client.images.get(image).tag(name, "1")
        self.tagged.append(f"{name}:1")

    def stop(self, container: Container) -> None:
        made = self.client.containers.get(container.engine_id)
        made.kill()
        made.wait(timeout=PATIENCE)

    def rename(self, container: Container, name: str) -> None:
        self.client.containers.get(container.engine_id).rename(name)

    def remove(self, container: Container) -> None:
        self.client.containers.get(container.engine_id).remove(force=True)

    def make_volume(self, labels: Mapping[str, str]) -> str:
        name = f"tintype-test-{secrets.token_hex(6)}"
        self.client.volumes.create(name, labels=dict(labels))
        self.volumes.append(name)
        return name

    def make_folder(self, folder: Path) -> None:
        folder.mkdir()

    def owners(self) -> list[str]:
        """Return the owners of the images that are there."""
        mine = self.engine.restored_ref("")
        images = self.client.api.images(mine.rstrip(":"))
        names = [name for image in images for name in image["RepoTags"] or ()]
        return [name.removeprefix(mine) for name in names if name.startswith(mine)]

    def clean(self) -> None:
        """Remove what others have made."""
        for made in self.made:
            with contextlib.suppress(docker.errors.NotFound):
                self.client.containers.get(made).remove(force=True, v=True)
        for name in self.tagged:
            self.client.images.remove(name)
        for name in self.volumes:
            self.client.volumes.get(name).remove()


def in_app(member: tarfile.TarInfo) -> bool:
    return member.name.startswith("app/") and (member.isfile() or member.islnk())


def content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


@pytest.fixture
def network(docker_client: DockerClient) -> Iterator[str]:
    """A network on the real engine, which may have none to publish ports on."""
    made = docker_client.networks.create(f"tintype-test-{secrets.token_hex(4)}")
    yield str(made.name)
    made.remove()


@pytest.fixture
def docker_world(
    docker_client: DockerClient, docker_engine: DockerEngine, network: str
) -> Iterator[DockerWorld]:
    world = DockerWorld(docker_engine, docker_client, network)
    yield world
    world.clean()
    for owner in world.owners():
        docker_engine.withdraw(owner)
    while world.owners():  # an image made from another's container lies over that one's image
        docker_engine.tidy(())


@pytest.fixture(params=["memory", "docker"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        return MemoryWorld()
    world: DockerWorld = request.getfixturevalue("docker_world")
    return world


def new_owner() -> str:
    return str(uuid.uuid4())


def new_name() -> str:
    return f"tintype-test-{secrets.token_hex(6)}"


def chunks(data: bytes) -> Iterator[bytes]:
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))


def load(
    world: World, owner: str, layers: Sequence[bytes] = (), config: Mapping[str, Any] | None = None
) -> str:
    """Load an image of its own for the owner; return its digest."""
    archive = image_archive(world.engine.restored_ref(owner), layers, config)
    return world.engine.load(owner, chunks(archive.to_bytes()))


def create(world: World, owner: str, **wanted: Any) -> Container:
    """Make a container from an image of its own for the owner, not started."""
    wanted = {"name": new_name(), "network": "none", **wanted}
    return world.engine.create(owner, load(world, owner), NewContainer(**wanted))


# load


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_loaded_image_is_known_by_the_digest_of_its_configuration(
    world: World, layout: Layout
) -> None:
    owner = new_owner()
    archive = image_archive(world.engine.restored_ref(owner), layout=layout)

    loaded = world.engine.load(owner, chunks(archive.to_bytes()))

    assert loaded == digest_of(archive)
    assert world.has_image(loaded)


def test_the_same_image_is_loaded_again(world: World) -> None:
    owner, other = new_owner(), new_owner()
    archive = image_archive(world.engine.restored_ref(owner)).to_bytes()
    first = world.engine.load(owner, chunks(archive))

    assert world.engine.load(owner, chunks(archive)) == first
    # And for somebody else, whose name it has then, too.
    renamed = archive.replace(owner.encode(), other.encode())
    assert world.engine.load(other, chunks(renamed)) == first
    world.engine.withdraw(owner)
    assert world.has_image(first)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layers_lie_over_each_other(world: World, layout: Layout) -> None:
    layers = [
        layer(
            {"app/": b"", "app/kept": b"1", "app/changed": b"1", "app/removed": b"1"},
            {"app/link": "app/removed"},
        ),
        layer(
            {"app/folder/": b"", "app/folder/old": b"1", "app/gone/": b"", "app/gone/file": b"1"}
        ),
        layer({"app/changed": b"2", "app/.wh.removed": b"", "app/.wh.gone": b""}),
        layer({"app/folder/.wh..wh..opq": b"", "app/folder/new": b"3"}),
    ]
    owner = new_owner()
    archive = image_archive(world.engine.restored_ref(owner), layers, layout=layout)
    image = world.engine.load(owner, chunks(archive.to_bytes()))

    made = world.engine.create(owner, image, NewContainer(new_name(), network="none"))

    assert world.files(made) == {
        "/app/kept": b"1",
        "/app/changed": b"2",
        "/app/folder/new": b"3",
        "/app/link": b"1",
    }


def test_a_layer_that_comes_twice_is_there_twice(world: World) -> None:
    first, second = layer({"app/file": b"1"}), layer({"app/file": b"2"})
    owner = new_owner()
    image = load(world, owner, [first, second, first])

    made = world.engine.create(owner, image, NewContainer(new_name(), network="none"))

    assert world.files(made) == {"/app/file": b"1"}


def test_an_archive_of_another_name_is_refused(world: World) -> None:
    owner, other = new_owner(), new_owner()
    archive = image_archive(world.engine.restored_ref(other))

    with pytest.raises(Refused, match=other):
        world.engine.load(owner, chunks(archive.to_bytes()))


def truncated(archive: archives.Archive) -> bytes:
    data = archive.to_bytes()
    return data[: len(data) // 2]


def damaged_in_the_middle(archive: archives.Archive) -> bytes:
    data = archive.to_bytes()
    middle = archive.to_bytes().index(archive.item(archive.layers[-1]).data) - archives.BLOCK
    return data[:middle] + b"\xff" * CHUNK + data[middle + CHUNK :]


def with_another_layer(archive: archives.Archive) -> bytes:
    item = archive.item(archive.layers[-1])
    assert b"hello" in item.data
    item.data = item.data.replace(b"hello", b"HELLO")
    return archive.to_bytes()


def without_a_layer(archive: archives.Archive) -> bytes:
    archive.drop(archive.layers[-1])
    return archive.to_bytes()


def without_configuration(archive: archives.Archive) -> bytes:
    archive.drop(archive.config)
    return archive.to_bytes()


def with_a_layer_too_few(archive: archives.Archive) -> bytes:
    document = archive.document(archive.config)
    document["rootfs"]["diff_ids"].pop()
    reconfigure(archive, document)
    return archive.to_bytes()


# One without manifest.json is not among them: the Docker Engine takes it for an archive of the time
# before 1.10 and leaves what it finds in it. `tintype.core.archive` lets none through.
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        damaged_in_the_middle,
        with_another_layer,
        without_a_layer,
        without_configuration,
        with_a_layer_too_few,
        lambda _archive: b"no archive at all" * 100,
        lambda _archive: b"",
    ],
)
def test_a_damaged_archive_is_refused(
    world: World, layout: Layout, damage: Callable[[archives.Archive], bytes]
) -> None:
    owner = new_owner()
    reference = world.engine.restored_ref(owner)
    archive = image_archive(reference, [layer({"app/file": b"hello"})], layout=layout)
    data = damage(archive)

    with pytest.raises(Refused) as refused:
        world.engine.load(owner, chunks(data))

    assert str(refused.value)
    assert not world.has_image(digest_of(archive))


FAILURES = (
    CorruptDownload("other bytes"),
    Interrupted("stopping"),
    BrokenPipeError("of the store"),
    TimeoutError("of the store"),
)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("after", [0, 1, 5, None], ids=["first", "second", "later", "last"])
def test_what_the_source_raises_comes_out_and_leaves_no_image(
    world: World, failure: BaseException, after: int | None
) -> None:
    owner = new_owner()
    archive = image_archive(world.engine.restored_ref(owner))
    pieces = list(chunks(archive.to_bytes()))

    def source() -> Iterator[bytes]:
        yield from pieces[:after]
        raise failure

    with pytest.raises(type(failure)) as raised:
        world.engine.load(owner, source())

    assert raised.value is failure
    assert load(world, owner)  # by then the engine has done with the one that broke off
    assert not world.has_image(digest_of(archive))


# create


def test_a_container_is_made_and_not_started(world: World) -> None:
    owner, name = new_owner(), new_name()
    image = load(world, owner, config={"WorkingDir": "/bin", "User": "guest", "Env": ["A=1"]})

    made = world.engine.create(owner, image, NewContainer(name, network="none"))

    assert made == world.engine.inspect(name)
    assert made.state is ContainerState.OTHER
    assert (made.name, made.uuid, made.image, made.image_id) == (name, made.engine_id, image, image)
    assert made.env_names == ("A",)
    assert made.volumes == ()
    assert made.config == {
        "command": SLEEP,
        "entrypoint": None,
        "working_dir": "/bin",
        "user": "guest",
        "exposed_ports": [],
        "published_ports": {},
        "restart_policy": {"name": "no", "maximum_retry_count": 0},
    }


def test_what_is_wanted_goes_over_what_the_image_has(world: World) -> None:
    owner = new_owner()
    config = {
        "Entrypoint": ["/bin/sh"],
        "Env": ["A=1", "B=2"],
        "WorkingDir": "/bin",
        "User": "guest",
        "Labels": {"a": "1", "b": "2"},
        "ExposedPorts": {"80/tcp": {}},
    }
    wanted = NewContainer(
        new_name(),
        command=["sleep", "999"],
        entrypoint=["/bin/busybox"],
        env={"B": "3", "C": "x=y z"},
        working_dir="/etc",
        user="root",
        labels={"b": "3", "c": "x=y z"},
        ports={"81/tcp": "127.0.0.1:", "82/udp": "127.0.0.1:8082", "83/tcp": "[::1]:8083"},
        restart_policy="on-failure:3",
        network="none",
    )

    made = world.engine.create(owner, load(world, owner, config=config), wanted)

    assert made.config == {
        "command": ["sleep", "999"],
        "entrypoint": ["/bin/busybox"],
        "working_dir": "/etc",
        "user": "root",
        "exposed_ports": ["80/tcp", "81/tcp", "82/udp", "83/tcp"],
        "published_ports": wanted.ports,
        "restart_policy": {"name": "on-failure", "maximum_retry_count": 3},
    }
    assert world.environment(made) == {"A": "1", "B": "3", "C": "x=y z"}
    ours = {OWNER_LABEL: owner, INSTANCE_LABEL: made.labels[INSTANCE_LABEL]}
    assert made.labels == {"a": "1", "b": "3", "c": "x=y z", **ours}
    world.engine.start(made.engine_id)
    assert world.engine.inspect(made.name).state is ContainerState.RUNNING


@pytest.mark.parametrize(
    ("wanted", "command", "entrypoint"),
    [
        ({}, ["sleep", "1000"], ["/bin/busybox"]),
        ({"command": ["sleep", "5"]}, ["sleep", "5"], ["/bin/busybox"]),
        ({"command": []}, ["sleep", "1000"], ["/bin/busybox"]),
        ({"entrypoint": ["/bin/busybox", "env"]}, None, ["/bin/busybox", "env"]),
        ({"entrypoint": []}, ["sleep", "1000"], []),
        ({"command": ["/bin/busybox", "env"], "entrypoint": []}, ["/bin/busybox", "env"], []),
    ],
)
def test_command_and_entrypoint(
    world: World,
    wanted: Mapping[str, Any],
    command: Sequence[str] | None,
    entrypoint: Sequence[str] | None,
) -> None:
    owner = new_owner()
    image = load(world, owner, config={"Cmd": ["sleep", "1000"], "Entrypoint": ["/bin/busybox"]})

    made = world.engine.create(owner, image, NewContainer(new_name(), network="none", **wanted))

    assert (made.config["command"], made.config["entrypoint"]) == (command, entrypoint)


def test_an_image_without_command_needs_one(world: World) -> None:
    owner = new_owner()
    image = load(world, owner, config={"Cmd": None})
    plain = NewContainer(new_name(), network="none")

    with pytest.raises(Refused, match=r"(?i)no command"):
        world.engine.create(owner, image, plain)

    assert world.engine.create(owner, image, replace(plain, command=SLEEP)).config["command"]


@pytest.mark.parametrize("policy", ["no", "always", "unless-stopped", "on-failure"])
def test_restart_policies(world: World, policy: str) -> None:
    made = create(world, new_owner(), restart_policy=policy)

    assert made.config["restart_policy"] == {"name": policy, "maximum_retry_count": 0}


@pytest.mark.parametrize(
    "wanted",
    [
        {"restart_policy": "sometimes"},
        {"restart_policy": "on-failure:often"},
        {"restart_policy": "always:3"},
        {"name": "no name"},
        {"name": "../x"},
        {"name": "x"},
        {"volumes": {"/data": "/no/such/folder"}},
        {"volumes": {"/data": "no such volume"}},
        {"volumes": {"data": "a-volume"}},
    ],
    ids=str,
)
def test_what_the_engine_does_not_take_is_refused(world: World, wanted: Mapping[str, Any]) -> None:
    owner = new_owner()

    with pytest.raises(Refused) as refused:
        create(world, owner, **wanted)

    assert type(refused.value) is Refused
    assert world.engine.restored(owner) is None
    assert not Path("/no/such/folder").exists()


def test_what_is_no_more_is_not_found(world: World) -> None:
    owner = new_owner()
    image = load(world, owner)
    wanted = NewContainer(new_name(), network="none")

    with pytest.raises(NotFound, match=r"(?i)no such image"):
        world.engine.create(owner, f"sha256:{'0' * 64}", wanted)
    with pytest.raises(NotFound, match="network"):
        world.engine.create(owner, image, replace(wanted, network="no-such-network"))
    assert world.engine.restored(owner) is None


def test_a_container_is_made_once(world: World) -> None:
    owner = new_owner()
    made = create(world, owner)

    again = NewContainer(new_name(), network="none")
    assert world.engine.create(owner, made.image_id, again) == made
    assert world.engine.create(owner, made.image_id, replace(again, name=made.name)) == made
    assert world.engine.restored(owner) == made
    world.engine.start(made.engine_id)
    world.rename(made, new_name())

    renamed = world.engine.create(owner, made.image_id, replace(again, name=made.name))

    assert renamed.engine_id == made.engine_id
    assert renamed == world.engine.restored(owner)


def test_a_container_is_made_once_by_many(world: World) -> None:
    owner = new_owner()
    image = load(world, owner)
    wanted = NewContainer(new_name(), network="none")

    def attempt(_number: int) -> str | None:
        try:
            return world.engine.create(owner, image, wanted).engine_id
        except Unavailable:  # the name is given, and the container not yet there
            return None

    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(attempt, range(4)))

    found = world.engine.restored(owner)
    assert found is not None
    assert made - {None} == {found.engine_id}


def test_a_name_that_another_container_has(world: World) -> None:
    taken = create(world, new_owner())
    owner = new_owner()

    with pytest.raises(NameTaken, match=taken.name):
        create(world, owner, name=taken.name)

    assert world.engine.restored(owner) is None


def test_volumes(world: World, tmp_path: Path) -> None:
    world.make_folder(tmp_path / "folder")
    volume = world.make_volume({})
    owner = new_owner()
    image = load(world, owner, config={"Volumes": {"/from-image": {}, "/named": {}}})
    volumes = {"/named": volume, "/folder": str(tmp_path / "folder")}

    made = world.engine.create(owner, image, NewContainer(new_name(), volumes=volumes))

    assert made.volumes == ("/folder", "/from-image", "/named")
    world.engine.withdraw(owner)
    assert world.engine.volume_labels(volume) == {}
    assert (tmp_path / "folder").exists() or isinstance(world, MemoryWorld)


def test_the_labels_of_a_volume(world: World) -> None:
    labels = {"owner": "somebody", "empty": ""}

    assert world.engine.volume_labels(world.make_volume(labels)) == labels
    assert world.engine.volume_labels(world.make_volume({})) == {}
    for nothing in ("no-such-volume", "../images", "", "/"):
        assert world.engine.volume_labels(nothing) is None


# start


def test_started_it_runs_and_that_again_is_fine(world: World) -> None:
    made = create(world, new_owner())
    with world.engine.watch(0, 0.1) as events:
        since = max((each.at for each in events), default=0) + 1

    world.engine.start(made.engine_id)
    world.engine.start(made.engine_id)

    assert world.engine.inspect(made.name).state is ContainerState.RUNNING
    with world.engine.watch(since, 0.1) as events:
        seen = [each for each in events if each.engine_id == made.engine_id]
    assert [each.action for each in seen] == [EngineAction.START]


def test_what_happens_to_a_restored_container_is_told(world: World) -> None:
    since = time.time_ns()
    owner = new_owner()
    made = create(world, owner)

    world.engine.start(made.engine_id)
    world.engine.withdraw(owner)

    with world.engine.watch(since, 0.5) as events:
        seen = [each for each in events if each.engine_id == made.engine_id]
    assert [each.action for each in seen] == [
        EngineAction.CREATE,
        EngineAction.START,
        EngineAction.DIE,
        EngineAction.DESTROY,
    ]
    assert {each.labels[OWNER_LABEL] for each in seen} == {owner}


def test_starting_what_is_no_more(world: World) -> None:
    made = create(world, new_owner())
    world.remove(made)

    with pytest.raises(NotFound):
        world.engine.start(made.engine_id)


def test_a_port_that_another_container_has(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ports = {"80/tcp": f"127.0.0.1:{port}", "81/tcp": ""}
    first = create(world, new_owner(), ports=ports, network=world.network)
    second = create(world, new_owner(), ports=ports, network=world.network)
    world.engine.start(first.engine_id)

    with pytest.raises(Refused, match="already allocated"):
        world.engine.start(second.engine_id)

    world.stop(first)
    world.engine.start(second.engine_id)
    assert world.engine.inspect(second.name).state is ContainerState.RUNNING


# withdraw


@pytest.mark.parametrize("start", [False, True])
def test_nothing_is_left_of_what_is_withdrawn(world: World, *, start: bool) -> None:
    owner = new_owner()
    made = create(world, owner)
    if start:
        world.engine.start(made.engine_id)

    world.engine.withdraw(owner)
    world.engine.withdraw(owner)

    assert world.engine.restored(owner) is None
    assert not world.has_image(made.image_id)
    with pytest.raises(NotFound):
        world.engine.inspect(made.name)


def test_an_image_is_withdrawn_before_its_container_was_made(world: World) -> None:
    owner = new_owner()
    image = load(world, owner)

    world.engine.withdraw(owner)

    assert not world.has_image(image)


def test_nothing_of_another_owner_is_withdrawn(world: World) -> None:
    owner = new_owner()
    others = [create(world, f"{owner}0"), create(world, owner[:-1]), create(world, new_owner())]
    labels = others[0].labels
    lookalike = create(world, new_owner(), labels={"x": f"{OWNER_LABEL}={owner}"})
    create(world, owner)

    world.engine.withdraw(owner)

    assert world.engine.restored(owner) is None
    for each in (*others, lookalike):
        assert world.engine.inspect(each.engine_id) == each
        assert world.has_image(each.image_id)
    assert world.engine.restored(f"{owner}0") == others[0]
    assert labels == others[0].labels


def test_nothing_made_by_others_from_a_restored_container_is_withdrawn(world: World) -> None:
    """The labels of a container go into an image that is committed, and from there on."""
    owner = new_owner()
    made = create(world, owner)
    copy = world.run(world.commit(made))
    assert copy.labels[OWNER_LABEL] == owner

    assert world.engine.restored(owner) == made
    world.engine.withdraw(owner)

    assert world.engine.restored(owner) is None
    assert world.engine.inspect(copy.engine_id).state is ContainerState.RUNNING


def test_an_image_cannot_make_its_container_look_like_a_captures(world: World) -> None:
    """Those are not told of, and removed when nobody needs them."""
    owner = new_owner()
    labels = {"tintype.capture.owner": owner, "tintype.capture.instance": "x", "tier": "web"}
    image = load(world, owner, config={"Labels": labels})
    made = world.engine.create(owner, image, NewContainer(new_name(), network="none"))
    assert made.labels["tintype.capture.owner"] == made.labels["tintype.capture.instance"] == ""
    assert made.labels["tier"] == "web"
    bare = create(world, new_owner())
    assert not [name for name in bare.labels if name.startswith("tintype.capture.")]


def test_an_image_from_which_others_made_a_container_is_not_withdrawn(world: World) -> None:
    owner = new_owner()
    image = load(world, owner)
    others = world.run(image)

    world.engine.withdraw(owner)
    world.engine.tidy(())

    assert world.has_image(image)
    world.remove(others)
    world.engine.tidy(())
    assert not world.has_image(image)


def test_an_image_that_others_named_only_loses_our_name(world: World) -> None:
    owner = new_owner()
    image = load(world, owner)
    world.tag(image)

    world.engine.withdraw(owner)

    assert world.has_image(image)
    assert world.engine.restored_ref(owner) not in world.names(image)
    world.engine.withdraw(owner)
    assert len(world.names(image)) == 1


def test_a_restored_container_is_captured_and_restored_again(world: World) -> None:
    first, second = new_owner(), new_owner()
    image = load(world, first, [layer({"app/": b"", "app/file": b"1"})], {"Env": ["A=1"]})
    wanted = NewContainer(new_name(), network="none", env={"B": "2"})
    original = world.engine.create(first, image, wanted)
    world.engine.start(original.engine_id)
    capture = world.engine.capture(original, first, CaptureOptions(pause=True))
    with capture.read() as data:
        stream = ArchiveStream(data, world.engine.restored_ref(second))
        image = world.engine.load(second, stream)
    world.engine.discard(first)

    copy = world.engine.create(second, image, NewContainer(new_name(), network="none"))

    assert image == stream.summary.config_digest
    assert world.files(copy) == {"/app/file": b"1"}
    assert world.environment(copy) == {"A": "1", "B": "2"}
    world.engine.withdraw(first)
    assert world.engine.restored(first) is None
    assert world.engine.restored(second) == copy


# tidy


def test_images_that_nothing_uses_are_tidied_away(world: World) -> None:
    used, live, unused = new_owner(), new_owner(), new_owner()
    made = create(world, used)
    images = {owner: load(world, owner) for owner in (live, unused)}

    world.engine.tidy([live])

    assert world.has_image(made.image_id)
    assert world.has_image(images[live])
    assert not world.has_image(images[unused])
    assert world.engine.inspect(made.name) == made
    world.engine.start(made.engine_id)
    world.stop(made)
    world.engine.tidy([])
    assert world.has_image(made.image_id)
    assert not world.has_image(images[live])
    world.remove(made)
    world.engine.tidy([])
    assert not world.has_image(made.image_id)


def test_tidying_leaves_an_image_to_those_who_named_it(world: World) -> None:
    owner = new_owner()
    image = load(world, owner)
    world.tag(image)

    world.engine.tidy(())

    assert len(world.names(image)) == 1
    assert world.engine.restored_ref(owner) not in world.names(image)
