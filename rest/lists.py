"""Lists: which page is asked for, whose things are on it, and where the next one is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import falcon

from tintype.core.errors import Forbidden, Invalid
from tintype.core.index import PAGE_MOST, Query
from tintype.core.promises import Caller
from tintype.rest.reading import flag, one_of, parameters

LIMIT_DEFAULT, LIMIT_MOST = 100, PAGE_MOST
"""Records on a page."""

COMMON = ("sort_key", "sort_dir", "limit", "marker", "all_projects")
"""Parameters of every list, beside its filters."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing:
    """The list of one kind of things."""

    kind: str
    """In the policy's words; its plural names the list in the answer."""
    filters: Sequence[str]
    sorts: Sequence[str]
    newest_first: bool

    def answer(
        self,
        request: falcon.Request,
        caller: Caller,
        fetch: Callable[[Query], Sequence[T]],
        show: Callable[[T], Mapping[str, Any]],
        id_of: Callable[[T], str],
    ) -> dict[str, Any]:
        """Return the page that a request asks for. Raises Invalid, Forbidden, NotFound."""
        given = parameters(request, (*self.filters, *COMMON))
        query = self._query(caller, given)
        found = fetch(query)
        page = {f"{self.kind}s": [dict(show(record)) for record in found]}
        return page | (_next(request, id_of(found[-1])) if len(found) == query.limit else {})

    def _query(self, caller: Caller, given: Mapping[str, str]) -> Query:
        order = "desc" if self.newest_first else "asc"
        return Query(
            sort=_chosen(given, "sort_key", "created_at", self.sorts),
            limit=_limit(given),
            descending=_chosen(given, "sort_dir", order, ("asc", "desc")) == "desc",
            marker=given.get("marker"),
            project_id=self._project(caller, everybodys=flag(given, "all_projects")),
            filters={name: given[name] for name in self.filters if name in given},
        )

    def _project(self, caller: Caller, *, everybodys: bool) -> str | None:
        """Return the project whose things are listed; None: all. Raises Forbidden."""
        own = caller.requester.project_id
        if not caller.may(f"{self.kind}:list", own):
            raise Forbidden(f"your roles do not allow you to list {self.kind}s")
        if everybodys and not caller.may(f"{self.kind}:list_all", own):
            raise Forbidden("all_projects: your roles do not allow it")
        return None if everybodys else own


def _next(request: falcon.Request, marker: str) -> dict[str, Any]:
    """Return the link to the next page, in the form of OpenStack's API guidelines."""
    query = urlencode({**request.params, "marker": marker})
    return {"links": [{"rel": "next", "href": f"{request.prefix}{request.path}?{query}"}]}


def _chosen(given: Mapping[str, str], name: str, default: str, choices: Collection[str]) -> str:
    value = given.get(name, default)
    if value not in choices:
        raise Invalid.at(f"?{name}", one_of(choices), repr(value)[:200])
    return value


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", str(LIMIT_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= LIMIT_MOST):
        raise Invalid.at("?limit", f"a whole number from 1 to {LIMIT_MOST}", repr(text)[:200])
    return int(text)
