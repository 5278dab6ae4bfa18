"""Operators on quantized tensors that ONNX defines no function body for, in terms of simpler operators.

    QLinearConv(x, w)    =>  requantize(ConvInteger(x, w) + bias)
    QLinearMatMul(a, b)  =>  requantize(MatMulInteger(a, b))
    QGemm(a, b, c)       =>  requantize(MatMulInteger(a, b) + c)
    QLinearAdd(a, b)     =>  quantize(Add(dequantize(a), dequantize(b))), and the like

where requantize(p) = saturate(round(p * (x_scale * w_scale / y_scale)) + y_zero) is elementwise, and so part of the product's kernel.
All but the first two are of ONNX Runtime (domain com.microsoft), which writes them into models quantized without QuantizeLinear around
float operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    return _requantized(product, (x_scale, scale, y_scale), y_zero, dtype, node, types, body)


def qlinear_matmul(node: Node, types: Mapping[str, Type], body: Body) -> Node | None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    rank, dtype = _rank(a_scale, types), _dtype(y_zero, types)
    if rank is None or dtype is None:
        return None
    product = body.emit("MatMulInteger", (a, b, a_zero, b_zero))
    scale = _column(a_scale, body, 2) if rank == 1 else a_scale
    return _requantized(product, (scale, b_scale, y_scale), y_zero, dtype, node, types, body)


def qgemm(node: Node, types: Mapping[str, Type], body: Body) -> Node | None:
    """The scale of the bias is that of the product; without a scale of the result, that is of floats."""
    a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero = (node.input(i) for i in range(9))
    a, b = (body.emit("Transpose", (x,)) if node.attrs.get(t, 0) else x for x, t in ((a, "transA"), (b, "transB")))
    product = body.emit("MatMulInteger", (a, b, a_zero, b_zero))
    if bias:
        product = body.emit("Add", (product, bias))
    alpha = body.constant(node.attrs.get("alpha", 1.0), np.float32)
    scale = body.emit("Mul", (a_scale, alpha))
    if not y_scale:
        return Node("Mul", (_cast(product, dtypes.float32, body), body.emit("Mul", (scale, b_scale))), node.outputs)
    dtype = _dtype(y_zero, types)
    return None if dtype is None else _requantized(product, (scale, b_scale, y_scale), y_zero, dtype, node, types, body)


def elementwise(node: Node, types: Mapping[str, Type], body: Body) -> Node | None:
    """Operators whose inputs are tensors with their scales and zero points, then those of the result."""
    *operands, y_scale, y_zero = (*node.inputs, "") if len(node.inputs) % 3 == 1 else node.inputs
    return _on_floats(node, operands, y_scale, y_zero, body)


def concat(node: Node, types: Mapping[str, Type], body: Body) -> Node | None:
    y_scale, y_zero, *operands = node.inputs
    return _on_floats(node, operands, y_scale, y_zero, body)


def _on_floats(node: Node, operands: Sequence[str], y_scale: str, y_zero: str, body: Body) -> Node | None:
    op = node.op.removeprefix("QLinear")
    if node.attrs.get("channels_last", 0):
        return None
    attrs = {name: value for name, value in node.attrs.items() if name not in ("channels_last", "opset")}
    numbers = [body.emit("DequantizeLinear", tuple(n for n in operands[i : i + 3] if n)) for i in range(0, len(operands), 3)]
    result = body.emit(op, numbers, attrs)
    return Node("QuantizeLinear", (result, y_scale, *((y_zero,) if y_zero else ())), node.outputs)


_MICROSOFT = "com.microsoft"
_DECOMPOSITIONS: Mapping[tuple[str, str], Decomposition] = {
    ("", "QLinearConv"): qlinear_conv,
    ("", "QLinearMatMul"): qlinear_matmul,
    (_MICROSOFT, "QGemm"): qgemm,
    (_MICROSOFT, "QLinearConcat"): concat,
    **{
        (_MICROSOFT, f"QLinear{op}"): elementwise
        for op in ("Add", "Mul", "LeakyRelu", "Sigmoid", "AveragePool", "GlobalAveragePool", "Softmax")
    },
}


def decompose(node: Node, types: Mapping[str, Type], body: Body) -> bool:
    """Adds to ``body`` what ``node`` stands for; False where it is none of these operators, or a type is not known."""
    decomposition = _DECOMPOSITIONS.get((node.domain, node.op))
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


def _requantized(
    product: str,
    scales: tuple[str, str, str],
    zero: str,
    dtype: dtypes.DType,
    node: Node,
    types: Mapping[str, Type],
    body: Body,
) -> Node:
    left, right, result = scales
    factor = _cast(body.emit("Div", (body.emit("Mul", (left, right)), result)), dtypes.float32, body)
    scaled = body.emit("Mul", (_cast(product, dtypes.float32, body), factor))
    if _is_one(zero, types):
        return Node("QuantizeLinear", (scaled, body.constant(1.0, np.float32), zero), node.outputs)
    moved = body.emit("Add", (body.emit("Round", (scaled,)), _cast(zero, dtypes.float32, body)))
    limits = [body.constant(float(limit), np.float32) for limit in (np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max)]
    return Node("Cast", (body.emit("Clip", (moved, *limits)),), node.outputs, {"to": dtype.onnx})


def _is_one(name: str, types: Mapping[str, Type]) -> bool:
    """Whether a value is known to be one number."""
    found = types.get(name)
    return isinstance(found, TensorType) and found.shape in ((), (1,))
