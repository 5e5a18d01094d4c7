"""The REST service: a WSGI application that publishes requests like any other service.

What answers is in `rest/`; here it gets its index, its bus and its image service, and oslo's and
Keystone's middleware is put in front. `wsgi.py` is what servers load.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from oslo_config import cfg
from oslo_middleware import cors, http_proxy_to_wsgi, request_id

from tintype.adapters.clock import SystemClock
from tintype.adapters.glance import GlanceStore
from tintype.adapters.publisher import RabbitPublisher, SharedPublisher
from tintype.adapters.sql_database import Database
from tintype.adapters.sql_index import SqlIndex
from tintype.adapters.sql_reservations import SqlReservations
from tintype.config import ConfigError, Settings
from tintype.core.commits import Commits
from tintype.core.errors import Unavailable
from tintype.core.images import ImageStore
from tintype.core.ports import Publisher
from tintype.core.restores import Restores
from tintype.rest.answers import INDEX_AWAY, unavailable
from tintype.rest.app import App, create_app
from tintype.rest.health import Checks, make_healthcheck
from tintype.rest.identity import TokenIdentity
from tintype.rest.keystone import TokenCheck
from tintype.rest.policy import Policy
from tintype.schemas import validate
from tintype.stores import make_glance

LOG = logging.getLogger(__name__)

HEALTHCHECK = "/healthcheck"

CORS_DEFAULTS = {
    "allow_methods": ["GET", "POST", "DELETE"],
    "allow_headers": ["X-Auth-Token", "Idempotency-Key", "OpenStack-API-Version"],
    "expose_headers": [
        "Location",
        "OpenStack-API-Version",
        "Retry-After",
        "X-Openstack-Request-Id",
    ],
}
"""What pages of an allowed origin may send and see, unless `[cors]` says otherwise."""

OPEN_SECONDS = 5.0
"""How long a request waits for another one that just opens the database."""

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


def make_application(settings: Settings, conf: cfg.ConfigOpts) -> Wsgi:
    """Return the service as a server runs it: RabbitMQ behind it, and Keystone in front.

    Connects to nothing yet, so that a server may fork afterwards. `conf` holds the groups that
    oslo's libraries read by themselves. Raises ConfigError.
    """
    database = _make_database(settings)
    glance = make_glance(settings) if settings.glance.auth_url else None
    publisher = _make_publisher(settings)
    commits = make_commits(settings, database, publisher, glance)
    restores = make_restores(database, publisher)
    checks: dict[str, Callable[[], None]] = {
        "message bus": publisher.check,
        "index": database.check,
    }
    if glance is not None:
        checks["image service"] = glance.check

    def images_of(token: str) -> ImageStore | None:
        return None if glance is None else glance.acting_with(token)

    identify = TokenIdentity(Policy(conf), images_of)
    cors.set_defaults(**CORS_DEFAULTS)
    app = create_app(identify, commits, restores, settings.api.max_body_bytes)
    ready = Opened(TokenCheck(make_app(conf, app, checks), conf), database.upgrade)
    return http_proxy_to_wsgi.HTTPProxyToWSGI(
        request_id.RequestId(cors.CORS(ready, conf), conf), conf
    )


def make_commits(
    settings: Settings, database: Database, publisher: Publisher, glance: GlanceStore | None
) -> Commits:
    """Return what takes requests, upon one database with the routers."""
    stores = settings.api.stores or (["glance"] if glance is not None else [])
    return Commits(
        index=SqlIndex(database),
        reservations=SqlReservations(database),
        publisher=publisher,
        clock=SystemClock(),
        validate=validate,
        default_stores=stores,
    )


def make_restores(
    database: Database, publisher: Publisher, *, only_host: str | None = None
) -> Restores:
    """Return what takes restores; `only_host` is the host there is, where there is but one."""
    return Restores(
        index=SqlIndex(database),
        reservations=SqlReservations(database),
        publisher=publisher,
        clock=SystemClock(),
        validate=validate,
        only_host=only_host,
    )


def make_app(conf: cfg.ConfigOpts, app: App, checks: Checks) -> Wsgi:
    """Return the resources and the healthcheck, without what stands in front of them."""
    healthcheck = make_healthcheck(conf, checks)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        chosen = healthcheck if environ["PATH_INFO"] == HEALTHCHECK else app
        return chosen(environ, start_response)

    return application


class Opened:
    """Brings the database into shape before the first request; 503 as long as that fails."""

    def __init__(self, application: Wsgi, upgrade: Callable[[], None]) -> None:
        self._application = application
        self._upgrade = upgrade
        self._lock = threading.Lock()
        self._done = False

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Pass a request on."""
        try:
            self._open()
        except Unavailable as error:
            LOG.error("not serving yet: [router] index_url: %s", error)
            return unavailable(environ, start_response, INDEX_AWAY)
        return self._application(environ, start_response)

    def _open(self) -> None:
        if self._done:
            return
        if not self._lock.acquire(timeout=OPEN_SECONDS):
            raise Unavailable("the index is just being opened")
        try:
            if not self._done:
                self._upgrade()
                self._done = True
        finally:
            self._lock.release()


def _make_database(settings: Settings) -> Database:
    try:
        return Database(settings.index_url)
    except ValueError as error:
        raise ConfigError(f"[router] index_url: {error}") from error


def _make_publisher(settings: Settings) -> SharedPublisher:
    bus = settings.bus
    return SharedPublisher(
        RabbitPublisher(
            bus.url,
            exchange=bus.exchange,
            topic=bus.request_topic,
            publisher_id=f"tintype-api:{settings.host}",
            quorum=bus.quorum,
        )
    )
