"""How to reach an OpenStack cloud: settings, patience, and the connection made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from keystoneauth1.identity import Password
from keystoneauth1.session import Session
from openstack.connection import Connection


@dataclass(frozen=True, slots=True)
class GlanceSettings:
    """Whom to speak to and as whom; the user must be allowed to create images for others."""

    auth_url: str
    username: str
    password: str = field(repr=False)
    project_name: str = "service"
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"
    region_name: str | None = None
    interface: str = "public"
    endpoint_override: str | None = None
    """Glance's address, with or without `/v2`, in place of the one in Keystone's catalogue."""
    verify: bool = True
    cacert: str | None = None
    """File of CA certificates to trust instead of the system's."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds."""

    connect: float = 10.0
    read: float = 60.0
    """For an answer, or for the next bytes of a download."""
    upload: float = 600.0
    """For room to send more, and for the answer once all was sent."""
    settle: float = 10.0
    """For an image to leave `saving` after the connection that filled it broke."""
    poll: float = 0.25
    """Between two looks at such an image."""


def connect(settings: GlanceSettings, patience: Patience | None = None) -> Connection:
    """Return a connection made of these settings alone; nothing is sent yet.

    The session is made here, as the SDK's own way would mix in exported OS_* variables and any
    clouds.yaml it finds.
    """
    auth = Password(
        auth_url=settings.auth_url,
        username=settings.username,
        password=settings.password,
        project_name=settings.project_name,
        user_domain_name=settings.user_domain_name,
        project_domain_name=settings.project_domain_name,
    )
    session = Session(
        auth=auth,
        verify=settings.cacert or settings.verify,
        timeout=(patience or Patience()).read,
        app_name="tintype",
    )
    return Connection(
        session=session,
        region_name=settings.region_name,
        interface=settings.interface,
        image_endpoint_override=settings.endpoint_override,
    )
