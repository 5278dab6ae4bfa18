"""The report of where the time of compiling went."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node

import loopnest
from loopnest.compiler import progress
from loopnest.runtime.compile_report import CompileReport
from tests.graphs import make_model


def test_time_goes_to_the_innermost_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    report, heard = CompileReport(), list[str]()

    def work(seconds: float) -> None:
        now[0] += seconds

    with progress.listening(lambda stage, done, total: heard.append(stage)), progress.measuring(report):
        work(1)
        with progress.stage("plan"):
            work(2)
            with progress.stage("emit", quiet=True):
                work(4)
            with progress.measuring(CompileReport()), progress.stage("cache"):
                work(8)
            work(16)
        with pytest.raises(ValueError, match="link"), progress.stage("link"):
            work(32)
            raise ValueError("link")
        with progress.stage("plan"):
            work(64)
    with progress.stage("plan"):
        work(128)
    assert report.seconds == {"plan": 82, "emit": 4, "cache": 8, "link": 32}
    assert report.total == 126
    assert heard == ["plan", "cache", "link", "plan"]


def test_the_report_of_a_model(tmp_path: Path) -> None:
    model = make_model(
        [make_node("Tanh", ["x"], ["h"]), make_node("CumSum", ["h", "axis"], ["y"])],
        {"x": ("n", 3)},
        ["y"],
        {"axis": np.array(0)},
    )
    config = {"cache_dir": str(tmp_path)}
    f = loopnest.compile(model, config=config, shapes={"x": (2, 3)})
    report = f.compile_report
    assert report.compiled == len({step.kernel for step in f.profile(np.ones((2, 3), np.float32)).steps})
    assert report.found == 0
    assert {"import", "passes", "plan", "emit", "llvm", "link"} <= set(report.seconds)
    assert str(f).splitlines()[-1] == str(report)
    again = loopnest.compile(model, config=config).compile_report
    assert (again.compiled, again.found, "link" in again.seconds) == (0, 0, False)  # planned at the first call
    f = loopnest.compile(model, config=config, shapes={"x": (2, 3)})
    assert (f.compile_report.compiled, f.compile_report.found) == (0, report.compiled)
    assert "llvm" not in f.compile_report.seconds


def test_a_report_as_text() -> None:
    report = CompileReport({"import": 0.5, "link": 0.001}, compiled=3, found=2)
    assert str(report) == "compiled in 0.50 s (import 0.50): 3 kernels made, 2 found in the cache"
    report.add("llvm", 1.25, helper_seconds=1.5, found=1)
    assert str(report) == (
        "compiled in 1.75 s (import 0.50, llvm 1.25) and 1.50 s of helper processes: 3 kernels made, 3 found in the cache"
    )
