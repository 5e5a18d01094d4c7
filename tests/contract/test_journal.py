"""What every Journal and Outbox does, in memory and on file; and what outlives the process."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tintype.adapters.sqlite_journal import JournalInUse, SqliteJournal
from tintype.core.errors import Unavailable
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_REQUEST,
    CONTAINER_CREATE,
    CONTAINER_DELETE,
    CONTAINER_EXISTS,
    RESTORE_ACCEPTED,
    RESTORE_END,
    RESTORE_ERROR,
    RESTORE_PROGRESS,
    RESTORE_REQUEST,
    RESTORE_START,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_EXISTS,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_START,
    Event,
    Requester,
    derived_id,
)
from tintype.core.ports import Admission, Cancellation, Work
from tintype.core.restore import ABORT as RESTORE_ABORT
from tintype.core.restore import CREATE, LOAD, restore_id_for
from tintype.core.snapshot import ABORT, RESERVE, ROTATE, SWEEP, UPLOAD, snapshot_id_for

SOON = timedelta(hours=1)
WHO = Requester("project", "user", is_admin=True)
BOUND = 256 * 1024
"""No dead letter may take more than this, in bytes."""


@pytest.fixture(params=["memory", "file"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteJournal]:
    path = ":memory:" if request.param == "memory" else tmp_path / "state" / "journal.sqlite"
    with closing(SqliteJournal(path)) as opened:
        yield opened


def now() -> datetime:
    return datetime.now(UTC)


def request_id(name: str) -> str:
    return derived_id("test", name)


def request(name: str) -> Event:
    return Event(COMMIT_REQUEST, {"request_id": request_id(name), "container": "web"}, WHO)


def admit(journal: SqliteJournal, name: str, deadline: datetime | None = None) -> Admission:
    return journal.admit(request_id(name), "print", request(name), deadline or now() + SOON)


def claim(journal: SqliteJournal, at: datetime | None = None) -> Work:
    work = journal.claim(at or now())
    assert work is not None
    return work


def step(container: str | None, step_type: str = UPLOAD) -> Event:
    return Event(step_type, {"engine_container_id": container}, WHO)


def event(event_type: str, name: str, key: str = "") -> Event:
    payload = {"request_id": request_id(name), "key": key}
    return Event(event_type, payload, WHO, derived_id(name, event_type, key))


def on_container(journal: SqliteJournal, name: str, container: str) -> str:
    """Admit a request and let it learn its container; nothing else may be runnable meanwhile."""
    admit(journal, name)
    work = claim(journal)
    assert work.request_id == request_id(name)
    journal.record(work, [], step(container))
    return work.request_id


def test_only_its_user_may_read_a_journal(tmp_path: Path) -> None:
    """Requests hold what containers are to have in their environment."""
    before = os.umask(0)
    try:
        path = tmp_path / "journal.sqlite"
        with closing(SqliteJournal(path)) as journal:
            admit(journal, "a")
            files = list(tmp_path.iterdir())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files}
        with closing(SqliteJournal(path)) as again:
            assert claim(again).request_id == request_id("a")
    finally:
        os.umask(before)
    ours = ("", "-wal", "-shm", ".lock")
    assert modes == {f"journal.sqlite{ending}": 0o600 for ending in ours}


# Taking requests in


def test_a_request_is_new_once_and_a_duplicate_ever_after(journal: SqliteJournal) -> None:
    assert admit(journal, "a") is Admission.NEW
    assert admit(journal, "a") is Admission.DUPLICATE
    journal.record(claim(journal), [], None)

    assert admit(journal, "a") is Admission.DUPLICATE
    assert journal.claim(now()) is None


def test_a_request_id_with_another_body_is_a_conflict_and_changes_nothing(
    journal: SqliteJournal,
) -> None:
    admit(journal, "a")
    other = Event(COMMIT_REQUEST, {"request_id": request_id("a"), "container": "db"})

    assert journal.admit(request_id("a"), "other", other, now()) is Admission.CONFLICT
    assert claim(journal).step == request("a")


def test_a_claimed_step_is_what_was_admitted_with_its_deadline(journal: SqliteJournal) -> None:
    deadline = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    payload = {"request_id": request_id("a"), "text": "é \ud800 \x00 \U0001f600", "n": [1, None]}
    journal.admit(request_id("a"), "print", Event(COMMIT_REQUEST, payload, WHO), deadline)

    work = claim(journal)
    assert work == Work(request_id("a"), Event(COMMIT_REQUEST, payload, WHO, attempt=1), deadline)


# Claiming


def test_steps_are_claimed_oldest_first_and_each_once(journal: SqliteJournal) -> None:
    names = [f"request-{number}" for number in range(5)]
    for name in names:
        admit(journal, name)

    assert [claim(journal).request_id for _ in names] == [request_id(name) for name in names]
    assert journal.claim(now()) is None


def test_threads_never_get_the_same_step(journal: SqliteJournal) -> None:
    for number in range(40):
        admit(journal, f"request-{number}")

    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: journal.claim(now()), range(60)))
    works = [work.request_id for work in claimed if work is not None]
    assert len(works) == len(set(works)) == 40


def test_attempts_are_counted_until_the_step_is_recorded(journal: SqliteJournal) -> None:
    admit(journal, "a")
    first = claim(journal)
    journal.postpone(first, now())
    second = claim(journal)
    journal.recover()
    third = claim(journal)
    journal.record(third, [], step("c"))

    assert [work.step.attempt for work in (first, second, third)] == [1, 2, 3]
    assert claim(journal).step.attempt == 1


def test_a_postponed_step_waits_for_its_time_and_lets_others_by(journal: SqliteJournal) -> None:
    admit(journal, "late")
    admit(journal, "next")
    until = now() + SOON
    journal.postpone(claim(journal), until)

    assert claim(journal).request_id == request_id("next")
    assert journal.claim(until - timedelta(microseconds=1)) is None
    assert claim(journal, until).request_id == request_id("late")


def test_a_time_in_another_zone_is_the_same_time(journal: SqliteJournal) -> None:
    admit(journal, "a")
    until = now() + SOON
    zone = (until + timedelta(hours=9)).replace(tzinfo=None).isoformat() + "+09:00"
    journal.postpone(claim(journal), datetime.fromisoformat(zone))

    assert journal.next_due() == until
    assert journal.claim(until - timedelta(seconds=1)) is None
    assert journal.claim(until) is not None


def test_next_due_is_the_earliest_postponed_step(journal: SqliteJournal) -> None:
    early, late = now() + SOON, now() + 2 * SOON
    for name, until in (("a", late), ("b", early)):
        admit(journal, name)
        journal.postpone(claim(journal), until)

    assert journal.next_due() == early
    claim(journal, early)
    assert journal.next_due() == late
    claim(journal, late)
    assert journal.next_due() is None


def test_nothing_is_due_where_nothing_waits(journal: SqliteJournal) -> None:
    assert journal.next_due() is None
    admit(journal, "a")
    assert journal.next_due() is None


# One container, one request


def test_requests_for_one_container_run_one_after_another_in_order(journal: SqliteJournal) -> None:
    admit(journal, "a")
    admit(journal, "b")
    for work in [claim(journal), claim(journal)]:
        journal.record(work, [], step("c"))

    work = claim(journal)
    assert work.request_id == request_id("a")
    assert journal.claim(now()) is None
    journal.record(work, [], step("c"))
    again = claim(journal)
    assert again.request_id == request_id("a")
    journal.record(again, [], None)
    assert claim(journal).request_id == request_id("b")


def test_an_older_request_that_is_postponed_still_goes_first(journal: SqliteJournal) -> None:
    on_container(journal, "a", "c")
    admit(journal, "b")
    until = now() + SOON
    held = claim(journal)
    accepted = claim(journal)
    journal.record(accepted, [], step("c"))
    journal.postpone(held, until)

    assert journal.claim(now()) is None
    assert claim(journal, until).request_id == request_id("a")


def test_a_younger_running_request_excludes_an_older_one(journal: SqliteJournal) -> None:
    admit(journal, "older")
    admit(journal, "younger")
    older, younger = claim(journal), claim(journal)
    journal.record(younger, [], step("c"))
    younger = claim(journal)
    journal.record(older, [], step("c"))

    assert journal.claim(now()) is None
    journal.record(younger, [], step("c"))
    assert claim(journal).request_id == request_id("older")
    assert journal.claim(now()) is None


def test_requests_for_different_containers_run_side_by_side(journal: SqliteJournal) -> None:
    on_container(journal, "a", "c1")
    held = claim(journal)
    on_container(journal, "b", "c2")

    assert held.request_id == request_id("a")
    assert claim(journal).request_id == request_id("b")


@pytest.mark.parametrize("outcome", [SNAPSHOT_END, SNAPSHOT_ERROR])
def test_sweeping_after_the_outcome_does_not_hold_the_container(
    journal: SqliteJournal, outcome: str
) -> None:
    on_container(journal, "a", "c")
    journal.record(claim(journal), [event(outcome, "a")], step("c", SWEEP))
    journal.postpone(claim(journal), now() + SOON)

    on_container(journal, "b", "c")
    assert claim(journal).request_id == request_id("b")
    assert claim(journal, now() + SOON).request_id == request_id("a")


# Recording


def test_events_and_next_step_are_recorded_together(journal: SqliteJournal) -> None:
    admit(journal, "a")
    events = [event(SNAPSHOT_START, "a"), event(SNAPSHOT_END, "a")]
    journal.record(claim(journal), events, step("c"))

    assert [row.event for row in journal.pending(10)] == events
    assert claim(journal).step == step("c")


class Unprintable:
    """Nothing that can be written down."""

    def __repr__(self) -> str:
        raise LookupError("no")


def test_nothing_is_recorded_when_a_part_cannot_be(journal: SqliteJournal) -> None:
    admit(journal, "a")
    work = claim(journal)
    with pytest.raises(LookupError):
        journal.record(
            work,
            [event(SNAPSHOT_START, "a")],
            Event(UPLOAD, {"engine_container_id": Unprintable()}),
        )

    assert journal.pending(10) == []
    assert journal.recover() == 1
    assert claim(journal).step.type == COMMIT_REQUEST


def test_an_event_recorded_twice_is_published_once(journal: SqliteJournal) -> None:
    admit(journal, "a")
    for _ in range(2):
        journal.record(claim(journal), [event(SNAPSHOT_START, "a")], step("c"))
    rows = journal.pending(10)
    assert len(rows) == 1

    journal.confirm(rows[:1])
    journal.record(claim(journal), [event(SNAPSHOT_START, "a")], step("c"))
    assert journal.pending(10) == []


def test_a_request_that_is_done_is_never_claimed_again(journal: SqliteJournal) -> None:
    admit(journal, "a")
    journal.record(claim(journal), [event(SNAPSHOT_END, "a")], None)

    assert journal.recover() == 0
    assert journal.claim(now() + SOON) is None
    assert journal.live() == frozenset()


def test_live_are_the_requests_that_are_not_done(journal: SqliteJournal) -> None:
    for name in ("done", "running", "postponed", "ready"):
        admit(journal, name)
    journal.record(claim(journal), [], None)
    claim(journal)
    journal.postpone(claim(journal), now() + SOON)

    assert journal.live() == {request_id(name) for name in ("running", "postponed", "ready")}


def test_recover_gives_back_what_was_running_and_nothing_else(journal: SqliteJournal) -> None:
    for name in ("a", "b", "c"):
        admit(journal, name)
    claim(journal)
    journal.postpone(claim(journal), now() + SOON)

    assert journal.recover() == 1
    assert [claim(journal).request_id for _ in "ac"] == [request_id("a"), request_id("c")]
    assert journal.claim(now()) is None


# What is known of a snapshot


def test_the_latest_event_is_found_by_both_ids(journal: SqliteJournal) -> None:
    admit(journal, "a")
    assert journal.latest(request_id("a")) is None
    progress = event(SNAPSHOT_PROGRESS, "a")
    journal.note(progress)

    assert journal.latest(request_id("a")) == progress
    assert journal.latest(snapshot_id_for(request_id("a"))) == progress
    assert journal.latest(str(uuid.uuid4())) is None


def test_recording_makes_its_last_event_the_latest(journal: SqliteJournal) -> None:
    admit(journal, "a")
    events = [event(SNAPSHOT_START, "a"), event(SNAPSHOT_PROGRESS, "a")]
    journal.record(claim(journal), events, step("c"))
    journal.record(claim(journal), [], step("c"))
    assert journal.latest(request_id("a")) == events[-1]


def test_what_is_not_about_the_snapshot_is_not_its_latest(journal: SqliteJournal) -> None:
    queued = event(SNAPSHOT_PROGRESS, "a", "queued")
    journal.admit(request_id("a"), "print", request("a"), now(), queued)
    journal.record(claim(journal), [event(COMMIT_ACCEPTED, "a")], step("c"))
    assert journal.latest(request_id("a")) == queued
    start = event(SNAPSHOT_START, "a")
    journal.record(claim(journal), [start, event(COMMIT_ACCEPTED, "a", "again")], step("c"))
    assert journal.snapshots() == [start]


def test_a_note_after_the_end_is_dropped(journal: SqliteJournal) -> None:
    admit(journal, "a")
    end = event(SNAPSHOT_END, "a")
    journal.record(claim(journal), [end], None)
    journal.note(event(SNAPSHOT_PROGRESS, "a"))

    assert journal.latest(request_id("a")) == end


def test_a_note_on_an_unknown_request_is_of_no_consequence(journal: SqliteJournal) -> None:
    journal.note(event(SNAPSHOT_PROGRESS, "nobody"))
    assert journal.latest(request_id("nobody")) is None
    assert journal.pending(10) == []


# Dead letters


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: dict[str, Any] = {
    "lone surrogate": "\ud800",
    "surrogate as key": {"\udfff": 1},
    "NUL": "a\x00b",
    "control characters": "\x1b[2J\x7f",
    "not a number": [math.nan, math.inf],
    "huge": "x" * 3_000_000,
    "huge and quoted": '"\\' * 1_000_000,
    "many fields": {str(number): number for number in range(100_000)},
    "bytes": b"\xff\x00",
    "a set": {1},
    "an object": object(),
    "keys of several types": {1: "a", "b": 2, None: 3},
    "keys that are no keys": {(1, 2): "a", b"b": 2},
    "nested 50 deep": nested(50),
    "nested 500 deep": nested(500),
    "nested 5,000 deep": nested(5_000),
    "nested 100,000 deep": nested(100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_kept_bounded_and_loadable(journal: SqliteJournal, name: str) -> None:
    assert journal.reject("key", "reason", {"payload": HOSTILE[name]}, None)

    (letter,) = journal.dead_letters()
    assert letter.reason == "reason"
    assert isinstance(letter.message, dict)
    assert letter.message
    assert stored_bytes(journal) < BOUND


def stored_bytes(journal: SqliteJournal) -> int:
    (size,) = journal._db.execute(
        "SELECT sum(length(message) + length(reason)) FROM dead_letters"
    ).fetchone()
    return int(size)


def test_a_document_nested_to_the_limit_can_be_read_from_anywhere(journal: SqliteJournal) -> None:
    """A depth that is just writable here is not readable where the stack is deeper."""
    for depth in range(100, sys.getrecursionlimit() + 50, 10):
        journal.reject(f"key-{depth}", "deep", {"payload": nested(depth)}, None)

    def deeper(levels: int) -> int:
        return deeper(levels - 1) if levels else len(journal.dead_letters())

    assert deeper(300) == len(range(100, sys.getrecursionlimit() + 50, 10))


def test_an_ordinary_dead_letter_is_kept_as_it_was(journal: SqliteJournal) -> None:
    message = {"payload": {"a": [1, "é", None, {"b": True}]}, "publisher_id": "me"}
    journal.reject("key", "no \ud800 good", message, None)

    (letter,) = journal.dead_letters()
    assert letter.message == message
    assert "no " in letter.reason
    assert datetime.fromisoformat(letter.received_at) <= now()


def test_a_huge_reason_is_cut(journal: SqliteJournal) -> None:
    journal.reject("key", "é" * 1_000_000, {}, None)
    assert stored_bytes(journal) < BOUND
    assert journal.dead_letters()[0].reason.startswith("éé")


def test_a_message_is_rejected_and_answered_once(journal: SqliteJournal) -> None:
    answer = event(SNAPSHOT_ERROR, "a")
    assert journal.reject("key", "first", {"n": 1}, answer) is True
    assert journal.reject("key", "second", {"n": 2}, event(SNAPSHOT_ERROR, "b")) is False
    assert journal.reject("other", "third", {"n": 3}, None) is True

    assert [letter.reason for letter in journal.dead_letters()] == ["first", "third"]
    assert [row.event for row in journal.pending(10)] == [answer]


# Pruning


def test_prune_forgets_what_ended_and_keeps_what_did_not(journal: SqliteJournal) -> None:
    admit(journal, "done")
    journal.record(claim(journal), [event(SNAPSHOT_END, "done")], None)
    admit(journal, "open")
    journal.reject("key", "reason", {}, None)
    journal.confirm(journal.pending(1))

    assert journal.prune(now() - SOON) == 0
    assert journal.prune(now() + SOON) == 2
    assert journal.dead_letters() == []
    assert journal.latest(request_id("done")) is None
    assert admit(journal, "done") is Admission.NEW
    assert admit(journal, "open") is Admission.DUPLICATE
    assert journal.prune(now() + SOON) == 0


def test_prune_keeps_events_that_were_not_published(journal: SqliteJournal) -> None:
    admit(journal, "a")
    end = event(SNAPSHOT_END, "a")
    journal.record(claim(journal), [end], None)
    journal.prune(now() + SOON)

    assert [row.event for row in journal.pending(10)] == [end]


# The outbox


def test_the_outbox_is_read_in_the_order_of_recording(journal: SqliteJournal) -> None:
    admit(journal, "a")
    events = [event(SNAPSHOT_PROGRESS, "a", str(number)) for number in range(12)]
    for start in range(0, 12, 3):
        journal.record(claim(journal), events[start : start + 3], step("c"))

    assert [row.event for row in journal.pending(100)] == events
    assert [row.event for row in journal.pending(5)] == events[:5]
    ids = [row.id for row in journal.pending(100)]
    assert ids == sorted(set(ids))


def test_only_what_is_confirmed_leaves_the_outbox(journal: SqliteJournal) -> None:
    admit(journal, "a")
    events = [event(SNAPSHOT_PROGRESS, "a", str(number)) for number in range(4)]
    journal.record(claim(journal), events, step("c"))
    rows = journal.pending(10)
    journal.confirm(rows[1:2])
    journal.confirm(rows[1:2])

    assert [row.event for row in journal.pending(10)] == [events[0], *events[2:]]
    for row in rows:
        journal.confirm([row])
    assert journal.pending(10) == []


# The file


def test_everything_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(SqliteJournal(path)) as journal:
        instance = journal.instance
        admit(journal, "running")
        admit(journal, "ready")
        claim(journal)
        journal.reject("key", "reason", {"a": 1}, event(SNAPSHOT_ERROR, "a"))

    with closing(SqliteJournal(path)) as journal:
        assert journal.instance == instance
        assert journal.recover() == 1
        assert [claim(journal).request_id for _ in range(2)] == [
            request_id("running"),
            request_id("ready"),
        ]
        assert [row.event for row in journal.pending(9)] == [event(SNAPSHOT_ERROR, "a")]
        assert journal.reject("key", "reason", {"a": 1}, None) is False


def test_two_journals_have_two_instances(tmp_path: Path) -> None:
    with closing(SqliteJournal(tmp_path / "a")) as one, closing(SqliteJournal(":memory:")) as two:
        assert one.instance != two.instance


def test_a_journal_that_is_open_cannot_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(SqliteJournal(path)) as journal:
        with pytest.raises(JournalInUse, match=r"journal\.sqlite"):
            SqliteJournal(path)
        assert admit(journal, "a") is Admission.NEW
    SqliteJournal(path).close()


def make_directory(path: Path) -> None:
    path.mkdir()


def make_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


@pytest.mark.parametrize("make", [make_directory, make_garbage])
def test_a_journal_that_cannot_be_opened_is_an_oserror_and_lets_go(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "journal.sqlite"
    make(path)
    for _ in range(2):  # the second time, JournalInUse would tell of a lock that was kept
        with pytest.raises(OSError, match=r"journal\.sqlite"):
            SqliteJournal(path)


HOLDER = """
import sys
from tintype.adapters.sqlite_journal import SqliteJournal
journal = SqliteJournal(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def python(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process of its own, which is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_process_at_a_time_and_a_killed_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with python(HOLDER, path) as holder:
        assert line(holder) == "open"
        with pytest.raises(JournalInUse):
            SqliteJournal(path)
        holder.kill()
        holder.wait()
        SqliteJournal(path).close()


WRITER = """
import json, sys, uuid
from datetime import UTC, datetime, timedelta
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.events import Event

journal = SqliteJournal(sys.argv[1])
journal.recover()
now = datetime.now(UTC)
def say(*words): print(json.dumps(words), flush=True)
while True:
    ident, event_id = str(uuid.uuid4()), str(uuid.uuid4())
    journal.admit(ident, "print", Event("container.commit.request", {"n": 1}), now)
    say("admitted", ident)
    journal.reject(ident, "reason", {}, None)
    say("rejected", ident)
    work = journal.claim(now)
    say("claimed", work.request_id, work.step.attempt)
    event = Event("image.snapshot.end", {"request_id": work.request_id}, id=event_id)
    journal.record(work, [event], None)
    say("recorded", work.request_id, event_id)
    row = journal.pending(1)[0]
    journal.confirm([row])
    say("confirmed", row.event.id)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    said: dict[str, list[str]] = {
        word: [] for word in ("admitted", "rejected", "claimed", "recorded", "event", "confirmed")
    }
    for lines in (1, 2, 3, 4, 5, 23, 57, 110):
        with python(WRITER, path) as writer:
            heard = [line(writer) for _ in range(lines)]
            writer.kill()
            assert writer.stdout is not None
            heard += writer.stdout.read().splitlines()
        for word, ident, *more in map(json.loads, filter(None, heard)):
            said[word].append(ident)
            said["event"] += more if word == "recorded" else []
    assert len(said["recorded"]) > 20

    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        states = dict(database.execute("SELECT request_id, state FROM requests"))
        confirmed = dict(database.execute("SELECT event_id, confirmed_at FROM outbox"))
        rejected = {key for (key,) in database.execute("SELECT key FROM dead_letters")}
    assert states.keys() >= set(said["admitted"])
    assert {states[ident] for ident in said["recorded"]} == {"done"}
    assert confirmed.keys() >= set(said["event"])
    assert all(confirmed[ident] for ident in said["confirmed"])
    assert rejected >= set(said["rejected"])
    # Whoever is done has its event, and the other way round.
    assert len(confirmed) == list(states.values()).count("done")


# A full disk


def full(journal: SqliteJournal) -> None:
    """Let the file grow no more."""
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")


def emptied(journal: SqliteJournal) -> None:
    journal._db.execute("PRAGMA max_page_count = 1000000")


def test_a_full_disk_is_unavailable_and_nothing_is_half_done(journal: SqliteJournal) -> None:
    admit(journal, "a")
    work = claim(journal)
    full(journal)
    large = Event(SNAPSHOT_START, {"request_id": work.request_id, "x": "x" * 50_000}, WHO, "id")
    with pytest.raises(Unavailable, match="full"):
        journal.record(work, [event(SNAPSHOT_PROGRESS, "a"), large], step("c"))
    with pytest.raises(Unavailable):
        journal.admit(request_id("b"), "print", large, now())
    with pytest.raises(Unavailable):
        journal.reject("key", "reason", {"x": "x" * 50_000}, large)
    with pytest.raises(Unavailable):
        journal.note(large)

    assert journal.pending(10) == []
    assert journal.dead_letters() == []
    assert journal.live() == {work.request_id}
    assert journal.latest(work.request_id) is None

    emptied(journal)
    journal.record(work, [event(SNAPSHOT_PROGRESS, "a"), large], step("c"))
    assert [row.event.id for row in journal.pending(10)] == [
        event(SNAPSHOT_PROGRESS, "a").id,
        "id",
    ]
    assert claim(journal).step == step("c")
    assert journal._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


OUT_OF_SPACE = """
import resource, sys, uuid
from datetime import UTC, datetime
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.errors import Unavailable
from tintype.core.events import Event

def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
journal = SqliteJournal(sys.argv[1])
now = datetime.now(UTC)
step = Event("container.commit.request", {"x": "x" * 3000})
def admit():
    ident = str(uuid.uuid4())
    journal.admit(ident, "print", step, now)
    print(ident, flush=True)
limit(200_000)
try:
    while True:
        admit()
except Unavailable as error:
    print("unavailable", flush=True)
try:
    journal.claim(now)
except Unavailable:
    pass
limit(resource.RLIM_INFINITY)
for _ in range(100):
    admit()
print("end", flush=True)
"""


def test_the_system_refusing_a_write_is_unavailable_and_passes(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with python(OUT_OF_SPACE, path) as process:
        assert process.stdout is not None
        said = process.stdout.read().split()
    assert said.count("unavailable") == 1
    assert said[-1] == "end"

    with closing(SqliteJournal(path)) as journal:
        assert journal.live() == set(said) - {"unavailable", "end"}
        assert journal._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.sqlite"
    SqliteJournal(path).close()
    assert path.parent.stat().st_mode & 0o077 == 0


# Cancelling


WHY = Cancellation("somebody asked")
ANSWERED = Cancellation("the router has answered", answered=True)


def test_an_unknown_request_cannot_be_cancelled(journal: SqliteJournal) -> None:
    assert journal.cancel(request_id("nobody"), WHY) is False
    assert admit(journal, "nobody") is Admission.NEW
    assert claim(journal).cancelled is None


def test_a_request_that_is_cancelled_is_claimed_with_the_reason(journal: SqliteJournal) -> None:
    admit(journal, "a")
    admit(journal, "b")
    assert journal.cancel(request_id("a"), WHY) is True

    first = claim(journal)
    assert (first.request_id, first.cancelled) == (request_id("a"), WHY)
    assert claim(journal).cancelled is None
    journal.record(first, [], step("c"))
    assert claim(journal).cancelled == WHY, "so is every later step"


def test_a_running_request_can_be_cancelled(journal: SqliteJournal) -> None:
    admit(journal, "a")
    work = claim(journal)
    assert journal.cancel(work.request_id, WHY) is True
    assert journal.claim(now()) is None, "it runs on, only once"
    journal.record(work, [], step("c"))
    assert claim(journal).cancelled == WHY


@pytest.mark.parametrize("left", [None, step("c", SWEEP)], ids=["done", "sweeping"])
def test_a_request_with_its_outcome_cannot_be_cancelled(
    journal: SqliteJournal, left: Event | None
) -> None:
    admit(journal, "a")
    journal.record(claim(journal), [event(SNAPSHOT_END, "a")], left)
    assert journal.cancel(request_id("a"), ANSWERED) is False
    assert (journal.claim(now()) is None) == (left is None)


def test_a_second_cancellation_keeps_the_first_ones_reason(journal: SqliteJournal) -> None:
    admit(journal, "a")
    assert journal.cancel(request_id("a"), WHY)
    assert journal.cancel(request_id("a"), Cancellation("another reason"))
    assert claim(journal).cancelled == WHY


def test_that_a_cancellation_is_answered_only_grows(journal: SqliteJournal) -> None:
    admit(journal, "a")
    journal.cancel(request_id("a"), WHY)
    journal.cancel(request_id("a"), ANSWERED)
    journal.cancel(request_id("a"), WHY)
    assert claim(journal).cancelled == Cancellation(WHY.reason, answered=True)


def test_cancelling_again_what_was_cancelled_is_fine_after_its_end(journal: SqliteJournal) -> None:
    admit(journal, "a")
    journal.cancel(request_id("a"), WHY)
    journal.record(claim(journal), [event(SNAPSHOT_ERROR, "a")], step("c", SWEEP))
    assert journal.cancel(request_id("a"), WHY) is True
    journal.record(claim(journal), [], None)
    assert journal.cancel(request_id("a"), ANSWERED) is True
    assert journal.claim(now()) is None
    assert journal.live() == frozenset()


def test_a_cancelled_request_does_not_wait_for_its_time(journal: SqliteJournal) -> None:
    admit(journal, "a")
    journal.postpone(claim(journal), now() + SOON)
    assert journal.claim(now()) is None
    journal.cancel(request_id("a"), WHY)
    assert journal.next_due() is None
    assert claim(journal).cancelled == WHY


def test_a_request_that_is_cancelled_while_it_runs_is_not_postponed(
    journal: SqliteJournal,
) -> None:
    admit(journal, "a")
    work = claim(journal)
    journal.cancel(request_id("a"), WHY)
    journal.postpone(work, now() + SOON)
    assert claim(journal).cancelled == WHY


def test_the_cleaning_up_of_a_cancelled_request_is_postponed(journal: SqliteJournal) -> None:
    admit(journal, "a")
    journal.cancel(request_id("a"), WHY)
    journal.record(claim(journal), [], step("c", ABORT))
    journal.postpone(claim(journal), now() + SOON)
    assert journal.claim(now()) is None, "else it would be tried without a pause"
    assert claim(journal, now() + SOON).step.attempt == 2


def test_a_request_that_is_admitted_for_later_can_be_cancelled_at_once(
    journal: SqliteJournal,
) -> None:
    later = now() + SOON
    journal.admit(request_id("a"), "print", request("a"), later, not_before=later)
    assert journal.claim(now()) is None
    journal.cancel(request_id("a"), WHY)
    assert claim(journal).cancelled == WHY


def test_a_cancelled_request_needs_no_place(journal: SqliteJournal) -> None:
    for name in ("a", "b"):
        admit(journal, name)
    for name, work in [(name, claim(journal)) for name in ("a", "b")]:
        journal.record(work, [], step(name, RESERVE))
    assert journal.claim(now(), 1) is not None
    assert journal.claim(now(), 1) is None
    journal.cancel(request_id("b"), WHY)

    cancelled = journal.claim(now(), 1)
    assert cancelled is not None
    assert (cancelled.request_id, cancelled.cancelled) == (request_id("b"), WHY)
    journal.record(cancelled, [], step("b", ABORT))
    aborting = journal.claim(now(), 1)
    assert aborting is not None
    journal.record(aborting, [event(SNAPSHOT_ERROR, "b")], None)
    assert journal.live() == {request_id("a")}


def test_a_cancelled_request_does_not_wait_for_its_container(journal: SqliteJournal) -> None:
    on_container(journal, "a", "c")
    held = claim(journal)
    on_container(journal, "b", "c")
    assert journal.claim(now()) is None
    journal.cancel(request_id("b"), WHY)

    assert claim(journal).request_id == request_id("b")
    journal.record(held, [], step("c"))


def test_of_a_request_that_was_answered_elsewhere_the_outcome_is_kept_but_not_told(
    journal: SqliteJournal,
) -> None:
    on_container(journal, "a", "c")
    work = claim(journal)
    journal.cancel(request_id("a"), ANSWERED)
    outcome = event(SNAPSHOT_ERROR, "a")
    journal.record(work, [event(SNAPSHOT_PROGRESS, "a"), outcome], step("c", SWEEP))

    assert [row.event.type for row in journal.pending(10)] == [SNAPSHOT_PROGRESS]
    assert journal.latest(request_id("a")) == outcome
    assert journal.holding("c") == [], "the container is free for others"
    journal.note(event(SNAPSHOT_PROGRESS, "a", "late"))
    assert journal.latest(request_id("a")) == outcome


@pytest.mark.parametrize("printed", ["print", "another", ""])
def test_a_request_that_was_answered_before_it_came_is_spent(
    journal: SqliteJournal, printed: str
) -> None:
    for _ in range(2):
        assert journal.cancel(request_id("a"), ANSWERED) is False
    step_, until = request("a"), now() + SOON
    assert journal.admit(request_id("a"), printed, step_, until) is Admission.DUPLICATE
    assert journal.claim(now()) is None
    assert journal.live() == frozenset()
    assert journal.snapshots() == []
    assert journal.latest(request_id("a")) is None
    assert journal.next_due() is None
    assert journal.cancel(request_id("a"), WHY) is False
    assert admit(journal, "b") is Admission.NEW, "no other one is"


def test_that_a_request_is_spent_is_forgotten_like_its_end(journal: SqliteJournal) -> None:
    journal.cancel(request_id("a"), ANSWERED)
    assert journal.prune(now() - SOON) == 0
    assert journal.prune(now() + SOON) == 1
    assert admit(journal, "a") is Admission.NEW


@pytest.mark.parametrize("left", [None, step("c", SWEEP)], ids=["done", "sweeping"])
@pytest.mark.parametrize("outcome", [SNAPSHOT_END, SNAPSHOT_ERROR])
def test_an_outcome_that_is_not_confirmed_is_withdrawn_by_an_answer_elsewhere(
    journal: SqliteJournal, outcome: str, left: Event | None
) -> None:
    admit(journal, "a")
    admit(journal, "b")
    for name in "ab":
        events = [event(SNAPSHOT_START, name), told(outcome, name)]
        journal.record(claim(journal), events, left)
    journal.cancel(request_id("a"), WHY)
    assert len(journal.pending(10)) == 4, "that is no answer"
    assert journal.cancel(request_id("a"), ANSWERED) is False

    kept = [event(SNAPSHOT_START, "a"), event(SNAPSHOT_START, "b"), told(outcome, "b")]
    assert [row.event for row in journal.pending(10)] == kept


def told(outcome: str, name: str) -> Event:
    """Return an outcome under the id that it has."""
    return Event(
        outcome, {"request_id": request_id(name)}, WHO, derived_id(request_id(name), outcome)
    )


def test_an_outcome_that_is_confirmed_stays_told(journal: SqliteJournal) -> None:
    admit(journal, "a")
    end = told(SNAPSHOT_END, "a")
    journal.record(claim(journal), [end], None)
    journal.confirm(journal.pending(1))
    journal.cancel(request_id("a"), ANSWERED)
    assert journal.confirmed_at(end.id) is not None


def test_a_good_end_that_was_answered_elsewhere_is_undone_instead(journal: SqliteJournal) -> None:
    on_container(journal, "a", "c")
    work = claim(journal)
    journal.cancel(request_id("a"), ANSWERED)
    start, undo = event(SNAPSHOT_START, "a"), step("c", ABORT)
    journal.record(work, [start, event(SNAPSHOT_END, "a")], step("c", SWEEP), undo=undo)

    assert journal.pending(10) == []
    assert journal.latest(request_id("a")) is None
    assert journal.holding("c") == [request_id("a")], "it has no outcome yet"
    aborting = claim(journal)
    assert aborting.step == undo
    assert aborting.cancelled == ANSWERED
    error = event(SNAPSHOT_ERROR, "a")
    journal.record(aborting, [error], None)
    assert journal.pending(10) == []
    assert journal.latest(request_id("a")) == error


@pytest.mark.parametrize("cancellation", [None, WHY], ids=["", "cancelled"])
def test_a_good_end_that_nobody_has_answered_stands(
    journal: SqliteJournal, cancellation: Cancellation | None
) -> None:
    on_container(journal, "a", "c")
    work = claim(journal)
    if cancellation is not None:
        journal.cancel(request_id("a"), cancellation)
    end = event(SNAPSHOT_END, "a")
    journal.record(work, [end], None, undo=step("c", ABORT))
    assert [row.event for row in journal.pending(10)] == [end]
    assert journal.live() == frozenset()


def test_an_error_needs_no_undoing(journal: SqliteJournal) -> None:
    on_container(journal, "a", "c")
    work = claim(journal)
    journal.cancel(request_id("a"), ANSWERED)
    journal.record(work, [event(SNAPSHOT_ERROR, "a")], None, undo=step("c", ABORT))
    assert journal.live() == frozenset()


# A good outcome that was denied before anybody was told


GOOD = {SNAPSHOT_END: (ABORT, ROTATE), RESTORE_END: (RESTORE_ABORT, None)}
"""What undoes each good outcome, and what may follow it."""


@pytest.mark.parametrize("outcome", GOOD)
@pytest.mark.parametrize("cancelled", [False, True], ids=["", "cancelled before"])
def test_a_good_end_that_is_denied_before_the_bus_had_it_is_undone(
    journal: SqliteJournal, outcome: str, *, cancelled: bool
) -> None:
    admit(journal, "a")
    work = claim(journal)
    undo = step("c", GOOD[outcome][0])
    if cancelled:
        journal.cancel(request_id("a"), WHY)
    journal.record(work, [told(outcome, "a")], None, undo=undo)
    assert journal.live() == frozenset()
    journal.cancel(request_id("a"), ANSWERED)

    assert journal.pending(10) == []
    assert journal.live() == {request_id("a")}
    undoing = claim(journal)
    assert undoing.step == undo
    assert undoing.cancelled is not None
    assert undoing.cancelled.answered
    journal.record(undoing, [told(SNAPSHOT_ERROR, "a")], None)
    assert journal.pending(10) == [], "the others were told already"
    assert journal.live() == frozenset()
    journal.cancel(request_id("a"), ANSWERED)
    assert journal.claim(now()) is None, "once is enough"


@pytest.mark.parametrize("running", [False, True], ids=["waiting", "running"])
@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_what_follows_an_end_that_is_denied_gives_way_to_its_undoing(
    journal: SqliteJournal, *, running: bool, killed: bool
) -> None:
    admit(journal, "a")
    undo = step("c", ABORT)
    journal.record(claim(journal), [told(SNAPSHOT_END, "a")], step("c", ROTATE), undo=undo)
    following = claim(journal)
    if not running:
        journal.postpone(following, now() + SOON)
    journal.cancel(request_id("a"), ANSWERED)
    if running:
        assert journal.claim(now()) is None, "one step at a time"
        if killed:
            journal.recover()
            following = claim(journal)
        journal.record(following, [], None)
    undoing = claim(journal)
    assert undoing.step == undo
    journal.record(undoing, [], None)
    assert journal.live() == frozenset()


@pytest.mark.parametrize("outcome", GOOD)
def test_an_end_that_the_bus_has_is_not_undone(journal: SqliteJournal, outcome: str) -> None:
    admit(journal, "a")
    undo = step("c", GOOD[outcome][0])
    journal.record(claim(journal), [told(outcome, "a")], None, undo=undo)
    journal.confirm(journal.pending(1))
    journal.cancel(request_id("a"), ANSWERED)
    assert journal.claim(now()) is None


def test_an_end_that_is_only_cancelled_is_not_undone(journal: SqliteJournal) -> None:
    admit(journal, "a")
    end = told(RESTORE_END, "a")
    journal.record(claim(journal), [end], None, undo=step("c", RESTORE_ABORT))
    assert journal.cancel(request_id("a"), WHY) is False
    assert [row.event for row in journal.pending(10)] == [end]
    assert journal.claim(now()) is None


# Restores beside snapshots


def admit_restore(journal: SqliteJournal, name: str, latest: Event | None = None) -> None:
    asked = Event(RESTORE_REQUEST, {"request_id": request_id(name), "image": "snap"}, WHO)
    admission = journal.admit(request_id(name), "print", asked, now() + SOON, latest)
    assert admission is Admission.NEW


def test_how_a_restore_stands_is_found_by_both_ids_and_is_no_snapshot(
    journal: SqliteJournal,
) -> None:
    queued = event(RESTORE_PROGRESS, "a", "queued")
    admit_restore(journal, "a", queued)
    for ident in (request_id("a"), restore_id_for(request_id("a"))):
        assert journal.latest(ident) == queued
    assert journal.latest(snapshot_id_for(request_id("a"))) is None
    start, end = event(RESTORE_START, "a"), event(RESTORE_END, "a")
    journal.record(claim(journal), [start, event(RESTORE_ACCEPTED, "a")], step("c", LOAD))
    assert journal.latest(request_id("a")) == start
    journal.note(event(RESTORE_PROGRESS, "a"))
    journal.record(claim(journal), [end], None)
    journal.note(event(RESTORE_PROGRESS, "a", "late"))
    assert journal.latest(restore_id_for(request_id("a"))) == end
    assert journal.snapshots() == []


def test_restores_and_snapshots_share_the_places(journal: SqliteJournal) -> None:
    admit_restore(journal, "a")
    admit(journal, "b")
    first, second = claim(journal), claim(journal)
    journal.record(first, [], step(None, LOAD))
    journal.record(second, [], step("c", RESERVE))

    loading = journal.claim(now(), 1)
    assert loading is not None
    assert loading.step.type == LOAD
    assert journal.claim(now(), 1) is None
    journal.record(loading, [event(RESTORE_START, "a")], step(None, LOAD))
    again = journal.claim(now(), 1)
    assert again is not None
    assert again.step.type == LOAD, "it keeps its place"
    journal.record(again, [], step(None, CREATE))
    creating = journal.claim(now(), 1)
    assert creating is not None
    journal.record(creating, [event(RESTORE_ERROR, "a")], None)
    reserving = journal.claim(now(), 1)
    assert reserving is not None
    assert reserving.step.type == RESERVE


def test_the_undoing_of_a_cancelled_restore_is_postponed(journal: SqliteJournal) -> None:
    admit_restore(journal, "a")
    journal.cancel(request_id("a"), WHY)
    journal.record(claim(journal), [], step("c", RESTORE_ABORT))
    journal.postpone(claim(journal), now() + SOON)
    assert journal.claim(now()) is None, "else it would be tried without a pause"


def test_a_new_container_is_its_restores_until_the_outcome(journal: SqliteJournal) -> None:
    admit_restore(journal, "a")
    journal.record(claim(journal), [], step("c", "restore.start"))
    starting = claim(journal)
    assert journal.holding("c") == [request_id("a")]
    admit(journal, "b")
    journal.record(claim(journal), [], step("c"))
    assert journal.claim(now()) is None, "its snapshot waits"
    journal.record(starting, [event(RESTORE_END, "a")], None)
    assert claim(journal).request_id == request_id("b")


# Who has a container in hand


def test_holding_are_the_open_requests_of_a_container_oldest_first(journal: SqliteJournal) -> None:
    assert journal.holding("c") == []
    for name in ("a", "b", "d"):
        admit(journal, name)
    works = [claim(journal) for _ in ("c", "c", "other")]
    for work, container in zip(works, ("c", "c", "other"), strict=True):
        journal.record(work, [], step(container))
    admit(journal, "not yet looked up")

    assert journal.holding("c") == [request_id("a"), request_id("b")]
    assert journal.holding("other") == [request_id("d")]
    assert journal.holding("") == []


@pytest.mark.parametrize("left", [None, step("c", SWEEP)], ids=["done", "sweeping"])
def test_a_request_with_its_outcome_holds_nothing(
    journal: SqliteJournal, left: Event | None
) -> None:
    on_container(journal, "a", "c")
    work = claim(journal)
    assert journal.holding("c") == [request_id("a")], "while it runs, too"
    journal.record(work, [event(SNAPSHOT_END, "a")], left)
    assert journal.holding("c") == []


# How all snapshots stand


def test_snapshots_are_the_latest_events_oldest_request_first(journal: SqliteJournal) -> None:
    assert journal.snapshots() == []
    admit(journal, "silent")
    queued = event(SNAPSHOT_PROGRESS, "b", "queued")
    for name, latest in (("a", event(SNAPSHOT_PROGRESS, "a", "queued")), ("b", queued)):
        journal.admit(request_id(name), "print", request(name), now(), latest)
    silent, first = claim(journal), claim(journal)
    end = event(SNAPSHOT_END, "a")
    journal.record(first, [event(SNAPSHOT_START, "a"), end], None)

    assert silent.request_id == request_id("silent")
    assert journal.snapshots() == [end, queued]


# Admitted for later


def test_a_request_can_be_admitted_for_later(journal: SqliteJournal) -> None:
    later = now() + SOON
    assert (
        journal.admit(request_id("a"), "print", request("a"), later, not_before=later)
        is Admission.NEW
    )
    assert journal.next_due() == later
    assert journal.claim(later - timedelta(microseconds=1)) is None
    assert claim(journal, later).step.attempt == 1


def test_that_a_duplicate_is_for_later_changes_nothing(journal: SqliteJournal) -> None:
    admit(journal, "a")
    later = now() + SOON
    again = journal.admit(request_id("a"), "print", request("a"), later, not_before=later)
    assert again is Admission.DUPLICATE
    assert claim(journal).request_id == request_id("a")


# Confirming


def test_several_rows_are_confirmed_together(journal: SqliteJournal) -> None:
    admit(journal, "a")
    events = [event(SNAPSHOT_PROGRESS, "a", str(number)) for number in range(5)]
    journal.record(claim(journal), events, step("c"))
    rows = journal.pending(10)
    journal.confirm([])
    assert journal.pending(10) == rows
    before = now()
    journal.confirm(rows[:3])

    assert journal.pending(10) == rows[3:]
    for each in events[:3]:
        at = journal.confirmed_at(each.id)
        assert at is not None
        assert before <= at <= now()
    assert journal.confirmed_at(events[3].id) is None
    assert journal.confirmed_at("of no event") is None


def test_that_an_event_is_confirmed_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(SqliteJournal(path)) as journal:
        admit(journal, "a")
        journal.cancel(request_id("a"), WHY)
        journal.record(claim(journal), [event(COMMIT_ACCEPTED, "a")], step("c"))
        journal.confirm(journal.pending(1))
        at = journal.confirmed_at(event(COMMIT_ACCEPTED, "a").id)
    with closing(SqliteJournal(path)) as journal:
        assert journal.confirmed_at(event(COMMIT_ACCEPTED, "a").id) == at is not None
        assert claim(journal).cancelled == WHY


# Events about containers


TOLD = [
    (CONTAINER_CREATE, False),
    (CONTAINER_EXISTS, False),
    (CONTAINER_DELETE, False),
    (SNAPSHOT_EXISTS, False),
    (COMMIT_ACCEPTED, True),
    (COMMIT_REQUEST, True),
    (SNAPSHOT_START, True),
    (SNAPSHOT_END, True),
    (RESTORE_ACCEPTED, True),
    (RESTORE_REQUEST, True),
    (RESTORE_END, True),
]


@pytest.mark.parametrize(("event_type", "kept"), TOLD, ids=[each for each, _ in TOLD])
def test_prune_forgets_events_about_containers_early_and_no_others(
    journal: SqliteJournal, event_type: str, *, kept: bool
) -> None:
    admit(journal, "a")
    old, fresh, unconfirmed = (event(event_type, "a", key) for key in ("old", "fresh", "open"))
    journal.record(claim(journal), [old, fresh, unconfirmed], step("c"))
    journal.confirm(journal.pending(2))
    aged = (now() - timedelta(minutes=61)).isoformat(timespec="microseconds")
    journal._db.execute("UPDATE outbox SET confirmed_at = ? WHERE event_id = ?", (aged, old.id))

    assert journal.prune(now() - timedelta(days=30)) == 0
    assert (journal.confirmed_at(old.id) is not None) == kept
    assert journal.confirmed_at(fresh.id) is not None
    assert [row.event for row in journal.pending(10)] == [unconfirmed]


def test_a_journal_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE requests (request_id TEXT)")
        db.execute("PRAGMA user_version = 1")
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(OSError, match="another version"):
            SqliteJournal(path)
    assert path.read_bytes() == before
