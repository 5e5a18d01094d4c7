"""What a docker-archive holds: recorded while it passes, judged when all of it has.

Kept are names, digests and small JSON documents, in bounded space; the verdict is whether they make
one whole image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tintype.core.documents import (
    DOCUMENT_LIMIT,
    as_list,
    as_object,
    as_objects,
    as_string,
    as_strings,
    parsed,
)
from tintype.core.errors import CorruptArchive
from tintype.core.naming import (
    MANIFEST,
    REPOSITORIES,
    ImageName,
    retagged_index,
    retagged_repositories,
)
from tintype.core.tar import BLOCK, ByteSource, Member, normalised

KEPT_LIMIT = 12 << 20
"""Bytes of JSON documents kept until the archive has ended; further ones are not kept."""
NAMES_LIMIT = 4 << 20
"""Bytes of names and digests kept; an archive with more members than that allows is refused."""

_ENTRY_COST = 512  # bytes that a name's dict entry, digest and objects take, rounded up
_MAX_LINKS = 40  # Linux's MAXSYMLINKS
_JSON_START = b"{[ \t\r\n"
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # magic of gzip and zstd
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_CONFIG = re.compile(r"(?:blobs/sha256/([0-9a-f]{64})|([0-9a-f]{64})\.json)")


@dataclass(frozen=True, slots=True)
class Image:
    """The image in an archive."""

    config_path: str
    """Member that holds its configuration."""
    config_digest: str
    """Digest of the configuration, `sha256:...`."""
    layer_paths: tuple[str, ...]
    """Members that hold its layers, lowest first."""
    layers: tuple[str, ...]
    """Diff ids of the layers."""


@dataclass(frozen=True, slots=True)
class File:
    """What is kept of a file that has passed."""

    sha256: str
    compressed: bool
    document: bytes | None
    """The content, of what looks like a small JSON document."""


class Contents:
    """What the archive was found to hold, and the verdict on it."""

    def __init__(self) -> None:
        self.withheld: dict[str, Member] = {}
        """Documents and links taken out of the stream by `withhold`, in their order."""
        self._entries: dict[str, File | str] = {}  # a str is a link's target
        self._held: dict[str, tuple[Member, object]] = {}
        self._names_left = NAMES_LIMIT
        self._documents_left = KEPT_LIMIT

    def hold(self, member: Member, source: ByteSource) -> None:
        """Take a document that names the image out of the stream, to be sent last."""
        if not member.is_file or member.name in self._held or member.size > DOCUMENT_LIMIT:
            raise CorruptArchive(f"{member.name} is not one file of a size to be read")
        text = source.read(member.size)
        source.read(member.padding)
        self._held[member.name] = member, parsed(text, member.name)

    def withhold(self, member: Member, source: ByteSource) -> bool:
        """Take what may have to be scrubbed out of the stream; False: the member may pass.

        That is every JSON document, whatever it is called, and every link, which may be to one.
        Raises CorruptArchive for more of them than are kept.
        """
        if member.link is None and not _is_document(source.peek(min(member.size, BLOCK))):
            return False
        if member.size > min(DOCUMENT_LIMIT, self._documents_left - len(member.header)):
            raise CorruptArchive(f"{member.name!r} is too large a document to be scrubbed")
        for _ in self.record(member, source):
            pass
        source.read(member.padding)
        self._documents_left -= len(member.header)
        self.withheld[member.name] = member
        return True

    def record(self, member: Member, source: ByteSource) -> Iterator[memoryview]:
        """Pass the member's data on, hash it, and note what a verdict will need."""
        if member.link is not None:
            self._enter(member.name, member.link)
        if not member.is_file:
            return
        sha256 = hashlib.sha256()
        start, document = b"", bytearray()
        keep = member.size <= min(DOCUMENT_LIMIT, self._documents_left)
        for piece in source.take(member.size):
            sha256.update(piece)
            if len(start) < 4:
                start += piece[:4]
            keep = keep and start[0] in _JSON_START
            if keep:
                document += piece
            yield piece
        digest = sha256.hexdigest()
        blob = _BLOB.fullmatch(member.name)
        if blob and blob[1] != digest:
            raise CorruptArchive(f"{member.name} is damaged: its sha256 is {digest}")
        self._documents_left -= len(document) if keep else 0
        compressed = start.startswith(_COMPRESSED)
        self._enter(member.name, File(digest, compressed, bytes(document) if keep else None))

    def _enter(self, name: str, entry: File | str) -> None:
        self._names_left -= _ENTRY_COST + len(name) + (len(entry) if isinstance(entry, str) else 0)
        if self._names_left < 0:
            raise CorruptArchive("the archive has too many members")
        # Extracting keeps the last of several, the verdict must not be about another.
        if self._entries.setdefault(name, entry) != entry:
            raise CorruptArchive(f"the archive has two different members {name!r}")

    @cached_property
    def image(self) -> Image:
        """The one image in the archive; raises CorruptArchive unless all of it is there."""
        entry = self._manifest_entry()
        config_path = as_string(entry.get("Config"), f"{MANIFEST}: Config")
        config_digest, config = self._config(config_path)
        rootfs = as_object(config.get("rootfs"), f"{config_path}: rootfs")
        diff_ids = as_strings(rootfs.get("diff_ids"), f"{config_path}: diff_ids")
        paths = as_strings(entry.get("Layers"), f"{MANIFEST}: Layers")
        if len(paths) != len(diff_ids):
            raise CorruptArchive(f"the image has {len(diff_ids)} layers, the archive {len(paths)}")
        for path, diff_id in zip(paths, diff_ids, strict=True):
            self._check_layer(path, diff_id)
        return Image(config_path, config_digest, tuple(paths), tuple(diff_ids))

    def retagged(self, name: ImageName) -> list[tuple[Member, object]]:
        """Return the documents that were held back, in their order, naming the image `name` only.

        Raises CorruptArchive like `image`, or when a document does not fit the image.
        """
        _ = self.image
        result = []
        for path, (member, document) in self._held.items():
            if path == MANIFEST:
                retagged: object = [{**self._manifest_entry(), "RepoTags": [name.repo_tag]}]
            elif path == REPOSITORIES:
                retagged = retagged_repositories(document, name)
            else:
                retagged = retagged_index(document, name, self._leads_to_image)
            result.append((member, retagged))
        return result

    def find(self, path: str) -> tuple[str, File] | None:
        """Return name and file of what is at `path`, through links; None when there is none."""
        name = normalised(path)
        for _ in range(_MAX_LINKS):
            entry = self._entries.get(name)
            if not isinstance(entry, str):
                return None if entry is None else (name, entry)
            name = entry
        return None

    def blob(self, descriptor: Mapping[str, object]) -> File | None:
        """Return the blob an OCI descriptor points to; None when it is not in the archive."""
        found = self.find(blob_path(descriptor))
        return found and found[1]

    @property
    def files(self) -> Mapping[str, File]:
        """The regular files that have passed or were withheld, by name."""
        return {name: each for name, each in self._entries.items() if isinstance(each, File)}

    def _manifest_entry(self) -> dict[str, object]:
        if MANIFEST not in self._held:
            raise CorruptArchive(f"the archive has no {MANIFEST}")
        entries = as_list(self._held[MANIFEST][1], MANIFEST)
        if len(entries) != 1:
            raise CorruptArchive(f"the archive has {len(entries)} images instead of one")
        return as_object(entries[0], MANIFEST)

    def _config(self, path: str) -> tuple[str, dict[str, object]]:
        """Return digest and content of the image configuration, whose name is its digest."""
        found = self.find(path)
        if found is None:
            raise CorruptArchive(f"the image's configuration {path!r} is missing")
        file = found[1]
        match = _CONFIG.fullmatch(normalised(path))
        if match is None or file.sha256 != (match[1] or match[2]):
            raise CorruptArchive(f"the image's configuration {path!r} is damaged: {file.sha256}")
        if file.document is None:
            raise CorruptArchive(f"the image's configuration {path!r} is not a document to be read")
        return f"sha256:{file.sha256}", as_object(parsed(file.document, path), path)

    def _check_layer(self, path: str, diff_id: str) -> None:
        found = self.find(path)
        if found is None:
            raise CorruptArchive(f"layer {path!r} is missing")
        file = found[1]
        if f"sha256:{file.sha256}" == diff_id:
            return
        # The diff id is of the unpacked layer; of a packed one the name is the digest.
        blob = _BLOB.fullmatch(normalised(path))
        if not (file.compressed and blob and blob[1] == file.sha256):
            raise CorruptArchive(f"layer {path!r} is damaged: sha256:{file.sha256}, not {diff_id}")

    def _leads_to_image(self, descriptor: dict[str, object]) -> bool:
        """Whether the descriptor is of the image's manifest, or of an index above it."""
        waiting, seen = [descriptor], set[str]()
        while waiting:
            file = self.blob(waiting.pop())
            if file is None or file.document is None or file.sha256 in seen:
                continue
            seen.add(file.sha256)
            document = as_object(parsed(file.document, file.sha256), file.sha256)
            config = document.get("config")
            if isinstance(config, dict) and config.get("digest") == self.image.config_digest:
                self._check_manifest_layers(document)
                return True
            waiting += as_objects(document.get("manifests") or [], file.sha256)
        return False

    def _check_manifest_layers(self, manifest: Mapping[str, object]) -> None:
        for layer in as_objects(manifest.get("layers") or [], "OCI manifest"):
            # A layer with `urls` is fetched from elsewhere by whoever loads the image.
            if self.blob(layer) is None and not layer.get("urls"):
                raise CorruptArchive(f"layer {layer.get('digest')!r} is missing")


def blob_path(descriptor: Mapping[str, object]) -> str:
    """Return the name of the member that holds what an OCI descriptor points to."""
    return "blobs/" + str(descriptor.get("digest")).replace(":", "/")


def _is_document(start: bytes) -> bool:
    """Tell from a file's first block whether it may be JSON, which has no zero bytes; tar has."""
    return start[:1] in (b"{", b"[", b" ", b"\t", b"\r", b"\n") and b"\0" not in start
