"""The runner: worker threads that take steps from the journal and run their handlers.

The unit of work is a step, not a request: between two steps nothing is in memory that is not in the
journal, so a step boundary is the safe point at which a worker can stop.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tintype.core.errors import Internal, Interrupted, TimedOut, TintypeError, Unavailable
from tintype.core.events import SNAPSHOT_PROGRESS, Event
from tintype.core.ports import Handler, Journal, Services, Work
from tintype.core.snapshot import ABORT, CLEANUP, Fault, of_step

LOG = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""How long an idle worker sleeps unless it is woken."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a step is tried again."""

    first: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""
    longest: float = 60.0

    def delay(self, attempt: int) -> timedelta:
        """Return the wait after this attempt; jitter keeps hosts from coming back as one."""
        ceiling = min(self.longest, self.first * 2 ** min(attempt - 1, 30))
        return timedelta(seconds=ceiling * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


class Progress:
    """Lets at most one progress event a second through for each request."""

    def __init__(self, sink: Callable[[Event], None], clock: Callable[[], datetime]) -> None:
        self._sink = sink
        self._clock = clock
        self._last: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        """Pass the event on unless it comes too soon after the request's last one."""
        request_id = event.payload["request_id"]
        now = self._clock()
        with self._lock:
            last = self._last.get(request_id)
            if last is not None and now - last < timedelta(seconds=1):
                return
            self._last[request_id] = now
        self._sink(event)

    def forget(self, request_id: str) -> None:
        """Drop what is remembered of a request that is done."""
        with self._lock:
            self._last.pop(request_id, None)


class Runner:
    """Runs steps on `workers` threads until it is stopped."""

    def __init__(
        self,
        journal: Journal,
        table: Mapping[str, Handler],
        services: Services,
        *,
        workers: int,
        backoff: Backoff,
        on_progress: Callable[[Event], None],
        on_recorded: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._table = table
        self._progress = Progress(on_progress, services.clock.now)
        self._services = services
        self._backoff = backoff
        self._on_recorded = on_recorded
        self._wake = threading.Condition()
        self._stopping = threading.Event()
        self._interrupting = threading.Event()
        self._running: dict[str, Work] = {}
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Take up what a killed run left, then whatever comes."""
        resumed = self._journal.recover()
        if resumed:
            LOG.info("resuming %d steps of an earlier run", resumed)
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Let idle workers look at the journal now."""
        with self._wake:
            self._wake.notify_all()

    def stop(self, graceful_seconds: float, hard_seconds: float = 5.0) -> tuple[Work, ...]:
        """Take nothing new and let running steps end; interrupt those that take longer.

        Returns the steps that could not even be interrupted; they run again at the next start.
        """
        self._stopping.set()
        self.wake()
        self._join(graceful_seconds)
        self._interrupting.set()
        self._join(hard_seconds)
        return tuple(self._running.values())

    def _join(self, seconds: float) -> None:
        waiter = threading.Event()
        rounds = max(1, int(seconds / 0.05))
        for _ in range(rounds):
            if not any(thread.is_alive() for thread in self._threads):
                return
            waiter.wait(0.05)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                work = self._journal.claim(self._services.clock.now())
            except Unavailable as error:
                LOG.error("journal: %s", error)
                work = None
            if work is None:
                idle_seconds = self._idle_seconds()
                with self._wake:
                    self._wake.wait(idle_seconds)
                continue
            self._running[work.request_id] = work
            try:
                self.run(work)
            except Exception:
                # A step that cannot even fail, as one that another version wrote: it stays as it
                # is until the next start, and this worker goes on with the others.
                LOG.critical(
                    "request %s: %s is stuck", work.request_id, work.step.type, exc_info=True
                )
            del self._running[work.request_id]
            # A request that waited for this one's container may be runnable now.
            self.wake()

    def _idle_seconds(self) -> float:
        try:
            due = self._journal.next_due()
        except Unavailable:
            return IDLE_SECONDS
        if due is None:
            return IDLE_SECONDS
        left = (due - self._services.clock.now()).total_seconds()
        return min(IDLE_SECONDS, max(0.01, left))

    def run(self, work: Work) -> None:
        """Run one step and record what follows from it: the one place where errors end."""
        step = work.step
        try:
            self._check(work)
            handler = self._table[step.type]
            events = list(handler(step, self._services_for(work)))
        except Interrupted:
            LOG.info("request %s: %s interrupted, to be resumed", work.request_id, step.type)
            self._until_stored(lambda: self._journal.postpone(work, self._services.clock.now()))
            return
        except TintypeError as error:
            self._failed(work, error)
            return
        except Exception as error:
            # The runner's edge: a defect must end as an answer, not as a dead worker.
            LOG.exception("request %s: %s broke", work.request_id, step.type)
            self._failed(work, Internal(f"internal error in {step.type}: {type(error).__name__}"))
            return
        following = [event for event in events if event.type in self._table]
        outgoing = [event for event in events if event.type not in self._table]
        self._record(work, outgoing, following[0] if following else None)

    def _failed(self, work: Work, error: TintypeError) -> None:
        """Try again later, or turn to undoing."""
        step = work.step
        now = self._services.clock.now()
        snapshot = of_step(step, host=self._services.host, now=now.isoformat())
        fault = Fault.of(error, snapshot.phase)
        LOG.warning(
            "request %s: %s, attempt %d: %s: %s",
            work.request_id,
            step.type,
            step.attempt,
            fault.exception,
            error,
        )
        spent = error.attempts_allowed is not None and step.attempt >= error.attempts_allowed
        if step.type in CLEANUP or (error.retryable and not spent):
            waiting = replace(snapshot, fault=fault)
            if step.type not in CLEANUP:
                key = f"{step.type}/{step.attempt}"
                self._progress.tell(waiting.event(SNAPSHOT_PROGRESS, status="waiting", key=key))
            until = now + self._backoff.delay(step.attempt)
            if step.type not in CLEANUP:
                until = min(until, max(work.deadline, now))
            self._until_stored(lambda: self._journal.postpone(work, until))
            return
        self._record(work, [], snapshot.step(ABORT, fault=fault))

    def _record(self, work: Work, events: list[Event], step: Event | None) -> None:
        if step is None or step.type in CLEANUP:
            self._progress.forget(work.request_id)
        self._until_stored(lambda: self._journal.record(work, events, step))
        if events:
            self._on_recorded()

    def _until_stored(self, write: Callable[[], None]) -> None:
        """Repeat a write to the journal until it is on disk; a full disk may be emptied.

        When the service stops first, the step counts as not done and runs again.
        """
        attempt = 1
        while True:
            try:
                write()
            except Unavailable as error:
                LOG.error("journal: %s", error)
                if self._interrupting.wait(self._backoff.delay(attempt).total_seconds()):
                    return
                attempt += 1
            else:
                return

    def _services_for(self, work: Work) -> Services:
        return replace(
            self._services,
            progress=self._progress.tell,
            checkpoint=lambda: self._check(work),
        )

    def _check(self, work: Work) -> None:
        if self._interrupting.is_set():
            raise Interrupted
        if work.step.type not in CLEANUP and self._services.clock.now() >= work.deadline:
            raise TimedOut(f"the deadline {work.deadline.isoformat()} has passed")
