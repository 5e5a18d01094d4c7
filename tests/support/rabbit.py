"""Fixtures for a real RabbitMQ: TINTYPE_TEST_AMQP_URL and TINTYPE_TEST_RABBITMQCTL name it.

A test that needs the broker fails where there is none: a suite that skips what it cannot reach says
nothing. Every run has a virtual host of its own, every test an exchange and a topic of its own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import amqp
import kombu
import oslo_messaging
import pytest

from tintype.adapters import envelope
from tintype.adapters.bus import BusListener
from tintype.adapters.publisher import RabbitPublisher, transport_url
from tintype.core.events import Event, Message

DEADLINE = 90.0
"""Seconds after which a test gives up waiting; no measure of anything."""


def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {DEADLINE} s in vain for {what}")
        time.sleep(0.05)


@dataclass
class Broker:
    """A virtual host on the development stack's RabbitMQ."""

    url: str
    """For oslo.messaging and our adapters."""
    vhost: str
    ctl_command: list[str]

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl and return what it printed."""
        done = subprocess.run(
            [*self.ctl_command, "--quiet", *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.fail(f"rabbitmqctl {arguments}: {done.stderr or done.stdout}")
        return done.stdout

    def stop(self) -> None:
        """Stop the broker's application: all connections break, new ones are refused."""
        self.ctl("stop_app")

    def start(self) -> None:
        """Start the application again and wait for it."""
        self.ctl("start_app")
        self.ctl("await_startup")

    def kombu(self, **options: Any) -> kombu.Connection:
        """Return a plain kombu connection."""
        return kombu.Connection(self.url.replace("rabbit://", "amqp://", 1), **options)

    def amqp(self) -> amqp.Connection:
        """Return a plain amqp connection, connected."""
        parts = urlsplit(self.url)
        connection = amqp.Connection(
            f"{parts.hostname}:{parts.port}",
            parts.username,
            parts.password,
            virtual_host=self.vhost,
            confirm_publish=True,
        )
        connection.connect()
        return connection

    def queues(self, *columns: str) -> dict[str, list[str]]:
        """Return rabbitmqctl's view of the queues: name -> columns."""
        listing = self.ctl("list_queues", "-p", self.vhost, "--no-table-headers", "name", *columns)
        rows = [line.split("\t") for line in listing.splitlines() if "\t" in line]
        return {row[0]: row[1:] for row in rows}

    def backlog(self, queue: str) -> tuple[int, int]:
        """Return how many messages of a queue are ready and how many unacknowledged."""
        ready, unacknowledged = self.queues("messages_ready", "messages_unacknowledged")[queue]
        return int(ready), int(unacknowledged)


@dataclass
class Inbox:
    """What a listener handed on."""

    messages: list[Message] = field(default_factory=list)
    garbage: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, message: Message) -> None:
        with self.lock:
            self.messages.append(message)

    def bury(self, reason: str, description: Mapping[str, Any]) -> None:
        with self.lock:
            self.garbage.append((reason, description))

    def of_type(self, event_type: object) -> list[Message]:
        with self.lock:
            return [message for message in self.messages if message.event_type == event_type]


@dataclass
class Line:
    """One exchange and topic, and whatever talks and listens there."""

    broker: Broker
    exchange: str
    topic: str
    _at_end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def queue(self) -> str:
        """The queue of priority INFO."""
        return f"{self.topic}.info"

    def listen(self, inbox: Inbox, **options: Any) -> BusListener:
        """Start a listener and wait until it consumes; stopped when the test ends."""
        listener = self.listener(inbox, **options)
        listener.start()
        until(lambda: listener.healthy, "a listener that consumes")
        return listener

    def listener(self, inbox: Inbox, **options: Any) -> BusListener:
        """Make a listener; stopped when the test ends."""
        settings: dict[str, Any] = {
            "exchange": self.exchange,
            "topics": [self.topic],
            "on_message": inbox.take,
            "on_garbage": inbox.bury,
            "retry_seconds": 0.2,
        }
        listener = BusListener(self.broker.url, **settings | options)
        self._at_end.callback(listener.stop, DEADLINE)
        return listener

    def publisher(self, url: str | None = None, **options: Any) -> RabbitPublisher:
        """Make a publisher; closed when the test ends."""
        settings: dict[str, Any] = {
            "exchange": self.exchange,
            "topic": self.topic,
            "publisher_id": "tintype-agent:host-1",
            "timeout": 5.0,
        }
        publisher = RabbitPublisher(url or self.broker.url, **settings | options)
        self._at_end.callback(publisher.close)
        return publisher

    def notifier(self) -> oslo_messaging.Notifier:
        """Return oslo.messaging's own notifier for this line."""
        url = transport_url(self.broker.url + "?amqp_durable_queues=true")
        url.conf.set_override("control_exchange", self.exchange)
        transport = oslo_messaging.get_notification_transport(url.conf, url)
        self._at_end.callback(transport.cleanup)
        return oslo_messaging.Notifier(
            transport, "plain.oslo", driver="messagingv2", topics=[self.topic]
        )

    def send(
        self, body: bytes, *, content_type: str | None = envelope.CONTENT_TYPE, **properties: Any
    ) -> None:
        """Publish a body with kombu, confirmed, to the queue of priority INFO."""
        with self.broker.kombu(transport_options={"confirm_publish": True}) as connection:
            connection.Producer().publish(
                body,
                exchange=kombu.Exchange(self.exchange, "topic", durable=True),
                routing_key=self.queue,
                content_type=content_type or "",
                content_encoding=properties.pop("content_encoding", "utf-8"),
                mandatory=True,
                **properties,
            )

    def good(self, number: int) -> bytes:
        """Return the body of a message that is as it should be."""
        return envelope.seal(Event("good", {"number": number}, id=f"good-{number}"), "test")

    def close(self) -> None:
        """Stop whatever listens or talks here."""
        self._at_end.close()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A virtual host for this test run."""
    url, command = _variable("AMQP_URL"), shlex.split(_variable("RABBITMQCTL"))
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), 10).close()
    except OSError as error:
        pytest.fail(f"no RabbitMQ at {parts.hostname}:{parts.port}: {error}")
    vhost = f"tintype-test-{uuid.uuid4().hex[:8]}"
    broker = Broker(parts._replace(path=f"/{vhost}").geturl(), vhost, command)
    broker.ctl("add_vhost", vhost)
    broker.ctl("set_permissions", "-p", vhost, str(parts.username), ".*", ".*", ".*")
    yield broker
    broker.ctl("delete_vhost", vhost)


@pytest.fixture
def line(broker: Broker) -> Iterator[Line]:
    """An exchange and a topic for this test."""
    name = uuid.uuid4().hex[:8]
    line = Line(broker, f"exchange-{name}", f"topic-{name}")
    yield line
    line.close()


def _variable(name: str) -> str:
    value = os.environ.get(f"TINTYPE_TEST_{name}")
    if not value:
        pytest.fail(f"TINTYPE_TEST_{name} is not set: tools/stack.py up; eval its `env`")
    return value
