"""Experience replay (Chaudhry et al. 2019, arXiv 1902.10486): one forward on the minibatch and the exemplars, the mean
cross-entropy over both.
"""

from __future__ import annotations

from typing import ClassVar

from drb.training.strategies.finetune import Finetune


class ExperienceReplay(Finetune):
    """Cross-entropy on the extended minibatch: the rehearsed rows count like the new ones."""

    uses_rehearsal: ClassVar[bool] = True
