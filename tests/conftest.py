"""What all tests share: the fixtures for the real parts, one file for each.

The development stack says in `.stack/env.json` where its parts are; the environment overrides it.
"""

import json
import os
from pathlib import Path

import tintype.adapters  # noqa: F401 - chooses oslo.service's backend before oslo.messaging comes

pytest_plugins = [
    "tests.support.databases",
    "tests.support.docker",
    "tests.support.newer_docker",
    "tests.support.openstack",
    "tests.support.rabbit",
    "tests.support.registry",
    "tests.support.agent",  # these last, for they import from the others
    "tests.support.fleet",
    "tests.support.rest",
]

_STACK = Path(os.environ.get("TINTYPE_STACK_DIR") or Path(__file__).parents[1] / ".stack")
if (_STACK / "env.json").exists():
    for _name, _value in json.loads((_STACK / "env.json").read_text()).items():
        os.environ.setdefault(_name, _value)
