"""Tintype without broker and OpenStack: what `tintype serve` and `tintype invoke` run."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import waitress

from tintype.adapters.memory_bus import MemoryBus
from tintype.agent import Agent, make_engine, make_services
from tintype.api import create_app
from tintype.config import Settings
from tintype.core.events import COMMIT_REQUEST, Event, Message, Requester, event_line
from tintype.handlers import TRIGGERS, table
from tintype.stores import make_agent_stores


def invoke(settings: Settings, event: Event) -> Iterator[Event]:
    """Run the handler of an event with the configured engine and stores; yield what it returns."""
    engine = make_engine(settings, "invoke")
    services = make_services(settings, engine, make_agent_stores(settings))
    try:
        yield from {**table(), **TRIGGERS}[event.type](event, services)
    finally:
        engine.close()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; every event goes to standard output as a line of JSON."""
    bus = MemoryBus()
    agent = Agent(settings, bus, requester_of=_own_requester)
    bus.subscribe(lambda event: _feed(agent, event))
    bus.subscribe(_print_event)

    def check() -> None:
        agent.engine.check()
        for store in agent.stores.values():
            store.check()

    def submit(event: Event) -> None:
        # What is wrong with a request that comes over HTTP is its sender's to hear at once.
        agent.intake.take(_message(event))
        bus.publish(event)

    app = create_app(submit, agent.engine.inspect, agent.journal.snapshot, check)
    listening = socket.create_server((settings.api.host, settings.api.port))
    server = waitress.create_server(app, sockets=[listening], threads=4, ident=None)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agent.start()
    threading.Thread(target=server.run, name="http", daemon=True).start()
    host, port = listening.getsockname()[:2]
    print(
        f"tintype serves http://{host}:{port}, images in {settings.directory.path}",
        file=sys.stderr,
        flush=True,
    )
    stop.wait()
    # The door stays open to the last: what still comes in is journaled, and done at the next start.
    agent.stop()


def _feed(agent: Agent, event: Event) -> None:
    """Take a request in, a trigger's for example; what is wrong with it is told on the bus."""
    if event.type == COMMIT_REQUEST:
        agent.intake.on_message(_message(event))


def _message(event: Event) -> Message:
    return Message(event.type, event.payload, event.requester, event.id)


def _own_requester(context: object) -> Requester:
    """Read the context of the in-process bus, which carries our own type."""
    return context if isinstance(context, Requester) else Requester()


def _print_event(event: Event) -> None:
    try:
        print(event_line(event), flush=True)
    except BrokenPipeError:
        # Whoever read the events has gone; the service goes on without.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the process lives
