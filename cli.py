"""The `tintype` command."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from cliff.app import App
from cliff.command import Command
from cliff.commandmanager import CommandManager

from tintype import __version__
from tintype.commands import commit, container, credentials, snapshot
from tintype.commands.client import CommandError
from tintype.commands.commit import require_valid
from tintype.commands.watching import silence
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
from tintype.handlers import TRIGGERS, table

CLOSED_PIPE = 141
"""What a shell says of a command that SIGPIPE ended."""


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
        if self.app.options.verbose_level == 1:
            logging.getLogger("alembic").setLevel(logging.WARNING)  # it lists its own plug-ins
        _composed("embedded").serve(settings)
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
            for result in _composed("agent").invoke(settings, event):
                print(event_line(result), flush=True)
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
        print(f"{arguments.file}: a valid {event_type}")
        return 0


COMMANDS: Mapping[str, type[Command]] = {
    "commit": commit.Commit,
    "container list": container.List,
    "container show": container.Show,
    "snapshot cancel": snapshot.Cancel,
    "snapshot list": snapshot.List,
    "snapshot show": snapshot.Show,
    "snapshot watch": snapshot.Watch,
    "serve": Serve,
    "invoke": Invoke,
    "validate": Validate,
}


class Tintype(App):
    """The command with its global options."""

    def __init__(self) -> None:
        manager = CommandManager("tintype.cli")  # further commands come as entry points
        for name, command in COMMANDS.items():
            manager.add_command(name, command)
        super().__init__(
            description="Snapshots of running containers, driven by the message bus.",
            version=__version__,
            command_manager=manager,
            deferred_help=True,
        )

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        """Add to cliff's options where the service is, and who asks."""
        parser: argparse.ArgumentParser = super().build_option_parser(
            description, version, argparse_kwargs
        )
        credentials.add_arguments(parser)
        return parser

    def initialize_app(self, argv: list[str]) -> None:
        """Offer the service's client as `openstack` does, made when a command asks for it."""
        super().initialize_app(argv)
        self.client_manager = credentials.Clients(self.options)


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


def _composed(module: str) -> ModuleType:
    """Load what runs a service only where it is run: half a second that others need not wait."""
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


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when it worked, 1 when it failed, 2 when it was called wrongly."""
    given = sys.argv[1:] if argv is None else argv
    try:
        status: int = Tintype().run(given or ["help"])
        sys.stdout.flush()
    except BrokenPipeError:
        status = CLOSED_PIPE
    if status == CLOSED_PIPE:
        silence(sys.stdout)
    return status
