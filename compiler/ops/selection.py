"""Elements selected by data, so that only data gives how many there are: NonZero, Compress.

Their kernels write to memory for the largest count, and the count as one more output; the host cuts the rest off (see ``OpDef.trims``).
"""

from __future__ import annotations

from math import prod

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType, Type
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import nest

COUNT = TensorType(dtypes.int64, ())


def infer_non_zero(context: InferContext) -> list[Type]:
    shape = context.shape(0)
    return [TensorType(dtypes.int64, (len(shape), prod(shape))), COUNT]


@nest("NonZero", infer=infer_non_zero, trims=lambda context: (1,))
def non_zero(op: Op, b: Builder) -> None:
    """y[:, k] = the index of the k-th element that is not zero, in row-major order"""
    x, y, total = op.input(0), op.output(0), op.output(1)
    count = b.scalar("count", ir.ZERO)
    with b.loops("i", x.shape) as place:
        value = x(*place)
        with b.when(ir.cast(value, dtypes.bool_)):
            for axis, i in enumerate(place):
                y.store((axis, count), i)
            b.assign(count, count + 1)
    total.store((), count)


def compressed_axis(context: InferContext) -> int | None:
    """The axis that is selected from; None for the elements of the flattened input."""
    axis = context.attr("axis")
    return None if axis is None else context.axis(axis, context.rank(0))


def infer_compress(context: InferContext) -> list[Type]:
    shape, condition, axis = context.shape(0), context.shape(1), compressed_axis(context)
    extent = prod(shape) if axis is None else shape[axis]
    if len(condition) != 1 or condition[0] > extent:
        raise context.fail(f"the condition {condition} must have rank 1 and at most {extent} elements")
    whole = condition if axis is None else (*shape[:axis], condition[0], *shape[axis + 1 :])
    return [TensorType(context.dtype(0), whole), COUNT]


@nest("Compress", infer=infer_compress, trims=lambda context: (compressed_axis(context) or 0,))
def compress(op: Op, b: Builder) -> None:
    """y[o, k, r] = x[o, the k-th place where the condition holds, r]"""
    x, condition, y, total = op.input(0), op.input(1), op.output(0), op.output(1)
    axis = compressed_axis(op)
    if axis is None:
        size: ir.Expr = ir.ONE
        for extent in x.shape:
            size = size * extent
        x, axis = x.reshape(size), 0
    places = b.scratch("places", dtypes.int64, (condition.shape[0],))
    count = b.scalar("count", ir.ZERO)
    with b.loop("i", condition.shape[0]) as i, b.when(condition(i)):
        b.store(places, (count,), i)
        b.assign(count, count + 1)
    total.store((), count)
    outer, inner = x.shape[:axis], x.shape[axis + 1 :]
    with b.loops("o", outer) as o, b.loop("k", count) as k:
        place = b.let("place", ir.Load(places, (k,)))
        if not inner:
            y.store((*o, k), x(*o, place))
            return
        with b.vector_loops("r", inner) as r:
            y.store((*o, k, *r), x(*o, place, *r))
