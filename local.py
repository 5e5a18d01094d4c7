"""The commands that need no REST service: they work on this machine, with its configuration."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from tintype.commands import words
from tintype.commands.client import CommandError
from tintype.commands.commit import require_valid
from tintype.commands.lists import count
from tintype.config import Settings, load
from tintype.core.errors import Invalid
from tintype.core.events import (
    COMMIT_REQUEST,
    Event,
    Requester,
    derived_id,
    event_line,
    fingerprint,
    is_lifecycle,
)
from tintype.core.ownership import IDENT_LENGTH
from tintype.handlers import TRIGGERS, table

LISTED = ("id", "role", "received_at", "reason", "event_type", "container", "request_id")
SHOWN = ("id", "role", "received_at", "reason", "message")

IN_TABLES = 60
"""Characters of a value in the table of dead letters: senders decide how long a reason is."""


class ListDeadLetters(Lister):
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
        letters = _composed(self, "dead_letters")
        kept = letters.read(_settings(arguments), arguments.role)
        found = map(letters.summary, kept)
        records = sorted(found, key=lambda one: one["received_at"], reverse=True)
        if arguments.formatter not in words.AS_THEY_ARE:
            longest = IN_TABLES if arguments.formatter == "table" else None
            records = [_in_lines(record, longest) for record in records]
        return LISTED, [words.columns(arguments, record, LISTED) for record in records]


class ShowDeadLetter(ShowOne):
    """Show a message that could not be used, and why not."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_role_arguments(parser)
        parser.add_argument("id", type=count, help="number of the dead letter")
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Find the dead letter; a table has its message in many lines."""
        letters = _composed(self, "dead_letters")
        record = letters.details(letters.find(_settings(arguments), arguments.id, arguments.role))
        if arguments.formatter not in words.AS_THEY_ARE:
            record = _in_lines(record)
        if arguments.formatter == "table" and isinstance(record["message"], dict):
            record["message"] = json.dumps(record["message"], indent=2)
        return SHOWN, words.columns(arguments, record, SHOWN)


class ReplayDeadLetter(ShowOne):
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
        settings = _settings(arguments)
        payload = _payload(arguments.payload) if arguments.payload else None
        requester = _requester(arguments, settings.default_requester)
        letters = _composed(self, "dead_letters")
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


class Serve(Command):
    """Run everything in one process: no broker and no OpenStack needed."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_config_arguments(parser)
        parser.add_argument("--listen", metavar="[HOST:]PORT", help="where the HTTP door is")
        return parser

    def take_action(self, arguments: argparse.Namespace) -> int:
        """Serve until SIGTERM or SIGINT; every event goes to standard output as a line of JSON."""
        settings = _settings(arguments)
        if arguments.listen:
            host, _, port = arguments.listen.rpartition(":")
            if not port.isdigit():
                raise CommandError(f"--listen: expected [HOST:]PORT, got {arguments.listen!r}")
            door = replace(settings.api, host=host or settings.api.host, port=int(port))
            settings = replace(settings, api=door)
        if not _only_loopback(settings.api.host):
            raise CommandError(
                f"[api] host: without Keystone only a loopback address, not {settings.api.host!r}"
            )
        _composed(self, "embedded").serve(settings)
        return 0


class Invoke(Command):
    """Run one handler on one event, with the real engine and stores and without journal and bus."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        _add_config_arguments(parser)
        known = sorted({**table(), **TRIGGERS})
        parser.add_argument("handler", choices=known, help="event type of the handler")
        parser.add_argument(
            "file",
            help="payload as JSON, or an object that holds it as `payload`, and may hold"
            " `requester`: who asks (`project_id`, `user_id`, `is_admin`); - for standard input",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> int:
        """Print each event that the handler returns as a line of JSON."""
        settings = _settings(arguments)
        document = read_json(arguments.file)
        payload = document.get("payload", document)
        if arguments.handler == COMMIT_REQUEST:
            require_valid(COMMIT_REQUEST, payload)
            payload = {"request_id": derived_id(fingerprint(payload)), **payload}
        elif is_lifecycle(arguments.handler):
            require_valid(arguments.handler, payload)
        try:
            requester = Requester(**document.get("requester", {}))
        except TypeError as error:
            raise CommandError(f"/requester: {error}") from error
        event = Event(arguments.handler, payload, requester)
        try:
            for result in _composed(self, "agent").invoke(settings, event):
                self.app.stdout.write(f"{event_line(result)}\n")
                self.app.stdout.flush()
        except (KeyError, TypeError, ValueError) as error:
            raise CommandError(
                f"{arguments.file} holds no {arguments.handler} event: {error!r}"
            ) from error
        return 0


class Validate(Command):
    """Check an event against the JSON Schema of its type."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "--type", help=f"event type (default: the file's, else {COMMIT_REQUEST})"
        )
        parser.add_argument("file", help="event or payload as JSON; - for standard input")
        return parser

    def take_action(self, arguments: argparse.Namespace) -> int:
        """Say that the event is valid, or name all that is wrong with it."""
        document = read_json(arguments.file)
        named = document.get("type") or document.get("event_type")
        event_type = arguments.type or named or COMMIT_REQUEST
        require_valid(event_type, document.get("payload", document))
        self.app.stdout.write(f"{arguments.file}: a valid {event_type}\n")
        return 0


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", action="append", default=[], help="configuration file")
    parser.add_argument(
        "--state-dir", help="directory of the journal, and of the images as `images` below it"
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    settings = load(arguments.config_file)
    if not arguments.state_dir:
        return settings
    agent = replace(settings.agent, state_dir=arguments.state_dir)
    images = replace(settings.directory, path=str(Path(arguments.state_dir) / "images"))
    return replace(settings, agent=agent, directory=images)


def _composed(command: Command, module: str) -> ModuleType:
    """Load what runs a service only where it is run: half a second that others need not wait."""
    if command.app.options.verbose_level == 1:
        logging.getLogger("alembic").setLevel(logging.WARNING)  # it lists its own plug-ins
    return importlib.import_module(f"tintype.{module}")


def _only_loopback(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise CommandError(f"[api] host: {host!r}: {error}") from error
    return all(str(address) == "::1" or str(address).startswith("127.") for address in addresses)


def read_json(name: str) -> dict[str, Any]:
    """Return the JSON object in a file, or on standard input where `name` is `-`."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        document = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CommandError(f"{name}: {error}") from error
    if not isinstance(document, dict):
        raise CommandError(f"{name}: expected an object, got {type(document).__name__}")
    return document


def _add_role_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config_arguments(parser)
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
