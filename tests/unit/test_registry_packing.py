"""Packing is the same each time, and unpacking is bounded."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from tintype.adapters.registry_outline import REST, Cut, Outline
from tintype.adapters.registry_packing import PIECE_BYTES, pack, packed, unpack, unpacked

DATA = random.Random(3).randbytes(700_000) + bytes(3_000_000)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Return data in pieces."""
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1000, 65536, 10_000_000])
def test_what_was_packed_comes_back(size: int) -> None:
    blob = b"".join(packed(pieces(DATA, 99_999)))
    assert gzip.decompress(blob) == DATA
    assert b"".join(unpacked(pieces(blob, size))) == DATA
    assert max(map(len, unpacked(pieces(blob, size)))) <= PIECE_BYTES
    assert blob == b"".join(packed(pieces(DATA, 99_999)))
    assert blob[4:8] == bytes(4)  # no time


def test_nothing_is_packed_too() -> None:
    assert b"".join(unpacked([b"".join(packed([]))])) == b""
    assert unpack(pack(b""), 10) == b""


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", "ends early"),
        (pack(DATA)[:-9], "ends early"),
        (pack(DATA) + b"x", "behind its end"),
        (b"no gzip at all", "."),
    ],
    ids=["empty", "short", "more", "other"],
)
def test_what_cannot_be_unpacked_is_a_value_error(blob: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(unpacked(pieces(blob, 100_000)))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = pack(bytes(200_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too long"):
            unpack(bomb, 1_000_000)
        assert sum(1 for _ in zip(unpacked([bomb]), range(20), strict=False)) == 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


def test_an_outline_is_written_and_read() -> None:
    outline = Outline(b"head" + b"tail", [Cut(4, "sha256:a", 2, packed=True)])
    again = Outline.read(outline.annotations())
    assert again == outline
    assert again is not None
    assert b"".join(again.archive(lambda cut: iter([b"x" * cut.size]))) == b"headxxtail"
    assert Outline.read({}) is None
    assert Outline.read({REST: "x"}) is None


def test_an_outline_that_is_too_long_for_a_manifest_is_not_written() -> None:
    assert Outline(random.Random(1).randbytes(1 << 20), []).annotations() == {}
