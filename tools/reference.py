"""Writes what is derived: docs/events.md from the schemas, the sample from the options.

Run it where tintype is installed, after a change of either: `python tools/reference.py`.
tests/unit/test_reference.py fails when it was forgotten.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oslo_config import cfg, generator

from tintype.schemas import SCHEMAS

ROOT = Path(__file__).parents[1]
EVENTS = ROOT / "docs" / "events.md"
SAMPLE = ROOT / "deploy" / "tintype.conf.sample"

INTRODUCTION = """\
# Events

Made from the JSON Schemas in `schemas/` by `tools/reference.py`. All payloads are flat and carry
`schema_version`; a minor bump only adds fields. Events of one type about one request have one
`event_id`, however often they are delivered: drop the second.
"""


def events() -> str:
    """Return the event reference."""
    parts = [INTRODUCTION]
    request = SCHEMAS["container.commit.request"]
    parts.append(
        f"\n## `container.commit.request`\n\n{request['title']}. Unknown fields are refused.\n"
    )
    parts.append(_table(request))
    parts.append(
        "\n## `image.snapshot.start`, `.progress`, `.end`, `.error`\n\n"
        "All four carry all of these fields.\n"
    )
    parts.append(_table(SCHEMAS["image.snapshot"]))
    for name in ("start", "progress", "end", "error"):
        schema = SCHEMAS[f"image.snapshot.{name}"]
        parts.append(f"\n### `image.snapshot.{name}`\n\n{schema['title']}.\n\n")
        parts += [f"- `{field}`: {_kind(rule)}\n" for field, rule in schema["properties"].items()]
    return "".join(parts)


def sample() -> str:
    """Return the configuration sample."""
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(["--namespace", "tintype"])
    output = io.StringIO()
    generator.generate(conf, output)
    return output.getvalue()


def _table(schema: Mapping[str, Any]) -> str:
    return "".join(_rows(schema))


def _rows(schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    yield "\n| field | type | required | meaning |\n|---|---|---|---|\n"
    for field, rule in schema["properties"].items():
        mark = "yes" if field in required else ""
        yield f"| `{field}` | {_kind(rule)} | {mark} | {rule.get('description', '')} |\n"
        for inner, inner_rule in _inner(rule).items():
            meaning = inner_rule.get("description", "")
            yield f"| `{field}.{inner}` | {_kind(inner_rule)} | | {meaning} |\n"


def _inner(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of an object, or of the objects in an array."""
    fields: Mapping[str, Any] = rule.get("properties") or rule.get("items", {}).get(
        "properties", {}
    )
    return fields


def _kind(rule: Mapping[str, Any]) -> str:
    if "const" in rule:
        return f"`{rule['const']}`"
    if "enum" in rule:
        return " or ".join(f"`{value}`" for value in rule["enum"])
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    words = " or ".join(kinds)
    if "format" in rule:
        words += f", {rule['format']}"
    if "default" in rule:
        words += f", default `{rule['default']}`"
    return words


def main() -> None:
    """Write both files."""
    EVENTS.write_text(events())
    SAMPLE.write_text(sample())


if __name__ == "__main__":
    main()
