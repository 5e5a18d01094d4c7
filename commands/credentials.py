"""Who asks, and whom: the options and OS_* variables that say so, and the client made of them.

What keystoneauth and the SDK know beyond the options here, OS_* variables and clouds.yaml say. The
SDK, half a second to import, is asked only where there are credentials.
"""

from __future__ import annotations

import importlib
import logging
import os
from argparse import ArgumentParser, Namespace
from functools import cached_property
from typing import Any

from cliff.command import Command
from keystoneauth1 import exceptions as keystone
from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session

from tintype import __version__
from tintype.commands.client import Client, CommandError

DEFAULT_ENDPOINT = "http://127.0.0.1:9519"

OPTIONS = {
    "cloud": ("NAME", "cloud in clouds.yaml"),
    "region-name": ("NAME", "region of the service"),
    "interface": ("NAME", "public (the default), internal or admin"),
    "auth-type": ("NAME", "way to log in: password, token, v3applicationcredential ..."),
    "auth-url": ("URL", "Keystone"),
    "username": ("NAME", ""),
    "password": ("TEXT", "seen by all users of this machine: better in OS_PASSWORD"),
    "user-domain-name": ("NAME", ""),
    "project-name": ("NAME", ""),
    "project-id": ("ID", ""),
    "project-domain-name": ("NAME", ""),
    "token": ("TEXT", "log in with this token"),
    "cacert": ("FILE", "CA certificates to trust"),
}
"""Options, after `--os-`: what they take, and what they mean beyond their name."""

SAY_WHO = ("OS_CLOUD", "OS_AUTH_URL", "OS_AUTH_TYPE")
"""Any of these variables, or of the options, says that there are credentials."""


class Clients:
    """The clients by name, as `openstack` offers them to its commands."""

    def __init__(self, options: Namespace) -> None:
        self._options = options

    @cached_property
    def container_snapshot(self) -> Client:
        """The service's client. Raises CommandError."""
        if not (self._options.debug or self._options.verbose_level > 1):
            # They tell of every attempt to connect, and to read; the user hears the end from us.
            for name in ("keystoneauth", "openstack", "stevedore"):
                logging.getLogger(name).setLevel(logging.ERROR)
        return make_client(self._options)


def client_of(command: Command) -> Client:
    """Return the client that a command is to use, in `tintype` and in `openstack` alike."""
    app: Any = command.app
    client: Client = app.client_manager.container_snapshot
    return client


def add_arguments(parser: ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        default=os.environ.get("TINTYPE_ENDPOINT"),
        help="the service (env TINTYPE_ENDPOINT; default: the catalogue's, or without credentials"
        f" {DEFAULT_ENDPOINT})",
    )
    group = parser.add_argument_group(
        "credentials", "by clouds.yaml, options or OS_* variables; none for `tintype serve`"
    )
    for name, (metavar, meaning) in OPTIONS.items():
        group.add_argument(f"--os-{name}", metavar=metavar, help=meaning or None)
    group.add_argument("--insecure", action="store_true", help="do not check certificates")


def make_client(options: Namespace) -> Client:
    """Return a client for these options and the environment. Raises CommandError."""
    auth_type = options.os_auth_type or os.environ.get("OS_AUTH_TYPE")
    if auth_type == "none" or not _has_credentials(options):
        endpoint = options.endpoint or DEFAULT_ENDPOINT
        return Client(Session(NoAuth(endpoint), verify=_verify(options)), endpoint)
    region = _cloud_region(options)
    return Client(
        region.get_session(),
        options.endpoint or region.config.get("container_snapshot_endpoint_override"),
        region_name=region.region_name,
        interface=region.config.get("interface"),
    )


def _has_credentials(options: Namespace) -> bool:
    given = any(getattr(options, _field(name)) for name in OPTIONS if name != "cacert")
    return given or any(os.environ.get(name) for name in SAY_WHO)


def _verify(options: Namespace) -> bool | str:
    return not options.insecure and (options.os_cacert or True)


def _cloud_region(options: Namespace) -> Any:
    """Return the SDK's idea of the cloud, with the options before variables and clouds.yaml."""
    config = importlib.import_module("openstack.config")
    exceptions = importlib.import_module("openstack.exceptions")
    given = {_field(name): getattr(options, _field(name)) for name in OPTIONS}
    if options.insecure:
        given["verify"] = False
    try:
        clouds = config.OpenStackConfig(app_name="tintype", app_version=__version__)
        # By itself the SDK forgets OS_CLOUD where there is no clouds.yaml.
        cloud = options.os_cloud or os.environ.get("OS_CLOUD")
        return clouds.get_one(cloud=cloud, argparse=Namespace(**given))
    except (exceptions.SDKException, keystone.ClientException) as error:
        raise CommandError(f"credentials: {error}") from error
    except (OSError, TypeError, AttributeError, ValueError) as error:
        # The SDK takes a clouds.yaml of another shape as it comes.
        raise CommandError(f"credentials: clouds.yaml cannot be read: {error!r}") from error


def _field(name: str) -> str:
    return f"os_{name.replace('-', '_')}"
