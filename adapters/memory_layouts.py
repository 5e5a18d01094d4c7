"""Genuine image archives made in memory, in both layouts that Docker Engines save."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["classic", "oci"]
"""Docker Engine up to 24; and since 25, or with containerd's image store."""

_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class BuiltArchive:
    """An archive, and what it holds."""

    data: bytes
    digest: str
    """Of the image configuration, `sha256:...`."""
    layers: tuple[str, ...]
    """Diff ids, lowest layer first."""


def build(
    ref: str, config: Mapping[str, Any], layers: Sequence[bytes], layout: Layout
) -> BuiltArchive:
    """Return the archive of one image named `ref`; the configuration gets its `rootfs` here."""
    diff_ids = tuple(digest_of(layer) for layer in layers)
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    document = json.dumps({**config, "rootfs": rootfs}).encode()
    make = _oci if layout == "oci" else _classic
    return BuiltArchive(tar_of(make(ref, document, layers)), digest_of(document), diff_ids)


def _classic(ref: str, config: bytes, layers: Sequence[bytes]) -> dict[str, bytes]:
    """Return the members of an archive as Docker Engine 20.10 saves it."""
    files: dict[str, bytes] = {}
    places: list[str] = []
    parent: dict[str, str] = {}
    for layer in layers:
        layer_id = digest_of(json.dumps(parent).encode() + layer)[7:]
        # The top layer's repeats the image's configuration.
        whole = json.loads(config) if len(places) == len(layers) - 1 else {}
        repeated = {key: value for key, value in whole.items() if key not in ("history", "rootfs")}
        legacy = {"id": layer_id, **parent, **repeated}
        files[f"{layer_id}/VERSION"] = b"1.0"
        files[f"{layer_id}/json"] = json.dumps(legacy).encode()
        files[f"{layer_id}/layer.tar"] = layer
        places.append(f"{layer_id}/layer.tar")
        parent = {"parent": layer_id}
    files[f"{digest_of(config)[7:]}.json"] = config
    return files | _names(ref, f"{digest_of(config)[7:]}.json", places, parent["parent"])


def _oci(ref: str, config: bytes, layers: Sequence[bytes]) -> dict[str, bytes]:
    """Return the members of an archive as Docker Engine 25 saves it."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": _descriptor(_CONFIG_TYPE, config),
            "layers": [_descriptor(_LAYER_TYPE, layer) for layer in layers],
        }
    ).encode()
    names = {
        "io.containerd.image.name": f"docker.io/{ref}",
        "org.opencontainers.image.ref.name": ref.rpartition(":")[2],
    }
    entry = {**_descriptor(_MANIFEST_TYPE, manifest), "annotations": names}
    index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": [entry]}
    files = {_blob(data): data for data in (config, manifest, *layers)}
    files |= {
        "index.json": json.dumps(index).encode(),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }
    return files | _names(ref, _blob(config), [*map(_blob, layers)], digest_of(layers[-1])[7:])


def _names(ref: str, config: str, places: Sequence[str], top: str) -> dict[str, bytes]:
    name, _, tag = ref.rpartition(":")
    manifest = [{"Config": config, "RepoTags": [ref], "Layers": places}]
    return {
        "manifest.json": json.dumps(manifest).encode(),
        "repositories": json.dumps({name: {tag: top}}).encode(),
    }


def _blob(data: bytes) -> str:
    return f"blobs/sha256/{digest_of(data)[7:]}"


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a tar with these files, by path."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    """Return the sha256 of `data`, `sha256:...`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
