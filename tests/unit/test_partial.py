"""A snapshot for several stores of which one fails: the others have the image."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.memory_registry import MemoryRegistry
from tests.support.power import killed_at_each_call, killed_at_each_write
from tests.support.steps import again, at, only, request, run
from tests.support.twins import Bench
from tintype.core.engine import CaptureOptions
from tintype.core.errors import (
    Cancelled,
    CorruptArchive,
    CorruptUpload,
    NotFound,
    Refused,
    TooLarge,
    Unavailable,
)
from tintype.core.events import SNAPSHOT_END, SNAPSHOT_ERROR, SNAPSHOT_START
from tintype.core.snapshot import (
    ABORT,
    FINISH,
    PUBLISH,
    RESERVE,
    SWEEP,
    UPLOAD,
    Snapshot,
    image_id_for,
)

BOTH = ["glance", "directory"]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def done(bench: Bench, **fields: Any) -> dict[str, Any]:
    """Return the payload of a request's one outcome, under its type as well."""
    request_id = bench.ask(**{"stores": BOTH, **fields})
    bench.settle()
    outcome = bench.outcome(request_id)
    return {**outcome.payload, "type": outcome.type}


def store(payload: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in payload["stores"] if each["name"] == name]
    return dict(found)


@pytest.mark.parametrize("bad", BOTH)
@pytest.mark.parametrize(
    ("call", "phase"),
    [("reserve", "accepted"), ("upload", "uploading"), ("complete", "uploading")],
)
def test_one_store_fails_and_the_other_has_the_image(
    bench: Bench, bad: str, call: str, phase: str
) -> None:
    bench.container()
    bench.trouble.plan(f"{bad}.{call}", TooLarge("quota"), times=9)
    payload = done(bench)
    (good,) = [name for name in BOTH if name != bad]

    assert payload["type"] == SNAPSHOT_END
    lost, kept = store(payload, bad), store(payload, good)
    assert (kept["status"], kept["fault"]) == ("active", None)
    assert (lost["status"], lost["location"], lost["digest"]) == ("error", None, None)
    assert lost["fault"] == {
        "code": 413,
        "exception": "TooLarge",
        "message": "quota",
        "retryable": False,
        "phase": phase,
        "image_deleted": True,
    }
    assert payload["image_id"] == kept["image_id"]
    assert payload["fault"] is None
    assert payload["warnings"] == [f"the store {bad!r} has no image: quota"]
    assert bench.images(good) == {kept["image_id"]: "active"}
    assert bench.images(bad) == {}
    bench.require_clean_engine()


def test_the_image_that_is_told_is_one_that_is_there(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", TooLarge("full"), times=9)
    bench.trouble.plan("directory.complete", CorruptUpload("short"))
    payload = done(bench)
    assert payload["image_id"] == image_id_for(payload["request_id"], 1)
    assert bench.images("directory") == {payload["image_id"]: "active"}


def test_when_all_stores_fail_so_does_the_snapshot(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.reserve", Refused("forbidden"), times=9)
    bench.trouble.plan("directory.upload", TooLarge("full"), times=9)
    payload = done(bench)
    assert payload["type"] == SNAPSHOT_ERROR
    assert (payload["fault"]["code"], payload["fault"]["image_deleted"]) == (413, True)
    assert store(payload, "glance")["fault"]["message"] == "forbidden"
    assert bench.images() == bench.images("directory") == {}


def test_the_only_store_that_fails_fails_the_snapshot(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", TooLarge("full"), times=9)
    assert done(bench, stores=["glance"])["type"] == SNAPSHOT_ERROR


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        ("glance.upload", Cancelled("stop"), 499),
        ("glance.upload", RuntimeError("a defect"), 500),
        ("engine.read", CorruptArchive("torn"), 502),
        ("engine.read", Refused("the engine will not"), 409),
    ],
)
def test_what_no_other_store_is_spared_fails_the_snapshot(
    bench: Bench, call: str, error: Exception, code: int
) -> None:
    bench.container()
    bench.trouble.plan(call, error, times=9)
    payload = done(bench)
    assert (payload["type"], payload["fault"]["code"]) == (SNAPSHOT_ERROR, code)
    assert bench.images() == bench.images("directory") == {}
    assert payload["warnings"] == [], "no store is to blame"


def test_what_cannot_be_scrubbed_is_no_stores_fault(bench: Bench) -> None:
    """The engine's configuration is not all of an image: the stream may find more."""
    container = bench.container(env={"SECRET": "hunter2-and-more"})
    step = at(bench, UPLOAD, stores=BOTH, unset_env=["SECRET"])
    snapshot = Snapshot.load(step)
    made = bench.engine.by_id[container.engine_id]
    made.described = replace(made.described, labels={"dsn": "hunter2-and-more"})
    plain = CaptureOptions(pause=False)
    taken = bench.engine.capture(made.described, snapshot.request_id, plain)
    (abort,) = run(bench, snapshot.step(UPLOAD, capture_ref=taken.ref))
    assert abort.type == ABORT
    payload = run(bench, abort)[0].payload
    assert "the value of SECRET" in payload["fault"]["message"]
    assert payload["warnings"] == []
    assert [each["status"] for each in payload["stores"]] == ["queued", "queued"]


def test_a_capture_that_is_gone_as_it_is_read_is_made_again(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("engine.read", NotFound("no such image"))
    payload = done(bench)
    assert payload["type"] == SNAPSHOT_END
    assert [each["status"] for each in payload["stores"]] == ["active", "active"]


# The image's own tag


@pytest.fixture
def registries(bench: Bench) -> list[str]:
    """Return the names of two stores with repositories, which are on the host besides."""
    for name in ("mirror", "registry"):
        bench.stores[name] = MemoryRegistry(name)
        bench.stores[name]._fail = bench.trouble.hook(name)
    bench.restart(bench.journal)
    return ["mirror", "registry"]


def published(bench: Bench, name: str) -> list[str]:
    return bench.stores[name].published


def test_the_tag_is_given_when_every_store_has_the_image(
    bench: Bench, registries: list[str]
) -> None:
    bench.container()
    step = at(bench, PUBLISH, stores=[*registries, "glance"])
    image_id = image_id_for(str(step.payload["request_id"]))
    assert [copy.status for copy in Snapshot.load(step).copies] == ["active"] * 3
    assert published(bench, "mirror") == published(bench, "registry") == []

    second = only(bench, step)
    assert second.type == PUBLISH
    assert (published(bench, "mirror"), published(bench, "registry")) == ([image_id], [])
    assert only(bench, second).type == FINISH
    assert published(bench, "registry") == [image_id]
    assert published(bench, "glance") == []
    assert only(bench, again(second)).type == FINISH, "the same again is fine"


def test_without_repositories_there_is_no_tag_to_give(bench: Bench) -> None:
    bench.container()
    assert done(bench)["type"] == SNAPSHOT_END
    assert not any(call.endswith(".publish") for call in bench.trouble.calls)


def test_a_store_that_refuses_the_tag_is_given_up(bench: Bench, registries: list[str]) -> None:
    bench.container()
    bench.trouble.plan("mirror.publish", Refused("the tag is another's"), times=9)
    payload = done(bench, stores=registries)
    assert payload["type"] == SNAPSHOT_END
    lost = store(payload, "mirror")
    assert (lost["status"], lost["location"], lost["digest"]) == ("error", None, None)
    assert lost["fault"]["image_deleted"] is True
    assert bench.images("mirror") == {}
    assert published(bench, "registry") == [payload["image_id"]]


def test_the_only_store_that_refuses_the_tag_fails_the_snapshot(
    bench: Bench, registries: list[str]
) -> None:
    bench.container()
    bench.trouble.plan("registry.publish", Refused("the tag is another's"), times=9)
    payload = done(bench, stores=registries[1:])
    assert (payload["type"], payload["fault"]["code"]) == (SNAPSHOT_ERROR, 409)
    assert bench.images("registry") == {}


def test_an_image_that_is_gone_before_it_has_its_tag_cancels_the_snapshot(
    bench: Bench, registries: list[str]
) -> None:
    bench.container()
    step = at(bench, PUBLISH, stores=registries)
    bench.trouble.plan("mirror.publish", NotFound("no such image"))
    with pytest.raises(Cancelled, match="was deleted from 'mirror'"):
        run(bench, step)


def test_a_snapshot_that_fails_before_has_moved_no_tag(bench: Bench, registries: list[str]) -> None:
    bench.container()
    bench.trouble.plan("registry.upload", CorruptArchive("torn"), times=9)
    assert done(bench, stores=registries)["type"] == SNAPSHOT_ERROR
    assert published(bench, "mirror") == []


def test_a_tag_is_waited_for(bench: Bench, registries: list[str]) -> None:
    bench.container()
    bench.trouble.plan("registry.publish", Unavailable("away"), times=7)
    payload = done(bench, stores=registries)
    assert [each["status"] for each in payload["stores"]] == ["active", "active"]


def test_a_store_that_is_away_is_waited_for_however_many_there_are(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("directory.upload", Unavailable("away"), times=7)
    payload = done(bench)
    assert [each["status"] for each in payload["stores"]] == ["active", "active"]
    assert payload["warnings"] == []


def test_a_store_that_uses_its_ids_up_is_given_up(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.complete", CorruptUpload("short"), times=99)
    payload = done(bench)
    lost = store(payload, "glance")
    assert lost["status"] == "error"
    assert "used up in vain" in lost["fault"]["message"]
    assert bench.images() == {}


def test_a_store_that_is_configured_no_more_is_given_up(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD, stores=BOTH)
    bench.stores.pop("glance")
    with pytest.raises(Refused, match="'glance' is not configured here any more") as caught:
        run(bench, step)
    step = Snapshot.load(step).failed(UPLOAD, caught.value).after(UPLOAD, caught.value)
    while step.type != FINISH:
        step = only(bench, step)
    end, sweep = run(bench, step)
    assert store(dict(end.payload), "glance")["fault"]["image_deleted"] is False
    assert store(dict(end.payload), "directory")["status"] == "active"
    assert sweep.type == SWEEP
    assert run(bench, sweep) == [], "what is refused for good is not tried for ever"


def test_an_image_that_cannot_be_deleted_now_is_swept_later(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", TooLarge("full"), times=9)
    bench.trouble.plan("glance.discard", Unavailable("away"), times=5)
    payload = done(bench)
    assert payload["type"] == SNAPSHOT_END
    assert store(payload, "glance")["fault"]["image_deleted"] is False
    assert bench.images() == {}


def test_the_images_used_up_of_a_store_that_is_given_up_go_too(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD, stores=BOTH)
    request_id = str(step.payload["request_id"])
    lost = Snapshot.load(step)
    (glance, _) = lost.copies
    fresh = lost.with_copy(glance.next_generation(request_id))
    error = TooLarge("full")
    step = fresh.failed(RESERVE, error).after(RESERVE, error)
    while step.type != FINISH:
        (step,) = [each for each in run(bench, step) if each.type != SNAPSHOT_START]
    assert bench.images() == {image_id_for(request_id): "queued"}
    assert run(bench, step)[0].type == SNAPSHOT_END
    assert bench.images() == {}


def test_a_failed_snapshot_deletes_what_the_good_stores_have(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("directory.upload", TooLarge("full"), times=9)
    request_id = bench.ask(stores=BOTH)
    while bench.images().get(image_id_for(request_id)) != "active":
        bench.run_step()
    bench.cancel(request_id)
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_ERROR
    assert bench.images() == bench.images("directory") == {}


def test_one_store_for_each_step(bench: Bench) -> None:
    """What one refuses must not be done again for another."""
    bench.container()
    step = only(bench, request(stores=BOTH))
    second = only(bench, step)
    assert (step.type, second.type) == (RESERVE, RESERVE)
    assert [copy.reserved for copy in Snapshot.load(second).copies] == [True, False]
    start, _ = run(bench, second)
    assert start.type == SNAPSHOT_START
    assert bench.trouble.calls.count("glance.reserve") == 1
    assert run(bench, again(second))[0] == start


@pytest.mark.parametrize("call", ["glance.upload", "glance.complete"])
def test_rotation_leaves_the_store_alone_that_has_no_new_image(bench: Bench, call: str) -> None:
    """Not even if it has all of it, which is deleted since it was not found whole."""
    bench.container()
    series = {"backup_type": "daily", "rotation": 1}
    first = done(bench, **series)
    bench.clock.advance(60)
    bench.trouble.plan(call, TooLarge("full"), times=9)
    second = done(bench, **series)
    assert [each["store"] for each in second["rotated_images"]] == ["directory"]
    assert bench.images() == {store(first, "glance")["image_id"]: "active"}
    assert bench.images("directory") == {store(second, "directory")["image_id"]: "active"}


# The power is cut


def glance_is_full(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.upload", TooLarge("full"), times=99)


def directory_refuses(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("directory.reserve", Refused("forbidden"), times=99)


def require_one_image(bench: Bench, request_id: str, about: object) -> None:
    """Fail unless the request ended with an image in one store, and nothing in the other."""
    end = bench.outcome(request_id)
    assert end.type == SNAPSHOT_END, about
    assert sorted(each["status"] for each in end.payload["stores"]) == ["active", "error"], about
    for each in end.payload["stores"]:
        left = {each["image_id"]: "active"} if each["status"] == "active" else {}
        assert bench.images(each["name"]) == left, about
    bench.require_clean_engine()


@pytest.mark.parametrize("prepare", [glance_is_full, directory_refuses])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_journal_write_leaves_one_image(
    tmp_path: Path, prepare: Any, *, after: bool
) -> None:
    for bench, request_id in killed_at_each_write(tmp_path, prepare, after=after, stores=BOTH):
        require_one_image(bench, request_id, uuid.UUID(request_id))


def test_a_kill_at_any_call_leaves_one_image(tmp_path: Path) -> None:
    calls = []
    for bench, request_id, call in killed_at_each_call(tmp_path, glance_is_full, stores=BOTH):
        require_one_image(bench, request_id, call)
        calls.append(call)
    assert {"glance.upload", "directory.upload", "glance.discard"} <= set(calls)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_journal_write_while_squashing(tmp_path: Path, *, after: bool) -> None:
    squash = {"squash": True, "unset_env": ["SECRET"]}

    def prepare(bench: Bench) -> None:
        bench.container(env={"SECRET": "hunter2", "PATH": "/bin"})

    for bench, request_id in killed_at_each_write(tmp_path, prepare, after=after, **squash):
        end = bench.outcome(request_id)
        assert end.type == SNAPSHOT_END
        assert (end.payload["squashed"], len(end.payload["layers"])) == (True, 1)
        assert end.payload["scrubbed_env"] == ["SECRET"]
        (image,) = bench.stores["glance"].images.values()
        assert b"hunter2" not in image.data
        bench.require_clean_engine()
