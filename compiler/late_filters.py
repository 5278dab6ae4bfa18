"""Which filters Winograd's kernels transform themselves, each time, so that the constants of a plan do not grow too far beyond the model's.

Transformed when the plan is made, filters of 3x3 taps take four times their memory for F(4, 3). Where few tiles are left to compute, many
channels make that most of what a process has, and where one task has all tiles, transforming in the kernel takes least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ..codegen.target import Target
from ..ir.graph import Node
from .algorithms import algorithm_of, groups_of
from .config import NodeOptions, Tile
from .schedule.phases import count_phases, frequency_groups
from .schedule.winograd_blocking import LATE_CHUNK, MIN_TASKS, blocking
from .tensor import Tensor

GROWTH = 2
SPARE = 16 << 20
"""Constants may take so many times the memory of the model's, and so many bytes more."""


@dataclass(frozen=True)
class _Filters:
    """What filters grow by when they are transformed, for a kernel of so many tiles; ``free``: they need not be."""

    growth: int
    tiles: int
    free: bool


def late_filters(
    nodes: Iterable[Node],
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, np.ndarray],
    options: Callable[[Node], NodeOptions],
    target: Target,
) -> frozenset[str]:
    """The names of the constants which the kernels of all nodes that read them should transform: those for the fewest tiles first, until
    the rest is no more than the model may take."""
    found: dict[str, _Filters] = {}
    fixed: set[str] = set()
    for node in nodes:
        filters = _filters(node, tensors, constants, options(node), target)
        if filters is None or not filters.free:
            fixed.update(node.inputs)
        if filters is not None:
            found.setdefault(node.inputs[1], filters)
    excess = sum(each.growth for each in found.values()) - (GROWTH - 1) * sum(a.nbytes for a in constants.values()) - SPARE
    late: set[str] = set()
    for name in sorted(found, key=lambda name: (found[name].tiles, -found[name].growth)):
        if excess > 0 and name not in fixed:
            late.add(name)
            excess -= found[name].growth
    return frozenset(late)


def _filters(
    node: Node, tensors: Mapping[str, Tensor], constants: Mapping[str, np.ndarray], options: NodeOptions, target: Target
) -> _Filters | None:
    """Those of a node that is computed by Winograd's algorithm, unless its kernel transforms them anyway."""
    if node.op != "Conv" or options.filters == "kernel":
        return None
    transforms = algorithm_of(node, tensors, constants, options, target).transforms
    if not transforms:
        return None
    weights, y = constants[node.inputs[1]], tensors[node.outputs[0]]
    outputs, inputs, groups = len(weights) // groups_of(node), weights.shape[1], groups_of(node)
    columns = -(-outputs // y.layout.block) * y.layout.block
    tiles = y.shape[0] * prod(-(-n // t.outputs) for n, t in zip(y.shape[2:], transforms, strict=True))
    packed = sum(group.products for group in frequency_groups(transforms)) * inputs * columns * weights.itemsize
    each = blocking(tiles, columns, packed, target, Tile(), -(-MIN_TASKS // groups), LATE_CHUNK)
    return _Filters(
        packed * groups - weights.nbytes,
        tiles,
        options.filters == "auto" and each.tiles >= tiles and count_phases(transforms) == 1,
    )
