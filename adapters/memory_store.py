"""The image store's in-memory twin: behaves like Glance, and is gone with the process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from tintype.core.archive import ArchiveSummary
from tintype.core.errors import CorruptUpload, ImageIdSpent, NotFound
from tintype.core.images import ImageSpec, ImageStatus, StoredImage

CHUNK_BYTES = 512 * 1024
"""Size of the pieces a download comes in."""


@dataclass(slots=True)
class MemoryImage:
    """An image as the twin keeps it, for tests to look at."""

    spec: ImageSpec
    properties: dict[str, str]
    status: ImageStatus = ImageStatus.QUEUED
    data: bytes = field(default=b"", repr=False)
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())


class MemoryStore:
    """An `ImageStore` in memory. Like Glance it never takes a deleted image's id again."""

    def __init__(
        self, name: str = "memory", *, fail: Callable[[str], None] = lambda method: None
    ) -> None:
        """Take the store's name, and what is called first with every method's name.

        `fail` may raise, so that a test can see what becomes of a failure.
        """
        self.images: dict[str, MemoryImage] = {}
        self._name = name
        self._fail = fail
        self._spent: set[str] = set()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The store's name in requests and events."""
        return self._name

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; one with this id that is there already is returned."""
        self._fail("reserve")
        with self._lock:
            if image.id in self._spent:
                raise ImageIdSpent(f"image id {image.id} was used before and deleted")
            fresh = MemoryImage(image, dict(image.properties))
            return self._stored(self.images.setdefault(image.id, fresh))

    def describe(self, image_id: str) -> StoredImage:
        """Return the image. Raises NotFound when it was deleted."""
        self._fail("describe")
        return self._stored(self._image(image_id))

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Keep the data of a queued image."""
        self._fail("upload")
        with self._lock:
            image = self._image(image_id)
            if image.status is not ImageStatus.QUEUED:
                raise ImageIdSpent(f"image {image_id} is {image.status} and takes no more data")
            image.status = ImageStatus.SAVING
        status = ImageStatus.QUEUED
        try:
            image.data = b"".join(body)
            status = ImageStatus.ACTIVE
        finally:
            image.status = status
        self._image(image_id)

    def complete(
        self,
        image_id: str,
        sent: ArchiveSummary,
        properties: Mapping[str, str],
        *,
        tag: str | None = None,
    ) -> StoredImage:
        """Compare what is kept with what was sent and add properties and tag that it lacks."""
        self._fail("complete")
        image = self._image(image_id)
        stored = self._stored(image)
        if (stored.size_bytes, stored.sha512) != (sent.size_bytes, sent.sha512):
            raise CorruptUpload(f"image {image_id} holds other bytes than were sent")
        image.properties.update(properties)
        image.spec = replace(image.spec, tag=tag or image.spec.tag)
        return stored

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""
        self._fail("discard")
        with self._lock:
            if self.images.pop(image_id, None) is not None:
                self._spent.add(image_id)

    def find(self, owner: str | None, properties: Mapping[str, str]) -> Sequence[StoredImage]:
        """Return the active images of a project that have all these properties, newest first."""
        self._fail("find")
        with self._lock:
            images = reversed(self.images.values())  # of one moment the later one comes first
            found = [
                self._stored(image)
                for image in images
                if image.status is ImageStatus.ACTIVE
                and owner in (None, image.spec.owner)
                and properties.items() <= image.properties.items()
            ]
        return sorted(found, key=lambda image: image.created_at or "", reverse=True)

    @contextmanager
    def download(self, image_id: str) -> Iterator[Iterator[bytes]]:
        """Stream the data of an active image."""
        self._fail("download")
        image = self._image(image_id)
        if image.status is not ImageStatus.ACTIVE:
            raise NotFound(f"image {image_id} has no data")
        starts = range(0, len(image.data), CHUNK_BYTES)
        yield (image.data[start : start + CHUNK_BYTES] for start in starts)

    def check(self) -> None:
        """Memory always answers, unless it was told to fail."""
        self._fail("check")

    def close(self) -> None:
        """Nothing is held open."""

    def _image(self, image_id: str) -> MemoryImage:
        if image_id not in self.images:
            raise NotFound(f"there is no image {image_id}")
        return self.images[image_id]

    def _stored(self, image: MemoryImage) -> StoredImage:
        active = image.status is ImageStatus.ACTIVE
        return StoredImage(
            id=image.spec.id,
            status=image.status,
            location=f"{self._name}://{image.spec.id}",
            size_bytes=len(image.data) if active else None,
            sha512=hashlib.sha512(image.data).hexdigest() if active else None,
            owner=image.spec.owner,
            created_at=image.created_at,
        )
