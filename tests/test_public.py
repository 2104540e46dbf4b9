"""The names that users import: changing one of them, or what it is called with, is a breaking change."""

from __future__ import annotations

import inspect

import drb

SETTINGS = (
    "capacity exemplars seed spec capacity_scope candidates admission max_age refill proportions exchange storage "
    "storage_folder device_share stratum sample_id asynchronous process_group min_fill uneven timeout_s depth interval "
    "draws importance batch_size num_samples data prefilled device verbose"
)
MEMBERS = (
    "ages attach begin_task close counts describe duplicate_share edit extend feedback forget forget_observers "
    "importance "
    "load_state_dict next_step recorder resharded sample_ids settings state_dict stats step stopped"
)


def test_public_names():
    names = (
        "Exemplars Field Handle Minibatch MixedSource OwnerSampler PeerError RecordSpec Rehearsal UnevenError with_ids"
    )
    assert drb.__all__ == names.split()
    assert all(hasattr(drb, name) for name in drb.__all__)


def test_what_a_rehearsal_takes_and_offers():
    assert list(inspect.signature(drb.Rehearsal).parameters) == SETTINGS.split()
    rehearsal = drb.Rehearsal(10, 2)
    assert sorted(name for name in dir(rehearsal) if not name.startswith("_")) == sorted(MEMBERS.split())


def test_every_public_name_is_documented():
    for name in drb.__all__:
        if name != "Minibatch":  # an alias: its description follows its definition
            assert getattr(drb, name).__doc__, name
