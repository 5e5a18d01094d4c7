"""Restores on twins: an image becomes a container, or nothing is left of the attempt."""

from __future__ import annotations

import functools
import gzip
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.twins import (
    ADMIN,
    ALICE,
    HOST,
    MALLORY,
    Bench,
    FusedJournal,
    PowerCut,
    checked,
)
from tintype.adapters.memory_store import MemoryImage
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.engine import ContainerState
from tintype.core.errors import (
    CorruptDownload,
    Internal,
    Interrupted,
    NotRestorable,
    Refused,
    Unavailable,
)
from tintype.core.events import (
    COMMIT_CANCEL,
    OUTCOMES,
    RESTORE_ACCEPTED,
    RESTORE_CANCEL,
    RESTORE_END,
    RESTORE_ERROR,
    RESTORE_REQUEST,
    RESTORE_START,
    SNAPSHOT_ERROR,
    Event,
    Message,
    Requester,
    derived_id,
)
from tintype.core.images import ImageSpec
from tintype.core.ownership import Ownership
from tintype.core.ports import Cancellation
from tintype.core.removal import REMOVE
from tintype.core.restore import CREATE, FINISH, LOAD, START, SWEEP, Restore, restore_id_for
from tintype.core.snapshot import snapshot_id_for
from tintype.core.steps import answer_to_unusable
from tintype.handlers import table

REQUEST_ID = derived_id("test", "restore")
ANSWERED = Cancellation("the router has answered", answered=True)
FILES = {"/data": bytes(range(256)) * 700}
NOBODY = Requester()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@functools.cache
def snapshot() -> tuple[str, MemoryImage]:
    """Return the request id and the image of a snapshot of Alice's."""
    bench = Bench()
    bench.container(
        volumes=["/var/lib"],
        labels={"tier": "web"},
        published={"80/tcp": "8080"},
        env={"MODE": "x"},
    )
    request_id = bench.ask()
    bench.settle()
    (image,) = bench.stores["glance"].images.values()
    return request_id, image


def put(
    bench: Bench,
    *,
    store: str = "glance",
    owner: str | None = ALICE.project_id,
    name: str = "snap",
    tag: str = "latest",
    visibility: str = "private",
    image_id: str | None = None,
    data: bytes | None = None,
    properties: Mapping[str, str] | None = None,
) -> str:
    """Put an image into a store: the snapshot's, with its properties, unless others are given."""
    image = snapshot()[1]
    image_id = image_id or str(uuid.uuid4())
    about = dict(image.properties if properties is None else properties)
    place = bench.stores[store]
    place.reserve(ImageSpec(image_id, name, tag, owner, properties=about))
    place.upload(image_id, [image.data if data is None else data])
    made = place.images[image_id]
    made.spec = replace(made.spec, visibility=visibility)  # `public` is an administrator's to give
    return image_id


def ask(
    bench: Bench, *, who: Requester = ALICE, event_type: str = RESTORE_REQUEST, **fields: Any
) -> str:
    """Send a restore request as the bus would, and return its id."""
    request_id = fields.setdefault("request_id", str(uuid.uuid4()))
    if not fields.keys() & {"snapshot_id", "image_id", "image"}:
        fields["image"] = "snap"
    bench.intake.on_message(Message(event_type, fields, who, str(uuid.uuid4())))
    return str(request_id)


def settled(bench: Bench, **fields: Any) -> Event:
    """Send a restore request, do what it asks for, and return its outcome."""
    request_id = ask(bench, **fields)
    bench.settle()
    return bench.outcome(request_id)


def fault(bench: Bench, **fields: Any) -> dict[str, Any]:
    """Return the fault of a request that fails, of which nothing is left."""
    outcome = settled(bench, **fields)
    assert outcome.type == RESTORE_ERROR, outcome.payload
    require_nothing_left(bench)
    why: dict[str, Any] = outcome.payload["fault"]
    return why


def require_nothing_left(bench: Bench) -> None:
    """Fail unless the engine has neither loaded images nor containers."""
    bench.trouble.end()
    assert bench.engine.restore.tags == {}
    assert bench.engine.restore.images == {}
    assert bench.engine.containers() == []


def at(bench: Bench, step_type: str, **fields: Any) -> str:
    """Go on with a request until this step is its next; return its id."""
    request_id = ask(bench, **fields)
    while next_step(bench, request_id) != step_type:
        bench.run_step()
    return request_id


def next_step(bench: Bench, request_id: str) -> str:
    """Return the type of the request's next step."""
    row = bench.journal._db.execute(
        "SELECT step FROM requests WHERE request_id = ?", (request_id,)
    ).fetchone()
    step: str = json.loads(row["step"])["type"]
    return step


# From end to end


def test_a_snapshot_becomes_a_container_again(bench: Bench) -> None:
    put(bench)
    end = settled(bench, request_id=REQUEST_ID, snapshot_id=snapshot_id_for(snapshot()[0]))

    start, told = bench.events(REQUEST_ID)
    assert (start.type, told) == (RESTORE_START, end)
    assert end.type == RESTORE_END
    assert end.requester == ALICE
    (container,) = bench.engine.containers()
    made = bench.engine.inspect(container.engine_id)
    assert made.name == f"web-{REQUEST_ID[:8]}" == end.payload["container_name"]
    assert made.engine_id == end.payload["engine_container_id"] == end.payload["container_uuid"]
    assert made.state is ContainerState.RUNNING
    assert made.config["command"] == ["sleep", "infinity"]
    assert made.config["published_ports"] == {"80/tcp": "8080"}
    assert made.env_names == ("MODE",)
    assert made.labels["tier"] == "web"
    assert bench.engine.by_id[made.engine_id].files.items() >= FILES.items()
    assert end.payload["restore_id"] == restore_id_for(REQUEST_ID)
    assert end.payload["snapshot_id"] == snapshot_id_for(snapshot()[0])
    assert end.payload["missing_volumes"] == ["/var/lib"]
    assert end.payload["started"] is True
    assert end.payload["store"] == "glance"


def test_a_container_belongs_to_whoever_asked_for_it(bench: Bench) -> None:
    put(bench, owner=MALLORY.project_id)
    settled(bench, who=MALLORY)
    (container,) = bench.engine.containers()
    assert Ownership().owner_of(container.labels) == replace(MALLORY, is_admin=False)


def test_progress_says_how_many_bytes_have_come(bench: Bench) -> None:
    put(bench)
    request_id = ask(bench)
    bench.settle()
    size = len(snapshot()[1].data)
    done = [event.payload["bytes_done"] for event in bench.progress if event.payload["bytes_done"]]
    assert done == [size]
    assert bench.progress[0].payload["bytes_total"] == size
    assert bench.journal.latest(request_id) == bench.outcome(request_id)


def test_a_container_is_not_started_that_is_not_to_be(bench: Bench) -> None:
    put(bench)
    end = settled(bench, start=False, restart_policy="always")
    (container,) = bench.engine.containers()
    assert container.state is ContainerState.OTHER
    assert end.payload["started"] is False
    assert "engine.start" not in bench.trouble.calls


def test_an_archive_of_docker_save_has_no_record(bench: Bench) -> None:
    put(bench, properties={}, name="theirs")
    end = settled(bench, image="theirs", request_id=REQUEST_ID)
    assert end.type == RESTORE_END
    assert end.payload["snapshot_id"] is None
    assert end.payload["warnings"] == []
    assert end.payload["container_name"] == f"theirs-{REQUEST_ID[:8]}"
    (container,) = bench.engine.containers()
    assert bench.engine.inspect(container.engine_id).config["command"] == ["sleep", "infinity"]


def test_an_archive_may_be_compressed_as_a_whole(bench: Bench) -> None:
    put(bench, properties={}, data=gzip.compress(snapshot()[1].data))
    assert settled(bench).type == RESTORE_END


def test_a_restore_can_be_looked_up_by_both_ids(bench: Bench) -> None:
    put(bench)
    ask(bench, request_id=REQUEST_ID)
    for ident in (REQUEST_ID, restore_id_for(REQUEST_ID)):
        event = bench.journal.latest(ident)
        assert event is not None
        assert checked(event).payload["status"] == "queued"
    assert bench.journal.snapshots() == []


def test_metadata_is_repeated_in_every_event(bench: Bench) -> None:
    put(bench)
    request_id = ask(bench, metadata={"a": "b"})
    bench.settle()
    told = [*bench.events(request_id), *bench.progress]
    assert all(event.payload["metadata"] == {"a": "b"} for event in told)


def test_no_value_of_the_environment_is_told(bench: Bench) -> None:
    put(bench)
    request_id = ask(bench, env={"KEY": "hush-hush"})
    bench.settle()
    told = [*bench.events(request_id), *bench.progress]
    assert "hush-hush" not in json.dumps([event.payload for event in told])
    (container,) = bench.engine.containers()
    assert "KEY" in bench.engine.inspect(container.engine_id).env_names


# Which image


@pytest.mark.parametrize(
    "named",
    [
        {"snapshot_id": snapshot_id_for(snapshot()[0])},
        {"snapshot_id": snapshot()[0].upper()},
        {"image_id": REQUEST_ID.upper()},
        {"image": "snap"},
        {"image": "snap:latest"},
        {"image": "snap", "store": "glance"},
    ],
    ids=repr,
)
def test_an_image_is_found_by_whatever_names_it(bench: Bench, named: dict[str, str]) -> None:
    put(bench, name="other")
    bench.stores["glance"].images.clear()
    put(bench, image_id=REQUEST_ID)
    assert settled(bench, **named).payload["image_id"] == REQUEST_ID


def test_a_tag_tells_images_of_one_name_apart(bench: Bench) -> None:
    put(bench, properties={})
    tagged = put(bench, tag="v2", properties={})
    assert settled(bench, image="snap:v2").payload["image_id"] == tagged
    assert fault(Bench(), image="snap:v3")["code"] == 404


def test_the_first_store_that_has_it_is_taken(bench: Bench) -> None:
    put(bench, store="directory", image_id=REQUEST_ID)
    assert settled(bench, image_id=REQUEST_ID).payload["store"] == "directory"
    put(bench, image_id=REQUEST_ID)
    assert settled(bench, image_id=REQUEST_ID).payload["store"] == "glance"
    end = settled(bench, image_id=REQUEST_ID, store="directory", ports={})
    assert end.payload["store"] == "directory"


def test_a_store_that_is_away_is_not_waited_for_if_another_has_the_very_image(
    bench: Bench,
) -> None:
    put(bench, store="directory", image_id=REQUEST_ID)
    bench.trouble.plan("glance.describe", Unavailable("away"), times=1)
    assert settled(bench, image_id=REQUEST_ID).payload["store"] == "directory"


def test_a_store_that_is_away_is_waited_for_before_a_name_means_something_else(
    bench: Bench,
) -> None:
    put(bench, store="directory")
    wanted = put(bench)
    bench.trouble.plan("glance.find", Unavailable("away"), times=3)
    assert settled(bench).payload["image_id"] == wanted


def test_an_id_that_only_a_store_that_is_away_can_have_is_waited_for(bench: Bench) -> None:
    put(bench, image_id=REQUEST_ID)
    bench.trouble.plan("glance.describe", Unavailable("away"), times=3)
    assert settled(bench, image_id=REQUEST_ID).type == RESTORE_END


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"store": "attic"}, r"/store: expected a store configured here \(directory, glance\)"),
        ({"repository": "a/b"}, "/repository"),
        ({"image": f"snap@sha256:{'0' * 64}"}, "/image: expected no digest"),
    ],
)
def test_what_no_store_has_is_refused_by_name(
    bench: Bench, fields: dict[str, str], words: str
) -> None:
    put(bench)
    why = fault(bench, **fields)
    assert why["code"] == 400
    assert re.search(words, why["message"])


def test_several_images_of_one_name_are_told_by_id(bench: Bench) -> None:
    first = put(bench)
    second = put(bench, data=gzip.compress(snapshot()[1].data))
    why = fault(bench)
    assert why["code"] == 409
    assert first in why["message"]
    assert second in why["message"]
    assert settled(bench, image_id=first).payload["image_id"] == first


def test_the_same_bytes_twice_are_one_image(bench: Bench) -> None:
    put(bench)
    newest = put(bench)
    assert settled(bench).payload["image_id"] == newest


def test_an_image_without_data_is_not_restored_yet(bench: Bench) -> None:
    spec = ImageSpec(REQUEST_ID, "snap", "latest", ALICE.project_id)
    bench.stores["glance"].reserve(spec)
    why = fault(bench, image_id=REQUEST_ID)
    assert (why["code"], why["exception"]) == (409, "WrongState")
    assert fault(bench)["code"] == 404, "by name only what is whole is found"


def test_an_image_of_a_virtual_machine_is_no_container(bench: Bench) -> None:
    put(bench, properties={"container_format": "bare"})
    why = fault(bench)
    assert (why["code"], why["exception"]) == (422, "NotRestorable")


# Whose image


@pytest.mark.parametrize(
    ("owner", "visibility", "who", "found"),
    [
        ("project-a", "private", ALICE, True),
        ("project-a", "private", MALLORY, False),
        ("project-a", "private", NOBODY, False),
        ("project-a", "private", ADMIN, True),
        ("project-a", "shared", MALLORY, False),
        ("project-a", "shared", ALICE, True),
        ("project-a", "community", ALICE, True),
        ("project-a", "community", ADMIN, True),
        (None, "private", NOBODY, True),
        (None, "private", ALICE, False),
        (None, "private", Requester(is_admin=True), True),
    ],
)
def test_only_ones_own_and_open_images_are_there(
    bench: Bench, owner: str | None, visibility: str, who: Requester, *, found: bool
) -> None:
    put(bench, owner=owner, visibility=visibility, image_id=REQUEST_ID)
    for named in ({"image": "snap"}, {"image_id": REQUEST_ID}, {"snapshot_id": snapshot()[0]}):
        outcome = settled(bench, who=who, ports={}, **named)
        assert (outcome.type == RESTORE_END) == found
        assert found or outcome.payload["fault"]["code"] == 404


@pytest.mark.parametrize("visibility", ["community", "public"])
@pytest.mark.parametrize("who", [MALLORY, NOBODY])
def test_an_open_image_is_everybodys_and_a_snapshot_its_projects(
    bench: Bench, visibility: str, who: Requester
) -> None:
    put(bench, visibility=visibility, image_id=REQUEST_ID)
    for named in ({"image": "snap"}, {"image_id": REQUEST_ID}):
        assert settled(bench, who=who, ports={}, **named).type == RESTORE_END
    refused = settled(bench, who=who, snapshot_id=snapshot()[0])
    assert refused.payload["fault"]["code"] == 404


BY_ALL_NAMES = pytest.mark.parametrize(
    "named",
    [{"image": "snap"}, {"image_id": REQUEST_ID}, {"snapshot_id": snapshot()[0]}],
    ids=["image", "image_id", "snapshot_id"],
)


@BY_ALL_NAMES
@pytest.mark.parametrize("who", [ALICE, ADMIN])
def test_ones_own_image_in_a_later_store_goes_before_anothers(
    bench: Bench, who: Requester, named: dict[str, str]
) -> None:
    put(bench, owner="project-m", visibility="community", image_id=REQUEST_ID)
    put(bench, owner=who.project_id, store="directory", image_id=REQUEST_ID)
    assert settled(bench, who=who, **named).payload["store"] == "directory"


@BY_ALL_NAMES
def test_anothers_image_is_not_taken_while_a_store_may_have_ones_own(
    bench: Bench, named: dict[str, str]
) -> None:
    put(bench, owner="project-m", visibility="community", image_id=REQUEST_ID)
    put(bench, store="directory", image_id=REQUEST_ID)
    for call in ("directory.describe", "directory.find"):
        bench.trouble.plan(call, Unavailable("away"), times=2)
    assert settled(bench, **named).payload["store"] == "directory"


def test_a_store_that_does_not_say_what_it_has_keeps_anothers_image_back(bench: Bench) -> None:
    put(bench, owner="project-m", visibility="community", image_id=REQUEST_ID)
    bench.trouble.plan("directory.describe", Refused("this registry lists none"))
    assert fault(bench, image_id=REQUEST_ID)["message"] == "this registry lists none"
    assert settled(bench, image_id=REQUEST_ID, store="glance").type == RESTORE_END


def test_a_snapshot_is_found_by_its_request_whatever_others_say_theirs_is(bench: Bench) -> None:
    own = put(bench, properties={"snapshot_request_id": REQUEST_ID})
    put(bench, owner="project-m", properties={"snapshot_id": REQUEST_ID})
    assert settled(bench, snapshot_id=REQUEST_ID).payload["image_id"] == own


def test_ones_own_image_goes_before_an_open_one_of_the_same_name(bench: Bench) -> None:
    own = put(bench)
    put(bench, owner="project-m", visibility="community")
    assert settled(bench).payload["image_id"] == own


def test_an_administrators_own_image_goes_before_others(bench: Bench) -> None:
    own = put(bench, owner=ADMIN.project_id, properties={"mine": ""})
    put(bench, data=gzip.compress(snapshot()[1].data))
    assert settled(bench, who=ADMIN).payload["image_id"] == own


def test_a_snapshot_that_no_project_asked_for_is_nobodys_in_a_store_of_projects(
    bench: Bench,
) -> None:
    about = {"snapshot_request_id": REQUEST_ID}
    put(bench, owner="service", properties=about)
    assert settled(bench, who=NOBODY, snapshot_id=REQUEST_ID).type == RESTORE_END
    put(bench, owner="service", properties={**about, "owner_id": "project-a"}, name="other")
    assert settled(bench, who=NOBODY, image="other").payload["fault"]["code"] == 404


def test_an_image_whose_label_makes_the_container_anothers_is_not_for_nobody(
    bench: Bench,
) -> None:
    source = Bench()
    source.container(labels={"tintype.project_id": "project-a"})
    source.ask()
    source.settle()
    (image,) = source.stores["glance"].images.values()
    put(bench, owner=None, data=image.data, properties={})
    why = fault(bench, who=NOBODY)
    assert why["code"] == 403
    assert "tintype.project_id" in why["message"]
    assert settled(bench, who=ADMIN).type == RESTORE_END


# What comes from the store


def test_what_was_damaged_on_its_way_is_fetched_again(bench: Bench) -> None:
    image_id = put(bench)
    image = bench.stores["glance"].images[image_id]
    request_id = ask(bench)
    bench.run_step()
    good, image.data = image.data, image.data[:-1] + b"x"
    while "glance.download" not in bench.trouble.calls:
        bench.run_step()
    image.data = good
    bench.settle()
    assert bench.outcome(request_id).type == RESTORE_END


@pytest.mark.parametrize("position", [100_000, -1], ids=["in a layer", "behind the end marker"])
def test_other_bytes_than_were_sent_are_never_loaded(bench: Bench, position: int) -> None:
    data = bytearray(snapshot()[1].data)
    data[position] ^= 1
    put(bench, data=bytes(data))
    why = fault(bench)
    assert (why["code"], why["exception"]) == (502, CorruptDownload.__name__)
    assert bench.trouble.calls.count("glance.download") == CorruptDownload.attempts_allowed


def test_less_than_the_store_says_is_never_loaded(bench: Bench) -> None:
    image_id = put(bench, properties={})
    ask(bench)
    bench.run_step()
    image = bench.stores["glance"].images[image_id]
    image.data = image.data[:-1024]
    bench.settle()
    (outcome,) = [event for event in bench.events() if event.type in OUTCOMES]
    assert outcome.payload["fault"]["exception"] == CorruptDownload.__name__
    require_nothing_left(bench)


@pytest.mark.parametrize("data", [b"no archive at all" * 100, b"", b"\x28\xb5\x2f\xfd" + bytes(99)])
def test_what_came_whole_and_is_no_archive_is_not_fetched_again(bench: Bench, data: bytes) -> None:
    put(bench, properties={}, data=data)
    why = fault(bench)
    assert (why["code"], why["exception"]) == (422, NotRestorable.__name__)
    assert why["retryable"] is False
    assert bench.trouble.calls.count("glance.download") == 1


def test_an_image_that_is_deleted_meanwhile_is_not_found(bench: Bench) -> None:
    image_id = put(bench)
    request_id = at(bench, LOAD)
    bench.stores["glance"].discard(image_id)
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["code"] == 404
    require_nothing_left(bench)


def test_a_store_that_is_configured_no_more_is_named(bench: Bench) -> None:
    put(bench)
    request_id = at(bench, LOAD)
    stores = bench.stores
    bench.stores = {"directory": stores["directory"]}
    bench.restart(bench.journal)
    bench.settle()
    assert "'glance' is not configured" in bench.outcome(request_id).payload["fault"]["message"]


# The name


def test_a_name_that_is_taken_is_refused_before_anything_is_loaded(bench: Bench) -> None:
    put(bench)
    web = bench.container("web")
    outcome = settled(bench, name="web")
    assert outcome.payload["fault"]["code"] == 409
    assert "/name: 'web'" in outcome.payload["fault"]["message"]
    assert bench.engine.containers() == [replace(web, config={}, volumes=(), env_names=())]
    assert "engine.load" not in bench.trouble.calls


def test_a_name_that_is_taken_meanwhile_is_refused_by_the_engine(bench: Bench) -> None:
    put(bench)
    request_id = at(bench, CREATE, name="new")
    bench.container("new")
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["exception"] == "NameTaken"
    assert [each.name for each in bench.engine.containers()] == ["new"]
    assert bench.engine.restore.images == {}


# Failing, and trying again


@pytest.mark.parametrize(
    "call",
    [
        "engine.restored",
        "engine.load",
        "engine.create",
        "engine.start",
        "glance.find",
        "glance.download",
    ],
)
def test_what_is_away_for_a_time_is_waited_for(bench: Bench, call: str) -> None:
    put(bench)
    bench.trouble.plan(call, Unavailable("away"), times=7)
    assert settled(bench).type == RESTORE_END
    assert len(bench.engine.containers()) == 1


@pytest.mark.parametrize("call", ["engine.load", "engine.create", "engine.start"])
def test_what_the_engine_refuses_is_undone(bench: Bench, call: str) -> None:
    put(bench)
    bench.trouble.plan(call, Refused("no"), times=9)
    why = fault(bench)
    assert (why["code"], why["message"]) == (409, "no")
    assert why["image_deleted"] is None


def test_a_host_port_that_is_taken_undoes_the_restore(bench: Bench) -> None:
    put(bench)
    bench.container(published={"80/tcp": "8080"})
    outcome = settled(bench)
    assert "8080" in outcome.payload["fault"]["message"]
    assert outcome.payload["fault"]["phase"] == "starting"
    assert len(bench.engine.containers()) == 1


def test_an_engine_that_is_away_does_not_keep_a_refusal_back(bench: Bench) -> None:
    bench.trouble.plan("engine.withdraw", Unavailable("away"), times=99)
    assert fault(bench, image="nothing")["code"] == 404
    assert "engine.withdraw" not in bench.trouble.calls


def test_what_cannot_be_undone_now_is_swept_up_after_the_bus_was_told(bench: Bench) -> None:
    put(bench)
    bench.trouble.plan("engine.start", Refused("no"), times=9)
    bench.trouble.plan("engine.withdraw", Unavailable("away"), times=6)
    request_id = ask(bench)
    while not [event for event in bench.events(request_id) if event.type == RESTORE_ERROR]:
        work = bench.journal.claim(bench.clock.now())
        if work is None:
            bench.clock.advance(61)
        else:
            bench.runner.run(work)
    assert next_step(bench, request_id) == SWEEP
    assert len(bench.engine.containers()) == 1
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["message"] == "no"
    require_nothing_left(bench)


def test_what_is_left_for_good_does_not_keep_the_request_alive(bench: Bench) -> None:
    put(bench)
    bench.trouble.plan("engine.start", Refused("no"), times=9)
    bench.trouble.plan("engine.withdraw", Refused("in use"), times=99)
    assert settled(bench).type == RESTORE_ERROR
    assert bench.journal.live() == frozenset()


def test_a_container_that_has_run_is_not_started_again(bench: Bench) -> None:
    put(bench)
    request_id = at(bench, START)
    (container,) = bench.engine.containers()
    bench.trouble.plan("engine.start", Unavailable("no answer"), times=1)
    bench.run_step()
    bench.engine.start(container.engine_id)  # what the engine did, whose answer was lost
    bench.engine.stop(container.engine_id)
    starts = bench.trouble.calls.count("engine.start")
    bench.settle()
    assert bench.outcome(request_id).payload["started"] is True
    assert bench.trouble.calls.count("engine.start") == starts
    assert bench.engine.inspect(container.engine_id).state is ContainerState.STOPPED


def test_a_request_of_a_forgotten_life_undoes_nothing(bench: Bench) -> None:
    put(bench)
    settled(bench, request_id=REQUEST_ID)
    bench.restart(SqliteJournal(":memory:"))
    outcome = settled(bench, request_id=REQUEST_ID)
    assert outcome.type == RESTORE_ERROR
    assert "/request_id" in outcome.payload["fault"]["message"]
    assert len(bench.engine.containers()) == 1


# Cancelled, late, answered elsewhere


@pytest.mark.parametrize("event_type", [RESTORE_CANCEL, COMMIT_CANCEL])
@pytest.mark.parametrize("step_type", [RESTORE_REQUEST, LOAD, CREATE, START])
def test_a_restore_can_be_stopped_before_any_step(
    bench: Bench, step_type: str, event_type: str
) -> None:
    put(bench)
    request_id = at(bench, step_type)
    cancel = {"request_id": request_id, "reason": "changed my mind"}
    bench.intake.on_message(Message(event_type, cancel, ALICE, str(uuid.uuid4())))
    bench.settle()
    why = bench.outcome(request_id).payload["fault"]
    assert (why["code"], why["message"]) == (499, "changed my mind")
    require_nothing_left(bench)


def stopped_in_the_middle(bench: Bench, error: BaseException) -> str:
    """Let a checkpoint between two chunks raise."""
    put(bench, properties={}, data=gzip.compress(snapshot()[1].data, 0))
    request_id = at(bench, LOAD)
    bench.run_step()
    work = bench.journal.claim(bench.clock.now())
    assert work is not None
    calls = 0

    def checkpoint() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise error

    services = replace(bench.services, checkpoint=checkpoint)
    with pytest.raises(type(error)):
        list(table()[LOAD](work.step, services))
    bench.journal.postpone(work, bench.clock.now())
    return request_id


@pytest.mark.parametrize("error", [Interrupted(), Refused("cancelled")], ids=repr)
def test_a_download_can_be_stopped_between_two_chunks(bench: Bench, error: BaseException) -> None:
    request_id = stopped_in_the_middle(bench, error)
    assert bench.engine.restore.images == {}
    bench.settle()
    assert bench.outcome(request_id).type == RESTORE_END


def test_a_restore_is_given_up_at_its_deadline(bench: Bench) -> None:
    put(bench)
    deadline = (bench.clock.now() + timedelta(seconds=90)).isoformat()
    bench.trouble.plan("engine.load", Unavailable("away"), times=99)
    why = fault(bench, deadline=deadline)
    assert why["code"] == 504
    assert "away" in why["message"]


def test_a_stranger_cannot_stop_a_restore_and_is_told_so(bench: Bench) -> None:
    put(bench)
    request_id = ask(bench)
    bench.cancel(request_id, who=MALLORY)
    (answer,) = bench.events(request_id)
    assert answer.type == RESTORE_ERROR
    assert answer.payload["fault"]["code"] == 403
    assert answer.payload["restore_id"] != restore_id_for(request_id)
    bench.settle()
    assert len(bench.engine.containers()) == 1


def test_another_requests_id_is_a_conflict(bench: Bench) -> None:
    put(bench)
    ask(bench, request_id=REQUEST_ID)
    ask(bench, request_id=REQUEST_ID, name="another")
    (answer,) = bench.events(REQUEST_ID)
    assert (answer.type, answer.payload["fault"]["code"]) == (RESTORE_ERROR, 409)


def test_a_bad_request_is_answered_as_a_restore(bench: Bench) -> None:
    ask(bench, request_id=REQUEST_ID, name="web", nme="web")
    (answer,) = bench.events(REQUEST_ID)
    assert answer.type == RESTORE_ERROR
    assert answer.payload["fault"]["message"].startswith("/nme: expected one of the known fields")
    assert answer.payload["container_name"] == "web"
    assert len(bench.journal.dead_letters()) == 1


@pytest.mark.parametrize("ended", [False, True])
def test_an_end_that_a_router_has_denied_is_undone(bench: Bench, *, ended: bool) -> None:
    put(bench)
    request_id = at(bench, FINISH)
    if ended:
        bench.run_step()
        assert bench.outcome(request_id).type == RESTORE_END
    bench.runner.cancel(request_id, ANSWERED)
    bench.settle()
    assert [event.type for event in bench.events(request_id)] == [RESTORE_START]
    require_nothing_left(bench)


def test_an_end_that_the_bus_has_taken_stands(bench: Bench) -> None:
    put(bench)
    request_id = ask(bench)
    bench.settle()
    bench.journal.confirm(bench.journal.pending(100))
    bench.runner.cancel(request_id, ANSWERED)
    bench.settle()
    assert len(bench.engine.containers()) == 1


# By way of a router


def routed(bench: Bench, **fields: Any) -> str:
    now = bench.clock.now()
    return ask(
        bench,
        host=HOST,
        accept_by=(now + timedelta(seconds=60)).isoformat(),
        deadline=(now + timedelta(hours=1)).isoformat(),
        **fields,
    )


def confirm(bench: Bench) -> None:
    bench.journal.confirm(bench.journal.pending(100))


def test_nothing_is_begun_before_the_router_can_know(bench: Bench) -> None:
    put(bench)
    request_id = routed(bench)
    bench.run_step()
    (accepted,) = bench.events(request_id)
    assert accepted.type == RESTORE_ACCEPTED
    assert accepted.payload["restore_id"] == restore_id_for(request_id)
    bench.run_step()
    assert bench.journal.claim(bench.clock.now()) is None
    assert "glance.download" not in bench.trouble.calls
    confirm(bench)
    bench.settle()
    assert bench.outcome(request_id).type == RESTORE_END


def test_a_word_that_came_too_late_voids_the_request(bench: Bench) -> None:
    put(bench)
    request_id = routed(bench)
    bench.run_step()
    bench.clock.advance(60)
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["code"] == 504
    require_nothing_left(bench)


def test_a_request_that_is_found_too_late_is_void(bench: Bench) -> None:
    put(bench)
    request_id = routed(bench)
    bench.clock.advance(60)
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["code"] == 504
    assert "glance.find" not in bench.trouble.calls


def test_another_hosts_request_is_not_taken(bench: Bench) -> None:
    put(bench)
    assert fault(bench, host="elsewhere")["code"] == 404


def test_a_restore_that_ends_after_its_routers_deadline_is_undone(bench: Bench) -> None:
    put(bench)
    request_id = routed(bench)
    bench.run_step()
    confirm(bench)
    while next_step(bench, request_id) != FINISH:
        bench.run_step()
    bench.clock.advance(3600)
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["code"] == 504
    require_nothing_left(bench)


# Steps


def test_a_step_survives_being_written_down(bench: Bench) -> None:
    put(bench)
    request_id = at(bench, CREATE, env={"A": "b"}, volumes={})
    work = bench.journal.claim(bench.clock.now())
    assert work is not None
    assert work.request_id == request_id
    again = Restore.load(work.step)
    assert Restore.load(again.step(CREATE)) == again
    assert again.wanted["env"] == {"A": "b"}


@pytest.mark.parametrize("call", [None, "engine.create", "engine.start", "glance.find"])
def test_the_environment_is_not_kept_for_longer_than_it_is_needed(
    bench: Bench, call: str | None
) -> None:
    put(bench)
    if call is not None:
        bench.trouble.plan(call, Refused("no"))
    request_id = ask(bench, env={"KEY": "hush-hush"}, deadline="2999-01-01T00:00:00Z")
    assert "hush-hush" in kept(bench)
    bench.settle()
    assert (bench.outcome(request_id).type == RESTORE_END) == (call is None)
    assert "hush-hush" not in kept(bench)


def test_a_container_that_is_made_needs_no_environment_any_more(bench: Bench) -> None:
    put(bench)
    for step_type in (START, FINISH):
        at(bench, step_type, env={"KEY": "hush-hush"}, ports={})
        assert "hush-hush" not in kept(bench)
        bench.settle()


def test_what_is_left_behind_needs_no_environment(bench: Bench) -> None:
    put(bench)
    bench.trouble.plan("engine.start", Refused("no"))
    bench.trouble.plan("engine.withdraw", Unavailable("away"), times=1000)
    request_id = ask(bench, env={"KEY": "hush-hush"})
    while next_step(bench, request_id) != SWEEP:
        bench.clock.advance(61)
        bench.run_step()
    assert "hush-hush" not in kept(bench)


def kept(bench: Bench) -> str:
    """Return all that the journal has on disk."""
    return "\n".join(bench.journal._db.iterdump())


def test_a_step_that_cannot_be_read_is_answered_as_what_it_was_of(bench: Bench) -> None:
    bench.container()
    snapshot_request, restore_request = bench.ask(), ask(bench)
    bench.journal._db.execute("UPDATE requests SET step = '{}'")
    answers = []
    for request_id in (snapshot_request, restore_request):
        work = bench.journal.claim(bench.clock.now())
        assert work is not None
        assert work.request_id == request_id
        answer = answer_to_unusable(work, Internal("no"), host=HOST, now=work.deadline.isoformat())
        assert answer is not None
        assert answer.payload["request_id"] == request_id
        assert answer.requester == ALICE
        answers.append(checked(answer))
    assert [each.type for each in answers] == [SNAPSHOT_ERROR, RESTORE_ERROR]
    assert answers[0].payload["snapshot_id"] == snapshot_id_for(snapshot_request)
    assert answers[1].payload["restore_id"] == restore_id_for(restore_request)


def test_nobody_waits_for_an_answer_to_a_removal_that_cannot_be_read(bench: Bench) -> None:
    step = Event(REMOVE, {})
    bench.journal.admit(REQUEST_ID, "print", step, bench.clock.now() + timedelta(hours=1))
    bench.journal._db.execute("UPDATE requests SET step = '{}'")
    work = bench.journal.claim(bench.clock.now())
    assert work is not None
    assert answer_to_unusable(work, Internal("no"), host=HOST, now="") is None


def test_restores_take_places_as_snapshots_do(bench: Bench) -> None:
    put(bench)
    request_id = at(bench, LOAD)
    held = bench.journal.claim(bench.clock.now(), 1)
    assert held is not None
    ask(bench)
    bench.run_step()
    assert bench.journal.claim(bench.clock.now(), 1) is None
    bench.runner.run(held)
    going_on = bench.journal.claim(bench.clock.now(), 1)
    assert going_on is not None
    assert going_on.request_id == request_id


def test_a_snapshot_of_the_new_container_waits_for_the_restore(bench: Bench) -> None:
    put(bench)
    request_id = at(bench, START)
    (container,) = bench.engine.containers()
    assert bench.journal.holding(container.engine_id) == [request_id]
    bench.settle()
    assert bench.journal.holding(container.engine_id) == []


# The power is cut


def survive(bench: Bench, path: Path, request_id: str) -> None:
    """Start again after a power cut, as a new process would, and finish."""
    bench.journal.close()
    bench.trouble.end()
    bench.restart(SqliteJournal(path))
    bench.journal.recover()
    if request_id not in bench.journal.live() and not bench.events(request_id):
        ask(bench, request_id=request_id)  # it was not accepted: the bus redelivers
    bench.settle()


def require_one_container(bench: Bench, request_id: str) -> None:
    assert bench.outcome(request_id).type == RESTORE_END
    (container,) = bench.engine.containers()
    assert container.state is ContainerState.RUNNING
    assert len(bench.engine.restore.images) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_power_cut_at_any_journal_write_makes_one_container(
    tmp_path: Path, *, after: bool
) -> None:
    number = 0
    while True:
        number += 1
        path = tmp_path / f"journal-{number}"
        journal = FusedJournal(path)
        bench = Bench(journal=journal)
        put(bench)
        journal.fatal_write, journal.after = number, after
        request_id = str(uuid.uuid4())
        try:
            ask(bench, request_id=request_id)
            bench.settle()
        except PowerCut:
            survive(bench, path, request_id)
            require_one_container(bench, request_id)
        else:
            break
        finally:
            bench.journal.close()
    assert number > 12


def test_a_power_cut_at_any_call_makes_one_container(tmp_path: Path) -> None:
    number = 0
    while True:
        number += 1
        path = tmp_path / f"journal-{number}"
        bench = Bench(journal=SqliteJournal(path))
        put(bench)
        bench.trouble.fatal_call = len(bench.trouble.calls) + number
        request_id = str(uuid.uuid4())
        try:
            ask(bench, request_id=request_id)
            bench.settle()
        except PowerCut:
            survive(bench, path, request_id)
            require_one_container(bench, request_id)
        else:
            break
        finally:
            bench.journal.close()
    assert number > 6


def test_a_power_cut_while_undoing_leaves_nothing_behind(tmp_path: Path) -> None:
    number = 0
    while True:
        number += 1
        path = tmp_path / f"journal-{number}"
        journal = FusedJournal(path)
        bench = Bench(journal=journal)
        put(bench)
        bench.trouble.plan("engine.start", Refused("no"), times=99)
        journal.fatal_write = number
        request_id = str(uuid.uuid4())
        try:
            ask(bench, request_id=request_id)
            bench.settle()
        except PowerCut:
            bench.journal.close()
            bench.restart(SqliteJournal(path))
            bench.journal.recover()
            if request_id not in bench.journal.live() and not bench.events(request_id):
                ask(bench, request_id=request_id)
            bench.settle()
            assert bench.outcome(request_id).type == RESTORE_ERROR
            require_nothing_left(bench)
        else:
            break
        finally:
            bench.journal.close()
    assert number > 14
