"""The router: finds hosts for requests, from an index built of events alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tintype.adapters import envelope
from tintype.adapters.clock import SystemClock
from tintype.adapters.memory_engine import MemoryEngine
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_dispatches import SqlDispatches
from tintype.adapters.sql_index import SqlIndex
from tintype.adapters.sql_reservations import SqlReservations
from tintype.config import ConfigError, Settings
from tintype.core.dispatcher import Courier, Dispatcher, Patience
from tintype.core.errors import Unavailable
from tintype.core.events import Requester
from tintype.core.ownership import or_default
from tintype.core.ports import Services
from tintype.core.router import Router
from tintype.core.snapshot import IMAGE_SERVICE
from tintype.core.tidier import Tidier
from tintype.handlers import cleanup
from tintype.schemas import validate
from tintype.stores import make_router_stores

LOG = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
"""How often dispatches are looked at that are due."""

OPEN_SECONDS = 5.0
"""How long a database that is away is left alone."""

HOUSEKEEPING_SECONDS = 300.0
"""How often what is long past is forgotten."""

STALE_SECONDS = 3600.0
"""An index that has heard nothing for so long has missed something: agents tell once an hour."""


class RouterService:
    """One router: the index, the dispatches, and the thread that goes on with them."""

    def __init__(
        self,
        settings: Settings,
        courier: Courier,
        events: Ears,
        requests: Ears,
        requester_of: Callable[[object], Requester] = envelope.requester_of,
    ) -> None:
        """Make the parts; nothing is opened yet. Raises ConfigError."""
        group = settings.router
        try:
            self.database = Database(settings.index_url)
        except ValueError as error:
            raise ConfigError(f"[router] index_url: {error}") from error
        self.index = SqlIndex(self.database)
        self._courier = courier
        self._forget = timedelta(days=group.forget_days)
        self._events = events
        self._requests = requests
        self._stores = make_router_stores(settings)
        self.dispatcher = Dispatcher(
            index=self.index,
            dispatches=SqlDispatches(self.database),
            courier=courier,
            services=Services(
                engine=MemoryEngine(),  # no engine, and so no container, is here
                stores=self._stores,
                clock=SystemClock(),
                host=settings.host,
                default_stores=tuple(self._stores),
            ),
            abort=cleanup.abort,
            patience=Patience(
                host=timedelta(seconds=group.host_timeout),
                unknown=timedelta(seconds=group.unknown_timeout),
                grace=timedelta(seconds=group.grace),
                deadline=timedelta(seconds=settings.agent.default_deadline),
            ),
            hearing=events,
        )
        self._tidier = Tidier(
            reservations=SqlReservations(self.database),
            dispatches=self.dispatcher.dispatches,
            index=self.index,
            images=self._stores.get(IMAGE_SERVICE),
            clock=SystemClock(),
            requests=requests,
        )
        self.router = Router(
            self.dispatcher, validate, or_default(requester_of, settings.default_requester)
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="router", daemon=True)

    def start(self, when_open: Callable[[], None]) -> None:
        """Go on with what is due. `when_open` is called once the index is in shape.

        Does not wait for that: a database that is away is tried again, for as long as it takes.
        """
        self._when_open = when_open
        self._thread.start()

    def on_listening(self) -> None:
        """Fill an index that is new, or has missed something, now that it gets all events."""
        while not self._stopping.is_set():
            try:
                heard_at = self.index.heard_at()
                stale = datetime.now(UTC) - timedelta(seconds=STALE_SECONDS)
                if heard_at is None or datetime.fromisoformat(heard_at) < stale:
                    LOG.info("the index is new or stale: asking all hosts for their containers")
                    self.dispatcher.ask(None)
            except Unavailable as error:
                LOG.warning("hosts are not asked yet: %s", error)
                self._stopping.wait(SWEEP_SECONDS)
            else:
                return

    def begin_stop(self) -> None:
        """Begin nothing new."""
        self._stopping.set()

    def stop(self) -> None:
        """Let another router go on."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(10.0)
        self._courier.close()
        self.database.close()

    def _open(self) -> bool:
        """Bring the index into shape; False when the service is stopped first."""
        while not self._stopping.is_set():
            try:
                self.database.upgrade()
            except Unavailable as error:
                LOG.error("not routing yet: [router] index_url: %s", error)
            except Exception:
                # The thread's edge: without it the process would run on, and route nothing.
                LOG.exception("not routing yet: the index cannot be opened")
            else:
                return True
            self._stopping.wait(OPEN_SECONDS)
        return False

    def _work(self) -> None:
        if not self._open():
            return
        self._when_open()
        kept_house_at = time.monotonic()
        while not self._stopping.wait(SWEEP_SECONDS):
            try:
                self._events.look()
                self._requests.look()
                self.dispatcher.sweep()
                self._tidier.sweep()
                if time.monotonic() - kept_house_at > HOUSEKEEPING_SECONDS:
                    kept_house_at = time.monotonic()
                    before = datetime.now(UTC) - self._forget
                    self.index.prune(before)
                    self.dispatcher.dispatches.prune(before)
                    self._tidier.reservations.prune(before)
            except Unavailable as error:
                # Events are not taken in either while the database is away.
                self._events.interrupted()
                self._requests.interrupted()
                LOG.warning("router: %s", error)
            except Exception:
                # The thread's edge: a defect with one dispatch must not end the others.
                LOG.exception("routing broke")


class Ears:
    """The Hearing of a router with a listener.

    After an interruption, what hosts could not say in it comes late. So hearing is complete only
    when nothing waits and listening has gone on for a while.
    """

    def __init__(
        self, listening: Callable[[], bool], backlog: Callable[[], int], quiet_seconds: float
    ) -> None:
        """Take what tells whether something is heard now, and how much waits to be.

        The second may raise Unavailable. `quiet_seconds`: how long a while is.
        """
        self._listening = listening
        self._backlog = backlog
        self._quiet_seconds = quiet_seconds
        self._since: float | None = None
        self._waiting: int | None = None

    def look(self) -> None:
        """Look whether listening goes on; to be called about once a second."""
        self._waiting = None
        if not self._listening():
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()

    def interrupted(self) -> None:
        """Note that what was said could not be taken in for a while."""
        self._since = None

    def caught_up(self) -> bool:
        """Tell whether nothing waits to be heard; asked of the broker once for each look."""
        if self._waiting is None:
            try:
                self._waiting = self._backlog()
            except Unavailable as error:
                LOG.warning("what waits to be heard is not known: %s", error)
                self.interrupted()
                return False
        return self._listening() and self._waiting == 0

    def complete(self) -> bool:
        """Tell whether nothing waits, and listening was not interrupted for a while."""
        quiet = self._since is not None and time.monotonic() - self._since >= self._quiet_seconds
        return quiet and self.caught_up()
