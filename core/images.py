"""The port `ImageStore`: a place that keeps images, and what it says of them.

Methods raise only what `tintype.core.errors` names; `Unavailable` from any of them means that the
same call may be made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from tintype.core.archive import ArchiveSummary


class ImageStatus(StrEnum):
    """An image's status in Glance's words."""

    QUEUED = "queued"
    SAVING = "saving"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image as it is reserved, before it has data."""

    id: str
    name: str
    tag: str
    owner: str | None
    """Project that the image belongs to; None: the service's own."""
    visibility: str = "private"
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as a store has it."""

    id: str
    status: ImageStatus
    location: str
    size_bytes: int | None = None
    sha512: str | None = None
    owner: str | None = None
    """Project that it belongs to, where the store knows projects."""
    created_at: str | None = None
    """When it was reserved, ISO 8601, UTC."""


class ImageStore(Protocol):
    """A place that keeps images: `queued`, then `saving`, then `active`."""

    @property
    def name(self) -> str:
        """The store's name in requests and events."""

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; an image with this id that is there already is returned.

        Raises ImageIdSpent (deleted before, or stuck), TooLarge (quota), Refused, Unavailable.
        """

    def describe(self, image_id: str) -> StoredImage:
        """Return the image. Raises NotFound when it was deleted."""

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Send the data of a queued image, one chunk at a time.

        What `body` raises comes out as it is, and leaves no image that looks whole. Raises
        NotFound (deleted meanwhile), TooLarge, ImageIdSpent, Unavailable.
        """

    def complete(
        self,
        image_id: str,
        sent: ArchiveSummary,
        properties: Mapping[str, str],
        *,
        tag: str | None = None,
    ) -> StoredImage:
        """Compare what the store holds with what was sent and add what the image lacks.

        It may have been reserved by somebody who knew less of it. Idempotent. Raises
        CorruptUpload, NotFound, Unavailable.
        """

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""

    def find(self, owner: str | None, properties: Mapping[str, str]) -> Sequence[StoredImage]:
        """Return the active images of a project that have all these properties, newest first.

        None: whoever owns them. Raises Unavailable, Refused.
        """

    def download(self, image_id: str) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the data of an active image. Raises NotFound, Unavailable."""

    def check(self) -> None:
        """Raise Unavailable unless the store answers."""

    def close(self) -> None:
        """Release connections."""
