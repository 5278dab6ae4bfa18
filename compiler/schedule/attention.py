"""Attention without a matrix of scores: blocks of keys pass by blocks of queries, and the softmax is put right as its maximum grows.

    for heads, blocks of queries in parallel:
        for blocks of keys:
            for tiles of W queries:
                p[j, w]  = score(sum_d k[d, j] * q[d, w])                 register tiles, rows of keys x lanes of queries
                high'[w] = max(high[w], max_j p[j, w])                    before they are stored
                shrink[w] = exp(high[w] - high'[w])
                p[j, w]  = exp(p[j, w] - high'[w]);      sum[w] = sum[w] * shrink[w] + sum_j p[j, w]
                y[e, w]  = y[e, w] * shrink[w] + sum_j v[j, e] * p[j, w]  register tiles, rows of features x lanes of queries
        y[w, e] = y[e, w] / sum[w]

Lanes hold queries: the softmax goes along registers, not across their lanes, and k and v are read where they lie, one broadcast element at
a time, whatever their strides. Few queries do not fill the lanes; there they hold features (see ``attention_rows``).

Sources: Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018); Dao et al., "FlashAttention" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from ...ir import loops as ir
from ..ops.builder import Builder
from ..ops.context import Op
from .attention_operands import Heads, Score, lowest
from .attention_rows import lower_rows
from .register_tile import in_parts, register_tile

QUERIES = 256
"""Queries of a task, at most: with their results they stay in the second-level cache. They all use one copy of a block of keys."""
TASKS = 8
"""Fewer tasks than this have half as many queries."""
KEYS = 128
"""Keys of a block, at most: they and their values stay in the second-level cache, a tile's scores of them in the first."""

KEYS_ALONE = 32
"""The same where there is one tile of queries only, which passes several times by the values: they stay in the first-level cache."""
LARGEST = 4096
"""Queries of a task or keys of a block that may be asked for."""
MANY = 6
"""Tiles of queries that make it worth to copy a block of keys or values that lie scattered over many pages."""


def lower_attention(op: Op, b: Builder, steps: Sequence[Score]) -> None:
    """Emits the loops of ``loopnest.Attention``."""
    heads = Heads(op, steps)
    if heads.by_rows():
        lower_rows(heads, b)
    else:
        _Columns(heads, b).emit()


def blocked(total: int, most: int, unit: int, least: int) -> int:
    """The size, at most ``most`` where that can be, of blocks of ``total`` that makes the fewest tiles of ``unit``, no block being smaller
    than ``least``."""
    if total <= most:
        return total

    def tiles(size: int) -> int:
        whole, rest = divmod(total, size)
        return whole * -(-size // unit) + -(-rest // unit)

    def fits(size: int) -> bool:
        return total % size == 0 or total % size >= least

    sizes = [size for size in range(most, max(most // 2, least - 1), -1) if fits(size)]
    return min(sizes, key=tiles) if sizes else next(size for size in range(most + 1, total + 1) if fits(size))


@dataclass(frozen=True)
class _Tile:
    """Some queries: place ``t`` in scratch memory, the number of the first one, and how many lanes they take."""

    t: ir.Expr
    first: ir.Expr
    width: int

    @property
    def lanes(self) -> ir.Const:
        return ir.Const(self.width)


class _Columns:
    """Emits the loops with queries in the lanes."""

    def __init__(self, heads: Heads, b: Builder) -> None:
        self.h, self.b = heads, b
        heads.scale_queries()
        assert heads.op.target is not None
        self.target = heads.op.target.register_tile()
        self.narrow = heads.op.target.lanes(heads.dtype.bits)
        wide = self.target.vectors * self.narrow
        self.width = wide if heads.m >= wide else self.narrow
        self.least = min(heads.n, max(self.rows(self.narrow), self.narrow))
        most = min(heads.n, KEYS if heads.m > self.width else KEYS_ALONE)
        most = heads.op.choices.take("tile.k", most, range(self.least, LARGEST + 1))
        self.keys = ir.Param("keys", blocked(heads.n, most, self.target.rows, self.least))
        self.padded = heads.m < self.width
        tasks = prod(ir.hint(v.extent) for v in heads.loops if v.extent is not None) * -(-heads.m // QUERIES)
        most = min(heads.m, QUERIES if tasks >= TASKS else QUERIES // 2)
        if not self.padded:
            most = heads.op.choices.take("tile.m", most, range(self.width, LARGEST + 1))
        self.queries = ir.Param("queries", heads.m if self.padded else blocked(heads.m, most, self.narrow, self.width))
        self.d, self.e, self.w = ir.Const(heads.d), ir.Const(heads.e), ir.Const(self.width)

    def rows(self, width: int) -> int:
        """Rows of a register tile of that many lanes."""
        return self.target.rows * self.target.vectors * self.narrow // width

    def emit(self) -> None:
        b, h = self.b, self.h
        tiles = -(-self.queries.hint // self.width)
        most = ir.Const(1) if self.padded else ir.Param("tiles", tiles)
        self.q = b.scratch("q", h.dtype, (most, self.d, self.w))
        self.y = b.scratch("y", h.dtype, (most, self.e, self.w))
        self.high = b.scratch("high", h.dtype, (most, self.w))
        self.sum = b.scratch("sum", h.dtype, (most, self.w))
        self.line = b.scratch("line", h.dtype, (self.w, ir.Const(max(h.d, h.e))))
        self.last = b.scratch("last", h.dtype, (most, self.w)) if h.causal is not None else None
        self.p = b.scratch("p", h.dtype, (self.keys, self.w))
        self.shrink = b.scratch("shrink", h.dtype, (self.w,))
        shapes = {1: (self.keys, self.d), 2: (self.keys, self.e)}
        many = h.m >= MANY * self.width
        copied = [n for n in shapes if h.converted(n) or (many and h.scattered(n))]
        self.copies = {n: b.scratch("copy", h.dtype, shapes[n]) for n in copied}
        self.masks = {n: b.scratch("mask", h.dtype, (self.keys, self.w)) for n in h.by_query()}
        self.rows_of_masks = {n: b.scratch("row", h.dtype, (self.keys,)) for n in h.by_key()}
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
        self.tiles = b.let("tiles", (self.count + (self.narrow - 1)) // self.width)
        self.each_tile(self.begin)
        seen = h.keys if h.causal is None else b.let("seen", ir.minimum(h.keys, start + self.count + h.causal))
        with b.loop("kb", (seen + (self.keys - 1)) // self.keys) as kb:
            k0 = b.let("k0", kb * self.keys)
            n = b.let("n", ir.minimum(self.keys, h.keys - k0))
            for number, memory in self.copies.items():
                with b.loop("j", n) as j, b.loop("c", memory.shape[1], "vector") as c:
                    b.store(memory, (j, c), h.k(c, k0 + j) if number == 1 else h.v(k0 + j, c))
            for number, memory in self.rows_of_masks.items():
                with b.loop("j", n, "vector") as j:
                    b.store(memory, (j,), h.as_score(h.operand(number, ir.ZERO, k0 + j)))
            self.each_tile(lambda tile: self.block(tile, k0, n))
        self.each_tile(self.finish)

    def each_tile(self, emit: Callable[[_Tile], None]) -> None:
        """``emit`` of the tiles. The last one ends with the block of queries: it may do queries of the one before again. It is a narrow one
        where that is enough."""
        b, start = self.b, self.start
        if self.padded:
            emit(_Tile(ir.ZERO, ir.ZERO, self.width))
            return
        with b.loop("t", self.tiles) as t:
            first = b.let("first", start + ir.minimum(t * self.width, self.count - self.width))
            emit(_Tile(t, first, self.width))
        if self.narrow < self.width:
            with b.when(self.tiles * self.width < self.count):
                emit(_Tile(self.tiles, b.let("first", start + self.count - self.narrow), self.narrow))

    def begin(self, tile: _Tile) -> None:
        """Packs the tile's queries, one in each lane. Lanes without one hold zeros."""
        b, h, t = self.b, self.h, tile.t
        if self.padded:
            with b.loop("w", self.w) as w, b.loop("d", self.d, "vector") as d:
                b.store(self.line, (w, d), ir.Const(0.0, h.dtype))
            with b.loop("w", ir.Const(h.m)) as w, b.loop("d", self.d, "vector") as d:
                b.store(self.line, (w, d), h.q(w, d))
        with b.loop("d", self.d) as d, b.loop("w", tile.lanes, "vector") as w:
            query = self.line(w, d) if self.padded else h.q(tile.first + w, d)
            b.store(self.q, (t, d, w), query if h.factor == 1.0 else query * h.factor)
        with b.loop("e", self.e) as e, b.loop("w", tile.lanes, "vector") as w:
            b.store(self.y, (t, e, w), ir.Const(0.0, h.dtype))
        with b.loop("w", tile.lanes, "vector") as w:
            b.store(self.high, (t, w), lowest(h.dtype))
            b.store(self.sum, (t, w), ir.Const(0.0, h.dtype))
            if self.last is not None:
                b.store(self.last, (t, w), ir.cast(tile.first + w + (h.causal or 0), h.dtype))

    # --- a tile of queries and a block of keys -----------------------------------------------------------------------------------

    def block(self, tile: _Tile, k0: ir.Expr, n: ir.Expr) -> None:
        """The tile with the ``n`` keys from ``k0`` on; with a causal mask, those of them that its last query sees."""
        if self.h.causal is None:
            self.seen(tile, k0, n)
            return
        b = self.b
        reach = b.let("reach", tile.first + (tile.width + self.h.causal) - k0)
        with b.when(reach > 0):
            self.seen(tile, k0, b.let("m", ir.minimum(n, ir.maximum(reach, ir.Const(self.least)))))

    def seen(self, tile: _Tile, k0: ir.Expr, n: ir.Expr) -> None:
        for number, memory in self.masks.items():
            self.turn(number, memory, tile, k0, n)
        self.softmax(tile, n, self.scores(tile, k0, n))
        self.values(tile, k0, n)

    def turn(self, number: int, memory: ir.Buffer, tile: _Tile, k0: ir.Expr, n: ir.Expr) -> None:
        """Copies what a step reads of the block, transposed: a row for each key. Squares, the last one up to the end."""
        b, h = self.b, self.h
        size = min(self.narrow, h.n)
        with b.loop("jo", (n + (size - 1)) // size) as jo:
            start = b.let("j0", ir.minimum(jo * size, n - size))
            with b.loop("j", ir.Const(size)) as j, b.loop("w", ir.Const(min(tile.width, h.m)), "vector") as w:
                value = h.operand(number, tile.first + w, k0 + start + j)
                b.store(memory, (start + j, w), h.as_number(h.as_score(value)))

    def scores(self, tile: _Tile, k0: ir.Expr, n: ir.Expr) -> ir.Buffer:
        """p[j, w] = score(sum_d k[d, j] * q[d, w]); gives high'."""
        b, h = self.b, self.h
        high = b.registers("high", h.dtype, (1, tile.width))
        with b.loop("w", tile.lanes, "vector") as w:
            b.store(high, (ir.ZERO, w), self.high(tile.t, w))
        rows = min(self.rows(tile.width), h.n)
        row, column = ir.Var("r", extent=ir.Const(rows)), ir.Var("w", extent=tile.lanes)
        depth = ir.Var("d", extent=self.d)
        loops, (d,), parts = in_parts([depth], [depth])
        with b.loop("jo", (n + (rows - 1)) // rows) as jo:
            j0 = b.let("j0", ir.minimum(jo * rows, n - rows))
            j = j0 + row if rows > 1 else j0

            def read(number: int) -> ir.Expr:
                if number in self.masks:
                    return h.as_operand(number, self.masks[number](j, column))
                if number in self.rows_of_masks:
                    return self.rows_of_masks[number](j)
                return h.as_score(h.operand(number, ir.ZERO, k0 + j))

            def store(total: ir.Expr) -> None:
                score = h.score(total, read)
                if self.last is not None:
                    score = ir.select(ir.cast(k0 + j, h.dtype) <= self.last(tile.t, column), score, float("-inf"))
                score = b.let("score", score)
                b.store(self.p, (j, column), score)
                b.store(high, (ir.ZERO, column), ir.Binary("max_fast", high(ir.ZERO, column), score))

            register_tile(b, row, column, loops, self.k(d, k0, j) * self.q(tile.t, d, column), store, parts=parts)
        return high

    def k(self, d: ir.Expr, k0: ir.Expr, j: ir.Expr) -> ir.Expr:
        """Feature ``d`` of key ``j`` of the block that starts at ``k0``."""
        return self.copies[1](j, d) if 1 in self.copies else self.h.k(d, k0 + j)

    def v(self, k0: ir.Expr, j: ir.Expr, e: ir.Expr) -> ir.Expr:
        return self.copies[2](j, e) if 2 in self.copies else self.h.v(k0 + j, e)

    def softmax(self, tile: _Tile, n: ir.Expr, highest: ir.Buffer) -> None:
        """Scores to exponentials, and the sums so far."""
        b, h, p, t = self.b, self.h, self.p, tile.t
        with b.loop("w", tile.lanes, "vector") as w:
            high = b.let("highest", highest(ir.ZERO, w))
            shrink = b.let("factor", h.power(self.high(t, w) - high))
            total = b.scalar("total", ir.Const(0.0, h.dtype))
            with b.loop("j", n) as j:
                power = b.let("power", h.power(p(j, w) - high))
                b.store(p, (j, w), power)
                b.assign(total, total + power)
            b.store(self.high, (t, w), high)
            b.store(self.sum, (t, w), self.sum(t, w) * shrink + total)
            b.store(self.shrink, (w,), shrink)

    def values(self, tile: _Tile, k0: ir.Expr, n: ir.Expr) -> None:
        """y[e, w] = y[e, w] * shrink[w] + sum_j v[j, e] * p[j, w]"""
        b, t = self.b, tile.t
        j, column = ir.Var("j", extent=n), ir.Var("w", extent=tile.lanes)

        def rows_from(start: ir.Expr, rows: int) -> None:
            row = ir.Var("r", extent=ir.Const(rows))
            e = start + row if rows > 1 else start

            def store(total: ir.Expr) -> None:
                b.store(self.y, (t, e, column), self.y(t, e, column) * self.shrink(column) + total)

            register_tile(b, row, column, [j], self.v(k0, j, e) * self.p(j, column), store)

        rows = self.rows(tile.width)
        tiles, rest = divmod(self.h.e, rows)
        if tiles:
            with b.loop("eo", ir.Const(tiles)) as eo:
                rows_from(eo * rows, rows)
        if rest:
            rows_from(ir.Const(tiles * rows), rest)

    def finish(self, tile: _Tile) -> None:
        """y[w, e] = y[e, w] / sum[w]"""
        b, h, t = self.b, self.h, tile.t
        with b.loop("w", ir.Const(min(tile.width, h.m)), "vector") as w:
            b.store(self.shrink, (w,), h.inverse(self.sum(t, w), tile.first + w))
        with b.loop("w", tile.lanes) as w, b.loop("e", self.e, "vector") as e:
            value = self.y(t, e, w) * self.shrink(w)
            if self.padded:
                b.store(self.line, (w, e), value)
            else:
                h.store(tile.first + w, e, value)
        if self.padded:
            with b.loop("w", ir.Const(h.m)) as w, b.loop("e", self.e, "vector") as e:
                h.store(w, e, self.line(w, e))
