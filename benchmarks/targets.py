"""What loopnest means to reach, next to what a run measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import memory
from benchmarks.ratios import best_peer, geometric_mean, ratio

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One target; `met` is None where the run did not measure what it takes."""

    target: str
    measured: str
    met: bool | None


def verdicts(records: Sequence[Record], threads: int) -> list[Verdict]:
    """The targets of speed for that number of threads, and those that hold for any."""
    measured = [(record, found) for record in records if (found := ratio(record, threads))]
    ratios = {record["name"]: found for record, found in measured}
    mobile = [found for record, found in measured if record["family"] == "mobile"]
    batches = {record["name"]: found for record, found in measured if record["family"] == "batch8"}
    quick = {record["name"]: found for record, found in measured if (best_peer(record, threads) or 1.0) < 1e-3}
    return [
        _least("geometric mean of all models", 1.30, geometric_mean(ratios.values())),
        _none_under("no model", 1.00, ratios),
        _least("VGG-16", 1.80, ratios.get("vgg16")),
        _least("ResNet-50", 1.25, ratios.get("resnet50")),
        _least("mobile family, geometric mean", 1.50, geometric_mean(mobile)),
        _least("BERT-base at 128 tokens", 1.10, ratios.get("bert_base_128")),
        _none_under("models under 1 ms in the peers: none", 1.50, quick),
        _none_under("batch of 8: none", 1.00, batches),
        *(_scaling(records, name, threads) for name in ("resnet50", "vgg19", "bert_base_128") if threads == 2),
        *(_of_peak(records, name, "MatMul", 0.93) for name in ("bert_base_128",) if threads == 1),
        *_compiling(records),
        _memory(records),
    ]


def markdown(records: Sequence[Record], threads: int) -> Iterator[str]:
    """A table of `verdicts`."""
    yield from ("| target | measured | |", "| --- | --- | --- |")
    for verdict in verdicts(records, threads):
        yield f"| {verdict.target} | {verdict.measured} | {_WORDS[verdict.met]} |"


_WORDS = {True: "met", False: "not met", None: "not measured"}


def _least(what: str, least: float, found: float | None) -> Verdict:
    target = f"{what}: {least:.2f}"
    return Verdict(target, f"{found:.2f}", found >= least) if found else Verdict(target, "", None)


def _none_under(what: str, least: float, ratios: Mapping[str, float]) -> Verdict:
    target = f"{what} under {least:.2f}"
    if not ratios:
        return Verdict(target, "", None)
    under = sorted((found, name) for name, found in ratios.items() if found < least)
    listed = ", ".join(f"{name} {found:.2f}" for found, name in under)
    return Verdict(target, f"{len(under)} of {len(ratios)}{': ' if under else ''}{listed}", not under)


def _scaling(records: Iterable[Record], name: str, threads: int) -> Verdict:
    target = f"{name}, time on one thread by that on {threads}: 1.85"
    for record in records:
        times = [record.get("threads", {}).get(str(count), {}).get("loopnest", {}).get("median_s") for count in (1, threads)]
        if record["name"] == name and all(times):
            return Verdict(target, f"{times[0] / times[1]:.2f}", times[0] / times[1] >= 1.85)
    return Verdict(target, "", None)


def _of_peak(records: Iterable[Record], name: str, op: str, least: float) -> Verdict:
    """The arithmetic of all kernels that begin with an operator, at their best, next to the peak that was measured between them."""
    target = f"{name}, {op} at its best, of peak: {least:.2f}"
    for record in records:
        kernels = [kernel for kernel in record.get("kernel_times", ()) if kernel["op"].split("+")[0] == op]
        if record["name"] == name and kernels:
            rate = sum(kernel["flops"] for kernel in kernels) / sum(kernel["ms"] for kernel in kernels) / 1e6
            share = rate / record["peak_gflops"]
            return Verdict(target, f"{share:.2f}", share >= least)
    return Verdict(target, "", None)


def _compiling(records: Sequence[Record]) -> Iterator[Verdict]:
    seconds = {record["name"]: record["compile"]["seconds"] for record in records if "compile" in record}
    for name, most in (("resnet50", 4.0), ("bert_base_128", 3.0)):
        found = seconds.get(name)
        yield Verdict(f"{name} compiled in {most:g} s", f"{found:.1f}" if found else "", found <= most if found else None)
    over = _over({name: found / 8.0 for name, found in seconds.items()}, lambda share: f"{8 * share:.1f}")
    yield Verdict("every model compiled in 8 s", over, not over if seconds else None)


def _memory(records: Sequence[Record]) -> Verdict:
    shares = memory.shares(records)
    over = _over(shares, lambda share: f"{share:.2f}")
    return Verdict("peak resident memory at most ONNX Runtime's", over, not over if shares else None)


def _over(shares: Mapping[str, float], text: Callable[[float], str]) -> str:
    """Those above 1, the largest first."""
    return ", ".join(f"{name} {text(share)}" for name, share in sorted(shares.items(), key=lambda each: -each[1]) if share > 1)
