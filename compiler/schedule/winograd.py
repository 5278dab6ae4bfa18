"""Convolution by Winograd's algorithm: tiles of results from fewer products, F(m, r) along each spatial axis with more than one tap.

    for group, block of T tiles, part of the output channels in parallel:
        for t in tiles:                                         V[f, t, ci] = (B^T x B) of the tile's window, vectors of channels
        for chunk of output channels:
            for f in frequencies:                               m + r - 1 of them along each axis
                M[f, t, co] = sum_ci V[f, t, ci] * U[f, ci, co]     a matrix product on the register tile
            for t in tiles:                                     y = finish(A^T M A), vectors of channels
        where U = G w G^T, made and packed when the plan is, or, with ``filters = "kernel"``, line by line for each chunk

With strides the channels ``ci`` are those of each phase of the image (``phases.py``). Where an image has fewer channels than a vector, as
most networks' input, the channels of all phases are gathered beside each other.

V and M are scratch memory of a worker; T is such that M and what is read of V at a time stay in its second-level cache, and that U is not
read for too few tiles. There are an even number of nearly equal blocks, for two workers. Source: Lavin and Gray, "Fast algorithms for
convolutional neural networks" (2015).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..algorithms import algorithm_of
from ..config import Tile
from ..ops.context import Op, Reduce
from .chunks import nearly_equal
from .cook_toom import Matrix, multiply
from .phases import (
    Forms,
    FrequencyGroup,
    PhaseGroup,
    TransformedFilters,
    count_phases,
    frequency_groups,
    gathered,
    phase_groups,
)
from .prefetching import AHEAD, PartAhead
from .register_blocks import legal_tiles
from .register_tile import register_tile
from .winograd_blocking import CHUNK, LATE_CHUNK, MIN_TASKS, PART, blocking

if TYPE_CHECKING:
    from ..lowering import Lowering

Define = Callable[..., Reduce]
Cell = tuple[int, ...]
"""A place in a tile."""
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
class _Part:
    """Loops over parts of the channels, loops over a part, the channel, where it lies in V, how much was summed before, and the first
    channel."""

    number: Sequence[ir.Var]
    loops: Sequence[ir.Var]
    channel: ir.Expr
    place: ir.Expr
    before: ir.Expr
    start: ir.Expr


class _Emission:
    def __init__(self, lowering: Lowering, op: Op, define: Define, transforms: Forms) -> None:
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
        self.gathers = gathered(transforms, self.inputs, self.block)
        self.apart = self.inputs if self.gathers else self.input_blocks * self.block
        extents = [lowering.extents(n) for n in self.y.shape]
        self.sizes = extents[2:]
        self.counts = [(n + (t.outputs - 1)) // t.outputs for n, t in zip(self.sizes, transforms, strict=True)]
        self.images = extents[0]
        self.before = self._padding()
        self.tiles = self.images
        for count in self.counts:
            self.tiles = self.tiles * count

    def emit(self) -> None:
        b, lowering = self.b, self.lowering
        columns = self.output_blocks * self.block
        filters = sum(g.products for g in frequency_groups(self.transforms)) * self.inputs * self.outputs * self.dtype.itemsize
        tiles, choices = ir.hint(self.tiles), lowering.choices
        self.late = lowering.options.filters == "kernel" and count_phases(self.transforms) == 1
        chunk = LATE_CHUNK if self.late else CHUNK
        known = blocking(tiles, columns, filters, lowering.target, Tile(), chunk=chunk)
        legal = legal_tiles(lowering.target, self.dtype.bits, lowering.options.tile)
        tile = choices.tile(Tile(known.rows, known.columns, PART), **legal, k=range(self.block, 4 * PART + 1, self.block))
        tasks = -(-choices.take("tasks", MIN_TASKS, range(1, 65)) // self.groups)
        self.part = tile.k or PART
        self.prefetches = choices.take("prefetch", AHEAD, range(8 * AHEAD + 1)) > 0
        plan = self.plan = blocking(tiles, columns, filters, lowering.target, tile, tasks, chunk)
        self.blocks = -(-count_phases(self.transforms) * self.apart // self.block)
        self.v = self._matrices("v", self.blocks)
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
            if self.gathers:
                self._gather_inputs()
            else:
                for phases in phase_groups(self.transforms):
                    self._transform_inputs(phases, group * self.input_blocks)
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

    def _transform_inputs(self, phases: PhaseGroup, first: ir.Expr) -> None:
        """V of some phases for the blocks of channels from ``first`` on."""
        b = self.b
        with self._each(phases) as (number, phase), b.loop("cb", self.input_blocks) as cb, b.loop("t", self.count) as t:
            place = self._place(t)
            with b.loop("v", self.block, "vector") as v:
                channel, block = (first + cb) * self.block + v, number * self.input_blocks + cb
                matrices = [form.data(kind) for form, kind in zip(self.transforms, phases.kinds, strict=True)]
                cells = product(*(range(len(matrix)) for matrix in matrices))
                self._transform(matrices, {cell: self._read(place, phase, channel, cell) for cell in cells}, block, t, v)

    def _gather_inputs(self) -> None:
        """V of all phases of an image with few channels, which lie beside each other: a vector is of several phases."""
        b, block = self.b, self.block
        cells = list(product(*(range(t.size) for t in self.transforms)))
        window = b.scratch("window", self.dtype, (*(t.size for t in self.transforms), self.blocks * block))
        with b.loops("c", window.shape[:-1]) as cell, b.loop("v", self.blocks * block, "vector") as v:
            b.store(window, (*cell, v), ir.Const(0.0, self.dtype))  # what is not there is summed with factors of zero
        with b.loop("t", self.count) as t:
            place = self._place(t)
            for phases in phase_groups(self.transforms):
                extents = [len(form.data(kind)) for form, kind in zip(self.transforms, phases.kinds, strict=True)]
                with self._each(phases) as (number, phase), b.loop("ci", self.inputs) as ci, b.loops("c", extents) as cell:
                    b.store(window, (*cell, number * self.inputs + ci), self._read(place, phase, ci, cell))
            with b.loop("cb", self.blocks) as cb, b.loop("v", block, "vector") as v:
                loaded: dict[Cell, ir.Expr] = {cell: window(*cell, cb * block + v) for cell in cells}
                self._transform([form.form.b for form in self.transforms], loaded, cb, t, v)

    @contextmanager
    def _each(self, phases: PhaseGroup) -> Generator[tuple[ir.Expr, list[ir.Expr]]]:
        """Loops over phases: the number of one, and what it is along each axis."""
        offsets = [_variable(f"p{axis}", len(r)) for axis, r in enumerate(phases.ranges)]
        number: ir.Expr = ir.ZERO
        for offset, r in zip(offsets, phases.ranges, strict=True):
            number = number * len(r) + offset
        with self.b.nested([o for o in offsets if isinstance(o, ir.Var)]):
            yield number + phases.first, [o + r.start for o, r in zip(offsets, phases.ranges, strict=True)]

    def _read(
        self, place: Sequence[ir.Expr], phase: Sequence[ir.Expr], channel: ir.Expr, cell: Sequence[ir.Operand]
    ) -> ir.Expr:
        """An element of a tile's window of a phase of the image."""
        axes = zip(self.transforms, place[1:], cell, phase, self.before, strict=True)
        at = [(o + i) * form.stride + p - before for form, o, i, p, before in axes]
        return self.op.input(0)(place[0], channel, *at)

    def _transform(
        self, matrices: Sequence[Matrix], cells: Mapping[Cell, ir.Expr], block: ir.Expr, t: ir.Expr, v: ir.Var
    ) -> None:
        numbers = {cell: f for f, cell in enumerate(product(*(range(t.size) for t in self.transforms)))}

        def store(cell: Cell, value: ir.Expr) -> None:
            target = self.v(numbers[cell], block, t, v)
            self.b.store(target.buffer, target.index, value)

        self._apply(matrices, cells, store)

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

                self._apply([t.form.a for t in self.transforms], products, store)

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
        if self.late:
            self._late_products(outer, first, columns)
        else:
            for group in frequency_groups(self.transforms):
                loops, f = self._frequency(group)
                with self.b.nested(loops):
                    for blocks, start, width in self._column_blocks(columns):
                        with self.b.nested(blocks):
                            self._products(f, group.runs, [*outer, *loops, *blocks], first, start, width)
        self._transform_outputs(first, columns)

    def _column_blocks(self, columns: int) -> Iterator[tuple[Sequence[ir.Var], ir.Expr, int]]:
        """Loops over whole register tiles of columns, where they start and their width, and what is left."""
        each = self.plan.columns
        whole, rest = divmod(columns, each)
        if whole:
            block = ir.Var("co", extent=ir.Const(whole))
            yield [block], block * each, each
        if rest:
            yield [], ir.Const(whole * each), rest

    def _frequency(self, group: FrequencyGroup) -> tuple[list[ir.Var], ir.Expr]:
        """Loops over the frequencies of a group, and the number of one."""
        if prod(map(len, group.points)) == self.frequencies:
            f = ir.Var("f", extent=ir.Const(self.frequencies))
            return [f], f
        points = [_variable(f"f{axis}", len(r)) for axis, r in enumerate(group.points)]
        number: ir.Expr = ir.ZERO
        for form, point, r in zip(self.transforms, points, group.points, strict=True):
            number = number * form.size + (point + r.start)
        return [point for point in points if isinstance(point, ir.Var)], number

    def _products(
        self, f: ir.Expr, runs: Sequence[range], outer: Sequence[ir.Var], first: ir.Expr, start: ir.Expr, columns: int
    ) -> None:
        """The products of one frequency for ``columns`` output channels of a chunk from ``start`` on, inside the loops ``outer``."""
        column = ir.Var("v", extent=ir.Const(columns))
        for part in self._parts(runs):
            index = (f, part.channel, first + start + column)
            order = [*outer, *part.number, *part.loops, column]
            u = self.lowering.packed(self.weights.name, index, order, TransformedFilters(self.transforms))
            weight = ir.Load(u, tuple(order))
            with self.b.nested(part.number):
                self._sums(
                    f, part, start, column, weight, partial(PartAhead, weight, (*part.loops, column), shares=self.shares)
                )

    def _sums(
        self,
        f: ir.Expr,
        part: _Part,
        start: ir.Expr,
        column: ir.Var,
        weight: ir.Load,
        ahead: Callable[[ir.Expr], PartAhead],
        share: ir.Expr = ir.ZERO,
    ) -> None:
        """The sums of all tiles over one part of the channels; ``ahead`` gives what a block of rows asks for, by number, which for the
        first one is ``share``."""
        b, plan, lanes = self.b, self.plan, self.block
        row, inside = ir.Var("r", extent=ir.Const(plan.rows)), start + column
        with b.loop("ro", (self.count + (plan.rows - 1)) // plan.rows) as ro:
            t = ro * plan.rows + (row if plan.rows > 1 else ir.ZERO)
            cell = self.m(f, inside // lanes, t, inside % lanes)
            term = self.v(f, part.place // lanes, t, part.place % lanes) * weight
            lines = ahead(share + ro)
            along = partial(lines.inside, b) if self.prefetches else None
            if self.prefetches:
                lines.before(b)
            register_tile(b, row, column, part.loops, term, partial(self._add, cell, part), ahead=along)

    def _late_products(self, outer: Sequence[ir.Var], first: ir.Expr, columns: int) -> None:
        """The products of a chunk, with filters that are transformed for a line of frequencies at a time."""
        b, (head, *tail) = self.b, self.transforms
        along = prod(t.size for t in tail)
        u = b.scratch("u", self.dtype, (along, min(self.part, self.inputs) * self.plan.chunk + PAD))
        for part in self._parts([range(1)]):
            at = (part.channel - part.start) * columns
            with b.nested(part.number), b.loop("line", head.size) as line:
                filters, loops = self._transform_filters(u, part, [*outer, *part.number], first, columns, line)
                whole = partial(PartAhead, filters, loops, shares=self.shares * self.frequencies)
                with b.loop("fl", along) as fl:
                    f = line * along + fl
                    for blocks, start, width in self._column_blocks(columns):
                        column = ir.Var("v", extent=ir.Const(width))
                        with b.nested(blocks):
                            self._sums(f, part, start, column, ir.Load(u, (fl, at + start + column)), whole, f * self.shares)

    def _transform_filters(
        self, u: ir.Buffer, part: _Part, outer: Sequence[ir.Var], first: ir.Expr, columns: int, line: ir.Expr
    ) -> tuple[ir.Load, tuple[ir.Var, ...]]:
        """Fills ``u`` with a line of frequencies of the filters of a chunk and a part of the input channels; how filters are read, and the
        loops that they are read in."""
        b, (head, *tail) = self.b, self.transforms
        blocks = _variable("ub", columns // self.block)
        taps = [ir.Var(f"k{i}", extent=ir.Const(t.taps)) for i, t in enumerate(self.transforms)]
        lane = ir.Var("v", extent=ir.Const(self.block))
        loops = [*part.loops, *([blocks] if isinstance(blocks, ir.Var) else [])]
        inside = blocks * self.block + lane
        order = [*outer, *loops, *taps, lane]
        filters = self.lowering.packed(self.weights.name, (first + inside, part.channel, *taps), order)
        places = list(product(*(range(t.size) for t in tail)))
        for number, row in enumerate(head.form.g):
            with b.when(line.eq(number)), b.nested(loops), b.loop("v", self.block, "vector") as v:

                def tap(k: int, cell: Cell, v: ir.Var = v) -> ir.Expr:
                    return ir.Load(filters, (*outer, *loops, ir.Const(k), *map(ir.Const, cell), v))

                def store(cell: Cell, value: ir.Expr, v: ir.Var = v) -> None:
                    at = (part.channel - part.start) * columns + blocks * self.block + v
                    b.store(u, (ir.Const(places.index(cell)), at), value)

                cells = product(*(range(t.taps) for t in tail))
                of_line = {c: multiply((row,), [tap(k, c) for k in range(head.taps)], _same)[0] for c in cells}
                if tail:
                    self._apply([t.form.g for t in tail], of_line, store)
                else:
                    store((), of_line[()])
        return ir.Load(filters, tuple(order)), (*loops, *taps, lane)

    def _add(self, cell: ir.Load, part: _Part, total: ir.Expr) -> None:
        """Stores the sum over a part of the channels to M, or adds it to those before."""
        if not ir.is_const(part.before, 0):
            with self.b.when(part.before.eq(0)):
                self.b.store(cell.buffer, cell.index, total)
            with self.b.otherwise():
                self.b.store(cell.buffer, cell.index, cell + total)
            return
        self.b.store(cell.buffer, cell.index, total)

    def _parts(self, runs: Sequence[range]) -> Iterator[_Part]:
        """The input channels of runs of phases in parts, what is left after whole ones as one more; blocks of channels outside, where all
        are whole. Phases are apart only where not."""
        dense = self.gathers or self.inputs % self.block == 0
        unit = self.block if self.inputs % self.block == 0 else 1
        summed = 0
        for run in runs:
            phases = 1 if dense else len(run)
            count, most = self.inputs * (len(run) if dense else 1) // unit, self.part // unit
            length = next((n for n in range(most, most // 2, -1) if count % n == 0), most)
            whole, rest = divmod(count, length)
            for start, parts, size in ((0, whole, length), (whole * length, int(rest > 0), rest)):
                if not parts:
                    continue
                phase, number, outer, lane = (
                    _variable(name, n) for name, n in (("phase", phases), ("part", parts), ("ci", size), ("lane", unit))
                )
                before = number * length + start
                within = (before + outer) * unit + lane
                channel, place = ((phase + run.start) * n + within for n in (self.inputs, self.apart))
                loops = [v for v in (outer, lane) if isinstance(v, ir.Var)]
                yield _Part(
                    [v for v in (phase, number) if isinstance(v, ir.Var)],
                    loops,
                    channel,
                    place,
                    before + phase + summed,
                    before * unit,
                )
            summed += len(run)


def _same(value: ir.Expr) -> ir.Expr:
    return value


def _variable(name: str, extent: int) -> ir.Expr:
    return ir.Var(name, extent=ir.Const(extent)) if extent > 1 else ir.ZERO
