"""The commands that need no REST service: they work on this machine, with its configuration.

What runs a service is imported only where it is run: half a second that other commands need not
wait.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cliff.command import Command

from tintype.commands.checks import require_valid
from tintype.commands.client import CommandError
from tintype.config import Settings, load
from tintype.core.events import (
    COMMIT_REQUEST,
    Event,
    Requester,
    derived_id,
    event_line,
    fingerprint,
    is_lifecycle,
)
from tintype.core.steps import REQUESTS
from tintype.handlers import TRIGGERS, table


class Serve(Command):
    """Run everything in one process: no broker and no OpenStack needed."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_config_arguments(parser)
        parser.add_argument("--listen", metavar="[HOST:]PORT", help="where the HTTP door is")
        return parser

    def take_action(self, arguments: argparse.Namespace) -> int:
        """Serve until SIGTERM or SIGINT; every event goes to standard output as a line of JSON."""
        settings = settings_of(arguments)
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
        keep_alembic_quiet(self)
        _serve(settings)
        return 0


class Invoke(Command):
    """Run one handler on one event, with the real engine and stores and without journal and bus."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_config_arguments(parser)
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
        settings = settings_of(arguments)
        document = read_json(arguments.file)
        payload = document.get("payload", document)
        if arguments.handler in REQUESTS:
            require_valid(arguments.handler, payload)
            payload = {"request_id": derived_id(fingerprint(payload)), **payload}
        elif is_lifecycle(arguments.handler):
            require_valid(arguments.handler, payload)
        try:
            requester = Requester(**document.get("requester", {}))
        except TypeError as error:
            raise CommandError(f"/requester: {error}") from error
        event = Event(arguments.handler, payload, requester)
        keep_alembic_quiet(self)
        try:
            for result in _invoke(settings, event):
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


def _serve(settings: Settings) -> None:
    from tintype.embedded import serve  # noqa: PLC0415 (late, as the top says)

    serve(settings)


def _invoke(settings: Settings, event: Event) -> Iterator[Event]:
    from tintype.agent import invoke  # noqa: PLC0415 (late, as the top says)

    return invoke(settings, event)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe where the configuration is."""
    parser.add_argument("--config-file", action="append", default=[], help="configuration file")
    parser.add_argument(
        "--state-dir", help="directory of the journal, and of the images as `images` below it"
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the configuration that the arguments name. Raises ConfigError."""
    settings = load(arguments.config_file)
    if not arguments.state_dir:
        return settings
    agent = replace(settings.agent, state_dir=arguments.state_dir)
    images = replace(settings.directory, path=str(Path(arguments.state_dir) / "images"))
    return replace(settings, agent=agent, directory=images)


def keep_alembic_quiet(command: Command) -> None:
    """Have alembic not list its plug-ins when it is loaded, unless the command is to tell more."""
    if command.app.options.verbose_level == 1:
        logging.getLogger("alembic").setLevel(logging.WARNING)


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
