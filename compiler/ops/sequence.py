"""Sequences and optionals: Python lists and None on the host (ONNX operator specification, opset 27)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.graph import Node
from ...ir.graph_control import Call
from .registry import host

Values = Sequence[Any]


@host("SequenceConstruct")
def construct(node: Node, inputs: Values, call: Call) -> list[Any]:
    return [list(inputs)]


@host("SequenceEmpty")
def empty(node: Node, inputs: Values, call: Call) -> list[Any]:
    return [[]]


@host("SequenceLength")
def length(node: Node, inputs: Values, call: Call) -> list[Any]:
    return [np.array(len(inputs[0]), np.int64)]


@host("SequenceAt")
def at(node: Node, inputs: Values, call: Call) -> list[Any]:
    sequence, position = inputs
    return [sequence[_position(position, len(sequence), len(sequence) - 1)]]


@host("SequenceInsert")
def insert(node: Node, inputs: Values, call: Call) -> list[Any]:
    sequence, item, *position = inputs
    at = _position(position[0], len(sequence), len(sequence)) if position and position[0] is not None else len(sequence)
    return [[*sequence[:at], item, *sequence[at:]]]


@host("SequenceErase")
def erase(node: Node, inputs: Values, call: Call) -> list[Any]:
    sequence, *position = inputs
    at = _position(position[0] if position else None, len(sequence), len(sequence) - 1)
    return [[*sequence[:at], *sequence[at + 1 :]]]


@host("ConcatFromSequence")
def concat(node: Node, inputs: Values, call: Call) -> list[Any]:
    join = np.stack if node.attrs.get("new_axis", 0) else np.concatenate
    return [join(inputs[0], axis=node.attrs["axis"])]  # type: ignore[operator]


@host("SplitToSequence")
def split(node: Node, inputs: Values, call: Call) -> list[Any]:
    data, sizes = inputs[0], inputs[1] if len(inputs) > 1 else None
    axis: Any = node.attrs.get("axis", 0)
    extent = data.shape[axis]
    if sizes is None or not np.ndim(sizes):
        step = 1 if sizes is None else int(sizes)
        if step < 1:
            raise ValueError(f"cannot split into parts of {step}")
        parts = np.split(data, range(step, extent, step), axis) if extent else []
    else:
        if int(sizes.sum()) != extent:
            raise ValueError(f"split {sizes.tolist()} does not add up to extent {extent} of axis {axis}")
        parts = np.split(data, np.cumsum(sizes)[:-1].tolist(), axis)
    if sizes is None and not node.attrs.get("keepdims", 1):
        parts = [np.squeeze(part, axis) for part in parts]
    return [list(parts)]


@host("Optional")
def optional(node: Node, inputs: Values, call: Call) -> list[Any]:
    return [inputs[0] if inputs else None]


@host("OptionalHasElement")
def has_element(node: Node, inputs: Values, call: Call) -> list[Any]:
    return [np.array(bool(inputs) and inputs[0] is not None)]


@host("OptionalGetElement")
def get_element(node: Node, inputs: Values, call: Call) -> list[Any]:
    if inputs[0] is None:
        raise ValueError("the optional is empty")
    return [inputs[0]]


def _position(value: Any, length: int, last: int) -> int:
    """A position counted from the front; raises ``IndexError`` outside of [-length, last]. Absent: the last."""
    position = last if value is None else int(np.asarray(value).reshape(()))
    if not -length <= position <= last:
        raise IndexError(f"position {position} is outside [{-length}, {last}] of a sequence of {length}")
    return position + length if position < 0 else position
