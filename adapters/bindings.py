"""Bindings of our queues to the exchanges of other services, which are never created from here.

oslo.messaging's consumer declares every exchange it listens on, with its own durability. Nova's is
not durable by default and gone after a restart of the broker: a Tintype that is back first would
make it durable, and Nova's own declaration would be refused, its notifications lost. So somebody
else's exchange is bound to once its owner has made it, and again in case it was made anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import amqp
import kombu

from tintype.adapters.publisher import BROKER_ERRORS, connect_to_any, translate, transport_url

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Binding:
    """That a queue gets what is published to an exchange under a routing key."""

    exchange: str
    queue: str
    key: str


class Bindings:
    """Binds our queues to exchanges that exist, of whatever durability.

    Not thread-safe: one thread at a time.
    """

    def __init__(self, url: str, wanted: Sequence[Binding], timeout: float = 5.0) -> None:
        """Prepare, without connecting. Raises ValueError for a malformed URL."""
        self._parsed = transport_url(url)
        self._wanted = {
            exchange: [each for each in wanted if each.exchange == exchange]
            for exchange in dict.fromkeys(each.exchange for each in wanted)
        }
        self._timeout = timeout
        self._told: dict[str, str] = {}

    def renew(self) -> None:
        """Bind whatever exists now; what is bound already stays so. Never raises."""
        if not self._wanted:
            return
        try:
            with connect_to_any(self._parsed, self._timeout) as connection:
                for exchange in self._wanted:
                    self._bind(exchange, connection)
        except BROKER_ERRORS as error:
            self._tell(logging.WARNING, "exchanges", f"not bound: {translate(error)}")
        except Exception:
            # Broad, for listening on our own exchange goes on, whatever is wrong with another's.
            LOG.exception("exchanges not bound")
        else:
            self._told.pop("exchanges", None)

    def _bind(self, exchange: str, connection: kombu.Connection) -> None:
        try:
            with connection.channel() as channel:
                # Passive: asks whether it exists, of whatever type and durability.
                channel.exchange_declare(exchange, "topic", passive=True)
                for each in self._wanted[exchange]:
                    channel.queue_bind(each.queue, exchange, routing_key=each.key)
        except amqp.exceptions.NotFound as error:
            self._tell(logging.INFO, f"exchange {exchange}", f"not bound yet: {error}")
        except amqp.exceptions.ChannelError as error:
            # Refused, for example: no reason to forgo the next exchange.
            self._tell(logging.WARNING, f"exchange {exchange}", f"not bound: {error}")
        else:
            self._tell(logging.INFO, f"exchange {exchange}", "bound")

    def _tell(self, level: int, subject: str, state: str) -> None:
        """Log a state when it is new: it is looked at again and again."""
        if self._told.get(subject) != state:
            LOG.log(level, "%s: %s", subject, state)
        self._told[subject] = state
