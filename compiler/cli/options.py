"""What the commands share: their options, and a model compiled from them with progress shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ..progress import listening

F = TypeVar("F", bound="Callable[..., Any]")

stderr = Console(stderr=True)


class ShapeType(click.ParamType):
    """``name=1,3,224,224``, or the extents alone for a model with one input."""

    name = "[NAME=]1,3,224,224"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, tuple[int, ...]]:
        if isinstance(value, tuple):
            return value
        name, _, extents = str(value).rpartition("=")
        try:
            shape = tuple(int(extent) for extent in extents.split(",") if extent.strip())
        except ValueError:
            self.fail(f"{value!r}: the shape is not a comma-separated list of integers", param, ctx)
        if any(extent < 0 for extent in shape):
            self.fail(f"{value!r}: an extent is negative", param, ctx)
        return name, shape


class AssignmentType(click.ParamType):
    """``name=value``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return name, text


def model_argument(function: F) -> F:
    return click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))(function)


def compile_options(function: F) -> F:
    """``--shape``, ``--threads``, ``--target``, ``--config``."""
    options = (
        click.option(
            "--shape", "shapes", type=ShapeType(), multiple=True, help="Shape of an input with symbolic dims; repeatable."
        ),
        click.option("--threads", type=click.IntRange(1), help="Worker threads; default: the CPUs this process may use."),
        click.option("--target", default="cpu", show_default=True, help="Instruction set to generate code for."),
        click.option("--config", type=click.Path(exists=True, dir_okay=False), help="TOML file with compiler options."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def named_shapes(model: Path, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]] | None:
    """Shapes by input name; one given without a name belongs to the only input. None when there are none."""
    named = dict(shapes)
    if "" in named:
        from ..api import interface

        inputs = [spec.name for spec in interface(model)]
        if len(inputs) != 1:
            raise click.BadParameter(
                f"the model has the inputs {', '.join(inputs)}: say which one, as in {inputs[0]}=1,3,224,224"
            )
        named[inputs[0]] = named.pop("")
    return named or None


@contextmanager
def showing_progress() -> Generator[None]:
    """Draw reports of progress on a terminal; do nothing elsewhere."""
    if not stderr.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def draw(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=None)
            progress.update(tasks[stage], completed=done, total=total or None)

        with listening(draw):
            yield


@contextmanager
def stopwatch() -> Generator[Callable[[], float]]:
    """Yields a function that gives the seconds since the block began, or that it took."""
    start, end = time.perf_counter(), list[float]()
    yield lambda: (end[0] if end else time.perf_counter()) - start
    end.append(time.perf_counter())
