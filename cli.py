"""The `tintype` command."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from cliff.app import App
from cliff.command import Command
from cliff.commandmanager import CommandManager
from cliff.show import ShowOne
from keystoneauth1 import exceptions as keystone_exceptions
from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tintype import __version__
from tintype.config import Settings, load
from tintype.core.errors import TintypeError
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
from tintype.schemas import validate

DEFAULT_ENDPOINT = "http://127.0.0.1:9519"
POLL_SECONDS = 0.5

SHOWN = (
    "uuid",
    "container_name",
    "host",
    "snapshot_id",
    "request_id",
    "image_id",
    "image_name",
    "tag",
    "status",
    "stores",
    "size_bytes",
    "sha256",
    "paused_ms",
    "duration_ms",
    "excluded_volumes",
    "metadata",
)
"""What of a snapshot is shown, and in this order; the rest is in the REST answer and the events."""


class CommandError(TintypeError):
    """What went wrong, in one line for the user."""


class Client:
    """The REST service as the commands see it."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._session = Session(auth=NoAuth(endpoint=endpoint))
        # It tells of every attempt to connect; the user hears of the last one from us.
        logging.getLogger("keystoneauth").setLevel(logging.ERROR)

    def commit(self, container: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a snapshot; return its ids."""
        return self._call("POST", f"/v1/containers/{container}/commit", json=dict(body))

    def snapshot(self, snapshot_id: str) -> dict[str, Any]:
        """Return how a snapshot stands; a service that is being restarted is waited for."""
        return self._call("GET", f"/v1/snapshots/{snapshot_id}", connect_retries=6)

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._session.request(
                self._endpoint + path, method, raise_exc=False, **options
            )
            body: dict[str, Any] = response.json()
        except keystone_exceptions.ConnectFailure as error:
            raise CommandError(
                f"no tintype service answers at {self._endpoint}: start one with `tintype serve`,"
                " or name another with --endpoint"
            ) from error
        except (keystone_exceptions.ClientException, ValueError) as error:
            raise CommandError(f"{self._endpoint} gave no answer of tintype's: {error}") from error
        if response.status_code >= 400:
            raise CommandError("; ".join(fault["detail"] for fault in body["errors"]))
        return body


class Commit(ShowOne):
    """Snapshot a running, stopped or paused container."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments, in `zun commit`'s words."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("container", help="uuid, id or name of the container")
        parser.add_argument("image_name", metavar="image-name", help="name[:tag] of the image")
        parser.add_argument("--tag", help="tag of the image (default: latest)")
        parser.add_argument(
            "--store",
            action="append",
            dest="stores",
            metavar="NAME",
            help="store for the image; may be given several times",
        )
        parser.add_argument("--no-pause", action="store_true", help="do not freeze the container")
        parser.add_argument("--message", help="commit message, kept in the image")
        parser.add_argument("--author", help="author, kept in the image")
        parser.add_argument(
            "--label", action="append", default=[], metavar="KEY=VALUE", help="label for the image"
        )
        parser.add_argument(
            "--metadata",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="kept with the image and repeated in every event",
        )
        parser.add_argument("--request-id", help="uuid; the same one again does nothing new")
        parser.add_argument("--deadline", help="when to give up, for example 2026-12-24T18:00:00Z")
        parser.add_argument("--wait", action="store_true", help="wait until the image is usable")
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask for the snapshot and, if told so, wait for it."""
        body = _commit_body(arguments)
        require_valid(COMMIT_REQUEST, {"container": arguments.container, **body})
        client = Client(self.app.options.endpoint)
        answer = client.commit(arguments.container, body)
        if arguments.wait:
            try:
                answer = _wait(client, answer["snapshot_id"])
            except KeyboardInterrupt:
                print(f"not waiting; snapshot {answer['snapshot_id']} goes on", file=sys.stderr)
                raise
        cell = _cell if arguments.formatter in ("table", "value") else _as_it_is
        shown = {
            name: cell(answer[name]) for name in SHOWN if answer.get(name) not in (None, [], {})
        }
        return tuple(shown), tuple(shown.values())


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
        _embedded().serve(settings)
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
            for result in _embedded().invoke(settings, event):
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


class Tintype(App):
    """The command with its global options."""

    def __init__(self) -> None:
        commands = CommandManager("tintype.cli")  # further commands come as entry points
        commands.add_command("commit", Commit)
        commands.add_command("serve", Serve)
        commands.add_command("invoke", Invoke)
        commands.add_command("validate", Validate)
        super().__init__(
            description="Snapshots of running containers, driven by the message bus.",
            version=__version__,
            command_manager=commands,
            deferred_help=True,
        )

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        """Add the service's address to cliff's options."""
        parser: argparse.ArgumentParser = super().build_option_parser(
            description, version, argparse_kwargs
        )
        parser.add_argument(
            "--endpoint",
            default=DEFAULT_ENDPOINT,
            help=f"the service (default: {DEFAULT_ENDPOINT})",
        )
        return parser


def _commit_body(arguments: argparse.Namespace) -> dict[str, Any]:
    name, _, tag = arguments.image_name.partition(":")
    body = {
        "image_name": name,
        "tag": arguments.tag or tag or None,
        "stores": arguments.stores,
        "pause": False if arguments.no_pause else None,
        "message": arguments.message,
        "author": arguments.author,
        "labels": _pairs("--label", arguments.label) or None,
        "metadata": _pairs("--metadata", arguments.metadata) or None,
        "request_id": arguments.request_id,
        "deadline": arguments.deadline,
    }
    return {field: value for field, value in body.items() if value is not None}


def _pairs(option: str, values: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise CommandError(f"{option}: expected KEY=VALUE, got {value!r}")
        pairs[key] = text
    return pairs


def _wait(client: Client, snapshot_id: str) -> dict[str, Any]:
    """Follow a snapshot to its outcome, with a bar on a terminal and a line per phase elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("accepted", total=None)
        told = ""
        while True:
            now = client.snapshot(snapshot_id)
            if now["status"] == "active":
                return now
            if now["status"] == "error":
                raise CommandError(f"the snapshot failed: {now['fault']['message']}")
            words = _words(now)
            bar.update(
                task, description=words, total=now["bytes_total"], completed=now["bytes_done"] or 0
            )
            if words != told and not console.is_terminal:
                console.print(words, highlight=False)
            told = words
            time.sleep(POLL_SECONDS)


def _words(snapshot: Mapping[str, Any]) -> str:
    if snapshot["status"] == "waiting":
        return f"{snapshot['phase']}, waiting to try again: {snapshot['fault']['message']}"
    return str(snapshot["phase"])


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


def _embedded() -> ModuleType:
    """Load what runs a service only where it is run: half a second that others need not wait."""
    return importlib.import_module("tintype.embedded")


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


def require_valid(event_type: str, payload: object) -> None:
    """Raise CommandError with all that is wrong with an event's payload."""
    violations = validate(event_type, payload)
    if violations:
        raise CommandError("; ".join(map(str, violations)))


def _as_it_is(value: Any) -> Any:
    return value


def _cell(value: Any) -> Any:
    """Return a value that fits into a table."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return "\n".join(f"{item['name']}: {item['location']}" for item in value)
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when it worked, 1 when it failed, 2 when it was called wrongly."""
    given = sys.argv[1:] if argv is None else argv
    status: int = Tintype().run(given or ["help"])
    return status
