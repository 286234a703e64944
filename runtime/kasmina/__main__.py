"""`python -m kasmina` is the `kasmina` command."""

import sys

from kasmina.cli import main

sys.exit(main())
