"""The passes over memory that make up the floor of bench_norm.py."""

import importlib.util
import itertools
import pathlib
import shutil
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("gcc") is None, reason="needs a C compiler"
)


@pytest.fixture
def worker(monkeypatch):
    path = pathlib.Path(__file__).parents[2] / "tools" / "bench_norm_worker.py"
    spec = importlib.util.spec_from_file_location("bench_norm_worker", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_norm_worker", module)
    spec.loader.exec_module(module)
    return module


def aligned(size, offset=0):
    memory = np.zeros(size + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    return memory[start : start + size]


@pytest.mark.parametrize("name", ["stream_copy", "plain_copy"])
def test_a_copy_copies(worker, name, rng):
    source, target = aligned(4096), aligned(4096)
    source[:] = rng.integers(0, 256, 4096)
    copy = getattr(worker._memory_speed(), name)
    addresses = [worker.ctypes.c_void_p(a.ctypes.data) for a in (target, source)]
    copy(*addresses, worker.ctypes.c_size_t(4096))
    np.testing.assert_array_equal(target, source)


def test_reading_reads_every_word(worker, rng):
    source = aligned(4096)
    source.view(np.int64)[:] = rng.integers(0, 1 << 40, 512)
    read = worker._memory_speed().read_all
    read.restype = worker.ctypes.c_longlong
    address = worker.ctypes.c_void_p(source.ctypes.data)
    assert read(address, worker.ctypes.c_size_t(4096)) == source.view(np.int64).sum()


def test_the_parts_of_a_tensor_are_aligned_and_cover_it(worker):
    parts = worker._in_parts([32, 8, 8, 64], "float32", 2)
    for tensor in parts:
        assert all(address.value % 64 == 0 and size % 256 == 0 for address, size in tensor)
        assert sum(size for _, size in tensor) > 0.99 * 32 * 8 * 8 * 64 * 4
        for (one, size), (two, _) in itertools.pairwise(tensor):
            assert one.value + size == two.value


@pytest.mark.parametrize("name", ["floor", "traffic"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_contenders_run(worker, name, dtype):
    step = worker._prepare(name, worker.Setting([64, 64], dtype, relu=False))
    assert worker._turn(step) > 0
