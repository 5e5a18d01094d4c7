"""The port `Engine` on a Docker Engine: a capture is a `docker commit` under a temporary tag."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors

from tintype.adapters.docker_capture import DockerCapture, DockerCaptures
from tintype.adapters.docker_client import LazyClient
from tintype.adapters.docker_container import container_of, listed_container, listed_name
from tintype.adapters.docker_errors import translated
from tintype.adapters.docker_events import event_stream
from tintype.adapters.docker_exec import execute
from tintype.adapters.docker_freezer import THAW_DELAYS, Freezer
from tintype.adapters.docker_restore import DockerRestore
from tintype.adapters.docker_squash import is_scratch
from tintype.adapters.docker_usage import usage_of
from tintype.core.engine import (
    ZUN_PREFIX,
    CaptureOptions,
    Container,
    EngineEvent,
    Execution,
    NewContainer,
    Usage,
)
from tintype.core.errors import NotFound, Refused
from tintype.core.events import is_uuid

# Docker's own rule for names. Anything else must not get into a URL: the engine cleans the path
# and answers `../images` with its images.
_IDENT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_INSTANCE = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


class DockerEngine:
    """The Docker Engine of this host, for use by several threads."""

    def __init__(
        self,
        base_url: str | None,
        *,
        instance: str,
        connect_timeout: int = 10,
        call_timeout: int = 60,
        commit_timeout: int = 3600,
        stream_timeout: int = 600,
        thaw_delays: Sequence[float] = THAW_DELAYS,
    ) -> None:
        """Remember where the engine is (None: the SDK's default socket); nothing is sent yet.

        `instance` stands for this Tintype's journal in temporary tags, so that two of them on one
        engine leave each other's captures alone. Times in seconds: `stream_timeout` is the longest
        silence while an image streams, the engine's staging of all of it before the first byte
        included. Raises ValueError for an `instance` that cannot stand in an image's name.
        """
        if not _INSTANCE.fullmatch(instance):
            raise ValueError(f"instance cannot stand in an image name: {instance!r}")
        self._stream_timeout = stream_timeout
        self._call_timeout = call_timeout
        self._calls = LazyClient(base_url, connect_timeout, call_timeout)
        # The SDK knows one time limit for all calls, and a commit takes minutes.
        self._commits = LazyClient(base_url, connect_timeout, commit_timeout)
        self._freezer = Freezer(self._calls, thaw_delays)
        self._captures = DockerCaptures(
            self._calls, self._commits, self._freezer, instance, stream_timeout
        )
        self._restore = DockerRestore(self._calls, self._commits, instance, stream_timeout)

    @property
    def _client(self) -> docker.APIClient:
        return self._calls.get()

    def inspect(self, ident: str) -> Container:
        """Return the container with this uuid, name, engine id, or unique start of an id."""
        names = [ZUN_PREFIX + ident.lower(), ident] if is_uuid(ident) else [ident]
        with translated():
            found = {each["Id"]: each for name in names if (each := self._find(name))}
        if not found:
            raise NotFound(f"no container {ident!r} on this host")
        if len(found) > 1:
            raise _ambiguous(ident, [each["Name"].lstrip("/") for each in found.values()])
        return container_of(*found.values())

    def _find(self, ident: str) -> dict[str, Any] | None:
        if not _IDENT.fullmatch(ident):
            return None
        try:
            attrs: dict[str, Any] = self._client.inspect_container(ident)
        except docker.errors.NotFound:
            return None
        except docker.errors.APIError:
            # An ambiguous start of an id is a 400 or a 500, by the engine's version.
            candidates = self._names_by_id(ident)
            if len(candidates) > 1:
                raise _ambiguous(ident, candidates) from None
            raise
        return attrs

    def _names_by_id(self, start: str) -> list[str]:
        every = self._client.containers(all=True)
        return [listed_name(each) for each in every if each["Id"].startswith(start)]

    def containers(self) -> Sequence[Container]:
        """Return all containers by one call of the engine; see `listed_container`."""
        with translated():
            every = self._client.containers(all=True)
        found = [listed_container(each) for each in every]
        return [each for each in found if not is_scratch(each.labels)]

    @contextmanager
    def watch(self, since: int, seconds: float) -> Iterator[Iterator[EngineEvent]]:
        """Stream the engine's events from `since` on; see `event_stream`.

        An event may come twice where the past ends and the present begins, and two containers'
        events may be out of order by the time between the engine's clock and its log. The wait for
        an answer may last `seconds` and the time for a call.
        """
        with event_stream(self._calls, since, seconds, self._call_timeout) as events:
            yield (each for each in events if not is_scratch(each.labels))

    def thaw(self, engine_id: str) -> None:
        """Let a frozen container run, and look whether it does. Raises Unavailable."""
        self._freezer.thaw(engine_id)

    def check_capture(self, engine_id: str, options: CaptureOptions) -> None:
        """Raise what `capture` would before it does anything."""
        self._captures.check(engine_id, options)

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> DockerCapture:
        """Commit the container to a new temporary tag; see `DockerCaptures.capture`."""
        return self._captures.capture(container, owner, options)

    def reopen(self, ref: str, *, paused_ms: int = 0) -> DockerCapture | None:
        """Return the capture with this temporary tag, or None when it is no more."""
        return self._captures.reopen(ref, paused_ms=paused_ms)

    def discard(self, owner: str) -> None:
        """Remove what was made for the owner; see `DockerCaptures.discard`."""
        self._captures.discard(owner)

    def owners(self) -> frozenset[str]:
        """Return the owners of this instance's temporary tags and containers."""
        return self._captures.owners()

    def usage(self, engine_id: str) -> Usage:
        """Return what a snapshot of the container would take; see `usage_of`."""
        return usage_of(self._calls, engine_id, self._stream_timeout)

    def execute(self, engine_id: str, command: str, seconds: float) -> Execution:
        """Run a command by the container's own `/bin/sh -c`; see `docker_exec.execute`."""
        return execute(self._calls, engine_id, command, seconds)

    def check(self) -> None:
        """Raise Unavailable unless the engine answers a ping."""
        with translated():
            self._client.ping()

    def close(self) -> None:
        """Release connections."""
        self._calls.close()
        self._commits.close()

    def restored_ref(self, owner: str) -> str:
        """Return the name that an archive must have for `load` on behalf of `owner`."""
        return self._restore.restored_ref(owner)

    def load(self, owner: str, archive: Iterable[bytes]) -> str:
        """Load a docker-archive; return its image's digest. See `DockerRestore.load`."""
        return self._restore.load(owner, archive)

    def create(self, owner: str, image: str, wanted: NewContainer) -> Container:
        """Make a container from a loaded image, not started. See `DockerRestore.create`."""
        return self._restore.create(owner, image, wanted)

    def restored(self, owner: str) -> Container | None:
        """Return the container that was made for `owner`; None: there is none."""
        return self._restore.restored(owner)

    def start(self, engine_id: str) -> None:
        """Start a container; one that runs is fine. Raises NotFound, Refused, Unavailable."""
        self._restore.start(engine_id)

    def withdraw(self, owner: str) -> None:
        """Remove the container and the image that a restore on behalf of `owner` has made."""
        self._restore.withdraw(owner)

    def tidy(self, live: Collection[str]) -> None:
        """Remove loaded images that no container uses, and whose owners are not `live`."""
        self._restore.tidy(live)

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return the labels of a named volume; None: there is none."""
        return self._restore.volume_labels(name)


def _ambiguous(ident: str, names: Sequence[str]) -> Refused:
    return Refused(f"{ident!r} stands for several containers: {', '.join(sorted(names))}")
