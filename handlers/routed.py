"""Requests that a router has sent: taken in time, and known to it, or not worked on at all."""

from __future__ import annotations

from datetime import datetime

from tintype.core.errors import NotFound, TimedOut, Unavailable
from tintype.core.jobs import Job
from tintype.core.ports import Services


def check_acceptable(job: Job, services: Services) -> None:
    """Make sure that a request is for this host, and not void.

    One that came from a router is void once the time to take it is over: the router answers.
    Raises TimedOut, NotFound.
    """
    accept_by = accept_by_of(job)
    if accept_by is not None and services.clock.now() >= accept_by:
        raise _not_in_time(accept_by)
    wanted_host = job.request.get("host")
    if wanted_host not in (None, services.host):
        raise NotFound(f"host: {wanted_host!r} is not served here, this is {services.host!r}")


def check_in_time(job: Job, services: Services) -> None:
    """Make sure that the router knows, and knew in time, that this host has taken its request.

    It gives up a host that it has not heard of, and answers itself; whatever comes later must not
    bring the job back. So nothing is begun before the broker has the word, and nothing at all if it
    came too late. Raises Unavailable (not yet) and TimedOut.
    """
    accept_by = accept_by_of(job)
    if accept_by is None:
        return
    confirmed_at = services.confirmed_at(job.acceptance_id)
    if confirmed_at is None and services.clock.now() < accept_by:
        raise Unavailable("the bus has not taken the word yet that this host has the request")
    if confirmed_at is None or confirmed_at >= accept_by:
        raise _not_in_time(accept_by)


def accept_by_of(job: Job) -> datetime | None:
    """Return when the request is void unless this host has taken it; None: no router waits."""
    text = job.request.get("accept_by")
    return None if text is None else datetime.fromisoformat(text)


def routers_deadline(job: Job) -> datetime | None:
    """Return when the request's router answers in our stead.

    Without a router nobody else answers, and what is whole is told of however late.
    """
    deadline = job.request.get("deadline")
    if deadline is None or "accept_by" not in job.request:
        return None
    return datetime.fromisoformat(deadline)


def given_up(job: Job, services: Services) -> bool:
    """Tell whether the request's router answers in our stead, as it does after the deadline."""
    deadline = routers_deadline(job)
    return deadline is not None and services.clock.now() >= deadline


def _not_in_time(accept_by: datetime) -> TimedOut:
    return TimedOut(f"the host did not take the request by {accept_by.isoformat()}")
