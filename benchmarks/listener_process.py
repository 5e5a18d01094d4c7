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
from tintype.core.events import COMMIT_REQUEST, Event, is_about_snapshot

Options = dict[str, dict[str, object]]

Seen = tuple[float, str, dict[str, Any]]
"""When an event came, its type and its payload."""


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

    @property
    def pool(self) -> str:
        """The queue by which the router's index gets all events."""
        return f"index-{self.name}"

    @property
    def log(self) -> str:
        """What the process has logged so far."""
        file = self.folder / "listener.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def configure(
        self, *, store: str = "directory", roles: str | None = None, index_url: str | None = None
    ) -> Path:
        """Write the configuration: addresses and names only, everything else by default."""
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
            "router": {"pool": self.pool},
        }
        if roles is not None:
            options["listener"] = {"roles": roles}
        if index_url is not None:
            options["router"]["index_url"] = index_url
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
    def running(self, config: Path, queue: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Run the listener from where it consumes its `queue` to the end of the block."""
        with self.starting(config) as process:
            until(lambda: self._consumed(process, queue or self.queue), "the listener to be up")
            yield process

    def check(self, process: subprocess.Popen[bytes]) -> None:
        """Raise BenchError when the process has ended."""
        if process.poll() is not None:
            raise BenchError(f"the listener has ended: {self.log[-2000:]}")

    def _consumed(self, process: subprocess.Popen[bytes], queue: str) -> bool:
        self.check(process)
        with self.stack.kombu() as connection, suppress(amqp.NotFound):
            found = connection.default_channel.queue_declare(queue, passive=True)
            return bool(found.consumer_count)
        return False

    def count_noop(
        self, messages: int, topic: str, *options: str, seconds: float
    ) -> dict[str, float]:
        """Have oslo.messaging's own listener take so many messages here, and count for itself."""
        script = Path(__file__).with_name("noop_listener.py")
        arguments = [self.stack.bus_url, self.name, topic, str(messages), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with child([sys.executable, str(script), *arguments], **pipes) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise BenchError(f"the no-op listener took longer than {seconds:.0f} s") from None
        if process.returncode:
            raise BenchError(f"the no-op listener: {err.decode(errors='replace')[-2000:]}")
        result: dict[str, float] = json.loads(out)
        return result

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
    """Keeps the payload of every event about snapshots, with the moment it came."""

    def __init__(self, listener: Listener) -> None:
        """Listen from now on."""
        self.connection = listener.stack.kombu()
        exchange = kombu.Exchange(listener.name, "topic", durable=True)
        self._queue = kombu.Queue(f"{listener.name}-witness", exchange, "notifications.#")
        self.events: list[Seen] = []
        with listener.stack.kombu() as connection:
            self._queue(connection).declare()
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
        """Return the one consumer: kombu's hook."""
        return [consumer([self._queue], callbacks=[self._take], accept=["json"])]

    def _take(self, body: Any, message: Any) -> None:
        event = json.loads(body["oslo.message"])
        if is_about_snapshot(event["event_type"]):
            self.events.append((time.monotonic(), event["event_type"], event["payload"]))
        message.ack()

    def of(self, request_id: str) -> list[Seen]:
        """Return what was said about one request: labels on the engine may ask for others."""
        return [each for each in list(self.events) if each[2]["request_id"] == request_id]

    def close(self) -> None:
        """Stop listening."""
        self.should_stop = True
        self._thread.join()
        self.connection.release()
