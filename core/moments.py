"""Moments as text: UTC, of fixed width, so that text compares as time does."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_text(at: datetime) -> str:
    """Return a moment with a zone as text. Raises OverflowError outside the years 1 to 9999."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def moment(value: object) -> str | None:
    """Return what may be a moment as text, or None when it is none.

    Text without a zone is UTC, as in every oslo.messaging notification.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return utc_text(value if value.tzinfo else value.replace(tzinfo=UTC))
    except OverflowError:
        return None
