"""What stands in the manifests that Tintype writes, and what is read of those that others wrote.

An image that waits for its data is a manifest without layers, of a type of its own; afterwards it
is an OCI image like any other. In both all that is known of the image stands in annotations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tintype.adapters.registry_outline import CUTS, REST
from tintype.adapters.registry_record import Record
from tintype.adapters.registry_repository import RawManifest
from tintype.core.errors import CorruptDownload, NotRestorable
from tintype.core.reference import is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
RESERVATION = "application/vnd.tintype.reservation.v1+json"
"""Type of the manifest of an image that has no data yet."""
EMPTY = b"{}"
"""Content of OCI's empty descriptor, which stands where there is nothing to say."""
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_REPLACES = "tintype.replaces"
_DIFF_ID, _UNPACKED = "tintype.diff_id", "tintype.size_bytes"
_LAYER_TYPES = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+(?:gzip|zstd))?"
    r"|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.gzip|\.zstd)?)"
)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob that an image is made of."""

    media_type: str
    digest: str
    size: int
    diff_id: str | None = None
    """Digest of the layer unpacked, where we know it."""
    unpacked: int | None = None
    """Bytes of the layer unpacked, where we know it."""

    def document(self) -> dict[str, Any]:
        """Return it as it stands in a manifest."""
        plain = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.diff_id is None:
            return plain
        return {**plain, "annotations": {_DIFF_ID: self.diff_id, _UNPACKED: str(self.unpacked)}}


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image, or the place of one that is to come."""

    digest: str
    """As the registry has it; empty for one that is not there yet."""
    raw: bytes
    media_type: str
    config: Descriptor
    layers: Sequence[Descriptor]
    annotations: Mapping[str, str]

    @property
    def waiting(self) -> bool:
        """Whether the image has no data yet."""
        return self.config.media_type == RESERVATION

    @property
    def record(self) -> Record | None:
        """What we know of the image; None: it is somebody else's."""
        return Record.read(self.annotations)

    @property
    def replaces(self) -> str | None:
        """The manifest that stood in its place; it is to be deleted, if that is not done yet."""
        digest = self.annotations.get(_REPLACES)
        return digest if digest and is_digest(digest) else None

    @property
    def outline(self) -> dict[str, str]:
        """Those of its annotations that tell how the archive was."""
        return {key: self.annotations[key] for key in (REST, CUTS) if key in self.annotations}


def reservation(record: Record) -> bytes:
    """Return the manifest of an image that has no data yet."""
    nothing = Descriptor(EMPTY_TYPE, EMPTY_DIGEST, len(EMPTY))
    place = replace(nothing, media_type=RESERVATION)
    return _written(place, [nothing], record.annotations(), artifactType=RESERVATION)


def image(
    record: Record,
    config: Descriptor,
    layers: Sequence[Descriptor],
    outline: Mapping[str, str],
    replaces: str,
) -> bytes:
    """Return the manifest of an image that takes the place of another."""
    return _written(config, layers, {**record.annotations(), **outline, _REPLACES: replaces})


def is_index(manifest: RawManifest) -> bool:
    """Whether this is a list of images, one for each platform."""
    document = _document(manifest)
    return document.get("mediaType", manifest.media_type) in _INDEX_TYPES


def platforms(manifest: RawManifest) -> list[tuple[str, str, str | None]]:
    """Return digest, `os/architecture` and variant of each image in a list."""
    found = []
    for item in _objects(_document(manifest).get("manifests"), manifest):
        platform = item.get("platform")
        described = platform if isinstance(platform, dict) else {}
        kind = f"{described.get('os', '')}/{described.get('architecture', '')}"
        found.append((_digest(item, manifest), kind, described.get("variant")))
    return found


def parsed(manifest: RawManifest) -> Manifest:
    """Read the manifest of one image. Raises NotRestorable, CorruptDownload."""
    document = _document(manifest)
    if document.get("schemaVersion") != 2 or not isinstance(document.get("config"), dict):
        raise NotRestorable(f"manifest {manifest.digest} is of a kind that Docker has given up")
    annotations = document.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise _damaged(manifest)
    return Manifest(
        digest=manifest.digest,
        raw=manifest.body,
        media_type=str(document.get("mediaType") or manifest.media_type or OCI_MANIFEST),
        config=_descriptor(document["config"], manifest),
        layers=[_descriptor(item, manifest) for item in _objects(document.get("layers"), manifest)],
        annotations={key: value for key, value in annotations.items() if isinstance(value, str)},
    )


def check_is_image(manifest: Manifest) -> None:
    """Raise NotRestorable for an artifact that is no container image."""
    types = [layer.media_type for layer in manifest.layers]
    unknown = [kind for kind in types if not _LAYER_TYPES.fullmatch(kind)]
    if manifest.config.media_type not in (OCI_CONFIG, _DOCKER_CONFIG) or unknown:
        kind = (unknown or [manifest.config.media_type])[0][:100]
        raise NotRestorable(f"manifest {manifest.digest} is no container image: it holds {kind!r}")


def _written(
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str],
    **more: str,
) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        **more,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
        "annotations": dict(sorted(annotations.items())),
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _document(manifest: RawManifest) -> dict[str, Any]:
    try:
        document = json.loads(manifest.body)
    except (ValueError, RecursionError) as error:
        raise _damaged(manifest) from error
    if not isinstance(document, dict):
        raise _damaged(manifest)
    return document


def _descriptor(item: dict[str, Any], manifest: RawManifest) -> Descriptor:
    size, media_type = item.get("size"), item.get("mediaType")
    if not isinstance(size, int) or size < 0 or not isinstance(media_type, str):
        raise _damaged(manifest)
    noted = item.get("annotations")
    notes = noted if isinstance(noted, dict) else {}
    unpacked = str(notes.get(_UNPACKED, ""))
    return Descriptor(
        media_type,
        _digest(item, manifest),
        size,
        notes.get(_DIFF_ID) if unpacked.isdecimal() else None,
        int(unpacked) if unpacked.isdecimal() else None,
    )


def _digest(item: Mapping[str, Any], manifest: RawManifest) -> str:
    digest = item.get("digest")
    if not isinstance(digest, str) or not is_digest(digest):
        raise _damaged(manifest)
    return digest


def _objects(value: object, manifest: RawManifest) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _damaged(manifest)
    return value


def _damaged(manifest: RawManifest) -> CorruptDownload:
    return CorruptDownload(f"manifest {manifest.digest} makes no sense")
