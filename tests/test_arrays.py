"""Packed weights on disk: mapped, shared between processes, and checked before anything computes with them."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from loopnest.runtime.arrays import PAGE, ArrayCache
from loopnest.runtime.buffers import address_of
from loopnest.runtime.cache import CacheKey, CacheWarning, KernelCache, open_cache
from loopnest.runtime.files import CacheFiles
from tests.graphs import make_model, values

KEY = CacheKey((("source", "float32[3, 100] abc"), ("order", "100x3 [v1, v0]")))
ARRAY = np.arange(300, dtype=np.float32).reshape(100, 3)


def cache_in(root: Path, max_bytes: int = 1 << 30) -> ArrayCache:
    return ArrayCache(CacheFiles(root, max_bytes))


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return cache_in(tmp_path)


def again(cache: ArrayCache) -> ArrayCache:
    """As another process has it."""
    return cache_in(cache.files.root, cache.files.max_bytes)


def file_of(cache: ArrayCache, key: CacheKey = KEY) -> Path:
    return cache.files.root / "weights" / f"{key.digest}-2.array"


def base_of(array: Any) -> Any:
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.complex64])
def test_what_is_put_is_mapped(cache: ArrayCache, dtype: Any) -> None:
    array = (ARRAY % 50).astype(dtype)
    assert cache.get(KEY, array.nbytes) is None
    for found in (cache.put(KEY, array.T.copy().T), again(cache).get(KEY, array.nbytes)):
        assert found is not None
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found, array)
        assert found.flags.c_contiguous and not found.flags.writeable
        assert address_of(found) % PAGE == 0
        assert isinstance(base_of(found), mmap.mmap)
    assert file_of(cache).stat().st_mode & 0o777 == 0o600


def is_refused(cache: ArrayCache, match: str) -> None:
    """One warning, no array, and none left behind."""
    with pytest.warns(CacheWarning, match=match) as caught:
        assert again(cache).get(KEY, ARRAY.nbytes) is None
    assert len(caught) == 1


def regions() -> dict[str, int]:
    """A byte of every region of a file."""
    return {"magic": 3, "checksum": 16, "checksum end": 47, "header size": 48, "header size end": 51} | {
        "header": 60, "padding": 1000, "padding end": PAGE - 1, "data": PAGE, "inside": PAGE + 777, "end": PAGE + ARRAY.nbytes - 1
    }  # fmt: skip


@pytest.mark.parametrize("region", regions())
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_found(cache: ArrayCache, region: str, bit: int) -> None:
    cache.put(KEY, ARRAY)
    data = bytearray(file_of(cache).read_bytes())
    assert len(data) == PAGE + ARRAY.nbytes
    data[regions()[region]] ^= 1 << bit
    file_of(cache).write_bytes(data)
    is_refused(cache, "not a loopnest array" if region == "magic" else "checksum|malformed")
    assert not file_of(cache).exists()
    assert again(cache).put(KEY, ARRAY) is not None


@pytest.mark.parametrize("nbytes", [0, 1, 51, 52, 200, PAGE, PAGE + 100, PAGE + ARRAY.nbytes - 1])
def test_a_truncated_file_is_found(cache: ArrayCache, nbytes: int) -> None:
    cache.put(KEY, ARRAY)
    os.truncate(file_of(cache), nbytes)
    is_refused(cache, "empty|truncated|checksum")


def test_a_file_that_grew_or_has_another_name_is_found(cache: ArrayCache) -> None:
    cache.put(KEY, ARRAY)
    with file_of(cache).open("ab") as file:
        file.write(b"more")
    is_refused(cache, "checksum")
    other = CacheKey((("source", "other"),))
    cache.put(other, ARRAY)
    file_of(cache, other).rename(file_of(cache))
    is_refused(cache, "another key")


def test_links_and_directories_are_not_followed(cache: ArrayCache, tmp_path: Path) -> None:
    cache.put(KEY, ARRAY)
    file_of(cache).rename(tmp_path / "elsewhere")
    file_of(cache).symlink_to(tmp_path / "elsewhere")
    is_refused(cache, "cannot read")
    file_of(cache).unlink(missing_ok=True)
    file_of(cache).mkdir()
    is_refused(cache, "cannot read|regular")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX ownership")
def test_what_others_can_have_written_is_not_trusted(cache: ArrayCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(KEY, ARRAY)
    file_of(cache).chmod(0o622)
    is_refused(cache, "others may write")
    cache.put(KEY, ARRAY)
    monkeypatch.setattr("loopnest.runtime.files.os.geteuid", lambda: os.getuid() + 1)
    is_refused(cache, "another user")


@pytest.mark.parametrize("call", ["open", "replace", "utime"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    kernels = KernelCache(tmp_path)
    assert kernels.files is not None
    arrays = ArrayCache(kernels.files)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"loopnest.runtime.files.os.{call}", refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kernels.put(KEY, b"code", "k")
        stored = arrays.put(KEY, ARRAY)
        arrays.put(CacheKey((("source", "other"),)), ARRAY)
    assert (stored is not None) == (call == "utime"), "a time of use that cannot be written does no harm"
    assert [w.category for w in caught] == ([] if call == "utime" else [CacheWarning])
    monkeypatch.undo()
    assert call == "utime" or not [path for path in tmp_path.rglob("*") if path.is_file()]


FULL = """
import resource, sys, warnings
import numpy as np
from loopnest.runtime.arrays import ArrayCache
from loopnest.runtime.cache import CacheKey
from loopnest.runtime.files import CacheFiles
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
warnings.simplefilter("always")
cache = ArrayCache(CacheFiles(__import__("pathlib").Path(sys.argv[1]), 1 << 30))
print(cache.put(CacheKey((("n", "1"),)), np.zeros(100_000, np.float32)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_write_that_ends_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "None\n", done.stderr
    assert done.stderr.count("CacheWarning") == 1
    assert list((tmp_path / "weights").iterdir()) == []


WRITER = """
import sys
from pathlib import Path
import numpy as np
from loopnest.runtime.arrays import ArrayCache
from loopnest.runtime.cache import CacheKey
from loopnest.runtime.files import CacheFiles
for turn in range(40):
    cache = ArrayCache(CacheFiles(Path(sys.argv[1]), 400_000))
    for n in range(8):
        key = CacheKey((("n", str(n)),))
        for found in (cache.get(key, 40_000), cache.put(key, np.full(10_000, n, np.float32))):
            assert found is None or (found == n).all(), found
"""


def test_many_processes_share_a_directory(tmp_path: Path) -> None:
    """Each of them writes, reads, and removes what was used longest ago, all the time."""
    command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not list((tmp_path / "weights").glob("*.tmp"))


def test_kernels_and_weights_are_one_bound(tmp_path: Path) -> None:
    """The file used longest ago goes first, of whichever kind; what is mapped stays readable."""
    kernels = KernelCache(tmp_path, max_bytes=100_000)
    assert kernels.files is not None
    arrays = ArrayCache(kernels.files)
    kernels.put(KEY, bytes(1000), "k")
    kernel = next((tmp_path / "kernels").iterdir())
    mapped: list[np.ndarray] = []
    for n in range(3):
        key = CacheKey((("n", str(n)),))
        found = arrays.put(key, np.full(3000, n, np.float32))
        assert found is not None
        mapped.append(found)
        os.utime(file_of(arrays, key), (n * 2 - 10 + time.time(),) * 2)
    os.utime(kernel, (time.time() - 9,) * 2)
    kernels.files.prune(40_000)
    kept = [file_of(arrays, CacheKey((("n", str(n)),))).exists() for n in range(3)]
    assert (kept, kernel.exists()) == ([False, True, True], True)
    kernels.files.prune(30_000)
    assert not kernel.exists()
    assert [int(array.max()) for array in mapped] == [0, 1, 2]


def test_a_model_larger_than_the_cache_displaces_nothing_at_each_start(tmp_path: Path) -> None:
    keys = [CacheKey((("n", str(n)),)) for n in range(10)]
    for _ in range(3):
        cache = cache_in(tmp_path, 100_000)
        stored = [cache.get(key, 12_000) is not None or cache.put(key, np.zeros(3000, np.float32)) is not None for key in keys]
        assert stored == [True] * 4 + [False] * 6
    times = [file_of(cache, key).stat().st_ino for key in keys[:4]]
    assert len(set(times)) == 4


# --- models ----------------------------------------------------------------------------------------------------------------------


def model_with_weights() -> Any:
    nodes = [
        oh.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        oh.make_node("GlobalAveragePool", ["c"], ["p"]),
        oh.make_node("Flatten", ["p"], ["f"]),
        oh.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    constants = {"w": values(256, 64, 3, 3), "m": values(256, 300, seed=1)}
    return make_model(nodes, {"x": [1, 64, 5, 5]}, ["y"], constants)


def mapped_bytes(f: loopnest.CompiledModel) -> int:
    arrays: Any = [array for stage in f.plans for array in stage.native._constants]  # type: ignore[attr-defined]
    return sum(array.nbytes for array in arrays if isinstance(base_of(array), mmap.mmap))


@pytest.mark.parametrize("damage", [False, True])
def test_a_model_maps_its_packed_weights(tmp_path: Path, damage: bool) -> None:
    model, x = model_with_weights(), values(1, 64, 5, 5, seed=2)
    plain = loopnest.compile(model, config={"cache": False})
    config = {"cache_dir": str(tmp_path)}
    first = loopnest.compile(model, config=config)
    files = sorted((tmp_path / "weights").iterdir())
    assert len(files) == 2
    total = sum(path.stat().st_size - PAGE for path in files)
    assert (mapped_bytes(plain), mapped_bytes(first)) == (0, total)
    if damage:
        for path in files:
            data = path.read_bytes()
            path.unlink()  # another file: the first model has this one mapped
            path.write_bytes(data[:-1] + b"x")
            path.chmod(0o600)
    written = [path.stat().st_mtime_ns for path in files]
    open_cache.cache_clear()  # as a new process would
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        second = loopnest.compile(model, config=config)
    assert [w.category for w in caught] == [CacheWarning] * damage
    assert mapped_bytes(second) == total
    assert all(path.stat().st_mtime_ns >= before for path, before in zip(files, written, strict=True))
    for f in (first, second):
        np.testing.assert_array_equal(f(x), plain(x))


def test_other_weights_are_other_files(tmp_path: Path) -> None:
    config = {"cache_dir": str(tmp_path)}
    x = values(2, 200)
    for seed in range(2):
        w = values(200, 300, seed=seed)
        model = make_model([oh.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 200]}, ["y"], {"w": w})
        np.testing.assert_allclose(loopnest.compile(model, config=config)(x), x @ w, rtol=1e-4, atol=1e-4)
    assert len(list((tmp_path / "weights").iterdir())) == 2
    assert len(list((tmp_path / "kernels").iterdir())) == 1


SIZES = """
def sizes_of_arrays():
    sizes = dict(Rss=0, Pss=0, Private_Dirty=0)
    here = False
    for line in open("/proc/self/smaps"):
        field, *rest = line.split()
        if not field.endswith(":"):
            here = line.rstrip().endswith(".array")
        elif here and field[:-1] in sizes:
            sizes[field[:-1]] += int(rest[0])
    return sizes.values()
"""
SHARING = (
    SIZES
    + """
import sys
import numpy as np, loopnest
f = loopnest.compile(sys.argv[1], config={"cache_dir": sys.argv[2]}, threads=1)
f(np.zeros((1, 64, 5, 5), np.float32))
print("ready", flush=True)
input()
print(*sizes_of_arrays())
"""
)


ACCOUNTS = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux's accounting of memory")
EMBEDDING = (
    SIZES
    + """
import sys
import numpy as np, loopnest
f = loopnest.compile(sys.argv[1], config={"cache_dir": sys.argv[2]}, threads=1)
print(*sizes_of_arrays())
print(f(np.array([0, 39999])).sum())
print(*sizes_of_arrays())
"""
)


@ACCOUNTS
def test_what_is_mapped_and_not_read_is_in_no_memory(tmp_path: Path) -> None:
    """Neither after the first process has made it, nor after the second has found it; of the table two rows are read."""
    path, rng = tmp_path / "model.onnx", np.random.default_rng(0)
    table, w = (rng.standard_normal(shape, np.float32) for shape in ((40000, 160), (160, 800)))
    nodes = [oh.make_node("Gather", ["table", "ids"], ["rows"]), oh.make_node("MatMul", ["rows", "w"], ["y"])]
    ids = oh.make_tensor_value_info("ids", onnx.TensorProto.INT64, (2,))
    path.write_bytes(make_model(nodes, {"ids": ids}, ["y"], {"table": table, "w": w}).SerializeToString())
    command = [sys.executable, "-c", EMBEDDING, str(path), str(tmp_path / "cache")]
    sums: list[float] = []
    for _ in range(2):
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        before, total, after = (line.split() for line in lines)
        assert int(before[0]) <= 2 * w.nbytes // 1024
        assert int(after[0]) <= 2 * w.nbytes // 1024 + 1024
        sums.append(float(total[0]))
    np.testing.assert_allclose(sums, float((table[[0, 39999]] @ w).sum()), rtol=1e-3)


@ACCOUNTS
def test_two_processes_share_the_pages(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_with_weights().SerializeToString())
    command = [sys.executable, "-c", SHARING, str(path), str(tmp_path / "cache")]
    loopnest.compile(path, config={"cache_dir": str(tmp_path / "cache")})
    for written in (tmp_path / "cache").rglob("*.array"):  # pages that are not on the disk yet count as dirty, too
        with written.open("rb") as file:
            os.fsync(file)
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    first, _ = both[0].communicate("\n", timeout=60)
    rss, pss, dirty = map(int, first.split())
    assert rss >= 256 * 64 * 9 * 4 // 1024
    assert pss <= 0.6 * rss, "half of each page belongs to the other process"
    assert dirty == 0
    both[1].communicate("\n", timeout=60)
