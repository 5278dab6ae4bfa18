"""Expressions of the emitter: a vector where an expression varies between the lanes, a scalar elsewhere."""

from __future__ import annotations

from ..ir import loops as ir
from . import arith
from . import llvm as ll
from .arith import I64, splat
from .emit_memory import Memory
from .emit_state import Linear, is_zero

_WRAPPING = frozenset({"add", "sub", "mul"})
"""Operations that are one instruction, whatever the sign of 64-bit integers. Most of all are of this kind: they compute indices."""


class Values(Memory):
    """Emits expressions, each once within a statement."""

    def varying(self, e: ir.Expr) -> bool:
        """Whether ``e`` differs between the lanes."""
        if self.lanes is None:
            return False
        known = self.varying_memo.get(e)
        if known is None:
            if isinstance(e, ir.Binary):
                known = self.varying(e.a) or self.varying(e.b)
            elif isinstance(e, ir.Var):
                known = e is self.lanes.var
            else:
                known = any(map(self.varying, ir.operands(e)))
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
            case ir.Binary(op, x, y):
                return self.binary(op, x, y)
            case ir.Const(value, dtype):
                return arith.constant(arith.value_type(dtype), value)
            case ir.Var():
                return self.variable(e)
            case ir.Param():
                return self.parameter(e)
            case ir.Load(buffer, index):
                return self.preloaded[e] if e in self.preloaded else self.load(buffer, index)
            case ir.Unary(op, a):
                return arith.unary(b, op, a.dtype, self.value(a))
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
        if a.type is I64 and c.type is I64 and op in _WRAPPING:
            return getattr(self.builder, op)(a, c)
        if x.dtype is ir.INDEX and op in ("floordiv", "mod"):
            low, _ = ir.bounds(x)
            if low is not None and low >= 0:
                a, c = arith.unify(self.builder, a, c)
                return self.builder.udiv(a, c) if op == "floordiv" else self.builder.urem(a, c)
        if op == "dot16":
            return self.dot16(a, c)
        return arith.binary(self.builder, op, x.dtype, a, c)

    def dot16(self, a: ll.Value, c: ll.Value) -> ll.Value:
        """The sum of the products of the halves of 32-bit integers: one instruction on vectors of x86 (PMADDWD)."""
        b = self.builder
        a, c = arith.unify(b, a, c)
        lanes = arith.lanes_of(a)
        name = self.target.dot16(lanes)
        if name is None:
            bits = arith.constant(a.type, 16)
            low = b.mul(b.ashr(b.shl(a, bits), bits), b.ashr(b.shl(c, bits), bits))
            return b.add(low, b.mul(b.ashr(a, bits), b.ashr(c, bits)))
        halves = ll.VectorType(ll.IntType(16), 2 * lanes)
        function = self.intrinsic(name, a.type, [halves, halves])
        return b.call(function, [b.bitcast(a, halves), b.bitcast(c, halves)])

    def parameter(self, param: ir.Param) -> ll.Value:
        if param not in self.values:
            self.values[param] = self.builder.load_first(self.extents, self.places[param], I64, param.name)
        return self.values[param]

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

    def guarded(self, condition: ir.Expr, a: ir.Expr, other: ir.Expr) -> ll.Value:
        """Branches, so that the loads in ``a`` are only made where allowed."""
        b = self.builder
        test, fallback = self.value(condition), self.value(other)
        outer_memo = self.memo
        self.memo = dict(outer_memo)
        if isinstance(test.type, ll.VectorType):
            with self.masked(test) as mask:
                count = arith.lanes_of(mask)
                fallback = splat(b, fallback, count)
                before = b.block
                with b.if_then(self.any(mask)):
                    chosen = b.select(test, splat(b, self.value(a), count), fallback)
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
                    return Linear(getattr(b, op)(p.base, q.base), getattr(b, op)(p.step, q.step))
            case ir.Binary("mul", x, y):
                p, q = self.linear_form(x), self.linear_form(y)
                for moving, still in ((p, q), (q, p)):
                    if moving.step is not None and is_zero(still.step):
                        return Linear(b.mul(moving.base, still.base), b.mul(moving.step, still.base))
            case _:
                pass
        return Linear(I64(0), None)
