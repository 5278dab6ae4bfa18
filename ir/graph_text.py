"""The graph IR as text, one line a node, subgraphs indented below theirs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .graph import Attribute, Graph, Node

_INDENT = "    "
_MAX_VALUES = 8


def as_text(graph: Graph) -> str:
    """``graph`` for a reader::

    graph resnet(x: float32[N, 3, 224, 224]) -> (y: float32[N, 1000]):
        w = constant float32[64, 3, 7, 7]
        shape = constant int64[2] [-1, 1000]
        y: float32[N, 1000] = Conv(x, w, strides=(2, 2))  # conv_0
    """
    return "\n".join(_lines(graph, "graph", "")) + "\n"


def _lines(graph: Graph, title: str, indent: str) -> Iterator[str]:
    inputs = ", ".join(_typed(graph, name) for name in graph.inputs)
    outputs = ", ".join(_typed(graph, name) for name in graph.outputs)
    yield f"{indent}{title} {graph.name}({inputs}) -> ({outputs}):"
    inner = indent + _INDENT
    for name, array in graph.constants.items():
        yield f"{inner}{name} = constant {array_text(array)}"
    for node in graph.nodes:
        yield f"{inner}{node_text(node, graph)}"
        for key, body in _named_subgraphs(node):
            yield from _lines(body, f"{key} =", inner + _INDENT)


def node_text(node: Node, graph: Graph | None = None) -> str:
    """One line: typed outputs, operator, inputs, attributes, and the node's name as a comment."""
    outputs = ", ".join((_typed(graph, name) if graph else name) or "_" for name in node.outputs)
    arguments = [name or "_" for name in node.inputs]
    arguments += [f"{key}={_attribute_text(value)}" for key, value in node.attrs.items()]
    op = f"{node.domain}.{node.op}" if node.domain else node.op
    comment = f"  # {node.name}" if node.name else ""
    return f"{outputs} = {op}({', '.join(arguments)}){comment}"


def array_text(array: np.ndarray) -> str:
    """Element type, shape, and the values when they are few."""
    shape = ", ".join(map(str, array.shape))
    dtype = "string" if array.dtype == object else str(array.dtype)
    values = f" {array.tolist()}" if array.size <= _MAX_VALUES else ""
    return f"{dtype}[{shape}]{values}"


def _typed(graph: Graph, name: str) -> str:
    found = graph.types.get(name)
    return f"{name}: {found}" if found is not None else name


def _named_subgraphs(node: Node) -> Iterator[tuple[str, Graph]]:
    for key, value in node.attrs.items():
        if isinstance(value, Graph):
            yield key, value
        elif isinstance(value, tuple):
            yield from ((f"{key}[{i}]", item) for i, item in enumerate(value) if isinstance(item, Graph))


def _attribute_text(value: Attribute) -> str:
    if isinstance(value, Graph):
        return f"<{value.name or 'graph'}>"
    if isinstance(value, np.ndarray):
        return array_text(value)
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, tuple):
        items = [_attribute_text(item) for item in value]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
