"""The algorithm that a convolution is computed by: direct, by regions where much of it would multiply padding, or Winograd's where that
costs less and is as sound.

Layouts and kernels must agree on it, so it depends on nothing but the shapes, the options and the target.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
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
from .schedule.phases import Forms, frequency_groups, gathered, phased_form
from .schedule.register_blocks import Extent, tile_cycles
from .tensor import Tensor

MAX_GROWTH = 25.0
"""The mean square of errors may be so much larger than that of sums of products (``PhasedForm.growth``): at most 5 times the error."""
MAX_POINTS, MAX_FREQUENCIES = 8, 64
OUTPUTS_WITH_STRIDES = (2, 3, 4)
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

    transforms: Forms
    reason: str
    regions: bool = False

    def overhang(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Elements read beyond the last window of each axis when whole tiles of results are computed; ``sizes`` are those of the result."""
        if not self.transforms:
            return (0,) * len(sizes)
        return tuple(-n % form.outputs * form.stride for n, form in zip(sizes, self.transforms, strict=True))

    def reads_blocks(self, channels: int, block: int) -> bool:
        """Whether an image with so many channels is to be in blocks of them."""
        return bool(self.transforms) and not gathered(self.transforms, channels, block)

    @property
    def title(self) -> str:
        """``Winograd F(4, 3) x F(4, 3)``, with ``/2`` after a form for stride 2, ``by regions``, or ``direct``."""
        if self.regions:
            return "by regions"
        return f"Winograd {' x '.join(map(str, self.transforms))}" if self.transforms else "direct"


def algorithm_of(
    node: Node, tensors: Mapping[str, Tensor], constants: Container[str], options: NodeOptions, target: Target
) -> Algorithm:
    """How a Conv node is computed, the layout of whose result is known."""
    refusal = _refusal(node, tensors, constants, options, target)
    found = Algorithm((), refusal) if refusal else _winograd(node, tensors, options, target)
    if found.transforms or (not refusal and all(s == 1 for s in strides_of(node, tensors))):
        return found
    gain = _gain_of_regions(node, tensors, options, target)
    if gain < MIN_REGION_GAIN:
        return found
    return Algorithm((), f"{found.reason}; {gain:.1f} times as fast by regions, by estimate", regions=True)


def _winograd(node: Node, tensors: Mapping[str, Tensor], options: NodeOptions, target: Target) -> Algorithm:
    """Winograd's algorithm where the options ask for it or it costs less, for what it can compute."""
    w, y = tensors[node.inputs[1]], tensors[node.outputs[0]]
    strides = strides_of(node, tensors)
    if options.conv == "auto":
        return _cheapest(w.shape, y.shape, strides, groups_of(node), target)
    forms = _forms([int(options.conv.removeprefix("winograd"))] * len(strides), w.shape[2:], strides)
    if forms is None:
        return Algorithm((), f"{options.conv} has no points of evaluation, or too many, for filters of {w.shape[2:]}")
    return Algorithm(forms, f"the option `conv` is {options.conv}")


def legal_algorithms(
    node: Node, tensors: Mapping[str, Tensor], constants: Container[str], options: NodeOptions, target: Target
) -> tuple[str, ...]:
    """What the option ``conv`` may be for a Conv node, apart from ``auto``."""

    def applies(name: str) -> bool:
        return bool(algorithm_of(node, tensors, constants, replace(options, conv=name), target).transforms)

    return ("direct", *(name for name in ("winograd2", "winograd3", "winograd4", "winograd6") if applies(name)))


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
    if any(d != 1 for d in node.attrs.get("dilations") or ()):  # type: ignore[union-attr]
        return "it is dilated"
    strides = strides_of(node, tensors)
    if all(r <= s for r, s in zip(w.shape[2:], strides, strict=True)):
        return "its filters have one tap" if max(strides) == 1 else "its strides leave one tap of each phase"
    channels = w.shape[1] * prod(map(min, strides, w.shape[2:]))
    if channels < target.block:
        return f"it reads fewer than {target.block} channels"
    return None


def groups_of(node: Node) -> int:
    """Of channels of a convolution, transposed or not."""
    return int(node.attrs.get("group", 1))  # type: ignore[arg-type]


def strides_of(node: Node, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Of a convolution, one for each spatial axis."""
    strides: Sequence[int] = node.attrs.get("strides") or ()  # type: ignore[assignment]
    return tuple(strides) or (1,) * (len(tensors[node.inputs[1]].shape) - 2)


def _forms(outputs: Sequence[int], taps: Sequence[int], strides: Sequence[int]) -> Forms | None:
    """F(outputs, r) for each axis of whose filters a phase has more than one tap; None where there is none that is practical."""
    sizes = [(m if r > s else 1, r, s) for m, r, s in zip(outputs, taps, strides, strict=True)]
    points = [m + -(-r // s) - 1 for m, r, s in sizes]
    if max(points) > MAX_POINTS or prod(points) > MAX_FREQUENCIES:
        return None
    return tuple(phased_form(m, r, s) for m, r, s in sizes)


def _candidates(taps: Sequence[int], strides: Sequence[int]) -> Iterator[Forms]:
    """The forms to choose from: with strides, products with several phases weigh more and those of a tile less, so that axes differ."""
    for outputs in (2, 4, 6):
        if max(strides) == 1:
            yield from filter(None, [_forms([outputs] * len(taps), taps, strides)])
    if max(strides) > 1:
        several = [OUTPUTS_WITH_STRIDES if r > s else (1,) for r, s in zip(taps, strides, strict=True)]
        yield from filter(None, (_forms(outputs, taps, strides) for outputs in product(*several)))


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


def _sound(taps: Sequence[int], strides: Sequence[int]) -> list[Forms]:
    """The forms that are accurate enough."""
    return [forms for forms in _candidates(taps, strides) if prod(form.growth for form in forms) <= MAX_GROWTH]


@cache
def _cheapest(
    filters: tuple[int, ...], result: tuple[int, ...], strides: tuple[int, ...], groups: int, target: Target
) -> Algorithm:
    """The algorithm with the least cost, among those that are accurate enough."""
    sound = _sound(filters[2:], strides)
    if not sound:
        return Algorithm((), f"filters of {filters[2:]} would lose too much precision")
    best = min(sound, key=lambda forms: winograd_cost(forms, filters, result, groups))
    gain = _direct_cost(filters, result, groups, target) / winograd_cost(best, filters, result, groups)
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
    """How many times the floating-point operations of Winograd's algorithm the direct one takes, for a convolution without strides that it
    applies to."""
    sound = _sound(filters[2:], (1,) * len(filters[2:]))
    return max((2 * prod(result) * prod(filters[1:]) / winograd_cost(t, filters, result, groups) for t in sound), default=0.0)


def winograd_cost(forms: Forms, filters: tuple[int, ...], result: tuple[int, ...], groups: int = 1) -> float:
    """Floating-point operations, with those that take the time of the transforms and of reading the filters."""
    outputs, inputs = filters[:2]
    frequencies, products = prod(f.size for f in forms), sum(g.products for g in frequency_groups(forms))
    tiles = result[0] * prod(-(-n // f.outputs) for n, f in zip(result[2:], forms, strict=True))
    into, out = TRANSFORM_FLOPS
    each = products * inputs * (2 * outputs + into * groups) + frequencies * out * outputs
    return tiles * each + BYTE_FLOPS * 4 * products * inputs * outputs
