"""A docker-archive checked, hashed and retagged while it passes from engine to image store.

The engine answers `GET /images/{name}/get` with 200 before it has read the image, so what follows
can be short, damaged or without some of its blobs. Nothing is stored on the way: every byte is
seen once, and what a verdict needs (names, digests, small JSON documents) is kept in bounded space.

The members that name the image (`manifest.json`, `index.json`, `repositories`) are held back and
go out last, retagged, followed by the end marker; none of them goes out unless all is well. So
even a store that takes a broken-off upload for complete never holds an archive that can be loaded.

Two layouts are known: the classic one (`<config>.json`, `<id>/layer.tar`; a repeated layer is a
symbolic link) and, since Docker 25 or with the containerd store, the OCI one (`blobs/sha256/...`).

Where environment variables are to be taken out, every JSON document is held back like those that
name the image, and comes out without them (`core.scrub`, `core.rewriting`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tintype.core.contents import Contents
from tintype.core.documents import serialised
from tintype.core.naming import NAMING, ImageName
from tintype.core.rewriting import Rewriting
from tintype.core.scrub import Scrubber
from tintype.core.tar import END_MARKER, ByteSource, members, padding

CHUNK_LIMIT = 512 * 1024
"""Largest chunk that comes out, in bytes: Glance under uWSGI fails on HTTP chunks of 1 MiB."""


@dataclass(frozen=True, slots=True)
class ArchiveSummary:
    """What is known of an archive once all of it has passed."""

    size_bytes: int
    """Bytes that came out."""
    sha256: str
    """Hex digest of the bytes that came out."""
    sha512: str
    """Hex digest of the bytes that came out; Glance's `os_hash_value`."""
    config_digest: str
    """Digest of the image configuration, `sha256:...`; the classic store's image id."""
    layers: tuple[str, ...]
    """Diff ids, lowest layer first."""
    scrubbed_env: tuple[str, ...] = ()
    """Names of the environment variables that were found and taken out, sorted."""


class ArchiveStream:
    """The archive as it goes to the store: an iterable of chunks that can be used once.

    It has `__iter__` and nothing else of a file or sequence, so HTTP clients send it chunked, and
    a client that tries to send it a second time (after a 401, say) fails instead of sending less.

    Iterating raises CorruptArchive as soon as the archive is known to be damaged or incomplete:
    what came out until then must be thrown away.
    """

    def __init__(
        self, chunks: Iterable[bytes], repo_tag: str, unset_env: Iterable[str] = ()
    ) -> None:
        """Read the archive from `chunks` and name its image `repo_tag`, `name:tag`, alone.

        The environment variables named by `unset_env` are taken out of the image; iterating then
        also raises Refused when the value of one stands where it cannot be taken out.

        Raises ValueError for a `repo_tag` that is not a name and a tag, and for what cannot be the
        name of an environment variable.
        """
        self._source = ByteSource(chunks)
        self._name = ImageName.parse(repo_tag)
        self._scrubber = Scrubber(unset_env)
        self._config_digest: str | None = None
        self._summary: ArchiveSummary | None = None
        self._used = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks of 1 to CHUNK_LIMIT bytes; raise RuntimeError the second time."""
        if self._used:
            raise RuntimeError("an archive stream can be read only once")
        self._used = True
        return self._chunks()

    @property
    def summary(self) -> ArchiveSummary:
        """What came out; raises RuntimeError until the last chunk was taken without error."""
        if self._summary is None:
            raise RuntimeError("the archive has not passed completely")
        return self._summary

    def _chunks(self) -> Iterator[bytes]:
        contents = Contents()
        size, sha256, sha512 = 0, hashlib.sha256(), hashlib.sha512()
        for chunk in _packed(self._pieces(contents)):
            sha256.update(chunk)
            sha512.update(chunk)
            size += len(chunk)
            yield chunk
        self._summary = ArchiveSummary(
            size,
            sha256.hexdigest(),
            sha512.hexdigest(),
            self._config_digest or contents.image.config_digest,
            contents.image.layers,
            self._scrubber.found,
        )

    def _pieces(self, contents: Contents) -> Iterator[bytes | memoryview]:
        for member in members(self._source):
            if member.name in NAMING:
                contents.hold(member, self._source)
            elif not (self._scrubber.names and contents.withhold(member, self._source)):
                yield member.header
                yield from contents.record(member, self._source)
                yield from self._source.take(member.padding)
        naming = contents.retagged(self._name)
        if self._scrubber.names:
            rewriting = Rewriting(contents, self._scrubber)
            naming = rewriting.followed(naming)
            self._config_digest = rewriting.config_digest
            yield from rewriting.members()
        for member, document in naming:
            text = serialised(document) + b"\n"
            yield member.resized_header(len(text))
            yield text
            yield bytes(padding(len(text)))
        yield END_MARKER


def _packed(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield the pieces as chunks of exactly CHUNK_LIMIT bytes, but for the last.

    Full chunks keep the hashes' and the socket's cost per byte low however small the pieces are.
    """
    buffer = memoryview(bytearray(CHUNK_LIMIT))
    fill = 0
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            part = rest[: CHUNK_LIMIT - fill]
            buffer[fill : fill + len(part)] = part
            rest = rest[len(part) :]
            fill += len(part)
            if fill == CHUNK_LIMIT:
                yield bytes(buffer)
                fill = 0
    if fill:
        yield bytes(buffer[:fill])
