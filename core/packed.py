"""Archives as they come from elsewhere: unpacked, and compared with what their store says.

`docker load` takes archives that were compressed as a whole (`docker save | gzip`), so a restore
does too. Nothing is held but one piece, however much a few bytes unpack to.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Protocol

from tintype.core.errors import CorruptArchive, CorruptDownload

PIECE_LIMIT = 1 << 20
"""Largest piece that comes out of a compressed archive, in bytes."""
XZ_MEMORY_LIMIT = 128 << 20
"""Memory that unpacking xz may take, in bytes: `xz -9` needs 65 MiB, a header may ask for 4 GiB."""


class Decompressor(Protocol):
    """One compressed stream, with the interface of bz2 and lzma."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed stream was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out before more is put in."""

    @property
    def unused_data(self) -> bytes:
        """What was put in behind the end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Put `data` in, and return what comes out, up to `max_length` bytes."""


class _Gunzip:
    """zlib's decompressor as a `Decompressor`."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        # While there is more to come, the checksum behind it at least is not used up.
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _unxz() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_LIMIT)


_FORMATS: dict[bytes, tuple[str, Callable[[], Decompressor] | None]] = {
    b"\x1f\x8b": ("gzip", _Gunzip),
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": ("xz", _unxz),
    b"\x28\xb5\x2f\xfd": ("zstd", None),
}
"""Magic of a compressed stream, its name, and what unpacks it."""
_LONGEST_MAGIC = max(map(len, _FORMATS))


def unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a tar's bytes, whether `chunks` are it or one compressed by gzip, bzip2 or xz.

    Raises CorruptArchive for a compressed stream that is damaged or ends early, and for zstd.
    """
    source = iter(chunks)
    start = b""
    for chunk in source:
        start += chunk
        if len(start) >= _LONGEST_MAGIC:
            break
    chunks = chain([start], source) if start else source
    for magic, (name, make) in _FORMATS.items():
        if start.startswith(magic):
            if make is None:
                raise CorruptArchive(f"the archive is compressed by {name}: use gzip or xz")
            chunks = _unpacked(chunks, name, make)
    yield from chunks


def _unpacked(
    chunks: Iterable[bytes], name: str, make: Callable[[], Decompressor]
) -> Iterator[bytes]:
    """Yield what the compressed streams in `chunks`, one after another, hold."""
    stream: Decompressor | None = make()
    for chunk in chunks:
        data = chunk
        while data or (stream and not stream.eof and not stream.needs_input):
            if stream is None:
                # Writers pad with zeros; everything else must be a stream of its own.
                data = data.lstrip(b"\0")
                if not data:
                    break
                stream = make()
            piece, data = _piece(stream, data, name)
            if piece:
                yield piece
            if stream.eof:
                stream = None
    if stream is not None:
        raise CorruptArchive(f"the archive, compressed by {name}, ends early")


def _piece(stream: Decompressor, data: bytes, name: str) -> tuple[bytes, bytes]:
    """Return what comes out of the stream, and what of `data` it left for the next one."""
    try:
        piece = stream.decompress(data, PIECE_LIMIT)
    except (zlib.error, OSError, lzma.LZMAError) as exc:
        raise CorruptArchive(f"the archive, compressed by {name}, is damaged: {exc}") from exc
    return piece, stream.unused_data if stream.eof else b""


def verified(
    chunks: Iterable[bytes],
    *,
    size_bytes: int | None = None,
    sha256: str | None = None,
    sha512: str | None = None,
) -> Iterator[bytes]:
    """Yield the chunks; raise CorruptDownload at their end unless they are what the store says.

    None: the store does not say. The digests are in hex. What came out must be thrown away when
    this raises; it must be read to the end to know.
    """
    wanted = {"sha256": sha256, "sha512": sha512}
    hashes = {name: hashlib.new(name) for name, digest in wanted.items() if digest}
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size_bytes is not None and size > size_bytes:
            raise CorruptDownload(f"more than {size_bytes} bytes came, all that the store has")
        for each in hashes.values():
            each.update(chunk)
        yield chunk
    if size_bytes is not None and size != size_bytes:
        raise CorruptDownload(f"{size} bytes came of {size_bytes} that the store has")
    for name, each in hashes.items():
        if each.hexdigest() != str(wanted[name]).lower():
            raise CorruptDownload(f"other bytes came than the store has: {name} {each.hexdigest()}")
