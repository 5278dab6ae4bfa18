"""Linear quantization and integer products against ONNX's reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.ir import dtypes
from tests.graphs import make_model, onnxruntime, reference, tensor
from tests.kernels import kernels_of
from tests.operators import agree, compute

OPSET = 25
INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2]
FLOATS = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz]


def _floats(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 100).astype(np.float32)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("size", [1, 33])
def test_quantize_per_tensor_saturates(dtype: Any, size: int) -> None:
    x = np.concatenate([_floats(size), np.array([1e9, -1e9, 0.5, 1.5, 2.5, -0.5], np.float32)])
    agree("QuantizeLinear", [x, np.array(1.0, np.float32), np.array(1, dtype)], opset=OPSET)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("saturate", [0, 1])
def test_quantize_to_float8(dtype: Any, saturate: int) -> None:
    x = np.concatenate([_floats(33), np.array([1e9, -1e9, np.nan, np.inf], np.float32)])
    agree("QuantizeLinear", [x, np.array(2.0, np.float32), np.zeros((), dtype)], {"saturate": saturate}, opset=OPSET)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_quantize_and_back_per_axis(axis: int) -> None:
    x = _floats(4, 5, 9)
    scale = np.random.default_rng(1).random(x.shape[axis]).astype(np.float32) + 0.5
    zero = np.random.default_rng(2).integers(0, 255, x.shape[axis]).astype(np.uint8)
    (y,) = agree("QuantizeLinear", [x, scale, zero], {"axis": axis}, opset=OPSET)
    agree("DequantizeLinear", [y, scale, zero], {"axis": axis}, opset=OPSET, rtol=1e-7)


@pytest.mark.parametrize(("axis", "block"), [(1, 3), (0, 2), (-1, 4)])
@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.int4])
def test_quantize_and_back_in_blocks(axis: int, block: int, dtype: Any) -> None:
    x = _floats(4, 6, 8) / 20
    shape = list(x.shape)
    shape[axis] = -(-shape[axis] // block)
    scale = np.random.default_rng(1).random(shape).astype(np.float32) + 0.5
    zero = np.random.default_rng(2).integers(-3, 3, shape).astype(dtype)
    attrs = {"axis": axis, "block_size": block}
    (y,) = agree("QuantizeLinear", [x, scale, zero], attrs, opset=OPSET)
    agree("DequantizeLinear", [y, scale, zero], attrs, opset=OPSET, rtol=1e-7)


def test_a_last_block_may_be_shorter() -> None:
    x, scale = _floats(3, 7), np.array([[1.0, 2.0, 4.0]] * 3, np.float32)
    (y,) = compute("QuantizeLinear", [x, scale], {"axis": 1, "block_size": 3, "output_dtype": dtypes.int8.onnx}, opset=OPSET)
    expected = np.clip(np.rint(x / np.repeat(scale, 3, axis=1)[:, :7]), -128, 127)
    np.testing.assert_array_equal(y, expected.astype(np.int8))


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, np.int32, ml_dtypes.float4_e2m1fn])
def test_dequantize(dtype: Any) -> None:
    x = np.array([0, 1, 0, 1, 1] * 7).astype(dtype)
    zero = None if dtype is np.int32 else np.array([1 if dtype in INTEGERS else 0]).astype(dtype).reshape(())
    agree("DequantizeLinear", [x, np.array(0.3, np.float32), zero], opset=OPSET, rtol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_scales_in_narrow_floats(dtype: Any) -> None:
    x = _floats(33).astype(dtype)
    (y,) = agree("QuantizeLinear", [x, np.array(1.5, dtype), np.array(3, np.int8)], opset=OPSET)
    agree("DequantizeLinear", [y, np.array(1.5, dtype), np.array(3, np.int8)], opset=OPSET)


@pytest.mark.parametrize(
    ("scale", "zero", "attrs", "message"),
    [
        ((5,), (4,), {"axis": 1}, "zero point"),
        ((4,), None, {"axis": 1}, "expected"),
        ((4, 5), None, {"axis": 1, "block_size": 2}, "expected"),
    ],
)
def test_scales_that_do_not_fit_are_refused(scale: Any, zero: Any, attrs: dict[str, int], message: str) -> None:
    zeros = None if zero is None else np.zeros(zero, np.uint8)
    with pytest.raises(loopnest.ModelError, match=message):
        compute("QuantizeLinear", [_floats(4, 5), np.ones(scale, np.float32), zeros], attrs, opset=OPSET)


@pytest.mark.parametrize("size", [1, 31, 5000])
def test_dynamic_quantization(size: int) -> None:
    x = _floats(size) + 7
    node = oh.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    model = make_model([node], {"x": [size]}, ["y", "scale", "zero"])
    for ours, theirs in zip(loopnest.compile(model).run(None, {"x": x}), onnxruntime(model, {"x": x}), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if ours.dtype == np.uint8:
            assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1  # a quotient next to a half
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def _bytes(dtype: Any, *shape: int, seed: int = 0) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)


@settings(max_examples=8, deadline=None)
@given(m=st.sampled_from([1, 7, 16, 33]), k=st.sampled_from([1, 8, 31]), n=st.sampled_from([1, 9, 17, 33]), zeros=st.booleans())
def test_matmul_integer(m: int, k: int, n: int, zeros: bool) -> None:
    a, b = _bytes(np.uint8, m, k), _bytes(np.int8, k, n, seed=1)
    inputs: list[np.ndarray | None] = [a, b]
    if zeros:
        inputs += [np.array(12, np.uint8), np.array(-3, np.int8)]
    agree("MatMulInteger", inputs, constants=[1])


def test_matmul_integer_with_zero_points_of_rows_and_columns() -> None:
    a, b = _bytes(np.uint8, 5, 9), _bytes(np.uint8, 9, 17, seed=1)
    rows, columns = _bytes(np.uint8, 5, seed=2), _bytes(np.uint8, 17, seed=3)
    (y,) = compute("MatMulInteger", [a, b, rows, columns])
    wide = [v.astype(np.int32) for v in (a, b, rows, columns)]
    np.testing.assert_array_equal(y, (wide[0] - wide[2][:, None]) @ (wide[1] - wide[3]))


def test_matmul_integer_refuses_zero_points_that_do_not_fit() -> None:
    with pytest.raises(loopnest.ModelError, match="zero point of input 1"):
        compute("MatMulInteger", [_bytes(np.uint8, 2, 3), _bytes(np.uint8, 3, 4), None, _bytes(np.uint8, 5)])


@pytest.mark.parametrize(
    "attrs", [{}, {"pads": [1, 1, 1, 1]}, {"strides": [2, 2], "pads": [0, 1, 1, 0]}, {"dilations": [2, 2]}]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_conv_integer_pads_with_the_zero_point(attrs: dict[str, Any], dtype: Any) -> None:
    x, w = _bytes(dtype, 2, 3, 9, 11), _bytes(dtype, 5, 3, 3, 3, seed=1)
    agree("ConvInteger", [x, w, np.array(17, dtype)], attrs, constants=[1])


def _qlinear(op: str, arrays: list[np.ndarray], attrs: dict[str, Any]) -> None:
    names = [f"x{i}" for i in range(len(arrays))]
    declared = {n: tensor(n, a.shape, dtypes.from_numpy(a.dtype).onnx) for n, a in zip(names, arrays, strict=True)}
    model = make_model([oh.make_node(op, names, ["y"], **attrs)], declared, ["y"], opset=21)
    feeds = dict(zip(names, arrays, strict=True))
    (ours,), (theirs,) = loopnest.compile(model).run(None, feeds), reference(model, feeds)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    distance = np.abs(ours.astype(int) - theirs.astype(int))
    assert distance.max() <= 1 and (distance > 0).mean() < 0.02  # products that lie next to a half


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_qlinear_conv(per_channel: bool, bias: bool) -> None:
    x, w = _bytes(np.uint8, 1, 3, 9, 9), _bytes(np.int8, 5, 3, 3, 3, seed=1)
    w_scale = np.linspace(0.001, 0.01, 5, dtype=np.float32) if per_channel else np.array(0.005, np.float32)
    data, weight = [x, np.array(0.02, np.float32), np.array(120, np.uint8)], [w, w_scale, np.zeros(w_scale.shape, np.int8)]
    arrays = [*data, *weight, np.array(0.11, np.float32), np.array(30, np.uint8)]
    if bias:
        arrays.append(np.arange(5, dtype=np.int32) * 1000)
    _qlinear("QLinearConv", arrays, {"pads": [1, 1, 1, 1]})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_matmul(dtype: Any) -> None:
    a, b = _bytes(dtype, 2, 7, 9), _bytes(dtype, 2, 9, 17, seed=1)
    scale, zero = np.array(0.02, np.float32), np.array(3, dtype)
    _qlinear("QLinearMatMul", [a, scale, zero, b, scale, zero, np.array(0.3, np.float32), zero], {})


def test_a_quantized_convolution_is_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The input less its zero point, the product in blocks of channels with everything after it fused, and out of the blocks."""
    x, w = _bytes(np.uint8, 1, 8, 9, 9), _bytes(np.int8, 16, 8, 3, 3, seed=1)
    known = {"w": w, "s": np.array(0.02, np.float32), "z": np.array(100, np.uint8), "wz": np.array(0, np.int8)}
    node = oh.make_node("QLinearConv", ["x", "s", "z", "w", "s", "wz", "s", "z"], ["y"], pads=[1, 1, 1, 1])
    model = make_model([node], {"x": tensor("x", x.shape, dtypes.uint8.onnx)}, ["y"], known)
    kernels = [source.nest.name for source in kernels_of(model, monkeypatch)]
    assert kernels == ["Pairs", "Conv+Cast+Mul+Levels+Add+Cast", "Identity"]
