"""The child of a fork: what was compiled runs there, and nothing ever waits for a thread that stayed behind."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.helper import make_node

import loopnest
from loopnest.compiler import staged
from loopnest.runtime import forks
from tests.graphs import make_model, values

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
SECONDS = 60


def in_a_child(work: Callable[[], None]) -> None:
    """Runs ``work`` in a fork of this process, and fails when it fails there or does not end."""
    pid = os.fork()
    if not pid:
        signal.alarm(SECONDS)
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGALRM, "the child hangs"
    assert status == 0


def network() -> Any:
    nodes = [make_node("MatMul", ["x", "w"], ["a"]), make_node("Softmax", ["a"], ["y"])]
    return make_model(nodes, {"x": ("N", 200)}, ["y"], {"w": values(200, 160)})


def rows(n: int) -> np.ndarray:
    return values(n, 200, seed=n)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_compiled_model_runs_and_plans_in_children(threads: int) -> None:
    f = loopnest.compile(network(), threads=threads)
    expected = {n: f(rows(n)) for n in (64, 65)}

    def work() -> None:
        np.testing.assert_array_equal(f(rows(64)), expected[64])
        assert f(rows(7)).shape == (7, 160)  # type: ignore[union-attr]
        in_a_child(lambda: np.testing.assert_array_equal(f(rows(65)), expected[65]))

    for _ in range(3):
        in_a_child(work)
    np.testing.assert_array_equal(f(rows(64)), expected[64])


def test_a_loaded_model_runs_in_children(tmp_path: Path) -> None:
    f = loopnest.compile(network(), threads=2)
    expected = f(rows(64))
    f.save(tmp_path / "m.lnest")
    g = loopnest.load(tmp_path / "m.lnest", threads=2)
    in_a_child(lambda: np.testing.assert_array_equal(g(rows(64)), expected))  # type: ignore[arg-type]
    in_a_child(lambda: np.testing.assert_array_equal(loopnest.load(tmp_path / "m.lnest")(rows(64)), expected))  # type: ignore[arg-type]


def test_forks_while_other_threads_call() -> None:
    f = loopnest.compile(network(), threads=2)
    expected = {n: f(rows(n)) for n in (64, 65)}
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            for n, wanted in expected.items():
                np.testing.assert_array_equal(f(rows(n)), wanted)

    others = [threading.Thread(target=call) for _ in range(2)]

    def work() -> None:
        for n, wanted in expected.items():
            np.testing.assert_array_equal(f(rows(n)), wanted)

    for thread in others:
        thread.start()
    try:
        for _ in range(10):
            in_a_child(work)
    finally:
        done.set()
        for thread in others:
            thread.join()


def test_a_fork_in_the_middle_of_planning_plans_no_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    f, g = (loopnest.compile(network(), threads=2) for _ in range(2))
    expected = f(rows(64)), f(rows(65))
    f.save(tmp_path / "m.lnest")
    make, started, go_on = staged.Stage.make, threading.Event(), threading.Event()

    def slowly(*args: Any) -> Any:
        started.set()
        assert go_on.wait(SECONDS)
        return make(*args)

    monkeypatch.setattr(staged.Stage, "make", slowly)
    planning = threading.Thread(target=lambda: f(rows(9)))
    planning.start()
    started.wait(SECONDS)

    def work() -> None:
        np.testing.assert_array_equal(f(rows(64)), expected[0])
        np.testing.assert_array_equal(f(rows(65)), expected[1])
        for refused in (lambda: f(rows(9)), lambda: g(rows(8)), lambda: loopnest.load(tmp_path / "m.lnest")(rows(64))):
            with pytest.raises(loopnest.LoopnestError, match="forked while another thread was compiling or loading a model"):
                refused()

    in_a_child(work)
    go_on.set()
    planning.join()
    monkeypatch.undo()
    assert f(rows(9)).shape == (9, 160)  # type: ignore[union-attr]


def test_brief_locks_are_free_in_a_child() -> None:
    lock = forks.brief_lock()
    thread = threading.Thread(target=lambda: lock.acquire() and time.sleep(0.3))
    thread.start()
    while not lock.locked():
        time.sleep(0.001)

    def work() -> None:
        assert lock.acquire(timeout=5)

    in_a_child(work)
    thread.join()
    assert lock.locked()


def test_work_is_reentrant_and_counts_its_threads() -> None:
    work = forks.Work()
    with work, work, forks.Work():
        assert forks._inside[threading.get_ident()] == 3
        in_a_child(work.__enter__)  # its own thread goes on
    assert threading.get_ident() not in forks._inside
