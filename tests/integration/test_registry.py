"""The registry store with real registries and a real engine: what others make of our images."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import docker.errors
import pytest
import requests
from docker import DockerClient

from tests.archives import classic, layer
from tests.support.docker import Containers
from tests.support.registry import (
    RealRegistry,
    named,
    pieces,
    plain_registry,
    secure_registry,
    small_archive,
    spec,
)
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.registry import RegistryStore
from tintype.adapters.registry_access import Place
from tintype.core.archive import ArchiveStream
from tintype.core.errors import NotFound, Refused, Unavailable
from tintype.core.images import ImageStatus

FILES = {"/etc/kept": b"kept\n" * 1000, "/noise": secrets.token_bytes(300_000)}


@pytest.fixture(params=[plain_registry, secure_registry], ids=["plain", "secure"])
def real(request: pytest.FixtureRequest) -> Iterator[RealRegistry]:
    """Each registry in turn."""
    found: RealRegistry = request.param()
    yield found
    found.close()


@pytest.fixture
def snapshot(docker_client: DockerClient, container: Containers) -> Iterator[str]:
    """The reference of an image on the engine, committed from a container with files."""
    made = container(files=FILES)
    name, tag = f"tintype-test/{secrets.token_hex(4)}", "v1"
    made.commit(name, tag)
    yield f"{name}:{tag}"
    with suppress(docker.errors.ImageNotFound):
        docker_client.images.remove(f"{name}:{tag}", force=True)


def saved(client: DockerClient, reference: str) -> ArchiveStream:
    """Return an image's archive as a snapshot sends it."""
    return ArchiveStream(client.images.get(reference).save(named=reference), reference)


def stored(client: DockerClient, store: RegistryStore, reference: str) -> str:
    """Push an image and return its id in the store."""
    image, archive = store.reserve(spec()), saved(client, reference)
    store.upload(image.id, archive)
    store.complete(image.id, archive.summary, {})
    store.publish(image.id)
    return image.id


def test_an_engine_pulls_what_was_pushed(
    docker_client: DockerClient, real: RealRegistry, snapshot: str
) -> None:
    whole = real.store()
    repository = whole.repository_for("team/web", None)
    store = whole.at(repository)
    image = docker_client.images.get(snapshot)
    image_id = stored(docker_client, store, snapshot)
    digest = store.describe(image_id).digest
    docker_client.images.remove(snapshot, force=True)
    with pytest.raises(docker.errors.ImageNotFound):
        docker_client.images.get(image.id)
    password = {"username": real.access.username, "password": real.access.password}
    pulled = docker_client.images.pull(
        repository, tag="v1", auth_config=password if real.access.username else None
    )
    try:
        assert pulled.id == image.id
        assert pulled.attrs["RepoDigests"] == [f"{repository}@{digest}"]
        assert pulled.attrs["Config"] == image.attrs["Config"]
        output = docker_client.containers.run(
            pulled.id,
            ["/bin/busybox", "sha256sum", *FILES],
            remove=True,
            network_mode="none",
        )
        assert [line.split()[1] for line in output.decode().splitlines()] == list(FILES)
    finally:
        docker_client.images.remove(f"{repository}:v1", force=True)
    store.discard(image_id)


def test_what_comes_down_can_be_loaded(
    docker_client: DockerClient, docker_engine: DockerEngine, real: RealRegistry, snapshot: str
) -> None:
    del docker_engine
    whole = real.store()
    store = whole.at(whole.repository_for("web", None))
    image = docker_client.images.get(snapshot)
    image_id = stored(docker_client, store, snapshot)
    docker_client.images.remove(snapshot, force=True)
    with store.download(image_id) as chunks:
        (loaded,) = docker_client.images.load(chunks)
    assert loaded.id == image.id
    assert snapshot in loaded.tags
    store.discard(image_id)


def test_an_image_that_an_engine_pushed_can_be_loaded(
    docker_client: DockerClient, registry: RealRegistry, snapshot: str
) -> None:
    whole = registry.store()
    repository = whole.repository_for("theirs", None)
    image = docker_client.images.get(snapshot)
    image.tag(repository, "stable")
    lines = list(docker_client.images.push(repository, "stable", stream=True, decode=True))
    (pushed,) = [line["aux"]["Digest"] for line in lines if "aux" in line]
    store = whole.at(repository)
    assert store.describe("stable").digest == pushed
    with store.download(pushed) as chunks:
        archive, summary = named(b"".join(chunks), f"{snapshot}-again")
    assert summary.config_digest == image.id
    for reference in (snapshot, f"{repository}:stable"):
        docker_client.images.remove(reference, force=True)
    (loaded,) = docker_client.images.load(archive)
    assert loaded.id == image.id
    docker_client.images.remove(f"{snapshot}-again", force=True)


def test_the_layers_of_a_base_image_are_sent_once(
    docker_client: DockerClient, registry: RealRegistry, container: Containers, snapshot: str
) -> None:
    whole = registry.store()
    store = whole.at(whole.repository_for("web", None))
    made = container(files={"/other": b"other"})
    other = f"tintype-test/{secrets.token_hex(4)}"
    made.commit(other, "v1")
    try:
        first = stored(docker_client, store, snapshot)
        second = stored(docker_client, store, f"{other}:v1")
    finally:
        docker_client.images.remove(f"{other}:v1", force=True)
    base, *_ = layers_of(registry, store, first)
    assert layers_of(registry, store, second)[0] == base
    with store.download(second) as chunks:
        assert named(b"".join(chunks), f"{other}:v1")[1].layers


def layers_of(registry: RealRegistry, store: RegistryStore, image_id: str) -> list[str]:
    """Return the digests of an image's layers as the registry has them."""
    described = store.describe(image_id)
    path = (described.repository or "").partition("/")[2]
    answer = requests.get(
        f"http://{registry.domain}/v2/{path}/manifests/{described.digest}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        timeout=30,
    )
    return [one["digest"] for one in answer.json()["layers"]]


# Credentials and certificates


def test_a_wrong_password_is_refused_and_not_shown(locked_registry: RealRegistry) -> None:
    whole = locked_registry.store(password="not-the-password")
    with pytest.raises(Refused, match="does not accept Tintype's credentials") as raised:
        whole.at(whole.repository_for("web", None)).reserve(spec())
    assert "not-the-password" not in str(raised.value)
    with pytest.raises(Unavailable, match="credentials"):
        whole.check()


def test_no_password_is_refused_with_what_to_configure(
    locked_registry: RealRegistry, tmp_path: Path
) -> None:
    whole = locked_registry.store(username=None, docker_config=str(tmp_path))
    with pytest.raises(Refused, match=r"\[registry\] username"):
        whole.at(whole.repository_for("web", None)).reserve(spec())


def test_a_docker_login_is_enough(locked_registry: RealRegistry, tmp_path: Path) -> None:
    user, password = locked_registry.access.username, locked_registry.access.password
    login = requests.models.Request("GET", "http://x", auth=(user, password)).prepare()
    header = login.headers["Authorization"].removeprefix("Basic ")
    auths = {locked_registry.domain: {"auth": header}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    whole = locked_registry.store(username=None, password=None, docker_config=str(tmp_path))
    whole.check()
    store = whole.at(whole.repository_for("web", None))
    image = store.reserve(spec())
    assert [found.id for found in store.find("alpha", {}, statuses=[ImageStatus.QUEUED])] == [
        image.id
    ]
    store.discard(image.id)


def test_a_certificate_of_nobody_known_is_not_believed(locked_registry: RealRegistry) -> None:
    with pytest.raises(Unavailable, match=r"no trusted TLS.*\[registry\] cafile"):
        locked_registry.store(cafile=None).check()


def test_an_authority_that_the_system_knows_is_believed(
    locked_registry: RealRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locked_registry.access.cafile is not None
    monkeypatch.setenv("SSL_CERT_FILE", locked_registry.access.cafile)
    locked_registry.store(cafile=None).check()


def test_a_certificate_is_not_looked_at_where_the_operator_says_so(
    locked_registry: RealRegistry,
) -> None:
    whole = locked_registry.store(cafile=None, insecure=frozenset({locked_registry.domain}))
    whole.check()


def test_a_registry_off_loopback_is_not_asked_without_tls(registry: RealRegistry) -> None:
    """It has no TLS; by another name than loopback's it is none to talk to."""
    port = registry.domain.rpartition(":")[2]
    name = f"registry.localhost.example.invalid:{port}"
    whole = registry.store(home=Place(name, "snaps"))
    with pytest.raises(Unavailable, match="reached"):
        whole.check()


# Registries that are less able


@pytest.fixture
def undeleting(tmp_path: Path) -> Iterator[str]:
    """A registry of this test's own that deletes nothing."""
    port = free_port()
    configuration = tmp_path / "config.yml"
    configuration.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(configuration)], stdout=log, stderr=log
        )
    try:
        yield await_answer(f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_answer(domain: str) -> str:
    """Wait until a registry answers, and return its name."""
    deadline = time.monotonic() + 30
    while True:
        try:
            requests.get(f"http://{domain}/v2/", timeout=5).raise_for_status()
        except requests.ConnectionError:
            assert time.monotonic() < deadline, "the registry does not serve"
            time.sleep(0.05)
        else:
            return domain


def test_a_registry_that_deletes_nothing_keeps_images_and_says_so(
    registry: RealRegistry, undeleting: str
) -> None:
    whole = RegistryStore(replace(registry.access, home=Place(undeleting, "snaps")))
    store = whole.at(whole.repository_for("web", None))
    data, sent = small_archive(b"content")
    image = store.reserve(spec())
    store.upload(image.id, pieces(data))
    store.complete(image.id, sent, {"a": "b"})
    with pytest.raises(Refused, match=r"storage\.delete\.enabled"):
        store.discard(image.id)
    with store.download(image.id) as chunks:
        assert b"".join(chunks) == data
    whole.close()


def test_an_image_of_many_layers_fits_into_its_manifest(registry: RealRegistry) -> None:
    """125 layers are the most that an engine makes."""
    layers = [layer({f"file-{number}": secrets.token_bytes(70_000)}) for number in range(125)]
    data, sent = named(classic(layers).to_bytes())
    whole = registry.store()
    store = whole.at(whole.repository_for("web", None))
    image = store.reserve(spec())
    store.upload(image.id, pieces(data, 500_000))
    done = store.complete(image.id, sent, {})
    assert done.sha512 == sent.sha512
    with store.download(image.id) as chunks:
        assert b"".join(chunks) == data
    store.discard(image.id)
    with pytest.raises(NotFound):
        store.describe(image.id)


def test_an_image_is_found_in_whatever_repository_it_is(registry: RealRegistry) -> None:
    whole = registry.store()
    mark = {"container_uuid": str(uuid.uuid4())}
    made = {whole.reserve(spec(name=name, properties=mark)).id for name in ("a", "b/c")}
    found = whole.find(None, mark, statuses=[ImageStatus.QUEUED])
    assert {image.id for image in found} == made
    assert {image.repository for image in found} == {
        whole.repository_for(name, None) for name in ("a", "b/c")
    }
    for image_id in made:
        whole.discard(image_id)
        with pytest.raises(NotFound):
            whole.describe(image_id)
