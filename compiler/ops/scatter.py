"""Elements stored at indices: ScatterElements (Scatter), ScatterND, TensorScatter. Every index is checked; updates apply in their order."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import loops as ir
from ...ir.graph import TensorType
from ..schedule.strided import strided_loops
from .builder import Builder
from .context import Op, Result
from .gather import checked
from .infer import InferContext
from .registry import nest

REDUCTIONS = {"none": None, "add": "add", "mul": "mul", "min": "min", "max": "max"}


def reduction_of(context: InferContext) -> str | None:
    mode = context.attr("reduction", "none")
    if mode not in REDUCTIONS:
        raise context.fail(f"reduction is {mode!r}, expected one of {', '.join(REDUCTIONS)}")
    return REDUCTIONS[mode]


def combine(y: Result, place: Sequence[ir.Expr], update: ir.Expr, reduction: str | None) -> None:
    """y[place] = update, or y[place] reduced with it."""
    if reduction is not None:
        old = y.load(*place)
        if old.dtype.kind == "bool":
            reduction = {"add": "or", "max": "or", "mul": "and", "min": "and"}[reduction]
        update = ir.Binary(reduction, old, update)
    y.store(place, update)


def infer_scatter_elements(context: InferContext) -> TensorType:
    data, indices, updates = (context.shape(i) for i in range(3))
    axis = context.axis(context.attr("axis", 0), len(data))
    if indices != updates:
        raise context.fail(f"indices {indices} and updates {updates} must have the same shape")
    if len(data) != len(indices) or any(n > e for i, (n, e) in enumerate(zip(indices, data, strict=True)) if i != axis):
        raise context.fail(f"indices {indices} must have the rank of the data {data}, and exceed it along axis {axis} at most")
    reduction_of(context)
    return context.tensor(0)


@nest("ScatterElements", infer=infer_scatter_elements)
def scatter_elements(op: Op, b: Builder) -> None:
    """y = data; y[i with i[axis] replaced by indices[i]] = updates[i] for all i in order

    Slices of the axes before ``axis`` are independent: the first of them is the parallel loop.
    """
    data, indices, updates, y = op.input(0), op.input(1), op.input(2), op.output(0)
    axis, reduction = op.axis(op.attr("axis", 0), data.rank), reduction_of(op)

    def update(place: list[ir.Expr]) -> None:
        k = checked(b, indices(*place), data, axis)
        combine(y, [*place[:axis], k, *place[axis + 1 :]], updates(*place), reduction)

    if axis == 0 or 0 in indices.sizes:
        with b.vector_loops("c", data.shape) as place:
            y.store(place, data(*place))
        with b.loops("i", indices.shape) as place:
            update(list(place))
        return
    with b.loop("row", data.shape[0], "parallel") as row:
        with b.vector_loops("c", data.shape[1:]) as place:
            y.store((row, *place), data(row, *place))
        with b.when(ir.Binary("lt", row, indices.shape[0])), b.loops("i", indices.shape[1:]) as place:
            update([row, *place])


def infer_scatter_nd(context: InferContext) -> TensorType:
    data, indices, updates = (context.shape(i) for i in range(3))
    if not data or not indices or indices[-1] > len(data):
        raise context.fail(f"indices {indices} hold tuples that are too long for data {data}")
    expected = (*indices[:-1], *data[indices[-1] :])
    if updates != expected:
        raise context.fail(f"updates have shape {updates}, expected {expected}")
    reduction_of(context)
    return context.tensor(0)


@nest("ScatterND", infer=infer_scatter_nd)
def scatter_nd(op: Op, b: Builder) -> None:
    """y = data; y[indices[i]] = updates[i] for all i in order"""
    data, indices, updates, y = op.input(0), op.input(1), op.input(2), op.output(0)
    depth, reduction = indices.sizes[-1], reduction_of(op)
    with b.vector_loops("c", data.shape) as place:
        y.store(place, data(*place))
    if 0 in updates.sizes:
        return
    with b.loops("i", indices.shape[:-1]) as place:
        found = [checked(b, indices(*place, t), data, t) for t in range(depth)]
        inner = data.shape[depth:]
        if not inner:
            combine(y, found, updates(*place), reduction)
            return
        with b.vector_loops("r", inner) as rest:
            combine(y, [*found, *rest], updates(*place, *rest), reduction)


def infer_tensor_scatter(context: InferContext) -> TensorType:
    past, update = context.shape(0), context.shape(1)
    axis = context.axis(context.attr("axis", -2), len(past))
    if axis == 0:
        raise context.fail("axis must not be the batch axis 0")
    fits = len(past) == len(update) and all(i == axis or p == u for i, (p, u) in enumerate(zip(past, update, strict=True)))
    if not fits or update[axis] > past[axis]:
        raise context.fail(f"the update {update} does not fit the cache {past} along axis {axis}")
    if context.has(2) and context.shape(2) != past[:1]:
        raise context.fail(f"write_indices has shape {context.shape(2)}, expected {past[:1]}")
    if context.attr("mode", "linear") not in ("linear", "circular"):
        raise context.fail(f"mode is {context.attr('mode')!r}, expected linear or circular")
    return context.tensor(0)


@nest("TensorScatter", infer=infer_tensor_scatter, epilogue=True)
def tensor_scatter(op: Op, b: Builder) -> None:
    """y[n, ..., s, ...] = update[n, ..., s - write_indices[n], ...] where the update has that place, else past[n, ..., s, ...]"""
    past, update, y = op.input(0), op.input(1), op.output(0)
    axis, circular = op.axis(op.attr("axis", -2), past.rank), op.attr("mode", "linear") == "circular"
    steps, length = past.shape[axis], update.shape[axis]
    limit = past.sizes[axis] - 1 if circular else past.sizes[axis] - update.sizes[axis]

    def emit(place: list[ir.Expr]) -> None:
        first: ir.Expr = ir.ZERO
        if op.has(2):
            first = b.let("first", ir.cast(op.input(2)(place[0]), ir.INDEX))
            outside = (first < 0) | ir.Binary("gt" if not circular else "ge", first, steps if circular else steps - length)
            b.fail_if(outside, f"write index {{value}} is outside [0, {limit}] of axis {axis} of {past.name!r}", first)
        at = place[axis] - first
        at = b.let("at", ir.select(at < 0, at + steps, at) if circular else at)
        inside = (at >= 0) & ir.Binary("lt", at, length)
        new = update(*(at if a == axis else i for a, i in enumerate(place)))
        y.store(place, ir.Guarded(inside, new, past(*place)))

    strided_loops(b, y.shape, emit)
