"""``loopnest precompile``: a model as an artifact."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from .feeds import given_inputs
from .options import AssignmentType, ShapeType, model_argument, named_shapes, showing_progress


class DimType(click.ParamType):
    """``batch=1..32`` or ``batch=1,2,4,8``."""

    name = "NAME=1..32|1,2,4"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, tuple[int, ...]]:
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).partition("=")
        try:
            first, dots, last = text.partition("..")
            extents = tuple(range(int(first), int(last) + 1)) if dots else tuple(int(extent) for extent in text.split(","))
        except ValueError:
            extents = ()
        if not name or not extents or min(extents) < 0:
            self.fail(f"{value!r}: expected a dim and its extents, as in batch=1..32 or batch=1,2,4,8", param, ctx)
        return name, extents


shape_option = click.option(
    "--shape",
    "shapes",
    type=ShapeType(),
    multiple=True,
    help="Shape of an input; repeated for one input, it makes a plan for each. Dims that are left open are 1.",
)
dim_option = click.option(
    "--dim", "dims", type=DimType(), multiple=True, help="Extents of a named dim, with a plan for each; repeatable."
)
input_option = click.option(
    "--input",
    "inputs",
    type=AssignmentType("NAME=FILE.npy"),
    multiple=True,
    help="An input whose value decides shapes, from a file or a number.",
)
config_option = click.option("--config", type=click.Path(exists=True, dir_okay=False), help="TOML file with compiler options.")


@click.command("precompile")
@model_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The artifact to write.")
@shape_option
@dim_option
@input_option
@click.option(
    "--isa",
    "--target",
    "isas",
    default="",
    help="Instruction sets, as in avx512,avx2, whether or not this machine has them; default: the best that it has.",
)
@click.option("--with-model", is_flag=True, help="Put MODEL into the artifact, so that it can be compiled for other shapes.")
@click.option("--unpacked", is_flag=True, help="Write a folder instead of a file.")
@config_option
def command(
    model: Path,
    output: Path,
    shapes: Any,
    dims: Any,
    inputs: Any,
    isas: str,
    with_model: bool,
    unpacked: bool,
    config: str | None,
) -> None:
    """Compile MODEL for the given shapes and write an artifact, which loopnest.load runs without the compiler."""
    from ...runtime.artifact import Artifact
    from ..api import interface
    from ..precompile import precompile

    with showing_progress():
        precompile(
            model,
            output,
            shapes=shapes_in_turns(model, shapes),
            dims=dict(dims),
            isa=[name for name in isas.split(",") if name],
            inputs=given_inputs(interface(model), dict(inputs)),
            config=config,
            with_model=with_model,
            unpacked=unpacked,
        )
    click.echo(Artifact.read(output).as_text())


def shapes_in_turns(model: Any, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of each plan by input, those without a name given to the only input."""
    return [named_shapes(model, chosen) or {} for chosen in _turns(list(shapes))]


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
