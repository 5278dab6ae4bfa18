"""Convolution by Winograd's algorithm: tiles of results from fewer products, F(m, r) along each spatial axis with more than one tap.

    for group, block of T tiles, part of the output channels in parallel:
        for t in tiles:                                         V[f, t, ci] = (B^T x B) of the tile's window, vectors of channels
        for chunk of output channels:
            for f in frequencies:                               m + r - 1 of them along each axis
                M[f, t, co] = sum_ci V[f, t, ci] * U[f, ci, co]     a matrix product on the register tile
            for t in tiles:                                     y = finish(A^T M A), vectors of channels
        where U = G w G^T, made and packed when the plan is

V and M are scratch memory of a worker; T is such that M and what is read of V at a time stay in its second-level cache, and that U is not
read for too few tiles. There are an even number of nearly equal blocks, for two workers. Source: Lavin and Gray, "Fast algorithms for
convolutional neural networks" (2015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from ...codegen.target import Target
from ...ir import loops as ir
from ..algorithms import algorithm_of
from ..config import Tile
from ..ops.context import Op, Reduce
from .chunks import nearly_equal
from .cook_toom import CookToom, Matrix, TransformedFilters, multiply
from .prefetching import AHEAD, PartAhead
from .register_blocks import Extent, RegisterBlock, fitting_tiles, legal_tiles, tile_cycles
from .register_tile import register_tile

if TYPE_CHECKING:
    from ..lowering import Lowering

Define = Callable[..., Reduce]
Cell = tuple[int, ...]
"""A place in a tile."""
PART = 128
"""Input channels that are summed in one go: half as many as products elsewhere, because transforms multiply errors."""
CHUNK = 64
"""Output channels that are computed at a time."""
MIN_TASKS = 8
"""With fewer tasks than this, blocks of tiles are smaller, or the output channels of a block are divided between tasks."""
MIN_CHANNELS = 128
"""Fewer output channels are not worth transforming the input for once more."""
LEAST_ROWS = 5
"""Rows, at least, of a register tile, if there are so many tiles: with fewer, filters come from beyond the second cache too slowly (six
rows for 16 tiles of 256 channels take 0.9 of the time of four)."""
PAD = 16
"""Elements between the matrices of two frequencies, which would all lie in one set of the first-level cache otherwise."""


def lower_winograd(lowering: Lowering, op: Op, define: Define) -> bool:
    """Lowers a convolution by Winograd's algorithm; False where that is not how it is to be computed."""
    if op.node.op != "Conv":
        return False
    algorithm = algorithm_of(op.node, lowering.tensors, lowering.constants, lowering.options, lowering.target)
    if not algorithm.transforms:
        if lowering.options.conv.startswith("winograd"):
            lowering.notes.append(f"direct: {algorithm.reason}")
        return False
    lowering.notes.append(algorithm.title)
    _Emission(lowering, op, define, algorithm.transforms).emit()
    return True


@dataclass(frozen=True)
class Blocking:
    """At most ``tiles`` a task, on register tiles of ``rows`` x ``columns``, for one of ``groups`` equal parts of the output channels, of
    which ``chunk`` are computed at a time."""

    tiles: int
    rows: int
    columns: int
    chunk: int
    groups: int


def blocking(tiles: int, outputs: int, filters: int, target: Target, tile: Tile, tasks: int = MIN_TASKS) -> Blocking:
    """The blocking for so many tiles, output channels (in whole blocks) and bytes of transformed filters, in at least ``tasks`` tasks;
    extents that ``tile`` sets are kept to."""
    lanes, most = target.lanes(32), min(CHUNK, outputs)
    known = _register_block(tiles, most, target)
    rows, columns = tile.m or known.rows, -(-(tile.n or known.columns) // lanes) * lanes
    wanted = 48 if filters > 4 * target.l2 else 24
    blocks = max(1, round(tiles / wanted))
    parts = min(-(-tasks // blocks), outputs // MIN_CHANNELS)
    groups = next((n for n in range(parts, 1, -1) if outputs % (n * CHUNK) == 0), 1)
    if blocks * groups < tasks // 2:
        blocks = max(blocks, min(tasks // 2, tiles // (2 * rows)))
    each = -(-tiles // (blocks * rows)) * rows if blocks < tasks else -(-wanted // rows) * rows
    return Blocking(each, rows, min(columns, most), most, groups)


def _register_block(tiles: int, columns: int, target: Target) -> RegisterBlock:
    """The register tile that takes the fewest cycles, rows rounded up: the target's own, or one of several vectors and rows (more loads
    than multiply-adds take longer than counted) of which a whole number covers the columns."""
    lanes = target.lanes(32)

    def cycles(block: RegisterBlock) -> float:
        extent = Extent(block.rows, block.columns, PART, lanes)
        return -(-tiles // block.rows) * tile_cycles(extent, target, 32, Tile(block.rows, block.columns)) / block.columns

    own = target.register_tile()
    fitting = (RegisterBlock(t.m or 1, t.n or lanes) for t in fitting_tiles(target, 32))
    least = min(tiles, LEAST_ROWS)
    others = (t for t in fitting if t.columns > lanes and t.rows >= least and columns % t.columns == 0)
    return min([RegisterBlock(own.rows, own.vectors * lanes), *others], key=cycles)


@dataclass(frozen=True)
class _Part:
    """Loops over parts of the input channels (one or none), loops over a part, the channel, and how much was summed before."""

    number: Sequence[ir.Var]
    loops: Sequence[ir.Var]
    channel: ir.Expr
    before: ir.Expr


class _Emission:
    def __init__(self, lowering: Lowering, op: Op, define: Define, transforms: Sequence[CookToom]) -> None:
        self.lowering, self.op, self.define, self.transforms = lowering, op, define, transforms
        self.b = lowering.builder
        self.weights = op.input(1)
        self.y = lowering.tensors[op.node.outputs[0]]
        self.dtype = self.y.dtype
        self.block = self.y.layout.block
        self.groups = int(op.attr("group", 1))
        self.outputs, self.inputs = self.weights.sizes[0] // self.groups, self.weights.sizes[1]
        self.frequencies = prod(t.size for t in transforms)
        self.input_blocks, self.output_blocks = (-(-n // self.block) for n in (self.inputs, self.outputs))
        extents = [lowering.extents(n) for n in self.y.shape]
        self.sizes = extents[2:]
        self.counts = [(n + (t.outputs - 1)) // t.outputs for n, t in zip(self.sizes, transforms, strict=True)]
        self.images = extents[0]
        self.tiles = self.images
        for count in self.counts:
            self.tiles = self.tiles * count

    def emit(self) -> None:
        b, lowering = self.b, self.lowering
        columns = self.output_blocks * self.block
        filters = self.frequencies * self.inputs * self.outputs * self.dtype.itemsize
        tiles, choices = ir.hint(self.tiles), lowering.choices
        known = blocking(tiles, columns, filters, lowering.target, Tile())
        legal = legal_tiles(lowering.target, self.dtype.bits, lowering.options.tile)
        tile = choices.tile(Tile(known.rows, known.columns, PART), **legal, k=range(self.block, 4 * PART + 1, self.block))
        tasks = -(-choices.take("tasks", MIN_TASKS, range(1, 65)) // self.groups)
        self.part = tile.k or PART
        self.prefetches = choices.take("prefetch", AHEAD, range(8 * AHEAD + 1)) > 0
        plan = self.plan = blocking(tiles, columns, filters, lowering.target, tile, tasks)
        self.v = self._matrices("v", self.input_blocks)
        self.m = self._matrices("m", plan.chunk // self.block)
        self.places = b.scratch("places", ir.INDEX, (plan.tiles, len(self.sizes) + 1))
        units, most = (self.tiles + (plan.rows - 1)) // plan.rows, plan.tiles // plan.rows
        blocks = (units + (most - 1)) // most
        if ir.hint(blocks) > 1:
            blocks = (units + (2 * most - 1)) // (2 * most) * 2
        apart = [ir.Const(n) for n in (self.groups, plan.groups) if n > 1]
        with b.loops("part", [*apart, blocks], "parallel") as part:
            *outer, number = part
            group = outer[0] if self.groups > 1 else ir.ZERO
            share = outer[-1] if plan.groups > 1 else ir.ZERO
            block = nearly_equal(number, blocks, ir.Const(most), units, units)
            first = b.let("first", block.first * plan.rows)
            self.shares = max(1, block.least)
            self.count = b.let("count", ir.minimum(block.here * plan.rows, self.tiles - first))
            with b.loop("t", self.count) as t:
                self._find(t, first + t)
            self._transform_inputs(group * self.input_blocks)
            whole, rest = divmod(columns // plan.groups, plan.chunk)
            if whole:
                chunk = ir.Var("chunk", extent=ir.Const(whole))
                with b.nested([chunk]):
                    self._chunk([*part[:-1], chunk], group * columns + (share * whole + chunk) * plan.chunk, plan.chunk)
            if rest:
                self._chunk(part[:-1], group * columns + whole * plan.chunk, rest)

    # --- memory ----------------------------------------------------------------------------------------------------------------

    def _matrices(self, name: str, blocks: int) -> Callable[[ir.Operand, ir.Operand, ir.Expr, ir.Expr], ir.Load]:
        """A matrix of tiles x channels for each frequency, in blocks of channels like tensors; the function gives an element."""
        size = blocks * self.plan.tiles * self.block
        buffer = self.b.scratch(name, self.dtype, (self.frequencies, size + PAD))

        def element(f: ir.Operand, block: ir.Operand, t: ir.Expr, lane: ir.Expr) -> ir.Load:
            return buffer(f, (ir.index(block) * self.plan.tiles + t) * self.block + lane)

        return element

    def _find(self, t: ir.Expr, tile: ir.Expr) -> None:
        """Notes where a tile of the task lies: its image, and its first result along each spatial axis."""
        b = self.b
        for i, (count, transform) in reversed(list(enumerate(zip(self.counts, self.transforms, strict=True), 1))):
            before = b.let("before", tile // count)
            b.store(self.places, (t, i), (tile - before * count) * transform.outputs)
            tile = before
        b.store(self.places, (t, 0), tile)

    def _place(self, t: ir.Expr) -> list[ir.Expr]:
        return [self.b.let(f"at{i}", self.places(t, i)) for i in range(len(self.sizes) + 1)]

    # --- transforms ------------------------------------------------------------------------------------------------------------

    def _transform_inputs(self, first: ir.Expr) -> None:
        """V for the blocks of channels from ``first`` on."""
        b = self.b
        before = self._padding()
        cells = list(product(*(range(t.size) for t in self.transforms)))
        with b.loop("cb", self.input_blocks) as cb, b.loop("t", self.count) as t:
            image, *place = self._place(t)
            with b.loop("v", self.block, "vector") as v:

                def load(cell: Cell) -> ir.Expr:
                    at = [o + i - p for o, i, p in zip(place, cell, before, strict=True)]
                    return self.op.input(0)(image, (first + cb) * self.block + v, *at)

                def store(cell: Cell, value: ir.Expr) -> None:
                    target = self.v(cells.index(cell), cb, t, v)
                    b.store(target.buffer, target.index, value)

                self._apply([t.b for t in self.transforms], {cell: load(cell) for cell in cells}, store)

    def _transform_outputs(self, first: ir.Expr, columns: int) -> None:
        b = self.b
        with b.loop("cb", columns // self.block) as cb, b.loop("t", self.count) as t:
            image, *place = self._place(t)
            with b.loop("v", self.block, "vector") as v:
                cells = product(*(range(t.size) for t in self.transforms))
                products = {cell: self.m(f, cb, t, v) for f, cell in enumerate(cells)}

                def store(cell: Cell, value: ir.Expr) -> None:
                    at = [o + i for o, i in zip(place, cell, strict=True)]
                    index = (image, first + cb * self.block + v, *at)
                    inside = [ir.Binary("lt", i, n) for i, n in zip(at, self.sizes, strict=True)]
                    with b.when(ir.all_of(*inside)):
                        self.lowering.write(self.y.name, index, self.define(*index).finish(value))

                self._apply([t.a for t in self.transforms], products, store)

    def _apply(self, matrices: Sequence[Matrix], cells: Mapping[Cell, ir.Expr], store: Callable[[Cell, ir.Expr], None]) -> None:
        """Cells multiplied with a matrix along each axis, line by line, so that few values are alive at a time."""

        def name(value: ir.Expr) -> ir.Expr:
            return self.b.let("s", value)

        for axis, matrix in enumerate(matrices):
            lines: dict[Cell, list[ir.Expr]] = {}
            for cell, value in cells.items():
                lines.setdefault((*cell[:axis], *cell[axis + 1 :]), []).append(value)
            cells = {}
            for rest, line in lines.items():
                for i, value in enumerate(multiply(matrix, [name(value) for value in line], name)):
                    cells[(*rest[:axis], i, *rest[axis:])] = value
                    if axis == len(matrices) - 1:
                        store((*rest, i), value)
            cells = dict(sorted(cells.items()))

    def _padding(self) -> tuple[int, ...]:
        from ..ops.convolution import kernel_extents, padding

        _, kernel = kernel_extents(self.op)
        return padding(self.op, self.op.input(0).sizes[2:], kernel)[0]

    # --- products --------------------------------------------------------------------------------------------------------------

    def _chunk(self, outer: Sequence[ir.Var], first: ir.Expr, columns: int) -> None:
        """Products and results for ``columns`` output channels from ``first`` on, inside the loops ``outer`` over such chunks."""
        b, plan = self.b, self.plan
        with b.loop("f", self.frequencies) as f:
            whole, rest = divmod(columns, plan.columns)
            if whole:
                with b.loop("co", whole) as block:
                    self._products(f, [*outer, f, block], first, block * plan.columns, plan.columns)
            if rest:
                self._products(f, [*outer, f], first, ir.Const(whole * plan.columns), rest)
        self._transform_outputs(first, columns)

    def _products(self, f: ir.Var, outer: Sequence[ir.Var], first: ir.Expr, start: ir.Expr, columns: int) -> None:
        """The products of one frequency for ``columns`` output channels of a chunk from ``start`` on, inside the loops ``outer``."""
        b, plan, lanes = self.b, self.plan, self.block
        row, column = ir.Var("r", extent=ir.Const(plan.rows)), ir.Var("v", extent=ir.Const(columns))
        inside = start + column
        for part in self._parts():
            index = (f, part.channel, first + inside)
            order = [*outer, *part.number, *part.loops, column]
            u = self.lowering.packed(self.weights.name, index, order, TransformedFilters(tuple(self.transforms)))
            with b.nested(part.number), b.loop("ro", (self.count + (plan.rows - 1)) // plan.rows) as ro:
                t = ro * plan.rows + (row if plan.rows > 1 else ir.ZERO)
                cell = self.m(f, inside // lanes, t, inside % lanes)
                weight = ir.Load(u, tuple(order))
                term = self.v(f, part.channel // lanes, t, part.channel % lanes) * weight
                ahead = PartAhead(weight, (*part.loops, column), ro, self.shares)
                along = partial(ahead.inside, b) if self.prefetches else None
                if self.prefetches:
                    ahead.before(b)
                register_tile(b, row, column, part.loops, term, partial(self._add, cell, part), ahead=along)

    def _add(self, cell: ir.Load, part: _Part, total: ir.Expr) -> None:
        """Stores the sum over a part of the channels to M, or adds it to those before."""
        if not ir.is_const(part.before, 0):
            with self.b.when(part.before.eq(0)):
                self.b.store(cell.buffer, cell.index, total)
            with self.b.otherwise():
                self.b.store(cell.buffer, cell.index, cell + total)
            return
        self.b.store(cell.buffer, cell.index, total)

    def _parts(self) -> Iterator[_Part]:
        """The input channels in parts, what is left after whole ones as one more; blocks of channels outside, where all are whole."""
        unit = 1 if self.inputs % self.block else self.block
        count, most = self.inputs // unit, self.part // unit
        length = next((n for n in range(most, most // 2, -1) if count % n == 0), most)
        whole, rest = divmod(count, length)
        for start, parts, size in ((0, whole, length), (whole * length, int(rest > 0), rest)):
            if parts:
                number, outer, lane = (_variable(name, n) for name, n in (("part", parts), ("ci", size), ("lane", unit)))
                before = number * length + start
                loops = [v for v in (outer, lane) if isinstance(v, ir.Var)]
                yield _Part([number] if isinstance(number, ir.Var) else [], loops, (before + outer) * unit + lane, before)


def _variable(name: str, extent: int) -> ir.Expr:
    return ir.Var(name, extent=ir.Const(extent)) if extent > 1 else ir.ZERO
