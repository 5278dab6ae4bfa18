"""Unique: the different elements, or slices along an axis, of a tensor; in order, or as they first come."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType, Type
from .builder import Builder
from .context import Op, Operand
from .infer import InferContext
from .registry import nest
from .selection import COUNT


def unique_axis(context: InferContext) -> int | None:
    axis = context.attr("axis")
    return None if axis is None else context.axis(axis, context.rank(0))


def infer_unique(context: InferContext) -> list[Type]:
    shape, axis = context.shape(0), unique_axis(context)
    count = prod(shape) if axis is None else shape[axis]
    whole = (count,) if axis is None else shape
    numbers = TensorType(dtypes.int64, (count,))
    return [TensorType(context.dtype(0), whole), numbers, numbers, numbers, COUNT]


@nest("Unique", infer=infer_unique, trims=lambda context: (unique_axis(context) or 0, 0, None, 0))
def unique(op: Op, b: Builder) -> None:
    """y[k] = the k-th different item; indices[k] = where it first is; inverse[i] = which one item i is; counts[k] = how often it is there

    Items (elements, or slices along ``axis``) are sorted by merging, stably, so that the first of equal ones is the one that comes first.
    """
    x, axis = op.input(0), unique_axis(op)
    items = x.reshape(_product(x.shape)) if axis is None else x
    axis = axis or 0
    n = items.shape[axis]
    order, first, number, tally = (b.scratch(name, dtypes.int64, (n,)) for name in ("order", "first", "number", "tally"))
    merge_sort(b, n, order, first, lambda i, j: _less(b, items, axis, i, j))
    _find_first(b, n, order, first, lambda i, j: _less(b, items, axis, i, j))
    count = b.scalar("count", ir.ZERO)
    with b.loop("i", n) as i:
        source = b.let("source", ir.Load(order, (i,)) if op.attr("sorted", 1) else i)
        head = b.let("head", ir.Load(first, (source,)))
        with b.when(ir.Binary("eq", head, source)):
            b.store(number, (source,), count)
            b.store(tally, (count,), ir.ZERO)
            _copy(op, b, items, axis, source, count)
            if op.wants(1):
                op.output(1).store((count,), source)
            b.assign(count, count + 1)
        k = b.let("k", ir.Load(number, (head,)))
        b.store(tally, (k,), ir.Load(tally, (k,)) + 1)
        if op.wants(2):
            op.output(2).store((source,), k)
    if op.wants(3):
        with b.loop("k", count) as k:
            op.output(3).store((k,), ir.Load(tally, (k,)))
    op.output(4).store((), count)


def _product(extents: tuple[ir.Expr, ...]) -> ir.Expr:
    total: ir.Expr = ir.ONE
    for extent in extents:
        total = total * extent
    return total


def _at(axis: int, i: ir.Expr, rest: tuple[ir.Expr, ...]) -> tuple[ir.Expr, ...]:
    return (*rest[:axis], i, *rest[axis:])


def _copy(op: Op, b: Builder, items: Operand, axis: int, source: ir.Expr, place: ir.Expr) -> None:
    """Item ``source`` becomes item ``place`` of the result."""
    if not op.wants(0):
        return
    y, rest = op.output(0), (*items.shape[:axis], *items.shape[axis + 1 :])
    with b.loops("r", rest) as r:
        y.store(_at(axis, place, r), items(*_at(axis, source, r)))


def _less(b: Builder, items: Operand, axis: int, i: ir.Expr, j: ir.Expr) -> ir.Expr:
    """Whether item i comes before item j: the first elements that differ decide, NaN comes last."""
    rest = (*items.shape[:axis], *items.shape[axis + 1 :])
    if not rest:
        return _below(items(i), items(j))
    order = b.scalar("difference", ir.ZERO)
    with b.loops("e", rest) as r, b.when(ir.Binary("eq", order, ir.ZERO)):
        left, right = b.let("left", items(*_at(axis, i, r))), b.let("right", items(*_at(axis, j, r)))
        b.assign(order, ir.select(_below(left, right), ir.Const(-1), ir.select(_below(right, left), ir.ONE, ir.ZERO)))
    return ir.Binary("lt", order, ir.ZERO)


def _below(a: ir.Expr, c: ir.Expr) -> ir.Expr:
    less = ir.Binary("lt", a, c)
    if not a.dtype.is_float:
        return less
    return ir.Binary("or", less, ir.Binary("and", ir.unary("isnan", c), ~ir.unary("isnan", a)))


def _find_first(
    b: Builder, n: ir.Expr, order: ir.Buffer, first: ir.Buffer, less: Callable[[ir.Expr, ir.Expr], ir.Expr]
) -> None:
    """first[i] = the first item equal to item i."""
    head = b.scalar("head", ir.ZERO)
    with b.loop("t", n) as t:
        here = b.let("here", ir.Load(order, (t,)))
        before = b.let("before", ir.Load(order, (ir.maximum(t - 1, ir.ZERO),)))
        different = less(before, here)
        with b.when(ir.Binary("or", ir.Binary("eq", t, ir.ZERO), different)):
            b.assign(head, here)
        b.store(first, (here,), head)


def merge_sort(b: Builder, n: ir.Expr, order: ir.Buffer, spare: ir.Buffer, less: Callable[[ir.Expr, ir.Expr], ir.Expr]) -> None:
    """Makes ``order`` the numbers 0 ... n - 1 sorted stably by ``less``: runs of doubling length are merged, through ``spare``."""
    with b.loop("i", n, "vector") as i:
        b.store(order, (i,), i)
    width = b.scalar("width", ir.ONE)
    with b.repeat_while(ir.Binary("lt", width, n)):
        with b.loop("run", ir.Binary("floordiv", n + width * 2 - 1, width * 2)) as run:
            start = b.let("start", run * width * 2)
            middle = b.let("middle", ir.minimum(start + width, n))
            end = b.let("end", ir.minimum(start + width * 2, n))
            left, right = b.scalar("left", start), b.scalar("right", middle)
            with b.loop("k", end - start) as k:
                take_right = b.scalar("take_right", ir.Binary("ge", left, middle))
                with b.when(ir.Binary("and", ir.Binary("lt", left, middle), ir.Binary("lt", right, end))):
                    b.assign(take_right, less(ir.Load(order, (right,)), ir.Load(order, (left,))))
                with b.when(take_right):
                    b.store(spare, (start + k,), ir.Load(order, (right,)))
                    b.assign(right, right + 1)
                with b.otherwise():
                    b.store(spare, (start + k,), ir.Load(order, (left,)))
                    b.assign(left, left + 1)
        with b.loop("i", n, "vector") as i:
            b.store(order, (i,), ir.Load(spare, (i,)))
        b.assign(width, width * 2)
