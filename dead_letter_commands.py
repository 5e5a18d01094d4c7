"""The commands of dead letters: they need no REST service, but the files of this machine's roles.

What reads and publishes is imported only where it is needed, since it brings SQLAlchemy and
oslo.messaging: half a second that other commands need not wait.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cliff.lister import Lister
from cliff.show import ShowOne

from tintype.commands import words
from tintype.commands.client import CommandError
from tintype.commands.lists import count
from tintype.core.errors import Invalid
from tintype.core.events import Requester
from tintype.core.ownership import IDENT_LENGTH
from tintype.local import add_config_arguments, keep_alembic_quiet, read_json, settings_of

LISTED = ("id", "role", "received_at", "reason", "event_type", "container", "request_id")
SHOWN = ("id", "role", "received_at", "reason", "message")

IN_TABLES = 60
"""Characters of a value in the table of dead letters: senders decide how long a reason is."""


class List(Lister):
    """List the messages that could not be used, the newest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_role_arguments(parser)
        return parser

    def take_action(
        self, arguments: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Read the journal, the routers' database, or both."""
        keep_alembic_quiet(self)
        from tintype import dead_letters as letters  # noqa: PLC0415 (late, as the top says)

        kept = letters.read(settings_of(arguments), arguments.role)
        found = map(letters.summary, kept)
        records = sorted(found, key=lambda one: one["received_at"], reverse=True)
        if arguments.formatter not in words.AS_THEY_ARE:
            longest = IN_TABLES if arguments.formatter == "table" else None
            records = [_in_lines(record, longest) for record in records]
        return LISTED, [words.columns(arguments, record, LISTED) for record in records]


class Show(ShowOne):
    """Show a message that could not be used, and why not."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_role_arguments(parser)
        parser.add_argument("id", type=count, help="number of the dead letter")
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Find the dead letter; a table has its message in many lines."""
        keep_alembic_quiet(self)
        from tintype import dead_letters as letters  # noqa: PLC0415 (late, as the top says)

        record = letters.details(letters.find(settings_of(arguments), arguments.id, arguments.role))
        if arguments.formatter not in words.AS_THEY_ARE:
            record = _in_lines(record)
        if arguments.formatter == "table" and isinstance(record["message"], dict):
            record["message"] = json.dumps(record["message"], indent=2)
        return SHOWN, words.columns(arguments, record, SHOWN)


class Replay(ShowOne):
    """Publish a message that could not be used once more, as it was or with another payload."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_role_arguments(parser)
        parser.add_argument("id", type=count, help="number of the dead letter")
        parser.add_argument(
            "--payload",
            metavar="FILE",
            help="payload to send in place of the message's own, as JSON; - for standard input",
        )
        parser.add_argument(
            "--project-id",
            type=_ident,
            metavar="ID",
            help="on whose behalf (default: [agent] default_project_id and default_user_id)",
        )
        parser.add_argument("--user-id", type=_ident, metavar="ID", help="user of that project")
        parser.add_argument("--admin", action="store_true", help="on behalf of an admin")
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Publish, and say under which `request_id` to look for what becomes of it."""
        settings = settings_of(arguments)
        payload = _payload(arguments.payload) if arguments.payload else None
        requester = _requester(arguments, settings.default_requester)
        keep_alembic_quiet(self)
        from tintype import dead_letters as letters  # noqa: PLC0415 (late, as the top says)

        kept = letters.find(settings, arguments.id, arguments.role)
        try:
            event = letters.replay(settings, kept, payload, requester)
        except Invalid as error:
            raise CommandError(f"{error}; send another with --payload FILE") from error
        record = {
            "request_id": event.payload["request_id"],
            "event_type": event.type,
            "topic": settings.bus.request_topic,
            **asdict(event.requester),
        }
        return tuple(record), words.columns(arguments, record, record)


def _add_role_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--role",
        choices=("agent", "router"),
        help="whose: the agent's, in its journal, or the routers', in their database"
        " (default: those of both, where both are here)",
    )


def _in_lines(record: Mapping[str, Any], longest: int | None = None) -> dict[str, Any]:
    """Return a record whose texts, which anybody may have sent, do nothing to a terminal."""
    lines = {name: words.one_line(v) for name, v in record.items() if isinstance(v, str)}
    if longest is not None:
        lines = {
            name: line if len(line) <= longest else f"{line[: longest - 1]}…"
            for name, line in lines.items()
        }
    return {**record, **lines}


def _ident(text: str) -> str:
    """Read the id of a project or a user, for argparse: one that receivers believe."""
    if not (0 < len(text) <= IDENT_LENGTH and text.isprintable()):
        raise argparse.ArgumentTypeError(
            f"expected 1 to {IDENT_LENGTH} printable characters, got {text!r:.80}"
        )
    return text


def _payload(name: str) -> dict[str, Any]:
    document = read_json(name)
    payload = document.get("payload", document)
    if not isinstance(payload, dict):
        raise CommandError(f"{name}: /payload: expected an object, got {type(payload).__name__}")
    return payload


def _requester(arguments: argparse.Namespace, default: Requester) -> Requester:
    if arguments.project_id is not None:
        default = Requester(arguments.project_id)  # whose users the default is none of
    user_id = arguments.user_id or default.user_id
    return Requester(default.project_id, user_id, is_admin=arguments.admin)
