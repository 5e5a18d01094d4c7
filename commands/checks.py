"""What commands check before they ask anybody."""

from __future__ import annotations

from tintype.commands.client import CommandError
from tintype.schemas import validate


def require_valid(event_type: str, payload: object) -> None:
    """Raise CommandError with all that is wrong with an event's payload."""
    violations = validate(event_type, payload)
    if violations:
        raise CommandError("; ".join(map(str, violations)))
