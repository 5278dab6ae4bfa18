"""One step of an optimizer: Adagrad, Adam, Momentum (ONNX operator specification, ai.onnx.preview.training 1).

Inputs: learning rate R, step T, then the optimized tensors, their gradients and their states, each kind in the order of the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir import loops as ir
from ...ir.graph import TensorType
from ..schedule.strided import strided_loops
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import nest

DOMAIN = "ai.onnx.preview.training"
Update = Callable[[Op, Sequence[ir.Expr]], Sequence[ir.Expr]]
"""From R, T, a tensor's element, its gradient and its states, the new element and the new states."""


def _define(name: str, states: int, update: Update) -> None:
    """``states`` tensors accompany each tensor."""
    kinds = 2 + states

    def infer(context: InferContext) -> list[TensorType]:
        count, rest = divmod(context.n_inputs - 2, kinds)
        if rest or count < 1:
            raise context.fail(f"{context.n_inputs} inputs are not R, T and {kinds} for each tensor")
        for i in range(2, context.n_inputs):
            if context.shape(i) != context.shape(2 + (i - 2) % count):
                raise context.fail(f"input {i} has shape {context.shape(i)}, its tensor {context.shape(2 + (i - 2) % count)}")
        return [context.tensor(2 + kind * count + i) for kind in (0, *range(2, kinds)) for i in range(count)]

    @nest(name, domain=DOMAIN, infer=infer)
    def define(op: Op, b: Builder) -> None:
        count = (op.n_inputs - 2) // kinds
        for i in range(count):
            operands = [op.input(2 + kind * count + i) for kind in range(kinds)]

            def emit(index: Sequence[ir.Expr], i: int = i, operands: Sequence = tuple(operands)) -> None:
                rates = [ir.cast(op.input(k)(*[ir.ZERO] * op.input(k).rank), operands[0].dtype) for k in (0, 1)]
                values = update(op, [*rates, *(operand(*index) for operand in operands)])
                for place, value in enumerate(values):
                    if op.wants(place * count + i):
                        op.output(place * count + i).store(index, value)

            strided_loops(b, operands[0].shape, emit)


def _regularized(op: Op, x: ir.Expr, gradient: ir.Expr) -> ir.Expr:
    return x * op.attr("norm_coefficient", 0.0) + gradient


def _adagrad(op: Op, values: Sequence[ir.Expr]) -> Sequence[ir.Expr]:
    rate, step, x, gradient, squares = values
    g = _regularized(op, x, gradient)
    squares = squares + g * g
    rate = rate / (step * op.attr("decay_factor", 0.0) + 1)
    return x - rate * g / (ir.unary("sqrt", squares) + op.attr("epsilon", 1e-6)), squares


def _adam(op: Op, values: Sequence[ir.Expr]) -> Sequence[ir.Expr]:
    rate, step, x, gradient, mean, squares = values
    alpha, beta = op.attr("alpha", 0.9), op.attr("beta", 0.999)
    g = _regularized(op, x, gradient)
    mean = mean * alpha + g * (1 - alpha)
    squares = squares * beta + g * g * (1 - beta)
    one = ir.wrap(1, x.dtype)
    first, second = (one - ir.Binary("pow", ir.wrap(decay, x.dtype), step) for decay in (alpha, beta))
    corrected = ir.select(step > 0, rate * ir.unary("sqrt", second) / first, rate)
    new = x - corrected * (mean / (ir.unary("sqrt", squares) + op.attr("epsilon", 1e-6)))
    return new * (1 - op.attr("norm_coefficient_post", 0.0)), mean, squares


def _momentum(op: Op, values: Sequence[ir.Expr]) -> Sequence[ir.Expr]:
    rate, step, x, gradient, velocity = values
    alpha: float = op.attr("alpha", 0.0)
    g = _regularized(op, x, gradient)
    beta = ir.select(step > 0, ir.wrap(op.attr("beta", 0.0), x.dtype), 1)
    velocity = velocity * alpha + beta * g
    return x - rate * (velocity if op.attr("mode") == "standard" else g + velocity * alpha), velocity


_define("Adagrad", 1, _adagrad)
_define("Adam", 2, _adam)
_define("Momentum", 1, _momentum)
