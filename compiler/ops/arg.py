"""ArgMax and ArgMin (ONNX operator specification, opset 13): int64 positions of the extrema along an axis.

Of equal elements the first counts, or the last with ``select_last_index``; a NaN is an extremum, as in NumPy.
"""

from __future__ import annotations

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op
from .infer import InferContext
from .lines import Index, lines
from .reduce import without_axes
from .registry import nest
from .softmax import first_where


def _axis(context: InferContext) -> int:
    return context.axis(context.attr("axis", 0), context.rank(0))


def _infer(context: InferContext) -> TensorType:
    axis = _axis(context)
    if not context.shape(0)[axis]:
        raise context.fail(f"axis {axis} of {context.node.inputs[0]!r} is empty: it has no extremum")
    keepdims = bool(context.attr("keepdims", 1))
    return TensorType(dtypes.int64, without_axes(context.shape(0), (axis,), keepdims=keepdims))


@nest("ArgMax", "ArgMin", infer=_infer, prologue=True, epilogue=True)
def arg_extremum(op: Op, b: Builder) -> None:
    """The extremum of each line, then the position where it stands."""
    x, y, axis = op.input(0), op.output(0), _axis(op)
    extremum = "max" if op.node.op == "ArgMax" else "min"
    with lines(b, x, (axis,)) as line:
        read, kept = line.reader(x)
        best = line.reduce("best", extremum, lambda k: x(*line.at(k)), keep=kept)

        def is_best(k: Index) -> ir.Expr:
            value = read(k)
            return value.eq(best) | ir.unary("isnan", value) if x.dtype.is_float else value.eq(best)

        position = first_where(line, is_best, last=bool(op.attr("select_last_index", 0)))
        index = line.at((ir.ZERO,))
        y.store(index if y.rank == x.rank else tuple(i for a, i in enumerate(index) if a != axis), position)
