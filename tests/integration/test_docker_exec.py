"""Commands in containers of real Docker Engines: their ends, their output, their time."""

from __future__ import annotations

import contextlib
import gc
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from docker import DockerClient
from docker.models.containers import Container

from tests.support.docker import PATIENCE, Containers, ensure_busybox
from tintype.adapters.docker_engine import DockerEngine
from tintype.adapters.docker_exec import OUTPUT_LIMIT
from tintype.core.engine import Execution
from tintype.core.errors import Refused

# What the SDK leaves open while a newer engine does not answer yet.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(params=["engine_url", "newer_engine_url"])
def url(request: pytest.FixtureRequest) -> str:
    found = str(request.getfixturevalue(request.param))
    gc.collect()  # here, and not in somebody else's test
    return found


@pytest.fixture
def engine(url: str) -> Iterator[DockerEngine]:
    with contextlib.closing(DockerEngine(url, instance=secrets.token_hex(4))) as made:
        yield made


@pytest.fixture
def made(url: str) -> Iterator[Container]:
    with contextlib.closing(DockerClient(url, timeout=PATIENCE)) as client:
        containers = Containers(client, ensure_busybox(url))
        yield containers()
        containers.clean()


def commands(made: Container) -> list[str]:
    """Return the command lines of what runs in a container."""
    found = made.top()
    at = found["Titles"].index("CMD")
    return [process[at] for process in found["Processes"]]


def test_the_beginning_of_the_output_is_kept(engine: DockerEngine, made: Container) -> None:
    ran = engine.execute(str(made.id), "echo first; yes | head -c 10000000; exit 4", PATIENCE)

    assert ran.exit_code == 4
    assert ran.output.startswith("first\ny\n")
    assert len(ran.output) == OUTPUT_LIMIT


def test_output_that_is_no_text_is_no_obstacle(engine: DockerEngine, made: Container) -> None:
    assert engine.execute(str(made.id), r"printf '\377a\000b'", PATIENCE).output == "\ufffda\0b"


@pytest.mark.parametrize(
    "command",
    ["echo begun; sleep 777", "echo begun; while :; do echo x; sleep 0.1; done & sleep 777"],
)
def test_a_command_that_takes_too_long_is_killed(
    engine: DockerEngine, made: Container, command: str
) -> None:
    ran = engine.execute(str(made.id), command, 1)

    assert (ran.exit_code, ran.timed_out) == (None, True)
    assert ran.output.startswith("begun\n")
    assert commands(made) == ["/bin/busybox sleep 1000"]


def test_a_process_that_is_left_behind_does_not_hide_the_exit_code(
    engine: DockerEngine, made: Container
) -> None:
    ran = engine.execute(str(made.id), "sleep 777 & echo left; exit 5", 3)

    assert ran == Execution(5, "left\n")
    assert "sleep 777" in commands(made)


def test_a_container_without_a_shell_is_refused(engine: DockerEngine, made: Container) -> None:
    assert made.exec_run(["/bin/busybox", "rm", "/bin/sh"]).exit_code == 0

    with pytest.raises(Refused, match="/bin/sh") as raised:
        engine.execute(str(made.id), "true", PATIENCE)

    assert type(raised.value) is Refused


def test_a_container_that_is_killed_meanwhile_ends_the_command(
    engine: DockerEngine, made: Container
) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.execute, str(made.id), "echo begun; sleep 777", PATIENCE)
        while "sleep 777" not in commands(made):
            pass
        made.kill()
        ran = running.result(PATIENCE)

    assert (ran.exit_code, ran.output, ran.timed_out) == (137, "begun\n", False)
