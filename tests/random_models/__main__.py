"""`python -m tests.random_models FIRST LAST`: compiles and runs the models of a range of seeds, each on one thread and on two."""

from __future__ import annotations

import sys
import time

import click
import onnx.printer

from .judging import grow, problems


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("first", type=int)
@click.argument("last", type=int)
@click.option("--show", is_flag=True, help="Print the models, run nothing.")
def main(first: int, last: int, show: bool) -> None:
    """Judge the models of the seeds FIRST to LAST; exits with 1 when one failed."""
    failed, started = 0, time.monotonic()
    for seed in range(first, last + 1):
        if show:
            print(f"# seed {seed}\n{onnx.printer.to_text(grow(seed).model())}")
            continue
        for threads in (1, 2):
            try:
                found = problems(seed, threads)
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"]
            failed += bool(found)
            for problem in found:
                print(f"seed {seed}, {threads} threads: {problem}", flush=True)
    if not show:
        print(f"{last - first + 1} models, {failed} failures, {time.monotonic() - started:.0f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
