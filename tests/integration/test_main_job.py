"""The main job, end to end: a request on RabbitMQ, a container, an image in Glance, the events."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import kombu
import oslo_messaging
import pytest
from docker import DockerClient
from openstack.connection import Connection
from oslo_context.context import RequestContext

from tests.support.agent import AgentProcess, left_on
from tests.support.docker import Containers, fill, state_of
from tests.support.openstack import Cloud
from tests.support.rabbit import until
from tintype.adapters.publisher import transport_url
from tintype.core.engine import ContainerState
from tintype.core.events import COMMIT_REQUEST, SNAPSHOT_END, SNAPSHOT_START

CONTENT = b"written before the snapshot"


@pytest.fixture
def alice(cloud: Cloud) -> Connection:
    """A member of the project alpha, logged in."""
    return cloud.connection(cloud.alice)


def by_oslo(agent: AgentProcess, context: dict[str, Any], payload: dict[str, Any]) -> None:
    """Send a request as an OpenStack service does."""
    url = transport_url(agent.broker.url + "?amqp_durable_queues=true")
    url.conf.set_override("control_exchange", agent.exchange)
    transport = oslo_messaging.get_notification_transport(url.conf, url)
    notifier = oslo_messaging.Notifier(
        transport, "plain.oslo", driver="messagingv2", topics=[agent.requests]
    )
    # oslo.messaging drops a context that is a plain dict.
    notifier.info(RequestContext(**context), COMMIT_REQUEST, payload)
    transport.cleanup()


def by_kombu(agent: AgentProcess, context: dict[str, Any], payload: dict[str, Any]) -> None:
    """Send a request with nothing of OpenStack's: the envelope by hand."""
    notification = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "plain.kombu",
        "event_type": COMMIT_REQUEST,
        "priority": "INFO",
        "payload": payload,
        "timestamp": "2026-11-23 12:00:00.000000",
        **{f"_context_{name}": value for name, value in context.items()},
    }
    with agent.broker.kombu(transport_options={"confirm_publish": True}) as connection:
        connection.Producer().publish(
            {"oslo.version": "2.0", "oslo.message": json.dumps(notification)},
            serializer="json",
            exchange=kombu.Exchange(agent.exchange, "topic", durable=True),
            routing_key=f"{agent.requests}.info",
            mandatory=True,
        )


@pytest.mark.parametrize("send", [by_oslo, by_kombu])
def test_a_request_becomes_an_image_and_the_bus_hears_of_it(
    agent: AgentProcess,
    container: Containers,
    docker_client: DockerClient,
    alice: Connection,
    heard: list[tuple[str, dict[str, Any], dict[str, Any]]],
    send: Any,
) -> None:
    web = container(files={"/data/file": CONTENT}, volumes=["/volume"])
    agent.options["listener"]["roles"] = "agent,router"
    agent.start()
    until(lambda: f"{agent.requests}.info" in agent.broker.queues("messages"))
    project, user = alice.current_project_id, alice.current_user_id
    request_id = str(uuid.uuid4())
    request = {
        "container": web.name,
        "image_name": "alpha/web",
        "tag": "v1",
        "request_id": request_id,
        "message": 'it\'s "quoted" $HOME',
        "labels": {"com.example.a b".replace(" ", "-"): "x y"},
        "metadata": {"ticket": "4711"},
    }
    send(agent, {"project_id": project, "user_id": user, "auth_token": "secret-token"}, request)
    end = agent.witness.outcome(request_id)

    assert end["fault"] is None
    assert end["excluded_volumes"] == ["/volume"]
    assert end["metadata"] == {"ticket": "4711"}
    image = alice.image.get_image(end["image_id"])
    assert image.status == "active"
    assert image.owner == project
    assert (image.name, image.tags) == ("alpha/web", ["v1"])
    assert (image.container_format, image.disk_format) == ("docker", "raw")
    assert image.size == end["size_bytes"]
    assert image.visibility == "private"
    data = alice.image.download_image(image.id, stream=False).content
    alice.image.delete_image(image.id)

    loaded = docker_client.images.load(data)[0]
    try:
        assert loaded.tags == ["alpha/web:v1"]
        restored = container(image="alpha/web:v1")
        stream, _ = restored.get_archive("/data/file")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            found = tar.extractfile("file")
            assert found is not None
            assert found.read() == CONTENT
    finally:
        container.clean()
        docker_client.images.remove("alpha/web:v1", force=True)

    everything = [event["event_type"] for event in agent.witness.events]
    types = [event_type for event_type in everything if event_type.startswith("image.snapshot.")]
    assert types[0] == SNAPSHOT_START
    assert types[-1] == SNAPSHOT_END
    assert set(types[1:-1]) == {"image.snapshot.progress"}
    until(lambda: len(heard) >= len(everything), "the oslo listener to hear as much as kombu's")
    ours = [each for each in heard if each[0].startswith("image.snapshot.")]
    assert [event_type for event_type, _, _ in ours] == types
    for _, context, payload in ours:
        assert (context["project_id"], context["user_id"]) == (project, user)
        assert (payload["tenant_id"], payload["user_id"]) == (project, user)
    assert "secret-token" not in json.dumps(agent.witness.events)
    assert b"secret-token" not in b"".join(
        path.read_bytes() for path in agent.folder.glob("journal.sqlite*")
    )
    assert "secret-token" not in agent.log()
    assert left_on(docker_client, request_id) == []
    assert agent.stop() == 0


@pytest.fixture
def heard(agent: AgentProcess) -> Iterator[list[Any]]:
    """What an OpenStack service hears that listens to the emitted events."""
    heard: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    class Endpoint:
        def info(self, ctxt: Any, publisher: Any, event_type: Any, payload: Any, _: Any) -> None:
            assert publisher == f"tintype-agent:{agent.host}"
            heard.append((event_type, ctxt, payload))

        error = info

    url = transport_url(agent.broker.url + "?amqp_durable_queues=true")
    transport = oslo_messaging.get_notification_transport(url.conf, url)
    listener = oslo_messaging.get_notification_listener(
        transport,
        [oslo_messaging.Target(exchange=agent.exchange, topic="notifications")],
        [Endpoint()],
        executor="threading",
        pool=f"pool-{agent.host}",
    )
    listener.start()
    yield heard
    listener.stop()
    listener.wait()
    transport.cleanup()


def test_a_user_paused_container_stays_paused_and_a_running_one_runs(
    agent: AgentProcess, container: Containers
) -> None:
    web = container()
    frozen = container()
    frozen.pause()
    agent.start()
    ends = [
        agent.witness.outcome(agent.request(each.id, stores=["directory"]))
        for each in (web, frozen)
    ]
    assert [end["status"] for end in ends] == ["active", "active"]
    assert ends[0]["paused_ms"] > 0
    assert ends[1]["paused_ms"] == 0
    assert state_of(web) == "running"
    assert state_of(frozen) == "paused"


def test_one_commit_goes_to_two_stores(
    agent: AgentProcess, container: Containers, cloud: Cloud
) -> None:
    web = container()
    agent.start()
    end = agent.witness.outcome(agent.request(web.name, stores=["directory", "glance"]))
    assert [(copy["name"], copy["status"]) for copy in end["stores"]] == [
        ("directory", "active"),
        ("glance", "active"),
    ]
    glance = cloud.connection(cloud.service).image
    image = glance.get_image(end["image_id"])
    stored = (agent.folder / "images" / end["image_id"] / "image.tar").read_bytes()
    assert glance.download_image(image.id, stream=False).content == stored
    glance.delete_image(image.id)


def test_what_cannot_be_done_is_answered_with_what_to_change(
    agent: AgentProcess, container: Containers
) -> None:
    made_only = container(ContainerState.OTHER)
    theirs = container(labels={"tintype.project_id": "somebody-else"})
    agent.start()
    cases = {
        agent.request("no-such-container"): (404, "no-such-container"),
        agent.request(made_only.name): (409, "start it"),
        agent.request(theirs.name): (403, "another project"),
        agent.request(made_only.name, stores=["attic"]): (400, "/stores/0"),
        agent.request(theirs.name, image_name="Not/Allowed"): (400, "/image_name"),
        agent.request(theirs.name, host="elsewhere"): (404, "host"),
        agent.request(theirs.name, colour="red"): (400, "/colour"),
    }
    for request_id, (code, words) in cases.items():
        error = agent.witness.outcome(request_id)
        assert error["status"] == "error"
        assert error["fault"]["code"] == code, error
        assert words in error["fault"]["message"]
        assert error["fault"]["retryable"] is False


def test_the_same_request_twice_is_one_snapshot_and_another_body_a_conflict(
    agent: AgentProcess, container: Containers
) -> None:
    web = container()
    agent.start()
    request_id = agent.request(web.name, stores=["directory"])
    agent.request(web.name, stores=["directory"], request_id=request_id)
    end = agent.witness.outcome(request_id)
    agent.request(web.name, stores=["directory"], request_id=request_id, tag="other")
    until(lambda: agent.witness.of(request_id, "image.snapshot.error"), "the conflict")
    conflict = agent.witness.of(request_id, "image.snapshot.error")[0]
    assert conflict["fault"]["code"] == 409
    assert conflict["snapshot_id"] != end["snapshot_id"]
    assert len(agent.witness.of(request_id, SNAPSHOT_END)) == 1
    assert len(list((agent.folder / "images").iterdir())) == 1


def test_deleting_the_image_cancels_the_snapshot(
    agent: AgentProcess, container: Containers, cloud: Cloud, docker_client: DockerClient
) -> None:
    big = container()
    fill(big, 300)
    agent.start()
    request_id = agent.request(big.name, stores=["glance"])
    until(
        lambda: [
            event
            for event in agent.witness.of(request_id, "image.snapshot.progress")
            if event["bytes_done"]
        ],
        "an upload in progress",
    )
    start = agent.witness.of(request_id, SNAPSHOT_START)[0]
    cloud.connection(cloud.service).image.delete_image(start["image_id"])
    error = agent.witness.outcome(request_id)
    assert error["fault"]["code"] == 499
    assert error["fault"]["image_deleted"] is True
    assert left_on(docker_client, request_id) == []


def test_a_deadline_ends_a_snapshot_that_cannot_succeed(
    agent: AgentProcess, container: Containers
) -> None:
    web = container()
    agent.options["glance"]["endpoint_override"] = "http://127.0.0.1:9"
    agent.start()
    soon = datetime.now(UTC) + timedelta(seconds=5)
    error = agent.witness.outcome(
        agent.request(web.name, stores=["glance"], deadline=soon.isoformat())
    )
    assert error["fault"]["code"] == 504
