"""Each handler as a function: one event in, what it does to the twins, events out."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.steps import (
    REQUEST_ID,
    aborted,
    advance,
    again,
    at,
    only,
    refused,
    request,
    run,
    turned_down,
)
from tests.support.twins import ADMIN, ALICE, HOST, MALLORY, Bench, checked
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_store import MemoryStore
from tintype.core.engine import Capture, CaptureOptions, Container, ContainerState, Engine
from tintype.core.errors import (
    Cancelled,
    CorruptUpload,
    Forbidden,
    ImageIdSpent,
    Interrupted,
    Invalid,
    NotFound,
    Refused,
    StillFrozen,
    TimedOut,
    TintypeError,
    TooLarge,
    Unavailable,
    WrongState,
)
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_REQUEST,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_START,
    Event,
    Requester,
    derived_id,
)
from tintype.core.images import ImageSpec, ImageStatus, StoredImage
from tintype.core.jobs import Fault
from tintype.core.ownership import Ownership
from tintype.core.policy import Policy
from tintype.core.snapshot import (
    ABORT,
    CAPTURE,
    FINISH,
    PREFLIGHT,
    PREPARE,
    RELEASE,
    RESERVE,
    SWEEP,
    UPLOAD,
    Copy,
    Snapshot,
    image_id_for,
)
from tintype.core.steps import CLEANUP, ENTRIES, REQUESTS
from tintype.handlers import BUILT_IN, acceptance, cleanup, commit, hooks, preflight, table, upload

GIVEN = derived_id("test", "image")
RUNNING, PAUSED = ContainerState.RUNNING, ContainerState.PAUSED


@pytest.fixture
def bench() -> Bench:
    return Bench()


def reserve_foreign(
    bench: Bench, image_id: str, *, owner: str | None, store: str = "glance", data: bytes = b""
) -> None:
    """Put an image into a store that is not made by this request."""
    place = bench.stores[store]
    place.reserve(ImageSpec(image_id, "theirs", "latest", owner))
    if data:
        place.upload(image_id, [data])


# The table


def test_every_step_has_a_handler() -> None:
    assert table().keys() >= BUILT_IN.keys() >= CLEANUP | ENTRIES | REQUESTS.keys()
    of_a_snapshot = {PREFLIGHT, RESERVE, PREPARE, CAPTURE, RELEASE, UPLOAD}
    assert BUILT_IN.keys() > of_a_snapshot


# Accepting


def test_accept_looks_everything_up_and_asks_for_the_image(bench: Bench) -> None:
    container = bench.container("web", volumes=["/var/lib"], labels={"a": "b"})
    step = only(bench, request())
    snapshot = Snapshot.load(step)

    assert step.type == RESERVE
    assert step.requester == ALICE
    assert snapshot.engine_container_id == container.engine_id
    assert snapshot.container_uuid == container.uuid
    assert snapshot.container_name == "web"
    assert snapshot.container_labels == {"a": "b"}
    assert snapshot.container_config == container.config
    assert snapshot.excluded_volumes == ("/var/lib",)
    assert (snapshot.base_image, snapshot.base_image_id) == (container.image, container.image_id)
    assert snapshot.copies == (Copy("glance", image_id_for(REQUEST_ID)),)
    assert snapshot.host == HOST
    assert bench.images() == {}
    assert bench.engine.actions == []


def test_a_step_survives_being_written_down(bench: Bench) -> None:
    bench.container(volumes=["/a", "/b"])
    step = at(bench, FINISH, stores=["glance", "directory"], metadata={"a": "b"})
    written = replace(step, payload=json.loads(json.dumps(step.payload)))

    assert Snapshot.load(written) == Snapshot.load(step)
    assert Snapshot.load(written).step(FINISH) == step


@pytest.mark.parametrize("state", [RUNNING, PAUSED, ContainerState.STOPPED])
def test_a_container_in_an_allowed_state_is_accepted(bench: Bench, state: ContainerState) -> None:
    bench.container(state=state)
    assert only(bench, request()).type == RESERVE


def test_a_container_in_another_state_is_refused(bench: Bench) -> None:
    bench.container(state=ContainerState.OTHER)
    fault = turned_down(bench, request())
    assert (fault["code"], fault["exception"]) == (409, WrongState.__name__)
    assert re.search("'web'.*Running, Stopped, Paused", fault["message"])


def test_an_unknown_container_is_not_found(bench: Bench) -> None:
    refused(bench, request(), NotFound, "'web'")


@pytest.mark.parametrize(
    ("owner", "who", "accepted"),
    [
        (None, ALICE, True),
        (None, Requester(), True),
        ("project-a", ALICE, True),
        ("project-a", ADMIN, True),
        ("project-a", MALLORY, False),
        ("project-a", Requester(), False),
        ("project-a", Requester("project-m", is_admin=False), False),
        ("", ALICE, False),
    ],
)
def test_only_the_owner_and_admins_may_snapshot_a_container_with_an_owner(
    bench: Bench, owner: str | None, who: Requester, *, accepted: bool
) -> None:
    labels = {} if owner is None else {Ownership().project_label: owner}
    bench.container(labels=labels)
    if accepted:
        assert only(bench, request(who)).type == RESERVE
    else:
        assert refused(bench, request(who), Forbidden, "another project").code == 403


def test_the_stores_are_those_of_the_request_else_the_default(bench: Bench) -> None:
    bench.container()
    named = Snapshot.load(only(bench, request(stores=["directory", "glance"])))
    assert [copy.name for copy in named.copies] == ["directory", "glance"]
    default = Snapshot.load(only(bench, request(), default_stores=("directory",)))
    assert [copy.name for copy in default.copies] == ["directory"]


def test_an_unknown_store_is_named_by_its_pointer(bench: Bench) -> None:
    bench.container()
    fault = turned_down(bench, request(stores=["glance", "\ud800"]))
    assert (fault["code"], fault["exception"]) == (400, Invalid.__name__)
    assert fault["message"].startswith("/stores/1: expected")
    assert "directory, glance" in fault["message"]
    fault["message"].encode()
    fault = turned_down(bench, request(stores=["nowhere"]))
    assert re.match("/stores/0: .*'nowhere'", fault["message"])


def test_who_may_not_use_a_container_learns_nothing_of_it(bench: Bench) -> None:
    """Nor can he end the wait of whoever is about to delete it."""
    bench.container(labels={Ownership().project_label: "project-a"})
    request_id = bench.ask(who=MALLORY, metadata={"trigger": "before-delete"})
    bench.settle()
    payload = bench.outcome(request_id).payload
    assert payload["fault"]["code"] == 403
    assert (payload["container_uuid"], payload["engine_container_id"]) == (None, None)


def test_a_request_for_another_host_is_refused(bench: Bench) -> None:
    bench.container()
    refused(bench, request(host="elsewhere"), NotFound, "'elsewhere'.*'host-1'")
    assert only(bench, request(host=HOST)).type == RESERVE


# Reserving


def test_reserve_creates_the_image_and_announces_the_start(bench: Bench) -> None:
    bench.container()
    start, step = run(bench, at(bench, RESERVE))

    assert start.type == SNAPSHOT_START
    assert start.payload["status"] == "queued"
    assert bench.images() == {start.payload["image_id"]: "queued"}
    assert start.payload["stores"][0]["status"] == "queued"
    assert step.type == CAPTURE
    assert Snapshot.load(step).copies[0].reserved


def test_the_image_is_the_requesters_and_says_what_it_is(bench: Bench) -> None:
    container = bench.container(
        "zun-6ba7b810-9dad-11d1-80b4-00c04fd430c8", volumes=["/var/lib"], labels={"tier": "db"}
    )
    step = at(
        bench,
        RESERVE,
        container=container.name,
        tag="v1",
        visibility="shared",
        metadata={"ticket": "42"},
    )
    run(bench, step)
    (image,) = bench.stores["glance"].images.values()

    assert image.spec.id == image_id_for(REQUEST_ID)
    assert (image.spec.name, image.spec.tag) == ("snap", "v1")
    assert (image.spec.owner, image.spec.visibility) == ("project-a", "shared")
    assert all(isinstance(value, str) for value in image.properties.values())
    assert (
        image.properties.items()
        >= {
            "image_type": "snapshot",
            "instance_uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "container_uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "base_image_ref": container.image_id,
            "user_id": "alice",
            "owner_id": "project-a",
            "image_location": "snapshot",
            "image_state": "available",
            "container_name": container.name,
            "container_host": HOST,
            "snapshot_request_id": REQUEST_ID,
            "meta_ticket": "42",
        }.items()
    )
    assert json.loads(image.properties["excluded_volumes"]) == ["/var/lib"]
    assert json.loads(image.properties["container_labels"]) == {"tier": "db"}
    assert json.loads(image.properties["container_command"]) == ["sleep", "infinity"]
    assert json.loads(image.properties["container_restart_policy"])["name"] == "no"


def test_without_a_project_no_owner_is_claimed(bench: Bench) -> None:
    bench.container()
    run(bench, at(bench, RESERVE, Requester()))
    (image,) = bench.stores["glance"].images.values()
    assert image.spec.owner is None
    assert "owner_id" not in image.properties
    assert "user_id" not in image.properties
    assert image.spec.visibility == "private"


def test_reserving_again_after_a_crash_finds_the_same_image(bench: Bench) -> None:
    bench.container()
    step = at(bench, RESERVE, stores=["glance", "directory"])
    second = only(bench, step)
    assert only(bench, again(step)) == second
    first = run(bench, second)
    assert run(bench, again(second)) == first
    assert len(bench.images()) == len(bench.images("directory")) == 1


def test_an_image_reserved_beforehand_is_used(bench: Bench) -> None:
    bench.container()
    reserve_foreign(bench, GIVEN, owner="project-a")
    start, step = run(bench, at(bench, RESERVE, image_id=GIVEN))

    assert start.payload["image_id"] == GIVEN
    assert Snapshot.load(step).copies == (Copy("glance", GIVEN, reserved=True),)
    assert bench.images() == {GIVEN: "queued"}


def test_an_image_id_that_names_nothing_yet_is_created(bench: Bench) -> None:
    bench.container()
    run(bench, at(bench, RESERVE, image_id=GIVEN))
    assert bench.images() == {GIVEN: "queued"}


OTHERS: dict[str, Callable[[Bench], None]] = {
    "active": lambda bench: reserve_foreign(bench, GIVEN, owner="project-a", data=b"precious"),
    "somebody else's": lambda bench: reserve_foreign(bench, GIVEN, owner="project-v"),
    "somebody else's and active": lambda bench: reserve_foreign(
        bench, GIVEN, owner="project-v", data=b"precious"
    ),
    "the service's": lambda bench: reserve_foreign(bench, GIVEN, owner=None, data=b"precious"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_image_that_does_not_wait_for_us_is_refused_and_never_deleted(
    bench: Bench, case: str
) -> None:
    bench.container()
    OTHERS[case](bench)
    before = dict(bench.stores["glance"].images)
    step = at(bench, RESERVE, image_id=GIVEN)
    error = refused(bench, step, WrongState, GIVEN)

    for undo in (step, request(image_id=GIVEN)):
        (told,) = aborted(bench, undo, error)
        assert told.type == SNAPSHOT_ERROR
    assert bench.stores["glance"].images == before


@pytest.mark.parametrize(
    ("owner", "data"),
    [("project-a", b"precious"), ("project-v", b"precious"), ("project-v", b"")],
)
def test_an_image_of_an_earlier_request_with_our_id_is_never_deleted(
    bench: Bench, owner: str, data: bytes
) -> None:
    """The journal may have forgotten the earlier one, or it was another project's elsewhere."""
    bench.container()
    derived = image_id_for(REQUEST_ID)
    reserve_foreign(bench, derived, owner=owner, data=data)
    before = dict(bench.stores["glance"].images)
    step = at(bench, RESERVE)
    error = refused(bench, step, WrongState, derived)

    aborted(bench, step, error)
    assert bench.stores["glance"].images == before


def test_the_same_request_after_the_journal_has_forgotten_it_deletes_nothing(
    bench: Bench,
) -> None:
    bench.container()
    bench.ask(request_id=REQUEST_ID)
    bench.settle()
    (image_id,) = bench.images()
    fresh = Bench(store_names=())
    bench.restart(fresh.journal)
    bench.ask(request_id=REQUEST_ID)
    bench.settle()

    assert bench.outcome(REQUEST_ID).type == SNAPSHOT_ERROR
    assert bench.images() == {image_id: "active"}


def test_another_projects_request_with_the_same_id_on_another_host_deletes_nothing(
    bench: Bench,
) -> None:
    bench.container()
    bench.ask(request_id=REQUEST_ID)
    bench.settle()
    (image_id,) = bench.images()
    elsewhere = Bench()
    elsewhere.stores.update(bench.stores)
    elsewhere.restart(elsewhere.journal)
    elsewhere.container()
    elsewhere.ask(request_id=REQUEST_ID, who=MALLORY)
    elsewhere.settle()

    assert elsewhere.outcome(REQUEST_ID).type == SNAPSHOT_ERROR
    assert bench.images() == {image_id: "active"}


def test_an_image_that_waits_for_us_goes_with_a_request_that_fails_at_once(bench: Bench) -> None:
    """The container is not there: nothing was begun, yet the image that was reserved is in vain."""
    reserve_foreign(bench, GIVEN, owner="project-a")
    error = refused(bench, request(image_id=GIVEN), NotFound, "web")
    (told,) = aborted(bench, request(image_id=GIVEN), error)

    assert told.payload["fault"]["image_deleted"] is True
    assert bench.images() == {}


def test_an_image_created_before_a_crash_is_deleted_when_the_request_fails(bench: Bench) -> None:
    bench.container()
    step = only(bench, at(bench, RESERVE, stores=["glance", "directory"]))
    run(bench, step)
    assert len(bench.images()) == len(bench.images("directory")) == 1
    aborted(bench, step, TimedOut("late"))
    assert bench.images() == bench.images("directory") == {}


def test_a_spent_id_leads_to_the_next_one_which_is_recorded_before_it_is_used(
    bench: Bench,
) -> None:
    bench.container()
    first = image_id_for(REQUEST_ID)
    bench.stores["glance"].reserve(ImageSpec(first, "old", "latest", "project-a"))
    bench.stores["glance"].discard(first)
    step = only(bench, at(bench, RESERVE))

    assert step.type == RESERVE
    (copy,) = Snapshot.load(step).copies
    assert (copy.image_id, copy.generation) == (image_id_for(REQUEST_ID, 1), 1)
    assert bench.images() == {}
    run(bench, step)
    assert bench.images() == {image_id_for(REQUEST_ID, 1): "queued"}


def test_an_image_id_that_is_not_known_to_be_ours_is_not_deleted_when_it_is_spent(
    bench: Bench,
) -> None:
    """A store may call an image spent that somebody else has, say one that was deactivated."""
    bench.container()
    reserve_foreign(bench, GIVEN, owner="project-v", data=b"precious")
    bench.trouble.plan("glance.reserve", ImageIdSpent("deactivated"))
    step = at(bench, RESERVE, image_id=GIVEN)
    refused(bench, step, Cancelled, "deleted")
    aborted(bench, step, Cancelled("deleted"))
    assert bench.images()[GIVEN] == "active"


def test_an_image_deleted_before_its_reservation_was_recorded_cancels(bench: Bench) -> None:
    bench.container()
    step = at(bench, RESERVE)
    run(bench, step)  # reserved; then a kill, before that was recorded
    bench.stores["glance"].discard(next(iter(bench.images())))
    refused(bench, again(step), Cancelled, "deleted")


def test_a_store_that_takes_no_id_is_given_up(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("glance.reserve", ImageIdSpent("spent"), times=100)
    step = at(bench, RESERVE)
    for _ in range(upload.GENERATIONS_ALLOWED - 1):
        step = only(bench, step)
    refused(bench, step, Refused, "used up")


def test_two_stores_are_both_reserved_before_the_start_is_told(bench: Bench) -> None:
    bench.container()
    bench.trouble.plan("directory.reserve", Unavailable("away"))
    step = only(bench, at(bench, RESERVE, stores=["glance", "directory"]))
    with pytest.raises(Unavailable):
        run(bench, step)
    start, _ = run(bench, again(step))
    assert [copy["name"] for copy in start.payload["stores"]] == ["glance", "directory"]


def test_reserve_looks_whether_it_may_go_on(bench: Bench) -> None:
    def stop() -> None:
        raise Interrupted

    bench.container()
    step = at(bench, RESERVE)
    with pytest.raises(Interrupted):
        run(bench, step, checkpoint=stop)
    assert bench.images() == {}


# Capturing


def test_the_intent_to_freeze_is_a_step_of_its_own(bench: Bench) -> None:
    bench.container()
    step = only(bench, at(bench, CAPTURE))

    assert step.type == CAPTURE
    assert Snapshot.load(step).pause_intended
    assert bench.engine.actions == []
    assert bench.engine.owners() == frozenset()


def test_a_running_container_is_frozen_for_the_capture_only(bench: Bench) -> None:
    container = bench.container()
    step = only(bench, only(bench, at(bench, CAPTURE)))
    snapshot = Snapshot.load(step)

    assert step.type == UPLOAD
    assert [what for what, _ in bench.engine.actions] == ["pause", "unpause"]
    assert not snapshot.pause_intended
    assert snapshot.paused_ms is not None
    assert bench.engine.owners() == {REQUEST_ID}
    assert bench.engine.by_id[container.engine_id].state is RUNNING
    assert snapshot.capture_ref is not None
    assert bench.engine.reopen(snapshot.capture_ref) is not None
    assert snapshot.bytes_total
    assert snapshot.layers


@pytest.mark.parametrize(
    ("state", "fields"),
    [(PAUSED, {}), (ContainerState.STOPPED, {}), (RUNNING, {"pause": False})],
)
def test_what_is_not_to_be_frozen_is_captured_at_once(
    bench: Bench, state: ContainerState, fields: dict[str, Any]
) -> None:
    container = bench.container(state=state)
    step = only(bench, at(bench, CAPTURE, **fields))
    assert step.type == UPLOAD
    assert bench.engine.actions == []
    assert bench.engine.by_id[container.engine_id].state is state
    assert Snapshot.load(step).paused_ms == 0


def test_a_container_found_frozen_after_a_crash_is_thawed_if_we_may_have_done_it(
    bench: Bench,
) -> None:
    container = bench.container()
    intended = only(bench, at(bench, CAPTURE))
    bench.engine.by_id[container.engine_id].state = PAUSED  # a kill -9 in the commit

    intended_again = only(bench, again(intended))
    assert bench.engine.by_id[container.engine_id].state is RUNNING
    assert only(bench, intended_again).type == UPLOAD
    assert bench.engine.by_id[container.engine_id].state is RUNNING
    assert [what for what, _ in bench.engine.actions] == ["unpause", "pause", "unpause"]


def test_a_container_that_its_user_pauses_after_a_failed_capture_stays_paused(
    bench: Bench,
) -> None:
    container = bench.container()
    intended = only(bench, at(bench, CAPTURE))
    failed = Snapshot.load(intended).failed(CAPTURE, Unavailable("the engine broke off"))
    bench.engine.by_id[container.engine_id].state = PAUSED
    retried = failed.step(CAPTURE, fault=None)
    withdrawn_or_done = only(bench, again(retried))
    assert withdrawn_or_done.type == UPLOAD
    aborted(bench, retried, TimedOut("late"))
    assert bench.engine.by_id[container.engine_id].state is PAUSED
    assert bench.engine.actions == []


def test_a_capture_that_could_not_thaw_keeps_the_intent(bench: Bench) -> None:
    bench.container()
    intended = Snapshot.load(only(bench, at(bench, CAPTURE)))
    for error in (StillFrozen("frozen"), TimedOut("late"), Cancelled("stop")):
        assert intended.failed(CAPTURE, error).pause_intended == 1


def test_captures_of_failed_attempts_do_not_pile_up(bench: Bench) -> None:
    container = bench.container()
    intended = only(bench, at(bench, CAPTURE))
    only(bench, intended)
    assert bench.engine.owners()
    withdrawn = Snapshot.load(intended).failed(CAPTURE, Unavailable("lost the answer"))
    bench.trouble.plan("engine.inspect", Unavailable("away"))
    with pytest.raises(Unavailable):
        run(bench, again(withdrawn.step(CAPTURE, fault=None)))
    assert not bench.engine.owners()
    assert bench.engine.by_id[container.engine_id].state is RUNNING


def test_a_container_paused_by_its_user_is_never_thawed(bench: Bench) -> None:
    container = bench.container(state=PAUSED)
    first = at(bench, CAPTURE)
    for attempt in (1, 2, 3):
        assert only(bench, again(first, attempt)).type == UPLOAD
    aborted(bench, first, Refused("no"))
    cleanup.release(first, bench.services)
    assert bench.engine.by_id[container.engine_id].state is PAUSED
    assert bench.engine.actions == []


def test_a_container_that_its_user_pauses_after_the_intent_stays_paused(bench: Bench) -> None:
    container = bench.container()
    intended = only(bench, at(bench, CAPTURE))
    bench.engine.by_id[container.engine_id].state = PAUSED
    withdrawn = only(bench, intended)

    assert withdrawn.type == CAPTURE
    assert not Snapshot.load(withdrawn).pause_intended
    assert only(bench, withdrawn).type == UPLOAD
    assert bench.engine.actions == []


def test_a_container_that_is_thawed_meanwhile_is_frozen_after_all(bench: Bench) -> None:
    container = bench.container(state=PAUSED)
    step = at(bench, CAPTURE)
    bench.engine.by_id[container.engine_id].state = RUNNING
    intended = only(bench, step)
    assert Snapshot.load(intended).pause_intended
    assert only(bench, intended).type == UPLOAD


def test_a_container_that_is_gone_or_no_longer_fit_is_refused(bench: Bench) -> None:
    container = bench.container()
    step = at(bench, CAPTURE)
    bench.engine.by_id[container.engine_id].state = ContainerState.OTHER
    refused(bench, step, WrongState, "web")
    bench.engine.remove(container.engine_id)
    refused(bench, step, NotFound, "no container")


def test_a_capture_carries_the_requests_words(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD, message="before", author="alice", labels={"a": "b"})
    capture = bench.engine.reopen(Snapshot.load(step).capture_ref or "")
    assert capture is not None
    with capture.read() as chunks:
        archive = b"".join(chunks)
    assert b'"comment": "before"' in archive
    assert b'"author": "alice"' in archive
    assert b'"a": "b"' in archive


class Asked:
    """An engine that remembers how it was asked to capture."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.options: list[CaptureOptions] = []

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> Capture:
        self.options.append(options)
        return self._engine.capture(container, owner, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


STRICT = Policy(max_layers=7, max_pause_ms=500, keep_overrun=True)


@pytest.mark.parametrize(
    ("fields", "policy", "expected"),
    [
        ({}, Policy(), CaptureOptions(pause=True, max_layers=120)),
        (
            {},
            STRICT,
            CaptureOptions(pause=True, max_layers=7, max_pause_ms=500, keep_overrun=True),
        ),
        (
            {"max_pause_ms": 3.0, "squash": True, "changes": ["USER nobody"]},
            STRICT,
            CaptureOptions(
                pause=True,
                max_layers=7,
                max_pause_ms=3,
                keep_overrun=True,
                squash=True,
                changes=("USER nobody",),
            ),
        ),
        ({"pause": False}, STRICT, CaptureOptions(pause=False, max_layers=7, keep_overrun=True)),
    ],
)
def test_a_capture_is_asked_for_as_request_and_policy_have_it(
    bench: Bench, fields: dict[str, Any], policy: Policy, expected: CaptureOptions
) -> None:
    bench.policy = policy
    bench.container()
    step = at(bench, CAPTURE, **fields)
    asked = Asked(bench.engine)
    while step.type == CAPTURE:
        step = only(bench, step, engine=asked)
    (options,) = asked.options
    assert options == expected
    assert isinstance(options.max_pause_ms, int | None)


@pytest.mark.parametrize(
    ("fields", "layers", "squashed", "warned"),
    [({}, 2, False, False), ({}, 7, True, True), ({"squash": True}, 2, True, False)],
)
def test_layers_that_are_made_one_unasked_are_told_of(
    bench: Bench, fields: dict[str, Any], layers: int, *, squashed: bool, warned: bool
) -> None:
    bench.policy = STRICT
    bench.container(base_layers=layers)
    (end,) = run(bench, at(bench, FINISH, **fields))
    assert end.payload["squashed"] is squashed
    assert (len(end.payload["layers"]) == 1) is squashed
    told = ["the image would have more than 7 layers: all are in one"]
    assert end.payload["warnings"] == (told if warned else [])


class Slow(MemoryEngine):
    """An engine that is still committing when a container has been frozen for long enough."""

    def __init__(self) -> None:
        self.thawed = threading.Event()
        super().__init__(fail=lambda method: method == "commit" and self.wait())

    def wait(self) -> None:
        assert self.thawed.wait(20), "the container is frozen for too long"

    def _thaw(self, engine_id: str) -> None:
        super()._thaw(engine_id)
        self.thawed.set()


@pytest.mark.parametrize("keep", [False, True])
def test_a_container_runs_again_after_the_time_that_it_may_be_frozen(
    bench: Bench, *, keep: bool
) -> None:
    bench.policy = Policy(keep_overrun=keep)
    bench.engine = Slow()
    bench.restart(bench.journal)
    bench.container()
    request_id = bench.ask(max_pause_ms=1)
    bench.settle()
    payload = bench.outcome(request_id).payload
    if keep:
        (warning,) = payload["warnings"]
        assert warning.startswith("the container ran again after 1 ms")
        assert list(bench.images().values()) == ["active"]
    else:
        assert payload["fault"]["exception"] == "PausedTooLong"
        assert bench.images() == {}
    bench.require_clean_engine()


def test_capture_tells_its_phase(bench: Bench) -> None:
    bench.container()
    run(bench, only(bench, at(bench, CAPTURE)))
    bench.container("other", state=PAUSED)
    run(bench, at(bench, CAPTURE, container="other"))

    assert [event.payload["phase"] for event in bench.progress] == ["pausing", "committing"]
    assert len({checked(event).id for event in bench.progress}) == 2


# Uploading


class Digesting(MemoryStore):
    """A store with a digest of its own for every image."""

    def complete(self, *about: Any, **more: Any) -> StoredImage:
        return replace(super().complete(*about, **more), digest="sha256:0123")


def test_a_stores_own_digest_is_told_where_it_has_one(bench: Bench) -> None:
    bench.stores["registry"] = Digesting("registry")
    bench.container()
    (end,) = run(bench, at(bench, FINISH, stores=["registry", "glance"]))
    registry, glance = end.payload["stores"]
    assert registry["digest"] == "sha256:0123"
    assert glance["digest"] == f"sha256:{end.payload['sha256']}"
    assert registry["size_bytes"] == glance["size_bytes"] == end.payload["size_bytes"]


def test_upload_sends_verifies_and_goes_on(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    following = only(bench, step)
    snapshot = Snapshot.load(following)

    assert following.type == UPLOAD
    assert snapshot.copies[0].status == "active"
    assert snapshot.copies[0].digest == f"sha256:{snapshot.sha256}"
    assert snapshot.size_bytes == snapshot.copies[0].size_bytes
    assert only(bench, following).type == FINISH
    phases = [event.payload["phase"] for event in bench.progress]
    assert phases[-1] == "verifying"
    assert [event.payload["bytes_done"] for event in bench.progress][-2] == snapshot.size_bytes


def test_an_image_reserved_beforehand_is_described_in_the_end(bench: Bench) -> None:
    bench.container("web", labels={"tier": "db"})
    fields = {"tag": "v7", "metadata": {"ticket": "42"}}
    run(bench, at(bench, UPLOAD, **fields))
    ours = bench.stores["glance"].images[image_id_for(REQUEST_ID)]

    reserve_foreign(bench, GIVEN, owner="project-a")
    run(bench, at(bench, UPLOAD, image_id=GIVEN, **fields))
    given = bench.stores["glance"].images[GIVEN]
    assert given.properties == ours.properties
    assert given.properties["meta_ticket"] == "42"
    assert given.properties["snapshot_sha256"] == hashlib.sha256(given.data).hexdigest()
    assert given.properties["engine_image_id"].startswith("sha256:")
    assert (given.spec.name, given.spec.tag) == ("theirs", "v7")


def test_two_stores_get_the_same_bytes_one_after_the_other(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD, stores=["glance", "directory"])
    first = only(bench, step)
    assert list(bench.images("glance").values()) == ["active"]
    assert list(bench.images("directory").values()) == ["queued"]
    finish = advance(bench, first, FINISH)

    one, two = Snapshot.load(finish).copies
    assert one.image_id == two.image_id
    assert one.digest == two.digest
    data = [bench.stores[name].images[one.image_id].data for name in ("glance", "directory")]
    assert data[0] == data[1]


def test_a_capture_that_vanished_is_made_again(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    bench.engine.discard(REQUEST_ID)
    following = only(bench, step)

    assert following.type == CAPTURE
    assert Snapshot.load(following).capture_ref is None
    end = run(bench, advance(bench, following, FINISH))[0]
    assert end.type == SNAPSHOT_END


def test_an_image_deleted_before_the_upload_cancels(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    bench.stores["glance"].discard(image_id_for(REQUEST_ID))
    error = refused(bench, step, Cancelled, "was deleted")
    (told,) = aborted(bench, step, error)
    assert told.payload["fault"]["code"] == 499


def test_an_image_deleted_during_the_upload_cancels(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    glance = bench.stores["glance"]

    def delete() -> None:
        glance.discard(image_id_for(REQUEST_ID))
        bench.clock.advance(60)

    with pytest.raises(Cancelled, match="was deleted"):
        run(bench, step, checkpoint=delete)
    assert bench.images() == {}


def test_an_image_deleted_after_the_last_look_cancels_too(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    glance = bench.stores["glance"]
    with pytest.raises(Cancelled):
        run(bench, step, checkpoint=lambda: glance.discard(image_id_for(REQUEST_ID)))


def test_an_image_deleted_before_it_is_verified_cancels(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    bench.trouble.plan("glance.complete", NotFound("gone"))
    refused(bench, step, Cancelled, "was deleted")


def test_a_store_that_does_not_answer_the_look_does_not_stop_the_upload(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    bench.trouble.plan("glance.describe", Unavailable("busy"), skip=1, times=100)
    following = only(bench, step, checkpoint=lambda: bench.clock.advance(60))
    assert Snapshot.load(following).copies[0].status == "active"


def test_what_the_store_refuses_stays_what_it_is(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    bench.trouble.plan("glance.upload", TooLarge("quota"))
    refused(bench, step, TooLarge, "quota")


@pytest.mark.parametrize("error", [Interrupted(), TimedOut("late"), Cancelled("stop")], ids=repr)
def test_a_checkpoint_stops_the_upload_and_leaves_nothing_that_looks_whole(
    bench: Bench, error: BaseException
) -> None:
    def stop() -> None:
        raise error

    bench.container()
    step = at(bench, UPLOAD)
    with pytest.raises(type(error)):
        run(bench, step, checkpoint=stop)
    assert list(bench.images().values()) == ["queued"]


def saving(bench: Bench) -> None:
    bench.stores["glance"].images[image_id_for(REQUEST_ID)].status = ImageStatus.SAVING


def test_an_image_that_is_still_being_saved_is_waited_for_and_then_given_up(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    saving(bench)
    for attempt in range(1, upload.SAVING_ATTEMPTS + 1):
        refused(bench, again(step, attempt), Unavailable, "still taking an older upload")
    following = only(bench, again(step, upload.SAVING_ATTEMPTS + 1))

    assert following.type == RESERVE
    (copy,) = Snapshot.load(following).copies
    assert copy.image_id == image_id_for(REQUEST_ID, 1)
    assert copy.spent == (image_id_for(REQUEST_ID),)
    assert list(bench.images()) == [image_id_for(REQUEST_ID)]
    start, resumed = run(bench, following)
    assert start.payload["image_id"] == image_id_for(REQUEST_ID, 1)
    assert resumed.type == UPLOAD  # the capture is still good
    assert list(bench.images()) == [image_id_for(REQUEST_ID, 1)]
    assert Snapshot.load(resumed).copies[0].spent == ()


def test_an_older_upload_that_ends_meanwhile_is_taken_for_ours(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    done = only(bench, step)
    saving(bench)
    refused(bench, step, Unavailable, "still taking")
    bench.stores["glance"].images[image_id_for(REQUEST_ID)].status = ImageStatus.ACTIVE
    assert only(bench, again(step)) == done


def test_an_image_found_active_after_a_crash_is_verified_by_its_hash(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    done = only(bench, step)
    sends = bench.trouble.calls.count("glance.upload")

    assert only(bench, again(step)) == done
    assert bench.trouble.calls.count("glance.upload") == sends == 1


def test_an_image_found_active_with_other_bytes_is_replaced(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    only(bench, step)
    bench.stores["glance"].images[image_id_for(REQUEST_ID)].data += b"more"
    following = only(bench, again(step))

    assert following.type == RESERVE
    finish = advance(bench, following, FINISH)
    assert bench.images() == {image_id_for(REQUEST_ID, 1): "active"}
    assert Snapshot.load(finish).image_id == image_id_for(REQUEST_ID, 1)


@pytest.mark.parametrize(
    ("call", "error"),
    [("glance.upload", ImageIdSpent("stuck")), ("glance.complete", CorruptUpload("short"))],
)
def test_an_upload_that_spoils_its_image_goes_on_with_another(
    bench: Bench, call: str, error: TintypeError
) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    bench.trouble.plan(call, error)
    finish = advance(bench, only(bench, step), FINISH)
    assert bench.images() == {image_id_for(REQUEST_ID, 1): "active"}
    assert run(bench, finish)[0].payload["image_id"] == image_id_for(REQUEST_ID, 1)


def test_a_store_that_spoils_every_image_is_given_up(bench: Bench) -> None:
    bench.container()
    step = at(bench, UPLOAD)
    bench.trouble.plan("glance.complete", CorruptUpload("short"), times=100)
    for _ in range(upload.GENERATIONS_ALLOWED - 1):
        step = advance(bench, only(bench, step), UPLOAD)
    error = refused(bench, step, Refused, "used up")
    aborted(bench, step, error)
    assert bench.images() == {}


def test_a_spoilt_image_that_was_given_is_ours_to_delete(bench: Bench) -> None:
    bench.container()
    reserve_foreign(bench, GIVEN, owner="project-a")
    step = at(bench, UPLOAD, image_id=GIVEN)
    bench.trouble.plan("glance.complete", CorruptUpload("short"))
    finish = advance(bench, only(bench, step), FINISH)
    assert bench.images() == {image_id_for(REQUEST_ID, 1): "active"}
    assert Snapshot.load(finish).image_id == image_id_for(REQUEST_ID, 1)


# Ending


def test_finish_announces_the_image_and_cleans_the_host(bench: Bench) -> None:
    bench.container(volumes=["/var/lib"])
    step = at(bench, FINISH, metadata={"ticket": "42"})
    bench.clock.advance(12.5)
    (end,) = run(bench, step)

    assert end.type == SNAPSHOT_END
    assert end.payload["duration_ms"] == 12_500
    assert end.payload["metadata"] == {"ticket": "42"}
    assert end.payload["excluded_volumes"] == ["/var/lib"]
    assert end.payload["stores"][0]["location"] == f"glance://{end.payload['image_id']}"
    assert bench.engine.owners() == frozenset()
    assert run(bench, again(step)) == [end]


def test_finish_leaves_what_it_cannot_clean_to_the_sweep(bench: Bench) -> None:
    bench.container()
    step = at(bench, FINISH)
    bench.trouble.plan("engine.discard", Unavailable("away"), times=2)
    end, sweep = run(bench, step)
    assert (end.type, sweep.type) == (SNAPSHOT_END, SWEEP)
    refused(bench, sweep, Unavailable, "away")
    assert run(bench, again(sweep)) == []
    assert bench.engine.owners() == frozenset()
    assert list(bench.images().values()) == ["active"]


def test_abort_removes_everything_and_says_so(bench: Bench) -> None:
    bench.container()
    step = at(bench, FINISH, stores=["glance", "directory"])
    (told,) = aborted(bench, step, Refused("no"))

    assert told.payload["fault"]["image_deleted"] is True
    assert told.payload["status"] == "error"
    assert bench.images() == bench.images("directory") == {}
    assert bench.engine.owners() == frozenset()


def test_abort_thaws_what_we_may_have_frozen(bench: Bench) -> None:
    container = bench.container()
    intended = only(bench, at(bench, CAPTURE))
    bench.engine.by_id[container.engine_id].state = PAUSED
    aborted(bench, intended, TimedOut("late"))
    assert bench.engine.by_id[container.engine_id].state is RUNNING


def test_abort_does_every_chore_whatever_becomes_of_the_others(bench: Bench) -> None:
    bench.container()
    step = at(bench, FINISH, stores=["glance", "directory"])
    bench.trouble.plan("glance.discard", Unavailable("glance is away"), times=100)
    bench.trouble.plan("engine.discard", Unavailable("engine is away"))
    abort = Snapshot.load(step).step(ABORT, fault=Fault.of(Refused("no"), "uploading"))
    error = refused(bench, abort, Unavailable, "glance is away; engine is away")

    assert bench.images("directory") == {}
    assert error.retryable
    assert len(run(bench, again(abort, cleanup.QUIET_ATTEMPTS + 1))) == 2


def test_abort_tells_the_truth_when_images_are_left(bench: Bench) -> None:
    bench.container()
    step = at(bench, FINISH)
    bench.trouble.plan("glance.discard", Unavailable("away"), times=100)
    abort = Snapshot.load(step).step(ABORT, fault=Fault.of(Refused("no"), "uploading"))
    told, sweep = run(bench, again(abort, cleanup.QUIET_ATTEMPTS + 1))

    assert told.payload["fault"]["image_deleted"] is False
    assert sweep.type == SWEEP
    bench.trouble.end()
    assert run(bench, sweep) == []
    assert bench.images() == {}


def test_abort_does_not_delete_a_good_image_of_another_request(bench: Bench) -> None:
    bench.container()
    step = at(bench, FINISH)
    other = derived_id("test", "other")
    reserve_foreign(bench, other, owner="project-a", data=b"precious")
    aborted(bench, step, Refused("no"))
    assert bench.images() == {other: "active"}


# By way of a router


def soon(bench: Bench, seconds: float) -> str:
    return (bench.clock.now() + timedelta(seconds=seconds)).isoformat()


def test_only_a_routed_request_is_told_as_accepted(bench: Bench) -> None:
    bench.container()
    (step,) = run(bench, request())
    assert step.type == RESERVE
    told, step = run(bench, request(accept_by=soon(bench, 30)))
    assert (told.type, step.type) == (COMMIT_ACCEPTED, RESERVE)
    assert told.id == derived_id(REQUEST_ID, COMMIT_ACCEPTED)
    assert told.requester == ALICE
    assert told.payload["host"] == HOST


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_request_whose_router_has_given_up_is_void(bench: Bench, seconds: float) -> None:
    bench.container()
    refused(bench, request(accept_by=soon(bench, seconds)), TimedOut, "did not take the request")
    assert bench.trouble.calls == [], "it is not even looked at"


def test_what_is_refused_is_not_accepted_before(bench: Bench) -> None:
    bench.container(labels={"tintype.project_id": "project-m"})
    with pytest.raises(Forbidden):
        next(iter(acceptance.accept(request(accept_by=soon(bench, 30)), bench.services)))


@pytest.mark.parametrize(
    ("confirmed", "now", "error"),
    [
        (None, 0, Unavailable),
        (None, 29.999, Unavailable),
        (None, 30, TimedOut),
        (0, 0, None),
        (29.999, 29.999, None),
        (29.999, 5000, None),
        (30, 30, TimedOut),
        (31, 5000, TimedOut),
    ],
)
def test_nothing_is_reserved_unless_the_router_knew_in_time(
    bench: Bench, confirmed: float | None, now: float, error: type[TintypeError] | None
) -> None:
    bench.container()
    step = at(bench, RESERVE, accept_by=soon(bench, 30))
    told = None if confirmed is None else bench.clock.now() + timedelta(seconds=confirmed)
    asked: list[str] = []

    def confirmed_at(event_id: str) -> datetime | None:
        asked.append(event_id)
        return told

    bench.clock.advance(now)
    if error is None:
        assert run(bench, step, confirmed_at=confirmed_at)[0].type == SNAPSHOT_START
    else:
        with pytest.raises(error):
            run(bench, step, confirmed_at=confirmed_at)
        assert bench.images() == {}
    assert asked == [derived_id(REQUEST_ID, COMMIT_ACCEPTED)]


def test_of_a_request_that_came_straight_nobody_needs_to_know(bench: Bench) -> None:
    bench.container()
    step = at(bench, RESERVE)

    def confirmed_at(_: str) -> datetime | None:
        raise AssertionError("nobody was told")

    assert run(bench, step, confirmed_at=confirmed_at)[0].type == SNAPSHOT_START


@pytest.mark.parametrize(
    ("routed", "now", "told"),
    [
        (True, 59.999, SNAPSHOT_END),
        (True, 60, ABORT),
        (True, 6000, ABORT),
        (False, 6000, SNAPSHOT_END),
    ],
)
def test_a_routed_request_is_not_finished_after_its_deadline(
    bench: Bench, *, routed: bool, now: float, told: str
) -> None:
    bench.container()
    fields = {"deadline": soon(bench, 60)} | ({"accept_by": soon(bench, 30)} if routed else {})
    step = request(**fields)
    while step.type != FINISH:
        made = run(bench, step, confirmed_at=lambda _: bench.clock.now())
        (step,) = [each for each in made if each.type in BUILT_IN]
    bench.clock.advance(now)
    (first, *_) = run(bench, step)
    assert first.type == told
    if told == ABORT:
        assert list(bench.images().values()) == ["active"], "that is a step of its own"
        error, *_ = run(bench, first)
        assert error.type == SNAPSHOT_ERROR
        assert error.payload["fault"]["code"] == 504
        assert error.payload["fault"]["image_deleted"] is True
        assert bench.images() == {}
        assert bench.engine.owners() == frozenset()


# Letting go


def test_release_thaws_the_container_of_a_step_that_meant_to_freeze_it(bench: Bench) -> None:
    container = bench.container()
    intended = only(bench, at(bench, CAPTURE))
    bench.engine.by_id[container.engine_id].state = PAUSED
    cleanup.release(intended, bench.services)
    assert bench.engine.by_id[container.engine_id].state is RUNNING


@pytest.mark.parametrize("step_type", [COMMIT_REQUEST, RESERVE, CAPTURE, UPLOAD, FINISH])
def test_release_leaves_the_container_of_any_other_step_alone(bench: Bench, step_type: str) -> None:
    container = bench.container()
    step = at(bench, step_type)
    bench.engine.by_id[container.engine_id].state = PAUSED
    cleanup.release(step, bench.services)
    assert bench.engine.by_id[container.engine_id].state is PAUSED


# Statelessness


def test_handlers_keep_nothing_between_calls(bench: Bench) -> None:
    def names(module: Any) -> dict[str, str]:
        return {name: repr(value) for name, value in vars(module).items() if name[0] != "_"}

    modules = (acceptance, preflight, upload, hooks, commit, cleanup)
    before = [names(module) for module in modules]
    bench.container()
    everything: Iterable[Event] = run(bench, at(bench, FINISH))
    assert list(everything)
    assert [names(module) for module in modules] == before
