"""Links to the next page, as OpenStack's API guidelines have them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import falcon


def next_page(request: falcon.Request, marker: str | None) -> dict[str, Any]:
    """Return the `links` of a page whose last record has this id; None: it is the last page."""
    if marker is None:
        return {}
    query = urlencode({**request.params, "marker": marker})
    return {"links": [{"rel": "next", "href": f"{request.prefix}{request.path}?{query}"}]}
