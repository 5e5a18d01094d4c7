"""The plug-in of `openstack`, which is started for each call: its commands and its options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Ended, Run, ended, environment, start, variables
from tests.support.rest_double import TOKEN, RestDouble, become, fault, rest_double, snapshot

OPENSTACK = Path(sys.executable).with_name("openstack")
NOBODY = str(snapshot(99)["snapshot_id"])


@pytest.fixture
def service() -> Iterator[RestDouble]:
    with rest_double() as double:
        yield double


@pytest.fixture
def openstack(service: RestDouble) -> Run:
    """`openstack` without Keystone."""
    where = ("--os-auth-type", "none", "--os-endpoint", service.endpoint)

    def run(*arguments: object) -> Ended:
        words = [OPENSTACK, *where, "container", "snapshot", *arguments]
        return ended(start(*words, env=environment(HOME="/nonexistent")))

    return run


def test_openstack_creates_and_shows_and_lists_snapshots(
    openstack: Run, service: RestDouble
) -> None:
    made = openstack("create", "web", "snap", "--tag", "v2", "-f", "json").shown()
    assert service.seen[0].body == {"image_name": "snap", "tag": "v2"}
    about = openstack("show", made["snapshot_id"], "-f", "json").shown()
    assert about["request_id"] == made["request_id"]
    (listed,) = openstack("list", "--status", "queued", "-f", "json").shown()
    assert listed["snapshot_id"] == made["snapshot_id"]
    openstack("show", NOBODY).failed(NOBODY)


def test_openstack_watches_and_deletes_snapshots(openstack: Run, service: RestDouble) -> None:
    service.snapshots = [snapshot(1)]
    ident = snapshot(1)["snapshot_id"]
    assert openstack("delete", ident).worked() == f"snapshot {ident} is being cancelled\n"
    service.plan = [become(1, "error", fault=fault("cancelled"))]
    watched = openstack("watch", ident)
    told = f"{ident} web -> snap:v1: failed: cancelled\n"
    assert (watched.code, watched.out) == (1, told)


def test_openstack_restores_snapshots(openstack: Run, service: RestDouble) -> None:
    service.snapshots = [snapshot(1, "active")]
    ident = snapshot(1)["snapshot_id"]
    made = openstack("restore", "snap", "--name", "web-2", "-f", "json").shown()
    (seen,) = service.asked("POST", f"/v1/snapshots/{ident}/restore")
    assert seen.body == {"name": "web-2"}
    restored = made["restore_id"]
    about = openstack("restores", "show", restored, "-f", "json").shown()
    assert about["request_id"] == made["request_id"]
    (listed,) = openstack("restores", "list", "--snapshot", ident, "-f", "json").shown()
    assert listed["restore_id"] == restored
    said = openstack("restores", "delete", restored).worked()
    assert said == f"restore {restored} is being cancelled\n"


def test_openstack_finds_the_service_in_the_catalogue(service: RestDouble) -> None:
    env = {**variables(service.auth), "HOME": "/nonexistent"}

    def run(*more: str) -> Ended:
        return ended(
            start(OPENSTACK, *more, "container", "snapshot", "list", "-f", "json", env=env)
        )

    assert run().shown() == []
    assert service.seen[0].headers["X-Auth-Token"] == TOKEN
    service.service_type = "volumev3"
    option = "--os-container-snapshot-endpoint-override"
    run().failed("no endpoint", option)
    assert run(option, service.endpoint).shown() == []


def test_openstack_helps(openstack: Run) -> None:
    assert "--idempotency-key" in openstack("create", "--help").worked()
    known = ended(start(OPENSTACK, "container", "snapshot", "--help"))
    for name in ("create", "delete", "list", "restore", "restores list", "show", "watch"):
        assert f"container snapshot {name}" in known.out


def test_zuns_plug_in_still_works(service: RestDouble) -> None:
    """Its API name is `container`, near to ours."""
    env = environment(HOME="/nonexistent", OS_CONTAINER_API_VERSION="1.40")
    where = ("--os-auth-type", "none", "--os-endpoint", f"{service.endpoint}/v1")
    option = ("--os-container-api-version", "1.40", "--os-container-snapshot-api-version", "1")
    done = ended(start(OPENSTACK, *where, *option, "appcontainer", "list", "--help", env=env))
    assert "appcontainer list" in done.worked()
