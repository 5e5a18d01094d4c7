"""Where and when something was measured, and how two contenders compare."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from lab import FOLDER, Stack

Round = Mapping[str, Mapping[str, Any]]
"""Contender -> what it measured in this round."""

LIBRARIES = ("tintype", "oslo.messaging", "kombu", "amqp", "docker", "openstacksdk", "requests")


def surroundings(stack: Stack) -> dict[str, Any]:
    """Describe the machine, the versions and the moment."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _first_line("git", "-C", str(Path(__file__).parent), "describe", "--always",
                              "--dirty"),
        "machine": {
            "cpu": _proc("cpuinfo", "model name"),
            "cores": os.cpu_count(),
            "memory": _proc("meminfo", "MemTotal"),
            "kernel": platform.release(),
            "load_average": os.getloadavg(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
            "rabbitmq": _broker_version(stack),
            "glance": _glance_version(),
            "docker CLI": _first_line("docker", "--version"),
            "curl": _first_line("curl", "--version"),
        },
    }  # fmt: skip


def ratios(rounds: Sequence[Round], ours: str, fields: Sequence[str]) -> dict[str, Any]:
    """Return ours divided by theirs, of each field: for each round, and the median of those.

    Round by round, since what else the machine does in one round meets both sides.
    """
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in rounds for name in each if name != ours):
        for key in fields:
            found = [
                round(each[ours][key] / each[name][key], 3)
                for each in rounds
                if each.get(ours, {}).get(key) is not None and each.get(name, {}).get(key)
            ]
            if found:
                result.setdefault(f"{ours}/{name}", {})[key] = {
                    "median": round(median(found), 3), "rounds": found
                }  # fmt: skip
    return result


def medians(rounds: Sequence[Round], fields: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return each contender's median of each field."""
    result: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for each in rounds for name in each):
        for key in fields:
            found = [each[name][key] for each in rounds if key in each.get(name, {})]
            if found:
                result.setdefault(name, {})[key] = round(median(found), 3)
    return result


def table(values: Mapping[str, Mapping[str, float]], fields: Sequence[str]) -> str:
    """Lay values out for reading: a line for each name, a column for each field."""
    width = max(map(len, values), default=0)
    lines = [" " * width + "".join(f"{key:>20}" for key in fields)]
    for name, row in values.items():
        cells = "".join(f"{row[key]:>20,.3f}" if key in row else f"{'-':>20}" for key in fields)
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)


def write(document: Mapping[str, Any], output: Path | None) -> None:
    """Write the document to a file, or to standard output."""
    text = json.dumps(document, indent=2)
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n")


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.partition("\n")[0]


def _proc(file: str, key: str) -> str | None:
    for line in Path("/proc", file).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _broker_version(stack: Stack) -> str:
    with stack.kombu() as connection:
        connection.connect()
        return str(connection.connection.server_properties["version"])


def _glance_version() -> str | None:
    found = list((FOLDER / "venv" / "lib").glob("python*/site-packages/glance-*.dist-info"))
    return found[0].name.split("-")[1].removesuffix(".dist") if found else None
