"""AMQP frames of delivered messages, read so that no content of theirs can stop the reader.

amqp decodes a message's properties on the thread that reads the socket. Where it cannot, each read
raises: the poison stays at the head of its queue and all consumers stall (measured in FACTS 2). It
also collects a body of any size. amqp.Connection takes its frame reader as an argument, so all of
it is put right here without patching anything. Checked against amqp 5.4.2 and kombu 5.7.0.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable
from typing import Any

import amqp
from amqp import method_framing, spec

from tintype.core.errors import Invalid

KEPT_BYTES = 64 * 1024
"""How much of an oversized body is kept for the dead letter."""

_METHOD, _HEADER, _BODY = 1, 2, 3
"""AMQP 0-9-1 frame types."""


class Content(amqp.Message):  # type: ignore[misc]  # amqp has no types
    """A delivered message whose header and body cannot break the reader."""

    def __init__(self, limit: int, frame_args: bytes) -> None:
        super().__init__(frame_method=spec.Basic.Deliver, frame_args=frame_args)
        self.body = b""
        self.limit = limit
        self.fault: str | None = None
        """Why this message cannot be used, if that is already known."""
        self.encoding: Any = None
        """What the sender gave as content_encoding."""

    def inbound_header(self, buf: bytes, offset: int = 0) -> int:
        """Take the header frame, whatever its properties look like."""
        try:
            offset = super().inbound_header(buf, offset)
        except Exception as error:  # noqa: BLE001
            # Broad, for amqp's decoder raises what its hostile input makes it raise: UnicodeError,
            # struct.error, OverflowError, RecursionError, IndexError ... An exception from here
            # would stall every consumer of the queue. amqp sets body_size before it decodes.
            self.properties: dict[str, Any] = {}
            self.fault = f"undecodable AMQP properties: {_brief(error)}"
            self.ready = not self.body_size
        # Hidden from amqp, which would decode the body here, on the reader's thread, with whatever
        # codec the sender names: `idna` takes a minute for 50 KB. JSON shows its encoding itself.
        self.encoding = self.properties.pop("content_encoding", None)
        if self.body_size > self.limit:
            self.fault = f"body of {self.body_size} bytes, the limit is {self.limit}"
        return offset

    def inbound_body(self, buf: bytes) -> None:
        """Take a body frame; above the limit only the beginning of the body is kept."""
        if self.body_size <= self.limit:
            super().inbound_body(buf)
            return
        self.body += buf[: max(0, KEPT_BYTES - len(self.body))]
        self.body_received += len(buf)
        self.ready = self.body_received >= self.body_size


def frame_reader(limit: int) -> Callable[..., Callable[[Any], bool]]:
    """Return a `frame_handler` for amqp.Connection that reads deliveries into `Content`.

    `limit`: largest body that is kept whole, bytes. All other frames go to amqp's own reader.
    """

    def for_connection(connection: Any, on_method: Callable[..., Any]) -> Callable[[Any], bool]:
        others = method_framing.frame_handler(connection, on_method)
        partial: dict[int, Content] = {}

        def on_frame(frame: tuple[int, int, bytes]) -> bool:
            kind, channel, buf = frame
            if kind == _METHOD and buf[:4] == _DELIVER:
                partial[channel] = Content(limit, _legible(buf))
            elif kind == _HEADER and channel in partial:
                partial[channel].inbound_header(buf)
            elif kind == _BODY and channel in partial:
                partial[channel].inbound_body(buf)
            else:
                return bool(others(frame))
            connection.bytes_recv += 1  # amqp's heartbeat looks at it
            if not partial[channel].ready:
                return False
            content = partial.pop(channel)
            on_method(channel, content.frame_method, content.frame_args, content)
            return True

        return on_frame

    return for_connection


_DELIVER = b"".join(number.to_bytes(2, "big") for number in spec.Basic.Deliver)


def _legible(deliver: bytes) -> bytes:
    """Return the arguments of Basic.Deliver with an exchange and routing key that are UTF-8.

    Through an exchange of type fanout a routing key of any bytes reaches our queue. Layout:
    class and method (4), consumer tag (shortstr), delivery tag (8), redelivered (1), exchange
    (shortstr), routing key (shortstr).
    """
    start = 4 + 1 + deliver[4] + 8 + 1
    middle = start + 1 + deliver[start]
    end = middle + 1 + deliver[middle]
    exchange, routing_key = _ascii(deliver[start + 1 : middle]), _ascii(deliver[middle + 1 : end])
    return b"".join(
        (
            deliver[:start],
            bytes([len(exchange)]),
            exchange,
            bytes([len(routing_key)]),
            routing_key,
        )
    )


def _ascii(name: bytes) -> bytes:
    """Return a name as it is if it is UTF-8, else with `?` for all that is not ASCII."""
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return bytes(byte if byte < 0x80 else ord("?") for byte in name)
    return name


def expand(body: bytes, method: object, limit: int) -> bytes:
    """Return a compressed body expanded, never to more than `limit` bytes. Raises Invalid.

    `method`: the header `compression` as kombu sets it. kombu itself would expand 400 KB to 812 MiB
    before anybody could look at it.
    """
    if not isinstance(method, str) or method not in _EXPANDERS:
        raise Invalid(f"compression {ascii(method)[:80]} is not supported")
    expander = _EXPANDERS[method]()
    try:
        expanded: bytes = expander.decompress(body, limit + 1)
    except (zlib.error, OSError, ValueError) as error:  # bz2 raises the latter two
        raise Invalid(f"broken compression: {error}") from error
    if len(expanded) > limit:
        raise Invalid(f"the compressed body expands to more than {limit} bytes")
    if not expander.eof:
        raise Invalid("the compressed body is cut off")
    return expanded


_EXPANDERS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,  # kombu's name for zlib's own format
    "gzip": zlib.decompressobj,
    "zlib": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "bzip2": bz2.BZ2Decompressor,
    "bzip": bz2.BZ2Decompressor,
}


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {ascii(str(error))[:200]}"
