"""What WSGI servers load: `gunicorn tintype.wsgi:application`, `uwsgi --module tintype.wsgi`.

OS_TINTYPE_CONFIG_FILES names the configuration files, parted by semicolons; without it oslo.config
looks in its usual places (/etc/tintype/tintype.conf).
"""

import logging
import os
import sys

from tintype.api import make_application
from tintype.config import ConfigError, find_files, load, load_for_oslo

logging.basicConfig(
    level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
)
logging.getLogger("alembic").setLevel(logging.WARNING)
_files = find_files(os.environ.get("OS_TINTYPE_CONFIG_FILES"))
try:
    application = make_application(load(_files), load_for_oslo(_files))
except ConfigError as error:
    sys.exit(f"tintype.wsgi: {error}")
