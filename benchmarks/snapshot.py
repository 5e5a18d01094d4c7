#!/usr/bin/env python3
"""Snapshot a big container with Tintype, by hand and with Zun, and compare time and memory.

Exits with 1 when the listener's peak resident memory reaches --max-rss-mb: that it stays below is
Tintype's promise, whatever the size of the container. Times are compared, never judged.

    python benchmarks/snapshot.py [--size-mb 2048] [--rounds 3] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contenders import Contender, Plain, Tintype, Zun
from lab import Images, Stack
from processes import BenchError, heed_sigterm, turn_deaf
from report import medians, ratios, surroundings, table, write
from subject import Subject

FIELDS = ("seconds", "peak_rss_mb", "frozen_seconds")
OURS = Tintype.name


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report, and tell by the exit code whether the promise about memory holds."""
    arguments = _parser().parse_args(argv)
    heed_sigterm()
    try:
        document = measure(arguments.size_mb, arguments.rounds, set(arguments.only))
    except BenchError as error:
        print(f"snapshot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    document["promise"] = promise = judge(document["rounds"], arguments.max_rss_mb)
    _tell(document)
    write(document, arguments.output)
    return 0 if promise["kept"] else 1


def measure(size_mb: int, rounds: int, only: set[str]) -> dict[str, Any]:
    """Run the contenders in turn, `rounds` times, and clear everything away. Raises BenchError."""
    stack = Stack.find()
    images = Images(stack)
    everybody: list[Contender] = [Tintype(stack), Plain(stack, images), Zun(stack)]
    chosen = [each for each in everybody if not only or each.name in only]
    skipped = {each.name: why for each in chosen if (why := each.prepare())}
    contenders = [each for each in chosen if each.name not in skipped]
    with ExitStack() as at_end:
        at_end.callback(images.connection.close)
        at_end.callback(images.remove)
        at_end.enter_context(stack.virtual_host())
        _say(f"making a container with {size_mb} MB of random bytes")
        subject = at_end.enter_context(closing(Subject(stack, size_mb)))
        at_end.callback(turn_deaf)
        document = surroundings(stack)
        document["versions"]["engine"] = subject.engine()
        document |= {
            "size_mb": size_mb,
            "contenders": {each.name: each.what for each in contenders},
            "skipped": skipped,
        }
        results = []
        for number in range(rounds):
            turn = number % len(contenders)
            order = contenders[turn:] + contenders[:turn]
            results.append({each.name: _once(each, subject, images, size_mb) for each in order})
        document["load_average_after"] = os.getloadavg()
    return document | {
        "rounds": results,
        "medians": medians(results, FIELDS),
        "ratios": ratios(results, OURS, FIELDS),
    }


def _once(contender: Contender, subject: Subject, images: Images, size_mb: int) -> dict[str, Any]:
    """Take one snapshot, make sure that it is there, and remove it."""
    os.sync()  # what the one before has left to write is not to slow this one down
    subject.forget()
    load = os.getloadavg()[0]
    try:
        result = asdict(contender.snapshot(subject.id))
        result["image_bytes"] = images.check(size_mb << 20)
        result["frozen_seconds"] = subject.frozen_seconds()
    except BenchError as error:
        result = {"error": str(error)}
    finally:
        images.remove()
        subject.clear()
    result["load_average"] = load
    shown = {key: value for key, value in result.items() if key != "details"}
    _say(f"{contender.name}: {shown}")
    return result


def judge(rounds: Sequence[dict[str, Any]], limit_mb: float) -> dict[str, Any]:
    """Tell whether every one of our snapshots succeeded in less memory than the limit."""
    peaks = [each.get(OURS, {}).get("peak_rss_mb") for each in rounds]
    kept = all(peak is not None and peak < limit_mb for peak in peaks)
    return {"max_rss_mb": limit_mb, "peaks_mb": peaks, "kept": kept}


def _tell(document: dict[str, Any]) -> None:
    compared = {
        name: {key: values["median"] for key, values in fields.items()}
        for name, fields in document["ratios"].items()
    }
    lines = [
        "",
        *document["contenders"].values(),
        *(f"{name}: skipped, {why}" for name, why in document["skipped"].items()),
        "",
        f"{document['size_mb']} MB, medians of {len(document['rounds'])} rounds",
        table(document["medians"], FIELDS),
        "",
        "ratios, medians of each round's",
        table(compared, FIELDS),
        "",
        f"promise: {document['promise']}",
    ]
    _say("\n".join(lines))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=2048, help="change to snapshot, 2^20 bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-rss-mb", type=float, default=150, help="the promise, 2^20 bytes")
    parser.add_argument("--only", action="append", default=[], choices=["tintype", "plain", "zun"])
    parser.add_argument("--output", type=Path, help="file for the JSON; standard output if missing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
