"""Uploads under way: one at a time for each image, and whose failure it is when one fails."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tintype.core.errors import Unavailable


@dataclass(slots=True)
class Uploads:
    """Which images are being filled by this process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    running: set[tuple[str, str]] = field(default_factory=set)

    @contextmanager
    def alone(self, repository: str, image_id: str) -> Iterator[None]:
        """Let one upload of an image run at a time. Raises Unavailable for a second."""
        key = repository, image_id.lower()
        with self.lock:
            if key in self.running:
                raise Unavailable(f"another upload of image {image_id} is under way")
            self.running.add(key)
        try:
            yield
        finally:
            with self.lock:
                self.running.discard(key)


class Watched:
    """The data of an upload, and whether getting it failed."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Take what is to be sent."""
        self.failed = True
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.failed = False
            yield chunk
            self.failed = True
        self.failed = False
