"""Malformed minibatches, late fields and settings: refused in one sentence or stored rightly; what is stored stays."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
from admissions import OPEN_ADMISSIONS, UNTOLD_PROPORTIONS
from fuzz.told import CASES, refusal
from samples import image_of, logits_of, minibatch_of

from drb import Rehearsal
from drb.buffer.record import Field

LATE = {"image": (torch.uint8, (1, 5, 5)), "label": (torch.int64, ()), "logits": Field(torch.float32, (3,), late=True)}
ROWS = 8
ODD = [None, 3, "x", 1.5, [1, 2], {}, np.zeros(8), torch.tensor(1), torch.zeros(0), torch.zeros(8, 2), torch.zeros(3)]
DTYPES = [torch.uint8, torch.int8, torch.int32, torch.int64, torch.float32, torch.float64, torch.bool]
DTYPES += [torch.complex64, torch.bfloat16, torch.uint16, torch.float16]
KEYS = ["image", "label", "sample_id"]


def mutate(batch, rng):
    """Change one thing; the result may still be sound."""
    key = rng.choice(KEYS)
    value = batch.get(key)
    kind = rng.randrange(14)
    if kind == 0 or not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_meta:
        batch[key] = rng.choice(ODD)
    elif kind == 1:
        batch[key] = value.to(rng.choice(DTYPES))
    elif kind == 2:
        batch.pop(key)
    elif kind == 3:
        batch[rng.choice(["task", "rehearsed", "", "Image", "image/0", "$tensor"])] = torch.zeros(ROWS)
    elif kind == 4:
        batch[key] = value[: rng.randrange(ROWS)] if value.dim() else value
    elif kind == 5:
        batch[key] = torch.cat([value, value])[: rng.randrange(ROWS, 2 * ROWS)] if value.dim() else value
    elif kind == 6:
        batch[key] = value[..., None] if rng.random() < 0.5 else value.flatten()
    elif kind == 7:
        batch[key] = torch.stack([value] * 2)[1] if value.numel() else value  # a view at an offset
    elif kind == 8:
        batch[key] = value.to("meta") if rng.random() < 0.5 else value.to_sparse()
    elif kind == 9 and key == "sample_id":
        batch[key] = torch.tensor([rng.choice([0, -1, 5, 2**63 - 1, -(2**63)]) for _ in range(ROWS)])
        batch["image"], batch["label"] = image_of(batch[key]), batch[key] % 5
    elif kind == 10:
        rows = rng.randrange(ROWS)
        batch.update({name: v[:rows] for name, v in batch.items() if isinstance(v, torch.Tensor) and v.dim()})
    elif kind == 11:
        batch[rng.choice([0, None, ("a",)])] = torch.zeros(ROWS)
    elif kind == 12 and value.is_floating_point():
        batch[key] = (value * torch.nan).requires_grad_()
    else:
        batch[key] = torch.empty_strided(value.shape, [2 * s for s in value.stride()], dtype=value.dtype).copy_(value)


def is_sound(batch):
    """Whether the images are those of the ids, bit for bit."""
    return torch.equal(batch["image"], image_of(batch["sample_id"]))


def open_random(rng):
    admission = rng.choice(sorted(OPEN_ADMISSIONS))
    late = rng.random() < 0.3
    return late, Rehearsal(
        rng.choice([1, 5, 30]),
        rng.choice([1, 7]),
        admission=admission,
        candidates=4 if admission == "random_replacement" else None,
        proportions=rng.choice(UNTOLD_PROPORTIONS),
        spec=LATE if late else None,
        asynchronous=rng.random() < 0.2,
        verbose=False,
    )


def fuzz_one(rng, cases):
    """A rehearsal, its first minibatch perhaps a broken one, `cases` broken ones, good ones in between. Refusals."""
    late, rehearsal = open_random(rng)
    refused, next_id = 0, 0
    with rehearsal:
        for _ in range(cases):
            bad = minibatch_of(range(next_id, next_id + ROWS))
            for _ in range(rng.choice([1, 1, 2])):
                with contextlib.suppress(NotImplementedError, RuntimeError):  # torch cannot do it to what it is by now
                    mutate(bad, rng)
            before = rehearsal.state_dict() if rehearsal._running else None
            message = refusal(lambda bad=bad: (rehearsal.extend if rng.random() < 0.7 else rehearsal.step)(bad))
            if message is None:
                if late and rehearsal._running:
                    rehearsal.attach(logits=logits_of(bad["sample_id"]))
                if rehearsal._running and not is_sound_schema(rehearsal):
                    return refused + 1  # a sound minibatch of another kind was the first: all others would be refused
            else:
                refused += 1
                if before is not None:
                    assert_same(rehearsal.state_dict(), before)
            ids = range(next_id, next_id + ROWS)
            extended = rehearsal.extend(minibatch_of(ids))
            if late:
                for odd in rng.sample(ODD, 2):
                    assert refusal(lambda odd=odd: rehearsal.attach(logits=odd)) is not None
                rehearsal.attach(logits=logits_of(ids))
            assert extended["sample_id"][:ROWS].tolist() == list(ids)
            assert is_sound(extended)
            next_id += ROWS
    return refused


def is_sound_schema(rehearsal):
    fields = rehearsal._running.parts.spec.fields
    return (
        {"image", "label"} <= set(fields)
        and rehearsal._running.parts.max_rows >= ROWS
        and str(fields["image"]) == "uint8[1, 5, 5]"
        and str(fields["label"]) == "int64[]"
        and len(fields) - len(rehearsal._running.parts.spec.late) == 2
    )


def assert_same(state, before):
    for part in ("columns", "admission"):
        for name, value in before["buffer"][part].items():
            assert np.array_equal(state["buffer"][part][name], value)
    assert np.array_equal(np.asarray(state["buffer"]["rows"]), np.asarray(before["buffer"]["rows"]))
    assert state["round"] == before["round"]
    assert repr(state["intake"]) == repr(before["intake"])


@pytest.mark.filterwarnings("ignore:field .* holds float")
def test_minibatches():
    rng, done, refused = random.Random(1), 0, 0
    while done < CASES["minibatches"]:
        refused += fuzz_one(rng, 10)
        done += 10
    assert refused > CASES["minibatches"] / 3  # they are malformed indeed


def odd_value(rng):
    odd = [
        None,
        True,
        -1,
        0,
        1,
        3,
        10**9,
        10**30,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "30%",
        "0%",
        "²",
        "\u0661GiB",
    ]
    odd += ["5", "-5", "1e3", "20GiB", "999999999999999TiB", "0B", "auto", "label", [], [1], {}, (), b"5", "9" * 400]
    return rng.choice(odd)


@pytest.mark.filterwarnings("ignore")
def test_settings():
    rng = random.Random(2)
    names = ["capacity", "exemplars", "seed", "spec", "capacity_scope", "candidates", "admission", "proportions"]
    names += ["exchange", "stratum", "sample_id", "asynchronous", "min_fill", "uneven", "timeout_s", "batch_size"]
    names += ["num_samples"]
    refused = 0
    for _ in range(CASES["settings"]):
        chosen = {name: odd_value(rng) for name in rng.sample(names, rng.choice([1, 1, 2]))}

        def use(chosen=chosen):
            with Rehearsal(**{"capacity": 30, "exemplars": 4, "verbose": False, **chosen}) as rehearsal:
                for t in range(4):
                    rehearsal.extend(minibatch_of(range(t * 8, t * 8 + 8)))

        try:
            refused += refusal(use) is not None
        except Exception as error:
            raise AssertionError(f"{chosen}: {error!r}") from error
    assert refused > CASES["settings"] / 3
