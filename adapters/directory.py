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

import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tintype.core.archive import ArchiveSummary
from tintype.core.errors import CorruptUpload, ImageIdSpent, Invalid, NotFound, Unavailable
from tintype.core.events import is_uuid
from tintype.core.images import ImageSpec, ImageStatus, StoredImage

LOG = logging.getLogger(__name__)

CHUNK_BYTES = 512 * 1024
"""Size of the pieces a download comes in."""

_RECORD = "image.json"
_DATA = "image.tar"
_PART = "image.tar.part"
_DELETED = ".deleted-"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Record:
    """The content of an `image.json`: all that a restore needs to know of the image."""

    id: str
    name: str
    tag: str
    owner: str | None
    visibility: str
    properties: Mapping[str, str] = field(default_factory=dict)
    status: str = ImageStatus.QUEUED.value
    size_bytes: int | None = None
    sha512: str | None = None
    created_at: str | None = None
    """When it was reserved, ISO 8601, UTC; an image of an old release does not say."""


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

    def reserve(self, image: ImageSpec) -> StoredImage:
        """Create the image without data; one with this id that is there already is returned."""
        path = self._path(image.id)
        record = Record(
            id=image.id,
            name=image.name,
            tag=image.tag,
            owner=image.owner,
            visibility=image.visibility,
            properties=dict(image.properties),
            created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        with _file_errors():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(self._root)
            with _opened(path) as folder:
                _write_record(folder, record, only_new=True)
                return self._stored(_read_record(folder))

    def describe(self, image_id: str) -> StoredImage:
        """Return the image. Raises NotFound when it was deleted."""
        return self._stored(self.record(image_id))

    def record(self, image_id: str) -> Record:
        """Return all that is known of the image. Raises NotFound."""
        with _file_errors(), _opened(self._path(image_id)) as folder:
            return _read_record(folder)

    def upload(self, image_id: str, body: Iterable[bytes]) -> None:
        """Write the data of a queued image; Unavailable while another upload of it runs."""
        path = self._path(image_id)
        with _file_errors():
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # All goes through this descriptor, so that an image which is discarded and reserved
            # again in the meantime is never mixed up with this one. It also carries the lock.
            self._fill(folder, image_id, body)
            with _file_errors():
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
        with _file_errors(), _opened(self._path(image_id)) as folder:
            record = _read_record(folder)
            if (record.size_bytes, record.sha512) != (sent.size_bytes, sent.sha512):
                raise CorruptUpload(f"image {image_id} holds other bytes than were sent")
            record = replace(
                record, properties={**record.properties, **properties}, tag=tag or record.tag
            )
            _write_record(folder, record)
            return self._stored(record)

    def discard(self, image_id: str) -> None:
        """Delete the image whatever its status; none there is fine."""
        path = self._path(image_id)
        with _file_errors(), suppress(FileNotFoundError):
            path.rename(self._root / f"{_DELETED}{uuid.uuid4().hex}")  # gone at one stroke
            _sync_directory(self._root)
        # What an upload under way, or a crash, keeps from being removed goes with the next one.
        for deleted in self._root.glob(f"{_DELETED}*"):
            shutil.rmtree(deleted, ignore_errors=True)

    def find(self, owner: str | None, properties: Mapping[str, str]) -> Sequence[StoredImage]:
        """Return the active images of a project that have all these properties, newest first.

        One that cannot be read is left out, with a word in the log.
        """
        found = [
            self._stored(record)
            for record in self._records()
            if record.status == ImageStatus.ACTIVE
            and owner in (None, record.owner)
            and properties.items() <= record.properties.items()
        ]
        return sorted(found, key=lambda image: image.created_at or "", reverse=True)

    def _records(self) -> Iterator[Record]:
        with _file_errors():
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
        with _file_errors(), _opened(self._path(image_id)) as folder:
            if _read_record(folder).status != ImageStatus.ACTIVE:
                raise NotFound(f"image {image_id} has no data")
            data = os.fdopen(os.open(_DATA, os.O_RDONLY, dir_fd=folder), "rb")
        with data:
            yield _chunks(data)

    def check(self) -> None:
        """Raise Unavailable unless images can be written."""
        with _file_errors():
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

    def _fill(self, folder: int, image_id: str, body: Iterable[bytes]) -> None:
        with _file_errors():
            _lock(folder, image_id)
            record = _read_record(folder)
        if record.status != ImageStatus.QUEUED:
            raise ImageIdSpent(f"image {image_id} is {record.status} and takes no more data")
        try:
            size, sha512 = _write_part(folder, image_id, body)
            with _file_errors():
                os.rename(_PART, _DATA, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
                active = ImageStatus.ACTIVE.value
                _write_record(
                    folder, replace(record, status=active, size_bytes=size, sha512=sha512)
                )
        finally:
            with _file_errors(), suppress(FileNotFoundError):  # the space is worth more
                os.unlink(_PART, dir_fd=folder)

    def _stored(self, record: Record) -> StoredImage:
        return StoredImage(
            id=record.id,
            status=ImageStatus(record.status),
            location=(self._path(record.id) / _DATA).as_uri(),
            size_bytes=record.size_bytes,
            sha512=record.sha512,
            owner=record.owner,
            created_at=record.created_at,
        )


def _lock(folder: int, image_id: str) -> None:
    """Lock the image for as long as `folder` is open; the kernel lets go of it in a crash too."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as busy:
        raise Unavailable(f"another upload of image {image_id} is under way") from busy


def _write_part(folder: int, image_id: str, body: Iterable[bytes]) -> tuple[int, str]:
    """Write the data aside; return its size in bytes and its SHA-512 in hex."""
    digest = hashlib.sha512()
    size = 0
    with _file_errors():
        # Unbuffered: a buffer would be flushed on the way out, and fail a second time.
        part = os.fdopen(_create(folder, _PART, os.O_TRUNC), "wb", buffering=0)
    with part:
        for chunk in body:
            digest.update(chunk)
            size += len(chunk)
            with _file_errors():
                _write_all(part, chunk)
                if os.fstat(part.fileno()).st_nlink == 0:
                    raise NotFound(f"image {image_id} was deleted")
        with _file_errors():
            os.fsync(part.fileno())
    return size, digest.hexdigest()


def _write_all(file: io.FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _read_record(folder: int) -> Record:
    with os.fdopen(os.open(_RECORD, os.O_RDONLY, dir_fd=folder), "rb") as file:
        try:
            return Record(**json.load(file))
        except (ValueError, TypeError) as error:
            raise Unavailable("an image's image.json cannot be read") from error


def _write_record(folder: int, record: Record, *, only_new: bool = False) -> None:
    """Write `image.json` so that there is the old one or the new one, and never half of it."""
    aside = f".{_RECORD}.{uuid.uuid4().hex}"
    with os.fdopen(_create(folder, aside, os.O_EXCL), "w", encoding="ascii") as file:
        json.dump(asdict(record), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    if only_new:
        with suppress(FileExistsError):
            os.link(aside, _RECORD, src_dir_fd=folder, dst_dir_fd=folder)
        os.unlink(aside, dir_fd=folder)
    else:
        os.rename(aside, _RECORD, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _create(folder: int, name: str, flag: int) -> int:
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flag, 0o600, dir_fd=folder)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


def _sync_directory(path: Path) -> None:
    with _opened(path) as folder:
        os.fsync(folder)


def _chunks(data: IO[bytes]) -> Iterator[bytes]:
    while True:
        with _file_errors():
            chunk = data.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextmanager
def _file_errors() -> Iterator[None]:
    """Let errors of the file system out of the block as Tintype's own."""
    try:
        yield
    except FileNotFoundError as gone:
        raise NotFound("the image store knows no such image") from gone
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable("no space is left in the image directory") from error
        raise Unavailable(f"the image directory failed: {error.strerror}") from error
