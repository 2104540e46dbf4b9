"""The training program from a checkout, installed or not: torchrun --nproc-per-node=N launch/train.py key=value"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from drb.train import main

if __name__ == "__main__":
    sys.exit(main())
