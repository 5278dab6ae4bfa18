"""``loopnest inspect``: the stages of the compiler as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import compile_options, model_argument, named_shapes, showing_progress

FIXED = ("graph", "groups", "nests", "kernels", "program", "report")
"""The stages by their own names; all others are passes."""


@click.command("inspect")
@model_argument
@click.option("--stage", "chosen", multiple=True, metavar="NAME", help=f"{', '.join(FIXED)}, passes, or one pass; repeatable.")
@compile_options
def command(model: Path, chosen: tuple[str, ...], shapes: Any, threads: int | None, target: str, config: str | None) -> None:
    """Print the stages of compiling MODEL: graph, passes, groups, nests, kernels, program; and where the time went."""
    from .. import api

    named = named_shapes(model, shapes)
    with showing_progress():
        texts = api.stages(model, shapes=named, config=config, target=target)
    for name in chosen:
        if name not in texts and name != "passes":
            raise click.BadParameter(f"this compilation has no stage {name!r}; it has {', '.join(texts)}")
    for name, text in texts.items():
        if not chosen or name in chosen or ("passes" in chosen and name not in FIXED):
            click.echo(f"# {name}\n\n{text.rstrip()}\n")
    if "program" not in texts:
        click.echo(
            "The plan depends on the inputs: fix their shapes with --shape to see groups, nests, kernels and program.", err=True
        )
