"""The image stores that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tintype.adapters.directory import DirectoryStore
from tintype.adapters.glance import GlanceStore
from tintype.adapters.openstack_access import GlanceSettings, Patience
from tintype.config import ConfigError, Settings
from tintype.core.images import ImageStore

SHARED_STORES = frozenset({"glance"})
"""Stores that are the same seen from every host."""


def make_agent_stores(settings: Settings) -> dict[str, ImageStore]:
    """Return the stores that the agent has: one at the least."""
    names = settings.agent.stores
    if not names:
        raise ConfigError("[agent] stores: expected one store at least, got none")
    return make_stores(settings, names, "[agent] stores")


def make_router_stores(settings: Settings) -> dict[str, ImageStore]:
    """Return the stores from which a router deletes what silent hosts have left.

    Only those that are no host's own. Raises ConfigError.
    """
    names = settings.router.stores
    if any(name not in SHARED_STORES for name in names):
        raise ConfigError(f"[router] stores: expected `glance` or nothing, got {names}")
    if not names and settings.glance.auth_url:
        names = ["glance"]
    return make_stores(settings, names, "[router] stores")


def make_stores(settings: Settings, names: Sequence[str], option: str) -> dict[str, ImageStore]:
    """Return stores by name. Raises ConfigError, which names the option, for an unknown one."""
    makers: Mapping[str, Callable[[], ImageStore]] = {
        "directory": lambda: DirectoryStore(settings.directory.path),
        "glance": lambda: make_glance(settings),
    }
    if any(name not in makers for name in names):
        raise ConfigError(f"{option}: expected some of {', '.join(makers)}, got {names}")
    return {name: makers[name]() for name in names}


def make_glance(settings: Settings) -> GlanceStore:
    """Return the image service, as the service's own user. Raises ConfigError."""
    group = settings.glance
    if not group.auth_url:
        raise ConfigError("[glance] auth_url: needed for the store `glance`, but empty")
    access = GlanceSettings(
        auth_url=group.auth_url,
        username=group.username,
        password=group.password,
        project_name=group.project_name,
        user_domain_name=group.user_domain_name,
        project_domain_name=group.project_domain_name,
        region_name=group.region_name or None,
        interface=group.interface,
        endpoint_override=group.endpoint_override or None,
        cacert=group.cafile or None,
    )
    return GlanceStore(access, patience=Patience(group.connect_timeout, group.read_timeout))
