"""The options of `commit`, and the request that they make."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from tintype.commands.checks import pairs
from tintype.commands.client import CommandError
from tintype.commands.lists import count
from tintype.commands.options import OF_A_REQUEST, Options, in_pairs, repeated, request_of

OPTIONS: Options = {
    "tag": {"metavar": "TAG", "help": "tag of the image (default: latest)"},
    "store": repeated("NAME", "store for the image", dest="stores"),
    "repository": {
        "metavar": "[HOST[:PORT]/]PATH",
        "help": "where the image goes in a store that is a registry (default: by its name)",
    },
    "no-pause": {"action": "store_true", "help": "do not freeze the container"},
    "max-pause-ms": {
        "type": count,
        "metavar": "N",
        "help": "let the container run again after so many milliseconds, whatever comes of it",
    },
    "message": {"metavar": "TEXT", "help": "commit message, kept in the image"},
    "author": {"metavar": "TEXT", "help": "author, kept in the image"},
    "label": in_pairs("label for the image"),
    "change": repeated(
        "INSTRUCTION", "Dockerfile instruction for the image, such as 'CMD nginx'", dest="changes"
    ),
    "unset-env": repeated("NAME", "environment variable to be taken out of the image"),
    "squash": {"action": "store_true", "help": "make one layer of the image"},
    "metadata": in_pairs("kept with the image and repeated in every event"),
    "visibility": {
        "choices": ("private", "shared", "community"),
        "help": "who sees the image (default: private)",
    },
    "host": {"metavar": "NAME", "help": "host of the container, where several have its name"},
    "image-id": {"metavar": "ID", "help": "image reserved for this snapshot beforehand"},
    "backup-type": {
        "metavar": "NAME",
        "help": "series that the image belongs to; its older images are rotated",
    },
    "rotation": {
        "type": count,
        "metavar": "N",
        "help": "how many images of the series are kept for this container",
    },
    "keep-days": {
        "type": count,
        "metavar": "N",
        "help": "for how many days images of the series are kept",
    },
    "expires-at": {
        "metavar": "TIME",
        "help": "when the image is removed, for example 2026-12-24T18:00:00Z",
    },
    "expires-in": {
        "metavar": "TIME",
        "help": "the same, from now on: 90m, 12h, 7d or 4w",
    },
    **OF_A_REQUEST,
    "wait": {"action": "store_true", "help": "wait until the image is usable"},
    "dry-run": {
        "action": "store_true",
        "help": "make no image; show what one would take, and fail if it could not be made",
    },
}

AS_GIVEN = (
    "stores",
    "repository",
    "max_pause_ms",
    "message",
    "author",
    "changes",
    "unset_env",
    "visibility",
    "host",
    "image_id",
    "backup_type",
    "rotation",
    "keep_days",
    "deadline",
    "request_id",
)
"""Options that go into the request as they are."""

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def body_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the request, without its container. Raises CommandError."""
    name, _, tag = arguments.image_name.partition(":")
    if tag and arguments.tag not in (None, tag):
        raise CommandError(f"--tag: the image name has another one already, {tag!r}")
    return request_of(
        arguments,
        AS_GIVEN,
        image_name=name,
        tag=arguments.tag or tag or None,
        pause=False if arguments.no_pause else None,
        squash=arguments.squash or None,
        dry_run=arguments.dry_run or None,
        labels=pairs("--label", arguments.label) or None,
        metadata=pairs("--metadata", arguments.metadata) or None,
        expires_at=_expiry(arguments.expires_at, arguments.expires_in),
    )


def _expiry(at: str | None, after: str | None) -> str | None:
    if after is None:
        return at
    if at is not None:
        raise CommandError("--expires-in: expected nothing beside --expires-at")
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", after)
    if match is None:
        raise CommandError(f"--expires-in: expected a time such as 90m, 12h or 7d, got {after!r}")
    span = timedelta(**{UNITS[match[2]]: int(match[1])})
    return (datetime.now(UTC) + span).isoformat(timespec="seconds")
