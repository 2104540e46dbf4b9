"""`Buffer.remove` and expiry against a model, and the policies' laws after it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from admissions import OPEN_ADMISSIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import commit, follow, hand_in, next_round, published, table_of
from samples import image_of, minibatch_of, offer_of
from scipy import stats

from drb.buffer.admission import build_admission
from drb.buffer.admission.reservoir import NO_THRESHOLD
from drb.buffer.editing import EditableBuffer
from drb.buffer.expiry import Expiry, MaxAge
from drb.buffer.record import ROUND, SAMPLE_ID, STRATUM, RecordSpec
from drb.buffer.spares import spare_rows
from drb.rehearsal.settings import RehearsalSettings
from drb.seeding import sample_keys

SPEC = RecordSpec({"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ())})
BATCH = 8
settings.register_profile("drb", derandomize=True, deadline=None, database=None)
settings.load_profile("drb")

POLICIES = sorted(OPEN_ADMISSIONS)


def build(name="reservoir", capacity=10, *, seed=0, refill="none", expiry=None, group_by_stratum=False):
    policy = build_admission(
        name, candidates=5 if name == "random_replacement" else None, seed=seed, rank=0, refill=refill
    )
    rows = np.full((capacity + spare_rows(capacity, BATCH), SPEC.words), -1)
    return follow(EditableBuffer(SPEC, capacity, rows, policy, expiry=expiry), by_stratum=group_by_stratum)


def offer(buffer, ids, round_, seed=0):
    """Commits what was staged before, if that has not happened yet."""
    if len(buffer._staged.where):
        next_round(buffer)
    fields = minibatch_of(ids)
    del fields["sample_id"]
    buffer.stage(fields, offer_of(ids, round_, seed=seed))


def forget(buffer, ids):
    ids = np.asarray(ids, np.int64)
    next_round(buffer)
    buffer.remove(buffer.slots_of(ids))
    buffer.deny(ids)


def stored(buffer):
    return set(buffer.sample_ids().tolist())


def check(buffer):
    """Published rows are the stored samples, whole, each once, and none of their rows is free."""
    table = published(buffer)
    rows = buffer.rows[table]
    ids = rows[:, SAMPLE_ID]
    assert len(set(table.tolist())) == len(table) == buffer.size
    assert len(set(ids.tolist())) == len(ids)
    assert torch.equal(SPEC.views(rows)["image"], image_of(ids))
    assert (rows[:, STRATUM] == ids % 5).all()
    assert table_of(buffer).stratum_counts()[1].sum() == buffer.size
    return set(ids.tolist())


operations = st.lists(
    st.one_of(
        st.lists(st.integers(0, 60), max_size=BATCH),  # offered
        st.sets(st.integers(0, 60), max_size=25),  # forgotten
        st.none(),  # saved and loaded
    ),
    min_size=1,
    max_size=16,
)


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(OPEN_ADMISSIONS)),
    st.integers(1, 14),
    operations,
    st.booleans(),
    st.sampled_from([None, 2, 5]),
)
def test_what_was_removed_is_gone_and_rows_being_read_never_change(name, capacity, steps, group_by_stratum, max_age):
    def new():
        expiry = Expiry(MaxAge(max_age, False)) if max_age else None
        return build(name, capacity, group_by_stratum=group_by_stratum, expiry=expiry)

    buffer, forgotten, seen = new(), set(), []
    for round_, step in enumerate(steps):
        if isinstance(step, set):
            before = stored(buffer)
            forget(buffer, sorted(step))  # all ranks have drained: nobody reads
            forgotten, seen = forgotten | step, []
            assert stored(buffer) == before - step
        elif step is None:
            state, denied = buffer.state_dict(), buffer.denied
            buffer, seen = new(), []
            buffer.deny(denied)
            buffer.load_state_dict(state)
        commit(buffer)
        buffer.expire(round_)
        table = hand_in(buffer)
        assert check(buffer) == stored(buffer)
        seen = [*seen[-1:], (table, buffer.rows[table])]
        if max_age:
            assert (round_ - buffer.rows[table, ROUND] <= max_age).all()
        offer(buffer, step if isinstance(step, list) else [], round_)
        assert not stored(buffer) & forgotten
        for rows, content in seen:
            np.testing.assert_array_equal(buffer.rows[rows], content)


@given(st.lists(st.lists(st.integers(0, 60), max_size=BATCH), min_size=2, max_size=14), st.integers(1, 14), st.data())
def test_the_reservoir_goes_on_with_the_smallest_keys_below_its_threshold(minibatches, capacity, data):
    """What is stored is all that was offered and not forgotten, below the smallest key ever rejected or evicted."""
    buffer, forgotten, offered = build(capacity=capacity), set(), set()
    for round_, ids in enumerate(minibatches):
        gone = data.draw(st.sets(st.integers(0, 60), max_size=4))
        before = buffer.admission.threshold
        forget(buffer, sorted(gone))
        assert buffer.admission.threshold == before
        forgotten |= gone
        offer(buffer, ids, round_)
        offered |= set(ids)
        candidates = np.array(sorted(offered - forgotten), np.int64)
        keys = sample_keys(candidates, 0)
        threshold = buffer.admission.threshold
        assert stored(buffer) == set(candidates[keys < np.uint64(threshold)].tolist())
        assert len(stored(buffer)) <= capacity


def inclusions(refill, trials=400, num_samples=64, capacity=12):
    """How often each sample of a stream is stored at its end; three of four are forgotten after 3/4 of it."""
    counts, ids = np.zeros(num_samples), np.arange(num_samples)
    for seed in range(trials):
        buffer = build(capacity=capacity, seed=seed, refill=refill)
        for round_, minibatch in enumerate(ids.reshape(-1, BATCH)):
            offer(buffer, minibatch, round_, seed)
            if round_ == 5:
                forget(buffer, ids[ids % 4 != 0])
        counts[buffer.sample_ids()] += 1
    assert not counts[ids % 4 != 0].any()
    return counts[ids % 4 == 0]


def chi_square(counts, trials=400):
    """p of equal chances; each sample is stored or not in every trial."""
    expected = counts.mean()
    statistic = ((counts - expected) ** 2).sum() / (expected * (1 - expected / trials))
    return stats.chi2.sf(statistic, len(counts) - 1)


def test_samples_offered_before_and_after_a_forget_are_equally_likely():
    assert chi_square(inclusions("none")) > 1e-3


def test_refill_recent_is_biased_and_says_so():
    counts = inclusions("recent")
    assert chi_square(counts) < 1e-6
    assert counts[12:].mean() > 3 * counts[:12].mean()
    assert "recent samples prevail" in RehearsalSettings(10, 2, refill="recent").retention
    assert "recent samples prevail" in RehearsalSettings(10, 2, admission="fifo", max_age=3).retention
    assert RehearsalSettings(10, 2, max_age="30d").retention == "exemplars older than 30d expire"
    assert RehearsalSettings(10, 2, max_age=9).retention == "exemplars older than 9 steps expire"
    assert RehearsalSettings(10, 2).retention == ""


@pytest.mark.parametrize("name", ["reservoir", "class_balanced"])
def test_freed_slots_wait_for_small_keys_unless_recent_samples_may_have_them(name):
    for refill, fills in (("none", False), ("recent", True)):
        buffer = build(name, capacity=20, refill=refill)
        for round_ in range(100):
            offer(buffer, np.arange(round_ * BATCH, (round_ + 1) * BATCH), round_)
        forget(buffer, buffer.sample_ids()[:15])
        assert buffer.size == 5
        assert (getattr(buffer.admission, "threshold", 0) == NO_THRESHOLD) == (fills and name == "reservoir")
        offer(buffer, np.arange(5000, 5000 + BATCH), 100)
        assert (len(stored(buffer)) == 5 + BATCH) == fills


def test_the_ring_keeps_its_order():
    buffer = build("fifo", capacity=10)
    for round_ in range(3):
        offer(buffer, np.arange(round_ * 7, round_ * 7 + 7), round_)
    assert stored(buffer) == set(range(11, 21))
    forget(buffer, [12, 15, 20])
    offer(buffer, [30, 31, 32], 4)
    assert stored(buffer) == {11, 13, 14, 16, 17, 18, 19, 30, 31, 32}
    offer(buffer, [33, 34], 5)
    assert stored(buffer) == {14, 16, 17, 18, 19, 30, 31, 32, 33, 34}


# -- ages


def test_exemplars_expire_by_rounds_wherever_they_lie_now():
    """Against a look at every slot, with a long max_age, so that most rounds use what an earlier one found."""
    rng = np.random.default_rng(3)
    buffer = build("reservoir", 60, refill="recent", expiry=Expiry(MaxAge(40, False)))
    admitted = {}
    for round_ in range(400):
        next_round(buffer)
        admitted = {i: t for i, t in admitted.items() if i in stored(buffer)}
        buffer.expire(round_)
        admitted = {i: t for i, t in admitted.items() if round_ - t <= 40}
        assert stored(buffer) == set(admitted)
        if round_ % 23 == 0:
            gone = rng.choice(buffer.sample_ids(), buffer.size // 5) if buffer.size else []
            forget(buffer, gone)
            admitted = {i: t for i, t in admitted.items() if i not in gone}
        ids = rng.integers(0, 3000, rng.integers(0, BATCH))
        known = stored(buffer)
        offer(buffer, ids, round_)
        admitted |= dict.fromkeys(stored(buffer) - known, round_)
    assert len(admitted) > 20


def test_slots_are_not_searched_in_every_round():
    expiry, searches = Expiry(MaxAge(320, False)), 0
    buffer = build("fifo", 100, expiry=expiry)
    for round_ in range(1000):
        next_round(buffer)
        horizon = expiry._horizon
        buffer.expire(round_)
        searches += expiry._horizon != horizon
        offer(buffer, [round_], round_)
    assert searches <= 1000 / 20 + 2
    assert buffer.size == 100


def test_exemplars_expire_by_time_also_after_a_resume():
    now = [1_000_000.0]

    def new():
        return build("reservoir", 50, expiry=Expiry(MaxAge.parse("2h"), clock=lambda: now[0]))

    buffer = new()
    for hour in range(6):
        now[0] = 1_000_000.0 + 3600 * hour
        next_round(buffer)
        buffer.expire(hour)
        offer(buffer, np.arange(hour * 5, hour * 5 + 5), hour)
        if hour == 3:
            state, buffer = buffer.state_dict(), new()
            buffer.load_state_dict(state)
        assert stored(buffer) == set(range(max(0, hour - 2) * 5, hour * 5 + 5))
    del state["columns"]["admitted_at"]  # as if it had been saved without max_age
    buffer = new()
    buffer.load_state_dict(state)
    next_round(buffer)
    now[0] = time.time()  # they count as admitted when they were loaded
    buffer.expire(9)
    assert buffer.size == 15


def test_rows_of_expired_exemplars_are_zeroed_as_soon_as_nobody_can_read_them():
    buffer = build("fifo", 6, expiry=Expiry(MaxAge(2, False)))
    offer(buffer, [1, 2], 0)
    row_of_1 = int(next_round(buffer)[0])
    commit(buffer)
    buffer.expire(3)
    hand_in(buffer)
    assert buffer.size == 0
    assert buffer.rows[row_of_1, SAMPLE_ID] == 1  # a peer may still read it in this round
    next_round(buffer)
    assert not buffer.rows[row_of_1].any()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1000, (1000, False)),
        ("90s", (90, True)),
        ("5 min", (300, True)),
        ("12h", (43200, True)),
        ("30d", (2592000, True)),
        ("2w", (1209600, True)),
    ],
)
def test_ages(value, expected):
    assert MaxAge.parse(value) == expected


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "12", "0h", "1m", "h", "-3d", ""])
def test_an_age_that_means_nothing_is_named(value):
    with pytest.raises(ValueError, match=r'max_age must be steps .* or a time such as "12h" .*got '):
        RehearsalSettings(10, 2, max_age=value)
