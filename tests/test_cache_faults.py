"""What happens to a cache in the field: many processes at once, kill -9, clocks, homes and directories that are not as they should be."""

from __future__ import annotations

import ast
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper as oh
import pytest

import loopnest
from loopnest.runtime import cache as caches
from loopnest.runtime import records
from loopnest.runtime.arrays import ArrayCache
from loopnest.runtime.cache import CacheKey, CacheWarning, Claim, KernelCache, open_cache
from loopnest.runtime.files import FOLDERS, CacheFiles
from tests.faults import NOBODY, as_root, damages, posix, python, replace_file, short_and_long
from tests.graphs import make_model, values

KEY = CacheKey((("source", "y = x"),))


@pytest.fixture(autouse=True)
def plans_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are unless somebody verifies the stages of a compilation."""
    monkeypatch.delenv("LOOPNEST_VERIFY", raising=False)


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
    assert {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()} == set(FOLDERS.values())


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
import os, sys, time, warnings
from pathlib import Path
import numpy as np
from loopnest.runtime.arrays import ArrayCache
from loopnest.runtime.cache import CacheKey, KernelCache
from tests.faults import killed

root, turns, left = Path(sys.argv[1]), int(sys.argv[2]), 0
keys = [CacheKey((("n", str(n)),)) for n in range(4)]

def write():
    cache = KernelCache(root)
    arrays = ArrayCache(cache.files)
    for n, key in enumerate(keys):
        cache.put(key, bytes([n]) * 200_000, "k")
        arrays.put(key, np.full(50_000, n, np.float32))

warnings.simplefilter("error")
for turn in range(turns):
    killed(write, 0.02, seed=turn, warm=True)
    cache = KernelCache(root)
    arrays = ArrayCache(cache.files)
    for n, key in enumerate(keys):
        kernel, array = cache.get(key), arrays.get(key, 200_000)
        assert kernel is None or kernel.object_code == bytes([n]) * 200_000
        assert array is None or (array == n).all()
    for path in root.rglob("*.tmp"):
        left += 1
        os.utime(path, (time.time() - 7200,) * 2)
    cache.files.prune()
    assert not list(root.rglob("*.tmp"))
print(left)
"""


@posix
@short_and_long(20, 1000)
def test_kill_9_while_writing(tmp_path: Path, turns: int) -> None:
    """At a random moment: each entry is whole or absent, nothing is warned of, and what was begun goes when it is old."""
    left = int(python(KILLED, tmp_path, turns).stdout)
    assert turns < 100 or left, "some were killed in the middle"


KILLED_COMPILING = """
import sys, time, warnings
from pathlib import Path
import numpy as np, loopnest
from loopnest.runtime.cache import open_cache
from tests.faults import killed

path, root, turns = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
x = np.ones((3, 200), np.float32)

def results(config):
    open_cache.cache_clear()
    return [y.tobytes() for y in loopnest.compile(path, config=config, threads=1)(x)]

warnings.simplefilter("error")
expected = results({"cache": False})
start = time.monotonic()
results({"cache": False})
span = time.monotonic() - start
for turn in range(turns):
    config = {"cache_dir": str(root / str(turn // 4))}
    killed(lambda: results(config), span, seed=turn)
    if turn % 4 == 3 or turn == turns - 1:
        assert results(config) == expected
"""


@posix
@short_and_long(2, 200)
def test_kill_9_while_compiling(tmp_path: Path, turns: int) -> None:
    """Up to four times in each directory; the next process finds what was finished, makes the rest, and computes the same."""
    (tmp_path / "model.onnx").write_bytes(some_kernels().SerializeToString())
    python(KILLED_COMPILING, tmp_path / "model.onnx", tmp_path / "cache", turns)


def regions(data: bytes) -> dict[str, range]:
    """Of any file of the cache: magic, checksum, size of the header; the header in JSON; what it describes."""
    start = records._HEADER.size
    end = start + records._HEADER.unpack_from(data)[-1]
    page = min(end + -end % 4096, len(data))
    if data[end:page].strip(b"\0"):
        page = end
    parts = {"magic": 16, "checksum": 48, "size": start, "header": end, "padding": page, "content": len(data)}
    starts = (0, *parts.values())
    return {name: range(begin, stop) for begin, (name, stop) in zip(starts, parts.items(), strict=False)}


@pytest.mark.parametrize("kind", ["kernels", "weights"])
@short_and_long(3, 3000)
def test_damage_in_any_region_of_an_entry_is_found(tmp_path: Path, kind: str, turns: int) -> None:
    array = np.arange(300, dtype=np.float32)

    def get() -> Any:
        cache = KernelCache(tmp_path)
        assert cache.files is not None
        return cache.get(KEY) if kind == "kernels" else ArrayCache(cache.files).get(KEY, array.nbytes)

    cache = KernelCache(tmp_path)
    assert cache.files is not None
    if kind == "kernels":
        cache.put(KEY, bytes(range(256)) * 4, "k")
    else:
        ArrayCache(cache.files).put(KEY, array)
    (path,) = (tmp_path / kind).iterdir()
    sound = path.read_bytes()
    seen = regions(sound)
    assert all(seen[name] for name in seen if name != "padding")
    for what, data in damages(sound, seen, seed=0, each=turns):
        replace_file(path, data)
        with pytest.warns(CacheWarning) as caught:
            assert get() is None, what
        assert len(caught) == 1, what
        assert not path.exists(), what
        path.touch()
    replace_file(path, sound)
    assert get() is not None


@short_and_long(2, 150)
def test_a_model_survives_damage_to_all_of_its_files(tmp_path: Path, turns: int) -> None:
    """Whatever kinds of files there are: the same result, warnings, and a sound cache afterwards."""
    model, x, config = some_kernels(), values(3, 200), {"cache_dir": str(tmp_path)}

    def results() -> list[bytes]:
        open_cache.cache_clear()
        return [np.asarray(y).tobytes() for y in loopnest.compile(model, config=config)(x)]

    expected = results()
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.parent.name for path in files} == set(FOLDERS)
    sound = {path: path.read_bytes() for path in files}
    chance = random.Random(0)
    for turn in range(turns):
        for path in files:
            data = sound[path]  # not what is there: some files are read once in a process
            region = {name: part for name, part in regions(data).items() if part}
            name = chance.choice(sorted(region))
            _, damaged = chance.choice(list(damages(data, {name: region[name]}, seed=turn, each=1)))
            replace_file(path, damaged)
        with pytest.warns(CacheWarning, match="made again"):
            assert results() == expected
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert results() == expected
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files


def test_two_versions_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finds what it made, and nothing of the other."""
    model, config = some_kernels(), {"cache_dir": str(tmp_path)}

    def compiled(version: str) -> int:
        for module in ("kernels", "kept"):
            monkeypatch.setattr(f"loopnest.compiler.{module}.source_fingerprint", lambda **_: version)
        open_cache.cache_clear()
        f = loopnest.compile(model, config=config)
        assert np.isfinite(f(values(3, 200))[0]).all()
        return f.compile_report.compiled

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = [compiled(version) for version in ("old", "new", "old", "new")]
    count = first[0]
    assert count > 3
    assert first == [count, count, 0, 0]
    for folder, part in (("kernels", "codegen"), ("plans", "loopnest")):
        keys = [
            records.Form(path.read_bytes()[:16], "").decode(path.read_bytes()).key for path in (tmp_path / folder).iterdir()
        ]
        versions = Counter(dict(key.parts).get(part) for key in keys)
        assert versions["old"] == versions["new"] > 0, versions  # the driver, which is kept too, belongs to both


COMPILING_ONCE = """
import sys, warnings
import numpy as np, loopnest
warnings.simplefilter("always")
{before}
f = loopnest.compile(sys.argv[1], config={{"cache_dir": sys.argv[2]}}, threads=1)
print(f(np.ones((3, 200), np.float32))[0].tobytes().hex())
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"


def without_room(run: Callable[[str], subprocess.CompletedProcess[str]], before: str = "") -> str:
    """What ``run`` of a script says on standard error, after it computed the right result."""
    f = loopnest.compile(some_kernels(), config={"cache": False}, threads=1)
    expected = np.asarray(f(np.ones((3, 200), np.float32))[0]).tobytes().hex()
    done = run(COMPILING_ONCE.format(before=before))
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr
    assert done.stderr.count("CacheWarning") == 1
    return done.stderr


@posix
def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """The quota is met in the middle of a file: the result is right, there is one warning, and the next process stores everything."""
    (tmp_path / "model.onnx").write_bytes(some_kernels().SerializeToString())
    cache = tmp_path / "cache"
    errors = without_room(lambda code: python(code, tmp_path / "model.onnx", cache), LIMITED)
    assert "kept in memory only" in errors and "File too large" in errors
    assert not list(cache.rglob("*.tmp"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loopnest.compile(some_kernels(), config={"cache_dir": str(cache)})
    assert len(list(cache.rglob("*.kernel"))) > 3


SMALL_DISK = 'mount -t tmpfs -o size=24k tmpfs "$4" && "$0" -c "$1" "$2" "$3"; code=$?; find "$4" -name "*.tmp" >&2; exit $code'


def may_mount(folder: Path) -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except OSError:
        return False


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not may_mount(disk):
        pytest.skip("a small file system needs user namespaces (Linux, util-linux)")
    (tmp_path / "model.onnx").write_bytes(some_kernels().SerializeToString())

    def run(code: str) -> subprocess.CompletedProcess[str]:
        unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK]
        command = [*unshare, sys.executable, code, str(tmp_path / "model.onnx"), str(disk / "cache"), str(disk)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    errors = without_room(run)
    assert "No space left on device" in errors
    assert ".tmp" not in errors


@posix
def test_a_directory_without_permission_to_write(tmp_path: Path) -> None:
    """What is in it is used, what is not is kept in memory."""
    cache = KernelCache(tmp_path / "cache")
    cache.put(KEY, b"code", "k")
    other = CacheKey((("n", "1"),))
    for folder in (tmp_path / "cache" / "kernels", tmp_path / "cache"):
        folder.chmod(0o500)
    own = os.geteuid() == 0  # root may write everywhere: be somebody else, to whom the directory belongs
    if own:
        for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        for path in (tmp_path, *tmp_path.parents[:3]):
            path.chmod(path.stat().st_mode | 0o011)
        os.seteuid(NOBODY)
    try:
        again = KernelCache(tmp_path / "cache")
        with pytest.warns(CacheWarning, match="kept in memory only: cannot write .*Permission denied") as caught:
            found = again.get(KEY)
            claim = again.claim(other)
            again.put(other, b"more", "k")
            again.put(other, b"more", "k")
            kept = again.get(other)
    finally:
        if own:
            os.seteuid(0)
        for folder in (tmp_path / "cache", tmp_path / "cache" / "kernels"):
            folder.chmod(0o700)
    assert len(caught) == 1
    assert found is not None and kept is not None and claim is not None
    assert [path.suffix for path in (tmp_path / "cache" / "kernels").iterdir()] == [".kernel"]


@as_root
@pytest.mark.parametrize("whose", ["folder", "file"])
def test_what_another_user_put_there_is_not_used(tmp_path: Path, whose: str) -> None:
    KernelCache(tmp_path).put(KEY, b"code", "k")
    folder = tmp_path / "kernels"
    (file,) = folder.iterdir()
    os.chown(folder if whose == "folder" else file, NOBODY, NOBODY)
    cache = KernelCache(tmp_path)
    with pytest.warns(CacheWarning, match="another user"):
        assert cache.get(KEY) is None
        cache.put(KEY, b"mine", "k")
    assert (b"mine" in file.read_bytes()) == (whose == "file"), "replaced by one of our own, or left alone with its folder"
    assert cache.files is not None
    assert (cache.files.clear() > 0) == (whose == "file")
    assert file.exists() == (whose == "folder")


@posix
def test_a_link_planted_for_a_folder_is_not_followed(tmp_path: Path) -> None:
    """Nothing is written where it leads, and nothing removed there."""
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("mine.kernel", "mine.lock", "mine.tmp"):
        (precious / name).write_text("mine")
        os.utime(precious / name, (0, 0))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(precious)
    cache = KernelCache(tmp_path / "cache", max_bytes=1)
    assert cache.files is not None
    with pytest.warns(CacheWarning, match="it is no directory, belongs to another user"):
        assert cache.get(KEY) is None
        assert cache.claim(KEY) is not None
        cache.put(KEY, b"code", "k")
        cache.files.prune()
        assert cache.files.clear() == 0
    assert sorted(path.name for path in precious.iterdir()) == ["mine.kernel", "mine.lock", "mine.tmp"]


def test_a_file_that_another_process_is_writing_stays_when_clocks_differ(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    assert cache.files is not None
    cache.put(KEY, b"code", "k")
    for age, name in ((-86400, "future.tmp"), (7200, "old.tmp")):
        (tmp_path / "kernels" / name).touch()
        os.utime(tmp_path / "kernels" / name, (time.time() - age,) * 2)
    cache.files.prune()
    assert [path.name for path in (tmp_path / "kernels").glob("*.tmp")] == ["future.tmp"]


def test_threads_that_make_the_first_call_at_once_compile_each_kernel_once(tmp_path: Path) -> None:
    model = some_kernels()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"  # planned at the first call
    f = loopnest.compile(model, threads=2, config={"cache_dir": str(tmp_path)})
    x, start = values(3, 200), threading.Barrier(12)
    results: list[bytes] = []

    def call() -> None:
        start.wait()
        results.append(np.asarray(f(x)[0]).tobytes())

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12 and len(set(results)) == 1
    assert len(f.plans) == 1
    assert f.compile_report.compiled == len(list((tmp_path / "kernels").glob("*.kernel")))


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


HOMELESS = """
import os, warnings
import platformdirs
import numpy as np, loopnest
from onnx.helper import make_node
from tests.graphs import make_model

model = make_model([make_node("Neg", ["x"], ["y"])], {"x": [3]}, ["y"])
loopnest.compile(model, config={"cache": False})  # imports everything, while it may be read
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
os.environ.clear()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        assert (loopnest.compile(model)(np.ones(3, np.float32)) == -1).all()
print([str(w.message) for w in caught if w.category is not DeprecationWarning])
"""


@as_root
def test_a_user_whom_nobody_knows() -> None:
    """As containers run with ``--user 54321``: neither ``HOME`` nor an entry in the list of users."""
    (message,) = ast.literal_eval(python(HOMELESS).stdout)
    assert "there is no home directory" in message


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
