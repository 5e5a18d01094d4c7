"""Every byte of an archive, also of what is packed in it."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping


def unpacked_members(archive: bytes) -> Mapping[str, bytes]:
    """Return each member's data by its name, unpacked where it was packed, headers as `headers`.

    So a search for bytes misses nothing, neither what is packed nor a header of the archive itself.
    """
    found = {"headers": archive}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            data = file.read() if file else b""
            found[member.name] = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return found
