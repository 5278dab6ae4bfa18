"""The arena: where each intermediate tensor lies in one block of memory, given when it is alive.

Greedy by size with best fit: the largest tensor is placed first, each at the smallest gap that holds it between tensors alive at the same
time. Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020), algorithm 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import VerificationError
from .program import ALIGNMENT


@dataclass(frozen=True)
class Lifetime:
    """A tensor of ``nbytes`` that is written first in step ``first_step`` and read last in ``last_step`` (both included)."""

    nbytes: int
    first_step: int
    last_step: int


def plan_arena(lifetimes: Sequence[Lifetime], alignment: int = ALIGNMENT) -> tuple[list[int], int]:
    """The offset of each tensor, a multiple of ``alignment``, and the size of the arena, both in bytes."""
    count = len(lifetimes)
    offsets = [0] * count
    order = sorted(range(count), key=lambda i: (-lifetimes[i].nbytes, lifetimes[i].first_step))
    placed = np.empty((count, 4), np.int64)  # start, end, first step, last step; sorted by start
    total = 0
    for done, index in enumerate(order):
        life = lifetimes[index]
        nbytes = -(-life.nbytes // alignment) * alignment
        rows = placed[:done]
        alive = rows[(rows[:, 2] <= life.last_step) & (rows[:, 3] >= life.first_step)]
        offset = _best_gap(alive, nbytes)
        offsets[index] = offset
        total = max(total, offset + nbytes)
        at = int(np.searchsorted(rows[:, 0], offset))
        placed[at + 1 : done + 1] = placed[at:done]
        placed[at] = (offset, offset + nbytes, life.first_step, life.last_step)
    return offsets, total


def _best_gap(alive: np.ndarray, nbytes: int) -> int:
    """The start of the smallest sufficient gap between the tensors ``alive`` (sorted by start), else their end."""
    if not len(alive):
        return 0
    ends = np.maximum.accumulate(alive[:, 1])
    starts = np.concatenate(([0], ends[:-1]))
    gaps = alive[:, 0] - starts
    fitting = np.flatnonzero(gaps >= nbytes)
    if not len(fitting):
        return int(ends[-1])
    return int(starts[fitting[np.argmin(gaps[fitting])]])


def verify_arena(lifetimes: Sequence[Lifetime], offsets: Sequence[int], total: int, alignment: int = ALIGNMENT) -> None:
    """Raises ``VerificationError`` unless tensors alive at the same time share no byte, and all lie inside, aligned."""
    for index, (life, offset) in enumerate(zip(lifetimes, offsets, strict=True)):
        if offset < 0 or offset % alignment or offset + life.nbytes > total:
            raise VerificationError(f"tensor {index} at {offset} is misaligned or outside the arena of {total} bytes")
        for other in range(index):
            peer, start = lifetimes[other], offsets[other]
            together = life.first_step <= peer.last_step and peer.first_step <= life.last_step
            if together and offset < start + peer.nbytes and start < offset + life.nbytes:
                raise VerificationError(f"tensors {other} and {index} are alive at the same time and share bytes of the arena")
