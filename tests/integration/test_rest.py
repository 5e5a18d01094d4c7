"""The REST service under gunicorn: real Keystone, Glance, RabbitMQ, Docker Engine behind it."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from docker import DockerClient
from openstack.connection import Connection
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url, text
from urllib3.exceptions import ProtocolError

from tests.support.agent import left_on
from tests.support.databases import Server
from tests.support.docker import Containers
from tests.support.openstack import Cloud, LimitedGlance, everybody
from tests.support.rabbit import DEADLINE, until
from tests.support.rest import ORIGIN, Site, UwsgiProcess, owned_by
from tintype.adapters.sql_database import Database
from tintype.core.engine import ContainerState
from tintype.core.reservation import ReservationState
from tintype.rest.metrics import MULTIPROCESS

CONTENT = b"written before the snapshot"
NOBODY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
AWAY = "http://127.0.0.1:9"
"""Where nobody listens."""

KILLS, KEYS = 2, 8
"""How often the service is killed, and how many requests are sent it each time."""


@pytest.fixture
def web(running: Site, cloud: Cloud, container: Containers) -> str:
    """Alice's running container, known to the index."""
    name = str(container(files={"/data/file": CONTENT}, labels=owned_by(cloud, cloud.alice)).name)
    running.known(name)
    return name


@dataclass(frozen=True, slots=True)
class BriefToken:
    """A token of alice's by a credential that ends soon, and the token with it."""

    text: str
    ends: datetime

    def expired(self) -> str:
        """Wait for what is left of its time, and return it."""
        time.sleep(max(0.0, (self.ends - datetime.now(UTC)).total_seconds() + 1))
        return self.text


@pytest.fixture(scope="module", autouse=True)
def brief_token() -> Iterator[BriefToken]:
    """A token that lives for 15 seconds, made before all tests so that none waits for long."""
    cloud = everybody()
    alice: Connection = cloud.connection(cloud.alice)
    ends = datetime.now(UTC) + timedelta(seconds=15)
    user_id = alice.session.get_user_id()
    credential = alice.identity.create_application_credential(
        user_id, f"brief-{uuid.uuid4()}", expires_at=ends.strftime("%Y-%m-%dT%H:%M:%S.%f")
    )
    secret = {"id": credential.id, "secret": credential.secret}
    body = {"identity": {"methods": ["application_credential"], "application_credential": secret}}
    answer = requests.post(f"{cloud.service.auth_url}/auth/tokens", json={"auth": body}, timeout=30)
    assert answer.status_code == 201, answer.text
    yield BriefToken(answer.headers["X-Subject-Token"], ends)
    alice.identity.delete_application_credential(user_id, credential.id)
    cloud.clean()


def refused(response: requests.Response, status: int, words: str = "") -> list[dict[str, Any]]:
    """Check that an answer is an error in OpenStack's form, and return its errors."""
    assert response.status_code == status, response.text
    errors: list[dict[str, Any]] = response.json()["errors"]
    for error in errors:
        assert error["status"] == status
        assert error["request_id"] == response.headers["X-Openstack-Request-Id"]
    assert words in errors[0]["detail"]
    return errors


# The main job


def test_a_commit_makes_the_callers_image_which_is_there_at_once(
    running: Site, cloud: Cloud, web: str, docker_client: DockerClient
) -> None:
    alice = cloud.connection(cloud.alice)

    answer = running.commit(web, cloud.alice, name="test/rest", tag="v1", metadata={"why": "test"})

    assert answer.status_code == 202, answer.text
    ids = answer.json()
    # The image is there from the moment of the 202: queued, and the caller's own.
    image = alice.session.get(f"{glance_of(cloud)}/v2/images/{ids['image_id']}").json()
    assert image["status"] in {"queued", "saving", "active"}
    assert image["owner"] == cloud.project_id(cloud.alice)
    assert ids["uuid"] == ids["image_id"], "python-zunclient shows uuid as the image's"
    location = answer.headers["Location"]
    assert location == f"{running.api.url}/v1/snapshots/{ids['snapshot_id']}"
    first = running.call("GET", location.removeprefix(running.api.url), cloud.alice).json()
    assert first["request_id"] == ids["request_id"]
    end = running.ended(ids["snapshot_id"])
    assert end["status"] == "active", end["fault"]
    assert end["image_id"] == ids["image_id"]
    assert end["container_uuid"] == ids["container_uuid"]
    image = alice.session.get(f"{glance_of(cloud)}/v2/images/{ids['image_id']}").json()
    wanted = {
        "status": "active",
        "name": "test/rest",
        "tags": ["v1"],
        "visibility": "private",
        "container_format": "docker",
        "disk_format": "raw",
        "owner": cloud.project_id(cloud.alice),
        "image_type": "snapshot",
        "instance_uuid": ids["container_uuid"],
        "container_name": web,
        "snapshot_request_id": ids["request_id"],
        "snapshot_sha256": end["sha256"],
        "meta_why": "test",
    }
    assert wanted.items() <= image.items()
    data = alice.session.get(f"{glance_of(cloud)}/v2/images/{ids['image_id']}/file").content
    assert CONTENT in content_of(data, "data/file")
    assert left_on(docker_client, ids["request_id"]) == []
    assert running.agent.witness.outcome(ids["request_id"])["status"] == "active"


def test_a_snapshot_is_restored_as_its_owner_asks(
    running: Site, cloud: Cloud, web: str, docker_client: DockerClient
) -> None:
    ids = running.commit(web, cloud.alice).json()
    path = f"/v1/snapshots/{ids['snapshot_id']}/restore"
    refused(running.call("POST", path, cloud.bob, json={}), 404, "no snapshot")
    assert running.ended(ids["snapshot_id"])["status"] == "active"
    body = {"network": "none", "name": f"{web}-restored", "env": {"A": "b"}}
    headers = {"Idempotency-Key": ids["request_id"]}

    answer = running.call("POST", path, cloud.alice, json=body, headers=headers)

    assert answer.status_code == 202, answer.text
    again = running.call("POST", path, cloud.alice, json=body, headers=headers)
    assert again.json() == answer.json()
    restore_id = answer.json()["restore_id"]
    where = f"/v1/restores/{restore_id}"
    assert answer.headers["Location"] == f"{running.api.url}{where}"
    refused(running.call("GET", where, cloud.bob), 404, "no restore")
    until(
        lambda: running.call("GET", where, cloud.alice).json()["finished_at"] is not None,
        "the restore to end",
    )
    end = running.call("GET", where, cloud.alice).json()
    assert (end["status"], end["fault"]) == ("active", None)
    restored = docker_client.containers.get(end["engine_container_id"])
    try:
        assert (restored.name, restored.status) == (f"{web}-restored", "running")
        content = restored.exec_run(["/bin/busybox", "cat", "/data/file"])
        assert content.output == CONTENT
        refused(running.call("DELETE", where, cloud.alice), 409, "has ended")
    finally:
        restored.remove(force=True, v=True)
        docker_client.images.remove(restored.attrs["Image"], force=True)


def test_a_dry_run_reserves_nothing(running: Site, cloud: Cloud, web: str) -> None:
    answer = running.commit(web, cloud.alice, dry_run=True)
    assert answer.status_code == 202, answer.text
    assert answer.json()["image_id"] is None
    end = running.ended(answer.json()["snapshot_id"])
    assert (end["status"], end["image_id"]) == ("preflight", None)
    assert end["preflight"]["problems"] == []
    assert end["preflight"]["stores"][0]["name"] == "glance"


@pytest.mark.parametrize("state", [ContainerState.STOPPED, ContainerState.PAUSED])
def test_stopped_and_paused_containers_are_snapshotted(
    running: Site, cloud: Cloud, container: Containers, state: ContainerState
) -> None:
    made = container(state, labels=owned_by(cloud, cloud.alice))
    running.known(made.name, state)
    answer = running.commit(made.id[:12], cloud.alice)
    assert answer.status_code == 202, answer.text
    assert running.ended(answer.json()["snapshot_id"])["status"] == "active"


def test_an_image_that_the_caller_reserved_is_filled(running: Site, cloud: Cloud, web: str) -> None:
    mine = cloud.store(cloud.alice).reserve(cloud.spec())
    answer = running.commit(web, cloud.alice, image_id=mine.id)
    assert answer.status_code == 202, answer.text
    assert answer.json()["image_id"] == mine.id
    assert running.ended(answer.json()["snapshot_id"])["status"] == "active"


def test_it_runs_under_uwsgi_as_well(running: Site, cloud: Cloud, web: str) -> None:
    with running.beside("uwsgi", UwsgiProcess) as site:
        refused(site.commit(web, cloud.bob), 404)
        refused(site.call("GET", "/v1/containers"), 401)
        chunks = (part for part in (b'{"image_name": ', b'"test/rest"}'))
        headers = {"Content-Type": "application/json"}
        path = f"/v1/containers/{web}/commit"
        # uWSGI hands a chunked body over by a call of its own only; gunicorn ends it itself.
        refused(site.call("POST", path, cloud.alice, data=chunks, headers=headers), 411)
        answer = site.commit(web, cloud.alice)
        assert site.ended(answer.json()["snapshot_id"])["status"] == "active"
        assert site.api.stop() in {0, 30}, "die-on-term"


# What stands in front


def test_a_page_of_an_origin_that_is_allowed_may_call(running: Site, cloud: Cloud) -> None:
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "X-Auth-Token, Content-Type, Idempotency-Key",
    }
    path = "/v1/containers/web/commit"
    preflight = running.call("OPTIONS", path, headers={"Origin": ORIGIN, **asks})
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    for header in ("x-auth-token", "content-type", "idempotency-key"):
        assert header in allowed
    answers = {
        200: running.call("GET", "/v1/containers", cloud.alice, headers={"Origin": ORIGIN}),
        401: running.call("GET", "/v1/containers", headers={"Origin": ORIGIN}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "X-Openstack-Request-Id" in answer.headers["Access-Control-Expose-Headers"]

    strange = {"Origin": "https://elsewhere.example"}
    for answer in (
        running.call("OPTIONS", path, headers={**strange, **asks}),
        running.call("GET", "/v1/containers", cloud.alice, headers=strange),
        running.call("GET", "/v1/containers", cloud.alice),
    ):
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


def test_links_lead_through_the_proxy(running: Site, cloud: Cloud, web: str) -> None:
    headers = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "cloud.example",
        "X-Forwarded-Prefix": "/snapshots",
    }
    front = "https://cloud.example/snapshots"
    versions = running.call("GET", "/", headers=headers).json()["versions"]
    assert versions[0]["links"] == [{"rel": "self", "href": f"{front}/v1"}]
    page = running.call("GET", "/v1/containers?limit=1", cloud.alice, headers=headers).json()
    assert page["links"][0]["href"].startswith(f"{front}/v1/containers?")
    answer = running.commit(web, cloud.alice, headers=headers)
    snapshot_id = answer.json()["snapshot_id"]
    assert answer.headers["Location"] == f"{front}/v1/snapshots/{snapshot_id}"
    assert running.ended(snapshot_id)["status"] == "active"


def test_the_counts_of_all_workers_add_up(running: Site) -> None:
    folder = Path(running.api.environment[MULTIPROCESS])
    before = counted(running, "/v1")
    sent = 0

    def both_have_answered() -> bool:
        nonlocal sent
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: running.call("GET", "/v1"), range(16)))
        sent += len(answers)
        return len(list(folder.glob("counter_*.db"))) == 2

    until(both_have_answered, "both workers to answer")
    # Whichever answers.
    assert {counted(running, "/v1") - before for _ in range(16)} == {sent}


# What is refused, and how


def test_bad_requests_name_each_fault_by_its_pointer(running: Site, cloud: Cloud, web: str) -> None:
    path = f"/v1/containers/{web}/commit"
    body = {"image_name": "Not A Name", "tag": "", "labels": {"a": 1}, "colour": "red"}
    errors = refused(running.call("POST", path, cloud.alice, json=body), 400)
    assert {error["pointer"] for error in errors} == {
        "/image_name",
        "/tag",
        "/labels/a",
        "/colour",
    }
    for data, words in ((b"{", "JSON"), (b"[]", "an object"), (b"", "image_name")):
        headers = {"Content-Type": "application/json"}
        answer = running.call("POST", path, cloud.alice, data=data, headers=headers)
        refused(answer, 400, words)
    refused(running.call("GET", "/v1/snapshots?status=active&colour=red", cloud.alice), 400)
    image_id = {"image_name": "a", "image_id": NOBODY}
    (error,) = refused(running.call("POST", path, cloud.alice, json=image_id), 400)
    assert error["pointer"] == "/image_id"
    answer = running.call("POST", path, cloud.alice, data=b"<a/>")
    refused(answer, 415)
    chunks = (part for part in (b'{"image_name": ', b'"NO"}'))
    answer = running.call("POST", path, cloud.alice, data=chunks, headers=headers)
    assert refused(answer, 400)[0]["pointer"] == "/image_name"


def test_without_a_valid_token_nothing_is_told(
    running: Site, cloud: Cloud, web: str, brief_token: BriefToken
) -> None:
    revoked = cloud.token(cloud.alice)
    assert running.call("GET", f"/v1/containers/{web}", token=revoked).ok
    cloud.revoke(revoked)
    expired = brief_token.expired()
    paths = [
        ("POST", f"/v1/containers/{web}/commit"),
        ("GET", f"/v1/containers/{web}"),
        ("GET", "/v1/containers"),
        ("GET", "/v1/snapshots"),
        ("GET", f"/v1/snapshots/{NOBODY}"),
        ("DELETE", f"/v1/snapshots/{NOBODY}"),
    ]
    for token in (None, "garbage", revoked, expired):
        for method, path in paths:
            answer = running.call(method, path, token=token)
            refused(answer, 401, "token")
            assert answer.headers["WWW-Authenticate"].startswith("Keystone")
    for path in ("/", "/v1", "/openapi.json", "/healthcheck", "/metrics"):
        assert running.call("GET", path).status_code == 200


def test_a_project_neither_sees_nor_touches_what_is_anothers(
    running: Site, cloud: Cloud, web: str, container: Containers
) -> None:
    bobs = container(labels=owned_by(cloud, cloud.bob)).name
    running.known(bobs)
    mine = running.commit(web, cloud.alice).json()
    running.ended(mine["snapshot_id"])
    path = f"/v1/snapshots/{mine['snapshot_id']}"

    refused(running.commit(web, cloud.bob), 404)
    refused(running.commit(mine["container_uuid"], cloud.bob), 404)
    refused(running.call("GET", f"/v1/containers/{web}", cloud.bob), 404)
    refused(running.call("GET", path, cloud.bob), 404)
    refused(running.call("DELETE", path, cloud.bob), 404)
    assert names(running, cloud.bob) & {web, bobs} == {bobs}
    assert names(running, cloud.alice) & {web, bobs} == {web}
    assert mine["snapshot_id"] not in snapshots(running, cloud.bob)
    assert mine["snapshot_id"] in snapshots(running, cloud.alice)
    refused(running.call("GET", "/v1/containers?all_projects=true", cloud.alice), 403)
    refused(running.call("GET", "/v1/snapshots?all_projects=1", cloud.alice), 403)
    # The same request id is no way to another's snapshot either.
    refused(running.commit(bobs, cloud.bob, request_id=mine["request_id"]), 409)
    keeps_from_bob(cloud, mine["image_id"])
    queued = cloud.store(cloud.alice).reserve(cloud.spec())
    (error,) = refused(running.commit(bobs, cloud.bob, image_id=queued.id), 400, "no such image")
    assert error["pointer"] == "/image_id"
    keeps_from_bob(cloud, queued.id)

    assert names(running, cloud.admin, "?all_projects=true") >= {web, bobs}
    assert snapshots(running, cloud.admin, "?all_projects=true") >= {mine["snapshot_id"]}
    assert running.call("GET", path, cloud.admin).ok
    by_admin = running.commit(web, cloud.admin)
    assert by_admin.status_code == 202
    end = running.ended(by_admin.json()["snapshot_id"])
    assert (end["status"], end["project_id"]) == ("active", cloud.project_id(cloud.admin))


def test_readers_see_and_do_nothing(running: Site, cloud: Cloud, web: str) -> None:
    mine = running.commit(web, cloud.alice).json()
    path = f"/v1/snapshots/{mine['snapshot_id']}"
    assert web in names(running, cloud.carol)
    assert running.call("GET", path, cloud.carol).ok
    refused(running.commit(web, cloud.carol), 403, "roles")
    refused(running.call("DELETE", path, cloud.carol), 403, "roles")
    assert running.ended(mine["snapshot_id"])["status"] == "active"


def test_what_is_not_there_or_not_in_the_right_state(
    running: Site, cloud: Cloud, web: str, container: Containers
) -> None:
    refused(running.commit("no-such-container", cloud.alice), 404, "no-such-container")
    refused(running.call("GET", f"/v1/snapshots/{NOBODY}", cloud.alice), 404)
    refused(running.call("GET", "/v2/anything", cloud.alice), 404)
    created = container(ContainerState.OTHER, labels=owned_by(cloud, cloud.alice))
    running.known(created.name, "Other")
    refused(running.commit(created.name, cloud.alice), 409, "Running")
    mine = running.commit(web, cloud.alice).json()
    running.ended(mine["snapshot_id"])
    answer = running.call("DELETE", f"/v1/snapshots/{mine['snapshot_id']}", cloud.alice)
    refused(answer, 409, "delete its image")
    assert running.call("PATCH", f"/v1/containers/{web}", cloud.alice).status_code == 405


def test_a_quota_that_is_used_up_is_told_at_once(
    running: Site, cloud: Cloud, container: Containers, limited_glance: LimitedGlance
) -> None:
    web = container(labels={"tintype.project_id": limited_glance.project_id}).name
    running.known(web)
    with running.beside("limited", glance={"endpoint_override": limited_glance.url}) as site:
        limited_glance.limit("image_count_total", 1)
        first = site.commit(web, limited_glance.dave)
        assert first.status_code == 202, first.text
        assert site.ended(first.json()["snapshot_id"])["status"] == "active"
        refused(site.commit(web, limited_glance.dave), 413)
        cloud.store().discard(first.json()["image_id"])
        again = site.commit(web, limited_glance.dave)
        assert again.status_code == 202, "nothing was left that counts"
        assert site.ended(again.json()["snapshot_id"])["status"] == "active"
        cloud.store().discard(again.json()["image_id"])
        big = {"image_name": "a", "message": "x" * 70_000}
        path = f"/v1/containers/{web}/commit"
        refused(site.call("POST", path, limited_glance.dave, json=big), 413, "body")


# What is away


def test_nothing_is_promised_while_the_bus_is_away(running: Site, cloud: Cloud, web: str) -> None:
    key = str(uuid.uuid4())
    running.agent.broker.stop()  # the one of all sites
    try:
        answer = running.commit(web, cloud.alice, name="test/bus", request_id=key)
        refused(answer, 503, "message bus")
        assert int(answer.headers["Retry-After"]) > 0
        until(lambda: running.call("GET", "/healthcheck").status_code == 503, "no health")
        assert images_named(cloud, "test/bus") == []
    finally:
        running.agent.broker.start()
    answers: list[requests.Response] = []

    def promised() -> bool:
        answers.append(running.commit(web, cloud.alice, name="test/bus", request_id=key))
        return answers[-1].status_code == 202

    until(promised, "the same request to be promised")
    assert running.ended(answers[-1].json()["snapshot_id"])["status"] == "active"
    until(lambda: running.call("GET", "/healthcheck").ok, "health")


def test_nothing_is_promised_while_glance_is_away(running: Site, cloud: Cloud, web: str) -> None:
    with running.beside("no-glance", glance={"endpoint_override": AWAY}) as site:
        refused(site.commit(web, cloud.alice, name="test/away"), 503, "image service")
        assert site.call("GET", "/healthcheck").status_code == 503
        assert snapshots(running, cloud.alice, "?image_name=test/away") == set()
    assert [e for e in running.agent.witness.events if "test/away" in json.dumps(e)] == []


def test_nothing_is_promised_while_keystone_is_away(running: Site, cloud: Cloud, web: str) -> None:
    with running.beside("no-keystone", keystone_authtoken={"auth_url": f"{AWAY}/v3"}) as site:
        refused(site.commit(web, cloud.alice, name="test/away"), 503, "Keystone")
        assert images_named(cloud, "test/away") == []


def test_nothing_is_promised_while_the_index_is_away(running: Site, cloud: Cloud, web: str) -> None:
    with a_database() as database:
        database.shut()
        with running.beside("no-index", router={"index_url": database.url}) as site:
            tells_that_the_index_is_away(site, cloud, web)
            database.open()
            assert site.call("GET", "/v1/containers", cloud.alice).json() == {"containers": []}
            until(lambda: site.call("GET", "/healthcheck").ok, "health")
            # Now it was there before, and its connections break.
            database.shut()
            tells_that_the_index_is_away(site, cloud, web)
            database.open()
            assert site.call("GET", "/v1/snapshots", cloud.alice).json() == {"snapshots": []}
            until(lambda: site.call("GET", "/healthcheck").ok, "health")
            assert database.password not in site.api.log()


def tells_that_the_index_is_away(site: Site, cloud: Cloud, web: str) -> None:
    for answer in (
        site.call("GET", "/v1/containers", cloud.alice),
        site.call("GET", f"/v1/snapshots/{NOBODY}", cloud.alice),
        site.commit(web, cloud.alice, name="test/index"),
    ):
        refused(answer, 503, "index")
        assert int(answer.headers["Retry-After"]) > 0
    until(lambda: site.call("GET", "/healthcheck").status_code == 503, "no health")
    assert images_named(cloud, "test/index") == []


# The same request again


def test_the_same_request_again_gets_the_first_answer(
    running: Site, cloud: Cloud, web: str, container: Containers
) -> None:
    headers = {"Idempotency-Key": f"nightly {uuid.uuid4()}"}
    with ThreadPoolExecutor(8) as pool:
        token = cloud.token(cloud.alice)
        path, body = f"/v1/containers/{web}/commit", {"image_name": "test/again"}

        def send(_: int) -> requests.Response:
            return running.call("POST", path, token=token, json=body, headers=headers)

        answers = list(pool.map(send, range(16)))
    assert {answer.status_code for answer in answers} == {202}, [a.text for a in answers]
    assert len({json.dumps(answer.json(), sort_keys=True) for answer in answers}) == 1
    ids = answers[0].json()
    end = running.ended(ids["snapshot_id"])
    assert end["status"] == "active"
    assert [image["id"] for image in images_named(cloud, "test/again")] == [ids["image_id"]]
    other = container(labels=owned_by(cloud, cloud.alice)).name
    running.known(other)
    again = running.commit(web, cloud.alice, name="test/again", headers=headers)
    assert again.json() == ids
    refused(running.commit(web, cloud.alice, name="other", headers=headers), 409, "another request")
    refused(running.commit(other, cloud.alice, name="test/again", headers=headers), 409)
    # The key is of this user only.
    by_admin = running.commit(web, cloud.admin, name="test/again", headers=headers)
    assert by_admin.json()["request_id"] != ids["request_id"]
    running.ended(by_admin.json()["snapshot_id"])


def test_a_service_that_is_killed_promises_everything_once(
    running: Site, cloud: Cloud, web: str
) -> None:
    with running.beside("killed") as site, ThreadPoolExecutor(KILLS * KEYS) as pool:
        path = f"/v1/containers/{web}/commit"
        client = Client(site, path, cloud.token(cloud.alice), f"test/killed-{uuid.uuid4()}")
        promised: list[Future[dict[str, Any]]] = []
        for _ in range(KILLS):
            promised += killed_at_work(client, pool)
            site.api.start()
            site.api.await_up()
        answers = [future.result(timeout=2 * DEADLINE) for future in promised]
    assert len({answer["image_id"] for answer in answers}) == KILLS * KEYS
    for answer in answers:
        assert running.ended(answer["snapshot_id"])["status"] == "active"
    made = {image["id"] for image in images_named(cloud, client.image_name)}
    assert made == {answer["image_id"] for answer in answers}, "nothing else is left"


@dataclass(frozen=True, slots=True)
class Client:
    """One that uses keys, and sends each request until there is an answer."""

    site: Site
    path: str
    token: str
    image_name: str
    broken: list[str] = field(default_factory=list)
    """Keys whose request was taken and not answered, each time."""

    def send(self, key: str) -> dict[str, Any]:
        """Return the answer; threads may share this."""
        body = {"image_name": self.image_name, "request_id": key}
        give_up = time.monotonic() + 2 * DEADLINE
        while True:
            assert time.monotonic() < give_up, f"{key} gets no answer"
            try:
                answer = self.site.call("POST", self.path, token=self.token, json=body)
            except requests.RequestException as error:
                if isinstance(error.args[0], ProtocolError):  # it was taken, not refused
                    self.broken.append(key)
                time.sleep(0.2)
                continue
            if answer.status_code == 202:
                return dict(answer.json())
            assert answer.status_code in {409, 503}, answer.text
            time.sleep(0.5)


def killed_at_work(client: Client, pool: ThreadPoolExecutor) -> list[Future[dict[str, Any]]]:
    """Send requests, and kill the service when it has answered some and is at work on others."""
    lost, broken = holders(client.site), len(client.broken)
    sent = [pool.submit(client.send, str(uuid.uuid4())) for _ in range(KEYS)]
    client.site.api.kill_amid(
        lambda: any(each.done() for each in sent) and bool(holders(client.site) - lost),
        "some requests to be answered, and others to be in hand",
    )
    assert not all(each.done() for each in sent)
    until(lambda: len(client.broken) > broken, "a request to get no answer")
    return sent


def holders(site: Site) -> set[str]:
    """Return the attempts to make a promise that are under way, or were cut off."""
    query = "SELECT record FROM reservations WHERE state = ?"
    with closing(sqlite3.connect(site.folder / "index.sqlite")) as index:
        rows = index.execute(query, [ReservationState.OPEN.value]).fetchall()
    return {json.loads(record)["holder"] for (record,) in rows}


# Cancelling


def test_a_snapshot_is_cancelled(running: Site, cloud: Cloud, web: str) -> None:
    running.agent.stop()  # so that the requests wait
    try:
        first, second = (
            running.commit(web, cloud.alice, name="test/cancelled").json() for _ in range(2)
        )
        refused(running.call("DELETE", f"/v1/snapshots/{first['snapshot_id']}", cloud.bob), 404)
        for ids, person in ((first, cloud.alice), (second, cloud.admin)):
            answer = running.call("DELETE", f"/v1/snapshots/{ids['snapshot_id']}", person)
            assert answer.status_code == 202, answer.text
            assert answer.json()["snapshot_id"] == ids["snapshot_id"]
    finally:
        running.agent.start()
        running.agent.await_up()
    for ids in (first, second):
        end = running.ended(ids["snapshot_id"])
        assert (end["status"], end["fault"]["code"]) == ("error", 499)
    until(lambda: images_named(cloud, "test/cancelled") == [], "the images to be gone")


# Tokens


def test_no_token_is_left_anywhere(running: Site, cloud: Cloud, web: str) -> None:
    token = cloud.token(cloud.alice)
    path = f"/v1/containers/{web}/commit"
    answer = running.call("POST", path, token=token, json={"image_name": "test/token"})
    ids = answer.json()
    assert running.ended(ids["snapshot_id"])["status"] == "active"
    running.call("GET", "/v1/snapshots", token=token)
    # What is looked through is where things are left, the words of keystoneauth among it.
    files = {file: file.read_bytes() for file in running.folder.rglob("*") if file.is_file()}
    tell = {file.name for file, data in files.items() if ids["request_id"].encode() in data}
    assert tell >= {"api.log"}, "logs"
    for database in ("journal.sqlite", "index.sqlite"):
        assert [name for name in tell if name.startswith(database)], database
    assert "DEBUG keystoneauth" in running.api.log()
    secrets = (token, token[10:60])
    for file, data in files.items():
        assert not [secret for secret in secrets if secret.encode() in data], file
    assert ids["request_id"] in json.dumps(running.agent.witness.events)
    assert not [secret for secret in secrets if secret in json.dumps(running.agent.witness.events)]
    alice = cloud.connection(cloud.alice)
    url = f"{glance_of(cloud)}/v2/images/{ids['image_id']}"
    assert token not in alice.session.get(url).text
    assert token.encode() not in alice.session.get(f"{url}/file").content


# Helpers


def glance_of(cloud: Cloud) -> str:
    return str(cloud.alice.endpoint_override)


def content_of(archive: bytes, path: str) -> bytes:
    """Return a file out of the layers of a docker archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        manifest = json.load(outer.extractfile("manifest.json") or io.BytesIO())
        for layer in reversed(manifest[0]["Layers"]):
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                if path in inner.getnames():
                    found = inner.extractfile(path)
                    assert found is not None
                    return found.read()
    return b""


def names(site: Site, person: Any, query: str = "") -> set[str]:
    """Return the names of the containers that somebody sees."""
    answer = site.call("GET", f"/v1/containers{query}", person).json()
    return {each["name"] for each in answer["containers"] if each["host"] == site.agent.host}


def snapshots(site: Site, person: Any, query: str = "") -> set[str]:
    """Return the ids of the snapshots that somebody sees."""
    answer = site.call("GET", f"/v1/snapshots{query}", person).json()
    return {each["snapshot_id"] for each in answer["snapshots"]}


def images_named(cloud: Cloud, name: str) -> list[dict[str, Any]]:
    """Return the images of alice's project with this name, whatever their status."""
    alice = cloud.connection(cloud.alice)
    url = f"{glance_of(cloud)}/v2/images?name={name}&owner={cloud.project_id(cloud.alice)}"
    return list(alice.session.get(url).json()["images"])


def keeps_from_bob(cloud: Cloud, image_id: str) -> None:
    """Check that bob can neither have, change nor delete an image of alice's."""
    url = f"{glance_of(cloud)}/v2/images/{image_id}"
    alice, bob = (cloud.connection(person).session for person in (cloud.alice, cloud.bob))
    before = alice.get(url).json()
    change = {
        "json": [{"op": "replace", "path": "/name", "value": "bob's"}],
        "headers": {"Content-Type": "application/openstack-images-v2.1-json-patch"},
    }
    for answer in (
        bob.get(url, raise_exc=False),
        bob.get(f"{url}/file", raise_exc=False),
        bob.patch(url, raise_exc=False, **change),
        bob.delete(url, raise_exc=False),
    ):
        assert answer.status_code in {403, 404}, answer.request.method
    assert alice.get(url).json() == before


def counted(site: Site, route: str) -> float:
    """Return how many requests for a route the service says that it has answered."""
    families = text_string_to_metric_families(site.call("GET", "/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "tintype_http_requests_total" and sample.labels["route"] == route
    )


class RemoteDatabase:
    """An empty database on PostgreSQL that can be shut: it breaks off and refuses connections."""

    def __init__(self, url: str) -> None:
        parts = make_url(url)
        self.url = url
        self.password = str(parts.password)
        self._name = parts.database
        self._admin = Database(os.environ["TINTYPE_TEST_POSTGRESQL_URL"])

    def open(self) -> None:
        """Let connections in."""
        self._execute(f"ALTER DATABASE {self._name} WITH ALLOW_CONNECTIONS true")

    def shut(self) -> None:
        """Let none in, and end those that there are."""
        self._execute(f"ALTER DATABASE {self._name} WITH ALLOW_CONNECTIONS false")
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname"
        self._execute(f"{ends} = '{self._name}'")

    def close(self) -> None:
        """Disconnect."""
        self._admin.close()

    def _execute(self, statement: str) -> None:
        with self._admin.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(statement))


@contextmanager
def a_database() -> Iterator[RemoteDatabase]:
    """Make a database, which is dropped in the end."""
    with closing(Server("postgresql")) as server, closing(RemoteDatabase(server.new())) as made:
        yield made


@pytest.fixture(autouse=True)
def no_images_left(running: Site, cloud: Cloud) -> Iterator[None]:
    """Delete what these tests have made."""
    yield
    query = "all_projects=true&status=active&limit=1000"
    made = running.call("GET", f"/v1/snapshots?{query}", cloud.admin).json()["snapshots"]
    ids = {snapshot["image_id"] for snapshot in made}
    store = cloud.store()
    for person in (cloud.alice, cloud.admin):
        for image in store.find(cloud.project_id(person), {"image_type": "snapshot"}):
            if image.id in ids:
                store.discard(image.id)
