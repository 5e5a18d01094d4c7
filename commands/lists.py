"""What all commands that list things have in common."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tintype.commands.words import columns
from tintype.core.events import is_uuid

ENGINE_ID = re.compile("[0-9a-f]{64}")

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""Names of columns, and rows."""


def add_arguments(parser: ArgumentParser, filters: Mapping[str, str]) -> None:
    """Describe paging, sorting and the filters: name of the option -> its meaning."""
    for name, meaning in filters.items():
        parser.add_argument(f"--{name}", metavar=name.upper().replace("-", "_"), help=meaning)
    parser.add_argument("--all-projects", action="store_true", help="of all projects (admin only)")
    parser.add_argument("--long", action="store_true", help="show more columns")
    parser.add_argument("--limit", type=count, metavar="N", help="show at most so many")
    parser.add_argument("--marker", metavar="ID", help="begin after this one")
    parser.add_argument("--sort", type=order, metavar="KEY[:asc|desc]", help="sort by this field")


def fetched(
    arguments: Namespace,
    find: Callable[[dict[str, str], int | None], Iterable[Mapping[str, Any]]],
    filters: Iterable[str],
    names: tuple[str, ...],
    long: tuple[str, ...],
) -> Table:
    """Return the columns of a list, and what `find` yields for a query and a limit."""
    project = ("project_id",) if arguments.all_projects else ()
    shown = (*names, *(long if arguments.long else ()), *project)
    found = find(_query(arguments, filters), arguments.limit)
    return shown, [columns(arguments, record, shown) for record in found]


def _query(arguments: Namespace, filters: Iterable[str]) -> dict[str, str]:
    """Return the service's parameters for the arguments."""
    query: dict[str, str] = {}
    for name in filters:
        query |= _filter(name, getattr(arguments, name.replace("-", "_")))
    if arguments.all_projects:
        query["all_projects"] = "true"
    if arguments.marker is not None:
        query["marker"] = arguments.marker
    if arguments.sort:
        query["sort_key"], query["sort_dir"] = arguments.sort
    return query


def _filter(name: str, value: str | None) -> dict[str, str]:
    """Return a filter in the service's words: what has the form of a container's id is one."""
    if value is None:
        return {}
    if name == "snapshot":
        return {"snapshot_id": value}
    if name == "container":
        by_id = is_uuid(value) or ENGINE_ID.fullmatch(value)
        return {"container_uuid": value.lower()} if by_id else {"container_name": value}
    return {name.replace("-", "_"): value}


def count(text: str) -> int:
    """Read a number of things, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text[:9])


def order(text: str) -> tuple[str, str]:
    """Read a key and a direction, for argparse."""
    key, _, direction = text.partition(":")
    if not key or direction not in ("", "asc", "desc"):
        raise ArgumentTypeError(f"expected KEY, KEY:asc or KEY:desc, got {text!r}")
    return key, direction or "asc"
