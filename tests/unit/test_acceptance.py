"""What a commit request may ask for, and what is refused before anything is done."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.memory_registry import MemoryRegistry
from tests.support.steps import (
    advance,
    at,
    only,
    request,
    run,
    turned_down,
)
from tests.support.twins import ALICE, Bench
from tintype.core.errors import Refused
from tintype.core.events import COMMIT_REQUEST, SNAPSHOT_ERROR, derived_id
from tintype.core.images import ImageSpec
from tintype.core.policy import Policy
from tintype.core.snapshot import CAPTURE, FINISH, PREFLIGHT, RESERVE, UPLOAD, Snapshot
from tintype.schemas import validate

SECRET = "hunter2-in-no-byte"


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def registry(bench: Bench) -> MemoryRegistry:
    bench.stores["registry"] = MemoryRegistry()
    return bench.stores["registry"]  # type: ignore[return-value]


def accepted(bench: Bench, **fields: Any) -> Snapshot:
    """Return what becomes of a request that passes its schema and is accepted."""
    wanted = request(**fields)
    assert validate(COMMIT_REQUEST, wanted.payload) == []
    step = only(bench, wanted)
    assert step.type == RESERVE
    return Snapshot.load(step)


def fault_of(bench: Bench, **fields: Any) -> tuple[int, str]:
    """Return code and words of a request that passes its schema and is refused at once."""
    wanted = request(**fields)
    assert validate(COMMIT_REQUEST, wanted.payload) == []
    fault = turned_down(bench, wanted)
    looked = {"engine.inspect", "engine.containers", "engine.check_capture"}
    assert set(bench.trouble.calls) <= looked | {"engine.discard"}
    return fault["code"], fault["message"]


# Where the image goes


@pytest.mark.parametrize("wanted", ["private", "shared", "community"])
def test_a_store_that_cannot_show_the_image_so_is_named(
    bench: Bench, registry: MemoryRegistry, wanted: str
) -> None:
    bench.container()
    stores = ["glance", registry.name]
    if wanted == "private":
        assert len(accepted(bench, stores=stores, visibility=wanted).copies) == 2
        return
    code, words = fault_of(bench, stores=stores, visibility=wanted)
    assert code == 400
    assert re.match(f"/visibility: .*'registry'.*private.*got '{wanted}'", words)
    assert accepted(bench, stores=["glance"], visibility=wanted)


@pytest.mark.parametrize(
    ("wanted", "place"),
    [(None, "prefix/snap"), ("elsewhere:5000/web", "elsewhere:5000/web")],
)
def test_a_repository_is_for_the_stores_that_have_some(
    bench: Bench, registry: MemoryRegistry, wanted: str | None, place: str
) -> None:
    bench.container()
    fields = {} if wanted is None else {"repository": wanted}
    step = at(bench, FINISH, stores=["glance", "registry"], **fields)
    copies = Snapshot.load(step).copies
    assert [(copy.name, copy.repository) for copy in copies] == [
        ("glance", None),
        ("registry", place),
    ]
    (end,) = run(bench, step)
    assert [store["repository"] for store in end.payload["stores"]] == [None, place]
    assert set(registry.seen_at) == {place}


def test_a_repository_that_no_store_has_is_refused(bench: Bench) -> None:
    bench.container()
    code, words = fault_of(bench, stores=["glance", "directory"], repository="a/b")
    assert code == 400
    assert re.match("/repository: expected none: glance, directory .*'a/b'", words)


@pytest.mark.parametrize("prefix", ["prefix", None])
def test_a_repository_that_cannot_be_is_refused(
    bench: Bench, registry: MemoryRegistry, prefix: str | None
) -> None:
    bench.container()
    registry.prefix = prefix
    fields = {"repository": "no/../repository"} if prefix else {}
    code, words = fault_of(bench, stores=["glance", "registry"], **fields)
    assert (code, words[:12]) == (400, "/repository:")


def test_without_a_prefix_a_repository_is_taken_that_is_said(
    bench: Bench, registry: MemoryRegistry
) -> None:
    bench.container()
    registry.prefix = None
    (copy,) = accepted(bench, stores=["registry"], repository="a/b").copies
    assert copy.repository == "a/b"


# Options that exclude each other, or the policy


def test_a_limit_for_a_pause_that_is_off_is_refused(bench: Bench) -> None:
    bench.container()
    code, words = fault_of(bench, pause=False, max_pause_ms=100)
    assert (code, words) == (400, "/max_pause_ms: expected none where `pause` is false, got one")
    assert accepted(bench, pause=True, max_pause_ms=100)
    assert accepted(bench, max_pause_ms=100)


def test_an_image_expires_in_the_future_only(bench: Bench) -> None:
    bench.container()
    for seconds in (-1, 0):
        moment = bench.clock.now() + timedelta(seconds=seconds)
        code, words = fault_of(bench, expires_at=moment.isoformat())
        assert code == 400
        assert words.startswith("/expires_at: expected a time to come")
    assert accepted(bench, expires_at=(bench.clock.now() + timedelta(seconds=1)).isoformat())


def test_an_image_that_nobody_would_remove_cannot_expire(bench: Bench) -> None:
    bench.container()
    bench.policy = Policy(janitor=False)
    code, words = fault_of(bench, expires_at="2999-01-01T00:00:00Z")
    assert code == 409
    assert words.startswith("/expires_at: images are not removed")
    assert accepted(bench)


def test_when_it_expires_stands_in_the_image_and_in_every_event(bench: Bench) -> None:
    bench.container()
    step = at(bench, FINISH, expires_at="2999-01-01T02:00:00+02:00")
    (end,) = run(bench, step)
    assert end.payload["expires_at"] == "2999-01-01T02:00:00+02:00"
    (image,) = bench.stores["glance"].images.values()
    assert image.properties["expires_at"] == "2999-01-01T00:00:00.000000+00:00"
    assert image.properties["snapshot_id"] == end.payload["snapshot_id"]


def test_nothing_that_is_refused_at_once_leaves_an_image_that_was_reserved(bench: Bench) -> None:
    bench.container()
    image_id = derived_id("test", "image")
    bench.stores["glance"].reserve(ImageSpec(image_id, "snap", "latest", ALICE.project_id))
    (told,) = run(bench, only(bench, request(image_id=image_id, changes=["RUN true"])))
    assert told.type == SNAPSHOT_ERROR
    assert told.payload["fault"]["image_deleted"] is True
    assert bench.images() == {}


# Changes, and what is taken out


def test_changes_are_made_to_the_image(bench: Bench) -> None:
    bench.container()
    changes = ['CMD ["serve"]', "ENV A=1 B=2", "LABEL tier=db", "USER nobody"]
    step = advance(bench, at(bench, CAPTURE, changes=changes), FINISH)
    assert run(bench, step)[0].payload["warnings"] == []
    (image,) = bench.stores["glance"].images.values()
    for words in (b'"serve"', b"A=1", b"B=2", b'"tier"', b"nobody"):
        assert words in image.data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("RUN true", "/changes/1: expected one of CMD"),
        ("LABEL tintype.request_id=x", "/changes/1: expected a label that does not begin"),
        ("CMD", "/changes/1: expected an argument of CMD"),
    ],
)
def test_a_change_that_no_commit_makes_is_named(bench: Bench, change: str, words: str) -> None:
    bench.container()
    code, told = fault_of(bench, changes=["USER nobody", change])
    assert code == 400
    assert told.startswith(words)


SCRUBBED = [
    ("ENV PASSWORD=x", "no value for PASSWORD"),
    ("ENV A=1 PASSWORD=x", "no value for PASSWORD"),
    ("ENV COPY=$PASSWORD", "no reference to PASSWORD"),
    ("LABEL copy=${PASSWORD}", "no reference to PASSWORD"),
    ("LABEL copy=${PASSWORD:-none}", "no reference to PASSWORD"),
    ("WORKDIR /$PASSWORD/x", "no reference to PASSWORD"),
    ("ENV COPY=$DB_TOKEN", "no reference to DB_TOKEN"),
    ("ENV DB_TOKEN=x", "no value for DB_TOKEN"),
]


@pytest.mark.parametrize(("change", "words"), SCRUBBED)
def test_what_is_taken_out_cannot_come_back_by_a_change(
    bench: Bench, change: str, words: str
) -> None:
    bench.policy = Policy(secret_env=(re.compile(".*_token", re.IGNORECASE),))
    bench.container(env={"PASSWORD": SECRET, "DB_TOKEN": SECRET, "PATH": "/bin"})
    code, told = fault_of(bench, unset_env=["PASSWORD"], changes=["ENV FINE=$PATH", change])
    assert code == 400
    assert told.startswith(f"/changes/1: expected {words}, which is to be taken out")


@pytest.mark.parametrize(
    "change",
    ["CMD echo $PASSWORD", "ENTRYPOINT use $PASSWORD", "ENV A=$PASSWORDS", "ENV PASSWORDS=1"],
)
def test_what_only_looks_like_a_reference_is_fine(bench: Bench, change: str) -> None:
    bench.container(env={"PASSWORD": SECRET, "PASSWORDS": "none"})
    assert accepted(bench, unset_env=["PASSWORD"], changes=[change]).unset_env == ("PASSWORD",)


def test_what_a_policy_or_a_request_names_is_in_no_byte_of_the_image(bench: Bench) -> None:
    bench.policy = Policy(secret_env=(re.compile(".*_token", re.IGNORECASE),))
    bench.container(env={"PASSWORD": SECRET, "db_TOKEN": f"{SECRET}-2", "PATH": "/usr/bin"})
    step = at(bench, FINISH, unset_env=["PASSWORD"], stores=["glance", "directory"])
    (end,) = run(bench, step)

    assert end.payload["scrubbed_env"] == ["PASSWORD", "db_TOKEN"]
    for name in ("glance", "directory"):
        (image,) = bench.stores[name].images.values()
        assert SECRET.encode() not in image.data
        assert b"PATH=/usr/bin" in image.data
        assert image.properties["scrubbed_env"] == '["PASSWORD", "db_TOKEN"]'
        assert image.properties["snapshot_sha256"] == end.payload["sha256"]


def test_without_a_word_no_variable_is_taken_out(bench: Bench) -> None:
    bench.container(env={"PASSWORD": SECRET})
    (end,) = run(bench, at(bench, FINISH))
    (image,) = bench.stores["glance"].images.values()
    assert SECRET.encode() in image.data
    assert end.payload["scrubbed_env"] == []
    assert image.properties["scrubbed_env"] == "[]"


def test_a_variable_that_is_not_there_is_told_of(bench: Bench) -> None:
    """It may be misspelt, and the one that was meant stay in the image."""
    bench.container(env={"PASSWORD": SECRET})
    snapshot = accepted(bench, unset_env=["PASSWROD", "PASSWORD", "NONE"])
    assert snapshot.warnings == ("/unset_env: the container has no NONE, PASSWROD",)
    assert snapshot.unset_env == ("NONE", "PASSWORD", "PASSWROD"), "one may be a build argument"


def told_of(bench: Bench) -> list[str]:
    """Return all that is in the stores' properties, as text."""
    images = [image for store in bench.stores.values() for image in store.images.values()]
    return [str(image.properties) for image in images] + [
        str(image.spec.properties) for image in images
    ]


def test_what_is_taken_out_is_in_no_property_of_the_image(bench: Bench) -> None:
    """Not even where another field of the request replaces what repeats it in the image."""
    container = bench.container(env={"PASSWORD": SECRET}, labels={"dsn": f"db://u:{SECRET}@h"})
    config = {**container.config, "command": ["run", SECRET], "user": SECRET}
    made = bench.engine.by_id[container.engine_id]
    made.described = replace(made.described, config=config)
    changes = ["CMD run", "LABEL dsn=none", "USER root"]

    step = at(bench, UPLOAD, unset_env=["PASSWORD"], changes=changes)
    assert SECRET not in "".join(told_of(bench)), "reserved"
    run(bench, advance(bench, step, FINISH))
    assert SECRET not in "".join(told_of(bench)), "active"
    (image,) = bench.stores["glance"].images.values()
    assert SECRET.encode() not in image.data
    assert image.properties["container_restart_policy"]
    assert image.properties["container_published_ports"]


def test_without_a_secret_the_image_tells_what_its_container_was(bench: Bench) -> None:
    bench.container(labels={"a": "b"})
    at(bench, FINISH)
    (image,) = bench.stores["glance"].images.values()
    assert image.properties["container_labels"] == '{"a": "b"}'
    assert image.properties["container_command"] == '["sleep", "infinity"]'


@pytest.mark.parametrize(
    ("fields", "labels", "words"),
    [
        ({"squash": True}, {}, "/squash: "),
        ({"unset_env": ["PASSWORD"]}, {"dsn": SECRET}, "/unset_env: "),
    ],
)
def test_what_the_engine_cannot_do_is_refused_before_anything_is_done(
    bench: Bench, fields: dict[str, Any], labels: dict[str, str], words: str
) -> None:
    bench.engine.can_squash = False
    bench.container(env={"PASSWORD": SECRET}, labels=labels)
    code, told = fault_of(bench, **fields)
    assert code == 409
    assert told.startswith(words)
    assert not bench.images()
    assert "glance.reserve" not in bench.trouble.calls


def test_a_change_that_replaces_a_value_is_a_way_out(bench: Bench) -> None:
    bench.container(env={"PASSWORD": SECRET}, labels={"dsn": SECRET})
    assert accepted(bench, unset_env=["PASSWORD"], changes=["LABEL dsn=none"])


@pytest.mark.usefixtures("registry")
def test_a_tag_that_is_an_images_own_is_refused_where_images_have_such(bench: Bench) -> None:
    bench.container()
    tag = f"tintype-{derived_id('test', 'image')}"
    code, told = fault_of(bench, stores=["registry"], tag=tag)
    assert (code, told[:5]) == (400, "/tag:")
    assert accepted(bench, stores=["glance"], tag=tag)
    assert accepted(bench, stores=["registry"], tag="tintype-1")


# What cannot be told before


def test_what_only_the_engine_knows_it_refuses_itself(bench: Bench) -> None:
    bench.container()
    bench.engine.can_squash = False
    request_id = bench.ask(squash=True)
    bench.settle()
    fault = bench.outcome(request_id).payload["fault"]
    assert (fault["code"], fault["exception"]) == (409, Refused.__name__)
    assert "squash" in fault["message"]
    assert bench.images() == {}


def test_a_request_is_measured_only_where_there_is_a_limit(bench: Bench) -> None:
    bench.container()
    assert only(bench, request()).type == RESERVE
    assert only(bench, request(dry_run=True)).type == PREFLIGHT
    bench.policy = Policy(soft_limit_bytes=1)
    assert only(bench, request()).type == PREFLIGHT
    bench.policy = Policy(hard_limit_bytes=1)
    assert only(bench, request()).type == PREFLIGHT
