"""What every WatchLog does, in memory and on file: the watcher's memory, one with the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.support.twins import ALICE
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.adapters.sqlite_watch_log import SqliteWatchLog
from tintype.core.errors import Unavailable
from tintype.core.events import COMMIT_REQUEST, CONTAINER_EXISTS, CONTAINER_START, Event

NOON = datetime(2026, 3, 4, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=["memory", "file"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteJournal]:
    path = ":memory:" if request.param == "memory" else tmp_path / "state" / "journal.sqlite"
    with closing(SqliteJournal(path)) as opened:
        yield opened


@pytest.fixture
def log(journal: SqliteJournal) -> SqliteWatchLog:
    return SqliteWatchLog(journal)


def event(key: str, event_type: str = CONTAINER_EXISTS, **payload: Any) -> Event:
    return Event(event_type, {"event_id": key, **payload}, ALICE, key)


def told(journal: SqliteJournal) -> list[Event]:
    return [row.event for row in journal.pending(1000)]


class Unprintable:
    """Nothing that can be written down."""

    def __repr__(self) -> str:
        raise LookupError("no")


# Empty


def test_a_new_log_knows_nothing(log: SqliteWatchLog) -> None:
    assert log.resume_point() is None
    assert log.known() == {}
    assert log.ticked_at() is None


# Observing


def test_events_come_into_the_outbox_in_order_and_whole(
    journal: SqliteJournal, log: SqliteWatchLog
) -> None:
    events = [event(f"e{number}", text="é \ud800 \x00") for number in range(5)]
    log.observe(events[:2], {})
    log.observe(events[2:], {})
    assert told(journal) == events


def test_an_event_that_is_told_twice_is_one_row(
    journal: SqliteJournal, log: SqliteWatchLog
) -> None:
    log.observe([event("a", n=1), event("a", n=2)], {})
    log.observe([event("b"), event("a", n=3)], {})
    assert told(journal) == [event("a", n=1), event("b")]

    journal.confirm(journal.pending(10))
    log.observe([event("a")], {})
    assert told(journal) == []


def test_the_resume_point_is_the_last_one_given(log: SqliteWatchLog) -> None:
    at = 1_800_000_000_123_456_789
    log.observe([], {}, at)
    assert log.resume_point() == at, "to the nanosecond"
    log.observe([event("a")], {"c1": {"n": 1}})
    assert log.resume_point() == at, "what tells none leaves it"
    log.observe([], {}, at + 1)
    assert log.resume_point() == at + 1


def test_known_is_what_was_told_last_and_since_when_it_is(log: SqliteWatchLog) -> None:
    before = datetime.now(UTC)
    log.observe([], {"c1": {"state": "Other"}, "c2": {"state": "Running"}})
    first = log.known()
    assert {name: known.payload for name, known in first.items()} == {
        "c1": {"state": "Other"},
        "c2": {"state": "Running"},
    }
    assert before <= datetime.fromisoformat(first["c1"].since) <= datetime.now(UTC)

    log.observe([], {"c1": {"state": "Running", "labels": {"a": "é"}}})
    again = log.known()
    assert again["c1"].payload == {"state": "Running", "labels": {"a": "é"}}
    assert again["c1"].since == first["c1"].since
    assert again["c2"] == first["c2"]


def test_a_container_that_is_gone_is_not_known(log: SqliteWatchLog) -> None:
    log.observe([], {"c1": {"n": 1}, "c2": {"n": 2}})
    first = log.known()["c1"].since
    log.observe([], {"c1": None, "nobody": None})
    assert log.known().keys() == {"c2"}

    log.observe([], {"c1": {"n": 3}})
    assert log.known()["c1"].since >= first, "it is first told of anew"


# Ticking


def test_ticks_and_what_they_ask_for(journal: SqliteJournal, log: SqliteWatchLog) -> None:
    asked = event("r1", COMMIT_REQUEST)
    log.tick([asked], NOON)
    assert log.ticked_at() == NOON
    assert told(journal) == [asked]

    log.tick([asked], NOON + timedelta(minutes=1))
    assert log.ticked_at() == NOON + timedelta(minutes=1)
    assert told(journal) == [asked]


def test_a_tick_in_another_zone_is_the_same_moment(log: SqliteWatchLog) -> None:
    log.tick([], NOON.astimezone(timezone(timedelta(hours=9))))
    assert log.ticked_at() == NOON


@pytest.mark.parametrize("tick_first", [True, False])
def test_ticks_and_the_resume_point_leave_each_other_alone(
    log: SqliteWatchLog, *, tick_first: bool
) -> None:
    if tick_first:
        log.tick([], NOON)
        assert log.resume_point() is None
    log.observe([], {}, 7)
    log.tick([], NOON)
    log.observe([], {}, 8)
    assert (log.resume_point(), log.ticked_at()) == (8, NOON)


# One transaction


def test_nothing_is_observed_when_a_part_cannot_be(
    journal: SqliteJournal, log: SqliteWatchLog
) -> None:
    log.observe([], {"c1": {"n": 1}}, 5)
    known = log.known()
    with pytest.raises(LookupError):
        log.observe([event("a"), event("b", bad=Unprintable())], {"c1": None}, 6)
    with pytest.raises(TypeError):
        log.observe([event("a")], {"c1": None, "c2": {"bad": {1}}}, 6)

    assert told(journal) == []
    assert log.known() == known
    assert log.resume_point() == 5


def test_nothing_is_ticked_when_a_part_cannot_be(
    journal: SqliteJournal, log: SqliteWatchLog
) -> None:
    log.tick([], NOON)
    with pytest.raises(LookupError):
        log.tick([event("a"), event("b", bad=Unprintable())], NOON + timedelta(hours=1))
    assert told(journal) == []
    assert log.ticked_at() == NOON


def test_a_full_disk_is_unavailable_and_nothing_is_half_done(
    journal: SqliteJournal, log: SqliteWatchLog
) -> None:
    log.observe([event("first")], {"c1": {"n": 1}}, 5)
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    large = {"text": "x" * 1_000_000}
    with pytest.raises(Unavailable):
        log.observe([event("small"), event("large", **large)], {"c1": None}, 6)
    with pytest.raises(Unavailable):
        log.observe([event("small")], {"c1": None, "c2": large}, 6)
    with pytest.raises(Unavailable):
        log.tick([event("small"), event("large", **large)], NOON)
    assert [each.id for each in told(journal)] == ["first"]
    assert log.known().keys() == {"c1"}
    assert log.resume_point() == 5
    assert log.ticked_at() is None

    journal._db.execute("PRAGMA max_page_count = 1073741823")
    log.observe([event("small")], {"c2": large}, 6)
    assert [each.id for each in told(journal)] == ["first", "small"]
    assert log.resume_point() == 6


# The file


def test_everything_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    events = [event("a", CONTAINER_START), event("b")]
    with closing(SqliteJournal(path)) as journal:
        log = SqliteWatchLog(journal)
        log.observe(events, {"c1": {"n": 1}, "c2": {"n": 2}}, 2**62)
        log.observe([], {"c2": None})
        log.tick([event("r", COMMIT_REQUEST)], NOON)
        known = log.known()

    with closing(SqliteJournal(path)) as journal:
        again = SqliteWatchLog(journal)
        assert again.known() == known
        assert again.resume_point() == 2**62
        assert again.ticked_at() == NOON
        assert told(journal) == [*events, event("r", COMMIT_REQUEST)]
        again.observe(events, {"c1": {"n": 1}})
        assert len(told(journal)) == 3
        assert again.known() == known


def test_two_logs_of_one_journal_are_one(journal: SqliteJournal) -> None:
    one, other = SqliteWatchLog(journal), SqliteWatchLog(journal)
    one.observe([event("a")], {"c1": {"n": 1}}, 3)
    other.observe([event("a")], {"c1": {"n": 2}}, 4)
    assert one.known()["c1"].payload == {"n": 2}
    assert one.resume_point() == 4
    assert len(told(journal)) == 1
