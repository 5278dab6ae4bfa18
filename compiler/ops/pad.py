"""Pad: a border of constants, of the edge, of reflected or of repeated elements; negative pads cut."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import loops as ir
from ...ir.graph import TensorType
from ..schedule.strided import strided_loops
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import nest

MODES = ("constant", "reflect", "edge", "wrap")


@dataclass(frozen=True)
class Border:
    """One axis: elements added before and after; negative numbers cut."""

    before: int = 0
    after: int = 0

    @property
    def cut(self) -> int:
        """Elements that are left out at the front."""
        return max(0, -self.before)

    def kept(self, extent: int) -> int:
        """Elements of the input that are in the output."""
        return extent - self.cut - max(0, -self.after)

    def padded(self, extent: int) -> int:
        return extent + self.before + self.after


def borders(context: InferContext) -> tuple[Border, ...]:
    rank = context.rank(0)
    pads, given = context.ints(1) or (), context.ints(3)
    axes = [context.axis(a, rank) for a in given] if given is not None else list(range(rank))
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise context.fail(f"pads {pads} must hold two numbers for each of {len(axes)} different axes")
    found = dict(zip(axes, map(Border, pads[: len(axes)], pads[len(axes) :]), strict=True))
    return tuple(found.get(axis, Border()) for axis in range(rank))


def infer_pad(context: InferContext) -> TensorType:
    shape, mode = context.shape(0), context.attr("mode", "constant")
    if mode not in MODES:
        raise context.fail(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    found = borders(context)
    for axis, (border, extent) in enumerate(zip(found, shape, strict=True)):
        if border.kept(extent) < 0 or border.padded(extent) < 0:
            raise context.fail(f"pads cut more than axis {axis} of {shape} has")
        if border.kept(extent) == 0 and border.padded(extent) > 0 and mode != "constant":
            raise context.fail(f"axis {axis} of {shape} has no element to pad with")
    return TensorType(context.dtype(0), tuple(border.padded(e) for border, e in zip(found, shape, strict=True)))


@nest("Pad", infer=infer_pad, values=(1, 3), prologue=True, epilogue=True)
def pad(op: Op, b: Builder) -> None:
    """y[i] = x[i - before] inside, else the pad value (constant) or the element that ``source`` names

    Rows inside along all outer axes are a left border, a copy, and a right border.
    """
    x, y = op.input(0), op.output(0)
    mode, found = op.attr("mode", "constant"), borders(op)
    if not y.rank:
        y.store((), x())
        return
    fill = op.input(2)(*[ir.ZERO] * op.input(2).rank) if op.has(2) else ir.wrap(0, y.dtype)
    *outer, last = found

    def row(place: list[ir.Expr]) -> None:
        inside: ir.Expr = ir.TRUE
        at: list[ir.Expr] = []
        for i, border, extent in zip(place, outer, x.shape, strict=False):
            if border == Border():
                at.append(i)
            elif mode == "constant":
                at.append(i - border.before)
                inside = ir.all_of(inside, *_inside(at[-1], border, extent))
            else:
                at.append(b.let("at", source(mode, i - border.before, border, extent)))
        if isinstance(inside, ir.Const):
            columns(place, at)
            return
        with b.when(inside):
            columns(place, at)
        with b.otherwise(), b.loop("j", y.shape[-1], "vector") as j:
            y.store([*place, j], fill)

    def columns(place: list[ir.Expr], at: list[ir.Expr]) -> None:
        left, extent = max(0, last.before), x.shape[-1]
        kept = extent - (last.cut + max(0, -last.after))
        parts = ((ir.ZERO, ir.Const(left)), (left + kept, ir.Const(max(0, last.after))))
        with b.loop("j", kept, "vector") as j:
            y.store([*place, j + left], x(*at, j + last.cut))
        for start, count in parts:
            if ir.is_const(count, 0):
                continue
            with b.loop("j", count, "vector") as j:
                column = start + j
                if mode == "constant":
                    y.store([*place, column], fill)
                else:
                    y.store([*place, column], x(*at, source(mode, column - last.before, last, extent)))

    strided_loops(b, y.shape[:-1], row)


def _inside(at: ir.Expr, border: Border, extent: ir.Expr) -> list[ir.Expr]:
    """Conditions for an index of the input to be in the input."""
    conditions: list[ir.Expr] = []
    if border.before > 0:
        conditions.append(ir.Binary("ge", at, ir.ZERO))
    if border.after > 0:
        conditions.append(ir.Binary("lt", at, extent))
    return conditions


def source(mode: str, at: ir.Expr, border: Border, extent: ir.Expr) -> ir.Expr:
    """The index of the input whose element stands at ``at``, which may lie outside of what is kept."""
    first, kept = border.cut, extent - (border.cut + max(0, -border.after))
    at = at - first
    if mode == "edge":
        inside = ir.minimum(ir.maximum(at, ir.ZERO), kept - 1)
    elif mode == "wrap":
        inside = _floor_mod(at, kept)
    else:
        period = ir.maximum((kept - 1) * 2, ir.ONE)
        wrapped = _floor_mod(at, period)
        inside = ir.minimum(wrapped, period - wrapped)
    return inside + first


def _floor_mod(a: ir.Expr, n: ir.Expr) -> ir.Expr:
    return ir.Binary("mod", a, n)
