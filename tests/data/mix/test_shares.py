"""Integer shares: every prefix of every source within a sample of its share."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drb.data.mix.shares import LONGEST_PERIOD, integer_shares, most_owed, period

proportions = st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any)


def one_after_the_other(shares):
    """Tijdeman's rule as it is written, a sample at a time."""
    total, served = sum(shares), [source for source, share in enumerate(shares) if share]
    if len(served) == 1:
        return served * total
    slack, owed, turns = 2 * len(served) - 2, [0] * len(shares), []
    for _ in range(total):
        owed = [debt + share for debt, share in zip(owed, shares, strict=True)]
        candidates = [source for source in served if owed[source] * slack >= total]
        # how many further samples it can wait before more than 1 - 1/slack is owed, in whole samples
        deadline = {s: (total * (slack - 1) - owed[s] * slack) // (slack * shares[s]) for s in candidates}
        turn = min(candidates, key=lambda source: (deadline[source], source))
        owed[turn] -= total
        turns.append(turn)
    assert owed == [0] * len(shares)
    return turns


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(proportions)
def test_a_period_is_that_of_the_rule_and_never_a_sample_off(proportion):
    shares = tuple(integer_shares({str(i): share for i, share in enumerate(proportion)}).values())
    total, positions = sum(shares), period(shares)
    assert sorted(np.concatenate(positions).tolist()) == list(range(total))
    turns = np.empty(total, int)
    for source, places in enumerate(positions):
        assert len(places) == shares[source]
        turns[places] = source
    assert turns.tolist() == one_after_the_other(shares)
    served = sum(share > 0 for share in shares)
    bound = Fraction(1) - Fraction(1, 2 * served - 2) if served > 1 else Fraction(0)
    for source, share in enumerate(shares):
        counts = np.cumsum(turns == source).tolist()
        errors = [abs(Fraction(t * share, total) - count) for t, count in enumerate(counts, 1)]
        assert max(errors) <= bound
        for length in (0, 1, total // 2, total):
            assert most_owed(positions[source], share, total, length) == float(max([*errors[:length], Fraction(0)]))


def test_shares_may_be_fractions_that_sum_to_one():
    assert integer_shares({"new": 0.7, "base": 0.3}) == {"new": 7, "base": 3}
    assert integer_shares({"new": 100_000, "base": 50_000, "off": 0}) == {"new": 2, "base": 1, "off": 0}
    assert integer_shares({"only": 1.0}) == {"only": 1}
    assert integer_shares({"new": 99_991 / 199_994, "base": 100_003 / 199_994}) == {"new": 99_991, "base": 100_003}
    assert integer_shares({"new": 0.333, "base": 0.667}) == {"new": 333, "base": 667}


@pytest.mark.parametrize("counts", [(1, 2), (1, 1, 1), (1,) * 7, (1,) * 6, (3, 5, 7), (61, 103), (1, 0, 2)])
@pytest.mark.parametrize("kind", [float, np.float64, np.float32, Fraction])
def test_fractions_are_those_that_were_divided(counts, kind):
    shares = {str(i): kind(Fraction(count, sum(counts))) for i, count in enumerate(counts)}
    assert integer_shares(shares) == {str(i): count for i, count in enumerate(counts)}


def test_numbers_of_numpy_are_shares():
    assert integer_shares({"new": np.int64(6), "base": np.uint8(2)}) == {"new": 3, "base": 1}
    assert integer_shares({"new": np.float32(0.7), "base": np.float32(0.3)}) == {"new": 7, "base": 3}
    assert all(type(share) is int for share in integer_shares({"new": np.int64(3), "base": np.float32(1)}).values())


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"new": 1.2, "base": 0.3}, "sum to 1, got new=1.2, base=0.3, which sum to 1.5"),
        ({"new": 0.3333333333, "base": 0.6666666666}, "which sum to 1 - 1e-10; mend them"),
        ({"new": np.float32(-1)}, "must be a number of at least 0"),
        ({"new": "3"}, "must be a number of at least 0, got '3'"),
        ({"new": -1}, "'new' must be a number of at least 0, got -1"),
        ({"new": float("nan")}, "got nan"),
        ({"new": True}, "got True"),
        ({"new": 0}, "at least one source needs a share above 0, got new=0"),
        ({"new": LONGEST_PERIOD, "base": 1}, f"repeat after {LONGEST_PERIOD + 1} samples"),
        ({str(i): 1 for i in range(300)}, "at most 256 sources"),
    ],
)
def test_shares_that_make_no_mix_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        integer_shares(shares)
