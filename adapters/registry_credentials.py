"""Who Tintype is to a registry: the operator's word, or Docker's own configuration.

`config.json` is read by the Docker SDK, each time that a registry asks, so that a login counts at
once. The programs that keep secrets for it (`credsStore`, `credHelpers`) are run here: one that
waits for a user who is not there must be ended, and the SDK would wait with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker.errors
from docker.auth import AuthConfig

from tintype.adapters.registry_access import RegistryAccess
from tintype.core.errors import Refused, Unavailable
from tintype.core.reference import DOCKER_HUB

HELPER_SECONDS = 30.0
"""How long a program that keeps secrets may take."""

_FILE = "config.json"
_PROGRAM = "docker-credential-"
_HUB = "https://index.docker.io/v1/"
"""What Docker Hub is called there."""
_NOTHING = b"credentials not found in native keychain"
"""What such a program says of a registry that it does not know (docker-credential-helpers)."""
_BY_TOKEN = "<token>"  # noqa: S105 - no secret, but what is said where the secret is another
"""Its name for the user where the secret is an identity token."""
_ERRORS = (
    docker.errors.DockerException,
    subprocess.SubprocessError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)
"""What a configuration or a program raises that is not as it should be."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a secret; never shown."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token, which the token service takes in place of name and password."""


def credentials_for(
    domain: str, access: RegistryAccess, helper_seconds: float = HELPER_SECONDS
) -> Credentials | None:
    """Return what to tell a registry; None: nothing, it is visited anonymously.

    Raises Refused for a configuration that cannot be read, Unavailable where a program that keeps
    secrets does not answer in time.
    """
    if access.username and access.home and access.home.domain == domain:
        return Credentials(access.username, access.password or "")
    path = _path(access.docker_config)
    document = _document(path)
    if not document:
        return None
    server = _HUB if domain == DOCKER_HUB else domain
    try:
        known = AuthConfig.load_config(None, document)
        program = known.get_credential_store(server)
        kept = _kept(program, server, helper_seconds) if program else None
        logins = AuthConfig({"auths": known.auths})
        return kept or _credentials(logins.resolve_authconfig(server))
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"{_PROGRAM}{program} does not tell the credentials for registry {domain} within"
            f" {helper_seconds:g} s: see [registry] docker_config"
        ) from None
    except _ERRORS as error:
        # Not what the error says: it may quote what a program printed.
        raise Refused(
            f"the credentials for registry {domain} cannot be had from {path}"
            f" ({type(error).__name__}): see [registry] docker_config"
        ) from None


def _kept(program: str, server: str, seconds: float) -> Credentials | None:
    """Return what a program keeps for a registry; None: nothing."""
    text = _asked(program, server, seconds)
    if text is None:
        return None
    found = json.loads(text)
    username, secret = found["Username"], found["Secret"]
    if username == _BY_TOKEN:
        return Credentials(identity_token=secret)
    return Credentials(username, secret) if username else None


def _asked(program: str, server: str, seconds: float) -> bytes | None:
    """Return what the program prints; None where it knows no such server.

    One that takes too long is ended with all that it has started. Raises OSError, ValueError,
    SubprocessError.
    """
    command = [f"{_PROGRAM}{program}", "get"]
    with subprocess.Popen(  # noqa: S603 - the operator has named it, and Docker starts it too
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(server.encode(), timeout=seconds)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode == 0:
        return output
    if _NOTHING in output:
        return None
    raise subprocess.CalledProcessError(process.returncode, command)


def _path(configured: str | None) -> Path:
    place = Path(configured or os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser()
    return place / _FILE if place.is_dir() or not place.suffix else place


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"[registry] docker_config: {path} cannot be read") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(f"[registry] docker_config: {path} is not JSON") from None
    if not isinstance(document, dict):
        raise Refused(f"[registry] docker_config: {path} is not a JSON object")
    return document


def _credentials(found: dict[str, Any] | None) -> Credentials | None:
    """Read what the SDK has found among the logins."""
    if not found:
        return None
    token = found.get("IdentityToken")
    if token:
        return Credentials(identity_token=token)
    username = found.get("username")
    return Credentials(username, found.get("password") or "") if username else None
