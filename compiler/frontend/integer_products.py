"""Products of quantized integers that ONNX defines no function body for, in terms of simpler operators.

    QLinearConv(x, w)    =>  requantize(ConvInteger(x, w) + bias)
    QLinearMatMul(a, b)  =>  requantize(MatMulInteger(a, b))

where requantize(p) = saturate(round(p * (x_scale * w_scale / y_scale)) + y_zero) is elementwise, and so part of the product's kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...ir import dtypes
from ...ir.graph import Node, TensorType, Type
from .body import Body

Decomposition = Callable[[Node, Mapping[str, Type], Body], "Node | None"]
"""Adds nodes to the body and returns the last one, which makes the node's output; None where a type is not known."""


def qlinear_conv(node: Node, types: Mapping[str, Type], body: Body) -> Node | None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (node.input(i) for i in range(9))
    rank, dtype = _rank(w, types), _dtype(y_zero, types)
    if rank is None or dtype is None:
        return None
    product = body.emit("ConvInteger", (x, w, x_zero, w_zero), node.attrs)
    if bias:
        product = body.emit("Add", (product, _column(bias, body, rank - 1)))
    scale = _column(w_scale, body, rank - 1)
    return _requantized(product, (x_scale, scale, y_scale), y_zero, dtype, node, body)


def qlinear_matmul(node: Node, types: Mapping[str, Type], body: Body) -> Node | None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    rank, dtype = _rank(a_scale, types), _dtype(y_zero, types)
    if rank is None or dtype is None:
        return None
    product = body.emit("MatMulInteger", (a, b, a_zero, b_zero))
    scale = _column(a_scale, body, 2) if rank == 1 else a_scale
    return _requantized(product, (scale, b_scale, y_scale), y_zero, dtype, node, body)


_DECOMPOSITIONS: Mapping[str, Decomposition] = {
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
}


def decompose(node: Node, types: Mapping[str, Type], body: Body) -> bool:
    """Adds to ``body`` what ``node`` stands for; False where it is none of these operators, or a type is not known."""
    decomposition = _DECOMPOSITIONS.get(node.op) if not node.domain else None
    last = decomposition(node, types, body) if decomposition else None
    if last is not None:
        body.nodes.append(last)
    return last is not None


def _rank(name: str, types: Mapping[str, Type]) -> int | None:
    found = types.get(name)
    return len(found.shape) if isinstance(found, TensorType) and found.shape is not None else None


def _dtype(name: str, types: Mapping[str, Type]) -> dtypes.DType | None:
    found = types.get(name)
    return found.dtype if isinstance(found, TensorType) else None


def _cast(name: str, dtype: dtypes.DType, body: Body) -> str:
    return body.emit("Cast", (name,), {"to": dtype.onnx})


def _column(name: str, body: Body, rank: int) -> str:
    """One number, or one per channel, as a tensor of ``rank`` axes that varies along the first."""
    return body.emit("Reshape", (name, body.constant([-1] + [1] * (rank - 1))))


def _requantized(product: str, scales: tuple[str, str, str], zero: str, dtype: dtypes.DType, node: Node, body: Body) -> Node:
    left, right, result = scales
    factor = _cast(body.emit("Div", (body.emit("Mul", (left, right)), result)), dtypes.float32, body)
    rounded = body.emit("Round", (body.emit("Mul", (_cast(product, dtypes.float32, body), factor)),))
    moved = body.emit("Add", (rounded, _cast(zero, dtypes.float32, body)))
    limits = [body.constant(float(limit), np.float32) for limit in (np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max)]
    return Node("Cast", (body.emit("Clip", (moved, *limits)),), node.outputs, {"to": dtype.onnx})
