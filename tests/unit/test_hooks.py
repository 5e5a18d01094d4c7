"""Commands of the container's own, before and after it is captured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.power import killed_at_each_call, killed_at_each_write
from tests.support.steps import aborted, advance, again, at, only, refused, run
from tests.support.twins import Bench, PowerCut
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.engine import Container, ContainerState, Execution
from tintype.core.errors import (
    Cancelled,
    NotFound,
    Refused,
    TimedOut,
    TintypeError,
    Unavailable,
    WrongState,
)
from tintype.core.events import SNAPSHOT_END, SNAPSHOT_ERROR
from tintype.core.policy import Policy
from tintype.core.snapshot import (
    ABORT,
    CAPTURE,
    FINISH,
    PREPARE,
    RELEASE,
    SWEEP,
    UPLOAD,
    Snapshot,
)
from tintype.handlers import cleanup, hooks

LABELS = {"tintype.hook.pre-commit": "lock", "tintype.hook.post-commit": "unlock"}
RUNNING = ContainerState.RUNNING


def database(
    bench: Bench,
    results: dict[str, Execution] | None = None,
    *,
    labels: dict[str, str] | None = None,
    state: ContainerState = RUNNING,
) -> Container:
    """Put a container on the host that has commands; each writes what it is, and ends well."""
    container = bench.container(labels=LABELS if labels is None else labels, state=state)
    given = results or {}
    made = bench.engine.by_id[container.engine_id]
    made.run = lambda command: given.get(command, Execution(0, f"{command}ed"))
    return container


def commands(bench: Bench) -> list[str]:
    return [command for _, command in bench.engine.executed]


def ran(name: str, exit_code: int | None = 0, output: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "exit_code": exit_code, "timed_out": False, "output": output, **more}


@pytest.fixture
def bench() -> Bench:
    return Bench(policy=Policy(hooks=True, hook_seconds=7))


# When all goes well


def test_the_container_is_captured_between_its_two_commands(bench: Bench) -> None:
    container = database(bench)
    seen: list[tuple[str, int, int]] = []

    def run_(command: str) -> Execution:
        seen.append((command, len(bench.engine.owners()), len(bench.engine.actions)))
        return Execution(0, f"{command}ed")

    bench.engine.by_id[container.engine_id].run = run_
    request_id = bench.ask(stores=["glance", "directory"])
    bench.settle()

    assert seen == [("lock", 0, 0), ("unlock", 1, 2)], "frozen and thawed in between"
    end = bench.outcome(request_id)
    assert end.type == SNAPSHOT_END
    assert end.payload["hooks"] == [
        ran("pre-commit", 0, "locked"),
        ran("post-commit", 0, "unlocked"),
    ]
    assert end.payload["warnings"] == []
    assert bench.trouble.calls.index("engine.execute") > bench.trouble.calls.index("glance.reserve")
    assert "engine.execute" not in bench.trouble.calls[bench.trouble.calls.index("glance.upload") :]


@pytest.mark.parametrize(("label", "command"), LABELS.items())
def test_one_command_alone_is_run_too(bench: Bench, label: str, command: str) -> None:
    database(bench, labels={label: command})
    request_id = bench.ask()
    bench.settle()
    assert commands(bench) == [command]
    assert [hook["name"] for hook in bench.outcome(request_id).payload["hooks"]] == [
        label.removeprefix(hooks.PREFIX)
    ]


def test_a_container_without_commands_takes_no_step_for_them(bench: Bench) -> None:
    database(bench, labels={"tintype.hook.pre-commit": " "})
    assert Snapshot.load(at(bench, CAPTURE)).warnings == ()
    assert at(bench, CAPTURE).type == CAPTURE
    assert only(bench, only(bench, at(bench, CAPTURE))).type == UPLOAD


def test_that_the_first_command_is_begun_is_a_step_of_its_own(bench: Bench) -> None:
    database(bench)
    intended = only(bench, at(bench, PREPARE))
    assert intended.type == PREPARE
    assert Snapshot.load(intended).hook_open
    assert commands(bench) == []


def test_a_command_has_the_time_that_the_operator_gives(bench: Bench) -> None:
    container = database(bench)
    asked: list[tuple[str, str, float]] = []

    class Engine:
        """The same engine, which is asked for one thing."""

        def execute(self, *about: Any) -> Execution:
            asked.append(about)
            return Execution(0, "")

        def __getattr__(self, name: str) -> Any:
            return getattr(bench.engine, name)

    step = only(bench, at(bench, PREPARE))
    run(bench, step, engine=Engine())
    assert asked == [(container.engine_id, "lock", 7)]


def test_what_a_command_writes_is_cut_and_can_be_stored(bench: Bench) -> None:
    wild = "\ud800\0" + "x" * 10_000
    database(bench, {"lock": Execution(0, wild)})
    step = only(bench, only(bench, at(bench, PREPARE)))
    (hook,) = Snapshot.load(step).hooks
    assert hook["output"] == "??" + "x" * (hooks.OUTPUT_LENGTH - 2)


def test_a_capture_that_vanished_is_made_between_the_commands_again(bench: Bench) -> None:
    database(bench)
    step = at(bench, UPLOAD)
    bench.engine.discard(str(step.payload["request_id"]))
    following = only(bench, step)
    assert following.type == PREPARE
    (end,) = run(bench, advance(bench, following, FINISH))
    assert commands(bench) == ["lock", "unlock", "lock", "unlock"]
    assert [hook["name"] for hook in end.payload["hooks"]] == ["pre-commit", "post-commit"]


# When they are not run


@pytest.mark.parametrize(
    ("policy", "state", "words"),
    [
        (Policy(), RUNNING, "has not turned [commit] hooks on"),
        (Policy(hooks=True), ContainerState.STOPPED, "the container is Stopped"),
        (Policy(hooks=True), ContainerState.PAUSED, "the container is Paused"),
    ],
)
def test_commands_that_are_not_run_are_told_of(
    bench: Bench, policy: Policy, state: ContainerState, words: str
) -> None:
    bench.policy = policy
    database(bench, state=state)
    bench.restart(bench.journal)
    request_id = bench.ask()
    bench.settle()
    end = bench.outcome(request_id)
    assert end.type == SNAPSHOT_END
    (warning,) = end.payload["warnings"]
    assert words in warning
    assert warning.startswith("tintype.hook.pre-commit, tintype.hook.post-commit: not run")
    assert (commands(bench), end.payload["hooks"]) == ([], [])


# When they fail


FAILURES = [
    (Execution(3, "no"), "ended with 3"),
    (Execution(None, "still", timed_out=True), "took longer than 7 s"),
    (Execution(None, ""), "without an exit code"),
]


@pytest.mark.parametrize(("execution", "words"), FAILURES)
def test_a_first_command_that_fails_fails_the_snapshot(
    bench: Bench, execution: Execution, words: str
) -> None:
    database(bench, {"lock": execution})
    request_id = bench.ask()
    bench.settle()

    error = bench.outcome(request_id)
    assert error.type == SNAPSHOT_ERROR
    fault = error.payload["fault"]
    assert (fault["code"], fault["exception"]) == (409, "HookFailed")
    assert words in fault["message"]
    assert error.payload["hooks"] == [
        ran("pre-commit", execution.exit_code, execution.output, timed_out=execution.timed_out),
        ran("post-commit", 0, "unlocked"),
    ]
    assert commands(bench) == ["lock", "unlock"], "what the first has begun the second ends"
    assert "engine.capture" not in bench.trouble.calls
    assert bench.images() == {}


@pytest.mark.parametrize(("execution", "words"), FAILURES)
def test_a_second_command_that_fails_is_a_warning(
    bench: Bench, execution: Execution, words: str
) -> None:
    database(bench, {"unlock": execution})
    request_id = bench.ask()
    bench.settle()
    end = bench.outcome(request_id)
    assert end.type == SNAPSHOT_END
    (warning,) = end.payload["warnings"]
    assert words in warning
    assert end.payload["hooks"][1]["output"] == execution.output


@pytest.mark.parametrize("error", [WrongState("Stopped"), NotFound("gone"), Refused("no shell")])
def test_a_command_that_the_engine_refuses_has_failed(bench: Bench, error: Refused) -> None:
    database(bench)
    bench.trouble.plan("engine.execute", error)
    step = only(bench, only(bench, at(bench, PREPARE)))
    assert step.type == ABORT
    assert "could not be run" in step.payload["fault"]["message"]
    assert Snapshot.load(step).hook_open

    released = at(bench, RELEASE)
    bench.trouble.plan("engine.execute", error)
    done = Snapshot.load(only(bench, released))
    assert "could not be run" in done.warnings[0]
    assert not done.hook_open


def test_an_engine_that_is_away_for_a_moment_is_asked_again(bench: Bench) -> None:
    database(bench)
    bench.trouble.plan("engine.execute", Unavailable("away"), times=hooks.ATTEMPTS - 1)
    bench.trouble.plan("engine.execute", Unavailable("away"), skip=1, times=hooks.ATTEMPTS - 1)
    request_id = bench.ask()
    bench.settle()
    end = bench.outcome(request_id)
    assert end.type == SNAPSHOT_END
    assert [hook["exit_code"] for hook in end.payload["hooks"]] == [0, 0]


def test_an_engine_that_stays_away_is_not_waited_for(bench: Bench) -> None:
    database(bench)
    step = only(bench, at(bench, PREPARE))
    bench.trouble.plan("engine.execute", Unavailable("away"), times=hooks.ATTEMPTS)
    for attempt in range(1, hooks.ATTEMPTS):
        refused(bench, again(step, attempt), Unavailable, "away")
    failed = only(bench, again(step, hooks.ATTEMPTS))
    assert (failed.type, failed.payload["fault"]["exception"]) == (ABORT, "HookFailed")

    bench.trouble.end()
    released = at(bench, RELEASE)
    bench.trouble.plan("engine.execute", Unavailable("away"), times=hooks.ATTEMPTS)
    for attempt in range(1, hooks.ATTEMPTS):
        refused(bench, again(released, attempt), Unavailable, "away")
    assert "away" in Snapshot.load(only(bench, again(released, hooks.ATTEMPTS))).warnings[0]


# When the capture fails


@pytest.mark.parametrize(
    "error", [Refused("no"), TimedOut("late"), Cancelled("stop"), RuntimeError("broken")]
)
def test_the_second_command_runs_when_the_capture_fails(bench: Bench, error: Exception) -> None:
    database(bench)
    bench.trouble.plan("engine.commit", error)
    request_id = bench.ask()
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_ERROR
    assert commands(bench) == ["lock", "unlock"]
    assert len(bench.outcome(request_id).payload["hooks"]) == 2
    bench.require_clean_engine()


def test_a_container_does_not_wait_for_its_second_command_for_long(bench: Bench) -> None:
    """A database may be locked all the while: elsewhere a capture is tried up to the deadline."""
    database(bench)
    bench.trouble.plan("engine.commit", Unavailable("busy"), times=1000)
    request_id = bench.ask()
    bench.settle()
    assert bench.trouble.calls.count("engine.commit") == hooks.ATTEMPTS
    message = bench.outcome(request_id).payload["fault"]["message"]
    assert "not captured in 3 attempts" in message
    assert "busy" in message
    assert commands(bench) == ["lock", "unlock"]


def test_a_frozen_container_is_thawed_before_its_second_command(bench: Bench) -> None:
    container = database(bench)
    intended = only(bench, at(bench, CAPTURE))
    assert Snapshot.load(intended).pause_intended
    bench.engine.by_id[container.engine_id].state = ContainerState.PAUSED  # a kill in the commit
    (step,) = aborted(bench, intended, TimedOut("late"))
    assert step.type == ABORT
    assert commands(bench) == ["lock", "unlock"]
    assert bench.engine.by_id[container.engine_id].state is RUNNING
    assert run(bench, step)[0].type == SNAPSHOT_ERROR
    assert commands(bench) == ["lock", "unlock"]


def test_a_container_left_frozen_by_a_kill_is_thawed_before_its_second_command(
    bench: Bench,
) -> None:
    """Though the request was cancelled meanwhile, so that it is not captured again."""
    container = database(bench)
    request_id = bench.ask()
    bench.trouble.plan("engine.commit", PowerCut("in the commit"))
    with pytest.raises(PowerCut):
        bench.settle()
    bench.restart(bench.journal)
    bench.journal.recover()
    bench.cancel(request_id)
    bench.settle()
    assert commands(bench) == ["lock", "unlock"]
    assert bench.engine.by_id[container.engine_id].state is RUNNING


def test_an_engine_that_is_away_hears_of_the_second_command_when_it_is_back(bench: Bench) -> None:
    database(bench)
    intended = only(bench, at(bench, CAPTURE))
    abort = Snapshot.load(intended).failed(CAPTURE, Refused("no")).step(ABORT)
    bench.trouble.plan("engine.execute", Unavailable("away"), times=4)
    for attempt in range(1, cleanup.QUIET_ATTEMPTS + 1):
        refused(bench, again(abort, attempt), Unavailable, "away")
    error, sweep = run(bench, again(abort, cleanup.QUIET_ATTEMPTS + 1))
    assert (error.type, sweep.type) == (SNAPSHOT_ERROR, SWEEP)
    refused(bench, sweep, Unavailable, "away")
    done = only(bench, again(sweep))
    assert done.type == SWEEP
    assert commands(bench) == ["lock", "unlock"]
    assert run(bench, done) == []
    assert commands(bench) == ["lock", "unlock"], "it is not run again for what else is to be swept"


@pytest.mark.parametrize("error", [NotFound("gone"), WrongState("Stopped")])
def test_a_container_that_is_gone_is_not_waited_for(bench: Bench, error: TintypeError) -> None:
    database(bench)
    intended = only(bench, at(bench, CAPTURE))
    bench.trouble.plan("engine.execute", error)
    (step,) = aborted(bench, intended, Refused("no"))
    told = run(bench, step)
    assert [event.type for event in told] == [SNAPSHOT_ERROR]
    assert "could not be run" in told[0].payload["warnings"][0]


def test_commands_that_were_begun_are_ended_though_they_are_turned_off_meanwhile(
    bench: Bench,
) -> None:
    database(bench)
    released = at(bench, RELEASE)
    bench.policy = Policy()
    assert only(bench, released).type == UPLOAD
    assert commands(bench) == ["lock", "unlock"]


# The power is cut


def prepared(bench: Bench) -> None:
    bench.policy = Policy(hooks=True)
    database(bench)


def refusing(bench: Bench) -> None:
    prepared(bench)
    bench.trouble.plan("engine.commit", Refused("no"), times=9)


def require_unlocked(bench: Bench, request_id: str, outcome: str, about: object) -> None:
    """Fail unless every lock was followed by an unlock, and a capture lay between two of them."""
    assert bench.outcome(request_id).type == outcome, about
    done = commands(bench)
    assert done[-1] == "unlock", about
    names = [hook["name"] for hook in bench.outcome(request_id).payload["hooks"]]
    assert names[0] == "pre-commit"
    assert names[-1] == "post-commit", about
    bench.require_clean_engine()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_journal_write_leaves_no_lock(tmp_path: Path, *, after: bool) -> None:
    count = 0
    for bench, request_id in killed_at_each_write(tmp_path, prepared, after=after):
        require_unlocked(bench, request_id, SNAPSHOT_END, count)
        assert list(bench.images().values()) == ["active"]
        count += 1
    assert count > 12


def test_a_kill_at_any_call_leaves_no_lock(tmp_path: Path) -> None:
    calls = []
    for bench, request_id, call in killed_at_each_call(tmp_path, prepared):
        require_unlocked(bench, request_id, SNAPSHOT_END, call)
        calls.append(call)
    assert calls.count("engine.execute") == 2


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_while_it_is_undone_leaves_no_lock(tmp_path: Path, *, after: bool) -> None:
    for bench, request_id in killed_at_each_write(tmp_path, refusing, after=after):
        require_unlocked(bench, request_id, SNAPSHOT_ERROR, request_id)
        assert bench.images() == {}


def test_a_kill_in_the_first_command_is_followed_by_the_second_though_it_is_cancelled(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal"
    bench = Bench(journal=SqliteJournal(path), policy=Policy(hooks=True))
    container = bench.container(labels=LABELS)
    made = bench.engine.by_id[container.engine_id]

    def die(command: str) -> Execution:
        raise PowerCut(command)

    made.run = die
    request_id = bench.ask()
    with pytest.raises(PowerCut, match=r"^lock$"):
        bench.settle()
    bench.journal.close()
    made.run = lambda command: Execution(0, command)
    bench.restart(SqliteJournal(path))
    bench.journal.recover()
    bench.cancel(request_id)
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["code"] == 499
    assert commands(bench) == ["lock", "unlock"]
    bench.journal.close()


def test_what_is_stopped_in_a_command_is_taken_up_again(bench: Bench) -> None:
    """The step is interrupted before; the engine's call itself is not."""
    database(bench)
    step = only(bench, at(bench, PREPARE))
    only(bench, step)
    following = only(bench, replace(step, attempt=2))
    assert following.type == CAPTURE
    assert commands(bench) == ["lock", "lock"]
