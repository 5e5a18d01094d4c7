"""What only a registry can get wrong: damaged answers, strangers' images, lists, deletions."""

from __future__ import annotations

import json
import logging
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from tests.archives import classic, compact, configuration, layer, oci
from tests.support.fake_registry import Call, FakeRegistry, digest_of, running
from tests.support.registry import named, pieces, small_archive, spec
from tintype.adapters import registry_pull
from tintype.adapters.registry import RegistryStore
from tintype.adapters.registry_access import Place
from tintype.adapters.registry_packing import pack
from tintype.core.archive import ArchiveStream
from tintype.core.errors import (
    CorruptArchive,
    CorruptDownload,
    CorruptUpload,
    ImageIdSpent,
    Invalid,
    NotFound,
    NotRestorable,
    Refused,
    TooLarge,
    Unavailable,
)
from tintype.core.images import ImageStatus

REPOSITORY = "snaps/web"
NOISE = random.Random(5).randbytes(200_000)
DATA, SENT = small_archive(NOISE, b"small")
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SCHEMA2 = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry in this process."""
    with running() as registry:
        yield registry


@pytest.fixture
def everywhere(registry: FakeRegistry) -> Iterator[RegistryStore]:
    """The store of all repositories."""
    store = RegistryStore(registry.access)
    yield store
    store.close()


@pytest.fixture
def store(everywhere: RegistryStore) -> RegistryStore:
    """The store of the images named `web`."""
    return everywhere.at(everywhere.repository_for("web", None))


def stored(store: RegistryStore, data: bytes = DATA) -> str:
    """Return the id of an image with data."""
    image = store.reserve(spec())
    store.upload(image.id, pieces(data))
    return image.id


def content(store: RegistryStore, name: str) -> bytes:
    """Return an image's archive."""
    with store.download(name) as chunks:
        return b"".join(chunks)


def tag(image_id: str) -> str:
    """Return the tag that an image is found by."""
    return f"tintype-{image_id}"


def manifest_of(registry: FakeRegistry, name: str) -> dict[str, Any]:
    """Return the manifest under a tag."""
    document: dict[str, Any] = json.loads(
        registry.manifests[REPOSITORY, registry.repositories[REPOSITORY][name]][1]
    )
    return document


def test_an_image_of_ours_is_an_image_like_any_other(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    image_id = stored(store)
    done = store.complete(image_id, SENT, {"image_state": "available"}, tag="v2")
    store.publish(image_id)
    manifest = manifest_of(registry, "v2")
    assert manifest == manifest_of(registry, tag(image_id))
    assert done.digest == registry.repositories[REPOSITORY]["v2"]
    assert done.location == f"docker://{registry.domain}/{REPOSITORY}@{done.digest}"
    assert manifest["config"]["digest"] == SENT.config_digest
    assert [one["mediaType"] for one in manifest["layers"]] == [
        "application/vnd.oci.image.layer.v1.tar+gzip"
    ] * 2
    assert manifest["annotations"]["tintype.owner"] == "alpha"
    assert manifest["annotations"]["tintype.property.image_state"] == "available"
    for one in (manifest["config"], *manifest["layers"]):
        assert len(registry.blobs[one["digest"]]) == one["size"]


def test_only_one_manifest_is_left_of_an_image(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    image_id = stored(store)
    store.complete(image_id, SENT, {"a": "b"})
    assert len(registry.manifests) == 1
    store.discard(image_id)
    assert not registry.manifests
    assert registry.repositories == {REPOSITORY: {}}


# The user's tag


def published(store: RegistryStore, data: bytes = DATA) -> str:
    """Return the id of an image that has the tag `v1`."""
    image_id = stored(store, data)
    store.complete(image_id, named(data)[1], {})
    store.publish(image_id)
    return image_id


def test_the_users_tag_is_the_last_good_images_until_the_next_is_published(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    published(store)
    before = registry.repositories[REPOSITORY]["v1"]
    data, sent = small_archive(b"other")
    second, third = stored(store, data), stored(store, data)
    with pytest.raises(CorruptUpload):
        store.complete(second, SENT, {})
    store.complete(second, sent, {"image_state": "available"})
    assert registry.repositories[REPOSITORY]["v1"] == before
    store.discard(second)
    assert registry.repositories[REPOSITORY]["v1"] == before
    done = store.complete(third, sent, {})
    for _ in range(2):
        store.publish(third)
        assert registry.repositories[REPOSITORY]["v1"] == done.digest


def test_an_image_that_is_described_anew_keeps_its_tag(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    image_id = published(store)
    done = store.complete(image_id, SENT, {"more": "1"}, tag="v2")
    assert len(registry.manifests) == 1
    tags = registry.repositories[REPOSITORY]
    assert tags == {"v1": done.digest, tag(image_id): done.digest}
    store.publish(image_id)
    assert tags["v2"] == done.digest


def test_only_an_image_with_data_is_published(registry: FakeRegistry, store: RegistryStore) -> None:
    image = store.reserve(spec())
    with pytest.raises(NotFound, match="no data"):
        store.publish(image.id)
    with pytest.raises(NotFound):
        store.publish(str(uuid.uuid4()))
    assert "v1" not in registry.repositories[REPOSITORY]


def take_foreign(registry: FakeRegistry) -> None:
    """Give the tag to an image that Docker has pushed."""
    put_foreign(registry)
    registry.repositories[REPOSITORY]["v1"] = registry.repositories[REPOSITORY]["stable"]


def take_list(registry: FakeRegistry) -> None:
    """Give the tag to a list of images."""
    registry.put_manifest(REPOSITORY, "v1", INDEX, b'{"manifests": []}')


def take_other_owner(registry: FakeRegistry) -> None:
    """Give the tag to another project's image."""
    with closing(RegistryStore(registry.access)) as whole:
        store = whole.at(whole.repository_for("web", None))
        image = store.reserve(spec(owner="beta", tag="w"))
        store.upload(image.id, pieces(DATA))
    tags = registry.repositories[REPOSITORY]
    tags["v1"] = tags[tag(image.id)]


@pytest.mark.parametrize("take", [take_foreign, take_list, take_other_owner])
def test_a_tag_that_is_somebody_elses_is_not_taken(
    registry: FakeRegistry, store: RegistryStore, take: Callable[[FakeRegistry], None]
) -> None:
    image_id = stored(store)
    store.complete(image_id, SENT, {})
    take(registry)
    before = registry.repositories[REPOSITORY]["v1"]
    words = rf"/tag: {registry.domain}/{REPOSITORY}:v1 is an image of somebody else's; choose"
    with pytest.raises(Refused, match=words):
        store.publish(image_id)
    image = spec()
    with pytest.raises(Refused, match=words):
        store.reserve(image)
    with pytest.raises(NotFound):
        store.describe(image.id)
    assert registry.repositories[REPOSITORY]["v1"] == before
    assert store.reserve(spec(tag="free")).tag == "free"


def test_a_tag_that_is_moved_on_at_once_is_no_damage(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    def move(call: Call) -> None:
        call.as_specified()
        registry.put_manifest(REPOSITORY, "v1", OCI, b"{}")

    image_id = stored(store)
    registry.answers["PUT .*/manifests/v1"] = move
    store.publish(image_id)
    assert registry.repositories[REPOSITORY]["v1"] == digest_of(b"{}")


def test_a_manifest_that_was_taken_but_is_not_there_is_noticed(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    image_id = stored(store)
    registry.answers["PUT .*/manifests/v1"] = lambda call: call.answer(201)
    registry.answers["HEAD .*/manifests/sha256.*"] = lambda call: call.error(404, "X")
    with pytest.raises(CorruptUpload, match="is not there"):
        store.publish(image_id)


# What goes wrong on the way


def test_what_a_crash_has_left_of_an_image_is_deleted_later(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    def crash(call: Call) -> None:
        call.close_connection = True

    made = []
    for _ in range(2):
        made.append(stored(store))
        registry.answers["DELETE .*/manifests/.*"] = crash
        store.complete(made[-1], SENT, {"a": "b"})
        registry.answers.clear()
    assert len(registry.manifests) == 4
    store.complete(made[0], SENT, {"a": "b"})
    assert len(registry.manifests) == 3
    store.discard(made[1])
    assert len(registry.manifests) == 1


def test_a_reservation_that_a_crash_has_left_is_deleted_later(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    image = store.reserve(spec())
    registry.answers["DELETE .*/manifests/.*"] = lambda call: call.error(503, "UNAVAILABLE")
    store.upload(image.id, pieces(DATA))
    registry.answers.clear()
    assert len(registry.manifests) == 2
    store.complete(image.id, SENT, {"a": "b"})
    assert len(registry.manifests) == 1


@pytest.mark.parametrize(
    ("where", "status", "code"),
    [
        ("PATCH .*", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH .*", 400, "BLOB_UPLOAD_INVALID"),
        ("PUT .*/blobs/uploads/.*", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT .*/blobs/uploads/.*", 400, "BLOB_UPLOAD_INVALID"),
        ("PUT .*/manifests/.*", 400, "MANIFEST_BLOB_UNKNOWN"),
        ("PUT .*/manifests/.*", 404, "MANIFEST_BLOB_UNKNOWN"),
        ("PUT .*/manifests/.*", 404, "BLOB_UNKNOWN"),
    ],
)
def test_an_upload_that_the_registry_has_lost_is_tried_again_from_the_start(
    registry: FakeRegistry, store: RegistryStore, where: str, status: int, code: str
) -> None:
    if "manifests" in where:
        stored(store)  # its layers are known, and the registry has lost them without knowing
    image = store.reserve(spec())
    registry.answers[where] = lambda call: call.error(status, code)
    with pytest.raises(Unavailable, match=code):
        store.upload(image.id, pieces(DATA))
    registry.answers.clear()
    sent = len(registry.calls("PATCH .*"))
    store.upload(image.id, pieces(DATA))
    assert len(registry.calls("PATCH .*")) == sent + 1
    assert content(store, image.id) == DATA


def test_a_small_upload_that_fails_is_ended(registry: FakeRegistry, store: RegistryStore) -> None:
    registry.answers["PUT .*/blobs/uploads/.*"] = lambda call: call.error(503, "UNAVAILABLE")
    with pytest.raises(Unavailable):
        store.reserve(spec())
    assert len(registry.calls("DELETE .*/blobs/uploads/.*")) == 1
    assert not registry.uploads


@pytest.mark.parametrize("at", range(3))
def test_a_blob_that_the_registry_has_lost_is_noticed(
    registry: FakeRegistry, store: RegistryStore, at: int
) -> None:
    image_id = stored(store)
    manifest = manifest_of(registry, tag(image_id))
    del registry.blobs[[manifest["config"], *manifest["layers"]][at]["digest"]]
    with pytest.raises(CorruptUpload, match="has lost blob"):
        store.complete(image_id, SENT, {})
    assert "v1" not in registry.repositories[REPOSITORY]


def test_a_manifest_that_the_registry_changes_is_noticed(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    def change(call: Call) -> None:
        call.body += b" "
        call.as_specified()

    image = store.reserve(spec())
    registry.answers["PUT .*/manifests/.*"] = change
    with pytest.raises(CorruptUpload, match=r"has the digest sha256:\w+, sha256:\w+ was sent"):
        store.upload(image.id, pieces(DATA))


def test_a_blob_that_is_damaged_on_its_way_is_noticed(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    def change(call: Call) -> None:
        call.body = call.body[:-1] + b"x"
        call.as_specified()

    image = store.reserve(spec())
    registry.answers["PATCH .*"] = change
    with pytest.raises(CorruptUpload, match="DIGEST_INVALID"):
        store.upload(image.id, pieces(DATA))
    assert store.describe(image.id).status is ImageStatus.QUEUED
    assert len(registry.calls("DELETE .*/blobs/uploads/.*")) == 1


def test_a_stream_that_breaks_off_leaves_no_upload(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    data, _ = small_archive(random.Random(7).randbytes(3_000_000))

    def body() -> Iterator[bytes]:
        yield from pieces(data[:2_000_000])
        raise BrokenPipeError("the engine went away")

    image = store.reserve(spec())
    with pytest.raises(BrokenPipeError):
        store.upload(image.id, body())
    assert len(registry.calls("DELETE .*/uploads/.*")) == 1
    assert not registry.uploads
    assert store.describe(image.id).status is ImageStatus.QUEUED


def test_a_registry_that_answers_too_early_has_not_stored(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    image = store.reserve(spec())
    registry.answers["PATCH .*"] = lambda call: call.error(413, "SIZE_INVALID", "too big")
    with pytest.raises(Refused, match="too big"):
        store.upload(image.id, pieces(DATA))


def test_an_upload_that_another_host_has_ended_is_not_mixed_up(
    registry: FakeRegistry, store: RegistryStore, everywhere: RegistryStore
) -> None:
    del everywhere
    image = store.reserve(spec())
    elsewhere = RegistryStore(registry.access)

    def body() -> Iterator[bytes]:
        yield DATA[:1000]
        elsewhere.at(f"{registry.domain}/{REPOSITORY}").upload(image.id, pieces(DATA))
        yield DATA[1000:]

    with pytest.raises(ImageIdSpent, match="another upload"):
        store.upload(image.id, body())
    elsewhere.close()
    assert content(store, image.id) == DATA


# Layers that are known


def test_a_layer_that_was_sent_is_not_sent_again(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    stored(store)
    sent = len(registry.calls("PATCH .*"))
    again = stored(store)
    assert len(registry.calls("PATCH .*")) == sent == 1
    assert content(store, again) == DATA


def test_a_layer_that_the_registry_has_lost_is_sent_again(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    store.discard(stored(store))
    registry.blobs.clear()
    assert content(store, stored(store)) == DATA
    assert len(registry.calls("PATCH .*")) == 2


def test_another_layer_under_a_known_name_is_noticed(store: RegistryStore) -> None:
    archive = classic([layer({"content": NOISE})])
    stored(store, named(archive.to_bytes())[0])
    name = archive.layers[0]
    data = layer({"content": NOISE[::-1]})
    assert len(data) == len(archive.item(name).data)
    archive.item(name).data = data
    archive.item(archive.config).data = configuration([data])
    archive.item(archive.config).name = digest_of(configuration([data]))[7:] + ".json"
    entry = archive.document("manifest.json")
    entry[0]["Config"] = digest_of(configuration([data]))[7:] + ".json"
    archive.put("manifest.json", entry)
    changed, _ = named(archive.to_bytes())
    image = store.reserve(spec())
    with pytest.raises(Unavailable, match="not the layer that it was"):
        store.upload(image.id, pieces(changed))
    store.upload(image.id, pieces(changed))
    assert content(store, image.id) == changed


def test_layers_that_are_packed_are_sent_as_they_are(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    archive = oci([layer({"content": NOISE})], compressed=True)
    data, sent = named(archive.to_bytes())
    first = stored(store, data)
    store.complete(first, sent, {})
    (blob,) = manifest_of(registry, tag(first))["layers"]
    assert blob["digest"] == "sha256:" + archive.layers[0].rpartition("/")[2]
    second = stored(store, data)
    assert len(registry.calls("PATCH .*")) == 1
    assert content(store, first) == content(store, second) == data


# Archives


@pytest.mark.parametrize("make", [classic, oci], ids=["classic", "oci"])
@pytest.mark.parametrize("noise", [NOISE, b"tiny"], ids=["large", "tiny"])
def test_both_layouts_come_back_as_they_went(store: RegistryStore, make: Any, noise: bytes) -> None:
    one = layer({"content": noise})
    data, sent = named(make([one, layer({}), one]).to_bytes())
    image_id = stored(store, data)
    assert store.complete(image_id, sent, {}).sha512 == sent.sha512
    assert content(store, image_id) == data


def test_a_layer_that_looks_like_json_is_a_layer(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    data, sent = named(classic([layer({"[": b"test"}), layer({"{": NOISE})]).to_bytes())
    image_id = stored(store, data)
    store.complete(image_id, sent, {})
    assert content(store, image_id) == data
    assert len(manifest_of(registry, tag(image_id))["layers"]) == 2


def test_an_archive_with_more_than_an_image_comes_back_as_the_same_image(
    store: RegistryStore,
) -> None:
    archive = oci([layer({"content": NOISE})])
    extra = random.Random(6).randbytes(100_000)
    archive.items.insert(3, type(archive.items[0])(f"blobs/sha256/{digest_of(extra)[7:]}", extra))
    data, sent = named(archive.to_bytes())
    image_id = stored(store, data)
    done = store.complete(image_id, sent, {})
    assert (done.size_bytes, done.sha512) == (None, None)
    _, again = named(content(store, image_id))
    assert (again.config_digest, again.layers) == (sent.config_digest, sent.layers)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda archive: archive.drop("manifest.json"), "no manifest.json"),
        (lambda archive: archive.drop(archive.config), "has no"),
        (lambda archive: archive.drop(archive.layers[0]), "is missing"),
        (lambda archive: archive.put("manifest.json", []), "not about one image"),
        (lambda archive: archive.put("manifest.json", [1]), "not about one image"),
        (lambda archive: archive.put(archive.config, {}), "no list"),
        (lambda archive: archive.put(archive.config, []), "no list"),
        (
            lambda archive: archive.put(
                "manifest.json", [{"Config": archive.config, "Layers": []}]
            ),
            "1 layers, the archive 0",
        ),
    ],
)
@pytest.mark.parametrize("noise", [NOISE, b"tiny"], ids=["large", "tiny"])
def test_what_is_no_whole_image_is_refused(
    registry: FakeRegistry, store: RegistryStore, damage: Any, words: str, noise: bytes
) -> None:
    archive = classic([layer({"content": noise})])
    damage(archive)
    image = store.reserve(spec())
    with pytest.raises(CorruptArchive, match=words):
        store.upload(image.id, pieces(archive.to_bytes()))
    assert store.describe(image.id).status is ImageStatus.QUEUED
    assert not registry.uploads


@pytest.mark.parametrize("noise", [NOISE, b"tiny"], ids=["large", "tiny"])
def test_a_layer_that_is_not_what_the_configuration_says_is_refused(
    store: RegistryStore, noise: bytes
) -> None:
    archive = classic([layer({"content": noise})])
    item = archive.item(archive.layers[0])
    item.data = item.data[:600] + b"!" + item.data[601:]
    image = store.reserve(spec())
    with pytest.raises(CorruptArchive, match="is damaged"):
        store.upload(image.id, pieces(archive.to_bytes()))


# Downloads


def broken(body: bytes) -> Any:
    """Return an answer with another body."""
    return lambda call: call.answer(200, body)


@pytest.mark.parametrize("change", [b"", b"x" * 50, None], ids=["none", "other", "longer"])
def test_a_damaged_blob_is_found_out(
    registry: FakeRegistry, store: RegistryStore, change: bytes | None
) -> None:
    image_id = stored(store)
    (big, _) = manifest_of(registry, tag(image_id))["layers"]
    blob = registry.blobs[big["digest"]]
    registry.blobs[big["digest"]] = blob + b"x" if change is None else change
    with pytest.raises(CorruptDownload, match=r"damaged|cannot be unpacked"):
        content(store, image_id)


def test_a_blob_with_one_other_bit_is_found_out(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    data, _ = named(oci([layer({"content": NOISE})], compressed=True).to_bytes())
    image_id = stored(store, data)
    (one,) = manifest_of(registry, tag(image_id))["layers"]
    blob = bytearray(registry.blobs[one["digest"]])
    blob[1000] ^= 1
    registry.blobs[one["digest"]] = bytes(blob)
    with pytest.raises(CorruptDownload, match=r"is damaged.*with the digest"):
        content(store, image_id)


def test_a_download_that_breaks_off_is_unavailable(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    image_id = stored(store)

    def break_off(call: Call) -> None:
        call.answer(200, b"short", Content_Length="999999")
        call.close_connection = True

    registry.answers["GET .*/blobs/.*"] = break_off
    with pytest.raises(Unavailable, match="broke off"):
        content(store, image_id)


def test_a_manifest_that_is_not_what_it_is_called_is_found_out(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    digest = registry.put_manifest(REPOSITORY, "t", OCI, b"{}")
    registry.answers[f"GET .*/manifests/{digest}"] = broken(b"[]")
    with pytest.raises(CorruptDownload, match="is damaged: its digest"):
        store.describe(digest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tintype.archive.rest": "!"}, "are damaged"),
        ({"tintype.archive.rest": ""}, "are damaged"),
        ({"tintype.archive.layers": "{"}, "are damaged"),
        ({"tintype.archive.layers": "[[1]]"}, "are damaged"),
        ({"tintype.archive.layers": f'[[99999999, "{digest_of(b"")}", 1, true]]'}, "are damaged"),
        ({"tintype.archive.layers": f'[[0, "{digest_of(b"")}", 1, true]]'}, "has not"),
    ],
)
def test_an_outline_that_is_damaged_is_found_out(
    registry: FakeRegistry, store: RegistryStore, change: Mapping[str, str], words: str
) -> None:
    manifest = manifest_of(registry, tag(stored(store)))
    manifest["annotations"].update(change)
    registry.put_manifest(REPOSITORY, "odd", OCI, compact(manifest))
    with pytest.raises(CorruptDownload, match=words):
        content(store, "odd")


# Images of others


def put_foreign(
    registry: FakeRegistry, *, kind: str = SCHEMA2, content: bytes = b"foreign", **changes: Any
) -> tuple[str, bytes]:
    """Store an image as Docker pushes it; return its digest and its configuration."""
    one = layer({"content": content})
    config, blob = configuration([one]), pack(one)
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": DOCKER_CONFIG,
            "digest": registry.put_blob(config),
            "size": len(config),
        },
        "layers": [
            {"mediaType": DOCKER_LAYER, "digest": registry.put_blob(blob), "size": len(blob)}
        ],
        **changes,
    }
    return registry.put_manifest(REPOSITORY, "stable", kind, compact(document)), config


def test_somebody_elses_image_can_be_loaded_by_tag_or_digest(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    digest, config = put_foreign(registry)
    for name in ("stable", digest):
        image = store.describe(name)
        assert (image.id, image.status, image.digest) == (name, ImageStatus.ACTIVE, digest)
        assert (image.size_bytes, image.sha512, image.owner) == (None, None, None)
        _, found = named(content(store, name))
        assert found.config_digest == digest_of(config)
        assert len(found.layers) == 1


def test_somebody_elses_image_is_neither_found_nor_deleted(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    put_foreign(registry)
    assert list(store.find(None, {})) == []
    with pytest.raises(Invalid, match="UUID"):
        store.discard("stable")
    image_id = str(uuid.uuid4())
    registry.repositories[REPOSITORY][tag(image_id)] = registry.repositories[REPOSITORY]["stable"]
    with pytest.raises(Refused, match="no image of Tintype's"):
        store.upload(image_id, pieces(DATA))


def in_list(digest: str, architecture: str, variant: str | None = None) -> dict[str, Any]:
    """Return an entry of a list of images."""
    platform = {"os": "linux", "architecture": architecture}
    if variant:
        platform["variant"] = variant
    return {"mediaType": OCI, "digest": digest, "size": 1, "platform": platform}


def put_list(registry: FakeRegistry, *entries: dict[str, Any]) -> str:
    """Store a list of images under the tag `many` and return its digest."""
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}
    return registry.put_manifest(REPOSITORY, "many", INDEX, compact(document))


@pytest.mark.parametrize("variant", [None, "own"], ids=str)
def test_of_a_list_the_image_for_this_machine_is_taken(
    registry: FakeRegistry, store: RegistryStore, variant: str | None
) -> None:
    architecture, own = registry_pull.machine()
    right, _ = put_foreign(registry, content=b"right")
    wrong, _ = put_foreign(registry, content=b"wrong")
    entries = [
        in_list(wrong, "s390x"),
        in_list(wrong, architecture, "v99"),
        in_list(right, architecture, own if variant else None),
        {"mediaType": OCI, "digest": wrong, "size": 1},
    ]
    put_list(registry, *entries)
    assert store.describe("many").digest == right
    put_list(registry, in_list(put_list(registry, *entries), architecture))
    assert store.describe("many").digest == right


def test_a_list_without_an_image_for_this_machine_is_not_restorable(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    digest, _ = put_foreign(registry)
    put_list(registry, in_list(digest, "s390x"), in_list(digest, "riscv64"))
    with pytest.raises(NotRestorable, match=r"but linux/riscv64, linux/s390x"):
        store.describe("many")
    put_list(registry)
    with pytest.raises(NotRestorable, match="but nothing"):
        store.describe("many")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"schemaVersion": 1, "fsLayers": []}', NotRestorable),
        (b"{}", NotRestorable),
        (b"<html>", CorruptDownload),
        (b"[]", CorruptDownload),
        (b'{"schemaVersion": 2, "config": {}, "layers": []}', CorruptDownload),
        (b'{"schemaVersion": 2, "config": {}, "layers": [], "annotations": []}', NotRestorable),
        (b" " * (5 << 20), Unavailable),
    ],
    ids=["schema1", "nothing", "html", "list", "empty", "annotations", "long"],
)
def test_a_manifest_that_makes_no_sense(
    registry: FakeRegistry, store: RegistryStore, body: bytes, error: type[Exception]
) -> None:
    registry.put_manifest(REPOSITORY, "odd", OCI, body)
    with pytest.raises((error, CorruptDownload)):
        store.describe("odd")


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                     "digest": digest_of(b""), "size": 0}]},
        {"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json",
                    "digest": digest_of(b""), "size": 0}},
    ],
    ids=["layers", "config"],
)  # fmt: skip
def test_what_is_no_image_is_not_restorable(
    registry: FakeRegistry, store: RegistryStore, changes: dict[str, Any]
) -> None:
    put_foreign(registry, **changes)
    with pytest.raises(NotRestorable, match=r"no container image: it holds '.*helm"):
        content(store, "stable")


@pytest.mark.parametrize("name", ["a/b", "", "../x", "sha256:12", "x" * 129, "a?b"])
def test_what_can_be_no_image_is_asked_of_nobody(
    registry: FakeRegistry, store: RegistryStore, name: str
) -> None:
    with pytest.raises(Invalid, match="UUID, a tag or a digest"):
        store.describe(name)
    assert not registry.seen


# Lists and deletions


@pytest.mark.parametrize("root", ["{path}", "", "http://{domain}{path}"], ids=str)
def test_lists_are_followed_page_by_page(
    registry: FakeRegistry, store: RegistryStore, everywhere: RegistryStore, root: str
) -> None:
    registry.page = 2
    registry.link = f"{root.replace('{domain}', registry.domain)}?n=2&last={{last}}"
    made = [stored(store) for _ in range(5)]
    for name in ("a", "b", "c", "d"):
        registry.put_manifest(f"snaps/{name}", "x", OCI, b"{}")
        registry.put_manifest(f"elsewhere/{name}", tag(made[0]), OCI, b"{}")
    assert [image.id for image in store.find("alpha", {})] == made[::-1]
    assert [image.id for image in everywhere.find(None, {})] == made[::-1]
    assert len(registry.calls(r"GET /v2/_catalog.*")) == 5
    assert everywhere.describe(made[2]).repository == f"{registry.domain}/{REPOSITORY}"
    everywhere.discard(made[2])
    with pytest.raises(NotFound):
        everywhere.describe(made[2])
    everywhere.discard(made[2])


def test_an_image_that_cannot_be_read_is_left_out_of_a_list(
    registry: FakeRegistry, store: RegistryStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    good, bad = stored(store), str(uuid.uuid4())
    registry.put_manifest(REPOSITORY, tag(bad), OCI, b"{")
    assert [image.id for image in store.find(None, {})] == [good]
    assert bad in caplog.text


def test_a_list_that_makes_no_sense_is_unavailable(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    registry.answers["GET .*/tags/list"] = broken(b'{"tags": [1]}')
    with pytest.raises(Unavailable, match="list of tags that makes no sense"):
        store.find(None, {})
    registry.answers["GET .*/tags/list"] = broken(b'{"tags": null}')
    assert list(store.find(None, {})) == []


def test_a_registry_without_a_list_of_repositories_says_what_to_do(
    registry: FakeRegistry, everywhere: RegistryStore
) -> None:
    registry.answers["GET /v2/_catalog"] = lambda call: call.error(404, "NOT_FOUND")
    with pytest.raises(Refused, match="name the repository"):
        everywhere.find(None, {})


def test_a_registry_without_a_list_hides_no_other(
    registry: FakeRegistry, store: RegistryStore, caplog: pytest.LogCaptureFixture
) -> None:
    image_id = stored(store)
    with running() as silent:
        silent.answers["GET /v2/_catalog"] = lambda call: call.error(401, "UNAUTHORIZED")
        places = (Place(silent.domain), Place(registry.domain))
        with closing(RegistryStore(replace(registry.access, allowed=places))) as both:
            assert [image.id for image in both.find(None, {})] == [image_id]
            assert silent.domain in caplog.text
            assert both.describe(image_id).id == image_id
            with pytest.raises(Refused, match="name the repository") as raised:
                both.discard(str(uuid.uuid4()))  # it may be where nothing is listed
            assert type(raised.value) is Refused


def test_a_registry_that_deletes_nothing_says_what_to_switch_on(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    registry.answers["DELETE .*/manifests/.*"] = lambda call: call.error(405, "UNSUPPORTED")
    image_id = stored(store)
    store.complete(image_id, SENT, {"a": "b"})  # what it leaves there does no harm
    with pytest.raises(Refused, match=r"storage\.delete\.enabled"):
        store.discard(image_id)
    assert store.describe(image_id).status is ImageStatus.ACTIVE


@pytest.mark.parametrize("name", [f"tintype-{uuid.UUID(int=1)}", "a b", ""])
def test_a_tag_that_is_another_images_own_is_refused(store: RegistryStore, name: str) -> None:
    with pytest.raises(Invalid, match="/tag"):
        store.reserve(spec(tag=name))
    image_id = stored(store)
    with pytest.raises(Invalid, match="/tag"):
        store.complete(image_id, SENT, {}, tag=name or "a/b")


def test_properties_that_fit_into_no_manifest_are_refused(
    registry: FakeRegistry, store: RegistryStore
) -> None:
    with pytest.raises(TooLarge, match="fewer or shorter labels"):
        store.reserve(spec(properties={"container_labels": "x" * (4 << 20)}))
    assert not registry.manifests


def test_an_image_without_a_repository_of_its_own_goes_where_its_name_leads(
    registry: FakeRegistry, everywhere: RegistryStore
) -> None:
    image = everywhere.reserve(spec(name="team/db"))
    assert image.repository == f"{registry.domain}/snaps/team/db"
    everywhere.upload(image.id, pieces(DATA))
    assert content(everywhere, image.id) == DATA
    stream = ArchiveStream([content(everywhere, image.id)], "x:1")
    assert all(stream)
