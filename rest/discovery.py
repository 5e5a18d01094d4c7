"""What is served here: version discovery, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import falcon

from tintype import __version__
from tintype.rest.zun import LEAST, MOST


class Versions:
    """`GET /`."""

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Answer in the form of OpenStack's version discovery."""
        version = _version(request)
        response.media = {
            "name": "tintype",
            "version": __version__,
            "default_version": version,
            "versions": [version],
        }


class Version:
    """`GET /v1`."""

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Answer with the one version there is."""
        response.media = _version(request)


class OpenApi:
    """`GET /openapi.json`."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def on_get(self, _: falcon.Request, response: falcon.Response) -> None:
        """Answer with the description of this service."""
        response.media = self._document


def _version(request: falcon.Request) -> dict[str, Any]:
    return {
        "id": "v1",
        "status": "CURRENT",
        # Zun's clients settle on a microversion with these.
        "min_version": LEAST,
        "max_version": MOST,
        "links": [{"rel": "self", "href": f"{request.prefix}/v1"}],
    }
