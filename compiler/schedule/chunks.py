"""An axis cut into tasks of nearly equal length: of ``extent`` units in ``count`` chunks, chunk i has those from i * extent // count on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...ir import loops as ir
from ..ops.builder import Builder


@dataclass(frozen=True)
class Chunks:
    """The chunk with a ``number`` among ``count``: units from ``first`` to ``end``, at most ``length``; loops run over ``here``."""

    number: ir.Expr
    count: ir.Expr
    length: ir.Expr
    first: ir.Expr
    end: ir.Expr
    here: ir.Expr
    least: int
    """What the shortest chunk but the last has."""

    def begun(self, b: Builder) -> Chunks:
        """With names for what a task of chunks that differ uses again and again."""
        return (
            self if self.here is self.length else replace(self, first=b.let("first", self.first), here=b.let("here", self.here))
        )


def chunks(name: str, wanted: int, extent: int, bound: ir.Expr, param: Callable[[int], ir.Expr]) -> Chunks:
    """``extent`` units, of which loops run over ``bound``, in ``wanted`` chunks, or as many as there are units."""
    count = max(1, min(wanted, extent))
    length = -(-extent // count)
    if count <= 1:
        return Chunks(ir.ZERO, ir.ONE, bound, ir.ZERO, bound, bound, ir.hint(bound))
    number = ir.Var(name, extent=param(count))
    if count * length == ir.hint(bound):
        each = param(length)
        return Chunks(number, param(count), each, number * each, number * each + each, each, length)
    return nearly_equal(number, param(count), param(length), param(extent), bound)


def nearly_equal(number: ir.Expr, count: ir.Expr, length: ir.Expr, extent: ir.Expr, bound: ir.Expr) -> Chunks:
    """Chunks that differ by one unit at most; ``length`` is extent / count, rounded up."""
    first, end = (at * extent // count for at in (number, number + 1))
    here = ir.minimum(length, ir.minimum(end, bound) - first)
    return Chunks(number, count, length, first, end, here, ir.hint(extent) // ir.hint(count))
