"""Elementwise operators against ONNX's reference: functions, activations, arithmetic, logic, over odd shapes, dtypes and special values."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from tests.operators import agree, compute, model_of

EXTENTS = [1, 7, 8, 9, 15, 16, 17, 31, 33]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 88.0, -104.0, 3e38]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def _floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 2).astype(dtype)


def _special(dtype: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.concatenate([np.array(SPECIAL, np.float64), np.linspace(-4, 4, 34)]).astype(dtype)


def _integers(dtype: Any, *shape: int, seed: int = 0, low: int | None = None, high: int = 100) -> np.ndarray:
    least = (-100 if np.iinfo(dtype).min < 0 else 0) if low is None else low
    return np.random.default_rng(seed).integers(least, high, shape).astype(dtype)


EVERYWHERE = ["Abs", "Ceil", "Floor", "Neg", "Round", "Sign", "Sqrt", "Reciprocal"]
CURVED = [
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Cos",
    "Cosh",
    "Erf",
    "Exp",
    "Log",
    "Sigmoid",
    "Sin",
    "Sinh",
    "Tan",
    "Tanh",
]


@pytest.mark.parametrize("op", EVERYWHERE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_exact_functions(op: str, dtype: Any) -> None:
    (result,) = agree(op, [_special(dtype)], rtol=1e-7 if dtype is not np.float16 else 1e-3)
    if op not in ("Reciprocal", "Sqrt"):
        with np.errstate(all="ignore"):
            numpy = {"Abs": np.abs, "Ceil": np.ceil, "Floor": np.floor, "Neg": np.negative, "Round": np.rint, "Sign": np.sign}[
                op
            ]
            np.testing.assert_array_equal(np.signbit(result), np.signbit(numpy(_special(dtype))))


@pytest.mark.parametrize("op", CURVED)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-6), (np.float64, 1e-14), (np.float16, 1e-3)])
def test_curved_functions(op: str, dtype: Any, rtol: float) -> None:
    x = _special(dtype)
    if op == "Erf" and dtype is np.float64:  # the reference computes it in float32
        np.testing.assert_allclose(compute(op, [x])[0], np.vectorize(math.erf)(x), rtol=rtol)
        return
    agree(op, [x[np.abs(x) < 100] if op in ("Sin", "Cos", "Tan") else x], rtol=rtol, atol=rtol / 10)


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("Relu", {}), ("LeakyRelu", {}), ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 2.0}), ("Selu", {}),
    ("Selu", {"alpha": 2.0, "gamma": 3.0}), ("Celu", {}), ("Celu", {"alpha": 2.0}), ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 0.5, "beta": 0.6}), ("HardSwish", {}), ("Softplus", {}), ("Softsign", {}), ("Mish", {}),
    ("Gelu", {}), ("Gelu", {"approximate": "tanh"}), ("Swish", {}), ("Swish", {"alpha": 0.5}), ("ThresholdedRelu", {}),
    ("ThresholdedRelu", {"alpha": 2.0}), ("Shrink", {}), ("Shrink", {"lambd": 1.5, "bias": 1.5}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attrs"), ACTIVATIONS)
@pytest.mark.parametrize("extent", [1, 33])
def test_activations(op: str, attrs: dict[str, Any], extent: int) -> None:
    agree(op, [_floats(3, extent)], attrs, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("op", "attrs"), [a for a in ACTIVATIONS if a[0] not in ("HardSwish",)])
def test_activations_let_nan_through(op: str, attrs: dict[str, Any]) -> None:
    (result,) = compute(op, [np.array([np.nan, 1.0, np.nan] * 5, np.float32)], attrs)
    np.testing.assert_array_equal(np.isnan(result), [True, False, True] * 5)


def test_shrink_of_integers() -> None:
    agree("Shrink", [np.arange(-9, 9, dtype=np.int32)], {"lambd": 1.5, "bias": 1.5})


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@settings(max_examples=6, deadline=None)
@given(m=st.sampled_from(EXTENTS), n=st.sampled_from(EXTENTS), form=st.integers(0, 4))
def test_broadcasting(op: str, m: int, n: int, form: int) -> None:
    shapes = [((m, n), (m, n)), ((m, n), (n,)), ((m, n), (m, 1)), ((m, 1), (1, n)), ((2, m, 1), (m, n))][form]
    agree(op, [_floats(*shapes[0]), _floats(*shapes[1], seed=1) + 9], rtol=1e-6)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_integers_wrap(op: str, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    edge = np.array([limits.min, limits.max, 0, 1, limits.max // 2 + 1] * 3, dtype)
    agree(op, [edge[:, None], edge[None]])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_division_truncates(dtype: Any) -> None:
    x, y = _integers(dtype, 33, seed=1), _integers(dtype, 33, seed=2, low=1, high=9)
    if np.iinfo(dtype).min < 0:
        y[::2] *= np.array(-1, dtype)
    (result,) = compute("Div", [x, y])
    expected = np.trunc(x.astype(np.float64) / y.astype(np.float64)).astype(dtype)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("op", ["Div", "Mod"])
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_integer_division_by_zero_does_not_trap(op: str, dtype: Any) -> None:
    x, zero = np.array([7] * 11, dtype), np.zeros(11, dtype)
    (result,) = compute(op, [x, zero])
    np.testing.assert_array_equal(result, zero)
    if dtype is not np.uint8:
        lowest = np.array([np.iinfo(dtype).min] * 11, dtype)
        compute(op, [lowest, np.full(11, -1, dtype)])


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("fmod", [0, 1])
def test_mod_has_the_sign_of_one_operand(dtype: Any, fmod: int) -> None:
    x, y = np.arange(-40, 40).astype(dtype), np.array([3, -5, 7, -9] * 20).astype(dtype)
    if np.dtype(dtype).kind == "u":
        x, y = abs(np.arange(-40, 40)).astype(dtype), np.array([3, 5, 7, 9] * 20).astype(dtype)
    if np.dtype(dtype).kind == "f" and not fmod:
        fmod = 1
    agree("Mod", [x, y], {"fmod": fmod})


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_variadic(op: str, count: int) -> None:
    arrays = [_floats(4, 9, seed=i) if i != 1 else _floats(9, seed=i) for i in range(count)]
    arrays[0][1, 2] = np.nan
    agree(op, arrays, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["Max", "Min"])
def test_extrema_of_integers(op: str, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    agree(op, [np.array([limits.min, limits.max, 3] * 4, dtype), np.array([limits.max, limits.min, 3, 0] * 3, dtype)])


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("power", [np.float32, np.int32, np.int64])
def test_pow_of_mixed_dtypes(kind: Any, power: Any) -> None:
    x = np.abs(_floats(31) * 3).astype(kind) + np.array(1, kind)
    agree("Pow", [x, np.arange(31).astype(power) % np.array(5, power)], rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.5, -1.0, 1.0, 2.0, 3.0, 4.0, 5.0, -2.0, 1.7])
def test_pow_of_a_known_exponent(exponent: float) -> None:
    x = _special(np.float32)
    agree("Pow", [x, np.array(exponent, np.float32)], constants=[1], rtol=1e-6)


def test_powers_of_integers_wrap() -> None:
    x, n = np.array([3, -3, 2, -1, 1, 0, 5, 7] * 2, np.int64), np.array([64, 65, 63, 7, 9, 3, 0, 31] * 2, np.int64)
    agree("Pow", [x, n])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(dtype: Any, direction: str) -> None:
    bits = np.dtype(dtype).itemsize * 8
    x = np.arange(bits + 2).astype(dtype) * np.array(5, dtype) + np.array(1, dtype)
    amounts = np.arange(bits + 2).astype(dtype)
    if np.iinfo(dtype).min < 0:
        x = -x
    numpy = np.left_shift if direction == "LEFT" else np.right_shift
    (result,) = compute("BitShift", [x, amounts], {"direction": direction}, opset=28)
    np.testing.assert_array_equal(result, numpy(x, amounts))


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint64])
def test_bits(op: str, dtype: Any) -> None:
    agree(op, [_integers(dtype, 4, 17), _integers(dtype, 17, seed=1)])


def test_bitwise_not() -> None:
    agree("BitwiseNot", [_integers(np.int16, 33)])


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    random = np.random.default_rng(0)
    agree(op, [random.random((5, 33)) > 0.5, random.random(33) > 0.5])


def test_not() -> None:
    agree("Not", [np.random.default_rng(0).random(33) > 0.5])


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.uint64, np.int64])
def test_comparisons(op: str, dtype: Any) -> None:
    x = _special(dtype) if np.dtype(dtype).kind == "f" else _integers(dtype, 33, high=4)
    agree(op, [x[:, None], x[None]])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_classification(dtype: Any) -> None:
    x = _special(dtype)
    for op, attrs in [("IsNaN", {}), ("IsInf", {}), ("IsInf", {"detect_negative": 0}), ("IsInf", {"detect_positive": 0})]:
        agree(op, [x], attrs)
    (nothing,) = compute("IsInf", [x], {"detect_negative": 0, "detect_positive": 0})
    assert not nothing.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, np.bool_])
def test_where(dtype: Any) -> None:
    condition = np.random.default_rng(0).random((3, 1, 17)) > 0.5
    agree("Where", [condition, _floats(5, 1).astype(dtype), _floats(17, seed=1).astype(dtype)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.int64, np.uint32])
@pytest.mark.parametrize("limits", [(0, 3), (None, 2), (1, None), (None, None), (5, 2)])
def test_clip(dtype: Any, limits: tuple[int | None, int | None]) -> None:
    x = _special(dtype) if np.dtype(dtype).kind == "f" else np.arange(9).astype(dtype)
    agree("Clip", [x, *(None if v is None else np.array(v, dtype) for v in limits)])


def test_prelu_takes_a_slope_per_channel() -> None:
    agree("PRelu", [_floats(2, 5, 3, 7), _floats(5, 1, 1, seed=1)], rtol=1e-6)


def test_prelu_refuses_a_larger_slope() -> None:
    with pytest.raises(loopnest.ModelError, match="broadcast"):
        compute("PRelu", [_floats(3, 1), _floats(3, 5)])


def test_shapes_that_do_not_broadcast_are_refused() -> None:
    with pytest.raises(loopnest.ModelError, match="3 against 4|4 against 3|broadcast"):
        compute("Add", [_floats(2, 3), _floats(2, 4)])


@pytest.mark.parametrize("shape", [(0,), (3, 0, 5), (0, 1)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    agree("Add", [_floats(*shape), _floats(1)])


def test_scalars() -> None:
    agree("Mul", [np.array(3.5, np.float32), np.array(2.0, np.float32)])
    agree("Exp", [np.array(1.0, np.float32)], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_are_computed_in_float32(dtype: Any) -> None:
    x, y = _floats(33, dtype=dtype), _floats(33, seed=1, dtype=dtype)
    (result,) = compute("Add", [x, y])
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, (x.astype(np.float32) + y.astype(np.float32)).astype(dtype))


def test_many_elements_on_several_workers() -> None:
    x = _floats(3, 40_001)
    model = model_of("Tanh", [x])
    (result,) = loopnest.compile(model, threads=2).run(None, {"x0": x})
    np.testing.assert_allclose(result, np.tanh(x), rtol=1e-6)
