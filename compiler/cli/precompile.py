"""``loopnest precompile``: a model as an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .feeds import make_feeds
from .options import AssignmentType, ShapeType, model_argument, named_shapes, showing_progress


@click.command("precompile")
@model_argument
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The artifact to write.")
@click.option(
    "--shape",
    "shapes",
    type=ShapeType(),
    multiple=True,
    help="Shape of an input; repeated for one input, it makes a plan for each. Dims that are left open are 1.",
)
@click.option(
    "--input",
    "inputs",
    type=AssignmentType("NAME=FILE.npy"),
    multiple=True,
    help="An input whose value decides shapes, from a file or a number.",
)
@click.option("--target", default="cpu", show_default=True, help="Instruction set to generate code for.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="TOML file with compiler options.")
def command(model: Path, output: Path, shapes: Any, inputs: Any, target: str, config: str | None) -> None:
    """Compile MODEL for the given shapes and write an artifact, which loopnest.load runs without the compiler."""
    from ...runtime.artifact import Artifact
    from .. import api

    with showing_progress():
        function = api.compile(model, target=target, config=config)
        for chosen in _turns(shapes):
            named = named_shapes(model, chosen) or {}
            function.prepare(**make_feeds(function.inputs, dict(inputs), named))
        function.save(output)
    click.echo(Artifact.read(output).as_text())


def _turns(shapes: list[tuple[str, tuple[int, ...]]]) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The shapes of each plan: the first of every input, then the second of every input, and so on; the last one stays.

    >>> _turns([("x", (1, 3)), ("y", (5,)), ("x", (8, 3))])
    [[('x', (1, 3)), ('y', (5,))], [('x', (8, 3)), ('y', (5,))]]
    """
    by_name: dict[str, list[tuple[int, ...]]] = {}
    for name, shape in shapes:
        by_name.setdefault(name, []).append(shape)
    count = max(map(len, by_name.values()), default=1)
    return [[(name, given[min(turn, len(given) - 1)]) for name, given in by_name.items()] for turn in range(count)]
