"""CumSum and CumProd (ONNX operator specification, opset 14 and 26): running totals along an axis, which input 1 names."""

from __future__ import annotations

from ...ir import loops as ir
from ...ir.graph import Type
from .builder import Builder, neutral
from .context import Op
from .infer import InferContext
from .lines import lines
from .registry import nest


def _axis(context: InferContext) -> int:
    axis = context.ints(1)
    if axis is None or len(axis) != 1:
        raise context.fail(f"input 1 is {axis}; one axis is required")
    return context.axis(axis[0], context.rank(0))


def _infer(context: InferContext) -> Type:
    _axis(context)
    return context.tensor(0)


@nest("CumSum", "CumProd", infer=_infer, values=(1,), prologue=True, epilogue=True)
def cumulative(op: Op, b: Builder) -> None:
    """Each element is the sum or product of those up to it; without itself where ``exclusive``, from the end where ``reverse``."""
    x, y = op.input(0), op.output(0)
    kind = "add" if op.node.op == "CumSum" else "mul"
    with lines(b, x, (_axis(op),)) as line:
        total = b.scalar("total", neutral(kind, x.dtype))
        with line.each(ordered=True) as (step,):
            k = line.length - 1 - step if op.attr("reverse", 0) else step
            value = b.let("value", ir.Binary(kind, total, x(*line.at((k,)))))
            y.store(line.at((k,)), total if op.attr("exclusive", 0) else value)
            b.assign(total, value)
