"""Gates, and the record of a lineage: what is promoted, gone back to, shown, and refused."""

from __future__ import annotations

import json
import os

import pytest
from samples import minibatch_of

from drb import Rehearsal
from drb.cli import main
from drb.rehearsal.ledger.file import LedgerWriter
from drb.rehearsal.ledger.recorder import Recorder
from drb.runs.lineage.gates import failures, read_gates, require_known
from drb.runs.lineage.record import Lineage, Version, read_lineage


def version(number, parent, after, *, before=None, failed=()):
    return Version(
        number,
        parent,
        f"/data/day{number}.npz",
        "f",
        [],
        100,
        before or {},
        after,
        list(failed),
        not failed,
        10,
        5,
        "",
        {},
        [],
    )


CELLS = ["10.0", "→", "80.0", "%", "90.0", "→", "85.0", "%", "10", "promoted"]


def story(folder):
    """Three versions, of which the third failed, and 2 is current."""
    for number in (1, 2, 3):
        (folder / f"versions/000{number}").mkdir(parents=True)
    lineage = Lineage(folder)
    lineage.add(version(1, None, {"new": 0.9}))
    lineage.add(version(2, 1, {"new": 0.8, "base": 0.85}, before={"new": 0.1, "base": 0.9}))
    lineage.add(version(3, 2, {"new": 0.5, "base": 0.8}, before={"new": 0.1, "base": 0.9}, failed=["base < fell"]))
    return lineage


def test_gates_in_points_and_percent():
    gates = read_gates(["base=0.5", "weak=3"], ["new=90"])
    before, after = {"base": 0.9, "weak": 0.5, "new": 0.0}, {"base": 0.895, "weak": 0.46, "new": 0.9}
    assert failures(gates, before, after) == ["weak fell by 4.0 points, and may fall by 3"]
    assert failures(gates, {}, {"new": 0.899}) == ["new reached 89.9 %, and must reach 90 %"]
    require_known(gates, ["base", "new", "weak"])
    with pytest.raises(ValueError, match="evaluation set 'weak', and the sets are base, new; add --eval weak=PATH"):
        require_known(gates, ["base", "new"])
    for text in ("base", "base=x", "=3", "base=101", "base=-1", "base=nan"):
        with pytest.raises(ValueError, match="--may-fall takes NAME=NUMBER with a number from 0 to 100"):
            read_gates([text], [])


def test_a_lineage_is_read_as_it_was_written_and_the_link_follows(tmp_path):
    written = story(tmp_path)
    assert written.current == 2
    lineage = read_lineage(tmp_path)
    assert lineage == written
    assert os.readlink(tmp_path / "current") == "versions/0002"
    (tmp_path / "current").unlink()  # killed before the link was set
    lineage.set_link()
    assert lineage.roll_back().number == 1
    assert os.readlink(tmp_path / "current") == "versions/0001"
    with pytest.raises(ValueError, match="version 1 is the first one"):
        lineage.roll_back()
    with pytest.raises(ValueError, match=r"version 3 was kept as a candidate \(base < fell\).* --to, or .*--force"):
        lineage.roll_back(3)
    assert lineage.roll_back(3, force=True).number == 3
    for to, message in ((3, "3 is current already"), (4, "versions 1 to 3, got 4")):
        with pytest.raises(ValueError, match=message):
            lineage.roll_back(to)
    what = [event["what"] for event in read_lineage(tmp_path).events]
    assert what == ["promoted", "promoted", "kept as a candidate", "rolled back to", "rolled back to"]


def test_commands_show_a_lineage_and_go_back(tmp_path, capsys):
    story(tmp_path / "state")
    assert main(["lineage", str(tmp_path / "state"), "--html", str(tmp_path / "page.html")]) == 0
    heading, _, second, third = capsys.readouterr().out.splitlines()
    assert heading.split() == ["version", "from", "data", "samples", "new", "base", "steps", "outcome"]
    assert second.split() == ["2", "*", "1", "day2.npz", "100", *CELLS]
    assert third.endswith("candidate: base < fell")
    page = (tmp_path / "page.html").read_text()
    assert "base &lt; fell" in page
    assert page.count("data:image/png;base64,") == 1
    assert main(["rollback", str(tmp_path / "state")]) == 0
    assert "version 1 is current, it was 2" in capsys.readouterr().out
    assert main(["rollback", str(tmp_path / "state")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "drb-lineage 0"}', '{"format": "drb-lineage 3", "x": 1}'])
def test_a_damaged_lineage_is_refused_and_left_as_it_is(tmp_path, text, capsys):
    (tmp_path / "lineage.json").write_text(text)
    with pytest.raises(ValueError, match="lineage.json is damaged or of another version of drb"):
        read_lineage(tmp_path)
    assert main(["rollback", str(tmp_path)]) == 1
    assert (tmp_path / "lineage.json").read_text() == text
    assert capsys.readouterr().err.startswith("drb: error: ")


def test_a_folder_of_something_else_is_no_lineage(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds no lineage.json, but thesis.tex; choose an empty folder"):
        read_lineage(tmp_path)
    assert main(["lineage", str(tmp_path / "nothing")]) == 1


def test_what_killed_a_first_update_left_is_no_lineage_and_a_folder_called_current_is_refused(tmp_path):
    (tmp_path / ".lineage.json.77").write_text("{")
    assert read_lineage(tmp_path) is None
    lineage = story(tmp_path)
    (tmp_path / "current").unlink()
    (tmp_path / "current").mkdir()
    with pytest.raises(ValueError, match="current must be a link to the current version"):
        lineage.set_link()


def test_a_line_is_that_of_its_parents(tmp_path):
    lineage = story(tmp_path)
    lineage.versions[2].parent = 1
    assert [each.number for each in lineage.line_of(3)] == [3, 1]
    assert lineage.line_of(None) == []


def test_a_current_version_that_is_not_there_is_damage(tmp_path):
    story(tmp_path)
    content = json.loads((tmp_path / "lineage.json").read_text())
    (tmp_path / "lineage.json").write_text(json.dumps({**content, "current": 7}))
    with pytest.raises(ValueError, match="damaged.*versions 1 to 3, got 7"):
        read_lineage(tmp_path)


def test_the_audit_names_the_versions_that_learnt_from_a_sample(tmp_path, capsys):
    lineage = story(tmp_path)
    for number in (1, 2, 3):
        recorder = Recorder()
        writer = LedgerWriter(lineage.run_dir(number), recorder, 0, 0)
        with Rehearsal(6, 2, seed=1, verbose=False) as rehearsal:
            rehearsal.recorder = recorder
            rehearsal.extend(minibatch_of([10 * number, 10 * number + 1]))
            rehearsal.state_dict()
            writer.take(1)
        writer.write()
    assert main(["audit", str(tmp_path), "--sample", "20"]) == 0
    assert capsys.readouterr().out == "version 2 trained on 20 in steps 1\nseen by version 2, version 3\n"
    assert main(["audit", str(tmp_path), "--sample", "7"]) == 0
    assert capsys.readouterr().out == "seen by no version\n"
    assert main(["audit", str(tmp_path), "--step", "1"]) == 1
    assert "holds a lineage: give the run of a version" in capsys.readouterr().err
