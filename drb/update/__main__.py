"""`torchrun -m drb.update`: see `drb.update`."""

import sys

from drb.update.command import main

sys.exit(main())
