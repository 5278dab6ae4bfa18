"""Convolution in any number of spatial dimensions (ONNX Conv)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from itertools import product as combinations

from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op, Part, Reduce
from .infer import Attributes, InferContext
from .pairs import product_of
from .registry import reduction


def window(context: Attributes, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    """A per-axis attribute (strides, dilations), one number per spatial axis."""
    values = tuple(context.attr(name) or (default,) * rank)
    if len(values) != rank or any(v < 1 for v in values):
        raise context.fail(f"{name} is {values}, expected {rank} positive numbers")
    return values


def padding(context: Attributes, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each spatial axis, from ``pads`` or ``auto_pad``; ``kernel`` are the dilated extents."""
    rank = len(sizes)
    strides = window(context, "strides", rank)
    mode = context.attr("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [max(0, (-(-n // s) - 1) * s + k - n) for n, s, k in zip(sizes, strides, kernel, strict=True)]
        small = tuple(t // 2 for t in total)
        large = tuple(t - t // 2 for t in total)
        return (small, large) if mode == "SAME_UPPER" else (large, small)
    pads = tuple(context.attr("pads") or (0,) * (2 * rank)) if mode != "VALID" else (0,) * (2 * rank)
    if len(pads) != 2 * rank:
        raise context.fail(f"pads is {pads}, expected {2 * rank} numbers")
    return pads[:rank], pads[rank:]


def kernel_extents(context: InferContext) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The window's extents, plain and dilated."""
    kernel = context.shape(1)[2:]
    dilations = window(context, "dilations", len(kernel))
    return kernel, tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))


def infer_conv(context: InferContext) -> TensorType:
    x, w = context.shape(0), context.shape(1)
    groups = context.attr("group", 1)
    if len(x) < 3 or len(w) != len(x):
        raise context.fail(f"Conv needs input and weight of equal rank 3 or more, it has {x} and {w}")
    if groups < 1 or w[1] * groups != x[1] or w[0] % groups:
        raise context.fail(f"weight {w} with {groups} groups needs {w[1] * groups} input channels, the input has {x[1]}")
    if context.has(2) and context.shape(2) != (w[0],):
        raise context.fail(f"the bias has shape {context.shape(2)}, expected {(w[0],)}")
    declared = context.attr("kernel_shape")
    if declared is not None and tuple(declared) != w[2:]:
        raise context.fail(f"kernel_shape is {tuple(declared)}, the weight has {w[2:]}")
    _, dilated = kernel_extents(context)
    before, after = padding(context, x[2:], dilated)
    strides = window(context, "strides", len(dilated))
    spatial = tuple((n + p + q - k) // s + 1 for n, p, q, k, s in zip(x[2:], before, after, dilated, strides, strict=True))
    if any(n < 1 for n in spatial):
        raise context.fail(f"the window {dilated} does not fit into the input {x} padded by {before} and {after}")
    return TensorType(context.dtype(0), (x[0], w[0], *spatial))


@reduction("Conv", infer=infer_conv)
def conv(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    """y[n, c, o] = bias[c] + sum_{k, i} x[n, g * C + i, o * stride + k * dilation - pad] * w[c, i, k]"""
    kernel, dilated = kernel_extents(op)
    every = [(ir.ZERO, extent) for extent in kernel]
    return _element(op, index, every, padding(op, op.input(0).sizes[2:], dilated))


reduction("Conv", domain="loopnest", infer=infer_conv)(conv)


@dataclass(frozen=True)
class Run:
    """``count`` places of an output axis from ``start`` on for which the same ``taps`` taps, from ``first`` on, read the image.

    ``several``: so many of them, each ``apart`` places and ``shift`` taps from the one before.
    """

    start: int
    count: int
    first: int
    taps: int
    several: int = 1
    apart: int = 0
    shift: int = 0

    def and_also(self, other: Run) -> Run:
        """This run and one that is like it."""
        return replace(self, several=2, apart=other.start - self.start, shift=other.first - self.first)


def runs(size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> tuple[Run, ...]:
    """The places of an axis by the taps that do not lie in the padding there; two runs that are alike are one."""

    def live(place: int) -> tuple[int, int]:
        start = place * stride - before
        first = min(kernel, max(0, -(start // dilation)))
        return first, max(0, min(kernel, (size - 1 - start) // dilation + 1) - first)

    found: list[Run] = []
    start = 0
    for (first, taps), places in groupby(range(out), live):
        run = Run(start, len(list(places)), first, taps)
        start += run.count
        alike = (i for i, r in enumerate(found) if (r.count, r.taps, r.several) == (run.count, run.taps, 1))
        i = next(alike, len(found))
        found[i:] = [found[i].and_also(run), *found[i + 1 :]] if i < len(found) else [run]
    return tuple(found)


def runs_of(context: InferContext, out: Sequence[int]) -> tuple[tuple[Run, ...], ...]:
    """The runs of each spatial axis of a convolution, whose result has the extents ``out`` there."""
    image = context.shape(0)[2:]
    kernel, dilated = kernel_extents(context)
    before, _ = padding(context, image, dilated)
    strides, dilations = (window(context, name, len(kernel)) for name in ("strides", "dilations"))
    return tuple(runs(*axis) for axis in zip(image, out, kernel, strides, dilations, before, strict=True))


def conv_by_regions(op: Op) -> list[Part]:
    """A convolution as regions of its result, each computed from those taps alone that do not lie in the padding there."""
    return [_region(op, region) for region in combinations(*runs_of(op, op.out_sizes()[2:]))]


def _region(op: Op, region: Sequence[Run]) -> Part:
    """A grid of batch, channels, numbers of the runs of each axis, and places in them."""
    rank = len(region)
    inside = (0,) * rank

    def index(place: Sequence[ir.Expr]) -> tuple[ir.Expr, ...]:
        each = zip(place[2 : 2 + rank], place[2 + rank :], region, strict=True)
        return (*place[:2], *(o + (i * run.apart + run.start) for i, o, run in each))

    def define(*place: ir.Expr) -> Reduce:
        taps = [(i * run.shift + run.first, run.taps) for i, run in zip(place[2 : 2 + rank], region, strict=True)]
        return _element(op, index(place), taps, (inside, inside))

    several, counts = zip(*((run.several, run.count) for run in region), strict=True)
    return Part((*op.out_sizes()[:2], *several, *counts), index, define)


def _element(
    op: Op,
    index: Sequence[ir.Expr],
    live: Sequence[tuple[ir.Expr, int]],
    beyond: tuple[Sequence[int], Sequence[int]],
) -> Reduce:
    """An element of the result from the ``live`` taps, a first one and a number for each axis, which read the image and up to ``beyond``
    before and behind it."""
    x, w = op.input(0), op.input(1)
    n, c, *out = index
    _, dilated = kernel_extents(op)
    pads, _ = padding(op, x.sizes[2:], dilated)
    strides, dilations = window(op, "strides", len(out)), window(op, "dilations", len(out))
    product, groups = product_of(op.node), op.attr("group", 1)
    per_group_in, per_group_out = w.sizes[1], w.sizes[0] // groups
    group = ir.ZERO if groups == 1 else (c // per_group_out) * per_group_in

    def term(i: ir.Expr, *places: ir.Expr) -> ir.Expr:
        taps = [first + k for k, (first, _) in zip(places, live, strict=True)]
        at = [o * s + k * d - p for o, s, k, d, p in zip(out, strides, taps, dilations, pads, strict=True)]
        return product(x.padded((n, group + i, *at), *((0, 0, *side) for side in beyond)), w(c, i, *taps))

    def finish(total: ir.Expr) -> ir.Expr:
        return total + op.input(2)(c) if op.has(2) else total

    if not all(count for _, count in live):
        return Reduce("add", (), lambda: ir.wrap(0, x.dtype), finish)
    axes = [("ci", w.shape[1]), *((f"k{i}", count) for i, (_, count) in enumerate(live))]
    return Reduce("add", tuple(axes), term, finish, run=per_group_out if groups > 1 else 0)
