"""What a sum of products reads next, brought closer while it computes: processors foresee neither jumps from one block of channels to the
next, which cross pages, nor that a part of the weights ends and another begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from ...ir import loops as ir
from ..ops.builder import Builder
from .reduction import step_of

LINE = 64
"""Bytes of a cache line."""
AHEAD = 200
"""Cycles by which a line is asked for before it is read: a little more than the latency of the third cache."""
_AT_ONCE = 16
"""Lines that are asked for in one go: processors keep track of about 24."""
_SHORTEST = 16
"""Iterations, at least, of a loop inside of one that asks for lines."""
_NEAR = 256
"""Elements; what processors foresee by themselves moves by fewer."""


def blocks_ahead(b: Builder, load: ir.Load, loops: Sequence[ir.Var], row: ir.Var, cycles: float, prefetch: int = AHEAD) -> None:
    """Inside of the first of ``loops``, if it is so long: the lines that ``load`` reads ``prefetch`` cycles later. One product takes
    ``cycles``."""
    step = step_of(load, loops[0]) if loops else None
    if step is None or abs(step) < _NEAR:
        return
    outer, inner = loops[0], loops[1:]
    each = cycles * prod(ir.hint(v.extent) for v in inner if v.extent is not None)
    distance = max(1, round(prefetch / each))
    if outer.extent is not None and ir.hint(outer.extent) <= distance:
        return
    for at in _lines(load, inner, row):
        place = {outer: outer + distance, **at}
        b.emit(ir.Prefetch(load.buffer, tuple(ir.substitute(i, place) for i in load.index)))


def _lines(load: ir.Load, inner: Sequence[ir.Var], row: ir.Var) -> Iterator[dict[ir.Var, ir.Expr]]:
    """Values of the inner loops' variables and the row for which ``load`` reads all lines of a tile, few of them twice."""
    loads: list[dict[ir.Var, ir.Expr]] = [{}]
    for var in (*inner, row):
        extent, step = ir.hint(var.extent) if var.extent is not None else 1, step_of(load, var)
        stride = extent if not step else max(1, LINE // (abs(step) * load.dtype.itemsize))
        last = [] if stride >= extent or (extent - 1) % stride == 0 else [extent - 1]
        loads = [{**at, var: ir.Const(i)} for at in loads for i in (*range(0, extent, stride), *last)]
    yield from loads


def in_steps(loops: Sequence[ir.Var], term: ir.Expr, lines: int) -> tuple[tuple[ir.Var, ...], ir.Expr]:
    """One loop as two, so that ``lines`` can be asked for a few at a time in the outer one, and ``term`` in them; else what is given."""
    extent = loops[0].extent
    if len(loops) != 1 or not isinstance(extent, ir.Const):
        return tuple(loops), term
    count = ir.hint(extent)
    steps = next((n for n in range(2, count // _SHORTEST + 1) if count % n == 0 and lines <= n * _AT_ONCE * 3 // 4), 1)
    if steps == 1:
        return tuple(loops), term
    outer, inner = (ir.Var(f"{loops[0].name}_{part}", extent=ir.Const(n)) for part, n in (("o", steps), ("i", count // steps)))
    return (outer, inner), ir.substitute(term, {loops[0]: outer * (count // steps) + inner})


@dataclass(frozen=True)
class PartAhead:
    """The lines of the next part of a packed operand, which ``load`` reads in the loops ``part``, asked for by ``shares`` tiles in turn,
    of which ``share`` is one: a few before its sum, or, where that were many at once, by each iteration of its first loop."""

    load: ir.Load
    part: tuple[ir.Var, ...]
    share: ir.Expr
    shares: int

    def before(self, b: Builder) -> None:
        if not self.many:
            self._emit(b, self.share, self.shares)

    def inside(self, b: Builder) -> None:
        first, count = self.part[0], ir.hint(self.part[0].extent) if self.part[0].extent is not None else 1
        if self.many and len(self.part) > 2:
            self._emit(b, self.share * count + first, self.shares * count)

    @property
    def many(self) -> bool:
        """Whether there are too many lines to ask for all at once."""
        return self.lines(self.shares) > _AT_ONCE

    @property
    def extent(self) -> int:
        return prod(ir.hint(v.extent) for v in self.part if v.extent is not None)

    def lines(self, shares: int) -> int:
        return -(-self.extent * self.load.dtype.itemsize // (LINE * shares))

    def _emit(self, b: Builder, share: ir.Expr, shares: int) -> None:
        line, lines = LINE // self.load.dtype.itemsize, self.lines(shares)
        *outer, _ = (ir.substitute(i, dict.fromkeys(self.part, ir.ZERO)) for i in self.load.index)
        for i in range(lines):
            b.emit(ir.Prefetch(self.load.buffer, (*outer, share * (lines * line) + (self.extent + i * line)), 2))
