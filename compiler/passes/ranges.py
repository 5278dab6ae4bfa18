"""Parts of a tensor that are ranges of memory: a part of a part is taken from the whole, in one step that others can read through."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir.graph import Node, TensorType
from .maker import Maker
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View


@rule("Gather", "Slice")
def range_of_memory(view: View, node: Node) -> Outcome:
    """Gather(x, i) => Slice(Reshape(x)) and Slice(Reshape(Slice(x))) => Slice(Reshape(x)), where all are ranges of memory"""
    if node.op == "Gather" and view.shape(node.inputs[1]) != ():
        return None
    found = _Range.of(view, node)
    if found is None:
        return None
    name = _renamed(view, found.whole)
    inner = view.maker(name, "Slice")
    outer = _Range.of(view, inner) if inner is not None else None
    if node.op == "Slice" and outer is None:
        return None
    if outer is not None:
        found = _Range(outer.whole, outer.start + found.start)
    out, shape = view.shape(node.outputs[0]), view.shape(found.whole)
    kind = view.type(node.outputs[0])
    if out is None or shape is None or not out or not isinstance(kind, TensorType):
        return Refusal("a shape is not known yet")
    each = prod(out[1:])
    if not each or not out[0] or prod(shape) % each or found.start % each:
        return Refusal("it is empty, or does not start at a whole element of its first axis")
    make = Maker(view, kind.dtype)
    whole = make.reshape(found.whole, (prod(shape) // each, *out[1:]), "whole")
    start = found.start // each
    bounds = [
        view.new_constant(np.array([value], np.int64), stem) for stem, value in (("start", start), ("end", start + out[0]))
    ]
    axes = view.new_constant(np.array([0], np.int64), "axes")
    return Rewrite([*make.nodes, Node("Slice", (whole, *bounds, axes), node.outputs, {}, node.name)])


@dataclass(frozen=True)
class _Range:
    """Elements of ``whole`` from ``start`` on, counted in memory."""

    whole: str
    start: int

    @staticmethod
    def of(view: View, node: Node) -> _Range | None:
        """What a Gather of one index, or a Slice of one axis, takes, if that is such a range."""
        shape = view.shape(node.inputs[0])
        if shape is None or len(shape) < 2 or view.constant(node.inputs[0]) is not None:
            return None
        cut = _index(view, node, shape) if node.op == "Gather" else _slice(view, node, shape)
        if cut is None:
            return None
        axis, first = cut
        if prod(shape[:axis]) != 1 or not 0 <= first < shape[axis]:
            return None
        return _Range(node.inputs[0], first * prod(shape[axis + 1 :]))


def _index(view: View, node: Node, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axis and the index of a Gather of one constant index."""
    given = view.ints(node.inputs[1])
    if given is None or len(given) != 1:
        return None
    axis = int(str(node.attrs.get("axis", 0))) % len(shape)
    return axis, given[0] + shape[axis] if given[0] < 0 else given[0]


def _slice(view: View, node: Node, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axis and the start of a Slice of the first axis without steps."""
    start, axis = (view.ints(node.inputs[i]) for i in (1, 3)) if len(node.inputs) == 4 else (None, None)
    return (0, start[0]) if start is not None and len(start) == 1 and axis == (0,) and 0 <= start[0] < shape[0] else None


def _renamed(view: View, name: str) -> str:
    """The value that ``name`` is another shape of."""
    maker = view.maker(name, "Reshape", "Squeeze", "Unsqueeze", "Flatten")
    return _renamed(view, maker.inputs[0]) if maker is not None else name
