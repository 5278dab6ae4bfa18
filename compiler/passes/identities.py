"""Operators that change nothing are left out."""

from __future__ import annotations

import numpy as np

from ...ir import dtypes
from ...ir.graph import Node, OptionalType, SequenceType, TensorType
from .rewrite import Outcome, Refusal, Rewrite, forward, replace_with, rule
from .view import View


@rule("Identity")
def identity(view: View, node: Node) -> Outcome:
    """Identity(x) => x"""
    if node.outputs[0] in view.graph.outputs and view.must_copy(node.inputs[0]):
        return None
    return forward(node, node.inputs[0])


@rule("Dropout")
def dropout(view: View, node: Node) -> Outcome:
    """Dropout(x) => x; its mask => ConstantOfShape(Shape(x), true)"""
    training = node.input(2)
    if training and view.scalar(training) is None:
        return Refusal("whether it trains is not known")
    if training and view.scalar(training):
        return Refusal("it trains")
    nodes: list[Node] = []
    mask = node.outputs[1] if len(node.outputs) > 1 else ""
    if view.is_read(mask):
        shape = view.new_value("shape", None)
        nodes.append(Node("Shape", (node.input(0),), (shape,)))
        nodes.append(Node("ConstantOfShape", (shape,), (mask,), {"value": np.array([True])}))
    return Rewrite(nodes, {result: node.input(0) for result in node.outputs[:1]})


@rule("Cast")
def cast_to_same(view: View, node: Node) -> Outcome:
    """Cast(x, to=dtype(x)) => x"""
    dtype = view.dtype(node.inputs[0])
    if dtype is None:
        return Refusal("the type is not known")
    return forward(node, node.inputs[0]) if dtype.onnx == node.attrs["to"] else None


@rule("CastLike")
def cast_like(view: View, node: Node) -> Outcome:
    """CastLike(x, y) => Cast(x, to=dtype(y))"""
    dtype = view.dtype(node.inputs[1])
    if dtype is None:
        return Refusal("the type is not known")
    return replace_with(node, "Cast", node.inputs[:1], {**node.attrs, "to": dtype.onnx})


def permutation(node: Node) -> tuple[int, ...] | None:
    """The ``perm`` of a Transpose; None where it is absent, or no permutation, which is an error that shape inference reports."""
    perm = node.attrs.get("perm")
    axes = tuple(axis for axis in perm if isinstance(axis, int)) if isinstance(perm, tuple) else None
    return axes if axes is not None and sorted(axes) == list(range(len(axes))) else None


@rule("Transpose")
def transpose_in_order(view: View, node: Node) -> Outcome:
    """Transpose(x, perm=(0, 1, ...)) => x, and where only extents of 1 move: Reshape(x)"""
    perm = permutation(node)
    if perm is None or view.rank(node.inputs[0]) != len(perm):
        return None
    if perm == tuple(range(len(perm))):
        return forward(node, node.inputs[0])
    shape = view.shape(node.inputs[0])
    if shape is None or not _ascending([axis for axis in perm if shape[axis] != 1]):
        return None
    target = view.new_constant(np.array([shape[axis] for axis in perm], np.int64), "shape")
    return replace_with(node, "Reshape", (node.inputs[0], target), {"allowzero": 1})


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Pad", "CenterCropPad")
def same_shape(view: View, node: Node) -> Outcome:
    """op(x) => x, where op only selects, adds or rearranges whole axes and the shape stays the same"""
    before, after = view.dims(node.inputs[0]), view.dims(node.outputs[0])
    if before is None or after is None or None in before:
        return None
    if before != after:
        return None
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"):
        return forward(node, node.inputs[0])
    if node.op == "Slice":
        steps = view.ints(node.input(4)) if node.input(4) else (1,)
        return (
            forward(node, node.inputs[0]) if steps and all(step == 1 for step in steps) else Refusal("it may reverse an axis")
        )
    if node.op == "Pad":
        pads = view.ints(node.inputs[1])
        return forward(node, node.inputs[0]) if pads is not None and not any(pads) else Refusal("it may shift the data")
    return forward(node, node.inputs[0])


@rule("Concat", "Sum", "Max", "Min", "Mean")
def only_one(view: View, node: Node) -> Outcome:
    """Concat(x) => x, Sum(x) => x, Max(x) => x, Min(x) => x, Mean(x) => x"""
    return forward(node, node.inputs[0]) if len(node.inputs) == 1 else None


@rule("Sum")
def sum_of_two(view: View, node: Node) -> Outcome:
    """Sum(x, y) => Add(x, y)"""
    return replace_with(node, "Add", node.inputs) if len(node.inputs) == 2 else None


@rule("Mul", "Div", "Add", "Sub", "Pow")
def neutral_operand(view: View, node: Node) -> Outcome:
    """x * 1 => x, x / 1 => x, x + 0 => x, x - 0 => x, x ** 1 => x, where the constant does not broadcast x to a larger shape

    A floating-point zero must have the sign that keeps negative zeros: x + -0.0, x - 0.0.
    """
    positions = (1, 0) if node.op in ("Mul", "Add") else (1,)
    for position in positions:
        constant, data = view.constant(node.inputs[position]), node.inputs[1 - position]
        if constant is None or constant.dtype.kind not in "fiu" or constant.size > 4096 or not _is_neutral(node.op, constant):
            continue
        if view.dtype(data) is None or view.dtype(data) is not view.dtype(node.inputs[position]):
            return Refusal("the type is not known, or changes")
        if not _broadcasts_into(constant.shape, view.dims(data)):
            return Refusal("the constant may enlarge the shape")
        return forward(node, data)
    return None


@rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
def reduction_over_one(view: View, node: Node) -> Outcome:
    """reduce(x, axes) => x or Reshape(x), where all axes have extent 1"""
    before, after = view.shape(node.inputs[0]), view.shape(node.outputs[0])
    axes = view.ints(node.input(1)) if node.input(1) else None
    if before is None or after is None or axes is None or not all(before[axis] == 1 for axis in axes):
        return None
    if not axes and not node.attrs.get("noop_with_empty_axes"):
        return None
    if before == after:
        return forward(node, node.inputs[0])
    return replace_with(
        node, "Reshape", (node.inputs[0], view.new_constant(np.array(after, np.int64), "shape")), {"allowzero": 1}
    )


@rule("OptionalGetElement")
def get_element(view: View, node: Node) -> Outcome:
    """OptionalGetElement(x) => x, where x is no optional"""
    found = view.type(node.inputs[0])
    if isinstance(found, TensorType | SequenceType):
        return forward(node, node.inputs[0])
    return Refusal("it is optional") if isinstance(found, OptionalType) else Refusal("the type is not known")


@rule("Not")
def double_negation(view: View, node: Node) -> Outcome:
    """Not(Not(x)) => x"""
    inner = view.maker(node.inputs[0], "Not")
    return forward(node, inner.inputs[0]) if inner else None


@rule("Cast")
def cast_of_cast(view: View, node: Node) -> Outcome:
    """Cast(Cast(x, wider), dtype(x)) => x, where every value of x survives the wider type"""
    inner = view.maker(node.inputs[0], "Cast")
    source = view.dtype(inner.inputs[0]) if inner else None
    if inner is None or source is None or source.onnx != node.attrs["to"]:
        return None
    between = dtypes.from_onnx(int(str(inner.attrs["to"])))
    rounds = source.is_integer and source.bits == 64 and not between.is_integer  # NumPy calls that safe all the same
    if rounds or not (source.is_numeric and between.is_numeric and np.can_cast(source.numpy, between.numpy, "safe")):
        return Refusal(f"{between} does not hold every {source}")
    return forward(node, inner.inputs[0])


def _broadcasts_into(shape: tuple[int, ...], dims: tuple[object, ...] | None) -> bool:
    """True when broadcasting ``shape`` with ``dims`` gives ``dims``."""
    if all(extent == 1 for extent in shape):
        return not shape or (dims is not None and len(shape) <= len(dims))
    if dims is None or len(shape) > len(dims):
        return False
    return all(extent in (1, dim) for extent, dim in zip(shape[::-1], dims[::-1], strict=False))


def _is_neutral(op: str, constant: np.ndarray) -> bool:
    if op not in ("Add", "Sub"):
        return bool((constant == 1).all())
    signs_fit = constant.dtype.kind != "f" or (np.signbit(constant) == (op == "Add")).all()
    return bool((constant == 0).all() and signs_fit)


def _ascending(axes: list[int]) -> bool:
    return axes == sorted(axes)
