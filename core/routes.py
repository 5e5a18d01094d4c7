"""What is particular to each kind of request: where it goes, and what undoes and answers it.

A commit goes where its container is, a restore where its request says, else where its snapshot was
made. All else is the same for both: `core.dispatcher` and `core.router`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from tintype.core.dispatch import Dispatch
from tintype.core.errors import Invalid, NotFound, WrongState
from tintype.core.events import (
    COMMIT_CANCEL,
    COMMIT_REQUEST,
    RESTORE_CANCEL,
    RESTORE_END,
    RESTORE_ERROR,
    RESTORE_PROGRESS,
    RESTORE_REQUEST,
    RESTORE_START,
    SNAPSHOT_END,
    SNAPSHOT_ERROR,
    SNAPSHOT_EXISTS,
    SNAPSHOT_PREFLIGHT,
    SNAPSHOT_PROGRESS,
    SNAPSHOT_START,
    Event,
)
from tintype.core.images import ImageStore
from tintype.core.index import (
    ContainerRecord,
    Index,
    JobRecord,
    RestoreRecord,
    SnapshotRecord,
)
from tintype.core.jobs import ACCEPTED, Job
from tintype.core.ownership import may_use
from tintype.core.ports import Handler, Services
from tintype.core.resolution import choose
from tintype.core.restore import Restore, restore_id_for
from tintype.core.snapshot import (
    ABORT,
    IMAGE_SERVICE,
    LOST,
    Copy,
    Snapshot,
    image_id_for,
    snapshot_id_for,
)

HOSTS_OWN = "directory"
"""The store of which every host has its own."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes."""

    host: str
    container_uuid: str | None = None
    """Container that it is about; None: one that is to be made."""
    found: Mapping[str, str] = field(default_factory=dict)
    """Fields that the request leaves open, and the index knows."""


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of request."""

    job: type[Job]
    """What it asks for."""
    subject_id_for: Callable[[str], str]
    """From a request's id to that of what comes of it."""
    record: type[SnapshotRecord | RestoreRecord]
    known: Callable[[Index, str], JobRecord | None]
    """Returns what the index knows of the job of a request."""
    cancel: str
    """Type of the message that stops one."""
    start: str
    """Type of the event that tells that the work has begun."""
    told: frozenset[str]
    """Events that tell how one stands, but those that a host has taken one."""
    same: Callable[[Event, Mapping[str, Any]], bool]
    """Tells whether what is known under its id can have come of a request."""
    place: Callable[[Dispatch, Index], Place]
    """Finds out where it goes. Raises NotFound, WrongState and Invalid, which the next event may
    put right, and Refused."""
    sought: Callable[[Dispatch], str | None]
    """Returns the container for which agents are asked while the place is not known."""
    undone: Callable[[Dispatch, Index, Services, Handler], Iterable[Event]]
    """Undoes what was begun, as far as it was heard of, and returns the answer. Raises Unavailable.
    The handler is that of a snapshot's abort."""


# Commits


def _is_snapshot_of(request: Event, known: Mapping[str, Any]) -> bool:
    asked = request.payload["image_name"], request.payload.get("tag", "latest")
    return asked == (known["image_name"], known["tag"])


def _container_place(dispatch: Dispatch, index: Index) -> Place:
    """Return where the container is; where the request was once on its way, that one of then."""
    record = choose(_candidates(dispatch, index), dispatch.request)
    assert record.host is not None
    return Place(record.host, record.uuid)


def _candidates(dispatch: Dispatch, index: Index) -> Sequence[ContainerRecord]:
    """Return what a request may mean.

    Others' containers only where none is the requester's own: so that he hears of it.
    """
    requester = dispatch.request.requester
    ident = dispatch.container_uuid or dispatch.request.payload["container"]
    own = index.find(ident, lambda record: may_use(record.project_id, requester))
    return own or index.find(ident)


def _snapshot_undone(
    dispatch: Dispatch, index: Index, services: Services, abort: Handler
) -> Iterable[Event]:
    begun = Snapshot.begin(
        dispatch.request,
        host=dispatch.host or services.host,
        created_at=dispatch.received_at.isoformat(),
    )
    uuid = dispatch.container_uuid
    record = None if uuid is None else index.container(uuid)
    undoing = replace(
        begun,
        fault=dispatch.fault,
        container_uuid=uuid,
        container_name=(record and record.name) or dispatch.request.payload["container"],
        copies=_copies(dispatch, index, services),
    )
    return abort(undoing.step(ABORT, attempt=dispatch.attempts), services)


def _copies(dispatch: Dispatch, index: Index, services: Services) -> tuple[Copy, ...]:
    """Return the images that there may be of a request.

    What its host has told of, it has made. Of others it is not known whether they are there, nor
    whose they are: they are deleted only if they wait for data of this project.
    """
    known = index.snapshot(dispatch.request_id)
    if known is not None and _is_of(known, dispatch):
        # One that still waits in its first phase may not have reserved what it tells of.
        waits = (known.payload["phase"], known.payload["status"]) == (ACCEPTED, "waiting")
        return tuple(_copy(each, reserved=not waits) for each in known.payload["stores"])
    request = dispatch.request.payload
    if request.get("dry_run"):
        return ()  # an image that was reserved for it stays
    given, names = request.get("image_id"), request.get("stores") or services.default_stores[:1]
    if given is not None:
        # Nobody but the image service reserves images beforehand.
        reserved = not names or IMAGE_SERVICE in names
        return (Copy(IMAGE_SERVICE, given),) if reserved else ()
    if dispatch.host is None:
        return ()
    derived = image_id_for(dispatch.request_id)
    stores = [services.stores[name] for name in names if name in services.stores]
    return tuple(Copy(store.name, derived, _repository(store, request)) for store in stores)


def _repository(store: ImageStore, request: Mapping[str, Any]) -> str | None:
    """Return where the image would be; a host refuses what cannot be before it makes one."""
    try:
        return store.repository_for(request["image_name"], request.get("repository"))
    except Invalid:
        return None


def _copy(told: Mapping[str, Any], *, reserved: bool) -> Copy:
    # A store may have been given up because the image is somebody else's.
    ours = reserved and told["status"] != LOST
    # Hosts of the version before know of no repositories.
    return Copy(told["name"], told["image_id"], told.get("repository"), reserved=ours)


def _is_of(snapshot: SnapshotRecord, dispatch: Dispatch) -> bool:
    """Tell whether a snapshot in hand is the one that its host makes of this very request.

    Not one that has ended, whose image is nobody's to delete, nor another request's under its id,
    nor one that no host has told of.
    """
    payload = snapshot.payload
    return (
        snapshot.told
        and not snapshot.ended
        and payload["host"] == dispatch.host
        and is_of_project(dispatch, payload["project_id"])
    )


def is_of_project(dispatch: Dispatch, project_id: str | None) -> bool:
    """Tell whether a host says this project of a dispatch; where it names none, hosts may."""
    return dispatch.request.requester.project_id in (None, project_id)


# Restores


def _is_restore_of(request: Event, known: Mapping[str, Any]) -> bool:
    """Compare what both tell: an image's name may stand for another image by now."""
    given = str(request.payload.get("snapshot_id")).lower()
    ids = {"snapshot_id": {given, snapshot_id_for(given)}}
    ids["image_id"] = {str(request.payload.get("image_id")).lower()}
    both = [name for name in ids if request.payload.get(name) and known[name]]
    return all(known[name].lower() in ids[name] for name in both)


def check_has_place(payload: Mapping[str, Any]) -> None:
    """Raise Invalid for a request that names neither a host nor a snapshot, which has one."""
    if payload.get("host") is None and payload.get("snapshot_id") is None:
        raise Invalid.at("/host", "the host that is to have the container", "none")


def _snapshot_place(dispatch: Dispatch, index: Index) -> Place:
    """Return the host that the request names, else the snapshot's; whose that is, is looked at."""
    payload = dispatch.request.payload
    check_has_place(payload)
    ident = payload.get("snapshot_id")
    host = dispatch.host or payload.get("host")
    known = None if ident is None else index.find_snapshot(ident.lower())
    if known is not None:
        if not may_use(known.payload["project_id"], dispatch.request.requester):
            raise NotFound(f"/snapshot_id: no snapshot {ident} is known")
        check_restorable(known)
        host = host or str(known.payload["host"])
    if host is None:
        raise Invalid.at("/host", f"a host, for no snapshot {ident} is known", "none")
    return Place(host, found={} if known is None else _store_of(payload, known, host))


def _store_of(request: Mapping[str, Any], snapshot: SnapshotRecord, host: str) -> dict[str, str]:
    """Return store and repository of a snapshot's image, for a request that leaves both open.

    A host looks by itself in all its stores, but cannot in a registry that lists no repositories.
    So where the image is in several stores nothing is returned, for one of them may have lost it or
    be unknown on that host, unless all of them are such.
    """
    if request.get("store") is not None or request.get("repository") is not None:
        return {}
    at_home = snapshot.payload["host"] == host
    copies = [
        copy
        for copy in snapshot.payload["stores"]
        if copy["status"] == "active" and (at_home or copy["name"] != HOSTS_OWN)
    ]
    if not copies or (len(copies) > 1 and not all(copy.get("repository") for copy in copies)):
        return {}
    place = {"store": copies[0]["name"], "repository": copies[0].get("repository")}
    return {name: text for name, text in place.items() if text is not None}


def check_restorable(snapshot: SnapshotRecord) -> None:
    """Raise WrongState unless a snapshot has ended with an image."""
    payload = snapshot.payload
    if payload["status"] != "active":
        how = {"error": "has failed", "preflight": "was a dry run"}
        words = how.get(payload["status"], "has not ended")
        raise WrongState(f"snapshot {payload['snapshot_id']} {words}: there is no image of it")


def _restore_undone(
    dispatch: Dispatch, index: Index, services: Services, abort: Handler
) -> Iterable[Event]:
    """Answer; the host takes away what it has made, once it hears that this was answered."""
    del index, abort
    begun = Restore.begin(
        dispatch.request,
        host=dispatch.host or services.host,
        created_at=dispatch.received_at.isoformat(),
    )
    now = services.clock.now()
    took = (now - dispatch.received_at) // timedelta(milliseconds=1)
    ended = replace(begun, fault=dispatch.fault, finished_at=now.isoformat())
    yield ended.event(RESTORE_ERROR, status="error", duration_ms=took)


ROUTES: Mapping[str, Route] = {
    COMMIT_REQUEST: Route(
        job=Snapshot,
        subject_id_for=snapshot_id_for,
        record=SnapshotRecord,
        known=lambda index, request_id: index.snapshot(request_id),
        cancel=COMMIT_CANCEL,
        start=SNAPSHOT_START,
        told=frozenset(
            {
                SNAPSHOT_START,
                SNAPSHOT_PROGRESS,
                SNAPSHOT_END,
                SNAPSHOT_PREFLIGHT,
                SNAPSHOT_ERROR,
                SNAPSHOT_EXISTS,
            }
        ),
        same=_is_snapshot_of,
        place=_container_place,
        sought=lambda dispatch: dispatch.container_uuid or dispatch.request.payload["container"],
        undone=_snapshot_undone,
    ),
    RESTORE_REQUEST: Route(
        job=Restore,
        subject_id_for=restore_id_for,
        record=RestoreRecord,
        known=lambda index, request_id: index.restore(request_id),
        cancel=RESTORE_CANCEL,
        start=RESTORE_START,
        told=frozenset({RESTORE_START, RESTORE_PROGRESS, RESTORE_END, RESTORE_ERROR}),
        same=_is_restore_of,
        place=_snapshot_place,
        sought=lambda dispatch: None,
        undone=_restore_undone,
    ),
}
"""The way of each request, by its type."""

TELLING: Mapping[str, Route] = {
    event_type: route
    for route in ROUTES.values()
    for event_type in (*route.told, route.job.ACCEPTANCE)
}
"""Which kind of request an event is about."""

CANCELLING: Mapping[str, Route] = {route.cancel: route for route in ROUTES.values()}
"""Which kind of request a cancellation stops."""
