"""Cast, CastLike and BitCast between all dtypes, against NumPy (ml_dtypes) and ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import loopnest
from loopnest.ir import dtypes
from loopnest.ir.dtypes import DType
from tests.operators import agree, compute

NUMERIC = [d for d in dtypes.ALL if d.is_numeric and d.kind != "complex"]
FLOAT8 = [d for d in dtypes.ALL if d.is_float and d.bits == 8 and d is not dtypes.float8e8m0]
OFTEN = (dtypes.float32, dtypes.float16, dtypes.int32, dtypes.uint8, dtypes.bool_)
PAIRS = [
    (source, to)
    for source in NUMERIC
    for to in NUMERIC
    if source is not to
    and (source in OFTEN or to in OFTEN)
    and (dtypes.float8e8m0 not in (source, to) or (source.is_float and to.is_float))
]
OPSET = 25


def _values(source: DType, to: DType) -> np.ndarray:
    """Values that both dtypes hold, and what rounds: 35 of them."""
    low = -8 if "u" not in (source.kind[0], to.kind[0]) else 0
    if dtypes.float8e8m0 in (source, to):
        return np.array([0.5, 1.0, 2.0, 4.0, 1.5] * 7).astype(source.numpy)
    high = 3 if min(source.bits, to.bits) < 4 else 6
    if min(source.bits, to.bits) < 4:
        low = max(low, -2)
        high = 1 if "int2" in (source.name, to.name) else 3
    return np.linspace(low, high, 35).astype(np.float32).astype(source.numpy)


@pytest.mark.parametrize(("source", "to"), PAIRS, ids=lambda d: d.name)
def test_values_that_both_hold(source: DType, to: DType) -> None:
    x = _values(source, to)
    (result,) = compute("Cast", [x], {"to": to.onnx}, opset=OPSET)
    assert result.dtype == to.numpy
    with np.errstate(all="ignore"):
        expected = x.astype(np.float32).astype(to.numpy) if source.bits < 32 else x.astype(to.numpy)
    if to is dtypes.float8e8m0:
        expected = np.exp2(np.ceil(np.log2(x.astype(np.float64)))).astype(to.numpy)
    np.testing.assert_array_equal(result.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("to", FLOAT8, ids=str)
@pytest.mark.parametrize("source", [dtypes.float32, dtypes.float16, dtypes.bfloat16, dtypes.float64], ids=str)
@pytest.mark.parametrize("saturate", [0, 1])
def test_float8_overflow(to: DType, source: DType, saturate: int) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 448.0, 480.0, -1e4, 5e4, 240.0, 1e-9, 0.0019]).astype(source.numpy)
    agree("Cast", [x], {"to": to.onnx, "saturate": saturate}, opset=OPSET)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_float8e8m0_rounds_by_mode(mode: str, saturate: int) -> None:
    x = np.array([1.0, 1.1, 1.5, 1.6, 2.9, 3.0, 3.1, 1e-30, 1e30, 2.0**127, 1.9 * 2.0**127, np.nan, 2.0**-126], np.float32)
    agree("Cast", [x], {"to": dtypes.float8e8m0.onnx, "saturate": saturate, "round_mode": mode}, opset=OPSET)


@pytest.mark.parametrize(
    ("source", "to"), [("int64", "int32"), ("int32", "int8"), ("uint64", "uint8"), ("int16", "uint16"), ("int64", "uint4")]
)
def test_integers_keep_their_low_bits(source: str, to: str) -> None:
    limits = np.iinfo(source)
    x = np.array([limits.min, limits.max, 200, 300, 127, 255, 1000], np.int64 if source != "uint64" else np.uint64).astype(
        source
    )
    target = dtypes.by_name(to)
    (result,) = compute("Cast", [x], {"to": target.onnx})
    np.testing.assert_array_equal(result.astype(np.int64), x.astype(target.numpy).astype(np.int64))


def test_to_bool_is_not_zero() -> None:
    x = np.array([0.0, -0.0, 0.4, np.nan, np.inf, -3.0], np.float32)
    np.testing.assert_array_equal(compute("Cast", [x], {"to": dtypes.bool_.onnx})[0], [False, False, True, True, True, True])


def test_floats_truncate_to_integers() -> None:
    x = np.array([2.9, -2.9, 1e9, -1e9, 0.99, -0.99, 2147483520.0], np.float32)
    for to in (dtypes.int32, dtypes.int64):
        np.testing.assert_array_equal(compute("Cast", [x], {"to": to.onnx})[0], x.astype(to.numpy))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64, np.int8])
def test_integers_out_of_range_do_not_trap(dtype: Any) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30] * 5, np.float32)
    compute("Cast", [x], {"to": dtypes.from_numpy(dtype).onnx})


def test_rounding_through_float16_stays_when_fused() -> None:
    import onnx.helper as oh

    from tests.graphs import make_model

    nodes = [
        oh.make_node("Cast", ["x"], ["h"], to=dtypes.float16.onnx),
        oh.make_node("Cast", ["h"], ["f"], to=dtypes.float32.onnx),
        oh.make_node("Mul", ["f", "f"], ["y"]),
    ]
    x = np.linspace(0.1, 3, 37, dtype=np.float32)
    (result,) = loopnest.compile(make_model(nodes, {"x": x.shape}, ["y"])).run(None, {"x": x})
    half = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(result, half * half)


@pytest.mark.parametrize("to", [dtypes.float16, dtypes.float8e5m2, dtypes.int8, dtypes.bool_, dtypes.float64], ids=str)
def test_cast_like_takes_only_the_dtype(to: DType) -> None:
    x = np.linspace(0, 5, 33, dtype=np.float32)
    agree("CastLike", [x, np.zeros((3, 1), to.numpy)], opset=OPSET)


BIT_PAIRS = [
    ("float32", "int32"), ("int32", "float32"), ("float64", "int64"), ("uint64", "float64"), ("float16", "int16"), ("uint16", "bfloat16"),
    ("bfloat16", "float16"), ("int8", "uint8"), ("bool", "uint8"), ("uint8", "float8e4m3fn"), ("float8e5m2", "int8"), ("uint32", "int32"),
    ("int16", "float16"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "to"), BIT_PAIRS)
def test_bit_cast_keeps_the_bits(source: str, to: str) -> None:
    held, target = dtypes.by_name(source), dtypes.by_name(to)
    random = np.random.default_rng(0)
    raw = random.integers(0, 2 if source == "bool" else 100, 33 * held.itemsize).astype(np.uint8)
    x = raw.view(held.numpy)
    (result,) = compute("BitCast", [x], {"to": target.onnx}, opset=26)
    assert result.dtype == target.numpy
    np.testing.assert_array_equal(result.view(np.uint8), raw)


def test_bit_cast_refuses_another_width() -> None:
    with pytest.raises(loopnest.ModelError, match="width"):
        compute("BitCast", [np.zeros(3, np.float32)], {"to": dtypes.int64.onnx}, opset=26)
