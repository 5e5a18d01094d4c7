"""What the demo does with Docker: by the command where there is one, else by the engine's API."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import images
from demo_screen import Screen
from devstack import dockerapi


class DemoError(Exception):
    """Something is not as it should be; the message is for the person who watches."""


@dataclass(frozen=True)
class Docker:
    """One engine; what carries the label with this value is the demo's, all else a stranger's."""

    host: str
    label: str
    value: str
    screen: Screen

    def read(self, container: str, path: str) -> str:
        """Return the text of a file in a container, empty while there is none."""
        source = f"/containers/{container}/archive?path={quote(path)}"
        try:
            answer = dockerapi.call(self.host, "GET", source)
        except dockerapi.EngineError as error:
            if error.status != 404:
                raise
            return ""
        with tarfile.open(fileobj=io.BytesIO(answer)) as tar:
            content = tar.extractfile(tar.getmembers()[0])
            return content.read().decode().strip() if content else ""

    def status(self, container: str) -> str:
        """Return the engine's word for a container's state."""
        found = dockerapi.call_json(self.host, "GET", f"/containers/{container}/json")
        return str(found["State"]["Status"])

    def tags(self, pattern: str) -> list[str]:
        """Return the tags of the demo's images that match a pattern."""
        filters = {"reference": [pattern], "label": [f"{self.label}={self.value}"]}
        query = quote(json.dumps(filters))
        found = dockerapi.call_json(self.host, "GET", f"/images/json?filters={query}")
        return [tag for image in found for tag in image["RepoTags"] or ()]

    def remove(self, kind: str, name: str) -> None:
        """Remove the demo's container or image of that name, if it is there."""
        if not self.has(kind, name):
            return
        if kind == "container":
            images.remove_container(self.host, name)
        else:
            dockerapi.call(self.host, "DELETE", f"/images/{quote(name)}")

    def has(self, kind: str, name: str) -> bool:
        """Tell whether a container or image is there. Raises DemoError for a stranger's."""
        try:
            found = dockerapi.call_json(self.host, "GET", f"/{kind}s/{quote(name)}/json")
        except dockerapi.EngineError as error:
            if error.status != 404:
                raise
            return False
        if (found["Config"]["Labels"] or {}).get(self.label) == self.value:
            return True
        raise DemoError(
            f"there is a {kind} {name} already that this demo did not make: rename or remove it"
        )


def output(words: Sequence[str], env: Mapping[str, str]) -> str:
    """Run a command and return what it prints. Raises DemoError with its words when it fails."""
    done = subprocess.run(
        words, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DemoError(f"{words[0]} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout.strip()


def short(path: Path) -> str:
    """Return a path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
