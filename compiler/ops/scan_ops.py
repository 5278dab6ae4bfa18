"""CumSum and CumProd (ONNX operator specification, opset 14 and 26): running totals along an axis, which input 1 names.

Along the axis that memory follows, one line after the other. Along any other, rows of lines together, in the order of memory, with their
totals in the first-level cache:

    for outer, block in parallel: for k: for j in vector: totals[j] += x[outer, k, j]; y[outer, k, j] = totals[j]
"""

from __future__ import annotations

from math import prod

from ...ir import loops as ir
from ...ir.graph import Type
from .builder import Builder, neutral
from .context import Op
from .infer import InferContext
from .lines import lines
from .registry import nest

TOTALS = 2048
"""Elements of a row that are done together."""


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
    inner = [axis for axis in range(_axis(op) + 1, x.rank) if x.sizes[axis] != 1]
    if inner:
        _by_rows(op, b, kind, inner)
        return
    with lines(b, x, (_axis(op),)) as line:
        total = b.scalar("total", neutral(kind, x.dtype))
        with line.each(ordered=True) as (step,):
            k = line.length - 1 - step if op.attr("reverse", 0) else step
            value = b.let("value", ir.Binary(kind, total, x(*line.at((k,)))))
            y.store(line.at((k,)), total if op.attr("exclusive", 0) else value)
            b.assign(total, value)


def _by_rows(op: Op, b: Builder, kind: str, inner: list[int]) -> None:
    """Totals of the lines that lie side by side along the axes ``inner``, as many of them as fit, step by step."""
    x, y, axis = op.input(0), op.output(0), _axis(op)
    outer = [i for i in range(axis) if x.sizes[i] != 1]
    while len(inner) > 1 and prod(x.sizes[i] for i in inner[1:]) > TOTALS:
        outer, inner = [*outer, inner[0]], inner[1:]
    first, rest = inner[0], tuple(x.shape[i] for i in inner[1:])
    together = max(1, TOTALS // max(1, prod(x.sizes[i] for i in inner[1:])))
    totals = b.scratch("totals", x.dtype, (together, *rest))
    blocks = (x.shape[first] + (together - 1)) // together
    with b.loops("i", [*(x.shape[i] for i in outer), blocks], "parallel") as (*fixed, block):
        start = block * together
        extents = (ir.minimum(ir.Const(together), x.shape[first] - start), *rest)
        with b.vector_loops("j", extents) as cell:
            b.store(totals, cell, neutral(kind, x.dtype))
        with b.loop("k", x.shape[axis]) as step, b.vector_loops("j", extents) as cell:
            k = x.shape[axis] - 1 - step if op.attr("reverse", 0) else step
            place = (
                dict(zip(outer, fixed, strict=True))
                | {axis: k, first: start + cell[0]}
                | dict(zip(inner[1:], cell[1:], strict=True))
            )
            index = [place.get(i, ir.ZERO) for i in range(x.rank)]
            before = b.let("before", ir.Load(totals, cell))
            value = b.let("value", ir.Binary(kind, before, x(*index)))
            y.store(index, before if op.attr("exclusive", 0) else value)
            b.store(totals, cell, value)
