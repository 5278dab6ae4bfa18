"""GridSample: the input read at places that another tensor gives (ONNX operator specification, opset 22; any number of spatial axes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op, Operand
from .infer import InferContext
from .registry import nest
from .resize import working_dtype

MODES = {"nearest": 1, "linear": 2, "cubic": 4}
"""Neighbours per axis."""
CUBIC = -0.75
"""The coefficient of cubic convolution."""


def infer_grid_sample(context: InferContext) -> TensorType:
    x, grid = context.shape(0), context.shape(1)
    if len(x) < 3 or len(grid) != len(x) or grid[0] != x[0] or grid[-1] != len(x) - 2:
        raise context.fail(
            f"a grid for the input {x} must have its batch and rank, and {len(x) - 2} coordinates last, not {grid}"
        )
    if context.attr("mode", "linear") not in MODES:
        raise context.fail(f"mode is {context.attr('mode')!r}, expected one of {', '.join(MODES)}")
    if context.attr("padding_mode", "zeros") not in ("zeros", "border", "reflection"):
        raise context.fail(f"padding_mode is {context.attr('padding_mode')!r}, expected zeros, border or reflection")
    if 0 in x[2:]:
        raise context.fail(f"the input {x} has no element to sample")
    return TensorType(context.dtype(0), (*x[:2], *grid[1:-1]))


@dataclass(frozen=True)
class Tap:
    """A neighbour along one axis: its index (int32, always inside), whether it is one, and its weight."""

    index: ir.Expr
    inside: ir.Expr
    weight: ir.Expr | None


@nest("GridSample", infer=infer_grid_sample)
def grid_sample(op: Op, b: Builder) -> None:
    """y[n, c, o] = sum over the neighbours k of the place p = grid[n, o] of weights[k] * x[n, c, k]

    Places and weights are worked out once for all channels.
    """
    x, grid, y = op.input(0), op.input(1), op.output(0)
    dtype = x.dtype if op.attr("mode", "linear") == "nearest" else working_dtype(x.dtype)
    with (
        b.loops("i", (y.shape[0], *y.shape[2:-1]), "parallel") as (n, *outer),
        b.loop("j", y.shape[-1], "vector") as last,
    ):
        o = (*outer, last)
        taps = [Axis(op, b, extent).taps(grid(n, *o, x.rank - 3 - d)) for d, extent in enumerate(x.shape[2:])]
        with b.loop("c", x.shape[1]) as c:
            y.store((n, c, *o), ir.cast(interpolated(x, (n, c), taps, dtype), y.dtype))


def interpolated(x: Operand, channel: tuple[ir.Expr, ...], taps: Sequence[Sequence[Tap]], dtype: DType) -> ir.Expr:
    """The sum over all neighbours of a place of their weights times the elements of ``x`` there, zero outside; ``taps`` of each axis."""
    total: ir.Expr | None = None
    for chosen in product(*taps):
        element = ir.cast(x(*channel, *(ir.cast(tap.index, ir.INDEX) for tap in chosen)), dtype)
        element = ir.select(ir.all_of(*(tap.inside for tap in chosen)), element, ir.wrap(0, dtype))
        for tap in chosen:
            if tap.weight is not None:
                element = element * ir.cast(tap.weight, dtype)
        total = element if total is None else total + element
    assert total is not None
    return total


@dataclass(frozen=True)
class Axis:
    """One spatial axis of the input; ``op`` has the attributes of GridSample."""

    op: Op
    b: Builder
    extent: ir.Expr

    def taps(self, given: ir.Expr) -> list[Tap]:
        """The neighbours of a normalized coordinate in [-1, 1], with what they weigh."""
        return self.taps_at(self.denormalized(given))

    def taps_at(self, at: ir.Expr) -> list[Tap]:
        """The neighbours of a place, counted in elements, with what they weigh."""
        mode, padding, b = self.op.attr("mode", "linear"), self.op.attr("padding_mode", "zeros"), self.b
        if mode == "nearest":
            at = ir.unary("round", at)
        at = b.let("at", at)
        if padding == "border":
            at = b.let("at", self.clamped(at))
        elif padding == "reflection":
            at = b.let("at", self.reflected(at))
        if mode == "nearest":
            return [self.tap(ir.cast(at, dtypes.int32), None)]
        left = b.let("left", ir.unary("floor", at))
        fraction = b.let("fraction", at - left)
        first = b.let("first", ir.cast(left, dtypes.int32))
        if mode == "linear":
            weights = [ir.wrap(1, at.dtype) - fraction, fraction]
        else:
            first, weights = b.let("first", first - 1), cubic_weights(fraction)
        return [self.tap(first + i, b.let("weight", weight)) for i, weight in enumerate(weights)]

    def borders(self, dtype: DType) -> tuple[ir.Expr, ir.Expr]:
        """The outer edges of the first and the last element, their centers with ``align_corners``."""
        aligned = bool(self.op.attr("align_corners", 0))
        low = ir.wrap(0 if aligned else -0.5, dtype)
        return low, low + ir.cast(self.extent - 1 if aligned else self.extent, dtype)

    def inside(self, at: ir.Expr) -> ir.Expr:
        low, high = self.borders(at.dtype)
        return ir.Binary("and", ir.Binary("ge", at, low), ir.Binary("le", at, high))

    def clamped(self, at: ir.Expr) -> ir.Expr:
        """``at``, or the nearest element's center where it lies beyond the borders."""
        nearest = ir.minimum(ir.maximum(at, ir.wrap(0, at.dtype)), ir.cast(self.extent - 1, at.dtype))
        return ir.select(self.inside(at), at, nearest)

    def denormalized(self, given: ir.Expr) -> ir.Expr:
        size, one = ir.cast(self.extent, given.dtype), ir.wrap(1, given.dtype)
        if self.op.attr("align_corners", 0):
            return (given + one) / 2.0 * (size - one)
        return ((given + one) * size - one) / 2.0

    def tap(self, index: ir.Expr, weight: ir.Expr | None) -> Tap:
        padding, b = self.op.attr("padding_mode", "zeros"), self.b
        index = b.let("index", index)
        highest = ir.cast(self.extent - 1, dtypes.int32)
        inside: ir.Expr = ir.TRUE
        if padding == "zeros":
            zero = ir.Const(0, dtypes.int32)
            inside = b.let("inside", ir.Binary("and", ir.Binary("ge", index, zero), ir.Binary("le", index, highest)))
        elif padding == "reflection":
            index = ir.cast(self.reflected(ir.cast(index, dtypes.float32)), dtypes.int32)
        clamped = ir.Binary("min", ir.Binary("max", index, ir.Const(0, dtypes.int32)), highest)
        return Tap(b.let("k", clamped), inside, weight)

    def reflected(self, at: ir.Expr) -> ir.Expr:
        """``at`` reflected at the borders until it is inside."""
        low, high = self.borders(at.dtype)
        span = high - low
        distance = self.b.let("distance", ir.unary("abs", at - low))
        period = ir.maximum(span * 2.0, ir.wrap(1, at.dtype))
        rest = self.b.let("rest", distance - ir.unary("floor", distance / period) * period)
        folded = low + ir.select(ir.Binary("gt", rest, span), period - rest, rest)
        return ir.select(self.inside(at), at, folded)


def cubic_weights(x: ir.Expr) -> list[ir.Expr]:
    """The weights of the four neighbours around a place ``x`` after the second of them (Keys 1981)."""
    a, one = CUBIC, ir.wrap(1, x.dtype)

    def near(t: ir.Expr) -> ir.Expr:
        return (t * (a + 2) - (a + 3)) * t * t + one

    def far(t: ir.Expr) -> ir.Expr:
        return ((t * a - 5 * a) * t + 8 * a) * t - 4 * a

    return [far(x + one), near(x), near(one - x), far(ir.wrap(2, x.dtype) - x)]
