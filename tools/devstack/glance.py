"""Glance: images in a folder, with Keystone in front."""

from __future__ import annotations

from pathlib import Path

from devstack.keystone import Keystone
from devstack.layout import make_folder, write_text
from devstack.ports import LOOPBACK
from devstack.wsgi import WsgiService, ini


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
        """Start Glance unless it runs; restart it when Keystone has moved since."""
        if write_text(self.home / "etc" / "glance-api.conf", self._configuration()):
            self.stop()
        super().start()

    def env(self) -> dict[str, str]:
        """Return Glance's URL."""
        return {"TINTYPE_TEST_GLANCE_URL": self.where()}

    def where(self) -> str:
        """Return Glance's URL."""
        return f"http://{LOOPBACK}:{self.port()}"

    def _database(self) -> dict[str, object]:
        return {"connection": f"sqlite:///{self.home}/data/glance.db"}

    def _configuration(self) -> str:
        keystone, data = Keystone(self.layout), self.home / "data"
        paste = self.venv / "etc" / "glance" / "glance-api-paste.ini"
        return ini(
            {
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
                "os_glance_staging_store": {"filesystem_store_datadir": data / "staging"},
                "os_glance_tasks_store": {"filesystem_store_datadir": data / "tasks"},
                "paste_deploy": {"flavor": "keystone", "config_file": paste},
            }
        )
