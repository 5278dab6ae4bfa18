"""The graph IR: a model as nodes over named values (static single assignment), with constants and types beside them.

A value is a name. ``Graph.types`` says what it holds, ``Graph.constants`` holds the arrays known at compile time (weights, and
whatever passes have folded). Operators are ONNX's, always in the semantics of the newest opset that we read: the frontend upgrades
older forms, so that no later stage knows an opset number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from .dtypes import DType

Dim: TypeAlias = "int | str | None"
"""An extent: known, named (symbolic), or unknown."""


@dataclass(frozen=True)
class TensorType:
    """A tensor of ``dtype``; ``shape`` is None when not even the rank is known."""

    dtype: DType
    shape: tuple[Dim, ...] | None = None

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape when every extent is a number, else None."""
        if self.shape is None or not all(isinstance(d, int) for d in self.shape):
            return None
        return tuple(d for d in self.shape if isinstance(d, int))

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class SequenceType:
    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True)
class OptionalType:
    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


Type: TypeAlias = "TensorType | SequenceType | OptionalType"
Attribute: TypeAlias = (
    "int | float | str | np.ndarray | Graph | Type | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | tuple[Graph, ...]"
)


@dataclass(frozen=True, eq=False)
class Node:
    """One application of an operator. An absent optional input or output is the empty name ``""``."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Attribute] = field(default_factory=dict)
    name: str = ""
    domain: str = ""

    def replace(self, **changes: object) -> Node:
        return replace(self, **changes)  # type: ignore[arg-type]

    def input(self, position: int) -> str:
        """The name of an input, ``""`` when it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""

    @cached_property
    def bodies(self) -> tuple[Graph, ...]:
        """The graphs among the attributes (of If, Loop, Scan)."""
        found: list[Graph] = []
        for value in self.attrs.values():
            if isinstance(value, Graph):
                found.append(value)
            elif isinstance(value, tuple):
                found += [item for item in value if isinstance(item, Graph)]
        return tuple(found)

    def subgraphs(self) -> Iterator[Graph]:
        """The graphs among the attributes, one after the other."""
        return iter(self.bodies)

    def __str__(self) -> str:
        return f"{self.op} node {self.name!r}" if self.name else f"{self.op} node that makes {self.outputs[0]!r}"


@dataclass(eq=False)
class Graph:
    """A directed acyclic graph in topological order. Subgraphs may use names of the graphs around them."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    types: dict[str, Type] = field(default_factory=dict)

    def copy(self) -> Graph:
        """A graph that can be rewritten without changing this one; arrays and nodes are shared."""
        return Graph(self.name, self.inputs, self.outputs, list(self.nodes), dict(self.constants), dict(self.types))

    def producers(self) -> dict[str, Node]:
        """The node that makes each value; inputs and constants have none."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    def users(self) -> dict[str, list[Node]]:
        """The nodes that read each value, directly or inside a subgraph, in topological order."""
        users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node_reads(node)):
                users.setdefault(name, []).append(node)
        return users

    def fresh_name(self, stem: str) -> str:
        """A value name not used yet in this graph."""
        taken = {*self.inputs, *self.constants, *self.types, *(o for n in self.nodes for o in n.outputs)}
        name, count = stem, 0
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        return name

    def walk(self) -> Iterator[Graph]:
        """This graph and every graph inside its nodes, outermost first."""
        yield self
        for node in self.nodes:
            for body in node.subgraphs():
                yield from body.walk()

    def captures(self) -> tuple[str, ...]:
        """Names used here (or in subgraphs) that an enclosing graph must define, in order of first use."""
        known = {*self.inputs, *self.constants}
        outer: dict[str, None] = {}
        for node in self.nodes:
            outer.update((name, None) for name in node_reads(node) if name not in known)
            known.update(node.outputs)
        outer.update((name, None) for name in self.outputs if name not in known)
        return tuple(outer)


def node_reads(node: Node) -> Iterable[str]:
    """Every value that ``node`` needs: its inputs, and what its subgraphs capture."""
    yield from filter(None, node.inputs)
    for graph in node.bodies:
        yield from graph.captures()
