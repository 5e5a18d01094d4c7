"""`python -m tintype`: the same as the command `tintype`."""

import sys

from tintype.cli import main

sys.exit(main())
