"""The image store in a container registry: Docker Hub, distribution, Harbor, any that speaks OCI.

    HOST/PATH:tintype-<image id>   a reservation, then the image, with all that is known of it
    HOST/PATH:<tag>                the same image under the user's tag, once it is published

A registry changes a tag at one stroke, and takes a manifest only when it has all its blobs. So
there is an image that waits or a whole one, and never half a one. Differences to Glance: there is
no status `saving`, nobody's quota is known, a deleted id may be reserved again, and who may see an
image is the registry's affair: `private` is all that can be asked for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from tintype.adapters.registry_access import RegistryAccess
from tintype.adapters.registry_api import RegistryApi
from tintype.adapters.registry_catalog import repositories
from tintype.adapters.registry_images import RegistryImages, check_tag
from tintype.adapters.registry_known import KnownLayers
from tintype.adapters.registry_repository import Repository
from tintype.adapters.registry_uploads import Uploads
from tintype.adapters.store_rules import require_visibility, select
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import NotFound, Refused, Unavailable
from tintype.core.images import ImageSpec, ImageStatus, StoredImage
from tintype.core.reference import Reference

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Shared:
    """What a store and all its views have in common."""

    access: RegistryAccess
    name: str
    known: KnownLayers = field(default_factory=KnownLayers)
    uploads: Uploads = field(default_factory=Uploads)
    apis: dict[str, RegistryApi] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def api(self, domain: str) -> RegistryApi:
        """Return the registry of this name."""
        with self.lock:
            if domain not in self.apis:
                self.apis[domain] = RegistryApi(domain, self.access)
            return self.apis[domain]

    def images(self, repository: Reference) -> RegistryImages:
        """Return what is in a repository."""
        api = self.api(repository.domain)
        return RegistryImages(Repository(api, repository), self.known, self.uploads)


class RegistryStore:
    """An `ImageStore` in registries. Threads may share it.

    As it is made it stands for all repositories in the registries that are allowed: an image is
    looked for in each that these list. Where one has no list, what is not found elsewhere may be
    there: Refused; `find` raises it only when none has. `at` gives the store for one repository,
    which needs no list.
    """

    def __init__(
        self,
        access: RegistryAccess | Shared,
        *,
        name: str = "registry",
        repository: Reference | None = None,
    ) -> None:
        """Take the operator's word, or what another view has; nothing is sent yet."""
        self._shared = access if isinstance(access, Shared) else Shared(access, name)
        self._repository = repository

    @property
    def name(self) -> str:
        """The store's name in requests and events."""
        return self._shared.name

    @property
    def visibilities(self) -> frozenset[str]:
        """Only what says nothing: who may pull is settled in the registry."""
        return frozenset({"private"})

    def repository_for(self, image_name: str, wanted: str | None) -> str:
        """Return the repository of an image in full. Raises Invalid."""
        return self._shared.access.repository_for(image_name, wanted).repository

    def at(self, repository: str | None) -> RegistryStore:
        """Return this store as it is seen in one repository. Raises Invalid."""
        if repository is None:
            return self
        return RegistryStore(self._shared, repository=self._shared.access.checked(repository))

    def room(self, owner: str | None) -> None:
        """Return None: no registry tells."""
        del owner

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; one with this id that is there already is returned.

        Raises Invalid for a tag that is another image's own, Refused for another visibility.
        """
        check_tag(image.tag)
        require_visibility(self, image)
        repository = self._repository or self._shared.access.repository_for(image.name, None)
        return self._shared.images(repository).reserve(image)

    def describe(self, image_id: str) -> StoredImage:
        """Return the image; `image_id` may also be a tag or digest of somebody else's.

        Raises NotFound when it was deleted.
        """
        return self._images(image_id).describe(image_id)

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Send the layers of a queued image; Unavailable while this process does so already.

        Raises CorruptArchive for what is no docker-archive.
        """
        self._images(image_id).upload(image_id, body)

    def complete(
        self,
        image_id: str,
        sent: ArchiveSummary,
        properties: Mapping[str, str],
        *,
        tag: str | None = None,
    ) -> StoredImage:
        """Make sure that the registry has every blob, and give the image properties and tags.

        What passed in the upload is compared with what was sent. The user's tag stays where it is.
        """
        return self._images(image_id).complete(image_id, sent, properties, tag)

    def publish(self, image_id: str) -> None:
        """Let the user's tag lead to the image. Raises Refused where it leads to another owner's.

        NotFound for an image without data.
        """
        self._images(image_id).publish(image_id)

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine.

        Raises Refused where the registry deletes nothing.
        """
        try:
            images = self._images(image_id)
        except NotFound:
            return
        images.discard(image_id)

    def find(
        self,
        owner: str | None,
        properties: Mapping[str, str],
        *,
        name: str | None = None,
        statuses: Collection[ImageStatus] = (ImageStatus.ACTIVE,),
    ) -> Sequence[StoredImage]:
        """Return the images of a project that have all these properties, newest first.

        One that cannot be read is left out, with a word in the log.
        """
        return select(self._all(), owner, properties, name=name, statuses=statuses)

    @contextmanager
    def download(self, image_id: str) -> Iterator[Iterator[bytes]]:
        """Stream the image as a docker-archive; `image_id` may also be a tag or digest.

        One of ours comes as it was sent. Raises NotRestorable for what is no container image.
        """
        with closing(_passed(self._images(image_id).download(image_id))) as chunks:
            yield chunks

    def check(self) -> None:
        """Raise Unavailable unless every registry answers and lets us in."""
        for domain in sorted({place.domain for place in self._shared.access.places}):
            try:
                self._shared.api(domain).check()
            except Refused as refused:
                raise Unavailable(str(refused)) from refused

    def close(self) -> None:
        """Release connections, unless they are another view's."""
        if self._repository is None:
            for api in self._shared.apis.values():
                api.close()

    def _images(self, image_id: str) -> RegistryImages:
        """Return the repository that has the image. Raises NotFound."""
        if self._repository is not None:
            return self._shared.images(self._repository)
        refusals: list[Refused] = []
        for images in self._everywhere(refusals):
            if images.has(image_id):
                return images
        if refusals:  # it may be there
            raise refusals[0]
        raise NotFound(f"no registry that is configured has an image {image_id}")

    def _all(self) -> Iterator[StoredImage]:
        """Yield the images in this view's repository, or in all that are listed.

        Raises Refused where none are; one place of several that cannot be read is left out, with a
        word in the log.
        """
        if self._repository is not None:
            yield from self._shared.images(self._repository).all()
            return
        refusals: list[Refused] = []
        for images in self._everywhere(refusals):
            yield from images.all()
        if len(refusals) == len(self._shared.access.places):
            raise refusals[0]

    def _everywhere(self, refusals: list[Refused]) -> Iterator[RegistryImages]:
        """Yield all repositories there are; why a place has no list of them goes to `refusals`."""
        seen: set[str] = set()
        for place in self._shared.access.places:
            try:
                for repository in repositories(self._shared.api(place.domain), place):
                    if repository.repository not in seen:
                        seen.add(repository.repository)
                        yield self._shared.images(repository)
            except Refused as refused:
                _LOG.warning("images at %s are not found: %s", place, refused)
                refusals.append(refused)


def _passed(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Pass chunks on; closing it closes the connections behind them."""
    yield from chunks
