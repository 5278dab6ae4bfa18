"""The kernel cache: what it stores it gives back, and nothing on the disk can hurt it."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from loopnest.compiler import kept
from loopnest.runtime import cache as caches
from loopnest.runtime.cache import CacheEntry, CacheKey, CacheWarning, KernelCache, source_fingerprint

ROOT = Path(__file__).parent.parent
KEY = CacheKey((("target", "avx2"), ("nest", "for i in range(8):\n    y[i] = x[i]")))
OTHER = CacheKey((("target", "avx2"), ("nest", "for i in range(9):\n    y[i] = x[i]")))


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path)


def entry_file(cache: KernelCache, key: CacheKey = KEY) -> Path:
    assert cache.files is not None
    return cache.files.root / "kernels" / f"{key.digest}.kernel"


def reopened(cache: KernelCache) -> KernelCache:
    assert cache.files is not None
    return KernelCache(cache.files.root, cache.files.max_bytes)


def test_what_is_put_is_found_again_by_another_process(cache: KernelCache) -> None:
    assert cache.get(KEY) is None
    cache.put(KEY, b"\x7fELF\0code", "kernel", {"flops": 3})
    assert cache.get(KEY) == CacheEntry(b"\x7fELF\0code", "kernel", {"flops": 3})
    other = reopened(cache)
    assert other.get(KEY) == cache.get(KEY)
    assert other.get(OTHER) is None
    assert (other.stats.disk_hits, other.stats.misses, other.stats.puts) == (1, 1, 0)
    assert other.get(KEY) is not None
    assert other.stats.memory_hits == 1


def test_key_text_digest_and_explanation() -> None:
    assert CacheKey((("a", "1"), ("b", "2"))).digest != CacheKey((("a", "1b"), ("", "2"))).digest
    assert KEY.as_text() == "target: avx2\nnest:\n    for i in range(8):\n        y[i] = x[i]"
    assert KEY.explain(OTHER) == "nest differs: line 1: 'for i in range(8):' here, 'for i in range(9):' there"
    assert KEY.explain(CacheKey((("target", "sse2"),))) == "target differs: 'avx2' here, 'sse2' there"
    assert KEY.explain(CacheKey(KEY.parts[:1])) == "part 'nest' stands where the other key has None"
    assert KEY.explain(KEY) == "the keys are equal"
    long = [CacheKey((("features", "+a," * 30 + f"+{letter}," + "+z," * 30),)) for letter in "xy"]
    assert long[0].explain(long[1]).endswith("here, '…,+a,+a,+a,+a,+a,+a,+y,+z,+z,+z,+z,+z,+z,+z,+z,+z,+z,+z,+z,+z…' there")


def test_cache_explains_a_miss_by_the_nearest_key(cache: KernelCache) -> None:
    assert cache.explain(KEY) == "the cache is empty"
    cache.put(CacheKey((("target", "sse2"), *KEY.parts[1:])), b"", "k")
    assert (cache.explain(KEY) or "").startswith("target differs")
    cache.put(OTHER, b"", "k")
    assert (cache.explain(KEY) or "").startswith("nest differs")
    assert cache.explain(OTHER) is None
    assert reopened(cache).explain(OTHER) is None


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "foreign":
        path.write_bytes(b"#!/bin/sh\n" * 20)
    elif how == "directory":
        path.unlink()
        path.mkdir()
    elif how == "link":
        path.rename(path.with_suffix(".elsewhere"))
        path.symlink_to(path.with_suffix(".elsewhere"))
    elif how == "writable":
        path.chmod(0o666)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "foreign", "directory", "link", "writable"])
def test_a_bad_entry_is_one_warning_and_a_miss(cache: KernelCache, how: str) -> None:
    for key in (KEY, OTHER):
        cache.put(key, b"code", "k")
        damage(entry_file(cache, key), how)
    fresh = reopened(cache)
    with pytest.warns(CacheWarning) as caught:
        assert fresh.get(KEY) is None
        assert fresh.get(OTHER) is None
    assert len(caught) == 1
    if how not in ("directory", "link"):
        assert not entry_file(cache).exists()
        fresh.put(KEY, b"new", "k")
        assert reopened(cache).get(KEY) == CacheEntry(b"new", "k", {})


def test_an_entry_under_the_wrong_name_is_not_taken(cache: KernelCache) -> None:
    cache.put(OTHER, b"code", "k")
    os.replace(entry_file(cache, OTHER), entry_file(cache, KEY))
    with pytest.warns(CacheWarning, match="another key"):
        assert reopened(cache).get(KEY) is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX ownership")
def test_an_entry_of_another_user_is_not_trusted(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(KEY, b"code", "k")
    monkeypatch.setattr(caches.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.warns(CacheWarning, match="another user"):
        assert reopened(cache).get(KEY) is None


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_files_are_private(cache: KernelCache) -> None:
    cache.put(KEY, b"code", "k")
    assert entry_file(cache).stat().st_mode & 0o777 == 0o600
    assert entry_file(cache).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("call", ["open", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_degrades_to_memory(
    cache: KernelCache, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(caches.os, call, refuse)
    with pytest.warns(CacheWarning, match=os.strerror(number)) as caught:
        cache.put(KEY, b"code", "k")
        cache.put(OTHER, b"more", "k")
    assert len(caught) == 1
    assert cache.get(KEY) == CacheEntry(b"code", "k", {})
    monkeypatch.undo()
    assert list(entry_file(cache).parent.iterdir()) == []


def test_a_directory_that_cannot_be_made_degrades_to_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = KernelCache(tmp_path / "file")
    with pytest.warns(CacheWarning):
        assert cache.get(KEY) is None
        cache.put(KEY, b"code", "k")
    assert cache.get(KEY) is not None


def test_memory_only() -> None:
    cache = KernelCache(None)
    cache.put(KEY, b"code", "k")
    assert cache.get(KEY) is not None


def test_the_longest_unused_entries_go_first(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, max_bytes=10_000)
    keys = [CacheKey((("n", str(n)),)) for n in range(8)]
    for age, key in enumerate(keys):
        cache.put(key, bytes(1000), "k")
        os.utime(entry_file(cache, key), (age, age))
    assert reopened(cache).get(keys[0]) is not None  # used now, hence the newest
    cache.put(CacheKey((("n", "big"),)), bytes(3000), "k")
    cache.files.prune()  # type: ignore[union-attr]
    kept = [entry_file(cache, key).exists() for key in keys]
    assert kept[0]
    assert kept == [True, *sorted(kept[1:])], "the oldest go first"
    assert not all(kept)
    assert sum(path.stat().st_size for path in entry_file(cache).parent.iterdir()) <= 9000


def test_abandoned_temporary_files_are_removed_in_the_end(cache: KernelCache) -> None:
    cache.put(KEY, b"code", "k")
    young, old = (entry_file(cache).with_name(name) for name in ("young.tmp", "old.tmp"))
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    cache.files.prune()  # type: ignore[union-attr]
    assert young.exists()
    assert not old.exists()


WRITER = """
import sys
from loopnest.runtime.cache import CacheKey, KernelCache
cache = KernelCache(sys.argv[1], max_bytes=20_000)
for round in range(40):
    for n in range(8):
        key = CacheKey((("n", str(n)),))
        fresh = KernelCache(sys.argv[1])
        found = fresh.get(key)
        assert found is None or found.object_code == bytes([n]) * 1000, found
        cache.put(key, bytes([n]) * 1000, "k")
"""


def test_many_processes_share_a_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not list((tmp_path / "kernels").glob("*.tmp"))


def test_many_threads_share_a_cache(cache: KernelCache) -> None:
    keys = [CacheKey((("n", str(n)),)) for n in range(20)]
    wrong: list[object] = []

    def work() -> None:
        for n, key in enumerate(keys):
            cache.put(key, bytes([n]), "k")
            found = cache.get(key)
            if found != CacheEntry(bytes([n]), "k", {}):
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.stats.puts == 80


def test_memory_is_bounded_while_the_disk_holds_the_rest(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "MEMORY_MAX_BYTES", 2500)
    keys = [CacheKey((("n", str(n)),)) for n in range(5)]
    for key in keys:
        cache.put(key, bytes(1000), "k")
    assert all(cache.get(key) is not None for key in keys)
    assert cache.stats.disk_hits > 0


def test_directory_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOPNEST_CACHE_DIR", str(tmp_path))
    assert caches.default_directory() == tmp_path
    monkeypatch.delenv("LOOPNEST_CACHE_DIR")
    assert caches.default_directory().name == "loopnest"
    assert caches.open_cache(str(tmp_path)) is caches.open_cache(str(tmp_path))


def test_source_fingerprint_follows_the_sources(tmp_path: Path) -> None:
    (tmp_path / "codegen").mkdir()
    (tmp_path / "codegen" / "a.py").write_text("x = 1\n")
    prints = {source_fingerprint.__wrapped__(tmp_path)}
    (tmp_path / "codegen" / "a.py").write_text("x = 2\n")
    prints.add(source_fingerprint.__wrapped__(tmp_path))
    (tmp_path / "codegen" / "b.py").write_text("")
    prints.add(source_fingerprint.__wrapped__(tmp_path))
    assert len(prints) == 3
    assert source_fingerprint() == source_fingerprint.__wrapped__()


def test_a_comment_is_no_change_of_the_sources(tmp_path: Path) -> None:
    (tmp_path / "codegen").mkdir()

    def fingerprint(text: str) -> str:
        (tmp_path / "codegen" / "a.py").write_text(text)
        return source_fingerprint.__wrapped__(tmp_path)

    assert fingerprint("x = 1\n") == fingerprint("x = 1  # one, they say\n") == fingerprint("    # it's one\nx = 1\n")
    assert fingerprint('x = "a  #1"\n') != fingerprint('x = "a  #2"\n')


DOCUMENTATION = {"compiler/config.py", "ir/graph_text.py", "runtime/later.py"}
"""Sources with strings that have comments in them and decide nothing: docstrings, the page on configuration."""


def test_what_is_taken_for_a_comment_is_one() -> None:
    for pattern in kept.SOURCES:
        for file in sorted(ROOT.glob(pattern)):
            source = file.read_bytes()
            same = ast.dump(ast.parse(source)) == ast.dump(ast.parse(caches.COMMENTS.sub(b"", source)))
            assert same != (file.relative_to(ROOT).as_posix() in DOCUMENTATION), file


def test_a_clean_run_warns_of_nothing(cache: KernelCache) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(KEY, b"code", "k")
        assert reopened(cache).get(KEY) is not None
