"""Local response normalization (ONNX operator specification, opset 13; Krizhevsky et al. 2012)."""

from __future__ import annotations

from ...ir import loops as ir
from ...ir.graph import Type
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import nest


def _infer(context: InferContext) -> Type:
    if context.rank(0) < 3:
        raise context.fail(f"the input has shape {context.shape(0)}; at least one spatial axis is required")
    if context.attr("size", 0) < 1:
        raise context.fail(f"size is {context.attr('size')}; at least 1 channel is required")
    return context.tensor(0)


@nest("LRN", infer=_infer, epilogue=True)
def local_response_normalization(op: Op, b: Builder) -> None:
    """x / (bias + alpha / size * s) ** beta, s being the sum of squares over ``size`` neighbouring channels, fewer at the borders."""
    x, y = op.input(0), op.output(0)
    size = op.attr("size", 1)
    n, c, *spatial = x.shape
    with b.loops("i", [n, c], "parallel") as (i, channel):
        start = b.let("start", ir.maximum(channel - (size - 1) // 2, ir.ZERO))
        count = b.let("count", ir.minimum(channel + (size // 2 + 1), c) - start)
        with b.loops("s", spatial[:-1]) as outer, b.loop("w", spatial[-1], "vector") as w:
            place = (*outer, w)
            total = b.scalar("total", ir.Const(0.0, x.dtype))
            with b.loop("k", count) as k:
                value = b.let("value", x(i, start + k, *place))
                b.assign(total, total + value * value)
            base = b.let("base", total * (op.attr("alpha", 0.0001) / size) + op.attr("bias", 1.0))
            y.store((i, channel, *place), x(i, channel, *place) * _inverse_power(base, op.attr("beta", 0.75)))


def _inverse_power(base: ir.Expr, exponent: float) -> ir.Expr:
    """base ** -exponent for a positive base; by square roots where they do."""
    if exponent == 0.5:
        return ir.unary("rsqrt", base)
    if exponent == 0.75:
        root = ir.unary("rsqrt", base)
        return root * ir.unary("sqrt", root)
    if exponent == 1.0:
        return 1.0 / base
    return 1.0 / ir.Binary("pow", base, ir.Const(exponent, base.dtype))
