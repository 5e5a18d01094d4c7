"""Passwords in the form in which web servers and registries keep them."""

from __future__ import annotations

import subprocess

from devstack.layout import StackError


def htpasswd(user: str, password: str) -> str:
    """Return a line for an htpasswd file, in bcrypt: the only kind that a registry reads."""
    command = ["htpasswd", "-n", "-i", "-B", "-C", "5", user]
    try:
        done = subprocess.run(command, input=password, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise StackError(f"htpasswd failed: {error}") from error
    return done.stdout
