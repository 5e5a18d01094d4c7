"""The archive stream: what it lets through, what it changes, and all it must refuse."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import archives
from tests.archives import Archive, Item
from tintype.core import documents as module
from tintype.core.archive import CHUNK_LIMIT, ArchiveStream, ArchiveSummary
from tintype.core.errors import CorruptArchive
from tintype.core.tar import END_MARKER

BASE = archives.layer({"bin/sh": b"#!" + bytes(range(256)) * 9})
CHANGE = archives.layer({"etc/motd": b"hello\n"})
LAYERS = [BASE, CHANGE, BASE]
DIFF_IDS = tuple(f"sha256:{archives.digest(data)}" for data in LAYERS)
CLASSIC = archives.classic(LAYERS).to_bytes()
OCI = archives.oci(LAYERS).to_bytes()

Builder = Callable[..., Archive]
both_layouts = pytest.mark.parametrize("build", [archives.classic, archives.oci])
both_formats = pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def passed(data: bytes, tag: str = "snap:2", chunk: int = 1 << 16) -> tuple[bytes, ArchiveSummary]:
    """Send `data` through a stream in equal chunks."""
    chunks = (data[start : start + chunk] for start in range(0, len(data), chunk))
    stream = ArchiveStream(chunks, tag)
    return b"".join(stream), stream.summary


def refused(data: bytes) -> str:
    """Return the message with which `data` is refused; what came out must be useless."""
    chunks: list[bytes] = []
    stream = ArchiveStream([data], "snap:2")
    with pytest.raises(CorruptArchive) as caught:
        chunks.extend(stream)
    assert b"manifest.json" not in b"".join(chunks)
    with pytest.raises(RuntimeError):
        _ = stream.summary
    return str(caught.value)


def contents(data: bytes) -> dict[str, bytes]:
    """Return the regular files of a tar, read by somebody else's reader."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            if info.isreg():
                file = tar.extractfile(info)
                assert file is not None
                files[info.name] = file.read()
    return files


# What goes through


@both_layouts
@both_formats
def test_names_the_image_and_leaves_the_rest(build: Builder, tar_format: archives.Format) -> None:
    archive = build(LAYERS, tags=["work:1"], tar_format=tar_format)
    out, _ = passed(archive.to_bytes())

    before, after = contents(archive.to_bytes()), contents(out)
    assert after.keys() == before.keys()
    assert json.loads(after["manifest.json"])[0]["RepoTags"] == ["snap:2"]
    (top,) = json.loads(before["repositories"])["work"].values()
    assert json.loads(after["repositories"]) == {"snap": {"2": top}}
    for name in before.keys() - {"manifest.json", "repositories", "index.json"}:
        assert after[name] == before[name]


@both_layouts
def test_members_pass_bit_for_bit(build: Builder) -> None:
    archive = build(LAYERS)
    out, _ = passed(archive.to_bytes())
    renamed = {"manifest.json", "repositories", "index.json"}
    for item, raw in zip(archive.items, archive.blocks(), strict=True):
        assert (raw in out) == (item.name not in renamed), item.name


@both_layouts
def test_summary_is_of_what_came_out(build: Builder) -> None:
    archive = build(LAYERS)
    out, summary = passed(archive.to_bytes())
    assert summary == ArchiveSummary(
        size_bytes=len(out),
        sha256=hashlib.sha256(out).hexdigest(),
        sha512=hashlib.sha512(out).hexdigest(),
        config_digest=f"sha256:{archives.digest(archive.item(archive.config).data)}",
        layers=DIFF_IDS,
    )


@pytest.mark.parametrize("data", [CLASSIC, OCI])
@given(st.lists(st.integers(0, 4000), max_size=40), st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_chunking_changes_nothing(data: bytes, sizes: list[int], rest: int) -> None:
    chunks, start = [], 0
    for size in sizes:
        chunks.append(data[start : start + size])
        start += size
    chunks += [data[at : at + rest] for at in range(start, len(data), rest)]
    stream = ArchiveStream(chunks, "snap:2")
    assert (b"".join(stream), stream.summary) == passed(data, chunk=len(data))


@pytest.mark.parametrize("data", [CLASSIC, OCI])
def test_single_bytes_are_enough(data: bytes) -> None:
    assert passed(data, chunk=1) == passed(data, chunk=len(data))


def test_passing_twice_gives_the_same_archive() -> None:
    out, summary = passed(CLASSIC)
    assert passed(out) == (out, summary)


@both_layouts
def test_image_saved_by_id_gets_a_name(build: Builder) -> None:
    out, _ = passed(build(LAYERS, tags=[]).to_bytes())
    after = contents(out)
    assert json.loads(after["manifest.json"])[0]["RepoTags"] == ["snap:2"]
    assert "repositories" not in after
    if build is archives.oci:
        (described,) = json.loads(after["index.json"])["manifests"]
        assert described["annotations"] == archives.name_annotations("snap:2")


@both_layouts
def test_several_tags_become_one(build: Builder) -> None:
    out, _ = passed(build(LAYERS, tags=["work:1", "work:2", "other:1"]).to_bytes())
    after = contents(out)
    assert json.loads(after["manifest.json"])[0]["RepoTags"] == ["snap:2"]
    assert list(json.loads(after["repositories"])) == ["snap"]
    if build is archives.oci:
        (described,) = json.loads(after["index.json"])["manifests"]
        assert described["annotations"] == archives.name_annotations("snap:2")


@both_layouts
def test_order_of_members_does_not_matter(build: Builder) -> None:
    archive = build(LAYERS)
    expected = contents(passed(archive.to_bytes())[0])
    for seed in range(10):
        random.Random(seed).shuffle(archive.items)
        assert contents(passed(archive.to_bytes())[0]) == expected


def test_unknown_manifest_fields_and_parent_stay() -> None:
    archive = archives.classic(LAYERS)
    (entry,) = archive.document("manifest.json")
    archive.put("manifest.json", [{**entry, "Parent": "sha256:1", "LayerSources": {"a": {}}}])
    (after,) = json.loads(contents(passed(archive.to_bytes())[0])["manifest.json"])
    assert after == {
        **entry,
        "Parent": "sha256:1",
        "LayerSources": {"a": {}},
        "RepoTags": ["snap:2"],
    }


@pytest.mark.parametrize(
    ("repo_tag", "canonical"),
    [
        ("snap:2", "docker.io/library/snap:2"),
        ("project/snap:2", "docker.io/project/snap:2"),
        ("docker.io/snap:2", "docker.io/library/snap:2"),
        ("index.docker.io/a/snap:2", "docker.io/a/snap:2"),
        ("localhost/snap:2", "localhost/snap:2"),
        ("host:5000/a/snap:v1.0-rc_1", "host:5000/a/snap:v1.0-rc_1"),
        ("registry.example/snap:2", "registry.example/snap:2"),
    ],
)
def test_index_has_the_full_reference(repo_tag: str, canonical: str) -> None:
    after = contents(passed(OCI, repo_tag)[0])
    (described,) = json.loads(after["index.json"])["manifests"]
    assert described["annotations"] == {
        "io.containerd.image.name": canonical,
        "org.opencontainers.image.ref.name": repo_tag.rpartition(":")[2],
    }
    assert json.loads(after["manifest.json"])[0]["RepoTags"] == [repo_tag]


@pytest.mark.parametrize(
    "name", ["snap", "", ":2", "host:5000/snap", "a b:2", "snap@sha256:00", "a:"]
)
def test_name_without_tag_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="not an image name and tag"):
        ArchiveStream([], name)


# The stream as an object


def test_can_be_read_only_once() -> None:
    stream = ArchiveStream([CLASSIC], "snap:2")
    assert list(stream)
    with pytest.raises(RuntimeError, match="only once"):
        iter(stream)


def test_summary_only_after_the_end() -> None:
    stream = ArchiveStream([CLASSIC], "snap:2")
    with pytest.raises(RuntimeError, match="not passed"):
        _ = stream.summary
    next(iter(stream))
    with pytest.raises(RuntimeError, match="not passed"):
        _ = stream.summary


def test_looks_like_nothing_but_an_iterable() -> None:
    stream = ArchiveStream([CLASSIC], "snap:2")
    for attribute in ("__len__", "read", "seek", "tell", "fileno", "name", "mode", "__next__"):
        assert not hasattr(stream, attribute)


@pytest.mark.parametrize("chunk", [512, 300_000, CHUNK_LIMIT, 1 << 20, 16 << 20])
def test_chunks_are_full_and_never_too_large(chunk: int) -> None:
    data = archives.classic([random.Random(1).randbytes(3 << 20), BASE]).to_bytes()
    chunks = list(
        ArchiveStream([data[at : at + chunk] for at in range(0, len(data), chunk)], "s:2")
    )
    assert all(type(each) is bytes for each in chunks)
    assert {len(each) for each in chunks[:-1]} == {CHUNK_LIMIT}
    assert 0 < len(chunks[-1]) <= CHUNK_LIMIT


def test_an_error_of_the_source_comes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield CLASSIC[:5000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        list(ArchiveStream(broken(), "snap:2"))


def test_memory_does_not_grow_with_the_image() -> None:
    size, block = 200 << 20, bytes(1 << 20)
    sha256 = hashlib.sha256()
    for _ in range(size >> 20):
        sha256.update(block)
    config = json.dumps({"rootfs": {"diff_ids": [f"sha256:{sha256.hexdigest()}"]}}).encode()
    name = f"{archives.digest(config)}.json"
    archive = Archive([Item(name, config)], name, ["x/layer.tar"])
    archive.put("manifest.json", [{"Config": name, "Layers": archive.layers}])
    header = tarfile.TarInfo("x/layer.tar")
    header.size = size

    def chunks() -> Iterator[bytes]:
        yield header.tobuf(tarfile.GNU_FORMAT)
        for _ in range(size >> 20):
            yield bytes(1 << 20)
        yield archive.to_bytes()

    tracemalloc.start()
    try:
        stream = ArchiveStream(chunks(), "snap:2")
        total = sum(map(len, stream))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == stream.summary.size_bytes > size
    assert peak < 5 << 20


# Archives that end early, or do not end


@pytest.mark.parametrize("data", [CLASSIC, OCI])
def test_cut_at_any_block_is_refused(data: bytes) -> None:
    for length in range(0, len(data), 512):
        assert refused(data[:length])


@pytest.mark.parametrize("data", [CLASSIC, OCI])
@given(st.data())
@settings(deadline=None)
def test_cut_anywhere_is_refused(data: bytes, draw: st.DataObject) -> None:
    assert "ends early" in refused(data[: draw.draw(st.integers(0, len(data) - 1))])


@pytest.mark.parametrize("data", [CLASSIC, OCI])
def test_engine_error_in_the_stream_is_refused(data: bytes) -> None:
    error = b'{"errorDetail":{"message":"no space left"},"error":"no space left"}\r\n'
    for length in (0, 512, 5000, len(data) - 1024, len(data)):
        assert refused(data[:length] + error)


def test_only_zeros_may_follow_the_end() -> None:
    expected = passed(CLASSIC)
    assert passed(CLASSIC + bytes(9 * 512 + 7)) == expected
    assert "behind" in refused(CLASSIC + bytes(9 * 512) + b"\1")
    assert "behind" in refused(CLASSIC + CLASSIC)


def test_one_zero_block_is_no_end() -> None:
    assert "end marker" in refused(CLASSIC[:-512] + CLASSIC[:512] + END_MARKER)
    assert "end marker" in refused(bytes(512) + CLASSIC)


# Damaged content


@pytest.mark.parametrize("build", [archives.classic, archives.oci])
@given(st.data())
@settings(deadline=None)
def test_flipped_bit_in_layer_or_config_is_refused(build: Builder, draw: st.DataObject) -> None:
    archive = build(LAYERS)
    item = archive.item(draw.draw(st.sampled_from([archive.config, *archive.layers[:2]])))
    at = draw.draw(st.integers(0, len(item.data) - 1))
    damaged = bytearray(item.data)
    damaged[at] ^= 1 << draw.draw(st.integers(0, 7))
    item.data = bytes(damaged)
    assert "damaged" in refused(archive.to_bytes())


@pytest.mark.parametrize("data", [CLASSIC, OCI])
@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_damage_is_refused_or_harmless(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        out, summary = passed(bytes(damaged))
    except CorruptArchive:
        return
    assert summary.layers == DIFF_IDS
    assert json.loads(contents(out)["manifest.json"])[0]["RepoTags"] == ["snap:2"]


@both_layouts
def test_missing_parts_are_refused(build: Builder) -> None:
    for part in ("layers", "config", "manifest.json"):
        archive = build(LAYERS)
        name = {"layers": archive.layers[1], "config": archive.config}.get(part, part)
        archive.drop(name)
        message = refused(archive.to_bytes())
        assert "missing" in message or "no manifest.json" in message


def test_repeated_layer_whose_first_place_is_missing_is_refused() -> None:
    archive = archives.classic(LAYERS)
    archive.drop(archive.layers[0])
    assert "missing" in refused(archive.to_bytes())


def test_hard_links_and_chains_of_links_are_followed() -> None:
    archive = archives.classic(LAYERS)
    link = archive.item(archive.layers[2])
    link.type, link.link = tarfile.LNKTYPE, "far"
    archive.items.append(Item("far", type=tarfile.SYMTYPE, link=f"/{archive.layers[0]}"))
    assert passed(archive.to_bytes())[1].layers == DIFF_IDS
    archive.item("far").link = link.name
    assert "missing" in refused(archive.to_bytes())


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ([], "0 images"),
        (2, "2 images"),
        ({}, "not a JSON list"),
        (["x"], "not a JSON object"),
        ([{"Layers": []}], "Config is not a string"),
        ([{"Config": "x.json", "Layers": []}], "missing"),
    ],
)
def test_manifest_must_be_of_one_image(manifest: object, message: str) -> None:
    archive = archives.classic(LAYERS)
    archive.put(
        "manifest.json", archive.document("manifest.json") * 2 if manifest == 2 else manifest
    )
    assert message in refused(archive.to_bytes())


@pytest.mark.parametrize("text", [b"", b"[", b"\xff", b"[" * 100_000, b'\xef\xbb\xbf[{"a":1}]'])
def test_manifest_must_be_json(text: bytes) -> None:
    archive = archives.classic(LAYERS)
    archive.item("manifest.json").data = text
    assert "not JSON" in refused(archive.to_bytes())


@both_layouts
@pytest.mark.parametrize(
    "change", [list[str].pop, list[str].reverse, lambda names: names.append("x")]
)
def test_layers_must_be_those_of_the_config(
    build: Builder, change: Callable[[list[str]], object]
) -> None:
    archive = build([BASE, CHANGE])
    (entry,) = archive.document("manifest.json")
    change(entry["Layers"])
    archive.put("manifest.json", [entry])
    assert "layer" in refused(archive.to_bytes())


@pytest.mark.parametrize(
    "config", [b"[]", b"{}", b'{"rootfs":{}}', b'{"rootfs":{"diff_ids":[1]}}', b"x"]
)
def test_config_must_be_one(config: bytes) -> None:
    archive = archives.classic(LAYERS)
    item = archive.item(archive.config)
    item.name, item.data = f"{archives.digest(config)}.json", config
    (entry,) = archive.document("manifest.json")
    archive.put("manifest.json", [{**entry, "Config": item.name}])
    assert item.name in refused(archive.to_bytes())


def test_config_must_bear_its_digest() -> None:
    archive = archives.classic(LAYERS)
    archive.item(archive.config).name = "config.json"
    (entry,) = archive.document("manifest.json")
    archive.put("manifest.json", [{**entry, "Config": "config.json"}])
    assert "damaged" in refused(archive.to_bytes())


def test_blob_that_nobody_needs_must_be_sound_too() -> None:
    archive = archives.oci(LAYERS)
    archive.items.insert(2, Item(f"blobs/sha256/{archives.digest(b'a')}", b"b"))
    assert "damaged" in refused(archive.to_bytes())


def test_same_name_with_other_content_is_refused() -> None:
    archive = archives.classic(LAYERS)
    archive.items.insert(0, Item(archive.config, archive.item(archive.config).data))
    assert passed(archive.to_bytes())[1].layers == DIFF_IDS
    archive.items.insert(0, Item(archive.layers[0], CHANGE))
    assert "two different members" in refused(archive.to_bytes())


@pytest.mark.parametrize(
    "name", ["manifest.json", "./manifest.json", "/manifest.json", "a/../manifest.json"]
)
def test_second_manifest_is_refused(name: str) -> None:
    archive = archives.classic(LAYERS)
    archive.items.insert(0, Item(name, b"[]"))
    assert "not one file" in refused(archive.to_bytes())


def test_repositories_of_two_images_are_refused() -> None:
    archive = archives.classic(LAYERS)
    archive.put("repositories", {"a": {"1": "x"}, "b": {"1": "y"}})
    assert "names 2 images" in refused(archive.to_bytes())


# Compressed layers


def test_compressed_blobs_are_known_by_their_name() -> None:
    archive = archives.oci([BASE, CHANGE], compressed=True)
    assert passed(archive.to_bytes())[1].layers == DIFF_IDS[:2]
    archive.item(archive.layers[1]).data += b"\0"
    assert "damaged" in refused(archive.to_bytes())


def test_compressed_layer_that_nothing_vouches_for_is_refused() -> None:
    archive = archives.classic([BASE])
    archive.item(archive.layers[0]).data = b"\x1f\x8b" + bytes(600)
    assert "damaged" in refused(archive.to_bytes())


# The OCI index


def _index_of(archive: Archive, manifests: Sequence[object]) -> None:
    archive.put("index.json", {**archive.document("index.json"), "manifests": manifests})


ELSEWHERE = {
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": "sha256:" + "e" * 64,
    "size": 500,
    "platform": {"architecture": "arm64", "os": "linux"},
    "annotations": {**archives.name_annotations("work:1"), "vnd.docker.reference.type": "x"},
}


def test_other_platforms_may_lack_their_blobs_and_lose_the_name() -> None:
    archive = archives.oci(LAYERS)
    (wanted,) = archive.document("index.json")["manifests"]
    _index_of(archive, [ELSEWHERE, wanted])
    after = json.loads(contents(passed(archive.to_bytes())[0])["index.json"])
    assert after["manifests"] == [
        {**ELSEWHERE, "annotations": {"vnd.docker.reference.type": "x"}},
        {**wanted, "annotations": archives.name_annotations("snap:2")},
    ]


def test_image_is_found_through_an_index_in_the_index() -> None:
    archive = archives.oci(LAYERS)
    (wanted,) = archive.document("index.json")["manifests"]
    inner = archives.compact({"manifests": [ELSEWHERE, wanted]})
    archive.items.append(Item(f"blobs/sha256/{archives.digest(inner)}", inner))
    outer = archives.descriptor("application/vnd.oci.image.index.v1+json", inner)
    _index_of(archive, [outer])
    (described,) = json.loads(contents(passed(archive.to_bytes())[0])["index.json"])["manifests"]
    assert described == {**outer, "annotations": archives.name_annotations("snap:2")}
    archive.drop("blobs/" + wanted["digest"].replace(":", "/"))
    assert "leads to no manifest" in refused(archive.to_bytes())


def test_index_without_the_image_s_manifest_is_refused() -> None:
    archive = archives.oci(LAYERS)
    (wanted,) = archive.document("index.json")["manifests"]
    archive.drop("blobs/" + wanted["digest"].replace(":", "/"))
    assert "leads to no manifest" in refused(archive.to_bytes())


@pytest.mark.parametrize("extra", [{}, {"urls": ["https://example.org/layer"]}])
def test_layer_of_the_manifest_may_only_lack_when_it_is_elsewhere(extra: dict[str, object]) -> None:
    archive = archives.oci(LAYERS)
    (wanted,) = archive.document("index.json")["manifests"]
    manifest = archive.document("blobs/" + wanted["digest"].replace(":", "/"))
    manifest["layers"].append({"digest": "sha256:" + "a" * 64, **extra})
    text = archives.compact(manifest)
    archive.items.append(Item(f"blobs/sha256/{archives.digest(text)}", text))
    _index_of(archive, [archives.descriptor("x", text)])
    if extra:
        assert passed(archive.to_bytes())[1].layers == DIFF_IDS
    else:
        assert "missing" in refused(archive.to_bytes())


@pytest.mark.parametrize("empty", [[], None])
def test_index_of_nothing_stays_so(empty: list[object] | None) -> None:
    archive = archives.oci(LAYERS, tags=[])
    _index_of(archive, empty)  # type: ignore[arg-type]  # what Docker 25.0 writes for an id
    assert json.loads(contents(passed(archive.to_bytes())[0])["index.json"])["manifests"] == []


# Tar's corners


@both_formats
@pytest.mark.parametrize("length", [99, 100, 101, 155, 256, 300, 2000])
def test_long_names_and_links(tar_format: archives.Format, length: int) -> None:
    archive = archives.classic(LAYERS, tar_format=tar_format)
    folder = "ü/" * 20 + "d" * (length - 60)
    moved = dict.fromkeys(archive.layers)
    for name in moved:
        archive.item(name).name = moved[name] = f"{folder}/{name}"
    archive.item(moved[archive.layers[2]] or "").link = f"../../{moved[archive.layers[0]]}".replace(
        f"../../{folder}/", "../"
    )
    (entry,) = archive.document("manifest.json")
    archive.put("manifest.json", [{**entry, "Layers": list(moved.values())}])
    out, summary = passed(archive.to_bytes())
    assert summary.layers == DIFF_IDS
    assert contents(out).keys() == contents(archive.to_bytes()).keys()


def test_pax_size_counts() -> None:
    archive = archives.classic([BASE], tar_format=tarfile.PAX_FORMAT)
    item = archive.item(archive.layers[0])
    item.pax = {"size": str(len(BASE)), "mtime": "1.5", "SCHILY.xattr.user.x": "y\n"}
    blocks = list(archive.blocks())
    at = archive.items.index(item)
    header = bytearray(blocks[at][: -len(BASE)])
    header[-512 + 124 : -512 + 135] = b"00000000000"
    header[-512 + 148 : -512 + 156] = b" " * 8
    header[-512 + 148 : -512 + 155] = b"%06o\0" % sum(header[-512:])
    blocks[at] = bytes(header) + BASE
    assert passed(b"".join(blocks) + END_MARKER)[1].layers == DIFF_IDS[:1]


def test_header_of_renamed_document_is_made_anew() -> None:
    archive = archives.classic(LAYERS, tar_format=tarfile.PAX_FORMAT)
    archive.item("manifest.json").pax = {"mtime": "1.5", "path": "./manifest.json", "size": "999"}
    archive.item("manifest.json").pax["size"] = str(len(archive.item("manifest.json").data))
    after = contents(passed(archive.to_bytes(), "much-longer-name-than-before:2")[0])
    assert json.loads(after["manifest.json"])[0]["RepoTags"] == ["much-longer-name-than-before:2"]


def _header(kind: bytes, size: int, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "header",
    [
        _header(tarfile.XHDTYPE, 2 << 20),
        _header(tarfile.XGLTYPE, 1 << 40),
        _header(tarfile.GNUTYPE_LONGNAME, 2 << 20),
        _header(tarfile.GNUTYPE_LONGLINK, 2 << 20),
        _header(tarfile.REGTYPE, 5 << 20, "manifest.json"),
        _header(tarfile.REGTYPE, 5 << 20, "index.json"),
        _header(tarfile.REGTYPE, 5 << 20, "repositories"),
    ],
)
def test_huge_claims_are_refused_before_they_are_read(header: bytes) -> None:
    def chunks() -> Iterator[bytes]:
        yield header
        pytest.fail("read on")

    with pytest.raises(CorruptArchive):
        list(ArchiveStream(chunks(), "snap:2"))


def test_too_large_config_is_refused() -> None:
    archive = archives.classic(LAYERS)
    item = archive.item(archive.config)
    item.data = item.data[:-1] + b" " * module.DOCUMENT_LIMIT + b"}"
    item.name = f"{archives.digest(item.data)}.json"
    (entry,) = archive.document("manifest.json")
    archive.put("manifest.json", [{**entry, "Config": item.name}])
    assert "not a document to be read" in refused(archive.to_bytes())


def _many_names() -> Iterator[bytes]:
    for number in range(100_000):
        yield _header(tarfile.REGTYPE, 0, f"{number}")


def _many_documents() -> Iterator[bytes]:
    for number in range(20):
        yield _header(tarfile.REGTYPE, 3 << 20, f"{number}")
        for _ in range(48):
            yield b"{" * 65536


@pytest.mark.parametrize(
    ("chunks", "message"), [(_many_names, "too many members"), (_many_documents, "ends early")]
)
def test_what_is_kept_is_bounded(chunks: Callable[[], Iterator[bytes]], message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CorruptArchive, match=message):
            for _ in ArchiveStream(chunks(), "snap:2"):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


@pytest.mark.parametrize(
    "prefix",
    [
        _header(tarfile.GNUTYPE_SPARSE, 0),
        _header(tarfile.CONTTYPE, 0),
        _header(b"Z", 0),
        _header(tarfile.XHDTYPE, 3) + b"abc".ljust(512, b"\0"),
        _header(tarfile.XHDTYPE, 12) + b"11 path=abcd".ljust(512, b"\0"),
        _header(tarfile.XHDTYPE, 12) + b"99 path=abc\n".ljust(512, b"\0"),
        _header(tarfile.XHDTYPE, 12) + b"12 size=-99\n".ljust(512, b"\0"),
        _header(tarfile.XHDTYPE, 12) + b"12 path=a\0c\n".ljust(512, b"\0"),
        _header(tarfile.XGLTYPE, 12) + b"12 path=abc\n".ljust(512, b"\0"),
        _header(tarfile.XHDTYPE, 22) + b"22 GNU.sparse.major=1\n".ljust(512, b"\0"),
        2 * (_header(tarfile.XHDTYPE, 12) + b"12 path=abc\n".ljust(512, b"\0")),
        _header(tarfile.GNUTYPE_LONGNAME, 5000) + b"a" * 5120,
        _header(tarfile.REGTYPE, -1),
        b"x" * 512,
    ],
)
def test_headers_that_readers_may_take_differently_are_refused(prefix: bytes) -> None:
    assert refused(prefix + CLASSIC)


def test_global_header_that_changes_no_member_passes() -> None:
    header = _header(tarfile.XGLTYPE, 15) + b"15 comment=abc\n".ljust(512, b"\0")
    assert passed(header + CLASSIC)[0] == header + passed(CLASSIC)[0]


def test_extended_header_without_member_is_refused() -> None:
    header = _header(tarfile.XHDTYPE, 12) + b"12 path=abc\n".ljust(512, b"\0")
    assert "end marker" in refused(CLASSIC[:-1024] + header + END_MARKER)
