"""How the commands say things: in tables, in lines, and in words."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

ENDED = ("active", "error", "preflight")
"""The statuses of a snapshot or a restore that has an outcome."""

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
    if snapshot["status"] == "active":
        size, paused = size_text(snapshot["size_bytes"]), snapshot["paused_ms"] or 0
        return f"active: {size} in {_took(snapshot)}, paused {paused} ms"
    if snapshot["status"] == "preflight":
        problems = (snapshot.get("preflight") or {}).get("problems") or ["nothing in the way"]
        return f"dry run: {one_line('; '.join(problems))}"
    return _standing(snapshot)


def restored(restore: Mapping[str, Any]) -> str:
    """Say in words how a restore stands."""
    if restore["status"] == "active":
        how = "started" if restore["started"] else "made"
        return f"{how} as {one_line(restore['container_name'])} in {_took(restore)}"
    return _standing(restore)


def _standing(record: Mapping[str, Any]) -> str:
    fault = record.get("fault") or {}
    reason = one_line(fault.get("message") or "nobody knows why")
    if record["status"] == "error":
        return f"failed: {reason}"
    if record["status"] == "waiting":
        return f"{record['phase']}, waiting to try again: {reason}"
    return str(record["phase"])


def _took(record: Mapping[str, Any]) -> str:
    return f"{(record['duration_ms'] or 0) / 1000:.1f} s"


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
        return "\n".join(f"{item['name']}: {_place(item)}" for item in value)
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def _place(item: Mapping[str, Any]) -> str:
    """Say where an image is in a store, or why not."""
    fault = item.get("fault")
    return one_line(f"failed: {fault['message']}" if fault else item["location"])


def _is_place(item: object) -> bool:
    """Whether this is an image in a store."""
    return isinstance(item, dict) and "location" in item
