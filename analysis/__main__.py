"""`python -m analysis`: build the figures and tables that the rows allow."""

import sys

from analysis.cli import main

sys.exit(main())
