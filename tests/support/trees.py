"""The file system of a running container, as its own processes see it, written down to compare."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NOT_OF_THE_IMAGE = frozenset({"dev", "proc", "sys", ".dockerenv"})
"""What stands at the top of every container and is the engine's, or the kernel's."""

MANAGED = frozenset({"etc/hosts", "etc/hostname", "etc/resolv.conf"})
"""Files that the engine mounts over those of the image."""

MADE_ANEW = frozenset({"etc", "etc/mtab"})
"""What the engine changes below each container's own layer when it makes one (moby's
`initlayer.Setup`), so that its time is that of the container's creation."""

Tree = Mapping[str, Mapping[str, Any]]
"""Path -> what is known of it."""


def tree_of(pid: int) -> Tree:
    """Return all that a container's main process can see of its image, by path.

    Times are in whole seconds, since an image's layers hold no others. Hard links to one file have
    the same `twins`: the first of their paths.
    """
    root = Path(f"/proc/{pid}/root")
    first: dict[tuple[int, int], str] = {}
    found = {}
    for path, entry in sorted(_walk(root, "")):
        info = entry.lstat()
        file = stat.S_ISREG(info.st_mode)
        found[path] = {
            "mode": oct(info.st_mode),
            "owner": (info.st_uid, info.st_gid),
            "mtime": None if path in MADE_ANEW else int(info.st_mtime),
            "size": info.st_size if file else None,
            "target": str(entry.readlink()) if entry.is_symlink() else None,
            "device": info.st_rdev,
            "twins": first.setdefault((info.st_dev, info.st_ino), path) if file else None,
            "xattrs": _attributes(entry),
            "content": hashlib.sha256(entry.read_bytes()).hexdigest() if file else None,
        }
    return found


def _walk(folder: Path, below: str) -> Iterator[tuple[str, Path]]:
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names that are no UTF-8 stay as they are
        path = f"{below}/{name}" if below else name
        if path in MANAGED or (not below and name in NOT_OF_THE_IMAGE):
            continue
        entry = folder / name
        yield path, entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, path)


def _attributes(entry: Path) -> dict[str, bytes]:
    names = os.listxattr(entry, follow_symlinks=False)
    return {name: os.getxattr(entry, name, follow_symlinks=False) for name in names}
