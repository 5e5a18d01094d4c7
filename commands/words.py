"""How the commands say things: in tables, in lines, and in words."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

ENDED = ("active", "error")
"""The statuses of a snapshot that has an outcome."""

AS_THEY_ARE = ("json", "yaml")
"""Formats that can hold any value; the others hold text."""


def one_line(text: object) -> str:
    """Return text without line ends, and without what a terminal would obey."""
    line = " ".join(str(text).split())
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def columns(
    arguments: Namespace, record: Mapping[str, Any], names: Iterable[str]
) -> tuple[Any, ...]:
    """Return some of a record's values as the chosen format can show them."""
    values = (record.get(name) for name in names)
    return tuple(values) if arguments.formatter in AS_THEY_ARE else tuple(map(_text, values))


def outcome(snapshot: Mapping[str, Any]) -> str:
    """Say in words how a snapshot stands."""
    status, fault = snapshot["status"], snapshot.get("fault") or {}
    reason = one_line(fault.get("message") or "nobody knows why")
    if status == "error":
        return f"failed: {reason}"
    if status == "waiting":
        return f"{snapshot['phase']}, waiting to try again: {reason}"
    if status == "active":
        size, paused = size_text(snapshot["size_bytes"]), snapshot["paused_ms"] or 0
        took = (snapshot["duration_ms"] or 0) / 1000
        return f"active: {size} in {took:.1f} s, paused {paused} ms"
    return str(snapshot["phase"])


def image_of(snapshot: Mapping[str, Any]) -> str:
    """Return the image's name with its tag."""
    return f"{snapshot['image_name']}:{snapshot['tag']}"


def size_text(size: float | None) -> str:
    """Return bytes as people say them, in powers of 1000."""
    if size is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _text(value: Any) -> Any:
    if isinstance(value, list) and value and all(_is_place(item) for item in value):
        return "\n".join(f"{item['name']}: {item['location']}" for item in value)
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def _is_place(item: object) -> bool:
    """Whether this is an image in a store."""
    return isinstance(item, dict) and "location" in item
