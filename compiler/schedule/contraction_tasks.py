"""How a sum of products is cut into tasks: into how many chunks of rows, and whether blocks of columns or chunks of rows come first.

Blocks of columns first: the weights are read once, and all rows once per block of columns. Chunks of rows first: a chunk stays in the
second cache while all columns pass, so the rows are read once, and the weights once per chunk. That has to move half as many bytes to be
worth it: a part of the weights serves fewer rows then.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ...ir import loops as ir
from .contraction import Contraction, depends

TASKS = 16
"""Fewer tasks than this are cut further, for the workers' sake."""


@dataclass(frozen=True)
class Tasks:
    """``chunks`` of rows, and which loop is around the other."""

    chunks: int
    rows_first: bool


def cut(a: Contraction, outer: list[int], blocks: int) -> Tasks:
    """The tasks for ``blocks`` blocks of columns inside of the axes ``outer``."""
    apart = prod(a.sizes[i] for i in outer) * a.groups
    choices = a.lowering.choices
    enough = -(-choices.take("tasks", TASKS, range(1, 1025)) // max(1, apart * blocks))
    rows = sum(_bytes(a, load, outer) for load in a.loads() if load not in a.moving)
    columns = sum(_bytes(a, load, outer) for load in a.moving)
    cache = a.lowering.target.l2
    resident = -(-rows // (cache // 2))
    worth = rows > cache * 3 // 4 and 2 * (rows + resident * columns) < columns + blocks * rows
    if choices.take("order", "rows" if worth else "columns", ("columns", "rows")) == "rows":
        return Tasks(max(resident, enough), rows_first=True)
    return Tasks(enough, rows_first=False)


def _bytes(a: Contraction, load: ir.Load, outer: list[int]) -> int:
    """What a task of all rows and columns reads of a buffer."""
    size = prod(map(ir.hint, load.buffer.shape)) * load.dtype.itemsize
    return size // max(1, a.groups * prod(a.sizes[i] for i in outer if depends(load, a.axes[i])))
