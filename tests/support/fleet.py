"""Several hosts with real Docker Engines of their own, and routers between them and the bus."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker import DockerClient
from sqlalchemy import text

from tests.support.agent import (
    ListenerProcess,
    Witness,
    bus_options,
    clear_engine,
    glance_options,
    send_request,
)
from tests.support.databases import Server
from tests.support.docker import PATIENCE, Containers, ensure_busybox
from tests.support.dockerd import Dockerd
from tests.support.openstack import Cloud
from tests.support.rabbit import Broker, until
from tintype.adapters.publisher import RabbitPublisher
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_index import SqlIndex
from tintype.core.events import COMMIT_CANCEL, RESTORE_REQUEST, Event, Requester
from tintype.core.index import ContainerRecord, SnapshotRecord

HOST_TIMEOUT = 10
"""Seconds that a host has to take a request here."""

GRACE = 3
"""Seconds beyond that, and for one last question."""


class Machine:
    """A Docker Engine with directories of its own, and its containers."""

    def __init__(self, folder: Path) -> None:
        self.daemon = Dockerd(folder)
        self.daemon.start()
        self.client: DockerClient = docker.DockerClient(self.daemon.url, timeout=PATIENCE)
        self.containers = Containers(self.client, ensure_busybox(self.daemon.url))

    def close(self) -> None:
        self.client.close()
        self.daemon.stop()


class Host(ListenerProcess):
    """An agent on a machine."""

    def __init__(self, folder: Path, name: str, machine: Machine) -> None:
        folder.mkdir()
        super().__init__(folder, name)
        self.machine = machine
        self.containers = machine.containers

    def close(self) -> None:
        super().close()
        if (self.folder / "journal.sqlite").exists():
            clear_engine(self.folder, self.machine.daemon.url)
        self.containers.clean()


class Fleet:
    """Two hosts and two routers on one exchange, with one index."""

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        cloud: Cloud,
        *,
        machines: dict[str, Machine],
        index_url: str,
    ) -> None:
        name = uuid.uuid4().hex[:8]
        self.broker = broker
        self.index_url = index_url
        self.exchange = f"tintype-{name}"
        self.requests = f"requests-{name}"
        self.pool = f"pool-{name}"
        self.witness = Witness(broker, self.exchange)
        bus = bus_options(broker, self.exchange, self.requests)
        self.hosts: dict[str, Host] = {}
        for label, machine in machines.items():
            host = self.hosts[label] = Host(folder / label, f"{label}-{name}", machine)
            host.options = {
                "listener": {"roles": "agent"},
                "agent": {
                    "host": host.host,
                    "state_dir": host.folder,
                    "stores": "directory,glance",
                    "retry_first": 0.2,
                    "retry_longest": 2,
                    "poll_interval": 0.2,
                },
                "bus": bus,
                "engine": {"url": machine.daemon.url},
                "glance": glance_options(cloud),
                "directory": {"path": host.folder / "images"},
            }
        self.routers = []
        for number in (1, 2):
            router = ListenerProcess(folder, f"router-{number}")
            router.options = {
                "listener": {"roles": "router"},
                "agent": {"host": router.host, "state_dir": folder / router.host},
                "router": {
                    "index_url": index_url,
                    "pool": self.pool,
                    "stores": "glance",
                    "host_timeout": HOST_TIMEOUT,
                    "grace": GRACE,
                },
                "bus": bus,
                "glance": glance_options(cloud),
            }
            self.routers.append(router)

    def start(self) -> None:
        """Start everything, and wait until the index knows all containers."""
        for process in (*self.hosts.values(), *self.routers):
            process.start()
        for process in (*self.hosts.values(), *self.routers):
            process.await_up()
        wanted = {
            str(each.id)
            for host in self.hosts.values()
            for each in host.machine.client.containers.list(all=True)
        }
        until(
            lambda: wanted <= {str(each.facts.get("engine_id")) for each in self.indexed()},
            "the index to know all containers",
        )

    def ask(self, container: str, who: Requester | None = None, **fields: Any) -> str:
        """Publish a commit request on the shared topic, and return its id."""
        payload = {"container": container, "image_name": "test/snapshot", **fields}
        return send_request(
            self.broker, self.exchange, self.requests, payload, who or Requester("p", "u")
        )

    def restore(self, who: Requester | None = None, **fields: Any) -> str:
        """Publish a restore request on the shared topic, and return its id."""
        payload = {"event_type": RESTORE_REQUEST, **fields}
        return send_request(
            self.broker, self.exchange, self.requests, payload, who or Requester("p", "u")
        )

    def cancel(self, request_id: str, who: Requester | None = None) -> None:
        """Publish a cancellation on the shared topic."""
        payload = {"event_type": COMMIT_CANCEL, "request_id": request_id}
        send_request(self.broker, self.exchange, self.requests, payload, who or Requester("p", "u"))

    def notify(self, event_type: str, payload: dict[str, Any]) -> None:
        """Publish a notification as another service on our exchange would."""
        publisher = RabbitPublisher(
            self.broker.url, exchange=self.exchange, topic="notifications", publisher_id="another"
        )
        publisher.publish(Event(event_type, payload, Requester("p", "u"), str(uuid.uuid4())))
        publisher.close()

    def outcome(self, request_id: str) -> dict[str, Any]:
        """Wait for the outcome of a request and return it."""
        return self.witness.outcome(request_id)

    def indexed(self) -> list[ContainerRecord]:
        """Return the living containers in the index; none while there is no index."""
        return list(self._read(lambda index: index.containers()))

    def snapshots(self) -> list[SnapshotRecord]:
        """Return the snapshots in the index."""
        return list(self._read(lambda index: index.snapshots()))

    def _read(self, look: Any) -> Any:
        database = Database(self.index_url)
        try:
            database.upgrade()
            return look(SqlIndex(database))
        finally:
            database.close()

    def delete_index(self) -> None:
        """Delete the index, as an operator would."""
        database = Database(self.index_url)
        with database.transaction() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        database.close()

    def close(self) -> None:
        for process in (*self.routers, *self.hosts.values()):
            process.close()
        self.witness.stop()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    """Two real Docker Engines with data roots of their own."""
    machines: dict[str, Machine] = {}
    try:
        for label in ("east", "west"):
            machines[label] = Machine(tmp_path_factory.mktemp(label))
        yield machines
    finally:
        for machine in machines.values():
            machine.close()


@pytest.fixture
def fleet(
    tmp_path: Path,
    broker: Broker,
    cloud: Cloud,
    machines: dict[str, Machine],
    servers: dict[str, Server],
) -> Iterator[Fleet]:
    """Two hosts, two routers, one broker, PostgreSQL as index; nothing is started yet."""
    if "postgresql" not in servers:
        servers["postgresql"] = Server("postgresql")
    url = servers["postgresql"].new()
    fleet = Fleet(tmp_path, broker, cloud, machines=machines, index_url=url)
    yield fleet
    fleet.close()
    for process in (*fleet.routers, *fleet.hosts.values()):
        print(f"--- {process.host}\n{process.log()}")  # pytest shows it where a test fails
