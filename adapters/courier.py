"""The router's ways onto RabbitMQ: one confirmed publisher for all of its threads."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta

from tintype.adapters.publisher import RabbitPublisher
from tintype.core.errors import Unroutable
from tintype.core.events import Event

ASKED = timedelta(hours=1)
"""How long the queue of a host that is away keeps what all are asked. Agents tell of everything at
their start, and once an hour; without an end, the queue of a dead host would grow for ever."""


def host_topic(request_topic: str, host: str) -> str:
    """Return the topic of requests for one host."""
    return f"{request_topic}.{host}"


def agents_topic(request_topic: str) -> str:
    """Return the topic that the agents of all hosts are bound to."""
    return f"{request_topic}-agents"


class RabbitCourier:
    """A core.dispatcher.Courier. Thread-safe: one event at a time."""

    def __init__(self, publisher: RabbitPublisher, request_topic: str) -> None:
        self._publisher = publisher
        self._request_topic = request_topic
        self._lock = threading.Lock()

    def to_host(self, host: str, event: Event, expires: timedelta) -> None:
        """Put an event into the queue of a host, which the host itself has made."""
        with self._lock:
            self._publisher.send(event, host_topic(self._request_topic, host), expires)

    def to_agents(self, event: Event) -> None:
        """Send an event to the agents of all hosts."""
        with self._lock, contextlib.suppress(Unroutable):
            self._publisher.send(event, agents_topic(self._request_topic), ASKED)

    def tell(self, event: Event) -> None:
        """Publish an event to everybody."""
        with self._lock:
            self._publisher.publish(event)

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._publisher.close()
