"""Reductions without a register tile: loops over the output, with the reduction inside.

Neighbouring axes that memory crosses evenly are one axis first. Where the innermost reduced axis is the one that walks memory
element by element, it is the vector loop (the lanes hold partial results); otherwise the output's last axis is, and each lane holds
the result of its own element:

    y[i] = sum_k x[i, k]   ->   for i in parallel: for k in vector: total += x[i, k]
    y[j] = sum_k x[k, j]   ->   for block in parallel: acc[32] = 0; for k: for j in vector(32): acc[j] += x[k, block * 32 + j]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..ops.builder import Builder, neutral
from ..ops.context import Op, Reduce
from ..tensor import Tensor
from .merging import merge_axes

if TYPE_CHECKING:
    from ..lowering import Lowering

BLOCK = 32
"""Elements of the output's last axis that are reduced together: a few registers, so that their latencies overlap."""
WAYS = 4
"""Accumulators for each element where the axis fills but a register or two."""
SHORT = 8
"""A reduced axis with fewer elements does not fill the vectors; the output's last axis is the vector loop then."""


def lower_reduction(lowering: Lowering, op: Op, define: Callable[..., Reduce]) -> None:
    """Emits the loops of a reduction and stores its elements."""
    b = lowering.builder
    tensor = lowering.tensors[op.node.outputs[0]]
    shape = lowering.extents.inner(tensor)
    place: list[ir.Expr] = [ir.ZERO if ir.is_const(e, 1) else ir.Var(f"i{axis}", extent=e) for axis, e in enumerate(shape)]
    index = logical_index(tensor, place)
    reduce = define(*index)
    axes = [ir.Var(name, extent=ir.index(extent)) for name, extent in reduce.axes]
    term = reduce.term(*(ir.ZERO if v.extent is not None and ir.is_const(v.extent, 1) else v for v in axes))
    axes = [v for v in axes if v.extent is not None and not ir.is_const(v.extent, 1)]
    total = ir.Var("total", term.dtype)
    axes, step = merge_axes((ir.Assign(total, ir.Binary(reduce.op, total, term)),), axes)
    with b.collect() as finish:
        lowering.write(tensor.name, index, reduce.finish(total))
    first = reduce.first if reduce.first is not None else neutral(reduce.op, term.dtype)
    body = (ir.Declare(total, first), *nested(axes, step), *finish)
    loops, body = merge_axes(body, [v for v in place if isinstance(v, ir.Var)])
    _Schedule(b, total, loops, axes, body, keep_last=bool(tensor.layout.block)).emit()


@dataclass
class _Schedule:
    """``body``, inside of ``loops``, is Declare(total), serial loops over ``axes`` around one Assign, and what stores the result."""

    b: Builder
    total: ir.Var
    loops: list[ir.Var]
    axes: list[ir.Var]
    body: ir.Body
    keep_last: bool

    def emit(self) -> None:
        if self.along():
            axis = self.axes[-1]
            self.inside(self.loops, _with_kind(self.body, axis, "vector"))
            return
        if not self.loops:
            self.inside([], self.body)
            return
        *outer, last = self.loops
        assert last.extent is not None
        size = ir.hint(last.extent)
        if self.axes and isinstance(last.extent, ir.Const) and size <= BLOCK and self.uniform():
            self.inside(outer, self.blocked(last, ir.ZERO, size, WAYS))
            return
        if self.keep_last or size < 2 * BLOCK or not self.uniform():
            self.inside(outer, (ir.For(last, last.extent, self.body, "vector"),))
            return
        block = ir.Var("block", extent=(last.extent + (BLOCK - 1)) // BLOCK)
        start = block * BLOCK
        whole = self.blocked(last, start, BLOCK, 1)
        if size % BLOCK:
            lane = ir.Var(last.name, extent=last.extent - start)
            assert lane.extent is not None
            rest = ir.For(lane, lane.extent, _substituted(self.body, {last: start + lane}), "vector")
            whole = (ir.If(start + BLOCK <= last.extent, whole, (rest,)),)
        self.inside([*outer, block], whole)

    def along(self) -> bool:
        """Whether the last reduced axis is the vector loop."""
        if not self.axes:
            return False
        axis, last = self.axes[-1], self.loops[-1] if self.loops else None
        assert axis.extent is not None
        if last is None:
            return True
        assert last.extent is not None
        if _walks(self.body, last):
            return False
        return _walks(self.body, axis) and (ir.hint(axis.extent) >= SHORT or ir.hint(last.extent) < SHORT)

    def uniform(self) -> bool:
        """Whether nothing in the body is wider than the accumulators, which would change the number of lanes."""
        bits = self.total.dtype.itemsize
        for stmt in ir.statements(self.body):
            if isinstance(stmt, ir.Store) and stmt.buffer.dtype.itemsize > bits:
                return False
            for e in ir.expressions(stmt):
                if any(isinstance(x, ir.Load | ir.Cast) and x.dtype.itemsize > bits for x in ir.walk(e)):
                    return False
        return True

    def blocked(self, last: ir.Var, start: ir.Expr, size: int, ways: int) -> ir.Body:
        """``size`` elements of the last axis, each with ``ways`` accumulators in registers, between which the last reduced axis is cut."""
        acc = _Accumulators(self.total, last, start, size, ways)
        declare, reduction, *finish = self.body
        assert isinstance(declare, ir.Declare) and isinstance(reduction, ir.Assign | ir.For)
        op = _operation(reduction)

        def inner(stmt: ir.Stmt) -> ir.Body:
            if not isinstance(stmt, ir.For):
                return (acc.each((stmt,)),)
            if stmt.var is self.axes[-1] and ways > 1:
                return acc.shared(stmt)
            return (ir.For(stmt.var, stmt.extent, tuple(s for child in stmt.body for s in inner(child)), stmt.kind),)

        begin = [acc.each((ir.Assign(self.total, declare.value),))]
        begin += [acc.each((ir.Assign(self.total, neutral(op, self.total.dtype)),), ir.Const(way)) for way in range(1, ways)]
        joined = [acc.join(op, way) for way in range(1, ways)]
        return (ir.Alloc(acc.buffer), *begin, *inner(reduction), *joined, acc.each(tuple(finish)))

    def inside(self, loops: Sequence[ir.Var], body: ir.Body) -> None:
        for stmt in nested(loops, body, "parallel"):
            self.b.emit(stmt)


class _Accumulators:
    """Registers that stand for ``total``: ``ways`` times one for each of ``size`` elements of the axis ``last``, from ``start`` on."""

    def __init__(self, total: ir.Var, last: ir.Var, start: ir.Expr, size: int, ways: int) -> None:
        self.total, self.last, self.start, self.ways, self.width = total, last, start, ways, ir.Const(size)
        self.buffer = ir.Buffer("acc", total.dtype, (ir.Const(ways), self.width), (self.width, ir.ONE), "register")

    def each(self, body: ir.Body, way: ir.Expr = ir.ZERO) -> ir.For:
        """``body`` for each element."""
        lane = ir.Var("lane", extent=self.width)
        stored = tuple(
            ir.Store(self.buffer, (way, lane), s.value) if isinstance(s, ir.Assign) and s.var is self.total else s for s in body
        )
        mapping = {self.last: self.start + lane, self.total: self.buffer(way, lane)}
        return ir.For(lane, self.width, _substituted(stored, mapping), "vector")

    def shared(self, loop: ir.For) -> ir.Body:
        """A loop of which iteration i belongs to accumulator i % ways; what is left after whole rounds to the first."""
        rounds, rest = loop.extent // self.ways, loop.extent % self.ways
        turn, left = ir.Var(loop.var.name, extent=rounds), ir.Var(loop.var.name, extent=rest)
        way = ir.Var("way", extent=ir.Const(self.ways))
        whole = self.each(_substituted(loop.body, {loop.var: turn * self.ways + way}), way)
        last = self.each(_substituted(loop.body, {loop.var: rounds * self.ways + left}))
        return (
            ir.For(turn, rounds, (ir.For(way, ir.Const(self.ways), (whole,), "unroll"),)),
            ir.For(left, rest, (last,)),
        )

    def join(self, op: str, way: int) -> ir.For:
        """The first accumulators take in the others."""
        lane = ir.Var("lane", extent=self.width)
        both = ir.Binary(op, self.buffer(0, lane), self.buffer(way, lane))
        return ir.For(lane, self.width, (ir.Store(self.buffer, (ir.ZERO, lane), both),), "vector")


def _operation(stmt: ir.Stmt) -> str:
    """What a reduction's innermost assignment does."""
    while isinstance(stmt, ir.For):
        stmt = stmt.body[0]
    assert isinstance(stmt, ir.Assign) and isinstance(stmt.value, ir.Binary)
    return stmt.value.op


def nested(loops: Sequence[ir.Var], body: ir.Body, kind: ir.LoopKind = "serial") -> ir.Body:
    """``body`` inside of loops, the first outermost."""
    for var in reversed(loops):
        assert var.extent is not None
        body = (ir.For(var, var.extent, body, kind),)
    return body


def _with_kind(body: ir.Body, var: ir.Var, kind: ir.LoopKind) -> ir.Body:
    return tuple(
        ir.For(s.var, s.extent, _with_kind(s.body, var, kind), kind if s.var is var else s.kind) if isinstance(s, ir.For) else s
        for s in body
    )


def _substituted(body: ir.Body, mapping: dict[ir.Var, ir.Expr]) -> ir.Body:
    return ir.map_expressions(body, lambda e: ir.substitute(e, mapping))


def logical_index(tensor: Tensor, place: Sequence[ir.Expr]) -> tuple[ir.Expr, ...]:
    """The logical index of a place in memory."""
    block = tensor.layout.block
    if not block:
        return tuple(place)
    n, c, *rest, lane = place
    return (n, c * block + lane, *rest)


def _walks(body: ir.Body, var: ir.Var) -> bool:
    """Whether some load of what ``body`` reduces moves by one element per step of ``var``."""
    terms = (s.value for s in ir.statements(body) if isinstance(s, ir.Assign))
    return any(isinstance(x, ir.Load) and step_of(x, var) == 1 for e in terms for x in ir.walk(e))


def step_of(load: ir.Load, var: ir.Var) -> int | None:
    """How many elements a load moves when ``var`` grows by one; None where that is not one number."""
    offset = load.buffer.offset(load.index)
    at = [ir.substitute(offset, {var: ir.Const(value)}) for value in (0, 1)]
    others = {v: ir.ZERO for v in ir.walk(offset) if isinstance(v, ir.Var) and v is not var}
    try:
        zero, one = (ir.hint(ir.substitute(e, others)) for e in at)
    except ValueError:
        return None
    return one - zero
