"""The way out: events onto RabbitMQ, each confirmed by the broker or reported as not sent.

oslo.messaging's Notifier does not report failures (FACTS 2), so the outbox publishes with kombu:
the same envelope, exchange, queues and arguments as the Notifier's, plus publisher confirms and the
mandatory flag.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import amqp
import kombu
import kombu.exceptions
import oslo_messaging
from oslo_config import cfg, types

from tintype.adapters import envelope
from tintype.core.errors import Unavailable, Unroutable
from tintype.core.events import Event

LOG = logging.getLogger(__name__)

KEY_BYTES = 255
"""Longest routing key that AMQP has room for."""

BROKER_ERRORS: tuple[type[Exception], ...] = (
    amqp.AMQPError,
    amqp.exceptions.MessageNacked,
    kombu.exceptions.KombuError,
    oslo_messaging.MessagingException,
    OSError,  # socket.error, socket.timeout and ssl.SSLError are all of this kind
)
"""All that kombu and amqp, the sockets below and oslo.messaging above raise about a broker."""


def translate(error: Exception) -> Unavailable:
    """Return what one of BROKER_ERRORS means: the bus cannot do it now.

    Wrong credentials and clashing declarations too: an event in the outbox waits until somebody
    has put that right. None of these exceptions has a password in its text.
    """
    return Unavailable(f"message bus: {type(error).__name__}: {error}")


def transport_url(url: str) -> Any:
    """Parse a transport URL, with a configuration of its own: never the process's global one.

    Raises ValueError, which quotes nothing: where a URL is cut wrong, any part may be a password.
    """
    conf = cfg.ConfigOpts()
    conf(args=[], project="tintype", default_config_files=[], default_config_dirs=[])
    try:
        parsed = None if _is_cut(url) else oslo_messaging.TransportURL.parse(conf, url)
    except (ValueError, oslo_messaging.InvalidTransportURL):
        parsed = None
    if (
        parsed is None
        or parsed.transport not in {"rabbit", "kombu"}
        or not all(host.hostname and 0 <= (host.port or 0) < 65536 for host in parsed.hosts)
    ):
        raise ValueError(
            "the bus url is malformed: expected rabbit://user:password@host:port/vhost"
            " (percent-encode special characters)"
        )
    return parsed


def _is_cut(url: str) -> bool:
    """Tell whether a slash, question mark, hash or comma parts a password from its "@"."""
    parts = urlsplit(url)
    with_user = {"@" in host for host in parts.netloc.split(",") if host}
    return len(with_user) > 1 or "@" in parts.path + parts.query + parts.fragment


def connect(
    url: str, query: Mapping[str, str], timeout: float, **options: object
) -> kombu.Connection:
    """Connect to one host by kombu's URL. Raises some of BROKER_ERRORS and leaves nothing behind.

    `query`: the driver's options of the transport URL; `options`: kombu's transport options.
    """
    connection = kombu.Connection(
        url,
        ssl=_tls(query),
        login_method=query.get("rabbit_login_method", "AMQPLAIN"),  # the driver's default
        connect_timeout=timeout,
        transport_options=options,
    )
    try:
        connection.ensure_connection(max_retries=0)
    except BROKER_ERRORS:
        connection.collect()
        raise
    # For what amqp waits for without a timeout of its own: answers to open, declare, close.
    connection.connection.sock.settimeout(timeout)
    return connection


def kombu_urls(parsed: Any) -> list[str]:
    """Return kombu's URL of each host in a parsed transport URL."""
    return [_kombu_url(parsed, host) for host in parsed.hosts] or ["amqp://"]


def connect_to_any(parsed: Any, timeout: float) -> kombu.Connection:
    """Connect to the first host of a parsed transport URL that answers. Raises as `connect`."""
    *first, last = kombu_urls(parsed)
    for url in first:
        with contextlib.suppress(*BROKER_ERRORS):
            return connect(url, parsed.query, timeout)
    return connect(last, parsed.query, timeout)


class RabbitPublisher:
    """Publishes events to `<topic>.<priority>` on a topic exchange; a core.ports.Publisher.

    Not thread-safe: one thread at a time. Connects at the first event, and again at the first one
    after a failure. A failed `publish` may still have reached the broker: consumers drop the second
    by the message id, which is the event's own.

    `url`: as oslo.messaging's `transport_url`, several hosts included; `?ssl=1&ssl_ca_file=...`
    (also ssl_cert_file, ssl_key_file) asks for TLS. `durable` and `quorum` must be what every other
    publisher and consumer of the exchange and the queues uses. `timeout`: seconds that each single
    network operation may take; the resolver's look-up of a name has no limit of ours.
    """

    def __init__(
        self,
        url: str,
        *,
        exchange: str,
        topic: str | Callable[[Event], str],
        publisher_id: str,
        durable: bool = True,
        quorum: bool = False,
        timeout: float = 10.0,
    ) -> None:
        """Prepare, without connecting. Raises ValueError for a malformed URL."""
        parsed = transport_url(url)
        self._urls = kombu_urls(parsed)
        self._query = parsed.query
        self._topic_for = (lambda event: topic) if isinstance(topic, str) else topic
        self._publisher_id = publisher_id
        # RabbitMQ has no transient quorum queues; oslo.messaging makes the exchange durable then.
        self._exchange = kombu.Exchange(exchange, "topic", durable=durable or quorum)
        self._queue_arguments = {"x-queue-type": "quorum"} if quorum else {}
        self._timeout = timeout
        self._connection: kombu.Connection | None = None
        self._producer: kombu.Producer | None = None
        self._declared: set[str | None] = set()
        self._returned: list[Exception] = []

    def publish(self, event: Event) -> None:
        """Return once the broker has confirmed that the event is in a queue.

        Raises Unavailable when it has not: broker away, blocked (out of memory or disk), refusing
        (queue full), or no queue bound to the topic.
        """
        key = self._key(self._topic_for(event), event)
        # The default queue that oslo.messaging's publisher declares too: an event that comes before
        # its first consumer is kept.
        self._publish(key, event, declare=True)

    def send(self, event: Event, topic: str, expires: timedelta) -> None:
        """Put an event into a queue that its receiver has made, to be dropped after so long.

        Raises Unroutable when there is no such queue, Unavailable as `publish` does.
        """
        self._publish(self._key(topic, event), event, expires=expires)

    def _key(self, topic: str, event: Event) -> str:
        return f"{topic}.{envelope.priority_of(event.type).lower()}"

    def _publish(
        self,
        key: str,
        event: Event,
        *,
        declare: bool = False,
        expires: timedelta | None = None,
    ) -> None:
        if len(key.encode()) > KEY_BYTES:
            raise Unroutable(f"message bus: a routing key of more than {KEY_BYTES} bytes: {key}")
        body = envelope.seal(event, self._publisher_id)
        try:
            producer = self._producer or self._connect()
            self._declare(key if declare else None, producer)
            self._returned.clear()
            producer.publish(
                body,
                exchange=self._exchange,
                routing_key=key,
                mandatory=True,
                delivery_mode=kombu.Exchange.PERSISTENT_DELIVERY_MODE,
                content_type=envelope.CONTENT_TYPE,
                content_encoding="utf-8",
                expiration=expires and expires.total_seconds(),
                timeout=self._timeout,
                confirm_timeout=self._timeout,
            )
        except BROKER_ERRORS as error:
            # A late confirm on this connection would be taken for the next event's.
            self._abandon()
            raise translate(error) from error
        if self._returned:
            self._declared.discard(key)
            raise Unroutable(f"message bus: {self._returned[0]}")

    def check(self) -> None:
        """Raise Unavailable unless the broker answers."""
        try:
            producer = self._producer or self._connect()
            self._exchange(producer.channel).declare()
        except BROKER_ERRORS as error:
            self._abandon()
            raise translate(error) from error

    def close(self) -> None:
        """Disconnect; a later `publish` connects again."""
        connection, self._connection = self._connection, None
        self._abandon()
        if connection is not None:
            connection.release()

    def _declare(self, key: str | None, producer: kombu.Producer) -> None:
        """Make the exchange, and the queue of the key's name if one is given, once a connection."""
        if key in self._declared:
            return
        if key is None:
            self._exchange(producer.channel).declare()
        else:
            kombu.Queue(
                key,
                exchange=self._exchange,
                routing_key=key,
                durable=self._exchange.durable,
                queue_arguments=self._queue_arguments,
                channel=producer.channel,
            ).declare()
        self._declared |= {key, None}

    def _connect(self) -> kombu.Producer:
        """Connect to the first host that answers and begin next time with the one after it."""
        for _ in self._urls[1:]:
            try:
                return self._connect_to(self._urls[0])
            except BROKER_ERRORS as error:
                LOG.warning("trying the next broker: %s", translate(error))
                self._abandon()
                self._urls.append(self._urls.pop(0))
        return self._connect_to(self._urls[0])

    def _connect_to(self, url: str) -> kombu.Producer:
        self._connection = connect(
            url, self._query, self._timeout, confirm_publish=True, on_blocked=_raise_blocked
        )
        self._producer = kombu.Producer(self._connection.channel(), on_return=self._on_return)
        return self._producer

    def _abandon(self) -> None:
        """Drop the connection without a word to a broker that may not listen."""
        connection, self._connection, self._producer = self._connection, None, None
        self._declared.clear()
        if connection is not None:
            connection.collect()

    def _on_return(self, error: Exception, *details: object) -> None:
        # Only noted: the broker's confirm follows and must be read, or it would be taken for the
        # next event's.
        self._returned.append(error)


class SharedPublisher:
    """A core.ports.Publisher that threads may share: one event at a time, on one connection.

    For services that publish now and then: a connection that broke since the last event is made
    anew, and the event is sent a second time. Consumers drop it by its id if they had the first.
    """

    def __init__(self, publisher: RabbitPublisher, patience: float = 30.0) -> None:
        """Take a publisher; `patience`: seconds for which an event waits for those before it."""
        self._publisher = publisher
        self._patience = patience
        self._lock = threading.Lock()

    def publish(self, event: Event) -> None:
        """Return once the broker has taken responsibility. Raises Unavailable."""
        with self._turn():
            try:
                self._publisher.publish(event)
            except Unroutable:
                raise
            except Unavailable as error:
                LOG.info("once more on a new connection: %s", error)
                self._publisher.publish(event)

    def check(self) -> None:
        """Raise Unavailable unless the broker answers; one that is just published to, does."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._publisher.check()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Disconnect."""
        with self._turn():
            self._publisher.close()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=self._patience):
            raise Unavailable("message bus: too much waits to be published")
        try:
            yield
        finally:
            self._lock.release()


def _raise_blocked(reason: str) -> NoReturn:
    """Give up at once; the broker would confirm nothing before its alarm is over."""
    raise amqp.exceptions.Blocked(reason)


def _kombu_url(url: Any, host: Any) -> str:
    name = f"[{host.hostname}]" if ":" in host.hostname else host.hostname
    user, password = quote(host.username or "guest", safe=""), quote(host.password or "", safe="")
    vhost = quote(url.virtual_host or "", safe="")
    return f"amqp://{user}:{password}@{name}:{host.port or 5672}/{vhost}"


def _tls(query: Mapping[str, str]) -> bool | dict[str, Any]:
    """Return kombu's TLS parameters for the driver's options, as the driver makes them."""
    if not types.Boolean()(query.get("ssl", "false")):
        return False
    names = {"ssl_key_file": "keyfile", "ssl_cert_file": "certfile", "ssl_ca_file": "ca_certs"}
    parameters: dict[str, Any] = {
        names[option]: path for option, path in query.items() if option in names
    }
    if "ca_certs" in parameters:
        # None: the name of the host that is connected to.
        parameters |= {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    return parameters or True
