"""Binding a graph to one set of input shapes: shapes inferred node by node, everything that depends on nothing but shapes folded away.

    Shape(x) -> [1, 3, 224, 224] -> Gather -> Concat -> Reshape(y, [1, -1])     becomes     Reshape(y, [1, -1])

What cannot be planned yet, because it needs a value that only data gives (the count of NonZero, the condition of a Loop), is left over
as the ``rest``: another graph, whose inputs are values of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ..ir import dtypes, graph_interpreter
from ..ir.errors import ModelError
from ..ir.graph import Graph, Node, TensorType, Type, node_reads
from .ops.infer import InferContext
from .ops.registry import OpDef, lookup

FOLD_LIMIT = 1 << 22
"""Elements above which a constant result is computed at run time instead of being kept."""

CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators with subgraphs: run by the host where they cannot be resolved while planning."""
RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"})


@dataclass(frozen=True)
class Specialized:
    """``graph``: the part that can be planned, all types concrete. ``rest``: nodes left over, in order, with what they refer to."""

    graph: Graph
    rest: Graph | None


def specialize(graph: Graph, inputs: Mapping[str, np.ndarray | object], known: frozenset[str]) -> Specialized:
    """Binds ``graph`` to the shapes of ``inputs``, and to the values of those named in ``known``."""
    return _Specializer(graph, inputs, known).run()


def value_inputs(graph: Graph) -> frozenset[str]:
    """The graph inputs whose values decide shapes or control flow: small integers that reach, through foldable arithmetic, an input whose
    value planning needs. A float input counts when it is itself such an input (Resize's scales)."""
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        definition = lookup(node.domain, node.op)
        if node.op in ("If", "Loop"):
            wanted.update(name for name in node.inputs[:2] if name)
        for i in definition.values if definition else ():
            if i < len(node.inputs) and node.inputs[i]:
                wanted.add(node.inputs[i])
        if any(output in wanted for output in node.outputs) and node.op not in ("Shape", "Size"):
            wanted.update(node.inputs)
        for body in node.subgraphs():
            captured = value_inputs(Graph(body.name, body.captures(), body.outputs, body.nodes, body.constants, body.types))
            wanted.update(captured)
    return frozenset(name for name in graph.inputs if name in wanted and _small(graph.types.get(name)))


def _small(kind: Type | None) -> bool:
    if not isinstance(kind, TensorType) or kind.shape is None or len(kind.shape) > 1:
        return False
    if kind.dtype.is_float:
        return len(kind.shape) == 1 or kind.shape == ()
    return kind.dtype.is_numeric


@dataclass
class _Specializer:
    source: Graph
    inputs: Mapping[str, object]
    known: frozenset[str]
    types: dict[str, Type] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    later: list[Node] = field(default_factory=list)
    unavailable: set[str] = field(default_factory=set)

    def run(self) -> Specialized:
        graph = self.source
        for name, array in graph.constants.items():
            self.define(name, array)
        for name in graph.inputs:
            value = self.inputs[name]
            if not isinstance(value, np.ndarray):
                self.types[name] = graph.types[name]
            elif name in self.known:
                self.define(name, value)
            else:
                self.types[name] = TensorType(dtypes.from_numpy(value.dtype), value.shape)
        self.visit(graph.nodes)
        return self.split()

    def define(self, name: str, array: np.ndarray) -> None:
        self.constants[name] = array
        self.types[name] = TensorType(dtypes.from_numpy(array.dtype), array.shape)

    def visit(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if any(name in self.unavailable for name in node_reads(node)) or not self.place(node):
                self.later.append(node)
                self.unavailable.update(o for o in node.outputs if o)

    def place(self, node: Node) -> bool:
        """Folds a node, or takes it into the plan; False when it must wait."""
        if node.op == "If" and node.inputs[0] in self.constants:
            return self.inline(node)
        definition = lookup(node.domain, node.op)
        if node.op in CONTROL or definition is None or definition.kind == "host":
            return False
        if not all(isinstance(self.types.get(name), TensorType) for name in node.inputs if name):
            return False
        if any(i < len(node.inputs) and node.inputs[i] and node.inputs[i] not in self.constants for i in definition.values):
            return False
        return self.fold(node) or self.infer(node, definition)

    def fold(self, node: Node) -> bool:
        if node.op in ("Shape", "Size"):
            kind = self.types[node.inputs[0]]
            assert isinstance(kind, TensorType) and kind.static_shape is not None
            shape = np.array(kind.static_shape, np.int64)
            if node.op == "Size":
                self.define(node.outputs[0], np.array(prod(kind.static_shape), np.int64))
            else:
                start, end = node.attrs.get("start", 0), node.attrs.get("end")
                self.define(node.outputs[0], shape[slice(start, end)])  # type: ignore[arg-type]
            return True
        if node.op in RANDOM or not all(name in self.constants for name in node.inputs if name):
            return False
        if sum(self.constants[name].size for name in node.inputs if name) > FOLD_LIMIT or not node.inputs and node.op != "Constant":
            return False
        if self._expands(node):
            return False
        try:
            results = graph_interpreter.evaluate(node, [self.constants[name] if name else None for name in node.inputs])
        except Exception as error:
            raise ModelError(f"{node}: cannot be computed from its constant inputs: {error}") from error
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                assert isinstance(value, np.ndarray | np.generic)
                self.define(name, np.asarray(value))
        return True

    def _expands(self, node: Node) -> bool:
        """Whether folding would make a large array out of a small one."""
        if node.op in ("ConstantOfShape", "Expand", "Tile"):
            extents = self.constants[node.inputs[-1]]
            count = prod(int(v) for v in extents.reshape(-1))
            return count * (self.constants[node.inputs[0]].size if node.op == "Tile" else 1) > FOLD_LIMIT // 16
        return False

    def inline(self, node: Node) -> bool:
        """If(constant, a, b) => the branch taken, under the node's output names."""
        taken = bool(np.asarray(self.constants[node.inputs[0]]).reshape(-1)[0])
        body = node.attrs["then_branch" if taken else "else_branch"]
        assert isinstance(body, Graph)
        for name, array in body.constants.items():
            self.define(name, array)
        self.visit(body.nodes)
        renames = [
            Node("Identity", (inner,), (outer,), name=node.name) for inner, outer in zip(body.outputs, node.outputs, strict=True) if outer
        ]
        self.visit(renames)
        return True

    def infer(self, node: Node, definition: OpDef) -> bool:
        types = tuple(self.types[name] if name else None for name in node.inputs)
        values = tuple(self.constants.get(name) if name else None for name in node.inputs)
        found = definition.infer(InferContext(node, types, values))
        if any(isinstance(t, TensorType) and t.dtype.kind == "string" for t in (*types, *(found if isinstance(found, list) else [found]))):
            return False
        for name, kind in zip(node.outputs, found if isinstance(found, list) else [found], strict=False):
            if name:
                self.types[name] = kind
        self.nodes.append(node)
        return True

    def split(self) -> Specialized:
        """The planned part with every value that somebody needs as its output, and the rest."""
        made = {o for node in self.nodes for o in node.outputs if o}
        wanted = dict.fromkeys(name for name in self.source.outputs if name not in self.unavailable)
        if self.later:
            later_reads = dict.fromkeys(name for node in self.later for name in node_reads(node))
            wanted.update((name, None) for name in later_reads if name in made or name in self.source.inputs)
        graph = Graph(self.source.name, self.source.inputs, tuple(wanted), self.nodes, self.constants, self.types)
        if not self.later:
            return Specialized(graph, None)
        constants = {
            name: self.constants[name]
            for name in (*(r for node in self.later for r in node_reads(node)), *self.source.outputs)
            if name in self.constants and name not in wanted
        }
        inputs = tuple(name for name in wanted)
        types = {**self.types}
        rest = Graph(self.source.name, inputs, self.source.outputs, self.later, constants, types)
        return Specialized(graph, rest)
