"""Runs a model through loopnest and ONNX Runtime and says how far apart they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tests.models.catalog import Feeds, Model, Outputs, Run, Scenario

# A whole float32 model: |difference| <= TOLERANCE * max |reference|, for each output.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """One scenario: the largest error of any float output relative to its largest value, and what is wrong (nothing: ok)."""

    scenario: str
    error: float
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def judge(model: Model, run: Run) -> list[Verdict]:
    """Drives every scenario through `run` and compares with what the scenario expects, else with ONNX Runtime."""
    verdicts: list[Verdict] = []
    for scenario in model.scenarios:
        expected = references(model)[scenario.name]
        try:
            got = scenario.drive(run)
        except Exception as error:
            verdicts.append(Verdict(scenario.name, np.inf, (f"{type(error).__name__}: {error}",)))
            continue
        compared = {name: compare(expected[name], got[name]) for name in expected}
        problems = tuple(f"output {name}: {problem}" for name, (_, problem) in compared.items() if problem)
        verdicts.append(Verdict(scenario.name, max(error for error, _ in compared.values()), problems))
    return verdicts


@functools.lru_cache(maxsize=4)
def references(model: Model) -> dict[str, dict[str, np.ndarray]]:
    """Scenario name -> the outputs that are right."""
    run = onnxruntime(model.load())
    return {scenario.name: _expected(scenario, run) for scenario in model.scenarios}


def _expected(scenario: Scenario, run: Run) -> dict[str, np.ndarray]:
    return scenario.expected() if scenario.expected else scenario.drive(run)


def compare(want: np.ndarray, have: np.ndarray) -> tuple[float, str | None]:
    """The error relative to max |want| (0 or inf if not floats), and what is wrong, if anything."""
    if have.dtype != want.dtype or have.shape != want.shape:
        return np.inf, f"{have.dtype}{list(have.shape)}, expected {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        wrong = int((want != have).sum())
        return (np.inf, f"{wrong} of {want.size} elements differ") if wrong else (0.0, None)
    finite = np.isfinite(want)
    same = finite | (want == have) | (np.isnan(want) & np.isnan(have))
    if not np.all(same & (finite == np.isfinite(have))):
        return np.inf, f"NaN or inf in other places: {int((~np.isfinite(have)).sum())}, expected {int((~finite).sum())}"
    if not finite.any():
        return 0.0, None
    want, have = want[finite].astype(np.float64), have[finite].astype(np.float64)
    largest, difference = np.abs(want).max(), np.abs(want - have).max()
    error = float(difference / largest) if largest else float(difference and np.inf)
    return error, f"error {error:.2e} of max |reference| {largest:.4g}" if error > TOLERANCE else None


def loopnest(model: Path | onnx.ModelProto, threads: int) -> Run:
    import loopnest

    compiled = loopnest.compile(model, threads=threads)
    return lambda feeds: compiled.run(None, dict(feeds))


def onnxruntime(model: Path | onnx.ModelProto, threads: int = 1, optimized: bool = True) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> Outputs:
        return session.run(None, dict(feeds))

    return run


ENGINES: dict[str, Callable[[Path | onnx.ModelProto, int], Run]] = {
    "loopnest": loopnest,
    "onnxruntime-unoptimized": lambda model, threads: onnxruntime(model, threads, optimized=False),
}
