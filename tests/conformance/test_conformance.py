"""One test a case of the suite, judged against the list of expected failures."""

from __future__ import annotations

import pytest

from tests.conformance import expectations
from tests.conformance.cases import all_cases
from tests.conformance.outcome import Outcome, run_loopnest
from tests.conformance.pool import run_isolated

EXPECTED = expectations.by_case(expectations.read())

TIMEOUT = 240.0


@pytest.mark.parametrize("case", list(all_cases()))
def test_case(case: str) -> None:
    expected = EXPECTED.get(case)
    outcome = _run(case, isolated=expected is not None and expected.startswith(("crash", "timeout")))
    if expected is None:
        assert outcome.passed, outcome.detail or outcome.reason
    elif outcome.passed:
        pytest.fail(f"{case} passes: remove it from {expectations.PATH.name}, where it stands under {expected!r}")
    else:
        pytest.xfail(f"{expected} ({outcome.reason})")


def _run(case: str, isolated: bool) -> Outcome:
    if not isolated:
        return run_loopnest(case)
    return next(outcome for _, outcome in run_isolated([case], run_loopnest, workers=1, timeout=TIMEOUT, start="spawn"))


def test_listed_cases_exist() -> None:
    assert sorted(set(EXPECTED) - set(all_cases())) == []
