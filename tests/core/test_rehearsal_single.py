"""The rehearsal on one rank: what a training loop sees, and that it sees the same after a resume or on a thread."""

import copy
import threading
import traceback

import numpy as np
import pytest
import torch
from samples import image_of, logits_of, minibatch_of
from scipy import stats

from drb import Rehearsal
from drb.admission import ADMISSIONS
from drb.proportions import PROPORTIONS
from drb.record import Field
from drb.saved import FORMAT

SPEC = {"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ()), "logits": Field(torch.float32, (3,), late=True)}
BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["inline", "async"])


def open_rehearsal(capacity=30, exemplars=7, **settings):
    if settings.get("admission") == "random_replacement":
        settings = {"candidates": 6, **settings}
    return Rehearsal(capacity, exemplars, **{"verbose": False, **settings})


def stream(num_minibatches=30, batch_size=8, num_samples=120):
    """Minibatches over a few epochs: ids come again."""
    rng = np.random.default_rng(3)
    return [rng.choice(num_samples, batch_size, replace=False) for _ in range(num_minibatches)]


def rehearsed_ids(batch):
    return batch["sample_id"][batch["rehearsed"]].tolist()


def extend_all(rehearsal, minibatches, *, late=False):
    """What `extend` returned, kept, although the caller's memory is overwritten after each step."""
    batches = []
    for ids in minibatches:
        minibatch = minibatch_of(ids)
        batches.append(copy.deepcopy(rehearsal.extend(minibatch)))
        minibatch["image"].zero_()
        if late:
            logits = logits_of(ids)
            rehearsal.attach(logits=logits)
            logits.zero_()
    return batches


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert torch.equal(one[name], other[name]), name


# -- extend and step


@BOTH
def test_extend_puts_exemplars_of_earlier_minibatches_behind_the_minibatch(asynchronous):
    minibatches = stream()
    with open_rehearsal(asynchronous=asynchronous) as rehearsal:
        batches = extend_all(rehearsal, minibatches)
    for t, (ids, batch) in enumerate(zip(minibatches, batches, strict=True)):
        assert list(batch) == ["image", "label", "sample_id", "rehearsed"]
        r = 0 if t < 2 else 7
        assert batch["rehearsed"].tolist() == [False] * 8 + [True] * r
        assert batch["sample_id"][:8].tolist() == ids.tolist()
        past = rehearsed_ids(batch)
        assert len(set(past)) == r
        # minibatch t can be drawn from step t + 2 on: its late fields come in between
        assert set(past) <= set(np.concatenate([*minibatches[: max(t - 1, 0)], []]).tolist())
        assert torch.equal(batch["image"], image_of(batch["sample_id"]))
        assert torch.equal(batch["label"], batch["sample_id"] % 5)


@BOTH
def test_step_tells_all_about_the_exemplars(asynchronous):
    admitted: dict[int, int] = {}
    with open_rehearsal(exemplars=5, admission="fifo", asynchronous=asynchronous) as rehearsal:
        for t, ids in enumerate(np.arange(200).reshape(25, 8)):
            exemplars = rehearsal.step(minibatch_of(ids))
            admitted |= dict.fromkeys(ids.tolist(), t)
            if t < 2:
                assert exemplars is None
                continue
            assert len(exemplars) == 5
            assert exemplars.fields.keys() == {"image", "label"}
            assert torch.equal(exemplars.fields["image"], image_of(exemplars.sample_id))
            assert torch.equal(exemplars.fields["label"], exemplars.sample_id % 5)
            assert torch.equal(exemplars.stratum, exemplars.sample_id % 5)
            stored = min(30, 8 * (t - 1))
            assert exemplars.weight.dtype == torch.float32
            assert exemplars.weight.tolist() == pytest.approx([stored / 5] * 5)
            rounds = [admitted[i] for i in exemplars.sample_id.tolist()]
            assert exemplars.age.tolist() == [t - 1 - round_ for round_ in rounds]
            assert exemplars.handle.generation.tolist() == rounds
            assert exemplars.handle.rank.tolist() == [0] * 5
            assert exemplars.handle.slot.tolist() == [i % 30 for i in exemplars.sample_id.tolist()]  # a ring


def test_every_stored_exemplar_is_rehearsed_equally_often():
    steps, r = 3000, 7
    minibatch = minibatch_of(range(40))
    drawn = np.zeros(40)
    with open_rehearsal(20, r) as rehearsal:
        for _ in range(2):
            rehearsal.step(minibatch)
        for _ in range(steps):
            drawn[rehearsal.step(minibatch).sample_id] += 1
        stored = rehearsal.sample_ids()
    assert np.flatnonzero(drawn).tolist() == sorted(stored)
    expected = steps * r / 20
    statistic = ((drawn[stored] - expected) ** 2 / expected).sum() * 19 / (20 - r)
    assert 1e-3 < stats.chi2.sf(statistic, 19) < 1 - 1e-3


@BOTH
def test_the_union_may_be_smaller_than_r_and_the_capacity_smaller_than_a_minibatch(asynchronous):
    for admission in ADMISSIONS:
        with open_rehearsal(3, 10, admission=admission, asynchronous=asynchronous) as rehearsal:
            batches = extend_all(rehearsal, stream(12))
            assert len(rehearsal.sample_ids()) <= 3
        for batch in batches[4:]:
            assert 1 <= len(set(rehearsed_ids(batch))) == len(rehearsed_ids(batch)) <= 3
            assert torch.equal(batch["image"], image_of(batch["sample_id"]))


def test_minibatches_may_become_smaller_but_not_larger():
    with open_rehearsal() as rehearsal:
        for size in (8, 8, 8, 3, 1, 0, 8):
            batch = rehearsal.extend(minibatch_of(range(size)))
        assert len(batch["label"]) == 8 + 7
        with pytest.raises(ValueError, match=r"a minibatch of 9 rows after one of 8: .* as batch_size="):
            rehearsal.extend(minibatch_of(range(9)))
    with open_rehearsal(batch_size=9) as rehearsal:
        for size in (8, 9):
            rehearsal.extend(minibatch_of(range(size)))


def test_images_may_come_in_any_memory_format():
    image = torch.arange(8 * 48).reshape(8, 3, 4, 4).to(torch.uint8)
    with open_rehearsal() as rehearsal:
        for _ in range(4):
            minibatch = minibatch_of(range(8)) | {"image": image.to(memory_format=torch.channels_last)}
            batch = rehearsal.extend(minibatch)
    assert torch.equal(batch["image"], image[batch["sample_id"]])


def test_no_exemplars_before_the_union_holds_min_fill():
    with open_rehearsal(30, 7, min_fill=20) as rehearsal:
        sizes = [len(b["label"]) for b in extend_all(rehearsal, np.arange(80).reshape(10, 8))]
    assert sizes == [8] * 4 + [15] * 6  # 24 are stored after three minibatches, and drawn from two steps later


def test_a_min_fill_that_is_never_reached_is_refused():
    with (
        open_rehearsal(30, 7, min_fill=31) as rehearsal,
        pytest.raises(ValueError, match="min_fill=31 is more than all buffers hold: 30 exemplars"),
    ):
        rehearsal.extend(minibatch_of(range(8)))


def test_every_arrival_is_a_new_sample_when_the_stream_has_no_ids():
    minibatch = minibatch_of([5, 5, 6])
    del minibatch["sample_id"]
    with open_rehearsal(100, sample_id="arrival") as rehearsal:
        for _ in range(4):
            batch = rehearsal.extend(minibatch)
        assert list(batch) == ["image", "label", "rehearsed"]
        assert rehearsal.sample_ids().tolist() == list(range(12))
        assert rehearsal.counts() == {0: 8, 1: 4}


# -- asynchronous = inline, resumed = uninterrupted

POLICIES = pytest.mark.parametrize(
    ("admission", "proportions"), [pytest.param(a, p, id=f"{a}-{p}") for a in ADMISSIONS for p in PROPORTIONS]
)


@POLICIES
def test_asynchronous_equals_inline(admission, proportions):
    def run(asynchronous):
        settings = {"admission": admission, "proportions": proportions, "asynchronous": asynchronous}
        with open_rehearsal(spec=SPEC, **settings) as rehearsal:
            return extend_all(rehearsal, stream(), late=True)

    assert_same(run(True), run(False))


@BOTH
@POLICIES
def test_a_resumed_run_sees_the_same_batches(admission, proportions, asynchronous):
    settings = {"admission": admission, "proportions": proportions, "asynchronous": asynchronous, "spec": SPEC}
    minibatches = stream()
    with open_rehearsal(**settings) as rehearsal:
        expected = extend_all(rehearsal, minibatches, late=True)
    for stop in (1, 2, 17):
        with open_rehearsal(**settings) as rehearsal:
            extend_all(rehearsal, minibatches[:stop], late=True)
            state = rehearsal.state_dict()
            # saving changes nothing
            assert_same(extend_all(rehearsal, minibatches[stop:], late=True), expected[stop:])
        with open_rehearsal(**settings) as resumed:
            resumed.load_state_dict(state)
            assert_same(extend_all(resumed, minibatches[stop:], late=True), expected[stop:])


def test_a_resume_between_extend_and_attach_still_asks_for_the_late_fields():
    minibatches = stream(12)
    with open_rehearsal(spec=SPEC) as rehearsal:
        expected = extend_all(rehearsal, minibatches, late=True)
    rehearsal = open_rehearsal(spec=SPEC)
    extend_all(rehearsal, minibatches[:6], late=True)
    rehearsal.extend(minibatch_of(minibatches[6]))
    state = rehearsal.state_dict()
    rehearsal.close()
    with open_rehearsal(spec=SPEC) as resumed:
        resumed.load_state_dict(state)
        with pytest.raises(ValueError, match="were not attached"):
            resumed.extend(minibatch_of(minibatches[7]))
    # the checkpoint is taken after the step; the forward pass of step 6 is done by then
    rehearsal = open_rehearsal(spec=SPEC)
    extend_all(rehearsal, minibatches[:7], late=True)
    with open_rehearsal() as resumed:  # the schema, late fields included, is in the state
        resumed.load_state_dict(rehearsal.state_dict())
        assert_same(extend_all(resumed, minibatches[7:], late=True), expected[7:])
    rehearsal.close()


def test_arrivals_are_counted_on_after_a_resume():
    minibatch = minibatch_of([5, 5, 6])
    del minibatch["sample_id"]
    with open_rehearsal(100, sample_id="arrival") as rehearsal:
        rehearsal.extend(minibatch)
        state = rehearsal.state_dict()
    with open_rehearsal(100, sample_id="arrival") as resumed:
        resumed.load_state_dict(state)
        resumed.extend(minibatch)
        assert resumed.sample_ids().tolist() == list(range(6))


def test_a_state_can_be_passed_on_before_the_first_minibatch():
    with open_rehearsal() as rehearsal:
        empty = rehearsal.state_dict()
        extend_all(rehearsal, stream(5))
        state = rehearsal.state_dict()
    with open_rehearsal() as fresh:
        fresh.load_state_dict(empty)
        fresh.extend(minibatch_of(range(8)))
    with open_rehearsal() as resumed:
        resumed.load_state_dict(state)
        assert resumed.state_dict()["round"] == state["round"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"admission": "fifo"}, "admission='reservoir'.*this rehearsal has 'fifo'"),
        ({"seed": 1}, "seed=0.*this rehearsal has 1"),
        ({"capacity": 3}, "the saved buffer has 24 records .* this one takes 3"),
        ({"spec": SPEC}, "the saved schema is .* spec= says"),
        ({"proportions": "stream"}, "no count of distinct offers, which proportions=stream needs"),
        ({"exemplars": 2}, "the saved round holds 7 exemplars, this rehearsal draws 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_state_that_does_not_fit_is_refused(settings, message):
    with open_rehearsal() as rehearsal:
        extend_all(rehearsal, np.arange(32).reshape(4, 8))
        state = rehearsal.state_dict()
    rehearsal = open_rehearsal(**settings)
    with pytest.raises(ValueError, match=message):
        rehearsal.load_state_dict(state)
        rehearsal.extend(minibatch_of(range(8)))
    rehearsal.close()


def test_a_state_of_the_first_format_whose_rows_were_not_aligned_goes_on():
    def minibatches(start, end):
        return [
            {"vector": torch.arange(8 * 321).reshape(8, 321) + t, "sample_id": torch.arange(8 * t, 8 * t + 8)}
            for t in range(start, end)
        ]

    def run(rehearsal, start, end):
        return [{k: v.clone() for k, v in rehearsal.extend(m).items()} for m in minibatches(start, end)]

    with open_rehearsal(stratum=None) as rehearsal:
        run(rehearsal, 0, 6)
        state = copy.deepcopy(rehearsal.state_dict())
        expected = run(rehearsal, 6, 9)
    words = 4 + 321
    assert state["buffer"]["rows"].shape[1] > words
    state = {**state, "format": 1, "buffer": {**state["buffer"], "rows": state["buffer"]["rows"][:, :words]}}
    state["fetched"] = {**state["fetched"], "rows": state["fetched"]["rows"][:, :words]}
    with open_rehearsal(stratum=None) as rehearsal:
        rehearsal.load_state_dict(state)
        assert_same(run(rehearsal, 6, 9), expected)


def test_a_state_of_another_format_or_too_late_is_refused():
    with open_rehearsal() as rehearsal:
        with pytest.raises(ValueError, match=f"state of format 9, this version reads format {FORMAT}"):
            rehearsal.load_state_dict({"format": 9})
        rehearsal.extend(minibatch_of(range(8)))
        with pytest.raises(ValueError, match="must come before the first minibatch"):
            rehearsal.load_state_dict(rehearsal.state_dict())


# -- late fields


@BOTH
def test_late_fields_come_back_with_their_exemplars(asynchronous):
    with open_rehearsal(spec=SPEC, asynchronous=asynchronous) as rehearsal:
        for t, ids in enumerate(stream()):
            exemplars = rehearsal.step(minibatch_of(ids))
            rehearsal.attach(logits=logits_of(ids).requires_grad_())
            if t >= 2:
                assert torch.equal(exemplars.fields["logits"], logits_of(exemplars.sample_id))


def test_late_fields_that_are_missing_or_wrong_are_named():
    with open_rehearsal(spec=SPEC) as rehearsal:
        with pytest.raises(ValueError, match=r"attach\(\) needs a first minibatch"):
            rehearsal.attach(logits=torch.zeros(8, 3))
        rehearsal.extend(minibatch_of(range(8)))
        with pytest.raises(ValueError, match="field 'logits' has 7 rows, the minibatch has 8"):
            rehearsal.attach(logits=torch.zeros(7, 3))
        with pytest.raises(ValueError, match=r"field 'logits' is float32\[4\] a sample, but .* float32\[3\] late"):
            rehearsal.attach(logits=torch.zeros(8, 4))
        with pytest.raises(ValueError, match="not in the schema: \\['features'\\]"):
            rehearsal.attach(features=torch.zeros(8, 3))
        with pytest.raises(ValueError, match=r"the late fields \['logits'\] of the last minibatch were not attached"):
            rehearsal.extend(minibatch_of(range(8)))


# -- memory


@BOTH
def test_what_extend_returns_is_reused_two_calls_later(asynchronous):
    with open_rehearsal(asynchronous=asynchronous) as rehearsal:
        extend_all(rehearsal, stream(5))
        last, kept = None, None
        pointers = []
        for ids in stream(6):
            batch = rehearsal.extend(minibatch_of(ids))
            if last is not None:
                assert_same([last], [kept])  # the batch before this one is untouched
            last, kept = batch, copy.deepcopy(batch)
            pointers.append(batch["image"].data_ptr())
    assert pointers == pointers[:2] * 3


def test_exemplars_of_a_step_stay_until_the_next_call():
    with open_rehearsal(asynchronous=True) as rehearsal:
        for ids in stream(40):
            exemplars = rehearsal.step(minibatch_of(ids))
            if exemplars is None:
                continue
            rehearsal.state_dict()  # by now the next round has been fetched
            assert torch.equal(exemplars.fields["image"], image_of(exemplars.sample_id))
            assert torch.equal(exemplars.fields["label"], exemplars.sample_id % 5)


def test_memory_is_allocated_once_and_told():
    with open_rehearsal(30, 7, spec=SPEC) as rehearsal:
        extend_all(rehearsal, stream(3), late=True)
        told = rehearsal.stats()["bytes_per_rank"]
        row = 8 * (4 + 4 + 1 + 2)
        assert told >= row * (30 + 2 * 8 + 2 * 7)
        assert told < 2**16
        extend_all(rehearsal, stream(20), late=True)
        assert rehearsal.stats()["bytes_per_rank"] == told
        assert "memory per rank at most" in rehearsal.describe()


# -- what is known


def test_stats_and_counts_describe_the_buffer():
    with open_rehearsal(30, 7) as rehearsal:
        assert rehearsal.stats()["rounds"] == 0
        assert rehearsal.counts() == {}
        extend_all(rehearsal, np.arange(48).reshape(6, 8))
        assert rehearsal.duplicate_share() == 0
        known = rehearsal.stats()
        assert sum(rehearsal.counts().values()) == len(rehearsal.sample_ids()) == 30
    assert known["rounds"] == 6
    assert known["exemplars_fetched"] == 5 * 7  # not in the round before anything was stored
    assert known["capacity_total"] == known["stored_total"] == known["distinct_total"] == 30
    assert known["exchange"] == "loopback"
    assert known["extend_seconds"] > 0
    assert known["worker_cpu_seconds"] == 0  # short rounds on one rank run inline
    assert known["asynchronous"] is False


def test_what_was_chosen_is_printed(capsys):
    with open_rehearsal(verbose=True) as rehearsal:
        rehearsal.extend(minibatch_of(range(8)))
    assert "drb: rehearsal: 7 exemplars per rank and step from buffers of 30 per rank, 30 in total" in (
        capsys.readouterr().err
    )


def test_one_rank_touches_no_gpu_and_no_process_group():
    with open_rehearsal() as rehearsal:
        extend_all(rehearsal, stream(4))
    assert not torch.cuda.is_initialized()
    assert not torch.distributed.is_initialized()


# -- errors


@pytest.mark.parametrize(
    ("minibatch", "settings", "message"),
    [
        ({}, {}, "the minibatch has no fields"),
        ({"image": [1, 2]}, {}, "field 'image' must be a tensor with a batch dimension, got list"),
        ({"image": torch.tensor(3)}, {}, "field 'image' must be a tensor with a batch dimension"),
        ({"image": image_of([1])}, {}, r"no field 'sample_id' \(it has \['image'\]\): wrap .* drb.with_ids, or say"),
        (
            {"image": image_of([1]), "sample_id": torch.tensor([1])},
            {"proportions": "balanced"},
            "counts exemplars by the field 'label', which the minibatch lacks",
        ),
        (
            minibatch_of([1, 2]) | {"label": torch.zeros(2)},
            {"proportions": "balanced"},
            r"the stratum field 'label' must be one integer per row, got torch.float32 \[2\]",
        ),
        (
            minibatch_of([1, 2]) | {"sample_id": torch.zeros(2, 2, dtype=torch.int64)},
            {},
            r"the sample id field 'sample_id' must be one integer per row, got torch.int64 \[2, 2\]",
        ),
        (minibatch_of([1, 2]) | {"label": torch.zeros(3, dtype=torch.int64)}, {}, "field 'label' has 3 rows"),
        ({"sample_id": torch.tensor([1])}, {}, "a record needs at least one field besides the sample id"),
        (minibatch_of([1]), {"capacity": "100B"}, "capacity=100B has room for no exemplar"),
    ],
)
def test_a_first_minibatch_that_cannot_work_is_explained(minibatch, settings, message):
    with open_rehearsal(**settings) as rehearsal, pytest.raises(ValueError, match=message):
        rehearsal.extend(minibatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": torch.zeros(8, dtype=torch.int32)}, "field 'label' is int32"),
        ({"image": torch.zeros(8, 3, 5, 5, dtype=torch.uint8)}, r"field 'image' is uint8\[3, 5, 5\] a sample"),
        ({"task": torch.zeros(8)}, r"not in the schema: \['task'\]"),
        ({"sample_id": None}, "the minibatch has no field 'sample_id'"),
        ({"label": [1, 2]}, "field 'label' must be a tensor"),
    ],
)
def test_a_later_minibatch_that_differs_is_explained_and_changes_nothing(change, message):
    minibatches = stream(8)
    with open_rehearsal() as rehearsal:
        expected = extend_all(rehearsal, minibatches)
    with open_rehearsal() as rehearsal:
        extend_all(rehearsal, minibatches[:4])
        with pytest.raises(ValueError, match=message):
            rehearsal.extend({k: v for k, v in (minibatch_of(range(8)) | change).items() if v is not None})
        assert_same(extend_all(rehearsal, minibatches[4:]), expected[4:])


def test_wrong_settings_are_refused_at_once():
    with pytest.raises(ValueError, match="exemplars must be an integer of at least 1, got 0"):
        Rehearsal(500, 0)


def test_float_images_are_warned_about_at_the_callers_line():
    minibatch = minibatch_of(range(8)) | {"image": torch.rand(8, 3, 4, 4)}
    with open_rehearsal() as rehearsal:
        with pytest.warns(UserWarning, match="raw uint8 images and augment") as warned:
            rehearsal.extend(minibatch)
        assert [w.filename for w in warned] == [__file__]
        rehearsal.extend(minibatch)  # once is enough


def broken_fetch(*_):
    raise OSError("the disk is full")


@BOTH
def test_an_error_in_a_round_reaches_the_training_thread_with_its_traceback(asynchronous, monkeypatch):
    rehearsal = open_rehearsal(asynchronous=asynchronous)
    extend_all(rehearsal, stream(4))
    rehearsal.state_dict()  # the round in flight is to end well
    monkeypatch.setattr(rehearsal._turns.parts.exchange, "fetch", broken_fetch)
    rehearsal.extend(minibatch_of(range(8)))
    with pytest.raises(OSError, match="the disk is full") as raised:
        rehearsal.extend(minibatch_of(range(8)))
    assert "broken_fetch" in "".join(traceback.format_tb(raised.value.__traceback__))
    rehearsal.close()


@BOTH
def test_an_error_in_the_last_round_is_raised_by_close(asynchronous, monkeypatch):
    before = threading.active_count()
    rehearsal = open_rehearsal(asynchronous=asynchronous)
    extend_all(rehearsal, stream(4))
    rehearsal.state_dict()  # the round in flight is to end well
    monkeypatch.setattr(rehearsal._turns.parts.exchange, "fetch", broken_fetch)
    rehearsal.extend(minibatch_of(range(8)))
    with pytest.raises(OSError, match="the disk is full"):
        rehearsal.close()
    rehearsal.close()  # idempotent, also after an error
    wait_for_threads(before)


# -- the end


@BOTH
def test_close_is_idempotent_and_final(asynchronous):
    before = threading.active_count()
    rehearsal = open_rehearsal(asynchronous=asynchronous)
    extend_all(rehearsal, stream(4))
    stored = rehearsal.sample_ids()
    rehearsal.close()
    rehearsal.close()
    wait_for_threads(before)
    with pytest.raises(ValueError, match="this rehearsal has ended"):
        rehearsal.extend(minibatch_of(range(8)))
    assert (rehearsal.sample_ids() == stored).all()  # what is known stays known


def test_a_rehearsal_that_never_saw_a_minibatch_closes():
    open_rehearsal().close()
    with open_rehearsal(asynchronous=True):
        pass


def test_close_does_not_ask_for_late_fields():
    with open_rehearsal(spec=SPEC) as rehearsal:
        rehearsal.extend(minibatch_of(range(8)))


@BOTH
def test_an_error_in_the_loop_passes_through_and_ends_the_worker(asynchronous):
    before = threading.active_count()
    with pytest.raises(KeyError, match="images"), open_rehearsal(asynchronous=asynchronous) as rehearsal:
        minibatch_of(extend_all(rehearsal, stream(4))[0]["images"])
    wait_for_threads(before)


@BOTH
def test_one_rank_never_stops_early(asynchronous):
    with open_rehearsal(uneven="stop", asynchronous=asynchronous) as rehearsal:
        batches = extend_all(rehearsal, stream(6))
        assert not rehearsal.stopped
    assert [len(b["label"]) for b in batches] == [8, 8] + [15] * 4


def wait_for_threads(count):
    for thread in threading.enumerate():
        if thread.name == "drb-rehearsal":
            thread.join(10)
    assert threading.active_count() <= count


def test_a_label_that_is_no_integer_is_stored_but_not_counted():
    with open_rehearsal() as rehearsal:
        for t in range(4):
            ids = torch.arange(t * 4, t * 4 + 4)
            batch = rehearsal.extend(minibatch_of(ids) | {"label": ids / 2})
        assert (batch["label"] == batch["sample_id"] / 2).all()
        assert rehearsal.counts() == {-1: 16}


def test_what_is_stored_and_what_is_distinct_are_of_one_moment():
    with open_rehearsal(capacity=1000) as rehearsal:
        extend_all(rehearsal, stream(4))
        rehearsal.duplicate_share()
        stats = rehearsal.stats()
        assert stats["stored_total"] == stats["distinct_total"] == len(rehearsal.sample_ids())


def test_after_the_end_nothing_can_be_asked_for_that_needs_its_memory():
    rehearsal = Rehearsal(4, 2, verbose=False)
    rehearsal.extend({"x": torch.zeros(3, 2), "label": torch.arange(3), "sample_id": torch.arange(3)})
    rehearsal.close()
    for call in (rehearsal.duplicate_share, rehearsal.state_dict, lambda: rehearsal.attach(y=torch.zeros(3))):
        with pytest.raises(ValueError, match="has ended"):
            call()
