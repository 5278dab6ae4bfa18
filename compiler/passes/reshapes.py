"""Chains of operators that only move or rename axes become one."""

from __future__ import annotations

from math import prod

import numpy as np

from ...ir.graph import Dim, Node, TensorType
from ..schedule.prefetching import LINE
from .identities import permutation
from .rewrite import Outcome, Refusal, Rewrite, replace_with, rule
from .view import View

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_SOFTMAX = ("Softmax", "LogSoftmax", "Hardmax")


@rule("Transpose")
def transpose_of_transpose(view: View, node: Node) -> Outcome:
    """Transpose(Transpose(x, p), q) => Transpose(x, p[q])"""
    inner = view.maker(node.inputs[0], "Transpose")
    first, second = (permutation(part) if part else None for part in (inner, node))
    if inner is None or first is None or second is None or len(first) != len(second):
        return None
    return replace_with(node, "Transpose", inner.inputs, {"perm": tuple(first[axis] for axis in second)})


@rule(*_RESHAPES)
def reshape_of_reshape(view: View, node: Node) -> Outcome:
    """reshape(reshape(x)) => Reshape(x, shape), for Reshape, Flatten, Squeeze, Unsqueeze"""
    inner = view.maker(node.inputs[0], *_RESHAPES)
    if inner is None:
        return None
    target = _target(view.dims(node.outputs[0]))
    if target is None and node.op == "Reshape":
        given = view.ints(node.inputs[1])
        target = given if given is not None and 0 not in given else None
    if target is None:
        return Refusal("the resulting shape is not known")
    return replace_with(node, "Reshape", (inner.inputs[0], view.new_constant(np.array(target, np.int64), "shape")))


@rule("Reshape")
def softmax_over_flat(view: View, node: Node) -> Outcome:
    """Reshape(softmax(Flatten(x, axis)), Shape(x)) => softmax(x, axis'), where axis' is the only axis from axis on that is not 1"""
    soft = view.maker(node.inputs[0], *_SOFTMAX)
    flat = view.maker(soft.inputs[0], "Flatten") if soft else None
    if soft is None or flat is None or soft.attrs.get("axis", -1) not in (-1, 1):
        return None
    data = flat.inputs[0]
    dims = view.dims(data)
    if dims is None:
        return Refusal("the rank is not known")
    shape = view.maker(node.inputs[1], "Shape")
    back = (shape is not None and shape.inputs[0] == data) or view.ints(node.inputs[1]) == dims
    if not back:
        return Refusal("the shape is not restored")
    first = int(str(flat.attrs.get("axis", 1)))
    wide = [axis for axis in range(first if first >= 0 else first + len(dims), len(dims)) if dims[axis] != 1]
    if len(wide) > 1 or first == len(dims):
        return Refusal("it does not go over one axis")
    return replace_with(node, soft.op, (data,), {"axis": wide[0] if wide else len(dims) - 1})


@rule("Transpose")
def transpose_of_stack(view: View, node: Node) -> Outcome:
    """Transpose(Reshape(Concat(x, y, ...))) => Stack(x, y, ...), where the Reshape sets the inputs apart and the Transpose swaps their
    number with the axis along which they were joined (the shuffled channels of ShuffleNet)"""
    apart = view.maker(node.inputs[0], "Reshape")
    joined = view.maker(apart.inputs[0], "Concat") if apart is not None else None
    perm, kind = permutation(node), view.type(node.outputs[0])
    if apart is None or joined is None or perm is None or not isinstance(kind, TensorType):
        return None
    whole, stack, number = view.dims(joined.outputs[0]), view.dims(apart.outputs[0]), len(joined.inputs)
    if whole is None or stack is None or len(stack) != len(whole) + 1:
        return None
    axis = int(str(joined.attrs.get("axis", 0))) % len(whole)
    if perm != (*range(axis), axis + 1, axis, *range(axis + 2, len(stack))):
        return None
    each, after = stack[axis + 1], whole[axis + 1 :]
    if not all(isinstance(extent, int) for extent in (whole[axis], each, *after)):
        return Refusal("the extents that are moved are not known yet")
    if (stack[axis], *stack[axis + 2 :]) != (number, *after) or any(
        view.dims(n) != (*whole[:axis], each, *after) for n in joined.inputs
    ):
        return Refusal("what is set apart is not what was joined")
    if axis > 1 and stack[:axis] != whole[:axis]:  # a single extent before is the same, as the number of elements is
        return Refusal("the extents before differ")
    if prod(extent for extent in after if isinstance(extent, int)) * kind.dtype.itemsize < LINE:
        return Refusal("what moves together is shorter than a line of the cache")
    if kind.dtype.bits < 8 or kind.dtype.kind in ("complex", "string"):
        return Refusal("its elements are not single numbers of whole bytes")
    if not (view.read_once(apart.outputs[0]) and view.read_once(joined.outputs[0])):
        return Refusal("something else reads what is joined")
    return Rewrite([Node("Stack", joined.inputs, node.outputs, {"axis": axis + 1}, node.name, "loopnest")])


def _target(dims: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    """A Reshape target for ``dims``: at most one extent may be unknown, and none 0."""
    if dims is None or sum(not isinstance(extent, int) for extent in dims) > 1 or 0 in dims:
        return None
    return tuple(extent if isinstance(extent, int) else -1 for extent in dims)
