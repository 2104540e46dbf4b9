"""The buffer: holds what its policy says, rows and headers agree, and no row changes while a peer may read it."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from admissions import OPEN_ADMISSIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import commit, follow, hand_in, next_round, published, table_of
from samples import image_of, logits_of, minibatch_of, offer_of

from drb.buffer.admission import Columns, build_admission
from drb.buffer.editing import EditableBuffer
from drb.buffer.record import ROUND, SAMPLE_ID, SLOT, STRATUM, Field, RecordSpec
from drb.buffer.spares import spare_rows

NUM_CLASSES = 4
SPEC = RecordSpec({"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ())})
LATE_SPEC = RecordSpec({**SPEC.fields, "logits": Field(torch.float32, (3,), late=True)})


def build_policy(name):
    return build_admission(name, candidates=5 if name == "random_replacement" else None, seed=0, rank=0)


def build_buffer(name="reservoir", capacity=10, batch_size=8, *, spec=SPEC, group_by_stratum=False):
    rows = np.random.default_rng(0).integers(0, 2**60, (capacity + spare_rows(capacity, batch_size), spec.words))
    return follow(EditableBuffer(spec, capacity, rows, build_policy(name)), by_stratum=group_by_stratum)


def stage(buffer, ids, round_):
    minibatch = minibatch_of(ids, NUM_CLASSES)
    del minibatch["sample_id"]
    return buffer.stage(minibatch, offer_of(ids, round_, num_classes=NUM_CLASSES))


class Model:
    """What the buffer should hold: slot → (id, round), the policy's decisions applied to a dict."""

    def __init__(self, name, capacity):
        self.policy, self.columns = build_policy(name), Columns(capacity)
        self.columns.stored = lambda name, slots: image_of(self.columns.sample_id[slots])
        self.slots: dict[int, tuple[int, int]] = {}

    def offer(self, ids, round_):
        offer = offer_of(ids, round_, num_classes=NUM_CLASSES)
        decision = self.policy.admit(self.columns, offer)
        self.columns.put(decision.slots, offer, decision.rows)
        new = {s: (int(ids[r]), round_) for r, s in zip(decision.rows.tolist(), decision.slots.tolist(), strict=True)}
        self.slots = {**self.slots, **new}


@dataclass
class Snapshot:
    """A published table and the rows behind it, as peers saw them when their round began."""

    table: np.ndarray
    rows: np.ndarray

    def check(self, buffer):
        np.testing.assert_array_equal(buffer.rows[self.table], self.rows)


def check_table(buffer, table, slots, *, late=False, group_by_stratum=False):
    """The rows of a published table are exactly the model's exemplars, header and fields."""
    rows = buffer.rows[table]
    assert {s: (i, t) for s, i, t in rows[:, [SLOT, SAMPLE_ID, ROUND]].tolist()} == slots
    ids = rows[:, SAMPLE_ID]
    assert (rows[:, STRATUM] == ids % NUM_CLASSES).all()
    views = buffer.spec.views(rows)
    assert torch.equal(views["image"], image_of(ids))
    assert (views["label"].numpy() == ids % NUM_CLASSES).all()
    if late:
        assert torch.equal(views["logits"], logits_of(ids))
    order = rows[:, STRATUM] if group_by_stratum else rows[:, SLOT]
    assert (np.diff(order) >= 0).all()
    if group_by_stratum:
        values, counts = table_of(buffer).stratum_counts()
        assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
            s: int((rows[:, STRATUM] == s).sum()) for s in np.unique(rows[:, STRATUM]).tolist()
        }


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(OPEN_ADMISSIONS)),
    st.integers(1, 14),
    st.lists(st.lists(st.integers(0, 80), max_size=8), min_size=1, max_size=14),
    st.booleans(),
    st.booleans(),
)
def test_the_buffer_holds_what_its_policy_decides_and_rows_being_read_never_change(
    name, capacity, minibatches, late, group_by_stratum
):
    spec = LATE_SPEC if late else SPEC
    buffer = build_buffer(name, capacity, 8, spec=spec, group_by_stratum=group_by_stratum)
    model = Model(name, capacity)
    seen: list[Snapshot] = []
    for round_, ids in enumerate(minibatches):
        slots = dict(model.slots)
        table = next_round(buffer)
        check_table(buffer, table, slots, late=late, group_by_stratum=group_by_stratum)
        # a peer may still read the last round's table until this rank has announced this one
        seen = [*seen[-1:], Snapshot(table, buffer.rows[table])]
        admitted = stage(buffer, ids, round_)
        model.offer(np.array(ids, np.int64), round_)
        assert buffer.size == len(slots)
        assert admitted == sum(t == round_ for _, t in model.slots.values())
        if late:
            buffer.attach({"logits": logits_of(ids)})
        for snapshot in seen:
            snapshot.check(buffer)
        assert sorted(buffer.sample_ids()) == sorted(i for i, _ in model.slots.values())
        assert sum(buffer.counts().values()) == len(model.slots)


def test_a_staged_minibatch_shows_after_the_commit():
    buffer = build_buffer()
    assert stage(buffer, [1, 2, 3], 0) == 3
    assert len(hand_in(buffer)) == 0
    assert buffer.counts() == {1: 1, 2: 1, 3: 1}  # counted as soon as decided
    assert buffer.rows[next_round(buffer), SAMPLE_ID].tolist() == [1, 2, 3]
    commit(buffer)  # nothing staged
    assert not table_of(buffer).apply(buffer.hand_in())


def test_the_caller_may_reuse_the_minibatch_at_once():
    buffer = build_buffer()
    minibatch = minibatch_of([1, 2])
    del minibatch["sample_id"]
    buffer.stage(minibatch, offer_of([1, 2]))
    minibatch["image"].zero_()
    next_round(buffer)
    assert torch.equal(SPEC.views(buffer.rows[published(buffer)])["image"], image_of([1, 2]))


def test_late_fields_must_come_before_the_commit():
    buffer = build_buffer(spec=LATE_SPEC)
    next_round(buffer)
    stage(buffer, [1, 2], 0)
    assert buffer.lacks_late_fields
    assert buffer.num_staged_rows == 2
    with pytest.raises(ValueError, match=r"the late fields \['logits'\] of the last minibatch were not attached"):
        next_round(buffer)


def test_late_fields_must_come_even_if_nothing_was_admitted():
    buffer = build_buffer(spec=LATE_SPEC)
    for round_ in range(2):
        assert stage(buffer, [1, 2], round_) == (2, 0)[round_]
        assert buffer.lacks_late_fields
        buffer.attach({"logits": logits_of([1, 2])})
        next_round(buffer)


def test_a_larger_minibatch_than_planned_is_refused():
    buffer = build_buffer("fifo", capacity=12, batch_size=4)
    for round_ in range(5):
        stage(buffer, range(round_ * 4, round_ * 4 + 4), round_)
        next_round(buffer)
    with pytest.raises(ValueError, match=r"a minibatch of 9 rows is larger than this buffer was made for.*batch_size="):
        stage(buffer, range(100, 109), 5)


def test_rows_must_fit_the_schema():
    with pytest.raises(ValueError, match=r"rows must be \[at least 10, 9\], got \[10, 4\]"):
        EditableBuffer(SPEC, 10, np.zeros((10, 4), np.int64), build_policy("fifo"))


def test_a_buffer_without_capacity_takes_nothing():
    for name in OPEN_ADMISSIONS:
        buffer = build_buffer(name, capacity=0)
        assert stage(buffer, [1, 2], 0) == 0
        next_round(buffer)
        assert buffer.size == 0


@pytest.mark.parametrize("group_by_stratum", [False, True])
@pytest.mark.parametrize("name", OPEN_ADMISSIONS)
def test_a_restored_buffer_goes_on_as_the_original(name, group_by_stratum):
    rng = np.random.default_rng(1)
    stream = [rng.integers(0, 150, 8) for _ in range(60)]

    def feed(buffer, start, end):
        seen = []
        for round_ in range(start, end):
            seen.append(buffer.rows[next_round(buffer)].copy())
            stage(buffer, stream[round_], round_)
            buffer.attach({"logits": logits_of(stream[round_])})
        return seen

    original = build_buffer(name, 20, spec=LATE_SPEC, group_by_stratum=group_by_stratum)
    feed(original, 0, 30)
    state = original.state_dict()
    restored = build_buffer(name, 20, spec=LATE_SPEC, group_by_stratum=group_by_stratum)
    restored.load_state_dict(state)
    assert restored.counts() == original.counts()
    state["rows"][:] = -1  # the state was copied
    for expected, got in zip(feed(original, 30, 60), feed(restored, 30, 60), strict=True):
        fields_expected, fields_got = LATE_SPEC.views(expected), LATE_SPEC.views(got)
        assert (expected[:, :4] == got[:, :4]).all()
        assert all(torch.equal(fields_expected[f], fields_got[f]) for f in fields_got)


def test_a_state_saved_before_late_fields_came_still_asks_for_them():
    original = build_buffer(spec=LATE_SPEC)
    stage(original, [1, 2], 0)
    restored = build_buffer(spec=LATE_SPEC)
    restored.load_state_dict(original.state_dict())
    assert restored.lacks_late_fields
    assert restored.num_staged_rows == 2
    restored.attach({"logits": logits_of([1, 2])})
    next_round(restored)
    assert torch.equal(LATE_SPEC.views(restored.rows[published(restored)])["logits"], logits_of([1, 2]))


def test_a_state_of_another_shape_is_refused():
    original = build_buffer(capacity=10)
    stage(original, range(8), 0)
    next_round(original)
    with pytest.raises(ValueError, match="the saved buffer has 8 records of 9 words, this one takes 5 of 9"):
        build_buffer(capacity=5).load_state_dict(original.state_dict())
    with pytest.raises(ValueError, match="resume with the same capacity and schema"):
        build_buffer(spec=LATE_SPEC).load_state_dict(original.state_dict())
