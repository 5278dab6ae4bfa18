"""Square blocks transposed in registers: loads that jump along the vector loop, but are contiguous along the loop around it.

    for i in range(16):                      for each block of 8 x 8:
        for j in vector(16):          ->         rows = 8 vectors x[(j + 0...7) * n + i ... i + 7]
            y[i * m + j] = x[j * n + i]          columns = rows transposed by shuffles;  8 vectors stored

Source of the network: Eklundh, "A fast computer method for matrix transposing" (1972), on vectors: interleaving elements within 128 bits
first, whole 128-bit parts after that, which are single instructions on x86 and Arm alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir import loops as ir
from . import arith
from . import llvm as ll
from .arith import I32, I64
from .vecmath.value import element_of

if TYPE_CHECKING:
    from .emit import Emitter

PART_BITS = 128


@dataclass(frozen=True)
class Block:
    """Two loops of constant extents around stores, and the loads to be transposed, with how far each jumps per inner iteration."""

    outer: ir.For
    inner: ir.For
    rows: int
    columns: int
    jumps: tuple[tuple[ir.Load, ir.Expr], ...]


def find(loop: ir.For) -> Block | None:
    """The block that ``loop`` is; None where it is none."""
    inner = loop.body[0] if len(loop.body) == 1 else None
    if loop.kind != "serial" or not isinstance(inner, ir.For) or inner.kind != "vector":
        return None
    rows, columns = loop.extent, inner.extent
    if not isinstance(rows, ir.Const) or not isinstance(columns, ir.Const):
        return None
    stores = [stmt for stmt in inner.body if isinstance(stmt, ir.Store)]
    if len(stores) != len(inner.body):
        return None
    jumps: list[tuple[ir.Load, ir.Expr]] = []
    for load in (e for stmt in stores for e in ir.walk(stmt.value) if isinstance(e, ir.Load)):
        offset = load.buffer.offset(load.index)
        along, across = coefficient(offset, inner.var), coefficient(offset, loop.var)
        if (
            along is not None
            and across is not None
            and ir.is_const(across, 1)
            and not ir.is_const(along, 0)
            and not ir.is_const(along, 1)
        ):
            jumps.append((load, along))
    return Block(loop, inner, int(rows.value), int(columns.value), tuple(jumps)) if jumps else None  # type: ignore[arg-type]


def coefficient(e: ir.Expr, var: ir.Var) -> ir.Expr | None:
    """How far ``e`` moves when ``var`` grows by one; None where that is not the same everywhere."""
    match e:
        case ir.Var() if e is var:
            return ir.ONE
        case ir.Binary("add" | "sub" as op, x, y):
            a, c = coefficient(x, var), coefficient(y, var)
            return None if a is None or c is None else (ir.add if op == "add" else ir.sub)(a, c)
        case ir.Binary("mul", x, y):
            for moving, still in ((x, y), (y, x)):
                factor = coefficient(still, var)
                if factor is not None and ir.is_const(factor, 0):
                    a = coefficient(moving, var)
                    return None if a is None else ir.mul(a, still)
            return None
        case _:
            return None if any(x is var for x in ir.walk(e)) else ir.ZERO


def emit(emitter: Emitter, block: Block, count: int) -> bool:
    """Emits a block in squares of ``count`` lanes; False where its extents are no multiples of that."""
    if count < 4 or count & (count - 1) or block.rows % count or block.columns % count:
        return False
    outer, inner = block.outer, block.inner
    with (
        emitter.counted(I64(0), I64(block.rows), count, outer.var.name) as row,
        emitter.counted(I64(0), I64(block.columns), count, inner.var.name) as column,
    ):
        emitter.values[outer.var], emitter.values[inner.var] = row, column
        squares = [(load, _square(emitter, load, along, count)) for load, along in block.jumps]
        for i in range(count):
            emitter.values[outer.var] = emitter.builder.add(row, I64(i))
            emitter.preloaded = {load: square[i] for load, square in squares}
            emitter.vector_body(inner, column, count, None, {})
        emitter.preloaded = {}
    return True


def _square(emitter: Emitter, load: ir.Load, along: ir.Expr, count: int) -> list[ll.Value]:
    """``count`` vectors along the outer loop, transposed into vectors along the inner one."""
    emitter.memo = {}
    b, dtype = emitter.builder, load.buffer.dtype
    start, step = emitter.value(load.buffer.offset(load.index)), emitter.value(along)
    type_ = ll.VectorType(arith.memory_type(dtype), count)
    rows: list[ll.Value] = []
    for j in range(count):
        offset = b.add(start, b.mul(step, I64(j))) if j else start
        rows.append(b.load(emitter.address(load.buffer, offset), typ=type_, align=dtype.itemsize))
    return [arith.from_memory(b, row, dtype) for row in transposed(b, rows)]


def transposed(b: ll.IRBuilder, rows: list[ll.Value]) -> list[ll.Value]:
    """The columns of a square of vectors."""
    count = len(rows)
    element = element_of(rows[0].type)
    bits = element.width if isinstance(element, ll.IntType) else 64 if isinstance(element, ll.DoubleType) else 32
    part = min(count, max(1, PART_BITS // bits))
    groups = [_interleaved(b, rows[start : start + part], 1, part) for start in range(0, count, part)]
    columns: list[list[ll.Value]] = [_interleaved(b, [group[i] for group in groups], part, count) for i in range(part)]
    return [columns[i][m] for m in range(count // part) for i in range(part)]


def _interleaved(b: ll.IRBuilder, rows: list[ll.Value], unit: int, within: int) -> list[ll.Value]:
    """Transposes ``rows``, in units of some lanes, separately in each ``within`` lanes: by perfect shuffles, as many as it takes."""
    half = len(rows) // 2
    for _ in range(len(rows).bit_length() - 1):
        rows = [_zip(b, rows[p], rows[p + half], unit, within, high) for p in range(half) for high in (False, True)]
    return rows


def _zip(b: ll.IRBuilder, x: ll.Value, y: ll.Value, unit: int, within: int, high: bool) -> ll.Value:
    """The units of the lower (or upper) halves of ``x`` and ``y`` in turn."""
    count = arith.lanes_of(x)
    places: list[int] = []
    for start in range(0, count, within):
        first = start + within // 2 * high
        for at in range(first, first + within // 2, unit):
            places += [*range(at, at + unit), *range(count + at, count + at + unit)]
    return b.shuffle_vector(x, y, ll.Constant(ll.VectorType(I32, count), [I32(p) for p in places]))
