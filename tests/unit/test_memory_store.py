"""What the in-memory image store can be told to be, so that tests see what comes of it."""

from __future__ import annotations

import uuid

import pytest

from tintype.adapters.memory_store import MemoryStore
from tintype.core.errors import Refused, TooLarge
from tintype.core.images import VISIBILITIES, ImageSpec, ImageStatus


def spec(owner: str | None = "alpha", visibility: str = "private") -> ImageSpec:
    """Return a new image."""
    return ImageSpec(str(uuid.uuid4()), "web", "v1", owner, visibility)


def filled(store: MemoryStore, image: ImageSpec, size: int) -> None:
    """Put an image of this size, bytes, into the store."""
    store.reserve(image)
    store.upload(image.id, [bytes(size)])


def test_a_project_s_room_shrinks_with_what_it_stores() -> None:
    store = MemoryStore(room=100)
    first = spec()
    filled(store, first, 60)
    assert (store.room("alpha"), store.room("beta"), store.room(None)) == (40, 100, 100)
    second = spec()
    with pytest.raises(TooLarge, match="`memory`"):
        filled(store, second, 41)
    assert store.describe(second.id).status is ImageStatus.QUEUED
    filled(store, spec("beta"), 100)
    filled(store, second, 40)
    assert store.room("alpha") == 0
    store.discard(first.id)
    assert store.room("alpha") == 60


def test_without_a_quota_the_room_is_not_known() -> None:
    assert MemoryStore().room("alpha") is None


def test_a_store_may_know_fewer_visibilities() -> None:
    store = MemoryStore("attic", visibilities=frozenset({"private", "shared"}))
    store.reserve(spec(visibility="shared"))
    with pytest.raises(Refused, match=r"/visibility: .*`attic` can only be private, shared, not c"):
        store.reserve(spec(visibility="community"))
    assert MemoryStore().visibilities == VISIBILITIES


def test_a_failure_can_be_had_of_every_call() -> None:
    calls: list[str] = []
    store = MemoryStore(room=10, fail=calls.append)
    filled(store, spec(), 1)
    store.room("alpha")
    store.find(None, {})
    assert calls == ["reserve", "upload", "room", "find"]
