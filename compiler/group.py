"""A group: the nodes that become one kernel."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import Node


@dataclass(frozen=True)
class Group:
    """``anchor`` makes the loops; nodes before it compute its inputs element by element on the way in (prologue), nodes after it are
    pointwise on its output on the way out (epilogue). ``inputs`` and ``outputs`` are the values that cross the group's border."""

    nodes: tuple[Node, ...]
    anchor: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def prologue(self) -> tuple[Node, ...]:
        return self.nodes[: self.nodes.index(self.anchor)]

    @property
    def epilogue(self) -> tuple[Node, ...]:
        return self.nodes[self.nodes.index(self.anchor) + 1 :]

    @property
    def title(self) -> str:
        """The operators, in order: ``Conv+Add+Relu``."""
        return "+".join(node.op for node in self.nodes)

    @property
    def node_names(self) -> str:
        return " + ".join(node.name or node.outputs[0] for node in self.nodes)

    def __str__(self) -> str:
        return f"{self.title}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}"
