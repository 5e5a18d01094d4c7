"""One layer made of all on real Docker Engines: nothing of the files or configuration is lost."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import secrets
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import docker.errors
import pytest
from docker import DockerClient
from docker.models.containers import Container

from tests.support.captures import content
from tests.support.docker import PATIENCE, Containers, ensure_busybox, load_layered, state_of
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.docker_squash import INSTANCE_LABEL, OWNER_LABEL
from tintype.core.engine import CaptureOptions, ContainerState
from tintype.core.errors import Invalid, PausedTooLong

PLAIN = CaptureOptions(pause=True)
SQUASH = CaptureOptions(pause=True, squash=True)

# What the fixture `connect` collects, and what the SDK leaves open while an engine is away.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CONFIG: dict[str, Any] = {
    "Env": ["PATH=/bin", "QUOTED=a \"b\" 'c' $D", "EMPTY="],
    "Cmd": ["sleep", "1000"],
    "Entrypoint": ["/bin/busybox"],
    "Labels": {"two": "a\nb", "é": "é"},
    "Healthcheck": {"Test": ["CMD", "/bin/true"], "Interval": 3_600_000_000_000, "Retries": 3},
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    "Volumes": {"/data": {}, "/with space": {}},
    "User": "0:0",
    "WorkingDir": "/srv/app",
    "StopSignal": "SIGUSR1",
}
"""Everything that an image says of its containers: `Shell` and `OnBuild` are for builds alone."""
CAPABILITY = "SCHILY.xattr.security.capability"
CAN_BIND = "\1\0\0\2\0\4" + "\0" * 14
"""The kernel's form of cap_net_bind_service=ep."""


@pytest.fixture(params=["engine_url", "newer_engine_url"])
def url(request: pytest.FixtureRequest) -> str:
    found = str(request.getfixturevalue(request.param))
    gc.collect()  # here, and not in somebody else's test
    return found


@pytest.fixture
def client(url: str) -> Iterator[DockerClient]:
    with contextlib.closing(DockerClient(url, timeout=PATIENCE)) as made:
        yield made


@pytest.fixture
def engine(url: str) -> Iterator[DockerEngine]:
    made = DockerEngine(url, instance=secrets.token_hex(4))
    yield made
    for owner in made.owners():
        made.discard(owner)
    assert not made.owners()
    made.close()


@pytest.fixture
def base(url: str, client: DockerClient) -> Iterator[str]:
    """Name of an image of two layers that says everything, for arm64 v8."""
    busybox = ensure_busybox(url)
    tag = f"tintype-test/squash-{secrets.token_hex(4)}:1"
    load_layered(client, busybox, tag, 2)
    layers = client.images.get(tag).attrs["RootFS"]["Layers"]
    document = {
        "architecture": "arm64",
        "variant": "v8",
        "os": "linux",
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": [{"created_by": "x"} for _ in layers],
    }
    client.images.load(without_layers(tag, document))
    yield tag
    client.images.remove(tag, force=True)


def without_layers(tag: str, document: Mapping[str, Any]) -> bytes:
    """Return an archive of an image whose layers the engine has."""
    config = json.dumps(document).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    paths = [f"{number}.tar" for number, _ in enumerate(document["rootfs"]["diff_ids"])]
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": paths}]
    return tar_of({name: config, "manifest.json": json.dumps(manifest).encode()})


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def containers(base: str, client: DockerClient, engine: DockerEngine) -> Iterator[Containers]:
    del engine  # an image in use would stay
    made = Containers(client, base)
    yield made
    made.clean()


def sole(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar}


def test_the_configuration_and_the_platform_are_kept(
    engine: DockerEngine, containers: Containers
) -> None:
    made = containers(command=None)
    owner = str(uuid.uuid4())
    changes = ["ONBUILD RUN true"]
    options = replace(SQUASH, author="A <a@example>", message="why\né", changes=changes)

    found = content(engine.capture(engine.inspect(str(made.id)), owner, options)).document

    labels = found["config"].pop("Labels")
    assert labels.pop("tintype.request_id") == owner
    assert labels.pop("tintype.instance")
    assert labels == CONFIG["Labels"]
    expected = {**CONFIG, "OnBuild": ["RUN true"], "Labels": None}
    assert {key: found["config"].get(key) for key in expected} == expected
    assert (found["architecture"], found["variant"], found["os"]) == ("arm64", "v8", "linux")
    assert (found["author"], found["comment"]) == ("A <a@example>", "why\né")
    assert found["history"][0]["comment"] == "why\né"


def test_every_kind_of_file_is_kept(engine: DockerEngine, containers: Containers) -> None:
    made = containers()
    odd = "a 'b' \"c\" \\ $d é \u200b\n-" + "x" * 150
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, settings in {
            "plain": {},
            "big-owner": {"uid": 2_000_000_000, "gid": 3_000_000},
            "setuid": {"mode": 0o4755},
            f"deep/{odd}": {},
            "capable": {},
            "link": {"type": tarfile.SYMTYPE, "linkname": "no where"},
            "hard": {"type": tarfile.LNKTYPE, "linkname": "plain"},
            "fifo": {"type": tarfile.FIFOTYPE},
        }.items():
            member = tarfile.TarInfo(name)
            for key, value in settings.items():
                setattr(member, key, value)
            if name == "capable":
                member.pax_headers[CAPABILITY] = CAN_BIND
            tar.addfile(member, io.BytesIO())
    assert made.put_archive("/srv", buffer.getvalue())
    code, output = made.exec_run(
        ["sh", "-c", "rm -r /etc/group /root /layer/1 && ln /bin/busybox /srv/hard-base"]
    )
    assert code == 0, output

    capture = engine.capture(engine.inspect(str(made.id)), str(uuid.uuid4()), SQUASH)
    [layer] = content(capture).layers
    found = sole(layer)

    assert found["srv/big-owner"].uid == 2_000_000_000
    assert found["srv/big-owner"].gid == 3_000_000
    assert found["srv/setuid"].mode & 0o7777 == 0o4755
    assert f"srv/deep/{odd}" in found
    assert found["srv/link"].linkname == "no where"
    assert {found["srv/hard"].type, found["srv/plain"].type} == {tarfile.REGTYPE, tarfile.LNKTYPE}
    assert {found["srv/hard-base"].type, found["bin/busybox"].type} >= {tarfile.LNKTYPE}
    assert found["srv/fifo"].isfifo()
    assert found["srv/capable"].pax_headers[CAPABILITY] == CAN_BIND
    assert {"etc/group", "root", "layer/1"}.isdisjoint(found)
    assert "etc/passwd" in found
    assert not [name for name in found if ".wh." in name]


def test_a_container_of_the_one_layer_runs(engine: DockerEngine, containers: Containers) -> None:
    made = containers(files={"/data/in-volume": b"x", "/kept": b"y"})
    capture = engine.capture(engine.inspect(str(made.id)), str(uuid.uuid4()), SQUASH)

    again = containers(image=capture.ref, command=["sleep", "1000"])

    assert again.exec_run(["sh", "-c", "cat /kept; ls /data; pwd"]).output == b"y/srv/app\n"


def test_what_a_crash_leaves_is_found_and_discarded(
    engine: DockerEngine, containers: Containers, client: DockerClient
) -> None:
    owner = str(uuid.uuid4())
    kept = engine.capture(engine.inspect(str(containers().id)), owner, PLAIN)
    repository = kept.ref.rpartition(":")[0]
    labels = {OWNER_LABEL: owner, INSTANCE_LABEL: repository}
    left = containers(ContainerState.OTHER, image=kept.ref, labels=labels)
    volumes = {mount["Name"] for mount in left.attrs["Mounts"]}
    other = containers(ContainerState.OTHER, labels={**labels, INSTANCE_LABEL: "another"})
    assert engine.owners() == {owner}
    assert not {left.id, other.id} & {each.engine_id for each in engine.containers()}

    engine.discard(owner)

    assert engine.owners() == frozenset()
    with pytest.raises(docker.errors.NotFound):
        left.reload()
    assert not volumes & {each.name for each in client.volumes.list()}
    other.reload()


def test_a_change_that_the_engine_refuses_names_the_field(
    engine: DockerEngine, containers: Containers
) -> None:
    made = containers()

    for change in ("EXPOSE 99999", "HEALTHCHECK SOMETIMES", "STOPSIGNAL NOT-ONE", "WORKDIR ${"):
        for options in (PLAIN, SQUASH):
            with pytest.raises(Invalid, match=r"^/changes: "):
                engine.capture(
                    engine.inspect(str(made.id)), "owner", replace(options, changes=[change])
                )

    assert engine.owners() == frozenset()
    assert state_of(made) == "running"


def test_a_frozen_container_of_too_many_layers_runs_again_in_time(
    engine: DockerEngine, containers: Containers, client: DockerClient, base: str
) -> None:
    tag = f"{base}-deep"
    load_layered(client, base, tag, 125)
    made = containers(image=tag)
    options = replace(PLAIN, max_pause_ms=1)
    try:
        with pytest.raises(PausedTooLong):
            engine.capture(engine.inspect(str(made.id)), "owner", options)
        assert state_of(made) == "running"
        assert engine.owners() == frozenset()
    finally:
        made.remove(force=True, v=True)
        client.images.remove(tag)


def test_a_squash_beside_others(engine: DockerEngine, containers: Containers) -> None:
    made = [containers(files={"/number": b"%d" % number}) for number in range(3)]

    def captured(each: Container) -> bytes:
        capture = engine.capture(engine.inspect(str(each.id)), str(uuid.uuid4()), SQUASH)
        return content(capture).files["/number"]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(captured, made)) == [b"0", b"1", b"2"]
