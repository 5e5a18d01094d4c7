"""`commit`: ask for a snapshot and, if wanted, wait for it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cliff.show import ShowOne

from tintype.commands import commit_options
from tintype.commands.checks import require_all, require_key, require_valid
from tintype.commands.credentials import client_of
from tintype.commands.options import add_options
from tintype.commands.waiting import wait_for
from tintype.commands.words import columns, outcome
from tintype.core.dockerfile import check_changes
from tintype.core.events import COMMIT_REQUEST

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
    "squashed",
    "paused_ms",
    "duration_ms",
    "excluded_volumes",
    "scrubbed_env",
    "hooks",
    "warnings",
    "expires_at",
    "metadata",
)
"""What of a snapshot is shown, and in this order; the rest is in the REST answer and the events."""

PREFLIGHT = (
    "problems",
    "estimated_bytes",
    "size_rw_bytes",
    "size_rootfs_bytes",
    "free_bytes",
    "soft_limit_bytes",
    "hard_limit_bytes",
    "layers",
    "max_layers",
    "squash_needed",
    "stores",
    "excluded_volumes",
    "scrubbed_env",
    "secret_looking_env",
    "hooks",
)
"""What of a dry run is shown first; whatever else there is follows."""


class Commit(ShowOne):
    """Snapshot a running, stopped or paused container."""

    problems: Sequence[str] = ()
    """What stands in the way of a snapshot that was only tried."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments, in `zun commit`'s words."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("container", help="uuid, id or name of the container")
        parser.add_argument("image_name", metavar="image-name", help="name[:tag] of the image")
        add_options(parser, commit_options.OPTIONS)
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run it; 1 also for a dry run that has found something in the way, which it shows."""
        return int(super().run(parsed_args)) or int(bool(self.problems))

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask for the snapshot and, if told so, wait for it."""
        body, key = commit_options.body_of(arguments), arguments.idempotency_key
        require_valid(COMMIT_REQUEST, {"container": arguments.container, **body})
        require_all(check_changes(body.get("changes", ())))
        require_key(key)
        client = client_of(self)
        answer = client.commit(arguments.container, body, key)
        if arguments.wait or arguments.dry_run:
            ident = answer["snapshot_id"]
            look = partial(client.snapshot, ident, patient=True)
            answer = wait_for("snapshot", ident, look, outcome, self.app.stderr)
        if arguments.dry_run:
            return self._tried(arguments, answer["preflight"])
        names = tuple(name for name in SHOWN if answer.get(name) not in (None, [], {}, False))
        return names, columns(arguments, answer, names)

    def _tried(
        self, arguments: argparse.Namespace, preflight: Mapping[str, Any]
    ) -> tuple[Sequence[str], Sequence[Any]]:
        self.problems = preflight["problems"]
        known = [name for name in PREFLIGHT if name in preflight]
        names = (*known, *sorted(preflight.keys() - known))
        return names, columns(arguments, preflight, names)
