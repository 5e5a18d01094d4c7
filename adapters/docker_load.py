"""`POST /images/load`: an archive streamed into the Docker Engine, and what it says of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tintype.adapters.docker_client import LazyClient, send
from tintype.adapters.send_once import SendOnce
from tintype.core.errors import Refused, TintypeError, Unavailable

_LOADED = ("Loaded image: ", "Loaded image ID: ")
"""How the engine begins the line that names what it has loaded (moby, image/tarexport/load.go)."""

_PASSING = (
    "no space left on device",
    "disk quota exceeded",
    "cannot allocate memory",
    "too many open files",
    "resource temporarily unavailable",
    "context deadline exceeded",
)
"""Words in an error that say nothing against what was asked for: the host is short of something."""


def passing(words: str) -> bool:
    """Whether an error is said of the engine's host, which can be well again the next time."""
    return any(each in words.lower() for each in _PASSING)


def load_archive(lazy_client: LazyClient, archive: Iterable[bytes], timeout: float) -> list[str]:
    """Stream an archive into the engine; return what it names as loaded, names or an id.

    `timeout` is the longest silence, seconds, on either side: the engine unpacks all of the
    archive before it says a word. What `archive` raises comes out as it is, and nothing is loaded
    then. Raises Refused with the engine's words, Unavailable.
    """
    data = SendOnce(_one_behind(archive))
    # With `quiet` the engine would say nothing while it registers layers either.
    loaded = _loaded(send(lazy_client, "/images/load", {"quiet": "0"}, data, timeout))
    if not data.exhausted:
        raise Unavailable("container engine: it did not take all of the archive")
    return loaded


def _one_behind(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Hand each chunk on once the next one is here, and the last one when there is no more.

    An engine that has the archive's end marker may load it, whatever becomes of the request.
    """
    held: bytes | None = None
    for chunk in chunks:
        if held is not None:
            yield held
        held = chunk
    if held is not None:
        yield held


def _loaded(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was loaded; raise what any of the lines says went wrong."""
    for line in lines:
        if "error" in line or "errorDetail" in line:
            raise _refusal(line)
    said = [str(line.get("stream", "")).strip() for line in lines]
    named = [each.partition(": ")[2] for each in said if each.startswith(_LOADED)]
    if not named:
        raise Refused(f"container engine: nothing was loaded, it says {' '.join(said)!r}")
    return named


def _refusal(line: Mapping[str, Any]) -> TintypeError:
    detail = line.get("errorDetail")
    words = detail.get("message") if isinstance(detail, dict) else None
    message = f"container engine: {words or line.get('error') or 'the image was not loaded'}"
    return Unavailable(message) if passing(message) else Refused(message)
