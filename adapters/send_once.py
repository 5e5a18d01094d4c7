"""A request's body that is sent once or not at all, and whose own failures come out as they are.

For requests, urllib3 and what is built on them: images go to stores in it, archives to the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tintype.core.errors import Unavailable


class SourceFailed(BaseException):
    """Breaks off a request whose data could not be had.

    Not an `Exception`, so that nothing on the way takes it for a network failure: urllib3 swallows
    a BrokenPipeError and requests wraps an OSError, whoever raised it. What it does pass through
    closes the connection without a last chunk, so that the receiver knows that it lacks something:
    Glance puts the image back to `queued`, a registry and the engine keep nothing.
    """


class SendOnce:
    """The data of one upload: has nothing but `__iter__`, so that it is sent chunked, and once."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Wait for the first chunk; what getting it raises comes out here."""
        self.failure: BaseException | None = None
        """What getting a later chunk raised."""
        self.exhausted = False
        """Whether all of it was handed over."""
        self._begun = False
        self._source = iter(chunks)
        self._first = next(self._source, None)

    def __iter__(self) -> Iterator[bytes]:
        if self._begun:
            self.failure = Unavailable("the data of an upload is wanted a second time")
            raise SourceFailed
        self._begun = True
        chunk = self._first
        while chunk is not None:
            yield chunk
            chunk = self._next()
        self.exhausted = True

    def _next(self) -> bytes | None:
        try:
            return next(self._source, None)
        except BaseException as failure:  # kept and raised again by upload(), see SourceFailed
            self.failure = failure
            raise SourceFailed from failure
