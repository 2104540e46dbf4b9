"""Random sequences of operations on buffers, sampler and saved states, against the models of `models.py`.

One machine holds W ranks. Every rank has a buffer and its model; a sample id belongs to rank id mod W. After every rule
each buffer is compared with its model, field by field. To test another operation, add a rule that does it to a rank's
buffer and to its model; what `check` compares afterwards is the same.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from admissions import UNTOLD_PROPORTIONS
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rehearsal.property.models import MODELS, Model, RandomModel
from rounds import follow, hand_in, next_round, published
from samples import image_of, logits_of, minibatch_of, offer_of

from drb.buffer.admission import build_admission
from drb.buffer.editing import EditableBuffer
from drb.buffer.record import ROUND, SAMPLE_ID, STRATUM, Field, RecordSpec
from drb.buffer.spares import spare_rows
from drb.sampling.proportions import PROPORTIONS
from drb.sampling.sampler import Sampler
from drb.seeding import sample_keys

BATCH, CLASSES, IDS = 6, 4, 40
SPEC = RecordSpec({"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ())})
LATE_SPEC = RecordSpec({**SPEC.fields, "logits": Field(torch.float32, (3,), late=True)})
REFRESHED_SPEC = RecordSpec({**SPEC.fields, "logits": Field(torch.float32, (3,), late=True, refreshed=True)})


class Rank:
    """A buffer, what it should hold, and what peers may be reading."""

    def __init__(self, policy: str, spec: RecordSpec, capacity: int, rank: int, by_stratum: bool) -> None:
        self._policy, self._spec, self._rank, self._by_stratum = policy, spec, rank, by_stratum
        self.round = 0
        self.buffer = self.build(capacity)
        self.model: Model = MODELS[policy](capacity)
        self.committed: dict = {}
        self.versions: dict[int, int] = {}  # the round of the logits of each sample, the staged ones included
        self.committed_versions: dict[int, int] = {}
        self.staged: list[int] | None = None
        self.read_by_peers: tuple[np.ndarray, np.ndarray] | None = None

    def build(self, capacity: int) -> EditableBuffer:
        rows = np.random.default_rng(1).integers(0, 2**60, (capacity + spare_rows(capacity, BATCH), self._spec.words))
        candidates = 4 if self._policy == "random_replacement" else None
        admission = build_admission(self._policy, candidates=candidates, seed=0, rank=self._rank)
        return follow(EditableBuffer(self._spec, capacity, rows, admission), by_stratum=self._by_stratum)

    def round_of(self, ids: list[int]) -> torch.Tensor:
        """What was added to the logits of stored samples, float32 [n, 1]."""
        return torch.tensor([self.committed_versions[i] for i in ids], dtype=torch.float32).reshape(-1, 1)

    def commit(self) -> None:
        self.committed, self.committed_versions = dict(self.model.stored), dict(self.versions)

    def table(self) -> np.ndarray:
        return published(self.buffer)

    def check(self) -> None:
        stored, buffer, model = self.committed, self.buffer, self.model
        rows = buffer.rows[self.table()]
        ids = rows[:, SAMPLE_ID].tolist()
        assert len(ids) == buffer.size == len(set(ids)) <= buffer.capacity
        assert {i: (s, t) for i, s, t in rows[:, [SAMPLE_ID, STRATUM, ROUND]].tolist()} == {
            sample: (stratum, round_) for sample, (stratum, _, round_) in stored.items()
        }
        views = self._spec.views(rows)
        assert torch.equal(views["image"], image_of(ids))
        assert views["label"].tolist() == [i % CLASSES for i in ids]
        if "logits" in views:
            assert torch.equal(views["logits"], logits_of(ids) + self.round_of(ids))
        assert sorted(buffer.sample_ids().tolist()) == sorted(model.stored)
        strata = [stratum for stratum, _, _ in model.stored.values()]
        assert buffer.counts() == {s: strata.count(s) for s in sorted(set(strata))}
        model.check_state(buffer.state_dict()["admission"])
        if self.read_by_peers is not None:
            table, before = self.read_by_peers
            assert (buffer.rows[table] == before).all()


class Operations(RuleBasedStateMachine):
    policy = "reservoir"

    @initialize(
        world_size=st.integers(1, 3),
        capacity=st.integers(1, 9),
        spec=st.sampled_from([SPEC, LATE_SPEC, REFRESHED_SPEC]),
        by_stratum=st.booleans(),
    )
    def begin(self, world_size, capacity, spec, by_stratum):
        self.spec, self.by_stratum = spec, by_stratum
        self.ranks = [Rank(self.policy, self.spec, capacity, rank, by_stratum) for rank in range(world_size)]

    def _rank(self, number: int) -> Rank:
        return self.ranks[number % len(self.ranks)]

    @rule(number=st.integers(0, 2), samples=st.lists(st.integers(-IDS // 4, IDS), max_size=BATCH))
    def stage(self, number, samples):
        """A minibatch of the rank's own ids, after the last one was committed."""
        rank = self._rank(number)
        if rank.staged is not None:
            return
        world_size = len(self.ranks)
        ids = np.array([s * world_size + number % world_size for s in samples], np.int64)
        fields = minibatch_of(ids, CLASSES)
        del fields["sample_id"]
        admitted = rank.buffer.stage(fields, offer_of(ids, rank.round, num_classes=CLASSES))
        fields["image"].zero_()  # the caller's memory is its own again
        keys = sample_keys(ids, 0).tolist()
        before = set(rank.model.stored)
        entries = [(i, (i % CLASSES, key, rank.round)) for i, key in zip(ids.tolist(), keys, strict=True)]
        rank.model.offer(entries)
        if isinstance(rank.model, RandomModel):
            rank.model.follow(rank.buffer.sample_ids().tolist())
        assert admitted == len(set(rank.model.stored) - before)
        for i in set(ids.tolist()) & set(rank.model.stored):
            if i not in before or self.spec is REFRESHED_SPEC:
                rank.versions[i] = rank.round
        rank.staged = ids.tolist()
        rank.round += 1

    @rule(number=st.integers(0, 2))
    def attach(self, number):
        rank = self._rank(number)
        if rank.staged is not None and self.spec is not SPEC:
            rank.buffer.attach({"logits": logits_of(rank.staged) + (rank.round - 1)})

    @rule(number=st.integers(0, 2))
    def commit(self, number):
        """What is staged becomes visible; refused, and changing nothing, without its late fields."""
        rank = self._rank(number)
        if rank.buffer.lacks_late_fields:
            with pytest.raises(ValueError, match="were not attached"):
                next_round(rank.buffer)
            return
        next_round(rank.buffer)
        rank.commit()
        rank.staged = None
        table = rank.table().copy()
        rank.read_by_peers = (table, rank.buffer.rows[table].copy())

    @rule(number=st.integers(0, 2), growth=st.sampled_from([0, 0, 1, 5]))
    def save_and_load(self, number, growth):
        """At any moment; the buffer may be larger afterwards."""
        rank = self._rank(number)
        if self.policy == "fifo":
            growth = 0  # a ring does not grow
        state, denied = copy.deepcopy(rank.buffer.state_dict()), rank.buffer.denied
        rank.buffer = rank.build(rank.buffer.capacity + growth)
        rank.buffer.deny(denied)  # a rehearsal's state has the list
        rank.buffer.load_state_dict(state)
        rank.model.capacity += growth
        rank.read_by_peers = None
        hand_in(rank.buffer)
        assert rank.buffer.lacks_late_fields == (bool(state["lacking"]))

    @rule(number=st.integers(0, 2), samples=st.lists(st.integers(-IDS // 4, IDS), min_size=1, max_size=BATCH))
    def forget(self, number, samples):
        """Between steps: what is stored of these ids leaves, and none of them comes back."""
        rank = self._rank(number)
        if rank.staged is not None:
            return
        world_size = len(self.ranks)
        ids = np.array([s * world_size + number % world_size for s in samples], np.int64)
        rank.buffer.deny(np.unique(ids))
        rank.buffer.remove(np.flatnonzero(np.isin(rank.buffer.sample_ids(), ids)))
        rank.model.forget(ids.tolist())
        rank.commit()
        hand_in(rank.buffer)

    @precondition(lambda self: hasattr(self, "ranks"))
    @rule(number=st.integers(0, 2), r=st.integers(1, 12), proportions=st.sampled_from(UNTOLD_PROPORTIONS))
    def draw(self, number, r, proportions):
        """min(r, N) distinct exemplars of the union, each where the tables say."""
        if proportions == "balanced" and not self.by_stratum:
            proportions = "uniform"
        shares = PROPORTIONS.build(proportions)
        per_rank = [[stratum for stratum, *_ in rank.committed.values()] for rank in self.ranks]
        values = sorted({stratum for strata in per_rank for stratum in strata}) if shares.needs_strata else [None]
        counts = np.array(
            [[len(s) if value is None else s.count(value) for value in values] for s in per_rank], np.int64
        ).reshape(len(self.ranks), len(values))
        offered = np.array([1 + rank.round for rank in self.ranks])
        me = number % len(self.ranks)
        strata = np.array(values, np.int64) if shares.needs_strata else None
        drawn = Sampler(r, shares, seed=3, rank=me).draw(self._rank(number).round, counts, offered, 0, strata)
        union = int(counts.sum())
        assert len(drawn) == min(r, union)
        assert (np.diff(drawn.owner) >= 0).all()
        ids = []
        for owner, position in zip(drawn.owner.tolist(), drawn.position.tolist(), strict=True):
            rank = self.ranks[owner]
            assert 0 <= position < rank.buffer.size
            ids.append(int(rank.buffer.rows[rank.table()[position], SAMPLE_ID]))
        assert len(set(ids)) == len(ids)
        assert set(ids) <= {sample for rank in self.ranks for sample in rank.committed}
        assert np.isfinite(drawn.weight).all()
        assert (drawn.weight >= 1 - 1e-9).all()
        if proportions == "balanced" and ids:
            self._check_levels(ids, counts.sum(axis=0), values, r)

    @staticmethod
    def _check_levels(ids, held, values, r):
        """No stratum gets two fewer than another unless it holds no more."""
        got = [sum(i % CLASSES == value for i in ids) for value in values]
        for one, number in enumerate(got):
            assert number <= held[one]
            assert number == held[one] or number >= max(got) - 1

    @invariant()
    def agrees(self):
        for rank in getattr(self, "ranks", ()):
            rank.check()

    def teardown(self):
        if hasattr(self, "ranks"):
            owners = [set(rank.model.stored) for rank in self.ranks]
            assert sum(map(len, owners)) == len(set().union(*owners))  # stored = distinct


@pytest.mark.parametrize("policy", sorted(MODELS))
def test_any_sequence_of_operations_leaves_what_the_model_has(policy):
    run_machine(policy)


def run_machine(policy, examples=40, phases=tuple(Phase)):
    machine = type(f"Operations_{policy}", (Operations,), {"policy": policy})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            phases=phases,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("policy", sorted(set(MODELS) - {"random_replacement"}))
def test_the_models_would_notice(policy, monkeypatch):
    """A model that keeps one exemplar too few is told apart from the buffer."""
    offer = MODELS[policy].offer

    def forgetful(self, entries):
        offer(self, entries)
        if len(self.stored) == self.capacity > 1:
            self.stored.pop(next(iter(self.stored)))

    monkeypatch.setattr(MODELS[policy], "offer", forgetful)
    with pytest.raises(AssertionError):
        run_machine(policy, phases=[Phase.generate])
