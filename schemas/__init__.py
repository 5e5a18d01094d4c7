"""JSON Schemas (2020-12), one file for each event type: the source of truth for all payloads.

All that happens to containers, told by us or by others, has one schema: `container`.

They are read, checked against their meta-schema and compiled once, when this package is imported: a
service with a broken schema does not start.
"""

from __future__ import annotations

import json
import reprlib
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from tintype.core.errors import Violation
from tintype.core.events import is_lifecycle, unwrapped

_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("uuid", raises=ValueError)
def _is_uuid(value: object) -> bool:
    return not isinstance(value, str) or str(uuid.UUID(value)) == value.lower()


@_FORMATS.checks("date-time", raises=(ValueError, OverflowError))
def _is_date_time(value: object) -> bool:
    """RFC 3339 wants a zone, without which a deadline means something else on every host."""
    if not isinstance(value, str):
        return True
    moment = datetime.fromisoformat(value)
    moment.astimezone(UTC)  # OverflowError: before the year 1 or after the year 9999 there
    return moment.tzinfo is not None


def _read() -> dict[str, dict[str, Any]]:
    found = (entry for entry in files(__name__).iterdir() if entry.name.endswith(".json"))
    return {entry.name.removesuffix(".json"): json.loads(entry.read_text()) for entry in found}


def _compile(schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Draft202012Validator]:
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()
    )
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    return {
        name: Draft202012Validator(schema, registry=registry, format_checker=_FORMATS)
        for name, schema in schemas.items()
    }


SCHEMAS: Mapping[str, Mapping[str, Any]] = _read()
"""The schema of each event type, and those that others refer to."""

_VALIDATORS = _compile(SCHEMAS)


def schema_of(event_type: str) -> str:
    """Return the name of the schema of an event type: all that happens to containers has one."""
    return "container" if is_lifecycle(event_type) else event_type


NO_EVENTS = frozenset({"container", "container.restore", "image.snapshot", "trigger.rule"})
"""Schemas of no event type of their own."""

KNOWN = (
    "container.exists",
    "container.<create|start|pause|unpause|stop|rename|update|delete>.<start|end>",
    *sorted(SCHEMAS.keys() - NO_EVENTS),
)
"""What is told of event types when one is not known."""

VIOLATIONS_TOLD = 20
"""How many faults of one message are named: a hostile one can have a hundred thousand."""


def validate(event_type: Any, payload: Any) -> list[Violation]:
    """Return what is wrong with an event's payload, nearest to the document's root first.

    What happens to containers may be told inside a versioned object, as other services wrap it.
    """
    validator = _VALIDATORS.get(schema_of(event_type)) if isinstance(event_type, str) else None
    if validator is None:
        known = ", ".join(KNOWN)
        return [Violation("", f"an event type with a schema ({known})", repr(event_type)[:100])]
    if is_lifecycle(event_type):
        payload = unwrapped(payload)
    try:
        found = list(islice(validator.iter_errors(payload), VIOLATIONS_TOLD))
    except RecursionError:
        return [Violation("", "a document nested less deeply", "one too deep to be checked")]
    found.sort(key=lambda error: len(error.absolute_path))
    secret = _secret_fields(validator.schema)
    return [violation for error in found for violation in _explain(error, secret)][:VIOLATIONS_TOLD]


def _secret_fields(schema: Any) -> frozenset[str]:
    """Return the fields whose values, and all within, stand in no message."""
    fields = schema.get("properties", {}).items()
    return frozenset(name for name, field in fields if field.get("x-secret", False))


def _shown(error: ValidationError, secret: frozenset[str]) -> str:
    """Return what came, cut short; of what may hold a secret only its type."""
    instance: Any = error.instance
    whole = not error.absolute_path and isinstance(instance, dict)
    if (whole and secret & instance.keys()) or secret.intersection(islice(error.absolute_path, 1)):
        return f"{_TYPES.get(type(instance), 'something else')} that is not shown"
    return reprlib.repr(instance)


_TYPES = {
    str: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _explain(error: ValidationError, secret: frozenset[str]) -> Iterable[Violation]:
    """Say where, what was expected and what came, and name missing and unknown fields."""
    pointer = "".join(f"/{_escape(part)}" for part in error.absolute_path)
    # The package's own types allow for values that a failed keyword never has.
    schema: Any = error.schema
    value: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "required":
        missing = [name for name in value if name not in instance]
        # One error comes for each missing field: its message begins with the name.
        named = [name for name in missing if error.message.startswith(repr(name))]
        return [Violation(f"{pointer}/{_escape(name)}", "a value", "nothing") for name in named]
    if error.validator == "additionalProperties" and value is False:
        allowed = schema["properties"]
        unknown = [name for name in instance if name not in allowed]
        expected = f"one of the known fields ({', '.join(allowed)})"
        return [
            Violation(f"{pointer}/{_escape(name)}", expected, "an unknown field")
            for name in unknown[:10]
        ]
    return [Violation(pointer, _expectation(error), _shown(error, secret))]


def _expectation(error: ValidationError) -> str:
    """Put a failed keyword into words; `x-expected` in a schema says it better than a pattern."""
    value: Any = error.validator_value
    schema: Any = error.schema
    if error.validator in ("pattern", "format", "anyOf") and "x-expected" in schema:
        return str(schema["x-expected"])
    words = {
        "type": f"{' or '.join(value) if isinstance(value, list) else value}",
        "const": f"{value!r}",
        "enum": f"one of {value!r}",
        "format": f"a {value}",
        "pattern": f"text that matches {value}",
        "minLength": f"at least {value} characters",
        "maxLength": f"at most {value} characters",
        "minItems": f"at least {value} items",
        "maxItems": f"at most {value} items",
        "minimum": f"at least {value}",
        "maximum": f"at most {value}",
        "maxProperties": f"at most {value} fields",
        "uniqueItems": "items that differ",
    }
    return words.get(str(error.validator), f"what {error.validator} {value!r} allows")


def _escape(part: object) -> str:
    """Escape one part of a JSON pointer (RFC 6901)."""
    return reprlib.repr(str(part))[1:-1].replace("~", "~0").replace("/", "~1")
