"""Tintype without broker and OpenStack: what `tintype serve` runs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import waitress
from oslo_middleware.request_id import RequestId

from tintype.adapters.memory_bus import MemoryBus
from tintype.agent import Agent
from tintype.api import Wsgi, make_app, make_commits, make_restores
from tintype.config import Settings, load_for_oslo
from tintype.core.errors import Unroutable
from tintype.core.events import COMMIT_REQUEST, Event, Message, Requester, event_line
from tintype.core.intake import Intake
from tintype.core.router import Router
from tintype.rest.app import create_app
from tintype.rest.identity import LoopbackIdentity
from tintype.router import Ears, RouterService


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; every event goes to standard output as a line of JSON."""
    bus = MemoryBus()
    agent = Agent(settings, bus, requester_of=_own_requester)
    courier = OneHost(settings.host, agent.intake, bus)
    ears = Ears(lambda: True, lambda: 0, 0.0)  # what is said in one process is heard at once
    service = RouterService(_patient(settings), courier, ears, ears, _own_requester)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    service.database.upgrade()
    bus.subscribe(courier.feed)
    bus.subscribe(lambda event: service.router.on_event(heard(event)))
    show = Printer()
    bus.subscribe(show)
    family = socket.AF_INET6 if ":" in settings.api.host else socket.AF_INET
    listening = socket.create_server((settings.api.host, settings.api.port), family=family)
    application = _application(settings, agent, service, show)
    server = waitress.create_server(application, sockets=[listening], threads=8, ident=None)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agent.start()
    service.start(service.on_listening)
    threading.Thread(target=server.run, name="http", daemon=True).start()
    host, port = listening.getsockname()[:2]
    print(
        f"tintype serves http://{host}:{port}, images in {settings.directory.path}",
        file=sys.stderr,
        flush=True,
    )
    stop.wait()
    # The door stays open to the last: what still comes in is journaled, and done at the next start.
    service.begin_stop()
    agent.stop()
    service.stop()


def _patient(settings: Settings) -> Settings:
    """Return settings by which the one host has all the time there is: it cannot be silent."""
    forever = settings.agent.default_deadline
    return replace(settings, router=replace(settings.router, host_timeout=forever))


class OneHost:
    """A core.dispatcher.Courier without a network: the one host there is, is this process."""

    def __init__(self, host: str, intake: Intake, bus: MemoryBus) -> None:
        self._host = host
        self._intake = intake
        self._bus = bus

    def to_host(self, host: str, event: Event, expires: timedelta) -> None:
        """Have the agent take an event. Raises Unroutable for another host."""
        del expires
        if host != self._host:
            raise Unroutable(f"there is no host {host!r} here, only {self._host!r}")
        self._intake.on_message(_message(event))

    def to_agents(self, event: Event) -> None:
        """Have the one agent take an event."""
        self._intake.on_message(_message(event))

    def tell(self, event: Event) -> None:
        """Publish an event to everybody."""
        self._bus.publish(event)

    def feed(self, event: Event) -> None:
        """Take a request that was published, a trigger's, as one for this host."""
        if event.type == COMMIT_REQUEST:
            self._intake.on_message(_message(event))

    def close(self) -> None:
        """Do nothing: there are no connections."""


class RouterPublisher:
    """A core.ports.Publisher for the REST service: the router takes requests at once.

    So what is wrong with one is its sender's to hear.
    """

    def __init__(self, router: Router, show: Callable[[Event], None]) -> None:
        """`show` is told of each request that was taken."""
        self._router = router
        self._show = show

    def publish(self, event: Event) -> None:
        """Return once the router has recorded the request. Raises what `Router.take` does."""
        self._router.take(_message(event))
        self._show(event)

    def close(self) -> None:
        """Do nothing: there are no connections."""


def _application(
    settings: Settings, agent: Agent, service: RouterService, show: Callable[[Event], None]
) -> Wsgi:
    """Return the REST service in front of this process's own agent and router."""
    conf = load_for_oslo()
    who = settings.default_requester
    identify = LoopbackIdentity(who.project_id, who.user_id)
    # Not even Glance's images are reserved beforehand: nobody has a token here.
    publisher = RouterPublisher(service.router, show)
    commits = make_commits(settings, service.database, publisher, None)
    restores = make_restores(service.database, publisher, only_host=settings.host)
    checks = {"engine": agent.engine.check, **{n: s.check for n, s in agent.stores.items()}}
    app = create_app(identify, commits, restores, settings.api.max_body_bytes)
    return RequestId(make_app(conf, app, checks), conf)


def _message(event: Event) -> Message:
    return Message(event.type, event.payload, event.requester, event.id)


def heard(event: Event) -> Message:
    """Return an event as a bus delivers it: by its moment the index tells which one is later.

    A request is not stamped: sent again it would be another one.
    """
    return replace(_message(event), timestamp=datetime.now(UTC).isoformat())


def _own_requester(context: object) -> Requester:
    """Read the context of the in-process bus, which carries our own type."""
    return context if isinstance(context, Requester) else Requester()


class Printer:
    """Prints events as lines of JSON, whichever threads they come from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Print an event; who no longer reads them does not end the service."""
        with self._lock:
            try:
                sys.stdout.write(event_line(event) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - open to the process's end
