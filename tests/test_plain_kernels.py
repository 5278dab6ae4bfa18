"""Kernels give the same results as loop IR, as printed Python and as machine code."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from loopnest.codegen import plain
from loopnest.codegen.source import KernelSource
from loopnest.ir import loops as ir
from tests import nests
from tests.kernels import WAYS, arguments, as_python, kernels_of, random_inputs, source_of


def _assert_alike(
    source: KernelSource, inputs: list[np.ndarray], workers: int = 1, rtol: float = 1e-5
) -> list[list[np.ndarray]]:
    """Runs the kernel in every way and compares what is in its output buffers; returns those."""
    results: list[list[np.ndarray]] = []
    for way in WAYS:
        buffers, extents = arguments(source, inputs)
        assert way(source, buffers, extents, workers) == 0, way.__name__
        outputs = [i for i, b in enumerate(source.nest.buffers) if b.scope == "output"]
        results.append([buffers[i] for i in outputs])
    for way, other in zip(WAYS[1:], results[1:], strict=True):
        for have, want in zip(other, results[0], strict=True):
            exact = have.dtype.kind in "biu" or have.dtype.itemsize == 1
            np.testing.assert_allclose(
                have.astype(np.float64),
                want.astype(np.float64),
                rtol=0 if exact else rtol,
                atol=0 if exact else 1e-6,
                err_msg=way.__name__,
            )
    return results


@pytest.mark.parametrize("n", [1, 7, 8, 9, 15, 16, 17, 31, 33])
@pytest.mark.parametrize("workers", [1, 3])
def test_elementwise_over_odd_extents(n: int, workers: int) -> None:
    source = source_of(nests.elementwise(ir.Param("n", n)))
    x = np.linspace(-2, 2, n, dtype=np.float32)
    for outputs in _assert_alike(source, [x], workers):
        np.testing.assert_array_equal(outputs[0], np.maximum(x, 0) * 2)


@pytest.mark.parametrize("columns", [1, 8, 13, 40])
def test_reduction_by_a_vector_loop(columns: int) -> None:
    source = source_of(nests.row_sums(5, columns))
    _assert_alike(source, random_inputs(source))


def test_register_tile() -> None:
    source = source_of(nests.gemm(4, 16, 7))
    _assert_alike(source, random_inputs(source))


@pytest.mark.parametrize("nest", [nests.pad(10, 3, 2), nests.lanes_of_two(13), nests.positive_prefix(9)])
def test_guards_conditions_and_while(nest: ir.LoopNest) -> None:
    source = source_of(nest)
    _assert_alike(source, random_inputs(source, seed=3))


@pytest.mark.parametrize("way", WAYS)
def test_an_error_has_a_code(way: object) -> None:
    source = source_of(nests.gather(4, 3, 2))
    table = np.zeros((4, 3), np.float32)
    buffers, extents = arguments(source, [table, np.array([1, -7])])
    assert way(source, buffers, extents) == 1  # type: ignore[operator]


def test_an_error_reports_the_value() -> None:
    source = source_of(nests.gather(4, 3, 2))
    buffers, extents = arguments(source, [np.zeros((4, 3), np.float32), np.array([1, -7])])
    assert as_python(source, buffers, extents) == 1
    assert extents[0] == -7


def test_an_index_before_the_buffer_is_an_error() -> None:
    source = source_of(nests.elementwise(8, shift=-1))
    buffers, extents = arguments(source, [np.zeros(8, np.float32)])
    with pytest.raises(IndexError, match="negative"):
        plain.load(source)(buffers, extents)


def _model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[int]]], outputs: list[str]) -> onnx.ModelProto:
    declared = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "graph", declared, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    return onnx.shape_inference.infer_shapes(model)


def _node(op: str, *inputs: str, makes: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [makes], **attrs)


def test_functions_fused_into_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Exp", "Tanh", "Sigmoid", "Erf", "Sin", "Softplus", "Abs", "Sqrt", "Log", "Gelu"]
    nodes = [_node(op, f"v{i}" if i else "x", makes=f"v{i + 1}") for i, op in enumerate(names)]
    model = _model([*nodes, _node("Add", f"v{len(names)}", "b", makes="y")], {"x": (1, [3, 5, 7]), "b": (1, [5, 1])}, ["y"])
    kernels = kernels_of(model, monkeypatch)
    assert len(kernels) == 1
    _assert_alike(kernels[0], random_inputs(kernels[0]), rtol=1e-4)


@pytest.mark.parametrize(
    "to", ["FLOAT16", "BFLOAT16", "DOUBLE", "FLOAT8E4M3FN", "FLOAT8E5M2", "INT8", "UINT8", "INT64", "BOOL", "INT4", "UINT4"]
)
def test_casts(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number = TensorProto.DataType.Value(to)
    model = _model([_node("Abs", "x", makes="a"), _node("Cast", "a", makes="y", to=number)], {"x": (1, [37])}, ["y"])
    for source in kernels_of(model, monkeypatch):
        _assert_alike(source, random_inputs(source))


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.UINT8, TensorProto.INT64])
def test_integer_arithmetic(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = ["Add", "Mul", "Sub", "Max", "Mod", "Div", *(["Pow"] if kind != TensorProto.UINT8 else [])]
    nodes = [_node(op, f"v{i}" if i else "x", "z", makes=f"v{i + 1}") for i, op in enumerate(ops)]
    nodes[-1].output[0] = "y"
    for source in kernels_of(_model(nodes, {"x": (kind, [2, 19]), "z": (kind, [19])}, ["y"]), monkeypatch):
        _assert_alike(source, random_inputs(source))


def test_comparisons_and_logic(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        _node("Less", "x", "z", makes="l"),
        _node("IsNaN", "x", makes="n"),
        _node("Or", "l", "n", makes="o"),
        _node("Not", "o", makes="m"),
        _node("Xor", "m", "l", makes="c"),
        _node("Where", "c", "x", "z", makes="y"),
    ]
    for source in kernels_of(_model(nodes, {"x": (1, [2, 19]), "z": (1, [19])}, ["y", "c"]), monkeypatch):
        x, *rest = random_inputs(source)
        x.flat[3] = np.nan
        _assert_alike(source, [x, *rest])


def test_matrix_product_with_what_is_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(
        [_node("MatMul", "a", "b", makes="p"), _node("Relu", "p", makes="y")], {"a": (1, [7, 5]), "b": (1, [5, 19])}, ["y"]
    )
    for source in kernels_of(model, monkeypatch):
        _assert_alike(source, random_inputs(source), rtol=1e-4)


def test_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in kernels_of(_model([_node("Softmax", "x", makes="y")], {"x": (1, [3, 21])}, ["y"]), monkeypatch):
        _assert_alike(source, random_inputs(source), workers=2)
