"""Comparisons, logic on bool, and operations on the bits of integers (ONNX operator specification)."""

from __future__ import annotations

from functools import partial

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op
from .infer import InferContext, broadcast
from .registry import pointwise


def to_bool(context: InferContext) -> TensorType:
    """The broadcast shape of the inputs, as bool."""
    return TensorType(dtypes.bool_, broadcast(context).shape)


def _binary(function: str, op: Op, x: ir.Expr, y: ir.Expr) -> ir.Expr:
    return ir.Binary(function, x, y)


_TO_BOOL = {
    "Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge", "And": "and", "Or": "or", "Xor": "xor",
}  # fmt: skip
for _name, _function in _TO_BOOL.items():
    pointwise(_name, infer=to_bool)(partial(_binary, _function))
for _name, _function in {"BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor"}.items():
    pointwise(_name)(partial(_binary, _function))


@pointwise("Not", "BitwiseNot")
def not_(op: Op, x: ir.Expr) -> ir.Expr:
    return ~x


@pointwise("BitShift")
def bit_shift(op: Op, x: ir.Expr, y: ir.Expr) -> ir.Expr:
    return ir.Binary("shl" if op.attr("direction") == "LEFT" else "shr", x, y)


@pointwise("IsNaN", infer=to_bool)
def is_nan(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.unary("isnan", x)


@pointwise("IsInf", infer=to_bool)
def is_inf(op: Op, x: ir.Expr) -> ir.Expr:
    """Of the signs that ``detect_positive`` and ``detect_negative`` leave."""
    negative, positive = op.attr("detect_negative", 1), op.attr("detect_positive", 1)
    if negative and positive:
        return ir.unary("isinf", x)
    if not negative and not positive:
        return ir.FALSE
    return x.eq(float("inf") if positive else float("-inf"))
