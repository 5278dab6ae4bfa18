"""Functions of one element, and activations (ONNX operator specification). NaN goes through every one of them."""

from __future__ import annotations

from functools import partial

from ...ir import dtypes
from ...ir import loops as ir
from .context import Op
from .registry import pointwise

_FUNCTIONS = {
    **{
        name: name.lower()
        for name in ("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp")
    },
    **{name: name.lower() for name in ("Floor", "Log", "Mish", "Neg", "Reciprocal", "Round", "Sigmoid", "Sign", "Sin", "Sinh")},
    **{name: name.lower() for name in ("Softplus", "Sqrt", "Tan", "Tanh")},
}


def _unary(function: str, op: Op, x: ir.Expr) -> ir.Expr:
    return ir.unary(function, x)


for _name, _function in _FUNCTIONS.items():
    pointwise(_name)(partial(_unary, _function))


def _like(x: ir.Expr, value: float) -> ir.Expr:
    return ir.wrap(value, x.dtype)


@pointwise("Relu")
def relu(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.select(x < 0, _like(x, 0), x)


@pointwise("LeakyRelu")
def leaky_relu(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.select(x < 0, x * op.attr("alpha", 0.01), x)


@pointwise("ThresholdedRelu")
def thresholded_relu(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.select(x <= op.attr("alpha", 1.0), _like(x, 0), x)


@pointwise("Elu")
def elu(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.select(x < 0, ir.unary("expm1", x) * op.attr("alpha", 1.0), x)


@pointwise("Selu")
def selu(op: Op, x: ir.Expr) -> ir.Expr:
    """gamma * (x, or alpha * (e^x - 1) below 0); the defaults are those of arXiv:1706.02515, eq. 14."""
    below = ir.unary("expm1", x) * op.attr("alpha", 1.67326319217681884765625)
    return ir.select(x < 0, below, x) * op.attr("gamma", 1.05070102214813232421875)


@pointwise("Celu")
def celu(op: Op, x: ir.Expr) -> ir.Expr:
    """max(0, x) + min(0, alpha * (e^(x / alpha) - 1))"""
    alpha = op.attr("alpha", 1.0)
    zero = _like(x, 0)
    below = ir.unary("expm1", x / alpha) * alpha
    return ir.maximum(zero, x) + ir.minimum(zero, below)


def _hard_sigmoid(x: ir.Expr, alpha: float, beta: float) -> ir.Expr:
    line = x * alpha + beta
    return _unit(line)


def _unit(x: ir.Expr) -> ir.Expr:
    """``x`` cut to [0, 1]."""
    positive = ir.select(x < 0, _like(x, 0), x)
    return ir.select(positive > 1, _like(x, 1), positive)


@pointwise("HardSigmoid")
def hard_sigmoid(op: Op, x: ir.Expr) -> ir.Expr:
    return _hard_sigmoid(x, op.attr("alpha", 0.2), op.attr("beta", 0.5))


@pointwise("HardSwish")
def hard_swish(op: Op, x: ir.Expr) -> ir.Expr:
    return x * _hard_sigmoid(x, 1 / 6, 0.5)


@pointwise("Softsign")
def softsign(op: Op, x: ir.Expr) -> ir.Expr:
    return x / (ir.unary("abs", x) + 1.0)


@pointwise("Gelu")
def gelu(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.unary("gelu_tanh" if op.attr("approximate", "none") == "tanh" else "gelu", x)


@pointwise("Swish")
def swish(op: Op, x: ir.Expr) -> ir.Expr:
    """x * sigmoid(alpha * x)"""
    alpha = op.attr("alpha", 1.0)
    return ir.unary("silu", x) if alpha == 1.0 else x * ir.unary("sigmoid", x * alpha)


@pointwise("Shrink")
def shrink(op: Op, x: ir.Expr) -> ir.Expr:
    """x + bias below -lambd, x - bias above lambd, 0 between; integers are compared and moved as floats."""
    dtype = x.dtype
    if not dtype.is_float:
        x = ir.cast(x, dtypes.float64 if dtype.bits > 16 else dtypes.float32)
    bias, limit = op.attr("bias", 0.0), op.attr("lambd", 0.5)
    inside = ir.select(x > limit, x - bias, x * 0.0)  # times zero: NaN stays
    return ir.cast(ir.select(x < -limit, x + bias, inside), dtype)
