"""`tintype`, and `openstack` with our plug-in, as users call them, in front of real services."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command_line import Ended, ended, environment, start, variables
from tests.support.docker import PATIENCE, Containers
from tests.support.openstack import Cloud
from tests.support.rest import Site, owned_by
from tintype.adapters.openstack_access import GlanceSettings

OPENSTACK = Path(sys.executable).with_name("openstack")
NOBODY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
IMAGE = "test/command-line"
PHASES = {"accepted", "pausing", "committing", "uploading", "verifying", "cleanup"}

TINTYPE_WORDS = {
    "create": ("commit",),
    "list": ("snapshot", "list"),
    "show": ("snapshot", "show"),
    "cancel": ("snapshot", "cancel"),
}
OPENSTACK_WORDS = {
    name: (OPENSTACK, "container", "snapshot", "delete" if name == "cancel" else name)
    for name in TINTYPE_WORDS
}
Words = dict[str, tuple[object, ...]]
BOTH = pytest.mark.parametrize(
    "words", [TINTYPE_WORDS, OPENSTACK_WORDS], ids=["tintype", "openstack"]
)


@pytest.fixture(scope="module")
def named(running: Site) -> Iterator[Site]:
    """A service that is up, and in Keystone's catalogue."""
    with running.in_catalogue():
        yield running


@pytest.fixture
def web(named: Site, cloud: Cloud, container: Containers) -> str:
    """Alice's running container, known to the index."""
    name = str(container(labels=owned_by(cloud, cloud.alice)).name)
    named.known(name)
    return name


@pytest.fixture(autouse=True)
def no_images_left(cloud: Cloud) -> Iterator[None]:
    """Delete what these tests have made."""
    yield
    store = cloud.store()
    for image in store.find(cloud.project_id(cloud.alice), {"image_type": "snapshot"}):
        store.discard(image.id)


def auth_of(person: GlanceSettings, **changes: str) -> dict[str, str]:
    """Return what somebody logs in with, by the names in clouds.yaml."""
    return {
        "auth_url": person.auth_url,
        "username": person.username,
        "password": person.password,
        "project_name": person.project_name,
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        **changes,
    }


def run(person: GlanceSettings, *words: object, **changes: str) -> Ended:
    """Run a command as somebody, whose credentials may be changed."""
    env = {**variables(auth_of(person, **changes)), "HOME": "/nonexistent"}
    return ended(start(*words, env=env), PATIENCE)


def image_of(cloud: Cloud, image_id: str) -> dict[str, Any]:
    """Return an image of alice's as Glance shows it."""
    session = cloud.connection(cloud.alice).session
    return dict(session.get(f"{cloud.alice.endpoint_override}/v2/images/{image_id}").json())


# The main job


@BOTH
def test_a_commit_is_waited_for_and_then_listed_and_shown(
    named: Site, cloud: Cloud, web: str, words: Words
) -> None:
    about = ("--metadata", "why=test", "--wait", "-f", "json")

    done = run(cloud.alice, *words["create"], web, f"{IMAGE}:v1", *about)

    made = done.shown()
    assert (made["status"], made["container_name"]) == ("active", web)
    assert made["metadata"] == {"why": "test"}
    assert set(done.err.splitlines()) <= PHASES
    image = image_of(cloud, made["image_id"])
    assert (image["status"], image["name"], image["tags"]) == ("active", IMAGE, ["v1"])
    assert image["owner"] == cloud.project_id(cloud.alice)
    assert (image["meta_why"], image["size"]) == ("test", made["size_bytes"])
    listed = run(cloud.alice, *words["list"], "--container", web, "-f", "json").shown()
    assert [each["snapshot_id"] for each in listed] == [made["snapshot_id"]]
    for ident in (made["snapshot_id"], made["request_id"]):
        shown = run(cloud.alice, *words["show"], ident, "-f", "json").shown()
        assert made.items() <= shown.items()
    assert shown.items() <= named.ended(made["snapshot_id"]).items()
    over = run(cloud.alice, *words["cancel"], made["snapshot_id"])
    over.failed("delete its image")


def test_containers_are_listed_and_shown(named: Site, cloud: Cloud, web: str) -> None:
    (listed,) = run(cloud.alice, "container", "list", "--name", web, "-f", "json").shown()
    assert (listed["name"], listed["state"], listed["host"]) == (web, "Running", named.agent.host)
    known = named.call("GET", f"/v1/containers/{web}", cloud.alice).json()
    for ident in (web, known["uuid"], known["engine_container_id"][:12]):
        assert run(cloud.alice, "container", "show", ident, "-f", "json").shown() == known
    by_admin = ("container", "list", "--all-projects", "--name", web, "-f", "json")
    (everybodys,) = run(cloud.admin, *by_admin).shown()
    assert everybodys == {**listed, "project_id": cloud.project_id(cloud.alice)}


def test_a_snapshot_is_watched_to_its_end(named: Site, cloud: Cloud, web: str) -> None:
    made = run(cloud.alice, "commit", web, IMAGE, "-f", "json").shown()
    watch = ("snapshot", "watch", made["snapshot_id"], "--interval=0.1")
    watched = run(cloud.alice, *watch).worked()
    last = watched.splitlines()[-1]
    assert last.startswith(f"{made['snapshot_id']} {web} -> {IMAGE}:latest: active: ")
    assert named.ended(made["snapshot_id"])["status"] == "active"


@BOTH
def test_a_snapshot_is_cancelled(named: Site, cloud: Cloud, web: str, words: Words) -> None:
    named.agent.stop()  # so that it is in hand for as long as it takes
    try:
        made = run(cloud.alice, *words["create"], web, IMAGE, "-f", "json").shown()
        ident = made["snapshot_id"]
        stopping = run(cloud.alice, *words["cancel"], ident)
        assert stopping.worked() == f"snapshot {ident} is being cancelled\n"
    finally:
        named.agent.start()
        named.agent.await_up()
    watched = run(cloud.alice, "snapshot", "watch", ident)
    assert watched.code == 1
    assert f"snapshot {ident} failed: " in watched.err
    assert named.ended(ident)["fault"]["code"] == 499
    failed = run(cloud.alice, *words["list"], "--status", "error", "-f", "json").shown()
    assert ident in [each["snapshot_id"] for each in failed]


def test_the_same_key_again_makes_one_image(named: Site, cloud: Cloud, web: str) -> None:
    command = ("commit", web, IMAGE, "--idempotency-key", f"nightly {web}", "-f", "json")
    first, again = run(cloud.alice, *command).shown(), run(cloud.alice, *command).shown()
    assert first == again
    named.ended(first["snapshot_id"])
    listed = run(cloud.alice, "snapshot", "list", "--container", web, "-f", "json").shown()
    assert len(listed) == 1
    command = ("commit", web, "test/other", "--idempotency-key", f"nightly {web}")
    run(cloud.alice, *command).failed("another request")


def test_a_cloud_in_clouds_yaml_is_used(cloud: Cloud, web: str, tmp_path: Path) -> None:
    path = tmp_path / "clouds.yaml"
    here = {"auth": auth_of(cloud.alice), "region_name": "RegionOne"}
    wrong = {**here, "auth": auth_of(cloud.alice, password="wrong")}
    path.write_text(yaml.safe_dump({"clouds": {"here": here, "wrong": wrong}}))
    env = environment(OS_CLIENT_CONFIG_FILE=str(path), HOME="/nonexistent")

    def in_cloud(name: str, *words: object) -> Ended:
        return ended(start("--os-cloud", name, *words, env=env), PATIENCE)

    made = in_cloud("here", "commit", web, IMAGE, "--wait", "-f", "json").shown()
    assert made["status"] == "active"
    by_openstack = (OPENSTACK, "--os-cloud", "here", "container", "snapshot", "show")
    shown = ended(start(*by_openstack, made["snapshot_id"], "-f", "json", env=env), PATIENCE)
    assert made.items() <= shown.shown().items()
    in_cloud("wrong", "snapshot", "list").failed("Keystone refuses these credentials")
    in_cloud("nowhere", "snapshot", "list").failed("nowhere")


# What is refused, and how


def test_credentials_that_keystone_refuses_are_told(named: Site, cloud: Cloud) -> None:
    list_all = TINTYPE_WORDS["list"]
    for changes in ({"password": "wrong"}, {"username": "nobody"}, {"project_name": "beta"}):
        refused = run(cloud.alice, *list_all, **changes)
        refused.failed("Keystone refuses these credentials", "(HTTP 401)")
    nowhere = {"auth_url": "http://127.0.0.1:9/v3"}
    run(cloud.alice, *list_all, **nowhere).failed("cannot log in", nowhere["auth_url"])
    by_openstack = OPENSTACK_WORDS["list"]
    run(cloud.alice, *by_openstack, password="wrong").failed("(HTTP 401)")
    refused = run(cloud.alice, *by_openstack, **nowhere)
    assert (refused.code, refused.out) == (1, "")
    assert nowhere["auth_url"] in refused.err
    assert named.call("GET", "/healthcheck").ok


def test_what_is_anothers_is_not_there(
    named: Site, cloud: Cloud, web: str, container: Containers
) -> None:
    bobs = str(container(labels=owned_by(cloud, cloud.bob)).name)
    named.known(bobs)
    for words in (TINTYPE_WORDS, OPENSTACK_WORDS):
        run(cloud.alice, *words["create"], bobs, IMAGE).failed(f"no container '{bobs}' is known")
    run(cloud.alice, "container", "show", bobs).failed(f"no container '{bobs}' is known")
    made = run(cloud.alice, "commit", web, IMAGE, "--wait", "-f", "json").shown()
    ident = made["snapshot_id"]
    for name in ("show", "cancel", "watch"):
        run(cloud.bob, "snapshot", name, ident).failed(ident)
    run(cloud.bob, *OPENSTACK_WORDS["cancel"], ident).failed(ident)
    listed = run(cloud.bob, "snapshot", "list", "-f", "value", "-c", "snapshot_id").worked()
    assert ident not in listed
    run(cloud.alice, "snapshot", "list", "--all-projects").failed("all_projects")
    assert image_of(cloud, made["image_id"])["status"] == "active"


def test_what_a_reader_may_not_do_is_told(named: Site, cloud: Cloud, web: str) -> None:
    assert web in run(cloud.carol, "container", "list").worked()
    run(cloud.carol, "commit", web, IMAGE, "--wait").failed("your roles do not allow")
    assert named.call("GET", f"/v1/snapshots?container_name={web}", cloud.alice).json() == {
        "snapshots": []
    }


def test_what_cannot_be_is_told(named: Site, cloud: Cloud, web: str) -> None:
    run(cloud.alice, "commit", web, "Not-A-Name").failed("/image_name")
    run(cloud.alice, "commit", web, IMAGE, "--image-id", NOBODY).failed("/image_id")
    assert run(cloud.alice, "commit", web).code == 2
    assert run(cloud.alice, *OPENSTACK_WORDS["create"], web).code == 2
    assert named.call("GET", f"/v1/snapshots?container_name={web}", cloud.alice).json() == {
        "snapshots": []
    }


def test_a_region_without_the_service_is_told(named: Site, cloud: Cloud) -> None:
    elsewhere = run(cloud.alice, "--os-region-name", "RegionTwo", "container", "list")
    elsewhere.failed("no endpoint of type container-snapshot", "RegionTwo")
    by_address = ("--os-region-name", "RegionTwo", "--endpoint", named.api.url, "container", "list")
    run(cloud.alice, *by_address).worked()
