"""A user with a project of its own, small running containers of that project, and its images."""

from __future__ import annotations

import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import replace

import docker
from docker.errors import NotFound
from keystoneauth1.session import Session
from lab import Images, Stack
from subject import IMAGES, LABEL

from tintype.adapters.openstack_access import connect


class Member:
    """An ordinary user, member of a project which is new: nobody else clears away there."""

    def __init__(self, stack: Stack) -> None:
        """Make user and project, both of the run's name."""
        self._keystone = stack.env["TINTYPE_TEST_KEYSTONE_URL"]
        admin = replace(
            stack.glance,
            username=stack.env["TINTYPE_TEST_ADMIN_USER"],
            password=stack.env["TINTYPE_TEST_ADMIN_PASSWORD"],
            project_name=stack.env["TINTYPE_TEST_ADMIN_PROJECT"],
        )
        password = uuid.uuid4().hex
        self._admin = connect(admin)
        self._made: list[str] = []
        try:
            self.project_id = self._make("project", name=stack.run)
            user_id = self._make("user", name=stack.run, password=password)
            (role,) = self._session.get(f"{self._keystone}/roles?name=member").json()["roles"]
            grant = f"projects/{self.project_id}/users/{user_id}/roles/{role['id']}"
            self._session.put(f"{self._keystone}/{grant}")
        except BaseException:
            self.close()
            raise
        self._connection = connect(
            replace(stack.glance, username=stack.run, password=password, project_name=stack.run)
        )

    @property
    def _session(self) -> Session:
        return self._admin.session

    def _make(self, kind: str, **about: str) -> str:
        made = self._session.post(f"{self._keystone}/{kind}s", json={kind: about}).json()[kind]
        self._made.append(f"{self._keystone}/{kind}s/{made['id']}")
        return str(made["id"])

    def token(self) -> str:
        """Return a token that nobody has seen before."""
        self._connection.session.invalidate()
        return str(self._connection.session.get_token())

    def close(self) -> None:
        """Remove both."""
        for url in reversed(self._made):
            self._session.delete(url)
        self._admin.close()


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
        """Return the status of each image, by its id.

        Glance on SQLite may break off a deletion: that image stays listed as `deleted`, for good.
        """
        found = {str(image.id): str(image.status) for image in self._all()}
        return {ident: status for ident, status in found.items() if status != "deleted"}
