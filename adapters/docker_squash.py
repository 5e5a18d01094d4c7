"""Making one layer of a container or an image on the Docker Engine, which has no call for it.

The engine can export a container's file system as one tar, import a tar as an image of one layer,
and load an archive that lacks the layers which the engine has already: so the layer gets the
configuration of the image that a commit has made. An image is exported by way of a container that
never runs. It is not made from the image itself but from another one of the same layers and no
configuration: the engine would make volumes for it, fill them, and put a working directory into it.

What the engine itself puts into a container when it makes one is in an export, and thus in the
layer: `/.dockerenv`, mount points below `/dev`, `/proc` and `/sys`, and empty files like
`/etc/hosts`, where the image has none (moby's daemon/initlayer). No volume is in an export.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tintype.adapters.docker_client import LazyClient, open_stream, read_chunks, send
from tintype.adapters.docker_errors import translated
from tintype.adapters.docker_load import load_archive
from tintype.adapters.docker_usage import has_containerd_store
from tintype.adapters.send_once import SendOnce
from tintype.core.errors import CorruptArchive, NotFound, Refused, TintypeError, Unavailable
from tintype.core.tar import END_MARKER

OWNER_LABEL = "tintype.capture.owner"
"""Label of a container that exists only for a capture; its value is the owner."""
INSTANCE_LABEL = "tintype.capture.instance"
RANDOM_DIGITS = 16
"""Hex digits that make a temporary image's tag unlike all others."""

_OWN_LABELS = frozenset({OWNER_LABEL, INSTANCE_LABEL})

_log = logging.getLogger(__name__)

_Attributes = Mapping[str, Any]
"""What the engine says of an image."""


@dataclass(slots=True)
class Scratch:
    """What is made on the way, to be removed in the end."""

    owner: str
    repository: str
    references: list[str] = field(default_factory=list)
    """Every temporary image that may exist, `name:tag`."""
    containers: list[str] = field(default_factory=list)
    """Names of the temporary containers that may exist."""

    def reference(self, marks: str = "") -> str:
        """Return a name for a new image of the owner's; `marks` stand before its random part."""
        digits = secrets.token_hex(RANDOM_DIGITS // 2)
        self.references.append(f"{self.repository}:{self.owner}.{marks}{digits}")
        return self.references[-1]

    def keep(self, reference: str) -> None:
        """Leave an image where it is: it is what was wanted."""
        self.references.remove(reference)


def is_scratch(labels: Mapping[str, str]) -> bool:
    """Tell whether a container of these labels exists only for a capture, by any instance."""
    # Empty ones stand in a restored container, against those that its image has.
    return bool(labels.get(OWNER_LABEL) and labels.get(INSTANCE_LABEL))


class DockerSquash:
    """Makes images of one layer, for use by several threads."""

    def __init__(
        self, calls: LazyClient, slow_calls: LazyClient, repository: str, stream_timeout: float
    ) -> None:
        """Take the clients for calls that answer soon and for those that copy files first.

        `repository` is this instance's for temporary images, and its label on containers;
        `stream_timeout` the longest silence while a file system is copied, seconds.
        """
        self._calls = calls
        self._slow_calls = slow_calls
        self._repository = repository
        self._stream_timeout = stream_timeout

    def check(self) -> None:
        """Raise Refused for an engine on which it cannot be done."""
        if has_containerd_store(self._calls.get().info()):
            raise Refused(
                "/squash: this engine keeps its images in containerd's store and cannot make one"
                " layer of all: ask without it, for a container of an image with fewer layers"
            )

    @contextmanager
    def scratch(self, owner: str) -> Iterator[Scratch]:
        """Remember what is made on the way; it is removed whatever happens.

        What cannot be removed now is left for `discard`, and the owner among `owners`.
        """
        scratch = Scratch(owner, self._repository)
        try:
            yield scratch
        finally:
            for name in scratch.containers:  # first: an image in use stays
                self._clear(name, self._remove_container)
            for reference in scratch.references:
                self._clear(reference, self._remove_image)

    def _clear(self, name: str, remove: Callable[[str], None]) -> None:
        try:
            with translated():
                remove(name)
        except NotFound:
            return
        except TintypeError as error:
            _log.warning("%s stays for now: %s", name, error)

    def _remove_container(self, name: str) -> None:
        self._calls.get().remove_container(name, force=True, v=True)

    def _remove_image(self, reference: str) -> None:
        self._calls.get().remove_image(reference, noprune=True)

    def import_image(self, scratch: Scratch, image: _Attributes) -> str:
        """Make an image of one layer of all of another one's; return its name."""
        bare = scratch.reference()
        self._load(bare, {**_document(image), "config": {}})
        engine_id = self.create(scratch, bare, {"Cmd": ["none"], "Entrypoint": None})
        return self.import_container(scratch, engine_id)

    def create(self, scratch: Scratch, image: str, config: _Attributes) -> str:
        """Make a container that never runs; return its engine id."""
        client = self._slow_calls.get()
        scratch.containers.append(f"tintype-capture-{secrets.token_hex(8)}")
        made = client.create_container(
            image,
            config["Cmd"],
            entrypoint=config["Entrypoint"],
            name=scratch.containers[-1],
            labels={OWNER_LABEL: scratch.owner, INSTANCE_LABEL: self._repository},
            host_config=client.create_host_config(network_mode="none"),
        )
        return str(made["Id"])

    def import_container(self, scratch: Scratch, engine_id: str) -> str:
        """Make an image of one layer of a container's file system; return its name.

        Volumes and other mounts are not in it.
        """
        flat = scratch.reference()
        name, _, tag = flat.rpartition(":")
        params = {"fromSrc": "-", "repo": name, "tag": tag}
        path, timeout = f"/containers/{engine_id}/export", self._stream_timeout
        with open_stream(self._calls, path, timeout) as response:
            tar = SendOnce(_whole(read_chunks(response)))
            lines = send(self._calls, "/images/create", params, tar, timeout)
        for line in lines:
            if "error" in line:
                raise Unavailable(f"container engine: its own export: {line['error']}")
        if not tar.exhausted:
            raise Unavailable("container engine: it did not take all of its own export")
        return flat

    def assemble(
        self, target: str, image: _Attributes, base: _Attributes, flat: _Attributes
    ) -> None:
        """Give the only layer of `flat` the configuration of `image`, as an image named `target`.

        Its platform is the base image's, as far as the engine tells: a commit forgets a variant.
        """
        document = _document({**image, "RootFS": flat["RootFS"]})
        platform = {"architecture": "Architecture", "variant": "Variant", "os": "Os"}
        document |= {key: base[name] for key, name in platform.items() if base.get(name)}
        self._load(target, document)

    def _load(self, reference: str, document: Mapping[str, Any]) -> None:
        archive = _archive(reference, document)
        load_archive(self._slow_calls, [archive], self._stream_timeout)

    def owners(self) -> frozenset[str]:
        """Return for whom there are temporary containers."""
        return frozenset(each["Labels"][OWNER_LABEL] for each in self._containers())

    def discard(self, owner: str) -> None:
        """Remove the owner's temporary containers."""
        for each in self._containers():
            if each["Labels"][OWNER_LABEL] == owner:
                self._clear(each["Id"], self._remove_container)

    def _containers(self) -> list[dict[str, Any]]:
        labels = [OWNER_LABEL, f"{INSTANCE_LABEL}={self._repository}"]
        found: list[dict[str, Any]] = self._calls.get().containers(
            all=True, filters={"label": labels}
        )
        return found


def _document(image: _Attributes) -> dict[str, Any]:
    """Return the image configuration that makes an image as the engine describes it.

    OCI image specification, config.md. The history is one entry: what is in the layer has none.
    """
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    config = image["Config"]
    labels = {k: v for k, v in (config.get("Labels") or {}).items() if k not in _OWN_LABELS}
    comment, author = image.get("Comment") or "", image.get("Author") or ""
    layers = image["RootFS"]["Layers"]
    entry = {"created": created, "author": author, "comment": comment, "created_by": "tintype"}
    document = {
        "architecture": image["Architecture"],
        "variant": image.get("Variant"),
        "os": image["Os"],
        "os.version": image.get("OsVersion"),
        "created": created,
        "author": author,
        "comment": comment,
        "config": {**config, "Labels": labels},
        "docker_version": image.get("DockerVersion"),
        "history": [entry for _ in layers],
        "rootfs": {"type": "layers", "diff_ids": layers},
    }
    return {key: value for key, value in document.items() if value}


def _archive(reference: str, document: Mapping[str, Any]) -> bytes:
    """Return a docker-archive of an image whose layers the engine has already."""
    config = json.dumps(document).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    layers = [f"{number}/layer.tar" for number, _ in enumerate(document["rootfs"]["diff_ids"])]
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": layers}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in ((name, config), ("manifest.json", json.dumps(manifest).encode())):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _whole(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a tar's chunks; raise CorruptArchive at the end of one without an end marker.

    The engine has answered 200 by the time that it may fail, and would take half a file system.
    """
    tail = b""
    for chunk in chunks:
        tail = (tail + chunk)[-len(END_MARKER) :] if len(chunk) < len(END_MARKER) else chunk
        yield chunk
    if not tail.endswith(END_MARKER):
        raise CorruptArchive("the engine's export of the container ends early")
