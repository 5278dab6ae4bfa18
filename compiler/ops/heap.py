"""A binary heap in scratch memory, from which TopK and NonMaxSuppression take what comes next."""

from __future__ import annotations

from ...ir import loops as ir
from .builder import Builder


class Heap:
    """A binary heap of values and where they come from, each element worse than its children or equal. ``nan``: whether there may be NaN
    among the values."""

    def __init__(self, b: Builder, values: ir.Buffer, places: ir.Buffer, *, largest: bool, nan: bool = True) -> None:
        self.b, self.values, self.places, self.largest, self.nan = b, values, places, largest, nan

    def better(self, x: ir.Expr, y: ir.Expr, x_is_first: ir.Expr) -> ir.Expr:
        """Whether ``x`` comes before ``y``; of equals the one that stands first."""
        above = x > y if self.largest else x < y
        equal = x.eq(y)
        if x.dtype.is_float and self.nan:
            x_nan, y_nan = ir.unary("isnan", x), ir.unary("isnan", y)
            one, other = (x_nan, y_nan) if self.largest else (y_nan, x_nan)
            above, equal = above | (one & ~other), equal | (x_nan & y_nan)
        return above | (equal & x_is_first)

    def put(self, i: ir.Expr, value: ir.Expr, place: ir.Expr) -> None:
        self.b.store(self.values, (i,), value)
        self.b.store(self.places, (i,), place)

    def rise(self, i: ir.Expr, value: ir.Expr) -> None:
        """Adds element ``i``, which stands after all others, at the end: parents that are better move down."""
        b = self.b
        hole, moving = b.scalar("hole", i), b.scalar("moving", ir.TRUE)
        with b.repeat_while(moving & (hole > 0)):
            parent = b.let("parent", (hole - 1) // 2)
            above = b.let("above", self.values(parent))
            b.assign(moving, self.better(above, value, ir.TRUE))
            with b.when(moving):
                self.put(hole, above, self.places(parent))
                b.assign(hole, parent)
        self.put(hole, value, i)

    def order(self, count: ir.Expr) -> None:
        """Makes a heap of ``count`` elements that lie in any order (Floyd, "Treesort 3", 1964)."""
        b = self.b
        with b.loop("h", count // 2) as i:
            start = b.let("start", count // 2 - 1 - i)
            self.sink(b.let("value", self.values(start)), b.let("place", self.places(start)), count, start)

    def sink(self, value: ir.Expr, place: ir.Expr, count: ir.Expr, start: ir.Expr = ir.ZERO) -> None:
        """Replaces the root of a heap of ``count`` elements, or of the part of it below ``start``: children that are worse move up."""
        b = self.b
        hole, child = b.scalar("hole", start), b.scalar("child", start * 2 + 1)
        with b.repeat_while(child < count):
            right = b.let("right", ir.minimum(child + 1, count - 1))
            is_first = self.places(child) < self.places(right)
            b.assign(child, ir.select(self.better(self.values(child), self.values(right), is_first), right, child))
            below, origin = b.let("below", self.values(child)), b.let("origin", self.places(child))
            with b.when(self.better(value, below, place < origin)):
                self.put(hole, below, origin)
                b.assign(hole, child)
                b.assign(child, child * 2 + 1)
            with b.otherwise():
                b.assign(child, count)
        self.put(hole, value, place)
