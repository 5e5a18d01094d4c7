"""What every ImageStore does, run on the in-memory twin, the directory and real Glance."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tintype.adapters.directory import DirectoryStore
from tintype.adapters.memory_store import MemoryStore
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import (
    Cancelled,
    CorruptUpload,
    ImageIdSpent,
    Interrupted,
    NotFound,
    Unavailable,
)
from tintype.core.images import ImageSpec, ImageStatus, ImageStore

if TYPE_CHECKING:
    from tests.support.openstack import Cloud

CHUNKS = (b"first" * 1000, b"second" * 5000, b"last")
DATA = b"".join(CHUNKS)
MIB = 1024 * 1024


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
    owners: tuple[str, str] = ("alpha", "beta")
    """Two projects."""
    reserved: list[str] = field(default_factory=list)

    def spec(
        self, owner: str | None = None, visibility: str = "private", **properties: str
    ) -> ImageSpec:
        """Return a new image, to be deleted after the test."""
        image = ImageSpec(
            str(uuid.uuid4()),
            "web",
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
        eventually(lambda: self.store.upload(image_id, iter([b"data"])))
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
    glance = cloud.store()
    glance.page_images = 2  # so that pages are followed

    def tags(image_id: str) -> Sequence[str]:
        found: list[str] = session.get(f"{address}/v2/images/{image_id}").json()["tags"]
        return found

    return Case(glance, tags=tags, spends_ids=True, whole_seconds=True)


MAKERS = {"memory": in_memory, "directory": in_directory, "glance": in_glance}


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


def summary(data: bytes) -> ArchiveSummary:
    """Return what is known of an archive with this content."""
    return ArchiveSummary(
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        sha512=hashlib.sha512(data).hexdigest(),
        config_digest="sha256:" + "0" * 64,
        layers=(),
    )


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
    assert case.content(image.id) == DATA


def test_an_uploaded_image_is_active_and_whole(case: Case) -> None:
    stored = case.store.describe(case.filled())
    assert stored.status is ImageStatus.ACTIVE
    assert stored.size_bytes == len(DATA)
    assert stored.sha512 == hashlib.sha512(DATA).hexdigest()


def test_a_download_gives_the_same_bytes(case: Case) -> None:
    assert case.content(case.filled()) == DATA


def test_an_error_in_the_midst_of_a_download_comes_out_unchanged(case: Case) -> None:
    image_id, error = case.filled(), OSError("the reader's own")
    with pytest.raises(OSError, match="own") as raised, case.store.download(image_id):
        raise error
    assert raised.value is error


def test_complete_is_idempotent(case: Case) -> None:
    image_id, properties = case.filled(), {"image_state": "available", "a/b~c": "1"}
    done = case.store.complete(image_id, summary(DATA), properties)
    assert done.status is ImageStatus.ACTIVE
    assert done.location
    assert case.store.complete(image_id, summary(DATA), properties) == done


@pytest.mark.parametrize("tag", [None, "v1"])
def test_complete_leaves_what_the_image_has(case: Case, tag: str | None) -> None:
    wanted = series()
    image = case.spec(**wanted)
    case.store.reserve(image)
    case.store.upload(image.id, iter(CHUNKS))
    case.store.complete(image.id, summary(DATA), {"more": "1"}, tag=tag)
    assert case.tags(image.id) == ["v1"]
    assert case.found(**wanted, more="1") == [image.id]


def test_complete_adds_properties_and_tag_that_the_image_lacks(case: Case) -> None:
    image_id, wanted = case.filled(), series()
    done = case.store.complete(image_id, summary(DATA), wanted, tag="v2")
    assert "v2" in case.tags(image_id)
    assert case.store.complete(image_id, summary(DATA), wanted, tag="v2") == done
    assert case.tags(image_id).count("v2") == 1
    assert case.found(**wanted) == [image_id]


@pytest.mark.parametrize("other", [DATA[:-1], DATA[:-1] + b"x", b""], ids=["short", "bits", "none"])
def test_complete_refuses_other_bytes_than_were_sent(case: Case, other: bytes) -> None:
    image_id = case.reserve()
    case.store.upload(image_id, iter([other]))
    with pytest.raises(CorruptUpload):
        case.store.complete(image_id, summary(DATA), {})


def test_complete_refuses_an_image_without_data(case: Case) -> None:
    with pytest.raises(CorruptUpload):
        case.store.complete(case.reserve(), summary(DATA), {})


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
    assert case.content(image_id) == DATA


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
    assert case.content(image_id) == DATA


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
    assert case.content(image_id) == DATA


def test_a_big_upload_is_never_in_memory(case: Case) -> None:
    if not case.streams:
        assert isinstance(case.store, MemoryStore)
        return
    size, chunk = 64 * MIB, bytes(MIB // 2)

    def body() -> Iterable[bytes]:
        for _ in range(size // len(chunk)):
            yield bytes(chunk)

    image_id = case.reserve()
    tracemalloc.start()
    try:
        case.store.upload(image_id, body())
        with case.store.download(image_id) as chunks:
            assert sum(map(len, chunks)) == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
    assert case.store.describe(image_id).size_bytes == size


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
        case.store.complete(image_id, summary(DATA), {})
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
    assert case.store.complete(image.id, summary(DATA), {"a": "b"}).created_at == made


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
    case.store.complete(image_id, summary(DATA), wanted)
    assert case.found(**wanted) == [image_id]


@pytest.mark.parametrize("visibility", ["private", "shared", "community"])
def test_an_image_is_found_whoever_sees_it(case: Case, visibility: str) -> None:
    wanted = series()
    made = case.active(case.owners[0], visibility=visibility, **wanted)
    assert case.found(case.owners[0], **wanted) == [made]
    assert case.found(None, **wanted) == [made]


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


def test_nothing_is_found_in_an_empty_store(case: Case) -> None:
    assert case.found(**series()) == []


def test_it_answers(case: Case) -> None:
    case.store.check()
    assert case.store.name
