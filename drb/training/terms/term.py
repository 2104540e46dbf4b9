"""A term is what is added to a strategy: to its loss, to its gradient, to what is remembered or evaluated."""

from __future__ import annotations

from drb.training.method.hooks import Hooks


class Term(Hooks):
    """Composes with any strategy and with other terms, in the order in which they are listed."""
