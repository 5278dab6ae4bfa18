"""What can be computed now is computed now."""

from __future__ import annotations

import math
from itertools import zip_longest

import numpy as np

from ...ir import dtypes
from ...ir.errors import UnsupportedOperatorError
from ...ir.graph import Node, TensorType
from ...ir.graph_interpreter import evaluate
from ..seeds import is_random
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View

MAX_FOLDED_BYTES = 64 * 2**20
"""A folded result may be as large as its inputs, or this large."""
MAX_FILLED_BYTES = 2**30
"""What ConstantOfShape makes is one element seen everywhere, and may be larger."""


@rule()
def fold_constants(view: View, node: Node) -> Outcome:
    """op(constants) => constant"""
    if not all(view.constant(name) is not None for name in node.inputs if name):
        return None
    if node.bodies:
        return Refusal("control flow is not evaluated ahead of time")
    if is_random(node):
        return Refusal("the operator is random")
    inputs = [view.constant(name) if name else None for name in node.inputs]
    try:
        expected = _expected_bytes(node, inputs, view)
        if expected > _limit(node, inputs):
            return Refusal(f"the result would take {expected} bytes")
        results = evaluate(node, inputs)
    except UnsupportedOperatorError as error:
        return Refusal(str(error))
    except Exception as error:  # whatever the data provoke: the planner or the kernel says it properly
        return Refusal(f"evaluation fails: {error}")
    if not all(isinstance(value, np.ndarray) for value, name in zip(results, node.outputs, strict=False) if name):
        return Refusal("the result is not a tensor")
    return _become_constants(view, node, results)


@rule("Shape")
def fold_shape(view: View, node: Node) -> Outcome:
    """Shape(x) => constant, where the asked-for extents of x are numbers"""
    dims = view.dims(node.inputs[0])
    if dims is None:
        return Refusal("the rank is not known")
    start, end = node.attrs.get("start", 0), node.attrs.get("end")
    wanted = dims[start:end]  # type: ignore[misc]
    if not all(isinstance(extent, int) for extent in wanted):
        return Refusal("an extent is not known")
    return _become_constants(view, node, [np.array(wanted, np.int64)])


@rule("Size")
def fold_size(view: View, node: Node) -> Outcome:
    """Size(x) => constant, where the shape of x is known"""
    shape = view.shape(node.inputs[0])
    if shape is None:
        return Refusal("an extent is not known")
    return _become_constants(view, node, [np.array(math.prod(shape), np.int64)])


@rule("Gather")
def fold_extent(view: View, node: Node) -> Outcome:
    """Gather(Shape(x), i) => constant, where extent i of x is a number"""
    shape, index = view.maker(node.inputs[0], "Shape"), view.constant(node.inputs[1])
    if shape is None or index is None or shape.attrs:
        return None
    dims = view.dims(shape.inputs[0])
    if dims is None:
        return Refusal("the rank is not known")
    positions = index.reshape(-1).tolist()
    if not all(-len(dims) <= i < len(dims) for i in positions):
        return Refusal("the index is out of range")
    wanted = [dims[i] for i in positions]
    if not all(isinstance(extent, int) for extent in wanted):
        return Refusal("an extent is not known")
    return _become_constants(view, node, [np.array(wanted, np.int64).reshape(index.shape)])


def _become_constants(view: View, node: Node, results: list[np.ndarray]) -> Rewrite:
    for name, array in zip(node.outputs, results, strict=False):
        if name:
            view.graph.constants[name] = array
            view.graph.types[name] = TensorType(dtypes.from_numpy(array.dtype), array.shape)
    return Rewrite()


def _limit(node: Node, inputs: list[np.ndarray | None]) -> int:
    if node.op == "ConstantOfShape":
        return MAX_FILLED_BYTES
    return max(MAX_FOLDED_BYTES, *(array.nbytes for array in inputs if array is not None), 0)


def _expected_bytes(node: Node, inputs: list[np.ndarray | None], view: View) -> int:
    """The size of the first result as far as it can be said without computing it, else 0."""
    data = inputs[0] if inputs else None
    values = [array.reshape(-1).tolist() if array is not None and array.size <= 64 else [] for array in inputs]
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        return math.prod(values[0]) * (value.itemsize if isinstance(value, np.ndarray) else 4)
    if node.op == "Expand" and data is not None:
        return math.prod(max(pair) for pair in zip_longest(data.shape[::-1], values[1][::-1], fillvalue=1)) * data.itemsize
    if node.op == "Tile" and data is not None:
        return data.nbytes * math.prod(values[1])
    if node.op == "Range":
        (start,), (limit,), (delta,) = values
        return int(max(0, (limit - start) / delta)) * 8
    found, shape = view.type(node.outputs[0]), view.shape(node.outputs[0])
    return math.prod(shape) * found.dtype.itemsize if shape is not None and isinstance(found, TensorType) else 0
