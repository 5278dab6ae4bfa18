"""A graph while it is rewritten: who makes each value, how often it is read, what it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ...ir import dtypes
from ...ir.dtypes import DType
from ...ir.graph import Dim, Graph, Node, TensorType, Type, node_reads
from ..frontend.names import Names
from .names import fresh_names, rename_captures


class View:
    """Answers what rules ask about ``graph``, and keeps the answers true as nodes are replaced."""

    def __init__(self, graph: Graph, root: Graph):
        self.graph = graph
        self._root = root
        self._names: Names | None = None
        self._kept: list[Node] = []
        self._dead: set[int] = set()
        self._alias: dict[str, str] = {}
        self._outputs = frozenset(graph.outputs)
        self._makers: dict[str, Node] = {}
        self._reads: dict[str, int] = dict.fromkeys(graph.outputs, 1)
        for node in graph.nodes:
            self._count(node, 1)

    # --- what rules ask ----------------------------------------------------------------------------------------------

    def maker(self, name: str, *ops: str, domain: str = "") -> Node | None:
        """The node that makes ``name``, when its operator is one of ``ops`` of ``domain``."""
        node = self._makers.get(name)
        return node if node is not None and node.op in ops and node.domain == domain else None

    def read_once(self, name: str) -> bool:
        """True when a single input of a single node reads ``name``."""
        return self._reads.get(name, 0) == 1

    def reads(self, name: str) -> int:
        """How many inputs of nodes read ``name``; being a graph output counts as one."""
        return self._reads.get(name, 0)

    def is_read(self, name: str) -> bool:
        return bool(name) and self._reads.get(name, 0) > 0

    def must_copy(self, value: str) -> bool:
        """True when a graph output cannot simply be another name of ``value``: no node makes it, or it is an output itself."""
        return value not in self._makers or value in self._outputs

    def constant(self, name: str) -> np.ndarray | None:
        """The array that ``name`` always is, None when it is computed."""
        return self.graph.constants.get(name)

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one number."""
        array = self.graph.constants.get(name)
        if array is None or array.size != 1 or array.dtype.kind not in "fiubV":
            return None
        return float(array.reshape(()))

    def ints(self, name: str) -> tuple[int, ...] | None:
        """The values of a constant of integers."""
        array = self.graph.constants.get(name)
        return None if array is None or array.dtype.kind not in "iu" else tuple(array.reshape(-1).tolist())

    def type(self, name: str) -> Type | None:
        array = self.graph.constants.get(name)
        if array is not None:
            return TensorType(dtypes.from_numpy(array.dtype), array.shape)
        return self.graph.types.get(name)

    def dtype(self, name: str) -> DType | None:
        found = self.type(name)
        return found.dtype if isinstance(found, TensorType) else None

    def dims(self, name: str) -> tuple[Dim, ...] | None:
        """The extents, numbers or names, when the rank is known."""
        found = self.type(name)
        return found.shape if isinstance(found, TensorType) else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The extents when all are numbers."""
        found = self.type(name)
        return found.static_shape if isinstance(found, TensorType) else None

    def rank(self, name: str) -> int | None:
        dims = self.dims(name)
        return None if dims is None else len(dims)

    # --- what rules make ---------------------------------------------------------------------------------------------

    def new_constant(self, array: np.ndarray, stem: str) -> str:
        name = self.new_value(stem, None)
        self.graph.constants[name] = np.asarray(array)
        return name

    def new_value(self, stem: str, found: Type | None) -> str:
        """A name for an intermediate value of type ``found``."""
        if self._names is None:
            self._names = fresh_names(self._root, self.graph)
        name = self._names.unique(stem)
        if found is not None:
            self.graph.types[name] = found
        return name

    # --- what the sweep does -----------------------------------------------------------------------------------------

    def resolve(self, node: Node) -> Node:
        """``node`` with values that became names of others replaced."""
        if not self._alias:
            return node
        if any(name in self._alias for name in node.inputs):
            node = node.replace(inputs=tuple(self._alias.get(name, name) for name in node.inputs))
        return rename_captures(node, self._alias) if node.bodies else node

    def is_unused(self, node: Node) -> bool:
        return not any(self._reads.get(name) for name in node.outputs)

    def keep(self, node: Node) -> None:
        self._kept.append(node)
        for name in node.outputs:
            self._makers[name] = node

    def drop(self, node: Node) -> None:
        """``node`` is not needed any more: neither is what only it reads."""
        self._count(self.resolve(node), -1)

    def replaced(self, node: Node, nodes: Sequence[Node], aliases: Mapping[str, str]) -> None:
        """``nodes`` and ``aliases`` stand for ``node``."""
        for made in nodes:
            self._count(made, 1)
        for name, value in aliases.items():
            if name in self._outputs:
                self._name_output(name, value)
            else:
                self._alias[name] = value
                self._reads[value] = self._reads.get(value, 0) + self._reads.pop(name, 0)
        self._count(node, -1)

    def finish(self) -> None:
        """Write the nodes that are left to the graph."""
        self.graph.nodes = [node for node in self._kept if id(node) not in self._dead]

    def _name_output(self, name: str, value: str) -> None:
        """The graph output ``name`` is ``value``: rename what makes it, or else copy."""
        if self.must_copy(value):
            node = Node("Identity", (value,), (name,))
            self._count(node, 1)
            self._kept.append(node)
            self._makers[name] = node
            return
        names = {value: name}
        self._kept = [_renamed(node, names) for node in self._kept if id(node) not in self._dead]
        self._makers = {output: node for node in self._kept for output in node.outputs}
        self._alias = {old: names.get(new, new) for old, new in self._alias.items()} | names
        self._reads[name] = self._reads.get(name, 0) + self._reads.pop(value, 0)

    def _count(self, node: Node, change: int) -> None:
        for name in node_reads(node):
            name = self._alias.get(name, name)
            left = self._reads[name] = self._reads.get(name, 0) + change
            if left == 0 and change < 0:
                self._unread(name)

    def _unread(self, name: str) -> None:
        """Nothing reads ``name`` any more: what makes it goes, and a constant's memory, which the next one may have."""
        self.graph.constants.pop(name, None)
        maker = self._makers.get(name)
        if maker is not None and id(maker) not in self._dead and self.is_unused(maker):
            self._dead.add(id(maker))
            self._count(maker, -1)


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    def apply(values: Iterable[str]) -> tuple[str, ...]:
        return tuple(names.get(value, value) for value in values)

    if not names.keys().isdisjoint((*node.inputs, *node.outputs)):
        node = node.replace(inputs=apply(node.inputs), outputs=apply(node.outputs))
    return rename_captures(node, names) if node.bodies else node
