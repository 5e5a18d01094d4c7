"""The files of an image in a directory: written so that a crash leaves no half of one.

    image.json      what is known of the image, its status above all
    image.tar       the data, once all of it is there
    image.tar.part  the data as it comes in

A file is written aside, flushed to the disk and renamed. All goes through a descriptor of the
image's folder, so that an image which is discarded and reserved again in the meantime is never
mixed up with the one before.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from tintype.core.errors import ImageIdSpent, NotFound, Unavailable
from tintype.core.images import ImageStatus

CHUNK_BYTES = 512 * 1024
"""Size of the pieces a download comes in."""

DATA = "image.tar"
_RECORD = "image.json"
_PART = "image.tar.part"
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


def fill(folder: int, image_id: str, body: Iterable[bytes]) -> None:
    """Write the data of a queued image and make it active; see `ImageStore.upload` for errors.

    Another that fills it at the same time gets Unavailable.
    """
    with file_errors():
        _lock(folder, image_id)
        record = read_record(folder)
    if record.status != ImageStatus.QUEUED:
        raise ImageIdSpent(f"image {image_id} is {record.status} and takes no more data")
    try:
        size, sha512 = _write_part(folder, image_id, body)
        with file_errors():
            os.rename(_PART, DATA, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
            active = ImageStatus.ACTIVE.value
            write_record(folder, replace(record, status=active, size_bytes=size, sha512=sha512))
    finally:
        with file_errors(), suppress(FileNotFoundError):  # the space is worth more
            os.unlink(_PART, dir_fd=folder)


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
    with file_errors():
        # Unbuffered: a buffer would be flushed on the way out, and fail a second time.
        part = os.fdopen(_create(folder, _PART, os.O_TRUNC), "wb", buffering=0)
    with part:
        for chunk in body:
            digest.update(chunk)
            size += len(chunk)
            with file_errors():
                _write_all(part, chunk)
                if os.fstat(part.fileno()).st_nlink == 0:
                    raise NotFound(f"image {image_id} was deleted")
        with file_errors():
            os.fsync(part.fileno())
    return size, digest.hexdigest()


def _write_all(file: io.FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def read_record(folder: int) -> Record:
    """Return what is known of the image. Raises Unavailable for a record that is damaged."""
    with os.fdopen(os.open(_RECORD, os.O_RDONLY, dir_fd=folder), "rb") as file:
        try:
            return Record(**json.load(file))
        except (ValueError, TypeError) as error:
            raise Unavailable("an image's image.json cannot be read") from error


def write_record(folder: int, record: Record, *, only_new: bool = False) -> None:
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
def opened(path: Path) -> Iterator[int]:
    """Yield a descriptor of a folder."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


def sync_directory(path: Path) -> None:
    """Have the names in a folder on the disk."""
    with opened(path) as folder:
        os.fsync(folder)


def read_chunks(data: IO[bytes]) -> Iterator[bytes]:
    """Yield what is in a file."""
    while True:
        with file_errors():
            chunk = data.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextmanager
def file_errors() -> Iterator[None]:
    """Let errors of the file system out of the block as Tintype's own."""
    try:
        yield
    except FileNotFoundError as gone:
        raise NotFound("the image store knows no such image") from gone
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable("no space is left in the image directory") from error
        raise Unavailable(f"the image directory failed: {error.strerror}") from error
