#!/usr/bin/env python3
"""How fast the listener journals what waits in RabbitMQ, next to a listener that does nothing.

Both find the same requests in a durable queue when they start, and the clock runs from the first to
the last. Ours commits each one to disk before it is acknowledged, while its workers and its outbox
already answer the first (the container they ask for does not exist).

    python benchmarks/intake.py [--messages 2000] [--rounds 3] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from lab import Stack
from listener_process import Listener, request
from processes import BenchError, heed_sigterm, turn_deaf
from report import medians, ratios, surroundings, table, write

FIELD = "messages_per_second"
PATIENCE_SECONDS = 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file for the JSON; standard output if missing")
    arguments = parser.parse_args(argv)
    heed_sigterm()
    try:
        document = measure(Stack.find(), arguments.messages, arguments.rounds)
    except BenchError as error:
        print(f"intake: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(table(document["medians"], [FIELD]), file=sys.stderr)
    print(f"ratios: {document['ratios']}", file=sys.stderr)
    write(document, arguments.output)
    return 0


def measure(stack: Stack, messages: int, rounds: int) -> dict[str, Any]:
    """Let both drain a queue, in alternating order. Raises BenchError."""
    contenders: dict[str, Callable[[Listener, int], dict[str, float]]] = {
        "tintype": _journal, "oslo.messaging no-op": _count
    }  # fmt: skip
    results = []
    with ExitStack() as at_end:
        at_end.enter_context(stack.virtual_host())
        at_end.callback(turn_deaf)
        document = surroundings(stack)
        for number in range(rounds):
            names = list(contenders)[:: -1 if number % 2 else 1]
            results.append(
                {name: _once(stack, name, number, messages, contenders[name]) for name in names}
            )
    return document | {
        "messages": messages,
        "rounds": results,
        "medians": medians(results, [FIELD]),
        "ratios": ratios(results, "tintype", [FIELD]),
    }


def _once(
    stack: Stack,
    name: str,
    number: int,
    messages: int,
    run: Callable[[Listener, int], dict[str, float]],
) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix=stack.run) as folder:
        listener = Listener(stack, Path(folder), f"{name.partition(' ')[0]}-{number}")
        with closing(listener.publisher()) as publisher:
            for _ in range(messages):
                publisher.publish(request("no-such-container", "benchmark"))
        result = run(listener, messages)
    print(f"{name}: {result}", file=sys.stderr, flush=True)
    return result


def _journal(listener: Listener, messages: int) -> dict[str, float]:
    """Watch the rows of the listener's journal from outside."""
    journal = listener.folder / "journal.sqlite"
    with listener.starting(listener.configure(roles="agent")):
        first = began = 0.0
        deadline = time.monotonic() + PATIENCE_SECONDS
        rows = 0
        while rows < messages:
            time.sleep(0.005)
            rows = _rows(journal)
            now = time.monotonic()
            if rows and not began:
                first, began = rows, now
            if now > deadline:
                raise BenchError(f"{rows} of {messages} requests journaled in {PATIENCE_SECONDS} s")
        return {FIELD: round((messages - first) / (now - began), 1)}


def _rows(journal: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM requests").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


def _count(listener: Listener, messages: int) -> dict[str, float]:
    """Let oslo.messaging's listener count for itself."""
    return listener.count_noop(messages, listener.topic, seconds=PATIENCE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
