"""The REST service over the twins."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from tests.support.twins import Bench
from tintype import __version__
from tintype.api import MAX_BODY_BYTES, create_app
from tintype.core.errors import Internal, NotFound, TooLarge, Unavailable
from tintype.core.events import COMMIT_REQUEST, Event, Message, Requester, is_uuid
from tintype.core.ports import ContainerState
from tintype.core.snapshot import image_id_for, snapshot_id_for
from tintype.schemas import validate

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
COMMIT = "/v1/containers/web/commit"
GOOD = {"image-name": "snap"}


class Door:
    """The service in front of a bench, and what it published."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.published: list[Event] = []
        self.error: Exception | None = None
        self.client = TestClient(
            create_app(self.publish, self.bench.engine.inspect, self.find, self.check)
        )

    def publish(self, event: Event) -> None:
        """Take the request as `tintype serve` does."""
        self.fail()
        self.bench.intake.take(Message(event.type, event.payload, event.requester, event.id))
        self.published.append(event)

    def find(self, ident: str) -> Event | None:
        """Look a snapshot up."""
        self.fail()
        return self.bench.journal.snapshot(ident)

    def check(self) -> None:
        """Look after engine and store."""
        self.bench.engine.check()

    def fail(self) -> None:
        """Raise what the test wants raised."""
        if self.error is not None:
            raise self.error

    def call(self, method: str, path: str, **options: Any) -> Result:
        """Make a call and check what every answer has."""
        options.setdefault("host", "127.0.0.1")
        result = self.client.simulate_request(method, path, **options)
        assert re.fullmatch(r"req-[0-9a-f-]{36}", result.headers["X-Openstack-Request-Id"])
        return result

    def commit(self, body: Any = None, path: str = COMMIT, **options: Any) -> Result:
        """Ask for a snapshot."""
        if body is not None:
            options["body"] = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return self.call("POST", path, **options)


@pytest.fixture
def door() -> Door:
    opened = Door()
    opened.bench.container()
    return opened


def refused(result: Result, status: int, detail: str = "") -> dict[str, Any]:
    """Return the error of an answer in OpenStack's form."""
    assert result.status_code == status, result.text
    assert result.headers["Content-Type"].startswith("application/json")
    assert result.json.keys() == {"errors"}
    (error,) = result.json["errors"]
    assert error.keys() == {"status", "code", "title", "detail", "request_id"}
    assert error["status"] == status
    assert error["request_id"] == result.headers["X-Openstack-Request-Id"]
    assert error["title"]
    assert re.search(detail, error["detail"]), error["detail"]
    return dict(error)


# Asking for a snapshot


def test_a_commit_is_answered_with_all_ids_and_where_to_look(door: Door) -> None:
    result = door.commit(GOOD)

    assert result.status_code == 202
    answer = result.json
    assert answer.keys() == {"uuid", "image_id", "snapshot_id", "request_id"}
    assert answer["uuid"] == door.bench.engine.inspect("web").uuid
    assert is_uuid(answer["request_id"])
    assert answer["snapshot_id"] == snapshot_id_for(answer["request_id"])
    assert answer["image_id"] == image_id_for(answer["request_id"])
    assert result.headers["Location"] == f"/v1/snapshots/{answer['snapshot_id']}"
    assert door.bench.journal.live() == {answer["request_id"]}


def test_the_ids_that_were_promised_are_kept(door: Door) -> None:
    answer = door.commit(GOOD).json
    door.bench.settle()
    end = door.bench.outcome(answer["request_id"]).payload
    assert {name: end[name] for name in ("image_id", "snapshot_id", "request_id")} == {
        name: answer[name] for name in ("image_id", "snapshot_id", "request_id")
    }
    assert end["container_uuid"] == answer["uuid"]


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({"image-name": "snap", "tag": "v1"}, ""),
        ({"image_name": "snap", "tag": "v1"}, ""),
        (None, "repository=snap&tag=v1"),
        ({"tag": "v1"}, "repository=snap"),
        ({"image_name": "snap", "tag": "v1"}, "repository=other&tag=v2"),
    ],
)
def test_the_specs_body_and_zunclients_query_mean_the_same(
    door: Door, body: Any, query: str
) -> None:
    assert door.commit(body, query_string=query).status_code == 202
    (event,) = door.published
    assert event.type == COMMIT_REQUEST
    assert event.requester == Requester()
    assert validate(COMMIT_REQUEST, event.payload) == []
    assert event.payload["container"] == "web"
    assert (event.payload["image_name"], event.payload["tag"]) == ("snap", "v1")


def test_every_field_of_a_request_can_be_given(door: Door) -> None:
    fields = {
        "image-id": UUID,
        "request-id": UUID.upper(),
        "stores": ["glance"],
        "pause": False,
        "message": "m",
        "author": "a",
        "labels": {"a": "b"},
        "metadata": {"c-d": "e"},
        "visibility": "shared",
        "deadline": "2999-01-01T00:00:00Z",
    }
    answer = door.commit({**GOOD, **fields})
    assert answer.status_code == 202
    assert answer.json["image_id"] == UUID
    assert answer.json["request_id"] == UUID
    assert door.published[0].payload["metadata"] == {"c-d": "e"}


def test_the_container_is_the_one_in_the_path(door: Door) -> None:
    door.commit({**GOOD, "container": "other"})
    assert door.published[0].payload["container"] == "web"


def test_a_repeated_request_id_does_nothing_new(door: Door) -> None:
    one = door.commit({**GOOD, "request_id": UUID})
    two = door.commit({**GOOD, "request_id": UUID})
    assert one.json == two.json
    assert door.bench.journal.live() == {UUID}


def test_a_request_id_used_for_another_request_is_a_conflict(door: Door) -> None:
    door.commit({**GOOD, "request_id": UUID})
    error = refused(door.commit({"image_name": "other", "request_id": UUID}), 409, UUID)
    assert error["code"] == "RequestConflict"
    assert door.bench.journal.dead_letters() == []


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (None, "/image_name: expected a value, got nothing"),
        ({"image-name": "Snap"}, "/image_name: expected a lowercase"),
        ({**GOOD, "tag": 5}, "/tag: expected string, got 5"),
        ({**GOOD, "stroes": []}, "/stroes: expected one of the known fields"),
        ({**GOOD, "request_id": "x"}, "/request_id: expected"),
        ({**GOOD, "request_id": ["x"]}, "/request_id: expected"),
        ({**GOOD, "\ud800": 1}, "an unknown field"),
        ({**GOOD, "message": "\ud800"}, "/message: expected text"),
        ([], r"\(document\): expected an object, got list"),
        ("5", "got int"),
        ("null", "NoneType"),
        ("{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ("NaN", "got float"),
        ("{}x", "not JSON"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_bad_body_is_refused_with_each_fault_by_its_pointer(
    door: Door, body: Any, detail: str
) -> None:
    refused(door.commit(body), 400, detail)
    assert door.published == []


@pytest.mark.parametrize("ident", ["a%2Fb", "a%00b", "..%2F..", "%ff", "-x", "a b", "x" * 300])
def test_a_bad_container_name_is_refused(door: Door, ident: str) -> None:
    result = door.commit(GOOD, path=f"/v1/containers/{ident}/commit")
    assert result.status_code in {400, 404}
    refused(result, result.status_code)
    assert "engine.inspect" not in door.bench.trouble.calls


def test_a_body_that_is_too_long_is_refused(door: Door) -> None:
    body = json.dumps({**GOOD, "message": "x" * MAX_BODY_BYTES})
    refused(door.commit(body), 413, str(MAX_BODY_BYTES))


def test_what_is_wrong_with_the_container_is_told_at_once(door: Door) -> None:
    refused(door.commit(GOOD, path="/v1/containers/nobody/commit"), 404, "nobody")
    door.bench.container("new", ContainerState.OTHER)
    refused(door.commit(GOOD, path="/v1/containers/new/commit"), 409, "neither of Running")
    assert door.published == []


@pytest.mark.parametrize("call", ["engine.inspect", "publish"])
def test_what_is_away_is_503_with_a_time_to_come_back(door: Door, call: str) -> None:
    if call == "publish":
        door.error = Unavailable("the bus is away")
    else:
        door.bench.trouble.plan(call, Unavailable("the engine is away"))
    result = door.commit(GOOD)
    refused(result, 503, "is away")
    assert int(result.headers["Retry-After"]) > 0
    assert door.bench.journal.live() == frozenset()


@pytest.mark.parametrize(
    ("error", "status"),
    [(TooLarge("quota"), 413), (NotFound("gone"), 404), (Internal("broken"), 500)],
)
def test_every_error_of_ours_has_its_status(door: Door, error: Exception, status: int) -> None:
    door.error = error
    made = refused(door.commit(GOOD), status, str(error))
    assert made["code"] == type(error).__name__


def test_a_defect_is_500_and_keeps_its_details_to_itself(door: Door) -> None:
    door.error = RuntimeError("secret password")
    result = door.commit(GOOD)
    refused(result, 500)
    assert "secret" not in result.text


# Looking


def test_a_snapshot_is_found_by_both_ids_from_the_answer_on(door: Door) -> None:
    answer = door.commit(GOOD).json
    for ident in (answer["snapshot_id"], answer["request_id"]):
        shown = door.call("GET", f"/v1/snapshots/{ident}")
        assert shown.status_code == 200
        assert shown.json["status"] == "queued"
        assert shown.json["request_id"] == answer["request_id"]

    door.bench.settle()
    shown = door.call("GET", f"/v1/snapshots/{answer['snapshot_id']}").json
    assert shown == door.bench.outcome(answer["request_id"]).payload
    assert shown["status"] == "active"


def test_a_failed_snapshot_shows_its_fault(door: Door) -> None:
    door.bench.trouble.plan("glance.upload", TooLarge("quota"))
    answer = door.commit(GOOD).json
    door.bench.settle()
    shown = door.call("GET", f"/v1/snapshots/{answer['snapshot_id']}").json
    assert shown["status"] == "error"
    assert shown["fault"]["message"] == "quota"


@pytest.mark.parametrize("ident", [UUID, "x", "a%00b", "%ff", "%F0%9F%98%80", "x" * 5000])
def test_an_unknown_snapshot_is_not_found(door: Door, ident: str) -> None:
    refused(door.call("GET", f"/v1/snapshots/{ident}"), 404, "not known here")


def test_versions_are_told(door: Door) -> None:
    for path in ("/", "/v1"):
        answer = door.call("GET", path)
        assert answer.status_code == 200
        assert answer.json["version"] == __version__
        assert answer.json["versions"][0]["id"] == "v1"


def test_health_is_that_of_the_parts(door: Door) -> None:
    assert door.call("GET", "/healthcheck").status_code == 200
    door.bench.trouble.plan("engine.check", Unavailable("the engine is away"))
    refused(door.call("GET", "/healthcheck"), 503, "the engine is away")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", COMMIT, 405),
        ("DELETE", "/v1/snapshots/x", 405),
        ("POST", "/v1/containers//commit", 400),
        ("GET", "/v1/", 404),
        ("PATCH", "/", 405),
    ],
)
def test_other_paths_and_methods_are_refused_in_the_same_form(
    door: Door, method: str, path: str, status: int
) -> None:
    refused(door.call(method, path), status)


def test_every_answer_has_an_id_of_its_own(door: Door) -> None:
    ids = {door.call("GET", "/v1").headers["X-Openstack-Request-Id"] for _ in range(5)}
    assert len(ids) == 5


# Who may come in


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "localhost",
        "[::1]",
        "127.0.0.1:9519",
        "localhost:80",
        "[::1]:9519",
    ],
)
def test_this_machines_own_names_are_let_in(door: Door, host: str) -> None:
    assert door.call("GET", "/v1", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
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
    ],
)
def test_a_name_that_a_web_page_may_have_is_kept_out(door: Door, host: str) -> None:
    for method, path in (("GET", "/v1"), ("POST", COMMIT), ("GET", f"/v1/snapshots/{UUID}")):
        refused(door.call(method, path, headers={"Host": host}), 403, "own users")
    assert door.published == []


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9519", "x"])
def test_a_web_page_is_kept_out(door: Door, origin: str) -> None:
    for method in ("POST", "OPTIONS", "GET"):
        refused(door.call(method, COMMIT, headers={"Origin": origin}), 403, "own users")
    assert door.published == []
