"""Subscriptions that steal from nobody: Tintype beside Ceilometer and Mistral, and queues that end.

Every test has a virtual host of its own, so that exchanges, topics and queues have the names that
they have in a deployment: nothing here is configured that has a default.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kombu
import oslo_messaging
import pytest

from tests.support.databases import Server
from tests.support.rabbit import Broker, Inbox, until
from tintype.adapters import envelope
from tintype.adapters.bus import BusListener
from tintype.adapters.courier import RabbitCourier, agents_topic, host_topic
from tintype.adapters.publisher import RabbitPublisher, transport_url
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_index import SqlIndex
from tintype.core.errors import Unroutable
from tintype.core.events import (
    COMMIT_REQUEST,
    CONTAINER_CREATE,
    CONTAINER_DELETE,
    CONTAINER_EXISTS,
    CONTAINER_START,
    EXISTS_REQUEST,
    SCHEMA_VERSION,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_START,
    Event,
)
from tintype.core.snapshot import Copy, Snapshot, image_id_for
from tintype.schemas import validate

OURS, ZUN, NOVA = "tintype", "zun", "nova"
TOPIC, REQUESTS = "notifications", "container-requests"
PRIORITIES = ("audit", "critical", "debug", "error", "info", "sample", "warn")
POOL = "tintype-router"

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"

Told = tuple[str, int]
"""An event type, and the number in the payload: what a consumer is to hear."""


class Ears:
    """What one consumer has heard, in order; repeats included."""

    def __init__(self) -> None:
        self._told: list[Told] = []
        self._lock = threading.Lock()

    def hear(self, event_type: str, payload: Any) -> None:
        with self._lock:
            self._told.append((event_type, number_of(payload)))

    def among(self, numbers: Sequence[int]) -> list[Told]:
        """Return what was heard of these numbers, sorted."""
        with self._lock:
            return sorted(told for told in self._told if told[1] in numbers)


def number_of(payload: Any) -> int:
    """Return a message's number: snapshots have room for one in their metadata only."""
    return int(payload["number"] if "number" in payload else payload["metadata"]["number"])


class RouterProcess:
    """`tintype-listener` with the role of a router: a real process with default settings."""

    def __init__(self, site: Site, folder: Path, **router: object) -> None:
        self.options: dict[str, dict[str, object]] = {
            "listener": {"roles": "router"},
            "agent": {"host": folder.name, "state_dir": folder},
            "bus": {"url": site.broker.url},
            "router": {"index_url": site.index_url, **router},
        }
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        config = self._folder / "tintype.conf"
        lines = []
        for group, options in self.options.items():
            lines.append(f"[{group}]")
            lines += [f"{name} = {str(it).replace('$', '$$')}" for name, it in options.items()]
        config.write_text("\n".join(lines) + "\n")
        with (self._folder / "listener.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tintype.listener", "--config-file", str(config)],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": ""},
            )

    def kill(self) -> None:
        """Kill -9, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()
        log = self._folder / "listener.log"
        print(log.read_text(errors="replace") if log.exists() else "")  # shown when a test fails


class Site:
    """A virtual host as in a deployment, and whoever talks and listens there."""

    def __init__(self, broker: Broker, folder: Path, index_url: str) -> None:
        self.broker = broker
        self.folder = folder
        self.index_url = index_url
        self.at_end = contextlib.ExitStack()
        database = Database(index_url)
        self.at_end.callback(database.close)
        self.index = SqlIndex(database)

    # Who listens

    def transport(self, exchange: str) -> Any:
        """Return the transport of another service, which has all of them durable as ours."""
        url = transport_url(f"{self.broker.url}?amqp_durable_queues=true")
        url.conf.set_override("control_exchange", exchange)
        transport = oslo_messaging.get_notification_transport(url.conf, url)
        self.at_end.callback(transport.cleanup)
        return transport

    def _listens(self, listener: Any) -> None:
        listener.start()
        self.at_end.callback(listener.wait)
        self.at_end.callback(listener.stop)

    def ceilometer(self) -> list[Ears]:
        """Listen as `ceilometer.notification.NotificationService` (27.0) does.

        One batch listener (of batches of one) without a pool, on every exchange of
        `notification_control_exchanges`, to which an operator has added ours; the endpoints are
        those of `ceilometer.pipeline.sample` and `.event`.
        """
        meters, events = Ears(), Ears()

        def taking(ears: Ears) -> Callable[..., str]:
            def take(_: object, notifications: list[dict[str, Any]]) -> str:
                for each in notifications:
                    ears.hear(each["event_type"], each["payload"])
                return str(oslo_messaging.NotificationResult.HANDLED)

            return take

        sample = type("SampleEndpoint", (), dict.fromkeys(["info", "sample"], taking(meters)))
        event = type("EventEndpoint", (), dict.fromkeys(["info", "error"], taking(events)))
        listener = oslo_messaging.get_batch_notification_listener(
            self.transport("ceilometer"),
            [oslo_messaging.Target(topic=TOPIC, exchange=name) for name in (OURS, ZUN, NOVA)],
            [sample(), event()],
            executor="threading",
            allow_requeue=True,
            batch_size=1,
            batch_timeout=None,
        )
        self._listens(listener)
        return [meters, events]

    def mistral(self) -> list[Ears]:
        """Listen as `mistral.messaging.start_listener` (23.0) does for each trigger's exchange.

        Its pool is `mistral-<exchange>-<listener_pool_name>`. Without one it would share
        Ceilometer's queues, and each of the two would get some of the messages: that is
        oslo.messaging's way, and none of our doing.
        """
        heard = []
        for exchange in (OURS, ZUN, NOVA):
            ears = Ears()

            def handle_event(_: object, *message: Any, ears: Ears = ears) -> str:
                _, _, event_type, payload, _ = message
                ears.hear(event_type, payload)
                return str(oslo_messaging.NotificationResult.HANDLED)

            attributes: dict[str, Any] = dict.fromkeys(
                ["audit", "critical", "debug", "error", "info"], handle_event
            )
            # The triggers' events, joined: a match of the beginning is enough.
            attributes["filter_rule"] = oslo_messaging.NotificationFilter(
                event_type=f"container.create.end|{SNAPSHOT_END}|{SNAPSHOT_ERROR}|instance."
            )
            listener = oslo_messaging.get_notification_listener(
                self.transport("mistral"),
                [oslo_messaging.Target(exchange=exchange, topic=TOPIC)],
                [type("MistralNotificationEndpoint", (), attributes)()],
                executor="threading",
                allow_requeue=False,
                pool=f"mistral-{exchange}-events",
            )
            self._listens(listener)
            heard.append(ears)
        return heard

    def router(self, name: str, **options: object) -> RouterProcess:
        """Return a router that shares index and pool with the others."""
        router = RouterProcess(self, self.folder / name, **options)
        self.at_end.callback(router.close)
        return router

    def routed(self, count: int) -> bool:
        """Tell whether so many routers listen to all events, and to requests."""
        consumers = self.broker.queues("consumers")
        return all(consumers.get(queue) == [str(count)] for queue in (POOL, f"{REQUESTS}.info"))

    # Who talks

    def notifier(self, exchange: str, topic: str = TOPIC) -> oslo_messaging.Notifier:
        """Return the notifier of an OpenStack service."""
        return oslo_messaging.Notifier(
            self.transport(exchange), f"{exchange}:host", driver="messagingv2", topics=[topic]
        )

    def publisher(self, topic: str = TOPIC) -> RabbitPublisher:
        """Return our own way out."""
        publisher = RabbitPublisher(
            self.broker.url, exchange=OURS, topic=topic, publisher_id="tintype-agent:host-1"
        )
        self.at_end.callback(publisher.close)
        return publisher

    def by_kombu(self, exchange: str, event_type: str, payload: dict[str, Any]) -> None:
        """Publish to an exchange that is there already, with nothing of OpenStack's."""
        body = envelope.seal(Event(event_type, payload, id=str(uuid.uuid4())), "plain.kombu")
        with self.broker.kombu(transport_options={"confirm_publish": True}) as connection:
            connection.Producer().publish(
                body,
                exchange=exchange,
                routing_key=f"{TOPIC}.info",
                content_type=envelope.CONTENT_TYPE,
                content_encoding="utf-8",
                mandatory=True,
            )

    def depth(self, queue: str) -> int:
        """Return how many messages are in a queue, unacknowledged ones included."""
        return int(self.broker.queues("messages")[queue][0])

    def set_policy(self, name: str, pattern: str, rules: dict[str, Any]) -> None:
        """Set a policy for queues, as an operator does."""
        self.broker.ctl(
            *("set_policy", "-p", self.broker.vhost, "--apply-to", "queues"),
            *(name, pattern, json.dumps(rules)),
        )

    def exchanges(self) -> dict[str, str]:
        """Return the exchanges that are there: name -> whether it is durable."""
        listing = self.broker.ctl(
            "list_exchanges", "-p", self.broker.vhost, "--no-table-headers", "name", "durable"
        )
        rows = [line.split("\t") for line in listing.splitlines() if "\t" in line]
        return {name: durable for name, durable in rows if name and not name.startswith("amq.")}


@pytest.fixture
def site(broker: Broker, servers: dict[str, Server], tmp_path: Path) -> Iterator[Site]:
    """A virtual host and an index that is in PostgreSQL, for several routers share it."""
    server = servers.setdefault("postgresql", servers.get("postgresql") or Server("postgresql"))
    vhost = f"{broker.vhost}-{uuid.uuid4().hex[:8]}"
    user = broker.url.partition("://")[2].partition(":")[0]
    own = replace(broker, url=f"{broker.url.rpartition('/')[0]}/{vhost}", vhost=vhost)
    own.ctl("add_vhost", vhost)
    own.ctl("set_permissions", "-p", vhost, user, ".*", ".*", ".*")
    site = Site(own, tmp_path, server.new())
    yield site
    site.at_end.close()
    own.ctl("delete_vhost", vhost)


def container(number: int, **facts: Any) -> dict[str, Any]:
    """Return what an agent tells of container number so-and-so."""
    told = {
        "event_id": str(uuid.uuid4()),
        "schema_version": SCHEMA_VERSION,
        "occurred_at": datetime.now(UTC).isoformat(),
        "container_uuid": f"container-{number}",
        "container_name": f"name-{number}",
        "host": "host-1",
        "state": "Running",
        "number": number,
    }
    return told | facts


def tell(site: Site, numbers: Sequence[int], **facts: Any) -> None:
    """Tell of containers as an agent does."""
    publisher = site.publisher()
    for number in numbers:
        told = container(number, **facts)
        publisher.publish(Event(CONTAINER_EXISTS, told, id=told["event_id"]))


def ask_for(site: Site, ident: str) -> str:
    """Ask for a snapshot of whatever container that is; return the request's id."""
    request_id = str(uuid.uuid4())
    request = {"container": ident, "image_name": "web", "request_id": request_id}
    site.publisher(REQUESTS).publish(Event(COMMIT_REQUEST, request, id=request_id))
    return request_id


def snapshot(number: int) -> Snapshot:
    """Return snapshot number so-and-so, of the container with that number."""
    request_id = str(uuid.uuid4())
    request = {"request_id": request_id, "image_name": "web", "metadata": {"number": str(number)}}
    begun = Snapshot.begin(
        Event(COMMIT_REQUEST, request), host="host-1", created_at=datetime.now(UTC).isoformat()
    )
    copy = Copy("directory", image_id_for(request_id))
    return replace(begun, container_uuid=f"container-{number}", copies=(copy,))


class Publishers:
    """Several services that tell of containers, snapshots and instances, over three exchanges."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._zun, self._nova = site.notifier(ZUN), site.notifier(NOVA)
        self._ours = site.publisher()
        self.snapshots: list[str] = []
        """Ids of the requests."""

    def tell(self, number: int) -> None:
        """Tell all that is told about one number: to each container and instance the same."""
        zuns = {
            "uuid": f"zun-{number}",
            "name": f"zun-name-{number}",
            "status": "Running",
            "host": "host-2",
            "project_id": "alpha",
        }
        wrapped = {"zun_object.name": "Container", "zun_object.data": zuns, "number": number}
        self._zun.info({}, CONTAINER_CREATE, wrapped)
        self._nova.info({}, "instance.create.end", {"number": number})
        self._nova.error({}, "instance.create.error", {"number": number})
        self._nova.audit({}, "instance.exists", {"number": number})
        self._nova.sample({}, "telemetry.polling", {"number": number})
        self._say(CONTAINER_CREATE, container(number, state="Other"))
        self._say(CONTAINER_START, container(number))
        self._say(CONTAINER_DELETE, container(number, container_uuid=f"gone-{number}"))
        self._site.by_kombu(ZUN, CONTAINER_EXISTS, {"uuid": f"bare-{number}", "number": number})
        taken = snapshot(number)
        now = datetime.now(UTC).isoformat()
        for event in (
            taken.event(SNAPSHOT_START, status="queued"),
            replace(taken, sha256="0" * 64, size_bytes=1, finished_at=now).event(
                SNAPSHOT_END, status="active", duration_ms=1
            ),
        ):
            self._say(event.type, event.payload)
        self.snapshots.append(taken.request_id)

    def _say(self, event_type: str, payload: Any) -> None:
        assert not validate(event_type, payload), payload
        self._ours.publish(Event(event_type, payload, id=payload["event_id"]))

    @staticmethod
    def to_meters(number: int) -> list[Told]:
        """Return what Ceilometer is to make samples of."""
        kinds = [
            *(CONTAINER_CREATE, CONTAINER_CREATE, CONTAINER_START, CONTAINER_DELETE),
            *(CONTAINER_EXISTS, SNAPSHOT_START, SNAPSHOT_END),
            *("instance.create.end", "telemetry.polling"),
        ]
        return [(kind, number) for kind in kinds]


def test_others_hear_what_they_hear_without_us_and_the_index_hears_all(site: Site) -> None:
    ears = [*site.ceilometer(), *site.mistral()]
    publishers = Publishers(site)
    without, beside = range(20), range(100, 120)

    def heard(numbers: Sequence[int]) -> list[list[Told]]:
        return [
            [(kind, number - numbers[0]) for kind, number in each.among(numbers)] for each in ears
        ]

    def drained() -> bool:
        taken = site.broker.queues("messages")
        del taken[f"{TOPIC}.audit"]  # Ceilometer takes no audits, and who pools reads elsewhere
        return all(messages == ["0"] for messages in taken.values())

    for number in without:
        publishers.tell(number)
    until(drained, "the others to have taken everything")
    before = heard(without)
    assert before[0] == sorted(told for number in without for told in publishers.to_meters(number))
    assert all(before), before

    routers = [site.router("router-1"), site.router("router-2")]
    for router in routers:
        router.start()
    until(lambda: site.routed(2), "two routers")
    publishers.snapshots.clear()
    for number in beside:
        publishers.tell(number)
    until(drained, "all to have taken everything")
    assert heard(beside) == before

    living = {record.uuid: record for record in site.index.containers()}
    assert set(living) == {
        f"{kind}-{number}" for kind in ("container", "zun", "bare") for number in beside
    }
    for number in beside:
        assert living[f"container-{number}"].state.value == "Running"
        assert living[f"zun-{number}"].facts["project_id"] == "alpha"
        gone = site.index.container(f"gone-{number}")
        assert gone is not None
        assert gone.deleted_at is not None
    found = {record.request_id: record.payload["status"] for record in site.index.snapshots()}
    assert found == dict.fromkeys(publishers.snapshots, "active")


def policies_for(queue: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the policies that docs/operating.md has for a queue: name, pattern, rules."""
    text = re.sub(r"\\\n\s*", "", OPERATING.read_text())
    commands = re.findall(r"^\s*rabbitmqctl set_policy (.*)$", text, re.MULTILINE)
    found = [shlex.split(command)[:3] for command in commands]
    return [(name, it, json.loads(rules)) for name, it, rules in found if re.search(it, queue)]


def test_no_queue_grows_without_end_where_nobody_else_reads(site: Site) -> None:
    """An unread `notifications.<priority>` is all that can, and the docs' policy bounds it."""
    bound = 25
    ((name, pattern, rules),) = policies_for(f"{TOPIC}.info")
    assert rules["max-length"] > bound
    site.set_policy(name, pattern, rules | {"max-length": bound})
    routers = [site.router("router-1"), site.router("router-2")]
    for router in routers:
        router.start()
    until(lambda: site.routed(2), "two routers")
    tell(site, range(3 * bound))
    # A request for a container that nobody has: every agent is asked, and the requester answered.
    ask_for(site, "nobody-has-it")
    until(
        lambda: f"{TOPIC}.error" in site.broker.queues("messages") and site.depth(POOL) == 0,
        "the answer, and that the routers have heard everything",
    )
    assert {record.uuid for record in site.index.containers()} == {
        f"container-{number}" for number in range(3 * bound)
    }
    # Nothing for the topic of all agents: where there is no agent, nobody is asked.
    assert not [name for name in site.broker.queues("name") if agents_topic(REQUESTS) in name]
    assert {name: int(depth) for name, (depth,) in site.broker.queues("messages").items()} == {
        POOL: 0,
        **{f"{REQUESTS}.{priority}": 0 for priority in PRIORITIES},
        f"{TOPIC}.info": bound,
        f"{TOPIC}.error": 1,
    }


def stay_away(site: Site, host: str) -> str:
    """Have an agent make the queues of its host and be gone for good; return its queue."""
    inbox = Inbox()
    listener = BusListener(
        site.broker.url,
        exchange=OURS,
        topics=[host_topic(REQUESTS, host)],
        also=[agents_topic(REQUESTS)],
        on_message=inbox.take,
        on_garbage=inbox.bury,
    )
    listener.start()
    until(lambda: listener.healthy, "the agent")
    queue = f"{host_topic(REQUESTS, host)}.info"
    courier = RabbitCourier(site.publisher(), REQUESTS)
    courier.to_agents(Event(EXISTS_REQUEST, {}, id="hello"))
    until(lambda: inbox.messages, "the agent to be bound to what all are asked")
    assert listener.stop(60)
    until(lambda: site.broker.queues("consumers")[queue] == ["0"], "its end")
    return queue


def kept(site: Site, queue: str) -> list[tuple[str, float | None]]:
    """Return what is in a queue, which stays there: event type, and for how many seconds more."""
    found = []
    with site.broker.kombu() as connection:
        bound = kombu.Queue(queue, channel=connection.channel())
        while (message := bound.get(no_ack=False)) is not None:
            event = envelope.unseal(message.body.encode())
            lasts = message.properties.get("expiration")
            found.append((str(event.event_type), lasts and int(lasts) / 1000))
    return found


def test_what_a_dead_host_is_sent_goes_by_itself(site: Site) -> None:
    queue = stay_away(site, "dead")
    courier = RabbitCourier(site.publisher(), REQUESTS)
    for number in range(20):
        request = Event(COMMIT_REQUEST, {"number": number}, id=str(number))
        courier.to_host("dead", request, timedelta(seconds=1))
    until(lambda: site.depth(queue) == 0, "the requests to expire")
    # What all hosts are asked, too, or every question would be kept for a host that is no more.
    courier.to_agents(Event(EXISTS_REQUEST, {}, id="everything"))
    ((kind, seconds),) = kept(site, queue)
    assert kind == EXISTS_REQUEST
    assert seconds is not None
    assert seconds <= 3600


def test_a_request_to_a_dead_host_is_answered_and_leaves_its_queue(site: Site) -> None:
    queue = stay_away(site, "dead")
    site.router("router-1", host_timeout=1, grace=1).start()
    until(lambda: site.routed(1), "the router")
    tell(site, [1], host="dead")
    until(site.index.containers, "the container")
    request_id = ask_for(site, "container-1")
    until(site.index.snapshots, "the answer")
    (answer,) = site.index.snapshots()
    assert answer.payload["request_id"] == request_id
    assert answer.payload["fault"]["code"] == 504
    # What expires goes when it comes to the head. A withdrawal is kept for a day: a host that
    # comes back by then is to see it.
    until(
        lambda: COMMIT_REQUEST not in [kind for kind, _ in kept(site, queue)],
        "the request to expire",
    )
    assert all(seconds is not None for _, seconds in kept(site, queue))


def test_the_pool_of_routers_that_are_down_can_be_bounded(site: Site) -> None:
    """It keeps what they are to hear, and so grows until one is back."""
    bound = 5
    ((name, pattern, rules),) = policies_for(POOL)
    assert rules["max-length"] > bound
    site.set_policy(name, pattern, rules | {"max-length": bound})
    router = site.router("router-1")
    router.start()
    until(lambda: site.routed(1), "the router")
    router.kill()
    until(lambda: site.routed(0), "its end")
    tell(site, range(3 * bound))
    assert site.depth(POOL) == bound
    assert site.depth(f"{TOPIC}.info") == 3 * bound
    router.start()
    until(lambda: site.index.containers() and site.depth(POOL) == 0, "it to be back")
    assert [record.uuid for record in site.index.containers()] == sorted(
        f"container-{number}" for number in range(2 * bound, 3 * bound)
    )


def test_the_queue_of_a_host_that_is_gone_for_good_goes_with_a_policy(site: Site) -> None:
    """A message without an end keeps all that come after it: RabbitMQ lets go at the head only.

    What an agent asks of itself (triggers) is such a message, never to be lost. An agent that is
    stopped for good may leave one.
    """
    queue = stay_away(site, "dead")
    own = Event(COMMIT_REQUEST, {"container": "web"}, id="own")
    site.publisher(host_topic(REQUESTS, "dead")).publish(own)
    courier = RabbitCourier(site.publisher(), REQUESTS)
    courier.to_host("dead", Event(COMMIT_REQUEST, {}, id="1"), timedelta(milliseconds=100))
    courier.to_host("dead", Event(COMMIT_REQUEST, {}, id="2"), timedelta(milliseconds=500))
    time.sleep(1)  # both have expired
    assert site.depth(queue) == 3
    site.set_policy("gone", rf"^{re.escape(REQUESTS)}\..+\.", {"expires": 1000})
    until(lambda: queue not in site.broker.queues("messages"), "the queue to go")
    with pytest.raises(Unroutable):  # which a router answers like any other silence
        courier.to_host("dead", Event(COMMIT_REQUEST, {}, id="3"), timedelta(seconds=9))


def test_other_services_exchanges_are_theirs(site: Site) -> None:
    """Never made by us, and heard as they are: Nova's is not durable by default."""
    with site.broker.kombu() as connection:
        kombu.Exchange(NOVA, "topic", durable=False, channel=connection.channel()).declare()
    site.router("router-1").start()
    until(lambda: site.routed(1), "the router")
    until(lambda: _bound(site, NOVA), "the binding")
    assert site.exchanges() == {OURS: "true", NOVA: "false"}
    site.by_kombu(NOVA, CONTAINER_EXISTS, {"uuid": "on-novas-exchange", "number": 1})
    until(site.index.containers, "what was published to it")
    # A topic of its own may be as transient as Nova likes: nobody here knows of it.
    url = transport_url(f"{site.broker.url}?amqp_durable_queues=false")
    url.conf.set_override("control_exchange", NOVA)
    transport = oslo_messaging.get_notification_transport(url.conf, url)
    site.at_end.callback(transport.cleanup)
    notifier = oslo_messaging.Notifier(
        transport, "nova", driver="messagingv2", topics=["versioned_notifications"]
    )
    notifier.info({}, "instance.create.end", {"number": 1})
    queues = site.broker.queues("durable", "messages")
    assert queues["versioned_notifications.info"] == ["false", "1"]
    # On our topic a queue is there only once somebody publishes to it: routers make none.
    assert not [name for name in queues if name.startswith(f"{TOPIC}.")]
    assert site.exchanges() == {OURS: "true", NOVA: "false"}


def _bound(site: Site, exchange: str) -> bool:
    listing = site.broker.ctl(
        *("list_bindings", "-p", site.broker.vhost, "--no-table-headers"),
        *("source_name", "destination_name"),
    )
    return f"{exchange}\t{POOL}" in listing


def test_what_is_said_while_all_routers_are_down_is_heard_afterwards(site: Site) -> None:
    routers = [site.router("router-1"), site.router("router-2")]
    for router in routers:
        router.start()
    until(lambda: site.routed(2), "two routers")
    tell(site, range(10))
    for router in routers:
        router.kill()
    until(lambda: site.routed(0), "their end")
    tell(site, range(10, 50))
    assert site.depth(POOL) >= 40
    for router in routers:
        router.start()
    until(lambda: len(site.index.containers()) == 50, "all that was said")
    until(lambda: site.depth(POOL) == 0, "the pool to be drained")
