"""What every Reservations does, in memory and on each database, whichever service asks first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from tests.support.databases import THREADS, by_threads
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_reservations import CLAIMED, SqlReservations
from tintype.adapters.sql_tables import reservation_table
from tintype.core.errors import Unavailable
from tintype.core.events import COMMIT_REQUEST, RESTORE_REQUEST, derived_id
from tintype.core.reservation import Reservation, ReservationState
from tintype.core.restore import restore_id_for
from tintype.core.snapshot import snapshot_id_for

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TICK = timedelta(microseconds=1)
LEASE = timedelta(minutes=1)
OVER = NOW + LEASE
"""When the lease of `reservation()` is."""
HOSTILE = ("", "a\0b", "\ud800", "é \U0001f600", "x" * 5000, "%", "'\"\\", "a ", "A", "a", "\t")
OPEN, KEPT, WITHDRAWN = ReservationState

OPENS = """
import sys
from datetime import datetime, timedelta
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_reservations import SqlReservations
from tintype.core.reservation import Reservation
url, holder = sys.argv[1:]
now = datetime.fromisoformat("2026-01-02T03:04:05+00:00")
reservations = SqlReservations(Database(url))
reservations.get("none")
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    key = f"key-{number}"
    wanted = Reservation(key, "r", "print", holder, now + timedelta(minutes=1))
    print(reservations.open(wanted, now).holder)
reservations.close()
"""


@pytest.fixture
def reservations(database: Database) -> SqlReservations:
    return SqlReservations(database)


def reservation(key: str = "key", **changes: Any) -> Reservation:
    made = Reservation(key, "r-1", "print", "holder", OVER, container_uuid="u-1")
    return replace(made, **changes)


def keys(found: Sequence[Reservation]) -> list[str]:
    return [one.key for one in found]


def stored(reservations: SqlReservations, *rows: Reservation) -> None:
    """Store rows in any state: as they were inserted, for none of their keys is known."""
    for row in rows:
        assert reservations.open(row, NOW) == row


# Opening


def test_what_is_opened_is_there(reservations: SqlReservations) -> None:
    assert reservations.get("key") is None
    assert reservations.open(reservation(), NOW) == reservation()
    assert reservations.get("key") == reservation()
    assert reservations.get("KEY") is None


def test_whatever_was_stored_comes_back(reservations: SqlReservations) -> None:
    whole = reservation(
        first_id="r-2",
        request_type=RESTORE_REQUEST,
        image_id="i",
        snapshot_id="s",
        dry_run=True,
        attempt=3,
        state=WITHDRAWN,
        reserves=True,
        leftovers=("i-1", "i-2"),
        lease=datetime.fromisoformat("2026-01-02T12:05:05.678901+09:00"),
    )
    stored(reservations, whole)
    found = reservations.get("key")
    assert found == replace(whole, lease=OVER)
    assert found.request_id == derived_id("r-2", "attempt", "3")


def test_a_row_of_the_version_before_is_a_commits(database: Database) -> None:
    reservations = SqlReservations(database)
    stored(reservations, reservation(image_id="i"))
    with database.transaction() as connection:
        columns = reservation_table.c
        record = connection.scalar(select(columns.record))
        for name in ("request_type", "snapshot_id", "dry_run"):
            del record[name]
        connection.execute(update(reservation_table).values(record=record))
    assert reservations.get("key") == reservation(image_id="i", request_type=COMMIT_REQUEST)


def test_a_restore_is_answered_with_its_own_ids() -> None:
    asked = reservation(request_type=RESTORE_REQUEST, snapshot_id="s")
    assert asked.answer == {
        "restore_id": restore_id_for("r-1"),
        "request_id": "r-1",
        "snapshot_id": "s",
    }


def test_a_dry_run_is_answered_without_an_image() -> None:
    answer = reservation(dry_run=True).answer
    assert (answer["uuid"], answer["image_id"]) == (None, None)
    assert answer["snapshot_id"] == snapshot_id_for("r-1")


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_kept_and_told_from_others(reservations: SqlReservations, text: str) -> None:
    rows = {
        one: Reservation(
            *(one, one, one, one, NOW),
            container_uuid=one,
            image_id=one,
            snapshot_id=one,
            leftovers=(one,),
            state=WITHDRAWN,
        )
        for one in HOSTILE
    }
    stored(reservations, *rows.values())
    assert reservations.get(text) == rows[text]
    assert reservations.replace(replace(rows[text], leftovers=()))
    found = reservations.claim(NOW, NOW, OVER)
    assert sorted(keys(found)) == sorted(one for one in HOSTILE if one != text)
    assert reservations.claim(NOW, NOW, OVER) == []


@pytest.mark.parametrize("state", [OPEN, KEPT])
def test_a_row_stays_as_it_is_for_who_comes_second(
    reservations: SqlReservations, state: ReservationState
) -> None:
    first = reservation(state=state, leftovers=("i",))
    stored(reservations, first)
    second = reservation(holder="second", container_uuid="u-2", image_id="i", lease=OVER + LEASE)
    assert reservations.open(second, OVER - TICK) == first
    assert reservations.get("key") == first


@pytest.mark.parametrize("state", list(ReservationState))
def test_another_body_takes_nothing_over(
    reservations: SqlReservations, state: ReservationState
) -> None:
    first = reservation(state=state)
    stored(reservations, first)
    other = reservation(fingerprint="other", holder="second")
    assert reservations.open(other, OVER + LEASE) == first
    assert reservations.get("key") == first


def test_what_was_kept_is_never_taken_over(reservations: SqlReservations) -> None:
    stored(reservations, reservation(state=KEPT))
    found = reservations.open(reservation(holder="second"), OVER + LEASE)
    assert found == reservation(state=KEPT)


def test_an_attempt_whose_lease_is_over_is_gone_on_with(reservations: SqlReservations) -> None:
    stored(reservations, reservation(attempt=2, leftovers=("i-1",), reserves=True))
    second = reservation(
        first_id="r-2",
        holder="second",
        container_uuid="u-2",
        image_id="i-2",
        lease=OVER + LEASE,
        attempt=7,
    )
    taken = replace(second, first_id="r-1", attempt=2, leftovers=("i-1",))
    assert reservations.open(second, OVER) == taken
    assert reservations.get("key") == taken
    assert taken.request_id == reservation(attempt=2).request_id


@pytest.mark.parametrize("lease", [NOW, OVER + LEASE])
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_one_that_was_withdrawn_is_tried_anew_under_new_ids_if_it_reserved_an_image(
    reservations: SqlReservations, lease: datetime, *, known: bool, wanted: bool
) -> None:
    first = reservation(
        state=WITHDRAWN, attempt=2, leftovers=("i-1", "i-2"), lease=lease, reserves=known
    )
    stored(reservations, first)
    second = reservation(
        first_id="r-2", holder="second", container_uuid="u-2", image_id="i-3", reserves=wanted
    )
    attempt = 3 if known else 2
    taken = replace(second, first_id="r-1", attempt=attempt, leftovers=("i-1", "i-2"))
    assert reservations.open(second, NOW) == taken
    assert reservations.get("key") == taken
    assert (taken.request_id != first.request_id) is known


def test_the_first_attempt_gives_the_id_however_often_it_is_tried(
    reservations: SqlReservations,
) -> None:
    for number in range(1, 5):
        wanted = reservation(first_id=f"r-{number}", holder=f"h-{number}", reserves=True)
        mine = reservations.open(wanted, NOW)
        assert (mine.first_id, mine.attempt) == ("r-1", number)
        assert reservations.replace(replace(mine, state=WITHDRAWN))


def test_one_of_many_that_open_the_same_has_it(reservations: SqlReservations) -> None:
    for number in range(5):
        wanted = [reservation(f"key-{number}", holder=f"h-{one}") for one in range(THREADS)]
        found = by_threads(lambda one, wanted=wanted: reservations.open(wanted[one], NOW))
        (holder,) = {one.holder for one in found}
        assert reservations.get(f"key-{number}") in wanted
        assert [one.holder for one in found] == [holder] * THREADS


@pytest.mark.parametrize(
    ("state", "reserves", "attempt"),
    [(OPEN, False, 1), (OPEN, True, 1), (WITHDRAWN, False, 1), (WITHDRAWN, True, 2)],
)
def test_one_of_many_that_take_over_the_same_has_it(
    reservations: SqlReservations, state: ReservationState, attempt: int, *, reserves: bool
) -> None:
    for number in range(5):
        key = f"key-{number}"
        stored(reservations, reservation(key, state=state, reserves=reserves))
        later = OVER + LEASE
        wanted = [
            reservation(key, first_id=f"r-{one}", holder=f"h-{one}", lease=later)
            for one in range(THREADS)
        ]
        found = by_threads(lambda one, wanted=wanted: reservations.open(wanted[one], OVER))
        assert len({one.holder for one in found}) == 1
        assert {(one.attempt, one.first_id) for one in found} == {(attempt, "r-1")}


def test_one_of_two_bodies_under_a_key_wins_and_the_other_sees_it(
    reservations: SqlReservations,
) -> None:
    for number in range(5):
        wanted = [
            reservation(f"key-{number}", holder=f"h-{one}", fingerprint=f"print-{one % 2}")
            for one in range(THREADS)
        ]
        found = by_threads(lambda one, wanted=wanted: reservations.open(wanted[one], NOW))
        assert len({(one.holder, one.fingerprint) for one in found}) == 1
        assert found[0] in wanted


def test_one_of_several_processes_that_open_the_same_has_it(new_url: str) -> None:
    with closing(Database(new_url)) as database:
        database.upgrade()
    holders = [f"h-{number}" for number in range(4)]
    services = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS, new_url, holder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for holder in holders
    ]
    for service in services:
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
    told = [service.stdin for service in services if service.stdin is not None]
    for pipe in told:
        pipe.write("go\n")
        pipe.flush()
    answers = [service.communicate()[0].split() for service in services]
    assert [service.returncode for service in services] == [0] * len(services)
    assert len(answers[0]) == 20
    assert answers == [answers[0]] * len(services)
    assert set(answers[0]) <= set(holders)


# Replacing


@pytest.mark.parametrize("state", [OPEN, WITHDRAWN])
def test_its_holder_replaces_one_that_is_open(
    reservations: SqlReservations, state: ReservationState
) -> None:
    stored(reservations, reservation())
    changed = reservation(state=state, leftovers=("i",), lease=OVER + LEASE, reserves=True)
    assert reservations.replace(changed)
    assert reservations.get("key") == changed


@pytest.mark.parametrize("holder", ["holder", "second"])
def test_whoever_has_published_an_attempt_keeps_it_as_it_was_stored(
    reservations: SqlReservations, holder: str
) -> None:
    known = reservation(attempt=2, leftovers=("i",), reserves=True)
    stored(reservations, known)
    published = reservation(
        attempt=2, holder=holder, state=KEPT, container_uuid="u-2", lease=OVER + LEASE
    )
    assert reservations.replace(published)
    assert reservations.get("key") == replace(known, state=KEPT, leftovers=())
    assert not reservations.replace(published), "once is enough"
    assert not reservations.replace(replace(known, state=WITHDRAWN, leftovers=("i",)))
    assert reservations.claim(OVER, OVER, OVER + LEASE) == []


@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize("holder", ["holder", "second"])
def test_who_has_published_another_attempt_keeps_nothing(
    reservations: SqlReservations, holder: str, attempt: int
) -> None:
    known = reservation(attempt=2, leftovers=("i",), reserves=True, holder="third")
    stored(reservations, known)
    assert not reservations.replace(reservation(holder=holder, attempt=attempt, state=KEPT))
    assert reservations.get("key") == known


@pytest.mark.parametrize("state", [OPEN, WITHDRAWN])
def test_others_replace_nothing_that_is_open(
    reservations: SqlReservations, state: ReservationState
) -> None:
    stored(reservations, reservation())
    assert not reservations.replace(reservation(holder="second", state=state, leftovers=("i",)))
    assert reservations.get("key") == reservation()


def test_who_was_taken_over_from_replaces_nothing(reservations: SqlReservations) -> None:
    stored(reservations, reservation())
    taken = reservations.open(reservation(holder="second", lease=OVER + LEASE), OVER)
    assert not reservations.replace(reservation(state=WITHDRAWN, leftovers=("i",)))
    assert reservations.get("key") == taken
    assert reservations.replace(replace(taken, state=KEPT))


def test_who_was_taken_over_from_keeps_what_it_has_published(
    reservations: SqlReservations,
) -> None:
    stored(reservations, reservation(reserves=True))
    taken = reservations.open(reservation(holder="second", lease=OVER + LEASE, reserves=True), OVER)
    assert reservations.replace(reservation(state=KEPT, reserves=True))
    assert not reservations.replace(replace(taken, state=WITHDRAWN, leftovers=("i",)))
    assert reservations.get("key") == replace(taken, state=KEPT)


def test_an_attempt_that_was_withdrawn_is_not_kept_with_the_next(
    reservations: SqlReservations,
) -> None:
    """Its image is gone: that it was published all the same helps nobody."""
    first = reservation(reserves=True)
    stored(reservations, first)
    assert reservations.replace(replace(first, state=WITHDRAWN))
    second = reservations.open(reservation(holder="second", reserves=True), NOW)
    assert not reservations.replace(replace(first, state=KEPT))
    assert reservations.get("key") == second


def test_one_without_an_image_is_kept_by_whoever_has_published_it_before_it_was_withdrawn(
    reservations: SqlReservations,
) -> None:
    """It is the same request: what it was published under is what is gone on with."""
    first = reservation()
    stored(reservations, first)
    assert reservations.replace(replace(first, state=WITHDRAWN))
    second = reservations.open(reservation(holder="second"), NOW)
    assert reservations.replace(replace(first, state=KEPT))
    assert reservations.get("key") == replace(second, state=KEPT)


@pytest.mark.parametrize("state", list(ReservationState))
def test_what_was_kept_is_never_replaced(
    reservations: SqlReservations, state: ReservationState
) -> None:
    stored(reservations, reservation(state=KEPT))
    assert not reservations.replace(reservation(state=state, leftovers=("i",)))
    assert reservations.get("key") == reservation(state=KEPT)


def test_anybody_clears_the_leftovers_of_one_that_was_withdrawn(
    reservations: SqlReservations,
) -> None:
    known = reservation(state=WITHDRAWN, leftovers=("i-1", "i-2"), attempt=2)
    stored(reservations, known)
    cleared = replace(known, holder="other", container_uuid="u-2", lease=NOW, leftovers=("i-2",))
    assert reservations.replace(cleared)
    assert reservations.get("key") == replace(known, leftovers=("i-2",)), "nothing else changes"


@pytest.mark.parametrize("state", [OPEN, KEPT])
def test_one_that_was_withdrawn_stays_so_whatever_its_holder_thinks(
    reservations: SqlReservations, state: ReservationState
) -> None:
    known = reservation(state=WITHDRAWN, leftovers=("i",))
    stored(reservations, known)
    assert not reservations.replace(reservation(state=state))
    assert reservations.get("key") == known


def test_leftovers_of_a_later_attempt_are_not_cleared_with_those_of_an_earlier(
    reservations: SqlReservations,
) -> None:
    earlier = reservation(state=WITHDRAWN, leftovers=("i-1",), reserves=True)
    stored(reservations, earlier)
    second = reservations.open(reservation(holder="second"), NOW)
    assert not reservations.replace(replace(earlier, leftovers=())), "it is open again"
    later = replace(second, state=WITHDRAWN, leftovers=("i-1", "i-2"))
    assert reservations.replace(later)
    assert not reservations.replace(replace(earlier, leftovers=()))
    assert reservations.get("key") == later


def test_what_is_not_there_is_not_replaced(reservations: SqlReservations) -> None:
    assert not reservations.replace(reservation())
    assert reservations.get("key") is None


def test_one_of_many_that_settle_the_same_wins(reservations: SqlReservations) -> None:
    """Its holder has come back late, and routers have claimed it: all know the same holder."""
    for number in range(5):
        key = f"key-{number}"
        stored(reservations, reservation(key))
        states = [KEPT if one % 2 else WITHDRAWN for one in range(THREADS)]
        changed = [
            reservation(key, state=state, container_uuid=f"u-{one}")
            for one, state in enumerate(states)
        ]
        won = by_threads(lambda one, changed=changed: reservations.replace(changed[one]))
        after = reservations.get(key)
        assert after is not None
        winners = {states[one] for one in range(THREADS) if won[one]}
        assert winners == {after.state}
        if after.state is KEPT:
            assert after == reservation(key, state=KEPT)
            assert won.count(True) == 1
        else:
            assert won[changed.index(after)]


# Claiming


def test_what_is_left_to_do_is_claimed_the_longest_left_first(
    reservations: SqlReservations,
) -> None:
    left = {"state": WITHDRAWN, "leftovers": ("i",)}
    stored(
        reservations,
        reservation("b", lease=NOW - 9 * SECOND),
        reservation("a", lease=NOW - 8 * SECOND),
        reservation("late", lease=NOW - 8 * SECOND + TICK),
        reservation("kept", lease=NOW - 9 * SECOND, state=KEPT),
        reservation("c", lease=NOW, **left),
        reservation("d", lease=NOW - SECOND, **left),
        reservation("e", lease=NOW + TICK, **left),
        reservation("clean", lease=NOW - 9 * SECOND, state=WITHDRAWN),
    )
    before = NOW - 8 * SECOND
    claimed = reservations.claim(before, NOW, OVER)
    assert keys(claimed) == ["b", "a", "d", "c"]
    assert claimed == [reservations.get(key) for key in keys(claimed)]
    assert {one.lease for one in claimed} == {OVER}
    assert reservations.claim(before, NOW, OVER) == []
    assert keys(reservations.claim(OVER, OVER, OVER + LEASE))[-4:] == ["a", "b", "c", "d"]


def test_one_that_was_claimed_is_settled_by_either(reservations: SqlReservations) -> None:
    stored(reservations, reservation("a"), reservation("b"))
    first, second = reservations.claim(OVER, OVER, OVER + LEASE)
    assert reservations.replace(reservation("a", state=KEPT)), "its holder has come back"
    assert not reservations.replace(replace(first, state=WITHDRAWN))
    assert reservations.replace(replace(second, state=WITHDRAWN))
    assert not reservations.replace(reservation("b", state=KEPT))


def test_one_that_was_claimed_is_not_taken_over(reservations: SqlReservations) -> None:
    stored(reservations, reservation())
    (claimed,) = reservations.claim(OVER, OVER, OVER + LEASE)
    again = reservation(holder="second", lease=OVER + 2 * LEASE)
    assert reservations.open(again, OVER + LEASE - TICK) == claimed
    assert reservations.open(again, OVER + LEASE) == again


def test_a_claim_is_bounded(reservations: SqlReservations) -> None:
    many = [reservation(f"key-{number:03}") for number in range(CLAIMED + 3)]
    stored(reservations, *many)
    assert keys(reservations.claim(OVER, OVER, OVER + LEASE)) == keys(many[:CLAIMED])
    assert keys(reservations.claim(OVER, OVER, OVER + LEASE)) == keys(many[CLAIMED:])


def test_routers_never_claim_the_same(reservations: SqlReservations) -> None:
    for number in range(2 * CLAIMED + 5):
        reservations.open(reservation(f"key-{number:03}"), NOW)

    def claim(_: int) -> list[str]:
        found: list[str] = []
        while batch := reservations.claim(OVER, OVER, OVER + LEASE):
            found += keys(batch)
        return found

    claimed = [name for part in by_threads(claim) for name in part]
    # A router that passed over what another was just claiming may have ended before it.
    while batch := reservations.claim(OVER, OVER, OVER + LEASE):
        claimed += keys(batch)
    assert sorted(claimed) == [f"key-{number:03}" for number in range(2 * CLAIMED + 5)]


BROKEN = ["{", "[]", "7", "{}", "[" * 100_000, '{"key": "b", "leftovers": null}']


@pytest.mark.parametrize("record", BROKEN, ids=lambda record: str(record)[:30])
def test_one_that_cannot_be_read_keeps_no_others(
    database: Database, record: str, caplog: pytest.LogCaptureFixture
) -> None:
    reservations = SqlReservations(database)
    stored(reservations, *(reservation(key) for key in "abc"))
    with database.transaction() as connection:
        change = text("UPDATE reservations SET record = :record WHERE \"key\" = 'b'")
        if database.engine.dialect.name == "mysql":
            change = text("UPDATE reservations SET record = :record WHERE `key` = 'b'")
        connection.execute(change, {"record": record})

    assert keys(reservations.claim(OVER, OVER, OVER + LEASE)) == ["a", "c"]
    assert "reservation 'b' cannot be read" in caplog.text
    caplog.clear()
    assert reservations.claim(OVER, OVER, OVER + LEASE) == []
    assert caplog.text == "", "it is leased as the others are"
    assert keys(reservations.claim(OVER + LEASE, OVER + LEASE, OVER + 2 * LEASE)) == ["a", "c"]
    assert reservations.prune(datetime.now(UTC) + LEASE) == 0


def test_one_that_cannot_be_read_is_unavailable(database: Database) -> None:
    reservations = SqlReservations(database)
    stored(reservations, reservation())
    with database.transaction() as connection:
        connection.execute(text("UPDATE reservations SET state = 'later'"))
    for ask in (
        lambda: reservations.get("key"),
        lambda: reservations.open(reservation(holder="second"), OVER),
        lambda: reservations.replace(reservation(state=KEPT)),
    ):
        with pytest.raises(Unavailable, match="read"):
            ask()
    assert reservations.claim(OVER, OVER, OVER + LEASE) == []


# Forgetting


def test_what_has_nothing_left_to_do_is_forgotten(reservations: SqlReservations) -> None:
    stored(
        reservations,
        reservation("open"),
        reservation("kept", state=KEPT),
        reservation("clean", state=WITHDRAWN),
        reservation("left", state=WITHDRAWN, leftovers=("i",)),
    )
    now = datetime.now(UTC)
    assert reservations.prune(now - LEASE) == 0
    assert reservations.prune(now + LEASE) == 2
    assert None not in (reservations.get("open"), reservations.get("left"))
    assert (reservations.get("kept"), reservations.get("clean")) == (None, None)
    assert reservations.replace(reservation("left", state=WITHDRAWN))
    assert reservations.prune(now + LEASE) == 1


def test_another_service_goes_on_with_what_one_left(new_url: str) -> None:
    with closing(Database(new_url)) as one, closing(Database(new_url)) as other:
        one.upgrade()
        SqlReservations(one).open(reservation(), NOW)
        SqlReservations(one).close()
        assert keys(SqlReservations(other).claim(OVER, OVER, OVER + LEASE)) == ["key"]
        assert SqlReservations(one).claim(OVER, OVER, OVER + LEASE) == []


def test_a_database_without_tables_is_unavailable(new_url: str) -> None:
    with closing(Database(new_url)) as database, pytest.raises(Unavailable, match="database"):
        SqlReservations(database).open(reservation(), NOW)
