"""``loopnest artifact``: what is in an artifact, whether it is sound, how it differs from another, and more shapes for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .feeds import given_inputs
from .options import showing_progress
from .precompile import config_option, dim_option, input_option, shape_option, shapes_in_turns

_path = click.Path(exists=True, path_type=Path)
_file = click.argument("file", type=_path)


@click.group("artifact")
def command() -> None:
    """Show, verify, compare and extend what `loopnest precompile` and `CompiledModel.save` wrote."""


@command.command("show")
@_file
def show(file: Path) -> None:
    """Print the interface, instruction sets, sizes and plans of FILE."""
    from ...runtime.artifact import Artifact

    click.echo(Artifact.read(file).as_text())


@command.command("verify")
@_file
def verify(file: Path) -> None:
    """Check every checksum and program of FILE, whether its code links, and whether this machine can run it."""
    from ...runtime.artifact import Artifact, load
    from ...runtime.loaded import contents_of_artifact

    contents_of_artifact(Artifact.read(file))
    load(file, threads=1).prepare_all()
    click.echo(f"{file}: sound, and runs on this machine")


@command.command("diff")
@click.argument("old", type=_path)
@click.argument("new", type=_path)
def diff(old: Path, new: Path) -> None:
    """Print what NEW has and OLD has not (+), and the other way round (-). Ends with status 1 if they differ."""
    from ...runtime.artifact import Artifact
    from ...runtime.artifact_text import difference

    lines = difference(Artifact.read(old), Artifact.read(new))
    click.echo("".join(f"{line}\n" for line in lines), nl=False)
    sys.exit(1 if lines else 0)


@command.command("add-shape")
@_file
@shape_option
@dim_option
@input_option
@click.option(
    "--model", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The ONNX model, if it is not in FILE."
)
@config_option
def add_shape(file: Path, shapes: Any, dims: Any, inputs: Any, model: Path | None, config: str | None) -> None:
    """Compile plans for more shapes, for all instruction sets in FILE, and write it anew."""
    from ...runtime.artifact import Artifact
    from ..api import interface
    from ..precompile import add_shapes

    artifact = Artifact.read(file)
    source: Any = artifact.model if model is None else model
    if source is None:
        raise click.UsageError(f"{file} has no model in it: say --model, or make it with `loopnest precompile --with-model`")
    with showing_progress():
        add_shapes(
            file,
            shapes=shapes_in_turns(source, shapes),
            dims=dict(dims),
            inputs=given_inputs(interface(source), dict(inputs)),
            model=model,
            config=config,
        )
    click.echo(Artifact.read(file).as_text())
