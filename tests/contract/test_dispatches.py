"""What every Dispatches does, in memory and on each database, whichever router asks first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text

from tests.support.databases import THREADS, by_threads
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_dispatches import SqlDispatches
from tintype.adapters.sql_tables import letter_table
from tintype.adapters.sqlite_journal import DEAD_LETTER_BYTES, DEAD_LETTERS, REASON_LENGTH
from tintype.core.dispatch import Dispatch, DispatchState
from tintype.core.events import COMMIT_REQUEST, Event, Requester
from tintype.core.jobs import Fault
from tintype.core.ports import Admission

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEASE = timedelta(minutes=1)
FAULT = Fault(404, "NotFound", "no such container \ud800", retryable=False, phase="accepted")
HOSTILE = ("", "a\0b", "\ud800", "é \U0001f600", "x" * 5000, "%", "'\"\\", "a ", "A", "a")
PARKED, SENT, ACCEPTED, ENDED = DispatchState


@pytest.fixture
def dispatches(database: Database) -> SqlDispatches:
    return SqlDispatches(database)


def dispatch(request_id: str = "r", **changes: Any) -> Dispatch:
    request = Event(
        COMMIT_REQUEST,
        {"request_id": request_id, "container": "web", "tags": [1, None, {"a": "\0\ud800"}]},
        Requester("project", "user", is_admin=True),
        "event-1",
    )
    begun = Dispatch(request_id, "print", request, NOW, NOW + 60 * SECOND, NOW)
    return replace(begun, **changes)


def ids(found: Sequence[Dispatch]) -> list[str]:
    return [one.request_id for one in found]


# Admitting


def test_a_request_is_new_once_and_a_duplicate_ever_after(dispatches: SqlDispatches) -> None:
    assert dispatches.admit(dispatch()) is Admission.NEW
    assert dispatches.admit(dispatch(host="other")) is Admission.DUPLICATE
    assert dispatches.get("r") == dispatch()


def test_a_request_id_with_another_body_is_a_conflict_and_changes_nothing(
    dispatches: SqlDispatches,
) -> None:
    dispatches.admit(dispatch())
    assert dispatches.admit(dispatch(fingerprint="other")) is Admission.CONFLICT
    assert dispatches.get("r") == dispatch()


def test_one_of_many_that_admit_the_same_is_told_that_it_is_new(dispatches: SqlDispatches) -> None:
    for number in range(5):
        said = by_threads(lambda _, name=f"r-{number}": dispatches.admit(dispatch(name)))
        assert sorted(said) == [*[Admission.DUPLICATE] * (THREADS - 1), Admission.NEW]


def test_whatever_was_stored_comes_back(dispatches: SqlDispatches) -> None:
    whole = dispatch(
        state=ENDED,
        host="host-1",
        container_uuid="U-1",
        accept_by=NOW + SECOND,
        fault=replace(FAULT, image_deleted=True),
        attempts=3,
        asked=True,
    )
    dispatches.admit(whole)
    assert dispatches.get("r") == whole
    assert dispatches.get("R") is None


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_kept_and_told_from_others(dispatches: SqlDispatches, text: str) -> None:
    for other in HOSTILE:
        dispatches.admit(dispatch(other, fingerprint=other, host=other, container_uuid=other))
    assert dispatches.get(text) == dispatch(text, fingerprint=text, host=text, container_uuid=text)
    found = dispatches.of_container(text)
    assert {one.container_uuid for one in found} <= {text, text.lower(), text.upper()}
    assert text in ids(found)


def test_a_moment_in_another_zone_is_the_same(dispatches: SqlDispatches) -> None:
    zone = datetime.fromisoformat("2026-01-02T12:04:05.678901+09:00")
    dispatches.admit(dispatch(due=zone, deadline=zone, received_at=zone, accept_by=zone))
    stored = dispatches.get("r")
    assert stored == dispatch(due=NOW, deadline=NOW, accept_by=NOW)
    assert dispatches.claim(NOW - timedelta(microseconds=1), LEASE) == []
    assert ids(dispatches.claim(NOW, LEASE)) == ["r"]


# Moving on


def test_a_dispatch_is_replaced_if_it_is_as_expected(dispatches: SqlDispatches) -> None:
    dispatches.admit(dispatch())
    sent = dispatch(state=SENT, host="host-1", accept_by=NOW + SECOND, attempts=1)

    assert not dispatches.replace(sent, SENT)
    assert dispatches.get("r") == dispatch()
    assert dispatches.replace(sent, PARKED)
    assert dispatches.get("r") == sent
    assert dispatches.replace(sent, SENT), "the same again counts as stored"


def test_what_is_not_there_is_not_replaced(dispatches: SqlDispatches) -> None:
    assert not dispatches.replace(dispatch(), PARKED)
    assert dispatches.get("r") is None


def test_one_of_many_that_replace_the_same_wins(dispatches: SqlDispatches) -> None:
    for number in range(5):
        name = f"r-{number}"
        dispatches.admit(dispatch(name))
        sent = [dispatch(name, state=SENT, host=f"h-{one}") for one in range(THREADS)]
        won = by_threads(lambda one, sent=sent: dispatches.replace(sent[one], PARKED))
        assert won.count(True) == 1
        assert dispatches.get(name) == sent[won.index(True)]


@pytest.mark.parametrize("known", list(DispatchState))
@pytest.mark.parametrize("news", [ACCEPTED, ENDED])
def test_hearing_of_a_request_only_moves_it_on(
    dispatches: SqlDispatches, known: DispatchState, news: DispatchState
) -> None:
    before = dispatch(state=known, host="host-1", asked=True, attempts=2)
    dispatches.admit(before)
    dispatches.heard("r", news, NOW + SECOND)

    states = list(DispatchState)
    moves = known is not ENDED and states.index(news) >= states.index(known)
    moved = replace(before, state=news, due=NOW + SECOND, asked=news is ENDED)
    after = moved if moves else before
    assert dispatches.get("r") == after


def test_a_fault_that_is_to_be_told_stays(dispatches: SqlDispatches) -> None:
    dispatches.admit(dispatch(state=ENDED, fault=FAULT))
    dispatches.heard("r", ENDED, NOW + SECOND)
    assert dispatches.get("r") == dispatch(state=ENDED, fault=FAULT)
    assert ids(dispatches.claim(NOW, LEASE)) == ["r"]


def test_an_end_is_not_undone_by_what_is_heard_at_the_same_time(dispatches: SqlDispatches) -> None:
    names = [f"r-{number}" for number in range(20)]
    for name in names:
        dispatches.admit(dispatch(name, state=SENT))

    def hear(number: int) -> None:
        for name in names:
            dispatches.heard(name, ENDED if number == 0 else ACCEPTED, NOW)

    by_threads(hear)
    assert {one.state for one in map(dispatches.get, names) if one is not None} == {ENDED}


def test_hearing_of_an_unknown_request_is_nothing(dispatches: SqlDispatches) -> None:
    dispatches.heard("r", ACCEPTED, NOW)
    assert dispatches.get("r") is None


# Claiming


def test_due_ones_are_claimed_the_longest_due_first(dispatches: SqlDispatches) -> None:
    for name, due in (("c", 0), ("a", -2), ("b", -1), ("later", 1)):
        dispatches.admit(dispatch(name, due=NOW + due * SECOND))

    assert ids(dispatches.claim(NOW, LEASE, limit=2)) == ["a", "b"]
    assert ids(dispatches.claim(NOW, LEASE)) == ["c"]
    assert dispatches.claim(NOW, LEASE) == []


def test_what_was_claimed_is_due_again_after_its_lease(dispatches: SqlDispatches) -> None:
    dispatches.admit(dispatch())
    claimed = dispatches.claim(NOW, LEASE)
    assert claimed == [dispatch(due=NOW + LEASE)] == [dispatches.get("r")]
    assert dispatches.claim(NOW + LEASE - timedelta(microseconds=1), LEASE) == []
    assert ids(dispatches.claim(NOW + LEASE, LEASE)) == ["r"]


def test_one_whose_id_is_kept_as_a_digest_is_leased_too(dispatches: SqlDispatches) -> None:
    for name in HOSTILE:
        dispatches.admit(dispatch(name))
    assert sorted(ids(dispatches.claim(NOW, LEASE))) == sorted(HOSTILE)
    assert dispatches.claim(NOW, LEASE) == []
    assert {one.due for one in map(dispatches.get, HOSTILE) if one is not None} == {NOW + LEASE}


def test_one_that_ended_is_claimed_only_while_its_fault_is_to_be_told(
    dispatches: SqlDispatches,
) -> None:
    dispatches.admit(dispatch("open", state=ACCEPTED))
    dispatches.admit(dispatch("ended", state=ENDED))
    dispatches.admit(dispatch("fault", state=ENDED, fault=FAULT))
    dispatches.admit(dispatch("heard", state=SENT))
    dispatches.heard("heard", ENDED, NOW)

    assert sorted(ids(dispatches.claim(NOW, LEASE))) == ["fault", "open"]
    assert dispatches.replace(dispatch("fault", state=ENDED), ENDED)
    assert ids(dispatches.claim(NOW + LEASE, LEASE)) == ["open"]


@pytest.mark.parametrize(
    "values",
    [
        {"record": "{"},
        {"record": "[]"},
        {"record": "7"},
        {"record": "{}"},
        {"record": "[" * 100_000},
        {"record": '{"request": null, "fault": null, "accept_by": null}'},
        {"state": "lost"},
    ],
    ids=lambda values: str(values)[:30],
)
def test_one_that_cannot_be_read_keeps_no_others(
    database: Database, values: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    dispatches = SqlDispatches(database)
    for number in range(3):
        name = f"r-{number}"
        dispatches.admit(dispatch(name, container_uuid="u"))
    with database.transaction() as connection:
        change = ", ".join(f"{column} = :{column}" for column in values)
        connection.execute(text(f"UPDATE dispatches SET {change} WHERE request_id = 'r-1'"), values)

    assert ids(dispatches.claim(NOW, LEASE)) == ["r-0", "r-2"]
    assert "dispatch 'r-1' cannot be read" in caplog.text
    caplog.clear()
    assert dispatches.claim(NOW, LEASE) == []
    assert caplog.text == "", "it is leased as the others are"
    assert ids(dispatches.claim(NOW + LEASE, LEASE)) == ["r-0", "r-2"]
    assert ids(dispatches.of_container("u")) == ["r-0", "r-2"]


def test_routers_never_claim_the_same(dispatches: SqlDispatches) -> None:
    for number in range(60):
        dispatches.admit(dispatch(f"r-{number}"))

    def claim(_: int) -> list[str]:
        found: list[str] = []
        while batch := dispatches.claim(NOW, LEASE, limit=3):
            found += ids(batch)
        return found

    claimed = [name for part in by_threads(claim) for name in part]
    # A router that passed over what another was just claiming may have ended before it.
    claimed += ids(dispatches.claim(NOW, LEASE))
    assert sorted(claimed) == sorted(f"r-{number}" for number in range(60))


def test_the_open_dispatches_of_a_container_come_oldest_first(dispatches: SqlDispatches) -> None:
    for name, seconds in (("b", 1), ("a", 2), ("c", 0)):
        received = NOW + seconds * SECOND
        dispatches.admit(dispatch(name, container_uuid="u-1", received_at=received))
    dispatches.admit(dispatch("ended", container_uuid="u-1", state=ENDED, fault=FAULT))
    dispatches.admit(dispatch("other", container_uuid="u-2"))
    dispatches.admit(dispatch("unknown"))

    assert ids(dispatches.of_container("U-1")) == ["c", "b", "a"]
    assert dispatches.of_container("u-3") == []


# Dead letters


def test_a_message_is_kept_once_for_each_key(dispatches: SqlDispatches) -> None:
    for key, reason in (("b", "first"), ("a", "second"), ("b", "third")):
        dispatches.reject(key, reason, {"text": "\0 \ud800", "n": [1, None]})

    letters = dispatches.dead_letters()
    assert [letter.reason for letter in letters] == ["first", "second"]
    assert letters[0].message == {"text": "\0 \ud800", "n": [1, None]}


def test_one_of_many_that_reject_the_same_keeps_it(dispatches: SqlDispatches) -> None:
    by_threads(lambda number: dispatches.reject("key", f"reason {number}", {}))
    assert len(dispatches.dead_letters()) == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_any_message_is_kept(dispatches: SqlDispatches, text: str) -> None:
    dispatches.reject(text, text, {text: text})
    (letter,) = dispatches.dead_letters()
    assert letter.message == {text: text}


def nested(depth: int) -> dict[str, Any]:
    message: dict[str, Any] = {}
    for _ in range(depth):
        message = {"deeper": message}
    return message


@pytest.mark.parametrize(
    "message",
    [
        {"text": "x" * 10**6},
        nested(100_000),
        nested(900),
        {1: 2, "b": 3},
        ["no object"],
        {"k": {1}},
    ],
    ids=["long", "deep", "deeper than a stack", "keys", "list", "set"],
)
def test_no_message_takes_more_than_its_share(dispatches: SqlDispatches, message: Any) -> None:
    dispatches.reject("key", "r" * 10**5, message)
    (letter,) = dispatches.dead_letters()
    assert len(letter.reason) == REASON_LENGTH
    assert len(str(letter.message)) < 2 * DEAD_LETTER_BYTES


def test_only_the_newest_messages_are_kept(database: Database) -> None:
    dispatches = SqlDispatches(database)
    dispatches.reject("first", "", {})
    (first,) = dispatches.dead_letters()
    with database.transaction() as connection:
        letter = {"received_at": first.received_at, "reason": "", "message": "{}"}
        rows = [{**letter, "key": f"k-{number}"} for number in range(DEAD_LETTERS)]
        connection.execute(insert(letter_table), rows)
    dispatches.reject("last", "the last one", {})

    letters = dispatches.dead_letters()
    assert len(letters) == DEAD_LETTERS
    assert letters[-1].reason == "the last one"
    assert first not in letters


# Forgetting


def test_what_ended_before_is_forgotten(dispatches: SqlDispatches) -> None:
    dispatches.admit(dispatch("ended", state=ENDED))
    dispatches.admit(dispatch("fault", state=ENDED, fault=FAULT))
    dispatches.admit(dispatch("open", state=ACCEPTED))
    dispatches.reject("key", "reason", {})

    now = datetime.now(UTC)
    assert dispatches.prune(now - LEASE) == 0
    assert dispatches.prune(now + LEASE) == 2
    assert dispatches.get("ended") is None
    assert dispatches.dead_letters() == []
    assert None not in (dispatches.get("open"), dispatches.get("fault"))


def test_another_router_goes_on_with_what_one_left(new_url: str) -> None:
    with closing(Database(new_url)) as one, closing(Database(new_url)) as other:
        one.upgrade()
        SqlDispatches(one).admit(dispatch())
        SqlDispatches(one).close()
        assert ids(SqlDispatches(other).claim(NOW, LEASE)) == ["r"]
        assert SqlDispatches(one).claim(NOW, LEASE) == []
