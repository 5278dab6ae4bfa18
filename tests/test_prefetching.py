"""Which kernels ask for the weights that they read next."""

from __future__ import annotations

import numpy as np
import onnx.helper as oh
import pytest

import loopnest
from loopnest.ir import loops as ir
from tests.graphs import make_model, onnxruntime, tensor, values
from tests.kernels import kernels_of


@pytest.mark.parametrize(
    "op, x, w",
    [
        ("MatMul", (16, 512), (512, 512)),
        ("MatMul", (512, 512), (512, 96)),
        ("MatMul", (1, 4, 256, 64), (64, 512)),
        ("Conv", (1, 512, 28, 28), (96, 512, 1, 1)),
    ],
)
def test_the_next_part_of_the_weights(op: str, x: tuple[int, ...], w: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model([oh.make_node(op, ["x", "w"], ["y"])], {"x": x}, ["y"], {"w": values(*w)})
    statements = [stmt for kernel in kernels_of(model, monkeypatch) for stmt in ir.statements(kernel.nest.body)]
    weights = {stmt.buffer.name[0] for stmt in statements if isinstance(stmt, ir.Prefetch)}
    assert "w" in weights


def test_a_loop_cut_in_steps_jumps_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next part of the weights is asked for step by step; the channels of a plain image, 96 elements apart, follow each other as before
    (all 72 of a step were asked for at once, which took a sixth of the time)."""
    model = make_model([oh.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 144, 8, 12)}, ["y"], {"w": values(128, 144, 1, 1)})
    statements = [stmt for kernel in kernels_of(model, monkeypatch) for stmt in ir.statements(kernel.nest.body)]
    loops = {stmt.var.name for stmt in statements if isinstance(stmt, ir.For)}
    assert {"ci_o", "ci_i"} <= loops
    assert {stmt.buffer.name[0] for stmt in statements if isinstance(stmt, ir.Prefetch)} == {"w"}


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_weights_that_are_read_once_come_in_streams(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model([oh.make_node("MatMul", ["x", "w"], ["y"])], {"x": (rows, 96)}, ["y"], {"w": values(96, 768)})
    (nest,) = [kernel.nest for kernel in kernels_of(model, monkeypatch)]
    weights = next(buffer for buffer in nest.buffers if buffer.name[0] == "w")
    blocks, streams, summed, lanes = (ir.hint(extent) for extent in weights.shape)
    assert (blocks * streams * lanes, summed) == (768 - 768 % (streams * lanes), 96)
    assert streams > 1


@pytest.mark.parametrize("rows, dtype", [*((n, np.float32) for n in (1, 2, 3, 5, 8)), (1, np.float16), (2, np.float64)])
@pytest.mark.parametrize("summed, columns", [(7, 65), (257, 33), (512, 31), (300, 104), (1023, 256)])
def test_few_rows(rows: int, summed: int, columns: int, dtype: type[np.floating]) -> None:
    x, w, bias = (
        values(rows, summed).astype(dtype),
        values(summed, columns, seed=1).astype(dtype),
        values(columns).astype(dtype),
    )
    nodes = [oh.make_node("MatMul", ["x", "w"], ["p"]), oh.make_node("Add", ["p", "b"], ["y"])]
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = make_model(nodes, {"x": tensor("x", x.shape, kind)}, ["y"], {"w": w, "b": bias})
    expected = x.astype(np.float64) @ w.astype(np.float64) + bias
    np.testing.assert_allclose(loopnest.compile(model)(x), expected, rtol=0, atol=4 * np.finfo(dtype).eps * summed)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "LayerNormalization"])
@pytest.mark.parametrize(
    "shape, ahead", [((5, 103, 513), True), ((37, 8193), True), ((9, 17, 31), False), ((1, 1, 1 << 18), False)]
)
def test_the_next_line(op: str, shape: tuple[int, ...], ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = {"scale": values(shape[-1])} if op == "LayerNormalization" else {}
    model = make_model([oh.make_node(op, ["x", *scale], ["y"], axis=-1)], {"x": shape}, ["y"], scale, opset=18)
    statements = [stmt for kernel in kernels_of(model, monkeypatch) for stmt in ir.statements(kernel.nest.body)]
    assert any(isinstance(stmt, ir.Prefetch) for stmt in statements) == ahead
    feeds = {"x": values(*shape)}
    for threads in (1, 2):
        np.testing.assert_allclose(
            loopnest.compile(model, threads=threads)(**feeds), onnxruntime(model, feeds)[0], rtol=2e-5, atol=2e-6
        )
