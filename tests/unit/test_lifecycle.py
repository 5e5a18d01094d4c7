"""What is told of containers: ids, states, names, and that every event passes its schema."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.twins import HOST, checked
from tintype.adapters import envelope
from tintype.core.engine import Container, ContainerState, EngineAction, EngineEvent
from tintype.core.events import (
    CONTAINER_CREATE,
    CONTAINER_DELETE,
    CONTAINER_EXISTS,
    CONTAINER_PAUSE,
    CONTAINER_RENAME,
    CONTAINER_START,
    CONTAINER_STOP,
    CONTAINER_UNPAUSE,
    CONTAINER_UPDATE,
    Event,
    Requester,
)
from tintype.core.lifecycle import (
    LABELS_BYTES,
    LONGEST_IMAGE,
    TOLD_AS,
    Teller,
    from_nanoseconds,
    nanoseconds,
    of_engine_event,
    remembered,
)
from tintype.core.ownership import Ownership

C1, C2 = "1" * 64, "2" * 64
ZUN = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
NOON = datetime(2026, 3, 4, 12, 0, 0, 123456, tzinfo=UTC)
AT = nanoseconds(NOON)
TELLER = Teller(HOST, Ownership(default_project_id="p-default", default_user_id=None))
LABELS = {"tintype.project_id": "p-1", "tintype.user_id": "u-1", "a": "é"}


def container(**about: Any) -> Container:
    plain: dict[str, Any] = {
        "engine_id": C1,
        "uuid": C1,
        "name": "web",
        "state": ContainerState.RUNNING,
        "image": "busybox:latest",
        "image_id": "sha256:" + "0" * 64,
        "labels": LABELS,
        "created_at": "2026-03-04T11:00:00+00:00",
    }
    return Container(**{**plain, **about})


def engine_event(action: EngineAction, at: int = AT, **about: Any) -> EngineEvent:
    plain: dict[str, Any] = {"engine_id": C1, "name": "web", "image": "busybox:latest"}
    return EngineEvent(action=action, at=at, **{**plain, **about})


def happened(action: EngineAction, at: int = AT, **about: Any) -> Event:
    known = TELLER.describe(container())
    return checked(TELLER.happened(known, engine_event(action, at, **about)))


# Describing


def test_a_container_is_described_under_the_contracts_names() -> None:
    assert TELLER.describe(container()) == {
        "schema_version": "1.0",
        "host": HOST,
        "container_uuid": C1,
        "engine_container_id": C1,
        "container_name": "web",
        "state": "Running",
        "base_image": "busybox:latest",
        "labels": LABELS,
        "project_id": "p-1",
        "tenant_id": "p-1",
        "user_id": "u-1",
        "created_at": "2026-03-04T11:00:00+00:00",
        "exit_code": None,
        "old_name": None,
    }


def test_who_owns_it_is_said_by_its_labels_or_the_configuration() -> None:
    told = TELLER.describe(container(labels={}, created_at=""))
    assert (told["project_id"], told["user_id"], told["created_at"]) == ("p-default", None, None)
    other = Teller(HOST, Ownership("owner", "who"))
    told = other.describe(container(labels={"owner": "p-2", **LABELS}))
    assert (told["project_id"], told["tenant_id"], told["user_id"]) == ("p-2", "p-2", None)


def test_an_event_is_on_behalf_of_the_owner() -> None:
    assert happened(EngineAction.START).requester == Requester("p-1", "u-1")
    assert TELLER.exists(TELLER.describe(container(labels={})), NOON).requester == Requester(
        "p-default", None
    )


# What is too large to be told


def size(labels: dict[str, str]) -> int:
    return sum(
        len(f"{name}{text}".encode("utf-8", "surrogatepass")) for name, text in labels.items()
    )


def test_labels_that_mean_something_come_first_and_others_by_name() -> None:
    ours = {"who": "u-2", "tintype.snapshot.on": "stop", "tintype.a": "b", "owner": "p-2"}
    others = {f"a{number:04}": "x" * 90 for number in range(1000)}
    told = Teller(HOST, Ownership("owner", "who")).describe(container(labels={**others, **ours}))
    kept = told["labels"]
    assert ours.items() <= kept.items()
    left = sorted(kept.keys() - ours)
    assert left == sorted(others)[: len(left)]
    assert LABELS_BYTES - 95 < size(kept) <= LABELS_BYTES


def test_a_label_that_is_too_large_takes_no_others_place() -> None:
    huge = dict.fromkeys(("a", "tintype.snapshot.on"), "\u20ac" * LABELS_BYTES)
    told = TELLER.describe(container(labels={**huge, **LABELS, "z": "z"}))
    assert told["labels"] == {**LABELS, "z": "z"}
    huge = {"tintype.project_id": "p" * LABELS_BYTES}
    assert TELLER.describe(container(labels=huge))["project_id"] == "", "nobody's"


@pytest.mark.parametrize("text", ["\x01", "\ud800", "\u20ac", '"', "\U0001f600"])
def test_the_largest_event_is_one_that_every_consumer_takes(text: str) -> None:
    every = LABELS_BYTES // len(text.encode("utf-8", "surrogatepass")) - 1
    for labels in ({"a": text * every}, {f"{n}{text}": "" for n in range(100_000)}):
        known = TELLER.describe(container(labels=labels))
        assert size(known["labels"]) > LABELS_BYTES - 20
        told = TELLER.exists(known, NOON)
        body = envelope.seal(Event(told.type, told.payload, told.requester, told.id), "agent")
        assert len(body) < 1024 * 1024


def test_an_images_name_that_no_event_can_carry_is_not_told() -> None:
    longest = "x" * LONGEST_IMAGE
    assert TELLER.describe(container(image=longest))["base_image"] == longest
    told = TELLER.describe(container(image=longest + "x"))
    assert told["base_image"] is None
    checked(TELLER.exists(told, NOON))


# What has happened


@pytest.mark.parametrize(
    ("action", "event_type", "state"),
    [
        (EngineAction.CREATE, CONTAINER_CREATE, "Other"),
        (EngineAction.START, CONTAINER_START, "Running"),
        (EngineAction.PAUSE, CONTAINER_PAUSE, "Paused"),
        (EngineAction.UNPAUSE, CONTAINER_UNPAUSE, "Running"),
        (EngineAction.DIE, CONTAINER_STOP, "Stopped"),
        (EngineAction.RENAME, CONTAINER_RENAME, None),
        (EngineAction.UPDATE, CONTAINER_UPDATE, None),
        (EngineAction.DESTROY, CONTAINER_DELETE, None),
    ],
)
def test_each_action_is_told_with_the_state_after_it(
    action: EngineAction, event_type: str, state: str | None
) -> None:
    told = happened(action)
    assert told.type == event_type
    assert told.payload["state"] == state
    assert told.payload["occurred_at"] == NOON.isoformat(timespec="microseconds")
    assert told.payload["container_name"] == "web"
    assert told.payload["host"] == HOST


def test_every_action_of_the_engine_is_told() -> None:
    assert TOLD_AS.keys() == set(EngineAction)
    assert len(set(TOLD_AS.values())) == len(EngineAction)


@pytest.mark.parametrize("code", [0, 137, None])
def test_the_exit_code_is_told_once(code: int | None) -> None:
    died = happened(EngineAction.DIE, exit_code=code)
    assert died.payload["exit_code"] == code
    known = remembered(died, {})
    assert TELLER.happened(known, engine_event(EngineAction.START)).payload["exit_code"] is None


def test_a_rename_tells_both_names() -> None:
    told = happened(EngineAction.RENAME, name="db")
    assert (told.payload["container_name"], told.payload["old_name"]) == ("db", "web")
    after = TELLER.happened(remembered(told, {}), engine_event(EngineAction.UPDATE))
    assert (after.payload["container_name"], after.payload["old_name"]) == ("db", None)


def test_an_old_name_that_is_not_known_is_not_told() -> None:
    assert happened(EngineAction.RENAME, name="web").payload["old_name"] is None
    nameless = {**TELLER.describe(container()), "container_name": None}
    told = checked(TELLER.happened(nameless, engine_event(EngineAction.RENAME, name="db")))
    assert (told.payload["container_name"], told.payload["old_name"]) == ("db", None)


# Ids


@pytest.mark.parametrize("action", EngineAction)
def test_what_happens_once_has_one_id_and_all_else_one_for_each_time(action: EngineAction) -> None:
    once = action in (EngineAction.CREATE, EngineAction.DESTROY)
    assert happened(action, AT).id == happened(action, AT).id
    assert (happened(action, AT).id == happened(action, AT + 1).id) == once


def test_no_two_things_that_happen_have_one_id() -> None:
    known = [TELLER.describe(container(uuid=uuid)) for uuid in (C1, C2, ZUN)]
    events = [TELLER.happened(each, engine_event(act)) for each in known for act in EngineAction]
    events += [TELLER.exists(each, NOON) for each in known]
    assert len({event.id for event in events}) == len(events)


def test_a_deletion_has_the_same_id_however_it_was_found_out() -> None:
    known = TELLER.describe(container())
    gone = checked(TELLER.gone(known, NOON + timedelta(hours=1)))
    assert gone.id == happened(EngineAction.DESTROY).id
    assert gone.type == CONTAINER_DELETE
    assert gone.payload["state"] is None
    assert gone.payload["occurred_at"] == "2026-03-04T13:00:00.123456+00:00"


def test_an_id_does_not_depend_on_what_else_is_known() -> None:
    bare = TELLER.describe(of_engine_event(engine_event(EngineAction.START)))
    for action in EngineAction:
        event = engine_event(action)
        assert checked(TELLER.happened(bare, event)).id == happened(action).id


def test_exists_has_one_id_for_each_moment() -> None:
    known = TELLER.describe(container())
    told = checked(TELLER.exists(known, NOON))
    assert told.type == CONTAINER_EXISTS
    assert told.payload["state"] == "Running"
    assert told.payload["occurred_at"] == NOON.isoformat()
    assert TELLER.exists({**known, "state": "Paused"}, NOON).id == told.id
    assert TELLER.exists(known, NOON + timedelta(microseconds=1)).id != told.id


# What is remembered


@pytest.mark.parametrize("state", ContainerState)
def test_remembered_is_how_the_container_is_not_what_has_happened(state: ContainerState) -> None:
    before = TELLER.describe(container(state=state))
    told = TELLER.happened(before, engine_event(EngineAction.RENAME, name="db"))
    assert remembered(told, before) == {**before, "container_name": "db"}
    stopped = TELLER.happened(before, engine_event(EngineAction.DIE, exit_code=3))
    assert remembered(stopped, before) == {**before, "state": "Stopped"}


def test_of_a_container_not_known_before_the_state_may_not_be_known() -> None:
    before = TELLER.describe(container())
    told = TELLER.happened(before, engine_event(EngineAction.UPDATE))
    assert remembered(told, {})["state"] is None


# When all there is is the event


def test_an_event_of_the_engine_says_who_its_container_is() -> None:
    made = of_engine_event(
        engine_event(EngineAction.CREATE, name=f"zun-{ZUN}", labels=LABELS, image="nginx")
    )
    assert (made.uuid, made.engine_id, made.name) == (ZUN, C1, f"zun-{ZUN}")
    told = TELLER.describe(made)
    assert (told["project_id"], told["base_image"], told["state"]) == ("p-1", "nginx", "Other")
    assert of_engine_event(engine_event(EngineAction.CREATE)).uuid == C1


# Moments


MOMENTS = st.integers(0, 7 * 10**15).map(
    lambda count: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=count)
)


@given(MOMENTS)
def test_a_moment_survives_being_counted_in_nanoseconds(moment: datetime) -> None:
    assert from_nanoseconds(nanoseconds(moment)) == moment


@given(st.integers(0, 2**63 - 1))
def test_nanoseconds_lose_nothing_above_a_microsecond(at: int) -> None:
    assert nanoseconds(from_nanoseconds(at)) == at // 1000 * 1000


def test_moments_in_order_are_told_in_order() -> None:
    told = [happened(EngineAction.START, AT + step).payload["occurred_at"] for step in (0, 10**3)]
    assert told == sorted(set(told))
    assert datetime.fromisoformat(told[0]) == NOON


# Schemas


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(
    st.sampled_from(ContainerState),
    st.dictionaries(TEXT, TEXT, max_size=5),
    st.sampled_from(EngineAction),
    st.none() | st.integers(0, 255),
    st.integers(0, 2**62),
)
def test_every_event_passes_its_schema(
    state: ContainerState,
    labels: dict[str, str],
    action: EngineAction,
    exit_code: int | None,
    at: int,
) -> None:
    known = TELLER.describe(replace(container(), state=state, labels=labels))
    event = engine_event(action, at, exit_code=exit_code, labels=labels)
    checked(TELLER.exists(known, NOON))
    checked(TELLER.gone(known, NOON))
    told = checked(TELLER.happened(known, event))
    checked(TELLER.exists(remembered(told, known), NOON))
    checked(TELLER.happened(TELLER.describe(of_engine_event(event)), event))
