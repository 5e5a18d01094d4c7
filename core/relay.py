"""The relay: carries recorded events from the outbox to the bus, in order, as long as it takes."""

from __future__ import annotations

import logging
import threading

from tintype.core.errors import Unavailable
from tintype.core.events import OUTCOMES, Event
from tintype.core.ports import Outbox, Publisher
from tintype.core.runner import IDLE_SECONDS, Backoff
from tintype.core.snapshot import ACCEPTED

LOG = logging.getLogger(__name__)

BATCH = 100
"""Events read from the outbox at once."""


class Relay:
    """One thread that publishes; a row leaves the outbox only on the broker's confirm."""

    def __init__(self, outbox: Outbox, publisher: Publisher, backoff: Backoff) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._backoff = backoff
        self._progress: dict[str, Event] = {}
        self._lock = threading.Lock()
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
        for row in rows:
            self._publisher.publish(row.event)
            self._outbox.confirm(row)
        if len(rows) == BATCH:
            return True  # a progress event's start may be among what is still to come: drop it
        for request_id, event in progress.items():
            if request_id not in ended:
                self._publisher.publish(event)
        return False
