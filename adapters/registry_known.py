"""Layers that were sent before, so that a base image goes to the registry once.

The engine gives a layer the same name in each archive, but its digest is known only when all of it
has passed. So a layer that passes under a known name is not sent but read, and must turn out to be
what it was; the registry is asked beforehand whether it still has the blob.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

from tintype.adapters.registry_blobs import Blobs
from tintype.adapters.registry_manifest import Descriptor

LIMIT = 4096
"""Layers remembered; the least used is forgotten first."""


class KnownLayers:
    """What this process has sent. Threads may share it."""

    def __init__(self) -> None:
        """Know nothing."""
        self._layers: OrderedDict[tuple[str, str], Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, blobs: Blobs, name: str, size: int) -> Descriptor | None:
        """Return the layer of this name and unpacked size, if the registry has it."""
        with self._lock:
            layer = self._layers.get((blobs.repository, name))
        if layer is None or layer.unpacked != size or not blobs.has(layer.digest, layer.size):
            return None
        return layer

    def add(self, blobs: Blobs, name: str, layer: Descriptor) -> None:
        """Remember a layer that is in the registry."""
        with self._lock:
            self._layers[blobs.repository, name] = layer
            self._layers.move_to_end((blobs.repository, name))
            while len(self._layers) > LIMIT:
                self._layers.popitem(last=False)

    def forget(self, blobs: Blobs, digests: Collection[str]) -> None:
        """Have layers sent the next time."""
        with self._lock:
            for key, layer in [*self._layers.items()]:
                if key[0] == blobs.repository and layer.digest in digests:
                    del self._layers[key]
