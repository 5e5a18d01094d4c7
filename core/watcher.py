"""The watcher: tells the bus what happens to the containers of this host, missing nothing.

Two threads. One follows the engine's own events from where the last run stopped. The other makes a
full pass over all containers (`container.exists`): at the start, after a lost connection to the
engine, when a router asks, and now and then, for the engine remembers few events and none across
its own restart; it also looks at schedules. All that is told goes through the outbox, together with
the resume point.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tintype.core.engine import Container, Engine, EngineAction, EngineEvent
from tintype.core.errors import NotFound, Refused, Unavailable
from tintype.core.events import (
    CONTAINER_DELETE_START,
    CONTAINER_SCHEDULE,
    SNAPSHOT_EXISTS,
    Event,
    Requester,
    derived_id,
)
from tintype.core.lifecycle import Teller, nanoseconds, of_engine_event, remembered
from tintype.core.ports import Handler, Known, Services, WatchLog
from tintype.core.runner import Backoff

LOG = logging.getLogger(__name__)

WINDOW_SECONDS = 10.0
"""How long one stream of events is followed before the next begins where it ended."""

OVERLAP = 2_000_000_000
"""Nanoseconds by which a stream begins before the last event that was taken: an engine takes an
event's time before it puts it in order, so that an earlier one may come later."""

QUIET = 60_000_000_000
"""Nanoseconds after which the resume point moves on without an event. A host on which nothing
happens would else tell its last events anew at every start, when nobody knows them any more."""

TICK_SECONDS = 1.0
"""How often schedules, and what was asked for, are looked at."""

_LOOKED_AT = frozenset(
    {EngineAction.CREATE, EngineAction.START, EngineAction.RENAME, EngineAction.UPDATE}
)
"""After these a container is inspected: the engine's event mixes its labels with other things."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the watcher calls when it has something."""

    recorded: Callable[[], None]
    """There is something in the outbox."""
    deleted: Callable[[str, Collection[str]], None]
    """The container with this engine id is no more, or soon; requests that may yet go on."""
    snapshots: Callable[[], Sequence[Event]]
    """Returns the latest event of every snapshot that this host knows of."""


class Watcher:
    """Watches one engine until it is stopped.

    `triggers` says which handler is to see an event; what it yields is published with the event.
    """

    def __init__(
        self,
        engine: Engine,
        log: WatchLog,
        *,
        teller: Teller,
        services: Services,
        triggers: Mapping[str, Handler],
        watched: Watched,
        backoff: Backoff,
        exists_seconds: float,
    ) -> None:
        self._engine = engine
        self._log = log
        self._teller = teller
        self._services = services
        self._triggers = triggers
        self._watched = watched
        self._backoff = backoff
        self._exists = timedelta(seconds=exists_seconds)
        self._turn = threading.Lock()
        """Held while the engine is looked at until what it says is recorded."""
        self._lock = threading.Lock()
        """Guards what is known and asked. Held for moments only: listeners wait for it."""
        self._known: dict[str, Known] = {}
        self._seen: deque[tuple[int, EngineAction, str]] = deque(maxlen=256)
        self._asked: set[str | None] = set()
        self._pass_due: datetime | None = None
        self._lost = False
        self._minute: datetime | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("watcher", self._follow_all), ("teller", self._tell_all))
        ]

    def start(self) -> None:
        """Go on where an earlier run stopped."""
        self._known = dict(self._log.known())
        for thread in self._threads:
            thread.start()

    def ask(self, ident: str | None = None) -> None:
        """Tell soon of the container that `ident` stands for; of all, and all snapshots, if None.

        Not remembered across a restart, which makes a full pass itself.
        """
        with self._lock:
            self._asked.add(ident)
        self._wake.set()

    def deleting(self, ident: str, event_id: str, at: str, by: Requester) -> bool:
        """Take note that somebody is about to delete a container; False if it is not known here.

        Only writes to the journal. What it has in hand is cancelled, but for what this triggers.
        """
        with self._lock:
            found = [
                (engine_id, known.payload)
                for engine_id, known in self._known.items()
                if ident in (engine_id, known.payload["container_uuid"])
            ]
        if not found:
            return False
        engine_id, payload = found[0]
        told = {**payload, "event_id": event_id, "occurred_at": at}
        asked = self._triggered(Event(CONTAINER_DELETE_START, told, by, event_id))
        self._log.observe(asked, {})
        self._watched.deleted(engine_id, [event.id for event in asked])
        self._watched.recorded()
        return True

    def stop(self) -> None:
        """Take nothing new. A stream that is open ends by itself; the threads are daemons."""
        self._stopping.set()
        self._wake.set()

    # The stream

    def _follow_all(self) -> None:
        self._repeat("watching", self._follow, lambda: None)

    def _repeat(self, what: str, work: Callable[[], None], idle: Callable[[], object]) -> None:
        """Do something until it is to stop, whatever becomes of it."""
        failures = 0
        while not self._stopping.is_set():
            try:
                work()
            except Unavailable as error:
                failures += 1
                LOG.warning("%s: %s", what, error)
            except Exception:
                # A thread's edge: a defect must not end it, and with it all that it would tell.
                failures += 1
                LOG.exception("%s broke", what)
            else:
                failures = 0
                idle()
                continue
            self._stopping.wait(self._backoff.delay(failures).total_seconds())

    def _follow(self) -> None:
        try:
            self._follow_for_a_while()
        except BaseException:
            self._lost = True
            raise

    def _follow_for_a_while(self) -> None:
        since = self._log.resume_point()
        if since is None:
            since = nanoseconds(self._services.clock.now())
            self._log.observe((), {}, since)
        began = nanoseconds(self._services.clock.now())
        with self._engine.watch(since - OVERLAP, WINDOW_SECONDS) as events:
            if self._lost:
                # The engine may have come up anew and remember nothing. What happens from now on
                # is in the stream, so that nothing falls between it and the pass.
                self._lost = False
                self._pass_due = None
                self._wake.set()
            for event in events:
                if self._stopping.is_set():
                    return
                seen = (event.at, event.action, event.engine_id)
                if seen not in self._seen:
                    since = max(since, event.at)
                    self._take_or_pass_over(event, since)
                    self._seen.append(seen)
        if began - since > QUIET:
            self._log.observe((), {}, began)

    def _take_or_pass_over(self, event: EngineEvent, resume_point: int) -> None:
        """Tell of an event; one that cannot be told must not keep the later ones back."""
        try:
            self._take(event, resume_point)
        except Unavailable:
            raise
        except Exception:
            # What it has led to the next pass tells.
            LOG.exception("%s of container %s is passed over", event.action, event.engine_id)

    def _take(self, event: EngineEvent, resume_point: int) -> None:
        with self._turn:
            before = self._known.get(event.engine_id)
            told = self._teller.happened(self._describe(event, before), event)
            events = [told]
            if (
                before is not None
                and before.payload["container_uuid"] != told.payload["container_uuid"]
            ):
                # Named otherwise, by which other services know it as another one.
                events.insert(0, self._teller.gone(before.payload, self._services.clock.now()))
            gone = event.action is EngineAction.DESTROY
            after = None if gone else remembered(told, before.payload if before else {})
            self._record(events, {event.engine_id: after}, resume_point)
        if gone:
            self._watched.deleted(event.engine_id, ())

    def _describe(self, event: EngineEvent, before: Known | None) -> Mapping[str, Any]:
        if before is not None and event.action not in _LOOKED_AT:
            return before.payload
        if event.action is not EngineAction.DESTROY:
            try:
                container = self._look_at(event.engine_id)
            except (NotFound, Refused):
                container = None  # gone already
            if container is not None:
                described = self._teller.describe(container)
                if event.action is EngineAction.RENAME:
                    # It has its new name, or one newer still; the event is about the one before.
                    described["container_name"] = before and before.payload["container_name"]
                return described
        if before is not None:
            return before.payload
        return self._teller.describe(of_engine_event(event))

    def _look_at(self, ident: str) -> Container | None:
        """Return a container, or None when the engine answers, but cannot tell of this one.

        One of which it has lost a part is answered with an error for ever: waiting for that would
        blind the whole host. Raises NotFound, Refused, and Unavailable without any answer.
        """
        try:
            return self._engine.inspect(ident)
        except Unavailable as error:
            self._engine.check()
            LOG.warning("container %s cannot be looked at: %s", ident, error)
            return None

    def _record(
        self,
        events: Sequence[Event],
        told: Mapping[str, Mapping[str, Any] | None],
        resume_point: int | None = None,
    ) -> None:
        """Publish events and what they trigger, and remember what they tell. Turn held."""
        everything = [each for event in events for each in (event, *self._triggered(event))]
        self._log.observe(everything, told, resume_point)
        with self._lock:
            for engine_id, payload in told.items():
                if payload is None:
                    self._known.pop(engine_id, None)
                    continue
                before = self._known.get(engine_id)
                since = before.since if before else self._services.clock.now().isoformat()
                self._known[engine_id] = Known(payload, since)
        if everything:
            self._watched.recorded()

    def _triggered(self, event: Event) -> Sequence[Event]:
        handler = self._triggers.get(event.type)
        try:
            return [] if handler is None else list(handler(event, self._services))
        except Unavailable:
            raise
        except Exception:
            # A handler's edge: its defect in one container must not keep all others from being
            # told of, again and again.
            uuid = event.payload["container_uuid"]
            LOG.exception("%s of container %s: its handler broke", event.type, uuid)
            return []

    # The passes

    def _tell_all(self) -> None:
        self._repeat("telling", self._tell, lambda: self._wake.wait(TICK_SECONDS))

    def _tell(self) -> None:
        self._wake.clear()
        now = self._services.clock.now()
        with self._lock:
            asked, self._asked = self._asked, set()
        try:
            self._tell_what_is_asked(asked, now)
        except BaseException:
            with self._lock:
                self._asked |= asked
            raise
        finally:
            self._look_at_schedules(now)

    def _tell_what_is_asked(self, asked: Collection[str | None], now: datetime) -> None:
        for ident in asked:
            if ident is not None:
                self._tell_of(ident, now)
        due = self._pass_due
        if None in asked or due is None or now >= due:
            self._pass_due = now + self._exists
            try:
                self._pass(now)
                if None in asked:
                    self._tell_of_snapshots(self._watched.snapshots(), now)
            except BaseException:
                self._pass_due = None
                raise

    def _pass(self, now: datetime) -> None:
        """Tell of every container, and of those gone whose end the engine did not tell."""
        with self._turn:
            there = {each.engine_id: each for each in self._engine.containers()}
            told: dict[str, Mapping[str, Any] | None] = {
                engine_id: self._as_known(self._teller.describe(container))
                for engine_id, container in there.items()
            }
            gone = [engine_id for engine_id in self._known if engine_id not in there]
            for engine_id in gone:
                # First, for once it is recorded that they are gone nobody would do it again.
                self._watched.deleted(engine_id, ())
            events = [self._teller.gone(self._known[each].payload, now) for each in gone]
            events += [self._teller.exists(known, now) for known in told.values() if known]
            self._record(events, told | dict.fromkeys(gone))

    def _as_known(self, described: dict[str, Any]) -> dict[str, Any]:
        """Keep an image's name once told: a list has its digest when the name has moved on."""
        known = self._known.get(described["engine_container_id"])
        if known is not None and str(described["base_image"]).startswith("sha256:"):
            described["base_image"] = known.payload["base_image"]
        return described

    def _tell_of(self, ident: str, now: datetime) -> None:
        """Tell of one container and its snapshots, if there are any."""
        self._tell_of_snapshots(
            [
                event
                for event in self._watched.snapshots()
                if ident in (event.payload["container_uuid"], event.payload["engine_container_id"])
            ],
            now,
        )
        with self._turn:
            try:
                container = self._look_at(ident)
            except (NotFound, Refused):
                return  # not here, or not to be told which: whoever is asked and knows, answers
            known = self._teller.describe(container) if container else self._known_as(ident)
            if known is None:
                return
            told = {str(known["engine_container_id"]): known}
            self._record([self._teller.exists(known, now)], told)

    def _known_as(self, ident: str) -> Mapping[str, Any] | None:
        """Return what was told of the one container that `ident` stands for."""
        names = ("engine_container_id", "container_uuid", "container_name")
        found = [
            known.payload
            for known in self._known.values()
            if ident in [known.payload[name] for name in names]
        ]
        return found[0] if len(found) == 1 else None

    def _tell_of_snapshots(self, snapshots: Sequence[Event], now: datetime) -> None:
        """Tell how every snapshot stands, without a word that could be taken for its outcome."""
        again = [
            Event(
                SNAPSHOT_EXISTS,
                event.payload,
                event.requester,
                derived_id(event.payload["request_id"], SNAPSHOT_EXISTS, now.isoformat()),
            )
            for event in snapshots
        ]
        if again:
            self._log.observe(again, {})
            self._watched.recorded()

    # Schedules

    def _look_at_schedules(self, now: datetime) -> None:
        minute = now.replace(second=0, microsecond=0)
        if minute == self._minute:
            return  # no expression is finer than a minute
        before = self._log.ticked_at() or now
        with self._lock:
            known = tuple(self._known.values())
        asked: list[Event] = []
        for each in known:
            since = max(before, datetime.fromisoformat(each.since))
            span = {"since": since.isoformat(), "now": now.isoformat()}
            step = Event(CONTAINER_SCHEDULE, {**each.payload, **span})
            asked += self._triggered(step)
        self._log.tick(asked, now)
        self._minute = minute
        if asked:
            self._watched.recorded()
