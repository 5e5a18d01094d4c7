"""Which image a restore means in a real registry, and how it comes from there."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import requests

from tests.support.registry import RealRegistry, small_archive, spec
from tests.support.twins import ADMIN, ALICE, MALLORY, Bench
from tintype.adapters.registry_manifest import OCI_MANIFEST
from tintype.core.errors import Invalid, NotFound, TintypeError
from tintype.core.events import RESTORE_END, RESTORE_REQUEST, Event, Message, Requester
from tintype.core.snapshot import snapshot_id_for


@pytest.fixture
def bench(registry: RealRegistry) -> Bench:
    """A host with a registry beside its twins, and a snapshot of Alice's in that."""
    bench = Bench()
    bench.stores["registry"] = registry.store()  # type: ignore[assignment]  # a store, no twin
    bench.restart(bench.journal)
    bench.container(env={"MODE": "x"})
    return bench


@pytest.fixture
def snapshot(bench: Bench) -> dict[str, Any]:
    """The end of that snapshot."""
    request_id = bench.ask(stores=["registry"], image_name="team/snap", tag="v1")
    bench.settle()
    end = bench.outcome(request_id).payload
    assert end["fault"] is None, end
    bench.engine.remove(end["engine_container_id"])
    return dict(end)


def restored(bench: Bench, who: Requester = ALICE, **fields: Any) -> Event:
    """Ask for a restore and return its outcome."""
    request_id = str(uuid.uuid4())
    payload = {"request_id": request_id, **fields}
    bench.intake.on_message(Message(RESTORE_REQUEST, payload, who, str(uuid.uuid4())))
    bench.settle()
    return bench.outcome(request_id)


def test_a_snapshot_is_found_by_whatever_names_it(
    bench: Bench, snapshot: dict[str, Any], registry: RealRegistry
) -> None:
    repository = f"{registry.access.home}/team/snap"
    (copy,) = snapshot["stores"]
    for fields in (
        {"snapshot_id": snapshot["request_id"]},
        {"snapshot_id": snapshot_id_for(snapshot["request_id"]), "repository": repository},
        {"image_id": snapshot["image_id"]},
        {"image": "team/snap:v1", "store": "registry"},
        {"image": f"{repository}:v1"},
        {"image": "anything:v1", "repository": repository, "store": "registry"},
        {"image": f"{repository}@{copy['digest']}"},
    ):
        end = restored(bench, **fields)
        assert end.type == RESTORE_END, (fields, end.payload["fault"])
        assert end.payload["image_id"] == snapshot["image_id"]
        assert end.payload["snapshot_id"] == snapshot["snapshot_id"]
        assert end.payload["sha256"] == snapshot["sha256"]
        made = bench.engine.inspect(end.payload["engine_container_id"])
        assert made.env_names == ("MODE",)
        bench.engine.remove(made.engine_id)


def test_what_is_not_there_or_not_allowed_is_not_found(
    bench: Bench, snapshot: dict[str, Any], registry: RealRegistry
) -> None:
    repository = f"{registry.access.home}/team/snap"
    wrong: list[tuple[dict[str, Any], type[TintypeError]]] = [
        ({"image": f"{repository}:v2"}, NotFound),
        ({"image": f"{registry.access.home}/nothing"}, NotFound),
        ({"snapshot_id": str(uuid.uuid4())}, NotFound),
        ({"image": "team/snap:v1", "who": MALLORY, "store": "registry"}, NotFound),
        ({"snapshot_id": snapshot["snapshot_id"], "who": MALLORY}, NotFound),
        ({"image": "elsewhere.example:5000/snap", "store": "registry"}, Invalid),
        ({"image": "snap", "repository": "elsewhere.example/snap"}, Invalid),
    ]
    for fields, error in wrong:
        fault = restored(bench, **fields).payload["fault"]
        assert fault["exception"] == error.__name__, (fields, fault)


def test_an_image_that_is_not_ours_is_for_administrators(
    bench: Bench, snapshot: dict[str, Any], registry: RealRegistry
) -> None:
    assert snapshot["tag"] == "v1"
    foreign = without_annotations(registry, "team/snap", "v1", "foreign")
    assert restored(bench, image=foreign).payload["fault"]["code"] == 404
    end = restored(bench, ADMIN, image=foreign)
    assert end.type == RESTORE_END, end.payload["fault"]
    assert end.payload["image_id"].startswith("sha256:"), "a tag may move meanwhile"
    assert end.payload["sha256"] is None
    assert end.payload["snapshot_id"] is None


def test_an_image_of_another_project_under_the_same_id_is_never_taken(
    bench: Bench, snapshot: dict[str, Any], registry: RealRegistry
) -> None:
    """Whoever may push there may reserve any id in a repository of his own."""
    for other in ("aaa", "zzz"):  # before and after ours in the registry's list
        slip(registry, f"{registry.access.home}/{other}", snapshot)
    for fields in ({"image_id": snapshot["image_id"]}, {"snapshot_id": snapshot["snapshot_id"]}):
        end = restored(bench, **fields)
        assert end.type == RESTORE_END, (fields, end.payload["fault"])
        assert end.payload["sha256"] == snapshot["sha256"]
        made = bench.engine.inspect(end.payload["engine_container_id"])
        assert made.env_names == ("MODE",)
        bench.engine.remove(made.engine_id)
        fields["repository"] = f"{registry.access.home}/aaa"
        assert restored(bench, **fields).payload["fault"]["code"] == 404
    hers = restored(bench, MALLORY, image_id=snapshot["image_id"])
    assert hers.type == RESTORE_END, hers.payload["fault"]
    assert hers.payload["sha256"] is None


def slip(registry: RealRegistry, repository: str, snapshot: dict[str, Any]) -> None:
    """Put another image of Mallory's under a snapshot's id, which says that it is the snapshot."""
    image_id = snapshot["image_id"]
    data, summary = small_archive(repository.encode())
    place = registry.store().at(repository)
    place.reserve(spec(id=image_id, owner=MALLORY.project_id))
    place.upload(image_id, [data])
    about = {name: snapshot[name] for name in ("snapshot_id", "image_id")}
    place.complete(image_id, summary, about)


def without_annotations(registry: RealRegistry, name: str, tag: str, new_tag: str) -> str:
    """Give an image another tag, without what Tintype says of it; return the reference."""
    repository = f"{registry.access.home}/{name}"
    domain, _, path = repository.partition("/")
    url = f"http://{domain}/v2/{path}/manifests"
    kind = {"Accept": OCI_MANIFEST, "Content-Type": OCI_MANIFEST}
    manifest = requests.get(f"{url}/{tag}", headers=kind, timeout=60).json()
    del manifest["annotations"]
    for layer in manifest["layers"]:
        layer.pop("annotations", None)
    body = json.dumps(manifest)
    answer = requests.put(f"{url}/{new_tag}", headers=kind, data=body, timeout=60)
    assert answer.status_code == requests.codes.created, answer.text
    return f"{repository}:{new_tag}"
