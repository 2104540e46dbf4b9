"""Forgetting samples for good: in a running rehearsal, in saved states, in the checkpoints of a run.

`selection` says what, `live` does it between two steps, `states` in a saved state.
"""

from drb.erasure.live import ForgetObserver, Forgotten, forget_live, forget_saved
from drb.erasure.selection import SampleIds, Where, as_ids
from drb.erasure.states import deny_in_state, forget_in_state, ids_in_state

__all__ = [
    "ForgetObserver",
    "Forgotten",
    "SampleIds",
    "Where",
    "as_ids",
    "deny_in_state",
    "forget_in_state",
    "forget_live",
    "forget_saved",
    "ids_in_state",
]
