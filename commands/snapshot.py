"""`snapshot list`, `show`, `cancel` and `watch`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from tintype.commands import lists, watching
from tintype.commands.cancelling import cancel_each
from tintype.commands.client import CommandError
from tintype.commands.credentials import client_of
from tintype.commands.words import columns, outcome

LISTED = (
    "snapshot_id",
    "container_name",
    "image_name",
    "tag",
    "status",
    "size_bytes",
    "created_at",
)
LONG = (
    "image_id",
    "container_uuid",
    "host",
    "phase",
    "bytes_done",
    "bytes_total",
    "paused_ms",
    "duration_ms",
    "finished_at",
    "user_id",
)
SHOWN = (
    "snapshot_id",
    "request_id",
    "status",
    "phase",
    "fault",
    "container_name",
    "container_uuid",
    "engine_container_id",
    "host",
    "image_id",
    "image_name",
    "tag",
    "base_image",
    "stores",
    "bytes_done",
    "bytes_total",
    "size_bytes",
    "sha256",
    "layers",
    "squashed",
    "paused_ms",
    "duration_ms",
    "excluded_volumes",
    "scrubbed_env",
    "hooks",
    "warnings",
    "preflight",
    "rotated_images",
    "expires_at",
    "metadata",
    "project_id",
    "user_id",
    "created_at",
    "finished_at",
)

IDENT = "id of the snapshot, or of its request"

FILTERS = {
    "container": "only those of the container with this uuid or name",
    "host": "only those of containers on this host",
    "image-id": "only the one with this image",
    "image-name": "only those with this name",
    "status": "only those in this status: queued, saving, waiting, active, error or preflight",
}
"""Options that narrow the list."""


class List(Lister):
    """List snapshots, the newest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        lists.add_arguments(parser, FILTERS)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> lists.Table:
        """Fetch the list, page by page."""
        return lists.fetched(arguments, client_of(self).snapshots, FILTERS, LISTED, LONG)


class Show(ShowOne):
    """Show how a snapshot stands."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("snapshot", help=IDENT)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Fetch the snapshot."""
        record = client_of(self).snapshot(arguments.snapshot)
        return SHOWN, columns(arguments, record, SHOWN)


class Cancel(Command):
    """Stop snapshots that are not finished; what is there of their images is deleted."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("snapshots", nargs="+", metavar="snapshot", help=IDENT)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Ask for each."""
        cancel = client_of(self).cancel
        cancel_each("snapshot", arguments.snapshots, cancel, self.app.stdout)


class Watch(Command):
    """Watch all snapshots in hand, or some, until Ctrl-C or until these have ended."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("snapshots", nargs="*", metavar="snapshot", help=IDENT)
        parser.add_argument(
            "--all-projects", action="store_true", help="of all projects (admin only)"
        )
        parser.add_argument(
            "--interval",
            type=watching.interval,
            default=1.0,
            metavar="SECONDS",
            help="between two looks (default: 1)",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Look and show, again and again; Ctrl-C is the ordinary end."""
        query = {"all_projects": "true"} if arguments.all_projects else {}
        follower = watching.Follower(client_of(self), arguments.snapshots, query)
        try:
            watching.watch(follower, self.app.stdout, self.app.stderr, arguments.interval)
        except KeyboardInterrupt:
            return
        except BrokenPipeError:
            watching.silence(self.app.stdout)
            return
        failed = [
            f"snapshot {snapshot['snapshot_id']} {outcome(snapshot)}"
            for snapshot in follower.ended
            if snapshot["status"] == "error"
        ]
        if failed:
            raise CommandError("; ".join(failed))
