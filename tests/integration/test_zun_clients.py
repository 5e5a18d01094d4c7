"""Zun's own clients, as they are released, against our service under Zun's name in the catalogue.

They are python-zunclient as a command, as a plug-in of `openstack` and as a library, and
zun-tempest-plugin, whose requests and assertions are repeated here: its tests themselves have Zun
make the containers.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import Container
from zunclient import client as zunclient
from zunclient import exceptions
from zunclient.api_versions import discover_version, get_api_version
from zunclient.v1.client import Client

from tests.support.command_line import Ended, ended, environment, start
from tests.support.docker import PATIENCE, Containers
from tests.support.openstack import Cloud
from tests.support.rabbit import until
from tests.support.rest import Site, owned_by
from tintype.adapters.openstack_access import GlanceSettings

ZUN = Path(sys.executable).with_name("zun")
OPENSTACK = Path(sys.executable).with_name("openstack")

BY_ZUN = (ZUN, "commit")
BY_OPENSTACK = (OPENSTACK, "appcontainer", "commit")
COMMITS = [
    BY_ZUN,
    *((ZUN, "--zun-api-version", version, "commit") for version in ("1.1", "1.6", "1.latest")),
    BY_OPENSTACK,
    *(
        (OPENSTACK, "--os-container-api-version", version, "appcontainer", "commit")
        for version in ("1.1", "1.6", "1.latest")
    ),
]
"""Every way to ask, with the microversions that a user may name."""

ACCEPTED = r"Request to commit container (\S+) has been accepted\. The image is ([0-9a-f-]{36})\."
"""What the commands print when all is well. They end with 0 when it is not, too."""

FAILED = r"(?:Commit for|commit) container (\S+) failed: (.+) \(Request-ID: req-[0-9a-f-]{36}\)"

Shell = Callable[..., Container]
"""Runs a line of a shell in a new container of an image, which belongs to alice."""


@pytest.fixture
def zun(running: Site) -> Iterator[Site]:
    """A site that is up, and that Keystone's catalogue has in Zun's place."""
    with running.in_catalogue():
        yield running


@pytest.fixture
def web(running: Site, cloud: Cloud, container: Containers) -> str:
    """Alice's running container, known to the index."""
    name = str(container(labels=owned_by(cloud, cloud.alice)).name)
    running.known(name)
    return name


@pytest.fixture
def repository(cloud: Cloud) -> Iterator[str]:
    """A name for images, which are deleted after the test."""
    name = f"tempest-test-commit-{secrets.randbits(31)}"
    yield name
    delete_images(cloud, name)


@pytest.fixture
def shell(cloud: Cloud, docker_client: DockerClient, busybox: str) -> Iterator[Shell]:
    """Runs shells; their containers are gone after the test."""
    made: list[Container] = []

    def run_line(line: str, image: str = busybox) -> Container:
        command = ["/bin/sh", "-c", line]
        labels = owned_by(cloud, cloud.alice)
        name = f"tintype-test-{secrets.token_hex(6)}"
        made.append(
            docker_client.containers.create(
                image, command, name=name, labels=labels, network_mode="none", init=False
            )
        )
        made[-1].start()
        return made[-1]

    yield run_line
    for each in made:
        each.remove(force=True)


# The commands


def test_the_commands_make_images_with_every_microversion(
    zun: Site, cloud: Cloud, web: str, repository: str
) -> None:
    asked = {}
    without_catalogue = (ZUN, "--bypass-url", f"{zun.api.url}/v1", "commit")
    for number, command in enumerate((*COMMITS, without_catalogue)):
        done = run(cloud.alice, *command, web, f"{repository}:v{number}")
        told = re.fullmatch(ACCEPTED, done.worked().strip())
        assert told, (command, done.out)
        assert told[1] == web
        asked[told[2]] = [f"v{number}"]
    until(
        lambda: {image["id"]: image["tags"] for image in active(cloud, repository)} == asked,
        f"these images to be active: {asked}",
    )


def test_what_cannot_be_is_told_in_words(
    zun: Site, cloud: Cloud, web: str, container: Containers, repository: str
) -> None:
    bobs = str(container(labels=owned_by(cloud, cloud.bob)).name)
    zun.known(bobs)
    refusals = {
        ("no-such-container", repository): "no container 'no-such-container' is known (HTTP 404)",
        (bobs, repository): f"no container '{bobs}' is known (HTTP 404)",
        (web, "Not-A-Name"): "got 'Not-A-Name' (HTTP 400)",
        (web, f"{repository}:-tag"): "got '-tag' (HTTP 400)",
    }
    for command in (BY_ZUN, BY_OPENSTACK):
        for (ident, name), words in refusals.items():
            assert words in failed(run(cloud.alice, *command, ident, name), ident)
    reader = failed(run(cloud.carol, *BY_ZUN, web, repository), web)
    assert f"your roles do not allow you to snapshot '{web}' (HTTP 403)" in reader
    assert images(cloud, repository) == []


def test_what_is_away_is_told_in_words(running: Site, cloud: Cloud, web: str) -> None:
    away = {"endpoint_override": "http://127.0.0.1:9/"}
    with running.beside("no-glance", glance=away) as site, site.in_catalogue():
        for command in (BY_ZUN, BY_OPENSTACK):
            told = failed(run(cloud.alice, *command, web, "test/away"), web)
            # With a Retry-After in the answer they would show a TypeError of their own.
            assert re.search(r"image service.* cannot be reached.* \(HTTP 503\)", told), told


def test_both_plug_ins_are_in_one_openstack(
    zun: Site, cloud: Cloud, web: str, repository: str
) -> None:
    options = run(cloud.alice, OPENSTACK, "--help").worked()
    for option in ("--os-container-api-version", "--os-container-snapshot-api-version"):
        assert option in options
    for verb in ("create", "list", "show", "delete"):
        ours = run(cloud.alice, OPENSTACK, "container", "snapshot", verb, "--help").worked()
        assert f"openstack container snapshot {verb}" in ours
    assert "<repository>" in run(cloud.alice, *BY_OPENSTACK, "--help").worked()
    assert web in run(cloud.alice, OPENSTACK, "appcontainer", "list").worked()
    made = zun.commit(web, cloud.alice, name=repository).json()
    zun.ended(made["snapshot_id"])
    ours = run(cloud.alice, OPENSTACK, "container", "snapshot", "list", "-f", "json").worked()
    told = [snapshot["snapshot_id"] for snapshot in json.loads(ours)]
    assert made["snapshot_id"] in told
    there = zun.call("GET", "/v1/snapshots", cloud.alice).json()["snapshots"]
    assert told == [snapshot["snapshot_id"] for snapshot in there]


# The library


def test_the_library_gets_what_zun_answers(
    zun: Site, cloud: Cloud, web: str, repository: str
) -> None:
    by_catalogue = zunclient.Client("1", session=cloud.connection(cloud.alice).session)
    by_address = addressed(zun, cloud)
    made = {
        by_catalogue.containers.commit(web, repository, "v1")["uuid"],
        by_address.containers.commit(web, repository)["uuid"],
    }
    until(lambda: {image["id"] for image in active(cloud, repository)} == made, "the images")
    assert web in [each.name for each in by_catalogue.containers.list()]
    with pytest.raises(exceptions.NotFound, match="no container 'nothing' is known"):
        by_catalogue.containers.commit("nothing", repository)


def test_a_microversion_is_settled_on(zun: Site, cloud: Cloud) -> None:
    client = addressed(zun, cloud)
    settled = {
        version: discover_version(client, get_api_version(version)).get_string()
        for version in ("1", "1.latest", "1.6", "1.40")
    }
    assert settled == {"1": "1.40", "1.latest": "1.40", "1.6": "1.6", "1.40": "1.40"}
    for unknown in ("container 1.0", "container 1.41", "container 2.1"):
        header = {"OpenStack-API-Version": unknown}
        answer = zun.call("GET", "/v1/containers", cloud.alice, headers=header)
        assert answer.status_code == 406
        assert "expected container 1.1 to 1.40" in answer.json()["errors"][0]["detail"]


def addressed(zun: Site, cloud: Cloud) -> Any:
    """Return a client that is told the address, and looks into no catalogue."""
    return Client(
        auth_token=cloud.token(cloud.alice),
        endpoint_override=f"{zun.api.url}/v1",
        api_version=get_api_version("1.1"),
    )


# zun-tempest-plugin


def test_a_container_from_the_image_prints_hello(
    zun: Site, cloud: Cloud, docker_client: DockerClient, shell: Shell, repository: str
) -> None:
    writer = shell("echo hello > testfile;sleep 1000000")
    until(lambda: writer.exec_run(["/bin/test", "-s", "/testfile"]).exit_code == 0, "the file")
    zun.known(writer.id)
    uuid = zun.call("GET", f"/v1/containers/{writer.id}", cloud.alice).json()["uuid"]
    # It has a test for all before 1.40, and one for 1.40, and fails if an answer names another.
    for microversion in ("container 1.20", "container 1.40"):
        # Two slashes; no body, but its content type all the same.
        answer = zun.call(
            "POST",
            f"/v1/containers//{uuid}/commit?repository={repository}",
            cloud.alice,
            headers={
                "OpenStack-API-Version": microversion,
                "Content-Type": "application/json",
                "Accept": "application/json",
            },
        )
        assert answer.status_code == 202, answer.text
        assert answer.headers["OpenStack-API-Version"] == microversion
        until(lambda: active(cloud, repository), "the image")
        (image,) = active(cloud, repository)
        assert image["id"] == answer.json()["uuid"]
        assert printed(cloud, docker_client, shell, image) == b"hello\n"
        delete_images(cloud, repository)


def printed(
    cloud: Cloud, docker_client: DockerClient, shell: Shell, image: dict[str, Any]
) -> bytes:
    """Return what a container of a Glance image prints, run as Zun does it."""
    session = cloud.connection(cloud.alice).session
    data = session.get(f"{cloud.alice.endpoint_override}/v2/images/{image['id']}/file").content
    docker_client.images.load(data)
    name = f"{image['name']}:latest"  # Zun goes by the first of the tags in the archive
    try:
        reader = shell("cat testfile", name)
        assert reader.wait(timeout=PATIENCE)["StatusCode"] == 0
        return bytes(reader.logs())
    finally:
        docker_client.images.remove(name, force=True)


# Helpers


def run(person: GlanceSettings, *command: object) -> Ended:
    """Run a command as somebody."""
    asks = {
        "OS_IDENTITY_API_VERSION": "3",
        "OS_AUTH_URL": person.auth_url,
        "OS_USERNAME": person.username,
        "OS_PASSWORD": person.password,
        "OS_PROJECT_NAME": person.project_name,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
    }
    return ended(start(*command, env=environment(**asks)), PATIENCE)


def failed(done: Ended, ident: str) -> str:
    """Return the words with which a commit of a container failed."""
    told = re.fullmatch(FAILED, done.worked().strip())
    assert told, done.out
    assert told[1] == ident
    return told[2]


def active(cloud: Cloud, name: str) -> list[dict[str, Any]]:
    """Return the images that zun-tempest-plugin waits for, as alice sees them."""
    wanted = {"container_format": "docker", "status": "active"}
    return [image for image in images(cloud, name) if wanted.items() <= image.items()]


def images(cloud: Cloud, name: str) -> list[dict[str, Any]]:
    """Return alice's images of a name."""
    session = cloud.connection(cloud.alice).session
    url = f"{cloud.alice.endpoint_override}/v2/images?name={name}"
    return list(session.get(url).json()["images"])


def delete_images(cloud: Cloud, name: str) -> None:
    """Delete alice's images of a name, whatever their status."""
    for image in images(cloud, name):
        cloud.store().discard(image["id"])
