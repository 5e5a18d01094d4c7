"""The image store's in-memory twin: behaves like Glance, and is gone with the process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from tintype.adapters.store_rules import require_no_repository, require_visibility, select
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import CorruptUpload, ImageIdSpent, NotFound, TooLarge
from tintype.core.images import VISIBILITIES, ImageSpec, ImageStatus, StoredImage

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
        self,
        name: str = "memory",
        *,
        visibilities: frozenset[str] = VISIBILITIES,
        room: int | None = None,
        fail: Callable[[str], None] = lambda method: None,
    ) -> None:
        """Take the store's name, the visibilities that it knows and every project's quota, bytes.

        `fail` is called first with every method's name and may raise, so that a test can see what
        becomes of a failure.
        """
        self.images: dict[str, MemoryImage] = {}
        self.published: list[str] = []
        """Images that `publish` was called with, in that order."""
        self._name = name
        self._visibilities = visibilities
        self._quota = room
        self._fail = fail
        self._spent: set[str] = set()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The store's name in requests and events."""
        return self._name

    @property
    def visibilities(self) -> frozenset[str]:
        """The visibilities that an image can have here."""
        return self._visibilities

    def repository_for(self, image_name: str, wanted: str | None) -> None:
        """Return None: there are no repositories here. Raises Invalid if one is wanted."""
        del image_name
        require_no_repository(self, wanted)

    def at(self, repository: str | None) -> MemoryStore:
        """Return this store; it has no repositories."""
        require_no_repository(self, repository)
        return self

    def room(self, owner: str | None) -> int | None:
        """Return what is left of a project's quota, bytes; None: there is no quota."""
        self._fail("room")
        return self._left(owner)

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; one with this id that is there already is returned.

        Raises Refused for a visibility that this store does not know.
        """
        self._fail("reserve")
        require_visibility(self, image)
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
        """Keep the data of a queued image. Raises TooLarge for more than the project has room."""
        self._fail("upload")
        with self._lock:
            image = self._image(image_id)
            if image.status is not ImageStatus.QUEUED:
                raise ImageIdSpent(f"image {image_id} is {image.status} and takes no more data")
            image.status = ImageStatus.SAVING
        status = ImageStatus.QUEUED
        try:
            data, room = b"".join(body), self._left(image.spec.owner)
            if room is not None and len(data) > room:
                raise TooLarge(f"the store `{self._name}` takes no more: a quota is reached")
            image.data, status = data, ImageStatus.ACTIVE
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
        return self._stored(image)

    def publish(self, image_id: str) -> None:
        """Note it for tests to see: tags are the images' own here, as in Glance."""
        self._fail("publish")
        with self._lock:
            self.published.append(image_id)

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""
        self._fail("discard")
        with self._lock:
            if self.images.pop(image_id, None) is not None:
                self._spent.add(image_id)

    def find(
        self,
        owner: str | None,
        properties: Mapping[str, str],
        *,
        name: str | None = None,
        statuses: Collection[ImageStatus] = (ImageStatus.ACTIVE,),
    ) -> Sequence[StoredImage]:
        """Return the images of a project that have all these properties, newest first."""
        self._fail("find")
        with self._lock:
            # Of one moment the later one comes first.
            images = [self._stored(image) for image in reversed(self.images.values())]
        return select(images, owner, properties, name=name, statuses=statuses)

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

    def _left(self, owner: str | None) -> int | None:
        if self._quota is None:
            return None
        own = (image for image in [*self.images.values()] if image.spec.owner == owner)
        return max(0, self._quota - sum(len(image.data) for image in own))

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
            name=image.spec.name,
            tag=image.spec.tag,
            visibility=image.spec.visibility,
            properties=dict(image.properties),
        )
