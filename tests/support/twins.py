"""The whole core on in-memory twins, driven step by step without threads."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tintype.adapters.clock import ManualClock
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.memory_store import MemoryStore
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    OUTCOMES,
    Event,
    Message,
    Requester,
)
from tintype.core.intake import Calls, Intake
from tintype.core.ports import (
    Admission,
    Cancellation,
    Container,
    ContainerState,
    Handler,
    OutboxRow,
    Services,
    Work,
)
from tintype.core.runner import Backoff, Runner
from tintype.handlers import table
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


def checked(event: Event) -> Event:
    """Return an event that its schema allows and that is what its own fields say."""
    assert validate(event.type, event.payload) == []
    assert event.id == event.payload["event_id"]
    assert json.loads(json.dumps(event.payload)) == event.payload
    return event
