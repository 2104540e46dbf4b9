"""drb: distributed rehearsal buffers, for continual learning on many ranks.

The path of a minibatch of b samples at step t:

    training thread   loader ─Minibatch[b]→ rehearsal.extend ─Minibatch[b + r]→ augment → loss → backward → optimizer
    worker            round t:  publish → gather counts → draw → fetch ─Exemplars[r] for step t+1→

    with Rehearsal(capacity=500, exemplars=7, seed=0) as rehearsal:    # both per rank
        for minibatch in loader:                                        # {"image", "label", "sample_id"}
            batch = rehearsal.extend(minibatch)

These names are the library; everything else may change. The program is `drb.train`.
"""

from drb.buffer.record import Field, RecordSpec
from drb.data.mix.dataset import MixedSource
from drb.data.ownership import OwnerSampler
from drb.data.with_ids import with_ids
from drb.distributed.failure import PeerError
from drb.rehearsal.exemplars import UnevenError
from drb.rehearsal.rehearsal import Rehearsal
from drb.types import Exemplars, Handle, Minibatch

__all__ = [
    "Exemplars",
    "Field",
    "Handle",
    "Minibatch",
    "MixedSource",
    "OwnerSampler",
    "PeerError",
    "RecordSpec",
    "Rehearsal",
    "UnevenError",
    "with_ids",
]
