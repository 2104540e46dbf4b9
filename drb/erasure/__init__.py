"""Forgetting samples for good: in a running rehearsal, in saved states, in the checkpoints of a run.

`selection` says what, `live` does it between two steps, `states` in a saved state, `runs` in a run's checkpoints,
`command` is `drb forget`.
"""

from drb.erasure.live import ForgetObserver, Forgotten, forget_live, forget_saved
from drb.erasure.runs import CheckpointPurge, Purged, forget_in_run
from drb.erasure.selection import SampleIds, Where, as_ids
from drb.erasure.states import deny_in_state, forget_in_state, ids_in_state

__all__ = [
    "CheckpointPurge",
    "ForgetObserver",
    "Forgotten",
    "Purged",
    "SampleIds",
    "Where",
    "as_ids",
    "deny_in_state",
    "forget_in_run",
    "forget_in_state",
    "forget_live",
    "forget_saved",
    "ids_in_state",
]
