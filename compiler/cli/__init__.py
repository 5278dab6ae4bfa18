"""The command line: ``loopnest`` and ``python -m loopnest``.

Each command is a file of this package. Errors of loopnest are printed as their one sentence and end with status 2.
"""

from __future__ import annotations

import warnings
from typing import Any

import click

from ...ir.errors import LoopnestError


class _Failure(click.ClickException):
    exit_code = 2


class _Group(click.Group):
    """Imports a command's module when it is named, so that ``--help`` does not import the compiler."""

    commands_by_name = ("demo", "run", "bench", "inspect", "check", "compare", "precompile", "artifact", "cache", "tune")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_by_name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_by_name:
            return None
        from importlib import import_module

        return import_module(f".{cmd_name}", __package__).command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LoopnestError as error:
            raise _Failure(str(error)) from error


def _format_warning(message: Warning | str, *_: object, **__: object) -> str:
    return f"Warning: {message}\n"


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="loopnest")
def main() -> None:
    """Compile ONNX models to CPU kernels, and run, time, inspect, check and debug them."""
    warnings.formatwarning = _format_warning
