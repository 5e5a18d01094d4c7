"""Starting and stopping several services: in the right order, side by side where they can."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from devstack import ports
from devstack.engine import Engine
from devstack.glance import Glance
from devstack.keystone import Keystone
from devstack.layout import Layout, StackError, read_json, write_json
from devstack.mysql import MySQL
from devstack.newer_engine import NewerEngine
from devstack.packages import apt_install
from devstack.postgresql import PostgreSQL
from devstack.rabbitmq import RabbitMQ
from devstack.registry import Registry, SecureRegistry
from devstack.service import Service

SERVICES: dict[str, type[Service]] = {
    kind.name: kind
    for kind in (
        Engine,
        RabbitMQ,
        Keystone,
        Glance,
        Registry,
        SecureRegistry,
        PostgreSQL,
        MySQL,
        NewerEngine,
    )
}


def up(layout: Layout, names: Sequence[str]) -> None:
    """Bring services up, with those they need; what runs already is left alone.

    Raises StackError after all have been tried, when one could not be started.
    """
    with layout.locked():
        everything = {name: kind(layout) for name, kind in SERVICES.items()}
        services = [everything[name] for name in with_needs(names or list(SERVICES))]
        apt_install(layout, sorted({pkg for service in services for pkg in service.packages()}))
        down = [service for service in everything.values() if not service.running()]
        # All ports at once, before the threads: one service's configuration names another's port.
        ports.reserve(layout, [port for service in down for port in service.ports])
        started: dict[str, Future[None]] = {}
        for service in services:
            before = [started[name] for name in service.needs]
            started[service.name] = _in_thread(service, before, fresh=service in down)
        failures = [str(error) for error in (job.exception() for job in started.values()) if error]
        _remember(layout, members(layout) | {s.name for s in services if s.running()})
    if failures:
        raise StackError("\n".join(failures))


def down(layout: Layout, names: Sequence[str]) -> None:
    """Stop services, the dependent ones first; those of `names` only, or all."""
    with layout.locked():
        failures = []
        for name in reversed([name for name in SERVICES if not names or name in names]):
            service = SERVICES[name](layout)
            running = service.running()
            try:
                service.stop()
            except StackError as error:
                failures.append(str(error))
                continue
            if running:
                _say(name, "left alone" if service.running() else "down")
            _remember(layout, members(layout) - {name})
    if failures:
        raise StackError("\n".join(failures))


def members(layout: Layout) -> set[str]:
    """Return the services that were brought up and not taken down since."""
    return {name for name in read_json(layout.root / "members.json") if name in SERVICES}


def environment(layout: Layout) -> dict[str, str]:
    """Return the variables by which the tests find the services of the stack."""
    found: dict[str, str] = {}
    for name, kind in SERVICES.items():
        if name in members(layout):
            found |= kind(layout).env()
    return found


def with_needs(names: Iterable[str]) -> list[str]:
    """Return the services and all they need, each after what it needs."""
    ordered: list[str] = []
    for name in names:
        for one in (*with_needs(SERVICES[name].needs), name):
            if one not in ordered:
                ordered.append(one)
    return ordered


def _in_thread(service: Service, before: list[Future[None]], *, fresh: bool) -> Future[None]:
    """Prepare the service at once, and start it when those it needs have started."""
    job: Future[None] = Future()

    def work() -> None:
        begin = time.monotonic()
        if fresh:
            _say(service.name, "starting")
        try:
            service.prepare()
            _await(service, before)
            service.start()
        except Exception as error:  # noqa: BLE001 (handed to whoever waits for the job)
            job.set_exception(_named(service, error))
            return
        took = f" in {time.monotonic() - begin:.1f} s" if fresh else ""
        _say(service.name, f"up{took}, {service.where()}")
        job.set_result(None)

    # A daemon thread, unlike an executor's, does not keep Ctrl-C waiting.
    threading.Thread(target=work, name=service.name, daemon=True).start()
    return job


def _await(service: Service, before: list[Future[None]]) -> None:
    for job in before:
        if job.exception():
            raise StackError(f"not started, since it needs {' and '.join(service.needs)}")


def _named(service: Service, error: Exception) -> Exception:
    known = isinstance(error, StackError | OSError)
    return StackError(f"{service.name}: {error if known else repr(error)}")


def _remember(layout: Layout, names: set[str]) -> None:
    write_json(layout.root / "members.json", dict.fromkeys(sorted(names), True))
    write_json(layout.root / "env.json", environment(layout))


def _say(name: str, what: str) -> None:
    # One write, or the lines of two threads mix.
    sys.stdout.write(f"{name}: {what}\n")
    sys.stdout.flush()
