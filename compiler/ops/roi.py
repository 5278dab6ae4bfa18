"""Regions of interest pooled to a fixed size: RoiAlign (arXiv:1703.06870), MaxRoiPool (arXiv:1504.08083)."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder, lowest
from .context import Op, Operand
from .infer import InferContext
from .registry import nest


def infer_roi_align(context: InferContext) -> TensorType:
    x, rois, batches = (context.shape(i) for i in range(3))
    if len(x) != 4 or len(rois) != 2 or rois[1] != 4 or batches != rois[:1]:
        raise context.fail(f"RoiAlign needs an input of rank 4, rois (n, 4) and batch_indices (n,), not {x}, {rois}, {batches}")
    if 0 in x:
        raise context.fail(f"the input {x} has no element to sample")
    if context.attr("mode", "avg").lower() not in ("avg", "max"):
        raise context.fail(f"mode is {context.attr('mode')!r}, expected avg or max")
    return TensorType(context.dtype(0), (rois[0], x[1], context.attr("output_height", 1), context.attr("output_width", 1)))


def batch_of(b: Builder, x: Operand, index: ir.Expr) -> ir.Expr:
    """A checked index into the batch."""
    batch = b.let("batch", ir.cast(index, ir.INDEX))
    outside = ir.Binary("or", ir.Binary("lt", batch, ir.ZERO), ir.Binary("ge", batch, x.shape[0]))
    b.fail_if(outside, f"batch index {{value}} is outside [0, {x.sizes[0] - 1}] of {x.name!r}", batch)
    return batch


@dataclass(frozen=True)
class Span:
    """A region along one axis: where it starts, the size of a bin, samples per bin."""

    start: ir.Expr
    size: ir.Expr
    samples: ir.Expr


@nest("RoiAlign", infer=infer_roi_align)
def roi_align(op: Op, b: Builder) -> None:
    """y[r, c, i, j] = mean (or maximum) of bilinear samples of x[batch[r], c] on a regular grid in bin (i, j) of region r"""
    x, rois, batches, y = op.input(0), op.input(1), op.input(2), op.output(0)
    maximum = op.attr("mode", "avg").lower() == "max"
    with b.loops("r", (y.shape[0], y.shape[1]), "parallel") as (r, c):
        batch = batch_of(b, x, batches(r))
        rows, columns = (_span(op, b, rois, r, axis, y.shape[2 + axis]) for axis in (0, 1))
        count = ir.cast(ir.maximum(rows.samples * columns.samples, ir.ONE), y.dtype)
        with b.loop("i", y.shape[2]) as i, b.loop("j", y.shape[3], "vector") as j:
            total = b.scalar("total", lowest(y.dtype) if maximum else ir.wrap(0, y.dtype))
            with b.loops("s", (rows.samples, columns.samples)) as (si, sj):
                corners = _corners(b, x, batch, c, _at(b, rows, i, si), _at(b, columns, j, sj))
                if maximum:
                    b.assign(total, ir.Binary("max", total, _fold("max", corners)))
                else:
                    b.assign(total, total + _fold("add", corners))
            empty = ir.Binary("eq", rows.samples * columns.samples, ir.ZERO)
            y.store((r, c, i, j), ir.select(empty, ir.wrap(0, y.dtype), total) if maximum else total / count)


def _span(op: Op, b: Builder, rois: Operand, r: ir.Expr, axis: int, bins: ir.Expr) -> Span:
    """The region along the rows (0) or columns (1); a roi is x1, y1, x2, y2."""
    centered = op.attr("coordinate_transformation_mode", "half_pixel").lower() == "half_pixel"
    scale, offset = op.attr("spatial_scale", 1.0), 0.5 if centered else 0.0
    start = b.let("start", rois(r, 1 - axis) * scale - offset)
    length = rois(r, 3 - axis) * scale - offset - start
    if not centered:
        length = ir.maximum(length, ir.wrap(1, length.dtype))
    size = b.let("size", length / ir.cast(bins, length.dtype))
    ratio = op.attr("sampling_ratio", 0)
    samples = ir.Const(ratio) if ratio > 0 else ir.maximum(ir.cast(ir.unary("ceil", size), ir.INDEX), ir.ZERO)
    return Span(start, size, b.let("samples", samples))


def _at(b: Builder, span: Span, place: ir.Expr, sample: ir.Expr) -> ir.Expr:
    """The coordinate of a sample in a bin."""
    dtype = span.start.dtype
    inner = (ir.cast(sample, dtype) + 0.5) * span.size / ir.cast(span.samples, dtype)
    return b.let("at", span.start + ir.cast(place, dtype) * span.size + inner)


def _corners(b: Builder, x: Operand, batch: ir.Expr, c: ir.Expr, row: ir.Expr, column: ir.Expr) -> list[ir.Expr]:
    """The four elements around a sample times what they weigh; all zero where it lies more than one element outside."""
    inside: ir.Expr = ir.TRUE
    ends: list[tuple[tuple[ir.Expr, ir.Expr], tuple[ir.Expr, ir.Expr]]] = []
    for at, extent in ((row, x.shape[2]), (column, x.shape[3])):
        size = ir.cast(extent, at.dtype)
        near = ir.Binary("and", ir.Binary("ge", at, ir.wrap(-1, at.dtype)), ir.Binary("le", at, size))
        inside = ir.logical("and", inside, near)
        last = size - 1.0
        held = b.let("held", ir.minimum(ir.maximum(at, ir.wrap(0, at.dtype)), last))
        low = b.let("low", ir.cast(ir.unary("floor", held), dtypes.int32))
        low = b.let(
            "low", ir.Binary("min", ir.Binary("max", low, ir.Const(0, dtypes.int32)), ir.cast(extent - 1, dtypes.int32))
        )
        high = b.let("high", ir.Binary("min", low + 1, ir.cast(extent - 1, dtypes.int32)))
        part = b.let("part", held - ir.cast(low, at.dtype))
        ends.append(((low, ir.wrap(1, at.dtype) - part), (high, part)))
    inside = b.let("inside", inside)
    found: list[ir.Expr] = []
    for i, row_weight in ends[0]:
        for j, column_weight in ends[1]:
            element = x(batch, c, ir.cast(i, ir.INDEX), ir.cast(j, ir.INDEX))
            weight = ir.cast(row_weight * column_weight, element.dtype)
            found.append(ir.select(inside, weight * element, ir.wrap(0, element.dtype)))
    return found


def _fold(op: str, values: list[ir.Expr]) -> ir.Expr:
    total, *rest = values
    for value in rest:
        total = ir.Binary(op, total, value)
    return total


def infer_max_roi_pool(context: InferContext) -> TensorType:
    x, rois = context.shape(0), context.shape(1)
    pooled: tuple[int, ...] = tuple(context.attr("pooled_shape", ()))
    if len(x) != 4 or len(rois) != 2 or rois[1] != 5 or len(pooled) != 2 or min(pooled) < 1:
        raise context.fail(
            f"MaxRoiPool needs an input of rank 4, rois (n, 5) and a pooled_shape of two, not {x}, {rois}, {pooled}"
        )
    return TensorType(context.dtype(0), (rois[0], x[1], *pooled))


@nest("MaxRoiPool", infer=infer_max_roi_pool)
def max_roi_pool(op: Op, b: Builder) -> None:
    """y[r, c, i, j] = the maximum of x[batch of r, c] in bin (i, j) of region r, 0 where the bin is empty"""
    x, rois, y = op.input(0), op.input(1), op.output(0)
    with b.loops("r", y.shape, "parallel") as (r, c, i, j):
        batch = batch_of(b, x, rois(r, 0))
        (top, bottom), (left, right) = (_bin(op, b, r, axis, place) for axis, place in enumerate((i, j)))
        best = b.scalar("best", lowest(y.dtype))
        with b.loop("h", bottom - top) as h, b.loop("w", right - left) as w:
            b.assign(best, ir.Binary("max", best, x(batch, c, top + h, left + w)))
        empty = ir.Binary("or", ir.Binary("le", bottom, top), ir.Binary("le", right, left))
        y.store((r, c, i, j), ir.select(empty, ir.wrap(0, y.dtype), best))


def _bin(op: Op, b: Builder, r: ir.Expr, axis: int, place: ir.Expr) -> tuple[ir.Expr, ir.Expr]:
    """The first element of a bin, and the one after its last."""
    x, rois, scale = op.input(0), op.input(1), op.attr("spatial_scale", 1.0)
    bins, extent = op.out_shape()[2 + axis], x.shape[2 + axis]

    def rounded(position: int) -> ir.Expr:
        at = rois(r, position) * scale
        return ir.cast(ir.unary("floor", at + 0.5), ir.INDEX)

    start = b.let("start", rounded(2 - axis))
    length = b.let("length", ir.maximum(rounded(4 - axis) - start + 1, ir.ONE))

    def held(value: ir.Expr) -> ir.Expr:
        return ir.Binary("min", ir.Binary("max", value + start, ir.ZERO), extent)

    first = ir.Binary("floordiv", place * length, bins)
    after = ir.Binary("floordiv", (place + 1) * length + bins - 1, bins)
    return b.let("first", held(first)), b.let("after", held(after))
