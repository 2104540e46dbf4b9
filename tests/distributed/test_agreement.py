"""Ranks whose settings differ all say the same: who differs, in what, and both values."""

from __future__ import annotations

from ranks import run_ranks

from drb.distributed.agreement import check_same_settings, value_of_main
from drb.distributed.world import World


def outcome(rank, world_size, settings):
    try:
        check_same_settings(settings[rank], World(rank=rank, world_size=world_size))
    except ValueError as error:
        return str(error)


def test_equal_settings_are_no_error():
    settings = {"seed": 3, "model": {"hidden": [100, 100], "init": None}, "rate": float("nan")}
    assert run_ranks(outcome, 3, [settings] * 3) == [None] * 3


def test_the_lowest_rank_that_differs_is_named_on_all_ranks():
    main = {"seed": 0, "model": {"hidden": [100], "init": "random"}}
    settings = [main, main, {"seed": 4, "model": {"init": "random", "width": 3}}]
    expected = (
        "rank 2 was started with seed=4 (rank 0: 0), model.hidden=unset (rank 0: [100]), "
        "model.width=3 (rank 0: unset); start all ranks with the same arguments and the same drb"
    )
    assert run_ranks(outcome, 3, settings) == [expected] * 3


def test_many_differences_are_counted():
    settings = [{f"key{index}": rank for index in range(9)} for rank in range(2)]
    message = run_ranks(outcome, 2, settings)[0]
    assert "key3=1 (rank 0: 0) and 5 more; start" in message
    assert "key4" not in message


def test_one_rank_has_nothing_to_compare():
    assert check_same_settings({"seed": object()}, World()) is None


def made_up(rank, world_size):
    return value_of_main("name", f"made up by {rank}", World(rank=rank, world_size=world_size))


def test_what_rank_0_made_up_counts():
    assert run_ranks(made_up, 3) == ["made up by 0"] * 3
    assert made_up(0, 1) == "made up by 0"
