"""Which kernels ask for the weights that they read next."""

from __future__ import annotations

import onnx.helper as oh
import pytest

from loopnest.ir import loops as ir
from tests.graphs import make_model, values
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
