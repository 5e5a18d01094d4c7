"""PostgreSQL: a cluster of our own on loopback, beside any other on the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from devstack.account import Account
from devstack.layout import StackError, write_text
from devstack.ports import LOOPBACK
from devstack.process import Daemon, all_pids, command_line
from devstack.service import Service

#: Debian keeps each version's programs beside the others', and off the PATH.
PROGRAMS = "/usr/lib/postgresql"
#: A crash of the server loses nothing by these, only one of the machine.
CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class PostgreSQL(Service):
    """One PostgreSQL cluster, with a superuser `tintype`."""

    name = "postgresql"
    ports = ("postgresql",)

    @property
    def account(self) -> Account:
        """Return the user it runs as."""
        return Account(self.layout, self.name, "postgres")

    def packages(self) -> Iterable[str]:
        """Return postgresql if no version of the server is there."""
        return [] if _versions() else ["postgresql"]

    def prepare(self) -> None:
        """Make an empty cluster; begin again if that was interrupted."""
        home, done = self.account.home(), self.home / "complete"
        if done.exists() and (home / "data" / "PG_VERSION").exists():
            return
        shutil.rmtree(home / "data", ignore_errors=True)
        password = home / "password"
        write_text(password, self.account.password())
        self.account.give(password)
        self.account.run(
            self._program("initdb"),
            f"--pgdata={home}/data",
            "--username=tintype",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )
        password.unlink()
        done.touch()

    def daemons(self) -> list[Daemon]:
        """Return the server."""
        settings = (
            f"listen_addresses={LOOPBACK}",
            f"port={self.port()}",
            "unix_socket_directories=",
            "shared_buffers=32MB",
            "max_connections=200",
            *CARELESS,
        )
        options = [word for setting in settings for word in ("-c", setting)]
        data = str(self._data)
        argv = (*self.account.prefix, self._program("postgres"), "-D", data, *options)
        return [Daemon(self.layout, self.name, argv, self._ready)]

    def start(self) -> None:
        """Start the server unless it runs, after ending what outlived a crash of it."""
        if not self.running():
            self._end_orphans()
            (self._data / "postmaster.pid").unlink(missing_ok=True)
        super().start()

    def stop(self) -> None:
        """Stop the server; clients are cut off, for whose leaving SIGTERM would wait."""
        for pid in self.pids():
            os.kill(pid, signal.SIGINT)
            super().stop()

    def kill(self) -> None:
        """Crash the server with its backends, which have process groups of their own."""
        if self.pids():
            super().kill()
            self._end_orphans()

    def env(self) -> dict[str, str]:
        """Return the URL by which a test run makes its own database."""
        secret, place = self.account.password(), f"{LOOPBACK}:{self.port()}"
        return {"TINTYPE_TEST_POSTGRESQL_URL": f"postgresql://tintype:{secret}@{place}/postgres"}

    def where(self) -> str:
        """Return the server's address."""
        return f"postgresql://{LOOPBACK}:{self.port()}/"

    def pids(self) -> list[int]:
        """Return the pid of the server, also before its programs are installed."""
        pid = Daemon(self.layout, self.name, (), bool).pid()
        return [pid] if pid else []

    def running(self) -> bool:
        """Return whether the server runs."""
        return bool(self.pids())

    @property
    def _data(self) -> Path:
        return self.account.home() / "data"

    def _program(self, name: str) -> str:
        versions = _versions()
        if not versions:
            raise StackError("postgresql is not installed")
        return str(versions[-1] / "bin" / name)

    def _ready(self) -> bool:
        command = [self._program("pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port())]
        return subprocess.run(command, check=False).returncode == 0

    def _end_orphans(self) -> None:
        """Kill backends of a server that is no more: they keep the next one from starting."""
        data = self._data.resolve()
        for pid in all_pids():
            with contextlib.suppress(OSError):
                ours = command_line(pid)[:1] and Path(f"/proc/{pid}/cwd").resolve() == data
                if ours and "postgres" in command_line(pid)[0]:
                    os.kill(pid, signal.SIGKILL)


def _versions() -> list[Path]:
    """Return the folders of the servers that are installed, the newest last."""
    found = [path.parent.parent for path in Path(PROGRAMS).glob("*/bin/postgres")]
    return sorted(found, key=lambda path: float(path.name))
