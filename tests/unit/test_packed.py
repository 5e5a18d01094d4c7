"""Archives compressed as a whole, and downloads that are not what the store says."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import archives
from tintype.core.archive import ArchiveStream
from tintype.core.errors import CorruptArchive, CorruptDownload
from tintype.core.packed import PIECE_LIMIT, unpacked, verified

TAR = archives.classic([archives.layer({"a": random.Random(1).randbytes(70_000)})]).to_bytes()
PACKERS: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress]
every_packer = pytest.mark.parametrize("pack", PACKERS)


def pieces(data: bytes, size: int) -> list[bytes]:
    """Cut `data` into pieces."""
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 3, 4096, 1 << 20])
@every_packer
def test_unpacks(pack: Callable[[bytes], bytes], size: int) -> None:
    assert b"".join(unpacked(pieces(pack(TAR), size))) == TAR


@pytest.mark.parametrize("size", [1, 4096, 1 << 20])
@pytest.mark.parametrize("data", [TAR, b"", b"x", b"\x1f", b"abcdefgh"])
def test_everything_else_passes(data: bytes, size: int) -> None:
    assert b"".join(unpacked([b"", *pieces(data, size), b""])) == data


@every_packer
def test_unpacked_archive_is_one(pack: Callable[[bytes], bytes]) -> None:
    stream = ArchiveStream(unpacked([pack(TAR)]), "snap:2")
    plain = ArchiveStream([TAR], "snap:2")
    assert b"".join(stream) == b"".join(plain)


@given(st.lists(st.binary(max_size=2000), max_size=4), st.integers(1, 3000), st.integers(0, 2))
@settings(deadline=None)
def test_streams_one_after_another_are_one(parts: list[bytes], size: int, packer: int) -> None:
    data = b"".join(PACKERS[packer](part) for part in parts)
    assert b"".join(unpacked(pieces(data, size))) == b"".join(parts)


@every_packer
def test_zeros_may_follow(pack: Callable[[bytes], bytes]) -> None:
    for size in (1, 512, 1 << 20):
        assert b"".join(unpacked(pieces(pack(TAR) + bytes(1024), size))) == TAR
        data = pack(TAR) + bytes(4) + pack(b"more") + bytes(4)
        assert b"".join(unpacked(pieces(data, size))) == TAR + b"more"


@every_packer
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_cut_anywhere_is_refused(pack: Callable[[bytes], bytes], draw: st.DataObject) -> None:
    data = pack(TAR)
    cut = draw.draw(st.integers(6, len(data) - 1))
    with pytest.raises(CorruptArchive, match="ends early"):
        list(unpacked(pieces(data[:cut], 4096)))


@every_packer
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_damage_is_refused(pack: Callable[[bytes], bytes], draw: st.DataObject) -> None:
    data = bytearray(pack(TAR))
    at = draw.draw(st.integers(60, len(data) - 60))
    data[at] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(CorruptArchive, match=r"is damaged|ends early"):
        list(unpacked([bytes(data)]))


@every_packer
def test_what_follows_must_be_the_same_kind_of_stream(pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CorruptArchive, match="is damaged"):
        list(unpacked([pack(TAR) + b"more than that"]))


def test_zstd_is_named() -> None:
    with pytest.raises(CorruptArchive, match="zstd"):
        list(unpacked([b"\x28\xb5\x2f\xfd", bytes(20)]))


def test_xz_that_wants_too_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    data = lzma.compress(b"x", filters=filters)
    with pytest.raises(CorruptArchive, match="is damaged"):
        list(unpacked([data]))


@every_packer
def test_bomb_takes_no_memory(pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(64 << 20))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        sizes = [len(piece) for piece in unpacked([bomb])]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= PIECE_LIMIT
    assert peak < 16 << 20


def test_nothing_is_read_before_it_is_asked_for() -> None:
    def chunks() -> Iterator[bytes]:
        pytest.fail("read")
        yield b""

    unpacked(chunks())
    verified(chunks(), size_bytes=1)


def test_unpacked_piece_that_just_fits_is_not_the_last() -> None:
    data = zlib.compress(bytes(PIECE_LIMIT * 2), wbits=31)
    assert b"".join(unpacked(pieces(data, 1))) == bytes(PIECE_LIMIT * 2)


# What a store says


def facts(data: bytes) -> dict[str, object]:
    """Return what a store would say of `data`."""
    return {
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha512": hashlib.sha512(data).hexdigest().upper(),
    }


@pytest.mark.parametrize("known", [[], ["size_bytes"], ["sha256"], ["sha512"], [*facts(b"")]])
def test_what_the_store_has_comes_through(known: list[str]) -> None:
    wanted = {name: value for name, value in facts(TAR).items() if name in known}
    assert list(verified(pieces(TAR, 1000), **wanted)) == pieces(TAR, 1000)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*facts(b"")])
@pytest.mark.parametrize("data", [b"", TAR[:-1], TAR + b"\0"])
def test_other_size_is_no_download(name: str, data: bytes) -> None:
    with pytest.raises(CorruptDownload):
        list(verified(pieces(data, 1000), **{name: facts(TAR)[name]}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_other_bytes_are_no_download(name: str) -> None:
    with pytest.raises(CorruptDownload, match=f"other bytes came than the store has: {name}"):
        list(verified([b"x" + TAR[1:]], **{name: facts(TAR)[name]}))  # type: ignore[arg-type]


def test_too_much_is_not_read_to_the_end() -> None:
    def chunks() -> Iterator[bytes]:
        yield TAR
        yield b"\0"
        pytest.fail("read on")

    with pytest.raises(CorruptDownload, match="more than"):
        list(verified(chunks(), size_bytes=len(TAR)))


def test_short_download_is_told_from_a_damaged_archive() -> None:
    stream = ArchiveStream(unpacked(verified([TAR[:-1]], size_bytes=len(TAR))), "snap:2")
    with pytest.raises(CorruptDownload):
        list(stream)
    # The hash is looked at even though nothing of the archive comes behind its end marker.
    damaged = verified([TAR], sha256=facts(b"")["sha256"])  # type: ignore[arg-type]
    with pytest.raises(CorruptDownload):
        list(ArchiveStream(unpacked(damaged), "snap:2"))
