"""What one's own admission policy or proportions return is checked: a wrong slot or weight ends in one line."""

from __future__ import annotations

import numpy as np
import pytest
from samples import minibatch_of

from drb import Rehearsal
from drb.buffer.admission import Decision
from drb.buffer.admission.fifo import Fifo
from drb.sampling.proportions.uniform import Uniform


class Own(Fifo):
    """Slots as `change` makes them from first in, first out."""

    change = staticmethod(lambda decision: decision)

    def admit(self, columns, offer):
        return self.change(super().admit(columns, offer))


class OwnShares(Uniform):
    """Groups as `change` makes them from the uniform ones."""

    change = staticmethod(lambda cells, weights: (cells, weights))

    def groups(self, counts_WS, offered_W):
        return self.change(*super().groups(counts_WS, offered_W))


def rehearse(**variants):
    with Rehearsal(capacity=6, exemplars=2, verbose=False, **variants) as rehearsal:
        for step in range(4):
            rehearsal.extend(minibatch_of(range(4 * step, 4 * step + 4)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: Decision(d.rows, np.full_like(d.slots, d.slots[0])), "must give each row a slot of its own"),
        (lambda d: Decision(d.rows, d.slots + 6), "slots from 0 to 5"),
        (lambda d: Decision(d.rows, d.slots[::-1].copy()), "must fill free slots in order from slot 0"),
        (lambda d: Decision(d.rows, d.slots.astype(float)), "slots as an int64 array"),
        (lambda d: Decision(d.rows[:1], d.slots), "a slot for each row"),
        (lambda d: Decision(d.rows[::-1].copy(), d.slots), "ascending rows"),
        (lambda d: list(d.slots), "must return a Decision, got list"),
    ],
)
def test_a_decision_that_cannot_be_carried_out_is_refused(monkeypatch, change, said):
    monkeypatch.setattr(Own, "change", staticmethod(change))
    with pytest.raises(ValueError, match=said):
        rehearse(admission=Own())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda cells, weights: (cells[0], weights), r"cells as int64 \[G, C\], got int64 \[1\]"),
        (lambda cells, weights: (cells, np.array([1.0, 2.0])), "a weight for each of its 1 groups"),
        (lambda cells, weights: (cells, -weights), "weights of at least 0, not all 0"),
        (lambda cells, weights: (cells, weights * np.nan), "weights of at least 0, not all 0"),
        (lambda cells, weights: (cells * 3, weights), "must divide the 4 stored exemplars"),
        (lambda cells, weights: cells, r"must return \(cells, weights\), got ndarray"),
    ],
)
def test_shares_that_cannot_be_drawn_from_are_refused(monkeypatch, change, said):
    monkeypatch.setattr(OwnShares, "change", staticmethod(change))
    with pytest.raises(ValueError, match=said):
        rehearse(proportions=OwnShares())


def test_sound_ones_are_used():
    rehearse(admission=Own(), proportions=OwnShares())


def test_a_stratum_that_no_field_has_is_refused():
    with pytest.raises(ValueError, match="stratum='lable' names no field of the minibatch"):
        rehearse(stratum="lable")
