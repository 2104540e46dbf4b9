"""`torchrun -m drb.plan`: see `drb.plan.command`."""

import sys

from drb.plan.command import main

sys.exit(main(sys.argv[1:]))
