"""The dispatcher: brings each request to its host, and answers when no host does.

A host that does not take its request in time is given up: the router answers in its stead. That the
host does not come back with its work later is the other half of the bargain, kept by
`handlers.routed.check_in_time`: it begins nothing before the broker has its word that it took the
request, and nothing if that was not before `accept_by` (docs/adr/0009).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from tintype.core.dispatch import Dispatch, Dispatches, DispatchState
from tintype.core.errors import (
    Invalid,
    NotFound,
    Refused,
    TimedOut,
    TintypeError,
    Unavailable,
    Unroutable,
    WrongState,
)
from tintype.core.events import EXISTS_REQUEST, OUTCOMES, Event, Requester
from tintype.core.index import Index, Query
from tintype.core.jobs import ACCEPTED, Fault
from tintype.core.ports import Handler, Services
from tintype.core.routes import ROUTES, Place, Route

LOG = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
"""How long a router has a dispatch to itself; another goes on with it then."""

SOON = timedelta(seconds=1)
"""After this a dispatch that could not go on is looked at again."""


class Courier(Protocol):
    """The router's ways onto the bus. Thread-safe; each returns once the broker has confirmed."""

    def to_host(self, host: str, event: Event, expires: timedelta) -> None:
        """Put an event into a host's queue for so long; raise Unroutable when it has none."""

    def to_agents(self, event: Event) -> None:
        """Send an event to the agents of all hosts; it is fine if there are none."""

    def tell(self, event: Event) -> None:
        """Publish an event to everybody."""

    def close(self) -> None:
        """Release connections."""


class Hearing(Protocol):
    """What a router knows of its own ears. Never raises."""

    def caught_up(self) -> bool:
        """Tell whether nothing waits to be heard now."""

    def complete(self) -> bool:
        """Tell whether all that hosts have said was heard: no interruption for a while, either."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a router waits for what."""

    host: timedelta
    """For a host to take a request."""
    unknown: timedelta
    """For a container to be told of before a request for it is refused: the index may lag."""
    grace: timedelta
    """For a host's word to arrive: clocks differ, and events queue."""
    deadline: timedelta
    """For a request without a deadline to end."""
    cancel: timedelta = timedelta(days=1)
    """For a host to fetch a cancellation."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Goes on with dispatches, whichever router took them."""

    index: Index
    dispatches: Dispatches
    courier: Courier
    services: Services
    """What `abort` is given: stores that are no host's own, and no engine."""
    abort: Handler
    """Undoes and answers a commit: `handlers.cleanup.abort`."""
    patience: Patience
    hearing: Hearing

    def sweep(self) -> int:
        """Go on with all that is due; return how many that were. Raises Unavailable."""
        now = self.services.clock.now()
        due = self.dispatches.claim(now, LEASE)
        for dispatch in due:
            try:
                self._advance(dispatch, now)
            except Unavailable as error:
                LOG.warning("request %s: %s", dispatch.request_id, error)
            except Exception:
                # The edge of one dispatch: its defect must not keep the others waiting.
                LOG.exception("request %s: routing broke", dispatch.request_id)
        return len(due)

    def _advance(self, dispatch: Dispatch, now: datetime) -> None:
        if dispatch.state is DispatchState.ENDED:
            self._answer(dispatch, now)
        elif dispatch.state is DispatchState.PARKED:
            self.route(dispatch, now)
        elif not dispatch.asked and (sought := route_of(dispatch).sought(dispatch)) is not None:
            self._inquire(dispatch, sought, now)
        else:
            accepted = dispatch.state is DispatchState.ACCEPTED
            until = dispatch.deadline if accepted else dispatch.accept_by
            words = "end" if accepted else "take"
            silent = TimedOut(f"host {dispatch.host!r} did not {words} the request by {until}")
            self._give_up_unless_heard(dispatch, silent, now)

    # The way to the host

    def route(self, dispatch: Dispatch, now: datetime, *, ask: bool = False) -> None:
        """Send a parked request to its host, once that is known; `ask` agents while it is not."""
        give_up = min(dispatch.deadline, dispatch.accept_by or dispatch.deadline)
        if now >= give_up:
            where = f"host {dispatch.host!r}" if dispatch.host else "any host"
            late = TimedOut(f"the request could not be brought to {where} by {give_up}")
            self._give_up_unless_heard(dispatch, late, now)
            return
        try:
            place = route_of(dispatch).place(dispatch, self.index)
        except (NotFound, WrongState, Invalid) as error:
            # What was just made, started or finished may not have been told of yet.
            if not self._give_up_unless_told(dispatch, error, now):
                sought = route_of(dispatch).sought(dispatch) if ask else None
                if sought is not None:
                    self.ask(sought)
                self._park(dispatch, now + SOON)
        except Refused as error:
            self.give_up(dispatch, error)
        else:
            self._send(dispatch, place, now)

    def _send(self, dispatch: Dispatch, place: Place, now: datetime) -> None:
        """Bring a request into its host's queue. What it is to look like is recorded before."""
        accept_by = dispatch.accept_by or min(now + self.patience.host, dispatch.deadline)
        known = replace(
            dispatch,
            request=replace(dispatch.request, payload={**dispatch.request.payload, **place.found}),
            host=place.host,
            container_uuid=place.container_uuid,
            accept_by=accept_by,
        )
        if not self.dispatches.replace(known, DispatchState.PARKED):
            return  # another router was quicker, or it was cancelled
        expires = max(accept_by - now, SOON) + self.patience.grace
        try:
            self.courier.to_host(place.host, _forwarded(known), expires)
        except Unroutable as error:
            strange = NotFound(f"/host: no host {place.host!r} is known")
            if self._has_things(place.host) or not self._give_up_unless_told(known, strange, now):
                LOG.warning("request %s waits for its host: %s", dispatch.request_id, error)
                self._park(known, now + SOON)
        except Unavailable as error:
            # The host is not to blame, and so has its whole time from when the bus is back. If it
            # has the request all the same, it takes this one for the same and keeps to the first.
            LOG.warning("request %s waits: %s", dispatch.request_id, error)
            self._park(replace(known, accept_by=None), now + SOON)
        else:
            sent = replace(known, state=DispatchState.SENT, due=accept_by + self.patience.grace)
            self.dispatches.replace(sent, DispatchState.PARKED)

    def _has_things(self, host: str) -> bool:
        """Tell whether anything was ever told of a host, although it has no queue now."""
        one = Query(sort="created_at", limit=1, filters={"host": host})
        return bool(self.index.list_containers(one) or self.index.list_snapshots(one))

    def _give_up_unless_told(self, dispatch: Dispatch, error: TintypeError, now: datetime) -> bool:
        """Give up what no event has put right; False while one may yet come."""
        if now < dispatch.received_at + self.patience.unknown or not self.hearing.caught_up():
            return False
        self.give_up(dispatch, error)
        return True

    def _park(self, dispatch: Dispatch, due: datetime) -> None:
        self.dispatches.replace(replace(dispatch, due=due), DispatchState.PARKED)

    def ask(self, ident: str | None) -> None:
        """Have all agents tell of a container, or of all containers and snapshots."""
        payload = {} if ident is None else {"container": ident}
        self.courier.to_agents(Event(EXISTS_REQUEST, payload, Requester(is_admin=True)))

    # The end without a host

    def _inquire(self, dispatch: Dispatch, sought: str, now: datetime) -> None:
        """Ask a silent host once before it is given up: its word may have got lost on the way."""
        question = Event(EXISTS_REQUEST, {"container": sought}, Requester(is_admin=True))
        try:
            self.courier.to_host(str(dispatch.host), question, self.patience.grace)
        except Unroutable as error:
            LOG.info("request %s: %s", dispatch.request_id, error)
        asked = replace(dispatch, asked=True, due=now + self.patience.grace)
        self.dispatches.replace(asked, dispatch.state)

    def _give_up_unless_heard(self, dispatch: Dispatch, error: TintypeError, now: datetime) -> None:
        """Give a silent host up, but only when it is sure to be silent."""
        if self.hearing.complete():
            self.give_up(dispatch, error)
        else:
            self.dispatches.replace(replace(dispatch, due=now + SOON), dispatch.state)

    def give_up(self, dispatch: Dispatch, error: TintypeError) -> bool:
        """End a request with an error; False when something else became of it meanwhile."""
        now = self.services.clock.now()
        fault = Fault.of(error, ACCEPTED)
        ended = replace(
            dispatch, state=DispatchState.ENDED, fault=fault, due=now + LEASE, attempts=0
        )
        if not self.dispatches.replace(ended, dispatch.state):
            return False
        LOG.warning("request %s: %s", dispatch.request_id, error)
        self._answer(ended, now)
        return True

    def _answer(self, dispatch: Dispatch, now: datetime) -> None:
        """Undo what was begun, tell the error and have the host forget the request.

        What fails is tried again by the next sweep: the fault stays until it is told.
        """
        wait = SOON * 2 ** min(dispatch.attempts, 6)
        attempt = replace(dispatch, attempts=dispatch.attempts + 1, due=now + wait)
        self.dispatches.replace(attempt, DispatchState.ENDED)
        try:
            self._withdraw(dispatch)
            undone = route_of(dispatch).undone
            for event in undone(attempt, self.index, self.services, self.abort):
                if event.type in OUTCOMES:
                    self.courier.tell(event)
                else:
                    LOG.error("request %s: left behind in a store", dispatch.request_id)
        except Unavailable as error:
            LOG.warning("request %s is still to be answered: %s", dispatch.request_id, error)
            return
        self.dispatches.replace(replace(attempt, fault=None), DispatchState.ENDED)

    def _withdraw(self, dispatch: Dispatch) -> None:
        """Have the host, if there is one, end the request without a word."""
        if dispatch.host is None or dispatch.fault is None:
            return
        try:
            self.cancel(
                route_of(dispatch),
                dispatch.host,
                dispatch.request_id,
                # Of that project only: the host may know another's request under this id.
                replace(dispatch.request.requester, is_admin=True),
                reason=dispatch.fault.message[:1000],
                answered=True,
            )
        except Unroutable:
            LOG.info("host %s has no queue, and so no request to withdraw", dispatch.host)

    def cancel(
        self, route: Route, host: str, request_id: str, requester: Requester, **fields: Any
    ) -> None:
        """Have a host stop a request on somebody's behalf. Raises Unroutable, Unavailable."""
        cancel = Event(route.cancel, {"request_id": request_id, **fields}, requester)
        self.courier.to_host(host, cancel, self.patience.cancel)


def route_of(dispatch: Dispatch) -> Route:
    """Return what is particular to the kind of a request."""
    return ROUTES[dispatch.request.type]


def _forwarded(dispatch: Dispatch) -> Event:
    """Return the request as its host is to see it."""
    assert dispatch.accept_by is not None
    about = {} if dispatch.container_uuid is None else {"container": dispatch.container_uuid}
    payload = {
        **dispatch.request.payload,
        **about,
        "host": dispatch.host,
        "deadline": dispatch.deadline.isoformat(),
        "accept_by": dispatch.accept_by.isoformat(),
    }
    return replace(dispatch.request, payload=payload)
