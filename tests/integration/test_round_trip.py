"""There and back: a container, its snapshot in each store, an empty engine, the container again.

One container is made with everything that a file system can hold, on an engine of the test's own.
Its snapshots go to all stores, as it is and in one layer; then the engine loses all that it has,
the base image too, and each snapshot is made a container again, whose files are compared with those
of the first.
"""

from __future__ import annotations

import io
import os
import secrets
import struct
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import Container

from tests.support.docker import PATIENCE, ensure_busybox
from tests.support.dockerd import Dockerd
from tests.support.openstack import everybody
from tests.support.registry import secure_registry
from tests.support.search import unpacked_members
from tests.support.trees import Tree, tree_of
from tests.support.work import work_through
from tintype.adapters.clock import SystemClock
from tintype.adapters.directory import DirectoryStore
from tintype.adapters.docker_engine import DockerEngine
from tintype.core.events import (
    COMMIT_REQUEST,
    RESTORE_END,
    RESTORE_REQUEST,
    SNAPSHOT_END,
    Event,
    Requester,
    derived_id,
)
from tintype.core.images import ImageStore
from tintype.core.ports import Services
from tintype.schemas import validate

STORES = ("glance", "registry", "directory")
# The SDK drops the sockets of its `exec_run` and leaves them to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

SECRET = f"hunter2-{secrets.token_hex(12)}"
BASE = "round-trip/base:1"
LOST = b"the engine's own commit drops attributes like this one"
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""cap_net_bind_service+ep as `security.capability` holds it (linux/capability.h, revision 2)."""

CHANGES = r"""
set -e
cd /work
echo mine > replaced
rm deleted
rm -r folder
mkdir folder && echo anew > folder/new
echo more >> appended
ln replaced hard && ln -s ../etc/passwd soft && ln -s /nowhere/at/all dangling
mkfifo pipe
mkdir -p deep/er/still && echo x > deep/er/still/file
mkdir empty sticky && chmod 1777 sticky
echo odd > 'new
line' && echo odd > ' blanks  ' && echo odd > "$(printf 'quote"\\back\tslash')"
echo odd > "$(printf 'latin\351')" && echo odd > -dash && echo odd > .wh-not-a-whiteout
echo set > setuid && chmod 4750 setuid
chown 4000000000:3999999999 setuid && chmod 4750 setuid
echo big > bigowner && chown 2147483649:65536 bigowner
dd if=/dev/zero of=sparse bs=1 count=1 seek=67108863 2> /dev/null
dd if=/dev/urandom of=random bs=1024 count=2048 2> /dev/null
touch -d '2001-02-03 04:05:06' old && touch -d '2033-05-18 03:33:20' future
: > nothing
"""
"""What the container does to its files; `/work` is in its base image, with other content."""


def base_of(busybox: bytes) -> bytes:
    """Return the base image's root: busybox, and files to be deleted and replaced."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(busybox)) as source,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            data = source.extractfile(member) if member.isreg() else None
            target.addfile(member, data)
        for path in ("work", "work/folder"):
            made = tarfile.TarInfo(path)
            made.type, made.mode = tarfile.DIRTYPE, 0o755
            target.addfile(made)
        for path in ("replaced", "deleted", "appended", "folder/old", "kept"):
            made = tarfile.TarInfo(f"work/{path}")
            made.size, made.mode, made.mtime = len(path), 0o640, 1_000_000_000
            target.addfile(made, io.BytesIO(path.encode()))
    return out.getvalue()


@dataclass(frozen=True)
class Taken:
    """The snapshots, and what the container was."""

    services: Services
    requester: Requester
    client: DockerClient
    tree: Tree
    config: Mapping[str, Any]
    image_ids: Mapping[tuple[str, bool], str]
    """(store, squashed) -> image id."""


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    """Make the container, snapshot it everywhere, and empty the engine."""
    cloud, registry = everybody(), secure_registry()
    folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))  # a socket's path must be short
    dockerd = Dockerd(folder / "a")
    stores: dict[str, ImageStore] = {
        "glance": cloud.store(),
        "registry": registry.store(),
        "directory": DirectoryStore(tmp_path_factory.mktemp("images")),
    }
    (folder / "a").mkdir()
    dockerd.start()
    try:
        engine = DockerEngine(dockerd.url, instance="roundtrip")
        client = DockerClient(dockerd.url, timeout=PATIENCE)
        project = Requester(cloud.project_id(cloud.alice), is_admin=True)
        services = Services(
            engine=engine,
            stores=stores,
            clock=SystemClock(),
            host="here",
            default_stores=("glance",),
        )
        web = make_container(client, dockerd.url)
        tree, config = tree_of(web.attrs["State"]["Pid"]), web.attrs["Config"]
        image_ids = {
            (name, squash): snapshot(services, project, web.id, name, squash=squash)
            for name in STORES
            for squash in (False, True)
        }
        engine.close()
        client.close()
        dockerd.stop()
        (folder / "a").mkdir()
        dockerd.start()
        assert client.images.list(all=True) == []
        yield Taken(services, project, client, tree, config, image_ids)
        for (name, _), image_id in image_ids.items():
            stores[name].discard(image_id)
        client.close()
        engine.close()
    finally:
        dockerd.stop()
        registry.close()
        cloud.clean()


def make_container(client: DockerClient, url: str) -> Container:
    """Return a running container that has changed its files in every way."""
    bare = client.containers.create(ensure_busybox(url), "/bin/true", network_mode="none")
    client.api.import_image_from_data(
        base_of(b"".join(bare.export())),
        repository="round-trip/base",
        tag="1",
        changes=['CMD ["/bin/busybox", "sleep", "1000"]', "ENV FROM_BASE=yes"],
    )
    bare.remove()
    web = client.containers.run(
        BASE,
        ["/bin/busybox", "sleep", "2000"],
        name="web",
        environment={"DB_PASSWORD": SECRET, "MODE": "production"},
        labels={"app": "web", "lines": "one\ntwo"},
        working_dir="/work",
        user="0:0",
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        network_mode="none",
        detach=True,
    )
    code, output = web.exec_run(["/bin/busybox", "sh", "-c", CHANGES])
    assert code == 0, output
    web.reload()
    work = Path(f"/proc/{web.attrs['State']['Pid']}/root/work")
    os.setxattr(work / "replaced", "security.capability", CAPABILITY)
    os.setxattr(work / "old", "user.note", LOST)
    return web


def snapshot(
    services: Services, requester: Requester, container: str, store: str, *, squash: bool
) -> str:
    """Take a snapshot without the secret; return the image's id."""
    payload = {
        "request_id": derived_id(SECRET, store, str(squash)),
        "container": container,
        "image_name": f"round-trip/{store}",
        "tag": "flat" if squash else "layers",
        "stores": [store],
        "squash": squash,
        "unset_env": ["DB_PASSWORD"],
    }
    assert validate(COMMIT_REQUEST, payload) == []
    *_, end = work_through(Event(COMMIT_REQUEST, payload, requester), services)
    assert end.type == SNAPSHOT_END
    assert validate(SNAPSHOT_END, end.payload) == []
    assert end.payload["scrubbed_env"] == ["DB_PASSWORD"]
    assert end.payload["squashed"] is squash
    assert len(end.payload["layers"]) == (1 if squash else 2)
    return str(end.payload["stores"][0]["image_id"])


def restored(taken: Taken, store: str, *, squash: bool) -> Container:
    """Make a container of a snapshot, and return it."""
    payload = {
        "request_id": derived_id(SECRET, "restore", store, str(squash)),
        "image_id": taken.image_ids[store, squash],
        "store": store,
        "name": f"again-{store}-{squash}".lower(),
    }
    assert validate(RESTORE_REQUEST, payload) == []
    *_, end = work_through(Event(RESTORE_REQUEST, payload, taken.requester), taken.services)
    assert end.type == RESTORE_END
    assert validate(RESTORE_END, end.payload) == []
    return taken.client.containers.get(end.payload["engine_container_id"])


@pytest.mark.parametrize("squash", [False, True], ids=["layers", "squashed"])
@pytest.mark.parametrize("store", STORES)
def test_the_container_comes_back_as_it_was(taken: Taken, store: str, squash: bool) -> None:
    again = restored(taken, store, squash=squash)
    try:
        tree = tree_of(again.attrs["State"]["Pid"])
        config = again.attrs["Config"]
        policy = again.attrs["HostConfig"]["RestartPolicy"]
    finally:
        again.remove(force=True)
        taken.services.engine.tidy(())
    assert tree.keys() == taken.tree.keys()
    differing = {path for path in tree if tree[path] != as_committed(taken.tree[path])}
    assert {path: (taken.tree[path], tree[path]) for path in differing} == {}
    kept = ("Cmd", "Entrypoint", "WorkingDir", "User")
    assert {name: config[name] for name in kept} == {name: taken.config[name] for name in kept}
    assert set(taken.config["Env"]) - set(config["Env"]) == {f"DB_PASSWORD={SECRET}"}
    assert taken.config["Labels"].items() <= config["Labels"].items()
    assert policy == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert taken.client.images.list(all=True) == []


def as_committed(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a commit keeps of a file: of its extended attributes capabilities alone.

    So it was measured on the Docker Engine 20.10 and 26.1, there with either store of images.
    """
    kept = {name: value for name, value in entry["xattrs"].items() if name.startswith("security.")}
    return {**entry, "xattrs": kept}


def test_the_engine_itself_drops_other_attributes(taken: Taken) -> None:
    assert taken.tree["work/old"]["xattrs"] == {"user.note": LOST}
    assert taken.tree["work/replaced"]["xattrs"] == {"security.capability": CAPABILITY}


@pytest.mark.parametrize("squash", [False, True], ids=["layers", "squashed"])
@pytest.mark.parametrize("store", STORES)
def test_the_secret_is_in_no_byte_of_the_image(taken: Taken, store: str, squash: bool) -> None:
    image_id = taken.image_ids[store, squash]
    with taken.services.store(store).download(image_id) as chunks:
        members = unpacked_members(b"".join(chunks))
    assert [name for name, data in members.items() if SECRET.encode() in data] == []
    assert any(b"MODE=production" in data for data in members.values())  # the search can find
