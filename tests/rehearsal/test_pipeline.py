"""Depth and interval: which minibatches a step's exemplars come from, and that nothing depends on when rounds end."""

import copy
import json

import numpy as np
import pytest
import torch
from rehearsal.rehearsing import SPEC, assert_same, extend_all, open_rehearsal, rehearsed_ids, stream
from samples import image_of, logits_of, minibatch_of, offer_of
from scipy import stats

from drb import Rehearsal
from drb.buffer.admission import build_admission
from drb.buffer.buffer import Buffer
from drb.buffer.positions import PositionTable
from drb.buffer.record import RecordSpec
from drb.buffer.spares import spare_rows
from drb.exchange.collective import Collective
from drb.exchange.loopback import Loopback
from drb.exchange.shared import Shared
from drb.rehearsal.auto import has_core, runs_inline

AHEAD = [(1, 1), (2, 1), (3, 1), (1, 3), (2, 3), (3, 4)]
EVERY = pytest.mark.parametrize(("depth", "interval"), AHEAD)
B, R, STEPS = 4, 5, 26


def fresh(num_steps=STEPS):
    """Every sample once."""
    return [np.arange(t * B, t * B + B) for t in range(num_steps)]


@EVERY
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_step_rehearses_what_its_round_could_draw(depth, interval, asynchronous):
    """The round of step s draws from minibatches 0 … s-1; `depth` rounds later it is used, a draw per step."""
    with open_rehearsal(1000, R, asynchronous=asynchronous, depth=depth, interval=interval) as rehearsal:
        batches = extend_all(rehearsal, fresh())
    seen = set()
    for t, batch in enumerate(batches):
        handed_in = (t // interval - depth) * interval
        drawable = max(handed_in, 0) * B
        ids = rehearsed_ids(batch)
        assert len(set(ids)) == len(ids) == min(R, drawable)
        assert all(i < drawable for i in ids)
        assert torch.equal(batch["image"], image_of(batch["sample_id"].tolist()))
        if interval > 1 and ids:
            assert tuple(ids) not in seen  # the draws of one round are not one draw
            seen.add(tuple(ids))


@EVERY
@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "fifo"])
def test_asynchronous_equals_inline_at_any_depth_and_interval(depth, interval, policy):
    runs = []
    for asynchronous in (False, True):
        proportions = "balanced" if policy == "class_balanced" else "uniform"
        options = {"depth": depth, "interval": interval, "admission": policy, "proportions": proportions, "spec": SPEC}
        with open_rehearsal(asynchronous=asynchronous, **options) as rehearsal:
            runs.append(extend_all(rehearsal, stream(), late=True))
    assert_same(*runs)


@EVERY
@pytest.mark.parametrize("max_age", [None, 9])
def test_a_run_resumed_after_any_step_sees_the_same(depth, interval, max_age):
    options = {"depth": depth, "interval": interval, "spec": SPEC, "max_age": max_age}
    minibatches = stream(18)
    with open_rehearsal(**options) as rehearsal:
        expected = extend_all(rehearsal, minibatches, late=True)
        counted = rehearsal.stats()
    for stop in range(1, len(minibatches), 2):
        with open_rehearsal(**options) as rehearsal:
            extend_all(rehearsal, minibatches[:stop], late=True)
            state = copy.deepcopy(rehearsal.state_dict())
        with open_rehearsal(**options) as rehearsal:
            rehearsal.load_state_dict(state)
            assert_same(extend_all(rehearsal, minibatches[stop:], late=True), expected[stop:])
            for name in ("rounds", "exemplars_fetched"):
                assert rehearsal.stats()[name] == counted[name]


@pytest.mark.parametrize("before", AHEAD)
@pytest.mark.parametrize("after", [(1, 1), (2, 3)])
def test_a_run_goes_on_with_another_depth_and_interval(before, after):
    for stop in (1, 7, 9):
        with open_rehearsal(1000, R, depth=before[0], interval=before[1]) as rehearsal:
            extend_all(rehearsal, fresh(stop))
            state = copy.deepcopy(rehearsal.state_dict())
        with open_rehearsal(1000, R, depth=after[0], interval=after[1]) as rehearsal:
            rehearsal.load_state_dict(state)
            batches = extend_all(rehearsal, fresh()[stop:])
            rounds = rehearsal.stats()["rounds"]
        for t, batch in enumerate(batches, stop):
            handed_in = (t // after[1] - after[0]) * after[1]
            drawable = handed_in * B
            if before != after and 0 <= handed_in < stop:  # fetched anew when the state was loaded
                drawable = (stop - 1) * B
            ids = rehearsed_ids(batch)
            assert len(set(ids)) == len(ids) == min(R, max(drawable, 0))
            assert all(i < drawable for i in ids)
        assert rounds == 1 + (STEPS - 1) // after[1] or before != after


@EVERY
def test_forgetting_fetches_anew_what_is_ready(depth, interval):
    forgotten = set(range(10, 30))
    with open_rehearsal(1000, R, depth=depth, interval=interval) as rehearsal:
        for t, ids in enumerate(fresh()):
            if t == 14:
                assert rehearsal.forget(sorted(forgotten)) == len(forgotten)
            batch = rehearsal.extend(minibatch_of(ids))
            drawn = rehearsed_ids(batch)
            handed_in = (t // interval - depth) * interval
            fetched_anew = t >= 14 and 0 <= handed_in < 14
            assert len(drawn) == (R if fetched_anew else min(R, max(handed_in, 0) * B))
            assert t < 14 or not forgotten & set(drawn)
            assert torch.equal(batch["image"], image_of(batch["sample_id"].tolist()))


def test_every_exemplar_is_drawn_equally_often_and_the_draws_of_a_round_are_independent():
    interval, n, rounds = 3, 30, 1500
    drawn, overlaps, last = np.zeros(n), [], np.empty(0)
    with open_rehearsal(n, 6, interval=interval, asynchronous=False, seed=5) as rehearsal:
        for t in range(rounds * interval):
            exemplars = rehearsal.step(minibatch_of(np.arange(n) if t == 0 else np.empty(0, np.int64)))
            if exemplars is None:
                continue
            ids = exemplars.sample_id.numpy().copy()
            drawn[ids] += 1
            if t % interval:
                overlaps.append(len(np.intersect1d(ids, last)))
            last = ids
    chi_square = ((drawn - drawn.mean()) ** 2 / drawn.mean()).sum() * (n - 1) / (n - 6)
    assert 0.001 < stats.chi2.sf(chi_square, n - 1) < 0.999
    law = stats.hypergeom(n, 6, 6)
    expected = law.pmf(np.arange(7)) * len(overlaps)
    observed = np.bincount(overlaps, minlength=7)
    pooled = np.array([[*x[:3], x[3:].sum()] for x in (observed, expected)])
    assert stats.chisquare(*pooled).pvalue > 0.001


SMALL = RecordSpec({"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ())})


@EVERY
@pytest.mark.parametrize("capacity", [1, 6, 10])
@pytest.mark.parametrize("removed", [0, 4])
def test_spare_rows_suffice_and_no_row_changes_while_a_round_in_flight_may_read_it(depth, interval, capacity, removed):
    """Every minibatch of 6 is stored, at the cost of older ones."""
    num_rows = capacity + spare_rows(capacity, 6, depth, interval)
    rows = np.full((num_rows, SMALL.words), -1)
    buffer = Buffer(SMALL, capacity, rows, build_admission("fifo", candidates=None, seed=0, rank=0))
    table = PositionTable(capacity)
    seen = []  # tables of rounds, and what they showed
    for t in range(40):
        if t % interval == 0 and t // interval >= depth:
            buffer.release()
        buffer.commit()
        if t % 5 == 4 and buffer.size > removed:
            buffer.remove(np.arange(removed))
        if t % interval == 0:
            table.apply(buffer.hand_in())
            seen.append((table.rows.copy(), rows[table.rows].copy()))
        ids = np.arange(6 * t, 6 * t + (1 if t % 7 == 3 else 6))
        fields = minibatch_of(ids)
        del fields["sample_id"]
        buffer.stage(fields, offer_of(ids, t))
        for where, content in seen[-depth - 1 :]:  # peers may still be in the round before the oldest in flight
            np.testing.assert_array_equal(rows[where], content)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be .*, got 0"),
        ({"depth": "auto"}, "depth must be an integer, got 'auto'"),
        ({"interval": 0}, "interval must be .*, got 0"),
        ({"interval": "often"}, "interval must be an integer, got 'often'"),
        ({"interval": 2000}, "interval must be .*, got 2000"),
        ({"interval": 2, "uneven": "stop"}, "interval must be 1, got 2"),
        ({"depth": 2, "uneven": "stop"}, "depth must be 1, got 2"),
        ({"depth": 2, "exemplars": "auto"}, "depth must be 1, got 2"),
    ],
)
def test_settings_that_cannot_work_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Rehearsal(**{"capacity": 10, "exemplars": 2, **options})


def test_memory_and_what_was_chosen_are_told(capsys):
    with open_rehearsal(100, R, depth=2, interval=3, asynchronous=True, verbose=True) as rehearsal:
        extend_all(rehearsal, fresh(1))
        told = capsys.readouterr().err
        assert "rounds asynchronous, every 3 steps, 2 in flight" in told
        assert (rehearsal.stats()["depth"], rehearsal.stats()["interval"]) == (2, 3)
        parts = rehearsal._running.parts
        row = parts.spec.row_bytes
        assert parts.buffer.rows.nbytes == (100 + 3 * 3 * B) * row
        memory = parts.memory_bytes()
        assert memory["spare rows"] == 3 * 3 * B * row
        assert memory["staging"] == (3 * 3 * R + 2 * (B + R)) * row
        json.dumps(rehearsal.stats())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_after_a_failed_round_those_behind_it_are_not_run(asynchronous, monkeypatch):
    calls = []

    def broken(*_):
        calls.append(1)
        raise OSError("the disk is full")

    rehearsal = open_rehearsal(depth=3, asynchronous=asynchronous)
    extend_all(rehearsal, fresh(6))
    rehearsal.state_dict()
    monkeypatch.setattr(rehearsal._running.parts.exchange, "fetch", broken)
    with pytest.raises(OSError, match="the disk is full"):
        extend_all(rehearsal, fresh(12)[6:])
    assert len(calls) == 1
    rehearsal.close()


def test_late_fields_come_back_at_any_depth_and_interval():
    for depth, interval in AHEAD:
        with open_rehearsal(spec=SPEC, depth=depth, interval=interval) as rehearsal:
            for ids in stream(20):
                exemplars = rehearsal.step(minibatch_of(ids))
                if exemplars is not None:
                    assert torch.equal(exemplars.fields["logits"], logits_of(exemplars.sample_id.tolist()))
                rehearsal.attach(logits=logits_of(ids))


@pytest.mark.parametrize(("interval", "is_async"), [(1, False), (8, True)])
def test_rounds_that_fetch_much_at_once_run_beside_the_step(interval, is_async):
    with open_rehearsal(100, 7, interval=interval, stratum=None) as rehearsal:
        rehearsal.extend({"vector": torch.zeros(4, 4096, dtype=torch.int64), "sample_id": torch.arange(4)})
        assert rehearsal.stats()["asynchronous"] is is_async


SHORT = {"transport": Shared(), "round_bytes": 10_000, "has_core": False, "has_gpu": False}


@pytest.mark.parametrize(
    ("differs", "inline"),
    [
        ({}, True),
        ({"transport": Loopback(), "has_core": True, "depth": 2, "counts_strata": True}, True),  # waits for nobody
        ({"transport": Loopback(), "has_gpu": True}, False),
        ({"transport": Loopback(), "has_gpu": True, "rows_on_gpu": True, "round_bytes": 2 << 20}, True),
        ({"has_gpu": True, "rows_on_gpu": True}, False),
        ({"transport": Collective()}, False),  # waits for sockets
        ({"counts_strata": True}, False),
        ({"has_core": True}, False),
        ({"has_gpu": True}, False),
        ({"depth": 2}, False),
        ({"round_bytes": 2 << 20}, False),
    ],
)
def test_where_rounds_run(differs, inline):
    assert runs_inline(**{**SHORT, **differs}) is inline


def of_node(node, cores, threads=1):
    return {"node": node, "cores": format(sum(1 << core for core in cores), "x"), "threads": threads}


@pytest.mark.parametrize(
    ("greetings", "spare"),
    [
        ([of_node("a", range(2))], True),
        ([of_node("a", range(2), threads=2)], False),
        ([of_node("a", range(4))] * 2, True),
        ([of_node("a", range(3))] * 2, False),  # shared by both
        ([of_node("a", [0]), of_node("a", [64])], False),  # bound to one each
        ([of_node("a", [0, 1]), of_node("a", [64, 65])], True),
        ([of_node("a", range(2)), of_node("b", range(64))], True),
    ],
)
def test_whether_a_worker_has_a_core(greetings, spare):
    assert has_core(greetings, 0) is spare
