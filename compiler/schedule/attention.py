"""Attention without a matrix of scores: blocks of keys pass by blocks of queries, and the softmax is put right as its maximum grows.

    for heads, blocks of queries in parallel:
        for blocks of keys:
            for tiles of W queries:
                p[j, w]  = score(sum_d k[d, j] * q[d, w])                 register tiles, rows of keys x lanes of queries
                high'[w] = max(high[w], max_j p[j, w]);  shrink[w] = exp(high[w] - high'[w])
                p[j, w]  = exp(p[j, w] - high'[w]);      sum[w] = sum[w] * shrink[w] + sum_j p[j, w]
                y[e, w]  = y[e, w] * shrink[w] + sum_j v[j, e] * p[j, w]  register tiles, rows of features x lanes of queries
        y[w, e] = y[e, w] / sum[w]

Lanes hold queries: the softmax goes along registers, not across their lanes, and k and v are read where they lie, one broadcast element at
a time, whatever their strides. Few queries do not fill the lanes; there they hold features (see ``attention_rows``).

Sources: Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018); Dao et al., "FlashAttention" (2022).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from ...ir import loops as ir
from ..ops.builder import Builder
from ..ops.context import Op
from .attention_operands import Heads, Score, lowest
from .attention_rows import lower_rows
from .register_tile import in_parts, register_tile

QUERIES = 64
"""Queries of a task, at most: with their results they stay in the second-level cache."""
KEYS = 128
"""Keys of a block, at most: they and their values stay in the second-level cache, a tile's scores of them in the first."""


def lower_attention(op: Op, b: Builder, steps: Sequence[Score]) -> None:
    """Emits the loops of ``loopnest.Attention``."""
    heads = Heads(op, steps)
    if heads.by_rows():
        lower_rows(heads, b)
    else:
        _Columns(heads, b).emit()


def blocked(total: int, most: int, unit: int, least: int) -> int:
    """The size, at most ``most``, of blocks of ``total`` that makes the fewest tiles of ``unit``, no block being smaller than ``least``."""
    if total <= most:
        return total

    def tiles(size: int) -> int:
        whole, rest = divmod(total, size)
        return whole * -(-size // unit) + -(-rest // unit)

    sizes = [size for size in range(most, most // 2, -1) if total % size == 0 or total % size >= least]
    return min(sizes, key=tiles)


class _Columns:
    """Emits the loops with queries in the lanes."""

    def __init__(self, heads: Heads, b: Builder) -> None:
        self.h, self.b = heads, b
        assert heads.op.target is not None
        tile = heads.op.target.register_tile()
        lanes = heads.op.target.lanes(heads.dtype.bits)
        wide = tile.vectors * lanes
        self.width = wide if heads.m >= wide else lanes
        self.rows = tile.rows * wide // self.width
        self.key_rows = min(self.rows, heads.n)
        self.least = min(heads.n, max(self.key_rows, lanes))
        self.keys = ir.Param("keys", blocked(heads.n, KEYS, self.key_rows, self.least))
        self.padded = heads.m < self.width
        self.queries = ir.Param("queries", heads.m if self.padded else blocked(heads.m, QUERIES, self.width, self.width))
        self.d, self.e, self.w = ir.Const(heads.d), ir.Const(heads.e), ir.Const(self.width)

    def emit(self) -> None:
        b, h = self.b, self.h
        tiles = -(-self.queries.hint // self.width)
        most = ir.Const(1) if self.padded else ir.Param("tiles", tiles)
        self.q = b.scratch("q", h.dtype, (most, self.d, self.w))
        self.y = b.scratch("y", h.dtype, (most, self.e, self.w))
        self.high = b.scratch("high", h.dtype, (most, self.w))
        self.sum = b.scratch("sum", h.dtype, (most, self.w))
        self.last = b.scratch("last", h.dtype, (most, self.w)) if h.causal is not None else None
        self.p = b.scratch("p", h.dtype, (self.keys, self.w))
        self.shrink = b.scratch("shrink", h.dtype, (self.w,))
        self.masks = {n: b.scratch("mask", h.dtype, (self.keys, self.w)) for n in h.by_query()}
        blocks = ir.Var("block", extent=ir.Param("blocks", -(-h.m // self.queries.hint)))
        with b.collect() as body:
            self.task(b.let("start", blocks * self.queries))
        nest: ir.Body = tuple(body)
        for var in reversed([*h.loops, blocks]):
            assert var.extent is not None
            nest = (ir.For(var, var.extent, nest, "parallel"),)
        b.body.extend(nest)

    def task(self, start: ir.Expr) -> None:
        """One block of queries of one head."""
        b, h = self.b, self.h
        self.start = start
        self.count = b.let("count", ir.minimum(self.queries, h.queries - start))
        self.tiles = ir.ONE if self.padded else b.let("tiles", (self.count + (self.width - 1)) // self.width)
        with self.each_tile() as (t, first):
            self.begin(t, first)
        seen = h.keys if h.causal is None else b.let("seen", ir.minimum(h.keys, start + self.count + h.causal))
        with b.loop("kb", (seen + (self.keys - 1)) // self.keys) as kb:
            k0 = b.let("k0", kb * self.keys)
            n = b.let("n", ir.minimum(self.keys, h.keys - k0))
            with self.each_tile() as (t, first):
                if h.causal is None:
                    self.tile(t, first, k0, n)
                else:
                    reach = b.let("reach", first + (self.width + h.causal) - k0)
                    with b.when(reach > 0):
                        self.tile(t, first, k0, b.let("m", ir.minimum(n, ir.maximum(reach, ir.Const(self.least)))))
        with self.each_tile() as (t, first):
            self.finish(t, first)

    @contextmanager
    def each_tile(self) -> Generator[tuple[ir.Expr, ir.Expr]]:
        """Loops over the tiles, and their first queries. The last tile ends with the block: it may do queries of the one before again."""
        b = self.b
        if self.padded:
            yield ir.ZERO, ir.ZERO
            return
        with b.loop("t", self.tiles) as t:
            yield t, b.let("first", self.start + ir.minimum(t * self.width, self.count - self.width))

    def begin(self, t: ir.Expr, first: ir.Expr) -> None:
        """Packs the tile's queries, one in each lane."""
        b, h = self.b, self.h
        if self.padded:
            self.fill(self.q, t, self.d)
        with b.loop("d", self.d) as d, b.loop("w", ir.Const(min(self.width, h.m)), "vector") as w:
            b.store(self.q, (t, d, w), h.q(first + w, d))
        self.fill(self.y, t, self.e)
        with b.loop("w", self.w, "vector") as w:
            b.store(self.high, (t, w), lowest(h.dtype))
            b.store(self.sum, (t, w), ir.Const(0.0, h.dtype))
            if self.last is not None:
                b.store(self.last, (t, w), ir.cast(first + w + (h.causal or 0), h.dtype))

    def fill(self, buffer: ir.Buffer, t: ir.Expr, rows: ir.Const) -> None:
        with self.b.loop("r", rows) as r, self.b.loop("w", self.w, "vector") as w:
            self.b.store(buffer, (t, r, w), ir.Const(0.0, self.h.dtype))

    # --- a tile of queries and a block of keys -----------------------------------------------------------------------------------

    def tile(self, t: ir.Expr, first: ir.Expr, k0: ir.Expr, n: ir.Expr) -> None:
        for number, memory in self.masks.items():
            self.turn(number, memory, first, k0, n)
        self.scores(t, k0, n)
        self.softmax(t, n)
        self.values(t, k0, n)

    def turn(self, number: int, memory: ir.Buffer, first: ir.Expr, k0: ir.Expr, n: ir.Expr) -> None:
        """Copies what a step reads of the block, transposed: a row for each key. Squares of ``least`` keys, the last one up to the end."""
        b, h = self.b, self.h
        with b.loop("jo", (n + (self.least - 1)) // self.least) as jo:
            start = b.let("j0", ir.minimum(jo * self.least, n - self.least))
            with b.loop("j", ir.Const(self.least)) as j, b.loop("w", ir.Const(min(self.width, h.m)), "vector") as w:
                b.store(memory, (start + j, w), h.as_number(h.operand(number, first + w, k0 + start + j)))

    def scores(self, t: ir.Expr, k0: ir.Expr, n: ir.Expr) -> None:
        """p[j, w] = score(sum_d k[d, j] * q[d, w])"""
        b, h = self.b, self.h
        row, column = ir.Var("r", extent=ir.Const(self.key_rows)), ir.Var("w", extent=self.w)
        depth = ir.Var("d", extent=self.d)
        loops, (d,), parts = in_parts([depth], [depth])
        with b.loop("jo", (n + (self.key_rows - 1)) // self.key_rows) as jo:
            j0 = b.let("j0", ir.minimum(jo * self.key_rows, n - self.key_rows))
            j = j0 + row if self.key_rows > 1 else j0

            def read(number: int) -> ir.Expr:
                memory = self.masks.get(number)
                if memory is None:
                    return h.operand(number, ir.ZERO, k0 + j)
                return h.as_operand(number, memory(j, column))

            def store(total: ir.Expr) -> None:
                score = h.score(total, read)
                if self.last is not None:
                    score = ir.select(ir.cast(k0 + j, h.dtype) <= self.last(t, column), score, float("-inf"))
                b.store(self.p, (j, column), score)

            register_tile(b, row, column, loops, h.k(d, k0 + j) * self.q(t, d, column), store, parts=parts)

    def softmax(self, t: ir.Expr, n: ir.Expr) -> None:
        """Scores to exponentials, and the maxima and sums so far."""
        b, h, p = self.b, self.h, self.p
        with b.loop("w", self.w, "vector") as w:
            before = b.let("before", self.high(t, w))
            high = b.scalar("highest", before)
            with b.loop("j", n) as j:
                b.assign(high, ir.Binary("max_fast", high, p(j, w)))
            shrink = b.let("factor", ir.unary("exp_down", before - high))
            total = b.scalar("total", ir.Const(0.0, h.dtype))
            with b.loop("j", n) as j:
                power = b.let("power", ir.unary("exp_down", p(j, w) - high))
                b.store(p, (j, w), power)
                b.assign(total, total + power)
            b.store(self.high, (t, w), high)
            b.store(self.sum, (t, w), self.sum(t, w) * shrink + total)
            b.store(self.shrink, (w,), shrink)

    def values(self, t: ir.Expr, k0: ir.Expr, n: ir.Expr) -> None:
        """y[e, w] = y[e, w] * shrink[w] + sum_j v[j, e] * p[j, w]"""
        b, h = self.b, self.h
        j, column = ir.Var("j", extent=n), ir.Var("w", extent=self.w)

        def rows_from(start: ir.Expr, rows: int) -> None:
            row = ir.Var("r", extent=ir.Const(rows))
            e = start + row if rows > 1 else start

            def store(total: ir.Expr) -> None:
                b.store(self.y, (t, e, column), self.y(t, e, column) * self.shrink(column) + total)

            register_tile(b, row, column, [j], h.v(k0 + j, e) * self.p(j, column), store)

        tiles, rest = divmod(h.e, self.rows)
        if tiles:
            with b.loop("eo", ir.Const(tiles)) as eo:
                rows_from(eo * self.rows, self.rows)
        if rest:
            rows_from(ir.Const(tiles * self.rows), rest)

    def finish(self, t: ir.Expr, first: ir.Expr) -> None:
        """y[w, e] = y[e, w] / sum[w]"""
        b, h = self.b, self.h
        count = ir.Const(min(self.width, h.m))
        with b.loop("w", count, "vector") as w:
            b.store(self.shrink, (w,), h.inverse(self.sum(t, w), first + w))
        with b.loop("w", count) as w, b.loop("e", self.e, "vector") as e:
            h.store(first + w, e, self.y(t, e, w) * self.shrink(w))
