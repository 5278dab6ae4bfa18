"""The graph IR run in NumPy: the meaning of a graph, against which everything else is tested.

Shape arithmetic and data movement go through ``graph_numpy``, control flow is here, and all other operators are computed by ONNX's
reference implementation (imported when first needed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import dtypes
from .errors import InputError, UnsupportedOperatorError
from .graph import Graph, Node, SequenceType, TensorType, Type, node_reads
from .graph_numpy import EVALUATORS

if TYPE_CHECKING:
    import onnx

Value: TypeAlias = Any
"""A NumPy array, a list for an ONNX sequence, None for an empty optional."""


def run(graph: Graph, inputs: Mapping[str, Value]) -> dict[str, Value]:
    """The outputs of ``graph`` by name. ``InputError`` when an input is missing."""
    missing = [name for name in graph.inputs if name not in inputs]
    if missing:
        raise InputError(f"graph {graph.name!r} lacks its inputs {', '.join(map(repr, missing))}")
    results = _run(graph, {name: inputs[name] for name in graph.inputs}, {})
    return dict(zip(graph.outputs, results, strict=True))


def evaluate(node: Node, inputs: Sequence[Value], outer: Mapping[str, Value] | None = None) -> list[Value]:
    """The outputs of one node; ``inputs`` has None for absent ones, ``outer`` the values that its subgraphs capture.

    Raises what NumPy or the reference implementation raise on data that the operator cannot take (``IndexError``,
    ``ZeroDivisionError``, ``ValueError`` ...), and ``UnsupportedOperatorError`` for an operator that nothing here implements.
    """
    with np.errstate(all="ignore"):
        if node.domain == "":
            control = _CONTROL.get(node.op)
            if control is not None:
                return control(node, inputs, outer or {})
            evaluator = EVALUATORS.get(node.op)
            results = evaluator(node, inputs) if evaluator else NotImplemented
            if results is not NotImplemented:
                return list(results)
        return _reference(node, inputs)


def _run(graph: Graph, values: Mapping[str, Value], outer: Mapping[str, Value]) -> list[Value]:
    env: dict[str, Value] = {**outer, **graph.constants, **values, "": None}
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node_reads(node)}
    keep = {*graph.outputs, *outer}
    for index, node in enumerate(graph.nodes):
        results = evaluate(node, [env[name] for name in node.inputs], env if any(node.subgraphs()) else None)
        env.update((name, value) for name, value in zip(node.outputs, results, strict=False) if name)
        for name in node.inputs:
            if name and last_use[name] == index and name not in keep:
                env.pop(name, None)
    return [env[name] for name in graph.outputs]


def _if(node: Node, inputs: Sequence[Value], outer: Mapping[str, Value]) -> list[Value]:
    branch = node.attrs["then_branch" if bool(np.asarray(inputs[0]).reshape(())) else "else_branch"]
    assert isinstance(branch, Graph)
    return _run(branch, {}, outer)


def _loop(node: Node, inputs: Sequence[Value], outer: Mapping[str, Value]) -> list[Value]:
    body = node.attrs["body"]
    assert isinstance(body, Graph)
    limit = None if inputs[0] is None else int(np.asarray(inputs[0]).reshape(()))
    running = len(inputs) < 2 or inputs[1] is None or bool(np.asarray(inputs[1]).reshape(()))
    state = list(inputs[2:])
    scanned: list[list[Value]] = [[] for _ in body.outputs[1 + len(state) :]]
    step = 0
    while running and (limit is None or step < limit):
        arguments = (np.array(step, np.int64), np.array(True), *state)
        condition, *results = _run(body, dict(zip(body.inputs, arguments, strict=True)), outer)
        running, step = bool(np.asarray(condition).reshape(())), step + 1
        for items, value in zip(scanned, results[len(state) :], strict=True):
            items.append(value)
        state = results[: len(state)]
    return state + [_stack(items, 0, body, i + 1 + len(state)) for i, items in enumerate(scanned)]


def _scan(node: Node, inputs: Sequence[Value], outer: Mapping[str, Value]) -> list[Value]:
    body, count = node.attrs["body"], node.attrs["num_scan_inputs"]
    assert isinstance(body, Graph) and isinstance(count, int)
    state, scans = list(inputs[: len(inputs) - count]), inputs[len(inputs) - count :]
    outputs = len(body.outputs) - len(state)

    def per_item(key: str, length: int) -> tuple[int, ...]:
        given = node.attrs.get(key) or (0,) * length
        assert isinstance(given, tuple)
        return given  # type: ignore[return-value]

    axes, backward = per_item("scan_input_axes", count), per_item("scan_input_directions", count)
    moved = [np.moveaxis(x, axis, 0)[:: -1 if back else 1] for x, axis, back in zip(scans, axes, backward, strict=True)]
    scanned: list[list[Value]] = [[] for _ in range(outputs)]
    for items in zip(*moved, strict=True):
        results = _run(body, dict(zip(body.inputs, (*state, *items), strict=True)), outer)
        state = results[: len(state)]
        for collected, value in zip(scanned, results[len(state) :], strict=True):
            collected.append(value)
    axes, backward = per_item("scan_output_axes", outputs), per_item("scan_output_directions", outputs)
    ordered = [items[:: -1 if back else 1] for items, back in zip(scanned, backward, strict=True)]
    return state + [_stack(items, axes[i], body, i + len(state)) for i, items in enumerate(ordered)]


def _stack(items: list[Value], axis: int, body: Graph, position: int) -> np.ndarray:
    if items:
        return np.stack(items, axis)
    found = body.types.get(body.outputs[position])
    if not isinstance(found, TensorType):
        raise ValueError(
            f"the loop of {body.name!r} never runs, and the type of its output {body.outputs[position]!r} is not known"
        )
    shape = [extent if isinstance(extent, int) else 0 for extent in found.shape or ()]
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
    return np.zeros(shape, found.dtype.numpy)


_CONTROL = {"If": _if, "Loop": _loop, "Scan": _scan}


def _reference(node: Node, inputs: Sequence[Value]) -> list[Value]:
    from onnx.reference import ReferenceEvaluator

    graph, opsets = _single_node(node, inputs)
    try:
        evaluator = ReferenceEvaluator(graph, opsets=opsets)
    except (NotImplementedError, RuntimeError) as error:
        raise UnsupportedOperatorError(f"{node} has no reference implementation: {error}") from None
    feeds = {f"i{position}": value for position, value in enumerate(inputs) if node.inputs[position]}
    made = iter(list(evaluator.run(None, feeds)))
    results = [next(made) if name else None for name in node.outputs]
    return [np.asarray(value) if isinstance(value, np.generic) else value for value in results]


def _single_node(node: Node, inputs: Sequence[Value]) -> tuple[onnx.GraphProto, dict[str, int]]:
    """``node`` alone, with typed inputs: some reference implementations need to know the types."""
    from .graph_onnx import OTHER_DOMAINS, newest_opset, to_graph_proto

    names = tuple(f"i{position}" if name else "" for position, name in enumerate(node.inputs))
    outputs = tuple(f"o{position}" if name else "" for position, name in enumerate(node.outputs))
    types = {name: _type_of(value) for name, value in zip(names, inputs, strict=True) if name}
    known = {name: found for name, found in types.items() if found is not None}
    single = Graph(
        "node", tuple(filter(None, names)), tuple(filter(None, outputs)), [node.replace(inputs=names, outputs=outputs)]
    )
    single.types = known
    opsets = {"": newest_opset(), node.domain: OTHER_DOMAINS.get(node.domain, 1) if node.domain else newest_opset()}
    return to_graph_proto(single), opsets


def _type_of(value: Value) -> Type | None:
    if isinstance(value, np.ndarray):
        return TensorType(dtypes.from_numpy(value.dtype), value.shape)
    if isinstance(value, list):
        element = _type_of(value[0]) if value else None
        return None if element is None else SequenceType(element)
    return None
