"""A rehearsal whose logits say which version of them was stored last, for tests of `Rehearsal.edit`."""

from __future__ import annotations

import numpy as np
import torch
from rehearsal.ranks.streams import ids_of_rank, num_wrong, records

from drb import Rehearsal
from drb.buffer.record import Field
from drb.rehearsal.build_parts import PartsFactory

SPEC = {
    "image": Field(torch.uint8, (1, 2, 24)),
    "label": Field(torch.int64),
    "logits": Field(torch.float32, (3,), late=True),
    "features": Field(torch.float32, (6,), late=True, optional=True, growing=True),
}


R = 5


class OnNodes(Rehearsal):
    """Two ranks on each node."""

    class _OnNodes(PartsFactory):
        def node(self) -> str:
            return f"node {torch.distributed.get_rank() // 2}"

    _factory = _OnNodes()


def make(kind=Rehearsal, **options):
    given = {"capacity": 24, "exemplars": R, "seed": 1, "batch_size": 6, "spec": SPEC, "verbose": False}
    return kind(**(given | options))


def version(ids, number):
    return ids[:, None] * torch.tensor([1.0, 0.5, 2.0]) + 1000 * number


def train(rehearsal, rank, world_size, steps, seen, number, grown=4):
    """Steps whose exemplars' logits must be of this version, unless the sample was offered since."""
    for step in steps:
        minibatch = records(ids_of_rank(rank, world_size, 6 * (step + 1))[6 * step :])
        exemplars = rehearsal.step(minibatch)
        if exemplars is not None:
            batch = {**exemplars.fields, "sample_id": exemplars.sample_id}
            assert num_wrong(batch) == 0
            new = exemplars.sample_id >= 6 * steps[0] * world_size
            expected = torch.where(new[:, None], version(exemplars.sample_id, 0), version(exemplars.sample_id, number))
            assert torch.equal(exemplars.fields["logits"], expected)
            has = exemplars.known["features"]
            assert set(has.tolist()) <= {0, 4, 6}
            columns = torch.arange(6) < has[:, None]
            assert torch.equal(exemplars.fields["features"], columns * exemplars.sample_id[:, None].float())
            for value in (exemplars.sample_id, exemplars.fields["logits"], has):
                seen.update(np.ascontiguousarray(value.numpy()).tobytes())
        late = {"logits": version(minibatch["sample_id"], 0)}
        if step % 2:
            late["features"] = minibatch["sample_id"][:, None].float().repeat(1, grown)
        rehearsal.attach(**late)
