"""Products of 16-bit floats are products of float32 between conversions, where weights are used more than once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx.helper as oh
import pytest

import loopnest
from loopnest.compiler.passes import rules_pass, run_passes, widening
from tests.graphs import load_any, make_model, onnxruntime, tensor, values

NARROW = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
CASES: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "conv": (oh.make_node("Conv", ["a", "w", "b"], ["y"], pads=[1] * 4, group=2), [(1, 8, 9, 7), (12, 4, 3, 3), (12,)]),
    "conv of vectors": (oh.make_node("Conv", ["a", "w"], ["y"], strides=[2]), [(3, 5, 17), (16, 5, 2)]),
    "transposed": (oh.make_node("ConvTranspose", ["a", "w"], ["y"], strides=[2, 2]), [(1, 4, 5, 6), (4, 9, 3, 3)]),
    "matmul": (oh.make_node("MatMul", ["a", "w"], ["y"]), [(2, 5, 33), (33, 17)]),
    "matmul, one row of many": (oh.make_node("MatMul", ["a", "w"], ["y"]), [(3, 1, 31), (31, 8)]),
    "gemm": (oh.make_node("Gemm", ["a", "w", "b"], ["y"], transB=1, alpha=0.5), [(7, 15), (16, 15), (16,)]),
}


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("case", CASES)
def test_rounded_once(case: str, dtype: str) -> None:
    """What ONNX Runtime computes in float32 is met but for the last bit."""
    node, shapes = CASES[case]
    kind = NARROW[dtype]
    arrays = [values(*shape, seed=i).astype(kind) for i, shape in enumerate(shapes)]
    names = list(node.input)
    model = make_model(
        [node],
        {names[0]: tensor(names[0], shapes[0], oh.np_dtype_to_tensor_dtype(np.dtype(kind)))},
        ["y"],
        dict(zip(names[1:], arrays[1:], strict=True)),
    )
    graph = run_passes(load_any(model), [rules_pass("widen", widening.widen_products)], check=True)
    assert [n.op for n in graph.nodes] == ["Cast"] * len(names) + [node.op_type, "Cast"]
    wide = make_model(
        [node],
        {names[0]: tensor(names[0], shapes[0], oh.np_dtype_to_tensor_dtype(np.dtype(np.float32)))},
        ["y"],
        {name: array.astype(np.float32) for name, array in zip(names[1:], arrays[1:], strict=True)},
    )
    (got,) = loopnest.compile(model).run(None, {names[0]: arrays[0]})
    (expected,) = onnxruntime(wide, {names[0]: arrays[0].astype(np.float32)})
    assert got.dtype == kind
    np.testing.assert_allclose(got.astype(np.float32), expected, rtol=1.01 * float(ml_dtypes.finfo(kind).eps), atol=1e-4)


@pytest.mark.parametrize(
    ("node", "shapes", "widened"),
    [
        (oh.make_node("MatMul", ["a", "w"], ["y"]), [(1, 31), (31, 8)], False),
        (oh.make_node("MatMul", ["a", "w"], ["y"]), [(4, 1, 31), (4, 31, 8)], False),
        (oh.make_node("MatMul", ["a", "w"], ["y"]), [(4, 2, 31), (4, 31, 8)], True),
        (oh.make_node("MatMul", ["a", "w"], ["y"]), [(31,), (31,)], False),
        (oh.make_node("Gemm", ["a", "w"], ["y"]), [(1, 31), (31, 8)], False),
        (oh.make_node("Conv", ["a", "w"], ["y"]), [(1, 3, 3, 3), (8, 3, 3, 3)], False),
        (oh.make_node("Conv", ["a", "w"], ["y"]), [(2, 3, 3, 3), (8, 3, 3, 3)], True),
    ],
)
def test_weights_that_are_read_once_stay_narrow(node: Any, shapes: list[tuple[int, ...]], widened: bool) -> None:
    inputs = {
        name: tensor(name, shape, oh.np_dtype_to_tensor_dtype(np.dtype(np.float16)))
        for name, shape in zip("aw", shapes, strict=True)
    }
    graph = run_passes(load_any(make_model([node], inputs, ["y"])), [rules_pass("widen", widening.widen_products)], check=True)
    assert any(n.op == "Cast" for n in graph.nodes) == widened
