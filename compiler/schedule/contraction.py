"""Sums of products on a register tile: matrix multiplication and every kind of convolution are this one schedule.

    y[i, r, v] = sum_k a[i, r, k] * b[i, k, v]

    for i, v.o in parallel:                          outer axes, and blocks of the vector axis
        for r.o:                                     blocks of the row axis
            acc[R, V] = 0                            R x V / lanes vector registers
            for k:
                for r in unroll(R):
                    for v in vector(V):
                        acc[r, v] += a[i, r.o * R + r, k] * b[i, k, v.o * V + v]
            y[i, r.o * R + r, v.o * V + v] = finish(acc[r, v])

What is left of the row and the vector axis after whole blocks gets a tile of its own size. Constant operands are packed in the order
in which the loops read them; operands that do not walk along the vector axis are packed into scratch memory first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..ops.context import Op, Reduce
from ..tensor import Tensor
from .reduction import step_of
from .register_tile import in_parts, register_tile

if TYPE_CHECKING:
    from ..lowering import Lowering

Define = Callable[..., Reduce]
MIN_TASKS = 8
"""With fewer blocks of the vector axis and outer axes than this, the blocks of the row axis are tasks too."""


@dataclass(frozen=True)
class RegisterBlock:
    """Rows and vector elements of the accumulator tile."""

    rows: int
    columns: int


def is_contraction(reduce: Reduce, term: ir.Expr) -> bool:
    """Whether a reduction is a sum of products, which is what a register tile is for."""
    return reduce.op == "add" and reduce.first is None and isinstance(term, ir.Binary) and term.op == "mul"


def lower_contraction(lowering: Lowering, op: Op, define: Define) -> bool:
    """Lowers a sum of products on a register tile; False where the reduction is none, or has no axes to tile."""
    plan = _Analysis(lowering, op, define)
    if not plan.fits():
        return False
    _Emission(plan).emit()
    return True


@dataclass
class _Analysis:
    """The axes of a contraction. ``place`` are variables for the output's logical axes, ``term`` the product at that place."""

    lowering: Lowering
    op: Op
    define: Define
    vector: int = 0
    row: int | None = None

    def __post_init__(self) -> None:
        self.tensor: Tensor = self.lowering.tensors[self.op.node.outputs[0]]
        self.extents = tuple(self.lowering.extents(e) for e in self.tensor.shape)
        self.block = self.tensor.layout.block
        self.axes = [ir.Var(f"i{axis}", extent=e) for axis, e in enumerate(self.extents)]
        self.reduce = self.define(*self.axes)
        self.reduced = [ir.Var(name, extent=ir.index(extent)) for name, extent in self.reduce.axes]
        self.term = self.reduce.term(*self.reduced)

    def fits(self) -> bool:
        if not is_contraction(self.reduce, self.term) or not self.axes or self.tensor.dtype.bits < 32:
            return False
        if any(isinstance(e, ir.Guarded) for e in ir.walk(self.term)):
            return False
        self.vector = 1 if self.block else len(self.axes) - 1
        moving = [load for load in self.loads() if _depends(load, self.axes[self.vector])]
        if not moving or not self.reuses():
            return False
        candidates = [i for i in range(len(self.axes)) if i != self.vector and self.tensor.shape[i] > 1]
        reusing = [i for i in candidates if not any(_depends(load, self.axes[i]) for load in moving)]
        self.row = (reusing or candidates or [None])[-1]
        return True

    def reuses(self) -> bool:
        """Whether some element serves more than one result: otherwise registers have nothing to save (a sum of squares)."""
        outer = [axis for axis, extent in zip(self.axes, self.tensor.shape, strict=True) if extent > 1]
        return not all(_depends(load, axis) for load in self.loads() for axis in outer)

    def loads(self) -> list[ir.Load]:
        return [e for e in ir.walk(self.term) if isinstance(e, ir.Load)]

    def register_block(self) -> RegisterBlock:
        """Rows x columns from the target's table, cut to what the tensor has; rows that leave the least waste."""
        target = self.lowering.target
        lanes = target.lanes(self.term.dtype.bits)
        tile = target.register_tile()
        options = self.lowering.options
        columns = options.tile.n or tile.vectors * lanes
        size = self.tensor.shape[self.vector]
        size = -(-size // self.block) * self.block if self.block else size
        columns = min(-(-columns // lanes) * lanes, -(-size // lanes) * lanes)
        if self.block:
            columns = -(-columns // self.block) * self.block
        count = self.tensor.shape[self.row] if self.row is not None else 1
        budget = tile.rows * tile.vectors
        if options.tile.m:
            return RegisterBlock(min(options.tile.m, count), columns)
        if count * (columns // lanes) < budget and not options.tile.n:
            columns = min(budget // max(1, count) * lanes, max(columns, 4 * lanes), -(-size // lanes) * lanes)
            columns = max(lanes, columns // max(lanes, self.block) * max(lanes, self.block))
        rows = max(1, budget // (columns // lanes))
        return RegisterBlock(_balanced(count, rows, columns // lanes), columns)


def _balanced(count: int, most: int, vectors: int) -> int:
    """The number of rows, at most ``most``, that needs the fewest multiply-add slots for ``count``; a tile costs at least 8 of them."""
    if count <= most:
        return count

    def cost(rows: int) -> int:
        tiles, rest = divmod(count, rows)
        return tiles * max(8, rows * vectors + vectors) + (max(8, rest * vectors + vectors) if rest else 0)

    return min(range(most, max(1, most // 2) - 1, -1), key=cost)


@dataclass
class _Emission:
    """Emits the loops of an analysed contraction."""

    a: _Analysis
    packed: dict[tuple[str, int], ir.Buffer] = field(default_factory=dict)

    def emit(self) -> None:
        a = self.a
        self.registers = a.register_block()
        self.lanes = a.lowering.target.lanes(a.term.dtype.bits)
        size = a.tensor.shape[a.vector]
        self.vector_size = -(-size // a.block) * a.block if a.block else size
        blocks, rest = divmod(self.vector_size, self.registers.columns)
        if blocks:
            var = ir.Var("vo", extent=ir.Const(blocks))
            self._outer(var if blocks > 1 else ir.ZERO, 0, self.registers.columns)
        if rest:
            self._outer(ir.ZERO, blocks * self.registers.columns, rest)

    def _outer(self, block: ir.Expr, start: int, columns: int) -> None:
        """The parallel loops: outer axes and blocks of the vector axis."""
        a, b = self.a, self.a.lowering.builder
        outer = [i for i in range(len(a.axes)) if i not in (a.vector, a.row) and not ir.is_const(a.extents[i], 1)]
        before = [i for i in outer if i < a.vector]
        after = [i for i in outer if i > a.vector]
        loops = [a.axes[i] for i in before] + ([block] if isinstance(block, ir.Var) else []) + [a.axes[i] for i in after]
        tasks = 1
        for var in loops:
            assert isinstance(var, ir.Var) and var.extent is not None
            tasks *= ir.hint(var.extent)
        inside = tasks >= MIN_TASKS or bool(self._strided())
        bodies: list[tuple[list[ir.Var], ir.Body]] = []
        for rows, count, first in self._row_blocks():
            row_block: ir.Expr = ir.ZERO if ir.is_const(count, 1) else ir.Var("ro", extent=count)
            with b.collect() as body:
                self._tiles(block, start, columns, row_block, first, rows, inside=inside)
            bodies.append(([row_block] if isinstance(row_block, ir.Var) and not inside else [], tuple(body)))
        if inside:
            bodies = [([], tuple(stmt for _, body in bodies for stmt in body))]
        for extra, body in bodies:
            nest = body
            for var in reversed([*loops, *extra] or [ir.Var("once", extent=ir.ONE)]):
                assert isinstance(var, ir.Var) and var.extent is not None
                nest = (ir.For(var, var.extent, nest, "parallel"),)
            b.emit(nest[0])

    def _row_blocks(self) -> Iterator[tuple[int, ir.Expr, ir.Expr]]:
        """Rows of a tile, how many such tiles, and the first row they start at."""
        a = self.a
        if a.row is None:
            yield 1, ir.ONE, ir.ZERO
            return
        extent, size, rows = a.extents[a.row], a.tensor.shape[a.row], self.registers.rows
        tiles, rest = divmod(size, rows)
        count = extent // rows
        if tiles:
            yield rows, (ir.ONE if tiles == 1 else count), ir.ZERO
        if rest:
            yield rest, ir.ONE, (ir.Const(tiles * rows) if isinstance(extent, ir.Const) else count * rows)

    def _strided(self) -> list[ir.Load]:
        """Loads along the vector axis that are neither constant nor contiguous, and serve all rows."""
        a = self.a
        var, row = a.axes[a.vector], None if a.row is None else a.axes[a.row]
        return [
            load
            for load in a.loads()
            if _depends(load, var)
            and (row is None or not _depends(load, row))
            and self._constant(load) is None
            and step_of(load, var) != 1
        ]

    def _constant(self, load: ir.Load) -> str | None:
        """The name of the constant that a load reads, if it reads one."""
        lowering = self.a.lowering
        for name, buffer in lowering.buffers.items():
            if buffer is load.buffer:
                return name if name in lowering.constants else None
        return None

    # --- one tile --------------------------------------------------------------------------------------------------------------

    def _tiles(
        self, block: ir.Expr, start: int, columns: int, row_block: ir.Expr, first: ir.Expr, rows: int, *, inside: bool
    ) -> None:
        a, b = self.a, self.a.lowering.builder
        column = ir.Var("v", extent=ir.Const(columns))
        row = ir.Var("r", extent=ir.Const(rows))
        vector_index = block * columns + start + column
        row_index = row_block * rows + first + (row if rows > 1 else ir.ZERO)
        place = list[ir.Expr](ir.ZERO if ir.is_const(e, 1) else v for v, e in zip(a.axes, a.extents, strict=True))
        place[a.vector] = vector_index
        if a.row is not None:
            place[a.row] = row_index
        reduce = a.define(*place)
        loops, values = _reduce_loops(reduce, a)
        loops, values, partial = in_parts(loops, values)
        term = reduce.term(*values)
        outer = [v for i, v in enumerate(place) if i not in (a.vector, a.row)]
        order = [v for v in (*outer, block, row_block, *loops, row, column) if isinstance(v, ir.Var)]
        term = self._pack_constants(term, order)
        term = self._pack_scratch(term, loops, column)
        index = tuple(place)

        def tile() -> None:
            def store(total: ir.Expr) -> None:
                a.lowering.write(a.tensor.name, index, reduce.finish(total))

            register_tile(b, row, column, loops, term, store, parts=partial)

        if inside and isinstance(row_block, ir.Var):
            with b.collect() as inner:
                tile()
            assert row_block.extent is not None
            b.emit(ir.For(row_block, row_block.extent, tuple(inner), "serial"))
        else:
            tile()

    def _pack_constants(self, term: ir.Expr, order: Sequence[ir.Var]) -> ir.Expr:
        """Replaces each load of a constant by one of a copy laid out in the order of the loops."""

        def replace(e: ir.Expr) -> ir.Expr:
            name = self._constant(e) if isinstance(e, ir.Load) else None
            if name is None or not isinstance(e, ir.Load):
                return e
            used = [v for v in order if _depends(e, v)]
            buffer = self.a.lowering.packed(name, e, used)
            return ir.Load(buffer, tuple(used))

        return _replace_loads(term, replace)

    def _pack_scratch(self, term: ir.Expr, loops: Sequence[ir.Var], column: ir.Var) -> ir.Expr:
        """Copies operands that do not walk along the vector axis into scratch, once for all rows."""
        b = self.a.lowering.builder
        strided = {id(load.buffer) for load in self._strided()}

        def replace(e: ir.Expr) -> ir.Expr:
            if not isinstance(e, ir.Load) or id(e.buffer) not in strided or not _depends(e, column):
                return e
            used = [v for v in (*loops, column) if _depends(e, v)]
            scratch = b.scratch(f"{e.buffer.name}_packed", e.dtype, [v.extent for v in used if v.extent is not None])
            body: ir.Body = (ir.Store(scratch, tuple(used), e),)
            for var in reversed(used):
                assert var.extent is not None
                body = (ir.For(var, var.extent, body, "vector" if var is column else "serial"),)
            for stmt in body:
                b.emit(stmt)
            return ir.Load(scratch, tuple(used))

        return _replace_loads(term, replace)


def _reduce_loops(reduce: Reduce, a: _Analysis) -> tuple[list[ir.Var], list[ir.Expr]]:
    """Loops over the reduced axes and the axes' values. In a blocked layout the channels come as blocks outside and lanes innermost."""
    block = a.lowering.target.block
    loops: list[ir.Var] = []
    values: list[ir.Expr] = []
    innermost: list[ir.Var] = []
    blocked = any(len(load.buffer.shape) == len(a.axes) + 1 and ir.is_const(load.buffer.shape[-1], block) for load in a.loads())
    for name, extent in reduce.axes:
        bound = ir.index(extent)
        if ir.is_const(bound, 1):
            values.append(ir.ZERO)
        elif blocked and not loops and not values and isinstance(bound, ir.Const) and int(bound.value) % block == 0:  # type: ignore[arg-type]
            outer = ir.Var(f"{name}_o", extent=ir.Const(int(bound.value) // block))  # type: ignore[arg-type]
            lane = ir.Var(f"{name}_i", extent=ir.Const(block))
            if not ir.is_const(outer.extent, 1):  # type: ignore[arg-type]
                loops.append(outer)
                values.append(outer * block + lane)
            else:
                values.append(lane)
            innermost.append(lane)
        else:
            var = ir.Var(name, extent=bound)
            loops.append(var)
            values.append(var)
    return [*loops, *innermost], values


def _depends(e: ir.Expr, var: ir.Var) -> bool:
    return any(x is var for x in ir.walk(e))


def _replace_loads(e: ir.Expr, replace: Callable[[ir.Expr], ir.Expr]) -> ir.Expr:
    match e:
        case ir.Load():
            return replace(e)
        case ir.Binary(op, x, y):
            return ir.Binary(op, _replace_loads(x, replace), _replace_loads(y, replace))
        case ir.Unary(op, x):
            return ir.Unary(op, _replace_loads(x, replace))
        case ir.Cast(x, dtype, saturate):
            return ir.Cast(_replace_loads(x, replace), dtype, saturate)
        case ir.Select(c, x, y):
            return ir.Select(_replace_loads(c, replace), _replace_loads(x, replace), _replace_loads(y, replace))
        case _:
            return e
