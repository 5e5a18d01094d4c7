"""What every ImageStore does, run on the twin, the directory, real Glance and real registries.

A further store is one more line in MAKERS: a function that returns its Case, which says in what it
differs from the others.
"""

from __future__ import annotations

import re
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.archives import classic, layer
from tests.support.openstack import BRIEF
from tintype.adapters.directory import DirectoryStore
from tintype.adapters.glance import GlanceStore
from tintype.adapters.glance_api import GlanceApi
from tintype.adapters.memory_store import MemoryStore
from tintype.core.archive import ArchiveStream, ArchiveSummary
from tintype.core.errors import (
    Cancelled,
    CorruptArchive,
    CorruptUpload,
    ImageIdSpent,
    Interrupted,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
)
from tintype.core.images import VISIBILITIES, ImageSpec, ImageStatus, ImageStore

if TYPE_CHECKING:
    from tests.support.openstack import Cloud
    from tests.support.registry import RealRegistry

MIB = 1024 * 1024


def archive(*contents: bytes) -> tuple[bytes, ArchiveSummary]:
    """Return an archive with one layer for each of these contents, as it would be sent."""
    layers = [layer({"content": content}) for content in contents]
    stream = ArchiveStream([classic(layers).to_bytes()], "web:v1")
    return b"".join(stream), stream.summary


DATA, SENT = archive(b"lower" * 5000, b"upper")
"""An image's data, and what its sender knows of it."""
CHUNKS = (DATA[:5000], DATA[5000:20000], DATA[20000:])


@dataclass
class Case:
    """A store under test, and in what stores may differ."""

    store: ImageStore
    tags: Callable[[str], Sequence[str]]
    """What tags an image has."""
    spends_ids: bool
    """A deleted image's id is never taken again."""
    streams: bool = True
    """Data is passed on as it comes; the twin cannot but keep it."""
    shows_saving: bool = True
    """An image that is being filled is `saving`; a directory calls it `queued`."""
    whole_seconds: bool = False
    """Images made within one second are of one moment."""
    keeps_bytes: bool = True
    """What comes down are the bytes that were sent."""
    reads_archives: bool = False
    """What is no whole archive is refused at once, and the image has a digest: a registry."""
    deletes: bool = True
    """A discarded image is gone; a registry may be one that deletes nothing."""
    shows_reserved: bool = True
    """An image without data is there for all to see; a registry has no place for one."""
    any_name: bool = True
    """An image may be called anything; a registry's repository may not."""
    repository: str | None = None
    """Where images named `web` go; None: the store has no repositories."""
    owners: tuple[str, str] = ("alpha", "beta")
    """Two projects."""
    reserved: list[str] = field(default_factory=list)

    def spec(
        self,
        owner: str | None = None,
        visibility: str = "private",
        name: str = "web",
        **properties: str,
    ) -> ImageSpec:
        """Return a new image, to be deleted after the test."""
        image = ImageSpec(
            str(uuid.uuid4()),
            name,
            "v1",
            owner,
            visibility,
            {"image_type": "snapshot", **properties},
        )
        self.reserved.append(image.id)
        return image

    def active(self, owner: str | None = None, **about: str) -> str:
        """Return the id of a new image with data and these properties."""
        image_id = self.store.reserve(self.spec(owner, **about)).id
        eventually(lambda: self.store.upload(image_id, iter(CHUNKS)))
        return image_id

    def found(self, owner: str | None = None, **properties: str) -> list[str]:
        """Return the ids of the images that are found."""
        return [image.id for image in self.store.find(owner, properties)]

    def reserve(self) -> str:
        """Reserve a new image and return its id."""
        return self.store.reserve(self.spec()).id

    def filled(self) -> str:
        """Return the id of a new image that holds DATA."""
        image_id = self.reserve()
        self.store.upload(image_id, iter(CHUNKS))
        return image_id

    def discard_in_upload(self, image_id: str) -> None:
        """Delete an image whose upload has just begun, once the store has noticed that."""
        deadline = time.monotonic() + 10
        while self.shows_saving and self.store.describe(image_id).status is ImageStatus.QUEUED:
            assert time.monotonic() < deadline, "the upload is not noticed"
            time.sleep(0.05)
        eventually(lambda: self.store.discard(image_id))

    def settled(self, image_id: str) -> ImageStatus:
        """Return the image's status once a broken upload has been noticed."""
        deadline = time.monotonic() + 10
        while (status := self.store.describe(image_id).status) is ImageStatus.SAVING:
            assert time.monotonic() < deadline, "the image stays in saving"
            time.sleep(0.05)
        return status

    def upload_again(self, image_id: str) -> None:
        """Upload DATA once more; as long as a broken upload is not noticed, that is Unavailable."""
        eventually(lambda: self.store.upload(image_id, iter(CHUNKS)))

    def content(self, image_id: str) -> bytes:
        """Return all of an image's data."""
        with self.store.download(image_id) as chunks:
            return b"".join(chunks)

    def holds_data(self, image_id: str) -> bool:
        """Say whether DATA comes down: the bytes, or what is the same image."""
        content = self.content(image_id)
        if self.keeps_bytes:
            return content == DATA
        again = ArchiveStream([content], "web:v1")
        assert all(again)
        found = again.summary
        return (found.config_digest, found.layers) == (SENT.config_digest, SENT.layers)


def in_memory(request: pytest.FixtureRequest, folder: Path) -> Case:
    """Return the twin."""
    del request, folder
    store = MemoryStore()
    return Case(
        store,
        tags=lambda image_id: [store.images[image_id].spec.tag],
        spends_ids=True,
        streams=False,
    )


def in_directory(request: pytest.FixtureRequest, folder: Path) -> Case:
    """Return a directory."""
    del request
    store = DirectoryStore(folder / "images")
    return Case(
        store,
        tags=lambda image_id: [store.record(image_id).tag],
        spends_ids=False,
        shows_saving=False,
    )


def in_glance(request: pytest.FixtureRequest, folder: Path) -> Case:
    """Return the stack's Glance."""
    del folder
    cloud: Cloud = request.getfixturevalue("cloud")
    session, address = cloud.connection(cloud.service).session, cloud.service.endpoint_override
    # Pages of two images, so that they are followed.
    glance = GlanceStore(GlanceApi(cloud.connection(cloud.service), patience=BRIEF, page_images=2))

    def tags(image_id: str) -> Sequence[str]:
        found: list[str] = session.get(f"{address}/v2/images/{image_id}").json()["tags"]
        return found

    return Case(glance, tags=tags, spends_ids=True, whole_seconds=True)


def in_plain_registry(request: pytest.FixtureRequest, folder: Path) -> Case:
    """Return a repository of the stack's registry without TLS."""
    del folder
    return in_registry(request.getfixturevalue("registry"))


def in_secure_registry(request: pytest.FixtureRequest, folder: Path) -> Case:
    """Return a repository of the stack's registry that has TLS and asks for a password."""
    del folder
    return in_registry(request.getfixturevalue("locked_registry"))


def in_registry(registry: RealRegistry) -> Case:
    """Return the repository of images named `web`."""
    store = registry.store()
    repository = store.repository_for("web", None)
    bound = store.at(repository)
    return Case(
        bound,
        tags=lambda image_id: [bound.describe(image_id).tag or ""],
        spends_ids=False,
        shows_saving=False,
        reads_archives=True,
        any_name=False,
        repository=repository,
    )


MAKERS = {
    "memory": in_memory,
    "directory": in_directory,
    "glance": in_glance,
    "registry": in_plain_registry,
    "secure-registry": in_secure_registry,
}


@pytest.fixture(params=MAKERS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Yield every store in turn; an absent Glance fails."""
    case = MAKERS[request.param](request, tmp_path)
    yield case
    for image_id in case.reserved:
        eventually(partial(case.store.discard, image_id))
    case.store.close()


def eventually(call: Callable[[], None]) -> None:
    """Make a call until it is no longer Unavailable, as the port says one may."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_a_reserved_image_is_queued(case: Case) -> None:
    image = case.spec()
    stored = case.store.reserve(image)
    assert (stored.id, stored.status) == (image.id, ImageStatus.QUEUED)
    assert (stored.size_bytes, stored.sha512) == (None, None)
    assert case.store.describe(image.id) == stored


def test_reserving_again_returns_the_image_whatever_its_status(case: Case) -> None:
    image = case.spec()
    assert case.store.reserve(image) == case.store.reserve(image)
    case.store.upload(image.id, iter(CHUNKS))
    assert case.store.reserve(image).status is ImageStatus.ACTIVE
    assert case.holds_data(image.id)


def test_an_uploaded_image_is_active_and_whole(case: Case) -> None:
    stored = case.store.describe(case.filled())
    assert stored.status is ImageStatus.ACTIVE
    if case.keeps_bytes:
        assert (stored.size_bytes, stored.sha512) == (SENT.size_bytes, SENT.sha512)
    else:
        assert stored.sha512 is None
    if not case.reads_archives:
        assert stored.digest is None
    else:
        assert re.fullmatch("sha256:[0-9a-f]{64}", stored.digest or "")


def test_a_download_gives_what_was_sent(case: Case) -> None:
    assert case.holds_data(case.filled())


def test_an_error_in_the_midst_of_a_download_comes_out_unchanged(case: Case) -> None:
    image_id, error = case.filled(), OSError("the reader's own")
    with pytest.raises(OSError, match="own") as raised, case.store.download(image_id):
        raise error
    assert raised.value is error


def test_complete_is_idempotent(case: Case) -> None:
    image_id, properties = case.filled(), {"image_state": "available", "a/b~c": "1"}
    done = case.store.complete(image_id, SENT, properties)
    assert done.status is ImageStatus.ACTIVE
    assert done.location
    assert case.store.complete(image_id, SENT, properties) == done


def test_what_an_image_is_described_with_is_told(case: Case) -> None:
    image = case.spec(case.owners[0], "private", container_labels='{"a": "\u00fc"}', empty="")
    case.store.reserve(image)
    case.store.upload(image.id, iter(CHUNKS))
    done = case.store.complete(image.id, SENT, {"image_state": "available", "a/b~c": "odd"})
    assert (done.name, done.tag, done.visibility) == ("web", "v1", "private")
    assert done.owner == case.owners[0]
    added = {"image_state": "available", "a/b~c": "odd"}
    assert done.properties.items() >= {**image.properties, **added}.items()
    assert not {"id", "name", "status", "size", "tags", "owner"} & done.properties.keys()
    assert case.store.describe(image.id) == done


@pytest.mark.parametrize("tag", [None, "v1"])
def test_complete_leaves_what_the_image_has(case: Case, tag: str | None) -> None:
    wanted = series()
    image = case.spec(**wanted)
    case.store.reserve(image)
    case.store.upload(image.id, iter(CHUNKS))
    case.store.complete(image.id, SENT, {"more": "1"}, tag=tag)
    assert case.tags(image.id) == ["v1"]
    assert case.found(**wanted, more="1") == [image.id]


def test_complete_adds_properties_and_tag_that_the_image_lacks(case: Case) -> None:
    image_id, wanted = case.filled(), series()
    done = case.store.complete(image_id, SENT, wanted, tag="v2")
    assert "v2" in case.tags(image_id)
    assert done.tag in case.tags(image_id)
    assert done.properties.items() >= wanted.items()
    assert case.store.complete(image_id, SENT, wanted, tag="v2") == done
    assert case.tags(image_id).count("v2") == 1
    assert case.found(**wanted) == [image_id]


def test_an_image_is_published_under_its_tag_and_not_before(case: Case) -> None:
    image_id = case.filled()
    done = case.store.complete(image_id, SENT, {"image_state": "available"})
    if case.repository is not None:  # elsewhere a tag is the image's own, and names nothing
        with pytest.raises(NotFound):
            case.store.describe("v1")
    for _ in range(2):
        case.store.publish(image_id)
        assert case.store.describe(image_id) == done
        assert case.tags(image_id) == ["v1"]
        if case.repository is not None:
            assert case.store.describe("v1") == done


def test_complete_refuses_another_image_than_was_sent(case: Case) -> None:
    image_id, (other, _) = case.reserve(), archive(b"other")
    case.store.upload(image_id, iter([other]))
    with pytest.raises(CorruptUpload):
        case.store.complete(image_id, SENT, {})


@pytest.mark.parametrize("other", [DATA[:-1], DATA[:-1] + b"x", b""], ids=["short", "bits", "none"])
def test_data_that_is_damaged_is_found_out_at_the_end(case: Case, other: bytes) -> None:
    """Where bytes are kept. A store that reads the archive will not have it in the first place."""
    image_id = case.reserve()

    def send() -> None:
        case.store.upload(image_id, iter([other]))
        case.store.complete(image_id, SENT, {})

    with pytest.raises(CorruptArchive if case.reads_archives else CorruptUpload):
        send()


def test_complete_refuses_an_image_without_data(case: Case) -> None:
    with pytest.raises(CorruptUpload):
        case.store.complete(case.reserve(), SENT, {})


FAILURES = [
    ValueError("bad archive"),
    OSError("disk"),
    BrokenPipeError("engine went away"),
    ConnectionResetError("engine was reset"),
    TimeoutError("engine is slow"),
    Cancelled("asked to stop"),
    Interrupted("the service stops"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("sent", [0, 2], ids=["at once", "midway"])
def test_what_the_body_raises_comes_out_and_leaves_no_image(
    case: Case, failure: BaseException, sent: int
) -> None:
    def body() -> Iterator[bytes]:
        yield from CHUNKS[:sent]
        raise failure

    image_id = case.reserve()
    with pytest.raises(type(failure)) as raised:
        case.store.upload(image_id, body())
    assert raised.value is failure
    assert case.settled(image_id) is ImageStatus.QUEUED
    case.upload_again(image_id)
    assert case.holds_data(image_id)


def test_an_image_deleted_in_the_upload_is_not_found(case: Case) -> None:
    image_id = case.reserve()

    def body() -> Iterator[bytes]:
        yield from CHUNKS
        case.discard_in_upload(image_id)
        yield from CHUNKS

    with pytest.raises(NotFound):
        case.store.upload(image_id, body())
    with pytest.raises(NotFound):
        case.store.describe(image_id)


def test_the_body_may_look_at_its_own_image(case: Case) -> None:
    image_id = case.reserve()
    seen: list[ImageStatus] = []

    def body() -> Iterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
            seen.append(case.store.describe(image_id).status)

    case.store.upload(image_id, body())
    assert len(seen) == len(CHUNKS)
    assert set(seen) <= {ImageStatus.QUEUED, ImageStatus.SAVING}


def test_an_active_image_takes_no_data(case: Case) -> None:
    image_id = case.filled()
    with pytest.raises(ImageIdSpent):
        case.store.upload(image_id, iter([b"other"]))
    assert case.holds_data(image_id)


def test_of_two_uploads_at_once_one_wins(case: Case) -> None:
    image_id = case.reserve()
    under_way, over = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield CHUNKS[0]
        under_way.set()
        assert over.wait(30)
        yield from CHUNKS[1:]

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(case.store.upload, image_id, body())
        assert under_way.wait(30)
        try:
            with pytest.raises((ImageIdSpent, Unavailable)):
                case.store.upload(image_id, iter([b"other"]))
        finally:
            over.set()
        first.result()
    assert case.holds_data(image_id)


def test_a_big_upload_is_never_in_memory(case: Case) -> None:
    if not case.streams:
        assert isinstance(case.store, MemoryStore)
        return
    data, sent = archive(bytes(64 * MIB))

    def body() -> Iterator[bytes]:
        for start in range(0, len(data), MIB // 2):
            yield data[start : start + MIB // 2]

    image_id = case.reserve()
    tracemalloc.start()
    try:
        case.store.upload(image_id, body())
        with case.store.download(image_id) as chunks:
            assert sum(map(len, chunks)) >= 64 * MIB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
    assert case.store.complete(image_id, sent, {}).status is ImageStatus.ACTIVE


def test_discarding_twice_is_fine(case: Case) -> None:
    for image_id in (case.reserve(), case.filled()):
        case.store.discard(image_id)
        case.store.discard(image_id)
        with pytest.raises(NotFound):
            case.store.describe(image_id)


def test_an_image_can_be_discarded_in_the_midst_of_its_upload(case: Case) -> None:
    image_id = case.reserve()

    def body() -> Iterator[bytes]:
        yield CHUNKS[0]
        case.discard_in_upload(image_id)
        raise Cancelled("its image was deleted")

    with pytest.raises(Cancelled):
        case.store.upload(image_id, body())
    with pytest.raises(NotFound):
        case.store.describe(image_id)


def test_a_deleted_id_is_spent_or_free_but_never_the_old_image(case: Case) -> None:
    image = case.spec()
    case.store.reserve(image)
    case.store.upload(image.id, iter(CHUNKS))
    case.store.discard(image.id)
    if case.spends_ids:
        with pytest.raises(ImageIdSpent):
            case.store.reserve(image)
    else:
        assert case.store.reserve(image).status is ImageStatus.QUEUED


def test_what_is_not_there_is_not_found(case: Case) -> None:
    image_id = str(uuid.uuid4())
    case.store.discard(image_id)
    with pytest.raises(NotFound):
        case.store.describe(image_id)
    with pytest.raises(NotFound):
        case.store.upload(image_id, iter(CHUNKS))
    with pytest.raises(NotFound):
        case.store.complete(image_id, SENT, {})
    with pytest.raises(NotFound), case.store.download(image_id):
        pass


def test_a_queued_image_has_nothing_to_download(case: Case) -> None:
    with pytest.raises(NotFound), case.store.download(case.reserve()):
        pass


# Finding


def series() -> dict[str, str]:
    """Return properties that no other test's images have."""
    return {"container_uuid": str(uuid.uuid4()), "backup_type": "nightly"}


def test_all_images_of_a_series_are_found_as_they_are(case: Case) -> None:
    wanted = series()
    made = [case.active(**wanted) for _ in range(5)]
    found = case.store.find(None, wanted)
    assert sorted(image.id for image in found) == sorted(made)
    assert found[0] == case.store.describe(found[0].id)
    assert all(image.status is ImageStatus.ACTIVE for image in found)


def test_the_newest_is_found_first(case: Case) -> None:
    wanted = series()
    made: list[str] = []
    for _ in range(3):
        made.insert(0, case.active(**wanted))
        before = case.store.describe(made[0]).created_at
        assert before is not None
        if case.whole_seconds:
            time.sleep(1.01)
    assert case.found(**wanted) == made
    moments = [image.created_at or "" for image in case.store.find(None, wanted)]
    assert all(later > earlier for later, earlier in pairwise(moments))


def test_an_image_keeps_the_moment_at_which_it_was_made(case: Case) -> None:
    image = case.spec()
    made = case.store.reserve(image).created_at
    assert made is not None
    moment = datetime.fromisoformat(made)
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - moment) < timedelta(hours=1)
    case.store.upload(image.id, iter(CHUNKS))
    assert case.store.complete(image.id, SENT, {"a": "b"}).created_at == made


def test_only_images_with_data_and_all_the_properties_are_found(case: Case) -> None:
    wanted = series()
    made = case.active(**wanted, more="than asked for")
    case.active(**{**wanted, "backup_type": "weekly"})
    case.active(**{**wanted, "backup_type": "Nightly"})
    case.active(container_uuid=wanted["container_uuid"])
    case.store.reserve(case.spec(**wanted))
    assert case.found(**wanted) == [made]
    case.store.discard(made)
    assert case.found(**wanted) == []


def test_a_property_added_at_the_end_is_found(case: Case) -> None:
    wanted = series()
    image_id = case.filled()
    case.store.complete(image_id, SENT, wanted)
    assert case.found(**wanted) == [image_id]


@pytest.mark.parametrize("visibility", sorted(VISIBILITIES))
def test_an_image_is_found_whoever_sees_it(case: Case, visibility: str) -> None:
    wanted = series()
    if visibility not in case.store.visibilities:
        image = case.spec(visibility=visibility)
        with pytest.raises(Refused, match=f"/visibility.*{visibility}"):
            case.store.reserve(image)
        with pytest.raises(NotFound):
            case.store.describe(image.id)
        return
    made = case.active(case.owners[0], visibility=visibility, **wanted)
    assert case.found(case.owners[0], **wanted) == [made]
    assert case.found(None, **wanted) == [made]
    assert case.store.describe(made).visibility == visibility


def test_only_the_projects_own_images_are_found(case: Case) -> None:
    wanted = series()
    one, two = (case.active(owner, **wanted) for owner in case.owners)
    assert case.found(case.owners[0], **wanted) == [one]
    assert sorted(case.found(None, **wanted)) == sorted([one, two])
    assert case.found("nobody", **wanted) == []
    assert {image.owner for image in case.store.find(None, wanted)} == set(case.owners)


@pytest.mark.parametrize("text", ["in:a,b", "eq:x", "", "%", "a&limit=1", "gt:5", "\u00e9"])
def test_a_property_is_what_it_is_and_no_pattern(case: Case, text: str) -> None:
    wanted = {**series(), "backup_type": text}
    case.active(**{**wanted, "backup_type": "a"})
    made = case.active(**wanted)
    assert case.found(**wanted) == [made]


@pytest.mark.parametrize(
    "name", ["in:a,b", "eq:x", "neq:x", "", "a,b", 'say "a","b"', "%", "back\\slash", "\u00e9"]
)
def test_a_name_is_what_it_is_and_no_pattern(case: Case, name: str) -> None:
    if not case.any_name:
        assert case.repository, "only a repository's name is bound by rules"
        return
    wanted = series()
    case.active(**wanted, name="a")
    case.active(name=name)
    made = case.active(**wanted, name=name)
    assert [image.id for image in case.store.find(None, wanted, name=name)] == [made]


def test_images_are_found_by_name_and_without(case: Case) -> None:
    wanted = series()
    web, database = (case.active(**wanted, name=name) for name in ("web", "database"))
    assert [image.id for image in case.store.find(None, wanted, name="web")] == [web]
    assert [image.name for image in case.store.find(None, wanted, name="database")] == ["database"]
    assert case.store.find(None, wanted, name="we") == []
    assert case.store.find(None, {}, name="x" * 60) == []
    if case.repository is None:
        assert sorted(case.found(**wanted)) == sorted([web, database])


def test_images_are_found_by_their_statuses(case: Case) -> None:
    wanted = series()
    active, queued = case.active(**wanted), case.store.reserve(case.spec(**wanted)).id

    def found(*statuses: ImageStatus) -> list[str]:
        return sorted(image.id for image in case.store.find(None, wanted, statuses=statuses))

    without_data = [queued] if case.shows_reserved else []
    assert found(ImageStatus.QUEUED) == without_data
    assert found(ImageStatus.QUEUED, ImageStatus.SAVING) == without_data
    assert found(*ImageStatus) == sorted([active, *without_data])
    assert found(ImageStatus.ACTIVE) == [active]
    assert found(ImageStatus.SAVING) == found() == []


def test_an_image_that_is_being_filled_is_found_as_one_without_data(case: Case) -> None:
    wanted = series()
    image = case.spec(**wanted)
    case.store.reserve(image)
    seen: list[str] = []

    def body() -> Iterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
            statuses = (ImageStatus.QUEUED, ImageStatus.SAVING)
            seen.extend(each.id for each in case.store.find(None, wanted, statuses=statuses))
            assert case.found(**wanted) == []

    case.store.upload(image.id, body())
    assert seen == ([image.id] * len(CHUNKS) if case.shows_reserved else [])


def test_nothing_is_found_in_an_empty_store(case: Case) -> None:
    assert case.found(**series()) == []


def test_it_answers(case: Case) -> None:
    case.store.check()
    assert case.store.name


# Repositories and room


def test_a_repository_is_where_images_go_or_invalid(case: Case) -> None:
    assert case.store.repository_for("web", None) == case.repository
    if case.repository is None:
        for ask in (case.store.at, lambda wanted: case.store.repository_for("web", wanted)):
            with pytest.raises(
                Invalid, match=r"/repository: .*no repositories.*elsewhere"
            ) as raised:
                ask("elsewhere")
            assert [each.pointer for each in raised.value.violations] == ["/repository"]
    image_id = case.filled()
    again = case.store.at(case.repository)
    assert again.describe(image_id) == case.store.describe(image_id)
    assert again.name == case.store.name


def test_the_room_for_a_project_is_a_number_of_bytes_or_not_known(case: Case) -> None:
    for owner in (None, *case.owners):
        room = case.store.room(owner)
        assert room is None or room > MIB
