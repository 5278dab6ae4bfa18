"""The graph IR run in NumPy: the meaning of a graph, against which everything else is tested.

Shape arithmetic and data movement go through ``graph_numpy``, control flow through ``graph_control``; all other operators are computed
by ONNX's reference implementation (imported when first needed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import dtypes
from .errors import InputError, UnsupportedOperatorError
from .graph import Graph, Node, SequenceType, TensorType, Type, node_reads
from .graph_control import CONTROL
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
            control = CONTROL.get(node.op)
            if control is not None:
                return control(node, inputs, lambda body, arguments: _call(body, arguments, outer or {}))
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


def _call(body: Graph, arguments: Sequence[Value], outer: Mapping[str, Value]) -> list[Value]:
    return _run(body, dict(zip(body.inputs, arguments, strict=True)), outer)


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
