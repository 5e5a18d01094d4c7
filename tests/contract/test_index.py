"""What every Index does, in memory and on each database, whatever comes in whatever order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from tests.support.databases import empty
from tests.support.rabbit import until
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_index import BATCH, SqlIndex
from tintype.adapters.sql_tables import DIGESTED, key_of
from tintype.core.errors import NotFound, Unavailable
from tintype.core.index import (
    CONTAINER_FIELDS,
    RESTORE_FIELDS,
    SNAPSHOT_FIELDS,
    ContainerRecord,
    JobRecord,
    Query,
    RestoreRecord,
    Sighting,
    SnapshotRecord,
)
from tintype.core.moments import moment

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HOSTILE = ("", " ", "a\0b", "\ud800", "é \U0001f600", "x" * 5000, "%", "_", "'\"\\", "a ", "A", "a")
SHORT = "0123456789ab"
"""As long as Docker's short id."""
THREADS = 4
T = TypeVar("T")
R = TypeVar("R", bound=JobRecord)

through_databases = settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Each example begins with empty tables, so that one fixture may serve them all."""


@pytest.fixture
def index(database: Database) -> SqlIndex:
    return SqlIndex(database)


def at(seconds: float) -> str:
    text = moment(START + timedelta(seconds=seconds))
    assert text is not None
    return text


def seen(
    uuid: str,
    seconds: float = 0,
    event_id: str = "e",
    *,
    deleted: bool = False,
    exists: bool = False,
    **facts: Any,
) -> Sighting:
    return Sighting(uuid, at(seconds), event_id, facts, deleted, exists)


def told(
    request_id: str, seconds: float = 0, event_id: str = "e", *, ended: bool = False, **payload: Any
) -> SnapshotRecord:
    return SnapshotRecord(request_id, (ended, at(seconds), event_id), payload)


def restored(
    request_id: str, seconds: float = 0, event_id: str = "e", *, ended: bool = False, **payload: Any
) -> RestoreRecord:
    return RestoreRecord(request_id, (ended, at(seconds), event_id), payload)


def uuids(records: Iterable[ContainerRecord]) -> list[str]:
    return [record.uuid for record in records]


# Containers


def test_a_container_is_what_was_told_of_it(index: SqlIndex) -> None:
    labels = {"a": "1", "b": "2"}
    index.sight([seen("u-1", 1, "e-1", name="web", host="h", labels=labels, state="Running")])

    record = index.container("u-1")
    assert record == ContainerRecord("u-1").merged(
        seen("u-1", 1, "e-1", name="web", host="h", labels=labels, state="Running")
    )
    assert record is not None
    assert (record.name, record.host, record.facts["labels"]) == ("web", "h", labels)
    assert index.containers() == [record]


def test_each_fact_is_the_latest_of_its_kind(index: SqlIndex) -> None:
    index.sight([seen("u", 5, name="new", host="a"), seen("u", 1, name="old", image="i")])
    index.sight([seen("u", 3, host="b")])

    record = index.container("u")
    assert record is not None
    assert dict(record.facts) == {"name": "new", "host": "a", "image": "i"}
    assert record.heard_at == at(5)


def test_nothing_told_changes_nothing(index: SqlIndex) -> None:
    index.sight([])
    index.note([])
    assert (index.containers(), index.snapshots(), index.heard_at()) == ([], [], None)
    assert index.container("u") is None
    assert index.snapshot("r") is None


def test_what_was_deleted_is_not_found(index: SqlIndex) -> None:
    index.sight([seen("u", 1, name="web", engine_id="abc", exists=True)])
    index.sight([seen("u", 2, deleted=True)])
    index.sight([seen("u", 9, name="web", state="Running")])

    record = index.container("u")
    assert record is not None
    assert (record.deleted_at, record.heard_at) == (at(2), at(9))
    assert index.containers() == []
    assert [index.find(ident) for ident in ("u", "web", "abc")] == [[]] * 3


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("deletions", "existences", "lives"),
    [
        ([2], [], False),
        ([2], [1], False),
        ([2], [2], False),
        ([2], [3], True),
        ([2, 4], [3], False),
        ([2, 4], [1, 5], True),
    ],
)
def test_a_deletion_ends_when_the_container_is_told_to_exist_later(
    index: SqlIndex, deletions: list[int], existences: list[int], lives: bool, turned: bool
) -> None:
    told = [seen("u", second, deleted=True) for second in deletions]
    told += [seen("u", second, exists=True, name="web") for second in existences]
    for one in told[::-1] if turned else told:
        index.sight([one])

    record = index.container("u")
    assert record is not None
    assert record.deleted is not lives
    assert (record.deleted_at, record.exists_at) == (
        at(deletions[-1]),
        at(existences[-1]) if existences else None,
    )
    assert uuids(index.containers()) == (["u"] if lives else [])
    assert uuids(index.find("u")) == uuids(index.containers())


def test_a_deletion_may_come_first(index: SqlIndex) -> None:
    index.sight([seen("u", 2, deleted=True)])
    index.sight([seen("u", 1, name="web")])
    assert index.find("web") == []


def test_living_containers_come_by_uuid(index: SqlIndex) -> None:
    index.sight([seen(uuid) for uuid in ("b", "C", "a", "d\0")])
    assert uuids(index.containers()) == ["a", "b", "c", "d\0"]


def test_more_than_a_statement_holds_goes_in_at_once(index: SqlIndex) -> None:
    many = [seen(f"u-{number:05}", number) for number in range(2 * BATCH + 1)]
    index.sight(many)
    index.sight([seen(one.uuid, 9999, name="again") for one in many])
    assert {record.name for record in index.containers()} == {"again"}
    assert len(index.containers()) == len(many)


# Finding


def test_a_uuid_or_engine_id_is_found_before_a_name_and_a_name_before_a_start(
    index: SqlIndex,
) -> None:
    index.sight([seen("abc1", engine_id="e1"), seen("u-2", engine_id="abc1ff")])
    index.sight([seen("u-3", name="abc1"), seen("u-4", engine_id="abc"), seen("u-5", name="abc")])
    index.sight([seen("u-6", engine_id=f"{SHORT}aa"), seen("u-7", engine_id=f"{SHORT}ab")])
    index.sight([seen("u-8", name=f"{SHORT}a"), seen("u-9", engine_id=SHORT)])

    assert uuids(index.find("abc1")) == ["abc1"]
    assert uuids(index.find("e1")) == ["abc1"]
    assert uuids(index.find("abc")) == ["u-4"]
    assert uuids(index.find(SHORT)) == ["u-9"]
    assert uuids(index.find(f"{SHORT}a")) == ["u-8"]
    assert uuids(index.find(f"{SHORT}aa")) == ["u-6"]
    index.sight([seen("u-9", 1, deleted=True), seen("u-8", 1, name="other")])
    assert uuids(index.find(SHORT)) == uuids(index.find(f"{SHORT}a")) == ["u-6", "u-7"]


def test_what_is_shorter_than_a_short_id_is_only_a_name(index: SqlIndex) -> None:
    index.sight([seen("u-1", engine_id=SHORT + "0" * 52), seen("u-2", name=SHORT[:6])])
    assert uuids(index.find(SHORT)) == ["u-1"]
    assert uuids(index.find(SHORT[:6])) == ["u-2"]
    assert [index.find(SHORT[:length]) for length in (0, 1, 5, 11)] == [[]] * 4


def test_a_name_may_stand_for_several(index: SqlIndex) -> None:
    index.sight([seen("u-2", name="web"), seen("u-1", name="web"), seen("u-3", name="Web")])
    assert uuids(index.find("web")) == ["u-1", "u-2"]


def test_a_uuid_is_found_in_either_case_and_a_name_in_its_own(index: SqlIndex) -> None:
    index.sight([seen("ABC-def", name="Web", engine_id="Ef")])
    assert uuids(index.find("AbC-DeF")) == uuids(index.find("Web")) == ["abc-def"]
    assert index.find("web") == []
    assert index.find("ef") == []
    assert index.container("ABC-DEF") == index.container("abc-def") is not None


@pytest.mark.parametrize("ident", ["%", "_", "[a]", "*", "g", "A", "\0", "b", "a" * 128])
def test_only_the_start_of_an_engine_id_is_searched_by(index: SqlIndex, ident: str) -> None:
    index.sight([seen("u", engine_id=f"{SHORT}abcd", name="web")])
    assert index.find(SHORT + ident) == index.find(ident) == []


def test_a_name_that_is_anothers_engine_id_hides_nothing_from_who_may_not_use_it(
    index: SqlIndex,
) -> None:
    index.sight([seen("u-alice", engine_id=f"{SHORT}abcd", name="web", project_id="alice")])
    index.sight([seen("u-mallory", name=SHORT, project_id="mallory")])
    assert uuids(index.find(SHORT)) == ["u-mallory"]
    assert uuids(index.find(SHORT, lambda one: one.project_id == "alice")) == ["u-alice"]
    assert index.find(SHORT, lambda one: False) == []


@pytest.mark.parametrize("start", ["9", "f", "af", "a9", "aff", "0"])
def test_every_start_ends_where_the_next_begins(index: SqlIndex, start: str) -> None:
    ids = ["0", "00", "1", "9", "99", "9f", "a", "a9", "a90", "aa", "af", "aff", "b", "f", "ff"]
    index.sight([seen(f"u-{one}", engine_id=f"{SHORT}{one}x") for one in ids])
    assert uuids(index.find(SHORT + start)) == [f"u-{one}" for one in ids if one.startswith(start)]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_text_is_kept_and_found(index: SqlIndex, name: str) -> None:
    others = [other for other in (*HOSTILE, key_of(name), DIGESTED) if other != name]
    index.sight([seen(f"u-{number}", name=other) for number, other in enumerate(others)])
    index.sight([seen(name, 1, name, name=name, engine_id=name, labels={name: name})])

    record = index.container(name)
    assert record is not None
    assert (record.uuid, record.name) == (name.lower(), name)
    assert record.facts["labels"] == {name: name}
    assert [found.name for found in index.find(name)] == [name]


@pytest.mark.parametrize("text", [*HOSTILE, DIGESTED, "~", "a\t", "\x1f"])
def test_two_texts_never_have_the_same_key(text: str) -> None:
    assert key_of(text) == text or key_of(key_of(text)) != key_of(text)
    assert len(key_of(text)) <= 255


# Snapshots


def test_a_snapshot_stands_as_its_latest_event_says(index: SqlIndex) -> None:
    index.note([told("r-1", 1, percent=10), told("r-1", 2, percent=20)])
    index.note([told("r-1", 1, percent=15)])
    assert index.snapshot("r-1") == told("r-1", 2, percent=20)


def test_an_outcome_is_above_all_else(index: SqlIndex) -> None:
    index.note([told("r-2", 1, ended=True, status="active"), told("r-1", 1)])
    index.note([told("r-2", 9, percent=99)])
    assert index.snapshots() == [told("r-1", 1), told("r-2", 1, ended=True, status="active")]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_snapshot_may_say_anything(index: SqlIndex, text: str) -> None:
    record = told(text, 1, text, **{f"k{text}": [text, None, {text: 1.5}]})
    index.note([record])
    assert index.snapshot(text) == record


@pytest.mark.parametrize("text", HOSTILE)
def test_a_snapshot_is_found_by_its_id_or_its_requests(index: SqlIndex, text: str) -> None:
    others = [other for other in HOSTILE if other != text]
    index.note([told(f"r-{number}", snapshot_id=one) for number, one in enumerate(others)])
    record = told("r", snapshot_id=f"s{text}")
    index.note([record, told(text, snapshot_id="s-of-text")])

    assert index.find_snapshot(f"s{text}") == index.find_snapshot("r") == record
    assert index.find_snapshot(text) == told(text, snapshot_id="s-of-text")
    assert index.find_snapshot("R") is None


def test_a_snapshots_own_id_comes_before_a_requests(index: SqlIndex) -> None:
    index.note([told("one", snapshot_id="other"), told("other", snapshot_id="one")])
    index.note([told("third", snapshot_id="one")])
    assert index.find_snapshot("one") == told("other", snapshot_id="one")
    assert index.find_snapshot("third") == told("third", snapshot_id="one")


def test_what_has_no_id_is_not_found_by_none(index: SqlIndex) -> None:
    index.note([told("r-1"), told("r-2", snapshot_id=7)])
    assert index.find_snapshot("") is None
    assert index.find_snapshot("7") is None
    assert index.find_snapshot("r-2") == told("r-2", snapshot_id=7)


def test_a_promise_is_there_until_an_event_says_more(index: SqlIndex) -> None:
    promise = {"request_id": "r", "snapshot_id": "s", "status": "queued", "project_id": "p"}
    index.note([SnapshotRecord.promised(promise)])
    asked = Query("created_at", 9, project_id="p", filters={"status": "queued"})
    assert index.list_snapshots(asked) == [SnapshotRecord.promised(promise)]

    index.note([told("r", 1, snapshot_id="s", status="saving", project_id="p")])
    index.note([SnapshotRecord.promised(promise)])
    assert index.list_snapshots(asked) == []
    found = index.find_snapshot("s")
    assert found is not None
    assert (found.told, found.payload["status"]) == (True, "saving")


# Restores


def test_a_restore_stands_as_its_latest_event_says(index: SqlIndex) -> None:
    index.note([restored("r-1", 1, percent=10), restored("r-1", 2, percent=20)])
    index.note([restored("r-1", 1, percent=15)])
    assert index.restore("r-1") == restored("r-1", 2, percent=20)
    index.note([restored("r-1", 1, ended=True, status="active"), restored("r-1", 9)])
    assert index.restores() == [restored("r-1", 1, ended=True, status="active")]


def test_snapshots_and_restores_of_one_request_are_two_things(index: SqlIndex) -> None:
    index.note([told("r", 1, snapshot_id="s"), restored("r", 2, restore_id="t", snapshot_id="s")])
    assert index.snapshot("r") == told("r", 1, snapshot_id="s")
    assert index.restore("r") == restored("r", 2, restore_id="t", snapshot_id="s")
    assert index.find_restore("s") is None
    assert index.find_snapshot("t") is None


@pytest.mark.parametrize("text", HOSTILE)
def test_a_restore_is_found_by_its_id_or_its_requests(index: SqlIndex, text: str) -> None:
    record = restored("r", restore_id=f"t{text}", **{f"k{text}": [text]})
    index.note([record, restored(text, restore_id="t-of-text")])
    assert index.find_restore(f"t{text}") == index.find_restore("r") == record
    assert index.find_restore(text) == restored(text, restore_id="t-of-text")
    assert index.find_restore("R") is None


def test_a_promised_restore_is_there_until_an_event_says_more(index: SqlIndex) -> None:
    promise = {"request_id": "r", "restore_id": "t", "status": "queued", "project_id": "p"}
    index.note([RestoreRecord.promised(promise)])
    asked = Query("created_at", 9, project_id="p", filters={"status": "queued"})
    assert index.list_restores(asked) == [RestoreRecord.promised(promise)]
    index.note([restored("r", 1, restore_id="t", status="loading", project_id="p")])
    index.note([RestoreRecord.promised(promise)])
    assert index.list_restores(asked) == []


def test_restores_that_ended_are_forgotten_as_snapshots_are(index: SqlIndex) -> None:
    vain = RestoreRecord.promised({"request_id": "r-vain", "created_at": at(1)})
    index.note([restored("r-old", 1, ended=True), restored("r-open", 1), vain])
    index.note([restored("r-new", 9, ended=True)])
    assert index.prune(START + timedelta(seconds=5)) == 2
    assert [record.request_id for record in index.restores()] == ["r-new", "r-open"]


# Lists


def names(index: SqlIndex, query: Query) -> list[str]:
    """Return the ids of a page of containers."""
    return uuids(index.list_containers(query))


def requests(index: SqlIndex, query: Query) -> list[str]:
    """Return the request ids of a page of snapshots."""
    return [record.request_id for record in index.list_snapshots(query)]


def test_living_containers_are_listed(index: SqlIndex) -> None:
    index.sight([seen("b"), seen("a", name="web"), seen("c"), seen("b", 1, deleted=True)])
    assert index.list_containers(Query("uuid", 9)) == index.containers()
    assert names(index, Query("uuid", 9)) == ["a", "c"]
    index.sight([seen("b", 2, exists=True)])
    assert names(index, Query("uuid", 9, descending=True)) == ["c", "b", "a"]


def test_what_is_missing_is_sorted_as_an_empty_text(index: SqlIndex) -> None:
    index.sight([seen("u-1"), seen("u-2", name=""), seen("u-3"), seen("u-4", name="a")])
    index.sight([seen("u-5", name=""), seen("u-0", name="\t")])
    assert names(index, Query("name", 5)) == ["u-1", "u-2", "u-3", "u-5", "u-4"]
    assert names(index, Query("name", 3, marker="u-2")) == ["u-3", "u-5", "u-4"]
    assert names(index, Query("name", 9, marker="u-3", descending=True)) == ["u-2", "u-1"]
    assert names(index, Query("uuid", 9, filters={"name": ""})) == ["u-2", "u-5"]


def test_a_project_lists_its_own_containers_only(index: SqlIndex) -> None:
    index.sight([seen("u-1", project_id="p"), seen("u-2"), seen("u-3", project_id="q")])
    index.sight([seen("u-4", project_id=""), seen("u-5", project_id="P")])
    assert names(index, Query("uuid", 9, project_id="p")) == ["u-1"]
    assert names(index, Query("uuid", 9, project_id="")) == ["u-4"]
    assert len(names(index, Query("uuid", 9))) == 5


def test_a_project_lists_its_own_snapshots_only(index: SqlIndex) -> None:
    index.note([told("r-1", project_id="p"), told("r-2", project_id=None), told("r-3")])
    index.note([told("r-4", project_id="P"), told("r-5", project_id="")])
    assert requests(index, Query("status", 9, project_id="p")) == ["r-1"]
    assert requests(index, Query("status", 9, project_id="")) == ["r-5"]
    assert len(requests(index, Query("status", 9))) == 5


def test_a_state_is_listed_in_the_words_of_the_spec(index: SqlIndex) -> None:
    index.sight([seen("u-1", state="Running"), seen("u-2", state="Error"), seen("u-3")])
    index.sight([seen("u-4", state="running")])
    assert names(index, Query("uuid", 9, filters={"state": "Running"})) == ["u-1"]
    assert names(index, Query("uuid", 9, filters={"state": "Other"})) == ["u-2", "u-3", "u-4"]
    assert names(index, Query("state", 9, descending=True)) == ["u-1", "u-4", "u-3", "u-2"]
    index.sight([seen("u-1", 1, state="Paused")])
    assert names(index, Query("uuid", 9, filters={"state": "Running"})) == []


def test_a_containers_snapshots_are_listed_in_either_case_of_its_uuid(index: SqlIndex) -> None:
    index.note([told("r-1", container_uuid="ABC"), told("r-2", container_uuid="abc")])
    index.note([told("r-3", container_uuid="abcd")])
    for uuid in ("Abc", "abc"):
        query = Query("status", 9, filters={"container_uuid": uuid})
        assert len(requests(index, query)) == 2


def test_moments_are_listed_in_their_order_however_they_are_written(index: SqlIndex) -> None:
    written = ["2026-01-02T03:04:05Z", "2026-01-02T03:04:04.9Z", "2026-01-02T12:04:05.1+09:00"]
    for number, text in enumerate(written):
        index.note([told(f"r-{number}", snapshot_id=f"s-{number}", created_at=text)])
    assert requests(index, Query("created_at", 9)) == ["r-1", "r-0", "r-2"]
    same = {"created_at": "2026-01-02T05:04:05+02:00"}
    assert requests(index, Query("created_at", 9, filters=same)) == ["r-0"]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_filtered_and_sorted_by(index: SqlIndex, text: str) -> None:
    texts = [*HOSTILE, key_of(text), DIGESTED, "a\t", "a\x01", "a!", "a%"]
    for number, one in enumerate(dict.fromkeys(texts)):
        facts = {"name": one, "host": one, "created_at": one}
        index.sight([seen(f"u-{number:02}", **facts)])
        payload = {"snapshot_id": f"s-{number:02}", "image_name": one, "created_at": one}
        index.note([told(f"r-{number:02}", **payload)])
    assert requests(index, Query("created_at", 99)) == requests(index, Query("image_name", 99))
    for name in ("name", "host", "created_at"):
        (found,) = index.list_containers(Query("uuid", 9, filters={name: text}))
        assert found.name == text
        every = [record.name for record in index.list_containers(Query(name, 99))]
        assert every == sorted(dict.fromkeys(texts), key=key_of)
        rest = names(index, Query(name, 99, marker=found.uuid))
        assert len(rest) == len(every) - every.index(text) - 1
    (one_told,) = index.list_snapshots(Query("host", 9, filters={"image_name": text}))
    assert one_told.payload["image_name"] == text


@pytest.mark.parametrize("marker", ["", "u-9", "U", "\0", "r-1", "x" * 999])
def test_a_marker_that_is_not_known_is_not_found(index: SqlIndex, marker: str) -> None:
    index.sight([seen("u-1")])
    index.note([told("r-1", snapshot_id="s-1")])
    for listed in (index.list_containers, index.list_snapshots):
        with pytest.raises(NotFound, match="marker"):
            listed(Query("created_at", 9, marker=marker))


def test_a_marker_of_another_project_is_not_known(index: SqlIndex) -> None:
    index.sight([seen("u-1", project_id="p"), seen("u-2", project_id="p"), seen("u-4")])
    index.sight([seen("u-3", project_id="q")])
    index.note([told("r-1", snapshot_id="s-1", project_id="q"), told("r-2", snapshot_id="s-2")])
    assert names(index, Query("uuid", 9, marker="u-1", project_id="p")) == ["u-2"]
    for listed, marker in (
        (index.list_containers, "u-3"),
        (index.list_containers, "u-4"),
        (index.list_snapshots, "s-1"),
        (index.list_snapshots, "s-2"),
    ):
        with pytest.raises(NotFound):
            listed(Query("created_at", 9, marker=marker, project_id="p"))


def test_a_list_goes_on_from_what_is_no_longer_in_it(index: SqlIndex) -> None:
    index.sight([seen(f"U-{number}", state="Running") for number in range(5)])
    index.sight([seen("u-1", 1, state="Stopped"), seen("u-3", 1, deleted=True)])
    running = {"state": "Running"}
    assert names(index, Query("uuid", 1, marker="U-1", filters=running)) == ["u-2"]
    assert names(index, Query("uuid", 9, marker="u-3")) == ["u-4"]


@pytest.mark.parametrize("field", ["image", "deleted", "record", "heard_at", "", "engine_id", "at"])
def test_other_fields_are_a_defect(index: SqlIndex, field: str) -> None:
    for listed in (index.list_containers, index.list_snapshots):
        with pytest.raises(ValueError, match="fields"):
            listed(Query(field, 9))
        with pytest.raises(ValueError, match="fields"):
            listed(Query("created_at", 9, filters={"host": "h", field: "text"}))


def test_ids_are_sorted_by_only(index: SqlIndex) -> None:
    with pytest.raises(ValueError, match="fields"):
        index.list_containers(Query("uuid", 9, filters={"uuid": "u"}))
    with pytest.raises(ValueError, match="fields"):
        index.list_snapshots(Query("snapshot_id", 9, filters={"snapshot_id": "s"}))
    with pytest.raises(ValueError, match="fields"):
        index.list_snapshots(Query("uuid", 9))


def test_a_list_ends_even_if_two_snapshots_are_said_to_have_one_id(index: SqlIndex) -> None:
    index.note([told(f"r-{one}", snapshot_id="s-1", status=f"{one}") for one in range(3)])
    index.note([told("r-9", snapshot_id="s-2", status="9")])
    for sort in ("status", "snapshot_id"):
        assert requests(index, Query(sort, 1, marker="s-1")) == ["r-9"]
        assert requests(index, Query(sort, 9, marker="s-1", descending=True)) == []


@pytest.mark.parametrize("project_id", [None, "p"])
@pytest.mark.parametrize("marker", [None, "s-50"])
@pytest.mark.parametrize("descending", [True, False])
def test_the_latest_snapshots_are_read_in_the_order_of_an_index(
    project_id: str | None, marker: str | None, descending: bool
) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        asked.append((statement, parameters))

    with closing(Database("sqlite://")) as database:
        database.upgrade()
        index = SqlIndex(database)
        index.note([told(f"r-{n}", snapshot_id=f"s-{n}", project_id="p") for n in range(99)])
        event.listen(database.engine, "before_cursor_execute", note)
        query = Query("created_at", 9, descending, marker, project_id)
        assert len(index.list_snapshots(query)) == 9
        statement, parameters = asked[-1]
        with database.transaction() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row[-1] for row in plan]
    assert [step for step in steps if "USING INDEX" in step] == steps


# Several routers


def test_nothing_that_is_told_at_the_same_time_is_lost(index: SqlIndex) -> None:
    start = threading.Barrier(2 * THREADS)

    def tell(name: int) -> None:
        start.wait()
        for number in range(10):
            index.sight([seen("u", number, **{f"fact-{name}-{number}": "told"})])
            index.note([told("r", 10 * name + number)])

    with ThreadPoolExecutor(2 * THREADS) as pool:
        list(pool.map(tell, range(2 * THREADS)))
    record = index.container("u")
    assert record is not None
    assert len(record.facts) == 20 * THREADS
    assert index.snapshot("r") == told("r", 20 * THREADS - 1)


def test_batches_in_opposite_orders_do_not_block_each_other(index: SqlIndex) -> None:
    uuids = [f"u-{number}" for number in range(20)]

    def tell(name: int) -> None:
        turned = uuids[::-1] if name % 2 else uuids
        for number in range(5):
            index.sight([seen(uuid, number, f"e-{name}", name=str(name)) for uuid in turned])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(tell, range(THREADS)))
    assert {record.name for record in index.containers()} == {str(THREADS - 1)}


def by_threads(index: SqlIndex, told: Sequence[Sequence[Sighting]]) -> list[BaseException | None]:
    """Sight each in a thread of its own, all in one group; return what each caller met."""
    with ThreadPoolExecutor(len(told)) as pool:
        with index._turn:
            jobs = [pool.submit(index.sight, sightings) for sightings in told]
            until(lambda: len(index._waiting) == len(told), "all that wait")
        return [job.exception() for job in jobs]


def counted(
    database: Database, monkeypatch: pytest.MonkeyPatch, *errors: BaseException
) -> list[Any]:
    """Count the transactions; the first ones meet errors."""
    run, runs, left = database.run, [], list(errors)

    def counting(work: Callable[[Any], Any], **options: Any) -> Any:
        runs.append(work)
        if left:
            raise left.pop(0)
        return run(work, **options)

    monkeypatch.setattr(database, "run", counting)
    return runs


def test_those_that_wait_go_in_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = SqlIndex(database)
    runs = counted(database, monkeypatch)
    told = [[seen(f"u-{number}"), seen("u", number)] for number in range(2 * THREADS)]
    assert by_threads(index, told) == [None] * len(told)
    assert len(runs) == 1
    assert len(index.containers()) == len(told) + 1
    assert index.heard_at() == at(2 * THREADS - 1)


def test_what_cannot_be_stored_hinders_none_that_waited_with_it(index: SqlIndex) -> None:
    bad: Any = {"name": 7}
    told = [[seen(f"u-{number}")] for number in range(THREADS)]
    met = by_threads(index, [[Sighting("bad", at(0), "e", bad)], *told])
    assert met[0] is not None
    assert met[1:] == [None] * THREADS
    assert uuids(index.containers()) == [f"u-{number}" for number in range(THREADS)]


def test_a_database_that_is_away_is_so_for_all_that_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = SqlIndex(database)
    away = [Unavailable("away") for _ in range(THREADS + 1)]
    counted(database, monkeypatch, *away)
    met = by_threads(index, [[seen("u")]] * THREADS)
    assert [type(error) for error in met] == [Unavailable] * THREADS
    assert index.containers() == []
    index.sight([seen("u")])
    assert uuids(index.containers()) == ["u"]


def test_a_caller_that_is_interrupted_takes_none_with_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = SqlIndex(database)
    counted(database, monkeypatch, KeyboardInterrupt())
    met = by_threads(index, [[seen(f"u-{number}")] for number in range(THREADS)])
    assert sorted(map(type, met), key=str) == [KeyboardInterrupt, *[type(None)] * (THREADS - 1)]
    assert len(index.containers()) >= THREADS - 1


def test_what_a_caller_has_sighted_is_there(index: SqlIndex) -> None:
    start = threading.Barrier(2 * THREADS)

    def tell(name: int) -> None:
        start.wait()
        for number in range(10):
            index.sight([seen(f"u-{name}-{number}")])
            assert index.container(f"u-{name}-{number}") is not None

    with ThreadPoolExecutor(2 * THREADS) as pool:
        list(pool.map(tell, range(2 * THREADS)))


# Forgetting


def test_what_was_deleted_by_mistake_is_not_forgotten_with_its_tombstone(index: SqlIndex) -> None:
    index.sight([seen("u", 0, name="web", exists=True), seen("u", 1, deleted=True)])
    for second in range(2, 20, 2):
        index.sight([seen("u", second, exists=True)])
        index.prune(START + timedelta(seconds=second - 5))
        assert uuids(index.find("web")) == ["u"]


def test_what_was_not_heard_of_since_is_forgotten(index: SqlIndex) -> None:
    index.sight([seen("old", 1), seen("gone", 1, deleted=True), seen("heard", 9)])
    index.sight([seen("buried", 1, deleted=True), seen("buried", 9)])
    index.note([told("r-old", 1, ended=True), told("r-open", 1), told("r-new", 9, ended=True)])
    assert index.heard_at() == at(9)

    assert index.prune(START + timedelta(seconds=5)) == 3
    assert uuids(index.containers()) == ["heard"]
    assert (index.container("gone"), index.container("old")) == (None, None)
    assert index.container("buried") is not None
    assert [record.request_id for record in index.snapshots()] == ["r-new", "r-open"]
    assert index.prune(START + timedelta(seconds=5)) == 0


def test_a_promise_of_which_nothing_came_is_forgotten(index: SqlIndex) -> None:
    def promise(name: str, second: int) -> SnapshotRecord:
        return SnapshotRecord.promised({"request_id": name, "created_at": at(second)})

    index.note([promise("r-vain", 1), promise("r-begun", 1), promise("r-new", 9)])
    index.note([told("r-begun", 2)])
    assert index.prune(START + timedelta(seconds=5)) == 1
    assert [record.request_id for record in index.snapshots()] == ["r-begun", "r-new"]


def test_the_moment_to_forget_before_may_be_of_any_zone(index: SqlIndex) -> None:
    index.sight([seen("u", 0)])
    zone = datetime.fromisoformat("2026-01-02T12:04:05.678901+09:00")
    assert index.prune(zone) == 0
    assert index.prune(zone + timedelta(microseconds=1)) == 1


def test_another_router_sees_the_same(new_url: str) -> None:
    with closing(Database(new_url)) as one, closing(Database(new_url)) as other:
        one.upgrade()
        other.upgrade()
        SqlIndex(one).sight([seen("u", name="web")])
        assert uuids(SqlIndex(other).find("web")) == ["u"]
        SqlIndex(other).close()
        assert uuids(SqlIndex(other).find("web")) == ["u"]


def test_a_database_without_tables_is_unavailable(new_url: str) -> None:
    with closing(Database(new_url)) as database, pytest.raises(Unavailable, match="database"):
        SqlIndex(database).sight([seen("u")])


# Any order, any number of times

texts = st.sampled_from(HOSTILE) | st.text(max_size=5)
moments = st.integers(0, 3).map(at)
fact_names = ["host", "engine_id", "name", "state", "project_id", "created_at"]
facts = st.dictionaries(st.sampled_from(fact_names), texts, max_size=4)
labels = st.dictionaries(texts, texts, max_size=2).map(lambda value: {"labels": value})
sightings = st.builds(
    Sighting,
    uuid=st.sampled_from(["u-1", "u-2", "u\0"]),
    at=moments,
    event_id=st.sampled_from(["e-1", "e-2"]),
    facts=st.builds(lambda one, two: {**one, **two}, facts, labels | st.just({})),
    deleted=st.integers(0, 3).map(lambda number: number == 0),
    exists=st.booleans(),
)
told_fields = st.sampled_from(["restore_id", "project_id", *SNAPSHOT_FIELDS, *RESTORE_FIELDS])
jobs = st.builds(
    lambda kind, **about: kind(**about),
    st.sampled_from([SnapshotRecord, RestoreRecord]),
    request_id=st.sampled_from(["r-1", "r-2"]),
    rank=st.tuples(st.booleans(), moments, st.sampled_from(["e-1", "e-2"])),
    payload=st.dictionaries(texts | told_fields, texts, max_size=6),
)
seeds = st.integers(0, 2**32)


def shuffled(things: Sequence[T], seed: int) -> list[T]:
    """Return the same in another order, some of it more than once."""
    chance = random.Random(seed)
    again = [thing for thing in things for _ in range(chance.choice((1, 1, 2, 3)))]
    chance.shuffle(again)
    return again


def merged(things: Iterable[Sighting]) -> dict[str, ContainerRecord]:
    records: dict[str, ContainerRecord] = {}
    for one in things:
        records[one.uuid] = records.get(one.uuid, ContainerRecord(one.uuid)).merged(one)
    return records


def latest(kind: type[R], things: Iterable[JobRecord]) -> dict[str, R]:
    records: dict[str, R] = {}
    for one in things:
        if isinstance(one, kind):
            records[one.request_id] = records.get(one.request_id, one).latest(one)
    return records


@settings(max_examples=500, deadline=None)
@given(st.lists(sightings, max_size=12), seeds)
def test_records_do_not_depend_on_the_order(things: list[Sighting], seed: int) -> None:
    assert merged(shuffled(things, seed)) == merged(things)


@settings(max_examples=500, deadline=None)
@given(st.lists(sightings, max_size=12))
def test_a_container_is_deleted_unless_told_to_exist_after_that(things: list[Sighting]) -> None:
    for uuid, record in merged(things).items():
        own = [one for one in things if one.uuid == uuid]
        ends = [one.at for one in own if one.deleted]
        alive = [one.at for one in own if one.exists]
        assert record.deleted is (bool(ends) and max(ends) >= max(alive, default=""))


@settings(max_examples=500, deadline=None)
@given(st.lists(jobs, max_size=12), seeds)
def test_latest_does_not_depend_on_the_order(things: list[JobRecord], seed: int) -> None:
    for kind in (SnapshotRecord, RestoreRecord):
        assert latest(kind, shuffled(things, seed)) == latest(kind, things)


@through_databases
@given(st.lists(sightings, max_size=10), st.lists(jobs, max_size=10), seeds)
def test_rows_do_not_depend_on_the_order(
    database: Database, things: list[Sighting], notes: list[JobRecord], seed: int
) -> None:
    empty(database)
    index = SqlIndex(database)
    in_parts(index.sight, shuffled(things, seed), seed)
    in_parts(index.note, shuffled(notes, seed), seed)
    assert_holds(index, things, notes)


@through_databases
@given(st.lists(sightings, min_size=4, max_size=12), st.lists(jobs, max_size=10), seeds)
def test_routers_at_the_same_time_come_to_the_same_rows(
    database: Database, things: list[Sighting], notes: list[JobRecord], seed: int
) -> None:
    empty(database)
    index = SqlIndex(database)
    with ThreadPoolExecutor(THREADS) as pool:
        # Each thing is told by one of them alone: what it told must not be lost.
        done = [
            pool.submit(in_parts, method, shuffled(part[number::THREADS], seed), seed)
            for number in range(THREADS)
            for method, part in ((index.sight, things), (index.note, notes))
        ]
    for job in done:
        job.result()
    assert_holds(index, things, notes)


def in_parts(method: Callable[[Sequence[Any]], None], things: Sequence[Any], seed: int) -> None:
    """Call a method with a few at a time."""
    chance = random.Random(seed)
    rest = list(things)
    while rest:
        count = chance.randint(1, 4)
        method(rest[:count])
        rest = rest[count:]


def assert_holds(index: SqlIndex, things: Sequence[Sighting], notes: Sequence[JobRecord]) -> None:
    records = merged(things)
    assert {uuid: index.container(uuid) for uuid in records} == records
    living = sorted(uuid for uuid, record in records.items() if not record.deleted)
    assert uuids(index.containers()) == living
    snapshots, restores = latest(SnapshotRecord, notes), latest(RestoreRecord, notes)
    assert {one.request_id: one for one in index.snapshots()} == snapshots
    assert {one.request_id: one for one in index.restores()} == restores
    assert index.heard_at() == max((one.at for one in things), default=None)
    assert_lists(index, [record for record in records.values() if not record.deleted])
    assert_lists_jobs(index.list_snapshots, SNAPSHOT_FIELDS, list(snapshots.values()))
    assert_lists_jobs(index.list_restores, RESTORE_FIELDS, list(restores.values()))


def assert_lists(index: SqlIndex, records: Sequence[ContainerRecord]) -> None:
    """Each of the columns that are searched by is as the record says."""
    for record in records:
        for name in CONTAINER_FIELDS:
            value = container_value(record, name)
            if value is None:
                continue
            same = [one.uuid for one in records if container_value(one, name) == value]
            found = names(index, Query("uuid", 99, filters={name: value}))
            assert sorted(found) == sorted(same)
        mine = [one.uuid for one in records if one.project_id == record.project_id]
        if record.project_id is not None:
            found = names(index, Query("uuid", 99, project_id=record.project_id))
            assert sorted(found) == sorted(mine)


def assert_lists_jobs(
    page: Callable[[Query], Sequence[JobRecord]],
    fields: Sequence[str],
    records: Sequence[JobRecord],
) -> None:
    for record in records:
        for name in ("project_id", *fields):
            value = job_value(record, name)
            if not value:
                continue
            same = [one.request_id for one in records if job_value(one, name) == value]
            query = Query("host", 99, filters={name: value})
            if name == "project_id":
                query = Query("host", 99, project_id=value)
            assert sorted(one.request_id for one in page(query)) == sorted(same)


# Pages


def container_value(record: ContainerRecord, name: str) -> str | None:
    """Return what a container is sorted and filtered by."""
    if name == "state":
        return record.state.value
    value: str | None = record.uuid if name == "uuid" else record.facts.get(name)
    return moment(value) or value if name == "created_at" else value


def job_value(record: JobRecord, name: str) -> str | None:
    """Return what a snapshot or a restore is sorted and filtered by."""
    value: str | None = record.payload.get(name)
    if name == "created_at":
        return moment(value) or value
    return value.lower() if value is not None and name == "container_uuid" else value


few = st.sampled_from(["", "a", "b", "a\x01", "A", "\ud800", "é", "\U0001f600"]) | texts
some_moments = st.sampled_from([at(0), "2026-01-02T03:04:05.678901Z", at(1)]) | few
lists = settings(through_databases, max_examples=40)
limits = st.integers(1, 5)
listed_containers = st.dictionaries(
    (st.text(max_size=3) | few).map(str.lower).filter(lambda text: text == text.lower()),
    st.fixed_dictionaries(
        {},
        optional={
            "name": few,
            "host": few,
            "state": st.sampled_from(["Running", "Stopped", "lost"]),
            "created_at": some_moments,
            "project_id": st.sampled_from(["p", "q"]),
        },
    ),
    max_size=12,
)


def listed_jobs(fields: Sequence[str]) -> st.SearchStrategy[dict[str, dict[str, str]]]:
    """Return what draws jobs by their own ids."""
    told_of = {name: few for name in fields if name != "created_at"}
    told_of |= {"created_at": some_moments, "project_id": st.sampled_from(["p", "q"])}
    ids = st.text(min_size=1, max_size=3) | few.filter(bool)
    return st.dictionaries(ids, st.fixed_dictionaries({}, optional=told_of), max_size=12)


def walked(
    page: Callable[[Query], Sequence[T]], query: Query, ident: Callable[[T], str]
) -> list[T]:
    """Return what is on all pages; each but the last one is full."""
    found: list[T] = []
    while part := page(query):
        assert len(part) <= query.limit
        found += part
        query = replace(query, marker=ident(part[-1]))
        if len(part) < query.limit:
            assert page(query) == []
            break
    return found


@lists
@given(
    listed_containers,
    st.sampled_from(["uuid", *CONTAINER_FIELDS]),
    st.booleans(),
    limits,
    st.sampled_from([None, "p"]),
)
def test_pages_of_containers_hold_each_once_and_in_order(
    database: Database,
    known: dict[str, dict[str, str]],
    sort: str,
    descending: bool,
    limit: int,
    project_id: str | None,
) -> None:
    empty(database)
    index = SqlIndex(database)
    index.sight([seen(uuid, **facts) for uuid, facts in known.items()])
    index.sight([seen("dead\0", name="a", deleted=True)])
    query = Query(sort, limit, descending, project_id=project_id)

    mine = (project_id,) if project_id else (None, "p", "q")
    seen_by = [record for record in index.containers() if record.project_id in mine]
    seen_by.sort(
        key=lambda record: (key_of(container_value(record, sort) or ""), key_of(record.uuid)),
        reverse=descending,
    )
    assert walked(index.list_containers, query, lambda record: record.uuid) == seen_by


@lists
@given(
    listed_jobs(SNAPSHOT_FIELDS),
    st.sampled_from(["snapshot_id", *SNAPSHOT_FIELDS]),
    st.booleans(),
    limits,
    st.sampled_from([None, "p"]),
)
def test_pages_of_snapshots_hold_each_once_and_in_order(
    database: Database,
    known: dict[str, dict[str, str]],
    sort: str,
    descending: bool,
    limit: int,
    project_id: str | None,
) -> None:
    empty(database)
    index = SqlIndex(database)
    records = [told(f"r-{ident}", snapshot_id=ident, **fields) for ident, fields in known.items()]
    index.note(records)
    query = Query(sort, limit, descending, project_id=project_id)
    found = walked(index.list_snapshots, query, lambda one: one.payload["snapshot_id"])
    assert found == in_order(records, "snapshot_id", query)


@lists
@given(
    listed_jobs(RESTORE_FIELDS),
    st.sampled_from(["restore_id", *RESTORE_FIELDS]),
    st.booleans(),
    limits,
    st.sampled_from([None, "p"]),
)
def test_pages_of_restores_hold_each_once_and_in_order(
    database: Database,
    known: dict[str, dict[str, str]],
    sort: str,
    descending: bool,
    limit: int,
    project_id: str | None,
) -> None:
    empty(database)
    index = SqlIndex(database)
    records = [restored(f"r-{ident}", restore_id=ident, **about) for ident, about in known.items()]
    index.note(records)
    query = Query(sort, limit, descending, project_id=project_id)
    found = walked(index.list_restores, query, lambda one: one.payload["restore_id"])
    assert found == in_order(records, "restore_id", query)


def in_order(records: Sequence[R], ident: str, query: Query) -> list[R]:
    """Return what whoever asks may see, in the order in which he wants it."""
    wanted = query.project_id
    return sorted(
        (one for one in records if wanted in (None, one.payload.get("project_id"))),
        key=lambda one: (key_of(job_value(one, query.sort) or ""), key_of(one.payload[ident])),
        reverse=query.descending,
    )
