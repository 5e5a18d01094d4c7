"""The engine's stream of events: what an engine may do to it, and what of it is to be believed."""

from __future__ import annotations

import gc
import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from docker import DockerClient

from tests.support.docker import Connect, Containers
from tests.support.fake_docker import FakeEngine, Request, fake_engine
from tintype.adapters.docker_engine import DockerEngine
from tintype.core.engine import ContainerState, EngineAction, EngineEvent
from tintype.core.errors import Refused, Unavailable

LONG = 60.0
"""Seconds to watch where the stream shall end before its time."""

PATIENCE = 10
"""Seconds for what happens at once on a machine with nothing else to do."""

# What the fixture `connect` collects.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def entry(action: str = "start", **changes: Any) -> dict[str, Any]:
    """Return an entry of the engine's log, as 20.10 sends it."""
    attributes = {"name": "web", "image": "busybox", "tier": "front"}
    return {
        "status": action,
        "id": "c1",
        "from": "busybox",
        "Type": "container",
        "Action": action,
        "Actor": {"ID": "c1", "Attributes": attributes},
        "scope": "local",
        "time": 1_795_558_241,
        "timeNano": 1_795_558_241_064_475_079,
        **changes,
    }


def line(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


GOOD = EngineEvent(
    EngineAction.START, "c1", 1_795_558_241_064_475_079, "web", "busybox", {"tier": "front"}
)


def sends(*chunks: bytes, then: Callable[[Request], None]) -> Callable[[Request], None]:
    """Return an answer that begins a stream with these chunks."""

    def answer(request: Request) -> None:
        request.begin_chunks()
        for chunk in chunks:
            request.chunk(chunk)
        then(request)

    return answer


def ends(request: Request) -> None:
    request.chunk(b"")


def breaks_off(request: Request) -> None:
    request.close_connection = True


def breaks_off_in_a_chunk(request: Request) -> None:
    request.wfile.write(b'ff\r\n{"Type":')
    request.close_connection = True


def engine_that(
    folder: Path, answer: Callable[[Request], None]
) -> AbstractContextManager[FakeEngine]:
    return fake_engine(folder, {"GET /events": answer})


def watched(engine: DockerEngine, seconds: float) -> list[EngineEvent]:
    with engine.watch(0, seconds) as events:
        return list(events)


# What is no stream


@pytest.mark.parametrize("then", [ends, breaks_off, breaks_off_in_a_chunk, Request.stall])
@pytest.mark.parametrize(
    "chunks",
    [[], [line(entry())], [line(entry())[:-20]], [line(entry()), b'{"Type": "cont']],
    ids=["nothing", "an-event", "half-a-line", "a-line-and-a-half"],
)
def test_a_stream_that_does_not_last_is_unavailable(
    connect: Connect, tmp_path: Path, chunks: Sequence[bytes], then: Callable[[Request], None]
) -> None:
    seconds = 0.5 if then is Request.stall else LONG
    with engine_that(tmp_path, sends(*chunks, then=then)) as fake:
        engine = connect(fake.url, call_timeout=1)

        with pytest.raises(Unavailable, match="container engine"):
            watched(engine, seconds)


def test_what_came_before_the_end_was_handed_out(connect: Connect, tmp_path: Path) -> None:
    with engine_that(tmp_path, sends(line(entry()), then=breaks_off)) as fake:  # noqa: SIM117
        with connect(fake.url).watch(0, LONG) as events:
            assert next(events) == GOOD
            with pytest.raises(Unavailable):
                next(events)


@pytest.mark.parametrize(
    "rubbish", [b"<html>\n", b"\n", b"\xff\xfe\n", b"{'Type': 1}\n", b"{}{}\n", b"[\n", b"\0\n"]
)
def test_a_broken_line_is_unavailable(connect: Connect, tmp_path: Path, rubbish: bytes) -> None:
    answer = sends(line(entry()), rubbish, line(entry()), then=Request.stall)
    with engine_that(tmp_path, answer) as fake:  # noqa: SIM117
        with connect(fake.url).watch(0, LONG) as events:
            assert next(events) == GOOD
            with pytest.raises(Unavailable, match="no event"):
                next(events)


def test_an_engine_that_never_answers_is_unavailable(connect: Connect, tmp_path: Path) -> None:
    with engine_that(tmp_path, Request.stall) as fake:
        engine = connect(fake.url, call_timeout=1)

        with pytest.raises(Unavailable, match="timed out"):
            watched(engine, 0.5)


@pytest.mark.parametrize(("status", "error"), [(500, Unavailable), (400, Refused)])
def test_an_engine_that_refuses_says_why(
    connect: Connect, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    def answer(request: Request) -> None:
        request.json(status, {"message": "no events today"})

    with engine_that(tmp_path, answer) as fake, pytest.raises(error, match="no events today"):
        watched(connect(fake.url), LONG)


def test_an_engine_that_is_away_is_unavailable(connect: Connect, tmp_path: Path) -> None:
    engine = connect(f"unix://{tmp_path}/docker.sock")

    with pytest.raises(Unavailable):
        watched(engine, LONG)
    with pytest.raises(Unavailable):
        engine.containers()


# What is


def test_the_engine_is_asked_for_a_span_and_for_what_is_used(
    connect: Connect, tmp_path: Path
) -> None:
    asked: list[dict[str, list[str]]] = []

    def answer(request: Request) -> None:
        asked.append(parse_qs(urlsplit(request.path).query))
        sends(then=ends)(request)

    now = time.time_ns()
    with engine_that(tmp_path, answer) as fake:
        engine = connect(fake.url)
        for since in (5, now, 2 * now):
            with engine.watch(since, 0.5) as events:
                assert list(events) == []

    (first, second, future) = asked
    assert first["since"] == ["0.000000005"]
    assert second["since"] == [f"{now // 10**9}.{now % 10**9:09}"]
    assert future["since"] == future["until"]
    assert float(second["until"][0]) >= (now + 500_000_000) // 10**9
    assert json.loads(first["filters"][0]) == {
        "type": ["container"],
        "event": ["create", "destroy", "die", "pause", "rename", "start", "unpause", "update"],
    }


def test_an_event_is_there_as_soon_as_it_is_sent(connect: Connect, tmp_path: Path) -> None:
    with engine_that(tmp_path, sends(line(entry()), then=Request.stall)) as fake:
        with connect(fake.url).watch(0, LONG) as events:
            assert next(events) == GOOD
            assert not fake.left.is_set()

        assert fake.left.wait(PATIENCE)


def test_chunks_need_not_be_lines(connect: Connect, tmp_path: Path) -> None:
    labels = {"name": "wéb", "image": "busybox", "tier": "\n\x85\u2028é"}
    actor = {"Actor": {"ID": "c1", "Attributes": labels}}
    document = json.dumps(entry("die", **actor), ensure_ascii=False).encode() + b"\n"
    data = document * 2 + line(entry())
    with engine_that(tmp_path, sends(*(bytes([b]) for b in data), then=ends)) as fake:
        [first, second, third] = watched(connect(fake.url), 0.5)

    assert first == second
    assert (first.name, first.labels) == ("wéb", {"tier": "\n\x85\u2028é"})
    assert third == GOOD


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        1,
        "start",
        [],
        {},
        [entry()],
        {"status": "start", "id": "c1", "from": "busybox", "time": 1},
        entry(Type="image"),
        entry(Type=None),
        entry("commit"),
        entry("kill"),
        entry("stop"),
        entry("exec_create: /bin/start"),
        entry("health_status: healthy"),
        entry("START"),
        entry(Action=["start"]),
        entry(Action={}),
        entry(timeNano=None),
        entry(timeNano="1"),
        entry(timeNano=1.5),
        entry(Actor=None),
        entry(Actor={"ID": 1, "Attributes": {}}),
        entry(Actor={"ID": "c1", "Attributes": None}),
        entry(Actor={"ID": "c1", "Attributes": {"name": 1}}),
        {"error": "something"},
    ],
    ids=lambda damaged: json.dumps(damaged)[:60],
)
def test_what_is_no_event_of_ours_is_passed_over(
    connect: Connect, tmp_path: Path, damaged: Any
) -> None:
    with engine_that(tmp_path, sends(line(damaged), line(entry()), then=ends)) as fake:
        assert watched(connect(fake.url), 0.5) == [GOOD]


@pytest.mark.parametrize(
    ("action", "told", "code"),
    [
        ("die", "137", 137),
        ("die", "-1", -1),
        ("die", "", None),
        ("die", "x", None),
        ("start", "1", None),
    ],
)
def test_an_exit_code_is_a_number_and_of_an_end(
    connect: Connect, tmp_path: Path, action: str, told: str, code: int | None
) -> None:
    attributes = {"name": "web", "image": "busybox", "exitCode": told, "execDuration": "4"}
    sent = entry(action, Actor={"ID": "c1", "Attributes": attributes})
    with engine_that(tmp_path, sends(line(sent), then=ends)) as fake:
        [event] = watched(connect(fake.url), 0.5)

    assert event.exit_code == code
    assert event.labels == {}


def test_a_stream_that_is_forgotten_is_closed(connect: Connect, tmp_path: Path) -> None:
    with engine_that(tmp_path, sends(line(entry()), then=Request.stall)) as fake:
        context = connect(fake.url).watch(0, LONG)
        events = context.__enter__()
        assert next(events) == GOOD
        del context, events
        gc.collect()

        assert fake.left.wait(PATIENCE)


# The list


def listed(**changes: Any) -> dict[str, Any]:
    return {
        "Id": "c1",
        "Names": ["/web"],
        "Image": "busybox",
        "ImageID": "sha256:0",
        "Created": 1_795_558_240,
        "Labels": {},
        "State": "running",
        **changes,
    }


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["/web"], "web"),
        (["/other/alias", "/web"], "web"),
        (["/web", "/other/alias"], "web"),
        ([], "c1"),
        (None, "c1"),
    ],
)
def test_a_container_has_its_own_name_and_no_alias(
    connect: Connect, tmp_path: Path, names: Sequence[str] | None, name: str
) -> None:
    def answer(request: Request) -> None:
        request.json(200, [listed(Names=names, Labels=None)])

    with fake_engine(tmp_path, {"GET /containers/json": answer}) as fake:
        [found] = connect(fake.url).containers()

    assert found.name == name
    assert found.uuid == found.engine_id == "c1"
    assert found.labels == {}
    assert found.created_at == "2026-11-24T22:10:40+00:00"


def test_all_containers_cost_one_call(connect: Connect, tmp_path: Path) -> None:
    states = ["created", "running", "paused", "restarting", "removing", "exited", "dead"]
    every = [listed(Id=f"c{number}", State=state) for number, state in enumerate(states)]
    with fake_engine(
        tmp_path, {"GET /containers/json": lambda request: request.json(200, every)}
    ) as fake:
        found = [each.state.value for each in connect(fake.url).containers()]

        assert fake.seen == ["GET /version", "GET /containers/json"]
    other = ContainerState.OTHER.value
    assert found == [other, "Running", "Paused", other, other, "Stopped", other]


def test_the_list_shows_an_id_for_a_reference_that_moved_on(
    docker_engine: DockerEngine, container: Containers, docker_client: DockerClient
) -> None:
    tag = f"tintype-test/moved-{secrets.token_hex(4)}:1"
    older = container().commit(tag)
    made = container(ContainerState.OTHER, image=tag)
    try:
        before = docker_engine.inspect(str(made.id))
        assert before.image == tag
        newer = container().commit(tag)

        [after] = [each for each in docker_engine.containers() if each.engine_id == made.id]

        assert docker_engine.inspect(str(made.id)) == before
        assert (after.image, after.image_id) == (older.id, older.id)
    finally:
        made.remove()
        docker_client.images.remove(str(older.id), force=True)
        docker_client.images.remove(str(newer.id), force=True)
