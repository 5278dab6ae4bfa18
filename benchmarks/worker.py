"""One stage of one model's measurement, in a process of its own: `python -m benchmarks.worker JOB.json`.

The job names the stage (a key of `STAGES`), the folder that the stages of one model share, and the file for the result, which
is a JSON object: what the stage found, or {"error": sentence}.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import memory
from benchmarks.ratios import PEERS

Job = Mapping[str, Any]
FEEDS, SOURCE = "feeds.npz", "source.json"


def prepare(job: Job) -> dict[str, Any]:
    """Has the model made where it is missing, and writes its path and its inputs."""
    from benchmarks.catalog import find

    folder = Path(job["folder"])
    entry = find(job["model"])
    reason = entry.missing()
    if reason:
        return {"error": reason}
    model, feeds = entry.prepare(folder)
    np.savez(folder / FEEDS, **{f"input:{name}": array for name, array in feeds.items()})
    (folder / SOURCE).write_text(json.dumps(str(model.resolve())))
    return {"model_bytes": model.stat().st_size, "inputs": {name: list(array.shape) for name, array in feeds.items()}}


def _prepared(job: Job) -> tuple[Path, dict[str, np.ndarray]]:
    folder = Path(job["folder"])
    with np.load(folder / FEEDS, allow_pickle=False) as saved:
        feeds = {name.removeprefix("input:"): saved[name] for name in saved.files}
    return Path(json.loads((folder / SOURCE).read_text())), feeds


def measure_time(job: Job) -> dict[str, Any]:
    """Compiles from an empty cache, compares with the peers, and times all in turns, for each number of threads."""
    import loopnest
    from loopnest.runtime import later

    model, feeds = _prepared(job)
    found: dict[str, Any] = {"threads": {}}
    for threads in job["threads"]:
        wall, cpu = time.perf_counter(), _cpu_seconds()
        function = loopnest.compile(model, threads=threads, config={"cache_dir": job["cache_dir"]})
        outputs = function.run(None, feeds)
        if "compile" not in found:
            found["compile"] = {"seconds": time.perf_counter() - wall, "cpu_seconds": _cpu_seconds() - cpu}
            later.wait()  # until what was made is stored
            found |= _plan(function)
            steps, found["peak_gflops"] = _fastest_steps(function, [feeds[spec.name] for spec in function.inputs], threads)
            found["flops"] = sum(step.flops for step in steps)
            found["kernel_times"] = _kernel_times(steps)
        found["threads"][str(threads)] = _race(function, outputs, model, feeds, threads, job)
    return found


def _race(
    function: Any, outputs: list[Any], model: Path, feeds: dict[str, np.ndarray], threads: int, job: Job
) -> dict[str, dict[str, Any]]:
    """Times of all engines in turns. An engine that cannot run the model has an `error` instead."""
    from loopnest.compiler.accuracy import difference
    from loopnest.compiler.cli.bench import interleave
    from loopnest.compiler.cli.engines import ENGINES

    calls: dict[str, Callable[[], Any]] = {"loopnest": lambda: function.run(None, feeds)}
    engines: dict[str, dict[str, Any]] = {"loopnest": {}}
    for name in PEERS:
        try:
            call = ENGINES[name](model, feeds, threads)
            theirs = call()
        except Exception as error:
            engines[name] = {"error": sentence(error)}
        else:
            calls[name], engines[name] = call, {"difference": difference(outputs, theirs)}
    clock = time.process_time if job["clock"] == "cpu" and threads == 1 else time.perf_counter
    for timing in interleave(calls, job["seconds"], job["rounds"], clock=clock):
        engines[timing.name] |= {"median_s": timing.median, "min_s": timing.best, "calls": len(timing.seconds)}
    return engines


def _plan(function: Any) -> dict[str, Any]:
    """Size of the plan used last: of all its native programs."""
    programs = [program for plan in function.plans for program in _programs(plan)]
    return {
        "kernels": len({kernel for program in programs for kernel in program.kernels}),
        "steps": sum(len(program.steps) for program in programs),
        "arena_bytes": max((program.arena_nbytes for program in programs), default=0),
        "constant_bytes": sum(sum(program.constants) for program in programs),
    }


def _programs(runner: Any) -> Iterator[Any]:
    """The native programs of a plan: one for most models, several where the host has a part in it."""
    from loopnest.compiler.staged import Stage

    if runner.native is not None:
        yield runner.native.program
    for rest in getattr(runner, "rests", ()):
        yield from _programs(rest)
    if isinstance(runner, Stage):
        nested = [staged for step in runner.host_steps for staged in step.bodies.values()]
        for staged in (*nested, *([runner.rest] if runner.rest is not None else [])):
            for stage in staged.stages():
                yield from _programs(stage)


def _fastest_steps(function: Any, inputs: list[np.ndarray], threads: int, runs: int = 7) -> tuple[list[Any], float]:
    """The steps of the program, each with its shortest time of some runs, which other work on the machine disturbs least,
    and the most GFLOP/s that the machine gave between those runs: what it gives changes from minute to minute."""
    from benchmarks.machine import arithmetic

    profiles, peaks = [], []
    for _ in range(runs):
        peaks.append(arithmetic(threads, seconds=0.03))
        profiles.append(function.profile(*inputs, repeat=1).steps)
    fastest = [dataclasses.replace(same[0], ms=min(step.ms for step in same)) for same in zip(*profiles, strict=True)]
    return fastest, max(peaks)


def _kernel_times(steps: list[Any]) -> list[dict[str, Any]]:
    """The time of the steps by the kernel that they call, the most expensive first: those of at least 1 %, at most 40."""
    totals: dict[str, dict[str, Any]] = {}
    for step in steps:
        start = {"op": step.op, "layout": step.layout, "nodes": step.name[:200], "calls": 0, "ms": 0.0, "flops": 0, "bytes": 0}
        total = totals.setdefault(step.kernel, start)
        total["calls"] += 1
        total["ms"] += step.ms
        total["flops"] += step.flops
        total["bytes"] += step.bytes
    least = 0.01 * sum(total["ms"] for total in totals.values())
    return sorted((total for total in totals.values() if total["ms"] >= least), key=lambda total: -total["ms"])[:40]


def measure_compiling(job: Job) -> dict[str, Any]:
    """The peak of resident memory while loopnest compiles from an empty cache."""
    return memory.measure_compiling(*_prepared(job), job["threads"][0], job["cache_dir"])


def measure_serving(job: Job) -> dict[str, Any]:
    """The peak of this process's resident memory with one engine and nothing else, its caches being full."""
    return memory.measure_serving(job["engine"], *_prepared(job), job["threads"][0], job["cache_dir"])


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


STAGES: Mapping[str, Callable[[Job], dict[str, Any]]] = {
    "prepare": prepare,
    "time": measure_time,
    "compiling": measure_compiling,
    "serving": measure_serving,
}


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    try:
        result = STAGES[job["stage"]](job)
    except Exception as error:
        result = {"error": sentence(error)}
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
