#!/usr/bin/env python3
"""How fast the index fills from an engine's containers, and how fast it digests events.

Containers: a fresh listener (agent and router) finds all containers of an engine, and the clock
runs from its start until the last one is in the index, next to a program that lists them, inspects
each and writes it down.

Events: they wait in the router's durable pool when it starts, and the clock runs from the first to
the last, next to oslo.messaging's own listener that does nothing with the same ones.

    python benchmarks/index.py [--containers 1000] [--events 10000] [--rounds 3] [--output FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import kombu
import lifecycles
from databases import Rows, fresh, kinds
from fleet import Fleet
from lab import Stack, until
from listener_process import Listener
from processes import BenchError, child, heed_sigterm, turn_deaf
from report import medians, ratios, surroundings, table, write

from tintype.adapters.envelope import CONTENT_TYPE
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_index import SqlIndex

PATIENCE_SECONDS = 900.0
READY = "is listening"
TOPIC = "notifications"
FILLING = ("seconds", "seconds_since_ready")
DIGESTING = ("events_per_second",)
POLLING = {"docker-py list+inspect+INSERT": "inspect", "docker-py list+INSERT": "list"}
"""Name -> how poll_containers.py is to do it."""
NOOP = "oslo.messaging no-op"

Result = dict[str, float]
Contenders = Mapping[str, Callable[[Listener], Result]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--containers", type=int, default=1000, help="0: none of this part")
    parser.add_argument("--events", type=int, default=10000, help="0: none of this part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file for the JSON; standard output if missing")
    arguments = parser.parse_args(argv)
    heed_sigterm()
    try:
        document = measure(Stack.find(), arguments.containers, arguments.events, arguments.rounds)
    except BenchError as error:
        print(f"index: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for part, fields in (("containers", FILLING), ("events", DIGESTING)):
        if part in document:
            print(f"\n{table(document[part]['medians'], fields)}", file=sys.stderr)
            print(f"ratios: {document[part]['ratios']}", file=sys.stderr)
    write(document, arguments.output)
    return 0


def measure(stack: Stack, containers: int, events: int, rounds: int) -> dict[str, Any]:
    """Measure both parts and clear everything away. Raises BenchError."""
    with ExitStack() as at_end:
        at_end.enter_context(stack.virtual_host())
        at_end.callback(turn_deaf)
        document = surroundings(stack)
        if events:
            document["events"] = digest(stack, events // len(lifecycles.LIFE), rounds)
        if containers:
            document["containers"] = fill(stack, containers, rounds)
        document["load_average_after"] = os.getloadavg()
    return document


def fill(stack: Stack, size: int, rounds: int) -> dict[str, Any]:
    """Measure how long an index takes to know all containers of an engine."""
    with ExitStack() as at_end:
        _say(f"making {size} containers")
        fleet = at_end.enter_context(closing(Fleet(stack, size)))
        at_end.callback(turn_deaf)
        at_end.callback(_say, "removing the containers")
        found = fleet.everybody
        contenders = {
            **{f"tintype {kind}": partial(_fill, kind=kind, size=size) for kind in kinds(stack)},
            **{name: partial(_poll, how=how, size=size) for name, how in POLLING.items()},
        }
        results = _rounds(stack, contenders, rounds)
    return {"containers": size, "on_the_engine": found} | _compared(results, POLLING, FILLING)


def digest(stack: Stack, containers: int, rounds: int) -> dict[str, Any]:
    """Measure how fast an index digests events that wait for it."""
    bodies = lifecycles.tell(containers)
    contenders = {
        **{f"tintype {kind}": partial(_digest, kind=kind, bodies=bodies) for kind in kinds(stack)},
        NOOP: partial(_count, bodies=bodies),
    }
    results = _rounds(stack, contenders, rounds)
    told = {"events": len(bodies), "of_containers": containers}
    told["body_bytes"] = sum(map(len, bodies)) // len(bodies)
    return told | _compared(results, [NOOP], DIGESTING)


def _rounds(stack: Stack, contenders: Contenders, rounds: int) -> list[dict[str, Result]]:
    """Let everybody have a turn in every round, in alternating order."""
    results = []
    for number in range(rounds):
        result: dict[str, Result] = {}
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory(prefix=stack.run) as folder:
                called = f"{re.sub('[^a-z]+', '-', name.lower())}-{number}"
                result[name] = contenders[name](Listener(stack, Path(folder), called))
            _say(f"{name}: {result[name]}")
        results.append(result)
    return results


def _compared(
    results: Sequence[Mapping[str, Result]], others: Collection[str], fields: Sequence[str]
) -> dict[str, Any]:
    """Return rounds, medians, and the ratios of each of ours to each of the others."""
    compared: dict[str, Any] = {}
    for ours in (name for name in results[0] if name not in others):
        chosen = [{name: each[name] for name in (ours, *others)} for each in results]
        compared |= ratios(chosen, ours, fields)
    return {"rounds": results, "medians": medians(results, fields), "ratios": compared}


# Containers


def _fill(listener: Listener, *, kind: str, size: int) -> Result:
    """Start agent and router, and look into the index from outside."""
    with fresh(listener.stack, kind, listener.folder) as url:
        config = listener.configure(roles="agent,router", index_url=url)
        with closing(Rows(url, listener.stack.run)) as rows:
            began = time.monotonic()
            with listener.starting(config) as process:
                return _until_full(
                    rows, size, began, lambda: listener.log, lambda: listener.check(process)
                )


def _poll(listener: Listener, *, how: str, size: int) -> Result:
    """Start the other program, and look into its file in the same way."""
    file, log = listener.folder / "polled.sqlite", listener.folder / "polled.log"
    script = Path(__file__).with_name("poll_containers.py")
    command = [sys.executable, str(script), listener.stack.engine_url, str(file), how]
    with closing(Rows(f"sqlite:///{file}", listener.stack.run)) as rows, log.open("wb") as out:
        began = time.monotonic()
        with child(command, stdout=out, stderr=out) as process:

            def check() -> None:
                if process.poll():
                    raise BenchError(f"polling: {log.read_text(errors='replace')[-2000:]}")

            return _until_full(rows, size, began, lambda: log.read_text(errors="replace"), check)


def _until_full(
    rows: Rows, size: int, began: float, log: Callable[[], str], check: Callable[[], None]
) -> Result:
    count, ready = 0, 0.0
    while count < size:
        check()
        time.sleep(0.02)
        count, now = rows.count(), time.monotonic()
        if not ready and READY in log():
            ready = now
        if now - began > PATIENCE_SECONDS:
            raise BenchError(f"{count} of {size} containers in {PATIENCE_SECONDS:.0f} s")
    return dict(zip(FILLING, (round(now - began, 2), round(now - ready, 2)), strict=True))


# Events


def _digest(listener: Listener, *, kind: str, bodies: Sequence[bytes]) -> Result:
    """Let a router make its pool, fill that while it is stopped, and start it again."""
    with fresh(listener.stack, kind, listener.folder) as url:
        config = listener.configure(roles="router", index_url=url)
        with listener.running(config, listener.pool):
            pass
        _send(listener, bodies)
        with closing(_Pool(listener)) as pool, listener.starting(config) as process:
            seconds, taken = pool.drain(len(bodies), lambda: listener.check(process))
            _compare(url, bodies)
    return {DIGESTING[0]: round(taken / seconds, 1)}


def _count(listener: Listener, *, bodies: Sequence[bytes]) -> Result:
    """Let oslo.messaging's listener drain a pool of its own."""
    with listener.stack.kombu() as connection:
        exchange = kombu.Exchange(listener.name, "topic", durable=True)
        kombu.Queue(
            listener.pool, exchange, f"{TOPIC}.info", durable=True, channel=connection.channel()
        ).declare()
    _send(listener, bodies)
    counted = listener.count_noop(len(bodies), TOPIC, listener.pool, seconds=PATIENCE_SECONDS)
    return {DIGESTING[0]: counted["messages_per_second"]}


def _send(listener: Listener, bodies: Sequence[bytes]) -> None:
    """Publish, and wait until all are in the pool."""
    with listener.stack.kombu() as connection:
        producer = connection.Producer()
        for body in bodies:
            producer.publish(
                body, exchange=listener.name, routing_key=f"{TOPIC}.info",
                content_type=CONTENT_TYPE, content_encoding="utf-8", delivery_mode=2,
            )  # fmt: skip
        with closing(_Pool(listener)) as pool:
            until(lambda: pool.ready() == len(bodies), f"{len(bodies)} events in the pool")


class _Pool:
    """The router's queue, seen from outside."""

    def __init__(self, listener: Listener) -> None:
        self._connection = listener.stack.kombu()
        self._queue = listener.pool

    def ready(self) -> int:
        """Return how many messages nobody has been given yet."""
        channel = self._connection.default_channel
        return int(channel.queue_declare(self._queue, passive=True).message_count)

    def drain(self, count: int, check: Callable[[], None]) -> tuple[float, int]:
        """Wait until it is empty; return for how many seconds how many messages were taken.

        What is given out and not yet acknowledged is not counted: 5 messages by default.
        """
        began, first, ready = 0.0, count, count
        deadline = time.monotonic() + PATIENCE_SECONDS
        while ready:
            check()
            time.sleep(0.01)
            ready, now = self.ready(), time.monotonic()
            if ready < count and not began:
                began, first = now, ready
            if now > deadline:
                raise BenchError(f"{ready} of {count} events left after {PATIENCE_SECONDS:.0f} s")
        return now - began, first

    def close(self) -> None:
        """Disconnect."""
        self._connection.release()


def _compare(url: str, bodies: Sequence[bytes]) -> None:
    """Make sure that the index is what it must be. Raises BenchError."""
    expected = lifecycles.digest(bodies)
    with closing(Database(url)) as database:
        index = SqlIndex(database)
        until(
            lambda: {record.uuid: record for record in index.containers()} == expected,
            f"an index of {len(expected)} containers, each as it was last told",
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
