"""Housekeeping: no chore waits for another, and nothing goes that a request still needs."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.twins import Trouble
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.engine import Engine
from tintype.core.errors import Refused, Unavailable
from tintype.core.events import COMMIT_REQUEST, Event
from tintype.core.housekeeping import Chore, Housekeeper, LiveRequests, attempt, discard_captures

LATER = datetime(2099, 1, 1, tzinfo=UTC)
PATIENCE = 60.0
"""Seconds after which a test that waits for another thread has failed."""


class Captures(MemoryEngine):
    """An engine that has captures of these owners, and nothing else."""

    def __init__(self, *owners: str, trouble: Trouble) -> None:
        super().__init__()
        self.left = dict.fromkeys(owners)
        self._hook = trouble.hook("engine")

    def owners(self) -> frozenset[str]:
        self._hook("owners")
        return frozenset(self.left)

    def discard(self, owner: str) -> None:
        self._hook("discard")
        del self.left[owner]


@pytest.fixture
def trouble() -> Trouble:
    return Trouble()


def test_a_chore_that_takes_long_keeps_no_other_waiting() -> None:
    cleaned, swept = threading.Semaphore(0), threading.Event()
    keeper = Housekeeper(
        {
            "sweep": Chore(lambda: _wait(swept), 0.01),
            "clean": Chore(cleaned.release, 0.01),
        }
    )
    keeper.start()
    try:
        for _ in range(3):
            assert cleaned.acquire(timeout=PATIENCE)
    finally:
        swept.set()
        keeper.stop()


def _wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("a defect")])
def test_a_chore_that_fails_is_done_again(error: Exception) -> None:
    done = threading.Semaphore(0)

    def fail() -> None:
        done.release()
        raise error

    keeper = Housekeeper({"fail": Chore(fail, 0.01)})
    keeper.start()
    try:
        for _ in range(3):
            assert done.acquire(timeout=PATIENCE)
    finally:
        keeper.stop()


def test_after_the_stop_no_chore_begins() -> None:
    done: list[int] = []
    keeper = Housekeeper({"chore": Chore(lambda: done.append(1), 0.01)})
    keeper.stop()
    keeper.start()
    assert not keeper.join(PATIENCE)
    assert done == []


@pytest.mark.parametrize("error", [Refused("in use"), Unavailable("away"), ValueError("a defect")])
def test_a_capture_that_cannot_go_keeps_no_other(trouble: Trouble, error: Exception) -> None:
    engine = Captures("a", "b", "c", "live", trouble=trouble)
    trouble.plan("engine.discard", error)
    discard_captures(engine, {"live"})
    assert len(engine.left) == 2
    assert "live" in engine.left


def test_a_request_counts_as_live_that_was_taken_in_after_the_question_was_prepared() -> None:
    journal = SqliteJournal(":memory:")
    live = LiveRequests(journal)
    assert "r" not in live
    journal.admit("r", "f", Event(COMMIT_REQUEST, {}), LATER)
    assert "r" in live
    assert (list(live), len(live)) == (["r"], 1)
    work = journal.claim(LATER - timedelta(days=1))
    assert work is not None
    journal.record(work, [], None)
    assert "r" not in live


def test_a_capture_stays_whose_request_is_taken_in_while_the_engine_answers() -> None:
    journal = SqliteJournal(":memory:")

    class Late(Captures):
        def owners(self) -> frozenset[str]:
            journal.admit("r", "f", Event(COMMIT_REQUEST, {}), LATER)
            return super().owners()

    engine: Engine = Late("r", trouble=Trouble())
    discard_captures(engine, LiveRequests(journal))
    assert engine.owners() == {"r"}


def test_an_attempt_tells_of_its_failure(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise Unavailable("the engine is away")

    attempt(fail)
    assert "the engine is away" in caplog.text
