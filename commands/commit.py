"""`commit`: ask for a snapshot and, if wanted, wait for it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cliff.show import ShowOne
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from tintype.commands.checks import require_valid
from tintype.commands.client import Client, CommandError
from tintype.commands.credentials import client_of
from tintype.commands.lists import count
from tintype.commands.live import GOING
from tintype.commands.words import ENDED, columns, outcome, size_text
from tintype.core.events import COMMIT_REQUEST
from tintype.core.reservation import KEY_LENGTH, is_idempotency_key

POLL_SECONDS = 0.5

SHOWN = (
    "container_uuid",
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

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "tag": {"metavar": "TAG", "help": "tag of the image (default: latest)"},
    "store": {
        "action": "append",
        "dest": "stores",
        "metavar": "NAME",
        "help": "store for the image; may be given several times",
    },
    "no-pause": {"action": "store_true", "help": "do not freeze the container"},
    "message": {"metavar": "TEXT", "help": "commit message, kept in the image"},
    "author": {"metavar": "TEXT", "help": "author, kept in the image"},
    "label": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "label for the image; may be given several times",
    },
    "metadata": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "kept with the image and repeated in every event; may be given several times",
    },
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
    "deadline": {"metavar": "TIME", "help": "when to give up, for example 2026-12-24T18:00:00Z"},
    "request-id": {"metavar": "ID", "help": "uuid; the same one again does nothing new"},
    "idempotency-key": {
        "metavar": "TEXT",
        "help": "any text; the same one again does nothing new and answers as the first time",
    },
    "wait": {"action": "store_true", "help": "wait until the image is usable"},
}

AS_GIVEN = (
    "stores",
    "message",
    "author",
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


class Commit(ShowOne):
    """Snapshot a running, stopped or paused container."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments, in `zun commit`'s words."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("container", help="uuid, id or name of the container")
        parser.add_argument("image_name", metavar="image-name", help="name[:tag] of the image")
        for name, about in OPTIONS.items():
            parser.add_argument(f"--{name}", **about)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask for the snapshot and, if told so, wait for it."""
        body, key = _body(arguments), arguments.idempotency_key
        require_valid(COMMIT_REQUEST, {"container": arguments.container, **body})
        if key is not None and not is_idempotency_key(key):
            most = KEY_LENGTH
            raise CommandError(
                f"--idempotency-key: expected 1 to {most} printable ASCII characters"
            )
        client = client_of(self)
        answer = client.commit(arguments.container, body, key)
        if arguments.wait:
            answer = self._wait(client, answer["snapshot_id"])
        names = tuple(name for name in SHOWN if answer.get(name) not in (None, [], {}))
        return names, columns(arguments, answer, names)

    def _wait(self, client: Client, snapshot_id: str) -> dict[str, Any]:
        try:
            ended = wait(client, snapshot_id, Console(file=self.app.stderr))
        except KeyboardInterrupt:
            self.app.stderr.write(f"not waiting; snapshot {snapshot_id} goes on\n")
            raise
        if ended["status"] == "error":
            raise CommandError(f"the snapshot {outcome(ended)}")
        return ended


def wait(client: Client, snapshot_id: str, console: Console) -> dict[str, Any]:
    """Follow a snapshot to its outcome, with a bar on a terminal and a line per phase elsewhere."""
    bar_columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(None, complete_style=GOING, pulse_style=GOING, table_column=Column(max_width=30)),
        _Figures(console),
    )
    live = console.is_terminal and not console.is_dumb_terminal
    with Progress(*bar_columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task("accepted", total=None, paused_ms=None)
        told = ""
        while True:
            now = client.snapshot(snapshot_id, patient=True)
            if now["status"] in ENDED:
                return now
            words, waits = outcome(now), now["status"] == "waiting"
            bar.update(
                task,
                description="waiting" if waits else words,
                total=now["bytes_total"],
                completed=now["bytes_done"] or 0,
                paused_ms=now["paused_ms"],
            )
            if words != told and (waits or not live):  # beside a bar is no room for a reason
                console.print(words, highlight=False, markup=False, soft_wrap=True)
            told = words
            time.sleep(POLL_SECONDS)


class _Figures(ProgressColumn):
    """Percent, bytes, speed and pause, as far as they are known and the terminal is wide enough."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self._console = console

    def render(self, task: Task) -> Text:
        width, paused = self._console.width, task.fields["paused_ms"]
        figures = []
        if task.total:
            figures.append(f"{task.percentage:3.0f}%")
        if task.total and width >= 50:
            figures.append(f"{size_text(task.completed)} of {size_text(task.total)}")
        if task.speed and width >= 62:
            figures.append(f"{size_text(task.speed)}/s")
        if paused is not None and width >= 78:
            figures.append(f"paused {paused} ms")
        return Text("  ".join(figures))


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    name, _, tag = arguments.image_name.partition(":")
    if tag and arguments.tag not in (None, tag):
        raise CommandError(f"--tag: the image name has another one already, {tag!r}")
    body = {
        "image_name": name,
        "tag": arguments.tag or tag or None,
        "pause": False if arguments.no_pause else None,
        "labels": _pairs("--label", arguments.label) or None,
        "metadata": _pairs("--metadata", arguments.metadata) or None,
        **{field: getattr(arguments, field) for field in AS_GIVEN},
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
