"""Processes that help to compile: what they make is what one process makes, and nothing depends on them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

import loopnest
from loopnest.codegen import child
from loopnest.codegen.kernel import KernelModule, emit_kernel, loops_over_tasks
from loopnest.codegen.target import resolve
from loopnest.compiler import helper, kernels, lazy
from loopnest.compiler.helper import Helper, Spare
from loopnest.compiler.jobs import Job, Jobs
from tests.graphs import make_model, values
from tests.kernels import kernels_of

OPS = ("Tanh", "Exp", "Sigmoid", "Abs", "Sin", "Cos", "Softmax", "Erf", "Neg", "Sqrt")


def unfused() -> onnx.ModelProto:
    """As many kernels as there are operators."""
    nodes = [make_node(op, ["x"], [f"y{i}"], name=op) for i, op in enumerate(OPS)]
    return make_model(nodes, {"x": (3, 5)}, [f"y{i}" for i in range(len(OPS))])


def check_unfused(f: loopnest.CompiledModel) -> None:
    x = np.abs(values(3, 5))
    results = f.run(None, {"x": x})
    np.testing.assert_allclose(results[0], np.tanh(x), rtol=1e-5)
    np.testing.assert_allclose(results[3], x)
    np.testing.assert_allclose(results[-1], np.sqrt(x), rtol=1e-6)


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available_cpus", lambda: 2)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_object_code_is_the_same_from_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model([make_node("MatMul", ["x", "w"], ["y"])], {"x": (64, 32), "w": (32, 48)}, ["y"])
    (source, *_) = kernels_of(model, monkeypatch)
    module = emit_kernel(source, resolve("cpu"))
    process = Helper()
    try:
        assert process.ready()
        answers = [process.ask(b"loops", str(rank).encode()) for rank in module.needs]
        loops = [answer for answer in answers if answer is not None]
        assert len(loops) == len(module.needs)
        assert process.ask(*module.message(loops)) == module.object_code()
        here = [loops_over_tasks(rank).encode() for rank in module.needs]
        assert process.ask(*module.message(here)) == module.object_code(loops)
        assert process.ask(b"object", b"", b"", b"", b"", b"no LLVM IR") is None  # it ends
        assert process.ask(*module.message(loops)) is None
    finally:
        process.close()
    assert process.ask(*module.message(loops)) is None


def test_kernels_come_from_two_processes(two_cpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that this process takes wait for one from the other, which thus has some to do."""
    helped, here = threading.Event(), KernelModule.object_code
    ask = Helper.ask

    def record(self: Helper, *message: bytes) -> bytes | None:
        answer = ask(self, *message)
        if answer is not None and message[0] == b"object":
            helped.set()
        return answer

    def wait(self: KernelModule, loops: Sequence[bytes] | None = None) -> bytes:
        assert helped.wait(60)
        return here(self, loops)

    monkeypatch.setattr(Helper, "ask", record)
    monkeypatch.setattr(KernelModule, "object_code", wait)
    before = children(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    check_unfused(loopnest.compile(unfused(), threads=1, config={"cache": False}))
    assert (children(), threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


@pytest.mark.parametrize(
    "code",
    [
        "",  # ends at once
        "import sys; sys.stdin.buffer.read(1)",  # never says that it is ready
        f"import sys; from {child.__name__} import READY, send; send(sys.stdout.buffer, READY); sys.stdin.buffer.read(8)",
        "print('welcome to an application that embeds Python, whose command line is its own'); import time; time.sleep(1000)",
    ],
)
def test_a_helper_that_is_of_no_use_leaves_the_work_here(two_cpus: None, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_CODE", code)
    before = children(), threading.active_count()
    check_unfused(loopnest.compile(unfused(), threads=1, config={"cache": False}))
    assert (children(), threading.active_count()) == before


@pytest.mark.parametrize("executable", ["/nonexistent/python", "", None])
def test_no_interpreter_to_start(two_cpus: None, executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    check_unfused(loopnest.compile(unfused(), threads=1, config={"cache": False}))


def test_a_frozen_application_starts_no_copy_of_itself(two_cpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    check_unfused(loopnest.compile(unfused(), threads=1, config={"cache": False}))


def test_an_error_ends_the_helpers(two_cpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise IndexError("registers")

    before = children(), threading.active_count()
    monkeypatch.setattr(helper, "_CODE", "")
    monkeypatch.setattr(KernelModule, "object_code", fail)
    with pytest.raises(loopnest.LoopnestError, match=r"the kernel \w+ of \w+ cannot be compiled: IndexError: registers"):
        loopnest.compile(unfused(), threads=1, config={"cache": False})
    assert (children(), threading.active_count()) == before


def test_one_cpu_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available_cpus", lambda: 1)
    monkeypatch.setattr(helper.subprocess, "Popen", None)
    check_unfused(loopnest.compile(unfused(), threads=1, config={"cache": False}))


SCRIPT = """
import sys, loopnest, numpy as np
from loopnest.compiler import kernels
from tests.test_helpers import check_unfused, unfused
kernels.available_cpus = lambda: 2
print("ran")
check_unfused(loopnest.compile(unfused(), threads=1, config={"cache": False}))
"""


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_an_interrupt_ends_the_helpers(two_cpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(helper, "_CODE", "import time; time.sleep(1000)")
    monkeypatch.setattr(KernelModule, "object_code", interrupt)
    before = children(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        loopnest.compile(unfused(), threads=1, config={"cache": False})
    assert (children(), threading.active_count()) == before


def test_jobs_that_two_threads_wait_for_are_done_once() -> None:
    jobs, made = Jobs({}), list[str]()

    def make(name: str, needed: Sequence[bytes]) -> bytes:
        made.append(name)
        time.sleep(0.01)
        return b"".join(needed) + name.encode()

    def job(name: str, *needs: str) -> Job:
        return Job(name, lambda needed: make(name, needed), lambda _: [], lambda _: None, needs)

    jobs.add(job("b", "a"))
    jobs.add(job("c", "a", "b"))
    jobs.add(job("a"))
    threads = [threading.Thread(target=jobs.finish, args=(["a", "b", "c"], lambda done: None)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(made), made[0]) == (["a", "b", "c"], "a")
    assert (jobs.results["b"], jobs.results["c"]) == (b"ab", b"aabc")


def test_the_largest_job_that_can_be_done_comes_first() -> None:
    jobs, made = Jobs({}), list[str]()

    def job(name: str, size: int, *needs: str) -> Job:
        return Job(name, lambda _: name.encode(), lambda _: [], lambda done: made.append(done.decode()), needs, size)

    for item in (job("b", 2, "a"), job("c", 9, "a"), job("a", 1)):
        jobs.add(item)
    jobs.finish(["b", "c"], lambda done: None)
    assert made == ["a", "c", "b"]


@pytest.fixture
def large_models(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    """Every model counts as large enough for a helper; those that are started."""
    monkeypatch.setenv("LOOPNEST_VERIFY", "0")  # what is verified is not looked for in the cache
    monkeypatch.setattr(lazy, "available_cpus", lambda: 2)
    monkeypatch.setattr(lazy, "HELPED_BYTES", 0)
    started, start = list[Helper](), Helper.__init__

    def record(self: Helper, *, early: bool = False) -> None:
        assert early
        started.append(self)
        start(self, early=early)

    monkeypatch.setattr(Helper, "__init__", record)
    return started


def tanh_model(*x: int | str) -> bytes:
    return make_model([make_node("Tanh", ["x"], ["y"])], {"x": x}, ["y"]).SerializeToString()


def test_a_large_model_has_a_helper_before_its_first_kernel(large_models: list[Helper], tmp_path: Path) -> None:
    before = children(), threading.active_count()
    f = loopnest.compile(tanh_model(3, 5), threads=1, config={"cache_dir": str(tmp_path)})
    assert (len(large_models), children(), threading.active_count()) == (1, *before)
    np.testing.assert_allclose(f(values(3, 5)), np.tanh(values(3, 5)), rtol=1e-5)
    assert (len(large_models), children()) == (1, before[0])


@pytest.mark.parametrize("dies", [False, True])
def test_the_helper_of_a_model_whose_shapes_are_open_waits_for_the_first_call(
    dies: bool, large_models: list[Helper], tmp_path: Path
) -> None:
    before = children(), threading.active_count()
    f = loopnest.compile(tanh_model("n", 5), threads=1, config={"cache_dir": str(tmp_path)})
    assert len(large_models) == 1 and large_models[0].alive
    if dies:  # as it does by itself when nothing is asked of it for long
        large_models[0].kill()
        while large_models[0].alive:
            time.sleep(0.001)
    np.testing.assert_allclose(f(values(3, 5)), np.tanh(values(3, 5)), rtol=1e-5)
    assert (len(large_models), children(), threading.active_count()) == (1 + dies, *before)
    np.testing.assert_allclose(f(values(4, 5)), np.tanh(values(4, 5)), rtol=1e-5)
    assert (len(large_models), children()) == (1 + dies, before[0])


def test_a_model_that_is_never_called_leaves_no_helper(large_models: list[Helper], tmp_path: Path) -> None:
    before = children()
    f = loopnest.compile(tanh_model("n", 5), threads=1, config={"cache_dir": str(tmp_path)})
    assert children() != before
    del f
    gc.collect()
    assert children() == before


def test_the_helper_of_a_parent_is_not_that_of_its_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_CODE", "import sys; sys.stdin.read()")
    spare = Spare()
    spare.start()
    assert spare
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    assert not spare and spare.take() is None
    monkeypatch.undo()


def test_a_process_of_which_nothing_is_asked_ends() -> None:
    code = "import loopnest.codegen.child as c; c.PATIENCE = 0.01; c.EARLY = (); c.main(early=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.wait(60) == 0


def test_a_model_that_cannot_be_read_leaves_no_helper(large_models: list[Helper]) -> None:
    before = children()
    with pytest.raises(loopnest.ModelError):
        loopnest.compile(b"no model")
    assert children() == before and len(large_models) == 1


def test_what_a_failed_job_was_needed_for_fails() -> None:
    def fail(_: Sequence[bytes]) -> bytes:
        raise ValueError("a")

    jobs = Jobs({})
    jobs.add(Job("b", lambda _: b"", lambda _: [], lambda _: None, ("a",)))
    jobs.add(Job("a", fail, lambda _: [], lambda _: None))
    for _ in range(2):
        with pytest.raises(ValueError, match="a"):
            jobs.finish(["b"], lambda done: None)
