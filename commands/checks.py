"""What commands check before they ask anybody."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from tintype.commands.client import CommandError
from tintype.core.errors import Violation
from tintype.core.reservation import KEY_LENGTH, is_idempotency_key
from tintype.schemas import validate


def require_valid(event_type: str, payload: object) -> None:
    """Raise CommandError with all that is wrong with an event's payload."""
    require_all(validate(event_type, payload))


def require_all(violations: Sequence[Violation]) -> None:
    """Raise CommandError when something is wrong."""
    if violations:
        raise CommandError("; ".join(map(str, violations)))


def require_key(key: str | None) -> None:
    """Raise CommandError for an Idempotency-Key that is none."""
    if key is not None and not is_idempotency_key(key):
        raise CommandError(
            f"--idempotency-key: expected 1 to {KEY_LENGTH} printable ASCII characters"
        )


def pairs(option: str, values: Iterable[str], form: str = "KEY=VALUE") -> dict[str, str]:
    """Return what an option's values say, each in the form `KEY=VALUE`. Raises CommandError."""
    found: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise CommandError(f"{option}: expected {form}, got {value!r}")
        if key in found:
            raise CommandError(f"{option}: {key!r} is given twice")
        found[key] = text
    return found


def words(option: str, text: str | None) -> list[str] | None:
    """Return the words of a command, parted and quoted as in a shell. Raises CommandError."""
    try:
        return None if text is None else shlex.split(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}: {text!r}") from error
