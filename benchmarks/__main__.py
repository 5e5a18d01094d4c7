"""`python benchmarks`: the snapshot benchmark, which is what `make bench` runs."""

from __future__ import annotations

import sys

from snapshot import main

sys.exit(main())
