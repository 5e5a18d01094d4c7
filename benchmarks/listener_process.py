"""The real listener in a process of its own, and a consumer that sees what it says on the bus."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import amqp
import kombu
from kombu.mixins import ConsumerMixin
from lab import Stack, until
from processes import BenchError, child

from tintype.adapters.publisher import RabbitPublisher
from tintype.core.events import COMMIT_REQUEST, Event

Options = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Listener:
    """A listener with an exchange, a host's name and a folder of its own."""

    stack: Stack
    folder: Path
    name: str

    @property
    def topic(self) -> str:
        """The topic of requests for this host."""
        return f"requests.{self.name}"

    @property
    def queue(self) -> str:
        """The queue that the listener takes requests from."""
        return f"{self.topic}.info"

    def configure(self, *, store: str) -> Path:
        """Write the configuration: addresses only, everything else by default."""
        glance = self.stack.glance
        options: Options = {
            "agent": {"host": self.name, "state_dir": self.folder, "stores": store},
            "bus": {
                "url": self.stack.bus_url,
                "exchange": self.name,
                "listen_exchanges": self.name,
                "request_topic": "requests",
            },
            "engine": {"url": self.stack.engine_url},
            "glance": {
                "auth_url": glance.auth_url,
                "username": glance.username,
                "password": glance.password,
                "project_name": glance.project_name,
                "endpoint_override": glance.endpoint_override,
            },
            "directory": {"path": self.folder / "images"},
        }
        lines = []
        for group, values in options.items():
            lines.append(f"[{group}]")
            lines += [f"{key} = {str(value).replace('$', '$$')}" for key, value in values.items()]
        path = self.folder / "tintype.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")
        return path

    @contextmanager
    def starting(self, config: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run the listener to the end of the block."""
        command = [sys.executable, "-m", "tintype.listener", "--config-file", str(config)]
        with (
            (self.folder / "listener.log").open("wb") as log,
            child(command, stdout=log, stderr=log, cwd=self.folder) as process,
        ):
            yield process

    @contextmanager
    def running(self, config: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run the listener from where it consumes to the end of the block."""
        with self.starting(config) as process:
            until(lambda: self._consumed(process), "the listener to be up")
            yield process

    def _consumed(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            log = (self.folder / "listener.log").read_text(errors="replace")
            raise BenchError(f"the listener has ended: {log[-2000:]}")
        with self.stack.kombu() as connection, suppress(amqp.NotFound):
            found = connection.default_channel.queue_declare(self.queue, passive=True)
            return bool(found.consumer_count)
        return False

    def publisher(self) -> RabbitPublisher:
        """Return a way to send requests, as the command line and the REST service have it."""
        return RabbitPublisher(
            self.stack.bus_url, exchange=self.name, topic=self.topic, publisher_id="benchmark"
        )


def request(container: str, image_name: str) -> Event:
    """Return a commit request with an id of its own."""
    request_id = str(uuid.uuid4())
    payload = {"container": container, "image_name": image_name, "request_id": request_id}
    return Event(COMMIT_REQUEST, payload, id=request_id)


class Witness(ConsumerMixin):  # type: ignore[misc]  # kombu has no types
    """Keeps the payload of every event of a listener, with the moment it came."""

    def __init__(self, listener: Listener) -> None:
        """Listen from now on."""
        self.connection = listener.stack.kombu()
        exchange = kombu.Exchange(listener.name, "topic", durable=True)
        self._queue = kombu.Queue(f"{listener.name}-witness", exchange, "notifications.#")
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        with listener.stack.kombu() as connection:
            self._queue(connection).declare()
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
        """Return the one consumer: kombu's hook."""
        return [consumer([self._queue], callbacks=[self._take], accept=["json"])]

    def _take(self, body: Any, message: Any) -> None:
        event = json.loads(body["oslo.message"])
        self.events.append((time.monotonic(), event["event_type"], event["payload"]))
        message.ack()

    def close(self) -> None:
        """Stop listening."""
        self.should_stop = True
        self._thread.join()
        self.connection.release()
