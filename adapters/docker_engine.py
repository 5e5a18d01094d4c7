"""The port `Engine` on a Docker Engine: a capture is a `docker commit` under a temporary tag."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import docker
import docker.errors

from tintype.adapters.docker_client import LazyClient, image_stream
from tintype.adapters.docker_container import container_of, listed_container, listed_name
from tintype.adapters.docker_errors import translated
from tintype.adapters.docker_events import event_stream
from tintype.adapters.docker_freezer import THAW_DELAYS, Freeze, Freezer
from tintype.core.engine import ZUN_PREFIX, CaptureOptions, Container, ContainerState, EngineEvent
from tintype.core.errors import NotFound, Refused, Unavailable, WrongState
from tintype.core.events import is_uuid

REPOSITORY = "tintype-capture"
"""First part of every temporary tag: `tintype-capture/<instance>:<owner>.<random hex>`."""

# Docker's own rule for names. Anything else must not get into a URL: the engine cleans the path
# and answers `../images` with its images.
_IDENT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_INSTANCE = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DockerCapture:
    """An image on the engine that only we know of."""

    ref: str
    digest: str
    layers: Sequence[str]
    size_bytes: int
    paused_ms: int
    _client: LazyClient
    _timeout: int

    def read(self) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the image; its RepoTag is `ref`. Raises NotFound once it was discarded."""
        return image_stream(self._client, self.ref, self._timeout)


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
        self._instance = instance
        self._repository = f"{REPOSITORY}/{instance}"
        self._stream_timeout = stream_timeout
        self._call_timeout = call_timeout
        self._calls = LazyClient(base_url, connect_timeout, call_timeout)
        # The SDK knows one time limit for all calls, and a commit takes minutes.
        self._commits = LazyClient(base_url, connect_timeout, commit_timeout)
        self._freezer = Freezer(self._calls, thaw_delays)

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
        return [listed_container(each) for each in every]

    def watch(self, since: int, seconds: float) -> AbstractContextManager[Iterator[EngineEvent]]:
        """Stream the engine's events from `since` on; see `event_stream`.

        An event may come twice where the past ends and the present begins, and two containers'
        events may be out of order by the time between the engine's clock and its log. The wait for
        an answer may last `seconds` and the time for a call.
        """
        return event_stream(self._calls, since, seconds, self._call_timeout)

    def thaw(self, engine_id: str) -> None:
        """Let a frozen container run, and look whether it does. Raises Unavailable."""
        self._freezer.thaw(engine_id)

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> DockerCapture:
        """Commit the container to a new temporary tag.

        A call that fails may leave a tag behind, even later: an engine goes on with a commit whose
        client is gone. Hence a tag of its own for each call, and `discard` for all of an owner.
        A container that cannot be thawed again is Unavailable, whatever became of the commit.
        """
        engine_id = container.engine_id
        tag = f"{owner}.{secrets.token_hex(8)}"
        with translated():
            state, config = self._capturable(engine_id)
            freeze = options.pause and state is ContainerState.RUNNING
            with self._freezer.frozen(engine_id) if freeze else nullcontext(Freeze()) as frozen:
                if freeze and not frozen.ours:  # frozen by somebody else, or stopped meanwhile
                    state, _ = self._capturable(engine_id)
                    if state is ContainerState.RUNNING:
                        raise Unavailable(f"container {engine_id[:12]} could not be kept frozen")
                self._commits.get().commit(
                    engine_id,
                    self._repository,
                    tag,
                    message=options.message,
                    author=options.author,
                    pause=False,  # the engine would not tell us when that fails
                    # With the whole configuration as the call's body labels need no quoting; the
                    # instruction `LABEL` of its `changes` cannot express a newline.
                    conf={**config, "Labels": self._labels(config, owner, options)},
                )
            return self._describe(f"{self._repository}:{tag}", frozen.milliseconds)

    def _capturable(self, engine_id: str) -> tuple[ContainerState, dict[str, Any]]:
        """Return a container's state and configuration; raise WrongState for a bad state."""
        attrs = self._client.inspect_container(engine_id)
        state = container_of(attrs).state
        if state is ContainerState.OTHER:
            raise WrongState(f"container {engine_id[:12]} is {attrs['State']['Status']}")
        return state, attrs["Config"]

    def _labels(
        self, config: Mapping[str, Any], owner: str, options: CaptureOptions
    ) -> dict[str, str]:
        ours = {"tintype.request_id": owner, "tintype.instance": self._instance}
        return {**(config["Labels"] or {}), **options.labels, **ours}

    def reopen(self, ref: str, *, paused_ms: int = 0) -> DockerCapture | None:
        """Return the capture with this temporary tag, or None when it is no more."""
        with translated():
            try:
                return self._describe(ref, paused_ms)
            except docker.errors.NotFound:
                return None

    def _describe(self, reference: str, paused_ms: int) -> DockerCapture:
        image = self._client.inspect_image(reference)  # type: ignore[no-untyped-call]  # stubs
        return DockerCapture(
            ref=reference,
            digest=image["Id"],
            layers=tuple(image["RootFS"]["Layers"]),
            size_bytes=image["Size"],
            paused_ms=paused_ms,
            _client=self._calls,
            _timeout=self._stream_timeout,
        )

    def discard(self, owner: str) -> None:
        """Remove the owner's temporary tags, and their images unless somebody else tagged them.

        A tag whose image a container was made from stays, and its owner among `owners`: by force
        the engine would take the image from under a stopped container, which could then never be
        committed again. It goes with the first `discard` after that container.
        """
        with translated(conflict=Unavailable):
            for tag in self._tags():
                if _owner(tag) == owner:
                    self._untag(f"{self._repository}:{tag}")

    def _untag(self, reference: str) -> None:
        try:
            # noprune: an untagged image below ours is not ours.
            self._client.remove_image(reference, noprune=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
            _log.warning("the temporary image %s stays: %s", reference, error.explanation)

    def owners(self) -> frozenset[str]:
        """Return the owners of this instance's temporary tags."""
        with translated():
            return frozenset(map(_owner, self._tags()))

    def _tags(self) -> list[str]:
        prefix = f"{self._repository}:"
        images = self._client.images(self._repository)
        names = [name for image in images for name in image["RepoTags"] or ()]
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def check(self) -> None:
        """Raise Unavailable unless the engine answers a ping."""
        with translated():
            self._client.ping()

    def close(self) -> None:
        """Release connections."""
        self._calls.close()
        self._commits.close()


def _ambiguous(ident: str, names: Sequence[str]) -> Refused:
    return Refused(f"{ident!r} stands for several containers: {', '.join(sorted(names))}")


def _owner(tag: str) -> str:
    return tag.rpartition(".")[0]
