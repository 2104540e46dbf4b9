"""Prefilled samples are drawn as those of one more rank, from the mapped files, and are not stored again."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import run_cases
from samples import image_of, minibatch_of
from scipy import stats

from drb import Rehearsal
from drb.buffer.codecs.deflate import Deflate
from drb.buffer.record import SAMPLE_ID, Field
from drb.data.cache import erase
from drb.data.cache.parallel import build_together
from drb.data.datasets import Dataset, TensorSource
from drb.distributed.world import World

BASE = np.arange(5000, 5060)  # ids of the prefilled samples


def prefilled(folder, ids=BASE) -> str:
    source = TensorSource(minibatch_of(ids))
    dataset = Dataset(source, source.subset(np.arange(4)), (1, 5, 5), 5, mean=(0.5,), std=(0.2,))
    build_together(Path(folder), dataset, {"ids": ids.tolist()}, World(), 20.0, lambda line: None)
    return str(folder)


def open_rehearsal(folder, **options):
    return Rehearsal(**{"capacity": 30, "exemplars": 12, "seed": 3, "prefilled": folder, "verbose": False, **options})


def run(rank, world_size, options, steps=12, state=None, first=0, forget=()):
    """Exemplars' ids by step, whether all were whole, and the state in the end."""
    drawn, whole = [], True
    with open_rehearsal(**options) as rehearsal:
        if state is not None:
            rehearsal.load_state_dict(state[rank])
        for t in range(first, first + steps):
            ids = np.concatenate((1000 * rank + 100 + 4 * t + np.arange(4), BASE[[t % 60]]))  # one is prefilled
            batch = rehearsal.extend(minibatch_of(ids))
            past = batch["sample_id"][batch["rehearsed"]]
            whole &= torch.equal(batch["image"], image_of(batch["sample_id"]))
            whole &= torch.equal(batch["label"], batch["sample_id"] % 5)
            drawn.append(past.tolist())
            for step, what in forget:
                if step == t:
                    rehearsal.forget(**what)
        assert not set(rehearsal.sample_ids().tolist()) & set(BASE.tolist())
        return drawn, whole, rehearsal.state_dict(), rehearsal.describe()


def is_base(sample_id):
    return 5000 <= sample_id < 6000


OPTIONS = (
    {},
    {"exchange": "collective"},
    {"admission": "class_balanced", "proportions": "balanced"},
    {"proportions": "stream"},
    {"draws": 2, "exemplars": 6},
    {"depth": 2, "interval": 2},
)


@pytest.mark.parametrize("world_size", [1, 2])
def test_they_are_drawn_as_those_of_one_more_rank(world_size, tmp_path):
    folder = prefilled(tmp_path / "base")
    cases = {}
    for number, options in enumerate(OPTIONS[0 if world_size == 2 else 2 :]):
        for asynchronous in (True, False):
            cases[f"{number} {asynchronous}"] = [{"folder": folder, "asynchronous": asynchronous, **options}]
    cases["forget"] = [
        {"folder": folder},
        12,
        None,
        0,
        ((4, {"sample_ids": BASE[:10]}), (6, {"where": {"label": 3}})),
    ]
    results = run_cases(run, world_size, cases, timeout=60)
    for name, by_rank in results.items():
        for drawn, whole, _, describe in by_rank:
            assert whole, name
            assert "60 mapped from" in describe or name == "forget"
            assert all(len(ids) == 12 for ids in drawn[4:])
            assert any(is_base(each) for ids in drawn for each in ids)
            assert any(not is_base(each) for ids in drawn for each in ids)
    for number in range(len(cases) // 2):  # in the background as in the foreground
        ours, reference = results[f"{number} True"], results[f"{number} False"]
        assert [each[0] for each in ours] == [each[0] for each in reference]
        assert all(
            np.array_equal(one[2]["fetched"]["rows"], other[2]["fetched"]["rows"])
            for one, other in zip(ours, reference, strict=True)
        )
    later = [each for drawn, *_ in results["forget"] for ids in drawn[5:] for each in ids]
    assert not set(later) & set(BASE[:10].tolist())
    later = [each for drawn, *_ in results["forget"] for ids in drawn[7:] for each in ids]
    assert not any(each % 5 == 3 for each in later if is_base(each))


def test_every_sample_of_the_union_is_as_likely_as_any_other(tmp_path):
    folder, counts, steps = prefilled(tmp_path / "base"), Counter(), 1500
    with open_rehearsal(folder, asynchronous=False) as rehearsal:
        ids = np.arange(24)
        for t in range(steps):
            batch = rehearsal.extend(minibatch_of(ids[t % 3 :: 3]))
            if t >= 6:
                counts.update(batch["sample_id"][batch["rehearsed"]].tolist())
    assert counts.keys() == {*ids.tolist(), *BASE.tolist()}
    observed = np.array(list(counts.values()))
    chi = ((observed - observed.mean()) ** 2).sum() / observed.mean() * (84 - 1) / (84 - 12)
    assert 1e-3 < stats.chi2.sf(chi, 83) < 1 - 1e-3


def test_a_run_goes_on_with_them_bit_for_bit_and_without_them_draws_anew(tmp_path):
    folder = prefilled(tmp_path / "base")
    whole = run(0, 1, {"folder": folder}, 12)
    first = run(0, 1, {"folder": folder}, 5)
    second = run(0, 1, {"folder": folder}, 7, [first[2]], 5)
    assert first[0] + second[0] == whole[0]
    assert np.array_equal(second[2]["buffer"]["columns"]["sample_id"], whole[2]["buffer"]["columns"]["sample_id"])
    with Rehearsal(capacity=30, exemplars=12, seed=3, verbose=False) as rehearsal:
        rehearsal.load_state_dict(first[2])
        batch = rehearsal.extend(minibatch_of(np.arange(4)))
        assert not any(map(is_base, batch["sample_id"].tolist()))
    with open_rehearsal(folder) as rehearsal:
        rehearsal.load_state_dict(first[2])
        rehearsal.forget(BASE[:55])
        drawn = [rehearsal.extend(minibatch_of([t]))["sample_id"][1:].tolist() for t in range(6)]
    assert not set(BASE[:55].tolist()) & {each for ids in drawn for each in ids}


def test_erased_samples_and_codecs(tmp_path):
    folder = prefilled(tmp_path / "base")
    erase(Path(folder), BASE[:50])
    spec = {"image": Field(torch.uint8, (1, 5, 5), codec=Deflate(max_bytes=60)), "label": Field(torch.int64, ())}
    drawn, whole, *_ = run(0, 1, {"folder": folder, "spec": spec})
    assert whole
    assert {each for ids in drawn for each in ids if is_base(each)} <= set(BASE[50:].tolist())
    assert any(map(is_base, drawn[0] + drawn[2]))
    rehearsal = open_rehearsal(folder, asynchronous=False)
    rehearsal.extend(minibatch_of([0]))
    erase(Path(folder), BASE[50:])
    with pytest.raises(ValueError, match=r"the sample 50\d\d was erased from .* while this run uses it"):
        rehearsal.extend(minibatch_of([1]))
    rehearsal.close()


def test_what_was_erased_while_a_run_was_stopped_is_not_given_from_its_state(tmp_path):
    folder = prefilled(tmp_path / "base")
    _, _, state, _ = run(0, 1, {"folder": folder}, 5)
    waiting = [each for each in state["fetched"]["rows"][:, SAMPLE_ID].tolist() if is_base(each)]
    assert waiting
    erase(Path(folder), waiting)
    drawn, *_ = run(0, 1, {"folder": folder}, 2, [state], 5)
    assert not set(waiting) & {each for ids in drawn for each in ids}


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"prefilled": "nowhere"}, {}, r"the prefilled folder nowhere is not there; make it with drb prefill nowhere"),
        ({"sample_id": "arrival"}, {}, r"has samples with ids, and with sample_id=\"arrival\" the stream has none"),
        ({}, {"image": torch.zeros(2, 1, 5, 6, dtype=torch.uint8)}, r"holds 'image' as uint8 \[1, 5, 5\] a sample"),
        ({}, {"target": torch.zeros(2)}, r"every record must have 'target'; use a method that stores no such field"),
        ({"stratum": "task", "proportions": "balanced"}, {"task": torch.zeros(2, dtype=torch.int64)}, r"by label, and"),
    ],
)
def test_what_does_not_fit_is_one_line(options, fields, message, tmp_path):
    options = {"folder": prefilled(tmp_path / "base"), **options}
    if "prefilled" in options:
        options["folder"] = options.pop("prefilled")
    minibatch = {**minibatch_of([1, 2]), **fields}
    if options.get("sample_id") == "arrival":
        del minibatch["sample_id"]
    rehearsal = open_rehearsal(**options)
    with pytest.raises(ValueError, match=message) as error:
        rehearsal.extend(minibatch)
    assert "\n" not in str(error.value)
    rehearsal.close()
