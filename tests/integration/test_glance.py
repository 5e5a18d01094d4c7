"""The Glance store on the real thing: whose images they are, and what bad credentials do."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import requests
from keystoneauth1.identity import Password
from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session
from openstack.connection import Connection
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter

from tintype.adapters.glance import GlanceStore
from tintype.adapters.openstack_access import GlanceSettings
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import (
    CorruptUpload,
    Forbidden,
    ImageIdSpent,
    Invalid,
    NotFound,
    Refused,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from tintype.core.events import Requester
from tintype.core.images import ImageSpec, ImageStatus

if TYPE_CHECKING:
    from tests.support.agent import AgentProcess
    from tests.support.docker import Containers
    from tests.support.openstack import Cloud, LimitedGlance

CHUNKS = [bytes([number]) * 100_000 for number in range(20)]
DATA = b"".join(CHUNKS)
SENT = ArchiveSummary(
    size_bytes=len(DATA),
    sha256=hashlib.sha256(DATA).hexdigest(),
    sha512=hashlib.sha512(DATA).hexdigest(),
    config_digest="sha256:" + "0" * 64,
    layers=(),
)


def test_the_image_is_the_requester_s(cloud: Cloud, glance: GlanceStore) -> None:
    alice, bob = cloud.store(cloud.alice), cloud.store(cloud.bob)
    alpha = cloud.project_id(cloud.alice)
    spec = cloud.spec(owner=alpha)
    assert glance.reserve(spec).owner == alpha
    assert alice.describe(spec.id).status is ImageStatus.QUEUED
    glance.upload(spec.id, iter(CHUNKS))
    with alice.download(spec.id) as chunks:
        assert b"".join(chunks) == DATA
    with pytest.raises(NotFound):
        bob.describe(spec.id)
    alice.discard(spec.id)
    with pytest.raises(ImageIdSpent):
        glance.reserve(spec)


def test_the_image_is_as_the_contract_says(cloud: Cloud, glance: GlanceStore) -> None:
    alpha = cloud.project_id(cloud.alice)
    spec = cloud.spec(
        owner=alpha,
        image_type="snapshot",
        instance_uuid="1b4e28ba-2fa1-11d2-883f-0016d3cca427",
        owner_id="somebody",
        user_id="alice",
    )
    glance.reserve(spec)
    glance.upload(spec.id, iter(CHUNKS))
    last = {"image_state": "available", "labels": '{"a/b": "ü"}', "a/b~c": "odd name"}
    done = glance.complete(spec.id, SENT, last)
    document = raw(cloud, spec.id)
    assert document.items() >= {**spec.properties, **last}.items()
    assert document["owner"] == alpha == done.owner
    assert (document["name"], document["tags"]) == ("web-snapshot", ["v1"])
    assert (document["container_format"], document["disk_format"]) == ("docker", "raw")
    assert (document["visibility"], document["status"]) == ("private", "active")
    assert (document["size"], document["os_hash_value"]) == (SENT.size_bytes, SENT.sha512)
    assert done.location == f"glance://{spec.id}"


def raw(cloud: Cloud, image_id: str) -> dict[str, Any]:
    """Return the image as alice sees it in the API, before any SDK renames a thing."""
    address = f"{cloud.alice.endpoint_override}/v2/images/{image_id}"
    document: dict[str, Any] = cloud.connection(cloud.alice).session.get(address).json()
    return document


def test_exported_variables_and_clouds_yaml_play_no_part(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_AUTH_URL", "http://127.0.0.1:9/nowhere")
    monkeypatch.setenv("OS_USERNAME", "nobody")
    monkeypatch.setenv("OS_CLOUD", "no-such-cloud")
    cloud.store().check()


def test_the_address_may_come_from_the_catalogue(cloud: Cloud) -> None:
    for override in ("", f"{cloud.service.endpoint_override}/v2/"):
        cloud.store(endpoint_override=override).check()


def test_two_puts_at_the_same_instant_never_make_a_wrong_image(
    cloud: Cloud, glance: GlanceStore
) -> None:
    """At most one is told that it worked.

    With a database that is locked at the wrong moment (SQLite) none is, or the loser's cleaning up
    puts the winner's image back to `queued`, after a 204: `complete` is there to find that out.
    """
    spec = cloud.spec()
    glance.reserve(spec)
    both_saw_it_queued = threading.Barrier(2)

    def upload(content: bytes) -> bytes | None:
        def body() -> Iterator[bytes]:
            both_saw_it_queued.wait(30)
            yield content

        try:
            cloud.store().upload(spec.id, body())
        except Unavailable:
            return None
        return content

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(upload, [DATA, DATA[::-1]]))
    assert None in ends
    if glance.describe(spec.id).status is ImageStatus.ACTIVE:
        with glance.download(spec.id) as chunks:
            assert b"".join(chunks) in ends
    elif DATA in ends:
        with pytest.raises(CorruptUpload):
            glance.complete(spec.id, SENT, {})


class Fading(Password):  # type: ignore[misc]  # keystoneauth leaves it untyped
    """Hands out a token that Glance does not know, until it is told to get another."""

    faded = False

    def get_token(self, session: Session) -> str | None:
        return "gAAAAA-not-a-token" if self.faded else super().get_token(session)

    def get_headers(self, session: Session) -> dict[str, str] | None:
        return {"X-Auth-Token": str(self.get_token(session))}

    def invalidate(self) -> bool:
        self.faded = False
        return bool(super().invalidate())


@pytest.fixture
def fading(cloud: Cloud) -> Iterator[tuple[Fading, GlanceStore]]:
    """A store and the token it goes by; also shows that it takes a connection somebody made."""
    who = cloud.service
    auth = Fading(
        auth_url=who.auth_url,
        username=who.username,
        password=who.password,
        project_name=who.project_name,
        user_domain_name=who.user_domain_name,
        project_domain_name=who.project_domain_name,
    )
    connection = Connection(
        session=Session(auth=auth), image_endpoint_override=who.endpoint_override
    )
    yield auth, GlanceStore(connection)
    connection.close()


def test_a_token_that_is_not_valid_any_more_is_renewed(
    cloud: Cloud, fading: tuple[Fading, GlanceStore]
) -> None:
    auth, store = fading
    spec = cloud.spec()
    store.reserve(spec)
    auth.faded = True
    store.upload(spec.id, iter(CHUNKS))
    assert store.complete(spec.id, SENT, {}).status is ImageStatus.ACTIVE


def test_a_token_refused_for_the_upload_itself_truncates_nothing(
    cloud: Cloud, fading: tuple[Fading, GlanceStore]
) -> None:
    auth, store = fading
    spec = cloud.spec()
    store.reserve(spec)

    def body() -> Iterator[bytes]:
        auth.faded = True
        yield from CHUNKS

    with pytest.raises(Unavailable, match="401"):
        store.upload(spec.id, body())
    assert store.describe(spec.id).status is ImageStatus.QUEUED
    store.upload(spec.id, iter(CHUNKS))
    assert store.complete(spec.id, SENT, {}).status is ImageStatus.ACTIVE


def test_a_wrong_password_makes_requests_wait(cloud: Cloud) -> None:
    store = cloud.store(password="s3cret-and-wrong")
    with pytest.raises(Unavailable, match="credentials") as raised:
        store.check()
    assert "s3cret" not in str(raised.value)
    with pytest.raises(Unavailable, match="credentials"):
        store.reserve(cloud.spec())
    assert "s3cret" not in repr(GlanceSettings("http://keystone", "tintype", "s3cret"))


@pytest.mark.parametrize("part", ["endpoint_override", "auth_url"])
def test_a_service_that_is_down_is_unavailable(cloud: Cloud, part: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens: refuses for as long as it is bound
        changes: dict[str, Any] = {part: f"http://127.0.0.1:{unused.getsockname()[1]}"}
        store = cloud.store(**changes)
        image_id = str(uuid.uuid4())
        with pytest.raises(Unavailable):
            store.check()
        with pytest.raises(Unavailable):
            store.reserve(cloud.spec())
        with pytest.raises(Unavailable):
            store.upload(image_id, iter(CHUNKS))
        with pytest.raises(Unavailable):
            store.discard(image_id)
        with pytest.raises(Unavailable), store.download(image_id):
            pass


def test_a_region_that_has_no_glance_is_unavailable(cloud: Cloud) -> None:
    store = cloud.store(endpoint_override="", region_name="nowhere")
    with pytest.raises(Unavailable, match="not configured"):
        store.check()


def test_a_quota_that_is_reached_is_too_large(cloud: Cloud, glance: GlanceStore) -> None:
    """The quota on properties (128), the only one that is reached without a special Glance."""
    with pytest.raises(TooLarge, match="413"):
        glance.reserve(cloud.spec(**{f"property_{number}": "x" for number in range(200)}))


def test_who_may_not_create_for_others_is_forbidden(cloud: Cloud) -> None:
    with pytest.raises(Forbidden, match="403"):
        cloud.store(cloud.alice).reserve(cloud.spec(owner=cloud.project_id(cloud.bob)))


# What the service's user may do


def test_the_service_s_user_is_an_admin_in_glance(cloud: Cloud, glance: GlanceStore) -> None:
    """It needs that for images of others; that it may create them is tested above."""
    alice = cloud.store(cloud.alice)
    spec = cloud.spec()
    alice.reserve(spec)
    glance.upload(spec.id, iter(CHUNKS))
    glance.complete(spec.id, SENT, {"image_state": "available"}, tag="v2")
    document = raw(cloud, spec.id)
    assert (document["status"], document["visibility"]) == ("active", "private")
    assert document["image_state"] == "available"
    assert sorted(document["tags"]) == ["v1", "v2"]
    glance.discard(spec.id)
    with pytest.raises(NotFound):
        alice.describe(spec.id)


def test_the_service_s_user_is_no_admin_elsewhere(cloud: Cloud) -> None:
    session = cloud.connection(cloud.service).session
    keystone = cloud.service.auth_url
    assert set(session.auth.get_access(session).role_names) == {"tintype", "service"}
    for refused in ("users", "projects", "domains", "role_assignments"):
        assert session.get(f"{keystone}/{refused}", raise_exc=False).status_code == 403, refused
    made = session.post(f"{keystone}/users", json={"user": {"name": "eve"}}, raise_exc=False)
    assert made.status_code == 403


def test_the_service_s_user_may_have_tokens_checked(cloud: Cloud) -> None:
    """The role `service` is for that: the REST service asks whose a caller's token is."""
    session = cloud.connection(cloud.service).session
    known = session.get(
        f"{cloud.service.auth_url}/auth/tokens",
        headers={"X-Subject-Token": cloud.token(cloud.alice)},
    )
    assert known.json()["token"]["project"]["id"] == cloud.project_id(cloud.alice)


# Acting with somebody else's token


def test_what_a_caller_reserves_is_his(cloud: Cloud, glance: GlanceStore) -> None:
    alice = glance.acting_with(cloud.token(cloud.alice))
    bob = glance.acting_with(cloud.token(cloud.bob))
    spec = cloud.spec()
    assert alice.reserve(spec).owner == cloud.project_id(cloud.alice)
    assert alice.reserve(spec) == alice.describe(spec.id)
    with pytest.raises(NotFound):
        bob.describe(spec.id)
    glance.upload(spec.id, iter(CHUNKS))
    assert glance.complete(spec.id, SENT, {}).status is ImageStatus.ACTIVE
    with alice.download(spec.id) as chunks:
        assert b"".join(chunks) == DATA
    bob.discard(spec.id)
    assert alice.describe(spec.id).status is ImageStatus.ACTIVE
    alice.discard(spec.id)
    with pytest.raises(NotFound):
        glance.describe(spec.id)


def test_a_caller_can_do_all_that_a_store_does(cloud: Cloud, glance: GlanceStore) -> None:
    alice = glance.acting_with(cloud.token(cloud.alice))
    wanted = {"container_uuid": str(uuid.uuid4())}
    spec = cloud.spec()
    alice.reserve(spec)
    alice.upload(spec.id, iter(CHUNKS))
    done = alice.complete(spec.id, SENT, wanted)
    assert alice.find(done.owner, wanted) == [done]
    alice.check()
    assert alice.name == glance.name


def test_callers_at_the_same_time_are_not_mixed_up(cloud: Cloud, glance: GlanceStore) -> None:
    people = [cloud.alice, cloud.bob]
    tokens = [cloud.token(person) for person in people]
    projects = [cloud.project_id(person) for person in people]

    def owner(number: int) -> str | None:
        return glance.acting_with(tokens[number % 2]).reserve(cloud.spec()).owner

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(owner, range(40))) == projects * 20
    # And the service is still itself.
    assert glance.reserve(cloud.spec(owner=projects[1])).owner == projects[1]


def test_a_caller_s_token_that_is_not_valid_is_unauthorized(
    cloud: Cloud, glance: GlanceStore, caplog: pytest.LogCaptureFixture
) -> None:
    spec = cloud.spec()
    glance.reserve(spec)
    caplog.set_level(logging.DEBUG)
    nobody = glance.acting_with("gAAAAA-not-a-token")
    calls: list[Callable[[], object]] = [
        lambda: nobody.reserve(cloud.spec()),
        lambda: nobody.describe(spec.id),
        lambda: nobody.upload(spec.id, iter(CHUNKS)),
        lambda: nobody.complete(spec.id, SENT, {}),
        lambda: nobody.discard(spec.id),
        lambda: nobody.find(None, {}),
        lambda: nobody.download(spec.id).__enter__(),
        nobody.check,
    ]
    for call in calls:
        caplog.clear()
        with pytest.raises(Unauthorized, match="401") as raised:
            call()
        assert (raised.value.code, raised.value.retryable) == (401, False)
        answers = caplog.text.count("RESP: [")  # a download is not logged
        assert answers <= 1, "nothing is sent again, and nobody logs in again"
    assert glance.describe(spec.id).status is ImageStatus.QUEUED


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nX-Roles: admin", "\u00e9", "\u20ac"])
def test_what_is_no_token_is_unauthorized_and_never_sent(glance: GlanceStore, token: str) -> None:
    with pytest.raises(Unauthorized):
        glance.acting_with(token)


def test_a_caller_may_do_what_his_roles_allow(cloud: Cloud, glance: GlanceStore) -> None:
    alice = glance.acting_with(cloud.token(cloud.alice))
    with pytest.raises(Forbidden, match="403"):
        alice.reserve(cloud.spec(owner=cloud.project_id(cloud.bob)))
    carol = glance.acting_with(cloud.token(cloud.carol))
    with pytest.raises(Forbidden, match="403"):
        carol.reserve(cloud.spec())
    spec = cloud.spec()
    alice.reserve(spec)
    assert carol.describe(spec.id).status is ImageStatus.QUEUED
    with pytest.raises(Forbidden, match="403"):
        carol.upload(spec.id, iter(CHUNKS))
    with pytest.raises(Forbidden, match="403"):
        carol.discard(spec.id)


def test_no_token_is_in_the_log(
    cloud: Cloud, glance: GlanceStore, caplog: pytest.LogCaptureFixture
) -> None:
    token = cloud.token(cloud.alice)
    caplog.set_level(logging.DEBUG)
    alice = glance.acting_with(token)
    spec = cloud.spec()
    alice.reserve(spec)
    alice.upload(spec.id, iter(CHUNKS))
    with pytest.raises(NotFound):
        alice.describe(str(uuid.uuid4()))
    assert "REQ: curl" in caplog.text
    assert token not in caplog.text
    assert token not in repr(alice)


def test_the_way_to_glance_is_the_service_s(cloud: Cloud) -> None:
    token = cloud.token(cloud.alice)
    cloud.store(endpoint_override="").acting_with(token).check()  # by the service's catalogue
    broken = {"password": "s3cret-and-wrong"}
    cloud.store(**broken).acting_with(token).check()  # needs no catalogue, so nobody logs in
    with pytest.raises(Unavailable, match="credentials"):
        cloud.store(**broken, endpoint_override="").acting_with(token).check()


class Watched(Connection):  # type: ignore[misc]  # mypy does not see what it inherits
    """Remembers that it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


def test_a_caller_s_store_leaves_the_service_s_connection_open(cloud: Cloud) -> None:
    connection = Watched(
        session=cloud.connection(cloud.service).session,
        image_endpoint_override=cloud.service.endpoint_override,
    )
    store = GlanceStore(connection)
    store.acting_with(cloud.token(cloud.alice)).close()
    assert not connection.closed
    store.close()
    assert connection.closed


# Tokens that end in an upload, on a Glance that remembers none


def revoking(cloud: Cloud, token: str, image_id: str) -> Iterator[bytes]:
    """Yield the data; the token is revoked once Glance has begun to take it."""
    watcher = cloud.store()
    yield CHUNKS[0]
    deadline = time.monotonic() + 30
    while watcher.describe(image_id).status is not ImageStatus.SAVING:
        assert time.monotonic() < deadline, "the upload is not noticed"
        time.sleep(0.05)
    cloud.revoke(token)
    for chunk in CHUNKS[1:]:
        time.sleep(0.05)
        yield chunk


def test_a_token_that_ends_in_an_upload_does_no_harm(
    cloud: Cloud, limited_glance: LimitedGlance
) -> None:
    connection = cloud.connection(replace(cloud.service, endpoint_override=limited_glance.url))
    store = GlanceStore(connection)
    spec = cloud.spec(owner=cloud.project_id(cloud.alice))
    store.reserve(spec)
    token = connection.session.get_token()
    store.upload(spec.id, revoking(cloud, token, spec.id))
    assert connection.session.get_token() == token, "nobody knows yet that it has ended"
    assert store.complete(spec.id, SENT, {}).status is ImageStatus.ACTIVE
    assert connection.session.get_token() != token


def test_a_caller_s_token_that_ends_in_his_upload_does_no_harm_but_is_not_renewed(
    cloud: Cloud, limited_glance: LimitedGlance
) -> None:
    glance = cloud.store(endpoint_override=limited_glance.url)
    token = cloud.token(cloud.alice)
    alice = glance.acting_with(token)
    spec = cloud.spec()
    alice.reserve(spec)
    alice.upload(spec.id, revoking(cloud, token, spec.id))
    with pytest.raises(Unauthorized, match="401"):
        alice.complete(spec.id, SENT, {})
    assert glance.complete(spec.id, SENT, {}).status is ImageStatus.ACTIVE


# Quotas


def test_a_project_s_quota_counts_for_what_its_members_reserve(
    cloud: Cloud, limited_glance: LimitedGlance
) -> None:
    limited_glance.limit("image_count_total", 2)
    glance = cloud.store(endpoint_override=limited_glance.url)
    dave = glance.acting_with(cloud.token(limited_glance.dave))
    for _ in range(2):
        last = cloud.spec()
        assert dave.reserve(last).owner == limited_glance.project_id
    with pytest.raises(TooLarge, match="413"):
        dave.reserve(cloud.spec())
    dave.discard(last.id)
    dave.reserve(cloud.spec())


def test_a_quota_does_not_count_for_the_service(
    cloud: Cloud, limited_glance: LimitedGlance
) -> None:
    """Glance looks at the project of whoever asks. So images are reserved with callers' tokens."""
    limited_glance.limit("image_count_total", 0)
    glance = cloud.store(endpoint_override=limited_glance.url)
    spec = cloud.spec(owner=limited_glance.project_id)
    assert glance.reserve(spec).owner == limited_glance.project_id


MIB = 1024 * 1024


def test_the_room_is_what_a_project_s_limit_leaves(
    cloud: Cloud, limited_glance: LimitedGlance
) -> None:
    address, project = limited_glance.url, limited_glance.project_id
    version = "/v3"  # some leave it out of Keystone's address
    keystone = cloud.service.auth_url.removesuffix(version)
    glance = cloud.store(endpoint_override=address, auth_url=keystone)
    assert glance.room(project) == 1_000_000 * MIB, "the default that the stack has registered"
    limited_glance.limit("image_size_total", 10)
    for size in (1_000_001, 2_000_000):
        spec = cloud.spec(owner=project)
        glance.reserve(spec)
        glance.upload(spec.id, iter([bytes(size)]))
    hide(cloud, spec.id)
    left = 10 * MIB - 3_000_001
    assert glance.room(project) == left
    dave = glance.acting_with(cloud.token(limited_glance.dave))
    assert dave.room(project) == left, "with the service's eyes"
    assert dave.room(None) == 8 * MIB, "Glance counts whole MiB"
    assert cloud.store(cloud.bob, endpoint_override=address).room(project) is None


def hide(cloud: Cloud, image_id: str) -> None:
    """Have an image left out of lists."""
    cloud.connection(cloud.service).session.patch(
        f"{cloud.service.endpoint_override}/v2/images/{image_id}",
        json=[{"op": "replace", "path": "/os_hidden", "value": True}],
        headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
    )


def test_at_the_limit_there_is_no_room_for_who_uploads_himself(
    cloud: Cloud, limited_glance: LimitedGlance
) -> None:
    glance = cloud.store(endpoint_override=limited_glance.url)
    limited_glance.limit("image_size_total", 1)
    one, other = (cloud.spec(owner=limited_glance.project_id) for _ in range(2))
    for spec in (one, other):
        glance.reserve(spec)
    glance.upload(one.id, iter([bytes(MIB)] * 2))
    assert glance.room(limited_glance.project_id) == 0
    dave = glance.acting_with(cloud.token(limited_glance.dave))
    with pytest.raises(TooLarge, match="413"):
        dave.upload(other.id, iter(CHUNKS))
    glance.upload(other.id, iter(CHUNKS))  # for nobody else is it one
    assert glance.complete(other.id, SENT, {}).owner == limited_glance.project_id
    limited_glance.limit("image_size_total", -1)
    assert glance.room(limited_glance.project_id) is None


def test_no_room_is_known_of_a_glance_without_unified_limits(
    cloud: Cloud, glance: GlanceStore
) -> None:
    assert glance.room(None) is glance.room(cloud.project_id(cloud.alice)) is None
    assert scripted((404, {})).room(None) is None, "a Glance of before the call"
    with pytest.raises(Unavailable, match="500"):
        scripted((500, {})).room(None)


# Images of others, and images out of use


def test_an_image_of_whatever_origin_can_be_described(cloud: Cloud, glance: GlanceStore) -> None:
    """What somebody may leave out is None, and nothing that is Glance's own is a property."""
    spec = cloud.spec()
    document = cloud.connection(cloud.alice).session.post(
        f"{cloud.alice.endpoint_override}/v2/images", json={"id": spec.id, "visibility": "private"}
    )
    bare = glance.describe(document.json()["id"])
    assert (bare.name, bare.tag, dict(bare.properties)) == (None, None, {})
    alpha = cloud.project_id(cloud.alice)
    statuses = [ImageStatus.QUEUED]
    assert spec.id in [image.id for image in glance.find(alpha, {}, statuses=statuses)]
    assert spec.id not in [image.id for image in glance.find(alpha, {}, name="", statuses=statuses)]


def test_an_image_of_zun_s_tells_what_its_data_is(cloud: Cloud, glance: GlanceStore) -> None:
    spec, marker = cloud.spec(), str(uuid.uuid4())
    alice = cloud.connection(cloud.alice).session
    alice.post(
        f"{cloud.alice.endpoint_override}/v2/images",
        json={
            "id": spec.id,
            "name": "from-zun",
            "tags": ["z", "a", "m"],
            "container_format": "docker",
            "disk_format": "raw",
            "container_uuid": marker,
        },
    )
    glance.upload(spec.id, iter(CHUNKS))
    image = glance.describe(spec.id)
    assert (image.name, image.tag, image.visibility) == ("from-zun", "a", "shared")
    assert image.properties == {"container_uuid": marker, "container_format": "docker"}
    formats = {"container_uuid": marker, "container_format": "docker"}
    assert glance.find(image.owner, formats) == [image]
    assert glance.find(image.owner, {**formats, "container_format": "bare"}) == []


def test_a_deactivated_image_is_neither_found_nor_read(cloud: Cloud, glance: GlanceStore) -> None:
    """Whom Glance takes for an administrator it would give the data all the same."""
    alpha, wanted = cloud.project_id(cloud.alice), {"container_uuid": str(uuid.uuid4())}
    spec = cloud.spec(owner=alpha, **wanted)
    glance.reserve(spec)
    glance.upload(spec.id, iter(CHUNKS))
    actions = f"{cloud.service.endpoint_override}/v2/images/{spec.id}/actions"
    session = cloud.connection(cloud.service).session
    session.post(f"{actions}/deactivate")
    assert session.get(f"{actions.removesuffix('actions')}file").ok
    for store in (glance, cloud.store(cloud.alice), glance.acting_with(cloud.token(cloud.alice))):
        with pytest.raises(Refused, match="deactivated"), store.download(spec.id):
            pass
        assert store.find(alpha, wanted, statuses=list(ImageStatus)) == []
    assert glance.describe(spec.id).status is ImageStatus.ACTIVE
    session.post(f"{actions}/reactivate")
    with glance.download(spec.id) as chunks:
        assert b"".join(chunks) == DATA


# Images that were reserved beforehand


@pytest.mark.parametrize("formats", [{}, {"container_format": "bare", "disk_format": "raw"}])
def test_formats_that_an_image_lacks_are_ours(
    cloud: Cloud, glance: GlanceStore, formats: dict[str, str]
) -> None:
    spec = cloud.spec()
    cloud.connection(cloud.alice).session.post(
        f"{cloud.alice.endpoint_override}/v2/images", json={"id": spec.id, **formats}
    )
    glance.upload(spec.id, iter(CHUNKS))
    wanted = formats or {"container_format": "docker", "disk_format": "raw"}
    assert raw(cloud, spec.id).items() >= wanted.items()


def test_an_image_reserved_beforehand_gets_all_that_it_lacks(
    cloud: Cloud, agent: AgentProcess, container: Containers
) -> None:
    web = container(labels={"tier": "front"}, volumes=["/volume"])
    spec = cloud.spec()
    alice = cloud.connection(cloud.alice).session
    alice.post(
        f"{cloud.alice.endpoint_override}/v2/images",
        json={"id": spec.id, "name": "mine", "container_format": "docker"},
    )
    agent.start()
    alpha = cloud.project_id(cloud.alice)
    request_id = agent.request(
        web.name,
        Requester(alpha, "alice"),
        image_id=spec.id,
        tag="v7",
        stores=["glance"],
        metadata={"ticket": "4711"},
    )
    end = agent.witness.outcome(request_id)
    assert (end["fault"], end["image_id"]) == (None, spec.id)
    image = raw(cloud, spec.id)
    assert (image["status"], image["owner"], image["name"]) == ("active", alpha, "mine")
    assert (image["container_format"], image["disk_format"]) == ("docker", "raw")
    assert image["tags"] == ["v7"]
    assert (
        image.items()
        >= {
            "image_type": "snapshot",
            "instance_uuid": web.id,
            "base_image_ref": web.attrs["Image"],
            "user_id": "alice",
            "owner_id": alpha,
            "image_location": "snapshot",
            "image_state": "available",
            "container_name": web.name,
            "container_host": agent.host,
            "snapshot_request_id": request_id,
            "excluded_volumes": '["/volume"]',
            "container_labels": '{"tier": "front"}',
            "meta_ticket": "4711",
            "snapshot_sha256": end["stores"][0]["digest"].removeprefix("sha256:"),
        }.items()
    )
    assert image["engine_image_id"].startswith("sha256:")


class Script(BaseAdapter):
    """Stands where the network is, and gives answers one after another: status and document."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        super().__init__()
        self.answers = list(answers)

    def send(self, request: PreparedRequest, *args: object, **kwargs: object) -> Response:
        del args, kwargs
        response = Response()
        response.request, response.url = request, str(request.url)
        response.status_code, document = self.answers.pop(0)
        response._content = json.dumps(document).encode()
        return response

    def close(self) -> None:
        """Nothing is open."""


def scripted(*answers: tuple[int, dict[str, str]]) -> GlanceStore:
    """Return a store that gets these answers."""
    plain, address = requests.Session(), "http://glance.test"
    plain.mount(address, Script(*answers))
    session = Session(auth=NoAuth(endpoint=address), session=plain)
    return GlanceStore(Connection(session=session, image_endpoint_override=address))


def test_what_somebody_else_is_just_deleting_is_discarded() -> None:
    """Glance answers 400 to the second of two deletions, as it was seen to under load."""
    image_id = str(uuid.uuid4())
    scripted((400, {}), (200, {"id": image_id, "status": "deleted"})).discard(image_id)
    scripted((400, {}), (404, {})).discard(image_id)
    with pytest.raises(Refused, match="400"):
        scripted((400, {}), (200, {"id": image_id, "status": "active"})).discard(image_id)


@pytest.mark.parametrize("image_id", ["../../v3/users", "x", "", "%2e%2e"])
def test_what_is_no_id_never_reaches_glance(glance: GlanceStore, image_id: str) -> None:
    with pytest.raises(Invalid):
        glance.describe(image_id)
    with pytest.raises(Invalid):
        glance.discard(image_id)
    with pytest.raises(Invalid):
        glance.reserve(ImageSpec(image_id, "name", "tag", None))
