"""Host operators: control flow that data decides, sequences, optionals, strings. They run in Python, and are reported as such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..ir import graph_interpreter
from ..ir.graph import Graph, Node, TensorType, Type
from .ops.registry import lookup

if TYPE_CHECKING:
    from .engine import Engine


def runs(node: Node, types: Mapping[str, Type]) -> bool:
    """Whether the host runs ``node``: control flow, host operators, and any operator on strings."""
    if node.op in ("If", "Loop", "Scan", "SequenceMap"):
        return True
    definition = lookup(node.domain, node.op)
    if definition is None or definition.kind == "host":
        return True
    kinds = [types.get(name) for name in (*node.inputs, *node.outputs) if name]
    return any(kind is not None and (not isinstance(kind, TensorType) or kind.dtype.kind == "string") for kind in kinds)


def run(node: Node, values: Mapping[str, object], engine: Engine) -> dict[str, object]:
    """The outputs of a host node by name."""
    if node.op == "If":
        return _if(node, values, engine)
    arguments = [values[name] if name else None for name in node.inputs]
    results = graph_interpreter.evaluate(node, arguments, values)  # type: ignore[arg-type]
    return {name: value for name, value in zip(node.outputs, results, strict=False) if name}


def _if(node: Node, values: Mapping[str, object], engine: Engine) -> dict[str, object]:
    condition = bool(np.asarray(values[node.inputs[0]]).reshape(-1)[0])
    body = node.attrs["then_branch" if condition else "else_branch"]
    assert isinstance(body, Graph)
    return dict(zip(node.outputs, subgraph(body, engine).run([values[n] for n in body.captures()]), strict=True))


def subgraph(body: Graph, engine: Engine):  # noqa: ANN201
    """A subgraph with its captures as inputs, planned like any graph; kept with the engine."""
    from .staged import StagedGraph

    found = engine.subgraphs.get(id(body))
    if found is None:
        inputs = (*body.inputs, *body.captures())
        graph = Graph(body.name, inputs, body.outputs, body.nodes, body.constants, body.types)
        found = engine.subgraphs[id(body)] = StagedGraph(graph, engine)
    return found
