"""The REST service under gunicorn: real Keystone, Glance, RabbitMQ, Docker Engine behind it."""

from __future__ import annotations

import io
import json
import tarfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from docker import DockerClient
from openstack.connection import Connection

from tests.support.agent import AgentProcess, left_on
from tests.support.docker import Containers
from tests.support.openstack import Cloud
from tests.support.rabbit import until
from tests.support.rest import Site, UwsgiProcess, owned_by
from tintype.core.ports import ContainerState

CONTENT = b"written before the snapshot"
NOBODY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


@pytest.fixture
def web(running: Site, cloud: Cloud, container: Containers) -> str:
    """Alice's running container, known to the index."""
    return a_web(running, cloud, container)


def a_web(site: Site, cloud: Cloud, container: Containers) -> str:
    """Make a container of alice's on a site, and wait until it is known."""
    name = str(container(files={"/data/file": CONTENT}, labels=owned_by(cloud, cloud.alice)).name)
    site.known(name)
    return name


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


def test_it_runs_under_uwsgi_as_well(site: Site, cloud: Cloud, container: Containers) -> None:
    options = site.api.options
    site.api = UwsgiProcess(site.api.folder, "uwsgi")
    site.api.options = options
    site.start()
    web = a_web(site, cloud, container)
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


def test_without_a_valid_token_nothing_is_told(running: Site, cloud: Cloud, web: str) -> None:
    revoked = cloud.token(cloud.alice)
    assert running.call("GET", f"/v1/containers/{web}", token=revoked).ok
    cloud.revoke(revoked)
    expired = expired_token(cloud)
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
    bob = cloud.connection(cloud.bob)
    hidden = bob.session.get(f"{glance_of(cloud)}/v2/images/{mine['image_id']}", raise_exc=False)
    assert hidden.status_code == 404

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
    tmp_path: Path,
    agent: AgentProcess,
    cloud: Cloud,
    container: Containers,
    limited_glance: Any,
) -> None:
    site = Site(tmp_path, agent, cloud, glance_url=limited_glance.url)
    try:
        site.start()
        web = container(labels={"tintype.project_id": limited_glance.project_id}).name
        site.known(web)
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
    finally:
        site.close()


# What is away


def test_nothing_is_promised_while_the_bus_is_away(
    site: Site, cloud: Cloud, container: Containers
) -> None:
    site.start()
    web = a_web(site, cloud, container)
    key = str(uuid.uuid4())
    site.agent.broker.stop()
    try:
        answer = site.commit(web, cloud.alice, request_id=key)
        refused(answer, 503, "message bus")
        assert int(answer.headers["Retry-After"]) > 0
        assert site.call("GET", "/healthcheck").status_code == 503
        assert images_named(cloud, "test/rest") == []
    finally:
        site.agent.broker.start()
    answers: list[requests.Response] = []

    def promised() -> bool:
        answers.append(site.commit(web, cloud.alice, request_id=key))
        return answers[-1].status_code == 202

    until(promised, "the same request to be promised")
    assert site.ended(answers[-1].json()["snapshot_id"])["status"] == "active"
    until(lambda: site.call("GET", "/healthcheck").ok, "health")


def test_nothing_is_promised_while_glance_or_keystone_is_away(
    site: Site, cloud: Cloud, container: Containers
) -> None:
    group = site.api.options["glance"]
    site.api.options["glance"] = {**group, "endpoint_override": "http://127.0.0.1:9/"}
    site.start()
    web = a_web(site, cloud, container)
    refused(site.commit(web, cloud.alice), 503)
    assert site.call("GET", "/healthcheck").status_code == 503
    site.api.stop()
    site.api.options["glance"] = group
    token = site.api.options["keystone_authtoken"]
    site.api.options["keystone_authtoken"] = {**token, "auth_url": "http://127.0.0.1:9/v3"}
    site.api.start()
    site.api.await_up()
    refused(site.commit(web, cloud.alice), 503, "Keystone")
    requests_made = site.agent.witness.events
    assert not [e for e in requests_made if e["event_type"].startswith("image.")]


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
    site: Site, cloud: Cloud, container: Containers
) -> None:
    site.start()
    web = a_web(site, cloud, container)
    token = cloud.token(cloud.alice)
    keys = [str(uuid.uuid4()) for _ in range(12)]
    path = f"/v1/containers/{web}/commit"

    def send(key: str) -> dict[str, Any]:
        """Send until there is an answer, as a client does that uses keys."""
        body = {"image_name": "test/killed", "request_id": key}
        while True:
            try:
                answer = site.call("POST", path, token=token, json=body)
            except requests.ConnectionError:
                time.sleep(0.2)
                continue
            if answer.status_code == 202:
                return dict(answer.json())
            assert answer.status_code in {409, 503}, answer.text
            time.sleep(0.5)

    with ThreadPoolExecutor(len(keys)) as pool:
        promised = [pool.submit(send, key) for key in keys]
        for pause in (0.15, 0.4):
            time.sleep(pause)
            site.api.kill()
            site.api.start()
            site.api.await_up()
        answers = [future.result(timeout=300) for future in promised]
    assert len({answer["image_id"] for answer in answers}) == len(keys)
    for answer in answers:
        assert site.ended(answer["snapshot_id"])["status"] == "active"
    made = {image["id"] for image in images_named(cloud, "test/killed")}
    assert made == {answer["image_id"] for answer in answers}, "nothing else is left"


# Cancelling


def test_a_snapshot_is_cancelled(site: Site, cloud: Cloud, container: Containers) -> None:
    site.start()
    web = a_web(site, cloud, container)
    # It waits for its Glance image to be there: the agent is stopped, the request is parked.
    site.agent.stop()
    ids = site.commit(web, cloud.alice).json()
    answer = site.call("DELETE", f"/v1/snapshots/{ids['snapshot_id']}", cloud.alice)
    assert answer.status_code == 202
    assert answer.json()["snapshot_id"] == ids["snapshot_id"]
    site.agent.start()
    site.agent.await_up()
    end = site.ended(ids["snapshot_id"])
    assert (end["status"], end["fault"]["code"]) == ("error", 499)
    until(lambda: images_named(cloud, "test/rest") == [], "the image to be gone")


# Tokens


def test_no_token_is_left_anywhere(
    site: Site, cloud: Cloud, container: Containers, tmp_path: Path
) -> None:
    site.start()
    web = a_web(site, cloud, container)
    token = cloud.token(cloud.alice)
    path = f"/v1/containers/{web}/commit"
    answer = site.call("POST", path, token=token, json={"image_name": "test/token"})
    ids = answer.json()
    assert site.ended(ids["snapshot_id"])["status"] == "active"
    site.call("GET", "/v1/snapshots", token=token)
    secrets = (token, token[10:60])
    for file in sorted(tmp_path.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in data], file
    assert not [secret for secret in secrets if secret in json.dumps(site.agent.witness.events)]
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


def expired_token(cloud: Cloud) -> str:
    """Return a token of alice's whose time is over: one by a credential that has ended."""
    alice: Connection = cloud.connection(cloud.alice)
    ends = datetime.now(UTC) + timedelta(seconds=3)
    user_id = alice.session.get_user_id()
    credential = alice.identity.create_application_credential(
        user_id, f"brief-{uuid.uuid4()}", expires_at=ends.strftime("%Y-%m-%dT%H:%M:%S.%f")
    )
    secret = {"id": credential.id, "secret": credential.secret}
    body = {"identity": {"methods": ["application_credential"], "application_credential": secret}}
    answer = requests.post(f"{cloud.service.auth_url}/auth/tokens", json={"auth": body}, timeout=30)
    assert answer.status_code == 201, answer.text
    time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 1)
    return answer.headers["X-Subject-Token"]


@pytest.fixture(autouse=True)
def no_images_left(cloud: Cloud) -> Iterator[None]:
    """Delete what these tests have made."""
    yield
    store = cloud.store()
    for person in (cloud.alice, cloud.admin):
        for image in store.find(cloud.project_id(person), {"image_type": "snapshot"}):
            store.discard(image.id)
