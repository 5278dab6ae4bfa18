"""Convolution in any number of spatial dimensions (ONNX Conv)."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op, Reduce
from .infer import Attributes, InferContext
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
    x, w = op.input(0), op.input(1)
    n, c, *out = index
    _, dilated = kernel_extents(op)
    before, after = padding(op, x.sizes[2:], dilated)
    strides, dilations = window(op, "strides", len(out)), window(op, "dilations", len(out))
    groups = op.attr("group", 1)
    per_group_in, per_group_out = w.sizes[1], w.sizes[0] // groups
    first = ir.ZERO if groups == 1 else (c // per_group_out) * per_group_in

    def term(*axes: ir.Expr) -> ir.Expr:
        i, *taps = axes
        at = [o * s + k * d - p for o, s, k, d, p in zip(out, strides, taps, dilations, before, strict=True)]
        return x.padded((n, first + i, *at), (0, 0, *before), (0, 0, *after)) * w(c, i, *taps)

    def finish(total: ir.Expr) -> ir.Expr:
        return total + op.input(2)(c) if op.has(2) else total

    axes = [("ci", w.shape[1]), *((f"k{i}", extent) for i, extent in enumerate(w.shape[2:]))]
    return Reduce("add", tuple(axes), term, finish, run=per_group_out if groups > 1 else 0)
