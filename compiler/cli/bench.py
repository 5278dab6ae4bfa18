"""``loopnest bench``: engines side by side on the same inputs, in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..accuracy import difference
from .engines import ENGINES, Call
from .feeds import make_feeds
from .options import AssignmentType, compile_options, model_argument, named_shapes, showing_progress


@dataclass(frozen=True)
class Timing:
    """Seconds of every call of one engine, rounds together."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    rounds: int = 8,
    pause: float = 0.15,
    minimum: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Times ``calls`` in ``rounds`` turns each, for about ``seconds`` of measuring per call in all.

    Before a turn there is a pause, in which the workers of the last engine stop spinning, and calls that warm the caches but do not
    count. The order changes from round to round, so that drift of the clock frequency hits all alike. ``clock`` is what calls are
    timed by.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            time.sleep(pause if len(names) > 1 else 0)
            calls[name]()
            calls[name]()
            stop, count = time.perf_counter() + seconds / rounds, 0
            while count < minimum or time.perf_counter() < stop:
                start = clock()
                calls[name]()
                found[name].append(clock() - start)
                count += 1
    return [Timing(name, tuple(times)) for name, times in found.items()]


def _parse_engines(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    for name in names:
        if name not in ENGINES:
            raise click.BadParameter(f"unknown engine {name!r}; known: {', '.join(ENGINES)}", ctx, param)
    return names


@click.command("bench")
@model_argument
@click.option("--vs", default="", callback=_parse_engines, metavar="ENGINES", help=f"Comma-separated: {', '.join(ENGINES)}.")
@click.option(
    "--input", "inputs", type=AssignmentType("NAME=FILE.npy"), multiple=True, help="An input, from a file or a number."
)
@compile_options
@click.option("--seconds", default=4.0, show_default=True, help="Time to measure each engine for.")
@click.option("--rounds", default=8, show_default=True, help="Turns that each engine's time is cut into.")
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs that are not given.")
def command(
    model: Path,
    vs: tuple[str, ...],
    inputs: Any,
    shapes: Any,
    threads: int | None,
    target: str,
    config: str | None,
    seconds: float,
    rounds: int,
    seed: int,
) -> None:
    """Time MODEL, next to other engines with --vs. On one thread unless --threads says more."""
    from .. import api

    threads = threads or 1
    console = Console()
    named = named_shapes(model, shapes)
    with showing_progress():
        function = api.compile(model, target=target, shapes=named, config=config, threads=threads)
        feeds = make_feeds(function.inputs, dict(inputs), named or {}, seed)
        expected = function.run(None, feeds)
    calls: dict[str, Call] = {"loopnest": lambda: function.run(None, feeds)}
    calls |= {name: ENGINES[name](model, feeds, threads) for name in vs}
    for name in vs:
        console.print(f"loopnest and {name} differ by at most {difference(expected, calls[name]()):.1e} of the largest value")
    timings = interleave(calls, seconds, rounds)
    flops = sum(step.flops for step in function.profile(*feeds.values()).steps)
    console.print(_table(timings, flops, threads, model.name))
    console.print(function.compile_report.as_text())


def _table(timings: list[Timing], flops: int, threads: int, title: str) -> Table:
    from ..peak import peak_gflops

    peak = peak_gflops() * threads
    table = Table(
        title=f"{title}, {threads} thread{'s' * (threads > 1)}, {flops / 1e6:,.4g} MFLOP, measured peak {peak:.0f} GFLOP/s"
    )
    for column in ("engine", "median ms", "min ms", "loopnest / engine", "GFLOP/s", "of peak", "calls"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    ours = timings[0].median
    for timing in timings:
        rate = flops / timing.median / 1e9
        table.add_row(
            timing.name,
            f"{timing.median * 1e3:.3f}",
            f"{timing.best * 1e3:.3f}",
            f"{ours / timing.median:.2f}",
            f"{rate:.1f}",
            f"{rate / peak:.0%}",
            str(len(timing.seconds)),
        )
    return table
