"""Resize: all modes as index and weight tables per axis (see ``resampling``).

Several axes are blended one after the other: rows of the input into one row in scratch memory, then that row along its own axis.

    for n, c, h in parallel:  row[w] = sum_k wh[k, h] * x[n, c, ih[k, h], w];  y[n, c, h, w] = sum_k ww[k, w] * row[iw[k, w]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import isclose, prod

import numpy as np

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ...ir.graph import TensorType
from ..schedule.strided import strided_loops
from . import resampling
from .builder import Builder
from .context import Op, Operand
from .infer import InferContext
from .registry import nest
from .resampling import Axis, Taps

UNROLLED = 16
"""Combinations of taps above which they are summed in loops."""


def given(context: InferContext, i: int) -> np.ndarray | None:
    """An optional input; older models pass an empty one for an absent one."""
    value = context.value(i)
    return None if value is None or value.size == 0 else value.reshape(-1)


def geometry(context: InferContext) -> list[Axis]:
    """All axes of the input, resized or not."""
    shape = context.shape(0)
    rank = len(shape)
    named = context.attr("axes")
    axes = [context.axis(a, rank) for a in named] if named is not None else list(range(rank))
    scales, sizes, roi = given(context, 2), given(context, 3), given(context, 1)
    if (scales is None) == (sizes is None):
        raise context.fail("Resize needs either scales or sizes")
    numbers = scales if scales is not None else sizes
    assert numbers is not None
    if len(numbers) != len(axes) or len(set(axes)) != len(axes):
        raise context.fail(f"{len(numbers)} scales or sizes for {len(axes)} axes")
    if (numbers <= 0).any() and scales is not None:
        raise context.fail(f"scales {tuple(numbers)} must be positive")
    found = {axis: Axis(axis, extent, extent, 1.0) for axis, extent in enumerate(shape)}
    for i, (axis, after, scale) in enumerate(_extents(context, axes, scales, sizes)):
        start, end = (float(roi[i]), float(roi[len(axes) + i])) if roi is not None and len(roi) == 2 * len(axes) else (0.0, 1.0)
        if shape[axis] == 0 and after:
            raise context.fail(f"axis {axis} of {shape} is empty and cannot be resized to {after}")
        found[axis] = Axis(axis, shape[axis], after, scale, start, end)
    return [found[axis] for axis in range(rank)]


def _extents(
    context: InferContext, axes: Sequence[int], scales: np.ndarray | None, sizes: np.ndarray | None
) -> list[tuple[int, int, float]]:
    """Axis, extent and scale of each resized axis."""
    shape = context.shape(0)
    if scales is not None:
        return [(axis, int(float(scale) * shape[axis]), float(scale)) for axis, scale in zip(axes, scales, strict=True)]
    assert sizes is not None
    ratios = [int(size) / max(1, shape[axis]) for axis, size in zip(axes, sizes, strict=True)]
    policy = context.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [(axis, int(size), ratio) for axis, size, ratio in zip(axes, sizes, ratios, strict=True)]
    if policy not in ("not_larger", "not_smaller"):
        raise context.fail(f"keep_aspect_ratio_policy is {policy!r}, expected stretch, not_larger or not_smaller")
    ratio = (min if policy == "not_larger" else max)(ratios)
    return [(axis, int(ratio * shape[axis] + 0.5), ratio) for axis in axes]


def infer_resize(context: InferContext) -> TensorType:
    for name, known, default in (
        ("mode", ("nearest", "linear", "cubic"), "nearest"),
        ("coordinate_transformation_mode", resampling.COORDINATES, "half_pixel"),
        ("nearest_mode", resampling.NEAREST, "round_prefer_floor"),
    ):
        if context.attr(name, default) not in known:
            raise context.fail(f"{name} is {context.attr(name)!r}, expected one of {', '.join(known)}")
    return TensorType(context.dtype(0), tuple(axis.after for axis in geometry(context)))


def taps_of(op: Op, axis: Axis) -> Taps | None:
    """Where the elements of an axis come from; None where it stays as it is."""
    mode = op.attr("coordinate_transformation_mode", "half_pixel")
    cropped = mode == "tf_crop_and_resize" and not (isclose(axis.start, 0.0) and isclose(axis.end, 1.0))
    if axis.before == axis.after and isclose(axis.scale, 1.0) and not cropped:
        return None
    kind = op.attr("mode", "nearest")
    if kind == "nearest":
        return resampling.nearest(axis, mode, op.attr("nearest_mode", "round_prefer_floor"))
    weights = resampling.linear if kind == "linear" else resampling.cubic(op.attr("cubic_coeff_a", -0.75))
    options = {"antialias": bool(op.attr("antialias", 0)), "exclude_outside": bool(op.attr("exclude_outside", 0))}
    return resampling.interpolated(axis, mode, weights, **options)


def working_dtype(dtype: DType) -> DType:
    """What weighted sums of elements are computed in."""
    if dtype.is_float:
        return dtype
    return dtypes.float32 if dtype.bits <= 16 else dtypes.float64


@nest("Resize", infer=infer_resize, values=(1, 2, 3), epilogue=True)
def resize(op: Op, b: Builder) -> None:
    """y[o] = sum over taps k of weights[k, o] * x[indices[k, o]], axis by axis"""
    active = {axis.axis: taps for axis in geometry(op) if (taps := taps_of(op, axis)) is not None}
    if all(len(taps.indices) == 1 for taps in active.values()):
        _Moved(op, b, active).emit()
    else:
        _Blended(op, b, active).emit()


class _Tables:
    """The taps as kernel arguments. ``at(k, axis, o)`` and ``weight(k, axis, o)`` are the k-th tap of place ``o`` of an axis."""

    def __init__(self, op: Op, active: dict[int, Taps], dtype: DType) -> None:
        self.active, self.dtype, self.op = active, dtype, op
        self.indices = {a: op.table(f"indices of axis {a}", taps.indices) for a, taps in active.items()}
        self.weights = {
            a: op.table(f"weights of axis {a}", taps.weights.astype(dtype.numpy))
            for a, taps in active.items()
            if dtype.is_float
        }
        self.flags = {
            a: op.table(f"outside of axis {a}", taps.outside) for a, taps in active.items() if taps.outside is not None
        }

    def at(self, k: ir.Operand, axis: int, o: ir.Expr) -> ir.Expr:
        return ir.Load(self.indices[axis], (ir.index(k), o))

    def weight(self, k: ir.Operand, axis: int, o: ir.Expr) -> ir.Expr:
        return ir.Load(self.weights[axis], (ir.index(k), o))

    def finish(self, place: Sequence[ir.Expr], value: ir.Expr) -> ir.Expr:
        """``value``, or the extrapolation value outside of the input."""
        outside: ir.Expr = ir.FALSE
        for axis, flags in self.flags.items():
            outside = ir.logical("or", outside, ir.Load(flags, (place[axis],)))
        other = self.op.attr("extrapolation_value", 0.0)
        plain = float(other) if value.dtype.is_float else bool(other) if value.dtype.kind == "bool" else int(other)
        return ir.select(outside, ir.Const(plain, value.dtype), value)


class _Moved:
    """Nearest: every element is an element of the input."""

    def __init__(self, op: Op, b: Builder, active: dict[int, Taps]) -> None:
        self.op, self.b, self.active = op, b, active

    def emit(self) -> None:
        x, y, b = self.op.input(0), self.op.output(0), self.b
        tables = _Tables(self.op, self.active, dtypes.int64)

        def source(axis: int, o: ir.Expr) -> ir.Expr:
            if axis not in self.active:
                return o
            regular = _regular(self.active[axis].indices[0])
            return regular(o) if regular is not None else b.let(f"at{axis}", tables.at(0, axis, o))

        def element(place: list[ir.Expr]) -> None:
            y.store(place, tables.finish(place, x(*(source(axis, o) for axis, o in enumerate(place)))))

        strided_loops(b, y.shape, element)


def _regular(indices: np.ndarray) -> Callable[[ir.Expr], ir.Expr] | None:
    """The indices as a formula, where each element is repeated equally often, or every so many are taken."""
    count, last = len(indices), int(indices[-1])
    places = np.arange(count)
    times = -(-count // (last + 1))
    if times > 1 and np.array_equal(indices, places // times):
        return lambda o: o // times
    step = last // (count - 1) if count > 1 else 1
    if count > 1 and np.array_equal(indices, indices[0] + places * step):
        return lambda o: o * step + int(indices[0])
    return None


class _Blended:
    """Weighted sums: all resized axes but the last into a row in scratch memory, then that row along the last one."""

    def __init__(self, op: Op, b: Builder, active: dict[int, Taps]) -> None:
        self.op, self.b, self.active = op, b, active
        self.x: Operand = op.input(0)
        self.dtype = working_dtype(self.x.dtype)
        self.tables = _Tables(op, active, self.dtype)
        *self.rows, self.last = sorted(active)

    def emit(self) -> None:
        b, y = self.b, self.op.output(0)
        inner = self.x.shape[self.last + 1 :]
        row = b.scratch("row", self.dtype, (self.x.shape[self.last], *inner)) if self.rows else None

        def body(outer: list[ir.Expr]) -> None:
            if row is not None:
                element = self.rows_at(outer)
                with b.vector_loops("w", (self.x.shape[self.last], *inner)) as place:
                    b.store(row, place, element(place))
            with b.vector_loops("w", (y.shape[self.last], *inner)) as place:
                o, *rest = place

                def source(at: ir.Expr) -> ir.Expr:
                    return ir.Load(row, (at, *rest)) if row is not None else ir.cast(self.x(*outer, at, *rest), self.dtype)

                total = self.blend(self.last, o, source)
                value = total if y.dtype.is_float else ir.cast(ir.unary("round", total), y.dtype, saturate=True)
                y.store((*outer, *place), self.tables.finish((*outer, *place), value))

        strided_loops(b, y.shape[: self.last], body)

    def blend(self, axis: int, o: ir.Expr, source: Callable[[ir.Expr], ir.Expr]) -> ir.Expr:
        """The taps of one axis, summed."""
        count, b = len(self.active[axis].indices), self.b
        if count <= UNROLLED:
            terms = [self.tables.weight(k, axis, o) * source(self.tables.at(k, axis, o)) for k in range(count)]
            return _sum(terms)
        total = b.scalar("total", ir.wrap(0, self.dtype))
        with b.loop("k", count) as k:
            at = b.let("at", self.tables.at(k, axis, o))
            b.assign(total, total + self.tables.weight(k, axis, o) * source(at))
        return total

    def rows_at(self, outer: Sequence[ir.Expr]) -> Callable[[Sequence[ir.Expr]], ir.Expr]:
        """The sum, at a place of the row, over all rows of the input that the taps of the outer resized axes name."""
        b, counts = self.b, [len(self.active[axis].indices) for axis in self.rows]

        def row(taps: Sequence[ir.Operand]) -> tuple[ir.Expr, list[ir.Expr]]:
            index, weight = list(outer), ir.wrap(1, self.dtype)
            for number, (k, axis) in enumerate(zip(taps, self.rows, strict=True)):
                index[axis] = b.let("at", self.tables.at(k, axis, outer[axis]))
                own = self.tables.weight(k, axis, outer[axis])
                weight = own if number == 0 else weight * own
            return b.let("weight", weight), index

        def weighted(found: tuple[ir.Expr, list[ir.Expr]], place: Sequence[ir.Expr]) -> ir.Expr:
            weight, index = found
            return weight * ir.cast(self.x(*index, *place), self.dtype)

        if prod(counts) <= UNROLLED:
            rows = [row(taps) for taps in product(*(range(count) for count in counts))]
            return lambda place: _sum([weighted(found, place) for found in rows])

        def summed(place: Sequence[ir.Expr]) -> ir.Expr:
            total = b.scalar("total", ir.wrap(0, self.dtype))
            with b.loops("k", counts) as taps:
                b.assign(total, total + weighted(row(taps), place))
            return total

        return summed


def _sum(terms: Sequence[ir.Expr]) -> ir.Expr:
    total, *rest = terms
    for term in rest:
        total = total + term
    return total
