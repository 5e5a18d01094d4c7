"""Chores that are done again and again, and those that keep the engine clean."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from tintype.core.engine import Engine
from tintype.core.errors import TintypeError
from tintype.core.ports import Journal

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do, and how often."""

    do: Callable[[], None]
    seconds: float
    """How long to wait after it."""


class Housekeeper:
    """Does chores until it is stopped, each on a thread of its own: none waits for another."""

    def __init__(self, chores: Mapping[str, Chore]) -> None:
        """Take the chores by name; none is done yet."""
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(chore,), name=name, daemon=True)
            for name, chore in chores.items()
        ]

    def start(self) -> None:
        """Do every chore now, and again each time that it is due."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin none any more; one that is being done is not waited for."""
        self._stopped.set()

    def join(self, seconds: float) -> bool:
        """Wait for the chores that are being done, each for so long; tell whether one still is."""
        for thread in self._threads:
            thread.join(seconds)
        return any(thread.is_alive() for thread in self._threads)

    def _repeat(self, chore: Chore) -> None:
        while not self._stopped.is_set():
            attempt(chore.do)
            self._stopped.wait(chore.seconds)


class LiveRequests(Collection[str]):
    """The ids of the requests that are not done at the moment at which they are asked for.

    A list that was read beforehand lacks a request that is taken in while the engine is looked at.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._journal.live()

    def __iter__(self) -> Iterator[str]:
        return iter(self._journal.live())

    def __len__(self) -> int:
        return len(self._journal.live())


def discard_captures(engine: Engine, live: Collection[str]) -> None:
    """Remove captures that nobody waits for; one that cannot be keeps no other. Raises Unavailable.

    An engine finishes a commit whose client was killed, after the next start has cleaned up.
    """
    for owner in engine.owners():
        if owner not in live:
            LOG.info("removing the capture of request %s, which has ended", owner)
            attempt(partial(engine.discard, owner))


def attempt(do: Callable[[], None]) -> None:
    """Do what may fail, and leave a word in the log if it does."""
    try:
        do()
    except TintypeError as error:
        LOG.warning("housekeeping: %s", error)
    except Exception:
        # The housekeeper's edge: a defect must not end it, and let captures pile up.
        LOG.exception("housekeeping broke")
