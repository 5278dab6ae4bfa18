"""Elementwise operators: arithmetic, comparison, logic, functions and activations (ONNX operator specification, opset 27)."""

from __future__ import annotations

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op
from .infer import InferContext, broadcast
from .registry import pointwise


def to_bool(context: InferContext) -> TensorType:
    return TensorType(dtypes.bool_, broadcast(context).shape)


for _name, _op in {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}.items():

    @pointwise(_name)
    def _arithmetic(op: Op, x: ir.Expr, y: ir.Expr, _op: str = _op) -> ir.Expr:
        return ir.Binary(_op, x, y)


for _name, _op in {"Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge"}.items():

    @pointwise(_name, infer=to_bool)
    def _comparison(op: Op, x: ir.Expr, y: ir.Expr, _op: str = _op) -> ir.Expr:
        return ir.Binary(_op, x, y)


@pointwise("Identity")
def identity(op: Op, x: ir.Expr) -> ir.Expr:
    return x


@pointwise("Relu")
def relu(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.select(x < 0, ir.wrap(0, x.dtype), x)


@pointwise("Sigmoid")
def sigmoid(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.unary("sigmoid", x)


@pointwise("Clip")
def clip(op: Op, x: ir.Expr, low: ir.Expr | None = None, high: ir.Expr | None = None) -> ir.Expr:
    if low is not None:
        x = ir.select(x < low, low, x)
    return x if high is None else ir.select(x > high, high, x)
