"""The Docker Engine: the machine's own if one answers, otherwise a dockerd of the stack."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from devstack import dockerapi
from devstack.layout import StackError, make_folder, read_json, write_json, write_text
from devstack.packages import missing
from devstack.process import Daemon, all_pids, boot_id, command_line, parent
from devstack.service import Service

SYSTEM_ENGINE = "unix:///var/run/docker.sock"
OWN_ENGINE = "TINTYPE_STACK_OWN_ENGINE"


class Engine(Service):
    """A Docker Engine; one that was there before us is used and never touched."""

    name = "engine"

    @property
    def own_host(self) -> str:
        """Return the address of the stack's own engine, running or not."""
        return f"unix://{self.layout.sockets(self.name)}/docker.sock"

    def host(self) -> str:
        """Return the address of the engine in use, deciding between own and external if new."""
        decided = read_json(self.home / "engine.json").get("host")
        return str(decided) if decided else self._decide()

    def external(self) -> bool:
        """Return whether the engine in use is not ours."""
        return self.host() != self.own_host

    def packages(self) -> Iterable[str]:
        """Return docker.io unless an engine is there, and busybox-static for the test image."""
        self._decide()
        engine = {} if self.external() else {"dockerd": "docker.io"}
        return missing({**engine, "busybox": "busybox-static"})

    def daemons(self) -> list[Daemon]:
        """Return our dockerd, or nothing when the engine is not ours."""
        if self.external():
            return []
        run = self.layout.sockets(self.name)
        argv = (
            "dockerd",
            f"--config-file={self.home}/daemon.json",
            f"--host={self.own_host}",
            f"--data-root={self.home}/data",
            f"--exec-root={run}/exec",
            f"--pidfile={run}/dockerd.pid",
            # No networks: containers run with `none`, and the machine's firewall stays as it is.
            *("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
        )
        ready = lambda: dockerapi.answers(self.own_host)  # noqa: E731
        return [Daemon(self.layout, self.name, argv, ready)]

    def start(self) -> None:
        """Start our dockerd unless it runs, after clearing away what a crash left behind."""
        if self.external():
            if not dockerapi.answers(self.host()):
                raise StackError(f"the engine at {self.host()} does not answer any more")
            return
        if os.getuid() != 0:
            raise StackError(
                "no engine answers, and starting one needs root: set DOCKER_HOST or use sudo"
            )
        write_text(self.home / "daemon.json", "{}\n")  # instead of the machine's in /etc/docker
        if not self.running():
            self._clear_runtime()
        super().start()

    def stop(self) -> None:
        """Stop our dockerd with its containers, also those that outlived a crash of it."""
        if self.external():
            return
        super().stop()
        self._end_orphans()
        self._unmount()

    def env(self) -> dict[str, str]:
        """Return DOCKER_HOST."""
        return {"DOCKER_HOST": self.host()}

    def where(self) -> str:
        """Return the engine's address and whose it is."""
        return f"{self.host()} ({'external' if self.external() else 'own'})"

    def running(self) -> bool:
        """Return whether the engine in use runs."""
        return dockerapi.answers(self.host()) if self.external() else super().running()

    def _decide(self) -> str:
        """Choose the engine and remember it; our own stays chosen while it runs."""
        own = Daemon(self.layout, self.name, (), bool).pid() is not None
        candidates = [os.environ.get("DOCKER_HOST", ""), SYSTEM_ENGINE]
        if own or os.environ.get(OWN_ENGINE, "0") not in ("", "0"):
            candidates = []
        found = [host for host in candidates if host and dockerapi.answers(host)]
        host = found[0] if found else self.own_host
        write_json(self.home / "engine.json", {"host": host})
        return host

    def _clear_runtime(self) -> None:
        """Remove pid files that could name a stranger, and all runtime state after a reboot."""
        run = self.layout.sockets(self.name)
        (run / "dockerd.pid").unlink(missing_ok=True)
        if write_text(run / "boot", boot_id()):
            shutil.rmtree(run / "exec", ignore_errors=True)
        pid_file = run / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(OSError, ValueError):
            # dockerd adopts whatever lives under this pid as its containerd.
            if not self._ours(command_line(int(pid_file.read_text(encoding="ascii")))):
                pid_file.unlink()
        make_folder(self.home / "data")

    def _ours(self, argv: list[str]) -> bool:
        """Return whether a command line is that of a containerd or a shim of our engine."""
        runtime = f"{self.layout.sockets(self.name)}/exec/containerd/"
        return "containerd" in "".join(argv[:1]) and any(arg.startswith(runtime) for arg in argv)

    def _end_orphans(self) -> None:
        """Kill containers whose shim outlived a dockerd that was killed."""
        pids = all_pids()
        shims = {pid for pid in pids if self._ours(command_line(pid))}
        inits = [pid for pid in pids if parent(pid) in shims]
        for pid in [*inits, *shims]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _unmount(self) -> None:
        """Release what a killed dockerd left mounted, so that the folder can be removed."""
        ours = (str(self.home.resolve()), str(self.layout.sockets(self.name).resolve()))
        table = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        targets = [line.split()[1].encode().decode("unicode_escape") for line in table]
        for target in reversed([t for t in targets if t.startswith(tuple(o + "/" for o in ours))]):
            subprocess.run(["umount", "--lazy", target], check=False)
