"""`python -m benchmarks`: loopnest next to ONNX Runtime and OpenVINO, model after model; see `docs/performance.md`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from benchmarks import catalog, memory, plot, report
from benchmarks.ratios import ratio
from benchmarks.session import Results, Settings, measure

QUICK = ("mlp", "lenet", "mnist_cnn", "silero_vad", "mobilenet_v2")


def _names(ctx: click.Context, param: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _threads(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, ...]:
    counts = _names(ctx, param, text)
    if not counts or not all(count.isdecimal() and int(count) for count in counts):
        raise click.BadParameter(f"{text!r}: expected numbers of threads, as in 1,2")
    return tuple(map(int, counts))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--models", default="", callback=_names, help="Names, or paths of ONNX files; all that there are without.")
@click.option("--families", default="", callback=_names, help="Only models of these families.")
@click.option("--threads", default="1,2", show_default=True, callback=_threads, help="Numbers of threads.")
@click.option("--seconds", default=2.0, show_default=True, help="Time for each engine, model and number of threads.")
@click.option("--rounds", default=8, show_default=True, help="Turns that this time is cut into.")
@click.option(
    "--clock",
    type=click.Choice(("wall", "cpu")),
    default="wall",
    help="cpu: on one thread, time used instead of time passed, for a machine with other work on it.",
)
@click.option("--memory/--no-memory", default=True, help="Measure resident memory, which takes a process for each engine.")
@click.option("--memory-only", is_flag=True, help="Measure only that, which other work on the machine does not disturb.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("benchmark-results"), show_default=True
)
@click.option("--fresh", is_flag=True, help="Measure again what the output folder has already.")
@click.option(
    "--quick", is_flag=True, help=f"One thread, 0.2 s, no memory; without --models or --families: {', '.join(QUICK)}."
)
@click.option("--list", "only_list", is_flag=True, help="Print names and families, measure nothing.")
def main(
    models: tuple[str, ...],
    families: tuple[str, ...],
    threads: tuple[int, ...],
    seconds: float,
    rounds: int,
    clock: str,
    memory: bool,
    memory_only: bool,
    output: Path,
    fresh: bool,
    quick: bool,
    only_list: bool,
) -> None:
    """Time loopnest, ONNX Runtime and OpenVINO in turns, and write JSON, Markdown and a drawing to the output folder.

    What the folder already has, measured with the same settings, is not measured again; what it has of times and what of memory stand side
    by side. The status is 1 if a model failed.
    """
    settings = Settings(threads, seconds, rounds, clock)
    parts = ["memory"] if memory_only else ["time", *(["memory"] if memory else [])]
    if quick:
        settings = Settings((1,), 0.2, 3, clock)
        parts = parts[:1]
        models = models if models or families else QUICK
    entries = _selected(models, families)
    if only_list:
        for entry in entries:
            click.echo(f"{entry.name:24} {entry.family:14} {entry.missing() or ''}".rstrip())
        return
    results = Results(output)
    machine = _machine(settings, output / "machine.json", fresh)
    failed = 0
    for number, entry in enumerate(entries, 1):
        missing = parts if fresh else results.missing(entry.name, settings, parts)
        if missing:
            results.put(measure(entry.name, entry.family, settings, missing))
            _write(output, machine, results)
        failed += _announce(results.get(entry.name) or {}, number, len(entries))
    _write(output, machine, results)
    click.echo(f"written: {output}/results.json, results.md, kernels.md, results.svg")
    sys.exit(bool(failed))


def _selected(models: tuple[str, ...], families: tuple[str, ...]) -> list[catalog.Entry]:
    known = catalog.all_entries()
    for name in models:
        if name not in known and not name.endswith(".onnx"):
            raise click.BadParameter(f"unknown model {name!r}; --list prints the names", param_hint="--models")
    for family in families:
        if family not in {entry.family for entry in known.values()}:
            raise click.BadParameter(f"unknown family {family!r}; --list prints the families", param_hint="--families")
    chosen = [catalog.find(name) for name in models] if models else list(known.values())
    return [entry for entry in chosen if not families or entry.family in families]


def _announce(record: dict[str, Any], number: int, total: int) -> bool:
    """One line of progress; whether the model failed."""
    parts = [f"[{number}/{total}] {record.get('name', ''):24}"]
    for count in record.get("settings", {}).get("threads", ()):
        found = ratio(record, count)
        parts.append(f"{count}: {found:.2f}" if found else f"{count}: -")
    if "compile" in record:
        parts.append(f"compiled in {record['compile']['seconds']:.1f} s")
    shares = memory.shares([record])
    parts += [f"memory {share:.2f}" for share in shares.values()]
    errors = [part["error"] for part in (record, record.get("memory", {})) if "error" in part]
    parts += [f"FAILED {error}" for error in errors]
    click.echo("  ".join(parts).rstrip())
    return bool(errors)


def _machine(settings: Settings, file: Path, fresh: bool) -> dict[str, Any]:
    """What the machine is and can do: measured once for an output folder."""
    if file.exists() and not fresh:
        kept = json.loads(file.read_text())
        if {peak["threads"] for peak in kept["peaks"]} >= set(settings.threads):
            return kept
    from benchmarks.machine import measure as measure_peak
    from loopnest.codegen.target import resolve
    from loopnest.runtime.cpus import processor_name

    found = {
        "processor": processor_name(),
        "cpus": os.cpu_count(),
        "isa": resolve("cpu").isa,
        "clock": settings.clock,
        "versions": {name: _version(name) for name in ("onnxruntime", "openvino", "numba", "llvmlite")},
        "peaks": [asdict(measure_peak(count)) for count in settings.threads],
    }
    file.write_text(json.dumps(found, indent=1))
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _write(output: Path, machine: dict[str, Any], results: Results) -> None:
    records = results.all(catalog.all_entries())
    (output / "results.json").write_text(json.dumps({"machine": machine, "models": records}, indent=1))
    (output / "results.md").write_text(report.markdown(machine, records))
    (output / "kernels.md").write_text(report.kernels_markdown(machine, records))
    (output / "results.svg").write_text(plot.svg(records))


if __name__ == "__main__":
    main()
