"""``loopnest check``: whether a model can be compiled, and what stands in the way."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import model_argument


@click.command("check")
@model_argument
def command(model: Path) -> None:
    """Report the operators of MODEL. Ends with status 1 if there are unsupported ones."""
    from ..check import check

    report = check(model)
    click.echo(report.as_text(), nl=False)
    sys.exit(0 if report.ok else 1)
