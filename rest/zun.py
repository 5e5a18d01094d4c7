"""What Zun's clients need that its API does not say: one falcon middleware."""

from __future__ import annotations

import re
from typing import Any

import falcon

MICROVERSIONS = tuple(f"1.{minor}" for minor in range(1, 41))
"""All of Zun's (zun/api/controllers/versions.py), in each of which a commit is the same.

Zun's clients take the highest that both sides know, refuse a service without one of theirs, and
send whatever their user names: so a client of any age works, and with every `--…-api-version`.
"""

LEAST, MOST = MICROVERSIONS[0], MICROVERSIONS[-1]

HEADER = "OpenStack-API-Version"
"""Says which is wanted, and which was understood: `container 1.6`. Other services' may be there."""

BEGIN = "/v1/"


class ZunManners:
    """Behaves towards Zun's clients as Zun does, on every path under `/v1/`."""

    def process_request(self, request: falcon.Request, response: falcon.Response) -> None:
        """Read the path as Zun does, and name the microversion. Raises 406 as Zun does."""
        # Not where `//` comes first: what begins with /v1/ is what Keystone's tokens guard.
        if not request.path.startswith(BEGIN):
            return
        # zun-tempest-plugin asks for /v1/containers//{ident}/commit.
        request.path = re.sub("/{2,}", "/", request.path)
        wanted = _wanted(request.get_header(HEADER) or "")
        if wanted not in MICROVERSIONS:
            raise falcon.HTTPNotAcceptable(
                description=f"{HEADER}: expected container {LEAST} to {MOST}, got {wanted!r}"
            )
        # zun-tempest-plugin fails where an answer does not name the microversion it asked for.
        response.set_header(HEADER, f"container {wanted}")
        response.append_header("Vary", HEADER)

    def process_response(
        self, request: falcon.Request, response: falcon.Response, resource: Any, succeeded: bool
    ) -> None:
        """Keep Retry-After from Zun's clients: they show a TypeError of their own at it."""
        del resource, succeeded
        if request.get_header(HEADER) is not None:
            response.delete_header("Retry-After")


def _wanted(header: str) -> str:
    """Return the microversion of Zun's that a header asks for."""
    named = re.search(r"(?:^|,)\s*container\s+([^\s,]+)", header)
    version = named[1] if named else LEAST
    return MOST if version == "latest" else version
