"""``loopnest artifact``: what is in an artifact, and whether it is sound."""

from __future__ import annotations

from pathlib import Path

import click

_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group("artifact")
def command() -> None:
    """Show and verify files that `loopnest precompile` and `CompiledModel.save` wrote."""


@command.command("show")
@_file
def show(file: Path) -> None:
    """Print the interface, target, sizes and plans of FILE."""
    from ...runtime.artifact import Artifact

    click.echo(Artifact.read(file).as_text())


@command.command("verify")
@_file
def verify(file: Path) -> None:
    """Check every checksum of FILE, whether its code links, and whether this machine can run it."""
    from ...runtime.artifact import load

    load(file, threads=1)
    click.echo(f"{file}: sound, and runs on this machine")
