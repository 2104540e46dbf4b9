"""Settings: a value that cannot work is named, with what is allowed; ranks that differ are told."""

import pytest

from drb.rehearsal.settings import RehearsalSettings, require_agreement


def test_the_defaults_are_valid():
    settings = RehearsalSettings(500, 7)
    assert not settings.needs_strata
    assert settings.id_field == "sample_id"
    assert RehearsalSettings(500, 7, sample_id="arrival").id_field is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 0}, "capacity must be at least 1 exemplar, got 0"),
        ({"capacity": "30%"}, "'30%' is a share of the data: give num_samples="),
        ({"capacity": "much"}, "capacity must be exemplars .* got 'much'"),
        ({"exemplars": 0}, "exemplars must be an integer of at least 1, auto, or auto:N with a limit, got 0"),
        ({"exemplars": 7.0}, "exemplars must be an integer of at least 1, auto, or auto:N with a limit, got 7.0"),
        ({"exemplars": "many"}, "exemplars must be an integer of at least 1, auto, or auto:N with a limit, got 'many'"),
        ({"exemplars": "auto:0"}, "exemplars must be an integer of at least 1, auto, or auto:N .* got 'auto:0'"),
        ({"exemplars": "auto", "asynchronous": False}, "exemplars=auto needs rounds that run behind the training"),
        ({"exemplars": True}, "exemplars must be an integer of at least 1, auto, or auto:N with a limit, got True"),
        ({"min_fill": -1}, "min_fill must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_samples": "all"}, "num_samples must be an integer or None, got 'all'"),
        ({"timeout_s": 0}, "timeout_s must be above 0 and at most 3.2e.08, got 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be above 0 and at most 3.2e.08, got nan"),
        (
            {"admission": "lru"},
            "unknown admission policy 'lru'; choose class_balanced, closed, fifo, mean_matching, random_replacement or",
        ),
        (
            {"proportions": "fair"},
            "unknown proportions 'fair'; choose .*balanced, .* or uniform, or give the dotted path",
        ),
        (
            {"exchange": "rdma"},
            "unknown exchange .rdma.; did you mean rma. choose auto, collective, hierarchical",
        ),
        ({"capacity_scope": "node"}, "capacity_scope must be rank or total, got 'node'"),
        ({"asynchronous": "yes"}, "asynchronous must be auto, true or false, got 'yes'"),
        ({"uneven": "pad"}, "uneven must be error or stop, got 'pad'"),
        ({"candidates": 14}, "candidates=14 has no meaning for admission=reservoir"),
        ({"admission": "random_replacement"}, "random_replacement needs the option candidates"),
        ({"proportions": "balanced", "stratum": None}, "proportions=balanced needs stratum, a field name"),
        ({"admission": "class_balanced", "stratum": None}, "admission=class_balanced .* needs stratum"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        RehearsalSettings(**{"capacity": 500, "exemplars": 7, **changes})


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, False),
        ({"admission": "fifo", "stratum": None}, False),
        ({"proportions": "stream"}, False),
        ({"proportions": "balanced"}, True),
        ({"admission": "class_balanced"}, True),
        ({"admission": "random_replacement", "candidates": 3}, True),
    ],
)
def test_strata_are_needed_only_where_something_counts_them(changes, needs):
    assert RehearsalSettings(500, 7, **changes).needs_strata is needs


def test_what_may_differ_between_ranks_is_not_compared():
    one = RehearsalSettings(500, 7, batch_size=8, timeout_s=5)
    other = RehearsalSettings(500, 7, batch_size=9, timeout_s=6)
    assert one.shared_by_all() == other.shared_by_all()
    assert one.shared_by_all() != RehearsalSettings(500, 8).shared_by_all()


def test_ranks_that_differ_are_named_with_their_values():
    require_agreement([{"seed": 1}, {"seed": 1}], "setting")
    with pytest.raises(ValueError, match="the ranks disagree on setting 'seed': rank 0 has 1, rank 2 has 5; start all"):
        require_agreement([{"seed": 1}, {"seed": 1}, {"seed": 5}], "setting")
    with pytest.raises(ValueError, match="the record's field 'label': rank 0 has 'int64', rank 1 has None"):
        require_agreement([{"label": "int64"}, {}], "the record's field")
