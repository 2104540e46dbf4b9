"""Storage: memory is there before it is used, or the user is told; shared memory leaves nothing behind."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from drb.buffer.storage import HeapStorage, SharedSegment
from drb.buffer.storage import heap as heap_module
from drb.machine import available_memory_bytes, require_memory
from drb.types import ROW_ALIGNMENT_BYTES

GIB = 1 << 30


@pytest.fixture
def small_tmpfs(tmp_path):
    """A file system in memory with room for 1 MiB."""
    folder = tmp_path / "shm"
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.decode().strip()}")
    yield str(folder)
    subprocess.run(["umount", "-l", folder], check=True)


def test_heap_rows_have_the_asked_shape():
    rows = HeapStorage(5, 3).rows
    assert rows.shape == (5, 3)
    assert rows.dtype == np.int64
    assert rows.flags.c_contiguous


@pytest.mark.parametrize("num_rows", [1, 5, 3000])
def test_heap_rows_are_aligned(num_rows):
    storages = [HeapStorage(num_rows, 260) for _ in range(3)]
    assert [storage.rows.ctypes.data % ROW_ALIGNMENT_BYTES for storage in storages] == [0, 0, 0]


def test_a_buffer_larger_than_memory_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(heap_module, "available_memory_bytes", lambda: 2 * GIB)
    with pytest.raises(ValueError, match=r"needs 3\.00 GiB of memory, 2\.00 GiB are free; lower rehearsal capacity"):
        HeapStorage(3 * GIB // 80, 10)
    require_memory(2 * GIB, 2 * GIB, "memory")


def test_available_memory_is_what_the_kernel_says():
    with open("/proc/meminfo") as file:
        total = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal:"))
    assert 0 < available_memory_bytes() <= total


def test_cached_files_do_not_count_against_a_containers_limit(tmp_path):
    amounts = {
        "memory.max": "3000",
        "memory.current": "2500",
        "memory.stat": "anon 400\ninactive_file 1500\nactive_file 500",
    }
    for name, text in amounts.items():
        (tmp_path / name).write_text(text + "\n")
    assert available_memory_bytes(str(tmp_path)) == 500 + 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes(str(tmp_path)) > 3000


def test_two_mappings_of_a_segment_are_one_memory(tmp_path):
    owner = SharedSegment.create(800, str(tmp_path))
    peer = SharedSegment.attach(owner.path, 800)
    owner.reserve(0, 400)
    peer.reserve(400, 400)
    owner.words[:50] = np.arange(50)
    peer.words[50:] = 7
    assert (peer.words[:50] == np.arange(50)).all()
    assert (owner.words[50:] == 7).all()


def test_unlink_leaves_no_name_and_keeps_the_memory(tmp_path):
    segment = SharedSegment.create(800, str(tmp_path))
    peer = SharedSegment.attach(segment.path, 800)
    segment.reserve(0, 800)
    assert os.listdir(tmp_path)
    segment.unlink()
    peer.unlink()
    segment.unlink()  # idempotent
    assert os.listdir(tmp_path) == []
    segment.words[3] = 42
    assert peer.words[3] == 42


def test_too_little_shared_memory_is_an_error_not_a_crash(small_tmpfs):
    segment = SharedSegment.create(4 << 20, small_tmpfs)  # a sparse file: this works even if there is no room
    segment.reserve(0, 256 << 10)
    with pytest.raises(
        ValueError, match=r"has \d MiB left, but this rank's buffer needs 3 MiB .*--shm-size.*exchange="
    ):
        segment.reserve(1 << 20, 3 << 20)
    segment.unlink()
    assert os.listdir(small_tmpfs) == []
