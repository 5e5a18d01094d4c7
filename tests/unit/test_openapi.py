"""The OpenAPI document: well formed, complete, and made of the schemas that the bus keeps to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import falcon
import falcon.inspect
import falcon.testing
import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31

from tests.support.door import app_in_front
from tests.support.twins import Office
from tintype.core.errors import Invalid
from tintype.core.events import COMMIT_REQUEST, RESTORE_REQUEST, Requester
from tintype.core.promises import Caller
from tintype.rest import containers, restores, snapshots
from tintype.rest.lists import COMMON
from tintype.rest.openapi import (
    NOT_IN_BODIES,
    commit_body,
    document,
    restore_body,
    snapshot_restore_body,
)
from tintype.rest.reading import idempotency_key
from tintype.rest.restores import IMAGE_NAMES
from tintype.schemas import SCHEMAS, validate

DOCUMENT = document()
UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
Place = tuple[str | int, ...]


@pytest.fixture
def routes() -> Iterator[dict[str, set[str]]]:
    """The methods of each path that falcon knows, but for those that it answers by itself."""
    office = Office()
    caller = Caller(Requester(), lambda *_: True)
    app = app_in_front(office, lambda _: caller)
    yield {
        route.path: {method.method for method in route.methods if not method.internal}
        for route in falcon.inspect.inspect_routes(app)
    }
    office.database.close()


def everything(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield all that there is in a document, with its place."""
    yield place, value
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from everything(item, (*place, key))


def operations() -> dict[str, dict[str, Any]]:
    """Return all operations by their id, each with the parameters that its path has."""
    return {
        operation["operationId"]: {
            **operation,
            "parameters": [*item.get("parameters", []), *operation.get("parameters", [])],
        }
        for item in DOCUMENT["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    }


def named(operation_id: str, where: str) -> set[str]:
    """Return the names of an operation's parameters in one place."""
    found = operations()[operation_id]["parameters"]
    return {parameter["name"] for parameter in found if parameter["in"] == where}


def test_it_is_an_openapi_document() -> None:
    # OAI's own schema, of which schemathesis keeps a copy. It leaves schemas to JSON Schema.
    faults = Draft202012Validator(OPENAPI_31).iter_errors(DOCUMENT)
    assert [fault.message for fault in faults] == []
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


def test_its_schemas_are_schemas() -> None:
    found = [value for place, value in everything(DOCUMENT) if place and place[-1] == "schema"]
    assert len(found) > 50
    for schema in [*found, *DOCUMENT["components"]["schemas"].values()]:
        Draft202012Validator.check_schema(schema)


def test_its_references_lead_somewhere() -> None:
    places = {"#/" + "/".join(map(str, place)) for place, _ in everything(DOCUMENT)}
    references = {value for place, value in everything(DOCUMENT) if place and place[-1] == "$ref"}
    assert references
    assert references <= places


def test_every_route_is_described_and_nothing_else(routes: dict[str, set[str]]) -> None:
    described = {
        path: {method.upper() for method in item if method != "parameters"}
        for path, item in DOCUMENT["paths"].items()
    }
    assert described == routes


def test_every_query_parameter_is_described_and_nothing_else() -> None:
    for operation, listing in (
        ("listContainers", containers.LISTING),
        ("listSnapshots", snapshots.LISTING),
        ("listRestores", restores.LISTING),
    ):
        assert named(operation, "query") == {*listing.filters, *COMMON}
    assert named("showContainer", "query") == {"host"}
    assert named("commit", "query") == {"repository", "tag"}
    for operation in (
        *("showSnapshot", "cancelSnapshot", "restoreSnapshot"),
        *("restore", "showRestore", "cancelRestore"),
    ):
        assert named(operation, "query") == set()


def test_operations_have_ids_of_their_own_and_links_lead_to_them() -> None:
    ids = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert sorted(ids) == sorted(operations())
    links = [
        link
        for place, value in everything(DOCUMENT["paths"])
        if place[-1:] == ("links",) and "responses" in place[-3:-2]
        for link in value.values()
    ]
    assert len(links) == 12
    for link in links:
        assert set(link["parameters"]) <= named(link["operationId"], "path")


def test_what_needs_no_token_says_so() -> None:
    free = {name for name, operation in operations().items() if operation.get("security") == []}
    assert free == {"versions", "version", "openapi", "metrics"}
    assert all("401" in operations()[name]["responses"] for name in set(operations()) - free)


def test_the_body_is_the_buss_request_but_for_what_the_path_says() -> None:
    request, body = SCHEMAS[COMMIT_REQUEST], commit_body()
    assert set(body["properties"]) == set(request["properties"]) - NOT_IN_BODIES
    assert set(body["required"]) == set(request["required"]) - NOT_IN_BODIES
    for name, rule in body["properties"].items():
        kept = {key: value for key, value in rule.items() if isinstance(value, str | int | bool)}
        kept.pop("pattern", None)
        assert kept.items() <= request["properties"][name].items(), name
    words = json.dumps(DOCUMENT)
    assert "x-expected" not in words
    assert "$id" not in words


def test_the_bodies_of_restores_are_the_buss_request_too() -> None:
    properties = set(SCHEMAS[RESTORE_REQUEST]["properties"])
    assert set(restore_body()["properties"]) == properties - {"accept_by"}
    assert set(snapshot_restore_body()["properties"]) == properties - {"accept_by", *IMAGE_NAMES}
    assert jsonschema_rs.validator_for(snapshot_restore_body()).is_valid({})


@pytest.mark.parametrize("named", [[], *([name] for name in IMAGE_NAMES), [*IMAGE_NAMES]])
@pytest.mark.parametrize("more", [{}, {"host": "host-1"}, {"colour": "red"}, {"accept_by": "x"}])
def test_a_restore_names_one_image_and_without_a_snapshot_a_host(
    named: list[str], more: dict[str, str]
) -> None:
    values = {"snapshot_id": UUID, "image_id": UUID, "image": "web:v1"}
    body = {**{name: values[name] for name in named}, **more}
    ours = not validate(RESTORE_REQUEST, body) and ("host" in body or "snapshot_id" in body)
    assert jsonschema_rs.validator_for(restore_body()).is_valid(body) is ours


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("name", "web-2", "zun-web"),
        ("ports", {"80/tcp": "127.0.0.1:8080"}, {"80": "8080"}),
        ("volumes", {"/data": "/srv/data"}, {"/data": "../data"}),
        ("restart_policy", "on-failure:3", "sometimes"),
        ("env", {"A": "b=c"}, {"A=B": "c"}),
        ("start", False, "no"),
    ],
)
def test_another_languages_validator_judges_a_restore_as_we_do(
    field: str, good: object, bad: object
) -> None:
    validator = jsonschema_rs.validator_for(snapshot_restore_body())
    for value, expected in ((good, True), (bad, False)):
        assert (not validate(RESTORE_REQUEST, {"snapshot_id": UUID, field: value})) is expected
        assert validator.is_valid({field: value}) is expected


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tag": "v1", "labels": {"a": "b"}, "metadata": {"a": "b"}, "stores": ["glance"]},
        {"rotation": 3},
        {"rotation": 3, "backup_type": "daily"},
        {"rotation": 0, "backup_type": "daily"},
        {"tag": "v1\n"},
        {"tag": ""},
        {"labels": {"a": 1}},
        {"labels": {"a\n": "b"}},
        {"metadata": {"a/b": "c"}},
        {"stores": []},
        {"stores": ["a", "a"]},
        {"message": "two\nlines"},
        {"message": "bell\a"},
        {"host": "tab\t"},
        {"request_id": UUID},
        {"colour": "red"},
        {"image_name": "UPPER"},
        {"image_name": "registry:5000/web"},
    ],
)
def test_another_languages_validator_judges_a_body_as_we_do(fields: dict[str, Any]) -> None:
    body = {"image_name": "snap", **fields}
    ours = not validate(COMMIT_REQUEST, {"container": "web", **body})
    assert jsonschema_rs.validator_for(commit_body()).is_valid(body) is ours


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    field=st.sampled_from(["message", "tag", "host", "image_name", "backup_type"]),
)
def test_its_patterns_mean_the_same_in_another_language(text: str, field: str) -> None:
    body = {"image_name": "snap", field: text}
    ours = not validate(COMMIT_REQUEST, {"container": "web", **body})
    assert jsonschema_rs.validator_for(commit_body()).is_valid(body) is ours


@pytest.mark.parametrize("key", ["a", "a b", "!", "~", "nightly 2026-11-24", "x" * 255])
def test_keys_that_the_document_allows_are_taken(key: str) -> None:
    assert allows_key(key)
    assert idempotency_key(with_key(key)) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\xe4"])
def test_keys_that_it_does_not_allow_are_refused(key: str) -> None:
    assert not allows_key(key)
    with pytest.raises(Invalid):
        idempotency_key(with_key(key))


def allows_key(key: str) -> bool:
    """Tell whether the document allows an Idempotency-Key."""
    (rule,) = (
        parameter["schema"]
        for parameter in operations()["commit"]["parameters"]
        if parameter["name"] == "Idempotency-Key"
    )
    return Draft202012Validator(rule).is_valid(key)


def with_key(key: str) -> falcon.Request:
    """Return a request with an Idempotency-Key."""
    return falcon.testing.create_req(headers={"Idempotency-Key": key})
