"""BatchNormalization (ONNX operator specification, opset 15), for inference and for training.

Constant statistics are folded into weights long before; what arrives here has statistics that are computed, or trains.
"""

from __future__ import annotations

from ...ir import loops as ir
from ...ir.graph import Type
from .builder import Builder
from .context import Op
from .infer import InferContext
from .lines import lines
from .registry import nest


def _infer(context: InferContext) -> list[Type]:
    shape = context.shape(0)
    channels = shape[1:2] or (1,)
    for i in range(1, 5):
        if context.shape(i) != channels:
            raise context.fail(
                f"input {i} has shape {context.shape(i)}, one number for each of {channels[0]} channels is required"
            )
    return [context.tensor(0), context.tensor(3), context.tensor(4)]


@nest("BatchNormalization", infer=_infer, epilogue=True)
def batch_normalization(op: Op, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias by channel (axis 1), with the statistics given, or in training those of ``x``;
    outputs 1 and 2 are then the running statistics, of which the new ones are the share 1 - momentum."""
    x, y = op.input(0), op.output(0)
    training = bool(op.attr("training_mode", 0))
    axes = [axis for axis in range(x.rank) if axis != 1] if training else range(2, x.rank)
    with lines(b, x, axes) as line:
        first = line.at([0] * len(line.axes))
        channel = first[1] if x.rank > 1 else ir.ZERO
        weight, bias, mean, variance = (b.let(f"p{i}", ir.cast(op.input(i)(channel), x.dtype)) for i in range(1, 5))
        if training:
            count = ir.cast(line.length, x.dtype)
            old_mean, old_variance = mean, variance
            mean = b.let("mean", line.reduce("sum", "add", lambda k: x(*line.at(k))) / count)

            def square(k: tuple[ir.Expr, ...]) -> ir.Expr:
                difference = b.let("difference", x(*line.at(k)) - mean)
                return difference * difference

            variance = b.let("variance", line.reduce("squares", "add", square) / count)
            momentum = op.attr("momentum", 0.9)
            for i, old, new in ((1, old_mean, mean), (2, old_variance, variance)):
                if op.wants(i):
                    running = op.output(i)
                    running.store((channel,), ir.cast(old * momentum + new * (1.0 - momentum), running.dtype))
        factor = b.let("factor", ir.unary("rsqrt", variance + op.attr("epsilon", 1e-5)) * weight)
        with line.each() as k:
            y.store(line.at(k), (x(*line.at(k)) - mean) * factor + bias)
