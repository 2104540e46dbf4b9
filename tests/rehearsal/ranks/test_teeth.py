"""Tests of the tests: the statistics and the row check must fail when the thing they check is broken on purpose."""

from __future__ import annotations

import mmap
import os
import time

import numpy as np
import pytest
from ranks import run_ranks
from rehearsal.ranks.checks import SMALLEST_P, independence_p, uniformity_p
from rehearsal.ranks.streams import num_wrong, records
from rehearsal.ranks.test_unbiased import OCCUPANCIES, ROUNDS, R, draw_rounds

from drb import Rehearsal
from drb.buffer.admission import build_admission
from drb.buffer.editing import EditableBuffer
from drb.exchange import SharedExchange
from drb.rehearsal.build_parts import PartsFactory
from drb.sampling.sampler import Draw, Sampler

UNEVEN = OCCUPANCIES["three uneven ranks"]
UNION = sorted(i for ids in UNEVEN for i in ids)


class SlotModuloCount(Sampler):
    """A rank at random, then a random slot of the largest buffer, modulo what the rank holds."""

    def draw(self, round_, counts_WS, *others):
        rng, counts = self._rng.at(round_), counts_WS.sum(axis=1)
        if not counts.all():
            return super().draw(round_, counts_WS, *others)
        chosen: set[tuple[int, int]] = set()
        while len(chosen) < self.exemplars:
            owner = int(rng.integers(len(counts)))
            chosen.add((owner, int(rng.integers(counts.max())) % int(counts[owner])))
        owner, position = np.array(sorted(chosen)).T
        return Draw(owner, position, np.ones(len(owner)))


class SharedGenerator(Sampler):
    def __init__(self, *args, rank, **kwargs):
        super().__init__(*args, rank=0, **kwargs)


def draw_rounds_with(rank, world_size, sampler_class, rounds):
    class Samplers(PartsFactory):
        def sampler(self, settings, exemplars, proportions, rank):
            return sampler_class(exemplars, proportions, seed=settings.seed, rank=rank)

    Rehearsal._factory = Samplers()
    return draw_rounds(rank, world_size, UNEVEN, rounds, {"exchange": "shared"})


def test_uniformity_check_catches_slot_modulo_count():
    results = run_ranks(draw_rounds_with, 3, SlotModuloCount, ROUNDS)
    assert uniformity_p([draw for draws, _ in results for draw in draws], UNION) < SMALLEST_P


def test_independence_check_catches_a_generator_shared_by_all_ranks():
    results = run_ranks(draw_rounds_with, 3, SharedGenerator, 100)
    assert independence_p(results[0][0], results[1][0], len(UNION)) < SMALLEST_P


def test_uniformity_check_catches_draws_that_are_too_even():
    in_turn = [[(R * t + k) % len(UNION) for k in range(R)] for t in range(700)]
    assert uniformity_p(in_turn, list(range(len(UNION)))) < SMALLEST_P


class SlowReader(SharedExchange):
    """Looks up which rows to read, dawdles, then reads: the barrier must keep its peers from reusing them."""

    def fetch(self, owners, positions, out):
        rows = self.locate(owners, positions)
        time.sleep(0.001 * (1 + 2 * self._peers.rank))
        np.take(self._all_rows, rows, axis=0, out=out, mode="clip")


class SlowWriter(EditableBuffer):
    """Dawdles with its rows half written."""

    def _write_headers(self, offer, decision, where):
        super()._write_headers(offer, decision, where)
        time.sleep(0.003)  # the fields come after it


class NoBarrier(SlowReader):
    """Learns its peers' sizes and tables by looking, without waiting for them."""

    board_path = ""

    def gather_counts(self, message):
        if not hasattr(self, "_unsafe_board"):
            width = len(message) + 1
            with open(self.board_path, "r+b") as file:
                memory = mmap.mmap(file.fileno(), 8 * width * self._peers.world_size)
            self._unsafe_board = np.frombuffer(memory, np.int64).reshape(-1, width)
            super().gather_counts(message)  # one barrier, so that every rank has a buffer
        self._unsafe_board[self._peers.rank] = np.append(message, self.table)
        seen = self._unsafe_board.copy()
        self.tables_of_all = seen[:, -1]
        seen[:, 1] = message[1]  # rounds differ now; that is not what is tested
        return seen[:, :-1]


WORDS = 32


def count_wrong_rows(rank, world_size, barrier, board_path, rounds):
    """Every step overwrites the whole buffer while peers read it; ranks run at different speeds."""
    NoBarrier.board_path = board_path

    class Slow(PartsFactory):
        def exchange(self, kind, peers, nodes, sizes):
            shared = SlowReader if barrier else NoBarrier
            return shared(peers, sizes.rows, sizes.capacities, sizes.words)

        def buffer(self, settings, spec, capacity, rows, rank):
            return SlowWriter(spec, capacity, rows, build_admission("fifo", candidates=None, seed=1, rank=rank))

    Rehearsal._factory = Slow()
    wrong, batch_size = 0, 8
    options = {"admission": "fifo", "exchange": "shared", "asynchronous": True, "verbose": False}
    rehearsal = Rehearsal(capacity=8, exemplars=7, seed=1, **options)
    for t in range(rounds):
        ids = (np.arange(batch_size) + t * batch_size) * world_size + rank
        wrong += num_wrong(rehearsal.extend(records(ids, WORDS)), WORDS)
    if barrier:
        rehearsal.close()
    return wrong


@pytest.mark.parametrize("barrier", [True, False])
def test_rows_are_never_torn_thanks_to_the_barrier(barrier, tmp_path):
    board = tmp_path / "board"
    board.write_bytes(b"\0" * 4096)
    wrong = sum(run_ranks(count_wrong_rows, 3, barrier, os.fspath(board), 100))
    assert (wrong == 0) == barrier
