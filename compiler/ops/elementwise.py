"""Elementwise arithmetic (ONNX operator specification): two operands or more, broadcast against each other."""

from __future__ import annotations

from functools import partial, reduce

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op
from .infer import InferContext, broadcast, broadcast_shapes
from .registry import pointwise


@pointwise("Identity")
def identity(op: Op, x: ir.Expr) -> ir.Expr:
    return x


def _binary(function: str, op: Op, x: ir.Expr, y: ir.Expr) -> ir.Expr:
    return ir.Binary(function, x, y)


for _name, _function in {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}.items():
    pointwise(_name)(partial(_binary, _function))


def _variadic(function: str, op: Op, *values: ir.Expr) -> ir.Expr:
    return reduce(partial(ir.Binary, function), values)


for _name, _function in {"Sum": "add", "Max": "max", "Min": "min"}.items():
    pointwise(_name)(partial(_variadic, _function))


@pointwise("Mean")
def mean(op: Op, *values: ir.Expr) -> ir.Expr:
    return _variadic("add", op, *values) * ir.wrap(1.0 / len(values), values[0].dtype)


@pointwise("Mod")
def mod(op: Op, x: ir.Expr, y: ir.Expr) -> ir.Expr:
    """With ``fmod`` the remainder has the sign of the dividend, otherwise that of the divisor."""
    rest = ir.Binary("rem", x, y)
    if op.attr("fmod", 0) or x.dtype.kind == "uint":
        return rest
    differs = ir.Binary("ne", rest < 0, y < 0) & rest.ne(0)
    return ir.select(differs, rest + y, rest)


@pointwise("Pow")
def pow_(op: Op, x: ir.Expr, y: ir.Expr) -> ir.Expr:
    """The base's dtype is the result's. A whole number that is known becomes multiplications, 0.5 a square root."""
    dtype = x.dtype
    if isinstance(y, ir.Const) and not isinstance(y.value, complex):
        known = _known_power(x, float(y.value))
        if known is not None:
            return known
    if dtype.is_float:
        return ir.Binary("pow", x, ir.cast(y, dtype))
    if y.dtype.is_float:
        power = ir.Binary("pow", ir.cast(x, dtypes.float64), ir.cast(y, dtypes.float64))
        return ir.cast(power, dtype)
    if y.dtype.bits <= dtype.bits:
        return ir.Binary("pow", x, ir.cast(y, dtype))
    return ir.cast(ir.Binary("pow", ir.cast(x, y.dtype), y), dtype)


def _known_power(x: ir.Expr, exponent: float) -> ir.Expr | None:
    """x ** exponent without ``pow``; None where that would be long or inexact."""
    if exponent == 0.5 and x.dtype.is_float:
        infinite = x.eq(float("-inf"))
        return ir.select(
            infinite, ir.wrap(float("inf"), x.dtype), ir.unary("sqrt", x + 0.0)
        )  # -inf ** 0.5 is inf, -0 ** 0.5 is 0
    if exponent == -1 and x.dtype.is_float:
        return ir.unary("reciprocal", x)
    if not exponent.is_integer() or not 0 <= exponent <= (4 if x.dtype.is_float else 64):
        return None
    if exponent == 0:
        return ir.wrap(1, x.dtype)
    left, square, result = int(exponent), x, None
    while left:
        if left & 1:
            result = square if result is None else result * square
        square, left = square * square, left >> 1
    return result


def _infer_where(context: InferContext) -> TensorType:
    shapes = [context.shape(i) for i in range(3)]
    return TensorType(context.dtype(1), broadcast_shapes(context, *shapes))


@pointwise("Where", infer=_infer_where)
def where(op: Op, condition: ir.Expr, x: ir.Expr, y: ir.Expr) -> ir.Expr:
    return ir.select(condition, x, y)


@pointwise("Clip")
def clip(op: Op, x: ir.Expr, low: ir.Expr | None = None, high: ir.Expr | None = None) -> ir.Expr:
    if low is not None:
        x = ir.select(x < low, low, x)
    return x if high is None else ir.select(x > high, high, x)


def infer_into_first(context: InferContext) -> TensorType:
    """Unidirectional broadcasting: the other inputs fit into the shape of the first."""
    found = broadcast(context)
    if found.shape != context.shape(0):
        shapes = " and ".join(str(context.shape(i)) for i in range(1, context.n_inputs))
        raise context.fail(f"{shapes} must broadcast into the first input's shape {context.shape(0)}")
    return found


@pointwise("PRelu", infer=infer_into_first)
def prelu(op: Op, x: ir.Expr, slope: ir.Expr) -> ir.Expr:
    return ir.select(x < 0, x * slope, x)
