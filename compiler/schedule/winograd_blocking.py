"""How the work of Winograd's algorithm is cut: tiles of a task, register tiles, chunks and groups of output channels."""

from __future__ import annotations

from dataclasses import dataclass

from ...codegen.target import Target
from ..config import Tile
from .register_blocks import Extent, RegisterBlock, fitting_tiles, tile_cycles

PART = 128
"""Input channels that are summed in one go: half as many as products elsewhere, because transforms multiply errors."""
CHUNK = 64
"""Output channels that are computed at a time."""
LATE_CHUNK = 32
"""The same where filters are transformed in the kernel: a line of frequencies of them stays in the second cache beside V."""
MIN_TASKS = 8
"""With fewer tasks than this, blocks of tiles are smaller, or the output channels of a block are divided between tasks."""
MIN_CHANNELS = 128
"""Fewer output channels are not worth transforming the input for once more."""
LEAST_ROWS = 5
"""Rows, at least, of a register tile, if there are so many tiles: with fewer, filters come from beyond the second cache too slowly (six
rows for 16 tiles of 256 channels take 0.9 of the time of four)."""


@dataclass(frozen=True)
class Blocking:
    """At most ``tiles`` a task, on register tiles of ``rows`` x ``columns``, for one of ``groups`` equal parts of the output channels, of
    which ``chunk`` are computed at a time."""

    tiles: int
    rows: int
    columns: int
    chunk: int
    groups: int


def blocking(
    tiles: int, outputs: int, filters: int, target: Target, tile: Tile, tasks: int = MIN_TASKS, chunk: int = CHUNK
) -> Blocking:
    """The blocking for so many tiles, output channels (in whole blocks, ``chunk`` at a time) and bytes of transformed filters, in at
    least ``tasks`` tasks; extents that ``tile`` sets are kept to."""
    lanes, most = target.lanes(32), min(chunk, outputs)
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
