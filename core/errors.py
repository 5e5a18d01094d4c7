"""Everything that can go wrong, sorted by who must act.

    TintypeError
    ├── Invalid            400  the request can never work: its sender must change it
    │   └── RequestConflict  409  a request id was used again with another body
    ├── Refused            409  the world says no: somebody must change the world first
    │   ├── Unauthorized     401  the caller's token is not, or no longer, valid
    │   ├── NotFound         404  no such container, image or store
    │   ├── Forbidden        403  not the requester's container
    │   ├── WrongState       409  the container is in a state that cannot be snapshotted
    │   ├── NameTaken        409  another container has the name
    │   ├── PausedTooLong    409  the container was frozen for as long as it may be
    │   ├── HookFailed       409  a command in the container failed or took too long
    │   ├── NotRestorable    422  what is stored is no image that can be loaded
    │   ├── TooLarge         413  a quota or size limit is reached
    │   ├── TimedOut         504  the request's deadline has passed
    │   └── Internal         500  a defect in Tintype itself
    ├── Unavailable        503  try again later: nobody has to change anything
    │   ├── CorruptArchive   502  the engine's image stream is damaged or incomplete
    │   ├── CorruptUpload    502  the store holds other bytes than were sent
    │   ├── CorruptDownload  502  other bytes came than the store says it holds
    │   ├── ImageIdSpent     409  the store can never use this image id again
    │   ├── InProgress       409  the same request is just being answered
    │   ├── Unroutable       503  nobody has a queue for a message
    │   └── StillFrozen      503  a container that we froze could not be thawed
    └── Cancelled          499  somebody asked for the snapshot to stop

    Interrupted (not an error): the service is stopping; the step runs again at the next start

Adapters turn foreign exceptions into these at their edge. The runner turns what is left into the
`fault` of an `image.snapshot.error` event. Messages are for the requester: no secrets and no
traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self


class TintypeError(Exception):
    """Base of all errors that Tintype raises on purpose."""

    code: ClassVar[int] = 500
    """HTTP-like status, as it stands in `fault.code` and in REST answers."""
    retryable: ClassVar[bool] = False
    """Whether the same call may work later with nothing changed by anybody."""
    attempts_allowed: ClassVar[int | None] = None
    """How often this very failure may happen to a step before it is final; None: until the
    deadline."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a message: where, what was expected, what came."""

    pointer: str
    """JSON pointer (RFC 6901) to the field; "" is the whole document."""
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.pointer or '(document)'}: expected {self.expected}, got {self.got}"


class Invalid(TintypeError):
    """The request can never work: reject it, tell the requester, keep it as a dead letter."""

    code = 400

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)

    @classmethod
    def at(cls, pointer: str, expected: str, got: str) -> Self:
        """Return the error for one thing that is wrong."""
        violation = Violation(pointer, expected, got)
        return cls(str(violation), [violation])


class RequestConflict(Invalid):
    """The request id was used before with another body."""

    code = 409


class Refused(TintypeError):
    """The world says no; trying again without a change of the world is useless."""

    code = 409


class Unauthorized(Refused):
    """The token that the caller sent is not valid, or no longer."""

    code = 401


class NotFound(Refused):
    """There is no such container, image or store."""

    code = 404


class Forbidden(Refused):
    """The requester does not own what the request names."""

    code = 403


class WrongState(Refused):
    """The container is in a state in which it cannot be snapshotted (Nova and Zun: 409)."""


class NameTaken(Refused):
    """Another container of the engine has the name already."""


class PausedTooLong(Refused):
    """The container was frozen for as long as the request allows, and runs again."""


class HookFailed(Refused):
    """A command that was to run in the container failed or took too long."""


class NotRestorable(Refused):
    """What the store holds is not one whole docker-archive: it cannot be loaded, today or later."""

    code = 422


class TooLarge(Refused):
    """A quota or a size limit is reached."""

    code = 413


class TimedOut(Refused):
    """The request's deadline has passed."""

    code = 504


class Internal(Refused):
    """A defect in Tintype: an exception nobody expected."""

    code = 500


class Unavailable(TintypeError):
    """Something needed is away or failed in passing: back off and try again."""

    code = 503
    retryable = True


class CorruptArchive(Unavailable):
    """The engine's image stream is damaged or incomplete.

    The engine answers 200 before it has read the image, so this may be a passing fault, but a
    layer that is damaged on disk stays damaged: it is not tried for ever.
    """

    code = 502
    attempts_allowed = 3


class CorruptUpload(Unavailable):
    """The store holds other bytes than were sent, so the image must not be used."""

    code = 502
    attempts_allowed = 3


class CorruptDownload(Unavailable):
    """Other bytes came from the store than it says it holds."""

    code = 502
    attempts_allowed = 3


class ImageIdSpent(Unavailable):
    """The store will never take data for this image id again: a new id is needed.

    Glance keeps an image in `saving` for ever when it is killed during an upload.
    """

    code = 409


class InProgress(Unavailable):
    """The same request is being answered at this moment: ask again for the answer."""

    code = 409


class Unroutable(Unavailable):
    """The bus is there, but nobody has a queue for the message: its receiver was never up."""


class StillFrozen(Unavailable):
    """A container that we froze could not be thawed: it must be, before anything else."""


class Cancelled(TintypeError):
    """Somebody asked for the snapshot to stop, or deleted its image."""

    code = 499


class Interrupted(BaseException):
    """The service is stopping: leave the step as it is, the next start takes it up again.

    Not an `Exception`, so that no handler takes it for a failure of the request.
    """
