"""The live table of `snapshot watch` on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tintype.commands.words import ENDED, image_of, one_line, outcome, size_text

LINGER_SECONDS = 5
"""How long one that has ended stays."""

STALE_SECONDS = 5
"""How long a speed counts when no more bytes are seen to go."""

GOING, DONE = "cyan", "green"
"""Colours of a bar; rich's own is red while all is well."""

STYLES = {"active": DONE, "preflight": DONE, "error": "red", "waiting": "yellow"}

LEAST_WIDTH = {
    "container": 0,
    "image": 0,
    "how it stands": 0,
    "bar": 72,
    "sent": 0,
    "speed": 96,
    "paused": 72,
    "age": 0,
}
"""Column -> how many characters wide the terminal is at least where it is shown."""

NAMES = ("container", "image")
FIGURES = ("sent", "speed", "paused", "age")


@dataclass(frozen=True, slots=True)
class Row:
    """One snapshot as it was seen last."""

    snapshot: Mapping[str, Any]
    at: float
    """When it was seen so, by a clock of seconds; of one that has ended, when that was seen."""
    speed: float | None = None
    """Bytes a second; None: not known."""
    moved: float | None = None
    """When bytes were last seen to go; None: never."""

    def next(self, snapshot: Mapping[str, Any], at: float) -> Row:
        """Return the row as of a later look."""
        if self.ended:
            return self
        sent = (snapshot["bytes_done"] or 0) - (self.snapshot["bytes_done"] or 0)
        since = self.at if self.moved is None else self.moved
        if sent > 0 and at > since:
            return Row(snapshot, at, sent / (at - since), at)
        if sent == 0 and at - since < STALE_SECONDS:  # the service tells of them less often
            return Row(snapshot, at, self.speed, self.moved)
        return Row(snapshot, at)

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
        return Group(_table(rows, self._live.console.width), *_reasons(rows))


def _table(rows: Iterable[Row], width: int) -> Table:
    """Lay rows out; what a narrow terminal has no room for is folded or left out, not cut."""
    shown = [name for name, least in LEAST_WIDTH.items() if width >= least]
    table = Table(box=None, pad_edge=False)
    for name in shown:
        if name in NAMES:
            table.add_column(name, max_width=width // 4, overflow="fold")
        else:
            justify: JustifyMethod = "right" if name in FIGURES else "left"
            table.add_column(name if name != "bar" else "", justify=justify, no_wrap=True)
    for row in rows:
        cells = _cells(row, bar_width=min(width // 8, 20))
        table.add_row(*(cells[name] for name in shown))
    return table


def _cells(row: Row, bar_width: int) -> Mapping[str, RenderableType]:
    snapshot, share = row.snapshot, row.share
    bar = ProgressBar(
        total=1.0,
        completed=share or 0.0,
        width=bar_width,
        pulse=share is None,
        complete_style=GOING,
        finished_style=DONE,
        pulse_style=GOING,
    )
    paused = snapshot["paused_ms"]
    return {
        "container": Text(one_line(snapshot["container_name"])),
        "image": Text(one_line(image_of(snapshot))),
        "how it stands": Text(_in_short(snapshot), style=_style(snapshot)),
        "bar": "" if share is None and row.ended else bar,
        "sent": "" if share is None else f"{share:.0%}",
        "speed": "" if row.speed is None or row.ended else f"{size_text(row.speed)}/s",
        "paused": "" if paused is None else f"{paused} ms",
        "age": _age(snapshot),
    }


def _in_short(snapshot: Mapping[str, Any]) -> str:
    """Say how it stands without what has a column, or a line below the table, of its own."""
    status = snapshot["status"]
    if status == "active":
        return f"active: {size_text(snapshot['size_bytes'])}"
    words = {"error": "failed", "waiting": "waiting", "preflight": "dry run"}
    return words.get(status, str(snapshot["phase"]))


def _reasons(rows: Iterable[Row]) -> Iterator[Text]:
    """Say of each that waits or has failed why; in a table that would be a tall, narrow column."""
    for snapshot in (row.snapshot for row in rows):
        if snapshot["status"] in ("waiting", "error"):
            about = one_line(f"{snapshot['container_name']} -> {image_of(snapshot)}")
            yield Text(f"{about}: {outcome(snapshot)}", style=_style(snapshot))


def _style(snapshot: Mapping[str, Any]) -> str:
    return STYLES.get(snapshot["status"], "")


def _age(snapshot: Mapping[str, Any]) -> str:
    """Return how long ago it began, or how long it took."""
    end = snapshot["finished_at"]
    until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    seconds = int((until - datetime.fromisoformat(snapshot["created_at"])).total_seconds())
    minutes, seconds = divmod(max(seconds, 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
