"""Incremental training on each task's own data and nothing against forgetting: the lower bound."""

from __future__ import annotations

from drb.training.strategies.strategy import Strategy


class Finetune(Strategy):
    """The mean loss on the minibatch."""

    name = "finetune"
