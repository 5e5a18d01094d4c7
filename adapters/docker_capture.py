"""Captures on the Docker Engine: what a `docker commit` makes, under a temporary tag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors

from tintype.adapters.docker_changes import for_engine, refusals
from tintype.adapters.docker_client import LazyClient, image_stream, untag
from tintype.adapters.docker_container import container_of
from tintype.adapters.docker_errors import translated
from tintype.adapters.docker_freezer import Freeze, Freezer
from tintype.adapters.docker_squash import RANDOM_DIGITS, DockerSquash, Scratch
from tintype.core.changes import changed
from tintype.core.dockerfile import require_changes
from tintype.core.engine import CaptureOptions, Container, ContainerState, inherited
from tintype.core.errors import PausedTooLong, StillFrozen, Unavailable, WrongState
from tintype.core.scrub import check_scrubbable

REPOSITORY = "tintype-capture"
"""First part of every temporary tag: `tintype-capture/<instance>:<owner>.<marks><random hex>`."""

MOST_LAYERS = 125
"""What an image can have (moby's layer/layer_store.go, `maxLayerDepth`)."""

_SQUASHED, _OVERRAN = "s", "r"
"""Marks before the random part of a tag: how the capture was made. No hex digits."""

_Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DockerCapture:
    """An image on the engine that only we know of."""

    ref: str
    digest: str
    layers: Sequence[str]
    size_bytes: int
    paused_ms: int
    _client: LazyClient
    _timeout: float

    @property
    def squashed(self) -> bool:
        """Whether all is in one layer, asked for or not."""
        return _SQUASHED in _marks(self.ref)

    @property
    def overran(self) -> bool:
        """Whether the container ran again before its file system was read."""
        return _OVERRAN in _marks(self.ref)

    def read(self) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the image; its RepoTag is `ref`. Raises NotFound once it was discarded."""
        return image_stream(self._client, self.ref, self._timeout)


class DockerCaptures:
    """Makes captures and finds them again, for use by several threads."""

    def __init__(
        self,
        calls: LazyClient,
        slow_calls: LazyClient,
        freezer: Freezer,
        instance: str,
        stream_timeout: float,
    ) -> None:
        """Take the clients for calls that answer soon and for those that copy files first.

        `instance` is this Tintype's in temporary tags; `stream_timeout` the longest silence while
        an image streams, seconds.
        """
        self._calls = calls
        self._slow_calls = slow_calls
        self._freezer = freezer
        self._instance = instance
        self._repository = f"{REPOSITORY}/{instance}"
        self._stream_timeout = stream_timeout
        self._squash = DockerSquash(calls, slow_calls, self._repository, stream_timeout)

    @property
    def _client(self) -> docker.APIClient:
        return self._calls.get()

    def check(self, engine_id: str, options: CaptureOptions) -> None:
        """Raise what `capture` would before it does anything."""
        with translated():
            self._planned(engine_id, "", options)

    def capture(self, container: Container, owner: str, options: CaptureOptions) -> DockerCapture:
        """Commit the container to a new temporary tag, and make one layer of it if need be.

        A call that fails may leave a tag behind, even later: an engine goes on with a commit whose
        client is gone. Hence a tag of its own for each call, and `discard` for all of an owner.
        A container that cannot be thawed again is Unavailable, whatever became of the commit.
        """
        with translated():
            attrs, base, squash = self._planned(container.engine_id, owner, options)
            with self._squash.scratch(owner) as scratch:
                if squash:
                    return self._one_layer(attrs, base, scratch, options)
                return self._committed(attrs, scratch, options)

    def _planned(
        self, engine_id: str, owner: str, options: CaptureOptions
    ) -> tuple[_Attributes, _Attributes, bool]:
        """Return what the engine says of a container and its image, and whether to squash.

        Raises Invalid, Refused for what cannot be done.
        """
        require_changes(options.changes)
        attrs = self._capturable(engine_id)
        # As the commit will have it: a change may replace what holds a value.
        config = changed(self._conf(attrs, owner, options), options.changes)
        check_scrubbable(config, options.unset_env)
        base = self._base(attrs["Image"])
        depth = len(base["RootFS"].get("Layers") or ())
        squash = options.squash or depth + 1 > min(options.max_layers, MOST_LAYERS)
        if squash:
            self._squash.check()
        return attrs, base, squash

    def _capturable(self, engine_id: str) -> _Attributes:
        """Return what the engine says of a container; raise WrongState for a bad state."""
        attrs: _Attributes = self._client.inspect_container(engine_id)
        if container_of(attrs).state is ContainerState.OTHER:
            raise WrongState(f"container {engine_id[:12]} is {attrs['State']['Status']}")
        return attrs

    def _base(self, image: str) -> _Attributes:
        try:
            return self._image(image)
        except docker.errors.NotFound:  # the commit will say so too
            return {"RootFS": {}}

    def _image(self, reference: str) -> _Attributes:
        attrs: _Attributes = self._client.inspect_image(reference)  # type: ignore[no-untyped-call]
        return attrs

    def _committed(
        self, attrs: _Attributes, scratch: Scratch, options: CaptureOptions
    ) -> DockerCapture:
        """Capture by a commit alone."""
        reference = scratch.reference()
        with self._frozen(attrs, options) as freeze:
            self._commit(attrs["Id"], reference, self._conf(attrs, scratch.owner, options), options)
        if freeze.overran:
            marked = scratch.reference(_OVERRAN)
            self._client.tag(reference, *_parts(marked))
            reference = marked
        scratch.keep(reference)
        return self._describe(reference, freeze.milliseconds)

    def _one_layer(
        self, attrs: _Attributes, base: _Attributes, scratch: Scratch, options: CaptureOptions
    ) -> DockerCapture:
        """Capture by a commit, or where the engine cannot do one by an export; squash it."""
        engine_id, conf = attrs["Id"], self._conf(attrs, scratch.owner, options)
        committed = scratch.reference()
        deep = len(base["RootFS"].get("Layers") or ()) >= MOST_LAYERS
        with self._frozen(attrs, options) as freeze:
            if deep:
                flat = self._squash.import_container(scratch, engine_id)
            else:
                self._commit(engine_id, committed, conf, options)
        if deep:
            # A container of the new layer stands for it: only a commit obeys `changes`.
            stand_in = self._squash.create(scratch, flat, attrs["Config"])
            self._commit(stand_in, committed, conf, options)
        else:
            flat = self._squash.import_image(scratch, self._image(committed))
        target = scratch.reference(_SQUASHED + (_OVERRAN if freeze.overran else ""))
        self._squash.assemble(target, self._image(committed), base, self._image(flat))
        scratch.keep(target)
        return self._describe(target, freeze.milliseconds)

    @contextmanager
    def _frozen(self, attrs: _Attributes, options: CaptureOptions) -> Iterator[Freeze]:
        """Keep the container as it is while the block reads it, if that is asked for."""
        engine_id, limit = attrs["Id"], options.max_pause_ms
        if not options.pause or container_of(attrs).state is not ContainerState.RUNNING:
            yield Freeze(ours=False)
            return
        freeze = None
        try:
            with self._freezer.frozen(engine_id, limit) as freeze, translated():
                if not freeze.ours:  # frozen by somebody else, or stopped meanwhile
                    self._require_still(engine_id)
                yield freeze
        except StillFrozen:
            raise
        except Unavailable as error:
            if freeze is None or not freeze.overran or options.keep_overrun:
                raise
            raise _too_long(engine_id, limit) from error
        if freeze.overran and not options.keep_overrun:
            raise _too_long(engine_id, limit)

    def _require_still(self, engine_id: str) -> None:
        if container_of(self._capturable(engine_id)).state is ContainerState.RUNNING:
            raise Unavailable(f"container {engine_id[:12]} could not be kept frozen")

    def _commit(
        self, engine_id: str, reference: str, conf: _Attributes, options: CaptureOptions
    ) -> None:
        changes = for_engine(options.changes)
        with refusals(options.changes):
            self._slow_calls.get().commit(
                engine_id,
                *_parts(reference),
                message=options.message,
                author=options.author,
                pause=False,  # the engine would not tell us when that fails
                changes=list(changes.instructions),
                # With the whole configuration as the call's body labels need no quoting; the
                # instruction `LABEL` of its `changes` cannot express a line feed. The engine
                # applies the changes to the body, so they find the container's variables.
                conf={**conf, **changes.config},
            )

    def _conf(self, attrs: _Attributes, owner: str, options: CaptureOptions) -> dict[str, Any]:
        """Return the container's configuration, with the labels that the image is to have."""
        ours = {"tintype.request_id": owner, "tintype.instance": self._instance}
        config = attrs["Config"]
        return {**config, "Labels": {**inherited(config["Labels"] or {}), **options.labels, **ours}}

    def reopen(self, ref: str, *, paused_ms: int = 0) -> DockerCapture | None:
        """Return the capture with this temporary tag, or None when it is no more."""
        with translated():
            try:
                return self._describe(ref, paused_ms)
            except docker.errors.NotFound:
                return None

    def _describe(self, reference: str, paused_ms: int) -> DockerCapture:
        image = self._image(reference)
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
        committed again. It goes with the first `discard` after that container. Containers of ours
        that a crash has left are removed first.
        """
        with translated(conflict=Unavailable):
            self._squash.discard(owner)
            for tag in self._tags():
                if _owner(tag) == owner:
                    untag(self._client, f"{self._repository}:{tag}")

    def owners(self) -> frozenset[str]:
        """Return the owners of this instance's temporary tags and containers."""
        with translated():
            return self._squash.owners() | frozenset(map(_owner, self._tags()))

    def _tags(self) -> list[str]:
        prefix = f"{self._repository}:"
        images = self._client.images(self._repository)
        names = [name for image in images for name in image["RepoTags"] or ()]
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _too_long(engine_id: str, limit_ms: int | None) -> PausedTooLong:
    return PausedTooLong(
        f"container {engine_id[:12]} had to run again after {limit_ms} ms (max_pause_ms), before"
        " its file system was read"
    )


def _parts(reference: str) -> tuple[str, str]:
    name, _, tag = reference.rpartition(":")
    return name, tag


def _owner(tag: str) -> str:
    return tag.rpartition(".")[0]


def _marks(reference: str) -> str:
    return reference.rpartition(".")[2][:-RANDOM_DIGITS]
