"""``loopnest run``: one inference, and a summary of what came out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from .feeds import make_feeds
from .options import AssignmentType, compile_options, model_argument, named_shapes, showing_progress, stopwatch


@click.command("run")
@model_argument
@click.option(
    "--input",
    "inputs",
    type=AssignmentType("NAME=FILE.npy"),
    multiple=True,
    help="An input, from a file or a number.",
)
@compile_options
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs that are not given.")
@click.option("--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Save the outputs there as .npy files.")
def command(
    model: Path,
    inputs: Any,
    shapes: Any,
    threads: int | None,
    target: str,
    config: str | None,
    seed: int,
    output_dir: Path | None,
) -> None:
    """Compile MODEL and run it once. Inputs that are not given are random."""
    from .. import api

    named_inputs = named_shapes(model, shapes)
    with showing_progress(), stopwatch() as compiling:
        function = api.compile(model, target=target, shapes=named_inputs, config=config, threads=threads)
    feeds = make_feeds(function.inputs, dict(inputs), named_inputs or {}, seed)
    with showing_progress(), stopwatch() as running:
        outputs = function.run(None, feeds)
    console = Console()
    console.print(_summary("inputs", feeds))
    named = dict(zip((spec.name for spec in function.outputs), outputs, strict=True))
    console.print(_summary("outputs", named))
    console.print(f"compile {compiling():.2f} s, first run {running() * 1e3:.1f} ms (it may compile for these shapes)")
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name, value in named.items():
            path = output_dir / (re.sub(r"[^\w.-]+", "_", name) + ".npy")
            np.save(path, value, allow_pickle=False)
            console.print(f"{name}: {path}", soft_wrap=True)


def _summary(title: str, arrays: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("name", "dtype", "shape", "min", "max", "mean", "not finite"):
        words = column in ("name", "dtype", "shape")
        table.add_column(column, justify="left" if words else "right", overflow="fold" if words else "ellipsis")
    for name, value in arrays.items():
        array = np.asarray(value)
        table.add_row(name, str(array.dtype), "x".join(map(str, array.shape)) or "scalar", *_statistics(array))
    return table


def _statistics(array: np.ndarray) -> tuple[str, ...]:
    if array.dtype.kind not in "fiub" or not array.size:
        return ("", "", "", "")
    finite = np.isfinite(array)
    values = array[finite].astype(np.float64)
    numbers = tuple(f"{number:.6g}" for number in (values.min(), values.max(), values.mean())) if values.size else ("", "", "")
    return (*numbers, str(array.size - values.size))
