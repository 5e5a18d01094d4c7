"""`GET /healthcheck` by oslo.middleware, with a backend that looks at what a snapshot needs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_middleware import healthcheck
from oslo_middleware.healthcheck import opts, pluginbase

from tintype.core.errors import TintypeError

LOG = logging.getLogger(__name__)

Checks = Mapping[str, Callable[[], None]]
"""Name of a part -> what raises a TintypeError unless the part is there."""

CHECKS = "tintype_checks"
"""Where the middleware keeps the checks for its backend."""

KEPT_SECONDS = 2.0
"""How long an answer is good."""


class Parts(pluginbase.HealthcheckBaseExtension):
    """Looks at each part. A backend of oslo.middleware, found by its entry point `tintype`."""

    def healthcheck(self, server_port: int) -> pluginbase.HealthcheckResult:
        """Tell whether all parts are there, and which are not."""
        del server_port
        away = self.conf[CHECKS].away()
        return pluginbase.HealthcheckResult(not away, "; ".join(away) or "OK", "")


class Health:
    """What was found when the parts were looked at last.

    Anybody may ask, as often as he likes: so one looks at a time, and only now and then.
    """

    def __init__(self, checks: Checks, clock: Callable[[], float] = time.monotonic) -> None:
        self._checks = checks
        self._clock = clock
        self._lock = threading.Lock()
        self._away: list[str] = []
        self._until = -KEPT_SECONDS

    def away(self) -> list[str]:
        """Return what is wrong, one sentence for each part; the last answer while others look."""
        if self._clock() < self._until or not self._lock.acquire(blocking=False):
            return self._away
        try:
            found = (_trouble(name, check) for name, check in self._checks.items())
            self._away = [words for words in found if words]
            self._until = self._clock() + KEPT_SECONDS
        finally:
            self._lock.release()
        return self._away


def make_healthcheck(conf: cfg.ConfigOpts, checks: Checks) -> Any:
    """Return the WSGI application; `[healthcheck]` in the configuration is oslo.middleware's."""
    conf.register_opts(opts.HEALTHCHECK_OPTS, group="healthcheck")
    conf.set_default("backends", ["tintype"], group="healthcheck")
    application = healthcheck.Healthcheck(None, conf)
    application.conf[CHECKS] = Health(checks)
    return application


def _trouble(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except TintypeError as error:
        LOG.warning("healthcheck: %s: %s", name, error)
        return f"{name} is away"  # anybody may ask: no addresses
    return ""
