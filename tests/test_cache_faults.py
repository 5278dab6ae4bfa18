"""What happens to a cache in the field: many processes at once, kill -9, clocks, homes and directories that are not as they should be."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper as oh
import pytest

import loopnest
from loopnest.runtime import cache as caches
from loopnest.runtime.arrays import ArrayCache
from loopnest.runtime.cache import CacheKey, CacheWarning, Claim, KernelCache, open_cache
from loopnest.runtime.files import CacheFiles
from tests.graphs import make_model, values

KEY = CacheKey((("source", "y = x"),))
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX")


def some_kernels() -> Any:
    """A model of six kernels and two packed weights."""
    nodes = [
        oh.make_node("MatMul", ["x", "w"], ["a"]),
        oh.make_node("Softmax", ["a"], ["b"]),
        oh.make_node("LogSoftmax", ["b"], ["c"]),
        oh.make_node("ReduceMax", ["c"], ["d"], axes=[1]),
        oh.make_node("MatMul", ["c", "v"], ["e"]),
        oh.make_node("CumSum", ["e", "axis"], ["y"]),
    ]
    constants = {"w": values(200, 160), "v": values(160, 140, seed=1), "axis": np.array(0)}
    return make_model(nodes, {"x": [3, 200]}, ["y", "d"], constants)


COMPILING = """
import sys
import numpy as np, loopnest
from loopnest.compiler.kernels import Kernels
made = []
keep = Kernels._keep
Kernels._keep = lambda self, request, *rest: (made.append(request.key.digest), keep(self, request, *rest))[1]
input()
f = loopnest.compile(sys.argv[1], config={"cache_dir": sys.argv[2]}, threads=1)
print(f(np.ones((3, 200), np.float32))[0].sum())
print(*made)
"""


def start(path: Path, cache: Path, count: int) -> list[subprocess.Popen[str]]:
    """Processes that compile the same model, from the same moment on."""
    command = [sys.executable, "-W", "error", "-c", COMPILING, str(path), str(cache)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(count)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def results(processes: list[subprocess.Popen[str]]) -> tuple[set[str], list[str]]:
    """What they computed, and the digests of the kernels that they compiled."""
    sums: set[str] = set()
    made: list[str] = []
    for process in processes:
        out, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        total, digests = out.splitlines()
        sums.add(total)
        made += digests.split()
    return sums, made


def test_processes_that_start_together_compile_each_kernel_once(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(some_kernels().SerializeToString())
    sums, made = results(start(tmp_path / "model.onnx", tmp_path / "cache", 8))
    stored = list((tmp_path / "cache" / "kernels").glob("*.kernel"))
    assert len(sums) == 1
    assert sorted(made) == sorted(path.stem for path in stored), "each by one process"
    assert {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {".kernel", ".array"}


@posix
def test_who_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    """A process dies in the middle of compiling, with its locks, and the others do its work."""
    (tmp_path / "model.onnx").write_bytes(some_kernels().SerializeToString())
    victim, *others = start(tmp_path / "model.onnx", tmp_path / "cache", 3)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob("kernels/*.lock")) and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    sums, made = results(others)
    assert len(sums) == 1
    assert len(made) == len(set(made))


def test_a_lock_that_is_not_given_back_is_waited_for_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopnest.compiler.kernels.PATIENCE", 0.3)
    monkeypatch.setattr(KernelCache, "claim", lambda self, key, timeout=0.0: time.sleep(timeout))
    f = loopnest.compile(some_kernels(), config={"cache_dir": str(tmp_path)})
    assert np.isfinite(f(values(3, 200))[0]).all()


def test_claims(tmp_path: Path) -> None:
    cache, other = KernelCache(tmp_path), KernelCache(tmp_path)
    claim = cache.claim(KEY)
    assert isinstance(claim, Claim)
    assert other.claim(KEY) is None
    assert other.claim(KEY, timeout=0.05) is None
    assert isinstance(other.claim(CacheKey((("source", "z = x"),))), Claim)
    claim.release()
    again = other.claim(KEY)
    assert again is not None
    again.release()
    again.release()
    assert isinstance(KernelCache(None).claim(KEY), Claim)


@posix
def test_where_there_can_be_no_locks_everybody_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert KernelCache(tmp_path).claim(KEY) is not None
    assert KernelCache(tmp_path).claim(KEY) is not None


KILLED = """
import sys
from pathlib import Path
import numpy as np
from loopnest.runtime.arrays import ArrayCache
from loopnest.runtime.cache import CacheKey, KernelCache
cache = KernelCache(sys.argv[1])
arrays = ArrayCache(cache.files)
print("ready", flush=True)
for turn in range(10**6):
    for n in range(4):
        key = CacheKey((("n", str(n)),))
        cache.put(key, bytes([n]) * 200_000, "k")
        arrays.put(key, np.full(50_000, n, np.float32))
"""


@posix
@pytest.mark.parametrize("turn", range(12))
def test_kill_9_while_writing(tmp_path: Path, turn: int) -> None:
    """At a random moment: each entry is whole or absent, and nothing is warned of."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(random.Random(turn).random() * 0.05)
    process.kill()
    process.communicate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = KernelCache(tmp_path)
        assert cache.files is not None
        arrays = ArrayCache(cache.files)
        for n in range(4):
            key = CacheKey((("n", str(n)),))
            kernel, array = cache.get(key), arrays.get(key, 200_000)
            assert kernel is None or kernel.object_code == bytes([n]) * 200_000
            assert array is None or (array == n).all()
        for path in tmp_path.rglob("*.tmp"):
            os.utime(path, (time.time() - 7200,) * 2)
        cache.files.prune()
        assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("ahead", [3600.0, 10 * 365 * 86400.0])
def test_a_clock_that_went_back_keeps_what_is_used(tmp_path: Path, ahead: float) -> None:
    """Entries of the future were used before the clock was set back: what is used now is newer."""
    cache = KernelCache(tmp_path)
    assert cache.files is not None
    keys = [CacheKey((("n", str(n)),)) for n in range(6)]
    for n, key in enumerate(keys):
        cache.put(key, bytes(10_000), "k")
        os.utime(tmp_path / "kernels" / f"{key.digest}.kernel", (time.time() + ahead + n,) * 2)
    used = [keys[1], keys[2]]
    assert all(KernelCache(tmp_path).get(key) for key in used)
    cache.files.prune(30_000)
    assert [key for key in keys if KernelCache(tmp_path).get(key)] == used


def test_without_a_home_the_cache_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LOOPNEST_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"~/.cache/{name}")  # what it says where nobody has a home
    open_cache.cache_clear()
    try:
        with pytest.warns(CacheWarning, match="there is no home directory") as caught:
            for _ in range(2):
                f = loopnest.compile(make_model([oh.make_node("Neg", ["x"], ["y"])], {"x": [3]}, ["y"]))
        assert len(caught) == 1
        np.testing.assert_array_equal(f(np.ones(3, np.float32)), -np.ones(3, np.float32))  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []
    finally:
        open_cache.cache_clear()


@posix
def test_a_directory_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    first = KernelCache(tmp_path)
    first.put(KEY, b"code", "k")
    (tmp_path / "kernels").chmod(0o777)
    cache = KernelCache(tmp_path)
    with pytest.warns(CacheWarning, match="others may write it") as caught:
        assert cache.get(KEY) is None
        assert list(cache.stored()) == []
        cache.put(CacheKey((("n", "1"),)), b"code", "k")
        claim = cache.claim(KEY)
    assert claim is not None
    assert {str(w.message).split(":")[0] for w in caught} == {"loopnest cache"}
    assert len(caught) == 2, "one says what is not read, one what is not written"
    assert len(list((tmp_path / "kernels").iterdir())) == 1


@posix
def test_a_directory_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KernelCache(tmp_path).put(KEY, b"code", "k")
    monkeypatch.setattr(caches.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.warns(CacheWarning, match="another user"):
        assert KernelCache(tmp_path).get(KEY) is None


@posix
def test_a_cache_may_lie_behind_a_link_of_its_own_user(tmp_path: Path) -> None:
    """The directory may be elsewhere; what counts is whose it is."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KernelCache(tmp_path / "cache").put(KEY, b"code", "k")
        assert KernelCache(tmp_path / "disk").get(KEY) is not None


@posix
def test_a_link_planted_under_a_name_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "cache")
    cache.put(KEY, b"code", "k")
    path = tmp_path / "cache" / "kernels" / f"{KEY.digest}.kernel"
    path.unlink()
    (tmp_path / "precious").write_text("mine")
    for name in (path, path.with_suffix(".lock")):
        name.symlink_to(tmp_path / "precious")
    other = KernelCache(tmp_path / "cache")
    with pytest.warns(CacheWarning):
        assert other.get(KEY) is None
    claim = other.claim(KEY)
    other.put(KEY, b"new", "k")
    if claim:
        claim.release()
    assert (tmp_path / "precious").read_text() == "mine"
    assert KernelCache(tmp_path / "cache").get(KEY) is not None


def test_clear_removes_what_is_ours(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    files = cache.files
    assert isinstance(files, CacheFiles)
    cache.put(KEY, b"code", "k")
    ArrayCache(files).put(KEY, np.zeros(100))
    (tmp_path / "kernels" / "left.tmp").write_text("")
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "model.onnx").write_text("")
    assert files.clear() > 800
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.onnx"]
