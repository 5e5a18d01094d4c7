"""Where everything of one stack lives, and the small files it is remembered by."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Longest folder, in bytes, under which dockerd's deepest socket still fits into `sun_path`
#: (107 bytes): it adds `/exec/containerd/containerd-debug.sock.ttrpc`.
LONGEST_SOCKET_DIR = 60


class StackError(Exception):
    """The stack cannot do what was asked; the message is for the person who asked."""


@dataclass(frozen=True)
class Layout:
    """The folder of one stack and the paths in it."""

    root: Path

    @classmethod
    def find(cls) -> Layout:
        """Return the stack of this checkout, or the one TINTYPE_STACK_DIR names."""
        checkout = Path(__file__).resolve().parents[2]
        return cls(Path(os.environ.get("TINTYPE_STACK_DIR") or checkout / ".stack").resolve())

    @property
    def tag(self) -> str:
        """Return eight hex digits that tell this stack from others on the machine."""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:8]

    def home(self, service: str) -> Path:
        """Return the folder of a service's configuration and data, and make it."""
        return make_folder(self.root / service)

    def log(self, daemon: str) -> Path:
        """Return the log file of a daemon."""
        return make_folder(self.root / "log") / f"{daemon}.log"

    def pid_file(self, daemon: str) -> Path:
        """Return the file that remembers a daemon's process."""
        return make_folder(self.root / "run") / f"{daemon}.json"

    def sockets(self, service: str) -> Path:
        """Return a folder for a service's sockets, short enough for `sun_path`."""
        near = self.root / service / "run"
        if len(os.fsencode(near)) <= LONGEST_SOCKET_DIR:
            return make_folder(near)
        base = Path("/run" if os.access("/run", os.W_OK) else "/tmp")
        short = base / f"tintype-{self.tag}-{service}"
        short.mkdir(mode=0o700, exist_ok=True)
        if short.is_symlink() or short.stat().st_uid != os.getuid():
            raise StackError(f"{short} belongs to somebody else")
        return short

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the stack for one command: a second `up` or `down` waits here."""
        with (make_folder(self.root) / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another stack.py is at work, waiting for it", flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_text(path: Path, text: str, mode: int = 0o600) -> bool:
    """Replace a file as a whole; return whether its content changed."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    make_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    Path(temporary).chmod(mode)
    Path(temporary).replace(path)
    return True


def write_json(path: Path, value: object) -> bool:
    """Replace a JSON file as a whole; return whether its content changed."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty when the file is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
