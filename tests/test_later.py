"""What is stored after a compilation is there when somebody asks, and stands in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper as oh
import pytest

import loopnest
from loopnest.compiler import build, kept
from loopnest.runtime import later
from loopnest.runtime.cache import open_cache
from tests.graphs import make_model, values


def test_work_is_done_in_order_after_what_holds_it() -> None:
    done: list[int] = []
    with later.held():
        for i in range(3):
            later.later(lambda i=i: done.append(i))
        with later.held():
            pass
        later.wait()  # does not wait for what is held
        assert not done
    later.wait()
    assert done == [0, 1, 2]


def test_an_error_does_not_stop_what_follows() -> None:
    done = threading.Event()
    with later.held():
        later.later(lambda: 1 // 0)
        later.later(done.set)
    later.wait()
    assert done.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_child_of_a_fork_does_not_wait_for_its_parent() -> None:
    begun, go = threading.Event(), threading.Event()
    later.later(lambda: (begun.set(), go.wait(30)))
    assert begun.wait(30)
    child = os.fork()
    if not child:
        done: list[int] = []
        later.later(lambda: done.append(1))
        later.wait()
        os._exit(0 if done else 1)
    go.set()
    assert os.waitpid(child, 0)[1] == 0
    later.wait()


# --- models ---------------------------------------------------------------------------------------------------------------------


def model_bytes() -> bytes:
    """A model of 230 kB: an embedding as it is, and a packed weight."""
    nodes = [oh.make_node("Gather", ["t", "ids"], ["a"]), oh.make_node("MatMul", ["a", "w"], ["y"])]
    constants = {"t": values(300, 160), "w": values(160, 200, seed=1)}
    ids = oh.make_tensor_value_info("ids", 7, (3,))
    return make_model(nodes, {"ids": ids}, ["y"], constants).SerializeToString()


IDS = np.array([5, 299, 0])


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of 100 kB are large, and kept."""
    monkeypatch.setattr(kept, "LARGE", 100_000)
    for name in ("LOOPNEST_DUMP", "LOOPNEST_VERIFY"):
        monkeypatch.delenv(name, raising=False)


def test_a_large_model_is_stored_after_its_compilation(large: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    original = build.read
    monkeypatch.setattr(build, "read", lambda *rest: (read.append(1), original(*rest))[1])
    data, config = model_bytes(), {"cache_dir": str(tmp_path)}
    with later.held():
        first = loopnest.compile(data, config=config)
        result = first(IDS)
        assert not (tmp_path / "weights").exists() and not list((tmp_path / "plans").glob("*-*"))
    later.wait()
    assert len(list((tmp_path / "weights").glob("*.array"))) == 2
    open_cache.cache_clear()  # as a new process would
    second = loopnest.compile(data, config=config)
    assert len(read) == 1 and second.compile_report.compiled == 0
    np.testing.assert_array_equal(second(IDS), result)


def test_another_model_of_the_same_size_is_another_model(large: None, tmp_path: Path) -> None:
    config = {"cache_dir": str(tmp_path)}
    first, data = model_bytes(), bytearray(model_bytes())
    at = data.index(values(160, 200, seed=1).tobytes())
    data[at : at + 4 * 160 * 200] = values(160, 200, seed=2).tobytes()
    loopnest.compile(first, config=config)
    got = loopnest.compile(bytes(data), config=config)(IDS)
    np.testing.assert_allclose(got, values(300, 160)[IDS] @ values(160, 200, seed=2), rtol=1e-4, atol=1e-4)
    later.wait()
    assert len(list((tmp_path / "weights").glob("*.array"))) == 3, "both have the embedding"


def test_a_file_that_changes_before_it_is_hashed_is_not_stored(large: None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes())
    os.utime(path, (1, 1))
    with later.held():
        loopnest.compile(path, config={"cache_dir": str(tmp_path / "cache")})
        data = bytearray(path.read_bytes())
        data[-10] ^= 1
        path.write_bytes(data)
    later.wait()
    assert not list((tmp_path / "cache" / "plans").glob("*-*"))


ENDING = """
import sys
import numpy as np, loopnest
from loopnest.compiler import kept
kept.LARGE = 100_000
f = loopnest.compile(open(sys.argv[1], "rb").read(), config={"cache_dir": sys.argv[2]}, threads=1)
print(f.compile_report.compiled)
"""


def test_a_process_that_ends_stores_first(large: None, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model_bytes())
    command = [sys.executable, "-c", ENDING, str(tmp_path / "model.onnx"), str(tmp_path / "cache")]
    made = [int(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout) for _ in range(2)]
    assert made[0] > 0 and made[1] == 0
