"""JSON documents of an image archive, read with suspicion: whatever has another shape is refused.

Every function raises CorruptArchive that says, by `name`, what is not as it must be.
"""

from __future__ import annotations

import json

from tintype.core.errors import CorruptArchive

DOCUMENT_LIMIT = 4 << 20
"""Largest JSON document that is read, in bytes (as a registry's for manifests)."""


def parsed(text: bytes, name: str) -> object:
    """Return the document in `text`; of a key that stands twice the last one counts, as in Go."""
    try:
        document: object = json.loads(text.decode())
    except (ValueError, RecursionError) as exc:
        raise CorruptArchive(f"{name} is not JSON: {exc}") from exc
    return document


def parsed_whole(text: bytes, name: str) -> object:
    """Return the document in `text`, in which nothing may hide behind a key that comes again."""
    try:
        document: object = json.loads(text.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as exc:
        raise CorruptArchive(f"{name} is not JSON that can be scrubbed: {exc}") from exc
    return document


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def serialised(document: object) -> bytes:
    """Return the document as compact JSON."""
    try:
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise CorruptArchive(f"a document cannot be written as JSON: {exc}") from exc


def as_object(value: object, name: str) -> dict[str, object]:
    """Return `value`, a JSON object."""
    if not isinstance(value, dict):
        raise CorruptArchive(f"{name} is not a JSON object")
    return value


def as_list(value: object, name: str) -> list[object]:
    """Return `value`, a JSON list."""
    if not isinstance(value, list):
        raise CorruptArchive(f"{name} is not a JSON list")
    return value


def as_string(value: object, name: str) -> str:
    """Return `value`, a string."""
    if not isinstance(value, str):
        raise CorruptArchive(f"{name} is not a string")
    return value


def as_strings(value: object, name: str) -> list[str]:
    """Return `value`, a list of strings."""
    return [as_string(item, name) for item in as_list(value, name)]


def as_objects(value: object, name: str) -> list[dict[str, object]]:
    """Return `value`, a list of JSON objects."""
    return [as_object(item, name) for item in as_list(value, name)]
