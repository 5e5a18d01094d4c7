"""RabbitMQ: one node of our own on loopback, beside any other on the machine."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Iterable

from devstack.layout import StackError, make_folder, write_text
from devstack.packages import missing
from devstack.ports import LOOPBACK
from devstack.process import SEARCH_PATH, Daemon
from devstack.service import Service

#: The scripts behind Debian's wrappers, which insist on root and on /var/lib/rabbitmq.
SCRIPTS = "/usr/lib/rabbitmq/bin"
#: Queues of emitted events grow for ever when nobody reads them: keep the newest.
EVENT_QUEUES = ("tintype-events", r"^notifications\.", '{"max-length":10000}')
ON_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"


class RabbitMQ(Service):
    """A RabbitMQ node and the epmd by which its tools find it."""

    name = "rabbitmq"
    ports = ("rabbitmq", "rabbitmq-dist", "rabbitmq-epmd")

    @property
    def node(self) -> str:
        """Return the Erlang node name."""
        return f"tintype-{self.layout.tag}@localhost"

    def packages(self) -> Iterable[str]:
        """Return rabbitmq-server, which brings Erlang, if it is missing."""
        return missing({"rabbitmq-server": "rabbitmq-server"})

    def daemons(self) -> list[Daemon]:
        """Return epmd and the broker."""
        epmd = ("epmd", "-address", LOOPBACK, "-port", str(self.port("rabbitmq-epmd")))
        return [
            Daemon(self.layout, "epmd", epmd, lambda: _listens(self.port("rabbitmq-epmd"))),
            Daemon(
                self.layout,
                self.name,
                (f"{SCRIPTS}/rabbitmq-server",),
                lambda: _speaks_amqp(self.port()),
                self._environment(),
                start_timeout=120.0,
            ),
        ]

    def start(self) -> None:
        """Start the node unless it runs; durable queues and their messages are kept."""
        write_text(self.home / "rabbitmq.conf", self._configuration())
        write_text(self.home / "enabled_plugins", "[].\n")
        super().start()
        done = self.home / "data" / "policy-set"
        if not done.exists():
            self.ctl("set_policy", "--apply-to", "queues", *EVENT_QUEUES)
            done.touch()

    def start_app(self) -> None:
        """Start the broker again inside the running node."""
        self.ctl("start_app")

    def stop_app(self) -> None:
        """Stop the broker and close all connections, but leave the node running."""
        self.ctl("stop_app")

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against the node and return what it prints."""
        done = subprocess.run(
            [*self._ctl_command(), *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StackError(f"rabbitmqctl {shlex.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def env(self) -> dict[str, str]:
        """Return the oslo.messaging URL and the rabbitmqctl command line of the node."""
        return {
            "TINTYPE_TEST_AMQP_URL": f"rabbit://guest:guest@{LOOPBACK}:{self.port()}/",
            "TINTYPE_TEST_RABBITMQCTL": shlex.join(self._ctl_command()),
            "TINTYPE_TEST_RABBITMQ_NODE": self.node,
        }

    def where(self) -> str:
        """Return the broker's address and its node name."""
        return f"amqp://{LOOPBACK}:{self.port()}/ ({self.node})"

    def _ctl_command(self) -> list[str]:
        environment = self._environment()
        names = ("HOME", "ERL_EPMD_PORT", "RABBITMQ_CONF_ENV_FILE", "RABBITMQ_CTL_ERL_ARGS")
        settings = [f"{name}={environment[name]}" for name in names]
        return ["env", *settings, f"{SCRIPTS}/rabbitmqctl", "--quiet", "-n", self.node]

    def _environment(self) -> dict[str, str]:
        home = self.home
        data = make_folder(home / "data")
        return {
            "HOME": str(home),  # the Erlang cookie lies here
            "PATH": SEARCH_PATH,
            "ERL_EPMD_PORT": str(self.port("rabbitmq-epmd")),
            "ERL_CRASH_DUMP": str(home / "erl_crash.dump"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,  # not the machine's
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CTL_ERL_ARGS": ON_LOOPBACK,
            "RABBITMQ_DIST_PORT": str(self.port("rabbitmq-dist")),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "config"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_MNESIA_BASE": str(data),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_SCHEMA_DIR": str(home / "schema"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ON_LOOPBACK,
            # The script then becomes the broker, so that its pid is the broker's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _configuration(self) -> str:
        return (
            f"listeners.tcp.1 = {LOOPBACK}:{self.port()}\n"
            "log.console = true\n"
            "log.console.level = info\n"
            "log.file = false\n"
        )


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=2.0).close()
    except OSError:
        return False
    return True


def _speaks_amqp(port: int) -> bool:
    """Return whether a broker answers the protocol header with its first frame."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2.0) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
