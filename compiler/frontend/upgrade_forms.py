"""Upgrades of operators as of opset 7 and later (see ``upgrade.UPGRADES`` for which apply when).

Most move an attribute to an input. Where a rewrite depends on a shape or a dtype that is known only later, it is expressed in
nodes (``Shape``, ``CastLike`` ...) that fold away as soon as types are known.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.graph import Attribute, Node
from .body import Body


def without(node: Node, *keys: str) -> Node:
    """``node`` less some attributes."""
    return node.replace(attrs={key: value for key, value in node.attrs.items() if key not in keys})


def with_attrs(node: Node, **attrs: Attribute) -> Node:
    """``node`` with some attributes set."""
    return node.replace(attrs={**node.attrs, **attrs})


def dropping(*keys: str) -> Callable[[Node, Body], Node]:
    """A change that leaves out attributes which mean nothing to inference."""
    return lambda node, _: without(node, *keys)


def default(key: str, value: Attribute) -> Callable[[Node, Body], Node]:
    """A change that spells out a default value which differs in the newest opset."""
    return lambda node, _: node if key in node.attrs else with_attrs(node, **{key: value})


def axes_to_input(node: Node, body: Body) -> Node:
    """Reduce-18, Squeeze-13, Unsqueeze-13: ``axes`` became an input."""
    if "axes" not in node.attrs:
        return node
    axes = body.constant(node.attrs["axes"], stem="axes")
    return without(node, "axes").replace(inputs=(node.inputs[0], axes))


def shape_to_input(node: Node, body: Body) -> Node:
    """Reshape-5: ``shape`` became an input."""
    return without(node, "shape").replace(inputs=(node.inputs[0], body.constant(node.attrs.get("shape", ()), stem="shape")))


def k_to_input(node: Node, body: Body) -> Node:
    """TopK-10: ``k`` became an input of one element."""
    return without(node, "k").replace(inputs=(node.inputs[0], body.constant([node.attrs["k"]], stem="k")))


def scales_to_input(node: Node, body: Body) -> Node:
    """Upsample-9: ``scales`` became an input."""
    scales = body.constant(node.attrs["scales"], np.float32, "scales")
    return without(node, "scales").replace(inputs=(node.inputs[0], scales))


def slice_to_inputs(node: Node, body: Body) -> Node:
    """Slice-10: ``starts``, ``ends`` and ``axes`` became inputs."""
    bounds = [body.constant(node.attrs[key], stem=key) for key in ("starts", "ends", "axes") if key in node.attrs]
    return without(node, "starts", "ends", "axes").replace(inputs=(node.inputs[0], *bounds))


def split_to_input(node: Node, body: Body) -> Node:
    """Split-13: ``split`` became an input."""
    if "split" not in node.attrs:
        return node
    split = body.constant(node.attrs["split"], stem="split")
    return without(node, "split").replace(inputs=(node.inputs[0], split))


def split_evenly(node: Node, body: Body) -> Node:
    """Split-18: without ``split``, the number of parts is spelled out."""
    return node if node.input(1) else with_attrs(node, num_outputs=len(node.outputs))


def clip_limits_to_inputs(node: Node, body: Body) -> Node:
    """Clip-11: ``min`` and ``max`` became inputs; as scalars of the data's type they need a cast."""
    data = node.inputs[0]
    low, high = (_scalar_like(node.attrs.get(key), data, body) for key in ("min", "max"))
    limits = (low, high) if high else (low,) if low else ()
    return without(node, "min", "max").replace(inputs=(data, *limits))


def pads_to_inputs(node: Node, body: Body) -> Node:
    """Pad-11: ``pads`` and ``value`` became inputs."""
    data = node.inputs[0]
    pads, value = body.constant(node.attrs["pads"], stem="pads"), _scalar_like(node.attrs.get("value"), data, body)
    return without(node, "pads", "value").replace(inputs=(data, pads, value) if value else (data, pads))


def dft_axis_to_input(node: Node, body: Body) -> Node:
    """DFT-20: ``axis`` became an input; its default was 1."""
    axis = body.constant(node.attrs.get("axis", 1), stem="axis")
    return without(node, "axis").replace(inputs=(node.inputs[0], node.input(1), axis))


def grid_sample_mode(node: Node, body: Body) -> Node:
    """GridSample-20: modes were renamed after the rank-independent method."""
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attrs.get("mode", "bilinear")
    return with_attrs(node, mode=renamed.get(mode, mode)) if isinstance(mode, str) else node


def scatter_elements(node: Node, body: Body) -> Node:
    """Scatter-11: renamed."""
    return node.replace(op="ScatterElements")


def flattened_axis(node: Node, body: Body) -> Node:
    """Softmax-13: it used to flatten the input to two dims at ``axis`` and to work on the second of them."""
    data, axis = node.inputs[0], node.attrs.get("axis", 1)
    if axis == -1:
        return with_attrs(node, axis=-1)
    flat = body.emit("Flatten", (data,), {"axis": axis})
    soft = body.emit(node.op, (flat,), {"axis": -1})
    shape = body.emit("Shape", (data,))
    return Node("Reshape", (soft, shape), node.outputs, {"allowzero": 1}, node.name)


def resize_asymmetric(node: Node, body: Body) -> Node:
    """Upsample and Resize-10 became Resize-11: coordinates are scaled about the corner, and "nearest" rounds down, or up when shrinking."""
    scales = body.constants.get(node.inputs[1])
    shrinks = scales is not None and bool((scales <= 1).all() and (scales < 1).any())
    attrs: dict[str, Attribute] = {
        "mode": node.attrs.get("mode", "nearest"),
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "ceil" if shrinks else "floor",
    }
    return node.replace(op="Resize", inputs=(node.inputs[0], "", node.inputs[1]), attrs=attrs)


def group_norm_per_channel(node: Node, body: Body) -> Node:
    """GroupNormalization-21: scale and bias are per channel; they were per group."""
    data, groups = node.inputs[0], node.attrs["num_groups"]
    channels = body.emit("Shape", (data,), {"start": 1, "end": 2})
    repeats = body.emit("Div", (channels, body.constant([groups])))
    shape = body.emit("Concat", (body.constant([groups]), repeats), {"axis": 0})

    def per_channel(name: str) -> str:
        column = body.emit("Unsqueeze", (name, body.constant([1])))
        return body.emit("Reshape", (body.emit("Expand", (column, shape)), body.constant([-1])))

    return node.replace(inputs=(data, *(per_channel(name) for name in node.inputs[1:])))


def _scalar_like(value: Attribute | None, reference: str, body: Body) -> str:
    return body.scalar_like(float(value), reference) if isinstance(value, int | float) else ""
