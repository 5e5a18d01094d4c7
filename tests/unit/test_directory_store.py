"""What only a directory can get wrong: crashes, permissions, paths and full disks."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tintype.adapters.directory import DirectoryStore
from tintype.adapters.directory_files import Record
from tintype.core.errors import Invalid, NotFound, Refused, Unavailable
from tintype.core.images import ImageSpec, ImageStatus

KILLED_MIDWAY = """
import os, signal, sys
from tintype.adapters.directory import DirectoryStore

def body():
    yield b"x" * 1_000_000
    os.kill(os.getpid(), signal.SIGKILL)

DirectoryStore(sys.argv[1]).upload(sys.argv[2], body())
"""


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """A store in a directory that is not there yet."""
    return DirectoryStore(tmp_path / "deep" / "images")


def spec() -> ImageSpec:
    """Return a new image."""
    return ImageSpec(str(uuid.uuid4()), "web", "v1", "alpha", properties={"labels": '{"a": "ü"}'})


def files(store: DirectoryStore, image_id: str) -> set[str]:
    """Return the names in an image's folder."""
    return {path.name for path in folder(store, image_id).iterdir()}


def folder(store: DirectoryStore, image_id: str) -> Path:
    """Return an image's folder, by way of the location that events show."""
    return Path(store.describe(image_id).location.removeprefix("file://")).parent


def test_all_that_is_known_of_an_image_stands_beside_it(store: DirectoryStore) -> None:
    image = spec()
    store.reserve(image)
    store.upload(image.id, iter([b"data"]))
    stored = store.describe(image.id)
    assert files(store, image.id) == {"image.json", "image.tar"}
    document = json.loads((folder(store, image.id) / "image.json").read_text())
    assert (
        Record(**document)
        == store.record(image.id)
        == Record(
            id=image.id,
            name="web",
            tag="v1",
            owner="alpha",
            visibility="private",
            properties=image.properties,
            status="active",
            size_bytes=4,
            sha512=stored.sha512,
            created_at=stored.created_at,
        )
    )


def test_nobody_else_can_read_an_image(store: DirectoryStore) -> None:
    before = os.umask(0)
    try:
        image = spec()
        store.reserve(image)
        store.upload(image.id, iter([b"data"]))
    finally:
        os.umask(before)
    place = folder(store, image.id)
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    assert place.stat().st_mode & 0o777 == place.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("image_id", ["../escape", "..", "", "/etc/passwd", "x" * 36])
def test_what_is_no_uuid_is_no_path(store: DirectoryStore, image_id: str) -> None:
    with pytest.raises(Invalid):
        store.reserve(ImageSpec(image_id, "web", "v1", None))
    with pytest.raises(Invalid):
        store.discard(image_id)


def test_an_upload_that_is_killed_leaves_a_queued_image(store: DirectoryStore) -> None:
    image = spec()
    store.reserve(image)
    root = folder(store, image.id).parent
    child = subprocess.run(
        [sys.executable, "-c", KILLED_MIDWAY, root, image.id],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert files(store, image.id) == {"image.json", "image.tar.part"}
    assert store.describe(image.id).status is ImageStatus.QUEUED
    store.upload(image.id, iter([b"short"]))
    assert files(store, image.id) == {"image.json", "image.tar"}
    with store.download(image.id) as chunks:
        assert b"".join(chunks) == b"short"


def test_a_disk_that_is_full_makes_requests_wait(store: DirectoryStore) -> None:
    image = spec()
    store.reserve(image)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Unavailable, match="too large"):
            store.upload(image.id, (b"x" * 30_000 for _ in range(10)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(store, image.id) == {"image.json"}
    assert store.describe(image.id).status is ImageStatus.QUEUED


def test_an_upload_is_not_mixed_up_with_a_new_image_of_the_same_id(store: DirectoryStore) -> None:
    image = spec()
    store.reserve(image)

    def body() -> Iterator[bytes]:
        yield b"old"
        store.discard(image.id)
        store.reserve(image)

    with pytest.raises(NotFound):
        store.upload(image.id, body())
    assert store.describe(image.id).status is ImageStatus.QUEUED
    assert files(store, image.id) == {"image.json"}


def test_a_discarded_image_leaves_nothing(store: DirectoryStore) -> None:
    image = spec()
    store.reserve(image)
    root = folder(store, image.id).parent
    store.upload(image.id, iter([b"data"]))
    store.discard(image.id)
    assert list(root.iterdir()) == []


def test_a_damaged_record_is_said_to_be_one(store: DirectoryStore) -> None:
    image = spec()
    store.reserve(image)
    (folder(store, image.id) / "image.json").write_text("{")
    with pytest.raises(Unavailable, match=r"image\.json"):
        store.describe(image.id)


def test_the_room_is_what_the_file_system_has(store: DirectoryStore, tmp_path: Path) -> None:
    def free() -> int:
        figures = os.statvfs(tmp_path)
        return figures.f_bavail * figures.f_frsize

    least, room, most = free(), store.room("alpha"), free()  # others write there too
    assert min(least, most) - 2**30 < room < max(least, most) + 2**30
    assert not (tmp_path / "deep").exists(), "to look makes nothing"
    store.reserve(spec())
    assert store.room(None) > 0


def test_an_image_for_others_is_refused_before_anything_is_made(
    store: DirectoryStore, tmp_path: Path
) -> None:
    image = replace(spec(), visibility="shared")
    with pytest.raises(
        Refused, match=r"/visibility: .*`directory` can only be private, not shared"
    ):
        store.reserve(image)
    assert not (tmp_path / "deep").exists()


def test_a_root_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = DirectoryStore(tmp_path / "file" / "images")
    with pytest.raises(Unavailable):
        store.check()
    with pytest.raises(Unavailable):
        store.reserve(spec())
