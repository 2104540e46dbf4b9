"""`python -m drb` is the `drb` command."""

import sys

from drb.cli import main

if __name__ == "__main__":
    sys.exit(main())
