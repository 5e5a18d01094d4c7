"""What every Courier does, run on the in-memory twin and on a real RabbitMQ."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Protocol

import kombu
import pytest

from tests.support.rabbit import Line, until
from tintype.adapters.courier import RabbitCourier, agents_topic, host_topic
from tintype.adapters.memory_courier import MemoryCourier
from tintype.adapters.publisher import RabbitPublisher
from tintype.core.dispatcher import Courier
from tintype.core.errors import Unroutable
from tintype.core.events import EXISTS_REQUEST, Event

LONG = timedelta(minutes=10)


def event(number: int, event_type: str = "container.commit.request") -> Event:
    ident = str(uuid.uuid4())
    return Event(event_type, {"number": number, "event_id": ident}, id=ident)


class World(Protocol):
    """A courier, and those it brings things to."""

    courier: Courier

    def add_host(self, name: str) -> None:
        """Give a host a queue."""

    def fetched(self, host: str) -> list[dict[str, Any]]:
        """Take what is in a host's queue: payloads."""

    def told(self) -> list[dict[str, Any]]:
        """Return what was published."""

    def asked(self) -> list[dict[str, Any]]:
        """Return what one agent was asked."""


class MemoryWorld:
    """The twin."""

    def __init__(self) -> None:
        self.twin = MemoryCourier()
        self.courier: Courier = self.twin

    def add_host(self, name: str) -> None:
        self.twin.hosts[name] = []

    def fetched(self, host: str) -> list[dict[str, Any]]:
        events, self.twin.hosts[host] = self.twin.hosts[host], []
        return [dict(each.payload) for each in events]

    def told(self) -> list[dict[str, Any]]:
        return [dict(each.payload) for each in self.twin.told]

    def asked(self) -> list[dict[str, Any]]:
        return [dict(each.payload) for each in self.twin.asked]


class RabbitWorld:
    """A real broker. A host is a queue as its agent makes it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        publisher: RabbitPublisher = line.publisher(topic=f"notifications-{line.topic}")
        self.courier: Courier = RabbitCourier(publisher, line.topic)
        self._bind(f"told-{line.topic}", f"notifications-{line.topic}.#")
        self._bind(f"asked-{line.topic}", f"{agents_topic(line.topic)}.info")

    def _bind(self, queue: str, key: str) -> None:
        exchange = kombu.Exchange(self._line.exchange, "topic", durable=True)
        with self._line.broker.kombu() as connection:
            kombu.Queue(queue, exchange, key, durable=True, channel=connection.channel()).declare()

    def _drain(self, queue: str) -> list[dict[str, Any]]:
        found = []
        with self._line.broker.kombu() as connection:
            bound = kombu.Queue(queue, channel=connection.channel())
            while (message := bound.get(no_ack=True)) is not None:
                found.append(json.loads(message.payload["oslo.message"])["payload"])
        return found

    def add_host(self, name: str) -> None:
        topic = host_topic(self._line.topic, name)
        self._bind(f"{topic}.info", f"{topic}.info")

    def fetched(self, host: str) -> list[dict[str, Any]]:
        return self._drain(f"{host_topic(self._line.topic, host)}.info")

    def told(self) -> list[dict[str, Any]]:
        return self._drain(f"told-{self._line.topic}")

    def asked(self) -> list[dict[str, Any]]:
        return self._drain(f"asked-{self._line.topic}")


@pytest.fixture(params=["memory", "rabbit"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made: World = (
        MemoryWorld() if request.param == "memory" else RabbitWorld(request.getfixturevalue("line"))
    )
    yield made
    made.courier.close()


def test_a_host_gets_its_own_in_order(world: World) -> None:
    world.add_host("a")
    world.add_host("b")
    sent = [event(number) for number in range(3)]
    world.courier.to_host("a", sent[0], LONG)
    world.courier.to_host("b", sent[1], LONG)
    world.courier.to_host("a", sent[2], LONG)
    assert [each["number"] for each in world.fetched("a")] == [0, 2]
    assert [each["number"] for each in world.fetched("b")] == [1]


def test_a_host_without_a_queue_is_unroutable_and_gets_none(world: World) -> None:
    with pytest.raises(Unroutable):
        world.courier.to_host("nobody", event(1), LONG)
    world.add_host("nobody")
    assert world.fetched("nobody") == []
    world.courier.to_host("nobody", event(2), LONG)
    assert [each["number"] for each in world.fetched("nobody")] == [2]


def test_all_agents_are_asked_and_none_need_be_there(world: World) -> None:
    world.courier.to_agents(event(1, EXISTS_REQUEST))
    assert [each["number"] for each in world.asked()] == [1]


def test_what_is_told_is_published(world: World) -> None:
    world.courier.tell(event(1, "image.snapshot.error"))
    assert [each["number"] for each in world.told()] == [1]


def test_an_agent_that_is_not_there_costs_nothing(line: Line) -> None:
    courier = RabbitCourier(line.publisher(), line.topic)
    courier.to_agents(event(1, EXISTS_REQUEST))
    assert not [queue for queue in line.broker.queues("messages") if line.topic in queue]


def test_what_a_host_does_not_fetch_in_time_is_gone(line: Line) -> None:
    world = RabbitWorld(line)
    world.add_host("a")
    world.courier.to_host("a", event(1), timedelta(milliseconds=200))
    world.courier.to_host("a", event(2), LONG)
    queue = f"{host_topic(line.topic, 'a')}.info"
    until(lambda: line.broker.queues("messages")[queue] == ["1"], "the first to expire")
    assert [each["number"] for each in world.fetched("a")] == [2]
