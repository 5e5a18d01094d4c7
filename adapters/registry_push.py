"""A docker-archive taken apart while it passes: its layers become blobs, the rest is remembered.

Every byte is seen once, and memory is bounded: small files are kept, since they may turn out to be
the configuration; what is larger is packed and sent as it comes. Which of them are layers, and in
which order, stands in `manifest.json`, often the last member.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tintype.adapters.registry_blobs import Blobs
from tintype.adapters.registry_known import KnownLayers
from tintype.adapters.registry_manifest import OCI_CONFIG, OCI_LAYER, Descriptor
from tintype.adapters.registry_outline import OUTLINE_BYTES, Cut, Outline
from tintype.adapters.registry_packing import packed
from tintype.core.errors import CorruptArchive, Unavailable
from tintype.core.tar import ByteSource, Member, members, normalised

DOCUMENT_BYTES = 4 << 20
"""Longest JSON document that is kept until it is known what it is."""
KEPT_BYTES = 12 << 20
"""What is kept of all of them."""

_SMALL = 64 * 1024
_JSON_START = b"{[ \t\r\n"
_MAX_LINKS = 40
_MAX_MEMBERS = 16 * 1024
_BLOB = "blobs/sha256/"
_KINDS = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}


@dataclass(frozen=True, slots=True)
class Pushed:
    """What of an archive is in the registry."""

    config: Descriptor
    layers: Sequence[Descriptor]
    outline: Outline | None
    """None: it would be too long, or files were no layers."""
    size_bytes: int
    """Bytes that passed."""
    sha512: str
    """Hex digest of the bytes that passed."""


def push(blobs: Blobs, known: KnownLayers, body: Iterable[bytes]) -> Pushed:
    """Send the blobs of an archive. What `body` raises comes out as it is.

    Raises CorruptArchive, CorruptUpload, Unavailable, Refused and what is said of them.
    """
    return _Pusher(blobs, known).push(body)


class _Pusher:
    """One archive on its way."""

    def __init__(self, blobs: Blobs, known: KnownLayers) -> None:
        self._blobs = blobs
        self._known = known
        self._documents: dict[str, bytes] = {}
        self._layers: dict[str, Descriptor] = {}
        self._links: dict[str, str] = {}
        self._kept = 0
        self._rest = bytearray()
        self._cuts: list[tuple[str, Cut]] = []
        self._size = 0
        self._sha512 = hashlib.sha512()

    def push(self, body: Iterable[bytes]) -> Pushed:
        source = ByteSource(self._counted(body))
        accounted = 0
        for number, member in enumerate(members(source)):
            if number == _MAX_MEMBERS:
                raise CorruptArchive("the archive has too many members")
            self._remember(member.header)
            if member.link is not None:
                self._links[member.name] = member.link
            self._take(member, source)
            self._remember(source.read(member.padding))
            accounted += len(member.header) + member.size + member.padding
        self._remember(bytes(min(self._size - accounted, OUTLINE_BYTES + 1)))
        config, paths, diff_ids = self._image()
        layers = [self._layer(*pair) for pair in zip(paths, diff_ids, strict=True)]
        return Pushed(config, layers, self._outline(layers), self._size, self._sha512.hexdigest())

    def _counted(self, body: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in body:
            self._size += len(chunk)
            self._sha512.update(chunk)
            yield chunk

    def _remember(self, data: bytes) -> None:
        if len(self._rest) <= OUTLINE_BYTES:  # one above the limit is not written
            self._rest += data

    def _take(self, member: Member, source: ByteSource) -> None:
        """Keep a small file or document, send everything else."""
        if not member.size:
            if member.is_file:
                self._documents[member.name] = b""
            return
        start = _start(source, member.size)
        small = member.size <= _SMALL or (member.size <= DOCUMENT_BYTES and start[0] in _JSON_START)
        if small and self._kept + member.size <= KEPT_BYTES:
            document = start + source.read(member.size - len(start))
            self._kept += member.size
            self._documents[member.name] = document
            self._remember(document)
            return
        layer, is_packed = self._send(member, start, source)
        self._layers[member.name] = layer
        self._cuts.append((member.name, Cut(len(self._rest), layer.digest, member.size, is_packed)))

    def _send(self, member: Member, start: bytes, source: ByteSource) -> tuple[Descriptor, bool]:
        """Send a file as a layer; return it, and whether it was packed for that."""
        sha = hashlib.sha256()
        pieces = _hashed(start, source.take(member.size - len(start)), sha)
        kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
        if kind is not None:
            return self._send_as_it_is(member, kind, pieces), False
        layer = self._known.find(self._blobs, member.name, member.size)
        if layer is not None:
            for _ in pieces:
                pass
            if f"sha256:{sha.hexdigest()}" != layer.diff_id:
                self._known.forget(self._blobs, {layer.digest})
                raise Unavailable(f"{member.name} is not the layer that it was before")
            return layer, True
        sent = _Counted(packed(pieces))
        digest = self._blobs.put_stream(sent)
        diff_id = f"sha256:{sha.hexdigest()}"
        layer = Descriptor(f"{OCI_LAYER}+gzip", digest, sent.size, diff_id, member.size)
        self._known.add(self._blobs, member.name, layer)
        return layer, True

    def _send_as_it_is(self, member: Member, kind: str, pieces: Iterator[bytes]) -> Descriptor:
        """Send a layer that is packed already, unless the registry has it under its name."""
        named = member.name.removeprefix(_BLOB) if member.name.startswith(_BLOB) else None
        digest = named and f"sha256:{named}"
        if digest and self._blobs.has(digest, member.size):
            sha = hashlib.sha256()
            for piece in pieces:
                sha.update(piece)
            if sha.hexdigest() != named:
                raise CorruptArchive(f"{member.name} is damaged: its sha256 is {sha.hexdigest()}")
        else:
            digest = self._blobs.put_stream(pieces, digest or None)
        return Descriptor(f"{OCI_LAYER}{kind}", digest, member.size)

    def _image(self) -> tuple[Descriptor, list[str], list[str]]:
        """Return the configuration, which is sent, and paths and diff ids of the layers."""
        entries = _json(self._documents.get("manifest.json"), "manifest.json")
        if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
            raise CorruptArchive("manifest.json is not about one image")
        path = str(entries[0].get("Config"))
        text = self._documents.get(self._resolved(path))
        config = _json(text, path)
        rootfs = config.get("rootfs") if isinstance(config, dict) else None
        diff_ids = _strings(rootfs.get("diff_ids") if isinstance(rootfs, dict) else None, path)
        paths = _strings(entries[0].get("Layers"), "manifest.json")
        if len(paths) != len(diff_ids):
            raise CorruptArchive(f"the image has {len(diff_ids)} layers, the archive {len(paths)}")
        assert text is not None
        digest = self._blobs.put(text)
        return Descriptor(OCI_CONFIG, digest, len(text)), paths, diff_ids

    def _layer(self, path: str, diff_id: str) -> Descriptor:
        """Return a layer that was sent; one so small that it was kept is sent now."""
        name = self._resolved(path)
        if name in self._documents:
            self._layers[name] = self._send_kept(self._documents[name])
        if name not in self._layers:
            raise CorruptArchive(f"layer {path!r} is missing")
        layer = self._layers[name]
        if layer.diff_id not in (None, diff_id):
            raise CorruptArchive(f"layer {path!r} is damaged: {layer.diff_id}, not {diff_id}")
        return layer

    def _send_kept(self, data: bytes) -> Descriptor:
        if any(data.startswith(magic) for magic in _KINDS):
            kind = _KINDS[b"\x1f\x8b"] if data.startswith(b"\x1f\x8b") else "+zstd"
            return Descriptor(f"{OCI_LAYER}{kind}", self._blobs.put(data), len(data))
        text = b"".join(packed([data]))
        diff_id = f"sha256:{hashlib.sha256(data).hexdigest()}"
        digest = self._blobs.put(text)
        return Descriptor(f"{OCI_LAYER}+gzip", digest, len(text), diff_id, len(data))

    def _resolved(self, path: str) -> str:
        """Return the name of the file at a path, through links."""
        name = normalised(path)
        for _ in range(_MAX_LINKS):
            if name not in self._links:
                break
            name = self._links[name]
        return name

    def _outline(self, layers: Sequence[Descriptor]) -> Outline | None:
        """Return the outline, if all that was cut out can be had again."""
        digests = {layer.digest for layer in layers}
        lost = [name for name, cut in self._cuts if cut.digest not in digests]
        if lost or len(self._rest) > OUTLINE_BYTES:
            return None
        return Outline(bytes(self._rest), [cut for _, cut in self._cuts])


class _Counted:
    """Chunks, and how many bytes of them were taken."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.size = 0
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


def _start(source: ByteSource, size: int) -> bytes:
    """Return the first bytes of a file: as many as tell its kind."""
    return source.read(min(4, size))


def _hashed(start: bytes, rest: Iterator[memoryview], sha: hashlib._Hash) -> Iterator[bytes]:
    sha.update(start)
    yield start
    for piece in rest:
        sha.update(piece)
        yield bytes(piece)


def _json(text: bytes | None, name: str) -> object:
    if text is None:
        raise CorruptArchive(f"the archive has no {name}, or one that is too long")
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptArchive(f"{name} is not JSON") from error
    return document


def _strings(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CorruptArchive(f"{name} has no list where one should be")
    return value
