"""The least that anybody does who promises a snapshot: an image that waits, a confirmed message.

Called directly, or served by gunicorn with keystonemiddleware in front, as the REST service is:

    OS_TINTYPE_CONFIG_FILES=FILE gunicorn 'api_floor:make_application()'

Nothing is validated, looked up, recorded or undone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import falcon
import kombu
import requests
from keystonemiddleware import auth_token
from processes import BenchError
from requests.adapters import HTTPAdapter

from tintype.adapters.publisher import BROKER_ERRORS
from tintype.config import Settings, load, load_for_oslo

FILES = "OS_TINTYPE_CONFIG_FILES"
QUEUE = "floor"
TO_GLANCE = 16
"""Connections at most: as many requests as the stack's Glance works on at once."""

TO_BUS = 8
"""Connections at most: as many as a worker has threads."""

SECONDS = 300.0


class Floor:
    """Creates an image and publishes a message for each request. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        """Take Glance's and the bus's address out of the service's own configuration."""
        url = settings.bus.url.replace("rabbit://", "amqp://", 1)
        self._bus = kombu.Connection(url, transport_options={"confirm_publish": True})
        self._pool = self._bus.Pool(TO_BUS)
        self._images = f"{settings.glance.endpoint_override}/v2/images"
        self._http = requests.Session()
        adapter = HTTPAdapter(pool_maxsize=TO_GLANCE, pool_block=True)
        self._http.mount("http://", adapter)

    def prepare(self) -> None:
        """Make the queue."""
        with self._bus.clone() as connection:
            _queue(connection).declare()

    def waiting(self) -> int:
        """Return how many messages are in the queue, and empty it."""
        with self._bus.clone() as connection:
            return int(_queue(connection).purge())

    def promise(self, token: str, body: Mapping[str, Any]) -> str:
        """Return the id of the image, once the broker has the message. Raises BenchError."""
        image = self._http.post(
            self._images,
            json={
                "name": body["image_name"],
                "container_format": "docker",
                "disk_format": "raw",
            },
            headers={"X-Auth-Token": token},
            timeout=SECONDS,
        )
        if image.status_code != requests.codes.created:
            raise BenchError(f"Glance: {image.status_code}: {image.text[:200]}")
        image_id = str(image.json()["id"])
        message = {**body, "image_id": image_id}
        try:
            with self._pool.acquire(block=True) as connection:
                connection.Producer().publish(
                    message, routing_key=QUEUE, delivery_mode=2, timeout=SECONDS
                )
        except BROKER_ERRORS as error:
            raise BenchError(f"RabbitMQ: {error!r}") from error
        return image_id

    def close(self) -> None:
        """Disconnect."""
        self._pool.force_close_all()
        self._http.close()


class Commit:
    """`POST /commit`."""

    def __init__(self, floor: Floor) -> None:
        """Take who does it."""
        self._floor = floor

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        """Answer 202 with the image's id."""
        token = str(request.get_header("X-Auth-Token"))
        response.media = {"image_id": self._floor.promise(token, request.get_media())}
        response.status = falcon.HTTP_202


def make_application() -> Any:
    """Return the WSGI application."""
    files = [os.environ[FILES]]
    app = falcon.App()
    app.add_route("/commit", Commit(Floor(load(files))))
    return auth_token.AuthProtocol(app, {"oslo_config_config": load_for_oslo(files)})


def _queue(connection: kombu.Connection) -> kombu.Queue:
    return kombu.Queue(QUEUE, durable=True, channel=connection.default_channel)
