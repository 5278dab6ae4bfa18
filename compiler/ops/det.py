"""Det (ONNX operator specification, opset 22): determinants of the square matrices in the last two axes."""

from __future__ import annotations

from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import nest


def _infer(context: InferContext) -> TensorType:
    shape = context.shape(0)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise context.fail(f"the input has shape {shape}; the last two extents must be equal")
    return TensorType(context.dtype(0), shape[:-2])


@nest("Det", infer=_infer, prologue=True, epilogue=True)
def determinant(op: Op, b: Builder) -> None:
    """The product of the pivots of Gaussian elimination with row exchanges, in a copy of the matrix."""
    x = op.input(0)
    n = x.shape[-1]
    a = b.scratch("a", x.dtype, (n, n))
    with b.loops("i", x.shape[:-2], "parallel") as place:
        with b.loop("r", n) as r, b.loop("c", n, "vector") as c:
            b.store(a, (r, c), x(*place, r, c))
        result = b.scalar("result", ir.Const(1.0, x.dtype))
        with b.loop("p", n) as p:
            pivot, row = b.scalar("pivot", ir.Const(-1.0, x.dtype)), b.scalar("row", p)
            with b.loop("r", n - p) as r:
                size = b.let("size", ir.unary("abs", a(p + r, p)))
                with b.when(size > pivot):
                    b.assign(pivot, size)
                    b.assign(row, p + r)
            with b.when(row.ne(p)):
                b.assign(result, -result)
                with b.loop("c", n, "vector") as c:
                    upper, lower = b.let("upper", a(p, c)), b.let("lower", a(row, c))
                    b.store(a, (p, c), lower)
                    b.store(a, (row, c), upper)
            b.assign(result, result * a(p, p))
            with b.when(pivot > 0.0), b.loop("r", n - 1 - p) as r:
                below = p + 1 + r
                factor = b.let("factor", a(below, p) / a(p, p))
                with b.loop("c", n - 1 - p, "vector") as c:
                    b.store(a, (below, p + 1 + c), a(below, p + 1 + c) - factor * a(p, p + 1 + c))
        op.output(0).store(place, result)
