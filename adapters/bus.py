"""The way in: notifications off RabbitMQ, each handed to the journal before it is acknowledged."""

from __future__ import annotations

import base64
import logging
import reprlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import oslo_messaging
from oslo_messaging.dispatcher import DispatcherBase
from oslo_messaging.notify import dispatcher as oslo_dispatcher
from oslo_messaging.notify.listener import NotificationServer
from oslo_messaging.transport import NotificationTransport

from tintype.adapters import envelope, frames, hardening
from tintype.adapters.bindings import Binding, Bindings
from tintype.adapters.publisher import BROKER_ERRORS, connect_to_any, translate, transport_url
from tintype.core.errors import Invalid, Unavailable
from tintype.core.events import Message

LOG = logging.getLogger(__name__)

OnMessage = Callable[[Message], None]
OnGarbage = Callable[[str, Mapping[str, Any]], None]

BACKLOG_SECONDS = 5.0
"""How long a look at the queues may take."""

HANDLED: str = oslo_dispatcher.NotificationResult.HANDLED
REQUEUE: str = oslo_dispatcher.NotificationResult.REQUEUE


class BusListener:
    """Listens on topics and calls back once for every message, whatever is in it.

    `on_message` must only journal: it has milliseconds, and is called on `threads` threads at once.
    When it returns, the message is acknowledged (within 5 s; after a kill in between it comes
    again). When it raises Unavailable, the message goes back to its queue after `retry_seconds`.
    When it raises anything else, or the message cannot even be read, `on_garbage(reason,
    description)` gets it and the message is acknowledged; Unavailable from there works likewise.

    `on_bound` is called when all queues are there and bound, before the listener is left to itself:
    what is published from then on comes. It must not raise, and may take a while.

    All priorities that oslo.messaging knows are consumed (audit, critical, debug, error, info,
    sample, warn): a publisher declares the queue of each one it uses, and one that nobody reads
    would grow for ever. What stands in the message as its priority is of no interest.

    Queues are named `<topic>.<priority>`, without the exchange: two services that listen on one
    topic take each other's messages even on different exchanges. With a `pool` there is one queue,
    of that name, for all topics and priorities: who listens in the same pool shares the messages,
    and nobody else misses any. `also` are further topics of our own exchange: every listener that
    names one gets all of its messages, into the queues of its first topic.

    Only our own `exchange` is declared; `foreign_exchanges` are bound to the same queues when they
    exist, which is looked for every `rebind_seconds`. The queues are durable: an oslo.messaging
    publisher on one of our topics must be so too (amqp_durable_queues), or the broker refuses its
    declaration of the queue.

    `url`: as oslo.messaging's `transport_url`; driver options may follow as its query, for example
    `?ssl=1&ssl_ca_file=/etc/ssl/bus.pem`. There is one consumer for each queue, and `prefetch`
    counts for each: at most 7 * topics * prefetch * max_message_bytes of bodies are held in memory
    (70 MiB for two topics; for a pool prefetch * max_message_bytes), and what each of `threads`
    callbacks makes of one.
    """

    def __init__(
        self,
        url: str,
        *,
        exchange: str,
        foreign_exchanges: Sequence[str] = (),
        topics: Sequence[str],
        pool: str | None = None,
        also: Sequence[str] = (),
        on_message: OnMessage,
        on_garbage: OnGarbage,
        on_bound: Callable[[], None] = lambda: None,
        prefetch: int = 5,
        max_message_bytes: int = 1024 * 1024,
        durable: bool = True,
        quorum: bool = False,
        retry_seconds: float = 1.0,
        rebind_seconds: float = 30.0,
        threads: int = 4,
    ) -> None:
        """Prepare, without connecting.

        Raises RuntimeError when oslo.messaging is of a version that cannot be hardened, and
        ValueError for a malformed URL.
        """
        hardening.check_libraries()
        self._options = {
            "amqp_durable_queues": str(durable),
            "rabbit_quorum_queue": str(quorum),
            "rabbit_qos_prefetch_count": str(prefetch),
        }
        self._url = url
        self._targets = [oslo_messaging.Target(exchange=exchange, topic=topic) for topic in topics]
        self._pool = pool
        self._on_bound = on_bound
        keys = [f"{topic}.{name}" for topic in topics for name in oslo_dispatcher.PRIORITIES]
        self.queues = [pool] if pool else keys
        """The queues that are consumed."""
        wanted = [Binding(each, pool or key, key) for each in foreign_exchanges for key in keys]
        for name in oslo_dispatcher.PRIORITIES:
            wanted += [
                Binding(exchange, pool or f"{topics[0]}.{name}", f"{key}.{name}") for key in also
            ]
        self._bindings = Bindings(url, wanted)
        self._limit = max_message_bytes
        self._retry_seconds = retry_seconds
        self._rebind_seconds = rebind_seconds
        self._threads = threads
        self._stopping = threading.Event()
        self._dispatcher = _Dispatcher(
            on_message, on_garbage, max_message_bytes, retry_seconds, self._stopping
        )
        self._driver: hardening.Driver | None = None
        self._trouble: Unavailable | None = None
        self._thread = threading.Thread(target=self._run, name="tintype-bus", daemon=True)

    def start(self) -> None:
        """Begin to connect and listen, in the background; may be called once.

        Does not wait: oslo.messaging's own start() blocks while the broker is away and no signal
        handler interrupts it.
        """
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Finish the callbacks that are running, give back all other messages and disconnect.

        Returns False when that took longer than `timeout` seconds: what is left over is a daemon
        thread, and the broker delivers again what was not acknowledged.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def healthy(self) -> bool:
        """Whether the broker is connected and has every consumer registered.

        A broker that is frozen rather than gone is noticed by the heartbeat, after 60 s.
        """
        connection = self._driver.listening if self._driver is not None else None
        return connection is not None and not self._stopping.is_set() and connection.consuming

    def backlog(self) -> int:
        """Return how many messages wait in the queues. Raises Unavailable."""
        try:
            with connect_to_any(transport_url(self._url), BACKLOG_SECONDS) as connection:
                channel = connection.default_channel
                return sum(
                    channel.queue_declare(queue, passive=True).message_count
                    for queue in self.queues
                )
        except BROKER_ERRORS as error:
            raise translate(error) from error

    @property
    def trouble(self) -> Unavailable | None:
        """Why the listener could not begin to listen; None once it has."""
        return self._trouble

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                server = self._listen()
            except BROKER_ERRORS as error:
                self._trouble = translate(error)
                LOG.error("not listening, next try in %s s: %s", self._retry_seconds, self._trouble)
                self._stopping.wait(self._retry_seconds)
            except Exception as error:
                # Broad, for this is the thread's edge: without it, the service would run on deaf.
                self._trouble = Unavailable(f"message bus: {type(error).__name__}, see the log")
                LOG.exception("not listening, next try in %s s", self._retry_seconds)
                self._stopping.wait(self._retry_seconds)
            else:
                self._trouble = None
                self._bindings.renew()
                self._on_bound()
                while not self._stopping.wait(self._rebind_seconds):
                    self._bindings.renew()
                server.stop()
                server.wait()

    def _listen(self) -> NotificationServer:
        url = transport_url(self._url)
        url.query.update(self._options)
        driver = hardening.Driver(url.conf, url, self._limit)
        server = NotificationServer(
            NotificationTransport(driver),
            self._targets,
            self._dispatcher,
            allow_requeue=True,
            pool=self._pool,
        )
        server.start(override_pool_size=self._threads)
        self._driver = driver
        return server


class _Dispatcher(DispatcherBase):  # type: ignore[misc]  # oslo.messaging has no types
    """Decides about one delivery at a time: HANDLED or REQUEUE, never an exception."""

    supported_priorities = tuple(oslo_dispatcher.PRIORITIES)

    def __init__(
        self,
        on_message: OnMessage,
        on_garbage: OnGarbage,
        limit: int,
        retry_seconds: float,
        stopping: threading.Event,
    ) -> None:
        self._on_message = on_message
        self._on_garbage = on_garbage
        self._limit = limit
        self._retry_seconds = retry_seconds
        self._stopping = stopping

    def dispatch(self, incoming: Any) -> str:
        """Have a delivery journaled, as a message or else as garbage."""
        if self._stopping.is_set():
            return REQUEUE
        delivery: hardening.Delivery = incoming.message
        try:
            self._on_message(read(delivery, self._limit))
        except Unavailable as error:
            return self._later(error)
        except Invalid as error:
            return self._bury(str(error), delivery)
        except BaseException as error:
            # Broad, for the driver loses a message whose callback raises, or redelivers it for
            # ever, or (BaseException) leaves it unacknowledged: a message nobody foresaw is kept.
            LOG.error("a message could not be handled", exc_info=error)
            return self._bury(f"{type(error).__name__}: {ascii(str(error))[:500]}", delivery)
        return HANDLED

    def _bury(self, reason: str, delivery: hardening.Delivery) -> str:
        try:
            self._on_garbage(reason, describe(delivery))
        except Unavailable as error:
            return self._later(error)
        except BaseException as error:
            # Broad, as above. What even the dead letters refuse would come back for ever: the log
            # is the last place to keep it.
            body = delivery.content.body[:2000]
            LOG.critical("lost a dead letter (%s): %r", reason, body, exc_info=error)
        return HANDLED

    def _later(self, error: Unavailable) -> str:
        LOG.warning("message goes back to its queue in %s s: %s", self._retry_seconds, error)
        self._stopping.wait(self._retry_seconds)
        return REQUEUE


def read(delivery: hardening.Delivery, limit: int) -> Message:
    """Return the message in a delivery. Raises Invalid when there is none."""
    content = delivery.content
    if content.fault is not None:
        raise Invalid(content.fault)
    content_type = content.properties.get("content_type")
    if content_type != envelope.CONTENT_TYPE:
        raise Invalid(f"content type {ascii(content_type)[:80]}, not {envelope.CONTENT_TYPE}")
    method = (content.headers or {}).get("compression")
    return envelope.unseal(frames.expand(content.body, method, limit) if method else content.body)


def describe(delivery: hardening.Delivery) -> dict[str, Any]:
    """Return a delivery in a form that any store can keep: bounded, and valid Unicode.

    The body's first 64 KiB stand in `body`, or in `body_base64` unless they are UTF-8.
    """
    content = delivery.content
    kept = content.body[: frames.KEPT_BYTES]
    description: dict[str, Any] = {
        "queue": delivery.queue,
        "exchange": content.delivery_info["exchange"],
        "routing_key": content.delivery_info["routing_key"],
        "redelivered": content.delivery_info["redelivered"],
        "properties": {name: _SHORT.repr(value) for name, value in content.properties.items()},
        "content_encoding": _SHORT.repr(content.encoding),
        "body_bytes": content.body_size,
    }
    try:
        description["body"] = kept.decode("utf-8")
    except UnicodeDecodeError:
        description["body_base64"] = base64.b64encode(kept).decode("ascii")
    return description


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 4, 20, 20
_SHORT.maxstring = _SHORT.maxother = 500
