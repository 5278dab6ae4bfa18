"""MaxPool, AveragePool and LpPool over 1 to n spatial axes (ONNX operator specification, opset 22).

In plain layout a window is reduced over its outer axes first, for a whole row at once, then along the row:

    for n, c, h in parallel:
        for w in vector: row[w] = max over i of x[n, c, h * s + i, w]
        for w in vector: y[n, c, h, w] = max over j of row[w * s + j]

In layout NCHWc the lanes are channels; small windows are reduced at once, large ones like that. Windows that reach outside of the input,
which are few, are reduced element by element; all others without a check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType, Type
from .builder import Builder, lowest
from .context import Op
from .infer import InferContext
from .pool_windows import Window, infer_pool, windows_of, with_extents
from .registry import nest

UNROLLED = 32
"""A window of at most this many elements is reduced without loops."""

Index = tuple[ir.Expr, ...]
Read = Callable[[Index], ir.Expr]


@dataclass(frozen=True)
class Pooling:
    """``op`` of ``term`` of each element of a window, starting from ``first``; then ``finish`` with the number of elements that count."""

    op: str
    first: ir.Const
    term: Callable[[ir.Expr], ir.Expr] = lambda x: x
    finish: Callable[[ir.Expr, ir.Expr], ir.Expr] = lambda total, count: total
    include_pad: bool = False


@nest("AveragePool", infer=infer_pool, epilogue=True)
def average_pool(op: Op, b: Builder) -> None:
    """The mean of each window; padding counts as zeros where ``count_include_pad`` says so."""

    def mean(total: ir.Expr, count: ir.Expr) -> ir.Expr:
        if isinstance(count, ir.Const):
            return total * (1.0 / float(count.value.real))
        return total / ir.cast(count, total.dtype)

    include_pad = bool(op.attr("count_include_pad", 0))
    emit_pooling(op, b, Pooling("add", ir.Const(0.0, op.input(0).dtype), finish=mean, include_pad=include_pad))


@nest("LpPool", infer=infer_pool, epilogue=True)
def lp_pool(op: Op, b: Builder) -> None:
    """The p-norm of each window."""
    p, dtype = op.attr("p", 2), op.input(0).dtype
    emit_pooling(op, b, Pooling("add", ir.Const(0.0, dtype), power_term(p), lambda total, _: power_root(p, total)))


def power_term(p: int) -> Callable[[ir.Expr], ir.Expr]:
    """|x| ** p"""

    def term(x: ir.Expr) -> ir.Expr:
        size = ir.unary("abs", x)
        return size if p == 1 else x * x if p == 2 else ir.Binary("pow", size, ir.Const(float(p), x.dtype))

    return term


def power_root(p: int, total: ir.Expr) -> ir.Expr:
    """total ** (1 / p)"""
    if p == 1:
        return total
    return ir.unary("sqrt", total) if p == 2 else ir.Binary("pow", total, ir.Const(1.0 / p, total.dtype))


def _infer_max(context: InferContext) -> list[Type]:
    values = infer_pool(context)
    return [values, TensorType(dtypes.int64, values.shape)]


@nest("MaxPool", infer=_infer_max, epilogue=True)
def max_pool(op: Op, b: Builder) -> None:
    """The maximum of each window, and where in the input it stands. Of NaNs and numbers, numbers win."""
    dtype = op.input(0).dtype
    if op.wants(1):
        _max_with_position(op, b)
    else:
        emit_pooling(op, b, Pooling("max_fast" if dtype.is_float else "max", lowest(dtype)))


def emit_pooling(op: Op, b: Builder, pooling: Pooling) -> None:
    """The loops of a pooling node."""
    x, y = op.input(0), op.output(0)
    windows = with_extents(windows_of(op), x.shape[2:], y.shape[2:])
    (_Blocked if x.block else _Plain)(op, b, pooling, windows).emit()


@dataclass
class _Emission:
    op: Op
    b: Builder
    pooling: Pooling
    windows: list[Window]

    def rows(self, outer: Index, emit: Callable[[bool], None]) -> None:
        """``emit`` for windows that are inside along all axes but the last, or may not be."""
        checks = [w.is_inside(o) for w, o in zip(self.windows, outer, strict=False) if not w.always_inside]
        if not checks:
            emit(True)
            return
        with self.b.when(ir.all_of(*checks)):
            emit(True)
        with self.b.otherwise():
            emit(False)

    def along(self, kind: ir.LoopKind, element: Callable[[ir.Expr, bool], None]) -> None:
        """``element`` for each output along the last axis: those in the middle, whose windows are inside, in loops of ``kind``."""
        last, b = self.windows[-1], self.b
        first, end = last.inner
        if first:
            with b.loop("left", first) as o:
                element(o, False)
        if ir.hint(end) > first:
            with b.loop("o", end - first, kind) as o:
                element(o + first, True)
        if ir.hint(last.out) > ir.hint(end):
            with b.loop("right", last.out - end) as o:
                element(end + o, False)

    def reduce(self, windows: Sequence[Window], at: Index, read: Read, *, inside: bool) -> ir.Expr:
        """The windows of outputs ``at``, ``read`` by input index; only what is inside of the input where not all of it is."""
        op, b = self.pooling.op, self.b
        starts = [b.let("start", w.start(o)) for w, o in zip(windows, at, strict=True)]
        if inside and prod(w.kernel for w in windows) <= UNROLLED:
            taps = product(
                *([start + k * w.dilation for k in range(w.kernel)] for w, start in zip(windows, starts, strict=True))
            )
            total = read(next(taps))
            for tap in taps:
                total = ir.Binary(op, total, read(tap))
            return total
        firsts = [ir.ZERO if inside else b.let("first", w.first(o)) for w, o in zip(windows, at, strict=True)]
        ends = [ir.Const(w.kernel) if inside else b.let("end", w.end(o)) for w, o in zip(windows, at, strict=True)]
        total = b.scalar("total", self.pooling.first)
        with b.loops("k", [end - first for first, end in zip(firsts, ends, strict=True)]) as ks:
            taps = zip(windows, starts, firsts, ks, strict=True)
            b.assign(total, ir.Binary(op, total, read(tuple(start + (first + k) * w.dilation for w, start, first, k in taps))))
        return total

    def count(self, at: Index, *, inside: bool) -> ir.Expr:
        """The elements that count in the windows of outputs ``at``."""
        if inside:
            return ir.Const(prod(w.kernel for w in self.windows))
        total: ir.Expr = ir.ONE
        for w, o in zip(self.windows, at, strict=True):
            total = ir.mul(total, w.end(o, w.after) if self.pooling.include_pad else w.end(o) - w.first(o))
        return total

    def finish(self, at: Index, total: ir.Expr, *, inside: bool) -> ir.Expr:
        return self.pooling.finish(total, self.count(at, inside=inside))


class _Plain(_Emission):
    def emit(self) -> None:
        x, b, outer = self.op.input(0), self.b, self.windows[:-1]
        self.row = b.scratch("row", x.dtype, (x.shape[-1],))
        with b.loops("i", [*x.shape[:2], *(w.out for w in outer)], "parallel") as (n, c, *at):
            self.rows(tuple(at), lambda inside: self.one_row((n, c), tuple(at), inside=inside))

    def one_row(self, channel: Index, at: Index, *, inside: bool) -> None:
        x, y, b, outer = self.op.input(0), self.op.output(0), self.b, self.windows[:-1]
        read: Read = lambda w: self.pooling.term(x(*channel, *(v.start(o) for v, o in zip(outer, at, strict=True)), *w))  # noqa: E731
        if not inside or any(w.kernel > 1 for w in outer):
            with b.loop("w", x.shape[-1], "vector") as w:
                total = self.reduce(outer, at, lambda place: self.pooling.term(x(*channel, *place, w)), inside=inside)
                b.store(self.row, (w,), total)
            read = lambda w: ir.Load(self.row, w)  # noqa: E731

        def element(o: ir.Expr, whole: bool) -> None:
            total = self.reduce(self.windows[-1:], (o,), read, inside=whole)
            y.store((*channel, *at, o), self.finish((*at, o), total, inside=inside and whole))

        self.along("vector", element)


class _Blocked(_Emission):
    def emit(self) -> None:
        x, y, b, outer = self.op.input(0), self.op.output(0), self.b, self.windows[:-1]
        block = x.block
        channels = x.shape[1]
        row = b.scratch("row", x.dtype, (x.shape[-1], block)) if self.by_rows else None
        with b.loops("i", [x.shape[0], (channels + (block - 1)) // block, *(w.out for w in outer)], "parallel") as (n, c, *at):
            start = c * block
            lanes = ir.Const(block)
            if x.sizes[1] % block and not y.block:
                lanes = b.let("lanes", ir.minimum(lanes, channels - start))

            def reduced(windows: Sequence[Window], place: Index, lane: ir.Expr, rest: Index, *, inside: bool) -> ir.Expr:
                read: Read = lambda taps: self.pooling.term(x(n, start + lane, *taps, *rest))  # noqa: E731
                return self.reduce(windows, place, read, inside=inside)

            def one_row(inside: bool) -> None:
                if row:
                    with b.loop("w", x.shape[-1]) as w, b.loop("lane", lanes, "vector") as lane:
                        b.store(row, (w, lane), reduced(outer, tuple(at), lane, (w,), inside=inside))

                def element(o: ir.Expr, whole: bool) -> None:
                    place = (*at, o)
                    with b.loop("lane", lanes, "vector") as lane:
                        if row:
                            total = self.reduce(
                                self.windows[-1:], (o,), lambda taps, row=row: ir.Load(row, (*taps, lane)), inside=whole
                            )
                        else:
                            total = reduced(self.windows, place, lane, (), inside=inside and whole)
                        y.store((n, start + lane, *place), self.finish(place, total, inside=inside and whole))

                self.along("serial", element)

            self.rows(tuple(at), one_row)

    @property
    def by_rows(self) -> bool:
        """Whether windows are large, and overlap, so that their outer axes are reduced for a whole row at once."""
        *outer, last = (w.kernel for w in self.windows)
        return prod(outer) > 1 and prod(outer) * last > UNROLLED and last > self.windows[-1].stride


def _max_with_position(op: Op, b: Builder) -> None:
    """Values and flat positions, the first of equal ones; counted along the first spatial axis with ``storage_order``."""
    x, y, positions = op.input(0), op.output(0), op.output(1)
    windows = with_extents(windows_of(op), x.shape[2:], y.shape[2:])
    with b.loops("i", [*x.shape[:2], *(w.out for w in windows)], "parallel") as (n, c, *at):
        first = [b.let("first", w.first(o)) for w, o in zip(windows, at, strict=True)]
        place = [w.start(o) + k * w.dilation for w, o, k in zip(windows, at, first, strict=True)]
        best, where = b.scalar("best", lowest(x.dtype)), b.scalar("where", _flat(place, windows, op))
        counts = [b.let("count", w.end(o) - k) for w, o, k in zip(windows, at, first, strict=True)]
        with b.loops("k", counts) as ks:
            moved = [p + k * w.dilation for w, p, k in zip(windows, place, ks, strict=True)]
            value = b.let("value", x(n, c, *moved))
            with b.when(value > best):
                b.assign(best, value)
                b.assign(where, _flat(moved, windows, op))
        size: ir.Expr = ir.ONE
        for w in windows:
            size = ir.mul(size, w.size)
        y.store((n, c, *at), best)
        positions.store((n, c, *at), (n * x.shape[1] + c) * size + where)


def _flat(place: Sequence[ir.Expr], windows: Sequence[Window], op: Op) -> ir.Expr:
    """The position of a spatial index within its channel."""
    axes = list(zip(place, windows, strict=True))
    total: ir.Expr = ir.ZERO
    for i, window in reversed(axes) if op.attr("storage_order", 0) else axes:
        total = total * window.size + i
    return total
