"""Elements picked by indices: Gather, GatherElements, GatherND. Every index is checked."""

from __future__ import annotations

from ...ir import loops as ir
from ...ir.graph import TensorType
from ..schedule.strided import strided_loops
from .builder import Builder
from .context import Op, Operand
from .infer import InferContext
from .registry import nest


def checked(b: Builder, value: ir.Expr, data: Operand, axis: int) -> ir.Expr:
    """An index into ``axis`` of ``data``, counted from the front; the kernel stops where it is out of range."""
    extent, size = data.shape[axis], data.sizes[axis]
    given = b.let("given", ir.cast(value, ir.INDEX))
    outside = ir.Binary("lt", given, ir.ZERO - extent) | ir.Binary("ge", given, extent)
    b.fail_if(outside, f"index {{value}} is outside [{-size}, {size - 1}] of axis {axis} of {data.name!r}", given)
    return b.let("k", ir.select(given < 0, given + extent, given))


def check_not_empty(context: InferContext, axis: int, indices: tuple[int, ...]) -> None:
    if context.shape(0)[axis] == 0 and 0 not in indices:
        raise context.fail(f"axis {axis} of the data {context.shape(0)} is empty, no index can point into it")


def infer_gather(context: InferContext) -> TensorType:
    data, indices = context.shape(0), context.shape(1)
    axis = context.axis(context.attr("axis", 0), len(data))
    check_not_empty(context, axis, indices)
    return TensorType(context.dtype(0), (*data[:axis], *indices, *data[axis + 1 :]))


@nest("Gather", infer=infer_gather, epilogue=True)
def gather(op: Op, b: Builder) -> None:
    """y[o, i, r] = data[o, indices[i], r]"""
    data, indices, y = op.input(0), op.input(1), op.output(0)
    axis = op.axis(op.attr("axis", 0), data.rank)

    def emit(place: list[ir.Expr]) -> None:
        k = checked(b, indices(*place[axis : axis + indices.rank]), data, axis)
        y.store(place, data(*place[:axis], k, *place[axis + indices.rank :]))

    strided_loops(b, y.shape, emit)


def infer_gather_elements(context: InferContext) -> TensorType:
    data, indices = context.shape(0), context.shape(1)
    if len(data) != len(indices):
        raise context.fail(f"data {data} and indices {indices} must have the same rank")
    axis = context.axis(context.attr("axis", 0), len(data))
    if any(own > extent for i, (own, extent) in enumerate(zip(indices, data, strict=True)) if i != axis):
        raise context.fail(f"indices {indices} must not exceed data {data} but along axis {axis}")
    check_not_empty(context, axis, indices)
    return TensorType(context.dtype(0), indices)


@nest("GatherElements", infer=infer_gather_elements, epilogue=True)
def gather_elements(op: Op, b: Builder) -> None:
    """y[i] = data[i with i[axis] replaced by indices[i]]"""
    data, indices, y = op.input(0), op.input(1), op.output(0)
    axis = op.axis(op.attr("axis", 0), data.rank)

    def emit(place: list[ir.Expr]) -> None:
        k = checked(b, indices(*place), data, axis)
        y.store(place, data(*place[:axis], k, *place[axis + 1 :]))

    strided_loops(b, y.shape, emit)


def infer_gather_nd(context: InferContext) -> TensorType:
    data, indices, batch = context.shape(0), context.shape(1), context.attr("batch_dims", 0)
    if not data or not indices:
        raise context.fail(f"data {data} and indices {indices} must have rank 1 or more")
    if not 0 <= batch < min(len(data), len(indices)) or data[:batch] != indices[:batch]:
        raise context.fail(f"data {data} and indices {indices} do not share {batch} batch axes")
    depth = indices[-1]
    if batch + depth > len(data):
        raise context.fail(f"index tuples of {depth} do not fit data {data} with {batch} batch axes")
    for axis in range(batch, batch + depth):
        check_not_empty(context, axis, indices)
    return TensorType(context.dtype(0), (*indices[:-1], *data[batch + depth :]))


@nest("GatherND", infer=infer_gather_nd, epilogue=True)
def gather_nd(op: Op, b: Builder) -> None:
    """y[batch, i, r] = data[batch, indices[batch, i, 0], indices[batch, i, 1], ..., r]"""
    data, indices, y = op.input(0), op.input(1), op.output(0)
    batch, depth, outer = op.attr("batch_dims", 0), indices.sizes[-1], indices.rank - 1

    def emit(place: list[ir.Expr]) -> None:
        found = [checked(b, indices(*place[:outer], t), data, batch + t) for t in range(depth)]
        y.store(place, data(*place[:batch], *found, *place[outer:]))

    strided_loops(b, y.shape, emit)
