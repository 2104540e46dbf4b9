"""Engines: one result per round, errors with their own traceback, and a thread that ends."""

import threading
import time
import traceback

import pytest

from drb.rehearsal.engine import AsyncEngine, EarlyNews, InlineEngine

ENGINES = [InlineEngine, AsyncEngine]


@pytest.fixture(params=ENGINES)
def engine(request):
    engine = request.param()
    yield engine
    engine.close()


def test_results_come_in_order(engine):
    for number in range(50):
        engine.submit(lambda number=number: number * 2)
        assert engine.result(10) == number * 2


def test_an_error_comes_with_the_traceback_of_where_it_happened(engine):
    def a_round_that_fails():
        raise KeyError("stratum 7")

    def submit_and_wait():
        engine.submit(a_round_that_fails)
        engine.result(10)

    with pytest.raises(KeyError, match="stratum 7") as raised:
        submit_and_wait()
    assert "a_round_that_fails" in "".join(traceback.format_tb(raised.value.__traceback__))
    engine.submit(lambda: 1)  # the engine itself is unharmed
    assert engine.result(10) == 1


def test_close_is_idempotent(engine):
    engine.submit(lambda: 1)
    engine.close()
    engine.close()


def test_inline_rounds_run_on_the_callers_thread_and_asynchronous_ones_do_not():
    for engine, same in ((InlineEngine(), True), (AsyncEngine(), False)):
        engine.submit(threading.get_ident)
        assert (engine.result(10) == threading.get_ident()) is same
        assert engine.is_async is not same
        engine.close()


def test_submit_does_not_wait_for_an_asynchronous_round():
    engine, may_end = AsyncEngine(), threading.Event()
    engine.submit(lambda: may_end.wait(10))
    may_end.set()  # would never be reached if submit waited
    assert engine.result(10) is True
    engine.close()


def test_a_round_that_takes_too_long_is_reported():
    engine, may_end = AsyncEngine(), threading.Event()
    engine.submit(lambda: may_end.wait(10))
    with pytest.raises(TimeoutError, match=r"the rehearsal round did not end within 0\.01 s"):
        engine.result(0.01)
    may_end.set()
    engine.close()


def test_the_worker_ends_after_close():
    before = set(threading.enumerate())
    engine = AsyncEngine()
    (worker,) = set(threading.enumerate()) - before
    assert worker.daemon
    engine.submit(lambda: time.sleep(0.01))
    engine.close()
    worker.join(10)
    assert not worker.is_alive()


def test_early_news_arrive_before_the_result():
    engine, news, may_end = AsyncEngine(), EarlyNews(), threading.Event()

    def a_round():
        news.put("statuses")
        assert may_end.wait(10)
        return "exemplars"

    engine.submit(lambda: news.watch(a_round))
    assert news.get() == "statuses"
    may_end.set()
    assert engine.result(10) == "exemplars"
    engine.close()


def test_a_round_that_fails_before_its_news_does_not_leave_the_reader_waiting():
    engine, news = AsyncEngine(), EarlyNews()
    engine.submit(lambda: news.watch(lambda: 1 / 0))
    assert news.get() is None
    with pytest.raises(ZeroDivisionError):
        engine.result(10)
    engine.submit(lambda: news.watch(lambda: news.put("again")))  # the next round's news are its own
    assert news.get() == "again"
    engine.result(10)
    engine.close()
