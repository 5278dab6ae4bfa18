"""The judge judged: every kind of difference must be seen, and every model must be there to be run."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from tests.conformance.cases import DATA
from tests.conformance.outcome import operators
from tests.models import light
from tests.models.catalog import Model, all_models, once
from tests.models.judge import TOLERANCE, Verdict, compare, judge, onnxruntime

X = np.float32([1.0, -4.0, 0.0])


@pytest.mark.parametrize(
    ("want", "have", "says"),
    [
        (X, X + np.float32(5e-4), "error 1.25e-04 of max"),
        (X, X.astype(np.float64), "expected float32"),
        (X, X[None], r"expected float32\[3\]"),
        (np.float32([1, np.nan]), np.float32([1, 2]), "other places"),
        (np.float32([1, 2]), np.float32([1, np.inf]), "other places"),
        (np.float32([1, np.inf]), np.float32([1, -np.inf]), "other places"),
        (np.float32([np.nan, 1]), np.float32([np.inf, 1]), "other places"),
        (np.int64([5, 6]), np.int64([5, 7]), "1 of 2 elements differ"),
        (np.zeros(2, np.float32), np.float32([0, 1e-9]), "error inf"),
    ],
)
def test_a_difference_is_seen(want: np.ndarray, have: np.ndarray, says: str) -> None:
    _, problem = compare(want, have)
    assert problem is not None
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(problem)


@pytest.mark.parametrize(
    ("want", "have"),
    [
        (X, X + np.float32(3e-4)),
        (np.float32([np.nan, np.inf, -np.inf, 2]), np.float32([np.nan, np.inf, -np.inf, 2.0001])),
        (np.full(3, np.nan, np.float32), np.full(3, np.nan, np.float32)),
        (np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)),
        (np.array([True, False]), np.array([True, False])),
    ],
)
def test_within_tolerance(want: np.ndarray, have: np.ndarray) -> None:
    error, problem = compare(want, have)
    assert problem is None
    assert error <= TOLERANCE


def test_an_engine_that_fails_or_is_wrong_is_named() -> None:
    path = DATA / "light" / "light_shufflenet.onnx"
    name = light.input_name(onnx.load(path))
    model = Model("tiny", lambda: path, (once("zeros", lambda: {name: np.zeros((1, 3, 224, 224), np.float32)}),))
    right = onnxruntime(path)

    def broken(feeds: object) -> list[np.ndarray]:
        raise ValueError("no such luck")

    assert [verdict.ok for verdict in judge(model, right)] == [True]
    (verdict,) = judge(model, lambda feeds: [1.01 * output for output in right(feeds)])
    assert not verdict.ok
    (verdict,) = judge(model, broken)
    assert verdict == Verdict("zeros", np.inf, ("ValueError: no such luck",))


def test_random_weights_replace_all_constants() -> None:
    model = light.with_random_weights(onnx.load(DATA / "light" / "light_squeezenet.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert "ConstantOfShape" not in operators(model)


def test_packages_are_read_not_imported() -> None:
    for name in ("silero_vad", "magika", "nudenet"):
        model = all_models()[name]
        if model.missing() is None:
            model.load()
        assert name not in sys.modules
