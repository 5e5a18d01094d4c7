"""MySQL's protocol and dialect, as MariaDB speaks them: Debian has no package of MySQL itself."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable

from devstack.account import Account
from devstack.layout import write_text
from devstack.packages import missing
from devstack.ports import LOOPBACK
from devstack.process import Daemon
from devstack.service import Service

#: Run at each start, as root of the server: our user is there whatever the data folder says.
SETUP = """\
CREATE OR REPLACE USER tintype@{host} IDENTIFIED BY '{password}';
GRANT ALL PRIVILEGES ON *.* TO tintype@{host} WITH GRANT OPTION;
"""


class MySQL(Service):
    """One MariaDB server, with a user `tintype` who may do anything."""

    name = "mysql"
    ports = ("mysql",)

    @property
    def account(self) -> Account:
        """Return the user it runs as."""
        return Account(self.layout, self.name, "mysql")

    def packages(self) -> Iterable[str]:
        """Return mariadb-server if it is missing."""
        return missing({"mariadbd": "mariadb-server"})

    def prepare(self) -> None:
        """Make the server's own tables; begin again if that was interrupted."""
        data, done = self.account.home() / "data", self.home / "complete"
        if done.exists() and data.exists():
            return
        shutil.rmtree(data, ignore_errors=True)
        self.account.run(
            "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"
        )
        done.touch()

    def daemons(self) -> list[Daemon]:
        """Return the server."""
        home = self.account.home()
        argv = (
            *self.account.prefix,
            "mariadbd",
            "--no-defaults",
            f"--datadir={home}/data",
            f"--init-file={home}/setup.sql",
            f"--socket={home}/mysql.sock",
            f"--pid-file={home}/mysql.pid",
            f"--bind-address={LOOPBACK}",
            f"--port={self.port()}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            # A crash of the server loses nothing by it, only one of the machine.
            "--innodb-flush-log-at-trx-commit=2",
        )
        ready = lambda: _greets(self.port())  # noqa: E731
        return [Daemon(self.layout, self.name, argv, ready)]

    def start(self) -> None:
        """Start the server unless it runs."""
        setup = self.account.home() / "setup.sql"
        text = SETUP.format(host=f"'{LOOPBACK}'", password=self.account.password())
        write_text(setup, text)
        self.account.give(setup)
        super().start()

    def stop(self) -> None:
        """Stop the server; where there is none, there may be no user either."""
        if self.pids():
            super().stop()

    def kill(self) -> None:
        """Crash the server."""
        if self.pids():
            super().kill()

    def env(self) -> dict[str, str]:
        """Return the URL by which a test run makes its own database."""
        secret, place = self.account.password(), f"{LOOPBACK}:{self.port()}"
        return {"TINTYPE_TEST_MYSQL_URL": f"mysql://tintype:{secret}@{place}/mysql"}

    def where(self) -> str:
        """Return the server's address."""
        return f"mysql://{LOOPBACK}:{self.port()}/ (MariaDB)"

    def pids(self) -> list[int]:
        """Return the pid of the server, also before its package has made its user."""
        pid = Daemon(self.layout, self.name, (), bool).pid()
        return [pid] if pid else []

    def running(self) -> bool:
        """Return whether the server runs."""
        return bool(self.pids())


def _greets(port: int) -> bool:
    """Return whether a server sends the first packet of protocol 10."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2.0) as connection:
            connection.settimeout(2.0)
            return connection.recv(5)[4:] == b"\n"
    except OSError:
        return False
