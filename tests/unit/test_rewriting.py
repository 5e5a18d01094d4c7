"""Archives scrubbed while they stream: the secret is in no byte, and all of the image is there."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import archives
from tests.archives import Archive, Item
from tintype.core import contents as module
from tintype.core.archive import ArchiveStream, ArchiveSummary
from tintype.core.documents import DOCUMENT_LIMIT
from tintype.core.errors import CorruptArchive, Refused
from tintype.core.tar import END_MARKER

BASE = archives.layer({"bin/sh": b"#!" + bytes(range(256)) * 9})
CHANGE = archives.layer({"etc/motd": b"hello\n"})
OTHER = archives.layer({"bin/sh": b"#!arm64"})
LAYERS = [BASE, CHANGE, BASE]
DIFF_IDS = tuple(f"sha256:{archives.digest(data)}" for data in LAYERS)

SECRET = "hunter2-Zx9"
ENV = ["PATH=/bin", f"TOKEN={SECRET}", "LAST=1"]
FIELDS: dict[str, object] = {
    "config": {"Env": ENV, "Cmd": ["sh", "-c", "run $TOKEN"], "Labels": {"a": "b"}},
    "container_config": {"Env": ENV, "Cmd": ["/bin/sh", "-c", "#(nop) ", f"ENV TOKEN={SECRET}"]},
    "history": [
        {"created": "2026-01-01T00:00:00Z", "comment": "Imported from -"},
        {"created_by": f"/bin/sh -c #(nop)  ENV TOKEN={SECRET}", "empty_layer": True},
        {"created_by": f"|1 BUILD={SECRET} /bin/sh -c make"},
        {"created_by": f"sh -c run {SECRET}", "comment": f"with {SECRET}"},
    ],
}

Builder = Callable[..., Archive]


def classic(**fields: object) -> Archive:
    """Return an archive of Docker up to 24."""
    return archives.classic(LAYERS, **(FIELDS | fields))  # type: ignore[arg-type]


def oci(**fields: object) -> Archive:
    """Return an archive of Docker since 25."""
    return archives.oci(LAYERS, **(FIELDS | fields))  # type: ignore[arg-type]


def packed(**fields: object) -> Archive:
    """Return an archive of the containerd store."""
    return archives.oci(LAYERS, compressed=True, **(FIELDS | fields))  # type: ignore[arg-type]


every_layout = pytest.mark.parametrize("build", [classic, oci, packed])
both_oci = pytest.mark.parametrize("build", [oci, packed])


def passed(data: bytes, *names: str, chunk: int = 1 << 16) -> tuple[bytes, ArchiveSummary]:
    """Send `data` through a stream that takes the variables `names` out, TOKEN by default."""
    chunks = (data[start : start + chunk] for start in range(0, len(data), chunk))
    stream = ArchiveStream(chunks, "snap:2", unset_env=names or ["TOKEN"])
    return b"".join(stream), stream.summary


def refused(data: bytes, error: type[Exception] = CorruptArchive) -> str:
    """Return the message with which `data` is refused; nothing that came out may be of use."""
    chunks: list[bytes] = []
    stream = ArchiveStream([data], "snap:2", unset_env=["TOKEN"])
    with pytest.raises(error) as caught:
        chunks.extend(stream)
    assert b"manifest.json" not in b"".join(chunks)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def files(data: bytes) -> dict[str, bytes]:
    """Return the files of a tar, through links, read by somebody else's reader."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            if not info.isdir():
                file = tar.extractfile(info)
                assert file is not None
                found[info.name] = file.read()
    return found


def everywhere(data: bytes) -> bytes:
    """Return all that can be read out of an archive: as it is, and its members unpacked."""
    inside = [gzip.decompress(each) for each in files(data).values() if each[:2] == b"\x1f\x8b"]
    return b"\0".join([data, *inside])


def config_of(data: bytes) -> dict[str, Any]:
    """Return the image's configuration, after following every digest that leads to it."""
    found = files(data)
    for name, content in found.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{archives.digest(content)}"
    (entry,) = json.loads(found["manifest.json"])
    assert entry["RepoTags"] == ["snap:2"]
    assert all(layer in found for layer in entry["Layers"])
    text = found[entry["Config"]]
    assert archives.digest(text) in entry["Config"]
    if "index.json" in found:
        (descriptor,) = json.loads(found["index.json"])["manifests"]
        assert descriptor["annotations"] == archives.name_annotations("snap:2")
        while True:
            blob = found["blobs/" + descriptor["digest"].replace(":", "/")]
            assert len(blob) == descriptor["size"]
            document = json.loads(blob)
            if "manifests" not in document:
                break
            (descriptor,) = document["manifests"]
        assert document["config"]["digest"] == f"sha256:{archives.digest(text)}"
        assert document["config"]["size"] == len(text)
        for layer in document["layers"]:
            assert len(found["blobs/" + layer["digest"].replace(":", "/")]) == layer["size"]
    config: dict[str, Any] = json.loads(text)
    return config


# What comes out


@every_layout
@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_secret_is_in_no_byte(build: Builder, tar_format: archives.Format) -> None:
    archive = build(tar_format=tar_format)
    data = archive.to_bytes()
    assert everywhere(data).count(SECRET.encode()) >= 6
    out, summary = passed(data)

    assert SECRET.encode() not in everywhere(out)
    config = config_of(out)
    assert config["config"] == {
        "Env": ["PATH=/bin", "LAST=1"],
        "Cmd": ["sh", "-c", "run $TOKEN"],
        "Labels": {"a": "b"},
    }
    assert [entry.get("created_by") for entry in config["history"]] == [
        None,
        "[scrubbed: set TOKEN]",
        "|1 BUILD=[scrubbed] /bin/sh -c make",
        "sh -c run [scrubbed]",
    ]
    assert config["rootfs"]["diff_ids"] == list(DIFF_IDS)
    assert summary.layers == DIFF_IDS
    assert summary.scrubbed_env == ("TOKEN",)
    assert summary.size_bytes == len(out)
    assert summary.sha256 == archives.digest(out)
    assert (
        summary.config_digest.removeprefix("sha256:")
        in json.loads(files(out)["manifest.json"])[0]["Config"]
    )


@every_layout
def test_layers_pass_bit_for_bit(build: Builder) -> None:
    archive = build()
    before, after = files(archive.to_bytes()), files(passed(archive.to_bytes())[0])
    for name in archive.layers:
        assert after[name] == before[name]


def test_legacy_documents_stay_where_they_are_needed() -> None:
    archive = classic()
    before, after = files(archive.to_bytes()), files(passed(archive.to_bytes())[0])
    assert after.keys() - before.keys() == {json.loads(after["manifest.json"])[0]["Config"]}
    assert before.keys() - after.keys() == {archive.config}
    *lower, top = (name.replace("layer.tar", "json") for name in archive.layers)
    for name in lower:
        assert after[name] == before[name]
    document = json.loads(after[top])
    assert document["config"]["Env"] == ["PATH=/bin", "LAST=1"]
    assert document["id"] == json.loads(before[top])["id"]


def test_legacy_documents_that_nothing_refers_to_go() -> None:
    after = files(passed(oci().to_bytes())[0])
    assert not [each for each in after.values() if b"id" in each[:5]]
    assert after["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    assert len([name for name in after if name.startswith("blobs/")]) == 2 + len(set(LAYERS))


@every_layout
def test_order_of_members_does_not_matter(build: Builder) -> None:
    archive = build()
    expected = files(passed(archive.to_bytes())[0])
    for seed in range(10):
        random.Random(seed).shuffle(archive.items)
        if build is classic:  # a reader must have seen what a link leads to
            archive.items.sort(key=lambda item: item.type != tarfile.REGTYPE)
        out, _ = passed(archive.to_bytes())
        assert files(out) == expected
        config_of(out)


@every_layout
def test_scrubbing_again_changes_nothing_but_the_order(build: Builder) -> None:
    out, summary = passed(build().to_bytes())
    again, second = passed(out)
    assert files(again) == files(out)
    assert second.config_digest == summary.config_digest
    assert second.scrubbed_env == ()


@every_layout
def test_same_archive_gives_the_same_bytes(build: Builder) -> None:
    data = build().to_bytes()
    assert passed(data) == passed(data, chunk=1) == passed(data, chunk=len(data))


@every_layout
def test_what_is_not_there_is_not_taken_out(build: Builder) -> None:
    archive = build()
    out, summary = passed(archive.to_bytes(), "OTHER")
    assert summary.scrubbed_env == ()
    assert files(out)[archive.config] == archive.item(archive.config).data
    assert summary.config_digest == f"sha256:{archives.digest(archive.item(archive.config).data)}"
    assert config_of(out)["config"]["Env"] == ENV


@every_layout
def test_without_names_all_passes_as_ever(build: Builder) -> None:
    data = build().to_bytes()
    plain, named = ArchiveStream([data], "snap:2"), ArchiveStream([data], "snap:2", unset_env=())
    out = b"".join(plain)
    assert out == b"".join(named)
    assert out.count(SECRET.encode()) == data.count(SECRET.encode())
    assert plain.summary.scrubbed_env == ()


_variables = st.dictionaries(
    st.from_regex(r"[A-Z_]{1,8}", fullmatch=True),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    max_size=6,
)


@every_layout
@given(variables=_variables, secret=st.text(alphabet="aZ9+/=\"'\\ é\n<&", min_size=8, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_secret_of_any_image_goes(
    build: Builder, variables: dict[str, str], secret: str
) -> None:
    secret += "?7"
    rest = [f"{name}={value}" for name, value in variables.items() if secret not in value]
    config = {"Env": [*rest, f"my.token={secret}"], "Cmd": list(variables)}
    history = [{"created_by": f"RUN {secret}"}, {"created_by": f"ENV my.token={secret} A=b"}]
    archive = build(config=config, container_config=config, history=history)
    out, summary = passed(archive.to_bytes(), "my.token")
    escaped = json.dumps(secret)[1:-1].encode()
    assert escaped in archive.to_bytes()
    assert escaped not in everywhere(out)
    assert secret.encode() not in everywhere(out)
    assert config_of(out)["config"] == {**config, "Env": rest}
    assert summary.scrubbed_env == ("my.token",)


# What is refused


@every_layout
@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.99])
def test_cut_archive_is_refused(build: Builder, cut: float) -> None:
    data = build().to_bytes()
    assert "ends early" in refused(data[: int(len(data) * cut)])


@every_layout
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_lets_nothing_through(build: Builder, draw: st.DataObject) -> None:
    data = bytearray(build().to_bytes())
    secrets = data.count(SECRET.encode())
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        out, summary = passed(bytes(data))
    except (CorruptArchive, Refused):
        return
    assert secrets
    assert summary.layers == DIFF_IDS
    assert b"Env" in out
    assert SECRET.encode() not in everywhere(out)


@every_layout
def test_value_in_the_command_is_refused(build: Builder) -> None:
    archive = build(config={"Env": ENV, "Cmd": ["run", SECRET]})
    assert "config/Cmd" in refused(archive.to_bytes(), Refused)


@every_layout
@pytest.mark.parametrize(
    "content",
    [b"x", b"\x1f\x8b" + bytes(9), BASE[:512], b"{" + bytes(600), b'"text"', b"\xef\xbb\xbf{}"],
)
def test_file_that_is_nothing_known_is_refused(build: Builder, content: bytes) -> None:
    archive = build()
    archive.items.append(Item("more/VERSION", b"1.0"))
    passed(archive.to_bytes())
    archive.items.append(Item("more/VERSION2", content))
    assert "'more/VERSION2' is neither a layer nor a document" in refused(archive.to_bytes())
    archive.items[-1].name = "more/VERSION"
    del archive.items[-2]
    assert "neither a layer nor a document" in refused(archive.to_bytes())


@every_layout
@pytest.mark.parametrize("text", [b"{", b"[1}", b"\t\xff", b'{"a":1,"a":2}', b"[" * 100_000])
def test_document_that_cannot_be_read_for_certain_is_refused(build: Builder, text: bytes) -> None:
    archive = build()
    archive.items.append(Item("more", text))
    assert "more is not JSON" in refused(archive.to_bytes())


@every_layout
def test_document_that_hides_a_variable_behind_a_second_one_is_refused(build: Builder) -> None:
    archive = build()
    item = archive.item(archive.config)
    text = item.data.replace(b'"os":"linux"', b'"config":{},"os":"linux"')
    name = archive.config.replace(archives.digest(item.data), archives.digest(text))
    item.name, item.data = name, text
    (entry,) = archive.document("manifest.json")
    archive.put("manifest.json", [{**entry, "Config": name}])
    if build is not classic:
        archive.drop("index.json")
    assert "a key stands twice" in refused(archive.to_bytes())


@every_layout
def test_nested_too_deeply_is_refused(build: Builder) -> None:
    deep: object = "x"
    for _ in range(900):
        deep = [deep]
    message = refused(build(somebodys=deep).to_bytes())
    assert "nested too deeply" in message or "not JSON" in message or "recursion" in message


@every_layout
def test_documents_that_nothing_refers_to_do_not_come_out(build: Builder) -> None:
    archive = build()
    text = archives.compact({"predicate": SECRET})
    archive.items += [Item("more.json", text), Item("more/x", b" \n[1]")]
    out, _ = passed(archive.to_bytes())
    assert SECRET.encode() not in out
    assert not {"more.json", "more/x"} & files(out).keys()


def test_layer_that_is_a_document_is_refused() -> None:
    archive = archives.classic([BASE, b'{"a": 1}'])
    assert "is a document" in refused(archive.to_bytes())


@pytest.mark.parametrize("name", ["more.json", "x/json", "blobs/sha256/" + "a" * 64])
def test_too_large_a_document_is_refused_before_it_is_read(name: str) -> None:
    header = tarfile.TarInfo(name)
    header.size = DOCUMENT_LIMIT + 1

    def chunks() -> Iterator[bytes]:
        yield header.tobuf(tarfile.GNU_FORMAT)
        yield b"{".ljust(512)
        pytest.fail("read on")

    with pytest.raises(CorruptArchive, match="too large a document"):
        list(ArchiveStream(chunks(), "snap:2", unset_env=["TOKEN"]))


def test_what_is_withheld_is_bounded() -> None:
    def chunks() -> Iterator[bytes]:
        for number in range(module.KEPT_LIMIT // DOCUMENT_LIMIT + 1):
            header = tarfile.TarInfo(f"{number}.json")
            header.size = DOCUMENT_LIMIT
            yield header.tobuf(tarfile.GNU_FORMAT)
            yield b"[" + b" " * (DOCUMENT_LIMIT - 1)

    with pytest.raises(CorruptArchive, match="too large a document"):
        list(ArchiveStream(chunks(), "snap:2", unset_env=["TOKEN"]))


def test_links_that_are_withheld_are_bounded() -> None:
    def chunks() -> Iterator[bytes]:
        for number in range(100_000):
            header = tarfile.TarInfo(f"{number}")
            header.type, header.linkname = tarfile.SYMTYPE, "x"
            yield header.tobuf(tarfile.GNU_FORMAT)

    with pytest.raises(CorruptArchive, match="too many members"):
        list(ArchiveStream(chunks(), "snap:2", unset_env=["TOKEN"]))


def test_headers_of_links_that_are_withheld_are_bounded() -> None:
    def chunks() -> Iterator[bytes]:
        for number in range(20):
            header = tarfile.TarInfo(f"{number}")
            header.type, header.linkname = tarfile.SYMTYPE, "x"
            header.pax_headers = {"comment": "x" * (900 << 10)}
            yield header.tobuf(tarfile.PAX_FORMAT)

    with pytest.raises(CorruptArchive, match="too large a document"):
        list(ArchiveStream(chunks(), "snap:2", unset_env=["TOKEN"]))


# Links


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_link_to_a_document_becomes_what_it_leads_to(kind: bytes) -> None:
    archive = classic()
    top = archive.layers[-1].replace("layer.tar", "json")
    text = archive.item(top).data
    archive.item(top).name = "elsewhere"
    target = "elsewhere" if kind == tarfile.LNKTYPE else "../elsewhere"
    archive.items += [
        Item(top, type=kind, link=target),
        Item("other", type=kind, link="elsewhere"),
        Item("nowhere", type=tarfile.SYMTYPE, link="gone"),
    ]
    assert files_but(archive.to_bytes(), "nowhere")[top] == text
    out, summary = passed(archive.to_bytes())
    after = files_but(out, "nowhere")
    assert json.loads(after[top])["config"]["Env"] == ["PATH=/bin", "LAST=1"]
    assert not {"elsewhere", "other"} & after.keys()
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert not any(info.linkname for info in tar if info.isreg())
    assert SECRET.encode() not in out
    assert summary.layers == DIFF_IDS


def files_but(data: bytes, dangling: str) -> dict[str, bytes]:
    """Return the files of an archive that has one link which leads nowhere."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember(dangling).issym()
        return {
            name: file.read()
            for name in tar.getnames()
            if name != dangling
            if (file := tar.extractfile(name))
        }


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_configuration_may_be_a_link(kind: bytes) -> None:
    archive = classic()
    archive.item(archive.config).name = "real"
    archive.items.append(Item(archive.config, type=kind, link="real"))
    out, summary = passed(archive.to_bytes())
    assert config_of(out)["config"]["Env"] == ["PATH=/bin", "LAST=1"]
    assert "real" not in files(out)
    assert summary.config_digest.removeprefix("sha256:") + ".json" in files(out)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(tar_format: archives.Format) -> None:
    archive = classic(tar_format=tar_format)
    folder = "ü/" * 20 + "d" * 200
    old = archive.layers[-2].partition("/")[0]
    for item in archive.items:
        item.name = item.name.replace(old, f"{folder}/{old}")
    (entry,) = archive.document("manifest.json")
    archive.layers = [name.replace(old, f"{folder}/{old}") for name in archive.layers]
    archive.put("manifest.json", [{**entry, "Layers": archive.layers}])
    out, summary = passed(archive.to_bytes())
    assert summary.layers == DIFF_IDS
    assert f"{folder}/{old}/json" in files(out)
    assert config_of(out)["config"]["Env"] == ["PATH=/bin", "LAST=1"]


def test_hard_linked_layer_passes() -> None:
    archive = classic()
    link = archive.item(archive.layers[2])
    archive.items.remove(link)
    archive.items.append(Item(link.name, type=tarfile.LNKTYPE, link=archive.layers[0]))
    after = files(passed(archive.to_bytes())[0])
    assert after[link.name] == BASE


# The OCI layout


def _blob(archive: Archive, document: object, media_type: str = "x") -> dict[str, Any]:
    text = archives.compact(document)
    archive.items.append(Item(f"blobs/sha256/{archives.digest(text)}", text))
    return archives.descriptor(media_type, text)


def _index_of(archive: Archive, *manifests: object) -> None:
    archive.put("index.json", {**archive.document("index.json"), "manifests": manifests})


@both_oci
def test_index_in_the_index_follows(build: Builder) -> None:
    archive = build()
    (wanted,) = archive.document("index.json")["manifests"]
    inner = _blob(archive, {"manifests": [wanted], "annotations": {"by": SECRET}})
    outer = _blob(archive, {"manifests": [inner]})
    _index_of(archive, outer)
    out, _ = passed(archive.to_bytes())
    assert SECRET.encode() not in everywhere(out)
    assert config_of(out)["config"]["Env"] == ["PATH=/bin", "LAST=1"]


def _attestation(archive: Archive, **annotations: str) -> dict[str, Any]:
    statement = {"predicate": {"parameters": {"args": {"build-arg:TOKEN": SECRET}}}}
    layer = _blob(archive, statement, "application/vnd.in-toto+json")
    config = _blob(archive, {"architecture": "unknown", "rootfs": {"diff_ids": []}})
    manifest = _blob(archive, {"schemaVersion": 2, "config": config, "layers": [layer]})
    return {**manifest, "annotations": annotations}


@both_oci
@pytest.mark.parametrize("annotations", [{}, {"vnd.docker.reference.type": "attestation-manifest"}])
@pytest.mark.parametrize("nested", [False, True])
def test_attestation_does_not_come_out(
    build: Builder, annotations: dict[str, str], nested: bool
) -> None:
    archive = build()
    (wanted,) = archive.document("index.json")["manifests"]
    manifests = [wanted, _attestation(archive, **annotations)]
    if nested:
        manifests = [_blob(archive, {"manifests": manifests})]
    _index_of(archive, *manifests)
    assert SECRET.encode() in archive.to_bytes()
    out, _ = passed(archive.to_bytes())
    assert SECRET.encode() not in everywhere(out)
    assert b"unknown" not in out
    config_of(out)


@both_oci
def test_manifest_of_what_is_no_image_does_not_come_out(build: Builder) -> None:
    archive = build()
    (wanted,) = archive.document("index.json")["manifests"]
    layer = archives.descriptor("x", archive.item(archive.layers[0]).data)
    artifact = {"config": _blob(archive, {"kind": "artifact"}), "layers": [layer]}
    _index_of(archive, wanted, _blob(archive, artifact))
    out, _ = passed(archive.to_bytes())
    assert b"artifact" not in out
    config_of(out)


@both_oci
def test_descriptor_of_an_absent_attestation_goes_too(build: Builder) -> None:
    archive = build()
    (wanted,) = archive.document("index.json")["manifests"]
    absent = {"digest": "sha256:" + "a" * 64, "size": 1}
    elsewhere = {"digest": "sha256:" + "b" * 64, "size": 1, "platform": {"os": "other"}}
    annotations = {"vnd.docker.reference.type": "attestation-manifest"}
    _index_of(archive, wanted, {**absent, "annotations": annotations}, elsewhere)
    out, _ = passed(archive.to_bytes())
    first, *rest = json.loads(files(out)["index.json"])["manifests"]
    assert first["digest"] != wanted["digest"]
    assert rest == [{**elsewhere, "annotations": {}}]


@both_oci
def test_other_platform_is_scrubbed_too(build: Builder) -> None:
    compressed = build is packed
    fields: Any = FIELDS | {"architecture": "arm64"}
    archive, other = build(), archives.oci([OTHER], compressed=compressed, **fields)
    ours, theirs = (each.document("index.json")["manifests"][0] for each in (archive, other))
    names = {item.name for item in archive.items}
    archive.items += [item for item in other.items if item.name not in names]
    _index_of(archive, ours, theirs)
    out, _ = passed(archive.to_bytes())
    assert SECRET.encode() not in everywhere(out)
    found = files(out)
    second = json.loads(found["index.json"])["manifests"][1]
    manifest = json.loads(found["blobs/" + second["digest"].replace(":", "/")])
    config = json.loads(found["blobs/" + manifest["config"]["digest"].replace(":", "/")])
    assert config["architecture"] == "arm64"
    assert config["config"]["Env"] == ["PATH=/bin", "LAST=1"]


@both_oci
def test_everything_in_the_manifest_is_scrubbed(build: Builder) -> None:
    archive = build()
    (wanted,) = archive.document("index.json")["manifests"]
    manifest = archive.document("blobs/" + wanted["digest"].replace(":", "/"))
    text = archive.item(archive.config).data
    manifest["config"] |= {"data": text.hex(), "annotations": {"a": SECRET}, "urls": [SECRET]}
    manifest["layers"][0]["annotations"] = {"a": SECRET, "b": "c"}
    extra = {"annotations": {"a": SECRET}, "subject": wanted, "more": {SECRET: [SECRET]}}
    _index_of(archive, {**_blob(archive, {**manifest, **extra}), "data": "x", "more": SECRET})
    document = archive.document("index.json")
    archive.put("index.json", {**document, "annotations": {"a": SECRET}, "more": SECRET})
    (entry,) = archive.document("manifest.json")
    archive.put("manifest.json", [{**entry, "LayerSources": {"x": SECRET}, "Parent": "sha256:1"}])
    out, _ = passed(archive.to_bytes())
    assert SECRET.encode() not in everywhere(out)
    assert text.hex().encode() not in out
    found = files(out)
    (described,) = json.loads(found["index.json"])["manifests"]
    assert "data" not in described
    after = json.loads(found["blobs/" + described["digest"].replace(":", "/")])
    assert after["layers"][0]["annotations"] == {"a": "[scrubbed]", "b": "c"}
    assert "subject" not in after
    assert json.loads(found["manifest.json"])[0]["Parent"] == "sha256:1"


@both_oci
def test_name_with_the_value_stays_the_name(build: Builder) -> None:
    archive = build(config={"Env": ["TOKEN=snap:2"]})
    out, _ = passed(archive.to_bytes())
    assert config_of(out)["config"]["Env"] == []


@both_oci
@pytest.mark.parametrize(
    "manifest",
    [
        {"schemaVersion": 2, "layers": []},
        {"config": "x"},
        {"config": {"digest": "sha256:" + "a" * 64}, "layers": {"a": 1}},
        {"manifests": {"a": 1}},
        {"manifests": ["x"]},
    ],
)
def test_manifest_of_another_shape_is_refused(build: Builder, manifest: object) -> None:
    archive = build()
    (wanted,) = archive.document("index.json")["manifests"]
    _index_of(archive, wanted, _blob(archive, manifest))
    assert "is not a JSON" in refused(archive.to_bytes())


@both_oci
def test_index_that_only_leads_to_a_layer_less_image_is_refused(build: Builder) -> None:
    archive = build()
    (wanted,) = archive.document("index.json")["manifests"]
    manifest = archive.document("blobs/" + wanted["digest"].replace(":", "/"))
    manifest["layers"] = [_blob(archive, {"a": SECRET})]
    _index_of(archive, _blob(archive, manifest))
    assert "leads to no image that can be scrubbed" in refused(archive.to_bytes())


def test_empty_index_stays_empty() -> None:
    archive = oci(tags=[])
    _index_of(archive)
    out, _ = passed(archive.to_bytes())
    assert json.loads(files(out)["index.json"])["manifests"] == []
    assert SECRET.encode() not in out


def test_end_marker_is_there() -> None:
    assert passed(classic().to_bytes())[0].endswith(END_MARKER)
