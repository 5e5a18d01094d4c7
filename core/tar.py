"""Tar read in one pass and constant memory, from chunks of any size.

`tarfile` is used for the header block only. Its stream mode takes an archive without end marker
for complete, ignores what stands behind the marker, buffers whatever size an extended header
claims, and hides the bytes as they stood, which have to be handed on unchanged.

Where readers of tar disagree the archive is refused, because the reader that counts is Docker's
(Go's archive/tar): sparse files, and global PAX headers that rename or resize later members.
"""

from __future__ import annotations

import copy
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tintype.core.errors import CorruptArchive

BLOCK = 512
"""Tar's unit, in bytes: headers are one block, data is padded to whole blocks."""
END_MARKER = bytes(2 * BLOCK)
"""What ends every complete archive."""
EXTENDED_LIMIT = 1 << 20
"""Largest PAX or GNU long name header that is read, in bytes."""
PATH_LIMIT = 4096
"""Longest member name and link target, in characters (Linux's PATH_MAX)."""

_LONG_FIELDS = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_EXTENDED_TYPES = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, *_LONG_FIELDS})
_FILE_TYPES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})
_DATALESS_TYPES = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE}
    | {tarfile.FIFOTYPE}
)
_SIZE = re.compile(r"[0-9]{1,18}")


class ByteSource:
    """Chunks of any size, taken in the sizes the reader wants."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._received = 0

    def take(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes in pieces; raise CorruptArchive when the stream is shorter.

        The pieces must be consumed before anything else is read.
        """
        while size:
            if not self._rest and not self._refill():
                raise CorruptArchive(f"the archive ends early, after {self._received} bytes")
            piece = self._rest[:size]
            self._rest = self._rest[len(piece) :]
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes in one piece; only for sizes that were checked."""
        data = bytearray()
        for piece in self.take(size):
            data += piece
        return bytes(data)

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, which are still to be read; only for sizes of a few blocks.

        Raises CorruptArchive when the stream is shorter.
        """
        if len(self._rest) < size:
            start = self.read(size)
            self._rest = memoryview(start + self._rest)
        return bytes(self._rest[:size])

    def expect_zeros(self) -> None:
        """Read to the end of the stream; raise CorruptArchive unless all of it is zero."""
        while self._rest or self._refill():
            if bytes(self._rest).count(0) != len(self._rest):
                raise CorruptArchive("there is data behind the archive's end marker")
            self._rest = memoryview(b"")

    def _refill(self) -> bool:
        """Fetch the next chunk that is not empty; False at the end of the stream."""
        for chunk in self._chunks:
            if chunk:
                self._rest = memoryview(chunk)
                self._received += len(chunk)
                return True
        return False


@dataclass(frozen=True, slots=True)
class Member:
    """One member's header. Its data and padding follow in the source, for the caller to take."""

    name: str
    """Path below the archive's root, normalised: no `./`, no `..`, no leading or trailing slash."""
    link: str | None
    """Target of a symbolic or hard link as such a path; None for everything else."""
    is_file: bool
    size: int
    """Data bytes that follow; 0 for all but regular files."""
    header: bytes
    """The header blocks as they stood, PAX and GNU long name headers included."""
    info: tarfile.TarInfo
    """The decoded last block of `header`."""

    @property
    def padding(self) -> int:
        """Bytes between the end of the data and the next header."""
        return padding(self.size)

    def resized_header(self, size: int) -> bytes:
        """Return a header for this member with `size` bytes of data.

        The header is made anew from the plain one: an extended header may state the old size.
        """
        return self._new_header(self.name, size, self.info.type)

    def header_as(self, name: str, size: int) -> bytes:
        """Return a header for a regular file of this name and size, for the rest like this one."""
        return self._new_header(name, size, tarfile.REGTYPE)

    def _new_header(self, name: str, size: int, kind: bytes) -> bytes:
        info = copy.copy(self.info)
        info.name, info.size, info.type = name, size, kind
        if kind == tarfile.REGTYPE:
            info.linkname = ""
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> int:
    """Return how many bytes fill the last block of `size` bytes of data."""
    return -size % BLOCK


def normalised(path: str) -> str:
    """Return `path` relative to the archive's root, which `..` does not leave."""
    return posixpath.normpath("/" + path.lstrip("/"))[1:]


def members(source: ByteSource) -> Iterator[Member]:
    """Yield the members of the archive and check that it is complete.

    The caller takes `size` and `padding` bytes from `source` before it asks for the next member.
    Ends only when the end marker was there and nothing but zeros behind it; else raises
    CorruptArchive, as for every header that is damaged or too large.
    """
    while (member := _next_member(source)) is not None:
        yield member
    source.expect_zeros()


def _next_member(source: ByteSource) -> Member | None:
    header = b""
    seen: set[bytes] = set()
    pax: dict[str, str] = {}
    long: dict[str, str] = {}
    while True:
        block = source.read(BLOCK)
        if not block.strip(b"\0"):
            if header or source.read(BLOCK).strip(b"\0"):
                raise CorruptArchive("the archive's end marker is damaged")
            return None
        info = _decoded(block)
        header += block
        if info.type not in _EXTENDED_TYPES:
            # Long names win over PAX, in whichever order they came: so it is in Go's reader.
            return _member(info, header, pax | long)
        if info.type in seen or (info.type == tarfile.XGLTYPE and seen):
            raise CorruptArchive("the archive has extended headers without a member")
        if info.size > EXTENDED_LIMIT:
            raise CorruptArchive(f"the archive has an extended header of {info.size} bytes")
        data = source.read(info.size + padding(info.size))
        header += data
        fields = _extended_fields(info.type, data[: info.size])
        if info.type == tarfile.XGLTYPE:
            if fields:
                raise CorruptArchive("the archive has a global header that changes its members")
            return Member("", None, is_file=False, size=0, header=header, info=info)
        seen.add(info.type)
        (pax if info.type == tarfile.XHDTYPE else long).update(fields)


def _decoded(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as exc:
        raise CorruptArchive(f"the archive has a damaged header: {exc}") from exc
    if info.size < 0:
        raise CorruptArchive(f"the archive has a member of {info.size} bytes")
    return info


def _member(info: tarfile.TarInfo, header: bytes, fields: dict[str, str]) -> Member:
    if info.type not in _FILE_TYPES | _DATALESS_TYPES:
        raise CorruptArchive(f"the archive has a member of unknown type {info.type!r}")
    path, target = fields.get("path", info.name), fields.get("linkpath", info.linkname)
    if max(len(path), len(target)) > PATH_LIMIT:
        raise CorruptArchive(f"the archive has a name longer than {PATH_LIMIT} characters")
    name = normalised(path)
    link = None
    if info.issym():
        link = normalised(posixpath.join(posixpath.dirname(name), target))
    elif info.islnk():
        link = normalised(target)
    is_file = info.type in _FILE_TYPES
    size = int(fields.get("size", info.size)) if is_file else 0
    return Member(name, link, is_file, size, header, info)


def _extended_fields(kind: bytes, data: bytes) -> dict[str, str]:
    """Return what an extended header says of path, linkpath and size."""
    if kind in _LONG_FIELDS:
        return {_LONG_FIELDS[kind]: _text(data.partition(b"\0")[0])}
    fields = {}
    for key, value in _pax_records(data):
        if key.startswith(b"GNU.sparse."):
            raise CorruptArchive("the archive has a sparse file")
        if key in (b"path", b"linkpath", b"size") and value:
            fields[key.decode()] = _text(value)
    if not _SIZE.fullmatch(fields.get("size", "0")) or "\0" in "".join(fields.values()):
        raise CorruptArchive("the archive has a damaged PAX header")
    return fields


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each record: `LENGTH KEY=VALUE` and a newline (POSIX, pax)."""
    start = 0
    while start < len(data):
        digits = data[start : start + 8].partition(b" ")[0]
        end = start + int(digits) if digits.isdigit() else start
        record = data[start + len(digits) + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(data) or not equals or not value.endswith(b"\n"):
            raise CorruptArchive("the archive has a damaged PAX header")
        yield key, value[:-1]
        start = end


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
