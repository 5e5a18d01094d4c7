"""Archives of images from which a container can be made and run, in both layouts."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tests import archives

Layout = Literal["classic", "oci"]
SLEEP = ["/bin/busybox", "sleep", "1000"]


@cache
def busybox() -> bytes:
    """Return a program that needs nothing else to run."""
    found = shutil.which("busybox")
    assert found, "busybox-static is not installed"
    return Path(found).read_bytes()


def layer(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """Return a layer of executable files and hard links; a name that ends in / is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.size, member.mode = len(data), 0o755
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


def base_layer() -> bytes:
    """Return a layer from which a container runs."""
    passwd = b"root:x:0:0:root:/:/bin/sh\nguest:x:1000:1000:guest:/:/bin/sh\n"
    return layer({"bin/busybox": busybox(), "etc/passwd": passwd})


def image_archive(
    name: str,
    layers: Sequence[bytes] = (),
    config: Mapping[str, Any] | None = None,
    layout: Layout = "classic",
) -> archives.Archive:
    """Return the archive of an image that runs, like no other, with layers over its first one.

    `config` is put over its configuration's `config`.
    """
    build = archives.classic if layout == "classic" else archives.oci
    archive = build([base_layer(), *layers], [name])
    document = archive.document(archive.config)
    unique = {"test": secrets.token_hex(8)}
    document["config"] = {"Cmd": SLEEP, "Env": ["PATH=/bin"], "Labels": unique, **(config or {})}
    reconfigure(archive, document)
    return archive


def reconfigure(archive: archives.Archive, document: Mapping[str, Any]) -> None:
    """Give an archive's image another configuration, as far as a load looks at it."""
    data = json.dumps(document).encode()
    item = archive.item(archive.config)
    folder, ending = ("blobs/sha256/", "") if "/" in archive.config else ("", ".json")
    item.name, item.data = f"{folder}{archives.digest(data)}{ending}", data
    archive.config = item.name
    [entry] = archive.document("manifest.json")
    archive.put("manifest.json", [{**entry, "Config": item.name}])


def digest_of(archive: archives.Archive) -> str:
    """Return the digest of an archive's image configuration."""
    return f"sha256:{PurePosixPath(archive.config).stem}"
