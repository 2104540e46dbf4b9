"""What can be added to a strategy, one term per file."""

from drb.training.terms.term import Term

__all__ = ["Term"]
