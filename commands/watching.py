"""How `snapshot watch` looks at snapshots, and shows them: live on a terminal, else in lines."""

from __future__ import annotations

import argparse
import os
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Protocol, TextIO

from rich.console import Console

from tintype.commands.client import Away, Client, Missing
from tintype.commands.live import LiveView
from tintype.commands.words import ENDED, image_of, one_line, outcome

IN_HAND = ("queued", "saving", "waiting")
"""The statuses of a snapshot without an outcome."""

NEWEST = 100
"""How many of the newest snapshots each look takes in, for those that are new among them."""

Snapshot = Mapping[str, Any]


class Follower:
    """Which snapshots there are to show: the named ones, else all in hand."""

    def __init__(self, client: Client, idents: Sequence[str], query: Mapping[str, str]) -> None:
        self._client = client
        self._named = bool(idents)
        self._open = list(idents)
        self._query = query
        self._in_hand: set[str] = set()
        self._told: set[str] = set()
        self.looked = False
        """Whether the service has answered yet."""
        self.ended: list[Snapshot] = []
        """The outcomes of the named ones."""

    @property
    def done(self) -> bool:
        """Whether there is nothing more to come."""
        return self._named and not self._open

    def look(self) -> Sequence[Snapshot]:
        """Return those in hand, and those that have ended since the last look, oldest first."""
        found = self._look_at_named() if self._named else self._look_at_all()
        self.looked = True
        return sorted(found, key=lambda snapshot: str(snapshot["created_at"]))

    def _look_at_named(self) -> Sequence[Snapshot]:
        found = {ident: self._client.snapshot(ident) for ident in self._open}
        self._open = [ident for ident, snapshot in found.items() if not _has_ended(snapshot)]
        unique = list(_by_id(found.values()).values())
        self.ended += [snapshot for snapshot in unique if _has_ended(snapshot)]
        return unique

    def _look_at_all(self) -> Sequence[Snapshot]:
        found = _by_id(self._client.snapshots(self._query, NEWEST))
        if not self.looked:
            self._told = {ident for ident, snapshot in found.items() if _has_ended(snapshot)}
            for status in IN_HAND:  # older ones than the newest, which may be many
                found |= _by_id(self._client.snapshots({**self._query, "status": status}))
        for ident in self._in_hand - set(found):
            with suppress(Missing):
                found[ident] = self._client.snapshot(ident)
        news = {ident: found[ident] for ident in found if ident not in self._told}
        self._in_hand = {ident for ident, snapshot in news.items() if not _has_ended(snapshot)}
        self._told |= set(news) - self._in_hand
        return list(news.values())


class View(Protocol):
    """Where snapshots are shown."""

    def show(self, snapshots: Iterable[Snapshot]) -> None:
        """Show how these stand now."""

    def say(self, text: str) -> None:
        """Tell something else."""


class LineView:
    """A line for each change, for pipes and files."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._told: dict[str, str] = {}

    def show(self, snapshots: Iterable[Snapshot]) -> None:
        """Write a line for each that stands otherwise than at the last look."""
        for snapshot in snapshots:
            ident, words = snapshot["snapshot_id"], outcome(snapshot)
            if self._told.get(ident) == words:
                continue
            self._told[ident] = words
            about = f"{ident} {snapshot['container_name']} -> {image_of(snapshot)}"
            self._out.write(f"{one_line(about)}: {words}\n")
            self._out.flush()
            if _has_ended(snapshot):
                del self._told[ident]

    def say(self, text: str) -> None:
        """Write a line beside the changes."""
        self._err.write(f"{text}\n")
        self._err.flush()


def watch(follower: Follower, out: TextIO, err: TextIO, seconds: float) -> None:
    """Look and show until all is done. Raises BrokenPipeError once nobody reads."""
    console = Console(file=out)
    with ExitStack() as open_view:
        view: View = LineView(out, err)
        if console.is_terminal and not console.is_dumb_terminal:
            view = open_view.enter_context(LiveView(console))
        _watch(follower, view, out, seconds)


def _watch(follower: Follower, view: View, out: TextIO, seconds: float) -> None:
    away = False
    while True:
        try:
            view.show(follower.look())
        except Away:
            if not follower.looked:
                raise
            if not away:
                view.say("the service does not answer; trying again")
            away = True
        else:
            away = False
        if follower.done:
            return
        pause(out, seconds)


def pause(stream: TextIO, seconds: float) -> None:
    """Wait. Raises BrokenPipeError as soon as nobody can read the stream any more."""
    poll = select.poll()
    try:
        poll.register(stream, 0)
    except (OSError, ValueError):  # it is in memory
        time.sleep(seconds)
        return
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


def silence(stream: TextIO) -> None:
    """Let what is still to be written to a pipe without a reader go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def interval(text: str) -> float:
    """Read seconds, for argparse."""
    with suppress(ValueError):
        if 0.1 <= float(text) <= 3600:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 3600, got {text!r}")


def _by_id(snapshots: Iterable[Snapshot]) -> dict[str, Snapshot]:
    return {snapshot["snapshot_id"]: snapshot for snapshot in snapshots}


def _has_ended(snapshot: Snapshot) -> bool:
    return snapshot["status"] in ENDED
