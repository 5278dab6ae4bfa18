"""`python -m tests.conformance`: the whole suite in parallel, crash-isolated worker processes."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter

import click

from tests.conformance import expectations, report
from tests.conformance.cases import all_cases
from tests.conformance.engines import ENGINES
from tests.conformance.outcome import Outcome, operators, run_case
from tests.conformance.pool import run_isolated


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--filter", "substring", default="", help="Only cases whose id (kind/name) contains this.")
@click.option(
    "--op", "operator", default="", help="Only cases whose model has this operator, as in Conv or ai.onnx.ml.Binarizer."
)
@click.option("--engine", type=click.Choice(sorted(ENGINES)), default="loopnest", show_default=True)
@click.option("--jobs", type=int, default=len(os.sched_getaffinity(0)), show_default=True, help="Worker processes.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds for one case.")
@click.option("--update", is_flag=True, help="Rewrite the list of expected failures and, after a whole run, the page.")
@click.option("-v", "--verbose", is_flag=True, help="Print every case that fails, with its reason.")
def main(substring: str, operator: str, engine: str, jobs: int, timeout: float, update: bool, verbose: bool) -> None:
    """Run ONNX's backend suite; exit status 1 if the outcome differs from the list of expected failures."""
    cases = all_cases()
    selected = [case for case in cases if substring in case]
    if operator:
        selected = [case for case in selected if operator in operators(cases[case].load()[0])]
    outcomes = _run(selected, engine, jobs, timeout, verbose)
    print(report.as_text(report.summary_rows(outcomes)))
    _print_reasons(outcomes)
    if engine != "loopnest":
        return
    groups = expectations.read()
    if update:
        failures = {case: outcome.reason for case, outcome in outcomes.items() if not outcome.passed}
        groups = expectations.updated(groups, outcomes, failures)
        expectations.write(groups)
        if len(selected) == len(cases):
            report.write(outcomes, groups)
        return
    sys.exit(_differs(outcomes, expectations.by_case(groups)))


def _run(selected: list[str], engine: str, jobs: int, timeout: float, verbose: bool) -> dict[str, Outcome]:
    cases = all_cases()
    finished: dict[str, Outcome] = {}
    started = time.monotonic()
    on_terminal = sys.stderr.isatty()
    for case, outcome in run_isolated(
        selected, lambda task: run_case(cases[task], ENGINES[engine]), workers=jobs, timeout=timeout
    ):
        finished[case] = outcome
        if verbose and not outcome.passed:
            print(f"{outcome.status:11} {case}: {outcome.detail or outcome.reason}", flush=True)
        if on_terminal:
            done, seconds = len(finished), time.monotonic() - started
            print(f"\r{done}/{len(selected)}  {seconds:.0f} s ", end="", file=sys.stderr, flush=True)
    if on_terminal:
        print(file=sys.stderr)
    return {case: finished[case] for case in selected}


def _print_reasons(outcomes: dict[str, Outcome], most: int = 25) -> None:
    reasons = Counter(f"{outcome.status}: {outcome.reason}" for outcome in outcomes.values() if not outcome.passed)
    for reason, count in reasons.most_common(most):
        print(f"{count:6}  {reason}")
    if len(reasons) > most:
        print(f"{sum(reasons.values()) - sum(n for _, n in reasons.most_common(most)):6}  {len(reasons) - most} other reasons")


def _differs(outcomes: dict[str, Outcome], expected: dict[str, str]) -> bool:
    """Prints each case that fails without being listed or passes though listed; whether there was any."""
    regressed = [case for case, outcome in outcomes.items() if not outcome.passed and case not in expected]
    fixed = [case for case, outcome in outcomes.items() if outcome.passed and case in expected]
    for case in regressed:
        print(f"FAILED, not listed: {case}: {outcomes[case].detail or outcomes[case].reason}")
    for case in fixed:
        print(f"PASSED, remove it from the list: {case}")
    return bool(regressed or fixed)


if __name__ == "__main__":
    main()
