"""The admission policy that filled a saved buffer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drb.buffer.admission import ADMISSIONS, Admission
from drb.rehearsal.state.check import naming_damage


def policy_of(settings: Mapping[str, Any]) -> Admission:
    """A policy as a state's settings name it, with the saved options and no state of its own yet.

    Nothing is imported for it: a class outside drb counts only if this process was told of it otherwise.

    Raises:
        ValueError: such a class; options that no policy of this name can have.
    """
    with naming_damage():
        options = {name[len("admission.") :]: value for name, value in settings.items() if "admission." in name}
        policy = ADMISSIONS.build(ADMISSIONS.recall(settings["admission"]), options)
        policy.begin(int(settings["seed"]), rank=0)
    return policy
