"""Experience replay (Chaudhry et al. 2019, arXiv 1902.10486): one forward on the minibatch and the exemplars, the mean
loss over both.
"""

from __future__ import annotations

from drb.training.method.needs import Needs
from drb.training.strategies.strategy import Strategy


class ExperienceReplay(Strategy):
    """The mean loss on the extended minibatch: the rehearsed rows count like the new ones."""

    name = "er"

    def needs(self) -> Needs:
        return Needs(exemplars="joined")
