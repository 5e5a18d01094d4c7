"""An image store in a directory, for hosts without Glance.

    <root>/<image id>/image.json      what is known of the image, its status above all
    <root>/<image id>/image.tar       the data, once all of it is there
    <root>/<image id>/image.tar.part  the data as it comes in
    <root>/.deleted-*                 discarded images on their way out

A file is written aside, flushed to the disk and renamed, and the data comes before the status that
speaks of it. So a crash at any point leaves an image that is `queued` or `active`, and never half a
one that looks whole. Only the owner can read any of it: images may hold secrets.

Two differences to Glance: there is no status `saving` (an image that is being filled is `queued`),
and a discarded image leaves no trace, so that its id may be reserved again.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tintype.adapters.directory_files import (
    DATA,
    Record,
    file_errors,
    fill,
    opened,
    read_chunks,
    read_record,
    sync_directory,
    write_record,
)
from tintype.adapters.store_rules import require_no_repository, require_visibility, select
from tintype.core.archive import ArchiveSummary
from tintype.core.errors import CorruptUpload, Invalid, NotFound, Unavailable
from tintype.core.events import is_uuid
from tintype.core.images import ImageSpec, ImageStatus, StoredImage

LOG = logging.getLogger(__name__)

_DELETED = ".deleted-"


class DirectoryStore:
    """An `ImageStore` in a local or mounted directory. Threads and processes may share it.

    A full disk, a used-up disk quota and any other failure of the file system raise Unavailable:
    they are the operator's to mend, and the request can wait for it.
    """

    def __init__(self, root: str | os.PathLike[str], *, name: str = "directory") -> None:
        """Take the directory; it is made when it is first needed."""
        self._root = Path(root).absolute()
        self._name = name

    @property
    def name(self) -> str:
        """The store's name in requests and events."""
        return self._name

    @property
    def visibilities(self) -> frozenset[str]:
        """Private alone: the files of one host are shown to nobody else."""
        return frozenset({"private"})

    def repository_for(self, image_name: str, wanted: str | None) -> None:
        """Return None: there are no repositories here. Raises Invalid if one is wanted."""
        del image_name
        require_no_repository(self, wanted)

    def at(self, repository: str | None) -> DirectoryStore:
        """Return this store; it has no repositories."""
        require_no_repository(self, repository)
        return self

    def room(self, owner: str | None) -> int:
        """Return how many bytes are free in the file system, for any project."""
        del owner
        place = next(path for path in (self._root, *self._root.parents) if path.exists())
        with file_errors():
            free = os.statvfs(place)
        return free.f_bavail * free.f_frsize

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; one with this id that is there already is returned.

        Raises Refused for an image that is not to be private.
        """
        path = self._path(image.id)
        require_visibility(self, image)
        record = Record(
            id=image.id,
            name=image.name,
            tag=image.tag,
            owner=image.owner,
            visibility=image.visibility,
            properties=dict(image.properties),
            created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        with file_errors():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(self._root)
            with opened(path) as folder:
                write_record(folder, record, only_new=True)
                return self._stored(read_record(folder))

    def describe(self, image_id: str) -> StoredImage:
        """Return the image. Raises NotFound when it was deleted."""
        return self._stored(self.record(image_id))

    def record(self, image_id: str) -> Record:
        """Return all that is known of the image. Raises NotFound."""
        with file_errors(), opened(self._path(image_id)) as folder:
            return read_record(folder)

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Write the data of a queued image; Unavailable while another upload of it runs."""
        path = self._path(image_id)
        with file_errors():
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # All goes through this descriptor, so that an image which is discarded and reserved
            # again in the meantime is never mixed up with this one. It also carries the lock.
            fill(folder, image_id, body)
            with file_errors():
                if not os.path.samestat(os.fstat(folder), path.stat()):
                    raise NotFound(f"image {image_id} was deleted")
        finally:
            os.close(folder)

    def complete(
        self,
        image_id: str,
        sent: ArchiveSummary,
        properties: Mapping[str, str],
        *,
        tag: str | None = None,
    ) -> StoredImage:
        """Compare what was written with what was sent and add properties and tag that it lacks."""
        with file_errors(), opened(self._path(image_id)) as folder:
            record = read_record(folder)
            if (record.size_bytes, record.sha512) != (sent.size_bytes, sent.sha512):
                raise CorruptUpload(f"image {image_id} holds other bytes than were sent")
            record = replace(
                record, properties={**record.properties, **properties}, tag=tag or record.tag
            )
            write_record(folder, record)
            return self._stored(record)

    def publish(self, image_id: str) -> None:
        """Do nothing: tags are the images' own here, and one takes none from another."""

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""
        path = self._path(image_id)
        with file_errors(), suppress(FileNotFoundError):
            path.rename(self._root / f"{_DELETED}{uuid.uuid4().hex}")  # gone at one stroke
            sync_directory(self._root)
        # What an upload under way, or a crash, keeps from being removed goes with the next one.
        for deleted in self._root.glob(f"{_DELETED}*"):
            shutil.rmtree(deleted, ignore_errors=True)

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
        images = map(self._stored, self._records())
        return select(images, owner, properties, name=name, statuses=statuses)

    def _records(self) -> Iterator[Record]:
        with file_errors():
            names = [path.name for path in self._root.iterdir()] if self._root.exists() else []
        for name in filter(is_uuid, names):
            try:
                yield self.record(name)
            except NotFound:
                continue  # deleted meanwhile, or not there yet
            except Unavailable as error:
                LOG.warning("image %s: %s", name, error)

    @contextmanager
    def download(self, image_id: str) -> Iterator[Iterator[bytes]]:
        """Stream the data of an active image."""
        with file_errors(), opened(self._path(image_id)) as folder:
            if read_record(folder).status != ImageStatus.ACTIVE:
                raise NotFound(f"image {image_id} has no data")
            data = os.fdopen(os.open(DATA, os.O_RDONLY, dir_fd=folder), "rb")
        with data:
            yield read_chunks(data)

    def check(self) -> None:
        """Raise Unavailable unless images can be written."""
        with file_errors():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise Unavailable(f"the image directory {self._root} cannot be written")

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, image_id: str) -> Path:
        """Return the image's folder; what is no UUID could lead out of the root."""
        if not is_uuid(image_id):
            raise Invalid("an image id must be a UUID")
        return self._root / image_id.lower()

    def _stored(self, record: Record) -> StoredImage:
        return StoredImage(
            id=record.id,
            status=ImageStatus(record.status),
            location=(self._path(record.id) / DATA).as_uri(),
            size_bytes=record.size_bytes,
            sha512=record.sha512,
            owner=record.owner,
            created_at=record.created_at,
            name=record.name,
            tag=record.tag,
            visibility=record.visibility,
            properties=record.properties,
        )
