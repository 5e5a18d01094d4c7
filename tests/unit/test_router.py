"""The router on twins: requests find their host, or an answer, whatever dies or comes late."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.rest_double import preflight
from tests.support.twins import ADMIN, ALICE, MALLORY, Trouble, checked
from tintype.adapters.clock import ManualClock
from tintype.adapters.memory_courier import MemoryCourier
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_store import MemoryStore
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_dispatches import SqlDispatches
from tintype.adapters.sql_index import SqlIndex
from tintype.core.dispatch import DispatchState
from tintype.core.dispatcher import LEASE, Dispatcher, Patience
from tintype.core.engine import ContainerState
from tintype.core.errors import Unavailable
from tintype.core.events import (
    COMMIT_ACCEPTED,
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    CONTAINER_DELETE,
    CONTAINER_DELETE_START,
    CONTAINER_EXISTS,
    EXISTS_REQUEST,
    RESTORE_CANCEL,
    RESTORE_END,
    RESTORE_ERROR,
    RESTORE_PROGRESS,
    RESTORE_REQUEST,
    RESTORE_START,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_EXISTS,
    SNAPSHOT_PREFLIGHT,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_START,
    Event,
    Message,
    Requester,
)
from tintype.core.images import ImageSpec
from tintype.core.index import SnapshotRecord
from tintype.core.jobs import Fault
from tintype.core.ports import Services
from tintype.core.restore import Restore, Source, restore_id_for
from tintype.core.router import Router
from tintype.core.snapshot import Copy, Snapshot, image_id_for, snapshot_id_for
from tintype.handlers import cleanup
from tintype.router import Ears as ServiceEars
from tintype.schemas import validate

PATIENCE = Patience(
    host=timedelta(seconds=60),
    unknown=timedelta(seconds=5),
    grace=timedelta(seconds=10),
    deadline=timedelta(hours=1),
)


class Ears:
    """What the router knows of its hearing, as a test says."""

    def __init__(self) -> None:
        self.up_to_date = True
        self.undisturbed = True

    def caught_up(self) -> bool:
        return self.up_to_date

    def complete(self) -> bool:
        return self.up_to_date and self.undisturbed


@dataclass
class House:
    """Routers that share one index, and the bus around them."""

    database: Database = field(default_factory=lambda: Database("sqlite://"))
    trouble: Trouble = field(default_factory=Trouble)
    clock: ManualClock = field(default_factory=ManualClock)
    ears: Ears = field(default_factory=Ears)
    courier: MemoryCourier = field(init=False)
    store: MemoryStore = field(init=False)
    router: Router = field(init=False)

    def __post_init__(self) -> None:
        self.database.upgrade()
        self.courier = MemoryCourier(fail=self.trouble.hook("courier"))
        self.courier.hosts = {"host-a": [], "host-b": []}
        self.store = MemoryStore("glance", fail=self.trouble.hook("glance"))
        self.router = self.another_router()

    def another_router(self) -> Router:
        dispatcher = Dispatcher(
            index=SqlIndex(self.database),
            dispatches=SqlDispatches(self.database),
            courier=self.courier,
            services=Services(
                engine=MemoryEngine(),
                stores={"glance": self.store},
                clock=self.clock,
                host="router-1",
                default_stores=("glance",),
            ),
            abort=cleanup.abort,
            patience=PATIENCE,
            hearing=self.ears,
        )
        return Router(
            dispatcher,
            validate,
            lambda context: context if isinstance(context, Requester) else Requester(),
        )

    def container(
        self,
        name: str = "web",
        host: str = "host-a",
        *,
        state: str = "Running",
        project_id: str | None = "project-a",
        uuid_: str | None = None,
    ) -> str:
        """Let the index hear of a container, and return its uuid."""
        ident = uuid_ or uuid.uuid4().hex * 2
        payload = {
            "container_uuid": ident,
            "engine_container_id": ident,
            "container_name": name,
            "host": host,
            "state": state,
            "project_id": project_id,
        }
        self.hear(CONTAINER_EXISTS, payload)
        return ident

    def hear(self, event_type: str, payload: dict[str, Any], who: Requester = ALICE) -> None:
        """Let the router hear a notification."""
        stamp = self.clock.now().isoformat()
        self.router.on_event(Message(event_type, payload, who, str(uuid.uuid4()), "test", stamp))

    def say(self, event: Event) -> None:
        """Let the router hear one of our own events."""
        self.hear(event.type, dict(checked(event).payload), event.requester)

    def ask(self, container: str = "web", *, who: Requester = ALICE, **fields: Any) -> str:
        """Send a commit request on the shared topic, and return its id."""
        request_id = fields.pop("request_id", None) or str(uuid.uuid4())
        payload = {
            "container": container,
            "image_name": "snap",
            "request_id": request_id,
            **fields,
        }
        self.send(COMMIT_REQUEST, payload, who)
        return str(request_id)

    def restore(self, *, who: Requester = ALICE, **fields: Any) -> str:
        """Send a restore request on the shared topic, and return its id."""
        request_id = fields.pop("request_id", None) or str(uuid.uuid4())
        self.send(RESTORE_REQUEST, {"request_id": request_id, **fields}, who)
        return str(request_id)

    def cancel(
        self,
        request_id: str,
        who: Requester = ALICE,
        *,
        event_type: str = COMMIT_CANCEL,
        **fields: Any,
    ) -> None:
        self.send(event_type, {"request_id": request_id, **fields}, who)

    def send(self, event_type: str, payload: Any, who: Requester) -> None:
        self.router.on_request(
            Message(event_type, payload, who, str(uuid.uuid4()), "test", "2026-01-01 00:00:00")
        )

    def wait(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, and the router look after its dispatches meanwhile."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            self.router.dispatcher.sweep()

    def sent(self, host: str = "host-a", event_type: str = COMMIT_REQUEST) -> list[Event]:
        """Return what a host was sent, checked against its schema."""
        found = [each for each in self.courier.hosts[host] if each.type == event_type]
        assert all(validate(each.type, each.payload) == [] for each in found)
        return found

    def answers(self, request_id: str) -> list[dict[str, Any]]:
        """Return the payloads of the errors told about a request, each event id once."""
        found = {
            event.id: dict(checked(event).payload)
            for event in self.courier.told
            if event.payload["request_id"] == request_id
        }
        return list(found.values())

    def fault(self, request_id: str) -> dict[str, Any]:
        """Return the fault of the one answer to a request."""
        (answer,) = self.answers(request_id)
        fault: dict[str, Any] = answer["fault"]
        return fault

    def state(self, request_id: str) -> DispatchState:
        dispatch = self.router.dispatcher.dispatches.get(request_id)
        assert dispatch is not None
        return dispatch.state

    def snapshot(self, sent: Event, host: str = "host-a", **changes: Any) -> Snapshot:
        """Return the snapshot that a host makes of a request it was sent."""
        made = Snapshot.begin(sent, host=host, created_at=self.clock.now().isoformat())
        return replace(made, container_uuid=sent.payload["container"], **changes)

    def finished(self, sent: Event) -> Snapshot:
        """Return the snapshot that a host has made of a request it was sent."""
        return self.snapshot(
            sent,
            copies=(Copy("glance", str(uuid.uuid4()), status="active", digest="sha256:0"),),
            engine_container_id="0" * 64,
            container_name="web",
            size_bytes=1,
            sha256="0" * 64,
            paused_ms=1,
            phase="cleanup",
            finished_at=self.clock.now().isoformat(),
        )

    def reserved(self, image_id: str, owner: str = "project-a") -> None:
        """Put an image into the store that waits for data."""
        self.store.reserve(ImageSpec(image_id, "snap", "latest", owner))

    def restoring(self, sent: Event, host: str = "host-a") -> Restore:
        """Return the restore that a host makes of a request it was sent."""
        made = Restore.begin(sent, host=host, created_at=self.clock.now().isoformat())
        source = Source("glance", str(uuid.uuid4()), snapshot_id=sent.payload["snapshot_id"])
        return replace(made, source=source, container_name="web")

    def restored(self, sent: Event) -> Restore:
        """Return the same when all is done."""
        return replace(
            self.restoring(sent),
            container_uuid="f" * 64,
            engine_container_id="f" * 64,
            started=True,
            phase="cleanup",
            finished_at=self.clock.now().isoformat(),
        )

    def made(
        self, who: Requester = ALICE, host: str = "host-a", request_id: str | None = None
    ) -> tuple[str, str]:
        """Let a host tell of a snapshot that no router sent it; return its request and image."""
        request_id, image_id = request_id or str(uuid.uuid4()), str(uuid.uuid4())
        payload = {"container": "c" * 64, "image_name": "snap", "request_id": request_id}
        self.reserved(image_id)
        self.store.upload(image_id, [b"data"])
        copy = Copy("glance", image_id, status="active", digest="sha256:0")
        made = replace(
            self.finished(Event(COMMIT_REQUEST, payload, who)), copies=(copy,), host=host
        )
        self.say(made.event(SNAPSHOT_END, status="active", duration_ms=1))
        return request_id, image_id


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.database.close()


# The way to the host


def test_a_request_by_name_uuid_and_id_lands_on_its_host(house: House) -> None:
    zuns = str(uuid.uuid4())
    house.container("other", "host-b")
    web = house.container("web", "host-a")
    house.container(f"zun-{zuns}", "host-b", uuid_=zuns)
    for ident, host, container in [
        ("web", "host-a", web),
        (web, "host-a", web),
        (web[:12], "host-a", web),
        (zuns, "host-b", zuns),
        (zuns.upper(), "host-b", zuns),
        (f"zun-{zuns}", "host-b", zuns),
    ]:
        request_id = house.ask(ident)
        sent = house.sent(host)[-1]
        assert sent.payload["request_id"] == request_id
        assert sent.payload["container"] == container
        assert sent.payload["host"] == host
        assert sent.requester == ALICE
        assert house.state(request_id) is DispatchState.SENT
    assert house.courier.told == []


def test_what_the_host_gets_is_the_request_and_its_limits(house: House) -> None:
    house.container()
    house.ask(tag="v1", metadata={"a": "b"}, stores=["glance"])
    (sent,) = house.sent()
    now = house.clock.now()
    assert sent.payload["tag"] == "v1"
    assert sent.payload["metadata"] == {"a": "b"}
    assert sent.payload["accept_by"] == (now + PATIENCE.host).isoformat()
    assert sent.payload["deadline"] == (now + PATIENCE.deadline).isoformat()


def test_a_deadline_is_the_last_moment_to_take_a_request(house: House) -> None:
    house.container()
    soon = (house.clock.now() + timedelta(seconds=7)).isoformat()
    house.ask(deadline=soon)
    assert house.sent()[0].payload["accept_by"] == soon


def test_a_request_that_comes_twice_is_sent_once_and_another_body_a_conflict(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.ask(request_id=request_id)
    assert len(house.sent()) == 1
    assert house.answers(request_id) == []

    house.ask(request_id=request_id, tag="other")
    house.ask(request_id=request_id, who=MALLORY)
    assert {each["fault"]["code"] for each in house.answers(request_id)} == {409}
    assert len(house.sent()) == 1
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 2


# Who may, and which


def test_an_ambiguous_name_is_refused_with_the_candidates(house: House) -> None:
    one, two = house.container(host="host-a"), house.container(host="host-b")
    request_id = house.ask()
    fault = house.fault(request_id)
    assert fault["code"] == 409
    assert f"{one} on host-a" in fault["message"]
    assert f"{two} on host-b" in fault["message"]
    assert house.sent("host-a") == house.sent("host-b") == []

    house.ask(host="host-b")
    assert [each.payload["container"] for each in house.sent("host-b")] == [two]


def test_a_name_means_the_requesters_own_container(house: House) -> None:
    house.container(host="host-a", project_id="project-m")
    mine = house.container(host="host-b", project_id="project-a")
    house.ask()
    assert [each.payload["container"] for each in house.sent("host-b")] == [mine]


@pytest.mark.parametrize(
    ("owner", "who", "allowed"),
    [
        ("project-a", ALICE, True),
        ("project-a", ADMIN, True),
        ("project-a", MALLORY, False),
        ("project-a", Requester(), False),
        (None, MALLORY, True),
    ],
)
def test_only_the_owner_and_admins_may(
    house: House, owner: str | None, who: Requester, *, allowed: bool
) -> None:
    house.container(project_id=owner)
    request_id = house.ask(who=who)
    if allowed:
        assert len(house.sent()) == 1
    else:
        assert house.fault(request_id)["code"] == 403
        assert house.answers(request_id)[0]["project_id"] == who.project_id


def test_a_container_nobody_has_is_404_after_the_agents_were_asked(house: House) -> None:
    request_id = house.ask("nothing")
    assert [each.payload for each in house.courier.asked] == [{"container": "nothing"}]
    house.wait(3)
    assert house.answers(request_id) == []
    house.wait(4)
    assert house.fault(request_id)["code"] == 404
    assert house.state(request_id) is DispatchState.ENDED
    house.wait(100)
    assert len(house.courier.told) == 1
    assert len(house.courier.asked) == 1


def test_nothing_is_404_while_there_is_something_to_be_heard(house: House) -> None:
    house.ears.up_to_date = False
    request_id = house.ask("web")
    house.wait(60)
    assert house.answers(request_id) == []
    house.container("web")
    house.wait(1)
    assert len(house.sent()) == 1


def test_a_container_told_of_in_time_is_served(house: House) -> None:
    request_id = house.ask("web")
    web = house.container("web")
    house.wait(2)
    assert [each.payload["container"] for each in house.sent()] == [web]
    house.wait(10)
    assert house.answers(request_id) == []


@pytest.mark.parametrize("state", ["Other", "Creating", None])
def test_a_state_that_cannot_be_snapshotted_is_409_unless_it_changes_soon(
    house: House, state: str
) -> None:
    ident = house.container(state=state)
    late = house.ask()
    house.wait(7)
    assert house.fault(late)["code"] == 409

    in_time = house.ask()
    house.container(uuid_=ident, state="Running")
    house.wait(2)
    assert [each.payload["request_id"] for each in house.sent()] == [in_time]


@pytest.mark.parametrize("state", [ContainerState.STOPPED, ContainerState.PAUSED])
def test_stopped_and_paused_containers_are_sent_on(house: House, state: str) -> None:
    house.container(state=state)
    house.ask()
    assert len(house.sent()) == 1


def test_a_deleted_container_is_nobodys(house: House) -> None:
    ident = house.container()
    house.hear(CONTAINER_DELETE, {"uuid": ident})
    request_id = house.ask()
    house.wait(7)
    assert house.fault(request_id)["code"] == 404


# Messages that are wrong


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"container": "web"}, "/image_name"),
        ({"container": "web", "image_name": "a", "colour": 1}, "/colour"),
        (
            {
                "container": "web",
                "image_name": "a",
                "accept_by": "2030-01-01T00:00:00Z",
                "deadline": "2030-01-01T00:00:00Z",
            },
            "/accept_by",
        ),
        (5, "(document)"),
    ],
)
def test_an_invalid_request_is_answered_and_kept(house: House, payload: Any, words: str) -> None:
    house.send(COMMIT_REQUEST, payload, ALICE)
    (answer,) = house.courier.told
    assert checked(answer).payload["fault"]["code"] == 400
    assert words in answer.payload["fault"]["message"]
    assert [words in each.reason for each in house.router.dispatcher.dispatches.dead_letters()] == [
        True
    ]


def test_a_message_of_another_type_is_kept_without_an_answer(house: House) -> None:
    for event_type in ("instance.create", None, 5, ["a"], "\ud800"):
        house.send(event_type, {}, ALICE)  # type: ignore[arg-type]
    house.router.on_garbage("not JSON", {"body": "\ud800\x00"})
    assert house.courier.told == []
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 6


def test_an_answer_that_cannot_be_told_is_the_buss_again(house: House) -> None:
    house.trouble.plan("courier.tell", Unavailable("away"))
    message = Message(COMMIT_REQUEST, {}, ALICE, str(uuid.uuid4()), None, "2026-01-01")
    with pytest.raises(Unavailable):
        house.router.on_request(message)
    house.router.on_request(message)
    assert len(house.courier.told) == 1
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 1


# Hosts that are silent


def test_a_silent_host_is_504_and_its_request_withdrawn(house: House) -> None:
    house.container()
    image_id = str(uuid.uuid4())
    house.reserved(image_id)
    request_id = house.ask(image_id=image_id)
    house.wait(60 + 10)
    assert house.answers(request_id) == []
    house.wait(12)

    fault = house.fault(request_id)
    assert fault["code"] == 504
    assert "host-a" in fault["message"]
    assert fault["image_deleted"] is True
    assert house.store.images == {}
    (withdrawn,) = house.sent(event_type=COMMIT_CANCEL)
    assert withdrawn.payload["request_id"] == request_id
    assert withdrawn.payload["answered"] is True
    assert withdrawn.requester.is_admin
    house.wait(200)
    assert len(house.courier.told) == 1


def test_a_silent_host_is_asked_once_before_it_is_given_up(house: House) -> None:
    ident = house.container()
    request_id = house.ask()
    house.wait(60 + 11)
    (question,) = house.sent(event_type=EXISTS_REQUEST)
    assert question.payload == {"container": ident}
    # Its word had got lost: what it says now counts.
    end = house.finished(house.sent()[0]).event(SNAPSHOT_END, status="active")
    house.hear(SNAPSHOT_EXISTS, dict(end.payload))
    house.wait(100)
    assert house.answers(request_id) == []
    assert house.state(request_id) is DispatchState.ENDED


def test_the_other_host_is_not_disturbed(house: House) -> None:
    house.container("a", "host-a")
    house.container("b", "host-b")
    dead = house.ask("a")
    house.wait(30)
    alive = house.ask("b")
    house.say(house.snapshot(house.sent("host-b")[0], "host-b").accepted())
    house.wait(100)
    assert house.fault(dead)["code"] == 504
    assert house.answers(alive) == []
    assert house.state(alive) is DispatchState.ACCEPTED


def test_a_host_that_took_the_request_has_until_the_deadline(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.say(house.snapshot(house.sent()[0]).accepted())
    assert house.state(request_id) is DispatchState.ACCEPTED
    house.wait(3600, step=10)
    assert house.answers(request_id) == []
    house.wait(60)
    assert house.fault(request_id)["code"] == 504


def test_what_a_host_had_reserved_is_deleted_when_it_is_given_up(house: House) -> None:
    house.container()
    request_id = house.ask()
    image_id = image_id_for(request_id)
    house.reserved(image_id)
    begun = house.snapshot(house.sent()[0], copies=(Copy("glance", image_id),))
    house.say(begun.accepted())
    house.say(begun.event(SNAPSHOT_START, status="queued"))
    house.wait(3600 + 60, step=10)
    assert house.fault(request_id)["image_deleted"] is True
    assert house.store.images == {}


def test_an_image_in_a_hosts_own_store_is_not_said_to_be_deleted(house: House) -> None:
    house.container()
    request_id = house.ask()
    begun = house.snapshot(house.sent()[0], copies=(Copy("directory", str(uuid.uuid4())),))
    house.say(begun.event(SNAPSHOT_START, status="queued"))
    house.wait(3600 + 60, step=10)
    assert house.fault(request_id)["image_deleted"] is False


@pytest.mark.parametrize("outcome", [SNAPSHOT_END, SNAPSHOT_ERROR])
def test_an_outcome_ends_the_matter(house: House, outcome: str) -> None:
    house.container()
    request_id = house.ask()
    made = house.finished(house.sent()[0])
    if outcome == SNAPSHOT_ERROR:
        made = made.failed("snapshot.upload", Unavailable("x"))
        assert made.fault is not None
        made = replace(made, fault=replace(made.fault, image_deleted=True))
    event = made.event(outcome, status="active" if outcome == SNAPSHOT_END else "error")
    house.say(replace(event, payload={**event.payload, "duration_ms": 1}))
    assert house.state(request_id) is DispatchState.ENDED
    house.wait(4000, step=10)
    assert house.answers(request_id) == []
    house.ask(request_id=request_id)
    assert len(house.sent()) == 1


def test_words_out_of_order_change_nothing(house: House) -> None:
    house.container()
    request_id = house.ask()
    made = house.finished(house.sent()[0])
    end = made.event(SNAPSHOT_END, status="active")
    house.say(replace(end, payload={**end.payload, "duration_ms": 1}))
    house.say(made.accepted())
    house.say(made.event(SNAPSHOT_START, status="queued"))
    assert house.state(request_id) is DispatchState.ENDED
    record = house.router.dispatcher.index.snapshot(request_id)
    assert record is not None
    assert record.payload["status"] == "active"


def test_nobody_is_given_up_while_something_may_not_have_been_heard(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.ears.undisturbed = False
    house.wait(300)
    assert house.answers(request_id) == []
    house.say(house.snapshot(house.sent()[0]).accepted())
    house.ears.undisturbed = True
    house.wait(300)
    assert house.answers(request_id) == []


def test_the_answer_to_a_refused_message_is_not_taken_for_the_outcome(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.ask(request_id=request_id, tag="other")
    (conflict,) = house.courier.told
    house.say(conflict)
    assert house.state(request_id) is DispatchState.SENT
    assert house.router.dispatcher.index.snapshot(request_id) is None


def test_a_host_without_a_queue_is_tried_until_its_time_is_over(house: House) -> None:
    house.container(host="host-c")
    request_id = house.ask()
    house.wait(10)
    house.courier.hosts["host-c"] = []
    house.wait(2)
    assert len(house.sent("host-c")) == 1
    assert house.state(request_id) is DispatchState.SENT

    house.container("lost", host="host-d")
    lost = house.ask("lost")
    house.wait(65)
    assert house.fault(lost)["code"] == 504


# The bus, the store and the router itself fail


def test_a_request_waits_while_the_bus_is_away(house: House) -> None:
    house.container()
    house.trouble.plan("courier.to_host", Unavailable("away"), times=5)
    request_id = house.ask()
    assert house.state(request_id) is DispatchState.PARKED
    house.wait(8)
    assert [each.payload["request_id"] for each in house.sent()] == [request_id]


@pytest.mark.parametrize("call", ["courier.tell", "courier.to_host", "glance.discard"])
def test_an_answer_is_told_though_something_fails_at_first(house: House, call: str) -> None:
    house.container()
    image_id = str(uuid.uuid4())
    house.reserved(image_id)
    request_id = house.ask(image_id=image_id)
    house.trouble.plan(call, Unavailable("away"), times=2)
    house.wait(60 + 120)
    assert house.fault(request_id)["code"] == 504
    assert house.store.images == {}
    assert len(house.sent(event_type=COMMIT_CANCEL)) >= 1


def test_a_store_that_stays_away_does_not_keep_the_answer_for_ever(house: House) -> None:
    house.container()
    image_id = str(uuid.uuid4())
    house.reserved(image_id)
    request_id = house.ask(image_id=image_id)
    house.trouble.plan("glance.describe", Unavailable("away"), times=1000)
    house.wait(60 + 200)
    assert house.fault(request_id)["image_deleted"] is False


def test_another_router_goes_on_with_what_one_left(house: House) -> None:
    house.container()
    # This one is killed right after it had taken the request.
    house.trouble.plan("courier.to_host", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        house.ask()
    house.router = house.another_router()
    house.clock.advance(LEASE.total_seconds())
    house.router.dispatcher.sweep()
    assert len(house.sent()) == 1


def test_a_request_that_is_delivered_again_goes_on_at_once(house: House) -> None:
    house.container()
    request_id = str(uuid.uuid4())
    house.trouble.plan("courier.to_host", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        house.ask(request_id=request_id)
    house.ask(request_id=request_id)
    assert len(house.sent()) == 1
    assert house.sent()[0].payload["request_id"] == request_id


def test_both_routers_see_one_dispatch_as_due_to_one_of_them(house: House) -> None:
    house.ask("nothing")
    house.clock.advance(LEASE.total_seconds())
    assert house.router.dispatcher.sweep() + house.another_router().dispatcher.sweep() == 1


# Cancelling


def test_a_cancel_is_forwarded_to_the_host(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.cancel(request_id, reason="changed my mind")
    (cancel,) = house.sent(event_type=COMMIT_CANCEL)
    assert cancel.payload == {"request_id": request_id, "reason": "changed my mind"}
    assert house.courier.told == []


def test_a_parked_request_is_cancelled_at_once(house: House) -> None:
    request_id = house.ask("nothing")
    house.cancel(request_id)
    assert house.fault(request_id)["code"] == 499
    house.container("nothing")
    house.wait(60)
    assert house.sent() == []
    assert len(house.courier.told) == 1


def test_a_snapshot_asked_for_at_its_host_is_cancelled_by_way_of_the_index(house: House) -> None:
    request_id = str(uuid.uuid4())
    sent = Event(
        COMMIT_REQUEST,
        {"container": "web", "image_name": "snap", "request_id": request_id},
        ALICE,
        request_id,
    )
    image_id = str(uuid.uuid4())
    start = house.snapshot(sent, copies=(Copy("glance", image_id),)).event(
        SNAPSHOT_START, status="queued"
    )
    house.say(start)
    house.cancel(request_id)
    assert [each.payload["request_id"] for each in house.sent(event_type=COMMIT_CANCEL)] == [
        request_id
    ]


@pytest.mark.parametrize(
    ("who", "code"), [(ALICE, None), (ADMIN, None), (MALLORY, 403), (Requester(), 403)]
)
def test_only_the_requesters_project_and_admins_cancel(
    house: House, who: Requester, code: int | None
) -> None:
    house.container()
    request_id = house.ask()
    house.cancel(request_id, who=who)
    assert len(house.sent(event_type=COMMIT_CANCEL)) == (code is None)
    assert [each["fault"]["code"] for each in house.answers(request_id)] == [code][: code or 0]


def test_cancelling_what_is_not_there_or_has_ended_is_answered(house: House) -> None:
    unknown = str(uuid.uuid4())
    house.cancel(unknown)
    assert house.fault(unknown)["code"] == 404

    ended = house.ask("nothing")
    house.wait(7)
    house.cancel(ended)
    assert sorted(each["fault"]["code"] for each in house.answers(ended)) == [404, 409]

    house.courier.hosts["host-x"] = []
    house.container("x", "host-x")
    gone = house.ask("x")
    del house.courier.hosts["host-x"]
    house.cancel(gone)
    assert house.fault(gone)["code"] == 409


def promise(house: House) -> str:
    """Let the REST service promise a snapshot whose request has not come yet; return its id."""
    payload = {"container": "web", "image_name": "snap", "request_id": str(uuid.uuid4())}
    request = Event(COMMIT_REQUEST, payload, ALICE)
    begun = Snapshot.begin(request, host="host-a", created_at=house.clock.now().isoformat())
    house.router.dispatcher.index.note([SnapshotRecord.promised(begun.public("queued"))])
    return payload["request_id"]


def test_a_cancellation_waits_a_while_for_the_request_that_it_has_overtaken(house: House) -> None:
    house.container()
    request_id = promise(house)
    with pytest.raises(Unavailable, match="not here yet"):
        house.cancel(request_id)
    assert house.courier.told == []
    house.ask(request_id=request_id)
    house.cancel(request_id)
    (cancel,) = house.sent(event_type=COMMIT_CANCEL)
    assert cancel.payload["request_id"] == request_id


def test_a_cancellation_does_not_wait_for_ever(house: House) -> None:
    request_id = promise(house)
    house.clock.advance(61)
    house.cancel(request_id)
    assert len(house.sent(event_type=COMMIT_CANCEL)) == 1


def test_cancelling_twice_is_cancelling_once(house: House) -> None:
    request_id = house.ask("nothing")
    house.cancel(request_id)
    house.say(house.courier.told[0])
    house.cancel(request_id)
    assert len(house.courier.told) == 1


# Deletions


def test_an_announced_deletion_is_told_to_the_host(house: House) -> None:
    ident = house.container(host="host-b")
    house.hear(CONTAINER_DELETE_START, {"uuid": ident})
    (told,) = house.sent("host-b", CONTAINER_DELETE_START)
    assert told.payload["container_uuid"] == ident
    assert told.payload["event_id"]
    house.hear(CONTAINER_DELETE_START, {"uuid": "unknown"})
    house.hear(CONTAINER_DELETE_START, {"uuid": "unknown", "host": "unknown"})
    assert house.courier.told == []


def test_a_deletion_stops_what_the_container_has_in_hand(house: House) -> None:
    ident = house.container()
    request_id = house.ask()
    house.hear(CONTAINER_DELETE, {"uuid": ident})
    (cancel,) = house.sent(event_type=COMMIT_CANCEL)
    assert cancel.payload["request_id"] == request_id
    assert "deleted" in cancel.payload["reason"]


# Events of all kinds


def test_what_is_of_no_interest_is_passed_over(house: House) -> None:
    for event_type in ("compute.instance.create.end", None, 5, ["x"], "container.weird", "\ud800"):
        house.hear(event_type, {"uuid": "x"})  # type: ignore[arg-type]
    assert house.router.dispatcher.index.containers() == []
    assert house.router.dispatcher.dispatches.dead_letters() == []


@pytest.mark.parametrize(
    "payload",
    [None, 5, [], {}, {"uuid": 5}, {"uuid": ""}, {"uuid": "a\x00"}, {"uuid": "x", "host": 5}],
)
def test_an_event_that_cannot_be_right_is_kept(house: House, payload: Any) -> None:
    house.hear(CONTAINER_EXISTS, payload)
    house.hear(COMMIT_ACCEPTED, payload)
    assert house.router.dispatcher.index.containers() == []
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 2


def test_a_versioned_object_is_unwrapped(house: House) -> None:
    ident = str(uuid.uuid4())
    data = {"uuid": ident, "name": "web", "host": "host-b", "status": "Running"}
    house.hear("container.start.end", {"zun_object.data": data})
    house.ask()
    assert [each.payload["container"] for each in house.sent("host-b")] == [ident]


def test_a_new_index_asks_for_everything(house: House) -> None:
    house.router.dispatcher.ask(None)
    assert [(each.type, dict(each.payload)) for each in house.courier.asked] == [
        (EXISTS_REQUEST, {})
    ]


# What is nobody's to delete, and whose request is whose


@pytest.mark.parametrize("who", [ALICE, MALLORY])
def test_a_good_image_is_not_deleted_for_a_request_under_its_id(
    house: House, who: Requester
) -> None:
    request_id, image_id = house.made()
    house.ask("no-such-container", who=who, request_id=request_id)
    house.ask("no-such-container", who=who, request_id=request_id, tag="another")
    house.wait(20)
    assert image_id in house.store.images
    assert {each["fault"]["code"] for each in house.answers(request_id)} == {409}


def test_a_request_that_a_host_has_already_is_not_sent_again(house: House) -> None:
    house.container()
    request_id, _ = house.made()
    house.ask(request_id=request_id)
    house.wait(100)
    assert house.sent() == []
    assert house.answers(request_id) == []


def test_nobody_cancels_anothers_snapshot_by_taking_its_id(house: House) -> None:
    house.container("mine", project_id="project-m")
    request_id, _ = house.made()
    house.ask("mine", who=MALLORY, request_id=request_id)
    house.cancel(request_id, who=MALLORY)
    assert house.sent(event_type=COMMIT_CANCEL) == []


def test_a_cancel_is_the_requesters_own_word_to_the_host(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.cancel(request_id)
    assert [each.requester for each in house.sent(event_type=COMMIT_CANCEL)] == [ALICE]


def test_an_image_that_is_told_of_before_it_was_reserved_is_not_taken_for_ours(
    house: House,
) -> None:
    theirs = str(uuid.uuid4())
    house.reserved(theirs, owner="project-v")
    house.store.upload(theirs, [b"data"])
    house.container(project_id="project-m")
    request_id = house.ask(who=MALLORY, image_id=theirs)
    begun = house.snapshot(house.sent()[0], copies=(Copy("glance", theirs),))
    house.say(begun.accepted())
    waits = begun.event(SNAPSHOT_PROGRESS, status="waiting", key="snapshot.reserve/1")
    house.hear(SNAPSHOT_EXISTS, dict(waits.payload), MALLORY)
    house.wait(3600 + 100, step=10)
    assert house.fault(request_id)["code"] == 504
    assert theirs in house.store.images


def test_what_a_host_reserved_and_could_not_tell_is_deleted(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.say(house.snapshot(house.sent()[0]).accepted())
    house.reserved(image_id_for(request_id))
    house.wait(3600 + 100, step=10)
    assert house.fault(request_id)["image_deleted"] is True
    assert house.store.images == {}


def test_an_image_out_of_the_routers_reach_is_not_said_to_be_deleted(house: House) -> None:
    bare = replace(house.router.dispatcher.services, stores={}, default_stores=())
    house.router = replace(house.router, dispatcher=replace(house.router.dispatcher, services=bare))
    house.container()
    image_id = str(uuid.uuid4())
    house.reserved(image_id)
    request_id = house.ask(image_id=image_id)
    house.wait(100)
    assert house.fault(request_id)["image_deleted"] is False


def test_another_projects_word_under_the_same_id_is_not_the_hosts_answer(house: House) -> None:
    house.container()
    request_id = house.ask()
    (sent,) = house.sent()
    house.say(house.finished(replace(sent, requester=MALLORY)).accepted())
    assert house.state(request_id) is DispatchState.SENT


# Odd moments


def test_a_host_that_works_on_it_is_not_silent(house: House) -> None:
    house.container()
    request_id = house.ask()
    house.wait(71)
    assert house.sent(event_type=EXISTS_REQUEST)
    begun = house.snapshot(
        house.sent()[0], copies=(Copy("glance", str(uuid.uuid4())),), phase="uploading"
    )
    house.hear(
        SNAPSHOT_EXISTS, dict(begun.event(SNAPSHOT_PROGRESS, status="saving", key="1").payload)
    )
    house.wait(100)
    assert house.answers(request_id) == []
    assert house.state(request_id) is DispatchState.ACCEPTED


def test_a_deadline_at_the_end_of_time_is_a_deadline(house: House) -> None:
    house.container()
    request_id = house.ask(deadline="9999-12-31T23:59:59Z")
    house.say(house.snapshot(house.sent()[0]).accepted())
    assert house.state(request_id) is DispatchState.ACCEPTED


def test_a_request_that_was_on_its_way_keeps_its_container(house: House) -> None:
    first = house.container("web", "host-a")
    house.trouble.plan("courier.to_host", Unavailable("the confirm was lost"))
    house.ask()
    house.hear("container.rename.end", {"container_uuid": first, "container_name": "old"})
    house.container("web", "host-b")
    house.wait(3)
    assert [each.payload["container"] for each in house.sent("host-a")] == [first]
    assert house.sent("host-b") == []


def test_a_bus_that_was_away_costs_a_host_none_of_its_time(house: House) -> None:
    house.container()
    house.trouble.plan("courier.to_host", Unavailable("away"), times=90)
    request_id = house.ask()
    house.wait(100)
    assert house.answers(request_id) == []
    (sent,) = house.sent()
    assert datetime.fromisoformat(sent.payload["accept_by"]) > house.clock.now()


def test_a_dispatch_that_breaks_does_not_hold_up_the_others(house: House) -> None:
    house.container("a", "host-a")
    house.container("b", "host-b")
    queues, house.courier.hosts = house.courier.hosts, {}
    house.ask("a")
    house.ask("b")
    house.courier.hosts = queues
    house.trouble.plan("courier.to_host", ZeroDivisionError("a defect"))
    house.wait(3)
    assert len(house.sent("host-a") + house.sent("host-b")) == 1
    house.wait(LEASE.total_seconds())
    assert len(house.sent("host-a")) == len(house.sent("host-b")) == 1


def test_the_hosts_own_name_counts_for_a_deletion(house: House) -> None:
    ident = house.container(host="host-b")
    house.hear(CONTAINER_DELETE_START, {"uuid": ident, "host": "host-b.example.org"})
    assert len(house.sent("host-b", CONTAINER_DELETE_START)) == 1


# Restores


def test_a_restore_goes_to_the_snapshots_host(house: House) -> None:
    made, _ = house.made(host="host-b")
    for ident in (made, snapshot_id_for(made), made.upper()):
        request_id = house.restore(snapshot_id=ident, name="web-2")
        sent = house.sent("host-b", RESTORE_REQUEST)[-1]
        now = house.clock.now()
        assert sent.payload == {
            "request_id": request_id,
            "snapshot_id": ident,
            "name": "web-2",
            "store": "glance",
            "host": "host-b",
            "accept_by": (now + PATIENCE.host).isoformat(),
            "deadline": (now + PATIENCE.deadline).isoformat(),
        }
        assert sent.requester == ALICE
        assert house.state(request_id) is DispatchState.SENT
    assert house.courier.told == []


@pytest.mark.parametrize(
    "image", [{"snapshot_id": None}, {"image_id": str(uuid.uuid4())}, {"image": "web:v1"}]
)
def test_a_restore_goes_to_the_host_it_names(house: House, image: dict[str, Any]) -> None:
    made, _ = house.made(host="host-b")
    house.restore(host="host-a", **{name: value or made for name, value in image.items()})
    assert len(house.sent("host-a", RESTORE_REQUEST)) == 1
    assert house.sent("host-b", RESTORE_REQUEST) == []


def test_a_snapshot_that_the_index_does_not_know_may_be_restored_on_a_named_host(
    house: House,
) -> None:
    house.restore(snapshot_id=str(uuid.uuid4()), host="host-a")
    assert len(house.sent("host-a", RESTORE_REQUEST)) == 1


@pytest.mark.parametrize("image", [{"image_id": str(uuid.uuid4())}, {"image": "web:v1"}])
def test_an_image_without_a_host_is_refused_at_once(house: House, image: dict[str, Any]) -> None:
    request_id = house.restore(**image)
    (answer,) = house.answers(request_id)
    assert (answer["fault"]["code"], answer["host"]) == (400, "router-1")
    assert answer["fault"]["message"].startswith("/host: expected")
    assert answer["restore_id"] != restore_id_for(request_id)
    assert house.router.dispatcher.dispatches.get(request_id) is None
    assert len(house.router.dispatcher.dispatches.dead_letters()) == 1


def test_a_snapshot_nobody_knows_is_400_once_it_cannot_be_told_of_any_more(house: House) -> None:
    ident = str(uuid.uuid4())
    request_id = house.restore(snapshot_id=ident)
    house.wait(3)
    assert house.answers(request_id) == []
    house.wait(4)
    fault = house.fault(request_id)
    assert fault["code"] == 400
    assert fault["message"].startswith("/host: expected a host, for no snapshot")
    assert ident in fault["message"]
    assert house.courier.asked == []  # no agent knows more


def test_a_snapshot_told_of_in_time_is_restored(house: House) -> None:
    later = str(uuid.uuid4())
    request_id = house.restore(snapshot_id=later)
    house.made(request_id=later)
    house.wait(1)
    assert [each.id for each in house.sent("host-a", RESTORE_REQUEST)] == [request_id]


@pytest.mark.parametrize("where", [{}, {"host": "host-a"}])
@pytest.mark.parametrize(
    ("who", "allowed"), [(ALICE, True), (ADMIN, True), (MALLORY, False), (Requester(), False)]
)
def test_only_the_snapshots_project_and_admins_restore(
    house: House, who: Requester, where: dict[str, str], *, allowed: bool
) -> None:
    made, _ = house.made()
    request_id = house.restore(who=who, snapshot_id=made, **where)
    house.wait(7)
    if allowed:
        assert len(house.sent("host-a", RESTORE_REQUEST)) == 1
        return
    fault = house.fault(request_id)
    assert (fault["code"], fault["message"]) == (
        404,
        f"/snapshot_id: no snapshot {made} is known",
    )
    assert house.sent("host-a", RESTORE_REQUEST) == []


@pytest.mark.parametrize(
    ("event_type", "status", "words"),
    [
        (SNAPSHOT_PROGRESS, "saving", "has not ended"),
        (SNAPSHOT_ERROR, "error", "has failed"),
        (SNAPSHOT_PREFLIGHT, "preflight", "was a dry run"),
    ],
)
def test_a_snapshot_without_an_image_is_409(
    house: House, event_type: str, status: str, words: str
) -> None:
    house.container()
    request_id = house.ask()
    (sent,) = house.sent()
    if event_type == SNAPSHOT_PROGRESS:
        house.say(house.snapshot(sent, phase="uploading").event(event_type, status=status))
    elif event_type == SNAPSHOT_ERROR:
        fault = Fault(413, "TooLarge", "full", retryable=False, phase="x", image_deleted=True)
        failed = replace(house.finished(sent), fault=fault)
        house.say(failed.event(event_type, status=status, duration_ms=1))
    else:
        told = {"preflight": preflight(), "duration_ms": 1, "image_id": None}
        house.say(house.finished(sent).event(event_type, status=status, **told))
    restore_id = house.restore(snapshot_id=request_id)
    house.wait(7)
    fault_told = house.fault(restore_id)
    assert fault_told["code"] == 409
    assert words in fault_told["message"]


def test_a_silent_host_is_504_and_its_restore_withdrawn(house: House) -> None:
    made, _ = house.made()
    request_id = house.restore(snapshot_id=made, name="web-2", metadata={"a": "b"})
    house.wait(60)
    assert house.answers(request_id) == []
    house.wait(12)
    (answer,) = house.answers(request_id)
    assert answer["fault"]["code"] == 504
    assert answer["fault"]["image_deleted"] is None
    assert answer["restore_id"] == restore_id_for(request_id)
    assert (answer["host"], answer["container_name"], answer["metadata"]) == (
        "host-a",
        "web-2",
        {"a": "b"},
    )
    assert answer["duration_ms"] >= 60_000
    (cancel,) = house.sent("host-a", RESTORE_CANCEL)
    assert cancel.payload["answered"] is True
    assert cancel.payload["request_id"] == request_id
    assert cancel.requester == replace(ALICE, is_admin=True)
    assert house.sent("host-a", COMMIT_CANCEL) == house.sent("host-a", EXISTS_REQUEST) == []
    assert house.state(request_id) is DispatchState.ENDED
    house.wait(100)
    assert len(house.courier.told) == 1


def test_a_host_that_took_the_restore_has_until_the_deadline(house: House) -> None:
    made, _ = house.made()
    request_id = house.restore(snapshot_id=made)
    (sent,) = house.sent("host-a", RESTORE_REQUEST)
    house.say(house.restoring(sent).accepted())
    assert house.state(request_id) is DispatchState.ACCEPTED
    house.wait(3600, step=60)
    assert house.answers(request_id) == []
    house.wait(120, step=60)
    assert house.fault(request_id)["code"] == 504


def test_what_a_host_tells_of_a_restore_is_in_the_index_and_ends_it(house: House) -> None:
    made, _ = house.made()
    request_id = house.restore(snapshot_id=made)
    (sent,) = house.sent("host-a", RESTORE_REQUEST)
    restoring = house.restoring(sent)
    index = house.router.dispatcher.index
    house.say(restoring.accepted())
    assert index.restore(request_id) is None
    begun = replace(restoring, phase="downloading")
    house.say(begun.event(RESTORE_START, status="loading"))
    assert house.state(request_id) is DispatchState.ACCEPTED
    house.clock.advance(1)
    house.say(begun.event(RESTORE_PROGRESS, status="loading", bytes_done=5))
    known = index.find_restore(restore_id_for(request_id))
    assert known is not None
    assert (known.payload["status"], known.payload["bytes_done"]) == ("loading", 5)
    house.say(house.restored(sent).event(RESTORE_END, status="active", duration_ms=1))
    assert house.state(request_id) is DispatchState.ENDED
    # Late words, and a router that asks too late, change nothing.
    house.say(begun.event(RESTORE_PROGRESS, status="loading", bytes_done=9, key="late"))
    known = index.restore(request_id)
    assert known is not None
    assert known.payload["status"] == "active"
    house.wait(5000, step=60)
    assert house.answers(request_id) == []


def test_the_answer_to_a_refused_restore_is_not_taken_for_the_outcome(house: House) -> None:
    made, _ = house.made()
    request_id = house.restore(snapshot_id=made)
    house.restore(request_id=request_id, snapshot_id=made, name="another")
    (refusal,) = house.courier.told
    assert refusal.payload["fault"]["code"] == 409
    house.say(refusal)
    assert house.state(request_id) is DispatchState.SENT
    assert house.router.dispatcher.index.restores() == []


def test_one_id_for_a_commit_and_a_restore_is_a_conflict(house: House) -> None:
    house.container()
    made, _ = house.made()
    request_id = house.ask()
    house.restore(request_id=request_id, snapshot_id=made)
    assert house.fault(request_id)["code"] == 409
    assert house.sent("host-a", RESTORE_REQUEST) == []
    house.cancel(request_id, event_type=RESTORE_CANCEL)
    assert house.sent("host-a", RESTORE_CANCEL) == []
    assert house.state(request_id) is DispatchState.SENT


def test_a_host_that_tells_of_a_restore_has_not_taken_the_commit_of_that_id(house: House) -> None:
    house.container()
    request_id = house.ask()
    payload = {"request_id": request_id, "snapshot_id": str(uuid.uuid4())}
    foreign = house.restored(Event(RESTORE_REQUEST, payload, ALICE))
    house.say(foreign.accepted())
    house.say(foreign.event(RESTORE_END, status="active", duration_ms=1))
    assert house.state(request_id) is DispatchState.SENT


def test_a_restore_that_a_host_has_already_is_not_sent_again(house: House) -> None:
    made, _ = house.made()
    payload = {"request_id": str(uuid.uuid4()), "snapshot_id": snapshot_id_for(made)}
    direct = house.restoring(Event(RESTORE_REQUEST, payload, ALICE))
    house.say(replace(direct, phase="downloading").event(RESTORE_START, status="loading"))
    house.restore(**payload)
    house.restore(**{**payload, "snapshot_id": made})
    assert house.sent("host-a", RESTORE_REQUEST) == []
    assert house.courier.told == []
    house.restore(who=MALLORY, **payload)
    house.restore(**{**payload, "snapshot_id": str(uuid.uuid4())})
    assert [each.payload["fault"]["code"] for each in house.courier.told] == [409, 409]


def test_a_restore_is_cancelled_on_its_host(house: House) -> None:
    made, _ = house.made()
    request_id = house.restore(snapshot_id=made)
    house.cancel(request_id, event_type=RESTORE_CANCEL, reason="enough")
    (cancel,) = house.sent("host-a", RESTORE_CANCEL)
    assert cancel.payload == {"request_id": request_id, "reason": "enough"}
    assert house.sent("host-a", COMMIT_CANCEL) == []


def test_a_restore_that_waits_for_its_snapshot_is_cancelled_at_once(house: House) -> None:
    request_id = house.restore(snapshot_id=str(uuid.uuid4()))
    house.cancel(request_id, event_type=RESTORE_CANCEL)
    assert house.fault(request_id)["code"] == 499


def test_only_the_requesters_project_cancels_a_restore(house: House) -> None:
    made, _ = house.made()
    request_id = house.restore(snapshot_id=made)
    house.cancel(request_id, MALLORY, event_type=RESTORE_CANCEL)
    assert house.sent("host-a", RESTORE_CANCEL) == []
    (answer,) = house.answers(request_id)
    assert answer["fault"]["code"] == 403


@pytest.mark.parametrize("parked", [False, True])
def test_either_kind_of_cancellation_stops_either_kind_of_request(
    house: House, *, parked: bool
) -> None:
    """A host looks only at the id, too."""
    house.container()
    made, _ = house.made()
    committed = house.ask("nothing" if parked else "web")
    restored = house.restore(snapshot_id=str(uuid.uuid4()) if parked else made)
    house.cancel(committed, event_type=RESTORE_CANCEL)
    house.cancel(restored, event_type=COMMIT_CANCEL)
    if parked:
        assert [house.fault(each)["code"] for each in (committed, restored)] == [499, 499]
        return
    assert house.courier.told == []
    (one,) = house.sent("host-a", COMMIT_CANCEL)
    (other,) = house.sent("host-a", RESTORE_CANCEL)
    assert one.payload["request_id"] == committed
    assert other.payload["request_id"] == restored


def test_a_cancellation_is_refused_as_that_of_what_it_names(house: House) -> None:
    house.container()
    made, _ = house.made()
    committed, restored = house.ask(), house.restore(snapshot_id=made)
    house.cancel(committed, MALLORY, event_type=RESTORE_CANCEL)
    house.cancel(restored, MALLORY, event_type=COMMIT_CANCEL)
    assert [each.type for each in house.courier.told] == [SNAPSHOT_ERROR, RESTORE_ERROR]
    assert [house.fault(each)["code"] for each in (committed, restored)] == [403, 403]


def test_where_an_id_is_of_both_kinds_the_cancellation_says_which(house: House) -> None:
    made, _ = house.made()
    request_id = str(uuid.uuid4())
    payload = {"snapshot_id": made, "request_id": request_id}
    begun = house.restoring(Event(RESTORE_REQUEST, payload, ALICE, request_id), "host-b")
    house.say(replace(begun, phase="downloading").event(RESTORE_START, status="loading"))
    house.container()
    house.ask(request_id=request_id)
    house.cancel(request_id, event_type=RESTORE_CANCEL)
    assert len(house.sent("host-b", RESTORE_CANCEL)) == 1
    house.cancel(request_id, event_type=COMMIT_CANCEL)
    assert len(house.sent("host-a", COMMIT_CANCEL)) == 1


GLANCE, HOSTS_OWN = {"name": "glance"}, {"name": "directory"}
HUB = {"name": "registry", "repository": "docker.io/team/snap"}
LOST = {"name": "registry", "repository": "docker.io/team/snap", "status": "error"}


@pytest.mark.parametrize(
    ("copies", "host", "named", "sent"),
    [
        ([HUB], "host-a", {}, ("registry", "docker.io/team/snap")),
        ([HUB], "host-b", {}, ("registry", "docker.io/team/snap")),
        ([HUB, HUB | {"name": "other"}], "host-a", {}, ("registry", "docker.io/team/snap")),
        ([HUB, HOSTS_OWN], "host-b", {}, ("registry", "docker.io/team/snap")),
        ([HUB, HOSTS_OWN], "host-a", {}, (None, None)),
        ([HUB, GLANCE], "host-a", {}, (None, None)),
        ([LOST, GLANCE], "host-a", {}, ("glance", None)),
        ([HOSTS_OWN], "host-a", {}, ("directory", None)),
        ([HOSTS_OWN], "host-b", {}, (None, None)),
        ([HUB], "host-a", {"store": "glance"}, ("glance", None)),
        ([HUB], "host-a", {"repository": "team/x"}, (None, "team/x")),
    ],
)
def test_a_host_is_told_where_the_image_is_that_it_could_not_find(
    house: House,
    copies: list[dict[str, str]],
    host: str,
    named: dict[str, str],
    sent: tuple[str | None, str | None],
) -> None:
    made = finished_in(house, copies)
    house.restore(snapshot_id=made, host=host, **named)
    (request,) = house.sent(host, RESTORE_REQUEST)
    assert (request.payload.get("store"), request.payload.get("repository")) == sent


def finished_in(house: House, copies: list[dict[str, str]]) -> str:
    """Let a host tell of a snapshot in some stores, active unless another status is given."""
    payload = {"container": "c" * 64, "image_name": "snap", "request_id": str(uuid.uuid4())}
    finished = house.finished(Event(COMMIT_REQUEST, payload, ALICE))
    (copy,) = finished.copies
    made = replace(finished, copies=tuple(replace(copy, **each) for each in copies))
    house.say(made.event(SNAPSHOT_END, status="active", duration_ms=1))
    return payload["request_id"]


def test_a_request_is_the_same_wherever_its_image_is_by_now(house: House) -> None:
    """What the router adds is no part of what was asked, and stays as it was sent first."""
    made = finished_in(house, [HUB])
    house.trouble.plan("courier.to_host", Unavailable("away"))
    request_id = house.restore(snapshot_id=made)
    payload = {"container": "c" * 64, "image_name": "snap", "request_id": made}
    house.say(
        house.finished(Event(COMMIT_REQUEST, payload, ALICE)).event(
            SNAPSHOT_EXISTS, status="active", key="later", duration_ms=1
        )
    )
    house.restore(snapshot_id=made, request_id=request_id)
    house.wait(2)
    assert house.courier.told == []
    assert {each.payload["store"] for each in house.sent("host-a", RESTORE_REQUEST)} == {"registry"}


def test_a_host_that_nobody_ever_told_of_is_404(house: House) -> None:
    made, _ = house.made()
    request_id = house.restore(snapshot_id=made, host="nowhere")
    house.wait(4)
    assert house.answers(request_id) == []
    house.wait(4)
    fault = house.fault(request_id)
    assert (fault["code"], fault["message"]) == (404, "/host: no host 'nowhere' is known")


def test_a_host_that_is_known_and_has_no_queue_is_waited_for(house: House) -> None:
    made, _ = house.made(host="host-c")
    request_id = house.restore(snapshot_id=made)
    house.wait(20)
    assert house.answers(request_id) == []
    house.courier.hosts["host-c"] = []
    house.wait(2)
    assert [each.id for each in house.sent("host-c", RESTORE_REQUEST)] == [request_id]
    other = house.restore(snapshot_id=made)
    del house.courier.hosts["host-c"]
    late = house.restore(snapshot_id=made)
    house.wait(80)
    assert {house.fault(each)["code"] for each in (other, late)} == {504}


def test_a_preflight_ends_a_dry_run_and_leaves_no_image_to_delete(house: House) -> None:
    house.container()
    request_id = house.ask(dry_run=True, stores=["glance"])
    (sent,) = house.sent()
    told = {"preflight": preflight(), "duration_ms": 1, "image_id": None}
    done = house.finished(sent).event(SNAPSHOT_PREFLIGHT, status="preflight", **told)
    house.say(done)
    assert house.state(request_id) is DispatchState.ENDED
    silent = house.ask(dry_run=True, stores=["glance"])
    house.reserved(image_id_for(silent))  # somebody else's, by whatever chance
    house.wait(100)
    assert house.fault(silent)["code"] == 504
    assert image_id_for(silent) in house.store.images


# What it knows of its own ears


class Waiting:
    """A listener, as its router sees it."""

    def __init__(self) -> None:
        self.listening, self.messages, self.looks = True, 0, 0

    def backlog(self) -> int:
        self.looks += 1
        if self.messages < 0:
            raise Unavailable("away")
        return self.messages


def ears_of(waiting: Waiting, quiet_seconds: float = 0.0) -> ServiceEars:
    ears = ServiceEars(lambda: waiting.listening, waiting.backlog, quiet_seconds)
    ears.look()
    return ears


def test_all_is_heard_when_nothing_waits_and_nothing_interrupted() -> None:
    assert ears_of(Waiting()).complete()
    assert not ears_of(Waiting(), quiet_seconds=3600.0).complete()
    assert ears_of(Waiting(), quiet_seconds=3600.0).caught_up()


def test_what_waits_or_cannot_be_known_is_not_heard() -> None:
    for messages in (1, -1):
        waiting = Waiting()
        waiting.messages = messages
        ears = ears_of(waiting)
        assert not ears.caught_up()
        assert not ears.complete()


def test_an_interruption_counts_until_it_has_been_quiet_for_long_enough() -> None:
    waiting = Waiting()
    ears = ears_of(waiting)
    ears.interrupted()
    assert ears.caught_up()
    assert not ears.complete()
    ears.look()
    assert ears.complete()
    waiting.listening = False
    ears.look()
    assert not ears.caught_up()
    assert not ears.complete()


def test_the_broker_is_asked_once_for_each_look() -> None:
    waiting = Waiting()
    ears = ears_of(waiting)
    for _ in range(5):
        ears.complete()
    assert waiting.looks == 1
