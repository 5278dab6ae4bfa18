"""Peak resident memory: measured in a process for each engine, and what a run says of it.

Serving is what a process does that finds its plan in a full cache: import, load, compute. Compiling is the same from an empty cache; the
peaks of the process and of its helper are added, although they need not be at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratios import PEERS, geometric_mean
from benchmarks.tables import rows

Record = Mapping[str, Any]
RUNS = 3


def measure_serving(engine: str, model: Path, feeds: Mapping[str, np.ndarray], threads: int, cache: str) -> dict[str, Any]:
    """The peak of this process's resident memory with one engine and nothing else; that of loopnest finds its plan in `cache`."""
    from loopnest.compiler.cli.engines import ENGINES  # for loopnest too: what this imports is in the memory of all

    call = _compiled(model, feeds, threads, cache) if engine == "loopnest" else ENGINES[engine](model, feeds, threads)
    for _ in range(RUNS):
        call()
    return {"bytes": peak_resident()}


def measure_compiling(model: Path, feeds: Mapping[str, np.ndarray], threads: int, cache: str) -> dict[str, Any]:
    """The peaks of this process and of those that it starts, while it compiles into `cache` and computes."""
    with _Watch() as helpers:
        call = _compiled(model, feeds, threads, cache)
        for _ in range(RUNS):
            call()
    return {"bytes": peak_resident(), "helper_bytes": sum(helpers.peaks.values())}


def _compiled(model: Path, feeds: Mapping[str, np.ndarray], threads: int, cache: str) -> Callable[[], Any]:
    import loopnest

    function = loopnest.compile(model, threads=threads, config={"cache_dir": cache})
    return lambda: function.run(None, feeds)


def peak_resident(process: str = "self") -> int:
    """Of the program that a process runs; what `getrusage` says includes the process that it was forked from."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("this kernel does not say how much memory was resident")


class _Watch:
    """Looks ten times a second how large the children of this process have become."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            for children in Path("/proc/self/task").glob("*/children"):
                try:
                    for child in children.read_text().split():
                        self.peaks[child] = peak_resident(child)
                except OSError:  # a thread or a child has ended
                    continue


def shares(records: Sequence[Record]) -> dict[str, float]:
    """Our peak while serving by that of ONNX Runtime, by model, where both were measured."""
    sizes = {record["name"]: record.get("memory", {}).get("serving", {}) for record in records}
    return {
        name: each["loopnest"] / each["onnxruntime"]
        for name, each in sizes.items()
        if each.get("loopnest") and each.get("onnxruntime")
    }


def markdown(records: Sequence[Record]) -> Iterator[str]:
    """A table of all models whose memory was measured, and the geometric mean of the shares."""
    measured = [record for record in records if "memory" in record]
    found = shares(measured)
    mean = geometric_mean(found.values())
    header = ["model", "loopnest MB", "ONNX Runtime MB", "OpenVINO MB", "/ ONNX Runtime", "loopnest compiling MB", "helper MB"]
    yield (
        f"Geometric mean of loopnest / ONNX Runtime over {len(found)} models: {mean:.2f}." if mean else "No share was measured."
    )
    yield ""
    yield from rows(header, (_row(record, found.get(record["name"])) for record in measured))


def _row(record: Record, share: float | None) -> list[str]:
    memory = record["memory"]
    serving, compiling = memory.get("serving", {}), memory.get("compiling", {})
    ours, *peers = (_megabytes(serving.get(name)) for name in ("loopnest", *PEERS))
    own = [_megabytes(compiling.get(part)) for part in ("bytes", "helper_bytes")]
    return [record["name"], ours, *peers, f"{share:.2f}" if share else memory.get("error", ""), *own]


def _megabytes(size: int | None) -> str:
    return f"{size / 1e6:.0f}" if size else "-"
