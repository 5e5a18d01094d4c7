"""Image archives built by hand, shaped like what `docker save` writes.

`classic` is the layout of Docker Engine up to 24 (compared with a real archive of 20.10.24),
`oci` the one since 25 and of the containerd store. Both give an `Archive`, whose members a test may
change, drop or add before it asks for the bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

BLOCK = 512

Format = Literal[0, 1, 2]
"""One of tarfile's USTAR_FORMAT, GNU_FORMAT, PAX_FORMAT."""


def digest(data: bytes) -> str:
    """Hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def compact(document: object) -> bytes:
    """JSON as Go writes it: compact, and with a newline at the end."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


@dataclass(slots=True)
class Item:
    """One member: a file with data, a directory, or a link."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    link: str = ""
    pax: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Archive:
    """A tar to be: members in order, and how they are written."""

    items: list[Item]
    config: str
    """Name of the configuration's member."""
    layers: list[str]
    """Names of the layers' members, lowest first."""
    tar_format: Format = tarfile.GNU_FORMAT

    def item(self, name: str) -> Item:
        """Return the member of this name."""
        return next(item for item in self.items if item.name == name)

    def drop(self, name: str) -> None:
        """Take the member of this name out."""
        self.items.remove(self.item(name))

    def put(self, name: str, document: object) -> None:
        """Make `document` the JSON content of the member, adding it when there is none."""
        if all(item.name != name for item in self.items):
            self.items.append(Item(name))
        self.item(name).data = compact(document)

    def document(self, name: str) -> Any:
        """Return the JSON content of a member."""
        return json.loads(self.item(name).data)

    def to_bytes(self) -> bytes:
        """Write the tar, with an end marker of exactly two blocks as Go does."""
        return b"".join(self.blocks()) + bytes(2 * BLOCK)

    def blocks(self) -> Iterator[bytes]:
        """Yield each member's bytes: headers, data, padding."""
        for item in self.items:
            info = tarfile.TarInfo(item.name)
            info.type, info.linkname, info.pax_headers = item.type, item.link, dict(item.pax)
            info.size = len(item.data)
            info.mode = 0o755 if item.type == tarfile.DIRTYPE else 0o644
            info.uname = info.gname = "root"
            header = info.tobuf(self.tar_format, "utf-8", "surrogateescape")
            yield header + item.data + bytes(-len(item.data) % BLOCK)


def layer(files: dict[str, bytes]) -> bytes:
    """Return an uncompressed layer with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def configuration(layers: Sequence[bytes], **fields: object) -> bytes:
    """Return the image configuration for these uncompressed layers, with `fields` of its own."""
    document: dict[str, object] = {
        "architecture": "amd64",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": {}},
        "created": "2026-01-01T00:00:00Z",
        "docker_version": "20.10.24",
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "/bin/sh"} for _ in layers],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(data)}" for data in layers]},
        **fields,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def classic(
    layers: Sequence[bytes],
    tags: Sequence[str] = ("work:1",),
    tar_format: Format = tarfile.GNU_FORMAT,
    **fields: object,
) -> Archive:
    """Return the archive of one image as Docker Engine 20.10 saves it.

    A layer that came before is a symbolic link to its first place. Without tags (an image saved
    by its id) RepoTags is null and there is no `repositories`. The document of the top layer
    repeats the configuration, which has `fields` of its own.
    """
    config = configuration(layers, **fields)
    items: list[Item] = []
    places: dict[bytes, str] = {}
    ids: list[str] = []
    for number, data in enumerate(layers):
        layer_id = digest(b"%d" % number + data)
        legacy = legacy_document(layer_id, ids, config if number == len(layers) - 1 else b"{}")
        items += [
            Item(f"{layer_id}/", type=tarfile.DIRTYPE),
            Item(f"{layer_id}/VERSION", b"1.0"),
            Item(f"{layer_id}/json", legacy),
        ]
        if data in places:
            items.append(
                Item(f"{layer_id}/layer.tar", type=tarfile.SYMTYPE, link=f"../{places[data]}")
            )
        else:
            places[data] = f"{layer_id}/layer.tar"
            items.append(Item(places[data], data))
        ids.append(layer_id)
    archive = Archive(items, f"{digest(config)}.json", [f"{i}/layer.tar" for i in ids], tar_format)
    archive.items.append(Item(archive.config, config))
    # The engine tars a folder, so members come sorted by name.
    archive.items.sort(key=lambda item: item.name)
    _add_names(archive, tags, ids[-1])
    return archive


def legacy_document(layer_id: str, below: Sequence[str], config: bytes) -> bytes:
    """Return a layer's `json` for Docker before 1.10; `config` is {} but for the top layer's."""
    document = {"id": layer_id, "created": "1970-01-01T00:00:00Z", "os": "linux"}
    if below:
        document["parent"] = below[-1]
    document |= json.loads(config)
    for name in ("rootfs", "history"):
        document.pop(name, None)
    return json.dumps(document, separators=(",", ":")).encode()


def oci(
    layers: Sequence[bytes],
    tags: Sequence[str] = ("work:1",),
    tar_format: Format = tarfile.GNU_FORMAT,
    *,
    compressed: bool = False,
    **fields: object,
) -> Archive:
    """Return the archive of one image as Docker Engine 25 saves it.

    It has the layers' legacy documents as blobs that nothing refers to. With `compressed` as from
    the containerd store: the blobs are gzipped layers, and there are no such documents.
    """
    config = configuration(layers, **fields)
    ids = [digest(b"%d" % number + data) for number, data in enumerate(layers)]
    tops = [config if number == len(layers) - 1 else b"{}" for number in range(len(layers))]
    legacy = [legacy_document(each, ids[:at], tops[at]) for at, each in enumerate(ids)]
    blobs = [gzip.compress(data, mtime=0) if compressed else data for data in layers]
    manifest = compact(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", b) for b in blobs],
        }
    ).rstrip()
    names = [f"blobs/sha256/{digest(blob)}" for blob in blobs]
    archive = Archive([], f"blobs/sha256/{digest(config)}", names, tar_format)
    archive.items = [
        Item("blobs/", type=tarfile.DIRTYPE),
        Item("blobs/sha256/", type=tarfile.DIRTYPE),
    ]
    for blob in sorted({config, manifest, *blobs, *([] if compressed else legacy)}, key=digest):
        archive.items.append(Item(f"blobs/sha256/{digest(blob)}", blob))
    target = descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    archive.put(
        "index.json",
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{**target, "annotations": name_annotations(tag)} for tag in tags]
            or [target],
        },
    )
    _add_names(archive, tags, digest(layers[-1]))
    archive.items.insert(-1, Item("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'))
    return archive


def descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    """Return an OCI descriptor of `blob`."""
    return {"mediaType": media_type, "digest": f"sha256:{digest(blob)}", "size": len(blob)}


def name_annotations(tag: str) -> dict[str, str]:
    """Return the annotations that name an image, for a `name:tag` without a domain."""
    return {
        "io.containerd.image.name": f"docker.io/library/{tag}",
        "org.opencontainers.image.ref.name": tag.partition(":")[2],
    }


def _add_names(archive: Archive, tags: Sequence[str], top: str) -> None:
    entry = {"Config": archive.config, "RepoTags": list(tags) or None, "Layers": archive.layers}
    archive.put("manifest.json", [entry])
    repositories: dict[str, dict[str, str]] = {}
    for name, _, tag in (each.partition(":") for each in tags):
        repositories.setdefault(name, {})[tag] = top
    if repositories:
        archive.put("repositories", repositories)
