"""What a docker-archive holds: its image's configuration, and its files as a container sees them.

For the engine in memory: it judges an archive as the Docker Engine does when it loads one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tintype.core.errors import Refused

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
"""OCI image specification, layer.md: what a layer takes away from those below it."""


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """An image: the configuration's digest, what it says of containers, and the files."""

    digest: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """The `config` of the image configuration: Env, Cmd, Labels ..."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Regular files by absolute path, all layers over each other."""
    layers: int = 1
    """How many layers it has."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels, which containers made from it have too."""
        return self.config.get("Labels") or {}

    @property
    def env(self) -> Mapping[str, str]:
        """Its environment variables."""
        return dict(each.split("=", 1) for each in self.config.get("Env") or () if "=" in each)


def read_image(archive: bytes) -> tuple[str, MemoryImage]:
    """Return the archive's only name, and its image. Raises Refused for anything else."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            [entry] = json.loads(_member(tar, "manifest.json"))
            [name] = entry["RepoTags"]
            config = _member(tar, entry["Config"])
            layers = [_unpacked(_member(tar, layer)) for layer in entry["Layers"]]
        described = json.loads(config)
        if list(map(_digest, layers)) != described["rootfs"]["diff_ids"]:
            raise Refused("the archive's layers are not those that its configuration names")
        image = MemoryImage(
            _digest(config), described.get("config") or {}, _flattened(layers), len(layers)
        )
    except (tarfile.TarError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise Refused(f"the archive holds no image: {error!r}") from error
    return name, image


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)  # of a link: what it points at, in the same tar
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()


def _unpacked(layer: bytes) -> bytes:
    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer


def _flattened(layers: list[bytes]) -> dict[str, bytes]:
    """Return the regular files that are left when the layers lie over each other."""
    files: dict[str, bytes] = {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            members = tar.getmembers()
            for member in members:
                _take_away(files, member)
            files |= {_path(each.name): _member(tar, each.name) for each in members if _plain(each)}
    return files


def _path(name: str) -> str:
    return posixpath.normpath(f"/{name}")


def _plain(member: tarfile.TarInfo) -> bool:
    return (member.isfile() or member.islnk()) and not posixpath.basename(member.name).startswith(
        _WHITEOUT
    )


def _take_away(files: dict[str, bytes], member: tarfile.TarInfo) -> None:
    """Take out of the layers below what a member of the next one hides."""
    path = _path(member.name)
    folder, base = posixpath.split(path)
    if base == _OPAQUE:
        _remove_below(files, folder)
        return
    hidden = posixpath.join(folder, base.removeprefix(_WHITEOUT))
    files.pop(hidden, None)
    if not member.isdir():
        _remove_below(files, hidden)


def _remove_below(files: dict[str, bytes], folder: str) -> None:
    prefix = f"{folder.rstrip('/')}/"
    for path in [each for each in files if each.startswith(prefix)]:
        del files[path]


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
