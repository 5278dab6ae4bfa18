"""Convolutions without the part of their windows that lies in the padding wherever it is put.

A dilated window can be larger than the image: of 3x3 taps that are 36 pixels apart, over 28x28 pixels, one alone ever reads a pixel
(DeepLab's pyramid; Chen et al. 2017). The others multiply zeros, and the padding that they need is most of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.graph import Node
from .rewrite import Outcome, Refusal, replace_with, rule
from .view import View


@rule("Conv")
def conv_without_dead_taps(view: View, node: Node) -> Outcome:
    """conv(x, w) => conv(x, w[taps that read a pixel somewhere]), with the padding that these need"""
    weights, image = view.constant(node.inputs[1]), view.dims(node.inputs[0])
    if image is None or len(image) < 3 or weights is None or weights.ndim != len(image):
        return None
    rank = len(image) - 2
    extents = [extent for extent in image[2:] if isinstance(extent, int)]
    if len(extents) < rank:
        return None
    attrs: dict[str, Any] = dict(node.attrs)
    if attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return Refusal("the padding is automatic")
    pads: Sequence[int] = attrs.get("pads") or (0,) * (2 * rank)
    strides, dilations = (attrs.get(name) or (1,) * rank for name in ("strides", "dilations"))
    windows = zip(extents, weights.shape[2:], strides, dilations, pads[:rank], pads[rank:], strict=True)
    live = [_live(*window) for window in windows]
    if all(last - first == kernel for (first, last, _, _), kernel in zip(live, weights.shape[2:], strict=True)):
        return None
    kept = weights[(slice(None), slice(None), *(slice(first, last) for first, last, _, _ in live))]
    attrs["kernel_shape"] = kept.shape[2:]
    attrs["pads"] = (*(before for _, _, before, _ in live), *(after for _, _, _, after in live))
    name = view.new_constant(np.ascontiguousarray(kept), f"{node.inputs[1]}_taps")
    return replace_with(node, "Conv", (node.inputs[0], name, *node.inputs[2:]), attrs)


def _live(extent: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> tuple[int, int, int, int]:
    """The first tap that reads a pixel and the one after the last, and the padding before and after for these.

    All taps where none reads one, or where the window of what is left would start or end inside of the image.
    """
    last = (extent + before + after - (kernel - 1) * dilation - 1) // stride * stride
    reads = [_reads(tap * dilation - before, last, stride, extent) for tap in range(kernel)]
    if any(reads):
        start, rest = reads.index(True), reads[::-1].index(True)
        first, final = before - start * dilation, after - rest * dilation
        if first >= 0 and final >= 0:
            return start, kernel - rest, first, final
    return 0, kernel, before, after


def _reads(offset: int, last: int, stride: int, extent: int) -> bool:
    """Whether one of offset, offset + stride, ... offset + last is a pixel."""
    inside = -(-max(0, -offset) // stride) * stride
    return inside <= last and offset + inside < extent
