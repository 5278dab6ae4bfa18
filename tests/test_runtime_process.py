"""What a process that only runs models sees: imports, threads, exit, CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loopnest.runtime.cpus import available_cpus, processor_identity
from loopnest.runtime.team import Team


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


RETURNING = """
import sys, threading
from loopnest.runtime import linker
from loopnest.runtime.executor import Executable
from loopnest.runtime.program import Program, Step

KERNEL = '''define i32 @nothing(ptr %ret, ptr %exc, ptr %buffers, ptr %extents, i64 %worker, i64 %workers) {
  store i64 0, ptr %ret
  ret i32 0
}'''
engine = linker.compile_ir(KERNEL)
def program(steps):
    table = tuple(Step("k", (), parallel=True) for _ in range(steps))
    return Program((), (), (), table)
def executable(steps, threads):
    return Executable(program(steps), {"k": engine.get_function_address("nothing")}, (), threads)
"""


def test_runtime_imports_neither_compiler_nor_numba_nor_onnx() -> None:
    code = """
import importlib, pkgutil, sys
import loopnest.runtime
for module in pkgutil.iter_modules(loopnest.runtime.__path__):
    importlib.import_module("loopnest.runtime." + module.name)
heavy = [name for name in sys.modules if name.split(".")[0] in ("numba", "onnx", "rich", "torch")]
heavy += [name for name in sys.modules if name.startswith(("loopnest.compiler", "loopnest.codegen"))]
assert not heavy, heavy
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_one_thread_starts_none() -> None:
    done = python(RETURNING + "executable(10, 1).run([])\nprint(threading.active_count())")
    assert done.stdout == "1\n", done.stderr


def test_workers_end_with_the_process() -> None:
    done = python(RETURNING + "executable(10, 3).run([])\nprint(threading.active_count())")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_exit_while_another_thread_runs() -> None:
    code = """
f = executable(1000, 2)
def forever():
    while True:
        f.run([])
threading.Thread(target=forever, daemon=True).start()
import time; time.sleep(0.1)
"""
    done = python(RETURNING + code)
    assert (done.returncode, done.stderr) == (0, "")


def test_programs_run_after_the_workers_have_ended() -> None:
    code = "import atexit\nf = executable(10, 2)\natexit._run_exitfuncs()\nf.run([])\nprint(threading.active_count())"
    done = python(RETURNING + "executable(10, 2).run([])\n" + code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_team_stops_once_and_for_all() -> None:
    team = Team(3)
    assert team.address
    threads = list(team._threads)
    team.stop()
    assert not any(thread.is_alive() for thread in threads)
    assert team.address == 0


def test_numba_works_beside_the_compiler() -> None:
    """Kernels are compiled by Numba without its runtime, which functions of others need all the same."""
    code = """
import numba, numpy as np, loopnest
from tests.graphs import make_model
from onnx.helper import make_node
f = loopnest.compile(make_model([make_node("Exp", ["x"], ["y"])], {"x": [8]}, ["y"]), config={"cache": False})
f(np.zeros(8, np.float32))
print(numba.njit(lambda x: x.sum() + len([x]))(np.ones(3)))
"""
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "4.0\n"), done.stderr


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 6),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 6),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/not/here\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"}, 6),
    ],
)
def test_available_cpus(files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert available_cpus(tmp_path) == expected


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
stepping\t: 1
microcode\t: 0x1000065
cpu MHz\t\t: 2445.432
flags\t\t: fpu avx2

processor\t: 1
flags\t\t: others
"""


def test_the_identity_of_a_processor_is_what_it_has_and_not_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    def identity(text: str) -> str | None:
        (tmp_path / "cpuinfo").write_text(text)
        return processor_identity(tmp_path / "cpuinfo")

    here = identity(CPUINFO)
    assert here is not None
    assert identity(CPUINFO.replace("2445.432", "3000.000").replace("others", "more")) == here
    for word, other in (("avx2", "avx"), ("0x1000065", "0x1000066"), (": 25", ": 26"), ("AMD EPYC", "AMD EPYC 7543")):
        assert identity(CPUINFO.replace(word, other)) not in (here, None)
    monkeypatch.setattr("platform.release", lambda: "another kernel")
    assert identity(CPUINFO) not in (here, None)
    assert identity(CPUINFO.replace("flags", "Features")) is None
    assert processor_identity(tmp_path / "none") is None
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert identity(CPUINFO) is None


def test_available_cpus_here() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
