"""Chains of operators that only move or rename axes become one."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Dim, Node
from .identities import permutation
from .rewrite import Outcome, Refusal, replace_with, rule
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


def _target(dims: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    """A Reshape target for ``dims``: at most one extent may be unknown, and none 0."""
    if dims is None or sum(not isinstance(extent, int) for extent in dims) > 1 or 0 in dims:
        return None
    return tuple(extent if isinstance(extent, int) else -1 for extent in dims)
