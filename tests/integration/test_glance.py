"""The Glance store on the real thing: whose images they are, and what bad credentials do."""

from __future__ import annotations

import hashlib
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from keystoneauth1.identity import Password
from keystoneauth1.session import Session
from openstack.connection import Connection

from tintype.adapters.glance import GlanceStore
from tintype.adapters.openstack_access import GlanceSettings
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import (
    CorruptUpload,
    Forbidden,
    ImageIdSpent,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from tintype.core.ports import ImageSpec, ImageStatus

if TYPE_CHECKING:
    from tests.support.openstack import Cloud

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
    alpha = project(cloud, cloud.alice)
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


def project(cloud: Cloud, person: GlanceSettings) -> str:
    """Return the id of somebody's project."""
    return str(cloud.connection(person).session.get_project_id())


def test_the_image_is_as_the_contract_says(cloud: Cloud, glance: GlanceStore) -> None:
    alpha = project(cloud, cloud.alice)
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
        cloud.store(cloud.alice).reserve(cloud.spec(owner=project(cloud, cloud.bob)))


@pytest.mark.parametrize("image_id", ["../../v3/users", "x", "", "%2e%2e"])
def test_what_is_no_id_never_reaches_glance(glance: GlanceStore, image_id: str) -> None:
    with pytest.raises(Invalid):
        glance.describe(image_id)
    with pytest.raises(Invalid):
        glance.discard(image_id)
    with pytest.raises(Invalid):
        glance.reserve(ImageSpec(image_id, "name", "tag", None))
