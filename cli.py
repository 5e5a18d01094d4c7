"""The `tintype` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from cliff.app import App
from cliff.command import Command
from cliff.commandmanager import CommandManager

from tintype import __version__, dead_letter_commands, janitor_command, local
from tintype.commands import commit, container, credentials, restore, restores, snapshot
from tintype.commands.watching import silence

CLOSED_PIPE = 141
"""What a shell says of a command that SIGPIPE ended."""

COMMANDS: Mapping[str, type[Command]] = {
    "commit": commit.Commit,
    "container list": container.List,
    "container show": container.Show,
    "restore": restore.Restore,
    "restores cancel": restores.Cancel,
    "restores list": restores.List,
    "restores show": restores.Show,
    "snapshot cancel": snapshot.Cancel,
    "snapshot list": snapshot.List,
    "snapshot show": snapshot.Show,
    "snapshot watch": snapshot.Watch,
    "janitor": janitor_command.Show,
    "dead-letter list": dead_letter_commands.List,
    "dead-letter show": dead_letter_commands.Show,
    "dead-letter replay": dead_letter_commands.Replay,
    "serve": local.Serve,
    "invoke": local.Invoke,
    "validate": local.Validate,
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
