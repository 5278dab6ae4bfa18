"""Random models compute what ONNX Runtime computes. A failure is shown by `python -m tests.random_models SEED SEED --show`."""

from __future__ import annotations

import pytest

from .judging import grow, problems


@pytest.mark.parametrize("seed", range(12))
def test_random_model(seed: int) -> None:
    assert problems(seed, threads=1 + seed % 2) == []


def test_a_seed_is_always_the_same_model() -> None:
    assert grow(3).model() == grow(3).model()


def test_models_are_of_many_operators() -> None:
    operators = {node.op_type for seed in range(40) for node in grow(seed).nodes}
    assert len(operators) > 60
