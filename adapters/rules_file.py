"""The operator's rules: a JSON file with an array of them, read once at the start."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tintype.core.errors import Invalid, Violation
from tintype.core.rules import Rule, rule_of_document

SCHEMA = "trigger.rule"
"""Name of the schema of one rule."""

Validator = Callable[[str, Any], Sequence[Violation]]
Cron = Callable[[str, datetime], datetime]


class RulesError(ValueError):
    """The file cannot be used; the message names it and, with a line for each, all its faults."""


def read_rules(
    path: str | Path, validate: Validator, cron: Cron, stores: Collection[str] | None = None
) -> tuple[Rule, ...]:
    """Return the rules in a file. Raises RulesError.

    `validate` checks one against its schema, `cron` reads a cron expression or raises Invalid.
    `stores` are the names that a rule may give; None: any.
    """
    try:
        documents = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RulesError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RulesError(f"{path}: expected JSON: {error}") from error
    if not isinstance(documents, list):
        raise RulesError(f"{path}: expected an array of rules, got {type(documents).__name__}")
    rules: list[Rule] = []
    faults: list[str] = []
    for index, document in enumerate(documents):
        found = list(_faults(document, rules, validate, cron, stores))
        faults += [f"{path}: rule {index}: {fault}" for fault in found]
        if not found:
            rules.append(rule_of_document(document))
    if faults:
        raise RulesError("\n".join(faults))
    return tuple(rules)


def _faults(
    document: Any,
    before: Sequence[Rule],
    validate: Validator,
    cron: Cron,
    stores: Collection[str] | None,
) -> Iterator[Violation | str]:
    """Yield what is wrong with one rule, its name's being taken included."""
    violations = validate(SCHEMA, document)
    if violations:
        yield from violations
        return
    try:
        rule = rule_of_document(document)
    except Invalid as error:
        yield from error.violations
        return
    if rule.name in {other.name for other in before}:
        yield Violation("/name", "a name that no other rule has", repr(rule.name))
    if rule.schedule is not None:
        try:
            cron(rule.schedule, datetime.now(UTC))
        except Invalid as error:
            yield f"/schedule: {error}"
    for index, name in enumerate(rule.stores):
        if stores is not None and name not in stores:
            known = ", ".join(sorted(stores))
            yield Violation(f"/stores/{index}", f"a store configured here ({known})", repr(name))
