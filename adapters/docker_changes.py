"""A request's Dockerfile instructions as the Docker Engine's commit takes them."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import docker.errors

from tintype.core.dockerfile import instruction
from tintype.core.errors import Invalid

_SIGNALS = frozenset(signal.Signals.__members__)


@dataclass(frozen=True, slots=True)
class Changes:
    """What the engine is to be told."""

    instructions: Sequence[str]
    """For the parameter `changes` of a commit."""
    config: dict[str, str] = field(default_factory=dict)
    """To stand in the configuration that is the commit's body."""


def for_engine(changes: Sequence[str]) -> Changes:
    """Return how these instructions are given to an engine of any version.

    A commit of Engine 20.10 refuses `STOPSIGNAL`, which later ones take; in the body it can be
    given to all. One that is no signal's name or number is left for the engine to judge.
    """
    signals = [each for each in changes if _signal(each)]
    others = [each for each in changes if each not in signals]
    return Changes(others, {"StopSignal": _signal(signals[-1])} if signals else {})


def _signal(change: str) -> str:
    """Return the signal that an instruction sets, or nothing."""
    name, rest = instruction(change)
    known = rest in _SIGNALS or f"SIG{rest}" in _SIGNALS or (rest.isdigit() and 0 < int(rest) < 65)
    return rest if name == "STOPSIGNAL" and known else ""


@contextmanager
def refusals(changes: Sequence[str]) -> Iterator[None]:
    """Raise Invalid when the engine says of a commit with these changes that it is a bad call."""
    try:
        yield
    except docker.errors.APIError as error:
        if not changes or error.status_code != HTTPStatus.BAD_REQUEST:
            raise
        words = str(error.explanation)
        raise Invalid.at("/changes", "instructions that the engine takes", words) from error
