"""Running a daemon as somebody else: databases refuse to be root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path

from devstack.layout import Layout, StackError, make_folder, write_text

#: Longest folder in which a socket of a short name still fits into `sun_path`.
LONGEST_HOME = 80


class Account:
    """The user that a service's daemon runs as: its package's own under root, else ourselves."""

    def __init__(self, layout: Layout, service: str, user: str) -> None:
        """Describe the account; the user need not exist yet."""
        self.layout, self.service, self.user = layout, service, user

    @property
    def prefix(self) -> tuple[str, ...]:
        """Return the words before a command that make it run as that user, at the same pid."""
        # From / on, for the user may not be allowed to be where the caller is.
        somewhere = ("env", "--chdir=/")
        if os.getuid() != 0:
            return somewhere
        return (
            "setpriv",
            f"--reuid={self.user}",
            f"--regid={self._gid()}",
            "--init-groups",
            *somewhere,
        )

    def home(self) -> Path:
        """Return the user's folder: in the stack, or in /var/lib where that is out of reach."""
        home = self.layout.home(self.service) / "own"
        if os.getuid() == 0 and (len(os.fsencode(home)) > LONGEST_HOME or not self._reaches()):
            outside = Path("/var/lib") / f"tintype-{self.layout.tag}-{self.service}"
            outside.mkdir(mode=0o755, exist_ok=True)
            if outside.is_symlink() or outside.stat().st_uid != 0:
                raise StackError(f"{outside} belongs to somebody else")
            home = outside / "own"
        make_folder(home)
        self.give(home)
        return home

    def give(self, path: Path) -> None:
        """Make a file or folder the user's, and nobody else's."""
        if os.getuid() == 0:
            shutil.chown(path, self.user, self._gid())
        path.chmod(0o700 if path.is_dir() else 0o600)

    def run(self, *command: str) -> None:
        """Run a command as the user, its output going to the service's log. Raises StackError."""
        log = self.layout.log(self.service)
        with log.open("ab") as output:
            code = subprocess.run(
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            ).returncode
        if code != 0:
            raise StackError(f"{command[0]} failed, see {log}")

    def password(self) -> str:
        """Return the password of the service's user `tintype`, drawn once."""
        path = self.layout.home(self.service) / "password"
        if not path.exists():
            write_text(path, secrets.token_hex(16))
        return path.read_text(encoding="ascii")

    def _gid(self) -> int:
        try:
            return pwd.getpwnam(self.user).pw_gid
        except KeyError:
            raise StackError(f"there is no user {self.user}: its package makes one") from None

    def _reaches(self) -> bool:
        command = [*self.prefix, "test", "-x", str(self.layout.home(self.service))]
        return subprocess.run(command, check=False).returncode == 0
