"""The router: takes requests and events off the bus, into the dispatches and the index.

Its memory are these two, which all routers of one index share. So any number of routers take
requests off one queue, and any of them goes on with what another left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from tintype.core.dispatch import Dispatch, DispatchState
from tintype.core.dispatcher import LEASE, Dispatcher, route_of
from tintype.core.errors import (
    Cancelled,
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    TintypeError,
    Unavailable,
    Unroutable,
    WrongState,
)
from tintype.core.events import (
    CONTAINER_DELETE,
    CONTAINER_DELETE_START,
    OUTCOMES,
    RESTORE_REQUEST,
    SNAPSHOT_EXISTS,
    Event,
    Message,
    Requester,
    fingerprint,
    unwrapped,
)
from tintype.core.index import TOLD_OF, JobRecord, Sighting
from tintype.core.intake import (
    CANCELLED,
    Taker,
    Validator,
    answer_to,
    check,
    conflict,
    deadline_of,
    kept,
    message_print,
    request_id_of,
    request_of,
    request_print,
    taker_of,
)
from tintype.core.jobs import ACCEPTED
from tintype.core.ownership import may_use
from tintype.core.ports import Admission
from tintype.core.routes import (
    CANCELLING,
    ROUTES,
    TELLING,
    Route,
    check_has_place,
    is_of_project,
)

LOG = logging.getLogger(__name__)

COMING = timedelta(minutes=1)
"""How long a cancellation waits for its request, which it has overtaken on the bus."""

_OF_CONTAINERS = TOLD_OF | {CONTAINER_DELETE_START}


@dataclass(frozen=True, slots=True)
class Router:
    """Takes what comes. Its callbacks write to the database and send on, and wait for nothing."""

    dispatcher: Dispatcher
    validate: Validator
    requester_of: Callable[[Any], Requester]
    """Reads a message's context, which may be anything."""

    # Requests

    def on_request(self, message: Message) -> None:
        """Take a message off the topic of requests, or answer and keep it. Raises Unavailable."""
        try:
            self.take(message)
        except (Invalid, Refused) as error:
            self._reject(message, error)

    def on_garbage(self, reason: str, message: Mapping[str, Any]) -> None:
        """Keep something that was not even a message."""
        LOG.warning("dead letter: %s", reason)
        self.dispatcher.dispatches.reject(fingerprint(reason, message), reason, message)

    def take(self, message: Message) -> None:
        """Send a request on, or park it. Raises Invalid, Refused, Unavailable."""
        takers: Mapping[str, Taker] = {
            **dict.fromkeys(ROUTES, self._take_request),
            **dict.fromkeys(CANCELLING, self._take_cancel),
        }
        taker = taker_of(message, takers, self.validate)
        taker(message, self.requester_of(message.context))

    def _take_request(self, message: Message, requester: Requester) -> None:
        request = request_of(message, requester)
        if "accept_by" in request.payload:
            raise Invalid("/accept_by: expected nothing, for only routers set it")
        if request.type == RESTORE_REQUEST:
            check_has_place(request.payload)
        dispatches = self.dispatcher.dispatches
        if dispatches.get(request.id) is None and self._is_in_hand(request):
            return
        now = self.dispatcher.services.clock.now()
        deadline = deadline_of(request, now, self.dispatcher.patience.deadline)
        fresh = Dispatch(request.id, request_print(request), request, now, deadline, now + LEASE)
        admission = dispatches.admit(fresh)
        if admission is Admission.CONFLICT:
            raise conflict(request.id)
        dispatch = fresh if admission is Admission.NEW else dispatches.get(request.id)
        if dispatch is not None and dispatch.state is DispatchState.PARKED:
            self.dispatcher.route(dispatch, now, ask=True)

    def _is_in_hand(self, request: Event) -> bool:
        """Tell whether a host has this request already, by another way or before a rebuilt index.

        Raises RequestConflict when what it has under this id is another request.
        """
        route = ROUTES[request.type]
        known = route.known(self.dispatcher.index, request.id)
        if known is None or not known.told:
            return False
        same = route.same(request, known.payload)
        if not same or request.requester.project_id not in (None, known.payload["project_id"]):
            raise conflict(request.id)
        return True

    def _take_cancel(self, message: Message, requester: Requester) -> None:
        request_id = message.payload["request_id"].lower()
        route, dispatch, known = self._named(request_id, CANCELLING[message.event_type])
        if dispatch is None and known is not None and self._is_promised(known):
            raise Unavailable(f"request {request_id} is promised, but not here yet")
        if dispatch is not None:
            project_id, host = dispatch.request.requester.project_id, dispatch.host
        elif known is not None:
            project_id, host = known.payload["project_id"], known.payload["host"]
        else:
            raise NotFound(f"/request_id: no request {request_id} is known")
        if not may_use(project_id, requester):
            raise Forbidden(f"/request_id: {request_id} is another project's")
        reason = message.payload.get("reason") or CANCELLED
        if (
            dispatch is not None
            and dispatch.state is DispatchState.PARKED
            and self.dispatcher.give_up(dispatch, Cancelled(reason))
        ):
            return
        fault = known and known.payload["fault"]
        if fault and fault["code"] == Cancelled.code:
            return  # the same once more
        if host is None or (dispatch is not None and dispatch.state is DispatchState.ENDED):
            raise WrongState(f"/request_id: {request_id} has ended already")
        try:
            self.dispatcher.cancel(route, host, request_id, requester, reason=reason)
        except Unroutable as error:
            raise Refused(f"host {host!r} cannot be told to stop {request_id}: {error}") from error

    def _named(
        self, request_id: str, first: Route
    ) -> tuple[Route, Dispatch | None, JobRecord | None]:
        """Return of which kind a request is, and what is known of it here.

        What cancels a snapshot cancels a restore as well, on hosts and here; `first` is the kind
        that was named, which counts where the id is of both.
        """
        sent = self.dispatcher.dispatches.get(request_id)
        for route in (first, *(each for each in ROUTES.values() if each is not first)):
            dispatch = sent if sent is not None and route_of(sent) is route else None
            known = route.known(self.dispatcher.index, request_id)
            if dispatch is not None or known is not None:
                return route, dispatch, known
        return first, None, None

    def _is_promised(self, known: JobRecord) -> bool:
        """Tell whether a request is about to come: the REST service has only just published it."""
        promised_at = datetime.fromisoformat(known.payload["created_at"])
        return not known.told and self.dispatcher.services.clock.now() < promised_at + COMING

    def _reject(self, message: Message, error: TintypeError) -> None:
        LOG.warning("dead letter: %s", error)
        services = self.dispatcher.services
        self.dispatcher.dispatches.reject(message_print(message), str(error), kept(message))
        requester = self.requester_of(message.context)
        meant = replace(message, event_type=self._meant(message))
        answer = answer_to(meant, requester, error, services.host, services.clock.now())
        if answer is not None:
            self.dispatcher.courier.tell(answer)

    def _meant(self, message: Message) -> Any:
        """Return as what a message is to be answered: a cancellation as that of what it names."""
        if not isinstance(message.event_type, str) or message.event_type not in CANCELLING:
            return message.event_type
        route, _, _ = self._named(request_id_of(message), CANCELLING[message.event_type])
        return route.cancel

    # Events

    def on_event(self, message: Message) -> None:
        """Take a notification into the index; most are about other things. Raises Unavailable."""
        kind = message.event_type
        if not isinstance(kind, str):
            return
        if kind in _OF_CONTAINERS:
            message = replace(message, payload=unwrapped(message.payload))
            if self._is_valid(message):
                self._container_event(message)
        elif kind in TELLING and self._is_valid(message):
            self._job_event(message)

    def _is_valid(self, message: Message) -> bool:
        try:
            check(self.validate(message.event_type, message.payload))
        except Invalid as error:
            LOG.warning("dead letter: %s: %s", message.event_type, error)
            dispatches = self.dispatcher.dispatches
            dispatches.reject(message_print(message), str(error), kept(message))
            return False
        return True

    def _container_event(self, message: Message) -> None:
        sighting = Sighting.read(message, self.dispatcher.services.clock.now())
        if sighting is not None:
            self.dispatcher.index.sight([sighting])
        if message.event_type == CONTAINER_DELETE_START:
            self._announce_deletion(message)
        elif message.event_type == CONTAINER_DELETE and sighting is not None:
            for dispatch in self.dispatcher.dispatches.of_container(sighting.uuid):
                self._stop_for_deletion(dispatch)

    def _announce_deletion(self, message: Message) -> None:
        """Tell the host: it may want a snapshot first, and must not go on with others."""
        payload = message.payload
        uuid = str(payload.get("container_uuid") or payload["uuid"]).lower()
        record = self.dispatcher.index.container(uuid)
        # What its own agent calls the host counts: others may have another name for it.
        host = (record and record.host) or payload.get("host")
        if not host:
            LOG.info("the deletion of container %s concerns no known host", uuid)
            return
        event_id = payload.get("event_id") or message.message_id or message_print(message)
        told = {**payload, "container_uuid": uuid, "event_id": event_id}
        event = Event(CONTAINER_DELETE_START, told, self.requester_of(message.context))
        try:
            self.dispatcher.courier.to_host(host, event, self.dispatcher.patience.host)
        except Unroutable as error:
            LOG.warning("host %s is not told of the deletion of %s: %s", host, uuid, error)

    def _stop_for_deletion(self, dispatch: Dispatch) -> None:
        reason = f"container {dispatch.container_uuid} was deleted"
        if dispatch.state is DispatchState.PARKED and self.dispatcher.give_up(
            dispatch, Cancelled(reason)
        ):
            return
        if dispatch.host is not None:
            owner = dispatch.request.requester
            try:
                self.dispatcher.cancel(
                    route_of(dispatch), dispatch.host, dispatch.request_id, owner, reason=reason
                )
            except Unroutable as error:
                LOG.warning("request %s: %s", dispatch.request_id, error)

    def _job_event(self, message: Message) -> None:
        payload, kind = message.payload, message.event_type
        route, request_id = TELLING[kind], str(payload["request_id"])
        if payload[route.job.SUBJECT] != route.subject_id_for(request_id):
            return  # the answer to a message that was refused, whatever request it named
        if kind != route.job.ACCEPTANCE:
            self.dispatcher.index.note([route.record.read(message)])
        dispatch = self.dispatcher.dispatches.get(request_id)
        if dispatch is None or route_of(dispatch) is not route:
            return
        if not is_of_project(dispatch, payload["project_id"]):
            return  # another's request under the same id
        if kind in OUTCOMES or (kind == SNAPSHOT_EXISTS and payload["finished_at"] is not None):
            now = self.dispatcher.services.clock.now()
            self.dispatcher.dispatches.heard(request_id, DispatchState.ENDED, now)
        elif kind in (route.job.ACCEPTANCE, route.start) or payload["phase"] != ACCEPTED:
            due = dispatch.deadline + self.dispatcher.patience.grace
            self.dispatcher.dispatches.heard(request_id, DispatchState.ACCEPTED, due)
