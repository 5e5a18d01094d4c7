"""Power cuts: one request at a time, its host killed once, and started again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.twins import Bench, FusedJournal, PowerCut
from tintype.adapters.sqlite_journal import SqliteJournal

Prepare = Callable[[Bench], None]
"""Puts a container on the host, and plans what else is to go wrong."""


def killed_at_each_write(
    folder: Path, prepare: Prepare, *, after: bool, **fields: Any
) -> Iterator[tuple[Bench, str]]:
    """Yield a host and a request for each write to the journal at which the power was cut.

    The request is done, after a new start.
    """
    for number in range(1, _writes(folder, prepare, fields)):
        journal = FusedJournal(folder / f"journal-{number}")
        bench = Bench(journal=journal)
        prepare(bench)
        bench.restart(journal)
        journal.fatal_write, journal.after = number, after
        request_id = str(uuid.uuid4())
        with pytest.raises(PowerCut):
            _ask_and_settle(bench, request_id, fields)
        journal.close()
        _start_again(bench, folder / f"journal-{number}", request_id, fields)
        yield bench, request_id
        bench.journal.close()


def killed_at_each_call(
    folder: Path, prepare: Prepare, **fields: Any
) -> Iterator[tuple[Bench, str, str]]:
    """Yield a host and a request for each call at which the power was cut, and the call.

    The request is done, after a new start.
    """
    number, call = 0, ""
    while True:
        number += 1
        path = folder / f"journal-{number}"
        bench = Bench(journal=SqliteJournal(path))
        prepare(bench)
        bench.restart(bench.journal)
        bench.trouble.fatal_call = number
        request_id = str(uuid.uuid4())
        try:
            _ask_and_settle(bench, request_id, fields)
        except PowerCut as cut:
            call = str(cut)
        else:
            bench.journal.close()
            return
        bench.trouble.fatal_call = 0
        bench.journal.close()
        _start_again(bench, path, request_id, fields)
        yield bench, request_id, call
        bench.journal.close()


def _writes(folder: Path, prepare: Prepare, fields: dict[str, Any]) -> int:
    """Return how many writes to the journal a run takes that nothing disturbs."""
    journal = FusedJournal(folder / "count")
    bench = Bench(journal=journal)
    prepare(bench)
    bench.restart(journal)
    _ask_and_settle(bench, str(uuid.uuid4()), fields)
    journal.close()
    return journal.writes


def _ask_and_settle(bench: Bench, request_id: str, fields: dict[str, Any]) -> None:
    bench.ask(request_id=request_id, **fields)
    bench.settle()


def _start_again(bench: Bench, path: Path, request_id: str, fields: dict[str, Any]) -> None:
    bench.restart(SqliteJournal(path))
    bench.journal.recover()
    if request_id not in bench.journal.live() and not bench.events(request_id):
        bench.ask(request_id=request_id, **fields)  # it was not accepted: the bus redelivers
    bench.settle()
