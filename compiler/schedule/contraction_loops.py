"""Emits the loops of a sum of products for one block size of its columns: see ``contraction``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...ir import loops as ir
from .chunks import chunks
from .contraction import Contraction, depends
from .contraction_sums import Sum, sum_loops
from .contraction_tasks import cut
from .halo import zero_halo_of_rows
from .prefetching import AHEAD, LINE, PartAhead, blocks_ahead, in_steps
from .reduction import step_of
from .register_blocks import ColumnBlocks
from .register_tile import PART, register_tile

_JUMP = 1024
"""Bytes from one read to the next that processors do not foresee, and for which lines crowd into few places of the cache."""
_STREAMS = 4
"""Streams that memory should deliver at a time: one alone reaches 19 GB/s where four reach 24 (Zen 3), with or without prefetches."""
_ROWS = 32
"""Rows that pay for a copy of what they all read."""
_FEW_STEPS = 6
"""Operations on a total, at most, that a tile does for each of its elements; with more they are a loop of their own, not unrolled."""

Place = tuple[ir.Expr, ...]
At = Callable[[ir.Expr], tuple[Place, Place]]
"""From a row of a tile to its place in the result and in the totals."""
Finish = Callable[[ir.Expr], ir.Expr]
Write = Callable[[Place, Place, ir.Expr, Finish], None]
"""Emits what happens to a sum, given its place in the result and in the totals, and what finishes it."""
Cases = Sequence[tuple[ir.Expr, Write]]
"""What happens instead where conditions hold, of which the first counts."""


def emit_blocks(a: Contraction, blocks: ColumnBlocks, widest: int) -> None:
    """Emits the loops over ``blocks``. Sums are cut into parts of which ``widest`` columns fit into the first cache: the same for all
    blocks, so that equal columns of weights give equal results (scores that tie stay ties)."""
    cached = a.lowering.target.l1 * 3 // 4 // (widest * a.term.dtype.itemsize)
    part = a.lowering.choices.take("tile.k", min(PART, cached), range(16, 4 * PART + 1))
    _Emission(a, blocks, sum_loops(a, part)).emit()


@dataclass
class _Emission:
    a: Contraction
    blocks: ColumnBlocks
    sum: Sum
    packed: dict[ir.Buffer, tuple[ir.Buffer, tuple[ir.Var, ...]]] = field(default_factory=dict)
    weights: set[ir.Buffer] = field(default_factory=set)
    """Constants in the order of the loops."""
    scaled: ir.Load | None = None
    """Weights that are scaled already: see ``scaling``."""

    def __post_init__(self) -> None:
        a, registers = self.a, self.blocks.registers
        self.b = a.lowering.builder
        self.height, columns = registers.rows, registers.columns
        self.lanes = a.lowering.target.lanes(a.term.dtype.bits)
        self.column = ir.Var("v", extent=ir.Const(columns))
        self.stream = self._stream(columns)
        self.outer = [i for i in range(len(a.axes)) if i not in (a.vector, a.row, a.band) and not ir.is_const(a.extents[i], 1)]
        self.tiles, self.rest = divmod(a.rows, self.height)
        self.tasks = cut(a, self.outer, self.blocks, self.sum)
        groups, each = self.blocks.count // self.tasks.group, self.tasks.group
        self.group: ir.Expr = ir.Var("vo", extent=ir.Const(groups)) if groups > 1 else ir.ZERO
        self.side: tuple[ir.Var, ...] = (ir.Var("vi", extent=ir.Const(each)),) if each > 1 else ()
        self.block = self.group * each + self.side[0] if self.side else self.group

    # --- tasks -----------------------------------------------------------------------------------------------------------------

    def emit(self) -> None:
        """The parallel loops: outer axes, blocks of columns, and as many chunks of rows as make enough tasks."""
        a, b = self.a, self.b
        self._cut(self.tasks.chunks)
        inner = [self.group, self.bands.number, self.strips.number]
        if self.tasks.rows_first:
            inner = [*inner[1:], self.group]
        loops = [*(a.axes[i] for i in self.outer), *(v for v in (a.group, *inner) if isinstance(v, ir.Var))]
        with b.collect() as body:
            self._task()
            self._zero_halo()
        nest: ir.Body = tuple(body)
        for var in reversed(loops or [ir.Var("once", extent=ir.ONE)]):
            assert isinstance(var, ir.Var) and var.extent is not None
            nest = (ir.For(var, var.extent, nest, "parallel"),)
        b.emit(nest[0])

    def _cut(self, wanted: int) -> None:
        """Cuts the band, or the row axis if there is none, into about ``wanted`` chunks."""
        a = self.a
        self.whole = self.row_extent // self.height
        if isinstance(self.row_extent, ir.Const):
            self.whole = ir.Const(self.tiles)
        band = (a.sizes[a.band], a.extents[a.band]) if a.band is not None else (1, ir.ONE)
        self.bands = chunks("band", wanted, *band, a.lowering.extents)
        strips = wanted if a.band is None else 1
        self.strips = chunks("strip", strips, self.tiles + (self.rest > 0), self.whole, a.lowering.extents)

    # --- one task --------------------------------------------------------------------------------------------------------------

    def _task(self) -> None:
        """All rows of a task: part by part of the sum into totals that are finished then, or all at once."""
        a, b = self.a, self.b
        self.bands, self.strips = self.bands.begun(b), self.strips.begun(b)
        if not self.sum.parts:
            self._pack_scratch()
            self._each_tile(lambda place, _, total, finish: a.lowering.write(a.tensor.name, place, finish(total)))
            return
        rows = self.strips.length * self.height if isinstance(self.strips.number, ir.Var) else self.row_extent
        totals = b.scratch(
            "totals", a.term.dtype, (self.bands.length * self.tasks.group, rows, ir.Const(self.blocks.registers.columns))
        )

        def write(place: Place, cell: Place, finish: Finish) -> None:
            a.lowering.write(a.tensor.name, place, finish(ir.Load(totals, cell)))

        at_once = self._finishes_at_once(write)
        with b.nested((*self.sum.parts, *self.side)):
            self._pack_scratch()
            self._each_tile(*self._by_part(totals, at_once))
        if not at_once:
            with b.nested(self.side):
                self._each_row(lambda place, cell: write(place, cell, a.define(*place).finish))

    def _by_part(self, totals: ir.Buffer, at_once: bool) -> tuple[Write, Cases]:
        """What a tile does with the sum of one part of many, and what instead with that of the first and, if it is finished ``at_once``, of
        the last."""
        a, b = self.a, self.b
        part = self.sum.parts[0]
        assert part.extent is not None

        def keep(_: Place, cell: Place, total: ir.Expr, finish: Finish) -> None:
            b.store(totals, cell, total)

        def add(_: Place, cell: Place, total: ir.Expr, finish: Finish) -> None:
            b.store(totals, cell, ir.Load(totals, cell) + total)

        def end(place: Place, cell: Place, total: ir.Expr, finish: Finish) -> None:
            a.lowering.write(a.tensor.name, place, finish(b.let("sum", ir.Load(totals, cell) + total)))

        first = (part.eq(0), keep)
        if not at_once:
            return add, [first]
        if ir.is_const(part.extent, 2):
            return end, [first]
        return add, [first, (part.eq(part.extent - 1), end)]

    def _finishes_at_once(self, write: Callable[[Place, Place, Finish], None]) -> bool:
        """Whether a total is best finished as soon as it is known: that takes few operations, and reads nothing for this element alone,
        which would come late."""
        row = ir.Var("row", extent=self.row_extent)
        place = self._place(ir.ZERO, row)
        with self.b.collect() as body:
            write(place, (ir.ZERO, row, self.column), self.a.define(*place).finish)
        steps = [x for stmt in ir.statements(tuple(body)) for e in ir.expressions(stmt) for x in ir.walk(e)]
        reads = [e for e in steps if isinstance(e, ir.Load) and e.buffer.scope != "scratch" and depends(e, row)]
        works = [e for e in steps if isinstance(e, ir.Binary | ir.Unary) and e.dtype is self.a.term.dtype]
        return not reads and not any(isinstance(e, ir.Unary) for e in works) and len(works) <= _FEW_STEPS

    def _zero_halo(self) -> None:
        """The halo around the rows of the task, where these are whole rows of images in blocks of channels."""
        a = self.a
        if not a.block or len(a.axes) != 4 or (a.vector, a.band, a.row) != (1, 2, 3) or a.tensor.name in a.lowering.parts:
            return
        image, channel, *_ = (ir.substitute(i, {self.column: ir.ZERO}) for i in self._place(ir.ZERO, ir.ZERO))
        for name in a.lowering.group.outputs:
            tensor = a.lowering.tensors[name]
            if tensor.layout.halo and tensor.layout.block == a.block and tensor.shape == a.tensor.shape:
                a.lowering.haloed.add(name)
                with self._loop("z", ir.Const(self.blocks.registers.columns // a.block)) as block:
                    place = (image, channel // a.block + block)
                    zero_halo_of_rows(a.lowering, tensor, a.lowering.buffers[name], place, self.bands.first, self.bands.here)

    @property
    def row_extent(self) -> ir.Expr:
        return self.a.extents[self.a.row] if self.a.row is not None else ir.ONE

    @contextmanager
    def _loop(self, name: str, extent: ir.Expr) -> Generator[ir.Expr]:
        """A loop where there is more than one iteration."""
        if ir.is_const(extent, 1):
            yield ir.ZERO
            return
        with self.b.loop(name, extent) as var:
            yield var

    @contextmanager
    def _each_band(self) -> Generator[tuple[ir.Expr, ir.Expr]]:
        """A loop over the task's part of the band; gives the place in the task and on the axis."""
        with self._loop("h", self.bands.here) as band:
            yield band, self.bands.first + band

    @contextmanager
    def _columns(self) -> Generator[None]:
        """The vector loop over a block of columns."""
        with self.b.collect() as body:
            yield
        self.b.emit(ir.For(self.column, ir.Const(self.blocks.registers.columns), tuple(body), "vector"))

    def _place(self, band: ir.Expr, row: ir.Expr) -> Place:
        """The index of an element of the result."""
        a = self.a
        place: list[ir.Expr] = [ir.ZERO if ir.is_const(e, 1) else v for v, e in zip(a.axes, a.extents, strict=True)]
        place[a.vector] = self.block * self.blocks.registers.columns + self.blocks.start + self.column
        if a.row is not None:
            place[a.row] = row
        if a.band is not None:
            place[a.band] = band
        return a.index(place)

    def _each_row(self, emit: Callable[[Place, Place], None]) -> None:
        """Loops over all elements of the task; ``emit`` gets their place in the result and in the totals."""
        first, rows = ir.ZERO, self.row_extent
        if isinstance(self.strips.number, ir.Var):
            first = self.strips.first * self.height
            rows = ir.minimum(self.strips.length * self.height, ir.minimum(self.strips.end * self.height, rows) - first)
        with self._each_band() as (inner, band), self._loop("row", rows) as row, self._columns():
            emit(self._place(band, first + row), (self._outermost(inner), row, self.column))

    def _each_tile(self, write: Write, others: Cases = ()) -> None:
        """Loops over the tiles of a task, those with fewer rows last."""
        with self._each_band() as (inner, band):
            if self.tiles:
                with self._loop("ro", self.strips.here) as tile:
                    first = (self.strips.first + tile) * self.height
                    share = inner * self.strips.here + tile if isinstance(inner, ir.Var) else tile
                    self._tile(self.height, self._at(inner, band, first, tile * self.height), write, others, share)
            if self.rest and isinstance(self.strips.number, ir.Var):
                with self.b.when(self.strips.number.eq(self.strips.count - 1)):
                    done = (self.whole - self.strips.first) * self.height
                    self._tile(self.rest, self._at(inner, band, self.whole * self.height, done), write, others)
            elif self.rest:
                self._tile(self.rest, self._at(inner, band, self.whole * self.height, self.whole * self.height), write, others)

    def _at(self, inner: ir.Expr, band: ir.Expr, first: ir.Expr, local: ir.Expr) -> At:
        """From a row of a tile to its place in the result and in the totals."""
        return lambda row: (self._place(band, first + row), (self._outermost(inner), local + row, self.column))

    def _outermost(self, band: ir.Expr) -> ir.Expr:
        """The place in the totals along their first axis: the block of columns and the row of the band."""
        return self.side[0] * self.bands.length + band if self.side else band

    # --- one tile --------------------------------------------------------------------------------------------------------------

    def _tile(self, rows: int, at: At, write: Write, others: Cases, share: ir.Expr | None = None) -> None:
        """Sums in registers, then ``write``, or one of the ``others``, for every element of the tile. The tile with number ``share`` in its
        task asks for its share of the next part of the weights."""
        a, b = self.a, self.b
        row: ir.Expr = ir.Var("r", extent=ir.Const(rows)) if rows > 1 else ir.ZERO
        place, cell = at(row)
        reduce = a.define(*place)
        term = self._replace_packed(reduce.term(*self.sum.values))
        if self.scaled is not None and isinstance(term, ir.Binary):
            term = ir.Binary("mul", term.a, self.scaled)
        term = self._pack_constants(term, place, row)
        row = row if isinstance(row, ir.Var) else ir.Var("r", extent=ir.ONE)
        loops = self.sum.loops
        prefetch = a.lowering.choices.take("prefetch", AHEAD, range(8 * AHEAD + 1))
        share = share if prefetch else None
        parts = self._parts_ahead(term, loops, row, share)
        if any(part.many for part in parts):
            loops, term = in_steps(loops, term, max(part.lines(part.shares) for part in parts))
            parts = self._parts_ahead(term, loops, row, share)
        whole = loops == self.sum.loops  # a loop cut in steps jumps no further than before
        loads = (e for e in ir.walk(term) if isinstance(e, ir.Load)) if prefetch and whole else ()
        rows_read = [load for load in loads if not depends(load, self.column)]
        for part in parts:
            part.before(b)

        def ahead() -> None:
            for load in rows_read:
                blocks_ahead(b, load, loops, row, rows * self.blocks.registers.columns / (2 * self.lanes), prefetch)
            for part in parts:
                part.inside(b)

        def store(way: Write) -> Callable[[ir.Expr], None]:
            return lambda total: way(place, cell, total, reduce.finish)

        cases = [(condition, store(way)) for condition, way in others]
        register_tile(b, row, self.column, loops, term, store(write), others=cases, ahead=ahead)

    def _parts_ahead(self, term: ir.Expr, loops: tuple[ir.Var, ...], row: ir.Var, share: ir.Expr | None) -> list[PartAhead]:
        """The parts of the weights that come next, where there are more than one."""
        if share is None or self.sum.length is not None or not (self.sum.parts or isinstance(self.group, ir.Var)):
            return []
        loads = [e for e in ir.walk(term) if isinstance(e, ir.Load)]
        common = [e for e in loads if e.buffer in self.weights and not depends(e, row)]
        weights = [e for e in common if e.index[-1] is self.column]
        return [PartAhead(load, (*loops, self.column), share, self._shares()) for load in weights]

    def _shares(self) -> int:
        """Tiles in a task."""
        return max(1, self.bands.least * min(self.strips.least, self.tiles))

    def _pack_constants(self, term: ir.Expr, place: Place, row: ir.Expr) -> ir.Expr:
        """Replaces each load of a constant by one of a copy laid out in the order of the loops."""
        around = [v for e in place for v in ir.walk(e) if isinstance(v, ir.Var)]
        order = dict.fromkeys([*around, *self.sum.parts, *self.side, *self.sum.loops, row, self.column])
        inside = (*self.sum.parts, *self.side, *self.sum.loops) if self.side else ()
        for last in (*inside, row, self.column):
            order[last] = order.pop(last)

        def replace(load: ir.Load) -> ir.Expr:
            name = self.a.constant(load)
            used = [v for v in order if isinstance(v, ir.Var) and depends(load, v)]
            if name is None or not all(_known(v) for v in used):
                return load
            if self.stream and used and used[-1] is self.column:
                return self._in_streams(name, load, used)
            buffer = self.a.lowering.packed(name, load.index, used)
            self.weights.add(buffer)
            return ir.Load(buffer, tuple(used))

        return ir.map_loads(term, replace)

    def _stream(self, columns: int) -> int:
        """Columns of a stream of weights where one tile has all rows, so that each weight is read once: several streams at a time come
        from memory faster than one. A line of them, or a vector where that makes too few streams; 0 for a block that is one stream."""
        if self.a.rows > self.height or self.a.band is not None:
            return 0
        line = LINE // self.a.term.dtype.itemsize
        width = line if columns % line == 0 and columns >= _STREAMS * line else self.lanes
        return width if columns % width == 0 and columns > width else 0

    def _in_streams(self, name: str, load: ir.Load, used: list[ir.Var]) -> ir.Load:
        """A weight of a block whose streams follow each other in memory."""
        size = ir.Const(self.stream)
        stream, lane = ir.Var("s", extent=ir.Const(self.blocks.registers.columns // self.stream)), ir.Var("l", extent=size)
        index = tuple(ir.substitute(i, {self.column: stream * size + lane}) for i in load.index)
        blocks = [v for v in used if v not in (*self.sum.parts, *self.sum.loops, self.column)]
        rest = [v for v in used if v in (*self.sum.parts, *self.sum.loops)]
        buffer = self.a.lowering.packed(name, index, (*blocks, stream, *rest, lane))
        return ir.Load(buffer, (*blocks, self.column // self.stream, *rest, self.column % self.stream))

    # --- operands that do not walk along the vector axis ------------------------------------------------------------------------

    def _scattered(self, load: ir.Load) -> bool:
        """Whether a load along the vector axis serves all rows of a task and is better copied first: it is not contiguous, or jumps from
        line to line while there are rows enough to pay for a copy. Constants are copied when the plan is made."""
        a = self.a
        if a.constant(load) is not None or any(depends(load, a.axes[axis]) for axis in (a.row, a.band) if axis is not None):
            return False
        rows = self.height * self._shares()
        jumps = any(abs(step_of(load, v) or 0) * load.dtype.itemsize >= _JUMP for v in a.reduced)
        return step_of(load, a.axes[a.vector]) != 1 or (jumps and rows >= _ROWS)

    def _pack_scratch(self) -> None:
        """Copies such operands into scratch memory, a part of the sum at a time, in the order of the loops."""
        b = self.b
        self.packed = {}
        scattered = {load.buffer for load in self.a.moving if self._scattered(load)}
        term = self.a.define(*self._place(ir.ZERO, ir.ZERO)).term(*self.sum.values)
        for load in (e for e in ir.walk(term) if isinstance(e, ir.Load)):
            if load.buffer in scattered and depends(load, self.column):
                used = tuple(v for v in (*self.sum.loops, self.column) if depends(load, v))
                shape = [*(self.sum.extent(v) for v in used[:-1]), ir.Const(self.blocks.registers.columns)]
                scratch = b.scratch(f"{load.buffer.name}_packed", load.dtype, shape)
                with b.nested(used[:-1]), self._columns():
                    b.store(scratch, used, load)
                self.packed[load.buffer] = scratch, used
        self.scaled = self._scale_weights(term)

    def _scale_weights(self, term: ir.Expr) -> ir.Load | None:
        """Scales the weights of a part of the sum into scratch memory; None where they have no scale, or one that differs between rows."""
        a, b = self.a, self.b
        if a.scale is None or not isinstance(term, ir.Binary) or a.vector != 1:
            return None
        if any(axis is not None and axis < 2 for axis in (a.row, a.band)):
            return None
        used = tuple(v for v in (*self.sum.loops, self.column) if depends(term.b, v))
        shape = [*(self.sum.extent(v) for v in used[:-1]), ir.Const(self.blocks.registers.columns)]
        scratch = b.scratch("scaled", term.dtype, shape)
        with b.nested(used[:-1]), self._columns():
            b.store(scratch, used, self._pack_constants(term.b, self._place(ir.ZERO, ir.ZERO), ir.ZERO))
        return ir.Load(scratch, used)

    def _replace_packed(self, term: ir.Expr) -> ir.Expr:
        """The term with such operands read from their copies."""

        def replace(load: ir.Load) -> ir.Expr:
            if load.buffer not in self.packed or not depends(load, self.column):
                return load
            scratch, used = self.packed[load.buffer]
            return ir.Load(scratch, used)

        return ir.map_loads(term, replace)


def _known(var: ir.Var) -> bool:
    """Whether a variable runs over a range that no other one decides."""
    return var.extent is not None and not any(isinstance(e, ir.Var) for e in ir.walk(var.extent))
