"""What a service without events does: list, inspect each, write each. Run by index.py.

    python poll_containers.py ENGINE_URL FILE inspect|list

`inspect` does as docker-py's `containers.list(all=True)`, which inspects all that it lists. `list`
goes without, as Zun's periodic `sync_container_state` does. Each container becomes a row of SQLite
with a commit of its own.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing, suppress

import docker
from docker.errors import NotFound


def main() -> None:
    """Make one pass over all containers of the engine."""
    engine_url, file, how = sys.argv[1:]
    with (
        closing(docker.APIClient(engine_url, timeout=600)) as client,
        closing(sqlite3.connect(file, isolation_level=None)) as database,
    ):
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # as the index has it
        database.execute(
            "CREATE TABLE containers"
            " (uuid TEXT PRIMARY KEY, name TEXT, host TEXT, state TEXT, record TEXT)"
        )
        print("is listening", flush=True)
        for each in client.containers(all=True):
            told = each
            with suppress(NotFound):  # somebody has removed it meanwhile
                told = client.inspect_container(each["Id"]) if how == "inspect" else each
            database.execute(
                "INSERT INTO containers VALUES (?, ?, ?, ?, ?)",
                (
                    each["Id"],
                    each["Names"][0].lstrip("/"),
                    "benchmark",
                    each["State"],
                    json.dumps(told),
                ),
            )


if __name__ == "__main__":
    main()
