"""The register tile of a sum of products: how many rows and columns, from a count of cycles.

A tile of R rows and V vectors takes, per product of each element, R * V multiply-adds, of which a core starts two a cycle, each
adding to a register that is ready four cycles later, and R + V loads, of which it makes two a cycle; for one of two threads that share
it, it starts little more than three instructions a cycle of any kind. R * V accumulators, V vectors of one factor and one value of the
other must fit into the registers. The tile is the one that covers all rows and columns, what is left after whole tiles included, in the
fewest cycles.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...codegen.target import Target
from ..config import Tile
from .register_tile import PART

_PER_CYCLE = 2
"""Multiply-adds, and loads, that a core starts in a cycle."""
_STARTED = 3.2
"""Instructions that a core starts in a cycle for one of two threads that share it, as virtual processors do: half of six, and some that
the other one leaves."""
_LATENCY = 4.4
"""Cycles from a multiply-add to the next one that needs its result: four, which are seldom met exactly."""
_ADDITION = 1.1
"""The same from one addition of integers to the next: products do not wait for sums."""
_AROUND = 12
"""Cycles of a tile apart from its products: registers cleared, results finished and stored, loops entered."""
_WIDEST = 8
"""Vectors of a tile of one row; more would only leave fewer tasks."""
_APART = 1.03
"""What columns left over cost that get loops of their own, as a factor: they are compiled apart, and start where others end."""
_CROWDED = 1.1
"""What columns cost, as a factor, of which so many are read that they come from the second cache, at half of the speed of the first."""
_MANY = 8
"""Blocks of rows, at least, for which columns are read again."""
_LINE = 512
"""Bits of a cache line."""


@dataclass(frozen=True)
class RegisterBlock:
    """Rows and vector elements of the accumulator tile."""

    rows: int
    columns: int


@dataclass(frozen=True)
class ColumnBlocks:
    """``count`` blocks of columns from ``start`` on, with one register tile."""

    start: int
    count: int
    registers: RegisterBlock


@dataclass(frozen=True)
class Extent:
    """What there is to cover: rows, columns (in multiples of ``unit``), and the products summed for each element."""

    rows: int
    columns: int
    products: int
    unit: int
    fused: bool = True
    """Whether the target's multiply-add, if it has one, does it: there is none for integers."""


def legal_tiles(target: Target, bits: int, tile: Tile) -> dict[str, range]:
    """What the extents of the option ``tile`` may be, each with the other as it is: code grows with tiles, and the registers are few."""
    lanes, most = target.lanes(bits), 4 * target.vector_registers
    vectors = -(-(tile.n or 1) // lanes)
    return {
        "m": range(1, min(most // vectors, 2 * target.vector_registers) + 1),
        "n": range(lanes, max(1, min(2 * _WIDEST, most // (tile.m or 1))) * lanes + 1, lanes),
    }


def fitting_tiles(target: Target, bits: int) -> list[Tile]:
    """The register tiles that fit into the registers."""
    return [Tile(m, v * target.lanes(bits)) for v in range(1, _WIDEST + 1) for m in range(1, _most_rows(target, v) + 1)]


def cover(extent: Extent, target: Target, bits: int, tile: Tile) -> tuple[ColumnBlocks, ...]:
    """Blocks of columns that cover ``extent``, what is left after whole blocks as one more; extents that ``tile`` sets are kept to."""
    return _best(extent, target, bits, tile)[1]


def tile_cycles(extent: Extent, target: Target, bits: int, tile: Tile) -> float:
    """Cycles, divided by the products, of the tiles that cover ``extent``."""
    return _best(extent, target, bits, tile)[0]


def _best(extent: Extent, target: Target, bits: int, tile: Tile) -> tuple[float, tuple[ColumnBlocks, ...]]:
    lanes = target.lanes(bits)
    unit = max(lanes, extent.unit)
    if tile.n:
        widths = [-(-min(tile.n, extent.columns) // unit) * unit]
    else:
        most = -(-extent.columns // unit) * unit
        held = {v * lanes: _most_rows(target, v, extent.fused) for v in range(_WIDEST, 0, -1)}
        widths = [width for width, most_rows in held.items() if width % unit == 0 and width <= most and most_rows]
        rows = min(tile.m or 1, extent.rows)
        widths = [width for width in widths if rows <= held[width]] or widths[-1:]
    return min((_covered(extent, columns, target, lanes, tile) for columns in widths or [unit]), key=lambda way: way[0])


def _covered(extent: Extent, columns: int, target: Target, lanes: int, tile: Tile) -> tuple[float, tuple[ColumnBlocks, ...]]:
    """The cycles and the blocks with blocks of ``columns``."""
    count, rest = divmod(extent.columns, columns)
    cycles, blocks = 0.0, list[ColumnBlocks]()
    for start, number, width in ((0, count, columns), (count * columns, int(rest > 0), rest)):
        if number:
            each, rows = _rows(extent, -(-width // lanes), target, tile)
            cycles += number * each * (_CROWDED if _crowded(extent, rows, -(-width // lanes), target) else 1.0)
            blocks.append(ColumnBlocks(start, number, RegisterBlock(rows, width)))
    return cycles * (_APART if len(blocks) > 1 else 1.0), tuple(blocks)


def _crowded(extent: Extent, rows: int, vectors: int, target: Target) -> bool:
    """Whether a part of the columns does not stay in the first cache from one block of rows to the next, and a line of them is read every
    four cycles or sooner."""
    part = min(extent.products, PART) * vectors * target.vector_bits // 8
    often = rows * _LINE // target.vector_bits < 4 * _PER_CYCLE
    return often and extent.rows >= _MANY * rows and part > target.l1 * 3 // 4


def _most_rows(target: Target, vectors: int, fused: bool = True) -> int:
    """Rows for which the registers suffice; a tile of one row multiplies by memory, and needs no registers for the vectors."""
    free = target.vector_registers - 1 - (not (target.fma and fused))
    return max((free - vectors) // vectors, int(vectors < free))


def _rows(extent: Extent, vectors: int, target: Target, tile: Tile) -> tuple[float, int]:
    """Cycles for one block of columns, divided by the products, and the rows of its tiles."""

    def cycles(rows: int) -> float:
        tiles, rest = divmod(extent.rows, rows)
        return sum(count * _cycles(n, vectors, extent, target) for count, n in ((tiles, rows), (1, rest)) if n)

    most = min(_most_rows(target, vectors, extent.fused), extent.rows)
    rows = min(tile.m, extent.rows) if tile.m else min(range(max(1, most), 0, -1), key=cycles)
    return cycles(rows), rows


def _cycles(rows: int, vectors: int, extent: Extent, target: Target) -> float:
    arithmetic = rows * vectors * (1 if target.fma else 2)
    started = (arithmetic + rows + vectors) / _STARTED
    steady = max(arithmetic / _PER_CYCLE, started, (rows + vectors) / _PER_CYCLE, _LATENCY if extent.fused else _ADDITION)
    return steady + (_AROUND + rows * vectors) / max(1, extent.products)
