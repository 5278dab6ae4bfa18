"""``loopnest cache``: what is kept on disk, why a kernel is not, and how to make room."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...ir.errors import LoopnestError
from ...runtime.cache import CacheKey, KernelCache, open_cache
from ...runtime.files import FOLDERS, CacheFiles, FileStatus
from ...runtime.tables import format_table
from .options import compile_options, model_argument, named_shapes, showing_progress

if TYPE_CHECKING:
    from ..kernels import KernelRequest

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class SizeType(click.ParamType):
    """``500MB``, ``1.5G``, or a number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", str(value).strip(), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is not a size such as 500MB or 2GB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2].upper()])


def size_text(nbytes: int) -> str:
    """A size in the largest unit of which there is one."""
    unit = max((unit for unit, factor in _UNITS.items() if nbytes >= factor), key=_UNITS.__getitem__, default="")
    return f"{nbytes / _UNITS[unit]:.1f} {unit}B" if unit else f"{nbytes} B"


directory_option = click.option(
    "--dir", "directory", type=click.Path(file_okay=False), help="The directory; default: LOOPNEST_CACHE_DIR, else the user's."
)


def opened(directory: str | None) -> tuple[KernelCache, CacheFiles]:
    cache = open_cache(directory)
    if cache.files is None:
        raise LoopnestError("there is no cache directory: LOOPNEST_CACHE_DIR or --dir can name one")
    return cache, cache.files


@click.group("cache")
def command() -> None:
    """Show, explain, clear or prune the kernels, packed weights and plans that are kept on disk."""


@command.command("show")
@directory_option
@click.option("--kernels", "listed", is_flag=True, help="List the kernels, the one used last first.")
def show(directory: str | None, listed: bool) -> None:
    """Print what the cache holds."""
    cache, files = opened(directory)
    found = files.statuses()
    click.echo(f"{files.root}: {size_text(sum(file.nbytes for file in found))}")
    rows = [_summary(folder, [file for file in found if file.name.startswith(folder)]) for folder in FOLDERS]
    click.echo(format_table(("", "entries", "size", "oldest", "newest"), rows, right=(1, 2)))
    if listed:
        keys = {key.digest: key for key in cache.stored()}
        kernels = [(Path(file.name).stem, file) for file in reversed(found) if file.name.startswith("kernels")]
        rows = [_kernel(keys[digest], file) for digest, file in kernels if digest in keys]
        click.echo("\n" + format_table(("kernel", "size", "last used", "target", "computes"), rows, right=(1,)))


@command.command("explain")
@model_argument
@directory_option
@compile_options
def explain_command(
    model: Path, directory: str | None, shapes: Any, threads: int | None, target: str, config: str | None
) -> None:
    """Say whether the plan of MODEL is in the cache, and which of its kernels, and of what is not the first thing in its key that differs
    from the nearest key there is. Compiles nothing."""
    from ..config import load_config
    from ..explain import explain

    options = load_config(config)
    cache, _ = opened(directory or options.cache_dir)
    named = named_shapes(model, shapes)
    with showing_progress():
        found = explain(model, cache, named or {}, options, target)
    if not found.kernels:
        raise LoopnestError("the plan depends on the inputs: fix their shapes with --shape")
    reasons: dict[str, list[KernelRequest]] = {}
    for item in found.kernels:
        if item.missing is not None:
            reasons.setdefault(item.missing, []).append(item.request)
    missing = sum(map(len, reasons.values()))
    click.echo("the plan is in the cache" if found.plan is None else f"the plan is not in the cache: {found.plan}")
    count = len(found.kernels)
    click.echo(f"{count} kernels: {count - missing} in the cache, {missing} not")
    for reason, requests in reasons.items():
        click.echo(f"{reason}:")
        for request in requests:
            click.echo(f"    {request.key.digest[:12]} {request.source.nest.name} of {request.nodes}")


@command.command("clear")
@directory_option
def clear(directory: str | None) -> None:
    """Remove all kernels, packed weights and plans."""
    _, files = opened(directory)
    click.echo(f"{files.root}: {size_text(files.clear())} removed")


@command.command("prune")
@click.option(
    "--max-size", type=SizeType(), required=True, help="Remove what was used longest ago until less is left, as in 500MB."
)
@directory_option
def prune(max_size: int, directory: str | None) -> None:
    """Remove what was used longest ago, where the cache holds more than a size."""
    _, files = opened(directory)
    removed = files.prune(max_size)
    left = sum(file.nbytes for file in files.statuses())
    click.echo(f"{files.root}: {size_text(removed)} removed, {size_text(left)} left")


def _summary(folder: str, files: Sequence[FileStatus]) -> tuple[str, ...]:
    times = [_when(files[0].used), _when(files[-1].used)] if files else ["", ""]
    return (folder, str(len(files)), size_text(sum(file.nbytes for file in files)), *times)


def _kernel(key: CacheKey, file: FileStatus) -> tuple[str, ...]:
    parts = dict(key.parts)
    title = parts.get("source", "").lstrip('"').split("\n", 1)[0]
    target = re.sub(r" \[[^]]*\]", "", parts.get("target", ""))
    return key.digest[:12], size_text(file.nbytes), _when(file.used), target, title


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "in the future"
