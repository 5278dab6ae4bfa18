"""New names, and new names for values that subgraphs capture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...ir.graph import Graph, Node
from ..frontend.names import Names


def fresh_names(*graphs: Graph) -> Names:
    """A source of names that occur nowhere in ``graphs`` or inside them."""
    names = Names()
    for graph in graphs:
        for part in graph.walk():
            for name in (*part.inputs, *part.constants, *part.types, *(o for node in part.nodes for o in node.outputs)):
                names.reserve(name)
    return names


def rename_captures(node: Node, names: Mapping[str, str]) -> Node:
    """``node`` with the values that its subgraphs capture renamed; nodes without such captures come back as they are."""
    if not any(name in names for body in node.bodies for name in body.captures()):
        return node
    return map_bodies(node, lambda body: _renamed(body, names))


def map_bodies(node: Node, change: Callable[[Graph], Graph]) -> Node:
    """``node`` with each of its subgraphs replaced by ``change(subgraph)``."""
    attrs: dict[str, Any] = {}
    for key, value in node.attrs.items():
        if isinstance(value, Graph):
            attrs[key] = change(value)
        elif isinstance(value, tuple) and any(isinstance(item, Graph) for item in value):
            attrs[key] = tuple(change(item) if isinstance(item, Graph) else item for item in value)
        else:
            attrs[key] = value
    return node.replace(attrs=attrs)


def _renamed(body: Graph, names: Mapping[str, str]) -> Graph:
    renamed = body.copy()
    renamed.outputs = tuple(names.get(name, name) for name in body.outputs)
    renamed.nodes = []
    for node in body.nodes:
        inputs = tuple(names.get(name, name) for name in node.inputs)
        renamed.nodes.append(rename_captures(node.replace(inputs=inputs) if inputs != node.inputs else node, names))
    return renamed
