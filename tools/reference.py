"""Writes what is derived: docs/events.md from the schemas, the samples from options and rules.

Run it where tintype is installed, after a change of either: `python tools/reference.py`.
tests/unit/test_reference.py fails when it was forgotten.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from oslo_config import cfg, generator
from oslo_policy import generator as policy_generator

from tintype.schemas import SCHEMAS

ROOT = Path(__file__).parents[1]
EVENTS = ROOT / "docs" / "events.md"
SAMPLE = ROOT / "deploy" / "tintype.conf.sample"
POLICY = ROOT / "deploy" / "policy.yaml.sample"

INTRODUCTION = """\
# Events

Made from the JSON Schemas in `schemas/` by `tools/reference.py`. All payloads are flat and carry
`schema_version`; a minor bump only adds fields. What is delivered twice has the same `event_id`
both times: drop the second. Different events have different ones, also those of one type about one
request: each `.progress`, each `.exists`, each answer to a message that was refused.
"""


CONTAINERS = """
## `container.exists`, `container.<what>.end`

What the agents tell of the containers on their hosts: `create`, `start`, `pause`, `unpause`,
`stop`, `rename`, `update` and `delete`, each when it has happened, and `exists` now and then and on
demand. Events of other services with these names are understood as well, with at least `uuid`; they
may call `engine_container_id` `container_id`, `container_name` `name`, `state` `status` and
`base_image` `image`, and wrap all in `<anything>_object.data`. `container.delete.start`, which only
they can tell, announces a deletion ([triggers.md](triggers.md)).
"""


REQUESTS = (
    "container.commit.request",
    "container.commit.cancel",
    "container.restore.request",
    "container.restore.cancel",
    "container.exists.request",
)
"""What comes in."""

OF_SNAPSHOTS = """
## `image.snapshot.start`, `.progress`, `.end`, `.error`, `.preflight`, `.exists`

All six carry all of these fields. `.exists` tells on demand how a snapshot stands, with the payload
of its latest event: it is no outcome, and triggers nothing. `.preflight` answers a dry run.
"""

OF_RESTORES = """
## `container.restore.start`, `.progress`, `.end`, `.error`

All four carry all of these fields ([restore.md](restore.md)).
"""


def events() -> str:
    """Return the event reference."""
    return "".join(_events())


def _events() -> Iterator[str]:
    yield INTRODUCTION
    for name in REQUESTS:
        yield _section(name, " Unknown fields are refused.")
    yield CONTAINERS
    yield _table(SCHEMAS["container"])
    yield _section("container.commit.accepted")
    yield OF_SNAPSHOTS
    yield from _family("image.snapshot", ("start", "progress", "end", "error", "preflight"))
    yield _section("image.snapshot.removed")
    yield _section("container.restore.accepted")
    yield OF_RESTORES
    yield from _family("container.restore", ("start", "progress", "end", "error"))


def _section(name: str, more: str = "") -> str:
    schema = SCHEMAS[name]
    return f"\n## `{name}`\n\n{schema['title']}.{more}\n{_table(schema)}"


def _family(base: str, kinds: Sequence[str]) -> Iterator[str]:
    """Yield the fields that several events have, and what each of them does with some."""
    common = SCHEMAS[base]
    yield _table(common)
    for kind in kinds:
        schema = SCHEMAS[f"{base}.{kind}"]
        yield f"\n### `{base}.{kind}`\n\n{schema['title']}.\n\n"
        own = {name: rule for name, rule in schema["properties"].items() if _is_said(rule)}
        yield from (f"- `{field}`: {_kind(rule)}\n" for field, rule in own.items())


def _is_said(rule: Mapping[str, Any]) -> bool:
    return bool({"const", "enum", "type"} & rule.keys())


def sample() -> str:
    """Return the configuration sample."""
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(["--namespace", "tintype"])
    output = io.StringIO()
    generator.generate(conf, output)
    return output.getvalue()


def policy() -> str:
    """Return the policy sample."""
    with tempfile.NamedTemporaryFile("r") as output:
        arguments = ["--namespace", "tintype", "--output-file", output.name]
        policy_generator.generate_sample(arguments, cfg.ConfigOpts())
        return output.read()


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
        words = " or ".join(f"`{value}`" for value in rule["enum"])
    else:
        words = " or ".join(rule["type"] if isinstance(rule["type"], list) else [rule["type"]])
    if "format" in rule:
        words += f", {rule['format']}"
    if "default" in rule:
        words += f", default `{rule['default']}`"
    return words


def main() -> None:
    """Write all files."""
    EVENTS.write_text(events())
    SAMPLE.write_text(sample())
    POLICY.write_text(policy())


if __name__ == "__main__":
    main()
