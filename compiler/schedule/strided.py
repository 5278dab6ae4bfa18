"""Loops over elements that are moved: joined where memory allows, vectorized along the axis that costs least, blocked where operands are
transposed against each other.

    y[a, b, c, d] = x[a, b, c, d] + z[d]       ->   for i in parallel: for d in vector
    y[a, b] = x[b, a]                          ->   for a.o, b.o in parallel: for a.i in range(16): for b.i in vector(16)
    y[a, b] = x[indices[a], b]                 ->   for a in parallel: k = indices[a]; check k; for b in vector: y[a, b] = x[k, b]

Statements that do not depend on the inner loops stand outside of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from ...ir import loops as ir
from ..ops.builder import Builder
from .merging import coefficient, merge_axes, polynomial
from .prefetching import LINE

CHUNK = 4096
"""Elements of a flat loop that one task does."""
TASKS = 64
"""Outer loops become parallel until there are this many tasks."""
GRAIN = 1024
"""Elements that a task should do at least."""
PAGE = 4096
"""Bytes of a page of memory."""
BAND = 64
"""Blocks that follow each other before the next row of blocks begins: what they read and write is on no more pages than the processor
knows addresses of (4000x3000 elements take 0.6 of the time)."""
COVER = 0.9
"""The part of an extent that whole blocks of a line are to cover, of what those of half a line do, which take 1.2 of the time."""
SHORT = 8
"""A vector loop of fewer iterations costs as much as a scalar one."""


def strided_loops(b: Builder, extents: Sequence[ir.Expr], emit: Callable[[list[ir.Expr]], None]) -> None:
    """Calls ``emit`` with an index into ``extents`` and lays loops over what it emits. Extents of 1 get no loop.

    ``emit`` may emit lets, checks and stores; with loops or conditions among them, nothing around them is vectorized.
    """
    loops = [ir.Var(f"i{axis}", extent=ir.index(extent)) for axis, extent in enumerate(extents)]
    place: list[ir.Expr] = [ir.ZERO if v.extent is not None and ir.is_const(v.extent, 1) else v for v in loops]
    with b.collect() as collected:
        emit(place)
    halved, body = _split(tuple(collected), [v for v in loops if any(v is i for i in place)])
    remaining, body = merge_axes(body, halved)
    if not remaining:
        once = ir.Var("once", extent=ir.ONE)
        b.emit(ir.For(once, ir.ONE, body, "parallel"))
        return
    for stmt in _Schedule(remaining, body).nest():
        b.emit(stmt)


def ordered_loops(b: Builder, extents: Sequence[ir.Expr], emit: Callable[[list[ir.Expr]], None]) -> None:
    """Calls ``emit`` with an index into ``extents`` and lays loops over what it emits, in their order; the last one is the vector loop."""
    loops = [ir.Var(f"i{axis}", extent=extent) for axis, extent in enumerate(extents)]
    kept = [v for v, extent in zip(loops, extents, strict=True) if not ir.is_const(extent, 1)]
    with b.collect() as collected:
        emit([v if any(v is k for k in kept) else ir.ZERO for v in loops])
    body = tuple(collected)
    for stmt in _Schedule(kept, body).arrange(kept[:-1], kept[-1:]) if kept else body:
        b.emit(stmt)


def _split(body: ir.Body, loops: Sequence[ir.Var]) -> tuple[list[ir.Var], ir.Body]:
    """Loops over whole blocks of channels, used as c // 8 and c % 8, become two, over blocks and inside of them: offsets are sums then."""
    found: list[ir.Var] = []
    mapping: dict[ir.Var, ir.Expr] = {}
    for var in loops:
        size = _block_size(body, var)
        assert var.extent is not None
        if size is None or ir.hint(var.extent) % size:
            found.append(var)
            continue
        block, lane = (
            ir.Var(f"{var.name}_o", extent=ir.floordiv(var.extent, ir.Const(size))),
            ir.Var(f"{var.name}_l", extent=ir.Const(size)),
        )
        mapping[var] = block * size + lane
        found += [block, lane]
    return found, ir.map_expressions(body, lambda e: ir.substitute(e, mapping)) if mapping else body


def _block_size(body: ir.Body, var: ir.Var) -> int | None:
    """The number that ``var`` is divided by with remainder, if there is one."""
    for stmt in ir.statements(body):
        for e in ir.expressions(stmt):
            for x in ir.walk(e):
                if isinstance(x, ir.Binary) and x.op == "mod" and x.a is var and isinstance(x.b, ir.Const):
                    return ir.hint(x.b)
    return None


@dataclass(frozen=True)
class Loop:
    """A loop of the schedule: ``var`` in ``range(extent)``."""

    var: ir.Var
    extent: ir.Expr
    kind: ir.LoopKind

    @property
    def count(self) -> int:
        return _count(self.extent)


def _count(extent: ir.Expr) -> int:
    match extent:
        case ir.Binary("min", ir.Const(value), _):
            return int(value)  # type: ignore[arg-type]
        case _:
            return ir.hint(extent)


@dataclass(frozen=True)
class Access:
    """A load or a store: how its offset depends on loop variables."""

    buffer: ir.Buffer
    index: tuple[ir.Expr, ...]
    is_store: bool

    def step(self, var: ir.Var) -> int | None:
        """Elements that the offset moves by per iteration of ``var``, None where that is not one number."""
        found = coefficient(polynomial(self.buffer.offset(self.index)), var)
        if found is None:
            return None
        try:
            return sum(factor * prod(map(ir.hint, atoms)) for atoms, factor in found.items())
        except ValueError:
            return None


def accesses_of(body: ir.Body) -> list[Access]:
    """Every load and store."""
    found: list[Access] = []
    for stmt in ir.statements(body):
        if isinstance(stmt, ir.Store):
            found.append(Access(stmt.buffer, stmt.index, True))
        found += [
            Access(e.buffer, e.index, False) for top in ir.expressions(stmt) for e in ir.walk(top) if isinstance(e, ir.Load)
        ]
    return found


@dataclass
class _Schedule:
    loops: list[ir.Var]
    body: ir.Body

    def __post_init__(self) -> None:
        self.accesses = accesses_of(self.body)

    def nest(self) -> ir.Body:
        if any(isinstance(s, ir.For | ir.While | ir.If) for s in ir.statements(self.body)):
            return self.arrange(self.loops, [], self.body, _work(self.body))
        vector = self.vector()
        partner = self.partner(vector)
        if partner is not None:
            return self.blocked(vector, partner)
        return self.arrange([v for v in self.loops if v is not vector], [vector])

    # --- which loop becomes what -----------------------------------------------------------------------------------------------

    def vector(self) -> ir.Var:
        """The loop to vectorize: where the fewest accesses go element by element; the innermost one where that is equal."""
        return min(reversed(self.loops), key=self.cost)

    def cost(self, var: ir.Var) -> float:
        assert var.extent is not None
        short = ir.hint(var.extent) < SHORT
        total = 0.0
        for access in self.accesses:
            step = access.step(var)
            if step not in (0, 1):
                total += 1.5 if access.is_store else 1.0
            elif step == 1:
                total += 0.8 if short else 0.1
        return total

    def partner(self, vector: ir.Var) -> ir.Var | None:
        """The loop to block together with ``vector``: along it, an access that jumps per vector iteration is contiguous."""
        assert vector.extent is not None
        if ir.hint(vector.extent) < SHORT:
            return None
        for access in self.accesses:
            step = access.step(vector)
            if step is None or abs(step) * access.buffer.dtype.itemsize < LINE // 2:
                continue
            for var in reversed(self.loops):
                if var is not vector and access.step(var) == 1 and var.extent is not None and ir.hint(var.extent) > 1:
                    return var
        return None

    # --- arranging -------------------------------------------------------------------------------------------------------------

    def blocked(self, vector: ir.Var, partner: ir.Var) -> ir.Body:
        """Blocks of one cache line by one cache line; whole ones with constant extents, those at the border with what is left."""
        line = max(8, LINE // max(a.buffer.dtype.itemsize for a in self.accesses))
        rest = [v for v in self.loops if v not in (vector, partner)]
        blocks: list[ir.Var] = []
        starts: dict[ir.Var, ir.Expr] = {}
        sides: dict[ir.Var, ir.Expr] = {}
        whole: ir.Expr = ir.TRUE
        for var in (vector, partner) if self.reads_in_order(vector, partner) else (partner, vector):
            assert var.extent is not None
            side = _side(ir.hint(var.extent), line)
            if isinstance(var.extent, ir.Const) and ir.hint(var.extent) <= line:
                starts[var], sides[var] = ir.ZERO, var.extent
                continue
            block = ir.Var(f"{var.name}_block", extent=ir.floordiv(var.extent + (side - 1), ir.Const(side)))
            blocks.append(block)
            starts[var], sides[var] = block * side, ir.Const(side)
            whole = ir.all_of(whole, ir.compare("le", starts[var] + side, var.extent))

        def inner(extents: Callable[[ir.Var], ir.Expr]) -> ir.Body:
            across, along = (ir.Var(f"{v.name}_in", extent=extents(v)) for v in (partner, vector))
            mapping: dict[ir.Var, ir.Expr] = {partner: starts[partner] + across, vector: starts[vector] + along}
            body = ir.map_expressions(self.body, lambda e: ir.substitute(e, mapping))
            return _place(body, [Loop(across, extents(partner), "serial"), Loop(along, extents(vector), "vector")])

        def left(var: ir.Var) -> ir.Expr:
            assert var.extent is not None
            return sides[var] if starts[var] is ir.ZERO else ir.minimum(sides[var], ir.sub(var.extent, starts[var]))

        full = inner(lambda var: sides[var])
        body = full if isinstance(whole, ir.Const) else (ir.If(whole, full, inner(left)),)
        work = prod(map(ir.hint, sides.values()))
        if len(blocks) == 2 and _count(_extent(blocks[1])) > BAND:
            *blocks, body = _banded(blocks[0], blocks[1], body)
            work *= BAND
        return self.arrange([*rest, *blocks], [], body, work)

    def reads_in_order(self, vector: ir.Var, partner: ir.Var) -> bool:
        """Whether blocks follow each other along what is read, rather than along what is written: where reads would jump further than
        writes, and by so much that every one of them is on a page of its own."""
        furthest = {True: 0, False: 0}
        for access in self.accesses:
            jump = abs(access.step(partner if access.is_store else vector) or 0) * access.buffer.dtype.itemsize
            furthest[access.is_store] = max(furthest[access.is_store], jump)
        return furthest[False] >= furthest[True] and furthest[False] > PAGE // 2

    def arrange(
        self, outer: Sequence[ir.Var], inner: Sequence[ir.Var], body: ir.Body | None = None, inside: int = 1
    ) -> ir.Body:
        """Parallel loops, serial loops, the vector loop. ``inside``: elements that one execution of ``body`` does."""
        loops = [Loop(v, _extent(v), "serial") for v in outer]
        tail = [Loop(v, _extent(v), "vector") for v in inner]
        body = self.body if body is None else body
        work = inside * prod(loop.count for loop in tail)
        if not loops:
            return _chunked(tail[0], body)
        parallel, serial = self.split(loops, work)
        below = work * prod(loop.count for loop in serial)
        last = parallel[-1]
        if below < GRAIN and prod(p.count for p in parallel) * below > 2 * CHUNK and last.count > 1:
            size = 1 << max(1, (GRAIN // below).bit_length())
            return _nest(parallel[:-1], _rows(last, size, [*serial, *tail], body))
        return _nest(parallel, _place(body, [*serial, *tail]))

    def split(self, loops: list[Loop], work: int) -> tuple[list[Loop], list[Loop]]:
        """The outermost loops that make enough tasks, and the rest."""
        tasks = 1
        for i, loop in enumerate(loops):
            tasks *= loop.count
            below = work * prod(other.count for other in loops[i + 1 :])
            if tasks >= TASKS or below < 2 * GRAIN:
                return [Loop(p.var, p.extent, "parallel") for p in loops[: i + 1]], loops[i + 1 :]
        return [Loop(p.var, p.extent, "parallel") for p in loops], []


def _side(extent: int, line: int) -> int:
    """The side of blocks, one line, or half of it where whole ones cover much more of ``extent`` so."""
    half = max(8, line // 2)
    return line if extent // line * line >= COVER * (extent // half * half) else half


def _extent(var: ir.Var) -> ir.Expr:
    return var.extent if var.extent is not None else ir.ONE


def _banded(outer: ir.Var, inner: ir.Var, body: ir.Body) -> tuple[ir.Var, ir.Var, ir.Body]:
    """Two loops of blocks in bands of the inner one: loops over bands and the outer one, and the loop over a band around ``body``."""
    extent = _extent(inner)
    band = ir.Var("band", extent=ir.floordiv(extent + (BAND - 1), ir.Const(BAND)))
    left = ir.minimum(ir.Const(BAND), ir.sub(extent, band * BAND))
    inside = ir.Var(inner.name, extent=left)
    moved = ir.map_expressions(body, lambda e: ir.substitute(e, {inner: band * BAND + inside}))
    return band, outer, (ir.For(inside, left, moved, "serial"),)


def _chunked(loop: Loop, body: ir.Body) -> ir.Body:
    """One long loop as parallel chunks of it, a short one as a single task."""
    if loop.count < 2 * CHUNK:
        once = Loop(ir.Var("once", extent=ir.ONE), ir.ONE, "parallel")
        return _nest([once], _place(body, [loop]))
    return _rows(loop, CHUNK, [], body, "vector")


def _rows(loop: Loop, size: int, inner: Sequence[Loop], body: ir.Body, kind: ir.LoopKind = "serial") -> ir.Body:
    """``loop`` in parallel chunks of ``size`` iterations, with the loops ``inner`` inside."""
    chunks = ir.floordiv(loop.extent + (size - 1), ir.Const(size))
    chunk = ir.Var("chunk", extent=chunks)
    start = chunk * size
    left = ir.minimum(ir.Const(size), ir.sub(loop.extent, start))
    var = ir.Var(loop.var.name, extent=left)
    moved = ir.map_expressions(body, lambda e: ir.substitute(e, {loop.var: start + var}))
    return _nest([Loop(chunk, chunks, "parallel")], _place(moved, [Loop(var, left, kind), *inner]))


def _nest(loops: Sequence[Loop], body: ir.Body) -> ir.Body:
    for loop in reversed(loops):
        body = (ir.For(loop.var, loop.extent, body, loop.kind),)
    return body


def _place(body: ir.Body, loops: Sequence[Loop]) -> ir.Body:
    """``loops`` around ``body``, each statement inside as few of them as it can be."""
    depth = {loop.var: level for level, loop in enumerate(loops, 1)}
    levels: list[list[ir.Stmt]] = [[] for _ in range(len(loops) + 1)]
    for stmt in body:
        level = len(loops)
        if isinstance(stmt, ir.Let | ir.Fail):
            level = max((_depth(e, depth) for e in ir.expressions(stmt)), default=0)
        if isinstance(stmt, ir.Let):
            depth[stmt.var] = level
        levels[level].append(stmt)
    nested: ir.Body = tuple(levels[-1])
    for level, loop in reversed(list(enumerate(loops))):
        nested = (*levels[level], ir.For(loop.var, loop.extent, nested, loop.kind))
    return nested


def _work(body: ir.Body) -> int:
    """About how many elements one execution of ``body`` does: the longest way through it."""
    most = 1
    for stmt in body:
        times = _count(stmt.extent) if isinstance(stmt, ir.For) else 1
        most = max(most, times * max((_work(inside) for inside in ir.children(stmt)), default=1))
    return most


def _depth(e: ir.Expr, depth: dict[ir.Var, int]) -> int:
    return max((depth.get(x, 0) for x in ir.walk(e) if isinstance(x, ir.Var)), default=0)
