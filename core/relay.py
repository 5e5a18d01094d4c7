"""The relay: carries recorded events from the outbox to the bus, in order, as long as it takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import datetime

from tintype.core.errors import Unavailable
from tintype.core.events import OUTCOMES, Event
from tintype.core.jobs import ACCEPTED
from tintype.core.ports import Outbox, OutboxRow, Publisher
from tintype.core.runner import IDLE_SECONDS, Backoff

LOG = logging.getLogger(__name__)

BATCH = 100
"""Events read from the outbox at once."""

CONFIRM_SECONDS = 5.0
"""How long a step waits for the broker to take an event, before it gives its worker back."""


class Relay:
    """One thread that publishes; a row leaves the outbox only on the broker's confirm."""

    def __init__(self, outbox: Outbox, publisher: Publisher, backoff: Backoff) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._backoff = backoff
        self._progress: dict[str, Event] = {}
        self._lock = threading.Lock()
        self._confirmed = threading.Condition()
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="relay", daemon=True)

    def start(self) -> None:
        """Publish what an earlier run left, then whatever comes."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the outbox now."""
        self._news.set()

    def offer(self, progress: Event) -> None:
        """Publish a progress event if that is possible at once; only a request's latest is kept.

        One from before the request is accepted is not for the bus: nothing precedes its start.
        """
        if progress.payload["phase"] == ACCEPTED:
            return
        with self._lock:
            self._progress[progress.payload["request_id"]] = progress
        self._news.set()

    def confirmed_at(self, event_id: str) -> datetime | None:
        """Return when the broker took a recorded event; waits a moment for it to do so."""
        give_up = time.monotonic() + CONFIRM_SECONDS
        with self._confirmed:
            while (at := self._outbox.confirmed_at(event_id)) is None:
                left = give_up - time.monotonic()
                if left <= 0 or self._stopping.is_set():
                    return None
                self._confirmed.wait(min(left, 0.2))
            return at

    def stop(self, seconds: float) -> None:
        """Try once more to publish what is pending, for `seconds` at most; the rest stays recorded.

        A bus that is away must not hold up the stop: the next start goes on.
        """
        self._stopping.set()
        self._news.set()
        self._thread.join(seconds)

    def _work(self) -> None:
        failures = 0
        while True:
            last_round = self._stopping.is_set()
            self._news.clear()
            try:
                busy = self._round()
                failures = 0
            except Unavailable as error:
                failures += 1
                busy = False
                LOG.warning("bus: %s; events are kept and tried again", error)
            except Exception:
                # The relay's edge: a defect must not end the thread, and with it all answers.
                failures += 1
                busy = False
                LOG.exception("bus: publishing broke; events are kept and tried again")
            if last_round and not busy:
                return
            if failures:
                self._stopping.wait(self._backoff.delay(failures).total_seconds())
            elif not busy:
                self._news.wait(IDLE_SECONDS)

    def _round(self) -> bool:
        """Publish one batch and the latest progress; tell whether there may be more."""
        with self._lock:
            # Taken before the outbox is read: what ends a request is recorded after its progress.
            progress, self._progress = self._progress, {}
        rows = self._outbox.pending(BATCH)
        ended = {row.event.payload["request_id"] for row in rows if row.event.type in OUTCOMES}
        with self._lock:
            # What came in between may be of a request that is about to be answered.
            for request_id in ended:
                self._progress.pop(request_id, None)
        self._publish(rows)
        if len(rows) == BATCH:
            return True  # a progress event's start may be among what is still to come: drop it
        for request_id, event in progress.items():
            if request_id not in ended:
                self._publisher.publish(event)
        return False

    def _publish(self, rows: Sequence[OutboxRow]) -> None:
        """Publish in order, and confirm together what the broker took: each write waits for a disk.

        A kill in between publishes some again, under the same event ids.
        """
        taken = 0
        try:
            for row in rows:
                self._publisher.publish(row.event)
                taken += 1
        finally:
            if taken:
                self._outbox.confirm(rows[:taken])
                with self._confirmed:
                    self._confirmed.notify_all()
