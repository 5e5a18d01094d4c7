"""`python benchmarks [NAME] [OPTION...]`: one of the benchmarks; `make bench` runs the first."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = ("snapshot", "intake", "index", "api")

name = sys.argv.pop(1) if sys.argv[1:2] and sys.argv[1] in NAMES else NAMES[0]
sys.exit(import_module(name).main())
