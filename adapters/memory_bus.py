"""The in-process bus: twin of the real one, and the bus of `tintype serve`."""

from __future__ import annotations

from collections.abc import Callable

from tintype.core.events import Event


class MemoryBus:
    """Hands each event to all subscribers, in the publisher's thread."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Event], None]] = []

    def subscribe(self, subscriber: Callable[[Event], None]) -> None:
        """Call `subscriber` with every event published from now on."""
        self._subscribers.append(subscriber)

    def publish(self, event: Event) -> None:
        """Return once every subscriber has taken the event; what one raises comes out."""
        for subscriber in tuple(self._subscribers):
            subscriber(event)

    def close(self) -> None:
        """Forget the subscribers."""
        self._subscribers.clear()
