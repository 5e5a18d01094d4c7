"""`restore`: make a container of a snapshot and, if wanted, wait for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from cliff.show import ShowOne

from tintype.commands.checks import pairs, require_key, require_valid, words
from tintype.commands.client import Client, CommandError, Missing
from tintype.commands.credentials import client_of
from tintype.commands.options import OF_A_REQUEST, Options, add_options, in_pairs, request_of
from tintype.commands.waiting import wait_for
from tintype.commands.words import columns, restored
from tintype.core.events import RESTORE_REQUEST, is_uuid

SHOWN = (
    "container_uuid",
    "container_name",
    "host",
    "restore_id",
    "request_id",
    "snapshot_id",
    "store",
    "image_id",
    "image_name",
    "tag",
    "status",
    "started",
    "missing_volumes",
    "warnings",
    "bytes_total",
    "sha256",
    "duration_ms",
    "metadata",
)
"""What of a restore is shown, and in this order; the rest is in the REST answer and the events."""

LISTED_MOST = 10
"""How many snapshots are told that a name may stand for."""

OPTIONS: Options = {
    "name": {"metavar": "NAME", "help": "name of the container (default: the old one's, and more)"},
    "store": {"metavar": "NAME", "help": "store that the image is taken from"},
    "repository": {
        "metavar": "[HOST[:PORT]/]PATH",
        "help": "where in a registry the image is",
    },
    "host": {"metavar": "NAME", "help": "host that is to have it (default: the snapshot's)"},
    "no-start": {"action": "store_true", "help": "make the container, but do not start it"},
    "env": in_pairs("environment variable"),
    "volume": in_pairs("volume, or folder of the host, for a mount point", "MOUNT=SOURCE"),
    "publish": in_pairs(
        "port of the container and the host's for it", "PORT[/udp]=[ADDRESS:]HOSTPORT"
    ),
    "label": in_pairs("label of the container"),
    "metadata": in_pairs("repeated in every event"),
    "command": {"dest": "words", "metavar": "WORDS", "help": "its command, quoted as for a shell"},
    "entrypoint": {"metavar": "WORDS", "help": "its entrypoint, quoted as for a shell"},
    "workdir": {"dest": "working_dir", "metavar": "FOLDER", "help": "its working directory"},
    "user": {"metavar": "USER", "help": "user that it runs as"},
    "restart": {
        "dest": "restart_policy",
        "metavar": "POLICY",
        "help": "no, always, unless-stopped or on-failure[:N]",
    },
    "network": {"metavar": "NAME", "help": "network that it joins"},
    **OF_A_REQUEST,
    "wait": {"action": "store_true", "help": "wait until the container is there"},
}

AS_GIVEN = (
    "name",
    "store",
    "repository",
    "host",
    "working_dir",
    "user",
    "restart_policy",
    "network",
    "deadline",
    "request_id",
)
"""Options that go into the request as they are."""


class Restore(ShowOne):
    """Make a container of a snapshot, or of another image."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Describe the arguments."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "image",
            metavar="snapshot",
            help="id of the snapshot, of its request or of its image, or the image's name[:tag]",
        )
        add_options(parser, OPTIONS)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask for the container and, if told so, wait for it."""
        body, key = _body(arguments), arguments.idempotency_key
        by_id = "image_id" if is_uuid(arguments.image) else "image"
        require_valid(RESTORE_REQUEST, {by_id: arguments.image, **body})
        require_key(key)
        client = client_of(self)
        snapshot_id = _snapshot_id(client, arguments.image)
        if snapshot_id is not None:
            answer = client.restore_snapshot(snapshot_id, body, key)
        else:
            answer = client.restore_image({by_id: arguments.image, **body}, key)
        if arguments.wait:
            ident = answer["restore_id"]
            look = partial(client.restore, ident, patient=True)
            answer = wait_for("restore", ident, look, restored, self.app.stderr)
        names = tuple(name for name in SHOWN if answer.get(name) not in (None, [], {}))
        return names, columns(arguments, answer, names)


def _snapshot_id(client: Client, ident: str) -> str | None:
    """Return the snapshot that is meant; None: an image that the service knows of no snapshot of.

    Raises CommandError for a name that several snapshots have.
    """
    if is_uuid(ident):
        try:
            return str(client.snapshot(ident)["snapshot_id"])
        except Missing:
            found = list(client.snapshots({"image_id": ident.lower(), "status": "active"}))
    else:
        name, tag = _parted(ident)
        named = client.snapshots({"image_name": name, "status": "active"})
        found = [each for each in named if tag in (None, each["tag"])]
    if len(found) > 1:
        ids = [f"{each['snapshot_id']} ({each['tag']})" for each in found[:LISTED_MOST]]
        more = f" and {len(found) - LISTED_MOST} more" if len(found) > LISTED_MOST else ""
        raise CommandError(
            f"{ident!r} stands for {len(found)} snapshots: {', '.join(ids)}{more}; give an id"
        )
    return str(found[0]["snapshot_id"]) if found else None


def _parted(reference: str) -> tuple[str, str | None]:
    """Return the name and the tag of an image; the port of a registry is no tag."""
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, None)


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    published = pairs("--publish", arguments.publish, "PORT=HOSTPORT")
    return request_of(
        arguments,
        AS_GIVEN,
        start=False if arguments.no_start else None,
        env=pairs("--env", arguments.env) or None,
        labels=pairs("--label", arguments.label) or None,
        metadata=pairs("--metadata", arguments.metadata) or None,
        volumes=pairs("--volume", arguments.volume, "MOUNT=SOURCE") or None,
        ports={_port(port): host for port, host in published.items()} or None,
        command=words("--command", arguments.words),
        entrypoint=words("--entrypoint", arguments.entrypoint),
    )


def _port(text: str) -> str:
    """Return a port with its protocol; Docker takes one without for TCP, too."""
    return text if "/" in text else f"{text}/tcp"
