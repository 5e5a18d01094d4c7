"""The door: every message is taken in, answered, or kept; none is lost and none breaks it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twins import ADMIN, ALICE, HOST, MALLORY, Bench, checked
from tintype.adapters.clock import ManualClock
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.errors import Invalid, RequestConflict, Unavailable
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    CONTAINER_DELETE_START,
    EXISTS_REQUEST,
    RESTORE_CANCEL,
    RESTORE_ERROR,
    RESTORE_REQUEST,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_START,
    Event,
    Message,
    Requester,
    is_uuid,
)
from tintype.core.intake import (
    CANCELLED,
    LONGEST,
    VOID_PATIENCE,
    deadline_of,
    request_id_of,
)
from tintype.core.ports import Admission, Cancellation
from tintype.core.restore import restore_id_for
from tintype.core.snapshot import snapshot_id_for
from tintype.schemas import validate

ROUTER = replace(ALICE, is_admin=True)
"""In whose name a router tells that it has answered a request of Alice."""

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
OTHER = "6ba7b811-9dad-11d1-80b4-00c04fd430c8"


@pytest.fixture
def bench() -> Bench:
    return Bench()


def message(payload: Any, **fields: Any) -> Message:
    about: dict[str, Any] = {
        "event_type": COMMIT_REQUEST,
        "context": ALICE,
        "message_id": OTHER,
        "publisher_id": "test",
        "timestamp": "2026-01-01 00:00:00",
    }
    return Message(payload=payload, **{**about, **fields})


def take(bench: Bench, taken: Message) -> str:
    """Take a request in and return the id under which the journal has it."""
    before = bench.journal.live()
    bench.intake.take(taken)
    (request_id,) = bench.journal.live() - before or {request_id_of(taken)}
    assert request_id in bench.journal.live()
    return request_id


def request(**fields: Any) -> dict[str, Any]:
    return {"container": "web", "image_name": "snap", **fields}


# Taken in


def test_a_request_is_journaled_and_workers_are_woken(bench: Bench) -> None:
    woken: list[int] = []
    intake = replace(bench.intake, wake=lambda: woken.append(1))
    intake.on_message(message(request(request_id=UUID)))

    work = bench.journal.claim(bench.clock.now())
    assert work is not None
    assert work.step == Event(COMMIT_REQUEST, request(request_id=UUID), ALICE, UUID)
    assert work.deadline == bench.clock.now() + timedelta(days=1)
    assert woken == [1]
    assert bench.events() == []
    assert bench.journal.dead_letters() == []


def test_a_request_can_be_looked_up_as_soon_as_it_is_taken(bench: Bench) -> None:
    assert take(bench, message(request(request_id=UUID))) == UUID
    for ident in (UUID, snapshot_id_for(UUID)):
        event = bench.journal.latest(ident)
        assert event is not None
        assert checked(event).payload["status"] == "queued"


def test_a_deadline_is_the_requests_own(bench: Bench) -> None:
    bench.clock = ManualClock(datetime(2029, 6, 1, tzinfo=UTC))
    bench.restart(bench.journal)
    bench.intake.on_message(message(request(deadline="2030-01-01T02:00:00+02:00")))
    work = bench.journal.claim(bench.clock.now())
    assert work is not None
    assert work.deadline == datetime.fromisoformat("2030-01-01T00:00:00+00:00")


@pytest.mark.parametrize("deadline", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00", None])
def test_a_deadline_leaves_room_after_it(deadline: str | None) -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    fields = {} if deadline is None else {"deadline": deadline}
    asked = Event(COMMIT_REQUEST, request(**fields))
    assert deadline_of(asked, now, timedelta(days=10_000)) == now + LONGEST
    near = Event(COMMIT_REQUEST, request(deadline=(now + LONGEST).isoformat()))
    assert deadline_of(near, now, timedelta(days=1)) == now + LONGEST


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_a_deadline_at_the_end_of_time_is_taken_or_answered(bench: Bench, year: str) -> None:
    for zone in ("Z", "+14:00", "-14:00", "+23:59", "-23:59"):
        for date in ("-01-01T00:00:00", "-12-31T23:59:59"):
            ident = str(uuid.uuid4())
            bench.intake.on_message(
                message(request(request_id=ident, deadline=f"{year}{date}{zone}"))
            )
            assert ident in bench.journal.live() or bench.events(ident)


# Request ids


def test_the_request_id_is_the_requests_own_in_lower_case(bench: Bench) -> None:
    assert take(bench, message(request(request_id=UUID.upper()))) == UUID
    assert take(bench, message(request(request_id=UUID))) == UUID


def test_without_one_it_is_the_message_id(bench: Bench) -> None:
    assert take(bench, message(request())) == OTHER
    assert take(bench, message(request(), message_id=UUID.upper())) == UUID


@pytest.mark.parametrize(
    "message_id", [None, 5, "", "abc", UUID.replace("-", ""), [UUID]], ids=repr
)
def test_without_either_it_is_made_of_the_message(bench: Bench, message_id: Any) -> None:
    one = take(bench, message(request(), message_id=message_id))
    assert is_uuid(one)
    assert take(bench, message(request(), message_id=message_id)) == one
    later = message(request(), message_id=message_id, timestamp="2026-01-01 00:00:01")
    assert take(bench, later) != one
    assert len(bench.journal.live()) == 2


def test_a_repeated_request_changes_nothing(bench: Bench) -> None:
    for _ in range(3):
        bench.intake.on_message(message(request(request_id=UUID)))
    bench.container()
    bench.settle()
    bench.intake.on_message(message(request(request_id=UUID), message_id=str(uuid.uuid4())))

    assert bench.journal.live() == frozenset()
    bench.outcome(UUID)
    assert bench.journal.dead_letters() == []


@pytest.mark.parametrize(
    ("payload", "who"),
    [(request(request_id=UUID, tag="v2"), ALICE), (request(request_id=UUID), MALLORY)],
    ids=["another body", "another project"],
)
def test_a_request_id_used_again_for_another_is_a_conflict(
    bench: Bench, payload: dict[str, Any], who: Any
) -> None:
    bench.intake.on_message(message(request(request_id=UUID)))
    with pytest.raises(RequestConflict, match=UUID):
        bench.intake.take(message(payload, context=who))
    bench.intake.on_message(message(payload, context=who))

    (answer,) = bench.events()
    assert answer.payload["fault"]["code"] == 409
    assert answer.payload["fault"]["exception"] == "RequestConflict"
    assert answer.payload["snapshot_id"] != snapshot_id_for(UUID)
    assert answer.requester == who
    assert bench.journal.live() == {UUID}

    bench.container()
    bench.settle()
    assert [e.type for e in bench.events() if e.payload["snapshot_id"] == snapshot_id_for(UUID)]


# Answered


def test_an_invalid_request_is_answered_and_kept(bench: Bench) -> None:
    woken: list[int] = []
    intake = replace(bench.intake, wake=lambda: woken.append(1))
    payload = {"container": "web", "image_name": "Snap", "request_id": UUID, "tag": 5}
    intake.on_message(message(payload))

    (answer,) = bench.events()
    assert answer.type == SNAPSHOT_ERROR
    assert answer.requester == ALICE
    assert answer.payload["request_id"] == UUID
    assert answer.payload["container_name"] == "web"
    assert answer.payload["image_name"] == "Snap"
    assert answer.payload["host"] == HOST
    fault = answer.payload["fault"]
    assert (fault["code"], fault["exception"], fault["phase"]) == (400, "Invalid", "accepted")
    assert "/image_name: expected" in fault["message"]
    assert "/tag: expected string, got 5" in fault["message"]
    (letter,) = bench.journal.dead_letters()
    assert letter.message["payload"] == payload
    assert letter.message["publisher_id"] == "test"
    assert "/image_name" in letter.reason
    assert woken == [1]
    assert bench.journal.live() == frozenset()


def test_the_same_bad_message_is_answered_once(bench: Bench) -> None:
    for _ in range(3):
        bench.intake.on_message(message({"bad": 1}))
    assert len(bench.events()) == len(bench.journal.dead_letters()) == 1


def test_two_bad_messages_are_both_answered(bench: Bench) -> None:
    bench.intake.on_message(message({"request_id": UUID}))
    bench.intake.on_message(message({"request_id": UUID}, message_id=UUID))
    one, two = bench.events()
    assert one.id != two.id
    assert len(bench.journal.dead_letters()) == 2


@pytest.mark.parametrize(
    "event_type",
    [
        "container.create.end",
        "container.commit.request ",
        "",
        None,
        5,
        ["a"],
        {"a": 1},
        "\ud800",
        True,
        "x" * 100_000,
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_message_of_another_type_is_kept_without_an_answer(bench: Bench, event_type: Any) -> None:
    bench.intake.on_message(message(request(), event_type=event_type))
    assert bench.events() == []
    (letter,) = bench.journal.dead_letters()
    assert letter.reason.startswith("event_type: expected")
    with pytest.raises(Invalid):
        bench.intake.take(message(request(), event_type=event_type))


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: dict[str, Any] = {
    "nothing": None,
    "a number": 5,
    "a list": [1],
    "text": "x",
    "an empty object": {},
    "a lone surrogate": request(image_name="\ud800", container="\udfff"),
    "NUL": request(tag="\x00"),
    "a lone surrogate as key": request(**{"\ud800": 1}),
    "not a number": request(tag=float("nan")),
    "deep": request(tag=nested(300)),
    "deep and repeated": request(stores=[nested(400), nested(400)]),
    "deeper than the stack": request(tag=nested(20_000)),
    "deep as a document": nested(20_000),
    "huge": request(message="x" * 1_000_000),
    "many wrong fields": {str(number): 1 for number in range(50_000)},
    "many wrong labels": request(labels={str(number): 1 for number in range(50_000)}),
    "many wrong stores": request(stores=[{"a": number} for number in range(50_000)]),
    "request id of the wrong type": request(request_id=[UUID]),
    "request id that is none": request(request_id="x" * 36),
    "deadline out of range": request(deadline="0001-01-01T00:00:00+14:00"),
    "bytes": b"\xff",
    "keys that are no text": {1: 2, "a": 3},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads_are_answered_and_kept(bench: Bench, name: str) -> None:
    bench.intake.on_message(message(HOSTILE[name]))

    (answer,) = bench.events()
    assert answer.payload["fault"]["code"] == 400
    assert len(str(answer.payload)) < 10_000
    (letter,) = bench.journal.dead_letters()
    assert len(letter.reason) < 10_000
    assert bench.journal.live() == frozenset()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_do_no_harm(bench: Bench, name: str) -> None:
    value = HOSTILE[name]
    odd = message(
        {"container": 5}, message_id=value, publisher_id=value, timestamp=value, context=value
    )
    bench.intake.on_message(odd)
    bench.intake.on_message(replace(odd, payload=request()))

    assert len(bench.events()) == len(bench.journal.dead_letters()) == 1
    assert len(bench.journal.live()) == 1


def test_garbage_is_kept_once_and_without_an_answer(bench: Bench) -> None:
    for _ in range(2):
        bench.intake.on_garbage("not JSON", {"body": "\ud800\x00", "n": 1})
    bench.intake.on_garbage("not JSON", {"body": "other"})
    assert [letter.reason for letter in bench.journal.dead_letters()] == ["not JSON"] * 2
    assert bench.events() == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["container", "image_name", "tag", "request_id", "stores", "deadline", "x"]
)
PAYLOADS = JSON | st.dictionaries(FIELDS, JSON | st.sampled_from(["web", "snap", UUID]))


@settings(max_examples=60, deadline=None)
@given(PAYLOADS, JSON, JSON, st.just(COMMIT_REQUEST) | JSON)
def test_every_message_is_admitted_answered_or_kept(
    payload: Any, message_id: Any, timestamp: Any, event_type: Any
) -> None:
    bench = Bench()
    bench.intake.on_message(
        message(payload, message_id=message_id, timestamp=timestamp, event_type=event_type)
    )
    request_valid = event_type == COMMIT_REQUEST and not validate(COMMIT_REQUEST, payload)
    assert len(bench.journal.live()) == request_valid
    assert len(bench.journal.dead_letters()) == (not request_valid)
    assert len(bench.events()) == (event_type == COMMIT_REQUEST and not request_valid)
    bench.journal.close()


# Cancellations


def cancelled(bench: Bench) -> Cancellation | None:
    """Claim the next step and return why it is to stop."""
    work = bench.journal.claim(bench.clock.now())
    assert work is not None
    return work.cancelled


@pytest.mark.parametrize("who", [ALICE, ADMIN], ids=["owner", "admin"])
def test_the_owner_and_admins_may_cancel_a_request(bench: Bench, who: Requester) -> None:
    bench.container()
    request_id = bench.ask()
    bench.cancel(request_id, who=who, reason="changed my mind")
    bench.settle()

    outcome = bench.outcome(request_id)
    assert outcome.type == SNAPSHOT_ERROR
    fault = outcome.payload["fault"]
    assert (fault["code"], fault["exception"]) == (499, "Cancelled")
    assert fault["message"] == "changed my mind"
    assert fault["image_deleted"] is True
    assert bench.journal.dead_letters() == []


def test_a_request_of_nobody_in_particular_may_be_cancelled_by_anybody(bench: Bench) -> None:
    request_id = bench.ask(who=Requester())
    bench.cancel(request_id, who=MALLORY)
    assert cancelled(bench) == Cancellation(CANCELLED)


def test_a_request_id_in_capitals_is_the_same(bench: Bench) -> None:
    bench.ask(request_id=UUID)
    bench.cancel(UUID.upper())
    assert cancelled(bench) == Cancellation(CANCELLED)


def answer_to(bench: Bench, request_id: str) -> dict[str, Any]:
    """Return the fault by which a message about a request was answered, for it was not taken."""
    answers = [e for e in bench.events() if e.payload["snapshot_id"] != snapshot_id_for(request_id)]
    (answer,) = answers
    assert answer.type == SNAPSHOT_ERROR
    assert answer.payload["request_id"] == request_id
    assert len(bench.journal.dead_letters()) == 1
    fault: dict[str, Any] = answer.payload["fault"]
    return fault


def test_a_stranger_may_cancel_nothing(bench: Bench) -> None:
    request_id = bench.ask()
    bench.cancel(request_id, who=MALLORY, answered=True)
    assert answer_to(bench, request_id)["code"] == 403
    assert cancelled(bench) is None


def test_an_unknown_request_is_not_found(bench: Bench) -> None:
    bench.cancel(UUID)
    assert answer_to(bench, UUID)["code"] == 404


def test_a_snapshot_id_is_no_request_id(bench: Bench) -> None:
    bench.ask(request_id=UUID)
    bench.cancel(snapshot_id_for(UUID))
    assert answer_to(bench, snapshot_id_for(UUID))["code"] == 404
    assert cancelled(bench) is None


def test_a_request_that_has_ended_cannot_be_cancelled(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    bench.settle()
    bench.cancel(request_id)
    assert answer_to(bench, request_id)["code"] == 409
    (outcome,) = [
        e for e in bench.events() if e.payload["snapshot_id"] == snapshot_id_for(request_id)
    ][1:]
    assert outcome.type == SNAPSHOT_END


def test_cancelling_twice_changes_nothing(bench: Bench) -> None:
    bench.container()
    request_id = bench.ask()
    bench.cancel(request_id, reason="first")
    bench.cancel(request_id, reason="second")
    bench.settle()
    bench.cancel(request_id, reason="third")

    assert bench.outcome(request_id).payload["fault"]["message"] == "first"
    assert bench.journal.dead_letters() == []


def test_that_it_was_answered_is_believed_of_admins_only(bench: Bench) -> None:
    bench.ask()
    bench.ask()
    for who, request_id in zip((ALICE, ROUTER), sorted_live(bench), strict=True):
        bench.cancel(request_id, who=who, answered=True, reason="why")
    first, second = (bench.journal.claim(bench.clock.now()) for _ in "ab")
    assert first is not None
    assert second is not None
    told = {work.request_id: work.cancelled for work in (first, second)}
    answered = [told[request_id] for request_id in sorted_live(bench)]
    assert answered == [Cancellation("why", answered=False), Cancellation("why", answered=True)]


def sorted_live(bench: Bench) -> list[str]:
    return sorted(bench.journal.live())


def test_a_router_that_has_answered_is_not_answered_itself(bench: Bench) -> None:
    """It withdraws what it has answered, whether or not it came here, and whatever became of it."""
    bench.cancel(UUID, who=ROUTER, answered=True)
    bench.container()
    request_id = bench.ask()
    bench.settle()
    told = bench.events()
    bench.journal.confirm(bench.journal.pending(10))
    bench.cancel(request_id, who=ROUTER, answered=True)
    assert told
    assert bench.events() == []
    assert bench.journal.dead_letters() == []


@pytest.mark.parametrize("fields", [{}, {"tag": "v2"}], ids=["the same", "another body"])
def test_a_request_that_comes_after_its_routers_answer_is_not_worked_on(
    bench: Bench, fields: dict[str, Any]
) -> None:
    bench.container()
    bench.cancel(UUID, who=ROUTER, answered=True)
    bench.ask(request_id=UUID, **fields)
    bench.settle()
    assert bench.events() == []
    assert bench.images() == {}
    assert bench.journal.dead_letters() == []


def test_a_cancellation_that_is_not_answered_spends_no_id(bench: Bench) -> None:
    bench.container()
    bench.cancel(UUID, who=replace(ROUTER, is_admin=False), answered=True)
    assert answer_to(bench, UUID)["code"] == 404
    bench.intake.take(message(request(request_id=UUID)))
    assert bench.journal.live() == {UUID}


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("who", [ADMIN, Requester(is_admin=True)], ids=["another", "none"])
def test_a_routers_answer_counts_for_a_request_of_its_own_project_only(
    bench: Bench, who: Requester, *, ended: bool
) -> None:
    """Its id may be another's: whoever has sent it must not be able to stop that."""
    bench.container()
    request_id = bench.ask()
    if ended:
        bench.settle()
    bench.cancel(request_id, who=who, answered=True)
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END
    assert bench.journal.dead_letters() == []


def test_a_router_names_no_project_for_a_request_that_got_ours(bench: Bench) -> None:
    def read(context: Any) -> Requester:
        return context if context == Requester(is_admin=True) else ALICE

    bench.intake = replace(bench.intake, requester_of=read)
    request_id = bench.ask(who=Requester())
    bench.cancel(request_id, who=Requester(is_admin=True), answered=True, reason="why")
    assert cancelled(bench) == Cancellation("why", answered=True)


def test_an_outcome_that_was_not_told_when_the_router_answered_is_never_told(
    bench: Bench,
) -> None:
    bench.container()
    request_id = bench.ask()
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END
    bench.cancel(request_id, who=ROUTER, answered=True)
    assert [event.type for event in bench.events(request_id)] == [SNAPSHOT_START]


@pytest.mark.parametrize(
    "payload", [{}, {"request_id": 5}, {"request_id": UUID, "reason": "\n"}, None], ids=repr
)
def test_an_invalid_cancellation_is_answered_and_kept(bench: Bench, payload: Any) -> None:
    bench.ask(request_id=UUID)
    bench.intake.on_message(message(payload, event_type=COMMIT_CANCEL))
    (answer,) = bench.events()
    assert answer.payload["fault"]["code"] == 400
    assert cancelled(bench) is None


# Questions


def test_questions_are_passed_on(bench: Bench) -> None:
    for payload in ({}, {"container": "web"}, {"container": UUID, "schema_version": "1.0"}):
        bench.intake.take(message(payload, event_type=EXISTS_REQUEST))
    assert bench.asked == [None, "web", UUID]
    assert bench.events() == []


@pytest.mark.parametrize("payload", [{"container": "a b"}, {"x": 1}, [], None], ids=repr)
def test_an_invalid_question_is_kept_without_an_answer(bench: Bench, payload: Any) -> None:
    bench.intake.on_message(message(payload, event_type=EXISTS_REQUEST))
    assert bench.asked == []
    assert bench.events() == []
    assert len(bench.journal.dead_letters()) == 1


# Deletions


def test_a_deletion_is_passed_on(bench: Bench) -> None:
    payload = {
        "event_id": "e-1",
        "container_uuid": UUID.upper(),
        "occurred_at": "2026-11-24T22:15:00+01:00",
    }
    bench.intake.take(message(payload, event_type=CONTAINER_DELETE_START))
    assert bench.deleting == [(UUID, "e-1", "2026-11-24T22:15:00+01:00", ALICE)]


def test_a_deletion_in_another_services_words_is_one_too(bench: Bench) -> None:
    payload = {"uuid": UUID, "host": "host-1", "status": "Deleting", "name": "web", "task": None}
    taken = message(payload, event_type=CONTAINER_DELETE_START)
    bench.intake.take(taken)
    assert bench.deleting == [(UUID, OTHER, bench.clock.now().isoformat(), ALICE)]

    nameless = replace(taken, message_id=None)
    bench.intake.take(nameless)
    bench.intake.take(nameless)
    (_, event_id, _, _), again = bench.deleting[1:]
    assert event_id
    assert again[1] == event_id, "the same message is the same deletion"
    bench.intake.take(replace(nameless, timestamp="2026-01-01 00:00:01"))
    assert bench.deleting[-1][1] != event_id


def test_the_deletion_of_an_unknown_container_is_no_fault(bench: Bench) -> None:
    calls = replace(bench.intake.calls, deleting=lambda *_: False)
    intake = replace(bench.intake, calls=calls)
    intake.on_message(message({"uuid": UUID}, event_type=CONTAINER_DELETE_START))
    assert bench.journal.dead_letters() == []


@pytest.mark.parametrize("payload", [{}, {"uuid": 5}, {"uuid": UUID, "occurred_at": "noon"}, None])
def test_an_invalid_deletion_is_kept_without_an_answer(bench: Bench, payload: Any) -> None:
    bench.intake.on_message(message(payload, event_type=CONTAINER_DELETE_START))
    assert bench.deleting == []
    assert bench.events() == []
    assert len(bench.journal.dead_letters()) == 1


# By way of a router


def routed(bench: Bench, seconds: float, **fields: Any) -> dict[str, Any]:
    """Return a request as a router sends it, void after so many seconds."""
    accept_by = bench.clock.now() + timedelta(seconds=seconds)
    return request(request_id=UUID, host=HOST, accept_by=accept_by.isoformat(), **fields)


def test_a_request_in_time_is_for_now(bench: Bench) -> None:
    bench.intake.take(message(routed(bench, 1)))
    assert bench.journal.claim(bench.clock.now()) is not None


@pytest.mark.parametrize("seconds", [0, -3600])
def test_a_request_that_comes_too_late_waits_for_the_routers_word(
    bench: Bench, seconds: float
) -> None:
    bench.container()
    bench.intake.take(message(routed(bench, seconds)))
    patience = VOID_PATIENCE.total_seconds()
    bench.clock.advance(patience - 0.001)
    assert bench.journal.claim(bench.clock.now()) is None
    bench.clock.advance(0.001)
    bench.settle()

    fault = bench.outcome(UUID).payload["fault"]
    assert (fault["code"], fault["exception"]) == (504, "TimedOut")
    assert [event.type for event in bench.events()] == [SNAPSHOT_ERROR]
    assert not [call for call in bench.trouble.calls if not call.endswith("discard")]


def test_a_request_that_its_router_has_answered_ends_without_a_word(bench: Bench) -> None:
    bench.container()
    bench.intake.take(message(routed(bench, -1)))
    bench.cancel(UUID, who=ROUTER, answered=True, reason="host was silent")
    bench.settle()
    assert bench.events() == []
    assert bench.images() == {}
    assert bench.journal.live() == frozenset()
    latest = bench.journal.latest(UUID)
    assert latest is not None
    assert checked(latest).payload["status"] == "error"
    assert latest.payload["fault"]["message"] == "host was silent"


def test_a_request_that_two_routers_send_is_one(bench: Bench) -> None:
    for seconds in (30, 60, -5):
        bench.intake.on_message(message(routed(bench, seconds), message_id=str(uuid.uuid4())))
    assert bench.journal.dead_letters() == []
    work = bench.journal.claim(bench.clock.now())
    assert work is not None
    assert work.step.payload["accept_by"] == routed(bench, 30)["accept_by"]
    assert bench.journal.claim(bench.clock.now() + timedelta(days=1)) is None


# When the journal cannot


class FullJournal(SqliteJournal):
    """A journal on a full disk."""

    def admit(self, *request: Any, **options: Any) -> Admission:
        raise Unavailable("full")

    def reject(self, key: str, reason: str, message: Any, answer: Event | None) -> bool:
        raise Unavailable("full")

    def record(
        self, work: Any, events: Sequence[Event], step: Event | None, **options: Any
    ) -> None:
        raise Unavailable("full")


@pytest.mark.parametrize("payload", [request(), {"bad": 1}])
def test_a_message_that_cannot_be_stored_is_the_buss_again(payload: Any) -> None:
    bench = Bench(journal=FullJournal(":memory:"))
    with pytest.raises(Unavailable):
        bench.intake.on_message(message(payload))
    with pytest.raises(Unavailable):
        bench.intake.on_garbage("reason", {})


# Restores


def restore(**fields: Any) -> Message:
    return message({"image": "snap", **fields}, event_type=RESTORE_REQUEST)


def test_a_restore_is_taken_in_as_a_snapshot_is(bench: Bench) -> None:
    assert take(bench, restore(request_id=UUID)) == UUID
    for ident in (UUID, restore_id_for(UUID)):
        event = bench.journal.latest(ident)
        assert event is not None
        assert checked(event).payload["status"] == "queued"
    bench.intake.on_message(restore(request_id=UUID))
    assert bench.events() == []
    assert bench.journal.live() == {UUID}
    assert bench.journal.snapshots() == []


def test_a_snapshots_request_id_is_none_for_a_restore(bench: Bench) -> None:
    bench.ask(request_id=UUID)
    bench.intake.on_message(restore(request_id=UUID))
    (answer,) = bench.events()
    assert answer.type == RESTORE_ERROR
    assert answer.payload["fault"]["code"] == 409
    assert bench.journal.live() == {UUID}


def test_an_invalid_restore_is_answered_and_kept(bench: Bench) -> None:
    bench.intake.on_message(message({"name": "web"}, event_type=RESTORE_REQUEST))
    (answer,) = bench.events()
    assert answer.type == RESTORE_ERROR
    assert answer.payload["request_id"] == OTHER
    assert answer.payload["container_name"] == "web"
    assert "snapshot_id, image_id and image" in answer.payload["fault"]["message"]
    assert answer.payload["fault"]["image_deleted"] is None
    (letter,) = bench.journal.dead_letters()
    assert letter.message["payload"] == {"name": "web"}


@pytest.mark.parametrize("event_type", [COMMIT_CANCEL, RESTORE_CANCEL])
@pytest.mark.parametrize("of_restore", [False, True])
def test_any_cancellation_stops_any_request(
    bench: Bench, event_type: str, *, of_restore: bool
) -> None:
    asked = restore(request_id=UUID) if of_restore else message(request(request_id=UUID))
    take(bench, asked)
    bench.intake.on_message(message({"request_id": UUID}, event_type=event_type))
    assert cancelled(bench) == Cancellation(CANCELLED)
    assert bench.events() == []


@pytest.mark.parametrize("event_type", [COMMIT_CANCEL, RESTORE_CANCEL])
@pytest.mark.parametrize("of_restore", [False, True])
def test_a_cancellation_is_refused_as_what_it_was_to_stop(
    bench: Bench, event_type: str, *, of_restore: bool
) -> None:
    asked = restore(request_id=UUID) if of_restore else message(request(request_id=UUID))
    take(bench, asked)
    refused = message({"request_id": UUID.upper()}, event_type=event_type, context=MALLORY)
    for _ in range(2):
        bench.intake.on_message(refused)
    (answer,) = bench.events()
    assert answer.type == (RESTORE_ERROR if of_restore else SNAPSHOT_ERROR)
    assert answer.payload["request_id"] == UUID
    assert answer.payload["fault"]["code"] == 403


@pytest.mark.parametrize(
    ("event_type", "outcome"), [(COMMIT_CANCEL, SNAPSHOT_ERROR), (RESTORE_CANCEL, RESTORE_ERROR)]
)
def test_a_cancellation_of_nothing_known_is_answered_by_its_own_type(
    bench: Bench, event_type: str, outcome: str
) -> None:
    bench.intake.on_message(message({"request_id": UUID}, event_type=event_type))
    (answer,) = bench.events()
    assert (answer.type, answer.payload["fault"]["code"]) == (outcome, 404)


def test_a_restore_id_is_no_request_id(bench: Bench) -> None:
    take(bench, restore(request_id=UUID))
    bench.intake.on_message(
        message({"request_id": restore_id_for(UUID)}, event_type=RESTORE_CANCEL)
    )
    (answer,) = bench.events()
    assert answer.payload["fault"]["code"] == 404
    assert cancelled(bench) is None


def test_a_restore_that_its_router_has_answered_before_it_came_is_not_worked_on(
    bench: Bench,
) -> None:
    bench.intake.on_message(
        message({"request_id": UUID, "answered": True}, event_type=RESTORE_CANCEL, context=ROUTER)
    )
    bench.intake.on_message(restore(request_id=UUID))
    assert bench.journal.live() == frozenset()
    assert bench.events() == []
