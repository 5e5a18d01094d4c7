"""How a command waits for the end of what it has asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from tintype.commands.client import CommandError
from tintype.commands.live import GOING
from tintype.commands.words import ENDED, size_text

POLL_SECONDS = 0.5


def wait_for(
    kind: str,
    ident: str,
    look: Callable[[], dict[str, Any]],
    words_for: Callable[[Mapping[str, Any]], str],
    err: TextIO,
) -> dict[str, Any]:
    """Return the outcome of a snapshot or a restore, which `kind` tells; see `wait`.

    Ctrl-C ends no more than the waiting. Raises CommandError for one that has failed.
    """
    try:
        end = wait(look, words_for, Console(file=err))
    except KeyboardInterrupt:
        err.write(f"not waiting; {kind} {ident} goes on\n")
        raise
    if end["status"] == "error":
        raise CommandError(f"the {kind} {words_for(end)}")
    return end


def wait(
    look: Callable[[], dict[str, Any]],
    words_for: Callable[[Mapping[str, Any]], str],
    console: Console,
) -> dict[str, Any]:
    """Follow a snapshot or a restore to its outcome, and return that.

    With a bar on a terminal, and elsewhere a line for each new phase. `look` asks the service how
    it stands, `words_for` says that.
    """
    bar_columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(None, complete_style=GOING, pulse_style=GOING, table_column=Column(max_width=30)),
        _Figures(console),
    )
    live = console.is_terminal and not console.is_dumb_terminal
    with Progress(*bar_columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task("accepted", total=None, paused_ms=None)
        told = ""
        while True:
            now = look()
            if now["status"] in ENDED:
                return now
            words, waits = words_for(now), now["status"] == "waiting"
            bar.update(
                task,
                description="waiting" if waits else words,
                total=now["bytes_total"],
                completed=now["bytes_done"] or 0,
                paused_ms=now.get("paused_ms"),
            )
            if words != told and (waits or not live):  # beside a bar is no room for a reason
                console.print(words, highlight=False, markup=False, soft_wrap=True)
            told = words
            time.sleep(POLL_SECONDS)


class _Figures(ProgressColumn):
    """Percent, bytes, speed and pause, as far as they are known and the terminal is wide enough."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self._console = console

    def render(self, task: Task) -> Text:
        width, paused = self._console.width, task.fields["paused_ms"]
        figures = []
        if task.total:
            figures.append(f"{task.percentage:3.0f}%")
        if task.total and width >= 50:
            figures.append(f"{size_text(task.completed)} of {size_text(task.total)}")
        if task.speed and width >= 62:
            figures.append(f"{size_text(task.speed)}/s")
        if paused is not None and width >= 78:
            figures.append(f"paused {paused} ms")
        return Text("  ".join(figures))
