"""A sum of products on a tile of vector registers.

acc[R, V] = 0
for loops:                                   a long sum: in parts, for outer: acc = 0; for inner: acc += ...; total += acc
    for r in unroll(R):
        for v in vector(V):
            acc[r, v] += term(r, v)
for r in unroll(R): for v in vector(V): store(r, v, acc[r, v])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from ...ir import loops as ir
from ..ops.builder import Builder, neutral

PART = 256
"""Products that are summed in one go; longer sums are sums of such parts."""

Store = Callable[[ir.Expr], None]
"""Emits what happens to the sum of an element."""


def register_tile(
    b: Builder,
    row: ir.Var,
    column: ir.Var,
    loops: Sequence[ir.Var],
    term: ir.Expr,
    store: Store,
    *,
    others: Sequence[tuple[ir.Expr, Store]] = (),
    parts: int = 0,
    ahead: Callable[[], None] | None = None,
) -> None:
    """Emits the sum of ``term`` over ``loops`` in each cell of a tile, ``row`` (unused where its extent is 1) x ``column``, and what
    ``store`` does with the sum, or instead of it the first of the ``others`` whose condition holds. The first ``parts`` of the loops are
    over parts that are summed first (see ``in_parts``). ``ahead`` emits what stands at the start of the first loop, before those inside
    it."""
    rows, columns = (ir.hint(v.extent) if v.extent is not None else 1 for v in (row, column))
    cell = (row if rows > 1 else ir.ZERO, column)

    def each(emit: Callable[[], None]) -> None:
        with b.collect() as inner:
            emit()
        body: ir.Body = (ir.For(column, ir.Const(columns), tuple(inner), "vector"),)
        if rows > 1:
            body = (ir.For(row, ir.Const(rows), body, "unroll"),)
        b.body.extend(body)

    def cleared(name: str) -> ir.Buffer:
        buffer = b.registers(name, term.dtype, (rows, columns))
        each(lambda: b.store(buffer, cell, neutral("add", term.dtype)))
        return buffer

    def add(buffer: ir.Buffer, value: ir.Expr) -> None:
        each(lambda: b.store(buffer, cell, ir.Binary("add", buffer(*cell), value)))

    def sum_into(buffer: ir.Buffer, loops: Sequence[ir.Var]) -> None:
        with b.nested(loops[:1]):
            if ahead is not None:
                ahead()
            with b.nested(loops[1:]):
                add(buffer, term)

    total = cleared("total" if parts else "acc")
    if parts:
        with b.nested(loops[:parts]):
            part = cleared("acc")
            sum_into(part, loops[parts:])
            add(total, part(*cell))
    else:
        sum_into(total, loops)

    def end(cases: Sequence[tuple[ir.Expr, Store]]) -> None:
        if not cases:
            each(lambda: store(total(*cell)))
            return
        condition, other = cases[0]
        with b.when(condition):
            each(lambda: other(total(*cell)))
        with b.otherwise():
            end(cases[1:])

    end(others)


def in_parts(loops: list[ir.Var], values: list[ir.Expr], most: int = PART) -> tuple[list[ir.Var], list[ir.Expr], int]:
    """Cuts a long sum into parts of at most ``most`` products that are summed first: rounding errors grow with the length of a part
    and with their number, not with the product (Higham, "The accuracy of floating point summation", 1993). Gives the number of loops
    over parts: 1, or 0 for none."""
    if not loops or not isinstance(loops[0].extent, ir.Const) or any(v.extent is None for v in loops):
        return loops, values, 0
    first, extent = loops[0], ir.hint(loops[0].extent)
    each = prod(ir.hint(v.extent) for v in loops[1:] if v.extent is not None)
    length = next((n for n in range(min(extent // 2, max(1, most // each)), 0, -1) if extent % n == 0), extent)
    if length * each < PART // 4 or length == extent or extent * each <= max(PART, most):
        return loops, values, 0
    outer, inner = ir.Var(f"{first.name}_part", extent=ir.Const(extent // length)), ir.Var(first.name, extent=ir.Const(length))
    whole = outer * length + inner if length > 1 else outer
    values = [ir.substitute(v, {first: whole}) for v in values]
    return [outer, *([inner] if length > 1 else []), *loops[1:]], values, 1
