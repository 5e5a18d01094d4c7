"""What a capture holds, read as the upload reads it."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any

from tintype.core.archive import ArchiveStream, ArchiveSummary
from tintype.core.engine import Capture


@dataclass
class Content:
    """What a capture was found to hold."""

    summary: ArchiveSummary
    document: dict[str, Any]
    """The image configuration."""
    layers: list[bytes] = field(repr=False)
    """Each layer's tar, lowest first."""

    @property
    def config(self) -> dict[str, Any]:
        """What the image configuration says of containers."""
        config: dict[str, Any] = self.document["config"]
        return config

    @property
    def env(self) -> dict[str, str]:
        """Environment variables."""
        return dict(each.split("=", 1) for each in self.config.get("Env") or ())

    @property
    def members(self) -> dict[str, tarfile.TarInfo]:
        """Members of all layers by absolute path, upper ones over lower ones; no whiteouts."""
        found: dict[str, tarfile.TarInfo] = {}
        for layer in self.layers:
            with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
                found |= {f"/{each.name}": each for each in tar}
        return found

    @property
    def files(self) -> dict[str, bytes]:
        """Regular files of all layers by absolute path."""
        found: dict[str, bytes] = {}
        for layer in self.layers:
            with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
                found |= {f"/{each.name}": member(tar, each.name) for each in tar if each.isfile()}
        return found


def content(capture: Capture) -> Content:
    """Read a capture the way the upload does, checked, and unpack it."""
    with capture.read() as chunks:
        stream = ArchiveStream(chunks, "snapshot:1")
        data = b"".join(stream)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        [manifest] = json.loads(member(archive, "manifest.json"))
        layers = [member(archive, layer) for layer in manifest["Layers"]]
        document = json.loads(member(archive, manifest["Config"]))
    return Content(stream.summary, document, layers)


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return a member's data."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
