"""A Glance, or what stands before it, that misbehaves in an upload: no image may come out short.

Played by a small HTTP server that does what real ones were seen to do, on real sockets.
"""

from __future__ import annotations

import json
import socket
import struct
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session
from openstack.connection import Connection

from tintype.adapters.glance import GlanceStore
from tintype.adapters.openstack_access import Patience
from tintype.core.errors import (
    ImageIdSpent,
    Invalid,
    NotFound,
    Refused,
    TintypeError,
    TooLarge,
    Unavailable,
)

IMAGE_ID = str(uuid.uuid4())
CHUNK = bytes(512 * 1024)
CHUNKS = 64


class StandIn(ThreadingHTTPServer):
    """Says that the image is `status` and takes an upload as `answer` tells it to."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Handler], None], status: str = "queued") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.status = status
        self.puts = 0


class Handler(BaseHTTPRequestHandler):
    """Speaks as much of the images API as an upload needs."""

    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_GET(self) -> None:
        """Show the image."""
        if self.server.status == "gone":
            return self.reply(404)
        document = {"id": IMAGE_ID, "status": self.server.status}
        return self.reply(200, json.dumps(document).encode())

    def do_PUT(self) -> None:
        """Take an upload."""
        self.server.puts += 1
        self.server.answer(self)
        self.close_connection = True

    def take(self, chunks: int) -> int:
        """Read HTTP chunks of the body, the last one included; return how many there were."""
        for taken in range(chunks):
            size = int(self.rfile.readline(), 16)
            self.rfile.read(size + 2)
            if not size:
                return taken
        return chunks

    def reply(self, status: int, body: bytes = b"", location: str = "") -> None:
        """Answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """Break the connection as a machine does that goes down."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


Play = Callable[..., tuple[StandIn, GlanceStore]]


@pytest.fixture
def play() -> Iterator[Play]:
    """Return what starts a stand-in and a store that speaks to it."""
    running: list[tuple[StandIn, Thread, Connection]] = []

    def start(answer: Callable[[Handler], None], **options: str) -> tuple[StandIn, GlanceStore]:
        server = StandIn(answer, **options)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        connection = Connection(
            session=Session(auth=NoAuth(endpoint=address)), image_endpoint_override=address
        )
        running.append((server, thread, connection))
        patience = Patience(connect=5, read=5, upload=1, settle=0.3, poll=0.02)
        return server, GlanceStore(connection, patience=patience)

    yield start
    for server, thread, connection in running:
        connection.close()
        server.shutdown()
        thread.join()
        server.server_close()


def body() -> Iterator[bytes]:
    """Yield 32 MiB, more than sockets hold."""
    for _ in range(CHUNKS):
        yield CHUNK


def after_all(status: int, location: str = "") -> Callable[[Handler], None]:
    """Take all the data, then answer."""

    def answer(handler: Handler) -> None:
        handler.take(CHUNKS + 1)
        handler.reply(status, location=location)

    return answer


def midway(status: int) -> Callable[[Handler], None]:
    """Answer after a few chunks and hang up."""

    def answer(handler: Handler) -> None:
        handler.take(3)
        handler.reply(status)

    return answer


def test_what_was_taken_whole_is_fine(play: Play) -> None:
    server, store = play(after_all(204))
    store.upload(IMAGE_ID, body())
    assert server.puts == 1


@pytest.mark.parametrize("when", [after_all, midway])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (401, Unavailable),
        (404, Unavailable),  # the image is still there, whatever the answer says
        (409, Unavailable),
        (410, Unavailable),
        (413, TooLarge),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_a_refusal_is_told_and_nothing_is_sent_twice(
    play: Play,
    when: Callable[[int], Callable[[Handler], None]],
    status: int,
    error: type[TintypeError],
) -> None:
    server, store = play(when(status))
    with pytest.raises(error) as raised:
        store.upload(IMAGE_ID, body())
    assert type(raised.value) is error
    assert server.puts == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(play: Play, status: int) -> None:
    server, store = play(after_all(status, location="/v2/images/elsewhere/file"))
    with pytest.raises(Unavailable, match=str(status)):
        store.upload(IMAGE_ID, body())
    assert server.puts == 1


def test_a_204_before_the_end_is_not_believed(play: Play) -> None:
    _, store = play(midway(204))
    with pytest.raises(Unavailable, match="before it had all"):
        store.upload(IMAGE_ID, body())


def test_a_connection_that_breaks_is_unavailable(play: Play) -> None:
    def answer(handler: Handler) -> None:
        handler.take(3)
        handler.reset()

    server, store = play(answer)
    with pytest.raises(Unavailable):
        store.upload(IMAGE_ID, body())
    assert server.puts == 1


@pytest.mark.parametrize("chunks", [3, CHUNKS + 1], ids=["takes no more", "says no more"])
def test_a_server_that_falls_silent_is_unavailable(play: Play, chunks: int) -> None:
    silence = socket.socketpair()

    def answer(handler: Handler) -> None:
        handler.take(chunks)
        silence[0].recv(1)

    _, store = play(answer)
    with pytest.raises(Unavailable):
        store.upload(IMAGE_ID, body())
    for end in reversed(silence):
        end.close()


@pytest.mark.parametrize("end", ["500", "reset"])
def test_an_image_that_is_gone_says_more_than_how_the_upload_failed(play: Play, end: str) -> None:
    def answer(handler: Handler) -> None:
        handler.take(3)
        handler.server.status = "gone"
        handler.reply(500) if end == "500" else handler.reset()

    _, store = play(answer)
    with pytest.raises(NotFound):
        store.upload(IMAGE_ID, body())


@pytest.mark.parametrize("status", ["saving", "active", "deactivated", "importing"])
def test_an_image_that_takes_no_data_is_never_sent_any(play: Play, status: str) -> None:
    server, store = play(after_all(204), status=status)
    with pytest.raises(ImageIdSpent):
        store.upload(IMAGE_ID, body())
    assert server.puts == 0


@pytest.mark.parametrize("status", ["killed", "deleted", "pending_delete"])
def test_an_image_on_its_way_out_is_not_found(play: Play, status: str) -> None:
    server, store = play(after_all(204), status=status)
    with pytest.raises(NotFound):
        store.upload(IMAGE_ID, body())
    assert server.puts == 0


def test_the_request_is_opened_only_once_there_is_data(play: Play) -> None:
    server, store = play(after_all(204))

    def late() -> Iterator[bytes]:
        assert server.puts == 0
        yield from body()
        assert server.puts == 1

    store.upload(IMAGE_ID, late())


def test_data_that_cannot_be_had_opens_no_request(play: Play) -> None:
    server, store = play(after_all(204))

    def broken() -> Iterator[bytes]:
        raise Invalid("nothing to send")
        yield b""

    with pytest.raises(Invalid):
        store.upload(IMAGE_ID, broken())
    assert server.puts == 0
