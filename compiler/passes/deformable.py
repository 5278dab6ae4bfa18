"""Deformable convolution: reading at places that data moves, and a convolution of what was read."""

from __future__ import annotations

from math import prod

from ...ir.graph import Node
from ..ops.deform_conv import infer_deform_conv
from ..ops.infer import InferContext
from .maker import Maker
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View


@rule("DeformConv")
def sample_and_convolve(view: View, node: Node) -> Outcome:
    """DeformConv(x, w, offset, b, mask) => Conv(loopnest.DeformSample(x, offset, mask), w as 1x1, b)"""
    shapes = [view.shape(name) for name in node.inputs if name]
    dtype = view.dtype(node.inputs[0])
    x, w = view.shape(node.inputs[0]), view.shape(node.inputs[1])
    if x is None or w is None or None in shapes or dtype is None:
        return Refusal("a shape is not known")
    spatial = infer_deform_conv(InferContext(node, tuple(view.type(name) for name in node.inputs), ())).shape
    assert spatial is not None
    make, rank, taps = Maker(view, dtype), len(w) - 2, prod(w[2:])
    attrs = {name: value for name, value in node.attrs.items() if name != "group"} | {"kernel_shape": w[2:]}
    operands = (node.inputs[0], node.inputs[2], *filter(None, (node.input(4),)))
    shape = (x[0], x[1] * taps, *(n for n in spatial[2:] if isinstance(n, int)))
    samples = make.node("DeformSample", operands, shape, "samples", attrs, "loopnest")
    weights = make.reshape(node.inputs[1], (w[0], w[1] * taps, *(1,) * rank), "weights")
    product = Node(
        "Conv", (samples, weights, *filter(None, (node.input(3),))), node.outputs, {"group": node.attrs.get("group", 1)}
    )
    return Rewrite([*make.nodes, product.replace(name=node.name)])
