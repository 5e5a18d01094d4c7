"""The port `ImageStore`: a place that keeps images, and what it says of them.

Methods raise only what `tintype.core.errors` names; `Unavailable` from any of them means that the
same call may be made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


VISIBILITIES = frozenset({"private", "shared", "community"})
"""Who may see an image, in Glance's words."""


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
    name: str | None = None
    tag: str | None = None
    """Its first tag."""
    visibility: str = "private"
    properties: Mapping[str, str] = field(default_factory=dict)
    """What it was described with; a store may add properties of its own."""
    repository: str | None = None
    """Where in the store, if that has repositories."""
    digest: str | None = None
    """What the store itself calls the content: a registry's manifest digest, `sha256:...`; None:
    the store has no such name."""


class ImageStore(Protocol):
    """A place that keeps images: `queued`, then `saving`, then `active`."""

    @property
    def name(self) -> str:
        """The store's name in requests and events."""

    @property
    def visibilities(self) -> frozenset[str]:
        """The visibilities that an image can have here: some of VISIBILITIES."""

    def repository_for(self, image_name: str, wanted: str | None) -> str | None:
        """Return the repository that an image of this name goes to; None: there are none here.

        `wanted` is what the request asks for. Raises Invalid for one that cannot be, as in a store
        without repositories.
        """

    def at(self, repository: str | None) -> ImageStore:
        """Return this store as it is seen in one of its repositories; cheap, not to be closed."""

    def room(self, owner: str | None) -> int | None:
        """Return how many bytes a project may still store; None: no limit is known.

        Raises Unavailable.
        """

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

    def publish(self, image_id: str) -> None:
        """Let the image be found under its own tag, which until then means what it meant before.

        The same again is fine. Raises Refused where the tag is another's, NotFound, Unavailable.
        """

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""

    def find(
        self,
        owner: str | None,
        properties: Mapping[str, str],
        *,
        name: str | None = None,
        statuses: Collection[ImageStatus] = (ImageStatus.ACTIVE,),
    ) -> Sequence[StoredImage]:
        """Return the images of a project that have all these properties, newest first.

        Owner None: whoever owns them; name None: whatever they are called. Raises Unavailable,
        Refused.
        """

    def download(self, image_id: str) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the data of an active image. Raises NotFound, Unavailable."""

    def check(self) -> None:
        """Raise Unavailable unless the store answers."""

    def close(self) -> None:
        """Release connections."""
