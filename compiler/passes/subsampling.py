"""Convolutions with one tap and strides (the shortcuts of residual networks): the pixels that they read are put side by side first.

What is left is a matrix product over all pixels. In the image itself they lie apart, row by row: a tile ends with each row, seven pixels
long at the end of a ResNet, and of each line of the cache half is read for nothing.
"""

from __future__ import annotations

from math import prod
from typing import Any

from ...ir.graph import Node, TensorType
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View

MIN_USES = 32
"""Products that each pixel takes part in for every channel, from which on a copy of it pays."""


@rule("Conv")
def subsample_first(view: View, node: Node) -> Outcome:
    """conv(x, w 1x1, strides) => conv(x[every stride-th pixel], w); the copy is a MaxPool with windows of one element"""
    attrs: dict[str, Any] = dict(node.attrs)
    image, weights, out = view.dims(node.inputs[0]), view.shape(node.inputs[1]), view.dims(node.outputs[0])
    dtype = view.dtype(node.inputs[0])
    if image is None or out is None or weights is None or dtype is None or not 3 <= len(weights) == len(image) == len(out):
        return None
    ones = (1,) * (len(weights) - 2)
    strides = tuple(attrs.get("strides") or ones)
    if prod(weights[2:]) != 1 or prod(strides) == 1:
        return None
    if any(attrs.get("pads") or ()):
        return Refusal("it has padding")
    if attrs.get("group", 1) != 1 or weights[0] < MIN_USES:
        return Refusal("each pixel that it reads is used too seldom")
    pixels = view.new_value(f"{node.inputs[0]}_pixels", TensorType(dtype, (*image[:2], *out[2:])))
    copy = Node("MaxPool", (node.inputs[0],), (pixels,), {"kernel_shape": ones, "strides": strides}, f"{node.name}_pixels")
    attrs["strides"] = ones
    return Rewrite([copy, node.replace(inputs=(pixels, *node.inputs[1:]), attrs=attrs)])
