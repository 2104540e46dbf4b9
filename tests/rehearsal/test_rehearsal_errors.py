"""The rehearsal on one rank: what is refused, and how it ends."""

import threading
import traceback

import pytest
import torch
from rehearsal.rehearsing import BOTH, SPEC, assert_same, extend_all, open_rehearsal, stream
from samples import image_of, minibatch_of

from drb import Rehearsal

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
    with pytest.raises(
        ValueError, match="exemplars must be an integer of at least 1, auto, or auto:N with a limit, got 0"
    ):
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
    monkeypatch.setattr(rehearsal._running.parts.exchange, "fetch", broken_fetch)
    with pytest.raises(OSError, match="the disk is full") as raised:
        extend_all(rehearsal, [range(8), range(8)])
    assert "broken_fetch" in "".join(traceback.format_tb(raised.value.__traceback__))
    rehearsal.close()


def test_an_error_in_the_last_round_is_raised_by_close(monkeypatch):
    before = threading.active_count()
    rehearsal = open_rehearsal(asynchronous=True)
    extend_all(rehearsal, stream(4))
    rehearsal.state_dict()  # the round in flight is to end well
    monkeypatch.setattr(rehearsal._running.parts.exchange, "fetch", broken_fetch)
    rehearsal.extend(minibatch_of(range(8)))
    with pytest.raises(OSError, match="the disk is full"):
        rehearsal.close()
    rehearsal.close()  # idempotent, also after an error
    wait_for_threads(before)


def test_an_error_or_a_signal_in_an_inline_round_is_raised_where_it_ran(monkeypatch):
    for error in (OSError("the disk is full"), SystemExit(143), KeyboardInterrupt()):
        rehearsal = open_rehearsal(asynchronous=False)
        extend_all(rehearsal, stream(4))

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr(rehearsal._running.parts.exchange, "fetch", fails)
        with pytest.raises(type(error)):
            rehearsal.extend(minibatch_of(range(8)))
        with pytest.raises(RuntimeError, match="this rehearsal failed before and cannot go on"):
            rehearsal.extend(minibatch_of(range(8)))
        monkeypatch.undo()
        rehearsal.close()


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize(
    ("device", "message"),
    [(0, "device=cuda:0 is not there: 0 CUDA devices"), ("cuda", "is not there"), ("gpu", "device must be None")],
)
def test_a_device_that_is_not_there_is_named_at_once(device, message):
    with pytest.raises(ValueError, match=message):
        open_rehearsal(device=device)
