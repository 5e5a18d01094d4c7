"""What a commit can be asked for, and what is told before it, of every Engine.

Run on the in-memory twin in both layouts of archives, on this machine's Docker Engine and on a
newer one.
"""

from __future__ import annotations

import contextlib
import gc
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import docker.errors
import pytest
from docker import DockerClient

from tests.support.captures import content
from tests.support.docker import PATIENCE, Containers, ensure_busybox, load_layered
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_layouts import Layout
from tintype.core.engine import (
    CaptureOptions,
    Container,
    ContainerState,
    Engine,
    EngineAction,
    Execution,
)
from tintype.core.errors import Invalid, NotFound, PausedTooLong, Refused, WrongState

RUNNING, STOPPED = ContainerState.RUNNING, ContainerState.STOPPED
PAUSED, OTHER = ContainerState.PAUSED, ContainerState.OTHER
FILES = {"/greeting": b"hello from inside\n"}
PLAIN = CaptureOptions(pause=True)
SQUASH = CaptureOptions(pause=True, squash=True)
MOST_LAYERS = 125

# What the SDK leaves open while a newer engine does not answer yet.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class World(Protocol):
    """An engine, and what others do to its containers."""

    engine: Engine
    commits_take: float
    """Seconds that a commit takes at least, if the engine can be told."""

    def make(
        self,
        state: ContainerState = RUNNING,
        *,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        published: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] = FILES,
        base_layers: int = 1,
    ) -> Container:
        """Make a container and return what `inspect` says of it."""

    def answers(self, container: Container, answer: Callable[[str], Execution]) -> None:
        """Say what a container without processes does with a command."""

    def remove(self, container: Container) -> None:
        """Remove a container."""

    def left(self) -> list[str]:
        """Return what is left of captures: names of images and containers."""


class MemoryWorld:
    """The twin."""

    def __init__(self, layout: Layout) -> None:
        self.commits_take = 0.0
        self.twin = MemoryEngine(self._take_time, layout=layout)
        self.engine: Engine = self.twin

    def _take_time(self, method: str) -> None:
        if method == "commit":
            time.sleep(self.commits_take)

    def make(
        self,
        state: ContainerState = RUNNING,
        *,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        published: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] = FILES,
        base_layers: int = 1,
    ) -> Container:
        return self.twin.add(
            f"test-{secrets.token_hex(6)}",
            state,
            files=files,
            labels=labels,
            volumes=volumes,
            env=env,
            published=published,
            base_layers=base_layers,
        )

    def answers(self, container: Container, answer: Callable[[str], Execution]) -> None:
        self.twin.by_id[container.engine_id].run = answer

    def remove(self, container: Container) -> None:
        self.twin.remove(container.engine_id)

    def left(self) -> list[str]:
        return sorted(self.twin.owners())


class DockerWorld:
    """A real Docker Engine."""

    def __init__(self, url: str) -> None:
        self.commits_take = 0.0
        self.client = DockerClient(url, timeout=PATIENCE)
        self.adapter = DockerEngine(url, instance=secrets.token_hex(4))
        self.engine: Engine = self.adapter
        self.containers = Containers(self.client, ensure_busybox(url))
        self._tags: list[str] = []

    def make(
        self,
        state: ContainerState = RUNNING,
        *,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        published: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] = FILES,
        base_layers: int = 1,
    ) -> Container:
        made = self.containers(
            state,
            files=files,
            labels=labels,
            volumes=volumes,
            image=self._layered(base_layers) if base_layers > 1 else None,
            environment=dict(env or {}),
            ports={port: _binding(host) for port, host in (published or {}).items()},
        )
        return self.engine.inspect(str(made.id))

    def _layered(self, layers: int) -> str:
        self._tags.append(f"tintype-test/layered-{secrets.token_hex(4)}:1")
        load_layered(self.client, self.containers.image, self._tags[-1], layers)
        return self._tags[-1]

    def answers(self, container: Container, answer: Callable[[str], Execution]) -> None:
        """Do nothing: it has processes."""

    def remove(self, container: Container) -> None:
        self.client.containers.get(container.engine_id).remove(force=True)

    def left(self) -> list[str]:
        images = [tag for each in self.client.images.list() for tag in each.tags]
        every = self.client.containers.list(all=True)
        names = [str(each.name) for each in every if "tintype.capture.owner" in each.labels]
        return sorted(each for each in images if each.startswith("tintype-capture/")) + names

    def close(self) -> None:
        """Remove everything, and see that nothing is left."""
        self.containers.clean()
        for owner in self.engine.owners():
            self.engine.discard(owner)
        for tag in self._tags:
            with contextlib.suppress(docker.errors.ImageNotFound):
                self.client.images.remove(tag)
        left = self.engine.owners()
        self.engine.close()
        self.client.close()
        assert not left


def _binding(host: str) -> Any:
    address, _, port = host.rpartition(":")
    return (address.strip("[]"), port) if address else port or None


@pytest.fixture(params=["classic", "oci", "docker", "newer-docker"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param in ("classic", "oci"):
        yield MemoryWorld(request.param)
        return
    url = "engine_url" if request.param == "docker" else "newer_engine_url"
    real = DockerWorld(request.getfixturevalue(url))
    gc.collect()  # here, and not in somebody else's test
    yield real
    real.close()


def new_owner() -> str:
    return str(uuid.uuid4())


# inspect


def test_the_environment_is_told_by_name_only(world: World) -> None:
    made = world.make(env={"MODE": "production", "DB_PASSWORD": "hunter2", "EMPTY": ""})

    assert {"MODE", "DB_PASSWORD", "EMPTY"} <= set(made.env_names)
    assert list(made.env_names) == sorted(made.env_names)
    assert "hunter2" not in repr(made)


def test_published_ports_are_told_as_a_restore_takes_them(world: World) -> None:
    published = {"80/tcp": "127.0.0.1:8080", "53/udp": "5353", "9/tcp": "", "7/tcp": "[::1]:7777"}

    made = world.make(OTHER, published=published)

    assert made.config["published_ports"] == published
    assert made.config["exposed_ports"] == sorted(published)


# changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (['CMD ["/bin/other", "x"]'], {"Cmd": ["/bin/other", "x"]}),
        (["CMD echo $HOME"], {"Cmd": ["/bin/sh", "-c", "echo $HOME"]}),
        (['ENTRYPOINT ["/bin/run"]'], {"Entrypoint": ["/bin/run"], "Cmd": None}),
        (
            ['CMD ["x"]', 'entrypoint ["/bin/run"]'],
            {"Entrypoint": ["/bin/run"], "Cmd": ["x"]},
        ),
        (["WORKDIR /srv"], {"WorkingDir": "/srv"}),
        (["WORKDIR /srv", "WORKDIR app"], {"WorkingDir": "/srv/app"}),
        (["USER 1000:1000"], {"User": "1000:1000"}),
        (["EXPOSE 80 53/udp"], {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        (["VOLUME /data"], {"Volumes": {"/data": {}}}),
        (['VOLUME ["/a b", "/c"]'], {"Volumes": {"/a b": {}, "/c": {}}}),
        (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"]}}),
        (["HEALTHCHECK CMD true"], {"Healthcheck": {"Test": ["CMD-SHELL", "true"]}}),
        (["ONBUILD RUN make", "ONBUILD USER x"], {"OnBuild": ["RUN make", "USER x"]}),
        (["STOPSIGNAL SIGUSR1", "STOPSIGNAL SIGUSR2"], {"StopSignal": "SIGUSR2"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_change_wins_over_the_container_s_configuration(
    world: World, changes: Sequence[str], expected: Mapping[str, Any]
) -> None:
    made = world.make(env={"MODE": "production"})
    options = replace(PLAIN, changes=changes)

    found = content(world.engine.capture(made, new_owner(), options))

    assert {key: found.config.get(key) for key in expected} == expected
    assert found.env["MODE"] == "production"


def test_variables_are_added_and_replaced(world: World) -> None:
    made = world.make(env={"MODE": "production", "KEPT": "yes"})
    options = replace(PLAIN, changes=["ENV MODE=test NEW=\"a b\" OTHER='c'", "ENV OLD style of it"])

    env = content(world.engine.capture(made, new_owner(), options)).env

    expected = {"MODE": "test", "NEW": "a b", "OTHER": "c", "OLD": "style of it", "KEPT": "yes"}
    assert expected.items() <= env.items()


def test_labels_are_added_and_replaced_and_ours_are_still_there(world: World) -> None:
    made, owner = world.make(labels={"tier": "web", "kept": "yes"}), new_owner()
    changes = ['LABEL tier=db "com.example.x"="a b"']
    options = replace(PLAIN, labels={"given": "two\nlines"}, changes=changes)

    labels = content(world.engine.capture(made, owner, options)).config["Labels"]

    expected = {"tier": "db", "com.example.x": "a b", "kept": "yes", "given": "two\nlines"}
    assert expected.items() <= labels.items()
    assert labels["tintype.request_id"] == owner


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ("RUN true", "/changes/1"),
        ("ENV A=1\nRUN true", "/changes/1"),
        ("LABEL tintype.request_id=mine", "/changes/1"),
        ("CMD []", "/changes/1"),
        ("", "/changes/1"),
    ],
)
def test_a_change_that_cannot_be_is_refused_before_any_work(
    world: World, change: str, pointer: str
) -> None:
    made = world.make()
    options = replace(PLAIN, changes=["USER x", change])

    with pytest.raises(Invalid) as raised:
        world.engine.capture(made, new_owner(), options)

    assert [each.pointer for each in raised.value.violations] == [pointer]
    assert world.left() == []


# squash and max_layers


def test_all_is_in_one_layer_when_that_is_asked_for(world: World) -> None:
    made = world.make(base_layers=3)

    plain = world.engine.capture(made, new_owner(), PLAIN)
    squashed = world.engine.capture(made, new_owner(), SQUASH)

    assert (plain.squashed, squashed.squashed) == (False, True)
    assert (len(plain.layers), len(squashed.layers)) == (4, 1)
    assert squashed.paused_ms > 0
    assert world.engine.inspect(made.engine_id).state is RUNNING
    assert content(plain).files.items() <= content(squashed).files.items()
    assert content(squashed).files["/greeting"] == FILES["/greeting"]
    assert content(squashed).summary.config_digest == squashed.digest


def test_a_squash_leaves_the_configuration_as_it_is(world: World) -> None:
    made = world.make(env={"MODE": "production"}, labels={"two": "a\nb"}, volumes=["/data"])
    owner, changes = new_owner(), ["EXPOSE 80", "HEALTHCHECK CMD true", "STOPSIGNAL SIGUSR1"]
    options = CaptureOptions(
        pause=True, message="line\nline é", author="A <a@example>", changes=changes
    )

    plain = content(world.engine.capture(made, owner, options)).document
    found = content(world.engine.capture(made, owner, replace(options, squash=True))).document

    assert found["config"] == plain["config"]
    for key in ("architecture", "os", "author"):
        assert found[key] == plain[key]
    assert found["history"][-1]["comment"] == plain["history"][-1]["comment"] == "line\nline é"
    assert len(found["history"]) == 1


@pytest.mark.parametrize(("max_layers", "squashed"), [(4, False), (3, True)])
def test_what_has_too_many_layers_is_squashed_unasked(
    world: World, max_layers: int, *, squashed: bool
) -> None:
    made = world.make(base_layers=3)

    capture = world.engine.capture(made, new_owner(), replace(PLAIN, max_layers=max_layers))

    assert capture.squashed is squashed
    assert len(capture.layers) == (1 if squashed else 4)


@pytest.mark.parametrize(
    ("base_layers", "state"),
    [(MOST_LAYERS - 1, RUNNING), (MOST_LAYERS, RUNNING), (MOST_LAYERS, PAUSED)],
)
def test_an_image_that_has_all_the_layers_it_can_have_is_no_obstacle(
    world: World, base_layers: int, state: ContainerState
) -> None:
    made = world.make(state, base_layers=base_layers, env={"MODE": "production"})
    labels, owner = {"two": "a\nb"}, new_owner()
    options = CaptureOptions(
        pause=True, message="why", author="who", labels=labels, changes=["USER 7"], max_layers=124
    )

    capture = world.engine.capture(made, owner, options)

    found = content(capture)
    assert capture.squashed
    assert found.files["/greeting"] == FILES["/greeting"]
    assert (found.document["author"], found.document["history"][0]["comment"]) == ("who", "why")
    assert found.config["Cmd"] == made.config["command"]
    assert (found.env["MODE"], found.config["User"]) == ("production", "7")
    assert found.config["Labels"]["two"] == "a\nb"
    assert found.config["Labels"]["tintype.request_id"] == owner
    assert not [key for key in found.config["Labels"] if key.startswith("tintype.capture.")]
    assert (capture.paused_ms > 0) is (state is RUNNING)
    assert world.engine.inspect(made.engine_id).state is state


def test_data_in_volumes_is_not_in_the_one_layer(world: World) -> None:
    made = world.make(volumes=["/data"], files={**FILES, "/data/rows": b"1,2,3"})

    found = content(world.engine.capture(made, new_owner(), SQUASH)).files

    assert "/data/rows" not in found
    assert "/greeting" in found


def test_nothing_else_is_left_of_a_squash_and_nobody_sees_it(world: World) -> None:
    made, owner = world.make(), new_owner()

    with world.engine.watch(time.time_ns(), PATIENCE) as events:
        capture = world.engine.capture(made, owner, SQUASH)
        assert len(world.left()) == 1
        listed = {each.engine_id for each in world.engine.containers()}
        world.engine.discard(owner)
        world.remove(made)
        seen = []
        for event in events:
            seen.append(event)
            if (event.engine_id, event.action) == (made.engine_id, EngineAction.DESTROY):
                break

    actions = [event.action for event in seen if event.engine_id == made.engine_id]
    assert actions[:2] == [EngineAction.PAUSE, EngineAction.UNPAUSE]
    assert not [event for event in seen if event.name.startswith("tintype-capture")]
    assert made.engine_id in listed
    assert world.left() == []
    assert world.engine.reopen(capture.ref) is None


def test_a_squash_is_known_after_a_restart(world: World) -> None:
    made = world.make()
    plain = world.engine.capture(made, new_owner(), PLAIN)
    squashed = world.engine.capture(made, new_owner(), SQUASH)

    for capture in (plain, squashed):
        again = world.engine.reopen(capture.ref)
        assert again is not None
        assert (again.squashed, again.overran) == (capture.squashed, False)


# max_pause_ms


def overrunning(world: World, *, keep: bool = False) -> CaptureOptions:
    """Return options by which a capture takes longer than the container may be frozen."""
    world.commits_take = 0.2
    return replace(PLAIN, max_pause_ms=1, keep_overrun=keep)


def test_a_container_runs_again_when_its_time_is_over(world: World) -> None:
    made = world.make()

    with pytest.raises(PausedTooLong, match="max_pause_ms"):
        world.engine.capture(made, new_owner(), overrunning(world))

    assert world.engine.inspect(made.engine_id).state is RUNNING
    assert world.left() == []


@pytest.mark.parametrize("squash", [False, True])
def test_what_overran_can_be_kept(world: World, *, squash: bool) -> None:
    made = world.make()
    options = replace(overrunning(world, keep=True), squash=squash)

    capture = world.engine.capture(made, new_owner(), options)

    assert capture.overran
    assert capture.squashed is squash
    assert capture.paused_ms >= 1
    assert world.engine.inspect(made.engine_id).state is RUNNING
    assert content(capture).files["/greeting"] == FILES["/greeting"]
    again = world.engine.reopen(capture.ref)
    assert again is not None
    assert again.overran
    assert len(world.left()) == 1


@pytest.mark.parametrize("state", [RUNNING, STOPPED, PAUSED])
def test_what_does_not_take_long_does_not_overrun(world: World, state: ContainerState) -> None:
    made = world.make(state)
    options = replace(PLAIN, max_pause_ms=PATIENCE * 1000 if state is RUNNING else 1)

    capture = world.engine.capture(made, new_owner(), options)

    assert not capture.overran
    assert world.engine.inspect(made.engine_id).state is state


# usage


def test_what_a_snapshot_would_take_is_told(world: World) -> None:
    made = world.make(base_layers=2, files={"/data": bytes(1_000_000)})

    usage = world.engine.usage(made.engine_id)

    assert 1_000_000 <= usage.size_rw_bytes < 1_100_000
    assert usage.size_rootfs_bytes > usage.size_rw_bytes
    assert usage.layers == 2
    assert usage.free_bytes is None or usage.free_bytes > 0


def test_nothing_is_told_of_what_is_gone(world: World) -> None:
    made = world.make(OTHER)
    world.remove(made)

    with pytest.raises(NotFound):
        world.engine.usage(made.engine_id)
    with pytest.raises(NotFound):
        world.engine.execute(made.engine_id, "true", 10)


# execute


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("true", Execution(0, "")),
        ("echo out; echo é >&2; exit 3", Execution(3, "out\né\n")),
        ("no-such-command 2>/dev/null", Execution(127, "")),
        ("kill -9 $$", Execution(137, "")),
        ("cd /bin && pwd", Execution(0, "/bin\n")),
    ],
)
def test_a_command_is_run_by_the_container_s_shell(
    world: World, command: str, expected: Execution
) -> None:
    made = world.make()
    world.answers(made, lambda _command: expected)

    ran = world.engine.execute(made.engine_id, command, PATIENCE)
    # The engine reads two pipes: which of two lines comes first is chance.
    in_order = "".join(sorted(ran.output.splitlines(keepends=True)))
    assert replace(ran, output=in_order) == expected


@pytest.mark.parametrize("state", [STOPPED, PAUSED, OTHER])
def test_a_container_that_does_not_run_runs_no_command(world: World, state: ContainerState) -> None:
    made = world.make(state)

    with pytest.raises(WrongState):
        world.engine.execute(made.engine_id, "true", PATIENCE)


# What tests of others rely on in the twin


def test_the_twin_remembers_what_was_executed() -> None:
    twin = MemoryEngine()
    made = twin.add("web")

    twin.execute(made.engine_id, "sync", 1)

    assert twin.executed == [(made.engine_id, "sync")]


SECRET = "hunter2-and-more"
SCRUBBED = CaptureOptions(pause=True, unset_env=("TOKEN",))


def test_a_value_that_cannot_be_taken_out_is_refused_before_anything_is_done(world: World) -> None:
    made = world.make(env={"TOKEN": SECRET}, labels={"dsn": f"db://u:{SECRET}@h"})
    before = world.left()

    with pytest.raises(Refused, match=r"^/unset_env: the value of TOKEN .*Labels/dsn"):
        world.engine.check_capture(made.engine_id, SCRUBBED)
    with pytest.raises(Refused, match=r"^/unset_env: the value of TOKEN .*Labels/dsn"):
        world.engine.capture(made, new_owner(), SCRUBBED)

    assert world.left() == before
    world.engine.check_capture(made.engine_id, PLAIN)


@pytest.mark.parametrize("change", ["LABEL dsn=none", 'LABEL a=b dsn="no ne"'])
def test_a_change_that_replaces_what_holds_a_value_is_a_way_out(world: World, change: str) -> None:
    made = world.make(env={"TOKEN": SECRET}, labels={"dsn": f"db://u:{SECRET}@h"})
    options = replace(SCRUBBED, changes=(change,))

    world.engine.check_capture(made.engine_id, options)
    owner = new_owner()
    assert world.engine.capture(made, owner, options).layers
    world.engine.discard(owner)


def test_a_change_that_adds_a_value_is_refused(world: World) -> None:
    made = world.make(env={"TOKEN": SECRET})
    options = replace(SCRUBBED, changes=(f"CMD login {SECRET}",))
    with pytest.raises(Refused, match=r"^/unset_env: the value of TOKEN .*config/Cmd"):
        world.engine.check_capture(made.engine_id, options)


def test_nothing_is_checked_of_a_container_that_is_not_there(world: World) -> None:
    with pytest.raises(NotFound):
        world.engine.check_capture("0" * 64, PLAIN)


def test_the_twin_cannot_squash_on_demand() -> None:
    twin = MemoryEngine()
    twin.can_squash = False
    made = twin.add("web", base_layers=3)

    for options in (SQUASH, replace(PLAIN, max_layers=3)):
        with pytest.raises(Refused, match=r"^/squash: "):
            twin.capture(made, new_owner(), options)
        with pytest.raises(Refused, match=r"^/squash: "):
            twin.check_capture(made.engine_id, options)
    assert twin.inspect("web").state is RUNNING
    assert twin.capture(made, new_owner(), PLAIN).layers
