"""The REST service over the twins; every answer is held against the service's own description."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from falcon.testing import StartResponseMock, TestClient, create_environ
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.specs.openapi.definitions import OPENAPI_31

from tests.support.door import (
    COMMIT,
    MOST_BYTES,
    Door,
    app_in_front,
    errors_of,
    headers_of,
    pointers,
    refused,
    restores_in,
)
from tests.support.rest_double import preflight
from tests.support.twins import ADMIN, ALICE, HOST, MALLORY, Bench, Office, checked, message_of
from tintype import __version__
from tintype.adapters.memory_bus import MemoryBus
from tintype.api import Opened, make_app
from tintype.config import load_for_oslo
from tintype.core.errors import Internal, NotFound, TooLarge, Unauthorized, Unavailable, Unroutable
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    EXISTS_REQUEST,
    RESTORE_ACCEPTED,
    RESTORE_END,
    RESTORE_PROGRESS,
    RESTORE_START,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_PREFLIGHT,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_START,
    Event,
    Requester,
    is_uuid,
)
from tintype.core.images import ImageSpec
from tintype.core.index import SnapshotRecord
from tintype.core.reservation import KEY_LENGTH
from tintype.core.snapshot import image_id_for, snapshot_id_for
from tintype.embedded import OneHost, Printer, RouterPublisher, heard
from tintype.rest.answers import REQUEST_ID
from tintype.rest.health import KEPT_SECONDS, Health
from tintype.rest.identity import LoopbackIdentity, TokenIdentity
from tintype.rest.lists import LIMIT_MOST
from tintype.rest.openapi import document
from tintype.rest.policy import Policy

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
GOOD = {"image-name": "snap"}
BOB = Requester("project-a", "bob")
"""A colleague of Alice's who may look only."""
OPEN_PATHS = ["/", "/v1", "/openapi.json"]


@pytest.fixture(params=[True, False], ids=["token", "loopback"])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """The application, with either kind of identity in front."""
    opened = Door(by_token=request.param)
    opened.office.container()
    yield opened
    opened.office.database.close()


@pytest.fixture
def cloud() -> Iterator[Door]:
    """The application behind Keystone."""
    opened = Door()
    opened.office.container()
    yield opened
    opened.office.database.close()


@pytest.fixture
def local() -> Iterator[Door]:
    """The application on loopback."""
    opened = Door(by_token=False)
    opened.office.container()
    yield opened
    opened.office.database.close()


# Asking for a snapshot


def test_a_commit_is_answered_with_all_ids_and_where_to_look(door: Door) -> None:
    result = door.commit(GOOD)

    assert result.status_code == 202
    answer = result.json
    request_id = answer["request_id"]
    (web,) = door.office.index.containers()
    assert is_uuid(request_id)
    assert answer == {
        "uuid": image_id_for(request_id),
        "image_id": image_id_for(request_id),
        "snapshot_id": snapshot_id_for(request_id),
        "request_id": request_id,
        "container_uuid": web.uuid,
    }
    assert result.headers["Location"] == f"/v1/snapshots/{answer['snapshot_id']}"
    shown = door.get(result.headers["Location"])
    assert (shown["request_id"], shown["status"]) == (request_id, "queued")
    (event,) = door.office.bus.published
    assert event.id == request_id
    assert event.requester.project_id == "project-a"
    assert event.requester.is_admin is not door.by_token


def test_the_image_is_reserved_with_the_callers_own_token(cloud: Door) -> None:
    tokens: list[str] = []
    office = cloud.office

    def images_of(token: str) -> Any:
        tokens.append(token)
        return office.images

    identify = TokenIdentity(Policy(load_for_oslo()), images_of)
    cloud.client = TestClient(app_in_front(office, identify, MOST_BYTES))
    answer = cloud.commit(GOOD).json
    assert tokens == ["token of alice"]
    assert office.images.images[answer["image_id"]].spec.owner == "project-a"


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({"image-name": "snap", "tag": "v1"}, ""),
        ({"image_name": "snap", "tag": "v1"}, ""),
        (None, "repository=snap&tag=v1"),
        ({}, "tag=v1&repository=snap"),
        ({"tag": "v1"}, "repository=snap"),
        ({"image-name": "snap", "tag": "v1"}, "repository=snap&tag=v1"),
    ],
)
def test_the_specs_body_and_zunclients_query_are_understood(
    door: Door, body: Any, query: str
) -> None:
    result = door.commit(body, f"{COMMIT}?{query}")
    assert result.status_code == 202, result.text
    (event,) = door.office.bus.published
    assert event.type == COMMIT_REQUEST
    assert (event.payload["image_name"], event.payload["tag"]) == ("snap", "v1")


@pytest.mark.parametrize("parameter", ["repository=other", "tag=v2"])
def test_a_query_that_contradicts_the_body_is_refused(door: Door, parameter: str) -> None:
    result = door.commit({"image-name": "snap", "tag": "v1"}, f"{COMMIT}?{parameter}")
    assert pointers(result) == {f"?{parameter.partition('=')[0]}"}
    assert door.office.bus.published == []


def test_every_field_of_a_request_can_be_given_with_dashes(door: Door) -> None:
    door.office.images.reserve(ImageSpec(UUID, "snap", "latest", "project-a"))
    fields = {
        "image-id": UUID,
        "request-id": UUID.upper(),
        "stores": ["glance"],
        "pause": False,
        "message": "m",
        "author": "a",
        "labels": {"a-b": "c"},
        "metadata": {"c-d": "e"},
        "visibility": "shared",
        "backup-type": "daily",
        "rotation": 3,
        "keep-days": 7,
        "deadline": "2999-01-01T00:00:00Z",
        "host": HOST,
    }
    answer = door.commit({**GOOD, **fields})
    assert answer.status_code == 202, answer.text
    assert (answer.json["image_id"], answer.json["request_id"]) == (UUID, UUID)
    payload = door.office.bus.published[0].payload
    expected = {name.replace("-", "_"): value for name, value in fields.items()}
    assert {**expected, "request_id": UUID}.items() <= payload.items()


def test_the_same_request_gets_the_first_answer_and_another_a_conflict(door: Door) -> None:
    for given in (
        {"headers": {"Idempotency-Key": "any text, 'quoted' / not"}, "fields": {}},
        {"headers": {}, "fields": {"request_id": UUID}},
    ):
        headers, fields = given["headers"], given["fields"]
        one = door.commit({**GOOD, **fields}, headers=headers)
        two = door.commit({**GOOD, **fields}, headers=headers)
        assert (one.status_code, one.json) == (two.status_code, two.json) == (202, one.json)
        assert one.headers["Location"] == two.headers["Location"]
        other = door.commit({**GOOD, **fields, "tag": "v2"}, headers=headers)
        assert refused(other, 409, "was used before")["code"] == "RequestConflict"
    assert len(door.office.bus.published) == 2


@pytest.mark.parametrize("key", ["", "x" * (KEY_LENGTH + 1), "a\tb", "\u00e9", "a\x7f"])
def test_a_key_that_is_none_is_refused(door: Door, key: str) -> None:
    result = door.commit(GOOD, headers={"Idempotency-Key": key})
    refused(result, 400, "Idempotency-Key: expected 1 to 255 printable ASCII")
    assert door.office.bus.published == []


def test_two_keys_that_differ_are_refused(door: Door) -> None:
    result = door.commit({**GOOD, "request_id": UUID}, headers={"Idempotency-Key": "k"})
    assert pointers(result) == {"/request_id"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, {"/image_name"}),
        ({}, {"/image_name"}),
        ({"image-name": "Snap", "tag": 5, "stroes": []}, {"/image_name", "/tag", "/stroes"}),
        ({**GOOD, "request_id": ["x"], "image_id": "x"}, {"/request_id", "/image_id"}),
        ({**GOOD, "metadata": {"a": 1, "b": {}}}, {"/metadata/a", "/metadata/b"}),
        ({**GOOD, "a/b~c": 1}, {"/a~1b~0c"}),
        ({**GOOD, "message": "\ud800"}, {"/message"}),
        ({**GOOD, "container": "other"}, {"/container"}),
        ({**GOOD, "accept_by": "2999-01-01T00:00:00Z"}, {"/accept_by"}),
        ({**GOOD, "image_name": "snap"}, {"/image_name"}),
        ({"a-~/\ud800": 1, "a_~/\ud800": 2}, {"/a_~0~1\ud800"}),
        ({**GOOD, "rotation": 1e999}, {"/rotation", "/backup_type"}),
        ([], {""}),
        ("5", {""}),
        ("null", {""}),
        ("{", {""}),
        (b"\xff\xfe\x00", {""}),
        ("[" * 4000, {""}),
        ("NaN", {""}),
        ("{}x", {""}),
        ('{"rotation": ' + "9" * 4000, {""}),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_bad_body_is_refused_with_each_fault_by_its_pointer(
    door: Door, body: Any, expected: set[str]
) -> None:
    assert pointers(door.commit(body)) == expected
    assert door.office.bus.published == []
    assert door.office.image_ids == set()


@pytest.mark.parametrize("ident", ["-x", "a b", "x" * 300, "a%00b", "%ff", "a%0a", "%F0%9F%98%80"])
def test_a_bad_container_name_is_refused(door: Door, ident: str) -> None:
    assert pointers(door.commit(GOOD, f"/v1/containers/{ident}/commit")) == {"/container"}
    assert not any(call.startswith("index") for call in door.office.trouble.calls)


@pytest.mark.parametrize("parameter", ["colour=1", "tag=a&tag=b", "image_name=x", "limit=1"])
def test_an_unknown_parameter_of_a_commit_is_refused(door: Door, parameter: str) -> None:
    (pointer,) = pointers(door.commit(GOOD, f"{COMMIT}?{parameter}"))
    assert pointer == f"?{parameter.partition('=')[0]}"


def test_a_body_that_is_too_long_is_refused(door: Door) -> None:
    longest = json.dumps({**GOOD, "message": "x"}).ljust(MOST_BYTES)
    assert door.commit(longest).status_code == 202
    refused(door.commit(longest + " "), 413, str(MOST_BYTES))
    assert len(door.office.bus.published) == 1


@pytest.mark.parametrize("length", [10, MOST_BYTES + 1])
def test_a_body_in_chunks_is_read(door: Door, length: int) -> None:
    body = json.dumps(GOOD).ljust(length)
    extras = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    result = door.commit(body, extras=extras)
    if length > MOST_BYTES:
        refused(result, 413)
    else:
        assert result.status_code == 202


def test_a_body_of_no_known_length_is_not_waited_for(door: Door) -> None:
    """A server that does not end a stream by itself: to read on would hang."""
    result = door.commit(json.dumps(GOOD), extras={"CONTENT_LENGTH": ""})
    assert pointers(result) == {"/image_name"}


def test_a_body_in_chunks_that_the_server_keeps_is_not_taken_for_none(door: Door) -> None:
    extras = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}
    refused(door.commit(json.dumps(GOOD), extras=extras), 411, "Content-Length")


@pytest.mark.parametrize("length", ["x", "-1", "1.5"])
def test_a_length_that_is_none_is_refused(door: Door, length: str) -> None:
    environ = create_environ(COMMIT, method="POST", host="127.0.0.1", headers=headers_of(ALICE))
    started = StartResponseMock()
    body = door.client.app({**environ, "CONTENT_LENGTH": length}, started)
    assert started.status == "400 Bad Request"
    (error,) = json.loads(b"".join(body))["errors"]
    assert "Content-Length" in error["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "json"])
def test_a_body_of_another_kind_is_refused(door: Door, kind: str) -> None:
    result = door.commit(GOOD, headers={"Content-Type": kind})
    refused(result, 415, "expected a body of application/json")
    assert door.office.bus.published == []


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=UTF-8"])
def test_json_may_be_called_so_in_any_way(door: Door, kind: str) -> None:
    assert door.commit(GOOD, headers={"Content-Type": kind}).status_code == 202


def test_without_a_body_any_kind_is_fine(door: Door) -> None:
    for headers in ({"Content-Type": "application/json"}, {"Content-Type": "text/plain"}, {}):
        result = door.commit(None, f"{COMMIT}?repository=snap", headers=headers)
        assert result.status_code == 202


@pytest.mark.parametrize("accept", ["text/html", "application/xml, text/*;q=0.5", "x", "json"])
def test_who_takes_no_json_is_refused(door: Door, accept: str) -> None:
    for method, path in (("GET", "/v1/containers"), ("POST", COMMIT), ("GET", "/nowhere")):
        refused(door.call(method, path, headers={"Accept": accept}), 406, "application/json")
    assert door.office.bus.published == []


@pytest.mark.parametrize("accept", ["*/*", "application/*", "text/html, application/json;q=0.1"])
def test_who_takes_json_among_others_gets_it(door: Door, accept: str) -> None:
    assert "containers" in door.get("/v1/containers", headers={"Accept": accept})


def test_a_dry_run_is_answered_without_an_image(door: Door) -> None:
    result = door.commit({**GOOD, "dry-run": True})
    assert result.status_code == 202
    assert (result.json["uuid"], result.json["image_id"]) == (None, None)
    assert door.office.image_ids == set()
    (event,) = door.office.bus.published
    assert event.payload["dry_run"] is True
    assert "image_id" not in event.payload
    shown = door.get(f"/v1/snapshots/{result.json['snapshot_id']}")
    assert (shown["status"], shown["image_id"], shown["preflight"]) == ("queued", None, None)


def test_a_dry_run_shows_its_preflight(door: Door) -> None:
    ids = made(door, 1, dry_run=True)
    told = host_says(door, SNAPSHOT_START, ids)
    now = door.office.clock.now()
    ended = {"status": "preflight", "finished_at": now.isoformat(), "duration_ms": 1}
    found = {**told.payload, **ended, "image_id": None, "preflight": preflight("x")}
    event = checked(Event(SNAPSHOT_PREFLIGHT, {**found, "event_id": UUID}, ALICE, UUID))
    door.office.router.on_event(message_of(event, now))
    shown = door.get(f"/v1/snapshots/{ids['snapshot_id']}")
    assert (shown["status"], shown["preflight"]["problems"]) == ("preflight", ["x"])
    assert [each["status"] for each in door.get("/v1/snapshots?status=preflight")["snapshots"]] == [
        "preflight"
    ]
    refused(door.call("DELETE", f"/v1/snapshots/{ids['snapshot_id']}"), 409, "has ended")


def test_bad_instructions_are_refused_with_their_place(door: Door) -> None:
    result = door.commit({**GOOD, "changes": ["CMD nginx", "RUN make", "USER a", "FROM b"]})
    assert pointers(result) == {"/changes/1", "/changes/3"}
    assert door.office.bus.published == []


def test_what_is_wrong_with_the_container_is_told_at_once(door: Door) -> None:
    refused(door.commit(GOOD, "/v1/containers/nobody/commit"), 404, "nobody")
    door.office.container("new", state="Other")
    refused(door.commit(GOOD, "/v1/containers/new/commit"), 409, "neither of Running")
    door.office.container("web", host="host-2")
    refused(door.commit(GOOD), 409, "stands for 2 containers")
    assert door.commit({**GOOD, "host": "host-2"}).status_code == 202
    assert len(door.office.bus.published) == 1


@pytest.mark.parametrize(
    "call", ["index.find", "reservations.get", "reservations.open", "bus.publish"]
)
def test_what_is_away_is_503_with_a_time_to_come_back(door: Door, call: str) -> None:
    door.office.trouble.plan(call, Unavailable("the part is away"))
    result = door.commit(GOOD)
    error = refused(result, 503, "the part is away")
    assert error["code"] == "Unavailable"
    assert int(result.headers["Retry-After"]) > 0
    assert door.office.bus.published == []
    assert door.office.image_ids == set()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TooLarge("quota"), 413),
        (NotFound("gone"), 404),
        (Unauthorized("expired"), 401),
        (Unavailable("away"), 503),
    ],
)
def test_what_the_image_service_says_is_passed_on(
    cloud: Door, error: Exception, status: int
) -> None:
    cloud.office.trouble.plan("images.reserve", error)
    made = refused(cloud.commit(GOOD), status, str(error))
    assert made["code"] == type(error).__name__


@pytest.mark.parametrize("error", [RuntimeError("secret password"), Internal("broken")])
def test_a_defect_is_500_and_keeps_its_details_to_itself(door: Door, error: Exception) -> None:
    door.office.trouble.plan("bus.publish", error)
    result = door.commit(GOOD)
    errors_of(result, 500)
    assert "secret" not in result.text


def test_behind_a_path_of_its_own_the_service_says_so(door: Door) -> None:
    answer = door.commit(GOOD, extras={"SCRIPT_NAME": "/snapshots"})
    assert answer.headers["Location"].startswith("/snapshots/v1/snapshots/")
    door.office.container("db")
    page = door.get("/v1/containers?limit=1", extras={"SCRIPT_NAME": "/snapshots"})
    assert page["links"][0]["href"].startswith("http://127.0.0.1/snapshots/v1/containers?")
    version = door.get("/", extras={"SCRIPT_NAME": "/snapshots"})["default_version"]
    assert version["links"][0]["href"] == "http://127.0.0.1/snapshots/v1"


def test_errors_name_the_request_where_it_has_an_id(door: Door) -> None:
    result = door.call("GET", "/v1/containers/nobody", extras={REQUEST_ID: "req-1"})
    assert refused(result, 404)["request_id"] == "req-1"
    result = door.call("GET", "/v1/nothing/at/all", extras={REQUEST_ID: "req-2"})
    assert refused(result, 404)["request_id"] == "req-2"


# Who asks


PRIVATE: Sequence[tuple[str, str]] = [
    ("GET", "/v1/containers"),
    ("GET", "/v1/containers/web"),
    ("POST", COMMIT),
    ("GET", "/v1/snapshots"),
    ("GET", f"/v1/snapshots/{UUID}"),
    ("DELETE", f"/v1/snapshots/{UUID}"),
]


@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_without_a_token_there_is_nothing(cloud: Door, method: str, path: str) -> None:
    for headers in ({}, {"X-Identity-Status": ""}, {"X-Identity-Status": "confirmed"}):
        result = cloud.call(method, path, who=None, headers=headers)
        assert refused(result, 401)["code"] == "Unauthorized"
    unscoped = {**headers_of(ALICE), "X-Project-Id": ""}
    refused(cloud.call(method, path, headers=unscoped), 403, "scoped to a project")
    assert cloud.office.trouble.calls == []


def test_a_wrong_request_is_not_looked_at_before_who_sends_it(cloud: Door) -> None:
    refused(cloud.commit("{", who=None), 401)
    refused(cloud.call("GET", "/v1/containers?x=1", who=None), 401)


@pytest.mark.parametrize("path", [*OPEN_PATHS, "/metrics"])
def test_what_needs_no_token_is_open(cloud: Door, path: str) -> None:
    assert cloud.call("GET", path, who=None).status_code == 200
    assert cloud.office.trouble.calls == []


def test_readers_look_and_may_do_nothing(cloud: Door) -> None:
    snapshot = cloud.commit(GOOD).json["snapshot_id"]
    assert len(cloud.get("/v1/containers", who=BOB)["containers"]) == 1
    assert cloud.get("/v1/containers/web", who=BOB)["name"] == "web"
    assert len(cloud.get("/v1/snapshots", who=BOB)["snapshots"]) == 1
    assert cloud.get(f"/v1/snapshots/{snapshot}", who=BOB)["snapshot_id"] == snapshot
    refused(cloud.commit(GOOD, who=BOB), 403, "your roles")
    refused(cloud.call("DELETE", f"/v1/snapshots/{snapshot}", who=BOB), 403, "your roles")
    for kind in ("containers", "snapshots"):
        refused(cloud.call("GET", f"/v1/{kind}?all_projects=1", who=BOB), 403, "all_projects")
    assert len(cloud.office.bus.published) == 1


def test_who_has_no_role_sees_nothing(cloud: Door) -> None:
    headers = {"X-Roles": ""}
    refused(cloud.call("GET", "/v1/containers", headers=headers), 403, "list containers")
    refused(cloud.call("GET", "/v1/snapshots", headers=headers), 403, "list snapshots")
    refused(cloud.call("GET", "/v1/containers/web", headers=headers), 404)
    refused(cloud.commit(GOOD, headers=headers), 404)


def test_what_is_anothers_is_not_there(cloud: Door) -> None:
    snapshot = cloud.commit(GOOD).json["snapshot_id"]
    (web,) = cloud.office.index.containers()
    for method, path, body in [
        ("GET", "/v1/containers/web", None),
        ("GET", f"/v1/containers/{web.uuid}", None),
        ("GET", f"/v1/snapshots/{snapshot}", None),
        ("DELETE", f"/v1/snapshots/{snapshot}", None),
        ("POST", COMMIT, json.dumps(GOOD)),
    ]:
        headers = {"Content-Type": "application/json"}
        result = cloud.call(method, path, who=MALLORY, body=body, headers=headers)
        refused(result, 404, "no (container|snapshot) .* is known")
    assert cloud.get("/v1/containers", who=MALLORY)["containers"] == []
    assert cloud.get("/v1/snapshots", who=MALLORY)["snapshots"] == []
    for kind in ("containers", "snapshots"):
        refused(cloud.call("GET", f"/v1/{kind}?all_projects=true", who=MALLORY), 403)
    assert len(cloud.office.bus.published) == 1


def test_admins_see_and_do_everything(cloud: Door) -> None:
    cloud.office.container("theirs", project_id="project-m")
    cloud.office.container("nobodys", project_id=None)
    snapshot = cloud.commit(GOOD).json["snapshot_id"]
    assert cloud.get("/v1/containers", who=ADMIN)["containers"] == []
    everybodys = cloud.get("/v1/containers?all_projects=true", who=ADMIN)["containers"]
    assert {each["name"] for each in everybodys} == {"web", "theirs", "nobodys"}
    assert cloud.get("/v1/containers?all_projects=false", who=ADMIN)["containers"] == []
    assert len(cloud.get("/v1/snapshots?all_projects=TRUE", who=ADMIN)["snapshots"]) == 1
    for ident in ("theirs", "nobodys"):
        result = cloud.commit(GOOD, f"/v1/containers/{ident}/commit", who=ADMIN)
        assert result.status_code == 202
    assert cloud.office.bus.published[-1].requester == ADMIN
    assert cloud.call("DELETE", f"/v1/snapshots/{snapshot}", who=ADMIN).status_code == 202


def test_on_loopback_everybody_is_admin(local: Door) -> None:
    local.office.container("theirs", project_id="project-m")
    assert local.get("/v1/containers/theirs")["project_id"] == "project-m"
    assert len(local.get("/v1/containers?all_projects=1")["containers"]) == 2
    assert local.commit(GOOD, "/v1/containers/theirs/commit").status_code == 202
    assert local.office.bus.published[0].requester.is_admin


def test_on_loopback_headers_of_tokens_mean_nothing(local: Door) -> None:
    assert local.commit(GOOD, who=MALLORY).status_code == 202
    assert local.office.bus.published[0].requester.project_id == "project-a"
    assert local.office.image_ids == set(), "nobody has a token here"


LOCAL_HOSTS = [
    "127.0.0.1",
    "127.1.2.3",
    "localhost",
    "[::1]",
    "127.0.0.1:9519",
    "localhost:80",
    "[::1]:9519",
]
OTHER_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "127.evil.example",
    "127.example:9519",
    "localhost.evil.example",
    "10.0.0.1",
    "[::2]",
    "0.0.0.0",
    "evil.example:127",
    "127.",
    "localhost@evil.example",
    "[::1].evil.example",
    "[::1]evil",
    "[::1",
]


@pytest.mark.parametrize("host", LOCAL_HOSTS)
def test_this_machines_own_names_are_let_in(local: Door, host: str) -> None:
    assert local.call("GET", "/v1/containers", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", OTHER_HOSTS)
@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_a_name_that_a_web_page_may_have_is_kept_out(
    local: Door, method: str, path: str, host: str
) -> None:
    refused(local.call(method, path, headers={"Host": host}), 403, "own users")
    assert local.office.trouble.calls == []


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9519", ""])
@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_a_web_page_is_kept_out(local: Door, method: str, path: str, origin: str) -> None:
    refused(local.call(method, path, headers={"Origin": origin}), 403, "own users")
    assert local.office.trouble.calls == []


# Containers


def test_a_container_is_shown_by_any_of_its_names(door: Door) -> None:
    engine_id = "0123456789ab" + "f" * 52
    about = {"image": "nginx:1", "user_id": "alice", "labels": {"tier": "front"}}
    created = "2026-01-01T00:00:00.000000+00:00"
    door.office.container(
        "db", uuid_=UUID, engine_id=engine_id, created_at=created, state="Paused", **about
    )
    expected = {
        "uuid": UUID,
        "name": "db",
        "host": HOST,
        "state": "Paused",
        "project_id": "project-a",
        "engine_container_id": engine_id,
        "created_at": created,
        **about,
    }
    for ident in (UUID, UUID.upper(), engine_id, engine_id[:12], "db"):
        assert door.get(f"/v1/containers/{ident}") == expected
    assert expected in door.get("/v1/containers")["containers"]


def test_a_container_of_which_little_is_known_is_shown_too(door: Door) -> None:
    for fact in ("state", "engine_id", "name"):
        door.office.container(**{"name": f"no-{fact}", fact: None})
    shown = door.get("/v1/containers")["containers"]
    assert [each["labels"] for each in shown] == [{}] * 4
    assert [each["state"] for each in shown].count(None) == 1


def test_a_name_on_two_hosts_is_ambiguous_unless_one_is_named(door: Door) -> None:
    two = door.office.container(host="host-2")
    refused(door.call("GET", "/v1/containers/web"), 409, f"{two} on host-2")
    assert door.get("/v1/containers/web?host=host-2")["uuid"] == two
    refused(door.call("GET", "/v1/containers/web?host=host-3"), 404)
    assert pointers(door.call("GET", "/v1/containers/web?state=Running")) == {"?state"}


HOSTILE = ["a%00b", "%ff", "%F0%9F%98%80", "x" * 5000, "%25", "'%22--", "%ED%A0%80", "a%0ab", "_"]


@pytest.mark.parametrize("ident", HOSTILE)
def test_hostile_names_are_not_found(door: Door, ident: str) -> None:
    refused(door.call("GET", f"/v1/containers/{ident}"), 404, "no container")
    refused(door.call("GET", f"/v1/snapshots/{ident}"), 404, "no snapshot")
    refused(door.call("DELETE", f"/v1/snapshots/{ident}"), 404, "no snapshot")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", ["name", "host", "state"])
def test_hostile_values_find_nothing(door: Door, name: str, value: str) -> None:
    assert door.get(f"/v1/containers?{name}={value}") == {"containers": []}


@pytest.mark.parametrize("marker", HOSTILE)
def test_a_marker_that_is_not_known_is_not_found(door: Door, marker: str) -> None:
    for kind in ("containers", "snapshots"):
        refused(door.call("GET", f"/v1/{kind}?marker={marker}"), 404, "marker")


def test_a_name_may_be_escaped(door: Door) -> None:
    assert door.get("/v1/containers/%77eb")["name"] == "web"
    assert len(door.get("/v1/containers?name=%77e%62")["containers"]) == 1


@pytest.mark.parametrize(
    "text", ["\ud800", "\u00e9 \U0001f600", "a\0b", "<script>", '"', "x" * 4096]
)
def test_whatever_was_told_of_a_container_is_shown(door: Door, text: str) -> None:
    door.office.container("odd", labels={"key": text, text: "value"}, image=text)
    for shown in (
        door.get("/v1/containers/odd"),
        *door.get("/v1/containers?name=odd")["containers"],
    ):
        assert shown["labels"] == {"key": text, text: "value"}
        assert shown["image"] == text


def test_containers_are_filtered(door: Door) -> None:
    door.office.container("web", host="host-2", state="Stopped")
    door.office.container("db", host="host-2")
    for query, names in [
        ("", ["db", "web", "web"]),
        ("name=web", ["web", "web"]),
        ("host=host-2", ["db", "web"]),
        ("state=Running&host=host-2", ["db"]),
        ("state=Stopped", ["web"]),
        ("name=nothing", []),
        ("name=", []),
    ]:
        found = door.get(f"/v1/containers?{query}")["containers"]
        assert sorted(each["name"] for each in found) == names, query


@pytest.mark.parametrize("key", ["uuid", "name", "host", "state", "created_at"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 1000])
def test_containers_come_page_by_page_in_any_order(
    door: Door, key: str, direction: str, limit: int
) -> None:
    for number in range(3):
        created = f"2026-01-0{number + 1}T00:00:00.000000+00:00"
        name = f"n {number}&x=1"
        door.office.container(name, host=f"h-{number % 2}", created_at=created)
    query = urlencode({"sort_key": key, "sort_dir": direction, "limit": limit})
    pages = door.pages(f"/v1/containers?{query}", "containers")
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == 4 // limit + 1
    found = [each for page in pages for each in page]
    values = [each[key] or "" for each in found]
    assert values == sorted(values, reverse=direction == "desc")
    assert len({each["uuid"] for each in found}) == 4


def test_links_keep_what_was_asked_for(cloud: Door) -> None:
    for number in range(3):
        cloud.office.container("a&b=c \u00e9", project_id=f"project-{number}")
    query = urlencode({"name": "a&b=c \u00e9", "limit": 2, "all_projects": "true"})
    pages = cloud.pages(f"/v1/containers?{query}", "containers", who=ADMIN)
    assert [len(page) for page in pages] == [2, 1]


def test_a_link_goes_where_the_client_came_from(cloud: Door) -> None:
    cloud.office.container("db")
    for options, start in [
        ({"host": "api.example", "port": 9519}, "http://api.example:9519/v1/containers?"),
        ({"protocol": "https", "host": "api.example"}, "https://api.example/v1/containers?"),
    ]:
        page = cloud.get("/v1/containers?limit=1", **options)
        assert page["links"][0]["href"].startswith(start)


LISTS = ["/v1/containers", "/v1/snapshots", "/v1/restores"]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("colour=red", "?colour"),
        ("created_at=2026-01-01", "?created_at"),
        ("limit=0", "?limit"),
        (f"limit={LIMIT_MOST + 1}", "?limit"),
        ("limit=", "?limit"),
        ("limit=-1", "?limit"),
        ("limit=1.0", "?limit"),
        ("limit=%d9%a3", "?limit"),
        ("limit=%c2%b2", "?limit"),
        ("limit=" + "9" * 5000, "?limit"),
        ("limit=1&limit=2", "?limit"),
        ("sort_key=labels", "?sort_key"),
        ("sort_key=", "?sort_key"),
        ("sort_dir=up", "?sort_dir"),
        ("sort_dir=ASC", "?sort_dir"),
        ("all_projects=maybe", "?all_projects"),
        ("all_projects=", "?all_projects"),
        ("host=a&host=b", "?host"),
        ("marker=a&marker=a", "?marker"),
        ("%00=1", "?\0"),
        ("%ff=1", "?\ufffd"),
        ("=1", "?"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_wrong_query_is_refused_by_name(door: Door, path: str, query: str, pointer: str) -> None:
    assert pointers(door.call("GET", f"{path}?{query}")) == {pointer}


# Snapshots


def made(door: Door, number: int, container: str = "web", **fields: Any) -> dict[str, Any]:
    """Ask for a snapshot, and return its ids."""
    door.office.clock.advance(1)
    request_id = f"6ba7b810-9dad-11d1-80b4-{number:012x}"
    body = {"image_name": f"snap-{number}", "request_id": request_id, **fields}
    result = door.commit(body, f"/v1/containers/{container}/commit")
    assert result.status_code == 202, result.text
    return dict(result.json)


def host_says(door: Door, event_type: str, ids: dict[str, Any]) -> Event:
    promised = door.office.reservations.get(ids["request_id"])
    assert promised is not None
    return door.office.host_says(event_type, promised)


def test_a_snapshot_is_found_by_both_ids_and_as_its_host_says(door: Door) -> None:
    ids = made(door, 1)
    idents = [ids["snapshot_id"], ids["request_id"], ids["request_id"].upper()]
    for event_type, status in [
        (None, "queued"),
        (SNAPSHOT_START, "queued"),
        (SNAPSHOT_END, "active"),
    ]:
        told = event_type and host_says(door, event_type, ids)
        for ident in idents:
            shown = door.get(f"/v1/snapshots/{ident}")
            assert shown["status"] == status
            assert shown["image_id"] == ids["image_id"]
            assert told is None or shown == told.payload


def test_a_failed_snapshot_shows_its_fault(door: Door) -> None:
    ids = made(door, 1)
    told = host_says(door, SNAPSHOT_ERROR, ids)
    shown = door.get(f"/v1/snapshots/{ids['snapshot_id']}")
    assert shown["fault"] == told.payload["fault"]
    assert shown["fault"]["message"] == "no"


@pytest.mark.parametrize(
    "ident", [UUID, UUID.replace("-", ""), "{" + UUID + "}", f"urn:uuid:{UUID}"]
)
def test_an_unknown_snapshot_is_not_found(door: Door, ident: str) -> None:
    refused(door.call("GET", f"/v1/snapshots/{quote(ident)}"), 404, "no snapshot")


def test_a_snapshot_takes_no_parameters(door: Door) -> None:
    ids = made(door, 1)
    for method in ("GET", "DELETE"):
        result = door.call(method, f"/v1/snapshots/{ids['snapshot_id']}?force=1")
        assert pointers(result) == {"?force"}
    assert len(door.office.bus.published) == 1


def test_snapshots_are_listed_the_newest_first(door: Door) -> None:
    ids = [made(door, number)["snapshot_id"] for number in (3, 1, 2)]
    listed = door.get("/v1/snapshots")["snapshots"]
    assert [each["snapshot_id"] for each in listed] == ids[::-1]
    assert listed[0] == door.get(f"/v1/snapshots/{ids[-1]}")


def test_snapshots_are_filtered(door: Door) -> None:
    door.office.container("db", host="host-2")
    one, two = made(door, 1), made(door, 2, "db")
    host_says(door, SNAPSHOT_END, one)
    for query, expected in [
        ({"container_uuid": two["container_uuid"]}, [two]),
        ({"container_uuid": two["container_uuid"].upper()}, [two]),
        ({"container_name": "web"}, [one]),
        ({"host": "host-2"}, [two]),
        ({"image_id": one["image_id"]}, [one]),
        ({"image_name": "snap-2"}, [two]),
        ({"status": "active"}, [one]),
        ({"status": "queued", "container_name": "web"}, []),
        ({}, [two, one]),
    ]:
        listed = door.get(f"/v1/snapshots?{urlencode(query)}")["snapshots"]
        found = [each["snapshot_id"] for each in listed]
        assert found == [each["snapshot_id"] for each in expected], query


@pytest.mark.parametrize(
    "key",
    [
        "snapshot_id",
        "container_uuid",
        "container_name",
        "host",
        "image_id",
        "image_name",
        "status",
        "created_at",
    ],
)
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_snapshots_come_page_by_page_in_any_order(door: Door, key: str, direction: str) -> None:
    door.office.container("db", host="host-2")
    for number in range(5):
        ids = made(door, number, ("web", "db")[number % 2])
        if number == 2:
            host_says(door, SNAPSHOT_END, ids)
    pages = door.pages(f"/v1/snapshots?sort_key={key}&sort_dir={direction}&limit=2", "snapshots")
    assert [len(page) for page in pages] == [2, 2, 1]
    found = [each for page in pages for each in page]
    values = [each[key] for each in found]
    assert values == sorted(values, reverse=direction == "desc")
    assert len({each["snapshot_id"] for each in found}) == 5


def test_a_snapshot_is_cancelled(door: Door) -> None:
    ids = made(door, 1)
    for ident in (ids["snapshot_id"], ids["request_id"]):
        result = door.call("DELETE", f"/v1/snapshots/{ident}")
        assert result.status_code == 202
        assert result.json == door.get(f"/v1/snapshots/{ident}")
        event = door.office.bus.published[-1]
        assert (event.type, event.payload) == (COMMIT_CANCEL, {"request_id": ids["request_id"]})


def test_a_snapshot_that_has_ended_is_not_cancelled(door: Door) -> None:
    ids = made(door, 1)
    host_says(door, SNAPSHOT_END, ids)
    result = door.call("DELETE", f"/v1/snapshots/{ids['snapshot_id']}")
    assert refused(result, 409, f"delete its image {ids['image_id']}")["code"] == "WrongState"
    assert len(door.office.bus.published) == 1


@pytest.mark.parametrize("call", ["index.find_snapshot", "bus.publish"])
def test_a_cancellation_that_cannot_be_sent_is_503(door: Door, call: str) -> None:
    ids = made(door, 1)
    door.office.trouble.plan(call, Unavailable("away"))
    result = door.call("DELETE", f"/v1/snapshots/{ids['snapshot_id']}")
    refused(result, 503, "away")
    assert "Retry-After" in result.headers


@pytest.mark.parametrize("path", [*LISTS, "/v1/containers/web", f"/v1/snapshots/{UUID}"])
def test_an_index_that_is_away_is_503(door: Door, path: str) -> None:
    for call in ("list_containers", "list_snapshots", "list_restores", "find", "find_snapshot"):
        door.office.trouble.plan(f"index.{call}", Unavailable("away"))
    result = door.call("GET", path)
    refused(result, 503, "away")
    assert "Retry-After" in result.headers


# Other paths and methods


@pytest.mark.parametrize("path", [*OPEN_PATHS, *LISTS, "/v1/containers/web"])
def test_a_slash_at_the_end_makes_no_difference(door: Door, path: str) -> None:
    assert door.get(f"{path.rstrip('/')}/") == door.get(path)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v2/containers", 404),
        ("GET", "/v1/container", 404),
        ("POST", "/v1/containers/web/eat", 404),
        ("POST", "/v1/containers/a%2Fb/commit", 404),
        ("GET", "/v1/snapshots/a/b", 404),
        ("GET", "/metrics/x", 404),
        ("GET", COMMIT, 405),
        ("POST", "/v1/containers", 405),
        ("DELETE", "/v1/containers/web", 405),
        ("PUT", f"/v1/snapshots/{UUID}", 405),
        ("PATCH", "/", 405),
        ("POST", "/metrics", 405),
        ("HEAD", "/v1/containers", 405),
    ],
)
def test_other_paths_and_methods_are_refused_in_the_same_form(
    door: Door, method: str, path: str, status: int
) -> None:
    result = door.call(method, path)
    assert result.status_code == status
    if method != "HEAD":
        refused(result, status)
    assert ("Allow" in result.headers) == (status == 405)
    assert door.office.trouble.calls == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", {"GET"}),
        ("/v1/containers", {"GET"}),
        (COMMIT, {"POST"}),
        (f"/v1/snapshots/{UUID}", {"GET", "DELETE"}),
    ],
)
def test_options_tells_what_is_allowed(door: Door, path: str, allowed: set[str]) -> None:
    result = door.call("OPTIONS", path, who=None)
    assert result.status_code == 200
    assert {*result.headers["Allow"].replace(" ", "").split(",")} - {"OPTIONS"} == allowed
    assert "Access-Control-Allow-Origin" not in result.headers
    assert door.office.trouble.calls == []


def test_the_version_is_told(door: Door) -> None:
    version = door.get("/v1", who=None)
    assert (version["id"], version["status"]) == ("v1", "CURRENT")
    assert version["links"] == [{"rel": "self", "href": "http://127.0.0.1/v1"}]
    assert door.get("/", who=None) == {
        "name": "tintype",
        "version": __version__,
        "default_version": version,
        "versions": [version],
    }


# The description


def test_the_description_is_openapi(door: Door) -> None:
    api = door.get("/openapi.json", who=None)
    assert api == document()
    assert [error.message for error in Draft202012Validator(OPENAPI_31).iter_errors(api)] == []


def schemas_in(value: Any) -> Iterator[Any]:
    """Return all schemas in a description."""
    if isinstance(value, dict):
        if isinstance(value.get("schema"), dict):
            yield value["schema"]
        for key, item in value.items():
            if key == "schemas":
                yield from item.values()
            else:
                yield from schemas_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from schemas_in(item)


def test_its_schemas_are_schemas_and_its_references_lead_somewhere() -> None:
    api = document()
    for schema in schemas_in(api):
        Draft202012Validator.check_schema(schema)
    for reference in set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(api))):
        assert reference.startswith("#/components/")
        found = api
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    assert "x-expected" not in json.dumps(api)


def test_it_tells_of_every_path_and_method(door: Door) -> None:
    told = {
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
        if method != "parameters"
    }
    routes = {
        *(("GET", path) for path in (*OPEN_PATHS, "/metrics", *LISTS)),
        ("GET", "/v1/containers/{ident}"),
        ("POST", "/v1/containers/{ident}/commit"),
        ("GET", "/v1/snapshots/{ident}"),
        ("DELETE", "/v1/snapshots/{ident}"),
        ("POST", "/v1/snapshots/{ident}/restore"),
        ("GET", "/v1/restores"),
        ("POST", "/v1/restores"),
        ("GET", "/v1/restores/{ident}"),
        ("DELETE", "/v1/restores/{ident}"),
    }
    assert told == routes
    for path in {path for _, path in routes}:
        allow = door.call("OPTIONS", path.replace("{ident}", UUID)).headers["Allow"]
        methods = {*allow.replace(" ", "").split(",")} - {"OPTIONS"}
        assert methods == {method for method, other in routes if other == path}


def test_operations_have_ids_of_their_own_and_parameters_that_are_theirs() -> None:
    ids = []
    for path, item in document()["paths"].items():
        shared = item.get("parameters", [])
        for method, operation in item.items():
            if method == "parameters":
                continue
            ids.append(operation["operationId"])
            named = [
                (each["in"], each["name"]) for each in shared + operation.get("parameters", [])
            ]
            assert len({*named}) == len(named)
            assert {name for where, name in named if where == "path"} == {
                *re.findall(r"\{(\w+)\}", path)
            }
    assert len({*ids}) == len(ids)


def test_every_parameter_that_it_tells_of_is_understood(door: Door) -> None:
    made(door, 1)
    for path, item in document()["paths"].items():
        for each in item.get("get", {}).get("parameters", []):
            if each["in"] != "query":
                continue
            values = each["schema"].get("enum", ["1"])
            for value in values:
                filled = path.replace("{ident}", "web")
                result = door.call("GET", f"{filled}?{each['name']}={value}")
                expected = {200, 404} if each["name"] in {"marker", "host"} else {200, 403}
                assert result.status_code in expected, (path, each["name"], value)


def test_bodies_that_it_tells_of_are_what_the_bus_takes() -> None:
    body = document()["components"]["schemas"]["CommitRequest"]
    assert body["required"] == ["image_name"]
    assert body["additionalProperties"] is False
    assert not {"container", "accept_by"} & body["properties"].keys()
    validator = Draft202012Validator(body)
    assert validator.is_valid({"image_name": "snap", "tag": "v1", "metadata": {"a": "b"}})
    assert not validator.is_valid({"image_name": "Snap"})
    assert not validator.is_valid({"image_name": "snap", "rotation": 3})


def test_two_descriptions_share_nothing() -> None:
    one = document()
    one["paths"].clear()
    one["components"]["schemas"].clear()
    assert document()["paths"]
    assert document()["components"]["schemas"]


# Metrics and health


def counts(door: Door) -> dict[tuple[str, str, str], float]:
    """Return how many requests were answered, by method, route and status."""
    result = door.call("GET", "/metrics", who=None)
    assert result.status_code == 200
    assert result.headers["Content-Type"].startswith("text/plain")
    families = {each.name: each for each in text_string_to_metric_families(result.text)}
    assert "tintype_http_request_duration_seconds" in families
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in families["tintype_http_requests"].samples
        if sample.name.endswith("_total")
    }


def test_requests_are_counted_by_route_and_status(door: Door) -> None:
    assert counts(door) == {}
    door.commit(GOOD)
    door.commit({})
    for ident in ("web", "one", "two", "x" * 3000):
        door.call("GET", f"/v1/containers/{ident}")
    door.call("GET", "/nowhere/1")
    door.call("GET", "/nowhere/2")
    door.call("GET", "/v1", headers={"Accept": "text/html"})
    assert counts(door) == {
        ("POST", "/v1/containers/{ident}/commit", "202"): 1,
        ("POST", "/v1/containers/{ident}/commit", "400"): 1,
        ("GET", "/v1/containers/{ident}", "200"): 1,
        ("GET", "/v1/containers/{ident}", "404"): 3,
        ("GET", "unknown", "404"): 2,
        ("GET", "unknown", "406"): 1,
        ("GET", "/metrics", "200"): 1,
    }


def test_a_defect_is_counted(door: Door) -> None:
    door.office.trouble.plan("index.find", RuntimeError("x"))
    door.call("GET", "/v1/containers/web")
    assert counts(door)["GET", "/v1/containers/{ident}", "500"] == 1


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text", "text/html", ""])
def test_metrics_are_text_whatever_is_accepted(door: Door, accept: str) -> None:
    result = door.call("GET", "/metrics", headers={"Accept": accept})
    assert result.status_code == 200


def test_each_application_counts_for_itself() -> None:
    one, two = Door(), Door()
    one.get("/v1")
    assert counts(two) == {}


class Parts:
    """What the healthcheck looks at."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}

    def check(self, name: str) -> Callable[[], None]:
        def look() -> None:
            if name in self.errors:
                raise self.errors[name]

        return look


@pytest.fixture
def health() -> tuple[Parts, TestClient]:
    parts = Parts()
    office = Office()
    application = make_app(
        load_for_oslo(),
        app_in_front(office, LoopbackIdentity(None, None)),
        {name: parts.check(name) for name in ("message bus", "index", "image service")},
    )
    return parts, TestClient(application)


def test_all_parts_are_well(health: tuple[Parts, TestClient]) -> None:
    _, client = health
    for accept in ("*/*", "application/json", "text/html"):
        result = client.simulate_get("/healthcheck", headers={"Accept": accept})
        assert result.status_code == 200
        assert "OK" in result.text or "[]" in result.text


def test_what_is_away_is_named_and_nothing_else_is_told(health: tuple[Parts, TestClient]) -> None:
    parts, client = health
    parts.errors["index"] = Unavailable("postgresql://user:secret@db")
    parts.errors["image service"] = Unauthorized("the service user's password is wrong")
    for accept in ("*/*", "application/json"):
        result = client.simulate_get("/healthcheck", headers={"Accept": accept})
        assert result.status_code == 503
        assert "index is away; image service is away" in result.text
        assert "secret" not in result.text
        assert "password" not in result.text
    assert client.simulate_head("/healthcheck").status_code == 503


def test_however_many_ask_the_parts_are_looked_at_now_and_then() -> None:
    now, looks, entered, leave = [0.0], [], threading.Event(), threading.Event()

    def look() -> None:
        looks.append(now[0])
        if len(looks) == 2:
            entered.set()
            leave.wait(30)
            raise Unavailable("away")

    health = Health({"index": look}, clock=lambda: now[0])
    for _ in range(5):
        assert health.away() == []
    assert len(looks) == 1
    now[0] = KEPT_SECONDS
    slow = threading.Thread(target=health.away)
    slow.start()
    assert entered.wait(30)
    assert health.away() == [], "the last answer, without waiting for who looks"
    leave.set()
    slow.join()
    assert health.away() == ["index is away"]
    now[0] = 2 * KEPT_SECONDS
    assert health.away() == []


def test_the_healthcheck_is_no_more_than_that(health: tuple[Parts, TestClient]) -> None:
    _, client = health
    assert client.simulate_get("/v1").json["id"] == "v1"
    assert client.simulate_get("/healthcheck/x").status_code == 404


def test_the_database_is_put_into_shape_once_before_the_first_request() -> None:
    upgrades: list[str] = []
    errors: list[Exception] = [Unavailable("away")]

    def upgrade() -> None:
        upgrades.append("")
        if errors:
            raise errors.pop()

    office = Office()
    app = app_in_front(office, LoopbackIdentity(None, None))
    client = TestClient(Opened(app, upgrade))
    result = client.simulate_get("/v1", extras={REQUEST_ID: "req-1"})
    assert refused(result, 503, "away")["request_id"] == "req-1"
    assert int(result.headers["Retry-After"]) > 0
    for _ in range(3):
        assert client.simulate_get("/v1").status_code == 200
    assert len(upgrades) == 2


# All in one process, as `tintype serve` puts it together


class House:
    """An office whose router speaks to one host in the same process."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.bus = MemoryBus()
        self.told: list[Event] = []
        self.shown: list[Event] = []
        self.bus.subscribe(self.told.append)
        self.courier = OneHost(HOST, self.bench.intake, self.bus)
        self.office = Office(
            default_stores=(),
            courier=self.courier,  # type: ignore[arg-type]
            clock=self.bench.clock,
        )
        self.office.bus = RouterPublisher(self.office.router, self.shown.append)  # type: ignore[assignment]
        router, clock = self.office.router, self.office.clock
        self.bus.subscribe(lambda event: router.on_event(message_of(event, clock.now())))

    def settle(self) -> None:
        """Let the host work, and everybody hear of it, until nothing is left to do."""
        journal = self.bench.journal
        busy = True
        while busy:
            rows = journal.pending(100)
            for row in rows:
                self.bus.publish(row.event)
            journal.confirm(rows)
            work = journal.claim(self.bench.clock.now())
            if work is not None:
                self.bench.runner.run(work)
            busy = bool(rows) or work is not None


@pytest.fixture
def house() -> House:
    house = House()
    container = house.bench.container()
    house.office.container(uuid_=container.uuid)
    return house


def test_the_one_host_gets_its_requests(house: House) -> None:
    promised = house.office.submit()
    house.settle()
    assert [event.type for event in house.told if event.type != SNAPSHOT_PROGRESS] == [
        COMMIT_ACCEPTED,
        SNAPSHOT_START,
        SNAPSHOT_END,
    ]
    record = house.office.index.find_snapshot(promised.answer["snapshot_id"])
    assert record is not None
    assert (record.payload["status"], record.payload["image_id"]) == (
        "active",
        promised.promised_image_id,
    )
    (shown,) = house.shown
    assert shown.payload["request_id"] == promised.request_id


def test_no_other_host_is_there(house: House) -> None:
    event = Event(COMMIT_REQUEST, {"container": "web", "image_name": "snap"})
    with pytest.raises(Unroutable, match=f"only '{HOST}'"):
        house.courier.to_host("host-2", event, timedelta(seconds=1))
    assert house.bench.journal.live() == frozenset()


def test_the_one_host_hears_questions_and_requests_of_triggers(house: House) -> None:
    house.courier.to_agents(Event(EXISTS_REQUEST, {"container": "web"}))
    assert house.bench.asked == ["web"]
    house.courier.feed(Event(COMMIT_REQUEST, {"container": "web", "image_name": "a"}, ALICE, UUID))
    house.courier.feed(Event(SNAPSHOT_START, {}))
    assert house.bench.journal.live() == {UUID}
    house.courier.tell(Event(SNAPSHOT_ERROR, {}))
    assert [event.type for event in house.told] == [SNAPSHOT_ERROR]
    house.courier.close()


def test_what_the_router_refuses_is_its_senders_to_hear(house: House) -> None:
    request = {"container": "web", "image_name": "snap", "request_id": UUID}
    shown: list[Event] = []
    front = RouterPublisher(house.office.router, shown.append)
    front.publish(Event(COMMIT_REQUEST, request, ALICE, UUID))
    with pytest.raises(Exception, match="used before"):
        front.publish(Event(COMMIT_REQUEST, {**request, "tag": "v2"}, ALICE, UUID))
    with pytest.raises(NotFound):
        front.publish(Event(COMMIT_CANCEL, {"request_id": UUID.replace("6", "7")}, ALICE))
    assert house.told == []
    front.close()


def test_a_cancellation_comes_to_the_host_at_once(house: House) -> None:
    promised = house.office.submit()
    record = house.office.index.find_snapshot(promised.request_id)
    assert record is not None
    house.office.commits().cancel(house.office.caller(), record)
    house.settle()
    assert house.told[-1].type == SNAPSHOT_ERROR
    assert house.told[-1].payload["fault"]["code"] == 499


def restored(house: House, **fields: Any) -> dict[str, Any]:
    """Ask for a container, let it be made, and return how the index says that this went."""
    restores = restores_in(house.office, only_host=HOST)
    promised = restores.submit(house.office.caller(), fields)
    house.settle()
    record = house.office.index.restore(promised.request_id)
    assert record is not None
    return dict(record.payload)


def test_the_one_host_restores_what_it_has_made(house: House) -> None:
    made = house.office.submit()
    house.settle()
    house.told.clear()
    told = restored(house, snapshot_id=made.answer["snapshot_id"], name="web-2")
    assert [event.type for event in house.told if event.type != RESTORE_PROGRESS] == [
        RESTORE_ACCEPTED,
        RESTORE_START,
        RESTORE_END,
    ]
    assert (told["status"], told["container_name"], told["host"]) == ("active", "web-2", HOST)
    image = house.office.submit(image_name="other")
    house.settle()
    told = restored(house, image_id=image.promised_image_id)
    assert (told["status"], told["snapshot_id"]) == ("active", image.answer["snapshot_id"])


def test_what_the_one_host_cannot_restore_is_told(house: House) -> None:
    told = restored(house, image_id=UUID)
    assert (told["status"], told["fault"]["code"]) == ("error", 404)


def test_of_two_progress_events_the_later_counts_whatever_their_ids() -> None:
    told = [{"request_id": "r", "event_id": event_id} for event_id in ("b", "a")]
    first, second = (
        SnapshotRecord.read(heard(Event(SNAPSHOT_PROGRESS, payload))) for payload in told
    )
    assert first.latest(second) == second.latest(first) == second


def test_lines_of_several_threads_stay_whole(capfd: pytest.CaptureFixture[str]) -> None:
    show = Printer()
    events = [Event(SNAPSHOT_PROGRESS, {"number": number}) for number in range(200)]

    def print_all() -> None:
        for event in events:
            show(event)

    threads = [threading.Thread(target=print_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 4 * len(events)
    assert all(json.loads(line)["type"] == SNAPSHOT_PROGRESS for line in lines)
