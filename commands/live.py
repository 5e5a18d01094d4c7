"""The live table of `snapshot watch` on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tintype.commands.words import ENDED, image_of, one_line, outcome, size_text

LINGER_SECONDS = 5
"""How long one that has ended stays."""

STYLES = {"active": "green", "error": "red", "waiting": "yellow"}


@dataclass(frozen=True, slots=True)
class Row:
    """One snapshot as it was seen last."""

    snapshot: Mapping[str, Any]
    at: float
    """When it was seen so, by a clock of seconds; of one that has ended, when that was seen."""
    speed: float | None = None
    """Bytes a second; None: not known."""

    def next(self, snapshot: Mapping[str, Any], at: float) -> Row:
        """Return the row as of a later look."""
        if self.ended:
            return self
        sent = (snapshot["bytes_done"] or 0) - (self.snapshot["bytes_done"] or 0)
        known = sent > 0 and at > self.at
        return Row(snapshot, at, sent / (at - self.at) if known else None)

    @property
    def ended(self) -> bool:
        """Whether there is an outcome."""
        return self.snapshot["status"] in ENDED

    @property
    def share(self) -> float | None:
        """Part of the bytes that is sent, 0 to 1; None: not known."""
        if self.snapshot["status"] == "active":
            return 1.0
        done, total = self.snapshot["bytes_done"], self.snapshot["bytes_total"]
        return min(1.0, done / total) if done is not None and total else None


class LiveView:
    """A table that is drawn anew at each look; to be used as a context."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._live = Live(get_renderable=self.table, console=console, vertical_overflow="ellipsis")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, snapshots: Iterable[Mapping[str, Any]]) -> None:
        """Show these, and for a while those that have ended."""
        now = self._clock()
        rows = {
            ident: row
            for ident, row in self._rows.items()
            if row.ended and now - row.at < LINGER_SECONDS
        }
        for snapshot in snapshots:
            ident = snapshot["snapshot_id"]
            before = self._rows.get(ident)
            rows[ident] = before.next(snapshot, now) if before else Row(snapshot, now)
        self._rows = rows  # in one piece: it is drawn in another thread, too
        self._live.refresh()

    def say(self, text: str) -> None:
        """Write a line above the table."""
        self._live.console.print(Text(text))

    def table(self) -> RenderableType:
        """Return what is to be drawn."""
        rows = list(self._rows.values())
        if not rows:
            return Text("no snapshot in hand")
        table = Table(box=None, pad_edge=False)
        table.add_column("container", no_wrap=True)
        table.add_column("image", no_wrap=True)
        table.add_column("how it stands", ratio=1)
        table.add_column("")
        for name in ("", "speed", "paused", "age"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row))
        return table


def _cells(row: Row) -> tuple[RenderableType, ...]:
    snapshot, share = row.snapshot, row.share
    pulse = share is None and not row.ended
    paused = snapshot["paused_ms"]
    return (
        Text(one_line(snapshot["container_name"])),
        Text(one_line(image_of(snapshot))),
        Text(outcome(snapshot), style=STYLES.get(snapshot["status"], "")),
        ProgressBar(total=1.0, completed=share or 0.0, width=20, pulse=pulse),
        "" if share is None else f"{share:.0%}",
        "" if row.speed is None or row.ended else f"{size_text(row.speed)}/s",
        "" if paused is None else f"{paused} ms",
        _age(snapshot),
    )


def _age(snapshot: Mapping[str, Any]) -> str:
    """Return how long ago it began, or how long it took."""
    end = snapshot["finished_at"]
    until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    seconds = int((until - datetime.fromisoformat(snapshot["created_at"])).total_seconds())
    minutes, seconds = divmod(max(seconds, 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
