"""Control flow: what If, Loop and Scan do, whoever runs their bodies (the interpreter, or compiled plans).

Each function takes a node, its inputs (None where absent) and ``call(body, arguments)``, which gives the outputs of a body for the values
of its inputs. Source: the ONNX operator specification of If-25, Loop-25, Scan-25.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .graph import Graph, Node, TensorType

Value: TypeAlias = Any
"""An array; a list for a sequence; None for what is absent."""
Call: TypeAlias = Callable[[Graph, Sequence[Value]], list[Value]]


def if_(node: Node, inputs: Sequence[Value], call: Call) -> list[Value]:
    """The outputs of the branch that the condition selects."""
    return call(_body(node, "then_branch" if truth(inputs[0]) else "else_branch"), ())


def loop(node: Node, inputs: Sequence[Value], call: Call) -> list[Value]:
    """Final values of what the body carries, then what it yielded in each iteration, stacked along a new first axis."""
    body = _body(node, "body")
    limit, running = _optional(inputs, 0), _optional(inputs, 1)
    count = None if limit is None else int(np.asarray(limit).reshape(()))
    state = list(inputs[2:])
    yielded: list[list[Value]] = [[] for _ in body.outputs[1 + len(state) :]]
    step, goes_on, true = 0, running is None or truth(running), np.array(True)
    while goes_on and (count is None or step < count):
        condition, *results = call(body, (np.array(step, np.int64), true, *state))
        goes_on, step = truth(condition), step + 1
        _collect(yielded, results[len(state) :])
        state = results[: len(state)]
    return state + [_stack(items, 0, body, 1 + len(state) + i) for i, items in enumerate(yielded)]


def scan(node: Node, inputs: Sequence[Value], call: Call) -> list[Value]:
    """Final values of what the body carries, then what it yielded for each slice of the scanned inputs, stacked."""
    body, count = _body(node, "body"), node.attrs["num_scan_inputs"]
    assert isinstance(count, int)
    state, scanned = list(inputs[: len(inputs) - count]), inputs[len(inputs) - count :]
    outputs = len(body.outputs) - len(state)
    axes, backward = _each(node, "scan_input_axes", count), _each(node, "scan_input_directions", count)
    slices = [np.moveaxis(x, axis, 0)[:: -1 if back else 1] for x, axis, back in zip(scanned, axes, backward, strict=True)]
    if len({len(x) for x in slices}) > 1:
        raise ValueError(f"the scanned inputs have different lengths: {', '.join(str(len(x)) for x in slices)}")
    yielded: list[list[Value]] = [[] for _ in range(outputs)]
    for items in zip(*slices, strict=True):
        results = call(body, (*state, *(np.asarray(item, order="C") for item in items)))
        _collect(yielded, results[len(state) :])
        state = results[: len(state)]
    axes, backward = _each(node, "scan_output_axes", outputs), _each(node, "scan_output_directions", outputs)
    ordered = [items[:: -1 if back else 1] for items, back in zip(yielded, backward, strict=True)]
    return state + [_stack(items, axes[i], body, len(state) + i) for i, items in enumerate(ordered)]


def truth(condition: Value) -> bool:
    """A condition: a tensor of one element. Raises ``ValueError`` for more or fewer."""
    return bool(np.asarray(condition).reshape(()))


def _body(node: Node, key: str) -> Graph:
    body = node.attrs[key]
    assert isinstance(body, Graph)
    return body


def _optional(inputs: Sequence[Value], position: int) -> Value:
    return inputs[position] if position < len(inputs) else None


def _each(node: Node, key: str, length: int) -> tuple[int, ...]:
    """An attribute with a number for each scanned tensor; 0 where it is absent."""
    given = node.attrs.get(key) or (0,) * length
    assert isinstance(given, tuple) and len(given) == length
    return given  # type: ignore[return-value]


def _collect(yielded: Sequence[list[Value]], values: Sequence[Value]) -> None:
    for items, value in zip(yielded, values, strict=True):
        items.append(value)


def _stack(items: Sequence[Value], axis: int, body: Graph, position: int) -> np.ndarray:
    """What the iterations yielded as one array; without any, one of the declared type whose unknown extents are 0."""
    if items:
        return np.stack(items, axis)
    found = body.types.get(body.outputs[position])
    if not isinstance(found, TensorType):
        raise ValueError(f"{body.name!r} never runs, and the type of its output {body.outputs[position]!r} is not known")
    shape = [extent if isinstance(extent, int) else 0 for extent in found.shape or ()]
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
    return np.zeros(shape, found.dtype.numpy)


CONTROL: dict[str, Callable[[Node, Sequence[Value], Call], list[Value]]] = {"If": if_, "Loop": loop, "Scan": scan}
