"""Everything hostile that can be put into a queue, sent in between good messages.

Each case fails on a listener without the protection it is about; FACTS 2 lists what the plain
driver does instead: lose the message, redeliver it for ever, or stall all consumers of the queue.
"""

from __future__ import annotations

import base64
import bz2
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import amqp
import kombu
import pytest

from tests.support.rabbit import DEADLINE, Inbox, Line, until
from tintype.adapters import frames
from tintype.core.errors import Invalid

LIMIT = 1024 * 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class Poison:
    """Something to send, and where it must land."""

    send: Callable[[Line], None]
    garbage: str | None = None
    """What the reason says, for that which is no message; None: it reaches on_message."""
    copies: int = 1


class RawContent(amqp.Message):  # type: ignore[misc]  # amqp has no types
    """A message whose properties are written as the given bytes, right or wrong."""

    def __init__(self, body: bytes, properties: bytes) -> None:
        super().__init__(body)
        self.raw_properties = properties

    def _serialize_properties(self) -> bytes:
        return self.raw_properties


def raw(properties: bytes, body: bytes = b"{}", routing_key: bytes | None = None) -> Poison:
    """Return a message with hand-made properties, or a hand-made routing key through a fanout."""

    def send(line: Line) -> None:
        with line.broker.amqp() as connection, connection.channel() as channel:
            exchange = line.exchange
            if routing_key is not None:
                exchange = f"{line.exchange}-fanout"
                channel.exchange_declare(exchange, "fanout", durable=True, auto_delete=False)
                channel.queue_bind(line.queue, exchange)
            content = RawContent(body, properties)
            channel.basic_publish(content, exchange, routing_key or line.queue, mandatory=True)

    return Poison(send, None if routing_key else "undecodable AMQP properties")


def nested_table(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


def nested_array(depth: int) -> bytes:
    array = b""
    for _ in range(depth):
        array = b"A" + struct.pack(">I", len(array)) + array
    table = b"\x01a" + array
    return struct.pack(">I", len(table)) + table


def body(content: bytes, garbage: str | None = None, **properties: Any) -> Poison:
    return Poison(lambda line: line.send(content, **properties), garbage)


def notification(garbage: str | None = None, copies: int = 1, **fields: Any) -> Poison:
    """Return an enveloped notification with some of its fields replaced."""
    inner = {"event_type": "odd", "priority": "INFO", "payload": {}, "message_id": "odd"} | fields
    envelope = {"oslo.version": "2.0", "oslo.message": json.dumps(inner)}
    content = json.dumps(envelope).encode()

    def send(line: Line) -> None:
        for _ in range(copies):
            line.send(content)

    return Poison(send, garbage, copies)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def bomb(compressor: Any, size: int) -> bytes:
    """Return zeros of `size` bytes, compressed without ever holding them."""
    chunk = bytes(MIB)
    return b"".join([*(compressor.compress(chunk) for _ in range(size // MIB)), compressor.flush()])


def huge(size: int) -> Poison:
    return body(b"x" * size, f"body of {size} bytes")


IDNA = b"xn--" + b"zz9a" * 200_000
"""800 KB, for which Python's `idna` codec takes time in the square of the length: minutes."""

POISON = {
    # AMQP properties
    "content type of invalid UTF-8": raw(b"\x80\x00" + b"\x03\xff\xfe\xfd"),
    "message id of invalid UTF-8": raw(b"\x00\x80" + b"\x02\xc3\x28"),
    "same, without a body": raw(b"\x00\x80" + b"\x02\xc3\x28", body=b""),
    "same, of several frames": raw(b"\x00\x80" + b"\x02\xc3\x28", body=b"x" * 400_000),
    "timestamp out of range": raw(
        b"\x20\x00" + struct.pack(">I", 11) + b"\x01tT" + struct.pack(">Q", 2**63)
    ),
    "headers 5,000 deep": raw(b"\x20\x00" + nested_table(5000)),
    "array of headers 5,000 deep": raw(b"\x20\x00" + nested_array(5000)),
    "routing key of invalid UTF-8": raw(
        b"\x80\x00\x10application/json", b'{"event_type": "odd"}', routing_key=b"\xff\xfe"
    ),
    # content type, encoding and compression
    "not JSON": body(b"\x80\x04 not JSON", "cannot be read as JSON"),
    "empty body": body(b"", "cannot be read as JSON"),
    "cut off": body(b'{"oslo.version": "2.0", "oslo.me', "cannot be read as JSON"),
    "text": body(b"hello", "content type", content_type="text/plain"),
    "no content type": body(b"{}", "content type", content_type=None),
    "pickle": body(
        b"cos\nsystem\n(S'false'\ntR.", "type", content_type="application/x-python-serialize"
    ),
    "yaml": body(b"a: 1", "content type", content_type="application/x-yaml"),
    "codec that expands": body(
        zlib.compress(bytes(50 * MIB)), "type", content_type="x/y", content_encoding="zlib_codec"
    ),
    "codec of quadratic time": body(IDNA, "cannot be read as JSON", content_encoding="idna"),
    "unknown compression": body(b"{}", "compression", headers={"compression": "brotli"}),
    "compression no string": body(b"{}", "compression", headers={"compression": {"a": [1]}}),
    "broken gzip": body(b"{}", "broken compression", headers={"compression": "gzip"}),
    "gzip cut off": body(
        zlib.compress(b"{}" * 99)[:-6], "cut off", headers={"compression": "gzip"}
    ),
    "gzip bomb": body(
        bomb(zlib.compressobj(9), 400 * MIB), "expands", headers={"compression": "gzip"}
    ),
    "bzip2 bomb": body(
        bomb(bz2.BZ2Compressor(), 400 * MIB), "expands", headers={"compression": "bzip2"}
    ),
    # size
    "one byte too large": huge(LIMIT + 1),
    "20 MB": huge(20 * MIB),
    # envelope
    "a list": body(b"[]", "expected an object"),
    "pairs": body(b'[["event_type", "odd"]]', "expected an object"),
    "a number": body(b"7", "expected an object"),
    "version of the future": body(
        b'{"oslo.version": "3.0", "oslo.message": "{}"}', "/oslo.version"
    ),
    "version no string": body(b'{"oslo.version": 2, "oslo.message": "{}"}', "/oslo.version"),
    "message no string": body(b'{"oslo.version": "2.0", "oslo.message": {}}', "/oslo.message"),
    "message no object": body(b'{"oslo.version": "2.0", "oslo.message": "null"}', "/oslo.message"),
    "JSON 100,000 deep": body(b"[" * 100_000 + b"]" * 100_000, "cannot be read as JSON"),
    "integer of 5,000 digits": body(b'{"payload": ' + b"9" * 5000 + b"}", "JSON"),
    # what is a message, to be judged by on_message
    "nothing in it": body(b"{}"),
    "priority null": notification(priority=None),
    "priority a number": notification(priority=5),
    "priority unknown": notification(priority="utmost"),
    "payload null": notification(payload=None),
    "payload a number": notification(payload=5),
    "payload a string": notification(payload="five"),
    "payload a list": notification(payload=[5]),
    "event type a number": notification(event_type=5),
    "event type an object": notification(event_type={"a": 1}),
    "NUL": notification(event_type="a\0b", payload={"\0": "\0"}),
    "lone surrogate": notification(event_type="\ud800", payload={"\udfff": "\ud800"}),
    "not a number": notification(payload={"size": float("nan"), "more": float("-inf")}),
    "payload 500 deep": notification(payload=nested(500)),
    "context 500 deep": notification(_context_roles=nested(500)),
    "context named self": notification(_context_self="self", _context_values={}, _context_=1),
    "id 500 deep": notification(_unique_id=nested(500), _msg_id=nested(500)),
    "a call": notification(_msg_id="1", _reply_q="nowhere", _timeout="x", method="call", args={}),
    "published twice": notification(_unique_id="the-same", copies=2),
}


@pytest.mark.parametrize("name", POISON)
def test_good_messages_around_it_are_handled_once(line: Line, name: str) -> None:
    inbox, poison = Inbox(), POISON[name]
    listener = line.listen(inbox, max_message_bytes=LIMIT, prefetch=1)
    line.send(line.good(1))
    poison.send(line)
    line.send(line.good(2))
    until(lambda: len(inbox.messages) + len(inbox.garbage) >= 2 + poison.copies, "all of them")
    until(lambda: line.broker.backlog(line.queue) == (0, 0), "an empty queue")
    good = sorted(message.payload["number"] for message in inbox.of_type("good"))
    assert good == [1, 2]
    assert listener.healthy
    if poison.garbage is None:
        assert inbox.garbage == []
        assert len(inbox.messages) == 2 + poison.copies
    else:
        ((reason, description),) = inbox.garbage
        assert poison.garbage in reason
        assert_storable(description)


def assert_storable(description: Any) -> None:
    """Any store can keep it: JSON, real Unicode, bounded."""
    text = json.dumps(description, ensure_ascii=False)
    assert len(text.encode("utf-8")) < 3 * frames.KEPT_BYTES


def test_description_tells_where_it_came_from(line: Line) -> None:
    inbox = Inbox()
    line.listen(inbox)
    line.send(b"\xff\x00 binary", headers={"who": "me"})
    until(lambda: inbox.garbage, "the garbage")
    ((_, description),) = inbox.garbage
    assert description["queue"] == line.queue
    assert description["exchange"] == line.exchange
    assert description["routing_key"] == line.queue
    assert "'who': 'me'" in description["properties"]["application_headers"]
    assert base64.b64decode(description["body_base64"]) == b"\xff\x00 binary"


def test_start_of_an_oversized_body_is_kept(line: Line) -> None:
    inbox = Inbox()
    line.listen(inbox, max_message_bytes=1000)
    line.send(b"begin" + b"x" * 500_000)
    line.send(line.good(1))
    until(lambda: inbox.messages, "the message after it")
    ((_, description),) = inbox.garbage
    assert description["body_bytes"] == 500_005
    assert description["body"] == "begin" + "x" * (frames.KEPT_BYTES - 5)


def test_what_on_message_cannot_bear_is_garbage(line: Line) -> None:
    inbox = Inbox()

    def picky(message: Any) -> None:
        json.dumps(nested(100_000)) if message.event_type == "odd" else inbox.take(message)

    line.listen(inbox, on_message=picky)
    notification().send(line)
    line.send(line.good(1))
    until(lambda: inbox.messages, "the message after it")
    until(lambda: inbox.garbage, "the garbage")
    assert "RecursionError" in inbox.garbage[0][0]


@pytest.mark.parametrize("method", ["gzip", "bzip2"])
def test_expansion_stops_at_the_limit(method: str) -> None:
    compress = {"gzip": zlib.compress, "bzip2": bz2.compress}[method]
    assert frames.expand(compress(bytes(1000)), method, 1000) == bytes(1000)
    with pytest.raises(Invalid, match="more than 999 bytes"):
        frames.expand(compress(bytes(1000)), method, 999)


LISTEN = """
import json, sys, threading
from tintype.adapters.bus import BusListener

lock = threading.Lock()

def tell(*what):
    with lock:
        print(json.dumps(what), flush=True)

def memory():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmHWM"].split()[0]) * 1024

settings = json.loads(sys.argv[1])
listener = BusListener(
    **settings,
    on_message=lambda message: tell("message", message.message_id),
    on_garbage=lambda reason, description: tell("garbage", reason),
)
before = memory()
listener.start()
tell("ready")
sys.stdin.read()
listener.stop(60)
tell("memory", memory() - before)
"""


def test_memory_of_a_listener_is_bounded(line: Line) -> None:
    """All of it twice over, bombs of 400 MB and bodies of 20 MB among it."""
    settings = {
        "url": line.broker.url,
        "exchange": line.exchange,
        "topics": [line.topic],
        "max_message_bytes": LIMIT,
        "prefetch": 20,
    }
    inbox = Inbox()
    line.listen(inbox).stop(DEADLINE)  # the queues are there now
    for turn in range(2):
        for poison in POISON.values():
            poison.send(line)
        line.send(line.good(turn))
    for _ in range(5):
        huge(20 * MIB).send(line)
    line.send(line.good(2))
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LISTEN, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ,
        text=True,
    )
    try:
        until(lambda: line.broker.backlog(line.queue) == (0, 0), "an empty queue")
        output, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    told = [json.loads(text) for text in output.splitlines()]
    kinds = [what[0] for what in told]
    expected = sum(2 * poison.copies for poison in POISON.values()) + 3 + 5
    assert kinds.count("message") + kinds.count("garbage") == expected
    assert {f"good-{number}" for number in range(3)} <= {what[-1] for what in told}
    assert told[-1][0] == "memory"
    assert told[-1][1] < 64 * MIB


def test_plain_amqp_publisher_is_as_good(line: Line) -> None:
    """Also the proof that RawContent itself is no reason for a failure here."""
    inbox = Inbox()
    line.listen(inbox)
    with line.broker.amqp() as connection, connection.channel() as channel:
        content = RawContent(line.good(1), b"\x80\x00\x10application/json")
        channel.basic_publish(content, line.exchange, line.queue, mandatory=True)
    until(lambda: inbox.messages, "the message")


def test_fanout_exchange_needs_no_routing_key(line: Line) -> None:
    inbox = Inbox()
    line.listen(inbox)
    with line.broker.kombu() as connection:
        fanout = kombu.Exchange(f"{line.exchange}-fanout", "fanout", durable=True)
        channel = connection.channel()
        kombu.Queue(line.queue, fanout, durable=True, channel=channel).declare()
        connection.Producer(channel).publish(
            line.good(1), exchange=fanout, content_type="application/json"
        )
    until(lambda: inbox.messages, "the message")
