"""An authority of the stack's own, and a certificate by which a service on loopback is known."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from devstack.layout import Layout, StackError, make_folder
from devstack.ports import LOOPBACK

DAYS = 3650
#: Python 3.13 verifies strictly: an authority must say that it is one, and what its key is for.
AUTHORITY = (
    "basicConstraints=critical,CA:TRUE",
    "keyUsage=critical,keyCertSign,cRLSign",
    "subjectKeyIdentifier=hash",
)
SERVER = f"""\
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=IP:{LOOPBACK},DNS:localhost
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


class Certificates:
    """What a service needs to speak TLS, and its clients to believe it."""

    def __init__(self, layout: Layout, service: str) -> None:
        """Describe the files; they need not be there yet."""
        self._folder = layout.home(service) / "tls"
        self._log = layout.log(service)
        self.authority = self._folder / "authority.pem"
        self.certificate = self._folder / "server.pem"
        self.key = self._folder / "server.key"

    def make(self) -> None:
        """Make the files unless they are there; begin again if that was interrupted."""
        if self.certificate.exists():
            return
        aside = self._folder.with_suffix(".new")
        shutil.rmtree(aside, ignore_errors=True)
        make_folder(aside).chmod(0o700)
        self._sign(aside)
        shutil.rmtree(self._folder, ignore_errors=True)
        aside.rename(self._folder)

    def _sign(self, folder: Path) -> None:
        key, signed = folder / "authority.key", folder / self.authority.name
        request, extensions = folder / "request.pem", folder / "extensions"
        extensions.write_text(SERVER, encoding="ascii")
        known = [word for extension in AUTHORITY for word in ("-addext", extension)]
        new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        self._openssl(
            *new, "-x509", "-days", str(DAYS), "-subj", "/CN=Tintype's development stack",
            *known, "-keyout", key, "-out", signed,
        )  # fmt: skip
        self._openssl(
            *new, "-subj", f"/CN={LOOPBACK}", "-keyout", folder / self.key.name, "-out", request
        )
        self._openssl(
            "x509", "-req", "-in", request, "-CA", signed, "-CAkey", key, "-CAcreateserial",
            "-days", str(DAYS), "-extfile", extensions, "-out", folder / self.certificate.name,
        )  # fmt: skip

    def _openssl(self, *words: str | Path) -> None:
        with self._log.open("ab") as log:
            code = subprocess.run(
                ["openssl", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            ).returncode
        if code != 0:
            raise StackError(f"openssl failed, see {self._log}")
