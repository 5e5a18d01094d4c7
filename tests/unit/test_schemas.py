"""The schemas: what they let through, what they refuse, and how they say so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.support.twins import ALICE
from tintype.core.errors import Unavailable
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_REQUEST,
    CONTAINER_EXISTS,
    CONTAINER_UPDATE,
    RESTORE_REQUEST,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_PREFLIGHT,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_REMOVED,
    SNAPSHOT_START,
    Event,
    is_lifecycle,
)
from tintype.core.jobs import Fault
from tintype.core.removal import Candidate, Reason, Removal
from tintype.core.snapshot import Copy, Snapshot
from tintype.schemas import KNOWN, NO_EVENTS, SCHEMAS, validate

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
EMITTED = [SNAPSHOT_START, SNAPSHOT_PROGRESS, SNAPSHOT_END, SNAPSHOT_ERROR, SNAPSHOT_PREFLIGHT]


def request(**fields: Any) -> dict[str, Any]:
    return {"container": "web", "image_name": "snap", **fields}


def problems(payload: Any) -> list[str]:
    return [str(violation) for violation in validate(COMMIT_REQUEST, payload)]


def snapshot() -> Snapshot:
    payload = request(request_id=UUID, metadata={"a": "b"})
    made = Snapshot.begin(
        Event(COMMIT_REQUEST, payload, ALICE), host="h", created_at="2026-01-01T00:00:00+00:00"
    )
    fault = Fault.of(Unavailable("away"), "uploading")
    hook = {"name": "pre-commit", "exit_code": 0, "timed_out": False, "output": "flushed"}
    copies = (Copy("glance", UUID), Copy("registry", UUID, "prefix/snap", fault=fault))
    return replace(made, copies=copies, fault=fault, hooks=(hook,))


# The schemas themselves


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_describes_every_field(name: str) -> None:
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].endswith(f"/{name}")
    assert schema["title"]
    if "$ref" not in schema:
        # Other services tell of containers in words of their own as well.
        assert schema.get("additionalProperties", name == "container") is (name == "container")
        assert all("description" in about for about in schema["properties"].values())


def test_the_fields_of_the_events_are_those_of_the_schema() -> None:
    emitted = snapshot().event(SNAPSHOT_PROGRESS, status="saving").payload
    base = SCHEMAS["image.snapshot"]
    assert base["properties"].keys() == emitted.keys()
    assert set(base["required"]) == emitted.keys()

    store = base["properties"]["stores"]["items"]
    assert store["properties"].keys() == emitted["stores"][0].keys() == set(store["required"])
    fault = base["properties"]["fault"]
    assert fault["properties"].keys() == emitted["fault"].keys() == set(fault["required"])


@pytest.mark.parametrize("name", EMITTED)
def test_what_an_event_narrows_is_a_field_of_all_events(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["$ref"] == "image.snapshot"
    assert schema["properties"].keys() <= SCHEMAS["image.snapshot"]["properties"].keys()


@pytest.mark.parametrize("name", EMITTED)
def test_an_event_with_a_field_too_much_or_too_few_is_refused(name: str) -> None:
    payload = dict(snapshot().event(name, status="saving").payload)
    allowed = {violation.pointer for violation in validate(name, payload)}
    assert "/extra" in {v.pointer for v in validate(name, {**payload, "extra": 1})} - allowed
    for field in payload:
        fewer = {key: value for key, value in payload.items() if key != field}
        assert f"/{field}" in {violation.pointer for violation in validate(name, fewer)}


@pytest.mark.parametrize(
    ("name", "wrong", "pointer"),
    [
        (SNAPSHOT_END, {"status": "error"}, "/status"),
        (SNAPSHOT_END, {"fault": {}}, "/fault"),
        (SNAPSHOT_END, {"sha256": None}, "/sha256"),
        (SNAPSHOT_ERROR, {"fault": None}, "/fault"),
        (SNAPSHOT_ERROR, {"finished_at": None}, "/finished_at"),
        (SNAPSHOT_START, {"image_id": None}, "/image_id"),
        (SNAPSHOT_PREFLIGHT, {"status": "active"}, "/status"),
        (SNAPSHOT_PREFLIGHT, {"preflight": None}, "/preflight"),
        (SNAPSHOT_PREFLIGHT, {"preflight": {"problems": []}}, "/preflight/layers"),
        (SNAPSHOT_PREFLIGHT, {"fault": {}}, "/fault"),
        (SNAPSHOT_END, {"hooks": [{"name": "other"}]}, "/hooks/0/name"),
        (SNAPSHOT_PROGRESS, {"status": "active"}, "/status"),
        (SNAPSHOT_PROGRESS, {"event_id": "x"}, "/event_id"),
        (SNAPSHOT_PROGRESS, {"schema_version": "2.0"}, "/schema_version"),
    ],
)
def test_each_event_says_what_only_it_means(name: str, wrong: Any, pointer: str) -> None:
    payload = {**snapshot().event(name, status="saving").payload, **wrong}
    assert pointer in {violation.pointer for violation in validate(name, payload)}


def test_what_tells_of_a_removed_image_has_every_field() -> None:
    candidate = Candidate("glance", UUID, Reason.EXPIRED)
    removal = Removal.of(candidate, host="h", created_at="2026-01-01T00:00:00+00:00")
    told = removal.removed()
    assert told.type == SNAPSHOT_REMOVED
    assert validate(SNAPSHOT_REMOVED, told.payload) == []
    schema = SCHEMAS[SNAPSHOT_REMOVED]
    assert schema["properties"].keys() == told.payload.keys() == set(schema["required"])
    assert schema["properties"]["reason"]["enum"] == [reason.value for reason in Reason]


# Requests


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tag": "v1.2_3-x"},
        {"request_id": UUID},
        {"request_id": UUID.upper()},
        {"image_id": UUID},
        {"stores": ["glance"]},
        {"pause": False},
        {"message": "a\nb\té"},
        {"author": "Ada <ada@example.org>"},
        {"labels": {"com.example/x": "y"}},
        {"metadata": {"a.b": "c"}},
        {"visibility": "shared"},
        {"host": "h"},
        {"host": "h" * 200},
        {"repository": "registry.example:5000/team/web"},
        {"repository": "[::1]:5000/web"},
        {"max_pause_ms": 1},
        {"max_pause_ms": 3_600_000},
        {"changes": ["ENV A=1\tB=é", "CMD []"]},
        {"changes": []},
        {"unset_env": ["A", "_b.c-d9"]},
        {"squash": True, "dry_run": False},
        {"expires_at": "2026-12-24T18:00:00+02:00"},
        {"labels": {"tintypes.x": "y", "x.tintype.y": "z"}},
        {"deadline": "2026-12-24T18:00:00Z"},
        {"deadline": "2026-12-24T18:00:00.5+02:00"},
        {"schema_version": "1.0"},
        {"schema_version": "1.17"},
        {"container": UUID},
        {"container": "a" * 64},
    ],
    ids=str,
)
def test_good_requests_are_valid(fields: dict[str, Any]) -> None:
    assert problems(request(**fields)) == []


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"container": ""}, "/container"),
        ({"container": None}, "/container"),
        ({"container": "../etc"}, "/container"),
        ({"container": "a/b"}, "/container"),
        ({"container": "a" * 256}, "/container"),
        ({"container": "web\n"}, "/container"),
        ({"container": "w\u0435b"}, "/container"),
        ({"container": 7}, "/container"),
        ({"tag": ""}, "/tag"),
        ({"tag": "-x"}, "/tag"),
        ({"tag": "a" * 129}, "/tag"),
        ({"tag": "v1\n"}, "/tag"),
        ({"tag": "\u0661"}, "/tag"),
        ({"request_id": "x"}, "/request_id"),
        ({"request_id": UUID.replace("-", "")}, "/request_id"),
        ({"request_id": f"{{{UUID}}}"}, "/request_id"),
        ({"request_id": UUID + "\n"}, "/request_id"),
        ({"image_id": 5}, "/image_id"),
        ({"image_id": "a/../b"}, "/image_id"),
        ({"stores": []}, "/stores"),
        ({"stores": ["a", "a"]}, "/stores"),
        ({"stores": "glance"}, "/stores"),
        ({"stores": [1]}, "/stores/0"),
        ({"stores": [str(n) for n in range(9)]}, "/stores"),
        ({"pause": "yes"}, "/pause"),
        ({"pause": 1}, "/pause"),
        ({"message": "a\x00b"}, "/message"),
        ({"message": "\ud800"}, "/message"),
        ({"message": "x" * 4097}, "/message"),
        ({"message": "\x1b[2J"}, "/message"),
        ({"author": "\udfff"}, "/author"),
        ({"labels": {"a": 1}}, "/labels/a"),
        ({"labels": {"": "x"}}, "/labels"),
        ({"labels": {"a\n": "x"}}, "/labels"),
        ({"labels": {"a": "\x00"}}, "/labels/a"),
        ({"labels": {str(n): "" for n in range(65)}}, "/labels"),
        ({"metadata": {"a/b": "x"}}, "/metadata"),
        ({"metadata": []}, "/metadata"),
        ({"visibility": "public"}, "/visibility"),
        ({"visibility": None}, "/visibility"),
        ({"deadline": "tomorrow"}, "/deadline"),
        ({"deadline": "2026-12-24T18:00:00"}, "/deadline"),
        ({"deadline": 1}, "/deadline"),
        ({"deadline": "2026-12-24T18:00:00Z\n"}, "/deadline"),
        ({"deadline": "0001-01-01T00:00:00+23:00"}, "/deadline"),
        ({"deadline": "9999-12-31T23:59:59-23:00"}, "/deadline"),
        ({"deadline": "\ud800"}, "/deadline"),
        ({"schema_version": "2.0"}, "/schema_version"),
        ({"schema_version": 1.0}, "/schema_version"),
        ({"repository": ""}, "/repository"),
        ({"repository": "a b"}, "/repository"),
        ({"repository": "https\n"}, "/repository"),
        ({"repository": "a@sha256"}, "/repository"),
        ({"repository": "a" * 256}, "/repository"),
        ({"max_pause_ms": 0}, "/max_pause_ms"),
        ({"max_pause_ms": 3_600_001}, "/max_pause_ms"),
        ({"max_pause_ms": 1.5}, "/max_pause_ms"),
        ({"max_pause_ms": True}, "/max_pause_ms"),
        ({"changes": "CMD x"}, "/changes"),
        ({"changes": [""]}, "/changes/0"),
        ({"changes": ["USER x", "CMD a\nb"]}, "/changes/1"),
        ({"changes": ["CMD \x00"]}, "/changes/0"),
        ({"changes": ["CMD \ud800"]}, "/changes/0"),
        ({"changes": ["C" * 4097]}, "/changes/0"),
        ({"changes": ["USER x"] * 65}, "/changes"),
        ({"unset_env": "A"}, "/unset_env"),
        ({"unset_env": ["A", ""]}, "/unset_env/1"),
        ({"unset_env": ["A=b"]}, "/unset_env/0"),
        ({"unset_env": ["A\n"]}, "/unset_env/0"),
        ({"unset_env": ["9"]}, "/unset_env/0"),
        ({"unset_env": ["A" * 256]}, "/unset_env/0"),
        ({"unset_env": ["A"] * 129}, "/unset_env"),
        ({"squash": "yes"}, "/squash"),
        ({"dry_run": 1}, "/dry_run"),
        ({"expires_at": "tomorrow"}, "/expires_at"),
        ({"expires_at": "2026-12-24T18:00:00"}, "/expires_at"),
        ({"labels": {"tintype.x": "y"}}, "/labels"),
        ({"host": ""}, "/host"),
        ({"host": "h" * 201}, "/host"),
        ({"host": "h\n"}, "/host"),
        ({"host": "h\x00"}, "/host"),
        ({"host": "\ud800"}, "/host"),
        ({"stroes": ["glance"]}, "/stroes"),
        ({"callback": "x"}, "/callback"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_bad_requests_are_refused_at_the_right_place(fields: dict[str, Any], pointer: str) -> None:
    violations = validate(COMMIT_REQUEST, request(**fields))
    assert {violation.pointer for violation in violations} == {pointer}


# What happens to containers, and what hosts tell

ALIASES = {
    "container_uuid": "uuid",
    "engine_container_id": "container_id",
    "container_name": "name",
    "state": "status",
    "base_image": "image",
}


def pointers(event_type: str, payload: Any) -> set[str]:
    return {violation.pointer for violation in validate(event_type, payload)}


@pytest.mark.parametrize(("ours", "theirs"), ALIASES.items())
def test_other_services_words_have_the_bounds_of_ours(ours: str, theirs: str) -> None:
    known = SCHEMAS["container"]["properties"]
    alias = {"description": "The same, as other services call it."}
    assert known[theirs] == {**known[ours], **alias}


@pytest.mark.parametrize("field", ["container_id", "name", "status", "image"])
@pytest.mark.parametrize("wrong", [["a"], 7, {"a": "b"}, "a\x00", "a\n", "x" * 1025], ids=ascii)
def test_what_another_service_tells_is_checked(field: str, wrong: Any) -> None:
    for payload in ({"uuid": "x", field: wrong}, {"zun_object.data": {"uuid": "x", field: wrong}}):
        assert pointers(CONTAINER_EXISTS, payload) == {f"/{field}"}
    assert pointers(CONTAINER_EXISTS, {"uuid": "x", field: "text"}) == set()
    assert pointers(CONTAINER_EXISTS, {"uuid": "x", field: None}) == set()


@pytest.mark.parametrize("kind", ["zun_object", "versioned_object"])
def test_a_versioned_object_is_checked_inside(kind: str) -> None:
    wrapped = {f"{kind}.name": "Container", f"{kind}.data": {"uuid": "x", "name": "web"}}
    assert pointers(CONTAINER_UPDATE, wrapped) == set()
    assert pointers(CONTAINER_UPDATE, {"outer_object.data": wrapped}) == set()
    assert pointers(CONTAINER_UPDATE, {f"{kind}.data": {"name": "web"}}) == {""}
    assert pointers(CONTAINER_UPDATE, {f"{kind}.data": "x"}) == {""}
    assert "/container" in pointers(COMMIT_REQUEST, {f"{kind}.data": request()})


@pytest.mark.parametrize("host", ["h" * 201, "h\x00", "h\n", "\ud800", 7], ids=ascii)
def test_a_host_fits_a_routing_key(host: Any) -> None:
    accepted = {**snapshot().accepted().payload, "host": host}
    assert pointers(COMMIT_ACCEPTED, accepted) == {"/host"}
    assert pointers(CONTAINER_EXISTS, {"uuid": "x", "host": host}) == {"/host"}
    assert SCHEMAS["container"]["properties"]["host"]["maxLength"] == 200


def test_what_a_host_accepts_has_every_field() -> None:
    accepted = dict(snapshot().accepted().payload)
    assert pointers(COMMIT_ACCEPTED, accepted) == set()
    for field in SCHEMAS[COMMIT_ACCEPTED]["properties"]:
        fewer = {key: value for key, value in accepted.items() if key != field}
        assert pointers(COMMIT_ACCEPTED, fewer) == {f"/{field}"}


GOOD_NAMES = [
    "a",
    "web",
    "my-image",
    "my.image",
    "my_image",
    "my__image",
    "my--image",
    "team/web",
    "registry.example.org/team/web",
    "a/b/c/d",
    "1",
    "0.1",
    "x.y.z/1",
]
BAD_NAMES = [
    "",
    "A",
    "Web",
    "-a",
    "a-",
    ".a",
    "a.",
    "_a",
    "a_",
    "a___b",
    "a..b",
    "a//b",
    "/a",
    "a/",
    "a:1",
    "host:5000/a",
    "a b",
    "a@sha256:0",
    "é",
    "a\n",
    "a\x00",
    "\ud800",
    "team/Web",
    "a" * 201,
    "\uff41",
    "a\u0301",
    "..",
    "../a",
    "a/../b",
    "%61",
    "a\\b",
    5,
    None,
    ["a"],
    {"a": 1},
    True,
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_docker_name_is_a_good_image_name(name: str) -> None:
    assert problems(request(image_name=name)) == []


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_anything_else_is_no_image_name(name: Any) -> None:
    violations = validate(COMMIT_REQUEST, request(image_name=name))
    assert {violation.pointer for violation in violations} == {"/image_name"}


def test_every_fault_is_named_with_what_was_expected_and_what_came() -> None:
    name = "a lowercase Docker repository name, without tag and without a registry's port"
    assert sorted(problems({"image_name": "Snap", "tag": 5, "stores": ["a", 7]})) == [
        "/container: expected a value, got nothing",
        f"/image_name: expected {name}, got 'Snap'",
        "/stores/1: expected string, got 7",
        "/tag: expected string, got 5",
    ]


def test_an_unknown_field_is_named_and_the_known_ones_listed() -> None:
    (line,) = problems(request(stroes=["glance"]))
    assert line.startswith("/stroes: expected one of the known fields (")
    assert "stores" in line
    assert line.endswith("got an unknown field")


def test_a_pointer_is_escaped() -> None:
    violations = validate(COMMIT_REQUEST, request(**{"a/b~c": 1}))
    assert [violation.pointer for violation in violations] == ["/a~1b~0c"]


@pytest.mark.parametrize("payload", [None, [], "x", 5, True, 1.5, [{}]], ids=repr)
def test_what_is_no_object_is_refused_as_a_document(payload: Any) -> None:
    (line,) = problems(payload)
    assert line == f"(document): expected object, got {payload!r}"


@pytest.mark.parametrize("event_type", ["nonsense", "", None, 5, [], {}, ["a"]], ids=repr)
def test_an_event_type_without_a_schema_is_named(event_type: Any) -> None:
    (violation,) = validate(event_type, {})
    assert all(known in violation.expected for known in KNOWN)
    assert violation.got == repr(event_type)


def test_the_event_types_that_are_told_are_all_and_only_those_with_a_schema() -> None:
    told = set()
    for known in KNOWN:
        parts = [part.strip("<>").split("|") for part in re.findall(r"<[^>]*>|[^.]+", known)]
        told |= {".".join(words) for words in product(*parts)}
    assert all(validate(name, None)[0].expected == "object" for name in told)
    lifecycle = {name for name in told if is_lifecycle(name)}
    assert len(lifecycle) == 17
    assert told - lifecycle == SCHEMAS.keys() - NO_EVENTS


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [100, 250, 500, 900])
@pytest.mark.parametrize("field", ["container", "stores", "labels", "metadata", "visibility", "x"])
def test_deeply_nested_fields_are_refused(field: str, depth: int) -> None:
    assert problems(request(**{field: nested(depth)}))
    assert problems(request(**{field: [nested(depth), nested(depth)]}))
    assert problems(request(**{field: {"a": nested(depth)}}))


def test_a_message_of_the_largest_size_is_refused_soon_and_in_few_words() -> None:
    """A comparison of all items with each other would take hours, all faults would fill pages."""
    many = [{"a": number} for number in range(70_000)]
    for payload in (
        request(stores=many),
        request(labels={str(number): number for number in range(70_000)}),
        {str(number): number for number in range(70_000)},
        request(image_name="a" * 1_000_000 + "!"),
        request(image_name="a-" * 500_000),
        request(image_name="a/" * 500_000),
        request(message="x" * 1_000_000 + "\x00"),
    ):
        lines = problems(payload)
        assert lines
        assert len("; ".join(lines)) < 20_000


@pytest.mark.parametrize(
    ("event_type", "fields", "pointer"),
    [
        (RESTORE_REQUEST, {"env": {"TOKEN": ["hunter2"]}}, "/env/TOKEN"),
        (RESTORE_REQUEST, {"env": {"TOKEN": "hunter2\0"}}, "/env/TOKEN"),
        (RESTORE_REQUEST, {"env": {"TOKEN": "hunter2" * 9999}}, "/env/TOKEN"),
        (RESTORE_REQUEST, {"env": {"hunter2 ": "x"}}, "/env"),
        (RESTORE_REQUEST, {"env": "TOKEN=hunter2"}, "/env"),
        (RESTORE_REQUEST, {"env": [{"TOKEN": "hunter2"}]}, "/env"),
        (RESTORE_REQUEST, {"env": {"TOKEN": "hunter2"}, "image": None}, ""),
        (COMMIT_REQUEST, {"changes": "ENV TOKEN=hunter2"}, "/changes"),
        (COMMIT_REQUEST, {"changes": ["ENV TOKEN=hunter2\n"]}, "/changes/0"),
        (COMMIT_REQUEST, {"changes": [{"ENV": "hunter2"}]}, "/changes/0"),
        (COMMIT_REQUEST, {"changes": ["hunter2" * 999]}, "/changes/0"),
        (COMMIT_REQUEST, {"changes": ["ENV TOKEN=hunter2"] * 65}, "/changes"),
    ],
)
def test_no_message_repeats_what_may_be_a_secret(
    event_type: str, fields: dict[str, Any], pointer: str
) -> None:
    payload = {"container": "web", "image_name": "snap", **fields}
    if event_type == RESTORE_REQUEST:
        payload = {name: value for name, value in fields.items() if value is not None}
        payload |= {} if "image" in fields else {"image": "snap"}
    found = validate(event_type, payload)
    assert [each.pointer for each in found] == [pointer]
    assert "hunter2" not in str(found)
    assert found[0].got.endswith("that is not shown")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*SCHEMAS[COMMIT_REQUEST]["properties"], "other"])


@given(JSON)
def test_no_json_breaks_the_check(payload: Any) -> None:
    for violation in validate(COMMIT_REQUEST, payload):
        str(violation).encode()


@given(st.dictionaries(FIELDS, JSON | st.sampled_from(["web", UUID, "private", "1.0"])))
def test_what_passes_is_what_the_schema_says(payload: dict[str, Any]) -> None:
    for violation in validate(COMMIT_REQUEST, payload):
        str(violation).encode()
        assert violation.pointer.startswith("/")
    if not validate(COMMIT_REQUEST, payload):
        assert isinstance(payload["container"], str)
        assert payload["image_name"] == payload["image_name"].strip().lower() != ""
        json.dumps(payload).encode()
        assert payload.keys() <= SCHEMAS[COMMIT_REQUEST]["properties"].keys()
