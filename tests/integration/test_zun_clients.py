"""Zun's own clients, as they are released, against our service under Zun's name in the catalogue.

They are python-zunclient as a command, as a plug-in of `openstack` and as a library, and
zun-tempest-plugin, whose requests and assertions are repeated here: the plug-in itself would have
Zun make the containers.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from docker import DockerClient
from zunclient import client as zun
from zunclient import exceptions
from zunclient.api_versions import APIVersion, discover_version
from zunclient.v1.client import Client

from tests.support.command_line import Ended, ended, environment, start
from tests.support.docker import PATIENCE, Containers
from tests.support.openstack import Cloud
from tests.support.rabbit import until
from tests.support.rest import Site, owned_by
from tintype.adapters.openstack_access import GlanceSettings

BIN = Path(sys.executable).parent
ZUN = (BIN / "zun",)
OPENSTACK = (BIN / "openstack",)

COMMITS: dict[str, tuple[object, ...]] = {
    "zun": (*ZUN, "commit"),
    "zun at the least": (*ZUN, "--zun-api-version", "1.1", "commit"),
    "zun at 1.6": (*ZUN, "--zun-api-version", "1.6", "commit"),
    "zun at the latest": (*ZUN, "--zun-api-version", "1.latest", "commit"),
    "openstack": (*OPENSTACK, "appcontainer", "commit"),
    "openstack at 1.6": (
        *OPENSTACK,
        *("--os-container-api-version", "1.6"),
        *("appcontainer", "commit"),
    ),
    "openstack at the latest": (
        *OPENSTACK,
        *("--os-container-api-version", "1.latest"),
        *("appcontainer", "commit"),
    ),
}
"""Every way to ask, each with the microversions that its user may name."""

ACCEPTED = r"Request to commit container (\S+) has been accepted\. The image is ([0-9a-f-]{36})\."
"""What both print when all is well. They end with 0 when it is not, too."""


@pytest.fixture
def zuns(site: Site) -> Iterator[Site]:
    """A site that is up, and that Keystone's catalogue has in Zun's place."""
    site.start()
    with site.in_catalogue():
        yield site


@pytest.fixture
def web(zuns: Site, cloud: Cloud, container: Containers) -> str:
    """Alice's running container, known to the index."""
    name = str(container(labels=owned_by(cloud, cloud.alice)).name)
    zuns.known(name)
    return name


@pytest.fixture
def repository(cloud: Cloud) -> Iterator[str]:
    """A name for images, which are deleted after the test."""
    name = f"test/zun-{secrets.token_hex(6)}"
    yield name
    delete_images(cloud, name)


# The commands


def test_the_commands_make_an_image_with_every_microversion(
    zuns: Site, cloud: Cloud, web: str, repository: str
) -> None:
    del zuns
    asked = {}
    for tag, command in enumerate(COMMITS.values()):
        done = run(cloud.alice, *command, web, f"{repository}:v{tag}")
        told = re.fullmatch(ACCEPTED, done.worked().strip())
        assert told, (command, done.out, done.err)
        assert told[1] == web
        asked[told[2]] = [f"v{tag}"]
    until(lambda: len(active(cloud, repository)) == len(asked), "the images")
    assert {image["id"]: image["tags"] for image in active(cloud, repository)} == asked


def test_what_cannot_be_is_told_in_words(
    zuns: Site, cloud: Cloud, web: str, container: Containers, repository: str
) -> None:
    bobs = str(container(labels=owned_by(cloud, cloud.bob)).name)
    zuns.known(bobs)
    wrong = {
        ("no-such-container", repository): "no container 'no-such-container' is known (HTTP 404)",
        (bobs, repository): f"no container '{bobs}' is known (HTTP 404)",
        (web, "Not-A-Name"): "/image_name: expected .* \\(HTTP 400\\)",
        (web, f"{repository}:-no-tag"): "/tag: expected .* \\(HTTP 400\\)",
    }
    for (ident, name), words in wrong.items():
        done = run(cloud.alice, *COMMITS["zun"], ident, name)
        print(done.out, done.err)
        done = run(cloud.alice, *COMMITS["openstack"], ident, name)
        print(done.out, done.err)
        del words
    done = run(cloud.carol, *COMMITS["zun"], web, repository)
    print(done.out, done.err)
    assert 0


def run(person: GlanceSettings, *command: object) -> Ended:
    """Run a command as somebody."""
    return ended(start(*command, env=environment(**credentials(person))), PATIENCE)


def credentials(person: GlanceSettings) -> dict[str, str]:
    """Return how OpenStack's commands are told who asks."""
    return {
        "OS_IDENTITY_API_VERSION": "3",
        "OS_AUTH_URL": person.auth_url,
        "OS_USERNAME": person.username,
        "OS_PASSWORD": person.password,
        "OS_PROJECT_NAME": person.project_name,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
    }


def active(cloud: Cloud, name: str) -> list[dict[str, Any]]:
    """Return what zun-tempest-plugin waits for: images by name, format and status."""
    return [
        image
        for image in images(cloud)
        if (image["name"], image["container_format"], image["status"]) == (name, "docker", "active")
    ]


def images(cloud: Cloud) -> list[dict[str, Any]]:
    """Return alice's images, as she sees them."""
    alice = cloud.connection(cloud.alice)
    url = f"{cloud.alice.endpoint_override}/v2/images?limit=1000"
    url += f"&owner={cloud.project_id(cloud.alice)}"
    return list(alice.session.get(url).json()["images"])


def delete_images(cloud: Cloud, name: str) -> None:
    """Delete alice's images of a name, whatever their status."""
    for image in images(cloud):
        if image["name"] == name:
            cloud.store().discard(image["id"])
