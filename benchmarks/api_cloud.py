"""Alice of the development stack, small running containers of her project, and her images."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import docker
from docker.errors import NotFound
from lab import Images, Stack
from subject import IMAGES, LABEL

from tintype.adapters.openstack_access import connect


class Alice:
    """An ordinary user: member of a project."""

    def __init__(self, stack: Stack) -> None:
        """Prepare; nothing is sent yet."""
        self._connection = connect(
            replace(
                stack.glance,
                username=stack.env["TINTYPE_TEST_ALICE_USER"],
                password=stack.env["TINTYPE_TEST_ALICE_PASSWORD"],
                project_name=stack.env["TINTYPE_TEST_ALICE_PROJECT"],
            )
        )

    @property
    def project_id(self) -> str:
        """The id of her project."""
        return str(self._connection.session.get_project_id())

    def token(self) -> str:
        """Return a token that nobody has seen before."""
        self._connection.session.invalidate()
        return str(self._connection.session.get_token())

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


class Containers:
    """`size` running containers, each named `<run>-<number>` and labelled with the run's name."""

    def __init__(self, stack: Stack, size: int, project_id: str) -> None:
        """Start them; an image of the smallest kind is made where there is none."""
        self._client = docker.DockerClient(stack.engine_url, timeout=600)
        self._label = f"{LABEL}={stack.run}"
        self.names = [f"{stack.run}-{number}" for number in range(size)]
        image = subprocess.run(
            [sys.executable, str(IMAGES)],
            env={"DOCKER_HOST": stack.engine_url, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        labels = {LABEL: stack.run, "tintype.project_id": project_id}
        try:
            for name in self.names:
                self._client.containers.run(
                    image, ["/bin/busybox", "sleep", "1000000"],
                    name=name, labels=labels, network_mode="none", detach=True,
                )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove them, and whatever image was committed from them and is still there."""
        for container in self._client.containers.list(all=True, filters={"label": self._label}):
            with suppress(NotFound):
                container.remove(force=True, v=True)
        for image in self._client.images.list(filters={"label": self._label}):
            with suppress(NotFound):
                self._client.images.remove(str(image.id), force=True)
        self._client.close()


class RunsImages(Images):
    """The images of this run, whosever they are."""

    def statuses(self) -> dict[str, str]:
        """Return the status of each image, by its id."""
        return {str(image.id): str(image.status) for image in self._all()}
