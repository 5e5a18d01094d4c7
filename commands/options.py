"""What the options of `commit` and `restore` have in common, and the requests made of them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from typing import Any

Options = Mapping[str, Mapping[str, Any]]
"""Name of an option -> what argparse is to know of it."""


def repeated(metavar: str, meaning: str, **more: Any) -> Mapping[str, Any]:
    """Return an option that may be given several times."""
    about = f"{meaning}; may be given several times"
    return {"action": "append", "metavar": metavar, "help": about, **more}


def in_pairs(meaning: str, form: str = "KEY=VALUE") -> Mapping[str, Any]:
    """Return an option whose values `checks.pairs` reads."""
    return repeated(form, meaning, default=[])


OF_A_REQUEST: Options = {
    "deadline": {"metavar": "TIME", "help": "when to give up, for example 2026-12-24T18:00:00Z"},
    "request-id": {"metavar": "ID", "help": "uuid; the same one again does nothing new"},
    "idempotency-key": {
        "metavar": "TEXT",
        "help": "any text; the same one again does nothing new and answers as the first time",
    },
}
"""Options of every request: how long it may take, and how it is known when it comes again."""


def add_options(parser: ArgumentParser, options: Options) -> None:
    """Describe the options."""
    for name, about in options.items():
        parser.add_argument(f"--{name}", **about)


def request_of(arguments: Namespace, as_given: Iterable[str], **others: object) -> dict[str, Any]:
    """Return a request of fields as they are given, and of others; what is None is left out."""
    body = {**others, **{field: getattr(arguments, field) for field in as_given}}
    return {field: value for field, value in body.items() if value is not None}
