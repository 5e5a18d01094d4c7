"""The restore side of the port `Engine` on a Docker Engine: images loaded, containers made."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import docker
import docker.errors

from tintype.adapters.docker_client import LazyClient, untag
from tintype.adapters.docker_container import container_of
from tintype.adapters.docker_create import creation_of
from tintype.adapters.docker_errors import translated
from tintype.adapters.docker_load import load_archive, passing
from tintype.core.engine import (
    RESTORE_INSTANCE_LABEL,
    RESTORE_OWNER_LABEL,
    Container,
    NewContainer,
)
from tintype.core.errors import NameTaken, NotFound, Refused, Unavailable

REPOSITORY = "tintype-restore"
"""First part of a loaded image's name: `tintype-restore/<instance>:<owner>`."""

CAPTURE_LABEL = "tintype.capture."
"""What the labels begin with of a container that exists only for a capture."""

# Docker's own rule for the names of volumes; anything else must not get into a URL.
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

_FINAL = (
    "port is already allocated",
    "address already in use",
    "cannot assign requested address",
    "oci runtime create failed",
    "unable to find user",
    "unable to find group",
    "not a directory",
    "not directory",
)
"""Words in a 500 that trying again does not change: the container cannot be as it is wanted."""

_log = logging.getLogger(__name__)


class DockerRestore:
    """Loads images into the engine and makes containers of them, for use by several threads."""

    def __init__(
        self, calls: LazyClient, slow_calls: LazyClient, instance: str, stream_timeout: float
    ) -> None:
        """Take the clients for calls that answer soon and for those that copy files first.

        `instance` is this Tintype's in names and labels; `stream_timeout` the longest silence
        while an archive is loaded, seconds.
        """
        self._calls = calls
        self._slow_calls = slow_calls
        self._instance = instance
        self._repository = f"{REPOSITORY}/{instance}"
        self._stream_timeout = stream_timeout

    @property
    def _client(self) -> docker.APIClient:
        return self._calls.get()

    def restored_ref(self, owner: str) -> str:
        """Return the name that an archive must have for `load` on behalf of `owner`."""
        return f"{self._repository}:{owner}"

    def load(self, owner: str, archive: Iterable[bytes]) -> str:
        """Stream a docker-archive into the engine; return its image's digest.

        An engine goes on with what it has all of, when the client is gone: `withdraw` and `tidy`
        find it by its name.
        """
        reference = self.restored_ref(owner)
        loaded = load_archive(self._calls, archive, self._stream_timeout)
        if not any(name.endswith(reference) for name in loaded):
            raise Refused(f"the archive's image is {', '.join(loaded)} and not {reference}")
        with translated():
            image_id = self._image_id(reference)
        if image_id is None:
            raise Unavailable(f"container engine: {reference} is gone, which was just loaded")
        return image_id

    def _image_id(self, reference: str) -> str | None:
        try:
            image = self._client.inspect_image(reference)  # type: ignore[no-untyped-call]  # stubs
        except docker.errors.NotFound:
            return None
        return str(image["Id"])

    def create(self, owner: str, image: str, wanted: NewContainer) -> Container:
        """Make a container, not started; the one that was made for `owner` before is returned.

        An entrypoint without a command drops the image's command, as with `docker run`; an empty
        entrypoint drops the image's. A named volume that does not exist is made; a folder of the
        host that does not exist is Refused.
        """
        made = self.restored(owner)
        if made is not None:
            return made
        with translated(conflict=Refused), _final_refused():
            marks = {**self._disarmed(image), **self._marks(owner)}
            body = creation_of(image, wanted, marks)
            self._require_network(wanted.network)
            try:
                engine_id = self._post(body, wanted.name)
            except docker.errors.APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                return self._holder(wanted.name, owner)
            return container_of(self._client.inspect_container(engine_id))

    def _post(self, body: Mapping[str, Any], name: str) -> str:
        client = self._slow_calls.get()
        answer = client.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
        for warning in answer["Warnings"] or ():
            _log.warning("container %s: %s", name, warning)
        return str(answer["Id"])

    def _marks(self, owner: str) -> dict[str, str]:
        return {RESTORE_OWNER_LABEL: owner, RESTORE_INSTANCE_LABEL: self._instance}

    def _disarmed(self, image: str) -> dict[str, str]:
        """Return the labels with which a capture's container is known, if an image has them: empty.

        With them, this container would be taken for one of ours that nobody needs.
        """
        try:
            labels = self._labels(image)
        except docker.errors.NotFound:
            return {}  # that it is gone is said by whoever needs it
        return {name: "" for name in labels if name.startswith(CAPTURE_LABEL)}

    def _labels(self, image: str) -> Mapping[str, str]:
        attrs = self._client.inspect_image(image)  # type: ignore[no-untyped-call]  # stubs
        return (attrs["Config"] or {}).get("Labels") or {}

    def _require_network(self, name: str | None) -> None:
        """Raise NotFound for a network that is no more: the engine looks only when it starts."""
        if name is None or name.startswith("container:"):
            return
        if not any(name in (each["Name"], each["Id"]) for each in self._client.networks()):
            raise NotFound(f"network {name!r} not found")

    def _holder(self, name: str, owner: str) -> Container:
        """Return the container that has the name if it is the owner's; raise if it is not.

        Another call may have made it, for whose answer nobody has waited.
        """
        try:
            holder = self._client.inspect_container(name)
        except docker.errors.NotFound:
            raise Unavailable(f"a container {name!r} is just being made") from None
        if not self._is_made_for(owner, holder):
            raise NameTaken(f"the name {name!r} is in use by container {holder['Id'][:12]}")
        return container_of(holder)

    def restored(self, owner: str) -> Container | None:
        """Return the container that was made for `owner`; None: there is none."""
        with translated():
            made = next(self._made(owner), None)
        return None if made is None else container_of(made)

    def _made(self, owner: str) -> Iterator[Mapping[str, Any]]:
        """Find the container that was made for the owner, if there is one."""
        labels = [f"{key}={value}" for key, value in self._marks(owner).items()]
        for listed in self._client.containers(all=True, filters={"label": labels}):
            try:
                attrs = self._client.inspect_container(listed["Id"])
            except docker.errors.NotFound:
                continue
            if self._is_made_for(owner, attrs):
                yield attrs

    def _is_made_for(self, owner: str, attrs: Mapping[str, Any]) -> bool:
        """Whether a container carries the owner's labels, and not by its image's doing.

        An image committed from a restored container hands the labels on to everything made of it.
        """
        if not self._marks(owner).items() <= (attrs["Config"]["Labels"] or {}).items():
            return False
        try:
            return self._labels(attrs["Image"]).get(RESTORE_OWNER_LABEL) != owner
        except docker.errors.NotFound:
            return False

    def start(self, engine_id: str) -> None:
        """Start a container; one that runs is fine. Raises NotFound, Refused, Unavailable."""
        with translated(conflict=Refused), _final_refused():
            self._client.start(engine_id)

    def withdraw(self, owner: str) -> None:
        """Remove the owner's container, with its anonymous volumes, and the name of its image.

        The image goes with its name, unless it has others. It keeps both while a container of
        somebody's, or a snapshot of one that was made here, needs it.
        """
        with translated(conflict=Unavailable):
            for made in self._made(owner):
                self._remove(made["Id"])
            reference = self.restored_ref(owner)
            if self._image_id(reference) not in self._parents():
                untag(self._client, reference)

    def _remove(self, engine_id: str) -> None:
        try:
            self._client.remove_container(engine_id, v=True, force=True)
        except docker.errors.NotFound:
            return

    def tidy(self, live: Collection[str]) -> None:
        """Remove this instance's loaded images of owners that are not `live`.

        One stays that a container was made from, in whatever state that is, or an image committed.
        """
        with translated(conflict=Unavailable):
            # The images first: a container that is made after its image was seen is seen too.
            unused = {name: image for name, image in self._names() if _owner(name) not in live}
            if unused:
                every = self._client.containers(all=True)
                used = {each["ImageID"] for each in every} | self._parents()
                for name, image in unused.items():
                    if image not in used:
                        untag(self._client, name)

    def _parents(self) -> set[str]:
        """Return the images that others were committed on top of.

        Without a name such an image would stay for as long as those do, and after `discard`, which
        removes no parents, for ever.
        """
        return {each["ParentId"] for each in self._client.images(all=True)}

    def _names(self) -> Iterator[tuple[str, str]]:
        """Yield each name that was given to a loaded image, and that image's id."""
        for image in self._client.images(self._repository):
            for name in image["RepoTags"] or ():
                if name.startswith(f"{self._repository}:"):
                    yield name, image["Id"]

    def volume_labels(self, name: str) -> Mapping[str, str] | None:
        """Return the labels of a named volume; None: there is none."""
        if not _VOLUME.fullmatch(name):
            return None
        with translated():
            try:
                labels: dict[str, str] | None = self._client.inspect_volume(name)["Labels"]
            except docker.errors.NotFound:
                return None
        return labels or {}


@contextmanager
def _final_refused() -> Iterator[None]:
    """Raise Refused for a 500 that the engine has for a container that can never be or run."""
    try:
        yield
    except docker.errors.APIError as error:
        words = str(error.explanation)
        final = any(each in words.lower() for each in _FINAL) and not passing(words)
        if error.status_code != HTTPStatus.INTERNAL_SERVER_ERROR or not final:
            raise
        raise Refused(f"container engine: {words}") from error


def _owner(name: str) -> str:
    return name.rpartition(":")[2]
