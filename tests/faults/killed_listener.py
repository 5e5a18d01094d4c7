"""A listener that kills itself at the N-th write to its journal: `killed_listener.py N ARGUMENTS`.

Everything else is the real one.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.config import load
from tintype.core.events import Event
from tintype.core.ports import Admission, OutboxRow, Work
from tintype.listener import AgentOnBus, serve


class KilledJournal(SqliteJournal):
    """A journal whose process dies at a given write."""

    def __init__(self, path: object) -> None:
        super().__init__(str(path))
        self._countdown = int(sys.argv[1])

    def _tick(self) -> None:
        self._countdown -= 1
        if self._countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def admit(self, *request: Any, **options: Any) -> Admission:
        self._tick()
        admission = super().admit(*request, **options)
        self._tick()
        return admission

    def claim(self, now: datetime, places: int | None = None) -> Work | None:
        work = super().claim(now, places)
        if work is not None:
            self._tick()
        return work

    def record(
        self, work: Work, events: Sequence[Event], step: Event | None, **options: Any
    ) -> None:
        self._tick()
        super().record(work, events, step, **options)
        self._tick()

    def confirm(self, rows: Sequence[OutboxRow]) -> None:
        # What the engine says comes when it comes: a point there would not be the same one twice.
        told = ("image.", "container.restore.")
        ours = any(row.event.type.startswith(told) for row in rows)
        if ours:
            self._tick()
        super().confirm(rows)
        if ours:
            self._tick()


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    settings = load([sys.argv[3]])
    serve(settings, [AgentOnBus(settings, KilledJournal(settings.journal_path))])
    return 0


if __name__ == "__main__":
    sys.exit(main())
