"""`python -m tests.random_models FIRST LAST [--kind KIND]`: judges a model for each seed, in processes that may die of it."""

from __future__ import annotations

import sys
import time
from types import ModuleType

import click
import onnx.printer

from . import judging, judging_calls, judging_damage, judging_guards, judging_operators, judging_twists
from .children import judged

KINDS: dict[str, ModuleType] = {
    "models": judging,
    "twists": judging_twists,
    "operators": judging_operators,
    "calls": judging_calls,
    "guards": judging_guards,
    "damage": judging_damage,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("first", type=int)
@click.argument("last", type=int)
@click.option("--kind", type=click.Choice(list(KINDS)), default="models", show_default=True, help="What is made of a seed.")
@click.option("--show", is_flag=True, help="Print the models, run nothing.")
@click.option("--seconds", default=120.0, show_default=True, help="After so long without a result a model hangs.")
def main(first: int, last: int, kind: str, show: bool, seconds: float) -> None:
    """Judge the models of the seeds FIRST to LAST; exits with 1 when one failed."""
    module = KINDS[kind]
    if show:
        for seed in range(first, last + 1):
            print(f"# seed {seed}\n{onnx.printer.to_text(module.shown(seed))}")
        return
    failed, started = 0, time.monotonic()
    for seed, problem in judged(module.problems, first, last, seconds):
        failed += 1
        print(f"seed {seed}: {problem}", flush=True)
    print(f"{last - first + 1} of {kind}, {failed} failures, {time.monotonic() - started:.0f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
