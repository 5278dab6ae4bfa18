"""Quantized models: products of quantized tensors are of integers, and what surrounds them is part of their kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.compiler.frontend import load
from loopnest.compiler.ops.registry import is_supported
from loopnest.compiler.passes import PASSES, run_passes
from loopnest.ir import dtypes
from tests.graphs import make_model, onnxruntime, reference, tensor, values
from tests.kernels import kernels_of

EXTENTS = st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 31, 33])
BYTES = st.sampled_from([np.uint8, np.int8])
STEP = 0.25


class _Quantized:
    """Nodes and constants of a model with QuantizeLinear and DequantizeLinear around its operators."""

    def __init__(self, dtype: Any = np.uint8, zero: int = 3, seed: int = 0):
        self.nodes: list[onnx.NodeProto] = []
        self.random = np.random.default_rng(seed)
        self.constants = {"step": np.array(STEP, np.float32), "zero": np.array(zero, dtype)}

    def around(self, name: str) -> str:
        """``name``, quantized and dequantized."""
        self.nodes.append(oh.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]))
        self.nodes.append(oh.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_d"]))
        return f"{name}_d"

    def weights(self, name: str, shape: tuple[int, ...], axis: int | None, dtype: Any = np.int8) -> str:
        """Weights with one scale, or one for each index of an axis; powers of two, so that sums and their products are exact."""
        limits = np.iinfo(dtype)
        scales = () if axis is None else (shape[axis],)
        self.constants[name] = self.random.integers(limits.min, limits.max + 1, shape).astype(dtype)
        self.constants[f"{name}_scale"] = (2.0 ** self.random.integers(-9, -5, scales)).astype(np.float32)
        self.constants[f"{name}_zero"] = np.full(scales, limits.min // 2 + limits.max // 2, dtype)
        inputs = [name, f"{name}_scale", f"{name}_zero"]
        self.nodes.append(oh.make_node("DequantizeLinear", inputs, [f"{name}_d"], axis=axis or 0))
        return f"{name}_d"

    def model(self, shape: tuple[int, ...], *outputs: str) -> onnx.ModelProto:
        return make_model(self.nodes, {"x": shape}, outputs, self.constants, opset=21)


def _levels_apart(model: onnx.ModelProto, feeds: dict[str, Any], threads: int, conv: str = "direct") -> list[np.ndarray]:
    """By how many steps what loopnest computes differs from the reference; direct sums of floats are exact here, as all is of few bits."""
    ours = loopnest.compile(model, threads=threads, config={"conv": conv}).run(None, feeds)
    theirs = reference(model, feeds)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))
    return [np.abs(a - b) / STEP for a, b in zip(ours, theirs, strict=True)]


def _numbers(*shape: int) -> np.ndarray:
    return values(*shape) * 8


@settings(max_examples=9, deadline=None)
@given(
    channels=st.tuples(*(st.sampled_from([1, 3, 7, 8, 9, 16, 17, 33]),) * 3),
    size=st.tuples(EXTENTS, EXTENTS),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 1, 2]),
    axis=st.sampled_from([None, 0]),
    dtype=BYTES,
    zero=st.sampled_from([0, 5, 100]),
    residual=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
def test_convolutions_in_a_row(
    channels: tuple[int, int, int],
    size: tuple[int, int],
    kernel: int,
    stride: int,
    axis: int | None,
    dtype: Any,
    zero: int,
    residual: bool,
    threads: int,
) -> None:
    """Scales are powers of two, so that nothing but ties of sums in another order could differ, and those are exact."""
    first, inner, last = channels
    q = _Quantized(dtype, zero)
    x = q.around("x")
    q.constants["bias"] = q.random.integers(-8, 8, inner).astype(np.float32) * STEP
    inputs = [x, q.weights("w0", (inner, first, kernel, kernel), axis, dtype), "bias"]
    q.nodes.append(oh.make_node("Conv", inputs, ["a"], auto_pad="SAME_UPPER", strides=[stride] * 2))
    a = q.around("a")
    q.nodes.append(oh.make_node("Conv", [a, q.weights("w1", (last, inner, 3, 3), axis)], ["b"], pads=[1, 1, 1, 1]))
    b = q.around("b")
    if residual:
        q.nodes.append(oh.make_node("Conv", [a, q.weights("w2", (last, inner, 1, 1), axis)], ["c"]))
        q.nodes.append(oh.make_node("Add", [b, q.around("c")], ["d"]))
        b = q.around("d")
    shape = (2, first, *size)
    (apart,) = _levels_apart(q.model(shape, b), {"x": _numbers(*shape)}, threads)
    assert apart.max(initial=0) == 0


@pytest.mark.parametrize(("channels", "size", "pairs"), [(16, (7, 7), True), (33, (24, 33), False), (64, (28, 28), False)])
def test_winograds_algorithm_takes_floats(channels: int, size: tuple[int, int], pairs: bool) -> None:
    """Ties may fall to either side."""
    q = _Quantized()
    w = q.weights("w", (channels, channels, 3, 3), 0)
    q.nodes.append(oh.make_node("Conv", [q.around("x"), w], ["y"], pads=[1, 1, 1, 1]))
    shape = (1, channels, *size)
    model = q.model(shape, q.around("y"))
    assert ("Pairs" in _rules(model)) == pairs
    (apart,) = _levels_apart(model, {"x": _numbers(*shape)}, 1, "auto")
    assert apart.max() <= 1 and apart.mean() < 0.02


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_groups_and_other_ranks(dtype: Any) -> None:
    """Groups of several channels are of integers, those of one are sums that float32 holds exactly."""
    q = _Quantized(dtype)
    x = q.around("x")
    q.nodes.append(oh.make_node("Conv", [x, q.weights("w0", (16, 3, 3), 0)], ["a"], group=4, pads=[1, 1]))
    a = q.around("a")
    q.nodes.append(oh.make_node("Conv", [a, q.weights("w1", (16, 1, 3), 0)], ["b"], group=16))
    (apart,) = _levels_apart(q.model((1, 12, 17), q.around("b")), {"x": _numbers(1, 12, 17)}, 1)
    assert apart.max() == 0


@settings(max_examples=8, deadline=None)
@given(
    mkn=st.tuples(EXTENTS, EXTENTS, EXTENTS),
    batch=st.sampled_from([(), (2,), (2, 3)]),
    axis=st.sampled_from([None, 1]),
    gemm=st.sampled_from([None, 0, 1]),
    dtype=BYTES,
    threads=st.sampled_from([1, 2]),
)
def test_matrices_in_a_row(
    mkn: tuple[int, int, int], batch: tuple[int, ...], axis: int | None, gemm: int | None, dtype: Any, threads: int
) -> None:
    m, k, n = mkn
    q = _Quantized(dtype)
    a = q.around("x")
    if gemm is None:
        q.nodes.append(oh.make_node("MatMul", [a, q.weights("w", (k, n), axis)], ["a"]))
    else:
        batch = ()
        w = q.weights("w", (n, k) if gemm else (k, n), axis and 1 - gemm)
        q.constants["bias"] = q.random.integers(-8, 8, n).astype(np.float32)
        q.nodes.append(oh.make_node("Gemm", [a, w, "bias"], ["a"], transB=gemm))
    q.nodes.append(oh.make_node("MatMul", [q.around("a"), q.weights("v", (n, 9), None)], ["b"]))
    (apart,) = _levels_apart(q.model((*batch, m, k), "b"), {"x": _numbers(*batch, m, k)}, threads)
    assert apart.max() == 0


def test_both_factors_may_be_data() -> None:
    q = _Quantized()
    x = q.around("x")
    q.nodes.append(oh.make_node("Transpose", [x], ["t"], perm=[0, 2, 1]))
    q.nodes.append(oh.make_node("MatMul", [x, q.around("t")], ["y"]))
    (apart,) = _levels_apart(q.model((2, 9, 17), "y"), {"x": _numbers(2, 9, 17)}, 1)
    assert apart.max() == 0


def _rules(model: onnx.ModelProto) -> list[str]:
    return [node.op for node in run_passes(load(model, supported=is_supported), PASSES).nodes]


@pytest.mark.parametrize("case", ["scales", "weights", "axis", "one channel"])
def test_what_is_not_of_integers(case: str) -> None:
    """Scales that data gives, filters that are no constant, scales along another axis, sums over single channels."""
    q = _Quantized()
    x, w = q.around("x"), q.weights("w", (8, 1 if case == "one channel" else 8, 3, 3), 1 if case == "axis" else 0)
    q.nodes.append(oh.make_node("Conv", [x, w], ["y"], group=8 if case == "one channel" else 1))
    inputs: dict[str, Any] = {"x": (1, 8, 9, 9)}
    if case in ("scales", "weights"):
        name = "step" if case == "scales" else "w"
        array = q.constants.pop(name)
        inputs[name] = tensor(name, array.shape, dtypes.from_numpy(array.dtype).onnx)
    model = make_model(q.nodes, inputs, ["y"], q.constants, opset=21)
    ops = _rules(model)
    assert "Conv" in ops and not {"ConvInteger", "Pairs", "Paired"} & {*ops}


def test_a_row_of_convolutions_is_a_kernel_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between them there are levels in 16 bits, in blocks of channels, whose pairs nobody makes."""
    q = _Quantized()
    name = q.around("x")
    for i in range(3):
        q.nodes.append(oh.make_node("Conv", [name, q.weights(f"w{i}", (16, 16, 1, 3), 0)], [f"y{i}"], pads=[0, 1, 0, 1]))
        name = q.around(f"y{i}")
    names = [source.nest.name for source in kernels_of(q.model((1, 16, 9, 9), name), monkeypatch)]
    inner = "Conv+Cast+Mul+Levels"
    assert names == ["Levels+Pairs", inner, inner, f"{inner}+Cast+Mul", "Identity"]


def test_quantized_infinities_and_nan() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1e30, -1e30, 0.125, 0.375], np.float32)
    q = _Quantized()
    (ours,) = loopnest.compile(q.model((7,), q.around("x"))).run(None, {"x": x})
    np.testing.assert_array_equal(np.delete(ours, 2) / STEP, [252, -3, 252, -3, 0, 2])  # ties go to the even one
    assert -3 <= ours[2] / STEP <= 252


def _microsoft(op: str, arrays: list[np.ndarray | None], attrs: dict[str, Any]) -> None:
    """The same as ONNX Runtime, or one level from it."""
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(arrays)]
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    data = {n: a for n, a in feeds.items() if a.size > 1 and a.dtype.itemsize == 1}
    node = oh.make_node(op, names, ["y"], domain="com.microsoft", **attrs)
    inputs = {n: tensor(n, a.shape, dtypes.from_numpy(a.dtype).onnx) for n, a in data.items()}
    model = make_model([node], inputs, ["y"], {n: a for n, a in feeds.items() if n not in data}, domains={"com.microsoft": 1})
    last = arrays[-1]
    kind = last.dtype if last is not None and last.dtype.itemsize == 1 else np.dtype(np.float32)
    model.graph.output[0].CopyFrom(oh.make_tensor_value_info("y", dtypes.from_numpy(kind).onnx, None))
    (ours,), (theirs,) = loopnest.compile(model).run(None, data), onnxruntime(model, data)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=1e-5, atol=kind.kind != "f")


def _of(dtype: Any, scale: float, *shape: int, seed: int = 0) -> list[Any]:
    limits = np.iinfo(dtype)
    array = np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)
    return [array, np.array(scale, np.float32), np.array(7, dtype)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_operators_of_onnx_runtime(dtype: Any) -> None:
    image, result = _of(dtype, 0.02, 2, 9, 7, 5), [np.array(0.03, np.float32), np.array(11, dtype)]
    for op in ("QLinearAdd", "QLinearMul"):
        _microsoft(op, [*image, *_of(dtype, 0.05, 9, 1, 1, seed=1), *result], {})
    _microsoft("QLinearSigmoid", [*image, np.array(1 / 256, np.float32), np.array(0, dtype)], {})
    _microsoft("QLinearLeakyRelu", [*image, *result], {"alpha": 0.1})
    _microsoft("QLinearGlobalAveragePool", [*image, *result], {})
    _microsoft("QLinearAveragePool", [*image, *result], {"kernel_shape": [2, 2], "strides": [2, 2]})
    _microsoft("QLinearSoftmax", [*image, np.array(1 / 256, np.float32), np.array(0, dtype)], {"axis": 1, "opset": 13})


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("quantized", [False, True])
def test_gemm_of_onnx_runtime(turned: int, quantized: bool) -> None:
    w = np.random.default_rng(1).integers(-64, 64, (9, 17) if turned else (17, 9)).astype(np.int8)
    weights = [w, np.linspace(0.01, 0.02, 9, dtype=np.float32), np.zeros(9, np.int8)]
    bias = np.arange(9, dtype=np.int32) * 100
    result = [np.array(0.5, np.float32), np.array(100, np.uint8)] if quantized else []
    _microsoft("QGemm", [*_of(np.uint8, 0.02, 5, 17), *weights, bias, *result], {"transB": turned})


def test_concat_of_onnx_runtime() -> None:
    parts = [*_of(np.uint8, 0.02, 2, 3), *_of(np.uint8, 0.05, 2, 4, seed=1)]
    names = [f"x{i}" for i in range(8)]
    arrays = dict(zip(names, [np.array(0.04, np.float32), np.array(3, np.uint8), *parts], strict=True))
    data = {n: arrays[n] for n in ("x2", "x5")}
    inputs = {n: tensor(n, a.shape, dtypes.uint8.onnx) for n, a in data.items()}
    node = oh.make_node("QLinearConcat", names, ["y"], domain="com.microsoft", axis=1)
    known = {n: a for n, a in arrays.items() if n not in data}
    model = make_model([node], inputs, ["y"], known, domains={"com.microsoft": 1})
    model.graph.output[0].CopyFrom(oh.make_tensor_value_info("y", dtypes.uint8.onnx, None))
    (ours,), (theirs,) = loopnest.compile(model).run(None, data), onnxruntime(model, data)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_channels_last_of_onnx_runtime_is_refused() -> None:
    node = oh.make_node("QLinearGlobalAveragePool", list("xszsz"), ["y"], domain="com.microsoft", channels_last=1)
    known = {"s": np.array(0.5, np.float32), "z": np.array(0, np.uint8)}
    model = make_model([node], {"x": tensor("x", (1, 4, 4, 3), dtypes.uint8.onnx)}, ["y"], known, domains={"com.microsoft": 1})
    with pytest.raises(loopnest.UnsupportedOperatorError, match="QLinearGlobalAveragePool"):
        loopnest.compile(model)
