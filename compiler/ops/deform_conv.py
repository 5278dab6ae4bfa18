"""DeformConv: a convolution whose places of reading data moves (ONNX operator specification, opset 22; arXiv:1703.06211, 1811.11168).

``passes.deformable`` takes the product out of the operator:

    DeformConv(x, w, offset, b, mask)  =>  Conv(loopnest.DeformSample(x, offset, mask), w as 1x1, b)
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op
from .convolution import infer_conv, window
from .grid_sample import Axis, interpolated
from .infer import InferContext
from .registry import nest
from .resize import working_dtype


def infer_deform_conv(context: InferContext) -> TensorType:
    """That of the Conv with the same window; every shape that the loops rely upon is checked."""
    y = infer_conv(replace(context, types=context.types[:2]))
    x, w = context.shape(0), context.shape(1)
    assert y.static_shape is not None
    taps, groups, spatial = prod(w[2:]), context.attr("offset_group", 1), y.static_shape[2:]
    if groups < 1 or x[1] % groups:
        raise context.fail(f"{x[1]} input channels cannot be cut into {groups} offset groups")
    if 0 in x[2:]:
        raise context.fail(f"the input {x} has no element to sample")
    expected = {2: ("offset", groups * taps * len(spatial)), 4: ("mask", groups * taps)}
    for i, (name, channels) in expected.items():
        if context.has(i) and context.shape(i) != (x[0], channels, *spatial):
            raise context.fail(f"{name} has shape {context.shape(i)}, expected {(x[0], channels, *spatial)}")
    if context.has(3) and context.shape(3) != (w[0],):
        raise context.fail(f"the bias has shape {context.shape(3)}, expected {(w[0],)}")
    return TensorType(context.dtype(0), y.static_shape)


@nest("DeformConv", infer=infer_deform_conv)
def whole(op: Op, b: Builder) -> None:
    raise AssertionError(f"{op.node} reached lowering as a whole: passes.deformable takes its product out")


def infer_deform_sample(context: InferContext) -> TensorType:
    x, offset = context.shape(0), context.shape(1)
    return TensorType(context.dtype(0), (x[0], x[1] * prod(context.attr("kernel_shape", ())), *offset[2:]))


@nest("DeformSample", domain="loopnest", infer=infer_deform_sample)
def deform_sample(op: Op, b: Builder) -> None:
    """y[n, c * K + k, o] = mask[n, g * K + k, o] * (x[n, c] interpolated at o * stride - pad + k * dilation + offset[n, g * K + k, :, o])

    Places and weights are worked out once for all channels of an offset group g.
    """
    x, offset, y = op.input(0), op.input(1), op.output(0)
    kernel, groups, dtype = tuple(op.attr("kernel_shape", ())), op.attr("offset_group", 1), working_dtype(x.dtype)
    rank = len(kernel)
    strides, dilations = window(op, "strides", rank), window(op, "dilations", rank)
    pads = tuple(op.attr("pads") or (0,) * (2 * rank))[:rank]
    channels = x.sizes[1] // groups
    with b.loops("i", (y.shape[0], groups, *kernel, *y.shape[2:-1]), "parallel") as (n, group, *inner):
        taps, outer = inner[:rank], inner[rank:]
        k: ir.Expr = ir.ZERO
        for tap, size in zip(taps, kernel, strict=True):
            k = k * size + tap
        row = group * prod(kernel) + k
        with b.loop("j", y.shape[-1], "vector") as last:
            o = (*outer, last)
            neighbours = []
            for d, (at, tap) in enumerate(zip(o, taps, strict=True)):
                start = ir.cast(at * strides[d] - pads[d] + tap * dilations[d], dtype)
                moved = start + ir.cast(offset(n, row * rank + d, *o), dtype)
                neighbours.append(Axis(op, b, x.shape[2 + d]).taps_at(moved))
            weight = b.let("mask", op.input(2)(n, row, *o)) if op.has(2) else None
            with b.loop("c", channels) as c:
                channel = group * channels + c
                value = interpolated(x, (n, channel), neighbours, dtype)
                value = value if weight is None else value * ir.cast(weight, dtype)
                y.store((n, channel * prod(kernel) + k, *o), ir.cast(value, y.dtype))
