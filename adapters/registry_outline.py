"""What an archive was beside its layers, so that a download gives the very bytes of the upload.

An image in a registry is its layers and its configuration; tar headers, names, order and the small
documents of a docker-archive are not kept. The outline is the archive with the layers cut out. It
stands, compressed, in the image's manifest: some kilobytes, as most of it repeats.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tintype.adapters.registry_packing import pack, unpack
from tintype.core.errors import CorruptDownload

OUTLINE_BYTES = 16 << 20
"""Longest outline, unpacked."""
TEXT_BYTES = 1 << 20
"""Longest outline as it stands in a manifest, whose limit is 4 MiB."""

REST = "tintype.archive.rest"
CUTS = "tintype.archive.layers"
"""The annotations in which an outline stands."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A layer that was cut out."""

    offset: int
    """Bytes of the rest that stand before it."""
    digest: str
    """The blob that it became."""
    size: int
    """Its bytes in the archive."""
    packed: bool
    """Whether it was compressed on the way, so that it must be unpacked again."""


@dataclass(frozen=True, slots=True)
class Outline:
    """An archive without its layers."""

    rest: bytes
    cuts: Sequence[Cut]

    def annotations(self) -> dict[str, str]:
        """Write the outline down; nothing where it would be too long for a manifest."""
        rest = b64encode(pack(self.rest)).decode("ascii")
        cuts = json.dumps([[cut.offset, cut.digest, cut.size, cut.packed] for cut in self.cuts])
        return {REST: rest, CUTS: cuts} if len(rest) + len(cuts) <= TEXT_BYTES else {}

    @classmethod
    def read(cls, annotations: Mapping[str, str]) -> Outline | None:
        """Return the outline in a manifest; None: there is none. Raises CorruptDownload."""
        if REST not in annotations or CUTS not in annotations:
            return None
        try:
            rest = unpack(b64decode(annotations[REST], validate=True), OUTLINE_BYTES)
            cuts = [Cut(*_checked(cut)) for cut in json.loads(annotations[CUTS])]
        except (ValueError, TypeError, RecursionError) as error:
            raise CorruptDownload("the image's tintype.archive annotations are damaged") from error
        return cls(rest, cuts)

    def archive(self, layer: Callable[[Cut], Iterator[bytes]]) -> Iterator[bytes]:
        """Put the archive together again; `layer` gives what was cut out."""
        done = 0
        for cut in self.cuts:
            if not done <= cut.offset <= len(self.rest):
                raise CorruptDownload("the image's tintype.archive annotations are damaged")
            yield self.rest[done : cut.offset]
            yield from layer(cut)
            done = cut.offset
        yield self.rest[done:]


def _checked(cut: object) -> tuple[int, str, int, bool]:
    """Return a cut's fields. Raises ValueError for what is none."""
    match cut:
        case [int(offset), str(digest), int(size), bool(packed)] if offset >= 0 and size >= 0:
            return offset, digest, size, packed
        case _:
            raise ValueError("not a cut")
