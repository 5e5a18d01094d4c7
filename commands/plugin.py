"""The plug-in of the `openstack` command: `openstack container snapshot create` and so on.

Loaded at each start of `openstack`, whatever the command, so that it imports next to nothing.
python-zunclient has the API name `container`, the options that come of it, and `appcontainer`.
"""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any

DEFAULT_API_VERSION = "1"
API_VERSION_OPTION = "os_container_snapshot_api_version"
API_NAME = "container_snapshot"
API_VERSIONS = {"1": "tintype.commands.client.Client"}


def make_client(instance: Any) -> Any:
    """Return the service's client for `openstack`'s client manager."""
    configuration = instance.get_configuration()
    return importlib.import_module("tintype.commands.client").Client(
        instance.session,
        configuration.get("container_snapshot_endpoint_override"),
        option="--os-container-snapshot-endpoint-override",
        region_name=instance.region_name,
        interface=instance.interface,
    )


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Describe our global options."""
    parser.add_argument(
        "--os-container-snapshot-api-version",
        metavar="<container-snapshot-api-version>",
        default=os.environ.get("OS_CONTAINER_SNAPSHOT_API_VERSION") or DEFAULT_API_VERSION,
        help="Container snapshot API version, default=1 (Env: OS_CONTAINER_SNAPSHOT_API_VERSION)",
    )
    parser.add_argument(
        "--os-container-snapshot-endpoint-override",
        metavar="<url>",
        default=os.environ.get("OS_CONTAINER_SNAPSHOT_ENDPOINT_OVERRIDE"),
        help="Container snapshot service, in place of the catalogue's"
        " (Env: OS_CONTAINER_SNAPSHOT_ENDPOINT_OVERRIDE)",
    )
    return parser
