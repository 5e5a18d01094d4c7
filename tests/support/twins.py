"""The whole core on in-memory twins, driven step by step without threads."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tintype.adapters.clock import ManualClock
from tintype.adapters.memory_courier import MemoryCourier
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_store import MemoryStore
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_dispatches import SqlDispatches
from tintype.adapters.sql_index import SqlIndex
from tintype.adapters.sql_reservations import SqlReservations
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.commits import Commits
from tintype.core.dispatcher import Dispatcher, Patience
from tintype.core.engine import Container, ContainerState
from tintype.core.errors import Refused
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    OUTCOMES,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_START,
    Event,
    Message,
    Requester,
)
from tintype.core.index import Sighting
from tintype.core.intake import Calls, Intake
from tintype.core.jobs import Fault
from tintype.core.moments import utc_text
from tintype.core.ownership import may_use
from tintype.core.policy import Policy
from tintype.core.ports import Admission, Cancellation, Handler, OutboxRow, Services, Work
from tintype.core.promises import Caller
from tintype.core.reservation import Reservation
from tintype.core.router import Router
from tintype.core.runner import Backoff, Runner
from tintype.core.snapshot import Copy, Snapshot
from tintype.core.tidier import Tidier
from tintype.handlers import cleanup, table
from tintype.schemas import validate

ALICE = Requester("project-a", "alice")
MALLORY = Requester("project-m", "mallory")
ADMIN = Requester("project-admin", "root", is_admin=True)
HOST = "host-1"


class PowerCut(BaseException):
    """The process ends here: nothing that the code does about errors may run on it."""


@dataclass
class Plan:
    """What shall go wrong, and at which calls."""

    call: str
    error: BaseException
    skip: int = 0
    times: int = 1


class Trouble:
    """The failure hook of all twins: counts the calls, and raises what is planned."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.plans: list[Plan] = []
        self.fatal_call = 0
        """Number of the call, counted from 1, at which the power is cut."""

    def plan(self, call: str, error: BaseException, *, skip: int = 0, times: int = 1) -> None:
        """Let `port.method` raise `error` from its (skip+1)-th call on, `times` times."""
        self.plans.append(Plan(call, error, skip, times))

    def hook(self, port: str) -> Callable[[str], None]:
        """Return the hook of one twin."""
        return lambda method: self._on(f"{port}.{method}")

    def _on(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) == self.fatal_call:
            raise PowerCut(call)
        for plan in self.plans:
            if plan.call == call:
                if plan.skip:
                    plan.skip -= 1
                elif plan.times:
                    plan.times -= 1
                    raise plan.error

    def end(self) -> None:
        """Let everything work from now on."""
        self.plans.clear()
        self.fatal_call = 0


class Mains(Trouble):
    """A failure hook for code that does things as it fails: after a power cut nothing answers."""

    def _on(self, call: str) -> None:
        if self.fatal_call and len(self.calls) + 1 >= self.fatal_call:
            self.calls.append(call)
            raise PowerCut(call)
        super()._on(call)


class Tapped:
    """A port with a failure hook before every call, and one (`<call> done`) when it was done.

    What is raised at the second is of a call that had its effect all the same.
    """

    def __init__(self, port: Any, hook: Callable[[str], None]) -> None:
        self._port = port
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            self._hook(name)
            result = method(*arguments, **options)
            self._hook(f"{name} done")
            return result

        return call


class FusedJournal(SqliteJournal):
    """A journal at whose N-th write, counted from 1, the power is cut: before it, or after."""

    def __init__(self, path: object) -> None:
        super().__init__(str(path))
        self.writes = 0
        self.fatal_write = 0
        self.after = False

    def _write(self, do: Callable[[], Any]) -> Any:
        self.writes += 1
        fatal = self.writes == self.fatal_write
        if fatal and not self.after:
            raise PowerCut
        result = do()
        if fatal:
            raise PowerCut
        return result

    def admit(self, *request: Any, **options: Any) -> Admission:
        admit = super().admit
        done: Admission = self._write(lambda: admit(*request, **options))
        return done

    def claim(self, now: Any, places: int | None = None) -> Work | None:
        claim = super().claim
        work: Work | None = self._write(lambda: claim(now, places))
        return work

    def record(
        self, work: Work, events: Sequence[Event], step: Event | None, **options: Any
    ) -> None:
        record = super().record
        self._write(lambda: record(work, events, step, **options))

    def postpone(self, work: Work, until: Any, step: Event | None = None) -> None:
        postpone = super().postpone
        self._write(lambda: postpone(work, until, step))

    def note(self, event: Event) -> None:
        note = super().note
        self._write(lambda: note(event))

    def confirm(self, rows: Sequence[OutboxRow]) -> None:
        confirm = super().confirm
        self._write(lambda: confirm(rows))

    def cancel(self, request_id: str, cancellation: Cancellation) -> bool:
        cancel = super().cancel
        done: bool = self._write(lambda: cancel(request_id, cancellation))
        return done


@dataclass
class Bench:
    """One host with twins for all that is outside, and the real core between them."""

    journal: SqliteJournal = field(default_factory=lambda: SqliteJournal(":memory:"))
    trouble: Trouble = field(default_factory=Trouble)
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime.now(UTC)))
    store_names: Sequence[str] = ("glance", "directory")
    default_stores: Sequence[str] = ("glance",)
    table: Mapping[str, Handler] = field(default_factory=table)
    policy: Policy = field(default_factory=Policy)
    progress: list[Event] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    """What the agent was asked to tell of."""
    deleting: list[tuple[Any, ...]] = field(default_factory=list)
    """What the agent was told is about to be deleted."""
    engine: MemoryEngine = field(init=False)
    stores: dict[str, MemoryStore] = field(init=False)
    runner: Runner = field(init=False)
    intake: Intake = field(init=False)

    def __post_init__(self) -> None:
        self.engine = MemoryEngine(fail=self.trouble.hook("engine"))
        self.stores = {
            name: MemoryStore(name, fail=self.trouble.hook(name)) for name in self.store_names
        }
        self.restart(self.journal)

    @property
    def services(self) -> Services:
        """The ports, as handlers get them."""
        return Services(
            engine=self.engine,
            stores=self.stores,
            clock=self.clock,
            host=HOST,
            default_stores=self.default_stores,
            progress=self.progress.append,
            confirmed_at=self.journal.confirmed_at,
            policy=self.policy,
        )

    def restart(self, journal: SqliteJournal) -> None:
        """Begin a new run of the service on a journal; what is outside stays as it is."""
        self.journal = journal
        self.runner = Runner(
            journal,
            self.table,
            self.services,
            workers=1,
            backoff=Backoff(),
            on_progress=self._on_progress,
            on_recorded=lambda: None,
        )
        self.intake = Intake(
            journal=journal,
            validate=validate,
            requester_of=lambda context: context if isinstance(context, Requester) else Requester(),
            clock=self.clock,
            host=HOST,
            default_deadline=timedelta(days=1),
            wake=lambda: None,
            calls=Calls(
                cancel=self.runner.cancel,
                ask=self.asked.append,
                deleting=lambda *about: self.deleting.append(about) or True,
            ),
        )

    def _on_progress(self, event: Event) -> None:
        checked(event)
        self.progress.append(event)
        self.journal.note(event)

    def container(
        self, name: str = "web", state: ContainerState = ContainerState.RUNNING, **about: Any
    ) -> Container:
        """Put a container on the host."""
        return self.engine.add(name, state, files={"/data": bytes(range(256)) * 700}, **about)

    def ask(self, container: str = "web", *, who: Requester = ALICE, **fields: Any) -> str:
        """Send a commit request as the bus would, and return its id."""
        request_id = fields.pop("request_id", None) or str(uuid.uuid4())
        payload = {
            "container": container,
            "image_name": "snap",
            "request_id": request_id,
            **fields,
        }
        self.intake.on_message(Message(COMMIT_REQUEST, payload, who, str(uuid.uuid4())))
        return str(request_id)

    def cancel(self, request_id: str, *, who: Requester = ALICE, **fields: Any) -> None:
        """Send a cancellation as the bus would."""
        payload = {"request_id": request_id, **fields}
        self.intake.on_message(Message(COMMIT_CANCEL, payload, who, str(uuid.uuid4())))

    def settle(self, rounds: int = 300) -> None:
        """Run steps, and let time pass, until no request is left to work on."""
        for _ in range(rounds):
            work = self.journal.claim(self.clock.now())
            if work is not None:
                self.runner.run(work)
            elif self.journal.live():
                self.clock.advance(61)
            else:
                return
        raise AssertionError(f"still at work after {rounds} rounds: {self.journal.live()}")

    def run_step(self) -> Work:
        """Run the next step alone."""
        work = self.journal.claim(self.clock.now())
        assert work is not None
        self.runner.run(work)
        return work

    def events(self, request_id: str | None = None) -> list[Event]:
        """Return what is in the outbox, each checked against its schema."""
        events = [checked(row.event) for row in self.journal.pending(10_000)]
        return [
            event
            for event in events
            if request_id is None or event.payload["request_id"] == request_id
        ]

    def outcome(self, request_id: str) -> Event:
        """Return the one outcome of a request."""
        outcomes = [event for event in self.events(request_id) if event.type in OUTCOMES]
        assert len(outcomes) == 1, outcomes
        return outcomes[0]

    def images(self, store: str = "glance") -> dict[str, str]:
        """Return the status of every image in a store."""
        return {name: image.status.value for name, image in self.stores[store].images.items()}

    def require_clean_engine(self) -> None:
        """Fail unless no capture is left and every container that ran runs."""
        self.trouble.end()
        assert self.engine.owners() == frozenset()
        for engine_id in {engine_id for _, engine_id in self.engine.actions}:
            if engine_id in self.engine.by_id:
                assert self.engine.by_id[engine_id].state is ContainerState.RUNNING


class Bus:
    """A core.ports.Publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.published: list[Event] = []

    def publish(self, event: Event) -> None:
        """Keep an event, which its schema must allow."""
        assert validate(event.type, event.payload) == []
        self.published.append(event)


class Ears:
    """A core.dispatcher.Hearing that has heard everything, unless a test says that it has not."""

    def __init__(self) -> None:
        self.deaf = False

    def caught_up(self) -> bool:
        return not self.deaf

    def complete(self) -> bool:
        return not self.deaf


@dataclass
class Office:
    """REST services and a router on one index, with one image service; every call is tapped."""

    default_stores: Sequence[str] = ("glance",)
    trouble: Mains = field(default_factory=Mains)
    clock: ManualClock = field(default_factory=ManualClock)
    database: Database = field(default_factory=lambda: Database("sqlite://"))
    bus: Bus = field(default_factory=Bus)
    images: MemoryStore = field(default_factory=lambda: MemoryStore("glance"))
    courier: MemoryCourier = field(default_factory=MemoryCourier)
    ears: Ears = field(default_factory=Ears)
    index: SqlIndex = field(init=False)
    reservations: SqlReservations = field(init=False)
    dispatcher: Dispatcher = field(init=False)
    router: Router = field(init=False)

    def __post_init__(self) -> None:
        self.database.upgrade()
        self.index = SqlIndex(self.database)
        self.reservations = SqlReservations(self.database)
        self.courier.hosts = {HOST: []}
        self.dispatcher = Dispatcher(
            index=self.index,
            dispatches=SqlDispatches(self.database),
            courier=self.courier,
            services=Services(
                engine=MemoryEngine(),
                stores={"glance": self.images},
                clock=self.clock,
                host="router-1",
                default_stores=("glance",),
            ),
            abort=cleanup.abort,
            patience=Patience(
                host=timedelta(seconds=60),
                unknown=timedelta(seconds=5),
                grace=timedelta(seconds=10),
                deadline=timedelta(hours=1),
            ),
            hearing=self.ears,
        )
        self.router = Router(self.dispatcher, validate, lambda context: context)

    def tapped(self, port: Any, name: str) -> Any:
        """Return a port whose calls are told to the failure hook."""
        return Tapped(port, self.trouble.hook(name))

    def commits(self, patience: float = 0.0) -> Commits:
        """Return one of the REST services."""
        return Commits(
            index=self.tapped(self.index, "index"),
            reservations=self.tapped(self.reservations, "reservations"),
            publisher=self.tapped(self.bus, "bus"),
            clock=self.clock,
            validate=validate,
            default_stores=self.default_stores,
            patience=patience,
        )

    def tidier(self, images: MemoryStore | None = None) -> Tidier:
        """Return what a router tidies up with."""
        return Tidier(
            reservations=self.tapped(self.reservations, "reservations"),
            dispatches=self.tapped(self.dispatcher.dispatches, "dispatches"),
            index=self.tapped(self.index, "index"),
            images=self.tapped(images or self.images, "images"),
            clock=self.clock,
            requests=self.ears,
        )

    def caller(self, who: Requester = ALICE) -> Caller:
        """Return somebody who may do everything to what is his, or nobody's, or if he is admin."""
        return Caller(
            who,
            lambda action, owner: may_use(owner, who),
            self.tapped(self.images, "images"),
        )

    def container(self, name: str = "web", uuid_: str | None = None, **facts: Any) -> str:
        """Let the index hear of a container, and return its uuid."""
        ident = uuid_ or uuid.uuid4().hex * 2
        about = {
            "engine_id": ident,
            "name": name,
            "host": HOST,
            "state": "Running",
            "project_id": ALICE.project_id,
            **facts,
        }
        known = {fact: value for fact, value in about.items() if value is not None}
        at = utc_text(self.clock.now())
        self.index.sight([Sighting(ident, at, str(uuid.uuid4()), known, exists=True)])
        return ident

    def remove(self, ident: str) -> None:
        """Let the index hear that a container is gone."""
        self.clock.advance(1)
        at = utc_text(self.clock.now())
        self.index.sight([Sighting(ident, at, str(uuid.uuid4()), deleted=True)])

    def submit(
        self,
        container: str = "web",
        *,
        who: Requester = ALICE,
        key: str | None = None,
        patience: float = 0.0,
        **fields: Any,
    ) -> Reservation:
        """Ask for a snapshot over REST."""
        payload = {"container": container, "image_name": "snap", **fields}
        return self.commits(patience).submit(self.caller(who), payload, key)

    def deliver(self) -> None:
        """Let the router take all that was published, as the bus would, each at least once."""
        for event in self.bus.published:
            self.router.on_request(message_of(event, self.clock.now()))

    def host_says(self, event_type: str, promised: Reservation) -> Event:
        """Let the router hear from the host how a snapshot stands, and return what it heard."""
        (request, *_) = [each for each in self.bus.published if each.id == promised.request_id]
        now = self.clock.now().isoformat()
        ended = event_type in OUTCOMES
        failed = event_type == SNAPSHOT_ERROR
        fault = replace(Fault.of(Refused("no"), "committing"), image_deleted=True)
        snapshot = replace(
            Snapshot.begin(request, host=HOST, created_at=now),
            container_uuid=promised.container_uuid,
            container_name="web",
            engine_container_id="0" * 64,
            copies=(Copy("glance", promised.promised_image_id, reserved=True),),
            phase="cleanup" if ended else "committing",
            paused_ms=1,
            size_bytes=1,
            sha256="0" * 64,
            finished_at=now if ended else None,
            fault=fault if failed else None,
        )
        status = {SNAPSHOT_START: "queued", SNAPSHOT_END: "active", SNAPSHOT_ERROR: "error"}
        told = snapshot.event(
            event_type, status=status.get(event_type, "saving"), duration_ms=1 if ended else None
        )
        self.router.on_event(message_of(checked(told), self.clock.now()))
        return told

    def sweep(self, seconds: float = 60.0) -> None:
        """Let time pass, and the router look after everything once a second."""
        self.trouble.end()
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.dispatcher.sweep()
            self.tidier().sweep()

    @property
    def image_ids(self) -> set[str]:
        """The images that there are."""
        return set(self.images.images)


def message_of(event: Event, now: datetime) -> Message:
    """Return an event as it comes off the bus."""
    return Message(event.type, event.payload, event.requester, event.id, "test", now.isoformat())


def checked(event: Event) -> Event:
    """Return an event that its schema allows and that is what its own fields say."""
    assert validate(event.type, event.payload) == []
    assert event.id == event.payload["event_id"]
    assert json.loads(json.dumps(event.payload)) == event.payload
    return event
