"""Capacity: a number, an amount of memory or a share of the data, per rank or in total."""

import pytest

from drb.buffer.capacity import capacity_of_rank, check_capacity


def capacities(capacity, scope="rank", world_size=1, record_bytes=1000, num_samples=None):
    return [
        capacity_of_rank(
            capacity, scope, rank=rank, world_size=world_size, record_bytes=record_bytes, num_samples=num_samples
        )
        for rank in range(world_size)
    ]


@pytest.mark.parametrize(
    ("capacity", "scope", "expected"),
    [
        (500, "rank", [500, 500, 500]),
        ("500", "rank", [500, 500, 500]),
        (500, "total", [167, 167, 166]),
        (2, "total", [1, 1, 0]),
        ("20KB", "rank", [20, 20, 20]),
        ("20 KiB", "rank", [20, 20, 20]),
        ("2.5KB", "rank", [2, 2, 2]),
        ("1MiB", "total", [350, 349, 349]),
        ("30%", "rank", [30, 30, 30]),  # a share is of the whole stream, whatever the scope
        ("30%", "total", [30, 30, 30]),
        ("100 %", "rank", [100] * 3),
        ("12.5%", "rank", [13, 12, 12]),
    ],
)
def test_what_each_of_three_ranks_may_hold(capacity, scope, expected):
    num_samples = {"30%": 90 * 10 // 3, "100 %": 300, "12.5%": 300}.get(capacity)
    assert capacities(capacity, scope, 3, num_samples=num_samples) == expected


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_share_is_exact(percent):
    assert capacities(f"{percent}%", num_samples=100) == [percent]


def test_an_amount_of_memory_is_exact():
    assert capacities("2.3MB", record_bytes=1) == [2_300_000]


def test_a_large_total_is_split_without_loss():
    assert sum(capacities("1TiB", "total", 7, record_bytes=3)) == 2**40 // 3


@pytest.mark.parametrize("capacity", ["lots", "", "-3", "20 GB/s", "5 XB", 1.5, None, True, "1e3"])
def test_what_is_no_capacity_is_shown(capacity):
    with pytest.raises(ValueError, match=f"capacity must be exemplars .* got {capacity!r}"):
        check_capacity(capacity)


@pytest.mark.parametrize("capacity", [0, -1, "0", "0B", "0.5B"])
def test_a_capacity_below_one_exemplar_is_refused(capacity):
    with pytest.raises(ValueError, match=f"capacity must be at least 1 exemplar, got {capacity!r}"):
        check_capacity(capacity)


@pytest.mark.parametrize("capacity", ["0%", "101%"])
def test_a_share_is_of_the_data(capacity):
    with pytest.raises(ValueError, match=f"capacity='{capacity}' must be a share above 0 % and up to 100 %"):
        check_capacity(capacity)


def test_a_share_needs_the_streams_length():
    check_capacity("30%")
    with pytest.raises(ValueError, match="'30%' is a share of the data: give num_samples="):
        capacities("30%")


def test_memory_for_less_than_one_record_is_refused():
    with pytest.raises(ValueError, match=r"capacity=999B has room for no exemplar \(one takes 1000 bytes\)"):
        capacities("999B")


def test_an_unknown_scope_is_named():
    with pytest.raises(ValueError, match="capacity_scope must be rank or total, got 'node'"):
        capacities(5, "node")
