"""The image stores that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tintype.adapters.directory import DirectoryStore
from tintype.adapters.glance import GlanceStore
from tintype.adapters.openstack_access import GlanceSettings, Patience
from tintype.adapters.registry import RegistryStore
from tintype.adapters.registry_access import Place, RegistryAccess
from tintype.config import ConfigError, Settings
from tintype.core.images import ImageStore

SHARED_STORES = frozenset({"glance", "registry"})
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
        known = ", ".join(sorted(SHARED_STORES))
        raise ConfigError(f"[router] stores: expected some of {known}, or nothing, got {names}")
    if not names:
        there = {"glance": settings.glance.auth_url, "registry": settings.registry.repository}
        names = [name for name, configured in there.items() if configured]
    return make_stores(settings, names, "[router] stores")


def make_stores(settings: Settings, names: Sequence[str], option: str) -> dict[str, ImageStore]:
    """Return stores by name. Raises ConfigError, which names the option, for an unknown one."""
    makers: Mapping[str, Callable[[], ImageStore]] = {
        "directory": lambda: DirectoryStore(settings.directory.path),
        "glance": lambda: make_glance(settings),
        "registry": lambda: make_registry(settings),
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


def make_registry(settings: Settings) -> RegistryStore:
    """Return the registries that images may go to. Raises ConfigError."""
    group = settings.registry
    if not group.repository and not group.allowed:
        raise ConfigError(
            "[registry] repository: needed for the store `registry` (or [registry] allowed), but"
            " empty"
        )
    home = _place("repository", group.repository) if group.repository else None
    allowed = tuple(_place("allowed", text) for text in group.allowed)
    if home and allowed and not any(home.lies_in(place) for place in allowed):
        raise ConfigError(
            f"[registry] allowed: expected the place of [registry] repository ({home}) among them,"
            f" got {group.allowed}"
        )
    access = RegistryAccess(
        home=home,
        allowed=allowed,
        insecure=frozenset(_place("insecure", text).domain for text in group.insecure),
        username=group.username or None,
        password=group.password or None,
        docker_config=group.docker_config or None,
        cafile=group.cafile or None,
        connect_seconds=group.connect_timeout,
        read_seconds=group.read_timeout,
    )
    return RegistryStore(access)


def _place(option: str, text: str) -> Place:
    try:
        return Place.parse(text)
    except ValueError as wrong:
        raise ConfigError(
            f"[registry] {option}: expected HOST[:PORT] or HOST[:PORT]/PATH, got {text!r}: {wrong}"
        ) from wrong
