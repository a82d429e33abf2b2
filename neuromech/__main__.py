"""`python -m neuromech` is the command line."""

import sys

from neuromech.cli import main

sys.exit(main())
