"""What a snapshot would take: dry runs, and limits that are kept before any work."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.power import killed_at_each_call, killed_at_each_write
from tests.support.steps import aborted, at, only, refused, request, run
from tests.support.twins import ALICE, Bench
from tintype.adapters.memory_store import MemoryStore
from tintype.core.engine import Container, ContainerState, Usage
from tintype.core.errors import NotFound, Refused, TimedOut, Unavailable
from tintype.core.events import (
    COMMIT_ACCEPTED,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_PREFLIGHT,
    derived_id,
)
from tintype.core.images import ImageSpec
from tintype.core.policy import Policy
from tintype.core.snapshot import PREFLIGHT, RESERVE

MIB = 1 << 20


@pytest.fixture
def bench() -> Bench:
    return Bench()


def sized(
    bench: Bench, *, free_bytes: int | None = None, layers: int = 3, **about: Any
) -> Container:
    """Put a container on the host that has written 1 MiB into an image of 9."""
    container = bench.container(**about)
    made = bench.engine.by_id[container.engine_id]
    made.sizes = Usage(1 * MIB, 10 * MIB, layers, free_bytes)
    return container


def limited(bench: Bench, name: str, room: int | None) -> None:
    """Give one store a quota."""
    bench.stores[name] = MemoryStore(name, room=room, fail=bench.trouble.hook(name))
    bench.restart(bench.journal)


def dry_run(bench: Bench, **fields: Any) -> dict[str, Any]:
    """Return the payload that answers a dry run."""
    request_id = bench.ask(dry_run=True, **fields)
    bench.settle()
    answer = bench.outcome(request_id)
    assert answer.type == SNAPSHOT_PREFLIGHT
    assert [event.type for event in bench.events(request_id)] == [SNAPSHOT_PREFLIGHT]
    require_untouched(bench)
    payload: dict[str, Any] = dict(answer.payload)
    return payload


def require_untouched(bench: Bench) -> None:
    """Fail unless nothing was done but to look."""
    assert bench.engine.actions == bench.engine.executed == []
    assert bench.engine.owners() == frozenset()
    assert all(store.images == {} for store in bench.stores.values())
    done = {call.partition(".")[2] for call in bench.trouble.calls}
    assert done <= {"inspect", "usage", "check_capture", "room", "owners"}


def problems(bench: Bench, **fields: Any) -> list[str]:
    told: list[str] = dry_run(bench, **fields)["preflight"]["problems"]
    return told


# Dry runs


def test_a_dry_run_answers_what_a_snapshot_would_take(bench: Bench) -> None:
    bench.policy = Policy(
        soft_limit_bytes=20 * MIB,
        hard_limit_bytes=30 * MIB,
        max_layers=4,
        secret_env=(re.compile("DB_.*"),),
        hooks=True,
    )
    limited(bench, "directory", 11 * MIB)
    container = sized(
        bench,
        free_bytes=50 * MIB,
        volumes=["/var/lib"],
        env={"DB_PASSWORD": "x", "API_TOKEN": "x", "OTHER_SECRET": "x", "PATH": "x"},
        labels={"tintype.hook.post-commit": "unlock"},
    )
    bench.clock.advance(1)
    payload = dry_run(
        bench, stores=["glance", "directory"], unset_env=["OTHER_SECRET"], metadata={"a": "b"}
    )

    assert payload["preflight"] == {
        "size_rw_bytes": MIB,
        "size_rootfs_bytes": 10 * MIB,
        "estimated_bytes": 10 * MIB,
        "free_bytes": 50 * MIB,
        "layers": 4,
        "max_layers": 4,
        "squash_needed": False,
        "excluded_volumes": ["/var/lib"],
        "secret_looking_env": ["API_TOKEN"],
        "scrubbed_env": ["DB_PASSWORD", "OTHER_SECRET"],
        "hooks": ["post-commit"],
        "stores": [
            {"name": "glance", "room_bytes": None, "repository": None},
            {"name": "directory", "room_bytes": 11 * MIB, "repository": None},
        ],
        "soft_limit_bytes": 20 * MIB,
        "hard_limit_bytes": 30 * MIB,
        "problems": [],
    }
    assert (payload["status"], payload["fault"]) == ("preflight", None)
    assert (payload["image_id"], payload["stores"]) == (None, [])
    assert payload["engine_container_id"] == container.engine_id
    assert payload["warnings"] == []
    assert payload["metadata"] == {"a": "b"}
    assert payload["excluded_volumes"] == ["/var/lib"]


def test_a_dry_run_says_how_long_it_took(bench: Bench) -> None:
    sized(bench)
    step = at(bench, PREFLIGHT, dry_run=True)
    bench.clock.advance(2.5)
    answer = only(bench, step)
    assert answer.payload["duration_ms"] == 2500
    assert datetime.fromisoformat(answer.payload["finished_at"]) == bench.clock.now()
    assert only(bench, step) == answer


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Policy(hard_limit_bytes=10 * MIB), None),
        (Policy(hard_limit_bytes=10 * MIB - 1), "more than the 10485759 of [commit] hard_limit"),
        (Policy(soft_limit_bytes=1), None),
    ],
)
def test_what_is_too_large_is_a_problem(bench: Bench, policy: Policy, told: str | None) -> None:
    bench.policy = policy
    bench.restart(bench.journal)
    sized(bench)
    found = problems(bench)
    assert len(found) == (0 if told is None else 1)
    assert told is None or told in found[0]


def test_what_is_only_warned_of_is_a_warning_of_the_dry_run_too(bench: Bench) -> None:
    bench.policy = Policy(soft_limit_bytes=1)
    bench.restart(bench.journal)
    sized(bench)
    (warning,) = dry_run(bench)["warnings"]
    assert "[commit] soft_limit_mib" in warning


@pytest.mark.parametrize(
    ("free", "fields", "layers", "enough"),
    [
        (11 * MIB, {}, 3, True),
        (11 * MIB - 1, {}, 3, False),
        (None, {}, 3, True),
        (20 * MIB, {"squash": True}, 3, False),
        (21 * MIB, {"squash": True}, 3, True),
        (20 * MIB, {}, 120, False),
        (21 * MIB, {}, 120, True),
    ],
)
def test_too_little_space_for_the_engine_is_a_problem(
    bench: Bench, free: int | None, fields: dict[str, Any], layers: int, *, enough: bool
) -> None:
    sized(bench, free_bytes=free, layers=layers)
    found = problems(bench, **fields)
    assert found == [] if enough else "the engine has" in found[0]


@pytest.mark.parametrize(("layers", "needed"), [(119, False), (120, True)])
def test_a_dry_run_tells_that_layers_will_be_made_one(
    bench: Bench, layers: int, *, needed: bool
) -> None:
    sized(bench, layers=layers)
    found = dry_run(bench)["preflight"]
    assert (found["squash_needed"], found["layers"]) == (needed, layers + 1)


@pytest.mark.parametrize(("room", "enough"), [(10 * MIB, True), (10 * MIB - 1, False)])
def test_a_quota_that_is_too_small_is_a_problem(bench: Bench, room: int, *, enough: bool) -> None:
    limited(bench, "glance", room)
    sized(bench)
    found = problems(bench, stores=["directory", "glance"])
    assert found == [] if enough else found[0].startswith("glance: there is room for 10485759")


@pytest.mark.parametrize("error", [Unavailable("away"), Refused("forbidden")])
def test_a_store_that_does_not_answer_is_told_of(bench: Bench, error: Exception) -> None:
    sized(bench)
    bench.trouble.plan("glance.room", error, times=9)
    payload = dry_run(bench)
    (problem,) = payload["preflight"]["problems"]
    assert re.match(f"glance: could not be asked .*{error}", problem)
    assert payload["preflight"]["stores"][0]["room_bytes"] is None


def test_commands_that_would_not_be_run_are_not_promised(bench: Bench) -> None:
    sized(bench, labels={"tintype.hook.pre-commit": "lock"})
    payload = dry_run(bench)
    assert payload["preflight"]["hooks"] == []
    assert "not run" in payload["warnings"][0]


def test_a_request_that_can_never_work_is_refused_dry_as_well(bench: Bench) -> None:
    sized(bench)
    request_id = bench.ask(dry_run=True, changes=["RUN true"])
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_ERROR
    assert bench.outcome(request_id).payload["fault"]["code"] == 400


@pytest.mark.parametrize("state", [ContainerState.RUNNING, ContainerState.OTHER])
def test_a_dry_run_leaves_an_image_alone_that_was_reserved(
    bench: Bench, state: ContainerState
) -> None:
    sized(bench, state=state)
    image_id = derived_id("test", "image")
    bench.stores["glance"].reserve(ImageSpec(image_id, "snap", "latest", ALICE.project_id))
    request_id = bench.ask(dry_run=True, image_id=image_id)
    bench.settle()
    assert bench.outcome(request_id).payload["image_id"] == image_id
    assert bench.images() == {image_id: "queued"}


def test_a_dry_run_that_fails_leaves_a_reserved_image_alone(bench: Bench) -> None:
    container = sized(bench)
    image_id = derived_id("test", "image")
    bench.stores["glance"].reserve(ImageSpec(image_id, "snap", "latest", ALICE.project_id))
    step = at(bench, PREFLIGHT, dry_run=True, image_id=image_id)
    bench.engine.remove(container.engine_id)
    refused(bench, step, NotFound, "no container")
    assert aborted(bench, step, NotFound("no container"))[0].type == SNAPSHOT_ERROR
    assert bench.images() == {image_id: "queued"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"squash": True}, "/squash: "),
        ({"unset_env": ["PASSWORD"]}, "/unset_env: "),
    ],
)
def test_a_dry_run_names_what_the_engine_would_refuse(
    bench: Bench, fields: dict[str, Any], words: str
) -> None:
    bench.engine.can_squash = False
    sized(bench, env={"PASSWORD": "hunter2-and-more"}, labels={"dsn": "hunter2-and-more"})
    (problem,) = problems(bench, **fields)
    assert problem.startswith(words)
    assert "hunter2" not in problem


def test_a_squash_that_is_needed_and_cannot_be_is_a_problem(bench: Bench) -> None:
    bench.policy = Policy(max_layers=4)
    bench.restart(bench.journal)
    bench.engine.can_squash = False
    sized(bench, layers=9, base_layers=9)
    (problem,) = problems(bench)
    assert problem.startswith("/squash: ")


def test_a_dry_run_lists_no_variable_that_is_not_there(bench: Bench) -> None:
    sized(bench, env={"PASSWORD": "x"})
    told = dry_run(bench, unset_env=["PASSWORD", "BUILD_ARGUMENT"])
    assert told["preflight"]["scrubbed_env"] == ["PASSWORD"]


def test_an_engine_that_is_away_is_waited_for(bench: Bench) -> None:
    sized(bench)
    bench.trouble.plan("engine.usage", Unavailable("busy"), times=3)
    assert problems(bench) == []


def test_a_router_knows_of_a_dry_run_before_it_begins(bench: Bench) -> None:
    sized(bench)
    soon = (bench.clock.now() + timedelta(seconds=30)).isoformat()
    told, step = run(bench, request(dry_run=True, accept_by=soon))
    assert (told.type, step.type) == (COMMIT_ACCEPTED, PREFLIGHT)
    with pytest.raises(Unavailable):
        run(bench, step, confirmed_at=lambda _: None)
    assert run(bench, step, confirmed_at=lambda _: bench.clock.now())
    bench.clock.advance(31)
    with pytest.raises(TimedOut):
        run(bench, step, confirmed_at=lambda _: None)


# Limits


def test_what_is_too_large_is_refused_before_any_work(bench: Bench) -> None:
    bench.policy = Policy(hard_limit_bytes=10 * MIB - 1)
    bench.restart(bench.journal)
    sized(bench)
    request_id = bench.ask()
    bench.settle()
    fault = bench.outcome(request_id).payload["fault"]
    assert (fault["code"], fault["exception"], fault["phase"]) == (413, "TooLarge", "accepted")
    assert "10485760 bytes, more than the 10485759" in fault["message"]
    assert not {"glance.reserve", "engine.capture"}.intersection(bench.trouble.calls)


def test_what_is_just_not_too_large_is_made(bench: Bench) -> None:
    bench.policy = Policy(soft_limit_bytes=10 * MIB, hard_limit_bytes=10 * MIB)
    bench.restart(bench.journal)
    sized(bench)
    request_id = bench.ask()
    bench.settle()
    assert bench.outcome(request_id).type == SNAPSHOT_END
    assert bench.outcome(request_id).payload["warnings"] == []
    assert bench.outcome(request_id).payload["preflight"] is None


def test_what_is_over_the_soft_limit_is_made_with_a_warning(bench: Bench) -> None:
    bench.policy = Policy(soft_limit_bytes=10 * MIB - 1)
    bench.restart(bench.journal)
    sized(bench)
    request_id = bench.ask()
    bench.settle()
    end = bench.outcome(request_id)
    assert end.type == SNAPSHOT_END
    (warning,) = end.payload["warnings"]
    assert "more than the 10485759 of [commit] soft_limit_mib" in warning


def test_a_store_without_room_is_given_up_before_any_work(bench: Bench) -> None:
    bench.policy = Policy(hard_limit_bytes=1 << 40)
    limited(bench, "glance", 10 * MIB - 1)
    sized(bench)
    request_id = bench.ask(stores=["glance", "directory"])
    bench.settle()
    end = bench.outcome(request_id)
    assert end.type == SNAPSHOT_END
    glance, directory = end.payload["stores"]
    assert (glance["status"], glance["fault"]["code"]) == ("error", 413)
    assert directory["status"] == "active"
    assert end.payload["image_id"] == directory["image_id"]
    assert "glance.reserve" not in bench.trouble.calls


def test_a_request_for_which_no_store_has_room_is_refused(bench: Bench) -> None:
    bench.policy = Policy(hard_limit_bytes=1 << 40)
    for name in ("glance", "directory"):
        limited(bench, name, 0)
    sized(bench)
    request_id = bench.ask(stores=["glance", "directory"])
    bench.settle()
    assert bench.outcome(request_id).payload["fault"]["code"] == 413
    assert bench.images() == bench.images("directory") == {}


def test_a_store_that_does_not_say_is_not_given_up(bench: Bench) -> None:
    bench.policy = Policy(hard_limit_bytes=1 << 40)
    sized(bench)
    bench.trouble.plan("glance.room", Unavailable("away"))
    assert only(bench, at(bench, PREFLIGHT)).type == RESERVE


# The power is cut


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_journal_write_costs_no_answer(tmp_path: Path, *, after: bool) -> None:
    for bench, request_id in killed_at_each_write(tmp_path, sized, after=after, dry_run=True):
        assert bench.outcome(request_id).type == SNAPSHOT_PREFLIGHT
        require_untouched(bench)


def test_a_kill_at_any_call_costs_no_answer(tmp_path: Path) -> None:
    calls = []
    for bench, request_id, call in killed_at_each_call(tmp_path, sized, dry_run=True):
        assert bench.outcome(request_id).type == SNAPSHOT_PREFLIGHT
        require_untouched(bench)
        calls.append(call)
    looked = ["engine.usage", "glance.room", "engine.check_capture"]
    assert calls == ["engine.inspect", "engine.inspect", *looked]
