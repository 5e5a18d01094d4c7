"""The command `janitor`: what the agent's janitor would remove now. It removes nothing itself.

What looks into the stores is imported only where it is needed, since it brings half a second of
imports that other commands need not wait for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cliff.lister import Lister

from tintype.commands import words
from tintype.local import add_config_arguments, keep_alembic_quiet, settings_of

LISTED = ("store", "image_id", "image_name", "tag", "reason", "expires_at", "project_id")


class Show(Lister):
    """List the images that this host's agent removes the next time it looks.

    With `[janitor] enabled = false` it is a dry run: the agent removes nothing.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        add_config_arguments(parser)
        return parser

    def take_action(
        self, arguments: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Look into every store that is configured, and into the journal, changing nothing."""
        keep_alembic_quiet(self)
        from tintype import agent, stores  # noqa: PLC0415 (late, as the top says)

        settings = settings_of(arguments)
        found = agent.to_be_removed(settings, stores.make_agent_stores(settings))
        records = map(asdict, found)
        return LISTED, [words.columns(arguments, record, LISTED) for record in records]
