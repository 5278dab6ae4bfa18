"""``loopnest tune``: schedules that are measured to be faster, as a configuration."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...runtime.tables import format_table
from .options import compile_options, model_argument, named_shapes, stderr

if TYPE_CHECKING:
    from ..tuning.search import Progress, Tuned

SHOWN = 12
"""Kernels that the summary lists."""


@click.command("tune")
@model_argument
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The TOML file to write to."
)
@click.option("--time", "seconds", type=click.FloatRange(0.0), help="Seconds to search for; default: 120, or until --trials.")
@click.option("--trials", type=click.IntRange(0), help="Candidates to measure.")
@click.option("--resume", is_flag=True, help="Go on with a tuning that was interrupted.")
@compile_options
def command(
    model: Path,
    output: Path,
    seconds: float | None,
    trials: int | None,
    resume: bool,
    shapes: Any,
    threads: int | None,
    target: str,
    config: str | None,
) -> None:
    """Search faster schedules for the kernels of MODEL. Results are merged into the file, which --config and loopnest.compile take.

    Ctrl-C ends the search; what was found so far is in the file, and --resume goes on.
    """
    from ..tuning.search import tune

    named = named_shapes(model, shapes)
    with _drawing(seconds, trials) as progress:
        try:
            found = tune(
                model,
                output,
                seconds=seconds,
                trials=trials,
                resume=resume,
                shapes=named,
                config=config,
                target=target,
                threads=threads,
                progress=progress,
            )
        except KeyboardInterrupt:
            raise click.ClickException(f"interrupted; {output} has what was found, --resume goes on") from None
    click.echo(_summary(found))


@contextmanager
def _drawing(seconds: float | None, trials: int | None) -> Generator[Callable[[Progress], None]]:
    """Draws progress on a terminal, nothing elsewhere."""
    if not stderr.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), console=stderr, transient=True) as bar:
        task = bar.add_task("measuring the model", total=None)

        def draw(now: Progress) -> None:
            total = trials if now.left is None else now.elapsed + now.left
            left = f"{trials - now.trials} left" if now.left is None and trials else f"{now.left or 0:.0f} s left"
            line = f"{left}, {now.trials} tried, model x {now.gain:.3f} | x {now.best:.2f} {now.kernel[:60]}"
            bar.update(task, total=total, completed=now.trials if now.left is None else now.elapsed, description=line)

        yield draw


def _summary(found: Tuned) -> str:
    total = sum(kernel.milliseconds for kernel in found.kernels) or 1.0
    rows = [
        (f"{kernel.milliseconds / total:.1%}", str(kernel.count), f"{kernel.gain:.2f}", _options(kernel.best), kernel.signature)
        for kernel in found.kernels[:SHOWN]
    ]
    table = format_table(("of the time", "steps", "times as fast", "options", "kernel"), rows, right=(0, 1, 2))
    if found.whole and found.whole.best:
        table += f"\nlayout of the model: {_options(found.whole.best)}, {found.whole.gain:.2f} times as fast"
    tail = f"{found.trials} candidates; the model should be {found.gain:.3f} times as fast; {found.path}"
    return "\n".join([table, *(f"failed: {failure}" for failure in found.failed), tail])


def _options(best: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in best.items()).replace("'", "") or "-"
