"""How a sum of products is cut into tasks: into how many chunks of rows, and whether blocks of columns or chunks of rows come first.

Blocks of columns first: the weights are read once, and all rows once per block of columns. Chunks of rows first: a chunk stays in the
second cache while all columns pass, so the rows are read once, and the weights once per chunk. That has to move half as many bytes to be
worth it: a part of the weights serves fewer rows then.

Groups of blocks of columns, where sums come in parts: a part of a chunk of rows stays in the cache while the blocks of a group pass,
with the totals of all of them. Rows are read once per group, and chunks may be as high as one part of them allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ...ir import loops as ir
from .contraction import Contraction, depends
from .contraction_sums import Sum
from .reduction import step_of
from .register_blocks import ColumnBlocks

TASKS = 16
"""Fewer tasks than this are cut further, for the workers' sake."""
_LEAST_TASKS = 4
"""Groups of blocks of columns, and chunks of few rows, are not so large that there are fewer tasks."""
_FEW_ROWS = 14
"""Rows, at least, of a chunk where there are few: with fewer, weights come from the second cache more slowly than they are used."""
_LEAST_ROWS = 64
"""Rows, at least, of a chunk that a group of blocks passes by: they all use a part of the weights that lies in the first cache."""


@dataclass(frozen=True)
class Tasks:
    """``chunks`` of rows, and which loop is around the other."""

    chunks: int
    rows_first: bool
    group: int = 1
    """Blocks of columns that a task does side by side, part by part of the sum."""


def cut(a: Contraction, outer: list[int], blocks: ColumnBlocks, total: Sum) -> Tasks:
    """The tasks for ``blocks`` of columns inside of the axes ``outer``, of sums ``total``."""
    apart = prod(a.sizes[i] for i in outer) * a.groups
    choices = a.lowering.choices
    each = max(1, apart * blocks.count)
    enough = -(-choices.take("tasks", _tasks(a, each, blocks, total), range(1, 1025)) // each)
    rows = sum(_bytes(a, load, outer) for load in a.loads() if load not in a.moving)
    columns = sum(_bytes(a, load, outer) for load in a.moving)
    cache = a.lowering.target.l2
    resident = -(-rows // (cache // 2))
    ways = {"columns": Tasks(enough, rows_first=False), "rows": Tasks(max(resident, enough), rows_first=True)}
    best, moved = "columns", columns + blocks.count * rows
    if 2 * (rows + resident * columns) < moved:
        best, moved = "rows", rows + resident * columns
    groups = [
        (rows * (blocks.count // way.group) + columns * way.chunks, way.chunks, way) for way in _groups(a, apart, blocks, total)
    ]
    if groups:
        least, _, ways["groups"] = min(groups, key=lambda way: way[:2])
        best = "groups" if 2 * least < moved else best
    return ways[choices.take("order", best if rows > cache * 3 // 4 else "columns", tuple(ways))]


def _tasks(a: Contraction, each: int, blocks: ColumnBlocks, total: Sum) -> int:
    """Tasks that are enough where each chunk of rows makes ``each``: fewer where chunks of few rows would read a part of the weights again
    and again that does not stay in the first cache."""
    part = prod(ir.hint(total.extent(v)) for v in total.loops) * blocks.registers.columns * a.term.dtype.itemsize
    rows = a.rows * (a.sizes[a.band] if a.band is not None else 1)
    return TASKS if 2 * part < a.lowering.target.l1 else min(TASKS, max(_LEAST_TASKS, each * (rows // _FEW_ROWS)))


def _groups(a: Contraction, apart: int, blocks: ColumnBlocks, total: Sum) -> Iterator[Tasks]:
    """Ways to do several blocks of columns side by side: a part of the rows of a chunk, and their totals, stay in the second cache."""
    if not total.parts or not _rows_lie_along(a, total):
        return
    part = prod(ir.hint(total.extent(v)) for v in total.loops)
    room = a.lowering.target.l2 * 5 // 8 // a.term.dtype.itemsize
    units, each = (a.sizes[a.band], a.rows) if a.band is not None else (a.rows, 1)
    spare = 0 if a.band is not None else blocks.registers.rows
    for group in (n for n in range(2, blocks.count + 1) if blocks.count % n == 0):
        most = (room // (part + group * blocks.registers.columns) - spare) // max(1, each)
        if most > 0:
            chunks = max(-(-units // most), -(-_LEAST_TASKS // max(1, apart * (blocks.count // group))))
            if chunks == 1 or (chunks <= units and units * each >= chunks * _LEAST_ROWS):
                yield Tasks(chunks, rows_first=True, group=group)


def _rows_lie_along(a: Contraction, total: Sum) -> bool:
    """Whether what a part of a row reads are neighbours in memory, and what moves along the columns are constants, which are packed."""
    rows = [load for load in a.loads() if load not in a.moving]
    along = len(total.loops) == len(a.reduced) == 1 and all(step_of(load, a.reduced[0]) in (0, 1) for load in rows)
    return along and all(a.constant(load) is not None for load in a.moving)


def _bytes(a: Contraction, load: ir.Load, outer: list[int]) -> int:
    """What a task of all rows and columns reads of a buffer."""
    size = prod(map(ir.hint, load.buffer.shape)) * load.dtype.itemsize
    return size // max(1, a.groups * prod(a.sizes[i] for i in outer if depends(load, a.axes[i])))
