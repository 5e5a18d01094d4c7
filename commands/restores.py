"""`restores list`, `show` and `cancel`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from tintype.commands import lists
from tintype.commands.cancelling import cancel_each
from tintype.commands.credentials import client_of
from tintype.commands.words import columns

LISTED = (
    "restore_id",
    "container_name",
    "image_name",
    "tag",
    "host",
    "status",
    "created_at",
)
LONG = (
    "snapshot_id",
    "image_id",
    "store",
    "container_uuid",
    "phase",
    "bytes_done",
    "bytes_total",
    "started",
    "duration_ms",
    "finished_at",
    "user_id",
)
SHOWN = (
    "restore_id",
    "request_id",
    "status",
    "phase",
    "fault",
    "container_name",
    "container_uuid",
    "engine_container_id",
    "host",
    "started",
    "snapshot_id",
    "store",
    "image_id",
    "image_name",
    "tag",
    "bytes_done",
    "bytes_total",
    "sha256",
    "missing_volumes",
    "warnings",
    "duration_ms",
    "metadata",
    "project_id",
    "user_id",
    "created_at",
    "finished_at",
)

IDENT = "id of the restore, or of its request"

FILTERS = {
    "snapshot": "only those of this snapshot",
    "container": "only the one with this container, by uuid or name",
    "host": "only those on this host",
    "image-id": "only those of this image",
    "image-name": "only those of images with this name",
    "status": "only those in this status: queued, loading, waiting, active or error",
}
"""Options that narrow the list."""


class List(Lister):
    """List restores, the newest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        lists.add_arguments(parser, FILTERS)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> lists.Table:
        """Fetch the list, page by page."""
        return lists.fetched(arguments, client_of(self).restores, FILTERS, LISTED, LONG)


class Show(ShowOne):
    """Show how a restore stands."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("restore", help=IDENT)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Fetch the restore."""
        record = client_of(self).restore(arguments.restore)
        return SHOWN, columns(arguments, record, SHOWN)


class Cancel(Command):
    """Stop restores that are not finished; what is there of their containers is removed."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("restores", nargs="+", metavar="restore", help=IDENT)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Ask for each."""
        cancel = client_of(self).cancel_restore
        cancel_each("restore", arguments.restores, cancel, self.app.stdout)
