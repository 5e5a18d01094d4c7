"""What all commands that list things have in common."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping


def add_arguments(parser: ArgumentParser, filters: Mapping[str, str]) -> None:
    """Describe paging, sorting and the filters: name of the option -> its meaning."""
    for name, meaning in filters.items():
        parser.add_argument(f"--{name}", metavar=name.upper().replace("-", "_"), help=meaning)
    parser.add_argument("--all-projects", action="store_true", help="of all projects (admin only)")
    parser.add_argument("--long", action="store_true", help="show more columns")
    parser.add_argument("--limit", type=count, metavar="N", help="show at most so many")
    parser.add_argument("--marker", metavar="ID", help="begin after this one")
    parser.add_argument("--sort", type=order, metavar="KEY[:asc|desc]", help="sort by this field")


def query_of(arguments: Namespace, **filters: str | None) -> dict[str, str]:
    """Return the service's parameters for the arguments, with filters in the service's words."""
    query = {name: value for name, value in filters.items() if value is not None}
    if arguments.all_projects:
        query["all_projects"] = "true"
    if arguments.marker is not None:
        query["marker"] = arguments.marker
    if arguments.sort:
        query["sort_key"], query["sort_dir"] = arguments.sort
    return query


def shown(arguments: Namespace, names: tuple[str, ...], long: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of a list."""
    project: tuple[str, ...] = ("project_id",) if arguments.all_projects else ()
    return (*names, *(long if arguments.long else ()), *project)


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
