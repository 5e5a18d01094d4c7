"""What a docker-archive holds: recorded while it passes, judged when all of it has.

Kept are names, digests and small JSON documents, in bounded space; the verdict is whether they make
one whole image.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tintype.core.errors import CorruptArchive
from tintype.core.tar import ByteSource, Member, normalised

DOCUMENT_LIMIT = 4 << 20
"""Largest JSON document that is read, in bytes (as a registry's for manifests)."""
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
_REFERENCE = re.compile(r"([^\s@]+):([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})")
_MANIFEST, _INDEX, _REPOSITORIES = "manifest.json", "index.json", "repositories"
NAMING = (_MANIFEST, _INDEX, _REPOSITORIES)
"""Members that name the image."""

_IMAGE_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class ImageName:
    """The one name and tag that the image is to have."""

    name: str
    tag: str

    @classmethod
    def parse(cls, repo_tag: str) -> ImageName:
        """Split `name:tag`. Raises ValueError for what is not that."""
        match = _REFERENCE.fullmatch(repo_tag)
        if match is None:
            raise ValueError(f"not an image name and tag: {repo_tag!r}")
        return cls(match[1], match[2])

    @property
    def repo_tag(self) -> str:
        """Name and tag as `manifest.json` has them."""
        return f"{self.name}:{self.tag}"

    @property
    def canonical(self) -> str:
        """The full reference, as Docker's `reference.ParseNormalizedNamed` makes it."""
        domain, slash, path = self.name.partition("/")
        if not slash or not (domain == "localhost" or re.search("[.:A-Z]", domain)):
            domain, path = "docker.io", self.name
        if domain in ("docker.io", "index.docker.io"):
            domain, path = "docker.io", path if "/" in path else f"library/{path}"
        return f"{domain}/{path}:{self.tag}"


@dataclass(frozen=True, slots=True)
class _Image:
    config_digest: str
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """What is kept of a file that has passed."""

    sha256: str
    compressed: bool
    document: bytes | None
    """The content, of what looks like a small JSON document."""


class Contents:
    """What the archive was found to hold, and the verdict on it."""

    def __init__(self) -> None:
        self._entries: dict[str, _File | str] = {}  # a str is a link's target
        self._held: dict[str, tuple[Member, object]] = {}
        self._names_left = NAMES_LIMIT
        self._documents_left = KEPT_LIMIT

    def hold(self, member: Member, source: ByteSource) -> None:
        """Take a document that names the image out of the stream, to be sent last."""
        if not member.is_file or member.name in self._held or member.size > DOCUMENT_LIMIT:
            raise CorruptArchive(f"{member.name} is not one file of a size to be read")
        text = source.read(member.size)
        source.read(member.padding)
        self._held[member.name] = member, _parsed(text, member.name)

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
        self._enter(member.name, _File(digest, compressed, bytes(document) if keep else None))

    def _enter(self, name: str, entry: _File | str) -> None:
        self._names_left -= _ENTRY_COST + len(name) + (len(entry) if isinstance(entry, str) else 0)
        if self._names_left < 0:
            raise CorruptArchive("the archive has too many members")
        # Extracting keeps the last of several, the verdict must not be about another.
        if self._entries.setdefault(name, entry) != entry:
            raise CorruptArchive(f"the archive has two different members {name!r}")

    @cached_property
    def image(self) -> _Image:
        """The one image in the archive; raises CorruptArchive unless all of it is there."""
        entry = self._manifest_entry()
        config_path = _string(entry.get("Config"), f"{_MANIFEST}: Config")
        config_digest, config = self._config(config_path)
        rootfs = _object(config.get("rootfs"), f"{config_path}: rootfs")
        diff_ids = _strings(rootfs.get("diff_ids"), f"{config_path}: diff_ids")
        paths = _strings(entry.get("Layers"), f"{_MANIFEST}: Layers")
        if len(paths) != len(diff_ids):
            raise CorruptArchive(f"the image has {len(diff_ids)} layers, the archive {len(paths)}")
        for path, diff_id in zip(paths, diff_ids, strict=True):
            self._check_layer(path, diff_id)
        return _Image(config_digest, tuple(diff_ids))

    def retagged(self, name: ImageName) -> list[tuple[Member, bytes]]:
        """Return the documents that were held back, in their order, naming the image `name` only.

        Raises CorruptArchive like `image`, or when a document does not fit the image.
        """
        image = self.image
        result = []
        for path, (member, document) in self._held.items():
            if path == _MANIFEST:
                retagged: object = [{**self._manifest_entry(), "RepoTags": [name.repo_tag]}]
            elif path == _REPOSITORIES:
                retagged = _retagged_repositories(document, name)
            else:
                retagged = self._retagged_index(document, name, image.config_digest)
            text = json.dumps(retagged, separators=(",", ":"))
            result.append((member, text.encode() + b"\n"))
        return result

    def _manifest_entry(self) -> dict[str, object]:
        if _MANIFEST not in self._held:
            raise CorruptArchive(f"the archive has no {_MANIFEST}")
        entries = _list(self._held[_MANIFEST][1], _MANIFEST)
        if len(entries) != 1:
            raise CorruptArchive(f"the archive has {len(entries)} images instead of one")
        return _object(entries[0], _MANIFEST)

    def _config(self, path: str) -> tuple[str, dict[str, object]]:
        """Return digest and content of the image configuration, whose name is its digest."""
        file = self._find(path)
        if file is None:
            raise CorruptArchive(f"the image's configuration {path!r} is missing")
        match = _CONFIG.fullmatch(normalised(path))
        if match is None or file.sha256 != (match[1] or match[2]):
            raise CorruptArchive(f"the image's configuration {path!r} is damaged: {file.sha256}")
        if file.document is None:
            raise CorruptArchive(f"the image's configuration {path!r} is not a document to be read")
        return f"sha256:{file.sha256}", _object(_parsed(file.document, path), path)

    def _check_layer(self, path: str, diff_id: str) -> None:
        file = self._find(path)
        if file is None:
            raise CorruptArchive(f"layer {path!r} is missing")
        if f"sha256:{file.sha256}" == diff_id:
            return
        # The diff id is of the unpacked layer; of a packed one the name is the digest.
        blob = _BLOB.fullmatch(normalised(path))
        if not (file.compressed and blob and blob[1] == file.sha256):
            raise CorruptArchive(f"layer {path!r} is damaged: sha256:{file.sha256}, not {diff_id}")

    def _find(self, path: str) -> _File | None:
        """Return the file at `path`, through links; None when there is none."""
        entry = self._entries.get(normalised(path))
        for _ in range(_MAX_LINKS):
            if not isinstance(entry, str):
                return entry
            entry = self._entries.get(entry)
        return None

    def _blob(self, descriptor: dict[str, object]) -> _File | None:
        """Return the blob an OCI descriptor points to; None when it is not in the archive."""
        return self._find("blobs/" + str(descriptor.get("digest")).replace(":", "/"))

    def _retagged_index(self, document: object, name: ImageName, config_digest: str) -> object:
        """Name the image's descriptor, once, and take the names off all others.

        Descriptors of other platforms and of attestations stay, with or without their blobs. An
        index without any descriptor (Docker 25.0 saving by image id) stays empty.
        """
        index = _object(document, _INDEX)
        names = {_IMAGE_NAME: name.canonical, _REF_NAME: name.tag}
        described: dict[object, dict[str, object]] = {}
        named = False
        for item in _list(index.get("manifests") or [], _INDEX):
            descriptor = _object(item, _INDEX)
            digest = _string(descriptor.get("digest"), f"{_INDEX}: digest")
            if digest in described:  # the same image under another tag
                continue
            old = _object(descriptor.get("annotations") or {}, f"{_INDEX}: annotations")
            annotations = {key: value for key, value in old.items() if key not in names}
            if not named and self._leads_to(config_digest, descriptor):
                annotations |= names
                named = True
            described[digest] = {**descriptor, "annotations": annotations}
        if described and not named:
            raise CorruptArchive(f"{_INDEX} leads to no manifest of the image in the archive")
        return {**index, "manifests": list(described.values())}

    def _leads_to(self, config_digest: str, descriptor: dict[str, object]) -> bool:
        """Whether the descriptor is of the manifest with this config, or of an index above it."""
        waiting, seen = [descriptor], set[str]()
        while waiting:
            file = self._blob(waiting.pop())
            if file is None or file.document is None or file.sha256 in seen:
                continue
            seen.add(file.sha256)
            document = _object(_parsed(file.document, file.sha256), file.sha256)
            config = document.get("config")
            if isinstance(config, dict) and config.get("digest") == config_digest:
                self._check_manifest_layers(document)
                return True
            waiting += _objects(document.get("manifests") or [], file.sha256)
        return False

    def _check_manifest_layers(self, manifest: Mapping[str, object]) -> None:
        for layer in _objects(manifest.get("layers") or [], "OCI manifest"):
            # A layer with `urls` is fetched from elsewhere by whoever loads the image.
            if self._blob(layer) is None and not layer.get("urls"):
                raise CorruptArchive(f"layer {layer.get('digest')!r} is missing")


def _retagged_repositories(document: object, name: ImageName) -> object:
    """Point the one name to the top layer that the old names pointed to (Docker before 1.10)."""
    tops = {
        _string(top, _REPOSITORIES)
        for tags in _object(document, _REPOSITORIES).values()
        for top in _object(tags, _REPOSITORIES).values()
    }
    if len(tops) > 1:
        raise CorruptArchive(f"{_REPOSITORIES} names {len(tops)} images instead of one")
    return {name.name: {name.tag: tops.pop()}} if tops else {}


def _parsed(text: bytes, name: str) -> object:
    try:
        document: object = json.loads(text.decode())
    except (ValueError, RecursionError) as exc:
        raise CorruptArchive(f"{name} is not JSON: {exc}") from exc
    return document


def _object(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise CorruptArchive(f"{name} is not a JSON object")
    return value


def _list(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise CorruptArchive(f"{name} is not a JSON list")
    return value


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise CorruptArchive(f"{name} is not a string")
    return value


def _strings(value: object, name: str) -> list[str]:
    return [_string(item, name) for item in _list(value, name)]


def _objects(value: object, name: str) -> list[dict[str, object]]:
    return [_object(item, name) for item in _list(value, name)]
