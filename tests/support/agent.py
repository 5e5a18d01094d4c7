"""A real listener process in front of real parts, and a witness of all that it says on the bus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from docker import DockerClient
from kombu.mixins import ConsumerMixin

from tests.support.openstack import Cloud
from tests.support.rabbit import Broker, until
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.publisher import RabbitPublisher
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.errors import Unavailable
from tintype.core.events import COMMIT_REQUEST, OUTCOMES, Event, Requester
from tintype.schemas import validate

LISTENING = "is listening"
"""What the listener logs when it is up."""

KILLER = Path(__file__).parents[1] / "faults" / "killed_listener.py"


class Witness(ConsumerMixin):
    """A plain kombu consumer: keeps every event on an exchange, with a queue of its own."""

    def __init__(self, broker: Broker, exchange: str) -> None:
        self.connection = broker.kombu()
        self._exchange = kombu.Exchange(exchange, "topic", durable=True)
        self._queue = kombu.Queue(
            f"witness-{uuid.uuid4().hex}", self._exchange, "notifications.#", durable=True
        )
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self.run, daemon=True)
        with broker.kombu() as connection:
            self._queue(connection).declare()
        self._thread.start()

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
        del channel
        return [consumer([self._queue], callbacks=[self._take], accept=["json"])]

    def _take(self, body: Any, message: Any) -> None:
        event = json.loads(body["oslo.message"])
        assert not validate(event["event_type"], event["payload"]), event
        self.events.append(event)
        message.ack()

    def of(self, request_id: str, *types: str) -> list[dict[str, Any]]:
        """Return the payloads about a request, each event id once."""
        found = {
            event["payload"]["event_id"]: event["payload"]
            for event in list(self.events)
            if event["payload"].get("request_id") == request_id
            and (not types or event["event_type"] in types)
        }
        return list(found.values())

    def outcome(self, request_id: str) -> dict[str, Any]:
        """Wait for the end or error of a request and return it."""
        until(lambda: self.of(request_id, *OUTCOMES), f"the outcome of {request_id}")
        return self.of(request_id, *OUTCOMES)[0]

    def stop(self) -> None:
        self.should_stop = True
        self._thread.join()
        self.connection.release()


class ListenerProcess:
    """A `tintype-listener`, with its configuration, that can be killed and restarted."""

    def __init__(self, folder: Path, host: str) -> None:
        self.folder = folder
        self.host = host
        self.options: dict[str, dict[str, object]] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._log = folder / f"{host}.log"
        self._starts = 0

    @property
    def config(self) -> Path:
        """Write the configuration and return its file."""
        path = self.folder / f"{self.host}.conf"
        lines = []
        for group, options in self.options.items():
            lines.append(f"[{group}]")
            lines += [
                f"{name} = {str(value).replace('$', '$$')}" for name, value in options.items()
            ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def start(self, *, kill_at: int | None = None) -> None:
        """Start the listener; with `kill_at` it kills itself at that write to its journal."""
        command = [sys.executable, "-m", "tintype.listener"]
        if kill_at is not None:
            command = [sys.executable, str(KILLER), str(kill_at)]
        self._starts = self.log().count(LISTENING) + 1
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--config-file", str(self.config)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": ""},
            )

    def await_up(self) -> None:
        """Wait until the listener is up."""
        until(lambda: self.log().count(LISTENING) >= self._starts, f"{self.host} to be up")

    def kill(self) -> None:
        """Kill -9, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop a listener that is up as an operator does; return the exit code."""
        assert self.process is not None
        self.await_up()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)

    def died(self) -> bool:
        """Whether the process is gone."""
        return self.process is not None and self.process.poll() is not None

    def log(self) -> str:
        """Return what the listener has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def close(self) -> None:
        """End what still runs."""
        if self.process is not None and not self.died():
            self.kill()


def bus_options(broker: Broker, exchange: str, requests: str) -> dict[str, object]:
    """Return what a listener needs to know of the bus."""
    return {
        "url": broker.url,
        "exchange": exchange,
        "listen_exchanges": exchange,
        "request_topic": requests,
    }


def glance_options(cloud: Cloud) -> dict[str, object]:
    """Return what a listener needs to know of Glance."""
    return {
        "auth_url": cloud.service.auth_url,
        "username": cloud.service.username,
        "password": cloud.service.password,
        "project_name": cloud.service.project_name,
        "endpoint_override": cloud.service.endpoint_override,
    }


def send_request(
    broker: Broker, exchange: str, topic: str, payload: dict[str, Any], who: Requester
) -> str:
    """Publish a commit request, or what else its `event_type` says, and return its id.

    Tries again while the broker is away, as a sender has to that wants to be heard.
    """
    event_type = payload.pop("event_type", COMMIT_REQUEST)
    request_id = payload.setdefault("request_id", str(uuid.uuid4()))
    publisher = RabbitPublisher(broker.url, exchange=exchange, topic=topic, publisher_id="test")
    event = Event(event_type, payload, who, str(uuid.uuid4()))

    def sent() -> bool:
        try:
            publisher.publish(event)
        except Unavailable:
            return False
        return True

    until(sent, "the broker to take a request")
    publisher.close()
    return str(request_id)


def clear_engine(state_dir: Path, engine_url: str) -> None:
    """Remove what a failed test's agent has left on the engine."""
    journal = SqliteJournal(state_dir / "journal.sqlite")
    engine = DockerEngine(engine_url, instance=journal.instance)
    for owner in engine.owners():
        engine.discard(owner)
    engine.close()
    journal.close()


class AgentProcess(ListenerProcess):
    """One host: its configuration and journal, a listener, and a witness of all that it says."""

    def __init__(self, folder: Path, broker: Broker, cloud: Cloud, engine_url: str) -> None:
        name = uuid.uuid4().hex[:8]
        super().__init__(folder, f"host-{name}")
        self.exchange = f"tintype-{name}"
        self.requests = f"requests-{name}"
        self.broker = broker
        self._engine_url = engine_url
        self.witness = Witness(broker, self.exchange)
        self.options = {
            "listener": {"roles": "agent"},
            "agent": {
                "host": self.host,
                "state_dir": folder,
                "stores": "glance,directory",
                "retry_first": 0.2,
                "retry_longest": 2,
                "poll_interval": 0.2,
                "graceful_timeout": 20,
            },
            "bus": bus_options(broker, self.exchange, self.requests),
            "engine": {"url": engine_url},
            "glance": glance_options(cloud),
            "directory": {"path": folder / "images"},
        }

    def request(self, container: str, requester: Requester | None = None, **fields: Any) -> str:
        """Publish a commit request on the host's topic and return its id."""
        payload = {"container": container, "image_name": "test/snapshot", **fields}
        topic = f"{self.requests}.{self.host}"
        return send_request(self.broker, self.exchange, topic, payload, requester or Requester())

    def close(self) -> None:
        """Stop whatever still runs, and remove what a failed test has left on the engine."""
        super().close()
        self.witness.stop()
        clear_engine(self.folder, self._engine_url)


def left_on(client: DockerClient, *request_ids: str) -> list[str]:
    """Return the temporary tags that requests have left on an engine."""
    # Not `client.images.list()`, which looks at each image again: one may be gone by then.
    tags = [tag for image in client.api.images() for tag in image["RepoTags"] or ()]
    return [tag for tag in tags if any(request_id in tag for request_id in request_ids)]


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, cloud: Cloud, engine_url: str) -> Iterator[AgentProcess]:
    """A host with a listener that is not started yet."""
    agent = AgentProcess(tmp_path, broker, cloud, engine_url)
    yield agent
    agent.close()
    print(agent.log())  # pytest shows it where a test fails
