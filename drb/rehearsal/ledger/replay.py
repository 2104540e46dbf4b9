"""What a start of a run drew, computed again from the logs of its ranks.

Letters: W ranks, S strata, r exemplars of a draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from drb.rehearsal.ledger.file import RankLog
from drb.rehearsal.ledger.rank_replay import RankReplay, Table
from drb.sampling.counts import UnionCounts
from drb.sampling.proportions import PROPORTIONS
from drb.sampling.sampler import Draw, Sampler
from drb.types import Int64Array


class Replay:
    """One start of a run: the logs of all its ranks."""

    def __init__(self, logs: Sequence[RankLog]) -> None:
        self.rules = logs[0].rules
        self.tasks = logs[0].tasks
        self.ranks = [RankReplay(log, [ids for _, ids in self.tasks]) for log in logs]
        rules = self.rules
        kind = PROPORTIONS.recall(rules.proportions["name"])
        options = {name: value for name, value in rules.proportions.items() if name != "name"}
        self._proportions = PROPORTIONS.build(kind, options)
        if not self._proportions.is_logged:
            raise ValueError(
                f"the draws of proportions={rules.proportions['name']} followed from feedback or tasks, which a ledger "
                "does not hold: what was rehearsed cannot be told"
            )

    def drawn(self, step: int) -> list[Int64Array]:
        """The ids of the exemplars that each rank was given in a step of the rehearsal, int64 [draws · r] each.

        Raises:
            ValueError: the ledger lacks the step.
        """
        rules, ahead = self.rules, self.rules.depth * self.rules.interval
        used_for = step - ahead
        if used_for < 0:
            return [np.empty(0, np.int64) for _ in self.ranks]
        of_round = used_for // rules.interval * rules.interval
        places = [rank.find(of_round, step) for rank in self.ranks]
        brought = [rank.log.fetched[step] for rank in self.ranks if step in rank.log.fetched]
        known = [(rank, place) for rank, place in zip(self.ranks, places, strict=True) if place is not None]
        if len(known) == len(self.ranks):
            return self._draws(used_for, [rank.table(*place) for rank, place in known])
        if len(brought) == len(self.ranks) and not known:
            return brought
        raise ValueError(f"the ledger lacks the round that drew for step {step} of the rehearsal")

    def drawn_of(self, sample_ids: Int64Array) -> dict[int, list[int]]:
        """The steps of the rehearsal in which some rank was given these samples as exemplars, by sample id.

        It takes the draws of every step in which one of them was stored: about ten seconds for a million.
        """
        rules, ahead = self.rules, self.rules.depth * self.rules.interval
        found: dict[int, set[int]] = {}
        for step, brought in self.ranks[0].log.fetched.items():
            ids = [brought, *(rank.log.fetched[step] for rank in self.ranks[1:])]
            found[step] = set(np.intersect1d(np.concatenate(ids), sample_ids).tolist())
        for step, late, tables in self._rounds():
            is_stored = any(np.isin(sample_ids, table.ids).any() for table in tables)
            for draw_step in range(step, step + rules.interval):
                if not late or draw_step + ahead >= step + late:
                    drawn = np.concatenate(self._draws(draw_step, tables)) if is_stored else sample_ids[:0]
                    found[draw_step + ahead] = set(np.intersect1d(drawn, sample_ids).tolist())
        steps: dict[int, list[int]] = {each: [] for each in sample_ids.tolist()}
        for step in sorted(found):
            for each in found[step]:
                steps[each].append(step)
        return steps

    def counts_of_draws(self, steps: int) -> tuple[Int64Array, Int64Array]:
        """The exemplars that all ranks were given in steps 0 … steps - 1 of the rehearsal, and how many were asked for.

        int64 [steps] each.
        """
        rules, ahead = self.rules, self.rules.depth * self.rules.interval
        given, asked = np.zeros((2, steps + ahead + rules.interval), np.int64)
        for step in self.ranks[0].log.fetched:
            if step < len(given):
                given[step] = asked[step] = sum(len(rank.log.fetched[step]) for rank in self.ranks)
        sizes = [rank.sizes() for rank in self.ranks]
        rounds = min(map(len, sizes))
        step, late, exemplars, _ = sizes[0][:rounds].T
        union = np.sum([of_rank[:rounds, 3] for of_rank in sizes], axis=0)
        drawn = np.where(union >= max(rules.min_fill, 1), np.minimum(exemplars, union), 0)
        times = len(self.ranks) * rules.draws
        used_in = step[:, None] + np.arange(rules.interval) + ahead
        counts = (late == 0)[:, None] | (used_in >= (step + late)[:, None])
        counts &= used_in < len(given)
        for amounts, of_round in ((given, drawn), (asked, exemplars)):  # of a round that was run again the last counts
            amounts[used_in[counts]] = np.broadcast_to(times * of_round[:, None], used_in.shape)[counts]
        return given[:steps], asked[:steps]

    def _rounds(self) -> Iterator[tuple[int, int, list[Table]]]:
        """Every round, and what all ranks published in it."""
        for of_ranks in zip(*(rank.rounds() for rank in self.ranks), strict=False):
            step, late, _ = of_ranks[0]
            if any(each[:2] != (step, late) for each in of_ranks):
                raise ValueError(f"the ledger is damaged: the ranks' logs differ at step {step} of the rehearsal")
            yield step, late, [table for _, _, table in of_ranks]

    def _draws(self, step: int, tables: Sequence[Table]) -> list[Int64Array]:
        """The ids that each rank draws for a step from these tables."""
        rules = self.rules
        (counts, strata), offered = self._counts(tables), np.array([table.offered for table in tables])
        by_position = [table.by_position(by_stratum=rules.by_stratum) for table in tables]
        drawn = []
        for rank, table in enumerate(tables):
            sampler = Sampler(table.exemplars, self._proportions, seed=rules.seed, rank=rank, min_fill=rules.min_fill)
            draw = Draw.join([sampler.draw(step, counts, offered, index, strata) for index in range(rules.draws)])
            ids = np.empty(len(draw), np.int64)
            for owner in np.unique(draw.owner):  # ranks, not samples
                own = draw.owner == owner
                ids[own] = by_position[owner][draw.position[own]]
            drawn.append(ids)
        return drawn

    def _counts(self, tables: Sequence[Table]) -> tuple[Int64Array, Int64Array | None]:
        """Exemplars per rank and stratum, int64 [W, S], as the ranks had told one another; the strata, None for one."""
        if not self.rules.by_stratum:
            return np.array([[len(table.ids)] for table in tables]), None
        union = UnionCounts(len(tables))
        for rank, table in enumerate(tables):
            values, sizes = np.unique(table.strata, return_counts=True)
            union.apply(rank, np.column_stack((values, sizes)).reshape(-1))
            gone = np.setdiff1d(table.seen, values)
            union.apply(rank, np.column_stack((gone, np.zeros_like(gone))).reshape(-1))
        return union.counts, union.values
