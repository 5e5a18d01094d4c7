"""Acting as somebody else: a token that came with a request, and what the service itself knows.

A token says who asks, but not where anything is. That is found by the service's own credentials, so
that no caller can lead a request elsewhere and no catalogue is fetched for each of them.
"""

from __future__ import annotations

from typing import Any

from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session

from tintype.core.errors import Unauthorized


class CallersToken(BaseAuthPlugin):  # type: ignore[misc]  # keystoneauth leaves it untyped
    """An auth plugin that sends a token as it is; it cannot be renewed."""

    def __init__(self, token: str, service: BaseAuthPlugin) -> None:
        """Take the token, and the plugin of the service, which finds endpoints.

        Raises Unauthorized for what no token can be, as it would not even fit into a header.
        """
        super().__init__()
        if not token.isascii() or not token.isprintable() or token.split() != [token]:
            raise Unauthorized("this is no token")
        self._token = token
        self._service = service

    def get_token(self, session: Session) -> str:
        """Return the token."""
        del session
        return self._token

    def get_endpoint(self, session: Session, **about: Any) -> str | None:
        """Return where a service is, by the catalogue of the service's own token."""
        endpoint: str | None = self._service.get_endpoint(session, **about)
        return endpoint
