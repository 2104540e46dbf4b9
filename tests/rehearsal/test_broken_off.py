"""After an error in the middle of a step nobody knows which rows are whose: the rehearsal says so, and only ends."""

import operator

import pytest
from rehearsal.rehearsing import BOTH, extend_all, open_rehearsal
from samples import minibatch_of

AFTER = "this rehearsal failed before and cannot go on"


def require_broken(rehearsal, cause):
    for call in (
        lambda: rehearsal.extend(minibatch_of([1, 2])),
        lambda: rehearsal.step(minibatch_of([1, 2])),
        rehearsal.state_dict,
        rehearsal.duplicate_share,
        lambda: rehearsal.forget([1]),
    ):
        with pytest.raises(RuntimeError, match=f"{AFTER} .*{cause}"):
            call()
    rehearsal.close()


@BOTH
@pytest.mark.parametrize("depth", [1, 2])
def test_a_wait_that_was_interrupted(asynchronous, depth, monkeypatch):
    rehearsal = open_rehearsal(asynchronous=asynchronous, depth=depth)
    extend_all(rehearsal, [range(8 * t, 8 * t + 8) for t in range(6)])
    engine = rehearsal._running.parts.engine

    def interrupted(timeout_s=None):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rehearsal.extend(minibatch_of(range(48, 56)))
    require_broken(rehearsal, "KeyboardInterrupt")


@BOTH
@pytest.mark.parametrize(("part", "method"), [("_running.steps._output", "extend"), ("_running.parts.buffer", "stage")])
def test_a_minibatch_that_could_not_be_extended_or_stored(asynchronous, part, method, monkeypatch):
    rehearsal = open_rehearsal(asynchronous=asynchronous)
    extend_all(rehearsal, [range(8 * t, 8 * t + 8) for t in range(6)])

    def out_of_memory(*_):
        monkeypatch.undo()
        raise MemoryError("no room")

    monkeypatch.setattr(operator.attrgetter(part)(rehearsal), method, out_of_memory)
    with pytest.raises(MemoryError):
        rehearsal.extend(minibatch_of(range(48, 56)))
    require_broken(rehearsal, "MemoryError: no room")


@BOTH
def test_a_round_that_failed(asynchronous, monkeypatch):
    rehearsal = open_rehearsal(asynchronous=asynchronous, admission="fifo")
    extend_all(rehearsal, [range(8 * t, 8 * t + 8) for t in range(6)])
    rehearsal.state_dict()

    def out_of_memory(*_):
        monkeypatch.undo()
        raise MemoryError("no room")

    monkeypatch.setattr(rehearsal._running.parts.exchange, "fetch", out_of_memory)
    with pytest.raises(MemoryError):
        extend_all(rehearsal, [range(8 * t, 8 * t + 8) for t in range(6, 9)])
    require_broken(rehearsal, "MemoryError: no room")


def test_a_broken_minibatch_breaks_nothing_off():
    with open_rehearsal() as rehearsal:
        extend_all(rehearsal, [range(8)])
        for _ in range(3):
            with pytest.raises(ValueError, match="image"):
                rehearsal.extend({k: v for k, v in minibatch_of(range(8)).items() if k != "image"})
        extend_all(rehearsal, [range(8, 16)])
