"""What a commit and a restore can be asked for, through a listener, broker, engine and stores."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from docker import DockerClient

from tests.support.agent import AgentProcess, left_on, send_request
from tests.support.docker import Containers, state_of
from tests.support.openstack import Cloud
from tests.support.rabbit import until
from tests.support.registry import RealRegistry
from tintype.core.events import (
    RESTORE_END,
    RESTORE_ERROR,
    RESTORE_REQUEST,
    RESTORE_START,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_PREFLIGHT,
    SNAPSHOT_REMOVED,
    SNAPSHOT_START,
    Requester,
)

# The SDK drops the sockets of its `exec_run` and leaves them to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

SECRET = f"hunter2-{secrets.token_hex(12)}"


@pytest.fixture
def host(agent: AgentProcess, locked_registry: RealRegistry) -> AgentProcess:
    """A host with all three stores and everything allowed, not started yet."""
    access = locked_registry.access
    assert access.home is not None
    agent.options["agent"]["stores"] = "glance,registry,directory"
    agent.options["registry"] = {
        "repository": access.home,
        "username": access.username,
        "password": access.password,
        "cafile": access.cafile,
    }
    agent.options["commit"] = {"hooks": "true", "secret_env": ".*_PASSWORD"}
    return agent


@pytest.fixture
def alice(cloud: Cloud) -> Requester:
    """A member of the project alpha, on whose behalf all is done."""
    return Requester(cloud.project_id(cloud.alice), "alice", is_admin=True)


@pytest.fixture
def restored(docker_client: DockerClient) -> Iterator[list[str]]:
    """Ids of containers that restores have made; they are gone after the test."""
    made: list[str] = []
    yield made
    for engine_id in made:
        docker_client.containers.get(engine_id).remove(force=True, v=True)


def types_of(host: AgentProcess, request_id: str) -> list[str]:
    """Return the types of what was told of a request, without how it went on meanwhile."""
    found = {
        event["payload"]["event_id"]: event["event_type"]
        for event in host.witness.events
        if event["payload"].get("request_id") == request_id
    }
    return [kind for kind in found.values() if not kind.endswith((".progress", ".exists"))]


def restore(host: AgentProcess, who: Requester, **fields: Any) -> dict[str, Any]:
    """Ask the host for a restore and return its outcome."""
    topic = f"{host.requests}.{host.host}"
    payload = {"event_type": RESTORE_REQUEST, **fields}
    request_id = send_request(host.broker, host.exchange, topic, payload, who)
    return host.witness.outcome(request_id)


def test_everything_at_once(
    host: AgentProcess,
    container: Containers,
    docker_client: DockerClient,
    alice: Requester,
    restored: list[str],
) -> None:
    web = container(
        labels={
            "tintype.hook.pre-commit": "echo flushed > /flushed; echo pre",
            "tintype.hook.post-commit": "rm /flushed; echo post",
        },
        volumes=["/data"],
    )
    host.start()
    request_id = host.request(
        web.id,
        alice,
        stores=["glance", "registry", "directory"],
        message="all of it",
        author="Ada",
        changes=["ENV MODE=production", "WORKDIR /tmp", "LABEL stage=test"],
        labels={"more": "of them"},
        squash=True,
        max_pause_ms=60_000,
        expires_at=(datetime.now(UTC) + timedelta(days=1)).isoformat(),
    )
    end = host.witness.outcome(request_id)
    assert types_of(host, request_id) == [SNAPSHOT_START, SNAPSHOT_END]
    assert [store["status"] for store in end["stores"]] == ["active"] * 3
    assert [hook["output"] for hook in end["hooks"]] == ["pre\n", "post\n"]
    assert (end["squashed"], len(end["layers"])) == (True, 1)
    assert end["excluded_volumes"] == ["/data"]
    assert end["stores"][1]["digest"].startswith("sha256:")
    assert end["stores"][1]["digest"] in end["stores"][1]["location"]
    assert left_on(docker_client, request_id) == []
    assert web.exec_run(["/bin/busybox", "test", "-e", "/flushed"])[0] == 1

    for store in end["stores"]:
        told = restore(
            host,
            alice,
            image_id=store["image_id"],
            store=store["name"],
            env={"EXTRA": "1"},
            network="none",
        )
        assert told["fault"] is None, told
        restored.append(told["engine_container_id"])
        assert types_of(host, told["request_id"]) == [RESTORE_START, RESTORE_END]
        assert told["missing_volumes"] == ["/data"]
        again = docker_client.containers.get(told["engine_container_id"])
        assert again.status == "running"
        assert again.attrs["Config"]["WorkingDir"] == "/tmp"
        assert {"MODE=production", "EXTRA=1"} <= set(again.attrs["Config"]["Env"])
        assert again.labels["stage"] == "test"
        assert again.exec_run(["/bin/busybox", "cat", "/flushed"])[1] == b"flushed\n"
    assert host.stop() == 0


def test_a_dry_run_tells_and_does_nothing(
    host: AgentProcess, container: Containers, docker_client: DockerClient, alice: Requester
) -> None:
    web = container(volumes=["/data"])
    host.start()
    request_id = host.request(web.id, alice, dry_run=True, stores=["glance", "directory"])
    told = host.witness.outcome(request_id)
    assert types_of(host, request_id) == [SNAPSHOT_PREFLIGHT]
    report = told["preflight"]
    assert report["problems"] == []
    assert report["size_rootfs_bytes"] > 1_000_000
    assert report["free_bytes"] > 0
    assert report["excluded_volumes"] == ["/data"]
    assert left_on(docker_client, request_id) == []
    assert state_of(web) == "running"


def test_what_is_too_large_is_refused_before_anything_is_done(
    host: AgentProcess, container: Containers, cloud: Cloud, alice: Requester
) -> None:
    web = container(files={"/large": bytes(2 << 20)})
    host.options["commit"]["hard_limit_mib"] = 1
    host.start()
    request_id = host.request(web.id, alice)
    error = host.witness.outcome(request_id)
    assert types_of(host, request_id) == [SNAPSHOT_ERROR]
    assert (error["fault"]["code"], error["fault"]["exception"]) == (413, "TooLarge")
    assert "hard_limit_mib" in error["fault"]["message"]
    assert cloud.store().find(None, {"snapshot_request_id": request_id}) == []


def test_one_store_that_refuses_does_not_spoil_the_other(
    host: AgentProcess, container: Containers, alice: Requester
) -> None:
    web = container()
    host.options["registry"]["password"] = "wrong"
    host.start()
    end = host.witness.outcome(host.request(web.id, alice, stores=["registry", "directory"]))
    assert end["fault"] is None
    registry, directory = end["stores"]
    assert (registry["status"], directory["status"]) == ("error", "active")
    assert "credentials" in registry["fault"]["message"]
    assert "wrong" not in registry["fault"]["message"]


def test_a_failing_hook_ends_the_snapshot_and_the_other_one_runs(
    host: AgentProcess, container: Containers, alice: Requester
) -> None:
    web = container(
        labels={
            "tintype.hook.pre-commit": "echo no; exit 3",
            "tintype.hook.post-commit": "echo > /released",
        }
    )
    host.start()
    error = host.witness.outcome(host.request(web.id, alice))
    assert (error["fault"]["code"], error["fault"]["exception"]) == (409, "HookFailed")
    assert (error["hooks"][0]["exit_code"], error["hooks"][0]["output"]) == (3, "no\n")
    assert web.exec_run(["/bin/busybox", "test", "-e", "/released"])[0] == 0
    assert state_of(web) == "running"


def test_an_expired_image_goes_and_that_is_told(
    host: AgentProcess, container: Containers, cloud: Cloud, alice: Requester
) -> None:
    web = container()
    host.options["janitor"] = {"interval": 1}
    host.start()
    soon = datetime.now(UTC) + timedelta(seconds=20)
    end = host.witness.outcome(host.request(web.id, alice, expires_at=soon.isoformat()))
    assert end["fault"] is None, end

    def removed() -> list[dict[str, Any]]:
        told = [e for e in host.witness.events if e["event_type"] == SNAPSHOT_REMOVED]
        return [e["payload"] for e in told if e["payload"]["image_id"] == end["image_id"]]

    until(removed, "the removal to be told")
    [told] = {each["event_id"]: each for each in removed()}.values()
    assert (told["reason"], told["store"]) == ("expired", "glance")
    assert told["image_request_id"] == end["request_id"]
    assert cloud.store().find(None, {"snapshot_request_id": end["request_id"]}) == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"squash": "yes"}, "/squash"),
    ({"changes": ["RUN rm -rf /"]}, "/changes/0"),
    ({"changes": ["ENV DB_PASSWORD=x"]}, "/changes/0"),
    ({"unset_env": ["A=B"]}, "/unset_env/0"),
    ({"max_pause_ms": 0}, "/max_pause_ms"),
    ({"max_pause_ms": 10, "pause": False}, "/max_pause_ms"),
    ({"expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
    ({"expires_at": "tomorrow"}, "/expires_at"),
    ({"repository": "alpha/web"}, "/repository"),
    ({"stores": ["registry"], "visibility": "community"}, "/visibility"),
    ({"stores": ["registry"], "repository": "elsewhere.example/web"}, "/repository"),
    ({"stores": ["nowhere"]}, "/stores/0"),
    ({"dry_run": 1}, "/dry_run"),
]
"""What a request may ask for that cannot be honoured, and the field that its answer names."""


def test_what_cannot_be_honoured_is_refused_by_name(
    host: AgentProcess, container: Containers, alice: Requester
) -> None:
    web = container()
    host.start()
    asked = [(host.request(web.id, alice, **fields), field) for fields, field in REFUSED]
    for request_id, field in asked:
        fault = host.witness.outcome(request_id)["fault"]
        assert fault["code"] == 400, fault
        assert field in fault["message"]


def test_a_restore_that_cannot_be_is_refused(host: AgentProcess, alice: Requester) -> None:
    host.start()
    unknown = restore(host, alice, image_id=str(uuid.uuid4()))
    assert unknown["fault"]["code"] == 404
    both = restore(host, alice, image_id=str(uuid.uuid4()), image="web")
    assert both["fault"]["code"] == 400
    assert "image" in both["fault"]["message"]
    assert types_of(host, unknown["request_id"]) == [RESTORE_ERROR]
