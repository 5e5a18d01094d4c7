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

from tintype import listener
from tintype.adapters.sqlite_journal import SqliteJournal
from tintype.core.events import Event
from tintype.core.ports import Admission, OutboxRow, Work


class KilledJournal(SqliteJournal):
    """A journal whose process dies at a given write."""

    def __init__(self, path: object) -> None:
        super().__init__(str(path))
        self._countdown = int(sys.argv[1])

    def _tick(self) -> None:
        self._countdown -= 1
        if self._countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def admit(self, *request: Any) -> Admission:
        self._tick()
        admission = super().admit(*request)
        self._tick()
        return admission

    def claim(self, now: datetime, places: int | None = None) -> Work | None:
        work = super().claim(now, places)
        if work is not None:
            self._tick()
        return work

    def record(self, work: Work, events: Sequence[Event], step: Event | None) -> None:
        self._tick()
        super().record(work, events, step)
        self._tick()

    def confirm(self, row: OutboxRow) -> None:
        self._tick()
        super().confirm(row)
        self._tick()


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    settings = listener.load([sys.argv[3]])
    journal = KilledJournal(settings.journal_path)
    agent = listener.Agent(settings, listener.make_publisher(settings), journal=journal)
    listener.serve(settings, agent, listener.make_listener(settings, agent.intake))
    return 0


if __name__ == "__main__":
    sys.exit(main())
