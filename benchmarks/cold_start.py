"""`python -m benchmarks.cold_start`: from the start of a process to its first result, and what a second process adds to the memory in use.

A model is compiled ahead into an artifact, and optimized by ONNX Runtime into a file of its own, as `.onnx` and as `.ort`; then
processes that import, load, compute once and end are timed as a whole, in turns. Of ONNX Runtime's ways the one with the best median
counts. All run without `site`, whose time depends on what else is installed, and with modules compiled, as installed packages are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks import catalog
from benchmarks.session import as_installed

ROOT = Path(__file__).parent.parent

OURS = """
import sys
import numpy as np, loopnest
f = loopnest.load(sys.argv[1])
feeds = np.load(sys.argv[2])
f(**{name: feeds[name] for name in feeds.files})
"""
THEIRS = """
import sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
options.log_severity_level = 3
for entry in sys.argv[3:]:
    options.add_session_config_entry(entry, "1")
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = np.load(sys.argv[2])
session.run(None, {name: feeds[name] for name in feeds.files})
"""
WAITING = """
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
sys.stdin.read()
"""
TARGETS = {"resnet50": 0.6, "mnist_cnn": 1.0}
"""Most of the time of ONNX Runtime that a model may take."""

Run = Callable[[], float]


def prepare(name: str, folder: Path) -> dict[str, tuple[str, list[str]]]:
    """The files of a model, and the processes to time: the program and its arguments by name; the first is loopnest."""
    import onnxruntime as ort

    import loopnest

    model, feeds = catalog.find(name).prepare(folder)
    values = folder / "feeds.npz"
    np.savez(values, **dict(feeds))
    artifact = folder / "model.lnest"
    f = loopnest.compile(model, target=f"cpu-{_isa()}")
    f.prepare(**feeds)
    f.save(artifact)
    processes = {"loopnest": (OURS, [str(artifact), str(values)])}
    for suffix, entries in ((".onnx", []), (".ort", []), (".ort", ["session.use_memory_mapped_ort_model"])):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(folder / f"optimized{suffix}")
        options.log_severity_level = 3
        ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        processes[f"ONNX Runtime, {suffix}{', mapped' * bool(entries)}"] = (
            THEIRS,
            [options.optimized_model_filepath, str(values), *entries],
        )
    return processes


def _isa() -> str:
    from loopnest.codegen.target import host_isa

    return host_isa().name


def environment(folder: Path) -> dict[str, str]:
    """Variables for processes that find the installed packages and this loopnest without `site`."""
    packages = [entry for entry in sys.path if entry.endswith("site-packages")]
    (folder / "path").mkdir(exist_ok=True)
    link = folder / "path" / "loopnest"
    if not link.exists():
        link.symlink_to(ROOT)
    return {
        **as_installed(),
        "PYTHONPATH": os.pathsep.join([str(link.parent), *packages]),
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
    }


def measure(processes: Mapping[str, tuple[str, list[str]]], rounds: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Seconds of wall clock and of processor of every process in every round; one round before them is not counted."""
    variables = environment(folder)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    for turn in range(rounds + 1):
        for name, (program, arguments) in processes.items():
            before, used = time.perf_counter(), sum(os.times()[2:4])
            subprocess.run([sys.executable, "-S", "-c", program, *arguments], check=True, env=variables)
            if turn:
                times[name].append((time.perf_counter() - before, sum(os.times()[2:4]) - used))
    return times


def shared_memory(processes: Mapping[str, tuple[str, list[str]]], folder: Path) -> tuple[int, int, int]:
    """Bytes that a second process adds to the PSS of the first: of the artifact's pages, and in all; and the artifact's size."""
    program, arguments = processes["loopnest"]
    command = [sys.executable, "-S", "-c", program + WAITING, *arguments]
    running: list[subprocess.Popen[str]] = []
    totals: list[tuple[int, int]] = []
    try:
        for _ in range(2):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(folder)
            )
            running.append(process)
            assert process.stdout is not None
            process.stdout.readline()
            totals.append((sum(_pss(p.pid, arguments[0]) for p in running), sum(_pss(p.pid) for p in running)))
    finally:
        for process in running:
            process.communicate("")
    (mapped, alone), (mapped_by_both, both) = totals
    return mapped_by_both - mapped, both - alone, Path(arguments[0]).stat().st_size


def _pss(pid: int, path: str = "") -> int:
    """Bytes of a process's proportional share of memory, of the mappings of `path` or of all."""
    if not path:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    else:
        text = "\n".join(
            re.findall(rf"^\S+-\S+ .* {re.escape(path)}$(.*?)^VmFlags", Path(f"/proc/{pid}/smaps").read_text(), re.M | re.S)
        )
    return 1024 * sum(int(count) for count in re.findall(r"^Pss: +(\d+) kB", text, re.M))


def report(name: str, times: Mapping[str, list[tuple[float, float]]]) -> None:
    ours, peers = times["loopnest"], {peer: found for peer, found in times.items() if peer != "loopnest"}
    best = min(peers, key=lambda peer: median(wall for wall, _ in peers[peer]))
    click.echo(f"{name}: new process to first result, {len(ours)} rounds")
    for process, found in times.items():
        wall, cpu = (median(column) for column in zip(*found, strict=True))
        click.echo(f"  {process:28} {wall * 1e3:8.1f} ms   {cpu * 1e3:8.1f} ms of processor time")
    walls = [a[0] / b[0] for a, b in zip(ours, peers[best], strict=True)]
    used = [a[1] / b[1] for a, b in zip(ours, peers[best], strict=True)]
    click.echo(f"  pairs with {best}: {' '.join(f'{pair:.2f}' for pair in walls)}")
    target = f" (at most {TARGETS[name]})" if name in TARGETS else ""
    click.echo(f"  median of the pairs {median(walls):.2f}{target}; of processor time {median(used):.2f}")


@click.command()
@click.option("--models", default="resnet50,mnist_cnn", show_default=True, help="Names of the catalog, or paths of ONNX files.")
@click.option("--rounds", default=15, show_default=True, help="Pairs of processes.")
@click.option("--memory/--no-memory", default=True, help="Measure what a second process adds (Linux).")
def main(models: str, rounds: int, memory: bool) -> None:
    """Time whole processes from artifacts next to ONNX Runtime from its optimized files, and weigh a second process."""
    for name in models.split(","):
        with tempfile.TemporaryDirectory(prefix="loopnest-cold-") as created:
            folder = Path(created)
            processes = prepare(name, folder)
            report(name, measure(processes, rounds, folder))
            if memory and Path("/proc/self/smaps_rollup").exists():
                mapped, added, size = shared_memory(processes, folder)
                share = f"{mapped / 1e6:.1f} MB of the artifact's {size / 1e6:.1f} MB ({mapped / size:.1%})"
                click.echo(f"  a second process adds {share}, {added / 1e6:.1f} MB in all (PSS)")


if __name__ == "__main__":
    main()
