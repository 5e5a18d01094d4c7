#!/usr/bin/env python3
"""Ask the REST service for many snapshots in one moment, and see that none is lost.

Exits with 1 unless every request is answered 202, every one ends with `image.snapshot.end` and an
active image, and no image is there without an end: that is Tintype's promise. Times are compared
with the least that anybody must do to promise the same, never judged.

    python benchmarks/api.py [--requests 200] [--rounds 2] [--index sqlite] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from api_cloud import Containers, Member, RunsImages
from api_load import TIMES
from api_service import THREADS, WORKERS, require_gunicorn
from api_turns import CONTENDERS, FLOORS, OURS, Lab, Result
from databases import kinds
from lab import Stack
from listener_process import Listener
from processes import BenchError, heed_sigterm, turn_deaf
from report import medians, ratios, surroundings, table, write

CHOSEN = ("p50_seconds", "p99_seconds", "answers_per_second")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report, and tell by the exit code whether the promise holds."""
    arguments = _parser().parse_args(argv)
    heed_sigterm()
    try:
        document = measure(arguments)
    except BenchError as error:
        print(f"api: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    _tell(document)
    write(document, arguments.output)
    return 0 if document["promise"]["kept"] else 1


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let everybody have a turn in every round, and clear everything away. Raises BenchError."""
    require_gunicorn()
    stack = Stack.find()
    if arguments.index not in kinds(stack):
        raise BenchError(f"the stack has no {arguments.index}: {', '.join(kinds(stack))}")
    with ExitStack() as at_end:
        at_end.enter_context(stack.virtual_host())
        images = RunsImages(stack)
        at_end.callback(images.connection.close)
        at_end.callback(images.remove)
        member = at_end.enter_context(closing(Member(stack)))
        containers = at_end.enter_context(
            closing(Containers(stack, arguments.containers, member.project_id))
        )
        at_end.callback(turn_deaf)
        document = surroundings(stack)
        lab = Lab(
            stack,
            member,
            images,
            containers,
            arguments.requests,
            arguments.retries,
            arguments.index,
        )
        results = [_round(lab, number) for number in range(arguments.rounds)]
        document["load_average_after"] = os.getloadavg()
    return document | {
        "requests": arguments.requests,
        "retries": arguments.retries,
        "containers": arguments.containers,
        "index": arguments.index,
        "gunicorn": {"workers": WORKERS, "threads": THREADS},
        "promise": judge(results),
        "rounds": results,
        "medians": medians(results, TIMES),
        "ratios": _compared(results),
    }


def judge(rounds: Sequence[Mapping[str, Result]]) -> dict[str, Any]:
    """Tell whether each of our turns has kept the promise."""
    found = [each[name]["promise"] for each in rounds for name in OURS]
    return {"turns": found, "kept": all(each["kept"] for each in found)}


def _round(lab: Lab, number: int) -> dict[str, Result]:
    """Give each contender a turn, in alternating order, with nothing left by the one before."""
    results: dict[str, Result] = {}
    for name in list(CONTENDERS)[:: -1 if number % 2 else 1]:
        with tempfile.TemporaryDirectory(prefix=lab.stack.run) as folder:
            called = f"{name.replace(' ', '-')}-{number}"
            load_average = os.getloadavg()[0]
            try:
                result = CONTENDERS[name](lab, Listener(lab.stack, Path(folder), called))
            finally:
                lab.images.remove()
        results[name] = result | {"load_average": load_average}
        _say(f"{name}: {results[name]}")
    return results


# What comes out


def _compared(results: Sequence[Mapping[str, Result]]) -> dict[str, Any]:
    """Return the ratios of each of ours to each floor."""
    compared: dict[str, Any] = {}
    for ours in OURS:
        chosen = [{name: each[name] for name in (ours, *FLOORS)} for each in results]
        compared |= ratios(chosen, ours, CHOSEN)
    return compared


def _tell(document: dict[str, Any]) -> None:
    compared = {
        name: {key: values["median"] for key, values in fields.items()}
        for name, fields in document["ratios"].items()
    }
    lines = [
        "",
        f"{document['requests']} requests at once, medians of {len(document['rounds'])} rounds",
        table(document["medians"], TIMES),
        "",
        "ratios, medians of each round's",
        table(compared, CHOSEN),
        "",
        f"promise: {document['promise']}",
    ]
    _say("\n".join(lines))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200, help="at once; 2 at least")
    parser.add_argument("--retries", type=int, default=3, help="of a client that is answered 5xx")
    parser.add_argument("--containers", type=int, default=5, help="that the requests are spread on")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--index", default="sqlite", help="sqlite, postgresql or mysql")
    parser.add_argument("--output", type=Path, help="file for the JSON; standard output if missing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
