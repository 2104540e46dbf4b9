"""Real runs, broken on purpose: a few of the faults of `make faults`. See docs/reliability.md."""

from __future__ import annotations

import json
import sys

import pytest
from programs import ROOT, Running

from faults.injection import find_place
from faults.plan import PROCESS_TARGETS, SHORT, TARGETS, draw_faults

# faults near others of the list; tests of checkpoints provoke what they damage in one process, too, and kill rank 0
# while it names one
RARE = {("exception", "row_exchange"), ("disk_full", "rename"), ("pipe", "forward"), ("kill_importing", "forward"),
        ("undeletable", "rename"), ("kill", "rename")}  # fmt: skip
FAULTS = [
    pytest.param(fault, marks=pytest.mark.full if (fault.kind, fault.target) in RARE else (), id=fault.name)
    for fault in SHORT
]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    """All that are tested at once, because they share the runs that they are compared with."""
    tests = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    chosen = ",".join(str(test["fault"].number) for test in tests if "fault" in test)
    out = tmp_path_factory.mktemp("faults") / "outcomes.json"
    command = [sys.executable, "-m", "faults", "--short", "--only", chosen, "--jobs", "3", "--out", str(out)]
    ended = Running(command, ROOT).wait(280)
    assert out.exists(), ended.err
    return {case["fault"]["number"]: case for case in json.loads(out.read_text())["cases"]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_rank_names_the_fault_and_nothing_is_lost(outcomes, fault):
    outcome = outcomes[fault.number]
    assert outcome["problems"] == []
    assert outcome["message"]
    assert (outcome["lost"], outcome["orphans"], outcome["leaks"]) == (0, 0, 0)


@pytest.mark.parametrize("place", sorted({place for places in TARGETS.values() for place in places.values()}))
def test_every_place_that_can_be_struck_is_there(place):
    owner, name, original = find_place(place)
    assert callable(original)
    assert vars(owner)[name] is original  # what is replaced there is replaced for all who call it


def test_the_campaign_hits_every_target_often_enough():
    faults = draw_faults(72, seed=0)
    assert len(faults) == 72
    assert {fault.world_size for fault in faults} == {2, 3, 4}
    for target in PROCESS_TARGETS:
        assert sum(fault.target == target for fault in faults) >= 5
    assert faults == draw_faults(72, seed=0) != draw_faults(72, seed=1)
