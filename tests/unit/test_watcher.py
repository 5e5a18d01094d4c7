"""The watcher on twins: nothing that happens to containers is missed, and nothing is told twice."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.twins import ALICE, HOST, Trouble, checked
from tintype.adapters import cron
from tintype.adapters.clock import ManualClock
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.adapters.sqlite_watch_log import SqliteWatchLog
from tintype.core.engine import CaptureOptions, Container, ContainerState, EngineAction, EngineEvent
from tintype.core.errors import Refused, Unavailable
from tintype.core.events import (
    COMMIT_REQUEST,
    CONTAINER_CREATE,
    CONTAINER_DELETE,
    CONTAINER_DELETE_START,
    CONTAINER_EXISTS,
    CONTAINER_PAUSE,
    CONTAINER_RENAME,
    CONTAINER_SCHEDULE,
    CONTAINER_START,
    CONTAINER_STOP,
    CONTAINER_UNPAUSE,
    CONTAINER_UPDATE,
    SNAPSHOT_ERROR,
    SNAPSHOT_EXISTS,
    SNAPSHOT_PROGRESS,
    Event,
    Requester,
)
from tintype.core.lifecycle import Teller, nanoseconds
from tintype.core.ownership import Ownership
from tintype.core.ports import Handler, Services
from tintype.core.rules import STOP, Rule
from tintype.core.runner import Backoff
from tintype.core.snapshot import Snapshot
from tintype.core.steps import rejection
from tintype.core.watcher import OVERLAP, QUIET, Watched, Watcher
from tintype.handlers import TRIGGERS
from tintype.schemas import validate

PATIENCE = 20.0
"""Seconds in which a thread that works at all has done its work."""

HOUR = 3600.0
ZUN = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
RUNNING, STOPPED, PAUSED = ContainerState.RUNNING, ContainerState.STOPPED, ContainerState.PAUSED
OWNED = {"tintype.project_id": "project-a", "tintype.user_id": "alice"}
ON_STOP = {**OWNED, "tintype.snapshot.on": "stop"}
BEFORE_DELETE = {**OWNED, "tintype.snapshot.on": "before-delete"}
HOURLY = {**OWNED, "tintype.snapshot.schedule": "0 * * * *"}


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that threads do."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        pause.wait(0.01)


class LoggedEngine(MemoryEngine):
    """An engine whose streams end with what has happened, unless they are to go on."""

    live = False
    watched_since: int | None = None
    name_moved_on = False

    @contextmanager
    def watch(self, since: int, seconds: float) -> Iterator[Iterator[EngineEvent]]:
        self.watched_since = since
        with super().watch(since, seconds if self.live else 0) as events:
            yield events

    def containers(self) -> Sequence[Container]:
        found = super().containers()
        if not self.name_moved_on:
            return found
        # What the Docker Engine lists when the name has been given to another image.
        return [Container(**{**fields(each), "image": each.image_id}) for each in found]

    def forget_events(self) -> None:
        """Remember nothing of what has happened, as after a restart of the engine."""
        self._events._log.clear()

    def change(self, engine_id: str, action: EngineAction) -> None:
        """Let something happen for which a test of the engine has no word."""
        self._events.append(action, self.by_id[engine_id].described)


def fields(container: Container) -> dict[str, Any]:
    return {name: getattr(container, name) for name in container.__dataclass_fields__}


@dataclass
class WatchBench:
    """One watcher on twins; without its threads, unless a test starts them."""

    path: Path | str = ":memory:"
    triggers: Mapping[str, Handler] = field(default_factory=lambda: TRIGGERS)
    rules: Sequence[Rule] = ()
    trouble: Trouble = field(default_factory=Trouble)
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime.now(UTC)))
    deleted: list[tuple[str, list[str]]] = field(default_factory=list)
    """Containers whose requests were to be stopped, and the requests that were spared."""
    snapshots: list[Event] = field(default_factory=list)
    recorded: int = 0
    on_deleted: Callable[[str], None] = lambda engine_id: None
    engine: LoggedEngine = field(init=False)
    journal: SqliteJournal = field(init=False)
    watcher: Watcher = field(init=False)

    def __post_init__(self) -> None:
        self.engine = LoggedEngine(fail=self.trouble.hook("engine"))
        self.journal = SqliteJournal(self.path)
        self.begin()

    @property
    def services(self) -> Services:
        return Services(
            engine=self.engine,
            stores={},
            clock=self.clock,
            host=HOST,
            default_stores=(),
            ownership=Ownership(),
            cron=cron.next_after,
            rules=self.rules,
        )

    @property
    def log(self) -> SqliteWatchLog:
        return SqliteWatchLog(self.journal)

    def begin(self) -> None:
        """Begin a new run of the agent, without its threads."""
        self.watcher = Watcher(
            self.engine,
            self.log,
            teller=Teller(HOST, Ownership()),
            services=self.services,
            triggers=self.triggers,
            watched=Watched(self._record, self._stop_requests, lambda: self.snapshots),
            backoff=Backoff(0.01, 0.02),
            exists_seconds=HOUR,
        )
        self.watcher._known = dict(self.log.known())

    def restart(self) -> None:
        """Let the agent be killed, and begin anew on what is on disk."""
        if self.path != ":memory:":
            self.journal.close()
            self.journal = SqliteJournal(self.path)
        self.begin()

    def _record(self) -> None:
        self.recorded += 1

    def _stop_requests(self, engine_id: str, spared: Collection[str]) -> None:
        self.on_deleted(engine_id)
        self.deleted.append((engine_id, list(spared)))

    def follow(self) -> list[Event]:
        """Take what has happened; return what is told thereby."""
        return self._new(self.watcher._follow)

    def tell(self) -> list[Event]:
        """Do what is due; return what is told thereby."""
        return self._new(self.watcher._tell)

    def _new(self, do: Callable[[], None]) -> list[Event]:
        before = len(self.told())
        do()
        return self.told()[before:]

    def told(self, *event_types: str) -> list[Event]:
        """Return what is in the outbox, in order, each event checked against its schema."""
        events = [row.event for row in self.journal.pending(10_000)]
        for event in events:
            if event.type in (COMMIT_REQUEST, SNAPSHOT_EXISTS):
                assert validate(event.type, event.payload) == []
            else:
                checked(event)
        return [event for event in events if not event_types or event.type in event_types]

    @contextmanager
    def running(self) -> Iterator[Watcher]:
        """Let the watcher's threads run."""
        self.engine.live = True
        self.watcher.start()
        try:
            yield self.watcher
        finally:
            self.watcher.stop()
            self.engine.lose_connection()
            for thread in self.watcher._threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()


@pytest.fixture
def bench() -> WatchBench:
    """A host that is watched from now on."""
    bench = WatchBench()
    bench.follow()
    return bench


@pytest.fixture
def on_disk(tmp_path: Path) -> WatchBench:
    bench = WatchBench(path=tmp_path / "journal.sqlite")
    bench.follow()
    return bench


def kinds(events: Iterable[Event]) -> list[str]:
    return [event.type for event in events]


# What happens is told


def test_every_action_becomes_its_event_in_order(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING, labels=OWNED)
    ident = made.engine_id
    bench.engine.by_id[ident].state = PAUSED
    bench.engine.by_id[ident].state = RUNNING
    bench.engine.change(ident, EngineAction.UPDATE)
    bench.engine.stop(ident, exit_code=3)
    bench.engine.rename(ident, "db")
    bench.engine.remove(ident)

    told = bench.follow()
    assert kinds(told) == [
        CONTAINER_CREATE,
        CONTAINER_START,
        CONTAINER_PAUSE,
        CONTAINER_UNPAUSE,
        CONTAINER_UPDATE,
        CONTAINER_STOP,
        CONTAINER_RENAME,
        CONTAINER_DELETE,
    ]
    assert [event.payload["state"] for event in told] == [
        "Other",
        "Running",
        "Paused",
        "Running",
        None,
        "Stopped",
        None,
        None,
    ]
    assert {event.payload["container_uuid"] for event in told} == {ident}
    assert [event.payload["exit_code"] for event in told][5] == 3
    moments = [event.payload["occurred_at"] for event in told]
    assert moments == sorted(moments)
    assert bench.log.known() == {}


def test_an_event_says_whose_and_what_the_container_is(bench: WatchBench) -> None:
    bench.engine.add(f"zun-{ZUN}", RUNNING, labels=OWNED, image="nginx:1.27")
    created, started = bench.follow()
    assert created.payload["container_uuid"] == started.payload["container_uuid"] == ZUN
    assert created.payload["base_image"] == "nginx:1.27"
    assert created.payload["host"] == HOST
    assert created.requester == Requester("project-a", "alice")
    assert created.payload["tenant_id"] == "project-a"


def test_containers_side_by_side_are_told_apart(bench: WatchBench) -> None:
    one, other = bench.engine.add("one", RUNNING), bench.engine.add("other", RUNNING)
    bench.engine.stop(one.engine_id)
    told = bench.follow()
    assert [event.payload["container_name"] for event in told] == [
        "one",
        "one",
        "other",
        "other",
        "one",
    ]
    known = bench.log.known()
    assert known[one.engine_id].payload["state"] == "Stopped"
    assert known[other.engine_id].payload["state"] == "Running"


def test_what_is_remembered_is_how_the_container_is(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING, labels=OWNED)
    bench.engine.stop(made.engine_id, 9)
    bench.follow()
    (known,) = bench.log.known().values()
    assert known.payload == Teller(HOST, Ownership()).describe(bench.engine.inspect(made.engine_id))


def test_a_container_that_was_gone_before_it_was_looked_at_is_told_all_the_same(
    bench: WatchBench,
) -> None:
    made = bench.engine.add("web", STOPPED, labels=OWNED)
    bench.engine.remove(made.engine_id)
    told = bench.follow()
    assert kinds(told) == [CONTAINER_CREATE, CONTAINER_START, CONTAINER_STOP, CONTAINER_DELETE]
    assert {event.payload["project_id"] for event in told} == {"project-a"}
    assert bench.log.known() == {}


def test_each_thing_recorded_is_said_to_the_relay(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING)
    bench.follow()
    assert bench.recorded == 2
    bench.follow()
    assert bench.recorded == 2, "nothing new, nobody woken"


# A container that the engine cannot tell of


def lose(bench: WatchBench, made: Container) -> None:
    """Let the engine answer with an error whenever it is asked for a container."""
    inspect = bench.engine.inspect

    def inspect_others(ident: str) -> Container:
        if ident in (made.engine_id, made.uuid, made.name):
            raise Unavailable("container engine: RWLayer of container is unexpectedly nil")
        return inspect(ident)

    bench.engine.inspect = inspect_others  # type: ignore[method-assign]


@pytest.mark.parametrize("known", [True, False])
def test_what_happens_to_it_is_told_from_what_is_known_or_the_event_alone(
    bench: WatchBench, *, known: bool
) -> None:
    lost = bench.engine.add("lost", STOPPED, labels=OWNED)
    if known:
        bench.follow()
    lose(bench, lost)
    bench.engine.by_id[lost.engine_id].state = RUNNING
    bench.engine.change(lost.engine_id, EngineAction.UPDATE)
    bench.engine.rename(lost.engine_id, "renamed")
    bench.engine.add("web", RUNNING)
    bench.follow()

    told = [each for each in bench.told() if each.payload["container_uuid"] == lost.engine_id]
    assert kinds(told) == [
        CONTAINER_CREATE,
        CONTAINER_START,
        CONTAINER_STOP,
        CONTAINER_START,
        CONTAINER_UPDATE,
        CONTAINER_RENAME,
    ]
    assert {each.requester for each in told} == {Requester("project-a", "alice")}
    assert told[-1].payload["container_name"] == "renamed"
    assert kinds(bench.told())[-2:] == [CONTAINER_CREATE, CONTAINER_START]
    assert bench.log.known()[lost.engine_id].payload["state"] == "Running"


def test_an_ask_for_it_is_answered_from_what_is_known_and_stops_nothing(bench: WatchBench) -> None:
    lost = bench.engine.add(f"zun-{ZUN}", RUNNING, labels=OWNED)
    lose(bench, lost)
    bench.tell()
    for ident in (ZUN, lost.engine_id, lost.name):
        bench.clock.advance(1)
        bench.watcher.ask(ident)
        (told,) = bench.tell()
        assert (told.type, told.payload["container_uuid"]) == (CONTAINER_EXISTS, ZUN)
        assert told.payload["labels"] == OWNED
        assert bench.tell() == [], "the ask is dropped"


def test_an_ask_for_it_before_anything_is_known_is_dropped(bench: WatchBench) -> None:
    lost = bench.engine.add("lost", RUNNING)
    lose(bench, lost)
    bench.watcher.ask("lost")
    assert kinds(bench.tell()) == [CONTAINER_EXISTS], "by the pass"
    bench.clock.advance(HOUR)
    assert kinds(bench.tell()) == [CONTAINER_EXISTS]


def test_an_engine_that_does_not_answer_is_waited_for(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING)
    for call in ("engine.inspect", "engine.check"):
        bench.trouble.plan(call, Unavailable("away"), times=2)
    for _ in range(2):
        with pytest.raises(Unavailable):
            bench.follow()
    assert bench.told() == []
    assert kinds(bench.follow()) == [CONTAINER_CREATE, CONTAINER_START]


def test_schedules_are_looked_at_though_passes_and_asks_fail(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING, labels=HOURLY)
    bench.follow()
    bench.tell()
    for call in ("engine.containers", "engine.inspect", "engine.check"):
        bench.trouble.plan(call, Unavailable("away"), times=1000)
    bench.watcher.ask("web")
    for _ in range(3):
        bench.clock.advance(HOUR)
        with pytest.raises(Unavailable):
            bench.tell()
    assert len(bench.told(COMMIT_REQUEST)) == 3


# Names


def test_a_rename_tells_the_name_before(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    bench.engine.rename(made.engine_id, "db")
    (told,) = bench.follow()
    assert told.type == CONTAINER_RENAME
    assert told.payload["old_name"] == "web"
    assert told.payload["container_name"] == "db"
    assert bench.log.known()[made.engine_id].payload["container_name"] == "db"


def test_two_renames_in_a_row_are_told_as_they_were(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    bench.engine.rename(made.engine_id, "db")
    bench.engine.rename(made.engine_id, "cache")
    told = bench.follow()
    names = [(each.payload["old_name"], each.payload["container_name"]) for each in told]
    assert names == [("web", "db"), ("db", "cache")]


def test_a_rename_of_a_container_not_known_does_not_invent_its_name(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING)
    bench.engine.rename(made.engine_id, "db")
    created, started, renamed = bench.follow()
    assert created.payload["container_uuid"] == renamed.payload["container_uuid"]
    assert started.payload["container_name"] == "db", "when it was looked at it had this name"
    assert renamed.payload["old_name"] is None


def test_a_container_that_gets_a_name_of_zuns_is_another_one(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING, labels=OWNED)
    bench.follow()
    bench.engine.rename(made.engine_id, f"zun-{ZUN}")

    gone, renamed = bench.follow()
    assert (gone.type, gone.payload["container_uuid"]) == (CONTAINER_DELETE, made.engine_id)
    assert (renamed.type, renamed.payload["container_uuid"]) == (CONTAINER_RENAME, ZUN)
    assert renamed.payload["project_id"] == "project-a"
    assert bench.deleted == [], "it is there: what is in hand goes on"
    assert bench.log.known().keys() == {made.engine_id}

    bench.engine.remove(made.engine_id)
    *_, deleted = bench.follow()
    assert (deleted.type, deleted.payload["container_uuid"]) == (CONTAINER_DELETE, ZUN)


def test_an_images_name_once_told_is_kept_when_it_moves_on(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING, image="nginx:latest")
    bench.follow()
    bench.engine.name_moved_on = True
    (told,) = bench.tell()
    assert (told.type, told.payload["base_image"]) == (CONTAINER_EXISTS, "nginx:latest")


def test_an_images_name_that_was_never_told_is_its_digest(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING, image="nginx:latest")
    bench.engine.forget_events()
    bench.engine.name_moved_on = True
    (told,) = bench.tell()
    assert told.payload["base_image"] == made.image_id


# Resuming


def test_nothing_from_before_the_first_start_is_told_but_what_there_is() -> None:
    bench = WatchBench(clock=ManualClock(datetime.now(UTC) + timedelta(minutes=1)))
    made = bench.engine.add("web", STOPPED, labels=ON_STOP)
    assert bench.follow() == []
    (told,) = bench.tell()
    assert (told.type, told.payload["state"]) == (CONTAINER_EXISTS, "Stopped")
    assert bench.log.known().keys() == {made.engine_id}


def test_a_restart_loses_nothing_and_tells_nothing_twice(on_disk: WatchBench) -> None:
    bench = on_disk
    one = bench.engine.add("one", RUNNING)
    bench.follow()
    bench.engine.stop(one.engine_id)
    other = bench.engine.add("other", RUNNING)
    bench.restart()
    told = bench.follow()

    assert [(each.type, each.payload["container_name"]) for each in told] == [
        (CONTAINER_STOP, "one"),
        (CONTAINER_CREATE, "other"),
        (CONTAINER_START, "other"),
    ]
    known = bench.log.known()
    assert known[one.engine_id].payload["state"] == "Stopped"
    assert known[other.engine_id].payload["state"] == "Running"
    ids = [event.id for event in bench.told()]
    assert len(ids) == len(set(ids)) == 5


@pytest.mark.parametrize("taken", range(9))
def test_a_kill_after_any_event_loses_nothing(on_disk: WatchBench, taken: int) -> None:
    bench = on_disk
    made = bench.engine.add("web", RUNNING, labels=ON_STOP)
    bench.engine.by_id[made.engine_id].state = PAUSED
    bench.engine.stop(made.engine_id)
    bench.engine.rename(made.engine_id, "db")
    bench.engine.by_id[made.engine_id].state = RUNNING
    bench.engine.stop(made.engine_id)
    bench.engine.remove(made.engine_id)

    watcher = bench.watcher
    take, count = watcher._take, iter(range(100))

    def mortal(event: EngineEvent, resume_point: int) -> None:
        if next(count) == taken:
            raise KeyboardInterrupt
        take(event, resume_point)

    watcher._take = mortal  # type: ignore[method-assign]
    try:
        bench.follow()
    except KeyboardInterrupt:
        bench.restart()
        bench.follow()
    assert [kind for kind in kinds(bench.told()) if kind != COMMIT_REQUEST] == [
        CONTAINER_CREATE,
        CONTAINER_START,
        CONTAINER_PAUSE,
        CONTAINER_STOP,
        CONTAINER_RENAME,
        CONTAINER_START,
        CONTAINER_STOP,
        CONTAINER_DELETE,
    ]
    assert len(bench.told(COMMIT_REQUEST)) == 2
    assert [engine_id for engine_id, _ in bench.deleted][-1:] == [made.engine_id]
    assert bench.log.known() == {}


def test_the_stream_begins_before_the_last_event_that_was_taken(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING)
    bench.follow()
    last = bench.log.resume_point()
    assert last is not None
    bench.follow()
    assert bench.engine.watched_since == last - OVERLAP


def test_what_comes_out_of_order_is_told_too(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING)
    bench.engine.stop(made.engine_id)
    log = bench.engine._events._log
    started = log[1]
    del log[1]
    assert kinds(bench.follow()) == [CONTAINER_CREATE, CONTAINER_STOP]
    log.insert(1, started)
    assert kinds(bench.follow()) == [CONTAINER_START]
    last = bench.log.resume_point()
    assert last == log[-1].at, "it never goes back"


def test_the_overlap_repeats_nothing_within_a_run(bench: WatchBench) -> None:
    seen: list[Event] = []

    def count(event: Event, _: Services) -> Iterable[Event]:
        seen.append(event)
        return ()

    bench.triggers = dict.fromkeys([CONTAINER_CREATE, CONTAINER_START, CONTAINER_STOP], count)
    bench.begin()
    made = bench.engine.add("web", RUNNING)
    for _ in range(3):
        bench.follow()
    bench.engine.stop(made.engine_id)
    for _ in range(3):
        bench.follow()
    assert kinds(seen) == [CONTAINER_CREATE, CONTAINER_START, CONTAINER_STOP]


def test_an_event_that_could_not_be_recorded_is_taken_again(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING)
    bench.trouble.plan("engine.inspect", Unavailable("away"), skip=1)
    bench.trouble.plan("engine.check", Unavailable("away"))
    with pytest.raises(Unavailable):
        bench.follow()
    assert kinds(bench.told()) == [CONTAINER_CREATE]
    bench.engine.stop(made.engine_id)
    assert kinds(bench.follow()) == [CONTAINER_START, CONTAINER_STOP]


def test_a_host_on_which_nothing_happens_does_not_tell_its_past_at_every_start(
    on_disk: WatchBench,
) -> None:
    """In a month the journal has forgotten what it told: a snapshot would be made anew."""
    bench = on_disk
    made = bench.engine.add("web", RUNNING, labels=ON_STOP)
    bench.engine.stop(made.engine_id)
    bench.follow()
    assert len(bench.told(COMMIT_REQUEST)) == 1
    bench.clock.advance(QUIET / 10**9 + 10)
    bench.follow()
    bench.journal.confirm(bench.journal.pending(100))
    bench.journal.prune(datetime.now(UTC) + timedelta(days=31))

    bench.restart()
    assert bench.follow() == []


def test_the_resume_point_moves_on_only_as_far_as_was_watched(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING)
    bench.follow()
    last = bench.log.resume_point()
    bench.clock.advance(QUIET / 10**9 / 2)
    bench.follow()
    assert bench.log.resume_point() == last, "not for every window: each write waits for a disk"

    bench.clock.advance(QUIET / 10**9)
    began = nanoseconds(bench.clock.now())
    bench.follow()
    assert bench.log.resume_point() == began

    bench.clock.advance(QUIET / 10**9 * 2)
    bench.trouble.plan("engine.watch", Unavailable("away"))
    with pytest.raises(Unavailable):
        bench.follow()
    assert bench.log.resume_point() == began


# Full passes


def test_a_pass_tells_of_every_container_in_any_state(bench: WatchBench) -> None:
    bench.engine.add("a", RUNNING)
    bench.engine.add("b", STOPPED, labels=OWNED)
    bench.engine.add("c", ContainerState.OTHER)
    bench.engine.add("d", PAUSED)
    bench.engine.forget_events()
    told = bench.tell()
    assert set(kinds(told)) == {CONTAINER_EXISTS}
    assert {each.payload["container_name"]: each.payload["state"] for each in told} == {
        "a": "Running",
        "b": "Stopped",
        "c": "Other",
        "d": "Paused",
    }
    assert {each.payload["occurred_at"] for each in told} == {
        bench.clock.now().isoformat(timespec="microseconds")
    }
    assert len(bench.log.known()) == 4


def test_passes_come_when_they_are_due(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING)
    assert kinds(bench.tell()) == [CONTAINER_EXISTS]
    bench.clock.advance(HOUR - 1)
    assert bench.tell() == []
    bench.clock.advance(1)
    assert kinds(bench.tell()) == [CONTAINER_EXISTS]
    assert bench.tell() == []


def test_every_start_begins_with_a_pass(on_disk: WatchBench) -> None:
    on_disk.engine.add("web", RUNNING)
    on_disk.tell()
    on_disk.clock.advance(1)
    on_disk.restart()
    assert kinds(on_disk.tell()) == [CONTAINER_EXISTS]


def test_a_pass_that_failed_is_due_still(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING)
    bench.trouble.plan("engine.containers", Unavailable("away"), times=2)
    for _ in range(2):
        with pytest.raises(Unavailable):
            bench.tell()
    assert kinds(bench.tell()) == [CONTAINER_EXISTS]


def test_containers_removed_while_nobody_watched_are_told_deleted_once(
    on_disk: WatchBench,
) -> None:
    bench = on_disk
    made, stays = bench.engine.add("web", RUNNING, labels=OWNED), bench.engine.add("db", RUNNING)
    bench.follow()
    bench.engine.remove(made.engine_id)
    bench.engine.forget_events()
    bench.clock.advance(10)
    bench.restart()
    told = bench.tell()

    assert kinds(told) == [CONTAINER_DELETE, CONTAINER_EXISTS]
    gone, exists = told
    assert gone.payload["container_uuid"] == made.engine_id
    assert gone.payload["project_id"] == "project-a"
    assert exists.payload["container_uuid"] == stays.engine_id
    assert bench.deleted == [(made.engine_id, [])]
    assert bench.log.known().keys() == {stays.engine_id}

    bench.clock.advance(HOUR)
    assert kinds(bench.tell()) == [CONTAINER_EXISTS]
    bench.restart()
    bench.clock.advance(HOUR)
    assert kinds(bench.tell()) == [CONTAINER_EXISTS]


@pytest.mark.parametrize("pass_first", [True, False])
def test_a_deletion_found_by_both_ways_is_told_once(
    on_disk: WatchBench, *, pass_first: bool
) -> None:
    bench = on_disk
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    bench.engine.remove(made.engine_id)
    bench.restart()
    for look in (bench.tell, bench.follow) if pass_first else (bench.follow, bench.tell):
        look()
    assert len(bench.told(CONTAINER_DELETE)) == 1
    assert bench.log.known() == {}
    assert {engine_id for engine_id, _ in bench.deleted} == {made.engine_id}


def test_requests_of_a_container_that_is_gone_are_stopped_though_recording_fails(
    bench: WatchBench,
) -> None:
    """Once it is recorded as gone no other pass would find it."""
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    bench.engine.remove(made.engine_id)
    bench.engine.forget_events()
    away = [Unavailable("the disk is full")]

    def fail(_: str) -> None:
        if away:
            raise away.pop()

    bench.on_deleted = fail
    with pytest.raises(Unavailable):
        bench.tell()
    assert bench.told(CONTAINER_DELETE) == []
    assert kinds(bench.tell()) == [CONTAINER_DELETE]
    assert bench.deleted == [(made.engine_id, [])]


def test_requests_of_a_container_that_is_removed_are_stopped_though_that_fails_at_first(
    bench: WatchBench,
) -> None:
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    bench.engine.remove(made.engine_id)
    away = [Unavailable("the disk is full")]

    def fail(_: str) -> None:
        if away:
            raise away.pop()

    bench.on_deleted = fail
    with pytest.raises(Unavailable):
        bench.follow()
    bench.follow()
    assert bench.deleted == [(made.engine_id, [])]
    assert len(bench.told(CONTAINER_DELETE)) == 1


# Asked


def test_one_container_is_told_of_by_uuid_id_or_name(bench: WatchBench) -> None:
    bench.engine.add("other", RUNNING)
    made = bench.engine.add(f"zun-{ZUN}", RUNNING)
    bench.tell()
    for ident in (ZUN, made.engine_id, made.engine_id[:12], made.name):
        bench.clock.advance(1)
        bench.watcher.ask(ident)
        (told,) = bench.tell()
        assert (told.type, told.payload["container_uuid"]) == (CONTAINER_EXISTS, ZUN)
    assert bench.tell() == [], "once for each time it is asked"


@pytest.mark.parametrize("why", ["unknown", "ambiguous"])
def test_of_what_is_not_to_be_found_nothing_is_told(bench: WatchBench, why: str) -> None:
    for number in range(2):
        bench.engine.add(f"web-{number}", RUNNING, engine_id=f"abc{number}{'0' * 60}")
    bench.tell()
    bench.clock.advance(1)
    bench.watcher.ask("nobody" if why == "unknown" else "abc")
    assert bench.tell() == []
    assert bench.tell() == []


def snapshot_event(name: str, event_type: str = SNAPSHOT_PROGRESS, **about: Any) -> Event:
    """Return an event about a snapshot as the journal has it."""
    request_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
    request = Event(
        COMMIT_REQUEST, {"container": name, "image_name": "snap", "request_id": request_id}, ALICE
    )
    begun = Snapshot.begin(request, host=HOST, created_at="2026-01-01T00:00:00+00:00")
    if event_type == SNAPSHOT_ERROR:
        return rejection(
            name, {}, ALICE, Refused("no"), request_id=request_id, host=HOST, now=begun.created_at
        )
    return replace(begun, **about).event(event_type, status="saving")


def test_whoever_asks_for_all_is_told_of_all_containers_and_snapshots(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING)
    bench.tell()
    bench.snapshots = [snapshot_event("a"), snapshot_event("b", SNAPSHOT_ERROR)]
    bench.clock.advance(1)
    assert bench.tell() == []
    bench.watcher.ask()
    told = bench.tell()

    assert kinds(told) == [CONTAINER_EXISTS, SNAPSHOT_EXISTS, SNAPSHOT_EXISTS]
    assert [each.payload for each in told[1:]] == [each.payload for each in bench.snapshots]
    assert [each.requester for each in told[1:]] == [ALICE, ALICE]
    assert not {each.id for each in told} & {each.id for each in bench.snapshots}
    bench.clock.advance(1)
    bench.watcher.ask()
    again = bench.tell()
    assert len(again) == 3
    assert not {each.id for each in told} & {each.id for each in again}


def test_whoever_asks_for_one_container_is_told_of_its_snapshots_too(bench: WatchBench) -> None:
    made = bench.engine.add(f"zun-{ZUN}", RUNNING)
    bench.tell()
    bench.clock.advance(1)
    own = {"container_uuid": ZUN, "engine_container_id": made.engine_id}
    bench.snapshots = [snapshot_event("a", **own), snapshot_event("b")]
    for ident in (ZUN, made.engine_id):
        bench.watcher.ask(ident)
        told = bench.tell()
        assert sorted(kinds(told)) == [CONTAINER_EXISTS, SNAPSHOT_EXISTS]
        (snapshot,) = [each for each in told if each.type == SNAPSHOT_EXISTS]
        assert snapshot.payload == bench.snapshots[0].payload
        bench.clock.advance(1)


def test_an_ask_is_kept_until_it_is_answered(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING)
    bench.snapshots = [snapshot_event("a")]
    bench.tell()
    bench.clock.advance(1)
    bench.watcher.ask()
    bench.watcher.ask("web")
    bench.trouble.plan("engine.containers", Unavailable("away"))
    bench.trouble.plan("engine.inspect", Unavailable("away"))
    bench.trouble.plan("engine.check", Unavailable("away"))
    told = len(bench.told())
    for _ in range(2):
        with pytest.raises(Unavailable):
            bench.tell()
    bench.tell()
    assert sorted(kinds(bench.told()[told:])) == [CONTAINER_EXISTS, SNAPSHOT_EXISTS]
    bench.clock.advance(1)
    assert bench.tell() == []


@pytest.mark.parametrize("ident", [None, "web"])
def test_an_ask_that_comes_while_the_last_is_answered_is_answered_too(
    bench: WatchBench, ident: str | None
) -> None:
    """Whoever asks later may not have heard what was told before."""
    bench.engine.add("web", RUNNING)
    bench.tell()
    bench.clock.advance(1)
    asked: list[None] = []

    def ask_again(call: str) -> None:
        if call in ("containers", "inspect") and not asked:
            asked.append(None)
            bench.watcher.ask(ident)

    bench.engine._fail = ask_again
    bench.watcher.ask(ident)
    assert len(bench.tell()) == 1
    bench.clock.advance(1)
    assert len(bench.tell()) == 1
    bench.clock.advance(1)
    assert bench.tell() == []


# Triggers


def test_what_an_event_triggers_is_recorded_with_it(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING, labels=ON_STOP)
    bench.engine.stop(made.engine_id)
    _, _, stopped, asked = bench.follow()
    assert (stopped.type, asked.type) == (CONTAINER_STOP, COMMIT_REQUEST)
    assert asked.requester == Requester("project-a", "alice")
    assert asked.payload["container"] == made.engine_id
    assert asked.payload["metadata"] == {"trigger": "stop", "rule": "label"}


def test_neither_is_recorded_without_the_other(bench: WatchBench) -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise LookupError("no")

    def broken(_: Event, __: Services) -> Iterable[Event]:
        return [Event(COMMIT_REQUEST, {"bad": Unprintable()}, id="r1")]

    bench.triggers = {CONTAINER_STOP: broken}
    bench.begin()
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    before = bench.log.resume_point()
    bench.engine.stop(made.engine_id)
    bench.follow()
    assert bench.told(CONTAINER_STOP) == []
    assert bench.log.resume_point() == before
    assert bench.log.known()[made.engine_id].payload["state"] == "Running"

    bench.triggers = TRIGGERS
    bench.begin()
    bench.follow()
    assert len(bench.told(CONTAINER_STOP)) == 1


def test_a_stop_that_is_seen_again_after_a_restart_makes_one_request(on_disk: WatchBench) -> None:
    made = on_disk.engine.add("web", RUNNING, labels=ON_STOP)
    on_disk.engine.stop(made.engine_id)
    for _ in range(3):
        on_disk.follow()
        on_disk.restart()
    assert len(on_disk.told(COMMIT_REQUEST)) == 1


def test_a_mistake_in_a_label_is_told_once_by_event_and_pass(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING, labels={**OWNED, "tintype.snapshot.on": "tuesday"})
    bench.follow()
    for _ in range(3):
        bench.tell()
        bench.clock.advance(HOUR)
    made, due = bench.told(SNAPSHOT_ERROR)
    assert made.payload["metadata"] == {"rule": "label"}
    assert due.payload["metadata"] == {"rule": "label", "trigger": "schedule"}
    assert {made.payload["fault"]["code"], due.payload["fault"]["code"]} == {400}


@pytest.mark.parametrize("event_type", [CONTAINER_STOP, CONTAINER_EXISTS, CONTAINER_SCHEDULE])
def test_a_defect_in_a_handler_costs_no_other_container_anything(event_type: str) -> None:
    def defective(event: Event, services: Services) -> Iterable[Event]:
        if event.payload["container_name"] == "odd":
            raise ZeroDivisionError
        return TRIGGERS[event_type](event, services)

    bench = WatchBench(triggers={**TRIGGERS, event_type: defective})
    bench.follow()
    for name in ("odd", "web"):
        made = bench.engine.add(name, RUNNING, labels={**HOURLY, "tintype.snapshot.on": "stop"})
        bench.engine.stop(made.engine_id)
    bench.follow()
    bench.tell()
    bench.clock.advance(HOUR)
    bench.tell()

    for kind in (CONTAINER_STOP, CONTAINER_EXISTS):
        names = {event.payload["container_name"] for event in bench.told(kind)}
        assert names == {"odd", "web"}
    triggers = [event.payload["metadata"]["trigger"] for event in bench.told(COMMIT_REQUEST)]
    lost = {CONTAINER_STOP: "stop", CONTAINER_SCHEDULE: "schedule"}.get(event_type)
    assert sorted(triggers) == sorted(
        ["stop", "schedule"] + [each for each in ("stop", "schedule") if each != lost]
    )


# Before a deletion


def delete_start(bench: WatchBench, ident: str, event_id: str = "e1") -> bool:
    return bench.watcher.deleting(ident, event_id, "2026-11-24T22:15:00+00:00", ALICE)


def test_before_a_deletion_what_is_in_hand_is_stopped_but_for_what_it_triggers(
    bench: WatchBench,
) -> None:
    made = bench.engine.add(f"zun-{ZUN}", RUNNING, labels=BEFORE_DELETE)
    bench.follow()
    calls = len(bench.trouble.calls)
    assert delete_start(bench, ZUN) is True

    (asked,) = bench.told(COMMIT_REQUEST)
    assert asked.payload["container"] == made.engine_id
    assert asked.payload["metadata"]["trigger"] == "before-delete"
    assert asked.requester == Requester("project-a", "alice"), "the owner, whoever deletes"
    assert bench.deleted == [(made.engine_id, [asked.id])]
    assert bench.trouble.calls[calls:] == [], "the engine is not asked"
    assert bench.told(CONTAINER_DELETE_START, CONTAINER_DELETE) == []


def test_a_deletion_that_is_told_again_asks_for_and_stops_nothing_new(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING, labels=BEFORE_DELETE)
    bench.follow()
    for moment in ("2026-11-24T22:15:00+00:00", "2026-11-24T22:16:00+00:00"):
        assert bench.watcher.deleting(made.engine_id, "e1", moment, ALICE)
    (asked,) = bench.told(COMMIT_REQUEST)
    assert bench.deleted == [(made.engine_id, [asked.id])] * 2


def test_a_deletion_without_a_rule_stops_everything(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    assert delete_start(bench, made.engine_id)
    assert bench.deleted == [(made.engine_id, [])]
    assert bench.told(COMMIT_REQUEST) == []


def test_the_deletion_of_a_container_of_another_host_is_none_of_ours(bench: WatchBench) -> None:
    bench.engine.add("web", RUNNING, labels=BEFORE_DELETE)
    bench.follow()
    assert delete_start(bench, ZUN) is False
    assert delete_start(bench, "web") is False, "deletions name a uuid"
    assert bench.deleted == []


def test_configured_rules_count_before_a_deletion_too() -> None:
    bench = WatchBench(rules=[Rule(name="last-words", on=frozenset({"before-delete", STOP}))])
    bench.follow()
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    delete_start(bench, made.engine_id)
    assert [each.payload["metadata"]["rule"] for each in bench.told(COMMIT_REQUEST)] == [
        "last-words"
    ]


def test_listeners_never_wait_for_an_engine_that_hangs(bench: WatchBench) -> None:
    """`ask` and `deleting` are called from the bus's callback, in which nothing slow may be."""
    made = bench.engine.add("web", RUNNING, labels=BEFORE_DELETE)
    bench.follow()
    inside, leave = threading.Event(), threading.Event()

    def hang(call: str) -> None:
        if call == "containers":
            inside.set()
            leave.wait(PATIENCE)

    bench.engine._fail = hang
    teller = threading.Thread(target=bench.watcher._tell, daemon=True)
    teller.start()
    assert inside.wait(PATIENCE)
    done: list[bool] = []

    def listen() -> None:
        bench.watcher.ask("web")
        done.append(delete_start(bench, made.engine_id))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    listener.join(PATIENCE / 2)
    answered = list(done)
    leave.set()
    teller.join(PATIENCE)
    listener.join(PATIENCE)
    assert answered == [True]


# Schedules


DAY = datetime(2030, 1, 1, tzinfo=UTC)


def scheduled(path: Path | str = ":memory:") -> WatchBench:
    """Return a host with a container that is to be snapshotted at every full hour."""
    bench = WatchBench(path=path, clock=ManualClock(DAY + timedelta(minutes=30)))
    bench.engine.add("web", RUNNING, labels=HOURLY)
    bench.tell()
    return bench


def due(bench: WatchBench) -> list[str]:
    return [str(each.payload["tag"]) for each in bench.told(COMMIT_REQUEST)]


def test_a_schedule_asks_once_for_each_time_that_is_due() -> None:
    bench = scheduled()
    assert due(bench) == []
    for _ in range(3 * 60 * 6):
        bench.clock.advance(10)
        bench.tell()
    assert due(bench) == [
        "schedule-20300101t010000",
        "schedule-20300101t020000",
        "schedule-20300101t030000",
    ]


def test_times_missed_are_made_up_for_once(tmp_path: Path) -> None:
    bench = scheduled(tmp_path / "journal.sqlite")
    bench.clock.advance(5 * HOUR)
    bench.restart()
    bench.tell()
    assert due(bench) == ["schedule-20300101t050000"]
    bench.restart()
    bench.tell()
    bench.clock.advance(60)
    bench.tell()
    assert len(due(bench)) == 1


def test_a_container_is_not_due_for_times_before_it_was_known() -> None:
    bench = scheduled()
    bench.clock.advance(0.4 * HOUR)
    bench.tell()
    bench.clock.advance(3 * HOUR)
    bench.engine.add("late", RUNNING, labels=HOURLY)
    bench.watcher._pass_due = None
    bench.tell()
    (asked,) = bench.told(COMMIT_REQUEST)
    assert asked.payload["image_name"] == "web"


def test_a_kill_between_asking_and_remembering_asks_once(tmp_path: Path) -> None:
    bench = scheduled(tmp_path / "journal.sqlite")
    bench.clock.advance(HOUR)
    before = bench.log.ticked_at()
    assert before is not None
    bench.tell()
    bench.log.tick([], before)
    bench.restart()
    bench.tell()
    assert len(due(bench)) == 1


def test_a_container_that_is_gone_is_not_due() -> None:
    bench = scheduled()
    (engine_id,) = bench.engine.by_id
    bench.engine.remove(engine_id)
    bench.watcher._pass_due = None
    bench.clock.advance(HOUR)
    bench.tell()
    assert due(bench) == []


def test_a_clock_that_is_set_back_asks_for_nothing_again() -> None:
    bench = scheduled()
    bench.clock.advance(HOUR)
    bench.tell()
    bench.clock.advance(-HOUR)
    bench.tell()
    for _ in range(61):
        bench.clock.advance(60)
        bench.tell()
    assert len(due(bench)) == 1


# Our own doing


def test_of_our_own_captures_nothing_is_told_but_the_pause(bench: WatchBench) -> None:
    made = bench.engine.add("web", RUNNING)
    bench.follow()
    for pause in (False, True):
        capture = bench.engine.capture(made, "request", CaptureOptions(pause=pause))
        with capture.read() as chunks:
            assert sum(map(len, chunks))
        bench.engine.discard("request")
    told = bench.follow()
    assert kinds(told) == [CONTAINER_PAUSE, CONTAINER_UNPAUSE]
    assert {each.payload["container_uuid"] for each in told} == {made.engine_id}
    assert len(bench.engine.containers()) == 1


# With threads


def test_what_happens_is_told_while_it_happens() -> None:
    bench = WatchBench()
    with bench.running() as watcher:
        until(lambda: bench.log.resume_point() is not None, "the watching to begin")
        made = bench.engine.add("web", RUNNING)
        until(lambda: bench.told(CONTAINER_START), "the start")
        bench.engine.stop(made.engine_id)
        until(lambda: bench.told(CONTAINER_STOP), "the stop")
        told = len(bench.told(CONTAINER_EXISTS))
        bench.clock.advance(1)
        watcher.ask("web")
        until(lambda: len(bench.told(CONTAINER_EXISTS)) > told, "what was asked")
        bench.engine.remove(made.engine_id)
        until(lambda: bench.told(CONTAINER_DELETE), "the end")
        until(lambda: bench.deleted, "the end told to the runner")


def test_a_lost_connection_is_followed_by_a_full_pass() -> None:
    bench = WatchBench()
    lost, stays = bench.engine.add("lost", RUNNING), bench.engine.add("stays", RUNNING)
    with bench.running():
        until(lambda: len(bench.told(CONTAINER_EXISTS)) == 2, "the first pass")
        until(lambda: bench.engine._events._watchers, "the stream")
        bench.clock.advance(1)
        with bench.engine._events._lock:  # the engine comes up anew, and remembers nothing
            for watcher in bench.engine._events._watchers:
                watcher.put(None)
            bench.engine._events._watchers.clear()
            bench.engine._events._log.clear()
            del bench.engine.by_id[lost.engine_id]
            bench.engine._events._watchers = Forgiving()
        until(lambda: len(bench.told(CONTAINER_EXISTS)) == 3, "the second pass")
        made = bench.engine.add("new", RUNNING)
        until(lambda: bench.log.known().keys() == {stays.engine_id, made.engine_id}, "the new one")
    (gone,) = bench.told(CONTAINER_DELETE)
    assert gone.payload["container_uuid"] == lost.engine_id
    assert bench.deleted == [(lost.engine_id, [])]


class Forgiving(list[Any]):
    """Watchers of an engine that was started again: those of before are no more."""

    def remove(self, watcher: Any) -> None:
        if watcher in self:
            super().remove(watcher)


def test_the_pass_after_a_lost_connection_begins_when_the_stream_is_open(
    bench: WatchBench,
) -> None:
    """Else what happens in between is in neither, should the engine be restarted once more."""
    bench.engine.add("web", RUNNING)
    bench.tell()
    bench.clock.advance(1)
    bench.trouble.plan("engine.watch", Unavailable("away"), times=3)
    with bench.running():
        until(lambda: bench.trouble.calls.count("engine.watch") > 3, "the stream open again")
        until(lambda: len(bench.told(CONTAINER_EXISTS)) == 2, "a pass")
    calls = [call for call in bench.trouble.calls if call in ("engine.watch", "engine.containers")]
    last = len(calls) - 1 - calls[::-1].index("engine.containers")
    assert calls[:last].count("engine.watch") >= 5, "one by the fixture, three in vain, and then"


def test_a_defect_does_not_end_the_watching() -> None:
    def defective(_: Event, __: Services) -> Iterable[Event]:
        raise ZeroDivisionError

    bench = WatchBench(triggers=dict.fromkeys(TRIGGERS, defective))
    bench.trouble.plan("engine.watch", ZeroDivisionError(), times=2)
    bench.trouble.plan("engine.containers", ZeroDivisionError(), times=2)
    with bench.running():
        made = bench.engine.add("web", RUNNING)
        until(lambda: bench.told(CONTAINER_START), "the start")
        until(lambda: bench.told(CONTAINER_EXISTS), "a pass")
        bench.engine.remove(made.engine_id)
        until(lambda: bench.told(CONTAINER_DELETE), "the end")


def test_what_happens_between_two_runs_is_told_by_the_second(tmp_path: Path) -> None:
    bench = WatchBench(path=tmp_path / "journal.sqlite")
    with bench.running():
        until(lambda: bench.log.resume_point() is not None, "the watching to begin")
        made = bench.engine.add("web", RUNNING, labels=ON_STOP)
        until(lambda: bench.told(CONTAINER_START), "the start")
    bench.engine.stop(made.engine_id)
    bench.restart()
    with bench.running():
        until(lambda: bench.told(CONTAINER_STOP), "the stop")
    assert len(bench.told(COMMIT_REQUEST)) == 1
    ids = [event.id for event in bench.told()]
    assert len(ids) == len(set(ids))


def test_many_containers_made_and_removed_at_once_all_have_their_story() -> None:
    bench = WatchBench()
    names = [f"web-{number}" for number in range(60)]

    def live(name: str) -> None:
        made = bench.engine.add(name, RUNNING)
        bench.engine.stop(made.engine_id)
        bench.engine.remove(made.engine_id)

    with bench.running():
        until(lambda: bench.engine._events._watchers, "the stream")
        threads = [threading.Thread(target=live, args=[name]) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        until(lambda: len(bench.told(CONTAINER_DELETE)) == len(names), "all ends")
    stories: dict[str, list[str]] = {}
    for event in bench.told():
        stories.setdefault(event.payload["container_uuid"], []).append(event.type)
    whole = [CONTAINER_CREATE, CONTAINER_START, CONTAINER_STOP, CONTAINER_DELETE]
    for story in stories.values():
        assert [kind for kind in story if kind != CONTAINER_EXISTS] == whole
    assert len(stories) == len(names)
    assert bench.log.known() == {}


def test_an_event_that_cannot_be_told_is_passed_over(bench: WatchBench) -> None:
    broken = bench.engine.add("broken")
    whole = bench.engine.add("whole")
    bench.trouble.plan("engine.inspect", ZeroDivisionError("a defect"), times=2)
    bench.follow()
    told = [(each.type, each.payload["engine_container_id"]) for each in bench.told()]
    assert (CONTAINER_CREATE, whole.engine_id) in told
    assert broken.engine_id not in {engine_id for _, engine_id in told}
