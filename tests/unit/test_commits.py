"""Commits over REST on twins: one promise for each request, whatever fails and whoever dies."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from tests.support.twins import ADMIN, ALICE, HOST, MALLORY, Office, PowerCut
from tintype.adapters.sql_tables import reservation_table, snapshot_table
from tintype.core.dispatch import DispatchState
from tintype.core.errors import (
    Forbidden,
    ImageIdSpent,
    InProgress,
    Invalid,
    NotFound,
    Refused,
    RequestConflict,
    TooLarge,
    Unauthorized,
    Unavailable,
    WrongState,
)
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_EXISTS,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_START,
    Requester,
    derived_id,
    is_uuid,
)
from tintype.core.images import ImageSpec, ImageStatus
from tintype.core.index import SnapshotRecord
from tintype.core.promises import HEADER_KEY, Caller, find_container
from tintype.core.reservation import LEASE, Reservation, ReservationState
from tintype.core.resolution import pick
from tintype.core.snapshot import image_id_for, snapshot_id_for
from tintype.core.tidier import ABANDONED
from tintype.schemas import validate

KEY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
OTHER = "6ba7b811-9dad-11d1-80b4-00c04fd430c8"


@pytest.fixture
def office() -> Iterator[Office]:
    office = Office()
    office.container()
    yield office
    office.database.close()


def stored(office: Office, key: str) -> Reservation:
    found = office.reservations.get(key)
    assert found is not None
    return found


def shown(office: Office, ident: str) -> SnapshotRecord:
    found = office.index.find_snapshot(ident)
    assert found is not None
    return found


def give_up(office: Office) -> None:
    """Let so much time pass that whoever was at work counts as dead, and a router tidy up."""
    office.trouble.end()
    for _ in range(2):  # the second time clears what the first could not
        office.clock.advance((ABANDONED + LEASE).total_seconds() + 1)
        office.tidier().sweep()


def after_the_lease(office: Office) -> None:
    office.trouble.end()
    office.clock.advance(LEASE.total_seconds() + 1)


def reserved(office: Office, image_id: str, owner: str | None = ALICE.project_id) -> None:
    office.images.reserve(ImageSpec(image_id, "snap", "latest", owner))


# What is promised


def test_the_answer_has_all_ids_and_the_bus_the_same_request(office: Office) -> None:
    (web,) = (record.uuid for record in office.index.containers())

    promised = office.submit(tag="v1", metadata={"a": "b"})

    request_id = promised.request_id
    assert is_uuid(request_id)
    assert promised.answer == {
        "uuid": image_id_for(request_id),
        "image_id": image_id_for(request_id),
        "snapshot_id": snapshot_id_for(request_id),
        "request_id": request_id,
        "container_uuid": web,
    }
    (event,) = office.bus.published
    assert (event.type, event.id, event.requester) == (COMMIT_REQUEST, request_id, ALICE)
    assert event.payload == {
        "container": web,
        "image_name": "snap",
        "tag": "v1",
        "metadata": {"a": "b"},
        "image_id": image_id_for(request_id),
        "request_id": request_id,
        "stores": ["glance"],
    }
    assert stored(office, request_id).state is ReservationState.KEPT


def test_the_image_is_reserved_as_the_callers_own(office: Office) -> None:
    promised = office.submit(tag="v1", visibility="shared")
    image = office.images.images[promised.promised_image_id]
    assert image.status is ImageStatus.QUEUED
    assert image.spec == ImageSpec(
        id=promised.promised_image_id,
        name="snap",
        tag="v1",
        owner="project-a",
        visibility="shared",
        properties={
            "image_type": "snapshot",
            "instance_uuid": promised.container_uuid,
            "snapshot_request_id": promised.request_id,
        },
    )


def test_each_step_is_done_before_the_next_begins(office: Office) -> None:
    office.submit()
    steps = [call for call in office.trouble.calls if not call.startswith("index.find")]
    assert steps == [
        "reservations.get",
        "reservations.get done",
        "index.snapshot",
        "index.snapshot done",
        "reservations.open",
        "reservations.open done",
        "images.reserve",
        "images.reserve done",
        "bus.publish",
        "bus.publish done",
        "reservations.replace",
        "reservations.replace done",
        "index.note",
        "index.note done",
    ]


@pytest.mark.parametrize(
    ("default", "named", "published"),
    [
        ((), None, None),
        ((), ["directory"], ["directory"]),
        (("directory",), None, ["directory"]),
        (("glance",), ["directory", "registry"], ["directory", "registry"]),
    ],
)
def test_without_the_image_service_nothing_is_reserved(
    default: tuple[str, ...], named: list[str] | None, published: list[str] | None
) -> None:
    office = Office(default_stores=default)
    office.container()
    promised = office.submit(**({} if named is None else {"stores": named}))
    (event,) = office.bus.published
    assert event.payload.get("stores") == published
    assert "image_id" not in event.payload
    assert not any(call.startswith("images.") for call in office.trouble.calls)
    assert promised.answer["image_id"] == image_id_for(promised.request_id)


@pytest.mark.parametrize(
    ("default", "named"),
    [(("glance", "directory"), None), (("directory",), ["glance"]), ((), ["directory", "glance"])],
)
def test_with_it_among_others_the_image_is_reserved(
    default: tuple[str, ...], named: list[str] | None
) -> None:
    office = Office(default_stores=default)
    office.container()
    promised = office.submit(**({} if named is None else {"stores": named}))
    assert office.image_ids == {promised.promised_image_id}


def test_where_no_image_service_is_nothing_is_reserved(office: Office) -> None:
    caller = Caller(ALICE, lambda *_: True)
    promised = office.commits().submit(caller, {"container": "web", "image_name": "snap"})
    assert office.image_ids == set()
    assert "image_id" not in office.bus.published[0].payload
    assert promised.answer["image_id"] == image_id_for(promised.request_id)


def test_two_requests_without_a_key_are_two_snapshots(office: Office) -> None:
    one, two = office.submit(), office.submit()
    assert one.request_id != two.request_id
    assert office.image_ids == {one.promised_image_id, two.promised_image_id}


@pytest.mark.parametrize("ident", ["web", "zun-x", "0123456789ab", "uuid-1", "UUID-1"])
def test_a_container_is_named_in_any_way(office: Office, ident: str) -> None:
    office.remove(office.index.containers()[0].uuid)
    office.container(uuid_="uuid-1", name=ident if ident in {"web", "zun-x"} else "n")
    office.container(uuid_="0123456789ab" + "f" * 52, name="other")
    promised = office.submit(ident)
    expected = "0123456789ab" + "f" * 52 if ident == "0123456789ab" else "uuid-1"
    assert office.bus.published[0].payload["container"] == promised.container_uuid == expected


# An image of the caller's own


def test_the_callers_own_image_is_taken(office: Office) -> None:
    reserved(office, OTHER)
    promised = office.submit(image_id=OTHER)
    assert promised.answer["image_id"] == promised.answer["uuid"] == OTHER
    assert office.bus.published[0].payload["image_id"] == OTHER
    assert office.image_ids == {OTHER}


@pytest.mark.parametrize(
    ("owner", "status", "words"),
    [
        (None, None, "no such image"),
        ("project-m", ImageStatus.QUEUED, "no such image"),
        ("project-a", ImageStatus.SAVING, "one that is saving"),
        ("project-a", ImageStatus.ACTIVE, "one that is active"),
    ],
)
def test_an_image_that_does_not_wait_for_the_callers_data_is_refused(
    office: Office, owner: str | None, status: ImageStatus | None, words: str
) -> None:
    if status is not None:
        reserved(office, OTHER, owner)
        office.images.images[OTHER].status = status
    with pytest.raises(Invalid, match=words) as raised:
        office.submit(image_id=OTHER)
    assert [each.pointer for each in raised.value.violations] == ["/image_id"]
    assert office.bus.published == []
    assert office.image_ids == (set() if status is None else {OTHER})


def test_an_image_of_nobody_in_particular_is_taken(office: Office) -> None:
    reserved(office, OTHER, None)
    assert office.submit(image_id=OTHER).promised_image_id == OTHER


def test_an_image_for_another_store_is_not_looked_at(office: Office) -> None:
    promised = office.submit(image_id=OTHER, stores=["directory"])
    assert promised.promised_image_id == OTHER
    assert "images.describe" not in office.trouble.calls


def test_the_callers_own_image_is_never_deleted(office: Office) -> None:
    reserved(office, OTHER)
    office.trouble.plan("bus.publish", Unavailable("away"))
    with pytest.raises(Unavailable):
        office.submit(image_id=OTHER, key="k")
    assert office.image_ids == {OTHER}
    give_up(office)
    assert office.image_ids == {OTHER}

    assert office.submit(image_id=OTHER, key="k").promised_image_id == OTHER


# Refusals, before anything is promised


def require_untouched(office: Office) -> None:
    assert office.bus.published == []
    assert office.image_ids == set()
    assert "reservations.open" not in office.trouble.calls
    assert office.index.snapshots() == []


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"image_name": "Bad"}, "/image_name"),
        ({"colour": 1}, "/colour"),
        ({"accept_by": "2030-01-01T00:00:00Z"}, "/accept_by"),
        ({"request_id": "x"}, "/request_id"),
        ({"container": "a/b"}, "/container"),
        ({"rotation": 3}, "/backup_type"),
    ],
)
def test_a_wrong_request_is_refused_with_the_place(
    office: Office, fields: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(Invalid) as raised:
        office.submit(**fields)
    assert [each.pointer for each in raised.value.violations] == [pointer]
    require_untouched(office)


@pytest.mark.parametrize("ident", ["nobody", "0123456789ab"])
def test_a_container_that_is_not_known_is_not_found(office: Office, ident: str) -> None:
    with pytest.raises(NotFound, match=ident):
        office.submit(ident)
    require_untouched(office)


def test_a_container_of_another_project_is_not_there(office: Office) -> None:
    with pytest.raises(NotFound) as others:
        office.submit(who=MALLORY)
    office.remove(office.index.containers()[0].uuid)
    with pytest.raises(NotFound) as nobodys:
        office.submit(who=MALLORY)
    assert str(others.value) == str(nobodys.value)
    require_untouched(office)


def test_who_may_see_but_not_commit_is_forbidden(office: Office) -> None:
    reader = Caller(ALICE, lambda action, owner: action == "container:show", office.images)
    with pytest.raises(Forbidden, match="your roles"):
        office.commits().submit(reader, {"container": "web", "image_name": "snap"})
    require_untouched(office)


@pytest.mark.parametrize("state", ["Other", "Creating", None])
def test_a_state_that_cannot_be_snapshotted_is_refused(office: Office, state: str | None) -> None:
    office.container("new", state=state)
    with pytest.raises(WrongState, match="neither of Running"):
        office.submit("new")
    require_untouched(office)


@pytest.mark.parametrize("state", ["Running", "Stopped", "Paused"])
def test_these_can_be(office: Office, state: str) -> None:
    office.container("new", state=state)
    office.submit("new")
    assert len(office.bus.published) == 1


def test_an_ambiguous_name_is_refused_with_the_candidates(office: Office) -> None:
    two = office.container(host="host-2")
    with pytest.raises(Refused, match=f"{two} on host-2") as raised:
        office.submit()
    assert raised.value.code == 409
    require_untouched(office)
    assert office.submit(host="host-2").container_uuid == two
    with pytest.raises(NotFound, match="on host 'host-3'"):
        office.submit(host="host-3")


def test_a_name_means_ones_own_container(office: Office) -> None:
    office.container(project_id=MALLORY.project_id)
    mine = office.index.find("web")
    assert office.submit().container_uuid in {
        record.uuid for record in mine if record.project_id == ALICE.project_id
    }
    with pytest.raises(Refused, match="2 containers"):
        office.submit(who=ADMIN)


def test_a_container_that_no_host_has_told_of_is_not_found(office: Office) -> None:
    office.container("homeless", host=None)
    with pytest.raises(NotFound):
        office.submit("homeless")


def test_pick_tells_others_containers_from_none(office: Office) -> None:
    found = office.index.find("web")
    with pytest.raises(Forbidden, match="belongs to another project"):
        pick(found, "web", None, lambda record: False)
    with pytest.raises(NotFound, match="on host 'elsewhere'"):
        pick(found, "web", "elsewhere", lambda record: True)
    assert pick(found, "web", HOST, lambda record: True) == found[0]


def test_no_more_than_ten_candidates_are_told(office: Office) -> None:
    for _ in range(11):
        office.container()
    with pytest.raises(Refused, match=r"12 containers: .* and 2 more; give a uuid"):
        office.submit()


def test_find_container_shows_what_may_be_seen(office: Office) -> None:
    nobodys = office.container("free", project_id=None)
    index = office.index
    assert find_container(index, office.caller(MALLORY), "free").uuid == nobodys
    assert find_container(index, office.caller(ADMIN), "web").name == "web"
    with pytest.raises(NotFound):
        find_container(index, office.caller(MALLORY), "web")


# The same once more


def test_the_same_request_gets_the_first_answer(office: Office) -> None:
    for named in ({"key": "any text"}, {"request_id": KEY}, {"request_id": OTHER, "key": OTHER}):
        office.bus.published.clear()
        one, two = office.submit(**named), office.submit(**named)
        assert one.answer == two.answer
        assert len(office.bus.published) == 1
    assert len(office.image_ids) == 3


def test_the_first_answer_stands_whatever_became_of_the_container(office: Office) -> None:
    one = office.submit(request_id=KEY)
    office.container(uuid_=one.container_uuid, state="Other")
    assert office.submit(request_id=KEY).answer == one.answer
    office.remove(one.container_uuid)
    assert office.submit(request_id=KEY).answer == one.answer
    office.container()
    assert office.submit(request_id=KEY).answer == one.answer
    assert len(office.bus.published) == 1


def test_a_request_id_is_the_id_on_the_bus_in_any_case(office: Office) -> None:
    one = office.submit(request_id=KEY.upper())
    assert one.request_id == office.bus.published[0].id == KEY
    assert office.submit(request_id=KEY).answer == one.answer


def test_another_request_under_the_same_id_is_a_conflict(office: Office) -> None:
    office.container("other")
    office.container("web", project_id=MALLORY.project_id)
    office.submit(request_id=KEY)
    asked: list[Callable[[], Reservation]] = [
        lambda: office.submit(request_id=KEY, tag="v2"),
        lambda: office.submit(request_id=KEY, image_name="another"),
        lambda: office.submit("other", request_id=KEY),
        lambda: office.submit(request_id=KEY, who=MALLORY),
        lambda: office.submit(request_id=KEY, who=Requester("project-a", "bob")),
        lambda: office.submit(key=KEY, request_id=KEY, pause=False),
    ]
    for ask in asked:
        with pytest.raises(RequestConflict, match=KEY):
            ask()
    assert len(office.bus.published) == len(office.image_ids) == 1


def test_another_request_under_the_same_key_is_a_conflict(office: Office) -> None:
    office.submit(key="k")
    with pytest.raises(RequestConflict):
        office.submit(key="k", tag="v2")
    assert len(office.bus.published) == 1


def test_an_idempotency_key_is_each_callers_own(office: Office) -> None:
    office.container("web", project_id=MALLORY.project_id)
    answers = [
        office.submit(key="k", who=who).request_id
        for who in (ALICE, Requester("project-a", "bob"), MALLORY)
    ]
    assert len({*answers}) == 3


def test_the_same_header_of_others_is_another_request(office: Office) -> None:
    office.container("web", project_id=MALLORY.project_id)
    everybody = (ALICE, Requester("project-a", "bob"), MALLORY)
    answers = [office.submit(key="k", who=who).answer for who in everybody]
    assert [office.submit(key="k", who=who).answer for who in everybody] == answers
    assert [event.id for event in office.bus.published] == [each["request_id"] for each in answers]
    assert office.image_ids == {each["image_id"] for each in answers}
    assert len(office.image_ids) == 3


GUESSES = [("project-a", "alice", "k"), ("project-a", "alice", "idempotency-key", "k")]
"""What an id might be made of by whoever knows all that a request with a header is made of."""


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("first", [ALICE, MALLORY])
def test_a_guessed_id_uses_up_nobodys_key(
    office: Office, guess: tuple[str, ...], first: Requester
) -> None:
    office.container("web", project_id=MALLORY.project_id)
    guessed = derived_id(*guess)

    def asks(who: Requester) -> Reservation:
        named = {"key": "k"} if who is ALICE else {"request_id": guessed}
        return office.submit(who=who, **named)

    answers = {who: asks(who).answer for who in (first, ALICE, MALLORY)}
    assert asks(ALICE).answer == answers[ALICE]
    assert answers[MALLORY]["request_id"] == guessed != answers[ALICE]["request_id"]
    assert len(office.bus.published) == len(office.image_ids) == 2


def test_the_id_of_a_request_with_a_header_cannot_be_derived(office: Office) -> None:
    """Else whoever guesses the header could use the id up on the bus, or take its image's."""
    elsewhere = Office()
    elsewhere.container()
    ids = {each.submit(key="k").request_id for each in (office, elsewhere)}
    elsewhere.database.close()
    assert len(ids) == 2
    assert {uuid.UUID(each).version for each in ids} == {4}


def test_who_learns_the_id_of_a_request_with_a_header_takes_nothing_from_it(
    office: Office,
) -> None:
    office.container("web", project_id=MALLORY.project_id)
    promised = office.submit(key="k")
    with pytest.raises(RequestConflict):
        office.submit(request_id=promised.request_id, who=MALLORY)
    give_up(office)
    assert office.image_ids == {promised.promised_image_id}
    assert office.submit(key="k").answer == promised.answer
    assert len(office.bus.published) == 1


def test_a_conflict_and_who_is_too_early_are_told_of_an_id_not_of_what_it_is_kept_under(
    office: Office,
) -> None:
    seen: list[str] = []

    def again(call: str) -> None:
        if call == "bus.publish" and not seen:
            seen.append(call)
            (open_,) = office.reservations.claim(office.clock.now() + 2 * LEASE, *times)
            for fields, error in (({}, InProgress), ({"tag": "v2"}, RequestConflict)):
                with pytest.raises(error, match=f"^/request_id: {open_.first_id} "):
                    office.submit(key="k", **fields)

    times = (office.clock.now() + 2 * LEASE, office.clock.now() + LEASE)
    watched(office, again)
    promised = office.submit(key="k")
    assert seen
    assert promised.key.startswith(HEADER_KEY)
    assert office.bus.published[0].id == promised.first_id


def test_key_and_request_id_must_agree(office: Office) -> None:
    with pytest.raises(Invalid, match="the Idempotency-Key, or only one of both"):
        office.submit(request_id=KEY, key="k")
    require_untouched(office)


def test_a_request_that_is_just_being_answered_is_told_so(office: Office) -> None:
    seen: list[str] = []

    def again(call: str) -> None:
        if call == "bus.publish" and not seen:
            seen.append(call)
            with pytest.raises(InProgress, match="send it again"):
                office.submit(request_id=KEY)
            with pytest.raises(RequestConflict):
                office.submit(request_id=KEY, tag="other")

    watched(office, again)
    promised = office.submit(request_id=KEY)
    assert seen
    assert office.submit(request_id=KEY).answer == promised.answer
    assert len(office.bus.published) == 1


def watched(office: Office, look: Callable[[str], None]) -> None:
    """Call `look` with every call of a port, before anything planned goes wrong."""

    class Watched(type(office.trouble)):  # type: ignore[misc]
        def _on(self, call: str) -> None:
            look(call)
            super()._on(call)

    office.trouble = Watched()


def test_two_at_once_are_one_request_and_get_one_answer(office: Office) -> None:
    second = threading.Event()
    opened: list[str] = []

    def hold(call: str) -> None:
        if call == "reservations.open done":
            opened.append(call)
            if len(opened) == 2:
                second.set()
        elif call == "bus.publish":
            assert second.wait(30)

    watched(office, hold)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(office.submit, request_id=KEY, patience=30.0) for _ in range(2)]
        one, two = (each.result() for each in asked)
    assert one.answer == two.answer
    assert len(office.bus.published) == len(office.image_ids) == 1
    assert len(opened) > 2


def test_who_waits_for_one_that_fails_tries_anew(office: Office) -> None:
    office.trouble.plan("bus.publish", Unavailable("away"))
    second = threading.Event()
    opened: list[str] = []

    def hold(call: str) -> None:
        if call == "reservations.open done":
            opened.append(call)
            if len(opened) == 2:
                second.set()
        elif call == "bus.publish" and not office.bus.published:
            assert second.wait(30)

    plans = office.trouble.plans
    watched(office, hold)
    office.trouble.plans = plans
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(office.submit, request_id=KEY, patience=30.0) for _ in range(2)]
        errors = [each.exception() for each in asked]
    assert sorted(map(repr, errors)) == ["None", "Unavailable('away')"]
    (event,) = office.bus.published
    assert event.id == stored(office, KEY).request_id != KEY
    assert office.image_ids == {image_id_for(event.id)}


# Every error at every call

PASSING: list[type[Exception]] = [Unavailable, RuntimeError]
ERRORS: dict[str, list[type[Exception]]] = {
    "index": PASSING,
    "reservations": PASSING,
    "images": [*PASSING, Refused, Forbidden, Unauthorized, TooLarge, ImageIdSpent],
    "bus": [*PASSING, Invalid, Refused, RequestConflict],
}
"""What each port may raise; RuntimeError stands for a defect."""


def calls_of_a_clean_run(**fields: Any) -> list[tuple[str, int]]:
    """Return each call with how many like it came before."""
    office = Office()
    office.container()
    reserved(office, OTHER)
    office.submit(**fields)
    calls = office.trouble.calls
    return [(call, calls[:number].count(call)) for number, call in enumerate(calls)]


CALLS = calls_of_a_clean_run()
PLANS = [
    pytest.param(call, skip, error, id=f"{call}-{skip}-{error.__name__}")
    for call, skip in CALLS
    for error in ERRORS[call.partition(".")[0]]
    if (call, error) != ("images.reserve done", ImageIdSpent)  # with that nothing is made
]
RECORDING = ("reservations.replace", "index.note")
"""Calls that come after the promise."""


def fails(office: Office, **fields: Any) -> BaseException | None:
    """Ask for a snapshot, and return what came out."""
    try:
        office.submit(request_id=KEY, **fields)
    except (Exception, PowerCut) as error:  # noqa: BLE001 - all that is planned
        return error
    return None


@pytest.mark.parametrize(("call", "skip", "error"), PLANS)
def test_after_any_error_nothing_is_promised_and_the_same_request_works(
    office: Office, call: str, skip: int, error: type[Exception]
) -> None:
    planned = error("planned")
    office.trouble.plan(call, planned, skip=skip)
    raised = fails(office)
    if call.removesuffix(" done") in RECORDING:
        assert raised is (None if error is Unavailable else planned)
    else:
        assert isinstance(raised, Unavailable if error is ImageIdSpent else error)
        assert office.image_ids == set()
        assert office.index.snapshots() == []
        known = office.reservations.get(KEY)
        assert known is None or known.state is not ReservationState.KEPT
        assert known is None or known.leftovers == ()

    if (known := office.reservations.get(KEY)) is not None:
        withdrawn = known.state is ReservationState.WITHDRAWN
        if known.state is ReservationState.OPEN:
            after_the_lease(office)  # an open one could not be recorded as what it is
        first = known.request_id
    else:
        withdrawn, first = False, KEY
    promised = office.submit(request_id=KEY)
    assert (promised.request_id != first) is withdrawn
    assert office.image_ids == {promised.promised_image_id}
    assert office.bus.published[-1].id == promised.request_id
    assert stored(office, KEY).state is ReservationState.KEPT
    if call not in {"reservations.replace done", "index.note"}:  # else not before it is told of
        assert shown(office, promised.request_id).payload["status"] == "queued"
    give_up(office)
    assert office.image_ids == {promised.promised_image_id}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("gives_up", [False, True])
@pytest.mark.parametrize("named", [{"request_id": KEY}, {"key": "k"}])
def test_without_a_reserved_image_the_same_request_goes_on_under_its_ids(
    office: Office, named: dict[str, Any], *, own: bool, gives_up: bool
) -> None:
    reserved(office, OTHER)
    about: dict[str, Any] = {"image_id": OTHER} if own else {"stores": ["directory"]}
    for error in ("no confirm came", "again"):
        office.trouble.plan("bus.publish done", Unavailable(error))
        with pytest.raises(Unavailable, match=error):
            office.submit(**named, **about)
        if gives_up:
            give_up(office)
    promised = office.submit(**named, **about)
    assert promised.answer == office.submit(**named, **about).answer
    assert [event.id for event in office.bus.published] == [promised.request_id] * 3
    assert office.bus.published[1:] == office.bus.published[:-1]
    assert stored(office, promised.key).attempt == 1
    assert (promised.request_id == KEY) is ("request_id" in named)
    office.deliver()
    assert [event.id for event in office.courier.hosts[HOST]] == [promised.request_id]
    assert office.courier.told == []
    give_up(office)
    assert office.image_ids == {OTHER}


def test_what_may_be_on_the_bus_is_gone_on_with_for_the_container_that_it_was_for(
    office: Office,
) -> None:
    office.trouble.plan("bus.publish done", Unavailable("no confirm came"))
    assert isinstance(fails(office, stores=["directory"]), Unavailable)
    first = stored(office, KEY).container_uuid
    office.clock.advance(1)
    office.container("old", uuid_=first)
    second = office.container("web")
    promised = office.submit(request_id=KEY, stores=["directory"])
    assert promised.container_uuid == first
    assert {event.payload["container"] for event in office.bus.published} == {first}
    assert office.submit().container_uuid == second


@pytest.mark.parametrize("event_type", [SNAPSHOT_START, SNAPSHOT_END])
@pytest.mark.parametrize("own", [False, True])
def test_what_a_host_has_told_of_though_no_confirm_came_is_the_first_answer(
    office: Office, event_type: str, *, own: bool
) -> None:
    reserved(office, OTHER)
    about: dict[str, Any] = {"image_id": OTHER} if own else {"stores": ["directory"]}
    office.trouble.plan("bus.publish done", Unavailable("no confirm came"))
    assert isinstance(fails(office, **about), Unavailable)
    first = stored(office, KEY)
    office.host_says(event_type, first)
    office.remove(first.container_uuid)
    office.images.discard(OTHER)
    assert office.submit(request_id=KEY, **about).answer == first.answer
    assert len(office.bus.published) == 1
    give_up(office)
    assert office.submit(request_id=KEY, **about).answer == first.answer
    with pytest.raises(RequestConflict):
        office.submit(request_id=KEY, tag="v2", **about)


def test_what_a_host_has_told_of_though_its_image_was_withdrawn_is_tried_anew(
    office: Office,
) -> None:
    office.trouble.plan("bus.publish done", Unavailable("no confirm came"))
    assert isinstance(fails(office), Unavailable)
    office.host_says(SNAPSHOT_ERROR, stored(office, KEY))
    promised = office.submit(request_id=KEY)
    assert promised.request_id != KEY
    assert office.image_ids == {promised.promised_image_id}
    assert len(office.bus.published) == 2


OWN_IMAGE_CALLS = calls_of_a_clean_run(image_id=OTHER)


@pytest.mark.parametrize("status", [ImageStatus.QUEUED, ImageStatus.SAVING, ImageStatus.ACTIVE])
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_the_callers_own_image_may_be_in_use_by_the_request_that_is_sent_again(
    office: Office, status: ImageStatus, *, crash: bool, told: bool
) -> None:
    reserved(office, OTHER)
    if crash:
        office.trouble.fatal_call = 1 + OWN_IMAGE_CALLS.index(("bus.publish done", 0))
    else:
        office.trouble.plan("bus.publish done", Unavailable("no confirm came"))
    assert isinstance(fails(office, image_id=OTHER), PowerCut if crash else Unavailable)
    after_the_lease(office)
    first = stored(office, KEY)
    office.images.images[OTHER].status = status
    if told:
        office.host_says(SNAPSHOT_START, first)

    assert office.submit(request_id=KEY, image_id=OTHER).answer == first.answer
    assert [event.id for event in office.bus.published] == [KEY] * (1 if told else 2)
    give_up(office)
    assert office.image_ids == {OTHER}
    with pytest.raises(RequestConflict, match=KEY):
        office.submit(request_id=KEY, image_id=KEY)
    if status is not ImageStatus.QUEUED:
        with pytest.raises(Invalid, match=f"one that is {status}"):
            office.submit(image_id=OTHER)


@pytest.mark.parametrize("gone", [False, True])
def test_anothers_image_is_refused_however_often_it_is_asked_for(
    office: Office, *, gone: bool
) -> None:
    reserved(office, OTHER)
    office.trouble.plan("bus.publish", Unavailable("away"))
    assert isinstance(fails(office, image_id=OTHER), Unavailable)
    spec = office.images.images.pop(OTHER).spec
    if not gone:
        office.images.reserve(replace(spec, owner=MALLORY.project_id))
    with pytest.raises(Invalid, match="no such image"):
        office.submit(request_id=KEY, image_id=OTHER)
    assert office.bus.published == []
    give_up(office)
    assert office.image_ids == (set() if gone else {OTHER})


def test_a_request_that_was_withdrawn_may_be_on_the_bus_and_ends_without_an_image(
    office: Office,
) -> None:
    office.trouble.plan("bus.publish done", Unavailable("no confirm came"))
    assert isinstance(fails(office), Unavailable)
    assert [event.id for event in office.bus.published] == [KEY]
    promised = office.submit(request_id=KEY)
    assert len({event.id for event in office.bus.published}) == 2
    office.deliver()
    assert len(office.courier.hosts[HOST]) == 2
    assert office.image_ids == {promised.promised_image_id}


@pytest.mark.parametrize("error", [Unavailable, Refused, Unauthorized, Forbidden, NotFound])
@pytest.mark.parametrize("call", ["images.discard", "images.discard done"])
def test_an_image_that_cannot_be_deleted_is_left_to_the_routers(
    office: Office, call: str, error: type[Exception]
) -> None:
    office.trouble.plan("bus.publish", Unavailable("the bus is away"))
    office.trouble.plan(call, error("planned"))
    raised = fails(office)
    assert str(raised) == "the bus is away"
    known = stored(office, KEY)
    assert known.state is ReservationState.WITHDRAWN
    assert known.leftovers == (image_id_for(KEY),)

    after_the_lease(office)
    assert office.tidier().sweep() == 1
    assert office.image_ids == set()
    assert stored(office, KEY).leftovers == ()
    after_the_lease(office)
    assert office.tidier().sweep() == 0


@pytest.mark.parametrize("call", ["reservations.replace", "reservations.replace done"])
@pytest.mark.parametrize("skip", [0, 1])
def test_a_withdrawal_that_cannot_be_recorded_is_done_by_the_routers(
    office: Office, call: str, skip: int
) -> None:
    office.trouble.plan("bus.publish", Unavailable("the bus is away"))
    office.trouble.plan(call, Unavailable("the database is away"), skip=skip)
    assert str(fails(office)) == "the bus is away"
    give_up(office)
    assert office.image_ids == set()
    assert stored(office, KEY).leftovers == ()
    assert office.submit(request_id=KEY).request_id != KEY


def test_leftovers_of_all_attempts_are_remembered_and_go_with_the_next(office: Office) -> None:
    for _ in range(2):  # what the first leaves stops the second, which leaves nothing itself
        office.trouble.plan("bus.publish", Unavailable("away"))
        office.trouble.plan("images.discard", Unavailable("away"))
        assert isinstance(fails(office), Unavailable)
        office.trouble.end()
        assert office.image_ids == {image_id_for(KEY)}
        assert stored(office, KEY).leftovers == (image_id_for(KEY),)
    assert stored(office, KEY).attempt == 2
    assert office.bus.published == []

    promised = office.submit(request_id=KEY)
    assert office.image_ids == {promised.promised_image_id}
    assert stored(office, KEY).leftovers == ()
    give_up(office)
    assert office.image_ids == {promised.promised_image_id}


@pytest.mark.parametrize("call", ["images.reserve", "images.reserve done"])
def test_an_image_service_that_stays_away_lets_no_leftovers_pile_up(
    office: Office, call: str
) -> None:
    for each in (call, "images.discard"):
        office.trouble.plan(each, Unavailable("away"), times=1000)
    for _ in range(30):
        assert str(fails(office)) == "away"
        assert stored(office, KEY).leftovers == (image_id_for(KEY),), "may be there"
    assert office.trouble.calls.count("images.reserve") == 1
    assert office.trouble.calls.count("images.discard") == 30
    office.trouble.end()

    promised = office.submit(request_id=KEY)
    assert office.image_ids == {promised.promised_image_id}
    assert stored(office, KEY).leftovers == ()


def test_an_image_service_that_only_reserves_nothing_lets_no_leftovers_pile_up(
    office: Office,
) -> None:
    office.trouble.plan("images.reserve", Unavailable("away"), times=1000)
    for _ in range(30):
        assert str(fails(office)) == "away"
        assert stored(office, KEY).leftovers == ()
    assert office.bus.published == []


@pytest.mark.parametrize("number", range(1, 14))
def test_leftovers_outlive_an_attempt_that_is_abandoned(office: Office, number: int) -> None:
    office.trouble.plan("bus.publish", Unavailable("away"))
    office.trouble.plan("images.discard", Unavailable("away"))
    assert isinstance(fails(office), Unavailable)
    assert office.image_ids == {image_id_for(KEY)}
    office.trouble.end()
    cut(office, len(office.trouble.calls) + number)
    give_up(office)
    assert office.image_ids == set()


# The power is cut


def cut(office: Office, number: int, **fields: Any) -> None:
    office.trouble.fatal_call = number
    raised = fails(office, **fields)
    assert isinstance(raised, PowerCut) or number > len(office.trouble.calls)
    office.trouble.end()


@pytest.mark.parametrize("number", range(1, len(CALLS) + 1))
@pytest.mark.parametrize("delivered", [False, True])
def test_a_power_cut_at_any_call_and_the_same_request_again_are_one_promise(
    office: Office, number: int, *, delivered: bool
) -> None:
    cut(office, number)
    if delivered:
        office.deliver()
    with suppress(InProgress):  # unless it got so far that the answer is known, or not begun
        office.submit(request_id=KEY)
    after_the_lease(office)
    promised = office.submit(request_id=KEY)
    assert promised.answer == office.submit(request_id=KEY).answer
    assert promised.request_id == KEY
    assert {event.id for event in office.bus.published} == {KEY}
    assert office.image_ids == {promised.promised_image_id}
    office.deliver()
    assert [event.id for event in office.courier.hosts[HOST]] == [KEY]
    assert office.courier.told == []
    give_up(office)
    assert office.image_ids == {promised.promised_image_id}


@pytest.mark.parametrize("number", range(1, len(CALLS) + 1))
@pytest.mark.parametrize("delivered", [False, True])
def test_what_nobody_sends_again_is_settled_by_a_router(
    office: Office, number: int, *, delivered: bool
) -> None:
    cut(office, number)
    if delivered:
        office.deliver()
    before = office.reservations.get(KEY)
    office.clock.advance((ABANDONED + LEASE).total_seconds() - 1)
    assert office.tidier().sweep() == 0, "its holder may still live"
    assert office.reservations.get(KEY) == before

    office.clock.advance(2)
    office.tidier().sweep()
    after = office.reservations.get(KEY)
    if before is None:
        assert after is None
        assert office.image_ids == set()
    elif before.state is ReservationState.KEPT or (delivered and office.bus.published):
        assert after == replace(before, state=ReservationState.KEPT, lease=after.lease)
        assert office.image_ids == {before.promised_image_id}
        assert office.submit(request_id=KEY).request_id == KEY
    else:
        assert after is not None
        assert (after.state, after.leftovers) == (ReservationState.WITHDRAWN, ())
        assert office.image_ids == set()
        assert office.submit(request_id=KEY).request_id != KEY


@pytest.mark.parametrize("number", range(1, 40))
def test_a_power_cut_while_withdrawing_leaves_nothing(office: Office, number: int) -> None:
    office.trouble.plan("bus.publish", Unavailable("away"))
    office.trouble.fatal_call = number
    fails(office)
    give_up(office)
    assert office.image_ids == set()
    promised = office.submit(request_id=KEY)
    assert office.image_ids == {promised.promised_image_id}


@pytest.mark.parametrize("number", range(1, 20))
def test_a_power_cut_while_tidying_up_leaves_nothing(office: Office, number: int) -> None:
    cut(office, 1 + CALLS.index(("bus.publish", 0)))
    assert office.image_ids
    office.clock.advance((ABANDONED + LEASE).total_seconds() + 1)
    office.trouble.fatal_call = len(office.trouble.calls) + number
    with suppress(PowerCut):
        office.tidier().sweep()
    give_up(office)
    assert office.image_ids == set()
    assert stored(office, KEY).leftovers == ()


@pytest.mark.parametrize("gone", [False, True])
def test_what_a_host_has_told_of_is_kept_without_being_published_again(
    office: Office, *, gone: bool
) -> None:
    cut(office, 1 + CALLS.index(("bus.publish done", 0)))
    first = stored(office, KEY)
    office.host_says(SNAPSHOT_START, first)
    office.images.upload(first.promised_image_id, [b"data"])
    if gone:
        office.remove(first.container_uuid)
    # The lease is not over yet; and the bus is away, but nobody needs it.
    office.trouble.plan("bus.publish", Unavailable("away"))
    promised = office.submit(request_id=KEY)
    assert promised.request_id == KEY
    assert len(office.bus.published) == 1
    assert office.image_ids == {first.promised_image_id}
    assert stored(office, KEY).state is ReservationState.KEPT
    with pytest.raises(RequestConflict):
        office.submit(request_id=KEY, tag="other")


def test_an_attempt_is_gone_on_with_for_the_container_that_it_was_for(office: Office) -> None:
    cut(office, 1 + CALLS.index(("bus.publish done", 0)))
    first = stored(office, KEY).container_uuid
    office.container("old", uuid_=first)
    office.clock.advance(1)
    office.container("old", uuid_=first)
    second = office.container("web")
    after_the_lease(office)
    assert office.submit(request_id=KEY).container_uuid == first
    assert {event.payload["container"] for event in office.bus.published} == {first}
    assert office.submit().container_uuid == second


def test_an_attempt_whose_container_is_gone_is_gone_on_with_for_no_other(office: Office) -> None:
    cut(office, 1 + CALLS.index(("bus.publish done", 0)))
    office.remove(stored(office, KEY).container_uuid)
    office.container("web")
    after_the_lease(office)
    with pytest.raises(NotFound):
        office.submit(request_id=KEY)
    assert len(office.bus.published) == 1
    give_up(office)
    assert office.image_ids == set()


def test_what_a_host_has_told_of_is_kept_by_the_router_without_a_dispatch(office: Office) -> None:
    cut(office, 1 + CALLS.index(("bus.publish done", 0)))
    office.host_says(SNAPSHOT_START, stored(office, KEY))
    give_up(office)
    assert stored(office, KEY).state is ReservationState.KEPT
    assert office.image_ids == {image_id_for(KEY)}


@pytest.mark.parametrize("record", [False, True])
def test_what_is_only_promised_is_not_taken_for_told(office: Office, *, record: bool) -> None:
    """As where an index was put back that is newer than the reservations with it."""
    promised = office.submit(request_id=KEY)
    if not record:
        with office.database.transaction() as connection:
            connection.execute(delete(snapshot_table))
    with office.database.transaction() as connection:
        connection.execute(update(reservation_table).values(state="open", open=True))
    give_up(office)
    assert stored(office, KEY).state is ReservationState.WITHDRAWN
    assert office.image_ids == set()
    assert promised.request_id == KEY


# Others in between


@pytest.mark.parametrize("waits", ["images.reserve", "images.reserve done"])
def test_who_lost_its_lease_publishes_and_withdraws_nothing(office: Office, waits: str) -> None:
    others: list[Reservation] = []

    def overtake(call: str) -> None:
        if call == waits and not others:
            others.append(Reservation(*[""] * 4, None, "", office.clock.now()))
            office.clock.advance(LEASE.total_seconds() + 1)
            others[0] = office.submit(request_id=KEY)

    watched(office, overtake)
    with pytest.raises(Unavailable, match="too long"):
        office.submit(request_id=KEY)
    (other,) = others
    assert len(office.bus.published) == 1
    assert office.image_ids == {other.promised_image_id}
    known = stored(office, KEY)
    assert (known.state, known.holder) == (ReservationState.KEPT, other.holder)


def test_who_lost_its_lease_while_publishing_keeps_the_promise_of_both(office: Office) -> None:
    others: list[Reservation] = []

    def overtake(call: str) -> None:
        if call == "bus.publish" and not others:
            others.append(Reservation(*[""] * 4, None, "", office.clock.now()))
            office.clock.advance(LEASE.total_seconds() + 1)
            others[0] = office.submit(request_id=KEY)

    watched(office, overtake)
    assert office.submit(request_id=KEY).answer == others[0].answer
    assert {event.id for event in office.bus.published} == {KEY}
    office.deliver()
    assert len(office.courier.hosts[HOST]) == 1
    assert office.image_ids == {image_id_for(KEY)}


@pytest.mark.parametrize("where", ["images.reserve", "images.reserve done", "bus.publish"])
def test_who_fails_after_another_has_published_the_same_takes_nothing_back(
    office: Office, where: str
) -> None:
    """The first publishes past its lease; the second has taken over, and fails once that is out."""
    slow, taken_over, kept = threading.Event(), threading.Event(), threading.Event()
    seen: list[str] = []

    def hold(call: str) -> None:
        seen.append(call)
        if call == where and slow.is_set():
            taken_over.set()
            assert kept.wait(30)
            raise Unavailable("away")
        if call == "bus.publish" and not slow.is_set():
            office.clock.advance(LEASE.total_seconds() + 1)
            slow.set()
            assert taken_over.wait(30)

    watched(office, hold)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(office.submit, request_id=KEY)
        assert slow.wait(30)
        second = pool.submit(office.submit, request_id=KEY)
        promised = first.result()
        assert stored(office, KEY).state is ReservationState.KEPT
        assert stored(office, KEY).holder != promised.holder
        kept.set()
        assert str(second.exception()) == "away"
    assert "images.discard" not in seen
    assert office.image_ids == {promised.promised_image_id}
    assert office.submit(request_id=KEY).answer == promised.answer
    assert shown(office, KEY).payload["status"] == "queued"
    office.deliver()
    assert [event.id for event in office.courier.hosts[HOST]] == [KEY]
    give_up(office)
    assert office.image_ids == {promised.promised_image_id}


def test_who_fails_before_another_has_published_the_same_takes_it_back_for_both(
    office: Office,
) -> None:
    seen: list[str] = []

    def overtake(call: str) -> None:
        seen.append(call)
        if call == "bus.publish" and seen.count(call) == 1:
            office.clock.advance(LEASE.total_seconds() + 1)
            with pytest.raises(Unavailable, match="away"):
                office.submit(request_id=KEY)
        elif call == "bus.publish" and seen.count(call) == 2:
            raise Unavailable("away")

    watched(office, overtake)
    with pytest.raises(Unavailable, match="taken back"):
        office.submit(request_id=KEY)
    assert office.image_ids == set()
    promised = office.submit(request_id=KEY)
    assert promised.request_id != KEY
    give_up(office)
    assert office.image_ids == {promised.promised_image_id}


def test_what_was_taken_back_while_it_was_published_is_not_promised(office: Office) -> None:
    def take_back(call: str) -> None:
        if call == "bus.publish":
            assert office.reservations.replace(stored(office, KEY).withdrawn(made=True))

    watched(office, take_back)
    with pytest.raises(Unavailable, match="taken back"):
        office.submit(request_id=KEY)
    assert office.index.snapshot(KEY) is None


def test_a_slow_image_service_is_unavailable_and_nothing_is_left(office: Office) -> None:
    def late(call: str) -> None:
        if call == "images.reserve done" and not office.trouble.calls.count(call):
            office.clock.advance(LEASE.total_seconds())

    watched(office, late)
    with pytest.raises(Unavailable, match="too long"):
        office.submit(request_id=KEY)
    assert office.bus.published == []
    assert office.image_ids == set()
    assert office.submit(request_id=KEY).request_id != KEY


def test_the_lease_begins_when_the_attempt_does(office: Office) -> None:
    cut(office, 2 + CALLS.index(("reservations.open", 0)))
    looks: list[str] = []

    def wait(call: str) -> None:
        if call == "reservations.open":
            looks.append(call)
            office.clock.advance(LEASE.total_seconds() - 1)

    watched(office, wait)
    office.submit(request_id=KEY, patience=30.0)
    assert len(looks) == 3
    assert len(office.bus.published) == 1


@pytest.mark.parametrize("status", [ImageStatus.SAVING, ImageStatus.ACTIVE])
@pytest.mark.parametrize("owner", ["project-a", "project-m"])
def test_the_image_of_a_request_that_came_by_the_bus_is_left_alone(
    office: Office, owner: str, status: ImageStatus
) -> None:
    reserved(office, image_id_for(KEY), owner)
    office.images.images[image_id_for(KEY)].status = status
    office.trouble.plan("bus.publish", Unavailable("away"))
    with pytest.raises(RequestConflict, match=KEY):
        office.submit(request_id=KEY)
    give_up(office)
    assert office.image_ids == {image_id_for(KEY)}
    assert office.bus.published == []


def test_anothers_image_that_waits_for_data_is_left_alone(office: Office) -> None:
    reserved(office, image_id_for(KEY), "project-m")
    with pytest.raises(RequestConflict, match=KEY):
        office.submit(request_id=KEY, who=ALICE)
    give_up(office)
    assert office.image_ids == {image_id_for(KEY)}


@pytest.mark.parametrize("named", [{"request_id": KEY}, {"key": "k"}])
def test_an_image_id_that_is_spent_leaves_nothing_and_is_not_tried_again(
    office: Office, named: dict[str, Any]
) -> None:
    office.trouble.plan("images.reserve", ImageIdSpent("used before"))
    with pytest.raises(Unavailable, match="used before; send the request again"):
        office.submit(**named)
    (first,) = (call for call in office.trouble.calls if call.startswith("images."))
    assert first == "images.reserve"
    promised = office.submit(**named)
    assert promised.attempt == 2
    assert office.image_ids == {promised.promised_image_id}
    assert office.bus.published[0].id == promised.request_id != promised.first_id


@pytest.mark.parametrize("error", [ImageIdSpent, None])
@pytest.mark.parametrize("status", list(ImageStatus))
def test_what_another_project_has_under_the_id_is_never_deleted(
    office: Office, status: ImageStatus, error: type[Exception] | None
) -> None:
    """Glance tells of it, or not: to whom may not see it the id is only spent."""
    theirs = image_id_for(KEY)
    reserved(office, theirs, MALLORY.project_id)
    office.images.images[theirs].status = status
    if error is not None:
        office.trouble.plan("images.reserve", error("used before"))
    # What is left to routers they delete in everybody's name.
    office.trouble.plan("images.discard", Unavailable("away"), times=10)
    raised = fails(office)
    assert isinstance(raised, RequestConflict if error is None else Unavailable)
    known = stored(office, KEY)
    assert (known.state, known.leftovers) == (ReservationState.WITHDRAWN, ())
    give_up(office)
    assert office.image_ids == {theirs}
    assert "images.discard" not in office.trouble.calls
    assert office.bus.published == []


def test_an_id_that_was_used_on_the_bus_is_a_conflict(office: Office) -> None:
    promised = office.submit(request_id=KEY)
    office.host_says(SNAPSHOT_START, promised)
    office.reservations.prune(office.clock.now() + timedelta(days=36500))
    with pytest.raises(RequestConflict, match=KEY):
        office.submit(request_id=KEY)
    assert office.reservations.get(KEY) is None
    assert office.image_ids == {image_id_for(KEY)}


# Tidying up


@pytest.mark.parametrize("error", [Unavailable, Refused, RuntimeError])
def test_one_that_cannot_be_tidied_up_keeps_no_others_waiting(
    office: Office, error: type[Exception]
) -> None:
    keys = [str(uuid.UUID(int=number + 1)) for number in range(3)]
    for key in keys:
        office.trouble.plan("bus.publish", Unavailable("away"))
        office.trouble.plan("images.discard", Unavailable("away"))
        with pytest.raises(Unavailable):
            office.submit(request_id=key)
        office.trouble.end()
    assert len(office.image_ids) == 3
    after_the_lease(office)
    office.trouble.plan("images.discard", error("planned"))
    assert office.tidier().sweep() == 3
    assert len(office.image_ids) == 1
    assert office.tidier().sweep() == 0, "it waits for its lease"
    after_the_lease(office)
    assert office.tidier().sweep() == 1
    assert office.image_ids == set()


def test_a_database_that_is_away_is_told(office: Office) -> None:
    office.trouble.plan("reservations.claim", Unavailable("away"))
    with pytest.raises(Unavailable):
        office.tidier().sweep()


def test_a_router_without_the_image_service_leaves_images_to_one_that_has_it(
    office: Office,
) -> None:
    cut(office, 1 + CALLS.index(("bus.publish", 0)))
    blind = replace(office.tidier(), images=None)
    office.clock.advance((ABANDONED + LEASE).total_seconds() + 1)
    assert blind.sweep() == 1
    assert stored(office, KEY).state is ReservationState.WITHDRAWN
    assert office.image_ids == {image_id_for(KEY)}
    after_the_lease(office)
    assert office.tidier().sweep() == 1
    assert office.image_ids == set()


def test_nothing_is_taken_back_while_requests_wait_to_be_heard(office: Office) -> None:
    """Routers were away: what looks abandoned may be in the queue."""
    cut(office, 1 + CALLS.index(("bus.publish", 0)))
    office.ears.deaf = True
    office.clock.advance((ABANDONED + LEASE).total_seconds() + 1)
    assert office.tidier().sweep() == 1
    assert stored(office, KEY).state is ReservationState.OPEN
    assert office.image_ids == {image_id_for(KEY)}
    office.ears.deaf = False
    office.clock.advance((ABANDONED + LEASE).total_seconds() + 1)
    assert office.tidier().sweep() == 1
    assert office.image_ids == set()


def test_who_takes_over_just_before_the_tidier_keeps_the_image(office: Office) -> None:
    cut(office, 1 + CALLS.index(("bus.publish", 0)))
    office.clock.advance((ABANDONED + LEASE).total_seconds() + 1)
    promised: list[Reservation] = []

    def overtake(call: str) -> None:
        if call == "dispatches.get" and not promised:
            # The claim gave the router a lease; here that is over, as if it had slept for long.
            office.clock.advance(LEASE.total_seconds() + 1)
            promised.append(stored(office, KEY))
            promised[0] = office.submit(request_id=KEY)

    watched(office, overtake)
    office.tidier().sweep()
    assert promised[0].request_id == KEY
    assert office.image_ids == {image_id_for(KEY)}
    assert stored(office, KEY).state is ReservationState.KEPT


# What is seen at once


def test_a_promise_is_seen_at_once_in_the_form_of_an_event(office: Office) -> None:
    promised = office.submit(tag="v1", metadata={"a": "b"})
    for ident in (promised.request_id, promised.answer["snapshot_id"]):
        payload = shown(office, ident).payload
        assert validate("image.snapshot", payload) == []
        about = {
            "request_id": promised.request_id,
            "image_id": promised.promised_image_id,
            "container_uuid": promised.container_uuid,
            "container_name": "web",
            "host": HOST,
            "project_id": "project-a",
            "user_id": "alice",
            "tag": "v1",
            "metadata": {"a": "b"},
            "status": "queued",
            "phase": "accepted",
            "created_at": office.clock.now().isoformat(),
            "finished_at": None,
            "fault": None,
        }
        assert about.items() <= payload.items()


@pytest.mark.parametrize(
    "event_type", [SNAPSHOT_START, SNAPSHOT_PROGRESS, SNAPSHOT_END, SNAPSHOT_ERROR, SNAPSHOT_EXISTS]
)
@pytest.mark.parametrize("first", [False, True])
def test_any_event_counts_more_than_the_promise(
    office: Office, event_type: str, *, first: bool
) -> None:
    promised = office.submit(request_id=KEY)
    promise = shown(office, KEY)
    if first:
        with office.database.transaction() as connection:
            connection.execute(delete(snapshot_table))
    told = office.host_says(event_type, promised)
    if first:
        office.index.note([promise])
    seen = shown(office, KEY)
    assert seen.told
    assert seen.payload == told.payload


# On the way to the host


def test_the_router_sends_what_is_only_promised_to_its_host(office: Office) -> None:
    promised = office.submit()
    assert not shown(office, promised.request_id).told
    office.deliver()
    (sent,) = office.courier.hosts[HOST]
    assert sent.payload["image_id"] == promised.promised_image_id
    assert sent.payload["container"] == promised.container_uuid
    dispatch = office.dispatcher.dispatches.get(promised.request_id)
    assert dispatch is not None
    assert dispatch.state is DispatchState.SENT


def test_what_a_host_has_told_of_is_in_hand_though_no_router_knows_it(office: Office) -> None:
    promised = office.submit()
    office.host_says(SNAPSHOT_START, promised)
    office.deliver()
    assert office.courier.hosts[HOST] == []
    assert office.courier.told == []


def test_the_image_of_a_silent_host_is_deleted(office: Office) -> None:
    promised = office.submit()
    office.deliver()
    office.sweep(100)
    (error,) = {event.id: event for event in office.courier.told}.values()
    assert error.payload["request_id"] == promised.request_id
    assert error.payload["fault"]["code"] == 504
    assert error.payload["fault"]["image_deleted"] is True
    assert office.image_ids == set()


def test_the_image_of_a_silent_host_that_has_begun_is_left_to_what_it_told(
    office: Office,
) -> None:
    promised = office.submit(deadline="2026-01-01T00:05:00Z")
    office.deliver()
    office.host_says(SNAPSHOT_START, promised)
    office.sweep(60 + 20)
    assert office.image_ids == {promised.promised_image_id}, "it works on it until its deadline"


def test_the_image_goes_when_the_container_does(office: Office) -> None:
    promised = office.submit()
    office.remove(promised.container_uuid)
    office.deliver()
    office.sweep(10)
    (error,) = {event.id: event for event in office.courier.told}.values()
    assert error.payload["fault"]["code"] == 404
    assert office.image_ids == set()


# Cancelling


def test_a_cancellation_is_published_on_the_callers_behalf(office: Office) -> None:
    promised = office.submit()
    office.commits().cancel(office.caller(), shown(office, promised.request_id))
    event = office.bus.published[-1]
    assert event.type == COMMIT_CANCEL
    assert event.payload == {"request_id": promised.request_id}
    assert event.requester == ALICE
    assert is_uuid(event.id)


def test_a_cancellation_that_overtakes_its_request_stops_it_all_the_same(office: Office) -> None:
    """It finds nothing at the host; so the image goes, and the request with it."""
    promised = office.submit()
    assert office.image_ids == {promised.promised_image_id}
    office.commits().cancel(office.caller(), shown(office, promised.request_id))
    assert office.image_ids == set()


def test_the_image_of_what_a_host_has_begun_is_the_hosts_to_delete(office: Office) -> None:
    promised = office.submit()
    office.host_says(SNAPSHOT_START, promised)
    office.commits().cancel(office.caller(), shown(office, promised.request_id))
    assert office.image_ids == {promised.promised_image_id}


def test_two_cancellations_are_two_messages(office: Office) -> None:
    record = shown(office, office.submit().request_id)
    for _ in range(2):
        office.commits().cancel(office.caller(), record)
    assert office.bus.published[-1].id != office.bus.published[-2].id


def test_who_may_not_cancel_is_forbidden(office: Office) -> None:
    record = shown(office, office.submit().request_id)
    for caller in (office.caller(MALLORY), Caller(ALICE, lambda action, _: "cancel" not in action)):
        with pytest.raises(Forbidden, match="your roles"):
            office.commits().cancel(caller, record)
    assert len(office.bus.published) == 1


def test_what_has_ended_cannot_be_cancelled(office: Office) -> None:
    promised = office.submit(request_id=KEY)
    office.host_says(SNAPSHOT_END, promised)
    with pytest.raises(WrongState, match=promised.promised_image_id):
        office.commits().cancel(office.caller(), shown(office, promised.request_id))
    assert len(office.bus.published) == 1


def test_a_bus_that_is_away_is_told_to_who_cancels(office: Office) -> None:
    record = shown(office, office.submit().request_id)
    office.trouble.plan("bus.publish", Unavailable("away"))
    with pytest.raises(Unavailable):
        office.commits().cancel(office.caller(), record)


def test_the_walks_above_are_complete() -> None:
    """Fail when a call is added of which the tests of failures know nothing."""
    assert {call.partition(".")[0] for call, _ in CALLS} == ERRORS.keys()
    assert any(call == "images.describe" for call, _ in calls_of_a_clean_run(image_id=OTHER))
