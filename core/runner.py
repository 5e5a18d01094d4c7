"""The runner: worker threads that take steps from the journal and run their handlers.

The unit of work is a step, not a request: between two steps nothing is in memory that is not in the
journal, so a step boundary is the safe point at which a worker can stop.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tintype.core.errors import (
    Cancelled,
    Internal,
    Interrupted,
    TimedOut,
    TintypeError,
    Unavailable,
)
from tintype.core.events import ENDS, Event
from tintype.core.ports import Cancellation, Handler, Journal, Services, Work
from tintype.core.steps import CLEANUP, REQUESTS, answer_to_unusable, job_of

LOG = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""How long an idle worker sleeps unless it is woken."""

ANSWERED = "its router has answered the request"
"""Reason of a cancellation that comes while a request's end is being recorded."""


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
        self._abandoned = threading.Event()
        self._running: dict[str, Work] = {}
        self._cancelled: dict[str, Cancellation] = {}
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

    def cancel(self, request_id: str, cancellation: Cancellation) -> bool:
        """Stop a request at its next safe point; False when it is unknown or has its outcome."""
        if not self._journal.cancel(request_id, cancellation):
            return False
        # For the step that runs now; the journal tells all later ones. That it was answered counts
        # whoever else cancels it.
        if cancellation.answered:
            self._cancelled[request_id] = cancellation
        else:
            self._cancelled.setdefault(request_id, cancellation)
        self.wake()
        return True

    def stop(self, graceful_seconds: float, hard_seconds: float = 5.0) -> tuple[Work, ...]:
        """Take nothing new and let running steps end; interrupt those that take longer.

        Returns the steps that could not even be interrupted. Whatever still becomes of them is not
        recorded, for the caller may now thaw a container under its commit: they run again at the
        next start.
        """
        self._stopping.set()
        self.wake()
        self._join(graceful_seconds)
        self._interrupting.set()
        self._join(hard_seconds)
        self._abandoned.set()
        return tuple(self._running.values())

    def _join(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                work = self._journal.claim(self._services.clock.now(), len(self._threads))
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
            except Exception as defect:  # noqa: BLE001 - see the next line
                # The last edge: what not even failing can be done with must end as an answer too.
                self._give_up(work, defect)
            del self._running[work.request_id]
            self._cancelled.pop(work.request_id, None)
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
            self._postpone(work, self._services.clock.now())
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
        self._record(
            work, outgoing, following[0] if following else None, self._undo(work, outgoing)
        )

    def _undo(self, work: Work, events: list[Event]) -> Event | None:
        """Return what follows instead of the request's end if somebody else has answered it.

        Whoever has answered has said that it failed: what was made must not stay. Only the journal
        knows for certain, for that may come at any instant.
        """
        if all(event.type not in ENDS for event in events):
            return None
        cancelled = self._cancellation(work)
        error = Cancelled(ANSWERED if cancelled is None else cancelled.reason)
        before = job_of(work.step, host=self._services.host, now="")
        return before.failed(work.step.type, error).step(before.ABORT)

    def _failed(self, work: Work, error: TintypeError) -> None:
        """Try again later, or turn to undoing."""
        step = work.step
        now = self._services.clock.now()
        before = job_of(step, host=self._services.host, now=now.isoformat())
        job = before.failed(step.type, error)
        LOG.warning(
            "request %s: %s, attempt %d: %s: %s",
            work.request_id,
            step.type,
            step.attempt,
            type(error).__name__,
            error,
        )
        if step.type in CLEANUP:
            self._postpone(work, now + self._backoff.delay(step.attempt))
        elif error.retryable and not job.exhausted(step.type, error):
            key = f"{step.type}/{step.attempt}"
            self._progress.tell(job.event(job.PROGRESS, status="waiting", key=key))
            until = min(now + self._backoff.delay(step.attempt), max(work.deadline, now))
            again = None if step.type in REQUESTS else job.step(step.type, fault=None)
            self._postpone(work, until, again)
        else:
            self._record(work, [], job.after(step.type, error))

    def _give_up(self, work: Work, defect: Exception) -> None:
        """Answer and bury a request whose step cannot be run nor fail, as one of another version.

        Its captures are found by their tags, and removed since nobody waits for them any more.
        """
        LOG.critical("request %s: %s is unusable", work.request_id, work.step.type, exc_info=defect)
        error = Internal(f"the journaled step {work.step.type!r} cannot be used")
        now = self._services.clock.now().isoformat()
        answer = answer_to_unusable(work, error, host=self._services.host, now=now)
        kept = {"step": work.step.type, "payload": work.step.payload}
        reason = f"request {work.request_id}: {error}"
        self._until_stored(lambda: self._journal.reject(work.request_id, reason, kept, None))
        self._record(work, [] if answer is None else [answer], None)

    def _postpone(self, work: Work, until: datetime, step: Event | None = None) -> None:
        self._until_stored(lambda: self._journal.postpone(work, until, step))

    def _record(
        self, work: Work, events: list[Event], step: Event | None, undo: Event | None = None
    ) -> None:
        if step is None or step.type in CLEANUP:
            self._progress.forget(work.request_id)
        self._until_stored(lambda: self._journal.record(work, events, step, undo=undo))
        if events:
            self._on_recorded()

    def _until_stored(self, write: Callable[[], object]) -> None:
        """Repeat a write to the journal until it is on disk; a full disk may be emptied.

        When the service stops first, the step counts as not done and runs again.
        """
        attempt = 1
        while not self._abandoned.is_set():
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

    def _cancellation(self, work: Work) -> Cancellation | None:
        recorded = work.cancelled
        if recorded is not None and recorded.answered:
            return recorded
        return self._cancelled.get(work.request_id, recorded)

    def _check(self, work: Work) -> None:
        if self._interrupting.is_set():
            raise Interrupted
        if work.step.type in CLEANUP:
            return
        cancelled = self._cancellation(work)
        if cancelled is not None:
            raise Cancelled(cancelled.reason)
        if self._services.clock.now() >= work.deadline:
            raise TimedOut(f"the deadline {work.deadline.isoformat()} has passed")
