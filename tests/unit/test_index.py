"""Reading notifications of containers and snapshots, our own and other services'."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from tintype.core.engine import ContainerState
from tintype.core.events import (
    CONTAINER_CREATE,
    CONTAINER_DELETE,
    CONTAINER_DELETE_START,
    CONTAINER_EXISTS,
    CONTAINER_PAUSE,
    CONTAINER_START,
    CONTAINER_STOP,
    CONTAINER_UNPAUSE,
    CONTAINER_UPDATE,
    SNAPSHOT_END,
    SNAPSHOT_EXISTS,
    SNAPSHOT_PROGRESS,
    Message,
)
from tintype.core.index import TOLD_OF, ContainerRecord, Sighting, SnapshotRecord
from tintype.core.moments import moment

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
AT = "2026-01-02T03:04:05.000000+00:00"
SENT = "2026-01-02 03:04:06.500000"
OURS = {
    "event_id": "event-1",
    "occurred_at": "2026-01-02T03:04:05+00:00",
    "host": "host-1",
    "engine_container_id": "e" * 64,
    "container_uuid": "3F2504E0-4F89-11D3-9A0C-0305E82C3301",
    "container_name": "web",
    "state": "Running",
    "base_image": "busybox:1",
    "project_id": "project",
    "user_id": "user",
    "labels": {"a": "1"},
    "created_at": "2026-01-01T00:00:00Z",
}
ZUN = {
    "uuid": "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    "container_id": "e" * 64,
    "name": "web",
    "host": "host-1",
    "project_id": "project",
    "user_id": "user",
    "status": "Running",
    "image": "busybox:1",
    "labels": {"a": "1"},
    "created_at": "2026-01-01T00:00:00+00:00",
    "task_state": None,
    "memory": "512",
}
FACTS = {
    "host": "host-1",
    "engine_id": "e" * 64,
    "name": "web",
    "state": "Running",
    "image": "busybox:1",
    "project_id": "project",
    "user_id": "user",
    "labels": {"a": "1"},
    "created_at": "2026-01-01T00:00:00.000000+00:00",
}


def read(
    payload: Any, event_type: Any = CONTAINER_EXISTS, message_id: Any = "m", timestamp: Any = SENT
) -> Sighting | None:
    message = Message(event_type, payload, message_id=message_id, timestamp=timestamp)
    return Sighting.read(message, NOW)


def facts(payload: Mapping[str, Any], event_type: str = CONTAINER_EXISTS) -> Mapping[str, Any]:
    sighting = read(payload, event_type)
    assert sighting is not None
    return sighting.facts


def test_our_own_names_are_read() -> None:
    uuid = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
    assert read(OURS) == Sighting(uuid, AT, "event-1", FACTS, exists=True)


def test_zuns_names_are_read() -> None:
    sighting = read(ZUN, CONTAINER_CREATE)
    at = "2026-01-02T03:04:06.500000+00:00"
    assert sighting == Sighting("3f2504e0-4f89-11d3-9a0c-0305e82c3301", at, "m", FACTS)


@pytest.mark.parametrize("kind", ["zun_object", "nova_object", "versioned_object"])
def test_fields_inside_a_versioned_object_are_read(kind: str) -> None:
    wrapped = {f"{kind}.name": "Container", f"{kind}.version": "1.0", f"{kind}.data": ZUN}
    assert read(wrapped) == read({"outer_object.data": wrapped}) == read(ZUN)


@pytest.mark.parametrize(
    "event_type",
    [
        "compute.instance.create.end",
        "instance.update",
        "container.create.start",
        "container.start.start",
        CONTAINER_DELETE_START,
        "container.commit.request",
        "image.snapshot.end",
        "container.nonsense",
        None,
        7,
    ],
)
def test_other_events_say_nothing(event_type: Any) -> None:
    assert read(OURS, event_type) is None


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"name": "web", "host": "host-1"},
        {"uuid": None, "name": "web"},
        {"uuid": 7},
        {"uuid": ["u"]},
        {"zun_object.data": {"name": "web"}},
        [],
        None,
        "uuid",
    ],
)
def test_what_names_no_container_says_nothing(payload: Any) -> None:
    assert read(payload) is None


@pytest.mark.parametrize(
    ("event_type", "state"),
    [
        (CONTAINER_START, "Running"),
        (CONTAINER_UNPAUSE, "Running"),
        (CONTAINER_PAUSE, "Paused"),
        (CONTAINER_STOP, "Stopped"),
    ],
)
def test_an_event_means_a_state_unless_it_names_one(event_type: str, state: str) -> None:
    assert facts({"uuid": "u"}, event_type) == {"state": state}
    assert facts({"uuid": "u", "status": "Error"}, event_type) == {"state": "Error"}


def test_what_an_event_does_not_name_stays_as_it_was() -> None:
    before = ContainerRecord("u").merged(Sighting("u", AT, "e", FACTS))
    sighting = read({"uuid": "u", "name": "new", "host": None}, CONTAINER_UPDATE)
    assert sighting is not None
    assert dict(before.merged(sighting).facts) == {**FACTS, "name": "new"}


def test_a_deletion_is_told_of_at_its_end() -> None:
    deletion = read({"uuid": "u"}, CONTAINER_DELETE)
    assert deletion is not None
    assert deletion.deleted
    assert ContainerRecord("u").merged(deletion).deleted_at == deletion.at
    assert ContainerRecord("u").merged(deletion).deleted


@pytest.mark.parametrize("event_type", sorted(TOLD_OF))
def test_only_an_engine_that_tells_what_exists_revives_what_was_deleted(event_type: str) -> None:
    deletion = read({"uuid": "u", "occurred_at": AT}, CONTAINER_DELETE)
    later = read({"uuid": "u"}, event_type)
    assert deletion is not None
    assert later is not None
    record = ContainerRecord("u").merged(deletion).merged(later)
    assert record.deleted is (event_type != CONTAINER_EXISTS)


@pytest.mark.parametrize("labels", [None, [], "text", 7])
def test_labels_that_are_none_do_no_harm(labels: Any) -> None:
    assert facts({"uuid": "u", "labels": labels}).get("labels", {}) == {}


def test_what_is_no_text_is_read_as_text() -> None:
    found = facts({"uuid": "u", "name": 7, "labels": {"a": 1, "b": None}, "created_at": "once"})
    assert found == {"name": "7", "labels": {"a": "1", "b": "None"}, "created_at": "once"}


@pytest.mark.parametrize(
    ("payload", "timestamp", "at"),
    [
        ({"occurred_at": "2026-01-02T05:04:05+02:00"}, SENT, AT),
        ({"occurred_at": "2026-01-02T03:04:05"}, None, AT),
        ({"occurred_at": "never"}, "2026-01-02 03:04:05", AT),
        ({"occurred_at": 7}, "2026-01-02 03:04:05.000000", AT),
        ({}, "2026-01-02T03:04:05Z", AT),
        ({}, None, moment(NOW)),
        ({}, "never", moment(NOW)),
        ({}, "0001-01-01T00:00:00+23:00", moment(NOW)),
    ],
)
def test_the_moment_is_the_events_then_the_messages_then_now(
    payload: dict[str, Any], timestamp: Any, at: str
) -> None:
    sighting = read({"uuid": "u", **payload}, timestamp=timestamp)
    assert sighting is not None
    assert sighting.at == at


def test_an_event_without_an_id_gets_one_from_what_it_says() -> None:
    ids = [
        sighting.event_id
        for payload in ({"uuid": "u"}, {"uuid": "u"}, {"uuid": "u", "name": "web"})
        if (sighting := read(payload, message_id=None)) is not None
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("Running", ContainerState.RUNNING),
        ("Paused", ContainerState.PAUSED),
        ("Stopped", "Stopped"),
    ],
)
def test_a_state_is_in_the_words_of_the_spec(text: str, state: ContainerState) -> None:
    record = ContainerRecord("u", {"state": text})
    assert record.state == state
    for other in ({"state": "Error"}, {"state": "running"}, {}):
        assert ContainerRecord("u", other).state is ContainerState.OTHER


# Snapshots


def snapshot(event_type: str, event_id: str = "e", timestamp: str = SENT, **payload: Any) -> Any:
    whole = {"request_id": "r", "event_id": event_id, "finished_at": None, **payload}
    return SnapshotRecord.read(Message(event_type, whole, timestamp=timestamp))


def test_the_later_progress_counts() -> None:
    early = snapshot(SNAPSHOT_PROGRESS, "z", "2026-01-02 03:04:05")
    late = snapshot(SNAPSHOT_PROGRESS, "a", "2026-01-02 03:04:05.000001")
    assert early.latest(late) is late.latest(early) is late


def test_an_outcome_counts_whatever_the_order() -> None:
    end = snapshot(SNAPSHOT_END, finished_at="2026-01-02T03:04:05+00:00")
    progress = snapshot(SNAPSHOT_PROGRESS, timestamp="2030-01-01 00:00:00")
    assert end.latest(progress) is progress.latest(end) is end


def test_telling_again_of_one_that_goes_on_hides_nothing() -> None:
    again = snapshot(SNAPSHOT_EXISTS, "z", "2030-01-01 00:00:00")
    progress = snapshot(SNAPSHOT_PROGRESS)
    assert again.latest(progress) is progress.latest(again) is progress


def test_telling_again_of_one_that_ended_tells_of_its_end() -> None:
    again = snapshot(SNAPSHOT_EXISTS, finished_at="2026-01-02T03:04:05+00:00")
    progress = snapshot(SNAPSHOT_PROGRESS, timestamp="2030-01-01 00:00:00")
    assert again.latest(progress) is again


def test_two_that_say_different_things_under_one_id_are_told_apart() -> None:
    one, other = snapshot(SNAPSHOT_PROGRESS, percent=1), snapshot(SNAPSHOT_PROGRESS, percent=2)
    assert one.latest(other) == other.latest(one)
