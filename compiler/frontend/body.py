"""A graph under construction: nodes and constants are added, then everything is put in topological order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Attribute, Node, node_reads
from .names import Names


@dataclass
class Body:
    """Nodes and constants of one graph; ``names`` is shared by the whole model."""

    names: Names
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, values: object, dtype: type | np.dtype = np.int64, stem: str = "constant") -> str:
        """The name of a new constant that holds ``values``."""
        name = self.names.unique(stem)
        self.constants[name] = np.asarray(values, dtype)
        return name

    def emit(self, op: str, inputs: Iterable[str], attrs: Mapping[str, Attribute] | None = None, stem: str = "") -> str:
        """Add a node with one output and return that output's name."""
        output = self.names.unique(stem or op.lower())
        self.nodes.append(Node(op, tuple(inputs), (output,), dict(attrs or {})))
        return output

    def scalar_like(self, value: float, reference: str) -> str:
        """A scalar of whatever type ``reference`` has."""
        return self.emit("CastLike", (self.constant(value, np.float32), reference))


def topological(nodes: list[Node], title: str) -> list[Node]:
    """``nodes`` in an order in which each value is made before it is read, unchanged when they are so already.

    ``ModelError`` naming the nodes of a cycle.
    """
    maker = {output: index for index, node in enumerate(nodes) for output in node.outputs if output}
    needs = [[maker[name] for name in node_reads(node) if name in maker] for node in nodes]
    if all(source < index for index, sources in enumerate(needs) for source in sources):
        return nodes
    try:
        order = list(TopologicalSorter(dict(enumerate(needs))).static_order())
    except CycleError as error:
        cycle = " -> ".join(str(nodes[index]) for index in dict.fromkeys(error.args[1]))
        raise ModelError(f"{title} is cyclic: {cycle} -> ...") from None
    return [nodes[index] for index in order]
