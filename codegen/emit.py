"""Loop IR to LLVM: the body of one ``Tile`` as one function.

A ``vector`` loop is emitted in the single-program-multiple-data way: an expression that depends on the loop variable becomes a vector, any other
stays a scalar. Loads and stores whose offset moves by one element per iteration are vector accesses, by none are scalar, by anything else go
lane by lane. What remains of an extent after whole vectors is done under a mask, or lane by lane where the target or the dtype has no masked access.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import llvmlite.ir as ll

from ..ir import loops as ir
from . import arith, transpose
from .arith import I32, I64, splat
from .tails import repeatable
from .target import Target

_STRAIGHT_LINE = 8
"""A constant extent of at most this many vectors is emitted without a loop."""
_SHUFFLED_STEPS = (2, 3, 4)
"""Strides at which whole vectors are loaded and shuffled; at others each lane is loaded."""
_ACCUMULATORS = 4
"""Independent partial results of a vector reduction, to hide the latency of its operation."""


@dataclass
class Lanes:
    """The vector loop being emitted: iterations base, base + 1, ..., base + count - 1 of ``var``, those in ``mask`` being active.
    Those not in ``fresh`` are done a second time, and do not count in reductions."""

    var: ir.Var
    base: ll.Value
    count: int
    mask: ll.Value | None = None
    fresh: ll.Value | None = None


@dataclass
class Linear:
    """An index as base + step * lane; ``step`` None means that it is not of that form."""

    base: ll.Value
    step: ll.Value | None


@dataclass
class Emitter:
    """Emits statements at ``builder``. ``buffers`` maps arguments to pointers, ``values`` variables to scalars (or vectors, inside a vector loop)."""

    builder: ll.IRBuilder
    target: Target
    extents: ll.Value
    buffers: dict[ir.Buffer, ll.Value]
    values: dict[ir.Expr, ll.Value] = field(default_factory=dict)
    linear: dict[ir.Var, Linear] = field(default_factory=dict)
    cells: dict[ir.Var, ll.Value] = field(default_factory=dict)
    registers: dict[tuple[ir.Buffer, tuple[int, ...]], ll.Value] = field(default_factory=dict)
    reductions: dict[ir.Var, ll.Value] = field(default_factory=dict)
    lanes: Lanes | None = None
    memo: dict[ir.Expr, ll.Value] = field(default_factory=dict)
    varying_memo: dict[ir.Expr, bool] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    """Names of buffers that may be the same memory."""
    preloaded: dict[ir.Expr, ll.Value] = field(default_factory=dict)
    """Loads whose vectors are there already: see ``transpose``."""

    # --- statements ------------------------------------------------------------------------------------------------------------

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
        if cell is None or cell.type.pointee != first.type:
            cell = self.cells[var] = self.stack(first.type, var.name)
        self.builder.store(first, cell)

    def assign(self, var: ir.Var, value: ir.Expr) -> None:
        if var in self.reductions:
            self.accumulate(var, value)
            return
        cell, b = self.cells[var], self.builder
        new = self.value(value)
        if isinstance(cell.type.pointee, ll.VectorType):
            new = splat(b, new, cell.type.pointee.count)
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
            value = splat(b, value, condition.type.count)
            if self.lanes is not None and self.lanes.mask is not None:
                condition = b.and_(condition, self.lanes.mask)
            for lane in range(condition.type.count):
                self.fail_if(b.extract_element(condition, I32(lane)), stmt.code, b.extract_element(value, I32(lane)))
        else:
            self.fail_if(condition, stmt.code, value)

    def fail_if(self, condition: ll.Value, code: int, value: ll.Value) -> None:
        with self.builder.if_then(condition, likely=False):
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

    @contextmanager
    def masked(self, condition: ll.Value) -> Iterator[ll.Value]:
        assert self.lanes is not None
        outer = self.lanes.mask
        self.lanes.mask = condition if outer is None else self.builder.and_(outer, condition)
        try:
            yield self.lanes.mask
        finally:
            self.lanes.mask = outer

    def any(self, mask: ll.Value) -> ll.Value:
        return arith.any_lane(self.builder, mask)

    # --- loops -----------------------------------------------------------------------------------------------------------------

    def loop(self, loop: ir.For) -> None:
        if loop.kind == "unroll":
            for i in range(_constant_extent(loop)):
                self.body(_at(loop, ir.Const(i)))
        elif loop.kind == "vector" and self.lanes is None:
            self.vector_loop(loop)
        elif self.lanes is not None or not self.transposed(loop):
            with self.counted(I64(0), self.value(loop.extent), 1, loop.var.name) as i:
                self.values[loop.var] = i
                self.body(loop.body)

    def transposed(self, loop: ir.For) -> bool:
        """Emits loops that transpose a block, in registers; False where ``loop`` is something else."""
        block = transpose.find(loop)
        return block is not None and transpose.emit(self, block, self.target.lanes(_widest(block.inner.body)))

    @contextmanager
    def counted(self, start: ll.Value, end: ll.Value, step: int, name: str) -> Iterator[ll.Value]:
        """``for i in range(start, end, step)`` as a rotated loop."""
        b = self.builder
        before = b.block
        head, after = b.append_basic_block(f"{name}.loop"), b.append_basic_block(f"{name}.end")
        b.cbranch(b.icmp_signed("<", start, end), head, after)
        b.position_at_end(head)
        i = b.phi(I64, name=name)
        i.add_incoming(start, before)
        yield i
        following = b.add(i, I64(step), flags=("nsw",))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, end), head, after)
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
        count = self.target.lanes(_widest(loop.body))
        extent = loop.extent.value if isinstance(loop.extent, ir.Const) else None
        if isinstance(extent, int) and extent <= _STRAIGHT_LINE * count and not _reduced(loop):
            self.straight_vectors(loop, extent, count)
            return
        reduced = _reduced(loop)
        ways = _ACCUMULATORS if reduced else 1
        b = self.builder
        total = self.value(loop.extent)
        partials = {var: [self.partial(var, op, count) for _ in range(ways)] for var, op in reduced.items()}
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
        for var, op in reduced.items():
            self.combine(var, op, partials[var])

    def straight_vectors(self, loop: ir.For, extent: int, count: int) -> None:
        for start in range(0, extent, count):
            lane = ir.Var(loop.var.name, extent=ir.Const(count))
            shifted = ir.For(lane, ir.Const(count), _at(loop, ir.add(lane, ir.Const(start))), "vector")
            left = extent - start
            if left >= count:
                self.vector_body(shifted, I64(0), count, None, {})
            elif left > 0 and start and self.may_overlap(loop):
                last = ir.For(lane, ir.Const(count), _at(loop, ir.add(lane, ir.Const(extent - count))), "vector")
                self.vector_body(last, I64(0), count, None, {})
            elif left > 0:
                self.remainder(shifted, I64(0), I64(left), count, {})

    def remainder(self, loop: ir.For, start: ll.Value, end: ll.Value, count: int, partials: dict[ir.Var, ll.Value]) -> None:
        """The last iterations, fewer than a vector."""
        b = self.builder
        if count == 1:
            return
        if self.target.masked and _narrowest(loop.body) >= 32 or _has_registers(loop.body):
            with b.if_then(b.icmp_signed("<", start, end)):
                iota = ll.Constant(ll.VectorType(I64, count), [I64(i) for i in range(count)])
                mask = b.icmp_signed("<", iota, splat(b, b.sub(end, start), count))
                self.vector_body(loop, start, count, mask, partials)
            return
        if _is_zero(start) or not self.may_overlap(loop):
            self.one_by_one(loop, start, end)
            return
        with b.if_then(b.icmp_signed("<", start, end)), b.if_else(b.icmp_signed("<", I64(0), start)) as (then, orelse):
            with then:
                self.overlapping_vector(loop, start, end, count, partials)
            with orelse:
                self.one_by_one(loop, start, end)

    def may_overlap(self, loop: ir.For) -> bool:
        return not self.target.masked and not _has_registers(loop.body) and repeatable(loop.body, self.shared)

    def one_by_one(self, loop: ir.For, start: ll.Value, end: ll.Value) -> None:
        with self.counted(start, end, 1, f"{loop.var.name}.rest") as i:
            self.values[loop.var] = i
            self.body(loop.body)

    def overlapping_vector(
        self, loop: ir.For, start: ll.Value, end: ll.Value, count: int, partials: dict[ir.Var, ll.Value]
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
        partials: dict[ir.Var, ll.Value],
        fresh: ll.Value | None = None,
    ) -> None:
        saved = self.lanes, self.varying_memo, self.reductions
        self.lanes, self.varying_memo, self.reductions = Lanes(loop.var, base, count, mask, fresh), {}, partials
        self.body(loop.body)
        self.lanes, self.varying_memo, self.reductions = saved

    def partial(self, var: ir.Var, op: str, count: int) -> ll.Value:
        type_ = ll.VectorType(arith.value_type(var.dtype), count)
        cell = self.stack(type_, f"{var.name}.partial")
        self.builder.store(arith.constant(type_, arith.identity(op, var.dtype)), cell)
        return cell

    def combine(self, var: ir.Var, op: str, partials: list[ll.Value]) -> None:
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

    # --- expressions -----------------------------------------------------------------------------------------------------------

    def varying(self, e: ir.Expr) -> bool:
        """Whether ``e`` differs between the lanes."""
        if self.lanes is None:
            return False
        known = self.varying_memo.get(e)
        if known is None:
            match e:
                case ir.Var():
                    known = e is self.lanes.var
                case ir.Load(buffer) if buffer.scope == "register":
                    known = any(self.varying(i) for i in e.index)
                case _:
                    known = any(self.varying(child) for child in ir.operands(e))
            self.varying_memo[e] = known
        return known

    def value(self, e: ir.Expr) -> ll.Value:
        """``e`` as an LLVM value: a vector where it varies between lanes."""
        found = self.memo.get(e)
        if found is None:
            found = self.memo[e] = self.compute(e)
        return found

    def compute(self, e: ir.Expr) -> ll.Value:
        b = self.builder
        match e:
            case ir.Const(value, dtype):
                return arith.constant(arith.value_type(dtype), value)
            case ir.Param():
                return self.values[e]
            case ir.Var():
                return self.variable(e)
            case ir.Load(buffer, index):
                return self.preloaded[e] if e in self.preloaded else self.load(buffer, index)
            case ir.Unary(op, a):
                return arith.unary(b, op, a.dtype, self.value(a))
            case ir.Binary(op, x, y):
                return self.binary(op, x, y)
            case ir.Select(c, x, y):
                condition, left, right = self.value(c), self.value(x), self.value(y)
                if isinstance(condition.type, ll.VectorType):
                    condition, left, right = arith.unify(b, condition, left, right)
                else:
                    left, right = arith.unify(b, left, right)
                return b.select(condition, left, right)
            case ir.Guarded(c, x, y):
                return self.guarded(c, x, y)
            case ir.Cast(a, dtype, saturate):
                return arith.cast(b, self.value(a), a.dtype, dtype, saturate=saturate)
            case ir.Bitcast(a, dtype):
                source = self.value(a)
                return b.bitcast(source, arith.like(source, arith.value_type(dtype)))
            case _:
                raise TypeError(type(e).__name__)

    def binary(self, op: str, x: ir.Expr, y: ir.Expr) -> ll.Value:
        a, c = self.value(x), self.value(y)
        if x.dtype is ir.INDEX and op in ("floordiv", "mod"):
            low, _ = ir.bounds(x)
            if low is not None and low >= 0:
                a, c = arith.unify(self.builder, a, c)
                return self.builder.udiv(a, c) if op == "floordiv" else self.builder.urem(a, c)
        return arith.binary(self.builder, op, x.dtype, a, c)

    def variable(self, var: ir.Var) -> ll.Value:
        b = self.builder
        if var in self.cells:
            return b.load(self.cells[var])
        if self.lanes is not None and (var is self.lanes.var or var in self.linear):
            form = self.linear_form(var)
            assert form.step is not None
            steps = b.mul(self.iota(), splat(b, form.step, self.lanes.count))
            return b.add(splat(b, form.base, self.lanes.count), steps)
        return self.values[var]

    def iota(self) -> ll.Value:
        assert self.lanes is not None
        return ll.Constant(ll.VectorType(I64, self.lanes.count), [I64(i) for i in range(self.lanes.count)])

    def guarded(self, condition: ir.Expr, a: ir.Expr, other: ir.Expr) -> ll.Value:
        """Branches, so that the loads in ``a`` are only made where allowed."""
        b = self.builder
        test, fallback = self.value(condition), self.value(other)
        outer_memo = self.memo
        self.memo = dict(outer_memo)
        if isinstance(test.type, ll.VectorType):
            with self.masked(test) as mask:
                fallback = splat(b, fallback, mask.type.count)
                before = b.block
                with b.if_then(self.any(mask)):
                    chosen = b.select(test, splat(b, self.value(a), mask.type.count), fallback)
                    inside = b.block
        else:
            count = self.lanes.count if self.lanes is not None and self.varying(a) else 1
            fallback = splat(b, fallback, count)
            before = b.block
            with b.if_then(test):
                chosen = splat(b, self.value(a), arith.lanes_of(fallback))
                inside = b.block
        self.memo = outer_memo
        if chosen.type != fallback.type:
            raise TypeError(f"guarded sides differ: {chosen.type} and {fallback.type}")
        result = b.phi(chosen.type)
        result.add_incoming(fallback, before)
        result.add_incoming(chosen, inside)
        return result

    def linear_form(self, e: ir.Expr) -> Linear:
        """An index expression as base + step * lane."""
        b = self.builder
        if not self.varying(e):
            return Linear(self.value(e), I64(0))
        assert self.lanes is not None
        match e:
            case ir.Var() if e is self.lanes.var:
                return Linear(self.lanes.base, I64(1))
            case ir.Var() if e in self.linear:
                return self.linear[e]
            case ir.Binary("add" | "sub" as op, x, y):
                p, q = self.linear_form(x), self.linear_form(y)
                if p.step is not None and q.step is not None:
                    return Linear(_fold(b, op, p.base, q.base), _fold(b, op, p.step, q.step))
            case ir.Binary("mul", x, y):
                p, q = self.linear_form(x), self.linear_form(y)
                for moving, still in ((p, q), (q, p)):
                    if moving.step is not None and _is_zero(still.step):
                        return Linear(_fold(b, "mul", moving.base, still.base), _fold(b, "mul", moving.step, still.base))
        return Linear(I64(0), None)

    # --- memory ----------------------------------------------------------------------------------------------------------------

    def stack(self, type_: ll.Type, name: str) -> ll.Value:
        """A stack cell, made in the entry block, that LLVM promotes to a register."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(type_, name=name)

    def address(self, buffer: ir.Buffer, offset: ll.Value) -> ll.Value:
        return self.builder.gep(self.buffers[buffer.root], [offset], source_etype=arith.memory_type(buffer.dtype))

    def register(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...]) -> tuple[ll.Value, bool]:
        """The cell of a register buffer's element, or of a whole vector of its last axis, and whether it is a vector."""
        numbers = [i.value for i in index[:-1] if isinstance(i, ir.Const)]
        last = index[-1]
        varying = self.varying(last)
        start = _offset_of(last)
        if len(numbers) != len(index) - 1 or start is None:
            raise ValueError(f"register buffer {buffer.name!r} is indexed by something that is not constant after unrolling")
        key = (buffer, (*(int(n) for n in numbers), start))  # type: ignore[arg-type]
        cell = self.registers.get(key)
        if cell is None:
            element = arith.value_type(buffer.dtype)
            count = self.lanes.count if varying and self.lanes is not None else 1
            cell = self.stack(ll.VectorType(element, count) if count > 1 else element, buffer.name)
            self.registers[key] = cell
        return cell, varying

    def load(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...]) -> ll.Value:
        b = self.builder
        if buffer.scope == "register":
            return b.load(self.register(buffer, index)[0])
        form = self.linear_form(buffer.offset(index)) if self.lanes is not None else None
        element = arith.memory_type(buffer.dtype)
        if form is None or _is_zero(form.step):
            offset = form.base if form is not None else self.value(buffer.offset(index))
            raw = b.load(self.address(buffer, offset), typ=element)
        elif _is_one(form.step):
            raw = self.vector_load(buffer, form.base)
        elif _number(form.step) in _SHUFFLED_STEPS and self.lanes is not None and self.lanes.count > 1 and self.lanes.mask is None:
            raw = self.strided_load(buffer, form.base, _number(form.step) or 0)
        elif form.step is None and (repeated := self.repeated_form(buffer.offset(index))) is not None:
            raw = self.repeated_load(buffer, *repeated)
        else:
            raw = self.gather(buffer, index, form)
        return arith.from_memory(b, raw, buffer.dtype)

    def vector_load(self, buffer: ir.Buffer, offset: ll.Value) -> ll.Value:
        assert self.lanes is not None
        b, element = self.builder, arith.memory_type(buffer.dtype)
        type_ = ll.VectorType(element, self.lanes.count)
        pointer = self.address(buffer, offset)
        alignment = buffer.dtype.itemsize
        if self.lanes.mask is None:
            return b.load(pointer, typ=type_, align=alignment)
        function = self.intrinsic(f"llvm.masked.load.{_mangled(type_)}.p0", type_, [pointer.type, I32, self.lanes.mask.type, type_])
        return b.call(function, [pointer, I32(alignment), self.lanes.mask, ll.Constant(type_, None)])

    def strided_load(self, buffer: ir.Buffer, offset: ll.Value, step: int) -> ll.Value:
        """Every ``step``-th element: whole vectors from the first element to the last, shuffled together."""
        assert self.lanes is not None
        b, count = self.builder, self.lanes.count
        span = (count - 1) * step + 1
        result = ll.Constant(ll.VectorType(arith.memory_type(buffer.dtype), count), ll.Undefined)
        for part in range(step):
            start = min(part * count, span - count)
            loaded = self.vector_load(buffer, _fold(b, "add", offset, I64(start)))
            places = [count + i * step - start if i * step // count == part else i for i in range(count)]
            result = b.shuffle_vector(result, loaded, ll.Constant(ll.VectorType(I32, count), [I32(p) for p in places]))
        return result

    def repeated_form(self, e: ir.Expr) -> tuple[ll.Value, int] | None:
        """An index of the form start + lane // times, as the index of the first lane and ``times``."""
        assert self.lanes is not None
        match e:
            case ir.Binary("floordiv", ir.Var() as var, ir.Const(int() as times)) if var is self.lanes.var:
                whole = self.lanes.mask is None and 1 < times < self.lanes.count and self.lanes.count % times == 0
                return (self.builder.udiv(self.lanes.base, I64(times)), times) if whole else None
            case ir.Binary("add", x, y):
                for moving, still in ((x, y), (y, x)):
                    found = self.repeated_form(moving) if not self.varying(still) else None
                    if found is not None:
                        return _fold(self.builder, "add", found[0], self.value(still)), found[1]
        return None

    def repeated_load(self, buffer: ir.Buffer, start: ll.Value, times: int) -> ll.Value:
        """Each element ``times`` times: a part of a vector, its elements repeated. A vector loop starts at multiples of its lanes."""
        assert self.lanes is not None
        b, count = self.builder, self.lanes.count
        type_ = ll.VectorType(arith.memory_type(buffer.dtype), count // times)
        loaded = b.load(self.address(buffer, start), typ=type_, align=buffer.dtype.itemsize)
        places = ll.Constant(ll.VectorType(I32, count), [I32(i // times) for i in range(count)])
        return b.shuffle_vector(loaded, ll.Constant(type_, ll.Undefined), places)

    def gather(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], form: Linear) -> ll.Value:
        """One scalar load per active lane."""
        assert self.lanes is not None
        b, count, element = self.builder, self.lanes.count, arith.memory_type(buffer.dtype)
        offsets = self.offsets(buffer, index, form)
        result: ll.Value = ll.Constant(ll.VectorType(element, count), None)
        for lane in range(count):
            pointer = self.address(buffer, offsets[lane])
            if self.lanes.mask is None:
                result = b.insert_element(result, b.load(pointer, typ=element), I32(lane))
                continue
            before = b.block
            with b.if_then(b.extract_element(self.lanes.mask, I32(lane))):
                loaded = b.insert_element(result, b.load(pointer, typ=element), I32(lane))
                inside = b.block
            merged = b.phi(result.type)
            merged.add_incoming(result, before)
            merged.add_incoming(loaded, inside)
            result = merged
        return result

    def offsets(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], form: Linear) -> list[ll.Value]:
        """The offset of each lane."""
        assert self.lanes is not None
        b, count = self.builder, self.lanes.count
        if form.step is not None:
            return [_fold(b, "add", form.base, _fold(b, "mul", form.step, I64(lane))) for lane in range(count)]
        vector = splat(b, self.value(buffer.offset(index)), count)
        return [b.extract_element(vector, I32(lane)) for lane in range(count)]

    def store(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], value: ir.Expr) -> None:
        b = self.builder
        new = self.value(value)
        if buffer.scope == "register":
            cell, varying = self.register(buffer, index)
            b.store(splat(b, new, self.lanes.count) if varying and self.lanes is not None else new, cell)
            return
        raw = arith.to_memory(b, new, buffer.dtype)
        form = self.linear_form(buffer.offset(index)) if self.lanes is not None else None
        if form is None or (_is_zero(form.step) and not isinstance(raw.type, ll.VectorType)):
            offset = form.base if form is not None else self.value(buffer.offset(index))
            b.store(raw, self.address(buffer, offset))
            return
        assert self.lanes is not None
        raw = splat(b, raw, self.lanes.count)
        if _is_one(form.step):
            self.vector_store(buffer, form.base, raw)
        else:
            self.scatter(buffer, index, form, raw)

    def vector_store(self, buffer: ir.Buffer, offset: ll.Value, raw: ll.Value) -> None:
        assert self.lanes is not None
        b, pointer, alignment = self.builder, self.address(buffer, offset), buffer.dtype.itemsize
        if self.lanes.mask is None:
            b.store(raw, pointer, align=alignment)
            return
        types = [raw.type, pointer.type, I32, self.lanes.mask.type]
        function = self.intrinsic(f"llvm.masked.store.{_mangled(raw.type)}.p0", ll.VoidType(), types)
        b.call(function, [raw, pointer, I32(alignment), self.lanes.mask])

    def scatter(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], form: Linear, raw: ll.Value) -> None:
        assert self.lanes is not None
        b = self.builder
        offsets = self.offsets(buffer, index, form)
        for lane in range(self.lanes.count):
            pointer = self.address(buffer, offsets[lane])
            element = b.extract_element(raw, I32(lane))
            if self.lanes.mask is None:
                b.store(element, pointer)
                continue
            with b.if_then(b.extract_element(self.lanes.mask, I32(lane))):
                b.store(element, pointer)

    def intrinsic(self, name: str, result: ll.Type, arguments: Iterable[ll.Type]) -> ll.Function:
        module = self.builder.module
        found = module.globals.get(name)
        return found if found is not None else ll.Function(module, ll.FunctionType(result, list(arguments)), name)


# --- facts about bodies -----------------------------------------------------------------------------------------------------------


def _at(loop: ir.For, value: ir.Expr) -> ir.Body:
    """The body of one iteration."""
    return ir.map_expressions(loop.body, lambda e: ir.substitute(e, {loop.var: value}))


def _constant_extent(loop: ir.For) -> int:
    if not isinstance(loop.extent, ir.Const):
        raise ValueError(f"loop {loop.var.name!r} is unrolled, but its extent is not constant")
    return int(loop.extent.value)  # type: ignore[arg-type]


def _memory_bits(body: ir.Body) -> list[int]:
    """The widths of all elements that ``body`` loads or stores (loads inside index expressions left out), and of its scalars."""
    bits: list[int] = []
    for stmt in ir.statements(body):
        if isinstance(stmt, ir.Store | ir.Declare | ir.Assign):
            bits.append((stmt.buffer if isinstance(stmt, ir.Store) else stmt.var).dtype.itemsize * 8)
        if isinstance(stmt, ir.Store | ir.Declare | ir.Assign | ir.Let):
            bits.extend(_loaded_bits(stmt.value))
    return bits or [32]


def _loaded_bits(e: ir.Expr) -> Iterator[int]:
    if isinstance(e, ir.Load):
        yield e.buffer.dtype.itemsize * 8
        return
    if isinstance(e, ir.Cast):
        yield e.dtype.itemsize * 8
    for child in ir.operands(e):
        yield from _loaded_bits(child)


def _widest(body: ir.Body) -> int:
    """The width by which lanes are counted: of the vector registers in use, on which loops must agree, else of the widest element."""
    registers = [b.dtype.bits for b in _registers(body)]
    return max(registers or _memory_bits(body))


def _narrowest(body: ir.Body) -> int:
    return min(_memory_bits(body))


def _has_registers(body: ir.Body) -> bool:
    return any(True for _ in _registers(body))


def _registers(body: ir.Body) -> Iterator[ir.Buffer]:
    """The register buffers that ``body`` loads from or stores to."""
    for stmt in ir.statements(body):
        loads = (x.buffer for e in ir.expressions(stmt) for x in ir.walk(e) if isinstance(x, ir.Load))
        stores = (stmt.buffer,) if isinstance(stmt, ir.Store) else ()
        yield from (buffer for buffer in (*stores, *loads) if buffer.scope == "register")


def _reduced(loop: ir.For) -> dict[ir.Var, str]:
    """The scalars declared outside of ``loop`` that it reduces into, with the operation."""
    inside = {s.var for s in ir.statements(loop.body) if isinstance(s, ir.Declare)}
    found: dict[ir.Var, str] = {}
    for stmt in ir.statements(loop.body):
        if isinstance(stmt, ir.Assign) and stmt.var not in inside:
            if not (isinstance(stmt.value, ir.Binary) and stmt.value.a is stmt.var):
                raise ValueError(f"vector loop {loop.var.name!r} assigns {stmt.var.name!r} in a form that is not a reduction")
            found[stmt.var] = stmt.value.op
    return found


def _offset_of(e: ir.Expr) -> int | None:
    """The constant part of ``lane + constant`` or of a constant."""
    match e:
        case ir.Const(value):
            return int(value)  # type: ignore[arg-type]
        case ir.Var():
            return 0
        case ir.Binary("add", ir.Var(), ir.Const(value)):
            return int(value)  # type: ignore[arg-type]
        case _:
            return None


def _number(value: ll.Value | None) -> int | None:
    return value.constant if isinstance(value, ll.Constant) and isinstance(value.type, ll.IntType) else None


def _is_zero(value: ll.Value | None) -> bool:
    return _number(value) == 0


def _is_one(value: ll.Value | None) -> bool:
    return _number(value) == 1


def _fold(builder: ll.IRBuilder, op: str, a: ll.Value, b: ll.Value) -> ll.Value:
    """add, sub or mul of two indices, folded where a side is a constant that allows it."""
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        return I64({"add": x + y, "sub": x - y, "mul": x * y}[op])
    if y == (1 if op == "mul" else 0):
        return a
    if x == (1 if op == "mul" else 0) and op != "sub":
        return b
    if op == "mul" and (x == 0 or y == 0):
        return I64(0)
    return getattr(builder, op)(a, b)


def _mangled(type_: ll.VectorType) -> str:
    element = type_.element
    name = {ll.FloatType(): "f32", ll.DoubleType(): "f64"}.get(element) or f"i{element.width}"
    return f"v{type_.count}{name}"
