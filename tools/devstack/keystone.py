"""Keystone: tokens, and the projects and users that the tests act as."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
from pathlib import Path

from devstack.identity import Identity
from devstack.layout import read_json, write_json, write_text
from devstack.ports import LOOPBACK, port
from devstack.wsgi import WsgiService, ini

#: user -> project, roles. `tintype` has what it needs: the role `tintype`, which Glance's policy
#: takes for an admin's and nothing else does, and `service`, which may have others' tokens checked.
USERS = {
    "tintype": ("service", ("tintype", "service")),
    "glance": ("service", ("service",)),
    "alice": ("alpha", ("member",)),
    "bob": ("beta", ("member",)),
    "carol": ("alpha", ("reader",)),
}
#: What the tests call those whom they act as.
PEOPLE = {
    "ADMIN": "admin",
    "SERVICE": "tintype",
    "ALICE": "alice",
    "BOB": "bob",
    "CAROL": "carol",
}
#: Users that see everything: Glance has to, to find quotas.
SYSTEM_READERS = ("glance",)
#: Default quota, in images or MiB, of all that Glance may limit: more than any test needs.
QUOTA = 1_000_000
QUOTAS = ("image_count_total", "image_count_uploading", "image_size_total", "image_stage_total")
REGION = "RegionOne"


class Keystone(WsgiService):
    """Keystone on SQLite."""

    name = "keystone"
    ports = ("keystone",)
    application = "keystone.wsgi.api:application"
    config_variable = "OS_KEYSTONE_CONFIG_DIR"

    @property
    def url(self) -> str:
        """Return the URL that clients authenticate at."""
        return f"http://{LOOPBACK}:{self.port()}/v3"

    def password(self, user: str) -> str:
        """Return the password of a seeded user."""
        return str(read_json(self.home / "data" / "passwords.json")[user])

    def make_data(self, data: Path) -> None:
        """Choose the passwords, make tables and keys, and the administrator."""
        self._configure()
        self._choose_passwords()
        user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
        owner = (f"--keystone-user={user}", f"--keystone-group={group}")
        for step in (
            ("db_sync",),
            ("fernet_setup", *owner),
            ("credential_setup", *owner),
            (
                "bootstrap",
                f"--bootstrap-password={self.password('admin')}",
                f"--bootstrap-region-id={REGION}",
            ),
        ):
            self.manage("keystone-manage", f"--config-dir={self.home / 'etc'}", *step)

    def start(self) -> None:
        """Start Keystone unless it runs, and seed it unless that was done."""
        self._configure()
        self._choose_passwords()
        super().start()
        image_url = f"http://{LOOPBACK}:{port(self.layout, 'glance')}"
        users = {user: [project, *roles] for user, (project, roles) in USERS.items()}
        wanted = {
            "identity": self.url,
            "image": image_url,
            "users": users,
            "system_readers": list(SYSTEM_READERS),
            "quotas": dict.fromkeys(QUOTAS, QUOTA),
        }
        stamp = self.home / "data" / "seeded.json"
        if read_json(stamp) != wanted:
            self._seed({"identity": self.url, "image": image_url})
            write_json(stamp, wanted)

    def env(self) -> dict[str, str]:
        """Return the URL, and name, password and project of each user."""
        found = {"TINTYPE_TEST_KEYSTONE_URL": self.url}
        for prefix, user in PEOPLE.items():
            project = USERS[user][0] if user in USERS else "admin"
            found[f"TINTYPE_TEST_{prefix}_USER"] = user
            found[f"TINTYPE_TEST_{prefix}_PASSWORD"] = self.password(user)
            found[f"TINTYPE_TEST_{prefix}_PROJECT"] = project
        return found

    def where(self) -> str:
        """Return the URL that clients authenticate at."""
        return self.url

    def _seed(self, catalogue: dict[str, str]) -> None:
        """Make projects, users, roles and the catalogue; what is there is brought up to date."""
        identity = Identity(self.port(), self.password("admin"))
        names = sorted({project for project, _ in USERS.values()})
        projects = {name: identity.ensure("project", {"name": name}) for name in names}
        for user, (project, roles) in USERS.items():
            user_id = identity.ensure("user", {"name": user}, password=self.password(user))
            identity.set_roles(user_id, f"projects/{projects[project]}", roles)
            identity.set_roles(user_id, "system", ["reader"] if user in SYSTEM_READERS else [])
        for kind, url in catalogue.items():
            name = {"identity": "keystone", "image": "glance"}[kind]
            service = identity.ensure("service", {"type": kind, "name": name})
            for interface in ("public", "internal", "admin"):
                match = {"service_id": service, "interface": interface}
                identity.ensure("endpoint", match, url=url, region_id=REGION)
            if kind == "image":
                for resource in QUOTAS:
                    identity.limit(service, REGION, resource, QUOTA)

    def _choose_passwords(self) -> None:
        """Choose passwords for the users who have none yet."""
        path = self.home / "data" / "passwords.json"
        known = read_json(path)
        fresh = {user: secrets.token_urlsafe(16) for user in ("admin", *USERS)}
        write_json(path, fresh | known)

    def _configure(self) -> None:
        data = self.home / "data"
        text = ini(
            {
                "DEFAULT": {"use_stderr": True, "debug": False},
                "database": {"connection": f"sqlite:///{data}/keystone.db"},
                "token": {"provider": "fernet"},
                "fernet_tokens": {"key_repository": data / "fernet-keys"},
                "credential": {"key_repository": data / "credential-keys"},
                # The least bcrypt knows: every token costs one hash, and these are tests.
                "identity": {"password_hash_rounds": 4},
            }
        )
        write_text(self.home / "etc" / "keystone.conf", text)
