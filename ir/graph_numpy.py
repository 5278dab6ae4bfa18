"""NumPy functions for the operators of shape arithmetic and data movement, exact to the ONNX specification.

Planning evaluates these often; ``graph_interpreter`` leaves all others to ONNX's reference implementation. Each function takes the
node and its inputs (None where absent) and returns its outputs, or ``NotImplemented`` for a form that it leaves to the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from . import dtypes
from .graph import Node

Value: TypeAlias = Any
"""An array; a list for a sequence; None for what is absent."""
Evaluator: TypeAlias = Callable[[Node, Sequence[Value]], Any]


def attribute(node: Node, key: str, default: Any) -> Any:
    """The attribute's value, or its default."""
    return node.attrs.get(key, default)


def padded(inputs: Sequence[Value], count: int) -> list[Any]:
    """``inputs`` with None for optional ones left off the end."""
    return [*inputs, *[None] * (count - len(inputs))]


def is_plain(array: np.ndarray) -> bool:
    """True for the dtypes that NumPy computes on itself, the way ONNX defines it."""
    return array.dtype.kind in "biuf" and array.dtype.isbuiltin == 1


def unary(function: Callable[[np.ndarray], np.ndarray]) -> Evaluator:
    return lambda node, inputs: [np.asarray(function(inputs[0]))] if is_plain(inputs[0]) else NotImplemented


def variadic(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Evaluator:
    def evaluate(node: Node, inputs: Sequence[Value]) -> Any:
        if not all(is_plain(item) for item in inputs):
            return NotImplemented
        result = inputs[0]
        for item in inputs[1:]:
            result = function(result, item)
        return [np.asarray(result)]

    return evaluate


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Div: of integers truncated towards zero; ``ZeroDivisionError`` for an integer zero."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if not np.all(b):
        raise ZeroDivisionError("integer division by zero")
    quotient = a // b
    return np.asarray(quotient + ((a % b != 0) & ((a < 0) != (b < 0)))).astype(a.dtype)


def modulo(node: Node, inputs: Sequence[Value]) -> Any:
    a, b = inputs
    if not is_plain(a):
        return NotImplemented
    if a.dtype.kind != "f" and not np.all(b):
        raise ZeroDivisionError("integer modulo by zero")
    return [np.asarray(np.fmod(a, b) if attribute(node, "fmod", 0) else np.mod(a, b))]


def equal(node: Node, inputs: Sequence[Value]) -> Any:
    return [np.asarray(inputs[0] == inputs[1]).astype(bool)]


def where(node: Node, inputs: Sequence[Value]) -> Any:
    return [np.where(*inputs)]


def cast(node: Node, inputs: Sequence[Value]) -> Any:
    data, target = inputs[0], dtypes.from_onnx(attribute(node, "to", 0)).numpy
    if data.dtype == target:
        return [data]
    if not is_plain(data) or target.isbuiltin != 1 or target.kind not in "biuf":
        return NotImplemented
    return [data.astype(target)]


def shape(node: Node, inputs: Sequence[Value]) -> Any:
    dims = inputs[0].shape[attribute(node, "start", 0) : attribute(node, "end", None)]
    return [np.array(dims, np.int64)]


def size(node: Node, inputs: Sequence[Value]) -> Any:
    return [np.array(inputs[0].size, np.int64)]


def gather(node: Node, inputs: Sequence[Value]) -> Any:
    data, indices = inputs
    return [np.take(data, indices, axis=attribute(node, "axis", 0))]


def concat(node: Node, inputs: Sequence[Value]) -> Any:
    return [np.concatenate(inputs, axis=attribute(node, "axis", 0))]


def slice_(node: Node, inputs: Sequence[Value]) -> Any:
    data, starts, ends, axes, steps = padded(inputs, 5)
    axes = range(len(starts)) if axes is None else axes.tolist()
    steps = [1] * len(starts) if steps is None else steps.tolist()
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes, steps, strict=True):
        index[axis] = bounded_slice(start, end, step, data.shape[axis])
    return [data[tuple(index)]]


def bounded_slice(start: int, end: int, step: int, extent: int) -> slice:
    """Slice-13's bounds as a Python slice: negative ones count from the end, then both are clamped."""
    start, end = (bound + extent if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return slice(min(max(start, 0), extent), min(max(end, 0), extent), step)
    stop = min(max(end, -1), extent - 1)
    return slice(min(max(start, 0), extent - 1), None if stop < 0 else stop, step) if extent else slice(0, 0)


def squeeze(node: Node, inputs: Sequence[Value]) -> Any:
    data, axes = padded(inputs, 2)
    return [np.squeeze(data, None if axes is None else tuple(axes.tolist()))]


def unsqueeze(node: Node, inputs: Sequence[Value]) -> Any:
    return [np.expand_dims(inputs[0], tuple(inputs[1].reshape(-1).tolist()))]


def reshape(node: Node, inputs: Sequence[Value]) -> Any:
    data, target = inputs
    dims = target.tolist()
    if not attribute(node, "allowzero", 0):
        dims = [data.shape[i] if extent == 0 else extent for i, extent in enumerate(dims)]
    return [data.reshape(dims)]


def flatten(node: Node, inputs: Sequence[Value]) -> Any:
    data, axis = inputs[0], attribute(node, "axis", 1)
    dims = data.shape[: axis if axis >= 0 else axis + data.ndim]
    return [data.reshape(math.prod(dims), math.prod(data.shape[len(dims) :]))]


def transpose(node: Node, inputs: Sequence[Value]) -> Any:
    return [np.transpose(inputs[0], attribute(node, "perm", None))]


def expand(node: Node, inputs: Sequence[Value]) -> Any:
    data, target = inputs
    return [np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(target.tolist())))]


def tile(node: Node, inputs: Sequence[Value]) -> Any:
    return [np.tile(inputs[0], inputs[1].tolist())]


def constant_of_shape(node: Node, inputs: Sequence[Value]) -> Any:
    value = attribute(node, "value", None)
    scalar = np.zeros((), np.float32) if value is None else value.reshape(())
    return [np.broadcast_to(scalar, tuple(inputs[0].tolist()))]


def range_(node: Node, inputs: Sequence[Value]) -> Any:
    start, limit, delta = (item.item() for item in inputs)
    dtype = inputs[0].dtype
    if dtype.kind not in "iu" or delta == 0:
        return NotImplemented
    return [np.arange(start, limit, delta).astype(dtype)]


def split(node: Node, inputs: Sequence[Value]) -> Any:
    data, sizes = padded(inputs, 2)
    axis = attribute(node, "axis", 0)
    if sizes is None:
        parts = attribute(node, "num_outputs", len(node.outputs))
        chunk = -(-data.shape[axis] // parts)
        ends = [min(chunk * (i + 1), data.shape[axis]) for i in range(parts - 1)]
    else:
        ends = np.cumsum(sizes)[:-1].tolist()
        if int(sizes.sum()) != data.shape[axis]:
            raise ValueError(f"split {sizes.tolist()} does not add up to extent {data.shape[axis]}")
    return np.split(data, ends, axis)


def non_zero(node: Node, inputs: Sequence[Value]) -> Any:
    data = inputs[0]
    if data.ndim == 0:
        return [np.zeros((0, int(bool(data))), np.int64)]
    return [np.array(np.nonzero(data), np.int64)]


def reduction(function: Callable[..., np.ndarray]) -> Evaluator:
    def evaluate(node: Node, inputs: Sequence[Value]) -> Any:
        data, axes = padded(inputs, 2)
        if not is_plain(data) or data.size == 0:
            return NotImplemented
        if axes is not None and axes.size:
            along = tuple(axes.reshape(-1).tolist())
        elif attribute(node, "noop_with_empty_axes", 0):
            return NotImplemented
        else:
            along = None
        result = function(data, axis=along, keepdims=bool(attribute(node, "keepdims", 1)))
        return [np.asarray(result).astype(data.dtype, copy=False)]

    return evaluate


def identity(node: Node, inputs: Sequence[Value]) -> Any:
    return [inputs[0]]


EVALUATORS: dict[str, Evaluator] = {
    "Abs": unary(np.abs),
    "Add": variadic(np.add),
    "And": variadic(np.logical_and),
    "Cast": cast,
    "Ceil": unary(np.ceil),
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "Div": variadic(divide),
    "Equal": equal,
    "Expand": expand,
    "Flatten": flatten,
    "Floor": unary(np.floor),
    "Gather": gather,
    "Greater": variadic(np.greater),
    "GreaterOrEqual": variadic(np.greater_equal),
    "Identity": identity,
    "Less": variadic(np.less),
    "LessOrEqual": variadic(np.less_equal),
    "Max": variadic(np.maximum),
    "Min": variadic(np.minimum),
    "Mod": modulo,
    "Mul": variadic(np.multiply),
    "Neg": unary(np.negative),
    "NonZero": non_zero,
    "Not": unary(np.logical_not),
    "Or": variadic(np.logical_or),
    "Range": range_,
    "ReduceMax": reduction(np.max),
    "ReduceMin": reduction(np.min),
    "ReduceProd": reduction(np.prod),
    "ReduceSum": reduction(np.sum),
    "Reshape": reshape,
    "Shape": shape,
    "Size": size,
    "Slice": slice_,
    "Split": split,
    "Sqrt": unary(np.sqrt),
    "Squeeze": squeeze,
    "Sub": variadic(np.subtract),
    "Sum": variadic(np.add),
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": where,
    "Xor": variadic(np.logical_xor),
}
