"""All ranks learn of a signal or a clock at the same step, and hardly ever talk about it."""

from __future__ import annotations

import os
import signal
import time

import pytest
from ranks import run_ranks

from drb.checkpoint import CheckpointSettings, StopSignals, check_signals
from drb.checkpoint.agreement import Agreement, Wish


def agree(rank: int, world_size: int, sender: int, at: int) -> tuple[int, int, int]:
    """Steps of 1 ms; `sender` gets a signal at step `at`. The step at which a rank knows, the signal, the exchanges."""
    import torch.distributed as dist

    signals = StopSignals(["USR2"])
    with signals:
        agreement = Agreement(lambda: Wish(signals.received), dist.new_group(backend="gloo"), every_s=0.02)
        visits = 0
        for step in range(1, 2000):
            dist.barrier()  # stands for the gradients
            time.sleep(0.001)
            if step == at and rank == sender:
                os.kill(os.getpid(), signal.SIGUSR2)
            if step >= agreement.next_step:
                visits += 1
                if wish := agreement.visit(step):
                    return step, wish.signal, visits
    return -1, 0, 0


@pytest.mark.parametrize(("world_size", "sender"), [(2, 1), (3, 0)])
def test_all_ranks_stop_at_the_same_step(world_size, sender):
    results = run_ranks(agree, world_size, sender, 100)
    step, number, visits = results[0]
    assert results == [results[0]] * world_size
    assert number == signal.SIGUSR2
    assert 100 < step < 300
    assert visits < step / 2


def now(rank: int, world_size: int) -> list[Wish]:
    import torch.distributed as dist

    wishes = [Wish(), Wish(save=rank == 0), Wish(signal=15 * rank)]
    agreement = Agreement(lambda: wishes[0], dist.new_group(backend="gloo"))
    heard = []
    for step in range(1, 4):
        assert agreement.visit(step) == Wish() or step > 1  # an exchange is left under way
        heard.append(agreement.now())
        wishes.pop(0)
    return heard


def test_between_tasks_the_answer_is_waited_for():
    assert run_ranks(now, 2) == [[Wish(), Wish(save=True), Wish(signal=15)]] * 2


def test_one_rank_agrees_with_itself_at_once_and_asks_rarely():
    wish = Wish()
    agreement = Agreement(lambda: wish, None, every_s=0.05)
    visits = 0
    for step in range(1, 20_000):
        if step >= agreement.next_step:
            visits += 1
            assert agreement.visit(step) == Wish()
    assert visits < 40
    wish = Wish(signal=10)
    assert agreement.visit(agreement.next_step) == wish


def test_the_pace_starts_anew_with_a_task():
    agreement = Agreement(Wish, None, every_s=10.0)
    for step in (1, 2, 10, 60):
        agreement.visit(step)
    assert agreement.next_step > 70
    agreement.restart(70)
    assert agreement.next_step == 71


def test_a_signal_passed_on_is_one_signal_but_a_later_one_ends(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with StopSignals(["USR2", "TERM"]) as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        clock[0] += 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGUSR2
        clock[0] += 5
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGTERM)
        assert end.value.code == 128 + signal.SIGTERM


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGUSR2)
    with StopSignals(["USR2"]):
        assert signal.getsignal(signal.SIGUSR2) is not before
    assert signal.getsignal(signal.SIGUSR2) is before


def test_unknown_signals_are_refused():
    check_signals(CheckpointSettings().signals)
    with pytest.raises(ValueError, match=r"among USR1, USR2, TERM, INT or HUP, got 'KILL'"):
        check_signals(["TERM", "KILL"])
