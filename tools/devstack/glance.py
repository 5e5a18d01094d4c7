"""Glance: images in a folder, with Keystone in front."""

from __future__ import annotations

import shlex
from pathlib import Path

from devstack.keystone import REGION, Keystone
from devstack.layout import make_folder, write_text
from devstack.ports import LOOPBACK
from devstack.wsgi import WsgiService, ini

#: Who is an admin to Glance, and to Glance alone: see docs/credentials.md.
POLICY = """\
"context_is_admin": "role:admin or role:tintype"
"""


class Glance(WsgiService):
    """Glance on SQLite and a file store."""

    name = "glance"
    needs = ("keystone",)
    ports = ("glance",)
    application = "glance.wsgi.api:application"
    config_variable = "OS_GLANCE_CONFIG_DIR"

    def make_data(self, data: Path) -> None:
        """Make the tables and the folders of the stores."""
        for folder in ("images", "staging", "tasks"):
            make_folder(data / folder)
        config = self.home / "db.conf"
        write_text(config, ini({"database": self._database()}))
        self.manage("glance-manage", f"--config-file={config}", "db_sync")

    def start(self) -> None:
        """Start Glance unless it runs; restart it when its configuration is another one."""
        write_text(self._limited / "glance-api.conf", ini(self._sections() | self._limits()))
        changed = write_text(self.home / "etc" / "glance-api.conf", ini(self._sections()))
        if write_text(self.home / "etc" / "policy.yaml", POLICY) or changed:
            self.stop()
        super().start()

    def env(self) -> dict[str, str]:
        """Return Glance's URL, and the command that starts another one, which minds quotas.

        The command wants a `--bind=ADDRESS:PORT` and stays in the foreground. That Glance has the
        database and the images of this one, and asks Keystone about a token each time it comes.
        """
        where = f"{self.config_variable}={self._limited}", f"HOME={self.home}"
        limited = ["env", *where, str(self.venv / "bin" / "gunicorn"), f"--config={self._settings}"]
        return {
            "TINTYPE_TEST_GLANCE_URL": self.where(),
            "TINTYPE_TEST_LIMITED_GLANCE": shlex.join(limited),
        }

    def where(self) -> str:
        """Return Glance's URL."""
        return f"http://{LOOPBACK}:{self.port()}"

    def _database(self) -> dict[str, object]:
        # Under a crowd a writer waits longer than the 5 seconds that are sqlite3's own.
        return {"connection": f"sqlite:///{self.home}/data/glance.db?timeout=60"}

    @property
    def _limited(self) -> Path:
        return self.home / "limited"

    def _limits(self) -> dict[str, dict[str, object]]:
        """Return what differs in a Glance that minds quotas, which costs 0.4 s for each check."""
        sections, region = self._sections(), {"region_name": REGION, "endpoint_region_name": REGION}
        authtoken = sections["keystone_authtoken"]
        login = ("auth_url", "auth_type", "username", "password", "user_domain_id")
        return {
            "DEFAULT": {**sections["DEFAULT"], "use_keystone_limits": True},
            "keystone_authtoken": {**authtoken, "token_cache_time": -1},
            "oslo_limit": {
                **{name: authtoken[name] for name in login},
                **region,
                "system_scope": "all",
                "endpoint_service_type": "image",
            },
        }

    def _sections(self) -> dict[str, dict[str, object]]:
        keystone, data = Keystone(self.layout), self.home / "data"
        paste = self.venv / "etc" / "glance" / "glance-api-paste.ini"
        return {
            "DEFAULT": {
                "enabled_backends": "fs:file",
                "use_stderr": True,
                "worker_self_reference_url": self.where(),
            },
            "database": self._database(),
            "fs": {"filesystem_store_datadir": data / "images"},
            "glance_store": {"default_backend": "fs"},
            "image_format": {"container_formats": "bare,docker"},
            "keystone_authtoken": {
                "www_authenticate_uri": keystone.url,
                "auth_url": keystone.url,
                "auth_type": "password",
                "username": "glance",
                "password": keystone.password("glance"),
                "project_name": "service",
                "user_domain_id": "default",
                "project_domain_id": "default",
                "service_token_roles": "service",
                "service_token_roles_required": True,
            },
            "oslo_policy": {"policy_file": self.home / "etc" / "policy.yaml"},
            "os_glance_staging_store": {"filesystem_store_datadir": data / "staging"},
            "os_glance_tasks_store": {"filesystem_store_datadir": data / "tasks"},
            "paste_deploy": {"flavor": "keystone", "config_file": paste},
        }
