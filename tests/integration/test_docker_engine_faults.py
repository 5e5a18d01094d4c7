"""A Docker Engine that is away, slow, lies or breaks off."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker import Connect
from tests.support.fake_docker import Request, fake_engine
from tintype.adapters.docker_client import READ_SIZE
from tintype.adapters.docker_engine import DockerEngine
from tintype.core.engine import CaptureOptions, Container, ContainerState
from tintype.core.errors import (
    CorruptArchive,
    NotFound,
    PausedTooLong,
    Refused,
    StillFrozen,
    Unavailable,
)

PLAIN = CaptureOptions(pause=True)
TAG = r"tintype-capture/i:o\.\w+"
IMAGE = {"Id": "sha256:1", "RootFS": {"Layers": ["sha256:2"]}, "Size": 3}
CONTAINER = Container("c1", "c1", "web", ContainerState.RUNNING, "busybox", "sha256:0")

# What the fixture `connect` collects.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class Script:
    """A container on a fake engine: freezes and thaws as the test says."""

    def __init__(self) -> None:
        self.paused = False
        self.freezes = True
        """Whether a pause has an effect."""
        self.pause_answer = 204
        self.thaws = True
        """Whether an unpause has an effect."""
        self.lost = False
        """The answer to a pause never comes."""
        self.commit_seconds = 0.0
        self.attempts_needed = 0
        """How many unpauses fail first."""
        self.ends_commit = threading.Event()
        """Set by the last of them; a commit waits for it, if the test says so."""
        self.commit_waits = False
        self.layers = ["sha256:2"]
        """Of the container's image."""
        self.info: dict[str, Any] = {"DriverStatus": []}

    def answers(self) -> dict[str, Any]:
        return {
            "GET /containers/c1/json": lambda request: request.json(200, self.attrs()),
            "POST /containers/c1/pause": self.pause,
            "POST /containers/c1/unpause": self.unpause,
            "POST /commit": self.commit,
            rf"GET /images/{TAG}/json": lambda request: request.json(200, IMAGE),
            "GET /images/sha256:0/json": lambda request: request.json(
                200, {**IMAGE, "RootFS": {"Layers": self.layers}}
            ),
            "GET /info": lambda request: request.json(200, self.info),
        }

    def attrs(self) -> dict[str, Any]:
        return {
            "Id": "c1",
            "Name": "/web",
            "State": {"Status": "paused" if self.paused else "running", "Paused": self.paused},
            "Config": {
                "Image": "busybox",
                "Cmd": None,
                "Entrypoint": None,
                "WorkingDir": "",
                "User": "",
                "Labels": None,
            },
            "HostConfig": {"RestartPolicy": {"Name": "", "MaximumRetryCount": 0}},
            "Image": "sha256:0",
            "Mounts": [],
        }

    def pause(self, request: Request) -> None:
        self.paused = self.freezes
        if self.lost:
            return request.stall()
        return request.json(self.pause_answer, {"message": "Container c1 is already paused"})

    def unpause(self, request: Request) -> None:
        self.attempts_needed -= 1
        self.paused = self.paused and not (self.thaws and self.attempts_needed < 0)
        if self.attempts_needed < 0:
            self.ends_commit.set()
        request.json(500 if self.paused else 204, {"message": "runc cannot resume"})

    def commit(self, request: Request) -> None:
        time.sleep(self.commit_seconds)
        if self.commit_waits:
            assert self.ends_commit.wait(60)
        request.json(201, {"Id": "sha256:1"})


# Nothing there


def test_an_engine_that_is_away_is_unavailable_but_not_at_once(
    connect: Connect, tmp_path: Path
) -> None:
    engine = connect(f"unix://{tmp_path}/docker.sock")

    for call in (engine.check, engine.owners, lambda: engine.inspect("web")):
        with pytest.raises(Unavailable, match="No such file"):
            call()


@pytest.mark.parametrize("instance", ["", "Upper", "a/b", "a:b", "a b"])
def test_an_instance_must_fit_into_a_tag(instance: str) -> None:
    with pytest.raises(ValueError, match="instance"):
        DockerEngine(None, instance=instance)


def test_an_engine_that_does_not_answer_in_time_is_unavailable(
    connect: Connect, tmp_path: Path
) -> None:
    with fake_engine(tmp_path, {"GET /_ping": Request.stall}) as fake:
        engine = connect(fake.url, call_timeout=1)

        with pytest.raises(Unavailable, match="timed out"):
            engine.check()


# Freezing


def test_a_container_that_somebody_else_froze_meanwhile_is_not_thawed(
    connect: Connect, tmp_path: Path
) -> None:
    script = Script()
    script.pause_answer = 409
    with fake_engine(tmp_path, script.answers()) as fake:
        capture = connect(fake.url).capture(CONTAINER, "o", PLAIN)

    assert capture.paused_ms == 0
    assert "POST /commit" in fake.seen
    assert "POST /containers/c1/unpause" not in fake.seen


def test_a_pause_whose_answer_got_lost_is_undone(connect: Connect, tmp_path: Path) -> None:
    script = Script()
    script.lost = True
    with (
        fake_engine(tmp_path, script.answers()) as fake,
        pytest.raises(Unavailable, match="timed out"),
    ):
        connect(fake.url, call_timeout=1).capture(CONTAINER, "o", PLAIN)

    assert not script.paused
    assert "POST /commit" not in fake.seen


def test_a_container_that_stays_frozen_is_told_loudly(
    connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script()
    script.thaws = False
    with (
        fake_engine(tmp_path, script.answers()) as fake,
        pytest.raises(Unavailable, match=r"c1 IS STILL FROZEN.*runc cannot resume"),
    ):
        connect(fake.url, thaw_delays=(0, 0.01, 0.01)).capture(CONTAINER, "o", PLAIN)

    assert fake.seen.count("POST /containers/c1/unpause") == 3
    assert "docker unpause c1" in caplog.text


def test_a_commit_may_take_longer_than_other_calls(connect: Connect, tmp_path: Path) -> None:
    script = Script()
    script.commit_seconds = 1.5
    with fake_engine(tmp_path, script.answers()) as fake:
        engine = connect(fake.url, call_timeout=1)
        assert engine.capture(CONTAINER, "o", PLAIN).paused_ms >= 1500

        with pytest.raises(Unavailable, match="timed out"):
            connect(fake.url, commit_timeout=1).capture(CONTAINER, "o", PLAIN)
    assert not script.paused


# Frozen for too long


@pytest.mark.parametrize("attempts", [0, 5])
def test_a_container_runs_again_in_time_while_the_commit_goes_on(
    connect: Connect, tmp_path: Path, attempts: int
) -> None:
    script = Script()
    script.commit_waits, script.attempts_needed = True, attempts
    options = replace(PLAIN, max_pause_ms=10)
    with fake_engine(tmp_path, script.answers()) as fake:
        engine = connect(fake.url, thaw_delays=(0, 0.01))

        with pytest.raises(PausedTooLong, match="10 ms"):
            engine.capture(CONTAINER, "o", options)

    assert not script.paused
    assert fake.seen.count("POST /containers/c1/unpause") == attempts + 1
    assert any(re.fullmatch(f"DELETE /images/{TAG}", each) for each in fake.seen)


def test_a_commit_that_never_ends_is_told_as_frozen_too_long(
    connect: Connect, tmp_path: Path
) -> None:
    script = Script()
    answers = {**script.answers(), "POST /commit": Request.stall}
    with fake_engine(tmp_path, answers) as fake:
        engine = connect(fake.url, commit_timeout=1)

        with pytest.raises(PausedTooLong) as raised:
            engine.capture(CONTAINER, "o", replace(PLAIN, max_pause_ms=10))
        assert isinstance(raised.value.__cause__, Unavailable)
        assert not script.paused
        with pytest.raises(Unavailable, match="timed out"):
            engine.capture(CONTAINER, "o", replace(PLAIN, max_pause_ms=10, keep_overrun=True))
    assert not script.paused


def test_a_timer_that_cannot_thaw_hides_nothing(connect: Connect, tmp_path: Path) -> None:
    script = Script()
    script.thaws, script.commit_waits, script.attempts_needed = False, True, 5
    options = replace(PLAIN, max_pause_ms=10)
    with (
        fake_engine(tmp_path, script.answers()) as fake,
        pytest.raises(StillFrozen, match="STILL FROZEN"),
    ):
        connect(fake.url, thaw_delays=(0, 0.01)).capture(CONTAINER, "o", options)

    assert script.paused


# Squashing


def test_half_an_export_becomes_no_image(connect: Connect, tmp_path: Path) -> None:
    script = Script()
    script.layers = [f"sha256:{number}" for number in range(125)]
    sent: list[bytes] = []

    def export(request: Request) -> None:
        request.begin_chunks()
        request.chunk(bytes(1023) + b"x" + bytes(1023))
        request.chunk(b"")

    def create(request: Request) -> None:
        while data := request.rfile.read1(1 << 16):
            sent.append(data)
        request.close_connection = True

    answers = {
        **script.answers(),
        "GET /containers/c1/export": export,
        "POST /images/create": create,
    }
    with fake_engine(tmp_path, answers) as fake, pytest.raises(CorruptArchive, match="ends early"):
        connect(fake.url).capture(CONTAINER, "o", PLAIN)

    assert not b"".join(sent).endswith(b"0\r\n\r\n")  # the last chunk, which says that all is sent
    assert "POST /commit" not in fake.seen
    assert not script.paused


@pytest.mark.parametrize("options", [replace(PLAIN, squash=True), replace(PLAIN, max_layers=1)])
def test_containerds_store_is_refused_before_the_container_is_frozen(
    connect: Connect, tmp_path: Path, options: CaptureOptions
) -> None:
    script = Script()
    script.info = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    with fake_engine(tmp_path, script.answers()) as fake, pytest.raises(Refused, match="squash"):
        connect(fake.url).capture(CONTAINER, "o", options)

    assert "POST /containers/c1/pause" not in fake.seen


# Versions


@pytest.mark.parametrize("version", ["1.24", "1.41", "1.45", "1.99"])
def test_the_engine_is_spoken_to_in_its_own_version(
    connect: Connect, tmp_path: Path, version: str
) -> None:
    script = Script()
    with fake_engine(tmp_path, script.answers(), version) as fake:
        capture = connect(fake.url).capture(CONTAINER, "o", PLAIN)

    assert capture.digest == IMAGE["Id"]
    assert fake.versions == {"", version}  # what it speaks is asked without one


# Streaming


def stream_from(tmp_path: Path, answer: Any) -> Any:
    """Run a fake engine whose image streams as `answer` does."""
    path = r"GET /images/tintype-capture/i:o\.1/"
    describe = lambda request: request.json(200, IMAGE)  # noqa: E731
    return fake_engine(tmp_path, {f"{path}json": describe, f"{path}get": answer})


def read_all(engine: DockerEngine) -> bytes:
    capture = engine.reopen("tintype-capture/i:o.1")
    assert capture is not None
    with capture.read() as chunks:
        return b"".join(chunks)


def test_a_whole_stream_comes_in_large_chunks(connect: Connect, tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        request.begin_chunks()
        for _ in range(100):
            request.chunk(bytes(32 * 1024))
        request.chunk(b"")

    with stream_from(tmp_path, answer) as fake:
        capture = connect(fake.url).reopen("tintype-capture/i:o.1")
        assert capture is not None
        with capture.read() as chunks:
            sizes = [len(chunk) for chunk in chunks]

    assert sizes == [READ_SIZE] * 3 + [128 * 1024]


def test_silence_before_the_stream_ends_it(connect: Connect, tmp_path: Path) -> None:
    with stream_from(tmp_path, Request.stall) as fake:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="timed out"):
            read_all(connect(fake.url, stream_timeout=1))

        assert 0.9 < time.monotonic() - began < 5


def test_silence_in_the_stream_ends_it(connect: Connect, tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        request.begin_chunks()
        request.chunk(bytes(100))
        request.stall()

    with stream_from(tmp_path, answer) as fake:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="timed out"):
            read_all(connect(fake.url, stream_timeout=1))

        assert 0.9 < time.monotonic() - began < 5
        assert fake.left.wait(5)


def test_a_slow_stream_is_not_silence(connect: Connect, tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        request.begin_chunks()
        for _ in range(5):
            time.sleep(0.4)
            request.chunk(b"x")
        request.chunk(b"")

    with stream_from(tmp_path, answer) as fake:
        assert read_all(connect(fake.url, stream_timeout=1)) == b"xxxxx"


def test_a_stream_that_breaks_off_is_unavailable(connect: Connect, tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        request.begin_chunks()
        request.chunk(bytes(100))
        request.close_connection = True

    with stream_from(tmp_path, answer) as fake, pytest.raises(Unavailable):
        read_all(connect(fake.url))


def test_leaving_a_stream_early_closes_the_connection(connect: Connect, tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        request.begin_chunks()
        request.chunk(bytes(READ_SIZE))
        request.stall()

    with stream_from(tmp_path, answer) as fake:
        capture = connect(fake.url).reopen("tintype-capture/i:o.1")
        assert capture is not None
        with capture.read() as chunks:
            next(chunks)
            assert not fake.left.is_set()

        assert fake.left.wait(5)


def test_an_engine_without_the_image_says_so(connect: Connect, tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        request.json(404, {"message": "reference does not exist"})

    with (
        stream_from(tmp_path, answer) as fake,
        pytest.raises(NotFound, match="reference does not exist"),
    ):
        read_all(connect(fake.url))
