"""Loops over an output: outer ones parallel, the innermost one a vector loop.

for a, b, c in output   ->   for a, b in parallel: for c in vector: ...
for a in output (long)  ->   for chunk in parallel: for i in vector(4096): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir import loops as ir
from ..ops.builder import Builder

CHUNK = 4096
"""Elements of a flat output that one task does."""


def spatial_loops(b: Builder, extents: Sequence[ir.Expr], emit: Callable[[Sequence[ir.Expr]], None]) -> None:
    """Calls ``emit`` with an index into ``extents``, inside loops over all of them. Extents of 1 get no loop."""
    axes = [i for i, extent in enumerate(extents) if not ir.is_const(extent, 1)]
    place: list[ir.Expr] = [ir.ZERO] * len(extents)
    if not axes:
        emit(place)
        return
    *outer, last = axes
    if not outer and ir.hint(extents[last]) >= 2 * CHUNK:
        _chunked(b, extents[last], lambda i: emit([*place[:last], i, *place[last + 1 :]]))
        return
    with b.loops("i", [extents[i] for i in outer], "parallel") as variables:
        for axis, var in zip(outer, variables, strict=True):
            place[axis] = var
        with b.loop("j", extents[last], "vector") as j:
            place[last] = j
            emit(place)


def _chunked(b: Builder, extent: ir.Expr, emit: Callable[[ir.Expr], None]) -> None:
    with b.loop("chunk", (extent + (CHUNK - 1)) // CHUNK, "parallel") as chunk:
        start = chunk * CHUNK
        with b.loop("j", ir.minimum(ir.Const(CHUNK), extent - start), "vector") as j:
            emit(start + j)
