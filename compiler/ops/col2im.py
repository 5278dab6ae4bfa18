"""Col2Im: overlapping blocks summed into an image (the inverse of im2col)."""

from __future__ import annotations

from math import prod

from ...ir import loops as ir
from ...ir.graph import TensorType
from .context import Op, Reduce
from .convolution import window
from .infer import InferContext
from .registry import reduction


def blocks_of(context: InferContext) -> tuple[int, ...]:
    """How many blocks there are along each spatial axis."""
    image, block = context.ints(1) or (), context.ints(2) or ()
    rank = len(image)
    pads = tuple(context.attr("pads") or (0,) * (2 * rank))
    if len(block) != rank or len(pads) != 2 * rank:
        raise context.fail(f"image_shape {image}, block_shape {block} and pads {pads} do not fit together")
    strides, dilations = window(context, "strides", rank), window(context, "dilations", rank)
    return tuple(
        (n + p + q - ((k - 1) * d + 1)) // s + 1
        for n, p, q, k, d, s in zip(image, pads[:rank], pads[rank:], block, dilations, strides, strict=True)
    )


def infer_col2im(context: InferContext) -> TensorType:
    x, image, block = context.shape(0), context.ints(1) or (), context.ints(2) or ()
    counts = blocks_of(context)
    if len(x) != 3 or x[1] % prod(block) or x[2] != prod(counts) or any(count < 1 for count in counts):
        raise context.fail(f"{counts} blocks of {block} need an input (n, c * {prod(block)}, {prod(counts)}), not {x}")
    return TensorType(context.dtype(0), (x[0], x[1] // prod(block), *image))


@reduction("Col2Im", infer=infer_col2im, values=(1, 2))
def col2im(op: Op, index: tuple[ir.Expr, ...]) -> Reduce:
    """y[n, c, o] = sum over k with (o + pad - k * dilation) divisible by stride of x[n, c * K + k, (o + pad - k * dilation) / stride]"""
    x, block, counts = op.input(0), op.ints(2) or (), blocks_of(op)
    n, c, *out = index
    rank = len(out)
    strides, dilations = window(op, "strides", rank), window(op, "dilations", rank)
    pads = tuple(op.attr("pads") or (0,) * (2 * rank))[:rank]

    def term(*taps: ir.Expr) -> ir.Expr:
        inside: ir.Expr = ir.TRUE
        row: ir.Expr = c
        column: ir.Expr = ir.ZERO
        for o, k, size, s, d, p, count in zip(out, taps, block, strides, dilations, pads, counts, strict=True):
            place = o + p - k * d
            whole = ir.Binary("eq", ir.Binary("mod", place, ir.Const(s)), ir.ZERO)
            inside = ir.all_of(inside, ir.Binary("ge", place, ir.ZERO), ir.Binary("lt", place, ir.Const(count * s)), whole)
            row = row * size + k
            column = column * count + ir.floordiv(place, ir.Const(s))
        return ir.guarded(inside, x(n, row, column), 0)

    return Reduce("add", tuple((f"k{i}", ir.Const(size)) for i, size in enumerate(block)), term)
