"""Kernels for AArch64 run by an emulator: every kind of schedule against ONNX Runtime, extents around its vectors of four."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from loopnest.ir import dtypes
from tests.emulator import emulated, emulated_driver
from tests.graphs import assert_same, make_model, onnxruntime, tensor, values


def check(model: onnx.ModelProto, *inputs: np.ndarray, tolerance: float = 1e-5) -> loopnest.CompiledModel:
    feeds = {spec.name: value for spec, value in zip(model.graph.input, inputs, strict=True)}
    expected = onnxruntime(model, feeds)
    with emulated() as target:
        compiled = loopnest.compile(model, target, threads=1)
        assert_same(compiled.run(None, feeds), expected, tolerance)
    return compiled


def convolved(shape: Sequence[int], filters: Sequence[int], **attrs: Any) -> onnx.ModelProto:
    nodes = [oh.make_node("Conv", ["x", "w", "b"], ["c"], **attrs), oh.make_node("Relu", ["c"], ["y"])]
    return make_model(nodes, {"x": shape}, ["y"], {"w": values(*filters) / 8, "b": values(filters[0], seed=1)})


CONVOLUTIONS = {
    "1x1": convolved([1, 33, 9, 7], [17, 33, 1, 1]),
    "3x3 by Winograd's algorithm": convolved([1, 32, 16, 16], [32, 32, 3, 3], pads=[1] * 4),
    "3x3 with strides": convolved([2, 16, 15, 9], [20, 16, 3, 3], strides=[2, 2], pads=[1] * 4),
    "first of a network": convolved([1, 3, 31, 17], [16, 3, 7, 7], strides=[2, 2], pads=[3] * 4),
    "depthwise": convolved([1, 31, 9, 17], [31, 1, 3, 3], group=31, pads=[1] * 4),
    "groups, dilations": convolved([1, 24, 11, 13], [12, 8, 3, 3], group=3, dilations=[2, 2]),
    "1-D": convolved([1, 5, 33], [7, 5, 3]),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    model = CONVOLUTIONS[name]
    (x,) = model.graph.input
    check(model, values(*(dim.dim_value for dim in x.type.tensor_type.shape.dim), seed=2))


@pytest.mark.parametrize(("rows", "summed", "columns"), [(1, 33, 17), (7, 8, 9), (15, 16, 31), (33, 300, 8)])
def test_products(rows: int, summed: int, columns: int) -> None:
    nodes = [oh.make_node("MatMul", ["a", "b"], ["p"]), oh.make_node("Sigmoid", ["p"], ["y"])]
    check(
        make_model(nodes, {"a": [rows, summed], "b": [summed, columns]}, ["y"]), values(rows, summed), values(summed, columns)
    )


def test_attention_and_normalization() -> None:
    nodes = [
        oh.make_node("MatMul", ["q", "k"], ["s"]),
        oh.make_node("Mul", ["s", "scale"], ["t"]),
        oh.make_node("Softmax", ["t"], ["p"], axis=-1),
        oh.make_node("MatMul", ["p", "v"], ["o"]),
        oh.make_node("LayerNormalization", ["o", "gamma"], ["n"]),
        oh.make_node("Gelu", ["n"], ["y"]),
    ]
    constants = {"scale": np.float32(0.2), "gamma": values(16)}
    shapes = {"q": [2, 17, 16], "k": [2, 16, 33], "v": [2, 33, 16]}
    model = make_model(nodes, shapes, ["y"], constants, opset=20)
    check(model, *(values(*shape, seed=seed) for seed, shape in enumerate(shapes.values())))


def test_products_of_8_bit_integers() -> None:
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 255, shape).astype(np.uint8) for shape in ((9, 35), (35, 17)))
    node = oh.make_node("MatMulInteger", ["a", "b", "za"], ["y"])
    inputs = {name: tensor(name, value.shape, onnx.TensorProto.UINT8) for name, value in (("a", a), ("b", b))}
    check(make_model([node], inputs, ["y"], {"za": np.uint8(7)}), a, b)


@pytest.mark.parametrize("op", ["Exp", "Tanh", "Erf", "Sin", "Log", "Sqrt", "Reciprocal", "Softplus"])
def test_functions(op: str) -> None:
    check(make_model([oh.make_node(op, ["x"], ["y"])], {"x": [67]}, ["y"]), np.abs(values(67)) * 4 + np.float32(0.01))


@pytest.mark.parametrize("to", ["float16", "bfloat16", "float64", "int8", "uint32", "bool"])
def test_casts(to: str) -> None:
    kind = dtypes.by_name(to)
    model = make_model([oh.make_node("Cast", ["x"], ["y"], to=kind.onnx)], {"x": [37]}, ["y"], opset=19)
    x = np.abs(values(37)) * 9
    with emulated() as target:
        result = loopnest.compile(model, target, threads=1)(x)
    np.testing.assert_array_equal(result, x.astype(kind.numpy))
    assert result.dtype in (kind.numpy, ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    "node",
    [
        oh.make_node("Transpose", ["x"], ["y"], perm=[2, 0, 1]),
        oh.make_node("ReduceMax", ["x"], ["y"], keepdims=0),
        oh.make_node("CumSum", ["x", "axis"], ["y"]),
        oh.make_node("TopK", ["x", "k"], ["y", "at"]),
        oh.make_node("Where", ["mask", "x", "half"], ["y"]),
        oh.make_node("Pow", ["x", "k"], ["y"]),
        oh.make_node("Mod", ["x", "half"], ["y"], fmod=1),
    ],
    ids=lambda node: node.op_type,
)
def test_other_kinds(node: onnx.NodeProto) -> None:
    constants = {"axis": np.int64(1), "k": np.array([3]), "mask": values(7, 9) > 0, "half": np.float32(0.5)}
    used = {name: value for name, value in constants.items() if name in node.input}
    check(make_model([node], {"x": [5, 7, 9]}, list(node.output), used), values(5, 7, 9))


def test_an_index_out_of_range_is_found_there_too() -> None:
    index = tensor("i", [3], onnx.TensorProto.INT64)
    model = make_model([oh.make_node("Gather", ["x", "i"], ["y"])], {"x": [5, 8], "i": index}, ["y"])
    compiled = check(model, values(5, 8), np.array([4, -5, 0]))
    with emulated(), pytest.raises(loopnest.KernelError, match=r"index 5 .* \[-5, 4\]"):
        compiled(values(5, 8), np.array([0, 5, 1]))


def test_nothing_of_it_runs_here() -> None:
    with pytest.raises(loopnest.TargetError, match="aarch64"):
        loopnest.compile(CONVOLUTIONS["1-D"], "cpu-neon")
    with pytest.raises(AssertionError, match="no memory at 0x48"):
        emulated_driver().run(0x10, 0, 0, 0, 0, 0)
