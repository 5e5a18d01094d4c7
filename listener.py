"""The listener: agent and router on a real bus, in one process or in several.

What works is in agent.py and router.py; here RabbitMQ is put in front of it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tintype.adapters.bus import BusListener
from tintype.adapters.courier import RabbitCourier, agents_topic, host_topic
from tintype.adapters.publisher import RabbitPublisher
from tintype.adapters.sqlite_journal import JournalInUse, SqliteJournal
from tintype.agent import Agent
from tintype.config import ConfigError, Settings, load
from tintype.core.events import COMMIT_REQUEST, Event
from tintype.router import Ears, RouterService

LOG = logging.getLogger(__name__)

EVENTS_AT_ONCE = 50
"""Events that a router holds: a pool is one queue with one consumer, for all that is said."""

EVENT_THREADS = 8
"""Those that wait for a transaction share the next one."""


def make_publisher(settings: Settings, role: str) -> RabbitPublisher:
    """Return a way for what a role says onto the configured broker.

    What is asked for on this host, by a trigger, goes to its own topic like any other request.
    """
    bus = settings.bus

    def topic(event: Event) -> str:
        own = event.type == COMMIT_REQUEST
        return host_topic(bus.request_topic, settings.host) if own else bus.notification_topic

    return RabbitPublisher(
        bus.url,
        exchange=bus.exchange,
        topic=topic,
        publisher_id=f"tintype-{role}:{settings.host}",
        quorum=bus.quorum,
    )


def make_listener(settings: Settings, topic: str, **options: Any) -> BusListener:
    """Return a listener on the configured broker."""
    bus, own = settings.bus, settings.bus.exchange
    return BusListener(
        bus.url,
        exchange=own,
        foreign_exchanges=[name for name in bus.listen_exchanges if name != own],
        topics=[topic],
        **{
            "prefetch": bus.prefetch,
            "max_message_bytes": bus.max_message_bytes,
            "quorum": bus.quorum,
            **options,
        },
    )


class Part(Protocol):
    """A role on the bus."""

    def start(self) -> None:
        """Begin to work, or to wait for what is needed and away."""

    def stop(self, seconds: float) -> None:
        """Stop in order: taking, working, telling."""


class AgentOnBus:
    """The agent behind its host's topic."""

    def __init__(self, settings: Settings, journal: SqliteJournal | None = None) -> None:
        """Open the journal; nothing runs yet. Raises ConfigError, JournalInUse."""
        self._agent = Agent(settings, make_publisher(settings, "agent"), journal=journal)
        self._requests = make_listener(
            settings,
            host_topic(settings.bus.request_topic, settings.host),
            also=[agents_topic(settings.bus.request_topic)],
            on_message=self._agent.intake.on_message,
            on_garbage=self._agent.intake.on_garbage,
            on_bound=self._on_listening,
        )
        self._host = settings.host

    def start(self) -> None:
        """Take up what an earlier run left, and listen."""
        self._agent.start()
        self._requests.start()

    def _on_listening(self) -> None:
        LOG.info("tintype agent on %s is listening", self._host)
        # A router that asked before this host could hear it has not had an answer.
        self._agent.watcher.ask()

    def stop(self, seconds: float) -> None:
        """Stop taking, working, telling."""
        self._requests.stop(seconds)
        self._agent.stop()


class RouterOnBus:
    """A router behind the shared topic of requests, with all events coming into its index."""

    def __init__(self, settings: Settings) -> None:
        """Make the parts. Raises ConfigError."""
        courier = RabbitCourier(make_publisher(settings, "router"), settings.bus.request_topic)
        grace = settings.router.grace
        # The listeners are made below, for they feed what is made here.
        events = ears_of(lambda: self._events, grace)
        requests = ears_of(lambda: self._requests, grace)
        self._service = RouterService(settings, courier, events, requests)
        router = self._service.router
        self._events = make_listener(
            settings,
            settings.bus.notification_topic,
            pool=settings.index_pool,
            prefetch=EVENTS_AT_ONCE,
            threads=EVENT_THREADS,
            on_message=router.on_event,
            on_garbage=lambda reason, _: LOG.info("not an event: %s", reason),
            on_bound=self._service.on_listening,
        )
        self._requests = make_listener(
            settings,
            settings.bus.request_topic,
            on_message=router.on_request,
            on_garbage=router.on_garbage,
            on_bound=lambda: LOG.info("tintype router on %s is listening", settings.host),
        )

    def start(self) -> None:
        """Listen as soon as the index is in shape."""
        self._service.start(self._listen)

    def _listen(self) -> None:
        self._events.start()
        self._requests.start()

    def stop(self, seconds: float) -> None:
        """Stop taking, then working; what is under way another router goes on with."""
        self._service.begin_stop()
        at_once(lambda: self._requests.stop(seconds), lambda: self._events.stop(seconds))
        self._service.stop()


def ears_of(listener: Callable[[], BusListener], quiet_seconds: float) -> Ears:
    """Return what tells how well a listener hears."""
    return Ears(lambda: listener().healthy, lambda: listener().backlog(), quiet_seconds)


PARTS: Mapping[str, Callable[[Settings], Part]] = {"agent": AgentOnBus, "router": RouterOnBus}
"""Every role."""


def make_parts(settings: Settings) -> list[Part]:
    """Return the configured roles. Raises ConfigError, JournalInUse."""
    roles = settings.listener.roles
    if not roles or any(role not in PARTS for role in roles):
        raise ConfigError(f"[listener] roles: expected some of {', '.join(PARTS)}, got {roles}")
    return [PARTS[role](settings) for role in dict.fromkeys(roles)]


def serve(settings: Settings, parts: Sequence[Part]) -> None:
    """Work until SIGTERM or SIGINT, then stop in order."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for part in parts:
        part.start()
    stop.wait()
    LOG.info("stopping")
    seconds = settings.agent.graceful_timeout
    at_once(*(partial(part.stop, seconds) for part in parts))


def at_once(*calls: Callable[[], object]) -> None:
    """Make calls side by side, and wait for all of them."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(argv: list[str] | None = None) -> int:
    """Run agent, router or both: the command `tintype-listener`."""
    parser = argparse.ArgumentParser(
        prog="tintype-listener",
        description="Snapshot containers on request of the bus (agent, on a Docker host), and find"
        " the host of each request (router).",
    )
    parser.add_argument("--config-file", action="append", default=[], type=Path)
    parser.add_argument("--debug", action="store_true", help="log every detail")
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        settings = load([str(path) for path in arguments.config_file])
        serve(settings, make_parts(settings))
    except (ConfigError, JournalInUse, OSError, RuntimeError, ValueError) as error:
        print(f"tintype-listener: {error}", file=sys.stderr)  # noqa: T201 - a command's last word
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
