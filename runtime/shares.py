"""How many workers share each step: a cost model of a few measured constants.

A step is worth a worker for every ``SHARE_US`` that it takes. Handing a step to workers that are awake and meeting them after it costs a
fraction of a microsecond; waking one that sleeps takes tens, so that a short step does not wait for it, and runs on those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.frozen import Frozen
from .program import Step

FLOPS_PER_US = 50_000
BYTES_PER_US = 20_000
"""What one worker computes and moves in a microsecond, in kernels of middling quality on data in its caches."""

SHARE_US = 2.5
"""The least work for each worker: handing over and meeting take 0.1 to 0.4 microseconds at two workers, and data changes caches."""

WAKE_US = 50.0
"""About how long a sleeping worker takes to start (30 to 60 microseconds)."""


PIECES = 16
PIECE_US = 5.0
"""A worker's part of a step is cut into up to so many pieces of at least so long, of which those take some that are done with their own
parts: where others use the same processors, a step took as long as the slower of two equal parts."""


class Share(Frozen):
    """How a step is shared. ``crew`` workers at most; ``end``: the number of the next step that another crew runs; ``meet``: the workers
    meet after it; ``wait``: sleeping workers are waited for; ``wake``: they are woken; ``pieces``: in the part of a worker."""

    crew: int
    end: int
    meet: bool
    wait: bool
    wake: bool
    pieces: int


class ImageShare(Frozen):
    """How images are shared: of the first ``apart`` of them each is computed by one of ``crew`` workers; workers share the steps of each of
    the others. ``wait`` and ``wake`` as in ``Share``."""

    apart: int
    crew: int
    wait: bool
    wake: bool


def cost_us(step: Step) -> float:
    """About how long a step takes on one worker; infinite where nothing is known of its work."""
    if not step.flops and not step.bytes:
        return float("inf")
    return step.flops / FLOPS_PER_US + step.bytes / BYTES_PER_US


def shares(steps: Sequence[Step], threads: int) -> list[Share]:
    """How ``threads`` workers share ``steps``."""
    costs = [cost_us(step) for step in steps]
    crews = [crew_of(step, cost, threads) for step, cost in zip(steps, costs, strict=True)]
    found: list[Share] = []
    end, ahead = len(steps), 0.0
    for at in reversed(range(len(steps))):
        if at + 1 < len(steps) and crews[at + 1] != crews[at]:
            end = at + 1
        ahead += costs[at] if crews[at] > 1 else 0.0
        meet = steps[at].barrier or at + 1 == end
        pieces = pieces_of(costs[at], crews[at]) if meet else 1
        found.append(Share(crews[at], end, meet, costs[at] >= WAKE_US, ahead >= WAKE_US, pieces))
    return found[::-1]


def image_share(steps: Sequence[Step], images: int, threads: int) -> ImageShare:
    """How ``threads`` workers share ``images``, each of which takes ``steps``."""
    apart, each = images_apart(images, threads), sum(map(cost_us, steps))
    crew = int(min(apart, threads, apart * each / SHARE_US)) if apart else 0
    if crew < 2:
        return ImageShare(0, 1, False, False)
    return ImageShare(apart, crew, each >= WAKE_US, apart * each >= WAKE_US)


def images_apart(images: int, threads: int) -> int:
    """How many of ``images``, from the first, are each computed by one worker: as many as share out, and those left over where they keep
    more than three quarters of the workers busy. That is about what workers do who share the steps of the others."""
    left = images % threads
    return images if 4 * left > 3 * threads else images - left


def crew_of(step: Step, cost: float, threads: int) -> int:
    """At least 1; more only for a step that can be shared."""
    return max(1, int(min(threads, cost / SHARE_US))) if step.parallel else 1


def pieces_of(cost: float, crew: int) -> int:
    """At least 1; more only where the pieces are not too short."""
    return max(1, int(min(PIECES, cost / crew / PIECE_US))) if crew > 1 else 1
