"""What proportions that learn from feedback draw: the shares that their formulas give, computed here by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from drb.sampling.feedback import Feedback
from drb.sampling.proportions import PROPORTIONS
from drb.sampling.sampler import Sampler

R, ROUNDS, PERIOD = 7, 800, 10
COUNTS_WS = np.array([[30, 0, 11, 5], [2, 60, 0, 9], [0, 15, 40, 0]])  # ranks hold unequal numbers
STRATA, SIZES = np.array([0, 1, 2, 7]), COUNTS_WS.sum(axis=0)  # nothing is ever known of stratum 7
ROWS = np.array([10, 40, 20])
LOSSES = np.array([[0.5, 1.5, 3.0], [1.25, 0.75, 3.5]])  # means over the rows of two rounds
RIGHT = np.array([[9, 10, 15], [4, 20, 19]])


def with_floor(weights: np.ndarray, floor: float) -> np.ndarray:
    return (1 - floor) * weights / weights.sum() + floor * SIZES / SIZES.sum()


def known(values: np.ndarray) -> np.ndarray:
    """With that of stratum 7: the mean of the others."""
    return np.append(values, values.mean())


def drifted(memory: float) -> np.ndarray:
    return LOSSES[0] + (1 - memory**ROWS) * (LOSSES[1] - LOSSES[0])


def mix_cd() -> np.ndarray:
    shown, damaged = (
        1.5 * ROWS,
        0.5 * (ROWS - RIGHT[0]) + ROWS - RIGHT[1],
    )  # of 70 rows, older ones count half
    return SIZES * (np.append(damaged, 0) + 0.5) / (np.append(shown, 0) + 5)


def loss_aware() -> np.ndarray:
    return with_floor(SIZES * known(drifted(0.95)), 0.2)


def adaptive() -> np.ndarray:
    first = LOSSES[0] + [0.5 * (LOSSES[1, 0] - LOSSES[0, 0]), 0, 0]  # of stratum 0 the first 20 rows came in two rounds
    return with_floor(SIZES * np.exp(known(drifted(0.95) - first) / 0.5), 0.2)


def grasp() -> np.ndarray:
    order = np.argsort(known(drifted(0.95)))
    ends = SIZES[order].cumsum()
    place = np.empty(4)
    place[order] = (ends - SIZES[order] / 2) / SIZES.sum()
    return with_floor(SIZES * np.exp(-0.5 * ((place - 0.7) / 0.5) ** 2), 0.2)


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        (mix_cd, {}),
        (loss_aware, {"memory": 0.95, "floor": 0.2}),
        (adaptive, {"memory": 0.95, "floor": 0.2, "temperature": 0.5}),
        (grasp, {"memory": 0.95, "floor": 0.2, "steps": PERIOD, "width": 0.5}),
    ],
)
def test_strata_and_ranks_get_the_shares_of_the_formula(expected: Any, options: dict[str, Any]) -> None:
    proportions = PROPORTIONS.build(expected.__name__, options)
    sampler, offered = Sampler(R, proportions, seed=1, rank=2), COUNTS_WS.sum(axis=1)
    sampler.draw(0, COUNTS_WS, offered, 0, STRATA)  # from now on all strata are known
    for loss, right in zip(LOSSES, RIGHT, strict=True):
        proportions.observe(Feedback(STRATA[:3], ROWS, loss * ROWS, right))
    drawn = np.zeros_like(COUNTS_WS)
    for number in range(ROUNDS):
        draw = sampler.draw(7 + number * PERIOD, COUNTS_WS, offered, 0, STRATA)
        assert draw.stratum is not None
        np.add.at(drawn, (draw.owner, STRATA.searchsorted(draw.stratum)), 1)
    shares = R * expected() / expected().sum()
    assert (shares < SIZES).all()
    assert np.abs(drawn.sum(axis=0) / ROUNDS - shares).max() < 4 * np.sqrt(0.25 / ROUNDS)
    cells = COUNTS_WS / SIZES * shares
    assert (np.abs(drawn / ROUNDS - cells) <= 4.5 * np.sqrt(cells / ROUNDS)).all()
