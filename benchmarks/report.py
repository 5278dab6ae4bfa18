"""The Markdown of a run: the machine, means and table of every number of threads, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import memory, targets
from benchmarks.ratios import PEERS, geometric_mean, ratio
from benchmarks.tables import rows

Record = Mapping[str, Any]


def markdown(machine: Mapping[str, Any], records: Sequence[Record]) -> str:
    """The whole report."""
    lines = [_machine(machine), ""]
    threads = sorted({int(count) for record in records for count in record.get("threads", {})})
    if threads:
        lines += ["Geometric means of the ratio (the best peer's median time / loopnest's; above 1 loopnest is faster):", ""]
        lines += [*_means(records, threads), ""]
    for count in threads:
        plural = "s" if count > 1 else ""
        lines += [
            f"### {count} thread{plural}",
            "",
            *targets.markdown(records, count),
            "",
            *_table(machine, records, count),
            "",
        ]
    if any("memory" in record for record in records):
        lines += ["### Peak resident memory", "", *memory.markdown(records), ""]
    failed = [record for record in records if "error" in record]
    if failed:
        lines += ["### Failed", "", *(f"- `{record['name']}`: {record['error']}" for record in failed), ""]
    return "\n".join(lines)


def kernels_markdown(machine: Mapping[str, Any], records: Sequence[Record], least: float = 0.02) -> str:
    """The kernels that take more than `least` of a model's time, on the first number of threads, each next to its roofline.

    That is the larger of two times: of the arithmetic at the peak measured in turns with the kernels, and of the bytes read and written
    at the speed of a copy in memory. What lies in a cache moves faster than that, so that small kernels can be above 100 %.
    """
    copies = {each["threads"]: each["gbps"] for each in machine["peaks"]}
    lines = [f"Kernels over {least:.0%} of a model's time."]
    for record in records:
        kernels = record.get("kernel_times", ())
        gbps = copies.get(record["settings"]["threads"][0]) if kernels else None
        if not gbps:
            continue
        whole, peak = sum(kernel["ms"] for kernel in kernels), record["peak_gflops"]
        cells = [_kernel_row(kernel, whole, peak, gbps) for kernel in kernels if kernel["ms"] > least * whole]
        if cells:
            lines += ["", f"### {record['name']}, {peak:.0f} GFLOP/s", ""]
            lines += rows(
                ["kernel", "layout", "calls", "ms", "of time", "GFLOP/s", "GB/s", "of roofline", "first nodes"], cells
            )
    return "\n".join(lines) + "\n"


def _kernel_row(kernel: Record, whole: float, gflops: float, gbps: float) -> list[str]:
    seconds = kernel["ms"] / 1e3
    bound = max(kernel["flops"] / gflops, kernel["bytes"] / gbps) / 1e9
    rates = (f"{kernel['flops'] / seconds / 1e9:.1f}", f"{kernel['bytes'] / seconds / 1e9:.1f}", f"{bound / seconds:.0%}")
    start = (kernel["op"], kernel["layout"], str(kernel["calls"]), f"{kernel['ms']:.3f}", f"{kernel['ms'] / whole:.1%}")
    return [*start, *rates, f"`{' '.join(kernel['nodes'].split())[:60]}`"]


def _machine(machine: Mapping[str, Any]) -> str:
    peaks = ", ".join(
        f"{peak['gflops']:.0f} GFLOP/s and {peak['gbps']:.0f} GB/s on {peak['threads']} thread{'s' if peak['threads'] > 1 else ''}"
        for peak in machine["peaks"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    clock = "wall time" if machine["clock"] == "wall" else "CPU time on one thread, wall time on more"
    what = f"{machine['processor']}, {machine['cpus']} CPUs, {machine['isa']}"
    return f"{what}; measured peak {peaks}; {versions}; medians of {clock}."


def _means(records: Sequence[Record], threads: Sequence[int]) -> Iterator[str]:
    families = list(dict.fromkeys(record["family"] for record in records))
    header = ["family", "models", *(f"{count} thread{'s' if count > 1 else ''}" for count in threads)]
    cells: list[list[str]] = []
    for family in (*families, "all"):
        members = [record for record in records if family in ("all", record["family"])]
        means = [geometric_mean(found for record in members if (found := ratio(record, count))) for count in threads]
        cells.append([family, str(len(members)), *(f"{mean:.2f}" if mean else "" for mean in means)])
    return rows(header, cells)


def _table(machine: Mapping[str, Any], records: Sequence[Record], threads: int) -> Iterator[str]:
    peak = next((each["gflops"] for each in machine["peaks"] if each["threads"] == threads), None)
    header = ["model", "family", "loopnest ms", "ONNX Runtime ms", "OpenVINO ms", "ratio", "of peak"]
    header += ["arena MB", "compile s", "kernels"]
    cells = [
        _row(record, threads, peak)
        for record in records
        if "median_s" in record.get("threads", {}).get(str(threads), {}).get("loopnest", {})
    ]
    return rows(header, cells)


def _row(record: Record, threads: int, peak: float | None) -> list[str]:
    engines = record["threads"][str(threads)]
    times = [_milliseconds(engines.get(name, {})) for name in ("loopnest", *PEERS)]
    found = ratio(record, threads)
    rate = record["flops"] / engines["loopnest"]["median_s"] / 1e9
    return [
        record["name"],
        record["family"],
        *times,
        f"{found:.2f}" if found else "",
        f"{rate / peak:.0%}" if peak else "",
        f"{record['arena_bytes'] / 1e6:.2f}",
        f"{record['compile']['seconds']:.1f}",
        str(record["kernels"]),
    ]


def _milliseconds(engine: Mapping[str, Any]) -> str:
    return f"{engine['median_s'] * 1e3:.3f}" if "median_s" in engine else "failed"
