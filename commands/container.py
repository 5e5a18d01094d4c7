"""`container list` and `container show`: what there is to snapshot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cliff.lister import Lister
from cliff.show import ShowOne

from tintype.commands import lists
from tintype.commands.credentials import client_of
from tintype.commands.words import columns

LISTED = ("uuid", "name", "state", "host", "image", "created_at")
LONG = ("engine_container_id", "user_id", "labels")
SHOWN = (
    "uuid",
    "name",
    "state",
    "host",
    "image",
    "labels",
    "engine_container_id",
    "project_id",
    "user_id",
    "created_at",
)

FILTERS = {
    "name": "only those of this name",
    "host": "only those on this host",
    "state": "only those in this state, for example Running",
}
"""Options that narrow the list."""


class List(Lister):
    """List containers."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        lists.add_arguments(parser, FILTERS)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> lists.Table:
        """Fetch the list, page by page."""
        return lists.fetched(arguments, client_of(self).containers, FILTERS, LISTED, LONG)


class Show(ShowOne):
    """Show a container."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("container", help="uuid, engine id or name of the container")
        parser.add_argument("--host", help="its host, where several have one of this name")
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Fetch the container."""
        record = client_of(self).container(arguments.container, arguments.host)
        return SHOWN, columns(arguments, record, SHOWN)
