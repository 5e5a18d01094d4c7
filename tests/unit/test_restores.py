"""Restores over REST on twins: one promise for each request, to whom it may concern."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from falcon.testing import Result

from tests.support.door import Door, errors_of, pointers, refused, restores_in
from tests.support.twins import ADMIN, ALICE, HOST, MALLORY, Office, checked, message_of
from tintype.core.errors import Unavailable
from tintype.core.events import (
    OUTCOMES,
    RESTORE_CANCEL,
    RESTORE_END,
    RESTORE_ERROR,
    RESTORE_PROGRESS,
    RESTORE_REQUEST,
    RESTORE_START,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_START,
    Event,
    Requester,
    is_uuid,
)
from tintype.core.jobs import Fault
from tintype.core.reservation import LEASE, Reservation, ReservationState
from tintype.core.restore import Restore, Source, restore_id_for
from tintype.core.tidier import ABANDONED

KEY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
BOB = Requester("project-a", "bob")
"""A colleague of Alice's who may look only."""


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
def office() -> Iterator[Office]:
    office = Office()
    office.container()
    yield office
    office.database.close()


def snapshot(office: Office, event_type: str | None = SNAPSHOT_END) -> dict[str, Any]:
    """Let a snapshot be made, as far as an event says, and return its ids."""
    promised = office.submit()
    if event_type is not None:
        office.host_says(event_type, promised)
    office.bus.published.clear()
    return dict(promised.answer)


def post(door: Door, path: str, body: Any = None, **options: Any) -> Result:
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    return door.call("POST", path, headers=headers, body=json.dumps(body or {}), **options)


def restore(door: Door, ident: str, body: Any = None, **options: Any) -> Result:
    return post(door, f"/v1/snapshots/{ident}/restore", body, **options)


def host_says(door: Door, event_type: str, request_id: str, **changes: Any) -> Event:
    """Let the router hear from the host how a restore stands, and return what it heard."""
    (request, *_) = [each for each in door.office.bus.published if each.id == request_id]
    door.office.clock.advance(1)
    now = door.office.clock.now()
    ended = event_type in OUTCOMES
    known = door.get(f"/v1/restores/{request_id}", who=ADMIN)
    image = known["image_id"] or str(uuid.uuid4())
    fault = Fault(409, "NameTaken", "no", retryable=False, phase="creating")
    job = replace(
        Restore.begin(request, host=HOST, created_at=now.isoformat()),
        source=Source("glance", image, name="snap", tag="latest", snapshot_id=known["snapshot_id"]),
        container_name="web-2",
        container_uuid="f" * 64 if event_type == RESTORE_END else None,
        engine_container_id="f" * 64 if event_type == RESTORE_END else None,
        phase="cleanup" if ended else "downloading",
        finished_at=now.isoformat() if ended else None,
        fault=fault if event_type == RESTORE_ERROR else None,
        **changes,
    )
    status = {RESTORE_END: "active", RESTORE_ERROR: "error"}.get(event_type, "loading")
    told = job.event(event_type, status=status, duration_ms=1 if ended else None)
    door.office.router.on_event(message_of(checked(told), now))
    return told


# Asking for a container


def test_a_restore_is_answered_with_all_ids_and_where_to_look(door: Door) -> None:
    ids = snapshot(door.office)
    for ident in (ids["snapshot_id"], ids["request_id"], ids["request_id"].upper()):
        result = restore(door, ident, {"name": "web-2", "env": {"A": "b"}})
        assert result.status_code == 202
        request_id = result.json["request_id"]
        assert is_uuid(request_id)
        assert result.json == {
            "restore_id": restore_id_for(request_id),
            "request_id": request_id,
            "snapshot_id": ids["snapshot_id"],
        }
        assert result.headers["Location"].endswith(f"/v1/restores/{result.json['restore_id']}")
        event = door.office.bus.published[-1]
        assert (event.type, event.id) == (RESTORE_REQUEST, request_id)
        assert (event.requester.project_id, event.requester.user_id) == ("project-a", "alice")
        assert event.payload == {
            "request_id": request_id,
            "snapshot_id": ids["snapshot_id"],
            "name": "web-2",
            "env": {"A": "b"},
        }


@pytest.mark.parametrize("image", [{"image_id": KEY}, {"image": "web:v1"}])
def test_an_image_is_restored_on_the_host_that_is_named(door: Door, image: dict[str, str]) -> None:
    result = post(door, "/v1/restores", {**image, "host": "host-2", "restart-policy": "always"})
    assert result.status_code == 202
    assert result.json["snapshot_id"] is None
    (event,) = door.office.bus.published
    assert event.payload == {
        **image,
        "host": "host-2",
        "restart_policy": "always",
        "request_id": result.json["request_id"],
    }


def test_a_snapshot_may_be_named_in_the_body(door: Door) -> None:
    ids = snapshot(door.office)
    result = post(door, "/v1/restores", {"snapshot_id": ids["request_id"]})
    assert result.json["snapshot_id"] == ids["snapshot_id"]
    (event,) = door.office.bus.published
    assert event.payload["snapshot_id"] == ids["snapshot_id"]


def test_the_router_sends_it_to_the_snapshots_host(door: Door) -> None:
    ids = snapshot(door.office)
    request_id = restore(door, ids["snapshot_id"]).json["request_id"]
    door.office.deliver()
    sent = [each for each in door.office.courier.hosts[HOST] if each.type == RESTORE_REQUEST]
    assert [each.payload["request_id"] for each in sent] == [request_id]
    assert sent[0].payload["host"] == HOST


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {""}),
        ({"image": "web:v1"}, {"/host"}),
        ({"image_id": KEY}, {"/host"}),
        ({"image_id": KEY, "image": "web", "host": "h"}, {"/image"}),
        ({"snapshot_id": "x"}, {"/snapshot_id"}),
        ({"snapshot_id": KEY, "colour": "red"}, {"/colour"}),
        ({"snapshot_id": KEY, "ports": {"80": "x"}}, {"/ports", "/ports/80"}),
        ({"snapshot_id": KEY, "accept_by": "2999-01-01T00:00:00Z"}, {"/accept_by"}),
        ({"snapshot_id": KEY, "start": "no"}, {"/start"}),
    ],
)
def test_a_bad_body_is_refused_with_each_fault_by_its_pointer(
    door: Door, body: dict[str, Any], expected: set[str]
) -> None:
    assert pointers(post(door, "/v1/restores", body)) <= expected
    assert door.office.bus.published == []


@pytest.mark.parametrize("name", ["snapshot_id", "snapshot-id", "image_id", "image"])
def test_what_the_path_names_is_not_named_again(door: Door, name: str) -> None:
    ids = snapshot(door.office)
    result = restore(door, ids["snapshot_id"], {name: ids["snapshot_id"]})
    assert pointers(result) == {f"/{name.replace('-', '_')}"}
    assert pointers(restore(door, f"{ids['snapshot_id']}", {"name": "zun-1"})) == {"/name"}


@pytest.mark.parametrize("ident", [KEY, "web", KEY.replace("-", ""), "a%00"])
def test_an_unknown_snapshot_is_not_found(door: Door, ident: str) -> None:
    refused(restore(door, ident), 404, "no snapshot")
    if ident == KEY:
        refused(post(door, "/v1/restores", {"snapshot_id": ident}), 404, "no snapshot")
    assert door.office.bus.published == []


@pytest.mark.parametrize(
    ("event_type", "words"),
    [(None, "not ended"), (SNAPSHOT_START, "not ended"), (SNAPSHOT_ERROR, "has failed")],
)
def test_a_snapshot_without_an_image_is_409(door: Door, event_type: str | None, words: str) -> None:
    ids = snapshot(door.office, event_type)
    error = refused(restore(door, ids["snapshot_id"]), 409, words)
    assert error["code"] == "WrongState"
    assert door.office.bus.published == []


def test_a_body_may_be_missing(door: Door) -> None:
    ids = snapshot(door.office)
    result = door.call("POST", f"/v1/snapshots/{ids['snapshot_id']}/restore")
    assert result.status_code == 202


# The same request again


def test_the_same_request_gets_the_first_answer_and_another_a_conflict(door: Door) -> None:
    ids = snapshot(door.office)
    for number, headers in enumerate(({"Idempotency-Key": "a key"}, {})):
        body = {"name": "web-2"} if headers else {"name": "web-2", "request_id": KEY}
        one = restore(door, ids["snapshot_id"], body, headers=headers)
        two = restore(door, ids["snapshot_id"], body, headers=headers)
        assert (one.status_code, one.json) == (two.status_code, two.json)
        other = restore(door, ids["snapshot_id"], {**body, "name": "web-3"}, headers=headers)
        assert refused(other, 409, "was used before")["code"] == "RequestConflict"
        assert len(door.office.bus.published) == number + 1


def test_a_key_of_a_commit_is_not_one_of_a_restore(door: Door) -> None:
    promised = door.commit({"image_name": "snap", "request_id": KEY})
    assert promised.status_code == 202
    result = post(door, "/v1/restores", {"image": "web", "host": "h", "request_id": KEY})
    refused(result, 409, "was used before")


@pytest.mark.parametrize(
    ("body", "key"), [({"request_id": KEY}, {}), ({}, {"Idempotency-Key": "k"})], ids=str
)
def test_a_bus_that_is_away_is_503_and_the_same_request_works(
    door: Door, body: dict[str, str], key: dict[str, str]
) -> None:
    ids = snapshot(door.office)
    door.office.trouble.plan("bus.publish", Unavailable("away"))
    result = restore(door, ids["snapshot_id"], body, headers=key)
    refused(result, 503, "away")
    assert "Retry-After" in result.headers
    result = restore(door, ids["snapshot_id"], body, headers=key)
    assert result.status_code == 202
    assert len(door.office.bus.published) == 1


def submitted(office: Office, **fields: Any) -> Reservation:
    return restores_in(office).submit(office.caller(), {"request_id": KEY, **fields})


def test_a_confirm_that_did_not_come_is_no_second_restore(office: Office) -> None:
    ids = snapshot(office)
    office.trouble.plan("bus.publish done", Unavailable("away"))
    with pytest.raises(Unavailable):
        submitted(office, snapshot_id=ids["snapshot_id"])
    stored = office.reservations.get(KEY)
    assert stored is not None
    assert stored.state is ReservationState.WITHDRAWN
    again = submitted(office, snapshot_id=ids["snapshot_id"])
    assert again.request_id == KEY
    one, two = office.bus.published
    assert one == two
    office.deliver()
    requests = [each for each in office.courier.hosts[HOST] if each.type == RESTORE_REQUEST]
    assert len(requests) == 1


def test_what_nobody_goes_on_with_is_settled_by_a_router(office: Office) -> None:
    ids = snapshot(office)
    for call in ("reservations.replace", "index.note"):
        office.trouble.plan(call, Unavailable("away"))
    submitted(office, snapshot_id=ids["snapshot_id"])
    office.trouble.end()
    office.deliver()
    office.clock.advance((ABANDONED + LEASE).total_seconds() + 1)
    office.tidier().sweep()
    stored = office.reservations.get(KEY)
    assert stored is not None
    assert stored.state is ReservationState.KEPT


def test_a_restore_that_came_by_the_bus_is_a_conflict(door: Door) -> None:
    ids = snapshot(door.office)
    request_id = restore(door, ids["snapshot_id"]).json["request_id"]
    host_says(door, RESTORE_START, request_id)
    door.office.reservations.prune(door.office.clock.now().replace(year=2100))
    again = restore(door, ids["snapshot_id"], {"request_id": request_id})
    refused(again, 409, "was used before")


# Who may


def test_readers_look_and_restore_nothing(cloud: Door) -> None:
    ids = snapshot(cloud.office)
    for who in (ALICE, ADMIN):
        assert restore(cloud, ids["snapshot_id"], who=who).status_code == 202
    made = cloud.get("/v1/restores")["restores"][0]["restore_id"]
    refused(restore(cloud, ids["snapshot_id"], who=BOB), 403, "restore")
    refused(post(cloud, "/v1/restores", {"image": "a", "host": "h"}, who=BOB), 403, "restore")
    assert cloud.get(f"/v1/restores/{made}", who=BOB)["restore_id"] == made
    refused(cloud.call("DELETE", f"/v1/restores/{made}", who=BOB), 403, "cancel")


def test_what_is_anothers_is_not_there(cloud: Door) -> None:
    ids = snapshot(cloud.office)
    made = restore(cloud, ids["snapshot_id"]).json["restore_id"]
    published = len(cloud.office.bus.published)
    refused(restore(cloud, ids["snapshot_id"], who=MALLORY), 404, "no snapshot")
    result = post(cloud, "/v1/restores", {"snapshot_id": ids["snapshot_id"]}, who=MALLORY)
    refused(result, 404, "no snapshot")
    for method in ("GET", "DELETE"):
        refused(cloud.call(method, f"/v1/restores/{made}", who=MALLORY), 404, "no restore")
    assert cloud.get("/v1/restores", who=MALLORY)["restores"] == []
    refused(cloud.call("GET", "/v1/restores?all_projects=1", who=MALLORY), 403)
    assert len(cloud.get("/v1/restores?all_projects=1", who=ADMIN)["restores"]) == 1
    assert len(cloud.office.bus.published) == published


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/restores"),
        ("POST", "/v1/restores"),
        ("GET", f"/v1/restores/{KEY}"),
        ("DELETE", f"/v1/restores/{KEY}"),
        ("POST", f"/v1/snapshots/{KEY}/restore"),
    ],
)
def test_without_a_token_there_is_nothing(cloud: Door, method: str, path: str) -> None:
    errors_of(cloud.call(method, path, who=None, body="{"), 401)


# How it stands


def test_a_restore_is_found_by_both_ids_and_as_its_host_says(door: Door) -> None:
    ids = snapshot(door.office)
    promised = restore(door, ids["snapshot_id"], {"name": "web-2"}).json
    idents = [promised["restore_id"], promised["request_id"], promised["request_id"].upper()]
    for event_type, status in [
        (None, "queued"),
        (RESTORE_START, "loading"),
        (RESTORE_PROGRESS, "loading"),
        (RESTORE_END, "active"),
    ]:
        told = event_type and host_says(door, event_type, promised["request_id"])
        for ident in idents:
            shown = door.get(f"/v1/restores/{ident}")
            assert shown["status"] == status
            assert shown["container_name"] == "web-2"
            assert told is None or shown == told.payload
    refused(door.call("DELETE", f"/v1/restores/{idents[0]}"), 409, "delete its container web-2")


def test_a_promise_tells_what_is_known_of_the_image(door: Door) -> None:
    ids = snapshot(door.office)
    shown = door.get(f"/v1/restores/{restore(door, ids['snapshot_id']).json['restore_id']}")
    assert {name: shown[name] for name in ("snapshot_id", "image_id", "image_name", "tag")} == {
        "snapshot_id": ids["snapshot_id"],
        "image_id": ids["image_id"],
        "image_name": "snap",
        "tag": "latest",
    }
    assert (shown["host"], shown["phase"]) == (HOST, "accepted")


def test_a_failed_restore_shows_its_fault(door: Door) -> None:
    ids = snapshot(door.office)
    promised = restore(door, ids["snapshot_id"]).json
    told = host_says(door, RESTORE_ERROR, promised["request_id"])
    shown = door.get(f"/v1/restores/{promised['restore_id']}")
    assert shown["fault"] == told.payload["fault"]


@pytest.mark.parametrize("ident", [KEY, "web", KEY.replace("-", "")])
def test_an_unknown_restore_is_not_found(door: Door, ident: str) -> None:
    refused(door.call("GET", f"/v1/restores/{ident}"), 404, "no restore")


def test_restores_are_filtered_and_come_page_by_page(door: Door) -> None:
    ids = snapshot(door.office)
    made = []
    for number in range(5):
        door.office.clock.advance(1)
        body = {"name": f"web-{number}"}
        made.append(restore(door, ids["snapshot_id"], body).json)
        if number == 0:
            host_says(door, RESTORE_END, made[0]["request_id"])
    door.office.clock.advance(1)
    body = {"image": "other:v1", "host": "host-2", "name": "other"}
    other = post(door, "/v1/restores", body).json
    for query, expected in [
        ({"snapshot_id": ids["snapshot_id"]}, made[::-1]),
        ({"host": "host-2"}, [other]),
        ({"image_name": "other:v1"}, [other]),
        ({"image_id": ids["image_id"], "status": "queued"}, made[:0:-1]),
        ({"container_name": "other"}, [other]),
        ({"container_uuid": "F" * 64}, made[:1]),
        ({"status": "active"}, made[:1]),
        ({}, [other, *made[::-1]]),
    ]:
        listed = door.get(f"/v1/restores?{urlencode(query)}")["restores"]
        found = [each["restore_id"] for each in listed]
        assert found == [each["restore_id"] for each in expected], query
    pages = door.pages("/v1/restores?sort_key=status&sort_dir=asc&limit=4", "restores")
    assert [len(page) for page in pages] == [4, 2]
    assert [each["status"] for page in pages for each in page] == ["active"] + ["queued"] * 5


# Stopping


def test_a_restore_is_cancelled(door: Door) -> None:
    ids = snapshot(door.office)
    promised = restore(door, ids["snapshot_id"]).json
    for ident in (promised["restore_id"], promised["request_id"]):
        result = door.call("DELETE", f"/v1/restores/{ident}")
        assert result.status_code == 202
        assert result.json == door.get(f"/v1/restores/{ident}")
        event = door.office.bus.published[-1]
        told = {"request_id": promised["request_id"]}
        assert (event.type, event.payload) == (RESTORE_CANCEL, told)
        assert event.requester.user_id == "alice"


@pytest.mark.parametrize("call", ["index.find_restore", "bus.publish"])
def test_a_cancellation_that_cannot_be_sent_is_503(door: Door, call: str) -> None:
    ids = snapshot(door.office)
    promised = restore(door, ids["snapshot_id"]).json
    door.office.trouble.plan(call, Unavailable("away"))
    refused(door.call("DELETE", f"/v1/restores/{promised['restore_id']}"), 503, "away")


# The one host


def test_the_one_host_need_not_be_named(office: Office) -> None:
    restores = restores_in(office, only_host="here")
    ids = snapshot(office)
    for fields in (
        {"image": "web:v1"},
        {"snapshot_id": ids["snapshot_id"]},
        {"snapshot_id": ids["snapshot_id"], "host": "there"},
    ):
        restores.submit(office.caller(), fields)
    hosts = [each.payload["host"] for each in office.bus.published]
    assert hosts == ["here", "here", "there"]
