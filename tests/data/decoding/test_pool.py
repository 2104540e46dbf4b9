"""Decoding processes: deterministic, named errors, and none is left whatever ends first."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from images import write_image_folder
from PIL import Image

from drb.data.datasets import load_dataset
from drb.data.decoding.pool import DecoderPool

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def paths(tmp_path):
    write_image_folder(tmp_path, per_class=20, num_classes=1)
    return [str(tmp_path / "train" / "class0" / f"{index}.png") for index in range(20)]


@pytest.fixture
def pool():
    made = DecoderPool(2, resize=10, image_size=8)
    yield made
    made.close()


def decoded(pool, paths):
    out = np.empty((len(paths), 3, 8, 8), np.uint8)
    pool.decode(paths, out)
    return out


def children():
    """Decoding processes of this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and b"decoding/worker.py" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_rows_are_those_of_pillow_in_order(pool, paths):
    expected = []
    for path in paths:
        image = Image.open(path).resize((17, 10), resample=Image.Resampling.BILINEAR).crop((4, 1, 12, 9))
        expected.append(np.asarray(image).transpose(2, 0, 1))
    np.testing.assert_array_equal(decoded(pool, paths), expected)
    assert 1 <= len(children()) <= 2


def test_the_first_unreadable_file_is_named_and_the_pool_goes_on(pool, paths):
    Path(paths[5]).unlink()
    Path(paths[6]).write_bytes(Path(paths[6]).read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{paths[5]} cannot be decoded \(.*No such file"):
        decoded(pool, paths)
    with pytest.raises(ValueError, match=rf"{paths[6]} cannot be decoded \(.*truncated"):
        decoded(pool, paths[6:])
    assert decoded(pool, paths[:5]).any()


def test_a_decoder_that_dies_is_told_with_its_file_and_replaced(pool, paths):
    decoded(pool, paths)
    for process in children():
        os.kill(process, signal.SIGKILL)
    with pytest.raises(ValueError, match=r"a decoding process ended \(exit code -9\) with the image file .*png"):
        for _ in range(3):
            decoded(pool, paths)
    for _ in range(2):  # as many as there were
        with contextlib.suppress(ValueError):
            decoded(pool, paths)
    assert decoded(pool, paths).any()


def test_signals_to_the_whole_job_do_not_end_decoders(pool, paths):
    decoded(pool, paths)
    for process in children():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            os.kill(process, number)
    assert decoded(pool, paths).any()


def test_closing_or_dropping_leaves_no_process(pool, paths):
    decoded(pool, paths)
    pool.close()
    pool.close()
    assert children() == []
    dataset = load_dataset("image_folder", Path(paths[0]).parents[2], image_size=8)
    dataset.train.gather(np.arange(3))
    assert children()
    del dataset
    gc.collect()
    assert children() == []


RANK = """
import sys, time
import numpy as np
from drb.data.datasets import load_dataset
source = load_dataset("image_folder", sys.argv[1], image_size=8).train
source.gather(np.arange(len(source)))
print("decoded", flush=True)
time.sleep(600)
"""


def test_decoders_end_with_a_killed_rank(paths):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    root = str(Path(paths[0]).parents[2])
    rank = subprocess.Popen([sys.executable, "-c", RANK, root], env=environment, stdout=subprocess.PIPE)
    assert rank.stdout.readline() == b"decoded\n"
    own = [int(p) for p in Path(f"/proc/{rank.pid}/task/{rank.pid}/children").read_text().split()]
    assert own
    rank.kill()
    rank.wait()
    rank.stdout.close()
    wait_until(lambda: not any(Path(f"/proc/{process}/cmdline").exists() and _alive(process) for process in own))


def _alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
