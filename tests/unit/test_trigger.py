"""Triggers as functions: a container's event in, commit requests or the owner's mistakes out."""

from __future__ import annotations

import queue
import re
import textwrap
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import oslo_messaging
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.twins import ADMIN, HOST, Bench, checked
from tintype.adapters.clock import ManualClock
from tintype.adapters.cron import next_after
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_store import MemoryStore
from tintype.core.engine import ContainerState
from tintype.core.events import (
    COMMIT_REQUEST,
    CONTAINER_CREATE,
    CONTAINER_DELETE_START,
    CONTAINER_EXISTS,
    CONTAINER_SCHEDULE,
    CONTAINER_START,
    CONTAINER_STOP,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    Event,
    Requester,
    derived_id,
)
from tintype.core.ports import Handler, Services
from tintype.core.rules import Rule
from tintype.handlers.trigger import mistakes, react, scheduled
from tintype.schemas import validate

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
ENGINE_ID = "0123456789abcdef" * 4
EVENT_ID = derived_id("test", "event")
AT = "2026-11-24T22:15:00.123456+00:00"
ON = "tintype.snapshot.on"
IMAGE = "tintype.snapshot.image"
SCHEDULE = "tintype.snapshot.schedule"


@pytest.fixture
def services() -> Services:
    """A host with twins; triggers need nothing of them but the time."""
    return Services(
        engine=MemoryEngine(),
        stores={"glance": MemoryStore("glance")},
        clock=ManualClock(),
        host=HOST,
        default_stores=("glance",),
        cron=next_after,
    )


def told(event_type: str = CONTAINER_STOP, labels: Any = None, **about: Any) -> Event:
    """Return an event about a container, as another service's admin sent it."""
    payload = {
        "event_id": EVENT_ID,
        "schema_version": "1.0",
        "occurred_at": AT,
        "host": HOST,
        "container_uuid": UUID,
        "engine_container_id": ENGINE_ID,
        "container_name": "web",
        "state": "Stopped",
        "base_image": "busybox:latest",
        "labels": labels,
        "project_id": "project-a",
        "tenant_id": "project-a",
        "user_id": "alice",
        "created_at": AT,
        "exit_code": 0,
        "old_name": None,
        **about,
    }
    return Event(event_type, payload, ADMIN, EVENT_ID)


def made(handler: Handler, event: Event, services: Services) -> list[Event]:
    """Run a handler, twice, for it keeps nothing; what it yields is valid."""
    events = list(handler(event, services))
    assert list(handler(event, services)) == events
    assert len({event.id for event in events}) == len(events)
    for each in events:
        if each.type == SNAPSHOT_ERROR:
            checked(each)
        else:
            assert validate(each.type, each.payload) == []
            assert each.payload["request_id"] == each.id
    return events


def only(handler: Handler, event: Event, services: Services) -> Event:
    (one,) = made(handler, event, services)
    return one


# What happens


def test_a_stop_asks_for_a_snapshot(services: Services) -> None:
    labels = {
        ON: "stop",
        IMAGE: "backup/{container_name}:{time}",
        "tintype.snapshot.keep-last": "3",
        "tintype.snapshot.keep-days": "30",
        "tintype.snapshot.stores": "glance,directory",
    }
    request = only(react, told(labels=labels), services)

    assert request.type == COMMIT_REQUEST
    assert request.requester == Requester("project-a", "alice", is_admin=False)
    assert request.payload == {
        "container": ENGINE_ID,
        "image_name": "backup/web",
        "tag": "20261124t221500",
        "request_id": derived_id(EVENT_ID, "label", "trigger"),
        "host": HOST,
        "backup_type": "label",
        "rotation": 3,
        "keep_days": 30,
        "stores": ["glance", "directory"],
        "metadata": {"trigger": "stop", "rule": "label"},
    }


def test_a_rule_that_says_little_asks_for_little(services: Services) -> None:
    event = told(labels={ON: "die"}, engine_container_id=None, host=None, project_id=None)
    request = only(react, replace(event, payload={**event.payload, "tenant_id": None}), services)
    assert request.requester == Requester(None, "alice")
    assert request.payload == {
        "container": UUID,
        "image_name": "web",
        "tag": "stop-20261124t221500",
        "request_id": request.id,
        "backup_type": "label",
        "metadata": {"trigger": "stop", "rule": "label"},
    }


@pytest.mark.parametrize(
    ("event_type", "on", "trigger"),
    [
        (CONTAINER_STOP, "stop", "stop"),
        (CONTAINER_STOP, "stop,before-delete", "stop"),
        (CONTAINER_STOP, "before-delete", None),
        (CONTAINER_DELETE_START, "before-delete", "before-delete"),
        (CONTAINER_DELETE_START, "stop;before-delete", "before-delete"),
        (CONTAINER_DELETE_START, "stop", None),
        (CONTAINER_STOP, "schedule=@daily", None),
        (CONTAINER_START, "stop,before-delete", None),
        (CONTAINER_EXISTS, "stop,before-delete", None),
    ],
)
def test_each_event_triggers_what_is_on_it(
    services: Services, event_type: str, on: str, trigger: str | None
) -> None:
    requests = made(react, told(event_type, {ON: on}), services)
    assert [request.payload["metadata"]["trigger"] for request in requests] == (
        [trigger] if trigger else []
    )


def test_a_container_that_nobody_asks_for_is_left_alone(services: Services) -> None:
    for labels in (None, {}, {"tier": "front"}):
        assert made(react, told(labels=labels), services) == []
        assert made(mistakes, told(labels=labels), services) == []


def test_configured_rules_ask_beside_the_labels(services: Services) -> None:
    stop = frozenset({"stop"})
    rules = (
        Rule("all", on=stop, keep_last=2, pause=False),
        Rule("theirs", on=stop, project_id="project-b"),
        Rule("later", on=frozenset({"before-delete"})),
        Rule("web", on=stop, container_name="web", image_name="x/{container_uuid}"),
    )
    requests = made(react, told(labels={ON: "stop"}), replace(services, rules=rules))

    series = [request.payload["backup_type"] for request in requests]
    assert series == ["label", "all", "web"]
    assert requests[1].payload["pause"] is False
    assert requests[1].payload["rotation"] == 2
    assert requests[2].payload["image_name"] == f"x/{UUID}"


def test_another_event_or_rule_is_another_request(services: Services) -> None:
    first = only(react, told(labels={ON: "stop"}), services)
    other = only(react, told(labels={ON: "stop"}, event_id="another"), services)
    assert first.id != other.id
    assert first.payload["request_id"] != other.payload["request_id"]


# Mistakes


WRONG = {
    "unknown on": ({ON: "stpo"}, "tintype.snapshot.on: expected stop, die, before-delete"),
    "unknown field": ({ON: "stop", IMAGE: "{x}"}, "tintype.snapshot.image: expected only"),
    "bad number": ({ON: "stop", "tintype.snapshot.keep-last": "x"}, "keep-last: expected a whole"),
    "unknown label": ({ON: "stop", "tintype.snapshot.x": "y"}, "/labels/tintype.snapshot.x: exp"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_label_is_told_and_not_raised(services: Services, case: str) -> None:
    labels, words = WRONG[case]
    error = only(react, told(labels=labels), services)

    assert error.type == SNAPSHOT_ERROR
    assert error.requester == Requester("project-a", "alice")
    assert error.payload["fault"]["code"] == 400
    assert words in error.payload["fault"]["message"]
    assert error.payload["container_uuid"] == UUID
    assert error.payload["engine_container_id"] == ENGINE_ID
    assert error.payload["container_name"] == "web"
    assert error.payload["metadata"] == {"trigger": "stop", "rule": "label"}
    assert error.payload["host"] == HOST


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_has_one_id_however_often_it_is_met(services: Services, case: str) -> None:
    labels, _ = WRONG[case]
    span = {"since": AT, "now": AT}
    again: dict[str, Any] = {"event_id": "another", "occurred_at": "2027-01-01"}
    met = [
        only(mistakes, told(CONTAINER_CREATE, labels, state="Other"), services),
        only(react, told(labels=labels), services),
        only(scheduled, told(CONTAINER_SCHEDULE, labels, **span), services),
        only(react, told(CONTAINER_DELETE_START, labels), services),
    ]
    met_again = [
        only(mistakes, told(CONTAINER_EXISTS, labels, **again), services),
        only(react, told(labels=labels, **again), services),
        only(scheduled, told(CONTAINER_SCHEDULE, labels, **span, **again), services),
        only(react, told(CONTAINER_DELETE_START, labels, occurred_at="2027-01-01"), services),
    ]
    assert [error.payload["metadata"].get("trigger") for error in met] == [
        None,
        "stop",
        "schedule",
        "before-delete",
    ]
    assert [error.id for error in met] == [error.id for error in met_again]
    for ids in ({each.id for each in met}, {each.payload["request_id"] for each in met}):
        assert len(ids) == 4
    other_deletion = only(react, told(CONTAINER_DELETE_START, labels, **again), services)
    assert other_deletion.id not in {error.id for error in met}, "somebody waits for an answer"
    corrected = only(mistakes, told(labels={**labels, ON: "nonsense"}), services)
    elsewhere = only(mistakes, told(labels=labels, container_uuid="other"), services)
    assert len({met[0].id, corrected.id, elsewhere.id}) == 3


@pytest.mark.parametrize(
    ("labels", "where"),
    [
        ({SCHEDULE: "0 3 * *"}, "/labels/tintype.snapshot.schedule: expected a cron"),
        ({ON: "stop;schedule=0 0 30 2 *"}, "/labels/tintype.snapshot.on: expected a cron"),
    ],
)
def test_a_bad_schedule_is_told_when_the_container_is_made(
    services: Services, labels: dict[str, str], where: str
) -> None:
    early = only(mistakes, told(CONTAINER_CREATE, labels), services)
    late = only(scheduled, told(CONTAINER_SCHEDULE, labels, since=AT, now=AT), services)

    assert where in early.payload["fault"]["message"]
    assert early.id != late.id
    assert early.payload["metadata"] == {"rule": "label"}
    assert late.payload["metadata"] == {"trigger": "schedule", "rule": "label"}
    stopped = made(react, told(labels=labels), services)
    assert [event.type for event in stopped] == ([COMMIT_REQUEST] if ON in labels else [])


def test_good_labels_are_no_mistake(services: Services) -> None:
    labels = {ON: "stop;before-delete;schedule=0 3 * * 1,3", IMAGE: "{container_name}:{date}"}
    assert made(mistakes, told(CONTAINER_CREATE, labels), services) == []


def test_a_bad_label_does_not_stop_the_configured_rules(services: Services) -> None:
    rules = (Rule("all", on=frozenset({"stop"})),)
    events = made(react, told(labels={ON: "x"}), replace(services, rules=rules))
    assert [event.type for event in events] == [SNAPSHOT_ERROR, COMMIT_REQUEST]


def test_a_bad_template_of_a_configured_rule_is_told_too(services: Services) -> None:
    rules = (
        Rule("bad", on=frozenset({"stop"}), image_name="{x}"),
        Rule("good", on=frozenset({"stop"})),
    )
    error, request = made(react, told(), replace(services, rules=rules))
    assert error.payload["metadata"] == {"trigger": "stop", "rule": "bad"}
    assert "/image_name: expected only the fields" in error.payload["fault"]["message"]
    assert request.payload["backup_type"] == "good"


def test_hostile_labels_are_answered_with_few_words(services: Services) -> None:
    labels = {f"tintype.snapshot.{'x' * 1000}{number}": "\ud800" * 1000 for number in range(100)}
    error = only(react, told(labels=labels), services)
    assert len(error.payload["fault"]["message"]) <= 2000
    error.payload["fault"]["message"].encode()


# Whoever waits before a deletion


def heard(uuid: str, event: Event) -> bool:
    """Tell whether the listener that docs/triggers.md shows takes an event for its outcome."""
    text = (Path(__file__).parents[2] / "docs" / "triggers.md").read_text(encoding="utf-8")
    example = re.search(
        r"^ +class Endpoint:.*?info = error = _heard$", text, re.DOTALL | re.MULTILINE
    )
    assert example is not None
    outcome: queue.Queue[str] = queue.Queue()
    names: dict[str, Any] = {
        "oslo_messaging": oslo_messaging,
        "container": SimpleNamespace(uuid=uuid),
        "outcome": outcome,
    }
    exec(textwrap.dedent(example.group()), names)
    endpoint = names["Endpoint"]()
    about = ({}, "agent", event.type, {}, event.payload)
    if endpoint.filter_rule.match(*about):
        endpoint.info({}, "agent", event.type, event.payload, {})
    return not outcome.empty()


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_ends_the_wait_for_a_deletion(services: Services, case: str) -> None:
    labels, _ = WRONG[case]
    assert heard(UUID, only(react, told(CONTAINER_DELETE_START, labels), services))
    assert not heard("other", only(react, told(CONTAINER_DELETE_START, labels), services))
    assert not heard(UUID, only(react, told(labels=labels), services))
    assert not heard(UUID, only(mistakes, told(CONTAINER_CREATE, labels), services))


@pytest.mark.parametrize(
    ("state", "labels", "code"),
    [
        (ContainerState.RUNNING, {}, None),
        (ContainerState.OTHER, {}, 409),
        (ContainerState.RUNNING, {"tintype.snapshot.stores": "nowhere"}, 400),
    ],
    ids=["a good one", "in a bad state", "a bad store"],
)
def test_every_outcome_of_the_request_ends_the_wait_for_a_deletion(
    state: ContainerState, labels: dict[str, str], code: int | None
) -> None:
    bench = Bench()
    labels = {"tintype.project_id": "project-a", ON: "before-delete", **labels}
    there = bench.container(f"zun-{UUID}", state, labels=labels)
    event = told(CONTAINER_DELETE_START, labels, engine_container_id=there.engine_id)
    request = only(react, event, bench.services)
    bench.ask(who=request.requester, **request.payload)
    bench.settle()

    outcome = bench.outcome(request.id)
    assert outcome.type == (SNAPSHOT_ERROR if code else SNAPSHOT_END)
    assert code is None or outcome.payload["fault"]["code"] == code
    assert heard(UUID, outcome)
    assert not heard("other", outcome)


# Schedules


def tick(since: str, now: str, **about: Any) -> Event:
    """Return the agent's look at a container's schedules."""
    about = {"labels": {SCHEDULE: "0 3 * * *"}, "state": "Running", **about}
    event = told(CONTAINER_SCHEDULE, since=f"{since}+00:00", now=f"{now}+00:00", **about)
    payload = {
        name: value
        for name, value in event.payload.items()
        if name not in ("event_id", "occurred_at")
    }
    return replace(event, payload=payload, id="")


def test_a_schedule_that_is_due_asks_for_a_snapshot(services: Services) -> None:
    request = only(scheduled, tick("2026-11-25T02:59:30", "2026-11-25T03:00:30"), services)
    assert request.payload["metadata"] == {"trigger": "schedule", "rule": "label"}
    assert request.payload["tag"] == "schedule-20261125t030000"
    assert request.requester == Requester("project-a", "alice")


@pytest.mark.parametrize(
    ("since", "now", "count"),
    [
        ("2026-11-25T02:59:59", "2026-11-25T03:00:00", 1),
        ("2026-11-25T02:58:00", "2026-11-25T02:59:59", 0),
        ("2026-11-25T03:00:00", "2026-11-25T03:01:00", 0),
        ("2026-11-25T03:00:00", "2026-11-26T02:59:00", 0),
        ("2026-11-26T03:01:00", "2026-11-25T03:01:00", 0),
    ],
)
def test_a_schedule_is_due_after_since_and_until_now(
    services: Services, since: str, now: str, count: int
) -> None:
    assert len(made(scheduled, tick(since, now), services)) == count


def test_one_snapshot_makes_up_for_all_the_times_that_were_missed(services: Services) -> None:
    request = only(scheduled, tick("2024-01-01T00:00:00", "2026-11-25T12:00:00"), services)
    assert request.payload["tag"] == "schedule-20261125t030000"
    usual = only(scheduled, tick("2026-11-25T02:59:00", "2026-11-25T03:00:00"), services)
    assert request.id == usual.id


def test_a_year_of_minutes_is_not_walked_through(services: Services) -> None:
    asked = []

    def cron(expression: str, after: datetime) -> datetime:
        asked.append(after)
        return next_after(expression, after)

    event = tick("2025-11-25T00:00:00", "2026-11-25T00:00:30", labels={SCHEDULE: "* * * * *"})
    request = next(iter(scheduled(event, replace(services, cron=cron))))
    assert request.payload["tag"] == "schedule-20261125t000000"
    assert len(asked) < 100


EXPRESSIONS = ["* * * * *", "*/7 * * * *", "0 3 * * *", "0 0 1 1 *", "0-5 9 * * 1", "30 2 29 2 *"]
START = datetime(2026, 1, 1, tzinfo=UTC)


@given(
    expression=st.sampled_from(EXPRESSIONS),
    since=st.integers(0, 3 * 86_400),
    seconds=st.integers(0, 2 * 86_400),
)
def test_the_latest_due_time_is_the_last_of_all(expression: str, since: int, seconds: int) -> None:
    services = Services(
        MemoryEngine(), {}, ManualClock(), host=HOST, default_stores=(), cron=next_after
    )
    begin = START + timedelta(seconds=since)
    end = begin + timedelta(seconds=seconds)
    due = None
    while (following := next_after(expression, due or begin)) <= end:
        due = following

    event = told(
        CONTAINER_SCHEDULE,
        {SCHEDULE: expression},
        since=begin.isoformat(),
        now=end.isoformat(),
    )
    tags = [request.payload["tag"] for request in scheduled(event, services)]
    assert tags == ([] if due is None else [f"schedule-{due:%Y%m%dt%H%M%S}"])


@pytest.mark.parametrize(
    ("state", "count"),
    [("Running", 1), ("Stopped", 1), ("Paused", 1), ("Other", 0), (None, 0), ("Restarting", 0)],
)
def test_only_what_can_be_snapshotted_is(services: Services, state: str | None, count: int) -> None:
    event = tick("2026-11-25T02:59:00", "2026-11-25T03:00:00", state=state)
    assert len(made(scheduled, event, services)) == count


def test_configured_rules_have_schedules_too(services: Services) -> None:
    rules = (
        Rule("nightly", schedule="0 3 * * *"),
        Rule("noon", schedule="0 12 * * *"),
        Rule("stop", on=frozenset({"stop"})),
    )
    event = tick("2026-11-25T02:59:00", "2026-11-25T03:00:00")
    requests = made(scheduled, event, replace(services, rules=rules))
    assert [request.payload["backup_type"] for request in requests] == ["label", "nightly"]
