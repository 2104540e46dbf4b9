"""The rehearsal on one rank: what a training loop sees."""

import copy

import numpy as np
import pytest
import torch
from admissions import OPEN_ADMISSIONS
from rehearsal.rehearsing import BOTH, SPEC, assert_same, extend_all, open_rehearsal, rehearsed_ids, stream
from samples import image_of, logits_of, minibatch_of
from scipy import stats

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


def test_ages_tell_how_many_minibatches_ago_each_exemplar_was_stored_also_after_a_resume():
    with open_rehearsal() as rehearsal:
        extend_all(rehearsal, np.arange(96).reshape(12, 8))
        assert rehearsal.ages().tolist() == (11 - rehearsal.sample_ids() // 8).tolist()
        assert len(set(rehearsal.ages())) > 6
        state, ages = rehearsal.state_dict(), rehearsal.ages()
    with open_rehearsal() as again:
        again.load_state_dict(state)
        assert again.stats()["minibatches"] == 12
        assert again.ages().tolist() == ages.tolist()
        extend_all(again, np.arange(96, 104)[None])
        assert again.ages().tolist() == (12 - again.sample_ids() // 8).tolist()


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
    for admission in OPEN_ADMISSIONS:
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
