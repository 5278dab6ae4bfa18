"""The judge judged: wrong outputs, crashes and hangs must be noticed, and the list must follow the runs."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.conformance import expectations, report
from tests.conformance.cases import all_cases
from tests.conformance.compare import Mismatch, check_outputs
from tests.conformance.engines import reference
from tests.conformance.expectations import Group
from tests.conformance.outcome import Outcome, describe, operators, run_case, run_loopnest
from tests.conformance.pool import run_isolated

F32 = np.float32([1.0, 2.0])


def test_every_case_of_the_suite_is_there() -> None:
    kinds = Counter(case.kind for case in all_cases().values())
    assert kinds == {"node": 1884, "simple": 23, "pytorch-converted": 82, "pytorch-operator": 35, "real": 9}


@pytest.mark.parametrize(
    ("expected", "got", "what"),
    [
        (F32, F32.astype(np.float64), "dtype"),
        (F32, F32[None], "shape"),
        (F32, F32 * 1.01, "value"),
        (F32, np.float32([1.0, np.nan]), "value"),
        (np.float32([np.inf]), np.float32([-np.inf]), "value"),
        (np.float32(3.0), np.float32([3.0]), "shape"),
        (np.int64([100000]), np.int64([100001]), "value"),
        (np.uint64([2**63]), np.uint64([2**63 + 1]), "value"),
        (np.array([True]), np.array([False]), "value"),
        (np.array(["a"], object), np.array(["b"], object), "value"),
        (np.array(["a"], object), np.int64([1]), "dtype"),
        (np.array([1], ml_dtypes.int4), np.array([2], ml_dtypes.int4), "value"),
        (np.array([1], ml_dtypes.int4), np.array([1], ml_dtypes.uint4), "dtype"),
        (np.array([1.0], ml_dtypes.bfloat16), np.array([1.0625], ml_dtypes.bfloat16), "value"),
        (np.array([1.0], ml_dtypes.float8_e4m3fn), np.array([1.125], ml_dtypes.float8_e4m3fn), "value"),
        ([F32, F32], [F32], "count"),
        ([F32], F32, "type"),
        ([F32], [F32 + 1], "value"),
        (None, F32, "type"),
        (F32, None, "type"),
    ],
)
def test_a_difference_is_found(expected: Any, got: Any, what: str) -> None:
    with pytest.raises(Mismatch) as caught:
        check_outputs([expected], [got], 1e-3, 1e-7)
    assert caught.value.what == what


@pytest.mark.parametrize(
    "value",
    [
        np.float32([np.nan, np.inf, -np.inf, 1.0]),
        np.array([1.0, np.nan], ml_dtypes.bfloat16),
        np.array([1.0, np.nan], ml_dtypes.float8_e5m2),
        np.array([-8, 7], ml_dtypes.int4),
        np.array(["a", "b"], object),
        np.zeros((0, 3), np.float32),
        np.complex64([1 + 2j]),
        [F32, [np.int64(1)]],
        None,
    ],
)
def test_a_value_equals_itself(value: Any) -> None:
    check_outputs([value], [value], 1e-3, 1e-7)


def test_count_of_outputs() -> None:
    with pytest.raises(Mismatch, match="1 outputs, expected 2"):
        check_outputs([F32, F32], [F32], 1e-3, 1e-7)


@pytest.mark.parametrize("case", ["node/test_abs", "node/test_cast_FLOAT_to_FLOAT8E4M3FN", "simple/test_sequence_model1"])
def test_onnx_reference_passes(case: str) -> None:
    assert run_case(all_cases()[case], reference).passed


def test_operators_sees_into_subgraphs() -> None:
    model, _ = all_cases()["node/test_if"].load()
    assert Counter(operators(model)) == {"If": 1, "Constant": 2}


def test_missing_operators_are_named() -> None:
    text = (
        "the model uses 2 operators that loopnest does not have: ai.onnx Cast (opset 13, 2 x: 'a'); x.y Foo (opset 1, 1 x: 'b')"
    )
    outcome = describe(NotImplementedError(text))
    assert (outcome.status, outcome.reason) == ("unsupported", "operators not supported: Cast, x.y.Foo")


def test_failures_alike_have_one_reason() -> None:
    outcomes = [describe(ValueError(f"node 'n{i}' has rank {i}\nmore")) for i in range(2)]
    assert {outcome.reason for outcome in outcomes} == {"ValueError: node '...' has rank N"}


def _behave(task: str) -> Outcome:
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(60)
    return Outcome("passed")


def test_a_spawned_worker_runs_a_case() -> None:
    ((case, outcome),) = run_isolated(["node/test_relu"], run_loopnest, workers=1, timeout=60, start="spawn")
    assert (case, outcome.status) == ("node/test_relu", "passed"), outcome.detail


def test_crash_and_hang_cost_one_case_each() -> None:
    tasks = ["a", "crash", "b", "hang", "c"]
    outcomes = dict(run_isolated(tasks, _behave, workers=2, timeout=2.0))
    assert {task: outcome.status for task, outcome in outcomes.items()} == {
        "a": "passed",
        "crash": "crash",
        "b": "passed",
        "hang": "timeout",
        "c": "passed",
    }
    assert "SIGSEGV" in outcomes["crash"].reason


def test_list_follows_a_run(tmp_path: Path) -> None:
    before = [Group('by a "person"', ("node/a", "node/b"), pinned=True), Group("by machine", ("node/c", "node/other"))]
    after = expectations.updated(
        before, ["node/a", "node/b", "node/c", "node/d"], {"node/a": "new", "node/c": "new", "node/d": "new"}
    )
    assert expectations.by_case(after) == {
        "node/a": 'by a "person"',
        "node/c": "new",
        "node/d": "new",
        "node/other": "by machine",
    }
    expectations.write(after, tmp_path / "list.toml")
    assert expectations.read(tmp_path / "list.toml") == after


def test_a_case_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        expectations.by_case([Group("one", ("node/a",)), Group("two", ("node/a",))])


def test_report_counts_a_run(tmp_path: Path) -> None:
    outcomes = {
        "node/a": Outcome("passed"),
        "node/b": Outcome("crash", "crash: SIGSEGV"),
        "real/c": Outcome("passed"),
    }
    assert report.as_text(report.summary_rows(outcomes)).splitlines() == [
        "kind  cases  passed  unsupported  mismatch  error  crash  timeout",
        "node  2      1       0            0         0      1      0",
        "real  1      1       0            0         0      0      0",
        "all   3      2       0            0         0      1      0",
    ]
    report.write(outcomes, [Group("a | b", ("node/b",))], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| node | 2 | 1 | 0 | 0 | 0 | 1 | 0 |" in page
    assert "| a \\| b | 1 |" in page
    assert "| **loopnest** | **1** |" in page
