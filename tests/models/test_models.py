"""Every real model within tolerance of ONNX Runtime, with one thread and with two.

A model whose package is not installed is skipped; with LOOPNEST_ALL_MODELS=1 in the environment that fails instead.
"""

from __future__ import annotations

import os

import pytest

from tests.models.catalog import all_models
from tests.models.judge import judge, loopnest

MODELS = all_models()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", list(MODELS))
def test_model(name: str, threads: int) -> None:
    model = MODELS[name]
    reason = model.missing()
    if reason:
        (pytest.fail if os.environ.get("LOOPNEST_ALL_MODELS") else pytest.skip)(reason)
    verdicts = judge(model, loopnest(model.load(), threads))
    problems = [f"{verdict.scenario}: {problem}" for verdict in verdicts for problem in verdict.problems]
    assert not problems, "\n".join(problems)
