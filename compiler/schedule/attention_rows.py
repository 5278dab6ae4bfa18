"""Attention of a few queries, as when decoding: each passes by the keys on its own, which memory delivers as fast as it can.

for heads, queries in parallel:
    for blocks of keys:
        p[j] = score(sum_d q[d] * k[d, j])            the lanes hold features, which are neighbours in memory
        high' = max(high, max_j p[j]);  shrink = exp(high - high')
        p[j] = exp(p[j] - high');       sum = sum * shrink + sum_j p[j]
        y[e] = y[e] * shrink + sum_j p[j] * v[j, e]
    y[e] = y[e] / sum
"""

from __future__ import annotations

from ...ir import loops as ir
from ..ops.builder import Builder
from .attention_operands import Heads, lowest
from .register_tile import register_tile

KEYS = 512
"""Keys of a block, at most."""


def lower_rows(heads: Heads, b: Builder) -> None:
    """Emits the loops."""
    _Rows(heads, b).emit()


class _Rows:
    def __init__(self, heads: Heads, b: Builder) -> None:
        self.h, self.b = heads, b
        assert heads.op.target is not None
        tile = heads.op.target.register_tile()
        self.columns = tile.rows * tile.vectors * heads.op.target.lanes(heads.dtype.bits)

    def emit(self) -> None:
        b, h = self.b, self.h
        self.keys = ir.Param("keys", min(h.n, h.op.choices.take("tile.k", min(h.n, KEYS), range(1, 8 * KEYS + 1))))
        self.p = b.scratch("p", h.dtype, (self.keys,))
        self.y = b.scratch("y", h.dtype, (ir.Const(h.e),))
        query = ir.Var("i", extent=ir.Const(h.m))
        with b.collect() as body:
            self.query(query if h.m > 1 else ir.ZERO)
        nest: ir.Body = tuple(body)
        for var in reversed([*h.loops, query]):
            assert var.extent is not None
            nest = (ir.For(var, var.extent, nest, "parallel"),)
        b.body.extend(nest)

    def query(self, i: ir.Expr) -> None:
        b, h = self.b, self.h
        with b.loop("e", ir.Const(h.e), "vector") as e:
            b.store(self.y, (e,), ir.Const(0.0, h.dtype))
        high, total = b.scalar("high", lowest(h.dtype)), b.scalar("sum", ir.Const(0.0, h.dtype))
        seen = h.keys if h.causal is None else b.let("seen", ir.minimum(h.keys, i + (h.causal + 1)))
        with b.loop("kb", (seen + (self.keys - 1)) // self.keys) as kb:
            k0 = b.let("k0", kb * self.keys)
            n = b.let("n", ir.minimum(self.keys, seen - k0))
            with b.loop("j", n) as j:
                dot = b.reduce("dot", "add", ir.Const(h.d), lambda d: h.q(i, d) * h.k(d, k0 + j))
                b.store(self.p, (j,), dot)
            shrink = self.softmax(i, k0, n, high, total)
            self.values(k0, n, shrink)
        factor = b.let("factor", h.inverse(total, i))
        with b.loop("e", ir.Const(h.e), "vector") as e:
            h.store(i, e, self.y(e) * factor)

    def softmax(self, i: ir.Expr, k0: ir.Expr, n: ir.Expr, high: ir.Var, total: ir.Var) -> ir.Expr:
        """Products to exponentials; the factor of what is summed so far."""
        b, h, p = self.b, self.h, self.p
        before = b.scalar("before", high)
        top = b.scalar("top", before)
        with b.loop("j", n, "vector") as j:
            score = b.let("score", h.score(p(j), lambda number: h.operand(number, i, k0 + j)))
            b.store(p, (j,), score)
            b.assign(top, ir.Binary("max_fast", top, score))
        b.assign(high, top)
        shrink = b.let("shrink", ir.unary("exp_down", before - top))
        part = b.scalar("part", ir.Const(0.0, h.dtype))
        with b.loop("j", n, "vector") as j:
            power = b.let("power", ir.unary("exp_down", p(j) - top))
            b.store(p, (j,), power)
            b.assign(part, part + power)
        b.assign(total, total * shrink + part)
        return shrink

    def values(self, k0: ir.Expr, n: ir.Expr, shrink: ir.Expr) -> None:
        """y[e] = y[e] * shrink + sum_j p[j] * v[j, e]"""
        b, h = self.b, self.h
        j = ir.Var("j", extent=n)
        for start in range(0, h.e, self.columns):
            column = ir.Var("v", extent=ir.Const(min(self.columns, h.e - start)))
            e = column + start

            def store(value: ir.Expr, e: ir.Expr = e) -> None:
                b.store(self.y, (e,), self.y(e) * shrink + value)

            register_tile(b, ir.Var("r", extent=ir.ONE), column, [j], self.p(j) * h.v(k0 + j, e), store)
