"""Sums of products on a register tile: matrix multiplication and every kind of convolution are this one schedule.

    y[i, h, r, v] = sum_k a[i, h, r, k] * b[i, k, v]

    for i, v.o, h.o in parallel:                     outer axes, blocks of the vector axis, blocks of the rows
        for k.o:                                     parts of the sum, so long that a part of b stays in the first cache
            for h, r.o:                              blocks of the row axis
                acc[R, V] = 0                        R x V / lanes vector registers
                for k:
                    for r in unroll(R):
                        for v in vector(V):
                            acc[r, v] += a[i, h, r.o * R + r, k] * b[i, k, v.o * V + v]
                totals[h, r.o * R + r, v] += acc[r, v]                                        in the first part: = acc[r, v]
                in the last part, instead: y[i, h, r.o * R + r, v.o * V + v] = finish(totals[h, r.o * R + r, v] + acc[r, v])

A short sum is one part: it is finished from the registers, without ``totals``. What is left of the row and the vector axis after
whole blocks gets a tile of its own size. Constant operands are packed in the order in which the loops read them; operands that do not
walk along the vector axis are packed into scratch memory first, part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from ...ir import loops as ir
from ..config import Tile
from ..ops.context import Op, Reduce
from ..tensor import Tensor
from .reduction import step_of
from .register_blocks import ColumnBlocks, Extent, cover, legal_tiles, tile_cycles
from .scaling import scale_of, with_scaled_weights

if TYPE_CHECKING:
    from ..lowering import Lowering

Define = Callable[..., Reduce]


def is_contraction(reduce: Reduce, term: ir.Expr) -> bool:
    """Whether a reduction is a sum of products, or of pairs of them, which is what a register tile is for."""
    return reduce.op == "add" and reduce.first is None and isinstance(term, ir.Binary) and term.op in ("mul", "dot16")


def lower_contraction(lowering: Lowering, op: Op, define: Define) -> bool:
    """Lowers a sum of products on a register tile; False where the reduction is none, or has no axes to tile."""
    from .contraction_loops import emit_blocks

    contraction = Contraction(lowering, op, define)
    if not contraction.fits():
        return False
    contraction.settle()
    every = contraction.blocks()
    widest = max(blocks.registers.columns for blocks in every)
    for blocks in every:
        emit_blocks(contraction, blocks, widest)
    return True


@dataclass
class Contraction:
    """The axes of a sum of products: ``vector`` lies in registers' lanes, ``row`` across registers, and ``band``, one more that the
    factor along ``vector`` does not depend on, is walked inside of a task."""

    lowering: Lowering
    op: Op
    define: Define
    vector: int = 0
    row: int | None = None
    band: int | None = None
    moving: list[ir.Load] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensor: Tensor = self.lowering.tensors[self.op.node.outputs[0]]
        self.block = self.tensor.layout.block
        self.sizes = self.tensor.shape
        self.group: ir.Var | None = None
        self._lay_axes()
        run = self.reduce.run
        if run % max(1, self.block) == 0 and 1 < run < self.sizes[1]:
            self.group = ir.Var("g", extent=ir.Const(self.sizes[1] // run))
            self.sizes = (self.sizes[0], run, *self.sizes[2:])
            self._lay_axes()
        self.reduced = [ir.Var(name, extent=ir.index(extent)) for name, extent in self.reduce.axes]
        self.term = self.reduce.term(*self.reduced)
        self.scale = scale_of(self.term, self.axes[2:])
        if self.scale is not None:
            self.define = with_scaled_weights(self.define, self.scale)
            self.reduce = self.define(*self.index(self.axes))
            self.term = self.reduce.term(*self.reduced)

    def _lay_axes(self) -> None:
        """Variables for the axes, the one of channels inside of a group, if there are groups."""
        self.extents = tuple(self.lowering.extents(e) for e in self.sizes)
        if self.group is not None:
            self.extents = (self.extents[0], ir.Const(self.sizes[1]), *self.extents[2:])
        self.axes = [ir.Var(f"i{axis}", extent=e) for axis, e in enumerate(self.extents)]
        self.reduce = self.define(*self.index(self.axes))

    def index(self, place: Sequence[ir.Expr]) -> tuple[ir.Expr, ...]:
        """The index in the result of a place on the axes."""
        if self.group is None:
            return tuple(place)
        return (place[0], self.group * self.sizes[1] + place[1], *place[2:])

    def fits(self) -> bool:
        if not is_contraction(self.reduce, self.term) or not self.axes or self.tensor.dtype.bits < 32:
            return False
        if any(isinstance(e, ir.Guarded) for e in ir.walk(self.term)):
            return False
        self.vector = 1 if self.block else len(self.axes) - 1
        self.moving = [load for load in self.loads() if depends(load, self.axes[self.vector])]
        if not self.moving or not self.reuses():
            return False
        candidates = [i for i in range(len(self.axes)) if i != self.vector and self.sizes[i] > 1]
        reusing = [i for i in candidates if not any(depends(load, self.axes[i]) for load in self.moving)]
        self.row = (reusing or candidates or [None])[-1]
        one_column = self.sizes[self.vector] == 1 and not self.block
        if one_column or (self.row is None and self.walks_inwards()):
            return False
        self.band = reusing[-2] if len(reusing) > 1 else None
        return True

    def settle(self) -> None:
        """Makes a constant of the last axis of an operand that a sum of constant length runs along from end to end: the strides around it
        are constants then, and addresses of rows need no instructions. Not where other parts of the result read the operand."""
        lengths = {v: v.extent.value for v in self.reduced if isinstance(v.extent, ir.Const)}
        buffers = {} if self.lowering.parts else self.lowering.buffers
        for name, buffer in list(buffers.items()):
            for load in (e for e in self.loads() if e.buffer is buffer and buffer.shape):
                last, extent = load.index[-1], buffer.shape[-1]
                if isinstance(last, ir.Var) and isinstance(extent, ir.Param) and lengths.get(last) == extent.hint:
                    shape = (*buffer.shape[:-1], ir.Const(extent.hint))
                    buffers[name] = replace(buffer, shape=shape, strides=ir.contiguous(shape))
        self.reduce = self.define(*self.index(self.axes))
        self.term = self.reduce.term(*self.reduced)
        self.moving = [load for load in self.loads() if depends(load, self.axes[self.vector])]

    def walks_inwards(self) -> bool:
        """Whether data that moves along the vector axis lies along what is summed (a matrix times a vector): no order of packing it is
        worth while where each element is used once."""
        var, loads = self.axes[self.vector], [load for load in self.moving if self.constant(load) is None]
        return any(step_of(load, var) != 1 and any(step_of(load, k) == 1 for k in self.reduced) for load in loads)

    def reuses(self) -> bool:
        """Whether some element serves more than one result: otherwise registers have nothing to save (a sum of squares)."""
        outer = [axis for axis, extent in zip(self.axes, self.sizes, strict=True) if extent > 1]
        return not all(depends(load, axis) for load in self.loads() for axis in outer)

    def loads(self) -> list[ir.Load]:
        return [e for e in ir.walk(self.term) if isinstance(e, ir.Load)]

    def constant(self, load: ir.Load) -> str | None:
        """The name of the constant that a load reads, if it reads one."""
        for name, buffer in self.lowering.buffers.items():
            if buffer is load.buffer:
                return name if name in self.lowering.constants else None
        return None

    @property
    def groups(self) -> int:
        return ir.hint(self.group.extent) if self.group is not None and self.group.extent is not None else 1

    @property
    def columns(self) -> int:
        """The extent of the vector axis, in whole blocks of the layout."""
        size = self.sizes[self.vector]
        return -(-size // self.block) * self.block if self.block else size

    @property
    def rows(self) -> int:
        return self.sizes[self.row] if self.row is not None else 1

    def blocks(self) -> tuple[ColumnBlocks, ...]:
        """Blocks of the vector axis with their register tiles."""
        products = prod(ir.hint(v.extent) for v in self.reduced if v.extent is not None)
        extent = Extent(self.rows, self.columns, products, self.block or 1, fused=self.term.dtype.is_float)
        target, bits = self.lowering.target, self.term.dtype.bits
        known = cover(extent, target, bits, Tile())[0].registers
        legal = legal_tiles(target, bits, self.lowering.options.tile)
        self.lowering.choices.cost = partial(tile_cycles, extent, target, bits)
        return cover(extent, target, bits, self.lowering.choices.tile(Tile(known.rows, known.columns), **legal))


def depends(e: ir.Expr, var: ir.Var) -> bool:
    return any(x is var for x in ir.walk(e))
