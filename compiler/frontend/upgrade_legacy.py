"""Upgrades of operators from before opset 7, which old converters still hand around, and of forms that opset 7 to 9 dropped."""

from __future__ import annotations

import numpy as np

from ...ir import dtypes
from ...ir.errors import ModelError
from ...ir.graph import Attribute, Graph, Node
from .body import Body
from .upgrade_forms import with_attrs, without


def broadcast_along_axis(node: Node, body: Body) -> Node:
    """Add-7 and its kin: the second operand was aligned with the first at ``axis`` instead of at the end."""
    axis = node.attrs.get("axis")
    node = without(node, "axis", "broadcast")
    if not isinstance(axis, int) or axis == -1:
        return node
    return node.replace(inputs=(node.inputs[0], _aligned(node.inputs[0], node.inputs[1], axis, body)))


def slope_per_channel(node: Node, body: Body) -> Node:
    """PRelu-7: a slope of one dim used to run along the channels."""
    return node.replace(inputs=(node.inputs[0], _aligned(node.inputs[0], node.inputs[1], 1, body)))


def inference_batch_norm(node: Node, body: Body) -> Node:
    """BatchNormalization-14: only the form for inference, one output, is kept; ``spatial = 0`` has statistics for each element."""
    spatial = node.attrs.get("spatial", 1)
    node = without(node, "is_test", "spatial").replace(outputs=node.outputs[:1])
    if spatial:
        return node
    data, scale, bias, mean, variance = node.inputs
    epsilon = body.scalar_like(float(str(node.attrs.get("epsilon", 1e-5))), variance)
    deviation = body.emit("Sqrt", (body.emit("Add", (variance, epsilon)),))
    normal = body.emit("Div", (body.emit("Sub", (data, mean)), deviation))
    return Node("Add", (body.emit("Mul", (normal, scale)), bias), node.outputs, {}, node.name)


def cast_by_name(node: Node, body: Body) -> Node:
    """Cast-6: ``to`` used to be the type's name."""
    name = str(node.attrs["to"]).lower()
    numbers = {"float": dtypes.float32, "double": dtypes.float64, "bool": dtypes.bool_, **{d.name: d for d in dtypes.ALL}}
    if name not in numbers:
        raise ModelError(f"{node} casts to {node.attrs['to']!r}, which is not a type")
    return with_attrs(node, to=numbers[name].onnx)


def paddings_renamed(node: Node, body: Body) -> Node:
    """Pad-2: ``paddings`` was renamed ``pads``."""
    return with_attrs(without(node, "paddings"), pads=node.attrs["paddings"])


def upsample_scales(node: Node, body: Body) -> Node:
    """Upsample-7: one scale for each dim instead of two for the image."""
    scales = tuple(float(str(node.attrs[key])) for key in ("height_scale", "width_scale"))
    mode: Attribute = node.attrs.get("mode", "nearest")
    return node.replace(attrs={"mode": "linear" if mode == "bilinear" else mode, "scales": (1.0, 1.0, *scales)})


def no_single_axis_tile(node: Node, body: Body) -> Node:
    """Tile-6: it used to repeat a single axis, given as an input."""
    raise ModelError(f"{node} is the form of Tile before opset 6, which is not read")


def scan_per_batch(node: Node, body: Body) -> Node:
    """Scan-9: it used to run for each element of a leading batch axis: ``Scan8(f) => Scan(over batch, Scan(over sequence, f))``."""
    inner = node.attrs["body"]
    count = node.attrs["num_scan_inputs"]
    if node.inputs[0] or not isinstance(inner, Graph) or not isinstance(count, int):
        raise ModelError(f"{node} is the form of Scan before opset 9 with sequence lengths, which is not read")
    names = tuple(body.names.unique(name or "item") for name in node.inputs[1:])
    results = tuple(body.names.unique(name or "result") for name in node.outputs)
    attrs: dict[str, Attribute] = {"body": inner, "num_scan_inputs": count}
    if "directions" in node.attrs:
        attrs["scan_input_directions"] = node.attrs["directions"]
    step = Graph(f"{inner.name}_batch", names, results, [Node("Scan", names, results, attrs, node.name)])
    return node.replace(inputs=node.inputs[1:], attrs={"body": step, "num_scan_inputs": len(names)})


def _aligned(data: str, operand: str, axis: int, body: Body) -> str:
    """``operand`` with ones appended to its shape so that its first dim meets dim ``axis`` of ``data``."""
    known = body.constants.get(operand)
    if known is not None and known.size == 1:
        return operand
    shape = body.emit("Shape", (operand,))
    ranks = [body.emit("Size", (body.emit("Shape", (name,)),)) for name in (data, operand)]
    start = ranks[0] if axis < 0 else None
    first = body.constant(axis) if start is None else body.emit("Add", (start, body.constant(axis)))
    missing = body.emit("Sub", (body.emit("Sub", (ranks[0], first)), ranks[1]))
    count = body.emit("Reshape", (missing, body.constant([1])))
    ones = body.emit("ConstantOfShape", (count,), {"value": np.ones(1, np.int64)})
    return body.emit("Reshape", (operand, body.emit("Concat", (shape, ones), {"axis": 0})))
