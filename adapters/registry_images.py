"""The images in one repository: reserved, filled, verified, found, deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from tintype.adapters.registry_errors import LOST_BLOB
from tintype.adapters.registry_known import KnownLayers
from tintype.adapters.registry_manifest import (
    EMPTY,
    OCI_MANIFEST,
    Manifest,
    image,
    parsed,
    reservation,
)
from tintype.adapters.registry_pull import archive, resolve
from tintype.adapters.registry_push import Pushed, push
from tintype.adapters.registry_record import Record, id_of, tag_of
from tintype.adapters.registry_repository import Repository
from tintype.adapters.registry_uploads import Uploads, Watched
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import (
    CorruptDownload,
    CorruptUpload,
    ImageIdSpent,
    Invalid,
    NotFound,
    NotRestorable,
    Refused,
    Unavailable,
)
from tintype.core.events import is_uuid
from tintype.core.images import ImageSpec, ImageStatus, StoredImage
from tintype.core.reference import is_digest, is_tag

_LOG = logging.getLogger(__name__)


class RegistryImages:
    """What the store does in one repository; the methods are those of `ImageStore`."""

    def __init__(self, repository: Repository, known: KnownLayers, uploads: Uploads) -> None:
        """Take the repository, and what is known in the whole process."""
        self._repository = repository
        self._known = known
        self._uploads = uploads

    def has(self, image_id: str) -> bool:
        """Whether there is an image with this id, tag or digest."""
        return self._repository.digest(name_of(image_id)) is not None

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data, unless it is there. Raises Refused for another's tag."""
        if not is_uuid(image.id):
            raise Invalid("an image id must be a UUID")
        if not self.has(image.id):
            record = Record(
                id=image.id,
                name=image.name,
                tag=image.tag,
                owner=image.owner,
                visibility=image.visibility,
                created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
                properties=dict(image.properties),
            )
            self._check_free(image.tag, image.owner)
            self._repository.blobs.put(EMPTY)
            self._repository.put_manifest(tag_of(image.id), OCI_MANIFEST, reservation(record))
        return self.describe(image.id)

    def describe(self, image_id: str) -> StoredImage:
        """Return the image. Raises NotFound."""
        return self._stored(image_id, resolve(self._repository, name_of(image_id)))

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Send layers and configuration, and in the end what makes them an image."""
        with self._uploads.alone(self._repository.reference.repository, image_id):
            waiting, record = self._ours(image_id)
            if not waiting.waiting:
                raise ImageIdSpent(f"image {image_id} is active and takes no more data")
            pushed = self._push(waiting, image_id, Watched(body))
            self._require(waiting, image_id)
            self._finish(record, pushed, waiting.digest)
            self._forget(waiting.digest)

    def _push(self, waiting: Manifest, image_id: str, body: Watched) -> Pushed:
        try:
            return push(self._repository.blobs, self._known, body)
        except Unavailable:
            if not body.failed:
                self._require(waiting, image_id)  # that the image was deleted says more
            raise

    def _require(self, waiting: Manifest, image_id: str) -> None:
        """Raise unless the image still waits for its data as it did before."""
        found = self._repository.digest(tag_of(image_id))
        if found is None:
            raise NotFound(f"image {image_id} was deleted")
        if found != waiting.digest:
            raise ImageIdSpent(f"image {image_id} was filled by another upload")

    def _finish(self, record: Record, pushed: Pushed, waiting: str) -> None:
        whole = replace(record, size_bytes=pushed.size_bytes, sha512=pushed.sha512)
        outline = pushed.outline.annotations() if pushed.outline else {}
        body = image(whole, pushed.config, pushed.layers, outline, waiting)
        try:
            self._repository.put_manifest(tag_of(record.id), OCI_MANIFEST, body)
        except Unavailable as error:
            if LOST_BLOB in str(error):  # whatever it said when it was asked for them
                digests = {layer.digest for layer in pushed.layers}
                self._known.forget(self._repository.blobs, digests)
            raise

    def complete(
        self, image_id: str, sent: ArchiveSummary, properties: Mapping[str, str], tag: str | None
    ) -> StoredImage:
        """Verify what passed and every blob, then describe the image.

        The manifest that described it less well is deleted where the registry lets us: also one
        that a crash has left, for each manifest names the one that it replaces.
        """
        found, record = self._ours(image_id)
        if (record.size_bytes, record.sha512) != (sent.size_bytes, sent.sha512):
            raise CorruptUpload(f"image {image_id} holds other bytes than were sent")
        for blob in (found.config, *found.layers):
            if not self._repository.blobs.has(blob.digest, blob.size):
                raise CorruptUpload(f"image {image_id}: the registry has lost blob {blob.digest}")
        wanted = replace(
            record, properties={**record.properties, **properties}, tag=tag or record.tag
        )
        check_tag(wanted.tag)
        self._retire(found.replaces, found, record.tag)
        if wanted != record:
            body = image(wanted, found.config, found.layers, found.outline, found.digest)
            self._repository.put_manifest(tag_of(image_id), OCI_MANIFEST, body)
            better, _ = self._ours(image_id)
            self._retire(found.digest, better, record.tag)
        return self.describe(image_id)

    def publish(self, image_id: str) -> None:
        """Let the user's tag lead to the image. Raises Refused where it leads to another owner's.

        NotFound for an image without data.
        """
        found, record = self._ours(image_id)
        if found.waiting:
            raise NotFound(f"image {image_id} has no data")
        check_tag(record.tag)
        if self._repository.digest(record.tag) != found.digest:
            self._check_free(record.tag, record.owner)
            self._repository.put_manifest(record.tag, OCI_MANIFEST, found.raw)

    def discard(self, image_id: str) -> None:
        """Delete the image and all its tags. Raises Refused where nothing is deleted."""
        if not is_uuid(image_id):
            raise Invalid("an image id must be a UUID: what others have stored is not deleted")
        digest = self._repository.digest(tag_of(image_id))
        if digest is None:
            return
        with suppress(NotFound, NotRestorable, CorruptDownload):
            if replaced := parsed(self._repository.manifest(digest)).replaces:
                self._forget(replaced)
        self._repository.delete_manifest(digest)

    def all(self) -> Iterator[StoredImage]:
        """Yield the images of ours; one that cannot be read is left out, with a word in the log."""
        for image_id in filter(None, map(id_of, self._repository.tags())):
            try:
                yield self.describe(image_id)
            except NotFound:
                continue  # deleted meanwhile
            except (CorruptDownload, NotRestorable) as error:
                _LOG.warning("image %s: %s", image_id, error)

    def download(self, image_id: str) -> Iterator[bytes]:
        """Stream the image as a docker-archive. Raises NotFound for one without data."""
        found = resolve(self._repository, name_of(image_id))
        if found.waiting:
            raise NotFound(f"image {image_id} has no data")
        record = found.record
        tag = record.tag if record else image_id if is_tag(image_id) else "latest"
        return archive(self._repository, found, tag)

    def _ours(self, image_id: str) -> tuple[Manifest, Record]:
        """Return an image that Tintype has reserved."""
        if not is_uuid(image_id):
            raise Invalid("an image id must be a UUID")
        found = parsed(self._repository.manifest(tag_of(image_id)))
        record = found.record
        if record is None or record.id.lower() != image_id.lower():
            raise Refused(f"what is stored as {tag_of(image_id)} is no image of Tintype's")
        return found, record

    def _check_free(self, tag: str, owner: str | None) -> None:
        """Raise Refused for a tag that leads to an image of somebody else's."""
        try:
            record = parsed(self._repository.manifest(tag)).record
        except NotFound:
            return
        except (NotRestorable, CorruptDownload):  # a list of images, or what makes no sense
            record = None
        if record is None or record.owner != owner:
            raise Refused(
                f"/tag: {self._repository.reference.repository}:{tag} is an image of somebody"
                " else's; choose another tag or repository"
            )

    def _retire(self, digest: str | None, better: Manifest, tag: str) -> None:
        """Delete what a manifest has replaced; the user's tag, if it led there, goes along."""
        if digest is None or self._repository.digest(digest) is None:
            return
        if self._repository.digest(tag) == digest:
            self._repository.put_manifest(tag, OCI_MANIFEST, better.raw)
        self._forget(digest)

    def _forget(self, digest: str) -> None:
        """Delete a manifest that no tag leads to any more; where that fails it does no harm."""
        try:
            self._repository.delete_manifest(digest)
        except (Refused, Unavailable) as error:
            _LOG.info("a manifest that is no longer needed stays: %s", error)

    def _stored(self, image_id: str, found: Manifest) -> StoredImage:
        repository, record = self._repository.reference, found.record
        place = f"docker://{repository.repository}"
        if record is None:
            tag = image_id if is_tag(image_id) and not is_uuid(image_id) else None
            return StoredImage(
                id=image_id,
                status=ImageStatus.ACTIVE,
                location=f"{place}@{found.digest}",
                name=repository.path.rpartition("/")[2],
                tag=tag,
                repository=repository.repository,
                digest=found.digest,
            )
        return StoredImage(
            id=record.id,
            status=ImageStatus.QUEUED if found.waiting else ImageStatus.ACTIVE,
            location=f"{place}:{tag_of(record.id)}" if found.waiting else f"{place}@{found.digest}",
            # Without an outline other bytes come back than were sent, though of the same image.
            size_bytes=record.size_bytes if found.outline else None,
            sha512=record.sha512 if found.outline else None,
            owner=record.owner,
            created_at=record.created_at,
            name=record.name,
            tag=record.tag,
            visibility=record.visibility,
            properties=record.properties,
            repository=repository.repository,
            digest=None if found.waiting else found.digest,
        )


def check_tag(tag: str) -> None:
    """Raise Invalid for what is no tag, or one that belongs to another image."""
    if id_of(tag) or not is_tag(tag):
        raise Invalid.at("/tag", "a tag that is not `tintype-` and a UUID", repr(tag))


def name_of(image_id: str) -> str:
    """Return the tag or digest under which an image is found. Raises Invalid."""
    if is_uuid(image_id):
        return tag_of(image_id)
    if is_tag(image_id) or is_digest(image_id):
        return image_id
    raise Invalid("an image in a registry is named by a UUID, a tag or a digest")
