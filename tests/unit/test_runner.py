"""Runner and relay over the twins: retries, undoing, crashes, and one answer for each request."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.twins import ALICE, HOST, Bench, FusedJournal, PowerCut, checked
from tintype.adapters.clock import ManualClock, SystemClock
from tintype.adapters.memory_bus import MemoryBus
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.agent import Agent
from tintype.config import Settings
from tintype.core import runner as core_runner
from tintype.core.engine import ContainerState
from tintype.core.errors import (
    Cancelled,
    CorruptArchive,
    CorruptUpload,
    Forbidden,
    ImageIdSpent,
    Interrupted,
    NotFound,
    Refused,
    TintypeError,
    TooLarge,
    Unavailable,
)
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_REQUEST,
    OUTCOMES,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_START,
    Event,
)
from tintype.core.ports import Cancellation, Handler, OutboxRow, Services, Work
from tintype.core.relay import BATCH, Relay
from tintype.core.runner import Backoff, Progress, Runner
from tintype.core.snapshot import ABORT, CAPTURE, FINISH, RESERVE, ROTATE, UPLOAD
from tintype.handlers import table

PATIENCE = 20.0
"""Seconds in which a thread that works at all has done its work."""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that threads do."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        pause.wait(0.01)


# A request from end to end


def test_a_request_ends_with_one_active_image(bench: Bench) -> None:
    container = bench.container()
    request_id = bench.ask()
    bench.settle()

    assert [event.type for event in bench.events()] == [SNAPSHOT_START, SNAPSHOT_END]
    start, end = bench.events()
    assert bench.images() == {end.payload["image_id"]: "active"}
    assert start.payload["image_id"] == end.payload["image_id"]
    assert end.payload["request_id"] == request_id
    assert end.payload["engine_container_id"] == container.engine_id
    assert end.payload["phase"] == "cleanup"
    assert end.requester == ALICE
    assert bench.images("directory") == {}
    assert bench.engine.actions == [
        ("pause", container.engine_id),
        ("unpause", container.engine_id),
    ]
    bench.require_clean_engine()


def test_what_is_announced_is_what_the_store_holds(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    bench.settle()

    end = bench.outcome(request_id).payload
    image = bench.stores["glance"].images[end["image_id"]]
    assert end["size_bytes"] == len(image.data) == end["stores"][0]["size_bytes"]
    assert image.properties["snapshot_sha256"] == end["sha256"]
    assert end["stores"][0]["digest"] == f"sha256:{end['sha256']}"


def test_every_progress_is_of_this_request_and_before_its_end(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    bench.settle()

    assert {event.payload["request_id"] for event in bench.progress} == {request_id}
    assert bench.journal.latest(request_id) == bench.outcome(request_id)


# Trying again


@given(st.integers(1, 5000), st.floats(0.01, 10), st.floats(0.01, 1000))
def test_backoff_doubles_up_to_its_longest(attempt: int, first: float, longest: float) -> None:
    ceiling = min(longest, first * 2 ** min(attempt - 1, 30))
    seconds = Backoff(first, longest).delay(attempt).total_seconds()
    assert ceiling * 0.5 - 1e-6 <= seconds <= ceiling + 1e-6


@pytest.mark.parametrize(
    "call",
    [
        "engine.inspect",
        "engine.capture",
        "engine.commit",
        "engine.reopen",
        "engine.read",
        "engine.discard",
        "glance.reserve",
        "glance.describe",
        "glance.upload",
        "glance.complete",
    ],
)
def test_what_is_away_for_a_time_is_waited_for(bench: Bench, call: str) -> None:
    bench.container()
    bench.trouble.plan(call, Unavailable("away"), times=7)
    request_id = bench.ask()
    bench.settle()

    end = bench.outcome(request_id)
    assert end.type == SNAPSHOT_END
    assert bench.images() == {end.payload["image_id"]: "active"}
    bench.require_clean_engine()


def test_a_step_that_waits_is_told_with_its_reason(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.describe", Unavailable("no route"))
    request_id = bench.ask()
    for _ in range(5):
        bench.clock.advance(1)  # else the progress would come too soon after the last
        bench.run_step()

    latest = bench.journal.latest(request_id)
    assert latest is not None
    assert latest.payload["status"] == "waiting"
    assert latest.payload["fault"]["message"] == "no route"
    assert latest.payload["fault"]["retryable"] is True
    assert latest.payload["fault"]["image_deleted"] is None


def test_a_step_waits_as_long_as_the_backoff_says(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("engine.inspect", Unavailable("away"), times=3)
    bench.ask()
    for ceiling in (1.0, 2.0, 4.0):
        bench.run_step()
        bench.clock.advance(ceiling * 0.49)
        assert bench.journal.claim(bench.clock.now()) is None
        bench.clock.advance(ceiling * 0.52)
    assert bench.run_step().step.attempt == 4


@pytest.mark.parametrize(("error", "allowed"), [(CorruptArchive("bad"), 3), (Refused("no"), 1)])
def test_what_may_not_be_tried_for_ever_is_given_up(
    bench: Bench, error: TintypeError, allowed: int
) -> None:
    bench.container()
    bench.trouble.plan("engine.read", error, times=100)
    request_id = bench.ask()
    bench.settle()

    assert bench.trouble.calls.count("engine.read") == allowed
    assert bench.outcome(request_id).payload["fault"]["exception"] == type(error).__name__
    assert bench.images() == {}


def test_what_never_comes_back_is_answered_at_the_deadline(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Unavailable("away"), times=10_000)
    deadline = bench.clock.now() + timedelta(minutes=10)
    request_id = bench.ask(deadline=deadline.isoformat())
    bench.settle()

    fault = bench.outcome(request_id).payload["fault"]
    assert (fault["code"], fault["exception"]) == (504, "TimedOut")
    assert fault["image_deleted"] is True
    assert datetime.fromisoformat(bench.outcome(request_id).payload["finished_at"]) >= deadline
    assert bench.images() == {}
    bench.require_clean_engine()


def test_a_deadline_in_the_past_is_answered_without_touching_anything(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask(deadline="2020-01-01T00:00:00Z")
    bench.settle()

    assert bench.outcome(request_id).payload["fault"]["code"] == 504
    assert not [call for call in bench.trouble.calls if "capture" in call or "reserve" in call]


def test_a_wait_ends_at_the_deadline_not_after(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("engine.inspect", Unavailable("away"), times=100)
    deadline = bench.clock.now() + timedelta(seconds=0.2)
    request_id = bench.ask(deadline=deadline.isoformat())
    bench.run_step()
    bench.clock.advance(0.2)
    bench.run_step()
    bench.run_step()
    assert bench.outcome(request_id).payload["fault"]["code"] == 504


# Undoing


@pytest.mark.parametrize(
    ("call", "phase"),
    [
        ("engine.inspect", "accepted"),
        ("glance.reserve", "accepted"),
        ("engine.capture", "pausing"),
        ("engine.commit", "pausing"),
        ("glance.upload", "uploading"),
        ("glance.complete", "uploading"),
    ],
)
def test_a_refusal_undoes_everything_and_says_why(bench: Bench, call: str, phase: str) -> None:
    bench.container()
    bench.trouble.plan(call, TooLarge("quota exceeded"))
    request_id = bench.ask()
    bench.settle()

    error = bench.outcome(request_id)
    assert error.type == SNAPSHOT_ERROR
    assert error.payload["fault"] == {
        "code": 413,
        "exception": "TooLarge",
        "message": "quota exceeded",
        "retryable": False,
        "phase": phase,
        "image_deleted": True,
    }
    assert bench.images() == {}
    bench.require_clean_engine()


def test_a_foreign_exception_is_answered_and_keeps_its_details_to_itself(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("engine.capture", RuntimeError("secret password"))
    request_id = bench.ask()
    bench.settle()

    payload = bench.outcome(request_id).payload
    assert (payload["fault"]["code"], payload["fault"]["exception"]) == (500, "Internal")
    assert "secret" not in str(payload)
    assert bench.images() == {}

    again = bench.ask()
    bench.settle()
    assert bench.outcome(again).type == SNAPSHOT_END


def test_a_step_without_a_handler_is_answered(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    bench.run_step()
    bench.run_step()
    bench.table = {name: handle for name, handle in table().items() if name != CAPTURE}
    bench.restart(bench.journal)
    bench.settle()

    assert bench.outcome(request_id).payload["fault"]["exception"] == "Internal"
    assert bench.images() == {}


def test_cleaning_up_that_fails_for_a_while_delays_the_error(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Refused("no"))
    bench.trouble.plan("glance.discard", Unavailable("away"), times=2)
    request_id = bench.ask()
    bench.settle()

    assert bench.outcome(request_id).payload["fault"]["image_deleted"] is True
    assert bench.images() == {}


def test_cleaning_up_that_fails_for_long_is_told_and_done_later(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Refused("no"))
    bench.trouble.plan("glance.discard", Unavailable("away"), times=12)
    request_id = bench.ask()
    bench.settle()

    assert bench.outcome(request_id).payload["fault"]["image_deleted"] is False
    assert bench.images() == {}
    assert bench.trouble.calls.count("glance.discard") == 13


def test_an_engine_that_cannot_be_cleaned_does_not_delay_the_end(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("engine.discard", Unavailable("away"), times=9)
    request_id = bench.ask()
    while not bench.events(request_id) or bench.events(request_id)[-1].type != SNAPSHOT_END:
        bench.run_step()

    assert bench.journal.live() == {request_id}
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END
    bench.require_clean_engine()


def test_a_store_that_is_no_longer_configured_is_answered_too(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Unavailable("away"))
    request_id = bench.ask()
    for _ in range(5):
        bench.run_step()
    bench.stores.pop("glance")
    for _ in range(12):
        bench.clock.advance(61)
        work = bench.journal.claim(bench.clock.now())
        if work is not None:
            bench.runner.run(work)

    error = bench.outcome(request_id)
    assert error.type == SNAPSHOT_ERROR
    assert error.payload["fault"]["image_deleted"] is False
    assert request_id not in bench.journal.live(), "it is not tried for ever"


# Every failure at every call


ERRORS: list[type[Exception]] = [
    Unavailable,
    Refused,
    NotFound,
    CorruptUpload,
    CorruptArchive,
    ImageIdSpent,
    Cancelled,
    Forbidden,
    RuntimeError,
]


def calls_of_a_clean_run(**fields: Any) -> list[str]:
    bench = Bench()
    bench.container()
    bench.ask(**fields)
    bench.settle()
    return bench.trouble.calls


BOTH = ["glance", "directory"]
CALLS = calls_of_a_clean_run(stores=BOTH)
NUMBERED = [(call, CALLS[:number].count(call)) for number, call in enumerate(CALLS)]
PLANS = [
    pytest.param(call, skip, error, id=f"{call}-{skip}-{error.__name__}")
    for call, skip in NUMBERED
    for error in ERRORS
    # "None left is fine": a discard never raises NotFound, so it would mean that nothing is left.
    if not (call.endswith(".discard") and error is NotFound)
]


@pytest.mark.parametrize(("call", "skip", "error"), PLANS)
@pytest.mark.parametrize("times", [1, 5])
def test_any_error_at_any_call_leads_to_exactly_one_outcome(
    bench: Bench, call: str, skip: int, error: type[Exception], times: int
) -> None:
    bench.container()
    bench.trouble.plan(call, error("planned"), skip=skip, times=times)
    request_id = bench.ask(stores=BOTH)
    bench.settle()

    bench.trouble.end()
    for owner in bench.engine.owners() - bench.journal.live():
        bench.engine.discard(owner)  # the agent's housekeeper: what even the sweep was refused
    require_all_or_nothing(bench, request_id)


def require_all_or_nothing(bench: Bench, request_id: str) -> None:
    """Fail unless there is one outcome, and the world is as it says."""
    outcome = bench.outcome(request_id)
    starts = [event for event in bench.events(request_id) if event.type == SNAPSHOT_START]
    assert len(starts) <= 1
    bench.require_clean_engine()
    if outcome.type == SNAPSHOT_END:
        assert any(copy["status"] == "active" for copy in outcome.payload["stores"])
        for copy in outcome.payload["stores"]:
            if copy["status"] == "error":
                assert copy["fault"]["image_deleted"] is True
                assert bench.images(copy["name"]) == {}
                continue
            assert bench.images(copy["name"]) == {copy["image_id"]: "active"}
            data = bench.stores[copy["name"]].images[copy["image_id"]].data
            assert len(data) == copy["size_bytes"]
    else:
        assert outcome.payload["fault"]["image_deleted"] is True
        assert bench.images("glance") == bench.images("directory") == {}


# The power is cut


def survive(bench: Bench, path: Path, request_id: str) -> None:
    """Start again after a power cut, as a new process would, and finish."""
    bench.journal.close()
    bench.trouble.end()
    bench.restart(SqliteJournal(path))
    bench.journal.recover()
    if request_id not in bench.journal.live() and not bench.events(request_id):
        bench.ask(request_id=request_id, stores=BOTH)  # it was not accepted: the bus redelivers
    bench.settle()


def journal_writes(path: Path) -> int:
    bench = Bench(journal=FusedJournal(path))
    bench.container()
    bench.ask(stores=BOTH)
    bench.settle()
    journal = bench.journal
    assert isinstance(journal, FusedJournal)
    journal.close()
    return journal.writes


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_power_cut_at_any_journal_write_loses_nothing(tmp_path: Path, *, after: bool) -> None:
    writes = journal_writes(tmp_path / "count")
    assert writes > 12
    for number in range(1, writes):  # the last one only finds that there is nothing left to do
        path = tmp_path / f"journal-{number}"
        journal = FusedJournal(path)
        bench = Bench(journal=journal)
        journal.fatal_write, journal.after = number, after
        bench.container()
        request_id = str(uuid.uuid4())
        with pytest.raises(PowerCut):
            cut(bench, request_id)
        survive(bench, path, request_id)

        assert bench.outcome(request_id).type == SNAPSHOT_END, number
        require_all_or_nothing(bench, request_id)
        bench.journal.close()


def cut(bench: Bench, request_id: str) -> None:
    bench.ask(request_id=request_id, stores=BOTH)
    bench.settle()


@pytest.mark.parametrize("number", range(1, len(CALLS) + 1), ids=lambda n: f"{n}-{CALLS[n - 1]}")
def test_a_power_cut_at_any_call_loses_nothing(tmp_path: Path, number: int) -> None:
    bench = Bench(journal=SqliteJournal(tmp_path / "journal"))
    container = bench.container()
    bench.trouble.fatal_call = number
    request_id = str(uuid.uuid4())
    with pytest.raises(PowerCut):
        cut(bench, request_id)
    if CALLS[number - 1] == "engine.commit":
        # A dead process thaws nothing.
        assert bench.engine.by_id[container.engine_id].state is ContainerState.PAUSED
    survive(bench, tmp_path / "journal", request_id)

    assert bench.outcome(request_id).type == SNAPSHOT_END
    require_all_or_nothing(bench, request_id)
    bench.journal.close()


@pytest.mark.parametrize("number", range(1, 20))
def test_a_power_cut_while_undoing_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    bench = Bench(journal=SqliteJournal(tmp_path / "journal"))
    bench.container()
    for name in BOTH:
        bench.trouble.plan(f"{name}.upload", Refused("no"), times=10)
    bench.trouble.fatal_call = number
    request_id = str(uuid.uuid4())
    try:
        cut(bench, request_id)
    except PowerCut:
        bench.journal.close()
        bench.trouble.fatal_call = 0
        bench.restart(SqliteJournal(tmp_path / "journal"))
        bench.journal.recover()
        bench.settle()

    assert bench.outcome(request_id).type == SNAPSHOT_ERROR
    require_all_or_nothing(bench, request_id)
    bench.journal.close()


def test_a_container_paused_by_its_user_stays_so_through_a_power_cut(tmp_path: Path) -> None:
    for number, call in enumerate(CALLS, 1):
        path = tmp_path / f"journal-{number}"
        bench = Bench(journal=SqliteJournal(path))
        container = bench.container(state=ContainerState.PAUSED)
        bench.trouble.fatal_call = number
        request_id = str(uuid.uuid4())
        with suppress(PowerCut):  # a paused container needs fewer calls: the last are not reached
            cut(bench, request_id)
        survive(bench, path, request_id)

        assert bench.outcome(request_id).type == SNAPSHOT_END, call
        assert bench.engine.actions == []
        assert bench.engine.by_id[container.engine_id].state is ContainerState.PAUSED
        bench.journal.close()


# With threads


def runner_of(
    bench: Bench, handlers: dict[str, Handler] | None = None, *, workers: int = 3, **options: Any
) -> Runner:
    services = replace(bench.services, clock=SystemClock())
    return Runner(
        options.pop("journal", bench.journal),
        handlers or bench.table,
        services,
        workers=workers,
        backoff=Backoff(0.01, 0.02),
        on_progress=options.pop("on_progress", lambda _: None),
        on_recorded=lambda: None,
    )


@contextmanager
def running(runner: Runner) -> Iterator[Runner]:
    runner.start()
    try:
        yield runner
    finally:
        runner.stop(PATIENCE)


def test_threads_finish_all_requests_each_once(bench: Bench) -> None:
    asked = []
    for number in range(8):
        if number < 4:
            bench.container(f"web-{number}")
        asked.append(bench.ask(f"web-{number % 4}", deadline="2999-01-01T00:00:00Z"))
    with running(runner_of(bench)) as runner:
        runner.wake()
        until(lambda: not bench.journal.live(), "all requests done")

    assert [bench.outcome(request_id).type for request_id in asked] == [SNAPSHOT_END] * 8
    assert len(bench.images()) == 8
    bench.require_clean_engine()


def test_no_more_steps_run_at_once_than_there_are_workers(bench: Bench) -> None:
    inside = 0
    most = 0
    lock = threading.Lock()
    full = threading.Event()
    release = threading.Event()

    def busy(_: Event, __: Services) -> Iterable[Event]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if inside == 2:
                full.set()
        release.wait(PATIENCE)
        with lock:
            inside -= 1
        return []

    for _ in range(6):
        bench.ask(deadline="2999-01-01T00:00:00Z")
    with running(runner_of(bench, {COMMIT_REQUEST: busy}, workers=2)):
        assert full.wait(PATIENCE)
        release.set()
        until(lambda: not bench.journal.live(), "all requests done")
    assert most == 2


def test_no_more_snapshots_are_in_hand_than_there_are_places(bench: Bench) -> None:
    """A snapshot that waits keeps its place: else every request would leave an image behind."""
    for number in range(6):
        bench.container(f"web-{number}")
        bench.ask(f"web-{number}", deadline="2999-01-01T00:00:00Z")
    bench.trouble.plan("glance.upload", Unavailable("away"), times=1000)
    for _ in range(200):
        work = bench.journal.claim(bench.clock.now(), 2)
        if work is None:
            bench.clock.advance(61)
        else:
            bench.runner.run(work)
    assert len(bench.engine.owners()) == 2
    bench.trouble.end()
    bench.settle()
    assert len(bench.images()) == 6


def test_a_step_of_another_version_is_answered_and_kept(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask(deadline="2999-01-01T00:00:00Z")
    bench.run_step()
    bench.journal._db.execute("""UPDATE requests SET step = '{"of": "another version"}'""")
    other = bench.ask(deadline="2999-01-01T00:00:00Z")
    with running(runner_of(bench, workers=1)):
        until(lambda: not bench.journal.live(), "both to be done")
    assert bench.outcome(request_id).payload["fault"]["code"] == 500
    assert bench.outcome(other).type == SNAPSHOT_END
    assert "another version" in str(bench.journal.dead_letters()[0].message)


def test_what_becomes_of_an_abandoned_step_is_not_recorded(bench: Bench) -> None:
    """The caller of stop() may thaw a container under its commit: that image is not one instant."""
    entered, leave = threading.Event(), threading.Event()

    def deaf(_: Event, __: Services) -> Iterable[Event]:
        entered.set()
        leave.wait(PATIENCE)
        return []

    request_id = bench.ask(deadline="2999-01-01T00:00:00Z")
    runner = runner_of(bench, {COMMIT_REQUEST: deaf}, workers=1)
    runner.start()
    assert entered.wait(PATIENCE)
    assert [work.request_id for work in runner.stop(0, 0)] == [request_id]
    leave.set()
    until(lambda: not runner._running, "the worker to return")
    assert request_id in bench.journal.live()
    assert bench.journal.recover() == 1


def test_the_last_failure_is_told_when_the_deadline_has_passed(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Unavailable("credentials are refused"), times=1000)
    deadline = (bench.clock.now() + timedelta(seconds=30)).isoformat()
    request_id = bench.ask(deadline=deadline)
    bench.settle()
    fault = bench.outcome(request_id).payload["fault"]
    assert fault["code"] == 504
    assert "credentials are refused" in fault["message"]


def test_failures_of_one_kind_do_not_count_for_another(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Unavailable("away"), times=6)
    bench.trouble.plan("glance.upload", CorruptArchive("torn"), skip=6, times=2)
    request_id = bench.ask()
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END


def test_stopping_lets_a_running_step_end(bench: Bench) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(_: Event, services: Services) -> Iterable[Event]:
        entered.set()
        leave.wait(PATIENCE)
        services.checkpoint()
        return []

    bench.ask(deadline="2999-01-01T00:00:00Z")
    runner = runner_of(bench, {COMMIT_REQUEST: slow})
    runner.start()
    assert entered.wait(PATIENCE)
    leave.set()

    assert runner.stop(PATIENCE) == ()
    assert bench.journal.live() == frozenset()


def test_a_step_that_is_interrupted_is_postponed_and_resumed_by_the_next_runner(
    bench: Bench,
) -> None:
    entered = threading.Event()

    def endless(_: Event, services: Services) -> Iterable[Event]:
        entered.set()
        pause = threading.Event()
        while True:
            services.checkpoint()
            pause.wait(0.005)

    bench.container()
    request_id = bench.ask(deadline="2999-01-01T00:00:00Z")
    runner = runner_of(bench, {**table(), COMMIT_REQUEST: endless})
    runner.start()
    assert entered.wait(PATIENCE)
    assert runner.stop(0, PATIENCE) == ()
    assert bench.events(request_id) == []
    assert bench.journal.recover() == 0
    assert bench.journal.live() == {request_id}

    with running(runner_of(bench)):
        until(lambda: not bench.journal.live(), "the request done")
    assert bench.outcome(request_id).type == SNAPSHOT_END


def test_stop_tells_which_steps_are_stuck(bench: Bench) -> None:
    entered, leave = threading.Event(), threading.Event()

    def stuck(_: Event, __: Services) -> Iterable[Event]:
        entered.set()
        leave.wait(PATIENCE)
        return []

    request_id = bench.ask(deadline="2999-01-01T00:00:00Z")
    runner = runner_of(bench, {COMMIT_REQUEST: stuck})
    runner.start()
    assert entered.wait(PATIENCE)
    (work,) = runner.stop(0, 0)
    assert (work.request_id, work.step.type) == (request_id, COMMIT_REQUEST)

    leave.set()
    runner.stop(PATIENCE)


def test_an_upload_that_is_interrupted_leaves_its_image_queued(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    for _ in range(4):
        bench.run_step()
    bench.trouble.plan("glance.upload", Interrupted())
    work = bench.run_step()
    assert work.step.type == UPLOAD
    assert [event.type for event in bench.events()] == [SNAPSHOT_START]
    assert list(bench.images().values()) == ["queued"]

    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END


class SickJournal(SqliteJournal):
    """A journal whose methods fail a given number of times."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.sick: dict[str, int] = {}

    def _ail(self, method: str) -> None:
        if self.sick.get(method, 0) > 0:
            self.sick[method] -= 1
            raise Unavailable(f"{method}: the disk is full")

    def claim(self, now: datetime, places: int | None = None) -> Work | None:
        self._ail("claim")
        return super().claim(now, places)

    def record(
        self, work: Work, events: Sequence[Event], step: Event | None, **options: Any
    ) -> None:
        self._ail("record")
        super().record(work, events, step, **options)

    def postpone(self, work: Work, until: datetime, step: Event | None = None) -> None:
        self._ail("postpone")
        super().postpone(work, until, step)

    def next_due(self) -> datetime | None:
        self._ail("next_due")
        return super().next_due()

    def note(self, event: Event) -> None:
        self._ail("note")
        super().note(event)

    def confirm(self, rows: Sequence[OutboxRow]) -> None:
        self._ail("confirm")
        super().confirm(rows)

    def pending(self, limit: int) -> Sequence[OutboxRow]:
        self._ail("pending")
        return super().pending(limit)


@pytest.mark.parametrize("method", ["claim", "record", "postpone", "next_due"])
def test_a_journal_that_fails_for_a_while_is_tried_again(method: str) -> None:
    journal = SickJournal()
    bench = Bench(journal=journal)
    bench.container()
    bench.trouble.plan("glance.upload", Unavailable("away"))
    journal.sick[method] = 3
    request_id = bench.ask(deadline="2999-01-01T00:00:00Z")
    with running(runner_of(bench, workers=1)):
        until(lambda: journal.sick[method] == 0, "the failures")
        until(lambda: not bench.journal.live(), "the request done")

    assert bench.outcome(request_id).type == SNAPSHOT_END


def test_a_step_that_cannot_be_recorded_before_the_stop_runs_again() -> None:
    journal = SickJournal()
    bench = Bench(journal=journal)
    bench.container()
    request_id = bench.ask(deadline="2999-01-01T00:00:00Z")
    journal.sick["record"] = 10**9
    runner = runner_of(bench)
    runner.start()
    until(lambda: "engine.inspect" in bench.trouble.calls, "the step run")
    until(lambda: journal.sick["record"] < 10**9, "a write tried")
    assert runner.stop(0, PATIENCE) == ()

    journal.sick.clear()
    with running(runner_of(bench)):
        until(lambda: not bench.journal.live(), "the request done")
    assert bench.outcome(request_id).type == SNAPSHOT_END


def test_a_note_that_is_lost_is_of_no_consequence() -> None:
    journal = SickJournal()
    bench = Bench(journal=journal)
    bench.container()
    journal.sick["note"] = 1
    request_id = bench.ask()
    assert bench.journal.live() == {request_id}
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END


# Progress


def progress_of(request_id: str, key: str) -> Event:
    return Event(SNAPSHOT_PROGRESS, {"request_id": request_id, "phase": "uploading"}, id=key)


def test_progress_passes_at_most_once_a_second_for_each_request() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    told: list[tuple[str, float]] = []
    start = now
    progress = Progress(
        lambda event: told.append((event.payload["request_id"], (now - start).total_seconds())),
        lambda: now,
    )
    for tick in range(35):
        now = start + timedelta(seconds=tick / 10)
        progress.tell(progress_of("a", str(tick)))
        progress.tell(progress_of("b", str(tick)))
    assert told == [(name, float(second)) for second in range(4) for name in "ab"]

    progress.forget("a")
    progress.tell(progress_of("a", "again"))
    assert told[-1] == ("a", 3.4)


def test_an_upload_tells_its_progress_once_a_second(bench: Bench) -> None:
    bench.container()

    def ticking(event: Event, services: Services) -> Iterable[Event]:
        inner = replace(services, checkpoint=lambda: bench.clock.advance(0.25))
        return table()[UPLOAD](event, inner)

    bench.table = {**table(), UPLOAD: ticking}
    bench.restart(bench.journal)
    bench.ask()
    bench.settle()
    sent = [event.payload["bytes_done"] for event in bench.progress if event.payload["bytes_done"]]
    assert sent == sorted(sent)
    assert len(sent) <= bench.trouble.calls.count("glance.upload") * 2
    for event in bench.progress:
        checked(event)


# The relay


class Wire:
    """A publisher that keeps what it took, and fails as told."""

    def __init__(self) -> None:
        self.taken: list[Event] = []
        self.failures = 0
        self.error: Exception = Unavailable("the broker is away")

    def publish(self, event: Event) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error
        self.taken.append(event)

    def close(self) -> None:
        pass

    @property
    def ids(self) -> list[str]:
        """Ids of the events taken, in order."""
        return [event.id for event in self.taken]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def fill(journal: SqliteJournal, *events: Event) -> None:
    """Put events into the outbox, each under a request of its own."""
    for event in events:
        request_id = str(uuid.uuid4())
        journal.admit(request_id, "", Event(COMMIT_REQUEST, {}), datetime.now(UTC))
        work = journal.claim(datetime.now(UTC))
        assert work is not None
        journal.record(work, [event], None)


def outgoing(number: int, event_type: str = SNAPSHOT_START) -> Event:
    return Event(event_type, {"request_id": f"r{number}", "phase": "uploading"}, id=f"e{number}")


def relay_of(journal: SqliteJournal, wire: Any) -> Relay:
    return Relay(journal, wire, Backoff(0.01, 0.02))


@pytest.mark.parametrize(("longest", "relays"), [(60.0, 5.0), (2.0, 2.0)])
def test_an_agents_relay_does_not_sleep_while_a_router_waits(
    tmp_path: Path, longest: float, relays: float
) -> None:
    settings = Settings()
    settings = replace(
        settings,
        agent=replace(settings.agent, stores=["directory"], retry_longest=longest),
        directory=replace(settings.directory, path=tmp_path),
    )
    agent = Agent(settings, Wire(), journal=SqliteJournal(":memory:"))
    try:
        assert agent.relay._backoff.longest == relays
        assert agent.runner._backoff.longest == longest
    finally:
        agent.engine.close()
        agent.journal.close()


def rounds(relay: Relay) -> None:
    """Let the relay publish, without its thread, until nothing is left."""
    while relay._round():
        pass


def test_the_relay_publishes_in_order_and_confirms() -> None:
    journal, wire = SqliteJournal(":memory:"), Wire()
    fill(journal, *map(outgoing, range(5)))
    relay = relay_of(journal, wire)
    relay.start()
    until(lambda: not journal.pending(1), "the outbox empty")
    fill(journal, outgoing(5))
    relay.wake()
    until(lambda: not journal.pending(1), "the outbox empty again")
    relay.stop(PATIENCE)

    assert wire.ids == [f"e{number}" for number in range(6)]


def test_the_relay_carries_more_than_a_batch() -> None:
    journal, wire = SqliteJournal(":memory:"), Wire()
    count = 2 * BATCH + 7
    fill(journal, *map(outgoing, range(count)))
    relay = relay_of(journal, wire)
    relay.start()
    relay.stop(PATIENCE)
    assert wire.ids == [f"e{number}" for number in range(count)]


def test_an_event_is_confirmed_only_after_it_is_published() -> None:
    journal = SqliteJournal(":memory:")
    fill(journal, outgoing(0), outgoing(1))
    pending_at_publish = []

    class Looking(Wire):
        def publish(self, event: Event) -> None:
            pending_at_publish.append([row.event.id for row in journal.pending(10)])
            super().publish(event)

    rounds(relay_of(journal, Looking()))
    assert pending_at_publish == [["e0", "e1"], ["e0", "e1"]]
    assert journal.pending(10) == []


def test_what_was_published_before_a_failure_is_confirmed() -> None:
    journal = SqliteJournal(":memory:")
    fill(journal, outgoing(0), outgoing(1))

    class Failing(Wire):
        def publish(self, event: Event) -> None:
            if event.id == "e1":
                raise Unavailable("away")
            super().publish(event)

    with suppress(Unavailable):
        rounds(relay_of(journal, Failing()))
    assert [row.event.id for row in journal.pending(10)] == ["e1"]
    assert journal.confirmed_at("e0") is not None
    assert journal.confirmed_at("e1") is None


@pytest.mark.parametrize(
    "error", [Unavailable("away"), BrokenPipeError("closed"), UnicodeError("bad")], ids=repr
)
def test_nothing_is_lost_or_reordered_when_publishing_fails(error: Exception) -> None:
    journal, wire = SqliteJournal(":memory:"), Wire()
    wire.failures, wire.error = 4, error
    relay = relay_of(journal, wire)
    relay.start()
    fill(journal, *map(outgoing, range(6)))
    relay.wake()
    until(lambda: not journal.pending(1), "the outbox empty")
    relay.stop(PATIENCE)
    assert wire.ids == [f"e{number}" for number in range(6)]


@pytest.mark.parametrize("method", ["pending", "confirm"])
def test_a_journal_that_fails_delays_the_relay_only(method: str) -> None:
    journal, wire = SickJournal(), Wire()
    fill(journal, *map(outgoing, range(4)))
    journal.sick[method] = 2
    relay = relay_of(journal, wire)
    relay.start()
    until(lambda: len(set(wire.ids)) == 4 and not journal.sick[method], "all published")
    relay.stop(PATIENCE)

    assert list(dict.fromkeys(wire.ids)) == [f"e{number}" for number in range(4)]
    assert journal.pending(10) == []


def test_what_the_bus_does_not_take_before_the_stop_is_kept() -> None:
    journal, wire = SqliteJournal(":memory:"), Wire()
    fill(journal, *map(outgoing, range(3)))
    wire.failures = 10**9
    relay = relay_of(journal, wire)
    relay.start()
    until(lambda: wire.failures < 10**9, "an attempt")
    relay.stop(PATIENCE)
    assert not relay._thread.is_alive()
    assert len(journal.pending(10)) == 3

    wire.failures = 0
    again = relay_of(journal, wire)
    again.start()
    again.stop(PATIENCE)
    assert wire.ids == ["e0", "e1", "e2"]


def test_only_the_latest_progress_is_published_and_after_what_was_recorded() -> None:
    journal, wire = SqliteJournal(":memory:"), Wire()
    fill(journal, outgoing(0))
    relay = relay_of(journal, wire)
    relay.offer(progress_of("r0", "p1"))
    relay.offer(progress_of("r0", "p2"))
    rounds(relay)
    assert wire.ids == ["e0", "p2"]


def test_progress_is_dropped_when_the_bus_is_away() -> None:
    journal, wire = SqliteJournal(":memory:"), Wire()
    fill(journal, outgoing(0))
    relay = relay_of(journal, wire)
    relay.offer(progress_of("r0", "p1"))
    wire.failures = 1
    with pytest.raises(Unavailable):
        rounds(relay)
    rounds(relay)
    assert wire.ids == ["e0"]


def test_progress_comes_never_after_the_outcome() -> None:
    journal, wire = SqliteJournal(":memory:"), Wire()
    relay = relay_of(journal, wire)
    relay.offer(progress_of("r0", "p1"))
    fill(journal, outgoing(0, SNAPSHOT_END))
    rounds(relay)
    rounds(relay)
    assert wire.ids == ["e0"]


def test_progress_offered_while_the_relay_looks_comes_not_after_the_outcome_either() -> None:
    class Racing(SqliteJournal):
        """Between the relay's look at the progress and its look at the outbox, a request ends."""

        relay: Relay | None = None

        def pending(self, limit: int) -> Sequence[OutboxRow]:
            if self.relay is not None:
                self.relay.offer(progress_of("r0", "late"))
                fill(self, outgoing(0, SNAPSHOT_END))
                self.relay = None
            return super().pending(limit)

    journal, wire = Racing(":memory:"), Wire()
    relay = journal.relay = relay_of(journal, wire)
    rounds(relay)
    rounds(relay)
    assert wire.ids == ["e0"]


def test_progress_does_not_overtake_the_start_when_the_outbox_is_long() -> None:
    journal, wire = SqliteJournal(":memory:"), Wire()
    fill(journal, *map(outgoing, range(BATCH + 5)))
    relay = relay_of(journal, wire)
    last = BATCH + 4
    relay.offer(progress_of(f"r{last}", "p"))
    rounds(relay)
    rounds(relay)
    assert wire.ids.index(f"e{last}") < [*wire.ids, "p"].index("p")


def test_waiting_before_the_start_is_not_told_on_the_bus(bench: Bench) -> None:
    wire = Wire()
    relay = relay_of(bench.journal, wire)
    bench.container()
    bench.trouble.plan("engine.inspect", Unavailable("away"))
    bench.trouble.plan("glance.reserve", Unavailable("away"))
    bench.ask()
    while bench.journal.live():
        told = len(bench.progress)
        work = bench.journal.claim(bench.clock.now())
        if work is not None:
            bench.runner.run(work)
        bench.clock.advance(61)
        for event in bench.progress[told:]:
            relay.offer(event)
        rounds(relay)

    assert [event.payload["status"] for event in bench.progress][:2] == ["waiting", "waiting"]
    types = [event.type for event in wire.taken]
    assert types[0] == SNAPSHOT_START
    assert types[-1] == SNAPSHOT_END
    assert SNAPSHOT_PROGRESS in types


def test_the_memory_bus_passes_on_what_a_subscriber_raises() -> None:
    bus = MemoryBus()
    seen: list[Event] = []
    bus.subscribe(seen.append)

    def refuse(_: Event) -> None:
        raise Unavailable("full")

    bus.subscribe(refuse)
    with pytest.raises(Unavailable):
        bus.publish(outgoing(0))
    assert seen == [outgoing(0)]


def test_runner_and_relay_together_tell_every_request_in_order(bench: Bench) -> None:
    wire = Wire()
    wire.failures = 3
    relay = relay_of(bench.journal, wire)
    asked = [
        bench.ask(bench.container(f"web-{number}").name, deadline="2999-01-01T00:00:00Z")
        for number in range(4)
    ]
    relay.start()
    with running(runner_of(bench, on_progress=relay.offer)):
        until(lambda: not bench.journal.live(), "all requests done")
    until(lambda: not bench.journal.pending(10), "all events published")
    relay.stop(PATIENCE)

    for request_id in asked:
        types = [e.type for e in wire.taken if e.payload["request_id"] == request_id]
        assert types[0] == SNAPSHOT_START
        assert types[-1] == SNAPSHOT_END
        assert sum(event_type in OUTCOMES for event_type in types) == 1
    assert bench.journal.pending(10) == []


# Cancelling


def during(bench: Bench, step_type: str, do: Callable[[], object], *, error: Any = None) -> None:
    """Have something done while a step runs for the first time: at its end, or its checkpoint."""
    done: list[None] = []

    def meanwhile(event: Event, services: Services) -> Iterable[Event]:
        def once() -> None:
            if not done:
                done.append(None)
                do()

        def checkpoint() -> None:
            once()
            services.checkpoint()

        events = list(table()[step_type](event, replace(services, checkpoint=checkpoint)))
        if error is not None and not done:
            once()
            raise error
        once()
        return events

    bench.table = {**table(), step_type: meanwhile}
    bench.restart(bench.journal)


def cancelled_fault(bench: Bench, request_id: str) -> dict[str, Any]:
    outcome = bench.outcome(request_id)
    assert outcome.type == SNAPSHOT_ERROR
    fault: dict[str, Any] = outcome.payload["fault"]
    assert (fault["code"], fault["exception"]) == (499, "Cancelled")
    assert fault["image_deleted"] is True
    assert bench.images("glance") == bench.images("directory") == {}
    bench.require_clean_engine()
    return fault


STEPS = range(6)
"""Numbers of the steps of a plain request before the last, `snapshot.finish`."""


@pytest.mark.parametrize("number", STEPS)
def test_a_request_can_be_cancelled_before_any_step(bench: Bench, number: int) -> None:
    bench.container()
    request_id = bench.ask()
    for _ in range(number):
        assert bench.run_step().step.type != FINISH
    bench.cancel(request_id, reason="not any more")
    bench.settle()
    assert cancelled_fault(bench, request_id)["message"] == "not any more"
    starts = [event for event in bench.events(request_id) if event.type == SNAPSHOT_START]
    assert len(starts) == (number >= 2), "of what had not begun no start is told"


@pytest.mark.parametrize("step_type", [COMMIT_REQUEST, RESERVE, CAPTURE, UPLOAD])
def test_a_request_can_be_cancelled_during_any_step(bench: Bench, step_type: str) -> None:
    bench.container()
    request_id = bench.ask(stores=BOTH)
    during(bench, step_type, lambda: bench.cancel(request_id))
    bench.settle()
    cancelled_fault(bench, request_id)


def test_an_upload_stops_at_its_next_chunk(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    during(bench, UPLOAD, lambda: bench.cancel(request_id))
    bench.settle()
    assert cancelled_fault(bench, request_id)["phase"] == "uploading"
    assert not [event for event in bench.progress if event.payload["bytes_done"]]
    assert "glance.complete" not in bench.trouble.calls


def test_a_container_is_thawed_when_its_request_is_cancelled_while_it_is_frozen(
    bench: Bench,
) -> None:
    container = bench.container()
    request_id = bench.ask()
    committing = bench.engine._fail

    def cancel_then(call: str) -> None:
        if call == "commit":
            bench.cancel(request_id)
        committing(call)

    bench.engine._fail = cancel_then
    bench.settle()
    bench.engine._fail = committing
    cancelled_fault(bench, request_id)
    assert bench.engine.by_id[container.engine_id].state is ContainerState.RUNNING


def test_a_container_that_a_killed_run_left_frozen_is_thawed_when_its_request_is_cancelled(
    bench: Bench,
) -> None:
    """The cancellation is found before the step is run again that would have thawed it."""
    container = bench.container()
    request_id = bench.ask()
    bench.trouble.plan("engine.commit", PowerCut("in the commit"))
    with pytest.raises(PowerCut):
        bench.settle()
    assert bench.engine.by_id[container.engine_id].state is ContainerState.PAUSED

    bench.restart(bench.journal)
    bench.journal.recover()
    bench.cancel(request_id)
    bench.settle()
    cancelled_fault(bench, request_id)
    bench.require_clean_engine()


def test_a_request_that_waits_for_a_store_is_cancelled_at_once(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Unavailable("away"), times=1000)
    request_id = bench.ask()
    while "glance.upload" not in bench.trouble.calls:
        bench.run_step()
    assert bench.journal.claim(bench.clock.now()) is None
    bench.cancel(request_id)
    before = bench.clock.now()
    while bench.journal.live():
        bench.run_step()
    assert bench.clock.now() == before
    cancelled_fault(bench, request_id)


def test_a_step_that_fails_as_it_is_cancelled_does_not_wait_either(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    cancel = lambda: bench.cancel(request_id)  # noqa: E731 - it is handed on
    during(bench, COMMIT_REQUEST, cancel, error=Unavailable("away"))
    while bench.journal.live():
        bench.run_step()
    cancelled_fault(bench, request_id)


def test_a_request_that_waits_for_its_container_is_cancelled_at_once(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Unavailable("away"), times=2)
    first, second = bench.ask(), bench.ask()
    while (work := bench.journal.claim(bench.clock.now())) is not None:
        bench.runner.run(work)
    assert "glance.upload" in bench.trouble.calls
    bench.cancel(second)
    while second in bench.journal.live():
        bench.run_step()
    assert bench.outcome(second).payload["fault"]["code"] == 499
    assert bench.engine.owners() == {first}, "the other's capture is left alone"

    bench.settle()
    assert bench.outcome(first).type == SNAPSHOT_END
    assert len(bench.images()) == 1


def test_a_request_that_waits_for_a_place_is_cancelled_at_once(bench: Bench) -> None:
    for name in ("web", "db"):
        bench.container(name)
    bench.trouble.plan("glance.upload", Unavailable("away"), times=100)
    first, second = bench.ask("web"), bench.ask("db")
    while (work := bench.journal.claim(bench.clock.now(), 1)) is not None:
        bench.runner.run(work)
    bench.cancel(second)
    while (work := bench.journal.claim(bench.clock.now(), 1)) is not None:
        bench.runner.run(work)
    assert bench.outcome(second).payload["fault"]["code"] == 499
    assert bench.journal.live() == {first}


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_request_that_is_being_finished_ends_well(bench: Bench, *, meanwhile: bool) -> None:
    bench.container()
    request_id = bench.ask()
    if meanwhile:
        during(bench, FINISH, lambda: bench.cancel(request_id))
    else:
        while not any(status == "active" for status in bench.images().values()):
            bench.run_step()
        bench.run_step()
        bench.cancel(request_id)
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END
    assert list(bench.images().values()) == ["active"]
    assert bench.journal.dead_letters() == []


def test_cleaning_up_after_a_cancellation_waits_for_what_is_away(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    for _ in range(4):
        bench.run_step()
    bench.cancel(request_id)
    bench.trouble.plan("glance.discard", Unavailable("away"), times=7)
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["image_deleted"] is False
    assert bench.images() == {}
    assert bench.trouble.calls.count("glance.discard") == 8


def test_a_cancelled_request_does_not_disturb_the_next_of_its_container(bench: Bench) -> None:
    bench.container()
    first, second = bench.ask(), bench.ask()
    bench.cancel(first)
    bench.settle()
    assert bench.outcome(first).payload["fault"]["code"] == 499
    assert bench.outcome(second).type == SNAPSHOT_END


def test_a_running_step_is_cancelled_by_another_thread(bench: Bench) -> None:
    entered = threading.Event()

    def endless(_: Event, services: Services) -> Iterable[Event]:
        entered.set()
        pause = threading.Event()
        while True:
            services.checkpoint()
            pause.wait(0.005)

    request_id = bench.ask(deadline="2999-01-01T00:00:00Z")
    with running(runner_of(bench, {**table(), COMMIT_REQUEST: endless}, workers=1)) as runner:
        assert entered.wait(PATIENCE)
        assert runner.cancel(request_id, Cancellation("enough")) is True
        until(lambda: not bench.journal.live(), "the request done")
        assert runner.cancel(str(uuid.uuid4()), Cancellation("enough")) is False
        until(lambda: not runner._running, "the worker idle")
    assert bench.outcome(request_id).payload["fault"]["message"] == "enough"


# Answered by somebody else


ANSWERED = Cancellation("the router has answered", answered=True)


def require_silent_end(bench: Bench, request_id: str) -> None:
    """Fail unless a request that was answered elsewhere has left nothing, and said nothing."""
    assert bench.journal.live() == frozenset()
    assert not [event for event in bench.events(request_id) if event.type in OUTCOMES]
    assert bench.images("glance") == bench.images("directory") == {}
    bench.require_clean_engine()
    latest = bench.journal.latest(request_id)
    assert latest is not None
    assert checked(latest).type == SNAPSHOT_ERROR, "whoever asks is told how it ended"
    assert latest.payload["fault"]["message"] == ANSWERED.reason


@pytest.mark.parametrize("number", STEPS)
def test_what_was_answered_elsewhere_ends_without_a_word(bench: Bench, number: int) -> None:
    bench.container()
    request_id = bench.ask(stores=BOTH)
    for _ in range(number):
        bench.run_step()
    assert bench.runner.cancel(request_id, ANSWERED)
    bench.settle()
    require_silent_end(bench, request_id)


@pytest.mark.parametrize("step_type", [COMMIT_REQUEST, RESERVE, CAPTURE, UPLOAD, FINISH])
def test_what_is_answered_elsewhere_during_a_step_leaves_no_image(
    bench: Bench, step_type: str
) -> None:
    """Not even one that is whole by then: others were told that it is deleted."""
    bench.container()
    request_id = bench.ask(stores=BOTH)
    during(bench, step_type, lambda: bench.runner.cancel(request_id, ANSWERED))
    bench.settle()
    require_silent_end(bench, request_id)


def test_an_error_that_is_answered_elsewhere_meanwhile_is_not_told(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", Refused(ANSWERED.reason))
    request_id = bench.ask()
    during(bench, ABORT, lambda: bench.runner.cancel(request_id, ANSWERED))
    bench.settle()
    require_silent_end(bench, request_id)


@pytest.mark.parametrize("step_type", [UPLOAD, ABORT])
def test_who_cancels_too_does_not_undo_that_it_was_answered(bench: Bench, step_type: str) -> None:
    bench.container()
    request_id = bench.ask()

    def both() -> None:
        bench.runner.cancel(request_id, ANSWERED)
        bench.runner.cancel(request_id, Cancellation("I do not want it"))

    if step_type == ABORT:
        bench.trouble.plan("glance.upload", Refused(ANSWERED.reason))
    during(bench, step_type, both)
    bench.settle()
    require_silent_end(bench, request_id)


def test_who_cancels_between_two_steps_does_not_undo_that_it_was_answered(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    bench.runner.cancel(request_id, ANSWERED)
    assert bench.run_step().step.type == COMMIT_REQUEST
    bench.restart(bench.journal)  # what is in memory is gone, as at the end of every step
    bench.cancel(request_id, reason="I do not want it")
    bench.settle()
    require_silent_end(bench, request_id)


@pytest.mark.parametrize("before", [None, Cancellation(ANSWERED.reason)], ids=["", "cancelled"])
def test_what_is_answered_elsewhere_as_its_end_is_recorded_leaves_no_image(
    before: Cancellation | None,
) -> None:
    """The last instant: the runner has looked, and the journal has not."""

    class Racing(SqliteJournal):
        def record(
            self, work: Work, events: Sequence[Event], step: Event | None, **options: Any
        ) -> None:
            if any(event.type == SNAPSHOT_END for event in events):
                bench.runner.cancel(work.request_id, ANSWERED)
            super().record(work, events, step, **options)

    bench = Bench(journal=Racing(":memory:"))
    bench.container()
    old = bench.ask(backup_type="nightly", rotation=1)
    bench.settle()
    assert bench.images() == {}
    request_id = bench.ask(stores=BOTH, backup_type="nightly", rotation=1)
    if before is not None:
        during(bench, FINISH, lambda: bench.runner.cancel(request_id, before))
    bench.settle()

    for ident in (old, request_id):
        assert not [event for event in bench.events(ident) if event.type in OUTCOMES]
        latest = bench.journal.latest(ident)
        assert latest is not None
        fault = checked(latest).payload["fault"]
        assert (fault["exception"], fault["image_deleted"]) == ("Cancelled", True)
    assert fault["message"] == (core_runner.ANSWERED if before is None else before.reason)
    assert bench.images("glance") == bench.images("directory") == {}
    bench.require_clean_engine()


def test_what_cannot_be_cleaned_after_an_answer_elsewhere_holds_nobody_up(bench: Bench) -> None:
    bench.container()
    first = bench.ask()
    for _ in range(3):
        bench.run_step()
    bench.runner.cancel(first, ANSWERED)
    bench.trouble.plan("glance.discard", Unavailable("away"), times=12)
    second = bench.ask(stores=["directory"])
    while second in bench.journal.live():
        work = bench.journal.claim(bench.clock.now(), 1)
        if work is None:
            bench.clock.advance(61)
        else:
            bench.runner.run(work)
    assert first in bench.journal.live(), "it is still being swept"
    bench.settle()
    assert bench.outcome(second).type == SNAPSHOT_END
    assert bench.images("glance") == {}


# By way of a router


@dataclass
class Bus:
    """What carries events off the host, when it is told to."""

    bench: Bench
    taken: dict[str, Event] = field(default_factory=dict)

    def carry(self) -> None:
        """Publish what is pending, and confirm it."""
        rows = self.bench.journal.pending(1000)
        self.taken |= {row.event.id: checked(row.event) for row in rows}
        if rows:
            self.bench.journal.confirm(rows)

    def settle(self) -> None:
        """Run all steps, each beside a relay that works."""
        for _ in range(300):
            self.carry()
            work = self.bench.journal.claim(self.bench.clock.now())
            if work is not None:
                self.bench.runner.run(work)
            elif self.bench.journal.live():
                self.bench.clock.advance(1)
            else:
                return
        raise AssertionError("still at work")

    def types(self) -> list[str]:
        return [event.type for event in self.taken.values()]


def routed_bench(journal: SqliteJournal | None = None, *, slow: bool = False) -> Bench:
    """Return a host whose clock is before that of the broker's confirms, or behind if `slow`."""
    ahead = timedelta(hours=-1 if slow else 1)
    bench = Bench(
        journal=journal or SqliteJournal(":memory:"), clock=ManualClock(datetime.now(UTC) + ahead)
    )
    bench.container()
    return bench


def ask_routed(bench: Bench, *, seconds: float = 30, deadline: float = 3600, **fields: Any) -> str:
    now = bench.clock.now()
    return bench.ask(
        host=HOST,
        accept_by=(now + timedelta(seconds=seconds)).isoformat(),
        deadline=(now + timedelta(seconds=deadline)).isoformat(),
        **fields,
    )


def test_a_routed_request_says_first_that_it_is_accepted() -> None:
    bench = routed_bench()
    bus = Bus(bench)
    request_id = ask_routed(bench)
    bench.run_step()
    latest = bench.journal.latest(request_id)
    assert latest is not None
    assert checked(latest).type == SNAPSHOT_PROGRESS, "that is no word about the snapshot"
    bus.settle()
    assert bus.types() == [COMMIT_ACCEPTED, SNAPSHOT_START, SNAPSHOT_END]


def test_nothing_is_begun_before_the_bus_has_the_word_that_it_is_accepted() -> None:
    bench = routed_bench()
    request_id = ask_routed(bench, image_id=str(uuid.uuid4()))
    for _ in range(25):
        work = bench.journal.claim(bench.clock.now())
        if work is not None:
            bench.runner.run(work)
        bench.clock.advance(1)
    assert bench.engine.owners() == frozenset()
    assert bench.images() == {}
    assert not [call for call in bench.trouble.calls if call.startswith("glance")]
    assert [event.type for event in bench.events(request_id)] == [COMMIT_ACCEPTED]
    assert bench.engine.actions == []

    bus = Bus(bench)
    bus.settle()
    assert bus.types()[-1] == SNAPSHOT_END


def test_what_the_bus_hears_too_late_is_not_begun() -> None:
    bench = routed_bench(slow=True)
    bus = Bus(bench)
    ask_routed(bench)
    bench.run_step()
    bus.carry()
    bus.settle()
    assert bus.types() == [COMMIT_ACCEPTED, SNAPSHOT_ERROR]
    fault = list(bus.taken.values())[-1].payload["fault"]
    assert (fault["code"], fault["image_deleted"]) == (504, True)
    assert "glance.reserve" not in bench.trouble.calls
    assert bench.engine.actions == []


def test_what_the_bus_never_hears_is_given_up_when_it_is_void() -> None:
    bench = routed_bench()
    request_id = ask_routed(bench, seconds=30)
    bench.settle()
    outcome = bench.outcome(request_id)
    assert outcome.payload["fault"]["code"] == 504
    assert "glance.reserve" not in bench.trouble.calls
    assert bench.engine.actions == []


def test_a_request_that_waits_past_its_time_to_be_taken_is_void() -> None:
    bench = routed_bench()
    bench.trouble.plan("engine.inspect", Unavailable("away"), times=1000)
    request_id = ask_routed(bench, seconds=30)
    bench.settle()
    assert [event.type for event in bench.events(request_id)] == [SNAPSHOT_ERROR]
    assert bench.outcome(request_id).payload["fault"]["code"] == 504


def test_an_accepted_request_may_take_longer_than_the_time_to_be_taken() -> None:
    bench = routed_bench()
    bus = Bus(bench)
    ask_routed(bench, seconds=30)
    bench.run_step()
    bus.carry()
    bench.clock.advance(1800)
    bus.settle()
    assert bus.types()[-1] == SNAPSHOT_END


def test_a_refused_request_is_answered_without_being_accepted() -> None:
    bench = routed_bench()
    bus = Bus(bench)
    ask_routed(bench, container="nobody")
    bus.settle()
    assert bus.types() == [SNAPSHOT_ERROR]


def late(bench: Bench) -> None:
    """Let so much time pass before the last step of a request that it comes after its deadline."""
    while not any(status == "active" for status in bench.images().values()):
        bench.run_step()
    assert bench.run_step().step.type == UPLOAD, "which finds that nothing is missing"
    bench.clock.advance(7200)


def test_a_routed_request_that_is_late_is_an_error_and_leaves_no_image() -> None:
    """Its router has answered that it failed, or is about to."""
    bench = routed_bench()
    bus = Bus(bench)
    ask_routed(bench, deadline=3600)
    bench.run_step()
    bus.carry()
    late(bench)
    bus.settle()
    assert bus.types() == [COMMIT_ACCEPTED, SNAPSHOT_START, SNAPSHOT_ERROR]
    fault = list(bus.taken.values())[-1].payload["fault"]
    assert (fault["code"], fault["image_deleted"]) == (504, True)
    assert bench.images() == {}
    bench.require_clean_engine()


def test_a_request_that_came_straight_is_told_of_however_late() -> None:
    bench = routed_bench()
    deadline = bench.clock.now() + timedelta(seconds=3600)
    request_id = bench.ask(deadline=deadline.isoformat())
    late(bench)
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END


# Rotation, and what may still become of the new image


def backed_up(bench: Bench) -> str:
    """Return the image of an earlier backup."""
    request_id = bench.ask(backup_type="nightly", rotation=1)
    bench.settle()
    end = bench.outcome(request_id)
    bench.journal.confirm(bench.journal.pending(100))
    return str(end.payload["image_id"])


def finishing(bench: Bench, bus: Bus) -> Work:
    """Work until the last step that leads to an outcome, and return that, claimed."""
    while True:
        bus.carry()
        work = bench.journal.claim(bench.clock.now())
        assert work is not None
        if work.step.type == FINISH:
            return work
        bench.runner.run(work)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_backup_is_left_when_the_power_is_cut_past_the_deadline(
    tmp_path: Path, *, recorded: bool
) -> None:
    """The new image is undone after its deadline: the older one must be there still."""
    path = tmp_path / "journal"
    bench = routed_bench(FusedJournal(path))
    bus = Bus(bench)
    old = backed_up(bench)
    request_id = ask_routed(bench, backup_type="nightly", rotation=1)
    work = finishing(bench, bus)
    journal = bench.journal
    assert isinstance(journal, FusedJournal)
    journal.fatal_write, journal.after = journal.writes + 1, recorded
    with pytest.raises(PowerCut):
        bench.runner.run(work)
    journal.close()
    bench.restart(SqliteJournal(path))
    bench.journal.recover()
    bench.clock.advance(7200)
    bench.settle()

    outcome = bench.outcome(request_id)
    assert outcome.type == (SNAPSHOT_END if recorded else SNAPSHOT_ERROR)
    assert bench.images()[old] == "active"
    bench.journal.close()


def test_older_images_go_when_the_bus_has_the_end() -> None:
    bench = routed_bench()
    bus = Bus(bench)
    old = backed_up(bench)
    ask_routed(bench, backup_type="nightly", rotation=1)
    bench.runner.run(finishing(bench, bus))
    for _ in range(5):
        bench.clock.advance(61)
        assert bench.run_step().step.type == ROTATE
    assert set(bench.images().values()) == {"active"}
    assert old in bench.images(), "a router may still say that there is no new one"

    bus.settle()
    end = list(bus.taken.values())[-1]
    assert end.type == SNAPSHOT_END
    assert end.payload["rotated_images"] == [{"store": "glance", "image_id": old}]
    assert bench.images() == {end.payload["image_id"]: "active"}


def test_older_images_stay_when_the_router_answers_first() -> None:
    bench = routed_bench()
    bus = Bus(bench)
    old = backed_up(bench)
    request_id = ask_routed(bench, backup_type="nightly", rotation=1)
    bench.runner.run(finishing(bench, bus))
    bench.cancel(request_id, who=replace(ALICE, is_admin=True), answered=True)
    bench.settle()
    bus.carry()
    assert not [event for event in bus.taken.values() if event.type in OUTCOMES]
    assert bench.images()[old] == "active"


def test_rotating_holds_nobody_up(bench: Bench) -> None:
    backed_up_before = bench.container() and backed_up(bench)
    first = bench.ask(backup_type="nightly", rotation=1)
    bench.trouble.plan("glance.discard", Unavailable("away"), times=3)
    while not [event for event in bench.events(first) if event.type == SNAPSHOT_END]:
        bench.run_step()
    second = bench.ask(stores=["directory"])
    while second in bench.journal.live():
        work = bench.journal.claim(bench.clock.now(), 1)
        assert work is not None
        bench.runner.run(work)
    assert first in bench.journal.live()
    bench.settle()
    assert bench.outcome(first).type == bench.outcome(second).type == SNAPSHOT_END
    assert list(bench.images().values()) == ["active"]
    assert backed_up_before not in bench.images()


# Cancelled or routed, and the power is cut


def script(
    bench: Bench, bus: Bus, request_id: str, cancellation: Cancellation | None, sent: list[None]
) -> None:
    """A routed request, cancelled when its image is reserved, or not: `sent` is filled then."""
    ask_routed(bench, request_id=request_id, stores=BOTH)
    if cancellation is not None:
        while not bench.images():
            bus.carry()
            bench.run_step()
        sent.append(None)
        bench.runner.cancel(request_id, cancellation)
    bus.settle()


KINDS: dict[str, Cancellation | None] = {
    "routed": None,
    "cancelled": Cancellation("somebody asked"),
    "answered": ANSWERED,
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_power_cut_changes_nothing_about_the_end(
    tmp_path: Path, kind: str, *, after: bool
) -> None:
    cancellation = KINDS[kind]
    number = 0
    while True:
        number += 1
        path = tmp_path / f"journal-{number}"
        journal = FusedJournal(path)
        bench = routed_bench(journal)
        bus = Bus(bench)
        journal.fatal_write, journal.after = number, after
        request_id, sent = str(uuid.uuid4()), list[None]()
        try:
            script(bench, bus, request_id, cancellation, sent)
        except PowerCut:
            bench.journal.close()
            bench.restart(SqliteJournal(path))
            bench.journal.recover()
            if request_id not in bench.journal.live() and not bus.taken:
                ask_routed(bench, request_id=request_id, stores=BOTH)
            if cancellation is not None and sent:
                bench.runner.cancel(request_id, cancellation)  # the bus brings it again
            bus.settle()
        else:
            break
        finally:
            bench.journal.close()
        ended = [event.type for event in bus.taken.values() if event.type in OUTCOMES]
        if cancellation is None or not sent:
            assert ended == [SNAPSHOT_END], number
            assert list(bench.images().values()) == ["active"]
        else:
            assert ended == ([] if cancellation.answered else [SNAPSHOT_ERROR]), number
            assert bench.images("glance") == bench.images("directory") == {}
        bench.require_clean_engine()
    assert number > 12
