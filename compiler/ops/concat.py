"""Tensors joined and cut along an axis: Concat, Stack, Split, Slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir import loops as ir
from ...ir.graph import TensorType, Type
from ..schedule.strided import strided_loops
from .builder import Builder
from .context import Op, Operand, Result
from .infer import InferContext
from .registry import injective, nest


def infer_concat(context: InferContext) -> TensorType:
    shapes = [context.shape(i) for i in range(context.n_inputs)]
    axis = context.axis(context.attr("axis", 0), len(shapes[0]))
    first = shapes[0]
    for shape in shapes[1:]:
        if len(shape) != len(first) or any(a != b for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != axis):
            raise context.fail(f"cannot concatenate {shape} to {first} along axis {axis}: only that axis may differ")
    return TensorType(context.dtype(0), (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :]))


@nest("Concat", infer=infer_concat, prologue=True, epilogue=True)
def concat(op: Op, b: Builder) -> None:
    """y[..., start of x + i, ...] = x[..., i, ...] for each input x"""
    y = op.output(0)
    axis = op.axis(op.attr("axis", 0), y.rank)
    start = 0
    for number in range(op.n_inputs):
        x = op.input(number)
        if y.block:
            join_blocks(b, x, y, start)
        elif all(x.sizes):
            offset = parameter("start", start)
            strided_loops(b, x.shape, lambda place, x=x, offset=offset: y.store(moved(place, axis, offset), x(*place)))
        start += x.sizes[axis]


def join_blocks(b: Builder, x: Operand, y: Result, start: int) -> None:
    """y[:, start + c] = x[:, c] in blocks of channels: the first lanes of each block of x are the last ones of a block of y, and the
    others the first ones of the next. Nothing is written beyond the last channel."""
    first, phase = divmod(start, y.block)
    for lane, lanes, place, ahead in ((0, y.block - phase, phase, first), (y.block - phase, phase, 0, first + 1)):
        whole, rest = divmod(max(0, x.sizes[1] - lane), y.block)
        full = whole + (rest >= lanes)
        for count, number, width in ((full, 0, lanes), (int(0 < rest < lanes), full, rest)):
            if count and width:
                extents = (x.shape[0], parameter("blocks", count), *x.shape[2:], ir.Const(width))
                source, target = parameter("number", number), parameter("ahead", ahead + number)

                def emit(
                    at: list[ir.Expr], lane: int = lane, place: int = place, source: ir.Expr = source, target: ir.Expr = target
                ) -> None:
                    n, i, *pixel, v = at
                    value = x(n, (i + source) * y.block + (v + lane), *pixel)
                    y.store((n, (i + target) * y.block + (v + place), *pixel), value)

                strided_loops(b, extents, emit)


def infer_stack(context: InferContext) -> TensorType:
    shape, axis = context.shape(0), int(context.attr("axis", 0))
    return TensorType(context.dtype(0), (*shape[:axis], context.n_inputs, *shape[axis:]))


@nest("Stack", domain="loopnest", infer=infer_stack)
def stack(op: Op, b: Builder) -> None:
    """y[..., number of x, ...] = x[...] for each input x, all of one shape; those in blocks of channels are read as they are"""
    y, axis = op.output(0), int(op.attr("axis", 0))
    for number in range(op.n_inputs):
        x = op.input(number)
        for extents, index in (_channels(x, *part) for part in _parts(x)) if all(x.sizes) else ():

            def emit(
                place: list[ir.Expr],
                x: Operand = x,
                index: Callable[[list[ir.Expr]], list[ir.Expr]] = index,
                number: int = number,
            ) -> None:
                at = index(place)
                y.store((*at[:axis], ir.Const(number), *at[axis:]), x(*at))

            strided_loops(b, extents, emit)


def _parts(x: Operand) -> list[tuple[int, int, int]]:
    """Blocks of channels, the first of them, and the channels of each: whole ones, and one that is not; none of a plain operand."""
    if not x.block:
        return [(0, 0, 0)]
    whole, rest = divmod(x.sizes[1], x.block)
    return [part for part in ((whole, 0, x.block), (int(rest > 0), whole, rest)) if part[0]]


def _channels(
    x: Operand, blocks: int, first: int, width: int
) -> tuple[tuple[ir.Expr, ...], Callable[[list[ir.Expr]], list[ir.Expr]]]:
    """Extents of loops over ``blocks`` blocks of channels, as they lie in memory, and from their variables to the index of an element."""
    if not blocks:
        return tuple(x.shape), list
    start = parameter("first", first)
    extents = (x.shape[0], parameter("blocks", blocks), *x.shape[2:], ir.Const(width))
    return extents, lambda place: [place[0], (start + place[1]) * x.block + place[-1], *place[2:-1]]


def parameter(name: str, value: int) -> ir.Expr:
    """A number that the plan knows and the kernel is told, so that the kernel serves other numbers too."""
    return ir.Param(name, value) if value > 0 else ir.Const(value)


def moved(place: Sequence[ir.Expr], axis: int, offset: ir.Expr) -> list[ir.Expr]:
    """An index moved along one axis."""
    return [i + offset if a == axis else i for a, i in enumerate(place)]


def split_sizes(context: InferContext) -> tuple[int, ...]:
    """The extents of the parts: in the proportions of the input ``split``, or ``num_outputs`` equal ones, of which the last may be smaller.
    Where the axis is counted in blocks of channels, so are they."""
    shape = context.shape(0)
    extent = shape[context.axis(context.attr("axis", 0), len(shape))]
    given = context.ints(1)
    if given is not None:
        total = max(1, sum(given))
        return tuple(part * extent // total for part in given)
    count = context.attr("num_outputs", len(context.node.outputs))
    size = -(-extent // count)
    return tuple(max(0, min(size, extent - i * size)) for i in range(count))


def infer_split(context: InferContext) -> list[Type]:
    shape, given, count = context.shape(0), context.ints(1), len(context.node.outputs)
    axis = context.axis(context.attr("axis", 0), len(shape))
    if given is not None and (sum(given) != shape[axis] or len(given) != count or min(given) < 0):
        raise context.fail(f"split {given} does not cut an extent of {shape[axis]} into {count} parts")
    if given is None and context.attr("num_outputs", count) != count:
        raise context.fail(f"num_outputs is {context.attr('num_outputs')}, the node has {count}")
    return [TensorType(context.dtype(0), (*shape[:axis], size, *shape[axis + 1 :])) for size in split_sizes(context)]


@nest("Split", infer=infer_split, values=(1,), prologue=True)
def split(op: Op, b: Builder) -> None:
    """y[..., i, ...] = x[..., start of y + i, ...] for each output y"""
    x = op.input(0)
    axis = op.axis(op.attr("axis", 0), x.rank)
    start = 0
    for number, size in enumerate(split_sizes(op)):
        if op.wants(number) and size:
            y, offset = op.output(number), parameter("start", start)
            strided_loops(b, y.shape, lambda place, y=y, offset=offset: y.store(place, x(*moved(place, axis, offset))))
        start += size


@dataclass(frozen=True)
class Cut:
    """One sliced axis: ``count`` elements from ``start`` on, ``step`` apart."""

    start: int
    step: int
    count: int


def slices(context: InferContext) -> dict[int, Cut]:
    """What is taken of each sliced axis."""
    shape = context.shape(0)
    starts, ends = context.ints(1) or (), context.ints(2) or ()
    given = context.ints(3)
    axes = given if given is not None else tuple(range(len(starts)))
    given = context.ints(4)
    steps = given if given is not None else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise context.fail(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} must be of equal length")
    cuts: dict[int, Cut] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise context.fail("a step is 0")
        axis = context.axis(axis, len(shape))
        if axis in cuts:
            raise context.fail(f"axes {axes} name an axis twice")
        cuts[axis] = _cut(start, end, step, shape[axis])
    return cuts


def _cut(start: int, end: int, step: int, extent: int) -> Cut:
    """Negative bounds count from the end; then both are clamped to [0, extent], going backward to [0, extent - 1] and [-1, extent - 1]."""
    start, end = (bound + extent if bound < 0 else bound for bound in (start, end))
    last = extent if step > 0 else extent - 1
    start, end = min(max(start, 0), last), min(max(end, 0 if step > 0 else -1), last)
    count = len(range(start, end, step)) if extent else 0
    return Cut(start if count else 0, step, count)


def infer_slice(context: InferContext) -> TensorType:
    cuts = slices(context)
    return TensorType(context.dtype(0), tuple(cuts[i].count if i in cuts else e for i, e in enumerate(context.shape(0))))


@injective("Slice", infer=infer_slice, values=(1, 2, 3, 4))
def slice_(op: Op, index: tuple[ir.Expr, ...]) -> ir.Expr:
    """y[i, ...] = x[start + i * step, ...]"""
    cuts = slices(op)
    place = list(index)
    for axis, cut in cuts.items():
        place[axis] = index[axis] * cut.step + parameter("start", cut.start)
    return op.input(0)(*place)
