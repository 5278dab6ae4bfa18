"""Reductions without a register tile: loops over the output, with the reduction inside.

Neighbouring axes that memory crosses evenly are one axis first. Where the innermost reduced axis is the one that walks memory
element by element, it is the vector loop (the lanes hold partial results); otherwise the output's last axis is, and each lane holds
the result of its own element:

    y[i] = sum_k x[i, k]   ->   for i in parallel: for k in vector: total += x[i, k]
    y[j] = sum_k x[k, j]   ->   for block in parallel: for k by 4: for j in vector(256): totals[j] += x[k, j] + ... + x[k + 3, j]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..choices import Choices
from ..ops.builder import Builder, neutral
from ..ops.context import Op, Reduce
from ..tensor import Tensor
from .merging import merge_axes

if TYPE_CHECKING:
    from ..lowering import Lowering

BLOCK = 256
"""Elements of the output's last axis whose totals stay in the first-level cache: long enough to stream through memory."""
ROWS = 4
"""Steps of the reduced axis that are added to the totals at once."""
REGISTERS = 32
"""An output's last axis of at most this constant extent (the channels of a block) has its totals in registers."""
WAYS = 4
"""Accumulators for each element there, so that the latencies of their operations overlap."""
PART = 8192
"""Elements that are summed up to one subtotal."""
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
    _Schedule(b, total, loops, axes, body, lowering.choices).emit()


@dataclass
class _Schedule:
    """``body``, inside of ``loops``, is Declare(total), serial loops over ``axes`` around one Assign, and what stores the result."""

    b: Builder
    total: ir.Var
    loops: list[ir.Var]
    axes: list[ir.Var]
    body: ir.Body
    choices: Choices

    def emit(self) -> None:
        if self.along():
            self.inside(self.loops, self.in_vectors())
            return
        if not self.loops:
            self.inside([], self.body)
            return
        *outer, last = self.loops
        assert last.extent is not None
        size = ir.hint(last.extent)
        if self.axes and isinstance(last.extent, ir.Const) and size <= REGISTERS and self.uniform():
            self.inside(outer, self.in_registers(last, size))
        elif self.axes and size >= SHORT and ir.hint(_extent(self.axes[-1])) >= ROWS:
            block = ir.Var("block", extent=(last.extent + (BLOCK - 1)) // BLOCK)
            self.inside([*outer, block], self.by_rows(last, block * BLOCK))
        else:
            self.inside(outer, (ir.For(last, last.extent, self.body, "vector"),))

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

    def in_vectors(self) -> ir.Body:
        """The last reduced axis as vector loop; the sum of many floats in parts, which errs less."""
        axis = self.axes[-1]
        if self.total.dtype.is_float and ir.hint(_extent(axis)) >= 2 * PART:
            return tuple(s for stmt in self.body for s in _in_parts(stmt, axis))
        return _with_kind(self.body, axis, "vector")

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

    def by_rows(self, last: ir.Var, start: ir.Expr) -> ir.Body:
        """Totals of ``BLOCK`` elements of the last axis in memory, to which ``ROWS`` steps of the last reduced axis are added at once."""
        rows = self.choices.take("unroll", ROWS, (1, 2, 4, 8, 16))
        declare, reduction, *finish = self.body
        assert isinstance(declare, ir.Declare)
        totals = self.b.scratch("totals", self.total.dtype, (BLOCK,))
        count = ir.Var("count")

        def each(body: ir.Body) -> ir.For:
            lane = ir.Var("lane", extent=count)
            return ir.For(lane, count, _with_total(body, self.total, totals, (lane,), {last: start + lane}), "vector")

        def inner(stmt: ir.Stmt) -> ir.Body:
            assert isinstance(stmt, ir.For)
            if stmt.var is not self.axes[-1]:
                return (ir.For(stmt.var, stmt.extent, tuple(s for child in stmt.body for s in inner(child)), stmt.kind),)
            step = stmt.body[0]
            assert isinstance(step, ir.Assign) and isinstance(step.value, ir.Binary)
            op, term = step.value.op, step.value.b
            turn, left = ir.Var(stmt.var.name, extent=stmt.extent // rows), ir.Var(stmt.var.name, extent=stmt.extent % rows)
            terms = [ir.substitute(term, {stmt.var: turn * rows + row}) for row in range(rows)]
            while len(terms) > 1:
                terms = [ir.Binary(op, a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
            rest = ir.substitute(step.value, {stmt.var: stmt.extent // rows * rows + left})
            whole = each((ir.Assign(self.total, ir.Binary(op, self.total, terms[0])),))
            return (*nested([turn], (whole,)), *nested([left], (each((ir.Assign(self.total, rest),)),)))

        shared = ir.Let(count, ir.minimum(ir.Const(BLOCK), _extent(last) - start))
        return (shared, each((ir.Assign(self.total, declare.value),)), *inner(reduction), each(tuple(finish)))

    def in_registers(self, last: ir.Var, size: int) -> ir.Body:
        """``WAYS`` accumulators in registers for each of the ``size`` elements of the last axis, sharing the last reduced axis."""
        ways = self.choices.take("unroll", WAYS, range(1, 13))
        acc = _Accumulators(self.total, last, size, ways)
        declare, reduction, *finish = self.body
        assert isinstance(declare, ir.Declare) and isinstance(reduction, ir.Assign | ir.For)
        op = _operation(reduction)

        def inner(stmt: ir.Stmt) -> ir.Body:
            assert isinstance(stmt, ir.For)
            if stmt.var is self.axes[-1]:
                return acc.shared(stmt)
            return (ir.For(stmt.var, stmt.extent, tuple(s for child in stmt.body for s in inner(child)), stmt.kind),)

        begin = [acc.each((ir.Assign(self.total, declare.value),))]
        begin += [acc.each((ir.Assign(self.total, neutral(op, self.total.dtype)),), ir.Const(way)) for way in range(1, ways)]
        joined = [acc.join(op, way) for way in range(1, ways)]
        return (ir.Alloc(acc.buffer), *begin, *inner(reduction), *joined, acc.each(tuple(finish)))

    def inside(self, loops: Sequence[ir.Var], body: ir.Body) -> None:
        for stmt in nested(loops, body, "parallel"):
            self.b.emit(stmt)


def _extent(var: ir.Var) -> ir.Expr:
    assert var.extent is not None
    return var.extent


class _Accumulators:
    """Registers that stand for ``total``: ``ways`` times one for each of ``size`` elements of the axis ``last``."""

    def __init__(self, total: ir.Var, last: ir.Var, size: int, ways: int) -> None:
        self.total, self.last, self.width, self.ways = total, last, ir.Const(size), ways
        self.buffer = ir.Buffer("acc", total.dtype, (ir.Const(ways), self.width), (self.width, ir.ONE), "register")

    def each(self, body: ir.Body, way: ir.Expr = ir.ZERO) -> ir.For:
        """``body`` for each element."""
        lane = ir.Var("lane", extent=self.width)
        return ir.For(lane, self.width, _with_total(body, self.total, self.buffer, (way, lane), {self.last: lane}), "vector")

    def shared(self, loop: ir.For) -> ir.Body:
        """A loop of which iteration i belongs to accumulator i % ``ways``; what is left after whole rounds to the first."""
        rounds, rest = loop.extent // self.ways, loop.extent % self.ways
        turn, left = ir.Var(loop.var.name, extent=rounds), ir.Var(loop.var.name, extent=rest)
        way = ir.Var("way", extent=ir.Const(self.ways))
        whole = self.each(_substituted(loop.body, {loop.var: turn * self.ways + way}), way)
        last = self.each(_substituted(loop.body, {loop.var: rounds * self.ways + left}))
        return (*nested([turn], nested([way], (whole,), "unroll")), *nested([left], (last,)))

    def join(self, op: str, way: int) -> ir.For:
        """The first accumulators take in the others."""
        lane = ir.Var("lane", extent=self.width)
        both = ir.Binary(op, self.buffer(0, lane), self.buffer(way, lane))
        return ir.For(lane, self.width, (ir.Store(self.buffer, (ir.ZERO, lane), both),), "vector")


def _with_total(
    body: ir.Body, total: ir.Var, memory: ir.Buffer, at: tuple[ir.Expr, ...], mapping: dict[ir.Var, ir.Expr]
) -> ir.Body:
    """``body`` with ``total`` in ``memory``, and variables replaced."""
    stored = tuple(ir.Store(memory, at, s.value) if isinstance(s, ir.Assign) and s.var is total else s for s in body)
    return _substituted(stored, {**mapping, total: memory(*at)})


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


def _in_parts(stmt: ir.Stmt, axis: ir.Var) -> ir.Body:
    """``stmt`` with the loop over ``axis`` in parts of ``PART`` iterations, each a vector loop with a total of its own."""
    if not isinstance(stmt, ir.For):
        return (stmt,)
    if stmt.var is not axis:
        return (ir.For(stmt.var, stmt.extent, tuple(s for child in stmt.body for s in _in_parts(child, axis)), stmt.kind),)
    step = stmt.body[0]
    assert isinstance(step, ir.Assign) and isinstance(step.value, ir.Binary)
    op, total, subtotal = step.value.op, step.var, ir.Var("subtotal", step.var.dtype)
    part = ir.Var("part", extent=(stmt.extent + (PART - 1)) // PART)
    start = part * PART
    i = ir.Var(axis.name, extent=ir.minimum(ir.Const(PART), stmt.extent - start))
    term = ir.substitute(step.value.b, {axis: start + i})
    body = (
        ir.Declare(subtotal, neutral(op, subtotal.dtype)),
        *nested([i], (ir.Assign(subtotal, ir.Binary(op, subtotal, term)),), "vector"),
        ir.Assign(total, ir.Binary(op, total, subtotal)),
    )
    return nested([part], body)


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
    others: dict[ir.Var, ir.Expr] = {v: ir.ZERO for v in ir.walk(offset) if isinstance(v, ir.Var) and v is not var}
    try:
        zero, one = (ir.hint(ir.substitute(e, others)) for e in at)
    except ValueError:
        return None
    return one - zero
