"""Loop IR to LLVM: the body of one ``Tile`` as one function.

A ``vector`` loop is emitted in the single-program-multiple-data way: an expression that depends on the loop variable becomes
a vector, any other stays a scalar. Loads and stores whose offset moves by one element per iteration are vector accesses, by
none are scalar, by anything else go lane by lane. What remains of an extent after whole vectors is done under a mask, or lane
by lane where the target or the dtype has no masked access.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ..ir import loops as ir
from . import arith, transpose
from . import llvm as ll
from .arith import I32, I64, splat
from .bodies import accumulators, computes, constant_extent, has_registers, narrowest, overlap, reduced, registers_of
from .emit_state import Lanes, is_zero, number
from .emit_values import Values
from .tails import repeatable

_STRAIGHT_LINE = 8
"""A constant extent of at most this many vectors is emitted without a loop."""
_ACCUMULATORS = 4
"""Independent partial results of a vector reduction, to hide the latency of its operation."""
_SHORT = 8
"""A loop of at most this many iterations may be unrolled by LLVM."""
_TILE = 6
"""A loop that adds to this many registers has no overhead to save. Unrolled, it would keep what iterations share (neighbouring windows of
a convolution) in registers that it does not have."""
_TWICE = 2
"""Such a loop of at most this many iterations may be unrolled all the same: it would be more of a branch than of a loop."""
_LONG = 8
"""From so many iterations on, such a loop is unrolled all the same, where iterations share nothing: counters and addresses then take fewer
of the instructions that a core starts in a cycle. Rolled, and left after so few iterations, the loop over a block of channels reached 59
GFLOP/s on a core that another thread shared, unrolled twice 72, four times 76, and without a branch 81 (Zen 3)."""
_LEAST_HALF = 4
"""Lanes of the shortest vector that takes the place of one that is longer than a loop."""
_TIMES = (8, 4, 3, 2)
"""How many iterations become one, the first that leaves no rest and lets them share nothing; the most only of all that there are."""


class Emitter(Values):
    """Emits statements at ``builder``."""

    def body(self, body: ir.Body) -> None:
        for stmt in body:
            self.memo = {}
            self.statement(stmt)

    def statement(self, stmt: ir.Stmt) -> None:
        match stmt:
            case ir.For():
                self.loop(stmt)
            case ir.While():
                self.while_(stmt)
            case ir.If():
                self.if_(stmt)
            case ir.Let(var, value):
                self.let(var, value)
            case ir.Declare(var, value):
                self.declare(var, value)
            case ir.Assign(var, value):
                self.assign(var, value)
            case ir.Store(buffer, index, value):
                self.store(buffer, index, value)
            case ir.Prefetch(buffer, index, level):
                self.prefetch(buffer, index, level)
            case ir.Fail():
                self.fail(stmt)
            case ir.Alloc() | ir.Tile():
                self.body(stmt.body if isinstance(stmt, ir.Tile) else ())
            case _:
                raise TypeError(type(stmt).__name__)

    def let(self, var: ir.Var, value: ir.Expr) -> None:
        if self.lanes is not None and var.dtype is ir.INDEX and self.varying(value):
            form = self.linear_form(value)
            if form.step is not None:
                self.linear[var] = form
                self.varying_memo[var] = True
                return
        self.linear.pop(var, None)
        self.values[var] = self.value(value)
        self.varying_memo[var] = arith.lanes_of(self.values[var]) > 1

    def declare(self, var: ir.Var, value: ir.Expr) -> None:
        first = self.value(value)
        if self.lanes is not None and self.lanes.count > 1:
            first = splat(self.builder, first, self.lanes.count)
            self.varying_memo[var] = True
        cell = self.cells.get(var)
        if cell is None or cell.holds is not first.type:
            cell = self.cells[var] = self.stack(first.type, var.name)
        self.builder.store(first, cell)

    def assign(self, var: ir.Var, value: ir.Expr) -> None:
        if var in self.reductions:
            self.accumulate(var, value)
            return
        cell, b = self.cells[var], self.builder
        new = self.value(value)
        if isinstance(cell.holds, ll.VectorType):
            new = splat(b, new, cell.holds.count)
            if self.lanes is not None and self.lanes.mask is not None:
                new = b.select(self.lanes.mask, new, b.load(cell))
        b.store(new, cell)

    def accumulate(self, var: ir.Var, value: ir.Expr) -> None:
        """var = op(var, e) inside a vector loop: each lane keeps a partial result of its own."""
        assert isinstance(value, ir.Binary) and value.a is var and self.lanes is not None
        b, cell = self.builder, self.reductions[var]
        old = b.load(cell)
        term = splat(b, self.value(value.b), self.lanes.count)
        new = arith.binary(b, value.op, var.dtype, old, term)
        for mask in (self.lanes.mask, self.lanes.fresh):
            new = b.select(mask, new, old) if mask is not None else new
        b.store(new, cell)

    def fail(self, stmt: ir.Fail) -> None:
        b = self.builder
        condition, value = self.value(stmt.condition), self.value(ir.cast(stmt.value, ir.INDEX))
        if isinstance(condition.type, ll.VectorType):
            count = condition.type.count
            value = splat(b, value, count)
            if self.lanes is not None and self.lanes.mask is not None:
                condition = b.and_(condition, self.lanes.mask)
            for lane in range(count):
                self.fail_if(b.extract_element(condition, I32(lane)), stmt.code, b.extract_element(value, I32(lane)))
        else:
            self.fail_if(condition, stmt.code, value)

    def fail_if(self, condition: ll.Value, code: int, value: ll.Value) -> None:
        with self.builder.if_then(condition, unlikely=True):
            self.builder.store(value, self.extents)
            self.builder.ret(I64(code))

    def if_(self, stmt: ir.If) -> None:
        condition = self.value(stmt.condition)
        if isinstance(condition.type, ll.VectorType):
            self.masked_branch(condition, stmt.then)
            if stmt.orelse:
                self.masked_branch(self.builder.not_(condition), stmt.orelse)
            return
        if not stmt.orelse:
            with self.builder.if_then(condition):
                self.body(stmt.then)
            return
        with self.builder.if_else(condition) as (then, orelse):
            with then:
                self.body(stmt.then)
            with orelse:
                self.body(stmt.orelse)

    def masked_branch(self, condition: ll.Value, body: ir.Body) -> None:
        """``body`` for the lanes where ``condition`` holds; skipped when there are none."""
        with self.masked(condition) as mask, self.builder.if_then(self.any(mask)):
            self.body(body)

    # --- loops -----------------------------------------------------------------------------------------------------------------

    def loop(self, loop: ir.For) -> None:
        if loop.kind == "unroll":
            for i in range(constant_extent(loop)):
                self.body(self.bodies.at(loop, ir.Const(i)))
        elif loop.kind == "vector" and self.lanes is None:
            self.vector_loop(loop)
        elif self.lanes is not None or not self.transposed(loop):
            lanes = self.target.lanes(self.bodies.width(loop))
            tile = accumulators(loop.body, lanes) >= _TILE
            times = times_of(loop, lanes) if tile else 1
            with self.counted(I64(0), self.value(loop.extent), 1, loop.var.name, _TWICE if tile else _SHORT, times) as i:
                self.values[loop.var] = i
                self.body(loop.body)

    def transposed(self, loop: ir.For) -> bool:
        """Emits loops that transpose a block, in registers; False where ``loop`` is something else."""
        block = transpose.find(loop)
        return block is not None and transpose.emit(self, block, self.target.lanes(self.bodies.width(block.inner)))

    @contextmanager
    def counted(
        self, start: ll.Value, end: ll.Value, step: int, name: str, short: int = _SHORT, times: int = 1
    ) -> Generator[ll.Value]:
        """``for i in range(start, end, step)`` as a rotated loop, which LLVM may unroll, to fold indices, where it and those inside it are
        ``short``, and of which it makes one of ``times`` iterations at last. What else to unroll is the schedule's decision."""
        b, long_loops = self.builder, self.long_loops
        before = b.block
        head, after = b.append_basic_block(f"{name}.loop"), b.append_basic_block(f"{name}.end")
        first, last = number(start), number(end)
        if first is not None and last is not None and first < last:
            b.branch(head)
        else:
            b.cbranch(b.icmp_signed("<", start, end), head, after)
        b.dominates(before, head, after)
        b.position_at_end(head)
        i = b.phi(I64, name=name)
        i.add_incoming(start, before)
        yield i
        following = b.add(i, I64(step), flags=("nsw",))
        i.add_incoming(following, b.block)
        rolled = self.long_loops > long_loops or not is_short(start, end, step, short)
        b.cbranch(b.icmp_signed("<", following, end), head, after, rolled=rolled, times=times)
        self.long_loops += rolled
        b.position_at_end(after)

    def while_(self, stmt: ir.While) -> None:
        b = self.builder
        head, inside, after = (b.append_basic_block(f"while.{part}") for part in ("head", "body", "end"))
        b.branch(head)
        b.position_at_end(head)
        b.cbranch(self.value(stmt.condition), inside, after)
        b.position_at_end(inside)
        self.body(stmt.body)
        b.branch(head)
        b.position_at_end(after)

    def vector_loop(self, loop: ir.For) -> None:
        count, totals = self.target.lanes(self.bodies.width(loop)), reduced(loop)
        extent = loop.extent.value if isinstance(loop.extent, ir.Const) else None
        if isinstance(extent, int) and extent <= _STRAIGHT_LINE * count and not totals:
            self.straight_vectors(loop, extent, count)
            return
        ways = _ACCUMULATORS if totals and not computes(loop.body) else 1
        b = self.builder
        total = self.value(loop.extent)
        partials = {var: [self.partial(var, op, count) for _ in range(ways)] for var, op in totals.items()}
        done: ll.Value = I64(0)
        for way_count in dict.fromkeys((ways, 1)):
            step = count * way_count
            end = b.sub(total, b.srem(b.sub(total, done), I64(step)))
            with self.counted(done, end, step, loop.var.name) as i:
                for way in range(way_count):
                    base = b.add(i, I64(way * count)) if way else i
                    self.vector_body(loop, base, count, None, {v: cells[way] for v, cells in partials.items()})
            done = end
        self.remainder(loop, done, total, count, {v: cells[0] for v, cells in partials.items()})
        for var, op in totals.items():
            self.combine(var, op, partials[var])

    def straight_vectors(self, loop: ir.For, extent: int, count: int) -> None:
        for start in range(0, extent, count):
            lane = ir.Var(loop.var.name, extent=ir.Const(count))
            shifted = ir.For(lane, ir.Const(count), self.bodies.at(loop, ir.add(lane, ir.Const(start))), "vector")
            left = extent - start
            if left >= count:
                self.vector_body(shifted, I64(0), count, None, {})
            elif left > 0 and start and self.may_overlap(loop):
                last = ir.For(lane, ir.Const(count), self.bodies.at(loop, ir.add(lane, ir.Const(extent - count))), "vector")
                self.vector_body(last, I64(0), count, None, {})
            elif left > 0:
                self.remainder(shifted, I64(0), I64(left), count, {})

    def remainder(self, loop: ir.For, start: ll.Value, end: ll.Value, count: int, partials: dict[ir.Var, ll.Cell]) -> None:
        """The last iterations, fewer than a vector."""
        b = self.builder
        if count == 1:
            return
        if (self.target.masked and narrowest(loop.body) >= 32) or has_registers(loop.body):
            with b.if_then(b.icmp_signed("<", start, end)):
                iota = ll.Constant(ll.VectorType(I64, count), [I64(i) for i in range(count)])
                mask = b.icmp_signed("<", iota, splat(b, b.sub(end, start), count))
                self.vector_body(loop, start, count, mask, partials)
            return
        if not self.may_overlap(loop):
            self.one_by_one(loop, start, end)
            return
        if is_zero(start):
            self.half_vectors(loop, end, count, partials)
            return
        with b.if_then(b.icmp_signed("<", start, end)), b.if_else(b.icmp_signed("<", I64(0), start)) as (then, orelse):
            with then:
                self.overlapping_vector(loop, start, end, count, partials)
            with orelse:
                self.half_vectors(loop, end, count, partials)

    def half_vectors(self, loop: ir.For, end: ll.Value, count: int, partials: dict[ir.Var, ll.Cell]) -> None:
        """Fewer iterations than a vector: one by one, unless each is long; then two halves of a vector, if there are as many."""
        b, half = self.builder, count // 2
        if half < _LEAST_HALF or partials or not any(isinstance(stmt, ir.For) for stmt in ir.statements(loop.body)):
            self.one_by_one(loop, I64(0), end)
            return
        with b.if_else(b.icmp_signed(">=", end, I64(half))) as (then, orelse):
            with then, self.counted(I64(0), end, half, f"{loop.var.name}.half") as i:
                last = b.sub(end, I64(half))
                self.vector_body(loop, b.select(b.icmp_signed("<", i, last), i, last), half, None, {})
            with orelse:
                self.one_by_one(loop, I64(0), end)

    def may_overlap(self, loop: ir.For) -> bool:
        return not self.target.masked and not has_registers(loop.body) and repeatable(loop.body, self.shared)

    def one_by_one(self, loop: ir.For, start: ll.Value, end: ll.Value) -> None:
        with self.counted(start, end, 1, f"{loop.var.name}.rest") as i:
            self.values[loop.var] = i
            self.body(loop.body)

    def overlapping_vector(
        self, loop: ir.For, start: ll.Value, end: ll.Value, count: int, partials: dict[ir.Var, ll.Cell]
    ) -> None:
        """The last whole vector of iterations, of which those before ``start`` are done already and do not count in reductions."""
        b = self.builder
        base = b.sub(end, I64(count))
        iota = ll.Constant(ll.VectorType(I64, count), [I64(i) for i in range(count)])
        fresh = b.icmp_signed(">=", iota, splat(b, b.sub(start, base), count)) if partials else None
        self.vector_body(loop, base, count, None, partials, fresh)

    def vector_body(
        self,
        loop: ir.For,
        base: ll.Value,
        count: int,
        mask: ll.Value | None,
        partials: dict[ir.Var, ll.Cell],
        fresh: ll.Value | None = None,
    ) -> None:
        saved = self.lanes, self.varying_memo, self.reductions
        self.lanes, self.varying_memo, self.reductions = Lanes(loop.var, base, count, mask, fresh), {}, partials
        self.body(loop.body)
        self.lanes, self.varying_memo, self.reductions = saved

    def partial(self, var: ir.Var, op: str, count: int) -> ll.Cell:
        type_ = ll.VectorType(arith.value_type(var.dtype), count)
        cell = self.stack(type_, f"{var.name}.partial")
        self.builder.store(arith.constant(type_, arith.identity(op, var.dtype)), cell)
        return cell

    def combine(self, var: ir.Var, op: str, partials: list[ll.Cell]) -> None:
        """Folds the lanes of all partial results into the scalar."""
        b = self.builder
        total = b.load(partials[0])
        for cell in partials[1:]:
            total = arith.binary(b, op, var.dtype, total, b.load(cell))
        while isinstance(total.type, ll.VectorType) and total.type.count > 1:
            half = total.type.count // 2
            undefined = ll.Constant(total.type, ll.Undefined)
            low, high = (
                b.shuffle_vector(total, undefined, ll.Constant(ll.VectorType(I32, half), [I32(start + i) for i in range(half)]))
                for start in (0, half)
            )
            total = arith.binary(b, op, var.dtype, low, high)
        if isinstance(total.type, ll.VectorType):
            total = b.extract_element(total, I32(0))
        cell = self.cells[var]
        b.store(arith.binary(b, op, var.dtype, b.load(cell), total), cell)


def times_of(loop: ir.For, lanes: int) -> int:
    """How many iterations of a loop over a register tile become one: several where it is long and has no loops inside. Not of
    integers, whose products are instructions of their own: LLVM takes those of all iterations first, for which registers do not suffice."""
    if any(buffer.dtype.is_integer for stmt in ir.statements(loop.body) for buffer in registers_of(stmt)):
        return 1
    if not isinstance(loop.extent, ir.Const) or any(
        isinstance(s, ir.For) and s.kind == "serial" for s in ir.statements(loop.body)
    ):
        return 1
    extent = ir.hint(loop.extent)
    ways = (n for n in _TIMES if extent % n == 0 and n in (extent, *_TIMES[1:])) if extent >= _LONG else ()
    return next((n for n in ways if not overlap(loop, n, lanes)), 1)


def is_short(start: ll.Value, end: ll.Value, step: int, iterations: int) -> bool:
    """Whether there are at most so many iterations, as far as is known."""
    first, last = number(start), number(end)
    return first is not None and last is not None and last - first <= iterations * step
