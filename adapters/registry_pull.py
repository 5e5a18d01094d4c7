"""A docker-archive made of an image in a registry, while it is read.

An image of ours comes back as the bytes that were uploaded. Of any other the archive is put
together: blobs in OCI's layout, and beside it the `manifest.json` that every engine reads.
"""

from __future__ import annotations

import json
import platform
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tintype.adapters.registry_manifest import (
    Manifest,
    check_is_image,
    is_index,
    parsed,
    platforms,
)
from tintype.adapters.registry_outline import Cut, Outline
from tintype.adapters.registry_packing import unpacked
from tintype.adapters.registry_repository import Repository
from tintype.core.errors import CorruptDownload, NotRestorable
from tintype.core.tar import END_MARKER, padding

_MACHINES = {
    "x86_64": ("amd64", None),
    "amd64": ("amd64", None),
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}
"""What Linux calls a machine, in OCI's words."""
_MOST_NESTED = 3


def resolve(repository: Repository, name: str) -> Manifest:
    """Return the image with this tag or digest; of a list, the one for this machine.

    Raises NotFound, NotRestorable, CorruptDownload.
    """
    raw = repository.manifest(name)
    for _ in range(_MOST_NESTED):
        if not is_index(raw):
            return parsed(raw)
        raw = repository.manifest(_chosen(platforms(raw), raw.digest))
    raise NotRestorable(f"manifest {raw.digest} is a list of lists")


def archive(repository: Repository, image: Manifest, tag: str) -> Iterator[bytes]:
    """Stream the image as an archive that an engine can load, named with `tag` where it is new.

    Raises NotRestorable at once for what is no image; while it streams, CorruptDownload.
    """
    check_is_image(image)
    outline = Outline.read(image.annotations)
    if outline is not None:
        return outline.archive(lambda cut: _layer(repository, image, cut))
    return _put_together(repository, image, tag)


def machine() -> tuple[str, str | None]:
    """Return architecture and variant of this machine in OCI's words."""
    name = platform.machine().lower()
    return _MACHINES.get(name, (name, None))


def _chosen(choices: list[tuple[str, str, str | None]], digest: str) -> str:
    """Return the digest of the image for this machine."""
    architecture, variant = machine()
    fitting = [choice for choice in choices if choice[1] == f"linux/{architecture}"]
    if not fitting:
        known = ", ".join(sorted({kind for _, kind, _ in choices})) or "nothing"
        raise NotRestorable(f"manifest {digest} has no image for linux/{architecture}, but {known}")
    # One that says nothing of variants fits too; of several the first is the one to take.
    return min(fitting, key=lambda choice: (choice[2] != variant, choice[2] is not None))[0]


def _layer(repository: Repository, image: Manifest, cut: Cut) -> Iterator[bytes]:
    """Stream what was cut out of an archive."""
    layer = next((layer for layer in image.layers if layer.digest == cut.digest), None)
    if layer is None:
        raise CorruptDownload("the image's tintype.archive annotations name a layer it has not")
    blob = repository.blobs.read(layer.digest, layer.size)
    size = 0
    try:
        for chunk in unpacked(blob) if cut.packed else blob:
            size += len(chunk)
            if size > cut.size:
                break
            yield chunk
    except ValueError as error:
        raise CorruptDownload(f"layer {layer.digest} cannot be unpacked: {error}") from error
    if size != cut.size:
        raise CorruptDownload(f"layer {layer.digest} has not the {cut.size} bytes that it had")


def _put_together(repository: Repository, image: Manifest, tag: str) -> Iterator[bytes]:
    """Stream an archive of the image's own blobs, as they are; `docker load` unpacks layers."""
    written: set[str] = set()
    for blob in (image.config, *image.layers):
        if blob.digest not in written:
            written.add(blob.digest)
            yield from _member(_path(blob.digest), blob.size)
            yield from repository.blobs.read(blob.digest, blob.size)
            yield bytes(padding(blob.size))
    for name, document in _documents(repository, image, tag):
        yield from _member(name, len(document))
        yield document + bytes(padding(len(document)))
    yield END_MARKER


def _documents(repository: Repository, image: Manifest, tag: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files that say what the blobs are."""
    name = repository.reference.path.rpartition("/")[2]
    names = {
        "io.containerd.image.name": str(replace(repository.reference, tag=tag)),
        "org.opencontainers.image.ref.name": tag,
    }
    described = {
        "mediaType": image.media_type,
        "digest": image.digest,
        "size": len(image.raw),
        "annotations": names,
    }
    entry = {
        "Config": _path(image.config.digest),
        "RepoTags": [f"{name}:{tag}"],
        "Layers": [_path(layer.digest) for layer in image.layers],
    }
    index = "application/vnd.oci.image.index.v1+json"
    yield _path(image.digest), image.raw
    yield "oci-layout", _text({"imageLayoutVersion": "1.0.0"})
    yield "index.json", _text({"schemaVersion": 2, "mediaType": index, "manifests": [described]})
    yield "manifest.json", _text([entry])


def _member(name: str, size: int) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = size
    yield info.tobuf(tarfile.GNU_FORMAT)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _text(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
