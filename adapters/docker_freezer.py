"""Freezing a container on the Docker Engine, and letting it run again whatever happens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain, repeat

import docker.errors

from tintype.adapters.docker_client import LazyClient
from tintype.adapters.docker_errors import translated
from tintype.core.errors import StillFrozen, TintypeError, Unavailable

THAW_DELAYS = (0.0, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each attempt to thaw a container that we froze."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Freeze:
    """What became of an attempt to freeze a container."""

    ours: bool = True
    """Until the engine denies it: it may have frozen the container and its answer got lost."""
    milliseconds: int = 0
    """How long the container was frozen by us; known when it runs again."""
    overran: bool = False
    """Whether it runs again because its time was over."""


class Freezer:
    """Freezes containers and answers for their thawing. For use by several threads."""

    def __init__(self, client: LazyClient, thaw_delays: Sequence[float]) -> None:
        """Take the client, and the seconds to wait before each attempt to thaw."""
        self._client = client
        self._thaw_delays = thaw_delays

    @contextmanager
    def frozen(self, engine_id: str, limit_ms: int | None = None) -> Iterator[Freeze]:
        """Keep a running container frozen; one that somebody else froze is left alone.

        After `limit_ms` milliseconds it is thawed whether the block has ended or not, and
        `overran` says so; what the block waits for may go on. Raises StillFrozen when it cannot be
        thawed in the end, whatever happened within.
        """
        freeze, over = Freeze(), threading.Event()
        began = time.monotonic()
        guard = None
        try:
            with translated():
                freeze.ours = self._pause(engine_id)
            if freeze.ours and limit_ms is not None:
                guard = self._guarded(engine_id, freeze, over, began, limit_ms)
            yield freeze
        finally:
            over.set()
            if guard is not None:
                guard.join()
            if freeze.ours and not freeze.overran:
                self._thaw_ours(engine_id)
                freeze.milliseconds = _since(began)

    def _guarded(
        self, engine_id: str, freeze: Freeze, over: threading.Event, began: float, limit_ms: int
    ) -> threading.Thread:
        """Start a thread that thaws the container when its time is over."""

        def guard() -> None:
            if over.wait(began + limit_ms / 1000 - time.monotonic()):
                return
            # The block may go on for an hour: no number of attempts is enough.
            for delay in chain(self._thaw_delays, repeat(self._thaw_delays[-1])):
                if over.wait(delay):
                    return  # whoever waits for us tries next
                try:
                    self.thaw(engine_id)
                except TintypeError as error:
                    _log.error("%s froze too long and cannot be thawed: %s", engine_id[:12], error)
                    continue
                freeze.overran, freeze.milliseconds = True, _since(began)
                _log.warning("%s runs again, after %d ms", engine_id[:12], freeze.milliseconds)
                return

        thread = threading.Thread(target=guard, name=f"thaw {engine_id[:12]}", daemon=True)
        thread.start()
        return thread

    def _pause(self, engine_id: str) -> bool:
        """Freeze the container; False when it is frozen already or does not run any more."""
        try:
            self._client.get().pause(engine_id)
        except docker.errors.APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
            return False
        return True

    def _thaw_ours(self, engine_id: str) -> None:
        for delay in self._thaw_delays:
            time.sleep(delay)
            try:
                return self.thaw(engine_id)
            except TintypeError as error:
                failure = error
        message = f"CONTAINER {engine_id[:12]} IS STILL FROZEN by a snapshot: {failure}"
        _log.critical("%s; `docker unpause %s` lets it run", message, engine_id)
        raise StillFrozen(message) from failure

    def thaw(self, engine_id: str) -> None:
        """Let a frozen container run, and look whether it does. Raises Unavailable."""
        failure = "the engine reported success"
        with translated(conflict=Unavailable):
            if not self._is_paused(engine_id):
                return
            try:
                self._client.get().unpause(engine_id)
            except docker.errors.APIError as error:
                # Also said of a container that runs by now, or is gone: how it is decides.
                failure = str(error)
            if self._is_paused(engine_id):
                raise Unavailable(f"container {engine_id[:12]} stays frozen: {failure}")

    def _is_paused(self, engine_id: str) -> bool:
        try:
            return bool(self._client.get().inspect_container(engine_id)["State"]["Paused"])
        except docker.errors.NotFound:
            return False


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
