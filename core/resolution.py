"""Which container a request means, and whether its sender may have a snapshot of it now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tintype.core.engine import ContainerState
from tintype.core.errors import Forbidden, NotFound, Refused, WrongState
from tintype.core.events import Event
from tintype.core.index import ContainerRecord
from tintype.core.ownership import may_use

CANDIDATES_TOLD = 10
"""How many containers are listed that a name may stand for."""

ALLOWED_STATES = (ContainerState.RUNNING, ContainerState.STOPPED, ContainerState.PAUSED)
"""As the Zun spec has them; Nova's createImage allows the same."""


def choose(found: Sequence[ContainerRecord], request: Event) -> ContainerRecord:
    """Return the one of the containers found under the request's name that it means.

    Raises what `pick` does, and WrongState.
    """
    ident, host = request.payload["container"], request.payload.get("host")
    record = pick(found, ident, host, lambda each: may_use(each.project_id, request.requester))
    check_state(ident, record.state)
    return record


def pick(
    found: Sequence[ContainerRecord],
    ident: str,
    host: str | None,
    usable: Callable[[ContainerRecord], bool],
) -> ContainerRecord:
    """Return the one of the containers found under a name that is meant.

    A name that several projects use means the requester's own. Raises NotFound, Forbidden (only
    others' containers have the name), Refused (several of his own have it).
    """
    there = [record for record in found if record.host and host in (None, record.host)]
    if not there:
        on = "" if host is None else f" on host {host!r}"
        raise NotFound(f"no container {ident!r} is known{on}")
    own = [record for record in there if usable(record)]
    if not own:
        raise Forbidden(f"container {ident!r} belongs to another project")
    if len(own) > 1:
        listed = ", ".join(f"{each.uuid} on {each.host}" for each in own[:CANDIDATES_TOLD])
        more = f" and {len(own) - CANDIDATES_TOLD} more" if len(own) > CANDIDATES_TOLD else ""
        raise Refused(
            f"/container: {ident!r} stands for {len(own)} containers: {listed}{more};"
            " give a uuid, or the host"
        )
    return own[0]


def check_state(name: str, state: ContainerState) -> None:
    """Raise WrongState unless a container in this state can be snapshotted."""
    if state not in ALLOWED_STATES:
        allowed = ", ".join(ALLOWED_STATES)
        raise WrongState(
            f"container {name!r} is neither of {allowed}: start it, or wait until it has settled"
        )
