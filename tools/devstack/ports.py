"""Loopback ports: chosen once, kept in `ports.json`, chosen anew when somebody took them."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

from devstack.layout import Layout, StackError, read_json, write_json

LOOPBACK = "127.0.0.1"
#: Below Linux's ephemeral range, so that no outgoing connection takes a port of a stopped service.
CANDIDATES = range(20000, 32000)


def port(layout: Layout, name: str) -> int:
    """Return the port kept under a name, choosing one when there is none."""
    kept = read_json(layout.root / "ports.json").get(name)
    return kept if isinstance(kept, int) else reserve(layout, [name])[name]


def reserve(layout: Layout, names: Iterable[str]) -> dict[str, int]:
    """Return a free port for each name of a service that is down: the kept one if it can be."""
    path = layout.root / "ports.json"
    kept: dict[str, int] = read_json(path)
    chosen = {}
    for name in names:
        if not is_free(kept.get(name, 0)):
            kept[name] = _choose(taken=set(kept.values()))
        chosen[name] = kept[name]
    write_json(path, kept)
    return chosen


def is_free(number: int) -> bool:
    """Return whether a daemon could listen on this loopback port now."""
    if not number:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
        except OSError:
            return False
    return True


def _choose(taken: set[int]) -> int:
    for number in random.sample(CANDIDATES, 200):
        if number not in taken and is_free(number):
            return number
    raise StackError(f"no free port on {LOOPBACK} between {CANDIDATES[0]} and {CANDIDATES[-1]}")
