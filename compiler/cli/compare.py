"""``loopnest compare``: which node is the first to go wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .feeds import make_feeds
from .options import AssignmentType, compile_options, model_argument, named_shapes, showing_progress


@click.command("compare")
@model_argument
@click.option(
    "--input", "inputs", type=AssignmentType("NAME=FILE.npy"), multiple=True, help="An input, from a file or a number."
)
@compile_options
@click.option("--bound", default=1e-4, show_default=True, help="Largest error, as a share of a value's largest magnitude.")
@click.option("--fused", is_flag=True, help="Compare what passes between fused groups, instead of every node's outputs.")
@click.option("--reference", type=click.Choice(("onnxruntime", "interpreter")), help="Default: ONNX Runtime if installed.")
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs that are not given.")
def command(
    model: Path,
    inputs: Any,
    shapes: Any,
    threads: int | None,
    target: str,
    config: str | None,
    bound: float,
    fused: bool,
    reference: Any,
    seed: int,
) -> None:
    """Compare every intermediate value of MODEL with ONNX Runtime's (or the NumPy interpreter's). Ends with status 1 if one is off."""
    from .. import api
    from ..compare import compare

    named = named_shapes(model, shapes)
    with showing_progress():
        feeds = make_feeds(api.interface(model), dict(inputs), named or {}, seed)
        found = compare(
            model, feeds, target=target, config=config, threads=threads, bound=bound, fused=fused, reference=reference
        )
    click.echo(found.as_text())
    sys.exit(1 if found.exceeding else 0)
