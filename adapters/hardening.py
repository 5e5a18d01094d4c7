"""oslo.messaging's RabbitMQ driver, made to survive whatever can lie in a queue.

The driver decodes a message on the thread that reads the socket, rejects (loses) what it cannot
decode, and drops what it takes for a duplicate without acknowledging it (measured in FACTS 2). Here
it keeps what it is good at (connecting, failing over, declaring, heartbeats, acknowledging on the
right thread) and is given opaque deliveries:

* its connections read frames with `tintype.adapters.frames`;
* `Delivery` is what it believes to be the decoded message: an empty dict. Without a `_unique_id` in
  it, its cache of duplicates never finds one (the journal dedupes);
* decoding happens in the listener's dispatcher, where every failure becomes a dead letter.

Subclasses only, but of private classes: checked against oslo.messaging 18.3.1, kombu 5.7.0 and
amqp 5.4.2. `check_libraries` refuses to start when a name is gone, and tests/faults/test_poison.py
fails when one still exists but no longer works.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import amqp
import kombu
from amqp import method_framing
from oslo_messaging._drivers import amqpdriver, base, impl_rabbit

from tintype.adapters.frames import Content, frame_reader

LOG = logging.getLogger(__name__)


class Delivery(dict[str, Any]):
    """What came off the wire, unread. A dict, and empty, for the sake of the driver."""

    def __init__(self, content: Content, queue: str) -> None:
        super().__init__()
        self.content = content
        self.queue = queue

    def acknowledge(self) -> None:
        """Take the message off its queue; the driver calls this on the connection's thread."""
        self.content.channel.basic_ack(self.content.delivery_tag)

    def requeue(self) -> None:
        """Give the message back; the driver calls this on the connection's thread."""
        self.content.channel.basic_reject(self.content.delivery_tag, requeue=True)


class Consumer(impl_rabbit.Consumer):  # type: ignore[misc]  # oslo.messaging has no types
    """A consumer that hands on what it gets and judges nothing."""

    def _callback(self, message: Content) -> None:
        self.callback(Delivery(message, self.queue_name))

    def _declare_fallback_nondurable(self, err: Any, conn: Any, consumer_arguments: Any) -> None:
        """Bind our durable queue to our exchange, though somebody made that without durability.

        The driver would make the queue transient too, and lose it at the broker's next restart.
        """
        LOG.error("exchange %s is not durable; make its service durable too", self.exchange_name)
        self.exchange = kombu.Exchange(self.exchange_name, self.type, durable=False)
        self.queue = kombu.Queue(
            self.queue_name,
            channel=conn.channel,
            exchange=self.exchange,
            routing_key=self.routing_key,
            durable=self.durable,
            queue_arguments=self.queue_arguments,
            consumer_arguments=consumer_arguments,
        )
        self.queue.declare()


class Connection(impl_rabbit.Connection):  # type: ignore[misc]  # oslo.messaging has no types
    """A connection with our frame reader and our consumers."""

    def __init__(self, conf: Any, url: Any, purpose: str, limit: int) -> None:
        self._frame_reader = frame_reader(limit)
        # Each host once: the driver would try for ever, deaf to signals and to stop().
        super().__init__(conf, url, purpose, retry=max(0, len(url.hosts) - 1))

    def ensure_connection(self) -> None:
        """Connect, with our frame reader in every AMQP connection that is made."""
        self.connection.transport_options["frame_handler"] = self._frame_reader
        super().ensure_connection()

    def declare_topic_consumer(
        self, exchange_name: str, topic: str, callback: Any = None, queue_name: str | None = None
    ) -> None:
        """Declare exchange, queue and consumer exactly as the driver does."""
        self.declare_consumer(
            Consumer(
                exchange_name=exchange_name,
                queue_name=queue_name or topic,
                routing_key=topic,
                type="topic",
                durable=self.durable,
                exchange_auto_delete=self.amqp_auto_delete,
                queue_auto_delete=self.amqp_auto_delete,
                callback=callback,
                rabbit_ha_queues=self.rabbit_ha_queues,
                enable_cancel_on_failover=self.enable_cancel_on_failover,
                rabbit_quorum_queue=self.rabbit_quorum_queue,
                rabbit_quorum_queue_config=self.rabbit_quorum_queue_config,
            )
        )

    @property
    def consuming(self) -> bool:
        """Whether the broker is connected and has every consumer registered."""
        connection = self.connection  # close() on another thread may take it away
        return connection is not None and connection.connected and not self._new_tags


class Driver(impl_rabbit.RabbitDriver):  # type: ignore[misc]  # oslo.messaging has no types
    """The RabbitMQ driver with hardened connections. `limit`: largest body read, bytes."""

    def __init__(self, conf: Any, url: Any, limit: int) -> None:
        super().__init__(conf, url)
        self.listening: Connection | None = None
        self._limit = limit
        self._connection_pool.connection_cls = self._connect

    def _connect(self, conf: Any, url: Any, purpose: str, retry: Any = None) -> Connection:
        self.listening = Connection(conf, url, purpose, self._limit)
        return self.listening

    def listen_for_notifications(self, *args: Any) -> Any:
        """Connect and declare; leave no connection behind when that fails."""
        try:
            return super().listen_for_notifications(*args)
        except BaseException:
            # Broad, for it is raised again: the next attempt makes a connection of its own.
            if self.listening is not None and self.listening.connection is not None:
                self.listening.connection.collect()
            raise


_RELIED_ON: tuple[tuple[Any, str], ...] = (
    (amqp.Message, "inbound_header"),
    (amqp.Message, "inbound_body"),
    (method_framing, "frame_handler"),
    (impl_rabbit.Consumer, "_callback"),
    (impl_rabbit.Consumer, "_declare_fallback_nondurable"),
    (impl_rabbit.Connection, "ensure_connection"),
    (impl_rabbit.Connection, "declare_topic_consumer"),
    (impl_rabbit.Connection, "declare_consumer"),
    (impl_rabbit.RabbitDriver, "listen_for_notifications"),
    (amqpdriver.AMQPListener, "__call__"),
    (base.PollStyleListenerAdapter, "_runner"),
)


def check_libraries() -> None:
    """Raise RuntimeError when a name that the hardening replaces or calls is gone."""
    gone = [f"{owner.__name__}.{name}" for owner, name in _RELIED_ON if not hasattr(owner, name)]
    if "frame_handler" not in inspect.signature(amqp.Connection.__init__).parameters:
        gone.append("amqp.Connection(frame_handler=)")
    if gone:
        raise RuntimeError(
            f"tintype cannot protect itself with these versions of oslo.messaging {_VERSIONS}: "
            f"{', '.join(gone)} not found"
        )


_VERSIONS = f"(kombu {kombu.__version__}, amqp {amqp.__version__})"
