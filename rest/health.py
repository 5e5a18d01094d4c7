"""`GET /healthcheck` by oslo.middleware, with a backend that looks at what a snapshot needs."""

from __future__ import annotations

import logging
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


class Parts(pluginbase.HealthcheckBaseExtension):
    """Looks at each part. A backend of oslo.middleware, found by its entry point `tintype`."""

    def healthcheck(self, server_port: int) -> pluginbase.HealthcheckResult:
        """Tell whether all parts are there, and which are not."""
        del server_port
        checks: Checks = self.conf.get(CHECKS, {})
        away = [words for name, check in checks.items() if (words := _trouble(name, check))]
        return pluginbase.HealthcheckResult(not away, "; ".join(away) or "OK", "")


def make_healthcheck(conf: cfg.ConfigOpts, checks: Checks) -> Any:
    """Return the WSGI application; `[healthcheck]` in the configuration is oslo.middleware's."""
    conf.register_opts(opts.HEALTHCHECK_OPTS, group="healthcheck")
    conf.set_default("backends", ["tintype"], group="healthcheck")
    application = healthcheck.Healthcheck(None, conf)
    application.conf[CHECKS] = checks
    return application


def _trouble(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except TintypeError as error:
        LOG.warning("healthcheck: %s: %s", name, error)
        return f"{name} is away"  # anybody may ask: no addresses
    return ""
