"""Records that are read as text, so that one that is no JSON does not hide the others."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import Select, Table, Text, select, type_coerce

LOG = logging.getLogger(__name__)

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a record that nobody here wrote, or a later version, may raise."""

T = TypeVar("T")


def select_texts(table: Table, *names: str) -> Select[Any]:
    """Return what selects these columns of a table, and its `record` as `text`."""
    columns = [table.c[name] for name in names]
    return select(*columns, type_coerce(table.c.record, Text).label("text"))


def read_text(
    kind: str, identity: str, row: Mapping[Any, Any], read: Callable[[Mapping[Any, Any]], T]
) -> T | None:
    """Return what `read` makes of a row with its `record`; None: it cannot be read, and is logged.

    The row is one of `select_texts`; `kind` and the column `identity` say in the log which it is.
    """
    try:
        return read({**row, "record": json.loads(row["text"])})
    except UNREADABLE as error:
        LOG.warning("%s %r cannot be read: %r", kind, row[identity], error)
        return None
