"""The algorithm that a convolution is computed by: direct, by regions where much of it would multiply padding, or Winograd's where that
costs less and is as sound.

Layouts and kernels must agree on it, so it depends on nothing but the shapes, the options and the target.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import prod

from ..codegen.target import Target
from ..ir import dtypes
from ..ir.graph import Node, TensorType
from .config import NodeOptions, Tile
from .ops.convolution import Run, runs_of
from .ops.infer import InferContext
from .schedule.cook_toom import CookToom, cook_toom
from .schedule.register_blocks import Extent, tile_cycles
from .tensor import Tensor

MAX_GROWTH = 25.0
"""The mean square of errors may be so much larger than that of sums of products (see ``CookToom.growth``): at most 5 times the error."""
MAX_FREQUENCIES = 64
TRANSFORM_FLOPS = (24, 16)
"""What transforming one element of V and of M costs, in the floating-point operations that a register tile does in that time."""
BYTE_FLOPS = 4
"""What reading a byte of the filters costs, in the same measure: they come from memory, once, in part while something is computed."""
MIN_GAIN = 1.2
MIN_REGION_GAIN = 1.1
MAX_REGIONS = 9
"""Each is compiled apart."""


@dataclass(frozen=True)
class Algorithm:
    """``transforms``: one per spatial axis for Winograd's algorithm, none for direct convolution; ``reason`` says why. ``regions``: the
    result is computed in regions that read no padding."""

    transforms: tuple[CookToom, ...]
    reason: str
    regions: bool = False

    def overhang(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Elements read beyond the last window of each axis when whole tiles of results are computed; ``sizes`` are those of the result."""
        return (
            tuple(-n % t.outputs for n, t in zip(sizes, self.transforms, strict=True)) if self.transforms else (0,) * len(sizes)
        )

    @property
    def title(self) -> str:
        """``Winograd F(4, 3) x F(4, 3)``, ``by regions``, or ``direct``."""
        if self.regions:
            return "by regions"
        return f"Winograd {' x '.join(f'F({t.outputs}, {t.taps})' for t in self.transforms)}" if self.transforms else "direct"


def algorithm_of(
    node: Node, tensors: Mapping[str, Tensor], constants: Container[str], options: NodeOptions, target: Target
) -> Algorithm:
    """How a Conv node is computed, the layout of whose result is known."""
    refusal = _refusal(node, tensors, constants, options, target)
    if refusal:
        gain = _gain_of_regions(node, tensors, options, target)
        if gain < MIN_REGION_GAIN:
            return Algorithm((), refusal)
        return Algorithm((), f"{refusal}; {gain:.1f} times as fast by regions, by estimate", regions=True)
    w, y = tensors[node.inputs[1]], tensors[node.outputs[0]]
    if options.conv != "auto":
        transforms = _transforms(int(options.conv.removeprefix("winograd")), w.shape[2:])
        if transforms is None:
            return Algorithm((), f"{options.conv} has no points of evaluation, or too many, for filters of {w.shape[2:]}")
        return Algorithm(transforms, f"the option `conv` is {options.conv}")
    return _cheapest(w.shape, y.shape, groups_of(node), target)


def legal_algorithms(
    node: Node, tensors: Mapping[str, Tensor], constants: Container[str], options: NodeOptions, target: Target
) -> tuple[str, ...]:
    """What the option ``conv`` may be for a Conv node, apart from ``auto``."""

    def applies(name: str) -> bool:
        return bool(algorithm_of(node, tensors, constants, replace(options, conv=name), target).transforms)

    return ("direct", *(name for name in ("winograd2", "winograd4", "winograd6") if applies(name)))


def _refusal(
    node: Node, tensors: Mapping[str, Tensor], constants: Container[str], options: NodeOptions, target: Target
) -> str | None:
    """Why a convolution cannot be computed by Winograd's algorithm."""
    x, w, y = (tensors[name] for name in (*node.inputs[:2], node.outputs[0]))
    if options.conv == "direct":
        return "the option `conv` is direct"
    if not y.layout.block:
        return "its channels are not in blocks"
    if any(t.dtype is not dtypes.float32 for t in (x, w, y)):
        return f"it computes in {x.dtype}, not float32"
    if node.inputs[1] not in constants:
        return "the filters are not constant"
    groups = groups_of(node)
    if groups > 1 and (w.shape[1] % y.layout.block or w.shape[0] // groups % y.layout.block):
        return f"its groups make no whole blocks of {y.layout.block} channels"
    if any(s != 1 for s in node.attrs.get("strides") or ()):  # type: ignore[union-attr]
        return "it has strides"
    if any(d != 1 for d in node.attrs.get("dilations") or ()):  # type: ignore[union-attr]
        return "it is dilated"
    if all(r == 1 for r in w.shape[2:]):
        return "its filters have one tap"
    if w.shape[1] < target.block:
        return f"it reads fewer than {target.block} channels"
    return None


def groups_of(node: Node) -> int:
    """Of channels of a convolution, transposed or not."""
    return int(node.attrs.get("group", 1))  # type: ignore[arg-type]


def _transforms(outputs: int, taps: tuple[int, ...]) -> tuple[CookToom, ...] | None:
    """F(outputs, r) for each axis with r > 1 taps; None where there is none that is practical."""
    sizes = [(outputs if r > 1 else 1, r) for r in taps]
    if any(m + r > 9 for m, r in sizes) or prod(m + r - 1 for m, r in sizes) > MAX_FREQUENCIES:
        return None
    return tuple(cook_toom(m, r) for m, r in sizes)


def _gain_of_regions(node: Node, tensors: Mapping[str, Tensor], options: NodeOptions, target: Target) -> float:
    """How many times as fast a direct convolution is in regions, each with those taps alone that do not lie in the padding there."""
    x, w = (tensors[name] for name in node.inputs[:2])
    if node.op != "Conv" or w.shape[1] < target.block or not tensors[node.outputs[0]].layout.block:
        return 1.0  # in plain layout it is pixels that make a vector, of which regions would cut a few off
    types = tuple(TensorType(tensors[name].dtype, tensors[name].shape) if name else None for name in node.inputs)
    axes = runs_of(InferContext(node, types, (None,) * len(types)), tensors[node.outputs[0]].shape[2:])
    if not 1 < prod(map(len, axes)) <= MAX_REGIONS:
        return 1.0

    def cycles(region: Sequence[Run]) -> float:
        products = w.shape[1] * prod(run.taps for run in region)
        tiles = tile_cycles(Extent(region[-1].count, w.shape[0], products, target.block), target, x.dtype.bits, options.tile)
        return products * tiles * prod(run.count for run in region[:-1]) * prod(run.several for run in region)

    whole = [
        Run(0, sum(run.count * run.several for run in axis), 0, taps) for axis, taps in zip(axes, w.shape[2:], strict=True)
    ]
    return cycles(whole) / sum(cycles(region) for region in product(*axes))


@cache
def _cheapest(filters: tuple[int, ...], result: tuple[int, ...], groups: int, target: Target) -> Algorithm:
    """The algorithm with the least cost, among those that are accurate enough."""
    direct = _direct_cost(filters, result, groups, target)
    candidates = [t for outputs in (2, 4, 6) if (t := _transforms(outputs, filters[2:])) is not None]
    sound = [t for t in candidates if prod(axis.growth for axis in t) <= MAX_GROWTH]
    if not sound:
        return Algorithm((), f"filters of {filters[2:]} would lose too much precision")
    best = min(sound, key=lambda t: winograd_cost(t, filters, result, groups))
    gain = direct / winograd_cost(best, filters, result, groups)
    if gain < MIN_GAIN:
        return Algorithm((), f"{Algorithm(best, '').title} would take {1 / gain:.2f} of the time, by estimate")
    return Algorithm(best, f"{gain:.1f} times as fast, by estimate")


def _direct_cost(filters: tuple[int, ...], result: tuple[int, ...], groups: int, target: Target) -> float:
    """Floating-point operations, of which a core does less where rows or groups are no whole register tiles, and reading the filters."""
    extent = Extent(result[-1], filters[0] // groups, prod(filters[1:]), target.block)
    ideal = extent.rows * extent.columns / (2 * target.lanes(32))
    slack = max(1.0, tile_cycles(extent, target, 32, Tile()) / ideal)
    return 2 * prod(result) * prod(filters[1:]) * slack + BYTE_FLOPS * 4 * prod(filters)


def winograd_gain(filters: tuple[int, ...], result: tuple[int, ...], groups: int) -> float:
    """How many times the floating-point operations of Winograd's algorithm the direct one takes, for a convolution that it applies to."""
    sound = [t for outputs in (2, 4, 6) if (t := _transforms(outputs, filters[2:])) and prod(a.growth for a in t) <= MAX_GROWTH]
    return max((2 * prod(result) * prod(filters[1:]) / winograd_cost(t, filters, result, groups) for t in sound), default=0.0)


def winograd_cost(
    transforms: tuple[CookToom, ...], filters: tuple[int, ...], result: tuple[int, ...], groups: int = 1
) -> float:
    """Floating-point operations, with those that take the time of the transforms and of reading the filters."""
    outputs, inputs = filters[:2]
    frequencies = prod(t.size for t in transforms)
    tiles = result[0] * prod(-(-n // t.outputs) for n, t in zip(result[2:], transforms, strict=True))
    into, out = TRANSFORM_FLOPS
    each = 2 * inputs * outputs + into * inputs * groups + out * outputs
    return frequencies * (tiles * each + BYTE_FLOPS * 4 * inputs * outputs)
