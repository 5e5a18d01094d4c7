"""What every Engine does, run on the in-memory twin and on a real Docker Engine."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import pytest
from docker import DockerClient

from tests.support.captures import content
from tests.support.docker import PATIENCE, Containers, write
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_events import REMEMBERED
from tintype.core.engine import (
    CaptureOptions,
    Container,
    ContainerState,
    Engine,
    EngineAction,
    EngineEvent,
)
from tintype.core.errors import NotFound, Refused, Unavailable, WrongState

RUNNING, STOPPED = ContainerState.RUNNING, ContainerState.STOPPED
PAUSED, OTHER = ContainerState.PAUSED, ContainerState.OTHER
CAPTURABLE = (RUNNING, STOPPED, PAUSED)
FILES = {"/greeting": b"hello from inside\n"}
PLAIN = CaptureOptions(pause=True)
AWKWARD = "a \"b\" 'c' $HOME ${X} back\\slash #no é\nsecond line"


class World(Protocol):
    """An engine, and what others do to its containers."""

    engine: Engine

    def make(
        self,
        state: ContainerState = RUNNING,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        files: Mapping[str, bytes] = FILES,
    ) -> Container:
        """Make a container and return what `inspect` says of it."""

    def write(self, container: Container, path: str, data: bytes) -> None:
        """Put a file into a container."""

    def pause(self, container: Container) -> None:
        """Freeze a container."""

    def kill(self, container: Container) -> None:
        """Stop a container the hard way."""

    def rename(self, container: Container, name: str) -> None:
        """Give a container another name."""

    def remove(self, container: Container) -> None:
        """Remove a container."""


class MemoryWorld:
    """The twin."""

    def __init__(self) -> None:
        self.twin = MemoryEngine()
        self.engine: Engine = self.twin

    def make(
        self,
        state: ContainerState = RUNNING,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        files: Mapping[str, bytes] = FILES,
    ) -> Container:
        name = name or f"test-{secrets.token_hex(6)}"
        return self.twin.add(name, state, files=files, labels=labels, volumes=volumes)

    def write(self, container: Container, path: str, data: bytes) -> None:
        self.twin.by_id[container.engine_id].files[path] = data

    def pause(self, container: Container) -> None:
        self.twin.by_id[container.engine_id].state = PAUSED

    def kill(self, container: Container) -> None:
        self.twin.by_id[container.engine_id].state = STOPPED

    def rename(self, container: Container, name: str) -> None:
        self.twin.rename(container.engine_id, name)

    def remove(self, container: Container) -> None:
        self.twin.remove(container.engine_id)


@dataclass
class DockerWorld:
    """A real Docker Engine."""

    engine: Engine
    containers: Containers
    client: DockerClient

    def make(
        self,
        state: ContainerState = RUNNING,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        files: Mapping[str, bytes] = FILES,
    ) -> Container:
        made = self.containers(state, name=name, files=files, labels=labels, volumes=volumes)
        return self.engine.inspect(str(made.id))

    def write(self, container: Container, path: str, data: bytes) -> None:
        write(self.client.containers.get(container.engine_id), path, data)

    def pause(self, container: Container) -> None:
        self.client.containers.get(container.engine_id).pause()

    def kill(self, container: Container) -> None:
        made = self.client.containers.get(container.engine_id)
        made.kill()
        made.wait(timeout=PATIENCE)

    def rename(self, container: Container, name: str) -> None:
        self.client.containers.get(container.engine_id).rename(name)

    def remove(self, container: Container) -> None:
        self.client.containers.get(container.engine_id).remove(force=True)


@pytest.fixture(params=["memory", "docker"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        return MemoryWorld()
    engine: DockerEngine = request.getfixturevalue("docker_engine")
    return DockerWorld(
        engine,
        request.getfixturevalue("container"),
        request.getfixturevalue("docker_client"),
    )


def new_owner() -> str:
    return str(uuid.uuid4())


# inspect


def test_found_by_id_by_the_start_of_the_id_and_by_name(world: World) -> None:
    made = world.make()

    for ident in (made.engine_id, made.engine_id[:12], made.name):
        assert world.engine.inspect(ident).engine_id == made.engine_id
    assert made.uuid == made.engine_id


def test_found_by_the_uuid_that_zun_put_into_the_name(world: World) -> None:
    ident = str(uuid.uuid4())
    made = world.make(name=f"zun-{ident}")

    for form in (ident, ident.upper(), f"zun-{ident}"):
        assert world.engine.inspect(form) == made
    assert made.uuid == ident


def test_a_uuid_that_is_no_zun_container_may_be_a_name(world: World) -> None:
    ident = str(uuid.uuid4())
    made = world.make(name=ident)

    assert world.engine.inspect(ident) == made


def test_a_uuid_that_stands_for_two_is_refused_and_both_are_named(world: World) -> None:
    ident = str(uuid.uuid4())
    world.make(OTHER, name=ident)
    world.make(OTHER, name=f"zun-{ident}")

    with pytest.raises(Refused, match=f"{ident}, zun-{ident}") as raised:
        world.engine.inspect(ident)
    assert type(raised.value) is Refused


def test_the_start_of_two_ids_is_refused_and_both_are_named(world: World) -> None:
    first: dict[str, Container] = {}
    made = world.make(OTHER)
    while made.engine_id[0] not in first:  # at the latest the 17th has a digit that was there
        first[made.engine_id[0]] = made
        made = world.make(OTHER)

    with pytest.raises(Refused) as raised:
        world.engine.inspect(made.engine_id[0])
    assert type(raised.value) is Refused
    assert made.name in str(raised.value)
    assert first[made.engine_id[0]].name in str(raised.value)


@pytest.mark.parametrize(
    "ident", ["no-such", "", "/", "a b", "../images", "x/../y", "%2e", "é", "?"]
)
def test_what_is_not_there_is_not_found(world: World, ident: str) -> None:
    with pytest.raises(NotFound):
        world.engine.inspect(ident)


@pytest.mark.parametrize("state", ContainerState)
def test_states_are_in_the_words_of_the_spec(world: World, state: ContainerState) -> None:
    assert world.make(state).state is state


def test_what_a_restore_needs_is_told(world: World) -> None:
    made = world.make(labels={"tier": "web"}, volumes=["/data", "/cache"])

    assert set(made.config) == {
        "command",
        "entrypoint",
        "working_dir",
        "user",
        "exposed_ports",
        "published_ports",
        "restart_policy",
    }
    assert json.loads(json.dumps(made.config)) == made.config
    assert made.config["command"]
    assert made.config["restart_policy"] == {"name": "no", "maximum_retry_count": 0}
    assert made.labels == {"tier": "web"}
    assert made.volumes == ("/cache", "/data")
    assert made.image
    assert made.image_id.startswith("sha256:")


# containers


@pytest.mark.parametrize("state", ContainerState)
def test_the_list_says_the_same_as_inspect(world: World, state: ContainerState) -> None:
    made = world.make(state, labels={"tier": "web", "awkward": AWKWARD}, volumes=["/data"])
    other = world.make(OTHER)

    listed = {each.engine_id: each for each in world.engine.containers()}

    assert listed[made.engine_id] == replace(made, config={}, env_names=(), volumes=())
    assert listed[made.engine_id].state is state
    assert listed[other.engine_id].labels == {}


def test_the_list_has_the_uuid_that_zun_put_into_the_name(world: World) -> None:
    ident = str(uuid.uuid4())
    made = world.make(OTHER, name=f"zun-{ident}")

    [listed] = [each for each in world.engine.containers() if each.engine_id == made.engine_id]

    assert (listed.uuid, listed.name) == (ident, f"zun-{ident}")


def test_a_container_that_is_gone_is_not_listed(world: World) -> None:
    made = world.make()
    world.remove(made)

    assert made.engine_id not in {each.engine_id for each in world.engine.containers()}


def test_a_container_has_the_time_when_it_was_made(world: World) -> None:
    made = datetime.fromisoformat(world.make(OTHER).created_at)

    assert made.utcoffset() == timedelta(0)
    assert made.microsecond == 0
    assert made.timestamp() <= time.time()


# watch


def life_of(made: Container, events: Iterable[EngineEvent]) -> list[EngineEvent]:
    """Return the events of one container, to its end; others use the same engine."""
    life = []
    for event in events:
        if event.engine_id == made.engine_id:
            life.append(event)
            if event.action is EngineAction.DESTROY:
                break
    return life


def actions(events: Iterable[EngineEvent]) -> list[EngineAction]:
    return [event.action for event in events]


def test_the_life_of_a_container_is_seen_in_order(world: World) -> None:
    began, name = time.time_ns(), f"later-{secrets.token_hex(6)}"

    with world.engine.watch(began, PATIENCE) as events:
        made = world.make(labels={"tier": "web", "awkward": AWKWARD})
        world.pause(made)
        world.engine.thaw(made.engine_id)
        world.rename(made, name)
        world.kill(made)
        world.remove(made)
        life = life_of(made, events)

    assert actions(life) == [
        EngineAction.CREATE,
        EngineAction.START,
        EngineAction.PAUSE,
        EngineAction.UNPAUSE,
        EngineAction.RENAME,
        EngineAction.DIE,
        EngineAction.DESTROY,
    ]
    assert [event.name for event in life] == [made.name] * 4 + [name] * 3
    assert {event.image for event in life} == {made.image}
    assert all(event.labels == made.labels for event in life)
    assert [event.exit_code for event in life] == [None] * 5 + [137, None]
    times = [event.at for event in life]
    assert times == sorted(times)
    assert began <= times[0] <= times[-1] <= time.time_ns()


def test_what_the_engine_remembers_comes_again_as_it_was(world: World) -> None:
    began = time.time_ns()
    with world.engine.watch(began, PATIENCE) as events:
        made = world.make(PAUSED)
        world.remove(made)
        life = life_of(made, events)

    with world.engine.watch(began, PATIENCE) as events:
        assert life_of(made, events) == life
    with world.engine.watch(life[2].at, PATIENCE) as events:
        assert life_of(made, events) == life[2:]
    with world.engine.watch(life[2].at + 1, PATIENCE) as events:
        assert life_of(made, events) == life[3:]


def test_only_the_freeze_is_seen_of_a_capture(world: World) -> None:
    made, owner = world.make(), new_owner()

    with world.engine.watch(time.time_ns(), PATIENCE) as events:
        world.engine.capture(made, owner, PLAIN)
        world.engine.discard(owner)
        world.remove(made)
        life = life_of(made, events)

    assert actions(life) == [
        EngineAction.PAUSE,
        EngineAction.UNPAUSE,
        EngineAction.DIE,
        EngineAction.DESTROY,
    ]


def test_labels_named_like_the_engine_s_own_attributes_mislead_nobody(world: World) -> None:
    began = time.time_ns()
    named = {"name": "x", "image": "y", "exitCode": "none", "oldName": "z", "execDuration": "w"}
    made = world.make(labels={**named, "signal": "kept", "Type": "image"})
    world.remove(made)

    with world.engine.watch(began, PATIENCE) as events:
        life = life_of(made, events)

    assert made.labels == {**named, "signal": "kept", "Type": "image"}
    assert len(life) == 4
    for event in life:
        assert (event.name, event.image) == (made.name, made.image)
        assert event.labels == {"signal": "kept", "Type": "image"}
        assert event.exit_code is None  # a label hides it


def test_the_engine_ends_the_stream(world: World) -> None:
    began = time.time_ns()
    made = world.make(OTHER)

    with world.engine.watch(began, 0.5) as events:
        life = [event for event in events if event.engine_id == made.engine_id]

    assert actions(life) == [EngineAction.CREATE]


def test_a_clock_that_was_set_back_loses_nothing_that_happens(world: World) -> None:
    with world.engine.watch(time.time_ns() + 3600 * 10**9, PATIENCE) as events:
        made = world.make(OTHER)
        world.remove(made)

        assert actions(life_of(made, events)) == [EngineAction.CREATE, EngineAction.DESTROY]


def test_a_stream_can_be_left_in_the_middle(world: World) -> None:
    began = time.time_ns()
    world.make()

    with world.engine.watch(began, PATIENCE) as events:
        assert next(events).at >= began

    with pytest.raises(OSError, match="the index's"), world.engine.watch(began, PATIENCE):
        raise OSError("the index's")


# capture


@pytest.mark.parametrize("pause", [True, False], ids=["pause", "no-pause"])
@pytest.mark.parametrize("state", CAPTURABLE)
def test_a_capture_holds_the_files_and_leaves_the_state(
    world: World, state: ContainerState, *, pause: bool
) -> None:
    made = world.make(state)

    capture = world.engine.capture(made, new_owner(), CaptureOptions(pause=pause))

    assert world.engine.inspect(made.engine_id).state is state
    assert (capture.paused_ms > 0) is (pause and state is RUNNING)
    found = content(capture)
    assert found.files["/greeting"] == FILES["/greeting"]
    assert found.summary.config_digest == capture.digest
    assert found.summary.layers == tuple(capture.layers)
    assert capture.size_bytes > 0


def test_a_capture_is_of_one_instant(world: World) -> None:
    made = world.make()
    capture = world.engine.capture(made, new_owner(), PLAIN)

    world.write(made, "/greeting", b"later")

    assert content(capture).files["/greeting"] == FILES["/greeting"]


def test_message_author_and_labels_are_in_the_image(world: World) -> None:
    made = world.make(labels={"kept": "yes", "changed": "old"})
    owner = new_owner()
    labels = {"changed": "new", 'k $x "y"': AWKWARD, "empty": ""}
    options = CaptureOptions(pause=True, message=AWKWARD, author="A <a@example>", labels=labels)

    config = content(world.engine.capture(made, owner, options)).document

    assert config["author"] == "A <a@example>"
    assert config["history"][-1]["comment"] == AWKWARD
    found = config["config"]["Labels"]
    assert {"kept": "yes", **labels}.items() <= found.items()
    assert found["tintype.request_id"] == owner


def test_data_in_volumes_is_not_in_a_capture(world: World) -> None:
    made = world.make(volumes=["/data"], files={**FILES, "/data/rows": b"1,2,3"})

    found = content(world.engine.capture(made, new_owner(), PLAIN)).files

    assert "/data/rows" not in found
    assert "/greeting" in found


def test_a_container_that_is_gone_is_not_found(world: World) -> None:
    made = world.make()
    world.remove(made)

    with pytest.raises(NotFound):
        world.engine.capture(made, new_owner(), PLAIN)
    assert not world.engine.owners()


@pytest.mark.parametrize("pause", [True, False], ids=["pause", "no-pause"])
def test_a_container_in_no_state_for_it_is_refused(world: World, *, pause: bool) -> None:
    made = world.make(OTHER)

    with pytest.raises(WrongState):
        world.engine.capture(made, new_owner(), CaptureOptions(pause=pause))
    assert not world.engine.owners()


def test_captures_run_side_by_side(world: World) -> None:
    made = [world.make(files={"/number": b"%d" % number}) for number in range(5)]

    def captured(container: Container) -> bytes:
        return content(world.engine.capture(container, new_owner(), PLAIN)).files["/number"]

    with ThreadPoolExecutor(5) as pool:
        numbers = list(pool.map(captured, made))

    assert numbers == [b"0", b"1", b"2", b"3", b"4"]
    assert all(world.engine.inspect(each.engine_id).state is RUNNING for each in made)


# read


def test_a_capture_can_be_left_early_and_read_again(world: World) -> None:
    capture = world.engine.capture(world.make(), new_owner(), PLAIN)

    with capture.read() as chunks:
        assert next(chunks)

    assert content(capture).summary.sha256 == content(capture).summary.sha256


def test_what_the_reader_raises_comes_out_as_it_is(world: World) -> None:
    capture = world.engine.capture(world.make(), new_owner(), PLAIN)

    with pytest.raises(OSError, match="the store's disk"), capture.read():
        raise OSError("the store's disk")


# reopen, discard, owners


def test_a_capture_is_found_again_by_its_ref(world: World) -> None:
    capture = world.engine.capture(world.make(), new_owner(), PLAIN)

    again = world.engine.reopen(capture.ref, paused_ms=123)

    assert again is not None
    assert again.paused_ms == 123
    for name in ("ref", "digest", "layers", "size_bytes"):
        assert getattr(again, name) == getattr(capture, name)
    assert content(again).summary == content(capture).summary


def test_all_captures_of_an_owner_are_discarded_and_nobody_elses(world: World) -> None:
    made, owner, other = world.make(), new_owner(), new_owner()
    captures = [world.engine.capture(made, owner, PLAIN) for _ in range(2)]
    kept = world.engine.capture(made, other, PLAIN)
    assert len({each.ref for each in (*captures, kept)}) == 3
    assert world.engine.owners() == {owner, other}

    world.engine.discard(owner)
    world.engine.discard(owner)

    assert world.engine.owners() == {other}
    assert [world.engine.reopen(each.ref) for each in captures] == [None, None]
    assert world.engine.reopen(kept.ref) is not None
    with pytest.raises(NotFound), captures[0].read() as chunks:
        next(chunks)


def test_discarding_what_never_was_is_fine(world: World) -> None:
    world.engine.discard(new_owner())

    assert world.engine.owners() == frozenset()


# thaw, check, close


@pytest.mark.parametrize(
    ("state", "after"), [(PAUSED, RUNNING), (RUNNING, RUNNING), (STOPPED, STOPPED)]
)
def test_only_the_frozen_are_thawed(
    world: World, state: ContainerState, after: ContainerState
) -> None:
    made = world.make(state)

    world.engine.thaw(made.engine_id)

    assert world.engine.inspect(made.engine_id).state is after


def test_thawing_what_is_gone_is_fine(world: World) -> None:
    made = world.make(PAUSED)
    world.remove(made)

    world.engine.thaw(made.engine_id)


def test_an_engine_that_answers_passes_the_check(world: World) -> None:
    world.engine.check()
    world.engine.close()
    world.engine.close()


# What tests of others rely on in the twin


def test_the_twin_fails_on_demand_and_still_thaws() -> None:
    def fail(method: str) -> None:
        if method == "commit":
            raise Unavailable("on demand")

    twin = MemoryEngine(fail)
    made = twin.add("web")

    with pytest.raises(Unavailable, match="on demand"):
        twin.capture(made, new_owner(), PLAIN)

    assert twin.actions == [("pause", made.engine_id), ("unpause", made.engine_id)]
    assert twin.inspect("web").state is RUNNING
    assert not twin.owners()


def test_the_twin_fails_on_demand_in_the_list_and_the_stream() -> None:
    calls: list[str] = []
    twin = MemoryEngine(calls.append)

    twin.containers()
    with twin.watch(0, 0) as events:
        assert list(events) == []

    assert calls == ["containers", "watch"]


def test_the_twin_loses_the_connection_on_demand() -> None:
    twin = MemoryEngine()
    twin.add("web")

    with twin.watch(0, PATIENCE) as events:
        twin.lose_connection()
        assert actions([next(events), next(events)]) == [EngineAction.CREATE, EngineAction.START]
        with pytest.raises(Unavailable, match="connection"):
            next(events)
    with twin.watch(0, 0) as events:
        assert len(list(events)) == 2


def test_the_twin_wakes_a_stream_that_waits() -> None:
    twin = MemoryEngine()

    with twin.watch(0, PATIENCE) as events, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, events)
        made = twin.add("web")

        assert waiting.result(PATIENCE).engine_id == made.engine_id


def test_the_twin_remembers_as_much_as_the_engine() -> None:
    twin = MemoryEngine()
    for number in range(REMEMBERED + 1):
        twin.add(f"c{number}", OTHER)

    with twin.watch(0, 0) as events:
        names = [event.name for event in events]

    assert names == [f"c{number}" for number in range(1, REMEMBERED + 1)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (OTHER, RUNNING, ["start"]),
        (OTHER, PAUSED, ["start", "pause"]),
        (OTHER, STOPPED, ["start", "die"]),
        (RUNNING, RUNNING, []),
        (RUNNING, PAUSED, ["pause"]),
        (PAUSED, RUNNING, ["unpause"]),
        (PAUSED, STOPPED, ["die"]),
        (RUNNING, OTHER, ["die"]),
        (STOPPED, OTHER, []),
        (STOPPED, RUNNING, ["start"]),
    ],
)
def test_the_twin_logs_each_change_of_state(
    before: ContainerState, after: ContainerState, expected: Sequence[str]
) -> None:
    twin = MemoryEngine()
    made = twin.add("web", before)
    with twin.watch(0, 0) as events:
        last = [event.at for event in events][-1]

    twin.by_id[made.engine_id].state = after

    with twin.watch(last + 1, 0) as events:
        assert actions(events) == expected


def test_the_twin_s_containers_end_with_an_exit_code() -> None:
    twin = MemoryEngine()
    made = twin.add("web")

    twin.stop(made.engine_id, 3)

    with twin.watch(0, 0) as events:
        assert [event.exit_code for event in events] == [None, None, 3]
