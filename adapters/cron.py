"""Cron expressions, read by cronsim as Debian's cron reads them; the zone is UTC."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from tintype.core.errors import Invalid

ALIASES: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""crontab(5)'s short names."""

LONGEST = 255
"""Characters of an expression."""


def next_after(expression: str, after: datetime) -> datetime:
    """Return the first time after a moment that an expression names, in UTC.

    Raises Invalid for an expression that is none, or that names no time ever. Five fields: with
    cronsim's sixth, for seconds, a container would be snapshotted without end.
    """
    words = ALIASES.get(expression.strip().lower(), expression)
    if len(words) > LONGEST or len(words.split()) != 5:
        raise _no_cron(expression, "five fields are needed")
    try:
        return next(CronSim(words, after.astimezone(UTC)))
    except CronSimError as error:
        raise _no_cron(expression, str(error)) from error
    except (StopIteration, OverflowError) as never:
        raise _no_cron(expression, "it never comes") from never


def _no_cron(expression: str, why: str) -> Invalid:
    return Invalid(
        "expected a cron expression (minute hour day month weekday, or @daily and the like), got "
        f"{reprlib.repr(expression)}: {why}"
    )
