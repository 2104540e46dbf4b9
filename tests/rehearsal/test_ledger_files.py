"""The ledger's files: arrays come back as they were, and what is damaged, missing or cut short is told or left out."""

from __future__ import annotations

import numpy as np
import pytest
from samples import minibatch_of

from drb import Rehearsal
from drb.rehearsal.ledger.coding import pack, unpack
from drb.rehearsal.ledger.file import FOLDER, LedgerWriter, cut
from drb.rehearsal.ledger.recorder import Recorder
from drb.runs.ledger import read_ledger
from drb.runs.rehearsed import read_rehearsal_ledger

EXTREMES = [-(1 << 63), (1 << 63) - 1, 0, -1, 1, 255, 256]


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("values", [[], [7], [7] * 5, list(range(300)), EXTREMES, [3, -70_000, 5]])
def test_arrays_come_back(values, differences):
    before = np.array(values, np.int64)
    data = b"x" + pack(before, differences=differences) + b"rest"
    after, end = unpack(data, 1)
    assert after.dtype == np.int64
    assert after.tolist() == values
    assert data[end:] == b"rest"


def train(folder, run="", seed=1):
    """Twelve steps, written after six and twelve."""
    recorder = Recorder()
    writer = LedgerWriter(folder, recorder, 0, 0, run)
    with Rehearsal(6, 2, seed=seed, verbose=False) as rehearsal:
        rehearsal.recorder = recorder
        for step in range(12):
            rehearsal.extend(minibatch_of(range(4 * step, 4 * step + 4)))
            if step % 6 == 5:
                rehearsal.state_dict()
                writer.take(step + 1)
                writer.write()
        with pytest.raises(ValueError, match="before the first minibatch"):
            rehearsal.recorder = recorder
    return folder


@pytest.fixture
def run_dir(tmp_path):
    return train(tmp_path)


def test_what_was_cut_short_does_not_count(run_dir):
    (path,) = (run_dir / FOLDER).iterdir()
    whole = path.read_bytes()
    last = read_rehearsal_ledger(run_dir).trained(12)
    assert last.new.tolist() == [44, 45, 46, 47]
    assert len(last.rehearsed) == 2
    path.write_bytes(whole[:-3])  # a write that was killed
    assert read_rehearsal_ledger(run_dir).steps == 6
    cut(run_dir, 6)
    assert whole.startswith(path.read_bytes())
    assert read_rehearsal_ledger(run_dir).steps == 6
    cut(run_dir, 0)
    assert not path.exists()


def test_a_run_goes_on_without_what_is_damaged_and_the_audit_says_what_it_lacks(run_dir, caplog):
    (path,) = (run_dir / FOLDER).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    cut(run_dir, 12)
    assert "drb audit cannot answer for the steps from there on" in caplog.text
    ledger = read_rehearsal_ledger(run_dir, 15)
    assert len(ledger.trained(6).new) == 4
    assert ledger.lacks == "7 to 15"
    path.write_bytes(bytes([*whole[:20], whole[20] ^ 1, *whole[21:]]))  # the rules
    cut(run_dir, 12)
    assert not path.exists()


def test_files_of_another_run_or_version_are_refused(run_dir, monkeypatch):
    (path,) = (run_dir / FOLDER).iterdir()
    other = path.with_name("0000000006-00000.log")
    other.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="0000000006-00000.log begins before the end of an earlier start"):
        read_ledger(run_dir)
    other.unlink()
    monkeypatch.setattr("drb.rehearsal.ledger.file._FORMAT", "drb-ledger 3")
    with pytest.raises(
        ValueError, match="00000.log is of another version of drb: it is drb-ledger 2, not drb-ledger 3"
    ):
        read_ledger(run_dir)


@pytest.mark.parametrize(("run", "seed"), [("theirs", 1), ("ours", 2)])
def test_a_ledger_copied_from_another_run_of_as_many_steps_is_refused(tmp_path, caplog, run, seed):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    train(ours, "ours")
    train(theirs, run, seed)
    (ours / "summary.json").write_text('{"steps": 12, "config": {"run_id": "ours"}}')
    (path,) = (ours / FOLDER).iterdir()
    assert len(read_ledger(ours).step(12)) == 6
    (their_path,) = (theirs / FOLDER).iterdir()
    their_path.rename(path.with_name("0000000012-00000.log") if seed == 2 else path)
    what = "are of different runs" if seed == 2 else "is of the run 'theirs', and the checkpoints .* of 'ours'"
    with pytest.raises(ValueError, match=what):
        read_ledger(ours)
    cut(ours, 12, "ours")
    assert ("is of the run 'theirs', not of this one" in caplog.text) == (run == "theirs")
    assert path.exists() == (run == "ours")


def test_what_is_wrong_is_told(run_dir):
    ledger = read_ledger(run_dir)
    with pytest.raises(ValueError, match="the run has trained the steps 1 to 12, got 13"):
        ledger.step(13)
    with pytest.raises(ValueError, match="named by its id, such as 17, got 'new:1'"):
        ledger.sample("new:1")
    assert ledger.sample("1000") == ([], [])
    with pytest.raises(ValueError, match="named by its id"):
        ledger.sample(str(1 << 63))
    (path,) = (run_dir / FOLDER).iterdir()
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="is damaged"):
        read_ledger(run_dir)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged: it has no beginning"):
        read_ledger(run_dir)
